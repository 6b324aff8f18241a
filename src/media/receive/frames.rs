//! Video frames put together from packets, and whether a decoder could go on with them.
//!
//! A frame is complete when all its packets are there, from the one that begins it to the marker. It is decodable when
//! it is a key frame, or follows the last decodable frame without a hole.

use super::bits::WINDOW;
use super::payload::Start;
use crate::prefetch::prefetch;

/// Frames that may be under way at once: a second at 30 per second. When full, the oldest is given up.
const UNDER_WAY: usize = 32;

/// A frame whose first packet is this far behind will not be completed.
const STALE_PACKETS: u64 = WINDOW / 2;

/// One media packet, seen for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub n: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub start: Start,
    pub key: bool,
    /// Carries a stamp, of whatever run.
    pub stamped: bool,
}

/// A complete frame: its first and last packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Complete {
    pub first: u64,
    pub last: u64,
    pub key: bool,
    pub stamped: bool,
}

/// What one packet did.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Progress {
    /// Lowest packet of this packet's frame so far.
    pub lowest: u64,
    /// At most two: a packet can also show where the frame behind it begins.
    pub complete: [Option<Complete>; 2],
    /// A key frame became the newest decodable frame; it begins here.
    pub key_frame_at: Option<u64>,
}

/// What the rest of the stream knows of a number.
pub(super) trait Received {
    /// It has been received, whatever it was.
    fn has(&self, n: u64) -> bool;
    /// It has been received and was no media (padding only).
    fn is_filler(&self, n: u64) -> bool;
}

#[derive(Clone, Copy, Default)]
struct Frame {
    lowest: u64,
    last: u64,
    timestamp: u32,
    packets: u16,
    /// Of the lowest packet.
    start: Start,
    flags: u8,
}

const MARKED: u8 = 1;
const KEY: u8 = 2;
const STAMPED: u8 = 4;
/// Complete, but a frame before it is missing.
const WAITING: u8 = 8;

impl Frame {
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn is_complete(&self, received: &impl Received) -> bool {
        let begins = match self.start {
            Start::No => false,
            Start::Yes => true,
            Start::IfContiguous => received.has(self.lowest - 1),
        };
        begins && self.is(MARKED) && self.last + 1 == self.lowest + u64::from(self.packets)
    }
}

pub(super) struct Frames {
    under_way: [Frame; UNDER_WAY],
    len: usize,
    /// The number that must follow the last decodable frame; `None` until the first key frame.
    next: Option<u64>,
    /// Up to here packets will not come any more.
    lost_up_to: u64,
    decodable: u64,
    /// A complete frame came while there was no key frame before it, or a restart.
    headless: bool,
}

