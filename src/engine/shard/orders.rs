//! Legs come, do what their drivers ask, and go.

use super::{Behind, Entry, FromShard, RoomState, Shard, SlotSocket, ToShard, key};
use crate::engine::impaired::Access;
use crate::engine::socket::MediaSocket;
use crate::engine::wire::Wire;
use crate::impair::Conditions;
use crate::measure::Flow;
use crate::participant::{Meter, Participant, Room, SLOTS_MAX, Spec};
use crate::plan::Relay;
use crate::signaling::{MediaCommand, MediaError};
use crate::types::{LegId, ServerId};
use std::net::IpAddr;
use std::time::Instant;

impl Shard {
    pub(super) fn obey(&mut self, now: Instant, order: ToShard) {
        match order {
            ToShard::Add { spec, network, relay } => self.add(now, *spec, network, relay),
            ToShard::Server { leg, server } => self.set_server(leg, server),
            ToShard::Quiet { leg } => {
                if let Some(ix) = self.by_leg.get(&leg).copied() {
                    self.with(ix, |p, w| p.go_quiet(w));
                }
            }
            ToShard::Remove { leg } => self.remove(leg),
            ToShard::Stop => self.stop = true,
        }
    }

    fn add(&mut self, now: Instant, spec: Spec, network: Option<Box<[Conditions; 2]>>, relay: Option<Box<Relay>>) {
        let access = network.map(|n| Box::new(Access::new(n[0], n[1], self.config.seed, spec.leg.id)));
        let (leg, room, planned_ns) = (spec.leg.id, spec.leg.room, spec.planned_ns);
        let participant = Participant::new(now, spec, &self.config.common);
        let r = self.rooms.entry(room).or_insert_with(|| RoomState {
            room: Room::new(),
            server: None,
            participants: 0,
            count: Default::default(),
            silence_max_ms: 0,
        });
        r.room.join(leg, planned_ns, participant.sends());
        let entry = Box::new(Entry {
            participant,
            room,
            server: None,
            sockets: Vec::new(),
            access,
            relay: relay.map(|planned| Box::new(Behind { planned: *planned, waiting: 0, held: Vec::new() })),
            wake_at: None,
            connected: false,
            silent_since: None,
        });
        let ix = match self.free.pop() {
            Some(ix) => {
                self.entries[ix as usize] = Some(entry);
                ix
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() as u32 - 1
            }
        };
        self.by_leg.insert(leg, ix);
        self.with(ix, |_, _| {});
    }

    fn set_server(&mut self, leg: LegId, server: ServerId) {
        while self.meters.len() <= server.index() {
            self.meters.push([Meter::allocated(), Meter::allocated()]);
        }
        let Some(ix) = self.by_leg.get(&leg) else { return };
        let Some(e) = self.entries[*ix as usize].as_deref_mut() else { return };
        e.server = Some(server);
        if let Some(r) = self.rooms.get_mut(&e.room) {
            r.server = Some(server);
        }
    }

    fn remove(&mut self, leg: LegId) {
        let Some(ix) = self.by_leg.remove(&leg) else { return };
        let mut last = None;
        self.with(ix, |p, w| {
            p.go_quiet(w);
            let mut flows = <[Flow; 2]>::default();
            let (delta, totals) = p.finish(w, &mut flows);
            for slot in 0..SLOTS_MAX {
                p.close(w, slot);
            }
            w.room.leave(p.leg(), w.now_ns);
            last = Some((flows, delta, totals));
        });
        let Some(mut e) = self.entries[ix as usize].take() else { return };
        for (slot, s) in e.sockets.drain(..).enumerate() {
            self.let_go(leg, slot as u8, s);
        }
        self.free.push(ix);
        let Some((flows, delta, totals)) = last else { return };
        if let Some(r) = self.rooms.get_mut(&e.room) {
            r.add(&flows, &delta);
        }
        self.add_flows(e.server, e.relay.is_some(), &flows);
        let impaired = e.access.map(|a| a.counters());
        let _ = self.config.out.send(FromShard::Totals { leg, totals: Box::new(totals), impaired });
    }

