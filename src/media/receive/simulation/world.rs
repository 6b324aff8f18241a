//! Whole streams in virtual time: senders with ledgers, a server that rewrites numbers, a network that loses,
//! duplicates, delays and reorders, and a receiver driven as the module's documentation says.

use super::super::{Handover, Outcome, Owner, Packet, RxStream, Source, Stamp, StampSeen, Timing};
use crate::measure::{FlowCounters, Ledger};
use crate::types::Codec;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

pub const MS: u64 = 1_000_000;
pub const S: u64 = 1000 * MS;
pub const START: u64 = 1_700_000_000 * S;
pub const A: Owner = Owner { sender: 1, stream: 0 };
pub const B: Owner = Owner { sender: 2, stream: 0 };
pub const A_LOW: Owner = Owner { sender: 1, stream: 1 };

/// One media packet as sent.
#[derive(Clone, Debug)]
pub struct Media {
    pub owner: Owner,
    pub at: u64,
    pub count: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub first: bool,
    pub key: bool,
    pub stamped: bool,
    pub payload: &'static [u8],
}

impl Media {
    pub fn stamp(&self) -> StampSeen {
        let Owner { sender, stream } = self.owner;
        let stamp = Stamp { run: 7, sender, stream, frame: 0, packet: self.count, sent_ns: self.at };
        if self.stamped { StampSeen::Own(stamp) } else { StampSeen::None }
    }
}

pub fn payload(codec: Codec, first: bool, key: bool) -> &'static [u8] {
    match (codec, first, key) {
        (Codec::Opus, ..) => &[0xff, 0x41, 0x00],
        (Codec::Vp8, true, true) => &[0x10, 0x00, 0x00],
        (Codec::Vp8, true, false) => &[0x10, 0x01, 0x00],
        (Codec::Vp8, false, _) => &[0x00, 0xff, 0x00],
        (Codec::H264, true, true) => &[0x65, 0x88, 0x00],
        (Codec::H264, true, false) => &[0x41, 0x9a, 0x00],
        (Codec::H264, false, true) => &[0x65, 0x48, 0x00],
        (Codec::H264, false, false) => &[0x41, 0x4a, 0x00],
    }
}

/// What a sender sends from `from` to `until`, with nothing while `muted`.
pub fn send(
    rng: &mut ChaCha8Rng,
    codec: Codec,
    owner: Owner,
    from: u64,
    until: u64,
    muted: &[(u64, u64)],
) -> Vec<Media> {
    let (period, ticks) = if codec == Codec::Opus { (20 * MS, 960) } else { (33 * MS, 2970) };
    let mut sent: Vec<Media> = Vec::new();
    let mut timestamp = u32::MAX - rng.random_range(0..100_000);
    let (mut at, mut frame) = (from + rng.random_range(0..period), 0u32);
    while at < until {
        if !muted.iter().any(|(from, until)| (*from..*until).contains(&at)) {
            let key = codec == Codec::Opus || frame.is_multiple_of(30);
            let packets = match (codec, key) {
                (Codec::Opus, _) => 1,
                (_, true) => rng.random_range(4..20),
                (_, false) => rng.random_range(1..7),
            };
            for part in 0..packets {
                let (first, last) = (part == 0, part + 1 == packets);
                sent.push(Media {
                    owner,
                    at: at + part * MS,
                    count: sent.len() as u64 + 1,
                    timestamp,
                    marker: last,
                    first,
                    key,
                    stamped: if codec == Codec::Vp8 { last } else { first },
                    payload: payload(codec, first, key),
                });
            }
            frame += 1;
        }
        at += period;
        timestamp = timestamp.wrapping_add(ticks);
    }
    sent
}

/// One packet on its way to the receiver.
#[derive(Clone, Debug)]
pub struct Wire {
    pub at: u64,
    pub ssrc: u32,
    pub seq: u16,
    pub rtx: bool,
    /// `None`: padding only.
    pub media: Option<Media>,
    /// Neither lost nor doubled.
    pub sure: bool,
}

/// How the network treats packets.
#[derive(Clone, Debug, Default)]
pub struct Path {
    pub loss: f64,
    /// Mean length of a burst of losses.
    pub burst: f64,
    pub duplicate: f64,
    /// Delay, and how much more a packet may take.
    pub delay: u64,
    pub spread: u64,
    /// Share of lost packets that come again, as RTX or not.
    pub repaired: f64,
}

