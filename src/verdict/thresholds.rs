//! Thresholds against numbers: per server where the metric exists per server, and the worst decides.

use super::gather::{Counts, Gathered, ServerGather, media_path};
use super::legs::LegClass;
use super::metrics::{LossyLegs, PhaseMetrics, Sample, flow_metric, has_data};
use super::windows::{Window, Windows};
use super::words::{number, unit_name};
use super::{Subject, Verdict};
use crate::profile::{Op, Threshold};
use crate::types::{Kind, ServerId};
use serde::Serialize;
use std::collections::BTreeMap;

/// One threshold, judged.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// As written: `audio.loss <= 0.3%`.
    pub expr: String,
    pub metric: String,
    pub op: Op,
    /// Of the worst server, or of the run; in the unit named.
    pub value: Option<f64>,
    pub limit: f64,
    pub unit: &'static str,
    pub verdict: Verdict,
    /// The worst server; null where the metric is the run's.
    pub server: Option<String>,
    /// Share of the limit that was left, percent; negative beyond it; null where the limit is 0 or exact.
    pub margin: Option<f64>,
    /// When the limit was broken, as far as the history tells, and for how many seconds of that.
    pub window: Option<Window>,
    pub window_seconds: Option<f64>,
    /// Legs on the worst server that lost more than the limit in some 10 s (loss only).
    pub legs: Option<u64>,
    /// Why unknown.
    pub why: Option<String>,
}

/// What a threshold is judged on, besides the servers.
pub(super) struct Whole<'a> {
    pub all: &'a Gathered,
    /// Run-wide numbers as they stand in the summary.
    pub run: serde_json::Value,
    pub lossy: &'a BTreeMap<ServerId, [LossyLegs; 2]>,
    /// Shares of joins, of legs and of allocations that may be the generator's doing, percent, and how much of that is too much.
    pub joins_inconclusive: f64,
    pub legs_inconclusive: f64,
    pub relays_inconclusive: f64,
    pub inconclusive_max: f64,
}

impl Outcome {
    fn open(t: &Threshold) -> Outcome {
        Outcome {
            expr: t.expr.clone(),
            metric: t.metric.clone(),
            op: t.op,
            value: None,
            limit: t.value.number(),
            unit: unit_name(t.value),
            verdict: Verdict::Unknown,
            server: None,
            margin: None,
            window: None,
            window_seconds: None,
            legs: None,
            why: None,
        }
    }

    /// Of values that somebody else measured, each on a server: the worst decides.
    pub fn of_values<'a>(t: &Threshold, values: impl Iterator<Item = (&'a str, f64)>) -> Outcome {
        let mut out = Outcome::open(t);
        match values.reduce(|a, b| if worse(t.op, out.limit, b.1, a.1) { b } else { a }) {
            Some((server, value)) => {
                out.value = Some(value);
                out.server = Some(server.to_owned());
                out.verdict = of(t.op.holds(value, out.limit));
                out.margin = margin(t.op, value, out.limit);
            }
            None => out.why = Some(NO_DATA.into()),
        }
        out
    }
}

const NO_DATA: &str = "matched no data";

