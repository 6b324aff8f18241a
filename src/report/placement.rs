//! The same rooms under two placements: what the difference costs.

use super::Summary;
use super::series::{Part, RunRow};
use super::terminal::Paint;
use crate::capacity::{Answer, Outcome, ServerTrial, TrialRow};
use crate::types::Kind;
use crate::verdict::{Verdict, number};
use maud::{Markup, html};
use serde::Serialize;
use std::fmt::Write;

/// `placement` in the `summary.json` of a series.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// Names of the two runs.
    pub names: [String; 2],
    /// Shape capacity: the highest load (participants on a server) that held under both; delay, CPU and traffic are those there.
    pub at_load: Option<u32>,
    pub rows: Vec<Delta>,
}

/// One measure in both runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Delta {
    pub what: String,
    pub unit: &'static str,
    pub values: [Option<f64>; 2],
    pub change: Option<f64>,
    /// Of the first one.
    pub change_percent: Option<f64>,
}

impl Delta {
    fn of(what: impl Into<String>, unit: &'static str, values: [Option<f64>; 2]) -> Delta {
        let change = values[0].zip(values[1]).map(|(a, b)| b - a);
        let change_percent = change.zip(values[0]).filter(|(_, a)| *a != 0.0).map(|(c, a)| c / a * 100.0);
        let tidy = |v: Option<f64>| v.map(|v| (v * 1e4).round() / 1e4);
        Delta {
            what: what.into(),
            unit,
            values: values.map(tidy),
            change: tidy(change),
            change_percent: tidy(change_percent),
        }
    }

    fn known(&self) -> bool {
        self.values.iter().any(Option::is_some)
    }

    /// What a split is known to cost; the rest is in the table.
    fn is_headline(&self) -> bool {
        ["delay", "loss", "between servers", "to others", "that a server carries", "CPU"]
            .iter()
            .any(|w| self.what.contains(w))
    }

    /// `audio delay p50 0.3 → 0.6 ms`.
    fn words(&self) -> Option<String> {
        let (a, b) = self.values[0].zip(self.values[1])?;
        Some(format!("{} {} → {}{}", self.what, number(a), number(b), self.unit))
    }
}

impl Comparison {
    /// Of two runs; one that was not made has no values.
    pub fn of(parts: &[Part]) -> Comparison {
        let part = |i: usize| parts.get(i).and_then(|p| p.summary.as_ref());
        let names = [0, 1].map(|i| parts.get(i).map_or_else(String::new, |p| p.name.clone()));
        let both = [part(0), part(1)];
        let answers = both.map(|s| s.and_then(|s| s.capacity.as_ref()));
        let (at_load, rows) = match answers {
            [None, None] => (None, steady(both)),
            _ => capacity(answers),
        };
        Comparison { names, at_load, rows: rows.into_iter().filter(Delta::known).collect() }
    }

    pub(super) fn verdict(&self, runs: &[RunRow]) -> (Verdict, String) {
        let spoilt = [Verdict::Fail, Verdict::Unknown].into_iter().find_map(|v| runs.iter().find(|r| r.verdict == v));
        let rows = self.rows.iter().filter(|r| r.is_headline() && r.change != Some(0.0));
        let told: Vec<String> = rows.filter_map(Delta::words).collect();
        let load = self.at_load.map_or_else(String::new, |n| format!(" (delay and cost at {n} participants a server)"));
        let what = match told.is_empty() {
            true => format!("{} and {}: nothing to compare", self.names[0], self.names[1]),
            false => format!("From {} to {}: {}{load}", self.names[0], self.names[1], told.join(", ")),
        };
        match spoilt {
            None => (Verdict::Pass, what + "."),
            Some(run) => (run.verdict, format!("{what}. But {}: {}", run.name, run.sentence)),
        }
    }
}

