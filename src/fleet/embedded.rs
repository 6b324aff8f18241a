//! The embedded fleet as child processes: a director, and servers under it. They live no longer than this process,
//! however it ends: each has a pipe to its parent as stdin, and ends with it.

pub use crate::sfu::director::Advertise;
use crate::sfu::{DirectorReady, TurnReady, first_line};
use crate::types::{Autoscale, Drain, Placement, Sin, UnlikeServer};
use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};

/// The director gives its servers one second to go.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How to start it.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Address for media.
    pub media_ip: IpAddr,
    /// Address of the director; servers listen on the same IP.
    pub http: SocketAddr,
    /// Servers whose answers name another address than `media_ip`, that of what stands in front of them.
    pub advertise: Vec<Advertise>,
    /// The roomful program; this one if `None`.
    pub program: Option<PathBuf>,
    /// Share of a core (0..1) that a server's media thread may use.
    pub cpu_max: f64,
    /// CPU time that it takes at least for each packet that it sends on.
    pub packet_cost: Duration,
    /// Servers that are not like the others.
    pub unlike: Vec<UnlikeServer>,
    /// Where the participants of a room go.
    pub placement: Placement,
    /// How a server that is to end gets rid of its calls.
    pub drain: Drain,
    /// Servers come and go by themselves.
    pub autoscale: Option<Autoscale>,
    /// Last-N: participants get the video of so many senders, those who talked last.
    pub last_n: Option<u32>,
    /// A fault that the fleet commits on purpose.
    pub sin: Option<Sin>,
    /// TURN servers beside them, at `media_ip`.
    pub turn: u32,
}

impl Default for EmbeddedOptions {
    /// Loopback, free ports, this program.
    fn default() -> EmbeddedOptions {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let http = SocketAddr::new(loopback, 0);
        EmbeddedOptions {
            media_ip: loopback,
            http,
            advertise: Vec::new(),
            program: None,
            cpu_max: 1.0,
            packet_cost: Duration::ZERO,
            unlike: Vec::new(),
            placement: Placement::Affinity,
            drain: Drain::Wait,
            autoscale: None,
            last_n: None,
            sin: None,
            turn: 0,
        }
    }
}

/// A running fleet. Dropping it ends its processes too, without waiting for them.
#[derive(Debug)]
pub struct EmbeddedFleet {
    director: Child,
    /// Its end is the director's order to go. Kept apart from the child, since waiting for that would close it.
    stdin: Option<ChildStdin>,
    base_url: String,
    servers: Vec<ServerHandle>,
    turn: Vec<TurnReady>,
    turn_processes: Vec<Child>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerHandle {
    pub id: String,
    pub pid: u32,
    /// Base URL of its own API: `/stats`, `/metrics`.
    pub http: String,
    pub media: SocketAddr,
}

impl EmbeddedFleet {
    /// Starts a director and its servers; returns when all take joins.
    ///
    /// # Errors
    /// When a process can't be started, or is not ready within 10 s.
    pub async fn start(
        servers: u32,
        participants_max: u32,
        options: &EmbeddedOptions,
    ) -> anyhow::Result<EmbeddedFleet> {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("can't find this program")?,
        };
        let mut director = Command::new(&program)
            .arg("director")
            .args(["--servers", &servers.to_string()])
            .args(["--participants-max", &participants_max.to_string()])
            .args(["--cpu-max", &options.cpu_max.to_string()])
            .args(["--packet-cost-ns", &options.packet_cost.as_nanos().to_string()])
            .args(options.unlike.iter().flat_map(|own| ["--unlike".to_owned(), own.to_string()]))
            .args(["--placement", options.placement.as_str()])
            .args(["--drain", options.drain.as_str()])
            .args(options.autoscale.iter().flat_map(|how| ["--autoscale".to_owned(), how.to_string()]))
            .args(options.last_n.iter().flat_map(|n| ["--last-n".to_owned(), n.to_string()]))
            .args(options.sin.iter().flat_map(|sin| ["--sin", sin.as_str()]))
            .args(["--media-ip", &options.media_ip.to_string()])
            .args(["--http", &options.http.to_string()])
            .args(options.advertise.iter().flat_map(|a| ["--advertise".to_owned(), a.to_string()]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal reaches only us, who end the calls before the servers.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))?;
        let stdin = director.stdin.take();
        let ready: DirectorReady = first_line(&mut director).await.context("director of the embedded fleet")?;
        let servers = ready
            .servers
            .into_iter()
            .map(|s| ServerHandle { id: s.id, pid: s.pid, http: s.http, media: s.media })
            .collect();
        let started = (1..=options.turn).map(|n| start_turn(&program, n, options));
        let (turn_processes, turn) = futures_util::future::try_join_all(started)
            .await
            .context("TURN servers of the embedded fleet")?
            .into_iter()
            .unzip();
        Ok(EmbeddedFleet { director, stdin, base_url: ready.http, servers, turn, turn_processes })
    }

    /// Of the director: where participants join.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub fn servers(&self) -> &[ServerHandle] {
        &self.servers
    }

    pub fn turn_servers(&self) -> &[TurnReady] {
        &self.turn
    }

    pub fn director_pid(&self) -> Option<u32> {
        self.director.id()
    }

    /// Resolves when the director has ended, which it never does by itself. May be dropped and called again.
    ///
    /// # Errors
    /// When the process can't be waited for.
    pub async fn ended(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        Ok(self.director.wait().await?)
    }

    /// Ends director and servers, and waits until they are gone (3 s at most, then by force).
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        // Waiting for a child closes its stdin, which is its order to go.
        let turn = self.turn_processes.iter_mut().map(|child| async move {
            if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
                // One that is stopped (SIGSTOP) can't obey. An error means that it is gone already.
                let _ = child.kill().await;
            }
        });
        futures_util::future::join_all(turn).await;
        if tokio::time::timeout(STOP_TIMEOUT, self.director.wait()).await.is_err() {
            // An error means that it is gone already.
            let _ = self.director.kill().await;
        }
    }
}

/// Starts a TURN server and waits until it takes allocations. Its stdin stays open as long as the child is held: it ends
/// when we do.
async fn start_turn(program: &Path, n: u32, options: &EmbeddedOptions) -> anyhow::Result<(Child, TurnReady)> {
    let id = format!("turn-{n}");
    let mut child = Command::new(program)
        .args(["turn-server", "--id", &id])
        .args(["--listen", &SocketAddr::new(options.media_ip, 0).to_string()])
        .args(["--http", &SocketAddr::new(options.http.ip(), 0).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // As for the director.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))?;
    let ready: TurnReady = first_line(&mut child).await.with_context(|| format!("TURN server {id}"))?;
    Ok((child, ready))
}
