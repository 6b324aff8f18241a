//! Our transport and negotiation with stock SRTP on top: what a participant will be, for tests against other stacks.

use super::link::*;
use super::*;
use crate::sdp::{LocalTrack, Negotiation};
use crate::types::{Client, Codec};
use bytes::BytesMut;
use rtc::crypto::RTCCryptoProvider;
use rtc::crypto::providers::RingProvider;
use rtc::srtp::context::Context;
use rtc::srtp::protection_profile::ProtectionProfile;
use std::collections::VecDeque;
use std::time::Instant;

pub const AUDIO: LocalTrack = LocalTrack {
    encoding_codec: Codec::Opus,
    ssrc: 1001,
    rtx_ssrc: None,
    layers: 1,
    simulcast: crate::types::Simulcast::Rid,
};
pub const VIDEO: LocalTrack = LocalTrack {
    encoding_codec: Codec::Vp8,
    ssrc: 1002,
    rtx_ssrc: Some(1003),
    layers: 1,
    simulcast: crate::types::Simulcast::Rid,
};

pub struct Ours {
    pub transport: Transport,
    pub negotiation: Negotiation,
    pub events: Vec<Event>,
    /// RTP that was opened with `theirs`: payload type, SSRC, and what follows the header.
    pub received: Vec<(u8, u32, Vec<u8>)>,
    srtp: Option<(Context, Context)>,
    media_out: VecDeque<(SocketAddr, BytesMut)>,
    sequence: u16,
}

impl Ours {
    pub fn new(now: Instant, suites: &[Suite], client: Client) -> Ours {
        let shared = Shared::new(suites, Timing::default()).unwrap();
        Ours {
            transport: Transport::new(now, &shared, &allow(), address(1), 1).unwrap(),
            negotiation: Negotiation::new(client, 9, "roomful".into()),
            events: vec![],
            received: vec![],
            srtp: None,
            media_out: VecDeque::new(),
            sequence: 0,
        }
    }

    pub fn offer(&mut self, tracks: &[LocalTrack], audio: u16, video: u16) -> String {
        self.negotiation.offer(&self.transport.local_params(), tracks, audio, video)
    }

    pub fn accept_answer(&mut self, now: Instant, answer: &str) {
        let (remote, _) = self.negotiation.accept_answer(answer).unwrap_or_else(|e| panic!("{e}\n{answer}"));
        self.transport.start(now, &remote, true, remote.setup == Setup::Passive).unwrap();
    }

    pub fn accept_offer(&mut self, now: Instant, offer: &str, setup: Setup) -> String {
        let local = self.transport.local_params();
        let accepted = self.negotiation.accept_offer(offer, &local, setup, &[]);
        let (answer, remote, _) = accepted.unwrap_or_else(|e| panic!("{e}\n{offer}"));
        let client = setup.answer(remote.setup) == Setup::Active;
        self.transport.start(now, &remote, false, client).unwrap();
        answer
    }

    fn pull_events(&mut self) {
        while let Some(e) = self.transport.poll_event() {
            if let Event::Connected { suite, ours, theirs, .. } = &e {
                self.srtp = Some((context(*suite, ours), context(*suite, theirs)));
            }
            self.events.push(e);
        }
    }

    /// Seals and sends the next RTP packet.
    pub fn send_rtp(&mut self, pt: u8, ssrc: u32, payload: &[u8]) {
        assert!(self.transport.may_send());
        self.sequence += 1;
        let seq = self.sequence;
        let mut packet = vec![0x80, pt | 0x80];
        packet.extend_from_slice(&seq.to_be_bytes());
        packet.extend_from_slice(&(u32::from(seq) * 960).to_be_bytes());
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(payload);
        let sealed = self.srtp.as_mut().unwrap().0.encrypt_rtp(&packet).unwrap();
        self.media_out.push_back((self.transport.remote().unwrap(), sealed));
    }
}

fn context(suite: Suite, master: &MasterKey) -> Context {
    let profile = match suite {
        Suite::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        Suite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        Suite::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    };
    let (key, salt) = (&master.key[..suite.key_len()], &master.salt[..suite.salt_len()]);
    Context::new(key, salt, profile, None, None, RingProvider::new().crypto()).unwrap()
}

impl Peer for Ours {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let kind = self.transport.on_datagram(now, from, datagram);
        self.pull_events();
        // RTP, not RTCP (RFC 5761 4).
        if kind == Kind::Media && !(192..=223).contains(&datagram[1]) {
            let (_, theirs) = self.srtp.as_mut().expect("media before keys");
            let plain = theirs.decrypt_rtp(datagram).expect("media that does not open");
            let mut header = 12 + 4 * usize::from(plain[0] & 15);
            if plain[0] & 16 != 0 {
                header += 4 + 4 * usize::from(u16::from_be_bytes([plain[header + 2], plain[header + 3]]));
            }
            let ssrc = u32::from_be_bytes([plain[8], plain[9], plain[10], plain[11]]);
            self.received.push((plain[1] & 127, ssrc, plain[header..].to_vec()));
        }
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.pull_events();
        self.media_out.pop_front().or_else(|| self.transport.poll_transmit())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.transport.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
        self.pull_events();
    }
}
