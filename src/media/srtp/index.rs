//! Packet indices of one SSRC: 48 bits, ROC << 16 | sequence number (RFC 3711 3.3.1), and the replay window (3.3.2).

/// Packets the replay window looks back. RFC 3711 asks for 64 at least; video at 1500 kbit/s over a path that
/// reorders or a server that answers NACKs from half a second ago needs more.
pub const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;
const INDEX_MASK: u64 = 0xffff_ffff_ffff;

/// Receive index of one SSRC. 136 bytes, no allocation. Ask [`estimate`](RxIndex::estimate) and
/// [`is_replay`](RxIndex::is_replay) before opening a packet; [`commit`](RxIndex::commit) only after its tag was
/// verified, so that a forged packet moves neither the rollover counter nor the window.
#[derive(Clone, Debug, Default)]
pub struct RxIndex {
    /// Highest index received, plus one; 0 before the first packet.
    next: u64,
    /// Bit `i % WINDOW` stands for index `i`, for the last [`WINDOW`] indices.
    seen: [u64; WORDS],
}

impl RxIndex {
    /// The index that `seq` most likely has: RFC 3711 3.3.1 and Appendix A. The first packet is taken to have ROC 0,
    /// and while ROC is 0 a sequence number far above the highest is one ahead, since no index lies before 0.
    #[inline]
    pub fn estimate(&self, seq: u16) -> u64 {
        let Some(highest) = self.next.checked_sub(1) else { return u64::from(seq) };
        let (roc, s_l, s) = (highest >> 16, i32::from(highest as u16), i32::from(seq));
        let roc = if s_l < 0x8000 {
            if s - s_l > 0x8000 { roc.saturating_sub(1) } else { roc }
        } else if s_l - 0x8000 > s {
            roc + 1
        } else {
            roc
        };
        (roc << 16 | u64::from(seq)) & INDEX_MASK
    }

    /// Whether `index` was committed before, or lies too far back to tell.
    #[inline]
    pub fn is_replay(&self, index: u64) -> bool {
        if index >= self.next {
            return false;
        }
        self.next - 1 - index >= WINDOW || self.seen[word(index)] & bit(index) != 0
    }

    /// Takes `index` as received.
    #[inline]
    pub fn commit(&mut self, index: u64) {
        if index >= self.next {
            if index - self.next >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (self.next..index).for_each(|skipped| self.seen[word(skipped)] &= !bit(skipped));
            }
            self.next = index + 1;
        } else if self.next - 1 - index >= WINDOW {
            return;
        }
        self.seen[word(index)] |= bit(index);
    }

    /// Highest index committed so far.
    pub fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }
}

/// Send index of one SSRC: hands out sequence numbers with the rollover counter that goes with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxIndex {
    next: u64,
}

impl TxIndex {
    /// Starts at `first_seq`. Below 2^15 is wise (RFC 3711 3.3.1): if the first packets are lost just before a wrap,
    /// the receiver starts with the wrong ROC and never opens a packet.
    pub fn new(first_seq: u16) -> TxIndex {
        TxIndex { next: u64::from(first_seq) }
    }

    /// The next packet's sequence number and ROC.
    #[inline]
    pub fn take(&mut self) -> (u16, u32) {
        let index = self.next;
        self.next = (index + 1) & INDEX_MASK;
        (index as u16, (index >> 16) as u32)
    }

    /// ROC of a packet already sent, at most 2^16 packets ago: what a retransmission of the identical packet needs.
    #[inline]
    pub fn roc_of(&self, sent_seq: u16) -> u32 {
        let back = u64::from((self.next as u16).wrapping_sub(sent_seq).wrapping_sub(1)) + 1;
        (self.next.wrapping_sub(back) >> 16) as u32
    }

    /// The sequence number [`take`](TxIndex::take) hands out next.
    pub fn next_seq(&self) -> u16 {
        self.next as u16
    }
}

#[inline]
fn word(index: u64) -> usize {
    (index / 64) as usize % WORDS
}

