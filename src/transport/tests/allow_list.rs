//! No packet to an address outside the allow-list, whatever a description, a candidate or a datagram asks for.

use super::link::*;
use super::*;
use std::time::Instant;

const OUTSIDE: &str = "1 1 udp 2130706431 192.0.2.66 5000 typ host";

fn outside() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 66], 5000))
}

#[test]
fn a_refused_candidate_gets_not_one_datagram_and_is_reported_once() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let (offer, mut answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    answer.candidates.insert(0, OUTSIDE.into());
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    p.a.add_remote_candidate(now, OUTSIDE);
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
    p.a.start(p.now, &answer, true, false).unwrap();
    p.run(Duration::from_secs(60));
    assert!(p.stray.is_empty(), "{:?}", p.stray);
    let refused: Vec<_> = events(&mut p.a).into_iter().filter(|e| matches!(e, Event::CandidateRefused(_))).collect();
    assert_eq!(refused, vec![Event::CandidateRefused(outside())]);
    assert_eq!(p.a.counts().candidates_refused, 1);
    assert_eq!(p.a.counts().sends_refused, 0, "nothing even tried");
}

/// A TURN server would carry our datagrams anywhere: what goes to a peer through it is held to the list, too.
#[test]
fn a_refused_peer_is_not_reached_through_a_turn_server() {
    let now = Instant::now();
    let relayed = Place::Relayed { relayed: address(1), base: address(9) };
    let shared = Shared::new(GCM, quick()).unwrap();
    let a = Transport::new(now, &shared, &allow(), relayed, 1).unwrap();
    let mut p = unstarted(now, a, transport(now, GCM, 2));
    let (offer, mut answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    answer.candidates.insert(0, OUTSIDE.into());
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
    p.run(Duration::from_secs(60));
    assert!(p.stray.is_empty(), "{:?}", p.stray);
    assert_eq!((p.a.counts().candidates_refused, p.a.counts().sends_refused), (1, 0));
}

#[test]
fn start_fails_when_all_candidates_are_refused() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let mut answer = remote_of(&p.b, Setup::Active);
    answer.candidates = vec![OUTSIDE.into(), "2 1 tcp 1 10.9.0.2 9 typ host tcptype active".into()];
    let error = p.a.start(now, &answer, true, false).unwrap_err();
    assert_eq!(error, TransportError::NoAllowedCandidate { refused: vec![outside()] });
    assert!(error.to_string().contains("192.0.2.66:5000"));
    p.run(Duration::from_secs(20));
    assert_eq!((p.stray.len(), p.sent[0]), (0, 0));
}

#[test]
fn a_failure_names_trickled_candidates_that_were_refused() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let mut answer = remote_of(&p.b, Setup::Active);
    answer.candidates.clear();
    p.a.start(now, &answer, true, false).unwrap();
    p.a.add_remote_candidate(now, OUTSIDE);
    p.run(Duration::from_secs(20));
    assert_eq!(p.sent[0], 0);
    let expected = Event::Failed(Failure::NoAllowedCandidate(vec![outside()]));
    assert_eq!(events(&mut p.a), vec![Event::CandidateRefused(outside()), expected]);
}

#[test]
fn authentic_checks_and_dtls_from_outside_get_no_answer() {
    // b is moved behind an address outside: all that it sends is authentic, and nothing may go back.
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let (mut offer, mut answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    answer.candidates.clear();
    offer.candidates.truncate(1);
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    let mut heard = 0;
    for ms in 0..14_000 {
        let t = now + Duration::from_millis(ms);
        p.b.handle_timeout(t);
        while let Some((_, d)) = Transport::poll_transmit(&mut p.b) {
            assert_eq!(p.a.on_datagram(t, outside(), &d), Kind::Ignored);
            heard += 1;
        }
        p.a.handle_timeout(t);
        assert_eq!(Transport::poll_transmit(&mut p.a), None);
    }
    assert!(heard > 200);
    assert_eq!(p.a.counts().datagrams_refused, heard);
    let hello = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    assert_eq!(p.a.on_datagram(now, outside(), &hello), Kind::Ignored);
}

#[test]
fn dtls_from_an_address_that_sent_no_authentic_check_is_ignored() {
    let mut p = connected([GCM, GCM], true);
    let record = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    assert_eq!(p.a.on_datagram(p.now, address(77), &record), Kind::Ignored);
    assert_eq!(Transport::poll_transmit(&mut p.a), None);
}

#[test]
fn mdns_and_tcp_candidates_are_skipped_and_counted() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let (offer, mut answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    answer.candidates.push("5 1 udp 1 0d1b6c1c-2a11-4c39-9a6f-8f3a5a4e7c1e.local 5000 typ host".into());
    answer.candidates.push("6 1 tcp 1 10.9.0.2 9 typ host tcptype passive".into());
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
    let counts = p.a.counts();
    assert_eq!((counts.candidates_used, counts.candidates_skipped, counts.candidates_refused), (1, 2, 0));
    assert!(p.stray.is_empty(), "{:?}", p.stray);
}
