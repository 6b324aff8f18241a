//! Sequence numbers of one SSRC (RFC 3550 A.1).
//!
//! As A.1, with these differences. Packets are authenticated, so the first one starts the stream (no probation).
//! The tolerance for late packets is the whole window of [`WINDOW`] numbers, because retransmissions come late; inside
//! it duplicates are told exactly. A packet up to [`MAX_EARLY`] before the first one moves the start back, so that
//! reordering at the start is neither loss nor surplus. After a restart the packet that announced it counts as well.

use super::bits::{Bits, WINDOW};

/// RFC 3550 A.1 MAX_DROPOUT: a jump forward up to this is loss, a farther one must be confirmed by the next packet.
const MAX_DROPOUT: u16 = 3000;

/// RFC 3550 A.1 MAX_MISORDER, here for the start of a stream.
const MAX_EARLY: u64 = 100;

/// Where a packet belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The first of the stream.
    First(u64),
    /// Beyond the highest one so far.
    Ahead(u64),
    /// Behind the highest one so far, and new.
    Behind(u64),
    Duplicate(u64),
    /// Before the window or the start.
    TooOld,
    /// Far off; if the next packet follows it, the sender has restarted.
    Jump,
    /// Follows a jump: numbering starts again, at the packet before this one.
    Restart(u64),
}

pub(super) struct Sequence {
    started: bool,
    lowest: u64,
    highest: u64,
    /// What to take off so that cycles count from 0 since the last start.
    cycles: u64,
    /// The number that would confirm a restart.
    after_jump: Option<u16>,
    /// Numbers expected before the last restart.
    expected_before: u64,
    seen: Bits,
}

impl Sequence {
    pub fn new() -> Sequence {
        Sequence {
            started: false,
            lowest: 0,
            highest: 0,
            cycles: 0,
            after_jump: None,
            expected_before: 0,
            seen: Bits::new(),
        }
    }

    /// Places a packet. `repair` (RTX) neither starts nor restarts a stream.
    pub fn place(&mut self, seq: u16, repair: bool) -> Place {
        if !self.started {
            if repair {
                return Place::TooOld;
            }
            self.started = true;
            // One cycle up, so that there is room below for packets before the first.
            let first = (1 << 16) + u64::from(seq);
            self.begin(first);
            return Place::First(first);
        }
        let ahead = seq.wrapping_sub(self.highest as u16);
        let behind = u64::from((self.highest as u16).wrapping_sub(seq));
        if ahead == 0 {
            return Place::Duplicate(self.highest);
        }
        if ahead < MAX_DROPOUT {
            let n = self.highest + u64::from(ahead);
            self.seen.advance(self.highest, n);
            self.seen.set(n);
            self.highest = n;
            if !repair {
                self.after_jump = None;
            }
            return Place::Ahead(n);
        }
        if behind < WINDOW {
            return self.place_behind(self.highest - behind);
        }
        if repair {
            return Place::TooOld;
        }
        if self.after_jump == Some(seq) {
            self.expected_before += self.highest - self.lowest + 1;
            let n = ((self.highest >> 16) + 2) * (1 << 16) + u64::from(seq);
            self.begin(n - 1);
            self.seen.set(n);
            self.highest = n;
            return Place::Restart(n);
        }
        self.after_jump = Some(seq.wrapping_add(1));
        Place::Jump
    }

    fn begin(&mut self, first: u64) {
        self.lowest = first;
        self.highest = first;
        self.cycles = first & !0xffff;
        self.after_jump = None;
        self.seen = Bits::new();
        self.seen.set(first);
    }

    fn place_behind(&mut self, n: u64) -> Place {
        if n + MAX_EARLY < self.lowest {
            return Place::TooOld;
        }
        if self.seen.get(n) {
            return Place::Duplicate(n);
        }
        self.seen.set(n);
        self.lowest = self.lowest.min(n);
        Place::Behind(n)
    }

    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether this number has been received. Must be in the window, or above.
    pub fn has(&self, n: u64) -> bool {
        n <= self.highest && n + WINDOW > self.highest && self.seen.get(n)
    }

