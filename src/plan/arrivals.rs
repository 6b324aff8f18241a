//! When joins happen: open loop, from the profile's pattern alone.

use crate::profile::Join;
use rand::RngExt;
use std::time::Duration;

/// The times of the first `count` joins, ascending, whole microseconds. Only `Poisson` draws from `rng`.
pub(super) fn arrivals(join: Join, count: usize, rng: &mut impl rand::Rng) -> Vec<Duration> {
    let mut elapsed = 0.0;
    (0..count)
        .map(|k| {
            let k = k as f64;
            at(match join {
                Join::Constant(rate) => k / rate,
                Join::Poisson(rate) => {
                    elapsed += exponential(rng) / rate;
                    elapsed
                }
                Join::Ramp { from, to, over } => ramp(k, from, to, over.as_secs_f64()),
                Join::Burst { size, every } => (k / f64::from(size.max(1))).floor() * every.as_secs_f64(),
            })
        })
        .collect()
}

/// Seconds as a time of the plan: whole microseconds, never negative, never beyond a year.
pub(super) fn at(seconds: f64) -> Duration {
    const YEAR_US: f64 = 366.0 * 86_400.0 * 1e6;
    // `as` saturates and takes NaN for 0.
    Duration::from_micros((seconds * 1e6).round().clamp(0.0, YEAR_US) as u64)
}

/// Mean 1.
fn exponential(rng: &mut impl rand::Rng) -> f64 {
    // random() is in [0, 1), so the logarithm is finite.
    -(1.0 - rng.random::<f64>()).ln()
}

/// When the k-th join is due if the rate grows linearly: the integral of the rate reaches k.
fn ramp(k: f64, from: f64, to: f64, over: f64) -> f64 {
    if k == 0.0 {
        return 0.0;
    }
    let within = (from + to) / 2.0 * over;
    if k >= within {
        return over + (k - within) / to;
    }
    // from·t + a·t² = k, solved in the form that does not cancel for small a.
    let a = (to - from) / (2.0 * over);
    2.0 * k / (from + (from * from + 4.0 * a * k).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    fn times(join: Join, count: usize) -> Vec<f64> {
        let mut rng = ChaCha12Rng::seed_from_u64(7);
        arrivals(join, count, &mut rng).iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn constant_joins_are_evenly_spaced() {
        assert_eq!(times(Join::Constant(8.0), 4), [0.0, 0.125, 0.25, 0.375]);
    }

    #[test]
    fn bursts_come_at_once_and_again() {
        let burst = Join::Burst { size: 2, every: Duration::from_secs(10) };
        assert_eq!(times(burst, 5), [0.0, 0.0, 10.0, 10.0, 20.0]);
    }

    #[test]
    fn a_ramp_reaches_its_rate_and_keeps_it() {
        let t = times(Join::Ramp { from: 0.0, to: 20.0, over: Duration::from_secs(10) }, 400);
        // The integral of 2t/s over 10 s is 100 joins; 25 of them in the first half.
        assert!((t[25] - 5.0).abs() < 1e-5, "{}", t[25]);
        assert!((t[100] - 10.0).abs() < 1e-5, "{}", t[100]);
        assert!((t[300] - 20.0).abs() < 1e-5, "{}", t[300]);
        let down = times(Join::Ramp { from: 20.0, to: 1.0, over: Duration::from_secs(10) }, 120);
        assert!((down[105] - 10.0).abs() < 1e-3, "{}", down[105]);
        assert!((down[107] - down[106] - 1.0).abs() < 1e-3);
    }

    #[test]
    fn poisson_joins_have_their_mean_and_its_spread() {
        let t = times(Join::Poisson(50.0), 20_000);
        let rate = t.len() as f64 / t.last().unwrap();
        assert!((49.0..51.0).contains(&rate), "{rate}");
        let gaps: Vec<f64> = t.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((0.97..1.03).contains(&(deviation / mean)), "{}", deviation / mean);
    }

    proptest! {
        #[test]
        fn times_ascend(seed: u64, rate in 0.001f64..1e4, to in 0.001f64..1e4, over in 0.1f64..1e5, size in 1u32..100) {
            let over = Duration::from_secs_f64(over);
            let joins = [Join::Constant(rate), Join::Poisson(rate), Join::Ramp { from: rate, to, over },
                         Join::Ramp { from: 0.0, to, over }, Join::Burst { size, every: over }];
            for join in joins {
                let mut rng = ChaCha12Rng::seed_from_u64(seed);
                let times = arrivals(join, 200, &mut rng);
                prop_assert_eq!(times.len(), 200);
                prop_assert!(times.windows(2).all(|w| w[0] <= w[1]), "{:?}", join);
            }
        }
    }
}
