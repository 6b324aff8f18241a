//! The capacity search on the embedded fleet, whose limits are known: a cap on participants, a CPU quota, a server that is
//! stopped half of the time.

use super::fake_server::FakeServer;
use super::support::{Place, ROOMFUL, fleet_of, signal};
use crate::disturbed::undisturbed;
use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Tests share two cores with other tests: that the generator was late is no news here.
const TOLERANT: &str = "[health]\nshard_cpu_max = \"100%\"\nsteal_max = \"100%\"\nlateness_p99_max = \"10s\"\n\
    timer_p99_max = \"10s\"\nsocket_drops_max = \"100%\"\nudp_errors_max = \"100%\"\nreference_loss_max = \"100%\"\n\
    reference_delay_p99_max = \"10s\"\nreference_jitter_max = \"10s\"\n";

fn profile(top: &str, search: &str, objectives: &str) -> String {
    format!(
        "shape = \"capacity\"\nseed = 7\n{top}\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n\
         [search]\n{search}\n[objectives]\n{objectives}\n[answer]\nservers = 10\ngrowth = \"6/min\"\nboot = \"60s\"\n{TOLERANT}"
    )
}

fn embedded(keys: &str) -> String {
    format!("target = \"embedded\"\n[embedded]\nservers = 1\n{keys}")
}

const SHORT: &str = "range = \"4..60\"\njoin = \"20/s\"\ntrial = \"3s\"\nfirst_trial = \"2s\"\nsettle = \"1s\"\nbudget = \"80s\"\nloss_ratio = \"90%\"";

#[test]
fn an_admission_limit_is_found_and_named() {
    undisturbed(|| {
        let place = Place::with(&profile(
            &embedded("participants_max = 26"),
            SHORT,
            "\"audio.loss\" = \"<= 99%\"\n\"joins.failed_share\" = \"<= 1%\"",
        ));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        let a = &summary["capacity"];
        // 26 are let in: six whole rooms, not seven.
        assert_eq!((&a["lower"], &a["upper"], &a["stop"]), (&24.into(), &28.into(), &"width".into()), "{a:#}");
        assert_eq!(a["broke_first"], "admission limit");
        // A tenth of it for one lost server of ten, and six participants a minute over ten servers.
        assert_eq!(
            (&a["threshold"]["participants"], &a["threshold"]["lost"], &a["threshold"]["growth"]),
            (&20.into(), &3.into(), &1.into())
        );
        assert!(
            summary["sentence"]
                .as_str()
                .unwrap()
                .starts_with("24–28 per server; then the server's own admission limit")
        );
        let trials = a["trials"].as_array().unwrap();
        assert!(trials.len() <= 12, "{}", trials.len());
        assert_eq!(trials[0]["servers"][0]["server"], "s1");
        // What it cost was seen: the process of the server used CPU and memory.
        let cost = &trials[0]["servers"][0]["cost"];
        assert!(cost["memory_bytes"].as_f64().unwrap() > 1e6 && cost["cpu_cores"].as_f64().unwrap() > 0.0, "{cost}");
        // Six rooms of four send twelve streams each; 50 packets a second come of each.
        assert_eq!(a["streams"], 72);
        let pps = a["egress_pps"].as_f64().unwrap();
        assert!((3000.0..5000.0).contains(&pps), "{pps}");
        let keda = std::fs::read_to_string(place.out().join("keda-scaledobject.yaml")).unwrap();
        assert!(keda.contains("threshold: \"20\""), "{keda}");
        assert!(std::fs::read_to_string(place.out().join("report.html")).unwrap().contains("class=\"curve\""));
        // Anybody can judge again.
        let again = place.report(&[]);
        assert_eq!((again.code, &place.summary()["capacity"]), (Some(0), a), "{again:?}");
    });
}

#[test]
fn what_is_known_is_said_when_interrupted() {
    undisturbed(|| {
        let place = Place::with(&profile(&embedded(""), SHORT, "\"audio.loss\" = \"<= 99%\""));
        let mut run = place.run();
        run.says("trial 2");
        run.signal("INT");
        let run = run.finish();
        assert_eq!(run.code, Some(130), "{run:?}");
        let summary = place.summary();
        assert_eq!((&summary["verdict"], &summary["capacity"]["stop"]), (&"unknown".into(), &"interrupted".into()));
        assert!(summary["sentence"].as_str().unwrap().starts_with("Interrupted: "), "{}", summary["sentence"]);
        assert!(!place.out().join("hpa.yaml").exists());
    });
}

