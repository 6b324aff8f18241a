//! Servers that are paused or cut off, registries that forget or say little, and servers that are added.

use crate::model::{Control, Model};
use crate::sins::{judged, scale_in, with};
use roomful::history::{
    Event, FailReason, FleetRole, JoinFailure, LegCause, Line, ServerInfo, ServerSeen, Silence, StepAction, StepEvent,
    StepStage,
};
use roomful::profile::{Expect, ScaleOut};
use roomful::types::{LegId, RoomId, ServerId};
use roomful::verdict::scale_in::Invariant;
use roomful::verdict::{Judgement, Verdict};
use std::collections::BTreeSet;
use std::time::Duration;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;
/// When a fault begins and ends, ms.
const FROM: f64 = 50_000.0;
const UNTIL: f64 = 56_000.0;

fn row<'a>(j: &'a Judgement, id: &str) -> &'a Invariant {
    scale_in(j).invariants.iter().find(|i| i.id == id).unwrap()
}

fn insert(lines: &mut Vec<Line>, t: f64, event: Event) {
    let at = lines.partition_point(|l| l.t <= t);
    lines.insert(at, Line { t, event });
}

fn step(lines: &mut Vec<Line>, op: u32, t: f64, action: StepAction, server: Option<&str>) {
    for stage in [StepStage::Begun, StepStage::Done] {
        let (name, server) = (action.as_str().to_owned(), server.map(str::to_owned));
        let event = StepEvent { op, name, action, server, stage, detail: String::new(), rollback: false };
        insert(lines, t, Event::Step(event));
    }
}

/// Nothing is removed; s1 has a fault of this kind, and its legs of that moment are given.
fn disturbed(seed: u64, action: StepAction, ends: StepAction) -> (Vec<Line>, BTreeSet<LegId>) {
    let model = Model { seed, control: Control::Idle, ..Model::default() };
    let mut lines = model.lines();
    let mut there = BTreeSet::new();
    for line in lines.iter().filter(|l| l.t < FROM) {
        match &line.event {
            Event::Joined { leg, server, .. } if server.0 == 0 => drop(there.insert(*leg)),
            Event::LegEnd(end) => drop(there.remove(&end.leg)),
            _ => {}
        }
    }
    step(&mut lines, 1, FROM, action, Some("s1"));
    step(&mut lines, 2, UNTIL, ends, Some("s1"));
    assert!(there.len() >= 3);
    (lines, there)
}

fn nothing_removed() -> Expect {
    Expect { removed: Some(0), skip: vec!["I5".into()], ..Model::default().expect() }
}

#[test]
fn whoever_falls_with_a_paused_or_cut_off_server_is_judged() {
    let kinds = [
        (StepAction::Pause, StepAction::Resume),
        (StepAction::PartitionMedia, StepAction::Heal),
        (StepAction::PartitionSignaling, StepAction::Heal),
        (StepAction::PartitionRegistry, StepAction::Heal),
    ];
    for seed in SEEDS {
        for (action, ends) in kinds {
            let (mut lines, there) = disturbed(seed, action, ends);
            let j = judged(lines.clone(), &nothing_removed());
            assert_eq!(j.verdict, Verdict::Pass, "{action:?} seed {seed}: {}", j.sentence);
            assert_eq!(scale_in(&j).exposed_legs, there.len() as u64);
            assert!(j.sentence.starts_with("0 servers removed, 1 paused or cut off, "), "{}", j.sentence);
            let fallen: Vec<LegId> = there.into_iter().take(3).collect();
            for line in &mut lines {
                let Event::LegEnd(end) = &mut line.event else { continue };
                if fallen.contains(&end.leg) {
                    end.cause = LegCause::ConsentExpired;
                    line.t = FROM + 30_000.0;
                    end.silences = vec![Silence { from_ms: FROM, until_ms: line.t }];
                }
            }
            lines.sort_by(|a, b| a.t.total_cmp(&b.t));
            let j = judged(lines, &nothing_removed());
            assert_eq!((j.verdict, j.exit_code()), (Verdict::Fail, 3), "{action:?} seed {seed}: {}", j.sentence);
            assert_eq!(with(scale_in(&j), Verdict::Fail).into_iter().collect::<Vec<_>>(), ["I4"], "{}", j.sentence);
            assert_eq!(row(&j, "I4").evidence[0].legs_total, 3);
            assert!(j.sentence.contains("3 legs on s1 dropped"), "{}", j.sentence);
        }
    }
}

