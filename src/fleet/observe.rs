//! What servers cost while they are loaded: CPU, memory, pressure, network. Once a second from `/proc` for a local
//! process, from the embedded fleet's own counters, from a Prometheus endpoint, or from a command.

mod proc; // pure: the texts of /proc and cgroups
pub(super) mod prometheus; // pure: the texts of Prometheus endpoints

use super::embedded::{EmbeddedFleet, ServerHandle};
use crate::history::Usage;
use crate::outside;
use crate::profile::{EmbeddedTarget, ExternalTarget, ServerEntry, Target, TurnEntry};
use crate::sfu::ServerStats;
use anyhow::{Context as _, Result};
use proc::{Counters, Machine};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const EVERY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);
/// Over less than this, what the counters of one look lag behind its time would count for too much.
const ROW_MIN: Duration = Duration::from_millis(500);
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
    /// Cores that it may use: where it keeps a quota of its own, and where the user says so, which stands above all that is
    /// observed.
    quota: Option<f64>,
    cores: Option<f64>,
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
                let servers = embedded.map(EmbeddedFleet::servers).unwrap_or_default();
                let turn = embedded.map(EmbeddedFleet::turn_servers).unwrap_or_default().iter();
                let turn = turn.map(|t| Source {
                    server: t.id.clone(),
                    pid: Some(Pid::Is(t.pid)),
                    quota: Some(1.0),
                    ..Source::default()
                });
                servers.iter().map(|s| Source::of_embedded(t, s)).chain(turn).collect()
            }
            Target::External(t) => t
                .servers
                .iter()
                .filter_map(|s| Source::external(t, s))
                .chain(t.turn.iter().filter_map(Source::turn))
                .collect(),
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
    fn of_embedded(t: &EmbeddedTarget, s: &ServerHandle) -> Source {
        Source {
            server: s.id.clone(),
            pid: Some(Pid::Is(s.pid)),
            stats: Some(format!("{}/stats", s.http)),
            // Its media is one thread's work.
            quota: Some(t.cpu_max_of(&s.id)),
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
            cores: t.cores,
            ..Source::default()
        })
    }

    fn external(t: &ExternalTarget, s: &ServerEntry) -> Option<Source> {
        // Of a director's servers the addresses are those of their own APIs.
        let own = t.director.is_some().then(|| format!("{}/stats", s.url.trim_end_matches('/')));
        let watched = s.pid_file.is_some() || s.metrics.is_some() || !s.observe.is_empty() || own.is_some();
        watched.then(|| Source {
            server: s.id.clone(),
            pid: s.pid_file.as_ref().map(|p| Pid::File(p.into())),
            // Its media is one thread's work, on whatever machine that is.
            quota: own.is_some().then_some(1.0),
            stats: own,
            prometheus: s.metrics.clone(),
            command: s.observe.clone(),
            cores: s.cores,
        })
    }
}

async fn watch(source: Source, out: UnboundedSender<Usage>) {
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build() else { return };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = Looks::default();
    let mut complained = false;
    loop {
        ticks.tick().await;
        match look(&source, &client).await {
            Ok((at, now)) => {
                if let Some(usage) = looks.row(at, now)
                    && out.send(Usage { server: source.server.clone(), ..usage }).is_err()
                {
                    return;
                }
            }
            Err(e) if !complained => {
                complained = true;
                tracing::warn!(server = source.server, "its resources can't be observed: {e:#}");
            }
            // What is not seen is absent in the history.
            Err(_) => looks = Looks::default(),
        }
    }
}

/// The last look that a row began with.
#[derive(Default)]
struct Looks(Option<(Instant, Counters)>);

impl Looks {
    /// What was used since the last row. None at the first look, and where the last row is no [`ROW_MIN`] ago (after a look
    /// that took long, the next one follows at once): the row after it has that time, too.
    fn row(&mut self, at: Instant, now: Counters) -> Option<Usage> {
        match &self.0 {
            Some((then, old)) => {
                let seconds = at.saturating_duration_since(*then);
                if seconds < ROW_MIN {
                    return None;
                }
                let usage = now.since(old, seconds.as_secs_f64());
                self.0 = Some((at, now));
                Some(usage)
            }
            None => {
                self.0 = Some((at, now));
                None
            }
        }
    }
}

/// A server's counters, and when they were read. Answers may be seconds in coming; `/proc` is not, and is read after them.
async fn fetch(client: &reqwest::Client, url: &str) -> Result<String> {
    let answer = client.get(url).send().await?.error_for_status()?;
    Ok(outside::text(answer, TEXT_MAX).await?)
}

