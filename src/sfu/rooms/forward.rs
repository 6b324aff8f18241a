//! Packets from senders to the slots of receivers, and the key frames that these need.

use super::Sfu;
use crate::sfu::client::{ClientKey, Flow, Incoming, Wrote};
use str0m::media::{KeyframeRequestKind, MediaKind};
use str0m::rtp::RtpPacket;

impl Sfu {
    pub(super) fn forward(&mut self, sender: ClientKey, packet: &RtpPacket) {
        self.stats.rtp_in += 1;
        let now = self.now;
        let Some(index) = self.client_mut(sender).and_then(|c| c.source_of(packet)) else {
            self.stats.rtp_dropped += 1;
            return;
        };
        if let Some(client) = self.client_mut(sender) {
            client.sources[index].last = Some(now);
        }
        if !self.track_flow(sender, index, packet) {
            self.stats.rtp_dropped += 1;
            return;
        }
        let Some(client) = self.client_mut(sender) else { return };
        if client.is_held(now) {
            self.stats.rtp_dropped += 1;
            return;
        }
        let Some(flow) = client.sources[index].flow else { return };
        let incoming = Incoming::of(packet, flow.codec);
        let is_audio = client.sources[index].kind() == MediaKind::Audio;
        if self.config.last_n.is_some()
            && is_audio
            && self.client_mut(sender).is_some_and(|c| c.speech.hear(now, incoming.carried))
        {
            self.spoke(sender);
        }
        self.hand_over(sender, index, &incoming);
        self.pass_on(sender, index, &incoming);
    }

    /// One packet to everybody here whose slots show its source.
    pub(super) fn pass_on(&mut self, sender: ClientKey, index: usize, incoming: &Incoming<'_>) {
        let now = self.now;
        let Some(source) = self.client_mut(sender).and_then(|c| c.sources.get_mut(index)) else { return };
        if incoming.starts_key_frame {
            source.gate.key_frame();
            if !source.switching.is_empty() {
                self.switch(sender, index);
            }
        }
        let Some(client) = self.client_mut(sender) else { return };
        let source = &mut client.sources[index];
        let mut waiting = !source.switching.is_empty();
        let subscribers = std::mem::take(&mut source.subscribers);
        for &(receiver, slot) in &subscribers {
            let Some(client) = self.clients.get_mut(receiver).and_then(|c| c.as_deref_mut()) else { continue };
            match client.write(slot, now, incoming) {
                Wrote::Queued => {
                    self.stats.rtp_forwarded += 1;
                    if !client.dirty {
                        client.dirty = true;
                        self.dirty.push(receiver);
                    }
                }
                Wrote::Waiting => {
                    self.stats.rtp_before_key_frame += 1;
                    waiting = true;
                }
                Wrote::Dropped => self.stats.rtp_dropped += 1,
            }
        }
        let Some(client) = self.client_mut(sender) else { return };
        let source = &mut client.sources[index];
        source.subscribers = subscribers;
        if waiting && source.gate.still_waiting(now) {
            self.send_key_frame_request(sender, index);
        }
    }

    /// Notes a source's SSRC and codec, and tells its receivers when they change. False: unknown codec.
    pub(super) fn track_flow(&mut self, sender: ClientKey, index: usize, packet: &RtpPacket) -> bool {
        let Some(client) = self.client_mut(sender) else { return false };
        let (ssrc, pt) = (packet.header.ssrc, packet.header.payload_type);
        let before = client.sources[index].flow;
        if before.is_some_and(|f| f.ssrc == ssrc && (f.codec.pt() == pt || f.codec.red() == Some(pt))) {
            return true;
        }
        let Some(codec) = client.codec(pt) else { return false };
        let shared = self.codecs.match_params(codec).map(|p| p.pt());
        self.set_flow(sender, index, Flow { ssrc, codec, shared });
        true
    }

    /// A source has become another stream.
    pub(super) fn set_flow(&mut self, sender: ClientKey, index: usize, flow: Flow) {
        let Some(source) = self.client_mut(sender).and_then(|c| c.sources.get_mut(index)) else { return };
        let codec = flow.codec;
        match source.flow.replace(flow) {
            None => self.offer_source(sender, index),
            Some(before) => {
                // A new stream. Where its codec does not fit the slot, the slot goes back.
                let subscribers = std::mem::take(&mut source.subscribers);
                for (receiver, slot) in subscribers {
                    let Some(client) = self.client_mut(receiver) else { continue };
                    let place = &mut client.slots[slot];
                    if before.codec.spec() != codec.spec() {
                        place.clear();
                        continue;
                    }
                    place.show(sender, index, place.pt());
                    if let Some(client) = self.client_mut(sender) {
                        client.sources[index].subscribers.push((receiver, slot));
                    }
                }
                self.offer_source(sender, index);
            }
        }
    }

