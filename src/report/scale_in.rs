//! The scale-in part of a report: what was removed, each invariant with its evidence, a line of time for each server, and
//! the legs as bars.

use crate::verdict::scale_in::{Bar, Evidence, Invariant, ScaleIn, ServerLine, View};
use crate::verdict::{LegClass, Verdict, clock, number};
use maud::{Markup, html};

const WIDTH: f64 = 1180.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 14.0;
/// Of one server's curve, and of one leg's bar.
const LANE: f64 = 62.0;
const BAR: f64 = 9.0;
const TICKS: f64 = 8.0;

/// The section of the page; nothing for other shapes.
pub(super) fn section(scale_in: Option<&ScaleIn>) -> Markup {
    let Some(s) = scale_in else { return html! {} };
    html! {
        section {
            h2 { "Scale-in" }
            p.what {
                "Servers were to be taken away without ending anybody's call. Every call that was on such a server is at risk; "
                "each invariant says what must hold for it, for the fleet, and for everybody else."
            }
            div.figures { @for (value, label) in figures(s) { div.figure { span.value { (value) } span.label { (label) } } } }
            (removals(s))
            h3 { "Invariants" }
            (invariants(s))
            @for i in s.invariants.iter().filter(|i| i.judged && i.verdict == Verdict::Fail) { (broken(i)) }
        }
        section {
            h2 { "Servers over time" }
            p.what {
                "Legs on each server by our own count (filled) and by what the fleet says (dashed). Tinted: cordoned. Vertical "
                "lines: what was done to it."
            }
            (timeline(&s.view))
            h3 { "Legs" }
            p.what { "Each bar is one leg on its server, coloured by what became of it; the dark part is the evidence. Point at a bar to read it." }
            (legend(&s.view))
            (bars(&s.view))
            @if s.view.bars_left_out > 0 { p.what { (s.view.bars_left_out) " more legs, none of them worse, are left out." } }
        }
        (audit(s))
    }
}

fn figures(s: &ScaleIn) -> Vec<(String, &'static str)> {
    let time = |ms: Option<f64>| ms.map_or_else(|| "–".into(), short);
    vec![
        (s.exposed_legs.to_string(), "exposed legs"),
        (s.classes.get("clean").copied().unwrap_or(0).to_string(), "of all at risk clean"),
        (time(s.longest_gap), "longest gap"),
        (time(s.drain.max), "longest drain"),
        (s.flags.ghost.to_string(), "ghosts"),
    ]
}

/// `180 ms`, `14 s`, `11 min`.
fn short(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{} ms", number(ms)),
        ms if ms < 120_000.0 => format!("{} s", number(ms / 1000.0)),
        ms => format!("{} min", number(ms / 60_000.0)),
    }
}

fn removals(s: &ScaleIn) -> Markup {
    let at = |t: Option<f64>| t.map_or_else(|| "–".into(), clock);
    html! {
        @if s.removals.is_empty() { p { "No server was cordoned, terminated or gone." } } @else {
            div.scroll { table {
                thead { tr {
                    th { "server" } th.n { "cordoned" } th.n { "exposed legs" } th.n { "late joiners" } th.n { "last leave" }
                    th.n { "asked to end" } th.n { "ended" } th.n { "drain" } th.n { "uncordoned" }
                } }
                tbody { @for r in &s.removals {
                    tr {
                        td { (r.server) } td.n { (at(r.cordoned)) } td.n { (r.exposed) } td.n { (r.admitted) }
                        td.n { (at(r.last_leave)) }
                        td.n { (at(r.terminated)) @if r.killed { " (killed)" } }
                        td.n { (at(r.ended)) } td.n { (r.drain.map_or_else(|| "–".into(), short)) } td.n { (at(r.uncordoned)) }
                    }
                } }
            } }
        }
    }
}

