//! roomful load-tests WebRTC fleets: it fills rooms with real, headless participants, measures what they would
//! notice, and judges it. The binary is thin; everything lives here. Data flows one way:
//!
//! profile → plan → engine (shards of participants ↔ target) → history → measure → verdict → report

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod capacity; // pure: the search for the load one server carries
pub mod cli; // one file a command
pub mod client; // presets: what real clients offer and do, as data
pub mod engine; // shards: sockets, clock, timers; the only media I/O
pub mod fleet; // the servers under test: start, discover, observe
#[cfg(any(test, fuzzing))]
pub mod fuzzing; // doors for fuzz targets
pub mod history; // the append-only record of what happened: event types, writer, reader
pub mod impair; // pure: what a bad network does to datagrams, and an exact account of it
pub mod measure; // pure: counters, HDR histograms, mergeable snapshots
pub mod media; // pure: clips, stamps, packetizing, pacing, SRTP, RTCP
pub mod outside; // the user's own programs and HTTP services: asked with a time-out
pub mod participant; // pure: one participant's life on its transports
pub mod plan; // pure: who joins which room when, from a seed
pub mod prefetch; // memory asked for before it is needed
pub mod profile; // what the user wrote, and what it means
pub mod report; // terminal, JSON, HTML; reads results, runs nothing
pub mod script; // pure: what a scale-in experiment does to fleet and load, as the run goes
pub mod sdp; // pure: offers, answers, what was agreed
pub mod sfu; // the embedded reference fleet; shares no media code with the generator
pub mod signaling; // one file a driver, behind one trait
pub mod transport; // pure: ICE, DTLS and keys over one 5-tuple
pub mod turn; // pure: a TURN client: allocations and their framing
pub mod types; // the words every module shares: ids, kinds, quantities
pub mod verdict; // pure: thresholds and judgement, from a history
