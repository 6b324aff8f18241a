//! One room on one SFU, in virtual time. Every datagram takes `delay`; a link may drop datagrams, and says which.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use roomful::client::policy;
use roomful::impair::{Conditions, Fate, Link, Loss, seed};
use roomful::measure::{Flow, FlowCounters, Hist};
use roomful::media::clip::ClipLibrary;
use roomful::participant::{Common, Event, Meter, Participant, Room, Sink, Spec, TalkSpec, Totals, World};
use roomful::plan::PlannedLeg;
use roomful::sfu::{Sfu, SfuConfig};
use roomful::signaling::{OfferWant, TransportState};
use roomful::transport::{AllowList, Shared, Timing};
use roomful::types::{Bitrate, Client, Codec, Encoding, LegId, RoomId, Simulcast, Suite};
use std::cell::Cell;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// CLOCK_REALTIME at the start of every simulation.
const EPOCH_NS: u64 = 1_800_000_000_000_000_000;
const RUN: u32 = 0x5151_0001;

thread_local! {
    static CLOCK: Cell<u64> = const { Cell::new(EPOCH_NS) };
}

fn clock() -> u64 {
    CLOCK.with(Cell::get)
}

pub fn clips() -> &'static ClipLibrary {
    static CLIPS: OnceLock<ClipLibrary> = OnceLock::new();
    CLIPS.get_or_init(|| ClipLibrary::load().unwrap())
}

/// What a participant's network does, up and down, beside the simulation's own delay.
pub type Network = [Conditions; 2];

/// That each RTP datagram is lost by itself.
pub fn loses(share: f64) -> Conditions {
    Conditions { loss: Loss::Independent(share), ..Conditions::default() }
}

/// An RTP packet that a member sent, before its network.
pub struct Tapped {
    pub at: Instant,
    pub payload_type: u8,
    pub seq: u16,
    pub ssrc: u32,
    pub len: usize,
}

pub struct Member {
    pub participant: Participant,
    /// The offer of its first transport.
    pub offer: String,
    pub addr: SocketAddr,
    /// Up and down, with their records. What is no RTP passes beside them, unless all are impaired.
    pub links: [Link; 2],
    pub states: Vec<TransportState>,
    pub state_at: Vec<Instant>,
    /// Codes of what it told of.
    pub notes: Vec<&'static str>,
    /// With each of `first`: for how long packet and frame were waited for that never came, ms.
    pub in_vain: Vec<(LegId, [Option<f64>; 2])>,
    pub first: Vec<(LegId, Option<f64>, Option<f64>)>,
    /// By transport.
    pub sessions: Vec<String>,
    pub flows: [Flow; 2],
    pub counts: [FlowCounters; 2],
    /// RTP datagrams that this member's links dropped, up and down.
    pub dropped: [u64; 2],
    pub gone: bool,
    /// Once it has left.
    pub totals: Option<Totals>,
}

struct Flight {
    at: Instant,
    order: u64,
    /// Index of the member it is for and the transport, or `None` for the SFU.
    to: Option<(usize, u8)>,
    from: SocketAddr,
    data: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, o: &Flight) -> bool {
        self.order == o.order
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, o: &Flight) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Flight {
    fn cmp(&self, o: &Flight) -> std::cmp::Ordering {
        (o.at, o.order).cmp(&(self.at, self.order))
    }
}

#[derive(Default)]
struct Collected(Vec<(u8, SocketAddr, Vec<u8>)>);

impl Sink for Collected {
    fn send(&mut self, slot: u8, to: SocketAddr, datagram: &[u8]) {
        self.0.push((slot, to, datagram.to_vec()));
    }
}

