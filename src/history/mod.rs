//! The append-only record of a run: one JSON object a line in `history.jsonl`. Everything that is judged or drawn
//! comes from here, so anybody can judge again later.

mod event;
mod reader;
#[cfg(test)]
pub(crate) mod synthetic;
mod writer;

pub use crate::plan::{NO_SEAT, StepEvent, StepStage};
pub use crate::types::StepAction;
pub use event::{
    Carried, EDGE_MS, Event, FailReason, FleetRole, FleetView, FlowGap, Health, Interval, JoinFailure, LegCause,
    LegEnd, Line, MISNAMED, Paths, Phase, ReferenceFlow, Relay, RelayFlow, RelayWhat, RoomInterval, RunInfo, SCHEMA,
    ServerFlow, ServerInfo, ServerSeen, Setup, ShardHealth, Silence, UdpErrors, Usage,
};
pub use reader::{Problem, ReadError, Reading, Scan, read, read_with_tail};
pub use writer::{CreateError, FILE_NAME, Writer};
