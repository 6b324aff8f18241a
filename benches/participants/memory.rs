//! The participants' own work without sockets and kernel: what is left when only our code is counted. Virtual time, so
//! that a busy machine changes the cost and not the traffic.

use super::{Bench, forwarder};
use forwarder::{How, Join, Peers, ROOM, Wire};
use roomful::measure::{Flow, FlowCounters, Hist};
use roomful::participant::{Batch, DATAGRAM_MAX, Event, Meter, Participant, Received, Room, Sink, World};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

thread_local! {
    static CLOCK: Cell<u64> = const { Cell::new(0) };
}

const EPOCH_NS: u64 = 1_800_000_000_000_000_000;
/// Packets are read as often as a shard reads them.
const STEP: Duration = Duration::from_millis(5);

/// Datagrams of one direction between two steps, in memory that is kept.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Queue {
    fn put(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let begin = self.ends.last().copied().unwrap_or(0);
        if self.bytes.len() < begin + DATAGRAM_MAX {
            self.bytes.resize(begin + DATAGRAM_MAX, 0);
        }
        if let Some(n) = write(&mut self.bytes[begin..]) {
            self.ends.push(begin + n);
        }
    }

    fn clear(&mut self) {
        self.ends.clear();
    }

    fn get(&self, i: usize) -> &[u8] {
        &self.bytes[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]]
    }
}

impl Sink for Queue {
    fn send(&mut self, _slot: u8, _to: SocketAddr, datagram: &[u8]) {
        self.put(|buf| {
            buf[..datagram.len()].copy_from_slice(datagram);
            Some(datagram.len())
        });
    }
}

/// What the forwarder sends, by participant.
struct Down(Vec<Queue>);

impl Wire for Down {
    fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        self.0[usize::from(to.port()) - 1].put(write);
    }
}

struct Memory {
    start: Instant,
    now: Instant,
    participants: Vec<Participant>,
    rooms: Vec<Room>,
    meter: Meter,
    lateness: Hist,
    buf: Vec<u8>,
    events: Vec<Event>,
    up: Vec<Queue>,
    peers: Peers<Down>,
    sfu: SocketAddr,
    spent: [Duration; 3],
    packets: [u64; 2],
}

