//! A scale-in experiment as it goes: who joins, leaves and comes back, and what is done to the fleet when. Pure: time is
//! an argument, and what happens comes in as lines of the history.

mod load; // stays: joins, leaves, rejoins, late joins
mod sight; // what is known of servers: what the fleet says, and our own count
mod steps; // steps, their conditions and rounds, and what rolls them back
#[cfg(test)]
mod tests;

use crate::history::{Event, Line};
use crate::plan::{Course, Order, Plan};
use crate::profile::Profile;
use load::Load;
use sight::Sight;
use std::sync::Arc;
use std::time::Duration;
use steps::Steps;

/// By then a backend has been looked at again, and that is written though nothing changed.
const LOOKED_AGAIN: Duration = Duration::from_secs(7);

/// See the module.
pub struct Script {
    load: Load,
    sight: Sight,
    steps: Steps,
    /// End of the hold.
    until: Duration,
    /// So long after the last leave, what the fleet still counts is a ghost.
    linger: Duration,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// What is under way comes to its end, then all is rolled back.
    Ending,
    Over,
}

impl Script {
    /// `None` for profiles of another shape. `epoch_ns` is the start of the run, in ns of CLOCK_REALTIME.
    pub fn of(profile: &Profile, plan: &Arc<Plan>, epoch_ns: u64) -> Option<Script> {
        let setting = profile.scale_in.as_ref()?;
        Some(Script {
            load: Load::new(profile, setting.rejoin, plan),
            sight: Sight::new(profile),
            steps: Steps::new(setting, plan.hold_from, epoch_ns, plan.seed),
            until: plan.hold_until,
            linger: match setting.expect.exclusive {
                true => setting.expect.ghost_allowance + LOOKED_AGAIN,
                false => Duration::ZERO,
            },
            stage: Stage::Running,
        })
    }

    /// Every line of the history, as it is written.
    pub fn see(&mut self, line: &Line) {
        let at = Duration::from_secs_f64((line.t / 1000.0).max(0.0));
        self.sight.see(line);
        if let Some((op, joined)) = self.load.see(line, at, self.stage == Stage::Running) {
            self.steps.late_join(op, joined, at);
        }
        if let Event::Step(step) = &line.event {
            self.steps.see(step, at);
        }
    }

    /// What is going on, for the line that is renewed each second; ends with a space.
    pub fn progress(&self) -> String {
        format!("[{}; {}] ", self.steps.now(), self.sight.counts())
    }

    fn end(&mut self, now: Duration) {
        if self.stage == Stage::Running {
            self.stage = Stage::Ending;
            self.steps.end(now);
        }
    }
}

impl Course for Script {
    fn due(&mut self, now: Duration) -> Option<Order> {
        if self.stage == Stage::Running && now >= self.until {
            self.end(now);
        }
        match self.stage {
            Stage::Over => None,
            Stage::Running => {
                if let Some(order) = self.load.due(now) {
                    return Some(order);
                }
                let order = self.steps.due(now, &self.sight, &mut self.load);
                // A step may have made joins that are due now.
                order.or_else(|| self.load.due(now))
            }
            Stage::Ending => {
                if let Some(order) = self.steps.roll_back(now, &self.sight) {
                    return Some(order);
                }
                if !self.steps.is_rolled_back() {
                    return None;
                }
                self.stage = Stage::Over;
                Some(Order::Close)
            }
        }
    }

    fn wake(&self, now: Duration) -> Duration {
        let soon = match self.stage {
            Stage::Over => return now + Duration::from_secs(1),
            Stage::Ending => self.steps.wake_at(now),
            Stage::Running => self.until.min(self.load.wake_at(now)).min(self.steps.wake_at(now)),
        };
        soon.max(now)
    }

    fn interrupt(&mut self, now: Duration) -> bool {
        self.end(now);
        true
    }

    fn linger(&self) -> Duration {
        self.linger
    }
}

/// A number in 0..1 that follows from the seed and what it is for.
fn unit(seed: u64, what: u64, nth: u64) -> f64 {
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut z = seed ^ what.rotate_left(32) ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    (z >> 11) as f64 / (1u64 << 53) as f64
}