fn invariants(s: &ScaleIn) -> Markup {
    let mark = |i: &Invariant| match (i.judged, i.verdict) {
        (false, _) => ("", "–"),
        (true, Verdict::Pass) => ("pass", "✓"),
        (true, Verdict::Fail) => ("fail", "✗"),
        (true, Verdict::Unknown) => ("unknown", "?"),
    };
    html! {
        div.scroll { table {
            thead { tr { th { } th { "invariant" } th { "holds" } th { "how we know" } } }
            tbody { @for i in &s.invariants {
                @let (class, sign) = mark(i);
                tr.(class) {
                    td.mark { @if i.judged { span { (sign) } } @else { (sign) } }
                    td { code { (i.id) } } td { (i.title) }
                    td {
                        @if i.judged && i.verdict == Verdict::Fail {
                            (i.evidence.first().map_or("", |e| e.what.as_str()))
                            @let more = i.evidence.len() as u64 + i.evidence_more;
                            @if more > 1 { " (and " (more - 1) " more)" }
                        } @else {
                            @if !i.judged { "not put to the test: " }
                            (i.why)
                        }
                    }
                }
            } }
        } }
    }
}

fn broken(i: &Invariant) -> Markup {
    html! {
        details open[i.evidence.len() <= 5] {
            summary { strong { (i.id) } " broken: " (i.title)
                @if i.evidence.len() > 1 { ", " (i.evidence.len()) " pieces of evidence" }
                @if i.evidence_more > 0 { " and " (i.evidence_more) " more" } }
            @for e in &i.evidence { (evidence(e)) }
        }
    }
}

