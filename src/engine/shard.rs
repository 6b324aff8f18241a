//! One thread with its participants: sockets, clock, batching, timers. Whole rooms live on one shard, so nothing here
//! needs a lock.

mod receiving;
mod relays;
mod second;

use super::health::thread_wait_ns;
use super::impaired::{Access, Downward, Held, Upwards, Whose, since};
use super::realtime_ns;
use super::reference::Reference;
use super::relayed::{News, Relayed, Turn, Unwrapped};
use super::socket::{MediaSocket, Poll, Receiver, Trigger, thread_cpu_ns};
use super::wheel::{TICK, Wheel};
use super::wire::Wire;
use crate::history::{RelayFlow, ShardHealth};
use crate::impair::{Conditions, Counters, Parcel};
use crate::measure::{Flow, FlowCounters, Hist};
use crate::participant::{Common, Event, Meter, Participant, Room, SLOTS_MAX, Sink, Spec, Totals, World};
use crate::plan::Relay;
use crate::prefetch::prefetch;
use crate::signaling::{MediaCommand, MediaError, TransportState};
use crate::types::{LegId, RoomId, ServerId};
use rustc_hash::FxHashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Sockets with media are looked at this often: kernel timestamps make it free of error, and at 1 ms one core carries
/// a quarter fewer participants (docs/performance.md).
const MEDIA_SWEEP: Duration = Duration::from_millis(5);

/// Orders for a shard.
pub enum ToShard {
    Add {
        spec: Box<Spec>,
        /// Its network, up and down; `None`: a perfect one.
        network: Option<Box<[Conditions; 2]>>,
        /// Its way through TURN servers; `None`: none.
        relay: Option<Box<Relay>>,
    },
    /// Where the leg's room is, once known.
    Server {
        leg: LegId,
        server: ServerId,
    },
    /// Stop sending; leave follows.
    Quiet {
        leg: LegId,
    },
    /// Close what is open and forget the leg; answered by [`FromShard::Totals`].
    Remove {
        leg: LegId,
    },
    Stop,
}

/// What a shard tells.
#[derive(Debug)]
pub enum FromShard {
    /// The leg has its first transport.
    Opened {
        leg: LegId,
    },
    State {
        leg: LegId,
        slot: u8,
        state: TransportState,
        at: Instant,
    },
    FirstMedia {
        leg: LegId,
        from: LegId,
        rtp_ms: Option<f64>,
        frame_ms: Option<f64>,
        in_vain_ms: [Option<f64>; 2],
    },
    Note {
        leg: LegId,
        code: &'static str,
        text: String,
    },
    /// It has heard nobody for [`ShardConfig::silent_after`]; since when, in ns of the engine's clock.
    Silent {
        leg: LegId,
        since_ns: u64,
    },
    Totals {
        leg: LegId,
        totals: Box<Totals>,
        /// What its network did, up and down.
        impaired: Option<[Counters; 2]>,
    },
    /// What became of an allocation.
    Relay {
        leg: LegId,
        slot: u8,
        news: Box<News>,
        at: Instant,
    },
    Second(Box<ShardSecond>),
    /// The shard can't go on.
    Fatal(String),
}

/// One second of one shard.
#[derive(Debug)]
pub struct ShardSecond {
    pub shard: usize,
    /// Seconds since the start of the run at its end.
    pub second: u64,
    pub seconds: f64,
    pub health: ShardHealth,
    pub servers: Vec<(ServerId, [Flow; 2])>,
    /// The same, direct and relayed; where anybody is relayed.
    pub paths: Option<Box<[[Flow; 2]; 2]>>,
    pub relays: Vec<RelayFlow>,
    /// Participants with media, by server; and rooms.
    pub present: Vec<(ServerId, u32, u32)>,
    pub rooms: Vec<RoomRow>,
}

/// A room's second.
#[derive(Debug)]
pub struct RoomRow {
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub seconds: f64,
    pub participants: u32,
    pub count: [FlowCounters; 2],
    pub silence_max_ms: i64,
    pub delay_max_us: [u64; 2],
    /// Nobody is in it any more.
    pub last: bool,
}

