//! The relay in virtual time: a client that does what RFC 8656 says, and some that do not.

use super::auth::Auth;
use super::relay::{Admission, Client, Io, Over, Relay, RelayConfig};
use super::wire::{self, NoFrame};
use base64::Engine as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use turn_types::attribute::{
    ChannelNumber, Data, EvenPort, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, DATA, REFRESH, SEND};
use turn_types::stun::attribute::{
    AlternateServer, ErrorCode, Nonce, RawAttribute, Realm, UnknownAttributes, Username,
};
use turn_types::stun::message::{
    BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageWriteVec, Method,
};
use turn_types::stun::prelude::*;

const UNIX_S: u64 = 1_800_000_000;
const USER: (&str, &str) = ("alice", "wonderland");

#[derive(Default)]
struct Wires {
    open: Vec<u32>,
    even: bool,
    full: bool,
    to_client: Vec<(Client, Vec<u8>)>,
    to_peer: Vec<(u32, SocketAddr, Vec<u8>)>,
}

impl Io for Wires {
    fn open(&mut self, id: u32, even: bool) -> std::io::Result<SocketAddr> {
        self.even = even;
        if self.full {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        self.open.push(id);
        Ok(SocketAddr::new([10, 0, 0, 1].into(), 20_000 + id as u16))
    }

    fn close(&mut self, id: u32) {
        self.open.retain(|open| *open != id);
    }

    fn to_client(&mut self, client: Client, message: &[u8]) {
        self.to_client.push((client, message.to_vec()));
    }

    fn to_peer(&mut self, id: u32, peer: SocketAddr, data: &[u8]) {
        self.to_peer.push((id, peer, data.to_vec()));
    }
}

struct Bench {
    relay: Relay,
    wires: Wires,
    now: Instant,
}

fn bench(change: impl FnOnce(&mut RelayConfig)) -> Bench {
    let now = Instant::now();
    let auth = Auth::new("realm", [7; 32], now, UNIX_S).with_user(USER.0, USER.1).with_user("bob", "builder");
    let mut config = RelayConfig {
        auth: auth.with_secret("shared"),
        relay: [10, 0, 0, 1].into(),
        user_quota: None,
        total_quota: None,
        lifetime: Duration::from_secs(600),
        lifetime_max: Duration::from_secs(3600),
    };
    change(&mut config);
    Bench { relay: Relay::new(config, now), wires: Wires::default(), now }
}

fn client(port: u16) -> Client {
    Client { over: Over::Udp, addr: SocketAddr::new([10, 0, 0, 9].into(), port) }
}

fn peer(n: u8) -> SocketAddr {
    SocketAddr::new([10, 0, 1, n].into(), 4000)
}

type Add<'a> = &'a dyn Fn(&mut MessageWriteVec);

fn nothing(_: &mut MessageWriteVec) {}

fn udp(m: &mut MessageWriteVec) {
    m.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).unwrap();
}

fn peer_attribute(m: &mut MessageWriteVec, peer: SocketAddr) {
    let tid = m.transaction_id();
    m.add_attribute(&XorPeerAddress::new(peer, tid)).unwrap();
}

/// A client's signed request.
fn signed(method: Method, user: (&str, &str), nonce: &str, add: Add<'_>) -> Vec<u8> {
    let mut m = Message::builder_request(method, MessageWriteVec::new());
    add(&mut m);
    m.add_attribute(&Username::new(user.0).unwrap()).unwrap();
    m.add_attribute(&Realm::new("realm").unwrap()).unwrap();
    m.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
    let key =
        LongTermKeyCredentials::new(user.0.into(), user.1.into(), "realm".into()).make_key(IntegrityAlgorithm::Sha1);
    m.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1).unwrap();
    m.finish()
}

fn code(answer: &[u8]) -> u16 {
    let m = Message::from_bytes(answer).unwrap();
    match m.class() {
        MessageClass::Success => 0,
        _ => m.attribute::<ErrorCode>().unwrap().code(),
    }
}

