//! One thread with its participants: sockets, clock, batching, timers. Whole rooms live on one shard, so nothing here
//! needs a lock.

mod late;
mod messages;
mod orders;
mod receiving;
mod relays;
mod second;

pub use messages::{FromShard, RoomRow, ShardSecond, ToShard};

use super::health::thread_wait_ns;
use super::impaired::{Access, Held, Upwards, Whose};
use super::realtime_ns;
use super::reference::Reference;
use super::relayed::{Relayed, Turn};
use super::socket::{Poll, Receiver, Trigger, thread_cpu_ns};
use super::wheel::{TICK, Wheel};
use super::wire::Wire;
use crate::history::RelayFlow;
use crate::measure::{Flow, FlowCounters, Hist};
use crate::participant::{Common, Event, Meter, Participant, Room, Sink, World};
use crate::plan::Relay;
use crate::prefetch::prefetch;
use crate::signaling::{MediaCommand, TransportState};
use crate::types::{LegId, RoomId, ServerId};
use rustc_hash::FxHashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Sockets with media are looked at this often: kernel timestamps make it free of error, and at 1 ms one core carries
/// a quarter fewer participants (docs/performance.md).
const MEDIA_SWEEP: Duration = Duration::from_millis(5);

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