pub struct ShardConfig {
    pub index: usize,
    pub common: Arc<Common>,
    /// Source addresses of media sockets, used in turn.
    pub sources: Vec<IpAddr>,
    /// SO_RCVBUF of media sockets.
    pub receive_buffer: Option<usize>,
    /// Legs that hear nobody for so long are told of.
    pub silent_after: Duration,
    /// Start of the run.
    pub epoch: Instant,
    /// Of the run: what impaired networks draw from.
    pub seed: u64,
    pub turn: Arc<Turn>,
    pub orders: UnboundedReceiver<ToShard>,
    pub media: UnboundedReceiver<MediaCommand>,
    pub out: UnboundedSender<FromShard>,
}

struct Entry {
    participant: Participant,
    room: RoomId,
    server: Option<ServerId>,
    sockets: Vec<Option<SlotSocket>>,
    access: Option<Box<Access>>,
    relay: Option<Box<Behind>>,
    /// Earliest tick it is scheduled for.
    wake_at: Option<Instant>,
    connected: bool,
    /// The silence that was told of last.
    silent_since: Option<u64>,
}

impl Entry {
    /// Asks for what leads on.
    #[inline]
    fn prefetch(&self) {
        prefetch(&self.sockets, 1);
        prefetch(&self.room, 1);
        prefetch(&self.wake_at, 1);
        self.participant.prefetch();
    }
}

/// What a relayed participant has beside the others.
struct Behind {
    planned: Relay,
    /// Transports (a bit each) that wait for their allocation, and what is wanted of them meanwhile.
    waiting: u8,
    held: Vec<MediaCommand>,
}

/// An allocation on its way back to the server. Its leg may be gone.
struct Releasing {
    leg: LegId,
    slot: u8,
    socket: Wire,
    relay: Box<Relayed>,
}

struct SlotSocket {
    socket: Wire,
    relay: Option<Box<Relayed>>,
    peer: Option<SocketAddr>,
    /// Not connected yet: looked at every tick, so that set-up times are the target's and not ours.
    eager: bool,
    /// It has been told that the peer's host refuses what we send.
    refused: bool,
}

struct RoomState {
    room: Room,
    server: Option<ServerId>,
    participants: u32,
    /// What was counted in this second, and its longest silence.
    count: [FlowCounters; 2],
    silence_max_ms: i64,
}

#[derive(Default)]
struct Io {
    packets_out: u64,
    packets_in: u64,
    send_errors: u64,
    refused: u64,
    dropped: u64,
}

pub struct Shard {
    config: ShardConfig,
    entries: Vec<Option<Box<Entry>>>,
    free: Vec<u32>,
    by_leg: FxHashMap<LegId, u32>,
    rooms: FxHashMap<RoomId, RoomState>,
    /// By server id, of direct and of relayed participants.
    meters: Vec<[Meter; 2]>,
    /// Participants' flows of this second by the server that carries them, whichever others of their room are on.
    flows: FxHashMap<ServerId, [Flow; 2]>,
    /// The same, direct and relayed; where anybody is relayed.
    paths: Option<Box<[[Flow; 2]; 2]>>,
    /// What allocations that are gone have carried in this second.
    relays: Vec<RelayFlow>,
    unknown: Meter,
    releasing: Vec<Releasing>,
    /// Connections with something unsent.
    unsent: Vec<u64>,
    /// One message of a connection, while it is looked at.
    message: Vec<u8>,
    lateness: Hist,
    wheel: Wheel,
    eager: Poll,
    media: Poll,
    /// Sockets that were flooded: there may be more in them.
    unfinished: Vec<u64>,
    receiver: Receiver,
    held: Held,
    io: Io,
    buf: Box<[u8; 2048]>,
    events: Vec<Event>,
    next_source: usize,
    second: u64,
    second_began: Instant,
    cpu_began_ns: u64,
    wait_began_ns: u64,
    next_sweep: Instant,
    /// What had come to any socket by then has been read.
    swept: Instant,
    /// How late the loop came round in this second.
    timer: Hist,
    reference: Reference,
    stop: bool,
}

