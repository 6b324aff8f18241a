//! The server's core with participants on str0m, in memory and virtual time.

use super::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::format::Codec;
use str0m::media::{MediaKind, Mid};
use str0m::rtp::Vp8Descriptor;

#[path = "../../tests/support/str0m_peer.rs"]
mod str0m_peer;
use str0m_peer::{AUDIO_VIDEO, Peer};

mod cascade;

const TICK: Duration = Duration::from_millis(5);

/// A server and its participants, linked without delay.
struct World {
    now: Instant,
    sfu: Sfu,
    peers: Vec<Peer>,
    sessions: Vec<String>,
    /// Drops datagrams: (to the server?, which peer, bytes) → dropped.
    lossy: Option<Loss>,
}

type Loss = Box<dyn FnMut(bool, usize, &[u8]) -> bool>;

impl World {
    fn new(participants_max: usize) -> World {
        let now = Instant::now();
        let config = SfuConfig::new("10.0.0.1:4000".parse().unwrap(), participants_max).unwrap();
        World { now, sfu: Sfu::new(config, now), peers: Vec::new(), sessions: Vec::new(), lossy: None }
    }

    fn peer(&self, sends: &[MediaKind], slots: usize) -> Peer {
        self.peer_with(sends, slots, Codec::Vp8)
    }

    fn peer_with(&self, sends: &[MediaKind], slots: usize, video: Codec) -> Peer {
        let address = SocketAddr::from(([10, 0, 1, self.peers.len() as u8 + 1], 5000));
        Peer::new(self.now, address, sends, slots, video)
    }

    fn join(&mut self, room: &str, mut peer: Peer) -> usize {
        let name = format!("p{}", self.peers.len());
        let joined = self.sfu.join(self.now, room, &name, &peer.offer).unwrap();
        peer.accept(self.now, &joined.answer);
        self.peers.push(peer);
        self.sessions.push(joined.session);
        self.peers.len() - 1
    }

    /// Joins a sender of both kinds with slots, and connects it.
    fn sender(&mut self, room: &str, slots: usize) -> usize {
        let peer = self.peer(AUDIO_VIDEO, slots);
        let index = self.join(room, peer);
        self.run_until(|w| w.peers[index].connected);
        index
    }

    fn leave(&mut self, peer: usize) -> Left {
        let left = self.sfu.leave(self.now, &self.sessions[peer]);
        self.exchange();
        left
    }

