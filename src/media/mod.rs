//! Media.

pub mod clip; // short encoded clips, packetized once, shared by all senders
pub mod send; // one outgoing stream: schedule, pacing, history
pub mod stamp; // who sent this packet, as which, when: inside the media
