//! A fleet and its participants as a discrete-event model: joins, leaves, cordons, drains and what backends see of it
//! become the lines of a history. Nothing in here knows how it will be judged.

mod operations;
mod watch;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use roomful::history::{
    Event, FailReason, FleetRole, FleetView, FlowGap, Health, Interval, JoinFailure, LegCause, LegEnd, Line, Phase,
    ReferenceFlow, RunInfo, SCHEMA, ServerFlow, ServerInfo, ServerSeen, Setup, ShardHealth, Silence, StepAction,
    StepEvent, StepStage, UdpErrors,
};
use roomful::measure::{Flow, FlowCounters};
use roomful::plan::{PlannedLeg, PlannedRoom};
use roomful::profile::{Expect, Herd};
use roomful::types::{Bitrate, Codec, Encoding, Kind, LegId, RoomId, ServerId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// What a fleet can do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sin {
    KillsNonEmpty,
    NewRoomsOnCordoned,
    RefusesLateJoiners,
    SplitsRoom,
    MovesWithGap,
    OneWayAfterMove,
    KeepsGhosts,
    StaleRegistry,
    DrainNeverEnds,
    Herd,
    ReportsZero,
    /// The registry sends late joiners' rooms elsewhere than they are.
    RegistryMisplacesRooms,
    NegativeHeadroom,
    HarmsOthers,
    HarmsOthersVideo,
    ForgetsUncordoned,
    CordonsAll,
    FailsAcceptedJoins,
    /// Lets late joiners in, and drops them a little later.
    DropsLateJoiners,
}

/// How calls come off a cordoned server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// It waits for their end.
    Wait,
    /// It moves them to another server within their session.
    Move,
    /// It asks them to come again, room by room.
    Reconnect,
}

/// Who takes servers away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Steps of the run.
    Steps,
    /// The fleet's own autoscaler: the history has no steps.
    Observed,
    /// It was to, and did nothing.
    Idle,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub seed: u64,
    pub sin: Option<Sin>,
    pub style: Style,
    pub control: Control,
    /// Whether backends tell this at all.
    pub tells_life: bool,
    pub tells_counts: bool,
    pub tells_registry: bool,
    /// A room that is to move counts on its new server from when that is decided, ms before its media go there.
    pub counts_ahead: f64,
    /// Observation fails from this second on.
    pub blank_from: Option<u32>,
    /// Seconds in which the generator was unhealthy.
    pub unhealthy: Option<std::ops::Range<u32>>,
    /// Roomful was killed at this second.
    pub killed: Option<u32>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            seed: 1,
            sin: None,
            style: Style::Wait,
            control: Control::Steps,
            tells_life: true,
            tells_counts: true,
            tells_registry: true,
            counts_ahead: 0.0,
            blank_from: None,
            unhealthy: None,
            killed: None,
        }
    }
}

const HOLD_FROM: f64 = 20_000.0;
const HOLD_UNTIL: f64 = 170_000.0;
const END: f64 = 190_000.0;

struct Server {
    name: String,
    alive: bool,
    cordoned: bool,
    drained_first: bool,
    ghosts: u64,
}

struct Room {
    server: Option<usize>,
    members: Vec<usize>,
    /// When its members leave.
    ends: f64,
}

#[derive(Clone)]
struct Leg {
    planned: PlannedLeg,
    server: Option<usize>,
    joined: Option<f64>,
    ended: bool,
    silences: Vec<Silence>,
    gaps: Vec<FlowGap>,
    longest: (f64, f64),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ev {
    Join(usize),
    Joined(usize),
    Leave(usize, LegCause),
    Rejoin(usize),
    Second(u32),
    Hold,
    Cordon(usize),
    CordonDone(usize),
    Uncordon(usize),
    Terminate(usize),
    Gone(usize),
    Kill(usize),
    MoveRoom(usize, usize),
    CloseRoom(usize),
    Leaving,
    End,
}

/// Queue entries: by time in µs, then in the order of their making.
type Queue = BinaryHeap<Reverse<(u64, u64)>>;

pub struct Sim {
    model: Model,
    rng: ChaCha12Rng,
    now: f64,
    queue: Queue,
    events: BTreeMap<u64, Ev>,
    next: u64,
    lines: Vec<Line>,
    servers: Vec<Server>,
    rooms: Vec<Room>,
    legs: Vec<Leg>,
    ops: BTreeMap<(StepAction, usize), u32>,
    /// The server that is drained, and the one that is cordoned for a while.
    victim: Option<usize>,
    /// What each backend said last.
    views: [Option<FleetView>; 2],
    registry: BTreeMap<String, Option<String>>,
    sinned: bool,
}

impl Model {
    /// What such a fleet has to keep.
    pub fn expect(&self) -> Expect {
        let mut expect = Expect { exclusive: true, exposed_legs: 3, ..Expect::default() };
        if self.style != Style::Wait {
            expect.migration = Some(Duration::from_millis(if self.style == Style::Move { 1000 } else { 4000 }));
        }
        if self.style == Style::Reconnect {
            expect.herd = Herd { rate: 5.0, back_within: Duration::from_secs(10) };
        }
        expect
    }

