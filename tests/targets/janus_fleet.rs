//! Scale-in against a real fleet: three Janus, a registry in Redis, a router that says where everybody goes, and what
//! happens to calls when servers are taken away rightly and wrongly.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use roomful::history::{Event, FleetRole, LegCause, LegEnd};
use std::time::Duration;
use support::janus_fleet::{JanusFleet, Operation};
use support::netns;
use support::roomful::{Ended, own_profile};

const PROFILE: &str = "profiles/scale-in-janus.toml";

/// Tests run where others compile: one late moment must not leave the run unproven.
const BUSY_MACHINE: &[&str] =
    &["health.lateness_p99_max=200ms", "health.timer_p99_max=200ms", "health.reference_delay_p99_max=200ms"];

/// Known times and measured gaps may be apart by so much (a packet of audio is 20 ms).
const GAP_MS: f64 = 20.0;

fn print_figures(run: &Ended) {
    let s = &run.summary;
    println!("{} (exit {})", s["sentence"], run.code);
    println!("legs {}", s["legs"]);
    println!("scale_in {:#}", s["scale_in"]);
    println!("setup.join {}", s["setup"]["join"]);
    println!("participants {}", s["participants"]);
}

/// The longest silence of a leg is the time from one operation to the other.
fn assert_gap(end: &LegEnd, from: Operation, until: Operation) {
    let longest = |s: &&roomful::history::Silence| s.until_ms - s.from_ms;
    let gap = end.silences.iter().max_by(|a, b| longest(a).total_cmp(&longest(b)));
    let gap = gap.unwrap_or_else(|| panic!("no silence: {end:?}"));
    println!("{} heard nothing from {:.0} to {:.0}; {from:?} {until:?}", end.leg, gap.from_ms, gap.until_ms);
    assert!(gap.from_ms > from.begun - GAP_MS && gap.from_ms < from.done + GAP_MS, "{gap:?} {from:?}");
    assert!(gap.until_ms > until.begun - GAP_MS && gap.until_ms < until.done + GAP_MS, "{gap:?} {until:?}");
}

#[test]
fn a_right_drain_passes() {
    netns::inside_beside("a_right_drain_passes", async || {
        let mut fleet = JanusFleet::start(&[]).await;
        let run = fleet.run("janus_fleet-drain", PROFILE, BUSY_MACHINE).ended().await;
        print_figures(&run);
        assert_eq!(run.code, 0, "{}", run.printed);
        assert_eq!(run.number("legs.clean"), run.number("legs.judged"));
        let (cordon, server) = run.operation("cordon");
        let (terminate, ended) = run.operation("terminate");
        assert_eq!(server, ended);
        let index = fleet.servers.iter().position(|s| s.name == server).unwrap();
        fleet.servers[index].ended().await;

        // The router was asked for every join, and late joiners found their rooms on the cordoned server.
        let landed = run.landed();
        let routed: Vec<_> = run.history.iter().filter(|l| matches!(l.event, Event::Routed { .. })).collect();
        assert_eq!(routed.len(), landed.len());
        assert_eq!(run.number("setup.join.count"), landed.len() as f64);
        let late = landed.values().filter(|(s, t)| *s == server && *t > cordon.done);
        assert_eq!(late.count(), 2, "{landed:?}");
        let elsewhere = landed.values().filter(|(s, t)| *s != server && *t > cordon.done);
        assert!(elsewhere.count() >= 4, "two new rooms of two");
        assert!(!run.on(&server, cordon.begun).is_empty());
        assert!(run.on(&server, terminate.begun).is_empty(), "nobody was there any more");

        // Each backend saw what it can see.
        let seen = |backend: &str, role, what: &dyn Fn(&roomful::history::ServerSeen) -> bool| {
            let views = run.history.iter().filter_map(|l| if let Event::Fleet(v) = &l.event { Some(v) } else { None });
            let mut views = views.filter(|v| v.backend == backend && v.role == role);
            assert!(views.any(|v| v.servers.iter().any(|s| s.server == server && what(s))), "{backend} {role:?}");
        };
        seen("redis", FleetRole::Discovery, &|s| s.cordoned == Some(true) && s.headroom.is_some_and(|h| h < 100));
        seen("redis", FleetRole::Discovery, &|s| s.alive == Some(false) && s.listed == Some(false));
        seen("janus", FleetRole::Observation, &|s| s.sessions.is_some_and(|n| n >= 5) && s.participants >= Some(5));
        seen("janus", FleetRole::Observation, &|s| s.alive == Some(false) && s.sessions.is_none());
        seen("prometheus", FleetRole::Observation, &|s| s.participants.is_some_and(|n| n >= 5));
    });
}

