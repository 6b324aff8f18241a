//! Event types of the history. Adding a field is fine; renaming one breaks old runs.

use crate::impair::Counters;
use crate::measure::{Flow, FlowCounters, Hist};
use crate::plan::{PlannedLeg, PlannedRoom, PlannedTrial, StepEvent};
use crate::types::{Kind, LegId, RoomId, ServerId, StepAction, Suite, Via};
use serde::{Deserialize, Serialize};

/// Version of the history format.
pub const SCHEMA: u32 = 2;
/// Code of a note: the join API gives a server another name than the target file has for its URL.
pub const MISNAMED: &str = "join_api_names_another_server";

/// One line: when, and what.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// ms since the start of the run (monotonic clock).
    pub t: f64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "lines are written and read one at a time")]
pub enum Event {
    /// First line of every history.
    Run(RunInfo),
    /// The rooms of the plan, once.
    Rooms { rooms: Vec<PlannedRoom> },
    /// A server met for the first time. Its id is used from here on.
    Server(ServerInfo),
    /// The run enters a phase.
    Phase { phase: Phase },
    /// A participant began to join, at its planned time or later (`late_ms`). Planned times are the basis of latencies.
    /// `rejoins`: the stay that fell and that this one is to replace.
    JoinStart {
        leg: PlannedLeg,
        late_ms: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rejoins: Option<LegId>,
    },
    /// The user's own join API, or the fleet's router, said where a leg goes, so many ms after its planned start.
    Routed { leg: LegId, server: Option<String>, url: String, after_ms: f64 },
    /// The participant is connected. `certificate`: the first eight bytes of the SHA-256 of the server's, in hex.
    Joined {
        leg: LegId,
        room: RoomId,
        server: ServerId,
        suite: Option<Suite>,
        remote: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<String>,
        setup: Setup,
    },
    /// The participant gave up.
    JoinFailed(JoinFailure),
    /// First media of one expected stream, in ms since the later of the two participants' planned joins.
    FirstMedia {
        leg: LegId,
        from: LegId,
        first_rtp_ms: Option<f64>,
        first_frame_ms: Option<f64>,
        /// For how long it was waited in vain for what never came, counted likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rtp_in_vain_ms: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frame_in_vain_ms: Option<f64>,
    },
    /// The same session went on on another server or transport. Media stood still from `from_ms` until `until_ms`.
    Moved { leg: LegId, from: ServerId, to: ServerId, from_ms: f64, until_ms: f64 },
    /// What became of an allocation on a TURN server.
    Relay(Relay),
    /// The leg's signalling broke, and came back while its session lived.
    SignalingResumed { leg: LegId, lost_ms: f64, back_ms: f64 },
    /// The leg has heard nobody for so long that its call is dead to it, though somebody sends; since `from_ms`. It may hear
    /// again: `leg_end` has all silences.
    Silent { leg: LegId, from_ms: f64 },
    /// The leg is over. The line's time is when it was: its leave acknowledged, or its transport given up.
    LegEnd(LegEnd),
    /// One second of media, by server.
    Interval(Interval),
    /// Media of one room since its last such event: at least every five minutes, and sooner while something is amiss.
    Room(RoomInterval),
    /// One second of the generator's own health.
    Health(Health),
    /// A search begins to judge a load.
    Trial(PlannedTrial),
    /// A search is over, and why: `width`, `budget` …
    SearchEnd { why: String },
    /// An operation on the fleet or on the load: begun, and how it ended.
    Step(StepEvent),
    /// What a backend of the fleet said of its servers, or that it failed to say anything.
    Fleet(FleetView),
    /// Somebody outside said what he just did (`roomful mark cordon janus-2`).
    Mark { action: StepAction, server: String },
    /// What a server cost in the last while, as its host or itself tells.
    Usage(Usage),
    /// Something a reader should know, e.g. a candidate outside the allow-list. `count` of the same, first one quoted.
    Note { code: String, text: String, leg: Option<LegId>, count: u64 },
    /// Last line of a history that ended in order.
    End { interrupted: bool },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunInfo {
    pub schema: u32,
    /// Version of roomful.
    pub version: String,
    /// Random id of the run; also in every media stamp.
    pub id: String,
    pub profile: String,
    pub shape: String,
    pub seed: u64,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// CLOCK_REALTIME in ns at `t` = 0; 0 where it was not recorded.
    #[serde(default)]
    pub epoch_ns: u64,
    /// Whole resolved profile as TOML text without secrets: what `report` judges by.
    pub resolved: String,
    /// Planned start of judging and end of judging, ms since start.
    pub hold_from_ms: f64,
    pub hold_until_ms: f64,
    pub legs_planned: u32,
    /// A join that takes longer has failed, ms; 0 where it was not recorded.
    #[serde(default)]
    pub join_timeout_ms: f64,
    /// What check and run computed for this machine.
    pub limits: serde_json::Value,
}

/// Judged are whole seconds of a hold or a trial. The tick that ends one may miss their edges by this much, ms: a timer that
/// fires a little late must not cost a second.
pub const EDGE_MS: f64 = 50.0;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    pub id: ServerId,
    /// As the target file or the fleet calls it.
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Joins and warm-up: not judged, but joins and set-up times are.
    Warmup,
    /// Judged.
    Hold,
    /// Everybody leaves.
    Leaving,
}