impl Path {
    pub fn random(rng: &mut ChaCha8Rng) -> Path {
        let spread = if rng.random_ratio(1, 2) { 0 } else { rng.random_range(0..150 * MS) };
        Path {
            loss: if rng.random_ratio(1, 4) { 0.0 } else { rng.random_range(0.0..0.2) },
            burst: rng.random_range(1.0..8.0),
            duplicate: if rng.random_ratio(1, 2) { 0.0 } else { rng.random_range(0.0..0.1) },
            delay: rng.random_range(0..300 * MS),
            spread,
            repaired: if rng.random_ratio(1, 2) { 0.0 } else { rng.random_range(0.0..1.0) },
        }
    }

    pub fn in_order(self) -> Path {
        Path { spread: 0, repaired: 0.0, ..self }
    }

    /// Which packets survive, by Gilbert's two states.
    pub fn losses(&self, rng: &mut ChaCha8Rng, n: usize) -> Vec<bool> {
        let (leave_bad, mut bad) = (1.0 / self.burst.max(1.0), false);
        let enter_bad = self.loss * leave_bad / (1.0 - self.loss);
        (0..n)
            .map(|_| {
                bad = if bad { !rng.random_bool(leave_bad) } else { rng.random_bool(enter_bad.min(1.0)) };
                bad
            })
            .collect()
    }

    /// Takes packets in the order sent and gives them in the order of arrival.
    pub fn carry(&self, rng: &mut ChaCha8Rng, packets: Vec<Wire>) -> Vec<Wire> {
        let lost = self.losses(rng, packets.len());
        let mut out: Vec<(u64, Wire)> = Vec::new();
        for (wire, lost) in packets.into_iter().zip(lost) {
            let delay =
                |rng: &mut ChaCha8Rng| self.delay + if self.spread > 0 { rng.random_range(0..self.spread) } else { 0 };
            let at = wire.at + delay(rng);
            if !lost || wire.sure {
                out.push((at, wire.clone()));
            } else if rng.random_bool(self.repaired) {
                let rtx = rng.random();
                out.push((at + 60 * MS, Wire { rtx, ..wire.clone() }));
            } else {
                continue;
            }
            if !wire.sure && rng.random_bool(self.duplicate) {
                out.push((wire.at + delay(rng) + rng.random_range(0..20 * MS), wire.clone()));
            }
        }
        out.sort_by_key(|(at, _)| *at);
        // Nobody asks for a packet of an SSRC that has not been heard of.
        let mut heard = HashSet::new();
        out.retain(|(_, wire)| !wire.rtx && heard.insert(wire.ssrc) || heard.contains(&wire.ssrc));
        out.into_iter().map(|(at, wire)| Wire { at, ..wire }).collect()
    }
}

/// The receiver's side, driven as the module's documentation says.
pub struct Receiver {
    pub codec: Codec,
    pub timing: Timing,
    pub streams: BTreeMap<u32, RxStream>,
    pub sources: BTreeMap<Owner, Source>,
    pub ledgers: HashMap<Owner, Ledger>,
    pub flow: FlowCounters,
    pub e2e: BTreeMap<Owner, (i64, i64)>,
    pub delays: Vec<u64>,
    pub origin: Instant,
    /// Counters of the first stamps that were taken, in order of arrival, and of all unique packets.
    pub first_stamp: HashMap<Owner, (u64, u64)>,
    pub arrived: HashMap<Owner, HashSet<u64>>,
}

impl Receiver {
    pub fn new(codec: Codec, owners: &[Owner]) -> Receiver {
        let timing = Timing::default();
        Receiver {
            codec,
            timing,
            streams: BTreeMap::new(),
            sources: owners.iter().map(|&owner| (owner, Source::new(owner, codec, START, timing))).collect(),
            ledgers: HashMap::new(),
            flow: FlowCounters::default(),
            e2e: BTreeMap::new(),
            delays: Vec::new(),
            origin: Instant::now(),
            first_stamp: HashMap::new(),
            arrived: HashMap::new(),
        }
    }

    pub fn receive(&mut self, wire: &Wire) -> Outcome {
        let (timestamp, marker, payload, stamp) = match &wire.media {
            Some(m) => (m.timestamp, m.marker, m.payload, m.stamp()),
            None => (0, false, &[][..], StampSeen::None),
        };
        let codec = self.codec;
        let rx = self
            .streams
            .entry(wire.ssrc)
            .or_insert_with(|| RxStream::new(codec.kind(), codec, wire.ssrc, codec.clock_rate()));
        let now = self.origin + Duration::from_nanos(wire.at - START);
        let p = Packet {
            seq: wire.seq,
            timestamp,
            marker,
            payload,
            rtp_bytes: payload.len() + 12,
            recv_ns: wire.at,
            now,
            rtx: wire.rtx,
            stamp,
        };
        let outcome = rx.on_packet(&p);
        if let Some((former, why)) = rx.take_former_owner() {
            let former = self.sources.get_mut(&former).unwrap();
            match why {
                Handover::OtherLayer => former.rebase(wire.at),
                Handover::OtherSender => former.detach(rx),
            }
        }
        if let Some(owner) = rx.owner_of(outcome) {
            let source = self.sources.entry(owner).or_insert_with(|| Source::on_demand(owner, codec, self.timing));
            self.delays.extend(source.on_packet(rx, &p, outcome));
        }
        if let Some(m) = &wire.media {
            self.arrived.entry(m.owner).or_default().insert(m.count);
            if m.stamped {
                self.first_stamp.entry(m.owner).or_insert((m.count, wire.at));
            }
        }
        outcome
    }

