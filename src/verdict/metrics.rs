//! The numbers of a summary that exist per server, and how each follows from counters and histograms. Times in ms,
//! shares in percent, rates per minute. Definitions: docs/measurement.md.

use crate::measure::emodel::{self, Coefficients};
use crate::measure::{Flow, Hist};
use crate::types::{Codec, Kind};
use serde::Serialize;
use std::collections::BTreeMap;

/// Six decimals are kept: what is judged is what is shown.
pub(super) fn rounded(v: f64) -> f64 {
    (v * 1e6).round() / 1e6
}

pub(super) fn percent(share: f64) -> f64 {
    rounded(share * 100.0)
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

impl Percentiles {
    fn of(hist: &Hist) -> Percentiles {
        let q = |q| hist.quantile_ms(q).map(rounded);
        Percentiles { p50: q(0.5), p95: q(0.95), p99: q(0.99) }
    }
}

/// Where `loss` comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossSource {
    /// Sent by A against received by B, by stamps: what participants missed, whatever the server hides.
    E2e,
    /// RFC 3550 counts, where no stamps came through.
    Rtp,
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct RtpCounts {
    pub expected: i64,
    pub received: i64,
    pub duplicate: i64,
    pub reordered: i64,
    pub lost_before_recovery: i64,
    pub recovered: i64,
    pub loss: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct E2eCounts {
    pub expected: i64,
    pub received: i64,
    pub loss: Option<f64>,
}

/// Stamps that prove nothing; what carried them is counted, and never believed.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct StampCounts {
    /// Damaged, cut short, or of another run.
    pub foreign: i64,
    /// Packets (of video: frames) without any: not ours.
    pub missing: i64,
}

/// What the server reports (RFC 3550 6.4.1) of the media sent to it, before anything was sent again.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct UpCounts {
    pub expected: i64,
    pub lost: i64,
    pub loss: Option<f64>,
}

/// What audio and video have in common.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct MediaMetrics {
    /// Media packets that participants sent.
    pub sent: i64,
    pub loss: Option<f64>,
    pub loss_source: Option<LossSource>,
    /// Share of legs that lost more than the limit in any 10 s: means hide.
    pub lossy_legs_share: Option<f64>,
    /// Legs that are not in it: their worst 10 s are over the limit, and may be the generator's doing.
    pub lossy_legs_inconclusive: u64,
    /// Of received packets.
    pub stamps: StampCounts,
    pub rtp: RtpCounts,
    pub e2e: E2eCounts,
    pub up: UpCounts,
    pub jitter: Percentiles,
    pub delay: Percentiles,
    pub rtt: Percentiles,
    /// Legs by SRTP suite of their transport.
    pub suite: BTreeMap<String, u64>,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct AudioMetrics {
    #[serde(flatten)]
    pub media: MediaMetrics,
    /// Longest gap in audio that had to flow.
    pub silence_max: Option<f64>,
    pub mos: Mos,
}

/// Mean opinion scores by the E-model: of each listener and source, over ten seconds each. Shown, never judged by.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Mos {
    pub count: u64,
    pub min: Option<f64>,
    pub p5: Option<f64>,
    pub p50: Option<f64>,
    /// Of the fixed jitter buffer that it assumes, ms.
    pub jitter_buffer: f64,
    /// What the model took for the codec.
    pub coefficients: Option<Coefficients>,
}

impl Default for Mos {
    fn default() -> Mos {
        Mos::of(&Hist::new())
    }
}

impl Mos {
    fn of(scores: &Hist) -> Mos {
        let q = |q| scores.quantile_us(q).map(|hundredths| hundredths as f64 / 100.0);
        Mos {
            count: scores.count(),
            min: q(0.0),
            p5: q(0.05),
            p50: q(0.5),
            jitter_buffer: emodel::JITTER_BUFFER.as_secs_f64() * 1000.0,
            coefficients: emodel::coefficients(Codec::Opus).copied(),
        }
    }
}

