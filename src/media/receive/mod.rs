//! What one receiver knows of the media it gets. Pure; nothing here allocates per packet.
//!
//! * [`RxStream`]: one SSRC by RFC 3550: loss, order, duplicates, jitter, report blocks, NACK, frames, freezes, gaps.
//! * [`Source`]: one sender's stream as seen by one receiver, by stamps: loss end to end, delay, silence, gaps.
//!
//! For each packet, the owner of both does:
//!
//! ```text
//! let outcome = stream.on_packet(&packet);
//! if let Some((old, why)) = stream.take_former_owner() {
//!     match why { Handover::OtherLayer => sources[old].rebase(), Handover::OtherSender => sources[old].detach(&stream) }
//! }
//! if let Some(owner) = stream.owner_of(outcome) {
//!     if let Some(delay_us) = sources[owner].on_packet(&stream, &packet, outcome) { histogram.record_us(delay_us) }
//! }
//! ```
//!
//! and once a second `source.settle(&ledger, now)`, then takes the counters of both.

mod bits;
mod frames;
mod freeze;
mod gaps;
mod jitter;
mod nack;
mod payload;
mod playout;
mod report;
mod sequence;
mod silence;
mod source;
mod stream;

#[cfg(test)]
mod simulation;

pub use gaps::{Gap, Gaps};
pub use report::ReceptionReport;
pub use source::{Source, Timing};
pub use stream::{Handover, Outcome, Owner, Packet, RxStream};

use super::stamp::Stamp;

/// What was found where a stamp would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StampSeen {
    None,
    Own(Stamp),
    /// Truncated, wrong check sum, or of another run.
    Foreign,
}
