//! Made-up histories for tests of everything behind the history, each with the defects it is asked for.

use super::*;
use crate::measure::Flow;
use crate::plan::{PlannedLeg, PlannedRoom};
use crate::types::{Bitrate, Codec, Encoding, LegId, RoomId, ServerId, Suite};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// A run of `servers` × `rooms` × `size` participants that join at 4 a second. Times in whole seconds since the start.
#[derive(Clone, Debug)]
pub(crate) struct Synthetic {
    pub seed: u64,
    pub servers: u32,
    /// Rooms on each server.
    pub rooms: u32,
    pub size: u32,
    pub video: bool,
    pub hold: Range<u32>,
    /// Share of audio lost on a server in these seconds.
    pub loss: Option<(u32, Range<u32>, f64)>,
    /// Added one-way delay in ms on a server in these seconds.
    pub delay: Option<(u32, Range<u32>, f64)>,
    /// The first so many legs of the last server are dropped in the middle of the hold.
    pub drops: u32,
    /// The first so many legs of the first server time out in ICE.
    pub join_failures: u32,
    /// Seconds in which the generator was unhealthy.
    pub unhealthy: Option<Range<u32>>,
    /// Ctrl-C at this second.
    pub interrupted: Option<u32>,
    /// The history just stops after this second.
    pub killed: Option<u32>,
    pub notes: bool,
    pub resolved: String,
}

impl Default for Synthetic {
    fn default() -> Synthetic {
        Synthetic {
            seed: 7,
            servers: 2,
            rooms: 2,
            size: 3,
            video: true,
            hold: 10..30,
            loss: None,
            delay: None,
            drops: 0,
            join_failures: 0,
            unhealthy: None,
            interrupted: None,
            killed: None,
            notes: false,
            resolved: "shape = \"steady\"\n[pass]\n\"audio.loss\" = \"<= 0.3%\"\n".into(),
        }
    }
}

struct Leg {
    planned: PlannedLeg,
    server: u32,
    joined_at: f64,
    fails: bool,
    drops_at: Option<f64>,
}

