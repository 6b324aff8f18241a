//! Allocations of a shard's participants: asked for before a transport opens, tended, given back.

use super::{Behind, Entry, FromShard, Releasing, Shard, SlotSocket, Upwards, Whose, key, send};
use crate::engine::relayed::{News, Relayed, Step, Unwrapped};
use crate::engine::wire::Wire;

use crate::signaling::{MediaCommand, MediaError, TransportState};
use crate::transport::Place;
use crate::turn::Event;
use crate::types::LegId;
use std::time::Instant;

impl Shard {
    /// What has to wait for an allocation is kept, and the allocation asked for: when a transport opens, and when it
    /// restarts ICE, which it does because its path is gone. Gives back what needs not wait.
    pub(super) fn hold_for_relay(&mut self, c: MediaCommand) -> Option<MediaCommand> {
        let (leg, slot, restart) = match &c {
            MediaCommand::Forwarded { .. } => return Some(c),
            MediaCommand::Offer { leg, slot, want, .. } => (*leg, *slot, want.ice_restart),
            MediaCommand::AcceptOffer { leg, slot, .. }
            | MediaCommand::AcceptAnswer { leg, slot, .. }
            | MediaCommand::Candidate { leg, slot, .. }
            | MediaCommand::Switch { leg, slot, .. }
            | MediaCommand::Close { leg, slot } => (*leg, *slot, false),
        };
        let ix = *self.by_leg.get(&leg)?;
        let Some(e) = self.entries[ix as usize].as_deref_mut() else { return Some(c) };
        let Some(behind) = e.relay.as_deref_mut() else { return Some(c) };
        let restart =
            restart || matches!(&c, MediaCommand::AcceptOffer { sdp, .. } if e.participant.would_restart(slot, sdp));
        let bit = 1u8.checked_shl(slot.into()).unwrap_or(0);
        let waits = behind.waiting & bit != 0;
        let opens = matches!(c, MediaCommand::Offer { .. } | MediaCommand::AcceptOffer { .. })
            && (restart || !e.participant.is_open(slot))
            && bit != 0;
        if !waits && !opens {
            return Some(c);
        }
        behind.held.push(c);
        if !waits {
            behind.waiting |= bit;
            self.ask(ix, slot);
        }
        None
    }

    /// Asks for an allocation: on another server than before, where there is one.
    fn ask(&mut self, ix: u32, slot: u8) {
        let (source, seed) = (self.source(), rand::random());
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        let Some(behind) = e.relay.as_deref() else { return };
        let before = e.sockets.get_mut(usize::from(slot)).and_then(Option::take);
        let nth = before
            .as_ref()
            .and_then(|s| s.relay.as_ref())
            .map_or(0, |r| r.elsewhere(&self.config.turn, &behind.planned));
        let opened = Relayed::open(&self.config.turn, &behind.planned, nth, source, seed);
        let leg = e.participant.leg();
        if e.access.is_some() && matches!(&opened, Ok((_, Wire::Stream(_)))) {
            let text =
                "an impaired network is one of datagrams: it does nothing to a connection to a TURN server".into();
            let _ = self.config.out.send(FromShard::Note { leg, code: "network_idle", text });
        }
        self.let_go(leg, slot, before);
        self.begin(ix, slot, opened);
    }

    fn begin(&mut self, ix: u32, slot: u8, opened: Result<(Relayed, Wire), String>) {
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        let made = opened.and_then(|(relay, socket)| {
            if let (Wire::Udp(s), Some(bytes)) = (&socket, self.config.receive_buffer) {
                s.set_receive_buffer(bytes).map_err(|e| format!("SO_RCVBUF: {e}"))?;
            }
            self.eager.add(&socket, key(ix, slot)).map_err(|e| format!("epoll: {e}"))?;
            let (leg, turn) = (e.participant.leg(), relay.server.id.clone());
            let _ = self.config.out.send(FromShard::Asked { leg, slot, turn });
            let peer = Some(relay.server.address);
            e.put(slot, SlotSocket { socket, relay: Some(Box::new(relay)), peer, eager: true, refused: false });
            Ok(())
        });
        match made {
            Ok(()) => self.tend_relay(ix, slot, Instant::now()),
            Err(why) => self.relay_failed(ix, slot, &why),
        }
        self.reschedule(ix);
    }

