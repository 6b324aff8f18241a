//! Whole participants allocate nothing for a media packet, sent or received, nor for their reports and feedback.
#![expect(unsafe_code, reason = "a global allocator cannot be written without")]
#![expect(clippy::unwrap_used, reason = "a test's set-up stops at the first surprise")]

#[path = "support/counting.rs"]
mod counting;

use counting::ALLOCATIONS;
use roomful::measure::{Flow, FlowCounters, Hist};
use roomful::media::clip::ClipLibrary;
use roomful::participant::{Common, Event, Meter, Participant, Room, Sink, Spec, World};
use roomful::plan::PlannedLeg;
use roomful::signaling::{OfferWant, TransportState};
use roomful::transport::{AllowList, Shared, Timing};
use roomful::types::{Bitrate, Client, Codec, Encoding, LegId, RoomId, Suite};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

thread_local! {
    static CLOCK: Cell<u64> = const { Cell::new(0) };
}

const EPOCH_NS: u64 = 1_800_000_000_000_000_000;
const STEP: Duration = Duration::from_millis(1);

/// Datagrams of one call, in memory taken beforehand.
struct Wire {
    datagrams: Vec<(usize, [u8; 2048])>,
    len: usize,
}

impl Sink for Wire {
    fn send(&mut self, _slot: u8, _to: SocketAddr, datagram: &[u8]) {
        let (len, bytes) = &mut self.datagrams[self.len];
        *len = datagram.len();
        bytes[..datagram.len()].copy_from_slice(datagram);
        self.len += 1;
    }
}

impl Wire {
    fn new() -> Wire {
        Wire { datagrams: vec![(0, [0; 2048]); 64], len: 0 }
    }

    fn is_only_media(&self) -> bool {
        self.datagrams[..self.len].iter().all(|d| is_media(&d.1))
    }
}

fn is_media(datagram: &[u8]) -> bool {
    (128..192).contains(&datagram[0])
}

/// One sends, the other receives; in one room.
struct Pair {
    start: Instant,
    now: Instant,
    participants: [Participant; 2],
    addresses: [SocketAddr; 2],
    room: Room,
    meter: Meter,
    lateness: Hist,
    buf: Vec<u8>,
    events: Vec<Event>,
    connected: [bool; 2],
    /// From each of them.
    wires: [Wire; 2],
    /// Allocations in calls that dealt with media alone, and how many datagrams these sent and received.
    allocations: u64,
    sent: u64,
    received: u64,
}

impl Pair {
    fn new(suite: Suite, client: Client, codec: Codec, adapts: bool) -> Pair {
        CLOCK.set(EPOCH_NS);
        let now = Instant::now();
        let common = Arc::new(Common {
            run: 1,
            transport: Shared::new(&[suite], Timing::default()).unwrap(),
            allow: Arc::new(AllowList::new(vec![("10.0.0.0".parse().unwrap(), 8)])),
            client,
            simulcast: roomful::types::Simulcast::Rid,
        });
        let clips = ClipLibrary::load().unwrap();
        let mut room = Room::new();
        let addresses = [0, 1].map(|n| SocketAddr::from(([10, 0, 0, n + 1], 5000)));
        let participants = [0, 1].map(|n| {
            let encoding = |codec, kbit: u64| (n == 0).then_some(Encoding { codec, bitrate: Bitrate(kbit * 1000) });
            let leg = PlannedLeg {
                id: LegId(n),
                seat: 0,
                room: RoomId(0),
                name: format!("p{n}"),
                join_at: Duration::ZERO,
                leave_at: Duration::from_secs(3600),
                audio: encoding(Codec::Opus, 32),
                video: encoding(codec, 500),
                network: None,
            };
            let below = leg.video.filter(|_| adapts).map(|e| Encoding { bitrate: Bitrate(150_000), ..e });
            let steps = below.map(|e| clips.clip(e).unwrap()).into_iter().collect();
            let clips = [leg.audio, leg.video].map(|e| e.map(|e| clips.clip(e).unwrap()));
            let spec = Spec {
                leg,
                clips,
                lower_layers: Vec::new(),
                steps,
                seed: 3,
                planned_ns: EPOCH_NS,
                network_delay_max: Duration::ZERO,
                talk: Default::default(),
            };
            let mut p = Participant::new(now, spec, &common);
            room.join(LegId(n), EPOCH_NS, p.sends());
            p.open(now, 0, addresses[n as usize]).unwrap();
            p
        });
        Pair {
            start: now,
            now,
            participants,
            addresses,
            room,
            meter: Meter::allocated(),
            lateness: Hist::allocated(),
            buf: vec![0; 2048],
            events: Vec::with_capacity(64),
            connected: [false; 2],
            wires: [Wire::new(), Wire::new()],
            allocations: 0,
            sent: 0,
            received: 0,
        }
    }

