//! The answer of a search: the bounds, what broke first, what the server cost there, and what to scale on.

use super::record::Record;
use super::search::{Bounds, Stop, bounds};
use super::setting::Setting;
use super::trial::{Broken, Outcome, SILENCE, ServerTrial, TrialRow, UNSTEADY};
use crate::profile::Headroom;
use crate::types::Kind;
use crate::verdict::{Verdict, Window, number};
use serde::Serialize;

/// CPU at which autoscalers are commonly told to scale out, percent.
pub const CPU_TRIGGER: f64 = 70.0;
/// What broke first, where the server refused by its own limit.
const ADMISSION: &str = "admission limit";
/// Delay that is this much above that of the lowest loads has left its plateau (factor, and ms).
const KNEE_FACTOR: f64 = 2.0;
const KNEE_MS: f64 = 5.0;

/// `capacity` in `summary.json`. Participants and rooms are those of one server.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Answer {
    /// The lower bound: the highest load that held below every load that did not. Null: none was proven of one server.
    pub participants_per_server: Option<u32>,
    /// The load was on a target of unknown servers as one: loads and bounds are the whole target's, none is one server's, and
    /// there is no threshold.
    pub whole_target: bool,
    pub lower: Option<u32>,
    pub upper: Option<u32>,
    pub lower_rooms: Option<u32>,
    pub upper_rooms: Option<u32>,
    pub stop: Stop,
    /// False where the bounds are no closer than the search got; then no threshold is given.
    pub bounded: bool,
    /// Objective that broke first, as written; `admission limit` where the server refused by its own limit.
    pub broke_first: Option<String>,
    /// CPU of the server at the lower bound and where the objective broke, percent of the cores it may use.
    pub cpu_at_capacity: Option<f64>,
    pub cpu_at_breakage: Option<f64>,
    /// Participants at which delay p99 had left its plateau.
    pub knee: Option<Knee>,
    /// Joins a second that were asked for, all servers together, and that were really made to reach the lower bound
    /// (else the last load with joins): the lowest of its trials. And the set-up time p95 there, ms, on the worst server.
    pub join_rate_wanted: f64,
    pub join_rate: Option<f64>,
    pub setup_p95: Option<f64>,
    /// What a CPU trigger would have done.
    pub cpu_trigger: Option<CpuTrigger>,
    /// At the lower bound: streams that a server sends to participants, by the plan, and RTP that they received from it a
    /// second, on the server where that is most.
    pub streams: Option<u64>,
    pub egress_pps: Option<f64>,
    pub egress_bps: Option<f64>,
    /// Of a TURN server at the lower bound: allocations, and what it relayed a second, both ways.
    pub allocations: Option<u32>,
    pub relayed_pps: Option<f64>,
    pub relayed_bps: Option<f64>,
    /// Each server by itself, from the same trials.
    pub servers: Vec<ServerBounds>,
    /// Those that broke where others held: they decide. Empty where servers are equal.
    pub weakest: Vec<String>,
    pub trials: Vec<TrialRow>,
    pub threshold: Option<Threshold>,
    /// A higher load held although a lower one did not.
    pub inverted: bool,
    /// Objectives on joins that never had data.
    #[serde(skip)]
    unheard: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Knee {
    pub metric: String,
    pub participants: u32,
    /// Highest load whose delay was still on the plateau.
    pub below: u32,
    pub plateau: f64,
    pub delay: f64,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct CpuTrigger {
    /// Percent.
    pub at: f64,
    /// Participants at which CPU reaches it, by the line between the loads around it; null: never, up to `highest`.
    pub participants: Option<f64>,
    /// How many participants later than the threshold (or the lower bound) that is; negative: earlier.
    pub late_by: Option<f64>,
    /// The highest load that was judged, and whether something broke on the way.
    pub highest: u32,
    pub broke: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServerBounds {
    pub server: String,
    pub lower: Option<u32>,
    pub upper: Option<u32>,
    /// The highest load below its own upper bound that it held in any trial, a short one too: where a weaker server ended
    /// the search, more was not proven of it.
    pub held: Option<u32>,
    /// As in the answer, at this server's own upper bound.
    pub broke_first: Option<String>,
}

/// Participants on one server at which to scale out.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Threshold {
    pub participants: u32,
    pub capacity: u32,
    /// Share of the servers that may be lost, and what the fleet grows while a server boots, on this server.
    pub lost: u32,
    pub growth: u32,
    /// Of `[answer]`; null and 0 without it.
    pub servers: Option<u32>,
    pub survive: u32,
    #[serde(skip)]
    pub answer: Option<Headroom>,
}

/// A HorizontalPodAutoscaler, with which KEDA scales too, acts when the average is this much above its target.
pub const HPA_TOLERANCE: f64 = 0.1;

/// The target of a HorizontalPodAutoscaler that is to scale out at so many.
pub fn hpa_target(at: f64) -> f64 {
    (at / (1.0 + HPA_TOLERANCE)).floor().max(1.0)
}

impl Threshold {
    /// `None` where nothing is left.
    fn of(capacity: u32, headroom: Option<Headroom>) -> Option<Threshold> {
        let none = Headroom { servers: 1, survive: 0, growth: 0.0, boot: std::time::Duration::ZERO };
        let h = headroom.unwrap_or(none);
        // The others take what S lost servers of N carried: each may be filled to C·(N − S)/N.
        let lost = (f64::from(capacity) * f64::from(h.survive) / f64::from(h.servers)).ceil() as u32;
        let growth = (h.growth * h.boot.as_secs_f64() / f64::from(h.servers)).ceil() as u32;
        let participants = capacity.checked_sub(lost)?.checked_sub(growth).filter(|p| *p > 0)?;
        let servers = headroom.map(|h| h.servers);
        Some(Threshold { participants, capacity, lost, growth, servers, survive: h.survive, answer: headroom })
    }
}

impl Answer {
    /// From the whole record of a history.
    pub fn of(record: &Record) -> Answer {
        let setting = record.setting();
        let stop = match record.why.as_deref().and_then(Stop::parse) {
            Some(stop) => stop,
            None => Stop::Interrupted,
        };
        let found: Bounds = bounds(&setting.goal, &record.searched());
        let participants = |rooms: Option<u32>| rooms.map(|r| setting.loads.participants(r));
        let (lower, upper) = (participants(found.lower), participants(found.upper));
        // A history that has lost lines no longer has the bounds that the search had.
        let narrow = |(lower, upper): (u32, u32)| setting.loads.narrow(lower, upper, setting.goal.width);
        let bounded = stop == Stop::Width && found.lower.zip(found.upper).is_some_and(narrow);
        let at = |rooms: Option<u32>, outcome: Outcome| {
            longest(record.trials.iter(), |t| Some(t.rooms) == rooms && t.outcome == outcome)
        };
        let held = at(found.lower, Outcome::Held);
        let broke = at(found.upper, Outcome::Broke);
        let cpu = |t: Option<&TrialRow>| t.and_then(|t| costly(t)?.cost?.cpu);
        let threshold =
            lower.filter(|_| bounded && !setting.whole_target).and_then(|c| Threshold::of(c, setting.search.answer));
        let worst = held.and_then(busiest);
        let (joined, servers) = (joined(record, found.lower), server_bounds(setting, record));
        let fewest = |pick: fn(&TrialRow) -> Option<f64>| joined.iter().filter_map(|t| pick(t)).reduce(f64::min);
        Answer {
            participants_per_server: lower.filter(|_| !setting.whole_target),
            whole_target: setting.whole_target,
            lower,
            upper,
            lower_rooms: found.lower,
            upper_rooms: found.upper,
            stop,
            bounded,
            broke_first: broke.and_then(|t| match t.admission {
                true => Some(ADMISSION.into()),
                false => t.broken.first().map(|b| b.expr.clone()),
            }),
            cpu_at_capacity: cpu(held),
            cpu_at_breakage: cpu(broke),
            knee: knee(record),
            join_rate_wanted: setting.search.join,
            join_rate: fewest(|t| t.join_rate),
            setup_p95: joined.iter().flat_map(|t| &t.servers).filter_map(|s| s.setup_p95).reduce(f64::max),
            cpu_trigger: cpu_trigger(record, threshold.map(|t| t.participants).or(lower)),
            streams: found.lower.map(|r| setting.streams(r).iter().sum()),
            egress_pps: worst.map(|s| s.egress_pps),
            egress_bps: worst.map(|s| s.egress_bps),
            allocations: worst.and_then(|s| s.relay).map(|r| r.allocations),
            relayed_pps: worst.and_then(|s| s.relay).map(|r| r.pps),
            relayed_bps: worst.and_then(|s| s.relay).map(|r| r.bps),
            weakest: weakest(&servers, upper),
            servers,
            trials: record.trials.clone(),
            threshold,
            inverted: found.inverted,
            unheard: record.unheard().0.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The judged window that the rest of a report describes: the load that held, else the last that was judged.
    pub fn window(&self) -> Option<Window> {
        let at = |t: &TrialRow| Window { from_ms: t.from_ms, until_ms: t.until_ms };
        let held = |t: &TrialRow| Some(t.rooms) == self.lower_rooms && t.outcome == Outcome::Held;
        longest(self.trials.iter().rev(), held).or(self.trials.last()).map(at)
    }

    /// An objective by its place in the profile, held against the trials of the load in that window: the worst of them.
    pub fn objective(&self, setting: &Setting, index: usize) -> Option<crate::verdict::Outcome> {
        let held = |t: &&TrialRow| Some(t.rooms) == self.lower_rooms && t.outcome == Outcome::Held;
        let mut rows: Vec<&TrialRow> = self.trials.iter().filter(held).collect();
        if rows.is_empty() {
            rows.extend(self.trials.last().filter(|t| t.outcome != Outcome::Invalid));
        }
        let servers = rows.iter().flat_map(|t| &t.servers);
        let values = servers.filter_map(|s| Some((s.server.as_str(), (*s.measured.get(index)?)?)));
        Some(crate::verdict::Outcome::of_values(setting.objectives.get(index)?, values))
    }

    /// Verdict, and the sentence that says it.
    pub fn verdict(&self, setting: &Setting) -> (Verdict, String) {
        match (self.stop, self.lower, self.upper) {
            (Stop::Width, Some(lower), Some(upper)) if self.bounded => (Verdict::Pass, self.found(lower, upper)),
            (Stop::Width, ..) => (
                Verdict::Unknown,
                format!("Of the bounds, the history no longer has: {}; not a threshold.", self.known()),
            ),
            (Stop::BelowRange, _, Some(upper)) if self.broke_first.as_deref() == Some(ADMISSION) => {
                (Verdict::Fail, format!("The server's own admission limit refused joins at the lowest load, {upper}."))
            }
            (Stop::BelowRange, _, Some(upper)) => {
                let what = self.broke().map_or_else(String::new, |t| format!(": {}", t.what()));
                let on =
                    if self.weakest.is_empty() { String::new() } else { format!(" on {}", self.weakest.join(", ")) };
                // What no objective forbids is no failure.
                let ratio = setting.goal.loss_ratio * 100.0;
                let only_unsteady = |t: &TrialRow| {
                    let mut over = t.broken.iter().filter(|b| b.share > ratio);
                    over.all(|b| b.metric == UNSTEADY)
                };
                if self.broke().is_some_and(only_unsteady) {
                    let text = format!("No steady state at the lowest load, {upper}{on}{what}; no load can be judged.");
                    return (Verdict::Unknown, text.replace(": no steady state: ", ": "));
                }
                (Verdict::Fail, format!("Objectives broken at the lowest load, {upper}{on}{what}."))
            }
            (Stop::AboveRange, Some(lower), _) => {
                let top = setting.loads.participants(setting.loads.max());
                (
                    Verdict::Unknown,
                    format!("At least {lower}: the highest load of the range, {top}, held; not a threshold."),
                )
            }
            (Stop::Generator, Some(lower), None) => {
                (Verdict::Unknown, format!("At least {lower}, generator-limited; not a threshold."))
            }
            (Stop::Generator, Some(_), Some(_)) => {
                (Verdict::Unknown, format!("Generator-limited between the bounds: {}; not a threshold.", self.known()))
            }
            (Stop::Generator, None, Some(_)) => {
                (Verdict::Unknown, format!("Generator-limited: {}; not a threshold.", self.known()))
            }
            (Stop::Generator, ..) => {
                let why = self.trials.last().and_then(|t| t.why.clone()).unwrap_or_default();
                (Verdict::Unknown, format!("Nothing proven, generator-limited: {why}."))
            }
            (Stop::NoData, ..) => {
                let silent = self.trials.last().map(|t| t.silent.clone()).filter(|s| !s.is_empty());
                let silent = silent.unwrap_or_else(|| self.unheard.clone()).join(", ");
                (Verdict::Unknown, format!("No data for {silent}: no load can be judged."))
            }
            (Stop::TargetGone, ..) => {
                let last = self.trials.last();
                let who = last.map(|t| t.deserted.join(", ")).unwrap_or_default();
                let load = last.map_or(0, |t| t.participants);
                let absent = |t: &TrialRow| {
                    let of = |metric: &str| t.broken.iter().find(|b| b.metric == metric);
                    of("joins").or(of(SILENCE)).map(|b| format!(": {}", b.expr))
                };
                let detail = last.and_then(absent).unwrap_or_default();
                let served =
                    |t: &TrialRow| t.servers.iter().any(|s| t.deserted.contains(&s.server) && s.egress_pps > 0.0);
                let any_more = if last.is_some_and(served) { " any more" } else { "" };
                let known = self.known();
                let text = format!("Nobody was served{any_more} by {who} at a load of {load}{detail}; {known}.");
                (Verdict::Fail, text)
            }
            (Stop::Budget, ..) => {
                let budget = crate::profile::units::print_duration(setting.search.budget);
                (Verdict::Unknown, format!("Not settled within {budget}: {}; not a threshold.", self.known()))
            }
            _ => (Verdict::Unknown, format!("Interrupted: {}; not a threshold.", self.known())),
        }
    }

    /// What loads are counted on.
    pub fn on(&self) -> &'static str {
        if self.whole_target { "on the whole target" } else { "per server" }
    }

    /// What is known so far.
    fn known(&self) -> String {
        let on = self.on();
        match (self.lower, self.upper) {
            (Some(lower), Some(upper)) => format!("more than {lower}, less than {upper} {on}"),
            (Some(lower), None) => format!("at least {lower} {on}"),
            (None, Some(upper)) => format!("less than {upper} {on}"),
            (None, None) => "no load was proven".into(),
        }
    }

    fn found(&self, lower: u32, upper: u32) -> String {
        let first = match self.broke_first.as_deref() {
            Some(ADMISSION) => "then the server's own admission limit refused joins".to_owned(),
            _ => self.breakage().map_or_else(|| "an objective broke".into(), |b| b.words() + " broke first"),
        };
        let cpu = self.cpu_at_breakage.map_or_else(String::new, |c| format!(", at {} % CPU", number(c)));
        let scale = match self.threshold {
            Some(t) if t.lost + t.growth == 0 => format!("scale out at {}", t.participants),
            Some(t) => {
                let lost = match t.survive {
                    0 => String::new(),
                    1 => format!(" − {} (one server lost)", t.lost),
                    n => format!(" − {} ({n} servers lost)", t.lost),
                };
                let growth = if t.growth > 0 {
                    format!(" − {} (growth while a server boots)", t.growth)
                } else {
                    String::new()
                };
                format!("scale out at {} = {}{lost}{growth}", t.participants, t.capacity)
            }
            None if self.whole_target => {
                "no threshold for one server: the target file does not name the director's servers".into()
            }
            None => "the headroom asked for leaves no load to scale out at".into(),
        };
        let relayed = match (self.allocations, self.relayed_pps) {
            (Some(n), Some(pps)) if pps >= 1.0 => format!(" ({n} allocations, {} packets/s relayed)", pps.round()),
            (Some(n), _) => format!(" ({n} allocations)"),
            (None, _) => String::new(),
        };
        format!("{lower}–{upper} {}{}{relayed}; {first}{cpu}; {scale}.", self.on(), self.limited_by())
    }

    /// Which servers are to blame, where others carry more.
    fn limited_by(&self) -> String {
        const NAMES: usize = 3;
        let others = self.servers.iter().filter(|s| !self.weakest.contains(&s.server));
        let Some(held) = others.filter_map(|s| s.held).min().filter(|_| !self.weakest.is_empty()) else {
            return String::new();
        };
        let mut who = self.weakest.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        if self.weakest.len() > NAMES {
            who += &format!(" and {} more", self.weakest.len() - NAMES);
        }
        let rest = self.servers.len() - self.weakest.len();
        let rest = if rest == 1 { "the other one".to_owned() } else { format!("the other {rest}") };
        format!(", by {who} ({rest} held {held})")
    }

    /// The trial that proved the upper bound.
    fn broke(&self) -> Option<&TrialRow> {
        longest(self.trials.iter(), |t| Some(t.rooms) == self.upper_rooms && t.outcome == Outcome::Broke)
    }

    fn breakage(&self) -> Option<&Broken> {
        self.broke()?.broken.first()
    }
}

impl Broken {
    /// `video delay p99`.
    pub fn words(&self) -> String {
        match self.metric.as_str() {
            "joins" => "joins".into(),
            UNSTEADY => "the steady state".into(),
            metric => crate::verdict::metric_words(metric),
        }
    }
}

impl TrialRow {
    /// What broke, for a sentence: `set-up p95 4100 ms (limit <= 2s)`.
    pub fn what(&self) -> String {
        let Some(b) = self.broken.first() else { return format!("{} % of it", number(self.loss)) };
        if ["joins", UNSTEADY, SILENCE].contains(&&*b.metric) {
            return b.expr.clone();
        }
        let value = b.value.map_or_else(String::new, |v| format!(" {}", crate::verdict::amount(&b.metric, v)));
        format!("{}{value} (limit {})", b.words(), b.expr.strip_prefix(&b.metric).unwrap_or(&b.expr).trim())
    }
}

fn busiest(t: &TrialRow) -> Option<&ServerTrial> {
    t.servers.iter().max_by(|a, b| a.egress_pps.total_cmp(&b.egress_pps))
}

/// The server of a trial that did worst, or used most of its CPU.
fn costly(t: &TrialRow) -> Option<&ServerTrial> {
    let cpu = |s: &ServerTrial| s.cost.and_then(|c| c.cpu).unwrap_or(-1.0);
    let by = |a: &&ServerTrial, b: &&ServerTrial| {
        (!a.held).cmp(&!b.held).then(a.loss.total_cmp(&b.loss)).then(cpu(a).total_cmp(&cpu(b)))
    };
    t.servers.iter().max_by(by)
}

fn server_bounds(setting: &Setting, record: &Record) -> Vec<ServerBounds> {
    let names: Vec<String> =
        record.trials.first().map(|t| t.servers.iter().map(|s| s.server.clone()).collect()).unwrap_or_default();
    let searched = record.searched();
    names
        .into_iter()
        .map(|server| {
            let own: Vec<_> = record
                .trials
                .iter()
                .zip(&searched)
                .filter_map(|(row, trial)| {
                    let s = row.servers.iter().find(|s| s.server == server)?;
                    // What only the whole trial has is in `held` alone.
                    Some(super::search::Trial { loss: s.loss / 100.0, broken: !s.held, hint: None, ..*trial })
                })
                .collect();
            let b = bounds(&setting.goal, &own);
            let participants = |rooms: Option<u32>| rooms.map(|r| setting.loads.participants(r));
            let broke_first = longest(record.trials.iter().filter(|t| Some(t.rooms) == b.upper), |t| {
                t.outcome == Outcome::Broke && t.servers.iter().any(|s| s.server == server && !s.held)
            })
            .and_then(|t| match t.servers.iter().any(|s| s.server == server && s.admission) {
                true => Some(ADMISSION.to_owned()),
                false => t.broken.iter().find(|b| b.server == server).map(|b| b.expr.clone()),
            });
            let held = own.iter().filter(|t| t.valid && !t.broken && b.upper.is_none_or(|u| t.rooms < u));
            let held = participants(held.map(|t| t.rooms).max());
            ServerBounds { server, lower: participants(b.lower), upper: participants(b.upper), held, broke_first }
        })
        .collect()
}

/// Servers that broke at the upper bound, where others held it.
fn weakest(servers: &[ServerBounds], upper: Option<u32>) -> Vec<String> {
    let Some(upper) = upper else { return Vec::new() };
    let broke: Vec<&ServerBounds> = servers.iter().filter(|s| s.upper.is_some_and(|u| u <= upper)).collect();
    match servers.iter().any(|s| s.held.is_some_and(|h| h >= upper)) {
        true => broke.into_iter().map(|s| s.server.clone()).collect(),
        false => Vec::new(),
    }
}

/// Judged trials with joins of their own, of a load, or of the last that has some.
fn joined(record: &Record, rooms: Option<u32>) -> Vec<&TrialRow> {
    let judged = || {
        let joins = |t: &&TrialRow| t.servers.iter().any(|s| s.joined + s.joins_failed > 0);
        record.trials.iter().filter(|t| t.outcome != Outcome::Invalid).filter(joins)
    };
    let rooms = rooms.filter(|r| judged().any(|t| t.rooms == *r)).or(judged().next_back().map(|t| t.rooms));
    judged().filter(|t| Some(t.rooms) == rooms).collect()
}

/// The longest trial of those that are meant.
fn longest<'a>(trials: impl Iterator<Item = &'a TrialRow>, meant: impl Fn(&TrialRow) -> bool) -> Option<&'a TrialRow> {
    trials.filter(|t| meant(t)).max_by(|a, b| (a.until_ms - a.from_ms).total_cmp(&(b.until_ms - b.from_ms)))
}

