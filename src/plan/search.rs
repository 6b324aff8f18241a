//! The rooms of a search: one sequence for every server that is loaded, in which each stretch has the profile's mix.

use super::{PlannedLeg, PlannedRoom};
use crate::profile::{Profile, RoomGroup, Search};
use crate::types::{LegId, RoomId};
use std::time::Duration;

/// Groups by their turn: each next room is of the group that is furthest behind its share of the rooms. Ends before
/// the participants exceed `most`, but has one room at least. Gives group and size of each.
fn sequence(profile: &Profile, most: u32) -> Vec<(usize, u32)> {
    let total: i64 = profile.rooms.iter().map(|g| i64::from(g.count)).sum();
    let mut credit: Vec<i64> = vec![0; profile.rooms.len()];
    let mut number = vec![0u32; profile.rooms.len()];
    let (mut out, mut sum) = (Vec::new(), 0);
    loop {
        for (c, g) in credit.iter_mut().zip(&profile.rooms) {
            *c += i64::from(g.count);
        }
        // Of equals the first.
        let Some(group) = (0..credit.len()).rev().max_by_key(|i| credit[*i]) else { return out };
        credit[group] -= total;
        number[group] += 1;
        let g = &profile.rooms[group];
        let size = super::build::room_size(profile.seed, g, number[group]);
        sum += size;
        if sum > most && !out.is_empty() {
            return out;
        }
        out.push((group, size));
    }
}

/// The network of a group's n-th seat. Steps of the golden ratio fill the unit interval evenly from the first on, so each
/// load has the shares that the profile gives its networks.
pub(super) fn network(group: &RoomGroup, seat: u64) -> Option<usize> {
    const STEP: f64 = 0.618_033_988_749_894_9;
    let at = (seat as f64 * STEP).fract();
    let mut share = 0.0;
    group.networks.iter().position(|n| {
        share += n.share;
        at < share - 1e-9
    })
}

/// All rooms of the search at its highest load, server by server in turn, and a leg for each seat.
pub(super) fn rooms_and_seats(profile: &Profile, search: &Search) -> (Vec<PlannedRoom>, Vec<PlannedLeg>) {
    let servers = profile.target.loaded(search.server.as_deref());
    let mut number = vec![0u32; profile.rooms.len()];
    let mut seats = vec![0u64; profile.rooms.len()];
    let (mut rooms, mut legs) = (Vec::new(), Vec::new());
    for (group, size) in sequence(profile, search.range.1) {
        let g = &profile.rooms[group];
        for server in &servers {
            number[group] += 1;
            let sending = if g.audio.is_some() || g.video.is_some() { super::build::senders(g, size) } else { 0 };
            let room = PlannedRoom {
                id: RoomId(rooms.len() as u32),
                name: format!("{}-{}", g.name, number[group]),
                group,
                size,
                senders_max: sending,
                server: server.clone(),
            };
            let before = seats[group];
            seats[group] += u64::from(size);
            legs.extend((0..size).map(|seat| PlannedLeg {
                id: LegId(0),
                room: room.id,
                name: format!("{}/p{}", room.name, seat + 1),
                join_at: Duration::ZERO,
                leave_at: search.budget,
                audio: g.audio.filter(|_| seat < sending),
                video: g.video.filter(|_| seat < sending),
                network: network(g, before + u64::from(seat)),
                seat,
            }));
            rooms.push(room);
        }
    }
    for (i, leg) in legs.iter_mut().enumerate() {
        leg.id = LegId(i as u32);
        leg.join_at = Duration::from_secs_f64(i as f64 / search.join);
    }
    (rooms, legs)
}
