//! Pure: how many participants one server carries. `search` says which load to try next and what the trials prove;
//! `record` judges the trials of a history; `course` makes them on a live fleet; `answer` is what comes of it. No
//! clocks, no I/O.

mod answer;
mod course;
mod loads;
mod mixes;
mod objectives;
mod record;
#[cfg(test)]
mod reference_tests;
mod search;
mod setting;
#[cfg(test)]
mod turn_tests;

pub use answer::{Answer, CPU_TRIGGER, CpuTrigger, HPA_TOLERANCE, Knee, ServerBounds, Threshold, hpa_target};
pub use course::Search;
pub use loads::Loads;
pub use mixes::{Matrix, MixRow, Unit, UnitRow};
pub use record::{Broken, Cost, KindTrial, Outcome, Record, RelayTrial, ServerTrial, TrialRow};
pub use search::{Bounds, Class, Goal, Step, Stop, Trial, bounds, classify, next};
pub use setting::Setting;
