//! What an objective is judged on: each second of media, or the whole trial.

use crate::measure::Flow;
use crate::types::Kind;
use crate::verdict::flow_metric;
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// Loss, delay, jitter …: a second that breaks it is bad for all participants of the server.
    Second,
    /// Rates a minute need more than a second.
    Media,
    /// Set-up times, failed joins, of the joins since the last trial.
    Joins,
    Legs,
}

impl Scope {
    pub fn of(metric: &str) -> Scope {
        match metric.split('.').next() {
            Some("audio" | "video") if metric.ends_with("freezes") || metric.ends_with("frozen_share") => Scope::Media,
            Some("audio" | "video") => Scope::Second,
            Some("legs") => Scope::Legs,
            _ => Scope::Joins,
        }
    }
}

/// A metric of `audio` or `video`; `None` without data.
pub(super) fn media(metric: &str, flows: &[Flow; 2]) -> Option<f64> {
    let (kind, path) = metric.split_once('.')?;
    let kind = Kind::BOTH.into_iter().find(|k| k.as_str() == kind)?;
    flow_metric(&flows[kind.index()], kind, path)
}

/// A join that times out and began later than this share of its time might have come in.
const LATE_SHARE: f64 = 0.1;
/// Joins that take this much longer than planned to begin, and some, are no longer at their rate.
const BEHIND_FACTOR: f64 = 1.1;
const BEHIND_MS: f64 = 100.0;

/// When joins began, against their plan, in ms of the run.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Pace {
    joins: u32,
    planned: Span,
    began: Span,
    /// How late one began at most.
    pub late_max: f64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Span {
    from: f64,
    until: f64,
}

impl Default for Span {
    fn default() -> Span {
        Span { from: f64::INFINITY, until: f64::NEG_INFINITY }
    }
}

impl Span {
    fn take(&mut self, other: Span) {
        *self = Span { from: self.from.min(other.from), until: self.until.max(other.until) };
    }

    fn ms(&self) -> f64 {
        (self.until - self.from).max(0.0)
    }
}

impl Pace {
    pub fn add(&mut self, planned_ms: f64, late_ms: f64) {
        let at = |ms: f64| Span { from: ms, until: ms };
        self.merge(&Pace { joins: 1, planned: at(planned_ms), began: at(planned_ms + late_ms), late_max: late_ms });
    }

    pub fn merge(&mut self, other: &Pace) {
        self.joins += other.joins;
        self.planned.take(other.planned);
        self.began.take(other.began);
        self.late_max = self.late_max.max(other.late_max);
    }

    /// Joins a second, as they began; `None` for fewer than two.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.began.ms() / 1000.0;
        (self.joins > 1 && seconds > 0.0).then(|| f64::from(self.joins - 1) / seconds)
    }

    /// ms, where there was a join.
    pub fn late(&self) -> Option<f64> {
        (self.joins > 0).then_some(self.late_max)
    }

    /// The joins took so much longer to begin than planned that their rate was not reached.
    pub fn is_behind(&self) -> bool {
        self.joins > 1 && self.began.ms() > self.planned.ms() * BEHIND_FACTOR + BEHIND_MS
    }
}

/// Joins of one server between two trials.
#[derive(Clone, Default, Debug)]
pub(super) struct Joins {
    pub pace: Pace,
    /// By phase, as in `setup.<phase>`, ms.
    pub times: BTreeMap<&'static str, Vec<f64>>,
    pub joined: u32,
    /// Held against the target, and of these, refused for want of room.
    pub failed: u32,
    pub refused: u32,
    /// Of those that failed, timed out after they had begun late.
    unclear: u32,
    /// Failed on our side.
    pub ours: u32,
    /// The first reason, for a person.
    pub detail: Option<String>,
}

impl Joins {
    pub fn time(&mut self, phase: &'static str, ms: f64) {
        self.times.entry(phase).or_default().push(ms);
    }

    /// Counts at its full time-out, from its planned start.
    pub fn timed_out(&mut self, after_ms: f64, late_ms: f64) {
        self.time("total", after_ms);
        self.failed += 1;
        self.unclear += u32::from(late_ms > LATE_SHARE * after_ms);
    }

