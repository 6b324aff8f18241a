//! What was sent in the last second or so: not the packets, only what it takes to write them again.

use crate::prefetch::prefetch;

/// One packet that was sent. Sequence number, rollover counter and PictureID follow from its number and frame.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sent {
    /// CLOCK_REALTIME in its stamp, ns.
    pub sent_ns: u64,
    /// When it was sent, ms since the stream's base; wraps.
    pub at_ms: u32,
    pub timestamp: u32,
    pub frame: u32,
    pub place: Place,
}

/// A packet of one of a sender's clips: the clip's number in the upper bits, the packet's index in it below.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place(u32);

/// Clips that a [`Place`] can tell apart.
pub const CLIPS_MAX: usize = 1 << (32 - INDEX_BITS);

const INDEX_BITS: u32 = 24;

impl Place {
    pub fn new(clip: usize, packet: u32) -> Place {
        debug_assert!(clip < CLIPS_MAX && packet >> INDEX_BITS == 0);
        Place((clip as u32) << INDEX_BITS | packet)
    }

    pub fn clip(self) -> usize {
        (self.0 >> INDEX_BITS) as usize
    }

    pub fn packet(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }
}

/// The last packets by their number in the stream, from 1.
#[derive(Debug)]
pub struct History {
    ring: Box<[Sent]>,
}

impl History {
    /// Room for at least a quarter more than `packets_per_second`, since key frames on request come on top of the
    /// clip's own.
    pub fn new(packets_per_second: usize) -> History {
        let size = (packets_per_second + packets_per_second / 4).max(64).next_power_of_two();
        History { ring: vec![Sent::default(); size].into_boxed_slice() }
    }

    /// Asks for the memory of packet `number`.
    #[inline]
    pub fn prefetch(&self, number: u64) {
        prefetch(&self.ring[self.at(number)], 1);
    }

    /// Numbers must rise by one.
    pub fn push(&mut self, number: u64, sent: Sent) {
        let at = self.at(number);
        self.ring[at] = sent;
    }

    /// Packet `number`, when `newest` is the last one pushed; `None` if it has been overwritten, or is not yet.
    pub fn get(&self, number: u64, newest: u64) -> Option<&Sent> {
        let age = newest.checked_sub(number)?;
        (number > 0 && age < self.ring.len() as u64).then(|| &self.ring[self.at(number)])
    }

    fn at(&self, number: u64) -> usize {
        number as usize & (self.ring.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let mut h = History::new(100);
        assert_eq!(h.get(1, 0).map(|s| s.frame), None);
        for n in 1..=1000 {
            h.push(n, Sent { frame: n as u32, ..Sent::default() });
            assert_eq!(h.get(n + 1, n).map(|s| s.frame), None);
            for back in 0..140 {
                let expected = n.checked_sub(back).filter(|&m| m > 0 && back < 128).map(|m| m as u32);
                assert_eq!(n.checked_sub(back).and_then(|m| h.get(m, n)).map(|s| s.frame), expected, "{n} - {back}");
            }
        }
    }
}
