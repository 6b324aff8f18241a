//! `roomful run PROFILE`: plan, load, judge, report.

mod experiment; // shape scale-in
mod interrupts;
mod series; // several runs of one profile

use super::exit;
use super::stage::{Interrupted, Stage};
use crate::capacity;
use crate::fleet::observe;
use crate::history::{self, Event, Line, RunInfo, SCHEMA};
use crate::plan::{self, Course, Machine, Order};
use crate::profile::{self, Profile, Shape};
use crate::report::{self, Progress, RunFolder};
use crate::signaling;
use crate::types::mask_urls;
use anyhow::{Result, bail};
use clap::Args;
use experiment::Experiment;
use interrupts::Interrupts;
use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The profile, e.g. profiles/demo.toml.
    profile: PathBuf,
    /// Override a value: --set rooms.0.count=10 (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Run folder; default: a new one under reports/, named by time and profile.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run again, at most so many times, while the verdict is unknown; each try has a run folder of its own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry_unknown: u32,
}

/// Runs a profile. Gives the exit code of its verdict.
pub fn run(args: &RunArgs) -> Result<u8> {
    let profile = match profile::load(&args.profile, &args.sets) {
        Ok(p) => Arc::new(p),
        Err(e) => {
            write_err(&format!("{e}"));
            return Ok(exit::BAD_PROFILE);
        }
    };
    // All runs of a series are looked at before the first one.
    let runs: Vec<&Profile> = if profile.series.is_some() { profile.runs.iter().collect() } else { vec![&profile] };
    let machine = Machine::read();
    let mut planned = Vec::new();
    for run in runs {
        let plan = Arc::new(plan::plan(run));
        match fits(args, run, &plan, &machine)? {
            Ok(limits) => planned.push((plan, limits)),
            Err(Misfit) => return Ok(exit::BAD_PROFILE),
        }
    }
    crate::engine::socket::raise_descriptor_limit();
    let interrupts = Interrupts::listen()?;
    let mut tried = 0;
    loop {
        let code = match (&profile.series, planned.first()) {
            (Some(series), _) => series::once(args, &profile, series, tried, &Machine::read, &interrupts)?,
            (None, Some((plan, limits))) => {
                let started = OffsetDateTime::now_utc();
                one(&profile, plan, limits, started, &folder(args, &profile, started, tried)?, &interrupts)?
            }
            (None, None) => bail!("nothing was planned"),
        };
        if code != exit::UNKNOWN || tried == args.retry_unknown {
            if tried > 0 {
                write_err(&format!("{} tries, each in its own run folder; the last one counts.", tried + 1));
            }
            return Ok(code);
        }
        tried += 1;
        write_err(&format!("Unknown: trying again, {tried} of {} (--retry-unknown).", args.retry_unknown));
    }
}

/// The plan asks too much of this machine; said already.
struct Misfit;

/// What this machine has for a plan, as the history takes it.
fn fits(
    args: &RunArgs,
    profile: &Profile,
    plan: &plan::Plan,
    machine: &Machine,
) -> Result<Result<serde_json::Value, Misfit>> {
    let limits = plan::limits(profile, plan, signaling::transports(&profile.target), machine);
    for problem in limits.problems() {
        write_err(&format!("{}: does not fit this machine: {problem}", args.profile.display()));
    }
    Ok(if limits.fit() { Ok(serde_json::to_value(&limits)?) } else { Err(Misfit) })
}

/// The folder of the first try, or of a further one.
fn folder(args: &RunArgs, profile: &Profile, started: OffsetDateTime, tried: u32) -> Result<RunFolder> {
    Ok(match &args.out {
        Some(dir) if tried == 0 => RunFolder::at(dir)?,
        Some(dir) => RunFolder::at(&numbered(dir, tried + 1))?,
        None => RunFolder::create(Path::new("reports"), &profile.name, started)?,
    })
}

/// One run; gives its exit code.
fn one(
    profile: &Arc<Profile>,
    plan: &Arc<plan::Plan>,
    limits: &serde_json::Value,
    started: OffsetDateTime,
    folder: &RunFolder,
    interrupts: &Interrupts,
) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(perform(profile, plan, limits.clone(), started, folder, interrupts));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    let ended = match ended {
        // Nobody has joined, and there is nothing to judge.
        Err(e) if e.is::<Interrupted>() => return Ok(exit::INTERRUPTED),
        ended => ended?,
    };
    // What happened is judged even where the run broke off or the disk is full; then the tool failed all the same.
    let judged = super::report::after_run(folder.path(), ended.tail);
    if let Some(trouble) = ended.trouble {
        if let Err(e) = judged {
            tracing::error!("{}", super::explain(&e));
        }
        return Err(trouble);
    }
    let code = judged?;
    Ok(if ended.interrupted { exit::INTERRUPTED } else { u8::try_from(code)? })
}