impl Memory {
    fn with<R>(&mut self, n: usize, f: impl FnOnce(&mut Participant, &mut World<'_>) -> R) -> R {
        let now_ns = EPOCH_NS + self.now.duration_since(self.start).as_nanos() as u64;
        CLOCK.set(now_ns);
        let mut w = World {
            now: self.now,
            now_ns,
            clock: || CLOCK.get(),
            room: &mut self.rooms[n / ROOM],
            meter: &mut self.meter,
            lateness: &mut self.lateness,
            sink: &mut self.up[n],
            buf: &mut self.buf,
            events: &mut self.events,
        };
        let r = f(&mut self.participants[n], &mut w);
        self.events.clear();
        r
    }

    fn step(&mut self) {
        self.now += STEP;
        for n in 0..self.participants.len() {
            // As a shard does it.
            let next = |i: usize| self.participants.get(n + i);
            next(3).inspect(|p| p.prefetch());
            next(2).inspect(|p| p.prefetch_tracks());
            next(1).inspect(|p| p.prefetch_due(self.now));
            if self.participants[n].poll_timeout() <= self.now {
                let before = Instant::now();
                self.with(n, |p, w| p.handle_timeout(w));
                self.spent[0] += before.elapsed();
                self.packets[0] += self.up[n].ends.len() as u64;
            }
        }
        let mut buffer = [0; DATAGRAM_MAX];
        for n in 0..self.participants.len() {
            let from = SocketAddr::from(([127, 0, 0, 1], n as u16 + 1));
            for i in 0..self.up[n].ends.len() {
                let d = self.up[n].get(i);
                let len = d.len();
                buffer[..len].copy_from_slice(d);
                self.peers.on_datagram(self.now, from, &mut buffer[..len]);
            }
            self.up[n].clear();
        }
        self.peers.handle_timeouts(self.now);
        let mut buffers = vec![[0; DATAGRAM_MAX]; 64];
        let recv_ns = CLOCK.get();
        let mut received = vec![Received { from: Some(self.sfu), recv_ns, len: 0 }; 64];
        for n in 0..self.participants.len() {
            let down = std::mem::take(&mut self.peers.batch.0[n]);
            let count = down.ends.len().min(buffers.len());
            for (i, b) in buffers[..count].iter_mut().enumerate() {
                let d = down.get(i);
                b[..d.len()].copy_from_slice(d);
                received[i].len = d.len() as u16;
            }
            // As a shard does it.
            let next = |i: usize| self.participants.get(n + i);
            next(3).inspect(|p| p.prefetch());
            next(2).inspect(|p| p.prefetch_slot(0));
            next(1).inspect(|p| p.prefetch_keys(0));
            let batch = Batch { received: &received[..count], buffers: &mut buffers[..count] };
            self.participants[n].prefetch_streams(0, &batch);
            let batch = Batch { received: &received[..count], buffers: &mut buffers[..count] };
            let before = Instant::now();
            self.with(n, |p, w| {
                p.on_batch(w, 0, None, batch);
                std::hint::black_box(p.poll_timeout());
            });
            self.spent[1] += before.elapsed();
            self.packets[1] += count as u64;
            self.peers.batch.0[n] = down;
            self.peers.batch.0[n].clear();
        }
    }

    fn sample(&mut self) -> FlowCounters {
        let mut sum = FlowCounters::default();
        let before = Instant::now();
        for n in 0..self.participants.len() {
            let mut flows = <[Flow; 2]>::default();
            let delta = self.with(n, |p, w| p.sample(w, &mut flows));
            delta.iter().for_each(|d| sum += d);
        }
        self.spent[2] += before.elapsed();
        sum
    }
}

/// `n` participants for `seconds` of media.
pub fn run(bench: &Bench, n: usize, seconds: usize) {
    let now = Instant::now();
    CLOCK.set(EPOCH_NS);
    let sfu = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut m = Memory {
        start: now,
        now,
        participants: Vec::new(),
        rooms: (0..n / ROOM).map(|_| Room::new()).collect(),
        meter: Meter::allocated(),
        lateness: Hist::allocated(),
        buf: vec![0; DATAGRAM_MAX],
        events: Vec::new(),
        up: (0..n).map(|_| Queue::default()).collect(),
        peers: Peers::new(Down((0..n).map(|_| Queue::default()).collect())),
        sfu,
        spent: [Duration::ZERO; 3],
        packets: [0; 2],
    };
    for i in 0..n {
        let mut p = Participant::new(now, bench.spec(i, true, EPOCH_NS), &bench.common);
        m.rooms[i / ROOM].join(p.leg(), EPOCH_NS, p.sends());
        p.open(now, 0, SocketAddr::from(([127, 0, 0, 1], i as u16 + 1))).unwrap();
        m.participants.push(p);
        let offer = m.with(i, |p, w| p.offer(w, 0, super::want(true))).unwrap();
        let (answer, transport, offer) = bench.answer(i, &offer, sfu);
        let ssrcs = [0, 1].map(|k| offer.media[k].ssrcs[0]);
        m.peers.join(
            now,
            Join { participant: i, ssrcs, how: How::Offered { transport: Box::new(transport), remote: offer.remote } },
        );
        m.with(i, |p, w| p.accept_answer(w, 0, &answer)).unwrap();
    }
    let steps = (1000 / STEP.as_millis()) as usize;
    for s in 0..super::WARM_UP_SECONDS + seconds {
        if s == super::WARM_UP_SECONDS {
            (m.spent, m.packets) = Default::default();
        }
        (0..steps).for_each(|_| m.step());
        let count = m.sample();
        if s + 1 == super::WARM_UP_SECONDS + seconds {
            assert_eq!((count.e2e_expected - count.e2e_received).abs(), 0, "nothing is lost in memory");
            println!("{n} participants in memory: {} packets received in the last second", count.received);
        }
    }
    let each = |i: usize, packets: u64| m.spent[i].as_nanos() as f64 / packets as f64;
    println!(
        "  {:.0} ns a packet sent, {:.0} ns a packet received, {:.1} µs a participant and second to sample",
        each(0, m.packets[0]),
        each(1, m.packets[1]),
        m.spent[2].as_nanos() as f64 / 1000.0 / (n * seconds) as f64
    );
}
