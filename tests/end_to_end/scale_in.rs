//! Scale-in on the embedded fleet: servers that are cordoned, drained and terminated while people talk, or killed under
//! them; and what becomes of an experiment that is interrupted, or that only watches.

use super::support::{Place, ROOMFUL};
use crate::disturbed::beside;
use roomful::history::{Event, LegCause, Line, StepEvent, StepStage};
use roomful::types::{LegId, ServerId, StepAction};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Tests share two cores with other tests: that the generator was late is no news here.
const TOLERANT: &str = "[health]\nshard_cpu_max = \"100%\"\nsteal_max = \"100%\"\nlateness_p99_max = \"10s\"\n\
    timer_p99_max = \"10s\"\nsocket_drops_max = \"100%\"\nudp_errors_max = \"100%\"\nreference_loss_max = \"100%\"\n\
    reference_delay_p99_max = \"10s\"\nreference_jitter_max = \"10s\"\n";

fn experiment(top: &str, rooms: &str, hold: &str, rest: &str) -> Place {
    Place::with(&format!(
        "shape = \"scale-in\"\ntarget = \"embedded\"\nseed = 7\n{top}\n[embedded]\nservers = 3\nparticipants_max = 40\n\
         [[rooms]]\nname = \"call\"\ncount = 6\nsize = 2\naudio = \"opus@32kbit/s\"\n{rooms}\n\
         [load]\njoin = \"20/s\"\nwarmup = \"1s\"\nhold = \"{hold}\"\n{rest}\n{TOLERANT}"
    ))
}

fn steps(lines: &[Line]) -> Vec<(f64, StepEvent)> {
    let step = |l: &Line| match &l.event {
        Event::Step(s) => Some((l.t, s.clone())),
        _ => None,
    };
    lines.iter().filter_map(step).collect()
}

fn step(lines: &[Line], name: &str, stage: StepStage) -> (f64, StepEvent) {
    let found = steps(lines).into_iter().find(|(_, s)| s.name == name && s.stage == stage);
    found.unwrap_or_else(|| panic!("{name} {stage:?} in {:#?}", steps(lines)))
}

fn servers(lines: &[Line]) -> BTreeMap<ServerId, String> {
    let server = |l: &Line| match &l.event {
        Event::Server(s) => Some((s.id, s.name.clone())),
        _ => None,
    };
    lines.iter().filter_map(server).collect()
}

/// Where each leg landed, and when.
fn joined(lines: &[Line]) -> BTreeMap<LegId, (f64, String)> {
    let names = servers(lines);
    let joined = |l: &Line| match &l.event {
        Event::Joined { leg, server, .. } => Some((*leg, (l.t, names[server].clone()))),
        _ => None,
    };
    lines.iter().filter_map(joined).collect()
}

/// The invariants that failed, each with the legs that its evidence names.
fn failed(summary: &serde_json::Value) -> BTreeMap<String, BTreeSet<String>> {
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let invariants = summary["scale_in"]["invariants"].as_array().unwrap().iter().filter(|i| i["verdict"] == "fail");
    let legs = |i: &serde_json::Value| {
        let evidence = i["evidence"].as_array().unwrap();
        evidence.iter().flat_map(|e| e["legs"].as_array().unwrap()).map(text).collect()
    };
    invariants.map(|i| (text(&i["id"]), legs(i))).collect()
}

const DRAIN: &str = "[[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"least_sessions\"\nat = \"4s\"\n\
    [[step]]\nname = \"late\"\ndo = \"join_existing\"\nafter = \"cordon\"\ndelay = \"500ms\"\nstay = \"4s\"\n\
    [[step]]\nname = \"new\"\ndo = \"join_new\"\nafter = \"cordon\"\ndelay = \"500ms\"\nstay = \"5s\"\n\
    [[step]]\nname = \"terminate\"\ndo = \"terminate\"\nafter = \"cordon\"\nwhen = \"server.sessions == 0\"\ndeadline = \"20s\"\n\
    [[rollback]]\ndo = \"uncordon\"\nserver_of = \"cordon\"\n[expect]\nexclusive = true\nghost_allowance = \"2s\"";