    /// Does what time asks of a participant's allocations.
    pub(super) fn tend_due(&mut self, ix: u32, now: Instant) {
        let slots = self.entries.get(ix as usize).and_then(|e| e.as_deref()).map_or(0, |e| e.sockets.len());
        for slot in 0..slots {
            let Some(Some(e)) = self.entries.get(ix as usize) else { return };
            let Some(Some(SlotSocket { relay: Some(r), .. })) = e.sockets.get(slot) else { continue };
            if r.poll_timeout().is_some_and(|t| t <= now) {
                r.handle_timeout(now);
                self.tend_relay(ix, slot as u8, now);
            }
        }
    }

    /// Sends what an allocation has to say, and does what follows from what happened to it.
    pub(super) fn tend_relay(&mut self, ix: u32, slot: u8, now: Instant) {
        loop {
            let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
            let Some(Some(s)) = e.sockets.get(usize::from(slot)) else { return };
            let Some(r) = s.relay.as_deref() else { return };
            let (leg, server) = (e.participant.leg(), r.server.address);
            match (e.access.as_deref_mut(), &s.socket) {
                (Some(a), Wire::Udp(_)) => {
                    let whose = Whose { ix, leg, slot };
                    let mut up = Upwards { link: &mut a.up, held: &mut self.held.up, whose, epoch: self.config.epoch };
                    while let Some(m) = r.poll_transmit() {
                        up.offer(slot, server, &m, |d| send(&e.sockets, &mut self.io, slot, server, d));
                    }
                }
                _ => {
                    while let Some(m) = r.poll_transmit() {
                        send(&e.sockets, &mut self.io, slot, server, &m);
                    }
                }
            }
            let Some((event, news, step)) = r.poll(&s.socket) else { return };
            match step {
                Step::Allocated { relayed, base } => {
                    self.tell(leg, slot, news, now);
                    self.allocated(ix, slot, Place::Relayed { relayed, base }, now);
                }
                Step::Failed(why) => {
                    self.tell(leg, slot, news, now);
                    if let Event::Alternate(to) = event
                        && !self.config.common.allow.permits(to.ip())
                    {
                        let text = format!("{why}, which is outside the allow-list; no packet went there");
                        let _ = self.config.out.send(FromShard::Note { leg, code: "redirect_refused", text });
                    }
                    let (source, seed) = (self.source(), rand::random());
                    let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
                    let (Some(Some(s)), Some(behind)) = (e.sockets.get(usize::from(slot)), e.relay.as_deref()) else {
                        return;
                    };
                    let Some(r) = s.relay.as_deref() else { return };
                    match r.next(&self.config.turn, &self.config.common.allow, &behind.planned, &event, source, seed) {
                        Some(opened) => return self.begin(ix, slot, opened),
                        None => return self.relay_failed(ix, slot, &why),
                    }
                }
                Step::Lost(text) => {
                    self.tell(leg, slot, news, now);
                    let _ = self.config.out.send(FromShard::Note { leg, code: "allocation_lost", text });
                    // Real clients see their connection fail then, and restart ICE.
                    let state = TransportState::Disconnected;
                    let _ = self.config.out.send(FromShard::State { leg, slot, state, at: now });
                }
                Step::Note(text) => {
                    let _ = self.config.out.send(FromShard::Note { leg, code: "peer_refused", text });
                }
                Step::Over => return,
            }
        }
    }

    fn allocated(&mut self, ix: u32, slot: u8, place: Place, now: Instant) {
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        let leg = e.participant.leg();
        let ready = match e.participant.is_open(slot) {
            true => e.participant.relocate(slot, place),
            false => e.participant.open(now, slot, place).inspect(|()| {
                let _ = self.config.out.send(FromShard::Opened { leg });
            }),
        };
        match ready {
            Ok(()) => take_held(e, slot).into_iter().for_each(|c| self.carry_out(now, c)),
            Err(why) => take_held(e, slot).into_iter().for_each(|c| refuse(c, &why)),
        }
    }

    fn relay_failed(&mut self, ix: u32, slot: u8, why: &str) {
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        if let Some(s) = e.sockets.get_mut(usize::from(slot)) {
            *s = None;
        }
        let why = MediaError::Relay(why.to_owned());
        take_held(e, slot).into_iter().for_each(|c| refuse(c, &why));
    }

    fn tell(&self, leg: LegId, slot: u8, news: News, at: Instant) {
        let _ = self.config.out.send(FromShard::Relay { leg, slot, news: Box::new(news), at });
    }

