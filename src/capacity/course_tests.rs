//! Whole searches on model servers.

use super::*;
use crate::capacity::Answer;
use crate::capacity::model::{MODEL_PROFILE, Model, SOUND, World, setting, solve};
use crate::history::Interval;
use crate::profile::parse_resolved;
use crate::types::ServerId;
use crate::verdict::Verdict;

#[test]
fn quality_that_breaks_is_bounded_and_named() {
    let (world, a, verdict, sentence) = solve(&[Model { carries: 101, ..SOUND }], "");
    assert_eq!((a.lower, a.upper, a.stop), (Some(100), Some(104), Stop::Width));
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(
        sentence,
        "100–104 per server; audio delay p99 broke first, at 52 % CPU; scale out at 88 = 100 − 9 (one server lost) − 3 \
         (growth while a server boots)."
    );
    assert_eq!((a.streams, a.egress_pps), (Some(25 * 12), Some(15_000.0)));
    assert_eq!(a.cpu_at_capacity, Some(50.0));
    let knee = a.knee.unwrap();
    assert!(knee.below <= 100 && knee.participants >= 102, "{knee:?}");
    assert!(a.trials.len() <= 12, "{}", a.trials.len());
    // Each trial has joins of its own.
    assert!(a.trials.iter().all(|t| t.servers[0].joined > 0));
    assert!(world.lines.iter().all(|l| !matches!(&l.event, Event::JoinFailed(_))));
}

#[test]
fn a_trigger_on_cpu_is_compared() {
    let (_, a, ..) = solve(&[Model { carries: 181, ..SOUND }], "");
    // 70 % of a core at 0.5 % each is 140 participants, long before the 180 that it carries.
    let trigger = a.cpu_trigger.unwrap();
    assert!((138.0..=142.0).contains(&trigger.participants.unwrap()), "{trigger:?}");
    assert!(trigger.late_by.unwrap() < 0.0, "{trigger:?}");
    let (_, a, ..) = solve(&[Model { carries: 61, ..SOUND }], "");
    assert!(a.cpu_trigger.unwrap().participants.is_none_or(|p| p > 61.0));
}

#[test]
fn an_admission_limit_is_told_apart_from_quality() {
    let (_, a, verdict, sentence) = solve(&[Model { admits: 62, ..SOUND }], "");
    assert_eq!((a.lower, a.upper, a.broke_first.as_deref()), (Some(60), Some(64), Some("admission limit")));
    assert_eq!(verdict, Verdict::Pass);
    assert!(
        sentence.starts_with("60–64 per server; then the server's own admission limit refused joins"),
        "{sentence}"
    );
    assert!(a.trials.len() <= 7, "what was let in is tried at once: {}", a.trials.len());
    // Of the load after the last that held nobody is let in, so that no set-up can be timed.
    let (_, a, _, sentence) = solve(&[Model { admits: 64, ..SOUND }], "");
    assert_eq!(
        (a.lower, a.upper, a.broke_first.as_deref()),
        (Some(64), Some(68), Some("admission limit")),
        "{sentence}"
    );
    let (_, _, verdict, sentence) = solve(&[Model { admits: 2, ..SOUND }], "");
    assert_eq!(
        (verdict, sentence.as_str()),
        (Verdict::Fail, "The server's own admission limit refused joins at the lowest load, 8.")
    );
}

#[test]
fn an_unequal_server_shows_up() {
    let (_, a, _, sentence) = solve(&[Model { carries: 161, ..SOUND }, Model { carries: 61, ..SOUND }], "");
    assert_eq!((a.lower, a.upper), (Some(60), Some(64)), "the weaker one decides: {sentence}");
    let s1 = &a.servers[0];
    assert!(s1.held >= Some(64) && s1.upper.is_none_or(|u| u > 64), "{s1:?}");
    assert_eq!((&a.weakest[..], s1.broke_first.as_deref()), (&["s2".to_owned()][..], None));
    let held = s1.held.unwrap();
    assert!(sentence.starts_with(&format!("60–64 per server, by s2 (the other one held {held}); audio")), "{sentence}");
    assert_eq!((a.servers[1].lower, a.servers[1].upper), (Some(60), Some(64)));
    assert_eq!(a.trials.last().unwrap().servers.len(), 2);
}

