//! Stays: who joins when, leaves when, and comes back after a fall; and those whom a step joins late.

use super::unit;
use crate::history::{Event, FailReason, Line};
use crate::plan::{Order, Plan, PlannedLeg, late_legs};
use crate::profile::{Profile, Rejoin};
use crate::types::{LegId, RoomId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two joins that one step makes.
const LATE_GAP: Duration = Duration::from_millis(50);
/// What the seed is used for here.
const WAITS: u64 = 1;
const ROOMS: u64 = 2;

/// One participant's time in a room, over all its legs.
struct Stay {
    /// Name, seat, encodings; the next leg's id and times are filled in as it joins.
    leg: PlannedLeg,
    leave_at: Duration,
    now: Option<LegId>,
    /// The leg that fell last and that nobody has replaced.
    fallen: Option<LegId>,
    /// Tries to come back since then, and over the whole stay.
    tries: u32,
    rejoins: u32,
    over: bool,
    /// The operation that made it, until its join has ended.
    late: Option<u32>,
}

enum Todo {
    Join(usize),
    Rejoin(usize),
    Leave(usize),
}

/// A seat for late joiners.
struct Chair {
    leg: PlannedLeg,
    occupants: u32,
    stay: Option<usize>,
}

pub(super) struct Load {
    seed: u64,
    rejoin: Rejoin,
    plan: Arc<Plan>,
    stays: Vec<Stay>,
    /// By leg.
    stay_of: Vec<usize>,
    todo: BTreeMap<(Duration, u64), Todo>,
    next_todo: u64,
    chairs: Vec<Chair>,
    /// By group: the last seats of each room that are for late joiners.
    late_seats: Vec<u32>,
    /// Rooms of which somebody is or was in.
    used: BTreeSet<RoomId>,
}

/// What a step's joins will be.
pub(super) struct Late {
    pub joins: u32,
    /// For a person: the rooms.
    pub rooms: String,
}

impl Load {
    pub fn new(profile: &Profile, rejoin: Rejoin, plan: &Arc<Plan>) -> Load {
        let chair = |leg| Chair { leg, occupants: 0, stay: None };
        let mut load = Load {
            seed: plan.seed,
            rejoin,
            plan: plan.clone(),
            stays: Vec::with_capacity(plan.legs.len()),
            stay_of: Vec::with_capacity(plan.legs.len()),
            todo: BTreeMap::new(),
            next_todo: 0,
            chairs: late_legs(profile, plan).into_iter().map(chair).collect(),
            late_seats: profile.rooms.iter().map(|g| g.late_seats).collect(),
            used: BTreeSet::new(),
        };
        for leg in &plan.legs {
            load.stay(leg.clone(), leg.join_at, leg.leave_at, None);
        }
        load
    }

    /// Plans a stay.
    fn stay(&mut self, leg: PlannedLeg, join_at: Duration, leave_at: Duration, late: Option<u32>) -> usize {
        let stay = Stay { leg, leave_at, now: None, fallen: None, tries: 0, rejoins: 0, over: false, late };
        self.stays.push(stay);
        let i = self.stays.len() - 1;
        self.plan_for(join_at, Todo::Join(i));
        i
    }

    fn plan_for(&mut self, at: Duration, todo: Todo) {
        self.todo.insert((at, self.next_todo), todo);
        self.next_todo += 1;
    }

    pub fn wake_at(&self, now: Duration) -> Duration {
        self.todo.first_key_value().map_or(now + Duration::from_secs(1), |((at, _), _)| *at)
    }

    pub fn due(&mut self, now: Duration) -> Option<Order> {
        while self.todo.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            let ((at, _), todo) = self.todo.pop_first()?;
            let order = match todo {
                Todo::Join(i) => Some(Order::Join(self.next_leg(i, at))),
                Todo::Rejoin(i) => {
                    let stay = &self.stays[i];
                    stay.fallen.filter(|_| !stay.over).map(|fallen| Order::Rejoin(self.next_leg(i, at), fallen))
                }
                Todo::Leave(i) => {
                    let stay = &mut self.stays[i];
                    stay.over = true;
                    stay.now.map(Order::Leave)
                }
            };
            if order.is_some() {
                return order;
            }
        }
        None
    }

    fn next_leg(&mut self, i: usize, at: Duration) -> PlannedLeg {
        let id = LegId(self.stay_of.len() as u32);
        self.stay_of.push(i);
        let stay = &mut self.stays[i];
        let mut leg = stay.leg.clone();
        (leg.id, leg.join_at, leg.leave_at) = (id, at, stay.leave_at);
        if stay.fallen.is_some() {
            stay.rejoins += 1;
            stay.tries += 1;
            leg.name = format!("{}.r{}", leg.name, stay.rejoins);
        } else if stay.leave_at < self.plan.hold_until {
            let leave_at = stay.leave_at;
            self.plan_for(leave_at, Todo::Leave(i));
        }
        self.stays[i].now = Some(id);
        self.used.insert(leg.room);
        leg
    }

    /// Gives the operation whose join has ended with this line, and whether it succeeded. `back`: who falls comes back.
    pub fn see(&mut self, line: &Line, at: Duration, back: bool) -> Option<(u32, bool)> {
        let (leg, joined) = match &line.event {
            Event::Joined { leg, .. } => {
                let stay = self.of(*leg)?;
                (stay.fallen, stay.tries) = (None, 0);
                (*leg, true)
            }
            Event::JoinFailed(f) => {
                let again = self.of(f.leg)?.fallen.is_some() && f.reason != FailReason::LeftEarly;
                self.gone(f.leg, at, back && again);
                (f.leg, false)
            }
            Event::LegEnd(end) => {
                let fell = end.cause.is_drop();
                if fell {
                    self.of(end.leg)?.fallen = Some(end.leg);
                }
                self.gone(end.leg, at, back && fell);
                return None;
            }
            _ => return None,
        };
        Some((self.of(leg)?.late.take()?, joined))
    }

    fn of(&mut self, leg: LegId) -> Option<&mut Stay> {
        self.stays.get_mut(*self.stay_of.get(leg.index())?)
    }

    /// A leg is over; its stay, too, unless it is to go on.
    fn gone(&mut self, leg: LegId, at: Duration, again: bool) {
        let Some(i) = self.stay_of.get(leg.index()).copied() else { return };
        let (rejoin, seed) = (self.rejoin, self.seed);
        let stay = &mut self.stays[i];
        if stay.now != Some(leg) {
            return;
        }
        stay.now = None;
        let wait = wait(&rejoin, stay.tries, unit(seed, WAITS, u64::from(leg.0)));
        if again && !stay.over && stay.tries < rejoin.attempts && at + wait < stay.leave_at {
            self.plan_for(at + wait, Todo::Rejoin(i));
            return;
        }
        stay.over = true;
        if let Some(chair) = self.chairs.iter_mut().find(|c| c.stay == Some(i)) {
            chair.stay = None;
        }
    }

    /// Somebody joins rooms in which `lives` says that somebody is. Joins that find no seat are not made.
    pub fn join_existing(
        &mut self,
        op: u32,
        count: u32,
        stay: Option<Duration>,
        now: Duration,
        lives: impl Fn(RoomId) -> bool,
    ) -> Late {
        let mut free: Vec<usize> = (0..self.chairs.len())
            .filter(|i| self.chairs[*i].stay.is_none() && lives(self.chairs[*i].leg.room))
            .collect();
        // Round the rooms, by the seed, and each room's seats in their order.
        let turn = |c: &Chair, nth: usize| {
            (nth, (unit(self.seed, ROOMS, u64::from(c.leg.room.0) << 32 | u64::from(op)) * 1e9) as u64)
        };
        let mut nth = BTreeMap::new();
        let mut keyed: Vec<((usize, u64), usize)> = free
            .drain(..)
            .map(|i| {
                let n = nth.entry(self.chairs[i].leg.room).or_insert(0);
                *n += 1;
                (turn(&self.chairs[i], *n), i)
            })
            .collect();
        keyed.sort_unstable();
        let chosen: Vec<usize> = keyed.into_iter().take(count as usize).map(|(_, i)| i).collect();
        self.take(op, &chosen, stay, now)
    }

    /// Somebody fills rooms in which nobody ever was.
    pub fn join_new(&mut self, op: u32, count: u32, stay: Option<Duration>, now: Duration) -> Late {
        let mut rooms: Vec<RoomId> =
            self.chairs.iter().map(|c| c.leg.room).filter(|r| !self.used.contains(r)).collect();
        rooms.dedup();
        rooms.truncate(count as usize);
        let of_room = |leg: &PlannedLeg| {
            let room = &self.plan.rooms[leg.room.index()];
            rooms.contains(&leg.room) && leg.seat < room.size - self.late_seats[room.group]
        };
        let chosen: Vec<usize> = (0..self.chairs.len()).filter(|i| of_room(&self.chairs[*i].leg)).collect();
        self.used.extend(rooms);
        self.take(op, &chosen, stay, now)
    }

    fn take(&mut self, op: u32, chairs: &[usize], stay: Option<Duration>, now: Duration) -> Late {
        let mut rooms = Vec::new();
        let mut at = now;
        for i in chairs {
            let chair = &mut self.chairs[*i];
            chair.occupants += 1;
            let mut leg = chair.leg.clone();
            if chair.occupants > 1 {
                leg.name = format!("{}.{}", leg.name, chair.occupants);
            }
            rooms.push(leg.room);
            let leave_at = stay.map_or(self.plan.hold_until, |d| (at + d).min(self.plan.hold_until));
            let made = self.stay(leg, at, leave_at, Some(op));
            self.chairs[*i].stay = Some(made);
            at += LATE_GAP;
        }
        rooms.sort_unstable();
        rooms.dedup();
        let names: Vec<&str> = rooms.iter().map(|r| self.plan.rooms[r.index()].name.as_str()).collect();
        Late { joins: chairs.len() as u32, rooms: names.join(", ") }
    }
}

/// Before the next try; `unit` in 0..1.
fn wait(rejoin: &Rejoin, tries: u32, unit: f64) -> Duration {
    let mean = rejoin.backoff.saturating_mul(1u32.checked_shl(tries).unwrap_or(u32::MAX)).min(rejoin.backoff_max);
    mean.mul_f64(1.0 - rejoin.jitter + 2.0 * rejoin.jitter * unit)
}
