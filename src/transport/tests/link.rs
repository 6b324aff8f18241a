//! Two peers on a simulated link: virtual time, seeded loss, no sockets. Jumps from one deadline to the next.

use super::{AllowList, Event, LocalParams, MasterKey, RemoteParams, Setup, Shared, Suite, Timing, Transport};
use bytes::BytesMut;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Anything that speaks over one UDP address: our transport, or another stack's.
pub trait Peer {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]);
    fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)>;
    fn poll_timeout(&mut self) -> Option<Instant>;
    fn handle_timeout(&mut self, now: Instant);
}

impl Peer for Transport {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        Transport::on_datagram(self, now, from, datagram);
    }
    fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        Transport::poll_transmit(self)
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        Transport::poll_timeout(self)
    }
    fn handle_timeout(&mut self, now: Instant) {
        Transport::handle_timeout(self, now);
    }
}

/// A peer behind a replay protection as OpenSSL's: it sees no DTLS record twice (RFC 6347 4.1.2.6).
pub struct NoReplays {
    pub peer: Transport,
    seen: HashSet<[u8; 8]>,
}

impl NoReplays {
    pub fn new(peer: Transport) -> NoReplays {
        NoReplays { peer, seen: HashSet::new() }
    }
}

impl Peer for NoReplays {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let (mut rest, mut new) = (datagram, Vec::new());
        while let (true, Some(header)) = (matches!(datagram[0], 20..=63), rest.first_chunk::<13>()) {
            let (record, behind) = rest.split_at(13 + usize::from(u16::from_be_bytes([header[11], header[12]])));
            if self.seen.insert(header[3..11].try_into().unwrap()) {
                new.extend_from_slice(record);
            }
            rest = behind;
        }
        new.extend_from_slice(rest);
        if !new.is_empty() {
            self.peer.on_datagram(now, from, &new);
        }
    }
    fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.peer.poll_transmit()
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.peer.poll_timeout()
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.peer.handle_timeout(now);
    }
}

/// A seeded stream of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n.max(1)
    }
    pub fn chance(&mut self, p: f64) -> bool {
        f64::from(self.next()) < p * f64::from(u32::MAX)
    }
}

pub struct Link<A, B> {
    pub a: A,
    pub b: B,
    pub addresses: [SocketAddr; 2],
    pub now: Instant,
    pub started: Instant,
    /// One way.
    pub delay: Duration,
    /// Share of datagrams lost each way.
    pub loss: f64,
    pub random: Random,
    /// What more the link loses, by side and content.
    pub lose: fn(side: usize, datagram: &[u8]) -> bool,
    /// Datagrams to an address that neither has.
    pub stray: Vec<SocketAddr>,
    pub sent: [u32; 2],
    wire: VecDeque<(Instant, usize, BytesMut)>,
}

impl<A: Peer, B: Peer> Link<A, B> {
    pub fn new(now: Instant, a: A, b: B, addresses: [SocketAddr; 2]) -> Link<A, B> {
        Link {
            a,
            b,
            addresses,
            now,
            started: now,
            delay: Duration::from_millis(1),
            loss: 0.0,
            random: Random(1),
            lose: |_, _| false,
            stray: Vec::new(),
            sent: [0; 2],
            wire: VecDeque::new(),
        }
    }

    pub fn collect(&mut self) {
        while let Some((to, d)) = self.a.poll_transmit() {
            self.send(0, to, d);
        }
        while let Some((to, d)) = self.b.poll_transmit() {
            self.send(1, to, d);
        }
    }

    fn send(&mut self, side: usize, to: SocketAddr, datagram: BytesMut) {
        self.sent[side] += 1;
        if to != self.addresses[1 - side] {
            self.stray.push(to);
        } else if !self.random.chance(self.loss) && !(self.lose)(side, &datagram) {
            self.wire.push_back((self.now + self.delay, 1 - side, datagram));
        }
    }

