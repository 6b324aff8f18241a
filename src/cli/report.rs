//! `roomful report`: judge again and render again, from the stored history, offline.

use crate::capacity;
use crate::history::{self, Reading};
use crate::profile;
use crate::report::{self, Manifest, Part, SeriesSummary, Summary, terminal};
use crate::verdict::{self, Judgement};
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Judge a run again from its history, and write its summary and report again. The verdict is the same as the run's.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportArgs {
    /// Run folder, e.g. reports/20260301-100005-demo.
    pub run_dir: PathBuf,
    /// Print the judgement only; leave summary.json and report.html as they are.
    #[arg(long)]
    pub print: bool,
}

/// Gives the exit code of the verdict: 0 pass, 3 fail, 4 unknown.
pub fn run(args: &ReportArgs) -> Result<i32> {
    let paint = terminal::Paint::for_stdout();
    let files = if args.print { Files::Leave } else { Files::Write };
    if args.run_dir.join(report::MANIFEST_FILE).exists() {
        return series_to(&args.run_dir, files, true, paint, &mut std::io::stdout().lock());
    }
    render_to(&args.run_dir, Vec::new(), files, paint, &mut std::io::stdout().lock())
}

/// The same for a run that has just ended. `tail` are the lines of its history that could not be written (see
/// [`history::Writer::finish`]). The table is printed whatever becomes of the files.
pub fn after_run(run_dir: &Path, tail: Vec<u8>) -> Result<i32> {
    render_to(run_dir, tail, Files::Write, terminal::Paint::for_stdout(), &mut std::io::stdout().lock())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    Write,
    Leave,
}

/// The same for a series of runs that have just ended, each judged already.
pub fn after_series(dir: &Path) -> Result<i32> {
    series_to(dir, Files::Write, false, terminal::Paint::for_stdout(), &mut std::io::stdout().lock())
}

