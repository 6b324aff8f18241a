//! Numbers, times and metric names as a person reads them.

use crate::profile::ThresholdValue;

/// `02:14`, or `1:02:14` from an hour on; from ms since the start of the run.
pub fn clock(ms: f64) -> String {
    let s = (ms / 1000.0).round().clamp(0.0, 1e9) as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m:02}:{s:02}") }
}

/// Three significant digits, no trailing zeros: `71`, `1.2`, `0.046`, `1240`.
pub fn number(v: f64) -> String {
    digits(v, 3)
}

fn digits(v: f64, significant: i32) -> String {
    if v == 0.0 || !v.is_finite() {
        return if v == 0.0 { "0".into() } else { format!("{v}") };
    }
    let magnitude = v.abs().log10().floor() as i32;
    let decimals = (significant - 1 - magnitude).clamp(0, 6) as usize;
    let text = format!("{v:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.into() }
}

/// Measured value and limit with as many digits as tell them apart, and their common unit; ms become s when the
/// value reaches 1000.
pub(super) fn against(value: f64, limit: f64, like: ThresholdValue) -> (String, String, &'static str) {
    let (value, limit, unit) = match like {
        ThresholdValue::Ms(_) if value >= 1000.0 => (value / 1000.0, limit / 1000.0, " s"),
        ThresholdValue::Ms(_) => (value, limit, " ms"),
        ThresholdValue::Percent(_) => (value, limit, " %"),
        ThresholdValue::PerMinute(_) => (value, limit, "/min"),
        ThresholdValue::PerSecond(_) => (value, limit, "/s"),
        ThresholdValue::Count(_) | ThresholdValue::Score(_) => (value, limit, ""),
    };
    for significant in 3..8 {
        let (a, b) = (digits(value, significant), digits(limit, significant));
        if a != b || value == limit {
            return (a, b, unit);
        }
    }
    (value.to_string(), limit.to_string(), unit)
}

/// Name of the unit in `summary.json`.
pub(super) fn unit_name(like: ThresholdValue) -> &'static str {
    match like {
        ThresholdValue::Ms(_) => "ms",
        ThresholdValue::Percent(_) => "percent",
        ThresholdValue::PerMinute(_) => "per minute",
        ThresholdValue::PerSecond(_) => "per second",
        ThresholdValue::Count(_) => "count",
        ThresholdValue::Score(_) => "score",
    }
}

/// With the unit that `summary.json` has for the metric: `4100 ms`.
pub fn amount(metric: &str, value: f64) -> String {
    use crate::profile::metrics::{Unit, find};
    let unit = match find(metric).map(|m| m.unit) {
        Some(Unit::Ms) => " ms",
        Some(Unit::Percent) => " %",
        Some(Unit::PerMinute) => "/min",
        Some(Unit::PerSecond) => "/s",
        Some(_) | None => "",
    };
    format!("{}{unit}", number(value))
}

/// `audio.delay.p99` → `audio delay p99`, `setup.total.p95` → `set-up p95`.
pub fn metric_words(metric: &str) -> String {
    let text = metric.strip_prefix("setup.total.").map(|rest| format!("set-up {rest}"));
    let text = text.or_else(|| metric.strip_prefix("setup.").map(|rest| format!("set-up {rest}")));
    text.unwrap_or_else(|| metric.into()).replace(['.', '_'], " ")
}

/// `1 leg`, `38 legs`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [(71.0, "71"), (1.2, "1.2"), (0.046_34, "0.0463"), (1240.4, "1240"), (0.0, "0"), (99.96, "100")];
        for (v, text) in cases {
            assert_eq!(number(v), text);
        }
        assert_eq!(number(-0.000_000_01), "0");
        assert_eq!(
            (clock(134_000.0), clock(3_734_000.0), clock(-5.0)),
            ("02:14".into(), "1:02:14".into(), "00:00".into())
        );
    }

    #[test]
    fn a_near_miss_shows_its_digits() {
        let text = |v, l, u| {
            let (v, l, u) = against(v, l, u);
            format!("{v} of {l}{u}")
        };
        assert_eq!(text(0.3004, 0.3, ThresholdValue::Percent(0.3)), "0.3004 of 0.3 %");
        assert_eq!(text(71.0, 80.0, ThresholdValue::Ms(80.0)), "71 of 80 ms");
        assert_eq!(text(4100.0, 1500.0, ThresholdValue::Ms(1500.0)), "4.1 of 1.5 s");
        assert_eq!(text(2.0, 2.0, ThresholdValue::Count(2.0)), "2 of 2");
    }

    #[test]
    fn metrics_read_as_words() {
        assert_eq!(metric_words("setup.total.p95"), "set-up p95");
        assert_eq!(metric_words("setup.first_rtp.p95"), "set-up first rtp p95");
        assert_eq!(metric_words("video.frozen_share"), "video frozen share");
    }
}
