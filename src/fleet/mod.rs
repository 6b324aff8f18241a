//! The servers under test: start, discover, control, observe.

pub mod backend; // discovery, control and observation, each its own backend
pub mod embedded; // our own fleet as child processes
pub mod observe; // what servers cost: /proc, Prometheus, a command
