//! `roomful mark`: tell a run that goes on what was just done to its fleet.

use super::exit;
use crate::history::{Event, Line, StepAction};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// In the run folder while the run goes on; the run holds a lock on it, and removes it at its end.
const FILE_NAME: &str = "marks.jsonl";
/// Largest line that is taken.
const LINE_MAX: usize = 4096;

/// Write into a running run's history that something was just done to a server, so that the run can be judged by it.
#[derive(clap::Args, Clone, Debug)]
pub struct MarkArgs {
    /// What was done: cordon, uncordon, terminate, kill, pause, resume …
    #[arg(value_parser = action)]
    action: StepAction,
    /// The server it was done to, by its name in the target file.
    server: String,
    /// The run's folder; without it, the only run under reports/ that goes on.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
}

fn action(word: &str) -> Result<StepAction, String> {
    let known = || StepAction::ALL.into_iter().filter(|a| a.needs_server());
    known().find(|a| a.as_str() == word).ok_or_else(|| {
        let words: Vec<&str> = known().map(StepAction::as_str).collect();
        format!("write one of {}", words.join(", "))
    })
}

#[derive(Serialize, Deserialize)]
struct Mark {
    action: StepAction,
    server: String,
    /// CLOCK_REALTIME.
    at_ns: u64,
}

/// Gives the exit code.
pub fn run(args: &MarkArgs) -> Result<u8> {
    let at_ns = crate::engine::realtime_ns();
    let file = match &args.run {
        Some(dir) => dir.join(FILE_NAME),
        None => match &going_on(Path::new("reports"))[..] {
            [one] => one.clone(),
            [] => bail!("no run goes on under reports/; name its folder with --run"),
            several => {
                let names: Vec<String> = several.iter().map(|f| folder(f)).collect();
                bail!("several runs go on: name one with --run: {}", names.join(", "))
            }
        },
    };
    let of = folder(&file);
    let opened = OpenOptions::new().append(true).open(&file);
    let mut file = opened.with_context(|| format!("no run that takes marks goes on in {of}"))?;
    if !is_held(&file) {
        bail!("the run in {of} has ended");
    }
    let mut line = serde_json::to_vec(&Mark { action: args.action, server: args.server.clone(), at_ns })?;
    line.push(b'\n');
    // In one piece: whoever else writes has its own line.
    file.write_all(&line).with_context(|| format!("writing to the run in {of}"))?;
    Ok(exit::PASS)
}

fn folder(file: &Path) -> String {
    file.parent().unwrap_or(file).display().to_string()
}

/// Somebody has it open who is alive: locks end with their process.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Mark files of runs that go on.
fn going_on(reports: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(reports).into_iter().flatten().flatten();
    let files = folders.map(|f| f.path().join(FILE_NAME));
    files.filter(|f| File::open(f).is_ok_and(|f| is_held(&f))).collect()
}

/// The run's side.
pub(super) struct Marks {
    path: PathBuf,
    file: File,
    epoch_ns: u64,
    /// Read, and no whole line yet.
    rest: Vec<u8>,
}

impl Marks {
    /// From now on the run takes marks. `epoch_ns` is its start.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn open(run_dir: &Path, epoch_ns: u64) -> Result<Marks> {
        let path = run_dir.join(FILE_NAME);
        let opened = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
        let file = opened.with_context(|| format!("can't make {}", path.display()))?;
        file.try_lock().with_context(|| format!("another run uses {}", path.display()))?;
        Ok(Marks { path, file, epoch_ns, rest: Vec::new() })
    }

    /// Lines of the history for what was marked since the last time. `now` in ms since the start of the run: no mark lies
    /// behind it.
    pub fn take(&mut self, now: f64) -> Vec<Line> {
        // What can't be read now may be later; a line that makes no sense is noted.
        let _ = (&self.file).take(1 << 20).read_to_end(&mut self.rest);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(self.line(&line[..end], now));
        }
        if self.rest.len() > LINE_MAX {
            let rest = std::mem::take(&mut self.rest);
            lines.push(self.line(&rest, now));
        }
        lines
    }

    fn line(&self, line: &[u8], now: f64) -> Line {
        match serde_json::from_slice::<Mark>(line) {
            Ok(mark) => {
                let at_ns = crate::engine::of_system_ns(mark.at_ns);
                let t = (at_ns.saturating_sub(self.epoch_ns) as f64 / 1e6).min(now);
                Line { t, event: Event::Mark { action: mark.action, server: mark.server } }
            }
            Err(e) => {
                let text = format!("{}: a line that is no mark: {e}", self.path.display());
                Line { t: now, event: Event::Note { code: "bad_mark".into(), text, leg: None, count: 1 } }
            }
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // It was ours; nobody can mark a run that has ended.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(dir: &Path, word: &str) -> Result<u8> {
        let action = action(word).map_err(anyhow::Error::msg)?;
        run(&MarkArgs { action, server: "janus-2".into(), run: Some(dir.to_owned()) })
    }

    #[test]
    fn a_mark_reaches_the_run_that_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let epoch_ns = crate::engine::realtime_ns() - 5_000_000_000;
        let mut marks = Marks::open(dir.path(), epoch_ns).unwrap();
        assert!(marks.take(5000.0).is_empty());
        assert_eq!(mark(dir.path(), "cordon").unwrap(), 0);
        let taken = marks.take(60_000.0);
        let [Line { t, event: Event::Mark { action: StepAction::Cordon, server } }] = &taken[..] else {
            panic!("{taken:?}");
        };
        assert_eq!(server, "janus-2");
        assert!((5000.0..60_000.0).contains(t), "{t}");
        assert!(marks.take(60_000.0).is_empty(), "once");
        mark(dir.path(), "terminate").unwrap();
        assert_eq!(marks.take(3.0)[0].t, 3.0, "not in the future, whatever the clock does");
    }

    #[test]
    fn what_is_no_mark_is_noted_and_the_next_one_still_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut marks = Marks::open(dir.path(), 0).unwrap();
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE_NAME)).unwrap();
        file.write_all(b"cordon janus-2\n{\"action\":\"cor").unwrap();
        let lines = marks.take(1.0);
        assert!(
            matches!(&lines[..], [Line { event: Event::Note { code, .. }, .. }] if code == "bad_mark"),
            "{lines:?}"
        );
        file.write_all(b"don\",\"server\":\"x\",\"at_ns\":1}\n").unwrap();
        assert!(matches!(&marks.take(1.0)[..], [Line { event: Event::Mark { .. }, .. }]));
    }

    #[test]
    fn a_run_that_is_over_takes_no_marks() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |words: &str| {
            let e = format!("{:#}", mark(dir.path(), "cordon").unwrap_err());
            assert!(e.contains(words), "{e}");
        };
        refused("no run that takes marks goes on in");
        // As a run leaves it that was killed.
        std::fs::write(dir.path().join(FILE_NAME), "").unwrap();
        refused("has ended");
        drop(Marks::open(dir.path(), 0).unwrap());
        assert!(!dir.path().join(FILE_NAME).exists());
        assert!(action("join_new").is_err() && action("drain").unwrap_err().contains("cordon, uncordon"));
    }

    #[test]
    fn only_runs_that_go_on_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for run in ["a", "b", "c"] {
            std::fs::create_dir(dir.path().join(run)).unwrap();
        }
        std::fs::write(dir.path().join("a").join(FILE_NAME), "").unwrap();
        let _held = Marks::open(&dir.path().join("b"), 0).unwrap();
        assert_eq!(going_on(dir.path()), [dir.path().join("b").join(FILE_NAME)]);
    }
}