#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct VideoMetrics {
    #[serde(flatten)]
    pub media: MediaMetrics,
    pub frame_jitter: Percentiles,
    /// Assembled-frame freezes a minute of watched video.
    pub freezes: Option<f64>,
    /// Share of watched video that stood still.
    pub frozen_share: Option<f64>,
    /// Times that a receiver saw the server go on with another simulcast layer; `None` where no video flowed.
    pub layer_switches: Option<i64>,
    /// Times that a server said that it forwards a sender's video to a receiver no longer (last-N); `None` where no video
    /// flowed.
    pub paused: Option<i64>,
    /// Of senders that adapt to their network; `None` without any.
    pub steps: Option<StepMetrics>,
}

/// What senders did that step between clips by their network.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct StepMetrics {
    pub down: i64,
    pub up: i64,
    /// Share of their sending time in which they sent less than the profile's bit rate.
    pub below_share: Option<f64>,
}

/// True when the kind had to flow at all: otherwise none of its metrics has data.
pub(super) fn has_data(flow: &Flow) -> bool {
    flow.count.e2e_expected > 0 || flow.count.rtp_expected > 0 || flow.leg_seconds > 0
}

/// One metric of a flow by its path below `audio` or `video`; `None` without data, or when no flow has that metric.
/// `lossy_legs_share` is none of a flow's: it comes from the ends of legs.
pub fn flow_metric(flow: &Flow, kind: Kind, path: &str) -> Option<f64> {
    let c = &flow.count;
    if let Some((name, quantile)) = path.split_once('.')
        && let Some(q) = quantile_of(quantile)
    {
        let hist = match (name, kind) {
            ("jitter", _) => &flow.jitter,
            ("delay", _) => &flow.delay,
            ("rtt", _) => &flow.rtt,
            ("frame_jitter", Kind::Video) => &flow.frame_jitter,
            _ => return None,
        };
        return hist.quantile_ms(q).map(rounded);
    }
    let per_watched = |ms_or_count: i64| (c.watched_ms > 0).then(|| ms_or_count as f64 / c.watched_ms as f64);
    let value = match path {
        "loss" => return c.e2e_loss().or_else(|| c.rtp_loss()).map(percent),
        "rtp.loss" => return c.rtp_loss().map(percent),
        "e2e.loss" => return c.e2e_loss().map(percent),
        "up.loss" => {
            let share = c.reported_lost.max(0) as f64 / c.reported_expected as f64;
            return (c.reported_expected > 0).then(|| percent(share));
        }
        "up.expected" => c.reported_expected,
        "up.lost" => c.reported_lost,
        "freezes" if kind == Kind::Video => return per_watched(c.freezes).map(|v| rounded(v * 60_000.0)),
        "frozen_share" if kind == Kind::Video => return per_watched(c.frozen_ms).map(percent),
        "silence_max" if kind == Kind::Audio => flow.silence_max_ms,
        "sent" => c.sent,
        "rtp.expected" => c.rtp_expected,
        "rtp.received" => c.rtp_received,
        "rtp.duplicate" => c.duplicate,
        "rtp.reordered" => c.reordered,
        "rtp.lost_before_recovery" => lost_before_recovery(flow),
        "rtp.recovered" => c.recovered,
        "e2e.expected" => c.e2e_expected,
        "e2e.received" => c.e2e_received,
        "stamps.foreign" => c.foreign_stamps,
        "stamps.missing" => c.unstamped,
        _ => return None,
    };
    has_data(flow).then_some(value as f64)
}

fn lost_before_recovery(flow: &Flow) -> i64 {
    flow.count.rtp_expected.saturating_sub(flow.count.rtp_received).max(0)
}

fn quantile_of(name: &str) -> Option<f64> {
    match name {
        "p50" => Some(0.5),
        "p95" => Some(0.95),
        "p99" => Some(0.99),
        _ => None,
    }
}

