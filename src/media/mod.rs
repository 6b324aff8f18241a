//! Media.

pub mod rtcp; // RTCP compounds: a borrowing parser and a writer into the caller's buffer
pub mod rtp; // RTP headers: parser and send template
pub mod srtp; // SRTP and SRTCP: seal, open, indices, replay
