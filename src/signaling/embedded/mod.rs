//! Driver of the embedded fleet: one offer, one answer over HTTP, in the manner of WHIP (RFC 9725). The leg's first
//! m-lines send, the others are slots in which the server shows whoever else is in the room. What a server has to say
//! afterwards (go to another one, join again) comes over one stream of events for all legs on it.

mod events; // what servers tell their sessions
mod leg; // one leg's life

use super::{BoxFuture, Call, Driver, Ended, OfferWant};
use crate::history::FailReason;
use crate::outside::{self, BodyError};
use crate::plan::{PlannedLeg, PlannedRoom, TransportsPer};
use crate::profile::ExternalTarget;
use crate::types::{Client, LegId};
use anyhow::Context;
use events::Events;
use leg::Leg;
use reqwest::{StatusCode, Url};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The engine's join time-out is the one that counts; this one only keeps a request from living on.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A leave must be over within 5 s of its order.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(4500);
/// A longer answer is none: no description is.
const BODY_MAX: usize = 1 << 20;
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const TRANSPORTS: TransportsPer = TransportsPer::Participant;

/// From a target file, for its director.
///
/// # Errors
/// When that URL can't be used.
pub(super) fn make(target: &ExternalTarget, _: Client, _: Duration) -> anyhow::Result<Arc<dyn Driver>> {
    let director = target.director().context("the target file names no server")?;
    Ok(Arc::new(EmbeddedDriver::new(director)?))
}

/// Joins participants through a director.
pub struct EmbeddedDriver {
    director: Url,
    client: reqwest::Client,
    hosts: OnceLock<Vec<IpAddr>>,
    events: Events,
    /// Legs by the names that servers know them by.
    legs: Mutex<HashMap<String, LegId>>,
}

impl EmbeddedDriver {
    /// `director` is its base URL, e.g. `http://127.0.0.1:7080`.
    ///
    /// # Errors
    /// When that is no URL that paths can be added to.
    pub fn new(director: &str) -> anyhow::Result<EmbeddedDriver> {
        let director = Url::parse(director).with_context(|| format!("director's URL {director:?}"))?;
        anyhow::ensure!(!director.cannot_be_a_base(), "director's URL {director}: no base for paths");
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
        Ok(EmbeddedDriver {
            director,
            events: Events::new(client.clone()),
            client,
            hosts: OnceLock::new(),
            legs: Mutex::default(),
        })
    }

    fn legs(&self) -> MutexGuard<'_, HashMap<String, LegId>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, segments: &[&str]) -> Url {
        below(&self.director, segments)
    }

    async fn look_around(&self, rooms: &[PlannedRoom]) -> anyhow::Result<Vec<IpAddr>> {
        let url = self.url(&["registry"]);
        let answer = self.client.get(url.clone()).timeout(PREPARE_TIMEOUT).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        let answer = answer.with_context(|| format!("the director of the embedded fleet does not answer at {url}"))?;
        let text = outside::text(answer, BODY_MAX).await;
        let registry: Registry = text
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_str(&text)?))
            .with_context(|| format!("{url} is no registry of a fleet"))?;
        anyhow::ensure!(registry.servers.iter().any(|s| s.alive), "{url}: no server of the fleet is alive");
        let unknown =
            rooms.iter().filter_map(|r| r.server.as_ref()).find(|id| registry.servers.iter().all(|s| s.id != **id));
        if let Some(id) = unknown {
            let names: Vec<&str> = registry.servers.iter().map(|s| &s.id[..]).collect();
            anyhow::bail!("{url}: the fleet has no server {id:?}, only {}", names.join(", "));
        }
        // The fleet's own registry vouches for the addresses of its servers.
        let mut hosts: BTreeSet<IpAddr> = registry.servers.iter().map(|s| s.media.ip()).collect();
        hosts.extend(url.host_str().and_then(|h| h.trim_matches(['[', ']']).parse::<IpAddr>().ok()));
        Ok(hosts.into_iter().collect())
    }
}

