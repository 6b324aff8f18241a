//! From descriptions to keys.

use super::link::*;
use super::*;
use std::time::Instant;

#[test]
fn both_sides_get_the_same_keys_in_both_dtls_roles_and_suites() {
    for suites in [GCM, CM] {
        for b_is_client in [true, false] {
            let mut p = connected([suites, suites], b_is_client);
            let (a, b) = (keys(&mut p.a).unwrap(), keys(&mut p.b).unwrap());
            assert_eq!((a.0, b.0), (suites[0], suites[0]));
            assert_eq!((a.1, b.1), (!b_is_client, b_is_client));
            assert_eq!((&a.2, &a.3), (&b.3, &b.2), "what one sends with, the other receives with");
            assert_ne!(a.2, a.3);
            let salt_end = if suites == GCM { 12 } else { 14 };
            assert!(a.2.salt[salt_end..].iter().all(|b| *b == 0));
            assert!(a.2.salt[..salt_end].iter().any(|b| *b != 0) && a.2.key != [0; 32]);
            assert_eq!(p.a.remote(), Some(address(2)));
            assert_eq!(p.b.remote(), Some(address(1)));
        }
    }
}

#[test]
fn roles_are_told_once_decided() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    assert_eq!(p.a.setup(), Setup::Actpass);
    describe(&mut p, true);
    assert_eq!((p.a.setup(), p.b.setup()), (Setup::Passive, Setup::Active));
}

#[test]
fn a_common_suite_is_found_whatever_the_order() {
    let both = [Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80];
    let reversed = [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm];
    for (a, b) in [(&both[..], &reversed[..]), (&both, CM), (GCM, &reversed)] {
        let mut p = connected([a, b], true);
        let (ka, kb) = (keys(&mut p.a).unwrap(), keys(&mut p.b).unwrap());
        assert_eq!(ka.0, kb.0);
        assert!(a.contains(&ka.0) && b.contains(&ka.0));
    }
}

/// As BoringSSL does, and so Chromium: with its list it ends on AES128_CM_SHA1_80 as the server, whatever the client
/// would like best.
#[test]
fn the_dtls_server_takes_the_first_suite_of_its_own() {
    let browser = [Suite::Aes128CmSha1_80, Suite::AeadAes256Gcm, Suite::AeadAes128Gcm];
    let janus = [Suite::AeadAes256Gcm, Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80];
    for (b_is_client, suite) in [(true, Suite::Aes128CmSha1_80), (false, Suite::AeadAes256Gcm)] {
        let mut p = connected([&browser, &janus], b_is_client);
        assert_eq!(keys(&mut p.a).unwrap().0, suite);
        assert_eq!(keys(&mut p.b).unwrap().0, suite);
    }
}

#[test]
fn without_a_common_suite_both_sides_fail_and_say_so() {
    for b_is_client in [true, false] {
        let mut p = pair([GCM, CM], b_is_client);
        p.run(Duration::from_secs(20));
        for t in [&mut p.a, &mut p.b] {
            let events = events(t);
            assert!(matches!(events.last(), Some(Event::Failed(Failure::NoSuite(_)))), "{events:?}");
            assert!(t.is_closed() && !t.may_send());
        }
        let sent = p.sent;
        p.run(Duration::from_secs(60));
        assert_eq!(p.sent, sent, "alerts are not echoed for ever");
    }
}

