//! Three Janus, a registry in Redis and a director: the fleet of profiles/targets/janus-fleet.toml.

use super::janus::{ADMIN_KEY, ADMIN_SECRET, Janus};
use super::redis::Redis;
use super::roomful::{Ended, Run};
use super::{artifacts, folder, netns, program, until};
use roomful::history::{Event, LegEnd, StepStage};
use roomful::types::LegId;
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DIRECTOR: &str = "10.77.0.1:7000";

pub struct JanusFleet {
    pub servers: Vec<Janus>,
    director: Child,
    _redis: Redis,
    pids: tempfile::TempDir,
}

impl JanusFleet {
    /// All of it; `more` are further arguments of the director.
    pub async fn start(more: &[&str]) -> JanusFleet {
        let redis = Redis::start_at((netns::address(1), 6379).into());
        let pids = tempfile::tempdir().unwrap();
        let mut servers = Vec::new();
        let mut arguments = Vec::new();
        for n in 0..3 {
            let janus = Janus::start(n).await;
            let pid_file = pids.path().join(format!("{}.pid", janus.name));
            std::fs::write(&pid_file, janus.pid().to_string()).unwrap();
            let admin = format!("http://10.77.0.1:{}/admin", 7088 + n);
            arguments.extend([
                "--server".to_owned(),
                format!("{},{},{admin},{}", janus.name, janus.url, pid_file.display()),
            ]);
            servers.push(janus);
        }
        let log = std::fs::File::create(artifacts().join(format!("director-{}.log", std::process::id()))).unwrap();
        let director = Command::new(program("python3"))
            .arg(folder().join("fleet/director.py"))
            .args(["--listen", DIRECTOR, "--redis", &redis.address.to_string()])
            .args(arguments)
            .args(more)
            .env("JANUS_ADMIN_SECRET", ADMIN_SECRET)
            .env("JANUS_ADMIN_KEY", ADMIN_KEY)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let fleet = JanusFleet { servers, director, _redis: redis, pids };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        until("the director sees all servers", Duration::from_secs(20), async || {
            for janus in &fleet.servers {
                let url = format!("http://{DIRECTOR}/metrics/{}", janus.name);
                let answer = client.get(url).send().await.ok()?;
                answer.status().is_success().then_some(())?;
            }
            Some(())
        })
        .await;
        fleet
    }

    /// A run against it.
    pub fn run(&self, name: &str, profile: &str, sets: &[&str]) -> Run {
        let pid_file = |j: &Janus| {
            format!(
                "target_file.servers.{}.pid_file={}",
                j.name,
                self.pids.path().join(format!("{}.pid", j.name)).display()
            )
        };
        let mut all: Vec<String> = self.servers.iter().map(pid_file).collect();
        all.extend(sets.iter().map(|s| (*s).to_owned()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        Run::start(&self.servers[0], name, profile, &all)
    }
}

impl Drop for JanusFleet {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.director.kill();
        let _ = self.director.wait();
    }
}

/// When an operation was asked for and when it was acknowledged, ms since the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub begun: f64,
    pub done: f64,
}

impl Ended {
    /// A step by its name in the profile; it must have been done.
    pub fn operation(&self, name: &str) -> (Operation, String) {
        let stage = |wanted: StepStage| {
            let mut lines = self.history.iter();
            lines.find_map(|l| match &l.event {
                Event::Step(s) if s.name == name && s.stage == wanted => {
                    Some((l.t, s.server.clone().unwrap_or_default()))
                }
                _ => None,
            })
        };
        let found = stage(StepStage::Begun).zip(stage(StepStage::Done));
        let ((begun, _), (done, server)) = found.unwrap_or_else(|| panic!("{name} was not done: {}", self.printed));
        (Operation { begun, done }, server)
    }

    /// Where each leg that joined landed, and when.
    pub fn landed(&self) -> BTreeMap<LegId, (String, f64)> {
        let names: Vec<&str> = self
            .history
            .iter()
            .filter_map(|l| if let Event::Server(s) = &l.event { Some(s.name.as_str()) } else { None })
            .collect();
        let joined = self.history.iter().filter_map(|l| match &l.event {
            Event::Joined { leg, server, .. } => Some((*leg, (names[server.index()].to_owned(), l.t))),
            _ => None,
        });
        joined.collect()
    }

    /// Leg → the one that came back for it.
    pub fn successors(&self) -> BTreeMap<LegId, LegId> {
        let starts = self.history.iter().filter_map(|l| match &l.event {
            Event::JoinStart { leg, rejoins: Some(fallen), .. } => Some((*fallen, leg.id)),
            _ => None,
        });
        starts.collect()
    }

    /// Ends of the legs that were on a server at a time, with the time of their end.
    pub fn on(&self, server: &str, t: f64) -> Vec<(f64, &LegEnd)> {
        let landed = self.landed();
        let there = |leg: LegId| landed.get(&leg).is_some_and(|(s, at)| s == server && *at < t);
        let ends = self.history.iter().filter_map(|l| match &l.event {
            Event::LegEnd(end) if there(end.leg) && l.t > t => Some((l.t, end)),
            _ => None,
        });
        ends.collect()
    }

    /// Verdict of each invariant.
    pub fn invariants(&self) -> BTreeMap<String, String> {
        let list = self.summary["scale_in"]["invariants"].as_array();
        let list = list.unwrap_or_else(|| panic!("no invariants: {}", self.printed));
        let pair =
            |i: &serde_json::Value| (i["id"].as_str().unwrap().to_owned(), i["verdict"].as_str().unwrap().to_owned());
        list.iter().map(pair).collect()
    }
}
