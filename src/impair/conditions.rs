//! What one direction of a network is like.

use std::time::Duration;

/// Bytes a datagram takes on the wire beside its UDP payload: IPv4 20 (RFC 791) and UDP 8 (RFC 768).
pub const WIRE_OVERHEAD: usize = 28;

/// An exponential jitter is cut at so many means, so that there is a longest delay (one packet in 22,000 is cut).
const EXPONENTIAL_MEANS_MAX: f64 = 10.0;

/// One direction of one network. The default is perfect.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Conditions {
    pub loss: Loss,
    /// What every datagram takes.
    pub delay: Duration,
    pub jitter: Option<Jitter>,
    pub hold_back: Option<HoldBack>,
    /// Share (0..=1) of datagrams that arrive twice, the second right behind the first.
    pub duplicate: f64,
    /// Share (0..=1) of datagrams in which one bit is turned over.
    pub corrupt: f64,
    pub rate: Option<Rate>,
    pub blackout: Option<Blackout>,
    /// Since the flow's first datagram: until then the network is perfect.
    pub after: Duration,
}

/// Which datagrams are lost.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub enum Loss {
    #[default]
    None,
    /// Each by itself, with this probability (0..=1).
    Independent(f64),
    /// Gilbert–Elliott: a good and a bad state, each with a loss of its own (E. N. Gilbert, "Capacity of a burst-noise
    /// channel", 1960; E. O. Elliott, "Estimates of error rates for codes on burst-noise channels", 1963), by what one
    /// can measure: the long-run `share` lost, the `mean` number of datagrams that a bad spell lasts, and the loss
    /// inside (`bad`) and outside (`good`) of it. [`Loss::check`] says whether there is such a process.
    Bursts { share: f64, mean: f64, bad: f64, good: f64 },
}

impl Loss {
    /// # Errors
    /// Where no such process exists.
    pub fn check(self) -> Result<Loss, Problem> {
        let Loss::Bursts { share, bad, good, .. } = self else { return Ok(self) };
        if !(good <= share && share < bad) {
            return Err(Problem::LossOutside);
        }
        if self.transitions().0 > 1.0 {
            return Err(Problem::BurstTooShort);
        }
        Ok(self)
    }

    /// Probabilities, per datagram, of going from good to bad and from bad to good.
    pub(super) fn transitions(self) -> (f64, f64) {
        let Loss::Bursts { share, mean, bad, good } = self else { return (0.0, 1.0) };
        // Stationary share of the bad state: share = b·bad + (1 − b)·good; and b = to_bad / (to_bad + to_good).
        let b = (share - good) / (bad - good);
        let to_good = 1.0 / mean.max(1.0);
        (b * to_good / (1.0 - b), to_good)
    }

    /// Long-run share lost.
    pub fn share(self) -> f64 {
        match self {
            Loss::None => 0.0,
            Loss::Independent(share) | Loss::Bursts { share, .. } => share,
        }
    }
}

/// Why a loss process cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    #[error("lies outside of what the loss in and between bursts can make")]
    LossOutside,
    #[error("cannot be reached by bursts this short")]
    BurstTooShort,
}

/// Delay that differs from datagram to datagram.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Jitter {
    /// Mean of what it adds.
    pub mean: Duration,
    pub distribution: Distribution,
    /// Whether a datagram may overtake one that was sent before it. A queue never lets it; without this, a datagram
    /// that would overtake leaves together with the one before.
    pub reorders: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Distribution {
    /// Between nothing and twice the mean.
    #[default]
    Uniform,
    /// Many short ones, few long ones, as contention for a radio channel makes them; cut at ten means.
    Exponential,
}

impl Jitter {
    /// For a uniform `u` in 0..1.
    pub(super) fn draw_ns(&self, u: f64) -> u64 {
        let mean = self.mean.as_nanos() as f64;
        let times = match self.distribution {
            Distribution::Uniform => 2.0 * u,
            Distribution::Exponential => (-(1.0 - u).ln()).min(EXPONENTIAL_MEANS_MAX),
        };
        (mean * times) as u64
    }

    pub fn longest(&self) -> Duration {
        match self.distribution {
            Distribution::Uniform => self.mean * 2,
            Distribution::Exponential => self.mean.mul_f64(EXPONENTIAL_MEANS_MAX),
        }
    }
}

/// Some datagrams are held back, so that those behind overtake them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HoldBack {
    /// Share (0..=1) of datagrams.
    pub share: f64,
    pub by: Duration,
}

/// A bottleneck: a queue that is served at a fixed rate and drops what does not fit (tail drop).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// On the wire, IP and UDP headers included ([`WIRE_OVERHEAD`]).
    pub bits_per_s: u64,
    pub queue: Queue,
}

/// How much may wait in front of the bottleneck.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// So many bytes on the wire, the datagram being served included.
    Bytes(u64),
    /// As long as the wait is no longer than this.
    Time(Duration),
}

impl Rate {
    pub(super) fn service_ns(&self, wire_bytes: u64) -> u64 {
        (u128::from(wire_bytes) * 8_000_000_000 / u128::from(self.bits_per_s.max(1))) as u64
    }

    /// Longest time from arrival to departure of a datagram of `wire_bytes`.
    pub fn longest(&self, wire_bytes: u64) -> Duration {
        match self.queue {
            Queue::Bytes(b) => Duration::from_nanos(self.service_ns(b)),
            Queue::Time(t) => t + Duration::from_nanos(self.service_ns(wire_bytes)),
        }
    }
}

/// Nothing passes for a while.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Blackout {
    /// Since the flow's first datagram.
    pub after: Duration,
    pub lasts: Duration,
    /// From one beginning to the next; `None`: once.
    pub every: Option<Duration>,
}

impl Blackout {
    pub(super) fn covers(&self, since_first_ns: u64) -> bool {
        let Some(since) = since_first_ns.checked_sub(self.after.as_nanos() as u64) else { return false };
        let since = match self.every {
            Some(every) => since % (every.as_nanos() as u64).max(1),
            None => since,
        };
        since < self.lasts.as_nanos() as u64
    }
}

impl Conditions {
    pub const PERFECT: Conditions = Conditions {
        loss: Loss::None,
        delay: Duration::ZERO,
        jitter: None,
        hold_back: None,
        duplicate: 0.0,
        corrupt: 0.0,
        rate: None,
        blackout: None,
        after: Duration::ZERO,
    };

    pub fn is_perfect(&self) -> bool {
        *self == Conditions { after: self.after, ..Conditions::default() }
    }

    /// True where datagrams leave later than they came, so that somebody must hold them.
    pub fn delays(&self) -> bool {
        !self.delay.is_zero() || self.jitter.is_some() || self.hold_back.is_some() || self.rate.is_some()
    }

    /// Longest time that a datagram of a usual size may be under way.
    pub fn longest(&self) -> Duration {
        self.delay
            + self.jitter.map_or(Duration::ZERO, |j| j.longest())
            + self.hold_back.map_or(Duration::ZERO, |h| h.by)
            + self.rate.map_or(Duration::ZERO, |r| r.longest(1500))
    }
}
