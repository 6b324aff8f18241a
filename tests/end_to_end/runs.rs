//! Whole runs: the program, the embedded fleet as its processes, real sockets on loopback. What it prints, writes and
//! ends with is what its users get.

#![allow(clippy::unwrap_used, reason = "a test")]

mod adaptation;
mod bad_input;
mod capacity;
mod capacity_servers;
mod churn;
mod clients;
#[path = "../support/disturbed.rs"]
mod disturbed;
mod fake_server;
mod last_n;
mod layers;
mod scale_in;
mod slow_front;
mod support;
#[path = "../targets/support/mod.rs"]
mod targets;

use crate::disturbed::beside;
use roomful::history::{Event, LegCause, LegEnd, Line, Phase};
use roomful::measure::FlowCounters;
use roomful::types::Kind;
use std::collections::BTreeMap;
use support::{Place, VIDEO, assert_ended, assert_vanish, fleet_of, profile, rooms, signal};

const LIMITS: &[&str] = &["joins.failed_share == 0%", "legs.dropped == 0", "audio.loss <= 0.3%", "video.loss <= 0.3%"];

fn pairs(hold: &str) -> Place {
    Place::with(&profile("embedded", &rooms("meeting", 4, 2, VIDEO), hold, LIMITS))
}

fn leg_ends(lines: &[Line]) -> Vec<LegEnd> {
    let end = |line: &Line| match &line.event {
        Event::LegEnd(end) => Some(end.clone()),
        _ => None,
    };
    lines.iter().filter_map(end).collect()
}

/// Names of rooms, by number.
fn room_names(lines: &[Line]) -> Vec<String> {
    let rooms = lines.iter().find_map(|line| match &line.event {
        Event::Rooms { rooms } => Some(rooms.iter().map(|r| r.name.clone()).collect()),
        _ => None,
    });
    rooms.unwrap()
}

#[test]
fn a_small_run_passes() {
    beside(|| {
        let place = pairs("5s");
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");

        let summary = place.summary();
        assert_eq!(summary["verdict"], "pass");
        assert_eq!(summary["run"]["seed"], 7);
        assert_eq!((&summary["participants"]["planned"], &summary["participants"]["joined"]), (&8.into(), &8.into()));
        let legs = |class: &str| summary["legs"][class].as_u64().unwrap();
        // On a starved machine a gap of a second may be ours.
        assert_eq!((legs("judged"), legs("clean") + legs("glitched")), (8, 8));
        for kind in ["audio", "video"] {
            let counts = &summary[kind];
            assert_eq!((&counts["loss"], &counts["rtp"]["loss"]), (&0.0.into(), &0.0.into()), "{kind}");
            assert_eq!(counts["loss_source"], "e2e");
            // Each packet that was sent came out at the one other participant of the room.
            let expected = counts["e2e"]["expected"].as_u64().unwrap();
            // At least four whole seconds, 30 packets in each.
            assert!(expected > 8 * 4 * 29, "{kind}: {expected}");
            assert_eq!(expected, counts["e2e"]["received"].as_u64().unwrap(), "{kind}");
        }
        // Limits are judged on each server, and both had rooms.
        let servers: Vec<&str> =
            summary["servers"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
        assert_eq!(servers, ["s1", "s2"]);
        for server in summary["servers"].as_array().unwrap() {
            assert_eq!((&server["rooms_max"], &server["participants_max"]), (&2.into(), &4.into()));
            assert_eq!(server["audio"]["loss"], 0.0);
        }
        let limits = summary["pass"].as_array().unwrap();
        assert_eq!(limits.len(), LIMITS.len());
        for limit in limits {
            assert_eq!(limit["verdict"], "pass");
            let by_server = limit["metric"].as_str().unwrap().ends_with(".loss");
            assert_eq!(limit["server"].is_string(), by_server, "{limit}");
        }
        assert_eq!(summary["rooms_worst"].as_array().unwrap().len(), 4);

        // A plain line a second: nothing that only a terminal understands.
        assert!(run.stderr.contains("seed 7") && run.stderr.contains("8 participants in 4 rooms"), "{}", run.stderr);
        let seconds: Vec<&str> = run.stderr.lines().filter(|line| line.contains("8/8 connected")).collect();
        assert!(seconds.len() >= 5, "{}", run.stderr);
        assert!(
            seconds.iter().any(|line| line.contains(" hold ") && line.contains("audio loss 0.00 %")),
            "{seconds:?}"
        );
        for text in [&run.stderr, &run.stdout] {
            assert!(!text.contains(['\x1b', '\r']), "{text:?}");
        }
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(sentence.starts_with("8 of 8 joined; all 4 limits held on all 2 servers"), "{sentence}");
        assert!(run.stdout.contains(&format!("PASS: {sentence}")), "{}", run.stdout);

        let page = std::fs::read_to_string(place.out().join("report.html")).unwrap();
        assert!(page.contains("8 of 8 joined; all 4 limits held"));
        assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "fetches something");
        assert_ended(&place.lines(), false);

        // Judged again from the history, it comes out the same.
        let again = place.report(&["--print"]);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert!(run.stdout.starts_with(&again.stdout), "{}\n{}", run.stdout, again.stdout);
        let files = || ["summary.json", "report.html"].map(|name| std::fs::read(place.out().join(name)).unwrap());
        let before = files();
        assert_eq!(place.report(&[]).code, Some(0));
        assert!(before == files());
    });
}

