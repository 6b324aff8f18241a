//! Driver of the embedded fleet: one offer, one answer over HTTP, in the manner of WHIP (RFC 9725). The leg's first
//! m-lines send, the others are slots in which the server shows whoever else is in the room.

use super::{BoxFuture, Call, Driver, Ended, OfferWant, Order, Progress, TransportState};
use crate::history::{FailReason, LegCause};
use crate::plan::{PlannedLeg, PlannedRoom, TransportsPer};
use crate::profile::ExternalTarget;
use crate::types::Client;
use anyhow::Context;
use reqwest::{StatusCode, Url, header};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The engine's join time-out is the one that counts; this one only keeps a request from living on.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A leave must be over within 5 s of its order.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(4500);
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const TRANSPORTS: TransportsPer = TransportsPer::Participant;

/// Slot of the only transport.
const TRANSPORT: u8 = 0;

/// From a target file: its first server's `url` is the director's.
///
/// # Errors
/// When that URL can't be used.
pub(super) fn make(target: &ExternalTarget, _: Client, _: Duration) -> anyhow::Result<Arc<dyn Driver>> {
    let director = target.servers.first().context("the target file names no server")?;
    Ok(Arc::new(EmbeddedDriver::new(&director.url)?))
}

/// Joins participants through a director.
pub struct EmbeddedDriver {
    director: Url,
    client: reqwest::Client,
    hosts: OnceLock<Vec<IpAddr>>,
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
        Ok(EmbeddedDriver { director, client, hosts: OnceLock::new() })
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.director.clone();
        // `new` made sure that it can be a base.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    async fn look_around(&self) -> anyhow::Result<Vec<IpAddr>> {
        let url = self.url(&["registry"]);
        let answer = self.client.get(url.clone()).timeout(PREPARE_TIMEOUT).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        let answer = answer.with_context(|| format!("the director of the embedded fleet does not answer at {url}"))?;
        let registry: Registry = answer.json().await.with_context(|| format!("{url} is no registry of a fleet"))?;
        anyhow::ensure!(registry.servers.iter().any(|s| s.alive), "{url}: no server of the fleet is alive");
        // The fleet's own registry vouches for the addresses of its servers.
        let mut hosts: BTreeSet<IpAddr> = registry.servers.iter().map(|s| s.media.ip()).collect();
        hosts.extend(url.host_str().and_then(|h| h.trim_matches(['[', ']']).parse::<IpAddr>().ok()));
        Ok(hosts.into_iter().collect())
    }
}

/// What we need of `GET /registry`.
#[derive(serde::Deserialize)]
struct Registry {
    servers: Vec<RegistryServer>,
}

#[derive(serde::Deserialize)]
struct RegistryServer {
    alive: bool,
    media: std::net::SocketAddr,
}

impl Driver for EmbeddedDriver {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn prepare<'a>(&'a self, _rooms: &'a [PlannedRoom]) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async {
            let hosts = self.look_around().await?;
            self.hosts.get_or_init(|| hosts);
            Ok(())
        })
    }

    fn run<'a>(&'a self, call: Call) -> BoxFuture<'a, Ended> {
        Box::pin(async {
            let mut leg = Leg { driver: self, call, session: None, connected: false };
            match leg.live().await {
                Ok(ended) | Err(ended) => ended,
            }
        })
    }

    fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn restarts_ice(&self, slot: u8) -> bool {
        slot == TRANSPORT
    }

    fn hosts(&self) -> Vec<IpAddr> {
        self.hosts.get().cloned().unwrap_or_default()
    }
}

struct Leg<'a> {
    driver: &'a EmbeddedDriver,
    call: Call,
    /// Where to DELETE.
    session: Option<Url>,
    connected: bool,
}

