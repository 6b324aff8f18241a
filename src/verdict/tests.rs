//! Every defect that a synthetic history is given must be found, and none where there is none.

use super::*;
use crate::history::synthetic::Synthetic;
use crate::history::{Event, FailReason, LegCause, Line, Reading, Silence};
use crate::profile::{HealthLimits, Op, Threshold, ThresholdValue};
use crate::types::Kind;

pub(super) fn limit(metric: &str, op: Op, value: ThresholdValue) -> Threshold {
    let sign = match op {
        Op::Lt => "<",
        Op::Le => "<=",
        Op::Gt => ">",
        Op::Ge => ">=",
        Op::Eq => "==",
    };
    Threshold { metric: metric.into(), op, value, expr: format!("{metric} {sign} {}", value.number()) }
}

pub(super) fn usual() -> Vec<Threshold> {
    vec![
        limit("joins.failed_share", Op::Le, ThresholdValue::Percent(0.1)),
        limit("setup.total.p95", Op::Le, ThresholdValue::Ms(1500.0)),
        limit("audio.loss", Op::Le, ThresholdValue::Percent(0.3)),
        limit("audio.delay.p99", Op::Le, ThresholdValue::Ms(80.0)),
        limit("video.freezes", Op::Le, ThresholdValue::PerMinute(0.2)),
        limit("legs.dropped", Op::Eq, ThresholdValue::Count(0.0)),
    ]
}

pub(super) fn judged(run: &Synthetic) -> Judgement {
    judge(&run.reading(), &usual(), &HealthLimits::default())
}

fn judged_lines(lines: Vec<Line>) -> Judgement {
    judge(&Reading::of_lines(lines).unwrap(), &usual(), &HealthLimits::default())
}

pub(super) fn outcome<'a>(j: &'a Judgement, metric: &str) -> &'a Outcome {
    j.pass.iter().find(|o| o.metric == metric).unwrap()
}

#[test]
fn a_good_run_passes() {
    let j = judged(&Synthetic::default());
    assert_eq!(j.verdict, Verdict::Pass, "{}", j.sentence);
    assert_eq!(j.exit_code(), 0);
    assert!(j.pass.iter().all(|o| o.verdict == Verdict::Pass));
    assert_eq!((j.participants.planned, j.participants.joined, j.participants.clean), (12, 12, Some(12)));
    assert_eq!((j.audio.media.loss, j.video.freezes, j.video.frozen_share), (Some(0.0), Some(0.0), Some(0.0)));
    assert_eq!(j.generator.inconclusive_share, Some(0.0));
    assert!(j.hold.complete && j.ended && j.reasons.is_empty());
    assert_eq!((j.servers.len(), j.servers[0].participants_max, j.servers[0].rooms_max), (2, 6, 2));
    // 12 legs watch 4 others for 20 s: 50 packets of audio a second from each of 2 others.
    assert_eq!(j.audio.media.e2e.expected, 12 * 2 * 50 * 20);
    assert!(
        j.sentence.starts_with("12 of 12 joined; all 6 limits held on all 2 servers; tightest: "),
        "{}",
        j.sentence
    );
}