#[test]
fn a_drained_server_goes_when_its_last_call_is_over() {
    beside(|| {
        let place = experiment("", "stay = \"10s..14s\"\nrefill = false\nlate_seats = 1\nlate_rooms = 1", "24s", DRAIN);
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let lines = place.lines();
        let (cordoned, cordon) = step(&lines, "cordon", StepStage::Done);
        let server = cordon.server.unwrap();
        let (terminated, begun) = step(&lines, "terminate", StepStage::Begun);
        assert_eq!((begun.server.as_deref(), &begun.detail[..]), (Some(&server[..]), "server.sessions == 0"));
        step(&lines, "terminate", StepStage::Done);
        let joined = joined(&lines);
        // Who joined an old room after the cordon is on its server; who joined a new one is not.
        let late: Vec<LegId> = joined.iter().filter(|(_, (t, _))| *t > cordoned).map(|(l, _)| *l).collect();
        let on = |leg: &LegId| joined[leg].1 == server;
        assert_eq!(late.iter().filter(|l| on(l)).count(), 1, "{joined:?}");
        assert_eq!(late.len(), 3, "{joined:?}");
        // Everybody's call went on to its own end.
        let ends: Vec<_> = lines
            .iter()
            .filter_map(|l| match &l.event {
                Event::LegEnd(e) => Some((l.t, e.leg, e.cause)),
                _ => None,
            })
            .collect();
        assert!(ends.iter().all(|(_, _, cause)| *cause == LegCause::Left), "{ends:?}");
        let drained: Vec<f64> = ends.iter().filter(|(_, leg, _)| on(leg)).map(|(t, ..)| *t).collect();
        assert!(drained.len() >= 3 && drained.iter().all(|t| *t < terminated), "{drained:?} {terminated}");
        // The fleet said so, too: cordoned, then gone.
        let seen = |wanted: &dyn Fn(&roomful::history::ServerSeen) -> bool| {
            lines.iter().any(|l| match &l.event {
                Event::Fleet(v) => v.servers.iter().any(|s| s.server == server && wanted(s)),
                _ => false,
            })
        };
        assert!(seen(&|s| s.cordoned == Some(true)) && seen(&|s| s.alive == Some(false)));
        // The rollback is tried on a server that is gone, too; that this director knows it no more makes no verdict.
        let undone = step(&lines, "uncordon", StepStage::Failed).1;
        assert_eq!(undone.server.as_deref(), Some(&server[..]));
        assert!(undone.rollback && undone.detail.contains("has ended"), "{undone:?}");
        assert!(run.stderr.contains("terminate") && run.stderr.contains(" cordoned"), "{}", run.stderr);
    });
}

const KILL: &str = "[[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"most_sessions\"\nat = \"4s\"\n\
    [[step]]\nname = \"kill\"\ndo = \"kill\"\nafter = \"cordon\"\ndelay = \"2s\"\n[expect]\nexclusive = true\nghost_allowance = \"2s\"";

#[test]
fn whoever_a_killed_server_drops_comes_back_elsewhere() {
    beside(|| {
        let place = experiment("", "", "18s", KILL);
        let run = place.run().finish();
        assert_eq!(run.code, Some(3), "{run:?}");
        let lines = place.lines();
        let (killed, kill) = step(&lines, "kill", StepStage::Done);
        let server = kill.server.unwrap();
        let joined = joined(&lines);
        let exposed: BTreeSet<LegId> =
            joined.iter().filter(|(_, (t, s))| *t < killed && *s == server).map(|(l, _)| *l).collect();
        assert!(exposed.len() >= 4, "{joined:?}");
        let fell: BTreeSet<LegId> = lines
            .iter()
            .filter_map(|l| match &l.event {
                Event::LegEnd(e) if e.cause.is_drop() => Some(e.leg),
                _ => None,
            })
            .collect();
        assert_eq!(fell, exposed);
        let back: BTreeMap<LegId, LegId> = lines
            .iter()
            .filter_map(|l| match &l.event {
                Event::JoinStart { leg, rejoins: Some(fallen), .. } => Some((*fallen, leg.id)),
                _ => None,
            })
            .collect();
        assert_eq!(back.keys().copied().collect::<BTreeSet<_>>(), exposed);
        assert!(back.values().all(|leg| joined.get(leg).is_some_and(|(_, s)| *s != server)), "{back:?} {joined:?}");
        // The verdict names these very calls, and no other invariant.
        let failed = failed(&place.summary());
        assert_eq!(failed.keys().map(String::as_str).collect::<Vec<_>>(), ["I3", "I4"], "{failed:?}");
        let name = |l: &Line| match &l.event {
            Event::JoinStart { leg, .. } if exposed.contains(&leg.id) => Some(leg.name.clone()),
            _ => None,
        };
        let exposed: BTreeSet<String> = lines.iter().filter_map(name).collect();
        assert!(failed.values().all(|legs| *legs == exposed), "{failed:?} {exposed:?}");
    });
}

