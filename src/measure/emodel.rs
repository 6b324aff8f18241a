//! Mean opinion score by the E-model (ITU-T G.107), from what was measured of one flow. Everything that the full model
//! knows and a network cannot change stands at its default, which leaves R = 93.2 - Id - Ie,eff.

use crate::types::Codec;
use serde::Serialize;
use std::time::Duration;

/// G.107 with all parameters at their defaults and no impairment.
pub const R_DEFAULT: f64 = 93.2;

/// The jitter buffer that scores assume: a fixed one, of about the length that Chromium's adaptive one takes on a
/// network with some jitter.
pub const JITTER_BUFFER: Duration = Duration::from_millis(60);

/// What the model takes for a codec.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Coefficients {
    pub codec: &'static str,
    /// Equipment impairment factor without loss.
    pub ie: f64,
    /// Packet-loss robustness factor.
    pub bpl: f64,
    /// Frame and look-ahead, ms.
    pub codec_delay: f64,
    pub source: &'static str,
}

/// Opus has no values from ITU: those of G.711 with packet-loss concealment stand in for it (ITU-T G.113 Appendix I),
/// on the narrow-band scale. Its delay is that of 20 ms frames with 6.5 ms of look-ahead (RFC 6716 2).
const OPUS: Coefficients = Coefficients {
    codec: "opus",
    ie: 0.0,
    bpl: 25.1,
    codec_delay: 26.5,
    source: "no ITU value for Opus: G.711 with loss concealment, ITU-T G.113 Appendix I",
};

/// The coefficients of an audio codec; `None` for video.
pub fn coefficients(codec: Codec) -> Option<&'static Coefficients> {
    (codec == Codec::Opus).then_some(&OPUS)
}

/// One flow over some time.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Heard {
    /// Packets that had to be played out.
    pub expected: u64,
    /// Of these, lost on the way or later than the jitter buffer waits.
    pub lost: u64,
    /// Runs of lost packets.
    pub bursts: u64,
    /// From mouth to ear: one-way delay, jitter buffer, codec; ms.
    pub delay_ms: f64,
}

impl Heard {
    /// Ppl, percent.
    fn loss_percent(&self) -> f64 {
        if self.expected == 0 { 0.0 } else { self.lost as f64 / self.expected as f64 * 100.0 }
    }

    /// BurstR (G.107 3.5): length of the observed runs of loss over that of runs under random loss, 1 / (1 - Ppl). Below
    /// 1 (loss spread more evenly than at random) it counts as 1.
    pub fn burst_ratio(&self) -> f64 {
        if self.bursts == 0 {
            return 1.0;
        }
        let observed = self.lost as f64 / self.bursts as f64;
        (observed * (1.0 - self.loss_percent() / 100.0)).max(1.0)
    }

    /// Mean opinion score, 1 to 4.5; `None` without a packet to be played.
    pub fn mos(&self, c: &Coefficients) -> Option<f64> {
        let r = || {
            R_DEFAULT - delay_impairment(self.delay_ms) - loss_impairment(self.loss_percent(), self.burst_ratio(), c)
        };
        (self.expected > 0).then(|| mos(r()))
    }
}

/// Id as Cole and Rosenbluth (2001) approximate it, of the delay from mouth to ear in ms.
pub fn delay_impairment(ms: f64) -> f64 {
    0.024 * ms + 0.11 * (ms - 177.3).max(0.0)
}

/// Ie,eff (G.107 equation 7-29) of a loss in percent.
pub fn loss_impairment(loss_percent: f64, burst_ratio: f64, c: &Coefficients) -> f64 {
    if loss_percent <= 0.0 {
        return c.ie;
    }
    c.ie + (95.0 - c.ie) * loss_percent / (loss_percent / burst_ratio + c.bpl)
}

/// G.107 Annex B.
pub fn mos(r: f64) -> f64 {
    match r {
        r if r <= 0.0 => 1.0,
        r if r >= 100.0 => 4.5,
        r => (1.0 + 0.035 * r + 7e-6 * r * (r - 60.0) * (100.0 - r)).clamp(1.0, 4.5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G729A: Coefficients = Coefficients { codec: "G.729A", ie: 11.0, bpl: 19.0, codec_delay: 0.0, source: "" };

    fn near(a: f64, b: f64, by: f64) {
        assert!((a - b).abs() <= by, "{a} is not {b}");
    }

    #[test]
    fn r_to_mos_as_g107_annex_b_prints_it() {
        for (r, printed) in [(93.2, 4.41), (90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            near(mos(r), printed, 0.01);
        }
        assert_eq!((mos(-5.0), mos(0.0), mos(100.0), mos(120.0)), (1.0, 1.0, 4.5, 4.5));
    }

    #[test]
    fn delay_as_cole_and_rosenbluth_give_it() {
        for (ms, id) in [(0.0, 0.0), (100.0, 2.4), (177.3, 4.2552), (200.0, 7.297), (300.0, 20.697), (400.0, 34.097)] {
            near(delay_impairment(ms), id, 1e-9);
        }
    }

    /// The table of G.113 Appendix I for G.729A with VAD, and the formula of G.107 that its Bpl was fitted for.
    #[test]
    fn loss_as_g113_tabulates_it() {
        for (percent, printed) in
            [(0.0, 11.0), (0.5, 13.0), (1.0, 15.0), (1.5, 17.0), (2.0, 19.0), (3.0, 23.0), (4.0, 26.0), (8.0, 36.0)]
        {
            near(loss_impairment(percent, 1.0, &G729A), printed, 0.6);
        }
        // 2 % of bursts twice as long as at random: 11 + 84 · 2/(1 + 19).
        near(loss_impairment(2.0, 2.0, &G729A), 19.4, 1e-9);
    }

    #[test]
    fn bursts_are_worse_than_the_same_loss_at_random() {
        let heard = |lost, bursts| Heard { expected: 1000, lost, bursts, delay_ms: 100.0 };
        near(heard(100, 90).burst_ratio(), 1.0, 1e-9);
        near(heard(100, 20).burst_ratio(), 4.5, 1e-9);
        assert_eq!((heard(0, 0).burst_ratio(), heard(10, 10).burst_ratio()), (1.0, 1.0));
        let mos = |h: Heard| h.mos(&OPUS).unwrap();
        assert!(mos(heard(100, 20)) < mos(heard(100, 90)) && mos(heard(100, 90)) < mos(heard(0, 0)));
        near(mos(heard(0, 0)), super::mos(93.2 - 2.4), 1e-9);
        assert_eq!(Heard::default().mos(&OPUS), None);
        assert!(mos(heard(1000, 1)) < 1.2);
    }
}
