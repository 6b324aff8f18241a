//! The plan of a profile: rooms, seats, who takes them when, and who comes after.
//!
//! Joins come at the times of `load.join`, whatever the target does. Who comes next is a shuffle of all seats of all
//! rooms, so that rooms fill side by side, as they do in life. Each purpose draws from a random stream of its own, named
//! by the group's name and the room's number: another room group added to the profile takes places in between but leaves
//! the order, sizes and stays of the others as they were.

use super::arrivals::{arrivals, at};
use super::{Plan, PlannedLeg, PlannedRoom};
use crate::profile::{Profile, RoomGroup, Senders, Size, Stay};
use crate::types::{Encoding, LegId, RoomId};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::time::Duration;

/// A seat stays empty so long between a participant's stay and its successor's, so that a target that is still busy
/// with the leave does not refuse the join because the room is full.
pub const SEAT_GAP: Duration = Duration::from_millis(500);
/// Nobody begins to join this shortly before the end.
pub const LAST_JOIN_BEFORE_END: Duration = Duration::from_secs(2);
const STAY_MIN_S: f64 = 1.0;

/// Plans a run. The same profile and seed give the same plan, byte for byte.
///
/// `hold_from` is the last planned first join plus warm-up. Where a room group has a `stay`, each participant leaves
/// after it and a successor (`meeting-7/p3.2`) takes the seat [`SEAT_GAP`] later, until the end of the hold; these joins
/// come on top of the join rate.
///
/// A search makes its timeline as it goes: its plan is every room and seat of the highest load, all joined one after the
/// other.
pub fn plan(profile: &Profile) -> Plan {
    if let Some(search) = &profile.search {
        let (rooms, legs) = super::search::rooms_and_seats(profile, search);
        return Plan { seed: profile.seed, rooms, legs, hold_from: Duration::ZERO, hold_until: search.budget };
    }
    let rooms = rooms(profile);
    let mut seats = seats(profile, &rooms);
    let mut rng = stream(profile.seed, Purpose::Arrivals, "", 0);
    let times = arrivals(profile.load.join, seats.len(), &mut rng);
    let last = times.last().copied().unwrap_or_default();
    let hold_from = last + profile.load.warmup;
    let hold_until = hold_from + profile.load.hold;

    behind_networks(profile, &mut seats);
    let mut legs = Vec::with_capacity(seats.len());
    for (seat, join_at) in seats.iter_mut().zip(times) {
        fill(seat, &profile.rooms[seat.room.group], profile.seed, join_at, hold_until, &mut legs);
    }
    // Stable: first joins keep the order of the shuffle where times are equal, as in a burst.
    legs.sort_by_key(|leg| leg.join_at);
    for (i, leg) in legs.iter_mut().enumerate() {
        leg.id = LegId(i as u32);
    }
    Plan { seed: profile.seed, rooms, legs, hold_from, hold_until }
}

fn rooms(profile: &Profile) -> Vec<PlannedRoom> {
    let mut rooms = Vec::new();
    for (group, g) in profile.rooms.iter().enumerate() {
        for number in 1..=g.count + g.late_rooms {
            let size = room_size(profile.seed, g, number) + g.late_seats;
            let sending = g.audio.is_some() || g.video.is_some();
            rooms.push(PlannedRoom {
                id: RoomId(rooms.len() as u32),
                name: format!("{}-{number}", g.name),
                group,
                size,
                senders_max: if sending { senders(g, size) } else { 0 },
                server: None,
            });
        }
    }
    rooms
}

/// Size of a group's n-th room, where it is drawn.
pub(super) fn room_size(seed: u64, group: &RoomGroup, number: u32) -> u32 {
    match group.size {
        Size::Fixed(n) => n,
        Size::Range(a, b) => stream(seed, Purpose::Size, &group.name, number.into()).random_range(a..=b),
    }
}

pub(super) fn senders(group: &RoomGroup, size: u32) -> u32 {
    match group.send {
        Senders::All => size,
        Senders::Some(n) => n.min(size),
    }
}

/// Nobody joins it before a step says so: it is behind the group's `count` first ones.
pub(super) fn is_late(group: &RoomGroup, room: &PlannedRoom) -> bool {
    let number = room.name.rsplit_once('-').and_then(|(_, n)| n.parse().ok());
    number.is_some_and(|n: u32| n > group.count)
}

/// One chair of a room.
struct Seat<'a> {
    room: &'a PlannedRoom,
    /// From 0; the first ones send.
    index: u32,
    order: u64,
    network: Option<usize>,
}

