//! Runs whose plan is made as they go: a source of orders, asked by the engine.

use super::{PlannedLeg, StepEvent};
use crate::types::LegId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the engine is to do now.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// Its id is the next one: legs are numbered in the order of their joins.
    Join(PlannedLeg),
    /// The same for somebody who was in before and fell out: who that was.
    Rejoin(PlannedLeg, LegId),
    Leave(LegId),
    /// Goes into the history as begun, and is asked of the fleet; what came of it follows.
    Act(StepEvent),
    /// Goes into the history as it is.
    Step(StepEvent),
    /// Goes into the history as it is.
    Trial(PlannedTrial),
    /// Goes into the history; everybody leaves.
    End {
        why: String,
    },
    /// Everybody leaves.
    Close,
}

/// Decides as the run goes. Pure: time is an argument.
pub trait Course {
    /// Takes the next order that is due, until none is.
    fn due(&mut self, now: Duration) -> Option<Order>;
    /// When to ask again, if nothing happens before.
    fn wake(&self, now: Duration) -> Duration;
    /// The run is to end early. True: the course has something to put in order, and gives [`Order::Close`] soon.
    fn interrupt(&mut self, now: Duration) -> bool {
        let _ = now;
        false
    }
    /// How long to go on watching after everybody has left, in a run that is not interrupted.
    fn linger(&self) -> Duration {
        Duration::ZERO
    }
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
