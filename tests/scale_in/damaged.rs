//! Histories that lack something: unknown by name, never a pass, and never a fail that the fleet did not earn.

use crate::model::{Control, Model, Sin, Style};
use crate::sins::{judged, scale_in, with};
use roomful::history::{Event, LegCause, Line, Phase, StepAction, StepStage};
use roomful::profile::Expect;
use roomful::verdict::scale_in::{CordonSource, Invariant};
use roomful::verdict::{Judgement, Verdict};
use std::collections::BTreeSet;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;

fn judge(model: &Model) -> Judgement {
    judged(model.lines(), &model.expect())
}

fn row<'a>(j: &'a Judgement, id: &str) -> &'a Invariant {
    scale_in(j).invariants.iter().find(|i| i.id == id).unwrap()
}

fn unknown(j: &Judgement, id: &str, words: &str) {
    let i = row(j, id);
    assert_eq!((i.verdict, i.judged), (Verdict::Unknown, true), "{id}: {}", i.why);
    assert!(i.why.contains(words), "{id}: {}", i.why);
}

#[test]
fn nothing_removed_proves_nothing() {
    for seed in SEEDS {
        let model = Model { seed, control: Control::Idle, ..Model::default() };
        let j = judge(&model);
        assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 4), "{}", j.sentence);
        assert_eq!(j.sentence, "Nothing proven: the autoscaler: nothing was removed in 02:30.");
        assert!(with(scale_in(&j), Verdict::Fail).is_empty());
    }
}

#[test]
fn an_unhealthy_generator_is_no_pass_and_a_server_that_ended_calls_stays_one() {
    for seed in SEEDS {
        let model = Model { seed, unhealthy: Some(25..80), ..Model::default() };
        let j = judge(&model);
        assert_eq!(j.verdict, Verdict::Unknown, "{}", j.sentence);
        unknown(&j, "I0", "the generator was unhealthy");
        assert!(with(scale_in(&j), Verdict::Fail).is_empty(), "{}", j.sentence);
        // What the server closed stands, whatever our health.
        let model = Model { sin: Some(Sin::KillsNonEmpty), ..model };
        let j = judge(&model);
        assert_eq!(j.verdict, Verdict::Fail);
        assert!(j.sentence.starts_with("I3, I4"), "{}", j.sentence);
    }
}

#[test]
fn gaps_of_unhealthy_seconds_are_nobodys() {
    let model = Model { style: Style::Move, sin: Some(Sin::OneWayAfterMove), ..Model::default() };
    assert_eq!(judge(&model).legs.one_way, Some(1));
    let j = judge(&Model { unhealthy: Some(25..45), ..model });
    assert_eq!(j.legs.one_way, Some(0), "{:?}", j.legs);
    assert!(j.legs.inconclusive > Some(0));
    assert_ne!(row(&j, "I4").verdict, Verdict::Fail);
    unknown(&j, "I4", "inconclusive");
}

#[test]
fn what_no_backend_can_observe_is_unknown_by_name() {
    for seed in SEEDS {
        let model = Model { seed, tells_counts: false, ..Model::default() };
        let j = judge(&model);
        unknown(&j, "I5", "no backend counts participants or sessions");
        assert_eq!(j.verdict, Verdict::Unknown);
        let model = Model { seed, tells_registry: false, ..Model::default() };
        unknown(&judge(&model), "I8", "no backend shows a registry");
        let model = Model { seed, tells_life: false, tells_registry: false, ..Model::default() };
        unknown(&judge(&model), "I7", "no backend tells whether");
        let j = judged(model.lines(), &Expect { exclusive: false, ..model.expect() });
        unknown(&j, "I5", "others may be on the fleet too");
    }
}

#[test]
fn a_backend_that_fails_never_counts_zero() {
    for seed in SEEDS {
        let model = Model { seed, blank_from: Some(30), ..Model::default() };
        let j = judge(&model);
        assert!(with(scale_in(&j), Verdict::Fail).is_empty(), "{}", j.sentence);
        assert_eq!(j.verdict, Verdict::Unknown);
        unknown(&j, "I5", "no look at");
        let failed = &scale_in(&j).audit.failed_looks;
        assert_eq!((failed.len(), failed[0].backend.as_str()), (1, "metrics"));
        assert!(failed[0].error.contains("connection refused"));
        // It never worked at all: the error is the reason.
        let model = Model { blank_from: Some(1), ..model };
        unknown(&judge(&model), "I5", "metrics: connection refused");
    }
}

