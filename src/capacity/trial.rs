//! One trial: what was seen of it, and its judgement.

use super::objectives::{Joins, Pace, Scope, media};
use super::setting::Setting;
use crate::history::{Carried, Usage};
use crate::measure::Flow;
use crate::plan::PlannedTrial;
use crate::types::Kind;
use crate::verdict::number;
use serde::Serialize;
use std::collections::BTreeMap;

/// Name of all servers together, where rooms are not pinned.
pub(super) const ALL: &str = "all servers";
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
    /// Joins a second that led to this load, all servers together, as they really began, and how late after its planned
    /// start one of them began at most. Null: fewer than two joins, none.
    pub join_rate: Option<f64>,
    pub join_late_max: Option<f64>,
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
    /// The server refused joins by its own limit, and nothing else of it broke.
    pub admission: bool,
    pub setup_p95: Option<f64>,
    pub joined: u32,
    pub joins_failed: u32,
    /// As in the trial, of the joins of this server.
    pub join_rate: Option<f64>,
    pub join_late_max: Option<f64>,
    /// RTP that participants received from it, a second.
    pub egress_pps: f64,
    pub egress_bps: f64,
    pub cost: Option<Cost>,
    /// Where it is a TURN server.
    pub relay: Option<RelayTrial>,
    /// By objective, in their order: what was measured over the whole trial.
    #[serde(skip)]
    pub measured: Vec<Option<f64>>,
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

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Seconds {
    pub seen: f64,
    pub unhealthy: f64,
}

#[derive(Debug)]
pub(super) struct Open {
    pub plan: PlannedTrial,
    /// What happened since the trial before: the joins that led to this load, and our health meanwhile.
    pub joins: BTreeMap<String, Joins>,
    pub moving: Seconds,
    pub seconds: Seconds,
    pub reasons: Vec<String>,
    pub servers: BTreeMap<String, Loaded>,
    /// End of the last second that was judged.
    pub judged_ms: f64,
    /// The search ended before it did.
    pub cut_short: bool,
}

#[derive(Default, Debug)]
pub(super) struct Loaded {
    pub flows: [Flow; 2],
    pub judged: f64,
    pub expected: f64,
    pub bad: f64,
    pub missing: f64,
    /// Bad participant-seconds by objective, and whether it ever had data.
    pub broken: Vec<f64>,
    pub heard: Vec<bool>,
    pub fewest: Option<u32>,
    /// Median delay of each second, by kind, ms.
    pub delays: [Vec<f64>; 2],
    pub usage: Vec<Usage>,
    pub dropped: u32,
    pub allocations: Option<u32>,
    pub relayed: Carried,
}

impl Loaded {
    pub fn second(&mut self, setting: &Setting, participants: u32, connected: u32, flows: &[Flow; 2], seconds: f64) {
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
            self.delays[i].extend(flow.delay.quantile_ms(0.5));
            self.flows[i].merge(flow);
        }
    }
}

/// Seconds of a trial without which no drift is told from noise.
const DRIFT_SECONDS: usize = 6;

