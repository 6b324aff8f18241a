//! One DTLS association (RFC 5763, RFC 5764): handshake, retransmission, keys, close.

use super::shared::{Shared, suite};
use super::{Failure, MasterKey};
use crate::types::Suite;
use bytes::BytesMut;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::state::State;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// First wait before a flight is sent again; doubled up to eight times as much. RFC 6347 4.2.4.1 says 1 s for the open
/// Internet; browsers wait 50 ms.
const RESEND_AFTER: Duration = Duration::from_millis(200);
const RESEND_DOUBLINGS: u32 = 3;
/// rtc-dtls ends a handshake whose flight it has sent again seven times; after this many we repeat datagrams ourselves.
const FRESH_RESENDS: u32 = 6;
/// Answers to a peer that repeats its last flight although we have keys.
const RESENDS_AFTER_KEYS: u32 = 16;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const RECORD_HEADER: usize = 13;
/// RFC 5246 7.2.2.
const INSUFFICIENT_SECURITY: u8 = 71;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// As client: not begun. As server: nothing has come yet.
    Waiting,
    Handshaking,
    Keyed,
    Closed,
}

/// What a datagram brought about.
pub(super) enum Outcome {
    Nothing,
    Keys(Keys),
    PeerClosed,
    Failed(Failure),
}

pub(super) struct Keys {
    pub suite: Suite,
    pub ours: MasterKey,
    pub theirs: MasterKey,
}

pub(super) struct Association {
    endpoint: Box<Endpoint>,
    client: bool,
    phase: Phase,
    /// Our last flight, as it was sent.
    flight: Vec<BytesMut>,
    resend_at: Instant,
    resends: u32,
    slim: bool,
    out: Vec<BytesMut>,
}

/// The endpoint tells associations apart by address; a constant makes ours independent of the ICE pair.
fn peer() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 1))
}

impl Association {
    pub fn new(now: Instant, shared: &Shared, local: SocketAddr, client: bool) -> Association {
        let server = (!client).then(|| shared.server_for(&[]).clone());
        Association {
            endpoint: Box::new(Endpoint::new(local, TransportProtocol::UDP, server)),
            client,
            phase: Phase::Waiting,
            flight: Vec::new(),
            resend_at: now,
            resends: 0,
            slim: false,
            out: Vec::new(),
        }
    }

    pub fn is_client(&self) -> bool {
        self.client
    }

    pub fn is_keyed(&self) -> bool {
        self.phase == Phase::Keyed
    }

    /// As client, before [`Association::connect`].
    pub fn is_waiting_to_connect(&self) -> bool {
        self.client && self.phase == Phase::Waiting
    }

    /// Sends the ClientHello.
    pub fn connect(&mut self, now: Instant, shared: &Shared) -> Result<(), Failure> {
        let result = self.endpoint.connect(now, peer(), shared.client.clone(), None);
        self.phase = Phase::Handshaking;
        self.collect(now, true);
        result.map_err(|e| failure(&e))
    }

