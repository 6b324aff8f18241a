//! Senders that adapt: a bottleneck brings them down to a clip that fits, and they come back when it is gone.

use crate::sim::{Network, Sim, encoding};
use roomful::impair::{Conditions, Link, Queue, Rate};
use roomful::measure::FlowCounters;
use roomful::types::{Client, Codec};
use std::time::Duration;

const CLEAN: Network = [Conditions::PERFECT, Conditions::PERFECT];
const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Wide, then 400 kbit/s.
fn narrow_after(after: Duration) -> Network {
    let rate = Rate { bits_per_s: 400_000, queue: Queue::Time(Duration::from_millis(200)) };
    [Conditions { rate: Some(rate), after, ..Conditions::default() }, Conditions::PERFECT]
}

/// One sender behind the network, and one who watches it.
fn watched(seed: u64, client: Client, codec: Codec, network: Network, adapts: bool) -> Sim {
    let mut sim = Sim::new(seed, client, Duration::from_millis(15));
    if adapts {
        sim.steps = vec![encoding(codec, 150)];
    }
    sim.join(Some(encoding(Codec::Opus, 32)), Some(encoding(codec, 500)), 0, network);
    sim.join(None, None, 1, CLEAN);
    sim
}

/// What was sent and received of the video in so many seconds.
fn run(sim: &mut Sim, seconds: u64) -> [FlowCounters; 2] {
    let before = [0, 1].map(|n| sim.members[n].counts[1]);
    sim.run(SECONDS(seconds));
    [0, 1].map(|n| sim.members[n].counts[1] - before[n])
}

/// What is under way at the ends of the interval leaves some per mille.
fn loss(c: &FlowCounters) -> f64 {
    c.e2e_loss().unwrap()
}

#[test]
fn a_bottleneck_brings_senders_down_and_loss_with_them() {
    for seed in 0..4 {
        let codec = [Codec::Vp8, Codec::H264][seed as usize % 2];
        let mut sim = watched(seed, Client::Chrome, codec, narrow_after(SECONDS(10)), true);
        let [sent, seen] = run(&mut sim, 10);
        assert_eq!((sent.steps_down, sent.below_ms), (0, 0), "{seed}: room enough: {sent:?}");
        assert!(sent.adaptive_ms > 9_000, "{seed}: {sent:?}");
        assert!(loss(&seen) < 0.005, "{seed}: {seen:?}");
        let [sent, _] = run(&mut sim, 4);
        assert_eq!((sent.steps_down, sent.steps_up), (1, 0), "{seed}: {sent:?}");
        let [sent, seen] = run(&mut sim, 60);
        assert!((1..=5).contains(&sent.steps_up), "{seed}: tries: {sent:?}");
        assert!(sent.below_ms > sent.adaptive_ms * 8 / 10, "{seed}: {sent:?}");
        assert!(loss(&seen) < 0.02, "{seed}: {seen:?}");
        assert_eq!((seen.duplicate, seen.malformed, seen.foreign_stamps), (0, 0, 0));

        // The bottleneck is gone.
        sim.members[0].links[0] = Link::new(Conditions::PERFECT, [0; 32]);
        run(&mut sim, 75);
        let [sent, seen] = run(&mut sim, 20);
        assert_eq!((sent.below_ms, sent.steps_down), (0, 0), "{seed}: back for good: {sent:?}");
        assert!(loss(&seen) < 0.005, "{seed}: {seen:?}");
        assert!(seen.frames > 590, "{seed}: {seen:?}");
    }
}

/// The injected fault, and the default: who does not adapt goes on to lose.
#[test]
fn without_adaptation_loss_stays() {
    let mut sim = watched(1, Client::Chrome, Codec::Vp8, narrow_after(SECONDS(5)), false);
    run(&mut sim, 10);
    let [sent, seen] = run(&mut sim, 20);
    assert_eq!((sent.adaptive_ms, sent.steps_down), (0, 0));
    assert!(loss(&seen) > 0.15, "{seen:?}");
}

/// This client has no transport-wide feedback: receiver reports alone bring it down.
#[test]
fn receiver_reports_are_enough_to_go_down_and_come_back() {
    let mut sim = watched(5, Client::Light, Codec::H264, narrow_after(SECONDS(5)), true);
    run(&mut sim, 5);
    let [sent, _] = run(&mut sim, 12);
    assert!(sent.steps_down >= 1, "{sent:?}");
    assert_eq!(sent.twcc_received, 0);
    sim.members[0].links[0] = Link::new(Conditions::PERFECT, [0; 32]);
    run(&mut sim, 60);
    let [sent, seen] = run(&mut sim, 10);
    assert_eq!(sent.below_ms, 0, "{sent:?}");
    assert!(loss(&seen) < 0.005, "{seen:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let counts = |seed| {
        let mut sim = watched(seed, Client::Chrome, Codec::Vp8, narrow_after(SECONDS(2)), true);
        sim.run(SECONDS(25));
        [0, 1].map(|n| sim.members[n].counts)
    };
    assert_eq!(counts(6), counts(6));
    assert_ne!(counts(6), counts(7));
}
