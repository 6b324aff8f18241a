//! What TURN servers gave and refused, and how media fared through them beside that which took the direct way.

use super::metrics::{AudioMetrics, LossyLegs, PhaseMetrics, Sample, VideoMetrics};
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
    /// An answer with an error code; no answer; another server named (300).
    pub refused: Option<u64>,
    pub unreachable: Option<u64>,
    pub redirected: Option<u64>,
    /// Given, and gone before it was given back.
    pub lost: Option<u64>,
    pub released: Option<u64>,
    /// Left at the server on purpose.
    pub abandoned: Option<u64>,
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

#[derive(Default)]
struct Of {
    /// Attempts by how they ended, and allocations by how they did.
    what: BTreeMap<RelayWhat, u64>,
    refused: BTreeMap<u16, Refused>,
    latency: Vec<Sample>,
    open: u64,
    open_max: u64,
}

impl Of {
    fn count(&self, what: RelayWhat) -> u64 {
        self.what.get(&what).copied().unwrap_or(0)
    }

    fn asked(&self) -> u64 {
        use RelayWhat::{Allocated, Redirected, Refused, Unreachable};
        [Allocated, Refused, Unreachable, Redirected].map(|w| self.count(w)).into_iter().sum()
    }

    fn see(&mut self, t: f64, r: &Relay) {
        *self.what.entry(r.what).or_default() += 1;
        match r.what {
            RelayWhat::Allocated => {
                self.open += 1;
                self.open_max = self.open_max.max(self.open);
                self.latency.extend(r.ms.map(|ms| Sample { t, ms }));
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
    pub fn see(&mut self, t: f64, r: &Relay) {
        self.by_way.entry((r.turn.clone(), r.via)).or_default().see(t, r);
        self.whole.see(t, r);
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
            unreachable: of.count(RelayWhat::Unreachable),
            redirected: of.count(RelayWhat::Redirected),
            lost: of.count(RelayWhat::Lost),
            released: of.count(RelayWhat::Released),
            abandoned: of.count(RelayWhat::Abandoned),
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
            unreachable: count(RelayWhat::Unreachable),
            redirected: count(RelayWhat::Redirected),
            lost: count(RelayWhat::Lost),
            released: count(RelayWhat::Released),
            abandoned: count(RelayWhat::Abandoned),
            open_max: Some(self.whole.open_max),
            rate_max: super::gather::most_in_a_second(&self.given_at),
            latency: PhaseMetrics::of(&self.whole.latency),
            servers: self.by_way.iter().map(row).collect(),
            direct: self.paths.as_ref().and_then(|p| of_path(&p.direct)),
            relayed: self.paths.as_ref().and_then(|p| of_path(&p.relayed)),
        }
    }
}