/// Loads in order, each with the worst of its valid trials by `pick`.
fn by_load(record: &Record, pick: impl Fn(&TrialRow) -> Option<f64>) -> Vec<(u32, f64)> {
    let mut points: Vec<(u32, f64)> = Vec::new();
    for t in record.trials.iter().filter(|t| t.outcome != Outcome::Invalid) {
        if let Some(v) = pick(t) {
            match points.iter_mut().find(|(p, _)| *p == t.participants) {
                Some(point) => point.1 = point.1.max(v),
                None => points.push((t.participants, v)),
            }
        }
    }
    points.sort_by_key(|(p, _)| *p);
    points
}

/// Where delay p99 left its plateau; the kind that left it first.
fn knee(record: &Record) -> Option<Knee> {
    let of = |s: &ServerTrial, kind: Kind| if kind == Kind::Audio { s.audio.delay_p99 } else { s.video.delay_p99 };
    let found = Kind::BOTH.into_iter().filter_map(|kind| {
        let metric = format!("{}.delay.p99", kind.as_str());
        let points = by_load(record, |t| t.servers.iter().filter_map(|s| of(s, kind)).reduce(f64::max));
        let (plateau, i) = left_plateau(&points)?;
        let below = points[i - 1].0;
        Some(Knee { metric, participants: points[i].0, below, plateau, delay: points[i].1 })
    });
    found.min_by_key(|k| k.participants)
}

