//! The series of a page as data for its plots.

use super::Summary;
use crate::profile::Op;
use crate::types::{Kind, ServerId};
use crate::verdict::{Judgement, KindPoint, MediaPoint, Series};
use serde::Serialize;
use std::collections::BTreeSet;

/// Points a plot shows at most; more are merged, the worst of each stretch stays.
const POINTS_MAX: usize = 2000;
/// Servers a plot shows at most, the worst of them.
const SERVERS_MAX: usize = 8;
/// A gap between seconds that is drawn as one.
const GAP_S: f64 = 3.5;

/// All plots of a page. Times in s since the start of the run.
#[derive(Debug, Serialize)]
pub(super) struct Charts {
    hold: [f64; 2],
    inconclusive: Vec<[f64; 2]>,
    /// Seconds in one point of the longest series.
    pub seconds_a_point: usize,
    /// Servers left out because others are worse.
    pub servers_hidden: usize,
    pub charts: Vec<Chart>,
}

#[derive(Debug, Serialize)]
pub(super) struct Chart {
    pub id: &'static str,
    #[serde(skip)]
    pub title: &'static str,
    #[serde(skip)]
    pub what: &'static str,
    unit: &'static str,
    /// Single moments instead of a line.
    dots: bool,
    limit: Option<f64>,
    x: Vec<f64>,
    series: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    label: String,
    /// Which colour.
    color: usize,
    dashed: bool,
    y: Vec<Option<f64>>,
}

pub(super) fn charts(s: &Summary, j: &Judgement) -> Charts {
    let all = &j.series;
    let ids: BTreeSet<ServerId> = all.media.iter().flat_map(|p| p.servers.keys().copied()).collect();
    let name = |id: ServerId| all.names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let shown = worst_servers(all, &ids);
    let media = |id, title, what, unit, metrics: &[&str], parts: &[Part<'_>]| {
        let lines = parts.iter().flat_map(|part| {
            shown.iter().enumerate().map(|(color, server)| Line {
                label: format!("{}{}", name(*server), part.suffix),
                color,
                dashed: part.dashed,
                y: all.media.iter().map(|p| p.servers.get(server).and_then(|sp| (part.pick)(&sp.kinds))).collect(),
            })
        });
        let x = all.media.iter().map(|p| p.t).collect();
        Chart { id, title, what, unit, dots: false, limit: limit(s, metrics), x, series: lines.collect() }
    };
    let one = |pick: fn(&[KindPoint; 2]) -> Option<f64>| [Part { suffix: "", dashed: false, pick }];
    let delay = |p50, p99| {
        [Part { suffix: " p99", dashed: false, pick: p99 }, Part { suffix: " p50", dashed: true, pick: p50 }]
    };
    let charts = [
        participants(all, &shown, &name),
        media(
            "audio-loss",
            "Audio loss",
            "Share of audio packets that did not arrive, by server; dashes mark the limit.",
            "%",
            &["audio.loss"],
            &one(|k| k[0].loss),
        ),
        media(
            "video-loss",
            "Video loss",
            "Share of video packets that did not arrive, recovered ones not counted as lost.",
            "%",
            &["video.loss"],
            &one(|k| k[1].loss),
        ),
        media(
            "audio-delay",
            "Audio delay",
            "One way from participant to participant through the server: median and the slowest 1 %.",
            "ms",
            &["audio.delay.p99", "audio.delay.p95", "audio.delay.p50"],
            &delay(|k| k[0].delay_p50, |k| k[0].delay_p99),
        ),
        media(
            "video-delay",
            "Video delay",
            "The same for video packets; it rises before loss does when a server starves.",
            "ms",
            &["video.delay.p99", "video.delay.p95", "video.delay.p50"],
            &delay(|k| k[1].delay_p50, |k| k[1].delay_p99),
        ),
        media(
            "audio-jitter",
            "Audio jitter p95",
            "Variation of the time between packets (RFC 3550), worst 5 % of streams.",
            "ms",
            &["audio.jitter.p95"],
            &one(|k| k[0].jitter_p95),
        ),
        media(
            "video-jitter",
            "Video jitter p95",
            "The same for video packets.",
            "ms",
            &["video.jitter.p95"],
            &one(|k| k[1].jitter_p95),
        ),
        setup(s, all),
        generator_cpu(all),
        lateness(all),
    ];
    let longest = all.media.len().max(all.generator.len());
    Charts {
        hold: [j.hold.from_ms / 1000.0, j.hold.ended_ms / 1000.0],
        inconclusive: all.inconclusive.iter().map(|w| [w.from_ms / 1000.0, w.until_ms / 1000.0]).collect(),
        seconds_a_point: longest.div_ceil(POINTS_MAX).max(1),
        servers_hidden: ids.len() - shown.len(),
        charts: charts.into_iter().filter(Chart::has_data).map(Chart::trimmed).collect(),
    }
}

