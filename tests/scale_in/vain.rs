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
            assert!(scale_in(&j).removals[0].ended.is_some());
        }
    }
}
