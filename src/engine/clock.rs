//! The one clock of media: CLOCK_REALTIME as it was when it was first asked for, and steady since. Somebody who sets the
//! machine's clock in the middle of a run makes no call silent, and no packet early or late.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Both clocks are read within so much, or the reading says nothing of their difference.
const READ_WITHIN_NS: u64 = 10_000;
const READ_TRIES: usize = 4;
/// The kernel slews both clocks alike: what they differ by more than this since is a step.
const STEP_NS: i64 = 100_000;

fn system_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// In ns: CLOCK_REALTIME, but for what the clock was set by since this process first asked.
pub fn realtime_ns() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (at, ns) = START.get_or_init(|| (Instant::now(), system_ns()));
    ns.saturating_add(at.elapsed().as_nanos() as u64)
}

/// A moment of CLOCK_REALTIME, as another process or the kernel has it now, on [`realtime_ns`]'s clock.
pub fn of_system_ns(at_ns: u64) -> u64 {
    at_ns.saturating_add_signed(-ahead_ns().unwrap_or(0))
}

/// By how much CLOCK_REALTIME is ahead of [`realtime_ns`]; `None` where something came between the readings.
fn ahead_ns() -> Option<i64> {
    (0..READ_TRIES).find_map(|_| {
        let before = realtime_ns();
        let system = system_ns();
        let within = realtime_ns() - before;
        (within <= READ_WITHIN_NS).then(|| system as i64 - (before + within / 2) as i64)
    })
}

/// Brings the kernel's receive times onto [`realtime_ns`]'s clock.
#[derive(Clone, Copy, Debug)]
pub struct KernelTimes {
    ahead_ns: i64,
    /// The clock was set since the last look: stamps may be of either time.
    doubtful: bool,
}

impl KernelTimes {
    pub fn new() -> KernelTimes {
        KernelTimes { ahead_ns: ahead_ns().unwrap_or(0), doubtful: false }
    }

    /// Looks whether the clock was set: before sockets are read, and often.
    pub fn look(&mut self) {
        if let Some(ahead_ns) = ahead_ns() {
            self.see(ahead_ns);
        }
    }

    fn see(&mut self, ahead_ns: i64) {
        self.doubtful = (ahead_ns - self.ahead_ns).abs() > STEP_NS;
        if self.doubtful {
            self.ahead_ns = ahead_ns;
        }
    }

    /// A kernel's stamp on our clock; 0 (unknown) stays 0, and so becomes one that may be of before a step.
    pub fn of(&self, stamp_ns: u64) -> u64 {
        if stamp_ns == 0 || self.doubtful { 0 } else { stamp_ns.saturating_add_signed(-self.ahead_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_as_realtime_does_while_nobody_sets_it() {
        let ours = realtime_ns();
        assert!(of_system_ns(system_ns()).abs_diff(ours) < 1_000_000_000);
        assert!(realtime_ns() >= ours);
    }

    #[test]
    fn a_step_moves_no_stamp() {
        let hour = 3_600_000_000_000i64;
        for step in [hour, -hour] {
            let mut k = KernelTimes { ahead_ns: 0, doubtful: false };
            k.see(70_000);
            assert_eq!(k.of(5_000_000_000_000), 5_000_000_000_000, "readings differ by as much");
            k.see(step);
            assert_eq!(k.of(5_000_000_000_000), 0, "stamped before or after?");
            k.see(step + 50);
            assert_eq!(k.of((5_001_000_000_000 + step) as u64), 5_001_000_000_000);
            assert_eq!(k.of(0), 0);
        }
    }
}
