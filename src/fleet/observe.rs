//! What servers cost while they are loaded: CPU, memory, pressure, network. Once a second from `/proc` for a local
//! process, from the embedded fleet's own counters, from a Prometheus endpoint, or from a command.

mod proc; // pure: the texts of /proc and cgroups
pub(super) mod prometheus; // pure: the texts of Prometheus endpoints

use super::embedded::{EmbeddedFleet, ServerHandle};
use crate::history::Usage;
use crate::outside;
use crate::profile::{ServerEntry, Target, TurnEntry};
use crate::sfu::ServerStats;
use anyhow::{Context as _, Result};
use proc::{Counters, Machine};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const EVERY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);
/// An answer longer than this is none.
const TEXT_MAX: usize = 4 << 20;

/// Watches the servers of a target until it is dropped.
pub struct Watch {
    seen: std::cell::RefCell<UnboundedReceiver<Usage>>,
    tasks: Vec<tokio::task::AbortHandle>,
}

/// Where one server's numbers come from.
#[derive(Clone, Default, Debug)]
struct Source {
    server: String,
    pid: Option<Pid>,
    /// The embedded server's `/stats`.
    stats: Option<String>,
    prometheus: Option<String>,
    command: Vec<String>,
    /// Cores that it may use, where it keeps a quota of its own.
    quota: Option<f64>,
}

#[derive(Clone, Debug)]
enum Pid {
    Is(u32),
    File(PathBuf),
}

