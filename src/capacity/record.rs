//! The trials of a history, judged line by line: the running search and `roomful report` see the same.

use super::objectives::{Joins, Scope, media};
use super::search::Trial;
use super::setting::Setting;
use crate::history::{
    Carried, EDGE_MS, Event, FailReason, Interval, JoinFailure, Line, Relay, RelayFlow, RelayWhat, Usage,
};
use crate::measure::Flow;
use crate::plan::PlannedTrial;
use crate::types::{Kind, LegId, RoomId, ServerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Name of all servers together, where rooms are not pinned.
const ALL: &str = "all servers";

/// What a TURN server says to an allocation for which it has no room (RFC 8656 18).
const QUOTA: u16 = 486;
const CAPACITY: u16 = 508;

/// Metric of a trial that reached no steady state.
pub(super) const UNSTEADY: &str = "steady_state";

/// What became of a trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Held,
    Broke,
    /// Judged neither way.
    Invalid,
}

/// One trial, judged. Shares in percent, times in ms.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TrialRow {
    pub number: u32,
    /// On each server.
    pub rooms: u32,
    pub participants: u32,
    #[serde(rename = "from")]
    pub from_ms: f64,
    #[serde(rename = "until")]
    pub until_ms: f64,
    pub outcome: Outcome,
    /// Participant-seconds that violated an objective, on the worst server.
    pub loss: f64,
    /// What broke, worst first.
    pub broken: Vec<Broken>,
    /// Why it is invalid.
    pub why: Option<String>,
    /// The server refused joins by its own limit, and nothing else broke.
    pub admission: bool,
    pub servers: Vec<ServerTrial>,
    /// Objectives that found nothing to measure.
    #[serde(skip)]
    pub silent: Vec<String>,
    /// Servers that served nobody.
    #[serde(skip)]
    pub deserted: Vec<String>,
    #[serde(skip)]
    pub(super) hint: Option<u32>,
    #[serde(skip)]
    pub(super) whole_broken: bool,
}

/// A broken objective.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Broken {
    /// As written; for participants that were not there, and for no steady state, what happened.
    pub expr: String,
    pub metric: String,
    pub server: String,
    /// Over the whole trial, in the metric's unit.
    pub value: Option<f64>,
    /// Share of the trial's participant-seconds, percent; 100 for what only the whole trial has.
    pub share: f64,
}

/// One server in one trial; where rooms are spread over several, the mean of them.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct ServerTrial {
    pub server: String,
    /// Fewest connected in any second.
    pub participants: u32,
    pub held: bool,
    pub loss: f64,
    pub audio: KindTrial,
    pub video: KindTrial,
    pub setup_p95: Option<f64>,
    pub joined: u32,
    pub joins_failed: u32,
    /// RTP that participants received from it, a second.
    pub egress_pps: f64,
    pub egress_bps: f64,
    pub cost: Option<Cost>,
    /// Where it is a TURN server.
    pub relay: Option<RelayTrial>,
}

/// What a TURN server did in a trial.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct RelayTrial {
    /// Fewest in any second.
    pub allocations: u32,
    /// Datagrams relayed, both ways, a second, and the bits in them without TURN's own.
    pub pps: f64,
    pub bps: f64,
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct KindTrial {
    pub loss: Option<f64>,
    pub delay_p50: Option<f64>,
    pub delay_p99: Option<f64>,
    pub jitter_p95: Option<f64>,
    pub freezes: Option<f64>,
}

/// What the server itself showed.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Cost {
    /// Percent of the cores it may use: what a trigger on CPU looks at.
    pub cpu: Option<f64>,
    pub cpu_p95: Option<f64>,
    pub cpu_cores: Option<f64>,
    /// Percent of one core.
    pub busiest_thread: Option<f64>,
    pub memory_bytes: Option<f64>,
    /// Percent of the time.
    pub cpu_pressure: Option<f64>,
    /// Its threads that stood ready to run and had no core, mean.
    pub run_queue: Option<f64>,
    pub steal: Option<f64>,
    pub throttled: Option<f64>,
    pub egress_pps: Option<f64>,
    pub egress_bps: Option<f64>,
    /// Sent to other servers of the same rooms.
    pub cascade_pps: Option<f64>,
    pub cascade_bps: Option<f64>,
}

