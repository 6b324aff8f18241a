//! A participant on str0m, sans-I/O: for tests of the embedded fleet, in memory and over sockets.
#![allow(dead_code, reason = "each user needs its part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, KeyframeRequestKind, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

pub struct Peer {
    pub rtc: Rtc,
    pub address: SocketAddr,
    pub offer: String,
    pending: Option<SdpPendingOffer>,
    senders: Vec<Sender>,
    pub slots: Vec<(Mid, MediaKind)>,
    pub timeout: Instant,
    pub connected: bool,
    pub closed: bool,
    pub received: Vec<Received>,
    /// PLI and FIR that reached us.
    pub key_frame_requests: usize,
    pub out: Vec<(SocketAddr, Vec<u8>)>,
}

struct Sender {
    kind: MediaKind,
    mid: Mid,
    seq: u64,
    timestamp: u32,
    picture_id: u16,
}

#[derive(Clone, Debug)]
pub struct Received {
    pub mid: Mid,
    pub kind: MediaKind,
    pub seq: u64,
    pub timestamp: u32,
    pub payload: Vec<u8>,
}

pub const AUDIO_VIDEO: &[MediaKind] = &[MediaKind::Audio, MediaKind::Video];

impl Peer {
    pub fn new(now: Instant, address: SocketAddr, sends: &[MediaKind], slots: usize, video: Codec) -> Peer {
        let config = RtcConfig::new().set_rtp_mode(true).clear_codecs().enable_opus(true, false);
        let config = match video {
            Codec::Vp8 => config.enable_vp8(true),
            Codec::H264 => config.enable_h264(true),
            other => panic!("{other:?} is not tested"),
        };
        let mut rtc = config.build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        let mut change = rtc.sdp_api();
        let senders = sends
            .iter()
            .map(|&kind| Sender {
                kind,
                mid: change.add_media(kind, Direction::SendOnly, None, None, None),
                seq: 65_500,
                timestamp: 1000,
                picture_id: 500,
            })
            .collect();
        let mut slot_mids = Vec::new();
        for _ in 0..slots {
            for &kind in AUDIO_VIDEO {
                slot_mids.push((change.add_media(kind, Direction::RecvOnly, None, None, None), kind));
            }
        }
        let (offer, pending) = change.apply().unwrap();
        Peer {
            rtc,
            address,
            offer: offer.to_sdp_string(),
            pending: Some(pending),
            senders,
            slots: slot_mids,
            timeout: now,
            connected: false,
            closed: false,
            received: Vec::new(),
            key_frame_requests: 0,
            out: Vec::new(),
        }
    }

    pub fn accept(&mut self, now: Instant, answer: &str) {
        let answer = SdpAnswer::from_sdp_string(answer).unwrap();
        self.rtc.sdp_api().accept_answer(self.pending.take().unwrap(), answer).unwrap();
        self.handle_timeout(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
        self.drain();
    }

    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let Ok(receive) = Receive::new(Protocol::Udp, from, self.address, bytes) else { return };
        self.rtc.handle_input(Input::Receive(now, receive)).unwrap();
        self.drain();
    }

    pub fn close(&mut self) {
        self.rtc.close().unwrap();
        self.drain();
    }

    /// 20 ms of "Opus"; the payload says who and which.
    pub fn send_audio(&mut self, now: Instant, payload: &[u8]) {
        let pt = self.pt(MediaKind::Audio);
        let sender = self.senders.iter_mut().find(|s| s.kind == MediaKind::Audio).expect("sends audio");
        sender.seq += 1;
        sender.timestamp = sender.timestamp.wrapping_add(960);
        let packet = RtpWrite::new(pt, sender.seq.into(), sender.timestamp, now, payload).marker(false);
        let mid = sender.mid;
        self.write(mid, packet, now);
    }

    /// One packet that is a whole VP8 frame of 33 ms: descriptor with 15-bit picture id, P bit, then `payload`.
    pub fn send_vp8(&mut self, now: Instant, key: bool, payload: &[u8]) {
        let sender = self.senders.iter_mut().find(|s| s.kind == MediaKind::Video).expect("sends video");
        sender.picture_id = (sender.picture_id + 1) & 0x7fff;
        let [high, low] = (sender.picture_id | 0x8000).to_be_bytes();
        let mut frame = vec![0x90, 0x80, high, low, u8::from(!key)];
        frame.extend(payload);
        self.send_video(now, &frame);
    }

    pub fn send_video(&mut self, now: Instant, frame: &[u8]) {
        let pt = self.pt(MediaKind::Video);
        let sender = self.senders.iter_mut().find(|s| s.kind == MediaKind::Video).expect("sends video");
        sender.seq += 1;
        sender.timestamp = sender.timestamp.wrapping_add(3000);
        let packet = RtpWrite::new(pt, sender.seq.into(), sender.timestamp, now, frame).marker(true).nackable(true);
        let mid = sender.mid;
        self.write(mid, packet, now);
    }

    pub fn request_key_frame(&mut self, now: Instant, mid: Mid) {
        self.rtc
            .direct_api()
            .stream_rx_by_mid(mid, None)
            .expect("receives there")
            .request_keyframe(KeyframeRequestKind::Pli);
        self.handle_timeout(now);
    }

    /// What came in one slot.
    pub fn in_slot(&self, mid: Mid) -> Vec<&Received> {
        self.received.iter().filter(|r| r.mid == mid).collect()
    }

    /// Payloads by slot, of one kind.
    pub fn by_slot(&self, kind: MediaKind) -> HashMap<Mid, Vec<&[u8]>> {
        let mut slots: HashMap<Mid, Vec<&[u8]>> = HashMap::new();
        for r in self.received.iter().filter(|r| r.kind == kind) {
            slots.entry(r.mid).or_default().push(&r.payload);
        }
        slots
    }

    fn pt(&self, kind: MediaKind) -> Pt {
        let mid = self.senders.iter().find(|s| s.kind == kind).expect("sends this kind").mid;
        self.rtc.media(mid).expect("negotiated").remote_pts()[0]
    }

    fn write(&mut self, mid: Mid, packet: RtpWrite, now: Instant) {
        self.rtc.direct_api().stream_tx_by_mid(mid, None).expect("negotiated").write_rtp(packet);
        self.handle_timeout(now);
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => {
                    self.timeout = at;
                    return;
                }
                Output::Transmit(t) => self.out.push((t.destination, t.contents.into())),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::Closed) => self.closed = true,
                Output::Event(Event::KeyframeRequest(_)) => self.key_frame_requests += 1,
                Output::Event(Event::RtpPacket(packet)) => {
                    let ssrc = packet.header.ssrc;
                    let mid = self.rtc.direct_api().stream_rx(&ssrc).expect("mapped").mid();
                    let kind = self.rtc.media(mid).expect("negotiated").kind();
                    self.received.push(Received {
                        mid,
                        kind,
                        seq: *packet.seq_no,
                        timestamp: packet.header.timestamp,
                        payload: packet.payload.to_vec(),
                    });
                }
                Output::Event(_) => {}
            }
        }
    }
}
