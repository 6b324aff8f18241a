//! A timer wheel of 1 ms slots: who is due now. Entries are never taken out early; the owner of a key knows its own
//! deadline and ignores a wake-up that came too soon.

use std::time::{Duration, Instant};

/// Slots; what is due later waits in the last one and is put in again.
const SLOTS: usize = 4096;
/// Width of a slot.
pub const TICK: Duration = Duration::from_millis(1);

pub struct Wheel {
    start: Instant,
    slots: Vec<Vec<u32>>,
    /// Ticks since `start` that have been handed out.
    done: u64,
}

impl Wheel {
    pub fn new(start: Instant) -> Wheel {
        Wheel { start, slots: vec![Vec::new(); SLOTS], done: 0 }
    }

    /// Wakes `key` in the first tick that is not before `at`, at the latest 4 s from now.
    pub fn schedule(&mut self, key: u32, at: Instant) {
        let since = at.saturating_duration_since(self.start);
        let tick = since.as_nanos().div_ceil(TICK.as_nanos()) as u64;
        let tick = tick.clamp(self.done + 1, self.done + SLOTS as u64 - 1);
        self.slots[tick as usize % SLOTS].push(key);
    }

    /// When the next slot is due.
    pub fn next_tick(&self) -> Instant {
        self.start + Duration::from_millis(self.done + 1)
    }

    /// All keys due up to `now`, in `due` (cleared first). Slots keep their memory.
    pub fn advance(&mut self, now: Instant, due: &mut Vec<u32>) {
        due.clear();
        let tick = (now.saturating_duration_since(self.start).as_nanos() / TICK.as_nanos()) as u64;
        // After a long stall everything is due; one turn of the wheel visits every slot.
        let last = tick.min(self.done + SLOTS as u64);
        while self.done < last {
            self.done += 1;
            due.append(&mut self.slots[self.done as usize % SLOTS]);
        }
        self.done = self.done.max(tick);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_in_order_never_early_and_survives_a_stall() {
        let t0 = Instant::now();
        let ms = Duration::from_millis;
        let mut w = Wheel::new(t0);
        let mut due = vec![];
        w.schedule(1, t0 + ms(5));
        w.schedule(2, t0 + Duration::from_micros(5100));
        w.schedule(3, t0);
        w.schedule(4, t0 + ms(60_000));
        w.advance(t0 + ms(1), &mut due);
        assert_eq!(due, [3]);
        w.advance(t0 + Duration::from_micros(4999), &mut due);
        assert!(due.is_empty());
        w.advance(t0 + ms(5), &mut due);
        assert_eq!(due, [1]);
        w.advance(t0 + ms(6), &mut due);
        assert_eq!(due, [2]);
        // 4 is woken after about 4 s and has to schedule itself again.
        w.advance(t0 + ms(4200), &mut due);
        assert_eq!(due, [4]);
        w.schedule(5, t0 + ms(4300));
        w.advance(t0 + ms(100_000), &mut due);
        assert_eq!(due, [5]);
        w.schedule(6, t0);
        w.advance(t0 + ms(100_001), &mut due);
        assert_eq!(due, [6]);
    }
}
