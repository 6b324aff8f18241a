//! What a profile of shape capacity asks for, in the terms of the search.

use super::loads::Loads;
use super::objectives::Scope;
use super::search::Goal;
use crate::plan::{self, PlannedLeg, PlannedRoom};
use crate::profile::{HealthLimits, Profile, Search, Talk, Target, Threshold};
use crate::types::Kind;

/// A search, ready to be made or judged.
#[derive(Clone, Debug)]
pub struct Setting {
    pub goal: Goal,
    pub loads: Loads,
    pub search: Search,
    pub objectives: Vec<Threshold>,
    pub health: HealthLimits,
    /// Servers that are loaded, each with the load; `None`: whatever the target decides, all of these taken together.
    pub servers: Vec<Option<String>>,
    /// All servers of the target that carry rooms, by name.
    pub carriers: Vec<String>,
    /// The load is on a target of nobody knows how many servers: nothing is said of one server.
    pub whole_target: bool,
    /// Rooms of the highest load, server by server in turn.
    pub rooms: Vec<PlannedRoom>,
    /// A leg for each seat of all rooms, in their order.
    pub seats: Vec<PlannedLeg>,
    pub(super) streams: Vec<[u64; 2]>,
    /// By kind: whoever sends it sends all the time.
    pub(super) constant: [bool; 2],
    /// Of a join, ms.
    pub(super) join_timeout_ms: f64,
    /// Rooms are pairs that talk through TURN servers, which are the target.
    pub(super) pairs: bool,
}

impl Setting {
    /// `None` for profiles of another shape.
    pub fn of(profile: &Profile) -> Option<Setting> {
        let search = profile.search.clone()?;
        let servers = profile.target.loaded(search.server.as_deref());
        let made = plan::plan(profile);
        let first: Vec<&PlannedRoom> = made.rooms.iter().step_by(servers.len().max(1)).collect();
        let sizes: Vec<u32> = first.iter().map(|r| r.size).collect();
        let seconds = |d: std::time::Duration| d.as_secs_f64();
        let goal = Goal {
            loss_ratio: search.loss_ratio,
            initial_trial: seconds(search.first_trial).ceil(),
            final_trial: seconds(search.trial).ceil(),
            duration_sum: seconds(search.trial_sum).max(seconds(search.trial).ceil()),
            exceed_ratio: search.exceed_ratio,
            width: search.width,
        };
        let last_n = match &profile.target {
            Target::Embedded(t) => t.last_n.unwrap_or(u32::MAX),
            Target::External(_) => u32::MAX,
        };
        // Streams that a server sends, by kind, with its first 1, 2, … rooms.
        let mut sum = [0, 0];
        let streams = first
            .iter()
            .map(|room| {
                let group = &profile.rooms[room.group];
                sum[0] += if group.audio.is_some() { sent(room, u32::MAX) } else { 0 };
                sum[1] += if group.video.is_some() { sent(room, last_n) } else { 0 };
                sum
            })
            .collect();
        let constant = profile.rooms.iter().all(|g| g.talk == Talk::All && g.mute.is_none());
        Some(Setting {
            goal,
            loads: Loads::new(&sizes, search.range.0, search.range.1),
            objectives: profile.pass.clone(),
            health: profile.health,
            whole_target: search.server.is_none() && profile.target.is_one_unknown_fleet(),
            carriers: profile.target.carriers(),
            search,
            servers,
            rooms: made.rooms,
            seats: made.legs,
            streams,
            constant: [constant, true],
            join_timeout_ms: profile.load.join_timeout.as_secs_f64() * 1000.0,
            pairs: profile.pairs().is_some(),
        })
    }

    /// Whether anything is asked of joins.
    pub(super) fn judges_joins(&self) -> bool {
        self.objectives.iter().any(|o| Scope::of(&o.metric) == Scope::Joins)
    }

    /// How many servers' loads are judged as one under this name.
    pub(super) fn together(&self, name: Option<&str>) -> u32 {
        let same = self.servers.iter().filter(|s| s.as_deref() == name).count();
        same.max(1) as u32
    }

    /// Whether each second of a load has media of this kind.
    pub(super) fn flows(&self, kind: Kind, rooms: u32) -> bool {
        self.constant[kind.index()] && self.streams(rooms)[kind.index()] > 0
    }

    /// Whether a load has what an objective is about; true as well where no load has it.
    pub(super) fn is_sent(&self, metric: &str, rooms: u32) -> bool {
        let Some(kind) = Kind::BOTH.into_iter().find(|k| metric.starts_with(k.as_str())) else { return true };
        self.streams(rooms)[kind.index()] > 0 || self.streams(self.loads.max())[kind.index()] == 0
    }

    /// Audio and video streams that a server sends at a load.
    pub fn streams(&self, rooms: u32) -> [u64; 2] {
        (rooms as usize).checked_sub(1).and_then(|i| self.streams.get(i).copied()).unwrap_or_default()
    }
}

/// Streams of one kind in a room in which each participant gets those of at most `others`.
fn sent(room: &PlannedRoom, others: u32) -> u64 {
    let senders = room.senders_max.min(room.size);
    let to = |receivers: u32, of: u32| u64::from(receivers) * u64::from(of.min(others));
    to(room.size - senders, senders) + to(senders, senders.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::MODEL_PROFILE;

    #[test]
    fn last_n_takes_streams_of_video_away_and_none_of_audio() {
        let streams = |more: &str, room: &str| {
            let text = MODEL_PROFILE.replace("servers = 1\n[[rooms]]", &format!("servers = 1\n{more}\n[[rooms]]"));
            let text = text.replace("size = 4", room);
            let profile = crate::profile::parse_resolved(&text).unwrap_or_else(|e| panic!("{e}"));
            Setting::of(&profile).unwrap().streams(2)
        };
        assert_eq!(streams("", "size = 4"), [24, 24]);
        assert_eq!(streams("last_n = 2", "size = 4"), [24, 16]);
        assert_eq!(streams("last_n = 9", "size = 4"), [24, 24]);
        // Three of ten send: seven watch all of them, each of the three the two others.
        assert_eq!(streams("", "size = 10\nsend = 3"), [54, 54]);
        assert_eq!(streams("last_n = 2", "size = 10\nsend = 3"), [54, 40]);
    }
}
