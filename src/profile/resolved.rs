//! What a profile means.

use super::fleet::{FleetBackends, JoinHook};
use super::scale_in::ScaleIn;
use super::series::Series;
use crate::impair::Conditions;
use crate::types::{Autoscale, Client, Drain, Encoding, Placement, Simulcast, Sin, UnlikeServer, Via};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A profile and its target, checked.
#[derive(Clone, Debug)]
pub struct Profile {
    /// File stem, e.g. `demo`.
    pub name: String,
    pub shape: Shape,
    pub target: Target,
    pub client: Client,
    pub rooms: Vec<RoomGroup>,
    /// When participants come. A search ramps by its own rules; then this holds its rate, settle time and budget.
    pub load: Load,
    /// `[pass]`, or the `[objectives]` of a search. Judged per server, the worst decides. Empty only in shape scale-in,
    /// whose invariants are judged in any case.
    pub pass: Vec<Threshold>,
    /// Of shape capacity, and of no other.
    pub search: Option<Search>,
    /// Of shape scale-in, and of no other.
    pub scale_in: Option<ScaleIn>,
    pub ice: Ice,
    /// Where the profile stands for several runs, and the profile of each. Nothing runs by the whole then.
    pub series: Option<Series>,
    pub runs: Vec<Profile>,
    pub health: HealthLimits,
    /// As written, or drawn at random and printed.
    pub seed: u64,
    /// Source addresses for media sockets; empty: whatever the route gives.
    pub bind: Vec<IpAddr>,
    /// Media threads; `None`: one a core, the last core left to signalling when there are more than two.
    pub shards: Option<usize>,
    /// Bytes asked for with SO_RCVBUF; `None`: as the kernel gives it.
    pub receive_buffer: Option<usize>,
    /// The whole profile and target file with every default filled in, as TOML without secrets: for reports, and to
    /// judge again from a history.
    pub resolved: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    Steady,
    Capacity,
    ScaleIn,
}

impl Shape {
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Steady => "steady",
            Shape::Capacity => "capacity",
            Shape::ScaleIn => "scale-in",
        }
    }
}

/// `[search]` and `[answer]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Search {
    /// The only server to load.
    pub server: Option<String>,
    /// Participants on one server, lowest and highest.
    pub range: (u32, u32),
    /// Joins a second, all servers together.
    pub join: f64,
    /// Judged time of a trial that can prove a lower bound, and of one that feels the way.
    pub trial: Duration,
    pub first_trial: Duration,
    pub trial_sum: Duration,
    /// Shares (0..1).
    pub loss_ratio: f64,
    pub exceed_ratio: f64,
    pub width: f64,
    pub settle: Duration,
    pub budget: Duration,
    pub answer: Option<Headroom>,
}

/// `[answer]`: what the threshold has to leave room for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Headroom {
    pub servers: u32,
    pub survive: u32,
    /// Participants a second, the whole fleet.
    pub growth: f64,
    pub boot: Duration,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
pub enum Target {
    /// Our own fleet, started for the run and stopped after it.
    Embedded(EmbeddedTarget),
    External(ExternalTarget),
}

impl Target {
    /// Names of the servers that carry rooms.
    pub fn carriers(&self) -> Vec<String> {
        match self {
            Target::Embedded(t) => (1..=t.servers).map(|n| format!("s{n}")).collect(),
            Target::External(t) => t.carriers().into_iter().map(str::to_owned).collect(),
        }
    }

    /// The servers that a search loads, `only` one or all: names that rooms can be sent to, or `None` for whatever the target
    /// decides; one for each server over which rooms are spread.
    pub fn loaded(&self, only: Option<&str>) -> Vec<Option<String>> {
        if let Some(only) = only {
            return vec![Some(only.to_owned())];
        }
        match self {
            Target::Embedded(t) if t.placement == Placement::Spread => vec![None; t.servers as usize],
            Target::External(t) if !t.names_servers() => vec![None],
            // The join API places rooms: no server has a load of its own.
            Target::External(t) if t.join.is_some() => vec![None; t.carriers().len().max(1)],
            Target::Embedded(_) | Target::External(_) => self.carriers().into_iter().map(Some).collect(),
        }
    }