impl Bench {
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.relay.handle_timeout(self.now, &mut self.wires);
    }

    fn send(&mut self, from: Client, bytes: &[u8]) {
        self.relay.on_client(self.now, from, bytes, &mut self.wires);
    }

    fn ask(&mut self, from: Client, bytes: &[u8]) -> Vec<u8> {
        self.wires.to_client.clear();
        self.send(from, bytes);
        let (to, answer) = self.wires.to_client.pop().unwrap();
        assert_eq!(to, from);
        answer
    }

    fn nonce(&mut self, from: Client) -> String {
        let mut m = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        udp(&mut m);
        let answer = self.ask(from, &m.finish());
        assert_eq!(code(&answer), 401);
        let m = Message::from_bytes(&answer).unwrap();
        assert_eq!(m.attribute::<Realm>().unwrap().realm(), "realm");
        m.attribute::<Nonce>().unwrap().nonce().to_owned()
    }

    /// Code of the answer to a signed request, 0 for success.
    fn try_as(&mut self, user: (&str, &str), from: Client, method: Method, add: Add<'_>) -> u16 {
        let nonce = self.nonce(from);
        code(&self.ask(from, &signed(method, user, &nonce, add)))
    }

    fn try_it(&mut self, from: Client, method: Method, add: Add<'_>) -> u16 {
        self.try_as(USER, from, method, add)
    }

    fn allocate(&mut self, port: u16) -> Client {
        assert_eq!(self.try_it(client(port), ALLOCATE, &udp), 0);
        client(port)
    }

    fn bind(&mut self, from: Client, number: u16, to: SocketAddr) -> u16 {
        self.try_it(from, CHANNEL_BIND, &|m| {
            m.add_attribute(&ChannelNumber::new(number)).unwrap();
            peer_attribute(m, to);
        })
    }

    fn on_peer(&mut self, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        self.wires.to_client.clear();
        self.relay.on_peer(self.now, 0, from, data, &mut self.wires);
        self.wires.to_client.pop().map(|(_, message)| message)
    }
}

#[test]
fn media_goes_both_ways_by_indication_and_by_channel() {
    let mut b = bench(|_| {});
    let a = b.allocate(1);
    assert_eq!(b.on_peer(peer(1), b"too early"), None);
    assert_eq!(b.try_it(a, CREATE_PERMISSION, &|m| peer_attribute(m, peer(1))), 0);
    let mut m = Message::builder_indication(SEND, MessageWriteVec::new());
    peer_attribute(&mut m, peer(1));
    m.add_attribute(&Data::new(b"out")).unwrap();
    b.send(a, &m.finish());
    assert_eq!(b.wires.to_peer.pop(), Some((0, peer(1), b"out".to_vec())));
    let answer = b.on_peer(peer(1), b"in").unwrap();
    let m = Message::from_bytes(&answer).unwrap();
    assert_eq!((m.class(), m.method()), (MessageClass::Indication, DATA));
    assert_eq!(m.attribute::<XorPeerAddress>().unwrap().addr(m.transaction_id()), peer(1));
    assert_eq!(m.attribute::<Data<'_>>().unwrap().data(), b"in");

    assert_eq!(b.bind(a, 0x4001, peer(2)), 0);
    b.send(a, b"\x40\x01\x00\x03out+padding");
    assert_eq!(b.wires.to_peer.pop(), Some((0, peer(2), b"out".to_vec())));
    assert_eq!(b.on_peer(peer(2), b"in").unwrap(), b"\x40\x01\x00\x02in");
    assert_eq!(b.on_peer(peer(3), b"stranger"), None);
    let c = b.relay.counts();
    assert_eq!((c.packets_to_peers, c.bytes_to_peers, c.packets_to_clients, c.dropped), (2, 6, 2, 2));
}

#[test]
fn credentials_are_checked() {
    let mut b = bench(|_| {});
    assert_eq!(b.try_as(("alice", "guess"), client(1), ALLOCATE, &udp), 401);
    assert_eq!(b.try_as(("mallory", "x"), client(1), ALLOCATE, &udp), 401);
    let made_up = signed(ALLOCATE, USER, "0-00", &udp);
    assert_eq!(code(&b.ask(client(1), &made_up)), 438);
    let nonce = b.nonce(client(1));
    assert_eq!(code(&b.ask(client(2), &signed(ALLOCATE, USER, &nonce, &udp))), 438, "somebody else's nonce");
    b.now += Duration::from_secs(601);
    assert_eq!(code(&b.ask(client(1), &signed(ALLOCATE, USER, &nonce, &udp))), 438, "an old nonce");
    b.allocate(1);
    assert_eq!(b.try_as(("bob", "builder"), client(1), REFRESH, &nothing), 441);
    assert_eq!(b.relay.counts().allocations, 1);
}

#[test]
fn time_limited_credentials_expire() {
    let password = |name: &str| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"shared");
        base64::engine::general_purpose::STANDARD.encode(ring::hmac::sign(&key, name.as_bytes()))
    };
    let mut b = bench(|_| {});
    let name = format!("{}:alice", UNIX_S + 100);
    let good = password(&name);
    assert_eq!(b.try_as((&name, &good), client(1), ALLOCATE, &udp), 0);
    assert_eq!(b.try_as((&name, "other"), client(2), ALLOCATE, &udp), 401);
    b.now += Duration::from_secs(101);
    assert_eq!(b.try_as((&name, &good), client(2), ALLOCATE, &udp), 401);
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_another_one_a_mismatch() {
    let mut b = bench(|_| {});
    let nonce = b.nonce(client(1));
    let request = signed(ALLOCATE, USER, &nonce, &udp);
    let first = b.ask(client(1), &request);
    assert_eq!((code(&first), b.ask(client(1), &request)), (0, first));
    assert_eq!(b.try_it(client(1), ALLOCATE, &udp), 437);
    assert_eq!(b.try_it(client(2), REFRESH, &nothing), 437);
    assert_eq!((b.relay.counts().allocated, b.wires.open.len()), (1, 1));
}

