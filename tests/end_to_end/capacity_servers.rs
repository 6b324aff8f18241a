//! The capacity search over real sockets: joins that are an objective, servers that differ, a generator that is the limit,
//! and the profiles that are shipped for it.

use super::capacity::{SHORT, embedded, profile};
use super::slow_front;
use super::support::{Place, ROOMFUL};
use crate::disturbed::{alone, beside};
use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::history::Event;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn page(place: &Place) -> String {
    std::fs::read_to_string(place.out().join("report.html")).unwrap()
}

#[test]
fn joins_that_take_too_long_break_the_set_up_objective_by_name() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = EmbeddedOptions { program: Some(ROOMFUL.into()), ..EmbeddedOptions::default() };
    beside(|| {
        let fleet = runtime.block_on(EmbeddedFleet::start(1, 200, &options)).unwrap();
        // Four rooms of four come in at once; to further ones joins take longer than the objective allows.
        let front = slow_front::start(fleet.base_url(), 4, Duration::from_millis(1500));
        let search = "range = \"8..32\"\njoin = \"20/s\"\ntrial = \"2s\"\nfirst_trial = \"1s\"\nsettle = \"500ms\"\nbudget = \"80s\"";
        let objectives =
            "\"setup.total.p95\" = \"<= 1s\"\n\"joins.failed_share\" = \"<= 1%\"\n\"audio.loss\" = \"<= 99%\"";
        let server = fleet.servers()[0].http.clone();
        let text = profile("target = \"target.toml\"", search, objectives);
        let place = Place::against_servers(&front, &[("s1", &server)], &text);
        let run = place.run().finish();
        runtime.block_on(fleet.stop());
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        let a = &summary["capacity"];
        assert_eq!((&a["lower"], &a["upper"], &a["stop"]), (&16.into(), &20.into(), &"width".into()), "{a:#}");
        assert_eq!(a["broke_first"], "setup.total.p95 <= 1s");
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(sentence.starts_with("16–20 per server; set-up p95 broke first, at "), "{sentence}");
        assert!(sentence.contains(" % CPU; scale out at 13 = 16 "), "{sentence}");
        // The rate that was reached, not only the one that was asked for.
        let reached = a["join_rate"].as_f64().unwrap();
        assert_eq!(a["join_rate_wanted"], 20.0);
        assert!((15.0..=25.0).contains(&reached), "{reached}");
        assert!(a["setup_p95"].as_f64().unwrap() < 1000.0, "{a:#}");
        for t in a["trials"].as_array().unwrap() {
            // Rooms are sent to the server that the target file names, and what it costs is what it says itself.
            let cost = &t["servers"][0]["cost"];
            // A second between two readings is more than a second, and may not lie within a trial that is no longer.
            if t["until"].as_f64().unwrap() - t["from"].as_f64().unwrap() > 1500.0 {
                assert!(cost["cpu"].is_f64() && cost["memory_bytes"].as_f64().unwrap() > 1e6, "{t:#}");
            }
            assert_eq!(t["servers"][0]["server"], "s1");
            let (p95, late) = (t["servers"][0]["setup_p95"].as_f64(), t["join_late_max"].as_f64());
            let broke = t["outcome"] == "broke";
            assert!(p95.is_none_or(|ms| (ms > 1000.0) == broke) && late.is_none_or(|ms| ms >= 0.0), "{t:#}");
        }
        assert!(run.stdout.contains("a second reached, 20 a second wanted"), "{}", run.stdout);
        let page = page(&place);
        for shown in [
            "joins/s reached, of those wanted",
            "set-up p95 at capacity",
            "Set-up time p95",
            "limit &lt;= 1s",
            "the joins that led to it",
        ] {
            assert!(page.contains(shown), "{shown}");
        }
        let again = place.report(&[]);
        assert_eq!((again.code, &place.summary()["capacity"]), (Some(0), a), "{again:?}");
    });
}

