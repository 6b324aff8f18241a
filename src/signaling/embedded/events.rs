//! What servers tell their sessions: one stream of JSON lines for all legs on a server, as long as there are any.

use reqwest::{StatusCode, Url};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// Pauses before a broken stream is asked for again; after the last one the server is gone.
const RETRIES: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(500)];
/// Longer lines are no events.
const LINE_MAX: usize = 64 << 10;
/// A stream that breaks again and again is told of so often.
const AGAIN_EVERY: Duration = Duration::from_secs(10);

/// Told to one session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// Be ready to go on on this server, whose API is below `url`.
    Move { server: String, url: String },
    /// Everybody is ready: go.
    Switch,
    /// Leave, and join again.
    Rejoin,
    /// The video of these is forwarded to it, and nobody else's.
    Forwarded { senders: Vec<String> },
    /// Its word did not come since then, and comes again.
    Again { lost: Instant },
    /// Nobody answers at the server's API any more.
    Gone,
}

/// A line of the stream.
#[derive(serde::Deserialize)]
struct Line {
    session: String,
    told: Word,
    #[serde(default)]
    server: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    senders: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Move,
    Switch,
    Rejoin,
    Forwarded,
}

/// The streams of all servers that legs are on.
pub(super) struct Events {
    client: reqwest::Client,
    servers: Arc<Mutex<HashMap<String, Server>>>,
}

struct Server {
    /// Who listens, by the last part of the session's path.
    sessions: HashMap<String, UnboundedSender<Told>>,
    task: AbortHandle,
}

/// One session's ear. Dropping it stops to listen; the last one of a server ends its stream.
pub(super) struct Ear {
    servers: Arc<Mutex<HashMap<String, Server>>>,
    server: String,
    session: String,
    told: UnboundedReceiver<Told>,
}

impl Ear {
    pub async fn hear(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            // The stream's task has ended: it said all it had to say.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut servers = lock(&self.servers);
        let Some(server) = servers.get_mut(&self.server) else { return };
        server.sessions.remove(&self.session);
        if server.sessions.is_empty() {
            server.task.abort();
            servers.remove(&self.server);
        }
    }
}

fn lock(servers: &Mutex<HashMap<String, Server>>) -> MutexGuard<'_, HashMap<String, Server>> {
    servers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Events {
    pub fn new(client: reqwest::Client) -> Events {
        Events { client, servers: Arc::default() }
    }

    /// Listens to what a session's server has to tell it.
    pub fn listen(&self, session: &Url) -> Ear {
        let base = session.origin().ascii_serialization();
        let name = session.path_segments().and_then(|mut s| s.next_back()).unwrap_or_default().to_owned();
        let (ear, told) = unbounded_channel();
        let mut servers = lock(&self.servers);
        let server = servers.entry(base.clone()).or_insert_with(|| {
            let follow = follow(self.client.clone(), base.clone(), self.servers.clone());
            Server { sessions: HashMap::new(), task: tokio::spawn(follow).abort_handle() }
        });
        server.sessions.insert(name.clone(), ear);
        Ear { servers: self.servers.clone(), server: base, session: name, told }
    }
}

/// Reads a server's stream until it is gone for good.
async fn follow(client: reqwest::Client, base: String, servers: Arc<Mutex<HashMap<String, Server>>>) {
    let mut failures = 0;
    let (mut lost, mut told_again) = (None, None::<Instant>);
    loop {
        match client.get(format!("{base}/events")).send().await {
            Ok(mut answer) if answer.status().is_success() => {
                failures = 0;
                if let Some(lost) = lost
                    && told_again.is_none_or(|at| at.elapsed() >= AGAIN_EVERY)
                {
                    told_again = Some(Instant::now());
                    tell_all(&lock(&servers), &base, &Told::Again { lost });
                }
                let mut text = Vec::new();
                // Ends with the stream, in order or not.
                while let Ok(Some(chunk)) = answer.chunk().await {
                    text.extend_from_slice(&chunk);
                    while let Some(end) = text.iter().position(|b| *b == b'\n') {
                        let line: Vec<u8> = text.drain(..=end).collect();
                        pass_on(&line, &base, &servers);
                    }
                    if text.len() > LINE_MAX {
                        break;
                    }
                }
                lost = Some(Instant::now());
            }
            // A server without such a stream has nothing to say.
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return,
            Ok(_) | Err(_) => {}
        }
        let Some(pause) = RETRIES.get(failures) else { break };
        failures += 1;
        tokio::time::sleep(*pause).await;
    }
    let mut servers = lock(&servers);
    tell_all(&servers, &base, &Told::Gone);
    servers.remove(&base);
}

fn tell_all(servers: &HashMap<String, Server>, base: &str, told: &Told) {
    for ear in servers.get(base).iter().flat_map(|s| s.sessions.values()) {
        // A leg that is over needs no news.
        let _ = ear.send(told.clone());
    }
}

fn pass_on(line: &[u8], base: &str, servers: &Mutex<HashMap<String, Server>>) {
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        tracing::debug!(base, "no event: {}", String::from_utf8_lossy(line));
        return;
    };
    let told = match line.told {
        Word::Move => Told::Move { server: line.server, url: line.url },
        Word::Switch => Told::Switch,
        Word::Rejoin => Told::Rejoin,
        Word::Forwarded => Told::Forwarded { senders: line.senders },
    };
    if let Some(ear) = lock(servers).get(base).and_then(|s| s.sessions.get(&line.session)) {
        let _ = ear.send(told);
    }
}
