//! Janus VideoRoom over WebSocket: one connection a participant, as a browser has it; a publishing handle and a
//! receiving one (multistream); rooms of our own, made before the run and removed after it.
//!
//! Secrets of the target file: `api_secret` (janus.jcfg), `token` (token authentication) and `admin_key` (of the
//! VideoRoom plugin, to make rooms).

mod call;
mod control;
mod machine;
mod socket;
mod subscriber;
mod wire;

pub use socket::tls_config;

#[cfg(test)]
mod fake;

use super::{BoxFuture, Call, Driver, Ended, Progress, Route};
use crate::client::{Candidates, policy};
use crate::history::FailReason;
use crate::plan::{PlannedRoom, TransportsPer};
use crate::profile::{ExternalTarget, Secret, ServerEntry};
use crate::types::{Client, RoomId};
use anyhow::{Context, anyhow, bail};
use control::{Control, RoomSpec};
use futures_util::future::join_all;
use machine::Part;
use rustls::ClientConfig;
use socket::{ConnectError, Endpoint};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use wire::Credentials;

/// A handle that publishes, and one that receives.
pub(super) const TRANSPORTS: TransportsPer = TransportsPer::Direction;

/// Room for successors who come before those whom they replace are gone.
const SPARE_PUBLISHERS: u32 = 8;

/// How a join's failure tells that there is no such room (VideoRoom's error code).
const NO_ROOM: &str = "426";

/// For how long rooms may still have participants before they are removed.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
pub struct JanusDriver {
    servers: Vec<Server>,
    tls: Arc<ClientConfig>,
    credentials: Credentials,
    admin_key: Option<String>,
    client: Client,
    join_timeout: Duration,
    spare_publishers: u32,
    /// Janus's room ids are this plus ours, so that two runs on one server do not meet.
    room_base: u64,
    seats: Mutex<BTreeMap<RoomId, Seat>>,
    /// The user's own join API places rooms, not we.
    behind_hook: bool,
    made: Mutex<Made>,
}

struct Server {
    id: String,
    endpoint: Endpoint,
}

/// Rooms made where the join API wanted them, by the server's URL: Janus's id of each.
type Made = BTreeMap<(String, RoomId), Arc<OnceCell<u64>>>;

/// Where a room is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seat {
    server: usize,
    room: u64,
}

/// The entry for [`super::driver`].
pub fn make(target: &ExternalTarget, client: Client, join_timeout: Duration) -> anyhow::Result<Arc<dyn Driver>> {
    let driver = JanusDriver::new(target.servers.clone(), &target.secrets, client, target.tls_verify, join_timeout)?;
    Ok(Arc::new(JanusDriver { behind_hook: target.join.is_some(), ..driver }))
}

impl JanusDriver {
    /// Connects to nothing yet. Errors: no server, or a URL that is none. A join whose signalling takes longer than
    /// `join_timeout` has failed.
    pub fn new(
        servers: Vec<ServerEntry>,
        secrets: &BTreeMap<String, Secret>,
        client: Client,
        tls_verify: bool,
        join_timeout: Duration,
    ) -> anyhow::Result<JanusDriver> {
        if servers.is_empty() {
            bail!("the target file names no server ([[servers]] with id and url)");
        }
        let servers = servers
            .into_iter()
            .map(|entry| {
                let endpoint = Endpoint::parse(&entry.url).map_err(|e| anyhow!("server {}: {e}", entry.id))?;
                Ok(Server { id: entry.id, endpoint })
            })
            .collect::<anyhow::Result<_>>()?;
        let secret = |name: &str| secrets.get(name).map(|s| s.0.clone());
        Ok(JanusDriver {
            servers,
            tls: socket::tls_config(tls_verify).context("TLS settings")?,
            credentials: Credentials { api_secret: secret("api_secret"), token: secret("token") },
            admin_key: secret("admin_key"),
            client,
            join_timeout,
            spare_publishers: SPARE_PUBLISHERS,
            // 30 random bits over 20 bits of room number: below 2^53, which JSON carries everywhere.
            room_base: u64::from(rand::random::<u32>() >> 2) << 20,
            seats: Mutex::default(),
            behind_hook: false,
            made: Mutex::default(),
        })
    }

    /// How many publishers beyond the planned ones a room admits (default 8).
    pub fn with_spare_publishers(mut self, spare: u32) -> JanusDriver {
        self.spare_publishers = spare;
        self
    }

    /// Janus's id of a room that [`Driver::prepare`] made, and its server's name: for whoever else should join it.
    pub fn room(&self, room: RoomId) -> Option<(u64, &str)> {
        let seat = self.seat(room)?;
        Some((seat.room, &self.servers[seat.server].id))
    }

