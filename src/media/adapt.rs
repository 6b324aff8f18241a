//! A sender's view of its network, from the feedback that the other side sends, and which of its clips goes through.
//!
//! The estimate follows draft-ietf-rmcat-gcc-02: packets in groups, how their way gets longer (a trend line, as
//! libwebrtc has it in place of the draft's Kalman filter), an adaptive threshold, decrease to 0.85 of what arrives, and
//! a part that goes by loss. Without transport-wide feedback only the loss of receiver reports remains, and REMB as a
//! bound, where there is one. Which clip is sent is our own rule: see [`Steps`].
//!
//! Times are µs of one clock of the caller's; a step of it costs accuracy, never more.

mod acked; // what arrives, bits per second
mod delay; // rate by delay: decrease on over-use, careful increase
mod estimator; // all of it together
mod groups; // packets that left together
mod steps; // which clip is sent
#[cfg(test)]
mod tests;
mod trend; // whether the way gets longer

pub use estimator::{Estimator, RATE_MAX, RATE_MIN};
pub use steps::Steps;