#[test]
fn in_observe_only_the_fleets_own_state_is_the_cordon() {
    let model = Model { control: Control::Observed, ..Model::default() };
    let j = judge(&model);
    let removal = &scale_in(&j).removals[0];
    assert_eq!(removal.source, Some(CordonSource::Fleet));
    assert!(removal.ended.is_some() && removal.drain.is_some());
    // Without a registry nobody knows when it was cordoned: I1 and I7 are unknown, the rest is judged.
    let model = Model { tells_registry: false, ..model };
    let j = judge(&model);
    unknown(&j, "I1", "nobody saw when");
    unknown(&j, "I7", "nobody saw when");
    assert_eq!(row(&j, "I3").verdict, Verdict::Pass);
    // Somebody says so: `roomful mark`.
    let mut lines = model.lines();
    let known = judge(&Model { tells_registry: true, ..model.clone() });
    let (server, t) = (scale_in(&known).removals[0].server.clone(), scale_in(&known).removals[0].cordoned.unwrap());
    let at = lines.partition_point(|l| l.t < t);
    lines.insert(at, Line { t, event: Event::Mark { action: StepAction::Cordon, server } });
    let j = judged(lines, &model.expect());
    assert_eq!(scale_in(&j).removals[0].source, Some(CordonSource::Mark));
    assert_eq!((row(&j, "I1").verdict, row(&j, "I7").verdict), (Verdict::Pass, Verdict::Pass), "{}", j.sentence);
}

#[test]
fn a_killed_roomful_is_judged_for_what_is_there() {
    for seed in SEEDS {
        let model = Model { seed, killed: Some(50), ..Model::default() };
        let j = judge(&model);
        assert_eq!((j.verdict, j.ended), (Verdict::Unknown, false), "{}", j.sentence);
        unknown(&j, "I0", "the history has no end");
        unknown(&j, "I4", "still up when the history ends");
        let model = Model { sin: Some(Sin::KillsNonEmpty), ..model };
        let j = judge(&model);
        assert_eq!(j.verdict, Verdict::Fail, "{}", j.sentence);
    }
}

#[test]
fn an_interrupted_run_is_no_pass() {
    let model = Model::default();
    let mut lines = model.lines();
    for line in &mut lines {
        if let Event::End { interrupted } = &mut line.event {
            *interrupted = true;
        }
    }
    let j = judged(lines.clone(), &model.expect());
    assert_eq!((j.verdict, j.exit_code()), (Verdict::Unknown, 130), "{}", j.sentence);
    assert_eq!(j.sentence, "Unknown: interrupted at 02:50, before the run was over.");
    for line in lines.iter_mut().filter(|l| matches!(l.event, Event::Phase { phase: Phase::Leaving })) {
        line.t = 150_000.0;
    }
    lines.sort_by(|a, b| a.t.total_cmp(&b.t));
    let j = judged(lines, &model.expect());
    assert_eq!(j.sentence, "Unknown: interrupted at 02:30, in a hold that was to last until 02:50.");
}

