//! The verdict itself, and the one line that says it: the number, the place, the time and the margin.

use super::direction::direction;
use super::gather::{Counts, Failed, Gathered, Leg};
use super::generator::{Diagnosis, Generator};
use super::judgement::{Hold, reason_key};
use super::legs::LegClass;
use super::thresholds::Outcome;
use super::windows::Window;
use super::words::{against, count, metric_words, number};
use super::{Subject, Verdict, clock};
use crate::history::{LegCause, RunInfo};
use crate::profile::{Op, Threshold};
use crate::types::ServerId;
use std::collections::BTreeMap;

/// What a server said is quoted up to here.
const DETAIL_CHARS_MAX: usize = 80;

/// All that a verdict rests on.
pub(super) struct Case<'a> {
    pub run: &'a RunInfo,
    pub all: &'a Gathered,
    pub hold: Hold,
    /// `Some(interrupted)` when the history ended in order.
    pub end: Option<bool>,
    /// One for each threshold, in order.
    pub outcomes: &'a [Outcome],
    pub thresholds: &'a [Threshold],
    /// Invariants are judged beside the thresholds.
    pub invariants: bool,
    pub generator: &'a Generator,
    pub diagnosis: Diagnosis,
    pub name: &'a dyn Fn(ServerId) -> String,
}

/// Verdict, sentence, reasons. In this order: a run cut short before its hold is unknown; an unhealthy generator makes
/// it unknown; a broken limit is a fail; anything without data or left undone is unknown; the rest is a pass.
pub(super) fn sentence(case: &Case<'_>) -> (Verdict, String, Vec<String>) {
    let failed: Vec<usize> = case.with(Verdict::Fail);
    let mut unproven = Vec::new();
    let no_hold = case.hold.ended_ms <= case.hold.from_ms;
    let cut_short = case.end != Some(false);
    if no_hold && cut_short {
        let text = format!("{}, before the hold began at {}: nothing judged.", capital(&case.stop()), case.begin());
        return (Verdict::Unknown, text.clone(), vec![text]);
    }
    if !case.generator.healthy {
        let text = case.unhealthy();
        let mut reasons = vec![text.clone()];
        reasons.extend(case.generator.reasons.iter().map(|r| format!("generator: {r}")));
        return (Verdict::Unknown, text, reasons);
    }
    if !failed.is_empty() {
        let mut failed = failed;
        failed.sort_by(|a, b| case.rank(*a).total_cmp(&case.rank(*b)));
        let mut reasons: Vec<String> = failed.iter().map(|i| case.broken(*i)).collect();
        reasons.extend(case.unknown_reasons());
        return (Verdict::Fail, case.fail(&failed), reasons);
    }
    unproven.extend(case.undone());
    unproven.extend(case.unknown_reasons());
    if let Some(first) = unproven.first() {
        return (Verdict::Unknown, format!("Unknown: {first}."), unproven);
    }
    (Verdict::Pass, case.pass(), Vec::new())
}