/// A join storm: what joins take is an objective, at a rate that is what was asked for.
#[test]
fn a_server_that_takes_joins_too_slowly_breaks_set_up_by_name() {
    let (_, a, verdict, sentence) = solve(&[Model { welcomes: 101, ..SOUND }], "");
    assert_eq!((a.lower, a.upper, verdict), (Some(100), Some(104), Verdict::Pass));
    assert_eq!(a.broke_first.as_deref(), Some("setup.total.p95 <= 2s"));
    assert!(sentence.starts_with("100–104 per server; set-up p95 broke first"), "{sentence}");
    assert_eq!((a.join_rate_wanted, a.join_rate, a.setup_p95), (20.0, Some(20.0), Some(120.0)));
    assert!(a.trials.iter().all(|t| t.join_rate == Some(20.0) && t.join_late_max == Some(0.0)));
}

/// A server that nobody can observe under load has no CPU there.
#[test]
fn what_was_not_observed_is_not_said_of_a_cpu_trigger() {
    let (_, a, ..) = solve(&[Model { carries: 101, observed: 80, ..SOUND }], "");
    let trigger = a.cpu_trigger.unwrap();
    assert_eq!((trigger.participants, trigger.broke, trigger.highest, a.cpu_at_breakage), (None, false, 64, None));
    assert_eq!(trigger.words(), "A 70 % CPU trigger would not have fired up to 64 participants.");
    let (_, a, ..) = solve(&[Model { carries: 101, ..SOUND }], "");
    let trigger = a.cpu_trigger.unwrap();
    assert_eq!((trigger.participants, trigger.broke), (None, true));
    assert!(trigger.words().ends_with("would never have fired: CPU stayed below it beyond the breakage."));
}

#[test]
fn cpu_where_it_broke_is_that_of_the_server_that_broke() {
    let (_, a, _, sentence) = solve(&[Model { cpu: 0.009, ..SOUND }, Model { welcomes: 61, cpu: 0.002, ..SOUND }], "");
    assert_eq!((a.lower, a.upper, a.cpu_at_breakage), (Some(60), Some(64), Some(12.8)), "{sentence}");
}

#[test]
fn a_turn_server_that_does_not_answer_takes_the_whole_time_of_a_join() {
    let (_, a, _, sentence) = solve(&[Model { relays: 61, ..SOUND }], "");
    assert_eq!((a.lower, a.upper), (Some(60), Some(64)), "{sentence}");
    let broke = a.trials.iter().find(|t| t.outcome == Outcome::Broke).unwrap();
    assert_eq!(broke.servers[0].setup_p95, Some(15_000.0), "{broke:#?}");
}

#[test]
fn joins_that_the_generator_begins_late_are_not_the_servers_failure() {
    // Late in a heap, so that set-up breaks only by that.
    let late = |server: Model, late: fn(u32, u32) -> f64| {
        let mut world = World::new(setting("", 1), &[server]);
        world.late = late;
        world.run(3600);
        let (a, _, sentence) = world.answer();
        (a, sentence)
    };
    let (a, sentence) = late(SOUND, |present, _| if present >= 60 { 2500.0 } else { 0.0 });
    let why = "the generator began joins up to 2500 ms late, without which setup.total.p95 <= 2s may hold";
    assert_eq!((a.stop, a.lower, a.upper), (Stop::Generator, Some(60), None), "{sentence}");
    assert_eq!(sentence, "At least 60, generator-limited; not a threshold.");
    let spoilt: Vec<_> = a.trials.iter().filter(|t| t.participants > 60).collect();
    assert!(!spoilt.is_empty() && spoilt.iter().all(|t| t.outcome == Outcome::Invalid), "{spoilt:#?}");
    assert!(spoilt.iter().any(|t| t.why.as_deref() == Some(why) && t.join_late_max == Some(2500.0)), "{spoilt:#?}");
    // More and more: then they hold, at a rate that nobody asked for.
    let (a, sentence) = late(SOUND, |_, begun| 50.0 * f64::from(begun.min(30)));
    assert_eq!((a.stop, a.lower), (Stop::Generator, None), "{sentence}");
    assert_eq!(
        sentence,
        "Nothing proven, generator-limited: the generator fell behind: 10 joins/s, 20 joins/s wanted."
    );
    // What breaks without that as well is the server's.
    let (a, sentence) = late(Model { welcomes: 61, ..SOUND }, |present, _| if present >= 60 { 500.0 } else { 0.0 });
    assert_eq!((a.lower, a.upper, a.stop), (Some(60), Some(64), Stop::Width), "{sentence}");
    assert_eq!(a.broke_first.as_deref(), Some("setup.total.p95 <= 2s"));
}

