//! A search on a live fleet: moves the load from trial to trial by whole rooms, lets it settle, has it judged, and asks
//! the search what is next. Pure: time is an argument, and what happens comes in as lines of the history.

use super::record::{DOUBT_MS, Record};
use super::search::{Step, Stop, next};
use super::setting::Setting;
use super::trial::{Outcome, TrialRow};
use crate::history::{Event, Line};
use crate::plan::{Course, Order, PlannedTrial};
use crate::types::LegId;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Leaves of a load that shrinks, a second.
const LEAVES_PER_SECOND: f64 = 100.0;
/// From the last leave to the first join: a target that is busy with leaves need not refuse a seat.
const AFTER_LEAVES: Duration = Duration::from_secs(2);
/// Seconds of media are known so long after their end at most.
const GRACE: Duration = Duration::from_secs(4);
/// Share of the rooms that are emptied and filled again on the way down, so that each load has joins of its own.
const CHURN: f64 = 0.1;
/// Settle times that a server gets at most to work off what an overload has left.
const RECOVERY: u32 = 10;
/// Trials with joins after which an objective on joins that found nothing to measure will find nothing.
const UNHEARD_MAX: usize = 3;
/// How often to look for news.
const TICK: Duration = Duration::from_millis(100);

/// One chair of a room.
struct Seat {
    /// Of the room among those of its server, from 0.
    row: u32,
    leg: Option<LegId>,
    occupants: u32,
}

enum Stage {
    /// The first trial is still to be chosen.
    Start,
    /// Those who are too many leave.
    Leaving(Move),
    /// A server that was asked for too much works off what it has left; who joined meanwhile would wait in its queue.
    Recovering(Move, Wait),
    Joining(Move, Duration),
    Settling(Move, Wait),
    Judging {
        until: Duration,
    },
    Over,
}

/// On the way to a load, and for how long it is to be judged.
#[derive(Clone, Copy)]
struct Move {
    rooms: u32,
    seconds: f64,
    since: Duration,
}

/// Until then, and while the server works off what an overload has left; but not even then longer than until `latest`.
#[derive(Clone, Copy)]
struct Wait {
    until: Duration,
    latest: Duration,
}

/// See the module.
pub struct Search {
    record: Record,
    seats: Vec<Seat>,
    /// Seats of legs by leg.
    taken: Vec<usize>,
    joining: BTreeSet<LegId>,
    /// Seats that are to be taken once those who are too many have left.
    joins: Vec<usize>,
    orders: VecDeque<(Duration, Due)>,
    stage: Stage,
    /// Set when the stage ended by an order of its own.
    number: u32,
    stop: Option<Stop>,
}

enum Due {
    Join(usize),
    Leave(usize),
}

impl Search {
    pub fn new(setting: Setting) -> Search {
        let wide = setting.servers.len().max(1) as u32;
        let seat = |leg: &crate::plan::PlannedLeg| Seat { row: leg.room.0 / wide, leg: None, occupants: 0 };
        Search {
            seats: setting.seats.iter().map(seat).collect(),
            record: Record::new(setting),
            taken: Vec::new(),
            joining: BTreeSet::new(),
            joins: Vec::new(),
            orders: VecDeque::new(),
            stage: Stage::Start,
            number: 0,
            stop: None,
        }
    }

    /// Every line of the history, as it is written.
    pub fn see(&mut self, line: &Line) {
        match &line.event {
            Event::Joined { leg, .. } => {
                self.joining.remove(leg);
            }
            Event::JoinFailed(failure) => self.gone(failure.leg),
            Event::LegEnd(end) => self.gone(end.leg),
            _ => {}
        }
        self.record.see(line);
    }

    /// The trials so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where the search stands, for the line that is renewed each second; ends with a space.
    pub fn progress(&self) -> String {
        let participants = |rooms: u32| self.record.setting().loads.participants(rooms);
        let known = super::search::bounds(&self.record.setting().goal, &self.record.searched());
        let side = |rooms: Option<u32>| rooms.map_or_else(|| "?".to_owned(), |r| participants(r).to_string());
        let bounds = format!("{}–{}", side(known.lower), side(known.upper));
        match self.stage {
            Stage::Leaving(to) | Stage::Recovering(to, _) | Stage::Joining(to, _) | Stage::Settling(to, _) => {
                format!("[{bounds}; to {}] ", participants(to.rooms))
            }
            Stage::Judging { .. } => format!("[{bounds}; trial {}] ", self.number),
            Stage::Start | Stage::Over => format!("[{bounds}] "),
        }
    }

