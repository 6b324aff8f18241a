//! What goes into the server's core and what comes out of it.

use crate::types::Sin;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use str0m::config::{CryptoProvider, DtlsCert};

/// What a server is.
#[derive(Clone)]
pub struct SfuConfig {
    /// Where clients send media: the only candidate in answers.
    pub media: SocketAddr,
    /// Joins beyond this many participants are refused.
    pub participants_max: usize,
    /// A participant who has not sent anything for so long, or has not connected in this time, is removed. Consent
    /// (RFC 7675) has every live client send a check at least each 6 s.
    pub silence_max: Duration,
    /// Last-N: of so many senders, those who talked last, a participant gets video; of all where it is `None`.
    pub last_n: Option<u32>,
    /// What this server does wrong on purpose.
    pub sin: Option<Sin>,
    pub(super) crypto: Arc<CryptoProvider>,
    pub(super) certificate: DtlsCert,
}

impl SfuConfig {
    /// With a fresh certificate, shared by all transports of the server.
    ///
    /// # Errors
    /// When the crypto library can't make a certificate.
    pub fn new(media: SocketAddr, participants_max: usize) -> anyhow::Result<SfuConfig> {
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = crypto
            .dtls_provider
            .generate_certificate()
            .ok_or_else(|| anyhow::anyhow!("the crypto library made no DTLS certificate"))?;
        Ok(SfuConfig {
            media,
            participants_max,
            silence_max: Duration::from_secs(20),
            last_n: None,
            sin: None,
            crypto,
            certificate,
        })
    }
}

/// Why somebody was not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinError {
    #[error("bad SDP: {0}")]
    BadSdp(String),
    #[error("{name} is in room {room} already")]
    Duplicate { room: String, name: String },
    #[error("the server is full: {0} participants")]
    Full(usize),
}

/// Let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Names the session in [`super::Sfu::leave`].
    pub session: String,
    pub answer: String,
}

/// What a session is to be told: of whom it gets video from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forwarded {
    pub session: String,
    pub senders: Vec<String>,
}

/// Why an ICE restart was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestartError {
    #[error("bad SDP: {0}")]
    BadSdp(String),
    #[error("the session has ended")]
    Ended,
    #[error("no such session")]
    Unknown,
}

/// What [`super::Sfu::leave`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Was here, is gone now; BYE and close_notify are on their way.
    Now,
    /// Had closed its transport itself (close_notify).
    Closed,
    /// Had been removed by the server: silent for too long.
    Lost,
    Unknown,
}

/// A datagram to send.
#[derive(Debug)]
pub struct Datagram {
    pub to: SocketAddr,
    pub contents: Vec<u8>,
}

/// Counters since the start, and the state now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    pub participants: u64,
    /// Counted among the participants although they have left: a sin.
    #[serde(default)]
    pub ghosts: u64,
    pub connected: u64,
    pub rooms: u64,
    pub joins: u64,
    pub joins_refused: u64,
    pub leaves: u64,
    /// Participants removed because they were silent or their transport broke.
    pub lost: u64,
    pub datagrams_in: u64,
    pub bytes_in: u64,
    pub datagrams_out: u64,
    pub bytes_out: u64,
    /// RTP packets received from senders, and copies of them queued for receivers.
    pub rtp_in: u64,
    pub rtp_forwarded: u64,
    /// Copies not sent because the receiver's slot waits for a key frame.
    pub rtp_before_key_frame: u64,
    /// Copies not sent for another reason, and packets that belong to no m-line.
    pub rtp_dropped: u64,
    /// Datagrams from nobody we know, and ones that are no STUN, DTLS, RTP or RTCP.
    pub datagrams_unknown: u64,
    pub datagrams_invalid: u64,
    /// PLI and FIR from receivers, and PLI to senders.
    pub key_frame_requests_in: u64,
    pub key_frame_requests_out: u64,
    /// Slots that went on with another layer of their sender's video.
    #[serde(default)]
    pub layer_switches: u64,
    /// Receivers whose choice of senders changed because somebody talked, came or left (last-N).
    #[serde(default)]
    pub speaker_switches: u64,
    /// Datagrams to other servers of the same rooms, and from them.
    #[serde(default)]
    pub cascade_out: u64,
    #[serde(default)]
    pub cascade_bytes_out: u64,
    #[serde(default)]
    pub cascade_in: u64,
    #[serde(default)]
    pub cascade_bytes_in: u64,
    /// Of these, those that were no frame, of no room that is here, or from no server that shares it.
    #[serde(default)]
    pub cascade_dropped: u64,
}