async fn look(source: &Source, client: &reqwest::Client) -> Result<(Instant, Counters)> {
    let told = match &source.command[..] {
        [program, ..] => {
            let text = outside::run(&source.command, &[("ROOMFUL_SERVER", &source.server)], TIMEOUT).await;
            let text = text.context("observe")?;
            Some(outside::json::<Usage>(&text).with_context(|| format!("observe: {program}"))?)
        }
        [] => None,
    };
    let prometheus = match &source.prometheus {
        Some(url) => Some(fetch(client, url).await.with_context(|| format!("metrics {url}"))?),
        None => None,
    };
    let stats = match &source.stats {
        Some(url) => match fetch(client, url).await {
            Ok(text) => {
                let stats: ServerStats = outside::json(&text).with_context(|| format!("stats {url}"))?;
                // After a restart of the fleet, an address may be another server's.
                let who = (&stats.id, &source.server);
                anyhow::ensure!(who.0 == who.1, "stats {url}: answers as {:?}, not as {:?}", who.0, who.1);
                Some(stats)
            }
            // A server that is busy or stopped answers late: what else is there still tells.
            Err(_) if source.pid.is_some() || prometheus.is_some() || told.is_some() => None,
            Err(e) => return Err(e).with_context(|| format!("stats {url}")),
        },
        None => None,
    };
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
    let at = Instant::now();
    if let Some(stats) = stats {
        if source.pid.is_none() {
            all.of_server(stats.cpu_seconds, stats.resident_bytes);
        }
        all.packets_out = Some(stats.traffic.datagrams_out as f64);
        all.bytes_out = Some(stats.traffic.bytes_out as f64);
        all.cascade_packets = Some(stats.traffic.cascade_out as f64);
        all.cascade_bytes = Some(stats.traffic.cascade_bytes_out as f64);
    }
    if let Some(text) = prometheus {
        all.add_prometheus(&text);
    }
    all.told = told;
    all.given_cores = source.cores;
    Ok((at, all))
}

