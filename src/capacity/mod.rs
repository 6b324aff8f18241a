//! Pure: how many participants one server carries. Which load to try next and what the trials prove, from the trials so
//! far (`search`); no clocks, no I/O.

mod loads;
mod search;

pub use loads::Loads;
pub use search::{Bounds, Class, Goal, Step, Stop, Trial, bounds, classify, next};

#[cfg(test)]
mod reference_tests;