    pub fn sent(&mut self, m: &Media) {
        self.ledgers.entry(m.owner).or_default().on_sent(m.at, m.count);
    }

    pub fn tick(&mut self, now: u64) {
        for rx in self.streams.values_mut() {
            self.flow += &rx.take_counters(now);
        }
        for (owner, source) in &mut self.sources {
            source.settle(self.ledgers.entry(*owner).or_default(), now);
        }
        self.take();
    }

    pub fn take(&mut self) {
        for (owner, source) in &mut self.sources {
            let (expected, received) = source.take_counters();
            let sum = self.e2e.entry(*owner).or_default();
            (sum.0, sum.1) = (sum.0 + expected, sum.1 + received);
        }
    }

    pub fn finish(&mut self, now: u64) {
        for (owner, source) in &mut self.sources {
            source.finish(self.ledgers.entry(*owner).or_default(), now);
        }
        for rx in self.streams.values_mut() {
            rx.close(now);
            self.flow += &rx.take_counters(now);
        }
        self.take();
    }

    /// Runs everything, ticking once a second; all that is in flight arrives, then finishes.
    pub fn run(&mut self, sent: &[Media], wires: &[Wire]) {
        self.run_to(sent, wires, u64::MAX);
        let end = sent.iter().map(|m| m.at).chain(wires.iter().map(|w| w.at)).max().unwrap_or(START);
        self.finish(end + S);
    }

    /// The same for one stretch of time, without the end.
    pub fn run_to(&mut self, sent: &[Media], wires: &[Wire], end: u64) {
        let mut tick = START + S;
        let (mut s, mut w) = (sent.iter().peekable(), wires.iter().peekable());
        loop {
            let next_sent = s.peek().map_or(u64::MAX, |m| m.at);
            let next_wire = w.peek().map_or(u64::MAX, |w| w.at);
            let next = next_sent.min(next_wire);
            if next == u64::MAX || next >= end {
                return;
            }
            while tick <= next {
                self.tick(tick);
                tick += S;
            }
            if next_sent <= next_wire {
                self.sent(s.next().unwrap());
            } else {
                self.receive(w.next().unwrap());
            }
        }
    }

    /// (expected, received) if counting began at `base`.
    pub fn truth(&self, owner: Owner, base: u64) -> (i64, i64) {
        let sent = self.ledgers[&owner].latest();
        let arrived = self.arrived.get(&owner).map_or(0, |all| all.iter().filter(|count| **count > base).count());
        ((sent - base) as i64, arrived as i64)
    }
}

/// The server numbers what it forwards. `hides`: what it did not get leaves no gap.
pub struct Server {
    pub ssrc: u32,
    pub seq: u16,
    pub hides: bool,
    pub last_count: u64,
}

impl Server {
    pub fn new(rng: &mut ChaCha8Rng, ssrc: u32) -> Server {
        Server { ssrc, seq: rng.random(), hides: rng.random(), last_count: 0 }
    }

    pub fn forward(&mut self, m: &Media) -> Wire {
        let skipped = if self.hides || self.last_count == 0 { 1 } else { (m.count - self.last_count) as u16 };
        self.seq = self.seq.wrapping_add(skipped);
        self.last_count = m.count;
        Wire { at: m.at, ssrc: self.ssrc, seq: self.seq, rtx: false, media: Some(m.clone()), sure: false }
    }

    pub fn own(&mut self, at: u64, media: Option<Media>) -> Wire {
        self.seq = self.seq.wrapping_add(1);
        Wire { at, ssrc: self.ssrc, seq: self.seq, rtx: false, media, sure: true }
    }
}

pub fn codec_of(seed: u64) -> Codec {
    [Codec::Opus, Codec::Vp8, Codec::H264][seed as usize % 3]
}

/// Upstream loss that the server sees.
pub fn upstream(rng: &mut ChaCha8Rng, sent: &[Media]) -> Vec<Media> {
    let path = Path { loss: rng.random_range(0.0..0.1), burst: 3.0, ..Path::default() };
    let lost = path.losses(rng, sent.len());
    sent.iter().zip(lost).filter(|(_, lost)| !lost).map(|(m, _)| m.clone()).collect()
}
