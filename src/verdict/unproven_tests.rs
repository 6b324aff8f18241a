//! What was not measured, or is missing from the history, is never part of a pass.

use super::tests::{limit, outcome, usual};
use super::*;
use crate::history::synthetic::Synthetic;
use crate::history::{Event, FailReason, LegCause, Line, Reading, read};
use crate::profile::{HealthLimits, Op, Threshold, ThresholdValue};
use crate::types::ServerId;

/// A few seconds or joins more may be the generator's doing.
fn judged(lines: Vec<Line>, pass: &[Threshold]) -> Judgement {
    let health = HealthLimits { inconclusive_share_max: 0.5, ..HealthLimits::default() };
    judge(&Reading::of_lines(lines).unwrap(), pass, &health)
}

#[test]
fn a_join_that_failed_on_our_side_breaks_no_limit() {
    let none = [limit("participants.failed", Op::Eq, ThresholdValue::Count(0.0))];
    for (reason, verdict, held_against) in
        [(FailReason::Local, Verdict::Pass, 0.0), (FailReason::TimeoutIce, Verdict::Fail, 1.0)]
    {
        let mut lines = (Synthetic { join_failures: 1, ..Synthetic::default() }).lines();
        for line in &mut lines {
            if let Event::JoinFailed(f) = &mut line.event {
                f.reason = reason;
            }
        }
        let j = judged(lines, &none);
        assert_eq!((j.verdict, outcome(&j, "participants.failed").value), (verdict, Some(held_against)));
        assert_eq!(j.participants.failed, 1, "the table has all");
        if verdict == Verdict::Fail {
            assert!(j.sentence.starts_with("1 of 12 joins failed, 1 (limit 0): timeout_ice"), "{}", j.sentence);
        }
    }
}

#[test]
fn a_history_that_lacks_an_end_or_an_outcome_is_no_pass() {
    let without = |run: &Synthetic, lost: &dyn Fn(&Event) -> bool| {
        let mut lines = run.lines();
        let nth = lines.iter().rposition(|l| lost(&l.event)).unwrap();
        lines.remove(nth);
        judged(lines, &usual())
    };
    let good = Synthetic::default();
    let j = without(&good, &|e| matches!(e, Event::LegEnd(_)));
    assert_eq!((j.verdict, &*j.sentence), (Verdict::Unknown, "Unknown: the history is damaged: 1 leg has no end."));
    let failing = Synthetic { join_failures: 1, ..Synthetic::default() };
    let j = without(&failing, &|e| matches!(e, Event::JoinFailed(_)));
    assert_eq!((j.verdict, j.joins.failed), (Verdict::Unknown, Some(0)));
    assert_eq!(j.sentence, "Unknown: the history is damaged: 1 join has no outcome.");
    // What a full disk may cost.
    for lost in [&|e: &Event| matches!(e, Event::Room(_)), &|e: &Event| matches!(e, Event::Interval(_))]
        as [&dyn Fn(&Event) -> bool; 2]
    {
        assert_eq!(without(&good, lost).verdict, Verdict::Pass);
    }
}

#[test]
fn the_drop_of_a_line_that_cannot_be_read_is_not_taken_for_none() {
    let lines = (Synthetic { drops: 1, ..Synthetic::default() }).lines();
    let dropped = |l: &Line| matches!(&l.event, Event::LegEnd(end) if end.cause == LegCause::ClosedByServer);
    let text = lines.iter().map(|l| match dropped(l) {
        true => "{\"t\":20000.0,\"ev\":\"leg_end\",\"le\n".to_owned(),
        false => serde_json::to_string(l).unwrap() + "\n",
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    std::fs::write(&path, text.collect::<String>()).unwrap();
    let none = [limit("legs.dropped", Op::Eq, ThresholdValue::Count(0.0))];
    let j = judge(&read(&path).unwrap(), &none, &HealthLimits::default());
    let said = "Unknown: the history is damaged: 1 line could not be read, 1 leg has no end.";
    assert_eq!((j.verdict, &*j.sentence, j.legs.dropped), (Verdict::Unknown, said, Some(0)));
}

#[test]
fn a_server_of_which_no_second_is_judged_held_nothing() {
    let run = Synthetic { unhealthy: Some(20..22), ..Synthetic::default() };
    let mut lines = run.lines();
    for line in &mut lines {
        let Event::Interval(i) = &mut line.event else { continue };
        let trouble = (21_000.0..=22_000.0).contains(&line.t);
        i.servers.retain(|s| trouble || s.server == ServerId(0));
    }
    let j = judged(lines.clone(), &usual());
    assert_eq!((j.verdict, j.servers[1].participants_max), (Verdict::Unknown, 6), "{}", j.sentence);
    let o = outcome(&j, "audio.loss");
    assert_eq!((o.verdict, o.why.as_deref()), (Verdict::Unknown, Some("has no data on sfu-2")));
    // Where no limit is about media, it is not counted among those that held.
    let j = judged(lines, &[limit("legs.dropped", Op::Eq, ThresholdValue::Count(0.0))]);
    assert_eq!((j.verdict, &*j.sentence), (Verdict::Pass, "12 of 12 joined; the one limit held on sfu-1."));
}
