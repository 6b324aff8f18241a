//! Pure: one 5-tuple from credentials to SRTP keys, and from there to its end. ICE (`rtc-ice`) finds the path, consent
//! (RFC 7675) keeps it, DTLS (`rtc-dtls`) agrees on keys. Datagrams and time go in; datagrams, events and deadlines
//! come out. Media is the caller's: it only learns where to send it, whether it may, and with which keys.
//!
//! Drive it like this: feed [`Transport::on_datagram`] and, at [`Transport::poll_timeout`],
//! [`Transport::handle_timeout`]; after each of these (and after `start`, `add_remote_candidate` and `close`) empty
//! [`Transport::poll_transmit`] and [`Transport::poll_event`].

mod allow;
mod candidate;
mod connection;
mod consent;
mod crypto;
mod dtls;
mod hello;
mod ice;
mod shared;
mod stun;
#[cfg(test)]
mod tests;

pub use allow::AllowList;
pub use connection::{Counts, Transport};
pub use shared::Shared;

use crate::types::Suite;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// How long things may take. The defaults are those of real clients; tests shorten them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// ICE and DTLS together, from `start` to the keys. After it the transport fails.
    pub connect: Duration,
    /// Time between two consent checks, each one times 0.8 to 1.2 (RFC 7675 5.1: 5 s).
    pub consent_interval: Duration,
    /// Without an answer for so long, sending stops (RFC 7675 5.1: 30 s).
    pub consent_timeout: Duration,
    /// Without an answer for so long, the peer is told of as disconnected: the time for an ICE restart, well before
    /// consent ends. Two of the checks have gone unanswered by then.
    pub disconnected: Duration,
    /// From the selected ICE pair to our ClientHello. Sent at once, Janus 1.1.2 lost 44 of 53 and a repetition 200 ms
    /// later became part of the set-up time; 20 ms later it lost none of 27.
    pub client_hello_delay: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            connect: Duration::from_secs(15),
            consent_interval: Duration::from_secs(5),
            consent_timeout: Duration::from_secs(30),
            disconnected: Duration::from_secs(10),
            client_hello_delay: Duration::from_millis(20),
        }
    }
}

/// Where a transport is: what its local candidate says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The address of a bound socket (not the unspecified one).
    Host(SocketAddr),
    /// A relayed address at a TURN server, and the address of the socket behind it. Datagrams of the transport go by the
    /// allocation.
    Relayed { relayed: SocketAddr, base: SocketAddr },
}

impl Place {
    /// Where peers send to.
    pub fn address(self) -> SocketAddr {
        match self {
            Place::Host(address) | Place::Relayed { relayed: address, .. } => address,
        }
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Place {
        Place::Host(address)
    }
}

/// DTLS role in a description (RFC 4145 4, RFC 8842 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    /// Sends the ClientHello.
    Active,
    /// Waits for it.
    Passive,
    /// An offerer's "either"; the answerer decides.
    Actpass,
}

impl Setup {
    /// Our role in an answer when we would like this one and the offer says `offered` (RFC 5763 5): the offer wins,
    /// and without a wish we are active.
    pub fn answer(self, offered: Setup) -> Setup {
        match (offered, self) {
            (Setup::Active, _) | (Setup::Actpass, Setup::Passive) => Setup::Passive,
            (Setup::Passive, _) | (Setup::Actpass, Setup::Active | Setup::Actpass) => Setup::Active,
        }
    }
}

/// Our transport's half of a description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalParams {
    pub ufrag: String,
    pub pwd: String,
    /// SHA-256 of our certificate, `AB:CD:…`.
    pub fingerprint: String,
    /// Without the `candidate:` in front.
    pub candidates: Vec<String>,
}

/// The remote transport's half of a description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteParams {
    pub ufrag: String,
    pub pwd: String,
    /// SHA-256, `AB:CD:…` in either case.
    pub fingerprint: String,
    pub setup: Setup,
    /// An ICE-lite agent answers checks and sends none (RFC 8445 2.5); we control then, whoever offered.
    pub lite: bool,
    /// Without the `candidate:` in front.
    pub candidates: Vec<String>,
}

/// SRTP master key and salt of one direction (RFC 5764 4.2). Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// As many bytes as the suite's key has; the rest is 0.
    pub key: [u8; 32],
    /// AES-CM uses all 14 bytes, AES-GCM the first 12 (RFC 7714 12); the rest is 0.
    pub salt: [u8; 14],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What happened to a transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A pair was selected, the first time or after a restart.
    IceConnected(SocketAddr),
    /// Both sides claimed the same ICE role, and we gave way (RFC 8445 7.3.1.1).
    RoleConflict,
    /// Keys are there: media may flow. `certificate`: SHA-256 of the peer's.
    Connected { suite: Suite, dtls_client: bool, certificate: [u8; 32], ours: MasterKey, theirs: MasterKey },
    /// No answer to our checks for [`Timing::disconnected`]. Media goes on until consent ends.
    Disconnected,
    /// close_notify from the peer. Nothing more will be sent.
    PeerClosed,
    /// No answer to our checks for [`Timing::consent_timeout`]: no more media. An ICE restart can revive it.
    ConsentExpired,
    /// The end, before or after the keys.
    Failed(Failure),
    /// A candidate outside the allow-list; nothing was or will be sent there.
    CandidateRefused(SocketAddr),
}

/// Why a transport ended without anybody closing it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    #[error("ICE found no path in time")]
    IceTimeout,
    #[error("DTLS did not finish in time")]
    DtlsTimeout,
    #[error("DTLS: {0}")]
    Dtls(String),
    #[error("the peer's certificate does not match the fingerprint of its description")]
    Fingerprint,
    #[error("no common SRTP suite: {0}")]
    NoSuite(String),
    #[error("ICE found no path in time, all candidates are outside the allow-list: {}", AllowList::refusal(.0))]
    NoAllowedCandidate(Vec<SocketAddr>),
}

/// What a datagram was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// RTP or RTCP by its first byte (RFC 7983); not looked at here.
    Media,
    /// ICE or DTLS, taken care of.
    Handled,
    /// Not for us: garbage, forged, or from somewhere it may not come from.
    Ignored,
}

/// What a caller did, or a description asked for, that cannot be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransportError {
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    #[error("cannot make a transport on {local}: {why}")]
    Local { local: SocketAddr, why: String },
    #[error("the remote {what} cannot be used: {why}")]
    Remote { what: &'static str, why: String },
    #[error("the fingerprint changed: that is a new DTLS association and needs a new transport")]
    NewFingerprint,
    #[error("no candidate is inside the allow-list: {}", AllowList::refusal(.refused))]
    NoAllowedCandidate { refused: Vec<SocketAddr> },
    #[error("the transport is closed")]
    Closed,
}
