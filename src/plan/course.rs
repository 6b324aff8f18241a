//! Runs whose plan is made as they go: a source of orders, asked by the engine.

use super::PlannedLeg;
use crate::types::LegId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the engine is to do now.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// Its id is the next one: legs are numbered in the order of their joins.
    Join(PlannedLeg),
    Leave(LegId),
    /// Goes into the history as it is.
    Trial(PlannedTrial),
    /// Goes into the history; everybody leaves.
    End {
        why: String,
    },
}

/// Decides as the run goes. Pure: time is an argument.
pub trait Course {
    /// Takes the next order that is due, until none is.
    fn due(&mut self, now: Duration) -> Option<Order>;
    /// When to ask again, if nothing happens before.
    fn wake(&self, now: Duration) -> Duration;
}

/// One load step of a search. Times in ms since the start of the run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlannedTrial {
    /// From 1.
    pub number: u32,
    /// On each server that is loaded.
    pub rooms: u32,
    pub participants: u32,
    /// When the load began to change, and the judged window.
    pub moved_ms: f64,
    pub from_ms: f64,
    pub until_ms: f64,
}