    fn with<R>(&mut self, n: usize, f: impl FnOnce(&mut Participant, &mut World<'_>) -> R) -> R {
        let now_ns = EPOCH_NS + self.now.duration_since(self.start).as_nanos() as u64;
        CLOCK.set(now_ns);
        let mut w = World {
            now: self.now,
            now_ns,
            clock: || CLOCK.get(),
            room: &mut self.room,
            meter: &mut self.meter,
            lateness: &mut self.lateness,
            sink: &mut self.wires[n],
            buf: &mut self.buf,
            events: &mut self.events,
        };
        let r = f(&mut self.participants[n], &mut w);
        for event in self.events.drain(..) {
            if let Event::State { state, .. } = event {
                self.connected[n] |= matches!(state, TransportState::Connected { .. });
            }
        }
        r
    }

    fn negotiate(&mut self) {
        let want = OfferWant { send: true, receive_audio: 1, receive_video: 1, ..OfferWant::default() };
        let offer = self.with(0, |p, w| p.offer(w, 0, want)).unwrap();
        let answer = self.with(1, |p, w| p.accept_offer(w, 0, &offer)).unwrap();
        self.with(0, |p, w| p.accept_answer(w, 0, &answer)).unwrap();
    }

    fn run(&mut self, length: Duration) {
        let until = self.now + length;
        while self.now < until {
            self.now += STEP;
            for n in 0..2 {
                if self.participants[n].poll_timeout() > self.now {
                    continue;
                }
                let (from, before) = (self.wires[n].len, ALLOCATIONS.get());
                self.with(n, |p, w| p.handle_timeout(w));
                let allocations = ALLOCATIONS.get() - before;
                // Consent checks are rare, and may allocate.
                if self.wires[n].is_only_media() {
                    self.sent += (self.wires[n].len - from) as u64;
                    self.allocations += allocations;
                }
            }
            self.deliver();
        }
    }

    /// A step later, what was sent arrives; answers take the next step.
    fn deliver(&mut self) {
        for n in 0..2 {
            let mut wire = std::mem::replace(&mut self.wires[n], Wire { datagrams: Vec::new(), len: 0 });
            let (from, recv_ns) = (self.addresses[n], CLOCK.get());
            for (len, bytes) in &mut wire.datagrams[..wire.len] {
                let data = &mut bytes[..*len];
                let (media, before) = (is_media(data), ALLOCATIONS.get());
                self.with(1 - n, |p, w| p.on_datagram(w, 0, from, recv_ns, data));
                if media {
                    self.received += 1;
                    self.allocations += ALLOCATIONS.get() - before;
                }
            }
            wire.len = 0;
            let answers = std::mem::replace(&mut self.wires[n], wire);
            assert_eq!(answers.len, 0, "nobody answers himself");
        }
    }

    fn sample(&mut self, n: usize) -> [FlowCounters; 2] {
        let mut flows = <[Flow; 2]>::default();
        self.with(n, |p, w| p.sample(w, &mut flows))
    }
}

#[test]
fn participants_allocate_nothing_per_media_packet() {
    for (suite, client, codec, adapts) in [
        (Suite::AeadAes128Gcm, Client::Light, Codec::Vp8, false),
        (Suite::Aes128CmSha1_80, Client::Chrome, Codec::Vp8, false),
        (Suite::AeadAes128Gcm, Client::Chrome, Codec::H264, false),
        (Suite::AeadAes128Gcm, Client::Chrome, Codec::Vp8, true),
        (Suite::AeadAes128Gcm, Client::Light, Codec::Vp8, true),
    ] {
        let name = format!("{suite:?} {client:?} {codec:?} adapts: {adapts}");
        let mut pair = Pair::new(suite, client, codec, adapts);
        pair.negotiate();
        // Buffers find their size, and every source is met.
        for _ in 0..5 {
            pair.run(Duration::from_secs(1));
            (0..2).for_each(|n| {
                pair.sample(n);
            });
        }
        assert_eq!(pair.connected, [true; 2], "{name}");
        (pair.allocations, pair.sent, pair.received) = (0, 0, 0);
        let mut flowed = [FlowCounters::default(); 2];
        for _ in 0..10 {
            pair.run(Duration::from_secs(1));
            let sent = pair.sample(0);
            let delta = pair.sample(1);
            (0..2).for_each(|k| flowed[k] += &delta[k]);
            flowed[1].adaptive_ms += sent[1].adaptive_ms;
        }
        assert!(flowed[0].e2e_received > 450 && flowed[1].frames > 280, "{name}: {flowed:?}");
        assert!(pair.sent > 1000 && pair.received > 1000, "{name}: {} {}", pair.sent, pair.received);
        assert_eq!(flowed[1].adaptive_ms > 9_000, adapts, "{name}: {flowed:?}");
        assert_eq!(pair.allocations, 0, "{name}: in {} packets sent and {} received", pair.sent, pair.received);
    }
}

#[test]
fn an_impaired_link_allocates_nothing_per_datagram() {
    use roomful::impair::{Conditions, Delayed, Fate, Link, preset, seed};
    let wifi = preset("bad-wifi").unwrap().up;
    let conditions = Conditions { duplicate: 0.05, corrupt: 0.05, rate: preset("dsl").unwrap().up.rate, ..wifi };
    let mut link = Link::new(conditions, seed(1, 2, 3));
    let mut held: Delayed<u32> = Delayed::default();
    // Buffers, heap and pool find their size: more than are ever under way below.
    for i in 0..1000 {
        held.push(i, 0, &[0; 1200]);
    }
    while let Some(p) = held.pop(1000) {
        held.recycle(p);
    }
    let (mut left, before) = (0, ALLOCATIONS.get());
    for i in 1..30_000u64 {
        let now = i * 5_000_000;
        while let Some(p) = held.pop(now) {
            left += 1;
            held.recycle(p);
        }
        let datagram = [0x80; 700];
        if let Fate::Passed(p) = link.offer(now, &datagram[..100 + (i % 600) as usize]) {
            for _ in 0..=usize::from(p.twice) {
                p.corrupt(held.push(p.due_ns, i as u32, &datagram));
            }
        }
    }
    assert!(left > 5_000, "{left}");
    assert_eq!(ALLOCATIONS.get() - before, 0, "in {left} datagrams");
}