fn steady(both: [Option<&Summary>; 2]) -> Vec<Delta> {
    let each = |f: &dyn Fn(&Summary) -> Option<f64>| both.map(|s| s.and_then(f));
    let mut rows = Vec::new();
    for kind in Kind::BOTH {
        let m = |s: &Summary| if kind == Kind::Audio { s.audio.media.clone() } else { s.video.media.clone() };
        rows.push(Delta::of(format!("{kind} delay p50"), " ms", each(&|s| m(s).delay.p50)));
        rows.push(Delta::of(format!("{kind} delay p99"), " ms", each(&|s| m(s).delay.p99)));
        rows.push(Delta::of(format!("{kind} loss"), " %", each(&|s| m(s).loss)));
    }
    rows.push(Delta::of("set-up p95", " ms", each(&|s| s.setup.total.p95)));
    let used = |f: fn(&crate::verdict::FleetUse) -> Option<f64>| each(&|s| s.usage.as_ref().and_then(f));
    rows.push(Delta::of("between servers", " packets/s", used(|u| u.cascade_pps)));
    rows.push(Delta::of("between servers", " Mbit/s", used(|u| u.cascade_bps.map(|b| b / 1e6))));
    rows.push(Delta::of("sent by servers to participants", " packets/s", used(|u| u.egress_pps)));
    rows.push(Delta::of("CPU of the servers", " cores", used(|u| u.cpu_cores)));
    rows.push(Delta::of("memory of the servers", " MB", used(|u| u.memory_bytes.map(|b| b / 1e6))));
    rows
}

fn capacity(answers: [Option<&Answer>; 2]) -> (Option<u32>, Vec<Delta>) {
    let each = |f: &dyn Fn(&Answer) -> Option<f64>| answers.map(|a| a.and_then(f));
    let whole = |v: Option<u32>| v.map(f64::from);
    let mut rows = vec![
        Delta::of("participants that a server carries", "", each(&|a| whole(a.lower))),
        Delta::of("participants that break it", "", each(&|a| whole(a.upper))),
        Delta::of("scale out at", "", each(&|a| whole(a.threshold.map(|t| t.participants)))),
    ];
    let at_load = answers[0].zip(answers[1]).and_then(|(a, b)| {
        let loads = a.trials.iter().filter(|t| t.outcome == Outcome::Held).map(|t| t.participants);
        loads.filter(|load| longest(b, *load).is_some()).max()
    });
    let Some(load) = at_load else { return (None, rows) };
    let worst = |f: &dyn Fn(&ServerTrial) -> Option<f64>| {
        each(&|a| longest(a, load)?.servers.iter().filter_map(f).reduce(f64::max))
    };
    for kind in Kind::BOTH {
        let of = move |s: &ServerTrial| if kind == Kind::Audio { s.audio } else { s.video };
        rows.push(Delta::of(format!("{kind} delay p50"), " ms", worst(&|s| of(s).delay_p50)));
        rows.push(Delta::of(format!("{kind} delay p99"), " ms", worst(&|s| of(s).delay_p99)));
        rows.push(Delta::of(format!("{kind} loss"), " %", worst(&|s| of(s).loss)));
    }
    rows.push(Delta::of("set-up p95", " ms", worst(&|s| s.setup_p95)));
    rows.push(Delta::of("each server to others", " packets/s", worst(&|s| s.cost?.cascade_pps)));
    rows.push(Delta::of("each server to others", " Mbit/s", worst(&|s| Some(s.cost?.cascade_bps? / 1e6))));
    rows.push(Delta::of("CPU of a server", " %", worst(&|s| s.cost?.cpu)));
    (at_load, rows)
}

/// The longest trial of a load that held.
fn longest(a: &Answer, load: u32) -> Option<&TrialRow> {
    let at = a.trials.iter().filter(|t| t.participants == load && t.outcome == Outcome::Held);
    at.max_by(|a, b| (a.until_ms - a.from_ms).total_cmp(&(b.until_ms - b.from_ms)))
}

fn cells(d: &Delta) -> [String; 4] {
    let value = |v: Option<f64>| v.map_or_else(|| "–".into(), number);
    let signed = |v: f64| if v > 0.0 { format!("+{}", number(v)) } else { number(v).replace('-', "−") };
    [
        value(d.values[0]),
        value(d.values[1]),
        d.change.map_or_else(|| "–".into(), signed),
        d.change_percent.map_or_else(|| "–".into(), |v| format!("{} %", signed(v))),
    ]
}

fn label(d: &Delta) -> String {
    match d.unit.trim() {
        "" => d.what.clone(),
        unit => format!("{}, {unit}", d.what),
    }
}