#[test]
fn a_damaged_line_leaves_the_run_unproven() {
    let model = Model::default();
    let text: Vec<String> = model.lines().iter().map(|l| serde_json::to_string(l).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let read = |text: &[String]| {
        std::fs::write(&path, text.join("\n") + "\n").unwrap();
        let health = roomful::profile::HealthLimits::default();
        roomful::verdict::judge_scale_in(&roomful::history::read(&path).unwrap(), &[], &health, &model.expect())
    };
    assert_eq!(read(&text).verdict, Verdict::Pass);
    for kind in ["step", "fleet", "leg_end"] {
        // One of the last: what it said is not missed otherwise.
        let nth = text.iter().rposition(|l| l.contains(&format!("\"ev\":\"{kind}\""))).unwrap();
        let mut damaged = text.clone();
        damaged[nth].truncate(20);
        damaged[nth].push('}');
        let j = read(&damaged);
        assert_ne!(j.verdict, Verdict::Pass, "{kind}: {}", j.sentence);
        let end = if kind == "leg_end" { ", 1 leg has no end" } else { "" };
        unknown(&j, "I0", &format!("the history is damaged: 1 line could not be read{end}"));
    }
}

#[test]
fn without_media_nobody_knows_whether_others_were_harmed() {
    let model = Model::default();
    let mut lines = model.lines();
    for line in &mut lines {
        let Event::Interval(i) = &mut line.event else { continue };
        i.servers.iter_mut().for_each(|s| (s.audio, s.video) = Default::default());
    }
    let j = judged(lines, &model.expect());
    unknown(&j, "I9", "no second of media");
}

/// A media thread that stalls leaves its participants out of the second: that is no error of the fleet's count.
#[test]
fn the_audit_compares_no_second_that_nobody_can_judge() {
    let model = Model { unhealthy: Some(60..64), ..Model::default() };
    let off = |lines: Vec<Line>| {
        let j = judged(lines, &model.expect());
        let rows = scale_in(&j).audit.exported.clone();
        let participants: Vec<f64> = rows.iter().filter(|r| r.metric == "participants").map(|r| r.off_max).collect();
        assert!(participants.len() >= 3);
        participants
    };
    let mut lines = model.lines();
    let right = off(lines.clone());
    for line in lines.iter_mut().filter(|l| (61_000.0..=64_000.0).contains(&l.t)) {
        let Event::Interval(i) = &mut line.event else { continue };
        i.servers.iter_mut().for_each(|s| s.participants = 0);
    }
    assert_eq!(off(lines), right);
}

#[test]
fn too_few_exposed_legs_prove_nothing() {
    let model = Model::default();
    let j = judged(model.lines(), &Expect { exposed_legs: 1000, ..model.expect() });
    assert_eq!(j.verdict, Verdict::Unknown);
    unknown(&j, "exposed", "(at least 1000)");
    let j = judged(model.lines(), &Expect { removed: Some(2), ..model.expect() });
    unknown(&j, "removed", "1 of 2 servers were removed");
}

#[test]
fn what_the_profile_skips_decides_nothing() {
    let model = Model { sin: Some(Sin::KeepsGhosts), ..Model::default() };
    let j = judged(model.lines(), &Expect { skip: vec!["I5".into()], ..model.expect() });
    assert_eq!(j.verdict, Verdict::Pass, "{}", j.sentence);
    assert_eq!((row(&j, "I5").judged, row(&j, "I5").why.as_str()), (false, "skipped by the profile"));
    assert!(j.sentence.contains("not put to the test: I5"), "{}", j.sentence);
}

#[test]
fn legs_whose_ends_are_missing_and_wild_numbers_do_no_harm() {
    let model = Model::default();
    let mut lines = model.lines();
    lines.retain(|l| !matches!(&l.event, Event::JoinStart { leg, .. } if leg.id.0 % 5 == 0));
    for line in &mut lines {
        if let Event::LegEnd(end) = &mut line.event {
            if end.leg.0.is_multiple_of(7) {
                end.leg.0 = u32::MAX - end.leg.0;
                (end.longest_gap_ms, end.longest_gap_at_ms) = (f64::MAX, -1e300);
            }
            if end.leg.0.is_multiple_of(11) {
                end.cause = LegCause::ConsentExpired;
            }
        }
        if let Event::Fleet(view) = &mut line.event {
            view.servers.iter_mut().for_each(|s| s.sessions = s.sessions.map(|_| u64::MAX));
        }
    }
    let j = judged(lines, &model.expect());
    assert_ne!(j.verdict, Verdict::Pass);
    let empty = judged(model.lines().into_iter().take(1).collect(), &Expect::default());
    assert_eq!(empty.verdict, Verdict::Unknown, "{}", empty.sentence);
}

#[test]
fn a_server_that_comes_back_under_another_id_is_told() {
    let model = Model::default();
    let mut lines = model.lines();
    let gone = scale_in(&judge(&model)).removals[0].server.clone();
    for line in &mut lines {
        if let Event::Routed { server: Some(server), url, .. } = &mut line.event
            && line.t > 110_000.0
            && *server != gone
        {
            "s9".clone_into(server);
            *url = format!("ws://10.77.0.{}:8188", gone.trim_start_matches('s'));
        }
    }
    let j = judged(lines.clone(), &model.expect());
    let renamed = &scale_in(&j).audit.renamed;
    assert!(renamed.iter().any(|r| r.contains(&gone) && r.contains("s9")), "{renamed:?}");
    // And what a join API said of it that the target file knows better.
    let text = "the join API sends to the URL of s1, and calls it s2".to_owned();
    let code = roomful::history::MISNAMED.to_owned();
    let last = lines.len() - 1;
    lines.insert(last, Line { t: lines[last].t, event: Event::Note { code, text: text.clone(), leg: None, count: 3 } });
    let j = judged(lines, &model.expect());
    assert!(scale_in(&j).audit.renamed.contains(&format!("{text} (3 joins)")));
}

/// The driver, the registry and the join API agree on a server; the certificate that the media met is another one's.
#[test]
fn legs_that_media_says_are_elsewhere_are_told() {
    let model = Model::default();
    let right = judge(&model);
    let landings = &scale_in(&right).audit.landings;
    assert!(landings.compared >= 20 && landings.elsewhere.is_empty() && landings.alike.is_empty(), "{landings:?}");
    type Mark = Option<String>;
    let altered = |change: &mut dyn FnMut(u32, &mut Mark, &mut Mark)| {
        let mut lines = model.lines();
        for line in &mut lines {
            if let Event::Joined { server, certificate, remote, .. } = &mut line.event {
                change(server.0, certificate, remote);
            }
        }
        judged(lines, &model.expect())
    };
    // Two of server 1 met server 0.
    let mut left = 2;
    let mut two = |server: u32, mark: &mut Option<String>, other: &str| {
        if server == 1 && left > 0 {
            left -= 1;
            *mark = Some(other.to_owned());
        }
    };
    let j = altered(&mut |server, certificate, _| two(server, certificate, "0000000000000000"));
    let e = &scale_in(&j).audit.landings.elsewhere;
    assert_eq!(
        e.iter().map(|e| (&*e.server, &*e.met, e.by, e.legs)).collect::<Vec<_>>(),
        [("s2", "s1", "certificate", 2)]
    );
    assert_eq!(with(scale_in(&j), Verdict::Fail), BTreeSet::from(["I8"]), "{}", j.sentence);
    assert!(row(&j, "I8").evidence.iter().any(|e| e.what.contains("met the certificate of s1") && e.legs.len() == 2));
    // Certificates for each connection: addresses tell.
    let (mut n, mut left) = (0, 2);
    let j = altered(&mut |server, certificate, remote| {
        n += 1;
        *certificate = Some(format!("{n:016x}"));
        if server == 1 && left > 0 {
            left -= 1;
            *remote = Some("10.77.0.1:5004".into());
        }
    });
    let e = &scale_in(&j).audit.landings.elsewhere;
    assert_eq!(e.iter().map(|e| (&*e.server, &*e.met, e.by, e.legs)).collect::<Vec<_>>(), [("s2", "s1", "address", 2)]);
    // One certificate and one address for all: nothing tells them apart, and nothing is claimed.
    let j = altered(&mut |_, certificate, remote| {
        (*certificate, *remote) = (Some("ab".into()), Some("10.77.0.1:5004".into()));
    });
    let landings = &scale_in(&j).audit.landings;
    assert!(landings.elsewhere.is_empty() && landings.alike.len() >= 2, "{landings:?}");
    assert_eq!(with(scale_in(&j), Verdict::Fail), BTreeSet::new(), "{}", j.sentence);
}

/// An autoscaler acts on what is exported: loss in percent and jitter in ms stand beside ours, with how far they are apart.
#[test]
fn exported_loss_and_jitter_stand_beside_ours() {
    let model = Model::default();
    let mut lines = model.lines();
    let (mut n, mut lossy) = (0, 0);
    for line in &mut lines {
        if let Event::Fleet(v) = &mut line.event {
            let two = v.servers.iter_mut().filter(|s| s.server == "s2" && s.sessions.is_some());
            for s in two {
                (s.loss, s.jitter_ms) = (Some(if n == 0 { 0.05 } else { 0.01 }), Some(7.0));
                n += 1;
            }
        }
        if let Event::Interval(i) = &mut line.event {
            for s in i.servers.iter_mut().filter(|s| s.server.0 == 1 && s.audio.count.e2e_expected > 0) {
                s.audio.count.e2e_received = s.audio.count.e2e_expected * 98 / 100;
                lossy += 1;
            }
        }
    }
    assert!(n > 3 && lossy > 3);
    let j = judged(lines, &model.expect());
    let rows = &scale_in(&j).audit.exported;
    let row = |metric: &str| {
        rows.iter().find(|r| r.server == "s2" && r.metric == metric).unwrap_or_else(|| panic!("{metric}: {rows:?}"))
    };
    let (loss, jitter) = (row("loss"), row("jitter"));
    assert!(loss.looks > 3 && (1.0..2.0).contains(&loss.exported) && (1.5..2.7).contains(&loss.ours), "{loss:?}");
    assert!(
        (0.3..=3.5).contains(&loss.off_max) && loss.off_max >= (loss.exported - loss.ours).abs() - 0.01,
        "{loss:?}"
    );
    assert!((jitter.exported - 7.0).abs() < 1e-9 && jitter.ours < 1.0 && jitter.off_max > 6.0, "{jitter:?}");
}

#[test]
fn judging_again_from_a_file_gives_the_same_bytes() {
    let model = Model { sin: Some(Sin::KillsNonEmpty), ..Model::default() };
    let dir = tempfile::tempdir().unwrap();
    let mut w = roomful::history::Writer::create(dir.path()).unwrap();
    model.lines().iter().for_each(|l| w.append(l));
    let path = w.path().to_owned();
    assert_eq!(w.finish(), (Vec::new(), None));
    let reading = roomful::history::read(&path).unwrap();
    let health = roomful::profile::HealthLimits::default();
    let again = || format!("{:?}", roomful::verdict::judge_scale_in(&reading, &[], &health, &model.expect()));
    assert!(again() == again());
    assert!(again() == format!("{:?}", judge(&model)), "from memory and from the file");
    // Evidence names lines that tell of it.
    let j = judge(&model);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let e = &row(&j, "I3").evidence[0];
    let told = |words: &str| e.lines.iter().any(|n| lines[*n as usize - 1].contains(words));
    assert!(told("\"kill\"") && told("leg_end"), "{:?}", e.lines);
}

#[test]
fn who_falls_between_the_kill_and_its_acknowledgement_fell_by_it() {
    for seed in SEEDS {
        let model = Model { seed, sin: Some(Sin::KillsNonEmpty), ..Model::default() };
        let mut lines = model.lines();
        let whole = row(&judge(&model), "I3").evidence[0].legs_total;
        let kill = |l: &&mut Line, stage| matches!(&l.event, Event::Step(s) if s.action == StepAction::Kill && s.stage == stage);
        let begun = lines.iter_mut().find(|l| kill(l, StepStage::Begun)).unwrap().t;
        // The backend takes 400 ms to say that it is done; calls have ended by then.
        lines.iter_mut().find(|l| kill(l, StepStage::Done)).unwrap().t = begun + 400.0;
        let mut nth = 0.0;
        let mut left = 0;
        for line in &mut lines {
            let Event::LegEnd(end) = &mut line.event else { continue };
            if !end.cause.is_drop() || line.t < begun || line.t > begun + 20_000.0 {
                continue;
            }
            line.t = begun + 10.0 + f64::from(nth as u32 % 30) * 10.0;
            nth += 1.0;
            // One had hung up by itself, and that was acknowledged: the kill took nothing from it.
            if left == 0 {
                (end.cause, left) = (LegCause::Left, 1);
            }
        }
        assert!(left == 1 && nth > 1.0);
        lines.sort_by(|a, b| a.t.total_cmp(&b.t));
        let j = judged(lines, &model.expect());
        let found: u64 = row(&j, "I3").evidence.iter().map(|e| e.legs_total).sum();
        assert_eq!(found, whole - left, "seed {seed}: {}", j.sentence);
    }
}

#[test]
fn a_clock_that_was_set_changes_no_class() {
    for seed in SEEDS {
        for (sin, style) in [(None, Style::Wait), (Some(Sin::KillsNonEmpty), Style::Wait), (None, Style::Move)] {
            let model = Model { seed, sin, style, ..Model::default() };
            let before = judge(&model);
            for step_ms in [3_600_000.0, -3_600_000.0] {
                let mut lines = model.lines();
                let during = lines.iter_mut().find_map(|l| match &mut l.event {
                    Event::Health(h) if l.t > 60_000.0 => Some(h),
                    _ => None,
                });
                let health = during.unwrap();
                health.clock_step_ms = step_ms;
                health.unhealthy.push(format!("clock set by {step_ms} ms (limit 1 ms)"));
                let j = judged(lines, &model.expect());
                assert_eq!(j.legs, before.legs, "{sin:?} {style:?} seed {seed}");
                assert_eq!(scale_in(&j).classes, scale_in(&before).classes);
                assert_eq!(with(scale_in(&j), Verdict::Fail), with(scale_in(&before), Verdict::Fail), "{}", j.sentence);
            }
        }
    }
}
