//! A profile that stands for several runs: one after the other, each with a run folder of its own inside that of the
//! series, and then what they say together.

use super::interrupts::Interrupts;
use super::{RunArgs, fits, folder, one, write_err};
use crate::cli::{exit, report};
use crate::plan::{self, Machine};
use crate::profile::{Profile, Search, Series, share_of};
use crate::report::{Manifest, RunFolder, SCHEMA};
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Makes all runs once; gives the exit code of what they say together. What this machine has is looked at before each.
pub(super) fn once(
    args: &RunArgs,
    whole: &Profile,
    series: &Series,
    tried: u32,
    machine: &dyn Fn() -> Machine,
    interrupts: &Interrupts,
) -> Result<u8> {
    let started = OffsetDateTime::now_utc();
    let folder = folder(args, whole, started, tried)?;
    let manifest = Manifest {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: whole.name.clone(),
        seed: whole.seed,
        started_at: started.format(&Rfc3339)?,
        resolved: whole.resolved.clone(),
    };
    manifest.write(folder.path())?;
    let names = series.names();
    let began = Instant::now();
    let mut interrupted = false;
    let mut trouble = None;
    for (i, (name, run)) in names.iter().zip(&whole.runs).enumerate() {
        if interrupts.came() {
            write_err(&format!("{}: interrupted; {name} and what comes after it is not run", whole.name));
            interrupted = true;
            break;
        }
        let spent = if i == 0 { Duration::ZERO } else { began.elapsed() };
        let run = match &whole.search {
            Some(search) => match share(search, spent, names.len() - i) {
                Some(budget) => run.within(budget),
                None => {
                    write_err(&format!("{}: {name} is not run: the budget has no trial left for it", whole.name));
                    continue;
                }
            },
            None => run.clone(),
        };
        let run = Arc::new(run);
        write_err(&format!("{}: {} {} of {}, {name}", whole.name, series.what(), i + 1, names.len()));
        let plan = Arc::new(plan::plan(&run));
        // All did when the first one began; what was found until now is not thrown away.
        let Ok(limits) = fits(args, &run, &plan, &machine())? else {
            write_err(&format!("{}: {name} is not run", whole.name));
            continue;
        };
        let own = RunFolder::at(&folder.path().join(name))?;
        match one(&run, &plan, &limits, OffsetDateTime::now_utc(), &own, interrupts) {
            Ok(code) => interrupted = code == exit::INTERRUPTED,
            Err(e) => trouble = Some(e),
        }
        if interrupted || trouble.is_some() {
            break;
        }
    }
    let judged = report::after_series(folder.path());
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    let code = judged?;
    Ok(if interrupted { exit::INTERRUPTED } else { u8::try_from(code)? })
}

/// What each of so many searches has of the budget, so much of which is spent; `None` where not one trial fits into that.
fn share(search: &Search, spent: Duration, runs: usize) -> Option<Duration> {
    let share = share_of(search.budget.saturating_sub(spent), runs as u32);
    (share >= search.trial + search.settle).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::{MODEL_PROFILE, model_history};
    use crate::cli::report::{self, ReportArgs};
    use crate::history;
    use crate::profile::parse_resolved;
    use std::path::Path;

    fn whole() -> Profile {
        let mixes =
            "[[mixes]]\nname = \"one\"\nrooms = { m = 1 }\n[[mixes]]\nname = \"two\"\nrooms = { m = 2 }\n[search]";
        let text = MODEL_PROFILE.replace("[search]", mixes);
        parse_resolved(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn once_in(dir: &Path, whole: &Profile, machine: &dyn Fn() -> Machine, interrupted: bool) -> u8 {
        let args = RunArgs { profile: "p.toml".into(), sets: Vec::new(), out: Some(dir.to_owned()), retry_unknown: 0 };
        let series = whole.series.clone().unwrap();
        once(&args, whole, &series, 0, machine, &Interrupts::made_up(interrupted)).unwrap()
    }

    fn sentences(dir: &Path) -> Vec<String> {
        let summary: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.join("summary.json")).unwrap()).unwrap();
        let runs = summary["runs"].as_array().unwrap().iter();
        runs.map(|r| r["sentence"].as_str().unwrap().to_owned()).collect()
    }

    fn again(dir: &Path) -> i32 {
        report::run(&ReportArgs { run_dir: dir.to_owned(), print: false }).unwrap()
    }

    #[test]
    fn a_search_without_a_trial_is_none() {
        let search = Search { budget: Duration::from_secs(170), ..whole().search.unwrap() };
        let least = search.trial + search.settle;
        let of = |spent: u64, runs| share(&search, Duration::from_secs(spent), runs);
        assert_eq!((of(0, 2), of(60, 1)), (Some(Duration::from_secs(85)), Some(Duration::from_secs(110))));
        assert_eq!(of(170 - least.as_secs(), 1), Some(least));
        assert_eq!((of(171 - least.as_secs(), 1), of(200, 1), of(0, 170)), (None, None, None));
    }

    #[test]
    fn what_the_budget_has_no_trial_for_is_not_run() {
        let (dir, mut whole) = (tempfile::tempdir().unwrap(), whole());
        whole.search.as_mut().unwrap().budget = Duration::from_secs(20);
        assert_eq!(once_in(dir.path(), &whole, &Machine::read, false), 4);
        assert_eq!(sentences(dir.path()), ["Not run.", "Not run."]);
        assert!(!dir.path().join("one").exists());
        assert_eq!(again(dir.path()), 4);
    }

    #[test]
    fn what_no_longer_fits_the_machine_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let full = || Machine { memory_available_bytes: Some(1), ..Machine::read() };
        assert_eq!(once_in(dir.path(), &whole(), &full, false), 4);
        assert_eq!(sentences(dir.path()), ["Not run.", "Not run."]);
        assert_eq!(again(dir.path()), 4);
    }

    #[test]
    fn an_interruption_between_two_runs_ends_the_series() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(once_in(dir.path(), &whole(), &Machine::read, true), 130);
        assert_eq!(sentences(dir.path()), ["Not run.", "Not run."]);
        assert!(!dir.path().join("one").exists() && dir.path().join("report.html").exists());
    }

    /// The first one ended, and the tool was killed while the second was prepared.
    #[test]
    fn a_history_without_a_line_is_no_run() {
        let (dir, whole) = (tempfile::tempdir().unwrap(), whole());
        once_in(dir.path(), &whole, &Machine::read, true);
        std::fs::create_dir_all(dir.path().join("one")).unwrap();
        let mut w = history::Writer::create(&dir.path().join("one")).unwrap();
        model_history(&whole.runs[0].resolved, 101).iter().for_each(|l| w.append(l));
        assert_eq!(w.finish().1, None);
        std::fs::create_dir_all(dir.path().join("two")).unwrap();
        let second = dir.path().join("two").join(history::FILE_NAME);
        for begun in ["", "{\"t\":0.0,\"ev\":\"run\",\"sch"] {
            std::fs::write(&second, begun).unwrap();
            assert_eq!(again(dir.path()), 4, "{begun}");
            let [one, two] = &sentences(dir.path())[..] else { panic!() };
            assert!(one.starts_with("100–104 per server") && two == "Not run.", "{one} {two}");
        }
        // One that held lines, and lost the first, is damaged: nobody shall take that for a run that was never made.
        std::fs::write(&second, "garbage\n").unwrap();
        let e = report::run(&ReportArgs { run_dir: dir.path().to_owned(), print: true }).unwrap_err();
        assert!(format!("{e:#}").contains("is no history"), "{e:#}");
    }
}