    /// Feeds one datagram; `fingerprint` is what the peer's certificate must hash to.
    pub fn on_datagram(&mut self, now: Instant, shared: &Shared, fingerprint: &[u8; 32], datagram: &[u8]) -> Outcome {
        // A client's endpoint has no association yet and would report an error; broken framing would end a handshake.
        if self.is_waiting_to_connect() || self.phase == Phase::Closed || !is_framed(datagram) {
            return Outcome::Nothing;
        }
        if self.phase == Phase::Waiting {
            self.phase = Phase::Handshaking;
            self.endpoint.set_server_config(Some(shared.server_for(datagram).clone()));
        }
        let mut datagram = BytesMut::from(datagram);
        if self.awaits_last_flight() {
            let kept = records(&datagram).filter(|r| r[0] != HANDSHAKE || r[3..5] != [0, 0]);
            datagram = kept.flatten().copied().collect();
            if datagram.is_empty() {
                return Outcome::Nothing;
            }
        }
        let refusal = (self.phase == Phase::Handshaking).then(|| refusal(&datagram)).flatten();
        let outcome = match self.endpoint.read(now, peer(), None, datagram.clone()) {
            Ok(events) => self.on_events(shared, fingerprint, events),
            // rtc-dtls echoes any alert, so two of its endpoints would do so for ever: the first error is the end.
            Err(e) if self.phase == Phase::Handshaking => Outcome::Failed(refusal.unwrap_or_else(|| failure(&e))),
            // One bad record; the keys stand.
            Err(_) => Outcome::Nothing,
        };
        // rtc-dtls 0.21.1 answers a part of a flight whose beginning is missing with a fatal alert, and yet goes on waiting.
        // OpenSSL sends each record of a flight that it repeats by itself: where the first of them is lost, the alert
        // would end a handshake that can succeed. Whatever does end it is an error, too.
        let alerts = self.phase != Phase::Handshaking || !matches!(outcome, Outcome::Nothing);
        let answered = self.collect(now, alerts);
        if let Outcome::Failed(Failure::Fingerprint) = outcome {
            self.close(now); // tells the peer
        } else if matches!(outcome, Outcome::PeerClosed | Outcome::Failed(_)) {
            self.phase = Phase::Closed;
        } else if self.is_keyed() && !answered && is_handshake(&datagram) {
            self.answer_repetition(now);
        }
        outcome
    }

