//! What a matrix of mixes looks like: a table, a plot of how far each unit's values lie apart, and what to paste.

use super::paste::{MIXES, Replicas, Scaler};
use super::terminal::Paint;
use crate::capacity::{Matrix, MixRow, Unit};
use crate::profile::Mix;
use crate::verdict::{Verdict, number};
use maud::{Markup, html};
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 8.0;
const ROW: f64 = 34.0;
const AXIS: f64 = 24.0;
/// Colours of dots; further mixes begin again.
const COLORS: usize = 5;

fn bounds(m: &MixRow) -> String {
    let side = |v: Option<u32>| v.map_or_else(|| "?".to_owned(), |v| v.to_string());
    format!("{}–{}", side(m.lower), side(m.upper))
}

/// A column's name.
fn head(unit: Unit) -> &'static str {
    match unit {
        Unit::Participants => "participants",
        Unit::Streams => "streams",
        Unit::EgressPps => "egress packets/s",
        Unit::EgressBps => "egress Mbit/s",
        Unit::Allocations => "allocations",
        Unit::RelayedPps => "packets/s relayed",
        Unit::RelayedBps => "Mbit/s relayed",
    }
}

fn cell(m: &MixRow, unit: Unit) -> String {
    match unit {
        Unit::Participants => bounds(m),
        Unit::EgressBps | Unit::RelayedBps => unit.of(m).map_or_else(|| "–".into(), |b| number(b / 1e6)),
        _ => unit.of(m).map_or_else(|| "–".into(), |v| v.round().to_string()),
    }
}

fn percent(v: Option<f64>) -> String {
    v.map_or_else(|| "–".into(), |v| format!("{} %", number(v)))
}

fn variation(m: &Matrix, unit: Unit) -> String {
    percent(m.units.iter().find(|u| u.unit == unit).and_then(|u| u.variation))
}

/// For a terminal.
pub(super) fn table(m: &Matrix, paint: Paint) -> String {
    let units = m.columns();
    let around =
        |first: &str, cells: Vec<String>, last: [String; 3]| [vec![first.to_owned()], cells, last.to_vec()].concat();
    let last = ["CPU %", "scale out at", "broke first"].map(str::to_owned);
    let mut rows = vec![around("mix", units.iter().map(|u| head(*u).to_owned()).collect(), last)];
    for mix in &m.mixes {
        let first = mix.broke_first.clone().unwrap_or_else(|| mix.sentence.clone());
        let last = [
            mix.cpu.map_or_else(|| "–".into(), number),
            mix.scale_out_at.map_or_else(|| "–".into(), |n| n.to_string()),
            super::terminal::printable(&first),
        ];
        rows.push(around(&mix.name, units.iter().map(|u| cell(mix, *u)).collect(), last));
    }
    rows.push(around("varies", units.iter().map(|u| variation(m, *u)).collect(), Default::default()));
    let columns = units.len() + 4;
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (c, cell) in row.iter().enumerate().skip(1) {
            // Writing to a String cannot fail.
            let _ = match c {
                _ if c + 1 == columns => write!(line, "  {cell}"),
                _ => write!(line, "  {cell:>w$}", w = widths[c]),
            };
        }
        let line = line.trim_end();
        let _ = writeln!(out, "{}", if i == 0 { paint.with("1", line) } else { line.to_owned() });
    }
    out.push('\n');
    out
}

pub(super) fn section(m: &Matrix) -> Markup {
    let units = m.columns();
    html! {
        section {
            h2 { "What to scale on" }
            p.what {
                "Each mix of rooms has a capacity of its own. A unit whose amount at breakage is the same whatever the mix is "
                "what an autoscaler can count on; one that varies is a number for one mix only. Amounts are those of one "
                "server at the highest load that held, the last before it broke: streams by the plan, egress as the RTP that "
                "participants received from it; variation is their standard deviation over "
                "the mixes, in percent of their mean. Bounds are up to " (number(m.width)) " % apart (a search's width, or one "
                "room where that is more), so smaller differences of variation mean nothing."
            }
            (plot(m))
            div.scroll { table {
                thead { tr {
                    th { } th { "mix" } @for unit in &units { th.n { (head(*unit)) } }
                    th.n { "CPU where it broke" } th.n { "scale out at" } th { "broke first" }
                } }
                tbody {
                    @for mix in &m.mixes {
                        @let mark = match mix.verdict { Verdict::Pass => "✓", Verdict::Fail => "✗", Verdict::Unknown => "?" };
                        tr.(mix.verdict.as_str()) {
                            td.mark { span { (mark) } }
                            td { (mix.name) } @for unit in &units { td.n { (cell(mix, *unit)) } } td.n { (percent(mix.cpu)) }
                            td.n { @if let Some(n) = mix.scale_out_at { (n) } @else { "–" } }
                            td { (mix.broke_first.as_deref().unwrap_or(&mix.sentence)) }
                        }
                    }
                    tr {
                        td { } td { b { "varies" } }
                        @for unit in &units { td.n { b { (variation(m, *unit)) } } }
                        td { } td { } td { }
                    }
                }
            } }
            @for (name, text) in files(m) { details { summary { code { (name) } } pre { (text) } } }
        }
    }
}

