//! Simulcast: a server that switches layers loses nothing by it, and every switch is counted.

use crate::sim::{Network, Sim, encoding, loses};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use roomful::impair::Conditions;
use roomful::types::{Client, Codec, Simulcast};
use std::time::Duration;

const CLEAN: Network = [Conditions::PERFECT, Conditions::PERFECT];
const MS: fn(u64) -> Duration = Duration::from_millis;

/// A room with one sender in three layers, watched by receivers on these networks.
fn watched(seed: u64, client: Client, codec: Codec, receivers: &[Network]) -> Sim {
    watched_by(seed, client, Simulcast::Rid, codec, receivers)
}

fn watched_by(seed: u64, client: Client, simulcast: Simulcast, codec: Codec, receivers: &[Network]) -> Sim {
    let mut sim = Sim::new(seed, client, MS(15));
    sim.layers_by(simulcast);
    sim.lower_layers = vec![encoding(codec, 150), encoding(codec, 500)];
    sim.join(None, Some(encoding(codec, 1500)), 0, CLEAN);
    for network in receivers {
        sim.join(None, None, 1, *network);
    }
    sim
}

/// What is in flight lands, everybody leaves: then counts are exact.
fn end(sim: &mut Sim) {
    let all = sim.members.len();
    (0..all).for_each(|n| sim.quiet(n));
    sim.run(MS(2500));
    for n in 0..all {
        sim.leave(n);
    }
    sim.run(MS(200));
}

#[test]
fn switches_are_counted_and_are_no_loss() {
    for seed in 0..8 {
        let client = Client::ALL[seed as usize % Client::ALL.len()];
        let codec = [Codec::Vp8, Codec::H264][seed as usize % 2];
        let simulcast = Simulcast::ALL[seed as usize / 2 % 2];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sim = watched_by(seed, client, simulcast, codec, &[CLEAN, CLEAN]);
        sim.run(Duration::from_secs(5));
        // From here on nothing but what we ask for: the best layer is there, and found.
        let before = sim.members[2].counts[1].layer_switches;
        let still = sim.members[1].counts[1].layer_switches;
        let mut layer = 2;
        let mut switches = 0;
        for _ in 0..rng.random_range(4..9) {
            let next = rng.random_range(0..3);
            sim.limit_layers(2, next);
            switches += i64::from(next != layer);
            layer = next;
            sim.run(MS(rng.random_range(2000..3500)));
        }
        end(&mut sim);
        let sent = sim.members[0].counts[1].sent;
        assert!(sim.sfu.stats().layer_switches as i64 >= switches, "{seed}: {:?}", sim.sfu.stats());
        for n in [1, 2] {
            let m = &sim.members[n];
            let c = &m.counts[1];
            assert!(c.e2e_expected > 500, "{seed} {n}: {c:?}");
            assert_eq!(c.e2e_expected, c.e2e_received, "{seed} {n}: {c:?}");
            assert_eq!(c.rtp_expected, c.rtp_received, "{seed} {n}: {c:?}");
            assert!(c.received < sent * 3 / 4, "one layer of three: {c:?} of {sent}");
            assert_eq!((c.duplicate, c.foreign_stamps, c.malformed), (0, 0, 0), "{seed} {n}: {c:?}");
            assert_eq!(c.freezes, 0, "{seed} {n}: a switch is no freeze: {c:?}");
            let gap = m.totals.as_ref().unwrap().longest_gap.0;
            assert!(gap < 150.0, "{seed} {n}: a switch is no gap: {gap} ms");
            assert_eq!(m.first.len(), 1, "one sender, one first frame: {:?}", m.first);
            assert!(m.first[0].2.is_some_and(|ms| ms < 3000.0), "{:?}", m.first);
        }
        assert_eq!(sim.members[2].counts[1].layer_switches - before, switches, "{seed}");
        assert_eq!(sim.members[1].counts[1].layer_switches, still, "{seed}: nobody asked");
    }
}

