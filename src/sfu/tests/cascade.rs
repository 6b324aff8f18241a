//! Two servers that share rooms.

use super::str0m_peer::{AUDIO_VIDEO, Peer, Received};
use super::*;

struct Fleet {
    now: Instant,
    sfus: [Sfu; 2],
    /// Each with its server.
    peers: Vec<(usize, Peer)>,
    sessions: Vec<String>,
    /// Datagrams between the servers that are lost, of the next ones.
    lose: usize,
}

const CASCADE: [&str; 2] = ["10.0.0.1:5000", "10.0.0.2:5000"];

fn cascade(server: usize) -> SocketAddr {
    CASCADE[server].parse().unwrap()
}

impl Fleet {
    fn new() -> Fleet {
        let now = Instant::now();
        let sfu = |n: u8| {
            let media = SocketAddr::from(([10, 0, 0, n], 4000));
            Sfu::new(SfuConfig::new(media, 20).unwrap(), now)
        };
        Fleet { now, sfus: [sfu(1), sfu(2)], peers: Vec::new(), sessions: Vec::new(), lose: 0 }
    }

    fn share(&mut self, room: &str, version: u64) {
        for server in 0..2 {
            assert!(self.sfus[server].set_cascade(self.now, room, version, &[cascade(1 - server)]));
        }
    }

    fn join(&mut self, server: usize, room: &str, sends: &[MediaKind], slots: usize) -> usize {
        let n = self.peers.len();
        let address = SocketAddr::from(([10, 0, 1, n as u8 + 1], 5000));
        let mut peer = Peer::new(self.now, address, sends, slots, Codec::Vp8);
        let joined = self.sfus[server].join(self.now, room, &format!("p{n}"), &peer.offer).unwrap();
        peer.accept(self.now, &joined.answer);
        self.peers.push((server, peer));
        self.sessions.push(joined.session);
        for _ in 0..200 {
            if self.peers[n].1.connected {
                return n;
            }
            self.step();
        }
        panic!("never connected");
    }

    fn leave(&mut self, peer: usize) {
        self.sfus[self.peers[peer].0].leave(self.now, &self.sessions[peer]);
        self.exchange();
    }

