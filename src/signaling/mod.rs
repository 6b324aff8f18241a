//! How a participant talks a target into a call: one file a driver, behind one trait. Drivers run on tokio and move
//! text (SDP, JSON); media is asked for through [`Media`], and flows elsewhere.

mod hook; // the user's own join API in front of a driver

#[cfg(any(test, fuzzing))]
pub(crate) use hook::read_any_answer;
pub use janus::tls_config;

use crate::history::{FailReason, LegCause};
use crate::plan::{PlannedLeg, PlannedRoom, TransportsPer};
use crate::profile::{ExternalTarget, Secret, Target};
use crate::types::{Client, LegId, Suite};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

type Make = fn(&ExternalTarget, Client, Duration) -> anyhow::Result<Arc<dyn Driver>>;

/// Each driver's module, and their table.
macro_rules! modules {
    ($($driver:ident,)*) => {
        $(pub mod $driver;)*

        /// Drivers by their name in target files, and what a participant opens there. A new one is a file here and a line
        /// in the list that `profile` has.
        const DRIVERS: &[(&str, Make, TransportsPer)] =
            &[$((stringify!($driver), $driver::make, $driver::TRANSPORTS)),*];
    };
}
crate::profile::drivers!(modules);

/// The driver that a target file names. Errors: no such driver, or settings that it cannot use.
pub fn driver(target: &ExternalTarget, client: Client, join_timeout: Duration) -> anyhow::Result<Arc<dyn Driver>> {
    match DRIVERS.iter().find(|(name, ..)| *name == target.driver) {
        Some((_, make, _)) => {
            let driver = make(target, client, join_timeout)?;
            match &target.join {
                Some(hook) => Ok(Arc::new(hook::Hooked::new(hook.clone(), driver, target, join_timeout)?)),
                None => Ok(driver),
            }
        }
        None => {
            let known: Vec<&str> = DRIVERS.iter().map(|(name, ..)| *name).collect();
            anyhow::bail!("no driver {:?}; there are: {}", target.driver, known.join(", "))
        }
    }
}

/// How many transports the target's driver opens for a participant; for a driver that does not exist, the most.
pub fn transports(target: &Target) -> TransportsPer {
    match target {
        Target::Embedded(_) => embedded::TRANSPORTS,
        Target::External(t) => {
            DRIVERS.iter().find(|(name, ..)| *name == t.driver).map_or(TransportsPer::Direction, |(.., per)| *per)
        }
    }
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Speaks one target's signalling.
pub trait Driver: Send + Sync {
    /// The driver's name in target files.
    fn name(&self) -> &'static str;

    /// Before the first join: make sure the target answers, prepare what all legs share. Errors end the run (exit 1).
    fn prepare<'a>(&'a self, rooms: &'a [PlannedRoom]) -> BoxFuture<'a, anyhow::Result<()>>;

    /// One leg's whole signalling life: join, follow the room, leave when told, and say how it ended. Must come back
    /// within 5 s of [`Order::Leave`]; dropping the future must leave no task or socket behind.
    fn run<'a>(&'a self, call: Call) -> BoxFuture<'a, Ended>;

    /// After the last leg, or a `prepare` that failed: remove what it made.
    fn finish<'a>(&'a self) -> BoxFuture<'a, ()>;

    /// True when [`Order::RestartIce`] can bring this transport back: then the engine gives it when the transport is
    /// disconnected.
    fn restarts_ice(&self, slot: u8) -> bool {
        let _ = slot;
        false
    }

    /// True where the target is the TURN server itself: it is what carries a room then, and the engine says which one.
    fn serves_by_turn(&self) -> bool {
        false
    }

    /// Addresses of the signalling hosts: media may go there without an `allow` line. Before `prepare`: those that it
    /// will speak to.
    fn hosts(&self) -> Vec<IpAddr>;
}

/// All that a driver gets for one leg.
pub struct Call {
    pub leg: PlannedLeg,
    pub room: PlannedRoom,
    /// Where the user's own join API sends this leg; `None`: the driver finds its place.
    pub route: Option<Route>,
    pub media: Media,
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Drivers report the milestones they see; the engine adds those of the media path.
    pub progress: mpsc::UnboundedSender<Progress>,
}

/// The join API's answer.
#[derive(Clone, Debug)]
pub struct Route {
    pub url: String,
    /// As the target calls the room; `None`: as the driver does.
    pub room: Option<String>,
    pub token: Option<Secret>,
    /// The server's name, where it is known.
    pub server: Option<String>,
}

/// What the engine wants of a driver.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// End the call properly.
    Leave,
    /// A transport changed state.
    Transport { slot: u8, state: TransportState },
    /// Restart ICE on a transport, where the target's signalling can.
    RestartIce { slot: u8 },
}