/// Follows a history.
#[derive(Debug)]
pub struct Record {
    setting: Setting,
    names: BTreeMap<ServerId, String>,
    legs: BTreeMap<LegId, RoomId>,
    joins: BTreeMap<String, Joins>,
    /// Rooms of a TURN server that refused an allocation for want of room.
    turned_away: BTreeSet<RoomId>,
    moving: Seconds,
    open: Option<Open>,
    /// A second of media whose health is still to come.
    second: Option<(f64, Interval)>,
    pub trials: Vec<TrialRow>,
    pub why: Option<String>,
    pub interrupted: bool,
    pub last_t: f64,
}

#[derive(Clone, Copy, Default, Debug)]
struct Seconds {
    seen: f64,
    unhealthy: f64,
}

#[derive(Debug)]
struct Open {
    plan: PlannedTrial,
    /// What happened since the trial before: the joins that led to this load, and our health meanwhile.
    joins: BTreeMap<String, Joins>,
    moving: Seconds,
    seconds: Seconds,
    reasons: Vec<String>,
    servers: BTreeMap<String, Loaded>,
    /// End of the last second that was judged.
    judged_ms: f64,
}

#[derive(Default, Debug)]
struct Loaded {
    flows: [Flow; 2],
    judged: f64,
    expected: f64,
    bad: f64,
    missing: f64,
    /// Bad participant-seconds by objective, and whether it ever had data.
    broken: Vec<f64>,
    heard: Vec<bool>,
    fewest: Option<u32>,
    /// Median delay of each second, by kind, ms.
    pace: [Vec<f64>; 2],
    usage: Vec<Usage>,
    dropped: u32,
    allocations: Option<u32>,
    relayed: Carried,
}

impl Record {
    pub fn new(setting: Setting) -> Record {
        Record {
            setting,
            names: BTreeMap::new(),
            legs: BTreeMap::new(),
            joins: BTreeMap::new(),
            turned_away: BTreeSet::new(),
            moving: Seconds::default(),
            open: None,
            second: None,
            trials: Vec::new(),
            why: None,
            interrupted: false,
            last_t: 0.0,
        }
    }

    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Kinds of lines that matter here.
    pub fn wants(kind: &str) -> bool {
        !matches!(kind, "room" | "note" | "rooms" | "run" | "phase")
    }

    pub fn see(&mut self, line: &Line) {
        self.last_t = self.last_t.max(line.t);
        match &line.event {
            Event::Server(info) => {
                self.names.insert(info.id, info.name.clone());
            }
            Event::JoinStart { leg, .. } => {
                self.legs.insert(leg.id, leg.room);
            }
            Event::Joined { room, setup, .. } => {
                let joins = self.joins_of(*room);
                joins.joined += 1;
                let phases = [
                    ("total", Some(setup.total_ms)),
                    ("join", setup.join_ms),
                    ("signaling", Some(setup.signaling_ms)),
                    ("ice", Some(setup.ice_ms)),
                    ("dtls", Some(setup.dtls_ms)),
                    ("relay", setup.relay_ms),
                ];
                phases.into_iter().for_each(|(phase, ms)| ms.into_iter().for_each(|ms| joins.time(phase, ms)));
            }
            Event::JoinFailed(failure) => self.join_failed(failure),
            Event::Relay(relay) => self.relay(relay),
            Event::FirstMedia { leg, first_rtp_ms, first_frame_ms, rtp_in_vain_ms, frame_in_vain_ms, .. } => {
                if let Some(room) = self.legs.get(leg).copied() {
                    let joins = self.joins_of(room);
                    first_rtp_ms.iter().chain(rtp_in_vain_ms).for_each(|ms| joins.time("first_rtp", *ms));
                    first_frame_ms.iter().chain(frame_in_vain_ms).for_each(|ms| joins.time("first_frame", *ms));
                }
            }
            Event::LegEnd(end) if end.cause.is_drop() => {
                let server = self.server_of(end.room);
                let within = |o: &&mut Open| line.t >= o.plan.from_ms && line.t <= o.plan.until_ms + EDGE_MS;
                let inside = self.open.as_mut().filter(within);
                if let Some(loaded) = inside.and_then(|o| o.servers.get_mut(&server)) {
                    loaded.dropped += 1;
                }
            }
            Event::Trial(plan) => {
                self.close();
                let names = self.setting.servers.iter().map(|s| s.clone().unwrap_or_else(|| ALL.into()));
                let (plan, judged_ms) = (plan.clone(), plan.from_ms);
                let servers = names.map(|n| (n, Loaded::default())).collect();
                let (joins, moving) = (std::mem::take(&mut self.joins), std::mem::take(&mut self.moving));
                let (seconds, reasons) = (Seconds::default(), Vec::new());
                self.open = Some(Open { plan, joins, moving, seconds, reasons, servers, judged_ms });
            }
            Event::Interval(interval) => {
                if let Some((t, unwatched)) = self.second.replace((line.t, interval.clone())) {
                    self.judge(t, &unwatched, false, &["health was not recorded".to_owned()]);
                }
            }
            Event::Health(health) => {
                let healthy = health.unhealthy.is_empty();
                if let Some((t, interval)) = self.second.take() {
                    self.judge(t, &interval, healthy, &health.unhealthy);
                }
            }
            Event::Usage(usage) => {
                let pinned = self.setting.servers.iter().any(|s| s.as_deref() == Some(&usage.server));
                let name = if pinned { usage.server.as_str() } else { ALL };
                let within = |o: &&mut Open| {
                    line.t - usage.seconds * 1000.0 >= o.plan.from_ms - 500.0 && line.t <= o.plan.until_ms + 500.0
                };
                if let Some(loaded) = self.open.as_mut().filter(within).and_then(|o| o.servers.get_mut(name)) {
                    loaded.usage.push(usage.clone());
                }
            }
            Event::SearchEnd { why } => {
                self.close();
                self.why = Some(why.clone());
            }
            Event::End { interrupted } => {
                self.close();
                self.interrupted = *interrupted;
            }
            _ => {}
        }
    }