    pub fn lines(&self) -> Vec<Line> {
        let mut sim = Sim::new(self.clone());
        sim.run();
        let mut lines = sim.lines;
        if let Some(killed) = self.killed {
            lines.retain(|l| l.t <= f64::from(killed) * 1000.0);
        }
        lines
    }
}

impl Sim {
    fn new(model: Model) -> Sim {
        let mut rng = ChaCha12Rng::seed_from_u64(model.seed);
        let count = rng.random_range(3..=5usize);
        let servers = (1..=count)
            .map(|n| Server { name: format!("s{n}"), alive: true, cordoned: false, drained_first: false, ghosts: 0 })
            .collect();
        let mut sim = Sim {
            model,
            rng,
            now: 0.0,
            queue: Queue::new(),
            events: BTreeMap::new(),
            next: 0,
            lines: Vec::new(),
            servers,
            rooms: Vec::new(),
            legs: Vec::new(),
            ops: BTreeMap::new(),
            victim: None,
            views: [None, None],
            registry: BTreeMap::new(),
            sinned: false,
        };
        sim.plan();
        sim
    }

    fn at(&mut self, t: f64, ev: Ev) {
        self.next += 1;
        self.queue.push(Reverse(((t * 1000.0).max(0.0) as u64, self.next)));
        self.events.insert(self.next, ev);
    }

    fn push(&mut self, event: Event) {
        // Whole µs, so that a line is the same when it was written and read.
        let t = (self.now * 1000.0).round() / 1000.0;
        self.lines.push(Line { t, event });
    }

    /// Three rooms a server at the start, later ones one by one, and late joiners into old rooms.
    fn plan(&mut self) {
        let servers = self.servers.len();
        let mut joins: Vec<(f64, usize)> = Vec::new();
        for n in 0..servers * 3 {
            let size = self.rng.random_range(3..=5);
            let ends = self.rng.random_range(60_000.0f64..95_000.0).round();
            let room = self.room(ends);
            for _ in 0..size {
                let t = 200.0 + n as f64 * 600.0 + self.rng.random_range(0.0..600.0);
                joins.push((t, room));
            }
            // A late one, while the fleet has its hands full.
            let late = self.rng.random_range(36_000.0..50_000.0);
            joins.push((late, room));
        }
        // Rooms that begin while servers are cordoned, and after that; none in the last 20 s.
        for n in 0..48 {
            let t = 31_000.0 + f64::from(n) * 2500.0 + self.rng.random_range(0.0..1500.0);
            let ends = t + self.rng.random_range(15_000.0..40_000.0);
            let room = self.room(ends);
            joins.extend([(t, room), (t + 300.0, room)]);
        }
        for n in 0..24 {
            let t = 103_000.0 + f64::from(n) * 1500.0 + self.rng.random_range(0.0..900.0);
            let ends = t + self.rng.random_range(15_000.0..25_000.0);
            let room = self.room(ends);
            joins.extend([(t, room), (t + 300.0, room)]);
        }
        joins.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (t, room) in joins {
            let leave = self.rooms[room].ends + self.rng.random_range(0.0..1500.0);
            self.leg(room, t, leave.min(HOLD_UNTIL));
        }
        for n in 0..self.legs.len() {
            let t = self.legs[n].planned.join_at.as_secs_f64() * 1000.0;
            self.at(t, Ev::Join(n));
        }
        let from = self.rng.random_range(25_000.0f64..29_000.0).round();
        // Chosen when the time has come; `usize::MAX` stands for the fullest one.
        if self.model.control != Control::Idle {
            self.at(from, Ev::Cordon(usize::MAX));
        }
        for second in 1..=(END / 1000.0) as u32 {
            self.at(f64::from(second) * 1000.0, Ev::Second(second));
        }
        self.at(HOLD_FROM, Ev::Hold);
        self.at(HOLD_UNTIL, Ev::Leaving);
        self.at(END, Ev::End);
    }