    fn seat(&self, room: RoomId) -> Option<Seat> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).get(&room).copied()
    }

    async fn open(&self, server: &Server) -> anyhow::Result<Control> {
        let (control, info) =
            Control::open(&server.endpoint, self.tls.clone(), self.credentials.clone(), self.admin_key.clone())
                .await
                .with_context(|| format!("server {}", server.id))?;
        tracing::debug!(server = server.id, version = info.version, "Janus answers");
        Ok(control)
    }

    fn spec<'a>(&self, room: &'a PlannedRoom, id: u64) -> RoomSpec<'a> {
        let publishers = room.senders_max.saturating_add(self.spare_publishers);
        RoomSpec { room: id, name: &room.name, publishers }
    }

    /// Our room on a server that the join API chose, made there by whoever comes first.
    async fn room_at(&self, server: &Server, room: &PlannedRoom) -> anyhow::Result<u64> {
        let cell = self.made().entry((server.endpoint.url().to_owned(), room.id)).or_default().clone();
        let make = || async {
            let id = self.room_base + u64::from(room.id.0) + 1;
            let mut control = self.open(server).await?;
            control.create_room(&self.spec(room, id)).await.with_context(|| format!("server {}", server.id))?;
            control.close().await;
            anyhow::Ok(id)
        };
        cell.get_or_try_init(make).await.copied()
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Server and room where the join API sends a participant.
    async fn follow(&self, route: &Route, room: &PlannedRoom) -> Result<(Server, u64), Ended> {
        let wrong = |why: String| Ended::failed(FailReason::Routing, format!("the join API's answer: {why}"));
        let endpoint = Endpoint::parse(&route.url).map_err(wrong)?;
        let server = Server { id: route.server.clone().unwrap_or_else(|| endpoint.authority()), endpoint };
        let id = match &route.room {
            Some(text) => text.parse().map_err(|_| wrong(format!("room {text:?}; Janus's rooms are numbers")))?,
            None => self.room_at(&server, room).await.map_err(|e| {
                let reason = e.downcast_ref::<ConnectError>().map_or(FailReason::Rejected, |c| c.reason);
                Ended::failed(reason, format!("{e:#}"))
            })?,
        };
        Ok((server, id))
    }

    async fn run_at(&self, call: Call, server: &Server, room: u64, token: Option<String>) -> Ended {
        // Progress is for the engine; one that listens no more has dropped the leg.
        let _ = call.progress.send(Progress::Server(server.id.clone()));
        let mut credentials = self.credentials.clone();
        credentials.token = token.or(credentials.token);
        let part = Part {
            room,
            display: call.leg.name.clone(),
            sends: call.leg.sends(),
            credentials,
            trickles: policy(self.client).candidates == Candidates::Trickled,
        };
        call::run(call, &server.endpoint, self.tls.clone(), part, self.join_timeout).await
    }

    async fn make_rooms(
        &self,
        index: usize,
        rooms: &[PlannedRoom],
        seats: &BTreeMap<RoomId, Seat>,
    ) -> anyhow::Result<()> {
        let server = &self.servers[index];
        let mut control = self.open(server).await?;
        for room in rooms {
            let Some(seat) = seats.get(&room.id).filter(|seat| seat.server == index) else { continue };
            control.create_room(&self.spec(room, seat.room)).await.with_context(|| format!("server {}", server.id))?;
        }
        control.close().await;
        Ok(())
    }

    async fn remove_rooms(&self, server: &Server, rooms: Vec<u64>) {
        // A server that the run has lost keeps no rooms either.
        let mut control = match self.open(server).await {
            Ok(control) => control,
            Err(e) => return tracing::warn!(server = server.id, "rooms not removed: {e:#}"),
        };
        // Strangers may stay for as long as they like: one patience for all rooms.
        let until = Instant::now() + EMPTY_WITHIN;
        for room in rooms {
            let patience = until.saturating_duration_since(Instant::now());
            let removed = match control.wait_until_empty(room, patience).await {
                Ok(()) => control.destroy_room(room).await,
                Err(e) => Err(e),
            };
            if let Err(e) = removed {
                tracing::warn!(server = server.id, room, "room not removed: {e:#}");
                break;
            }
        }
        control.close().await;
    }
}