/// A load whose joins could not be judged is not held by a trial without any.
#[test]
fn a_trial_that_is_made_again_has_joins_of_its_own() {
    let mut world = World::new(setting("", 1), &[SOUND]);
    world.late = |present, begun| if (16..40).contains(&present) && begun > 1 { 2500.0 } else { 0.0 };
    world.run(3600);
    let (a, ..) = world.answer();
    let again = a.trials.windows(2).find(|w| w[0].outcome == Outcome::Invalid).unwrap();
    assert_eq!((again[0].rooms, again[1].servers[0].joined > 0), (again[1].rooms, true), "{again:#?}");
}

/// The rate is that of all servers; they take turns, so that each has its part all the time.
#[test]
fn joins_are_split_over_servers() {
    let slow = Model { welcomes: 61, ..SOUND };
    let (_, a, _, sentence) = solve(&[SOUND, slow, SOUND, SOUND], "");
    let trial = &a.trials[1];
    assert_eq!((trial.participants, trial.join_rate), (16, Some(20.0)));
    // Eight joins each, of which the last one begins 28 turns after the first one.
    for s in &trial.servers {
        assert_eq!((s.joined, s.join_rate), (8, Some(5.0)), "{s:?}");
    }
    let first = a.trials.iter().position(|t| t.outcome == Outcome::Broke).unwrap();
    let p95: Vec<bool> = a.trials[first].servers.iter().map(|s| s.setup_p95.unwrap() > 2000.0).collect();
    assert_eq!(p95, [false, true, false, false]);
    assert_eq!((a.lower, a.upper, &a.weakest[..]), (Some(60), Some(64), &["s2".to_owned()][..]));
    assert!(sentence.starts_with("60–64 per server, by s2 (the other 3 held "), "{sentence}");
    assert!(sentence.contains("); set-up p95 broke first"), "{sentence}");
    let broke: Vec<Option<&str>> = a.servers.iter().map(|s| s.broke_first.as_deref()).collect();
    assert_eq!(broke, [None, Some("setup.total.p95 <= 2s"), None, None]);
}

#[test]
fn a_join_that_was_sent_to_another_server_is_judged_there() {
    let (world, a, ..) = solve(&[SOUND, Model { welcomes: 61, ..SOUND }, SOUND, SOUND], "");
    let first = a.trials.iter().position(|t| t.outcome == Outcome::Broke).unwrap();
    let mut record = Record::new(world.search.record().setting().clone());
    let elsewhere = |line: &Line| match &line.event {
        Event::Joined { leg, room, server: ServerId(1), suite, remote, certificate, setup } => Event::Joined {
            leg: *leg,
            room: *room,
            server: ServerId(3),
            suite: *suite,
            remote: remote.clone(),
            certificate: certificate.clone(),
            setup: *setup,
        },
        other => other.clone(),
    };
    world.lines.iter().for_each(|l| record.see(&Line { t: l.t, event: elsewhere(l) }));
    let joined = |t: &TrialRow| t.servers.iter().map(|s| s.joined).collect::<Vec<_>>();
    let [one, two, three, four] = joined(&a.trials[first])[..] else { panic!() };
    assert!(two > 0, "{:?}", a.trials[first]);
    assert_eq!(joined(&record.trials[first]), [one, 0, three, two + four]);
}

#[test]
fn a_generator_that_saturates_first_gives_at_least_and_no_threshold() {
    let mut world = World::new(setting("", 1), &[Model { carries: 200, ..SOUND }]);
    world.generator = 70;
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop, a.upper, a.threshold), (Verdict::Unknown, Stop::Generator, None, None));
    assert_eq!(a.lower, Some(68));
    assert_eq!(sentence, "At least 68, generator-limited; not a threshold.");
    // Nothing broke, so nothing is said of a breakage.
    let highest = a.cpu_trigger.unwrap();
    assert_eq!((highest.participants, highest.broke), (None, false));
    assert_eq!(highest.words(), "A 70 % CPU trigger would not have fired up to 68 participants.");
    assert!(a.trials.iter().any(|t| t.outcome == Outcome::Invalid && t.why.as_ref().unwrap().contains("shard 0 busy")));
}

#[test]
fn a_generator_that_fails_below_what_broke_knows_that_much() {
    let mut world = World::new(setting("", 1), &[Model { carries: 15, ..SOUND }]);
    world.haze = 9..16;
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop, a.lower, a.upper), (Verdict::Unknown, Stop::Generator, None, Some(16)), "{sentence}");
    assert_eq!(sentence, "Generator-limited: less than 16 per server; not a threshold.");
}