    /// Carries datagrams to and fro until nobody has any, at one moment.
    fn exchange(&mut self) {
        let server = self.sfu.config().media;
        for _ in 0..1000 {
            let mut quiet = true;
            for (index, peer) in self.peers.iter_mut().enumerate() {
                for (_, bytes) in std::mem::take(&mut peer.out) {
                    quiet = false;
                    if !self.lossy.as_mut().is_some_and(|drop| drop(true, index, &bytes)) {
                        self.sfu.handle_datagram(self.now, peer.address, &bytes);
                    }
                }
            }
            while let Some(datagram) = self.sfu.poll_transmit() {
                quiet = false;
                let Some(index) = self.peers.iter().position(|p| p.address == datagram.to) else { continue };
                if !self.lossy.as_mut().is_some_and(|drop| drop(false, index, &datagram.contents)) {
                    self.peers[index].handle_datagram(self.now, server, &datagram.contents);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the exchange never settles");
    }

    fn step(&mut self) {
        self.now += TICK;
        for peer in &mut self.peers {
            if peer.timeout <= self.now {
                peer.handle_timeout(self.now);
            }
        }
        if self.sfu.poll_timeout() <= self.now {
            self.sfu.handle_timeout(self.now);
        }
        self.exchange();
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    fn run_until(&mut self, mut done: impl FnMut(&World) -> bool) {
        for _ in 0..2000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("never happened");
    }

    /// Everybody in `senders` sends audio and VP8, for `frames` frames of 30 ms; a key frame first and when asked.
    fn talk(&mut self, senders: &[usize], frames: u32) {
        let mut answered: Vec<usize> = senders.iter().map(|s| self.peers[*s].key_frame_requests).collect();
        for frame in 0..frames {
            for (i, &s) in senders.iter().enumerate() {
                let (now, peer) = (self.now, &mut self.peers[s]);
                let key = frame == 0 || peer.key_frame_requests > answered[i];
                answered[i] = peer.key_frame_requests;
                peer.send_audio(now, &[s as u8, 0xa0]);
                peer.send_vp8(now, key, &[s as u8, 0x50]);
            }
            self.exchange();
            self.run(Duration::from_millis(30));
        }
    }

    /// Who was seen in a slot, in order of appearance.
    fn shown(&self, receiver: usize, mid: Mid) -> Vec<u8> {
        let mut who: Vec<u8> =
            self.peers[receiver].in_slot(mid).iter().map(|r| r.payload[r.payload.len() - 2]).collect();
        who.dedup();
        who
    }
}

fn assert_continuous(received: &[&str0m_peer::Received]) {
    for pair in received.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq + 1, "{pair:?}");
        assert!(pair[1].timestamp.wrapping_sub(pair[0].timestamp) < 1 << 31, "{pair:?}");
    }
}

#[test]
fn everybody_hears_and_sees_everybody_else_in_the_room() {
    let mut w = World::new(10);
    let room: Vec<usize> = (0..3).map(|_| w.sender("a", 2)).collect();
    let stranger = w.sender("b", 2);
    w.talk(&room, 20);
    for &me in &room {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let slots = w.peers[me].by_slot(kind);
            assert_eq!(slots.len(), 2, "two others");
            let mut seen: Vec<u8> = Vec::new();
            for (mid, payloads) in slots {
                assert!(payloads.len() >= 15, "{kind:?}: {}", payloads.len());
                assert_eq!(w.shown(me, mid).len(), 1, "one sender a slot");
                seen.extend(w.shown(me, mid));
                assert_continuous(&w.peers[me].in_slot(mid));
            }
            seen.sort();
            let others: Vec<u8> = room.iter().filter(|p| **p != me).map(|p| *p as u8).collect();
            assert_eq!(seen, others);
        }
    }
    assert!(w.peers[stranger].received.is_empty());
    let stats = w.sfu.stats();
    assert_eq!((stats.participants, stats.connected, stats.rooms), (4, 4, 2));
    assert_eq!(stats.rtp_in, 3 * 2 * 20);
    assert_eq!(stats.rtp_dropped, 0);
}

#[test]
fn video_starts_with_a_key_frame_and_one_is_asked_for() {
    let mut w = World::new(10);
    let sender = w.sender("a", 0);
    w.talk(&[sender], 5);
    let watcher = w.peer(&[], 1);
    let watcher = w.join("a", watcher);
    w.run_until(|w| w.peers[watcher].connected);
    for _ in 0..3 {
        let now = w.now;
        w.peers[sender].send_vp8(now, false, &[0, 0]);
        w.step();
    }
    assert_eq!(w.peers[watcher].received.len(), 0, "nothing that can't be decoded");
    assert_eq!(w.peers[sender].key_frame_requests, 1, "three frames, one request");
    w.talk(&[sender], 3);
    let first = w.peers[watcher].received.iter().find(|r| r.kind == MediaKind::Video).unwrap();
    assert!(Vp8Descriptor::parse(&first.payload).unwrap().starts_keyframe(&first.payload));
}

#[test]
fn a_lost_key_frame_request_is_repeated() {
    let mut w = World::new(10);
    let sender = w.sender("a", 0);
    w.talk(&[sender], 3);
    // All RTCP to the sender is lost for a while, the request with it.
    w.lossy = Some(Box::new(move |up, peer, bytes| !up && peer == sender && (192..224).contains(&bytes[1])));
    let watcher = w.peer(&[], 1);
    let watcher = w.join("a", watcher);
    w.run_until(|w| w.peers[watcher].connected);
    w.run(Duration::from_millis(100));
    w.lossy = None;
    let before = w.peers[sender].key_frame_requests;
    for _ in 0..50 {
        let now = w.now;
        w.peers[sender].send_vp8(now, false, &[0, 0]);
        w.run(Duration::from_millis(30));
    }
    let requests = w.peers[sender].key_frame_requests - before;
    assert!((1..=3).contains(&requests), "{requests} requests in 1.5 s");
}

#[test]
fn requests_of_many_receivers_are_limited() {
    let mut w = World::new(20);
    let sender = w.sender("a", 0);
    let watchers: Vec<usize> = (0..8)
        .map(|_| {
            let peer = w.peer(&[], 1);
            w.join("a", peer)
        })
        .collect();
    w.run_until(|w| w.peers.iter().all(|p| p.connected));
    w.talk(&[sender], 10);
    w.run(Duration::from_secs(1));
    let before = w.peers[sender].key_frame_requests;
    for _ in 0..4 {
        for &watcher in &watchers {
            let now = w.now;
            let video = w.peers[watcher].slots.iter().find(|(_, k)| *k == MediaKind::Video).unwrap().0;
            w.peers[watcher].request_key_frame(now, video);
        }
        w.exchange();
        w.run(Duration::from_millis(50));
    }
    w.run(Duration::from_secs(1));
    let requests = w.peers[sender].key_frame_requests - before;
    assert_eq!(requests, 2, "32 requests within 200 ms: one at once, one when the gate opens");
    assert_eq!(w.sfu.stats().key_frame_requests_in, 32);
}

#[test]
fn a_slot_goes_to_the_next_sender_and_its_numbers_run_on() {
    let mut w = World::new(10);
    let first = w.sender("a", 0);
    let watcher = w.peer(&[], 1);
    let watcher = w.join("a", watcher);
    w.run_until(|w| w.peers[watcher].connected);
    w.talk(&[first], 10);
    let second = w.sender("a", 0);
    w.talk(&[first, second], 5);
    let slots: Vec<(Mid, MediaKind)> = w.peers[watcher].slots.clone();
    for (mid, _) in &slots {
        assert_eq!(w.shown(watcher, *mid), [first as u8], "only one slot, and it is taken");
    }
    assert_eq!(w.leave(first), Left::Now);
    assert!(w.peers[first].closed, "close_notify reached the one who left");
    w.run(Duration::from_millis(500));
    w.talk(&[second], 10);
    for (mid, kind) in &slots {
        assert_eq!(w.shown(watcher, *mid), [first as u8, second as u8]);
        let received = w.peers[watcher].in_slot(*mid);
        assert_continuous(&received);
        if *kind == MediaKind::Video {
            let ids: Vec<u16> =
                received.iter().map(|r| Vp8Descriptor::parse(&r.payload).unwrap().picture_id().unwrap()).collect();
            assert!(ids.windows(2).all(|p| p[1] == p[0] + 1), "{ids:?}");
        }
    }
    assert_eq!(w.leave(first), Left::Closed, "leaving twice is no error");
}

#[test]
fn loss_is_repaired_from_both_sides() {
    let mut w = World::new(10);
    let sender = w.sender("a", 0);
    let watcher = w.peer(&[], 1);
    let watcher = w.join("a", watcher);
    w.run_until(|w| w.peers[watcher].connected);
    w.talk(&[sender], 5);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // RTP only, so that the test is about repair and not about lost feedback.
    w.lossy = Some(Box::new(move |_, _, bytes| {
        bytes[0] & 0xc0 == 0x80 && !(192..224).contains(&bytes[1]) && rng.random_bool(0.1)
    }));
    w.talk(&[sender], 200);
    w.lossy = None;
    w.talk(&[sender], 20);
    let video = w.peers[watcher].slots.iter().find(|(_, k)| *k == MediaKind::Video).unwrap().0;
    let mut seqs: Vec<u64> = w.peers[watcher].in_slot(video).iter().map(|r| r.seq).collect();
    seqs.sort();
    seqs.dedup();
    let span = seqs.last().unwrap() - seqs[0] + 1;
    assert!(span >= 220, "{span}");
    let missing = span - seqs.len() as u64;
    assert!(missing * 100 <= span, "{missing} of {span} missing after repair at 10 % each way");
}

#[test]
fn codecs_do_not_mix() {
    let mut w = World::new(10);
    let sender = w.sender("a", 0);
    let vp8 = w.peer(&[], 1);
    let vp8 = w.join("a", vp8);
    let h264 = w.peer_with(&[], 1, Codec::H264);
    let h264 = w.join("a", h264);
    w.run_until(|w| w.peers.iter().all(|p| p.connected));
    w.talk(&[sender], 10);
    assert!(!w.peers[vp8].by_slot(MediaKind::Video).is_empty());
    assert!(w.peers[h264].by_slot(MediaKind::Video).is_empty(), "VP8 in a slot for H.264");
    assert!(!w.peers[h264].by_slot(MediaKind::Audio).is_empty());
}

#[test]
fn h264_is_forwarded_from_its_key_frame_on() {
    let mut w = World::new(10);
    let sender = w.peer_with(AUDIO_VIDEO, 0, Codec::H264);
    let sender = w.join("a", sender);
    let watcher = w.peer_with(&[], 1, Codec::H264);
    let watcher = w.join("a", watcher);
    w.run_until(|w| w.peers.iter().all(|p| p.connected));
    let idr = [24, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88];
    for frame in [&[0x41, 1][..], &[0x41, 2], &idr, &[0x41, 3]] {
        let now = w.now;
        w.peers[sender].send_video(now, frame);
        w.run(Duration::from_millis(30));
    }
    let got: Vec<&[u8]> = w.peers[watcher].received.iter().map(|r| r.payload.as_slice()).collect();
    assert_eq!(got, [&idr[..], &[0x41, 3]]);
}

#[test]
fn refuses_who_does_not_fit() {
    let mut w = World::new(2);
    w.sender("a", 1);
    let again = w.peer(AUDIO_VIDEO, 1);
    let error = w.sfu.join(w.now, "a", "p0", &again.offer).unwrap_err();
    assert_eq!(error, JoinError::Duplicate { room: "a".into(), name: "p0".into() });
    w.sender("b", 1);
    let third = w.peer(AUDIO_VIDEO, 1);
    assert_eq!(w.sfu.join(w.now, "a", "p9", &third.offer).unwrap_err(), JoinError::Full(2));
    assert_eq!(w.sfu.stats().joins_refused, 2);
    w.leave(0);
    assert!(w.sfu.join(w.now, "a", "p9", &third.offer).is_ok());
}

#[test]
fn the_silent_are_removed_and_their_slots_with_them() {
    let mut w = World::new(10);
    let gone = w.sender("a", 0);
    let watcher = w.peer(&[], 1);
    let watcher = w.join("a", watcher);
    w.run_until(|w| w.peers[watcher].connected);
    w.talk(&[gone], 3);
    let never = w.peer(AUDIO_VIDEO, 0);
    w.sfu.join(w.now, "a", "never", &never.offer).unwrap();
    w.lossy = Some(Box::new(move |up, peer, _| up && peer == gone));
    w.run(Duration::from_secs(25));
    let stats = w.sfu.stats();
    assert_eq!((stats.participants, stats.lost), (1, 2));
    assert_eq!(w.leave(gone), Left::Lost);
    let next = w.sender("a", 0);
    w.talk(&[next], 5);
    let mid = w.peers[watcher].slots[0].0;
    assert_eq!(w.shown(watcher, mid), [gone as u8, next as u8]);
}

#[test]
fn who_closes_the_transport_has_left() {
    let mut w = World::new(10);
    let peer = w.sender("a", 1);
    w.peers[peer].close();
    w.exchange();
    let stats = w.sfu.stats();
    assert_eq!((stats.participants, stats.rooms, stats.leaves), (0, 0, 1));
    assert_eq!(w.leave(peer), Left::Closed);
    w.run(Duration::from_secs(61));
    assert_eq!(w.leave(peer), Left::Unknown);
}

#[test]
fn garbage_changes_nothing() {
    let mut w = World::new(10);
    let peers = [w.sender("a", 1), w.sender("a", 1)];
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let known = w.peers[0].address;
    let stranger: SocketAddr = "10.9.9.9:9".parse().unwrap();
    for i in 0..20_000 {
        let len = rng.random_range(0..1400);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if let Some(first) = bytes.first_mut() {
            *first = [0, 1, 22, 0x80, 0x90, *first][i % 6];
        }
        let now = w.now;
        w.sfu.handle_datagram(now, if i % 2 == 0 { known } else { stranger }, &bytes);
        while let Some(datagram) = w.sfu.poll_transmit() {
            assert_ne!(datagram.to, stranger, "we never answer strangers");
        }
    }
    w.talk(&peers, 10);
    assert_eq!(w.peers[1].by_slot(MediaKind::Audio).len(), 1);
    assert_eq!(w.sfu.stats().participants, 2);
}

#[test]
fn bad_offers_are_refused_not_fatal() {
    let mut w = World::new(100_000);
    for offer in ["", "v=0\r\n", "{}", "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"] {
        assert!(matches!(w.sfu.join(w.now, "a", "x", offer), Err(JoinError::BadSdp(_))), "{offer:?}");
    }
    let good = w.peer(AUDIO_VIDEO, 2).offer;
    let other_codecs = good.replace("VP8/90000", "VP7/90000");
    assert!(matches!(w.sfu.join(w.now, "a", "x", &other_codecs), Err(JoinError::BadSdp(_))));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let lines: Vec<&str> = good.lines().collect();
    for round in 0..2000 {
        let mut lines = lines.clone();
        for _ in 0..rng.random_range(1..4) {
            let (i, j) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
            match rng.random_range(0..4) {
                0 => lines.swap(i, j),
                1 => lines[i] = lines[j],
                2 => lines[i] = &lines[i][..rng.random_range(0..=lines[i].len())],
                _ => drop(lines.remove(i)),
            }
        }
        let mut offer = lines.join("\r\n").into_bytes();
        if rng.random_bool(0.5) {
            let at = rng.random_range(0..offer.len());
            offer[at] = rng.random_range(32..127);
        }
        let offer = String::from_utf8_lossy(&offer);
        if let Ok(joined) = w.sfu.join(w.now, "a", &format!("x{round}"), &offer) {
            w.sfu.leave(w.now, &joined.session);
        }
    }
    assert_eq!(w.sfu.stats().participants, 0);
}

#[test]
fn candidates_in_offers_do_not_matter() {
    let mut w = World::new(10);
    let mut peer = w.peer(AUDIO_VIDEO, 1);
    peer.offer = peer.offer.replace(
        "a=mid:",
        "a=candidate:1 1 udp 2113937151 4d1e2c7a-5b0e-4c9d-9f9f-1f1f1f1f1f1f.local 50000 typ host generation 0\r\na=mid:",
    );
    let peer = w.join("a", peer);
    w.run_until(|w| w.peers[peer].connected);
}

#[test]
fn answers_prefer_the_video_codec_that_the_offer_does() {
    let mut w = World::new(10);
    for (first, second) in [(Codec::Vp8, Codec::H264), (Codec::H264, Codec::Vp8)] {
        // Both codecs, in this order, in one m-line: spliced, since a client on str0m has an order of its own.
        let [a, b] = [first, second].map(|codec| w.peer_with(&[MediaKind::Video], 0, codec).offer);
        let pts = |offer: &str| {
            let m = offer.lines().find(|l| l.starts_with("m=video")).unwrap();
            m.split_once("SAVPF ").unwrap().1.to_owned()
        };
        let codec_lines = |offer: &str| -> String {
            let of_codec = |l: &&str| ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"].iter().any(|p| l.starts_with(p));
            offer.lines().filter(of_codec).map(|l| format!("{l}\r\n")).collect()
        };
        let both = a
            .replace(&format!("SAVPF {}", pts(&a)), &format!("SAVPF {} {}", pts(&a), pts(&b)))
            .replace("a=rtcp-mux\r\n", &format!("a=rtcp-mux\r\n{}", codec_lines(&b)));
        let answer = w.sfu.join(w.now, "a", &format!("{first:?}"), &both).unwrap().answer;
        let answered = pts(&answer).split(' ').next().unwrap().to_owned();
        let name = if first == Codec::Vp8 { "VP8" } else { "H264" };
        assert!(answer.contains(&format!("a=rtpmap:{answered} {name}/")), "{answer}");
        assert!(answer.contains("VP8/90000") && answer.contains("H264/90000"));
    }
}
