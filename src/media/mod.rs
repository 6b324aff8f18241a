//! Media.

pub mod receive; // one receiver: RTP statistics, loss end to end, NACK, frames, freezes
