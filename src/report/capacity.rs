//! The capacity part of a report: the curve over participants with its marks, the trials, and what to paste.

use super::curve::{Curve, Limit, Line, Mark, curve};
use super::paste::{Replicas, SEARCH, Scaler};
use crate::capacity::{Answer, CPU_TRIGGER, Outcome, ServerTrial, TrialRow};
use crate::verdict::{clock, number};
use maud::{Markup, html};

/// The section of the page; nothing for other shapes.
pub(super) fn section(answer: Option<&Answer>, limits: &[(String, f64)]) -> Markup {
    let Some(a) = answer else { return html! {} };
    html! {
        section {
            h2 { (if a.whole_target { "Capacity of the whole target" } else { "Capacity of one server" }) }
            p.what {
                "Participants " (if a.whole_target { "the target" } else { "one server" }) " carries before anybody notices. Each point is a trial: so many whole rooms, "
                "settled, then judged. The lower bound held at full length below every load that did not; the bounds "
                "are bounds, not a confidence interval."
            }
            div.figures { @for (value, label) in figures(a) { div.figure { span.value { (value) } span.label { (label) } } } }
            @if let Some(trigger) = a.cpu_trigger { p { (trigger.words()) } }
            @if let Some(k) = &a.knee {
                p {
                    (crate::verdict::metric_words(&k.metric)) " left its plateau of " (number(k.plateau)) " ms between "
                    (k.below) " and " (k.participants) " participants (" (number(k.delay)) " ms there)."
                }
            }
            @if a.inverted { p { "A higher load held although a lower one did not: the bounds keep below the lower one." } }
            div.charts { @for c in curves(a, limits) { (curve(&c)) } }
            (trials(a))
            (spread(a))
            (paste(a))
        }
    }
}

fn figures(a: &Answer) -> Vec<(String, String)> {
    let some = |v: Option<u32>| v.map_or_else(|| "–".to_owned(), |v| v.to_string());
    let bounds = match (a.lower, a.upper) {
        (Some(lower), None) => (format!("≥ {lower}"), "lower bound"),
        (None, Some(upper)) => (format!("< {upper}"), "upper bound"),
        (lower, upper) => (format!("{} – {}", some(lower), some(upper)), "bounds"),
    };
    let mut out: Vec<(String, &str)> = Vec::new();
    if let Some(t) = a.threshold {
        out.push((t.participants.to_string(), "scale out at"));
    }
    let percent = |v: f64| format!("{} %", number(v));
    if let Some(cpu) = a.cpu_at_capacity {
        out.push((percent(cpu), "CPU at capacity"));
    }
    if let Some(cpu) = a.cpu_at_breakage {
        out.push((percent(cpu), "CPU where it broke"));
    }
    if let Some(ms) = a.setup_p95 {
        out.push((format!("{} ms", number(ms)), "set-up p95 at capacity"));
    }
    if let Some(rate) = a.join_rate {
        out.push((format!("{} of {}", number(rate), number(a.join_rate_wanted)), "joins/s reached, of those wanted"));
    }
    if let Some(streams) = a.streams {
        out.push((streams.to_string(), "streams to participants at capacity, by the plan"));
    }
    if let Some(n) = a.allocations {
        out.push((n.to_string(), "allocations at capacity"));
    }
    if let (Some(pps), Some(bps)) = (a.relayed_pps, a.relayed_bps) {
        out.push((number(pps), "packets/s relayed"));
        out.push((number(bps / 1e6), "Mbit/s relayed"));
    }
    if let (Some(pps), Some(bps)) = (a.egress_pps, a.egress_bps) {
        out.push((number(pps), "RTP packets/s that participants received"));
        out.push((number(bps / 1e6), "Mbit/s of RTP that they received"));
    }
    let bounds = (bounds.0, format!("participants {}: {}", a.on(), bounds.1));
    std::iter::once(bounds).chain(out.into_iter().map(|(value, label)| (value, label.to_owned()))).collect()
}

