//! A client against a server that keeps to RFC 8656's times, in virtual time.

use super::message::{self, Heard};
use super::*;
use rtc_ice::crypto::RTCCryptoProvider as _;
use rtc_ice::crypto::providers::RingProvider;
use rtc_stun::attributes::*;
use rtc_stun::error_code::{ErrorCode, ErrorCodeAttribute};
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::*;
use rtc_stun::textattrs::TextAttribute;
use rtc_stun::xoraddr::XorMappedAddress;
use rtc_turn::proto::channum::ChannelNumber;
use rtc_turn::proto::data::Data;
use rtc_turn::proto::lifetime::Lifetime;
use rtc_turn::proto::peeraddr::PeerAddress;
use rtc_turn::proto::relayaddr::RelayedAddress;
use std::collections::BTreeMap;
use std::time::Instant;

const REALM: &str = "test.local";

/// One 5-tuple's view of a TURN server. Its clock is the test's.
struct Fake {
    password: String,
    allocated_until: Option<Instant>,
    lifetime_max: Duration,
    permissions: BTreeMap<SocketAddr, Instant>,
    channels: BTreeMap<u16, (SocketAddr, Instant)>,
    nonce: u32,
    /// A nonce lasts so long.
    nonce_lasts: Duration,
    nonce_since: Instant,
    /// What it answers to requests of a method instead of doing them, so often.
    refuse: Vec<(Method, u16, u32)>,
    alternate: Option<SocketAddr>,
    requests: Vec<Method>,
    /// What peers got, and how: true by channel.
    relayed: Vec<(SocketAddr, Vec<u8>, bool)>,
    /// Datagrams without permission.
    dropped: u32,
    mute: bool,
}

fn relayed() -> SocketAddr {
    "10.0.0.9:50000".parse().unwrap()
}

fn peer(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], n))
}

fn login() -> Login {
    Login { username: "alice".into(), password: "secret".into() }
}

impl Fake {
    fn new(now: Instant) -> Fake {
        Fake {
            password: "secret".into(),
            allocated_until: None,
            lifetime_max: Duration::from_mins(10),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            nonce: 0,
            nonce_lasts: Duration::from_mins(10),
            nonce_since: now,
            refuse: vec![],
            alternate: None,
            requests: vec![],
            relayed: vec![],
            dropped: 0,
            mute: false,
        }
    }

    fn nonce(&mut self, now: Instant) -> String {
        if now.saturating_duration_since(self.nonce_since) >= self.nonce_lasts {
            self.nonce += 1;
            self.nonce_since = now;
        }
        format!("nonce-{}", self.nonce)
    }

    fn permits(&self, now: Instant, to: SocketAddr) -> bool {
        self.permissions.iter().any(|(p, until)| p.ip() == to.ip() && *until > now)
    }

    /// Its answer to one message.
    fn hear(&mut self, now: Instant, bytes: &[u8]) -> Option<Vec<u8>> {
        if let Some((channel, length)) = frame::channel_data(bytes) {
            let data = bytes[frame::HEADER..frame::HEADER + length].to_vec();
            match self.channels.get(&channel) {
                Some((to, until)) if *until > now && self.permits(now, *to) => self.relayed.push((*to, data, true)),
                _ => self.dropped += 1,
            }
            return None;
        }
        let mut m = Message::new();
        m.unmarshal_binary(bytes).unwrap();
        let mut peers = PeerAddress::default();
        let to = peers.get_from(&m).is_ok().then(|| SocketAddr::new(peers.ip, peers.port));
        if m.typ.class == CLASS_INDICATION {
            let mut data = Data::default();
            data.get_from(&m).unwrap();
            match to.filter(|to| self.permits(now, *to)) {
                Some(to) => self.relayed.push((to, data.0, false)),
                None => self.dropped += 1,
            }
            return None;
        }
        self.requests.push(m.typ.method);
        if self.mute {
            return None;
        }
        let nonce = self.nonce(now);
        let provider = RingProvider::new();
        let key = MessageIntegrity::long_term_integrity_key(
            "alice".into(),
            REALM.into(),
            self.password.clone(),
            provider.crypto(),
        )
        .unwrap();
        let challenge = |code: u16| -> Vec<Box<dyn Setter>> {
            vec![
                error(code),
                Box::new(TextAttribute::new(ATTR_REALM, REALM.into())),
                Box::new(TextAttribute::new(ATTR_NONCE, nonce.clone())),
            ]
        };
        let method = m.typ.method;
        let (class, attributes) = if !m.contains(ATTR_MESSAGE_INTEGRITY)
            || MessageIntegrity::check(&mut m.clone(), &key, provider.crypto()).is_err()
        {
            (CLASS_ERROR_RESPONSE, challenge(401))
        } else if m.get(ATTR_NONCE).unwrap() != nonce.as_bytes() {
            (CLASS_ERROR_RESPONSE, challenge(438))
        } else if let Some(r) = self.refuse.iter_mut().find(|r| r.0 == method && r.2 > 0) {
            r.2 -= 1;
            let mut a = if r.1 == 438 { challenge(438) } else { vec![error(r.1)] };
            if let Some(to) = self.alternate {
                a.push(Box::new(Alternate(to)));
            }
            (CLASS_ERROR_RESPONSE, a)
        } else {
            self.obey(now, &m, to)
        };
        let mut setters: Vec<Box<dyn Setter + '_>> =
            vec![Box::new(m.transaction_id), Box::new(MessageType::new(method, class))];
        for a in attributes {
            setters.push(a);
        }
        if class == CLASS_SUCCESS_RESPONSE {
            setters.push(Box::new(MessageIntegrity::new_raw_integrity_with_provider(key, provider.crypto())));
        }
        let mut answer = Message::new();
        answer.build(&setters).unwrap();
        Some(answer.raw)
    }