struct Part<'a> {
    suffix: &'a str,
    dashed: bool,
    pick: fn(&[KindPoint; 2]) -> Option<f64>,
}

fn participants(all: &Series, shown: &[ServerId], name: &dyn Fn(ServerId) -> String) -> Chart {
    let of = |pick: &dyn Fn(&MediaPoint) -> Option<f64>| all.media.iter().map(pick).collect();
    let total = |label: &str, color, dashed, y| Line { label: label.into(), color, dashed, y };
    let mut series = vec![
        total("connected", 8, false, of(&|p| Some(p.connected.into()))),
        total("joining", 8, true, of(&|p| Some(p.joining.into()))),
    ];
    if shown.len() > 1 {
        series.extend(shown.iter().enumerate().map(|(color, id)| {
            let y = of(&|p| p.servers.get(id).map(|s| s.participants.into()));
            Line { label: name(*id), color, dashed: false, y }
        }));
    }
    Chart {
        id: "participants",
        title: "Participants",
        what: "How many were connected, in all and on each server, and how many were on their way in.",
        unit: "",
        dots: false,
        limit: None,
        x: all.media.iter().map(|p| p.t).collect(),
        series,
    }
}

fn setup(s: &Summary, all: &Series) -> Chart {
    let y = |pick: fn(&crate::verdict::JoinPoint) -> Option<f64>| all.joins.iter().map(pick).collect();
    Chart {
        id: "setup",
        title: "Set-up time p95",
        what: "From the planned start of a join until media could flow, for the joins that finished in that second.",
        unit: "ms",
        dots: true,
        limit: limit(s, &["setup.total.p95"]),
        x: all.joins.iter().map(|p| p.t).collect(),
        series: vec![Line { label: "set-up p95".into(), color: 0, dashed: false, y: y(|p| p.setup_p95) }],
    }
}

fn generator_cpu(all: &Series) -> Chart {
    let y = |pick: fn(&crate::verdict::GeneratorPoint) -> f64| all.generator.iter().map(|p| Some(pick(p))).collect();
    Chart {
        id: "generator-cpu",
        title: "Generator CPU",
        what: "How busy roomful itself was: its busiest thread, and the whole machine it ran on.",
        unit: "%",
        dots: false,
        limit: None,
        x: all.generator.iter().map(|p| p.t).collect(),
        series: vec![
            Line { label: "busiest shard".into(), color: 0, dashed: false, y: y(|p| p.shard_cpu) },
            Line { label: "machine".into(), color: 1, dashed: false, y: y(|p| p.machine_cpu) },
        ],
    }
}

fn lateness(all: &Series) -> Chart {
    let y = |pick: fn(&crate::verdict::GeneratorPoint) -> Option<f64>| all.generator.iter().map(pick).collect();
    Chart {
        id: "lateness",
        title: "Generator lateness p99",
        what: "How late roomful sent its own packets and came round to its sockets, and the delay of its reference flow, \
               which passes no server; when these are high, nothing is held against the servers.",
        unit: "ms",
        dots: false,
        limit: None,
        x: all.generator.iter().map(|p| p.t).collect(),
        series: vec![
            Line { label: "sends".into(), color: 0, dashed: false, y: y(|p| p.lateness_p99) },
            Line { label: "timers".into(), color: 1, dashed: false, y: y(|p| p.timer_p99) },
            Line { label: "reference flow".into(), color: 2, dashed: false, y: y(|p| p.reference_p99) },
        ],
    }
}

