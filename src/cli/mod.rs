//! CLI.

pub mod report;