    fn obey(&mut self, now: Instant, m: &Message, to: Option<SocketAddr>) -> (MessageClass, Vec<Box<dyn Setter>>) {
        let mut lifetime = Lifetime::default();
        let wanted = lifetime.get_from(m).is_ok().then_some(lifetime.0);
        let granted = wanted.filter(|w| !w.is_zero()).unwrap_or(self.lifetime_max).min(self.lifetime_max);
        if m.typ.method != METHOD_ALLOCATE && self.allocated_until.is_none_or(|until| until <= now) {
            return (CLASS_ERROR_RESPONSE, vec![error(437)]);
        }
        let ok = |a: Vec<Box<dyn Setter>>| (CLASS_SUCCESS_RESPONSE, a);
        match m.typ.method {
            METHOD_ALLOCATE => {
                self.allocated_until = Some(now + granted);
                ok(vec![
                    Box::new(RelayedAddress { ip: relayed().ip(), port: relayed().port() }),
                    Box::new(XorMappedAddress { ip: peer(1).ip(), port: 1 }),
                    Box::new(Lifetime(granted)),
                ])
            }
            METHOD_REFRESH if wanted == Some(Duration::ZERO) => {
                self.allocated_until = None;
                ok(vec![Box::new(Lifetime(Duration::ZERO))])
            }
            METHOD_REFRESH => {
                self.allocated_until = Some(now + granted);
                ok(vec![Box::new(Lifetime(granted))])
            }
            METHOD_CREATE_PERMISSION => {
                self.permissions.insert(to.unwrap(), now + Duration::from_mins(5));
                ok(vec![])
            }
            METHOD_CHANNEL_BIND => {
                let mut channel = ChannelNumber::default();
                channel.get_from(m).unwrap();
                self.permissions.insert(to.unwrap(), now + Duration::from_mins(5));
                self.channels.insert(channel.0, (to.unwrap(), now + Duration::from_mins(10)));
                ok(vec![])
            }
            other => panic!("{other:?}"),
        }
    }
}

struct Alternate(SocketAddr);

impl Setter for Alternate {
    fn add_to(&self, m: &mut Message) -> rtc_shared::error::Result<()> {
        rtc_stun::addr::MappedAddress { ip: self.0.ip(), port: self.0.port() }.add_to_as(m, ATTR_ALTERNATE_SERVER)
    }
}

fn error(code: u16) -> Box<dyn Setter> {
    Box::new(ErrorCodeAttribute { code: ErrorCode(code), reason: b"no".to_vec() })
}

