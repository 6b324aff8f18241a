//! One participant's signalling as a state machine: messages, answers of the media path, orders and timers in; messages
//! and wishes out. Pure: it knows no socket and no clock.

mod ending;

use super::subscriber::{Step, Subscriber};
use super::wire::{self, Body, Credentials, Incoming, Jsep, PLUGIN, RoomEvent, code};
use crate::history::{FailReason, LegCause};
use crate::signaling::{Ended, MediaError, Order};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// Janus ends a session after 60 s of silence by default; its documentation asks for a keep-alive at most every 60 s,
/// janus.js sends one every 25 s.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_secs(1);
/// A `leave` that is not answered does not keep the session from being destroyed.
const LEAVE_PATIENCE: Duration = Duration::from_millis(2500);
/// A driver must be back 5 s after the order to leave.
const LEAVE_LIMIT: Duration = Duration::from_millis(4700);

/// Janus 1.1.2 says `destroyed` or `kicked` to a participant before it is done with it, and does not hold on to its
/// session meanwhile: one that destroys its session at once makes Janus use freed memory (docs/targets/janus.md). Its
/// `hangup`, or this much time, and it is done.
const PUT_OUT_PATIENCE: Duration = Duration::from_millis(250);

/// Publishing transport, and the one that receives everybody else.
pub const PUBLISH: u8 = 0;
pub const SUBSCRIBE: u8 = 1;

/// What a participant is to do.
#[derive(Clone)]
pub struct Part {
    pub room: u64,
    pub display: String,
    pub sends: bool,
    pub credentials: Credentials,
    /// Say `completed` after our SDP, as browsers do; its candidates are in the SDP in any case.
    pub trickles: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    KeepAlive,
    /// Ask again for feeds that were missing.
    Retry,
    /// We were put out of the room, and Janus had time to finish with us.
    PutOut,
    LeavePatience,
    LeaveLimit,
    /// The join's own time-out; armed by the shell, because connecting counts too.
    Join,
}

/// The media path's reply to a wish.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    Offer(Result<String, MediaError>),
    AnswerApplied(Result<(), MediaError>),
    Answer(Result<String, MediaError>),
}

#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    Send(String),
    /// Make an offer for [`PUBLISH`].
    MakeOffer {
        ice_restart: bool,
    },
    /// Apply Janus's answer on [`PUBLISH`].
    ApplyAnswer(String),
    /// Answer Janus's offer on [`SUBSCRIBE`].
    AcceptOffer(String),
    Candidate {
        slot: u8,
        candidate: String,
    },
    /// Close both transports.
    CloseMedia,
    Arm(Timer, Duration),
    Signaled,
    Note {
        code: &'static str,
        text: String,
    },
    /// Nothing follows.
    Ended(Ended),
}

/// What a request of ours was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Create,
    AttachPublisher,
    Join,
    /// First publication, or an ICE restart of it.
    Configure,
    AttachSubscriber,
    /// Join as subscriber, update or restart.
    Subscription,
    Start,
    Leave,
    Destroy,
    /// Keep-alive and trickle: an acknowledgement is all they get.
    Minor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Joining,
    /// The first negotiation is done.
    Signaled,
    Leaving,
    Over,
}

pub struct Machine {
    part: Part,
    phase: Phase,
    transactions: u32,
    pending: Vec<(u32, Ask)>,
    session: Option<u64>,
    publisher: Option<u64>,
    private_id: Option<u64>,
    in_room: bool,
    /// How we were put out of the room; the end follows.
    put_out: Option<&'static str>,
    /// Media could flow once: from then on an end is a drop, not a failed join.
    joined: bool,
    /// A negotiation of [`PUBLISH`] is under way; a restart asked for meanwhile waits.
    publishing: bool,
    restart: bool,
    subscriber: Subscriber,
    /// Whether each slot has met a remote description, and candidates that came before.
    described: [bool; 2],
    early: [Vec<String>; 2],
    connected: [bool; 2],
    out: VecDeque<Output>,
}

