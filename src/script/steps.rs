//! The steps: when each is due, on which servers, what it waits for, and what follows it; and at the end the rollback.

use super::load::Load;
use super::sight::{Holds, Sight};
use super::unit;
use crate::history::{NO_SEAT, StepAction, StepEvent, StepStage};
use crate::plan::Order;
use crate::profile::{Next, Repeat, Rollback, ScaleIn, Selector, Start, Step};
use std::collections::VecDeque;
use std::time::Duration;

/// How often to look whether a condition holds, if nothing happens before.
const TICK: Duration = Duration::from_millis(100);
/// At the end, what is under way gets this long.
const PATIENCE: Duration = Duration::from_secs(15);
const DAY_NS: u64 = 86_400_000_000_000;
/// What the seed is used for here.
const SERVERS: u64 = 3;

/// A step of one round on one server.
struct Op {
    step: usize,
    round: u32,
    /// Known at last when it is due.
    server: Option<String>,
    /// Its number in the history, once it has any.
    number: Option<u32>,
    /// It was not skipped.
    began: bool,
    /// Joins that it is about.
    asked: u32,
    state: State,
}

enum State {
    Waiting {
        until: Duration,
    },
    /// It is due, and waits for its condition.
    Due {
        since: Duration,
    },
    Acting,
    /// Joins of its own are under way.
    Joining {
        left: u32,
        joined: u32,
        rooms: String,
    },
    Over {
        done: bool,
    },
}

pub(super) struct Steps {
    steps: Vec<Step>,
    rollback: Vec<Rollback>,
    seed: u64,
    ops: Vec<Op>,
    next_number: u32,
    /// How many there were when a step was due last: the rounds of a step that gives none.
    servers: u32,
    /// Orders that wait to be taken.
    orders: VecDeque<Order>,
    /// What is rolled back, in order; set at the end.
    undo: VecDeque<(usize, Option<String>)>,
    /// Number of the rollback that is under way, and when our patience with it ends.
    undoing: Option<(u32, Duration)>,
    ending: Option<Ending>,
}

struct Ending {
    until: Duration,
    /// The rollback is in `undo`.
    planned: bool,
}

impl Steps {
    pub fn new(setting: &ScaleIn, hold_from: Duration, epoch_ns: u64, seed: u64) -> Steps {
        let mut steps = Steps {
            steps: setting.steps.clone(),
            rollback: setting.rollback.clone(),
            seed,
            ops: Vec::new(),
            next_number: 0,
            servers: 0,
            orders: VecDeque::new(),
            undo: VecDeque::new(),
            undoing: None,
            ending: None,
        };
        for i in 0..steps.steps.len() {
            let until = match steps.steps[i].start {
                Start::At(at) => hold_from + at,
                Start::Clock(day) => {
                    let from = epoch_ns.saturating_add(hold_from.as_nanos() as u64) % DAY_NS;
                    let wanted = u64::from(day.0) * 1_000_000_000;
                    hold_from + Duration::from_nanos((wanted + DAY_NS - from) % DAY_NS)
                }
                Start::After { .. } => continue,
            };
            steps.plan(i, 0, None, until);
        }
        steps
    }

    fn plan(&mut self, step: usize, round: u32, server: Option<String>, until: Duration) {
        let state = State::Waiting { until };
        self.ops.push(Op { step, round, server, number: None, began: false, asked: 0, state });
    }

    /// What the history says of an operation.
    pub fn see(&mut self, event: &StepEvent, at: Duration) {
        let done = match event.stage {
            StepStage::Done => true,
            StepStage::Failed => false,
            StepStage::Begun | StepStage::Skipped => return,
        };
        if self.undoing.is_some_and(|(n, _)| n == event.op) {
            self.undoing = None;
        }
        let acting = |o: &Op| o.number == Some(event.op) && matches!(o.state, State::Acting);
        if let Some(i) = self.ops.iter().position(acting) {
            self.over(i, done, at);
        }
    }

    /// A join that an operation made has ended.
    pub fn late_join(&mut self, number: u32, ok: bool, at: Duration) {
        let Some(i) = self.ops.iter().position(|o| o.number == Some(number)) else { return };
        let State::Joining { left, joined, rooms } = &mut self.ops[i].state else { return };
        *left = left.saturating_sub(1);
        *joined += u32::from(ok);
        if *left > 0 {
            return;
        }
        let (joined, rooms) = (*joined, std::mem::take(rooms));
        let all = self.ops[i].asked;
        let stage = if joined == all { StepStage::Done } else { StepStage::Failed };
        let event = self.event(i, stage, format!("{joined} of {all} joined: {rooms}"));
        self.orders.push_back(Order::Step(event));
        self.over(i, joined == all, at);
    }

