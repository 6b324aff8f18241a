//! Rooms that are on several servers. Each server hands what its own participants send to every other server of the room,
//! once, and forwards what comes from there as it does its own; key frame requests go back the same way. Which servers
//! share a room, the director says.

use super::super::frame::{Frame, Media, ROOM_MAX};
use super::{Client, ClientKey, Datagram, Flow, Incoming, Left, Remote, Sfu};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use str0m::media::MediaKind;

/// The other servers of a room.
#[derive(Default)]
pub(super) struct Cascade {
    /// Of the director's last word.
    version: u64,
    peers: Vec<SocketAddr>,
}

impl Sfu {
    /// Other servers that have this room from now on, by their cascade addresses; none: it is here alone. An older version
    /// than the last one is not heeded. False: the name is too long to be shared.
    pub fn set_cascade(&mut self, now: Instant, room: &str, version: u64, peers: &[SocketAddr]) -> bool {
        self.now = now;
        if room.len() > ROOM_MAX {
            return false;
        }
        if self.cascades.get(room).is_some_and(|c| c.version > version) {
            return true;
        }
        let gone: Vec<ClientKey> = self
            .remotes
            .iter()
            .filter(|(remote, key)| {
                !peers.contains(&remote.peer) && self.client(**key).is_some_and(|c| *c.room == *room)
            })
            .map(|(_, key)| *key)
            .collect();
        gone.into_iter().for_each(|key| self.remove(key, Left::Closed));
        match peers.is_empty() {
            true => {
                self.cascades.remove(room);
            }
            false => {
                self.cascades.insert(room.into(), Cascade { version, peers: peers.to_vec() });
            }
        }
        true
    }

    /// A datagram arrived at the cascade address.
    pub fn handle_cascade(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.now = now;
        self.stats.cascade_in += 1;
        self.stats.cascade_bytes_in += bytes.len() as u64;
        let taken = match Frame::decode(bytes) {
            Some(Frame::Media(media)) => self.take_media(from, &media),
            Some(Frame::KeyFrameRequest { sender, source }) => self.take_key_frame_request(from, sender, source),
            Some(Frame::Gone { sender }) => {
                let key = self.remotes.get(&Remote { peer: from, number: sender }).copied();
                key.map(|key| self.remove(key, Left::Closed))
            }
            None => None,
        };
        self.stats.cascade_dropped += u64::from(taken.is_none());
    }

    /// The next datagram to another server.
    pub fn poll_cascade(&mut self) -> Option<Datagram> {
        let datagram = self.cascade_out.pop_front()?;
        self.stats.cascade_out += 1;
        self.stats.cascade_bytes_out += datagram.contents.len() as u64;
        Some(datagram)
    }

    fn take_media(&mut self, from: SocketAddr, m: &Media<'_>) -> Option<()> {
        let room = self.cascades.get_key_value(m.room).filter(|(_, c)| c.peers.contains(&from))?.0.clone();
        // Nobody is here to get it (any more).
        self.rooms.contains_key(&room).then_some(())?;
        let codec = *self.codecs.params().iter().find(|p| *p.pt() == m.pt)?;
        let kind = if codec.spec().codec.is_audio() { MediaKind::Audio } else { MediaKind::Video };
        let key = self.remote(Remote { peer: from, number: m.sender }, &room);
        let now = self.now;
        let client = self.client_mut(key)?;
        client.seen = now;
        let index = client.source_at(m.source, m.line, m.layer, kind);
        let source = &mut client.sources[index];
        source.last = Some(now);
        if source.kind() != kind {
            return None;
        }
        let flow = Flow { ssrc: m.ssrc.into(), codec, shared: Some(codec.pt()) };
        if source.flow.is_none_or(|f| f.ssrc != flow.ssrc || f.codec.pt() != codec.pt()) {
            self.set_flow(key, index, flow);
        }
        let payload: Arc<[u8]> = m.payload.into();
        let incoming = Incoming {
            numbers: m.numbers,
            marker: m.marker,
            carried: m.carried,
            redundant: m.redundant,
            ..Incoming::new(codec.spec().codec, &payload, now)
        };
        self.pass_on(key, index, &incoming);
        Some(())
    }