impl MediaMetrics {
    fn of(flow: &Flow, kind: Kind, lossy: LossyLegs, suite: &BTreeMap<String, u64>) -> MediaMetrics {
        let c = &flow.count;
        let metric = |path| flow_metric(flow, kind, path);
        let source = if c.e2e_expected > 0 { LossSource::E2e } else { LossSource::Rtp };
        let loss = metric("loss");
        MediaMetrics {
            sent: c.sent,
            loss,
            loss_source: loss.map(|_| source),
            lossy_legs_share: lossy.share(),
            lossy_legs_inconclusive: lossy.open,
            stamps: StampCounts { foreign: c.foreign_stamps, missing: c.unstamped },
            rtp: RtpCounts {
                expected: c.rtp_expected,
                received: c.rtp_received,
                duplicate: c.duplicate,
                reordered: c.reordered,
                lost_before_recovery: lost_before_recovery(flow),
                recovered: c.recovered,
                loss: metric("rtp.loss"),
            },
            e2e: E2eCounts { expected: c.e2e_expected, received: c.e2e_received, loss: metric("e2e.loss") },
            up: UpCounts { expected: c.reported_expected, lost: c.reported_lost, loss: metric("up.loss") },
            jitter: Percentiles::of(&flow.jitter),
            delay: Percentiles::of(&flow.delay),
            rtt: Percentiles::of(&flow.rtt),
            suite: suite.clone(),
        }
    }
}

impl AudioMetrics {
    pub(super) fn of(flow: &Flow, lossy: LossyLegs, suite: &BTreeMap<String, u64>) -> AudioMetrics {
        AudioMetrics {
            media: MediaMetrics::of(flow, Kind::Audio, lossy, suite),
            silence_max: flow_metric(flow, Kind::Audio, "silence_max"),
            mos: Mos::of(&flow.mos),
        }
    }
}

impl VideoMetrics {
    pub(super) fn of(flow: &Flow, lossy: LossyLegs, suite: &BTreeMap<String, u64>) -> VideoMetrics {
        VideoMetrics {
            media: MediaMetrics::of(flow, Kind::Video, lossy, suite),
            frame_jitter: Percentiles::of(&flow.frame_jitter),
            freezes: flow_metric(flow, Kind::Video, "freezes"),
            frozen_share: flow_metric(flow, Kind::Video, "frozen_share"),
            layer_switches: has_data(flow).then_some(flow.count.layer_switches),
            paused: has_data(flow).then_some(flow.count.paused),
            steps: StepMetrics::of(flow),
        }
    }
}

impl StepMetrics {
    fn of(flow: &Flow) -> Option<StepMetrics> {
        let c = &flow.count;
        let below = c.below_ms.max(0) as f64 / c.adaptive_ms as f64;
        (c.adaptive_ms > 0).then(|| StepMetrics {
            down: c.steps_down,
            up: c.steps_up,
            below_share: Some(percent(below)),
        })
    }
}

/// Legs whose worst 10 s were known, and of these, those above the limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct LossyLegs {
    pub judged: u64,
    pub over: u64,
    /// Neither: over the limit, but in seconds in which the generator was unhealthy.
    pub open: u64,
}

impl LossyLegs {
    pub fn share(self) -> Option<f64> {
        (self.judged > 0).then(|| percent(self.over as f64 / self.judged as f64))
    }

    /// What the share might be at the least and at the most, by what the open ones really are.
    pub fn bounds(self) -> Option<[f64; 2]> {
        let all = self.judged + self.open;
        (all > 0).then(|| [self.over, self.over + self.open].map(|n| percent(n as f64 / all as f64)))
    }

    pub fn add(&mut self, o: LossyLegs) {
        self.judged += o.judged;
        self.over += o.over;
        self.open += o.open;
    }
}

/// One phase of set-up. Exact percentiles (nearest rank): a fleet's joins are few enough to be kept.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct PhaseMetrics {
    pub count: u64,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct SetupMetrics {
    pub total: PhaseMetrics,
    pub join: PhaseMetrics,
    pub signaling: PhaseMetrics,
    pub ice: PhaseMetrics,
    pub dtls: PhaseMetrics,
    pub relay: PhaseMetrics,
    pub first_rtp: PhaseMetrics,
    pub first_frame: PhaseMetrics,
}

/// Names of the phases, in the order of [`SetupMetrics`].
pub(super) const PHASES: [&str; 8] = ["total", "join", "signaling", "ice", "dtls", "relay", "first_rtp", "first_frame"];

/// One measured set-up time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    /// When it was known, ms since the start of the run.
    pub t: f64,
    pub ms: f64,
}

/// Set-up times by phase, as [`PHASES`].
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct SetupTimes(pub [Vec<Sample>; 8]);

impl SetupTimes {
    pub fn merge(&mut self, o: &SetupTimes) {
        for (mine, theirs) in self.0.iter_mut().zip(&o.0) {
            mine.extend_from_slice(theirs);
        }
    }

