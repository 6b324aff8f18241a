//! First pass over a history: what everything else is seen in the light of, i.e. names, the hold as it really was, and
//! the seconds in which the generator was unhealthy.

use super::windows::{Window, Windows};
use crate::history::{EDGE_MS, Event, Phase, Reading, RunInfo};
use crate::types::{RoomId, ServerId};
use std::collections::BTreeMap;

/// What was lost in an unhealthy second may count in the next one only: with the next stamp, or when the ledger says
/// after this time that it is not in flight any more.
const AFTERMATH_MS: f64 = 1000.0;

#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub servers: BTreeMap<ServerId, String>,
    pub rooms: BTreeMap<RoomId, String>,
    /// Seconds in which the generator was over one of its limits.
    pub unhealthy: Windows,
    /// The same with what comes after each: media of these seconds prove nothing.
    aftermath: Windows,
    /// Seconds whose health was recorded at all.
    pub watched: Windows,
    /// `Some(interrupted)` when the history ended in order.
    pub end: Option<bool>,
    /// The judged part: as planned, but no longer than the run.
    pub hold: Window,
    /// A join that takes longer has failed, ms; 0 where the history does not say.
    pub join_timeout_ms: f64,
}

impl Frame {
    pub fn of(reading: &Reading) -> Frame {
        let (mut servers, mut rooms) = (BTreeMap::new(), BTreeMap::new());
        let (mut unhealthy, mut watched) = (Vec::new(), Vec::new());
        let (mut end, mut leaving_at) = (None, f64::INFINITY);
        let wanted = |kind: &str| matches!(kind, "rooms" | "server" | "phase" | "health" | "end");
        reading.each(wanted, |line| match line.event {
            Event::Rooms { rooms: planned } => rooms.extend(planned.into_iter().map(|r| (r.id, r.name))),
            Event::Server(info) => {
                servers.insert(info.id, info.name);
            }
            Event::Phase { phase: Phase::Leaving } => leaving_at = leaving_at.min(line.t),
            Event::Health(health) => {
                let window = Window::ending(line.t, health.seconds);
                watched.push(window);
                if !health.unhealthy.is_empty() {
                    unhealthy.push(window);
                }
            }
            Event::End { interrupted } => end = Some(interrupted),
            _ => {}
        });
        let run: &RunInfo = &reading.run;
        let after = |w: &Window| Window { until_ms: w.until_ms + AFTERMATH_MS, ..*w };
        Frame {
            aftermath: Windows::of(unhealthy.iter().map(after).collect()),
            servers,
            rooms,
            unhealthy: Windows::of(unhealthy),
            watched: Windows::of(watched),
            end,
            join_timeout_ms: run.join_timeout_ms,
            hold: Window { from_ms: run.hold_from_ms, until_ms: run.hold_until_ms.min(leaving_at) },
        }
    }

    pub fn server_name(&self, id: ServerId) -> String {
        self.servers.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// True when the whole window belongs to the hold.
    pub fn in_hold(&self, w: &Window) -> bool {
        w.from_ms >= self.hold.from_ms - EDGE_MS && w.until_ms <= self.hold.until_ms + EDGE_MS
    }

    /// How much of the window the generator was unhealthy in, or had just been.
    pub fn unsettled_ms(&self, w: &Window) -> f64 {
        self.aftermath.overlap_ms(w)
    }

    /// True when what happened in the window may be the generator's doing: it was unhealthy, or nobody was watching it.
    pub fn inconclusive(&self, w: &Window) -> bool {
        self.aftermath.touch(w) || self.watched.overlap_ms(w) < w.length_ms() / 2.0
    }
}
