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
    pub rooms: Vec<String>,
    pub traffic: Stats,
}

/// `GET /registry` of the director.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RegistryView {
    pub servers: Vec<ServerView>,
    /// Room → server id.
    pub rooms: std::collections::BTreeMap<String, String>,
    /// Participants that still fit, over all servers that take new rooms.
    pub headroom: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerView {
    pub id: String,
    pub pid: u32,
    pub http: String,
    pub media: SocketAddr,
    /// Its process runs, and it has answered within the last 2 s.
    pub alive: bool,
    /// Takes no new rooms.
    pub cordoned: bool,
    pub participants: u64,
    pub participants_max: u64,
    pub headroom: u64,
    pub rooms: u64,
}