    pub fn wake_at(&self, now: Duration) -> Duration {
        if !self.orders.is_empty() {
            return now;
        }
        let op = |o: &Op| match o.state {
            State::Waiting { until } => Some(until),
            State::Due { .. } => Some(now + TICK),
            State::Acting | State::Joining { .. } | State::Over { .. } => None,
        };
        let ops = self.ops.iter().filter_map(op).filter(|_| self.ending.is_none());
        let patience = [self.undoing.map(|(_, until)| until), self.ending.as_ref().map(|_| now + TICK)];
        ops.chain(patience.into_iter().flatten()).fold(now + Duration::from_secs(1), Duration::min)
    }

    /// Takes the next order that is due.
    pub fn due(&mut self, now: Duration, sight: &Sight, load: &mut Load) -> Option<Order> {
        let mut i = 0;
        // Operations that come into being meanwhile are behind, and are looked at in the same go.
        while self.orders.is_empty() && i < self.ops.len() {
            match self.ops[i].state {
                State::Waiting { until } if now >= until => self.come_due(i, until, sight),
                _ => {}
            }
            if let State::Due { since } = self.ops[i].state {
                self.try_now(i, since, now, sight, load);
            }
            i += 1;
        }
        self.orders.pop_front()
    }

    /// Finds the servers of an operation that is due; and plans the next round, where rounds come by time.
    fn come_due(&mut self, i: usize, until: Duration, sight: &Sight) {
        let (step, round) = (self.ops[i].step, self.ops[i].round);
        self.servers = sight.servers().len() as u32;
        if let Some(Repeat { rounds, next: Next::Every(every) }) = self.steps[step].repeat
            && round + 1 < rounds.unwrap_or(self.servers)
        {
            self.plan(step, round + 1, None, until + every);
        }
        self.ops[i].state = State::Due { since: until };
        if self.ops[i].server.is_some() {
            return;
        }
        match self.select(i, sight) {
            Ok(servers) => {
                let mut servers = servers.into_iter();
                self.ops[i].server = servers.next();
                for server in servers {
                    let state = State::Due { since: until };
                    let server = Some(server);
                    self.ops.push(Op { step, round, server, number: None, began: false, asked: 0, state });
                }
            }
            Err(why) => self.skip(i, why, until),
        }
    }

    fn select(&self, i: usize, sight: &Sight) -> Result<Vec<String>, String> {
        let op = &self.ops[i];
        let step = &self.steps[op.step];
        let undoes = matches!(step.action, StepAction::Uncordon | StepAction::Resume | StepAction::Heal);
        let fit: Vec<&String> = sight.servers().iter().filter(|s| undoes || sight.serves(s)).collect();
        let none = || "no server serves".to_owned();
        let one = |s: Option<&&String>| s.map(|s| vec![(*s).clone()]).ok_or_else(none);
        match &step.server {
            Selector::None => Ok(vec![]),
            Selector::Id(id) => Ok(vec![id.clone()]),
            // Of equals the first.
            Selector::MostSessions => one(fit.iter().rev().max_by_key(|s| sight.sessions(s))),
            Selector::LeastSessions => one(fit.iter().min_by_key(|s| sight.sessions(s))),
            Selector::All if fit.is_empty() => Err(none()),
            Selector::All => Ok(fit.into_iter().cloned().collect()),
            Selector::Random => {
                let nth = (u64::from(op.round) << 32) | op.step as u64;
                one(fit.get((unit(self.seed, SERVERS, nth) * fit.len() as f64) as usize))
            }
            Selector::Each => match sight.servers().len() {
                0 => Err(none()),
                n => Ok(vec![sight.servers()[op.round as usize % n].clone()]),
            },
            Selector::Of(of) => {
                let of_round = |o: &&Op| o.step == *of && o.round == op.round && o.server.is_some();
                let server = self.ops.iter().rev().find(of_round).and_then(|o| o.server.clone());
                server.map(|s| vec![s]).ok_or_else(|| format!("step {:?} has no server", self.steps[*of].name))
            }
        }
    }