fn curves(a: &Answer, limits: &[(String, f64)]) -> Vec<Curve> {
    let valid: Vec<&TrialRow> = a.trials.iter().filter(|t| t.outcome != Outcome::Invalid).collect();
    let points = |pick: &dyn Fn(&ServerTrial) -> Option<f64>| -> Vec<(f64, f64)> {
        let mut all: Vec<(f64, f64)> = valid
            .iter()
            .filter_map(|t| Some((f64::from(t.participants), t.servers.iter().filter_map(pick).reduce(f64::max)?)))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        all
    };
    let line = |label: &'static str, color, pick: &dyn Fn(&ServerTrial) -> Option<f64>| Line {
        label,
        color,
        points: points(pick),
    };
    // Each in the colour of its line.
    let limit = |metrics: &[(&str, usize)]| -> Vec<Limit> {
        let of = |(metric, color): &(&str, usize)| {
            let (_, at) = limits.iter().find(|(l, _)| l == metric)?;
            Some(Limit { at: *at, color: Some(*color) })
        };
        metrics.iter().filter_map(of).collect()
    };
    let mut marks = Vec::new();
    let mut mark = |at: Option<f64>, label: &'static str, class: &'static str| {
        marks.extend(at.map(|at| Mark { at, label, class }));
    };
    mark(a.threshold.map(|t| f64::from(t.participants)), "scale out", "good");
    mark(a.lower.map(f64::from), "held", "good");
    mark(a.upper.map(f64::from), "broke", "bad");
    mark(a.knee.as_ref().map(|k| f64::from(k.participants)), "delay off its plateau", "soft");
    mark(a.cpu_trigger.and_then(|t| t.participants), "70 % CPU", "soft");
    let of = |title, what, unit, mut limits: Vec<Limit>, lines: Vec<Line>, all_marks: bool| {
        let lines: Vec<Line> = lines.into_iter().filter(|l| !l.points.is_empty()).collect();
        limits.retain(|l| l.color.is_none_or(|color| lines.iter().any(|l| l.color == color)));
        let kept = marks.iter().filter(|m| all_marks || m.class != "soft").cloned().collect();
        (!lines.is_empty()).then_some(Curve { title, what, unit, limits, lines, marks: kept })
    };
    let cost = |pick: fn(&crate::capacity::Cost) -> Option<f64>| move |s: &ServerTrial| s.cost.as_ref().and_then(pick);
    let all = [
        of(
            "Delay p99",
            "One way through the server, the slowest 1 % of packets, by load. A dashed line is the objective of its colour.",
            "ms",
            limit(&[("audio.delay.p99", 0), ("video.delay.p99", 1)]),
            vec![line("audio", 0, &|s| s.audio.delay_p99), line("video", 1, &|s| s.video.delay_p99)],
            true,
        ),
        of(
            "Broken participant-seconds",
            "Share of the trial in which a participant missed an objective, or was not there.",
            "%",
            Vec::new(),
            vec![line("broken", 3, &|s| Some(s.loss))],
            false,
        ),
        of(
            "CPU of the server",
            "Of the cores it may use, and its busiest thread of one core. The dashed line is a usual trigger.",
            "%",
            vec![Limit { at: CPU_TRIGGER, color: None }],
            vec![line("of its cores", 0, &cost(|c| c.cpu)), line("busiest thread", 2, &cost(|c| c.busiest_thread))],
            true,
        ),
        of(
            "What the server waited for",
            "Share of the time in which something waited for a CPU (PSI), the hypervisor took it, or the cgroup was throttled.",
            "%",
            Vec::new(),
            vec![
                line("pressure", 0, &cost(|c| c.cpu_pressure)),
                line("steal", 3, &cost(|c| c.steal)),
                line("throttled", 2, &cost(|c| c.throttled)),
            ],
            false,
        ),
        of(
            "Run queue of the server",
            "How many of its threads stood ready to run and had no core, on average.",
            "",
            Vec::new(),
            vec![line("waiting", 1, &cost(|c| c.run_queue))],
            false,
        ),
        of(
            "Memory of the server",
            "Resident, at most in the trial.",
            "MiB",
            Vec::new(),
            vec![line("memory", 0, &cost(|c| c.memory_bytes.map(|b| b / f64::from(1 << 20))))],
            false,
        ),
        of(
            "Set-up time p95",
            "Of the joins that led to this load.",
            "ms",
            limit(&[("setup.total.p95", 4)]),
            vec![line("set-up p95", 4, &|s| s.setup_p95)],
            false,
        ),
        of(
            "Loss",
            "From participant to participant.",
            "%",
            limit(&[("audio.loss", 0), ("video.loss", 1)]),
            vec![line("audio", 0, &|s| s.audio.loss), line("video", 1, &|s| s.video.loss)],
            false,
        ),
    ];
    all.into_iter().flatten().collect()
}

