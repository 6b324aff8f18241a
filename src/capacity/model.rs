//! Whole searches in virtual time, for tests: a fleet of model servers, and the lines that the engine would write.

use super::record::Record;
use super::setting::Setting;
use super::{Answer, Search};
use crate::history::{
    Event, FailReason, Health, Interval, JoinFailure, LegCause, LegEnd, Line, ServerFlow, ServerInfo, Setup,
    ShardHealth, Usage,
};
use crate::measure::{Flow, FlowCounters};
use crate::plan::{Course, Order, PlannedLeg};
use crate::profile::parse_resolved;
use crate::types::{LegId, ServerId};
use crate::verdict::Verdict;
use std::collections::BTreeMap;
use std::time::Duration;

/// A model server: delay grows beyond `carries`, joins are refused beyond `admits`.
#[derive(Clone, Copy)]
pub(super) struct Model {
    pub(super) carries: u32,
    pub(super) admits: u32,
    /// Nobody is served after this.
    pub(super) dies_s: u64,
    /// From and to: nothing comes of it, to participants that go on to be connected.
    pub(super) silent_s: (u64, u64),
    /// CPU of each participant, in cores, and how many there may be for somebody to read it.
    pub(super) cpu: f64,
    pub(super) observed: u32,
    /// Video comes with so many.
    pub(super) films: u32,
    /// Beyond so many, its queue grows by 1 ms a second while they are there.
    pub(super) drains: u32,
    /// Beyond so many, joins fail for want of an answer to an allocation.
    pub(super) relays: u32,
    /// Beyond so many, joins take forever.
    pub(super) hangs: u32,
    /// Beyond so many, joins take 3 s.
    pub(super) welcomes: u32,
    /// Each one beyond so many leaves 20 ms a second in its queue; of which it works off 500 ms a second without them. Joins wait
    /// in it, too.
    pub(super) forwards: u32,
    /// ms that the queue holds; what is more is lost.
    pub(super) buffer: u64,
}

pub(super) const SOUND: Model = Model {
    carries: u32::MAX,
    admits: u32::MAX,
    dies_s: u64::MAX,
    silent_s: (u64::MAX, u64::MAX),
    cpu: 0.005,
    observed: u32::MAX,
    films: u32::MAX,
    drains: u32::MAX,
    hangs: u32::MAX,
    welcomes: u32::MAX,
    relays: u32::MAX,
    forwards: u32::MAX,
    buffer: u64::MAX,
};

pub(super) struct World {
    pub(super) servers: Vec<Model>,
    /// The generator is unhealthy with more participants than this.
    pub(super) generator: u32,
    /// And with so many.
    pub(super) haze: std::ops::Range<u32>,
    /// How late it begins a join, ms, by how many there are and by how many it has begun since the last trial.
    pub(super) late: fn(u32, u32) -> f64,
    pub(super) begun: u32,
    pub(super) legs: BTreeMap<LegId, (PlannedLeg, usize)>,
    pub(super) present: BTreeMap<LegId, usize>,
    pub(super) search: Search,
    pub(super) lines: Vec<Line>,
    /// ms of queue at each server, and what has come out of it waited for: it came in when that was its length.
    pub(super) queues: Vec<u64>,
    pub(super) lengths: Vec<Vec<u64>>,
    /// What else is seen in a second, by how many there are.
    pub(super) edit: fn(u32, &mut Interval),
}

pub(super) fn setting(more: &str, servers: usize) -> Setting {
    let text = format!(
        "shape = \"capacity\"\ntarget = \"embedded\"\nseed = 1\n[embedded]\nservers = {servers}\n[[rooms]]\nname = \"m\"\n\
         count = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n[search]\nrange = \"8..240\"\njoin = \"20/s\"\n{more}\n\
         [objectives]\n\"audio.delay.p99\" = \"<= 80ms\"\n\"setup.total.p95\" = \"<= 2s\"\n\"joins.failed_share\" = \"<= 1%\"\n\
         [answer]\nservers = 12\ngrowth = \"30/min\"\nboot = \"60s\"\n"
    );
    Setting::of(&parse_resolved(&text).unwrap_or_else(|e| panic!("{e}"))).unwrap()
}

