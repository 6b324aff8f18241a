//! Consent to send (RFC 7675): kept by answers to our own requests and by nothing else.

use super::Timing;
use super::stun::TransactionId;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests without an answer that are remembered: at 50 ms between checks, answers up to 800 ms late are timed.
const ASKED_MAX: usize = 16;

pub(super) struct Consent {
    granted: bool,
    /// Last answer, or the selection of the pair.
    fresh: Instant,
    next: Instant,
    asked: VecDeque<(TransactionId, Instant)>,
    rtt: Option<Duration>,
    /// This silence has been told of.
    told: bool,
    rng: u64,
}

impl Consent {
    pub fn new(now: Instant, seed: u64) -> Consent {
        Consent { granted: false, fresh: now, next: now, asked: VecDeque::new(), rtt: None, told: false, rng: seed }
    }

    /// A pair was selected: its check has just been answered.
    pub fn grant(&mut self, now: Instant, timing: &Timing) {
        self.granted = true;
        self.fresh = now;
        self.told = false;
        self.plan(now, timing);
    }

    /// Nothing may be sent any more.
    pub fn revoke(&mut self) {
        self.granted = false;
        self.asked = VecDeque::new();
    }

    pub fn is_granted(&self) -> bool {
        self.granted
    }

    /// Round trip of the last answered check.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// A request of ours went out.
    pub fn asked(&mut self, now: Instant, transaction: TransactionId) {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((transaction, now));
    }

    /// An authentic answer came in. Returns whether it answered a request of ours; it renews consent when it came
    /// over the selected pair.
    pub fn answered(&mut self, now: Instant, transaction: TransactionId, selected: bool) -> bool {
        let Some(i) = self.asked.iter().position(|(id, _)| *id == transaction) else { return false };
        if let Some((_, at)) = self.asked.remove(i) {
            self.rtt = Some(now.saturating_duration_since(at));
        }
        if selected {
            self.fresh = now;
            self.told = false;
        }
        true
    }

    /// Plans the next check, spread so that thousands of transports do not ask in step (RFC 7675 5.1).
    pub fn plan(&mut self, now: Instant, timing: &Timing) {
        self.rng = self.rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (self.rng >> 40) as f64 / (1u64 << 24) as f64;
        self.next = now + timing.consent_interval.mul_f64(0.8 + 0.4 * unit);
    }

    pub fn next_check(&self) -> Instant {
        self.next
    }

    /// When consent ends if no answer comes; `None` without consent.
    pub fn ends(&self, timing: &Timing) -> Option<Instant> {
        self.granted.then(|| self.fresh + timing.consent_timeout)
    }

    /// When the peer counts as disconnected if no answer comes; `None` once that was told.
    pub fn disconnects(&self, timing: &Timing) -> Option<Instant> {
        (self.granted && !self.told).then(|| self.fresh + timing.disconnected)
    }

    /// The silence since the last answer has been told of.
    pub fn tell(&mut self) {
        self.told = true;
    }

    pub fn shrink(&mut self) {
        self.asked.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = [7; 12];

    fn granted(now: Instant) -> Consent {
        let mut c = Consent::new(now, 3);
        c.grant(now, &Timing::default());
        c
    }

    #[test]
    fn only_an_answer_to_our_own_request_renews() {
        let now = Instant::now();
        let (timing, later) = (Timing::default(), now + Duration::from_secs(6));
        let mut c = granted(now);
        assert!(!c.answered(later, ID, true));
        assert_eq!(c.ends(&timing), Some(now + timing.consent_timeout));
        c.asked(later, ID);
        assert!(c.answered(later + Duration::from_millis(30), ID, true));
        assert_eq!(c.rtt(), Some(Duration::from_millis(30)));
        assert_eq!(c.ends(&timing), Some(later + Duration::from_millis(30) + timing.consent_timeout));
        assert!(!c.answered(later + Duration::from_secs(1), ID, true), "a second answer is nobody's");
    }

    #[test]
    fn an_answer_over_another_path_is_no_consent() {
        let now = Instant::now();
        let mut c = granted(now);
        c.asked(now, ID);
        assert!(c.answered(now + Duration::from_secs(1), ID, false));
        assert_eq!(c.ends(&Timing::default()), Some(now + Timing::default().consent_timeout));
    }

    #[test]
    fn checks_are_spread_between_four_and_six_seconds() {
        let now = Instant::now();
        let mut c = granted(now);
        let waits: Vec<f64> = (0..1000)
            .map(|_| {
                c.plan(now, &Timing::default());
                (c.next_check() - now).as_secs_f64()
            })
            .collect();
        assert!(waits.iter().all(|w| (4.0..=6.0).contains(w)));
        let mean = waits.iter().sum::<f64>() / 1000.0;
        assert!((4.9..5.1).contains(&mean), "{mean}");
    }

    #[test]
    fn remembers_a_bounded_number_of_requests() {
        let now = Instant::now();
        let mut c = granted(now);
        for i in 0..100u8 {
            c.asked(now, [i; 12]);
        }
        assert_eq!(c.asked.len(), ASKED_MAX);
        assert!(c.answered(now, [99; 12], true));
        assert!(!c.answered(now, [0; 12], true));
    }
}
