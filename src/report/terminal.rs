//! The final table: per server, per threshold, failures, and the sentence last, where the eye is.

use super::Summary;
use crate::verdict::{Mos, Verdict, number};
use std::fmt::Write;
use std::io::IsTerminal;

/// Colours, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    Plain,
    Ansi,
}

impl Paint {
    /// Colours only on a terminal, and never where `NO_COLOR` is set.
    pub fn for_stdout() -> Paint {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        if std::io::stdout().is_terminal() && !unwanted { Paint::Ansi } else { Paint::Plain }
    }

    fn verdict(self, verdict: Verdict, text: &str) -> String {
        let code = match verdict {
            Verdict::Pass => "32",
            Verdict::Fail => "31",
            Verdict::Unknown => "33",
        };
        self.with(code, text)
    }

    pub(super) fn with(self, code: &str, text: &str) -> String {
        match self {
            Paint::Plain => text.into(),
            Paint::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// The table as one text, ending with the sentence and a newline.
pub fn table(s: &Summary, paint: Paint) -> String {
    let mut out = String::new();
    servers(s, paint, &mut out);
    super::relays::table(&s.relays, |text| paint.with("1", text), &mut out);
    thresholds(s, paint, &mut out);
    failures(s, &mut out);
    for note in &s.notes {
        let times = if note.count > 1 { format!(" ({} ×)", note.count) } else { String::new() };
        let _ = writeln!(out, "note: {}{times}", printable(&note.text));
    }
    if !s.notes.is_empty() {
        out.push('\n');
    }
    capacity(s, paint, &mut out);
    scale_in(s, paint, &mut out);
    let _ = writeln!(out, "seed {}; the profile with every default is run.resolved in summary.json\n", s.run.seed);
    out.push_str(&said(s.verdict, &s.sentence, paint));
    out
}

/// What whoever started the run has to see to, one a line: something that it did to the fleet is still in force.
pub fn left_behind(s: &Summary) -> String {
    let failed = s.notes.iter().filter(|n| n.code == crate::verdict::ROLLBACK_FAILED);
    failed.map(|n| printable(&n.text) + "\n").collect()
}

/// The last line: verdict and sentence.
pub(super) fn said(verdict: Verdict, sentence: &str, paint: Paint) -> String {
    let label = paint.verdict(verdict, &format!("{}:", verdict.as_str().to_uppercase()));
    format!("{label} {}\n", printable(sentence))
}

/// The trials of a search, and what a CPU trigger would have done.
fn capacity(s: &Summary, paint: Paint, out: &mut String) {
    use crate::capacity::Outcome;
    let Some(a) = &s.capacity else { return };
    let _ = writeln!(
        out,
        "{}",
        paint.with("1", "participants  seconds  broken %  delay p99 ms  set-up p95 ms  joins/s  CPU %")
    );
    for t in &a.trials {
        let worst = |pick: &dyn Fn(&crate::capacity::ServerTrial) -> Option<f64>| {
            cell(t.servers.iter().filter_map(pick).reduce(f64::max))
        };
        let delay = worst(&|s| s.audio.delay_p99.into_iter().chain(s.video.delay_p99).reduce(f64::max));
        let (verdict, mark) = match t.outcome {
            Outcome::Held => (Verdict::Pass, "held".to_owned()),
            Outcome::Broke if t.admission => (Verdict::Fail, "refused by the server's own limit".into()),
            Outcome::Broke => (Verdict::Fail, t.what()),
            Outcome::Invalid => (Verdict::Unknown, t.why.clone().unwrap_or_default()),
        };
        let seconds = (t.until_ms - t.from_ms) / 1000.0;
        let _ = writeln!(
            out,
            "{:>12}  {seconds:>7.0}  {:>8}  {delay:>12}  {:>13}  {:>7}  {:>5}  {}",
            t.participants,
            number(t.loss),
            worst(&|s| s.setup_p95),
            cell(t.join_rate),
            worst(&|s| s.cost?.cpu),
            paint.verdict(verdict, &printable(&mark))
        );
    }
    out.push('\n');
    for server in a.servers.iter().filter(|_| a.servers.len() > 1) {
        let side = |v: Option<u32>| v.map_or_else(|| "?".to_owned(), |v| v.to_string());
        let broke = server.broke_first.as_ref().map_or_else(String::new, |b| format!("  {}", printable(b)));
        let held = server.held.filter(|h| server.lower.is_none_or(|l| *h > l));
        let held = held.map_or_else(String::new, |h| format!(", {h} in a short trial"));
        let (name, lower, upper) = (printable(&server.server), side(server.lower), side(server.upper));
        let _ = writeln!(out, "{name}: {lower}–{upper}{held}{broke}");
    }
    if let Some(reached) = a.join_rate {
        let wanted = number(a.join_rate_wanted);
        let _ = writeln!(out, "joins: {} a second reached, {wanted} a second wanted", number(reached));
    }
    if let Some(trigger) = a.cpu_trigger {
        let _ = writeln!(out, "{}\n", trigger.words());
    }
}

/// What was taken away, and each invariant: the broken ones with what was seen and what a person noticed.
fn scale_in(s: &Summary, paint: Paint, out: &mut String) {
    let Some(all) = &s.scale_in else { return };
    let clock = |t: Option<f64>| t.map_or_else(|| "–".into(), crate::verdict::clock);
    if !all.removals.is_empty() {
        let head = "server        cordoned  exposed  late  last leave  asked to end     ended";
        let _ = writeln!(out, "{}", paint.with("1", head));
    }
    for r in &all.removals {
        let killed = if r.killed { " (killed)" } else { "" };
        let _ = writeln!(
            out,
            "{:<12}  {:>8}  {:>7}  {:>4}  {:>10}  {:>12}  {:>8}{killed}",
            printable(&r.server),
            clock(r.cordoned),
            r.exposed,
            r.admitted,
            clock(r.last_leave),
            clock(r.terminated),
            clock(r.ended)
        );
    }
    let classes: Vec<String> = all.classes.iter().map(|(c, n)| format!("{n} {}", c.replace('_', " "))).collect();
    if !classes.is_empty() {
        let _ = writeln!(out, "legs at risk: {}", classes.join(", "));
    }
    out.push('\n');
    for i in &all.invariants {
        let (mark, text) = match (i.judged, i.verdict) {
            (false, _) => ("–".to_owned(), format!("{} (not put to the test: {})", i.title, i.why)),
            (true, Verdict::Pass) => (paint.verdict(Verdict::Pass, "✓"), format!("{}: {}", i.title, i.why)),
            (true, v) => {
                (paint.verdict(v, if v == Verdict::Fail { "✗" } else { "?" }), format!("{}: {}", i.title, i.why))
            }
        };
        let text = if i.judged && i.verdict == Verdict::Fail { i.title.to_owned() } else { text };
        let _ = writeln!(out, "{mark} {:<9} {}", i.id, printable(&text));
        for e in i.evidence.iter().take(5) {
            let lines: Vec<String> = e.lines.iter().take(5).map(u64::to_string).collect();
            let lines = if lines.is_empty() { String::new() } else { format!("; history lines {}", lines.join(", ")) };
            let _ = writeln!(out, "            {}", printable(&e.what));
            let when = crate::verdict::clock(e.from_ms);
            let _ = writeln!(out, "            at {when}; on that call: {}{lines}", printable(&e.noticed));
        }
        let more = (i.evidence.len() as u64).saturating_sub(5) + i.evidence_more;
        if more > 0 {
            let _ = writeln!(out, "            and {more} more in report.html");
        }
    }
    out.push('\n');
}

fn servers(s: &Summary, paint: Paint, out: &mut String) {
    if s.servers.is_empty() {
        return;
    }
    let head = [
        "server",
        "participants",
        "audio loss %",
        "legs %",
        "video loss %",
        "legs %",
        "jitter p95 ms",
        "delay p50 ms",
        "delay p99 ms",
        "freezes/min",
        "set-up p95 ms",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for server in &s.servers {
        let worst = |a: Option<f64>, v: Option<f64>| cell(a.into_iter().chain(v).reduce(f64::max));
        let (a, v) = (&server.audio.media, &server.video.media);
        rows.push([
            printable(&server.id),
            server.participants_max.to_string(),
            cell(a.loss),
            cell(a.lossy_legs_share),
            cell(v.loss),
            cell(v.lossy_legs_share),
            worst(a.jitter.p95, v.jitter.p95),
            worst(a.delay.p50, v.delay.p50),
            worst(a.delay.p99, v.delay.p99),
            cell(server.video.freezes),
            cell(server.setup.total.p95),
        ]);
    }
    let mut widths = [0; 11];
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    for (i, row) in rows.iter().enumerate() {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (text, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(line, "  {text:>width$}");
        }
        let _ = writeln!(out, "{}", if i == 0 { paint.with("1", &line) } else { line });
    }
    out.push_str("legs %: legs that lost more than the limit in any 10 s\n");
    if let Some(line) = mos(&s.audio.mos) {
        let _ = writeln!(out, "{line}");
    }
    out.push('\n');
}

/// Scores with all that they were computed from; no verdict hangs on them.
pub(super) fn mos(m: &Mos) -> Option<String> {
    let (min, p5, p50, c) = (m.min?, m.p5?, m.p50?, m.coefficients?);
    Some(format!(
        "audio MOS (E-model): lowest {min:.2}, p5 {p5:.2}, median {p50:.2} of {} scores over 10 s; {}: Ie {}, Bpl {} ({}), \
         codec {} ms, jitter buffer {} ms",
        m.count, c.codec, c.ie, c.bpl, c.source, c.codec_delay, m.jitter_buffer
    ))
}

fn thresholds(s: &Summary, paint: Paint, out: &mut String) {
    let width = s.pass.iter().map(|o| o.expr.chars().count()).max().unwrap_or(0);
    for o in &s.pass {
        let mark = match o.verdict {
            Verdict::Pass => "✓",
            Verdict::Fail => "✗",
            Verdict::Unknown => "?",
        };
        let value = o.value.map_or_else(|| "no data".into(), |v| format!("{}{}", number(v), unit(o.unit)));
        let _ = write!(out, "{} {:<width$}  {value}", paint.verdict(o.verdict, mark), printable(&o.expr));
        if let Some(server) = &o.server {
            let _ = write!(out, " on {}", printable(server));
        }
        if let Some(margin) = o.margin.filter(|_| o.verdict == Verdict::Pass) {
            let _ = write!(out, ", {} % to spare", number(margin));
        }
        if let Some(why) = o.why.as_ref().filter(|_| o.value.is_some()) {
            let _ = write!(out, ", {why}");
        }
        out.push('\n');
    }
    if !s.pass.is_empty() {
        out.push('\n');
    }
}

fn failures(s: &Summary, out: &mut String) {
    if s.failures.is_empty() {
        return;
    }
    let _ = writeln!(out, "{} failed to join:", s.participants.failed);
    for f in &s.failures {
        let servers: Vec<String> = f.servers.iter().map(|(id, n)| format!("{} {n}", printable(id))).collect();
        let _ = writeln!(out, "  {} × {} ({}), first {}", f.count, f.reason, servers.join(", "), printable(&f.detail));
    }
    out.push('\n');
}

fn cell(v: Option<f64>) -> String {
    v.map_or_else(|| "–".into(), number)
}

fn unit(name: &str) -> &'static str {
    match name {
        "ms" => " ms",
        "percent" => " %",
        "per minute" => "/min",
        "per second" => "/s",
        _ => "",
    }
}

/// What servers send must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{summary, usual};
    use super::*;
    use crate::history::synthetic::Synthetic;

    #[test]
    fn a_pass_at_a_glance() {
        let text = table(&summary(&Synthetic::default(), &usual()), Paint::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("server  participants  audio loss %"), "{text}");
        assert!(lines[1].starts_with("sfu-1              6             0       0             0       0"), "{text}");
        assert!(text.contains("✓ audio.loss <= 0.3%"), "{text}");
        assert!(lines.last().unwrap().starts_with("PASS: 12 of 12 joined;"), "{text}");
        assert!(text.contains("seed 7;") && !text.contains('\x1b'), "{text}");
        let width = |l: &&str| l.chars().count();
        assert!(lines[..3].iter().map(width).all(|w| w == lines[0].chars().count()), "{text}");
    }

    #[test]
    fn a_fail_shows_what_and_where() {
        let run = Synthetic { join_failures: 2, hold: 20..40, video: false, notes: true, ..Synthetic::default() };
        let text = table(&summary(&run, &usual()), Paint::Ansi);
        for part in [
            "\x1b[31m✗\x1b[0m joins.failed_share",
            "\x1b[33m?\x1b[0m video.freezes",
            "no data",
            "2 failed to join:",
            "2 × timeout_ice (sfu-1 2), first meeting-0/p0: no answer",
            "note: TLS <b>off</b> (3 ×)",
            "\x1b[31mFAIL:\x1b[0m 2 of 12 joins failed",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_servers_words_do_not_steer_the_terminal() {
        let mut s = summary(&Synthetic { notes: true, ..Synthetic::default() }, &usual());
        s.notes[0].text = "\x1b[2Jgone".into();
        s.servers[0].id = "a\nb".into();
        let text = table(&s, Paint::Plain);
        assert!(!text.contains('\x1b') && text.contains("a\u{fffd}b"), "{text}");
    }
}