    fn try_now(&mut self, i: usize, since: Duration, now: Duration, sight: &Sight, load: &mut Load) {
        let step = &self.steps[self.ops[i].step];
        let mut detail = String::new();
        if let Some(condition) = &step.condition {
            let held = sight.holds(condition, self.ops[i].server.as_deref(), since);
            let late = step.deadline.is_some_and(|d| now >= since + d);
            match held {
                Holds::Yes => detail = condition.to_string(),
                Holds::No | Holds::Unknown(_) if !late => return,
                not => {
                    let why = if let Holds::Unknown(why) = not { format!(": {why}") } else { String::new() };
                    let after = humantime::format_duration(step.deadline.unwrap_or_default());
                    self.skip(i, format!("{condition} did not come true within {after}{why}"), now);
                    return;
                }
            }
        }
        let joins = step.action.is_join();
        (self.ops[i].number, self.ops[i].began) = (Some(self.next_number), true);
        self.next_number += 1;
        if joins {
            self.join(i, &detail, now, sight, load);
            return;
        }
        let event = self.event(i, StepStage::Begun, detail);
        self.orders.push_back(Order::Act(event));
        self.ops[i].state = State::Acting;
    }

    fn join(&mut self, i: usize, detail: &str, now: Duration, sight: &Sight, load: &mut Load) {
        let op = &self.ops[i];
        let (step, number) = (&self.steps[op.step], op.number.unwrap_or_default());
        let late = match step.action {
            StepAction::JoinNew => load.join_new(number, step.count, step.stay, now),
            _ => {
                let server = op.server.as_deref();
                load.join_existing(number, step.count, step.stay, now, |room| sight.lives(room, server))
            }
        };
        let few = step.action == StepAction::JoinExisting && late.joins < step.count;
        let begun = match detail.is_empty() {
            true => late.rooms.clone(),
            false => format!("{detail}: {}", late.rooms),
        };
        let begun = self.event(i, StepStage::Begun, begun);
        self.orders.push_back(Order::Step(begun));
        self.ops[i].asked = if few { self.steps[self.ops[i].step].count } else { late.joins };
        if late.joins > 0 {
            self.ops[i].state = State::Joining { left: late.joins, joined: 0, rooms: late.rooms };
            return;
        }
        let failed = self.event(i, StepStage::Failed, NO_SEAT.to_owned());
        self.orders.push_back(Order::Step(failed));
        self.over(i, false, now);
    }

    fn event(&self, i: usize, stage: StepStage, detail: String) -> StepEvent {
        let op = &self.ops[i];
        let step = &self.steps[op.step];
        StepEvent {
            op: op.number.unwrap_or_default(),
            name: step.name.clone(),
            action: step.action,
            server: op.server.clone(),
            stage,
            detail,
            rollback: false,
        }
    }

    fn skip(&mut self, i: usize, why: String, at: Duration) {
        self.ops[i].number = Some(self.next_number);
        self.next_number += 1;
        let event = self.event(i, StepStage::Skipped, why);
        self.orders.push_back(Order::Step(event));
        self.over(i, false, at);
    }

    /// An operation has ended: what follows it is planned, or skipped.
    fn over(&mut self, i: usize, done: bool, at: Duration) {
        self.ops[i].state = State::Over { done };
        if self.ending.is_some() {
            return;
        }
        let (step, round, server) = (self.ops[i].step, self.ops[i].round, self.ops[i].server.clone());
        let of_round = |o: &&Op| o.step == step && o.round == round;
        let all_over = self.ops.iter().filter(of_round).all(|o| matches!(o.state, State::Over { .. }));
        let all_done = self.ops.iter().filter(of_round).all(|o| matches!(o.state, State::Over { done: true }));
        for next in 0..self.steps.len() {
            let Start::After { step: after, delay } = self.steps[next].start else { continue };
            if after != step {
                continue;
            }
            let own = self.steps[next].server == Selector::Of(step);
            if own {
                self.follow(next, round, server.clone(), done.then_some(at + delay), step, at);
            } else if all_over {
                self.follow(next, round, None, all_done.then_some(at + delay), step, at);
            }
        }
        for head in 0..self.steps.len() {
            let Some(Repeat { rounds, next: Next::After { step: after, delay } }) = self.steps[head].repeat else {
                continue;
            };
            let more = rounds.is_none_or(|n| round + 1 < n);
            if after == step && all_over && more {
                self.again(head, round + 1, all_done.then_some(at + delay), step, at);
            }
        }
    }

    fn follow(
        &mut self,
        next: usize,
        round: u32,
        server: Option<String>,
        due: Option<Duration>,
        before: usize,
        now: Duration,
    ) {
        self.plan(next, round, server, due.unwrap_or(now));
        if due.is_none() {
            let why = format!("step {:?}, which it follows, was not done", self.steps[before].name);
            self.skip(self.ops.len() - 1, why, now);
        }
    }