#[test]
fn quotas_ports_and_cordons_refuse() {
    let mut b = bench(|c| (c.user_quota, c.total_quota) = (Some(2), Some(3)));
    b.allocate(1);
    b.allocate(2);
    assert_eq!(b.try_it(client(3), ALLOCATE, &udp), 486);
    assert_eq!(b.try_as(("bob", "builder"), client(3), ALLOCATE, &udp), 0);
    assert_eq!(b.try_as(("bob", "builder"), client(4), ALLOCATE, &udp), 486);
    assert_eq!(b.try_it(client(1), REFRESH, &|m| m.add_attribute(&Lifetime::new(0)).unwrap()), 0);
    b.wires.full = true;
    assert_eq!(b.try_it(client(1), ALLOCATE, &udp), 508);
    b.wires.full = false;
    let other = SocketAddr::new([10, 0, 0, 2].into(), 3478);
    b.relay.admit(Admission::Redirect(other));
    let nonce = b.nonce(client(1));
    let answer = b.ask(client(1), &signed(ALLOCATE, USER, &nonce, &udp));
    assert_eq!(code(&answer), 300);
    assert_eq!(Message::from_bytes(&answer).unwrap().attribute::<AlternateServer>().unwrap().server(), other);
    b.relay.admit(Admission::Closed);
    assert_eq!(b.try_it(client(1), ALLOCATE, &udp), 403);
    assert_eq!(b.try_it(client(2), REFRESH, &nothing), 0, "who is here stays");
    b.relay.admit(Admission::Open);
    b.allocate(1);
    let errors = &b.relay.counts().errors;
    assert_eq!((errors[&486], errors[&508], errors[&300], errors[&403]), (2, 1, 1, 1));
}

#[test]
fn what_is_not_renewed_ends() {
    let mut b = bench(|c| (c.lifetime, c.lifetime_max) = (Duration::from_secs(700), Duration::from_secs(700)));
    let a = b.allocate(1);
    assert_eq!(b.bind(a, 0x4000, peer(1)), 0);
    let data = b"\x40\x00\x00\x01x";
    let passes = |b: &mut Bench| {
        b.send(a, data);
        b.wires.to_peer.pop().is_some()
    };
    b.pass(Duration::from_secs(299));
    assert!(passes(&mut b));
    b.pass(Duration::from_secs(2));
    assert!(!passes(&mut b), "permission");
    assert_eq!(b.try_it(a, CREATE_PERMISSION, &|m| peer_attribute(m, peer(1))), 0);
    assert!(passes(&mut b));
    b.pass(Duration::from_secs(299));
    assert!(!passes(&mut b), "channel");
    assert_eq!(b.bind(a, 0x4000, peer(2)), 0, "an expired number may have another peer");
    b.pass(Duration::from_secs(99));
    assert_eq!((b.relay.counts().allocations, b.wires.open.len()), (1, 1));
    b.pass(Duration::from_secs(2));
    assert_eq!((b.relay.counts().allocations, b.relay.counts().expired, b.wires.open.len()), (0, 1, 0));
    assert_eq!(b.try_it(a, REFRESH, &nothing), 437);
}

#[test]
fn lifetimes_are_what_is_asked_for_within_bounds() {
    let given = |lifetime_s: u64, max_s: u64, asked: Option<u32>| {
        let mut b =
            bench(|c| (c.lifetime, c.lifetime_max) = (Duration::from_secs(lifetime_s), Duration::from_secs(max_s)));
        let nonce = b.nonce(client(1));
        let request = signed(ALLOCATE, USER, &nonce, &|m| {
            udp(m);
            if let Some(s) = asked {
                m.add_attribute(&Lifetime::new(s)).unwrap();
            }
        });
        let answer = b.ask(client(1), &request);
        Message::from_bytes(&answer).unwrap().attribute::<Lifetime>().unwrap().seconds()
    };
    assert_eq!(given(600, 3600, None), 600);
    assert_eq!(given(600, 3600, Some(1800)), 1800);
    assert_eq!(given(600, 3600, Some(100_000)), 3600);
    assert_eq!(given(600, 3600, Some(5)), 600);
    assert_eq!(given(600, 4, Some(600)), 4);
}

