//! Networks by name. Each says where its numbers come from; docs/impairments.md has the table.

use super::conditions::{Conditions, Distribution, HoldBack, Jitter, Loss, Queue, Rate};
use std::time::Duration;

/// A network with a name.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Preset {
    pub name: &'static str,
    /// Where the numbers come from.
    pub source: &'static str,
    /// From the participant to the server, and back.
    pub up: Conditions,
    pub down: Conditions,
}

/// All there are.
pub const PRESETS: &[&str] = &[
    "lan",
    "cable",
    "dsl",
    "lte",
    "4g",
    "3g",
    "wifi",
    "bad-wifi",
    "satellite",
    "well-managed",
    "partly-managed",
    "unmanaged",
];

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn rate(kbit_per_s: u64, queue_ms: u64) -> Option<Rate> {
    Some(Rate { bits_per_s: kbit_per_s * 1000, queue: Queue::Time(ms(queue_ms)) })
}

const fn jitter(mean_us: u64, distribution: Distribution) -> Option<Jitter> {
    Some(Jitter { mean: Duration::from_micros(mean_us), distribution, reorders: false })
}

/// The network of this name.
pub fn preset(name: &str) -> Option<Preset> {
    use Distribution::{Exponential, Uniform};
    let perfect = Conditions::default();
    let access = |delay: Duration, down: u64, up: u64, queue: u64| {
        let line = |kbit| Conditions { delay, rate: rate(kbit, queue), ..perfect };
        (line(up), line(down))
    };
    let both = |c: Conditions| (c, c);
    let bursts = |share, mean, bad, good| Loss::Bursts { share, mean, bad, good };
    let wpt = "WebPageTest's connectivity profile of that name: rates and half of its round trip; queue of 200 ms ours";
    let wpt_3g =
        "WebPageTest's connectivity profile of that name: rates and half of its round trip; queue of 400 ms ours";
    let (source, (up, down)) = match name {
        "lan" => {
            ("ours: one switch, half a millisecond", both(Conditions { delay: Duration::from_micros(250), ..perfect }))
        }
        "cable" => (wpt, access(ms(14), 5_000, 1_000, 200)),
        "dsl" => (wpt, access(ms(25), 1_500, 384, 200)),
        "lte" => {
            let (up, down) = access(ms(35), 12_000, 12_000, 200);
            let radio = jitter(4_000, Exponential);
            ("WebPageTest's LTE; jitter of 4 ms ours, as scheduling grants make it", {
                (Conditions { jitter: radio, ..up }, Conditions { jitter: radio, ..down })
            })
        }
        "4g" => (
            "Lighthouse's mobile throttling (slow 4G): rates and half of its round trip; queue of 300 ms ours",
            access(ms(75), 1_600, 750, 300),
        ),
        "3g" => (wpt_3g, access(ms(150), 1_600, 768, 400)),
        "wifi" => (
            "ours: an access point nearby, little contention",
            both(Conditions {
                delay: ms(1),
                jitter: jitter(1_500, Exponential),
                loss: Loss::Independent(0.001),
                ..perfect
            }),
        ),
        "bad-wifi" => (
            "ours: a far access point on a busy channel; loss in bursts, inside the ranges of ITU-T G.1050 profile C",
            both(Conditions {
                delay: ms(3),
                jitter: jitter(15_000, Exponential),
                loss: bursts(0.03, 8.0, 0.5, 0.002),
                ..perfect
            }),
        ),
        "satellite" => (
            "ITU-T G.114 Annex A: 260 ms one way for one geostationary hop; jitter ours",
            both(Conditions { delay: ms(260), jitter: jitter(3_000, Uniform), ..perfect }),
        ),
        "well-managed" => (
            "ITU-T G.1050 / TIA-921 profile A (well-managed): inside its ranges of delay, jitter and random loss",
            both(Conditions {
                delay: ms(40),
                jitter: jitter(10_000, Uniform),
                loss: Loss::Independent(0.0005),
                ..perfect
            }),
        ),
        "partly-managed" => (
            "ITU-T G.1050 / TIA-921 profile B (partially managed): inside its ranges, loss also in sequences",
            both(Conditions {
                delay: ms(60),
                jitter: jitter(30_000, Uniform),
                loss: bursts(0.01, 4.0, 1.0, 0.005),
                hold_back: Some(HoldBack { share: 0.0001, by: ms(20) }),
                ..perfect
            }),
        ),
        "unmanaged" => (
            "ITU-T G.1050 / TIA-921 profile C (unmanaged): inside its ranges, loss mostly in sequences",
            both(Conditions {
                delay: ms(100),
                jitter: jitter(60_000, Uniform),
                loss: bursts(0.05, 6.0, 0.8, 0.01),
                hold_back: Some(HoldBack { share: 0.001, by: ms(20) }),
                ..perfect
            }),
        ),
        _ => return None,
    };
    let name = PRESETS.iter().find(|p| **p == name)?;
    Some(Preset { name, source, up, down })
}
