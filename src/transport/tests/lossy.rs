//! Handshakes through random loss: none fails that could succeed.

use super::super::*;
use super::link::*;
use std::time::Instant;

const HANDSHAKES: u32 = 1000;

/// Connects pairs in both roles through loss each way; returns the time of each in ms, sorted.
fn handshakes(loss: f64) -> Vec<u128> {
    let shared = Shared::new(GCM, Timing::default()).unwrap();
    let (start, allow) = (Instant::now(), allow());
    let mut times: Vec<u128> = (0..HANDSHAKES)
        .map(|i| {
            let make = |n| Transport::new(start, &shared, &allow, address(n), u64::from(i)).unwrap();
            let mut p = unstarted(start, make(1), make(2));
            p.loss = loss;
            p.random = Random(u64::from(i) + 1);
            describe(&mut p, i % 2 == 0);
            let done = p.run_until(Duration::from_secs(20), |a, b| a.may_send() && b.may_send());
            assert!(done, "handshake {i} at loss {loss}: {:?} {:?}", events(&mut p.a), events(&mut p.b));
            (p.now - p.started).as_millis()
        })
        .collect();
    times.sort_unstable();
    times
}

#[test]
fn at_5_percent_each_way() {
    let times = handshakes(0.05);
    assert!(times[times.len() / 2] < 300, "median {} ms", times[times.len() / 2]);
}

#[test]
fn at_20_percent_each_way() {
    let times = handshakes(0.2);
    assert!(times[times.len() / 2] < 1000, "median {} ms", times[times.len() / 2]);
}

#[test]
fn a_lost_last_flight_is_sent_again_when_the_peer_repeats_its_own() {
    // b is client; a's last flight (its Finished) is lost four times after a has keys.
    for slim in [false, true] {
        let mut p = pair([GCM, GCM], true);
        assert!(p.run_until(Duration::from_secs(1), |a, _| a.is_keyed()));
        let mut lost = 0;
        let end = p.now + Duration::from_secs(10);
        while lost < 4 {
            while let Some((_, d)) = Transport::poll_transmit(&mut p.a) {
                lost += u32::from((20..=63).contains(&d[0]));
            }
            if slim {
                // Far enough for a to have given its handshake's memory back.
                p.run_consent_of_a();
            }
            assert!(p.step(end), "b gave up after {lost} lost flights");
        }
        assert!(!p.b.is_keyed());
        assert!(p.run_until(Duration::from_secs(10), |_, b| b.is_keyed()), "slim {slim}");
    }
}

impl Pair {
    /// Answers a's consent check out of turn, so that it lives on although its packets are swallowed.
    fn run_consent_of_a(&mut self) {
        self.a.handle_timeout(self.now);
    }
}