/// A URL below another one that can be a base.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// What we need of `GET /registry`.
#[derive(serde::Deserialize)]
struct Registry {
    servers: Vec<RegistryServer>,
}

#[derive(serde::Deserialize)]
struct RegistryServer {
    id: String,
    alive: bool,
    media: std::net::SocketAddr,
}

impl Driver for EmbeddedDriver {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn prepare<'a>(&'a self, rooms: &'a [PlannedRoom]) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async {
            let hosts = self.look_around(rooms).await?;
            self.hosts.get_or_init(|| hosts);
            Ok(())
        })
    }

    fn run<'a>(&'a self, call: Call) -> BoxFuture<'a, Ended> {
        Box::pin(async {
            let (name, id) = (call.leg.name.clone(), call.leg.id);
            self.legs().insert(name.clone(), id);
            let ended = match Leg::new(self, call).live().await {
                Ok(ended) | Err(ended) => ended,
            };
            let mut legs = self.legs();
            if legs.get(&name) == Some(&id) {
                legs.remove(&name);
            }
            ended
        })
    }

    fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn restarts_ice(&self, _: u8) -> bool {
        true
    }

    /// Before `prepare`: where the director is.
    fn hosts(&self) -> Vec<IpAddr> {
        self.hosts.get().cloned().unwrap_or_else(|| {
            let found = self.director.socket_addrs(|| None);
            found.into_iter().flatten().map(|a| a.ip()).collect()
        })
    }
}

/// Slots for all others who send; a sender is one of those itself, and what it does not send its room does not have.
pub fn want(leg: &PlannedLeg, room: &PlannedRoom) -> OfferWant {
    let senders = u16::try_from(room.senders_max).unwrap_or(u16::MAX);
    let slots = |sends: bool| match (leg.sends(), sends) {
        (true, true) => senders.saturating_sub(1),
        (true, false) => 0,
        (false, _) => senders,
    };
    OfferWant {
        send: leg.sends(),
        receive_audio: slots(leg.audio.is_some()),
        receive_video: slots(leg.video.is_some()),
        ice_restart: false,
        keep_sending: false,
    }
}

fn left_early() -> Ended {
    Ended::failed(FailReason::LeftEarly, "left before it had joined")
}

fn refused(status: StatusCode, body: &str) -> Ended {
    let reason = match status {
        StatusCode::SERVICE_UNAVAILABLE => FailReason::Full,
        StatusCode::BAD_REQUEST => FailReason::BadSdp,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailReason::Unauthorized,
        s if s.is_success() => FailReason::BadAnswer,
        _ => FailReason::Rejected,
    };
    let said = serde_json::from_str::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|v| v["error"].as_str()).unwrap_or(body);
    let said: String = said.chars().take(200).collect();
    Ended::failed(reason, format!("{}: {said}", status.as_u16()))
}

fn failed_request(error: &reqwest::Error) -> Ended {
    let reason = if error.is_timeout() {
        FailReason::TimeoutSignaling
    } else if error.is_connect() {
        FailReason::Refused
    } else if error.is_body() || error.is_decode() || is_no_http(error) {
        FailReason::BadAnswer
    } else {
        FailReason::Closed
    };
    Ended::failed(reason, describe(error))
}

fn failed_body(error: BodyError) -> Ended {
    match error {
        BodyError::Broken(error) => failed_request(&error),
        BodyError::TooLong { .. } => Ended::failed(FailReason::BadAnswer, error.to_string()),
    }
}

fn describe_body(error: BodyError) -> String {
    match error {
        BodyError::Broken(error) => describe(&error),
        BodyError::TooLong { .. } => error.to_string(),
    }
}

/// Known by its words only: reqwest does not tell, and hyper, which does, is not ours to ask.
fn is_no_http(error: &reqwest::Error) -> bool {
    let text = describe(error);
    text.contains("invalid HTTP ")
        || text.contains("invalid content-length")
        || text.contains("message head is too large")
}

/// With the causes: reqwest's own text names only the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