/// Set-up of one participant in ms. `total` counts from the planned start; the phases are durations of their own.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Planned start → media can flow on every transport of the first negotiation.
    pub total_ms: f64,
    /// The user's own join API, where there is one.
    pub join_ms: Option<f64>,
    /// First transport: allocation asked for → made (TURN, `[ice]`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_ms: Option<f64>,
    /// First signalling request → answer applied, the wait for the first allocation left out.
    pub signaling_ms: f64,
    /// Checks may start → pair selected (first transport).
    pub ice_ms: f64,
    /// Pair selected → keys (first transport).
    pub dtls_ms: f64,
}

/// Why a join did not succeed. The text form is the key in `participants.failures`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// Nobody listens, or no route.
    Refused,
    /// TLS or WebSocket handshake failed.
    Handshake,
    /// The server said no, with its code in `detail`.
    Rejected,
    /// The room or the server is full.
    Full,
    /// Wrong secret or token.
    Unauthorized,
    /// The user's own join API failed, or its answer is none.
    Routing,
    /// The user's own join API did not answer in time.
    TimeoutRouting,
    TimeoutSignaling,
    TimeoutIce,
    TimeoutDtls,
    /// No TURN server gave an allocation.
    Relay,
    /// SDP that can't be parsed, or that agrees on nothing we can use.
    BadSdp,
    /// JSON or HTTP that makes no sense.
    BadAnswer,
    /// The server closed signalling or media before the join was done.
    Closed,
    /// DTLS failed, or the certificate does not match the fingerprint.
    Dtls,
    /// Every candidate is outside the allow-list.
    NotAllowed,
    /// Left by plan or by Ctrl-C before it had joined.
    LeftEarly,
    /// Our own fault: no socket, no port.
    Local,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JoinFailure {
    pub leg: LegId,
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub reason: FailReason,
    /// What and where, for a person.
    pub detail: String,
    /// Planned start → gave up, ms.
    pub after_ms: f64,
}

/// What became of an allocation (RFC 8656), or of the attempt to get one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Relay {
    pub leg: LegId,
    pub slot: u8,
    /// The TURN server, as the target file calls it.
    pub turn: String,
    pub via: Via,
    pub what: RelayWhat,
    /// Request → answer, ms; of an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    /// The server's error code; absent where it gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<std::net::SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayWhat {
    Allocated,
    /// By the server, with its code.
    Refused,
    /// No answer, or no connection.
    Unreachable,
    /// 300: to another server, which is asked then.
    Redirected,
    /// The server had given it and has it no more.
    Lost,
    /// Given back: by a Refresh with lifetime 0.
    Released,
    /// Left to run out, as the profile says.
    Abandoned,
}

/// Why a leg ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegCause {
    /// Its own leave, acknowledged by the server.
    Left,
    /// Its own leave, not acknowledged within 5 s.
    LeftUnacknowledged,
    /// The server closed the session or the transport.
    ClosedByServer,
    /// Signalling broke (WebSocket gone) and media with it.
    SignalingLost,
    /// RFC 7675: no consent any more.
    ConsentExpired,
    /// Roomful was interrupted.
    Interrupted,
}

impl LegCause {
    /// True when the participant did not want this.
    pub fn is_drop(self) -> bool {
        matches!(self, LegCause::ClosedByServer | LegCause::SignalingLost | LegCause::ConsentExpired)
    }
}

