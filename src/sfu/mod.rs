//! The embedded reference fleet: selective forwarding servers, one process each, and a director that places rooms on
//! them. Built on str0m and sharing no media code with the generator, on purpose: where both ends disagree, one of
//! them is wrong and we learn it.
//!
//! [`Sfu`] is sans-I/O: datagrams, offers and time in, datagrams and answers out. [`server`] is the process around it.

mod api; // what director and server tell each other over HTTP
mod client; // one participant's side: its transport, what it sends, its receive slots
mod control; // the director's API for those who run the fleet
pub mod director; // process: starts the servers, keeps the registry, routes joins
mod frame; // what servers of one room send each other
mod http; // CORS and errors, the same everywhere
mod keyframe; // which packet starts a key frame; how often to ask for one
mod moves; // rooms that go to another server, and what their sessions are told
pub(crate) mod process; // life tied to the parent; what the kernel knows about us
mod quota; // a media thread of known speed
mod red; // RFC 2198 towards receivers without it
mod registry; // pure: servers, rooms, headroom, who takes the next room
mod rewrite; // numbers of a slot run on, whoever it shows
mod rooms; // rooms and forwarding, sans-I/O
pub mod server; // process: one media socket, one media thread, one HTTP API
mod speakers; // who talked last, for last-N
mod spread; // pure: rooms on several servers, for the registry
mod stun; // whose connectivity check this is
mod terms; // what goes into the core and comes out of it
#[cfg(test)]
mod tests;
pub mod turn; // TURN servers beside them

pub use api::{Cascade, Controlled, DirectorReady, RegistryView, ServerReady, ServerStats, ServerView};
pub use client::Joining;
pub(crate) use process::first_line;
pub use rooms::Sfu;
pub use terms::{Datagram, JoinError, Joined, Left, RestartError, SfuConfig, Stats};
pub use turn::{TurnReady, TurnStats};

/// Anything as what clients, peers and other servers send.
#[cfg(any(test, fuzzing))]
pub(crate) fn take_any(bytes: &[u8]) {
    if let Some(frame) = frame::Frame::decode(bytes) {
        assert_eq!(frame::Frame::decode(&frame.encode()), Some(frame));
    }
    if stun::is_stun(bytes) {
        stun::local_ufrag(bytes);
    }
    keyframe::starts_key_frame(str0m::format::Codec::H264, bytes, None);
    red::newest(bytes);
    turn::take_any(bytes);
}