    fn gone(&mut self, leg: LegId) {
        self.joining.remove(&leg);
        if let Some(seat) = self.taken.get(leg.index()).and_then(|s| self.seats.get_mut(*s))
            && seat.leg == Some(leg)
        {
            seat.leg = None;
        }
    }

    /// What the trials so far call for.
    fn step(&self, now: Duration) -> Step {
        let setting = self.record.setting();
        if let Some(last) = self.record.trials.last() {
            if !last.deserted.is_empty() && last.why.is_none() {
                return Step::Done(Stop::TargetGone);
            }
            if !last.silent.is_empty() && last.why.is_none() {
                return Step::Done(Stop::NoData);
            }
        }
        let left = setting.search.budget.saturating_sub(now).saturating_sub(setting.search.settle).as_secs_f64();
        let step = next(&setting.goal, &setting.loads, &self.record.searched(), left);
        let (unheard, tried) = self.record.unheard();
        // Where something broke, it is no riddle that others found nothing to measure.
        let answered = matches!(step, Step::Done(Stop::Width | Stop::AboveRange | Stop::Budget));
        if !unheard.is_empty() && tried > 0 && (tried >= UNHEARD_MAX || answered) {
            return Step::Done(Stop::NoData);
        }
        match step {
            Step::Try { rooms, seconds } => {
                let (leaves, joins) = self.moves(rooms);
                let leaving = leaves.len() as f64 / LEAVES_PER_SECOND;
                let pause = if leaves.is_empty() { Duration::ZERO } else { self.after_leaves() };
                let moving = leaving + pause.as_secs_f64() + joins.len() as f64 / setting.search.join;
                match moving + seconds > left {
                    true => Step::Done(Stop::Budget),
                    false => Step::Try { rooms, seconds },
                }
            }
            done @ Step::Done(_) => done,
        }
    }

    /// Seats to leave and seats to take, in this order, so that a load is there.
    fn moves(&self, rooms: u32) -> (Vec<usize>, Vec<usize>) {
        let setting = self.record.setting();
        let present = self.seats.iter().filter(|s| s.leg.is_some()).map(|s| s.row + 1).max().unwrap_or(0);
        // On the way down as on the way up, the last rooms are freshly joined; and again where no joins of this load were
        // judged.
        let judged = |t: &TrialRow| {
            t.rooms == rooms && t.outcome != Outcome::Invalid && t.servers.iter().all(|s| s.joined + s.joins_failed > 0)
        };
        let unjudged = || present == rooms && !self.record.trials.iter().any(judged);
        let keep = match setting.judges_joins() && (present > rooms || unjudged()) {
            true => rooms - ((f64::from(rooms) * CHURN).ceil() as u32).min(rooms),
            false => rooms,
        };
        let leaves = (0..self.seats.len()).rev().filter(|i| self.seats[*i].leg.is_some() && self.seats[*i].row >= keep);
        let empty =
            |i: &usize| self.seats[*i].row < rooms && (self.seats[*i].leg.is_none() || self.seats[*i].row >= keep);
        let mut joins: Vec<usize> = (0..self.seats.len()).filter(empty).collect();
        // Servers take turns: each has its part of the rate all the time.
        joins.sort_by_key(|i| (self.seats[*i].row, setting.seats[*i].seat));
        (leaves.collect(), joins)
    }

    /// Leaves what is too much; then joins what is missing.
    fn move_to(&mut self, rooms: u32, seconds: f64, now: Duration) {
        let to = Move { rooms, seconds, since: now };
        let (leaves, joins) = self.moves(rooms);
        self.joins = joins;
        if leaves.is_empty() {
            return self.join(to, now);
        }
        for (i, seat) in leaves.into_iter().enumerate() {
            self.orders.push_back((now + Duration::from_secs_f64(i as f64 / LEAVES_PER_SECOND), Due::Leave(seat)));
        }
        self.stage = Stage::Leaving(to);
    }

    fn join(&mut self, to: Move, now: Duration) {
        let seats = std::mem::take(&mut self.joins);
        let at = |i: usize| now + Duration::from_secs_f64(i as f64 / self.record.setting().search.join);
        self.orders.extend(seats.iter().enumerate().map(|(i, seat)| (at(i), Due::Join(*seat))));
        self.stage = Stage::Joining(to, at(seats.len()));
    }

    /// From the last leave to the first join: what comes at first was sent before anybody left.
    fn after_leaves(&self) -> Duration {
        AFTER_LEAVES + Duration::from_secs_f64(self.record.delay_ms() / 1000.0)
    }