    /// Samples of the phase of a metric path such as `total.p95`, and the metric.
    pub fn phase(&self, path: &str) -> Option<&[Sample]> {
        let name = path.split_once('.')?.0;
        PHASES.iter().position(|p| *p == name).map(|i| &self.0[i][..])
    }

    pub fn metrics(&self) -> SetupMetrics {
        let [total, join, signaling, ice, dtls, relay, first_rtp, first_frame] = &self.0;
        let of = |samples: &Vec<Sample>| PhaseMetrics::of(samples);
        SetupMetrics {
            total: of(total),
            join: of(join),
            signaling: of(signaling),
            ice: of(ice),
            dtls: of(dtls),
            relay: of(relay),
            first_rtp: of(first_rtp),
            first_frame: of(first_frame),
        }
    }
}

impl PhaseMetrics {
    pub(super) fn of(samples: &[Sample]) -> PhaseMetrics {
        let mut ms: Vec<f64> = samples.iter().map(|s| s.ms).collect();
        ms.sort_by(f64::total_cmp);
        let rank = |q: f64| {
            let nth = (q * ms.len() as f64).ceil().max(1.0) as usize;
            ms.get(nth - 1).copied().map(rounded)
        };
        PhaseMetrics { count: ms.len() as u64, p50: rank(0.5), p95: rank(0.95), p99: rank(0.99), max: rank(1.0) }
    }

    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        match name {
            "count" => (self.count > 0).then_some(self.count as f64),
            "p50" => self.p50,
            "p95" => self.p95,
            "p99" => self.p99,
            "max" => self.max,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_exact() {
        let samples: Vec<Sample> = (1..=200).rev().map(|i| Sample { t: 0.0, ms: f64::from(i) }).collect();
        let m = PhaseMetrics::of(&samples);
        assert_eq!(
            m,
            PhaseMetrics { count: 200, p50: Some(100.0), p95: Some(190.0), p99: Some(198.0), max: Some(200.0) }
        );
        assert_eq!(PhaseMetrics::of(&[]).metric("p95"), None);
        assert_eq!(PhaseMetrics::of(&[]).metric("count"), None);
    }

    #[test]
    fn loss_is_e2e_where_there_are_stamps_and_rtp_elsewhere() {
        let mut flow = Flow::default();
        flow.count.rtp_expected = 1000;
        flow.count.rtp_received = 900;
        flow.count.recovered = 50;
        let of = |flow: &Flow| MediaMetrics::of(flow, Kind::Audio, LossyLegs::default(), &BTreeMap::new());
        let m = of(&flow);
        assert_eq!((m.loss, m.loss_source), (Some(5.0), Some(LossSource::Rtp)));
        assert_eq!((m.rtp.lost_before_recovery, m.rtp.loss, m.e2e.loss), (100, Some(5.0), None));
        flow.count.e2e_expected = 400;
        flow.count.e2e_received = 388;
        let m = of(&flow);
        assert_eq!((m.loss, m.loss_source, m.rtp.loss), (Some(3.0), Some(LossSource::E2e), Some(5.0)));
        assert_eq!(of(&Flow::default()).loss_source, None);
    }

    #[test]
    fn nothing_expected_is_no_data() {
        let flow = Flow::default();
        for path in ["loss", "sent", "rtp.duplicate", "silence_max", "delay.p99", "e2e.loss", "nonsense", "delay.p12"] {
            assert_eq!(flow_metric(&flow, Kind::Audio, path), None, "{path}");
        }
        let mut flow = Flow::default();
        flow.count.e2e_expected = 1;
        assert_eq!(flow_metric(&flow, Kind::Audio, "rtp.duplicate"), Some(0.0));
        assert_eq!(flow_metric(&flow, Kind::Video, "silence_max"), None);
        assert_eq!(flow_metric(&flow, Kind::Video, "freezes"), None);
        flow.count.watched_ms = 120_000;
        flow.count.freezes = 3;
        flow.count.frozen_ms = 1200;
        assert_eq!(flow_metric(&flow, Kind::Video, "freezes"), Some(1.5));
        assert_eq!(flow_metric(&flow, Kind::Video, "frozen_share"), Some(1.0));
    }
}
