//! What director, servers and their users tell each other over HTTP, besides SDP.

use super::terms::Stats;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A process's first line on stdout: it takes requests now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerReady {
    pub id: String,
    pub pid: u32,
    /// Base URL.
    pub http: String,
    pub media: SocketAddr,
    /// Where other servers of its rooms send.
    pub cascade: SocketAddr,
}

/// The director's first line on stdout.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectorReady {
    /// Base URL.
    pub http: String,
    pub servers: Vec<ServerReady>,
}

/// `GET /stats` of a server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerStats {
    pub id: String,
    pub participants_max: u64,
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    /// Datagrams lost at the media socket because its buffer was full.
    pub socket_drops: u64,
    /// Datagrams the kernel would not take.
    pub send_errors: u64,
    /// Participants by room.
    pub rooms: std::collections::BTreeMap<String, u64>,
    /// It was told to end, and does so when it is empty.
    #[serde(default)]
    pub draining: bool,
    pub traffic: Stats,
}

/// `GET /registry` of the director.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RegistryView {
    pub servers: Vec<ServerView>,
    /// Room → server id.
    pub rooms: std::collections::BTreeMap<String, String>,
    /// Participants that still fit, over all servers that take new rooms.
    pub headroom: i64,
}

/// `POST /rooms/{room}/move` of a server: the room goes to another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveRoom {
    /// The other server's name.
    pub server: String,
    /// And its base URL.
    pub url: String,
}

/// `PUT /rooms/{room}/cascade` of a server: the room is on these other servers, too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cascade {
    /// Grows; an older one than the last is not heeded.
    pub version: u64,
    /// Their cascade addresses; none: the room is here alone.
    pub peers: Vec<SocketAddr>,
}

/// A line of `GET /events` of a server: what it tells one session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    pub session: String,
    #[serde(flatten)]
    pub told: Told,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// Join on this server too, and say `POST /sessions/{session}/ready` here when media can flow there.
    Move(MoveRoom),
    /// Everybody is ready: go on there, and leave here.
    Switch,
    /// Leave, and join again.
    Rejoin,
    /// The video of these, by name, is forwarded to it, and nobody else's (last-N).
    Forwarded { senders: Vec<String> },
}

/// `POST /servers/{id}/{action}` of the director.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Controlled {
    pub server: String,
    /// What was done.
    pub action: String,
    /// Participants that were there.
    pub sessions: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerView {
    pub id: String,
    pub pid: u32,
    pub http: String,
    pub media: SocketAddr,
    /// Its process runs.
    pub alive: bool,
    /// The registry offers it, for new rooms or for those that it has: it has answered within the last 2 s.
    pub listed: bool,
    /// Takes no new rooms.
    pub cordoned: bool,
    /// Was told to end, and does so when it is empty.
    pub terminating: bool,
    /// Participants by its own count, at its last heartbeat.
    pub sessions: u64,
    /// The same, with the joins that were not in it yet.
    pub participants: u64,
    pub participants_max: u64,
    /// Participants that still fit.
    pub headroom: i64,
    /// How many rooms it has.
    pub rooms: u64,
}