#[test]
fn a_share_of_the_participants_is_behind_a_bad_network() {
    beside(|| {
        let far = rooms("far", 2, 4, "network = { share = \"50%\", down = { delay = \"80ms\", duplicate = \"5%\" } }");
        let place = Place::with(&profile("embedded", &far, "5s", &["legs.dropped == 0", "audio.loss == 0%"]));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let lines = place.lines();
        let (behind, not): (Vec<LegEnd>, Vec<LegEnd>) =
            leg_ends(&lines).into_iter().partition(|end| end.impaired.is_some());
        assert_eq!((behind.len(), not.len()), (4, 4));
        for end in &behind {
            let [up, down] = end.impaired.unwrap();
            // STUN, DTLS and RTCP are on the same wire.
            assert!(down.duplicated > 0 && down.received > end.audio.received as u64, "{down:?}");
            assert_eq!((up.lost, down.lost, up.duplicated), (0, 0, 0));
            let copies = end.audio.duplicate + end.video.duplicate;
            assert!(copies > 0 && copies as u64 <= down.duplicated, "{copies} {down:?}");
        }
        assert!(not.iter().all(|end| end.audio.duplicate == 0));
        let summary = place.summary();
        let delay = |q: &str| summary["audio"]["delay"][q].as_f64().unwrap();
        // Half of the receivers have it, to the millisecond: the tick in which it is handed over is not in it.
        assert!(delay("p99") >= 79.0, "{}", summary["audio"]["delay"]);
        let note = summary["notes"].as_array().unwrap().iter().find(|n| n["code"] == "networks").unwrap();
        assert_eq!(note["count"], 4, "{note}");
    });
}

