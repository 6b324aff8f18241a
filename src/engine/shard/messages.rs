//! What a shard is told, and what it tells.

use crate::engine::relayed::News;
use crate::history::{RelayFlow, ShardHealth};
use crate::impair::{Conditions, Counters};
use crate::measure::{Flow, FlowCounters};
use crate::participant::{Spec, Totals};
use crate::plan::Relay;
use crate::signaling::TransportState;
use crate::types::{LegId, RoomId, ServerId};
use std::sync::Arc;
use std::time::Instant;

/// Orders for a shard.
pub enum ToShard {
    Add {
        spec: Box<Spec>,
        /// Its network, up and down; `None`: a perfect one.
        network: Option<Box<[Conditions; 2]>>,
        /// Its way through TURN servers; `None`: none.
        relay: Option<Box<Relay>>,
    },
    /// Where the leg's room is, once known.
    Server {
        leg: LegId,
        server: ServerId,
    },
    /// Stop sending; leave follows.
    Quiet {
        leg: LegId,
    },
    /// Close what is open and forget the leg; answered by [`FromShard::Totals`].
    Remove {
        leg: LegId,
    },
    Stop,
}

/// What a shard tells.
#[derive(Debug)]
pub enum FromShard {
    /// The leg has its first transport.
    Opened {
        leg: LegId,
    },
    State {
        leg: LegId,
        slot: u8,
        state: TransportState,
        at: Instant,
    },
    FirstMedia {
        leg: LegId,
        from: LegId,
        rtp_ms: Option<f64>,
        frame_ms: Option<f64>,
        in_vain_ms: [Option<f64>; 2],
    },
    Note {
        leg: LegId,
        code: &'static str,
        text: String,
    },
    /// It has heard nobody for [`super::ShardConfig::silent_after`]; since when, in ns of the engine's clock.
    Silent {
        leg: LegId,
        since_ns: u64,
    },
    Totals {
        leg: LegId,
        totals: Box<Totals>,
        /// What its network did, up and down.
        impaired: Option<[Counters; 2]>,
    },
    /// A TURN server was asked for an allocation.
    Asked {
        leg: LegId,
        slot: u8,
        turn: Arc<str>,
    },
    /// What became of an allocation.
    Relay {
        leg: LegId,
        slot: u8,
        news: Box<News>,
        at: Instant,
    },
    Second(Box<ShardSecond>),
    /// The shard can't go on.
    Fatal(String),
}

/// One second of one shard.
#[derive(Debug)]
pub struct ShardSecond {
    pub shard: usize,
    /// Seconds since the start of the run at its end.
    pub second: u64,
    pub seconds: f64,
    pub health: ShardHealth,
    pub servers: Vec<(ServerId, [Flow; 2])>,
    /// The same, direct and relayed; where anybody is relayed.
    pub paths: Option<Box<[[Flow; 2]; 2]>>,
    pub relays: Vec<RelayFlow>,
    /// Participants with media, by server; and rooms.
    pub present: Vec<(ServerId, u32, u32)>,
    pub rooms: Vec<RoomRow>,
}

/// A room's second.
#[derive(Debug)]
pub struct RoomRow {
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub seconds: f64,
    pub participants: u32,
    pub count: [FlowCounters; 2],
    pub silence_max_ms: i64,
    pub delay_max_us: [u64; 2],
    /// Nobody is in it any more.
    pub last: bool,
}
