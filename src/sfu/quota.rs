//! A media thread of known speed: a quota of CPU that it keeps by itself, as cgroup's `cpu.max` would, where there is
//! none to set, and CPU time that each packet costs at least, so that the quota is worth the same on any machine.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// How fast a media thread may be.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Share of a core (0..1); 1 is no quota.
    pub cpu_max: f64,
    /// CPU time for each packet that is sent on, at least.
    pub packet_cost: Duration,
}

/// See the module. Of the thread that calls it.
pub struct Quota {
    pace: Pace,
    /// When the period began, and the thread's CPU time then.
    period: Instant,
    used: Duration,
    /// Packets that were sent on so far, and CPU time when they had been.
    packets: u64,
    worked: Duration,
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

impl Quota {
    const PERIOD: Duration = Duration::from_millis(50);

    pub fn new(pace: Pace, now: Instant) -> Quota {
        let cpu = thread_cpu();
        Quota { pace, period: now, used: cpu, packets: 0, worked: cpu }
    }

    /// How long to stand still, if the quota is used up. What went beyond it is owed.
    pub fn spent(&mut self, now: Instant) -> Option<Duration> {
        (self.pace.cpu_max < 1.0).then(|| self.spent_at(now, thread_cpu()))?
    }

    fn spent_at(&mut self, now: Instant, cpu: Duration) -> Option<Duration> {
        let quota = Quota::PERIOD.mul_f64(self.pace.cpu_max.max(0.01));
        let end = self.period + Quota::PERIOD;
        if cpu.saturating_sub(self.used) >= quota {
            self.used += quota;
            self.period = end.max(now);
            return Some(end.saturating_duration_since(now));
        }
        if now >= end {
            (self.period, self.used) = (now, cpu);
        }
        None
    }

    /// So many packets were sent on since the start: works until those of this turn have cost what they are to cost.
    pub fn work(&mut self, packets: u64) {
        if self.pace.packet_cost.is_zero() {
            return;
        }
        let until = self.worked + self.pace.packet_cost * u32::try_from(packets - self.packets).unwrap_or(u32::MAX);
        self.packets = packets;
        while thread_cpu() < until {
            std::hint::spin_loop();
        }
        self.worked = thread_cpu();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn quota(cpu_max: f64, now: Instant) -> Quota {
        Quota {
            pace: Pace { cpu_max, packet_cost: Duration::ZERO },
            period: now,
            used: Duration::ZERO,
            packets: 0,
            worked: Duration::ZERO,
        }
    }

    #[test]
    fn whoever_has_used_up_the_quota_stands_still_until_the_next_period() {
        let start = Instant::now();
        let mut q = quota(0.2, start);
        assert_eq!(q.spent_at(start + 12 * MS, 9 * MS), None);
        assert_eq!(q.spent_at(start + 15 * MS, 13 * MS), Some(35 * MS));
        // Three of the next ten are gone already.
        assert_eq!(q.spent_at(start + 60 * MS, 19 * MS), None);
        assert_eq!(q.spent_at(start + 62 * MS, 20 * MS), Some(38 * MS));
        // What a quiet period has left over is nobody's.
        assert_eq!(q.spent_at(start + 160 * MS, 21 * MS), None);
        assert_eq!(q.spent_at(start + 171 * MS, 32 * MS), Some(39 * MS));
    }

    #[test]
    fn packets_cost_what_they_are_to_cost() {
        let pace = Pace { cpu_max: 1.0, packet_cost: MS };
        let mut q = Quota::new(pace, Instant::now());
        let before = thread_cpu();
        q.work(3);
        q.work(3);
        q.work(10);
        // CPU time, not time: another thread on this core changes nothing.
        assert!(thread_cpu() - before >= 10 * MS);
        assert_eq!((q.packets, q.spent(Instant::now() + Duration::from_secs(1))), (10, None));
    }
}