pub(super) fn judge(index: usize, t: &Threshold, whole: &Whole<'_>, name: &dyn Fn(ServerId) -> String) -> Outcome {
    let mut out = Outcome::open(t);
    let mut worst_server = None;
    match per_server(t, whole) {
        Some(values) => {
            let open =
                values.iter().find_map(|(id, v)| if let Value::Open(legs) = v { Some(((*id)?, *legs)) } else { None });
            // A server where the metric had to have data and has none is as bad as no data at all, unless another fails.
            let silent = values.iter().find(|(_, v)| matches!(v, Value::Missing)).and_then(|(id, _)| *id);
            let known = values.iter().filter_map(|(id, v)| match v {
                Value::Is(v) => Some((*id, *v)),
                Value::Missing | Value::Open(_) | Value::NotExpected => None,
            });
            let worst = known.reduce(|a, b| if worse(t.op, out.limit, b.1, a.1) { b } else { a });
            if let Some((id, value)) = worst {
                worst_server = id;
                out.value = Some(value);
                out.server = id.map(name);
                out.verdict = of(t.op.holds(value, out.limit));
            }
            if let Some(id) = silent.filter(|_| out.verdict != Verdict::Fail) {
                out.verdict = Verdict::Unknown;
                out.why = Some(format!("has no data on {}", name(id)));
            }
            if let Some((id, legs)) = open.filter(|_| out.verdict != Verdict::Fail) {
                out.verdict = Verdict::Unknown;
                out.why = Some(format!(
                    "is open: the worst 10 s of {legs} legs on {} fell into the generator's own trouble",
                    name(id)
                ));
            }
        }
        None => {
            out.value = super::lookup(&whole.run, &t.metric);
            if let Some(value) = out.value {
                out.verdict = of(t.op.holds(value, out.limit));
            }
        }
    }
    if out.value.is_none() {
        out.why.get_or_insert_with(|| NO_DATA.into());
    }
    let inconclusive = match Subject::of(&t.metric) {
        Subject::Joins | Subject::Setup => whole.joins_inconclusive,
        Subject::Legs => whole.legs_inconclusive,
        Subject::Relays => whole.relays_inconclusive,
        Subject::Media | Subject::Generator => 0.0,
    };
    if inconclusive > whole.inconclusive_max && out.verdict != Verdict::Unknown {
        out.verdict = Verdict::Unknown;
        out.why = Some(format!("is open: the generator was unhealthy in {} % of these", number(inconclusive)));
    }
    out.margin = out.value.and_then(|v| margin(t.op, v, out.limit));
    if out.verdict == Verdict::Fail {
        evidence(index, t, whole, worst_server, &mut out);
    }
    out
}

fn of(holds: bool) -> Verdict {
    if holds { Verdict::Pass } else { Verdict::Fail }
}

enum Value {
    Is(f64),
    /// So many legs might be the generator's doing, and the verdict hangs on them.
    Open(u64),
    /// Something had to be measured there and was not.
    Missing,
    NotExpected,
}

/// The metric on each server it exists on; `None` when it is a number of the run only. Joins that met no server are a
/// place of their own.
fn per_server(t: &Threshold, whole: &Whole<'_>) -> Option<Vec<(Option<ServerId>, Value)>> {
    let metric = &*t.metric;
    let servers = &whole.all.servers;
    if let Some(path) = metric.strip_prefix("setup.") {
        let name = path.split_once('.').map_or("", |(_, name)| name);
        let on = |setup: &super::metrics::SetupTimes| {
            let value = setup.phase(path).and_then(|samples| PhaseMetrics::of(samples).metric(name));
            value.map_or(Value::NotExpected, Value::Is)
        };
        let mut all: Vec<_> = servers.iter().map(|(id, s)| (Some(*id), on(&s.setup))).collect();
        all.push((None, on(&whole.all.setup_nowhere)));
        return Some(all);
    }
    let (kind, path) = media_path(metric)?;
    if let Some(suite) = path.strip_prefix("suite.") {
        let on = |s: &ServerGather| s.suites.get(suite).map_or(Value::NotExpected, |n| Value::Is(*n as f64));
        return Some(servers.iter().map(|(id, s)| (Some(*id), on(s))).collect());
    }
    let on = |id: &ServerId, s: &ServerGather| {
        let lossy = whole.lossy.get(id).map(|kinds| kinds[kind.index()]).unwrap_or_default();
        if path == "lossy_legs_share"
            && let Some([least, most]) = lossy.bounds().filter(|_| lossy.open > 0)
        {
            let holds = |share: f64| t.op.holds(share, t.value.number());
            let shown = lossy.share().map(holds);
            if holds(least) != holds(most) || shown != Some(holds(least)) {
                return Value::Open(lossy.open);
            }
        }
        let flow = if kind == Kind::Audio { &s.audio } else { &s.video };
        let value = match path {
            "lossy_legs_share" => lossy.share(),
            _ => flow_metric(flow, kind, path),
        };
        match value {
            Some(v) => Value::Is(v),
            // Somebody was there, and no second of it is judged.
            None if s.participants_max > 0 && s.participants_judged == 0 => Value::Missing,
            // RTT and frame metrics need more than media that flows; the others do not.
            None if has_data(flow) && !path.starts_with("rtt") && path != "rtp.loss" && path != "e2e.loss" => {
                Value::Missing
            }
            None => Value::NotExpected,
        }
    };
    Some(servers.iter().map(|(id, s)| (Some(*id), on(id, s))).collect())
}

