//! Whole searches in virtual time: a fleet of model servers, and the lines that the engine would write.

use super::*;
use crate::capacity::{Answer, Outcome};
use crate::history::{
    FailReason, Health, Interval, JoinFailure, LegCause, LegEnd, ServerFlow, ServerInfo, Setup, ShardHealth, Usage,
};
use crate::measure::{Flow, FlowCounters};
use crate::plan::PlannedLeg;
use crate::profile::parse_resolved;
use crate::types::ServerId;
use crate::verdict::Verdict;
use std::collections::BTreeMap;

/// A model server: delay grows beyond `carries`, joins are refused beyond `admits`.
#[derive(Clone, Copy)]
struct Model {
    carries: u32,
    admits: u32,
    /// Nobody is served after this.
    dies_s: u64,
    /// Beyond so many, its queue grows by 1 ms a second while they are there.
    drains: u32,
    /// Beyond so many, joins take forever.
    hangs: u32,
}

const SOUND: Model = Model { carries: u32::MAX, admits: u32::MAX, dies_s: u64::MAX, drains: u32::MAX, hangs: u32::MAX };

struct World {
    servers: Vec<Model>,
    /// The generator is unhealthy with more participants than this.
    generator: u32,
    legs: BTreeMap<LegId, (PlannedLeg, usize)>,
    present: BTreeMap<LegId, usize>,
    search: Search,
    lines: Vec<Line>,
    /// ms of queue at each server.
    queues: Vec<u64>,
}

fn setting(more: &str, servers: usize) -> Setting {
    let text = format!(
        "shape = \"capacity\"\ntarget = \"embedded\"\nseed = 1\n[embedded]\nservers = {servers}\n[[rooms]]\nname = \"m\"\n\
         count = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n[search]\nrange = \"8..240\"\njoin = \"20/s\"\n{more}\n\
         [objectives]\n\"audio.delay.p99\" = \"<= 80ms\"\n\"setup.total.p95\" = \"<= 2s\"\n\"joins.failed_share\" = \"<= 1%\"\n\
         [answer]\nservers = 12\ngrowth = \"30/min\"\nboot = \"60s\"\n"
    );
    Setting::of(&parse_resolved(&text).unwrap_or_else(|e| panic!("{e}"))).unwrap()
}

impl World {
    fn new(setting: Setting, servers: &[Model]) -> World {
        let mut world = World {
            servers: servers.to_vec(),
            generator: u32::MAX,
            legs: BTreeMap::new(),
            present: BTreeMap::new(),
            search: Search::new(setting),
            lines: Vec::new(),
            queues: vec![0; servers.len()],
        };
        for i in 0..servers.len() {
            let info = ServerInfo { id: ServerId(i as u32), name: format!("s{}", i + 1) };
            world.write(0.0, Event::Server(info));
        }
        world
    }

    fn write(&mut self, t: f64, event: Event) {
        let line = Line { t, event };
        self.search.see(&line);
        self.lines.push(line);
    }

    fn on(&self, server: usize) -> u32 {
        self.present.values().filter(|s| **s == server).count() as u32
    }

    /// Runs to the end of the search, or for so many seconds.
    fn run(&mut self, seconds: u64) {
        for step in 0..seconds * 10 {
            let now = Duration::from_millis(step * 100);
            let t = now.as_secs_f64() * 1000.0;
            if step % 10 == 0 && step > 0 {
                self.second(t, step / 10);
            }
            while let Some(order) = self.search.due(now) {
                match order {
                    Order::Join(leg) => self.join(leg, t, step / 10),
                    Order::Leave(leg) => self.leave(leg, t, LegCause::Left),
                    Order::Trial(trial) => self.write(t, Event::Trial(trial)),
                    other @ (Order::Rejoin(..) | Order::Act(_) | Order::Step(_) | Order::Close) => panic!("{other:?}"),
                    Order::End { why } => {
                        self.write(t, Event::SearchEnd { why });
                        return self.write(t + 1.0, Event::End { interrupted: false });
                    }
                }
            }
            assert!(self.search.wake(now) >= now);
        }
        self.write(seconds as f64 * 1000.0, Event::End { interrupted: true });
    }

    fn join(&mut self, leg: PlannedLeg, t: f64, second: u64) {
        let room = leg.room;
        let pinned = self.search.record().setting().rooms[room.index()].server.clone().unwrap();
        let server = pinned[1..].parse::<usize>().unwrap() - 1;
        let (id, model) = (leg.id, self.servers[server]);
        assert_eq!(id.index(), self.legs.len(), "legs are numbered in order");
        self.write(t, Event::JoinStart { leg: leg.clone(), late_ms: 0.0, rejoins: None });
        self.legs.insert(id, (leg, server));
        if self.on(server) >= model.hangs {
            return;
        }
        let refused = self.on(server) >= model.admits;
        if refused || second >= model.dies_s {
            let reason = if refused { FailReason::Full } else { FailReason::Refused };
            let detail = "503: the server is full".to_owned();
            let failure = JoinFailure { leg: id, room, server: None, reason, detail, after_ms: 10.0 };
            return self.write(t, Event::JoinFailed(failure));
        }
        self.present.insert(id, server);
        let setup = Setup { total_ms: 120.0, ..Setup::default() };
        let server = ServerId(server as u32);
        self.write(t, Event::Joined { leg: id, room, server, suite: None, remote: None, certificate: None, setup });
    }

