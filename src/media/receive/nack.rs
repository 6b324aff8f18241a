//! Which missing packets to ask for, when, and when to give up (RFC 4585 6.2.1; numbers as in Chromium's receiver).

use super::bits::{Bits, WINDOW};
use super::sequence::Sequence;
use crate::prefetch::prefetch;
use std::time::{Duration, Instant};

/// A gap is asked for when a second packet behind it has come, or after this time: one packet out of order costs none.
const REORDER_WAIT_MS: u32 = 5;

/// Asked again after a round trip, at least this.
const REPEAT_MIN_MS: u32 = 20;

/// Round trip assumed while none has been measured.
const ASSUMED_RTT_MS: u32 = 100;

const TRIES_MAX: u8 = 10;
const AGE_MAX_MS: u32 = 1000;
const AGE_MAX_PACKETS: u64 = 450;

/// Where nobody asks for packets, a gap is final after this: what was only out of order has come.
const UNASKED_AGE_MAX_MS: u32 = 100;

/// One run of numbers that were missing when a later packet came. Some of them may have come since.
#[derive(Clone, Copy, Default)]
struct Gap {
    /// First number (low 32 bits), and how many.
    from: u32,
    len: u16,
    /// How many are still missing.
    missing: u16,
    /// Where a round of NACKs goes on that did not fit into one call.
    done: u16,
    tries: u8,
    found_ms: u32,
    /// First NACK.
    asked_ms: u32,
    due_ms: u32,
}

/// The gaps of one stream and what has been asked for. Oldest first; when full, the oldest is given up.
pub(super) struct NackList {
    epoch: Option<Instant>,
    gaps: Box<[Gap]>,
    len: usize,
    /// Asked for at least once, in the window of the sequence; and the highest of them, `None` where no bit is set.
    asked: Bits,
    asked_up_to: Option<u64>,
    /// Somebody takes NACKs.
    in_use: bool,
    rtt_ms: Option<u32>,
    /// Highest number given up.
    lost_up_to: Option<u64>,
}

impl NackList {
    pub fn new(gaps_max: usize) -> NackList {
        NackList {
            epoch: None,
            gaps: vec![Gap::default(); gaps_max].into_boxed_slice(),
            len: 0,
            asked: Bits::new(),
            asked_up_to: None,
            in_use: false,
            rtt_ms: None,
            lost_up_to: None,
        }
    }