    /// True when every second of the open trial has been judged.
    pub fn is_whole(&self) -> bool {
        self.open.as_ref().is_none_or(|o| o.judged_ms >= o.plan.until_ms - EDGE_MS)
    }

    /// The trials as the search sees them.
    pub fn searched(&self) -> Vec<Trial> {
        let of = |t: &TrialRow| Trial {
            rooms: t.rooms,
            seconds: (t.until_ms - t.from_ms) / 1000.0,
            loss: t.loss / 100.0,
            broken: t.whole_broken,
            // A server that is gone proves nothing about loads.
            valid: t.outcome != Outcome::Invalid && t.deserted.is_empty(),
            hint: t.hint,
        };
        self.trials.iter().map(of).collect()
    }

    fn server_of(&self, room: RoomId) -> String {
        let server = self.setting.rooms.get(room.index()).and_then(|r| r.server.clone());
        server.unwrap_or_else(|| ALL.into())
    }

    fn joins_of(&mut self, room: RoomId) -> &mut Joins {
        let server = self.server_of(room);
        self.joins.entry(server).or_default()
    }

    fn relay(&mut self, relay: &Relay) {
        let room = self.legs.get(&relay.leg).copied().filter(|_| self.setting.pairs);
        match (relay.what, relay.code) {
            (RelayWhat::Refused, Some(QUOTA | CAPACITY)) => self.turned_away.extend(room),
            (RelayWhat::Allocated, _) => drop(room.map(|r| self.turned_away.remove(&r))),
            _ => {}
        }
    }

    fn join_failed(&mut self, failure: &JoinFailure) {
        // Neither of a pair joins without its allocation.
        let turned_away = self.turned_away.contains(&failure.room);
        let joins = self.joins_of(failure.room);
        match failure.reason {
            FailReason::LeftEarly => return,
            FailReason::Local => joins.ours += 1,
            _ if turned_away => (joins.failed, joins.refused) = (joins.failed + 1, joins.refused + 1),
            FailReason::Full => (joins.failed, joins.refused) = (joins.failed + 1, joins.refused + 1),
            FailReason::TimeoutRouting
            | FailReason::TimeoutSignaling
            | FailReason::TimeoutIce
            | FailReason::TimeoutDtls => {
                // Counts at its full time-out.
                joins.time("total", failure.after_ms);
                joins.failed += 1;
            }
            _ => joins.failed += 1,
        }
        joins.detail.get_or_insert_with(|| failure.detail.clone());
    }

