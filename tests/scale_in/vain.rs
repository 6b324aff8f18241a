//! Steps that fail or do nothing: they end no server, and what follows from that is not the fleet's doing.

use crate::model::{Model, Sin};
use crate::sins::{judged, scale_in, with};
use roomful::history::{Event, Line, StepAction, StepEvent, StepStage};
use roomful::verdict::scale_in::Invariant;
use roomful::verdict::{Judgement, Verdict};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;

fn row<'a>(j: &'a Judgement, id: &str) -> &'a Invariant {
    scale_in(j).invariants.iter().find(|i| i.id == id).unwrap()
}

/// What was to end the server becomes another action, which ends otherwise.
fn becomes(lines: &mut [Line], from: StepAction, action: StepAction, stage: StepStage) {
    let mut met = 0;
    for line in lines {
        let Event::Step(step) = &mut line.event else { continue };
        if step.action != from {
            continue;
        }
        met += 1;
        step.action = action;
        if step.stage == StepStage::Done {
            step.stage = stage;
        }
    }
    assert_eq!(met, 2);
}

#[test]
fn a_step_that_failed_or_did_nothing_removed_no_server() {
    let cases = [
        (StepAction::Terminate, StepStage::Failed),
        (StepAction::Kill, StepStage::Failed),
        // The hook says that it is done, and the server lives on.
        (StepAction::Kill, StepStage::Done),
    ];
    for seed in SEEDS {
        for (action, stage) in cases {
            let model = Model { seed, sin: Some(Sin::DrainNeverEnds), ..Model::default() };
            let mut lines = model.lines();
            becomes(&mut lines, StepAction::Terminate, action, stage);
            let j = judged(lines, &model.expect());
            let s = scale_in(&j);
            assert!(with(s, Verdict::Fail).is_empty(), "{action:?} {stage:?} seed {seed}: {}", j.sentence);
            assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 4), "{action:?} {stage:?}: {}", j.sentence);
            let server = &s.removals[0].server;
            let why = format!("nothing was removed in 02:30 ({} of {server} failed or did nothing)", action.as_str());
            assert_eq!(row(&j, "removed").why, why);
            assert!(row(&j, "I7").why.contains("failed or did nothing"), "{}", row(&j, "I7").why);
            assert_eq!((row(&j, "I3").judged, row(&j, "I3").why.as_str()), (false, "no server ended"));
            assert!(!s.removals[0].killed && s.removals[0].terminated.is_none());
        }
    }
}

#[test]
fn a_kill_that_is_said_to_have_failed_and_took_its_calls_is_one() {
    for seed in SEEDS {
        let model = Model { seed, sin: Some(Sin::KillsNonEmpty), ..Model::default() };
        let mut lines = model.lines();
        becomes(&mut lines, StepAction::Kill, StepAction::Kill, StepStage::Failed);
        let j = judged(lines, &model.expect());
        assert_eq!(with(scale_in(&j), Verdict::Fail).into_iter().collect::<Vec<_>>(), ["I3", "I4"], "{}", j.sentence);
    }
}

#[test]
fn a_rollback_on_a_server_that_was_told_to_end_changes_nothing() {
    for seed in SEEDS {
        for stage in [StepStage::Done, StepStage::Failed] {
            let model = Model { seed, ..Model::default() };
            let mut lines = model.lines();
            let before = judged(lines.clone(), &model.expect());
            let ends = |l: &Line| match &l.event {
                Event::Step(s) if s.action == StepAction::Terminate && s.stage == StepStage::Done => s.server.clone(),
                _ => None,
            };
            let (n, server) = lines.iter().enumerate().find_map(|(n, l)| Some((n, ends(l)?))).unwrap();
            let t = lines[n].t;
            for (i, stage) in [StepStage::Begun, stage].into_iter().enumerate() {
                let event = StepEvent {
                    op: 900,
                    name: "rollback".into(),
                    action: StepAction::Uncordon,
                    server: Some(server.clone()),
                    stage,
                    detail: String::new(),
                    rollback: true,
                };
                lines.insert(n + 1 + i, Line { t, event: Event::Step(event) });
            }
            let j = judged(lines, &model.expect());
            assert_eq!((j.verdict, &j.sentence), (Verdict::Pass, &before.sentence), "{stage:?} seed {seed}");
            assert!(j.notes.is_empty(), "{:?}", j.notes);
            assert!(scale_in(&j).removals[0].ended.is_some());
        }
    }
}