pub struct Sim {
    pub start: Instant,
    pub now: Instant,
    pub delay: Duration,
    pub sfu: Sfu,
    sfu_addr: SocketAddr,
    rooms: BTreeMap<RoomId, Room>,
    pub members: Vec<Member>,
    pub meter: Meter,
    second_meter: Meter,
    /// Of this second so far, what no sample brings: delays, and those who left.
    left_over: [Flow; 2],
    lateness: Hist,
    common: Arc<Common>,
    other_run: Arc<Common>,
    /// Who joins next belongs to another run.
    pub foreign: bool,
    flights: BinaryHeap<Flight>,
    order: u64,
    rng: ChaCha12Rng,
    seed: u64,
    /// Else only RTP is.
    pub all_impaired: bool,
    pub network_delay_max: Duration,
    next_second: Instant,
    /// Of who joins next.
    pub talk: TalkSpec,
    pub lower_layers: Vec<Encoding>,
    /// What senders who join next may step down to.
    pub steps: Vec<Encoding>,
    /// The SFU sees nothing of it in offers.
    pub refuses_simulcast: bool,
    /// Whose RTP is looked at on its way out.
    pub tap: Option<usize>,
    pub tapped: Vec<Tapped>,
    /// When members hear what the SFU tells them (last-N), after it said so; `None`: never.
    pub word_after: Option<Duration>,
    /// That is a lie: it names all.
    pub words_name_all: bool,
    words: Vec<(Instant, usize, Vec<LegId>)>,
    /// What members heard, and when.
    pub told: Vec<(Instant, usize, Vec<LegId>)>,
    /// When participants were sampled, CLOCK_REALTIME in ns.
    pub sampled_ns: Vec<u64>,
    /// What all measured in each second, audio and video.
    pub seconds: Vec<[Flow; 2]>,
}

pub fn encoding(codec: Codec, kbit: u64) -> Encoding {
    Encoding { codec, bitrate: Bitrate(kbit * 1000) }
}

impl Sim {
    pub fn new(seed: u64, client: Client, delay: Duration) -> Sim {
        Sim::with_suites(seed, client, policy(client).suites, delay)
    }

    /// With these SRTP suites offered; the SFU takes GCM where it can.
    pub fn with_suites(seed: u64, client: Client, suites: &[Suite], delay: Duration) -> Sim {
        CLOCK.with(|c| c.set(EPOCH_NS));
        let now = Instant::now();
        let sfu_addr: SocketAddr = "10.0.0.1:5000".parse().unwrap();
        let common = Arc::new(Common {
            run: RUN,
            transport: Shared::new(suites, Timing::default()).unwrap(),
            allow: Arc::new(AllowList::new(vec![("10.0.0.0".parse().unwrap(), 8)])),
            client,
            simulcast: Simulcast::Rid,
        });
        Sim {
            start: now,
            now,
            delay,
            sfu: Sfu::new(SfuConfig::new(sfu_addr, 1000).unwrap(), now),
            sfu_addr,
            rooms: BTreeMap::new(),
            seconds: Vec::new(),
            members: Vec::new(),
            meter: Meter::allocated(),
            second_meter: Meter::allocated(),
            left_over: Default::default(),
            lateness: Hist::allocated(),
            other_run: Arc::new(Common {
                run: RUN + 1,
                transport: common.transport.clone(),
                allow: common.allow.clone(),
                client,
                simulcast: common.simulcast,
            }),
            foreign: false,
            common,
            flights: BinaryHeap::new(),
            order: 0,
            rng: ChaCha12Rng::seed_from_u64(seed),
            seed,
            all_impaired: false,
            network_delay_max: Duration::ZERO,
            next_second: now + Duration::from_secs(1),
            talk: TalkSpec::default(),
            lower_layers: Vec::new(),
            steps: Vec::new(),
            refuses_simulcast: false,
            tap: None,
            tapped: Vec::new(),
            word_after: Some(Duration::from_millis(5)),
            words_name_all: false,
            words: Vec::new(),
            told: Vec::new(),
            sampled_ns: Vec::new(),
        }
    }

    /// How layers are told apart; before anybody joins.
    pub fn layers_by(&mut self, simulcast: Simulcast) {
        Arc::get_mut(&mut self.common).unwrap().simulcast = simulcast;
    }

    /// The SFU shows so many of those who talked last; before anybody joins.
    pub fn last_n(&mut self, n: u32) {
        let mut config = SfuConfig::new(self.sfu_addr, 1000).unwrap();
        config.last_n = Some(n);
        self.sfu = Sfu::new(config, self.now);
    }

    pub fn now_ns(&self) -> u64 {
        EPOCH_NS + self.now.duration_since(self.start).as_nanos() as u64
    }