/// End of a leg that had joined, with its totals.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LegEnd {
    pub leg: LegId,
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub cause: LegCause,
    pub detail: String,
    /// Totals of the whole leg, receiving and sending.
    pub audio: FlowCounters,
    pub video: FlowCounters,
    /// Highest e2e loss (0..1) in any 10 s, by kind; absent without data.
    pub worst_10s_loss: [Option<f64>; 2],
    /// When these ten seconds ended, ms since start; absent also in older histories.
    #[serde(default)]
    pub worst_10s_at_ms: [Option<f64>; 2],
    /// When media was expected and none arrived at all, from anybody: spans of at least 100 ms, the longest ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silences: Vec<Silence>,
    /// Gaps of at least 1 s in one expected inbound flow, the longest ones in the order of their begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flow_gaps: Vec<FlowGap>,
    /// ICE restarts that were tried because a transport's checks went unanswered.
    #[serde(default)]
    pub ice_restarts: u32,
    /// Longest gap in any expected inbound flow, ms, and when it began (ms since start).
    pub longest_gap_ms: f64,
    pub longest_gap_at_ms: f64,
    /// What our own impairer did to its datagrams, up and down, where the profile put it behind a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impaired: Option<[Counters; 2]>,
}

/// Nothing arrived from one sender in this span, ms since the start of the run, though it sent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowGap {
    pub from: LegId,
    pub kind: Kind,
    pub from_ms: f64,
    pub until_ms: f64,
}

/// What a backend is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FleetRole {
    /// Which servers there are, and which room is where: the registry.
    Discovery,
    /// Cordon, terminate, faults.
    Control,
    /// What servers and their metrics say of themselves.
    Observation,
}

/// One look at the fleet through one backend. Written when something changed, and at least every 5 s.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FleetView {
    /// `redis`, `janus` …
    pub backend: String,
    pub role: FleetRole,
    /// All that it knows; a server that is missing here is not known to it.
    pub servers: Vec<ServerSeen>,
    /// Rooms by name whose server changed since the backend's last view; `None`: the room is gone.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub rooms: std::collections::BTreeMap<String, Option<String>>,
    /// It failed: `servers` is empty and says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A server as a backend sees it. Absent: this backend can't know.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSeen {
    /// Its name, as in [`ServerInfo`]; `id` in the embedded fleet's registry.
    #[serde(alias = "id")]
    pub server: String,
    /// It runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alive: Option<bool>,
    /// The registry offers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// In the target's own unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// The same from where it may be late or stay behind: shown beside ours, and nothing is judged by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_hint: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub participants: Option<u64>,
    /// Participants that it would still take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<i64>,
    /// Share (0..1), and ms, as the fleet exports them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
}

/// From and until, ms since the start of the run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Silence {
    pub from_ms: f64,
    pub until_ms: f64,
}

/// One second, all servers. Ends at the line's `t`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interval {
    pub seconds: f64,
    /// Participants connected at its end, and joins under way.
    pub connected: u32,
    pub joining: u32,
    pub servers: Vec<ServerFlow>,
    /// The same media again, told apart by how the receiver is reached; where anybody is relayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Box<Paths>>,
    /// What went through TURN servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayFlow>,
}

/// One way to one TURN server in one second, as its clients count.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RelayFlow {
    pub turn: String,
    pub via: Via,
    /// Allocations at its end.
    pub allocations: u32,
    /// For peers and from peers, whatever is in it. A datagram between two allocations is relayed, and counted, twice.
    pub to_peers: Carried,
    pub from_peers: Carried,
}

impl RelayFlow {
    /// That of one way, among others.
    pub fn of<'a>(all: &'a mut Vec<RelayFlow>, turn: &str, via: Via) -> &'a mut RelayFlow {
        let at = all.iter().position(|f| f.turn == turn && f.via == via).unwrap_or_else(|| {
            let none = Carried::default();
            all.push(RelayFlow { turn: turn.to_owned(), via, allocations: 0, to_peers: none, from_peers: none });
            all.len() - 1
        });
        &mut all[at]
    }

    pub fn add(&mut self, more: &RelayFlow) {
        self.allocations += more.allocations;
        self.to_peers += more.to_peers;
        self.from_peers += more.from_peers;
    }

    /// All that it relayed.
    pub fn carried(&self) -> Carried {
        let mut all = self.to_peers;
        all += self.from_peers;
        all
    }
}

/// Datagrams, and the bytes in them without TURN's own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Carried {
    pub packets: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, more: Carried) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