impl Leg<'_> {
    /// Either way out is an end; `Err` lets `?` take the short one.
    async fn live(&mut self) -> Result<Ended, Ended> {
        let want = want(&self.call.leg, &self.call.room);
        let offer = self.call.media.offer(TRANSPORT, want).await;
        let offer = offer.map_err(|e| Ended::failed(e.reason(), e.to_string()))?;
        self.tell(Progress::Started(Instant::now()));
        let answer = self.post(offer).await?;
        if let Err(error) = self.call.media.accept_answer(TRANSPORT, answer).await {
            // The server holds a place for us that nobody will fill.
            let _ = self.delete().await;
            return Err(Ended::failed(error.reason(), error.to_string()));
        }
        self.tell(Progress::Signaled(Instant::now()));
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => order,
                // An engine that has let go of us wants what Leave wants.
                None => self.call.orders.recv().await.unwrap_or(Order::Leave),
            };
            if let Order::RestartIce { .. } = order {
                next = self.restart().await;
            } else if let Some(ended) = self.obey(order).await {
                return Ok(ended);
            }
        }
    }

    fn tell(&self, progress: Progress) {
        // Nobody listens any more: the leg is being torn down.
        let _ = self.call.progress.send(progress);
    }

    /// Joins; gives the answer's SDP. A leave that is ordered meanwhile waits for the response, so that no session is
    /// left behind at the server.
    async fn post(&mut self, offer: String) -> Result<String, Ended> {
        let url = self.driver.url(&["rooms", &self.call.room.name, "participants", &self.call.leg.name]);
        let request = self.driver.client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offer);
        let request = match &self.call.room.server {
            Some(server) => request.header("roomful-server", server),
            None => request,
        };
        let response = async {
            let response = request.timeout(JOIN_TIMEOUT).send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, response.text().await?))
        };
        tokio::pin!(response);
        let mut leave_by = None;
        let (status, headers, body) = loop {
            let deadline = async {
                match leave_by {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut response => break done.map_err(|e| failed_request(&e))?,
                () = deadline => return Err(left_early()),
                order = self.call.orders.recv(), if leave_by.is_none() => match order {
                    Some(Order::Leave) | None => leave_by = Some(tokio::time::Instant::now() + LEAVE_TIMEOUT / 2),
                    Some(Order::Transport { state: TransportState::Failed { why }, .. }) => {
                        return Err(Ended::failed(reason_of(&why), why));
                    }
                    Some(_) => {}
                },
            }
        };
        if status != StatusCode::CREATED {
            return Err(refused(status, &body));
        }
        let location = headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
        self.session = location.and_then(|l| self.driver.director.join(l).ok());
        if self.session.is_none() {
            return Err(Ended::failed(FailReason::BadAnswer, format!("201 with Location {location:?}")));
        }
        if leave_by.is_some() {
            let _ = self.delete().await;
            return Err(left_early());
        }
        if let Some(server) = headers.get("roomful-server").and_then(|s| s.to_str().ok()) {
            self.tell(Progress::Server(server.to_owned()));
        }
        Ok(body)
    }

    /// Offers with new ICE credentials and applies the answer. Gives the order that broke it off, if one did.
    async fn restart(&mut self) -> Option<Order> {
        let session = self.session.clone()?;
        let want = OfferWant { ice_restart: true, ..want(&self.call.leg, &self.call.room) };
        let outcome = {
            let Leg { driver, call, .. } = self;
            let media = call.media.clone();
            let exchange = async {
                let offer = media.offer(TRANSPORT, want).await.map_err(|e| e.to_string())?;
                let request = driver.client.patch(session).header(header::CONTENT_TYPE, "application/sdp").body(offer);
                let response = request.timeout(JOIN_TIMEOUT).send().await.map_err(|e| describe(&e))?;
                if !response.status().is_success() {
                    return Err(format!("the server answered an ICE restart with {}", response.status()));
                }
                let answer = response.text().await.map_err(|e| describe(&e))?;
                media.accept_answer(TRANSPORT, answer).await.map_err(|e| e.to_string())
            };
            tokio::pin!(exchange);
            loop {
                tokio::select! {
                    done = &mut exchange => break done,
                    order = call.orders.recv() => match order {
                        // Neither news nor more of the same breaks it off.
                        Some(Order::RestartIce { .. })
                        | Some(Order::Transport {
                            state: TransportState::IceConnected { .. }
                            | TransportState::Connected { .. }
                            | TransportState::Disconnected,
                            ..
                        }) => {}
                        other => return Some(other.unwrap_or(Order::Leave)),
                    },
                }
            }
        };
        if let Err(text) = outcome {
            // The old pair may come back; consent decides.
            self.tell(Progress::Note { code: "ice_restart_refused", text });
        }
        None
    }

    async fn obey(&mut self, order: Order) -> Option<Ended> {
        match order {
            Order::Leave => {
                let left = self.delete().await;
                self.call.media.close(TRANSPORT);
                Some(match (left, self.connected) {
                    (_, false) => left_early(),
                    (Ok(()), true) => Ended::over(LegCause::Left, ""),
                    (Err(why), true) => Ended::over(LegCause::LeftUnacknowledged, why),
                })
            }
            Order::Transport { state, .. } => self.transport(state).await,
            // Obeyed before, with the orders that may break it off.
            Order::RestartIce { .. } => None,
        }
    }

    async fn transport(&mut self, state: TransportState) -> Option<Ended> {
        let ended = match (state, self.connected) {
            (TransportState::IceConnected { .. } | TransportState::Disconnected, _) => return None,
            (TransportState::Connected { .. }, _) => {
                self.connected = true;
                return None;
            }
            (TransportState::Failed { why }, false) => Ended::failed(reason_of(&why), why),
            (TransportState::PeerClosed, false) => {
                Ended::failed(FailReason::Closed, "the server closed the transport before it was up")
            }
            (TransportState::ConsentExpired, false) => Ended::failed(FailReason::TimeoutIce, "no consent"),
            (TransportState::Failed { why }, true) => Ended::over(LegCause::ClosedByServer, why),
            // The server has ended the session: there is nothing left to leave.
            (TransportState::PeerClosed, true) => return Some(Ended::over(LegCause::ClosedByServer, "close_notify")),
            (TransportState::ConsentExpired, true) => Ended::over(LegCause::ConsentExpired, ""),
        };
        // Frees our place if the server is still there; how the leg ended is settled already.
        let _ = self.delete().await;
        Some(ended)
    }

    /// Ends the session at the server. `Err` says how it was not acknowledged.
    async fn delete(&mut self) -> Result<(), String> {
        let Some(session) = self.session.take() else { return Ok(()) };
        match self.driver.client.delete(session).timeout(LEAVE_TIMEOUT).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("the server answered the leave with {}", response.status())),
            Err(error) => Err(describe(&error)),
        }
    }
}

/// Slots for all others who send; a sender is one of those itself, and what it does not send its room does not have.
fn want(leg: &PlannedLeg, room: &PlannedRoom) -> OfferWant {
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

/// What a transport that never came up died of, by the words in its explanation.
fn reason_of(why: &str) -> FailReason {
    let why = why.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| why.contains(w));
    let in_vain = says(&["in time", "timeout", "time-out", "timed out"]);
    if says(&["allow-list"]) {
        FailReason::NotAllowed
    } else if says(&["dtls"]) && in_vain {
        FailReason::TimeoutDtls
    } else if says(&["dtls", "certificate", "fingerprint", "srtp suite"]) {
        FailReason::Dtls
    } else if in_vain || says(&["ice "]) {
        FailReason::TimeoutIce
    } else {
        FailReason::Closed
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
