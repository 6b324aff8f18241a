//! The generator at work: shards (one thread each, all the media I/O) and the conductor that follows the plan, drives
//! signalling and writes the history.

mod conductor;
mod forwarder; // the impairer as a process in front of a server
mod health;
mod impaired; // a participant's own network, between socket and participant
mod reference;
mod relayed; // a participant's way through TURN servers, between transport and socket
mod shard;
pub mod socket;
pub mod wheel;
mod wire; // UDP, or a connection to a TURN server

pub use conductor::{Conductor, Control, Outcome, Progress, start_of_run};
pub use forwarder::{ClientReport, Forwarder, ForwarderConfig, ForwarderReport};
pub use relayed::{News, Turn};
pub use shard::{FromShard, RoomRow, Shard, ShardConfig, ShardSecond, ToShard};

use std::time::{SystemTime, UNIX_EPOCH};

/// CLOCK_REALTIME in ns: the clock of kernel receive timestamps, and so of stamps.
pub fn realtime_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