impl Watch {
    /// Starts to watch all servers that can be watched. `embedded`: our own fleet.
    pub fn start(target: &Target, embedded: Option<&EmbeddedFleet>) -> Watch {
        let (out, seen) = unbounded_channel();
        let sources: Vec<Source> = match target {
            Target::Embedded(t) => {
                let quota = (t.cpu_max < 1.0).then_some(t.cpu_max);
                let servers = embedded.map(EmbeddedFleet::servers).unwrap_or_default();
                let turn = embedded.map(EmbeddedFleet::turn_servers).unwrap_or_default().iter();
                let turn = turn.map(|t| Source {
                    server: t.id.clone(),
                    pid: Some(Pid::Is(t.pid)),
                    quota: Some(1.0),
                    ..Source::default()
                });
                servers.iter().map(|s| Source::embedded(s, quota)).chain(turn).collect()
            }
            Target::External(t) => {
                t.servers.iter().filter_map(Source::external).chain(t.turn.iter().filter_map(Source::turn)).collect()
            }
        };
        let tasks = sources.into_iter().map(|s| tokio::spawn(watch(s, out.clone())).abort_handle()).collect();
        Watch { seen: std::cell::RefCell::new(seen), tasks }
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Vec<Usage> {
        let mut seen = self.seen.borrow_mut();
        std::iter::from_fn(|| seen.try_recv().ok()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

impl Source {
    fn embedded(s: &ServerHandle, quota: Option<f64>) -> Source {
        Source {
            server: s.id.clone(),
            pid: Some(Pid::Is(s.pid)),
            stats: Some(format!("{}/stats", s.http)),
            // Its media is one thread's work.
            quota: Some(quota.unwrap_or(1.0)),
            ..Source::default()
        }
    }

    /// Of several ways to one server, the one that says where to look.
    fn turn(t: &TurnEntry) -> Option<Source> {
        let watched = t.pid_file.is_some() || t.metrics.is_some();
        watched.then(|| Source {
            server: t.id.clone(),
            pid: t.pid_file.as_ref().map(|p| Pid::File(p.into())),
            prometheus: t.metrics.clone(),
            ..Source::default()
        })
    }

    fn external(s: &ServerEntry) -> Option<Source> {
        let watched = s.pid_file.is_some() || s.metrics.is_some() || !s.observe.is_empty();
        watched.then(|| Source {
            server: s.id.clone(),
            pid: s.pid_file.as_ref().map(|p| Pid::File(p.into())),
            stats: None,
            prometheus: s.metrics.clone(),
            command: s.observe.clone(),
            quota: None,
        })
    }
}

async fn watch(source: Source, out: UnboundedSender<Usage>) {
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build() else { return };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<(Instant, Counters)> = None;
    let mut complained = false;
    loop {
        ticks.tick().await;
        match look(&source, &client).await {
            Ok(now) => {
                let at = Instant::now();
                if let Some((then, old)) = before.replace((at, now.clone())) {
                    let usage = now.since(&old, (at - then).as_secs_f64());
                    if out.send(Usage { server: source.server.clone(), ..usage }).is_err() {
                        return;
                    }
                }
            }
            Err(e) if !complained => {
                complained = true;
                tracing::warn!(server = source.server, "its resources can't be observed: {e:#}");
            }
            // What is not seen is absent in the history.
            Err(_) => before = None,
        }
    }
}

async fn look(source: &Source, client: &reqwest::Client) -> Result<Counters> {
    let mut all = Counters::default();
    if let Some(pid) = &source.pid {
        let pid = match pid {
            Pid::Is(pid) => *pid,
            Pid::File(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("pid_file {}", path.display()))?;
                text.trim().parse().with_context(|| format!("pid_file {}: {:?}", path.display(), text.trim()))?
            }
        };
        all = Counters::of_process(pid, &Machine::read()).with_context(|| format!("process {pid}"))?;
    }
    if let Some(quota) = source.quota {
        all.limit_cores(quota);
    }
    if let Some(url) = &source.stats {
        // A server that is busy or stopped answers late: its process still tells.
        if let Ok(answer) = client.get(url).send().await
            && let Ok(stats) = answer.json::<ServerStats>().await
        {
            all.packets_out = Some(stats.traffic.datagrams_out as f64);
            all.bytes_out = Some(stats.traffic.bytes_out as f64);
            all.cascade_packets = Some(stats.traffic.cascade_out as f64);
            all.cascade_bytes = Some(stats.traffic.cascade_bytes_out as f64);
        }
    }
    if let Some(url) = &source.prometheus {
        let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let text = answer.with_context(|| format!("metrics {url}"))?.text().await?;
        anyhow::ensure!(text.len() <= TEXT_MAX, "metrics {url}: longer than {} MiB", TEXT_MAX >> 20);
        all.add_prometheus(&text);
    }
    if let [program, ..] = &source.command[..] {
        let text = outside::run(&source.command, &[("ROOMFUL_SERVER", &source.server)], TIMEOUT).await;
        let text = text.context("observe")?;
        let own: Usage = outside::json(&text).with_context(|| format!("observe: {program}"))?;
        all.told = Some(own);
    }
    Ok(all)
}

/// Anything as the text of a Prometheus endpoint.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(text: &str) {
    let mut counters = Counters::default();
    counters.add_prometheus(text);
    counters.since(&Counters::default(), 1.0);
    prometheus::sum_of_container(text, "sfu_sessions");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_and_our_own_process_can_be_watched() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        std::fs::write(&pid_file, std::process::id().to_string()).unwrap();
        let source = Source {
            server: "a".into(),
            pid: Some(Pid::File(pid_file)),
            command: ["sh", "-c", "echo '{\"cpu_cores\": 0.5, \"memory_bytes\": 7}'"].map(String::from).into(),
            ..Source::default()
        };
        let client = reqwest::Client::new();
        let one = look(&source, &client).await.unwrap();
        let two = look(&source, &client).await.unwrap();
        let usage = two.since(&one, 1.0);
        // What the command tells stands above what we read.
        assert_eq!((usage.cpu_cores, usage.memory_bytes), (Some(0.5), Some(7)));
        assert!(usage.cores.unwrap() >= 1.0 && usage.busiest_thread.is_some() && usage.run_queue.is_some());
    }

    #[tokio::test]
    async fn what_cannot_be_observed_says_why() {
        let client = reqwest::Client::new();
        let of = |source: Source| {
            let client = client.clone();
            async move { format!("{:#}", look(&source, &client).await.unwrap_err()) }
        };
        let no_file = Source { pid: Some(Pid::File("/nowhere/pid".into())), ..Source::default() };
        assert!(of(no_file).await.contains("pid_file /nowhere/pid"));
        let fails = Source { command: vec!["false".into()], ..Source::default() };
        assert!(of(fails).await.contains("observe: false: exit status: 1"));
        let prose = Source { command: ["echo", "hello"].map(String::from).into(), ..Source::default() };
        assert!(of(prose).await.contains("observe: echo"));
    }
}
