//! What end-to-end tests share: roomful as a process with a run folder of its own, and what it left there.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use roomful::history::{self, Event, Line, Reading};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test.
pub const ROOMFUL: &str = env!("CARGO_BIN_EXE_roomful");

/// Nothing here takes half of it; a machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A profile's top: `rooms` is the text of its `[[rooms]]`, `pass` of its `[pass]`. Tests share two cores with other
/// tests: that the generator was late is no news here, so it does not make a run inconclusive.
pub fn profile(target: &str, rooms: &str, hold: &str, pass: &[&str]) -> String {
    let quoted = |line: &&str| {
        let (metric, limit) = line.split_once(' ').unwrap();
        format!("\"{metric}\" = \"{limit}\"\n")
    };
    let pass: String = pass.iter().map(quoted).collect();
    format!(
        "shape = \"steady\"\ntarget = \"{target}\"\nseed = 7\n{rooms}\n[load]\njoin = \"20/s\"\nwarmup = \"1s\"\n\
         hold = \"{hold}\"\njoin_timeout = \"10s\"\n[pass]\n{pass}\n\
         [health]\nshard_cpu_max = \"100%\"\nsteal_max = \"100%\"\nlateness_p99_max = \"10s\"\nsocket_drops_max = \"100%\"\ntimer_p99_max = \"10s\"\n\
         reference_loss_max = \"100%\"\nreference_delay_p99_max = \"10s\"\nreference_jitter_max = \"10s\"\n"
    )
}

/// One `[[rooms]]` of participants that all send, with further `keys`.
pub fn rooms(name: &str, count: u32, size: u32, keys: &str) -> String {
    format!("[[rooms]]\nname = \"{name}\"\ncount = {count}\nsize = {size}\naudio = \"opus@32kbit/s\"\n{keys}\n")
}

pub const VIDEO: &str = "video = \"vp8@150kbit/s\"";

/// A folder with a profile in it, where a run is to happen.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn with(profile: &str) -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        place.write("profile.toml", profile);
        place
    }

    /// With a target file of driver `embedded` besides.
    pub fn against(url: &str, profile: &str) -> Place {
        let place = Place::with(profile);
        let target = format!("driver = \"embedded\"\n[[servers]]\nid = \"fleet\"\nurl = \"{url}\"\n");
        place.write("target.toml", &target);
        place
    }

    /// The same, of a director whose servers (their ids and addresses) the target file names.
    pub fn against_servers(director: &str, servers: &[(&str, &str)], profile: &str) -> Place {
        let place = Place::with(profile);
        let server = |(id, url): &(&str, &str)| format!("[[servers]]\nid = \"{id}\"\nurl = \"{url}\"\n");
        let servers: String = servers.iter().map(server).collect();
        place.write("target.toml", &format!("driver = \"embedded\"\ndirector = \"{director}\"\n{servers}"));
        place
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The run folder.
    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// `roomful run profile.toml --out out`.
    pub fn run(&self) -> Process<'_> {
        let mut command = Command::new(ROOMFUL);
        command.arg("run").arg(self.path("profile.toml")).arg("--out").arg(self.out());
        self.start(command)
    }

    pub fn start(&self, mut command: Command) -> Process<'_> {
        let file = |name| std::fs::File::create(self.path(name)).unwrap();
        let child = command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Process { child, place: self }
    }

    /// `roomful report out`, with further arguments.
    pub fn report(&self, args: &[&str]) -> Said {
        let mut command = Command::new(ROOMFUL);
        command.arg("report").arg(self.out()).args(args);
        let output = command.current_dir(self.dir.path()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    pub fn summary(&self) -> Value {
        let path = self.out().join("summary.json");
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}\n{}", path.display(), self.stderr()));
        serde_json::from_str(&text).unwrap()
    }

    pub fn reading(&self) -> Reading {
        history::read(&self.out().join(history::FILE_NAME)).unwrap()
    }

    /// The whole history.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        self.reading().each(|_| true, |line| lines.push(line));
        lines
    }
}

/// A running roomful. Killed when dropped.
pub struct Process<'a> {
    child: Child,
    place: &'a Place,
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Said {
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended.
    pub fn finish(mut self) -> Said {
        let end = Instant::now() + PATIENCE;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "hangs; it said:\n{}", self.place.stderr());
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = |name| std::fs::read_to_string(self.place.path(name)).unwrap();
        Said { code: status.code(), stdout: text("stdout"), stderr: text("stderr") }
    }

    /// Waits for words on its standard error.
    pub fn says(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.place.stderr().contains(words) {
            assert!(self.child.try_wait().unwrap().is_none(), "ended without {words:?}:\n{}", self.place.stderr());
            assert!(Instant::now() < end, "never said {words:?}:\n{}", self.place.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Processes below this one, nearest first: pid and command line.
pub fn descendants(pid: u32) -> Vec<(u32, Vec<String>)> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may end while we look.
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).and_then(|p| p.trim().parse().ok());
        parents.extend(parent.map(|parent| (id, parent)));
    }
    let (mut found, mut next) = (vec![pid], 0);
    while next < found.len() {
        let of = found[next];
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(id, _)| *id));
        next += 1;
    }
    found[1..].iter().map(|pid| (*pid, command_line(*pid))).collect()
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The embedded fleet below a roomful: the director, then its servers.
pub fn fleet_of(pid: u32) -> Vec<(u32, Vec<String>)> {
    let fleet = descendants(pid);
    assert_eq!(fleet[0].1[1], "director", "{fleet:?}");
    assert!(fleet.len() > 1 && fleet[1..].iter().all(|(_, line)| line[1] == "sfu-server"), "{fleet:?}");
    fleet
}

/// Waits until none of them runs any more.
pub fn assert_vanish(processes: &[(u32, Vec<String>)]) {
    // A zombie has a directory too, but no memory map to name.
    let runs = |pid: u32| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
    let end = Instant::now() + Duration::from_secs(10);
    while let Some(left) = processes.iter().find(|(pid, _)| runs(*pid)) {
        assert!(Instant::now() < end, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is common to all orderly ends of a run.
pub fn assert_ended(lines: &[Line], interrupted: bool) {
    assert_eq!(lines.last().unwrap().event, Event::End { interrupted });
}