impl Case<'_> {
    fn with(&self, verdict: Verdict) -> Vec<usize> {
        (0..self.outcomes.len()).filter(|i| self.outcomes[*i].verdict == verdict).collect()
    }

    fn begin(&self) -> String {
        clock(self.hold.from_ms)
    }

    fn now(&self) -> String {
        clock(if self.end == Some(true) { self.stopped_ms() } else { self.all.last_t })
    }

    /// When it was told to stop, as far as the history shows.
    fn stopped_ms(&self) -> f64 {
        if self.hold.ended_ms > self.hold.from_ms { self.hold.ended_ms } else { self.all.last_t }
    }

    /// How and when it came to an end.
    fn stop(&self) -> String {
        match self.end {
            Some(true) => format!("interrupted at {}", self.now()),
            Some(false) => format!("ended at {}", self.now()),
            None => format!("crashed or killed, the history ends at {} without an end", self.now()),
        }
    }

    fn unhealthy(&self) -> String {
        let share = self.generator.inconclusive_share.unwrap_or(0.0);
        let d = &self.diagnosis;
        let why = d.why.as_ref().map(|w| format!(", {w}")).unwrap_or_default();
        if share > 0.0 {
            return format!("{} in {} % of intervals{why}: {}.", d.what, number(share), d.advice);
        }
        let local = self.all.failed.iter().filter(|f| f.counts == Counts::Generator).count() as u64;
        let first = self.all.failed.iter().find(|f| f.counts == Counts::Generator);
        let detail = first.map(|f| format!(" ({})", f.detail)).unwrap_or_default();
        format!("{} failed on our side{detail}: nothing is proven about the target.", count(local, "join", "joins"))
    }

    /// Lower comes first in the sentence: who came in, who stayed, what they heard; within that the worst.
    fn rank(&self, i: usize) -> f64 {
        let margin = self.outcomes[i].margin.unwrap_or(-100.0).clamp(-9e5, 0.0);
        f64::from(Subject::of(&self.outcomes[i].metric) as u32) * 1e6 + margin
    }

    fn fail(&self, failed: &[usize]) -> String {
        let mut text = self.broken(failed[0]);
        text += match self.generator.inconclusive_share {
            Some(share) if share > 0.0 => format!("; generator unhealthy in {} % of intervals", number(share)),
            _ => "; generator healthy".into(),
        }
        .as_str();
        let others: Vec<&str> = failed[1..].iter().map(|i| self.outcomes[*i].metric.as_str()).collect();
        if !others.is_empty() {
            let named = others[..others.len().min(3)].join(", ");
            let dots = if others.len() > 3 { " …" } else { "" };
            text +=
                &format!("; {} broken too: {named}{dots}", count(others.len() as u64, "other limit", "other limits"));
        }
        if !self.hold.complete {
            text += &format!("; {}", self.stop());
        }
        text + "."
    }

    /// One broken limit without a full stop.
    fn broken(&self, i: usize) -> String {
        let (o, t) = (&self.outcomes[i], &self.thresholds[i]);
        let (value, limit, unit) = against(o.value.unwrap_or(f64::NAN), o.limit, t.value);
        let limit = format!("(limit {}{limit}{unit})", if matches!(t.op, Op::Gt | Op::Ge) { "at least " } else { "" });
        match Subject::of(&o.metric) {
            Subject::Joins => {
                let target: Vec<&Failed> = self.all.failed.iter().filter(|f| f.counts == Counts::Target).collect();
                let tried = self.all.joined + target.len() as u64;
                let what = match o.metric.as_str() {
                    "joins.failed_share" | "joins.failed" | "participants.failed" => {
                        format!("{} of {tried} joins failed, {value}{unit} {limit}", target.len())
                    }
                    metric => format!("{} {value}{unit} {limit}", metric_words(metric)),
                };
                what + &self.failed_joins(&target)
            }
            Subject::Legs if o.metric.ends_with(".dropped") => {
                let drops: Vec<&Leg> = self.all.legs.iter().filter(|l| l.class == LegClass::Dropped).collect();
                format!("{value} of {} dropped {limit}", count(self.all.joined, "leg", "legs")) + &self.drops(&drops)
            }
            Subject::Media | Subject::Relays | Subject::Setup | Subject::Legs | Subject::Generator => {
                let place = o.server.clone();
                let text = match (o.metric.split_once('.'), &place) {
                    (Some((kind, "loss" | "e2e.loss" | "rtp.loss")), Some(server)) => {
                        let way = self.way(server, kind).map(|w| format!(" {w},")).unwrap_or_default();
                        format!("{server} lost {value}{unit} of {kind} {limit}{way}")
                    }
                    (_, Some(server)) => format!("{server}: {} {value}{unit} {limit}", metric_words(&o.metric)),
                    (_, None) => format!("{} {value}{unit} {limit}", metric_words(&o.metric)),
                };
                let legs = o.legs.map(|n| format!(", {}", count(n, "leg", "legs"))).unwrap_or_default();
                text + &self.when(o) + &legs
            }
        }
    }

    /// On which way a server's loss happened.
    fn way(&self, server: &str, kind: &str) -> Option<String> {
        let (_, s) = self.all.servers.iter().find(|(id, _)| (self.name)(**id) == server)?;
        if kind == "audio" { direction(&s.audio, s.reported[0]) } else { direction(&s.video, s.reported[1]) }
    }

    fn when(&self, o: &Outcome) -> String {
        let Some(w) = o.window else { return String::new() };
        let hold = Window { from_ms: self.hold.from_ms, until_ms: self.hold.ended_ms };
        let seconds = o.window_seconds.unwrap_or(w.length_ms() / 1000.0);
        let mut text = if o.window_seconds.is_some() && w.overlap_ms(&hold) > 0.95 * hold.length_ms() {
            " all through the hold".to_owned()
        } else {
            span(&w)
        };
        if seconds < w.length_ms() / 2000.0 {
            text += &format!(" (in {} of {} s)", number(seconds), number(w.length_ms() / 1000.0));
        }
        text
    }

    fn failed_joins(&self, failed: &[&Failed]) -> String {
        let mut groups: BTreeMap<(String, Option<ServerId>), Vec<&Failed>> = BTreeMap::new();
        for f in failed {
            groups.entry((reason_key(f.reason), f.server)).or_default().push(f);
        }
        let Some(((reason, server), most)) = groups.iter().max_by_key(|(_, g)| g.len()) else { return String::new() };
        let place = server.map(|id| format!(" on {}", (self.name)(id))).unwrap_or_default();
        let n = if most.len() == failed.len() { String::new() } else { format!("{} × ", most.len()) };
        let when = span(&Window { from_ms: first(most.iter().map(|f| f.t)), until_ms: last(most.iter().map(|f| f.t)) });
        // A server may say a lot; the whole of it is in the table of failures.
        let detail = &most[0].detail;
        let said: String = detail.chars().take(DETAIL_CHARS_MAX).collect();
        let said = if said.len() < detail.len() { said + " …" } else { said };
        let said = if said.is_empty() { said } else { format!(" ({said})") };
        format!(": {n}{reason}{place}{when}{said}")
    }

    fn drops(&self, drops: &[&Leg]) -> String {
        let mut groups: BTreeMap<Option<ServerId>, Vec<&Leg>> = BTreeMap::new();
        for leg in drops {
            groups.entry(leg.server).or_default().push(leg);
        }
        let Some((server, most)) = groups.iter().max_by_key(|(_, g)| g.len()) else { return String::new() };
        let place = server.map(|id| format!(" on {}", (self.name)(id))).unwrap_or_default();
        let cause = match most[0].cause {
            LegCause::ClosedByServer => "closed by the server",
            LegCause::SignalingLost => "signalling lost",
            LegCause::ConsentExpired => "consent expired",
            LegCause::Left | LegCause::LeftUnacknowledged | LegCause::Interrupted => "left",
        };
        let first_name = self.all.tracks.name(most[0].leg);
        let when = span(&Window { from_ms: first(most.iter().map(|l| l.t)), until_ms: last(most.iter().map(|l| l.t)) });
        let detail = if most[0].detail.is_empty() { String::new() } else { format!(" ({})", most[0].detail) };
        let who = match most.len() {
            1 if drops.len() == 1 => format!("{first_name}{place}{when}"),
            n if n == drops.len() => format!("all{place}{when}, first {first_name}"),
            n => format!("{n} of them{place}{when}, first {first_name}"),
        };
        format!(": {who}, {cause}{detail}")
    }

    /// What was planned and did not happen.
    fn undone(&self) -> Vec<String> {
        let mut out = Vec::new();
        let no_limits = self.outcomes.is_empty();
        if no_limits && !self.invariants {
            out.push("the profile sets no limit: nothing to judge by".into());
        }
        if self.hold.ended_ms <= self.hold.from_ms {
            out.push(format!("the run ended at {} before the hold began at {}", self.now(), self.begin()));
        } else if !self.hold.complete {
            let held = !no_limits && self.with(Verdict::Unknown).is_empty();
            let held = if held { "; all limits held until then" } else { "" };
            let until = clock(self.hold.until_ms);
            out.push(format!("{}, in a hold that was to last until {until}{held}", self.stop()));
        } else if no_limits && self.invariants && self.end == Some(true) {
            // Its rollback and its last looks belong to an experiment.
            out.push(format!("{}, before the run was over", self.stop()));
        }
        let begun = self.all.joined + self.all.failed.len() as u64;
        let begun = begun.max(self.all.join_starts.len() as u64);
        let planned = u64::from(self.run.legs_planned);
        if self.end == Some(false) && begun < planned {
            out.push(format!("{} of {planned} planned joins never began", planned - begun));
        }
        out.extend(self.all.damage().filter(|_| self.end == Some(false)));
        out
    }

    fn unknown_reasons(&self) -> Vec<String> {
        let one = |i: usize| {
            let o = &self.outcomes[i];
            format!("{} {}", o.expr, o.why.as_deref().unwrap_or("is unknown"))
        };
        let mut out: Vec<String> = self.with(Verdict::Unknown).into_iter().map(one).collect();
        if !out.is_empty() && self.all.joined == 0 {
            let nobody = format!("nobody joined, 0 of {}", self.run.legs_planned);
            let failed: Vec<&Failed> = self.all.failed.iter().collect();
            let text = if failed.is_empty() { nobody } else { nobody + &self.failed_joins(&failed) };
            out.insert(0, text);
        }
        out
    }

    fn pass(&self) -> String {
        let n = self.outcomes.len();
        let limits = if n == 1 { "the one limit".into() } else { format!("all {n} limits") };
        let servers = self.all.servers_judged();
        let on = match servers.len() {
            0 => String::new(),
            1 => servers.first().map(|id| format!(" on {}", (self.name)(*id))).unwrap_or_default(),
            n => format!(" on all {n} servers"),
        };
        let joined = format!("{} of {} joined", self.all.joined, self.run.legs_planned);
        let tightest =
            (0..n).filter_map(|i| self.outcomes[i].margin.map(|m| (i, m))).min_by(|a, b| a.1.total_cmp(&b.1));
        let Some((i, _)) = tightest else { return format!("{joined}; {limits} held{on}.") };
        let (o, t) = (&self.outcomes[i], &self.thresholds[i]);
        let (value, limit, unit) = against(o.value.unwrap_or(f64::NAN), o.limit, t.value);
        let of = if matches!(t.op, Op::Gt | Op::Ge) { "where at least" } else { "of" };
        let of_limit = format!("{value} {of} {limit}{unit}");
        let place = match &o.server {
            Some(server) if servers.len() > 1 => format!(" on {server}"),
            _ => String::new(),
        };
        format!("{joined}; {limits} held{on}; tightest: {} {of_limit}{place}.", metric_words(&o.metric))
    }
}

/// ` from 02:14 to 02:19`, or ` at 02:14`.
fn span(w: &Window) -> String {
    let (from, until) = (clock(w.from_ms), clock(w.until_ms));
    if from == until { format!(" at {from}") } else { format!(" from {from} to {until}") }
}

fn first(times: impl Iterator<Item = f64>) -> f64 {
    times.fold(f64::INFINITY, f64::min)
}

fn last(times: impl Iterator<Item = f64>) -> f64 {
    times.fold(f64::NEG_INFINITY, f64::max)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