/// The injected fault: where packets are really lost while layers are switched, loss shows.
#[test]
fn loss_among_switches_is_loss() {
    let mut sim = watched(3, Client::Light, Codec::Vp8, &[[CLEAN[0], loses(0.05)]]);
    for n in 0..10u8 {
        sim.limit_layers(1, [0, 2][usize::from(n % 2)]);
        sim.run(Duration::from_secs(3));
    }
    end(&mut sim);
    let c = &sim.members[1].counts[1];
    let lost = c.rtp_expected - c.rtp_received;
    assert!(lost as f64 / c.rtp_expected as f64 > 0.03, "{c:?}");
    assert!(c.layer_switches >= 8, "{c:?}");
    // All that the server forwarded was expected, but for the key frame that each layer began with, up to its stamp.
    let unseen = c.rtp_expected - c.e2e_expected;
    assert!((0..200).contains(&unseen), "{unseen}: {c:?}");
    let left = (c.rtp_expected - c.rtp_received - c.recovered) - (c.e2e_expected - c.e2e_received);
    assert!((0..=10).contains(&left), "{left}: {c:?}");
}

/// Lost packets of each layer come again on the SSRC that the group names for it.
#[test]
fn layers_of_an_ssrc_group_are_repaired() {
    for client in Client::ALL {
        let mut sim = Sim::new(6, client, MS(15));
        sim.layers_by(Simulcast::SsrcGroup);
        sim.lower_layers = vec![encoding(Codec::Vp8, 150), encoding(Codec::Vp8, 500)];
        sim.join(None, Some(encoding(Codec::Vp8, 1500)), 0, [loses(0.05), CLEAN[1]]);
        sim.join(None, None, 1, CLEAN);
        for layer in [2, 0, 1] {
            sim.limit_layers(1, layer);
            sim.run(Duration::from_secs(4));
        }
        end(&mut sim);
        let (sent, got) = (&sim.members[0].counts[1], &sim.members[1].counts[1]);
        assert!(sent.retransmitted > 30, "{client:?} {sent:?}");
        assert!(got.layer_switches >= 2 && got.e2e_expected > 500, "{client:?} {got:?}");
        assert!(got.e2e_loss().unwrap() < 0.01, "{client:?} {got:?}");
    }
}

/// A server whose answer has no simulcast gets one layer, the highest, and the report says so.
#[test]
fn a_server_that_takes_no_simulcast_gets_the_highest_layer() {
    for client in Client::ALL {
        let mut sim = Sim::new(5, client, MS(15));
        sim.refuses_simulcast = true;
        sim.lower_layers = vec![encoding(Codec::Vp8, 150), encoding(Codec::Vp8, 500)];
        sim.join(None, Some(encoding(Codec::Vp8, 1500)), 0, CLEAN);
        sim.join(None, None, 1, CLEAN);
        sim.run(Duration::from_secs(10));
        end(&mut sim);
        assert_eq!(sim.members[0].notes, ["simulcast_refused"], "{client:?}");
        assert_eq!(sim.members[1].notes, [""; 0], "{client:?}");
        let (sent, got) = (&sim.members[0].counts[1], &sim.members[1].counts[1]);
        // 1500 kbit/s for ten seconds, and nothing of the 650 beside it.
        let kbit = sent.sent_bytes as f64 * 8.0 / 1000.0 / 10.0;
        assert!((1300.0..1750.0).contains(&kbit), "{client:?}: {kbit} kbit/s");
        assert_eq!((got.layer_switches, got.freezes), (0, 0), "{client:?} {got:?}");
        assert!(got.e2e_expected > 900, "{client:?} {got:?}");
        assert_eq!(got.e2e_expected, got.e2e_received, "{client:?} {got:?}");
    }
}

/// Nothing comes down at all: the layer that was promised is missed.
#[test]
fn a_receiver_that_gets_no_layer_at_all_has_lost() {
    let mut sim = watched(4, Client::Chrome, Codec::Vp8, &[[CLEAN[0], loses(1.0)]]);
    sim.run(Duration::from_secs(15));
    end(&mut sim);
    let c = &sim.members[1].counts[1];
    assert!(c.e2e_expected > 200, "{c:?}");
    assert_eq!((c.e2e_received, c.layer_switches), (0, 0), "{c:?}");
}