/// Janus sends a handful; more before any description is nonsense.
const EARLY_CANDIDATES_MAX: usize = 64;

impl Machine {
    /// The WebSocket is open: begins with `create`.
    pub fn new(part: Part) -> Machine {
        let mut machine = Machine {
            part,
            phase: Phase::Joining,
            transactions: 0,
            pending: Vec::new(),
            session: None,
            publisher: None,
            private_id: None,
            in_room: false,
            put_out: None,
            joined: false,
            publishing: false,
            restart: false,
            subscriber: Subscriber::default(),
            described: [false; 2],
            early: [Vec::new(), Vec::new()],
            connected: [false; 2],
            out: VecDeque::new(),
        };
        machine.ask(Ask::Create, json!({"janus": "create"}));
        machine
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// A text message from Janus.
    pub fn handle_text(&mut self, text: &str) {
        if self.phase == Phase::Over {
            return;
        }
        match wire::parse(text) {
            Ok(message) => self.handle_message(message),
            Err(e) if self.phase == Phase::Joining => {
                self.end(Ended::failed(FailReason::BadAnswer, e.to_string()));
            }
            Err(e) => self.note("janus_garbage", e.to_string()),
        }
        self.advance();
    }

    pub fn handle_reply(&mut self, reply: Reply) {
        if !matches!(self.phase, Phase::Joining | Phase::Signaled) {
            return;
        }
        match reply {
            Reply::Offer(Ok(sdp)) => {
                let Some(handle) = self.publisher else { return };
                let request = wire::message(handle, json!({"request": "configure"}), Some(("offer", sdp)));
                self.ask(Ask::Configure, request);
                self.no_more_candidates(handle);
            }
            Reply::AnswerApplied(Ok(())) => {
                self.publishing = false;
                self.signaled();
            }
            Reply::Answer(Ok(sdp)) => {
                let Some(handle) = self.subscriber.handle() else { return };
                self.subscriber.answered();
                self.ask(Ask::Start, wire::message(handle, json!({"request": "start"}), Some(("answer", sdp))));
                self.no_more_candidates(handle);
            }
            Reply::Offer(Err(e)) | Reply::AnswerApplied(Err(e)) => {
                self.publishing = false;
                self.media_failed(&e);
            }
            Reply::Answer(Err(e)) => {
                // Janus goes on waiting for this answer: the receiving half stays as it is.
                self.subscriber.answer_failed();
                self.media_failed(&e);
            }
        }
        self.advance();
    }

    pub fn handle_order(&mut self, order: Order) {
        if self.phase == Phase::Over {
            return;
        }
        match order {
            Order::Leave => self.leave(),
            Order::RestartIce { slot: PUBLISH } if self.part.sends => self.restart = true,
            Order::RestartIce { slot: SUBSCRIBE } => self.subscriber.want_restart(),
            Order::RestartIce { slot } => self.note("restart_refused", format!("no transport {slot} to restart")),
            Order::Transport { slot, state } => self.transport(slot, state),
        }
        self.advance();
    }

    pub fn handle_timer(&mut self, timer: Timer) {
        match (timer, self.phase) {
            (_, Phase::Over) => {}
            (Timer::KeepAlive, Phase::Joining | Phase::Signaled) => {
                self.ask(Ask::Minor, json!({"janus": "keepalive"}));
                self.out.push_back(Output::Arm(Timer::KeepAlive, KEEP_ALIVE));
            }
            (Timer::Retry, _) => self.subscriber.retry(),
            (Timer::PutOut, _) => self.end_put_out(),
            (Timer::LeavePatience, Phase::Leaving) => self.destroy(),
            (Timer::LeaveLimit, Phase::Leaving) => {
                self.left(false, format!("no answer to the leave within {} ms", LEAVE_LIMIT.as_millis()));
            }
            (Timer::Join, Phase::Joining) => {
                let waits = self.pending.iter().map(|(_, ask)| ask).find(|ask| **ask != Ask::Minor);
                let detail = match waits {
                    Some(ask) => format!("no answer to {ask:?}").to_lowercase(),
                    None => "the media path did not answer".to_owned(),
                };
                self.end(Ended::failed(FailReason::TimeoutSignaling, detail));
            }
            (Timer::KeepAlive | Timer::Join | Timer::LeavePatience | Timer::LeaveLimit, _) => {}
        }
        self.advance();
    }

    fn handle_message(&mut self, message: Incoming) {
        let asked = match message.body {
            // The real answer follows, or has come already.
            Body::Ack => message.transaction.and_then(|t| self.take(t, |ask| ask == Ask::Minor)),
            _ => message.transaction.and_then(|t| self.take(t, |_| true)),
        };
        match message.body {
            Body::Ack | Body::Known => {}
            Body::Success { id, event } => self.success(asked, id, event),
            Body::Error { code, reason } => self.refused(asked, code, &reason),
            Body::Event { event, jsep } => self.event(asked, message.sender, event, jsep),
            Body::Trickle(Some(candidate)) => self.trickled(message.sender, candidate),
            Body::Trickle(None) => {}
            Body::Hangup { reason } => self.hung_up(message.sender, &reason),
            Body::Timeout => {
                self.session = None;
                self.lost(LegCause::ClosedByServer, "Janus: session timed out".to_owned());
            }
            Body::MediaStopped { kind } => {
                self.note("janus_media_stopped", format!("Janus receives no more {kind} from {}", self.part.display));
            }
            Body::Slowlink { uplink, lost } => {
                let way = if uplink { "from" } else { "to" };
                self.note("janus_slowlink", format!("Janus counts {lost} lost {way} {}", self.part.display));
            }
            Body::ServerInfo(_) => {}
            Body::Unknown(text) => self.note("janus_unknown", text),
        }
    }

    fn success(&mut self, asked: Option<Ask>, id: Option<u64>, event: Option<RoomEvent>) {
        match (asked, id) {
            (Some(Ask::Create), Some(id)) => {
                self.session = Some(id);
                if self.phase == Phase::Leaving {
                    self.destroy();
                    return;
                }
                self.out.push_back(Output::Arm(Timer::KeepAlive, KEEP_ALIVE));
                self.attach(Ask::AttachPublisher);
            }
            (Some(Ask::AttachPublisher), Some(id)) if self.phase == Phase::Joining => {
                self.publisher = Some(id);
                let body = json!({
                    "request": "join", "ptype": "publisher", "room": self.part.room, "display": self.part.display,
                });
                self.ask(Ask::Join, wire::message(id, body, None));
            }
            (Some(Ask::AttachSubscriber), Some(id)) => self.subscriber.attached(id),
            (Some(Ask::Create | Ask::AttachPublisher | Ask::AttachSubscriber), None) => {
                let detail = "Janus: success without an id".to_owned();
                self.fail_or_lose(FailReason::BadAnswer, LegCause::ClosedByServer, detail);
            }
            (Some(Ask::Destroy), _) => self.left(true, String::new()),
            (asked, _) => {
                if let Some(event) = event {
                    self.event(asked, None, event, None);
                }
            }
        }
    }

    fn event(&mut self, asked: Option<Ask>, sender: Option<u64>, event: RoomEvent, jsep: Option<Jsep>) {
        match event {
            RoomEvent::Error { code, reason } => return self.refused(asked, code, &reason),
            RoomEvent::Joined { private_id, publishers } => {
                self.private_id = private_id;
                self.in_room = true;
                self.subscriber.announced(&publishers);
                if self.part.sends {
                    self.offer(false);
                } else {
                    self.signaled_if_alone();
                }
            }
            RoomEvent::Publishers(feeds) => self.subscriber.announced(&feeds),
            RoomEvent::Gone(feed) => {
                self.subscriber.gone(feed);
                self.signaled_if_alone();
            }
            RoomEvent::Left if self.phase == Phase::Leaving => {
                if asked == Some(Ask::Leave) {
                    self.destroy();
                }
            }
            RoomEvent::Left | RoomEvent::Kicked => self.put_out("kicked out of the room"),
            RoomEvent::RoomDestroyed => self.put_out("room destroyed"),
            RoomEvent::Started => {
                self.subscriber.started();
                if !self.part.sends {
                    self.signaled();
                }
            }
            RoomEvent::Attached | RoomEvent::Updated | RoomEvent::Updating => {
                if asked == Some(Ask::Subscription) {
                    self.subscriber.accepted();
                }
            }
            RoomEvent::Configured => {
                if asked == Some(Ask::Subscription) {
                    self.subscriber.accepted();
                } else if asked == Some(Ask::Configure) && jsep.is_none() {
                    self.publishing = false;
                    return self.media_failed(&MediaError::BadSdp("Janus configured us without an answer".to_owned()));
                }
            }
            RoomEvent::Created | RoomEvent::Participants(_) | RoomEvent::Layer | RoomEvent::Talking => {}
            RoomEvent::Other(text) => self.note("janus_unknown", text),
        }
        let Some(Jsep { offer, sdp }) = jsep else { return };
        if !matches!(self.phase, Phase::Joining | Phase::Signaled) {
            return;
        }
        let from_subscriber = sender.is_some() && sender == self.subscriber.handle();
        if offer && from_subscriber {
            self.subscriber.offered(sdp);
        } else if !offer && !from_subscriber && self.publishing {
            self.out.push_back(Output::ApplyAnswer(sdp));
            self.release_candidates(PUBLISH);
        } else {
            self.note("janus_unknown", "an offer or answer nobody had asked for".to_owned());
        }
    }

    fn refused(&mut self, asked: Option<Ask>, code: i64, reason: &str) {
        let detail = format!("{code}: {reason}");
        match asked {
            Some(Ask::Leave) => self.destroy(),
            Some(Ask::Destroy) => self.left(false, detail),
            _ if self.phase == Phase::Leaving => {
                // Nothing to leave, where the session or the room had been refused.
                if matches!(asked, Some(Ask::Create)) {
                    self.left(true, detail);
                }
            }
            Some(Ask::Subscription) if matches!(code, code::NO_SUCH_FEED | code::INVALID_SDP) => {
                let named = reason.split(|c: char| !c.is_ascii_digit()).find_map(|digits| digits.parse().ok());
                self.note("janus_no_such_feed", detail);
                if self.subscriber.no_such_feed(named) {
                    self.out.push_back(Output::Arm(Timer::Retry, RETRY));
                } else {
                    self.signaled_if_alone();
                }
            }
            Some(Ask::Minor) | None => self.note("janus_refused", detail),
            Some(ask) if self.phase == Phase::Signaled => {
                // It stays in the call with what it has, as a browser would; what is missing shows in the measures.
                self.note("janus_refused", format!("{ask:?}: {detail}").to_lowercase());
                match ask {
                    Ask::Configure => self.publishing = false,
                    Ask::Start => self.subscriber.started(),
                    _ => self.subscriber.refused(),
                }
            }
            Some(_) => self.end(Ended::failed(reason_of(code), detail)),
        }
    }

    fn trickled(&mut self, sender: Option<u64>, candidate: String) {
        let slot = match sender {
            Some(handle) if self.subscriber.handle() == Some(handle) => SUBSCRIBE,
            Some(handle) if self.publisher == Some(handle) => PUBLISH,
            _ => return self.note("janus_unknown", "a candidate for an unknown handle".to_owned()),
        };
        if self.described[usize::from(slot)] {
            self.out.push_back(Output::Candidate { slot, candidate });
        } else if self.early[usize::from(slot)].len() < EARLY_CANDIDATES_MAX {
            self.early[usize::from(slot)].push(candidate);
        }
    }

    fn release_candidates(&mut self, slot: u8) {
        self.described[usize::from(slot)] = true;
        for candidate in std::mem::take(&mut self.early[usize::from(slot)]) {
            self.out.push_back(Output::Candidate { slot, candidate });
        }
    }

    /// Starts what the last input made possible.
    fn advance(&mut self) {
        if !self.in_room || !matches!(self.phase, Phase::Joining | Phase::Signaled) {
            return;
        }
        if self.restart && !self.publishing {
            self.restart = false;
            self.offer(true);
        }
        while let Some(step) = self.subscriber.next_step() {
            let handle = self.subscriber.handle().unwrap_or_default();
            match step {
                Step::Attach => self.attach(Ask::AttachSubscriber),
                Step::Join(feeds) => {
                    let mut body = json!({
                        "request": "join", "ptype": "subscriber", "room": self.part.room, "streams": streams(&feeds),
                    });
                    if let Some(id) = self.private_id {
                        body["private_id"] = json!(id);
                    }
                    self.ask(Ask::Subscription, wire::message(handle, body, None));
                }
                Step::Update { subscribe, unsubscribe } => {
                    let mut body = json!({"request": "update"});
                    // Janus refuses empty lists.
                    for (key, feeds) in [("subscribe", subscribe), ("unsubscribe", unsubscribe)] {
                        if !feeds.is_empty() {
                            body[key] = streams(&feeds);
                        }
                    }
                    self.ask(Ask::Subscription, wire::message(handle, body, None));
                }
                Step::Restart => {
                    let body = json!({"request": "configure", "restart": true});
                    self.ask(Ask::Subscription, wire::message(handle, body, None));
                }
                Step::Answer(sdp) => {
                    self.out.push_back(Output::AcceptOffer(sdp));
                    self.release_candidates(SUBSCRIBE);
                }
            }
        }
    }

    fn offer(&mut self, ice_restart: bool) {
        self.publishing = true;
        self.out.push_back(Output::MakeOffer { ice_restart });
    }

    fn attach(&mut self, ask: Ask) {
        let request = json!({"janus": "attach", "plugin": PLUGIN, "opaque_id": self.part.display});
        self.ask(ask, request);
    }

    fn no_more_candidates(&mut self, handle: u64) {
        if self.part.trickles {
            let request = json!({"janus": "trickle", "handle_id": handle, "candidate": {"completed": true}});
            self.ask(Ask::Minor, request);
        }
    }

    fn ask(&mut self, ask: Ask, request: Value) {
        self.transactions += 1;
        self.pending.push((self.transactions, ask));
        let text = self.part.credentials.seal(request, self.transactions, self.session);
        self.out.push_back(Output::Send(text));
    }

    fn take(&mut self, transaction: u32, wanted: impl Fn(Ask) -> bool) -> Option<Ask> {
        let at = self.pending.iter().position(|(t, ask)| *t == transaction && wanted(*ask))?;
        Some(self.pending.swap_remove(at).1)
    }

    fn signaled(&mut self) {
        if self.phase == Phase::Joining {
            self.phase = Phase::Signaled;
            self.out.push_back(Output::Signaled);
            self.note_joined();
        }
    }

    /// A watcher with nobody to wait for has joined.
    fn signaled_if_alone(&mut self) {
        if self.in_room && !self.part.sends && !self.subscriber.expects_feeds() {
            self.signaled();
        }
    }

    fn media_failed(&mut self, error: &MediaError) {
        if self.phase == Phase::Joining {
            return self.end(Ended::failed(error.reason(), error.to_string()));
        }
        if *error == MediaError::Gone {
            return self.lost(LegCause::Interrupted, error.to_string());
        }
        self.note("renegotiation_failed", error.to_string());
    }

    fn note(&mut self, code: &'static str, text: String) {
        self.out.push_back(Output::Note { code, text });
    }
}

fn streams(feeds: &[u64]) -> Value {
    feeds.iter().map(|feed| json!({"feed": feed})).collect()
}

fn reason_of(code: i64) -> FailReason {
    match code {
        code::PUBLISHERS_FULL => FailReason::Full,
        code::UNAUTHORIZED | code::UNAUTHORIZED_PLUGIN | code::TOKEN_NOT_FOUND | code::ROOM_UNAUTHORIZED => {
            FailReason::Unauthorized
        }
        _ => FailReason::Rejected,
    }
}

#[cfg(test)]
mod tests;
