//! `coturn`: its telnet CLI (`cli` of a [[turn]], secret `coturn_cli`). A session is an allocation. The cordon of a coturn
//! is the word that sends new allocations to another one (300 Try Alternate), or its own drain where it has one; signals are
//! backend `process`'s. What it writes to a Redis (`statsdb`) is a hint.

use super::{ANSWER_WITHIN, ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::profile::{ExternalTarget, Secret};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_util::future::{BoxFuture, join_all};
use redis::AsyncCommands as _;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the CLI says when it waits for a command.
pub(super) const PROMPT: &str = "> ";
const PASSWORD: &str = "password:";
const DRAIN: &str = "drain";
/// An answer longer than this is none.
const ANSWER_MAX: usize = 16 << 20;

pub(super) struct Coturn {
    servers: BTreeMap<String, Server>,
    password: Option<Secret>,
    /// Cordoned server → where its new allocations are sent; `None`: it drains.
    cordoned: Mutex<BTreeMap<String, Option<SocketAddr>>>,
}

struct Server {
    cli: Option<String>,
    drain: bool,
    statsdb: Option<Statsdb>,
    host: String,
    port: u16,
    /// It has answered once: nobody at its port means that it has ended, and not that the port is wrong.
    answered: AtomicBool,
}

/// Where a coturn keeps the state of its allocations: a key for each, `turn/realm/…/user/…/allocation/…/status`.
struct Statsdb {
    url: String,
    client: redis::Client,
}

impl Statsdb {
    fn new(url: &str, target: &ExternalTarget) -> Result<Statsdb> {
        Ok(Statsdb { url: url.to_owned(), client: super::redis::client(url, target)? })
    }

    /// `None` where it does not say.
    async fn allocations(&self) -> Option<u64> {
        let count = async {
            let mut c = self.client.get_multiplexed_async_connection().await?;
            let mut scan = c.scan_match::<_, String>("turn/*allocation/*/status").await?;
            let mut keys = std::collections::HashSet::new();
            // SCAN may give a key twice.
            while let Some(key) = scan.next_item().await {
                keys.insert(key?);
            }
            anyhow::Ok(keys.len() as u64)
        };
        match tokio::time::timeout(ANSWER_WITHIN, count).await {
            Ok(Ok(n)) => Some(n),
            Ok(Err(e)) => {
                tracing::debug!("statsdb {}: {e:#}", self.url);
                None
            }
            Err(_) => None,
        }
    }
}

impl Coturn {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A `statsdb` that is no address of a Redis.
    pub fn new(target: &ExternalTarget) -> Result<Coturn> {
        let mut servers = BTreeMap::new();
        for t in &target.turn {
            let statsdb = t.statsdb.as_deref().map(|url| Statsdb::new(url, target)).transpose()?;
            if t.cli.is_none() && statsdb.is_none() {
                continue;
            }
            let Entry::Vacant(new) = servers.entry(t.id.clone()) else { continue };
            // Of several ways to one server, the first: UDP where there is no reason for another.
            new.insert(Server {
                cli: t.cli.clone(),
                drain: t.drain,
                statsdb,
                host: t.host.clone(),
                port: t.port,
                answered: AtomicBool::new(false),
            });
        }
        Ok(Coturn { servers, password: target.secrets.get("coturn_cli").cloned(), cordoned: Mutex::default() })
    }

    async fn see(&self, name: &str, server: &Server) -> Result<ServerSeen> {
        let mut seen = ServerSeen { server: name.to_owned(), ..ServerSeen::default() };
        if let Some(statsdb) = &server.statsdb {
            seen.sessions_hint = statsdb.allocations().await;
        }
        let Some(cli) = &server.cli else { return Ok(seen) };
        seen.alive = Some(true);
        match self.ask(cli, "ps").await {
            Ok(text) => seen.sessions = Some(sessions(&text).with_context(|| format!("{cli}: ps"))?),
            Err(e) if is_refused(&e) && server.answered.load(Ordering::Relaxed) => seen.alive = Some(false),
            Err(e) => return Err(e),
        }
        server.answered.store(true, Ordering::Relaxed);
        let cordoned = self.cordoned.lock().unwrap_or_else(PoisonError::into_inner);
        seen.cordoned = Some(cordoned.contains_key(name));
        Ok(seen)
    }

    async fn ask(&self, cli: &str, command: &str) -> Result<String> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.talk(cli, command)).await;
        match answer {
            Ok(answer) => answer.with_context(|| format!("CLI {cli}")),
            Err(_) => bail!("CLI {cli}: no answer within {} s", ANSWER_WITHIN.as_secs()),
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
        if command == DRAIN {
            return said_last(&mut stream).await;
        }
        let answer = until(&mut stream, &[PROMPT]).await?;
        // It closes the connection; if that fails it has ended already.
        let _ = stream.write_all(b"q\r\n").await;
        Ok(answer)
    }

    /// Another server that is not cordoned itself, the next by name.
    fn elsewhere(&self, name: &str) -> Result<(&String, &Server)> {
        let cordoned = self.cordoned.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |(other, _): &(&String, &Server)| *other != name && !cordoned.contains_key(*other);
        let behind = self.servers.range(name.to_owned()..).find(free);
        let found = behind.or_else(|| self.servers.iter().find(free));
        found.ok_or_else(|| anyhow!("no other coturn to send new allocations to, and it refuses none"))
    }

    async fn cordon(&self, name: &str, server: &Server, cli: &str) -> Result<String> {
        if server.drain {
            let said = self.ask(cli, DRAIN).await?;
            // It says so, or it closes the connection over it; one that does not know the word waits for another.
            let knows = said.contains("draining") || !said.trim_end().ends_with(PROMPT.trim_end());
            ensure!(knows, "{cli} knows no drain, which coturn has since 4.6.3: {:?}", head(&said));
            self.cordoned.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), None);
            return Ok("drain".to_owned());
        }
        let (other, to) = self.elsewhere(name)?;
        let host = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
        let host = host.with_context(|| format!("{other}: {}", to.host))?.next();
        let address = host.with_context(|| format!("{other}: {} has no address", to.host))?;
        self.ask(cli, &format!("aas {}", written(address))).await?;
        self.cordoned.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Some(address));
        Ok(format!("aas {address} ({other})"))
    }

    async fn uncordon(&self, name: &str, cli: &str) -> Result<String> {
        let address = self.cordoned.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        let address = address.context("it was not cordoned by this run")?;
        let address = address.context("it drains, and nothing takes that back")?;
        self.ask(cli, &format!("das {}", written(address))).await?;
        self.cordoned.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
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
        if ends.iter().any(|end| waits(&text, end)) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// True where the text ends in this prompt: the one for a command is a line of its own. A list of sessions has other lines
/// that end as it does, and arrives in pieces.
pub(super) fn waits(text: &[u8], prompt: &str) -> bool {
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(64)..]);
    match prompt {
        PASSWORD => tail.trim_end().ends_with(PASSWORD),
        _ => tail.rsplit('\n').next().is_some_and(|last| last.trim() == prompt.trim()),
    }
}

