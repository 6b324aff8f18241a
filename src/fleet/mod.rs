//! The servers under test: start, discover, observe.

pub mod embedded; // our own fleet as child processes
pub mod observe; // what servers cost: /proc, Prometheus, a command
