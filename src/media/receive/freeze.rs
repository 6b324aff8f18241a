//! Freezes of one watched video by webrtc-stats' rule for `freezeCount` and `totalFreezesDuration`.
//!
//! An interval between two frames is a freeze if it is at least max(3·avg, avg + 150 ms), avg over the last 30
//! intervals before it. The interval that has not ended yet counts as soon as it is that long, and its time accrues.

/// Intervals that make the average.
const AVERAGED: usize = 30;

const EXTRA_US: u64 = 150_000;

/// Average until there is an interval to average: a stall right behind the first frame counts from 300 ms.
const ASSUMED_AVERAGE_US: u64 = 100_000;

#[derive(Default)]
pub(super) struct FreezeMeter {
    intervals_us: [u32; AVERAGED],
    len: u8,
    next: u8,
    sum_us: u64,
    last_frame_ns: Option<u64>,
    stopped: bool,
    /// The interval since the last frame: already counted as a freeze, and with how much time.
    open_counted: bool,
    open_accrued_ns: u64,
    watched_until_ns: u64,
    freezes: i64,
    frozen_ns: i64,
    watched_ns: i64,
    taken: Watched,
}

/// What was seen since the last take. Corrections of the interval before may make them negative.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Watched {
    pub freezes: i64,
    pub frozen_ms: i64,
    pub watched_ms: i64,
}

impl FreezeMeter {
    /// A frame is complete. The first one starts the watching.
    pub fn on_frame(&mut self, at_ns: u64) {
        if self.stopped {
            return;
        }
        if let Some(last_ns) = self.last_frame_ns {
            let ns = at_ns.saturating_sub(last_ns);
            self.judge_open(ns);
            self.average_in((ns / 1000).min(u64::from(u32::MAX)) as u32);
        } else {
            self.watched_until_ns = at_ns;
        }
        self.open_counted = false;
        self.open_accrued_ns = 0;
        self.last_frame_ns = Some(at_ns);
        self.watch_until(at_ns);
    }

    /// Counts what is open up to now.
    pub fn advance(&mut self, now_ns: u64) {
        if let Some(last_ns) = self.last_frame_ns {
            self.judge_open(now_ns.saturating_sub(last_ns));
            self.watch_until(now_ns);
        }
    }

    /// A muted or stopped video is not watched; watching starts again with the first frame after.
    pub fn set_flowing(&mut self, flowing: bool, at_ns: u64) {
        if flowing == self.stopped {
            self.advance(at_ns);
            self.last_frame_ns = None;
            self.open_counted = false;
            self.open_accrued_ns = 0;
            self.stopped = !flowing;
        }
    }

    pub fn take(&mut self) -> Watched {
        let total = Watched {
            freezes: self.freezes,
            frozen_ms: self.frozen_ns / 1_000_000,
            watched_ms: self.watched_ns / 1_000_000,
        };
        let before = std::mem::replace(&mut self.taken, total);
        Watched {
            freezes: total.freezes - before.freezes,
            frozen_ms: total.frozen_ms - before.frozen_ms,
            watched_ms: total.watched_ms - before.watched_ms,
        }
    }

    /// The open interval is `ns` long, as far as is known: `advance` may have gone past a frame that was still in the
    /// socket, so this corrects in both directions.
    fn judge_open(&mut self, ns: u64) {
        let frozen = self.is_freeze(ns / 1000);
        let accrued_ns = if frozen { ns } else { 0 };
        self.freezes += i64::from(frozen) - i64::from(self.open_counted);
        self.frozen_ns += accrued_ns as i64 - self.open_accrued_ns as i64;
        self.open_counted = frozen;
        self.open_accrued_ns = accrued_ns;
    }

    fn is_freeze(&self, us: u64) -> bool {
        let n = u64::from(self.len);
        let (n, sum_us) = if n == 0 { (1, ASSUMED_AVERAGE_US) } else { (n, self.sum_us) };
        us * n >= (3 * sum_us).max(sum_us + EXTRA_US * n)
    }

    fn average_in(&mut self, us: u32) {
        let slot = &mut self.intervals_us[usize::from(self.next)];
        self.sum_us = self.sum_us + u64::from(us) - u64::from(std::mem::replace(slot, us));
        self.next = (self.next + 1) % AVERAGED as u8;
        self.len = (self.len + 1).min(AVERAGED as u8);
    }

