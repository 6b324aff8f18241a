//! What a step of a scale-in experiment writes into the history.

use crate::types::StepAction;
use serde::{Deserialize, Serialize};

/// What a join's step says that found no room to join.
pub const NO_SEAT: &str = "there is no room with a free seat";

/// One stage of an operation. What was asked and what came of it are recorded apart, since anything may happen between.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepEvent {
    /// Number of the operation in the run; its stages share it.
    pub op: u32,
    /// The step's name in the profile.
    pub name: String,
    pub action: StepAction,
    /// Absent where the operation is not about one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    pub stage: StepStage,
    /// For a person: the condition that was waited for, the answer, the error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// It takes back what an earlier step did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStage {
    Begun,
    /// Acknowledged by whoever carried it out.
    Done,
    Failed,
    /// Its condition did not come true by its deadline, or an earlier step failed.
    Skipped,
}
