//! How a leg ends: by its own leave, by the server, by what breaks.

use super::{Ask, LEAVE_LIMIT, LEAVE_PATIENCE, Machine, Output, PUBLISH, PUT_OUT_PATIENCE, Phase, SUBSCRIBE, Timer};
use crate::history::{FailReason, LegCause};
use crate::signaling::janus::wire;
use crate::signaling::{Ended, TransportState, reason_of};
use serde_json::json;

impl Machine {
    /// The WebSocket is gone.
    pub fn handle_closed(&mut self, why: &str) {
        match self.phase {
            Phase::Over => {}
            Phase::Leaving => self.left(false, format!("WebSocket closed before the leave was acknowledged: {why}")),
            Phase::Joining | Phase::Signaled => {
                self.session = None;
                self.lost(LegCause::SignalingLost, format!("WebSocket closed: {why}"));
            }
        }
    }

    pub(super) fn hung_up(&mut self, sender: Option<u64>, reason: &str) {
        if self.put_out.is_some() {
            return self.end_put_out();
        }
        let what = match sender {
            Some(handle) if self.subscriber.handle() == Some(handle) => "receiving",
            Some(handle) if self.publisher == Some(handle) => "publishing",
            _ => return self.note("janus_unknown", format!("hangup of an unknown handle: {reason}")),
        };
        self.lost(LegCause::ClosedByServer, format!("Janus hung up the {what} transport: {reason}"));
    }

    pub(super) fn transport(&mut self, slot: u8, state: TransportState) {
        match state {
            TransportState::IceConnected { .. } | TransportState::Disconnected => {}
            TransportState::Connected { .. } => {
                if let Some(connected) = self.connected.get_mut(usize::from(slot)) {
                    *connected = true;
                }
                self.note_joined();
            }
            TransportState::Failed { why } if self.connected.get(usize::from(slot)) == Some(&true) => {
                self.lost(LegCause::ConsentExpired, format!("transport {slot}: {why}"));
            }
            TransportState::Failed { why } => {
                let reason = reason_of(&why);
                // The one that receives, of a leg that had joined by the other: where no answer came, nobody closed it.
                let cause = match reason {
                    FailReason::TimeoutIce | FailReason::TimeoutDtls | FailReason::NotAllowed => {
                        LegCause::ConsentExpired
                    }
                    _ => LegCause::ClosedByServer,
                };
                self.fail_or_lose(reason, cause, format!("transport {slot} never came up: {why}"));
            }
            // It follows, and Janus may still be busy with us.
            TransportState::PeerClosed if self.put_out.is_some() => {}
            TransportState::PeerClosed => {
                self.lost(LegCause::ClosedByServer, format!("close_notify on transport {slot}"));
            }
            TransportState::ConsentExpired => {
                self.lost(LegCause::ConsentExpired, format!("no consent on transport {slot}"));
            }
        }
    }

    /// The server put us out of the room: the end follows when it is safe for it.
    pub(super) fn put_out(&mut self, how: &'static str) {
        if matches!(self.phase, Phase::Joining | Phase::Signaled) && self.put_out.is_none() {
            self.put_out = Some(how);
            self.out.push_back(Output::Arm(Timer::PutOut, PUT_OUT_PATIENCE));
        }
    }

    pub(super) fn end_put_out(&mut self) {
        if let Some(how) = self.put_out {
            self.lost(LegCause::ClosedByServer, format!("Janus: {how}"));
        }
    }

    /// The first transport is up, or there is nothing to send or receive yet.
    pub(super) fn note_joined(&mut self) {
        let first = if self.part.sends { PUBLISH } else { SUBSCRIBE };
        let has_media = self.part.sends || self.described[usize::from(SUBSCRIBE)];
        self.joined |= self.phase == Phase::Signaled && (!has_media || self.connected[usize::from(first)]);
    }

    pub(super) fn lost(&mut self, cause: LegCause, detail: String) {
        self.fail_or_lose(FailReason::Closed, cause, detail);
    }

    pub(super) fn fail_or_lose(&mut self, reason: FailReason, cause: LegCause, detail: String) {
        match self.phase {
            // What breaks while we leave is part of leaving.
            Phase::Leaving | Phase::Over => {}
            _ if self.joined => self.end(Ended::over(cause, detail)),
            Phase::Joining | Phase::Signaled => self.end(Ended::failed(reason, detail)),
        }
    }

    pub(super) fn leave(&mut self) {
        if matches!(self.phase, Phase::Leaving | Phase::Over) {
            return;
        }
        self.phase = Phase::Leaving;
        self.out.push_back(Output::Arm(Timer::LeavePatience, LEAVE_PATIENCE));
        self.out.push_back(Output::Arm(Timer::LeaveLimit, LEAVE_LIMIT));
        match self.publisher.filter(|_| self.in_room) {
            Some(handle) => self.ask(Ask::Leave, wire::message(handle, json!({"request": "leave"}), None)),
            None => self.destroy(),
        }
        self.out.push_back(Output::CloseMedia);
    }

    /// Once; without a session there is nothing to destroy yet.
    pub(super) fn destroy(&mut self) {
        if self.session.is_some() && !self.pending.iter().any(|(_, ask)| *ask == Ask::Destroy) {
            self.ask(Ask::Destroy, json!({"janus": "destroy"}));
        }
    }

    pub(super) fn left(&mut self, acknowledged: bool, detail: String) {
        if self.phase != Phase::Leaving {
            return;
        }
        self.session = None;
        if !self.joined {
            return self.end(Ended::failed(FailReason::LeftEarly, detail));
        }
        let cause = if acknowledged { LegCause::Left } else { LegCause::LeftUnacknowledged };
        self.end(Ended::over(cause, detail));
    }

    /// Ends it, and spares the server a ghost session where it still has one.
    pub(super) fn end(&mut self, ended: Ended) {
        if self.phase == Phase::Over {
            return;
        }
        if self.phase != Phase::Leaving {
            self.destroy();
            self.out.push_back(Output::CloseMedia);
        }
        self.phase = Phase::Over;
        self.out.push_back(Output::Ended(ended));
    }
}
