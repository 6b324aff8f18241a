//! The impairer as a stage between sockets and participants: a participant's own network, and the datagrams that it
//! delays until the shard's tick lets them go.

use super::wheel::TICK;
use crate::impair::{Conditions, Counters, Delayed, Fate, Link, seed};
use crate::types::LegId;
use std::net::SocketAddr;
use std::time::Instant;

/// A participant's network, both directions; all its transports share it, as they share a home's line.
pub struct Access {
    pub up: Link,
    pub down: Link,
}

impl Access {
    /// `run`: the run's seed. Each leg and direction draws by itself.
    pub fn new(up: Conditions, down: Conditions, run: u64, leg: LegId) -> Access {
        let link = |c, direction| Link::new(c, seed(run, leg.0.into(), direction));
        Access { up: link(up, 0), down: link(down, 1) }
    }

    pub fn counters(&self) -> [Counters; 2] {
        [self.up.counters(), self.down.counters()]
    }
}

/// Whose a waiting datagram is.
#[derive(Clone, Copy, Debug)]
pub struct Whose {
    pub ix: u32,
    /// The place may have changed hands meanwhile.
    pub leg: LegId,
    pub slot: u8,
}

/// On its way to the server.
pub struct Upward {
    pub whose: Whose,
    pub to: SocketAddr,
}

/// On its way to the participant.
pub struct Downward {
    pub whose: Whose,
    pub from: SocketAddr,
    /// When the participant's kernel would have had it, CLOCK_REALTIME in ns.
    pub recv_ns: u64,
}

/// What a shard holds back. Times are ns since the start of the run, monotonic.
#[derive(Default)]
pub struct Held {
    pub up: Delayed<Upward>,
    /// For transports that are looked at in every tick, and for those that are looked at now and then.
    pub down_eager: Delayed<Downward>,
    pub down: Delayed<Downward>,
    /// For a second copy of a datagram that is decrypted in place.
    pub copy: Vec<u8>,
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.up.is_empty() && self.down_eager.is_empty() && self.down.is_empty()
    }

    /// What leaves in this tick: the nearest to its due time, so that ticks make no delay in the mean.
    pub fn leaving_ns(now_ns: u64) -> u64 {
        now_ns + TICK.as_nanos() as u64 / 2
    }
}

/// Where a participant's datagrams go that are not to leave at once.
pub struct Upwards<'a> {
    pub link: &'a mut Link,
    pub held: &'a mut Delayed<Upward>,
    pub whose: Whose,
    pub epoch: Instant,
}

impl Upwards<'_> {
    /// A datagram that the participant sends. What leaves at once goes to `send`.
    pub fn offer(&mut self, slot: u8, to: SocketAddr, datagram: &[u8], mut send: impl FnMut(&[u8])) {
        let now_ns = since(self.epoch, Instant::now());
        let Fate::Passed(p) = self.link.offer(now_ns, datagram) else { return };
        if p.due_ns <= now_ns && p.flip.is_none() {
            send(datagram);
            if p.twice {
                send(datagram);
            }
            return;
        }
        let whose = Whose { slot, ..self.whose };
        for _ in 0..=usize::from(p.twice) {
            p.corrupt(self.held.push(p.due_ns, Upward { whose, to }, datagram));
        }
    }
}

/// What becomes of datagrams on their way to a participant.
pub struct Downwards<'a> {
    pub link: &'a mut Link,
    pub held: &'a mut Delayed<Downward>,
    pub copy: &'a mut Vec<u8>,
    pub whose: Whose,
    /// The same moment since the start of the run and on CLOCK_REALTIME.
    pub now_ns: u64,
    pub now_real_ns: u64,
}

impl Downwards<'_> {
    /// A datagram that the kernel received at `recv_ns` (CLOCK_REALTIME; 0: unknown). What arrives at once goes to
    /// `deliver`, with its time of arrival.
    pub fn offer(&mut self, from: SocketAddr, recv_ns: u64, data: &mut [u8], mut deliver: impl FnMut(u64, &mut [u8])) {
        let recv_ns = if recv_ns == 0 { self.now_real_ns } else { recv_ns };
        let came_ns = self.now_ns.wrapping_add(recv_ns).wrapping_sub(self.now_real_ns);
        let Fate::Passed(p) = self.link.offer(came_ns, data) else { return };
        if !self.link.conditions().delays() {
            p.corrupt(data);
            if p.twice {
                // Participants decrypt in place.
                self.copy.clear();
                self.copy.extend_from_slice(data);
            }
            deliver(recv_ns, data);
            if p.twice {
                deliver(recv_ns, self.copy);
            }
            return;
        }
        let tag = |recv_ns| Downward { whose: self.whose, from, recv_ns };
        for _ in 0..=usize::from(p.twice) {
            p.corrupt(self.held.push(p.due_ns, tag(recv_ns + (p.due_ns - came_ns)), data));
        }
    }
}

/// ns since the start of the run.
pub fn since(epoch: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(epoch).as_nanos() as u64
}
