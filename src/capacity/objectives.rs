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

/// Joins of one server between two trials.
#[derive(Clone, Default, Debug)]
pub(super) struct Joins {
    /// By phase, as in `setup.<phase>`, ms.
    pub times: BTreeMap<&'static str, Vec<f64>>,
    pub joined: u32,
    /// Held against the target, and of these, refused for want of room.
    pub failed: u32,
    pub refused: u32,
    /// Failed on our side.
    pub ours: u32,
    /// The first reason, for a person.
    pub detail: Option<String>,
}

impl Joins {
    pub fn time(&mut self, phase: &'static str, ms: f64) {
        self.times.entry(phase).or_default().push(ms);
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
    fn each_objective_has_its_scope() {
        let scopes = ["audio.delay.p99", "video.freezes", "setup.total.p95", "joins.failed_share", "legs.dropped"];
        assert_eq!(scopes.map(Scope::of), [Scope::Second, Scope::Media, Scope::Joins, Scope::Joins, Scope::Legs]);
    }
}