    fn judge(&mut self, t: f64, interval: &Interval, healthy: bool, reasons: &[String]) {
        let from = t - interval.seconds * 1000.0;
        let count = |s: &mut Seconds| {
            s.seen += interval.seconds;
            s.unhealthy += if healthy { 0.0 } else { interval.seconds };
        };
        let (setting, names) = (&self.setting, &self.names);
        let Some(open) = self.open.as_mut().filter(|o| from >= o.plan.from_ms - EDGE_MS) else {
            return count(&mut self.moving);
        };
        if t > open.plan.until_ms + EDGE_MS {
            open.judged_ms = open.judged_ms.max(open.plan.until_ms);
            return count(&mut self.moving);
        }
        open.judged_ms = t;
        count(&mut open.seconds);
        if !healthy {
            // The same reason comes with other figures each second: the first is quoted.
            let kind = |r: &str| r.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect::<String>();
            for reason in reasons {
                if !open.reasons.iter().any(|r| kind(r) == kind(reason)) {
                    open.reasons.push(reason.clone());
                }
            }
            return;
        }
        for (name, loaded) in &mut open.servers {
            let mut flows = [Flow::default(), Flow::default()];
            let mut connected = 0;
            for s in &interval.servers {
                if name == ALL || names.get(&s.server) == Some(name) {
                    flows[0].merge(&s.audio);
                    flows[1].merge(&s.video);
                    connected += s.participants;
                }
            }
            let expected = open.plan.participants * together(setting, name);
            loaded.second(setting, expected, connected, &flows, interval.seconds);
            let of_server = |f: &&RelayFlow| setting.pairs && (name == ALL || f.turn == *name);
            let relays: Vec<&RelayFlow> = interval.relays.iter().filter(of_server).collect();
            relays.iter().for_each(|f| loaded.relayed += f.carried());
            if !relays.is_empty() {
                let there = relays.iter().map(|f| f.allocations).sum();
                loaded.allocations = Some(loaded.allocations.map_or(there, |n| n.min(there)));
            }
        }
    }

    /// The open trial is over, whatever is missing of it.
    pub fn close(&mut self) {
        if let Some((t, unwatched)) = self.second.take() {
            self.judge(t, &unwatched, false, &["health was not recorded".to_owned()]);
        }
        let Some(open) = self.open.take() else { return };
        let row = row(&self.setting, &open);
        self.trials.push(row);
    }
}

impl Loaded {
    fn second(&mut self, setting: &Setting, participants: u32, connected: u32, flows: &[Flow; 2], seconds: f64) {
        let objectives = &setting.objectives;
        self.broken.resize(objectives.len(), 0.0);
        self.heard.resize(objectives.len(), false);
        let missing = participants.saturating_sub(connected);
        let mut bad = false;
        for (i, o) in objectives.iter().enumerate() {
            let Some(value) = media(&o.metric, flows) else { continue };
            self.heard[i] = true;
            if Scope::of(&o.metric) == Scope::Second && !o.op.holds(value, o.value.number()) {
                bad = true;
                self.broken[i] += f64::from(connected.min(participants)) * seconds;
            }
        }
        let there = f64::from(participants - missing);
        self.judged += seconds;
        self.expected += f64::from(participants) * seconds;
        self.missing += f64::from(missing) * seconds;
        self.bad += (f64::from(missing) + if bad { there } else { 0.0 }) * seconds;
        self.fewest = Some(self.fewest.map_or(connected, |f| f.min(connected)));
        for (i, flow) in flows.iter().enumerate() {
            self.pace[i].extend(flow.delay.quantile_ms(0.5));
            self.flows[i].merge(flow);
        }
    }
}

/// Seconds of a trial without which no drift is told from noise.
const DRIFT_SECONDS: usize = 6;