    fn room(&mut self, ends: f64) -> usize {
        self.rooms.push(Room { server: None, members: Vec::new(), ends });
        self.rooms.len() - 1
    }

    fn leg(&mut self, room: usize, join: f64, leave: f64) -> usize {
        let n = self.legs.len();
        let seat = self.rooms[room].members.len() as u32;
        self.rooms[room].members.push(n);
        let planned = PlannedLeg {
            id: LegId(n as u32),
            room: RoomId(room as u32),
            seat,
            name: format!("board-{}/p{seat}", room + 1),
            join_at: Duration::from_micros((join * 1000.0) as u64),
            leave_at: Duration::from_micros((leave * 1000.0) as u64),
            audio: Some(Encoding { codec: Codec::Opus, bitrate: Bitrate(32_000) }),
            video: None,
            network: None,
        };
        let longest = (0.0, self.rng.random_range(21.0f64..90.0).round());
        self.legs.push(Leg {
            planned,
            server: None,
            joined: None,
            ended: false,
            silences: Vec::new(),
            gaps: Vec::new(),
            longest,
        });
        n
    }

    fn run(&mut self) {
        self.push(Event::Run(self.info()));
        let rooms = (0..self.rooms.len()).map(|n| PlannedRoom {
            id: RoomId(n as u32),
            name: format!("board-{}", n + 1),
            group: 0,
            size: self.rooms[n].members.len() as u32,
            senders_max: 8,
            server: None,
        });
        let rooms = Event::Rooms { rooms: rooms.collect() };
        self.push(rooms);
        for n in 0..self.servers.len() {
            let info = ServerInfo { id: ServerId(n as u32), name: self.servers[n].name.clone() };
            self.push(Event::Server(info));
        }
        self.push(Event::Phase { phase: Phase::Warmup });
        while let Some(Reverse((us, n))) = self.queue.pop() {
            self.now = us as f64 / 1000.0;
            if let Some(ev) = self.events.remove(&n) {
                self.happen(ev);
            }
        }
    }

    fn info(&self) -> RunInfo {
        RunInfo {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            id: format!("{:016x}", self.model.seed),
            profile: "model".into(),
            shape: "scale-in".into(),
            seed: self.model.seed,
            started_at: "2026-03-01T10:00:00Z".into(),
            epoch_ns: 1_772_359_200_000_000_000,
            resolved: String::new(),
            hold_from_ms: HOLD_FROM,
            hold_until_ms: HOLD_UNTIL,
            legs_planned: self.legs.len() as u32,
            join_timeout_ms: 15_000.0,
            limits: serde_json::Value::Null,
        }
    }

    fn sins(&self, sin: Sin) -> bool {
        self.model.sin == Some(sin)
    }

    /// Once a run: true the first time.
    fn sins_once(&mut self, sin: Sin) -> bool {
        let now = self.sins(sin) && !self.sinned;
        self.sinned |= now;
        now
    }

    fn happen(&mut self, ev: Ev) {
        match ev {
            Ev::Join(n) => self.join(n, None),
            Ev::Joined(n) => self.joined(n),
            Ev::Leave(n, cause) => self.leave(n, cause),
            Ev::Rejoin(n) => self.rejoin(n),
            Ev::Second(n) => self.second(n),
            Ev::Hold => self.push(Event::Phase { phase: Phase::Hold }),
            Ev::Cordon(s) => self.cordon(s),
            Ev::CordonDone(s) => self.cordon_done(s),
            Ev::Uncordon(s) => self.uncordon(s),
            Ev::Terminate(s) => self.terminate(s),
            Ev::Gone(s) => self.gone(s),
            Ev::Kill(s) => self.kill(s),
            Ev::MoveRoom(room, to) => self.move_room(room, to),
            Ev::CloseRoom(room) => self.close_room(room),
            Ev::Leaving => {
                self.push(Event::Phase { phase: Phase::Leaving });
                for n in 0..self.legs.len() {
                    if self.legs[n].joined.is_some() && !self.legs[n].ended {
                        self.leave(n, LegCause::Left);
                    }
                }
            }
            Ev::End => {
                self.push(Event::End { interrupted: false });
                self.queue.clear();
            }
        }
    }

