//! Pure: how many participants one server carries. `search` says which load to try next and what the trials prove;
//! `record` follows the trials of a history, and `trial` judges each; `course` makes them on a live fleet; `answer` is
//! what comes of it. No clocks, no I/O.

mod answer;
mod course;
mod loads;
mod mixes;
#[cfg(test)]
mod model;
mod objectives;
mod record;
#[cfg(test)]
mod reference_tests;
mod search;
mod setting;
#[cfg(test)]
mod target_tests;
mod trial;
#[cfg(test)]
mod turn_tests;

pub use answer::{Answer, CPU_TRIGGER, CpuTrigger, HPA_TOLERANCE, Knee, ServerBounds, Threshold, hpa_target};
pub use course::Search;
pub use loads::Loads;
pub use mixes::{Matrix, MixRow, Unit, UnitRow};
#[cfg(test)]
pub(crate) use model::{MODEL_PROFILE, model_answer, model_history};
pub use record::Record;
pub use search::{Bounds, Class, Goal, Step, Stop, Trial, bounds, classify, next};
pub use setting::Setting;
pub use trial::{Broken, Cost, KindTrial, Outcome, RelayTrial, ServerTrial, TrialRow};