struct Out<'a> {
    sockets: &'a [Option<SlotSocket>],
    io: &'a mut Io,
    upwards: Option<Upwards<'a>>,
}

impl Sink for Out<'_> {
    fn send(&mut self, slot: u8, to: SocketAddr, datagram: &[u8]) {
        let Some(u) = &mut self.upwards else { return send(self.sockets, self.io, slot, to, datagram) };
        match self.sockets.get(usize::from(slot)) {
            // What is lost on a connection is sent again below us: an impaired network is one of datagrams.
            Some(Some(SlotSocket { relay: Some(r), socket: Wire::Udp(_), .. })) => {
                let server = r.server.address;
                r.offer(to, datagram, |m| {
                    u.offer(slot, server, m, |d| send(self.sockets, self.io, slot, server, d));
                });
            }
            Some(Some(SlotSocket { relay: Some(_), .. })) => send(self.sockets, self.io, slot, to, datagram),
            _ => u.offer(slot, to, datagram, |d| send(self.sockets, self.io, slot, to, d)),
        }
    }
}

fn send(sockets: &[Option<SlotSocket>], io: &mut Io, slot: u8, to: SocketAddr, datagram: &[u8]) {
    let Some(Some(s)) = sockets.get(usize::from(slot)) else { return };
    let to = (s.peer != Some(to)).then_some(to);
    let send = || match (&s.relay, &s.socket, to) {
        (None, Wire::Udp(socket), to) => socket.send(to, datagram),
        // To the TURN server itself, framed already.
        (Some(relay), wire, None) => relay.send_framed(wire, datagram),
        (Some(relay), wire, Some(to)) => relay.send(wire, to, datagram),
        (None, Wire::Stream(_), _) => Ok(()),
    };
    match send() {
        Ok(()) => io.packets_out += 1,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            // The error is of an earlier packet and took this one's place: send it again.
            io.refused += 1;
            if send().is_ok() {
                io.packets_out += 1;
            }
        }
        Err(_) => io.send_errors += 1,
    }
}

impl Shard {
    pub fn new(config: ShardConfig) -> std::io::Result<Shard> {
        let now = Instant::now();
        Ok(Shard {
            entries: Vec::new(),
            free: Vec::new(),
            by_leg: FxHashMap::default(),
            rooms: FxHashMap::default(),
            meters: Vec::new(),
            flows: FxHashMap::default(),
            paths: None,
            relays: Vec::new(),
            unknown: Meter::allocated(),
            releasing: Vec::new(),
            unsent: Vec::new(),
            message: Vec::new(),
            lateness: Hist::allocated(),
            wheel: Wheel::new(now),
            eager: Poll::new(Trigger::Level)?,
            media: Poll::new(Trigger::Edge)?,
            unfinished: Vec::new(),
            receiver: Receiver::new(),
            held: Held::default(),
            io: Io::default(),
            buf: Box::new([0; 2048]),
            events: Vec::new(),
            next_source: 0,
            second: now.saturating_duration_since(config.epoch).as_secs(),
            second_began: now,
            cpu_began_ns: 0,
            wait_began_ns: 0,
            next_sweep: now,
            swept: now,
            timer: Hist::allocated(),
            reference: Reference::open(config.sources[config.index % config.sources.len()], now)?,
            stop: false,
            config,
        })
    }

