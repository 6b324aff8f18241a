//! Rooms and forwarding, sans-I/O. Feed it datagrams and time; after that, [`Sfu::poll_transmit`] until it is empty,
//! then wait for [`Sfu::poll_timeout`]. Packets of several datagrams fed in a row leave together, which is cheaper.

mod cascade; // rooms that other servers have, too
mod forward; // packets to those who are to have them
mod last_n; // whose video participants get
mod layers; // of simulcast

use super::client::{Client, ClientKey, Flow, Hold, Incoming, Joining, Remote, shared_codecs};
use super::speakers::Speakers;
use super::stun;
use super::terms::{Datagram, Forwarded, JoinError, Joined, Left, RestartError, SfuConfig, Stats};
use crate::types::Sin;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use str0m::format::CodecConfig;
use str0m::net::{Protocol, Receive};
use str0m::{Event, IceConnectionState, Input, Output};

/// Ended sessions are remembered so long, so that a late DELETE still learns how they ended.
const REMEMBER: Duration = Duration::from_secs(60);
/// How long [`Sin::MoveWithGap`] forwards nothing.
const MOVE_GAP: Duration = Duration::from_secs(3);
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Rooms of participants who hear and see each other.
pub struct Sfu {
    config: SfuConfig,
    clients: Vec<Option<Box<Client>>>,
    free: Vec<ClientKey>,
    rooms: FxHashMap<Arc<str>, Vec<ClientKey>>,
    by_address: FxHashMap<SocketAddr, ClientKey>,
    by_ufrag: FxHashMap<String, ClientKey>,
    ended: FxHashMap<String, (Instant, Left)>,
    /// Other servers that have a room, too, and their participants here.
    cascades: FxHashMap<Arc<str>, cascade::Cascade>,
    remotes: FxHashMap<Remote, ClientKey>,
    codecs: CodecConfig,
    /// By room, with last-N.
    speakers: FxHashMap<Arc<str>, Speakers>,
    told: VecDeque<Forwarded>,
    /// Number of the next participant.
    number: u32,
    dirty: Vec<ClientKey>,
    /// Senders with a key frame request that waits for its time.
    held: Vec<(ClientKey, usize)>,
    out: VecDeque<Datagram>,
    /// To other servers.
    cascade_out: VecDeque<Datagram>,
    now: Instant,
    timeout: Instant,
    housekeeping: Instant,
    stats: Stats,
}

impl Sfu {
    pub fn new(config: SfuConfig, now: Instant) -> Sfu {
        let codecs = shared_codecs(&config);
        Sfu {
            config,
            cascades: FxHashMap::default(),
            remotes: FxHashMap::default(),
            codecs,
            speakers: FxHashMap::default(),
            told: VecDeque::new(),
            number: 0,
            cascade_out: VecDeque::new(),
            clients: Vec::new(),
            free: Vec::new(),
            rooms: FxHashMap::default(),
            by_address: FxHashMap::default(),
            by_ufrag: FxHashMap::default(),
            ended: FxHashMap::default(),
            dirty: Vec::new(),
            held: Vec::new(),
            out: VecDeque::new(),
            now,
            timeout: now + HOUSEKEEPING,
            housekeeping: now + HOUSEKEEPING,
            stats: Stats::default(),
        }
    }

    pub fn config(&self) -> &SfuConfig {
        &self.config
    }

