//! I12: the same right fleet, with everybody behind one of two TURN servers.

use crate::model::Model;
use crate::sins::{judged, scale_in, with};
use roomful::history::{Event, Line, Relay, RelayWhat, StepAction, StepEvent, StepStage};
use roomful::types::{LegId, Via};
use roomful::verdict::Verdict;
use std::collections::BTreeMap;

const SEEDS: u64 = 20;
/// When turn-1 is cordoned, ms since the start of the run.
const CORDON: f64 = 20_000.0;

fn relay(t: f64, leg: LegId, turn: &str, what: RelayWhat, code: Option<u16>) -> Line {
    let relay = Relay {
        leg,
        slot: 0,
        turn: turn.into(),
        via: Via::Udp,
        what,
        ms: matches!(what, RelayWhat::Allocated).then_some(0.5),
        code,
        detail: code.map(|_| "as said".into()),
        relayed: None,
    };
    Line { t, event: Event::Relay(relay) }
}

/// The model's history, every other leg behind turn-1; `new` says what becomes of those who ask turn-1 after its cordon.
fn lines(seed: u64, cordon: bool, new: impl Fn(f64, LegId) -> Vec<Line>) -> Vec<Line> {
    let model = Model { seed, ..Model::default() };
    let mut lines = model.lines();
    let mut on: BTreeMap<LegId, &str> = BTreeMap::new();
    let mut more = Vec::new();
    for line in &lines {
        match &line.event {
            Event::Joined { leg, setup, .. } => {
                let (t, first) = (line.t - setup.total_ms / 2.0, leg.0 % 2 == 0);
                if cordon && first && t > CORDON {
                    let all = new(t, *leg);
                    let given = all.iter().find_map(|l| match &l.event {
                        Event::Relay(r) if r.what == RelayWhat::Allocated => Some(r.turn.clone()),
                        _ => None,
                    });
                    on.extend(given.map(|turn| (*leg, if turn == "turn-1" { "turn-1" } else { "turn-2" })));
                    more.extend(all);
                } else {
                    let turn = if first { "turn-1" } else { "turn-2" };
                    on.insert(*leg, turn);
                    more.push(relay(t, *leg, turn, RelayWhat::Allocated, None));
                }
            }
            Event::LegEnd(end) => {
                if let Some(turn) = on.remove(&end.leg) {
                    more.push(relay(line.t + 1.0, end.leg, turn, RelayWhat::Released, None));
                }
            }
            _ => {}
        }
    }
    if cordon {
        for (stage, t) in [(StepStage::Begun, CORDON - 100.0), (StepStage::Done, CORDON - 50.0)] {
            let step = StepEvent {
                op: 900,
                name: "drain-turn".into(),
                action: StepAction::Cordon,
                server: Some("turn-1".into()),
                stage,
                detail: String::new(),
                rollback: false,
            };
            more.push(Line { t, event: Event::Step(step) });
        }
    }
    lines.extend(more);
    // The first and the last line stay where they are.
    let end = lines.iter().position(|l| matches!(l.event, Event::End { .. })).map(|i| lines.remove(i));
    lines[1..].sort_by(|a, b| a.t.total_cmp(&b.t));
    let last = lines.last().map_or(0.0, |l| l.t);
    lines.extend(end.map(|l| Line { t: l.t.max(last), ..l }));
    lines
}

fn elsewhere(t: f64, leg: LegId) -> Vec<Line> {
    vec![
        relay(t - 1.0, leg, "turn-1", RelayWhat::Redirected, Some(300)),
        relay(t, leg, "turn-2", RelayWhat::Allocated, None),
    ]
}

fn i12(seed: u64, lines: Vec<Line>) -> (Verdict, bool, String) {
    let j = judged(lines, &Model { seed, ..Model::default() }.expect());
    let s = scale_in(&j);
    let i = s.invariants.iter().find(|i| i.id == "I12").unwrap();
    let failed: Vec<&str> = with(s, Verdict::Fail).into_iter().filter(|id| *id != "I12").collect();
    assert_eq!(failed, [""; 0], "seed {seed}: {}", j.sentence);
    let what = i.evidence.first().map_or_else(|| i.why.clone(), |e| e.what.clone());
    (i.verdict, i.judged, what)
}

#[test]
fn allocations_that_nobody_touches_put_nothing_to_the_test() {
    let (verdict, judged, why) = i12(1, lines(1, false, elsewhere));
    assert_eq!((verdict, judged), (Verdict::Unknown, false));
    assert!(why.contains("no TURN server was drained"), "{why}");
}

#[test]
fn a_server_that_sends_new_ones_elsewhere_drains_right() {
    let mut turned_away = false;
    for seed in 1..=SEEDS {
        let (verdict, judged, why) = i12(seed, lines(seed, true, elsewhere));
        assert_eq!((verdict, judged), (Verdict::Pass, true), "seed {seed}: {why}");
        turned_away |= !why.contains(" 0 turned away");
    }
    assert!(turned_away);
}

#[test]
fn each_fault_of_a_turn_server_is_named() {
    for seed in 1..=SEEDS {
        let given = lines(seed, true, |t, leg| vec![relay(t, leg, "turn-1", RelayWhat::Allocated, None)]);
        let refused = lines(seed, true, |t, leg| vec![relay(t, leg, "turn-1", RelayWhat::Refused, Some(403))]);
        let mut lost = lines(seed, true, elsewhere);
        let one = lost.iter_mut().find_map(|l| match &mut l.event {
            Event::Relay(r) if r.what == RelayWhat::Released => Some(r),
            _ => None,
        });
        one.unwrap().what = RelayWhat::Lost;
        for (lines, words) in
            [(given, "though it was being drained"), (refused, "no other server gave"), (lost, "no more before")]
        {
            let (verdict, judged, what) = i12(seed, lines);
            assert_eq!((verdict, judged), (Verdict::Fail, true), "seed {seed}: {what}");
            assert!(what.contains(words), "{what}");
        }
    }
}