/// From and to, where a trial's delay rose all through it: a queue that grows, a load that no time would settle.
fn drift(delays: &[f64]) -> Option<(f64, f64)> {
    if delays.len() < DRIFT_SECONDS {
        return None;
    }
    let median = |part: &[f64]| {
        let mut v = part.to_vec();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let third = delays.len() / 3;
    let (a, b, c) = (median(&delays[..third]), median(&delays[third..2 * third]), median(&delays[2 * third..]));
    (a < b && b < c && c > 1.1 * a + 10.0).then_some((a, c))
}

pub(super) fn row(setting: &Setting, open: &Open) -> TrialRow {
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
    } else if open.cut_short {
        why = Some(format!("cut short: {:.0} of {planned:.0} s were recorded", open.seconds.seen));
    } else if planned - open.seconds.seen > 1.5 {
        why = Some(format!("{:.0} of {planned:.0} s were not recorded", planned - open.seconds.seen));
    }
    let nobody = Joins::default();
    let (mut broken, mut servers) = (Vec::new(), Vec::new());
    let (mut silent, mut deserted, mut whole_broken) = (Vec::new(), Vec::new(), false);
    let (mut all_refused_only, mut fewest) = (true, u32::MAX);
    let mut pace = Pace::default();
    for (name, s) in &open.servers {
        let mut refused_only = true;
        let joins = joins.get(name).unwrap_or(&nobody);
        let share = |ps: f64| if s.expected > 0.0 { ps / s.expected * 100.0 } else { 0.0 };
        let mut held = share(s.bad) <= setting.goal.loss_ratio * 100.0;
        let mut measured = Vec::new();
        for (i, o) in setting.objectives.iter().enumerate() {
            let scope = Scope::of(&o.metric);
            let value = match scope {
                Scope::Second | Scope::Media => media(&o.metric, &s.flows),
                Scope::Joins => joins.metric(&o.metric),
                Scope::Legs => Some(f64::from(s.dropped)),
            };
            measured.push(value);
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
            if scope == Scope::Joins && whole_breaks {
                let at_best = joins.at_best(&o.metric).is_some_and(|v| o.op.holds(v, o.value.number()));
                if spoilt(moving, moving.seen) {
                    why.get_or_insert_with(|| "the generator was unhealthy while participants joined".into());
                } else if at_best {
                    let late = number(joins.pace.late_max.ceil());
                    why.get_or_insert_with(|| {
                        format!("the generator began joins up to {late} ms late, without which {} may hold", o.expr)
                    });
                }
            }
        }
        for kind in Kind::BOTH {
            let Some((from, to)) = drift(&s.delays[kind.index()]) else { continue };
            let (from, to) = (number(from), number(to));
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
        all_refused_only &= refused_only;
        pace.merge(&joins.pace);
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
        let admission = !held && joins.refused > 0 && refused_only;
        servers.push(ServerTrial { admission, measured, ..server_row(name, s, joins, held, share(s.bad), wide) });
    }
    broken.sort_by(|a, b| b.share.total_cmp(&a.share));
    // Where something broke, it is no riddle that others found nothing to measure.
    if servers.iter().any(|s: &ServerTrial| !s.held) {
        silent.clear();
    }
    // What holds at fewer joins a second than were asked for says nothing of as many.
    if setting.judges_joins() && pace.is_behind() && servers.iter().all(|s: &ServerTrial| s.held) {
        let (reached, wanted) = (number(pace.rate().unwrap_or(0.0)), number(setting.search.join));
        why.get_or_insert_with(|| format!("the generator fell behind: {reached} joins/s, {wanted} joins/s wanted"));
    }
    let loss = servers.iter().map(|s| s.loss).fold(0.0, f64::max);
    let outcome = match (&why, servers.iter().all(|s| s.held)) {
        (Some(_), _) => Outcome::Invalid,
        (None, true) => Outcome::Held,
        (None, false) => Outcome::Broke,
    };
    let refused = joins.values().any(|j| j.refused > 0);
    let admission = outcome == Outcome::Broke && refused && all_refused_only;
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
        join_rate: pace.rate().map(tidy),
        join_late_max: pace.late().map(tidy),
        hint: admission.then(|| setting.loads.at_most(fewest)),
        servers,
        silent,
        deserted,
        whole_broken,
    }
}

fn tidy(v: f64) -> f64 {
    (v * 100.0).round() / 100.0
}

/// How many servers a name stands for.
pub(super) fn together(setting: &Setting, name: &str) -> u32 {
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
        admission: false,
        loss: (loss * 1e4).round() / 1e4,
        audio: kind("audio"),
        video: kind("video"),
        setup_p95: joins.metric("setup.total.p95"),
        joined: joins.joined,
        joins_failed: joins.failed,
        join_rate: joins.pace.rate().map(tidy),
        join_late_max: joins.pace.late().map(tidy),
        egress_pps: rate(s.flows[0].count.received + s.flows[1].count.received),
        egress_bps: rate(8 * (s.flows[0].count.received_bytes + s.flows[1].count.received_bytes)),
        cost: Cost::of(&s.usage),
        relay: s.allocations.map(|n| RelayTrial {
            allocations: n / wide,
            pps: rate(s.relayed.packets as i64),
            bps: rate(8 * s.relayed.bytes as i64),
        }),
        measured: Vec::new(),
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
