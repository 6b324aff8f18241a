//! Pure: a TURN client (RFC 8656): one allocation on one server, kept as long as it is wanted. Messages and time go in,
//! messages, events and deadlines come out; sockets, and which server is next when one refuses, are the caller's.
//!
//! Messages are built and read by `rtc-stun` and `rtc-turn`; the state machine is ours (docs/decisions/0010-turn.md).
//! Media takes a way of its own: [`Allocation::channel_to`] and [`Allocation::peer_of`] are all that a packet costs.

mod allocation;
pub mod frame;
mod message;
#[cfg(test)]
mod tests;

pub use allocation::Allocation;

use crate::types::Via;
use base64::Engine as _;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One way to one TURN server.
#[derive(Clone, Debug)]
pub struct Server {
    /// As reports call the server; ways to the same one share it.
    pub id: Arc<str>,
    pub address: SocketAddr,
    pub via: Via,
    /// Its name as the URL gives it: what its certificate has to be for.
    pub host: Arc<str>,
    pub account: Account,
    /// Share of allocations that begin here, beside other ways' weights.
    pub weight: f64,
}

/// Where credentials come from. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Account {
    /// Long-term credentials (RFC 8489 9.2).
    LongTerm { username: String, password: String },
    /// A secret shared with the server, of which time-limited credentials are made: username `expiry:user`, password
    /// base64(HMAC-SHA1(secret, username)) (draft-uberti-behave-turn-rest-00).
    Secret { user: String, secret: String },
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// For how long time-limited credentials are made.
const LOGIN_LASTS: Duration = Duration::from_hours(24);

impl Account {
    /// Credentials for one allocation that begins at `unix_s`, seconds since 1970. `wrong`: with a password that is not
    /// the account's.
    pub fn login(&self, unix_s: u64, wrong: bool) -> Login {
        let mut login = match self {
            Account::LongTerm { username, password } => {
                Login { username: username.clone(), password: password.clone() }
            }
            Account::Secret { user, secret } => {
                let username = format!("{}:{user}", unix_s + LOGIN_LASTS.as_secs());
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
                let tag = ring::hmac::sign(&key, username.as_bytes());
                Login { password: base64::engine::general_purpose::STANDARD.encode(tag), username }
            }
        };
        if wrong {
            login.password.push_str("-not");
        }
        login
    }
}

/// Username and password of one allocation. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What happened to an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Allocated {
        /// Where peers send to.
        relayed: SocketAddr,
        /// Our own address as the server sees it.
        mapped: Option<SocketAddr>,
        /// From the first request to the answer.
        after: Duration,
    },
    /// The server does not give one.
    Refused(Refusal),
    /// 300 Try Alternate (RFC 8489 10): ask this one instead.
    Alternate(SocketAddr),
    /// No answer to our first requests.
    Unreachable,
    /// The server gave one and does not have it any more, or does not answer any more (`None`), not even to a release.
    Lost(Option<Refusal>),
    /// No permission or no channel for this peer.
    PeerRefused(SocketAddr, Refusal),
    /// Our release was answered.
    Released,
}

/// An error response (RFC 8489 14.8).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{code} {reason}")]
pub struct Refusal {
    /// 0: an answer without a code.
    pub code: u16,
    /// The server's words, at most 100 characters.
    pub reason: String,
}