    /// Runs until [`ToShard::Stop`] or until the conductor is gone.
    pub fn run(mut self) {
        self.cpu_began_ns = thread_cpu_ns();
        self.wait_began_ns = thread_wait_ns();
        let (mut due, mut keys) = (Vec::new(), Vec::new());
        while !self.stop {
            let now = Instant::now();
            self.round(now);
            self.take_orders(now);
            self.wheel.advance(now, &mut due);
            for (i, key) in due.iter().enumerate() {
                self.look_ahead(&due[i..], now);
                self.wake(*key);
            }
            due.clear();
            self.receiver.look_at_clock();
            self.sweep(true, &mut keys);
            if now >= self.next_sweep {
                self.next_sweep = now + MEDIA_SWEEP;
                self.swept = now;
                self.sweep(false, &mut keys);
                self.reference.receive(&mut self.receiver);
            }
            if !self.held.is_empty() {
                self.release();
            }
            if !self.unsent.is_empty() {
                self.flush_streams();
            }
            if !self.releasing.is_empty() {
                self.tend_releasing(now);
            }
            if now >= self.config.epoch + Duration::from_secs(self.second + 1) {
                self.end_second(now);
            }
            // To the next tick's beginning, not a tick's length: phases must not add up to lateness.
            let rest = self.wheel.next_tick().saturating_duration_since(Instant::now());
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
        }
        // Nothing may remain behind at a TURN server; an allocation's release has a time-out of its own.
        while !self.releasing.is_empty() {
            std::thread::sleep(TICK);
            self.tend_releasing(Instant::now());
        }
    }

    /// The loop comes round: how late, for each tick that was due, and the reference flow.
    fn round(&mut self, now: Instant) {
        let due = self.wheel.next_tick();
        let mut late = now.saturating_duration_since(due);
        self.timer.record_us(late.as_micros() as u64);
        // Ticks that were slept over were late too; a stall of more than four seconds is as bad as one of four.
        for _ in 0..4096 {
            let Some(left) = late.checked_sub(TICK) else { break };
            late = left;
            self.timer.record_us(late.as_micros() as u64);
        }
        self.reference.send(now);
    }

    fn take_orders(&mut self, now: Instant) {
        loop {
            match self.config.orders.try_recv() {
                Ok(o) => self.obey(now, o),
                Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
                Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => {
                    self.stop = true;
                    return;
                }
            }
        }
        while let Ok(c) = self.config.media.try_recv() {
            // A leg is added before its driver starts, but through the other queue.
            while let Ok(o) = self.config.orders.try_recv() {
                self.obey(now, o);
            }
            self.on_media_command(now, c);
        }
    }

