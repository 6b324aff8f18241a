//! Each sin alone makes its own invariants fail and no other; without one all pass. Twenty seeds each.

use crate::model::{Control, Model, Sin, Style};
use roomful::history::{Line, Reading};
use roomful::profile::{Expect, HealthLimits};
use roomful::verdict::{Judgement, ScaleIn, Verdict, judge_scale_in};
use std::collections::BTreeSet;
use std::time::Duration;

const SEEDS: u64 = 20;

pub fn judged(lines: Vec<Line>, expect: &Expect) -> Judgement {
    judge_scale_in(&Reading::of_lines(lines).unwrap(), &[], &HealthLimits::default(), expect)
}

pub fn scale_in(j: &Judgement) -> &ScaleIn {
    j.scale_in.as_ref().unwrap()
}

/// Ids of invariants with this verdict, of those that are judged.
pub fn with(s: &ScaleIn, verdict: Verdict) -> BTreeSet<&'static str> {
    s.invariants.iter().filter(|i| i.judged && i.verdict == verdict).map(|i| i.id).collect()
}

fn table(s: &ScaleIn) -> String {
    let row = |i: &roomful::verdict::scale_in::Invariant| {
        let evidence: Vec<&str> = i.evidence.iter().map(|e| e.what.as_str()).collect();
        format!("{} {:?} judged {} {} {evidence:?}", i.id, i.verdict, i.judged, i.why)
    };
    s.invariants.iter().map(row).collect::<Vec<_>>().join("\n")
}

