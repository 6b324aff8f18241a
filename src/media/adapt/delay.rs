//! The rate that delay allows: draft-ietf-rmcat-gcc-02 5.5.

use super::trend::Usage;

/// Of what arrives, on over-use.
const DECREASE: f64 = 0.85;
/// A second, far from where congestion was met before.
const INCREASE: f64 = 1.08;
/// No estimate grows beyond this multiple of what arrives: more has not been seen to pass.
pub const HEADROOM: f64 = 1.5;

/// Between two decreases lies a round trip, within these bounds.
const ROUND_TRIP_US: std::ops::RangeInclusive<u64> = 10_000..=200_000;

/// Where congestion was met: average and spread of what arrived then.
#[derive(Clone, Copy, Debug)]
struct Limit {
    mean: f64,
    /// Square of the deviation over the mean, kbit/s.
    spread: f64,
}

/// Weight of one more meeting.
const LIMIT_WEIGHT: f64 = 0.05;

impl Limit {
    fn met(before: Option<Limit>, acked: f64) -> Limit {
        let Some(Limit { mean, spread }) = before else { return Limit { mean: acked, spread: 0.4 } };
        let mean = mean + LIMIT_WEIGHT * (acked - mean);
        let kbit = (mean / 1000.0).max(1.0);
        let off = (acked - mean) / 1000.0;
        let spread = (1.0 - LIMIT_WEIGHT) * spread + LIMIT_WEIGHT * off * off / kbit;
        Limit { mean, spread: spread.clamp(0.4, 2.5) }
    }

    /// Three standard deviations, bits per second.
    fn width(&self) -> f64 {
        3.0 * (self.spread * self.mean / 1000.0).sqrt() * 1000.0
    }
}

#[derive(Debug)]
pub struct Delay {
    /// Bits per second.
    pub rate: f64,
    usage: Usage,
    limit: Option<Limit>,
    decreased_us: Option<u64>,
    updated_us: u64,
}

impl Delay {
    pub fn new(now_us: u64, rate: f64) -> Delay {
        Delay { rate, usage: Usage::Normal, limit: None, decreased_us: None, updated_us: now_us }
    }

    /// True when that brought a decrease.
    pub fn on_usage(&mut self, now_us: u64, usage: Usage, acked: f64, round_trip_us: u64) -> bool {
        self.usage = usage;
        let apart = round_trip_us.clamp(*ROUND_TRIP_US.start(), *ROUND_TRIP_US.end());
        let too_soon = self.decreased_us.is_some_and(|at| now_us.saturating_sub(at) < apart);
        if usage != Usage::Over || too_soon {
            return false;
        }
        if self.limit.is_some_and(|l| acked < l.mean - l.width()) {
            self.limit = None;
        }
        self.limit = Some(Limit::met(self.limit, acked));
        self.rate = self.rate.min(DECREASE * acked);
        (self.decreased_us, self.updated_us) = (Some(now_us), now_us);
        true
    }

    /// Time passes. Only in normal use the rate rises: while a queue drains it waits.
    pub fn rise(&mut self, now_us: u64, acked: f64, round_trip_us: u64) {
        let seconds = (now_us.saturating_sub(self.updated_us) as f64 / 1e6).min(1.0);
        self.updated_us = now_us;
        if self.usage != Usage::Normal {
            return;
        }
        if self.limit.is_some_and(|l| acked > l.mean + l.width()) {
            self.limit = None;
        }
        let near = self.limit.is_some_and(|l| acked > l.mean - l.width());
        let more = if near {
            // Half a packet each time that the network could have answered.
            let bits_per_frame = self.rate / 30.0;
            let packet = bits_per_frame / (bits_per_frame / (1200.0 * 8.0)).ceil().max(1.0);
            let responses = seconds / (0.1 + round_trip_us as f64 / 1e6);
            self.rate + (0.5 * packet).max(1000.0) * responses
        } else {
            self.rate * INCREASE.powf(seconds)
        };
        self.rate = self.rate.max(more.min(HEADROOM * acked));
    }
}