    pub(super) fn on_media_command(&mut self, now: Instant, c: MediaCommand) {
        if let Some(c) = self.hold_for_relay(c) {
            self.carry_out(now, c);
        }
    }

    /// With the allocation that it needs, where it needs one.
    pub(super) fn carry_out(&mut self, now: Instant, c: MediaCommand) {
        match c {
            MediaCommand::Offer { leg, slot, want, reply } => {
                let r = self
                    .open(now, leg, slot)
                    .and_then(|ix| self.with(ix, |p, w| p.offer(w, slot, want)).unwrap_or(Err(MediaError::Gone)));
                let _ = reply.send(r);
            }
            MediaCommand::AcceptAnswer { leg, slot, sdp, reply } => {
                let r = self.known(leg).and_then(|ix| {
                    self.with(ix, |p, w| p.accept_answer(w, slot, &sdp)).unwrap_or(Err(MediaError::Gone))
                });
                let _ = reply.send(r);
            }
            MediaCommand::AcceptOffer { leg, slot, sdp, reply } => {
                let r = self.open(now, leg, slot).and_then(|ix| {
                    self.with(ix, |p, w| p.accept_offer(w, slot, &sdp)).unwrap_or(Err(MediaError::Gone))
                });
                let _ = reply.send(r);
            }
            MediaCommand::Candidate { leg, slot, candidate } => {
                if let Ok(ix) = self.known(leg) {
                    self.with(ix, |p, w| p.candidate(w, slot, &candidate));
                }
            }
            MediaCommand::Switch { leg, slot, reply } => {
                let r = self
                    .known(leg)
                    .and_then(|ix| self.with(ix, |p, w| p.switch(w, slot)).unwrap_or(Err(MediaError::Gone)));
                let _ = reply.send(r);
            }
            MediaCommand::Close { leg, slot } => {
                if let Ok(ix) = self.known(leg) {
                    self.with(ix, |p, w| p.close(w, slot));
                }
            }
            MediaCommand::Forwarded { leg, senders } => {
                if let Ok(ix) = self.known(leg) {
                    self.with(ix, |p, w| p.set_forwarded(w, senders));
                }
            }
        }
    }

    pub(super) fn known(&self, leg: LegId) -> Result<u32, MediaError> {
        self.by_leg.get(&leg).copied().ok_or(MediaError::Gone)
    }

    /// The leg's entry, with this transport open.
    fn open(&mut self, now: Instant, leg: LegId, slot: u8) -> Result<u32, MediaError> {
        let ix = self.known(leg)?;
        let e = self.entries[ix as usize].as_deref_mut().ok_or(MediaError::Gone)?;
        if slot >= SLOTS_MAX {
            return Err(MediaError::Local(format!("transport {slot}: at most {SLOTS_MAX} a participant")));
        }
        if e.participant.is_open(slot) {
            return Ok(ix);
        }
        if e.relay.is_some() {
            return Err(MediaError::Relay("there is no allocation".into()));
        }
        let source = self.source();
        let Some(e) = self.entries[ix as usize].as_deref_mut() else { return Err(MediaError::Gone) };
        let local = |what: &str, e: std::io::Error| MediaError::Local(format!("{what} on {source}: {e}"));
        let socket = MediaSocket::bind(source).map_err(|e| local("no UDP socket", e))?;
        if let Some(bytes) = self.config.receive_buffer {
            socket.set_receive_buffer(bytes).map_err(|e| local("SO_RCVBUF", e))?;
        }
        self.eager.add(&socket, key(ix, slot)).map_err(|e| local("epoll", e))?;
        e.participant.open(now, slot, socket.local())?;
        let socket = Wire::Udp(socket);
        e.put(slot, SlotSocket { socket, relay: None, peer: None, eager: true, refused: false });
        let _ = self.config.out.send(FromShard::Opened { leg });
        Ok(ix)
    }

    /// The next source address.
    pub(super) fn source(&mut self) -> IpAddr {
        self.next_source += 1;
        self.config.sources[(self.next_source - 1) % self.config.sources.len()]
    }
}