    /// Of so long at least.
    fn wait(&self, now: Duration, least: Duration) -> Wait {
        Wait { until: now + least, latest: now + least.max(self.record.setting().search.settle * RECOVERY) }
    }

    fn waits(wait: Wait, now: Duration, goes_on: bool) -> bool {
        now < wait.until || (goes_on && now < wait.latest)
    }

    fn follow(&mut self, due: Due, at: Duration) -> Option<Order> {
        match due {
            Due::Leave(i) => self.seats[i].leg.map(Order::Leave),
            Due::Join(i) => {
                let mut leg = self.record.setting().seats[i].clone();
                let seat = &mut self.seats[i];
                let id = LegId(self.taken.len() as u32);
                (leg.id, leg.join_at) = (id, at);
                seat.occupants += 1;
                if seat.occupants > 1 {
                    leg.name = format!("{}.{}", leg.name, seat.occupants);
                }
                seat.leg = Some(id);
                self.taken.push(i);
                self.joining.insert(id);
                Some(Order::Join(leg))
            }
        }
    }

    fn end(&mut self, stop: Stop) -> Order {
        self.stage = Stage::Over;
        self.stop = Some(stop);
        Order::End { why: stop.as_str().to_owned() }
    }
}

impl Course for Search {
    fn due(&mut self, now: Duration) -> Option<Order> {
        loop {
            if matches!(self.stage, Stage::Over) {
                return None;
            }
            // A trial that began in time ends; one that joins have held up does not begin.
            let budget = self.record.setting().search.budget;
            let late = match self.stage {
                Stage::Leaving(_) | Stage::Recovering(..) | Stage::Joining(..) | Stage::Settling(..) => true,
                Stage::Judging { until } => until > budget,
                Stage::Start | Stage::Over => false,
            };
            if late && now >= budget {
                self.orders.clear();
                return Some(self.end(Stop::Budget));
            }
            if let Some((at, _)) = self.orders.front() {
                if now < *at {
                    return None;
                }
                let (at, due) = self.orders.pop_front()?;
                if let Some(order) = self.follow(due, at) {
                    return Some(order);
                }
                continue;
            }
            match self.stage {
                Stage::Start => match self.step(now) {
                    Step::Try { rooms, seconds } => self.move_to(rooms, seconds, now),
                    Step::Done(stop) => return Some(self.end(stop)),
                },
                Stage::Leaving(to) => {
                    self.stage = Stage::Recovering(to, self.wait(now, self.after_leaves()));
                }
                Stage::Recovering(to, wait) => {
                    if Search::waits(wait, now, self.record.is_behind()) {
                        return None;
                    }
                    self.join(to, now);
                }
                Stage::Joining(to, joins_by) => {
                    // Joins end by themselves: each has its time-out.
                    if !self.joining.is_empty() && now < joins_by + Duration::from_secs(600) {
                        return None;
                    }
                    self.stage = Stage::Settling(to, self.wait(now, self.record.setting().search.settle));
                }
                Stage::Settling(Move { rooms, seconds, since }, wait) => {
                    if Search::waits(wait, now, self.record.is_recovering()) {
                        return None;
                    }
                    // Intervals end at whole seconds; the one under way belongs to nobody.
                    let from = Duration::from_secs(now.as_secs() + 1);
                    let until = from + Duration::from_secs_f64(seconds);
                    self.number += 1;
                    self.stage = Stage::Judging { until };
                    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
                    let participants = self.record.setting().loads.participants(rooms);
                    return Some(Order::Trial(PlannedTrial {
                        number: self.number,
                        rooms,
                        participants,
                        moved_ms: ms(since),
                        from_ms: ms(from),
                        until_ms: ms(until),
                    }));
                }
                Stage::Judging { until } => {
                    let doubt = Duration::from_secs_f64(DOUBT_MS / 1000.0);
                    if now < until
                        || (!self.record.is_whole() && now < until + GRACE)
                        || (self.record.is_in_doubt() && now < until + doubt)
                    {
                        return None;
                    }
                    self.record.close();
                    match self.step(now) {
                        Step::Try { rooms, seconds } => self.move_to(rooms, seconds, now),
                        Step::Done(stop) => return Some(self.end(stop)),
                    }
                }
                Stage::Over => return None,
            }
        }
    }

    fn wake(&self, now: Duration) -> Duration {
        let soon = now + TICK;
        match (&self.stage, self.orders.front()) {
            (Stage::Over, _) => now + Duration::from_secs(1),
            (_, Some((at, _))) => (*at).min(soon).max(now),
            (Stage::Settling(_, wait) | Stage::Recovering(_, wait), None) => wait.until.min(soon).max(now),
            _ => soon,
        }
    }
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
