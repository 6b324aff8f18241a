//! The reference flow: a small steady flow from a shard to itself, past the target. Whatever happens to it happened on
//! our side, so a second in which it suffers proves nothing about the target.

use super::realtime_ns;
use super::socket::{MediaSocket, Receiver};
use crate::history::ReferenceFlow;
use crate::measure::Hist;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// As an audio stream: 50 packets a second.
const INTERVAL: Duration = Duration::from_millis(20);
/// A packet that has not come when so many later ones have been sent (200 ms) is lost.
const SETTLED_AFTER: u64 = 10;
/// Number and send time.
const LEN: usize = 16;

/// Two sockets on one source address, and what is known of the packets between them.
pub struct Reference {
    from: MediaSocket,
    to: MediaSocket,
    next_at: Instant,
    arrivals: Arrivals,
}

/// Pure part: numbers and times in, loss, delay and jitter out.
struct Arrivals {
    sent: u64,
    /// Bit i: the packet sent i before the last one has come.
    came: u64,
    last_transit_ns: Option<i64>,
    jitter_ns: f64,
    flow: ReferenceFlow,
}

impl Reference {
    pub fn open(source: IpAddr, now: Instant) -> io::Result<Reference> {
        let (mut from, mut to) = (MediaSocket::bind(source)?, MediaSocket::bind(source)?);
        from.connect(to.local())?;
        to.connect(from.local())?;
        Ok(Reference { from, to, next_at: now, arrivals: Arrivals::new() })
    }

    /// Sends what is due: at most one packet. Those slept over are not made up for; that is lateness, not loss.
    pub fn send(&mut self, now: Instant) {
        if now < self.next_at {
            return;
        }
        self.next_at = (self.next_at + INTERVAL).max(now);
        let number = self.arrivals.on_sent();
        let mut packet = [0; LEN];
        packet[..8].copy_from_slice(&number.to_be_bytes());
        packet[8..].copy_from_slice(&realtime_ns().to_be_bytes());
        // A packet that the kernel refuses is a lost one.
        let _ = self.from.send(None, &packet);
    }

    /// Reads what has come; no system call while nothing is under way.
    pub fn receive(&mut self, receiver: &mut Receiver) {
        if !self.arrivals.awaits() {
            return;
        }
        let arrivals = &mut self.arrivals;
        let peer = self.from.local();
        receiver.drain(&self.to, |mut batch| {
            batch.each(Some(peer), |_, recv_ns, data| {
                let Some((number, sent)) = data.split_first_chunk::<8>() else { return };
                let Ok(sent) = <[u8; 8]>::try_from(sent) else { return };
                let recv_ns = if recv_ns == 0 { realtime_ns() } else { recv_ns };
                arrivals.on_received(u64::from_be_bytes(*number), u64::from_be_bytes(sent), recv_ns);
            });
        });
    }

    /// What was seen since the last take.
    pub fn take(&mut self) -> ReferenceFlow {
        self.arrivals.take()
    }
}

impl Arrivals {
    fn new() -> Arrivals {
        let flow = ReferenceFlow { delay: Hist::allocated(), ..ReferenceFlow::default() };
        Arrivals { sent: 0, came: 0, last_transit_ns: None, jitter_ns: 0.0, flow }
    }

    /// Number of the packet that goes out now.
    fn on_sent(&mut self) -> u64 {
        let number = self.sent;
        self.sent += 1;
        self.came <<= 1;
        if number >= SETTLED_AFTER {
            self.flow.expected += 1;
            self.flow.received += self.came >> SETTLED_AFTER & 1;
        }
        number
    }

    /// True while a packet that is not settled has not come.
    fn awaits(&self) -> bool {
        let open = self.sent.min(SETTLED_AFTER);
        self.came & ((1 << open) - 1) != (1 << open) - 1
    }

    fn on_received(&mut self, number: u64, sent_ns: u64, recv_ns: u64) {
        let Some(back) = self.sent.checked_sub(number.saturating_add(1)).filter(|back| *back < 64) else { return };
        if self.came >> back & 1 == 1 {
            return;
        }
        self.came |= 1 << back;
        let transit = recv_ns as i64 - sent_ns as i64;
        self.flow.delay.record_us(transit.max(0) as u64 / 1000);
        // RFC 3550 6.4.1: both ends have one clock, so the difference of transits is the whole of D.
        if let Some(last) = self.last_transit_ns.replace(transit) {
            self.jitter_ns += ((transit - last).abs() as f64 - self.jitter_ns) / 16.0;
            self.flow.jitter_ms = self.flow.jitter_ms.max(self.jitter_ns / 1e6);
        }
    }

    fn take(&mut self) -> ReferenceFlow {
        let next = ReferenceFlow { delay: Hist::allocated(), ..ReferenceFlow::default() };
        std::mem::replace(&mut self.flow, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn counts_what_is_lost_and_how_late_the_rest_is() {
        let mut a = Arrivals::new();
        for n in 0..110u64 {
            let at = n * 20 * MS;
            assert_eq!(a.on_sent(), n);
            // Every tenth is lost, the others take 2 ms.
            if n % 10 != 3 {
                a.on_received(n, at, at + 2 * MS);
                a.on_received(n, at, at + 2 * MS);
            }
        }
        let f = a.take();
        assert_eq!((f.expected, f.received), (100, 90));
        assert_eq!(f.delay.quantile_ms(0.5).map(f64::round), Some(2.0));
        assert_eq!(f.jitter_ms, 0.0);
        assert_eq!(a.take(), ReferenceFlow::default());
    }

    #[test]
    fn a_packet_just_sent_is_under_way_and_a_late_one_shows_as_jitter() {
        let mut a = Arrivals::new();
        assert!(!a.awaits());
        a.on_sent();
        assert!(a.awaits());
        a.on_received(0, 0, MS);
        assert!(!a.awaits());
        a.on_sent();
        a.on_received(1, 20 * MS, 20 * MS + 33 * MS);
        let f = a.take();
        assert_eq!((f.expected, f.jitter_ms), (0, 2.0));
        // Numbers that were never sent, or long ago, change nothing.
        a.on_received(99, 0, 0);
        assert!(a.take().delay.is_empty());
    }

    #[test]
    fn flows_on_loopback() {
        let t0 = Instant::now();
        let mut r = Reference::open([127, 0, 0, 1].into(), t0).unwrap();
        let mut receiver = Receiver::new();
        for n in 0..50 {
            r.send(t0 + INTERVAL * n);
            r.send(t0 + INTERVAL * n + Duration::from_millis(1));
            r.receive(&mut receiver);
        }
        let f = r.take();
        assert_eq!((f.expected, f.received, f.delay.count()), (40, 40, 50));
    }
}