    /// [`Joining::new`] and [`Sfu::admit`] in one.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn join(&mut self, now: Instant, room: &str, name: &str, offer: &str) -> Result<Joined, JoinError> {
        let joining = Joining::new(&self.config, now, offer).inspect_err(|_| self.stats.joins_refused += 1)?;
        self.admit(now, room, name, joining)
    }

    /// Lets somebody into a room, which comes to be with its first participant and ends with its last.
    ///
    /// # Errors
    /// [`JoinError::Full`] and [`JoinError::Duplicate`].
    pub fn admit(&mut self, now: Instant, room: &str, name: &str, joining: Joining) -> Result<Joined, JoinError> {
        self.now = now;
        let sin = self.config.sin.filter(|_| joining.moved);
        let refused = if self.stats.participants as usize >= self.config.participants_max {
            Some(JoinError::Full(self.config.participants_max))
        } else if self.members(room).any(|c| &*c.name == name) {
            Some(JoinError::Duplicate { room: room.into(), name: name.into() })
        } else {
            None
        };
        if let Some(error) = refused {
            self.stats.joins_refused += 1;
            return Err(error);
        }
        let first_deaf = self.members(room).all(|c| c.held != Some(Hold::ForGood));
        let Joining { mut client, answer, .. } = joining;
        client.held = match sin {
            Some(Sin::MoveWithGap) => Some(Hold::For(MOVE_GAP)),
            Some(Sin::OneWayAfterMove) if first_deaf && !client.sources.is_empty() => Some(Hold::ForGood),
            _ => None,
        };
        client.room = room.into();
        client.name = name.into();
        (client.joined, client.seen) = (now, now);
        self.number = self.number.wrapping_add(1);
        client.number = self.number;
        let session = client.ufrag.clone();
        let room = client.room.clone();
        let key = match self.free.pop() {
            Some(key) => key,
            None => {
                self.clients.push(None);
                self.clients.len() - 1
            }
        };
        self.by_ufrag.insert(session.clone(), key);
        self.rooms.entry(room).or_default().push(key);
        self.clients[key] = Some(Box::new(client));
        self.stats.participants += 1;
        self.stats.joins += 1;
        self.meet_speaker(key);
        self.input(key, Input::Timeout(now));
        Ok(Joined { session, answer })
    }

    /// Ends a session: BYE and close_notify go out, its slots elsewhere get free.
    pub fn leave(&mut self, now: Instant, session: &str) -> Left {
        self.now = now;
        match self.by_ufrag.get(session) {
            Some(&key) => {
                self.remove(key, Left::Now);
                Left::Now
            }
            None => self.ended.get(session).map_or(Left::Unknown, |(_, how)| *how),
        }
    }

    /// Ends all sessions, as [`Sfu::leave`] does one.
    pub fn close_all(&mut self, now: Instant) {
        self.now = now;
        (0..self.clients.len()).for_each(|key| self.remove(key, Left::Now));
    }

    /// Answers a session's offer with new ICE credentials.
    ///
    /// # Errors
    /// See [`RestartError`].
    pub fn restart(&mut self, now: Instant, session: &str, offer: &str) -> Result<String, RestartError> {
        self.now = now;
        let Some(&key) = self.by_ufrag.get(session) else {
            return Err(if self.ended.contains_key(session) { RestartError::Ended } else { RestartError::Unknown });
        };
        let client = self.client_mut(key).ok_or(RestartError::Unknown)?;
        let (answer, ufrag) = client.restart(offer)?;
        let before = (ufrag != client.ufrag).then(|| client.restarted_ufrag.replace(ufrag.clone())).flatten();
        if let Some(before) = before.filter(|b| *b != ufrag) {
            self.by_ufrag.remove(&before);
        }
        self.by_ufrag.insert(ufrag, key);
        self.input(key, Input::Timeout(now));
        Ok(answer)
    }

    /// A datagram arrived at the media address.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.now = now;
        self.stats.datagrams_in += 1;
        self.stats.bytes_in += bytes.len() as u64;
        let known = self.by_address.get(&from).copied();
        let check = stun::is_stun(bytes);
        // An address may have changed hands since its last owner vanished, so checks always go by name.
        let key = if check { stun::local_ufrag(bytes).and_then(|u| self.by_ufrag.get(u)).copied() } else { known };
        let Some(key) = key else {
            self.stats.datagrams_unknown += 1;
            return;
        };
        let Ok(receive) = Receive::new(Protocol::Udp, from, self.config.media, bytes) else {
            self.stats.datagrams_invalid += 1;
            return;
        };
        let input = Input::Receive(now, receive);
        let Some(client) = self.clients.get_mut(key).and_then(|c| c.as_deref_mut()) else { return };
        if check && known != Some(key) {
            if !client.rtc.as_ref().is_some_and(|rtc| rtc.accepts(&input)) {
                self.stats.datagrams_unknown += 1;
                return;
            }
            client.addresses.push(from);
            self.by_address.insert(from, key);
        }
        client.seen = now;
        self.input(key, input);
    }

    /// When [`Sfu::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Instant {
        self.timeout
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if now < self.timeout {
            return;
        }
        for key in 0..self.clients.len() {
            if self.client(key).is_some_and(|c| c.timeout <= now) {
                self.input(key, Input::Timeout(now));
            }
        }
        self.release_held_requests();
        if self.housekeeping <= now {
            self.housekeeping = now + HOUSEKEEPING;
            self.remove_silent();
            self.tell_all_again();
            self.choose_layers();
            self.ended.retain(|_, (at, _)| now < *at + REMEMBER);
        }
        let clients = self.clients.iter().flatten().map(|c| c.timeout).min();
        let held =
            self.held.iter().filter_map(|&(key, source)| self.client(key)?.sources.get(source)?.gate.due()).min();
        self.timeout = [clients, held].into_iter().flatten().fold(self.housekeeping, Instant::min);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        while self.out.is_empty() {
            let key = self.dirty.pop()?;
            if let Some(client) = self.client_mut(key) {
                client.dirty = false;
                self.input(key, Input::Timeout(self.now));
            }
        }
        let datagram = self.out.pop_front()?;
        self.stats.datagrams_out += 1;
        self.stats.bytes_out += datagram.contents.len() as u64;
        Some(datagram)
    }

    pub fn stats(&self) -> Stats {
        let Stats { participants, ghosts, .. } = self.stats;
        Stats { rooms: self.rooms.len() as u64, participants: participants + ghosts, ..self.stats }
    }

    /// Datagrams for other servers, and copies of RTP packets for receivers, since the start.
    pub fn packets_sent_on(&self) -> u64 {
        self.stats.rtp_forwarded + self.stats.cascade_out
    }

    /// Sessions of those who are in a room, or of everybody.
    pub fn sessions(&self, room: Option<&str>) -> Vec<String> {
        let clients = self.clients.iter().flatten();
        clients.filter(|c| c.remote.is_none() && room.is_none_or(|r| *c.room == *r)).map(|c| c.ufrag.clone()).collect()
    }

    /// The rooms that have participants, and how many.
    pub fn rooms(&self) -> impl Iterator<Item = (&str, u64)> {
        self.rooms.iter().map(|(name, members)| (&**name, members.len() as u64))
    }

    fn client(&self, key: ClientKey) -> Option<&Client> {
        self.clients.get(key)?.as_deref()
    }

    fn client_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        self.clients.get_mut(key)?.as_deref_mut()
    }

    fn members(&self, room: &str) -> impl Iterator<Item = &Client> {
        self.rooms.get(room).into_iter().flatten().filter_map(|key| self.client(*key))
    }

    /// One change to a transport, and everything that follows from it.
    fn input(&mut self, key: ClientKey, input: Input) {
        let Some(client) = self.client_mut(key) else { return };
        let Some(rtc) = &mut client.rtc else { return };
        if let Err(error) = rtc.handle_input(input) {
            tracing::debug!(name = &*client.name, %error, "transport failed");
            return self.remove(key, Left::Lost);
        }
        self.drain(key);
    }

    fn drain(&mut self, key: ClientKey) {
        loop {
            let Some(client) = self.client_mut(key) else { return };
            let Some(rtc) = &mut client.rtc else { return };
            match rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    client.timeout = at;
                    self.timeout = self.timeout.min(at);
                    return;
                }
                Ok(Output::Transmit(t)) => {
                    self.out.push_back(Datagram { to: t.destination, contents: t.contents.into() })
                }
                Ok(Output::Event(event)) => self.event(key, event),
                Err(error) => {
                    tracing::debug!(name = &*client.name, %error, "transport failed");
                    return self.remove(key, Left::Lost);
                }
            }
        }
    }

    fn event(&mut self, key: ClientKey, event: Event) {
        match event {
            Event::RtpPacket(packet) => self.forward(key, &packet),
            Event::Connected => {
                if let Some(client) = self.client_mut(key) {
                    client.connected = true;
                    self.stats.connected += 1;
                    self.choose_for(key);
                    self.fill_slots(key);
                }
            }
            Event::KeyframeRequest(request) => {
                self.stats.key_frame_requests_in += 1;
                let slots = self.client(key).map(|c| c.slots.as_slice()).unwrap_or_default();
                let shown = slots.iter().find(|s| s.mid() == request.mid).and_then(|s| s.shows);
                if let Some((sender, source)) = shown {
                    self.ask_for_key_frame(sender, source);
                }
            }
            Event::Closed => self.remove(key, Left::Closed),
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.remove(key, Left::Lost),
            _ => {}
        }
    }

    fn remove_silent(&mut self) {
        let silence_max = self.config.silence_max;
        for key in 0..self.clients.len() {
            let Some(client) = self.client(key) else { continue };
            let since = if client.connected { client.seen } else { client.joined };
            if self.now >= since + silence_max {
                self.remove(key, Left::Lost);
            }
        }
    }

    fn remove(&mut self, key: ClientKey, how: Left) {
        let Some(mut client) = self.clients.get_mut(key).and_then(Option::take) else { return };
        match client.remote {
            Some(remote) => {
                self.remotes.remove(&remote);
            }
            None => self.forget_participant(&mut client, key, how),
        }
        self.dirty.retain(|k| *k != key);
        self.held.retain(|(k, _)| *k != key);
        if let Some(members) = self.rooms.get_mut(&client.room) {
            members.retain(|k| *k != key);
            if members.is_empty() {
                self.rooms.remove(&client.room);
            }
        }
        for (sender, source) in client.slots.iter().filter_map(|s| s.shows) {
            if let Some(sender) = self.client_mut(sender) {
                sender.sources[source].subscribers.retain(|(receiver, _)| *receiver != key);
                sender.sources.iter_mut().for_each(|s| s.switching.retain(|(receiver, _)| *receiver != key));
            }
        }
        let freed: Vec<_> = client.sources.iter().flat_map(|s| s.subscribers.iter().copied()).collect();
        for &(receiver, slot) in &freed {
            if let Some(receiver) = self.client_mut(receiver) {
                receiver.slots[slot].clear();
            }
        }
        self.part_from_speaker(key, &client.room);
        for &(receiver, _) in &freed {
            self.fill_slots(receiver);
        }
        self.free.push(key);
        if client.remote.is_none() {
            self.part_from_servers(&client);
        }
    }

    /// What there is of somebody who was on this server, beside the room.
    fn forget_participant(&mut self, client: &mut Client, key: ClientKey, how: Left) {
        self.stats.participants -= 1;
        self.stats.connected -= u64::from(client.connected);
        match how {
            Left::Lost => self.stats.lost += 1,
            _ => {
                self.stats.leaves += 1;
                self.stats.ghosts += u64::from(self.config.sin == Some(Sin::KeepGhosts));
            }
        }
        self.say_goodbye(client);
        for address in &client.addresses {
            if self.by_address.get(address) == Some(&key) {
                self.by_address.remove(address);
            }
        }
        self.by_ufrag.remove(&client.ufrag);
        if let Some(ufrag) = &client.restarted_ufrag {
            self.by_ufrag.remove(ufrag);
        }
        self.ended
            .insert(std::mem::take(&mut client.ufrag), (self.now, if how == Left::Now { Left::Closed } else { how }));
    }

    /// BYE and close_notify, if there is anybody to hear them.
    fn say_goodbye(&mut self, client: &mut Client) {
        let Some(rtc) = &mut client.rtc else { return };
        if rtc.close().is_err() {
            return;
        }
        while let Ok(output) = rtc.poll_output() {
            match output {
                Output::Timeout(_) => return,
                Output::Transmit(t) => self.out.push_back(Datagram { to: t.destination, contents: t.contents.into() }),
                Output::Event(_) => {}
            }
        }
    }
}
