//! Gaps between the arrivals of one flow.

use crate::prefetch::prefetch;

/// Gaps at least this long are kept one by one, in ns.
const NOTABLE_NS: u64 = 100_000_000;

/// How many of them wait to be taken; of more, the longest.
const KEPT: usize = 4;

/// A time without an arrival, CLOCK_REALTIME in ns.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Gap {
    pub began_ns: u64,
    pub ended_ns: u64,
}

impl Gap {
    pub fn ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.began_ns)
    }

    pub fn ms(&self) -> f64 {
        self.ns() as f64 / 1e6
    }
}

/// Longest gap and notable gaps of a flow. It counts from its first arrival, or from when it was said to flow.
pub struct Gaps {
    last_ns: Option<u64>,
    stopped: bool,
    longest: Gap,
    kept: [Gap; KEPT],
    len: u8,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps { last_ns: None, stopped: false, longest: Gap::default(), kept: [Gap::default(); KEPT], len: 0 }
    }
}

impl Gaps {
    /// Asks for what a packet without a notable gap needs.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&self.last_ns, 1);
        prefetch(&self.longest, 1);
        prefetch(&self.stopped, 1);
    }

    pub fn on_packet(&mut self, recv_ns: u64) {
        if self.stopped {
            return;
        }
        self.end_gap(recv_ns);
        self.last_ns = Some(recv_ns.max(self.last_ns.unwrap_or(0)));
    }

    /// A flow that is muted, paused or over has no gaps; one that goes on counts from `at_ns`.
    pub fn set_flowing(&mut self, flowing: bool, at_ns: u64) {
        if flowing == self.stopped {
            self.end_gap(at_ns);
            self.last_ns = flowing.then_some(at_ns);
            self.stopped = !flowing;
        }
    }

    /// So much of the time since the last arrival nothing was sent: it is no gap.
    pub fn forgive(&mut self, ns: u64) {
        if let Some(last_ns) = &mut self.last_ns {
            *last_ns = last_ns.saturating_add(ns);
        }
    }

    fn end_gap(&mut self, at_ns: u64) {
        let Some(last_ns) = self.last_ns else { return };
        let gap = Gap { began_ns: last_ns, ended_ns: at_ns };
        if gap.ns() > self.longest.ns() {
            self.longest = gap;
        }
        if gap.ns() >= NOTABLE_NS {
            self.keep(gap);
        }
    }

    fn keep(&mut self, gap: Gap) {
        let len = usize::from(self.len);
        if len < KEPT {
            self.kept[len] = gap;
            self.len += 1;
            return;
        }
        let mut shortest = 0;
        for i in 1..KEPT {
            if self.kept[i].ns() < self.kept[shortest].ns() {
                shortest = i;
            }
        }
        if self.kept[shortest].ns() < gap.ns() {
            self.kept.copy_within(shortest + 1.., shortest);
            self.kept[KEPT - 1] = gap;
        }
    }

    /// Longest gap of the whole life, the one still open at `now_ns` included, but for its part in which nothing was
    /// sent.
    pub fn longest(&self, now_ns: u64, unsent_ns: u64) -> Gap {
        let open = self.open(now_ns, unsent_ns);
        if open.ns() > self.longest.ns() { open } else { self.longest }
    }

    /// The gap that is open at `now_ns`, but for its part in which nothing was sent.
    pub fn open(&self, now_ns: u64, unsent_ns: u64) -> Gap {
        let began = self.last_ns.map(|last_ns| last_ns.saturating_add(unsent_ns));
        began.map_or(Gap::default(), |began_ns| Gap { began_ns, ended_ns: now_ns })
    }

    /// The oldest ended gap of 100 ms or more that has not been taken yet. Of more than four between two takes only
    /// the longest are kept.
    pub fn take_gap(&mut self) -> Option<Gap> {
        if self.len == 0 {
            return None;
        }
        let gap = self.kept[0];
        self.kept.copy_within(1.., 0);
        self.len -= 1;
        Some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn longest_includes_the_open_one() {
        let mut g = Gaps::default();
        assert_eq!(g.longest(5000 * MS, 0).ns(), 0);
        for ms in [1000, 1020, 1300, 1320] {
            g.on_packet(ms * MS);
        }
        assert_eq!(g.longest(1400 * MS, 0), Gap { began_ns: 1020 * MS, ended_ns: 1300 * MS });
        assert_eq!(g.longest(1700 * MS, 0), Gap { began_ns: 1320 * MS, ended_ns: 1700 * MS });
        assert_eq!(g.take_gap(), Some(Gap { began_ns: 1020 * MS, ended_ns: 1300 * MS }));
        assert_eq!(g.take_gap(), None);
    }

    #[test]
    fn a_paused_flow_has_no_gap() {
        let mut g = Gaps::default();
        g.on_packet(1000 * MS);
        g.set_flowing(false, 1150 * MS);
        g.on_packet(1160 * MS);
        assert_eq!(g.longest(9000 * MS, 0).ms(), 150.0);
        g.set_flowing(true, 9000 * MS);
        assert_eq!(g.longest(9200 * MS, 0).ms(), 200.0);
        g.on_packet(9050 * MS);
        assert_eq!(g.longest(9060 * MS, 0).ms(), 150.0);
    }

    #[test]
    fn what_was_not_sent_is_no_gap() {
        let mut g = Gaps::default();
        g.on_packet(1000 * MS);
        g.forgive(400 * MS);
        g.on_packet(1440 * MS);
        assert_eq!(g.longest(1440 * MS, 0).ms(), 40.0);
        assert_eq!(g.longest(1900 * MS, 400 * MS).ms(), 60.0);
        assert_eq!(g.longest(1900 * MS, 0).ms(), 460.0);
        // More than all of it.
        g.forgive(900 * MS);
        g.on_packet(1500 * MS);
        assert_eq!(g.longest(1500 * MS, 0).ms(), 40.0);
    }

    #[test]
    fn keeps_the_longest_of_many() {
        let mut g = Gaps::default();
        let mut at = 0;
        for ms in [0, 300, 100, 200, 150, 400, 120] {
            at += ms;
            g.on_packet(at * MS);
        }
        let taken: Vec<f64> = std::iter::from_fn(|| g.take_gap()).map(|g| g.ms()).collect();
        assert_eq!(taken, [300.0, 200.0, 150.0, 400.0]);
    }
}