/// From and to, where a trial's delay rose all through it: a queue that grows, a load that no time would settle.
fn drift(pace: &[f64]) -> Option<(f64, f64)> {
    if pace.len() < DRIFT_SECONDS {
        return None;
    }
    let median = |part: &[f64]| {
        let mut v = part.to_vec();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let third = pace.len() / 3;
    let (a, b, c) = (median(&pace[..third]), median(&pace[third..2 * third]), median(&pace[2 * third..]));
    (a < b && b < c && c > 1.1 * a + 10.0).then_some((a, c))
}

fn row(setting: &Setting, open: &Open) -> TrialRow {
    let Open { plan, joins, moving, .. } = open;
    let limit = setting.health.inconclusive_share_max;
    // One second is never enough to spoil a trial: ticks are no finer.
    let spoilt = |s: &Seconds, whole: f64| s.unhealthy > 1.5 && s.unhealthy > limit * whole;
    let planned = (plan.until_ms - plan.from_ms) / 1000.0;
    let mut why = None;
    if spoilt(&open.seconds, planned) {
        let reasons = open.reasons.join(", ");
        why =
            Some(format!("the generator was unhealthy in {:.0} of {planned:.0} s: {reasons}", open.seconds.unhealthy));
    } else if planned - open.seconds.seen > 1.5 {
        why = Some(format!("{:.0} of {planned:.0} s were not recorded", planned - open.seconds.seen));
    }
    let nobody = Joins::default();
    let (mut broken, mut servers) = (Vec::new(), Vec::new());
    let (mut silent, mut deserted, mut whole_broken) = (Vec::new(), Vec::new(), false);
    let (mut refused_only, mut fewest) = (true, u32::MAX);
    for (name, s) in &open.servers {
        let joins = joins.get(name).unwrap_or(&nobody);
        let share = |ps: f64| if s.expected > 0.0 { ps / s.expected * 100.0 } else { 0.0 };
        let mut held = share(s.bad) <= setting.goal.loss_ratio * 100.0;
        for (i, o) in setting.objectives.iter().enumerate() {
            let scope = Scope::of(&o.metric);
            let value = match scope {
                Scope::Second | Scope::Media => media(&o.metric, &s.flows),
                Scope::Joins => joins.metric(&o.metric),
                Scope::Legs => Some(f64::from(s.dropped)),
            };
            let whole_breaks = scope != Scope::Second && value.is_some_and(|v| !o.op.holds(v, o.value.number()));
            let seconds = s.broken.get(i).copied().unwrap_or(0.0);
            if whole_breaks || seconds > 0.0 {
                let share = if whole_breaks { 100.0 } else { share(seconds) };
                let (expr, metric, server) = (o.expr.clone(), o.metric.clone(), name.clone());
                broken.push(Broken { expr, metric, server, value, share });
            }
            let joins_only = o.metric.starts_with("joins.failed") && joins.failed == joins.refused;
            refused_only &= joins_only || !(whole_breaks || share(seconds) > setting.goal.loss_ratio * 100.0);
            whole_broken |= whole_breaks;
            held &= !whole_breaks;
            if value.is_none() && (scope != Scope::Joins || joins.joined + joins.failed > 0) {
                silent.push(o.expr.clone());
            }
            if scope == Scope::Joins && whole_breaks && spoilt(moving, moving.seen) {
                why.get_or_insert_with(|| "the generator was unhealthy while participants joined".into());
            }
        }
        for kind in Kind::BOTH {
            let Some((from, to)) = drift(&s.pace[kind.index()]) else { continue };
            let (from, to) = (crate::verdict::number(from), crate::verdict::number(to));
            let expr = format!("no steady state: {kind} delay p50 rose from {from} to {to} ms within the trial");
            let (metric, server) = (UNSTEADY.to_owned(), name.clone());
            broken.push(Broken { expr, metric, server, value: None, share: 100.0 });
            (whole_broken, held, refused_only) = (true, false, false);
        }
        if s.missing > 0.0 {
            let value = Some(share(s.missing));
            let expr = match &joins.detail {
                Some(detail) => format!("participants that were not there ({detail})"),
                None => "participants that were not there".into(),
            };
            broken.push(Broken { expr, metric: "joins".into(), server: name.clone(), value, share: share(s.missing) });
        }
        refused_only &= joins.refused == joins.failed;
        if joins.ours > 0 && s.missing > 0.0 {
            why.get_or_insert_with(|| format!("{} joins failed on our side", joins.ours));
        }
        // A dead server's transports count as connected until consent runs out (RFC 7675: 30 s); media tells at once.
        let silence = s.flows.iter().all(|f| f.count.received == 0) && setting.streams(plan.rooms) != [0, 0];
        if s.judged > 0.0 && (s.missing >= s.expected || silence) {
            deserted.push(name.clone());
        }
        let wide = together(setting, name);
        fewest = fewest.min(s.fewest.unwrap_or(0) / wide);
        servers.push(server_row(name, s, joins, held, share(s.bad), wide));
    }
    broken.sort_by(|a, b| b.share.total_cmp(&a.share));
    // Where something broke, it is no riddle that others found nothing to measure.
    if servers.iter().any(|s: &ServerTrial| !s.held) {
        silent.clear();
    }
    let loss = servers.iter().map(|s| s.loss).fold(0.0, f64::max);
    let outcome = match (&why, servers.iter().all(|s| s.held)) {
        (Some(_), _) => Outcome::Invalid,
        (None, true) => Outcome::Held,
        (None, false) => Outcome::Broke,
    };
    let refused = joins.values().any(|j| j.refused > 0);
    let admission = outcome == Outcome::Broke && refused && refused_only;
    TrialRow {
        number: plan.number,
        rooms: plan.rooms,
        participants: plan.participants,
        from_ms: plan.from_ms,
        until_ms: plan.until_ms,
        outcome,
        loss: (loss * 1e4).round() / 1e4,
        broken,
        why,
        admission,
        hint: admission.then(|| setting.loads.at_most(fewest)),
        servers,
        silent,
        deserted,
        whole_broken,
    }
}

/// How many servers a name stands for.
fn together(setting: &Setting, name: &str) -> u32 {
    setting.together(Some(name).filter(|n| *n != ALL))
}

fn server_row(name: &str, s: &Loaded, joins: &Joins, held: bool, loss: f64, wide: u32) -> ServerTrial {
    let kind = |k: &str| {
        let of = |path: &str| media(&format!("{k}.{path}"), &s.flows);
        KindTrial {
            loss: of("loss"),
            delay_p50: of("delay.p50"),
            delay_p99: of("delay.p99"),
            jitter_p95: of("jitter.p95"),
            freezes: of("freezes"),
        }
    };
    let rate = |n: i64| if s.judged > 0.0 { (n as f64 / s.judged / f64::from(wide)).round() } else { 0.0 };
    ServerTrial {
        server: name.to_owned(),
        participants: s.fewest.unwrap_or(0) / wide,
        held,
        loss: (loss * 1e4).round() / 1e4,
        audio: kind("audio"),
        video: kind("video"),
        setup_p95: joins.metric("setup.total.p95"),
        joined: joins.joined,
        joins_failed: joins.failed,
        egress_pps: rate(s.flows[0].count.received + s.flows[1].count.received),
        egress_bps: rate(8 * (s.flows[0].count.received_bytes + s.flows[1].count.received_bytes)),
        cost: Cost::of(&s.usage),
        relay: s.allocations.map(|n| RelayTrial {
            allocations: n / wide,
            pps: rate(s.relayed.packets as i64),
            bps: rate(8 * s.relayed.bytes as i64),
        }),
    }
}

impl Cost {
    fn of(usage: &[Usage]) -> Option<Cost> {
        if usage.is_empty() {
            return None;
        }
        let all = |pick: &dyn Fn(&Usage) -> Option<f64>| -> Vec<f64> {
            let mut v: Vec<f64> = usage.iter().filter_map(pick).collect();
            v.sort_by(f64::total_cmp);
            v
        };
        let tidy = |v: f64| (v * 1e4).round() / 1e4;
        let mean = |v: Vec<f64>| (!v.is_empty()).then(|| tidy(v.iter().sum::<f64>() / v.len() as f64));
        let p95 = |v: Vec<f64>| v.get(((v.len() as f64 * 0.95).ceil() as usize).saturating_sub(1)).copied().map(tidy);
        let cpu = |u: &Usage| Some(u.cpu_cores? / u.cores.filter(|c| *c > 0.0)? * 100.0);
        let percent = |pick: fn(&Usage) -> Option<f64>| mean(all(&|u| pick(u).map(|v| v * 100.0)));
        Some(Cost {
            cpu: mean(all(&cpu)),
            cpu_p95: p95(all(&cpu)),
            cpu_cores: mean(all(&|u| u.cpu_cores)),
            busiest_thread: percent(|u| u.busiest_thread),
            memory_bytes: all(&|u| u.memory_bytes.map(|b| b as f64)).last().copied(),
            cpu_pressure: percent(|u| u.cpu_pressure),
            run_queue: mean(all(&|u| u.run_queue)),
            steal: percent(|u| u.steal),
            throttled: percent(|u| u.throttled),
            egress_pps: mean(all(&|u| u.egress_pps)),
            egress_bps: mean(all(&|u| u.egress_bps)),
            cascade_pps: mean(all(&|u| u.cascade_pps)),
            cascade_bps: mean(all(&|u| u.cascade_bps)),
        })
    }
}
