//! RTCP between two participants, in virtual time: what is asked for, and what is answered.

mod wire;

use super::{Common, Event, Meter, Participant, Room, Sink, Spec, World};
use crate::measure::{Flow, FlowCounters, Hist};
use crate::media::clip::ClipLibrary;
use crate::media::rtcp::Writer;
use crate::plan::PlannedLeg;
use crate::signaling::OfferWant;
use crate::transport::{AllowList, Shared, Timing};
use crate::types::{Bitrate, Client, Codec, Encoding, Kind, LegId, RoomId, Suite};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EPOCH_NS: u64 = 1_800_000_000_000_000_000;
const STEP: Duration = Duration::from_millis(1);

thread_local! {
    static CLOCK: Cell<u64> = const { Cell::new(EPOCH_NS) };
}

#[derive(Default)]
struct Wire(Vec<Vec<u8>>);

impl Sink for Wire {
    fn send(&mut self, _slot: u8, _to: SocketAddr, datagram: &[u8]) {
        self.0.push(datagram.to_vec());
    }
}

/// What two participants are made from, and what becomes of their offer and answer on the way.
struct Making<'a> {
    suite: Suite,
    media: [[Option<Encoding>; 2]; 2],
    /// Of the first one's video.
    lower_layers: Vec<Encoding>,
    client: Client,
    offered: &'a dyn Fn(String) -> String,
    answered: &'a dyn Fn(String) -> String,
}

const VIDEO: Option<Encoding> = Some(Encoding { codec: Codec::Vp8, bitrate: Bitrate(500_000) });
const AUDIO: Option<Encoding> = Some(Encoding { codec: Codec::Opus, bitrate: Bitrate(32_000) });

impl Default for Making<'_> {
    /// One sends video, the other receives.
    fn default() -> Self {
        Making {
            suite: Suite::AeadAes128Gcm,
            media: [[None, VIDEO], [None, None]],
            lower_layers: Vec::new(),
            client: Client::Chrome,
            offered: &|sdp| sdp,
            answered: &|sdp| sdp,
        }
    }
}

struct Pair {
    start: Instant,
    now: Instant,
    participants: [Participant; 2],
    room: Room,
    wires: [Wire; 2],
    counts: [[FlowCounters; 2]; 2],
    /// Every datagram that left, with whose it was.
    tapped: Vec<(usize, Vec<u8>)>,
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 5000))
}

fn is_video(d: &[u8], ssrc: u32) -> bool {
    d[8..12] == ssrc.to_be_bytes() && !is_rtcp(d)
}

fn is_rtcp(d: &[u8]) -> bool {
    (128..192).contains(&d[0]) && (192..224).contains(&d[1])
}

impl Pair {
    /// `offered` may change the sender's offer before the receiver sees it.
    fn new(offered: impl Fn(String) -> String) -> Pair {
        Pair::made(Making { offered: &offered, ..Making::default() })
    }

    fn made(making: Making<'_>) -> Pair {
        let now = Instant::now();
        let common = Arc::new(Common {
            run: 1,
            transport: Shared::new(&[making.suite], Timing::default()).unwrap(),
            allow: Arc::new(AllowList::new(vec![("10.0.0.0".parse().unwrap(), 8)])),
            client: making.client,
            simulcast: crate::types::Simulcast::Rid,
        });
        let clips = ClipLibrary::load().unwrap();
        let clip = |e: Encoding| clips.clip(e).unwrap();
        let mut room = Room::new();
        let participants = [0, 1].map(|n| {
            let [audio, video] = making.media[n];
            let leg = PlannedLeg {
                id: LegId(n as u32),
                seat: 0,
                room: RoomId(0),
                name: format!("p{n}"),
                join_at: Duration::ZERO,
                leave_at: Duration::from_secs(3600),
                audio,
                video,
                network: None,
            };
            let lower_layers = making.lower_layers.iter().filter(|_| n == 0).map(|e| clip(*e)).collect();
            let spec = Spec {
                leg,
                clips: [audio, video].map(|e| e.map(clip)),
                lower_layers,
                steps: Vec::new(),
                seed: 3 + 10 * n as u64,
                planned_ns: EPOCH_NS,
                network_delay_max: Duration::ZERO,
                talk: Default::default(),
            };
            let mut p = Participant::new(now, spec, &common);
            room.join(LegId(n as u32), EPOCH_NS, p.sends());
            p.open(now, 0, address(n)).unwrap();
            p
        });
        let wires = Default::default();
        let mut pair = Pair { start: now, now, participants, room, wires, counts: Default::default(), tapped: vec![] };
        let [audio, video] = making.media[1].map(|e| u16::from(e.is_some()));
        let want = OfferWant { send: true, receive_audio: audio, receive_video: video, ..OfferWant::default() };
        let offer = (making.offered)(pair.with(0, |p, w| p.offer(w, 0, want)).unwrap());
        let answer = (making.answered)(pair.with(1, |p, w| p.accept_offer(w, 0, &offer)).unwrap());
        pair.with(0, |p, w| p.accept_answer(w, 0, &answer)).unwrap();
        pair
    }

