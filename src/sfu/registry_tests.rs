//! Where rooms and participants go, and what servers may be.

use super::*;

fn registry(servers: usize, participants_max: u64, now: Instant) -> Registry {
    let ready = |i| ServerReady {
        id: format!("s{}", i + 1),
        pid: i as u32,
        http: String::new(),
        media: "127.0.0.1:1".parse().unwrap(),
        cascade: "127.0.0.1:2".parse().unwrap(),
    };
    Registry::new(participants_max, None, (0..servers).map(ready).collect(), now)
}

#[test]
fn a_server_may_have_a_limit_of_its_own() {
    let now = Instant::now();
    let unlike = UnlikeServer { id: "s1".into(), participants_max: Some(2), cpu_max: None };
    let mut r = registry(2, 10, now).with_unlike(&[unlike]);
    let view = r.view(now);
    assert_eq!(view.servers.iter().map(|s| s.participants_max).collect::<Vec<_>>(), [2, 10]);
    assert_eq!((view.servers[0].headroom, view.headroom), (2, 12));
    // Nine rooms of one are on s2 before there is more room on s1.
    for n in 0..9 {
        let to = r.place(&format!("r{n}"), None, &[], now).unwrap();
        assert_eq!(to, if n == 8 { 0 } else { 1 }, "{n}");
        r.settle(&format!("r{n}"), to, true, now);
    }
}

fn said(participants: u64, joins: u64, rooms: Option<&BTreeMap<String, u64>>) -> Heartbeat<'_> {
    Heartbeat { participants, joins, rooms, ..Heartbeat::default() }
}

fn one(room: &str) -> BTreeMap<String, u64> {
    [(room.to_owned(), 1)].into()
}

fn join(r: &mut Registry, room: &str, now: Instant) -> Option<ServerIndex> {
    let server = r.place(room, None, &[], now)?;
    r.settle(room, server, true, now);
    Some(server)
}

#[test]
fn a_room_stays_together_and_rooms_spread() {
    let now = Instant::now();
    let mut r = registry(3, 10, now);
    let servers: Vec<_> = ["a", "b", "c"].map(|room| join(&mut r, room, now).unwrap()).into();
    assert_eq!(servers, [0, 1, 2]);
    for _ in 0..5 {
        assert_eq!(join(&mut r, "b", now), Some(1));
    }
    assert_eq!(join(&mut r, "d", now), Some(0));
    let view = r.view(now);
    assert_eq!(view.headroom, 30 - 9);
    assert_eq!(view.rooms["b"], "s2");
    assert_eq!(view.servers[1].participants, 6);
    assert_eq!(view.servers[0].rooms, 2);
}

#[test]
fn joins_under_way_count() {
    let now = Instant::now();
    let mut r = registry(2, 2, now);
    assert_eq!(r.place("a", None, &[], now), Some(0));
    assert_eq!(r.place("b", None, &[], now), Some(1));
    assert_eq!(r.place("a", None, &[], now), Some(0));
    assert_eq!(r.place("c", None, &[], now), Some(1), "s1 has two on their way");
    r.settle("c", 1, false, now);
    assert_eq!(r.place("c", None, &[1], now), Some(0), "refused there, so the other one is asked");
    r.settle("c", 0, false, now);
    assert_eq!(r.place("c", None, &[0, 1], now), None);
    assert_eq!(r.place("d", Some("s2"), &[], now), Some(1));
    assert_eq!((r.place("e", Some("s2"), &[1], now), r.place("e", Some("s9"), &[], now)), (None, None));
}