    /// A participant joins now; signalling takes no time. `slots` receive slots of each kind.
    pub fn join(&mut self, audio: Option<Encoding>, video: Option<Encoding>, slots: u16, network: Network) -> usize {
        let n = self.members.len();
        let leg = PlannedLeg {
            id: LegId(n as u32),
            room: RoomId(0),
            seat: n as u32,
            name: format!("p{n}"),
            join_at: self.now.duration_since(self.start),
            leave_at: Duration::from_secs(3600),
            audio,
            video,
            network: None,
        };
        let clip = |e: Option<Encoding>| e.map(|e| clips().clip(e).unwrap());
        let planned_ns = self.now_ns();
        let spec = Spec {
            leg,
            clips: [clip(audio), clip(video)],
            lower_layers: self
                .lower_layers
                .iter()
                .map(|e| clip(Some(*e)).unwrap())
                .filter(|_| video.is_some())
                .collect(),
            steps: self.steps.iter().map(|e| clip(Some(*e)).unwrap()).filter(|_| video.is_some()).collect(),
            seed: self.rng.random(),
            planned_ns,
            network_delay_max: self.network_delay_max,
            talk: self.talk.clone(),
        };
        let want = OfferWant {
            send: audio.is_some() || video.is_some(),
            receive_audio: slots,
            receive_video: slots,
            ..OfferWant::default()
        };
        self.enter(spec, "room", want, network)
    }

    /// A participant of any room joins now.
    pub fn enter(&mut self, spec: Spec, room: &str, want: OfferWant, network: Network) -> usize {
        let n = self.members.len();
        let planned_ns = spec.planned_ns;
        let common = if self.foreign { &self.other_run } else { &self.common };
        let participant = Participant::new(self.now, spec, common);
        let of = self.rooms.entry(participant.room()).or_default();
        // Nobody here knows what another run's participants send.
        if !self.foreign {
            of.join(LegId(n as u32), planned_ns, participant.sends());
        }
        let addr = SocketAddr::new([10, 0, 1, n as u8].into(), 6000);
        let link_seed = self.seed;
        self.members.push(Member {
            participant,
            offer: String::new(),
            addr,
            links: [0, 1].map(|way| Link::new(network[way], seed(link_seed, n as u64, way as u64)).recorded()),
            states: vec![],
            state_at: vec![],
            notes: vec![],
            in_vain: vec![],
            first: vec![],
            sessions: vec![],
            flows: Default::default(),
            counts: Default::default(),
            dropped: [0; 2],
            gone: false,
            totals: None,
        });
        self.open(n, room, want);
        n
    }

    /// One transport more, to a room of the SFU, which may stand for another server.
    fn open(&mut self, n: usize, room: &str, want: OfferWant) -> u8 {
        let (now, slot) = (self.now, self.members[n].sessions.len() as u8);
        let addr = address(&self.members[n], slot);
        self.members[n].participant.open(now, slot, addr).unwrap();
        let offer = self.with(n, |p, w| p.offer(w, slot, want)).unwrap();
        if slot == 0 {
            self.members[n].offer.clone_from(&offer);
        }
        let of_layers = |l: &str| l.starts_with("a=rid:") || l.starts_with("a=simulcast:");
        let heard: String = offer.split_inclusive('\n').filter(|l| !self.refuses_simulcast || !of_layers(l)).collect();
        let joined = self.sfu.join(now, room, &format!("p{n}"), &heard).unwrap();
        self.with(n, |p, w| p.accept_answer(w, slot, &joined.answer)).unwrap();
        self.members[n].sessions.push(joined.session);
        self.drain_sfu();
        slot
    }

    /// Joins another room beside its own, as somebody does who is told to move; what it sends stays where it is.
    pub fn open_second(&mut self, n: usize, slots: u16) -> u8 {
        let want = OfferWant {
            send: true,
            receive_audio: slots,
            receive_video: slots,
            keep_sending: true,
            ..OfferWant::default()
        };
        self.open(n, "room elsewhere", want)
    }

    /// Ends one of its transports, as a driver does.
    pub fn close(&mut self, n: usize, slot: u8) {
        let (now, session) = (self.now, self.members[n].sessions[usize::from(slot)].clone());
        self.sfu.leave(now, &session);
        self.drain_sfu();
        self.with(n, |p, w| p.close(w, slot));
    }

    /// Leaves as a driver does: quiet, DELETE, close.
    pub fn leave(&mut self, n: usize) -> Totals {
        self.with(n, |p, w| p.go_quiet(w));
        let mut flows = <[Flow; 2]>::default();
        let (delta, totals) = self.with(n, |p, w| {
            let r = p.finish(w, &mut flows);
            (0..2).for_each(|slot| p.close(w, slot));
            w.room.leave(p.leg(), w.now_ns);
            r
        });
        self.count(n, &flows, &delta);
        (0..2).for_each(|k| self.left_over[k].merge(&flows[k]));
        self.settle_meter();
        for session in self.members[n].sessions.clone() {
            self.sfu.leave(self.now, &session);
        }
        self.drain_sfu();
        self.members[n].gone = true;
        self.members[n].totals = Some(totals.clone());
        totals
    }