    /// One jump: to the next arrival or deadline, but not beyond `end`. False when `end` is reached.
    pub fn step(&mut self, end: Instant) -> bool {
        self.collect();
        let arrival = self.wire.front().map(|w| w.0);
        let deadlines = [self.a.poll_timeout(), self.b.poll_timeout()];
        let Some(next) = [arrival, deadlines[0], deadlines[1]].into_iter().flatten().min().filter(|t| *t <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        // A deadline in the past is due now; time still moves, so that nothing can spin.
        self.now = next.max(self.now + Duration::from_micros(10));
        while self.wire.front().is_some_and(|w| w.0 <= self.now) {
            let Some((_, to, d)) = self.wire.pop_front() else { break };
            match to {
                0 => self.a.on_datagram(self.now, self.addresses[1], &d),
                _ => self.b.on_datagram(self.now, self.addresses[0], &d),
            }
        }
        if self.a.poll_timeout().is_some_and(|t| t <= self.now) {
            self.a.handle_timeout(self.now);
        }
        if self.b.poll_timeout().is_some_and(|t| t <= self.now) {
            self.b.handle_timeout(self.now);
        }
        true
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Runs until the condition holds; false when it does not within `time`.
    pub fn run_until(&mut self, time: Duration, mut condition: impl FnMut(&mut A, &mut B) -> bool) -> bool {
        let end = self.now + time;
        loop {
            if condition(&mut self.a, &mut self.b) {
                self.collect();
                return true;
            }
            if !self.step(end) {
                return condition(&mut self.a, &mut self.b);
            }
        }
    }
}

pub fn address(i: u8) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, i], 5000))
}

pub fn allow() -> Arc<AllowList> {
    Arc::new(AllowList::new(vec![([10, 9, 0, 0].into(), 24)]))
}

pub fn remote_of(t: &Transport, setup: Setup) -> RemoteParams {
    let LocalParams { ufrag, pwd, fingerprint, candidates } = t.local_params();
    RemoteParams { ufrag, pwd, fingerprint, setup, lite: false, candidates }
}

pub const GCM: &[Suite] = &[Suite::AeadAes128Gcm];
pub const CM: &[Suite] = &[Suite::Aes128CmSha1_80];

/// Consent after 1 s and 4 s instead of 5 s and 30 s.
pub fn quick() -> Timing {
    Timing { consent_interval: Duration::from_secs(1), consent_timeout: Duration::from_secs(4), ..Timing::default() }
}

pub fn transport(now: Instant, suites: &[Suite], i: u8) -> Transport {
    let shared = Shared::new(suites, quick()).unwrap();
    Transport::new(now, &shared, &allow(), address(i), u64::from(i)).unwrap()
}

pub type Pair = Link<Transport, Transport>;

/// Offerer and answerer, described to each other and started.
pub fn pair(suites: [&[Suite]; 2], b_is_dtls_client: bool) -> Pair {
    let now = Instant::now();
    let mut pair = unstarted(now, transport(now, suites[0], 1), transport(now, suites[1], 2));
    describe(&mut pair, b_is_dtls_client);
    pair
}

pub fn unstarted(now: Instant, a: Transport, b: Transport) -> Pair {
    Link::new(now, a, b, [address(1), address(2)])
}

/// Offer from a, answer from b; also for a restart that a has prepared.
pub fn describe(p: &mut Pair, b_is_dtls_client: bool) {
    let offer = remote_of(&p.a, Setup::Actpass);
    if p.b.is_restart(&offer) {
        p.b.prepare_restart().unwrap();
    }
    let answer = remote_of(&p.b, if b_is_dtls_client { Setup::Active } else { Setup::Passive });
    p.b.start(p.now, &offer, false, b_is_dtls_client).unwrap();
    p.a.start(p.now, &answer, true, !b_is_dtls_client).unwrap();
}

pub fn connected(suites: [&[Suite]; 2], b_is_dtls_client: bool) -> Pair {
    let mut p = pair(suites, b_is_dtls_client);
    assert!(p.run_until(Duration::from_secs(2), |a, b| a.is_connected() && b.is_connected()));
    p
}

/// The same, but neither takes a record twice.
pub fn without_replays(p: Pair) -> Link<NoReplays, NoReplays> {
    Link {
        lose: p.lose,
        loss: p.loss,
        random: p.random,
        ..Link::new(p.now, NoReplays::new(p.a), NoReplays::new(p.b), p.addresses)
    }
}

pub fn events(t: &mut Transport) -> Vec<Event> {
    std::iter::from_fn(|| t.poll_event()).collect()
}

/// The `Connected` event among those that are waiting; the others are dropped.
pub fn keys(t: &mut Transport) -> Option<(Suite, bool, MasterKey, MasterKey)> {
    events(t).into_iter().find_map(|e| match e {
        Event::Connected { suite, dtls_client, ours, theirs, .. } => Some((suite, dtls_client, ours, theirs)),
        _ => None,
    })
}
