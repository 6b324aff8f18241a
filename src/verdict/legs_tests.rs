//! Each class for its own reason, and never for another one's fall.

use super::*;
use crate::history::synthetic::Synthetic;
use crate::history::{Reading, ServerInfo};

const A: u32 = 0;

/// A history with three in a room, and what a test makes of their ends.
fn classes(change: impl Fn(u32, &mut Line)) -> BTreeMap<LegId, Classed> {
    classes_with(Synthetic { servers: 1, rooms: 1, hold: 10..70, ..Synthetic::default() }, Vec::new(), change)
}

fn classes_with(run: Synthetic, more: Vec<Line>, change: impl Fn(u32, &mut Line)) -> BTreeMap<LegId, Classed> {
    let mut lines = run.lines();
    for line in &mut lines {
        if let Event::LegEnd(end) = &line.event {
            let leg = end.leg.0;
            change(leg, line);
        }
    }
    lines.extend(more);
    let reading = Reading::of_lines(lines).unwrap();
    let frame = Frame::of(&reading);
    let mut tracks = Tracks::default();
    reading.each_numbered(|_| true, |n, line| tracks.see(n, &line));
    tracks.classify(&frame, &Classes::default())
}

fn end(line: &mut Line) -> &mut LegEnd {
    match &mut line.event {
        Event::LegEnd(end) => end,
        other => panic!("{other:?}"),
    }
}

fn gap(from: u32, kind: Kind, from_s: f64, until_s: f64) -> FlowGap {
    FlowGap { from: LegId(from), kind, from_ms: from_s * 1000.0, until_ms: until_s * 1000.0 }
}

fn with_gaps(line: &mut Line, gaps: &[FlowGap]) {
    let longest = gaps.iter().max_by(|a, b| window(a).length_ms().total_cmp(&window(b).length_ms())).unwrap();
    let e = end(line);
    (e.longest_gap_at_ms, e.longest_gap_ms) = (longest.from_ms, longest.until_ms - longest.from_ms);
    e.flow_gaps = gaps.to_vec();
}

fn class(all: &BTreeMap<LegId, Classed>, leg: u32) -> LegClass {
    all[&LegId(leg)].class
}

#[test]
fn one_way_needs_the_other_way_to_work() {
    let deaf_to_b = [gap(1, Kind::Audio, 30.0, 38.0)];
    let all = classes(|leg, line| {
        if leg == A {
            with_gaps(line, &deaf_to_b);
        }
    });
    assert_eq!((class(&all, A), class(&all, 1), class(&all, 2)), (LegClass::OneWay, LegClass::Clean, LegClass::Clean));
    assert_eq!((all[&LegId(A)].about, all[&LegId(A)].ms()), (Some(LegId(1)), 8000.0));
    assert!(noticed(&all[&LegId(A)], None, Some("board-1/p1")).contains("did not hear board-1/p1 for 8 s"));
    // Both deaf to each other: nobody is one way.
    let both = classes(|leg, line| match leg {
        A => with_gaps(line, &deaf_to_b),
        1 => with_gaps(line, &[gap(A, Kind::Audio, 30.5, 38.5)]),
        _ => {}
    });
    assert_eq!((class(&both, A), class(&both, 1)), (LegClass::Glitched, LegClass::Glitched));
    // For less than 5 s it is a glitch.
    let short = classes(|leg, line| {
        if leg == A {
            with_gaps(line, &[gap(1, Kind::Audio, 30.0, 34.9)]);
        }
    });
    assert_eq!(class(&short, A), LegClass::Glitched);
    // Video one way, audio fine: a pair and a kind.
    let video = classes(|leg, line| {
        if leg == A {
            with_gaps(line, &[gap(2, Kind::Video, 30.0, 40.0)]);
        }
    });
    assert_eq!(class(&video, A), LegClass::OneWay);
}