#[test]
fn the_tightest_limit_is_named_with_its_margin() {
    let run = Synthetic { delay: Some((1, 10..30, 70.0)), ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!(j.verdict, Verdict::Pass);
    let o = outcome(&j, "audio.delay.p99");
    assert_eq!(o.server.as_deref(), Some("sfu-2"));
    assert!((5.0..10.0).contains(&o.margin.unwrap()), "{o:?}");
    assert!(
        j.sentence.contains("tightest: audio delay p99 7") && j.sentence.ends_with("of 80 ms on sfu-2."),
        "{}",
        j.sentence
    );
}

#[test]
fn loss_on_one_server_is_found_with_place_and_time() {
    let run = Synthetic { loss: Some((1, 15..20, 0.02)), ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!((j.verdict, j.exit_code()), (Verdict::Fail, 3));
    let o = outcome(&j, "audio.loss");
    // 5 of 20 s at 2 %.
    assert_eq!((o.value, o.server.as_deref(), o.legs), (Some(0.5), Some("sfu-2"), Some(6)));
    assert_eq!(o.window, Some(Window { from_ms: 15_000.0, until_ms: 20_000.0 }));
    assert_eq!(j.sentence, "sfu-2 lost 0.5 % of audio (limit 0.3 %) from 00:15 to 00:20, 6 legs; generator healthy.");
    assert_eq!(j.audio.media.loss, Some(0.25), "the run's mean hides it");
    assert_eq!(j.servers[0].audio.media.loss, Some(0.0));
    assert_eq!(j.servers[1].audio.media.lossy_legs_share, Some(100.0));
    assert_eq!(j.audio.media.lossy_legs_share, Some(50.0));
    assert_eq!(j.rooms_worst[0].server.as_deref(), Some("sfu-2"));
    assert!(j.pass.iter().filter(|o| o.verdict == Verdict::Fail).count() == 1);
}

#[test]
fn ticks_that_come_a_little_late_cost_no_second() {
    let run = Synthetic { loss: Some((1, 29..30, 0.1)), ..Synthetic::default() };
    let mut lines = run.lines();
    for line in &mut lines {
        line.t += if matches!(line.event, Event::Interval(_) | Event::Health(_)) { 30.0 } else { 0.0 };
    }
    let (late, on_time) = (judged_lines(lines), judged(&run));
    assert_eq!(outcome(&late, "audio.loss").value, Some(0.5), "1 of 20 s at 10 %");
    assert_eq!(outcome(&late, "audio.loss").value, outcome(&on_time, "audio.loss").value);
}

#[test]
fn loss_before_the_hold_is_not_judged() {
    let run = Synthetic { loss: Some((0, 0..10, 0.5)), ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!((j.verdict, j.audio.media.loss), (Verdict::Pass, Some(0.0)));
    assert!(j.series.media.iter().any(|p| p.servers.values().any(|s| s.kinds[0].loss > Some(40.0))));
}

#[test]
fn loss_all_through_the_hold_says_so() {
    let run = Synthetic { loss: Some((0, 0..30, 0.02)), ..Synthetic::default() };
    let j = judged(&run);
    assert!(
        j.sentence.starts_with("sfu-1 lost 2 % of audio (limit 0.3 %) all through the hold, 6 legs;"),
        "{}",
        j.sentence
    );
}

#[test]
fn a_dropped_leg_fails_with_server_and_cause() {
    let j = judged(&Synthetic { drops: 1, ..Synthetic::default() });
    assert_eq!(j.verdict, Verdict::Fail);
    assert_eq!((j.legs.dropped, j.legs.clean, j.legs.judged), (Some(1), Some(11), Some(12)));
    assert_eq!(j.participants.dropped, Some(1));
    for part in ["1 of 12 legs dropped (limit 0)", "sfu-2", "00:20", "closed by the server"] {
        assert!(j.sentence.contains(part), "{part}: {}", j.sentence);
    }
    let j = judged(&Synthetic { drops: 3, ..Synthetic::default() });
    assert!(
        j.sentence.contains("3 of 12 legs dropped") && j.sentence.contains("from 00:20 to 00:21"),
        "{}",
        j.sentence
    );
}

#[test]
fn failed_joins_fail_and_count_at_their_time_out() {
    let j = judged(&Synthetic { join_failures: 2, hold: 20..40, ..Synthetic::default() });
    assert_eq!(j.verdict, Verdict::Fail);
    let share = outcome(&j, "joins.failed_share");
    assert!((share.value.unwrap() - 16.666_667).abs() < 1e-6, "{share:?}");
    assert_eq!(j.participants.failures["timeout_ice"], 2);
    assert_eq!((j.setup.total.count, j.setup.total.max), (12, Some(5000.0)));
    assert_eq!(j.setup.ice.count, 10);
    assert_eq!(outcome(&j, "setup.total.p95").verdict, Verdict::Fail);
    assert_eq!(outcome(&j, "setup.total.p95").server.as_deref(), Some("sfu-1"));
    for part in ["2 of 12 joins failed, 16.7 % (limit 0.1 %)", "timeout_ice on sfu-1", "from 00:05 to"] {
        assert!(j.sentence.contains(part), "{part}: {}", j.sentence);
    }
    assert_eq!(j.failures[0].detail, "meeting-0/p0: no answer from 127.0.0.1:40000");
}

#[test]
fn an_unhealthy_generator_is_never_pass_and_never_fail() {
    for loss in [None, Some((1, 10..30, 0.5))] {
        let run = Synthetic { unhealthy: Some(12..18), loss, ..Synthetic::default() };
        let j = judged(&run);
        assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 4), "{}", j.sentence);
        assert!(!j.generator.healthy);
        assert_eq!(
            j.sentence,
            "Generator late (p99 31.1 ms) in 35 % of intervals, core 3 saturated: set shards = 2, the machine has 4 cores."
        );
    }
}

#[test]
fn loss_in_unhealthy_seconds_is_not_the_targets() {
    // 1 s of 60 is within the 5 % that may be inconclusive.
    let run = Synthetic { hold: 10..70, unhealthy: Some(30..31), loss: Some((0, 30..31, 1.0)), ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!(j.verdict, Verdict::Pass, "{}", j.sentence);
    assert_eq!(j.audio.media.loss, Some(0.0));
    // And what was lost at its end may count in the second after it.
    assert_eq!(j.generator.inconclusive_share, Some(3.333_333));
    assert_eq!(j.series.inconclusive.len(), 2);
    // The same loss in a healthy second is.
    let run = Synthetic { unhealthy: None, ..run };
    assert_eq!(judged(&run).verdict, Verdict::Fail);
}

#[test]
fn joins_while_the_generator_was_unhealthy_prove_nothing() {
    let run = Synthetic { unhealthy: Some(0..5), hold: 20..60, ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!(j.verdict, Verdict::Unknown, "{}", j.sentence);
    assert_eq!(outcome(&j, "setup.total.p95").verdict, Verdict::Unknown);
    assert_eq!(outcome(&j, "audio.loss").verdict, Verdict::Pass);
    assert!(j.generator.healthy, "its hold was fine");
    // Nor do first packets that were waited for in those seconds.
    let well = judged(&Synthetic { unhealthy: None, ..run });
    for (of, whole) in [(&j.setup.first_rtp, &well.setup.first_rtp), (&j.setup.first_frame, &well.setup.first_frame)] {
        assert!(of.count < whole.count, "{} of {}", of.count, whole.count);
    }
}

/// Legs whose worst 10 s may be ours are neither good nor bad: the limit holds or breaks whatever they were, or is open.
#[test]
fn lossy_legs_that_may_be_ours_are_counted_out() {
    let of = |open: usize, bad: usize, most: f64| {
        let mut lines = Synthetic { hold: 10..70, unhealthy: Some(30..31), ..Synthetic::default() }.lines();
        let ends = lines.iter_mut().filter_map(|l| if let Event::LegEnd(e) = &mut l.event { Some(e) } else { None });
        for (n, end) in ends.filter(|e| e.server == Some(crate::types::ServerId(0))).enumerate() {
            let (loss, at) = if n < open { (0.5, 31_000.0) } else { (0.5, 60_000.0) };
            end.worst_10s_loss[0] = Some(if n < open + bad { loss } else { 0.0 });
            end.worst_10s_at_ms[0] = Some(at);
        }
        let limit = [limit("audio.lossy_legs_share", Op::Le, ThresholdValue::Percent(most))];
        let j = judge(&Reading::of_lines(lines).unwrap(), &limit, &HealthLimits::default());
        let audio = &j.servers[0].audio.media;
        (j.pass[0].verdict, audio.lossy_legs_share, audio.lossy_legs_inconclusive, j.pass[0].why.clone())
    };
    // Six legs on the server.
    assert_eq!(of(0, 0, 20.0), (Verdict::Pass, Some(0.0), 0, None));
    assert_eq!(of(0, 2, 20.0).0, Verdict::Fail);
    assert_eq!(of(1, 0, 20.0), (Verdict::Pass, Some(0.0), 1, None), "one of six at the most");
    assert_eq!(of(1, 3, 20.0), (Verdict::Fail, Some(60.0), 1, None), "three of six at the least");
    let why =
        |legs| Some(format!("is open: the worst 10 s of {legs} legs on sfu-1 fell into the generator's own trouble"));
    assert_eq!(of(2, 0, 20.0), (Verdict::Unknown, Some(0.0), 2, why(2)));
    assert_eq!(of(1, 1, 20.0), (Verdict::Unknown, Some(20.0), 1, why(1)));
    assert_eq!(of(6, 0, 20.0), (Verdict::Unknown, None, 6, why(6)), "none that is known is not good");
}

/// What never came is not left out of the times of what came.
#[test]
fn first_media_that_never_came_counts_at_its_full_wait() {
    let limits = [
        limit("setup.first_rtp.p95", Op::Le, ThresholdValue::Ms(2000.0)),
        limit("setup.first_frame.p95", Op::Le, ThresholdValue::Ms(2000.0)),
    ];
    let of = |vain: bool| {
        let mut lines = Synthetic::default().lines();
        let end = lines.last().unwrap().t;
        let first = lines.iter_mut().filter(|l| matches!(l.event, Event::FirstMedia { .. }));
        for line in first.take(4) {
            let Event::FirstMedia { first_rtp_ms, first_frame_ms, rtp_in_vain_ms, frame_in_vain_ms, .. } =
                &mut line.event
            else {
                unreachable!()
            };
            (*first_rtp_ms, *first_frame_ms) = (None, None);
            if vain {
                (*rtp_in_vain_ms, *frame_in_vain_ms) = (Some(20_000.0), Some(20_000.0));
                line.t = end;
            }
        }
        lines.sort_by(|a, b| a.t.total_cmp(&b.t));
        let j = judge(&Reading::of_lines(lines).unwrap(), &limits, &HealthLimits::default());
        (j.pass.iter().map(|o| o.verdict).collect::<Vec<_>>(), j.setup.first_rtp, j.setup.first_frame)
    };
    let (verdicts, rtp, frame) = of(true);
    assert_eq!(verdicts, [Verdict::Fail, Verdict::Fail]);
    assert_eq!((rtp.count, rtp.max, frame.max), (24, Some(20_000.0), Some(20_000.0)));
    // As it was when they were left out.
    let (verdicts, rtp, _) = of(false);
    assert_eq!((verdicts, rtp.count), (vec![Verdict::Pass, Verdict::Pass], 20));
}

/// A stay that is over before the join is done says nothing of how long the join would have taken.
#[test]
fn joins_cut_off_by_their_stay_count_in_full() {
    let mut lines = Synthetic { join_failures: 2, hold: 20..40, ..Synthetic::default() }.lines();
    for line in &mut lines {
        if let Event::JoinFailed(f) = &mut line.event {
            (f.reason, f.after_ms) = (FailReason::LeftEarly, 1000.0);
        }
    }
    let j = judged_lines(lines);
    assert_eq!((j.setup.total.count, j.setup.total.max), (12, Some(15_000.0)));
    assert_eq!(outcome(&j, "setup.total.p95").verdict, Verdict::Fail);
    assert_eq!(outcome(&j, "joins.failed_share").verdict, Verdict::Fail);
}

#[test]
fn foreign_stamps_are_in_the_summary_and_noted() {
    let mut lines = Synthetic::default().lines();
    for line in &mut lines {
        if let Event::Interval(i) = &mut line.event {
            (i.servers[1].audio.count.foreign_stamps, i.servers[1].video.count.unstamped) = (3, 2);
        }
    }
    let j = judged_lines(lines);
    assert_eq!((j.audio.media.stamps.foreign, j.video.media.stamps.missing), (60, 40));
    assert_eq!((j.servers[0].audio.media.stamps.foreign, j.servers[1].audio.media.stamps.foreign), (0, 60));
    let note = j.notes.iter().find(|n| n.code == "foreign_stamps").unwrap();
    assert!(note.text.starts_with("60 packets of audio from sfu-2") && note.count == 60, "{}", note.text);
    assert_eq!(judged(&Synthetic::default()).notes.iter().find(|n| n.code == "foreign_stamps"), None);
}

#[test]
fn no_data_is_unknown() {
    let j = judged(&Synthetic { video: false, ..Synthetic::default() });
    assert_eq!(j.verdict, Verdict::Unknown);
    assert_eq!(j.sentence, "Unknown: video.freezes <= 0.2 matched no data.");
    assert_eq!(outcome(&j, "video.freezes").value, None);
    assert_eq!((j.video.media.loss, j.video.media.delay.p99, j.video.media.loss_source), (None, None, None));
}

#[test]
fn a_metric_that_does_not_exist_is_unknown() {
    let all = [limit("audio.happiness.p99", Op::Le, ThresholdValue::Ms(1.0))];
    let j = judge(&Synthetic::default().reading(), &all, &HealthLimits::default());
    assert_eq!(j.verdict, Verdict::Unknown);
}

#[test]
fn no_limit_at_all_is_unknown() {
    let j = judge(&Synthetic::default().reading(), &[], &HealthLimits::default());
    assert_eq!(j.verdict, Verdict::Unknown);
}

#[test]
fn a_server_without_the_data_it_had_to_have_is_not_covered_by_another() {
    let mut lines = Synthetic::default().lines();
    for line in &mut lines {
        if let Event::Interval(i) = &mut line.event {
            i.servers[1].audio.delay.clear();
        }
    }
    let j = judged_lines(lines);
    assert_eq!(j.verdict, Verdict::Unknown);
    assert_eq!(outcome(&j, "audio.delay.p99").why.as_deref(), Some("has no data on sfu-2"));
}

#[test]
fn an_empty_hold_is_unknown() {
    let mut lines = Synthetic::default().lines();
    lines.retain(|l| !matches!(l.event, Event::Interval(_)));
    let j = judged_lines(lines);
    assert_eq!(j.verdict, Verdict::Unknown);
    assert_eq!(j.generator.inconclusive_share, Some(100.0));
    let j = judged(&Synthetic { hold: 10..10, ..Synthetic::default() });
    assert_eq!(j.verdict, Verdict::Unknown, "{}", j.sentence);
}

#[test]
fn without_a_health_record_nothing_is_proven() {
    let mut lines = Synthetic::default().lines();
    lines.retain(|l| !matches!(l.event, Event::Health(_)));
    let j = judged_lines(lines);
    assert_eq!(j.verdict, Verdict::Unknown);
    assert!(j.generator.reasons.iter().any(|r| r.contains("not recorded")), "{:?}", j.generator.reasons);
}

#[test]
fn seconds_missing_from_the_history_are_inconclusive() {
    let mut lines = Synthetic::default().lines();
    lines.retain(|l| !(matches!(l.event, Event::Interval(_)) && (12_500.0..18_500.0).contains(&l.t)));
    let j = judged_lines(lines);
    assert_eq!(j.verdict, Verdict::Unknown);
    assert_eq!(j.generator.inconclusive_share, Some(22.222_222));
}

#[test]
fn interrupted_before_the_hold_judges_nothing() {
    let j = judged(&Synthetic { interrupted: Some(6), join_failures: 1, ..Synthetic::default() });
    assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 130));
    assert_eq!(j.sentence, "Interrupted at 00:06, before the hold began at 00:10: nothing judged.");
}

#[test]
fn interrupted_in_the_hold_is_no_pass_but_may_be_a_fail() {
    let run = Synthetic { interrupted: Some(22), ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 130));
    assert_eq!(
        j.sentence,
        "Unknown: interrupted at 00:22, in a hold that was to last until 00:30; all limits held until then."
    );
    let run = Synthetic { loss: Some((0, 12..22, 0.1)), ..run };
    let j = judged(&run);
    assert_eq!((j.verdict, j.exit_code()), (Verdict::Fail, 130));
    assert!(j.sentence.ends_with("; interrupted at 00:22."), "{}", j.sentence);
}

