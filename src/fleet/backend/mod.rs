//! The fleet as its backends know it, each for one of three things: discovery (the registry), control (cordon,
//! terminate, faults) and observation (what servers say of themselves). A new one is a file and a line in [`Fleet::of`].

mod coturn; // its telnet CLI
mod embedded; // our own fleet, over its director's HTTP API
mod embedded_turn; // TURN servers of our own fleet
mod exec; // programs of the user
mod http; // a service of the user
mod janus; // its administration API
mod process; // signals to processes of this machine
mod prometheus; // what servers export
mod redis; // a registry
mod statics; // the target file's own list
mod told; // pure: the fleet as JSON
mod watch; // looks once a second, and says what changed

pub use watch::FleetWatch;

use super::embedded::EmbeddedFleet;
use crate::history::{FleetRole, ServerSeen, StepAction};
use crate::outside;
use crate::profile::fleet::BackendName;
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
                let turn = fleet.turn_servers();
                let names =
                    fleet.servers().iter().map(|s| s.id.clone()).chain(turn.iter().map(|t| t.id.clone())).collect();
                let mut all = Fleet::all(Arc::new(embedded::Director::new(fleet.base_url())?), names);
                if !turn.is_empty() {
                    let relays: Arc<dyn Backend> = Arc::new(embedded_turn::EmbeddedTurn::new(turn)?);
                    // Before the director, to whom they are unknown.
                    all.control.insert(0, relays.clone());
                    all.observation.push(relays);
                }
                Ok(all)
            }
            Target::External(target) => Fleet::external(target),
        }
    }

    fn external(target: &ExternalTarget) -> Result<Fleet> {
        // The director knows the servers of our own fleet, the target file does not.
        let own = target.driver == "embedded";
        let names = target.servers.iter().filter(|_| !own).map(|s| &s.id).chain(target.turn.iter().map(|t| &t.id));
        let names = names.cloned().collect();
        let mut fleet = Fleet::empty(names);
        let f = &target.fleet;
        let mut made: BTreeMap<BackendName, Arc<dyn Backend>> = BTreeMap::new();
        let roles = [
            (&f.discovery, &mut fleet.discovery),
            (&f.control, &mut fleet.control),
            (&f.observe, &mut fleet.observation),
        ];
        for (list, backends) in roles {
            for name in list {
                if !made.contains_key(name) {
                    made.insert(*name, backend(*name, target)?);
                }
                backends.extend(made.get(name).cloned());
            }
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

/// # Errors
/// Settings that it cannot use.
fn backend(name: BackendName, target: &ExternalTarget) -> Result<Arc<dyn Backend>> {
    let f = &target.fleet;
    let settings = || format!("[fleet.{}] is missing", name.as_str());
    Ok(match name {
        BackendName::Static => Arc::new(statics::Listed::new(target)),
        BackendName::Exec => Arc::new(exec::Programs(f.exec.clone().with_context(settings)?)),
        BackendName::Http => Arc::new(http::Service {
            settings: f.http.clone().with_context(settings)?,
            token: target.secrets.get("fleet_token").cloned(),
            client: outside::http_client(target.tls_verify)?,
        }),
        BackendName::Redis => Arc::new(redis::Registry::new(f.redis.clone().with_context(settings)?, target)?),
        BackendName::Process => Arc::new(process::Processes::new(target)),
        BackendName::Janus => Arc::new(janus::Admin::new(target)?),
        BackendName::Coturn => Arc::new(coturn::Coturn::new(target)?),
        BackendName::Embedded => {
            let url = target.director().context("the target file names no server")?;
            Arc::new(embedded::Director::new(url)?)
        }
        BackendName::Prometheus => {
            Arc::new(prometheus::Exporters::new(f.prometheus.clone().with_context(settings)?, target)?)
        }
    })
}

/// One look out of one for each server. A server that cannot be seen is left out.
///
/// # Errors
/// Not one can be seen: why the first one cannot.
fn merged(seen: Vec<Result<ServerSeen>>) -> Result<Look> {
    let (mut servers, mut trouble) = (Vec::new(), None);
    for one in seen {
        match one {
            Ok(server) => servers.push(server),
            Err(e) => trouble = trouble.or(Some(e)),
        }
    }
    match (servers.is_empty(), trouble) {
        (true, Some(e)) => Err(e),
        _ => Ok(Look { servers, rooms: None }),
    }
}

/// Whether a backend of the user's own does such a thing; an empty list stands for everything.
fn takes(actions: &[String], action: StepAction) -> bool {
    actions.is_empty() || actions.iter().any(|a| a == action.as_str())
}

/// Anything as what a fleet says of itself: a program's or service's JSON, a coturn's CLI, an exporter.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(text: &str) {
    let _ = told::look(text);
    let _ = coturn::sessions(text);
    coturn::waits(text.as_bytes(), coturn::PROMPT);
    super::observe::prometheus::sum(text, "sfu_sessions", &[("room".to_owned(), "a".to_owned())]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_files_may_name_every_action() {
        use StepAction::*;
        let all = [
            Cordon,
            Uncordon,
            Terminate,
            Kill,
            Start,
            Pause,
            Resume,
            PartitionSignaling,
            PartitionMedia,
            PartitionRegistry,
            Heal,
            RegistryPause,
            RegistryResume,
            RegistryFlush,
            RegistryRestart,
        ];
        assert_eq!(all.map(StepAction::as_str), crate::profile::keys::FLEET_ACTIONS);
    }

    fn entry(id: &str) -> crate::profile::ServerEntry {
        crate::profile::ServerEntry {
            id: id.into(),
            url: "ws://127.0.0.1:1".into(),
            admin: None,
            pid_file: None,
            metrics: None,
            observe: vec![],
            cores: None,
        }
    }

    #[tokio::test]
    async fn the_first_backend_that_can_acts_and_what_nobody_can_says_so() {
        let mut target = ExternalTarget::of("janus", vec![entry("a"), entry("b")]);
        let error = |r: Result<String>| format!("{:#}", r.unwrap_err());
        let fleet = Fleet::external(&target).unwrap();
        assert!(error(fleet.act(StepAction::Cordon, Some("a")).await).contains("no control backend"));
        target.fleet.control = vec![BackendName::Process, BackendName::Exec];
        target.fleet.exec = Some(crate::profile::fleet::ExecBackend {
            look: vec![],
            act: ["sh", "-c", "echo $ROOMFUL_ACTION; test $ROOMFUL_SERVER = a"].map(String::from).into(),
            actions: vec!["cordon".into()],
            timeout: Duration::from_secs(5),
        });
        let fleet = Fleet::external(&target).unwrap();
        assert_eq!(fleet.act(StepAction::Cordon, Some("a")).await.unwrap(), "exec: cordon");
        assert_eq!(error(fleet.act(StepAction::Cordon, Some("b")).await), "cordon b: exec: sh: exit status: 1");
        let unknown = error(fleet.act(StepAction::Cordon, Some("c")).await);
        assert_eq!(unknown, "cordon: the fleet has no server \"c\"; it has a, b");
        let nobody = error(fleet.act(StepAction::RegistryFlush, None).await);
        assert_eq!(nobody, "registry_flush: no control backend can do this; there are process, exec");
    }

    #[tokio::test]
    async fn a_watch_tells_what_backends_see_and_that_they_fail() {
        let mut target = ExternalTarget::of("janus", vec![entry("a")]);
        target.fleet.observe = vec![BackendName::Exec];
        target.fleet.exec = Some(crate::profile::fleet::ExecBackend {
            look: vec!["false".into()],
            act: vec![],
            actions: vec![],
            timeout: Duration::from_secs(5),
        });
        let watch = Fleet::external(&target).unwrap().watch();
        let mut views = Vec::new();
        while views.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            views.extend(watch.take().into_iter().map(|(_, view)| view));
        }
        views.sort_by_key(|v| v.role);
        assert_eq!((views[0].backend.as_str(), views[0].servers[0].server.as_str()), ("static", "a"));
        assert_eq!((views[1].role, views[1].servers.len()), (FleetRole::Observation, 0));
        assert_eq!(views[1].error.as_deref(), Some("false: exit status: 1"));
    }
}