    fn exchange(&mut self) {
        for _ in 0..1000 {
            let mut quiet = true;
            for (server, peer) in &mut self.peers {
                for (_, bytes) in std::mem::take(&mut peer.out) {
                    quiet = false;
                    self.sfus[*server].handle_datagram(self.now, peer.address, &bytes);
                }
            }
            for server in 0..2 {
                let media = self.sfus[server].config().media;
                while let Some(d) = self.sfus[server].poll_transmit() {
                    quiet = false;
                    if let Some((_, peer)) = self.peers.iter_mut().find(|(_, p)| p.address == d.to) {
                        peer.handle_datagram(self.now, media, &d.contents);
                    }
                }
                while let Some(d) = self.sfus[server].poll_cascade() {
                    quiet = false;
                    assert_eq!(d.to, cascade(1 - server));
                    match self.lose {
                        0 => self.sfus[1 - server].handle_cascade(self.now, cascade(server), &d.contents),
                        _ => self.lose -= 1,
                    }
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
        for (_, peer) in &mut self.peers {
            if peer.timeout <= self.now {
                peer.handle_timeout(self.now);
            }
        }
        for sfu in &mut self.sfus {
            if sfu.poll_timeout() <= self.now {
                sfu.handle_timeout(self.now);
            }
        }
        self.exchange();
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    /// A key frame only when one is asked for; the first frame of all is none.
    fn talk(&mut self, senders: &[usize], frames: u32) {
        let mut answered: Vec<usize> = senders.iter().map(|s| self.peers[*s].1.key_frame_requests).collect();
        for _ in 0..frames {
            for (i, &s) in senders.iter().enumerate() {
                let peer = &mut self.peers[s].1;
                let key = peer.key_frame_requests > answered[i];
                answered[i] = peer.key_frame_requests;
                peer.send_audio(self.now, &[s as u8, 0xa0]);
                peer.send_vp8(self.now, key, &[s as u8, 0x50]);
            }
            self.exchange();
            self.run(Duration::from_millis(30));
        }
    }

    /// Who was received in slots of a kind, and how many packets of each.
    fn heard(&self, receiver: usize, kind: MediaKind) -> Vec<(u8, usize)> {
        let who = |r: &Received| r.payload[r.payload.len() - 2];
        let mut all: Vec<u8> = self.peers[receiver].1.received.iter().filter(|r| r.kind == kind).map(who).collect();
        all.sort();
        all.chunk_by(|a, b| a == b).map(|c| (c[0], c.len())).collect()
    }
}

#[test]
fn a_room_on_two_servers_is_one_room() {
    let mut f = Fleet::new();
    f.share("a", 1);
    let room: Vec<usize> = [0, 1, 0, 1].into_iter().map(|server| f.join(server, "a", AUDIO_VIDEO, 3)).collect();
    // Key frames for receivers on the other server are asked for across.
    f.talk(&room, 40);
    for &me in &room {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let heard = f.heard(me, kind);
            let others: Vec<u8> = room.iter().filter(|p| **p != me).map(|p| *p as u8).collect();
            assert_eq!(heard.iter().map(|(who, _)| *who).collect::<Vec<_>>(), others, "{me} {kind:?}");
            assert!(heard.iter().all(|(_, n)| *n >= 20), "{me} {kind:?} {heard:?}");
        }
        for (mid, _) in f.peers[me].1.slots.clone() {
            assert_continuous(&f.peers[me].1.in_slot(mid));
        }
    }
    for sfu in &f.sfus {
        let stats = sfu.stats();
        assert_eq!((stats.participants, stats.connected, stats.rooms), (2, 2, 1), "those of the other are not its own");
        // Two senders of two packets a frame, each to one other server; requests besides.
        assert!((2 * 2 * 40..2 * 2 * 40 + 20).contains(&stats.cascade_out), "{stats:?}");
        assert_eq!((stats.cascade_dropped, stats.rtp_dropped), (0, 0));
        assert_eq!(sfu.sessions(None).len(), 2);
    }
}

#[test]
fn who_leaves_frees_slots_on_the_other_server() {
    let mut f = Fleet::new();
    f.share("a", 1);
    let first = f.join(0, "a", AUDIO_VIDEO, 0);
    let watcher = f.join(1, "a", &[], 1);
    f.talk(&[first], 20);
    f.leave(first);
    let second = f.join(0, "a", AUDIO_VIDEO, 0);
    f.talk(&[second], 20);
    let heard = f.heard(watcher, MediaKind::Video);
    assert_eq!(heard.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [first as u8, second as u8]);
    // Nobody is there to see it: what still comes is dropped, and no room comes to be of it.
    f.leave(watcher);
    f.talk(&[second], 5);
    let stats = f.sfus[1].stats();
    assert_eq!((stats.rooms, stats.participants), (0, 0));
    assert!(stats.cascade_dropped >= 10, "{stats:?}");
    // Whoever comes back is told again who is there.
    let late = f.join(1, "a", &[], 1);
    f.talk(&[second], 20);
    assert_eq!(f.heard(late, MediaKind::Audio)[0].0, second as u8);
}

#[test]
fn a_lost_word_between_servers_is_made_up_for() {
    let mut f = Fleet::new();
    f.share("a", 1);
    let sender = f.join(0, "a", AUDIO_VIDEO, 0);
    let watcher = f.join(1, "a", &[], 1);
    f.talk(&[sender], 1);
    // The request for a key frame is among these.
    f.lose = 4;
    f.talk(&[sender], 60);
    assert!(f.heard(watcher, MediaKind::Video)[0].1 > 20);
    // And so is the word that he has gone: after a while he is held for gone.
    f.lose = usize::MAX;
    f.leave(sender);
    f.lose = 0;
    let next = f.join(0, "a", AUDIO_VIDEO, 0);
    f.run(Duration::from_secs(22));
    f.talk(&[next], 40);
    let heard = f.heard(watcher, MediaKind::Video);
    assert_eq!(heard.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [sender as u8, next as u8]);
}

#[test]
fn only_servers_of_the_room_are_heeded() {
    let mut f = Fleet::new();
    let sender = f.join(0, "a", AUDIO_VIDEO, 0);
    let watcher = f.join(1, "a", &[], 1);
    f.talk(&[sender], 5);
    assert_eq!(f.sfus[0].stats().cascade_out, 0, "nobody said that the room is shared");
    f.sfus[0].set_cascade(f.now, "a", 1, &[cascade(1)]);
    f.talk(&[sender], 5);
    assert_eq!(f.sfus[1].stats().cascade_dropped, 10, "a stranger's");
    f.share("a", 2);
    // Late words of old are not heeded.
    f.sfus[1].set_cascade(f.now, "a", 1, &[]);
    f.talk(&[sender], 20);
    assert!(f.heard(watcher, MediaKind::Audio)[0].1 >= 20);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..20_000 {
        let len = rng.random_range(0..200);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        for (b, magic) in bytes.iter_mut().zip([0xca, 1]) {
            *b = magic;
        }
        f.sfus[1].handle_cascade(f.now, cascade(0), &bytes);
    }
    f.sfus[1].set_cascade(f.now, "a", 3, &[]);
    assert_eq!(f.sfus[1].stats().rooms, 1);
    let before = f.heard(watcher, MediaKind::Audio)[0].1;
    f.talk(&[sender], 5);
    assert_eq!(f.heard(watcher, MediaKind::Audio)[0].1, before, "the room is here alone");
}