/// One second is too few to spoil a trial; where it is all there was, nothing was judged.
#[test]
fn a_trial_without_a_judged_second_proves_nothing() {
    let seconds = "trial = \"1s\"\nfirst_trial = \"1s\"\ntrial_sum = \"1s\"";
    let mut world = World::new(setting(seconds, 1), &[SOUND]);
    world.generator = 20;
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop, a.lower), (Verdict::Unknown, Stop::Generator, Some(20)), "{sentence}");
    assert!(a.trials.iter().any(|t| t.why.as_deref() == Some("no second of it could be judged")), "{:#?}", a.trials);
}

#[test]
fn a_target_that_dies_is_said_plainly() {
    let (_, a, verdict, sentence) = solve(&[Model { dies_s: 60, ..SOUND }], "");
    assert_eq!((verdict, a.stop, a.threshold), (Verdict::Fail, Stop::TargetGone, None));
    assert!(sentence.starts_with("Nobody was served any more by s1 at a load of 64: "), "{sentence}");
    let (_, a, verdict, sentence) = solve(&[Model { dies_s: 0, ..SOUND }], "");
    assert_eq!((verdict, a.trials.len()), (Verdict::Fail, 1));
    assert!(sentence.starts_with("Nobody was served by s1 at a load of 8: "), "{sentence}");
    assert!(sentence.contains("no load was proven"), "{sentence}");
}

/// Whenever that is, and whether its participants hear of it: no load is to blame.
#[test]
fn a_server_that_dies_proves_nothing_at_any_time() {
    let sound = Model { carries: 101, ..SOUND };
    let (whole, ..) = solve(&[sound], "");
    let end = (whole.lines.last().unwrap().t / 1000.0) as u64;
    assert!(end > 100, "{end}");
    for second in 1..end - 1 {
        let silent = Model { silent_s: (second, u64::MAX), ..sound };
        for model in [Model { dies_s: second, ..sound }, silent] {
            let (_, a, verdict, sentence) = solve(&[model], "");
            assert_eq!((a.stop, verdict, a.threshold), (Stop::TargetGone, Verdict::Fail, None), "{second}: {sentence}");
            assert!(a.lower.is_none_or(|l| l <= 100) && a.upper.is_none_or(|u| u >= 104), "{second}: {sentence}");
            assert!(a.trials.last().unwrap().outcome == Outcome::Broke, "{second}: {:#?}", a.trials.last());
        }
    }
}

/// Rooms that talk in turn have pauses; but what was sent and does not come is no pause.
#[test]
fn a_server_that_dies_in_a_conversation_proves_nothing_either() {
    let text = "shape = \"capacity\"\ntarget = \"embedded\"\nseed = 1\n[embedded]\nservers = 1\n[[rooms]]\nname = \"m\"\n\
         count = 1\nsize = 4\naudio = \"opus@32kbit/s\"\ntalk = \"p59\"\n[search]\nrange = \"8..240\"\njoin = \"20/s\"\n[objectives]\n\
         \"audio.delay.p99\" = \"<= 80ms\"\n";
    let solve = |model: Model| {
        let mut world = World::new(Setting::of(&parse_resolved(text).unwrap()).unwrap(), &[model]);
        world.run(3600);
        let (a, _, sentence) = world.answer();
        (a, sentence)
    };
    let sound = Model { carries: 101, ..SOUND };
    let last = solve(sound).0.trials.pop().unwrap();
    let second = (last.until_ms / 1000.0) as u64 - 5;
    let (a, sentence) = solve(Model { silent_s: (second, u64::MAX), ..sound });
    assert_eq!((a.stop, a.threshold), (Stop::TargetGone, None), "{sentence}");
}

/// It was measured, and no longer is, though media come: nobody knows.
#[test]
fn an_objective_that_loses_its_data_makes_trials_invalid() {
    let mut world = World::new(setting("", 1), &[SOUND]);
    world.edit = |connected, interval| {
        if connected > 40 {
            interval.servers[0].audio.delay = crate::measure::Hist::new();
        }
    };
    world.run(3600);
    let (a, verdict, _) = world.answer();
    assert_eq!((verdict, a.lower, a.upper), (Verdict::Unknown, Some(40), None));
    assert!(
        a.trials.iter().any(|t| t.why.as_deref() == Some("no data for audio.delay.p99 <= 80ms")),
        "{:#?}",
        a.trials
    );
}

