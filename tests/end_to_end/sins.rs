//! The embedded fleet sins, and is found out: each sin alone fails its own invariants and no other, and without one all
//! hold. Whole runs of roomful, a few at a time: nobody here is held to the packet.

use roomful::types::{Drain, Sin};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

mod support;
use support::{Place, Process};

#[path = "../support/disturbed.rs"]
mod disturbed;
use disturbed::undisturbed;

/// Runs at once: each has three servers and some twenty legs of audio.
const TOGETHER: usize = 7;

/// Tests share two cores with other tests: that the generator was late is no news here.
const TOLERANT: &str = "[health]\nshard_cpu_max = \"100%\"\nsteal_max = \"100%\"\nlateness_p99_max = \"10s\"\n\
    timer_p99_max = \"10s\"\nsocket_drops_max = \"100%\"\nudp_errors_max = \"100%\"\nreference_loss_max = \"100%\"\n\
    reference_delay_p99_max = \"10s\"\nreference_jitter_max = \"10s\"\n";

/// A server is cordoned, somebody joins a room on it and others new rooms, and then it is told to end, whoever is there.
const STEPS: &str = "\
    [[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"most_sessions\"\nat = \"3500ms\"\n\
    [[step]]\nname = \"late\"\ndo = \"join_existing\"\nafter = \"cordon\"\ndelay = \"1s\"\n\
    [[step]]\nname = \"new\"\ndo = \"join_new\"\nafter = \"cordon\"\ndelay = \"1200ms\"\ncount = 2\nstay = \"5s\"\n\
    [[step]]\nname = \"terminate\"\ndo = \"terminate\"\nafter = \"cordon\"\ndelay = \"3s\"\n";

const EXPECT: &str = "[expect]\nexposed_legs = 4\nexclusive = true\nallowance = \"500ms\"\nghost_allowance = \"3s\"\n\
    exit = \"4s\"\nregistry_ttl = \"3s\"\n";

/// Where the moved are afterwards, what befell them is seen too; and a busy machine is no news.
const OTHERS: &str = "[expect.others]\ngap = \"15s\"\nloss = \"100%\"\njoin = \"15s\"\n";

fn profile(drain: Drain, sin: Option<Sin>) -> String {
    let sins = sin.map_or_else(String::new, |sin| format!("sin = \"{sin}\"\n"));
    // Where calls are not sent away, they must end by themselves.
    let (stay, hold, migration) = match drain {
        Drain::Wait => ("stay = \"8s..11s\"\nrefill = false\n", "20s", ""),
        Drain::Move => ("stay = \"14s..15s\"\nrefill = false\n", "22s", "migration = \"1500ms\"\n"),
        Drain::Rejoin => ("stay = \"14s..15s\"\nrefill = false\n", "22s", "migration = \"8s\"\n"),
    };
    let herd = if drain == Drain::Rejoin { "[expect.herd]\nrate = \"5/s\"\n" } else { "" };
    let late = if drain == Drain::Wait { "4s" } else { "9s" };
    let steps = STEPS.replace("delay = \"1s\"\n", &format!("delay = \"1s\"\nstay = \"{late}\"\n"));
    format!(
        "shape = \"scale-in\"\ntarget = \"embedded\"\nseed = 7\n\
         [embedded]\nservers = 3\nparticipants_max = 60\ndrain = \"{drain}\"\n{sins}\
         [[rooms]]\nname = \"call\"\ncount = 6\nsize = 3\naudio = \"opus@32kbit/s\"\nlate_seats = 1\nlate_rooms = 2\n{stay}\
         [load]\njoin = \"20/s\"\nwarmup = \"1s\"\nhold = \"{hold}\"\n\
         [rejoin]\nbackoff = \"300ms\"\n{steps}{EXPECT}{migration}{OTHERS}\
         {herd}{TOLERANT}"
    )
}

/// How a sin needs the fleet to drain, and the invariants that it breaks.
fn wanted(sin: Sin) -> (Drain, &'static [&'static str]) {
    match sin {
        Sin::KillNonEmpty => (Drain::Wait, &["I3", "I4"]),
        Sin::PlaceOnCordoned => (Drain::Wait, &["I1"]),
        Sin::DropLateJoiners => (Drain::Wait, &["I2"]),
        Sin::SplitRoom => (Drain::Wait, &["I6"]),
        Sin::MoveWithGap | Sin::OneWayAfterMove => (Drain::Move, &["I4"]),
        Sin::KeepGhosts => (Drain::Wait, &["I5"]),
        Sin::StaleRegistry => (Drain::Wait, &["I8"]),
        Sin::EndlessDrain => (Drain::Wait, &["I7"]),
        Sin::RejoinHerd => (Drain::Rejoin, &["I10"]),
        Sin::ZeroSessions => (Drain::Wait, &["I5"]),
    }
}

/// Ids of the invariants with this verdict.
fn with<'a>(summary: &'a Value, verdict: &str) -> BTreeSet<&'a str> {
    let all = summary["scale_in"]["invariants"].as_array().expect("a scale-in is judged by its invariants");
    all.iter().filter(|i| i["verdict"] == verdict).filter_map(|i| i["id"].as_str()).collect()
}

/// Runs all of them, a few at a time, and says what each came to.
fn run_all(cases: &[(Drain, Option<Sin>, &[&str])]) {
    let mut wrong = Vec::new();
    for cases in cases.chunks(TOGETHER) {
        let places: Vec<Place> = cases.iter().map(|(drain, sin, _)| Place::with(&profile(*drain, *sin))).collect();
        let start = |place| {
            // Not all in the same moment: starting takes more than running.
            std::thread::sleep(Duration::from_millis(300));
            Place::run(place)
        };
        let runs: Vec<Process<'_>> = places.iter().map(start).collect();
        for (((drain, sin, wanted), place), run) in cases.iter().zip(&places).zip(runs) {
            let said = run.finish();
            let summary = place.summary();
            let (failed, passed) = (with(&summary, "fail"), with(&summary, "pass"));
            let code = if wanted.is_empty() { 0 } else { 3 };
            let tested = ["I0", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I13"];
            let landings = &summary["scale_in"]["audit"]["landings"];
            // Each server has its certificate, and nobody landed elsewhere than was said, whatever else went wrong.
            let landed = landings["compared"].as_u64() >= Some(10)
                && ["elsewhere", "alike"].iter().all(|k| landings[k].as_array().is_some_and(Vec::is_empty));
            let untested: Vec<&&str> = tested.iter().filter(|i| !passed.contains(*i) && !failed.contains(*i)).collect();
            if failed != wanted.iter().copied().collect() || said.code != Some(code) || !untested.is_empty() || !landed
            {
                let sin = sin.map_or("none", Sin::as_str);
                wrong.push(format!(
                    "sin {sin}, drain {drain}: exit {:?}, failed {failed:?}, wanted {wanted:?}, untested {untested:?}, {landings}\n{}\n{:#}",
                    said.code,
                    summary["sentence"],
                    summary["scale_in"]["invariants"],
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn each_sin_fails_its_own_invariants_and_a_right_fleet_none() {
    let right = [Drain::Wait, Drain::Move, Drain::Rejoin].map(|drain| (drain, None, &[][..]));
    let sins = Sin::ALL.map(|sin| {
        let (drain, ids) = wanted(sin);
        (drain, Some(sin), ids)
    });
    undisturbed(|| run_all(&[&right[..], &sins[..]].concat()));
}
