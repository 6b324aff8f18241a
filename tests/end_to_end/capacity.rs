//! The capacity search on the embedded fleet, whose limits are known: a cap on participants, a CPU quota, a server that is
//! stopped half of the time.

use super::fake_server::FakeServer;
use super::support::{Place, ROOMFUL, fleet_of, signal};
use crate::disturbed::{alone, beside};
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

pub fn profile(top: &str, search: &str, objectives: &str) -> String {
    format!(
        "shape = \"capacity\"\nseed = 7\n{top}\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n\
         [search]\n{search}\n[objectives]\n{objectives}\n[answer]\nservers = 10\ngrowth = \"6/min\"\nboot = \"60s\"\n{TOLERANT}"
    )
}

pub fn embedded(keys: &str) -> String {
    format!("target = \"embedded\"\n[embedded]\nservers = 1\n{keys}")
}

pub const SHORT: &str = "range = \"4..60\"\njoin = \"20/s\"\ntrial = \"3s\"\nfirst_trial = \"2s\"\nsettle = \"1s\"\nbudget = \"80s\"\nloss_ratio = \"90%\"";

#[test]
fn an_admission_limit_is_found_and_named() {
    beside(|| {
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
        assert!(cost["run_queue"].as_f64().is_some_and(|n| n >= 0.0) && cost["steal"].is_number(), "{cost}");
        // Six rooms of four send twelve streams each; 50 packets a second come of each.
        assert_eq!(a["streams"], 72);
        let pps = a["egress_pps"].as_f64().unwrap();
        assert!((3000.0..5000.0).contains(&pps), "{pps}");
        let keda = std::fs::read_to_string(place.out().join("keda-scaledobject.yaml")).unwrap();
        // The autoscaler acts at a tenth more than its target.
        assert!(keda.contains("threshold: \"18\""), "{keda}");
        let hpa: String = std::fs::read_to_string(place.out().join("hpa.yaml")).unwrap();
        assert!(hpa.contains("kind: HorizontalPodAutoscaler") && hpa.contains("averageValue: \"18\""), "{hpa}");
        // One more than may be lost, and twice the ten of [answer], which the reader is told to look at.
        assert!(keda.contains("minReplicaCount: 2\n") && hpa.contains("minReplicas: 2\n  maxReplicas: 20\n"), "{hpa}");
        assert!([&keda, &hpa].iter().all(|text| text.contains("\n# Replicas: ")), "{keda}");
        let numbers = std::fs::read_to_string(place.out().join("capacity.env")).unwrap();
        assert!(numbers.ends_with("PARTICIPANTS_LOWER=24\nPARTICIPANTS_UPPER=28\nSCALE_OUT_AT=20\n"), "{numbers}");
        let page = std::fs::read_to_string(place.out().join("report.html")).unwrap();
        for shown in [
            "class=\"curve\"",
            "CPU of the server",
            "Memory of the server",
            "Run queue of the server",
            "What the server waited for",
        ] {
            assert!(page.contains(shown), "{shown}");
        }
        // Anybody can judge again.
        let again = place.report(&[]);
        assert_eq!((again.code, &place.summary()["capacity"]), (Some(0), a), "{again:?}");
    });
}

