//! A room that goes to another server: a second transport beside the first, then everybody switches.

use crate::sim::{Sim, encoding};
use roomful::impair::Conditions;
use roomful::participant::Totals;
use roomful::types::{Client, Codec};
use std::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;
/// Most packets of a frame at 500 kbit/s, a key frame.
const FRAME_PACKETS: i64 = 12;
const CLEAN: [Conditions; 2] = [Conditions::PERFECT; 2];

fn room_of_three(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, Client::Chrome, MS(20));
    for _ in 0..3 {
        sim.join(Some(encoding(Codec::Opus, 32)), Some(encoding(Codec::Vp8, 500)), 2, CLEAN);
        sim.run(MS(130));
    }
    sim.run(MS(3000));
    sim
}

/// Second transports for these, who switch `after` the first of them is up, each `apart` from the one before.
fn switch(sim: &mut Sim, who: &[usize], apart: Duration) {
    for n in who {
        assert_eq!(sim.open_second(*n, 2), 1);
    }
    sim.run(MS(700));
    for n in who {
        sim.with(*n, |p, w| p.switch(w, 1)).unwrap();
        sim.run(apart);
    }
    sim.run(MS(1000));
    who.iter().for_each(|n| sim.close(*n, 0));
}

/// Everybody stops and leaves; silences after that are none of the move's.
fn end(sim: &mut Sim) -> Vec<Totals> {
    (0..3).for_each(|n| sim.quiet(n));
    let quiet_ns = sim.now_ns();
    sim.run(MS(2500));
    let left = |n| {
        let mut totals = sim.leave(n);
        totals.silences.retain(|s| s.from_ns + 100_000_000 < quiet_ns);
        totals
    };
    (0..3).map(left).collect()
}

#[test]
fn everybody_switches_and_nobody_misses_a_packet() {
    for seed in 1..=5 {
        let mut sim = room_of_three(seed);
        switch(&mut sim, &[0, 1, 2], MS(0));
        let before: Vec<i64> = sim.members.iter().map(|m| m.counts[0].e2e_received).collect();
        sim.run(MS(6000));
        for (m, before) in sim.members.iter().zip(before) {
            assert!(m.counts[0].e2e_received > before + 500, "{seed}: two others at 50 packets a second");
        }
        for (n, t) in end(&mut sim).iter().enumerate() {
            let who = format!("seed {seed}, {n}: {t:?}");
            for c in [&t.audio, &t.video] {
                assert!(c.e2e_expected > 900, "{who}");
                // Sequence numbers begin anew with each server, and that is no loss.
                assert_eq!((c.rtp_expected, c.duplicate, c.auth_failed), (c.rtp_received, 0, 0), "{who}");
                assert_eq!(c.freezes, 0, "{who}");
            }
            assert_eq!(t.audio.e2e_expected, t.audio.e2e_received, "{who}");
            // Over a switch the end-to-end count misses up to a frame of each sender (docs/measurement.md); all packets came,
            // as the count above shows.
            let uncounted = t.video.e2e_expected - t.video.e2e_received;
            assert!((0..=2 * FRAME_PACKETS).contains(&uncounted), "{who}");
            assert!(t.longest_gap.0 < 150.0 && t.silences.is_empty() && t.flow_gaps.is_empty(), "{who}");
        }
        assert_eq!(sim.sfu.stats().participants, 0, "nobody is left on either server");
    }
}

#[test]
fn who_switches_late_is_missed_for_as_long() {
    let mut sim = room_of_three(9);
    // The one who stays behind for two seconds is heard by nobody who has gone, and hears nobody.
    switch(&mut sim, &[0, 1], MS(0));
    sim.run(MS(1000));
    switch(&mut sim, &[2], MS(0));
    sim.run(MS(3000));
    let totals = end(&mut sim);
    for (n, t) in totals.iter().enumerate() {
        // They hear it until they close the old way, 1000 ms after their switch; then 1000 ms, and 700 ms until it switches.
        // It hears nobody from their switch on until its new transport is up, after 2000 ms.
        let gap = t.longest_gap.0;
        let expected = if n == 2 { 2000.0..2500.0 } else { 1700.0..2000.0 };
        assert!(expected.contains(&gap), "{n}: {gap}");
        assert!(t.audio.e2e_received < t.audio.e2e_expected, "{n}: {:?}", t.audio);
    }
    let silent = &totals[2].silences;
    assert!(matches!(silent[..], [s] if (2000..2500).contains(&((s.until_ns - s.from_ns) / 1_000_000))), "{silent:?}");
    assert!(totals[0].silences.is_empty(), "it heard the other one");
    assert_eq!(totals[0].flow_gaps.iter().filter(|g| g.from.0 == 2).count(), totals[0].flow_gaps.len());
}