    fn on_events(&mut self, shared: &Shared, fingerprint: &[u8; 32], events: Vec<EndpointEvent>) -> Outcome {
        let mut outcome = Outcome::Nothing;
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => match self.keys(shared, fingerprint) {
                    Ok(keys) => {
                        self.phase = Phase::Keyed;
                        outcome = Outcome::Keys(keys);
                    }
                    Err(failure) => return Outcome::Failed(failure),
                },
                EndpointEvent::PeerClosed => return Outcome::PeerClosed,
                _ => {}
            }
        }
        outcome
    }

    /// Compares the certificate and exports the keys (RFC 5763 5, RFC 5764 4.2).
    fn keys(&self, shared: &Shared, fingerprint: &[u8; 32]) -> Result<Keys, Failure> {
        let state = self.endpoint.get_connection_state(peer());
        let state = state.ok_or_else(|| Failure::Dtls("the association is gone".into()))?;
        let hash = state.peer_certificates.first().and_then(|der| shared.hash(der));
        if hash.as_deref() != Some(&fingerprint[..]) {
            return Err(Failure::Fingerprint);
        }
        let profile = state.srtp_protection_profile();
        let suite = suite(profile).ok_or_else(|| Failure::NoSuite(format!("the peer chose {profile:?}")))?;
        let material = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], 2 * (suite.key_len() + suite.salt_len()))
            .map_err(|e| Failure::Dtls(e.to_string()))?;
        let [client, server] = split(material.as_ref(), suite).ok_or_else(|| Failure::Dtls("short keys".into()))?;
        let (ours, theirs) = if self.client { (client, server) } else { (server, client) };
        Ok(Keys { suite, ours, theirs })
    }

    /// Takes over what the endpoint wants to send, its alerts or not; true when there was something.
    fn collect(&mut self, now: Instant, alerts: bool) -> bool {
        let mut new: Vec<BytesMut> = std::iter::from_fn(|| self.endpoint.poll_transmit()).map(|m| m.message).collect();
        new.retain(|d| alerts || d.first() != Some(&ALERT));
        if new.is_empty() {
            return false;
        }
        if new.iter().all(|d| d.first() != Some(&ALERT)) {
            self.flight.clone_from(&new);
            self.resends = 0;
            self.resend_at = now + RESEND_AFTER;
        }
        if self.client && self.is_keyed() {
            // The server had the last word.
            self.flight = Vec::new();
        }
        self.out.extend(new);
        true
    }

    /// Sends our flight again, when it pleases us: rtc-dtls 0.21.1 clears its timer on any handshake record, even one that
    /// completes no flight or is a repetition, and the handshake hangs for good (of 200 at 5 % loss 6, at 20 % loss 33).
    ///
    /// Where it can, rtc-dtls writes the flight anew, under new record numbers: a server whose last flight was lost
    /// answers a repeated Finished only if its replay protection lets it through (RFC 6347 4.1.2.6; OpenSSL). Otherwise the
    /// datagrams go out as they were.
    fn resend(&mut self, now: Instant) {
        self.resends += 1;
        self.resend_at = now + RESEND_AFTER * (1 << self.resends.min(RESEND_DOUBLINGS));
        let may_be_fresh = self.phase == Phase::Handshaking && self.resends <= FRESH_RESENDS;
        if may_be_fresh && self.endpoint.handle_timeout(peer(), now).is_ok() {
            let fresh: Vec<BytesMut> =
                std::iter::from_fn(|| self.endpoint.poll_transmit()).map(|m| m.message).collect();
            if !fresh.is_empty() {
                self.flight = fresh;
            }
        }
        self.out.extend(self.flight.iter().cloned());
    }

    /// As client, our last flight is out: only the server's ChangeCipherSpec and Finished are waited for. Repetitions of
    /// what came before would stop rtc-dtls from sending that flight again.
    fn awaits_last_flight(&self) -> bool {
        self.client
            && self.phase == Phase::Handshaking
            && self.flight.iter().any(|d| records(d).any(|r| r[0] == CHANGE_CIPHER_SPEC))
    }

    /// The peer repeats its last flight: ours was lost, or is under way.
    fn answer_repetition(&mut self, now: Instant) {
        if !self.flight.is_empty() && now >= self.resend_at && self.resends < RESENDS_AFTER_KEYS {
            self.resend(now);
        }
    }

    /// When [`Association::handle_timeout`] is due; `None` once nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.phase == Phase::Handshaking && !self.flight.is_empty()).then_some(self.resend_at)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|t| t <= now) {
            self.resend(now);
        }
    }

    /// Datagrams to send.
    pub fn take_out(&mut self) -> Vec<BytesMut> {
        std::mem::take(&mut self.out)
    }

    /// Queues close_notify.
    pub fn close(&mut self, now: Instant) {
        if self.endpoint.close(now).is_ok() {
            self.collect(now, true);
        }
        self.phase = Phase::Closed;
    }

    /// Gives the handshake's memory back (6 of 11 KiB), once: the association goes through its serialised state, which
    /// leaves messages and transcript behind. close_notify, both ways, and repeated flights still work.
    pub fn slim(&mut self, now: Instant, shared: &Shared, local: SocketAddr) {
        if !self.is_keyed() || std::mem::replace(&mut self.slim, true) {
            return;
        }
        let Some(state) = self.endpoint.get_connection_state(peer()) else { return };
        let Ok(bytes) = state.marshal_binary() else { return };
        let mut state = State::new(shared.provider.clone(), self.client);
        if state.unmarshal_binary(&bytes).is_err() {
            return;
        }
        let mut endpoint = Box::new(Endpoint::new(local, TransportProtocol::UDP, None));
        if endpoint.connect(now, peer(), shared.client.clone(), Some(state)).is_ok() {
            while endpoint.poll_transmit().is_some() {}
            self.endpoint = endpoint;
        }
    }
}

/// Client's and server's master key and salt from exported material: both keys, then both salts.
fn split(material: &[u8], suite: Suite) -> Option<[MasterKey; 2]> {
    let (key_len, salt_len) = (suite.key_len(), suite.salt_len());
    let one = |i: usize| {
        let mut master = MasterKey { key: [0; 32], salt: [0; 14] };
        master.key[..key_len].copy_from_slice(material.get(key_len * i..key_len * (i + 1))?);
        let at = 2 * key_len + salt_len * i;
        master.salt[..salt_len].copy_from_slice(material.get(at..at + salt_len)?);
        Some(master)
    };
    Some([one(0)?, one(1)?])
}