/// Anything as the text of a Prometheus endpoint.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(text: &str) {
    let mut counters = Counters::default();
    counters.add_prometheus(text);
    counters.since(&Counters::default(), 1.0);
    prometheus::sum(text, "sfu_sessions", &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

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
        let (_, one) = look(&source, &client).await.unwrap();
        let (_, two) = look(&source, &client).await.unwrap();
        let usage = two.since(&one, 1.0);
        // What the command tells stands above what we read.
        assert_eq!((usage.cpu_cores, usage.memory_bytes), (Some(0.5), Some(7)));
        assert!(usage.cores.unwrap() >= 1.0 && usage.busiest_thread.is_some() && usage.run_queue.is_some());
    }

    /// An answer may take seconds: CPU that was read before it would belong to the time before.
    #[tokio::test]
    async fn proc_is_read_after_all_that_may_take_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let writes = format!("echo {} > {}; echo '{{}}'", std::process::id(), pid_file.display());
        let source = Source {
            pid: Some(Pid::File(pid_file)),
            command: ["sh", "-c", &writes].map(String::from).into(),
            ..Source::default()
        };
        let begun = Instant::now();
        let (at, seen) = look(&source, &reqwest::Client::new()).await.unwrap();
        assert!(at > begun && seen.since(&seen, 1.0).memory_bytes.is_some());
    }

    /// The look after one that took 2.5 s follows at once: what was used meanwhile is not of that moment.
    #[test]
    fn looks_close_to_each_other_make_one_row() {
        let start = Instant::now();
        let mut looks = Looks::default();
        let mut row = |ms: u64, cpu_s: f64| {
            let mut counters = Counters::default();
            counters.of_server(cpu_s, 0);
            let usage = looks.row(start + Duration::from_millis(ms), counters)?;
            Some((usage.seconds, usage.cpu_cores.map(|c| (c * 1000.0).round() / 1000.0)))
        };
        assert_eq!(row(0, 1.0), None);
        assert_eq!(row(3500, 4.5), Some((3.5, Some(1.0))));
        assert_eq!([row(3510, 7.0), row(3999, 7.0)], [None, None]);
        assert_eq!(row(5500, 8.5), Some((2.0, Some(2.0))), "nothing is lost");
    }

    /// CPU in percent takes the cores that a server may use.
    #[test]
    fn cores_are_those_the_user_says_else_those_observed() {
        let cores = |text: &str, quota: Option<f64>, given_cores: Option<f64>| {
            let mut counters = Counters::default();
            counters.given_cores = given_cores;
            quota.into_iter().for_each(|q| counters.limit_cores(q));
            counters.add_prometheus(text);
            counters.since(&Counters::default(), 1.0).cores
        };
        let machine = "machine_cpu_cores 16\n";
        let quota = "container_spec_cpu_quota{id=\"/a\"} 200000\ncontainer_spec_cpu_period{id=\"/a\"} 100000\n";
        let both = format!("{machine}{quota}");
        assert_eq!([cores("", None, None), cores(machine, None, None)], [None, Some(16.0)]);
        assert_eq!([cores(&both, None, None), cores(machine, Some(0.2), None)], [Some(2.0), Some(0.2)]);
        assert_eq!([cores(&both, Some(8.0), None), cores(&both, Some(8.0), Some(4.0))], [Some(2.0), Some(4.0)]);
    }

    #[tokio::test]
    async fn cores_of_the_target_file_stand_above_what_a_command_tells() {
        let target = |more: &str| {
            let text = format!(
                "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\naudio = \"opus@32kbit/s\"\n\
                 [load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n\
                 [target_file]\ndriver = \"janus\"\n[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://10.0.0.1:8188\"\n\
                 observe = [\"echo\", '{{\"cpu_cores\": 0.5, \"cores\": 2}}']\n{more}"
            );
            crate::profile::parse_resolved(&text).unwrap_or_else(|e| panic!("{e}")).target
        };
        for (more, want) in [("", 2.0), ("cores = 0.5\n", 0.5)] {
            let Target::External(t) = target(more) else { unreachable!() };
            let source = Source::external(&t, &t.servers[0]).unwrap();
            let (_, seen) = look(&source, &reqwest::Client::new()).await.unwrap();
            let usage = seen.since(&seen, 1.0);
            assert_eq!((usage.cpu_cores, usage.cores), (Some(0.5), Some(want)), "{more}");
        }
    }

    #[test]
    fn an_unequal_server_is_of_its_own_quota() {
        let text = "shape = \"steady\"\ntarget = \"embedded\"\n[embedded]\ncpu_max = \"40%\"\n[[embedded.server]]\nid = \"s2\"\n\
             cpu_max = \"20%\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\naudio = \"opus@32kbit/s\"\n\
             [load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n";
        let Target::Embedded(t) = crate::profile::parse_resolved(text).unwrap_or_else(|e| panic!("{e}")).target else {
            unreachable!()
        };
        let quota = |id: &str| {
            let address = "127.0.0.1:9".parse().unwrap();
            let server = ServerHandle { id: id.into(), pid: 1, media: address, http: "http://127.0.0.1:9".into() };
            Source::of_embedded(&t, &server).quota
        };
        assert_eq!([quota("s1"), quota("s2")], [Some(0.4), Some(0.2)]);
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
        let nobody = Source { stats: Some("http://127.0.0.1:1/stats".into()), ..Source::default() };
        assert!(of(nobody).await.contains("stats http://127.0.0.1:1/stats"));
        let fails = Source { command: vec!["false".into()], ..Source::default() };
        assert!(of(fails).await.contains("observe: false: exit status: 1"));
        let prose = Source { command: ["echo", "hello"].map(String::from).into(), ..Source::default() };
        assert!(of(prose).await.contains("observe: echo"));
    }

    /// Their ports are free ones: after a restart of the fleet, an old address may be another server's.
    #[tokio::test]
    async fn stats_are_taken_from_the_server_that_is_meant() {
        let stats = ServerStats {
            id: "s2".into(),
            participants_max: 10,
            cpu_seconds: 3.0,
            resident_bytes: 4096,
            socket_drops: 0,
            send_errors: 0,
            rooms: BTreeMap::new(),
            draining: false,
            traffic: Default::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/stats", listener.local_addr().unwrap());
        let app = axum::Router::new().route("/stats", axum::routing::get(move || async move { axum::Json(stats) }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let of = |id: &str| Source { server: id.into(), stats: Some(url.clone()), ..Source::default() };
        let client = reqwest::Client::new();
        let (_, seen) = look(&of("s2"), &client).await.unwrap();
        assert_eq!(seen.since(&seen, 1.0).memory_bytes, Some(4096));
        let error = format!("{:#}", look(&of("s1"), &client).await.unwrap_err());
        assert_eq!(error, format!("stats {url}: answers as \"s2\", not as \"s1\""));
    }
}
