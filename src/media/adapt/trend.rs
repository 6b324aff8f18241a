//! Whether packets' way gets longer: the slope of a line through their delays, against a threshold that follows it
//! (draft-ietf-rmcat-gcc-02 5.3 and 5.4; line and constants as libwebrtc's `TrendlineEstimator` has them).

use super::groups::Delta;

/// Groups that the line goes through.
const WINDOW: usize = 20;
const SMOOTHING: f64 = 0.9;
/// The slope is multiplied by this and by the number of groups, up to the maximum, before it meets the threshold.
const GAIN: f64 = 4.0;
const GROUPS_MAX: u32 = 60;

const THRESHOLD_START: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
/// How fast it rises and falls, per ms.
const RISE: f64 = 0.0087;
const FALL: f64 = 0.039;
/// What lies so far above is a spike that it does not follow.
const SPIKE: f64 = 15.0;
const STEP_MAX_MS: f64 = 100.0;

/// The slope has to lie above the threshold for longer than this.
const OVER_MS: f64 = 10.0;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Usage {
    #[default]
    Normal,
    /// A queue grows.
    Over,
    /// A queue drains.
    Under,
}

#[derive(Debug)]
pub struct Trend {
    /// Arrival and smoothed delay, ms; a ring.
    points: [(f64, f64); WINDOW],
    groups: u32,
    first_ms: f64,
    delay: f64,
    smoothed: f64,
    slope: f64,
    threshold: f64,
    updated_ms: f64,
    over_ms: f64,
    over_groups: u32,
}

impl Default for Trend {
    fn default() -> Trend {
        Trend {
            points: [(0.0, 0.0); WINDOW],
            groups: 0,
            first_ms: 0.0,
            delay: 0.0,
            smoothed: 0.0,
            slope: 0.0,
            threshold: THRESHOLD_START,
            updated_ms: 0.0,
            over_ms: 0.0,
            over_groups: 0,
        }
    }
}

impl Trend {
    pub fn add(&mut self, d: &Delta) -> Usage {
        if self.groups == 0 {
            (self.first_ms, self.updated_ms) = (d.at_ms, d.at_ms);
        }
        self.delay += d.arrival_ms - d.sent_ms;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.delay;
        self.points[self.groups as usize % WINDOW] = (d.at_ms - self.first_ms, self.smoothed);
        self.groups = self.groups.saturating_add(1);
        let slope = if self.groups as usize >= WINDOW { slope(&self.points).unwrap_or(self.slope) } else { 0.0 };
        let value = f64::from(self.groups.min(GROUPS_MAX)) * slope * GAIN;
        let usage = self.compare(value, slope, d.sent_ms);
        self.slope = slope;
        self.adapt(value, d.at_ms);
        usage
    }

    fn compare(&mut self, value: f64, slope: f64, sent_ms: f64) -> Usage {
        if value <= self.threshold {
            (self.over_ms, self.over_groups) = (0.0, 0);
            return if value < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        // Of the first group above it, half a group's time.
        self.over_ms += if self.over_groups == 0 { sent_ms / 2.0 } else { sent_ms };
        self.over_groups += 1;
        if self.over_ms > OVER_MS && self.over_groups > 1 && slope >= self.slope {
            (self.over_ms, self.over_groups) = (0.0, 0);
            return Usage::Over;
        }
        Usage::Normal
    }

    fn adapt(&mut self, value: f64, at_ms: f64) {
        let off = value.abs() - self.threshold;
        if off <= SPIKE {
            let per_ms = if off > 0.0 { RISE } else { FALL };
            let ms = (at_ms - self.updated_ms).clamp(0.0, STEP_MAX_MS);
            self.threshold = (self.threshold + per_ms * off * ms).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
        }
        self.updated_ms = at_ms;
    }
}

/// Of the least-squares line; `None` where all points have the same time.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (up, down) = points.iter().fold((0.0, 0.0), |(up, down), p| {
        let dx = p.0 - x;
        (up + dx * (p.1 - y), down + dx * dx)
    });
    (down > 0.0).then(|| up / down)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trend: &mut Trend, from: usize, extra_ms: impl Fn(usize) -> f64, groups: usize) -> Vec<Usage> {
        (from..from + groups)
            .map(|n| {
                let arrival_ms = 33.0 + extra_ms(n) - extra_ms(n.saturating_sub(1));
                trend.add(&Delta { sent_ms: 33.0, arrival_ms, at_ms: n as f64 * 33.0 + extra_ms(n), first_sent_us: 0 })
            })
            .collect()
    }

    #[test]
    fn a_growing_queue_is_over_use_and_a_draining_one_under_use() {
        let mut trend = Trend::default();
        let even = run(&mut trend, 0, |n| (n * 7 % 5) as f64, 200);
        assert!(even.iter().all(|u| *u == Usage::Normal), "jitter of 4 ms: {even:?}");
        let growing = run(&mut trend, 200, |n| (n - 199) as f64 * 5.0, 30);
        let first = growing.iter().position(|u| *u == Usage::Over);
        assert!(first.is_some_and(|n| n < 12), "{growing:?}");
        let draining = run(&mut trend, 230, |n| 150.0 - (n - 229) as f64 * 5.0, 30);
        assert!(draining.contains(&Usage::Under), "{draining:?}");
    }

    #[test]
    fn a_slope_needs_times_that_differ() {
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(slope(&[(0.0, 1.0), (2.0, 2.0), (4.0, 3.0)]), Some(0.5));
    }
}