/// For a terminal.
pub(super) fn table(c: &Comparison, paint: Paint) -> String {
    let mut rows = vec![[String::new(), c.names[0].clone(), c.names[1].clone(), "change".into(), String::new()]];
    for d in &c.rows {
        let [a, b, change, percent] = cells(d);
        rows.push([label(d), a, b, change, percent]);
    }
    let widths: [usize; 5] = std::array::from_fn(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            // Writing to a String cannot fail.
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(out, "{}", if i == 0 { paint.with("1", &line) } else { line });
    }
    out.push('\n');
    out
}

pub(super) fn section(c: &Comparison) -> Markup {
    html! {
        section {
            h2 { "What the placement costs" }
            p.what {
                "The same rooms twice: affinity has all participants of a room on one server; spread has them in turn on all "
                "servers, which hand the room's media to each other, so that every packet that crosses is forwarded twice."
                @if let Some(load) = c.at_load {
                    " Delay, loss, CPU and traffic are those at " (load) " participants a server, the highest load that held under both."
                }
            }
            div.scroll { table {
                thead { tr { th { } th.n { (c.names[0]) } th.n { (c.names[1]) } th.n { "change" } th.n { } } }
                tbody { @for d in &c.rows {
                    tr { td { (label(d)) } @for cell in cells(d) { td.n { (cell) } } }
                } }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::summary;
    use super::*;
    use crate::history::synthetic::Synthetic;
    use crate::verdict::FleetUse;

    fn part(name: &str, run: &Synthetic, pps: Option<f64>) -> Part {
        let mut s = summary(run, &[]);
        s.usage = pps.map(|pps| FleetUse { servers: 2, cascade_pps: Some(pps), ..FleetUse::default() });
        Part { name: name.into(), summary: Some(s) }
    }

    #[test]
    fn what_changes_is_said_and_what_nobody_saw_is_not() {
        let near = part("affinity", &Synthetic::default(), Some(0.0));
        let far = Synthetic { delay: Some((0, 0..1000, 40.0)), loss: Some((1, 12..14, 0.1)), ..Synthetic::default() };
        let c = Comparison::of(&[near, part("spread", &far, Some(800.0))]);
        let row = |what: &str, unit: &str| c.rows.iter().find(|r| r.what == what && r.unit.trim() == unit);
        let between = row("between servers", "packets/s").unwrap();
        assert_eq!((between.values, between.change), ([Some(0.0), Some(800.0)], Some(800.0)));
        assert_eq!(between.change_percent, None, "of nothing");
        assert!(row("audio delay p99", "ms").unwrap().change.unwrap() > 10.0, "{:#?}", c.rows);
        assert_eq!(row("CPU of the servers", "cores"), None);
        let run = |verdict| RunRow { name: "spread".into(), verdict, sentence: "It broke.".into() };
        let (verdict, sentence) = c.verdict(&[run(Verdict::Pass), run(Verdict::Pass)]);
        assert_eq!(verdict, Verdict::Pass);
        assert!(sentence.contains("between servers 0 → 800 packets/s") && sentence.ends_with('.'), "{sentence}");
        let (verdict, sentence) = c.verdict(&[run(Verdict::Pass), run(Verdict::Fail)]);
        assert!(verdict == Verdict::Fail && sentence.ends_with(". But spread: It broke."), "{sentence}");
        let text = table(&c, Paint::Plain);
        assert!(text.lines().next().unwrap().contains("affinity") && text.contains("+800"), "{text}");
        let widths: Vec<usize> = text.trim_end().lines().map(|l| l.chars().count()).collect();
        assert!(widths.iter().all(|w| *w == widths[0]), "{text}");
    }

    #[test]
    fn a_run_that_was_not_made_leaves_nothing_to_compare() {
        let c = Comparison::of(&[
            part("affinity", &Synthetic::default(), None),
            Part { name: "spread".into(), summary: None },
        ]);
        assert!(c.rows.iter().all(|r| r.change.is_none()));
        let run = RunRow { name: "spread".into(), verdict: Verdict::Unknown, sentence: "Not run.".into() };
        let (verdict, sentence) = c.verdict(&[run]);
        assert_eq!(verdict, Verdict::Unknown);
        assert_eq!(sentence, "affinity and spread: nothing to compare. But spread: Not run.");
    }
}
