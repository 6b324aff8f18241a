//! Quantities as profiles write them, and back: durations, rates, shares, encodings, sizes, stays, join patterns.
//! Units are mandatory; a bare number is a count. Each `parse_…` gives what to write instead as its error; each
//! `print_…` gives a text that parses to the same value.

use super::resolved::{Join, Senders, Size, Stay};
use crate::impair::Queue;
use crate::types::{Bitrate, Codec, Encoding};
use std::time::Duration;

/// The clips we carry: what `audio` and `video` may say.
pub const ENCODINGS: [Encoding; 7] = [
    Encoding { codec: Codec::Opus, bitrate: Bitrate(32_000) },
    Encoding { codec: Codec::Vp8, bitrate: Bitrate(150_000) },
    Encoding { codec: Codec::Vp8, bitrate: Bitrate(500_000) },
    Encoding { codec: Codec::Vp8, bitrate: Bitrate(1_500_000) },
    Encoding { codec: Codec::H264, bitrate: Bitrate(150_000) },
    Encoding { codec: Codec::H264, bitrate: Bitrate(500_000) },
    Encoding { codec: Codec::H264, bitrate: Bitrate(1_500_000) },
];

const UNITS_NS: [(&str, u128); 6] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// `1.5s`, `80ms`, `3m`, `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let (number, unit) = split_number(text);
    if unit.is_empty() && !number.is_empty() {
        return Err(format!("a bare number is a count; write {number:?} with its unit: \"{number}s\", \"{number}ms\""));
    }
    let wrong = || format!("{text:?} is no duration; write \"20s\", \"1.5s\", \"80ms\", \"3m\" or \"2h\"");
    let scale = UNITS_NS.iter().find(|(u, _)| *u == unit).map(|(_, ns)| *ns).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 12 || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let fraction: u128 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let ns = whole * scale + fraction * scale / 1_000_000_000;
    let secs = u64::try_from(ns / 1_000_000_000).map_err(|_| wrong())?;
    Ok(Duration::new(secs, (ns % 1_000_000_000) as u32))
}

pub fn print_duration(d: Duration) -> String {
    let ns = d.as_nanos();
    for (unit, scale) in [("h", UNITS_NS[4].1), ("m", UNITS_NS[3].1), ("s", UNITS_NS[2].1)] {
        if ns >= scale && ns.is_multiple_of(scale) {
            return format!("{}{unit}", ns / scale);
        }
    }
    let (unit, scale) = if ns == 0 || ns >= UNITS_NS[2].1 {
        ("s", UNITS_NS[2].1)
    } else if ns >= UNITS_NS[1].1 {
        ("ms", UNITS_NS[1].1)
    } else {
        ("us", UNITS_NS[0].1)
    };
    let fraction = format!("{:09}", (ns % scale) * (1_000_000_000 / scale));
    match fraction.trim_end_matches('0') {
        "" => format!("{}{unit}", ns / scale),
        f => format!("{}.{f}{unit}", ns / scale),
    }
}

/// Rates other than 0 lie between these, events per second: what is printed of them stays short enough to be read again.
const RATES: std::ops::RangeInclusive<f64> = 1e-9..=1e9;
/// Digits of a number, its point among them: as many as the shortest text for any rate has, with some to spare.
const NUMBER_MAX: usize = 32;

/// `8/s`, `0.5/s`, `120/min`: events per second.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, unit) = split_number(text);
    let value = parse_number(number);
    let within = |rate: f64| match rate == 0.0 || RATES.contains(&rate) {
        true => Ok(rate),
        false => Err(format!(
            "{text} is out of range: {} to {}, or 0/s",
            print_rate(*RATES.start()),
            print_rate(*RATES.end())
        )),
    };
    match (value, unit) {
        (Some(v), "/s") => within(v),
        (Some(v), "/min") => within(v / 60.0),
        (Some(_), "") => Err(format!("a bare number is a count; write {number:?} with its unit: \"{number}/s\"")),
        _ => Err(format!("{text:?} is no rate; write \"8/s\", \"0.5/s\" or \"120/min\"")),
    }
}

/// In the unit that takes fewer digits: `0.1/min` is 0.0016666666666666668 a second.
pub fn print_rate(rate: f64) -> String {
    let (second, minute) = (format!("{rate}/s"), format!("{}/min", rate * 60.0));
    match minute.len() < second.len() && parse_rate(&minute) == Ok(rate) {
        true => minute,
        false => second,
    }
}