#[test]
fn who_never_heard_anybody_is_not_clean() {
    let silent = |until_ms: f64| {
        classes(|leg, line| {
            if leg == A {
                end(line).silences = vec![Silence { from_ms: 30_000.0, until_ms }];
            }
        })
    };
    let all = silent(36_000.0);
    assert_eq!((class(&all, A), all[&LegId(A)].ms(), class(&all, 1)), (LegClass::Glitched, 6000.0, LegClass::Clean));
    assert_eq!(class(&silent(34_000.0), A), LegClass::Clean, "a call that begins");
    assert_eq!(class(&silent(50_000.0), A), LegClass::Dropped);
}

#[test]
fn whom_nobody_hears_is_not_clean() {
    let deaf = |from_s: f64, until_s: f64| gap(1, Kind::Audio, from_s, until_s);
    let all = classes(|leg, line| match leg {
        0 => with_gaps(line, &[deaf(30.0, 38.0)]),
        2 => with_gaps(line, &[deaf(30.5, 39.0)]),
        _ => {}
    });
    assert_eq!([0, 1, 2].map(|l| class(&all, l)), [LegClass::OneWay; 3]);
    let unheard = &all[&LegId(1)];
    assert_eq!((unheard.about, unheard.evidence), (None, Window { from_ms: 30_500.0, until_ms: 38_000.0 }));
    assert!(noticed(unheard, None, None).contains("was heard by nobody for 7.5 s"));
    // At different times: each time somebody heard it.
    let all = classes(|leg, line| match leg {
        0 => with_gaps(line, &[deaf(30.0, 38.0)]),
        2 => with_gaps(line, &[deaf(40.0, 48.0)]),
        _ => {}
    });
    assert_eq!([0, 1, 2].map(|l| class(&all, l)), [LegClass::OneWay, LegClass::Clean, LegClass::OneWay]);
    // Who hears nobody either is not one way.
    let all = classes(|leg, line| match leg {
        0 => with_gaps(line, &[deaf(30.0, 38.0)]),
        1 => with_gaps(line, &[0, 2].map(|from| gap(from, Kind::Audio, 30.0, 38.0))),
        _ => with_gaps(line, &[deaf(30.0, 38.0)]),
    });
    assert_eq!([0, 1, 2].map(|l| class(&all, l)), [LegClass::Glitched; 3]);
}

#[test]
fn nobody_is_dropped_because_another_one_fell() {
    // The second one's transport dies at 40 s; its consent ends at 60 s. The others hear it no more.
    let all = classes(|leg, line| match leg {
        1 => {
            (end(line).cause, line.t) = (LegCause::ConsentExpired, 60_000.0);
            end(line).silences = vec![Silence { from_ms: 40_000.0, until_ms: 60_000.0 }];
        }
        _ => {
            with_gaps(line, &[gap(1, Kind::Audio, 40.0, 60.0), gap(1, Kind::Video, 40.0, 60.0)]);
            end(line).silences = vec![Silence { from_ms: 40_000.0, until_ms: 60_000.0 }];
        }
    });
    assert_eq!((class(&all, A), class(&all, 1), class(&all, 2)), (LegClass::Clean, LegClass::Dropped, LegClass::Clean));
    assert_eq!(all[&LegId(1)].evidence, Window { from_ms: 40_000.0, until_ms: 60_000.0 });
    // But a gap of its own beside that counts.
    let all = classes(|leg, line| match leg {
        1 => (end(line).cause, line.t) = (LegCause::ClosedByServer, 41_000.0),
        A => with_gaps(line, &[gap(1, Kind::Audio, 38.0, 41.5), gap(2, Kind::Audio, 20.0, 22.0)]),
        _ => {}
    });
    assert_eq!((class(&all, A), all[&LegId(A)].ms()), (LegClass::Glitched, 2000.0));
    // Where somebody who did not fall was silent too, it was dropped.
    let all = classes(|leg, line| match leg {
        1 => (end(line).cause, line.t) = (LegCause::ConsentExpired, 60_000.0),
        A => {
            with_gaps(line, &[gap(1, Kind::Audio, 40.0, 60.0), gap(2, Kind::Audio, 40.0, 60.0)]);
            end(line).silences = vec![Silence { from_ms: 40_000.0, until_ms: 60_000.0 }];
        }
        _ => {}
    });
    assert_eq!(class(&all, A), LegClass::Dropped);
}