/// Three faults on three servers, one after the other: a pause of 6 s, a SIGKILL, a SIGTERM with calls up.
#[test]
fn faults_are_classed_as_they_are() {
    netns::inside_beside("faults_are_classed_as_they_are", async || {
        let fleet = JanusFleet::start(&[]).await;
        let run = fleet.run("janus_fleet-faults", &own_profile("janus-faults.toml"), BUSY_MACHINE).ended().await;
        print_figures(&run);
        let ([pause, resume], server) = (["pause", "resume"].map(|n| run.operation(n).0), run.operation("pause").1);
        let mut glitched = 0;
        for (_, end) in run.on(&server, pause.begun) {
            assert!(!end.cause.is_drop(), "{end:?}");
            assert_gap(end, pause, resume);
            glitched += 1;
        }
        assert_eq!(glitched, 3);
        let successors = run.successors();
        let landed = run.landed();
        let mut fallen = 0;
        for name in ["kill", "terminate"] {
            let (fault, server) = run.operation(name);
            let there = run.on(&server, fault.begun);
            assert!(there.len() >= 3, "{name}: {}", there.len());
            for (t, end) in there {
                println!("{name}: {} {:?} {:.0} ms after: {}", end.leg, end.cause, t - fault.begun, end.detail);
                assert!(end.cause.is_drop() && t < fault.done + 1000.0, "{name}: {end:?} at {t}");
                let (home, back) = &landed[&successors[&end.leg]];
                assert_ne!(*home, server);
                assert!(*back < fault.done + 10_000.0, "back at {back}");
                fallen += 1;
            }
        }
        assert_eq!(run.code, 3, "{}", run.printed);
        let legs = |class: &str| run.number(&format!("legs.{class}"));
        // Rejoined legs that fell again count once more, and those that came to the paused server later are clean.
        assert_eq!((legs("glitched"), legs("reconnected")), (f64::from(glitched), f64::from(fallen)));
        assert_eq!((legs("dropped"), legs("one_way"), run.number("participants.failed")), (0.0, 0.0, 0.0));
        let invariants = run.invariants();
        assert_eq!((invariants["I3"].as_str(), invariants["I4"].as_str()), ("fail", "fail"), "{invariants:?}");
    });
}

/// Media is cut off, signalling goes on: for 6 s it is a gap, for 17 s the call is lost to everybody in it.
#[test]
fn media_alone_is_cut_off() {
    netns::inside_beside("media_alone_is_cut_off", async || {
        let fleet = JanusFleet::start(&[]).await;
        let run = fleet.run("janus_fleet-partition", &own_profile("janus-partition.toml"), BUSY_MACHINE).ended().await;
        print_figures(&run);
        for (cut, heal, class) in [("short", "heal-short", "glitched"), ("long", "heal-long", "dropped")] {
            let ((from, server), (until, _)) = (run.operation(cut), run.operation(heal));
            let there = run.on(&server, from.begun);
            for (_, end) in &there {
                assert!(!end.cause.is_drop(), "its own signalling went on: {end:?}");
                assert_gap(end, from, until);
            }
            assert_eq!((there.len(), run.number(&format!("legs.{class}"))), (3, 3.0), "{class}");
        }
        assert_eq!(run.number("legs.clean"), 3.0);
        assert_eq!(run.code, 3, "{}", run.printed);
    });
}

/// The fleet's own autoscaler acts, and roomful only looks.
#[test]
fn an_autoscaler_is_watched() {
    netns::inside_beside("an_autoscaler_is_watched", async || {
        let fleet = JanusFleet::start(&["--scale-in-after", "10", "--policy", "drain"]).await;
        let run = fleet.run("janus_fleet-watched", &own_profile("janus-observe.toml"), BUSY_MACHINE).ended().await;
        print_figures(&run);
        assert_eq!(run.code, 0, "{}", run.printed);
        assert_eq!(run.number("legs.clean"), run.number("legs.judged"));
    });
}

/// 40 s are longer than consent lasts (RFC 7675): every call on the server is lost, and comes back elsewhere.
#[test]
#[ignore = "takes more than a minute; make test-long runs it"]
fn a_server_that_stands_still_for_40_s_loses_its_calls() {
    netns::inside_beside("a_server_that_stands_still_for_40_s_loses_its_calls", async || {
        let fleet = JanusFleet::start(&[]).await;
        let run = fleet.run("janus_fleet-pause40", &own_profile("janus-pause40.toml"), BUSY_MACHINE);
        tokio::time::sleep(Duration::from_secs(20)).await;
        let run = run.ended().await;
        print_figures(&run);
        let (pause, server) = run.operation("pause");
        let there = run.on(&server, pause.begun);
        assert_eq!(there.len(), 3);
        for (t, end) in there {
            println!("{} {:?} {:.0} ms after: {}", end.leg, end.cause, t - pause.begun, end.detail);
            assert_eq!(end.cause, LegCause::ConsentExpired, "{end:?}");
            assert!((15_000.0..40_000.0).contains(&(t - pause.begun)), "at {t}");
        }
        assert_eq!((run.number("legs.reconnected"), run.number("legs.dropped")), (3.0, 0.0));
        assert_eq!(run.number("legs.clean"), 9.0, "those elsewhere, and those that came back");
    });
}