#[test]
fn the_gap_of_a_pause_is_no_fault_of_the_fleet_and_one_after_it_is() {
    for seed in SEEDS {
        let glitched = |begin: f64, action| {
            let ends = if action == StepAction::Pause { StepAction::Resume } else { StepAction::Heal };
            let (mut lines, there) = disturbed(seed, action, ends);
            for line in &mut lines {
                let Event::LegEnd(end) = &mut line.event else { continue };
                if there.contains(&end.leg) && line.t > begin + 6000.0 {
                    end.silences = vec![Silence { from_ms: begin, until_ms: begin + 5800.0 }];
                    (end.longest_gap_at_ms, end.longest_gap_ms) = (begin, 5800.0);
                }
            }
            judged(lines, &nothing_removed())
        };
        let j = glitched(FROM + 10.0, StepAction::Pause);
        assert_eq!(j.verdict, Verdict::Pass, "seed {seed}: {}", j.sentence);
        assert!(row(&j, "I4").why.contains("the gap of the fault itself"), "{}", row(&j, "I4").why);
        assert!(j.sentence.contains(" glitched") && j.sentence.contains("5.8 s"), "{}", j.sentence);
        // Nothing excuses it where the registry alone is cut off.
        let j = glitched(FROM + 10.0, StepAction::PartitionRegistry);
        assert_eq!(with(scale_in(&j), Verdict::Fail).into_iter().collect::<Vec<_>>(), ["I4"], "{}", j.sentence);
    }
}

#[test]
fn without_anybody_at_risk_nothing_is_proven_also_where_nothing_was_to_be_removed() {
    for seed in SEEDS {
        let model = Model { seed, control: Control::Idle, ..Model::default() };
        let j = judged(model.lines(), &nothing_removed());
        assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 4), "{}", j.sentence);
        assert!(row(&j, "exposed").why.starts_with("only 0 legs were up on servers"), "{}", row(&j, "exposed").why);
        // A registry that is flushed puts everybody at risk.
        let mut lines = model.lines();
        step(&mut lines, 1, FROM, StepAction::RegistryFlush, None);
        let j = judged(lines, &nothing_removed());
        assert_eq!(j.verdict, Verdict::Pass, "{}", j.sentence);
        assert!(scale_in(&j).exposed_legs >= 9);
        // Who was on a server that was only paused proves nothing of a removal.
        let (lines, _) = disturbed(seed, StepAction::Pause, StepAction::Resume);
        let j = judged(lines, &Expect { removed: None, ..nothing_removed() });
        assert_eq!(row(&j, "exposed").verdict, Verdict::Unknown);
    }
}

/// The registry alone tells of life, and for a while calls everybody dead, or has nobody at all.
fn forgetful(seed: u64, forgets: bool) -> Vec<Line> {
    let mut lines = Model { seed, tells_life: false, ..Model::default() }.lines();
    for line in &mut lines {
        let Event::Fleet(view) = &mut line.event else { continue };
        if view.role != FleetRole::Discovery {
            continue;
        }
        let dead = (31_000.0..=40_000.0).contains(&line.t);
        if dead && forgets {
            view.servers.clear();
        }
        for s in &mut view.servers {
            (s.alive, s.listed) = (Some(!dead), s.listed.map(|l| l && !dead));
        }
    }
    lines
}

#[test]
fn calls_that_go_on_prove_that_a_registry_is_wrong_about_deaths() {
    for seed in SEEDS {
        for forgets in [false, true] {
            let model = Model { seed, ..Model::default() };
            let j = judged(forgetful(seed, forgets), &model.expect());
            let s = scale_in(&j);
            assert!(with(s, Verdict::Fail).is_empty(), "seed {seed} {forgets}: {}", j.sentence);
            assert_eq!(j.verdict, Verdict::Pass, "seed {seed} {forgets}: {}", j.sentence);
            assert!(j.sentence.starts_with("1 server removed, "), "{}", j.sentence);
        }
    }
}

/// The registry's lines say no more than this of each server.
fn registry_says(model: &Model, rooms: bool, what: impl Fn(&ServerSeen) -> ServerSeen) -> Judgement {
    let mut lines = model.lines();
    let all = |l: &Line| match &l.event {
        Event::Fleet(v) if v.role == FleetRole::Discovery => Some(v.servers.clone()),
        _ => None,
    };
    let all = lines.iter().find_map(all).unwrap();
    for line in &mut lines {
        let Event::Fleet(view) = &mut line.event else { continue };
        if view.role == FleetRole::Discovery {
            view.servers = all.iter().map(|s| ServerSeen { server: s.server.clone(), ..what(s) }).collect();
            if !rooms {
                view.rooms.clear();
            }
        }
    }
    judged(lines, &model.expect())
}

#[test]
fn a_list_of_names_is_no_registry() {
    let model = Model::default();
    for alive in [None, Some(true)] {
        let j = registry_says(&model, false, |_| ServerSeen { alive, ..ServerSeen::default() });
        let i8 = row(&j, "I8");
        assert_eq!((i8.verdict, i8.judged), (Verdict::Unknown, false), "{}", i8.why);
        assert!(i8.why.contains("no registry is shown"), "{}", i8.why);
        assert!(j.sentence.contains("not put to the test: ") && j.sentence.contains("I8"), "{}", j.sentence);
    }
    let j = registry_says(&model, true, |_| ServerSeen::default());
    assert_eq!((row(&j, "I8").verdict, row(&j, "I8").why.as_str()), (Verdict::Pass, "it has rooms where they are"));
    let j = judged(model.lines(), &model.expect());
    let all = "it has rooms where they are; it lists who is there, and nobody else; no headroom below 0";
    assert_eq!(row(&j, "I8").why, all);
}

