//! Mutated datagrams at every stage: nothing panics or hangs, and what has keys keeps them.

use super::super::*;
use super::link::*;
use std::time::Instant;

/// Up to four changes: a byte, a cut, a tail.
pub fn mutate(random: &mut Random, datagram: &[u8]) -> Vec<u8> {
    let mut d = datagram.to_vec();
    for _ in 0..=random.below(4) {
        match random.below(4) {
            0 => d.truncate(1 + random.below(d.len())),
            1 => d.extend_from_slice(&[random.next() as u8; 7]),
            _ => {
                let i = random.below(d.len());
                d[i] = random.next() as u8;
            }
        }
    }
    d
}

/// Runs a pair for 2 s in steps of 5 ms; before each datagram that is due, `times` mutations of it arrive.
fn run(seed: u64, times: usize, only_after_keys: bool) -> (Transport, Transport, u32) {
    let now = Instant::now();
    let mut random = Random(seed);
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, CM_AND_GCM, 2));
    describe(&mut p, seed.is_multiple_of(2));
    let (mut a, mut b, mut fed) = (p.a, p.b, 0);
    for ms in (0..2000).step_by(5) {
        let t = now + Duration::from_millis(ms);
        for side in 0..2 {
            let (x, y, from) = if side == 0 { (&mut a, &mut b, address(1)) } else { (&mut b, &mut a, address(2)) };
            while let Some((_, d)) = Transport::poll_transmit(x) {
                for _ in 0..times {
                    if !only_after_keys || y.is_keyed() {
                        y.on_datagram(t, from, &mutate(&mut random, &d));
                        fed += 1;
                    }
                }
                y.on_datagram(t, from, &d);
            }
            if x.poll_timeout().is_some_and(|d| d <= t) {
                x.handle_timeout(t);
            }
        }
    }
    (a, b, fed)
}

const CM_AND_GCM: &[Suite] = &[Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm];

#[test]
fn garbage_during_the_handshake_never_panics() {
    let (mut fed, mut alive) = (0, 0);
    for seed in 0..80 {
        let (a, b, n) = run(seed, if seed < 40 { 20 } else { 1 }, false);
        fed += n;
        alive += u32::from(a.may_send()) + u32::from(b.may_send());
    }
    assert!(fed > 5_000, "{fed} datagrams");
    // A forged record can end a handshake (nothing authenticates it yet), but not each of them.
    assert!(alive > 0);
}

#[test]
fn garbage_after_the_keys_changes_nothing() {
    let mut fed = 0;
    for seed in 100..130 {
        let (mut a, mut b, n) = run(seed, 50, true);
        fed += n;
        assert!(a.may_send() && b.may_send(), "seed {seed}: {:?} {:?}", events(&mut a), events(&mut b));
    }
    assert!(fed > 1_000, "{fed} datagrams");
}

#[test]
fn a_connected_pair_survives_garbage_of_every_kind_and_still_closes() {
    let mut p = connected([GCM, GCM], true);
    // What has been on the wire in a handshake, as material.
    let mut material = vec![vec![0u8; 20], vec![20; 40], vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]];
    let mut other = pair([GCM, GCM], false);
    for _ in 0..200 {
        while let Some((_, d)) = Transport::poll_transmit(&mut other.a) {
            other.b.on_datagram(other.now, address(1), &d);
            material.push(d.to_vec());
        }
        while let Some((_, d)) = Transport::poll_transmit(&mut other.b) {
            other.a.on_datagram(other.now, address(2), &d);
            material.push(d.to_vec());
        }
        other.now += Duration::from_millis(5);
        other.a.handle_timeout(other.now);
        other.b.handle_timeout(other.now);
    }
    assert!(other.a.is_connected() && material.len() > 15, "{}", material.len());
    events(&mut p.a);
    let mut random = Random(9);
    for round in 0..20_000 {
        let source = material[random.below(material.len())].clone();
        let d = if round % 3 == 0 { source } else { mutate(&mut random, &source) };
        p.a.on_datagram(p.now, address(2), &d);
        if round % 500 == 0 {
            p.run(Duration::from_millis(700));
        }
    }
    assert!(p.a.is_connected() && p.b.is_connected(), "{:?}", events(&mut p.a));
    assert_eq!(events(&mut p.a), vec![]);
    p.b.close(p.now);
    p.run(Duration::from_secs(1));
    assert_eq!(events(&mut p.a), vec![Event::PeerClosed]);
}

#[test]
fn replayed_handshakes_do_not_disturb_or_amplify() {
    let mut p = pair([GCM, GCM], true);
    let mut seen: [Vec<Vec<u8>>; 2] = [vec![], vec![]];
    while !(p.a.is_connected() && p.b.is_connected()) {
        while let Some((_, d)) = Transport::poll_transmit(&mut p.a) {
            p.b.on_datagram(p.now, address(1), &d);
            seen[1].push(d.to_vec());
        }
        while let Some((_, d)) = Transport::poll_transmit(&mut p.b) {
            p.a.on_datagram(p.now, address(2), &d);
            seen[0].push(d.to_vec());
        }
        p.now += Duration::from_millis(1);
        p.a.handle_timeout(p.now);
        p.b.handle_timeout(p.now);
    }
    events(&mut p.a);
    events(&mut p.b);
    let (fed, before) = (100 * (seen[0].len() + seen[1].len()) as u32, p.sent);
    for _ in 0..100 {
        p.now += Duration::from_millis(250);
        for d in &seen[0] {
            p.a.on_datagram(p.now, address(2), d);
        }
        for d in &seen[1] {
            p.b.on_datagram(p.now, address(1), d);
        }
        p.run(Duration::from_millis(1));
    }
    assert!(p.a.is_connected() && p.b.is_connected());
    assert_eq!((events(&mut p.a), events(&mut p.b)), (vec![], vec![]));
    let sent = p.sent[0] - before[0] + p.sent[1] - before[1];
    assert!(sent < fed, "{sent} datagrams for {fed} replayed");
}