/// The plateau, that is the better of the lowest two loads, and the first load from which on none is on it any more.
fn left_plateau(points: &[(u32, f64)]) -> Option<(f64, usize)> {
    let (first, plateau) = points.iter().map(|p| p.1).enumerate().take(2).min_by(|a, b| a.1.total_cmp(&b.1))?;
    let on = |d: f64| d <= plateau * KNEE_FACTOR || d <= plateau + KNEE_MS;
    let last = points.iter().rposition(|(_, d)| on(*d)).unwrap_or(first);
    (last + 1 < points.len()).then_some((plateau, last + 1))
}

fn cpu_trigger(record: &Record, wanted: Option<u32>) -> Option<CpuTrigger> {
    let points = by_load(record, |t| t.servers.iter().filter_map(|s| s.cost?.cpu).reduce(f64::max));
    if points.len() < 2 {
        return None;
    }
    let over = points.iter().position(|(_, cpu)| *cpu >= CPU_TRIGGER);
    let participants = over.map(|i| {
        let (p1, c1) = points[i];
        let (p0, c0) = i.checked_sub(1).map_or((0, 0.0), |i| points[i]);
        let part = if c1 > c0 { (CPU_TRIGGER - c0) / (c1 - c0) } else { 1.0 };
        (f64::from(p0) + part * f64::from(p1 - p0)).round()
    });
    let late_by = participants.zip(wanted).map(|(p, w)| p - f64::from(w));
    let highest = points.last().map_or(0, |(p, _)| *p);
    // Beyond what nobody observed, nothing is known of CPU.
    let observed = |t: &TrialRow| t.servers.iter().any(|s| s.cost.is_some_and(|c| c.cpu.is_some()));
    let broke = record.trials.iter().any(|t| t.outcome == Outcome::Broke && observed(t));
    Some(CpuTrigger { at: CPU_TRIGGER, participants, late_by, highest, broke })
}

