//! Seats that nobody takes by plan: late ones of each room, and all of the late rooms.

use super::build::is_late;
use super::{Plan, PlannedLeg};
use crate::profile::Profile;
use crate::types::LegId;

/// A leg for each of these seats, room by room; ids and times are still to be given.
pub fn late_legs(profile: &Profile, plan: &Plan) -> Vec<PlannedLeg> {
    let mut legs = Vec::new();
    for room in &plan.rooms {
        let group = &profile.rooms[room.group];
        let first = if is_late(group, room) { 0 } else { room.size - group.late_seats };
        for seat in first..room.size {
            let sends = seat < room.senders_max;
            legs.push(PlannedLeg {
                id: LegId(0),
                room: room.id,
                seat,
                name: format!("{}/p{}", room.name, seat + 1),
                join_at: plan.hold_until,
                leave_at: plan.hold_until,
                audio: group.audio.filter(|_| sends),
                video: group.video.filter(|_| sends),
                network: super::search::network(group, legs.len() as u64),
            });
        }
    }
    legs
}
