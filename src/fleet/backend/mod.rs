//! The fleet as its backends know it, each for one of three things: discovery (the registry), control (cordon,
//! terminate, faults) and observation (what servers say of themselves). A new one is a file and a line in [`Fleet::of`].

mod embedded; // our own fleet, over its director's HTTP API
mod process; // signals to processes of this machine
mod statics; // the target file's own list
mod watch; // looks once a second, and says what changed

pub use watch::FleetWatch;

use super::embedded::EmbeddedFleet;
use crate::history::{FleetRole, ServerSeen, StepAction};
use crate::profile::{ExternalTarget, Profile, Target};
use anyhow::{Context as _, Result, bail};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For a backend that answers over the network: longer than this is no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What a backend knows at one moment. What it cannot know is absent.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Look {
    pub servers: Vec<ServerSeen>,
    /// Room → server, by name; `None`: it knows nothing of rooms.
    pub rooms: Option<BTreeMap<String, String>>,
}

/// Why a backend did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// It has no way to do such a thing: another backend may.
    #[error("it cannot do this")]
    Unsupported,
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// One way to a fleet.
pub trait Backend: Send + Sync {
    /// Its name in target files.
    fn name(&self) -> &'static str;

    /// Errors: it knows nothing at all now. A server of which it knows nothing is left out, or its fields are absent.
    fn look(&self) -> BoxFuture<'_, Result<Look>>;

    /// Gives what was said to it, once it is acknowledged.
    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>>;
}

/// All backends of a target.
#[derive(Clone)]
pub struct Fleet {
    discovery: Vec<Arc<dyn Backend>>,
    control: Vec<Arc<dyn Backend>>,
    observation: Vec<Arc<dyn Backend>>,
    /// Servers that the target file names or that were discovered.
    known: Arc<Mutex<BTreeSet<String>>>,
}

impl Fleet {
    /// The backends that the target file asks for; those of our own fleet where it is the target.
    ///
    /// # Errors
    /// Settings that a backend cannot use.
    pub fn of(profile: &Profile, embedded: Option<&EmbeddedFleet>) -> Result<Fleet> {
        match &profile.target {
            Target::Embedded(_) => {
                let fleet = embedded.context("the embedded fleet is not running")?;
                let names = fleet.servers().iter().map(|s| s.id.clone()).collect();
                Ok(Fleet::all(Arc::new(embedded::Director::new(fleet.base_url())?), names))
            }
            Target::External(target) => Fleet::external(target),
        }
    }

    fn external(target: &ExternalTarget) -> Result<Fleet> {
        // Its director knows the servers, the target file does not.
        if target.driver == "embedded" {
            let url = &target.servers.first().context("the target file names no server")?.url;
            return Ok(Fleet::all(Arc::new(embedded::Director::new(url)?), BTreeSet::new()));
        }
        let names = target.servers.iter().map(|s| s.id.clone()).collect();
        let mut fleet = Fleet::empty(names);
        fleet.discovery.push(Arc::new(statics::Listed::new(target)));
        let process = process::Processes::new(target);
        if process.knows_any() {
            fleet.control.push(Arc::new(process));
        }
        Ok(fleet)
    }

    fn empty(known: BTreeSet<String>) -> Fleet {
        Fleet { discovery: vec![], control: vec![], observation: vec![], known: Arc::new(Mutex::new(known)) }
    }

    /// One backend for everything.
    fn all(backend: Arc<dyn Backend>, known: BTreeSet<String>) -> Fleet {
        let mut fleet = Fleet::empty(known);
        fleet.discovery.push(backend.clone());
        fleet.control.push(backend.clone());
        fleet.observation.push(backend);
        fleet
    }

    /// Has the first backend that can do so act; gives its name and what it said.
    ///
    /// # Errors
    /// No such server, no backend for such an action, or what went wrong.
    pub async fn act(&self, action: StepAction, server: Option<&str>) -> Result<String> {
        let what = || server.map_or_else(|| action.as_str().to_owned(), |s| format!("{} {s}", action.as_str()));
        if let Some(server) = server {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if !known.is_empty() && !known.contains(server) {
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                bail!("{}: the fleet has no server {server:?}; it has {}", action.as_str(), names.join(", "));
            }
        }
        for backend in &self.control {
            match backend.act(action, server).await {
                Ok(said) => return Ok(format!("{}: {said}", backend.name())),
                Err(ActError::Unsupported) => {}
                Err(ActError::Failed(e)) => return Err(e.context(format!("{}: {}", what(), backend.name()))),
            }
        }
        let asked: Vec<&str> = self.control.iter().map(|b| b.name()).collect();
        match asked[..] {
            [] => bail!("{}: the target file gives no control backend (`control` in [fleet])", what()),
            _ => bail!("{}: no control backend can do this; there are {}", what(), asked.join(", ")),
        }
    }

    /// Looks once a second in the background, through every backend of discovery and observation.
    ///
    /// Must be called inside a tokio runtime.
    pub fn watch(&self) -> FleetWatch {
        let all = |role, list: &[Arc<dyn Backend>]| list.iter().map(move |b| (role, b.clone())).collect::<Vec<_>>();
        let mut sources = all(FleetRole::Discovery, &self.discovery);
        sources.extend(all(FleetRole::Observation, &self.observation));
        FleetWatch::start(sources, &self.known)
    }
}

/// For backends that speak HTTP.
fn http_client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?)
}

/// An answer longer than this is none.
const TEXT_MAX: usize = 16 << 20;

/// The body of a good answer.
///
/// # Errors
/// No answer, or another status: with the URL and what was said.
async fn text_of(request: reqwest::RequestBuilder) -> Result<String> {
    let mut answer = request.send().await?;
    let (url, status) = (answer.url().clone(), answer.status());
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.with_context(|| url.to_string())? {
        anyhow::ensure!(body.len() + chunk.len() <= TEXT_MAX, "{url}: longer than {} MiB", TEXT_MAX >> 20);
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    anyhow::ensure!(status.is_success(), "{url}: {status}: {}", shortened(&text));
    Ok(text)
}

/// The beginning of what somebody said, for an error.
fn shortened(text: &str) -> String {
    const LONG: usize = 200;
    match text.char_indices().nth(LONG) {
        Some((at, _)) => format!("{:?} …", &text[..at]),
        None => format!("{text:?}"),
    }
}