#[test]
fn bad_requests_are_refused_by_what_is_wrong() {
    let mut b = bench(|_| {});
    assert_eq!(b.try_it(client(1), ALLOCATE, &nothing), 400);
    let tcp = |m: &mut MessageWriteVec| m.add_attribute(&RequestedTransport::new(RequestedTransport::TCP)).unwrap();
    assert_eq!(b.try_it(client(1), ALLOCATE, &tcp), 442);
    for (reserve, expected) in [(true, 508), (false, 0)] {
        let add = |m: &mut MessageWriteVec| {
            udp(m);
            m.add_attribute(&EvenPort::new(reserve)).unwrap();
        };
        assert_eq!(b.try_it(client(7), ALLOCATE, &add), expected);
    }
    assert!(b.wires.even);
    let nonce = b.nonce(client(1));
    let odd = RawAttribute::new(0x7abc.into(), &[1, 2, 3, 4]);
    let answer = b.ask(
        client(1),
        &signed(ALLOCATE, USER, &nonce, &|m| {
            udp(m);
            m.add_attribute(&odd).unwrap();
        }),
    );
    assert_eq!(code(&answer), 420);
    let m = Message::from_bytes(&answer).unwrap();
    assert!(m.attribute::<UnknownAttributes>().unwrap().has_attribute(0x7abc.into()));
    let a = b.allocate(1);
    for (number, to, expected) in [
        (0x3fff, peer(1), 400),
        (0x8000, peer(1), 400),
        (0x4000, peer(1), 0),
        (0x4000, peer(2), 400),
        (0x4001, peer(1), 400),
        (0x4001, "[::1]:7".parse().unwrap(), 443),
        (0x4001, "224.0.0.1:7".parse().unwrap(), 403),
        (0x4001, peer(2), 0),
    ] {
        assert_eq!(b.bind(a, number, to), expected, "{number:#x} {to}");
    }
    assert_eq!(b.try_it(a, CREATE_PERMISSION, &nothing), 400);
    let mut binding = Message::builder_request(BINDING, MessageWriteVec::new());
    binding.add_fingerprint().unwrap();
    assert_eq!(code(&b.ask(client(2), &binding.finish())), 0);
}

#[test]
fn streams_are_cut_into_messages() {
    assert_eq!(wire::framed(b"\x40\x00\x00"), Ok(None));
    assert_eq!(wire::framed(b"\x40\x00\x00\x05hello"), Ok(None), "padding is to come");
    assert_eq!(wire::framed(b"\x40\x00\x00\x05hello\0\0\0\x40"), Ok(Some(12)));
    assert_eq!(wire::framed(&[0; 20]), Ok(Some(20)));
    assert_eq!(wire::framed(&[0x80, 0, 0, 0]), Err(NoFrame));
    let mut out = Vec::new();
    wire::channel_data(&mut out, 0x4000, b"hello", true);
    assert_eq!(out, b"\x40\x00\x00\x05hello\0\0\0");
    let mut b = bench(|_| {});
    let tcp = Client { over: Over::Tcp, ..client(1) };
    assert_eq!(b.try_it(tcp, ALLOCATE, &udp), 0);
    assert_eq!(b.bind(tcp, 0x4000, peer(1)), 0);
    assert_eq!(b.on_peer(peer(1), b"hello").unwrap(), b"\x40\x00\x00\x05hello\0\0\0");
    let Bench { relay, wires, .. } = &mut b;
    relay.on_disconnect(tcp, wires);
    assert_eq!((b.relay.counts().allocations, b.wires.open.len()), (0, 0));
}

proptest::proptest! {
    #[test]
    fn nothing_a_client_or_a_peer_sends_panics(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        flip in 0usize..400,
    ) {
        let mut b = bench(|_| {});
        let a = b.allocate(1);
        b.bind(a, 0x4000, peer(1));
        let nonce = b.nonce(a);
        b.send(a, &bytes);
        b.on_peer(peer(1), &bytes);
        let mut request = signed(CREATE_PERMISSION, USER, &nonce, &|m| peer_attribute(m, peer(2)));
        let at = flip % (request.len() * 8);
        request[at / 8] ^= 1 << (at % 8);
        b.send(a, &request);
        let cut = flip.min(request.len());
        b.send(a, &request[..cut]);
    }
}

#[test]
fn relayed_addresses_are_told() {
    let mut b = bench(|_| {});
    let nonce = b.nonce(client(1));
    let answer = b.ask(client(1), &signed(ALLOCATE, USER, &nonce, &udp));
    let m = Message::from_bytes(&answer).unwrap();
    let relayed = m.attribute::<XorRelayedAddress>().unwrap().addr(m.transaction_id());
    assert_eq!(relayed, SocketAddr::new([10, 0, 0, 1].into(), 20_000));
}