/// Client and server with a way between them.
struct Pair {
    now: Instant,
    client: Allocation,
    server: Fake,
    events: Vec<Event>,
    /// Messages from the client that the network loses, by their number.
    lose: fn(u32) -> bool,
    sent: u32,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(|_| {})
    }

    fn with(prepare: impl FnOnce(&mut Fake)) -> Pair {
        let now = Instant::now();
        let mut server = Fake::new(now);
        prepare(&mut server);
        let client = Allocation::new(now, login(), Duration::from_mins(10), false, None, 7);
        Pair { now, client, server, events: vec![], lose: |_| false, sent: 0 }
    }

    /// Everything that is under way now.
    fn settle(&mut self) {
        while let Some(m) = self.client.poll_transmit() {
            self.sent += 1;
            if (self.lose)(self.sent) {
                continue;
            }
            if let Some(answer) = self.server.hear(self.now, &m) {
                assert_eq!(self.client.on_message(self.now, &answer), None);
            }
        }
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
    }

    /// Until then, from deadline to deadline.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        let mut rounds = 0;
        while let Some(t) = self.client.poll_timeout().filter(|t| *t <= end) {
            rounds += 1;
            assert!(rounds < 10_000, "a deadline that does not move");
            self.now = t.max(self.now);
            self.client.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn media(&mut self, to: SocketAddr, data: &[u8]) {
        match self.client.channel_to(to) {
            Some(channel) => {
                let mut m = frame::header(channel, data.len()).to_vec();
                m.extend_from_slice(data);
                self.server.hear(self.now, &m);
            }
            None => self.client.send(self.now, to, data),
        }
        self.settle();
    }
}

fn refusal(code: u16) -> Refusal {
    Refusal { code, reason: "no".into() }
}

#[test]
fn an_allocation_is_made_and_given_back() {
    let mut p = Pair::new();
    p.settle();
    let [Event::Allocated { relayed: at, mapped: Some(_), .. }] = p.events[..] else { panic!("{:?}", p.events) };
    assert_eq!(at, relayed());
    assert_eq!(p.server.requests, [METHOD_ALLOCATE, METHOD_ALLOCATE]);
    p.client.release(p.now);
    p.settle();
    assert_eq!(p.events[1..], [Event::Released]);
    assert_eq!((p.server.allocated_until, p.client.poll_timeout()), (None, None));
}

#[test]
fn the_first_datagrams_wait_for_the_permission_and_the_rest_take_the_channel() {
    let mut p = Pair::new();
    p.settle();
    p.client.send(p.now, peer(5), b"one");
    p.client.send(p.now, peer(5), b"two");
    p.settle();
    p.media(peer(5), b"three");
    p.media(peer(6), b"four");
    let got: Vec<_> = p.server.relayed.iter().map(|(to, d, c)| (*to, &d[..], *c)).collect();
    let want =
        [(peer(5), &b"one"[..], false), (peer(5), b"two", false), (peer(5), b"three", true), (peer(6), b"four", false)];
    assert_eq!(got, want);
    assert_eq!(p.server.dropped, 0);
    let channel = p.client.channel_to(peer(6)).unwrap();
    assert_eq!((channel, p.client.peer_of(channel)), (0x4001, Some(peer(6))));
    for unknown in [0, 0x3fff, 0x4002, u16::MAX] {
        assert_eq!(p.client.peer_of(unknown), None);
    }
}

/// Allocation (10 min), permissions (5 min), channels (10 min) and nonces (10 min) all run out many times in six hours.
#[test]
fn an_allocation_lives_for_hours() {
    for (lifetime, nonce) in [(600, 600), (600, 37), (30, 3600)] {
        let mut p = Pair::with(|s| {
            s.lifetime_max = Duration::from_secs(lifetime);
            s.nonce_lasts = Duration::from_secs(nonce);
        });
        p.settle();
        for second in 0..6 * 3600 / 10 {
            p.run(Duration::from_secs(10));
            let before = p.server.relayed.len();
            p.media(peer(5), b"x");
            assert_eq!(p.server.relayed.len(), before + 1, "lifetime {lifetime} s, after {second}0 s");
        }
        assert_eq!((p.server.dropped, p.events.len()), (0, 1), "{:?}", p.events);
        let refreshes = p.server.requests.iter().filter(|m| **m == METHOD_REFRESH).count() as u64;
        assert!(refreshes >= 6 * 3600 / lifetime && refreshes < 3 * 6 * 3600 / lifetime, "{refreshes}");
    }
}

