//! Pure: offers, answers, and what was agreed (RFC 8829, RFC 3264). One BUNDLE, rtcp-mux, one transport; simulcast
//! as RFC 8853 has it or as a group of SSRCs, towards the remote only.
//!
//! [`Description`] is what a remote wrote; [`Negotiation`] holds the m-lines of one transport over its life and turns
//! descriptions into [`Agreed`]: what we send and receive, with which payload types, extensions and feedback.

mod agreed;
mod catalog;
mod line;
mod negotiation;
mod parse;
#[cfg(test)]
mod tests;
mod write;

pub use agreed::{Agreed, AgreedReceive, AgreedRed, AgreedSend};
pub use negotiation::{LocalTrack, Negotiation, layer_below, rid};

use crate::transport::RemoteParams;
use crate::types::Kind;
use std::borrow::Cow;

/// A remote description; its texts are those of what was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description<'a> {
    pub media: Vec<MediaSection<'a>>,
    pub remote: RemoteParams,
}

/// One m-line and its attributes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MediaSection<'a> {
    /// `audio`, `video`, `application` …
    pub name: Cow<'a, str>,
    /// `UDP/TLS/RTP/SAVPF` for all that we speak.
    pub protocol: Cow<'a, str>,
    /// As written, for answers that refuse; of ours, those of the payloads where there is nothing.
    pub formats: Vec<Cow<'a, str>>,
    pub mid: Cow<'a, str>,
    /// Port 0, and not merely `bundle-only` (RFC 9143 6).
    pub rejected: bool,
    pub direction: Direction,
    /// Takes RTCP of reduced size (RFC 5506 5).
    pub reduced_size: bool,
    /// Payload types with an rtpmap, in order of preference.
    pub payloads: Vec<Payload<'a>>,
    /// Header extensions by one-byte id (1 to 14, RFC 8285 4.2) and URI; each id and URI once.
    pub extensions: Vec<(u8, Cow<'a, str>)>,
    /// All SSRCs, retransmission included, in order of appearance.
    pub ssrcs: Vec<u32>,
    /// FID groups (RFC 5576 4.2): media SSRC and its retransmission SSRC.
    pub fid: Vec<(u32, u32)>,
    /// `SIM` group: the SSRCs of the layers of a simulcast, the lowest first. Empty: none.
    pub sim: Vec<u32>,
    /// Simulcast (RFC 8853) as the writer of this section sends and receives it: the streams' names.
    pub send_rids: Vec<Cow<'a, str>>,
    pub receive_rids: Vec<Cow<'a, str>>,
    pub cname: Option<Cow<'a, str>>,
    pub msid: Option<Cow<'a, str>>,
}

impl MediaSection<'_> {
    /// `None` for what is neither audio nor video over SRTP.
    pub fn kind(&self) -> Option<Kind> {
        if !self.protocol.ends_with("RTP/SAVPF") {
            return None;
        }
        Kind::BOTH.into_iter().find(|k| k.as_str() == self.name)
    }
}

/// One payload type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload<'a> {
    /// 0 to 127.
    pub pt: u8,
    /// `opus/48000/2`
    pub encoding: Cow<'a, str>,
    /// Format parameters as written; may be empty.
    pub fmtp: Cow<'a, str>,
    /// `nack pli`, `transport-cc` …
    pub feedback: Vec<Cow<'a, str>>,
}

/// Direction as the side that wrote it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }
}

/// One-byte header extension ids of an m-line; 0: not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ExtIds {
    pub mid: u8,
    pub twcc: u8,
    pub abs_send_time: u8,
    pub audio_level: u8,
    pub rid: u8,
    pub repaired_rid: u8,
}

/// Why a description cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SdpError {
    #[error("SDP line {line}: {what}")]
    Line { line: usize, what: String },
    #[error("SDP: {0}")]
    Whole(String),
    #[error("SDP m-line {index} (mid {mid:?}): {what}")]
    Section { index: usize, mid: String, what: String },
    #[error("SDP: an answer, but no offer is open")]
    NoOffer,
}