fn failure(e: &Error) -> Failure {
    match e {
        Error::ErrServerNoMatchingSrtpProfile
        | Error::ErrClientNoMatchingSrtpProfile
        | Error::ErrRequestedButNoSrtpExtension => Failure::NoSuite(e.to_string()),
        e => Failure::Dtls(e.to_string()),
    }
}

/// The records of a datagram that [`is_framed`], headers included.
fn records(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<RECORD_HEADER>()?;
        let end = RECORD_HEADER + u16::from_be_bytes([header[11], header[12]]) as usize;
        let (record, rest) = datagram.split_at_checked(end)?;
        datagram = rest;
        Some(record)
    })
}

/// Whole DTLS 1.x records and nothing else.
fn is_framed(mut datagram: &[u8]) -> bool {
    loop {
        let Some(header) = datagram.first_chunk::<RECORD_HEADER>() else { return false };
        let end = RECORD_HEADER + u16::from_be_bytes([header[11], header[12]]) as usize;
        if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&header[0]) || header[1] != 0xfe || datagram.len() < end {
            return false;
        }
        datagram = &datagram[end..];
        if datagram.is_empty() {
            return true;
        }
    }
}

fn is_handshake(datagram: &[u8]) -> bool {
    datagram.first() != Some(&ALERT)
}

/// The peer's reason, when this is an unencrypted fatal alert.
fn refusal(datagram: &[u8]) -> Option<Failure> {
    let header = datagram.first_chunk::<RECORD_HEADER>()?;
    let epoch = u16::from_be_bytes([header[3], header[4]]);
    match datagram.get(RECORD_HEADER..)? {
        [2, INSUFFICIENT_SECURITY] if header[0] == ALERT && epoch == 0 => {
            Some(Failure::NoSuite("the peer refused ours".into()))
        }
        [2, code] if header[0] == ALERT && epoch == 0 => {
            Some(Failure::Dtls(format!("the peer refused with alert {code} (RFC 5246 7.2)")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut r = vec![kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1];
        r.extend_from_slice(&(body.len() as u16).to_be_bytes());
        r.extend_from_slice(body);
        r
    }

    #[test]
    fn framing_takes_whole_records_only() {
        let (one, two) = (record(22, &[1, 2, 3]), [record(20, &[1]), record(22, &[])].concat());
        assert!(is_framed(&one));
        assert!(is_framed(&two));
        for n in 0..one.len() {
            assert!(!is_framed(&one[..n]), "{n} bytes");
        }
        assert!(!is_framed(&[one.clone(), vec![0]].concat()));
        assert!(!is_framed(&record(24, &[])));
        assert!(!is_framed(&record(19, &[])));
    }

    #[test]
    fn names_the_peers_refusal() {
        assert_eq!(refusal(&record(21, &[2, 71])), Some(Failure::NoSuite("the peer refused ours".into())));
        assert!(matches!(refusal(&record(21, &[2, 40])), Some(Failure::Dtls(why)) if why.contains("40")));
        assert_eq!(refusal(&record(21, &[1, 0])), None);
        assert_eq!(refusal(&record(22, &[2, 71])), None);
    }

    #[test]
    fn splits_the_exported_material_as_rfc_5764_orders_it() {
        let material: Vec<u8> = (0..88).collect();
        let [client, server] = split(&material, Suite::Aes128CmSha1_80).unwrap();
        assert_eq!((client.key[0], server.key[0], client.salt[0], server.salt[0]), (0, 16, 32, 46));
        let [client, server] = split(&material[..56], Suite::AeadAes128Gcm).unwrap();
        assert_eq!((client.salt[11], client.salt[12], server.salt[0], server.salt[13]), (43, 0, 44, 0));
        assert_eq!((client.key[15], client.key[16]), (15, 0));
        assert!(split(&material[..55], Suite::AeadAes128Gcm).is_none());
        let [client, server] = split(&material, Suite::AeadAes256Gcm).unwrap();
        assert_eq!((client.key[31], server.key[0], client.salt[0], server.salt[11]), (31, 32, 64, 87));
        assert!(split(&material[..87], Suite::AeadAes256Gcm).is_none());
    }
}