fn rejoin(of: u32, id: u32, run: &Synthetic, joined_s: Option<f64>) -> Vec<Line> {
    let planned = run.lines().into_iter().find_map(|l| match l.event {
        Event::JoinStart { leg, .. } if leg.id == LegId(of) => Some(leg),
        _ => None,
    });
    let mut leg = planned.unwrap();
    leg.id = LegId(id);
    let room = leg.room;
    let mut lines = vec![Line { t: 40_200.0, event: Event::JoinStart { leg, late_ms: 0.0, rejoins: Some(LegId(of)) } }];
    if let Some(s) = joined_s {
        let event = Event::Joined {
            leg: LegId(id),
            room,
            server: ServerId(0),
            suite: None,
            remote: None,
            certificate: None,
            setup: crate::history::Setup::default(),
        };
        lines.push(Line { t: s * 1000.0, event });
    }
    lines
}

#[test]
fn a_rejoin_makes_a_drop_a_reconnect() {
    let run = Synthetic { servers: 1, rooms: 1, hold: 10..70, ..Synthetic::default() };
    let fall = |leg: u32, line: &mut Line| {
        if leg == 1 {
            (end(line).cause, line.t) = (LegCause::SignalingLost, 40_000.0);
            end(line).silences = vec![Silence { from_ms: 39_600.0, until_ms: 40_000.0 }];
        }
    };
    let all = classes_with(run.clone(), rejoin(1, 77, &run, Some(42.1)), fall);
    assert_eq!(
        (class(&all, 1), all[&LegId(1)].ms(), all[&LegId(1)].about),
        (LegClass::Reconnected, 2500.0, Some(LegId(77)))
    );
    assert!(!all.contains_key(&LegId(77)), "still open when the history ends");
    // A rejoin that does not get in changes nothing.
    let all = classes_with(run.clone(), rejoin(1, 77, &run, None), fall);
    assert_eq!(class(&all, 1), LegClass::Dropped);
}

#[test]
fn a_move_is_a_migration_and_what_is_worse_stays_worse() {
    let moved = |leg: u32, from_s: f64, until_s: f64| Line {
        t: until_s * 1000.0,
        event: Event::Moved {
            leg: LegId(leg),
            from: ServerId(0),
            to: ServerId(1),
            from_ms: from_s * 1000.0,
            until_ms: until_s * 1000.0,
        },
    };
    let server = Line { t: 1.0, event: Event::Server(ServerInfo { id: ServerId(1), name: "sfu-2".into() }) };
    let run = Synthetic { servers: 1, rooms: 1, hold: 10..70, ..Synthetic::default() };
    let more = vec![server, moved(A, 40.0, 40.4), moved(1, 40.0, 43.0), moved(2, 40.0, 40.3)];
    let all = classes_with(run, more, |leg, line| {
        if leg == 2 {
            with_gaps(line, &[gap(1, Kind::Audio, 40.3, 48.0)]);
        }
    });
    assert_eq!((class(&all, A), all[&LegId(A)].ms().round()), (LegClass::Migrated, 400.0));
    assert_eq!((class(&all, 1), all[&LegId(1)].ms()), (LegClass::Migrated, 3000.0));
    assert_eq!(class(&all, 2), LegClass::OneWay);
}

#[test]
fn a_join_that_failed_never_joined_and_one_of_ours_proves_nothing() {
    let run = Synthetic { join_failures: 2, ..Synthetic::default() };
    let all = classes_with(run.clone(), Vec::new(), |_, _| {});
    assert_eq!(all.values().filter(|c| c.class == LegClass::NeverJoined).count(), 2);
    assert_eq!(all.len(), 12);
    let all = classes_with(Synthetic { unhealthy: Some(0..9), ..run }, Vec::new(), |_, _| {});
    assert_eq!(all.values().filter(|c| c.class == LegClass::Inconclusive).count(), 2);
}
