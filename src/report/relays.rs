//! Who came by TURN servers: what these gave and refused, and how media fared on each kind of way.

use crate::verdict::{PathMetrics, RelayRow, Relays, number};
use maud::{Markup, html};
use std::fmt::Write as _;

fn refusals(r: &RelayRow) -> String {
    let each = r.refused.iter().map(|(code, of)| {
        let code = if *code == 0 { "no code".to_owned() } else { code.to_string() };
        format!("{} × {code} {}", of.count, of.reason).trim().to_owned()
    });
    each.collect::<Vec<_>>().join(", ")
}

fn paths(r: &Relays) -> impl Iterator<Item = (&'static str, &PathMetrics)> {
    [("direct", &r.direct), ("relayed", &r.relayed)].into_iter().filter_map(|(name, p)| Some((name, p.as_ref()?)))
}

/// The section of `report.html`; nothing where nobody was relayed.
pub(super) fn section(r: &Relays) -> Markup {
    let n = |v: Option<f64>| html! { td.n { (v.map_or_else(|| "–".into(), number)) } };
    html! {
        @if !r.servers.is_empty() {
            section {
                h2 { "TURN servers" }
                p.what {
                    (r.participants.unwrap_or(0)) " participants came by a TURN server and had no other way. An allocation is \
                     lost when its server has it no more before it was given back; what is neither lost, given back nor left \
                     on purpose was still there at the end. Packets and bits are what a server relayed over the hold, both \
                     ways, without TURN's own; what goes from one allocation to another is relayed twice. Inconclusive is what \
                     roomful was itself too busy to time, or to hear an answer to."
                }
                div.scroll { table {
                    thead { tr {
                        th { "server" } th { "over" } th.n { "asked" } th.n { "given" } th.n { "most at once" }
                        th.n { "p50 ms" } th.n { "p95 ms" } th.n { "packets/s" } th.n { "Mbit/s" } th.n { "no answer" } th.n { "redirected" } th.n { "lost" }
                        th.n { "given back" } th.n { "left" } th.n { "inconclusive" } th { "refused" }
                    } }
                    tbody { @for s in &r.servers {
                        tr {
                            td { (s.id) } td { (s.via) } td.n { (s.asked) } td.n { (s.allocated) } td.n { (s.open_max) }
                            (n(s.latency.p50)) (n(s.latency.p95)) (n(s.pps)) (n(s.bps.map(|b| b / 1e6)))
                            td.n { (s.unreachable) } td.n { (s.redirected) }
                            td.n { (s.lost) } td.n { (s.released) } td.n { (s.abandoned) } td.n { (s.inconclusive) }
                            td { (refusals(s)) }
                        }
                    } }
                } }
                @if r.relayed.is_some() {
                    p.what { "Media over the whole hold, by how the receiver is reached. Who sent it may be on either side." }
                    div.scroll { table {
                        thead {
                            tr {
                                th rowspan="2" { "receivers" } th.group colspan="4" { "audio" } th.group colspan="4" { "video" }
                            }
                            tr {
                                @for _ in 0..2 { th.n { "loss %" } th.n { "jitter p95 ms" } th.n { "delay p50 ms" } th.n { "p99 ms" } }
                            }
                        }
                        tbody { @for (name, p) in paths(r) {
                            tr {
                                td { (name) }
                                @for m in [&p.audio.media, &p.video.media] {
                                    (n(m.loss)) (n(m.jitter.p95)) (n(m.delay.p50)) (n(m.delay.p99))
                                }
                            }
                        } }
                    } }
                }
            }
        }
    }
}

/// The same for a terminal.
pub(super) fn table(r: &Relays, bold: impl Fn(&str) -> String, out: &mut String) {
    if r.servers.is_empty() {
        return;
    }
    let cell = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), number);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{}",
        bold(
            "TURN server   over  asked  given  most at once  p95 ms  packets/s  Mbit/s  no answer  lost  given back  refused"
        )
    );
    for s in &r.servers {
        let _ = writeln!(
            out,
            "{:<12}  {:>4}  {:>5}  {:>5}  {:>12}  {:>6}  {:>9}  {:>6}  {:>9}  {:>4}  {:>10}  {}",
            super::terminal::printable(&s.id),
            s.via.as_str(),
            s.asked,
            s.allocated,
            s.open_max,
            cell(s.latency.p95),
            cell(s.pps),
            cell(s.bps.map(|b| b / 1e6)),
            s.unreachable,
            s.lost,
            s.released,
            super::terminal::printable(&refusals(s))
        );
    }
    for (name, p) in paths(r) {
        for (kind, m) in [("audio", &p.audio.media), ("video", &p.video.media)] {
            if m.loss.is_some() {
                let _ = writeln!(
                    out,
                    "{name:<8} {kind}: loss {} %, jitter p95 {} ms, delay p50 {} ms, p99 {} ms",
                    cell(m.loss),
                    cell(m.jitter.p95),
                    cell(m.delay.p50),
                    cell(m.delay.p99)
                );
            }
        }
    }
    out.push('\n');
}