/// Each unit a line: where the mixes lie, in percent of the most that any of them has.
fn plot(m: &Matrix) -> Markup {
    let height = TOP + ROW * m.units.len() as f64 + AXIS;
    let x = |share: f64| LEFT + share * (WIDTH - LEFT - RIGHT);
    let bounded: Vec<(usize, &MixRow)> = m.mixes.iter().enumerate().filter(|(_, m)| m.bounded).collect();
    html! {
        @if bounded.len() > 1 {
            svg.curve.units viewBox=(format!("0 0 {WIDTH} {height}")) role="img" {
                title { "Amounts at breakage by unit, each mix a dot" }
                @for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
                    line.grid x1=(x(share)) x2=(x(share)) y1=(TOP) y2=(height - AXIS) {}
                    text.axis x=(x(share)) y=(height - 8.0) text-anchor="middle" { (number(share * 100.0)) " %" }
                }
                @for (i, u) in m.units.iter().enumerate() {
                    @let y = TOP + ROW * (i as f64 + 0.5);
                    @let most = u.most.filter(|m| *m > 0.0).unwrap_or(1.0);
                    text.axis.name x=(LEFT - 12.0) y=(y + 4.0) text-anchor="end" { (u.unit.words()) }
                    line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y) y2=(y) {}
                    @if let (Some(least), Some(_)) = (u.least, u.most) {
                        line.(if m.scale_on == Some(u.unit) { "span good" } else { "span" })
                            x1=(x(least / most)) x2=(x(1.0)) y1=(y) y2=(y) {}
                    }
                    @for (k, mix) in &bounded {
                        @if let Some(v) = u.unit.of(mix) {
                            circle.(format!("dot c{}", k % COLORS)) cx=(x(v / most)) cy=(y) r="5" {
                                title { (mix.name) ": " (u.unit.amount(v)) }
                            }
                        }
                    }
                    text.axis x=(WIDTH - RIGHT + 12.0) y=(y + 4.0) { "varies " (percent(u.variation)) }
                }
            }
            p.legend {
                @for (k, mix) in &bounded { span.(format!("c{}", k % COLORS)) { "● " } (mix.name) " \u{2003}" }
                "each at breakage, in percent of the most of any mix"
            }
        }
    }
}

/// Files to paste into an autoscaler's configuration.
pub(super) const FILES: [&str; 2] = ["scale-on.env", "scale-on-keda.yaml"];