/// `0.3%`, as a share (0..1).
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, unit) = split_number(text);
    match (parse_number(number), unit) {
        // Not v / 100, which is off by a bit for many a decimal.
        (Some(v), "%") => Ok(format!("{v}e-2").parse().unwrap_or(v / 100.0)),
        (Some(_), "") => Err(format!("a bare number is a count; write {number:?} with its unit: \"{number}%\"")),
        _ => Err(format!("{text:?} is no share; write \"2%\" or \"0.3%\"")),
    }
}

pub fn print_percent(share: f64) -> String {
    // share × 100 is rarely the number that was written; the nearest one with ten decimals is.
    format!("{}%", (share * 1e12).round() / 1e10)
}

/// `opus@32kbit/s`, `vp8@500kbit/s`: one that we carry a clip for.
pub fn parse_encoding(text: &str) -> Result<Encoding, String> {
    let carried = || ENCODINGS.map(|e| format!("\"{e}\"")).join(", ");
    let wrong = || format!("{text:?} is no encoding; write one of {}", carried());
    let (codec, rate) = text.trim().split_once('@').ok_or_else(wrong)?;
    let codec = match codec.to_ascii_lowercase().as_str() {
        "opus" => Codec::Opus,
        "vp8" => Codec::Vp8,
        "h264" => Codec::H264,
        other => return Err(format!("there is no codec {other:?}; write one of {}", carried())),
    };
    let (number, unit) = split_number(rate);
    let scale = match unit {
        "bit/s" => 1.0,
        "kbit/s" => 1e3,
        "Mbit/s" => 1e6,
        "" => return Err(format!("a bare number is a count; write the bit rate with its unit: \"{codec}@32kbit/s\"")),
        _ => return Err(wrong()),
    };
    let bits = parse_number(number).ok_or_else(wrong)? * scale;
    let of_codec = ENCODINGS.iter().filter(|e| e.codec == codec);
    of_codec.clone().find(|e| e.bitrate.0 as f64 == bits).copied().ok_or_else(|| {
        let list: Vec<String> = of_codec.map(|e| format!("\"{e}\"")).collect();
        format!("there is no {codec} clip at {number}{unit}; write {}", list.join(" or "))
    })
}

/// `2Mbit/s`, `384kbit/s`; `none` is none.
pub fn parse_bit_rate(text: &str) -> Result<Option<u64>, String> {
    let text = text.trim();
    if text == "none" {
        return Ok(None);
    }
    let (number, unit) = split_number(text);
    let wrong = || format!("{text:?} is no bit rate; write \"2Mbit/s\", \"384kbit/s\" or \"none\"");
    let scale = match unit {
        "bit/s" => 1.0,
        "kbit/s" => 1e3,
        "Mbit/s" => 1e6,
        _ => return Err(wrong()),
    };
    let bits = (parse_number(number).ok_or_else(wrong)? * scale).round();
    match (1e3..=1e11).contains(&bits) {
        true => Ok(Some(bits as u64)),
        false => Err(format!("{text} is out of range: 1kbit/s to 100000Mbit/s")),
    }
}

pub fn print_bit_rate(rate: Option<u64>) -> String {
    match rate {
        None => "none".to_owned(),
        Some(bits) if bits.is_multiple_of(1000) => format!("{}kbit/s", bits / 1000),
        Some(bits) => format!("{bits}bit/s"),
    }
}

/// `200ms`, `64kB`.
pub fn parse_queue(text: &str) -> Result<Queue, String> {
    let (number, unit) = split_number(text.trim());
    let wrong = || format!("{text:?} is no queue; write \"200ms\" or \"64kB\"");
    let scale = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        _ => {
            let d = parse_duration(text).map_err(|_| wrong())?;
            return match d <= Duration::from_secs(5) {
                true => Ok(Queue::Time(d)),
                false => Err(format!("{text} is out of range: 0s to 5s")),
            };
        }
    };
    let bytes = (parse_number(number).ok_or_else(wrong)? * scale).round();
    match (1_500.0..=1e9).contains(&bytes) {
        true => Ok(Queue::Bytes(bytes as u64)),
        false => Err(format!("{text} is out of range: 1500B to 1000MB")),
    }
}