#[derive(Clone, PartialEq, Debug)]
pub enum TransportState {
    IceConnected {
        remote: SocketAddr,
    },
    /// Keys are there, media flows.
    Connected {
        suite: Suite,
        /// First eight bytes of the SHA-256 of the peer's certificate.
        certificate: u64,
    },
    /// ICE or DTLS failed for good.
    Failed {
        why: String,
    },
    /// No answers on the selected pair for a while; media and consent go on for now. The engine orders an ICE restart
    /// where the driver can.
    Disconnected,
    /// close_notify from the server.
    PeerClosed,
    ConsentExpired,
}

/// A milestone of the join, with its time.
#[derive(Clone, PartialEq, Debug)]
pub enum Progress {
    /// First request sent.
    Started(Instant),
    /// The user's own join API answered: where to, the query cut off.
    Routed { at: Instant, server: Option<String>, url: String },
    /// Until now it waited for another participant: that is no part of set-up.
    Met(Instant),
    /// The server that carries the room, by its name in the target file or fleet.
    Server(String),
    /// The answer to the first negotiation has been applied, or our answer accepted.
    Signaled(Instant),
    /// The same session goes on on another server: the old way was left at `from`, the new one taken at `until`.
    Moved { server: String, from: Instant, until: Instant },
    /// Signalling broke and came back, and the session with it.
    Resumed { lost: Instant, back: Instant },
    /// The leg is over; what the driver does from now on is to clean up behind it.
    Over { at: Instant, ended: Ended },
    /// Something a reader should know; counted by code.
    Note { code: &'static str, text: String },
}

/// How a leg's signalling ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Ended {
    /// Never joined.
    Failed { reason: FailReason, detail: String },
    /// Had joined.
    Over { cause: LegCause, detail: String },
}

impl Ended {
    pub fn failed(reason: FailReason, detail: impl Into<String>) -> Ended {
        Ended::Failed { reason, detail: detail.into() }
    }

    pub fn over(cause: LegCause, detail: impl Into<String>) -> Ended {
        Ended::Over { cause, detail: detail.into() }
    }
}

/// What goes wrong between a driver and the media path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MediaError {
    #[error("bad SDP: {0}")]
    BadSdp(String),
    #[error("no candidate is inside the allow-list: {0}")]
    NotAllowed(String),
    /// No TURN server gave an allocation.
    #[error("{0}")]
    Relay(String),
    #[error("{0}")]
    Local(String),
    #[error("the leg is over")]
    Gone,
}

impl MediaError {
    pub fn reason(&self) -> FailReason {
        match self {
            MediaError::BadSdp(_) => FailReason::BadSdp,
            MediaError::NotAllowed(_) => FailReason::NotAllowed,
            MediaError::Relay(_) => FailReason::Relay,
            MediaError::Local(_) => FailReason::Local,
            MediaError::Gone => FailReason::LeftEarly,
        }
    }
}

/// What a transport that never came up died of, by the words in its explanation.
fn reason_of(why: &str) -> FailReason {
    let why = why.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| why.contains(w));
    let in_vain = says(&["in time", "timeout", "time-out", "timed out"]);
    if says(&["allow-list"]) {
        FailReason::NotAllowed
    } else if says(&["dtls"]) && in_vain {
        FailReason::TimeoutDtls
    } else if says(&["dtls", "certificate", "fingerprint", "srtp suite"]) {
        FailReason::Dtls
    } else if in_vain || says(&["ice "]) {
        FailReason::TimeoutIce
    } else {
        FailReason::Closed
    }
}

/// What an offer of ours should hold.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OfferWant {
    /// Send what the leg sends (its `audio` and `video`).
    pub send: bool,
    /// Receive slots: m-lines that only receive, kept from offer to offer.
    pub receive_audio: u16,
    pub receive_video: u16,
    pub ice_restart: bool,
    /// What is sent stays on the transport that it is on, until [`Media::switch`].
    pub keep_sending: bool,
}

/// Asks of a leg's media path. A transport is named by its slot; the first use of a slot opens it.
#[derive(Debug)]
pub enum MediaCommand {
    Offer {
        leg: LegId,
        slot: u8,
        want: OfferWant,
        reply: oneshot::Sender<Result<String, MediaError>>,
    },
    AcceptAnswer {
        leg: LegId,
        slot: u8,
        sdp: String,
        reply: oneshot::Sender<Result<(), MediaError>>,
    },
    /// Replies with our answer.
    AcceptOffer {
        leg: LegId,
        slot: u8,
        sdp: String,
        reply: oneshot::Sender<Result<String, MediaError>>,
    },
    /// A trickled remote candidate, without `a=` and `candidate:`.
    Candidate {
        leg: LegId,
        slot: u8,
        candidate: String,
    },
    /// What is sent goes out on this transport from now on.
    Switch {
        leg: LegId,
        slot: u8,
        reply: oneshot::Sender<Result<(), MediaError>>,
    },
    /// Close a transport properly (RTCP BYE, close_notify).
    Close {
        leg: LegId,
        slot: u8,
    },
    /// The server says whose video it forwards to the leg: that of nobody else.
    Forwarded {
        leg: LegId,
        senders: Vec<LegId>,
    },
}