#[inline]
fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn at(highest: u64) -> RxIndex {
        let mut rx = RxIndex::default();
        rx.commit(highest);
        rx
    }

    #[test]
    fn sequence_numbers_wrap_into_the_next_rollover() {
        let mut rx = at(65_534);
        assert_eq!(rx.estimate(65_535), 65_535);
        rx.commit(65_535);
        assert_eq!(rx.estimate(0), 65_536);
        rx.commit(65_536);
        assert_eq!(rx.estimate(1), 65_537);
    }

    #[test]
    fn packets_reordered_across_the_wrap_keep_their_own_roc() {
        let mut rx = at(65_533);
        for (seq, index) in [(0u16, 65_536), (65_535, 65_535), (2, 65_538), (65_534, 65_534), (1, 65_537)] {
            assert_eq!(rx.estimate(seq), index);
            assert!(!rx.is_replay(index));
            rx.commit(index);
            assert!(rx.is_replay(index));
        }
        assert_eq!(rx.highest(), Some(65_538));
    }

    #[test]
    fn first_packet_has_roc_0_and_nothing_lies_before_index_0() {
        assert_eq!(RxIndex::default().estimate(65_000), 65_000);
        assert_eq!(at(3).estimate(65_000), 65_000);
    }

    #[test]
    fn estimate_at_the_edges_of_half_the_range() {
        let rx = at(5 << 16 | 0x1000);
        assert_eq!(rx.estimate(0x9000), 5 << 16 | 0x9000);
        assert_eq!(rx.estimate(0x9001), 4 << 16 | 0x9001);
        let rx = at(5 << 16 | 0x9000);
        assert_eq!(rx.estimate(0x1000), 5 << 16 | 0x1000);
        assert_eq!(rx.estimate(0x0fff), 6 << 16 | 0x0fff);
    }

    #[test]
    fn roc_itself_wraps() {
        assert_eq!(at(INDEX_MASK).estimate(0), 0);
        let mut tx = TxIndex { next: INDEX_MASK };
        assert_eq!(tx.take(), (0xffff, u32::MAX));
        assert_eq!(tx.take(), (0, 0));
        assert_eq!(tx.roc_of(0xffff), u32::MAX);
    }

    #[test]
    fn asking_moves_nothing() {
        let rx = at(100);
        let before = format!("{rx:?}");
        rx.estimate(60_000);
        rx.is_replay(u64::from(u32::MAX));
        assert_eq!(format!("{rx:?}"), before);
    }

    #[test]
    fn window_forgets_nothing_within_and_refuses_all_beyond() {
        let mut rx = at(10_000);
        assert!(!rx.is_replay(10_000 - WINDOW + 1));
        assert!(rx.is_replay(10_000 - WINDOW));
        rx.commit(10_000 - WINDOW); // too old: ignored, must not mark a slot in use by another index
        assert!(!rx.is_replay(10_000 + WINDOW));
        rx.commit(10_000 + 5 * WINDOW);
        assert!(rx.is_replay(10_000));
        assert!(!rx.is_replay(10_000 + 5 * WINDOW - 1));
    }

    #[test]
    fn sender_counts_rollovers_and_recalls_them() {
        let mut tx = TxIndex::new(65_535);
        assert_eq!(tx.next_seq(), 65_535);
        assert_eq!(tx.take(), (65_535, 0));
        assert_eq!(tx.take(), (0, 1));
        assert_eq!(tx.take(), (1, 1));
        assert_eq!((tx.roc_of(65_535), tx.roc_of(0), tx.roc_of(1)), (0, 1, 1));
        for _ in 0..65_536 {
            tx.take();
        }
        assert_eq!(tx.roc_of(1), 2);
        assert_eq!(tx.roc_of(2), 1);
    }

    proptest! {
        /// Against a set of all indices ever committed.
        #[test]
        fn window_agrees_with_a_set(steps in prop::collection::vec(-1100i64..1100, 1..400)) {
            let mut rx = RxIndex::default();
            let mut seen = HashSet::new();
            let mut highest = None::<u64>;
            let mut index = 5_000i64;
            for step in steps {
                index = (index + step).max(0);
                let i = index as u64;
                let replay = seen.contains(&i) || highest.is_some_and(|h| h >= i + WINDOW);
                prop_assert_eq!(rx.is_replay(i), replay);
                rx.commit(i);
                if !replay {
                    seen.insert(i);
                    highest = highest.max(Some(i));
                }
                prop_assert_eq!(rx.highest(), highest);
            }
        }

        /// Whatever was received, a packet within 2^15 of the highest gets its true index.
        #[test]
        fn estimate_finds_every_near_index(highest in 0x1_0000u64..1 << 47, offset in -0x7fffi64..0x8000) {
            let index = highest.wrapping_add_signed(offset);
            prop_assert_eq!(at(highest).estimate(index as u16), index);
        }
    }
}