/// Stages of an operation at 50 s, on a server that is there to the end.
fn also(lines: &mut Vec<Line>, action: StepAction, stages: &[StepStage], rollback: bool) -> Option<String> {
    const OP: u32 = 900;
    let victim = lines.iter().find_map(|l| if let Event::Step(s) = &l.event { s.server.clone() } else { None });
    let server = ["s1", "s2"].into_iter().find(|s| victim.as_deref() != Some(s)).unwrap().to_owned();
    let server = Some(server).filter(|_| !action.is_of_registry());
    for stage in stages {
        let detail = if *stage == StepStage::Begun { "" } else { "HTTP 500" };
        let event = StepEvent {
            op: OP,
            name: "also".into(),
            action,
            server: server.clone(),
            stage: *stage,
            detail: detail.into(),
            rollback,
        };
        let at = lines.partition_point(|l| l.t <= 50_000.0);
        lines.insert(at, Line { t: 50_000.0, event: Event::Step(event) });
    }
    server
}

#[test]
fn a_fault_that_was_never_made_leaves_a_good_run_unproven() {
    use StepStage::{Begun, Failed, Skipped};
    let cases: [(StepAction, &[StepStage], &str); 6] = [
        (StepAction::Pause, &[Begun, Failed], "pause of S failed (HTTP 500)"),
        (StepAction::Pause, &[Skipped], "pause of S was skipped (HTTP 500)"),
        (StepAction::Pause, &[Begun], "pause of S is not known to have been done"),
        (StepAction::Kill, &[Begun, Failed], "kill of S failed (HTTP 500)"),
        (StepAction::RegistryFlush, &[Begun, Failed], "registry_flush failed (HTTP 500)"),
        (StepAction::JoinNew, &[Skipped], "join_new of S was skipped (HTTP 500)"),
    ];
    for seed in 1..=3 {
        let model = Model { seed, ..Model::default() };
        let good = judged(model.lines(), &model.expect());
        assert_eq!((good.verdict, row(&good, "steps").verdict), (Verdict::Pass, Verdict::Pass), "{}", good.sentence);
        for (action, stages, why) in cases {
            let mut lines = model.lines();
            let server = also(&mut lines, action, stages, false).unwrap_or_default();
            let j = judged(lines.clone(), &model.expect());
            assert_eq!(row(&j, "steps").why, why.replace('S', &server), "{action:?} {stages:?} seed {seed}");
            assert_eq!(j.verdict, Verdict::Unknown, "{action:?} {stages:?} seed {seed}: {}", j.sentence);
            assert!(with(scale_in(&j), Verdict::Fail).is_empty(), "{}", j.sentence);
            let marks = |j: &Judgement| -> Vec<(f64, &'static str)> {
                scale_in(j).view.servers.iter().flat_map(|s| s.marks.clone()).collect()
            };
            assert_eq!(marks(&j), marks(&good), "the picture has only what happened");
            // What Ctrl-C cut off is no finding of its own.
            let last = lines.last_mut().unwrap();
            last.event = Event::End { interrupted: true };
            let j = judged(lines, &model.expect());
            assert_eq!(row(&j, "steps").verdict == Verdict::Pass, !stages.contains(&Failed), "{stages:?}");
        }
        // Joins that were tried and refused are judged by themselves.
        let mut lines = model.lines();
        also(&mut lines, StepAction::JoinExisting, &[Begun, Failed], false);
        assert_eq!(judged(lines, &model.expect()).verdict, Verdict::Pass);
    }
}

#[test]
fn a_failed_uncordon_is_not_held_against_the_fleet() {
    for seed in SEEDS {
        let model = Model { seed, sin: Some(Sin::ForgetsUncordoned), ..Model::default() };
        let mut lines = model.lines();
        becomes(&mut lines, StepAction::Uncordon, StepAction::Uncordon, StepStage::Failed);
        let j = judged(lines, &model.expect());
        assert_eq!(with(scale_in(&j), Verdict::Fail).len(), 0, "seed {seed}: {}", j.sentence);
        assert_eq!((j.verdict, row(&j, "steps").verdict), (Verdict::Unknown, Verdict::Unknown), "{}", j.sentence);
    }
}

#[test]
fn a_failed_rollback_is_told() {
    let model = Model::default();
    let mut lines = model.lines();
    let server = also(&mut lines, StepAction::Resume, &[StepStage::Begun, StepStage::Failed], true).unwrap();
    let j = judged(lines, &model.expect());
    assert_eq!(j.verdict, Verdict::Pass, "{}", j.sentence);
    let note = j.notes.iter().find(|n| n.code == roomful::verdict::ROLLBACK_FAILED).unwrap();
    assert_eq!(note.text, format!("the rollback resume of {server} failed (HTTP 500): the fleet is left as it was"));
    let shown = roomful::report::terminal::left_behind(&roomful::report::Summary::of(&j));
    assert_eq!(shown, format!("{}\n", note.text));
}