#[test]
fn a_history_without_an_end_says_so() {
    let j = judged(&Synthetic { killed: Some(25), ..Synthetic::default() });
    assert_eq!((j.verdict, j.ended, j.exit_code()), (Verdict::Unknown, false, 4));
    assert_eq!(j.notes[0].text, "history ends at 00:25 without an end: roomful crashed or was killed");
    assert!(j.sentence.contains("the history ends at 00:25 without an end"), "{}", j.sentence);
    assert_eq!(j.audio.media.loss, Some(0.0), "judged for what is there");
    let j = judged(&Synthetic { killed: Some(25), loss: Some((0, 12..22, 0.1)), ..Synthetic::default() });
    assert_eq!(j.verdict, Verdict::Fail);
}

#[test]
fn nobody_joined() {
    let run = Synthetic { servers: 1, rooms: 1, size: 2, join_failures: 2, ..Synthetic::default() };
    let j = judged(&run);
    assert_eq!(j.verdict, Verdict::Fail, "{}", j.sentence);
    assert!(j.sentence.starts_with("2 of 2 joins failed, 100 %"), "{}", j.sentence);
    assert_eq!((j.legs.dropped, outcome(&j, "legs.dropped").verdict), (None, Verdict::Unknown));
    let loss = [limit("audio.loss", Op::Le, ThresholdValue::Percent(1.0))];
    let j = judge(&run.reading(), &loss, &HealthLimits::default());
    assert_eq!(j.verdict, Verdict::Unknown);
    assert!(j.sentence.starts_with("Unknown: nobody joined, 0 of 2: timeout_ice on sfu-1"), "{}", j.sentence);
}