    fn obey(&mut self, now: Instant, order: ToShard) {
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

    /// Sends and delivers what impaired networks have held back long enough.
    fn release(&mut self) {
        let now_ns = since(self.config.epoch, Instant::now());
        while let Some(p) = self.held.up.pop(Held::leaving_ns(now_ns)) {
            let w = p.tag.whose;
            if let Some(Some(e)) = self.entries.get(w.ix as usize)
                && e.participant.leg() == w.leg
            {
                send(&e.sockets, &mut self.io, w.slot, p.tag.to, &p.data);
            }
            self.held.up.recycle(p);
        }
        // What came before it, and lies in its socket unread, is to be delivered before it: it has its time of arrival, and
        // nobody misses the few ms.
        let read_ns = since(self.config.epoch, self.swept).min(now_ns);
        while let Some(mut p) = self.held.down_eager.pop(now_ns) {
            self.deliver_held(&mut p);
            self.held.down_eager.recycle(p);
        }
        while let Some(mut p) = self.held.down.pop(read_ns) {
            self.deliver_held(&mut p);
            self.held.down.recycle(p);
        }
    }

    fn deliver_held(&mut self, p: &mut Parcel<Downward>) {
        let (w, from, recv_ns) = (p.tag.whose, p.tag.from, p.tag.recv_ns);
        if let Some(Some(e)) = self.entries.get(w.ix as usize)
            && e.participant.leg() == w.leg
        {
            self.deliver(w.ix, w.slot, from, recv_ns, &mut p.data);
        }
    }

    /// A datagram that an impaired network has held back: out of its frame, where it came by a TURN server.
    fn deliver(&mut self, ix: u32, slot: u8, from: SocketAddr, recv_ns: u64, data: &mut [u8]) {
        let Some(Some(e)) = self.entries.get(ix as usize) else { return };
        let now = Instant::now();
        let (from, range) = match e.relay_at(slot).map(|r| r.unwrap(now, data)) {
            None => (from, 0..data.len()),
            Some(Unwrapped::Channel(peer, range)) => (peer, range),
            Some(Unwrapped::Data(peer, mut data)) => {
                self.with(ix, |p, w| p.on_datagram(w, slot, peer, recv_ns, &mut data));
                return;
            }
            Some(Unwrapped::Control) => {
                self.tend_relay(ix, slot, now);
                return self.reschedule(ix);
            }
            Some(Unwrapped::Nothing) => return,
        };
        self.with(ix, |p, w| p.on_datagram(w, slot, from, recv_ns, &mut data[range]));
    }

    fn on_media_command(&mut self, now: Instant, c: MediaCommand) {
        if let Some(c) = self.hold_for_relay(c) {
            self.carry_out(now, c);
        }
    }

    /// With the allocation that it needs, where it needs one.
    fn carry_out(&mut self, now: Instant, c: MediaCommand) {
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

    fn known(&self, leg: LegId) -> Result<u32, MediaError> {
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
    fn source(&mut self) -> IpAddr {
        self.next_source += 1;
        self.config.sources[(self.next_source - 1) % self.config.sources.len()]
    }

    /// Calls into a participant, then does what its events ask and sees to its next wake-up.
    fn with<R>(&mut self, ix: u32, f: impl FnOnce(&mut Participant, &mut World<'_>) -> R) -> Option<R> {
        let e = self.entries.get_mut(ix as usize)?.as_deref_mut()?;
        let room = self.rooms.get_mut(&e.room)?;
        let meter = meter(&mut self.meters, &mut self.unknown, e);
        let whose = Whose { ix, leg: e.participant.leg(), slot: 0 };
        let epoch = self.config.epoch;
        let held = &mut self.held.up;
        let upwards = e.access.as_deref_mut().map(|a| Upwards { link: &mut a.up, held, whose, epoch });
        let mut sink = Out { sockets: &e.sockets, io: &mut self.io, upwards };
        let mut w = World {
            now: Instant::now(),
            now_ns: realtime_ns(),
            clock: realtime_ns,
            room: &mut room.room,
            meter,
            lateness: &mut self.lateness,
            sink: &mut sink,
            buf: &mut self.buf[..],
            events: &mut self.events,
        };
        let r = f(&mut e.participant, &mut w);
        if !self.events.is_empty() {
            self.on_events(ix);
        }
        self.reschedule(ix);
        Some(r)
    }

    fn reschedule(&mut self, ix: u32) {
        let Some(e) = self.entries[ix as usize].as_deref_mut() else { return };
        let mut at = e.participant.poll_timeout();
        if e.relay.is_some() {
            for (slot, s) in e.sockets.iter().enumerate() {
                let Some(s) = s else { continue };
                at = s.relay.as_ref().and_then(|r| r.poll_timeout()).map_or(at, |t| at.min(t));
                let key = key(ix, slot as u8);
                if let Wire::Stream(stream) = &s.socket
                    && stream.borrow().has_unsent()
                    && !self.unsent.contains(&key)
                {
                    self.unsent.push(key);
                }
            }
        }
        if e.wake_at.is_none_or(|t| at < t) {
            e.wake_at = Some(at);
            self.wheel.schedule(ix, at);
        }
    }

    /// Evidence for a reader, once a transport; what it means for the leg is up to consent.
    #[cold]
    fn tell_refused(&mut self, ix: u32, slot: u8) {
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        let leg = e.participant.leg();
        let Some(Some(s)) = e.sockets.get_mut(usize::from(slot)) else { return };
        if let (Some(peer), false) = (s.peer, std::mem::replace(&mut s.refused, true)) {
            let text = format!("nobody listens at {peer} any more: it refuses what a connected participant sends");
            let _ = self.config.out.send(FromShard::Note { leg, code: "media_refused", text });
        }
    }

    /// Those who are woken next: their memory comes while this one's packets are at work, pointer by pointer.
    #[inline]
    fn look_ahead(&self, due: &[u32], now: Instant) {
        let entry = |i: usize| self.entries.get(*due.get(i)? as usize)?.as_deref();
        if let Some(e) = entry(3) {
            e.prefetch();
        }
        if let Some(e) = entry(2) {
            prefetch(&e.sockets[..], 2);
            e.participant.prefetch_tracks();
        }
        if let Some(e) = entry(1) {
            e.participant.prefetch_due(now);
        }
    }

    fn wake(&mut self, ix: u32) {
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        // Several entries in the wheel are possible; only the earliest counts, the others find nothing due.
        e.wake_at = None;
        let now = Instant::now();
        if e.relay.is_some() {
            self.tend_due(ix, now);
        }
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        let due = e.participant.poll_timeout() <= now;
        if due {
            self.with(ix, |p, w| p.handle_timeout(w));
        } else {
            self.reschedule(ix);
        }
    }

    fn on_events(&mut self, ix: u32) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let Some(e) = self.entries[ix as usize].as_deref_mut() else { break };
            let leg = e.participant.leg();
            match event {
                Event::State { slot, state, at } => {
                    if matches!(state, TransportState::Connected { .. }) {
                        e.connected = true;
                        // Connections stay where they are looked at each tick.
                        if let Some(Some(s)) = e.sockets.get_mut(usize::from(slot))
                            && matches!(s.socket, Wire::Udp(_))
                            && std::mem::replace(&mut s.eager, false)
                        {
                            let moved = self.eager.remove(&s.socket).and(self.media.add(&s.socket, key(ix, slot)));
                            if let Err(err) = moved {
                                let _ = self.config.out.send(FromShard::Fatal(format!("epoll: {err}")));
                            }
                        }
                    }
                    let _ = self.config.out.send(FromShard::State { leg, slot, state, at });
                }
                Event::Connect { slot, peer } => {
                    // One with an allocation is connected to its TURN server.
                    if let Some(Some(SlotSocket { relay: None, socket: Wire::Udp(socket), peer: at, .. })) =
                        e.sockets.get_mut(usize::from(slot))
                        && *at != Some(peer)
                    {
                        // Failing to connect only costs speed and the ECONNREFUSED evidence.
                        *at = socket.connect(peer).is_ok().then_some(peer);
                    }
                }
                Event::Disconnect { slot } => {
                    if let Some(Some(SlotSocket { relay: None, socket: Wire::Udp(socket), peer, .. })) =
                        e.sockets.get_mut(usize::from(slot))
                        && socket.disconnect().is_ok()
                    {
                        *peer = None;
                    }
                }
                Event::Closed { slot } => {
                    let s = e.sockets.get_mut(usize::from(slot)).and_then(Option::take);
                    self.let_go(leg, slot, s);
                }
                Event::FirstMedia { from, rtp_ms, frame_ms, in_vain_ms } => {
                    let _ = self.config.out.send(FromShard::FirstMedia { leg, from, rtp_ms, frame_ms, in_vain_ms });
                }
                Event::Note { code, text } => {
                    let _ = self.config.out.send(FromShard::Note { leg, code, text });
                }
            }
        }
        self.events = events;
    }
}

impl Entry {
    fn relay_at(&self, slot: u8) -> Option<&Relayed> {
        self.sockets.get(usize::from(slot))?.as_ref()?.relay.as_deref()
    }

    fn put(&mut self, slot: u8, socket: SlotSocket) {
        while self.sockets.len() <= usize::from(slot) {
            self.sockets.push(None);
        }
        self.sockets[usize::from(slot)] = Some(socket);
    }
}

/// Of the server that carries a participant, by its way there.
fn meter<'a>(meters: &'a mut [[Meter; 2]], unknown: &'a mut Meter, e: &Entry) -> &'a mut Meter {
    let of_server = e.server.and_then(|s| meters.get_mut(s.index()));
    of_server.map_or(unknown, |m| &mut m[usize::from(e.relay.is_some())])
}

fn key(ix: u32, slot: u8) -> u64 {
    u64::from(ix) << 8 | u64::from(slot)
}