#[test]
fn a_server_that_dies_in_the_search_is_no_limit() {
    undisturbed(|| {
        let place = Place::with(&profile(&embedded(""), SHORT, "\"audio.loss\" = \"<= 99%\""));
        let mut run = place.run();
        run.says("trial 2");
        signal(fleet_of(run.pid())[1].0, "KILL");
        let run = run.finish();
        assert_eq!(run.code, Some(3), "{run:?}");
        let summary = place.summary();
        assert_eq!(summary["capacity"]["stop"], "target_gone", "{}", summary["sentence"]);
        assert!(summary["sentence"].as_str().unwrap().starts_with("Nobody was served by s1 at a load of "));
        assert!(summary["capacity"]["threshold"].is_null());
    });
}

/// Of a summary: lower and upper bound.
fn bounds(summary: &Value) -> (f64, f64) {
    let side = |key: &str| summary["capacity"][key].as_f64().unwrap_or_else(|| panic!("{}", summary["capacity"]));
    (side("lower"), side("upper"))
}

const LONG: &str =
    "range = \"8..400\"\njoin = \"20/s\"\ntrial = \"10s\"\nfirst_trial = \"5s\"\nsettle = \"3s\"\nbudget = \"10m\"";
const DELAY: &str = "\"audio.loss\" = \"<= 1%\"\n\"audio.delay.p99\" = \"<= 120ms\"";

fn long_run(place: &Place) -> Value {
    let mut command = Command::new(ROOMFUL);
    command.arg("run").arg(place.path("profile.toml")).arg("--out").arg(place.out());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let summary = place.summary();
    eprintln!("{}", summary["sentence"]);
    assert_eq!(status.code(), Some(0), "{}", summary["sentence"]);
    summary
}

#[test]
#[ignore = "takes half an hour on a quiet machine"]
fn a_quota_is_found_again_and_again_and_half_of_it_carries_half() {
    let find = |quota: &str| {
        let text = profile(&embedded(&format!("cpu_max = \"{quota}\"")), LONG, DELAY);
        bounds(&long_run(&Place::with(&text)))
    };
    let whole: Vec<(f64, f64)> = (0..5).map(|_| find("20%")).collect();
    let lowers = whole.iter().map(|b| b.0);
    let (least, most) = (lowers.clone().fold(f64::INFINITY, f64::min), lowers.fold(0.0, f64::max));
    // One width of the search on either side.
    assert!(most - least <= (2.0 * 0.05 * most).max(8.0), "{whole:?}");
    let half = find("10%");
    let ratio = half.0 / (whole.iter().map(|b| b.0).sum::<f64>() / 5.0);
    eprintln!("{whole:?}, half of the quota {half:?}: {ratio:.2}");
    assert!((0.35..=0.65).contains(&ratio), "{ratio}");
}

#[test]
#[ignore = "takes minutes on a quiet machine"]
fn a_server_that_is_stopped_half_of_the_time_carries_less() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let find = |stopped_ms: u64| {
        let options = EmbeddedOptions { program: Some(ROOMFUL.into()), ..EmbeddedOptions::default() };
        let fleet = runtime.block_on(EmbeddedFleet::start(1, 2000, &options)).unwrap();
        let pid = fleet.servers()[0].pid;
        let text =
            profile("target = \"target.toml\"", &LONG.replace("8..400", "8..1200").replace("20/s", "40/s"), DELAY);
        let place = Place::against(fleet.base_url(), &text);
        let over = Arc::new(AtomicBool::new(false));
        let cycle = {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Relaxed) && stopped_ms > 0 {
                    signal(pid, "STOP");
                    std::thread::sleep(Duration::from_millis(stopped_ms));
                    signal(pid, "CONT");
                    std::thread::sleep(Duration::from_millis(100 - stopped_ms));
                }
            })
        };
        let found = bounds(&long_run(&place));
        over.store(true, Relaxed);
        cycle.join().unwrap();
        runtime.block_on(fleet.stop());
        found
    };
    let (some, more) = (find(40), find(80));
    eprintln!("stopped 40 % {some:?}, 80 % {more:?}");
    assert!(more.1 < some.0 * 0.7, "{more:?} against {some:?}");
}

#[test]
fn a_target_that_nobody_can_join_is_said_plainly() {
    // Rooms of this name are answered with garbage.
    let nobody = "127.0.0.1:9".parse().unwrap();
    let server = FakeServer::start(nobody, nobody);
    let text =
        profile("target = \"target.toml\"", SHORT, "\"audio.loss\" = \"<= 99%\"").replace("\"m\"", "\"garbage\"");
    let place = Place::against(&server.url, &text);
    let run = place.run().finish();
    assert_eq!(run.code, Some(3), "{run:?}");
    let summary = place.summary();
    let sentence = summary["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("Nobody was served by all servers at a load of 4: "), "{sentence}");
    assert!(sentence.ends_with("no load was proven."), "{sentence}");
    assert_eq!(summary["capacity"]["trials"].as_array().unwrap().len(), 1);
}