#[test]
fn what_is_known_is_said_when_interrupted() {
    beside(|| {
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
    beside(|| {
        let place = Place::with(&profile(&embedded(""), SHORT, "\"audio.loss\" = \"<= 99%\""));
        let mut run = place.run();
        run.says("trial 2");
        signal(fleet_of(run.pid())[1].0, "KILL");
        let run = run.finish();
        assert_eq!(run.code, Some(3), "{run:?}");
        let summary = place.summary();
        assert_eq!(summary["capacity"]["stop"], "target_gone", "{}", summary["sentence"]);
        // It may die within a trial or before one.
        let sentence = summary["sentence"].as_str().unwrap().replace(" any more", "");
        assert!(sentence.starts_with("Nobody was served by s1 at a load of "), "{sentence}");
        assert!(summary["capacity"]["threshold"].is_null());
    });
}

/// Of a summary: lower and upper bound.
fn bounds(summary: &Value) -> (f64, f64) {
    let side = |key: &str| summary["capacity"][key].as_f64().unwrap_or_else(|| panic!("{}", summary["capacity"]));
    (side("lower"), side("upper"))
}

/// A packet costs the server 30 µs of CPU, whatever the machine: with all of a core it sends on 33,333 packets a second. A
/// participant in a room of four gets 150.
const COST: Duration = Duration::from_micros(30);

fn carries(share_of_a_core: f64) -> f64 {
    share_of_a_core / COST.as_secs_f64() / 150.0
}

const LONG: &str =
    "range = \"8..400\"\njoin = \"20/s\"\ntrial = \"15s\"\nfirst_trial = \"8s\"\nsettle = \"3s\"\nbudget = \"10m\"";
/// What is asked for a hundredth more than it can do is behind by 150 ms after 15 s; what stands still for 80 ms is no worse.
const BACKLOG: &str = "\"audio.loss\" = \"<= 1%\"\n\"audio.delay.p99\" = \"<= 200ms\"";

fn long_run(place: &Place) -> Value {
    let mut command = Command::new(ROOMFUL);
    command.arg("run").arg(place.path("profile.toml")).arg("--out").arg(place.out());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let summary = place.summary();
    eprintln!("{}", summary["sentence"]);
    assert_eq!(status.code(), Some(0), "{}", summary["sentence"]);
    summary
}

/// Right, and the same: within one room, or 5 %.
fn off(known: f64) -> f64 {
    (0.05 * known).max(4.0)
}

#[test]
#[ignore = "takes twenty minutes on a quiet machine: run by make test-long"]
fn a_quota_is_found_again_and_again_and_half_of_it_carries_half() {
    let _alone = alone();
    let find = |quota: &str| {
        let keys = format!("cpu_max = \"{quota}\"\npacket_cost = \"30us\"");
        bounds(&long_run(&Place::with(&profile(&embedded(&keys), LONG, BACKLOG))))
    };
    let whole: Vec<(f64, f64)> = (0..5).map(|_| find("48%")).collect();
    let half = find("24%");
    eprintln!("{whole:?}, half of the quota {half:?}");
    // 106.7, of which 104 are whole rooms.
    let known = carries(0.48);
    assert!(whole.iter().all(|(lower, upper)| lower - off(known) <= known && known <= upper + off(known)), "{known}");
    let lowers = || whole.iter().map(|(lower, _)| *lower);
    let (least, most) = (lowers().fold(f64::MAX, f64::min), lowers().fold(0.0, f64::max));
    assert!(most - least <= off(most), "{whole:?}");
    assert!(half.0 - off(known / 2.0) <= known / 2.0 && known / 2.0 <= half.1 + off(known / 2.0), "{half:?}");
}

#[test]
#[ignore = "takes minutes on a quiet machine: run by make test-long"]
fn a_server_that_is_stopped_for_a_share_of_the_time_carries_the_rest() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let find = |stopped_ms: u64| {
        let options =
            EmbeddedOptions { program: Some(ROOMFUL.into()), packet_cost: COST, ..EmbeddedOptions::default() };
        let fleet = runtime.block_on(EmbeddedFleet::start(1, 2000, &options)).unwrap();
        let server = fleet.servers()[0].clone();
        let pid = server.pid;
        let text = profile("target = \"target.toml\"", LONG, BACKLOG);
        let place = Place::against_servers(fleet.base_url(), &[(&server.id, &server.http)], &text);
        let over = Arc::new(AtomicBool::new(false));
        let cycle = {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Relaxed) {
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
    for stopped in [40, 80] {
        let (known, found) = (carries(1.0 - stopped as f64 / 100.0), find(stopped));
        eprintln!("stopped for {stopped} %: {found:?}, {known:.1} are known");
        // Signals come a little late, too.
        assert!(found.0 - 2.0 * off(known) <= known && known <= found.1 + 2.0 * off(known), "{known}: {found:?}");
    }
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
    // The target file does not say which servers there are.
    assert_eq!(summary["capacity"]["whole_target"], true);
    assert_eq!(summary["capacity"]["trials"].as_array().unwrap().len(), 1);
}

#[test]
fn over_mixes_what_the_server_limits_is_what_to_scale_on() {
    beside(|| {
        // The server's limit is a number of participants: that is then the unit that does not vary.
        let mixes = "[[rooms]]\nname = \"pair\"\ncount = 1\nsize = 2\naudio = \"opus@32kbit/s\"\n\
            [[mixes]]\nname = \"pairs\"\nrooms = { pair = 1 }\n[[mixes]]\nname = \"fours\"\nrooms = { m = 1 }\nrange = \"4..40\"\n[search]";
        let search = SHORT.replace("80s", "70s").replace("4..60", "8..40");
        let text = profile(
            &embedded("participants_max = 18"),
            &search,
            "\"audio.loss\" = \"<= 99%\"\n\"joins.failed_share\" = \"<= 1%\"",
        );
        let place = Place::with(&text.replace("[search]", mixes));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        let m = &summary["mixes"];
        let of = |mix: usize, key: &str| m["mixes"][mix][key].as_f64().unwrap_or_else(|| panic!("{key}: {m:#}"));
        assert_eq!([of(0, "lower"), of(0, "upper"), of(1, "lower"), of(1, "upper")], [18.0, 20.0, 16.0, 20.0]);
        // Nine pairs send two streams, four rooms of four twelve.
        assert_eq!([of(0, "streams"), of(1, "streams")], [18.0, 48.0]);
        assert!(of(1, "egress_pps") > 2.0 * of(0, "egress_pps"), "{m:#}");
        assert_eq!((&m["scale_on"], &m["units"][0]["unit"]), (&"participants".into(), &"participants".into()));
        assert!(m["units"][0]["variation"].as_f64().unwrap() < 10.0);
        assert!(m["units"][3]["variation"].as_f64().unwrap() > 50.0, "{m:#}");
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(sentence.starts_with("Scale on participants: at breakage it varies "), "{sentence}");
        // Headroom as asked for, of the mix that carries less: 16 − 2 − 1.
        assert_eq!(m["scale_out_at"], 13.0);
        let env = std::fs::read_to_string(place.out().join("scale-on.env")).unwrap();
        assert!(
            env.contains("SCALE_ON=participants\nSCALE_OUT_AT=13\n") && env.contains("AT_BREAKAGE_FOURS=16\n"),
            "{env}"
        );
        let page = std::fs::read_to_string(place.out().join("report.html")).unwrap();
        let shown = [
            "href=\"pairs/report.html\"",
            "What to scale on",
            "Amounts at breakage by unit, each mix a dot",
            "varies ",
        ];
        for part in shown.into_iter().chain([sentence]) {
            assert!(page.contains(part), "{part}");
        }
        assert!(run.stdout.contains("varies"), "{}", run.stdout);
        // Each run stands for itself, and anybody can judge them again.
        let own: Value =
            serde_json::from_slice(&std::fs::read(place.out().join("fours/summary.json")).unwrap()).unwrap();
        assert_eq!((&own["capacity"]["lower"], &own["verdict"]), (&16.into(), &"pass".into()));
        let again = place.report(&[]);
        assert_eq!((again.code, &place.summary()["mixes"]), (Some(0), m), "{again:?}");
    });
}

#[test]
fn an_interruption_ends_the_series_and_says_what_was_not_run() {
    beside(|| {
        let mixes =
            "[[mixes]]\nname = \"one\"\nrooms = { m = 1 }\n[[mixes]]\nname = \"two\"\nrooms = { m = 2 }\n[search]";
        let text = profile(&embedded(""), SHORT, "\"audio.loss\" = \"<= 99%\"").replace("[search]", mixes);
        let place = Place::with(&text);
        let mut run = place.run();
        run.says("trial 1");
        run.signal("INT");
        let run = run.finish();
        assert_eq!(run.code, Some(130), "{run:?}");
        let summary = place.summary();
        assert_eq!((&summary["verdict"], &summary["runs"][1]["sentence"]), (&"unknown".into(), &"Not run.".into()));
        assert!(summary["sentence"].as_str().unwrap().contains("mix one: Interrupted: "), "{}", summary["sentence"]);
        assert!(!place.out().join("two").exists() && !place.out().join("scale-on.env").exists());
    });
}

/// A row of a comparison: what it was under the first placement and the second one.
fn compared(summary: &Value, what: &str, unit: &str) -> [f64; 2] {
    let rows = summary["placement"]["rows"].as_array().unwrap();
    let row = rows.iter().find(|r| r["what"] == what && r["unit"].as_str().unwrap().trim() == unit);
    let row = row.unwrap_or_else(|| panic!("{what}: {:#}", summary["placement"]));
    [0, 1].map(|i| row["values"][i].as_f64().unwrap_or_else(|| panic!("{row:#}")))
}

#[test]
fn a_room_on_two_servers_is_whole_and_what_that_costs_is_said() {
    beside(|| {
        let rooms = super::support::rooms("m", 3, 4, super::support::VIDEO);
        let text = super::support::profile(
            "embedded",
            &rooms,
            "6s",
            &["audio.loss <= 0.5%", "video.loss <= 0.5%", "legs.dropped == 0", "joins.failed == 0"],
        );
        let compare = "[compare]\nplacement = [\"affinity\", \"spread\"]\n[load]";
        let place = Place::with(&text.replace("[load]", compare));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        // Twelve senders of audio and video, half of each room on the other server: every packet crosses once.
        let [apart, packets] = compared(&summary, "between servers", "packets/s");
        assert!(apart == 0.0 && packets > 12.0 * 50.0, "{apart} {packets}");
        let [none, bits] = compared(&summary, "between servers", "Mbit/s");
        assert!(none == 0.0 && (1.5..6.0).contains(&bits), "{bits}");
        // And everybody got all of everybody else, from start to end.
        for run in ["affinity", "spread"] {
            let own: Value =
                serde_json::from_slice(&std::fs::read(place.out().join(run).join("summary.json")).unwrap()).unwrap();
            assert_eq!((&own["audio"]["loss_source"], &own["audio"]["loss"]), (&"e2e".into(), &0.0.into()), "{run}");
            assert_eq!(own["video"]["loss"], 0.0, "{run}");
            assert_eq!(own["legs"]["clean"], 12, "{run}: {:#}", own["legs"]);
            let on: Vec<u64> =
                own["servers"].as_array().unwrap().iter().map(|s| s["participants_max"].as_u64().unwrap()).collect();
            let want: &[u64] = if run == "spread" { &[6, 6] } else { &[8, 4] };
            let mut on = on;
            on.sort_by(|a, b| b.cmp(a));
            assert_eq!(on, want, "{run}");
        }
        let [near, far] = compared(&summary, "audio delay p50", "ms");
        assert!(near > 0.0 && far > near, "{near} {far}");
        let sentence = summary["sentence"].as_str().unwrap();
        assert!(sentence.starts_with("From affinity to spread: audio delay p50 "), "{sentence}");
        assert!(std::fs::read_to_string(place.out().join("report.html")).unwrap().contains("What the placement costs"));
    });
}

#[test]
fn capacity_under_both_placements_is_searched_and_compared() {
    beside(|| {
        let text = profile(
            "target = \"embedded\"\n[embedded]\nservers = 2\nparticipants_max = 14",
            &SHORT.replace("4..60", "4..24").replace("80s", "76s"),
            "\"audio.loss\" = \"<= 99%\"\n\"joins.failed_share\" = \"<= 1%\"",
        );
        let compare = "[compare]\nplacement = [\"affinity\", \"spread\"]\n[search]";
        let place = Place::with(&text.replace("[search]", compare));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        // 14 on each server: three whole rooms, and seven on two servers that take 28 together.
        assert_eq!(compared(&summary, "participants that a server carries", ""), [12.0, 12.0], "{summary:#}");
        assert_eq!(compared(&summary, "participants that break it", ""), [16.0, 16.0]);
        assert!(summary["placement"]["at_load"].as_u64().unwrap() >= 8);
        let [apart, packets] = compared(&summary, "each server to others", "packets/s");
        assert!(apart == 0.0 && packets > 300.0, "{packets}");
    });
}
