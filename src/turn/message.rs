//! STUN messages of TURN (RFC 8489, RFC 8656): written and read with `rtc-stun` and `rtc-turn`.

use super::{Login, Refusal};
use rtc_ice::crypto::providers::RingProvider;
use rtc_ice::crypto::{RTCCrypto, RTCCryptoProvider as _};
use rtc_stun::addr::MappedAddress;
use rtc_stun::attributes::{ATTR_ALTERNATE_SERVER, ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use rtc_stun::error_code::ErrorCodeAttribute;
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, METHOD_ALLOCATE,
    METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_DATA, METHOD_REFRESH, METHOD_SEND, Message, MessageType,
    Method, Setter, TransactionId,
};
use rtc_stun::xoraddr::XorMappedAddress;
use rtc_turn::proto::PROTO_UDP;
use rtc_turn::proto::channum::ChannelNumber;
use rtc_turn::proto::data::Data;
use rtc_turn::proto::lifetime::Lifetime;
use rtc_turn::proto::peeraddr::PeerAddress;
use rtc_turn::proto::relayaddr::RelayedAddress;
use rtc_turn::proto::reqtrans::RequestedTransport;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

pub(super) type Id = [u8; 12];

static PROVIDER: LazyLock<RingProvider> = LazyLock::new(RingProvider::new);

fn crypto() -> &'static dyn RTCCrypto {
    PROVIDER.crypto()
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Allocate {
        lifetime: Duration,
    },
    /// A lifetime of 0 releases the allocation.
    Refresh {
        lifetime: Duration,
    },
    Permit {
        peers: Vec<SocketAddr>,
    },
    Bind {
        peer: SocketAddr,
        channel: u16,
    },
}

impl Request {
    pub fn method(&self) -> Method {
        match self {
            Request::Allocate { .. } => METHOD_ALLOCATE,
            Request::Refresh { .. } => METHOD_REFRESH,
            Request::Permit { .. } => METHOD_CREATE_PERMISSION,
            Request::Bind { .. } => METHOD_CHANNEL_BIND,
        }
    }
}

/// What the server made known with its first 401, and what follows from it and the login.
#[derive(Clone, Default)]
pub(super) struct Session {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    /// Of MESSAGE-INTEGRITY.
    key: Vec<u8>,
}

impl Session {
    /// From a 401 or 438; `None` without realm (and none known so far) or nonce.
    pub fn follow(&self, m: &Answer, login: &Login) -> Option<Session> {
        let nonce = m.nonce.clone()?;
        let Some(realm) = m.realm.clone().filter(|r| *r != self.realm) else {
            return (!self.key.is_empty()).then(|| Session { nonce, ..self.clone() });
        };
        let text = String::from_utf8(realm.clone()).ok()?;
        let key =
            MessageIntegrity::long_term_integrity_key(login.username.clone(), text, login.password.clone(), crypto())
                .ok()?;
        Some(Session { realm, nonce, key })
    }
}

/// A whole request. Without a session it goes unsigned, to learn realm and nonce.
pub(super) fn request(id: Id, request: &Request, login: &Login, session: Option<&Session>) -> Vec<u8> {
    let peer = |peer: SocketAddr| PeerAddress { ip: peer.ip(), port: peer.port() };
    let mut m = begin(id, MessageType::new(request.method(), CLASS_REQUEST));
    match request {
        Request::Allocate { lifetime } => {
            add(&mut m, &RequestedTransport { protocol: PROTO_UDP });
            add(&mut m, &Lifetime(*lifetime));
        }
        Request::Refresh { lifetime } => add(&mut m, &Lifetime(*lifetime)),
        Request::Permit { peers } => peers.iter().for_each(|p| add(&mut m, &peer(*p))),
        Request::Bind { peer: p, channel } => {
            add(&mut m, &ChannelNumber(*channel));
            add(&mut m, &peer(*p));
        }
    }
    if let Some(s) = session {
        m.add(ATTR_USERNAME, login.username.as_bytes());
        m.add(ATTR_REALM, &s.realm);
        m.add(ATTR_NONCE, &s.nonce);
        add(&mut m, &MessageIntegrity::new_raw_integrity_with_provider(s.key.clone(), crypto()));
    }
    add(&mut m, &FINGERPRINT);
    m.raw
}