impl World {
    pub(super) fn new(setting: Setting, servers: &[Model]) -> World {
        let mut world = World {
            servers: servers.to_vec(),
            generator: u32::MAX,
            haze: 0..0,
            late: |_, _| 0.0,
            begun: 0,
            legs: BTreeMap::new(),
            present: BTreeMap::new(),
            search: Search::new(setting),
            lines: Vec::new(),
            queues: vec![0; servers.len()],
            lengths: vec![Vec::new(); servers.len()],
            edit: |_, _| {},
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
    pub(super) fn run(&mut self, seconds: u64) {
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
                    Order::Trial(trial) => {
                        self.begun = 0;
                        self.write(t, Event::Trial(trial));
                    }
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
        let late_ms = (self.late)(self.present.len() as u32, self.begun);
        self.begun += 1;
        self.write(t, Event::JoinStart { leg: leg.clone(), late_ms, rejoins: None });
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
        if self.on(server) >= model.relays {
            let (reason, detail) = (FailReason::Relay, "no allocation within 15s".to_owned());
            let failure = JoinFailure { leg: id, room, server: None, reason, detail, after_ms: 15_000.0 };
            return self.write(t, Event::JoinFailed(failure));
        }
        let own = if self.on(server) >= model.welcomes { 3000.0 } else { 120.0 + self.queues[server] as f64 };
        self.present.insert(id, server);
        let setup = Setup { total_ms: own + late_ms, ..Setup::default() };
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
            let (n, model) = (self.on(i), self.servers[i]);
            self.queues[i] = match (n > model.drains, n.checked_sub(model.forwards).filter(|over| *over > 0)) {
                (true, _) => self.queues[i] + 1,
                (_, Some(over)) => self.queues[i] + 20 * u64::from(over),
                _ if model.forwards < u32::MAX => self.queues[i].saturating_sub(500),
                _ => 0,
            };
            self.queues[i] = self.queues[i].min(model.buffer);
            self.lengths[i].push(self.queues[i]);
        }
        let waited = |i: usize| {
            let lengths = self.lengths[i].iter().rev().enumerate();
            lengths.map(|(ago, ms)| (ago as u64, *ms)).find(|(ago, ms)| *ms < 1000 * (ago + 1)).map_or(0, |(_, ms)| ms)
        };
        let flow = |i: usize| {
            let n = self.on(i);
            let (mut audio, mut video) = (Flow::default(), Flow::default());
            let (silent, until) = self.servers[i].silent_s;
            if n > 0 {
                audio.count.e2e_expected = 100;
            }
            if n > 0 && !(silent..until).contains(&second) {
                if n >= self.servers[i].films {
                    (video.count.received, video.leg_seconds) = (100, i64::from(n));
                    (video.count.e2e_expected, video.count.e2e_received) = (100, 100);
                }
                let late = n > self.servers[i].carries;
                (0..100).for_each(|_| audio.delay.record_us(if late { 400_000 } else { 2_000 + 1000 * waited(i) }));
                audio.count.received = i64::from(n) * 150;
                audio.count.received_bytes = i64::from(n) * 150 * 100;
                (audio.count.e2e_expected, audio.count.e2e_received) = (100, 100);
                audio.leg_seconds = i64::from(n);
            }
            ServerFlow { server: ServerId(i as u32), participants: n, rooms: 0, audio, video }
        };
        let servers: Vec<ServerFlow> = (0..self.servers.len()).map(flow).collect();
        let connected = self.present.len() as u32;
        let usage: Vec<Usage> = (0..self.servers.len())
            .filter(|i| self.on(*i) <= self.servers[*i].observed)
            .map(|i| Usage {
                server: format!("s{}", i + 1),
                seconds: 1.0,
                cpu_cores: Some(f64::from(self.on(i)) * self.servers[i].cpu),
                cores: Some(1.0),
                ..Usage::default()
            })
            .collect();
        let unhealthy = if connected > self.generator || self.haze.contains(&connected) {
            vec!["shard 0 busy".into()]
        } else {
            vec![]
        };
        let mut interval = Interval { seconds: 1.0, connected, joining: 0, servers, paths: None, relays: vec![] };
        (self.edit)(connected, &mut interval);
        self.write(t, Event::Interval(interval));
        self.write(t, health(unhealthy));
        usage.into_iter().for_each(|u| self.write(t, Event::Usage(u)));
    }

    /// The answer by the search, which must be that of the history alone.
    pub(super) fn answer(&self) -> (Answer, Verdict, String) {
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

pub(super) fn solve(models: &[Model], more: &str) -> (World, Answer, Verdict, String) {
    let mut world = World::new(setting(more, models.len()), models);
    world.run(3600);
    let (answer, verdict, sentence) = world.answer();
    (world, answer, verdict, sentence)
}

/// A search on the model server, for tests of what is made of one.
pub(crate) const MODEL_PROFILE: &str = r#"shape = "capacity"
target = "embedded"
seed = 1
[embedded]
servers = 1
[[rooms]]
name = "m"
count = 1
size = 4
audio = "opus@32kbit/s"
video = "vp8@150kbit/s"
[search]
range = "8..240"
join = "20/s"
[objectives]
"audio.delay.p99" = "<= 80ms"
"video.delay.p99" = "<= 120ms"
"setup.total.p95" = "<= 200ms"
"joins.failed_share" = "<= 1%"
[answer]
servers = 12
growth = "30/min"
boot = "60s"
"#;

/// The history of a search by a profile of one such server, which carries so many; video comes with half of the delay.
pub(crate) fn model_history(profile: &str, carries: u32) -> Vec<Line> {
    let setting = Setting::of(&parse_resolved(profile).unwrap_or_else(|e| panic!("{e}"))).unwrap();
    let mut world = World::new(setting, &[Model { carries, ..SOUND }]);
    world.edit = |_, interval| {
        for s in &mut interval.servers {
            s.video = s.audio.clone();
            s.video.delay = Default::default();
            let half = s.audio.delay.quantile_ms(0.5).map(|ms| (ms * 500.0) as u64);
            half.into_iter().for_each(|us| (0..100).for_each(|_| s.video.delay.record_us(us)));
        }
    };
    world.run(3600);
    let run = crate::history::synthetic::Synthetic { resolved: profile.into(), ..Default::default() };
    run.lines().into_iter().take(1).chain(world.lines).collect()
}

/// Its answer.
pub(crate) fn model_answer(profile: &str, carries: u32) -> Answer {
    let mut record = Record::new(Setting::of(&parse_resolved(profile).unwrap()).unwrap());
    model_history(profile, carries).iter().for_each(|l| record.see(l));
    record.close();
    Answer::of(&record)
}