#[test]
fn a_heartbeat_ends_rooms_but_not_those_being_joined() {
    let start = Instant::now();
    let mut r = registry(1, 10, start);
    join(&mut r, "old", start);
    let sent = start + Duration::from_millis(500);
    join(&mut r, "new", sent + Duration::from_millis(1));
    r.place("joining", None, &[], sent).unwrap();
    r.heartbeat(0, sent, said(0, 1, None));
    let rooms: Vec<_> = r.view(sent).rooms.into_keys().collect();
    assert_eq!(rooms, ["joining", "new"]);
    assert_eq!(r.view(sent).servers[0].participants, 2);
    r.settle("joining", 0, true, sent);
    r.heartbeat(0, sent + TTL, said(1, 3, Some(&one("new"))));
    assert_eq!(r.view(sent).servers[0].participants, 1);
    assert_eq!(r.view(sent).rooms.into_keys().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn the_dead_and_the_silent_get_nothing() {
    let start = Instant::now();
    let mut r = registry(2, 10, start);
    assert_eq!(join(&mut r, "a", start), Some(0));
    r.died(0);
    assert!(!r.view(start).servers[0].alive);
    assert_eq!(join(&mut r, "a", start), Some(1), "placed anew");
    r.heartbeat(0, start, said(5, 5, None));
    assert!(!r.view(start).servers[0].alive, "a late answer does not wake the dead");

    let later = start + TTL + Duration::from_millis(1);
    assert!(r.view(later).servers[1].alive && !r.view(later).servers[1].listed, "it runs, and does not answer");
    assert_eq!(join(&mut r, "b", later), None);
    r.heartbeat(1, later, said(1, 1, Some(&one("a"))));
    assert_eq!(join(&mut r, "b", later), Some(1));
    assert_eq!(r.view(later).headroom, 8);
}

#[test]
fn a_cordoned_server_keeps_its_rooms_and_gets_no_new_ones() {
    let now = Instant::now();
    let mut r = registry(2, 10, now);
    assert_eq!(join(&mut r, "a", now), Some(0));
    assert_eq!(join(&mut r, "b", now), Some(1));
    r.cordon(0).unwrap();
    assert!(r.view(now).servers[0].cordoned);
    assert_eq!(join(&mut r, "a", now), Some(0), "a late joiner sticks");
    for room in ["c", "d", "e"] {
        assert_eq!(join(&mut r, room, now), Some(1), "though the other is emptier");
    }
    assert_eq!(r.place("f", Some("s1"), &[], now), None, "not even where it is wanted");
    assert_eq!(r.view(now).headroom, 10 - 4);
    r.uncordon(0).unwrap();
    assert_eq!(join(&mut r, "f", now), Some(0));
    r.cordon(0).unwrap();
    r.cordon(1).unwrap();
    assert_eq!(join(&mut r, "g", now), None, "all are cordoned");
    assert_eq!(join(&mut r, "b", now), Some(1));
}

#[test]
fn a_terminated_server_ends_when_its_last_is_gone() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut r = registry(2, 10, start);
    join(&mut r, "a", start);
    assert!(!r.drained(0), "nobody told it to end");
    assert_eq!(r.terminate(0), Ok(1));
    assert_eq!(r.terminate(0), Ok(1), "twice is once");
    assert!(r.view(start).servers[0].cordoned && r.view(start).servers[0].terminating);
    assert_eq!(r.uncordon(0), Err(Refused::Ending));
    assert!(!r.drained(0));
    // Its last heartbeat was empty, but somebody is on his way.
    r.heartbeat(0, at(100), said(0, 1, Some(&one("a"))));
    assert_eq!(r.place("a", None, &[], at(110)), Some(0));
    assert!(!r.drained(0), "a late joiner holds it");
    r.settle("a", 0, true, at(120));
    assert!(!r.drained(0));
    r.heartbeat(0, at(200), said(0, 2, None));
    assert!(r.drained(0));
    assert!(!r.drained(0), "said once");
    assert_eq!(join(&mut r, "a", at(210)), Some(1), "the room begins anew elsewhere");
    r.died(0);
    let view = r.view(at(300));
    assert!(!view.servers[0].alive && !view.servers[0].listed);
    assert_eq!(
        (r.cordon(0), r.terminate(0), r.uncordon(0)),
        (Err(Refused::Ended), Err(Refused::Ended), Err(Refused::Ended))
    );
}

#[test]
fn a_server_that_drains_by_itself_is_cordoned() {
    let now = Instant::now();
    let mut r = registry(2, 10, now);
    r.heartbeat(0, now, Heartbeat { draining: true, participants: 1, ..Heartbeat::default() });
    assert!(r.view(now).servers[0].cordoned && r.is_terminating(0));
    assert_eq!(join(&mut r, "a", now), Some(1));
}

#[test]
fn a_room_moves_with_whoever_comes_next() {
    let now = Instant::now();
    let mut r = registry(3, 10, now);
    for room in ["a", "b", "b"] {
        join(&mut r, room, now);
    }
    r.terminate(0).unwrap();
    assert_eq!(r.rooms_of(0), ["a"]);
    assert_eq!(r.move_room("a", None, now), Some((0, 2)), "to the emptiest");
    // The new server has not heard of it yet.
    r.heartbeat(2, now, said(0, 0, None));
    assert_eq!(join(&mut r, "a", now), Some(2));
    assert_eq!(r.move_room("a", Some("s2"), now), Some((2, 1)));
    assert_eq!(r.move_room("z", None, now), None);
    assert_eq!(r.move_room("b", Some("s1"), now), None, "it is to end");
}

#[test]
fn a_room_moves_only_where_all_of_it_fits() {
    let now = Instant::now();
    let at = |s| now + Duration::from_secs(s);
    let mut r = registry(3, 5, now);
    // s1 has a room of three and one of one, s2 two free seats, s3 three.
    let rooms = |names: &[(&str, u64)]| names.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect::<BTreeMap<_, _>>();
    for room in ["a", "b", "c"] {
        join(&mut r, room, now);
    }
    r.place("d", Some("s1"), &[], now);
    r.settle("d", 0, true, now);
    let all = [rooms(&[("a", 3), ("d", 1)]), rooms(&[("b", 3)]), rooms(&[("c", 2)])];
    let beat = |r: &mut Registry, s| {
        for (n, there) in all.iter().enumerate() {
            r.heartbeat(n, at(s), said(there.values().sum(), 2 - u64::from(n > 0), Some(there)));
        }
    };
    beat(&mut r, 1);
    r.terminate(0).unwrap();
    assert_eq!(r.move_room("a", Some("s2"), at(1)), None, "one would stay behind");
    assert_eq!(r.move_room("a", None, at(1)), Some((0, 2)));
    // Its seats are taken though nobody is there yet.
    assert_eq!(r.move_room("d", None, at(1)), Some((0, 1)));
    assert_eq!(r.place("e", None, &[], at(1)), Some(1), "one seat is left there, and none on s3");
    r.settle("e", 1, true, at(1));
    assert_eq!(join(&mut r, "a", at(1)), Some(2), "a late joiner goes with it");
    // A fleet that is full keeps the room where it is, and its late joiners with it.
    let mut r = registry(2, 5, now);
    let all = [rooms(&[("a", 3)]), rooms(&[("b", 4)])];
    for (n, room) in ["a", "b"].into_iter().enumerate() {
        join(&mut r, room, now);
        r.heartbeat(n, at(1), said(all[n][room], 1, Some(&all[n])));
    }
    r.terminate(0).unwrap();
    assert_eq!(r.move_room("a", None, at(1)), None);
    assert_eq!(join(&mut r, "a", at(1)), Some(0));
}

#[test]
fn a_started_server_takes_rooms() {
    let now = Instant::now();
    let mut r = registry(1, 10, now);
    join(&mut r, "a", now);
    let ready = ServerReady { id: "s2".into(), ..r.server(0).clone() };
    assert_eq!(r.add(ready, now), 1);
    assert_eq!((r.find("s2"), r.find("s3")), (Some(1), None));
    assert_eq!(join(&mut r, "b", now), Some(1));
}

#[test]
fn a_spread_room_goes_round_and_a_full_server_is_passed_over() {
    let now = Instant::now();
    let mut r = registry(3, 10, now).with_placement(Placement::Spread);
    let go = |r: &mut Registry, room: &str, n: usize| -> Vec<ServerIndex> {
        (0..n).map(|_| join(r, room, now).unwrap()).collect()
    };
    assert_eq!(go(&mut r, "a", 4), [0, 1, 2, 0]);
    assert_eq!(go(&mut r, "b", 3), [1, 2, 0], "the emptiest first");
    // However joins of rooms come, each is on all servers.
    for _ in 0..2 {
        go(&mut r, "c", 1);
        go(&mut r, "d", 1);
    }
    let view = r.view(now);
    assert_eq!(view.servers.iter().map(|s| s.participants).collect::<Vec<_>>(), [4, 4, 3]);
    assert_eq!((view.rooms["a"].as_str(), view.servers[0].rooms), ("s1", 3));
    assert_eq!(r.orders().len(), 3 + 3 + 2 + 2);
    assert_eq!(r.place("a", None, &[1], now), Some(2), "s2 has refused it");
    r.settle("a", 2, false, now);
    r.cordon(1).unwrap();
    assert_eq!(go(&mut r, "e", 2), [2, 0]);
}

fn sinner(sin: Sin, now: Instant) -> Registry {
    Registry { sin: Some(sin), ..registry(2, 10, now) }
}

#[test]
fn each_sin_of_the_registry_is_committed() {
    let now = Instant::now();
    let mut r = sinner(Sin::PlaceOnCordoned, now);
    r.cordon(1).unwrap();
    assert_eq!(join(&mut r, "a", now), Some(1));

    let mut r = sinner(Sin::DropLateJoiners, now);
    join(&mut r, "a", now);
    assert!(!r.turns_away("a"));
    r.cordon(0).unwrap();
    assert!(r.turns_away("a") && !r.turns_away("b"));

    let mut r = sinner(Sin::SplitRoom, now);
    assert_eq!([0; 4].map(|_| join(&mut r, "a", now)), [Some(0), Some(1), Some(0), Some(1)]);
    assert_eq!(r.view(now).rooms["a"], "s1", "and it does not know");

    let mut r = sinner(Sin::StaleRegistry, now);
    r.died(0);
    let view = r.view(now);
    assert!(view.servers[0].listed && !view.servers[0].alive);

    let mut r = sinner(Sin::EndlessDrain, now);
    r.terminate(0).unwrap();
    assert!(!r.drained(0));

    let mut r = sinner(Sin::ZeroSessions, now);
    join(&mut r, "a", now);
    r.heartbeat(0, now, said(1, 1, Some(&one("a"))));
    assert_eq!(r.view(now).servers[0].sessions, 1);
    r.heartbeat_failed(0, now + TTL);
    let server = &r.view(now + TTL).servers[0];
    assert_eq!((server.listed, server.sessions, server.participants), (true, 0, 0));
    r.terminate(0).unwrap();
    assert!(!r.drained(0), "it lies, and knows better");
    let mut honest = registry(1, 10, now);
    honest.heartbeat_failed(0, now + TTL);
    assert!(!honest.view(now + TTL * 2).servers[0].listed, "a failure is no news");
}