#[test]
fn loss_that_we_make_is_measured_where_we_made_it() {
    beside(|| {
        let lossy = rooms("lossy", 2, 4, "network = { loss_down = \"3%\" }");
        let clean = rooms("clean", 2, 4, "");
        let place =
            Place::with(&profile("embedded", &(lossy + &clean), "8s", &["audio.loss <= 0.3%", "legs.dropped == 0"]));
        let run = place.run().finish();
        assert_eq!(run.code, Some(3), "{run:?}");

        let lines = place.lines();
        let names = room_names(&lines);
        let mut rooms: BTreeMap<&str, FlowCounters> = BTreeMap::new();
        for end in leg_ends(&lines) {
            *rooms.entry(&names[end.room.index()]).or_default() += &end.audio;
        }
        assert_eq!(rooms.keys().copied().collect::<Vec<_>>(), ["clean-1", "clean-2", "lossy-1", "lossy-2"]);
        let mut lossy = FlowCounters::default();
        for (room, counts) in &rooms {
            assert!(counts.e2e_expected > 12 * 50 * 8, "{room}: {counts:?}");
            if room.starts_with("clean") {
                assert_eq!(counts.e2e_received, counts.e2e_expected, "{room}");
            } else {
                lossy += counts;
            }
        }
        // Each packet is dropped by itself, so the count is binomial: five of its standard deviations to either side.
        let (n, p) = (lossy.e2e_expected as f64, 0.03);
        let lost = n - lossy.e2e_received as f64;
        let sigma = (n * p * (1.0 - p)).sqrt();
        assert!((lost - n * p).abs() <= 5.0 * sigma, "lost {lost} of {n}, {} expected, sigma {sigma}", n * p);

        let summary = place.summary();
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(sentence.contains("of audio (limit 0.3 %)"), "{sentence}");
        assert_eq!(summary["pass"][0]["verdict"], "fail");
        assert_eq!(summary["pass"][1]["verdict"], "pass", "nobody was dropped");
        for room in summary["rooms_worst"].as_array().unwrap() {
            let loss = room["audio_loss"].as_f64().unwrap();
            let (low, high) = if room["room"].as_str().unwrap().starts_with("lossy") { (1.5, 4.5) } else { (0.0, 0.0) };
            assert!((low..=high).contains(&loss), "{room}");
        }
        assert_eq!(place.report(&["--print"]).code, Some(3));
    });
}

/// Datagrams that are overtaken while the next one already lies in the socket are delivered behind it.
#[test]
fn reordering_that_we_make_comes_back() {
    beside(|| {
        // The next packet of a stream comes 20 ms later.
        let late = rooms("late", 2, 4, "network = { down = { reorder = \"10%\", reorder_by = \"22ms\" } }");
        let place = Place::with(&profile("embedded", &late, "8s", &["legs.dropped == 0"]));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let mut all = FlowCounters::default();
        leg_ends(&place.lines()).iter().for_each(|end| all += &end.audio);
        let (n, reordered) = (all.received as f64, all.reordered as f64);
        println!("{reordered} of {n} reordered");
        // Of those that are held back, those whose next one is not held back, too.
        let p = 0.1 * 0.9;
        let sigma = (n * p * (1.0 - p)).sqrt();
        // Senders are up to some ms late now and then, and the server forwards in its own time.
        assert!(reordered >= 0.9 * n * p - 5.0 * sigma && reordered <= n * p + 5.0 * sigma, "{reordered} of {n}");
    });
}

#[test]
fn ctrl_c_ends_the_calls_and_judges_what_was_seen() {
    beside(|| {
        let place = pairs("10m");
        let mut run = place.run();
        run.says("00:04 hold");
        let fleet = fleet_of(run.pid());
        assert_eq!(fleet.len(), 3, "{fleet:?}");
        run.signal("INT");
        let run = run.finish();
        assert_eq!(run.code, Some(130), "{run:?}");
        assert!(run.stderr.contains("Interrupted: ending the calls"), "{}", run.stderr);
        assert_vanish(&fleet);

        let lines = place.lines();
        assert_ended(&lines, true);
        assert!(lines.iter().any(|line| line.event == Event::Phase { phase: Phase::Leaving }));
        let ends = leg_ends(&lines);
        assert_eq!(ends.len(), 8);
        for end in &ends {
            assert_eq!(end.cause, LegCause::Left, "{}", end.detail);
            assert_eq!(end.audio.e2e_expected, end.audio.e2e_received, "ending makes no loss");
        }
        let summary = place.summary();
        assert_eq!((&summary["verdict"], &summary["run"]["interrupted"]), (&"unknown".into(), &true.into()));
        assert_eq!(summary["audio"]["loss"], 0.0);
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(sentence.contains("interrupted at 00:0") && sentence.contains("held until then"), "{sentence}");
        assert!(place.out().join("report.html").exists());
        assert!(run.stdout.contains(sentence), "{}", run.stdout);
        assert_eq!(place.report(&["--print"]).code, Some(4), "as judged, whoever interrupted it");
    });
}