    fn now_ns(&self) -> u64 {
        EPOCH_NS + self.now.duration_since(self.start).as_nanos() as u64
    }

    fn with<R>(&mut self, n: usize, f: impl FnOnce(&mut Participant, &mut World<'_>) -> R) -> R {
        let now_ns = self.now_ns();
        CLOCK.set(now_ns);
        let (mut meter, mut lateness, mut buf) = (Meter::allocated(), Hist::allocated(), [0; 2048]);
        let mut events: Vec<Event> = Vec::new();
        let mut w = World {
            now: self.now,
            now_ns,
            clock: || CLOCK.get(),
            room: &mut self.room,
            meter: &mut meter,
            lateness: &mut lateness,
            sink: &mut self.wires[n],
            buf: &mut buf,
            events: &mut events,
        };
        f(&mut self.participants[n], &mut w)
    }

    /// A step later what was sent arrives, as often as `times` says.
    fn run(&mut self, length: Duration, times: impl Fn(usize, &[u8]) -> usize) {
        let until = self.now + length;
        while self.now < until {
            self.now += STEP;
            for n in 0..2 {
                if self.participants[n].poll_timeout() <= self.now {
                    self.with(n, |p, w| p.handle_timeout(w));
                }
            }
            for n in 0..2 {
                let recv_ns = self.now_ns();
                for datagram in std::mem::take(&mut self.wires[n].0) {
                    self.tapped.push((n, datagram.clone()));
                    for _ in 0..times(n, &datagram) {
                        self.with(1 - n, |p, w| p.on_datagram(w, 0, address(n), recv_ns, &mut datagram.clone()));
                    }
                }
            }
        }
        for n in 0..2 {
            let mut flows = <[Flow; 2]>::default();
            let delta = self.with(n, |p, w| p.sample(w, &mut flows));
            (0..2).for_each(|k| self.counts[n][k] += &delta[k]);
        }
    }

    fn video(&self, n: usize) -> &FlowCounters {
        &self.counts[n][Kind::Video.index()]
    }
}

fn ssrc(pair: &Pair) -> u32 {
    pair.participants[0].tracks[0].ssrc
}

fn each(_: usize, _: &[u8]) -> usize {
    1
}

#[test]
fn a_server_that_takes_only_fir_is_asked_by_fir() {
    let without = |lines: &'static [&str]| {
        move |sdp: String| {
            let kept = |l: &&str| !lines.iter().any(|no| l.starts_with("a=rtcp-fb") && l.ends_with(no));
            sdp.lines().filter(kept).map(|l| format!("{l}\r\n")).collect::<String>()
        }
    };
    for (removed, plis, firs) in
        [(&["nack pli"][..], false, true), (&[][..], true, false), (&["nack pli", "ccm fir"][..], false, false)]
    {
        let mut pair = Pair::new(without(removed));
        let ssrc = ssrc(&pair);
        // All media of the first half second is lost, and with it the key frame.
        pair.run(Duration::from_millis(500), |_, d| usize::from(!is_video(d, ssrc)));
        pair.run(Duration::from_secs(3), each);
        let (asked, got) = (pair.video(1), pair.video(0));
        assert_eq!((asked.plis_sent > 0, asked.firs_sent > 0), (plis, firs), "without {removed:?}: {asked:?}");
        assert_eq!((got.plis_received, got.firs_received), (asked.plis_sent, asked.firs_sent), "{removed:?}");
        assert!(!(plis || firs) || asked.key_frames > 0, "{removed:?}: {asked:?}");
    }
}

#[test]
fn a_packet_is_sent_again_once_within_a_round_trip() {
    let mut pair = Pair::new(|sdp| sdp);
    let ssrc = ssrc(&pair);
    pair.run(Duration::from_secs(2), each);
    assert!(pair.video(1).frames > 30, "{:?}", pair.video(1));
    let before = pair.video(0).retransmitted;
    let last = pair.participants[0].tracks[0].sender.seq();
    let ask = |pair: &mut Pair, times: usize| {
        let mut plain = [0; 1100];
        let mut wr = Writer::new(&mut plain);
        for _ in 0..times {
            wr.nack(9, ssrc, [last.wrapping_sub(1), last].into_iter()).unwrap();
        }
        let (n, recv_ns) = (wr.len(), pair.now_ns());
        pair.with(0, |p, w| p.on_rtcp(w, 0, recv_ns, &plain[..n]));
    };
    ask(&mut pair, 60);
    assert_eq!(pair.wires[0].0.len(), 2, "two packets, asked for sixty times in one datagram");
    pair.run(Duration::from_millis(100), each);
    ask(&mut pair, 1);
    assert_eq!(pair.wires[0].0.len(), 2, "lost again, for all that is known");
    pair.run(Duration::from_millis(5), each);
    assert_eq!(pair.video(0).retransmitted - before, 4);
}

#[test]
fn a_report_that_comes_twice_is_a_replay() {
    let mut pair = Pair::new(|sdp| sdp);
    pair.run(Duration::from_secs(8), |n, d| if n == 0 && is_rtcp(d) { 2 } else { 1 });
    let got = pair.video(1);
    assert!(got.replayed > 0, "{got:?}");
    assert_eq!(got.auth_failed, 0);
}
