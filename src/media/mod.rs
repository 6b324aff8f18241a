//! Media, both ways. Pure: time comes in as an argument, nothing here does I/O, and nothing allocates per packet.

pub mod adapt; // what the network carries, and which clip goes through it
pub mod clip; // short encoded clips, packetized once, shared by all senders
pub mod receive; // one SSRC, one source: statistics, NACK, frames, end-to-end accounting
pub mod red; // redundant audio: frames of earlier packets along with the newest
pub mod rtcp; // RTCP compounds: a borrowing parser and a writer into the caller's buffer
pub mod rtp; // RTP headers: parser and send template
pub mod send; // one outgoing stream: schedule, pacing, history
pub mod srtp; // SRTP and SRTCP: seal, open, indices, replay
pub mod stamp;
pub mod talk; // who talks and who is muted, when // who sent this packet, as which, when: inside the media
