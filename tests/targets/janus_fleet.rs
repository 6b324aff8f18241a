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
                // A killed server is silent at once; one that ends says so while it still sends.
                let silent = end.silences.iter().map(|s| s.from_ms).find(|from| *from > fault.begun - GAP_MS);
                let silent = silent.unwrap_or(t);
                let until = if name == "kill" { fault.done } else { t };
                assert!(silent < until + GAP_MS, "{name}: silent from {silent}, {fault:?}, ended {t}");
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

/// `accept_new_sessions` of the admin API: who comes to a room on a cordoned Janus is refused, and after its uncordon nobody is.
#[test]
fn janus_is_cordoned_by_its_own_api() {
    netns::inside_beside("janus_is_cordoned_by_its_own_api", async || {
        let janus = support::janus::Janus::start(0).await;
        let profile = own_profile("janus-own-cordon.toml");
        let run = support::roomful::Run::start(&janus, "janus_own_cordon", &profile, BUSY_MACHINE).ended().await;
        print_figures(&run);
        assert_eq!(run.code, 0, "{}", run.printed);
        let (cordon, uncordon) = (run.operation("cordon").0, run.operation("uncordon").0);
        let cordoned = |from: f64, until: f64, wanted: bool| {
            let views = run.history.iter().filter(|l| l.t > from && l.t < until).filter_map(|l| match &l.event {
                Event::Fleet(v) if v.backend == "janus" => Some(v),
                _ => None,
            });
            views.flat_map(|v| &v.servers).any(|s| s.cordoned == Some(wanted))
        };
        assert!(cordoned(cordon.done, uncordon.begun, true) && cordoned(uncordon.done, f64::INFINITY, false));
        let refused = run.history.iter().find_map(|l| if let Event::JoinFailed(f) = &l.event { Some(f) } else { None });
        assert!(refused.is_some_and(|f| f.detail.contains("472")), "{refused:?}");
        let after: Vec<f64> = run.landed().values().map(|(_, t)| *t).filter(|t| *t > cordon.begun).collect();
        assert!(after.len() == 2 && after.iter().all(|t| *t > uncordon.done), "{after:?}");
        let invariants = run.invariants();
        assert_eq!([invariants["I2"].as_str(), invariants["I11"].as_str()], ["pass"; 2], "{invariants:?}");
    });
}

/// Its sessions vanish from Janus by themselves, and what its history has until then is judged.
#[test]
fn a_killed_roomful_leaves_no_session() {
    netns::inside_beside("a_killed_roomful_leaves_no_session", async || {
        let janus = support::janus::Janus::start(0).await;
        let profile = own_profile("janus-own-cordon.toml");
        let mut run = support::roomful::Run::start(&janus, "janus_killed_roomful", &profile, BUSY_MACHINE);
        run.holds().await;
        assert_eq!(janus.admin.list_sessions().await.len(), 2);
        let out = run.kill();
        support::until("Janus ends the sessions", Duration::from_secs(20), async || {
            janus.admin.list_sessions().await.is_empty().then_some(())
        })
        .await;
        let report = support::roomful::binary().arg("report").arg(&out).output().unwrap();
        let said = String::from_utf8_lossy(&report.stdout).into_owned() + &String::from_utf8_lossy(&report.stderr);
        assert_eq!(report.status.code(), Some(4), "{said}");
        assert!(said.contains("crashed or was killed"), "{said}");
        let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["participants"]["joined"], 2, "{summary:#}");
    });
}

/// A registry that is paused, cut off from a server and emptied, and a server whose signalling is cut off: no call ends. But
/// this router forgets with its registry where rooms are, and who comes late is alone on another server.
#[test]
fn faults_of_the_registry_are_judged() {
    netns::inside_beside("faults_of_the_registry_are_judged", async || {
        let fleet = JanusFleet::start(&[]).await;
        let sets = [BUSY_MACHINE, &["target_file.fleet.redis.pause=3s"]].concat();
        let run = fleet.run("janus_fleet-registry", &own_profile("janus-registry.toml"), &sets).ended().await;
        print_figures(&run);
        let views = |backend: &str, from: &str, until: &str| {
            let (from, until) = (run.operation(from).0.done, run.operation(until).0.done);
            let all = run.history.iter().filter(move |l| l.t > from && l.t < until);
            let views = all.filter_map(|l| if let Event::Fleet(v) = &l.event { Some(v) } else { None });
            views.filter(|v| v.backend == backend).cloned().collect::<Vec<_>>()
        };
        // A pause is a failed look, no empty fleet; what is cut off is not offered, and what is emptied says so.
        let paused = views("redis", "pause", "resume");
        assert!(paused.iter().any(|v| v.error.is_some() && v.servers.is_empty()), "{paused:?}");
        let cut = views("redis", "cut-registry", "heal-registry");
        let unlisted = |v: &roomful::history::FleetView| {
            v.servers.iter().any(|s| s.server == "janus-2" && s.listed == Some(false) && s.alive == Some(false))
        };
        assert!(cut.iter().any(unlisted), "{cut:?}");
        // New rooms start where the registry still knows somebody, and the late one not where its room is.
        let landed = run.landed();
        let (new, flush) = (run.operation("new").0, run.operation("flush").0);
        let of_new: Vec<_> = landed.values().filter(|(_, t)| *t > new.begun && *t < flush.begun).collect();
        assert!(of_new.len() == 2 && of_new.iter().all(|(s, _)| s != "janus-2"), "{landed:?}");
        let late: Vec<_> = landed.values().filter(|(_, t)| *t > flush.done).collect();
        assert!(late.len() == 1 && late[0].0 != "janus-3", "{landed:?}");

        assert_eq!(run.code, 3, "{}", run.printed);
        let failed: Vec<String> = run.invariants().into_iter().filter(|(_, v)| v == "fail").map(|(i, _)| i).collect();
        // That those in the split room do not hear each other is harm, too, and nobody else was harmed.
        assert_eq!(failed, ["I6", "I9"], "{}", run.summary["scale_in"]["invariants"]);
        let rooms = |id: &str| {
            let all = run.summary["scale_in"]["invariants"].as_array().unwrap();
            let evidence = all.iter().find(|i| i["id"] == id).unwrap()["evidence"].as_array().unwrap();
            evidence.iter().flat_map(|e| e["rooms"].as_array().unwrap().clone()).collect::<Vec<_>>()
        };
        let split = rooms("I6").remove(0);
        assert!(rooms("I9").iter().all(|r| *r == split), "{:?}", rooms("I9"));
        assert_eq!(["judged", "clean", "glitched"].map(|c| run.number(&format!("legs.{c}"))), [9.0, 8.0, 1.0]);
        assert_eq!(run.number("legs.reconnected") + run.number("participants.failed"), 0.0);
        let landings = &run.summary["scale_in"]["audit"]["landings"];
        assert!(landings["compared"].as_u64() >= Some(6), "{landings}");
        assert_eq!(
            (landings["elsewhere"].as_array().unwrap().len(), landings["alike"].as_array().unwrap().len()),
            (0, 0)
        );
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