    /// Several servers may stand behind it, and nobody knows how many: what it carries is no number of one server.
    pub fn is_one_unknown_fleet(&self) -> bool {
        matches!(self, Target::External(t) if !t.names_servers())
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct EmbeddedTarget {
    pub servers: u32,
    /// Rooms are placed on the server with the most headroom; a server takes at most this many participants.
    pub participants_max: u32,
    /// Share of a core (0..1) that a server's media thread may use.
    pub cpu_max: f64,
    /// CPU time that it takes at least for each packet that it sends on.
    pub packet_cost: Duration,
    /// Servers that are not like the others.
    pub unlike: Vec<UnlikeServer>,
    /// Where the participants of a room go.
    pub placement: Placement,
    /// How a server that is to end gets rid of its calls.
    pub drain: Drain,
    /// Servers come and go by themselves.
    pub autoscale: Option<Autoscale>,
    /// Last-N: participants get the video of so many senders, those who talked last.
    pub last_n: Option<u32>,
    /// A fault that it commits on purpose.
    pub sin: Option<Sin>,
    /// TURN servers.
    pub turn: u32,
}

impl EmbeddedTarget {
    /// Share of a core that the media thread of this server may use.
    pub fn cpu_max_of(&self, server: &str) -> f64 {
        self.unlike.iter().find(|u| u.id == server).and_then(|u| u.cpu_max).unwrap_or(self.cpu_max)
    }
}

/// `[ice]`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ice {
    /// Share (0..=1) of the participants that are relayed.
    pub relay: f64,
    /// LIFETIME that allocations ask for; zero: the server's own.
    pub lifetime: Duration,
    /// Allocations are given back.
    pub release: bool,
    /// Share (0..=1) of the relayed ones that come with a wrong password.
    pub wrong_password: f64,
}

/// A `[[turn]]` of a target file: one way to one TURN server.
#[derive(Clone, PartialEq, Debug)]
pub struct TurnEntry {
    pub id: String,
    /// As written.
    pub url: String,
    pub host: String,
    pub port: u16,
    pub via: Via,
    pub weight: f64,
    pub username: Option<String>,
    /// Names of secrets; one of both is given.
    pub password_from: Option<String>,
    pub secret_from: Option<String>,
    pub pid_file: Option<String>,
    pub metrics: Option<String>,
    /// Cores that it may use, where the user says so.
    pub cores: Option<f64>,
    /// Address of coturn's CLI.
    pub cli: Option<String>,
    /// Its cordon is the CLI's `drain`, which ends it with the last allocation.
    pub drain: bool,
    /// Redis database in which it keeps the state of its allocations, and no other one does.
    pub statsdb: Option<String>,
}

/// The driver whose target are TURN servers themselves.
pub(super) const TURN_DRIVER: &str = "turn";

/// The driver of our own fleet.
pub(super) const EMBEDDED_DRIVER: &str = "embedded";

/// A target file.
#[derive(Clone, Debug)]
pub struct ExternalTarget {
    /// `janus`, or another driver's name.
    pub driver: String,
    /// Driver embedded: where its director is, and the `servers` are the director's. `None`: the first server is the director.
    pub director: Option<String>,
    pub servers: Vec<ServerEntry>,
    pub fleet: FleetBackends,
    /// `None`: the driver places rooms.
    pub join: Option<JoinHook>,
    pub turn: Vec<TurnEntry>,
    /// Driver turn: both of a pair are relayed.
    pub peer_relayed: bool,
    /// Networks (address, prefix length) where media may go, besides the signalling hosts themselves.
    pub allow: Vec<(IpAddr, u8)>,
    pub secrets: BTreeMap<String, Secret>,
    /// Needed for targets outside loopback and private ranges.
    pub authorized: bool,
    /// False only when the target file says `tls_verify = false`; the report says so then.
    pub tls_verify: bool,
    pub simulcast: Simulcast,
}

impl Profile {
    /// The target, where TURN servers are that and rooms are pairs that talk through them.
    pub fn pairs(&self) -> Option<&ExternalTarget> {
        match &self.target {
            Target::External(t) => Some(t).filter(|t| t.connects_pairs()),
            Target::Embedded(_) => None,
        }
    }
}

impl ExternalTarget {
    /// Driver turn: TURN servers are the target themselves, and rooms are pairs that talk through them.
    pub fn connects_pairs(&self) -> bool {
        self.driver == TURN_DRIVER
    }

    /// Driver embedded: the director's address.
    pub fn director(&self) -> Option<&str> {
        self.director.as_deref().or(self.servers.first().map(|s| s.url.as_str()))
    }

    /// False where a director stands for servers that the target file does not name.
    pub fn names_servers(&self) -> bool {
        self.driver != EMBEDDED_DRIVER || self.director.is_some()
    }

