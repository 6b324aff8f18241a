//! A whole `rtc` peer connection as a peer.

use super::Suite;
use super::link::Peer;
use bytes::BytesMut;
use rtc::crypto::{RTCCryptoProvider, SignatureScheme};
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::certificate::{CertificateParams, RTCCertificate};
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::media_engine::MediaEngine;
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::event::RTCPeerConnectionEvent;
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::rtp_transceiver::rtp_sender::*;
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use std::net::SocketAddr;
use std::time::Instant;

const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";

pub struct Whole {
    pc: Box<RTCPeerConnection>,
    local: SocketAddr,
    pub connected: bool,
    /// SSRC and payload.
    pub received: Vec<(u32, Vec<u8>)>,
    /// Datagrams.
    pub heard: u32,
}

fn codec(mime: &str, clock_rate: u32, channels: u16, fmtp: &str, feedback: &[&str], pt: u8) -> RTCRtpCodecParameters {
    let rtcp_feedback = feedback.iter().map(|f| {
        let (typ, parameter) = f.split_once(' ').unwrap_or((f, ""));
        RTCPFeedback { typ: typ.into(), parameter: parameter.into() }
    });
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: mime.into(),
            clock_rate,
            channels,
            sdp_fmtp_line: fmtp.into(),
            rtcp_feedback: rtcp_feedback.collect(),
        },
        payload_type: pt,
    }
}

impl Whole {
    pub fn certificate() -> RTCCertificate {
        let provider = rtc::crypto::providers::RingProvider::new();
        let params = CertificateParams::new(vec!["whole".to_string()]).unwrap();
        RTCCertificate::generate(provider.crypto(), SignatureScheme::EcdsaP256Sha256, params).unwrap()
    }

    /// `tracks` that it sends: Opus, VP8, Opus …
    pub fn new(now: Instant, local: SocketAddr, suite: Suite, certificate: &RTCCertificate, tracks: usize) -> Whole {
        let mut engine = MediaEngine::default();
        let opus = codec("audio/opus", 48000, 2, "minptime=10;useinbandfec=1", &[], 111);
        let vp8 = codec("video/VP8", 90000, 0, "", &["goog-remb", "ccm fir", "nack", "nack pli"], 96);
        engine.register_codec(opus.clone(), RtpCodecKind::Audio).unwrap();
        engine.register_codec(vp8.clone(), RtpCodecKind::Video).unwrap();
        for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
            let mid = RTCRtpHeaderExtensionCapability { uri: MID.into() };
            engine.register_header_extension(mid, kind, None).unwrap();
        }
        let profile = match suite {
            Suite::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
            Suite::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
            Suite::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
        };
        let mut pc = RTCPeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().with_certificates(vec![certificate.clone()]).build())
            .with_setting_engine(SettingEngineBuilder::new().with_srtp_protection_profiles(vec![profile]).build())
            .with_media_engine(engine)
            .build(now)
            .unwrap();
        for i in 0..tracks {
            let (kind, codec) = if i % 2 == 0 {
                (RtpCodecKind::Audio, opus.rtp_codec.clone())
            } else {
                (RtpCodecKind::Video, vp8.rtp_codec.clone())
            };
            let rtp_coding_parameters = RTCRtpCodingParameters { ssrc: Some(2000 + i as u32), ..Default::default() };
            let encoding = RTCRtpEncodingParameters { rtp_coding_parameters, codec, ..Default::default() };
            let track = MediaStreamTrack::new(format!("s{i}"), format!("t{i}"), "l".into(), kind, vec![encoding]);
            let init = RTCRtpTransceiverInit { direction: RTCRtpTransceiverDirection::Sendonly, ..Default::default() };
            pc.add_transceiver_from_track(track, Some(init)).unwrap();
        }
        let base_config = CandidateConfig {
            network: "udp".into(),
            address: local.ip().to_string(),
            port: local.port(),
            component: 1,
            ..Default::default()
        };
        let candidate = CandidateHostConfig { base_config, ..Default::default() }.new_candidate_host().unwrap();
        pc.add_local_candidate(RTCIceCandidate::from(&candidate).to_json().unwrap()).unwrap();
        Whole { pc: Box::new(pc), local, connected: false, received: vec![], heard: 0 }
    }

    pub fn offer(&mut self, now: Instant) -> String {
        let offer = self.pc.create_offer(None).unwrap();
        self.pc.set_local_description(now, offer).unwrap();
        self.pc.local_description().unwrap().sdp
    }

    pub fn accept_answer(&mut self, now: Instant, answer: &str) {
        let answer = RTCSessionDescription::answer(answer.to_string()).unwrap();
        self.pc.set_remote_description(now, answer).unwrap();
    }

    pub fn answer(&mut self, now: Instant, offer: &str) -> String {
        let offer = RTCSessionDescription::offer(offer.to_string()).unwrap();
        self.pc.set_remote_description(now, offer).unwrap();
        let answer = self.pc.create_answer(None).unwrap();
        self.pc.set_local_description(now, answer).unwrap();
        self.pc.local_description().unwrap().sdp
    }

    /// One packet from each track.
    pub fn send(&mut self, now: Instant, seq: u16, payload: &'static [u8]) {
        let ids: Vec<_> = self.pc.get_senders().collect();
        for (i, id) in ids.into_iter().enumerate() {
            let mut packet = rtc::rtp::Packet::default();
            packet.header.version = 2;
            packet.header.ssrc = 2000 + i as u32;
            packet.header.payload_type = if i % 2 == 0 { 111 } else { 96 };
            packet.header.sequence_number = seq;
            packet.payload = bytes::Bytes::from_static(payload);
            self.pc.rtp_sender(id).unwrap().write_rtp(now, packet).unwrap();
        }
    }

    fn pull(&mut self) {
        while let Some(e) = self.pc.poll_event() {
            if let RTCPeerConnectionEvent::OnConnectionStateChangeEvent(s) = e {
                self.connected = s == RTCPeerConnectionState::Connected;
            }
        }
        while let Some(m) = self.pc.poll_read() {
            if let RTCMessage::RtpPacket(_, p) = m.message {
                self.received.push((p.header.ssrc, p.payload.to_vec()));
            }
        }
    }
}

impl Peer for Whole {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.heard += 1;
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: from,
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        let _ = self.pc.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(datagram) });
        self.pull();
    }
    fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.pc.poll_write().map(|m| (m.transport.peer_addr, m.message))
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.pc.poll_timeout()
    }
    fn handle_timeout(&mut self, now: Instant) {
        let _ = self.pc.handle_timeout(now);
        self.pull();
    }
}