/// What the runs of a series say together; with `each`, every run is rendered again, too.
fn series_to(dir: &Path, files: Files, each: bool, paint: terminal::Paint, out: &mut dyn Write) -> Result<i32> {
    let path = dir.join(report::MANIFEST_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let manifest: Manifest = serde_json::from_str(&text).with_context(|| format!("can't read {}", path.display()))?;
    let profile = profile::parse_resolved(&manifest.resolved)
        .with_context(|| format!("the profile in {} can't be read", path.display()))?;
    let series = profile.series.as_ref().with_context(|| format!("{} is of no series", path.display()))?;
    let mut parts = Vec::new();
    for name in series.names() {
        let own = dir.join(name);
        let made = begun(&own.join(history::FILE_NAME));
        if made && each {
            render_to(&own, Vec::new(), files, paint, out)?;
        }
        let summary = if made { Some(read(&own, Vec::new())?.1) } else { None };
        parts.push(Part { name: name.to_owned(), summary });
    }
    let summary = SeriesSummary::of(&manifest, &profile, series, &parts);
    let written = match files {
        Files::Write => report::write_series(dir, &summary),
        Files::Leave => Ok(()),
    };
    out.write_all(report::series_table(&summary, paint).as_bytes())?;
    written?;
    if files == Files::Write {
        writeln!(out, "{}", dir.join(report::HTML_FILE).display())?;
    }
    out.flush()?;
    Ok(summary.verdict.exit_code())
}

/// Whether a run of a series was ever made: those that were left out have no history, and one whose preparation was cut
/// short has not a single whole line of it.
fn begun(path: &Path) -> bool {
    use std::io::{BufRead, ErrorKind, Read};
    match std::fs::File::open(path) {
        Err(e) => e.kind() != ErrorKind::NotFound,
        Ok(file) => {
            let mut first = Vec::new();
            // A disk's error is told where the history is read.
            let read = std::io::BufReader::new(file).take(FIRST_LINE_MAX).read_until(b'\n', &mut first);
            read.is_err() || first.len() as u64 == FIRST_LINE_MAX || first.ends_with(b"\n")
        }
    }
}

/// It holds a profile.
const FIRST_LINE_MAX: u64 = 16 << 20;

/// A run's judgement and its summary.
fn read(dir: &Path, tail: Vec<u8>) -> Result<(Judgement, Summary)> {
    let path = dir.join(history::FILE_NAME);
    let reading = history::read_with_tail(&path, tail)?;
    let profile = profile::parse_resolved(&reading.run.resolved)
        .with_context(|| format!("the profile in {} can't be read", path.display()))?;
    let (judgement, capacity) = judge(&reading, &profile);
    let mut summary = Summary::of(&judgement);
    summary.capacity = capacity;
    let hold = judgement.hold;
    summary.usage = verdict::fleet_use(&reading, &profile.target.carriers(), hold.from_ms, hold.ended_ms);
    Ok((judgement, summary))
}

fn render_to(dir: &Path, tail: Vec<u8>, files: Files, paint: terminal::Paint, out: &mut dyn Write) -> Result<i32> {
    let (judgement, summary) = read(dir, tail)?;
    // Files first: a closed pipe must not cost the report.
    let written = match files {
        Files::Write => report::write_all(dir, &summary, &judgement),
        Files::Leave => Ok(()),
    };
    let _ = std::io::stderr().write_all(terminal::left_behind(&summary).as_bytes());
    out.write_all(terminal::table(&summary, paint).as_bytes())?;
    written?;
    if files == Files::Write {
        writeln!(out, "{}", dir.join(report::HTML_FILE).display())?;
    }
    out.flush()?;
    Ok(judgement.verdict.exit_code())
}

/// By the limits of the profile that the history carries.
fn judge(reading: &Reading, profile: &profile::Profile) -> (Judgement, Option<capacity::Answer>) {
    if let Some(scale_in) = &profile.scale_in {
        return (verdict::judge_scale_in(reading, &profile.pass, &profile.health, &scale_in.expect), None);
    }
    let Some(setting) = capacity::Setting::of(profile) else {
        return (verdict::judge(reading, &profile.pass, &profile.health), None);
    };
    let mut record = capacity::Record::new(setting);
    reading.each(capacity::Record::wants, |line| record.see(&line));
    record.close();
    let answer = capacity::Answer::of(&record);
    let mut judgement = verdict::judge_window(reading, &profile.pass, &profile.health, answer.window());
    let (verdict, sentence) = answer.verdict(record.setting());
    judgement.reasons = if verdict == verdict::Verdict::Pass { Vec::new() } else { vec![sentence.clone()] };
    (judgement.verdict, judgement.sentence) = (verdict, sentence);
    // Seats of the highest load were never all planned to be taken; joins were judged trial by trial.
    judgement.participants.planned = judgement.participants.joined + judgement.participants.failed;
    judgement.joins.planned = judgement.participants.planned;
    // These are of whole legs and of all joins, not of the load that held; trials have their own.
    let of_legs =
        |audio: &mut verdict::AudioMetrics, video: &mut verdict::VideoMetrics, setup: &mut verdict::SetupMetrics| {
            (audio.media.lossy_legs_share, video.media.lossy_legs_share) = (None, None);
            (audio.media.lossy_legs_inconclusive, video.media.lossy_legs_inconclusive) = (0, 0);
            *setup = verdict::SetupMetrics::default();
        };
    of_legs(&mut judgement.audio, &mut judgement.video, &mut judgement.setup);
    judgement.servers.iter_mut().for_each(|s| of_legs(&mut s.audio, &mut s.video, &mut s.setup));
    for room in &mut judgement.rooms_worst {
        (room.audio_lossy_legs_share, room.video_lossy_legs_share) = (None, None);
    }
    for (i, outcome) in judgement.pass.iter_mut().enumerate() {
        if !outcome.metric.starts_with("audio.") && !outcome.metric.starts_with("video.") {
            answer.objective(record.setting(), i).into_iter().for_each(|o| *outcome = o);
        }
    }
    (judgement, Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Writer;
    use crate::history::synthetic::Synthetic;
    use std::fs;

    const PROFILE: &str = "shape = \"steady\"\ntarget = \"embedded\"\nseed = 7\n\n[[rooms]]\nname = \"meeting\"\ncount = 4\nsize = 3\n\
        audio = \"opus@32kbit/s\"\n\n[load]\njoin = \"4/s\"\nwarmup = \"5s\"\nhold = \"20s\"\n\n[pass]\n\"audio.loss\" = \"<= 0.3%\"\n";

    fn store(dir: &Path, run: &Synthetic) {
        let resolved = if run.resolved == "nothing" { run.resolved.clone() } else { PROFILE.into() };
        let mut w = Writer::create(dir).unwrap();
        (Synthetic { resolved, ..run.clone() }).lines().iter().for_each(|l| w.append(l));
        assert_eq!(w.finish().1, None);
    }

    fn report(dir: &Path, files: Files) -> Result<(i32, String)> {
        let mut out = Vec::new();
        let code = render_to(dir, Vec::new(), files, terminal::Paint::Plain, &mut out)?;
        Ok((code, String::from_utf8(out)?))
    }

    #[test]
    fn judges_again_to_the_same_verdict_and_files() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &Synthetic { loss: Some((1, 15..20, 0.02)), ..Synthetic::default() });
        let files = || ["summary.json", "report.html"].map(|f| fs::read(dir.path().join(f)).unwrap());
        let (code, text) = report(dir.path(), Files::Write).unwrap();
        assert_eq!(code, 3);
        assert!(text.contains("FAIL: sfu-2 lost 0.5 % of audio (limit 0.3 %) from 00:15 to 00:20"), "{text}");
        let first = files();
        assert_eq!(report(dir.path(), Files::Write).unwrap(), (code, text));
        assert!(files() == first);
    }

    #[test]
    fn printing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &Synthetic { killed: Some(20), ..Synthetic::default() });
        let (code, text) = report(dir.path(), Files::Leave).unwrap();
        assert_eq!(code, 4);
        assert!(text.contains("history ends at 00:20 without an end"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_costs_the_files_and_not_the_table() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &Synthetic::default());
        fs::create_dir_all(dir.path().join("summary.json/in-the-way")).unwrap();
        let mut out = Vec::new();
        let e = render_to(dir.path(), Vec::new(), Files::Write, terminal::Paint::Plain, &mut out).unwrap_err();
        assert!(e.to_string().contains("summary.json"), "{e}");
        assert!(String::from_utf8(out).unwrap().contains("PASS: 12 of 12 joined"));
        assert!(dir.path().join("report.html").exists());
    }

    #[test]
    fn says_what_is_wrong_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let e = report(dir.path(), Files::Write).unwrap_err().to_string();
        assert!(e.contains("history.jsonl") && e.contains("No such file"), "{e}");
        store(dir.path(), &Synthetic { resolved: "nothing".into(), ..Synthetic::default() });
        let e = format!("{:#}", report(dir.path(), Files::Write).unwrap_err());
        assert!(e.contains("the profile in") && e.contains("history.jsonl"), "{e}");
    }

    fn write_lines(dir: &Path, lines: &[crate::history::Line]) {
        let _ = fs::remove_file(dir.join(history::FILE_NAME));
        let mut w = Writer::create(dir).unwrap();
        lines.iter().for_each(|l| w.append(l));
        assert_eq!(w.finish().1, None);
    }

    fn summary(dir: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.join("summary.json")).unwrap()).unwrap()
    }

    #[test]
    fn objectives_of_a_search_are_all_listed_and_drawn() {
        let dir = tempfile::tempdir().unwrap();
        write_lines(dir.path(), &capacity::model_history(capacity::MODEL_PROFILE, 101));
        let (code, text) = report(dir.path(), Files::Write).unwrap();
        assert_eq!(code, 0, "{text}");
        let summary = summary(dir.path());
        let pass = summary["pass"].as_array().unwrap();
        let of = |metric: &str| {
            let o = pass.iter().find(|o| o["metric"] == metric).unwrap_or_else(|| panic!("{metric}: {pass:#?}"));
            (o["value"].as_f64(), o["limit"].as_f64(), o["server"].as_str(), o["verdict"].as_str())
        };
        // Of the load that held, though one above it broke.
        assert_eq!(of("setup.total.p95"), (Some(120.0), Some(200.0), Some("s1"), Some("pass")));
        assert_eq!(of("joins.failed_share"), (Some(0.0), Some(1.0), Some("s1"), Some("pass")));
        assert_eq!((pass.len(), of("audio.delay.p99").3, of("video.delay.p99").1), (4, Some("pass"), Some(120.0)));
        assert!(text.contains("✓ setup.total.p95 <= 200ms  120 ms on s1, 40 % to spare"), "{text}");
        let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
        for shown in ["<code>setup.total.p95 &lt;= 200ms</code>", "limit own c0", "limit own c1", "limit own c4"] {
            assert!(page.contains(shown), "{shown}");
        }
    }

    #[test]
    fn what_is_to_be_pasted_goes_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = capacity::model_history(capacity::MODEL_PROFILE, 101);
        write_lines(dir.path(), &lines);
        report(dir.path(), Files::Write).unwrap();
        let there = || ["capacity.env", "keda-scaledobject.yaml", "hpa.yaml"].map(|f| dir.path().join(f).exists());
        assert_eq!(there(), [true; 3]);
        // The same history, had it been cut short.
        lines.truncate(lines.len() / 2);
        write_lines(dir.path(), &lines);
        assert_eq!(report(dir.path(), Files::Leave).unwrap().0, 4);
        assert_eq!(there(), [true; 3]);
        assert_eq!(report(dir.path(), Files::Write).unwrap().0, 4);
        assert_eq!(there(), [false; 3]);
    }

    /// `path: value` of each number and null in it; items of a list have `[]`.
    fn leaves(value: &serde_json::Value, path: &str, out: &mut Vec<(String, serde_json::Value)>) {
        match value {
            serde_json::Value::Object(map) => {
                let dot = if path.is_empty() { "" } else { "." };
                map.iter().for_each(|(key, v)| leaves(v, &format!("{path}{dot}{key}"), out));
            }
            serde_json::Value::Array(all) => all.iter().for_each(|v| leaves(v, &format!("{path}[]"), out)),
            other if !out.iter().any(|(p, v)| p == path && v.is_number()) => out.push((path.to_owned(), other.clone())),
            _ => {}
        }
    }

    #[test]
    fn every_number_of_a_search_has_a_unit_and_every_key_is_described() {
        use crate::capacity::{Cost, KindTrial, RelayTrial};
        let dir = tempfile::tempdir().unwrap();
        write_lines(dir.path(), &capacity::model_history(capacity::MODEL_PROFILE, 131));
        let (_, mut whole) = read(dir.path(), Vec::new()).unwrap();
        // What a model server has not: some of it is of TURN servers, or of hosts that tell.
        let a = whole.capacity.as_mut().unwrap();
        (a.allocations, a.relayed_pps, a.relayed_bps) = (Some(1), Some(1.0), Some(1.0));
        let one = Some(1.0);
        let s = &mut a.trials[0].servers[0];
        s.relay = Some(RelayTrial::default());
        let kind = KindTrial { loss: one, delay_p50: one, delay_p99: one, jitter_p95: one, freezes: one };
        (s.audio, s.video) = (kind, kind);
        s.cost = Some(Cost {
            cpu: one,
            cpu_p95: one,
            cpu_cores: one,
            busiest_thread: one,
            memory_bytes: one,
            cpu_pressure: one,
            run_queue: one,
            steal: one,
            throttled: one,
            egress_pps: one,
            egress_bps: one,
            cascade_pps: one,
            cascade_bps: one,
        });
        let json = serde_json::to_value(&whole).unwrap();
        let units = json["units"].as_object().unwrap();
        let mut all = Vec::new();
        leaves(&json["capacity"], "capacity", &mut all);
        let numbers: Vec<&String> = all.iter().filter(|(_, v)| v.is_number()).map(|(p, _)| p).collect();
        assert!(numbers.len() > 70, "{numbers:?}");
        let bare: Vec<&&String> = numbers.iter().filter(|p| !units.contains_key(p.as_str())).collect();
        assert!(bare.is_empty(), "without a unit: {bare:?}");
        // And no unit is that of nothing.
        let unused: Vec<&String> =
            units.keys().filter(|u| u.starts_with("capacity.") && !numbers.contains(u)).collect();
        assert!(unused.is_empty(), "of nothing: {unused:?}");
        // The docs name each key.
        let docs = include_str!("../../docs/reports.md");
        let (_, docs) = docs.split_once("`capacity` is null but for that shape").expect("a description of `capacity`");
        let docs = docs.split("`scale_in` is null").next().unwrap();
        let words: std::collections::BTreeSet<&str> =
            docs.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        for (path, _) in &all {
            for key in path.split('.').map(|k| k.trim_end_matches("[]")) {
                assert!(words.contains(key), "{key} of {path} is not in docs/reports.md");
            }
        }
        // Of the rest of the file, what is no number of a run stands here.
        let mut rest = Vec::new();
        leaves(&json, "", &mut rest);
        let of_run = |p: &str| {
            let (head, _) = p.rsplit_once('.').unwrap_or((p, ""));
            let as_run = p.strip_prefix("servers[].").is_some_and(|p| units.contains_key(p));
            as_run || units.contains_key(p) || units.contains_key(&format!("{head}.*"))
        };
        let bare: Vec<&String> = rest
            .iter()
            .filter(|(p, v)| v.is_number() && !of_run(p) && !p.starts_with("limits."))
            .map(|(p, _)| p)
            .collect();
        assert_eq!(bare, ["schema", "run.seed"], "without a unit");
    }
}
