//! Counters, HDR histograms and mergeable snapshots. Pure. Definitions: docs/measurement.md.

pub mod emodel;
mod flow;
mod hist;
mod ledger;
mod window;

pub use flow::{Flow, FlowCounters};
pub use hist::Hist;
pub use ledger::Ledger;
pub use window::Window10s;