    fn take_key_frame_request(&mut self, from: SocketAddr, sender: u32, source: u8) -> Option<()> {
        let here = |c: &Client| c.remote.is_none() && c.number == sender;
        let key = self.clients.iter().position(|c| c.as_deref().is_some_and(here))?;
        let cascade = self.cascades.get(&self.client(key)?.room)?;
        cascade.peers.contains(&from).then_some(())?;
        self.stats.key_frame_requests_in += 1;
        self.ask_for_key_frame(key, usize::from(source));
        Some(())
    }

    /// Somebody on another server, as a member of the room here.
    fn remote(&mut self, remote: Remote, room: &Arc<str>) -> ClientKey {
        if let Some(key) = self.remotes.get(&remote).copied() {
            if self.client(key).is_some_and(|c| c.room == *room) {
                return key;
            }
            // Its server has begun to count anew.
            self.remove(key, Left::Closed);
        }
        let client = Some(Box::new(Client::on_another_server(room.clone(), remote, self.now)));
        let key = match self.free.pop() {
            Some(key) => {
                self.clients[key] = client;
                key
            }
            None => {
                self.clients.push(client);
                self.clients.len() - 1
            }
        };
        self.remotes.insert(remote, key);
        self.rooms.entry(room.clone()).or_default().push(key);
        key
    }

    /// One packet of a participant of this server to the others that have the room.
    pub(super) fn hand_over(&mut self, sender: ClientKey, index: usize, incoming: &Incoming<'_>) {
        if self.cascades.is_empty() {
            return;
        }
        let Some(client) = self.clients.get(sender).and_then(|c| c.as_deref()) else { return };
        let Some(cascade) = self.cascades.get(&client.room) else { return };
        let Some(source) = client.sources.get(index) else { return };
        let Some((flow, pt)) = source.flow.and_then(|f| Some((f, f.shared?))) else { return };
        let bytes = Frame::Media(Media {
            room: &client.room,
            sender: client.number,
            source: source.origin,
            line: source.line,
            layer: source.is_layer().then_some(source.layer),
            ssrc: *flow.ssrc,
            pt: *pt,
            numbers: incoming.numbers,
            marker: incoming.marker,
            redundant: incoming.redundant,
            carried: incoming.carried,
            payload: incoming.payload,
        })
        .encode();
        for to in &cascade.peers {
            self.cascade_out.push_back(Datagram { to: *to, contents: bytes.clone() });
        }
    }

    pub(super) fn ask_server_for_key_frame(&mut self, remote: Remote, source: u8) {
        let contents = Frame::KeyFrameRequest { sender: remote.number, source }.encode();
        self.cascade_out.push_back(Datagram { to: remote.peer, contents });
    }

    /// Somebody of this server has left a room: the others need not wait for him, and where he was the last one here, what
    /// they have to say is for nobody.
    pub(super) fn part_from_servers(&mut self, client: &Client) {
        let Some(cascade) = self.cascades.get(&client.room) else { return };
        if !client.sources.is_empty() {
            let contents = Frame::Gone { sender: client.number }.encode();
            let tell = |to: &SocketAddr| Datagram { to: *to, contents: contents.clone() };
            self.cascade_out.extend(cascade.peers.iter().map(tell));
        }
        let members = self.rooms.get(&client.room).cloned().unwrap_or_default();
        let is_remote = |key: &ClientKey| self.client(*key).is_some_and(|c| c.remote.is_some());
        if members.iter().all(is_remote) {
            members.into_iter().for_each(|key| self.remove(key, Left::Closed));
        }
    }
}
