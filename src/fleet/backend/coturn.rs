//! `coturn`: its telnet CLI (`cli` of a [[turn]], secret `coturn_cli`). A session is an allocation. The cordon of a coturn
//! is the word that sends new allocations to another one (300 Try Alternate); signals are backend `process`'s.

use super::{ANSWER_WITHIN, ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::profile::{ExternalTarget, Secret};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_util::future::{BoxFuture, join_all};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the CLI says when it waits for a command.
const PROMPT: &str = "> ";
const PASSWORD: &str = "password:";
/// An answer longer than this is none.
const ANSWER_MAX: usize = 16 << 20;

pub(super) struct Coturn {
    servers: BTreeMap<String, Server>,
    password: Option<Secret>,
    /// Cordoned server → where its new allocations are sent.
    redirects: Mutex<BTreeMap<String, SocketAddr>>,
}

struct Server {
    cli: String,
    host: String,
    port: u16,
    /// It has answered once: nobody at its port means that it has ended, and not that the port is wrong.
    answered: AtomicBool,
}

impl Coturn {
    pub fn new(target: &ExternalTarget) -> Coturn {
        let mut servers = BTreeMap::new();
        for t in &target.turn {
            let Some(cli) = &t.cli else { continue };
            // Of several ways to one server, the first: UDP where there is no reason for another.
            servers.entry(t.id.clone()).or_insert_with(|| Server {
                cli: cli.clone(),
                host: t.host.clone(),
                port: t.port,
                answered: AtomicBool::new(false),
            });
        }
        Coturn { servers, password: target.secrets.get("coturn_cli").cloned(), redirects: Mutex::default() }
    }

    async fn see(&self, name: &str, server: &Server) -> Result<ServerSeen> {
        let mut seen = ServerSeen { server: name.to_owned(), alive: Some(true), ..ServerSeen::default() };
        match self.ask(server, "ps").await {
            Ok(text) => seen.sessions = Some(sessions(&text).with_context(|| format!("{}: ps", server.cli))?),
            Err(e) if is_refused(&e) && server.answered.load(Ordering::Relaxed) => seen.alive = Some(false),
            Err(e) => return Err(e),
        }
        server.answered.store(true, Ordering::Relaxed);
        let redirects = self.redirects.lock().unwrap_or_else(PoisonError::into_inner);
        seen.cordoned = Some(redirects.contains_key(name));
        Ok(seen)
    }

    async fn ask(&self, server: &Server, command: &str) -> Result<String> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.talk(&server.cli, command)).await;
        match answer {
            Ok(answer) => answer.with_context(|| format!("CLI {}", server.cli)),
            Err(_) => bail!("CLI {}: no answer within {} s", server.cli, ANSWER_WITHIN.as_secs()),
        }
    }

    /// One connection for each question: the CLI serves one at a time, and ends those that are silent.
    async fn talk(&self, cli: &str, command: &str) -> Result<String> {
        let mut stream = TcpStream::connect(cli).await?;
        let greeting = until(&mut stream, &[PASSWORD, PROMPT]).await?;
        if greeting.trim_end().ends_with(PASSWORD) {
            let password = self.password.as_ref().context("it asks for a password: give secret coturn_cli")?;
            stream.write_all(format!("{}\r\n", password.0).as_bytes()).await?;
            let answer = until(&mut stream, &[PASSWORD, PROMPT]).await?;
            ensure!(!answer.trim_end().ends_with(PASSWORD), "it does not take the password");
        }
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let answer = until(&mut stream, &[PROMPT]).await?;
        // It closes the connection; if that fails it has ended already.
        let _ = stream.write_all(b"q\r\n").await;
        Ok(answer)
    }

    /// Another server that is not cordoned itself, the next by name.
    fn elsewhere(&self, name: &str) -> Result<(&String, &Server)> {
        let redirects = self.redirects.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |(other, _): &(&String, &Server)| *other != name && !redirects.contains_key(*other);
        let behind = self.servers.range(name.to_owned()..).find(free);
        let found = behind.or_else(|| self.servers.iter().find(free));
        found.ok_or_else(|| anyhow!("no other coturn to send new allocations to, and it refuses none"))
    }

    async fn cordon(&self, name: &str, server: &Server) -> Result<String> {
        let (other, to) = self.elsewhere(name)?;
        let host = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
        let host = host.with_context(|| format!("{other}: {}", to.host))?.next();
        let address = host.with_context(|| format!("{other}: {} has no address", to.host))?;
        self.ask(server, &format!("aas {}", written(address))).await?;
        self.redirects.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), address);
        Ok(format!("aas {address} ({other})"))
    }

    async fn uncordon(&self, name: &str, server: &Server) -> Result<String> {
        let address = self.redirects.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        let address = address.context("it was not cordoned by this run")?;
        self.ask(server, &format!("das {}", written(address))).await?;
        self.redirects.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(format!("das {address}"))
    }
}

fn written(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(_) => address.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
    }
}

fn is_refused(e: &anyhow::Error) -> bool {
    let io = e.chain().find_map(|c| c.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Reads until it waits for us.
async fn until(stream: &mut TcpStream, ends: &[&str]) -> Result<String> {
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut chunk).await?;
        ensure!(n > 0, "closed the connection after {:?}", tail(&text));
        text.extend_from_slice(&chunk[..n]);
        ensure!(text.len() < ANSWER_MAX, "said more than {} MiB", ANSWER_MAX >> 20);
        let so_far = String::from_utf8_lossy(&text[text.len().saturating_sub(32)..]);
        if ends.iter().any(|end| so_far.ends_with(end) || so_far.trim_end().ends_with(end.trim_end())) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

fn tail(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[text.len().saturating_sub(80)..]).into_owned()
}

/// `Total sessions: 7` at the end of `ps`.
fn sessions(text: &str) -> Result<u64> {
    let total = text.lines().rev().find_map(|l| l.trim().strip_prefix("Total sessions:"));
    let total = total.with_context(|| format!("no number of sessions in {:?}", tail(text.as_bytes())))?;
    total.trim().parse().with_context(|| format!("sessions: {total:?}"))
}

impl Backend for Coturn {
    fn name(&self) -> &'static str {
        "coturn"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            super::merged(join_all(self.servers.iter().map(|(name, server)| self.see(name, server))).await)
        })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            if !matches!(action, StepAction::Cordon | StepAction::Uncordon) {
                return Err(ActError::Unsupported);
            }
            let name = server.ok_or_else(|| anyhow!("which server?"))?;
            let server = self.servers.get(name).ok_or(ActError::Unsupported)?;
            Ok(match action {
                StepAction::Cordon => self.cordon(name, server).await?,
                _ => self.uncordon(name, server).await?,
            })
        })
    }
}
