//! After the keys: consent, restarts, the end.

use super::link::*;
use super::*;

#[test]
fn an_ice_restart_keeps_keys_and_media_goes_on() {
    for b_is_client in [true, false] {
        let mut p = connected([GCM, GCM], b_is_client);
        p.run(Duration::from_secs(3));
        events(&mut p.a);
        events(&mut p.b);
        let before = p.a.local_params();
        p.a.prepare_restart().unwrap();
        assert_ne!(p.a.local_params().ufrag, before.ufrag);
        describe(&mut p, b_is_client);
        assert!(p.a.may_send() && p.b.may_send(), "over the old pair");
        assert!(!p.a.is_connected());
        let done = p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected());
        assert!(done && p.a.may_send() && p.b.may_send());
        for t in [&mut p.a, &mut p.b] {
            let events = events(t);
            assert!(matches!(events[..], [Event::IceConnected(_)]), "no new keys: {events:?}");
        }
        p.run(Duration::from_secs(30));
        assert!(p.a.is_connected() && p.b.is_connected(), "consent goes on with the new credentials");
    }
}

#[test]
fn the_remote_restarts_and_we_follow() {
    let mut p = connected([GCM, GCM], true);
    p.b.prepare_restart().unwrap();
    let offer = remote_of(&p.b, Setup::Actpass);
    assert!(p.a.is_restart(&offer));
    p.a.prepare_restart().unwrap();
    let answer = remote_of(&p.a, Setup::Passive);
    p.a.start(p.now, &offer, false, false).unwrap();
    p.b.start(p.now, &answer, true, true).unwrap();
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
}

#[test]
fn a_renegotiation_without_restart_only_adds_candidates() {
    let mut p = connected([GCM, GCM], true);
    let mut again = remote_of(&p.b, Setup::Active);
    assert!(!p.a.is_restart(&again));
    again.candidates.push("9 1 udp 1 10.9.0.9 5000 typ host".into());
    p.a.start(p.now, &again, true, false).unwrap();
    assert!(p.a.is_connected());
    assert_eq!(p.a.counts().candidates_used, 2);
    p.run(Duration::from_secs(10));
    assert!(p.a.is_connected() && p.b.is_connected());
}

#[test]
fn a_changed_fingerprint_asks_for_a_new_transport() {
    let mut p = connected([GCM, GCM], true);
    let mut other = remote_of(&p.b, Setup::Active);
    other.fingerprint = Shared::new(GCM, Timing::default()).unwrap().fingerprint().to_string();
    assert_eq!(p.a.start(p.now, &other, true, false), Err(TransportError::NewFingerprint));
    p.run(Duration::from_secs(5));
    assert!(p.a.is_connected());
    let mut same = remote_of(&p.b, Setup::Active);
    same.fingerprint = same.fingerprint.to_lowercase();
    assert_eq!(p.a.start(p.now, &same, true, false), Ok(()));
}