/// A TURN server that is silent until the join's time is up makes a join as long as a silent server does.
#[test]
fn an_allocation_that_never_came_counts_its_whole_time() {
    let setup = |after_ms: f64| {
        let mut lines = Synthetic { join_failures: 2, hold: 20..40, ..Synthetic::default() }.lines();
        for line in &mut lines {
            if let Event::JoinFailed(f) = &mut line.event {
                (f.reason, f.after_ms) = (FailReason::Relay, after_ms);
            }
        }
        let total = judged_lines(lines).setup.total;
        (total.count, total.max.unwrap() >= 15_000.0)
    };
    assert_eq!([setup(15_000.0), setup(40.0)], [(12, true), (10, false)]);
}

#[test]
fn our_own_missing_sockets_are_not_the_targets_fault() {
    let mut lines = Synthetic { join_failures: 2, hold: 20..40, ..Synthetic::default() }.lines();
    for line in &mut lines {
        if let Event::JoinFailed(f) = &mut line.event {
            f.reason = crate::history::FailReason::Local;
        }
    }
    let j = judged_lines(lines);
    assert_eq!(j.verdict, Verdict::Unknown);
    assert_eq!(j.joins.failed, Some(0));
    assert!(j.sentence.starts_with("2 joins failed on our side"), "{}", j.sentence);
}

