//! `report.html`: one file that opens offline and explains itself to a colleague who never saw roomful.

use super::Summary;
use super::capacity;
use super::charts::{Charts, charts};
use super::scale_in;
use crate::profile::Op;
use crate::verdict::{Judgement, Outcome, Verdict, clock, number};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const CHART_JS: &str = include_str!("assets/uPlot.iife.min.js");
const CHART_CSS: &str = include_str!("assets/uPlot.min.css");
const CHART_LICENCE: &str = include_str!("assets/uPlot.LICENSE");
const PAGE_CSS: &str = include_str!("assets/report.css");
const PAGE_JS: &str = include_str!("assets/report.js");
/// Nothing is fetched from anywhere, whatever ends up in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// The whole page.
pub fn page(s: &Summary, j: &Judgement) -> String {
    let plots = charts(s, j);
    // `<` as an escape: no text in the data can close the script element.
    let data = serde_json::to_string(&plots).unwrap_or_else(|_| "{}".into()).replace('<', "\\u003c");
    let licence = CHART_LICENCE.replace("*/", "* /");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (s.verdict.as_str()) " · " (s.run.profile) " · roomful" }
                style { (PreEscaped(CHART_CSS)) (PreEscaped(PAGE_CSS)) }
            }
            body {
                main {
                    (banner(s))
                    (figures(s))
                    (capacity::section(s.capacity.as_ref(), &objectives(s)))
                    (scale_in::section(s.scale_in.as_ref()))
                    @if s.scale_in.is_none() || !s.pass.is_empty() { (limits(s)) }
                    (over_time(&plots))
                    (servers(s))
                    (super::relays::section(&s.relays))
                    (rooms(s))
                    (failures(s))
                    (generator(s))
                    (notes(s))
                    (about(s, j))
                }
                script type="application/json" id="data" { (PreEscaped(data)) }
                script { (PreEscaped(format!("/*\nuPlot\n{licence}*/\n{CHART_JS}"))) }
                script { (PreEscaped(PAGE_JS)) }
            }
        }
    }
    .into_string()
}