    fn leave(&mut self, leg: LegId, t: f64, cause: LegCause) {
        let Some(server) = self.present.remove(&leg) else { return };
        let end = LegEnd {
            leg,
            room: self.legs[&leg].0.room,
            server: Some(ServerId(server as u32)),
            cause,
            detail: String::new(),
            audio: FlowCounters::default(),
            video: FlowCounters::default(),
            worst_10s_loss: [None, None],
            worst_10s_at_ms: [None, None],
            silences: Vec::new(),
            flow_gaps: Vec::new(),
            ice_restarts: 0,
            longest_gap_ms: 0.0,
            longest_gap_at_ms: 0.0,
            impaired: None,
        };
        self.write(t, Event::LegEnd(end));
    }

    fn second(&mut self, t: f64, second: u64) {
        for (i, model) in self.servers.clone().into_iter().enumerate() {
            if second == model.dies_s {
                let gone: Vec<LegId> = self.present.iter().filter(|(_, s)| **s == i).map(|(l, _)| *l).collect();
                gone.into_iter().for_each(|l| self.leave(l, t, LegCause::ClosedByServer));
            }
        }
        for i in 0..self.servers.len() {
            let grows = self.on(i) > self.servers[i].drains;
            self.queues[i] = if grows { self.queues[i] + 1 } else { 0 };
        }
        let flow = |i: usize| {
            let n = self.on(i);
            let mut audio = Flow::default();
            if n > 0 {
                let late = n > self.servers[i].carries;
                (0..100)
                    .for_each(|_| audio.delay.record_us(if late { 400_000 } else { 2_000 + 1000 * self.queues[i] }));
                audio.count.received = i64::from(n) * 150;
                audio.count.received_bytes = i64::from(n) * 150 * 100;
                (audio.count.e2e_expected, audio.count.e2e_received) = (100, 100);
                audio.leg_seconds = i64::from(n);
            }
            ServerFlow { server: ServerId(i as u32), participants: n, rooms: 0, audio, video: Flow::default() }
        };
        let servers: Vec<ServerFlow> = (0..self.servers.len()).map(flow).collect();
        let connected = self.present.len() as u32;
        let usage: Vec<Usage> = (0..self.servers.len())
            .map(|i| Usage {
                server: format!("s{}", i + 1),
                seconds: 1.0,
                cpu_cores: Some(f64::from(self.on(i)) * 0.005),
                cores: Some(1.0),
                ..Usage::default()
            })
            .collect();
        let unhealthy = if connected > self.generator { vec!["shard 0 busy".into()] } else { vec![] };
        self.write(
            t,
            Event::Interval(Interval { seconds: 1.0, connected, joining: 0, servers, paths: None, relays: vec![] }),
        );
        self.write(t, health(unhealthy));
        usage.into_iter().for_each(|u| self.write(t, Event::Usage(u)));
    }

    /// The answer by the search, which must be that of the history alone.
    fn answer(&self) -> (Answer, Verdict, String) {
        let mut again = Record::new(self.search.record().setting().clone());
        self.lines.iter().for_each(|l| again.see(l));
        again.close();
        let answer = Answer::of(&again);
        let live = &self.search.record().trials;
        for (again, live) in answer.trials.iter().zip(live) {
            assert!(again == live, "judged again, trial {} is another", live.number);
        }
        let (verdict, sentence) = answer.verdict(again.setting());
        (answer, verdict, sentence)
    }
}

fn health(unhealthy: Vec<String>) -> Event {
    let text = serde_json::json!({
        "ev": "health", "seconds": 1.0, "machine_cpu": 0.1, "steal": 0.0, "process_cores": 0.1, "resident_bytes": 1,
        "shards": [serde_json::to_value(ShardHealth::default()).unwrap()], "unhealthy": unhealthy,
    });
    let health: Health = serde_json::from_value(text).unwrap();
    Event::Health(health)
}

fn solve(models: &[Model], more: &str) -> (World, Answer, Verdict, String) {
    let mut world = World::new(setting(more, models.len()), models);
    world.run(3600);
    let (answer, verdict, sentence) = world.answer();
    (world, answer, verdict, sentence)
}

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
    assert!(s1.lower >= Some(60) && s1.upper.is_none_or(|u| u > 64), "{s1:?}");
    assert_eq!((a.servers[1].lower, a.servers[1].upper), (Some(60), Some(64)));
    assert_eq!(a.trials.last().unwrap().servers.len(), 2);
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
    assert!(a.trials.iter().any(|t| t.outcome == Outcome::Invalid && t.why.as_ref().unwrap().contains("shard 0 busy")));
}

#[test]
fn a_target_that_dies_is_said_plainly() {
    let (_, a, verdict, sentence) = solve(&[Model { dies_s: 60, ..SOUND }], "");
    assert_eq!((verdict, a.stop, a.threshold), (Verdict::Fail, Stop::TargetGone, None));
    assert!(sentence.starts_with("Nobody was served by s1 at a load of "), "{sentence}");
    let (_, a, verdict, sentence) = solve(&[Model { dies_s: 0, ..SOUND }], "");
    assert_eq!((verdict, a.trials.len()), (Verdict::Fail, 1));
    assert!(sentence.contains("at a load of 8") && sentence.contains("no load was proven"), "{sentence}");
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
    assert_eq!((a.stop, verdict), (Stop::BelowRange, Verdict::Fail));
    assert!(sentence.starts_with("Objectives broken at the lowest load, 8: no steady state: "), "{sentence}");
}

#[test]
fn what_fails_at_the_lowest_load_is_a_fail() {
    let (_, a, verdict, sentence) = solve(&[Model { carries: 4, ..SOUND }], "");
    assert_eq!((verdict, a.stop, a.lower, a.threshold), (Verdict::Fail, Stop::BelowRange, None, None));
    assert!(sentence.starts_with("Objectives broken at the lowest load, 8: audio delay p99 "), "{sentence}");
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