/// Audio and video of participants that are reached directly, and of those behind TURN servers.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Paths {
    pub direct: [Flow; 2],
    pub relayed: [Flow; 2],
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerFlow {
    pub server: ServerId,
    pub participants: u32,
    pub rooms: u32,
    pub audio: Flow,
    pub video: Flow,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RoomInterval {
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub seconds: f64,
    /// Highest of any second.
    pub participants: u32,
    /// As [`FlowCounters::of_room`] has them.
    pub audio: FlowCounters,
    pub video: FlowCounters,
    pub silence_max_ms: i64,
    /// Highest one-way delay seen, by kind, ms.
    pub delay_max_ms: [Option<f64>; 2],
}

/// A server's own resources over the seconds before the line's `t`. Absent: not observed.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// As the target file or the fleet calls it.
    pub server: String,
    pub seconds: f64,
    /// CPU time over wall time, in cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    /// Cores that it may use: by quota, affinity, or the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// Share (0..1) of a core that its busiest thread used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busiest_thread: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Share (0..1) of the time in which something waited for a CPU (PSI some).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<f64>,
    /// How many of its threads stood ready to run and had no core, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_queue: Option<f64>,
    /// Share (0..1) of the machine's CPU that the hypervisor took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal: Option<f64>,
    /// Share (0..1) of the time in which its cgroup was throttled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<f64>,
    /// Sent by the server, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_pps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bps: Option<f64>,
    /// Sent to other servers of the same rooms, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade_pps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade_bps: Option<f64>,
}

/// One second of the generator itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Health {
    pub seconds: f64,
    /// Share of the whole machine's CPU in use, and stolen by the hypervisor (0..1).
    pub machine_cpu: f64,
    pub steal: f64,
    /// This process, in cores.
    pub process_cores: f64,
    pub resident_bytes: u64,
    /// Cores that this process may use; 0 in histories older than this field, as all below but `shards`.
    #[serde(default)]
    pub cores: u32,
    /// What the kernel counted in our network namespace, whoever's sockets it was.
    #[serde(default)]
    pub udp: UdpErrors,
    /// Descriptors that this process may still open, and UDP ports left on its source addresses.
    #[serde(default)]
    pub descriptors_left: Option<u64>,
    #[serde(default)]
    pub ports_left: Option<u64>,
    /// By how much CLOCK_REALTIME was set against CLOCK_MONOTONIC, ms.
    #[serde(default)]
    pub clock_step_ms: f64,
    pub shards: Vec<ShardHealth>,
    /// What was over its limit; empty means healthy.
    pub unhealthy: Vec<String>,
}

/// Deltas of /proc/net/snmp, `Udp:`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct UdpErrors {
    /// InErrors: datagrams that could not be delivered, those of `receive_buffer` included.
    pub receive: u64,
    /// RcvbufErrors: a receive buffer was full.
    pub receive_buffer: u64,
    /// SndbufErrors: a send buffer was full.
    pub send_buffer: u64,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardHealth {
    /// CPU time of the shard's thread over wall time (0..1).
    pub cpu: f64,
    /// Time for which it was ready to run and had no core, over wall time (0..1).
    pub waited: f64,
    /// The core it was on at the second's end.
    pub core: Option<u32>,
    /// How late its loop came round, one value for each millisecond that was due.
    pub timer_lateness: Hist,
    pub reference: ReferenceFlow,
    /// Media sockets open at the second's end.
    pub sockets: u32,
    /// Actual send time - planned send time of each media packet.
    pub send_lateness: Hist,
    /// Datagrams the kernel dropped because our socket buffers were full (SO_RXQ_OVFL).
    #[serde(skip_serializing_if = "none_at_all")]
    pub socket_drops: u64,
    #[serde(skip_serializing_if = "none_at_all")]
    pub send_errors: u64,
    /// ECONNREFUSED and the like on connected sockets: evidence about the target, not about us.
    #[serde(skip_serializing_if = "none_at_all")]
    pub refused: u64,
    pub packets_out: u64,
    pub packets_in: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn none_at_all(n: &u64) -> bool {
    *n == 0
}

/// A small steady flow from a shard to itself, past the target: impairment on it is ours.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ReferenceFlow {
    /// Packets sent 200 ms ago or earlier, and of these, received within that time.
    pub expected: u64,
    pub received: u64,
    /// Kernel receive time - send time.
    pub delay: Hist,
    /// RFC 3550 6.4.1, highest in the second, ms.
    pub jitter_ms: f64,
}