/// A Send indication (RFC 8656 11.1).
pub(super) fn send_indication(id: Id, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut m = begin(id, MessageType::new(METHOD_SEND, CLASS_INDICATION));
    add(&mut m, &PeerAddress { ip: peer.ip(), port: peer.port() });
    add(&mut m, &Data(data.to_vec()));
    m.raw
}

fn begin(id: Id, kind: MessageType) -> Message {
    let mut m = Message::new();
    m.transaction_id = TransactionId(id);
    m.set_type(kind);
    m.write_header();
    m
}

/// Setters only fail on values that are too long for their attribute.
fn add(m: &mut Message, attribute: &dyn Setter) {
    let added = attribute.add_to(m);
    debug_assert!(added.is_ok(), "{added:?}");
}

/// What a server says.
pub(super) enum Heard {
    Answer(Box<Answer>),
    /// A Data indication.
    Data(SocketAddr, Vec<u8>),
}

pub(super) struct Answer {
    pub id: Id,
    pub method: Method,
    pub refusal: Option<Refusal>,
    pub relayed: Option<SocketAddr>,
    pub mapped: Option<SocketAddr>,
    pub lifetime: Option<Duration>,
    pub alternate: Option<SocketAddr>,
    realm: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    raw: Message,
}

impl Answer {
    /// True when MESSAGE-INTEGRITY is there and right.
    pub fn is_authentic(&mut self, session: &Session) -> bool {
        MessageIntegrity::check(&mut self.raw, &session.key, crypto()).is_ok()
    }
}

/// Reads one whole message; `None` for what a TURN server does not send.
pub(super) fn read(bytes: &[u8]) -> Option<Heard> {
    if bytes.len() < 20 || bytes.len() - 20 != usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) {
        return None;
    }
    let mut m = Message::new();
    m.unmarshal_binary(bytes).ok()?;
    let typ = m.typ;
    if typ.class == CLASS_INDICATION && typ.method == METHOD_DATA {
        let mut peer = PeerAddress::default();
        let mut data = Data::default();
        peer.get_from(&m).ok()?;
        data.get_from(&m).ok()?;
        return Some(Heard::Data(SocketAddr::new(peer.ip, peer.port), data.0));
    }
    let refusal = match typ.class {
        CLASS_ERROR_RESPONSE => {
            let mut e = ErrorCodeAttribute::default();
            let read = e.get_from(&m);
            let reason: String =
                String::from_utf8_lossy(&e.reason).chars().filter(|c| !c.is_control()).take(100).collect();
            Some(match read {
                Ok(()) => Refusal { code: e.code.0, reason },
                Err(_) => Refusal { code: 0, reason: "an error without a code".into() },
            })
        }
        CLASS_SUCCESS_RESPONSE => None,
        _ => return None,
    };
    let mut relayed = RelayedAddress::default();
    let relayed = relayed.get_from(&m).is_ok().then(|| SocketAddr::new(relayed.ip, relayed.port));
    let mut mapped = XorMappedAddress::default();
    let mapped = mapped.get_from(&m).is_ok().then(|| SocketAddr::new(mapped.ip, mapped.port));
    let mut lifetime = Lifetime::default();
    let lifetime = lifetime.get_from(&m).is_ok().then_some(lifetime.0);
    let mut alternate = MappedAddress::default();
    let alternate =
        alternate.get_from_as(&m, ATTR_ALTERNATE_SERVER).is_ok().then(|| (alternate.ip, alternate.port).into());
    Some(Heard::Answer(Box::new(Answer {
        id: m.transaction_id.0,
        method: typ.method,
        refusal,
        relayed,
        mapped,
        lifetime,
        alternate,
        realm: m.get(ATTR_REALM).ok(),
        nonce: m.get(ATTR_NONCE).ok(),
        raw: m,
    })))
}