/// Objectives on delay alone say nothing of seconds in which nothing came.
#[test]
fn seconds_in_which_nothing_came_are_bad() {
    let sound = Model { carries: 101, ..SOUND };
    let (_, whole, ..) = solve(&[sound], "");
    let third = &whole.trials[2];
    for (from, until) in [(2.0, 4.0), (3.0, 1e9)] {
        let second = |s: f64| (third.from_ms / 1000.0 + s) as u64;
        // The last two seconds of it, at most: it is not gone.
        let until = second(until).min((third.until_ms / 1000.0) as u64 + 1);
        let from = second(from).max(until - 2);
        let (_, a, ..) = solve(&[Model { silent_s: (from, until), ..sound }], "");
        let hit = &a.trials[2];
        assert_eq!((hit.outcome, hit.deserted.len()), (Outcome::Broke, 0), "{hit:#?}");
        assert_eq!(hit.broken[0].metric, "audio.delay.p99", "{hit:#?}");
        assert!(a.stop == Stop::Width && a.upper == Some(third.participants), "{:?}", a.upper);
    }
}

/// The first load that is too much leaves seconds of queue behind; the next one is not judged by them.
#[test]
fn what_an_overload_left_behind_is_worked_off_before_the_next_trial() {
    let (world, a, _, sentence) = solve(&[Model { forwards: 101, ..SOUND }], "");
    assert_eq!((a.lower, a.upper), (Some(100), Some(104)), "{sentence}");
    let planned = world.lines.iter().filter_map(|l| if let Event::Trial(t) = &l.event { Some(t) } else { None });
    let moves: Vec<f64> = planned.map(|t| t.from_ms - t.moved_ms).collect();
    let settle = world.search.record().setting().search.settle.as_secs_f64() * 1000.0;
    assert!(moves.iter().any(|ms| *ms > 3.0 * settle) && moves.iter().all(|ms| *ms < 15.0 * settle), "{moves:?}");
    // Nor are joins: they come when the queue is empty again, though what comes out of it at first has waited as long as ever.
    let (_, a, _, sentence) = solve(&[Model { forwards: 101, buffer: 2500, ..SOUND }], "");
    assert_eq!((a.lower, a.upper), (Some(100), Some(104)), "{sentence}");
    let joins: Vec<f64> =
        a.trials.iter().filter(|t| t.outcome == Outcome::Held).map(|t| t.servers[0].setup_p95.unwrap()).collect();
    assert!(joins.iter().all(|ms| *ms < 700.0), "{joins:?}");
}

/// Delay keeps its limit in every trial, and rises all through it: given time, it would not.
#[test]
fn a_load_that_reaches_no_steady_state_does_not_hold() {
    let (_, a, verdict, sentence) = solve(&[Model { drains: 101, ..SOUND }], "");
    assert_eq!((a.lower, a.upper, verdict), (Some(100), Some(104), Verdict::Pass));
    assert!(sentence.starts_with("100–104 per server; the steady state broke first"), "{sentence}");
    let broke = a.trials.iter().find(|t| t.outcome == Outcome::Broke).unwrap();
    assert!(broke.what().starts_with("no steady state: audio delay p50 rose from "), "{}", broke.what());
    let (_, a, verdict, sentence) = solve(&[Model { drains: 4, ..SOUND }], "");
    // No objective was broken.
    assert_eq!((a.stop, verdict), (Stop::BelowRange, Verdict::Unknown));
    assert!(sentence.starts_with("No steady state at the lowest load, 8: audio delay p50 rose from "), "{sentence}");
    assert!(sentence.ends_with(" within the trial; no load can be judged."), "{sentence}");
    // Nor by a second that is forgiven: three seconds of sixty may be bad.
    let mut world = World::new(setting("first_trial = \"30s\"", 1), &[Model { drains: 4, ..SOUND }]);
    world.edit = |_, interval| {
        let delay = &mut interval.servers[0].audio.delay;
        if delay.quantile_ms(0.5).is_some_and(|ms| (20.0..21.0).contains(&ms)) {
            (0..3).for_each(|_| delay.record_us(400_000));
        }
    };
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    let broken: Vec<&str> = a.trials[0].broken.iter().map(|b| &b.metric[..]).collect();
    assert_eq!((broken, verdict), (vec!["steady_state", "audio.delay.p99"], Verdict::Unknown), "{sentence}");
    // By more than that, it is what broke.
    let mut world = World::new(setting("first_trial = \"30s\"", 1), &[Model { drains: 4, ..SOUND }]);
    world.edit = |_, interval| {
        let delay = &mut interval.servers[0].audio.delay;
        if delay.quantile_ms(0.5).is_some_and(|ms| ms > 20.0) {
            (0..3).for_each(|_| delay.record_us(400_000));
        }
    };
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    let broken: Vec<&str> = a.trials[0].broken.iter().map(|b| &b.metric[..]).collect();
    assert_eq!((broken, verdict), (vec!["audio.delay.p99", "steady_state"], Verdict::Fail), "{sentence}");
}

