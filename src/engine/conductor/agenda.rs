//! What the plan wants done when: joins, leaves, phases, and the end of the run. Pure: time is an argument.

use crate::history::Phase;
use crate::plan::Plan;
use crate::types::LegId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between the end of sending and the leave: what is in flight arrives, so that a leave makes no loss.
const LAST_PACKETS: Duration = Duration::from_millis(500);
/// Leaves at the end of a run, a second: as people leave, not as a process dies.
const LEAVES_PER_SECOND: u32 = 400;

/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Something to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    Enter(Phase),
    Join(LegId),
    /// Stop sending; the leave follows.
    Quiet(LegId),
    Leave(LegId),
    /// The run's time is up: who is still there is to be named to [`Agenda::close`].
    End,
}

pub struct Agenda {
    plan: Arc<Plan>,
    epoch: Instant,
    last_packets: Duration,
    hold_entered: bool,
    next_join: usize,
    /// Legs that leave before the end, in the order of their leaves.
    leaves: Vec<LegId>,
    /// How many of `leaves` were told to be quiet, and to leave.
    quieted: usize,
    left: usize,
    end_at: Instant,
    closing: Option<Closing>,
    /// Legs that were told to be quiet by a course, and when they leave; in order. `None`: there is no course.
    leaving: Option<VecDeque<(Instant, LegId)>>,
}

/// Everybody leaves.
struct Closing {
    from: Instant,
    legs: Vec<LegId>,
    left: usize,
}

impl Agenda {
    /// `network_delay`: what impaired networks may add to the way of the last packets.
    pub fn new(plan: Arc<Plan>, epoch: Instant, network_delay: Duration) -> Agenda {
        let mut leaves: Vec<LegId> = plan.legs.iter().filter(|l| l.leave_at < plan.hold_until).map(|l| l.id).collect();
        leaves.sort_by_key(|l| plan.legs[l.index()].leave_at);
        let end_at = epoch + plan.hold_until;
        Agenda {
            plan,
            epoch,
            last_packets: LAST_PACKETS + network_delay,
            hold_entered: false,
            next_join: 0,
            leaves,
            quieted: 0,
            left: 0,
            end_at,
            closing: None,
            leaving: None,
        }
    }

    /// For a run that a course decides about: it has no end of its own, and legs leave when they are told to.
    pub fn open(epoch: Instant, hold_from: Duration, network_delay: Duration) -> Agenda {
        let nothing = Plan { seed: 0, rooms: vec![], legs: vec![], hold_from, hold_until: FOREVER };
        Agenda { leaving: Some(VecDeque::new()), ..Agenda::new(Arc::new(nothing), epoch, network_delay) }
    }

    /// A leg of a course has been told to be quiet; its leave follows.
    pub fn leave_soon(&mut self, leg: LegId, now: Instant) {
        self.leaving.get_or_insert_default().push_back((now + self.last_packets, leg));
    }

    /// True until everybody is told to leave.
    pub fn is_open(&self) -> bool {
        self.closing.is_none()
    }

