//! CLI.

pub mod fleet;
