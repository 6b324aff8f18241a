//! How many participants one core carries. One real shard thread on core 0; on core 1, in the SFU's place, the cheapest
//! honest forwarder: one socket, each packet opened once and sealed for the four others of its room with their own keys.
//! Opus of 32 kbit/s and VP8 of 500 kbit/s out, the four others' in; reports, NACK, PLI, statistics on. Over loopback,
//! where the shard's thread also pays for the forwarder's reception of what it sends, and the other way round.
//!
//! `cargo bench --bench participants`: both suites, at the load that one core has to carry and at half of it.
//! `cargo bench --bench participants -- N SECONDS gcm|sha1`: one measurement.
//! `cargo bench --bench participants -- idle N`: connected, without media.
//! `cargo bench --bench participants -- floor N gcm|sha1`: the least that the same traffic costs on this machine.
//! `cargo bench --bench participants -- memory N`: the participants' own work alone, without sockets.
#![expect(unsafe_code, reason = "sched_setaffinity and sendmmsg have no safe wrapper")]
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first surprise")]

#[path = "participants/floor.rs"]
mod floor;
#[path = "participants/forwarder.rs"]
mod forwarder;
#[path = "participants/memory.rs"]
mod memory;

use forwarder::{Forwarder, How, Join, ROOM, Stats};
use roomful::engine::socket::raise_descriptor_limit;
use roomful::engine::{FromShard, Shard, ShardConfig, ToShard, realtime_ns};
use roomful::measure::{Flow, Hist};
use roomful::media::clip::ClipLibrary;
use roomful::participant::{Common, Spec};
use roomful::plan::PlannedLeg;
use roomful::sdp::Description;
use roomful::signaling::{MediaCommand, MediaError, OfferWant, TransportState};
use roomful::transport::{AllowList, LocalParams, Shared, Timing, Transport};
use roomful::types::{Bitrate, Client, Codec, Encoding, LegId, RoomId, ServerId, Suite};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Between two joins: handshakes must not crowd out the media of those who are there.
const JOIN_GAP: Duration = Duration::from_millis(6);
/// After the last join: key frames on request and estimators settle.
const WARM_UP_SECONDS: usize = 5;
const MEASURED_SECONDS: usize = 10;
/// RTP packets that a participant of these clips sends and receives a second; and at 55 pps of video.
const CLIPS_PPS: f64 = 120.0 + 480.0;
const STANDARD_PPS: f64 = 105.0 + 420.0;

fn main() {
    // `cargo test --benches` passes it: everything once, nothing worth reading.
    if std::env::args().any(|a| a == "--test") {
        return one(ROOM, 1, Suite::AeadAes128Gcm, true);
    }
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["idle"] => one(2000, MEASURED_SECONDS, Suite::AeadAes128Gcm, false),
        ["floor", n, suite] => floor::run(n.parse::<usize>().unwrap().next_multiple_of(ROOM), suite_of(suite)),
        ["memory", n] => in_memory(n.parse().unwrap(), Suite::AeadAes128Gcm),
        ["memory", n, suite] => in_memory(n.parse().unwrap(), suite_of(suite)),
        ["idle", n] => one(n.parse().unwrap(), MEASURED_SECONDS, Suite::AeadAes128Gcm, false),
        [n, seconds, suite] => one(n.parse().unwrap(), seconds.parse().unwrap(), suite_of(suite), true),
        _ => all(),
    }
}

fn suite_of(name: &str) -> Suite {
    match name {
        "gcm" => Suite::AeadAes128Gcm,
        "sha1" => Suite::Aes128CmSha1_80,
        _ => panic!("gcm or sha1, not {name}"),
    }
}

/// Each measurement is a process of its own, so that it starts with a fresh heap.
fn all() {
    println!("(resident: the whole process, the forwarder's transports and sockets' share included)");
    let program = std::env::current_exe().unwrap();
    let seconds = MEASURED_SECONDS.to_string();
    for args in
        [["550", &seconds, "gcm"], ["1100", &seconds, "gcm"], ["450", &seconds, "sha1"], ["900", &seconds, "sha1"]]
    {
        assert!(Command::new(&program).args(args).status().unwrap().success());
    }
    assert!(Command::new(&program).args(["idle", "2000"]).status().unwrap().success());
}