#[test]
fn what_fails_at_the_lowest_load_is_a_fail() {
    let (_, a, verdict, sentence) = solve(&[Model { carries: 4, ..SOUND }], "");
    assert_eq!((verdict, a.stop, a.lower, a.threshold), (Verdict::Fail, Stop::BelowRange, None, None));
    assert!(sentence.starts_with("Objectives broken at the lowest load, 8: audio delay p99 "), "{sentence}");
    let (_, _, verdict, sentence) = solve(&[SOUND, Model { carries: 4, ..SOUND }], "");
    assert_eq!(verdict, Verdict::Fail);
    assert!(sentence.starts_with("Objectives broken at the lowest load, 8 on s2: audio delay p99 "), "{sentence}");
}

#[test]
fn an_objective_without_data_is_unknown() {
    let mut setting = setting("", 1);
    let video = crate::profile::Threshold {
        metric: "video.loss".into(),
        expr: "video.loss <= 1%".into(),
        ..setting.objectives[0].clone()
    };
    setting.objectives.push(video);
    let mut world = World::new(setting, &[SOUND]);
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop, a.trials.len()), (Verdict::Unknown, Stop::NoData, 1));
    assert_eq!(sentence, "No data for video.loss <= 1%: no load can be judged.");
}

/// The lowest loads are rooms without video, or their participants' joins were of no use to an objective.
#[test]
fn an_objective_that_finds_its_data_later_is_judged_then() {
    let text = "shape = \"capacity\"\ntarget = \"embedded\"\nseed = 1\n[embedded]\nservers = 1\n[[rooms]]\nname = \"call\"\n\
         count = 3\nsize = 2\naudio = \"opus@32kbit/s\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n\
         video = \"vp8@150kbit/s\"\n[search]\nrange = \"2..200\"\njoin = \"20/s\"\n[objectives]\n\
         \"audio.delay.p99\" = \"<= 80ms\"\n\"video.loss\" = \"<= 1%\"\n";
    let setting = || Setting::of(&parse_resolved(text).unwrap_or_else(|e| panic!("{e}"))).unwrap();
    let first = setting();
    assert_eq!((first.streams(first.loads.min()), first.loads.participants(first.loads.min())), ([2, 0], 2));
    let solve = |model: Model| {
        let mut world = World::new(setting(), &[model]);
        world.run(3600);
        world.answer()
    };
    let (a, verdict, sentence) = solve(Model { carries: 61, films: 6, ..SOUND });
    assert_eq!((a.stop, verdict), (Stop::Width, Verdict::Pass), "{sentence}");
    // Where it should have come and never did, nothing can be judged.
    let (a, verdict, sentence) = solve(Model { carries: 61, ..SOUND });
    assert_eq!((a.stop, verdict), (Stop::NoData, Verdict::Unknown), "{sentence}");
    assert_eq!(sentence, "No data for video.loss <= 1%: no load can be judged.");
    assert!(a.trials.len() > 1, "the first load has no video");
}

#[test]
fn an_objective_on_joins_that_never_has_data_is_unknown() {
    let mut setting = setting("", 1);
    let first_frame = crate::profile::Threshold {
        metric: "setup.first_frame.p95".into(),
        expr: "setup.first_frame.p95 <= 2s".into(),
        ..setting.objectives[1].clone()
    };
    setting.objectives.push(first_frame);
    let mut world = World::new(setting, &[SOUND]);
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop, a.trials.len()), (Verdict::Unknown, Stop::NoData, UNHEARD_MAX));
    assert_eq!(sentence, "No data for setup.first_frame.p95 <= 2s: no load can be judged.");
    // What broke first is known all the same.
    let mut world = World::new(world.search.record().setting().clone(), &[Model { carries: 4, ..SOUND }]);
    world.run(3600);
    let (_, verdict, sentence) = world.answer();
    assert_eq!(verdict, Verdict::Fail, "{sentence}");
    assert!(sentence.starts_with("Objectives broken at the lowest load, 8: audio delay p99 "), "{sentence}");
}