/// True when `a` is worse than `b` under this threshold.
fn worse(op: Op, limit: f64, a: f64, b: f64) -> bool {
    match op {
        Op::Lt | Op::Le => a > b,
        Op::Gt | Op::Ge => a < b,
        Op::Eq => (a - limit).abs() > (b - limit).abs(),
    }
}

fn margin(op: Op, value: f64, limit: f64) -> Option<f64> {
    let left = match op {
        Op::Lt | Op::Le => limit - value,
        Op::Gt | Op::Ge => value - limit,
        Op::Eq => return None,
    };
    (limit > 0.0).then(|| super::metrics::rounded(left / limit * 100.0))
}

/// When, and how many legs.
fn evidence(index: usize, t: &Threshold, whole: &Whole<'_>, server: Option<ServerId>, out: &mut Outcome) {
    let windows = match Subject::of(&t.metric) {
        Subject::Media => {
            let own = server.and_then(|id| whole.all.broken.get(index)?.get(&id));
            own.map(|windows| Windows::of(windows.clone()))
        }
        Subject::Setup => {
            let setup = match server {
                Some(id) => whole.all.servers.get(&id).map(|s| &s.setup),
                None => Some(&whole.all.setup_nowhere),
            };
            let samples = t.metric.strip_prefix("setup.").and_then(|path| setup?.phase(path)).unwrap_or_default();
            let over = |s: &&Sample| !t.op.holds(s.ms, out.limit);
            let one = |s: &Sample| Window { from_ms: s.t - s.ms.max(0.0), until_ms: s.t };
            Some(Windows::of(samples.iter().filter(over).map(one).collect()))
        }
        Subject::Joins if t.metric.contains("failed") => {
            let failed = whole.all.failed.iter().filter(|f| f.counts == Counts::Target);
            out.window = first_to_last(failed.map(|f| f.t));
            None
        }
        Subject::Legs if t.metric.ends_with(".dropped") => {
            let dropped = whole.all.legs.iter().filter(|l| l.class == LegClass::Dropped);
            out.window = first_to_last(dropped.map(|l| l.t));
            None
        }
        Subject::Joins | Subject::Legs | Subject::Relays | Subject::Generator => None,
    };
    if let Some(windows) = windows {
        out.window = windows.headline();
        let inside = out.window.map(|w| windows.overlap_ms(&w) / 1000.0);
        // Joins overlap: how long says nothing.
        out.window_seconds = inside.filter(|_| Subject::of(&t.metric) == Subject::Media);
    }
    if let (Some((kind, "loss" | "e2e.loss" | "rtp.loss")), Some(id)) = (media_path(&t.metric), server) {
        let over = |l: &&super::gather::Leg| {
            l.server == Some(id) && l.worst_loss[kind.index()].is_some_and(|v| !t.op.holds(v, out.limit))
        };
        let n = whole.all.legs.iter().filter(over).count() as u64;
        out.legs = (n > 0).then_some(n);
    }
}

fn first_to_last(times: impl Iterator<Item = f64>) -> Option<Window> {
    times.fold(None, |w: Option<Window>, t| {
        let w = w.unwrap_or(Window { from_ms: t, until_ms: t });
        Some(Window { from_ms: w.from_ms.min(t), until_ms: w.until_ms.max(t) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_have_a_sign_and_equality_has_none() {
        assert_eq!(margin(Op::Le, 72.0, 80.0), Some(10.0));
        assert_eq!(margin(Op::Lt, 120.0, 80.0), Some(-50.0));
        assert_eq!(margin(Op::Ge, 99.0, 90.0), Some(10.0));
        assert_eq!(margin(Op::Le, 0.0, 0.0), None);
        assert_eq!(margin(Op::Eq, 0.0, 5.0), None);
    }

    #[test]
    fn worst_depends_on_the_direction() {
        assert!(worse(Op::Le, 5.0, 3.0, 2.0) && !worse(Op::Ge, 5.0, 3.0, 2.0));
        assert!(worse(Op::Eq, 5.0, 1.0, 6.0));
    }
}