/// Gives each network of a group its share of the group's seats: as many as the share says, which ones by the seed.
fn behind_networks(profile: &Profile, seats: &mut [Seat<'_>]) {
    for (group, g) in profile.rooms.iter().enumerate().filter(|(_, g)| !g.networks.is_empty()) {
        let mut of_group: Vec<(u64, usize)> = Vec::new();
        for (i, seat) in seats.iter().enumerate().filter(|(_, s)| s.room.group == group) {
            of_group.push((stream(profile.seed, Purpose::Network, &seat.room.name, seat.index.into()).next_u64(), i));
        }
        of_group.sort_unstable();
        let n = of_group.len() as f64;
        let (mut share, mut next) = (0.0, of_group.iter());
        let mut taken = 0;
        for (k, network) in g.networks.iter().enumerate() {
            share += network.share;
            // By the running sum, so that rounding never adds up to more than there are.
            let upto = (share * n).round() as usize;
            for (_, i) in next.by_ref().take(upto - taken) {
                seats[*i].network = Some(k);
            }
            taken = upto;
        }
    }
}

/// All seats in the order in which they are taken.
fn seats<'a>(profile: &Profile, rooms: &'a [PlannedRoom]) -> Vec<Seat<'a>> {
    let mut seats = Vec::new();
    for room in rooms {
        let mut rng = room_stream(profile, room, Purpose::Order);
        let group = &profile.rooms[room.group];
        if is_late(group, room) {
            continue;
        }
        seats.extend((0..room.size - group.late_seats).map(|index| Seat {
            room,
            index,
            order: rng.next_u64(),
            network: None,
        }));
    }
    seats.sort_by_key(|s| (s.order, s.room.id, s.index));
    seats
}

/// One seat from its first join to the end of the hold: a leg, and its successors.
fn fill(seat: &mut Seat<'_>, group: &RoomGroup, seed: u64, first: Duration, end: Duration, legs: &mut Vec<PlannedLeg>) {
    let sends = seat.index < seat.room.senders_max;
    let encoding = |e: Option<Encoding>| e.filter(|_| sends);
    let mut rng = stream(seed, Purpose::Stay, &seat.room.name, seat.index.into());
    let mut join_at = first;
    for occupant in 1u32.. {
        let leave_at = stay(group.stay, &mut rng).map_or(end, |s| (join_at + s).min(end));
        let name = match occupant {
            1 => format!("{}/p{}", seat.room.name, seat.index + 1),
            n => format!("{}/p{}.{n}", seat.room.name, seat.index + 1),
        };
        legs.push(PlannedLeg {
            id: LegId(0),
            room: seat.room.id,
            seat: seat.index,
            name,
            join_at,
            leave_at,
            audio: encoding(group.audio),
            video: encoding(group.video),
            network: seat.network,
        });
        join_at = leave_at + SEAT_GAP;
        if !group.refill || join_at + LAST_JOIN_BEFORE_END > end {
            break;
        }
    }
}

/// `None`: to the end.
fn stay(stay: Stay, rng: &mut ChaCha12Rng) -> Option<Duration> {
    let seconds = match stay {
        Stay::WholeHold => return None,
        Stay::Fixed(d) => d.as_secs_f64(),
        Stay::Uniform(a, b) => a.as_secs_f64() + (b.saturating_sub(a)).as_secs_f64() * rng.random::<f64>(),
        Stay::Exponential(mean) => -(1.0 - rng.random::<f64>()).ln() * mean.as_secs_f64(),
        Stay::LogNormal { median, sigma } => median.as_secs_f64() * (sigma * normal(rng)).exp(),
    };
    Some(at(seconds.max(STAY_MIN_S)))
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut ChaCha12Rng) -> f64 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// What randomness is for. The numbers are part of what a seed means: never reuse or reorder them.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Size = 1,
    Order = 2,
    Stay = 3,
    Arrivals = 4,
    Talk = 5,
    Mute = 6,
    Relay = 7,
    Turn = 8,
    Network = 20,
}

/// Seed of a room's conversation.
pub fn talk_seed(seed: u64, room: &PlannedRoom) -> u64 {
    stream(seed, Purpose::Talk, &room.name, 0).next_u64()
}

/// Seed of when the one on this seat is muted.
pub fn mute_seed(seed: u64, room: &PlannedRoom, seat: u32) -> u64 {
    stream(seed, Purpose::Mute, &room.name, seat.into()).next_u64()
}

fn room_stream(profile: &Profile, room: &PlannedRoom, purpose: Purpose) -> ChaCha12Rng {
    stream(profile.seed, purpose, &room.name, 0)
}

/// A random stream for one purpose, independent of all others.
pub(super) fn stream(seed: u64, purpose: Purpose, name: &str, number: u64) -> ChaCha12Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&fnv1a(name).to_le_bytes());
    key[24..].copy_from_slice(&number.to_le_bytes());
    ChaCha12Rng::from_seed(key)
}

/// FNV-1a, 64 bits: stable across versions and machines, which the standard hasher does not promise.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