/// An autoscaler that adds s9 at 40 s; two join there at 45 s.
fn grown(seed: u64) -> Vec<Line> {
    let mut lines = Model { seed, control: Control::Idle, ..Model::default() }.lines();
    for line in lines.iter_mut().filter(|l| l.t > 40_000.0) {
        if let Event::Fleet(view) = &mut line.event
            && view.role == FleetRole::Discovery
        {
            let new = ServerSeen { listed: Some(true), cordoned: Some(false), ..ServerSeen::default() };
            view.servers.push(ServerSeen { server: "s9".into(), ..new });
        }
    }
    let find = |what: &dyn Fn(&Event) -> bool| lines.iter().find(|l| what(&l.event)).unwrap().event.clone();
    let start = find(&|e| matches!(e, Event::JoinStart { .. }));
    let joined = find(&|e| matches!(e, Event::Joined { .. }));
    let end = find(&|e| matches!(e, Event::LegEnd(_)));
    for n in 0..2u32 {
        let (mut start, mut joined, mut end) = (start.clone(), joined.clone(), end.clone());
        let (own, home) = (LegId(9000 + n), RoomId(900));
        if let Event::JoinStart { leg, .. } = &mut start {
            (leg.id, leg.room, leg.join_at, leg.leave_at) =
                (own, home, Duration::from_secs(44), Duration::from_secs(80));
        }
        if let Event::Joined { leg, room, server, .. } = &mut joined {
            (*leg, *room, *server) = (own, home, ServerId(99));
        }
        if let Event::LegEnd(end) = &mut end {
            (end.leg, end.room, end.server) = (own, home, Some(ServerId(99)));
            (end.longest_gap_at_ms, end.longest_gap_ms) = (50_000.0, 25.0);
        }
        insert(&mut lines, 44_900.0, start);
        insert(&mut lines, 45_000.0, joined);
        insert(&mut lines, 80_000.0, end);
    }
    insert(&mut lines, 40_000.0, Event::Server(ServerInfo { id: ServerId(99), name: "s9".into() }));
    lines
}

#[test]
fn servers_that_an_autoscaler_adds_have_to_be_joined_in_time() {
    let want = |servers, within, joins_failed_max| {
        let scale_out = ScaleOut { servers, within: Duration::from_secs(within), joins_failed_max };
        Expect { scale_out: Some(scale_out), ..nothing_removed() }
    };
    for seed in SEEDS {
        let lines = grown(seed);
        let j = judged(lines.clone(), &want(1, 30, 0));
        assert_eq!((j.verdict, j.exit_code()), (Verdict::Pass, 0), "{}", j.sentence);
        // The hold begins at 20 s.
        assert!(j.sentence.starts_with("1 server added, first join on the last of them after 25 s"), "{}", j.sentence);
        let j = judged(lines.clone(), &want(1, 20, 0));
        assert_eq!(with(scale_in(&j), Verdict::Fail).into_iter().collect::<Vec<_>>(), ["scale_out"], "{}", j.sentence);
        assert_eq!(row(&j, "scale_out").evidence[0].what, "0 of 1 new servers had a join within 20 s");
        let j = judged(lines.clone(), &want(2, 30, 0));
        assert_eq!((j.verdict, row(&j, "scale_out").why.as_str()), (Verdict::Unknown, "1 of 2 servers were added"));
        // Somebody found no place before.
        let mut lines = lines;
        let mut start = lines.iter().find(|l| matches!(l.event, Event::JoinStart { .. })).unwrap().event.clone();
        if let Event::JoinStart { leg, .. } = &mut start {
            (leg.id, leg.room) = (LegId(9100), RoomId(901));
        }
        let failure = JoinFailure {
            leg: LegId(9100),
            room: RoomId(901),
            server: None,
            reason: FailReason::Full,
            detail: "no server has room".into(),
            after_ms: 10.0,
        };
        insert(&mut lines, 35_000.0, start);
        insert(&mut lines, 35_010.0, Event::JoinFailed(failure));
        let j = judged(lines.clone(), &want(1, 30, 0));
        assert_eq!(with(scale_in(&j), Verdict::Fail).into_iter().collect::<Vec<_>>(), ["scale_out"], "{}", j.sentence);
        assert!(row(&j, "scale_out").evidence[0].what.starts_with("1 join failed before"), "{}", j.sentence);
        assert_eq!(judged(lines, &want(1, 30, 1)).verdict, Verdict::Pass);
    }
}
