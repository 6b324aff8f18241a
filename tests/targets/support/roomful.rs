//! The `roomful` binary as a user starts it, and what its run folder says.

use super::coturn;
use super::janus::{ADMIN_KEY, ADMIN_SECRET, Janus};
use super::{artifacts, folder, program, until};
use roomful::history::{Event, Line, Phase};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A run that has been started. Killed when dropped.
pub struct Run {
    pub out: PathBuf,
    log: PathBuf,
    child: Child,
}

/// What a run left behind.
pub struct Ended {
    pub code: i32,
    pub summary: Value,
    pub history: Vec<Line>,
    /// Standard output and standard error.
    pub printed: String,
}

fn against(janus: &Janus) {
    assert_eq!(janus.url, "ws://10.77.0.1:8188", "as profiles/targets/janus.toml says");
}

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomful"));
    // As from the repository's root, where users start it.
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("JANUS_ADMIN_KEY", ADMIN_KEY)
        .env("JANUS_ADMIN_SECRET", ADMIN_SECRET)
        .env("TURN_PASSWORD", coturn::PASSWORD)
        .env("TURN_SECRET", coturn::SECRET)
        .env("COTURN_CLI_PASSWORD", coturn::CLI_PASSWORD)
        .stdin(Stdio::null());
    command.env("NO_COLOR", "1").env_remove("RUST_LOG");
    command
}

/// `roomful check PROFILE --probe …`, to its end.
pub fn probe(janus: &Janus, profile: &str, sets: &[&str]) -> Output {
    against(janus);
    let mut command = binary();
    command.args(["check", profile, "--probe"]);
    command.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap()
}

impl Run {
    /// `roomful run PROFILE --set … --out target/tmp/NAME`.
    pub fn start(janus: &Janus, name: &str, profile: &str, sets: &[&str]) -> Run {
        against(janus);
        Run::alone(name, profile, sets)
    }

    /// The same on one core.
    pub fn start_on(core: &str, janus: &Janus, name: &str, profile: &str, sets: &[&str]) -> Run {
        against(janus);
        let mut pinned = Command::new(program("taskset"));
        let ours = binary();
        pinned.args(["-c", core]).arg(ours.get_program()).current_dir(ours.get_current_dir().unwrap());
        pinned.envs(ours.get_envs().filter_map(|(k, v)| Some((k, v?)))).env_remove("RUST_LOG").stdin(Stdio::null());
        Run::by(pinned, name, profile, sets)
    }

    /// The same, with no Janus in it.
    pub fn alone(name: &str, profile: &str, sets: &[&str]) -> Run {
        Run::by(binary(), name, profile, sets)
    }

    fn by(mut command: Command, name: &str, profile: &str, sets: &[&str]) -> Run {
        let out = artifacts().join(name);
        // Left by an earlier test run.
        let _ = fs::remove_dir_all(&out);
        let log = artifacts().join(format!("{name}.log"));
        let printed = fs::File::create(&log).unwrap();
        let child = command
            .args(["run", profile, "--out"])
            .arg(&out)
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .stdout(printed.try_clone().unwrap())
            .stderr(printed)
            .spawn()
            .unwrap();
        Run { out, log, child }
    }

    /// The history so far; a line that is still being written is left out.
    pub fn history(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.out.join("history.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the history, which is written once a second, says that judging has begun.
    pub async fn holds(&mut self) {
        until("the run holds", Duration::from_secs(60), async || {
            assert!(self.child.try_wait().unwrap().is_none(), "ended early: {}", self.printed());
            self.history().iter().any(|l| matches!(l.event, Event::Phase { phase: Phase::Hold })).then_some(())
        })
        .await;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, generously.
    pub async fn ended(self) -> Ended {
        self.ended_within(Duration::from_secs(90)).await
    }

    pub async fn ended_within(mut self, within: Duration) -> Ended {
        let status = until("the run ends", within, async || self.child.try_wait().unwrap()).await;
        let summary = fs::read_to_string(self.out.join("summary.json"));
        let summary = summary.unwrap_or_else(|e| panic!("no summary.json ({e}): {}", self.printed()));
        let code = status.code().unwrap_or_else(|| panic!("ended by a signal: {}", self.printed()));
        let summary = serde_json::from_str(&summary).unwrap();
        Ended { code, summary, history: self.history(), printed: self.printed() }
    }

    /// SIGKILL; its run folder.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.out.clone()
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Over already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// A number of summary.json by its path.
    pub fn number(&self, path: &str) -> f64 {
        let value = path.split('.').fold(&self.summary, |v, key| &v[key]);
        value.as_f64().unwrap_or_else(|| panic!("{path} is {value}: {}", self.printed))
    }

    pub fn leg_ends(&self) -> impl Iterator<Item = &roomful::history::LegEnd> {
        self.history.iter().filter_map(|l| if let Event::LegEnd(end) = &l.event { Some(end) } else { None })
    }

    /// Names of the rooms, by their number.
    pub fn room_names(&self) -> Vec<String> {
        let rooms =
            self.history.iter().find_map(|l| if let Event::Rooms { rooms } = &l.event { Some(rooms) } else { None });
        rooms.unwrap().iter().map(|room| room.name.clone()).collect()
    }

    /// Names of the participants, by the number of their leg.
    pub fn leg_names(&self) -> Vec<String> {
        let starts = self.history.iter().filter_map(|l| match &l.event {
            Event::JoinStart { leg, .. } => Some((leg.id, leg.name.clone())),
            _ => None,
        });
        let mut names: Vec<_> = starts.collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// A profile beside the tests.
pub fn own_profile(name: &str) -> String {
    folder().join("profiles").join(name).display().to_string()
}