#[test]
fn of_two_servers_the_weaker_one_is_named() {
    beside(|| {
        let servers =
            "target = \"embedded\"\n[embedded]\nservers = 2\n[[embedded.server]]\nid = \"s2\"\nparticipants_max = 14\n";
        let place = Place::with(&profile(
            servers,
            &SHORT.replace("4..60", "8..24"),
            "\"audio.loss\" = \"<= 99%\"\n\"joins.failed_share\" = \"<= 1%\"",
        ));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        let a = &summary["capacity"];
        // Three whole rooms of the 14 that s2 lets in.
        assert_eq!((&a["lower"], &a["upper"], &a["stop"]), (&12.into(), &16.into(), &"width".into()), "{a:#}");
        assert_eq!(a["weakest"], serde_json::json!(["s2"]));
        let server = |i: usize, key: &str| a["servers"][i][key].clone();
        assert_eq!([server(0, "server"), server(1, "server")], [Value::from("s1"), Value::from("s2")]);
        assert_eq!([server(1, "lower"), server(1, "upper")], [Value::from(12), Value::from(16)]);
        assert_eq!(server(1, "broke_first"), "admission limit");
        assert_eq!([server(0, "upper"), server(0, "broke_first")], [Value::Null, Value::Null]);
        assert!(server(0, "held").as_u64().unwrap() >= 16, "{a:#}");
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(
            sentence.starts_with("12–16 per server, by s2 (the other one held 16); then the server's own"),
            "{sentence}"
        );
        assert!(run.stdout.contains("s2: 12–16  admission limit"), "{}", run.stdout);
        let page = page(&place);
        assert!(page.contains("Each server by itself") && page.contains("s2 (weakest)"));
        // Joins take turns: while the load grew, each server had half of the rate.
        let first = &a["trials"][0];
        let rates = [&first["join_rate"], &first["servers"][0]["join_rate"], &first["servers"][1]["join_rate"]];
        let [all, one, two] = rates.map(|r| r.as_f64().unwrap());
        assert!((one - two).abs() < 0.3 * all && one < 0.8 * all && two < 0.8 * all, "{all} {one} {two}");
    });
}

#[test]
fn a_generator_that_can_measure_nothing_proves_nothing() {
    beside(|| {
        // Nobody is ever that punctual.
        let text = profile(&embedded(""), SHORT, "\"audio.loss\" = \"<= 99%\"")
            .replace("timer_p99_max = \"10s\"", "timer_p99_max = \"0s\"");
        let place = Place::with(&text);
        let run = place.run().finish();
        assert_eq!(run.code, Some(4), "{run:?}");
        let summary = place.summary();
        assert_eq!((&summary["verdict"], &summary["capacity"]["stop"]), (&"unknown".into(), &"generator".into()));
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(
            sentence.starts_with("Nothing proven, generator-limited: the generator was unhealthy in "),
            "{sentence}"
        );
        assert!(sentence.contains("timers late, p99 "), "{sentence}");
        assert!(!place.out().join("capacity.env").exists() && summary["capacity"]["threshold"].is_null());
    });
}

/// Runs a profile as it is shipped; what it says of itself, by its own clock, must be within its budget.
fn shipped(name: &str, budget_ms: f64) -> Value {
    let _alone = alone();
    let place = Place::with("");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(name);
    let mut command = Command::new(ROOMFUL);
    command.arg("run").arg(path).arg("--out").arg(place.out());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let summary = place.summary();
    let (a, sentence) = (&summary["capacity"], summary["sentence"].as_str().unwrap());
    eprintln!("{name}: {sentence}");
    let end = place.lines().into_iter().find(|l| matches!(l.event, Event::SearchEnd { .. })).unwrap();
    assert!(end.t <= budget_ms + 1000.0, "{}", end.t);
    // Everybody leaves after that.
    assert!(summary["run"]["wall"].as_f64().unwrap() <= budget_ms + 10_000.0, "{}", summary["run"]);
    match status.code() {
        Some(0) => {
            assert!(a["lower"].as_u64().unwrap() < a["upper"].as_u64().unwrap(), "{a:#}");
            assert!(a["broke_first"].is_string() && a["threshold"]["participants"].is_u64(), "{a:#}");
        }
        // On a busy machine it says why there are none.
        Some(4) => {
            let why = ["generator-limited", "Not settled within ", "At least "];
            assert!(why.iter().any(|w| sentence.contains(w)) && a["threshold"].is_null(), "{sentence}");
        }
        Some(3) => assert!(sentence.starts_with("Objectives broken at the lowest load"), "{sentence}"),
        other => panic!("{other:?}: {sentence}"),
    }
    assert!(page(&place).contains("Capacity of one server"));
    summary
}

#[test]
#[ignore = "takes two minutes: run by make test-long"]
fn the_demo_of_capacity_ends_within_its_budget_with_bounds_or_a_reason() {
    let summary = shipped("capacity-demo.toml", 170_000.0);
    // 40 % of a core, at 40 µs a packet: 10,000 packets a second, of which a participant gets 150.
    if let [Some(lower), Some(upper)] = ["lower", "upper"].map(|key| summary["capacity"][key].as_f64()) {
        assert!(lower - 4.0 <= 66.7 && 66.7 <= upper + 4.0, "{}", summary["sentence"]);
    }
}

#[test]
#[ignore = "takes up to ten minutes: run by make test-long"]
fn the_join_storm_ends_within_its_budget_with_bounds_or_a_reason() {
    shipped("join-storm.toml", 600_000.0);
}
