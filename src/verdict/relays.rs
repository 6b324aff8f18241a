//! What TURN servers gave and refused, and how media fared through them beside that which took the direct way.

use super::metrics::{AudioMetrics, LossyLegs, PhaseMetrics, Sample, VideoMetrics};
use super::windows::{Window, Windows};
use crate::history::{Carried, Interval, Paths, Relay, RelayWhat};
use crate::types::{LegId, Via};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Allocations on all TURN servers, and the two kinds of ways. All null where nobody was relayed.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Relays {
    /// Participants that came by a TURN server.
    pub participants: Option<u64>,
    /// Allocations that servers were asked for, and gave.
    pub asked: Option<u64>,
    pub allocated: Option<u64>,
    /// An answer with an error code; no answer, outside the generator's own trouble; another server named (300).
    pub refused: Option<u64>,
    pub unreachable: Option<u64>,
    pub redirected: Option<u64>,
    /// Given, and gone before it was given back: by the server's word, or outside the generator's own trouble.
    pub lost: Option<u64>,
    pub released: Option<u64>,
    /// Left at the server on purpose.
    pub abandoned: Option<u64>,
    /// In the generator's own trouble: given, but not timed, without an answer, or lost without one.
    pub inconclusive: Option<u64>,
    /// Most at once.
    pub open_max: Option<u64>,
    /// Most given in any one second.
    pub rate_max: Option<f64>,
    /// Request until the allocation was there, with all round trips that it took.
    pub latency: PhaseMetrics,
    /// Datagrams that servers relayed for their clients, both ways, a second, and the bits in them; over the judged part of
    /// the hold.
    pub pps: Option<f64>,
    pub bps: Option<f64>,
    /// By server and way there.
    pub servers: Vec<RelayRow>,
    /// Media of those who are reached directly, and of those behind TURN servers; null without any.
    pub direct: Option<PathMetrics>,
    pub relayed: Option<PathMetrics>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RelayRow {
    pub id: String,
    pub via: Via,
    pub asked: u64,
    pub allocated: u64,
    pub unreachable: u64,
    pub redirected: u64,
    pub lost: u64,
    pub released: u64,
    pub abandoned: u64,
    pub inconclusive: u64,
    pub open_max: u64,
    pub pps: Option<f64>,
    pub bps: Option<f64>,
    pub latency: PhaseMetrics,
    /// Error codes, with the server's words for the first of each.
    pub refused: BTreeMap<u16, Refused>,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Refused {
    pub count: u64,
    pub reason: String,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct PathMetrics {
    pub audio: AudioMetrics,
    pub video: VideoMetrics,
}

/// What is lost without a word was waited for so long at least.
const UNANSWERED: f64 = 2.0;

#[derive(Default)]
struct Of {
    /// Attempts by how they ended, and allocations by how they did.
    what: BTreeMap<RelayWhat, u64>,
    /// Of these, what may be the generator's doing.
    inconclusive: BTreeMap<RelayWhat, u64>,
    refused: BTreeMap<u16, Refused>,
    latency: Vec<Sample>,
    open: u64,
    open_max: u64,
}

impl Of {
    fn count(&self, what: RelayWhat) -> u64 {
        self.what.get(&what).copied().unwrap_or(0)
    }

    /// Without what may be the generator's doing.
    fn proven(&self, what: RelayWhat) -> u64 {
        self.count(what) - self.inconclusive.get(&what).copied().unwrap_or(0)
    }

    fn inconclusive(&self) -> u64 {
        self.inconclusive.values().sum()
    }

    fn asked(&self) -> u64 {
        use RelayWhat::{Allocated, Redirected, Refused, Unreachable};
        [Allocated, Refused, Unreachable, Redirected].map(|w| self.count(w)).into_iter().sum()
    }

    fn see(&mut self, t: f64, r: &Relay, inconclusive: bool) {
        *self.what.entry(r.what).or_default() += 1;
        if inconclusive {
            *self.inconclusive.entry(r.what).or_default() += 1;
        }
        match r.what {
            RelayWhat::Allocated => {
                self.open += 1;
                self.open_max = self.open_max.max(self.open);
                self.latency.extend(r.ms.filter(|_| !inconclusive).map(|ms| Sample { t, ms }));
            }
            RelayWhat::Lost | RelayWhat::Released | RelayWhat::Abandoned => self.open = self.open.saturating_sub(1),
            RelayWhat::Refused => {
                let reason = r.detail.clone().unwrap_or_default();
                let of_code = self.refused.entry(r.code.unwrap_or(0));
                of_code.or_insert(Refused { count: 0, reason }).count += 1;
            }
            RelayWhat::Unreachable | RelayWhat::Redirected => {}
        }
    }
}

#[derive(Default)]
pub(super) struct RelayGather {
    by_way: BTreeMap<(String, Via), Of>,
    whole: Of,
    legs: BTreeSet<LegId>,
    given_at: Vec<f64>,
    paths: Option<Box<Paths>>,
    carried: BTreeMap<(String, Via), Carried>,
    /// Judged seconds of the hold.
    seconds: f64,
}

impl RelayGather {
    pub fn see(&mut self, t: f64, r: &Relay, unhealthy: &Windows) {
        // A server's word stands whatever our health.
        let ours = match r.what {
            RelayWhat::Allocated | RelayWhat::Unreachable => true,
            RelayWhat::Lost => r.code.is_none() && r.detail.is_none(),
            RelayWhat::Refused | RelayWhat::Redirected | RelayWhat::Released | RelayWhat::Abandoned => false,
        };
        let inconclusive = ours && unhealthy.touch(&Window::ending(t, r.ms.map_or(UNANSWERED, |ms| ms / 1000.0)));
        self.by_way.entry((r.turn.clone(), r.via)).or_default().see(t, r, inconclusive);
        self.whole.see(t, r, inconclusive);
        if r.what == RelayWhat::Allocated {
            self.legs.insert(r.leg);
            self.given_at.push(t);
        }
    }

    /// One judged second.
    pub fn second(&mut self, interval: &Interval) {
        self.seconds += interval.seconds;
        for f in &interval.relays {
            *self.carried.entry((f.turn.clone(), f.via)).or_default() += f.carried();
        }
        if let Some(paths) = &interval.paths {
            self.paths(paths);
        }
    }

    fn paths(&mut self, p: &Paths) {
        let all = self.paths.get_or_insert_default();
        for (to, from) in [(&mut all.direct, &p.direct), (&mut all.relayed, &p.relayed)] {
            to.iter_mut().zip(from).for_each(|(to, from)| to.merge(from));
        }
    }

    pub fn metrics(&self) -> Relays {
        if self.by_way.is_empty() {
            return Relays::default();
        }
        let count = |what| Some(self.whole.count(what));
        let of_path = |flows: &[crate::measure::Flow; 2]| {
            let (none, suites) = (LossyLegs::default(), BTreeMap::new());
            let some = flows.iter().any(|f| f.count.e2e_expected > 0 || f.count.rtp_expected > 0);
            some.then(|| PathMetrics {
                audio: AudioMetrics::of(&flows[0], none, &suites),
                video: VideoMetrics::of(&flows[1], none, &suites),
            })
        };
        let rate = |n: u64| (self.seconds > 0.0).then(|| (n as f64 / self.seconds).round());
        let bits = |c: &Carried| rate(8 * c.bytes);
        let row = |(way, of): (&(String, Via), &Of)| RelayRow {
            id: way.0.clone(),
            via: way.1,
            pps: rate(self.carried.get(way).map_or(0, |c| c.packets)),
            bps: bits(self.carried.get(way).unwrap_or(&Carried::default())),
            asked: of.asked(),
            allocated: of.count(RelayWhat::Allocated),
            unreachable: of.proven(RelayWhat::Unreachable),
            redirected: of.count(RelayWhat::Redirected),
            lost: of.proven(RelayWhat::Lost),
            released: of.count(RelayWhat::Released),
            abandoned: of.count(RelayWhat::Abandoned),
            inconclusive: of.inconclusive(),
            open_max: of.open_max,
            latency: PhaseMetrics::of(&of.latency),
            refused: of.refused.clone(),
        };
        let mut carried = Carried::default();
        self.carried.values().for_each(|c| carried += *c);
        Relays {
            pps: rate(carried.packets),
            bps: bits(&carried),
            participants: Some(self.legs.len() as u64),
            asked: Some(self.whole.asked()),
            allocated: count(RelayWhat::Allocated),
            refused: count(RelayWhat::Refused),
            unreachable: Some(self.whole.proven(RelayWhat::Unreachable)),
            redirected: count(RelayWhat::Redirected),
            lost: Some(self.whole.proven(RelayWhat::Lost)),
            released: count(RelayWhat::Released),
            abandoned: count(RelayWhat::Abandoned),
            inconclusive: Some(self.whole.inconclusive()),
            open_max: Some(self.whole.open_max),
            rate_max: super::gather::most_in_a_second(&self.given_at),
            latency: PhaseMetrics::of(&self.whole.latency),
            servers: self.by_way.iter().map(row).collect(),
            direct: self.paths.as_ref().and_then(|p| of_path(&p.direct)),
            relayed: self.paths.as_ref().and_then(|p| of_path(&p.relayed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::synthetic::Synthetic;
    use crate::history::{Event, Line, Reading};
    use crate::profile::{HealthLimits, Op, Threshold, ThresholdValue};
    use crate::verdict::{Judgement, Verdict, judge};

    fn at_most(metric: &str, value: ThresholdValue) -> Threshold {
        Threshold { metric: metric.into(), op: Op::Le, value, expr: format!("{metric} <= {}", value.number()) }
    }

    /// Allocations as (whole second, what became of it, how long that took) of a run whose generator was in trouble in its
    /// fourth and fifth second.
    fn relayed(news: &[(u32, RelayWhat, Option<f64>)], limits: &[Threshold]) -> Judgement {
        let mut lines = Synthetic { unhealthy: Some(3..5), ..Synthetic::default() }.lines();
        let relay = |&(second, what, ms): &(u32, RelayWhat, Option<f64>)| {
            let (leg, turn, via) = (LegId(0), "turn-1".to_owned(), Via::Udp);
            let event =
                Event::Relay(Relay { leg, slot: 0, turn, via, what, ms, code: None, detail: None, relayed: None });
            Line { t: f64::from(second) * 1000.0 - 1.0, event }
        };
        lines.extend(news.iter().map(relay));
        lines.sort_by(|a, b| a.t.total_cmp(&b.t));
        judge(&Reading::of_lines(lines).unwrap(), limits, &HealthLimits::default())
    }

    #[test]
    fn what_our_own_trouble_does_to_allocations_is_not_the_turn_servers() {
        use RelayWhat::{Allocated, Lost, Unreachable};
        let limits = [
            at_most("relays.latency.max", ThresholdValue::Ms(50.0)),
            at_most("relays.lost", ThresholdValue::Count(0.0)),
            at_most("relays.unreachable", ThresholdValue::Count(0.0)),
        ];
        let verdicts = |j: &Judgement| j.pass.iter().map(|o| o.verdict).collect::<Vec<_>>();
        let good = |n: usize| vec![(2, Allocated, Some(9.0)); n];
        let ours = [(5, Allocated, Some(900.0)), (5, Unreachable, Some(1500.0)), (5, Lost, None)];

        let j = relayed(&[&good(97)[..], &ours].concat(), &limits);
        assert_eq!(verdicts(&j), [Verdict::Pass; 3], "{:?}", j.relays);
        assert_eq!((j.relays.inconclusive, j.relays.asked, j.relays.allocated), (Some(3), Some(99), Some(98)));
        assert_eq!((j.relays.latency.count, j.relays.servers[0].inconclusive), (97, 3));

        let j = relayed(&[&good(20)[..], &ours].concat(), &limits);
        assert_eq!(verdicts(&j), [Verdict::Unknown; 3], "{:?}", j.relays);
        let why = j.pass[0].why.as_deref().unwrap();
        assert!(why.starts_with("is open: the generator was unhealthy in 13.6"), "{why}");

        // The same at a time when nothing ailed us.
        let theirs = ours.map(|(_, what, ms)| (20, what, ms));
        let j = relayed(&[&good(97)[..], &theirs].concat(), &limits);
        assert_eq!(verdicts(&j), [Verdict::Fail; 3], "{:?}", j.relays);
        assert_eq!(j.relays.inconclusive, Some(0));
    }
}
