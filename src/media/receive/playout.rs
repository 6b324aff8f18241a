//! What a listener's jitter buffer would have played of one audio source: the input of the E-model.
//!
//! The buffer is a fixed one, of the length that the profile states: a packet is in time if it comes no later after
//! being sent than the fastest packet so far plus the buffer. The rest is as good as lost.

use crate::measure::emodel::Heard;

/// Packets that are not decided yet: 1.28 s of 20 ms, longer than any buffer.
const OPEN: u64 = 64;

/// Longest gap in the numbers that is looked at packet by packet; beyond it the runs of loss are one.
const LEAP: u64 = 10_000;

/// One source at one listener, by the packet numbers in its stamps. Numbers count packets, so that what was not sent is
/// not missing.
#[derive(Debug)]
pub struct Playout {
    buffer_us: u64,
    /// Highest number so far; `None` before the first.
    highest: Option<u64>,
    /// Packets below this are decided.
    decided: u64,
    /// Bit i: the packet i below the highest came in time.
    in_time: u64,
    fastest_us: Option<u64>,
    in_burst: bool,
    heard: Heard,
}

impl Playout {
    pub fn new(buffer_us: u64) -> Playout {
        Playout {
            buffer_us,
            highest: None,
            decided: 0,
            in_time: 0,
            fastest_us: None,
            in_burst: false,
            heard: Heard::default(),
        }
    }

    /// A packet with this number came, so long after it was sent.
    pub fn on_packet(&mut self, number: u64, delay_us: u64) {
        let fastest = self.fastest_us.map_or(delay_us, |f| f.min(delay_us));
        self.fastest_us = Some(fastest);
        if self.highest.is_none() {
            (self.highest, self.decided) = (Some(number), number);
            self.in_time = 0;
        }
        self.advance(number);
        let Some(back) = self.highest.and_then(|h| h.checked_sub(number)).filter(|b| *b < OPEN) else { return };
        if number >= self.decided && delay_us <= fastest.saturating_add(self.buffer_us) {
            self.in_time |= 1 << back;
        }
    }

    /// Nothing has come, and what follows this number should have.
    pub fn expect_from(&mut self, number: u64) {
        if self.highest.is_none() {
            (self.highest, self.decided) = (Some(number), number.saturating_add(1));
        }
    }

    /// Everything up to this number was sent, whether it came or not.
    pub fn advance(&mut self, number: u64) {
        let Some(highest) = self.highest.filter(|h| *h < number) else { return };
        let ahead = number - highest;
        // Those that leave the window are decided by what is known now.
        let until = number.saturating_add(1).saturating_sub(OPEN);
        let last = until.min(self.decided.saturating_add(LEAP));
        while self.decided < last {
            let bit = highest.checked_sub(self.decided).filter(|b| *b < OPEN);
            self.decide(bit.is_some_and(|b| self.in_time >> b & 1 == 1));
        }
        if self.decided < until {
            // Stamps come from outside: a number may be anything.
            let rest = until - self.decided;
            self.heard.expected = self.heard.expected.saturating_add(rest);
            self.heard.lost = self.heard.lost.saturating_add(rest);
            self.decided = until;
        }
        self.in_time = if ahead < OPEN { self.in_time << ahead } else { 0 };
        self.highest = Some(number);
    }

    fn decide(&mut self, in_time: bool) {
        self.decided += 1;
        self.heard.expected = self.heard.expected.saturating_add(1);
        self.heard.lost = self.heard.lost.saturating_add((!in_time).into());
        self.heard.bursts += u64::from(!in_time && !self.in_burst);
        self.in_burst = !in_time;
    }

    /// The source begins again: another baseline.
    pub fn restart(&mut self) {
        *self = Playout { heard: self.heard, ..Playout::new(self.buffer_us) };
    }

    /// What was decided since the last take; the delay is that of the fastest packet and the buffer, without the codec.
    pub fn take(&mut self) -> Heard {
        let mut heard = std::mem::take(&mut self.heard);
        heard.delay_ms = self.fastest_us.unwrap_or(0).saturating_add(self.buffer_us) as f64 / 1000.0;
        // A run of loss that goes on is one in each of the times that it reaches into.
        self.heard.bursts = u64::from(self.in_burst);
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `n` packets of which `lost` never come, each with the delay that `delay` gives, in ms.
    fn played(n: u64, lost: impl Fn(u64) -> bool, delay_us: impl Fn(u64) -> u64) -> Heard {
        let mut p = Playout::new(60_000);
        for i in 100..100 + n {
            if !lost(i - 100) {
                p.on_packet(i, delay_us(i - 100));
            }
        }
        p.advance(100 + n - 1 + OPEN);
        let mut heard = p.take();
        // Those that were advanced over to decide the others.
        let after = heard.expected - n;
        assert_eq!(after, 0);
        heard.delay_ms = heard.delay_ms.round();
        heard
    }

    #[test]
    fn counts_losses_and_their_runs() {
        let h = played(1000, |i| i % 100 >= 95, |_| 20_000);
        assert_eq!((h.expected, h.lost, h.bursts, h.delay_ms), (1000, 50, 10, 80.0));
        let h = played(1000, |i| i % 20 == 7, |_| 20_000);
        assert_eq!((h.lost, h.bursts), (50, 50));
    }

    #[test]
    fn a_packet_behind_the_buffer_is_lost() {
        let late = |i: u64| if i % 10 == 3 { 85_000 } else { 20_000 + i % 3 * 1000 };
        let h = played(1000, |_| false, late);
        assert_eq!((h.expected, h.lost, h.bursts), (1000, 100, 100));
        let in_time = |i: u64| if i % 10 == 3 { 79_000 } else { 20_000 };
        assert_eq!(played(1000, |_| false, in_time).lost, 0);
    }

    #[test]
    fn order_does_not_matter_within_the_window() {
        let mut p = Playout::new(60_000);
        for block in 0..20u64 {
            for i in (0..10).rev() {
                p.on_packet(1 + block * 10 + i, 5_000);
                p.on_packet(1 + block * 10 + i, 5_000);
            }
        }
        p.advance(200 + OPEN);
        let h = p.take();
        // The nine in front of the first one to come were sent before it was there.
        assert_eq!((h.expected, h.lost), (191, 0));
    }

    #[test]
    fn a_tail_that_never_came_is_lost_and_a_run_across_a_take_counts_in_both() {
        let mut p = Playout::new(60_000);
        (0..100).for_each(|i| p.on_packet(i, 1000));
        p.advance(99 + OPEN + 10);
        let h = p.take();
        assert_eq!((h.expected, h.lost, h.bursts), (110, 10, 1));
        p.advance(99 + OPEN + 20);
        let h = p.take();
        assert_eq!((h.expected, h.lost, h.bursts), (10, 10, 1));
        let mut p = Playout::new(60_000);
        p.advance(5);
        assert_eq!(p.take().expected, 0, "nothing is known of a source that nobody promised");
        p.expect_from(5);
        p.advance(5 + OPEN + 100);
        let h = p.take();
        assert_eq!((h.expected, h.lost, h.bursts), (100, 100, 1), "one that never began");
        // A leap by a damaged number costs no time.
        p.advance(u64::MAX - 1);
        assert!(p.take().lost > 1 << 60);
    }
}
