//! Which of a sender's clips goes through the network, by the estimate. Our own rule, as a clip has the rate it has:
//!
//! - Down at once when the estimate lies more than a tenth below what the clip takes: to the largest clip that it
//!   carries.
//! - Up when it carries the next clip. But a sender of a low clip never shows the network more than that clip, and its
//!   estimate ends at 1.5 times of it. Browsers send padding to find out; we send the next clip, on trial, after some time
//!   without congestion and with little loss.
//! - A trial that ends in a step down within ten seconds has failed: back to the clip before it, and twice as long until
//!   the next one. One that does not has succeeded.

use super::estimator::Estimator;

/// A single over-use on a network that just carries a clip is no step: it leaves 0.85 of what arrives, and with a key
/// frame on the way more arrives than on average.
const TOLERANCE: f64 = 0.9;

/// Without congestion, before the first trial; doubled up to the second.
const WAIT_US: u64 = 5_000_000;
const WAIT_MAX_US: u64 = 60_000_000;
/// The same, where the estimate has room for the next clip.
const WAIT_WITH_ROOM_US: u64 = 2_000_000;

const TRIAL_US: u64 = 10_000_000;

/// Pure: decides, and keeps what came of it.
#[derive(Debug)]
pub struct Steps {
    /// Bits per second on the wire that each clip takes, the lowest first.
    needs: Box<[f64]>,
    at: usize,
    /// The clip before the one on trial, and when the trial is over.
    trial: Option<(usize, u64)>,
    wait_us: u64,
    /// Drawn anew for each wait: senders behind one bottleneck must not try together.
    random: u64,
}

impl Steps {
    /// `needs`: bits per second on the wire of each clip, the lowest first, at least one. Begins with the highest.
    pub fn new(needs: Box<[f64]>, seed: u64) -> Steps {
        Steps { at: needs.len().saturating_sub(1), needs, trial: None, wait_us: WAIT_US, random: seed | 1 }
    }

    /// Bits per second of the clip that is sent.
    pub fn sending(&self) -> f64 {
        self.needs.get(self.at).copied().unwrap_or_default()
    }

    /// The clip to send from now on, if it is another one. The estimator is told.
    pub fn decide(&mut self, now_us: u64, estimator: &mut Estimator) -> Option<usize> {
        let tried = self.trial.filter(|(_, until)| now_us < *until);
        if self.trial.is_some() && tried.is_none() {
            (self.trial, self.wait_us) = (None, WAIT_US);
        }
        let estimate = estimator.bits_per_s();
        if self.at > 0 && estimate < TOLERANCE * self.sending() {
            let carried = self.needs[..self.at].iter().rposition(|n| *n <= estimate).unwrap_or(0);
            // What a trial met says little of the clip before it, unless the server itself wants less.
            let before = tried.map(|(before, _)| before).filter(|b| self.needs[*b] <= estimator.bound());
            if tried.is_some() {
                self.wait_us = (2 * self.wait_us).min(WAIT_MAX_US);
            }
            self.trial = None;
            let at_least = before.map_or(0.0, |b| self.needs[b]);
            return Some(self.go(now_us, before.unwrap_or(carried), at_least, estimator));
        }
        let next = *self.needs.get(self.at + 1)?;
        let wait = if estimate >= next { WAIT_WITH_ROOM_US } else { self.drawn_wait() };
        if estimator.bound() < next || estimator.calm_for_us(now_us) < wait {
            return None;
        }
        if !estimator.is_clean() {
            estimator.calm(now_us);
            return None;
        }
        self.trial = Some((self.at, now_us.saturating_add(TRIAL_US)));
        self.draw();
        Some(self.go(now_us, self.at + 1, next, estimator))
    }

    fn go(&mut self, now_us: u64, to: usize, at_least: f64, estimator: &mut Estimator) -> usize {
        self.at = to;
        estimator.step(now_us, self.needs[to], at_least);
        to
    }

    /// A fifth more or less.
    fn drawn_wait(&self) -> u64 {
        self.wait_us / 5 * 4 + (self.random >> 33) % (self.wait_us / 5 * 2)
    }

    /// The next of a xorshift sequence (Marsaglia 2003).
    fn draw(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
    }
}