impl Frames {
    /// Asks for what the next packet needs: the counters and the first frames under way.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.under_way[..4], 3);
        prefetch(&self.next, 1);
        prefetch(&self.len, 1);
    }

    pub fn new() -> Frames {
        Frames {
            under_way: [Frame::default(); UNDER_WAY],
            len: 0,
            next: None,
            lost_up_to: 0,
            decodable: 0,
            headless: false,
        }
    }

    pub fn on_packet(&mut self, a: &Arrival, received: &impl Received) -> Progress {
        let mut progress = Progress { lowest: a.n, ..Progress::default() };
        let Some(i) = self.frame_of(a) else { return progress };
        let frame = &mut self.under_way[i];
        if frame.packets == 0 || a.n < frame.lowest {
            frame.lowest = a.n;
            frame.start = a.start;
        }
        frame.packets = frame.packets.saturating_add(1);
        if a.marker {
            frame.last = a.n;
            frame.flags |= MARKED;
        }
        frame.flags |= if a.key { KEY } else { 0 } | if a.stamped { STAMPED } else { 0 };
        let lowest = frame.lowest;
        progress.lowest = lowest;
        // By number, since completing one frame moves the others.
        self.complete_if(|f| f.timestamp == a.timestamp && f.lowest == lowest, received, &mut progress);
        self.complete_if(|f| f.start == Start::IfContiguous && f.lowest == a.n + 1, received, &mut progress);
        progress
    }

    /// A packet without media came: frames behind it may now follow without a hole.
    pub fn on_filler(&mut self, n: u64, received: &impl Received) -> Progress {
        let mut progress = Progress { lowest: n, ..Progress::default() };
        self.complete_if(|f| f.start == Start::IfContiguous && f.lowest == n + 1, received, &mut progress);
        self.follow(received);
        progress
    }

    /// Packets up to `n` that are missing will not come any more.
    pub fn lost(&mut self, n: u64) {
        self.lost_up_to = self.lost_up_to.max(n);
    }

    /// The numbers start again: only a key frame helps.
    pub fn restart(&mut self) {
        self.len = 0;
        self.next = None;
        self.headless = true;
    }

    /// Nothing can be decoded until the next key frame.
    pub fn needs_key_frame(&self) -> bool {
        match self.next {
            Some(next) => next <= self.lost_up_to,
            None => self.headless,
        }
    }

    pub fn has_begun(&self) -> bool {
        self.next.is_some()
    }

    pub fn decodable(&self) -> u64 {
        self.decodable
    }

    /// The frame under way that this packet belongs to, or a new one.
    fn frame_of(&mut self, a: &Arrival) -> Option<usize> {
        let mut oldest: Option<usize> = None;
        let mut i = 0;
        while i < self.len {
            let frame = &self.under_way[i];
            if frame.lowest + STALE_PACKETS < a.n {
                self.give_up(i);
                // Another one is at this place now.
                oldest = None;
                i = 0;
                continue;
            }
            if frame.timestamp == a.timestamp && !frame.is(WAITING) {
                return Some(i);
            }
            if oldest.is_none_or(|o| frame.lowest < self.under_way[o].lowest) {
                oldest = Some(i);
            }
            i += 1;
        }
        if self.len == UNDER_WAY {
            let oldest = oldest?;
            if a.n < self.under_way[oldest].lowest {
                return None;
            }
            self.give_up(oldest);
        }
        self.under_way[self.len] = Frame { timestamp: a.timestamp, ..Frame::default() };
        self.len += 1;
        Some(self.len - 1)
    }

    fn give_up(&mut self, i: usize) {
        let frame = self.under_way[i];
        if !frame.is(WAITING) {
            self.lost(frame.lowest);
        }
        self.remove(i);
    }

    fn remove(&mut self, i: usize) {
        self.len -= 1;
        self.under_way[i] = self.under_way[self.len];
    }

    fn complete_if(&mut self, which: impl Fn(&Frame) -> bool, received: &impl Received, progress: &mut Progress) {
        let found = self.under_way[..self.len].iter().position(|f| !f.is(WAITING) && which(f));
        let Some(i) = found.filter(|&i| self.under_way[i].is_complete(received)) else { return };
        let frame = self.under_way[i];
        let complete =
            Complete { first: frame.lowest, last: frame.last, key: frame.is(KEY), stamped: frame.is(STAMPED) };
        if let Some(slot) = progress.complete.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(complete);
        }
        self.decode(i, received, progress);
    }

    /// Frame `i` has just become complete.
    fn decode(&mut self, i: usize, received: &impl Received, progress: &mut Progress) {
        let frame = self.under_way[i];
        if self.next.is_some_and(|next| frame.lowest < next) {
            // A later key frame has made it superfluous.
            self.remove(i);
            return;
        }
        if !frame.is(KEY) {
            self.under_way[i].flags |= WAITING;
            if self.next.is_none() {
                let key_frame_may_come =
                    self.under_way[..self.len].iter().any(|f| f.is(KEY) && f.lowest < frame.lowest);
                self.headless |= !key_frame_may_come;
            }
            self.follow(received);
            return;
        }
        self.remove(i);
        progress.key_frame_at = Some(frame.lowest);
        self.go_on_from(&frame);
        let mut i = 0;
        while i < self.len {
            if self.under_way[i].is(WAITING) && self.under_way[i].lowest < frame.lowest {
                self.remove(i);
            } else {
                i += 1;
            }
        }
        self.follow(received);
    }

    /// Goes on with complete frames that follow without a hole.
    fn follow(&mut self, received: &impl Received) {
        while let Some(next) = self.next {
            let follows = |f: &Frame| f.is(WAITING) && (next..f.lowest).all(|n| received.is_filler(n));
            let Some(i) = self.under_way[..self.len].iter().position(follows) else { return };
            let frame = self.under_way[i];
            self.remove(i);
            self.go_on_from(&frame);
        }
    }

    fn go_on_from(&mut self, frame: &Frame) {
        self.next = Some(frame.last + 1);
        self.headless = false;
        self.decodable += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Everything received, and whether it was media.
    #[derive(Default)]
    struct Log(BTreeMap<u64, bool>);

    impl Received for Log {
        fn has(&self, n: u64) -> bool {
            self.0.contains_key(&n)
        }

        fn is_filler(&self, n: u64) -> bool {
            self.0.get(&n) == Some(&false)
        }
    }

    struct Bench {
        log: Log,
        frames: Frames,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { log: Log::default(), frames: Frames::new() }
        }

        /// Packet `part` (0..4) of frame `f`, whose numbers begin at 1000 + 4·f; every tenth frame is a key frame.
        fn receive(&mut self, f: u64, part: u64) -> Progress {
            self.receive_as(f, part, Start::Yes)
        }

        fn receive_as(&mut self, f: u64, part: u64, start: Start) -> Progress {
            let n = 1000 + 4 * f + part;
            self.log.0.insert(n, true);
            let a = Arrival {
                n,
                timestamp: f as u32 * 3000,
                marker: part == 3,
                start: if part == 0 { start } else { Start::No },
                key: part == 0 && f.is_multiple_of(10),
                stamped: part == 3,
            };
            self.frames.on_packet(&a, &self.log)
        }

        fn frame(&mut self, f: u64) -> usize {
            (0..4).map(|part| self.receive(f, part).complete.iter().flatten().count()).sum()
        }
    }

    #[test]
    fn in_order() {
        let mut b = Bench::new();
        assert_eq!((0..20).map(|f| b.frame(f)).sum::<usize>(), 20);
        assert_eq!(b.frames.decodable(), 20);
        assert!(!b.frames.needs_key_frame());
        let last = b.receive(20, 0);
        assert_eq!(last.lowest, 1080);
        assert_eq!(last.complete, [None, None]);
        b.receive(20, 1);
        b.receive(20, 2);
        let last = b.receive(20, 3);
        assert_eq!(last.complete[0], Some(Complete { first: 1080, last: 1083, key: true, stamped: true }));
        assert_eq!(last.key_frame_at, Some(1080));
    }

    #[test]
    fn any_order_within_and_across_frames() {
        let mut b = Bench::new();
        let mut complete = 0;
        for (f, part) in
            [(0, 3), (1, 0), (0, 1), (1, 3), (2, 2), (0, 2), (1, 2), (1, 1), (0, 0), (2, 3), (2, 0), (2, 1)]
        {
            complete += b.receive(f, part).complete.iter().flatten().count();
        }
        assert_eq!((complete, b.frames.decodable()), (3, 3));
    }

    #[test]
    fn a_hole_breaks_decoding_until_it_is_filled_or_a_key_frame_comes() {
        let mut b = Bench::new();
        b.frame(0);
        b.receive(1, 0);
        assert_eq!((2..8).map(|f| b.frame(f)).sum::<usize>(), 6);
        assert_eq!(b.frames.decodable(), 1);
        assert!(!b.frames.needs_key_frame(), "it may still come");
        b.frames.lost(1006);
        assert!(b.frames.needs_key_frame());
        for part in 1..4 {
            b.receive(1, part);
        }
        assert_eq!(b.frames.decodable(), 8);
        assert!(!b.frames.needs_key_frame());

        b.receive(9, 0);
        b.frames.lost(1034);
        assert!(b.frames.needs_key_frame());
        b.frame(10);
        assert!(!b.frames.needs_key_frame());
        assert_eq!(b.frames.decodable(), 9);
    }

    #[test]
    fn a_stream_that_begins_in_the_middle_needs_a_key_frame() {
        let mut b = Bench::new();
        assert!(!b.frames.needs_key_frame());
        assert_eq!(b.frame(3), 1);
        assert!(b.frames.needs_key_frame());
        assert!(!b.frames.has_begun());
        b.frame(10);
        assert!(b.frames.has_begun() && !b.frames.needs_key_frame());

        let mut b = Bench::new();
        b.receive(0, 0);
        b.frame(1);
        assert!(!b.frames.needs_key_frame(), "the key frame is under way");
        for part in 1..4 {
            b.receive(0, part);
        }
        assert_eq!(b.frames.decodable(), 2);
    }

    #[test]
    fn an_uncertain_start_needs_the_packet_before_it() {
        let mut b = Bench::new();
        let parts = |b: &mut Bench, f: u64| -> usize {
            (0..4).map(|p| b.receive_as(f, p, Start::IfContiguous).complete.iter().flatten().count()).sum()
        };
        assert_eq!(parts(&mut b, 10), 0);
        b.log.0.insert(1039, true);
        let before = Arrival { n: 1039, timestamp: 9, marker: true, start: Start::No, key: false, stamped: false };
        let progress = b.frames.on_packet(&before, &b.log);
        assert_eq!(progress.complete.iter().flatten().count(), 1);
        assert_eq!(b.frames.decodable(), 1);
        assert_eq!(parts(&mut b, 11), 1);
    }

    #[test]
    fn padding_is_no_hole() {
        let mut b = Bench::new();
        b.frame(0);
        // Frame 1's numbers are padding, the last of it late.
        for n in 1004..1007 {
            b.log.0.insert(n, false);
            b.frames.on_filler(n, &b.log);
        }
        b.frame(2);
        assert_eq!(b.frames.decodable(), 1);
        b.log.0.insert(1007, false);
        b.frames.on_filler(1007, &b.log);
        assert_eq!(b.frames.decodable(), 2);
    }

    #[test]
    fn more_broken_frames_than_places() {
        let mut b = Bench::new();
        b.frame(0);
        for f in 1..500 {
            if f % 10 == 0 {
                b.frame(f);
            } else {
                b.receive(f, 0);
            }
        }
        assert_eq!(b.frames.decodable(), 50);
        assert!(b.frames.len <= UNDER_WAY);
        b.frame(501);
        assert!(b.frames.needs_key_frame() || b.frames.len > 0);
    }
}