pub fn print_queue(queue: Queue) -> String {
    match queue {
        Queue::Time(d) => print_duration(d),
        Queue::Bytes(b) => format!("{b}B"),
    }
}

/// `2..6`, both ends included.
pub fn parse_size(text: &str) -> Result<Size, String> {
    let wrong = || format!("{text:?} is no room size; write a number, 4, or a range, \"2..6\"");
    let count = |t: &str| t.trim().parse::<u32>().ok();
    match text.split_once("..") {
        Some((a, b)) => match (count(a), count(b)) {
            (Some(a), Some(b)) if a <= b => Ok(Size::Range(a, b)),
            (Some(a), Some(b)) => Err(format!("the range {a}..{b} runs backwards")),
            _ => Err(wrong()),
        },
        None => count(text).map(Size::Fixed).ok_or_else(wrong),
    }
}

/// As TOML.
pub fn print_size(size: Size) -> String {
    match size {
        Size::Fixed(n) => n.to_string(),
        Size::Range(a, b) => format!("\"{a}..{b}\""),
    }
}

/// As TOML.
pub fn print_senders(send: Senders) -> String {
    match send {
        Senders::All => "\"all\"".to_owned(),
        Senders::Some(n) => n.to_string(),
    }
}

/// `hold`, `3m`, `3m..6m`, `exponential(3m)`, `lognormal(3m, 0.6)`.
pub fn parse_stay(text: &str) -> Result<Stay, String> {
    let text = text.trim();
    if text == "hold" {
        return Ok(Stay::WholeHold);
    }
    if let Some(arguments) = call(text, "lognormal")? {
        let [median, sigma] = arguments.as_slice() else {
            return Err("write the median and the sigma of the logarithm: \"lognormal(3m, 0.6)\"".into());
        };
        let sigma = parse_number(sigma).filter(|s| *s > 0.0 && *s <= 3.0);
        let sigma = sigma.ok_or("the sigma of \"lognormal(3m, 0.6)\" is a bare number above 0, at most 3")?;
        return Ok(Stay::LogNormal { median: parse_duration(median)?, sigma });
    }
    if let Some(arguments) = call(text, "exponential")? {
        return match arguments.as_slice() {
            [mean] => Ok(Stay::Exponential(parse_duration(mean)?)),
            _ => Err("write the mean stay: \"exponential(3m)\"".into()),
        };
    }
    if let Some((a, b)) = text.split_once("..") {
        let (a, b) = (parse_duration(a)?, parse_duration(b)?);
        return if a <= b { Ok(Stay::Uniform(a, b)) } else { Err(format!("the range {text} runs backwards")) };
    }
    parse_duration(text).map(Stay::Fixed).map_err(|why| match why.contains("bare number") {
        true => why,
        false => format!(
            "{text:?} is no stay; write \"hold\", \"3m\", \"3m..6m\", \"exponential(3m)\" or \"lognormal(3m, 0.6)\""
        ),
    })
}

pub fn print_stay(stay: Stay) -> String {
    match stay {
        Stay::WholeHold => "hold".to_owned(),
        Stay::Fixed(d) => print_duration(d),
        Stay::Uniform(a, b) => format!("{}..{}", print_duration(a), print_duration(b)),
        Stay::Exponential(mean) => format!("exponential({})", print_duration(mean)),
        Stay::LogNormal { median, sigma } => format!("lognormal({}, {sigma})", print_duration(median)),
    }
}

/// `8/s`, `poisson(8/s)`, `ramp(1/s..20/s, 30s)`, `burst(50, 10s)`.
pub fn parse_join(text: &str) -> Result<Join, String> {
    let text = text.trim();
    if let Some(arguments) = call(text, "poisson")? {
        return match arguments.as_slice() {
            [rate] => Ok(Join::Poisson(parse_rate(rate)?)),
            _ => Err("write the mean rate: \"poisson(8/s)\"".into()),
        };
    }
    if let Some(arguments) = call(text, "ramp")? {
        let wrong = "write both rates and the time between them: \"ramp(1/s..20/s, 30s)\"";
        let [rates, over] = arguments.as_slice() else { return Err(wrong.into()) };
        let (from, to) = rates.split_once("..").ok_or(wrong)?;
        return Ok(Join::Ramp { from: parse_rate(from)?, to: parse_rate(to)?, over: parse_duration(over)? });
    }
    if let Some(arguments) = call(text, "burst")? {
        let wrong = "write how many at once and how often: \"burst(50, 10s)\"";
        let [size, every] = arguments.as_slice() else { return Err(wrong.into()) };
        return Ok(Join::Burst { size: size.parse().map_err(|_| wrong)?, every: parse_duration(every)? });
    }
    parse_rate(text).map(Join::Constant).map_err(|why| match why.contains("bare number") {
        true => why,
        false => format!(
            "{text:?} is no join pattern; write \"8/s\", \"poisson(8/s)\", \"ramp(1/s..20/s, 30s)\" or \"burst(50, 10s)\""
        ),
    })
}