    /// The same, with the transport closed before the last sample, as it is where the server is quick to hang up.
    pub fn leave_closed(&mut self, n: usize) {
        self.with(n, |p, w| p.close(w, 0));
        self.leave(n);
    }

    pub fn quiet(&mut self, n: usize) {
        self.with(n, |p, w| p.go_quiet(w));
    }

    pub fn with<R>(&mut self, n: usize, f: impl FnOnce(&mut Participant, &mut World<'_>) -> R) -> R {
        let (mut out, mut events, mut buf) = (Collected::default(), vec![], [0u8; 2048]);
        let now_ns = self.now_ns();
        CLOCK.with(|c| c.set(now_ns));
        let m = &mut self.members[n];
        let room = self.rooms.get_mut(&m.participant.room()).unwrap();
        let mut w = World {
            now: self.now,
            now_ns,
            clock,
            room,
            meter: &mut self.second_meter,
            lateness: &mut self.lateness,
            sink: &mut out,
            buf: &mut buf,
            events: &mut events,
        };
        let r = f(&mut m.participant, &mut w);
        for e in events {
            match e {
                Event::State { state, at, .. } => {
                    // Keys are made anew for each run, whatever the seed.
                    m.states.push(match state {
                        TransportState::Connected { suite, .. } => TransportState::Connected { suite, certificate: 0 },
                        other => other,
                    });
                    m.state_at.push(at);
                }
                Event::FirstMedia { from, rtp_ms, frame_ms, in_vain_ms } => {
                    m.first.push((from, rtp_ms, frame_ms));
                    m.in_vain.push((from, in_vain_ms));
                }
                Event::Note { code, .. } => m.notes.push(code),
                Event::Connect { .. } | Event::Disconnect { .. } | Event::Closed { .. } => {}
            }
        }
        for (slot, to, data) in out.0 {
            assert_eq!(to, self.sfu_addr, "a packet to somebody who is not the SFU");
            if self.tap == Some(n) && is_rtp(&data) {
                self.tapped.push(Tapped {
                    at: self.now,
                    payload_type: data[1] & 0x7f,
                    seq: u16::from_be_bytes([data[2], data[3]]),
                    ssrc: u32::from_be_bytes([data[8], data[9], data[10], data[11]]),
                    len: data.len(),
                });
            }
            let from = address(&self.members[n], slot);
            self.through(n, 0, None, from, data);
        }
        r
    }

    /// Through a member's link, then on its way.
    fn through(&mut self, n: usize, way: usize, to: Option<(usize, u8)>, from: SocketAddr, data: Vec<u8>) {
        if !self.all_impaired && !is_rtp(&data) {
            return self.fly(self.now, to, from, data);
        }
        let now_ns = self.now_ns();
        let m = &mut self.members[n];
        let Fate::Passed(p) = m.links[way].offer(now_ns, &data) else {
            m.dropped[way] += 1;
            return;
        };
        let at = self.now + Duration::from_nanos(p.due_ns - now_ns);
        for _ in 0..=usize::from(p.twice) {
            let mut data = data.clone();
            p.corrupt(&mut data);
            self.fly(at, to, from, data);
        }
    }

    fn fly(&mut self, at: Instant, to: Option<(usize, u8)>, from: SocketAddr, data: Vec<u8>) {
        self.order += 1;
        self.flights.push(Flight { at: at + self.delay, order: self.order, to, from, data });
    }

    fn drain_sfu(&mut self) {
        while let Some(d) = self.sfu.poll_transmit() {
            let here = |m: &Member| m.addr.ip() == d.to.ip() && !m.gone;
            let Some(n) = self.members.iter().position(here) else { continue };
            let slot = (d.to.port() - self.members[n].addr.port()) as u8;
            self.through(n, 1, Some((n, slot)), self.sfu_addr, d.contents);
        }
        while let Some(word) = self.sfu.poll_told() {
            let Some(after) = self.word_after else { continue };
            let Some(n) = self.members.iter().position(|m| m.sessions.contains(&word.session)) else { continue };
            let leg = |name: &String| LegId(name.strip_prefix('p').unwrap().parse().unwrap());
            let senders = match self.words_name_all {
                true => (0..self.members.len() as u32).map(LegId).collect(),
                false => word.senders.iter().map(leg).collect(),
            };
            self.words.push((self.now + after, n, senders));
        }
    }

    fn hear(&mut self) {
        while let Some(at) = self.words.iter().position(|w| w.0 <= self.now) {
            let (_, n, senders) = self.words.remove(at);
            if !self.members[n].gone {
                self.told.push((self.now, n, senders.clone()));
                self.with(n, |p, w| p.set_forwarded(w, senders));
            }
        }
    }

    fn count(&mut self, n: usize, flows: &[Flow; 2], delta: &[FlowCounters; 2]) {
        for k in 0..2 {
            self.members[n].flows[k].merge(&flows[k]);
            self.members[n].counts[k] += &delta[k];
        }
    }

    /// What was metered until now goes to the whole, and to this second.
    fn settle_meter(&mut self) {
        for k in 0..2 {
            let (now, rest) = (&mut self.second_meter, &mut self.left_over[k]);
            rest.delay.merge(&now.delay[k]);
            rest.rtt.merge(&now.rtt[k]);
            self.meter.delay[k].merge(&now.delay[k]);
            self.meter.rtt[k].merge(&now.rtt[k]);
            now.delay[k].clear();
            now.rtt[k].clear();
        }
    }

    pub fn run(&mut self, d: Duration) {
        let until = self.now + d;
        while self.now < until {
            let mut next = until.min(self.next_second).min(self.sfu.poll_timeout());
            for m in self.members.iter().filter(|m| !m.gone) {
                next = next.min(m.participant.poll_timeout());
            }
            if let Some(word) = self.words.iter().map(|w| w.0).min() {
                next = next.min(word);
            }
            if let Some(f) = self.flights.peek() {
                next = next.min(f.at);
            }
            // A timer in the past must not stop time.
            self.now = next.max(self.now + Duration::from_micros(10));
            while self.flights.peek().is_some_and(|f| f.at <= self.now) {
                let mut f = self.flights.pop().unwrap();
                match f.to {
                    None => {
                        self.sfu.handle_datagram(self.now, f.from, &f.data);
                        self.drain_sfu();
                    }
                    Some((n, slot)) if !self.members[n].gone => {
                        let at = EPOCH_NS + f.at.duration_since(self.start).as_nanos() as u64;
                        self.with(n, |p, w| p.on_datagram(w, slot, f.from, at, &mut f.data));
                    }
                    Some(_) => {}
                }
            }
            self.hear();
            for n in 0..self.members.len() {
                if !self.members[n].gone && self.members[n].participant.poll_timeout() <= self.now {
                    self.with(n, |p, w| p.handle_timeout(w));
                }
            }
            if self.sfu.poll_timeout() <= self.now {
                self.sfu.handle_timeout(self.now);
            }
            self.drain_sfu();
            if self.now >= self.next_second {
                self.next_second += Duration::from_secs(1);
                self.sampled_ns.push(self.now_ns());
                let mut second = <[Flow; 2]>::default();
                for n in 0..self.members.len() {
                    if self.members[n].gone {
                        continue;
                    }
                    let mut flows = <[Flow; 2]>::default();
                    let delta = self.with(n, |p, w| p.sample(w, &mut flows));
                    self.count(n, &flows, &delta);
                    (0..2).for_each(|k| second[k].merge(&flows[k]));
                }
                self.settle_meter();
                let rest = std::mem::take(&mut self.left_over);
                (0..2).for_each(|k| second[k].merge(&rest[k]));
                self.seconds.push(second);
            }
        }
        self.settle_meter();
    }

    /// The SFU is told which layer a member gets at most.
    pub fn limit_layers(&mut self, n: usize, layer_max: u8) {
        assert!(self.sfu.limit_layers(self.now, "room", Some(&format!("p{n}")), layer_max));
        self.drain_sfu();
    }

    pub fn connected(&self, n: usize) -> bool {
        self.members[n].states.iter().any(|s| matches!(s, TransportState::Connected { .. }))
    }
}

/// Where a member's transport is.
fn address(m: &Member, slot: u8) -> SocketAddr {
    SocketAddr::new(m.addr.ip(), m.addr.port() + u16::from(slot))
}

fn is_rtp(d: &[u8]) -> bool {
    (128..192).contains(&d[0]) && !(192..224).contains(&d[1])
}