/// Limit of the first of these metrics that has an upper one.
fn limit(s: &Summary, metrics: &[&str]) -> Option<f64> {
    let of = |metric: &&str| s.pass.iter().find(|o| o.metric == **metric && matches!(o.op, Op::Lt | Op::Le));
    metrics.iter().find_map(of).map(|o| o.limit)
}

/// Those with the highest loss or delay in any second, in the order they were met.
fn worst_servers(all: &Series, ids: &BTreeSet<ServerId>) -> Vec<ServerId> {
    let badness = |id: &ServerId| {
        let points = all.media.iter().filter_map(|p| p.servers.get(id));
        let worst = points.flat_map(|p| Kind::BOTH.map(|k| p.kinds[k.index()])).fold((0.0, 0.0), |(l, d), k| {
            (f64::max(l, k.loss.unwrap_or(0.0)), f64::max(d, k.delay_p99.unwrap_or(0.0)))
        });
        worst.0 * 1e6 + worst.1
    };
    let mut ranked: Vec<ServerId> = ids.iter().copied().collect();
    if ranked.len() > SERVERS_MAX {
        ranked.sort_by(|a, b| badness(b).total_cmp(&badness(a)).then(a.cmp(b)));
        ranked.truncate(SERVERS_MAX);
        ranked.sort();
    }
    ranked
}

impl Chart {
    fn has_data(&self) -> bool {
        self.series.iter().any(|l| l.y.iter().any(Option::is_some))
    }

    /// Merges points beyond the maximum, opens gaps, and keeps four digits.
    fn trimmed(mut self) -> Chart {
        let per = self.x.len().div_ceil(POINTS_MAX).max(1);
        let chunks = self.x.chunks(per);
        let mut x: Vec<f64> = chunks.filter_map(|c| c.last().copied()).collect();
        for line in &mut self.series {
            let worst = |c: &[Option<f64>]| c.iter().flatten().copied().reduce(f64::max).map(short);
            line.y = line.y.chunks(per).map(worst).collect();
        }
        if !self.dots {
            for i in (1..x.len()).rev() {
                if x[i] - x[i - 1] > GAP_S * per as f64 {
                    x.insert(i, f64::midpoint(x[i - 1], x[i]));
                    self.series.iter_mut().for_each(|line| line.y.insert(i, None));
                }
            }
        }
        self.x = x.into_iter().map(|t| (t * 10.0).round() / 10.0).collect();
        self
    }
}

fn short(v: f64) -> f64 {
    if v == 0.0 || !v.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - v.abs().log10().floor().clamp(-12.0, 12.0) as i32);
    (v * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Vec<f64>, y: Vec<Option<f64>>) -> Chart {
        let line = Line { label: "a".into(), color: 0, dashed: false, y };
        Chart { id: "c", title: "", what: "", unit: "", dots: false, limit: None, x, series: vec![line] }
    }

    #[test]
    fn long_series_keep_their_peaks() {
        let x: Vec<f64> = (0..10_000).map(f64::from).collect();
        let mut y = vec![Some(1.0); 10_000];
        y[7777] = Some(99.123_45);
        let c = chart(x, y).trimmed();
        assert_eq!((c.x.len(), c.series[0].y.len()), (2000, 2000));
        assert_eq!(c.series[0].y.iter().flatten().copied().fold(0.0, f64::max), 99.12);
        assert_eq!(c.series[0].y[7777 / 5], Some(99.12));
    }

    #[test]
    fn missing_seconds_are_a_gap_and_no_line() {
        let c = chart(vec![1.0, 2.0, 12.0, 13.0], vec![Some(1.0); 4]).trimmed();
        assert_eq!(c.x, [1.0, 2.0, 7.0, 12.0, 13.0]);
        assert_eq!(c.series[0].y, [Some(1.0), Some(1.0), None, Some(1.0), Some(1.0)]);
    }
}
