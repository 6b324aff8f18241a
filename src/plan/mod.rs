//! Who joins which room when, from a profile and a seed. Pure: the same profile and seed give the same plan, byte
//! for byte.

mod arrivals;
mod build;
mod course;
mod late;
mod limits;
mod relay;
mod search;
mod step;
mod totals;

#[cfg(test)]
mod tests;

pub use build::{LAST_JOIN_BEFORE_END, SEAT_GAP, mute_seed, plan, talk_seed};
pub use course::{Course, Order, PlannedTrial};
pub use late::late_legs;
pub use limits::{Limits, Machine, Need, TransportsPer, limits};
pub use relay::{Relay, is_relayed, relay};
pub use step::{NO_SEAT, StepEvent, StepStage};
pub use totals::{Flows, PlanTotals, pps, totals, wire_bps};

use crate::types::{Encoding, LegId, RoomId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The seeded timeline of a run. All times count from the start of the run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub seed: u64,
    pub rooms: Vec<PlannedRoom>,
    /// Sorted by `join_at`; a leg's id is its index.
    pub legs: Vec<PlannedLeg>,
    /// Judging starts here: after the last planned first join plus the profile's warm-up.
    pub hold_from: Duration,
    /// Judging ends here, and everybody leaves.
    pub hold_until: Duration,
}

/// A room and who may be in it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlannedRoom {
    pub id: RoomId,
    /// Unique in the run: group name and number, e.g. `meeting-7`.
    pub name: String,
    /// Index of its `[[rooms]]` table in the profile.
    pub group: usize,
    /// Participants present at once when full.
    pub size: u32,
    /// The most participants that send audio at once, and video at once: what a member may have to receive.
    pub senders_max: u32,
    /// The server it belongs on, where the plan says so; else the target decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// One participant's planned stay.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlannedLeg {
    pub id: LegId,
    pub room: RoomId,
    /// Its place in the room, from 0; a successor has its predecessor's.
    #[serde(default)]
    pub seat: u32,
    /// Unique in the run, e.g. `meeting-7/p3` and, for the successor of a stay that ended, `meeting-7/p3.2`.
    pub name: String,
    pub join_at: Duration,
    /// At most `hold_until`.
    pub leave_at: Duration,
    pub audio: Option<Encoding>,
    pub video: Option<Encoding>,
    /// Which of its group's networks it is behind; `None`: a perfect one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<usize>,
}

impl PlannedLeg {
    pub fn sends(&self) -> bool {
        self.audio.is_some() || self.video.is_some()
    }
}