impl CpuTrigger {
    /// For a person.
    pub fn words(&self) -> String {
        let at = number(self.at);
        match (self.participants, self.late_by) {
            (Some(p), Some(late)) if late > 0.0 => {
                format!(
                    "A {at} % CPU trigger would have fired at {} participants: {} too late.",
                    number(p),
                    number(late)
                )
            }
            (Some(p), Some(late)) if late < 0.0 => {
                format!(
                    "A {at} % CPU trigger would have fired at {} participants: {} too early.",
                    number(p),
                    number(-late)
                )
            }
            (Some(p), _) => format!("A {at} % CPU trigger would have fired at {} participants.", number(p)),
            (None, _) if self.broke => {
                format!("A {at} % CPU trigger would never have fired: CPU stayed below it beyond the breakage.")
            }
            (None, _) => {
                format!("A {at} % CPU trigger would not have fired up to {} participants.", self.highest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_plateau_is_left_for_good_or_not_at_all() {
        let knee = |delays: &[f64]| {
            let points: Vec<(u32, f64)> = delays.iter().enumerate().map(|(i, d)| (8 << i, *d)).collect();
            left_plateau(&points)
        };
        assert_eq!(knee(&[2.0, 2.5, 3.0, 40.0, 90.0]), Some((2.0, 3)));
        // A cold start, and a hiccup.
        assert_eq!(knee(&[60.0, 10.0, 11.0, 12.0]), None);
        assert_eq!(knee(&[60.0, 10.0, 11.0, 80.0]), Some((10.0, 3)));
        assert_eq!(knee(&[2.0, 50.0, 2.5, 3.0]), None);
        assert_eq!(knee(&[2.0, 50.0, 2.5, 30.0]), Some((2.0, 3)));
        // Twice of next to nothing is nothing.
        assert_eq!(knee(&[0.1, 0.3, 0.9]), None);
        assert_eq!((knee(&[1.0]), knee(&[])), (None, None));
    }

    #[test]
    fn the_threshold_leaves_room_for_a_lost_server_and_growth() {
        let h = Headroom { servers: 12, survive: 1, growth: 104.0 / 60.0, boot: Duration::from_secs(90) };
        let t = Threshold::of(200, Some(h)).unwrap();
        assert_eq!((t.participants, t.lost, t.growth), (170, 17, 13));
        // After the loss, 11 servers carry what 12 did.
        assert!((200 - t.lost) * 12 <= 200 * 11);
        let none = Threshold::of(200, None).unwrap();
        assert_eq!((none.participants, none.servers, t.servers), (200, None, Some(12)));
        let steep = Headroom { growth: 1000.0, ..h };
        assert_eq!(Threshold::of(200, Some(steep)), None);
    }
}