pub fn print_join(join: Join) -> String {
    match join {
        Join::Constant(rate) => print_rate(rate),
        Join::Poisson(rate) => format!("poisson({})", print_rate(rate)),
        Join::Ramp { from, to, over } => {
            format!("ramp({}..{}, {})", print_rate(from), print_rate(to), print_duration(over))
        }
        Join::Burst { size, every } => format!("burst({size}, {})", print_duration(every)),
    }
}

/// The arguments of `name(a, b)`; `None` where the text is no call of `name`.
fn call<'a>(text: &'a str, name: &str) -> Result<Option<Vec<&'a str>>, String> {
    let Some(rest) = text.strip_prefix(name) else { return Ok(None) };
    let inner = rest.trim().strip_prefix('(').and_then(|r| r.strip_suffix(')'));
    let inner = inner.ok_or_else(|| format!("{text:?} wants its arguments in brackets after `{name}`"))?;
    Ok(Some(inner.split(',').map(str::trim).collect()))
}

/// The leading decimal digits and point, and the rest.
pub(super) fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    // `2..6` is no number with a unit.
    let end = text.find("..").map_or(end, |range| end.min(range));
    (&text[..end], text[end..].trim())
}

/// A decimal number without sign or exponent.
pub(super) fn parse_number(text: &str) -> Option<f64> {
    let ok = text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
    let ok = ok && text.len() <= NUMBER_MAX && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    ok.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_exact() {
        let ms = Duration::from_millis;
        for (text, want) in
            [("20s", ms(20_000)), ("1.5s", ms(1500)), ("80ms", ms(80)), ("3m", ms(180_000)), ("2h", ms(7_200_000))]
        {
            assert_eq!(parse_duration(text), Ok(want), "{text}");
        }
        assert_eq!(parse_duration("0.000000001s"), Ok(Duration::from_nanos(1)));
        assert_eq!(print_duration(ms(90_000)), "90s");
        assert_eq!(print_duration(ms(1500)), "1.5s");
        assert_eq!(print_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn rates_are_printed_in_the_unit_that_takes_fewer_digits() {
        for text in ["0.1/min", "0.2/min", "8/s", "2/s", "0.5/s", "0/s", "1/min", "0.000001/min"] {
            assert_eq!(print_rate(parse_rate(text).unwrap()), text);
        }
    }

    #[test]
    fn a_bare_number_says_which_unit_to_write() {
        assert!(parse_duration("20").unwrap_err().contains("\"20s\""));
        assert!(parse_rate("8").unwrap_err().contains("\"8/s\""));
        assert!(parse_percent("2").unwrap_err().contains("\"2%\""));
        assert!(parse_join("8").unwrap_err().contains("\"8/s\""));
        assert!(parse_stay("8").unwrap_err().contains("\"8s\""));
        assert!(parse_encoding("vp8@500").unwrap_err().contains("unit"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "s", "-1s", "1e3s", "1.s", ".5s", "1 parsec", "20 s s", "99999999999999s", "1s..", "١s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "/s", "-1/s", "inf/s", "NaN/s", "1/h", "0.0000000001/s", "9999999999/s"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        for bad in ["burst(50)", "burst 50", "ramp(1/s, 3s)", "ramp(1/s..2/s)", "poisson()", "poisson(8/s", "often"] {
            assert!(parse_join(bad).is_err(), "{bad}");
        }
        for bad in ["6..2", "..", "2..", "-1", "two"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for bad in [
            "exponential(3)",
            "exponential(3m, 1)",
            "lognormal(3m)",
            "lognormal(3m, 0)",
            "lognormal(3m, 9)",
            "6m..3m",
            "forever",
        ] {
            assert!(parse_stay(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn encodings_without_a_clip_list_those_that_have_one() {
        assert_eq!(parse_encoding("opus@32kbit/s"), Ok(ENCODINGS[0]));
        assert_eq!(parse_encoding("h264@1.5Mbit/s"), Ok(ENCODINGS[6]));
        let why = parse_encoding("vp8@501kbit/s").unwrap_err();
        assert!(why.contains("vp8@150kbit/s") && why.contains("vp8@1500kbit/s") && !why.contains("h264"), "{why}");
        assert!(parse_encoding("av1@500kbit/s").unwrap_err().contains("h264@500kbit/s"));
    }

    proptest! {
        #[test]
        fn printed_quantities_parse_to_themselves(
            ns in 0u64..10_000_000_000_000_000, rate in 0.001f64..10_000.0, millionths in 0u32..100_000_000,
            a in 1u32..1000, more in 0u32..1000, sigma in 0.001f64..3.0,
        ) {
            let d = Duration::from_nanos(ns);
            // Below a microsecond there is no unit; nothing in a profile is that short.
            let d = Duration::from_micros(d.as_micros() as u64);
            prop_assert_eq!(parse_duration(&print_duration(d)), Ok(d));
            let rate = (rate * 1e6).round() / 1e6;
            prop_assert_eq!(parse_rate(&print_rate(rate)), Ok(rate));
            let share = f64::from(millionths) / 1e8;
            prop_assert_eq!(parse_percent(&print_percent(share)), Ok(share));
            let sigma = (sigma * 1e3).round() / 1e3;
            let longer = d + Duration::from_secs(u64::from(more));
            let random = [Stay::Uniform(d, longer), Stay::Exponential(d), Stay::LogNormal { median: d, sigma }];
            for stay in [Stay::WholeHold, Stay::Fixed(d)].into_iter().chain(random) {
                prop_assert_eq!(parse_stay(&print_stay(stay)), Ok(stay));
            }
            for join in [
                Join::Constant(rate), Join::Poisson(rate), Join::Ramp { from: rate, to: 1.0, over: d },
                Join::Burst { size: a, every: d },
            ] {
                prop_assert_eq!(parse_join(&print_join(join)), Ok(join));
            }
            let bits = 1000 + u64::from(a) * u64::from(more);
            prop_assert_eq!(parse_bit_rate(&print_bit_rate(Some(bits))), Ok(Some(bits)));
            for queue in [Queue::Bytes(1500 + bits), Queue::Time(Duration::from_micros(ns % 5_000_000))] {
                prop_assert_eq!(parse_queue(&print_queue(queue)), Ok(queue));
            }
            let range = Size::Range(a, a + more);
            prop_assert_eq!(parse_size(print_size(range).trim_matches('"')), Ok(range));
        }

        /// As a user writes them, the longest ones too.
        #[test]
        fn rates_that_can_be_written_are_printed_so_that_they_can_be_read(
            number in "[0-9]{1,10}(\\.[0-9]{1,21})?", small in "0\\.0{0,8}[0-9]{1,21}", unit in "/s|/min",
        ) {
            for text in [format!("{number}{unit}"), format!("{small}{unit}")] {
                let Ok(rate) = parse_rate(&text) else { continue };
                prop_assert_eq!(parse_rate(&print_rate(rate)), Ok(rate), "{}", text);
                prop_assert_eq!(parse_join(&print_join(Join::Poisson(rate))), Ok(Join::Poisson(rate)), "{}", text);
            }
        }

        #[test]
        fn rates_of_any_size_are_printed_so_that_they_can_be_read(exponent in -9.0f64..9.0) {
            let rate = 10f64.powf(exponent);
            prop_assert_eq!(parse_rate(&print_rate(rate)), Ok(rate));
        }

        #[test]
        fn nothing_makes_the_parsers_panic(text in "\\PC{0,24}") {
            let _ = (parse_duration(&text), parse_rate(&text), parse_percent(&text), parse_encoding(&text));
            let _ = (parse_bit_rate(&text), parse_queue(&text));
            let _ = (parse_size(&text), parse_stay(&text), parse_join(&text));
        }
    }
}
