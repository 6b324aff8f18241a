//! Handshakes through random loss: none fails that could succeed.

use super::link::*;
use super::*;
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
            let mut p = without_replays(p);
            let done = p.run_until(Duration::from_secs(20), |a, b| a.peer.may_send() && b.peer.may_send());
            assert!(done, "handshake {i} at loss {loss}: {:?} {:?}", events(&mut p.a.peer), events(&mut p.b.peer));
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
fn a_flight_that_comes_without_its_beginning_is_waited_for() {
    // Of a server's flight, sent record by record as OpenSSL repeats it, only a later one arrives: a ServerHelloDone (RFC
    // 6347 4.2.2), with a number that no message of this handshake has.
    const DONE: &[u8] = b"\x16\xfe\xfd\0\0\0\0\0\0\0\x63\0\x0c\x0e\0\0\0\0\x28\0\0\0\0\0\0";
    let mut p = pair([GCM, GCM], true);
    p.lose = |side, d| side == 0 && d[0] == 22;
    p.run(Duration::from_millis(300));
    assert!(p.b.remote().is_some() && !p.b.is_keyed());
    p.b.on_datagram(p.now, address(1), DONE);
    p.lose = |_, d| {
        assert_ne!(d[0], 21, "refused");
        false
    };
    let sent = p.sent[1];
    p.run(Duration::from_secs(1));
    assert!(p.sent[1] > sent, "our flight goes on being sent");
    assert!(!events(&mut p.b).iter().any(|e| matches!(e, Event::Failed(_))));
}

#[test]
fn a_lost_last_flight_is_sent_again_when_the_peer_repeats_its_own() {
    // b is client; a, with keys already, loses its last flight: shortly, and until it gave its handshake's memory back.
    for lost_for in [Duration::from_millis(700), Duration::from_secs(5)] {
        let mut p = without_replays(pair([GCM, GCM], true));
        p.lose = |side, d| side == 0 && (d[0] == 20 || (d[0] == 22 && d[4] == 1));
        assert!(p.run_until(Duration::from_secs(1), |a, _| a.peer.is_keyed()));
        p.run(lost_for);
        assert!(!p.b.peer.is_keyed() && p.b.peer.remote().is_some());
        p.lose = |_, _| false;
        let both = |a: &mut NoReplays, b: &mut NoReplays| a.peer.may_send() && b.peer.may_send();
        assert!(p.run_until(Duration::from_secs(5), both), "lost for {lost_for:?}");
        assert_eq!(keys(&mut p.a.peer).map(|k| k.2), keys(&mut p.b.peer).map(|k| k.3));
    }
}
