//! Counters, HDR histograms and mergeable snapshots. Pure. Definitions: docs/measurement.md.

mod flow;
mod hist;

pub use flow::{Flow, FlowCounters};
pub use hist::Hist;
