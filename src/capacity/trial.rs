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
/// Metric of a server that fell silent.
pub(super) const SILENCE: &str = "silence";
/// A server of which nothing came for so many seconds, at the end of a trial, is gone.
const GONE_SECONDS: f64 = 3.0;

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
    /// Objectives on media that found nothing to measure, in no trial so far.
    #[serde(skip)]
    pub silent: Vec<String>,
    /// Servers that served nobody, or nobody any more.
    #[serde(skip)]
    pub deserted: Vec<String>,
    #[serde(skip)]
    pub(super) hint: Option<u32>,
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
    /// Seconds at the end in which nothing came of what flows all the time.
    silence: f64,
    pub fewest: Option<u32>,
    /// Median delay of each second, by kind, ms.
    pub delays: [Vec<f64>; 2],
    pub usage: Vec<Usage>,
    pub dropped: u32,
    pub allocations: Option<u32>,
    pub relayed: Carried,
}

impl Loaded {
    /// One second in which `participants` were to be there, with `rooms` on each server. `before`: objectives that had data in
    /// earlier trials.
    pub fn second(
        &mut self,
        setting: &Setting,
        (rooms, participants): (u32, u32),
        before: Option<&Vec<bool>>,
        connected: u32,
        flows: &[Flow; 2],
        seconds: f64,
    ) {
        let objectives = &setting.objectives;
        self.broken.resize(objectives.len(), 0.0);
        self.heard.resize(objectives.len(), false);
        let missing = participants.saturating_sub(connected);
        let there = f64::from(participants - missing);
        let mut bad = false;
        for (i, o) in objectives.iter().enumerate() {
            let kind = Kind::BOTH.into_iter().find(|k| o.metric.starts_with(k.as_str()));
            let mute = kind.is_some_and(|k| setting.flows(k, rooms) && nothing_came(&flows[k.index()]));
            let value = media(&o.metric, flows);
            // Of what was there before, nothing is bad; of what never was, nothing is known.
            let known = self.heard[i] || before.is_some_and(|b| b.get(i) == Some(&true));
            self.heard[i] |= value.is_some();
            let breaks = match value {
                Some(v) => !o.op.holds(v, o.value.number()),
                None => mute && known,
            };
            if breaks && Scope::of(&o.metric) == Scope::Second {
                bad = true;
                self.broken[i] += there * seconds;
            }
        }
        self.listen(setting, rooms, flows, seconds);
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

    /// Whether anything came in a second; also in one after the trial, where it ended in silence.
    pub fn listen(&mut self, setting: &Setting, rooms: u32, flows: &[Flow; 2], seconds: f64) {
        // What pauses was sent in this second where senders have counted it.
        let sent = |k: Kind| setting.flows(k, rooms) || flows[k.index()].count.e2e_expected > 0;
        let silence = Kind::BOTH.into_iter().any(sent) && flows.iter().all(nothing_came);
        self.silence = if silence { self.silence + seconds } else { 0.0 };
    }

    /// It fell silent, not yet for so long that it is gone.
    pub fn is_in_doubt(&self) -> bool {
        self.silence > 0.0 && self.silence < GONE_SECONDS
    }

    fn is_gone(&self) -> bool {
        self.silence >= GONE_SECONDS
    }
}

fn nothing_came(flow: &Flow) -> bool {
    flow.count.received == 0
}

/// Seconds of a trial without which no drift is told from noise.
const DRIFT_SECONDS: usize = 6;
/// Standard deviations by which pairs of seconds have to rise rather than fall (Mann-Kendall): seconds that err each by itself
/// do that once in a hundred trials.
const DRIFT_Z: f64 = 2.33;

/// From and to, where a trial's delay rose all through it: a queue that grows, a load that no time would settle.
fn drift(delays: &[f64]) -> Option<(f64, f64)> {
    if delays.len() < DRIFT_SECONDS {
        return None;
    }
    let n = delays.len() as f64;
    let pairs = delays.iter().enumerate().flat_map(|(i, a)| delays[i + 1..].iter().map(move |b| b.total_cmp(a) as i32));
    let (rise, deviation) = (f64::from(pairs.sum::<i32>()), (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt());
    if rise - 1.0 < DRIFT_Z * deviation {
        return None;
    }
    let median = |part: &[f64]| {
        let mut v = part.to_vec();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let third = delays.len() / 3;
    let (a, c) = (median(&delays[..third]), median(&delays[2 * third..]));
    (c > 1.1 * a + 10.0).then_some((a, c))
}

/// `heard`: the objectives that had data before, on each server.
pub(super) fn row(setting: &Setting, open: &Open, heard: &BTreeMap<String, Vec<bool>>) -> TrialRow {
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
    } else if open.servers.values().any(|s| s.judged <= 0.0) {
        why = Some("no second of it could be judged".into());
    }
    let nobody = Joins::default();
    let (mut broken, mut servers) = (Vec::new(), Vec::new());
    let (mut silent, mut deserted) = (Vec::new(), Vec::new());
    let (mut all_refused_only, mut fewest) = (true, u32::MAX);
    let mut pace = Pace::default();
    for (name, s) in &open.servers {
        let mut refused_only = true;
        let joins = joins.get(name).unwrap_or(&nobody);
        let share = |ps: f64| if s.expected > 0.0 { ps / s.expected * 100.0 } else { 0.0 };
        let before = |i: usize| heard.get(name).is_some_and(|h| h.get(i) == Some(&true));
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
            held &= !whole_breaks;
            if value.is_none() && scope != Scope::Joins && setting.is_sent(&o.metric, plan.rooms) {
                let came = Kind::BOTH
                    .into_iter()
                    .any(|k| o.metric.starts_with(k.as_str()) && !nothing_came(&s.flows[k.index()]));
                if !before(i) {
                    silent.push(o.expr.clone());
                } else if came && why.is_none() {
                    // It had data, and has none now, though media came.
                    why = Some(format!("no data for {}", o.expr));
                }
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
            (held, refused_only) = (false, false);
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
        pace.merge(&joins.pace);
        if joins.ours > 0 && s.missing > 0.0 {
            why.get_or_insert_with(|| format!("{} joins failed on our side", joins.ours));
        }
        // A dead server's transports count as connected until consent runs out (RFC 7675: 30 s); media tells at once.
        let silence = s.flows.iter().all(nothing_came) && setting.streams(plan.rooms) != [0, 0];
        if s.judged > 0.0 && (s.missing >= s.expected || silence || s.is_gone()) {
            deserted.push(name.clone());
            let expr = format!("nothing came of it in the last {:.0} s", s.silence.max(s.judged.min(GONE_SECONDS)));
            let (metric, server) = (SILENCE.to_owned(), name.clone());
            broken.push(Broken { expr, metric, server, value: None, share: 100.0 });
            (held, refused_only) = (false, false);
        }
        all_refused_only &= refused_only;
        let wide = together(setting, name);
        fewest = fewest.min(s.fewest.unwrap_or(0) / wide);
        let admission = !held && joins.refused > 0 && refused_only;
        servers.push(ServerTrial { admission, measured, ..server_row(name, s, joins, held, share(s.bad), wide) });
    }
    broken.sort_by(|a, b| b.share.total_cmp(&a.share));
    // That a queue grew tells less than what it broke.
    let ratio = setting.goal.loss_ratio * 100.0;
    broken.sort_by_key(|b| if b.metric == UNSTEADY { 1 } else { 2 * u8::from(b.share <= ratio) });
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
        // Of time, not of rows: one of a server that answers late is longer than a second.
        let mean = |pick: &dyn Fn(&Usage) -> Option<f64>| {
            let (mut sum, mut seconds) = (0.0, 0.0);
            for u in usage {
                if let Some(v) = pick(u) {
                    sum += v * u.seconds;
                    seconds += u.seconds;
                }
            }
            (seconds > 0.0).then(|| tidy(sum / seconds))
        };
        let p95 = |v: Vec<f64>| v.get(((v.len() as f64 * 0.95).ceil() as usize).saturating_sub(1)).copied().map(tidy);
        let cpu = |u: &Usage| Some(u.cpu_cores? / u.cores.filter(|c| *c > 0.0)? * 100.0);
        let percent = |pick: fn(&Usage) -> Option<f64>| mean(&|u| pick(u).map(|v| v * 100.0));
        Some(Cost {
            cpu: mean(&cpu),
            cpu_p95: p95(all(&cpu)),
            cpu_cores: mean(&|u| u.cpu_cores),
            busiest_thread: percent(|u| u.busiest_thread),
            memory_bytes: all(&|u| u.memory_bytes.map(|b| b as f64)).last().copied(),
            cpu_pressure: percent(|u| u.cpu_pressure),
            run_queue: mean(&|u| u.run_queue),
            steal: percent(|u| u.steal),
            throttled: percent(|u| u.throttled),
            egress_pps: mean(&|u| u.egress_pps),
            egress_bps: mean(&|u| u.egress_bps),
            cascade_pps: mean(&|u| u.cascade_pps),
            cascade_bps: mean(&|u| u.cascade_bps),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha12Rng;

    /// The long row of a slow look, and a short one after it.
    #[test]
    fn costs_are_means_of_time_and_not_of_rows() {
        let row = |seconds: f64, cpu: f64| Usage {
            seconds,
            cpu_cores: Some(cpu),
            cores: Some(2.0),
            egress_pps: (seconds > 1.0).then_some(7.0),
            ..Usage::default()
        };
        let cost = Cost::of(&[row(3.5, 0.4), row(0.5, 1.2)]).unwrap();
        assert_eq!((cost.cpu_cores, cost.cpu, cost.egress_pps), (Some(0.5), Some(25.0), Some(7.0)));
        assert_eq!((cost.cpu_p95, cost.memory_bytes), (Some(60.0), None));
    }

    /// Delay of each second of a trial, of which each errs by up to `noise` ms.
    fn trial(rng: &mut ChaCha12Rng, seconds: u32, per_second: f64, noise: f64) -> Vec<f64> {
        (0..seconds).map(|s| 60.0 + per_second * f64::from(s) + rng.random_range(-noise..noise)).collect()
    }

    #[test]
    fn a_queue_that_grows_is_told_from_noise() {
        let mut rng = ChaCha12Rng::seed_from_u64(11);
        for seconds in [6, 8, 10, 30] {
            let mut found = |per_second: f64| {
                (0..4000).filter(|_| drift(&trial(&mut rng, seconds, per_second, 50.0)).is_some()).count() as f64
                    / 4000.0
            };
            let (noise, growth) = (found(0.0), found(600.0 / f64::from(seconds)));
            eprintln!("{seconds} s: noise {noise}, growth {growth}");
            assert!(noise <= 0.01, "{seconds} s: {noise}");
            // The shortest has to rise in all of its pairs.
            assert!(growth >= if seconds > 6 { 0.95 } else { 0.8 }, "{seconds} s: {growth}");
        }
        assert_eq!(drift(&[1.0, 100.0, 200.0, 300.0, 400.0]), None, "too short to tell");
        // Rises, but by nothing that matters.
        assert_eq!(drift(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), None);
        assert_eq!(drift(&[10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0]), Some((20.0, 70.0)));
    }
}