#[test]
fn the_edge_of_a_limit_belongs_to_who_is_named() {
    // Exactly 0.5 %.
    let run = Synthetic { loss: Some((1, 15..20, 0.02)), ..Synthetic::default() };
    let cases = [
        (Op::Le, 0.5, Verdict::Pass),
        (Op::Lt, 0.5, Verdict::Fail),
        (Op::Le, 0.499_999, Verdict::Fail),
        (Op::Eq, 0.5, Verdict::Fail), // sfu-1 lost 0 %
        (Op::Ge, 0.0, Verdict::Pass),
        (Op::Gt, 0.0, Verdict::Fail),
    ];
    for (op, value, verdict) in cases {
        let one = [limit("audio.loss", op, ThresholdValue::Percent(value))];
        let j = judge(&run.reading(), &one, &HealthLimits::default());
        assert_eq!(j.pass[0].verdict, verdict, "{op:?} {value}");
    }
}

#[test]
fn legs_have_one_class_each() {
    let mut lines = Synthetic { unhealthy: Some(20..24), hold: 10..70, ..Synthetic::default() }.lines();
    let deaf = |from_ms, until_ms| vec![Silence { from_ms: 100.0, until_ms: 300.0 }, Silence { from_ms, until_ms }];
    let mut nth = 0;
    for line in &mut lines {
        if let Event::LegEnd(end) = &mut line.event {
            end.ice_restarts = u32::from(nth < 2);
            match nth {
                0 => end.longest_gap_ms = 1000.0,
                1 => end.longest_gap_ms = 1000.1,
                2 => (end.longest_gap_ms, end.longest_gap_at_ms) = (3000.0, 21_000.0),
                3 => end.cause = LegCause::LeftUnacknowledged,
                4 => end.cause = LegCause::ConsentExpired,
                5 => (end.cause, line.t) = (LegCause::ConsentExpired, 40_000.0),
                6 => (end.cause, line.t) = (LegCause::ClosedByServer, 22_500.0),
                // Deaf for 15 s, for less, and for 15 s of which a part was our own trouble.
                7 => (end.silences, end.longest_gap_ms) = (deaf(40_000.0, 55_000.0), 15_000.0),
                8 => (end.silences, end.longest_gap_ms) = (deaf(40_000.0, 54_999.0), 14_999.0),
                9 => (end.silences, end.longest_gap_ms) = (deaf(18_000.0, 34_000.0), 16_000.0),
                _ => {}
            }
            nth += 1;
        }
    }
    let legs = judged_lines(lines).legs;
    assert_eq!(legs.ice_restarts, Some(2));
    // The third, the sixth and the tenth may be our own doing; what the server closed stands.
    assert_eq!(
        (legs.judged, legs.clean, legs.glitched, legs.unclean_leave, legs.dropped, legs.inconclusive),
        (Some(12), Some(3), Some(2), Some(1), Some(3), Some(3))
    );
}