    /// Gives a source a slot at everybody in the room who has one free.
    pub(super) fn offer_source(&mut self, sender: ClientKey, index: usize) {
        let Some(room) = self.client(sender).map(|c| c.room.clone()) else { return };
        let members = self.rooms.get(&room).cloned().unwrap_or_default();
        for receiver in members {
            self.subscribe(receiver, sender, index);
        }
    }

    /// Gives a receiver's free slots to sources of the room that it does not have yet.
    pub(super) fn fill_slots(&mut self, receiver: ClientKey) {
        let Some(room) = self.client(receiver).map(|c| c.room.clone()) else { return };
        let members = self.rooms.get(&room).cloned().unwrap_or_default();
        for sender in members {
            let sources = self.client(sender).map_or(0, |c| c.sources.len());
            for index in 0..sources {
                self.subscribe(receiver, sender, index);
            }
        }
    }

    pub(super) fn subscribe(&mut self, receiver: ClientKey, sender: ClientKey, index: usize) {
        if receiver == sender {
            return;
        }
        let Some(source) = self.client(sender).and_then(|c| c.sources.get(index)) else { return };
        let Some(flow) = source.flow else { return };
        let kind = source.kind();
        if kind == MediaKind::Video && !self.is_chosen(receiver, sender) {
            return;
        }
        let shown = self.shown_layer(receiver, sender, index);
        if let Some((slot, _)) = shown {
            return self.choose_layer(receiver, slot);
        }
        let layer_max = self.client(receiver).map_or(u8::MAX, |c| c.layer_max);
        let best = self.client(sender).and_then(|c| c.best_layer(index, layer_max, self.now));
        let index = best.unwrap_or(index);
        let Some(client) = self.client_mut(receiver) else { return };
        // Before that, its packets would only pile up.
        if !client.connected {
            return;
        }
        let Some((slot, pt)) = client.free_slot(kind, flow.codec) else { return };
        client.slots[slot].show(sender, index, pt);
        if let Some(client) = self.client_mut(sender) {
            client.sources[index].subscribers.push((receiver, slot));
        }
        if kind == MediaKind::Video {
            self.ask_for_key_frame(sender, index);
        }
    }

    pub(super) fn ask_for_key_frame(&mut self, sender: ClientKey, index: usize) {
        let now = self.now;
        let Some(source) = self.client_mut(sender).and_then(|c| c.sources.get_mut(index)) else { return };
        if source.gate.ask(now) {
            self.send_key_frame_request(sender, index);
        } else if let Some(due) = source.gate.due() {
            self.timeout = self.timeout.min(due);
            if !self.held.contains(&(sender, index)) {
                self.held.push((sender, index));
            }
        }
    }

    pub(super) fn send_key_frame_request(&mut self, sender: ClientKey, index: usize) {
        let Some(client) = self.clients.get_mut(sender).and_then(|c| c.as_deref_mut()) else { return };
        let Some(source) = client.sources.get(index) else { return };
        if let Some(remote) = client.remote {
            let origin = source.origin;
            self.stats.key_frame_requests_out += 1;
            return self.ask_server_for_key_frame(remote, origin);
        }
        let (Some(flow), Some(rtc)) = (source.flow, &mut client.rtc) else { return };
        let Some(()) =
            rtc.direct_api().stream_rx(&flow.ssrc).map(|stream| stream.request_keyframe(KeyframeRequestKind::Pli))
        else {
            return;
        };
        self.stats.key_frame_requests_out += 1;
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(sender);
        }
    }

    pub(super) fn release_held_requests(&mut self) {
        for (sender, index) in std::mem::take(&mut self.held) {
            let due = self.client(sender).and_then(|c| c.sources.get(index)?.gate.due());
            match due {
                Some(due) if due <= self.now => self.ask_for_key_frame(sender, index),
                Some(_) => self.held.push((sender, index)),
                None => {}
            }
        }
    }
}