    /// Members by server, as the director knows.
    fn load(&self, s: usize) -> usize {
        self.legs.iter().filter(|l| l.server == Some(s) && l.joined.is_some() && !l.ended).count()
    }

    /// Who is to be moved to the server and counts there already, without those who don't count here any more.
    fn ahead(&self, s: usize) -> i64 {
        let until = ((self.now + self.model.counts_ahead) * 1000.0) as u64;
        let soon = self.queue.iter().filter(|Reverse((at, _))| *at < until);
        let of = |ev: &Ev| {
            let Ev::MoveRoom(room, to) = *ev else { return 0 };
            let here = i64::from(to == s) - i64::from(self.rooms[room].server == Some(s));
            here * self.up(room).len() as i64
        };
        soon.filter_map(|Reverse((_, n))| self.events.get(n)).map(of).sum()
    }

    fn up(&self, room: usize) -> Vec<usize> {
        let up = |n: &&usize| self.legs[**n].joined.is_some() && !self.legs[**n].ended;
        self.rooms[room].members.iter().filter(up).copied().collect()
    }

    fn emptiest(&self, but: Option<usize>) -> usize {
        let free = (0..self.servers.len()).filter(|s| {
            let forgotten = self.sins(Sin::ForgetsUncordoned) && self.servers[*s].drained_first;
            self.servers[*s].alive && !self.servers[*s].cordoned && Some(*s) != but && !forgotten
        });
        free.min_by_key(|s| self.load(*s)).unwrap_or(0)
    }

    fn join(&mut self, n: usize, rejoins: Option<LegId>) {
        let planned = self.legs[n].planned.clone();
        let room = planned.room.index();
        self.push(Event::JoinStart { leg: planned.clone(), late_ms: 0.0, rejoins });
        let coming = self.rooms[room].members.iter().any(|m| {
            let l = &self.legs[*m];
            *m != n && l.server.is_some() && !l.ended
        });
        let there = self.rooms[room].server.filter(|s| coming && self.servers[*s].alive);
        let late = there.is_some_and(|s| self.servers[s].cordoned) && rejoins.is_none();
        if late && self.sins(Sin::RefusesLateJoiners) {
            let failure = JoinFailure {
                leg: planned.id,
                room: planned.room,
                server: there.map(|s| ServerId(s as u32)),
                reason: FailReason::Rejected,
                detail: "server is draining".into(),
                after_ms: 20.0,
            };
            self.now += 20.0;
            self.legs[n].ended = true;
            return self.push(Event::JoinFailed(failure));
        }
        let cordoned = (0..self.servers.len()).find(|s| self.servers[*s].cordoned && self.servers[*s].alive);
        let held = self.now > 33_000.0;
        let server = match there {
            Some(s)
                if rejoins.is_none() && !late && held && self.up(room).len() > 1 && self.sins_once(Sin::SplitsRoom) =>
            {
                self.emptiest(Some(s))
            }
            Some(s) => s,
            None if (33_000.0..45_000.0).contains(&self.now) && self.sins(Sin::NewRoomsOnCordoned) => {
                cordoned.unwrap_or_else(|| self.emptiest(None))
            }
            None => self.emptiest(None),
        };
        if there.is_none() {
            self.rooms[room].server = Some(server);
            let name = format!("board-{}", room + 1);
            self.registry.insert(name, Some(self.servers[server].name.clone()));
        }
        let url = format!("ws://10.77.0.{}:8188", server + 1);
        let name = self.servers[server].name.clone();
        self.push(Event::Routed { leg: planned.id, server: Some(name), url, after_ms: 3.0 });
        if held && there.is_none() && rejoins.is_none() && self.sins_once(Sin::FailsAcceptedJoins) {
            let failure = JoinFailure {
                leg: planned.id,
                room: planned.room,
                server: Some(ServerId(server as u32)),
                reason: FailReason::TimeoutIce,
                detail: "no answer".into(),
                after_ms: 15_000.0,
            };
            self.now += 30.0;
            self.legs[n].ended = true;
            return self.push(Event::JoinFailed(failure));
        }
        self.legs[n].server = Some(server);
        let mut took = self.rng.random_range(40.0..120.0);
        if self.sins(Sin::HarmsOthers) && held && !self.servers[server].cordoned {
            took += 4000.0;
        }
        self.at(self.now + took, Ev::Joined(n));
        if late && self.sins(Sin::DropsLateJoiners) {
            self.at(self.now + took + 3000.0, Ev::Leave(n, LegCause::ClosedByServer));
        }
    }