/// `out`, `out-2`, `out-3` …
fn numbered(dir: &Path, nth: u32) -> PathBuf {
    let mut name = dir.file_name().map_or_else(|| "run".into(), std::ffi::OsStr::to_os_string);
    name.push(format!("-{nth}"));
    dir.with_file_name(name)
}

/// How a run ended.
struct Ended {
    interrupted: bool,
    /// Lines of the history that the disk did not take.
    tail: Vec<u8>,
    trouble: Option<anyhow::Error>,
}

async fn perform(
    profile: &Arc<Profile>,
    plan: &Arc<plan::Plan>,
    limits: serde_json::Value,
    started: OffsetDateTime,
    folder: &RunFolder,
    interrupts: &Interrupts,
) -> Result<Ended> {
    write_err(&format!(
        "{}: {} participants in {} rooms, seed {}, into {}",
        profile.name,
        plan.legs.len(),
        plan.rooms.len(),
        plan.seed,
        folder.path().display()
    ));
    let started_at = started.format(&Rfc3339)?;
    // First: a folder that can't be written to is known before the target has any work with us.
    let writer = history::Writer::create(folder.path())?;
    let (mut stage, experiment) = match set(profile, plan, folder, interrupts).await {
        Ok(set) => set,
        Err(e) => {
            // Nothing happened; whoever tries again finds the folder as it was.
            let _ = std::fs::remove_file(writer.path());
            return Err(e);
        }
    };
    stage.conductor.control = experiment.as_ref().and_then(|e| e.control.clone());
    let writer = Rc::new(RefCell::new(writer));
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1000.0;
    writer.borrow_mut().append(&Line {
        t: 0.0,
        event: Event::Run(RunInfo {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: format!("{:08x}", stage.run_id),
            profile: profile.name.clone(),
            shape: profile.shape.as_str().to_owned(),
            seed: plan.seed,
            started_at,
            epoch_ns: stage.conductor.epoch_ns,
            resolved: profile.resolved.clone(),
            hold_from_ms: ms(plan.hold_from),
            hold_until_ms: ms(plan.hold_until),
            legs_planned: plan.legs.len() as u32,
            join_timeout_ms: ms(profile.load.join_timeout),
            limits,
        }),
    });
    let mut live = Live::new();
    let search = capacity::Setting::of(profile).map(|s| Rc::new(RefCell::new(capacity::Search::new(s))));
    let mut course = match (&search, &experiment) {
        (Some(search), _) => Some(Deciding::Search(search.clone())),
        (None, Some(experiment)) => Some(Deciding::Script(experiment.clone(), writer.clone())),
        (None, None) => None,
    };
    // In an experiment servers come and go; there the fleet's backends look.
    let watch = (profile.shape != Shape::ScaleIn).then(|| observe::Watch::start(&profile.target, stage.fleet.as_ref()));
    let outcome = stage
        .conductor
        .run_course(
            course.as_mut().map(|c| c as &mut dyn Course),
            &mut |line| {
                // What servers cost is known a moment after their second.
                for usage in watch.iter().flat_map(observe::Watch::take) {
                    let line = Line { t: line.t, event: Event::Usage(usage) };
                    writer.borrow_mut().append(&line);
                    if let Some(search) = &search {
                        search.borrow_mut().see(&line);
                    }
                }
                if let Some(search) = &search {
                    search.borrow_mut().see(&line);
                }
                if let Some(experiment) = &experiment {
                    // Also when nobody asks the script any more.
                    for news in experiment.news() {
                        experiment.script.borrow_mut().see(&news);
                        writer.borrow_mut().append(&news);
                    }
                    experiment.script.borrow_mut().see(&line);
                }
                writer.borrow_mut().append(&line);
            },
            &mut |p| {
                writer.borrow_mut().flush();
                let mut shown = Progress::of(p.t_ms, p.phase, p.planned, &p.interval, &p.health);
                (shown.failed, shown.dropped) = (p.failed, p.dropped);
                let trial = search.as_ref().map(|s| s.borrow().progress());
                let doing = trial.or_else(|| experiment.as_ref().map(|e| e.script.borrow().progress()));
                live.show(&format!("{}{}", doing.unwrap_or_default(), report::progress_line(&shown)));
            },
            interrupts.told("ending the calls, then judging what was seen."),
        )
        .await;
    live.end();
    if let (Err(_), Some(experiment)) = (&outcome, &experiment) {
        experiment.roll_back(&mut |line| writer.borrow_mut().append(&line)).await;
    }
    drop(watch);
    stage.strike().await;
    drop(course);
    drop(experiment);
    let Some(writer) = Rc::into_inner(writer) else { bail!("the history is still written to") };
    let (tail, disk) = writer.into_inner().finish();
    let (interrupted, broken) = match outcome {
        Ok(o) => (o.interrupted, None),
        Err(e) => (false, Some(e.context("the run broke off; what happened until then was judged"))),
    };
    Ok(Ended { interrupted, tail, trouble: broken.or(disk.map(anyhow::Error::msg)) })
}