/// The disk lost the seconds of the trial that proved the lower bound.
#[test]
fn a_history_that_lost_the_bounds_gives_no_threshold() {
    let (world, whole, ..) = solve(&[Model { carries: 101, ..SOUND }], "first_trial = \"30s\"");
    assert_eq!((whole.lower, whole.upper, whole.bounded), (Some(100), Some(104), true));
    let proof = whole.trials.iter().find(|t| t.participants == 100 && t.until_ms - t.from_ms > 20_000.0).unwrap();
    let mut record = Record::new(world.search.record().setting().clone());
    let lost = |l: &&Line| !matches!(l.event, Event::Interval(_)) || l.t <= proof.from_ms || l.t > proof.until_ms;
    world.lines.iter().filter(lost).for_each(|l| record.see(l));
    record.close();
    let a = Answer::of(&record);
    let (verdict, sentence) = a.verdict(record.setting());
    assert_eq!((a.stop, a.bounded, a.threshold, verdict), (Stop::Width, false, None, Verdict::Unknown), "{sentence}");
    assert!(sentence.starts_with("Of the bounds, the history no longer has: more than "), "{sentence}");
}

#[test]
fn time_up_or_interrupted_it_says_what_is_known() {
    let (_, a, verdict, sentence) = solve(&[Model { carries: 101, ..SOUND }], "budget = \"2m\"");
    assert_eq!((verdict, a.stop, a.threshold), (Verdict::Unknown, Stop::Budget, None));
    assert!(sentence.starts_with("Not settled within 2m: ") && sentence.ends_with("not a threshold."), "{sentence}");
    let mut world = World::new(setting("", 1), &[Model { carries: 101, ..SOUND }]);
    world.run(100);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop), (Verdict::Unknown, Stop::Interrupted));
    assert!(sentence.starts_with("Interrupted: "), "{sentence}");
}

#[test]
fn a_search_that_is_interrupted_in_a_trial_knows_what_came_before() {
    let model = Model { carries: 101, ..SOUND };
    let (_, whole, ..) = solve(&[model], "");
    let third = &whole.trials[2];
    let seconds = ((third.from_ms + third.until_ms) / 2000.0).ceil() as u64;
    let mut world = World::new(setting("", 1), &[model]);
    world.run(seconds);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((verdict, a.stop, a.lower, a.upper), (Verdict::Unknown, Stop::Interrupted, None, None));
    // Short trials that held prove no lower bound.
    assert_eq!(sentence, "Interrupted: no load was proven; not a threshold.");
    assert_eq!((a.trials.len(), &a.trials[..2]), (3, &whole.trials[..2]));
    let cut = &a.trials[2];
    let judged = seconds - 1 - (third.from_ms / 1000.0) as u64;
    let of = (third.until_ms - third.from_ms) / 1000.0;
    assert_eq!(
        (cut.outcome, cut.why.clone().unwrap()),
        (Outcome::Invalid, format!("cut short: {judged} of {of} s were recorded"))
    );
    // And with both bounds known, but not yet as close as they were to be.
    let at = whole.trials.last().unwrap().from_ms / 1000.0 + 3.0;
    let mut world = World::new(setting("", 1), &[model]);
    world.run(at as u64);
    let (a, _, sentence) = world.answer();
    assert_eq!((a.lower, a.upper, a.threshold), (None, Some(104), None), "{sentence}");
    assert_eq!(sentence, "Interrupted: less than 104 per server; not a threshold.");
}

/// A load of which a server recovers takes longer to settle than was thought: a trial that began in time may not end in
/// time. None else is begun in vain.
#[test]
fn a_budget_that_ends_in_a_trial_leaves_what_is_known() {
    let carries = |budget: u64| budgeted(Model { carries: 101, ..SOUND }, budget);
    assert_eq!((60..150u64).map(carries).sum::<usize>(), 0);
    assert!((60..150u64).map(|budget| budgeted(Model { forwards: 101, ..SOUND }, budget)).sum::<usize>() > 0);
}

/// How many trials were cut short.
fn budgeted(model: Model, budget: u64) -> usize {
    let more = format!("budget = \"{budget}s\"");
    let (world, a, verdict, sentence) = solve(&[model], &more);
    let over = world.lines.iter().find(|l| matches!(l.event, Event::SearchEnd { .. })).unwrap().t / 1000.0;
    assert!(over <= budget as f64 + 0.2, "{budget}: {over}");
    assert_eq!((verdict, a.stop, a.threshold), (Verdict::Unknown, Stop::Budget, None), "{sentence}");
    let within = crate::profile::units::print_duration(Duration::from_secs(budget));
    let known = match (a.lower, a.upper) {
        (None, None) => "no load was proven".to_owned(),
        (None, Some(upper)) => format!("less than {upper} per server"),
        (Some(lower), None) => format!("at least {lower} per server"),
        (Some(lower), Some(upper)) => format!("more than {lower}, less than {upper} per server"),
    };
    assert_eq!(sentence, format!("Not settled within {within}: {known}; not a threshold."));
    let cut = |t: &TrialRow| t.why.as_ref().is_some_and(|w| w.starts_with("cut short: "));
    let last = a.trials.last().unwrap();
    assert!(a.trials.iter().filter(|t| cut(t)).count() <= usize::from(cut(last)), "{budget}");
    usize::from(cut(last))
}