    fn watch_until(&mut self, at_ns: u64) {
        self.watched_ns += at_ns.saturating_sub(self.watched_until_ns) as i64;
        self.watched_until_ns = self.watched_until_ns.max(at_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const MS: u64 = 1_000_000;

    /// The rule on the list of all frames: (freezes, frozen ns), the stall open at the end included.
    fn reference(frames: &[u64], end: u64) -> (i64, u64) {
        let (mut intervals, mut freezes, mut frozen) = (Vec::<f64>::new(), 0, 0);
        let mut times = frames.to_vec();
        times.push(end);
        for pair in times.windows(2) {
            let us = (pair[1] - pair[0]) / 1000;
            let last = &intervals[intervals.len().saturating_sub(30)..];
            let average = if last.is_empty() { 100_000.0 } else { last.iter().sum::<f64>() / last.len() as f64 };
            if us as f64 >= (3.0 * average).max(average + 150_000.0) {
                freezes += 1;
                frozen += pair[1] - pair[0];
            }
            intervals.push(us as f64);
        }
        (freezes, frozen)
    }

    #[test]
    fn same_as_the_list() {
        for seed in 0..2000 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let period = rng.random_range(10..120u64);
            let mut at = 1_700_000_000_000 * MS;
            let start = at;
            let mut frames = vec![at];
            for _ in 0..rng.random_range(1..200) {
                at += match rng.random_range(0..40) {
                    0 => rng.random_range(100..1000) * MS,
                    1 => rng.random_range(1000..9000) * MS,
                    _ => period * MS + rng.random_range(0..20 * MS),
                };
                frames.push(at);
            }
            let end = at + rng.random_range(0..3000) * MS;
            let mut meter = FreezeMeter::default();
            let mut sum = Watched::default();
            let mut tick = start + 500 * MS;
            let add = |sum: &mut Watched, w: Watched| {
                sum.freezes += w.freezes;
                sum.frozen_ms += w.frozen_ms;
                sum.watched_ms += w.watched_ms;
            };
            // Ticks up to 5 ms past frames that have not been read yet.
            let late = rng.random_range(0..5 * MS);
            for &frame in &frames {
                while tick <= frame {
                    meter.advance(tick + late);
                    add(&mut sum, meter.take());
                    tick += 1000 * MS;
                }
                meter.on_frame(frame);
            }
            while tick <= end {
                meter.advance(tick);
                add(&mut sum, meter.take());
                tick += 1000 * MS;
            }
            meter.advance(end);
            add(&mut sum, meter.take());
            let (freezes, frozen) = reference(&frames, end);
            assert_eq!(sum.freezes, freezes, "seed {seed}");
            assert_eq!(sum.frozen_ms, (frozen / MS) as i64, "seed {seed}");
            let watched = (end.max(tick - 1000 * MS + if tick > end { 0 } else { late }) - start) / MS;
            assert!((sum.watched_ms - watched as i64).abs() <= 5, "seed {seed}: {} {watched}", sum.watched_ms);
        }
    }

    #[test]
    fn counted_in_the_interval_in_which_it_becomes_one() {
        let mut meter = FreezeMeter::default();
        for i in 0..=30 {
            meter.on_frame(i * 33 * MS);
        }
        let last = 30 * 33;
        meter.advance((last + 182) * MS);
        assert_eq!(meter.take(), Watched { freezes: 0, frozen_ms: 0, watched_ms: 1172 });
        meter.advance((last + 183) * MS);
        assert_eq!(meter.take(), Watched { freezes: 1, frozen_ms: 183, watched_ms: 1 });
        meter.advance((last + 1000) * MS);
        assert_eq!(meter.take(), Watched { freezes: 0, frozen_ms: 817, watched_ms: 817 });
        meter.on_frame((last + 1500) * MS);
        meter.advance((last + 1510) * MS);
        assert_eq!(meter.take(), Watched { freezes: 0, frozen_ms: 500, watched_ms: 510 });
    }

    #[test]
    fn not_flowing_is_not_watched() {
        let mut meter = FreezeMeter::default();
        meter.advance(5000 * MS);
        assert_eq!(meter.take(), Watched::default(), "not yet started");
        for i in 0..=30 {
            meter.on_frame(i * 33 * MS);
        }
        meter.set_flowing(false, 1000 * MS);
        meter.advance(60_000 * MS);
        meter.set_flowing(true, 60_000 * MS);
        meter.advance(61_000 * MS);
        assert_eq!(meter.take(), Watched { freezes: 0, frozen_ms: 0, watched_ms: 1000 });
        meter.on_frame(61_500 * MS);
        meter.advance(62_500 * MS);
        assert_eq!(meter.take(), Watched { freezes: 1, frozen_ms: 1000, watched_ms: 1000 });
        // A stall that was open when the source was switched off was one.
        meter.on_frame(63_000 * MS);
        meter.set_flowing(false, 64_000 * MS);
        assert_eq!(meter.take(), Watched { freezes: 1, frozen_ms: 1500, watched_ms: 1500 });
    }
}