/// A leg's handle to its media path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Media {
    leg: LegId,
    to: mpsc::UnboundedSender<MediaCommand>,
}

impl Media {
    pub fn new(leg: LegId, to: mpsc::UnboundedSender<MediaCommand>) -> Media {
        Media { leg, to }
    }

    /// Asked at once, so that the media path hears everything in the order in which a driver says it; the answer can be
    /// awaited later, or never.
    fn ask<T: Send, F: FnOnce(oneshot::Sender<Result<T, MediaError>>) -> MediaCommand>(
        &self,
        make: F,
    ) -> impl Future<Output = Result<T, MediaError>> + Send + use<T, F> {
        let (reply, answer) = oneshot::channel();
        let asked = self.to.send(make(reply)).map_err(|_| MediaError::Gone);
        async move {
            asked?;
            answer.await.map_err(|_| MediaError::Gone)?
        }
    }

    /// Our offer for a slot.
    pub fn offer(&self, slot: u8, want: OfferWant) -> impl Future<Output = Result<String, MediaError>> + Send + use<> {
        let leg = self.leg;
        self.ask(move |reply| MediaCommand::Offer { leg, slot, want, reply })
    }

    /// The remote answer to our last offer for a slot.
    pub fn accept_answer(&self, slot: u8, sdp: String) -> impl Future<Output = Result<(), MediaError>> + Send + use<> {
        let leg = self.leg;
        self.ask(move |reply| MediaCommand::AcceptAnswer { leg, slot, sdp, reply })
    }

    /// A remote offer for a slot; gives our answer.
    pub fn accept_offer(
        &self,
        slot: u8,
        sdp: String,
    ) -> impl Future<Output = Result<String, MediaError>> + Send + use<> {
        let leg = self.leg;
        self.ask(move |reply| MediaCommand::AcceptOffer { leg, slot, sdp, reply })
    }

    /// A trickled remote candidate. One outside the allow-list is counted and not used.
    pub fn candidate(&self, slot: u8, candidate: String) {
        // A leg that is over needs no candidates.
        let _ = self.to.send(MediaCommand::Candidate { leg: self.leg, slot, candidate });
    }

    /// Sends on this transport from now on, which has been negotiated with [`OfferWant::keep_sending`]. What comes in
    /// is taken from all that are open.
    pub fn switch(&self, slot: u8) -> impl Future<Output = Result<(), MediaError>> + Send + use<> {
        let leg = self.leg;
        self.ask(move |reply| MediaCommand::Switch { leg, slot, reply })
    }

    pub fn close(&self, slot: u8) {
        let _ = self.to.send(MediaCommand::Close { leg: self.leg, slot });
    }

    /// The server says that it forwards the video of these to the leg, and nobody else's, from about now on (last-N). Where
    /// a server never says so, everybody's is expected.
    pub fn forwarded(&self, senders: Vec<LegId>) {
        let _ = self.to.send(MediaCommand::Forwarded { leg: self.leg, senders });
    }
}

#[cfg(test)]
mod tests {
    use super::{Media, MediaCommand, OfferWant};
    use crate::types::LegId;

    /// An offer that overtook the close would open a closed transport again.
    #[test]
    fn commands_reach_the_media_path_in_order_whoever_awaits_them() {
        let (to, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let media = Media::new(LegId(7), to);
        let answer = media.accept_offer(1, "v=0".into());
        media.candidate(1, "candidate:1".into());
        let offer = media.offer(0, OfferWant::default());
        media.close(1);
        let mut order = Vec::new();
        while let Ok(c) = heard.try_recv() {
            order.push(match c {
                MediaCommand::AcceptOffer { .. } => "accept",
                MediaCommand::Candidate { .. } => "candidate",
                MediaCommand::Offer { .. } => "offer",
                MediaCommand::Close { .. } => "close",
                MediaCommand::AcceptAnswer { .. } | MediaCommand::Switch { .. } | MediaCommand::Forwarded { .. } => {
                    "other"
                }
            });
        }
        assert_eq!(order, ["accept", "candidate", "offer", "close"]);
        drop((answer, offer));
    }

    /// In files, tables and histories alike.
    #[test]
    fn a_driver_has_one_name() {
        let names: Vec<&str> = super::DRIVERS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, crate::profile::DRIVERS);
        for name in names {
            let server = crate::profile::ServerEntry {
                id: "a".into(),
                url: if name == "janus" { "ws://127.0.0.1:9" } else { "http://127.0.0.1:9" }.into(),
                admin: None,
                pid_file: None,
                metrics: None,
                observe: vec![],
                cores: None,
            };
            let target = crate::profile::ExternalTarget::of(name, vec![server]);
            let made = super::driver(&target, crate::types::Client::Chrome, std::time::Duration::from_secs(1));
            assert_eq!(made.unwrap().name(), name);
        }
    }
}
