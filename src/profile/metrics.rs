//! The metrics a threshold may name: paths of `summary.json`, with their units. One table, so that a profile's
//! thresholds, the summary's `units` and the documentation cannot drift apart.

use super::resolved::ThresholdValue;
use super::units::{parse_duration, parse_number, parse_percent, split_number};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Unit of a metric in `summary.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Ms,
    Percent,
    PerMinute,
    PerSecond,
    Count,
}

impl Unit {
    /// As the `units` table of `summary.json` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Ms => "ms",
            Unit::Percent => "percent",
            Unit::PerMinute => "per minute",
            Unit::PerSecond => "per second",
            Unit::Count => "count",
        }
    }

    /// A limit as one would write it.
    pub fn example(self) -> &'static str {
        match self {
            Unit::Ms => "<= 80ms",
            Unit::Percent => "<= 0.3%",
            Unit::PerMinute => "<= 0.2/min",
            Unit::PerSecond => "<= 8/s",
            Unit::Count => "== 0",
        }
    }

    /// The number behind the operator, in this unit.
    pub fn parse(self, text: &str) -> Result<ThresholdValue, String> {
        let (number, suffix) = split_number(text.trim());
        let plain = parse_number(number);
        let bare = suffix.is_empty() && plain.is_some();
        let parsed = match self {
            Unit::Ms => parse_duration(text).ok().map(|d| ThresholdValue::Ms(d.as_nanos() as f64 / 1e6)),
            Unit::Percent => parse_percent(text).ok().and(plain).map(ThresholdValue::Percent),
            Unit::PerMinute => match suffix {
                "/min" => plain.map(ThresholdValue::PerMinute),
                _ => None,
            },
            Unit::PerSecond => match suffix {
                "/s" => plain.map(ThresholdValue::PerSecond),
                _ => None,
            },
            Unit::Count => plain.filter(|_| bare).map(ThresholdValue::Count),
        };
        parsed.ok_or_else(|| match (self, bare) {
            (Unit::Count, _) => format!("{text:?} is no count; write a bare number, such as {:?}", self.example()),
            (_, true) => {
                format!("a bare number is a count; this is in {}: write it as in {:?}", self.name(), self.example())
            }
            (_, false) => {
                format!("{text:?} has the wrong unit; this is in {}: write it as in {:?}", self.name(), self.example())
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Unit::Ms => "time",
            Unit::Percent => "percent",
            Unit::PerMinute => "events per minute",
            Unit::PerSecond => "events per second",
            Unit::Count => "counts",
        }
    }
}

/// One metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Path in `summary.json`.
    pub path: String,
    pub unit: Unit,
    pub doc: &'static str,
}

/// Every metric a threshold may name, in the order of `summary.json`.
pub fn all() -> &'static [Metric] {
    &ALL
}

/// The metric of a path.
pub fn find(path: &str) -> Option<&'static Metric> {
    ALL.iter().find(|m| m.path == path)
}

static ALL: LazyLock<Vec<Metric>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (paths, unit, doc) in TABLE {
        for path in expand(paths) {
            all.push(Metric { path, unit: *unit, doc });
        }
    }
    all
});

/// `{a,b}` stands for each of its words.
pub(super) const TABLE: &[(&str, Unit, &str)] = &[
    ("participants.planned", Unit::Count, "participants' stays in the plan"),
    ("participants.joined", Unit::Count, "joins that succeeded"),
    ("participants.failed", Unit::Count, "joins that failed, but not by our own doing (the table has all)"),
    ("participants.dropped", Unit::Count, "participants whose call ended against their will"),
    ("participants.clean", Unit::Count, "participants who left by themselves, acknowledged"),
    ("joins.planned", Unit::Count, "joins in the plan"),
    ("joins.failed", Unit::Count, "joins that failed, by refusal, error or time-out"),
    ("joins.failed_share", Unit::Percent, "failed joins among those planned"),
    ("joins.rate_max", Unit::PerSecond, "most joins begun in any second"),
    ("setup.{total,join,signaling,ice,dtls,relay,first_rtp,first_frame}.count", Unit::Count, "how many were timed"),
    ("setup.total.{p50,p95,p99,max}", Unit::Ms, "planned start of a join until media can flow"),
    ("setup.join.{p50,p95,p99,max}", Unit::Ms, "the user's own join API"),
    ("setup.signaling.{p50,p95,p99,max}", Unit::Ms, "first signalling request until the answer is applied"),
    ("setup.ice.{p50,p95,p99,max}", Unit::Ms, "ICE checks until a pair is selected"),
    ("setup.dtls.{p50,p95,p99,max}", Unit::Ms, "selected pair until keys"),
    ("setup.relay.{p50,p95,p99,max}", Unit::Ms, "first allocation on a TURN server, asked for until made"),
    ("setup.first_rtp.{p50,p95,p99,max}", Unit::Ms, "first RTP packet of each expected stream"),
    ("setup.first_frame.{p50,p95,p99,max}", Unit::Ms, "first complete video frame of each expected stream"),
    ("{audio,video}.sent", Unit::Count, "media packets sent by participants"),
    ("{audio,video}.loss", Unit::Percent, "loss: e2e.loss where the driver allows it, else rtp.loss"),
    ("{audio,video}.rtp.expected", Unit::Count, "packets expected by RFC 3550 sequence numbers"),
    ("{audio,video}.rtp.received", Unit::Count, "of these, received by themselves"),
    ("{audio,video}.rtp.duplicate", Unit::Count, "packets received again"),
    ("{audio,video}.rtp.reordered", Unit::Count, "packets behind a later sequence number"),
    ("{audio,video}.rtp.lost_before_recovery", Unit::Count, "packets missing before retransmissions"),
    ("{audio,video}.rtp.recovered", Unit::Count, "missing packets that a retransmission brought"),
    ("{audio,video}.rtp.loss", Unit::Percent, "loss by RFC 3550 counts, after recovery"),
    ("{audio,video}.e2e.expected", Unit::Count, "packets sent while the receiver was subscribed, by stamps and ledger"),
    ("{audio,video}.e2e.received", Unit::Count, "of these, received"),
    ("{audio,video}.e2e.loss", Unit::Percent, "loss from participant to participant"),
    ("{audio,video}.up.expected", Unit::Count, "packets that servers expected from participants, by their reports"),
    ("{audio,video}.up.lost", Unit::Count, "of these, missed by the server, before anything was sent again"),
    ("{audio,video}.up.loss", Unit::Percent, "loss on the way to the server, by its own reports"),
    (
        "{audio,video}.lossy_legs_share",
        Unit::Percent,
        "legs that lost more than the threshold on loss allows in any 10 s: what a mean would hide",
    ),
    (
        "{audio,video}.stamps.foreign",
        Unit::Count,
        "received packets whose stamp was damaged, cut short or of another run",
    ),
    ("{audio,video}.stamps.missing", Unit::Count, "received packets (of video: frames) without a stamp: not ours"),
    ("{audio,video}.jitter.{p50,p95,p99}", Unit::Ms, "RFC 3550 interarrival jitter"),
    ("{audio,video}.delay.{p50,p95,p99}", Unit::Ms, "one-way delay from actual send to kernel receive time"),
    ("{audio,video}.rtt.{p50,p95,p99}", Unit::Ms, "round trip to the server by SR and RR"),
    ("audio.silence_max", Unit::Ms, "longest gap in audio that must flow"),
    ("video.frame_jitter.{p50,p95,p99}", Unit::Ms, "jitter of frames instead of packets"),
    ("video.freezes", Unit::PerMinute, "assembled-frame freezes per minute of watched video"),
    ("video.frozen_share", Unit::Percent, "watched time that was frozen"),
    ("legs.judged", Unit::Count, "legs that were judged"),
    ("legs.clean", Unit::Count, "legs without a gap above 1 s, left acknowledged"),
    ("legs.glitched", Unit::Count, "legs with a gap of 1 to 15 s"),
    ("legs.migrated", Unit::Count, "legs moved to another server or transport in the same session"),
    ("legs.reconnected", Unit::Count, "legs that came back by a new session"),
    ("legs.one_way", Unit::Count, "legs that were heard by one side only"),
    ("legs.dropped", Unit::Count, "legs that ended or fell silent against their will"),
    ("legs.unclean_leave", Unit::Count, "legs whose own leave was not acknowledged within 5 s"),
    ("legs.inconclusive", Unit::Count, "legs whose evidence falls into the generator's own trouble"),
    ("legs.ice_restarts", Unit::Count, "ICE restarts that legs tried because a transport went unanswered"),
    ("relays.participants", Unit::Count, "participants that came by a TURN server"),
    ("relays.asked", Unit::Count, "allocations that TURN servers were asked for"),
    ("relays.allocated", Unit::Count, "allocations given"),
    ("relays.refused", Unit::Count, "allocations refused with an error code"),
    ("relays.unreachable", Unit::Count, "requests for an allocation that nobody answered"),
    ("relays.redirected", Unit::Count, "answers that named another server (300)"),
    ("relays.lost", Unit::Count, "allocations gone before they were given back"),
    ("relays.released", Unit::Count, "allocations given back"),
    ("relays.abandoned", Unit::Count, "allocations left to run out, as the profile says"),
    (
        "relays.inconclusive",
        Unit::Count,
        "allocations whose time, or whose want of an answer, falls into the generator's own trouble",
    ),
    ("relays.open_max", Unit::Count, "most allocations at once"),
    ("relays.rate_max", Unit::PerSecond, "most allocations given in any second"),
    ("relays.pps", Unit::PerSecond, "datagrams that TURN servers relayed, both ways"),
    ("relays.bps", Unit::PerSecond, "bits in them, without TURN's own"),
    ("relays.latency.count", Unit::Count, "how many were timed"),
    ("relays.latency.{p50,p95,p99,max}", Unit::Ms, "request for an allocation until it was there"),
    ("generator.{cpu,cpu_max}", Unit::Percent, "busiest shard's CPU, in the mean and at most"),
    ("generator.machine_cpu", Unit::Percent, "CPU of the whole machine in use"),
    ("generator.steal_max", Unit::Percent, "most CPU time that the hypervisor took in an interval"),
    ("generator.waited_max", Unit::Percent, "most of a second for which a media thread had no core"),
    ("generator.send_lateness.{p50,p99}", Unit::Ms, "actual against planned send time"),
    ("generator.timer_lateness.{p50,p99}", Unit::Ms, "how late media threads came round"),
    ("generator.reference.loss", Unit::Percent, "loss on the reference flow, which passes no server"),
    ("generator.reference.delay.{p50,p99}", Unit::Ms, "its one-way delay"),
    ("generator.reference.jitter_max", Unit::Ms, "its highest jitter"),
    ("generator.socket_drops", Unit::Count, "datagrams lost in our own socket buffers"),
    ("generator.send_errors", Unit::Count, "sends that the kernel refused"),
    ("generator.cores", Unit::Count, "cores that this process kept busy"),
    ("generator.resident_bytes_max", Unit::Count, "most memory of this process, bytes"),
    ("generator.inconclusive_share", Unit::Percent, "intervals in which the generator was unhealthy"),
];

fn expand(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (words, tail) = rest.split_once('}').unwrap_or((rest, ""));
    words.split(',').flat_map(|w| expand(&format!("{head}{w}{tail}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique_and_whole() {
        let mut paths: Vec<&str> = all().iter().map(|m| m.path.as_str()).collect();
        assert!(paths.iter().all(|p| !p.contains(['{', '}', ','])));
        let count = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), count);
        for named in [
            "joins.failed_share",
            "setup.total.p95",
            "audio.loss",
            "audio.delay.p99",
            "video.freezes",
            "legs.dropped",
            "audio.silence_max",
            "video.frame_jitter.p95",
            "audio.lossy_legs_share",
        ] {
            assert!(find(named).is_some(), "{named}");
        }
        assert!(find("video.silence_max").is_none());
    }

    #[test]
    fn every_unit_takes_its_own_example_and_no_other() {
        let units = [Unit::Ms, Unit::Percent, Unit::PerMinute, Unit::PerSecond, Unit::Count];
        for unit in units {
            for other in units {
                let number = other.example().trim_start_matches(['<', '=', ' ']);
                assert_eq!(unit.parse(number).is_ok(), unit == other, "{unit:?} {number}");
            }
        }
        assert_eq!(Unit::Ms.parse("1.5s"), Ok(ThresholdValue::Ms(1500.0)));
        assert_eq!(Unit::Percent.parse("0.3%"), Ok(ThresholdValue::Percent(0.3)));
        assert!(Unit::Ms.parse("80").unwrap_err().contains("bare number"));
        assert!(Unit::Ms.parse("80%").unwrap_err().contains("wrong unit"));
    }
}