impl Driver for JanusDriver {
    fn name(&self) -> &'static str {
        "janus"
    }

    fn restarts_ice(&self, _slot: u8) -> bool {
        true
    }

    fn prepare<'a>(&'a self, rooms: &'a [PlannedRoom]) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let names: Vec<&str> = self.servers.iter().map(|s| s.id.as_str()).collect();
            let seats = if self.behind_hook { BTreeMap::new() } else { place(rooms, &names, self.room_base) };
            // Known before they are made, so that `finish` removes what a failed start has left.
            self.seats.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&seats);
            // All of them to their end, also behind the first error: no room may come after `finish` has looked.
            let made = join_all((0..self.servers.len()).map(|index| self.make_rooms(index, rooms, &seats))).await;
            made.into_iter().collect()
        })
    }

    fn run<'a>(&'a self, call: Call) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            if let Some(route) = call.route.clone() {
                let (server, room) = match self.follow(&route, &call.room).await {
                    Ok(place) => place,
                    Err(ended) => return ended,
                };
                let key = (route.url.clone(), call.room.id);
                let ended = self.run_at(call, &server, room, route.token.map(|t| t.0)).await;
                // A server that was started again has forgotten the room: the next one makes it anew.
                if matches!(&ended, Ended::Failed { reason: FailReason::Rejected, detail } if detail.contains(NO_ROOM))
                {
                    self.made().remove(&key);
                }
                return ended;
            }
            let Some(seat) = self.seat(call.room.id) else {
                return Ended::failed(FailReason::Local, format!("room {} was never prepared", call.room.name));
            };
            self.run_at(call, &self.servers[seat.server], seat.room, None).await
        })
    }

    fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let seats = std::mem::take(&mut *self.seats.lock().unwrap_or_else(PoisonError::into_inner));
            let mut rooms = vec![Vec::new(); self.servers.len()];
            for seat in seats.into_values() {
                rooms[seat.server].push(seat.room);
            }
            let busy = rooms.into_iter().enumerate().filter(|(_, rooms)| !rooms.is_empty());
            join_all(busy.map(|(index, rooms)| self.remove_rooms(&self.servers[index], rooms))).await;
            let mut elsewhere: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for ((url, _), cell) in std::mem::take(&mut *self.made()) {
                elsewhere.entry(url).or_default().extend(cell.get());
            }
            let remove = |(url, rooms): (String, Vec<u64>)| async move {
                // It was parsed before the rooms were made.
                if let Ok(endpoint) = Endpoint::parse(&url) {
                    self.remove_rooms(&Server { id: endpoint.authority(), endpoint }, rooms).await;
                }
            };
            join_all(elsewhere.into_iter().filter(|(_, rooms)| !rooms.is_empty()).map(remove)).await;
        })
    }

    fn hosts(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.servers.iter().flat_map(|server| server.endpoint.addresses()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Each room on the server with the fewest participants so far, the first of equals: a round robin that heeds sizes.
/// A room that the plan puts on a server goes there.
fn place(rooms: &[PlannedRoom], servers: &[&str], base: u64) -> BTreeMap<RoomId, Seat> {
    let mut load = vec![0u64; servers.len()];
    let mut seats = BTreeMap::new();
    for room in rooms {
        let named = room.server.as_ref().and_then(|name| servers.iter().position(|s| s == name));
        let Some(server) = named.or_else(|| (0..servers.len()).min_by_key(|&s| load[s])) else { break };
        load[server] += u64::from(room.size.max(1));
        // Zero is no room id.
        seats.insert(room.id, Seat { server, room: base + u64::from(room.id.0) + 1 });
    }
    seats
}

/// Anything as a message of Janus's.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(text: &str) {
    let _ = wire::parse(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(id: u32, size: u32) -> PlannedRoom {
        PlannedRoom { id: RoomId(id), name: format!("r-{id}"), group: 0, size, senders_max: size, server: None }
    }

    fn entry(id: &str, url: &str) -> ServerEntry {
        ServerEntry {
            id: id.into(),
            url: url.into(),
            admin: None,
            pid_file: None,
            metrics: None,
            observe: vec![],
            cores: None,
        }
    }

    #[test]
    fn rooms_are_spread_by_participants() {
        let rooms = [room(0, 60), room(1, 4), room(2, 4), room(3, 4), room(4, 50)];
        let seats = place(&rooms, &["j1", "j2"], 0);
        let servers: Vec<usize> = seats.values().map(|seat| seat.server).collect();
        assert_eq!(servers, [0, 1, 1, 1, 1]);
        let even: Vec<usize> =
            place(&[room(0, 5), room(1, 5), room(2, 5)], &["j1", "j2", "j3"], 0).values().map(|s| s.server).collect();
        assert_eq!(even, [0, 1, 2]);
    }

    #[test]
    fn two_runs_have_other_room_ids_and_all_fit_javascript() {
        let driver = || {
            let servers = vec![entry("j", "ws://127.0.0.1:1")];
            JanusDriver::new(servers, &BTreeMap::new(), Client::Chrome, true, Duration::from_secs(1)).unwrap()
        };
        let bases: Vec<u64> = (0..20).map(|_| driver().room_base).collect();
        assert!(bases.iter().any(|b| *b != bases[0]));
        assert!(bases.iter().all(|b| b + u64::from(u32::MAX) < 1 << 53));
        let seats = place(&[room(0, 1), room(1, 1)], &["j1"], bases[0]);
        assert_ne!(seats[&RoomId(0)].room, seats[&RoomId(1)].room);
    }

    #[test]
    fn a_target_without_servers_or_with_a_wrong_url_is_refused() {
        let new = |servers| {
            JanusDriver::new(servers, &BTreeMap::new(), Client::Light, true, Duration::from_secs(1)).err().unwrap()
        };
        assert!(new(vec![]).to_string().contains("[[servers]]"));
        let error = new(vec![entry("edge-1", "http://10.77.0.1:8188")]).to_string();
        assert!(error.contains("edge-1") && error.contains("ws://"), "{error}");
    }

    #[test]
    fn hosts_are_the_servers_addresses_once() {
        let servers = vec![entry("a", "ws://127.0.0.1:8188"), entry("b", "ws://127.0.0.1:8189")];
        let driver = JanusDriver::new(servers, &BTreeMap::new(), Client::Chrome, true, Duration::from_secs(1)).unwrap();
        assert_eq!(driver.hosts(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