/// No lifetime asked for leaves it to the server; a Refresh of none would be a release.
#[test]
fn an_allocation_of_the_servers_own_lifetime_lives_on() {
    let mut p = Pair::new();
    p.client = Allocation::new(p.now, login(), Duration::ZERO, false, None, 7);
    for _ in 0..30 {
        p.run(Duration::from_mins(2));
        p.media(peer(5), b"x");
    }
    assert_eq!((p.server.relayed.len(), p.server.dropped), (30, 0));
    assert!(matches!(p.events[..], [Event::Allocated { .. }]), "{:?}", p.events);
    assert!(p.server.requests.iter().filter(|m| **m == METHOD_REFRESH).count() >= 5);
}

#[test]
fn lost_requests_are_sent_again() {
    let mut p = Pair::new();
    p.lose = |n| n % 2 == 1;
    p.run(Duration::from_secs(10));
    assert!(
        matches!(p.events[..], [Event::Allocated { after, .. }] if after == Duration::from_secs(1)),
        "{:?}",
        p.events
    );
    p.media(peer(5), b"held");
    p.run(Duration::from_secs(5));
    p.lose = |_| false;
    p.media(peer(5), b"x");
    assert_eq!(p.server.relayed.last(), Some(&(peer(5), b"x".to_vec(), true)));
}

#[test]
fn a_server_that_is_silent_is_unreachable_and_one_that_falls_silent_loses_the_allocation() {
    let mut p = Pair::with(|s| s.mute = true);
    p.run(Duration::from_mins(1));
    assert_eq!(p.events, [Event::Unreachable]);
    // RFC 8489 6.2.1.
    assert_eq!(p.server.requests.len(), 7);

    let mut p = Pair::with(|s| s.mute = true);
    p.client = Allocation::new(p.now, login(), Duration::ZERO, false, Some(Duration::from_secs(3)), 7);
    let began = p.now;
    p.run(Duration::from_secs(3));
    assert_eq!((&p.events[..], p.now - began), (&[Event::Unreachable][..], Duration::from_secs(3)));

    let mut p = Pair::new();
    p.settle();
    p.server.mute = true;
    p.run(Duration::from_mins(11));
    assert_eq!(p.events[1..], [Event::Lost(None)]);
}

#[test]
fn what_the_server_answers_is_told() {
    for code in [403, 437, 442, 486, 508] {
        let mut p = Pair::with(|s| s.refuse = vec![(METHOD_ALLOCATE, code, 1)]);
        p.settle();
        assert_eq!(p.events, [Event::Refused(refusal(code))]);
        assert!(p.client.is_over() && p.client.poll_timeout().is_none());
    }
    let mut p = Pair::with(|s| s.password = "another".into());
    p.settle();
    assert_eq!(p.events, [Event::Refused(refusal(401))]);
    assert_eq!(p.server.requests.len(), 2);

    let mut p = Pair::with(|s| (s.refuse, s.alternate) = (vec![(METHOD_ALLOCATE, 300, 1)], Some(peer(3478))));
    p.settle();
    assert_eq!(p.events, [Event::Alternate(peer(3478))]);

    // A server that has a new nonce for everything is no server.
    let mut p = Pair::with(|s| s.refuse = vec![(METHOD_ALLOCATE, 438, 100)]);
    p.settle();
    assert_eq!(p.events, [Event::Refused(refusal(438))]);

    let mut p = Pair::with(|s| s.refuse = vec![(METHOD_CREATE_PERMISSION, 403, 1), (METHOD_CHANNEL_BIND, 403, 1)]);
    p.settle();
    p.media(peer(5), b"x");
    p.media(peer(5), b"x");
    assert_eq!(p.events[1..], [Event::PeerRefused(peer(5), refusal(403))]);
    assert!(p.server.relayed.is_empty() && p.client.is_ready());
}

#[test]
fn a_refresh_that_fails_is_tried_again_until_the_end() {
    let mut p = Pair::with(|s| s.refuse = vec![(METHOD_REFRESH, 500, 2)]);
    p.run(Duration::from_mins(30));
    assert_eq!(p.events.len(), 1, "{:?}", p.events);
    let mut p = Pair::with(|s| s.refuse = vec![(METHOD_REFRESH, 500, 1000)]);
    p.run(Duration::from_mins(30));
    assert_eq!(p.events[1..], [Event::Lost(Some(refusal(500)))]);
    // Restarted meanwhile: it knows nothing of us.
    let mut p = Pair::new();
    p.run(Duration::from_secs(1));
    p.server.allocated_until = None;
    p.run(Duration::from_mins(10));
    assert_eq!(p.events[1..], [Event::Lost(Some(refusal(437)))]);
}

