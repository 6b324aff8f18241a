//! The servers under test: start, discover, observe.

pub mod embedded; // our own fleet as child processes
