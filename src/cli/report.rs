//! `roomful report`: judge again and render again, from the stored history, offline.

use crate::history;
use crate::profile::{self, HealthLimits, Threshold};
use crate::report::{self, Summary, terminal};
use crate::verdict;
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

/// Reads limits out of a resolved profile, as it stands in the history.
type LimitsOf<'a> = &'a dyn Fn(&str) -> Result<(Vec<Threshold>, HealthLimits)>;

/// Gives the exit code of the verdict: 0 pass, 3 fail, 4 unknown.
pub fn run(args: &ReportArgs) -> Result<i32> {
    run_to(args, Vec::new(), &limits_of_profile, terminal::Paint::for_stdout(), &mut std::io::stdout().lock())
}

/// The same for a run that has just ended. `tail` are the lines of its history that could not be written.
pub fn after_run(run_dir: &Path, tail: Vec<u8>) -> Result<i32> {
    let args = ReportArgs { run_dir: run_dir.to_owned(), print: false };
    run_to(&args, tail, &limits_of_profile, terminal::Paint::for_stdout(), &mut std::io::stdout().lock())
}

fn limits_of_profile(resolved: &str) -> Result<(Vec<Threshold>, HealthLimits)> {
    let profile = profile::parse_resolved(resolved)?;
    Ok((profile.pass, profile.health))
}

fn run_to(
    args: &ReportArgs,
    tail: Vec<u8>,
    limits_of: LimitsOf<'_>,
    paint: terminal::Paint,
    out: &mut dyn Write,
) -> Result<i32> {
    let path = args.run_dir.join(history::FILE_NAME);
    let reading = history::read_with_tail(&path, tail)?;
    let (pass, health) =
        limits_of(&reading.run.resolved).with_context(|| format!("the profile in {} can't be read", path.display()))?;
    let judgement = verdict::judge(&reading, &pass, &health);
    let summary = Summary::of(&judgement);
    out.write_all(terminal::table(&summary, paint).as_bytes())?;
    if !args.print {
        report::write_all(&args.run_dir, &summary, &judgement)?;
        let page = args.run_dir.join(report::HTML_FILE);
        writeln!(out, "{}", page.display())?;
    }
    out.flush()?;
    Ok(judgement.verdict.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Writer;
    use crate::history::synthetic::Synthetic;
    use crate::profile::{Op, ThresholdValue};
    use std::fs;
    use std::path::Path;

    fn loss_limit(resolved: &str) -> Result<(Vec<Threshold>, HealthLimits)> {
        anyhow::ensure!(resolved.contains("audio.loss"), "no limit in it");
        let one = Threshold {
            metric: "audio.loss".into(),
            op: Op::Le,
            value: ThresholdValue::Percent(0.3),
            expr: "audio.loss <= 0.3%".into(),
        };
        Ok((vec![one], HealthLimits::default()))
    }

    fn store(dir: &Path, run: &Synthetic) {
        let mut w = Writer::create(dir).unwrap();
        run.lines().iter().for_each(|l| w.append(l));
        assert_eq!(w.finish().1, None);
    }

    fn report(dir: &Path, print: bool) -> Result<(i32, String)> {
        let args = ReportArgs { run_dir: dir.into(), print };
        let mut out = Vec::new();
        let code = run_to(&args, Vec::new(), &loss_limit, terminal::Paint::Plain, &mut out)?;
        Ok((code, String::from_utf8(out)?))
    }

    #[test]
    fn judges_again_to_the_same_verdict_and_files() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &Synthetic { loss: Some((1, 15..20, 0.02)), ..Synthetic::default() });
        let files = || ["summary.json", "report.html"].map(|f| fs::read(dir.path().join(f)).unwrap());
        let (code, text) = report(dir.path(), false).unwrap();
        assert_eq!(code, 3);
        assert!(text.contains("FAIL: sfu-2 lost 0.5 % of audio (limit 0.3 %) from 00:15 to 00:20"), "{text}");
        let first = files();
        assert_eq!(report(dir.path(), false).unwrap(), (code, text));
        assert!(files() == first);
    }

    #[test]
    fn printing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &Synthetic { killed: Some(20), ..Synthetic::default() });
        let (code, text) = report(dir.path(), true).unwrap();
        assert_eq!(code, 4);
        assert!(text.contains("history ends at 00:20 without an end"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn says_what_is_wrong_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let e = report(dir.path(), false).unwrap_err().to_string();
        assert!(e.contains("history.jsonl") && e.contains("No such file"), "{e}");
        store(dir.path(), &Synthetic { resolved: "nothing".into(), ..Synthetic::default() });
        let e = format!("{:#}", report(dir.path(), false).unwrap_err());
        assert!(e.contains("the profile in") && e.contains("no limit in it"), "{e}");
    }
}