    /// Names of the servers that carry rooms, each once: of driver turn its TURN servers, which may be reached in several
    /// ways.
    pub fn carriers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        let all: Vec<&str> = match self.connects_pairs() {
            true => self.turn.iter().map(|t| &*t.id).collect(),
            false => self.servers.iter().map(|s| &*s.id).collect(),
        };
        all.into_iter().for_each(|name| {
            if !names.contains(&name) {
                names.push(name)
            }
        });
        names
    }

    /// As a target file with a driver and servers, and nothing else in it.
    pub fn of(driver: &str, servers: Vec<ServerEntry>) -> ExternalTarget {
        ExternalTarget {
            driver: driver.to_owned(),
            director: None,
            servers,
            fleet: FleetBackends::of_driver(driver),
            join: None,
            turn: Vec::new(),
            peer_relayed: false,
            allow: Vec::new(),
            secrets: BTreeMap::new(),
            authorized: false,
            tls_verify: true,
            simulcast: Simulcast::Rid,
        }
    }
}

/// One server of a target file; keys beside `id` and `url` are the driver's.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServerEntry {
    pub id: String,
    pub url: String,
    pub admin: Option<String>,
    /// Where its resources are seen: the id of its process, Prometheus metrics, a command.
    pub pid_file: Option<String>,
    pub metrics: Option<String>,
    pub observe: Vec<String>,
    /// Cores that it may use, where the user says so.
    pub cores: Option<f64>,
}

/// A value that never appears in history, logs or reports: Debug prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A `[[rooms]]` table.
#[derive(Clone, PartialEq, Debug)]
pub struct RoomGroup {
    pub name: String,
    pub count: u32,
    pub size: Size,
    pub send: Senders,
    pub audio: Option<Encoding>,
    pub video: Option<Encoding>,
    /// Video in layers; [`RoomGroup::lower_layers`] are those below `video`.
    pub simulcast: bool,
    /// Senders step between `video` and [`RoomGroup::steps`] by the network.
    pub adapt: bool,
    pub stay: Stay,
    /// A successor takes the seat after a stay.
    pub refill: bool,
    /// Seats beside `size` that stay empty until somebody joins a room that is there; rooms beside `count` that stay
    /// empty until somebody joins a new one. Shape scale-in only.
    pub late_seats: u32,
    pub late_rooms: u32,
    pub talk: Talk,
    pub mute: Option<Muting>,
    /// Each with its share of the seats; the rest has a perfect network.
    pub networks: Vec<Network>,
}

impl RoomGroup {
    /// The layers that are sent beside `video`, the lowest first; none without simulcast.
    pub fn lower_layers(&self) -> Vec<Encoding> {
        self.video.filter(|_| self.simulcast).map_or_else(Vec::new, layers_below)
    }

    /// What senders may step down to, the lowest first; none where they do not adapt.
    pub fn steps(&self) -> Vec<Encoding> {
        self.video.filter(|_| self.adapt).map_or_else(Vec::new, layers_below)
    }

    /// Longest time that the impaired networks of two of its participants add to a datagram's way.
    pub fn network_delay_max(&self) -> Duration {
        let longest = |f: fn(&Network) -> Duration| self.networks.iter().map(f).max().unwrap_or_default();
        longest(|n| n.up.longest()) + longest(|n| n.down.longest())
    }
}

/// The clips of the same codec with less bits, the lowest first.
pub(super) fn layers_below(highest: Encoding) -> Vec<Encoding> {
    let below = |e: &Encoding| e.codec == highest.codec && e.bitrate.0 < highest.bitrate.0;
    let mut layers: Vec<Encoding> = super::units::ENCODINGS.into_iter().filter(below).collect();
    layers.sort_by_key(|e| e.bitrate.0);
    layers
}

/// Who of a room's senders of audio talks when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Talk {
    /// Everybody, all the time.
    All,
    /// One conversation, after ITU-T P.59.
    P59,
}

/// Mean times for which a sender's microphone is on, and muted; both exponential.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Muting {
    pub after: Duration,
    pub lasts: Duration,
}

