//! The append-only record of a run: one JSON object a line in `history.jsonl`. Everything that is judged or drawn
//! comes from here, so anybody can judge again later.

mod event;

pub use event::{
    Event, FailReason, Health, Interval, JoinFailure, LegCause, LegEnd, Line, Phase, RoomInterval, RunInfo, SCHEMA,
    ServerFlow, ServerInfo, Setup, ShardHealth,
};
