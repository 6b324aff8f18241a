//! The run second by second, for drawing.

use super::metrics::flow_metric;
use super::windows::Window;
use crate::history::{Health, Interval};
use crate::measure::{Flow, Hist};
use crate::types::{Kind, ServerId};
use std::collections::BTreeMap;

/// Whole run, warm-up and leaving included. Times in s since the start of the run; values as in `super::metrics`.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Series {
    pub media: Vec<MediaPoint>,
    pub joins: Vec<JoinPoint>,
    pub generator: Vec<GeneratorPoint>,
    pub names: BTreeMap<ServerId, String>,
    /// Seconds that are judged neither way.
    pub inconclusive: Vec<Window>,
}

#[derive(Clone, PartialEq, Default, Debug)]
pub struct MediaPoint {
    pub t: f64,
    pub connected: u32,
    pub joining: u32,
    pub servers: BTreeMap<ServerId, ServerPoint>,
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct ServerPoint {
    pub participants: u32,
    /// Audio, video.
    pub kinds: [KindPoint; 2],
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct KindPoint {
    pub loss: Option<f64>,
    pub jitter_p95: Option<f64>,
    pub delay_p50: Option<f64>,
    pub delay_p99: Option<f64>,
}

/// Joins that finished in one second.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct JoinPoint {
    pub t: f64,
    /// Set-up time from the planned start, ms; time-outs count in full.
    pub setup_p95: Option<f64>,
    pub joined: u32,
    pub failed: u32,
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct GeneratorPoint {
    pub t: f64,
    /// Busiest shard and whole machine, percent.
    pub shard_cpu: f64,
    pub machine_cpu: f64,
    pub lateness_p99: Option<f64>,
    pub timer_p99: Option<f64>,
    /// Delay of the reference flow.
    pub reference_p99: Option<f64>,
}

impl Series {
    pub(super) fn interval(&mut self, t_ms: f64, interval: &Interval) {
        let t = t_ms / 1000.0;
        // A second may come in several lines, one or more servers each.
        if self.media.last().is_none_or(|p| p.t != t) {
            self.media.push(MediaPoint { t, ..MediaPoint::default() });
        }
        let Some(point) = self.media.last_mut() else { return };
        point.connected = point.connected.max(interval.connected);
        point.joining = point.joining.max(interval.joining);
        for s in &interval.servers {
            let kinds = [KindPoint::of(&s.audio, Kind::Audio), KindPoint::of(&s.video, Kind::Video)];
            point.servers.insert(s.server, ServerPoint { participants: s.participants, kinds });
        }
    }

    pub(super) fn health(&mut self, t_ms: f64, health: &Health) {
        let (mut lateness, mut timer, mut reference) = (Hist::new(), Hist::new(), Hist::new());
        for shard in &health.shards {
            lateness.merge(&shard.send_lateness);
            timer.merge(&shard.timer_lateness);
            reference.merge(&shard.reference.delay);
        }
        self.generator.push(GeneratorPoint {
            t: t_ms / 1000.0,
            shard_cpu: health.shards.iter().map(|s| s.cpu * 100.0).fold(0.0, f64::max),
            machine_cpu: health.machine_cpu * 100.0,
            lateness_p99: lateness.quantile_ms(0.99),
            timer_p99: timer.quantile_ms(0.99),
            reference_p99: reference.quantile_ms(0.99),
        });
    }
}

impl KindPoint {
    fn of(flow: &Flow, kind: Kind) -> KindPoint {
        let metric = |path| flow_metric(flow, kind, path);
        KindPoint {
            loss: metric("loss"),
            jitter_p95: metric("jitter.p95"),
            delay_p50: metric("delay.p50"),
            delay_p99: metric("delay.p99"),
        }
    }
}