fn only(sin: Sin, style: Style, ids: &[&'static str]) {
    let wanted: BTreeSet<&str> = ids.iter().copied().collect();
    for seed in 1..=SEEDS {
        let model = Model { seed, sin: Some(sin), style, ..Model::default() };
        let j = judged(model.lines(), &model.expect());
        let s = scale_in(&j);
        assert_eq!(with(s, Verdict::Fail), wanted, "{sin:?} seed {seed}: {}\n{}", j.sentence, table(s));
        assert_eq!((j.verdict, j.exit_code()), (Verdict::Fail, 3));
        for i in s.invariants.iter().filter(|i| i.verdict == Verdict::Fail) {
            for e in &i.evidence {
                assert!(!e.what.is_empty() && !e.noticed.is_empty() && e.from_ms <= e.until_ms, "{sin:?} {e:?}");
                let named = !e.lines.is_empty() || !e.legs.is_empty() || e.server.is_some();
                assert!(named, "evidence names nothing: {e:?}");
            }
        }
    }
}

#[test]
fn without_sin_all_invariants_hold() {
    for style in [Style::Wait, Style::Move, Style::Reconnect] {
        for control in [Control::Steps, Control::Observed] {
            for seed in 1..=SEEDS {
                let model = Model { seed, style, control, ..Model::default() };
                let j = judged(model.lines(), &model.expect());
                let s = scale_in(&j);
                assert_eq!(j.verdict, Verdict::Pass, "{style:?} {control:?} seed {seed}: {}\n{}", j.sentence, table(s));
                assert!(s.exposed_legs >= 9, "{}", s.exposed_legs);
                for id in ["I0", "I1", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I13"] {
                    assert!(with(s, Verdict::Pass).contains(id), "{id} was not put to the test\n{}", table(s));
                }
                assert!(s.drain.max.is_some_and(|d| d > 1000.0) && s.longest_gap.is_some());
                assert!(j.sentence.starts_with("1 server removed, "), "{}", j.sentence);
                assert!(j.reasons.is_empty());
            }
        }
    }
}

/// A fleet decides about a move before anybody hears of it.
#[test]
fn who_is_to_be_moved_may_count_on_the_new_server_already() {
    for (counts_ahead, right) in [(2500.0, true), (30_000.0, false)] {
        let model = Model { style: Style::Move, counts_ahead, ..Model::default() };
        let expect = Expect { ghost_allowance: Duration::from_secs(3), ..model.expect() };
        let j = judged(model.lines(), &expect);
        assert_eq!(!with(scale_in(&j), Verdict::Fail).contains("I5"), right, "{}", table(scale_in(&j)));
    }
}

#[test]
fn kills_a_non_empty_server() {
    only(Sin::KillsNonEmpty, Style::Wait, &["I3", "I4"]);
    let model = Model { sin: Some(Sin::KillsNonEmpty), ..Model::default() };
    let j = judged(model.lines(), &model.expect());
    assert!(j.sentence.starts_with("I3, I4: s"), "{}", j.sentence);
    assert!(j.sentence.contains(" killed with ") && j.sentence.contains("live legs (board-"), "{}", j.sentence);
    assert!(j.sentence.contains(" s after cordon"), "{}", j.sentence);
    let i3 = scale_in(&j).invariants.iter().find(|i| i.id == "I3").unwrap();
    assert!(i3.evidence[0].noticed.contains("thrown out of the call and back after"), "{:?}", i3.evidence[0]);
    assert!(scale_in(&j).classes.contains_key("reconnected"));
}

#[test]
fn starts_rooms_on_a_cordoned_server() {
    only(Sin::NewRoomsOnCordoned, Style::Wait, &["I1"]);
}

#[test]
fn refuses_late_joiners() {
    only(Sin::RefusesLateJoiners, Style::Wait, &["I2"]);
}

#[test]
fn drops_late_joiners_after_it_let_them_in() {
    only(Sin::DropsLateJoiners, Style::Wait, &["I4"]);
}

#[test]
fn splits_a_room() {
    only(Sin::SplitsRoom, Style::Wait, &["I6"]);
}

#[test]
fn moves_a_call_with_a_gap() {
    only(Sin::MovesWithGap, Style::Move, &["I4"]);
}

#[test]
fn goes_one_way_after_a_move() {
    only(Sin::OneWayAfterMove, Style::Move, &["I4"]);
    let model = Model { sin: Some(Sin::OneWayAfterMove), style: Style::Move, ..Model::default() };
    assert_eq!(judged(model.lines(), &model.expect()).legs.one_way, Some(1));
}

#[test]
fn keeps_ghosts() {
    only(Sin::KeepsGhosts, Style::Wait, &["I5"]);
}

#[test]
fn has_a_stale_registry() {
    only(Sin::StaleRegistry, Style::Wait, &["I8"]);
    only(Sin::RegistryMisplacesRooms, Style::Wait, &["I8"]);
    only(Sin::NegativeHeadroom, Style::Wait, &["I8"]);
}

#[test]
fn never_ends_a_drain() {
    only(Sin::DrainNeverEnds, Style::Wait, &["I7"]);
    // Its server was told to end, and did not.
    let model = Model { sin: Some(Sin::DrainNeverEnds), ..Model::default() };
    let j = judged(model.lines(), &model.expect());
    let i3 = scale_in(&j).invariants.iter().find(|i| i.id == "I3").unwrap();
    assert_eq!((i3.verdict, i3.why.as_str()), (Verdict::Pass, "1 was told to end, and no call fell by that"));
}

#[test]
fn brings_everybody_back_at_once() {
    only(Sin::Herd, Style::Reconnect, &["I10"]);
}

#[test]
fn reports_zero_sessions() {
    only(Sin::ReportsZero, Style::Wait, &["I5"]);
}

#[test]
fn harms_the_others() {
    only(Sin::HarmsOthers, Style::Wait, &["I9"]);
    only(Sin::HarmsOthersVideo, Style::Wait, &["I9"]);
}

#[test]
fn forgets_a_server_after_uncordon() {
    only(Sin::ForgetsUncordoned, Style::Wait, &["I11"]);
}

#[test]
fn leaves_too_few_servers_or_fails_joins() {
    only(Sin::CordonsAll, Style::Wait, &["I13"]);
    only(Sin::FailsAcceptedJoins, Style::Wait, &["I13"]);
}