    /// What a metric may have been, at best, had every join begun when it was planned. Joins that begin late come on top
    /// of each other, too: a server that would have done them meanwhile has each of them waiting for at most as long.
    pub fn at_best(&self, metric: &str) -> Option<f64> {
        if metric.starts_with("setup.") {
            return self.metric(metric).map(|ms| (ms - self.pace.late_max).max(0.0));
        }
        Joins { failed: self.failed - self.unclear, joined: self.joined + self.unclear, ..self.clone() }.metric(metric)
    }

    pub fn metric(&self, metric: &str) -> Option<f64> {
        let tried = self.joined + self.failed;
        match metric {
            "joins.failed" => return (tried > 0).then_some(f64::from(self.failed)),
            "joins.failed_share" => return (tried > 0).then(|| f64::from(self.failed) / f64::from(tried) * 100.0),
            _ => {}
        }
        let (phase, which) = metric.strip_prefix("setup.")?.split_once('.')?;
        let mut times = self.times.get(phase)?.clone();
        times.sort_by(f64::total_cmp);
        let q = match which {
            "p50" => 0.5,
            "p95" => 0.95,
            "p99" => 0.99,
            "max" => 1.0,
            _ => return None,
        };
        let nth = (q * times.len() as f64).ceil().max(1.0) as usize;
        times.get(nth - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_have_ranks_and_shares() {
        let mut joins = Joins { joined: 18, failed: 2, ..Joins::default() };
        (1..=20).for_each(|ms| joins.time("total", f64::from(ms)));
        assert_eq!((joins.metric("setup.total.p95"), joins.metric("setup.total.max")), (Some(19.0), Some(20.0)));
        assert_eq!((joins.metric("joins.failed_share"), joins.metric("joins.failed")), (Some(10.0), Some(2.0)));
        assert_eq!((joins.metric("setup.ice.p95"), Joins::default().metric("joins.failed_share")), (None, None));
    }

    #[test]
    fn joins_have_a_rate_and_may_be_behind_it() {
        let paced = |late: &dyn Fn(u32) -> f64| {
            let mut pace = Pace::default();
            (0..41).for_each(|i| pace.add(5000.0 + 25.0 * f64::from(i), late(i)));
            pace
        };
        let on_time = paced(&|_| 1.0);
        assert_eq!((on_time.rate(), on_time.late(), on_time.is_behind()), (Some(40.0), Some(1.0), false));
        // A stall that is made up for is late, and not behind; one that grows is.
        let stall = paced(&|i| if i == 20 { 400.0 } else { 0.0 });
        assert_eq!((stall.rate(), stall.late(), stall.is_behind()), (Some(40.0), Some(400.0), false));
        let slow = paced(&|i| 25.0 * f64::from(i));
        assert_eq!((slow.rate(), slow.late(), slow.is_behind()), (Some(20.0), Some(1000.0), true));
        let mut one = Pace::default();
        assert_eq!((one.rate(), one.late(), one.is_behind()), (None, None, false));
        one.add(0.0, 900.0);
        assert_eq!((one.rate(), one.late(), one.is_behind()), (None, Some(900.0), false));
        // Servers that took turns had it together.
        let mut both = Pace::default();
        for (server, i) in (0..40).map(|i| (i % 2, i)) {
            let mut own = Pace::default();
            own.add(25.0 * f64::from(i), f64::from(server));
            both.merge(&own);
        }
        assert!((both.rate().unwrap() - 40.0).abs() < 0.1, "{both:?}");
    }

    #[test]
    fn at_best_joins_wait_for_us_no_longer() {
        let mut joins = Joins { joined: 18, ..Joins::default() };
        (1..=18).for_each(|_| joins.time("total", 1200.0));
        joins.pace.add(0.0, 300.0);
        assert_eq!((joins.metric("setup.total.p95"), joins.at_best("setup.total.p95")), (Some(1200.0), Some(900.0)));
        joins.timed_out(5000.0, 100.0);
        joins.timed_out(5000.0, 600.0);
        assert_eq!((joins.metric("joins.failed"), joins.at_best("joins.failed")), (Some(2.0), Some(1.0)));
        assert_eq!((joins.metric("joins.failed_share"), joins.at_best("joins.failed_share")), (Some(10.0), Some(5.0)));
    }

    #[test]
    fn each_objective_has_its_scope() {
        let scopes = ["audio.delay.p99", "video.freezes", "setup.total.p95", "joins.failed_share", "legs.dropped"];
        assert_eq!(scopes.map(Scope::of), [Scope::Second, Scope::Media, Scope::Joins, Scope::Joins, Scope::Legs]);
    }
}