#[test]
fn a_wrong_fingerprint_ends_both_sides_without_keys() {
    for b_is_client in [true, false] {
        let now = Instant::now();
        let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
        let (mut offer, answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
        offer.fingerprint = answer.fingerprint.clone();
        p.b.start(now, &offer, false, b_is_client).unwrap();
        p.a.start(now, &answer, true, !b_is_client).unwrap();
        p.run(Duration::from_secs(20));
        let (a, b) = (events(&mut p.a), events(&mut p.b));
        assert_eq!(b.last(), Some(&Event::Failed(Failure::Fingerprint)));
        assert!(!b.iter().any(|e| matches!(e, Event::Connected { .. })));
        assert!(matches!(a.last(), Some(Event::PeerClosed | Event::Failed(_))), "{a:?}");
        assert!(!p.a.may_send() && !p.b.may_send());
    }
}

#[test]
fn set_up_costs_round_trips_and_the_hello_delay_only() {
    // ICE: check, answer, nomination, answer; then the delay; then DTLS: three round trips at most.
    for b_is_client in [true, false] {
        let mut p = pair([GCM, GCM], b_is_client);
        assert!(p.run_until(Duration::from_secs(2), |a, b| a.may_send() && b.may_send()));
        let took = p.now - p.started;
        assert!(took <= Duration::from_millis(20 + 2 * 2 + 3 * 2 + 1), "{took:?}");
    }
}

#[test]
fn checks_of_a_silent_peer_are_50_ms_apart_until_the_time_out() {
    let now = Instant::now();
    let mut p = pair([GCM, GCM], true);
    p.loss = 1.0;
    let mut times = vec![];
    let end = p.now + Duration::from_secs(20);
    let mut sent = 0;
    loop {
        p.collect();
        if p.sent[0] > sent {
            assert_eq!(p.sent[0], sent + 1);
            sent = p.sent[0];
            times.push(p.now);
        }
        if !p.step(end) {
            break;
        }
    }
    assert!(times[0] - now < Duration::from_millis(5), "the first at once");
    assert!(times.windows(2).all(|w| w[1] - w[0] >= Duration::from_millis(50)));
    let asked = times[times.len() - 1] - times[0];
    assert!(asked > Duration::from_secs(14), "the pair is not given up before the join is: {asked:?}");
    assert_eq!(events(&mut p.a).last(), Some(&Event::Failed(Failure::IceTimeout)));
    assert!(p.a.is_closed());
}

#[test]
fn dtls_that_never_answers_is_named() {
    let mut p = pair([GCM, GCM], true);
    p.lose = |_, d| (20..=63).contains(&d[0]);
    p.run(Duration::from_secs(14));
    assert!(p.a.remote().is_some() && p.b.remote().is_some() && !p.a.is_closed());
    p.run(Duration::from_secs(2));
    assert_eq!(events(&mut p.b).last(), Some(&Event::Failed(Failure::DtlsTimeout)));
    assert_eq!(events(&mut p.a).last(), Some(&Event::Failed(Failure::DtlsTimeout)));
}

#[test]
fn a_forged_check_turns_no_role_and_gets_no_answer() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let (offer, answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    p.b.start(now, &offer, true, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    while Transport::poll_transmit(&mut p.a).is_some() {}
    let (_, check) = Transport::poll_transmit(&mut p.b).unwrap();
    // The last byte before FINGERPRINT is MESSAGE-INTEGRITY's; role and tie-breaker are as b wrote them.
    let mut forged = check.clone();
    let at = forged.len() - 9;
    forged[at] ^= 1;
    for tie_breaker in [0, 255] {
        if let Some(i) = forged.windows(4).position(|w| w == [0x80, 0x2a, 0, 8]) {
            forged[i + 4..i + 12].fill(tie_breaker);
        }
        assert_eq!(p.a.on_datagram(now, address(2), &forged), Kind::Ignored);
    }
    assert_eq!((Transport::poll_transmit(&mut p.a), p.a.poll_event()), (None, None));
    assert_eq!(p.a.on_datagram(now, address(2), &check), Kind::Handled, "the real one is taken");
    assert!(Transport::poll_transmit(&mut p.a).is_some());
}

#[test]
fn an_ice_role_conflict_is_settled_by_one_side_giving_way() {
    for both_controlling in [true, false] {
        let now = Instant::now();
        let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
        let (offer, answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
        p.b.start(now, &offer, both_controlling, true).unwrap();
        p.a.start(now, &answer, both_controlling, false).unwrap();
        assert!(p.run_until(Duration::from_secs(3), |a, b| a.is_connected() && b.is_connected()));
        let conflicts = |t: &mut Transport| events(t).iter().filter(|e| **e == Event::RoleConflict).count();
        assert_eq!(conflicts(&mut p.a) + conflicts(&mut p.b), 1);
    }
}

#[test]
fn a_lite_peer_makes_us_controlling() {
    // An answerer that faces a lite offerer controls; the offerer here is a full agent that we call controlled.
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let (mut offer, answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    offer.lite = true;
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, false, false).unwrap();
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
    assert!(!events(&mut p.a).contains(&Event::RoleConflict));
    assert!(!events(&mut p.b).contains(&Event::RoleConflict));
}

#[test]
fn trickled_candidates_connect_both_ways() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let (mut offer, mut answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    let candidate = answer.candidates.remove(0);
    offer.candidates.clear();
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    p.run(Duration::from_secs(1));
    assert_eq!(p.sent, [0, 0], "nowhere to send yet");
    p.a.add_remote_candidate(p.now, &format!("candidate:{candidate}"));
    // b learns a's address from its authentic check.
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
}

#[test]
fn ipv6_works_and_ipv4_candidates_are_skipped_then() {
    let now = Instant::now();
    let addresses = ["[2001:db8::1]:5000", "[2001:db8::2]:5001"].map(|a| a.parse::<SocketAddr>().unwrap());
    let allow = std::sync::Arc::new(AllowList::new(vec![("2001:db8::".parse().unwrap(), 32)]));
    let shared = Shared::new(GCM, Timing::default()).unwrap();
    let [a, b] = addresses.map(|local| Transport::new(now, &shared, &allow, local, 1).unwrap());
    let mut p = Link::new(now, a, b, addresses);
    let (mut offer, answer) = (remote_of(&p.a, Setup::Actpass), remote_of(&p.b, Setup::Active));
    offer.candidates.insert(0, "1 1 udp 2015363327 10.9.0.1 5000 typ host".into());
    p.b.start(now, &offer, false, true).unwrap();
    p.a.start(now, &answer, true, false).unwrap();
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
    assert_eq!(p.b.counts().candidates_skipped, 1);
    assert_eq!(p.b.counts().candidates_used, 1);
}

#[test]
fn unusable_descriptions_are_errors_and_change_nothing() {
    let now = Instant::now();
    let mut p = unstarted(now, transport(now, GCM, 1), transport(now, GCM, 2));
    let good = remote_of(&p.b, Setup::Active);
    for bad in [
        RemoteParams { ufrag: String::new(), ..good.clone() },
        RemoteParams { pwd: String::new(), ..good.clone() },
        RemoteParams { fingerprint: "AB:CD".into(), ..good.clone() },
    ] {
        assert!(matches!(p.a.start(now, &bad, true, false), Err(TransportError::Remote { .. })));
        assert_eq!(p.a.poll_timeout(), None);
    }
    describe(&mut p, true);
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
}

#[test]
fn an_unbound_address_is_an_error() {
    let shared = Shared::new(GCM, Timing::default()).unwrap();
    for local in ["0.0.0.0:5000", "10.9.0.1:0", "[::]:5000"] {
        let made = Transport::new(Instant::now(), &shared, &allow(), local.parse::<std::net::SocketAddr>().unwrap(), 1);
        assert!(matches!(made, Err(TransportError::Local { .. })), "{local}");
    }
}

#[test]
fn keys_are_never_printed() {
    let mut p = connected([GCM, GCM], true);
    let text = format!("{:?}", events(&mut p.a));
    assert!(text.contains("ours: ***, theirs: ***"), "{text}");
}

/// The client verifies the server's key exchange, the server the client's certificate: one signature each.
#[test]
fn a_handshake_verifies_each_signature_once() {
    let before = crypto::verifications();
    let mut p = connected([GCM, GCM], true);
    assert!(keys(&mut p.a).is_some());
    assert_eq!(crypto::verifications() - before, 2);
}