/// None of them without a threshold that holds for all mixes.
pub(super) fn files(m: &Matrix) -> Vec<(&'static str, String)> {
    let (Some(unit), Some(at)) = (m.scale_on, m.scale_out_at) else { return Vec::new() };
    let names: Vec<&str> = m.mixes.iter().map(|m| m.name.as_str()).collect();
    let headroom = if m.answer.is_some() { "headroom taken off" } else { "with no headroom: there is no [answer]" };
    let head = format!(
        "{MIXES}{} vary least over the mixes {}: {}. Scale out at {} per server,\n# the least of the mixes, {headroom}.\n",
        unit.words(),
        names.join(", "),
        variation(m, unit),
        unit.amount(at)
    );
    let mut env = format!("{head}SCALE_ON={}\nSCALE_OUT_AT={at}\n", unit.as_str());
    for mix in &m.mixes {
        let name = Mix::variable(&mix.name);
        let amount = unit.of(mix).map_or_else(String::new, |v| v.round().to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(env, "AT_BREAKAGE_{name}={amount}");
    }
    let query = match unit {
        Unit::Participants => "sum(media_server_participants)",
        Unit::Streams => "sum(media_server_streams_sent)",
        Unit::EgressPps => "sum(rate(media_server_rtp_packets_sent_total[1m]))",
        Unit::EgressBps => "sum(rate(media_server_rtp_bytes_sent_total[1m])) * 8",
        Unit::Allocations => "sum(turn_server_allocations)",
        Unit::RelayedPps => "sum(rate(turn_server_packets_relayed_total[1m]))",
        Unit::RelayedBps => "sum(rate(turn_server_bytes_relayed_total[1m])) * 8",
    };
    let scaler = Scaler { head: &head, unit: unit.words(), at, replicas: Replicas::of(m.answer) };
    FILES.into_iter().zip([env, scaler.keda(query)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(name: &str, lower: u32, pps: f64) -> MixRow {
        MixRow {
            name: name.into(),
            verdict: Verdict::Pass,
            sentence: "found".into(),
            bounded: true,
            lower: Some(lower),
            upper: Some(lower + 4),
            streams: Some(f64::from(lower) * 3.0),
            egress_pps: Some(pps),
            egress_bps: Some(pps * 960.0),
            allocations: None,
            relayed_pps: None,
            relayed_bps: None,
            cpu: Some(97.5),
            broke_first: Some("audio.delay.p99 <= 80ms".into()),
            scale_out_at: Some(lower / 2),
        }
    }

    #[test]
    fn table_page_and_files_say_the_same() {
        let m = Matrix::of(vec![mix("calls", 200, 10_000.0), mix("big-rooms", 60, 10_100.0)], 0.05, None);
        let text = table(&m, Paint::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("calls") && lines[1].contains("200–204") && lines[1].contains("10000"), "{text}");
        assert!(lines[3].starts_with("varies") && lines[3].contains("0.7 %"), "{text}");
        let page = section(&m).into_string();
        for part in ["class=\"curve units\"", "varies 0.7 %", "big-rooms", "97.5 %", "scale-on.env"] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("NaN"), "{page}");
        let all = files(&m);
        // Half of it, by the headroom, of the mix that has less of it.
        assert!(all[0].1.contains("SCALE_ON=egress_pps\nSCALE_OUT_AT=5000\nAT_BREAKAGE_CALLS=10000\n"), "{}", all[0].1);
        assert!(all[0].1.contains("AT_BREAKAGE_BIG_ROOMS=10100\n"), "{}", all[0].1);
        assert!(
            all[1].1.contains("threshold: \"4545\"") && all[1].1.contains("rate(media_server_rtp_packets_sent_total")
        );
        assert!(all.iter().all(|(_, text)| text.lines().take(2).all(|l| l.starts_with('#'))));
    }

    #[test]
    fn one_mix_without_bounds_leaves_nothing_to_paste() {
        let mut open = mix("calls", 200, 10_000.0);
        (open.bounded, open.upper, open.verdict) = (false, None, Verdict::Unknown);
        let m = Matrix::of(vec![open, mix("big", 60, 1.0), mix("small", 60, 2.0)], 0.05, None);
        assert_eq!(files(&m), []);
        assert!(table(&m, Paint::Plain).contains("200–?"));
        let none = Matrix::of(vec![mix("only", 8, 1.0)], 0.05, None);
        assert!(!section(&none).into_string().contains("<svg"), "nothing to draw");
    }

    #[test]
    fn the_scaler_has_bounds_of_its_own() {
        let all = || vec![mix("calls", 200, 10_000.0), mix("meetings", 60, 10_100.0)];
        let answer = crate::profile::Headroom { servers: 12, survive: 1, growth: 0.0, boot: std::time::Duration::ZERO };
        let m = Matrix::of(all(), 0.05, Some(answer));
        let keda = &files(&m)[1].1;
        assert!(keda.contains("# the least of the mixes, headroom taken off.\n"), "{keda}");
        let keda = super::super::paste::tests::yaml(keda);
        let spec = &keda["spec"];
        assert_eq!((&keda["apiVersion"], &keda["kind"]), (&"keda.sh/v1alpha1".into(), &"ScaledObject".into()));
        assert_eq!((&spec["minReplicaCount"], &spec["maxReplicaCount"]), (&2.into(), &24.into()));
        let trigger = &spec["triggers"][0]["metadata"];
        assert_eq!(trigger["query"], "sum(rate(media_server_rtp_packets_sent_total[1m]))");
        assert_eq!(trigger["threshold"], "4545");
        // Never none at all; the most is the reader's to say.
        let keda = &files(&Matrix::of(all(), 0.05, None))[1].1;
        assert!(keda.contains("# the least of the mixes, with no headroom: there is no [answer].\n"), "{keda}");
        let spec = &super::super::paste::tests::yaml(keda)["spec"];
        assert_eq!((&spec["minReplicaCount"], spec.get("maxReplicaCount")), (&1.into(), None));
    }
}