    /// How many of `from..=to` have been received. Must be in the window.
    pub fn count(&self, from: u64, to: u64) -> u64 {
        self.seen.count(from, to)
    }

    /// Whether a packet not older than the window and the first one is missing.
    pub fn lacks(&self, seq: u16) -> bool {
        let behind = u64::from((self.highest as u16).wrapping_sub(seq));
        self.started && behind < WINDOW && self.highest - behind >= self.lowest && !self.seen.get(self.highest - behind)
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// RFC 3550 A.3 "expected", over all restarts.
    pub fn expected(&self) -> u64 {
        if self.started { self.expected_before + self.expected_since_start() } else { 0 }
    }

    /// RFC 3550 A.3 "expected", since the last restart.
    pub fn expected_since_start(&self) -> u64 {
        if self.started { self.highest - self.lowest + 1 } else { 0 }
    }

    /// RFC 3550 6.4.1 extended highest sequence number received.
    pub fn extended_highest(&self) -> u32 {
        (self.highest - self.cycles) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: &[u16]) -> (Sequence, Vec<Place>) {
        let mut s = Sequence::new();
        let places = numbers.iter().map(|&n| s.place(n, false)).collect();
        (s, places)
    }

    #[test]
    fn wraps() {
        let (s, places) = run(&[65534, 65535, 0, 2, 1, 65535]);
        let first = (1 << 16) + 65534;
        assert_eq!(
            places,
            [
                Place::First(first),
                Place::Ahead(first + 1),
                Place::Ahead(first + 2),
                Place::Ahead(first + 4),
                Place::Behind(first + 3),
                Place::Duplicate(first + 1)
            ]
        );
        assert_eq!(s.expected(), 5);
        assert_eq!(s.extended_highest(), (1 << 16) + 2);
    }

    #[test]
    fn a_packet_before_the_first_moves_the_start_back() {
        let (s, places) = run(&[0, 65534, 1]);
        assert_eq!(places[1], Place::Behind((1 << 16) - 2));
        assert_eq!(s.expected(), 4);
        assert_eq!(run(&[500, 399]).1[1], Place::TooOld);
        assert_eq!(run(&[500, 400]).0.expected(), 101);
    }

    #[test]
    fn a_jump_is_loss_a_farther_one_needs_a_second_packet() {
        let (s, places) = run(&[10, 3009]);
        assert_eq!(places[1], Place::Ahead((1 << 16) + 3009));
        assert_eq!(s.expected(), 3000);

        let (s, places) = run(&[10, 11, 3011, 12, 40_000, 40_001, 40_002]);
        assert_eq!(places[2], Place::Jump);
        assert_eq!(places[3], Place::Ahead((1 << 16) + 12));
        assert_eq!(places[4], Place::Jump);
        assert!(matches!(places[5], Place::Restart(n) if n as u16 == 40_001));
        assert_eq!(s.expected(), 3 + 3);
        assert_eq!(s.expected_since_start(), 3);
        assert_eq!(s.extended_highest(), 40_002);
    }

    #[test]
    fn restarts_at_a_wrap() {
        let (s, places) = run(&[30_000, 65_535, 0, 1]);
        assert!(matches!(places[2], Place::Restart(n) if n as u16 == 0));
        assert_eq!(s.expected_since_start(), 3);
        assert_eq!(s.extended_highest(), (1 << 16) + 1);
    }

    #[test]
    fn repairs_neither_start_nor_restart() {
        let mut s = Sequence::new();
        assert_eq!(s.place(7, true), Place::TooOld);
        s.place(10, false);
        assert_eq!(s.place(40_000, true), Place::TooOld);
        assert_eq!(s.place(40_001, true), Place::TooOld);
        assert_eq!(s.place(11, false), Place::Ahead((1 << 16) + 11));
    }
}