/// Whatever a target does, the search is over when its budget is.
#[test]
fn the_budget_holds_against_joins_that_hang() {
    let (world, a, verdict, sentence) = solve(&[Model { hangs: 30, ..SOUND }], "budget = \"2m\"");
    assert_eq!((verdict, a.stop, a.threshold), (Verdict::Unknown, Stop::Budget, None), "{sentence}");
    assert!(sentence.starts_with("Not settled within 2m: "), "{sentence}");
    let over = world.lines.iter().find(|l| matches!(l.event, Event::SearchEnd { .. })).unwrap().t;
    assert!((119_000.0..=120_200.0).contains(&over), "{over}");
}

#[test]
fn a_range_that_ends_too_soon_is_no_answer() {
    let (_, a, verdict, sentence) = solve(&[SOUND], "");
    assert_eq!((verdict, a.stop, a.lower), (Verdict::Unknown, Stop::AboveRange, Some(240)));
    assert!(sentence.starts_with("At least 240: the highest load of the range"), "{sentence}");
}

/// A search in which an objective takes the place of that on video's delay, and what is seen of so many participants.
fn judged_by(objective: &str, edit: fn(u32, &mut Interval)) -> (Answer, String) {
    let profile = MODEL_PROFILE.replace("\"video.delay.p99\" = \"<= 120ms\"", objective);
    let mut world = World::new(Setting::of(&parse_resolved(&profile).unwrap()).unwrap(), &[SOUND]);
    world.edit = edit;
    world.run(3600);
    let (a, verdict, sentence) = world.answer();
    assert_eq!((a.lower, a.upper, verdict), (Some(100), Some(104), Verdict::Pass), "{sentence}");
    assert!(a.trials.iter().any(|t| t.outcome == Outcome::Broke));
    (a, sentence)
}

#[test]
fn pictures_that_freeze_break_a_load_by_their_rate_over_the_trial() {
    // Each watches one picture; beyond 100, one in fifty freezes each second: 1.2 a minute. A freeze now and then holds.
    let (a, sentence) = judged_by("\"video.freezes\" = \"<= 0.5/min\"", |there, interval| {
        let video = &mut interval.servers[0].video.count;
        video.watched_ms = 1000 * i64::from(there);
        (video.e2e_expected, video.e2e_received) = (100, 100);
        video.freezes = if there > 100 { i64::from(there.div_ceil(50)) } else { 0 };
    });
    assert_eq!(a.broke_first.as_deref(), Some("video.freezes <= 0.5/min"));
    assert!(sentence.starts_with("100–104 per server; video freezes broke first"), "{sentence}");
    for t in &a.trials {
        let freezes = t.servers[0].video.freezes.unwrap();
        let broke = t.participants > 100;
        assert_eq!((t.outcome == Outcome::Broke, freezes > 0.5), (broke, broke), "{t:?}");
        // No second is bad by itself: a rate a minute takes the whole trial.
        assert_eq!(t.loss, 0.0, "{t:?}");
    }
    let broke = a.trials.iter().find(|t| t.participants == 104).unwrap();
    assert_eq!((broke.broken[0].metric.as_str(), broke.broken[0].share), ("video.freezes", 100.0));
    assert_eq!(broke.what(), "video freezes 1.73/min (limit <= 0.5/min)");
}

#[test]
fn jitter_breaks_a_load_second_by_second() {
    let (a, sentence) = judged_by("\"audio.jitter.p95\" = \"<= 30ms\"", |there, interval| {
        let jitter = &mut interval.servers[0].audio.jitter;
        (0..100).for_each(|_| jitter.record_us(if there > 100 { 60_000 } else { 5_000 }));
    });
    assert_eq!(a.broke_first.as_deref(), Some("audio.jitter.p95 <= 30ms"));
    assert!(sentence.starts_with("100–104 per server; audio jitter p95 broke first"), "{sentence}");
    for t in &a.trials {
        let (broke, jitter) = (t.participants > 100, t.servers[0].audio.jitter_p95.unwrap());
        assert_eq!(
            (t.outcome == Outcome::Broke, t.loss, jitter > 30.0),
            (broke, if broke { 100.0 } else { 0.0 }, broke)
        );
    }
}