impl Synthetic {
    pub fn lines(&self) -> Vec<Line> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut lines = vec![Line { t: 0.0, event: Event::Run(self.run()) }];
        let rooms = (0..self.servers * self.rooms).map(|i| PlannedRoom {
            id: RoomId(i),
            name: format!("meeting-{i}"),
            group: 0,
            size: self.size,
            senders_max: self.size,
            server: None,
        });
        lines.push(Line { t: 0.1, event: Event::Rooms { rooms: rooms.collect() } });
        for s in 0..self.servers {
            let info = ServerInfo { id: ServerId(s), name: format!("sfu-{}", s + 1) };
            lines.push(Line { t: 0.2, event: Event::Server(info) });
        }
        lines.push(Line { t: 0.3, event: Event::Phase { phase: Phase::Warmup } });
        let legs = self.legs(&mut rng);
        for leg in &legs {
            self.join_lines(leg, &legs, &mut rng, &mut lines);
        }
        let until = self.interrupted.unwrap_or(self.hold.end);
        if until >= self.hold.start {
            let t = f64::from(self.hold.start) * 1000.0;
            lines.push(Line { t, event: Event::Phase { phase: Phase::Hold } });
        }
        for second in 1..=until {
            self.second_lines(second, &legs, &mut rng, &mut lines);
        }
        lines.push(Line { t: f64::from(until) * 1000.0 + 0.5, event: Event::Phase { phase: Phase::Leaving } });
        for leg in legs.iter().filter(|l| !l.fails && l.joined_at < f64::from(until) * 1000.0) {
            lines.push(self.leg_end(leg, until));
        }
        if self.notes {
            let event =
                Event::Note { code: "tls_unverified".into(), text: "TLS <b>off</b>".into(), leg: None, count: 3 };
            lines.push(Line { t: 1.0, event });
        }
        let end = Event::End { interrupted: self.interrupted.is_some() };
        lines.push(Line { t: f64::from(until) * 1000.0 + 300.0, event: end });
        lines.sort_by(|a, b| a.t.total_cmp(&b.t));
        if let Some(at) = self.killed {
            lines.retain(|l| l.t <= f64::from(at) * 1000.0 + 1.0);
        }
        lines
    }

    pub fn reading(&self) -> Reading {
        Reading::of_lines(self.lines()).unwrap()
    }

    pub fn legs_planned(&self) -> u32 {
        self.servers * self.rooms * self.size
    }

    fn run(&self) -> RunInfo {
        RunInfo {
            epoch_ns: 0,
            schema: SCHEMA,
            version: "0.1.0".into(),
            id: "5e1f-synthetic".into(),
            profile: "synthetic".into(),
            shape: "steady".into(),
            seed: self.seed,
            started_at: "2026-03-01T10:00:00Z".into(),
            resolved: self.resolved.clone(),
            hold_from_ms: f64::from(self.hold.start) * 1000.0,
            hold_until_ms: f64::from(self.hold.end) * 1000.0,
            legs_planned: self.legs_planned(),
            join_timeout_ms: 15_000.0,
            limits: serde_json::json!({ "fds": 20000, "ports": 28232 }),
        }
    }

    fn legs(&self, rng: &mut ChaCha8Rng) -> Vec<Leg> {
        (0..self.legs_planned())
            .map(|i| {
                // Rooms fill one seat after the other, so that every server is met early.
                let rooms = self.servers * self.rooms;
                let (room, seat) = (i % rooms, i / rooms);
                let server = room % self.servers;
                let join_at =
                    (f64::from(i) * f64::from(self.hold.start) * 600.0 / f64::from(self.legs_planned())).round();
                let nth = (room / self.servers) * self.size + seat;
                let planned = PlannedLeg {
                    id: LegId(i),
                    seat: 0,
                    room: RoomId(room),
                    name: format!("meeting-{room}/p{seat}"),
                    join_at: Duration::from_secs_f64(join_at / 1000.0),
                    leave_at: Duration::from_secs(self.hold.end.into()),
                    audio: Some(Encoding { codec: Codec::Opus, bitrate: Bitrate(32_000) }),
                    video: self.video.then_some(Encoding { codec: Codec::Vp8, bitrate: Bitrate(500_000) }),
                    network: None,
                };
                let middle = f64::from(self.hold.start + self.hold.end) * 500.0;
                Leg {
                    planned,
                    server,
                    joined_at: (join_at + rng.random_range(60.0..180.0)).round(),
                    fails: server == 0 && nth < self.join_failures,
                    drops_at: (server == self.servers - 1 && nth < self.drops).then(|| middle + f64::from(nth) * 700.0),
                }
            })
            .collect()
    }

    fn join_lines(&self, leg: &Leg, legs: &[Leg], rng: &mut ChaCha8Rng, lines: &mut Vec<Line>) {
        let planned_ms = leg.planned.join_at.as_secs_f64() * 1000.0;
        let event = Event::JoinStart { leg: leg.planned.clone(), late_ms: 0.1, rejoins: None };
        lines.push(Line { t: planned_ms + 0.5, event });
        if leg.fails {
            let failure = JoinFailure {
                leg: leg.planned.id,
                room: leg.planned.room,
                server: Some(ServerId(leg.server)),
                reason: FailReason::TimeoutIce,
                detail: "no answer from 127.0.0.1:40000".into(),
                after_ms: 5000.0,
            };
            lines.push(Line { t: planned_ms + 5000.0, event: Event::JoinFailed(failure) });
            return;
        }
        // Whole quarters of ms survive the way through JSON to the last bit.
        let total_ms = leg.joined_at - planned_ms;
        let setup = Setup {
            total_ms,
            join_ms: None,
            signaling_ms: total_ms * 0.25,
            ice_ms: total_ms * 0.25,
            dtls_ms: total_ms * 0.5,
            relay_ms: None,
        };
        let event = Event::Joined {
            leg: leg.planned.id,
            room: leg.planned.room,
            server: ServerId(leg.server),
            suite: Some(Suite::AeadAes128Gcm),
            remote: Some("127.0.0.1:40000".into()),
            certificate: Some(format!("{:016x}", leg.server)),
            setup,
        };
        lines.push(Line { t: leg.joined_at, event });
        let others = legs.iter().filter(|o| o.planned.room == leg.planned.room && o.planned.id != leg.planned.id);
        for other in others.filter(|o| !o.fails) {
            let first_rtp_ms = total_ms + rng.random_range(5.0f64..25.0).round();
            let event = Event::FirstMedia {
                leg: leg.planned.id,
                from: other.planned.id,
                first_rtp_ms: Some(first_rtp_ms),
                first_frame_ms: self.video.then_some(first_rtp_ms + 40.0),
                rtp_in_vain_ms: None,
                frame_in_vain_ms: None,
            };
            lines.push(Line { t: planned_ms + first_rtp_ms.max(total_ms), event });
        }
    }

    fn second_lines(&self, second: u32, legs: &[Leg], rng: &mut ChaCha8Rng, lines: &mut Vec<Line>) {
        let t = f64::from(second) * 1000.0;
        let live = |l: &&Leg| !l.fails && l.joined_at <= t && l.drops_at.is_none_or(|d| d > t);
        let in_room =
            |room: RoomId| legs.iter().filter(live).filter(|l| l.planned.room == room).count().try_into().unwrap();
        let mut servers = Vec::new();
        for s in 0..self.servers {
            let mut rooms: BTreeMap<RoomId, u32> = BTreeMap::new();
            for leg in legs.iter().filter(live).filter(|l| l.server == s) {
                rooms.insert(leg.planned.room, in_room(leg.planned.room));
            }
            let (mut audio, mut video) = (Flow::default(), Flow::default());
            for (&room, &n) in &rooms {
                let (a, v) = self.room_second(second, s, n, rng);
                let bad = a.count.e2e_received < a.count.e2e_expected;
                if bad || second.is_multiple_of(10) {
                    let interval = RoomInterval {
                        room,
                        server: Some(ServerId(s)),
                        seconds: 1.0,
                        participants: n,
                        audio: a.count,
                        video: v.count,
                        silence_max_ms: a.silence_max_ms,
                        delay_max_ms: [a.delay.max_ms(), v.delay.max_ms()],
                    };
                    lines.push(Line { t, event: Event::Room(interval) });
                }
                audio.merge(&a);
                video.merge(&v);
            }
            let participants = rooms.values().sum();
            let rooms = rooms.len() as u32;
            servers.push(ServerFlow { server: ServerId(s), participants, rooms, audio, video });
        }
        let connected = servers.iter().map(|s| s.participants).sum();
        let joining =
            legs.iter().filter(|l| l.planned.join_at.as_secs_f64() * 1000.0 < t && l.joined_at > t && !l.fails).count()
                as u32;
        lines.push(Line {
            t,
            event: Event::Interval(Interval { seconds: 1.0, connected, joining, servers, paths: None, relays: vec![] }),
        });
        lines.push(Line { t: t + 0.3, event: Event::Health(self.health(second, connected, rng)) });
    }

    /// Audio and video of a room of `n` in one second.
    fn room_second(&self, second: u32, server: u32, n: u32, rng: &mut ChaCha8Rng) -> (Flow, Flow) {
        let streams = i64::from(n) * i64::from(n.saturating_sub(1));
        let hit = |what: &Option<(u32, Range<u32>, f64)>| match what {
            // A second ends at its number.
            Some((s, seconds, v)) if *s == server && seconds.contains(&(second - 1)) => *v,
            _ => 0.0,
        };
        let extra_us = (hit(&self.delay) * 1000.0) as u64;
        let mut flow = |pps: i64, loss: f64| {
            let mut f = Flow::default();
            let expected = streams * pps;
            let lost = (expected as f64 * loss).round() as i64;
            f.count.sent = i64::from(n) * pps;
            f.count.sent_bytes = f.count.sent * 100;
            f.count.received = expected - lost;
            f.count.received_bytes = f.count.received * 100;
            f.count.rtp_expected = expected;
            f.count.rtp_received = expected - lost;
            f.count.e2e_expected = expected;
            f.count.e2e_received = expected - lost;
            for _ in 0..streams.min(10) {
                f.jitter.record_us(rng.random_range(200..900) + extra_us / 10);
                f.frame_jitter.record_us(rng.random_range(300..1200) + extra_us / 10);
                for _ in 0..5 {
                    f.delay.record_us(rng.random_range(400..4000) + extra_us);
                }
            }
            f.rtt.record_us(rng.random_range(500..2000));
            f.leg_seconds = if streams > 0 { n.into() } else { 0 };
            f.lossy_leg_seconds = if lost > 0 { n.into() } else { 0 };
            f
        };
        let mut audio = flow(50, hit(&self.loss));
        audio.silence_max_ms = if audio.count.e2e_expected > audio.count.e2e_received { 120 } else { 21 };
        audio.mos.record_us(if audio.count.e2e_expected > audio.count.e2e_received { 310 } else { 434 });
        let mut video = if self.video { flow(60, 0.0) } else { Flow::default() };
        if self.video {
            video.count.frames = streams * 25;
            video.count.watched_ms = streams * 1000;
        }
        (audio, video)
    }

    fn health(&self, second: u32, connected: u32, rng: &mut ChaCha8Rng) -> Health {
        let bad = self.unhealthy.as_ref().is_some_and(|r| r.contains(&(second - 1)));
        let mut shard = ShardHealth {
            cpu: if bad { 0.98 } else { f64::from(10 + connected / 5 + rng.random_range(0..3)) / 100.0 },
            packets_out: u64::from(connected) * 110,
            packets_in: u64::from(connected) * 220,
            core: Some(3),
            reference: ReferenceFlow { expected: 50, received: 50, jitter_ms: 0.02, ..ReferenceFlow::default() },
            ..ShardHealth::default()
        };
        shard.timer_lateness.record_us(80);
        shard.reference.delay.record_us(20);
        for _ in 0..20 {
            shard.send_lateness.record_us(if bad { 31_000 } else { rng.random_range(50..600) });
        }
        Health {
            seconds: 1.0,
            machine_cpu: (shard.cpu * 70.0).round() / 100.0,
            steal: 0.0,
            process_cores: shard.cpu,
            resident_bytes: 90 << 20,
            cores: 4,
            udp: UdpErrors::default(),
            descriptors_left: Some(1000),
            ports_left: Some(28_000),
            clock_step_ms: 0.0,
            shards: vec![shard],
            unhealthy: if bad { vec!["shard 0 CPU 98 %".into(), "send lateness p99 31 ms".into()] } else { Vec::new() },
        }
    }

    fn leg_end(&self, leg: &Leg, until: u32) -> Line {
        let (cause, t) = match leg.drops_at {
            Some(at) if at < f64::from(until) * 1000.0 => (LegCause::ClosedByServer, at),
            _ if self.interrupted.is_some() => (LegCause::Interrupted, f64::from(until) * 1000.0 + 100.0),
            _ => (LegCause::Left, f64::from(until) * 1000.0 + 100.0),
        };
        let lossy = match &self.loss {
            Some((s, _, share)) if *s == leg.server => *share,
            _ => 0.0,
        };
        let end = LegEnd {
            leg: leg.planned.id,
            room: leg.planned.room,
            server: Some(ServerId(leg.server)),
            cause,
            detail: if cause.is_drop() { "DTLS close_notify".into() } else { String::new() },
            audio: crate::measure::FlowCounters::default(),
            video: crate::measure::FlowCounters::default(),
            worst_10s_loss: [Some(lossy), self.video.then_some(0.0)],
            worst_10s_at_ms: [self.loss.as_ref().map(|(_, r, _)| f64::from(r.end) * 1000.0), None],
            silences: Vec::new(),
            flow_gaps: Vec::new(),
            ice_restarts: 0,
            longest_gap_ms: 60.0,
            longest_gap_at_ms: t - 5000.0,
            impaired: None,
        };
        Line { t, event: Event::LegEnd(end) }
    }
}