fn bytes(j: &Judgement) -> String {
    format!("{j:?}")
}

#[test]
fn judging_again_gives_the_same_bytes() {
    let run = Synthetic { loss: Some((1, 15..20, 0.02)), drops: 2, notes: true, ..Synthetic::default() };
    assert!(bytes(&judged(&run)) == bytes(&judged(&run)));
    // And through a file.
    let dir = tempfile::tempdir().unwrap();
    let mut w = crate::history::Writer::create(dir.path()).unwrap();
    for line in run.lines() {
        w.append(&line);
    }
    let path = w.path().to_owned();
    assert_eq!(w.finish(), (Vec::new(), None));
    let reading = crate::history::read(&path).unwrap();
    assert!(bytes(&judge(&reading, &usual(), &HealthLimits::default())) == bytes(&judged(&run)));
}

#[test]
fn the_order_of_servers_and_lines_of_one_second_does_not_matter() {
    for seed in 0..5 {
        let run = Synthetic { seed, loss: Some((1, 15..20, 0.02)), servers: 3, ..Synthetic::default() };
        let whole = judged(&run);
        let mut turned = run.lines();
        let mut split = Vec::new();
        for line in &mut turned {
            if let Event::Interval(i) = &mut line.event {
                let turn = seed as usize % i.servers.len();
                i.servers.rotate_left(turn);
                for server in &i.servers {
                    let mut part = i.clone();
                    part.servers = vec![server.clone()];
                    split.push(Line { t: line.t, event: Event::Interval(part) });
                }
            } else {
                split.push(line.clone());
            }
        }
        assert!(bytes(&judged_lines(turned)) == bytes(&whole));
        let parts = judged_lines(split);
        assert!(bytes(&parts) == bytes(&whole));
    }
}

#[test]
fn counts_by_kind_do_not_mix() {
    let j = judged(&Synthetic { loss: Some((0, 10..30, 0.1)), ..Synthetic::default() });
    assert_eq!((j.audio.media.loss, j.video.media.loss), (Some(5.0), Some(0.0)));
    assert_eq!(gather::lossy_limit(Kind::Audio, &usual()), 0.3);
    assert_eq!(gather::lossy_limit(Kind::Video, &usual()), 1.0);
}