#[test]
fn nothing_outlives_a_killed_roomful_and_its_history_can_be_judged() {
    let place = pairs("10m");
    let mut run = place.run();
    run.says("00:04 hold");
    let fleet = fleet_of(run.pid());
    run.signal("KILL");
    assert_eq!(run.finish().code, None);
    assert_vanish(&fleet);

    let seconds = place.lines().iter().filter(|line| matches!(line.event, Event::Interval(_))).count();
    assert!(seconds >= 3, "{seconds} seconds of history");
    assert!(!place.out().join("summary.json").exists());
    let report = place.report(&[]);
    assert_eq!(report.code, Some(4), "{report:?}");
    assert!(report.stdout.contains("the history ends at 00:0"), "{}", report.stdout);
    let summary = place.summary();
    assert_eq!((&summary["run"]["ended"], &summary["participants"]["joined"]), (&false.into(), &8.into()));
}

/// 3 s into the hold one of two servers gets a signal; then all its legs end, and the others' don't notice.
fn a_server_gets(name_of_signal: &str, hold: &str) -> (Place, Vec<LegEnd>, String) {
    let place = pairs(hold);
    let mut run = place.run();
    run.says("00:03 hold");
    let (victim, line) = fleet_of(run.pid())[1].clone();
    let name = line[line.iter().position(|word| word == "--id").unwrap() + 1].clone();
    signal(victim, name_of_signal);
    let run = run.finish();
    assert_eq!(run.code, Some(3), "{run:?}");

    let lines = place.lines();
    assert_ended(&lines, false);
    let servers: Vec<String> = lines
        .iter()
        .filter_map(|line| match &line.event {
            Event::Server(info) => Some(info.name.clone()),
            _ => None,
        })
        .collect();
    let (there, elsewhere): (Vec<LegEnd>, Vec<LegEnd>) =
        leg_ends(&lines).into_iter().partition(|end| servers[end.server.unwrap().index()] == name);
    assert_eq!((there.len(), elsewhere.len()), (4, 4));
    for end in &elsewhere {
        assert_eq!(end.cause, LegCause::Left, "{}", end.detail);
        assert_eq!(end.audio.e2e_expected, end.audio.e2e_received);
    }
    let summary = place.summary();
    // Those elsewhere at most: on a starved machine a gap of a second may be ours.
    assert!(summary["legs"]["clean"].as_u64() <= Some(4), "{}", summary["legs"]);
    assert_eq!(summary["legs"]["dropped"], 4, "{}", summary["legs"]);
    let sentence = summary["sentence"].as_str().unwrap();
    assert!(sentence.contains(&format!("4 of 8 legs dropped (limit 0): all on {name}")), "{sentence}");
    (place, there, name)
}

#[test]
fn a_server_killed_in_mid_call_is_named() {
    beside(|| {
        let (place, there, _) = a_server_gets("KILL", "7s");
        for end in &there {
            assert_eq!(end.cause, LegCause::SignalingLost);
            assert!(!end.detail.is_empty());
        }
        let summary = place.summary();
        let note = summary["notes"].as_array().unwrap().iter().find(|note| note["code"] == "media_refused").unwrap();
        assert_eq!(note["count"], 4, "one a leg: {note}");
    });
}

/// Ends of the legs that a server carried.
fn legs_of(lines: &[Line], server: &str) -> Vec<LegEnd> {
    let id = lines.iter().find_map(|line| match &line.event {
        Event::Server(info) if info.name == server => Some(info.id),
        _ => None,
    });
    leg_ends(lines).into_iter().filter(|end| end.server == id).collect()
}