/// A page without plots over time: `body` is what is in its main part.
pub(super) fn bare(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(PAGE_CSS)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// Upper limits by metric.
fn objectives(s: &Summary) -> Vec<(String, f64)> {
    let upper = s.pass.iter().filter(|o| matches!(o.op, Op::Lt | Op::Le));
    upper.map(|o| (o.metric.clone(), o.limit)).collect()
}

fn banner(s: &Summary) -> Markup {
    let word = match s.verdict {
        Verdict::Pass => "Passed",
        Verdict::Fail => "Failed",
        Verdict::Unknown => "Not proven",
    };
    html! {
        header.banner.(s.verdict.as_str()) {
            p.word { (word) }
            h1 { (s.sentence) }
            p.meta {
                (s.run.profile) " · " (s.run.shape) " · " (s.run.started_at) " · " (clock(s.run.wall))
                @if s.run.interrupted { " · interrupted" }
                @if !s.run.ended { " · history without an end" }
            }
        }
    }
}

/// Where a limit stands, the number it was judged by, that of the worst server; else the run's.
fn figures(s: &Summary) -> Markup {
    let figure = |label: &str, metric: &str, value: Option<f64>, unit: &str| {
        let judged = s.pass.iter().find(|o| o.metric == metric);
        let legs = match metric {
            "audio.loss" => s.audio.media.lossy_legs_share,
            "video.loss" => s.video.media.lossy_legs_share,
            _ => None,
        };
        let value = judged.map_or(value, |o| o.value);
        let place = judged.and_then(|o| o.server.as_deref()).filter(|_| s.servers.len() > 1 && value != Some(0.0));
        html! {
            div.figure.(judged.map_or("", |o| o.verdict.as_str())) {
                span.value {
                    @if let Some(v) = value { (number(v)) small { (unit) } } @else { "–" }
                }
                span.label {
                    (label) @if let Some(place) = place { " " span.place { "on " (place) } }
                }
                @if let Some(share) = legs { br; span.label { "lossy legs " (number(share)) " %" } }
            }
        }
    };
    // Of a search, these are the joins of all loads, and the limit is held against those of one.
    let judged = s.pass.iter().filter(|_| s.capacity.is_none());
    let joins = judged.into_iter().find(|o| o.metric.starts_with("joins.failed"));
    html! {
        section.figures {
            div.figure.(joins.map_or("", |o| o.verdict.as_str())) {
                span.value { (s.participants.joined) small { " of " (s.participants.planned) } }
                span.label { "joined" }
            }
            (figure("dropped", "legs.dropped", s.legs.dropped.map(|n| n as f64), ""))
            (figure("audio loss", "audio.loss", s.audio.media.loss, " %"))
            (figure("video loss", "video.loss", s.video.media.loss, " %"))
            (figure("audio delay p99", "audio.delay.p99", s.audio.media.delay.p99, " ms"))
            (figure("video delay p99", "video.delay.p99", s.video.media.delay.p99, " ms"))
            (figure("freezes", "video.freezes", s.video.freezes, " /min"))
            @if let Some(paused) = s.video.paused.filter(|n| *n > 0) {
                (figure("senders no longer forwarded (last-N)", "video.paused", Some(paused as f64), ""))
            }
            @if let Some(switches) = s.video.layer_switches.filter(|n| *n > 0) {
                (figure("layer switches", "video.layer_switches", Some(switches as f64), ""))
            }
            @if let Some(steps) = s.video.steps {
                (figure("steps down", "video.steps.down", Some(steps.down as f64), ""))
                (figure("below bit rate", "video.steps.below_share", steps.below_share, " %"))
            }
            // A search has one for each load.
            @if s.capacity.is_none() { (figure("set-up p95", "setup.total.p95", s.setup.total.p95, " ms")) }
        }
    }
}

fn limits(s: &Summary) -> Markup {
    html! {
        section {
            h2 { "Limits" }
            p.what {
                "What the profile asks for. Each limit is held against every server by itself, and the worst server decides."
            }
            @if s.capacity.is_some() {
                p {
                    "These are of the load that held, or else of the last trial; of joins and legs the worst of its trials, and \
                     the joins that led to it."
                }
            }
            @if s.pass.is_empty() { @if s.capacity.is_none() { p { "The profile sets no limit." } } } @else {
                div.scroll { table {
                    thead { tr { th { } th { "limit" } th.n { "measured" } th { "server" } th.n { "to spare" } th { "broken" } } }
                    tbody { @for o in &s.pass { (limit_row(o)) } }
                } }
            }
            @if s.reasons.len() > 1 {
                ul { @for reason in &s.reasons { li { (reason) } } }
            }
        }
    }
}

fn limit_row(o: &Outcome) -> Markup {
    let unit = match o.unit {
        "ms" => " ms",
        "percent" => " %",
        "per minute" => " /min",
        "per second" => " /s",
        _ => "",
    };
    let mark = match o.verdict {
        Verdict::Pass => "✓",
        Verdict::Fail => "✗",
        Verdict::Unknown => "?",
    };
    html! {
        tr.(o.verdict.as_str()) {
            td.mark { span { (mark) } }
            td { code { (o.expr) } }
            td.n { @if let Some(v) = o.value { (number(v)) (unit) } @else { "no data" } }
            td { (o.server.as_deref().unwrap_or("whole run")) }
            td.n { @if let Some(m) = o.margin { (number(m)) " %" } @else { "–" } }
            td {
                @if let Some(w) = &o.window {
                    (clock(w.from_ms))
                    @if clock(w.from_ms) != clock(w.until_ms) { "–" (clock(w.until_ms)) }
                }
                @if let Some(n) = o.legs { ", " (n) " legs" }
                @if let Some(why) = &o.why { (why) }
            }
        }
    }
}

fn over_time(plots: &Charts) -> Markup {
    html! {
        section {
            h2 { "Over time" }
            p.what {
                "The run second by second; times are minutes and seconds since its start. The tinted part is the hold, the \
                 only part that is judged; striped seconds are inconclusive because roomful itself was unhealthy. Drag to \
                 zoom, double-click to zoom out, click a name to hide it."
                @if plots.seconds_a_point > 1 {
                    " Each point stands for " (plots.seconds_a_point) " s and shows the worst of them."
                }
                @if plots.servers_hidden > 0 {
                    " Only the worst servers are drawn; " (plots.servers_hidden) " more are in the table below."
                }
            }
            noscript { p { "The plots need JavaScript; it is in this file, nothing is fetched." } }
            div.charts {
                @for c in &plots.charts {
                    figure {
                        h3 { (c.title) }
                        p.what { (c.what) }
                        div.chart id=(c.id) { }
                    }
                }
            }
        }
    }
}

fn servers(s: &Summary) -> Markup {
    let n = |v: Option<f64>| html! { td.n { (v.map_or_else(|| "–".into(), number)) } };
    html! {
        section {
            h2 { "Servers" }
            p.what { "Each server over the whole hold; a dash means that there was nothing to measure." }
            div.scroll { table {
                thead {
                    tr {
                        th rowspan="2" { "server" } th.n rowspan="2" { "participants" } th.n rowspan="2" { "rooms" }
                        th.group colspan="6" { "audio" } th.group colspan="6" { "video" } th.group colspan="2" { "set-up ms" }
                    }
                    tr {
                        th.n { "loss %" } th.n { "lossy legs %" } th.n { "jitter p95 ms" } th.n { "delay p50 ms" } th.n { "p99 ms" }
                        th.n { "MOS p5" }
                        th.n { "loss %" } th.n { "lossy legs %" } th.n { "jitter p95 ms" } th.n { "delay p50 ms" } th.n { "p99 ms" } th.n { "freezes/min" }
                        th.n { "p50" } th.n { "p95" }
                    }
                }
                tbody { @for row in &s.servers {
                    tr {
                        td { (row.id) } td.n { (row.participants_max) } td.n { (row.rooms_max) }
                        @for (m, mos) in [(&row.audio.media, Some(&row.audio.mos)), (&row.video.media, None)] {
                            (n(m.loss)) (n(m.lossy_legs_share)) (n(m.jitter.p95)) (n(m.delay.p50)) (n(m.delay.p99))
                            @if let Some(mos) = mos { (n(mos.p5)) }
                        }
                        (n(row.video.freezes)) (n(row.setup.total.p50)) (n(row.setup.total.p95))
                    }
                } }
            } }
            p.what {
                "Loss is counted "
                @match s.audio.media.loss_source.or(s.video.media.loss_source) {
                    Some(crate::verdict::LossSource::E2e) => {
                        "from participant to participant, by stamps inside the media: what one sent against what each other received."
                    }
                    Some(crate::verdict::LossSource::Rtp) => {
                        "by RTP sequence numbers (RFC 3550), since no stamps came through: what was lost on the way into the server is not in it."
                    }
                    None => "nowhere: no media was expected."
                }
                " Lossy legs are those that lost more than the limit in any 10 s: what a mean hides."
                @if let Some(mos) = super::terminal::mos(&s.audio.mos) {
                    " " (mos) ". It is a model's opinion of loss and delay, and nothing is judged by it."
                }
                @let suites = &s.audio.media.suite;
                @if !suites.is_empty() {
                    " Encryption: "
                    @for (i, (suite, legs)) in suites.iter().enumerate() {
                        @if i > 0 { ", " } (suite) " (" (legs) " legs)"
                    }
                    "."
                }
            }
        }
    }
}

fn rooms(s: &Summary) -> Markup {
    let n = |v: Option<f64>| html! { td.n { (v.map_or_else(|| "–".into(), number)) } };
    html! {
        @if !s.rooms_worst.is_empty() {
            section {
                h2 { "Worst rooms" }
                p.what {
                    "The rooms that suffered most in the hold, by loss and then by the slowest packet. A server in trouble \
                     shows up as many rooms, one bad room more likely as its own."
                }
                div.scroll { table {
                    thead { tr {
                        th { "room" } th { "server" } th.n { "participants" } th.n { "audio loss %" } th.n { "lossy legs %" }
                        th.n { "video loss %" } th.n { "lossy legs %" }
                        th.n { "slowest packet ms" } th.n { "longest silence ms" } th.n { "freezes" }
                    } }
                    tbody { @for r in &s.rooms_worst {
                        tr {
                            td { (r.room) } td { (r.server.as_deref().unwrap_or("–")) } td.n { (r.participants_max) }
                            (n(r.audio_loss)) (n(r.audio_lossy_legs_share)) (n(r.video_loss)) (n(r.video_lossy_legs_share))
                            (n(r.delay_max)) (n(r.silence_max)) td.n { (r.freezes) }
                        }
                    } }
                } }
            }
        }
    }
}

fn failures(s: &Summary) -> Markup {
    html! {
        section {
            h2 { "Failed joins" }
            p.what { "Participants who tried to come in and could not, by reason." }
            @if s.failures.is_empty() { p { "None: " (s.participants.joined) " joined." } } @else {
                div.scroll { table {
                    thead { tr { th { "reason" } th.n { "count" } th { "servers" } th { "first of them" } } }
                    tbody { @for f in &s.failures {
                        tr {
                            td { code { (f.reason) } } td.n { (f.count) }
                            td { @for (i, (id, n)) in f.servers.iter().enumerate() { @if i > 0 { ", " } (id) " " (n) } }
                            td { (f.detail) }
                        }
                    } }
                } }
            }
        }
    }
}

fn generator(s: &Summary) -> Markup {
    let g = &s.generator;
    let n = |v: Option<f64>, unit: &str| v.map_or_else(|| "–".into(), |v| format!("{}{unit}", number(v)));
    html! {
        section {
            h2 { "Was it the server, or was it us?" }
            p.what {
                "Roomful watches itself. Seconds in which it was late or out of CPU count neither for nor against a server."
            }
            p {
                @if g.healthy { "The generator was healthy: " } @else { strong { "The generator was not healthy: " } }
                (n(g.inconclusive_share, " %")) " of the hold is inconclusive."
            }
            dl {
                dt { "CPU of the busiest shard, mean and most" } dd { (n(g.cpu, " %")) ", " (n(g.cpu_max, " %")) }
                dt { "CPU of the machine" } dd { (n(g.machine_cpu, " %")) }
                dt { "Stolen by the hypervisor, most" } dd { (n(g.steal_max, " %")) }
                dt { "A media thread waited for a core, most of a second" } dd { (n(g.waited_max, " %")) }
                dt { "Packets sent late by, p50 and p99" }
                dd { (n(g.send_lateness.p50, " ms")) ", " (n(g.send_lateness.p99, " ms")) }
                dt { "Media threads came round late by, p50 and p99" }
                dd { (n(g.timer_lateness.p50, " ms")) ", " (n(g.timer_lateness.p99, " ms")) }
                dt { "Reference flow past the servers: loss, delay p99, jitter" }
                dd {
                    (n(g.reference.loss, " %")) ", " (n(g.reference.delay.p99, " ms")) ", "
                    (n(g.reference.jitter_max, " ms"))
                }
                dt { "Datagrams dropped at our own sockets" } dd { (n(g.socket_drops.map(|d| d as f64), "")) }
                dt { "Sends that failed" } dd { (n(g.send_errors.map(|d| d as f64), "")) }
                @if let Some(udp) = g.udp_errors {
                    dt { "UDP errors of the machine: receiving, of these full buffers; sending" }
                    dd { (udp.receive) ", " (udp.receive_buffer) "; " (udp.send_buffer) }
                }
                dt { "Descriptors and UDP ports left" }
                dd {
                    (n(g.descriptors_left_min.map(|d| d as f64), "")) ", " (n(g.ports_left_min.map(|d| d as f64), ""))
                }
                dt { "Clock set by, most" } dd { (n(g.clock_step_max, " ms")) }
            }
            @if !g.reasons.is_empty() { ul { @for r in &g.reasons { li { (r) } } } }
        }
    }
}

fn notes(s: &Summary) -> Markup {
    html! {
        @if !s.notes.is_empty() {
            section {
                h2 { "Notes" }
                p.what { "What a reader of these numbers should know." }
                ul { @for note in &s.notes {
                    li { code { (note.code) } " " (note.text) @if note.count > 1 { " (" (note.count) " ×)" } }
                } }
            }
        }
    }
}

fn about(s: &Summary, j: &Judgement) -> Markup {
    let limits = serde_json::to_string_pretty(&s.limits).unwrap_or_default();
    html! {
        section {
            h2 { "About this run" }
            p.what { "All that is needed to run it again, and to judge it again: " code { "roomful report RUN_DIR" } "." }
            dl {
                dt { "Run" } dd { code { (s.run.id) } }
                dt { "Profile" } dd { (s.run.profile) ", " (s.run.shape) }
                dt { "Seed" } dd { code { (s.run.seed) } }
                dt { "Started" } dd { (s.run.started_at) }
                dt { "Judged" } dd { "from " (clock(s.run.hold.from_ms)) " to " (clock(s.run.hold.ended_ms)) }
                dt { "Tool" } dd { "roomful " (s.tool.version) }
            }
            details { summary { "Profile with every default" } pre { (j.run.resolved) } }
            details { summary { "Limits of the machine" } pre { (limits) } }
        }
    }
}