#[test]
fn a_stale_nonce_does_not_keep_an_allocation_from_being_released() {
    let mut p = Pair::with(|s| s.nonce_lasts = Duration::from_secs(1));
    p.run(Duration::from_secs(30));
    p.client.release(p.now);
    p.run(Duration::from_secs(5));
    assert_eq!((p.server.allocated_until, p.events.last()), (None, Some(&Event::Released)));
    // Nobody answers: it is over all the same.
    let mut p = Pair::new();
    p.settle();
    p.server.mute = true;
    p.client.release(p.now);
    p.run(Duration::from_secs(5));
    assert_eq!(p.events[1..], [Event::Lost(None)]);
}

#[test]
fn an_allocation_that_is_not_wanted_any_more_is_given_back_when_it_comes() {
    let mut p = Pair::new();
    p.client.release(p.now);
    p.settle();
    assert!(matches!(p.events[..], [Event::Allocated { .. }, Event::Released]), "{:?}", p.events);
    assert_eq!((p.server.allocated_until, p.client.poll_timeout()), (None, None));
    let mut p = Pair::with(|s| s.mute = true);
    p.client.release(p.now);
    p.run(Duration::from_mins(1));
    assert_eq!(p.events, [Event::Unreachable]);
}

#[test]
fn data_indications_of_strangers_are_not_taken() {
    let mut p = Pair::new();
    p.settle();
    let from = |n: u16| {
        let mut m = Message::new();
        let a = PeerAddress { ip: peer(n).ip(), port: n };
        m.build(&[
            Box::new(TransactionId::new()),
            Box::new(MessageType::new(METHOD_DATA, CLASS_INDICATION)),
            Box::new(a),
            Box::new(Data(b"hi".to_vec())),
        ])
        .unwrap();
        m.raw
    };
    assert_eq!(p.client.on_message(p.now, &from(5)), None);
    p.media(peer(5), b"x");
    assert_eq!(p.client.on_message(p.now, &from(5)), Some((peer(5), b"hi".to_vec())));
}

#[test]
fn forged_answers_change_nothing() {
    let mut p = Pair::new();
    p.settle();
    p.client.release(p.now);
    let request = p.client.poll_transmit().unwrap();
    let mut forged = Message::new();
    let mut id = TransactionId::default();
    id.0.copy_from_slice(&request[8..20]);
    forged
        .build(&[
            Box::new(id),
            Box::new(MessageType::new(METHOD_REFRESH, CLASS_SUCCESS_RESPONSE)),
            Box::new(Lifetime(Duration::ZERO)),
        ])
        .unwrap();
    p.client.on_message(p.now, &forged.raw);
    assert_eq!(p.client.poll_event(), None);
}

/// Truncated, bent and random messages in every state: nothing panics, and deadlines go on.
#[test]
fn bent_messages_are_survived() {
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(11);
    for round in 0..3000u32 {
        let mut p = Pair::new();
        if round % 3 > 0 {
            p.settle();
        }
        if round % 3 > 1 {
            p.client.send(p.now, peer(5), b"x");
        }
        while let Some(m) = p.client.poll_transmit() {
            let Some(mut answer) = p.server.hear(p.now, &m) else { continue };
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..answer.len());
                match rng.random_range(0..3) {
                    0 => answer[at] ^= 1 << rng.random_range(0..8),
                    1 => answer[at] = rng.random(),
                    _ => answer.truncate(at.max(1)),
                }
            }
            p.client.on_message(p.now, &answer);
            let _ = message::read(&answer).map(|h| matches!(h, Heard::Data(..)));
            if rng.random_bool(0.2) {
                break;
            }
        }
        p.run(Duration::from_mins(2));
    }
}

#[test]
fn time_limited_credentials_are_those_of_the_draft() {
    let account = Account::Secret { user: "load".into(), secret: "north".into() };
    let login = account.login(1_000_000_000, false);
    assert_eq!(login.username, "1000086400:load");
    // printf 1000086400:load | openssl dgst -sha1 -hmac north -binary | base64
    assert_eq!(login.password, "sriLirlYOmpzPDItQk+Gsi2P3Xc=");
    assert_ne!(account.login(1_000_000_000, true).password, login.password);
    assert_eq!(format!("{account:?} {login:?}"), "*** ***");
}