    /// Asks for what a packet in order needs.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.asked_up_to, 1);
        prefetch(&self.len, 1);
        prefetch(&self.lost_up_to, 1);
    }

    pub fn memory(&self) -> usize {
        size_of_val(&*self.gaps)
    }

    /// A packet `n` came beyond the former highest number.
    pub fn on_ahead(&mut self, former: u64, n: u64, now: Instant) {
        if let Some(asked) = self.asked_up_to {
            self.asked.advance(former, n);
            self.asked_up_to = (n < asked + WINDOW).then_some(asked);
        }
        if self.len == 0 && n == former + 1 {
            return;
        }
        let now_ms = self.ms(now);
        for gap in &mut self.gaps[..self.len] {
            if gap.tries == 0 {
                gap.due_ms = gap.due_ms.min(now_ms);
            }
        }
        if n == former + 1 {
            return;
        }
        let from = (former + 1).max(n.saturating_sub(AGE_MAX_PACKETS));
        if from > former + 1 {
            self.give_up(from - 1);
        }
        if self.len == self.gaps.len() {
            self.drop_oldest(n);
        }
        let len = (n - from) as u16;
        self.gaps[self.len] = Gap {
            from: from as u32,
            len,
            missing: len,
            found_ms: now_ms,
            due_ms: now_ms.saturating_add(REORDER_WAIT_MS),
            ..Gap::default()
        };
        self.len += 1;
    }

    /// A missing packet came. True if it answers a NACK: it had been asked for, and not less than half a round trip
    /// ago, which no answer can undercut.
    pub fn on_filled(&mut self, n: u64, highest: u64, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let mut too_early = false;
        for i in 0..self.len {
            let gap = &mut self.gaps[i];
            let from = whole(gap.from, highest);
            if (from..from + u64::from(gap.len)).contains(&n) {
                let soonest_ms = gap.asked_ms + self.rtt_ms.unwrap_or(0) / 2;
                too_early = gap.tries > 0 && now_ms < soonest_ms;
                gap.missing = gap.missing.saturating_sub(1);
                if gap.missing == 0 {
                    self.remove(i);
                }
                break;
            }
        }
        self.asked.get(n) && !too_early
    }

    /// Writes the numbers to ask for now; the rest, if `out` is too small, is due at once.
    pub fn take(&mut self, now: Instant, rtt: Option<Duration>, seq: &Sequence, out: &mut [u16]) -> usize {
        self.in_use = true;
        self.rtt_ms = rtt.map(|rtt| u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX));
        let repeat_ms = self.rtt_ms.unwrap_or(ASSUMED_RTT_MS).clamp(REPEAT_MIN_MS, AGE_MAX_MS);
        self.expire(now, seq);
        let now_ms = self.ms(now);
        let mut written = 0;
        for gap in &mut self.gaps[..self.len] {
            if gap.due_ms > now_ms {
                continue;
            }
            let from = whole(gap.from, seq.highest());
            while gap.done < gap.len && written < out.len() {
                let n = from + u64::from(gap.done);
                gap.done += 1;
                if !seq.has(n) {
                    out[written] = n as u16;
                    written += 1;
                    self.asked.set(n);
                    self.asked_up_to = self.asked_up_to.max(Some(n));
                }
            }
            if gap.done < gap.len {
                break;
            }
            gap.done = 0;
            if gap.tries == 0 {
                gap.asked_ms = now_ms;
            }
            gap.tries += 1;
            gap.due_ms = now_ms + repeat_ms;
        }
        written
    }

    /// Gives up what is too old or has been asked for too often.
    pub fn expire(&mut self, now: Instant, seq: &Sequence) {
        let now_ms = self.ms(now);
        let age_max_ms = if self.in_use { AGE_MAX_MS } else { UNASKED_AGE_MAX_MS };
        let mut i = 0;
        while i < self.len {
            let gap = self.gaps[i];
            let from = whole(gap.from, seq.highest());
            let last = from + u64::from(gap.len) - 1;
            let too_old = now_ms.saturating_sub(gap.found_ms) > age_max_ms;
            let too_far = seq.highest() - last > AGE_MAX_PACKETS;
            let too_often = gap.tries >= TRIES_MAX && gap.due_ms <= now_ms;
            if too_old || too_far || too_often {
                if let Some(last_missing) = (from..=last).rev().find(|&n| !seq.has(n)) {
                    self.give_up(last_missing);
                }
                self.remove(i);
                continue;
            }
            let oldest = seq.highest().saturating_sub(AGE_MAX_PACKETS);
            if from < oldest {
                self.give_up(oldest - 1);
                self.cut(i, (oldest - from) as u16, seq);
            }
            i += 1;
        }
    }

    /// Takes the first `by` numbers off a gap.
    fn cut(&mut self, i: usize, by: u16, seq: &Sequence) {
        let gap = &mut self.gaps[i];
        gap.from = gap.from.wrapping_add(u32::from(by));
        gap.len -= by;
        gap.done = gap.done.saturating_sub(by);
        let from = whole(gap.from, seq.highest());
        gap.missing = (from..from + u64::from(gap.len)).filter(|&n| !seq.has(n)).count() as u16;
        if gap.missing == 0 {
            // Nothing to ask for, and the next look drops it.
            gap.tries = TRIES_MAX;
            gap.due_ms = 0;
        }
    }

    /// A key frame begins at `n`: nothing before it is needed any more.
    pub fn forget_before(&mut self, n: u64, highest: u64) {
        let mut i = 0;
        while i < self.len {
            if whole(self.gaps[i].from, highest) < n {
                self.remove(i);
            } else {
                i += 1;
            }
        }
    }

    /// The numbers start again.
    pub fn restart(&mut self) {
        self.len = 0;
        self.asked = Bits::new();
        self.asked_up_to = None;
        self.lost_up_to = None;
    }

    /// Highest number that will not be asked for any more, though it has not come.
    pub fn lost_up_to(&self) -> Option<u64> {
        self.lost_up_to
    }

    pub fn next_at(&self) -> Option<Instant> {
        let due_ms = self.gaps[..self.len].iter().map(|gap| gap.due_ms).min()?;
        self.epoch?.checked_add(Duration::from_millis(u64::from(due_ms)))
    }

    fn ms(&mut self, now: Instant) -> u32 {
        let epoch = *self.epoch.get_or_insert(now);
        u32::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u32::MAX)
    }

    fn drop_oldest(&mut self, highest: u64) {
        let oldest = self.gaps[0];
        self.give_up(whole(oldest.from, highest) + u64::from(oldest.len) - 1);
        self.remove(0);
    }

    fn give_up(&mut self, n: u64) {
        self.lost_up_to = Some(self.lost_up_to.map_or(n, |before| before.max(n)));
    }

    fn remove(&mut self, i: usize) {
        self.gaps.copy_within(i + 1..self.len, i);
        self.len -= 1;
    }
}

/// The extended number whose low 32 bits are `low`, at or below `highest`.
fn whole(low: u32, highest: u64) -> u64 {
    highest - u64::from((highest as u32).wrapping_sub(low))
}

const _: () = assert!(AGE_MAX_PACKETS < WINDOW);

#[cfg(test)]
mod tests {
    use super::super::sequence::Place;
    use super::*;