    /// Takes the next thing that is due, until nothing is.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        if self.closing.is_none() {
            if !self.hold_entered && now >= self.epoch + self.plan.hold_from {
                self.hold_entered = true;
                return Some(Due::Enter(Phase::Hold));
            }
            if now < self.end_at && self.join_at().is_some_and(|t| now >= t) {
                self.next_join += 1;
                return Some(Due::Join(self.plan.legs[self.next_join - 1].id));
            }
            if self.quiet_at().is_some_and(|t| now >= t) {
                self.quieted += 1;
                return Some(Due::Quiet(self.leaves[self.quieted - 1]));
            }
        }
        if self.leave_at().is_some_and(|t| now >= t) {
            self.left += 1;
            return Some(Due::Leave(self.leaves[self.left - 1]));
        }
        if let Some((_, leg)) = self.leaving.as_mut().and_then(|l| l.pop_front_if(|(at, _)| now >= *at)) {
            return Some(Due::Leave(leg));
        }
        match &mut self.closing {
            None => (now >= self.end_at).then_some(Due::End),
            Some(c) => {
                let allowed = now
                    .checked_duration_since(c.from)
                    .map_or(0, |d| 1 + (d.as_secs_f64() * f64::from(LEAVES_PER_SECOND)) as usize);
                let next = c.legs.get(c.left).filter(|_| c.left < allowed)?;
                c.left += 1;
                Some(Due::Leave(*next))
            }
        }
    }

    /// When to look again, if nothing happens before.
    pub fn wake(&self, now: Instant) -> Instant {
        let soon = |wanted: bool, t: Instant| wanted.then_some(t);
        let open = self.closing.is_none();
        let times = [
            soon(open, self.end_at),
            soon(open && !self.hold_entered, self.epoch + self.plan.hold_from),
            self.join_at().filter(|_| open),
            self.quiet_at().filter(|_| open),
            self.leave_at(),
            self.leaving.as_ref().and_then(|l| l.front()).map(|(at, _)| *at),
            soon(self.closing.as_ref().is_some_and(|c| c.left < c.legs.len()), now + Duration::from_millis(5)),
        ];
        times.into_iter().flatten().fold(now + Duration::from_secs(1), Instant::min)
    }

    /// The run ends now, whatever the plan says.
    pub fn cut(&mut self, now: Instant) {
        self.end_at = self.end_at.min(now);
    }

    /// The answer to [`Due::End`]: these were told to be quiet and leave, at a people's pace.
    pub fn close(&mut self, now: Instant, legs: Vec<LegId>) {
        self.closing = Some(Closing { from: now + self.last_packets, legs, left: 0 });
    }

    /// No leg is to come, and the run's time is not up.
    pub fn nobody_to_come(&self) -> bool {
        self.closing.is_none() && self.leaving.is_none() && self.next_join == self.plan.legs.len()
    }

    /// Everybody was told to leave.
    pub fn is_done(&self) -> bool {
        self.closing.as_ref().is_some_and(|c| c.left == c.legs.len())
    }

    fn join_at(&self) -> Option<Instant> {
        self.plan.legs.get(self.next_join).map(|l| self.epoch + l.join_at)
    }

    fn quiet_at(&self) -> Option<Instant> {
        self.leaves.get(self.quieted).map(|l| self.epoch + self.plan.legs[l.index()].leave_at)
    }

    fn leave_at(&self) -> Option<Instant> {
        let next = self.leaves[..self.quieted].get(self.left)?;
        Some(self.epoch + self.plan.legs[next.index()].leave_at + self.last_packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlannedLeg;
    use crate::types::RoomId;

    fn plan(legs: &[(u64, u64)]) -> Arc<Plan> {
        let leg = |(i, (join, leave)): (usize, &(u64, u64))| PlannedLeg {
            seat: 0,
            id: LegId(i as u32),
            room: RoomId(0),
            name: format!("p{i}"),
            join_at: Duration::from_millis(*join),
            leave_at: Duration::from_millis(*leave),
            audio: None,
            video: None,
            network: None,
        };
        Arc::new(Plan {
            seed: 1,
            rooms: vec![],
            legs: legs.iter().enumerate().map(leg).collect(),
            hold_from: Duration::from_secs(2),
            hold_until: Duration::from_secs(10),
        })
    }

    /// Follows an agenda by its own wake-ups; gives what was due, with its ms.
    fn follow(a: &mut Agenda, epoch: Instant, until_ms: u64) -> Vec<(u64, Due)> {
        let (mut now, mut seen) = (epoch, Vec::new());
        while now <= epoch + Duration::from_millis(until_ms) {
            while let Some(d) = a.due(now) {
                seen.push(((now - epoch).as_millis() as u64, d));
                if d == Due::End {
                    a.close(now, vec![LegId(1), LegId(2)]);
                }
            }
            assert!(a.wake(now) > now, "or the loop spins");
            now = a.wake(now);
        }
        seen
    }

    #[test]
    fn everything_comes_at_its_planned_time() {
        let epoch = Instant::now();
        let mut a = Agenda::new(plan(&[(0, 3000), (500, 60_000), (2000, 60_000)]), epoch, Duration::ZERO);
        assert!(!a.nobody_to_come());
        let seen = follow(&mut a, epoch, 11_000);
        let wanted = [
            (0, Due::Join(LegId(0))),
            (500, Due::Join(LegId(1))),
            (2000, Due::Enter(Phase::Hold)),
            (2000, Due::Join(LegId(2))),
            (3000, Due::Quiet(LegId(0))),
            (3500, Due::Leave(LegId(0))),
            (10_000, Due::End),
            (10_500, Due::Leave(LegId(1))),
            (10_505, Due::Leave(LegId(2))),
        ];
        assert_eq!(seen, wanted);
        assert!(a.is_done() && !a.nobody_to_come());
    }

    #[test]
    fn a_run_cut_short_starts_nobody_and_still_ends_leaves_it_began() {
        let epoch = Instant::now();
        let at = |ms| epoch + Duration::from_millis(ms);
        let mut a = Agenda::new(plan(&[(0, 1000), (0, 60_000), (5000, 60_000)]), epoch, Duration::ZERO);
        assert_eq!(follow(&mut a, epoch, 1000).len(), 3);
        a.cut(at(1100));
        assert_eq!(a.due(at(1100)), Some(Due::End));
        a.close(at(1100), vec![LegId(1)]);
        assert!(!a.is_done());
        assert_eq!(a.due(at(1499)), None);
        assert_eq!(a.due(at(1500)), Some(Due::Leave(LegId(0))), "it was told to be quiet");
        assert_eq!(a.due(at(1600)), Some(Due::Leave(LegId(1))));
        assert!(a.is_done());
        assert_eq!(a.due(at(6000)), None, "leg 2 never joins");
    }
}