#[test]
fn an_interrupted_experiment_takes_back_what_it_did() {
    for signal in ["INT", "HUP"] {
        let place = experiment("", "late_seats = 1\nlate_rooms = 1", "60s", DRAIN);
        let mut run = place.run();
        run.says("cordoned");
        run.signal(signal);
        let run = run.finish();
        assert_eq!(run.code, Some(130), "{signal}: {run:?}");
        let lines = place.lines();
        let (t, uncordon) = step(&lines, "uncordon", StepStage::Done);
        assert!(uncordon.rollback && t > step(&lines, "cordon", StepStage::Done).0);
        assert_eq!(step(&lines, "terminate", StepStage::Skipped).1.detail, "the run was over before");
        super::assert_ended(&lines, true);
    }
}

#[test]
fn a_run_that_only_watches_takes_marks_and_does_nothing() {
    let place = experiment("control = \"none\"", "", "8s", "");
    let mut run = place.run();
    run.says("hold");
    let mark = |args: &[&str]| {
        let said = Command::new(ROOMFUL).arg("mark").args(args).arg("--run").arg(place.out()).output().unwrap();
        (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
    };
    assert_eq!(mark(&["cordon", "s2"]), (Some(0), String::new()));
    assert_eq!(mark(&["drain", "s2"]).0, Some(2));
    let run = run.finish();
    assert_eq!(run.code, Some(4), "{run:?}");
    let lines = place.lines();
    let marks: Vec<&Line> = lines.iter().filter(|l| matches!(l.event, Event::Mark { .. })).collect();
    let [Line { event: Event::Mark { action, server }, t }] = marks[..] else { panic!("{marks:?}") };
    assert!((*action, &server[..]) == (StepAction::Cordon, "s2") && *t > 1000.0, "{marks:?}");
    assert!(steps(&lines).is_empty());
    let (code, said) = mark(&["uncordon", "s2"]);
    assert!(code == Some(1) && said.contains("no run that takes marks goes on"), "{said}");
}

/// What the profile's first lines promise.
fn shipped(name: &str, profile: &str) -> (Option<i32>, Place) {
    // Whom a busy machine harms is not the question here.
    let others = "[expect.others]\ngap = \"15s\"\nloss = \"100%\"\njoin = \"15s\"\n[expect.classes]\nglitch = \"4s\"\n";
    let place = Place::with(&format!("{profile}{others}{TOLERANT}"));
    let run = place.run().finish();
    println!("{name}: {:?} {}", run.code, place.summary()["sentence"]);
    (run.code, place)
}

#[test]
fn the_demo_of_a_drain_passes() {
    beside(|| {
        let (code, place) = shipped("scale-in-demo", include_str!("../../profiles/scale-in-demo.toml"));
        assert_eq!(code, Some(0), "{}", place.summary()["sentence"]);
        let exposed = place.summary()["scale_in"]["exposed_legs"].as_u64();
        assert!(exposed.is_none_or(|n| n >= 5), "{exposed:?}");
    });
}

#[test]
fn the_red_wedding_names_those_who_fell() {
    beside(|| {
        let (code, place) = shipped("red-wedding", include_str!("../../profiles/red-wedding.toml"));
        let summary = place.summary();
        assert_eq!(code, Some(3), "{}", summary["sentence"]);
        let failed = failed(&summary);
        assert_eq!(failed.keys().collect::<Vec<_>>(), ["I3", "I4"], "{}", summary["sentence"]);
        let lines = place.lines();
        let names: BTreeMap<LegId, String> = lines
            .iter()
            .filter_map(|l| {
                if let Event::JoinStart { leg, .. } = &l.event { Some((leg.id, leg.name.clone())) } else { None }
            })
            .collect();
        let fell: BTreeSet<String> = lines
            .iter()
            .filter_map(|l| if let Event::LegEnd(end) = &l.event { Some(end) } else { None })
            .filter(|end| end.cause.is_drop())
            .map(|end| names[&end.leg].clone())
            .collect();
        assert!(fell.len() >= 5, "{fell:?}");
        // Evidence names a leg with its room before it.
        let named: BTreeSet<String> = failed["I4"]
            .iter()
            .map(|leg| leg.rsplit_once('/').map_or(leg.clone(), |(_, name)| name.to_owned()))
            .collect();
        println!("{fell:?} {:?}", failed["I4"]);
        assert_eq!(failed["I4"].len(), fell.len(), "{fell:?} {named:?}");

        // The page shows what the summary says: each server's time, each leg with its class, the evidence.
        let page = std::fs::read_to_string(place.out().join("report.html")).unwrap();
        for word in ["I3", "I4", "What the fleet says of itself"] {
            assert!(page.contains(word), "{word}");
        }
        for server in servers(&lines).values() {
            assert!(page.contains(server.as_str()), "{server}");
        }
        let evidence = summary["scale_in"]["invariants"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|i| i["evidence"].as_array().unwrap());
        let shown = |text: &str| page.contains(&text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;"));
        for e in evidence {
            assert!(shown(e["what"].as_str().unwrap()) && shown(e["noticed"].as_str().unwrap()), "{e}");
        }
        let bars = page.matches("thrown out of the call and back after").count();
        assert!(bars >= fell.len(), "{bars} bars of {fell:?}");

        // Judged again from its history, the run is the same, and so is its page.
        let again = place.report(&[]);
        assert_eq!(again.code, Some(3), "{again:?}");
        assert_eq!(place.summary(), summary);
        assert_eq!(std::fs::read_to_string(place.out().join("report.html")).unwrap(), page);
    });
}

/// Two profiles that take a minute each, at once.
#[test]
#[ignore = "takes 80 s: run by make test-long"]
fn a_rolling_restart_and_an_autoscaler_pass() {
    beside(|| {
        std::thread::scope(|s| {
            let [rolling, watched] = [
                ("rolling-restart", include_str!("../../profiles/rolling-restart.toml")),
                ("observe-only", include_str!("../../profiles/observe-only.toml")),
            ]
            .map(|(name, profile)| s.spawn(move || shipped(name, profile)));
            for (run, removed) in [(rolling, 2), (watched, 1)] {
                let (code, place) = run.join().unwrap();
                let summary = place.summary();
                assert_eq!(code, Some(0), "{}", summary["sentence"]);
                let removals = summary["scale_in"]["removals"].as_array().unwrap().len();
                assert!(removals >= removed, "{}", summary["scale_in"]["removals"]);
            }
        });
    });
}

/// The rehearsal that the profile's first lines speak of, shortened.
#[test]
#[ignore = "takes 80 s: run by make test-long"]
fn a_fleet_shrinks_by_the_clock() {
    // Whom a busy machine harms is not the question here.
    let others = "[expect.others]\ngap = \"15s\"\nloss = \"100%\"\njoin = \"15s\"\n[expect.classes]\nglitch = \"4s\"\n";
    let profile = include_str!("../../profiles/scheduled-scaling.toml");
    let place = Place::with(&format!("{profile}{others}{TOLERANT}"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    // The hold begins when all are in and warm, after 13 s.
    let at = now.as_secs() + 20;
    let clock = format!("{:02}:{:02}:{:02}", at / 3600 % 24, at / 60 % 60, at % 60);
    let mut command = Command::new(ROOMFUL);
    command.arg("run").arg(place.path("profile.toml")).arg("--out").arg(place.out());
    for set in ["load.warmup=3s", "load.hold=45s", "step.0.every=12s", "rooms.0.stay=15s..28s", "rooms.1.stay=36s..44s"]
    {
        command.args(["--set", set]);
    }
    command.args(["--set", &format!("step.0.clock={clock}")]);
    let run = place.start(command).finish();
    assert_eq!(run.code, Some(0), "{run:?}");
    let lines = place.lines();
    let epoch_s = place.reading().run.epoch_ns as f64 / 1e9;
    let cordons: Vec<f64> = steps(&lines)
        .iter()
        .filter(|(_, s)| s.action == StepAction::Cordon && s.stage == StepStage::Begun)
        .map(|(t, _)| epoch_s + t / 1000.0 - at as f64)
        .collect();
    assert!(
        matches!(cordons[..], [a, b] if (0.0..1.0).contains(&a) && (12.0..13.0).contains(&b)),
        "{cordons:?} s after {clock}"
    );
    let terminated = steps(&lines);
    let terminated: BTreeSet<&String> = terminated
        .iter()
        .filter(|(_, s)| s.action == StepAction::Terminate && s.stage == StepStage::Done)
        .filter_map(|(_, s)| s.server.as_ref())
        .collect();
    assert_eq!(terminated.len(), 2, "{terminated:?}");
    assert!(!run.stderr.contains("can't be observed"), "what was taken away on purpose is no news: {run:?}");
}
