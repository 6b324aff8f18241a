//! What a bad network does to datagrams, as a pure element: time and datagrams in, datagrams with due times out. Seeded,
//! one [`Link`] a flow and direction, so that a flow's fate depends on nothing but its own datagrams and its seed. The
//! same element works in virtual time (tests), between socket and participant (engine), and as a process in front of a
//! server (`roomful impair`).
//!
//! A datagram passes, in this order: black-out, loss, bottleneck (rate and queue), corruption, duplication, delay with
//! jitter and hold-back. Everything on the wire is treated alike: STUN, DTLS, RTP, RTCP.

mod conditions;
mod delayed;
mod link;
mod presets;
mod record;

#[cfg(test)]
mod tests;

pub use conditions::{Blackout, Conditions, Distribution, HoldBack, Jitter, Loss, Problem, Queue, Rate, WIRE_OVERHEAD};
pub use delayed::{Delayed, Parcel};
pub use link::{Cause, Fate, Link, Passage, seed};
pub use presets::{PRESETS, Preset, preset};
pub use record::{Counters, Record, RecordError};