    /// A socket is not needed any more. What it has at a TURN server goes back first, unless the profile says otherwise.
    pub(super) fn let_go(&mut self, leg: LegId, slot: u8, s: Option<SlotSocket>) {
        let Some(SlotSocket { socket, relay: Some(relay), .. }) = s else { return };
        relay.report(&mut self.relays, false);
        let now = Instant::now();
        // Lost before: nothing is there to be given back, and no answer would ever come.
        if relay.is_over() {
            return;
        }
        if self.config.turn.release {
            relay.release(now);
            self.releasing.push(Releasing { leg, slot, socket, relay });
            self.tend_releasing(now);
        } else if relay.is_ready() {
            let Some(news) = relay.abandoned() else { return };
            self.tell(leg, slot, news, now);
        }
    }

    pub(super) fn tend_releasing(&mut self, now: Instant) {
        let mut all = std::mem::take(&mut self.releasing);
        all.retain(|r| {
            match &r.socket {
                Wire::Udp(socket) => {
                    self.receiver.drain(socket, |mut batch| {
                        batch.each(Some(r.relay.server.address), |_, _, data| {
                            let _: Unwrapped = r.relay.unwrap(now, data);
                        });
                    });
                }
                Wire::Stream(stream) => {
                    let mut s = stream.borrow_mut();
                    let gone = s.read().is_err();
                    while let Ok(Some(m)) = s.deframer.next_message() {
                        let _: Unwrapped = r.relay.unwrap(now, m);
                    }
                    if gone {
                        r.relay.disconnected();
                    }
                }
            }
            r.relay.handle_timeout(now);
            // A server that is gone is found out by the time-out.
            let _ = r.relay.flush(&r.socket);
            while let Some((_, news, step)) = r.relay.poll(&r.socket) {
                if !matches!(step, Step::Note(_)) {
                    self.tell(r.leg, r.slot, news, now);
                }
                if matches!(step, Step::Over | Step::Failed(_) | Step::Lost(_)) {
                    return false;
                }
            }
            !r.relay.is_over()
        });
        self.releasing = all;
    }

    /// Sends on connections what they would not take at once.
    pub(super) fn flush_streams(&mut self) {
        let keys = std::mem::take(&mut self.unsent);
        for k in keys {
            let (ix, slot) = ((k >> 8) as u32, (k & 0xff) as u8);
            let Some(Some(e)) = self.entries.get(ix as usize) else { continue };
            let Some(Some(SlotSocket { socket: Wire::Stream(stream), relay: Some(r), .. })) =
                e.sockets.get(usize::from(slot))
            else {
                continue;
            };
            let flushed = stream.borrow_mut().flush();
            match flushed {
                Ok(()) if stream.borrow().has_unsent() => self.unsent.push(k),
                Ok(()) => {}
                Err(_) => {
                    r.disconnected();
                    self.tend_relay(ix, slot, Instant::now());
                }
            }
        }
    }
}

fn take_held(e: &mut Entry, slot: u8) -> Vec<MediaCommand> {
    let Some(Behind { waiting, held, .. }) = e.relay.as_deref_mut() else { return Vec::new() };
    *waiting &= !1u8.checked_shl(slot.into()).unwrap_or(0);
    let of_slot = |c: &MediaCommand| match c {
        MediaCommand::Offer { slot: s, .. }
        | MediaCommand::AcceptAnswer { slot: s, .. }
        | MediaCommand::AcceptOffer { slot: s, .. }
        | MediaCommand::Candidate { slot: s, .. }
        | MediaCommand::Switch { slot: s, .. }
        | MediaCommand::Close { slot: s, .. } => *s == slot,
        MediaCommand::Forwarded { .. } => false,
    };
    let (of_slot, others) = std::mem::take(held).into_iter().partition(of_slot);
    *held = others;
    of_slot
}

/// Whoever waits for an answer gets one.
fn refuse(c: MediaCommand, why: &MediaError) {
    // Whoever does not wait any more needs none.
    match c {
        MediaCommand::Offer { reply, .. } | MediaCommand::AcceptOffer { reply, .. } => {
            drop(reply.send(Err(why.clone())))
        }
        MediaCommand::AcceptAnswer { reply, .. } | MediaCommand::Switch { reply, .. } => {
            drop(reply.send(Err(why.clone())))
        }
        MediaCommand::Candidate { .. } | MediaCommand::Close { .. } | MediaCommand::Forwarded { .. } => {}
    }
}
