//! Silence: the longest gap in audio that must flow, less what the sender did not send.
//!
//! Between two packets that arrive one after the other, the gap is the difference of their receive times. The stamps
//! say how long the sender took from one to the other and how many packets it sent meanwhile; what is longer than
//! these packets last was not sent (DTX, mute), and is taken off. For the gap that is still open the ledger says the same.

use crate::measure::Ledger;

/// Opus packets last 20 ms.
const PACKET_NS: u64 = 20_000_000;

#[derive(Clone, Copy)]
struct Last {
    recv_ns: u64,
    sent_ns: u64,
    count: u64,
}

#[derive(Default)]
pub(super) struct Silence {
    last: Option<Last>,
    longest_ns: u64,
    since_take_ns: u64,
}

impl Silence {
    /// Returns for how long, in ns, the sender had nothing to send since the packet before.
    pub fn on_packet(&mut self, recv_ns: u64, sent_ns: u64, count: u64) -> u64 {
        let Some(last) = &mut self.last else {
            self.last = Some(Last { recv_ns, sent_ns, count });
            return 0;
        };
        let gap_ns = recv_ns.saturating_sub(last.recv_ns);
        let unsent_ns = unsent(last, sent_ns, count);
        last.recv_ns = last.recv_ns.max(recv_ns);
        if count > last.count {
            (last.sent_ns, last.count) = (sent_ns, count);
        }
        self.note(gap_ns.saturating_sub(unsent_ns));
        unsent_ns
    }

    /// Counts from here although nothing has come: the packets after `count` must flow.
    pub fn expect_from(&mut self, at_ns: u64, count: u64) {
        self.last.get_or_insert(Last { recv_ns: at_ns, sent_ns: at_ns, count });
    }

    /// Nothing must flow until the next packet; what was open counts up to now.
    pub fn stop(&mut self) {
        self.last = None;
    }

    /// The open gap, up to now. Returns for how long of it, in ns, the sender had nothing to send.
    pub fn advance(&mut self, ledger: &Ledger, now_ns: u64) -> u64 {
        let Some(last) = &self.last else { return 0 };
        let gap_ns = now_ns.saturating_sub(last.recv_ns);
        let unsent_ns = unsent(last, now_ns, ledger.count_at(now_ns));
        self.note(gap_ns.saturating_sub(unsent_ns));
        unsent_ns
    }

    pub fn longest_ns(&self) -> u64 {
        self.longest_ns
    }

    pub fn take_ns(&mut self) -> u64 {
        std::mem::take(&mut self.since_take_ns)
    }

    fn note(&mut self, ns: u64) {
        self.longest_ns = self.longest_ns.max(ns);
        self.since_take_ns = self.since_take_ns.max(ns);
    }
}

/// For how long the sender had nothing to send between the last packet and this point.
fn unsent(last: &Last, sent_ns: u64, count: u64) -> u64 {
    let sent_for_ns = count.saturating_sub(last.count).saturating_mul(PACKET_NS);
    sent_ns.saturating_sub(last.sent_ns).saturating_sub(sent_for_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Sends a packet every 20 ms from `from` on; each arrives 50 ms later.
    struct Bench {
        ledger: Ledger,
        silence: Silence,
        count: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { ledger: Ledger::new(), silence: Silence::default(), count: 0 }
        }

        fn send(&mut self, at: u64, arrives: bool) {
            self.count += 1;
            self.ledger.on_sent(at * MS, self.count);
            if arrives {
                self.silence.on_packet((at + 50) * MS, at * MS, self.count);
            }
        }
    }

    #[test]
    fn lost_packets_are_silence_unsent_ones_are_not() {
        let mut b = Bench::new();
        for i in 0..50 {
            b.send(1000 + 20 * i, true);
        }
        assert_eq!(b.silence.take_ns(), 20 * MS);
        // Ten lost: 220 ms between arrivals.
        for i in 50..60 {
            b.send(1000 + 20 * i, false);
        }
        b.send(2200, true);
        assert_eq!(b.silence.take_ns(), 220 * MS);
        // The sender was muted for 3 s.
        b.send(5200, true);
        assert_eq!(b.silence.take_ns(), 20 * MS);
        // Muted for 1 s, and two packets lost after that.
        b.send(6220, false);
        b.send(6240, false);
        b.send(6260, true);
        assert_eq!(b.silence.take_ns(), 60 * MS);
        assert_eq!(b.silence.longest_ns(), 220 * MS);
    }

    #[test]
    fn the_open_gap_counts() {
        let mut b = Bench::new();
        b.send(1000, true);
        for i in 1..100 {
            b.send(1000 + 20 * i, false);
        }
        b.silence.advance(&b.ledger, 3000 * MS);
        assert_eq!(b.silence.take_ns(), 1930 * MS);
        // From 2980 on nothing is sent: the gap no longer grows.
        b.silence.advance(&b.ledger, 9000 * MS);
        let ns = b.silence.take_ns();
        assert!((1930 * MS..=1980 * MS).contains(&ns), "{ns}");
        b.silence.stop();
        b.silence.advance(&b.ledger, 10_000 * MS);
        assert_eq!(b.silence.take_ns(), 0);
    }

    #[test]
    fn a_stream_that_never_began_is_silent() {
        let mut b = Bench::new();
        for i in 0..200 {
            b.send(1000 + 20 * i, false);
        }
        b.silence.expect_from(2000 * MS, b.ledger.count_at(2000 * MS));
        b.silence.advance(&b.ledger, 4990 * MS);
        assert!(b.silence.longest_ns() >= 2980 * MS, "{}", b.silence.longest_ns());
    }
}