    fn again(&mut self, head: usize, round: u32, due: Option<Duration>, before: usize, now: Duration) {
        if self.steps[head].repeat.is_some_and(|r| r.rounds.is_none()) && round >= self.servers {
            return;
        }
        self.follow(head, round, None, due, before, now);
    }

    /// The run is over, or is to be: what has not begun is skipped, and the rest gets a while.
    pub fn end(&mut self, now: Duration) {
        self.ending = Some(Ending { until: now + PATIENCE, planned: false });
        for i in 0..self.ops.len() {
            if matches!(self.ops[i].state, State::Waiting { .. } | State::Due { .. }) {
                self.skip(i, "the run was over before".to_owned(), now);
            }
        }
        for step in 0..self.steps.len() {
            if !self.ops.iter().any(|o| o.step == step) {
                self.plan(step, 0, None, now);
                self.skip(self.ops.len() - 1, "the run was over before".to_owned(), now);
            }
        }
    }

    /// Takes the next order of the end.
    pub fn roll_back(&mut self, now: Duration, sight: &Sight) -> Option<Order> {
        if let Some(order) = self.orders.pop_front() {
            return Some(order);
        }
        if self.undoing.is_some_and(|(_, until)| now < until) {
            return None;
        }
        self.undoing = None;
        let under_way = self.ops.iter().any(|o| matches!(o.state, State::Acting | State::Joining { .. }));
        let ending = self.ending.as_mut()?;
        if !ending.planned {
            if under_way && now < ending.until {
                return None;
            }
            ending.planned = true;
            self.plan_rollback(sight);
        }
        let (r, server) = self.undo.pop_front()?;
        let number = self.next_number;
        self.next_number += 1;
        let rollback = &self.rollback[r];
        let event = StepEvent {
            op: number,
            name: rollback.name.clone(),
            action: rollback.action,
            server,
            stage: StepStage::Begun,
            detail: String::new(),
            rollback: true,
        };
        // Also where the server is gone: a registry's mark outlives it, and meets the next one of that name.
        self.undoing = Some((number, now + PATIENCE));
        Some(Order::Act(event))
    }

    fn plan_rollback(&mut self, sight: &Sight) {
        for (i, r) in self.rollback.iter().enumerate() {
            let servers: Vec<Option<String>> = match &r.server {
                Selector::Id(id) => vec![Some(id.clone())],
                Selector::All => sight.servers().iter().cloned().map(Some).collect(),
                Selector::Of(step) => {
                    // Begun, whatever came of it: a failure may have done half.
                    let begun = |o: &&Op| o.step == *step && o.began;
                    let mut servers: Vec<Option<String>> =
                        self.ops.iter().filter(begun).map(|o| o.server.clone()).collect();
                    servers.sort_unstable();
                    servers.dedup();
                    servers
                }
                Selector::None
                | Selector::MostSessions
                | Selector::LeastSessions
                | Selector::Random
                | Selector::Each => vec![None],
            };
            self.undo.extend(servers.into_iter().map(|s| (i, s)));
        }
    }

    pub fn is_rolled_back(&self) -> bool {
        let planned = self.ending.as_ref().is_some_and(|e| e.planned);
        planned && self.orders.is_empty() && self.undo.is_empty() && self.undoing.is_none()
    }

    /// What is going on, in a few words.
    pub fn now(&self) -> String {
        let on = |o: &Op| o.server.as_ref().map_or_else(String::new, |s| format!(" {s}"));
        if self.ending.is_some() {
            return if self.undoing.is_some() { "rolling back".to_owned() } else { "ending".to_owned() };
        }
        let under_way = self.ops.iter().rev().find_map(|o| {
            let step = &self.steps[o.step];
            match &o.state {
                State::Due { .. } => {
                    let condition = step.condition.as_ref().map_or_else(String::new, ToString::to_string);
                    Some(format!("{}{}: waits for {condition}", step.name, on(o)))
                }
                State::Acting | State::Joining { .. } => Some(format!("{}{} …", step.name, on(o))),
                State::Waiting { .. } | State::Over { .. } => None,
            }
        });
        let last = || {
            let over = |o: &&Op| matches!(o.state, State::Over { .. });
            let last = self.ops.iter().filter(over).max_by_key(|o| o.number)?;
            let done = matches!(last.state, State::Over { done: true });
            Some(format!("{}{} {}", self.steps[last.step].name, on(last), if done { "done" } else { "not done" }))
        };
        under_way.or_else(last).unwrap_or_else(|| "no step yet".to_owned())
    }
}
