//! The generator at work: shards (one thread each, all the media I/O) and the conductor that follows the plan, drives
//! signalling and writes the history.

mod clock; // steady, whoever sets the machine's
mod conductor;
mod forwarder; // the impairer as a process in front of a server
mod health;
mod impaired; // a participant's own network, between socket and participant
mod leg; // the participant and the end of a leg of the plan
mod reference;
mod relayed; // a participant's way through TURN servers, between transport and socket
mod shard;
pub mod socket;
pub mod wheel;
mod wire; // UDP, or a connection to a TURN server

pub use clock::{of_system_ns, realtime_ns};
pub use conductor::{Agenda, Conductor, Control, Due, Outcome, Progress, start_of_run};
pub use forwarder::{Forwarder, ForwarderConfig, ForwarderReport, NetworkReport};
pub use leg::{Over, leg_end, participant_of};
pub use relayed::{News, Turn};
pub use shard::{FromShard, RoomRow, Shard, ShardConfig, ShardSecond, ToShard};