fn evidence(e: &Evidence) -> Markup {
    html! {
        div.evidence {
            p { strong { (e.what) } }
            p { "On that call: " (e.noticed) "." }
            dl {
                dt { "when" } dd {
                    (clock(e.from_ms)) @if clock(e.from_ms) != clock(e.until_ms) { "–" (clock(e.until_ms)) }
                    " (" (number(e.from_ms / 1000.0)) " s, for " (short(e.until_ms - e.from_ms)) ")"
                }
                @if let Some(server) = &e.server { dt { "server" } dd { (server) } }
                @if !e.rooms.is_empty() { dt { "rooms" } dd { (e.rooms.join(", ")) } }
                @if !e.legs.is_empty() {
                    dt { "legs" } dd {
                        (e.legs.join(", "))
                        @if e.legs_total > e.legs.len() as u64 { " and " (e.legs_total - e.legs.len() as u64) " more" }
                    }
                }
                @if !e.lines.is_empty() {
                    dt { "history.jsonl, lines" }
                    dd { (e.lines.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")) }
                }
            }
        }
    }
}

struct Axis {
    until: f64,
}

impl Axis {
    fn x(&self, ms: f64) -> f64 {
        LEFT + (ms / self.until).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(&self) -> Vec<f64> {
        let steps =
            [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0];
        let seconds = self.until / 1000.0;
        let step = steps.into_iter().find(|s| seconds / s <= TICKS).unwrap_or(86_400.0) * 1000.0;
        (0..).map(|n| f64::from(n) * step).take_while(|t| *t <= self.until).collect()
    }

    fn draw(&self, height: f64) -> Markup {
        html! {
            @for t in self.ticks() {
                line.grid x1=(f(self.x(t))) x2=(f(self.x(t))) y1="0" y2=(f(height - 18.0)) {}
                text.axis x=(f(self.x(t))) y=(f(height - 5.0)) text-anchor="middle" { (clock(t)) }
            }
        }
    }
}

fn f(v: f64) -> String {
    format!("{v:.1}")
}

fn timeline(v: &View) -> Markup {
    let axis = Axis { until: v.until_ms.max(1.0) };
    let height = v.servers.len() as f64 * LANE + 24.0;
    let most = v.servers.iter().flat_map(|s| {
        let fleet = s.fleet.iter().flat_map(|(_, p)| p.iter().map(|p| p.1));
        s.ours.iter().map(|p| f64::from(p.1)).chain(fleet)
    });
    let most = most.fold(1.0, f64::max);
    html! {
        div.scroll { svg.curve.timeline viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" {
            title { "Legs on each server over time" }
            (axis.draw(height))
            @for (n, s) in v.servers.iter().enumerate() { (lane(s, n as f64 * LANE, most, &axis)) }
        } }
    }
}

fn lane(s: &ServerLine, top: f64, most: f64, axis: &Axis) -> Markup {
    let (head, foot) = (top + 16.0, top + LANE - 4.0);
    let y = |n: f64| foot - n / most * (foot - head);
    // Steps: a count holds until it changes.
    let steps = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        let (mut path, mut last) = (String::new(), 0.0);
        for (t, n) in points {
            let x = axis.x(t);
            let go = if path.is_empty() { "M" } else { "L" };
            path += &format!("{go}{x:.1} {:.1}L{x:.1} {:.1}", y(last), y(n));
            last = n;
        }
        if path.is_empty() { path } else { path + &format!("L{:.1} {:.1}", axis.x(axis.until), y(last)) }
    };
    let ours = steps(&mut s.ours.iter().map(|(t, n)| (*t, f64::from(*n))));
    let area = s.ours.first().map(|(t, _)| {
        format!("M{:.1} {foot:.1}{}L{:.1} {foot:.1}Z", axis.x(*t), ours.replacen('M', "L", 1), axis.x(axis.until))
    });
    let peak = s.ours.iter().map(|p| p.1).max().unwrap_or(0);
    html! {
        text.axis.name x="4" y=(f(top + 32.0)) { (s.name) }
        text.axis x="4" y=(f(top + 46.0)) { "at most " (peak) }
        @for w in &s.cordons {
            rect.cordoned x=(f(axis.x(w.from_ms))) width=(f((axis.x(w.until_ms) - axis.x(w.from_ms)).max(1.0))) y=(f(head)) height=(f(foot - head)) {
                title { "cordoned from " (clock(w.from_ms)) " to " (clock(w.until_ms)) }
            }
        }
        line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(f(foot)) y2=(f(foot)) {}
        @if let Some(area) = area { path.ours d=(area) {} }
        @if let Some((backend, points)) = &s.fleet {
            path.fleet d=(steps(&mut points.iter().copied())) { title { "by " (backend) } }
        }
        @for (n, (t, word)) in s.marks.iter().enumerate() {
            @let bad = matches!(*word, "kill" | "gone" | "terminate");
            line.(if bad { "at bad" } else { "at" }) x1=(f(axis.x(*t))) x2=(f(axis.x(*t))) y1=(f(head - 2.0)) y2=(f(foot)) {}
            @let x = axis.x(*t);
            text.(if bad { "axis bad" } else { "axis" }) x=(f(if x > WIDTH - 80.0 { x - 3.0 } else { x + 3.0 }))
                y=(f(head - 4.0 + if n % 2 == 1 { 10.0 } else { 0.0 })) text-anchor=(if x > WIDTH - 80.0 { "end" } else { "start" }) { (word.replace('_', " ")) }
        }
    }
}

fn class_of(b: &Bar) -> &'static str {
    b.class.map_or("open", LegClass::as_str)
}

fn legend(v: &View) -> Markup {
    let mut seen: Vec<(&str, u64)> = Vec::new();
    let order = LegClass::ALL.map(LegClass::as_str).into_iter().chain(["open"]);
    for class in order {
        let n = v.bars.iter().filter(|b| class_of(b) == class).count() as u64;
        if n > 0 {
            seen.push((class, n));
        }
    }
    html! {
        p.legend { @for (class, n) in seen { span.key.(class) {} " " (class.replace('_', " ")) " " (n) "  " } }
    }
}

