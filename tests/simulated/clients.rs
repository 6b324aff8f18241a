//! Clients behave as their presets say, and what they leave out on purpose is neither loss nor silence.

use crate::sim::{Network, Sim, encoding, loses};
use roomful::impair::Conditions;
use roomful::participant::TalkSpec;
use roomful::types::{Client, Codec, Encoding};
use std::time::Duration;

const CLEAN: Network = [Conditions::PERFECT, Conditions::PERFECT];
const MS: fn(u64) -> Duration = Duration::from_millis;

fn opus() -> Option<Encoding> {
    Some(encoding(Codec::Opus, 32))
}

/// A way back that loses this share of the packets.
fn down(share: f64) -> Network {
    [CLEAN[0], loses(share)]
}

fn end(sim: &mut Sim) {
    let all = sim.members.len();
    (0..all).for_each(|n| sim.quiet(n));
    sim.run(MS(2500));
    for n in 0..all {
        sim.leave(n);
    }
    sim.run(MS(200));
}

/// Redundant audio brings back each packet whose successor arrives.
#[test]
fn redundancy_recovers_what_the_link_drops() {
    for seed in 0..3 {
        let mut sim = Sim::new(seed, Client::LivekitJs, MS(15));
        let lossy = down(0.05);
        sim.join(opus(), None, 1, CLEAN);
        sim.join(opus(), None, 1, lossy);
        sim.run(Duration::from_secs(60));
        end(&mut sim);
        let c = &sim.members[1].counts[0];
        let before = 1.0 - c.rtp_received as f64 / c.rtp_expected as f64;
        assert!((0.03..0.07).contains(&before), "{before} {c:?}");
        assert!(c.recovered > 60, "{c:?}");
        // Two in a row lose the first: 5 % of 5 %.
        let left = c.e2e_loss().unwrap();
        assert!(left < 0.006, "{left} {c:?}");
        assert_eq!(c.e2e_expected - c.e2e_received, c.rtp_expected - c.rtp_received - c.recovered, "{c:?}");
        assert_eq!((c.duplicate, c.malformed, c.foreign_stamps, c.unstamped), (0, 0, 0, 0), "{c:?}");
        let clean = &sim.members[0].counts[0];
        assert_eq!((clean.recovered, clean.e2e_expected), (0, clean.e2e_received), "{clean:?}");
    }
}

/// Who talks when comes from the room's seed, and silence that nobody sends is no loss, no gap and no silence.
#[test]
fn a_conversation_with_dtx_has_neither_loss_nor_gaps() {
    for (client, dtx) in [(Client::LivekitJs, true), (Client::Chrome, false)] {
        let mut sim = Sim::new(11, client, MS(20));
        for seat in 0..3 {
            sim.talk = TalkSpec { floor: Some((77, 3, seat)), epoch: Some(sim.start), mutes: None };
            sim.join(opus(), None, 2, CLEAN);
        }
        sim.run(Duration::from_secs(40));
        end(&mut sim);
        for (n, m) in sim.members.iter().enumerate() {
            let c = &m.counts[0];
            assert_eq!(c.e2e_expected, c.e2e_received, "{n}: {c:?}");
            assert_eq!(c.rtp_expected, c.rtp_received, "{n}: {c:?}");
            assert!(m.flows[0].silence_max_ms < 100, "{n}: {} ms", m.flows[0].silence_max_ms);
            let gap = m.totals.as_ref().unwrap().longest_gap.0;
            assert!(gap < 100.0, "{n}: gap of {gap} ms");
            // 2000 slots; with DTX those of speech, some of silence around it, and comfort noise.
            if dtx {
                assert!((400..1600).contains(&c.sent), "{n}: {c:?}");
            } else {
                assert!(c.sent > 1950, "{n}: {c:?}");
            }
        }
    }
}

/// The same room where the link does drop: it still shows.
#[test]
fn loss_within_a_conversation_is_loss() {
    let mut sim = Sim::new(12, Client::LivekitJs, MS(20));
    for seat in 0..2 {
        sim.talk = TalkSpec { floor: Some((5, 2, seat)), epoch: Some(sim.start), mutes: None };
        let links = if seat == 1 { down(0.3) } else { CLEAN };
        sim.join(opus(), None, 1, links);
    }
    sim.run(Duration::from_secs(60));
    end(&mut sim);
    let c = &sim.members[1].counts[0];
    assert!(c.recovered > 100, "{c:?}");
    let left = c.e2e_loss().unwrap();
    assert!((0.05..0.14).contains(&left), "30 % of 30 %: {left} {c:?}");
    assert!(sim.members[1].flows[0].silence_max_ms > 40);
}

#[test]
fn mutes_are_no_loss_whatever_the_client_sends_meanwhile() {
    for client in Client::ALL {
        let mut sim = Sim::new(13, client, MS(20));
        for seat in 0..3 {
            let mutes = Some((100 + seat, Duration::from_secs(4), Duration::from_secs(3)));
            sim.talk = TalkSpec { floor: None, epoch: Some(sim.start), mutes };
            sim.join(opus(), None, 2, CLEAN);
        }
        sim.run(Duration::from_secs(60));
        end(&mut sim);
        let sent: i64 = sim.members.iter().map(|m| m.counts[0].sent).sum();
        match client {
            Client::Chrome => assert!(sent > 8900, "silence is sent: {sent}"),
            Client::LivekitJs | Client::Light => assert!((2500..7500).contains(&sent), "{client:?} {sent}"),
        }
        for (n, m) in sim.members.iter().enumerate() {
            let c = &m.counts[0];
            assert!(c.e2e_expected > 1000, "{n}: {c:?}");
            assert_eq!(c.e2e_expected, c.e2e_received, "{client:?} {n}: {c:?}");
            assert!(m.flows[0].silence_max_ms < 100, "{client:?} {n}: {} ms", m.flows[0].silence_max_ms);
            let gap = m.totals.as_ref().unwrap().longest_gap.0;
            assert!(gap < 100.0, "{client:?} {n}: gap of {gap} ms");
        }
    }
}

/// Each preset gets lost video again from a server that resends by RTX only.
#[test]
fn every_client_has_its_video_repaired() {
    for client in Client::ALL {
        let mut sim = Sim::new(14, client, MS(15));
        sim.join(opus(), Some(encoding(Codec::Vp8, 500)), 1, CLEAN);
        sim.join(opus(), Some(encoding(Codec::Vp8, 500)), 1, down(0.05));
        sim.run(Duration::from_secs(20));
        end(&mut sim);
        let v = &sim.members[1].counts[1];
        assert!(v.nacks_sent > 10 && v.recovered > 30, "{client:?} {v:?}");
        assert!(v.e2e_loss().unwrap() < 0.005, "{client:?} {v:?}");
    }
}