/// Participants of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    Fixed(u32),
    /// Uniform, both ends included.
    Range(u32, u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Senders {
    All,
    /// The first N of the room; `Some(0)` is a room in which none publish.
    Some(u32),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Stay {
    WholeHold,
    Fixed(Duration),
    Uniform(Duration, Duration),
    /// Mean; leaves come at random, at a constant rate.
    Exponential(Duration),
    /// Median and sigma of the log.
    LogNormal {
        median: Duration,
        sigma: f64,
    },
}

/// A network between participants and server, made by our own impairer inside the engine.
#[derive(Clone, PartialEq, Debug)]
pub struct Network {
    /// The preset it began from.
    pub preset: Option<&'static str>,
    /// Share (0..=1) of the group's seats behind it.
    pub share: f64,
    pub up: Conditions,
    pub down: Conditions,
}

/// `[load]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Load {
    pub join: Join,
    pub warmup: Duration,
    pub hold: Duration,
    /// A join that takes longer has failed.
    pub join_timeout: Duration,
}

/// Open loop: joins happen at these times, whatever the target does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Join {
    /// Evenly spaced, joins per second.
    Constant(f64),
    /// Exponential gaps, mean rate per second.
    Poisson(f64),
    /// Rate grows linearly from the first to the second value over the time, then stays.
    Ramp { from: f64, to: f64, over: Duration },
    /// So many at once, every so often.
    Burst { size: u32, every: Duration },
}

/// `"audio.loss" = "<= 0.3%"`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Threshold {
    /// Path in `summary.json`.
    pub metric: String,
    pub op: Op,
    pub value: ThresholdValue,
    /// As written: `audio.loss <= 0.3%`.
    pub expr: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    #[serde(rename = "<")]
    Lt,
    #[serde(rename = "<=")]
    Le,
    #[serde(rename = ">")]
    Gt,
    #[serde(rename = ">=")]
    Ge,
    #[serde(rename = "==")]
    Eq,
}

impl Op {
    pub fn holds(self, measured: f64, limit: f64) -> bool {
        match self {
            Op::Lt => measured < limit,
            Op::Le => measured <= limit,
            Op::Gt => measured > limit,
            Op::Ge => measured >= limit,
            Op::Eq => (measured - limit).abs() < 1e-9,
        }
    }
}

/// In the unit of `summary.json`: ms, percent, per minute, per second, or a bare count.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "unit", content = "value", rename_all = "snake_case")]
pub enum ThresholdValue {
    Ms(f64),
    Percent(f64),
    PerMinute(f64),
    PerSecond(f64),
    Count(f64),
    /// The E-model's mean opinion score and other bare scores.
    Score(f64),
}

impl ThresholdValue {
    pub fn number(self) -> f64 {
        match self {
            ThresholdValue::Ms(v)
            | ThresholdValue::Percent(v)
            | ThresholdValue::PerMinute(v)
            | ThresholdValue::PerSecond(v)
            | ThresholdValue::Count(v)
            | ThresholdValue::Score(v) => v,
        }
    }
}

/// Beyond these the generator itself is the suspect: the interval is inconclusive. Settable under `[health]`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HealthLimits {
    /// Busiest shard's CPU, share of one core.
    pub shard_cpu_max: f64,
    /// Time stolen by the hypervisor, share of the machine.
    pub steal_max: f64,
    /// Send lateness p99.
    pub lateness_p99_max: Duration,
    /// How late a shard's loop came round, p99 over the milliseconds of a second.
    pub timer_p99_max: Duration,
    /// CPU of the whole machine, share; 1 is no limit.
    pub machine_cpu_max: f64,
    /// Share of the datagrams received that the kernel dropped at our sockets.
    pub socket_drops_max: f64,
    /// Share of the sends that the kernel refused.
    pub send_errors_max: f64,
    /// UDP errors of the network namespace beside those at our sockets, share of our datagrams.
    pub udp_errors_max: f64,
    /// Loss (share), p99 of the delay, and jitter of the reference flow.
    pub reference_loss_max: f64,
    pub reference_delay_p99_max: Duration,
    pub reference_jitter_max: Duration,
    /// Step of CLOCK_REALTIME against CLOCK_MONOTONIC.
    pub clock_step_max: Duration,
    pub descriptors_left_min: u64,
    pub ports_left_min: u64,
    /// Share of the hold's intervals that may be inconclusive before the run is unknown.
    pub inconclusive_share_max: f64,
}

impl Default for HealthLimits {
    fn default() -> HealthLimits {
        HealthLimits {
            shard_cpu_max: 0.90,
            steal_max: 0.10,
            lateness_p99_max: Duration::from_millis(10),
            timer_p99_max: Duration::from_millis(10),
            machine_cpu_max: 1.0,
            socket_drops_max: 0.0,
            send_errors_max: 0.0,
            udp_errors_max: 0.001,
            reference_loss_max: 0.0,
            reference_delay_p99_max: Duration::from_millis(10),
            reference_jitter_max: Duration::from_millis(5),
            clock_step_max: Duration::from_millis(1),
            descriptors_left_min: 16,
            ports_left_min: 16,
            inconclusive_share_max: 0.05,
        }
    }
}