fn trials(a: &Answer) -> Markup {
    let ms = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), number);
    html! {
        h3 { "Trials" }
        div.scroll { table {
            thead { tr {
                th { } th.n { "participants" } th.n { "rooms" } th.n { "at" } th.n { "seconds" } th.n { "broken %" }
                th.n { "delay p99 ms" } th.n { "set-up p95 ms" } th.n { "joins/s" } th.n { "CPU %" } th { "why" }
            } }
            tbody { @for t in &a.trials {
                @let (class, mark) = match t.outcome {
                    Outcome::Held => ("pass", "✓"), Outcome::Broke => ("fail", "✗"), Outcome::Invalid => ("unknown", "?"),
                };
                @let worst = |pick: &dyn Fn(&ServerTrial) -> Option<f64>| t.servers.iter().filter_map(pick).reduce(f64::max);
                tr.(class) {
                    td.mark { span { (mark) } }
                    td.n { (t.participants) } td.n { (t.rooms) } td.n { (clock(t.from_ms)) }
                    td.n { (number((t.until_ms - t.from_ms) / 1000.0)) } td.n { (number(t.loss)) }
                    td.n { (ms(worst(&|s| s.audio.delay_p99.into_iter().chain(s.video.delay_p99).reduce(f64::max)))) }
                    td.n { (ms(worst(&|s| s.setup_p95))) } td.n { (ms(t.join_rate)) } td.n { (ms(worst(&|s| s.cost?.cpu))) }
                    td {
                        @if let Some(why) = &t.why { (why) }
                        @else if t.admission { "refused by the server's own limit" }
                        @else if t.outcome == Outcome::Broke { (t.what()) @if a.servers.len() > 1 { @if let Some(b) = t.broken.first() { " on " (b.server) } } }
                    }
                }
            } }
        } }
    }
}

fn spread(a: &Answer) -> Markup {
    let some = |v: Option<u32>| v.map_or_else(|| "–".to_owned(), |v| v.to_string());
    html! {
        @if a.servers.len() > 1 {
            h3 { "Each server by itself" }
            div.scroll { table {
                thead { tr { th { "server" } th.n { "held" } th.n { "broke" } th.n { "held in any trial" } th { "broke first" } } }
                tbody { @for s in &a.servers { tr {
                    td { (s.server) @if a.weakest.contains(&s.server) { " (weakest)" } }
                    td.n { (some(s.lower)) } td.n { (some(s.upper)) } td.n { (some(s.held)) } td { (s.broke_first.as_deref().unwrap_or("–")) }
                } } }
            } }
        }
    }
}

fn paste(a: &Answer) -> Markup {
    html! {
        @for (name, text) in files(a) { details { summary { code { (name) } } pre { (text) } } }
    }
}

/// Files to paste into an autoscaler's configuration.
pub(super) const FILES: [&str; 3] = ["capacity.env", "keda-scaledobject.yaml", "hpa.yaml"];

/// None of them without a threshold.
pub(super) fn files(a: &Answer) -> Vec<(&'static str, String)> {
    let (Some(t), Some(upper)) = (a.threshold, a.upper) else { return Vec::new() };
    let n = t.participants;
    let less = |n: u32, what: &str| if n > 0 { format!(" − {n} ({what})") } else { String::new() };
    let why = match t.answer {
        Some(_) if t.lost + t.growth > 0 => {
            format!(" = {}{}{}", t.capacity, less(t.lost, "lost servers"), less(t.growth, "growth"))
        }
        Some(_) => String::new(),
        None => ", with no headroom: there is no [answer]".to_owned(),
    };
    let head = format!("{SEARCH}{}–{upper} participants; scale out at {n}{why}.\n", t.capacity);
    let numbers = format!("{head}PARTICIPANTS_LOWER={}\nPARTICIPANTS_UPPER={upper}\nSCALE_OUT_AT={n}\n", t.capacity);
    let scaler = Scaler { head: &head, unit: "participants", at: f64::from(n), replicas: Replicas::of(t.answer) };
    let texts = [numbers, scaler.keda("sum(media_server_participants)"), scaler.hpa("media_server_participants")];
    FILES.into_iter().zip(texts).collect()
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