/// They hear nothing for 15 s: that is a drop, long before consent ends and whatever their leave says.
#[test]
fn legs_of_a_stopped_server_are_dropped_when_they_heard_nothing_for_15_s() {
    beside(|| {
        let (place, there, _) = a_server_gets("STOP", "20s");
        // Told of while it lasts, within a second.
        let silent = |l: &Line| match l.event {
            Event::Silent { from_ms, .. } => Some(l.t - from_ms),
            _ => None,
        };
        let silent: Vec<f64> = place.lines().iter().filter_map(silent).collect();
        assert!(silent.len() == 4 && silent.iter().all(|ms| (15_000.0..16_100.0).contains(ms)), "{silent:?}");
        assert!(place.stderr().contains(", 4 dropped"), "{}", place.stderr());
        for end in &there {
            assert_eq!(end.cause, LegCause::LeftUnacknowledged);
            let longest = end.silences.iter().map(|s| s.until_ms - s.from_ms).fold(0.0, f64::max);
            assert!((15_000.0..20_000.0).contains(&longest), "{:?}", end.silences);
            assert_eq!(end.ice_restarts, 1, "in vain");
            let open = end.flow_gaps.iter().filter(|g| g.until_ms - g.from_ms > 14_000.0);
            assert_eq!(open.count(), 2, "audio and video of the other: {:?}", end.flow_gaps);
        }
    });
}

/// A server that stands still answers no checks: its participants restart ICE, and when it goes on, they are back on
/// new credentials, in the same calls.
#[test]
fn ice_restarts_bring_legs_back_from_a_server_that_stood_still() {
    beside(|| {
        let place = pairs("18s");
        let mut run = place.run();
        run.says("00:03 hold");
        let (frozen, line) = fleet_of(run.pid())[1].clone();
        let name = line[line.iter().position(|word| word == "--id").unwrap() + 1].clone();
        signal(frozen, "STOP");
        // A check each 4 to 6 s, and 10 s without an answer.
        std::thread::sleep(std::time::Duration::from_secs(11));
        signal(frozen, "CONT");
        let run = run.finish();
        // What the server's sockets hold comes late, the rest is lost; which of both decides the verdict. Nobody is dropped.
        assert!(matches!(run.code, Some(0 | 3)), "{run:?}");
        let lines = place.lines();
        let there = legs_of(&lines, &name);
        assert_eq!(there.len(), 4);
        for end in &there {
            assert_eq!((end.cause, end.ice_restarts), (LegCause::Left, 1), "{}", end.detail);
            let silences: Vec<f64> =
                end.silences.iter().map(|s| s.until_ms - s.from_ms).filter(|ms| *ms > 5000.0).collect();
            assert!(matches!(silences[..], [ms] if (10_000.0..15_000.0).contains(&ms)), "{:?}", end.silences);
            // The other one of the pair, by kind.
            let long = end.flow_gaps.iter().filter(|g| g.until_ms - g.from_ms > 5000.0);
            let gaps: Vec<_> = long.map(|g| (g.from == end.leg, g.kind)).collect();
            assert_eq!(gaps.len(), 2, "{:?}", end.flow_gaps);
            assert!(
                gaps.contains(&(false, Kind::Audio)) && gaps.contains(&(false, Kind::Video)),
                "{:?}",
                end.flow_gaps
            );
        }
        let summary = place.summary();
        assert_eq!((&summary["legs"]["dropped"], &summary["legs"]["judged"]), (&0.into(), &8.into()));
        let notes = summary["notes"].as_array().unwrap();
        for code in ["ice_restart", "ice_restarted"] {
            let count = notes.iter().find(|note| note["code"] == code).and_then(|note| note["count"].as_u64());
            assert!(count >= Some(4), "{code}: {notes:?}");
        }
    });
}

#[test]
#[ignore = "consent lasts for 30 s (RFC 7675); `make test-long` runs it"]
fn legs_of_a_stopped_server_are_dropped_when_consent_expires() {
    let (_place, there, _) = a_server_gets("STOP", "45s");
    assert!(there.iter().all(|end| end.cause == LegCause::ConsentExpired), "{there:?}");
}