    struct Bench {
        seq: Sequence,
        list: NackList,
        start: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { seq: Sequence::new(), list: NackList::new(32), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Whether the packet answered a NACK.
        fn receive(&mut self, seq: u16, ms: u64) -> bool {
            let former = self.seq.highest();
            let now = self.at(ms);
            match self.seq.place(seq, false) {
                Place::Ahead(n) => self.list.on_ahead(former, n, now),
                Place::Behind(n) => return self.list.on_filled(n, self.seq.highest(), now),
                _ => {}
            }
            false
        }

        fn take(&mut self, ms: u64, rtt_ms: u64) -> Vec<u16> {
            let mut out = [0; 16];
            let n = self.list.take(self.at(ms), Some(Duration::from_millis(rtt_ms)), &self.seq, &mut out);
            out[..n].to_vec()
        }
    }

    #[test]
    fn waits_for_one_packet_or_5_ms_then_repeats() {
        let mut b = Bench::new();
        b.receive(10, 0);
        b.receive(12, 10);
        assert!(b.take(10, 40).is_empty());
        assert_eq!(b.list.next_at(), Some(b.at(15)));
        assert_eq!(b.take(15, 40), [11]);
        assert!(b.take(54, 40).is_empty());
        assert_eq!(b.list.next_at(), Some(b.at(55)));
        assert_eq!(b.take(55, 40), [11]);
        b.receive(14, 60);
        b.receive(15, 61);
        assert_eq!(b.take(61, 40), [13]);
        assert!(b.receive(13, 99));
        assert!(b.receive(11, 99));
        assert_eq!(b.list.next_at(), None);
    }

    #[test]
    fn one_packet_out_of_order_is_not_asked_for() {
        let mut b = Bench::new();
        b.receive(65535, 0);
        b.receive(1, 10);
        assert!(b.take(10, 0).is_empty());
        assert!(!b.receive(0, 11));
        assert!(b.take(30, 0).is_empty());
    }

    #[test]
    fn late_is_not_recovered() {
        let mut b = Bench::new();
        b.receive(1, 0);
        b.receive(3, 10);
        b.receive(4, 11);
        assert_eq!(b.take(11, 50), [2]);
        assert!(!b.receive(2, 30), "sooner than half a round trip after the NACK");
        b.receive(6, 40);
        assert!(!b.receive(5, 41), "never asked for");
    }

    #[test]
    fn gives_up_after_ten_tries() {
        let mut b = Bench::new();
        b.receive(1, 0);
        b.receive(3, 10);
        let mut asked = 0;
        for ms in (20..2000).step_by(5) {
            asked += b.take(ms, 1).len();
        }
        assert_eq!(asked, 10, "every 20 ms for 200 ms");
        assert_eq!(b.list.next_at(), None);
        assert_eq!(b.list.lost_up_to().map(|n| n as u16), Some(2));
        assert!(b.receive(2, 2000), "an answer after all");
    }

    #[test]
    fn gives_up_after_a_second_or_450_packets() {
        let mut b = Bench::new();
        b.receive(1, 0);
        b.receive(3, 0);
        assert_eq!(b.take(5, 300), [2]);
        assert_eq!(b.take(305, 300), [2]);
        assert_eq!(b.take(605, 300), [2]);
        assert!(b.take(1001, 300).is_empty());
        assert_eq!(b.list.lost_up_to().map(|n| n as u16), Some(2));

        b.receive(5, 1010);
        for n in 6..=454 {
            b.receive(n, 1011);
        }
        assert_eq!(b.take(1011, 300), [4]);
        b.receive(455, 1012);
        assert!(b.take(1400, 300).is_empty());
    }

    #[test]
    fn a_long_burst_is_asked_for_in_pieces() {
        let mut b = Bench::new();
        b.receive(1, 0);
        b.receive(42, 10);
        b.receive(43, 11);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.extend(b.take(11, 100));
        }
        assert_eq!(all, (2..42).collect::<Vec<u16>>());
        // A burst that is longer than what may be asked for.
        b.receive(1043, 20);
        b.receive(1044, 21);
        assert_eq!(b.take(21, 100)[0], 1044 - 450, "what is within 450 of the newest");
        assert_eq!(b.list.lost_up_to().map(|n| n as u16), Some(1044 - 450 - 1));
    }

    #[test]
    fn a_key_frame_clears_what_is_before_it() {
        let mut b = Bench::new();
        b.receive(1, 0);
        b.receive(3, 0);
        b.receive(5, 0);
        let highest = b.seq.highest();
        b.list.forget_before(highest - 1, highest);
        assert_eq!(b.take(10, 10), [4]);
    }

    #[test]
    fn more_gaps_than_places() {
        let mut b = Bench::new();
        for n in 0..100 {
            b.receive(n * 2, 0);
        }
        let mut out = [0; 100];
        let n = b.list.take(b.at(10), None, &b.seq, &mut out);
        assert_eq!(n, 32);
        assert_eq!(out[0], 198 - 63);
        assert_eq!(b.list.lost_up_to().map(|n| n as u16), Some(198 - 65));
    }
}