struct Bench {
    orders: mpsc::UnboundedSender<ToShard>,
    media: mpsc::UnboundedSender<MediaCommand>,
    joins: std::sync::mpsc::Sender<Join>,
    common: Arc<Common>,
    forwarder: SocketAddr,
    clips: ClipLibrary,
}

fn common(suite: Suite) -> Arc<Common> {
    let transport = Shared::new(&[suite], Timing::default()).unwrap();
    let allow = Arc::new(AllowList::new(vec![("127.0.0.0".parse().unwrap(), 8)]));
    Arc::new(Common { run: 7, transport, allow, client: Client::Chrome, simulcast: roomful::types::Simulcast::Rid })
}

fn in_memory(n: usize, suite: Suite) {
    pin(0);
    let (orders, media, joins) =
        (mpsc::unbounded_channel().0, mpsc::unbounded_channel().0, std::sync::mpsc::channel().0);
    let forwarder = SocketAddr::from(([127, 0, 0, 1], 9));
    let bench = Bench { orders, media, joins, common: common(suite), forwarder, clips: ClipLibrary::load().unwrap() };
    memory::run(&bench, n.next_multiple_of(ROOM), MEASURED_SECONDS);
}

fn one(n: usize, seconds: usize, suite: Suite, with_media: bool) {
    let n = n.next_multiple_of(ROOM);
    raise_descriptor_limit();
    let resident_before = resident_kib();
    let common = common(suite);
    let (orders, orders_rx) = mpsc::unbounded_channel();
    let (media, media_rx) = mpsc::unbounded_channel();
    let (out_tx, mut out) = mpsc::unbounded_channel();
    let epoch = Instant::now();
    let config = ShardConfig {
        turn: Arc::default(),
        index: 0,
        common: common.clone(),
        sources: vec![[127, 0, 0, 1].into()],
        silent_after: Duration::from_secs(15),
        receive_buffer: None,
        epoch,
        seed: 0,
        orders: orders_rx,
        media: media_rx,
        out: out_tx,
    };
    let shard = std::thread::spawn(move || {
        pin(0);
        Shard::new(config).unwrap().run();
    });
    let stats = Arc::new(Stats::default());
    let (joins, joins_rx) = std::sync::mpsc::channel();
    let f = Forwarder::new(stats.clone(), joins_rx);
    let address = f.local();
    let forwarder = std::thread::spawn(move || {
        pin(1);
        f.run();
    });
    pin(1);
    let bench = Bench { orders, media, joins, common, forwarder: address, clips: ClipLibrary::load().unwrap() };
    let mut next = Instant::now();
    for i in 0..n {
        bench.join(i, with_media);
        next += JOIN_GAP;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let (mut connected, mut rows) = (0, 0);
    let mut sum = Sum::default();
    let mut forwarder_before = (0, 0);
    let mut began = Instant::now();
    while sum.seconds < seconds {
        match out.blocking_recv().unwrap() {
            FromShard::State { state: TransportState::Connected { .. }, .. } => connected += 1,
            FromShard::State { leg, state: TransportState::Failed { why }, .. } => println!("{leg}: {why}"),
            FromShard::Fatal(why) => panic!("{why}"),
            FromShard::Second(s) => {
                if Duration::from_secs(s.second) < next - epoch {
                    continue;
                }
                rows += 1;
                if rows <= WARM_UP_SECONDS {
                    forwarder_before = (stats.cpu_ns.load(Ordering::Relaxed), stats.drops.load(Ordering::Relaxed));
                    began = Instant::now();
                    continue;
                }
                sum.add(&s);
            }
            _ => {}
        }
    }
    let wall = began.elapsed().as_secs_f64();
    sum.forwarder_cpu = (stats.cpu_ns.load(Ordering::Relaxed) - forwarder_before.0) as f64 / 1e9 / wall;
    sum.forwarder_drops = stats.drops.load(Ordering::Relaxed) - forwarder_before.1;
    let resident = (resident_kib() - resident_before) / n as f64;
    bench.orders.send(ToShard::Stop).unwrap();
    drop(bench);
    shard.join().unwrap();
    forwarder.join().unwrap();
    sum.print(n, suite, connected, resident, with_media);
}

impl Bench {
    fn join(&self, i: usize, with_media: bool) {
        let spec = self.spec(i, with_media, realtime_ns());
        let leg = spec.leg.id;
        self.orders.send(ToShard::Add { spec: Box::new(spec), network: None, relay: None }).ok().unwrap();
        self.orders.send(ToShard::Server { leg, server: ServerId(0) }).ok().unwrap();
        let offer = self.ask(|reply| MediaCommand::Offer { leg, slot: 0, want: want(with_media), reply });
        let (sdp, transport, offer) = self.answer(i, &offer, self.forwarder);
        let ssrcs = [0, 1].map(|m| if with_media { offer.media[m].ssrcs[0] } else { 0 });
        self.joins
            .send(Join {
                participant: i,
                ssrcs,
                how: How::Offered { transport: Box::new(transport), remote: offer.remote },
            })
            .ok()
            .unwrap();
        self.ask(|reply| MediaCommand::AcceptAnswer { leg, slot: 0, sdp, reply });
    }

    fn spec(&self, i: usize, with_media: bool, planned_ns: u64) -> Spec {
        let (leg, room) = (LegId(i as u32), RoomId((i / ROOM) as u32));
        let encoding = |codec, kbit: u64| Encoding { codec, bitrate: Bitrate(kbit * 1000) };
        let (audio, video) = (encoding(Codec::Opus, 32), encoding(Codec::Vp8, 500));
        let planned = PlannedLeg {
            seat: 0,
            id: leg,
            room,
            name: format!("p{i}"),
            join_at: Duration::ZERO,
            leave_at: Duration::from_secs(3600),
            audio: with_media.then_some(audio),
            video: with_media.then_some(video),
            network: None,
        };
        let clips = [planned.audio, planned.video].map(|e| e.map(|e| self.clips.clip(e).unwrap()));
        let seed = i as u64;
        Spec {
            leg: planned,
            clips,
            lower_layers: vec![],
            steps: Vec::new(),
            seed,
            planned_ns,
            network_delay_max: Duration::ZERO,
            talk: Default::default(),
        }
    }

    /// The forwarder's answer to an offer, and its transport.
    fn answer<'a>(&self, i: usize, offer: &'a str, local: SocketAddr) -> (String, Transport, Description<'a>) {
        let offer = Description::parse(offer).unwrap();
        let c = &self.common;
        let transport = Transport::new(Instant::now(), &c.transport, &c.allow, local, i as u64).unwrap();
        (answer(i, &offer, &transport.local_params()), transport, offer)
    }

    fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, MediaError>>) -> MediaCommand) -> T {
        let (reply, answer) = oneshot::channel();
        self.media.send(make(reply)).ok().unwrap();
        answer.blocking_recv().unwrap().unwrap()
    }
}