#[test]
fn consent_ends_after_its_time_out_and_a_restart_brings_it_back() {
    let mut p = connected([GCM, GCM], true);
    p.run(Duration::from_secs(10));
    assert!(p.a.may_send() && p.b.may_send());
    events(&mut p.a);
    let silence = p.now;
    p.loss = 1.0;
    assert!(p.run_until(Duration::from_secs(20), |a, _| !a.may_send()));
    let took = p.now - silence;
    // The last answer is at most 1.2 intervals old when silence begins.
    assert!((2.7..=4.1).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(events(&mut p.a), vec![Event::ConsentExpired]);
    p.run(Duration::from_secs(10));
    let sent = p.sent;
    p.run(Duration::from_secs(60));
    assert_eq!(p.sent, sent, "no consent, no packets");
    assert!(!p.a.is_closed());

    p.loss = 0.0;
    events(&mut p.b);
    p.a.prepare_restart().unwrap();
    describe(&mut p, true);
    assert!(!p.a.may_send(), "not before the new pair is there");
    assert!(p.run_until(Duration::from_secs(1), |a, b| a.is_connected() && b.is_connected()));
    assert!(matches!(events(&mut p.a)[..], [Event::IceConnected(_)]));
}

#[test]
fn silence_is_told_once_before_consent_ends_and_again_after_an_answer() {
    let mut p = connected([GCM, GCM], true);
    let hurried = Timing { disconnected: Duration::from_millis(2500), ..quick() };
    let (a, b) = (Shared::new(GCM, hurried).unwrap(), Shared::new(GCM, quick()).unwrap());
    let now = p.now;
    let make = |shared, i: u8| Transport::new(now, shared, &allow(), address(i), u64::from(i)).unwrap();
    p = unstarted(now, make(&a, 1), make(&b, 2));
    describe(&mut p, true);
    assert!(p.run_until(Duration::from_secs(2), |a, b| a.is_connected() && b.is_connected()));
    events(&mut p.a);
    for _ in 0..2 {
        p.run(Duration::from_secs(5));
        assert_eq!(events(&mut p.a), vec![], "answered");
        p.loss = 1.0;
        p.run(Duration::from_millis(2500));
        assert_eq!(events(&mut p.a), vec![Event::Disconnected]);
        assert!(p.a.may_send());
        p.loss = 0.0;
        p.run(Duration::from_millis(1300));
        assert!(p.a.is_connected(), "an answer came in time");
    }
}

#[test]
fn consent_ends_during_a_restart_that_leads_nowhere() {
    let mut p = connected([GCM, GCM], true);
    events(&mut p.a);
    p.loss = 1.0;
    p.a.prepare_restart().unwrap();
    describe(&mut p, true);
    p.run(Duration::from_secs(5));
    assert!(!p.a.may_send());
    p.run(Duration::from_secs(15));
    assert_eq!(events(&mut p.a), vec![Event::ConsentExpired]);
    assert!(p.a.is_closed());
}

#[test]
fn the_peers_checks_are_no_consent() {
    // b's packets reach a, but a's never reach b: a hears authentic STUN all the time and no answer.
    let mut p = connected([GCM, GCM], true);
    events(&mut p.a);
    let end = p.now + Duration::from_secs(6);
    while p.a.may_send() && p.now < end {
        while Transport::poll_transmit(&mut p.a).is_some() {}
        if !p.step(end) {
            break;
        }
    }
    assert_eq!(events(&mut p.a), vec![Event::ConsentExpired]);
}

#[test]
fn rtt_is_that_of_the_checks() {
    let mut p = pair([GCM, GCM], true);
    p.delay = Duration::from_millis(40);
    assert!(p.run_until(Duration::from_secs(2), |a, b| a.is_connected() && b.is_connected()));
    assert_eq!(p.a.rtt(), Some(Duration::from_millis(80)));
    p.delay = Duration::from_millis(10);
    p.run(Duration::from_secs(5));
    assert_eq!(p.a.rtt(), Some(Duration::from_millis(20)));
}

#[test]
fn close_is_heard_at_once_and_hours_later_and_after_a_restart() {
    for (wait, restart) in [(0, false), (5, false), (5, true), (3600, false)] {
        for b_is_client in [true, false] {
            let mut p = connected([CM, CM], b_is_client);
            p.run(Duration::from_secs(wait));
            if restart {
                p.a.prepare_restart().unwrap();
                describe(&mut p, b_is_client);
                p.run(Duration::from_secs(wait));
            }
            events(&mut p.a);
            p.b.close(p.now);
            assert!(p.b.is_closed() && !p.b.may_send());
            p.run(Duration::from_secs(1));
            assert_eq!(events(&mut p.a), vec![Event::PeerClosed], "after {wait} s, restart {restart}");
            assert!(p.a.is_closed() && !p.a.may_send());
            assert_eq!((p.a.poll_timeout(), p.b.poll_timeout()), (None, None));
            let sent = p.sent;
            p.run(Duration::from_secs(60));
            assert_eq!(p.sent, sent);
        }
    }
}

#[test]
fn both_closing_at_once_is_quiet() {
    let mut p = connected([GCM, GCM], true);
    p.a.close(p.now);
    p.b.close(p.now);
    p.run(Duration::from_secs(60));
    assert!(p.a.is_closed() && p.b.is_closed());
    assert_eq!(p.a.start(p.now, &remote_of(&p.b, Setup::Active), true, false), Err(TransportError::Closed));
    assert_eq!(p.a.prepare_restart(), Err(TransportError::Closed));
}

#[test]
fn a_closed_transport_ignores_everything() {
    let mut p = connected([GCM, GCM], true);
    let from = address(2);
    p.a.close(p.now);
    while Transport::poll_transmit(&mut p.a).is_some() {}
    p.b.handle_timeout(p.b.poll_timeout().unwrap());
    let check = Transport::poll_transmit(&mut p.b).unwrap().1;
    assert_eq!(p.a.on_datagram(p.now, from, &check), Kind::Ignored);
    assert_eq!(Transport::poll_transmit(&mut p.a), None);
}

#[test]
fn an_idle_transport_wakes_up_for_consent_only() {
    let mut p = connected([GCM, GCM], true);
    p.run(Duration::from_secs(10));
    let (mut wakes, end) = (0, p.now + Duration::from_secs(100));
    let mut due = p.a.poll_timeout();
    while p.step(end) {
        if p.a.poll_timeout() != due {
            due = p.a.poll_timeout();
            wakes += 1;
        }
    }
    // One a second; the answer moves the end of consent, not the next check.
    assert!((80..=125).contains(&wakes), "{wakes}");
}

#[test]
fn media_is_told_by_its_first_byte() {
    let mut p = connected([GCM, GCM], true);
    let (now, from) = (p.now, address(2));
    assert_eq!(p.a.on_datagram(now, from, &[0x80, 96, 0, 1]), Kind::Media);
    assert_eq!(p.a.on_datagram(now, from, &[0xbf]), Kind::Media);
    for other in [&[][..], &[64, 0], &[127], &[192], &[255, 255], &[4], &[19]] {
        assert_eq!(p.a.on_datagram(now, from, other), Kind::Ignored, "{other:?}");
    }
}