    fn joined(&mut self, n: usize) {
        let Some(server) = self.legs[n].server.filter(|s| self.servers[*s].alive && !self.legs[n].ended) else {
            return;
        };
        self.legs[n].joined = Some(self.now);
        self.legs[n].longest.0 = self.now + 1000.0;
        let planned = self.legs[n].planned.clone();
        let start = planned.join_at.as_secs_f64() * 1000.0;
        let setup = Setup {
            total_ms: self.now - start,
            join_ms: Some(3.0),
            signaling_ms: 5.0,
            ice_ms: 10.0,
            dtls_ms: 8.0,
            relay_ms: None,
        };
        let (leg, room) = (planned.id, planned.room);
        let remote = Some(format!("10.77.0.{}:5004", server + 1));
        let (server_id, certificate) = (ServerId(server as u32), Some(format!("{server:016x}")));
        self.push(Event::Joined { leg, room, server: server_id, suite: None, remote, certificate, setup });
        for other in self.up(room.index()).into_iter().filter(|o| *o != n) {
            if self.legs[other].server != Some(server) {
                continue;
            }
            let from = self.legs[other].planned.id;
            let base = start.max(self.legs[other].planned.join_at.as_secs_f64() * 1000.0);
            let first = Some(self.now - base + 20.0);
            self.push(Event::FirstMedia {
                leg,
                from,
                first_rtp_ms: first,
                first_frame_ms: None,
                rtp_in_vain_ms: None,
                frame_in_vain_ms: None,
            });
        }
        let leave = planned.leave_at.as_secs_f64() * 1000.0;
        self.at(leave.max(self.now + 500.0), Ev::Leave(n, LegCause::Left));
    }

    fn leave(&mut self, n: usize, cause: LegCause) {
        let leg = self.legs[n].clone();
        let (Some(server), Some(_), false) = (leg.server, leg.joined, leg.ended) else { return };
        self.legs[n].ended = true;
        let quiet = self.servers[server].cordoned || Some(server) == self.victim;
        if !quiet && self.now > 40_000.0 && self.now < 90_000.0 && self.sins_once(Sin::KeepsGhosts) {
            self.servers[server].ghosts += 1;
        }
        let end = LegEnd {
            leg: leg.planned.id,
            room: leg.planned.room,
            server: Some(ServerId(server as u32)),
            cause,
            detail: if cause.is_drop() { "WebSocket closed".into() } else { String::new() },
            audio: FlowCounters::default(),
            video: FlowCounters::default(),
            worst_10s_loss: [Some(0.0), None],
            worst_10s_at_ms: [None, None],
            silences: leg.silences,
            flow_gaps: leg.gaps,
            ice_restarts: 0,
            longest_gap_ms: leg.longest.1,
            longest_gap_at_ms: leg.longest.0,
            impaired: None,
        };
        self.push(Event::LegEnd(end));
        let room = leg.planned.room.index();
        if self.up(room).is_empty() {
            self.registry.insert(format!("board-{}", room + 1), None);
        }
        self.emptied(server);
    }

    fn rejoin(&mut self, n: usize) {
        let fallen = self.legs[n].planned.clone();
        let leave = fallen.leave_at.as_secs_f64() * 1000.0;
        if leave < self.now + 1000.0 {
            return;
        }
        let again = self.leg(fallen.room.index(), self.now, leave);
        self.legs[again].planned.seat = fallen.seat;
        self.legs[again].planned.name = format!("{}.r", fallen.name);
        self.join(again, Some(fallen.id));
    }
}