fn bars(v: &View) -> Markup {
    let axis = Axis { until: v.until_ms.max(1.0) };
    // Each server's legs, and where its lane begins.
    let mut groups: Vec<(&str, f64, Vec<&Bar>)> = Vec::new();
    let mut height = 0.0;
    for bar in &v.bars {
        if groups.last().is_none_or(|(server, ..)| *server != bar.server) {
            height += if groups.is_empty() { 0.0 } else { 12.0 };
            groups.push((&bar.server, height, Vec::new()));
        }
        if let Some((.., all)) = groups.last_mut() {
            all.push(bar);
        }
        height += BAR;
    }
    height += 36.0;
    html! {
        div.scroll { svg.curve.bars viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" {
            title { "Legs by server" }
            (axis.draw(height))
            @for (server, top, all) in groups {
                text.axis.name x="4" y=(f(top + 12.0)) { (server) }
                @for (n, b) in all.iter().enumerate() { (bar(b, top + n as f64 * BAR + 4.0, &axis)) }
            }
        } }
    }
}

fn bar(b: &Bar, y: f64, axis: &Axis) -> Markup {
    let span = |from: f64, until: f64| (f(axis.x(from)), f((axis.x(until) - axis.x(from)).max(1.5)));
    let (x, width) = span(b.from_ms, b.until_ms);
    html! {
        rect.(class_of(b)).risk[b.at_risk] x=(x) width=(width) y=(f(y)) height=(f(BAR - 2.5)) {
            title { (b.leg) ", " (class_of(b).replace('_', " ")) ", " (clock(b.from_ms)) "–" (clock(b.until_ms)) ": " (b.noticed) }
        }
        @if let Some(w) = b.evidence {
            @let (x, width) = span(w.from_ms, w.until_ms);
            rect.evidence x=(x) width=(width) y=(f(y + 1.5)) height=(f(BAR - 5.5)) {}
        }
    }
}

fn audit(s: &ScaleIn) -> Markup {
    let a = &s.audit;
    let silent = a.exported.is_empty() && a.failed_looks.is_empty() && a.rooms_compared == 0;
    if silent && a.renamed.is_empty() && a.landings.compared == 0 && a.landings.alike.is_empty() {
        return html! {};
    }
    html! {
        section {
            h2 { "What the fleet says of itself" }
            p.what {
                "An autoscaler acts on exported numbers. Here they stand beside ours, as means over the looks at which both are "
                "known. Headroom stands beside our participants: as one falls the other is to rise."
            }
            div.scroll { table {
                thead { tr { th { "server" } th { "by" } th { "what" } th.n { "exported" } th.n { "ours" } th.n { "farthest apart" } th.n { "looks" } } }
                tbody { @for r in a.exported.iter().take(200) {
                    tr {
                        td { (r.server) } td { (r.backend) } td { (r.metric) } td.n { (number(r.exported)) } td.n { (number(r.ours)) }
                        td.n { (number(r.off_max)) } td.n { (r.looks) }
                    }
                } }
            } }
            ul {
                @if a.rooms_compared > 0 {
                    li { (a.rooms_compared) " entries of rooms compared with where their members were: " (a.rooms_elsewhere) " elsewhere, " (a.rooms_stale) " kept after their end." }
                }
                @for l in &a.failed_looks { li { (l.backend) " failed " (l.count) " times, first: " (l.error) ". These looks count as no answer, not as zero." } }
                @for r in &a.renamed { li { (r) } }
                @if a.landings.compared > 0 {
                    li { (a.landings.compared) " legs told by the certificate or address that their media met: " (a.landings.elsewhere.iter().map(|e| e.legs).sum::<u64>()) " on another server than was said." }
                }
                @for e in &a.landings.elsewhere { li { (e.legs) " of " (e.server) " (first " (e.first) ") met the " (e.by) " of " (e.met) "." } }
                @for l in &a.landings.alike { li { (l) } }
            }
        }
    }
}
