//! Ten thousand legs over an hour: how long judging takes, how much memory, how large the history is.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use roomful::history::{
    Event, FleetRole, FleetView, Health, Interval, LegCause, LegEnd, Line, Phase, RoomInterval, RunInfo, SCHEMA,
    ServerFlow, ServerInfo, ServerSeen, Setup, ShardHealth, Silence, StepAction, StepEvent, StepStage, UdpErrors,
    Writer, read,
};
use roomful::measure::{Flow, FlowCounters};
use roomful::plan::{PlannedLeg, PlannedRoom};
use roomful::profile::{Expect, HealthLimits};
use roomful::types::{Bitrate, Codec, Encoding, LegId, RoomId, ServerId, Suite};
use roomful::verdict::judge_scale_in;
use std::time::{Duration, Instant};

const LEGS: u32 = 10_000;
const SIZE: u32 = 4;
const SERVERS: u32 = 20;
const SECONDS: u32 = 3600;

/// Different seconds of a kind, used in turn.
const VARIANTS: usize = 8;

/// A server's second as full as a real one: a delay for each packet, a jitter for each stream, round trips and scores as
/// often as there are any, all as skewed as queues make them.
fn flow(rng: &mut ChaCha8Rng, n: i64, video: bool) -> Flow {
    let mut f = Flow::default();
    let packets = n * 3 * if video { 60 } else { 50 };
    f.count = FlowCounters {
        sent: packets / 3,
        sent_bytes: packets * 300,
        received: packets,
        received_bytes: packets * 900,
        rtp_expected: packets,
        rtp_received: packets,
        e2e_expected: packets,
        e2e_received: packets,
        frames: if video { n * 75 } else { 0 },
        watched_ms: if video { n * 3000 } else { 0 },
        twcc_sent: n * 10,
        twcc_received: n * 10,
        reported_expected: packets / 3,
        ..FlowCounters::default()
    };
    // Its logarithm is about normal (Irwin and Hall).
    let mut skewed = |typical: f64, spread: f64| {
        let z: f64 = (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0;
        (typical * (spread * z).exp()) as u64
    };
    for _ in 0..packets {
        f.delay.record_us(300 + skewed(500.0, 0.6));
    }
    for _ in 0..n * 3 {
        f.jitter.record_us(skewed(150.0, 0.5));
        if video {
            f.frame_jitter.record_us(skewed(250.0, 0.6));
        }
    }
    for _ in 0..n {
        f.rtt.record_us(skewed(700.0, 0.4));
        if !video {
            f.mos.record_us(430 + skewed(2.0, 0.8).min(9));
        }
    }
    f.silence_max_ms = 21;
    f.leg_seconds = n;
    // As the engine does before it writes.
    f.thin();
    f
}

fn write(w: &mut Writer) {
    let server_of = |room: u32| ServerId(room % SERVERS);
    let rooms = LEGS / SIZE;
    let mut put = |t: f64, event: Event| w.append(&Line { t, event });
    put(
        0.0,
        Event::Run(RunInfo {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            id: "5ca1e1".into(),
            profile: "hour".into(),
            shape: "scale-in".into(),
            seed: 1,
            started_at: "2026-03-01T10:00:00Z".into(),
            epoch_ns: 0,
            resolved: String::new(),
            hold_from_ms: 300_000.0,
            hold_until_ms: 3_590_000.0,
            legs_planned: LEGS,
            join_timeout_ms: 15_000.0,
            limits: serde_json::Value::Null,
        }),
    );
    let planned = |n| PlannedRoom {
        id: RoomId(n),
        name: format!("meeting-{n}"),
        group: 0,
        size: SIZE,
        senders_max: SIZE,
        server: None,
    };
    put(0.1, Event::Rooms { rooms: (0..rooms).map(planned).collect() });
    for s in 0..SERVERS {
        put(0.2, Event::Server(ServerInfo { id: ServerId(s), name: format!("sfu-{s}") }));
    }
    put(0.3, Event::Phase { phase: Phase::Warmup });
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut flows =
        |n: u32, video| -> Vec<Flow> { (0..VARIANTS).map(|_| flow(&mut rng, i64::from(n), video)).collect() };
    let (audios, videos) = (flows(LEGS / SERVERS, false), flows(LEGS / SERVERS, true));
    let (of_room, of_rooms_video) = (flows(SIZE, false).remove(0).count, flows(SIZE, true).remove(0).count);
    let mut minute = <[FlowCounters; 2]>::default();
    for _ in 0..ROOM_EVERY {
        minute[0] += &of_room;
        minute[1] += &of_rooms_video;
    }
    let mut shard = ShardHealth { cpu: 0.4, packets_out: 100_000, packets_in: 300_000, ..ShardHealth::default() };
    for i in 0..100_000u64 {
        shard.send_lateness.record_us(50 + i * i % 7919 % 300 + i * i % 6389 % 300);
    }
    for i in 0..1000u64 {
        shard.timer_lateness.record_us(30 + i * i % 1009 % 100);
    }
    shard.send_lateness.thin();
    shard.timer_lateness.thin();
    let encoding = |codec, bits| Some(Encoding { codec, bitrate: Bitrate(bits) });
    let room_names: Vec<String> = (0..rooms).map(|n| format!("meeting-{n}")).collect();
    // Server 0 is drained: its rooms end one by one from 600 s on.
    let ends = |leg: u32| {
        let room = leg / SIZE;
        if room.is_multiple_of(SERVERS) { 600 + room / SERVERS * 20 } else { 3590 }
    };
    for second in 1..=SECONDS {
        let t = f64::from(second) * 1000.0;
        for leg in (second - 1) * 40..(second * 40).min(LEGS) {
            let room = leg / SIZE;
            let at = Duration::from_millis(u64::from(second - 1) * 1000 + 500);
            let planned = PlannedLeg {
                id: LegId(leg),
                room: RoomId(room),
                seat: leg % SIZE,
                name: format!("meeting-{room}/p{}", leg % SIZE),
                join_at: at,
                leave_at: Duration::from_secs(u64::from(ends(leg))),
                audio: encoding(Codec::Opus, 32_000),
                video: encoding(Codec::Vp8, 500_000),
                network: None,
            };
            let url = format!("ws://10.77.0.{}:8188", server_of(room).0);
            let server = Some(format!("sfu-{}", server_of(room).0));
            put(t - 500.0, Event::JoinStart { leg: planned, late_ms: 0.1, rejoins: None });
            put(t - 490.0, Event::Routed { leg: LegId(leg), server, url, after_ms: 4.2 });
            let setup = Setup {
                total_ms: 88.123,
                join_ms: Some(4.2),
                signaling_ms: 20.1,
                ice_ms: 30.2,
                dtls_ms: 11.3,
                relay_ms: None,
            };
            let (room, server) = (RoomId(room), server_of(room));
            let remote = Some("10.77.0.1:50000".to_owned());
            let (suite, certificate) =
                (Some(Suite::AeadAes128Gcm), Some(format!("{:016x}", u64::MAX - u64::from(server.0))));
            put(t - 400.0, Event::Joined { leg: LegId(leg), room, server, suite, remote, certificate, setup });
            // It hears those before it, and they hear it.
            for other in (leg / SIZE * SIZE)..leg {
                for (leg, from) in [(leg, other), (other, leg)].map(|(a, b)| (LegId(a), LegId(b))) {
                    let (first_rtp_ms, first_frame_ms) = (Some(120.512), Some(131.207));
                    put(
                        t - 300.0,
                        Event::FirstMedia {
                            leg,
                            from,
                            first_rtp_ms,
                            first_frame_ms,
                            rtp_in_vain_ms: None,
                            frame_in_vain_ms: None,
                        },
                    );
                }
            }
        }
        if second == 500 {
            put(t, Event::Phase { phase: Phase::Hold });
        }
        for (at, stage) in [(590, StepStage::Begun), (591, StepStage::Done)] {
            if at == second {
                let server = Some("sfu-0".to_owned());
                let (name, detail) = ("drain".to_owned(), String::new());
                put(
                    t,
                    Event::Step(StepEvent {
                        op: 1,
                        name,
                        action: StepAction::Cordon,
                        server,
                        stage,
                        detail,
                        rollback: false,
                    }),
                );
            }
        }
        let left: Vec<u32> = (0..LEGS).filter(|l| ends(*l) == second).collect();
        for leg in left {
            let silences = (0..8).map(|n| f64::from(n) * 300_000.0 + 10_000.0);
            let silences = silences.map(|from_ms| Silence { from_ms, until_ms: from_ms + 120.0 }).collect();
            let end = LegEnd {
                leg: LegId(leg),
                room: RoomId(leg / SIZE),
                server: Some(server_of(leg / SIZE)),
                cause: LegCause::Left,
                detail: String::new(),
                audio: minute[0],
                video: minute[1],
                worst_10s_loss: [Some(0.001), Some(0.002)],
                worst_10s_at_ms: [Some(100_000.0), Some(200_000.0)],
                silences,
                flow_gaps: Vec::new(),
                ice_restarts: 0,
                longest_gap_ms: 120.0,
                longest_gap_at_ms: 400_000.0,
                impaired: None,
            };
            put(t - 100.0, Event::LegEnd(end));
        }
        // Each room as often as the engine writes one that has nothing amiss.
        for room in (0..rooms).filter(|r| (second + r).is_multiple_of(ROOM_EVERY)) {
            let event = RoomInterval {
                room: RoomId(room),
                server: Some(server_of(room)),
                seconds: f64::from(ROOM_EVERY),
                participants: SIZE,
                audio: minute[0].of_room(),
                video: minute[1].of_room(),
                silence_max_ms: 21,
                delay_max_ms: [Some(12.3), Some(14.5)],
            };
            put(t, Event::Room(event));
        }
        let variant = |s: u32, all: &[Flow]| all[(second + s) as usize % VARIANTS].clone();
        let servers = (0..SERVERS).map(|s| ServerFlow {
            server: ServerId(s),
            participants: LEGS / SERVERS,
            rooms: rooms / SERVERS,
            audio: variant(s, &audios),
            video: variant(s, &videos),
        });
        put(
            t,
            Event::Interval(Interval {
                seconds: 1.0,
                connected: LEGS,
                joining: 0,
                servers: servers.collect(),
                paths: None,
                relays: Vec::new(),
            }),
        );
        let health = Health {
            seconds: 1.0,
            machine_cpu: 0.5,
            steal: 0.0,
            process_cores: 2.0,
            resident_bytes: 2 << 30,
            cores: 8,
            udp: UdpErrors::default(),
            descriptors_left: Some(9000),
            ports_left: Some(18_000),
            clock_step_ms: 0.0,
            shards: vec![shard.clone(); 8],
            unhealthy: Vec::new(),
        };
        put(t, Event::Health(health));
        // Both backends, whenever a count changes; here every second.
        let live = |s: u32| {
            (0..LEGS).step_by(SIZE as usize).filter(|l| l / SIZE % SERVERS == s && ends(*l) > second).count() as u64 * 4
        };
        for role in [FleetRole::Discovery, FleetRole::Observation] {
            if second % 5 != 0 {
                continue;
            }
            let seen = |s: u32| ServerSeen {
                server: format!("sfu-{s}"),
                alive: Some(s > 0 || second < 3200),
                listed: Some(s > 0 || second < 590),
                cordoned: Some(s == 0 && second >= 590),
                sessions: Some(if s == 0 { live(0) } else { 500 }),
                participants: (role == FleetRole::Observation).then(|| if s == 0 { live(0) } else { 500 }),
                headroom: Some(100),
                ..ServerSeen::default()
            };
            let all = if role == FleetRole::Discovery && second == 5 { room_names.clone() } else { Vec::new() };
            let rooms =
                all.into_iter().enumerate().map(|(n, r)| (r, Some(format!("sfu-{}", n as u32 % SERVERS)))).collect();
            let backend = if role == FleetRole::Discovery { "redis" } else { "prometheus" };
            put(
                t,
                Event::Fleet(FleetView {
                    backend: backend.into(),
                    role,
                    servers: (0..SERVERS).map(seen).collect(),
                    rooms,
                    error: None,
                }),
            );
        }
    }
    put(f64::from(SECONDS) * 1000.0 + 1.0, Event::End { interrupted: false });
}

/// Seconds between two rows of a room that has nothing amiss.
const ROOM_EVERY: u32 = 300;

fn resident_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `cargo test --release --test scale_in -- --ignored --nocapture ten_thousand`. Prints; docs/performance.md has the result.
#[test]
#[ignore = "writes some 200 MB and is about speed: run by make test-long"]
fn ten_thousand_legs_over_an_hour() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = Writer::create(dir.path()).unwrap();
    write(&mut w);
    let path = w.path().to_owned();
    assert_eq!(w.finish().1, None);
    let bytes = std::fs::metadata(&path).unwrap().len();
    let mut by_kind: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
    for line in std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::open(&path).unwrap())) {
        let line = line.unwrap();
        let kind = line.split("\"ev\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let sum = by_kind.entry(kind).or_default();
        *sum = (sum.0 + 1, sum.1 + line.len() as u64 + 1);
    }
    for (kind, (n, bytes)) in &by_kind {
        println!("{kind:<12} {n:>8} lines {:>8.1} MB", *bytes as f64 / 1e6);
    }
    let before = resident_kib("VmHWM:");
    let began = Instant::now();
    let reading = read(&path).unwrap();
    let expect = Expect {
        exclusive: true,
        drain: Duration::from_secs(3600),
        exit: Duration::from_secs(200),
        ..Expect::default()
    };
    let j = judge_scale_in(&reading, &[], &HealthLimits::default(), &expect);
    let took = began.elapsed();
    let peak = resident_kib("VmHWM:");
    let scale_in = j.scale_in.as_ref().unwrap();
    println!(
        "history {:.1} MB; judged in {:.2} s; peak {} MiB (before judging {} MiB)",
        bytes as f64 / 1e6,
        took.as_secs_f64(),
        peak / 1024,
        before / 1024
    );
    println!("{}: {}", j.verdict.as_str(), j.sentence);
    assert!(bytes <= 200_000_000, "{bytes}");
    assert!(peak <= 1 << 20, "{peak} KiB");
    assert_eq!(scale_in.exposed_legs, u64::from(LEGS / SERVERS));
    assert_eq!(j.legs.judged, Some(u64::from(LEGS)));
}