/// Up to a prompt, or to the end of the connection, which such a word may be.
async fn said_last(stream: &mut TcpStream) -> Result<String> {
    let (mut text, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        let n = match stream.read(&mut chunk).await {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(e) => return Err(e.into()),
        };
        text.extend_from_slice(&chunk[..n]);
        if n == 0 || text.len() > ANSWER_MAX || waits(&text, PROMPT) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// What a CLI said, without its greeting's length.
fn head(text: &str) -> String {
    text.trim().chars().take(80).collect()
}

fn tail(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[text.len().saturating_sub(80)..]).into_owned()
}

/// `Total sessions: 7` at the end of `ps`.
pub(super) fn sessions(text: &str) -> Result<u64> {
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
            let cli = server.cli.as_deref().ok_or(ActError::Unsupported)?;
            Ok(match action {
                StepAction::Cordon => self.cordon(name, server, cli).await?,
                _ => self.uncordon(name, cli).await?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_a_line_of_its_own() {
        for text in ["Type '?' for help\r\n> ", "> ", "\n>", "a\r\n> \r"] {
            assert!(waits(text.as_bytes(), PROMPT), "{text:?}");
        }
        // A piece of `ps`.
        for text in ["1) id=1, user <alice>", "client addr <", "\n  user <alice> ", "", "> \n"] {
            assert!(!waits(text.as_bytes(), PROMPT), "{text:?}");
        }
        assert!(waits(b"Type '?' for help\r\nEnter password: \r\n", PASSWORD) && !waits(b"password: \n> ", PASSWORD));
        assert_eq!(sessions("1) id=1, user <a>:\n\n  Total sessions: 7\n\n> ").unwrap(), 7);
        assert!(sessions("1) id=1, user <a>").is_err());
    }
}