/// What participants offer.
fn want(send: bool) -> OfferWant {
    let others = (ROOM - 1) as u16;
    OfferWant { send, receive_audio: others, receive_video: others, ..OfferWant::default() }
}

/// The forwarder's answer: one codec a kind, NACK and PLI, the SSRCs that [`forwarder::down_ssrc`] gives.
fn answer(participant: usize, offer: &Description, local: &LocalParams) -> String {
    let mut s = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE".to_string();
    offer.media.iter().for_each(|m| write!(s, " {}", m.mid).unwrap());
    s.push_str("\r\n");
    let mut slots = [0; 2];
    for m in &offer.media {
        let kind = m.kind().unwrap();
        let codec = |e: &str| e == "opus/48000/2" || e == "VP8/90000";
        let p = m.payloads.iter().find(|p| codec(&p.encoding)).unwrap();
        write!(s, "m={} 9 {} {}\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\n", m.name, m.protocol, p.pt, m.mid).unwrap();
        write!(s, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", local.ufrag, local.pwd).unwrap();
        write!(s, "a=fingerprint:sha-256 {}\r\na=setup:passive\r\na=rtcp-mux\r\n", local.fingerprint).unwrap();
        local.candidates.iter().for_each(|c| write!(s, "a=candidate:{c}\r\n").unwrap());
        for (id, uri) in m.extensions.iter().filter(|e| !e.1.contains("transport-wide-cc")) {
            write!(s, "a=extmap:{id} {uri}\r\n").unwrap();
        }
        write!(s, "a=rtpmap:{} {}\r\n", p.pt, p.encoding).unwrap();
        for f in p.feedback.iter().filter(|f| f.starts_with("nack")) {
            write!(s, "a=rtcp-fb:{} {f}\r\n", p.pt).unwrap();
        }
        if m.direction.sends() {
            s.push_str("a=recvonly\r\n");
        } else {
            let ssrc = forwarder::down_ssrc(participant, slots[kind.index()], kind.index());
            slots[kind.index()] += 1;
            write!(s, "a=sendonly\r\na=ssrc:{ssrc} cname:f\r\n").unwrap();
        }
    }
    s
}

#[derive(Default)]
struct Sum {
    seconds: usize,
    wall: f64,
    cpu: f64,
    lateness: Hist,
    delay: Hist,
    flow: Flow,
    packets_in: u64,
    packets_out: u64,
    drops: u64,
    send_errors: u64,
    forwarder_cpu: f64,
    forwarder_drops: u64,
}

impl Sum {
    fn add(&mut self, s: &roomful::engine::ShardSecond) {
        self.seconds += 1;
        self.wall += s.seconds;
        self.cpu += s.health.cpu * s.seconds;
        self.lateness.merge(&s.health.send_lateness);
        self.packets_in += s.health.packets_in;
        self.packets_out += s.health.packets_out;
        self.drops += s.health.socket_drops;
        self.send_errors += s.health.send_errors;
        for flow in s.servers.iter().flat_map(|(_, flows)| flows) {
            self.delay.merge(&flow.delay);
            self.flow.merge(flow);
        }
    }

    fn print(&self, n: usize, suite: Suite, connected: usize, resident: f64, with_media: bool) {
        let cpu = self.cpu / self.wall;
        let pps = |packets: u64| packets as f64 / self.wall / n as f64;
        println!("{n} participants, {suite:?}, {} s:", self.seconds);
        println!("  connected {connected}, resident {resident:.0} KiB a participant");
        println!("  shard CPU {:.1} %, forwarder CPU {:.1} %", cpu * 100.0, self.forwarder_cpu * 100.0);
        if !with_media {
            println!("  {:.1} µs of CPU a second and participant", cpu * 1e6 / n as f64);
            return;
        }
        println!(
            "  packets a second and participant: {:.1} out, {:.1} in",
            pps(self.packets_out),
            pps(self.packets_in)
        );
        let c = &self.flow.count;
        let lost = c.e2e_expected - c.e2e_received;
        println!(
            "  e2e: {} expected, {lost} lost; NACKs {}, PLIs {}, frames/s {:.1}, freezes {}; drops: shard {}, forwarder {}; send errors {}",
            c.e2e_expected,
            c.nacks_sent,
            c.plis_sent,
            c.frames as f64 / self.wall / n as f64,
            c.freezes,
            self.drops,
            self.forwarder_drops,
            self.send_errors,
        );
        let ms = |h: &Hist, q| h.quantile_ms(q).unwrap_or(f64::NAN);
        println!("  send lateness p50 {:.2} ms, p99 {:.2} ms", ms(&self.lateness, 0.5), ms(&self.lateness, 0.99));
        println!("  one-way delay p50 {:.2} ms, p99 {:.2} ms", ms(&self.delay, 0.5), ms(&self.delay, 0.99));
        let packet = cpu * self.wall / (self.packets_in + self.packets_out) as f64;
        print_packet(packet);
    }
}

/// `seconds` of CPU a packet, and what that comes to.
fn print_packet(seconds: f64) {
    println!(
        "  {:.2} µs a packet: {:.0} participants a core at 120 pps out and 480 in, {:.0} at 105 and 420",
        seconds * 1e6,
        1.0 / (seconds * CLIPS_PPS),
        1.0 / (seconds * STANDARD_PPS)
    );
}

/// Keeps this thread on one core.
fn pin(core: usize) {
    // SAFETY: the set is ours, all-zero is an empty one, and the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set), 0);
    }
}

fn resident_kib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4.0
}