/// The stage, and what a scale-in adds to it.
async fn set(
    profile: &Arc<Profile>,
    plan: &Arc<plan::Plan>,
    folder: &RunFolder,
    interrupts: &Interrupts,
) -> Result<(Stage, Option<Rc<Experiment>>)> {
    let stage = Stage::set(profile.clone(), plan.clone(), interrupts.told("taking back what was prepared.")).await?;
    let start = (stage.conductor.epoch, stage.conductor.epoch_ns);
    match Experiment::of(profile, plan, stage.fleet.as_ref(), folder, start) {
        Ok(experiment) => Ok((stage, experiment.map(Rc::new))),
        Err(e) => {
            stage.strike().await;
            Err(e)
        }
    }
}

/// Who decides as the run goes: the engine asks, and the history tells.
enum Deciding {
    Search(Rc<RefCell<capacity::Search>>),
    Script(Rc<Experiment>, Rc<RefCell<history::Writer>>),
}

impl Course for Deciding {
    fn due(&mut self, now: Duration) -> Option<Order> {
        match self {
            Deciding::Search(search) => search.borrow_mut().due(now),
            Deciding::Script(experiment, writer) => {
                let mut script = experiment.script.borrow_mut();
                for line in experiment.news() {
                    script.see(&line);
                    writer.borrow_mut().append(&line);
                }
                script.due(now)
            }
        }
    }

    fn wake(&self, now: Duration) -> Duration {
        match self {
            Deciding::Search(search) => search.borrow().wake(now),
            Deciding::Script(experiment, _) => experiment.script.borrow().wake(now),
        }
    }

    fn interrupt(&mut self, now: Duration) -> bool {
        match self {
            Deciding::Search(_) => false,
            Deciding::Script(experiment, _) => experiment.script.borrow_mut().interrupt(now),
        }
    }

    fn linger(&self) -> Duration {
        match self {
            Deciding::Search(_) => Duration::ZERO,
            Deciding::Script(experiment, _) => experiment.script.borrow().linger(),
        }
    }
}

/// One line that renews itself on a terminal; a plain line a second elsewhere.
struct Live {
    terminal: bool,
}

impl Live {
    fn new() -> Live {
        Live { terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, line: &str) {
        let mut e = std::io::stderr().lock();
        let line = mask_urls(line);
        // A closed stderr must not end a run.
        let _ = if self.terminal { write!(e, "\r\x1b[2K{line}") } else { writeln!(e, "{line}") };
        let _ = e.flush();
    }

    fn end(&mut self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn write_err(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", mask_urls(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn profile(port: u16) -> Arc<Profile> {
        let text = format!(
            "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\n\
             audio = \"opus@32kbit/s\"\n[load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n\
             [target_file]\ndriver = \"janus\"\n[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://127.0.0.1:{port}\"\n"
        );
        Arc::new(profile::parse_resolved(&text).unwrap_or_else(|e| panic!("{e}")))
    }

    fn fails(port: u16, folder: &RunFolder) -> String {
        let profile = profile(port);
        let plan = Arc::new(plan::plan(&profile));
        let (at, interrupts) = (OffsetDateTime::UNIX_EPOCH, Interrupts::made_up(false));
        let error = one(&profile, &plan, &serde_json::Value::Null, at, folder, &interrupts).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_folder_that_takes_no_history_is_known_before_the_target_hears_of_us() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        target.set_nonblocking(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join(history::FILE_NAME)).unwrap();
        let error = fails(target.local_addr().unwrap().port(), &folder);
        assert!(error.contains("can't create") && error.contains(history::FILE_NAME), "{error}");
        assert_eq!(target.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_run_that_never_began_leaves_the_folder_for_the_next_one() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let error = fails(port, &RunFolder::at(dir.path()).unwrap());
        assert!(error.contains("j1") && error.contains("refused"), "{error}");
        assert!(RunFolder::at(dir.path()).is_ok());
    }
}
