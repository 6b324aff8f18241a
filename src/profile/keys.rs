//! Every key of profiles and target files: form, range, default, meaning. One table: the loader checks and completes
//! what the user wrote by it, `roomful schema` is made of it, and a test holds the documentation to it.

use super::error::{Errors, Origin, nearest};
use super::tree::{Node, Table, Value, parse_value};
use crate::types::{Drain, Kind, Placement, Sin};

/// One key.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Key {
    /// The table it stands in: empty for the top, `rooms[]` for each element of an array of tables.
    pub table: &'static str,
    pub name: &'static str,
    pub form: Form,
    pub need: Need,
    pub doc: &'static str,
}

/// What a value looks like. Ranges include both ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    Text,
    Word(&'static [&'static str]),
    /// An array of these words.
    Words(&'static [&'static str]),
    Count {
        min: i64,
        max: i64,
    },
    CountOr {
        min: i64,
        max: i64,
        word: &'static str,
    },
    Flag,
    /// A number that need not be whole.
    Number {
        min: f64,
        max: f64,
    },
    /// Seconds.
    Duration {
        min: f64,
        max: f64,
    },
    /// Percent.
    Share {
        max: f64,
    },
    /// Percent, a number from 0 to 1, or one of two words for all and nothing.
    ShareOr {
        all: &'static str,
        none: &'static str,
    },
    Size,
    /// Participants, lowest and highest.
    Range {
        max: i64,
    },
    /// Bits per second, or `none`.
    BitRate,
    /// A duration or bytes.
    Queue,
    /// An encoding of this kind, or `none`.
    Encoding(Kind),
    Stay,
    Join,
    /// Events per second or minute.
    Rate,
    Addresses,
    Networks,
    /// Program and arguments.
    Command,
    Url,
    TurnUrl,
    Table,
    Tables,
    /// A table with the keys of another one; where there may be `many`, an array of them too.
    Like {
        table: &'static str,
        many: bool,
    },
    /// Metric = limit.
    Pass,
    /// Name = count.
    Counts {
        max: i64,
    },
    /// Name = literal, `{ env = … }` or `{ file = … }`.
    Secrets,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    Required,
    /// Absent means there is none.
    Optional,
    /// As TOML would write it.
    Default(&'static str),
}

use Form::{
    Addresses, BitRate, Command, Count, CountOr, Counts, Duration, Encoding, Flag, Join, Like, Networks, Number, Pass,
    Queue, Range, Rate, Secrets, Share, ShareOr, Size, Stay, Tables, Text, Url, Word, Words,
};
use Need::{Default as Or, Optional, Required};

const SHAPES: &[&str] = &["steady", "capacity", "scale-in"];

/// What `[[step]]` may do, and what `[[rollback]]` may.
const ACTIONS: &[&str] = &[
    "cordon",
    "uncordon",
    "terminate",
    "kill",
    "start",
    "pause",
    "resume",
    "partition_signaling",
    "partition_media",
    "partition_registry",
    "heal",
    "registry_pause",
    "registry_resume",
    "registry_flush",
    "registry_restart",
    "join_existing",
    "join_new",
];
const UNDOING: &[&str] = &["uncordon", "resume", "heal", "registry_resume", "registry_restart"];

/// What a scale-in is judged by.
const INVARIANTS: &[&str] = &["I0", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I13"];

/// What the backends of a fleet can be asked to do (the history's `StepAction`): all but the joins.
pub const FLEET_ACTIONS: &[&str] = ACTIONS.split_at(ACTIONS.len() - 2).0;

const DISCOVERY: &[&str] = &["static", "exec", "http", "redis", "embedded"];
const CONTROL: &[&str] = &["exec", "http", "redis", "process", "janus", "embedded", "coturn"];
const OBSERVE: &[&str] = &["exec", "http", "redis", "process", "janus", "embedded", "prometheus", "coturn"];

/// The table of a network, and that of one of its directions.
pub(super) const NETWORK: &str = "rooms[].network";
pub(super) const DIRECTION: &str = "rooms[].network.up";

/// Most seats (participants at once) of one run; beyond, the plan itself would not fit.
pub(super) const SEATS_MAX: i64 = 200_000;

/// Largest seed: what JSON readers keep exact.
pub const SEED_MAX: u64 = (1 << 53) - 1;

const fn key(table: &'static str, name: &'static str, form: Form, need: Need, doc: &'static str) -> Key {
    Key { table, name, form, need, doc }
}

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("", "name", Text, Optional, "What reports call the run. Left out: the file's name without its ending."),
    key("", "shape", Word(SHAPES), Required, "What kind of run this is: steady load, the search for the load one server carries, or an experiment in which servers are taken away."),
    key("", "extends", Text, Optional, "A profile to start from, relative to this one, one level deep: tables merge, arrays replace."),
    key("", "target", Text, Required, "\"embedded\" (our own fleet, started for the run), or a target file, relative to the profile that names it."),
    key("", "client", Word(&["chrome", "livekit-js", "light"]), Or("\"chrome\""), "Which client participants behave like: chrome (Chromium's SRTP suites, NACK with RTX, PLI, FIR, transport-cc, REMB; RED and DTX where the server asks), livekit-js (the same, with RED and DTX on) or light (AEAD_AES_128_GCM first, NACK with RTX, PLI)."),
    key("", "seed", Count { min: 0, max: SEED_MAX as i64 }, Optional, "Everything random follows from it. Left out: drawn and printed."),
    key("", "bind", Addresses, Or("[]"), "Source addresses for media sockets; one address has some 28,000 ports. Empty: what the route gives."),
    key("", "shards", CountOr { min: 1, max: 1024, word: "auto" }, Or("\"auto\""), "Media threads. auto: one a core, the last core left to signalling when there are more than two."),
    key("", "receive_buffer", CountOr { min: 1024, max: 1 << 30, word: "auto" }, Or("\"auto\""), "Receive buffer of each media socket, bytes (SO_RCVBUF; the kernel doubles it, and net.core.rmem_max bounds it). auto: as the kernel gives it."),
    key("", "embedded", Form::Table, Or("{}"), "The embedded fleet; used when target = \"embedded\"."),
    key("", "rooms", Tables, Required, "Groups of rooms."),
    key("", "ice", Form::Table, Or("{}"), "How participants reach the target: directly, or through TURN servers."),
    key("", "network", Like { table: NETWORK, many: true }, Optional, "The network of every group that has none of its own: as in [[rooms]]."),
    key("", "load", Form::Table, Required, "When participants come and how long they are judged."),
    key("", "pass", Pass, Required, "Thresholds: metric = limit. Judged per server, the worst decides. Shape scale-in may do without: its invariants are judged in any case."),
    key("", "search", Form::Table, Required, "Shape capacity: which loads are tried, and how."),
    key("", "objectives", Pass, Required, "Shape capacity: metric = limit, as in [pass]. A load holds as long as its participants keep these."),
    key("", "answer", Form::Table, Optional, "Shape capacity: what the autoscaler's threshold has to leave room for. Left out: nothing."),
    key("", "mixes", Tables, Optional, "Shape capacity: mixes of the groups of rooms, a search for each, one after the other within the budget. The report says which unit varies least over the mixes, since that is what to scale on. Left out: one search, of all groups."),
    key("", "compare", Form::Table, Optional, "Shapes steady and capacity on the embedded fleet: the same plan once under each, and what the difference costs. Left out: one run."),
    key("", "control", Word(&["fleet", "none"]), Or("\"fleet\""), "Shape scale-in: who takes servers away. fleet: the steps do, through the fleet's backends; none: somebody else does (an autoscaler, a deployment), there are no steps, and roomful loads and judges."),
    key("", "step", Tables, Optional, "Shape scale-in: what is done to the fleet and the load, and when."),
    key("", "rollback", Tables, Optional, "Shape scale-in: what is done at the end in any case, in this order: after steps that failed, and on Ctrl-C, too."),
    key("", "rejoin", Form::Table, Or("{}"), "Shape scale-in: what a participant does whose call fell: it joins again, as clients do."),
    key("", "expect", Form::Table, Or("{}"), "Shape scale-in: what has to hold while servers are taken away."),
    key("", "health", Form::Table, Or("{}"), "Beyond these the generator itself is the suspect, and the interval is inconclusive."),
    key("", "target_file", Form::Table, Optional, "The target file's contents, where a profile carries them itself (resolved profiles do)."),

    key("embedded", "servers", Count { min: 1, max: 256 }, Or("2"), "Server processes."),
    key("embedded", "participants_max", Count { min: 1, max: 100_000 }, Or("500"), "Most participants a server takes; rooms go to the server with the most headroom."),
    key("embedded", "cpu_max", Share { max: 100.0 }, Or("\"100%\""), "Share of a core that a server's media thread may use, as under a CPU quota: to have a server of known limit."),
    key("embedded", "packet_cost", Duration { min: 0.0, max: 1.0 }, Or("\"0s\""), "CPU time that a media thread takes at least for each packet it sends on. With cpu_max, a server whose limit is known on any machine: cpu_max / packet_cost packets a second."),
    key("embedded", "placement", Word(Placement::NAMES), Or("\"affinity\""), "Where the participants of a room go: affinity, all to one server; spread, in turn to all servers, which hand the room's media to each other (cascading)."),
    key("embedded", "drain", Word(Drain::NAMES), Or("\"wait\""), "How a server that is to end gets rid of its calls: wait until they are over, move its rooms to other servers, or tell one room after the other to join again, which it does elsewhere."),
    key("embedded", "autoscale", Form::Table, Optional, "Servers come and go by themselves, for runs that only observe. Left out: none does."),
    key("embedded", "last_n", Count { min: 1, max: 1000 }, Optional, "Last-N: a participant gets the video of so many senders, those who talked last by their audio levels, and is told whose. Left out: of all."),
    key("embedded", "sin", Word(Sin::NAMES), Optional, "A fault that the fleet commits on purpose, for a run that is to find it (docs/embedded-fleet.md). Left out: none."),

    key("embedded", "turn", Count { min: 0, max: 64 }, Optional, "TURN servers, a process each. Left out: one where [ice] wants relays, else none."),
    key("embedded", "server", Tables, Optional, "Servers that are not like the others. Left out: all are alike."),

    key("embedded.server[]", "id", Text, Required, "Which one: s1, s2, …"),
    key("embedded.server[]", "participants_max", Count { min: 1, max: 100_000 }, Optional, "Its own, in place of the fleet's."),
    key("embedded.server[]", "cpu_max", Share { max: 100.0 }, Optional, "Its own, in place of the fleet's."),

    key("embedded.autoscale", "per_server", Count { min: 1, max: 100_000 }, Required, "Participants that one server is to carry: as many servers serve as that takes."),
    key("embedded.autoscale", "servers_min", Count { min: 1, max: 256 }, Or("1"), "Servers that serve at least."),
    key("embedded.autoscale", "servers_max", Count { min: 1, max: 256 }, Or("16"), "Servers that serve at most."),
    key("embedded.autoscale", "every", Duration { min: 0.5, max: 86_400.0 }, Or("\"10s\""), "Between two decisions, of one server more or less each; the least used one is cordoned, drained and ended. The first one comes so long after the fleet's start."),

    key("ice", "relay", ShareOr { all: "only", none: "none" }, Or("\"none\""), "Who is relayed: a participant that is has no other way (as with iceTransportPolicy \"relay\"). only: everybody; a share of the participants, drawn by the seed: 0.3 or \"30%\"; none. The TURN servers stand in the target file ([[turn]]); the embedded fleet brings its own."),
    key("ice", "lifetime", Duration { min: 0.0, max: 86_400.0 }, Or("\"10m\""), "Lifetime that allocations ask for; the server may grant another one. 0s: leaves it to the server."),
    key("ice", "release", Flag, Or("true"), "Whether allocations are given back when a participant leaves. false: they are left to run out, as those of clients that crash."),
    key("ice", "wrong_password", Share { max: 100.0 }, Or("\"0%\""), "Share of the relayed participants that come with a wrong password; they can't join."),

    key("rooms[]", "name", Text, Required, "Name of the group: letters, digits, - and _. Its rooms are called name-1, name-2, …"),
    key("rooms[]", "count", Count { min: 1, max: 100_000 }, Required, "Rooms of this group."),
    key("rooms[]", "size", Size, Required, "Participants of a room: 4, or \"2..6\", drawn for each room."),
    key("rooms[]", "send", CountOr { min: 0, max: 10_000, word: "all" }, Or("\"all\""), "Who sends: all, or the first N of the room; 0: none publish."),
    key("rooms[]", "audio", Encoding(Kind::Audio), Or("\"none\""), "What senders send: \"opus@32kbit/s\" or \"none\"."),
    key("rooms[]", "video", Encoding(Kind::Video), Or("\"none\""), "What senders send: \"vp8@500kbit/s\", \"h264@1500kbit/s\" … or \"none\"."),
    key("rooms[]", "simulcast", Flag, Or("false"), "Senders send their video in layers (simulcast): the clips of its codec up to the bit rate that `video` gives, 150, 500 and 1500 kbit/s. The server chooses one for each receiver."),
    key("rooms[]", "adapt", Flag, Or("false"), "Senders step down to the clips of their codec with fewer bits, and up again, by what the server's feedback says of the network. false: always the bit rate that `video` gives, which makes loads repeatable."),
    key("rooms[]", "stay", Stay, Or("\"hold\""), "How long one participant stays: \"hold\" (to the end), \"3m\", \"3m..6m\", \"exponential(3m)\" (mean; leave and rejoin at random), \"lognormal(3m, 0.6)\" (median, sigma of the logarithm). A successor takes the seat."),
    key("rooms[]", "refill", Flag, Or("true"), "Whether a successor takes the seat after a stay. false: the seat stays empty, so that the load ebbs."),
    key("rooms[]", "late_seats", Count { min: 0, max: 10_000 }, Or("0"), "Shape scale-in: seats of each room, beside `size`, that stay empty until a step joins somebody (`join_existing`)."),
    key("rooms[]", "late_rooms", Count { min: 0, max: 100_000 }, Or("0"), "Shape scale-in: rooms, beside `count`, that stay empty until a step fills them (`join_new`)."),
    key("rooms[]", "talk", Word(&["all", "p59"]), Or("\"all\""), "Who speaks: all, all the time; or p59, one conversation a room after ITU-T P.59, with audio levels to match."),
    key("rooms[]", "mute", Form::Table, Or("{}"), "How often senders mute their microphones; empty: never."),
    key("rooms[].mute", "after", Duration { min: 1.0, max: 604_800.0 }, Optional, "Mean time for which a microphone is on."),
    key("rooms[].mute", "lasts", Duration { min: 1.0, max: 604_800.0 }, Optional, "Mean time for which it is muted."),
    key("rooms[]", "network", Like { table: NETWORK, many: true }, Optional, "What the network between these participants and the server does, by our own impairer; an array of such tables gives each its share of the participants. Left out: as [network] says, else perfect."),
    key(NETWORK, "preset", Word(crate::impair::PRESETS), Optional, "A network by name, for both directions; other keys replace what it says."),
    key(NETWORK, "share", Share { max: 100.0 }, Or("\"100%\""), "Share of the group's seats behind this network, drawn by the seed; the others' network is perfect."),
    key(NETWORK, "loss_up", Share { max: 100.0 }, Optional, "Short for `up = { loss = … }`: datagrams dropped on the way to the server, each by itself."),
    key(NETWORK, "loss_down", Share { max: 100.0 }, Optional, "Short for `down = { loss = … }`: datagrams dropped on the way back."),
    key(NETWORK, "up", Form::Table, Optional, "From the participant to the server."),
    key(NETWORK, "down", Like { table: DIRECTION, many: false }, Optional, "From the server to the participant; the same keys as `up`."),
    key(DIRECTION, "loss", Share { max: 100.0 }, Optional, "Long-run share of datagrams that is lost. Alone: each by itself."),
    key(DIRECTION, "burst", Number { min: 1.0, max: 10_000.0 }, Optional, "Loss comes in bursts (Gilbert–Elliott): mean number of datagrams that a bad spell lasts."),
    key(DIRECTION, "burst_loss", Share { max: 100.0 }, Optional, "Loss inside a bad spell. Left out: 100%."),
    key(DIRECTION, "base_loss", Share { max: 100.0 }, Optional, "Loss outside of bad spells. Left out: 0%."),
    key(DIRECTION, "delay", Duration { min: 0.0, max: 5.0 }, Optional, "What every datagram takes."),
    key(DIRECTION, "jitter", Duration { min: 0.0, max: 1.0 }, Optional, "Delay on top that differs from datagram to datagram: its mean."),
    key(DIRECTION, "jitter_shape", Word(&["uniform", "exponential"]), Optional, "uniform: between 0 and twice the mean; exponential: many short, few long ones, at most ten means. Left out: uniform."),
    key(DIRECTION, "jitter_reorders", Flag, Optional, "Whether jitter may let a datagram overtake another, which no queue does. Left out: false."),
    key(DIRECTION, "reorder", Share { max: 100.0 }, Optional, "Share of datagrams held back, so that those behind overtake them."),
    key(DIRECTION, "reorder_by", Duration { min: 0.0, max: 5.0 }, Optional, "How long they are held back. Left out: 20ms."),
    key(DIRECTION, "duplicate", Share { max: 100.0 }, Optional, "Share of datagrams that arrive twice, one right behind the other."),
    key(DIRECTION, "corrupt", Share { max: 100.0 }, Optional, "Share of datagrams in which one bit is turned over."),
    key(DIRECTION, "rate", BitRate, Optional, "Bottleneck: bits per second on the wire, IPv4 and UDP headers included (28 bytes a datagram), or \"none\"."),
    key(DIRECTION, "queue", Queue, Optional, "What may wait in front of the bottleneck; the rest is dropped: \"200ms\" or \"64kB\". Left out: 200ms."),
    key(DIRECTION, "blackout", Duration { min: 0.0, max: 3600.0 }, Optional, "Nothing passes for so long."),
    key(DIRECTION, "blackout_after", Duration { min: 0.0, max: 604_800.0 }, Optional, "When that begins, from the participant's first datagram in this direction. Left out: 0s."),
    key(DIRECTION, "blackout_every", Duration { min: 0.001, max: 604_800.0 }, Optional, "From one beginning to the next. Left out: once."),
    key(DIRECTION, "after", Duration { min: 0.0, max: 604_800.0 }, Optional, "Until so long after the participant's first datagram in this direction, it is perfect. Left out: 0s."),

    key("load", "join", Join, Required, "Open loop, whatever the target does: \"8/s\" evenly, \"poisson(8/s)\", \"ramp(1/s..20/s, 30s)\", \"burst(50, 10s)\"."),
    key("load", "warmup", Duration { min: 0.0, max: 86_400.0 }, Or("\"5s\""), "From the last planned first join to the start of judging."),
    key("load", "hold", Duration { min: 1.0, max: 604_800.0 }, Required, "How long is judged; then everybody leaves."),
    key("load", "join_timeout", Duration { min: 0.1, max: 600.0 }, Or("\"15s\""), "A join that takes longer has failed."),

    key("search", "range", Range { max: SEATS_MAX }, Required, "Participants on one server, lowest and highest: \"20..600\". Loads between are whole rooms. The highest holds one turn of the mix at least, and on all servers together at most 200000 participants."),
    key("search", "join", Rate, Required, "Joins a second while the load grows, all servers together: \"8/s\". Of several servers each gets its part of it, in turn."),
    key("search", "server", Text, Optional, "The only server to load, where the driver can send rooms to one. Left out: all servers at once, each with the load, each judged by itself."),
    key("search", "trial", Duration { min: 1.0, max: 86_400.0 }, Or("\"30s\""), "Judged time of a trial that can prove that a load holds."),
    key("search", "first_trial", Duration { min: 1.0, max: 86_400.0 }, Or("\"10s\""), "Judged time of a trial that feels the way; it can prove that a load does not hold."),
    key("search", "trial_sum", Duration { min: 1.0, max: 604_800.0 }, Optional, "Judged time, all trials of a load together, that it takes to prove that it holds. Left out: one trial."),
    key("search", "loss_ratio", Share { max: 99.0 }, Or("\"5%\""), "Participant-seconds of a trial that may break an objective."),
    key("search", "exceed_ratio", Share { max: 90.0 }, Or("\"0%\""), "Share of trial_sum that may be trials which did not hold."),
    key("search", "width", Share { max: 50.0 }, Or("\"5%\""), "How far the bounds may be apart at the end, share of the upper one; never less than one room."),
    key("search", "settle", Duration { min: 0.0, max: 3600.0 }, Or("\"5s\""), "From the last join or leave of a load to the start of judging; up to ten times as long while a server works off an overload."),
    key("search", "budget", Duration { min: 1.0, max: 604_800.0 }, Or("\"15m\""), "The whole search: when it is up, the bounds known so far are the answer, whatever is under way."),
    key("search", "join_timeout", Duration { min: 0.1, max: 600.0 }, Or("\"15s\""), "A join that takes longer has failed."),

    key("mixes[]", "name", Text, Required, "Name of the mix: letters, digits, - and _; its run folder is called so. No two differ only in case, or in - and _."),
    key("mixes[]", "rooms", Counts { max: 100_000 }, Required, "Groups of [[rooms]] in it, each with its share in place of the group's `count`: { voice = 3, meeting = 1 } adds three rooms of voice for each meeting."),
    key("mixes[]", "range", Range { max: SEATS_MAX }, Optional, "Loads to search, in place of [search]'s."),
    key("compare", "placement", Words(Placement::NAMES), Required, "Both, in the order in which they run: [\"affinity\", \"spread\"]."),
    key("answer", "servers", Count { min: 1, max: 100_000 }, Required, "Servers of the fleet."),
    key("answer", "survive", Count { min: 0, max: 99_999 }, Or("1"), "Servers that may be lost at once, their participants taken by the others."),
    key("answer", "growth", Rate, Or("\"0/min\""), "Participants that the whole fleet gains, net, at its steepest."),
    key("answer", "boot", Duration { min: 0.0, max: 86_400.0 }, Or("\"0s\""), "From the decision to scale out until the new server takes rooms."),

    key("step[]", "name", Text, Required, "What reports and other steps call it: letters, digits, - and _."),
    key("step[]", "do", Word(ACTIONS), Required, "cordon, uncordon, terminate (as an orchestrator does: SIGTERM), kill (SIGKILL), start (one server more), pause and resume (SIGSTOP, SIGCONT), partition_signaling, partition_media and partition_registry, heal (ends a server's partitions), registry_pause, registry_resume, registry_flush, registry_restart; join_existing (somebody joins rooms that are there), join_new (somebody joins new ones). What a fleet can do is its backends' matter."),
    key("step[]", "at", Duration { min: 0.0, max: 604_800.0 }, Optional, "When it is due, from the start of judging."),
    key("step[]", "clock", Text, Optional, "When it is due: a time of day, UTC, \"22:30\" or \"22:30:15\"; the first one after the start of judging."),
    key("step[]", "after", Text, Optional, "When it is due: as soon as this earlier step is done. If that fails or is skipped, this one is skipped."),
    key("step[]", "delay", Duration { min: 0.0, max: 604_800.0 }, Optional, "So long after the step that `after` or `again_after` names."),
    key("step[]", "when", Text, Optional, "Once due, it waits until this holds: \"server.sessions == 0\", of the step's own server; \"fleet.…\", of all together; \"s1.…\", of one by its id. sessions, participants, headroom and alive (1 or 0) are what the fleet says, in looks younger than the wait; legs is our own count of who is in."),
    key("step[]", "deadline", Duration { min: 0.0, max: 604_800.0 }, Optional, "How long `when` may take; then the step is skipped."),
    key("step[]", "server", Text, Optional, "To which server: its id, \"most_sessions\", \"least_sessions\", \"random\" (by the seed), \"all\", or \"each\" (one after the other, round by round). Cordoned and dead ones are not chosen. Left out: the server of the step that `after` names."),
    key("step[]", "server_of", Text, Optional, "To the server of this earlier step."),
    key("step[]", "repeat", Count { min: 1, max: 100_000 }, Optional, "Rounds of this step and of all that follow it. Left out with `every` or `again_after`: one for each server."),
    key("step[]", "every", Duration { min: 0.1, max: 604_800.0 }, Optional, "From the beginning of a round to that of the next."),
    key("step[]", "again_after", Text, Optional, "The next round begins when this step of the round before is done."),
    key("step[]", "count", Count { min: 1, max: 10_000 }, Optional, "Joins: how many participants (`join_existing`) or rooms (`join_new`). Left out: 1."),
    key("step[]", "stay", Duration { min: 1.0, max: 604_800.0 }, Optional, "Joins: how long they stay. Left out: to the end."),

    key("rollback[]", "name", Text, Optional, "What reports call it. Left out: what it does."),
    key("rollback[]", "do", Word(UNDOING), Required, "uncordon, resume, heal, registry_resume or registry_restart."),
    key("rollback[]", "server", Text, Optional, "To which server: its id, or \"all\"."),
    key("rollback[]", "server_of", Text, Optional, "To the servers that this step was done to."),

    key("rejoin", "attempts", Count { min: 0, max: 1000 }, Or("10"), "How often a participant tries to come back after its call fell; 0: not at all."),
    key("rejoin", "backoff", Duration { min: 0.0, max: 600.0 }, Or("\"1s\""), "Mean wait before the first try; it doubles with each that fails."),
    key("rejoin", "backoff_max", Duration { min: 0.0, max: 3600.0 }, Or("\"10s\""), "Longest mean wait."),
    key("rejoin", "jitter", Share { max: 100.0 }, Or("\"50%\""), "By how much each wait may be shorter or longer, evenly, by the seed: a herd that comes back as one is a load of its own."),
    key("expect", "exposed_legs", Count { min: 1, max: 1_000_000 }, Or("1"), "Legs that must be up on the removed servers when they are cordoned (with `removed = 0`, on those that are paused or cut off); with fewer nothing is proven."),
    key("expect", "join_policy", Word(&["stick", "move_room", "reject"]), Or("\"stick\""), "What becomes of a join to a room on a cordoned server: it goes there (stick), the whole room goes elsewhere (move_room), it is refused (reject)."),
    key("expect", "allowance", Duration { min: 0.0, max: 3600.0 }, Or("\"2s\""), "From the acknowledged cordon until no room may start on the server any more."),
    key("expect", "drain", Duration { min: 1.0, max: 604_800.0 }, Or("\"30m\""), "From cordon to the end of the server."),
    key("expect", "exit", Duration { min: 0.0, max: 86_400.0 }, Or("\"30s\""), "From the last leave on a cordoned server to the end of the server."),
    key("expect", "ghost_allowance", Duration { min: 0.0, max: 3600.0 }, Or("\"10s\""), "How long after its end a leg may still be counted by the fleet, and after its join not yet."),
    key("expect", "linger", Duration { min: 0.0, max: 86_400.0 }, Or("\"0s\""), "For so long an empty room lives on; who joins it then joins a room that is there."),
    key("expect", "min_servers", Count { min: 0, max: 100_000 }, Or("1"), "Serving servers (alive, not cordoned) at any time."),
    key("expect", "exclusive", Flag, Or("false"), "Nobody else is on the fleet: its counts can be held against ours. false: ghosts cannot be seen."),
    key("expect", "sessions_per_leg", Number { min: 0.0, max: 1000.0 }, Or("1"), "Sessions, in the unit that the fleet counts in, that one leg makes (Janus counts handles); used where it counts no participants. 0: they say nothing about legs."),
    key("expect", "cascade", Flag, Or("false"), "Rooms may span servers."),
    key("expect", "registry_ttl", Duration { min: 0.0, max: 3600.0 }, Or("\"10s\""), "How long the registry may list a server that is gone, or miss one that is there."),
    key("expect", "migration", Duration { min: 0.0, max: 3600.0 }, Optional, "Where the fleet moves calls: how long media may stand still for it. Left out: calls are not to be moved."),
    key("expect", "removed", Count { min: 0, max: 100_000 }, Optional, "Servers that must be removed. Left out: at least one."),
    key("expect", "removed_within", Duration { min: 1.0, max: 604_800.0 }, Optional, "By when in the hold they must be. Left out: by its end."),
    key("expect", "uncordon", Duration { min: 0.0, max: 86_400.0 }, Or("\"30s\""), "From uncordon until the server gets new rooms again, where rooms start."),
    key("expect", "baseline", Duration { min: 0.0, max: 86_400.0 }, Or("\"3s\""), "Steady part of the hold that there must be before the first operation."),
    key("expect", "inconclusive_share_max", Share { max: 100.0 }, Or("\"1%\""), "Legs that may be inconclusive by the generator's own trouble."),
    key("expect", "skip", Words(INVARIANTS), Or("[]"), "Invariants that are not judged, e.g. because nothing on this fleet can observe them."),
    key("expect", "others", Form::Table, Or("{}"), "How much the other servers may suffer: up to a factor on what they had before, or up to a floor."),
    key("expect", "herd", Form::Table, Or("{}"), "How those who fell come back."),
    key("expect", "scale_out", Form::Table, Optional, "What has to happen when servers are added."),
    key("expect", "classes", Form::Table, Or("{}"), "Limits of the classes of legs."),
    key("expect.others", "factor", Number { min: 1.0, max: 1000.0 }, Or("2"), "Times what they had before the first operation."),
    key("expect.others", "gap", Duration { min: 0.0, max: 3600.0 }, Or("\"500ms\""), "Floor of the longest audio gap in a second, p99 over seconds."),
    key("expect.others", "loss", Share { max: 100.0 }, Or("\"0.5%\""), "Floor of audio loss."),
    key("expect.others", "join", Duration { min: 0.0, max: 3600.0 }, Or("\"1s\""), "Floor of the time that a join takes, p95."),
    key("expect.herd", "rate", Rate, Or("\"50/s\""), "Most rejoins in a second."),
    key("expect.herd", "back_within", Duration { min: 0.0, max: 86_400.0 }, Or("\"30s\""), "By then 99% of those who rejoin have media again."),
    key("expect.scale_out", "servers", Count { min: 1, max: 100_000 }, Or("1"), "New servers that must get a join."),
    key("expect.scale_out", "within", Duration { min: 1.0, max: 604_800.0 }, Required, "From the beginning of the hold to the first join on each of them."),
    key("expect.scale_out", "joins_failed_max", Count { min: 0, max: 1_000_000 }, Or("0"), "Joins that may fail until then."),
    key("expect.classes", "glitch", Duration { min: 0.05, max: 3600.0 }, Or("\"1s\""), "A longer gap makes a leg glitched."),
    key("expect.classes", "drop", Duration { min: 0.1, max: 3600.0 }, Or("\"15s\""), "A leg that hears nobody for so long is dropped."),
    key("expect.classes", "one_way", Duration { min: 0.1, max: 3600.0 }, Or("\"5s\""), "A leg that does not hear one sender for so long, while that one hears it, is one_way."),

    key("health", "shard_cpu_max", Share { max: 100.0 }, Or("\"90%\""), "Busiest media thread, share of one core."),
    key("health", "steal_max", Share { max: 100.0 }, Or("\"10%\""), "CPU time the hypervisor took, share of the machine."),
    key("health", "lateness_p99_max", Duration { min: 0.0, max: 60.0 }, Or("\"10ms\""), "Send time against schedule, p99."),
    key("health", "timer_p99_max", Duration { min: 0.0, max: 60.0 }, Or("\"10ms\""), "How late a media thread came round, p99 over all milliseconds of the second."),
    key("health", "machine_cpu_max", Share { max: 100.0 }, Or("\"100%\""), "CPU of the whole machine. 100%: never by itself; what it does to us shows in lateness."),
    key("health", "socket_drops_max", Share { max: 100.0 }, Or("\"0%\""), "Received datagrams that the kernel dropped at our sockets."),
    key("health", "send_errors_max", Share { max: 100.0 }, Or("\"0%\""), "Sends that the kernel refused, of all."),
    key("health", "udp_errors_max", Share { max: 100.0 }, Or("\"0.1%\""), "UDP errors that the kernel counts beside those at our sockets, share of our datagrams. Not judged where the target runs on the same machine: then they may be its own."),
    key("health", "reference_loss_max", Share { max: 100.0 }, Or("\"0%\""), "Loss on the reference flow (50 packets/s from each media thread to itself, past the target)."),
    key("health", "reference_delay_p99_max", Duration { min: 0.0, max: 60.0 }, Or("\"10ms\""), "Its one-way delay, p99."),
    key("health", "reference_jitter_max", Duration { min: 0.0, max: 60.0 }, Or("\"5ms\""), "Its jitter (RFC 3550)."),
    key("health", "clock_step_max", Duration { min: 0.0, max: 60.0 }, Or("\"1ms\""), "A step of CLOCK_REALTIME against CLOCK_MONOTONIC. Media goes by a clock that no step moves; what the kernel stamped in that moment does not."),
    key("health", "descriptors_left_min", Count { min: 0, max: 1_000_000_000 }, Or("16"), "Descriptors that this process may still open."),
    key("health", "ports_left_min", Count { min: 0, max: 1_000_000_000 }, Or("16"), "UDP ports left on the source addresses."),
    key("health", "inconclusive_share_max", Share { max: 100.0 }, Or("\"5%\""), "Inconclusive intervals of the hold before the whole run is unknown."),

    key("target_file", "driver", Text, Required, "Who speaks the target's signalling."),
    key("target_file", "allow", Networks, Or("[]"), "Networks where media may go, besides the signalling hosts themselves."),
    key("target_file", "authorized", Flag, Or("false"), "Needed for addresses outside loopback and private ranges: you may load this target."),
    key("target_file", "tls_verify", Flag, Or("true"), "Check the target's certificates; reports say so when not."),
    key("target_file", "simulcast", Word(&["rid", "ssrc-group"]), Or("\"rid\""), "How the target wants the layers of `simulcast` told apart: rid (RFC 8853), or ssrc-group (a=ssrc-group:SIM, for servers that read no rids)."),
    key("target_file", "director", Url, Optional, "Driver embedded: the address of the fleet's director. The [[servers]] are then its servers, by the ids that it gives them (s1, s2, …), each with the address of its own API as `url`. Left out: the first server's `url` is the director's, and nobody knows which servers it has."),
    key("target_file", "servers", Tables, Optional, "The servers. Required, but for driver turn, whose servers are the [[turn]]."),
    key("target_file", "secrets", Secrets, Or("{}"), "Values that appear in no report: a literal, { env = \"NAME\" } or { file = \"path\" }; with optional = true it may be missing."),
    key("target_file", "turn", Tables, Optional, "Ways to TURN servers, for participants that [ice] has relayed. Several with one id are one server: over UDP, TCP and TLS."),
    key("target_file", "peer", Word(&["direct", "relayed"]), Or("\"direct\""), "Driver turn: whether the other one of each pair is reached directly, or through an allocation of its own."),
    key("target_file.servers[]", "id", Text, Required, "What reports call the server."),
    key("target_file.servers[]", "url", Url, Required, "Its signalling address."),
    key("target_file.servers[]", "admin", Url, Optional, "Its administration address, where the driver has a use for one."),
    key("target_file.servers[]", "pid_file", Text, Optional, "A file with the id of its process on this machine: CPU, memory and pressure are read from /proc."),
    key("target_file.servers[]", "metrics", Url, Optional, "Its Prometheus metrics: process_cpu_seconds_total, process_resident_memory_bytes, or cAdvisor's."),
    key("target_file.servers[]", "observe", Command, Or("[]"), "A command and its arguments, run each second, that prints what the server uses as JSON: {\"cpu_cores\": 0.6, \"cores\": 2, \"memory_bytes\": 1000000}."),
    key("target_file.servers[]", "cores", Number { min: 0.01, max: 4096.0 }, Optional, "Cores that it may use, for CPU in percent, in place of what is observed (quota, affinity, machine). Left out: as observed."),
    key("target_file", "fleet", Form::Table, Optional, "How servers are discovered, controlled and observed. Left out: the servers above; with driver embedded, its director for everything."),
    key("target_file", "join", Form::Table, Optional, "Your own join API, which says where each participant goes: asked before every join, timed as its own phase (setup.join). Left out: the driver places rooms."),
    key("target_file.turn[]", "id", Text, Required, "What reports call the server."),
    key("target_file.turn[]", "url", Form::TurnUrl, Required, "Where it is and how it is reached (RFC 7065): \"turn:10.77.0.3:3478\", \"turn:turn.example:3478?transport=tcp\", \"turns:turn.example:5349\" (TLS)."),
    key("target_file.turn[]", "weight", Number { min: 0.0, max: 1000.0 }, Or("1"), "Share of the relayed participants that begin here, beside the weights of the others. 0: only where another one has failed."),
    key("target_file.turn[]", "username", Text, Optional, "Username of long-term credentials; with `secret_from`, what stands behind the time in it."),
    key("target_file.turn[]", "password_from", Text, Optional, "Name of the secret, under [secrets], that is the username's password."),
    key("target_file.turn[]", "secret_from", Text, Optional, "Name of the secret, under [secrets], that the server makes time-limited credentials from (coturn: static-auth-secret)."),
    key("target_file.turn[]", "pid_file", Text, Optional, "As in [[servers]]."),
    key("target_file.turn[]", "metrics", Url, Optional, "As in [[servers]]."),
    key("target_file.turn[]", "cores", Number { min: 0.01, max: 4096.0 }, Optional, "As in [[servers]]."),
    key("target_file.turn[]", "cli", Text, Optional, "Address of coturn's CLI: \"10.77.0.3:5766\"; its password is the secret coturn_cli."),
    key("target_file.turn[]", "drain", Flag, Or("false"), "The step cordon says drain to its CLI (coturn 4.6.3 and later): it refuses new allocations with 403, ends by itself with the last one, and nothing takes that back. false: aas, which sends new allocations to another server (300)."),
    key("target_file.turn[]", "statsdb", Url, Optional, "Redis database in which it (redis-statsdb), and no other server, keeps the state of its allocations: shown beside ours as a hint, since it is written late and stays behind when the server is killed. User and password are the secrets redis_user and redis_password."),
    key("target_file.fleet", "discovery", Words(DISCOVERY), Or("[\"static\"]"), "Where the registry is seen: which servers there are, and which room is where."),
    key("target_file.fleet", "control", Words(CONTROL), Or("[]"), "Who carries out steps; the first that can do a thing does it."),
    key("target_file.fleet", "observe", Words(OBSERVE), Or("[]"), "Who says what servers have: life, sessions, participants, loss, jitter."),
    key("target_file.fleet", "exec", Form::Table, Optional, "Backend exec: programs of yours."),
    key("target_file.fleet", "http", Form::Table, Optional, "Backend http: a service of yours."),
    key("target_file.fleet", "redis", Form::Table, Optional, "Backend redis: a registry in Redis."),
    key("target_file.fleet", "prometheus", Form::Table, Optional, "Backend prometheus: what each server exports at its `metrics`."),
    key("target_file.fleet.exec", "look", Command, Or("[]"), "A program and its arguments, run each second, that prints the fleet as JSON."),
    key("target_file.fleet.exec", "act", Command, Or("[]"), "A program and its arguments that does what ROOMFUL_ACTION says to the server ROOMFUL_SERVER; exit status 0 acknowledges it."),
    key("target_file.fleet.exec", "actions", Words(FLEET_ACTIONS), Or("[]"), "What `act` can do; the rest is left to other backends. Empty: everything."),
    key("target_file.fleet.exec", "timeout", Duration { min: 0.1, max: 600.0 }, Or("\"5s\""), "A program that runs longer is ended, and has failed."),
    key("target_file.fleet.http", "look", Url, Optional, "GET there gives the fleet as JSON."),
    key("target_file.fleet.http", "act", Url, Optional, "POST there does what its JSON says, {\"action\": \"cordon\", \"server\": \"sfu-1\"}; status 2xx acknowledges it."),
    key("target_file.fleet.http", "actions", Words(FLEET_ACTIONS), Or("[]"), "What `act` can do; the rest is left to other backends. Empty: everything."),
    key("target_file.fleet.http", "timeout", Duration { min: 0.1, max: 600.0 }, Or("\"5s\""), "An answer that takes longer is none."),
    key("target_file.fleet.redis", "url", Url, Required, "Its address and database: \"redis://10.77.0.1:6379/0\". User and password are secrets."),
    key("target_file.fleet.redis", "alive", Text, Optional, "What is there as long as a server lives, usually with a time to live: \"sfu:{server}:alive\"."),
    key("target_file.fleet.redis", "listed", Text, Optional, "Which servers the registry offers: a set, \"sfu:servers\", or a key of each."),
    key("target_file.fleet.redis", "cordoned", Text, Optional, "Which servers take no new rooms; cordon sets it and uncordon deletes it."),
    key("target_file.fleet.redis", "headroom", Text, Optional, "Participants that a server would still take: \"sfu:{server}#headroom\"."),
    key("target_file.fleet.redis", "sessions", Text, Optional, "Sessions that a server has, in the target's own unit."),
    key("target_file.fleet.redis", "participants", Text, Optional, "Participants that a server has."),
    key("target_file.fleet.redis", "rooms", Text, Optional, "The server of each room: \"room:{room}:server\" or \"rooms#{room}\"."),
    key("target_file.fleet.redis", "pid_file", Text, Optional, "A file with the id of the redis-server's process on this machine: registry_pause is SIGSTOP then. Left out: CLIENT PAUSE."),
    key("target_file.fleet.redis", "restart", Command, Or("[]"), "A program and its arguments that restart it: registry_restart."),
    key("target_file.fleet.redis", "pause", Duration { min: 0.1, max: 3600.0 }, Or("\"30s\""), "How long CLIENT PAUSE lasts; nobody can end it before."),
    key("target_file.fleet.redis", "timeout", Duration { min: 0.1, max: 600.0 }, Or("\"2s\""), "An answer that takes longer is none."),
    key("target_file.fleet.prometheus", "sessions", Text, Optional, "Metric of a server's sessions: \"name\", or \"name{label=\\\"value\\\"}\"; several series are added up."),
    key("target_file.fleet.prometheus", "participants", Text, Optional, "Metric of a server's participants."),
    key("target_file.fleet.prometheus", "loss", Text, Optional, "Metric of its loss, as a share of 1: \"loss_percent * 0.01\"."),
    key("target_file.fleet.prometheus", "jitter", Text, Optional, "Metric of its jitter, in ms: \"jitter_us / 1000\"."),
    key("target_file.fleet.prometheus", "timeout", Duration { min: 0.1, max: 600.0 }, Or("\"3s\""), "An answer that takes longer is none."),
    key("target_file.join", "exec", Command, Or("[]"), "A program and its arguments, run for each join with ROOMFUL_ROOM, ROOMFUL_PARTICIPANT and ROOMFUL_SIZE, that prints JSON: {\"url\": \"ws://10.77.0.1:8188\", \"room\": \"17\", \"token\": \"…\"}."),
    key("target_file.join", "http", Url, Optional, "POST there, with {\"room\", \"participant\", \"size\"} as JSON, answers the same."),
    key("target_file.join", "timeout", Duration { min: 0.1, max: 600.0 }, Or("\"5s\""), "An answer that takes longer is none, and the join has failed."),
];

/// Keys of other shapes, or of later versions: known, so that they are refused by what they are.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("", "fault", "is written as [[step]], in shape \"scale-in\""),
    ("", "fleet", "belongs to shape \"scale-in\" and is not supported yet by shape \"steady\""),
];

/// Keys of the top that do not belong to every shape.
const OF_SHAPES: &[(&str, &[&str])] = &[
    ("load", &["steady", "scale-in"]),
    ("pass", &["steady", "scale-in"]),
    ("search", &["capacity"]),
    ("objectives", &["capacity"]),
    ("answer", &["capacity"]),
    ("mixes", &["capacity"]),
    ("compare", &["steady", "capacity"]),
    ("control", &["scale-in"]),
    ("step", &["scale-in"]),
    ("rollback", &["scale-in"]),
    ("rejoin", &["scale-in"]),
    ("expect", &["scale-in"]),
];

/// Keys of the top that are required in their other shapes.
const OPTIONAL_IN: &[(&str, &str)] = &[("pass", "scale-in")];

/// The shapes a key of the top belongs to, where it does not belong to all.
pub fn shapes_of(key: &str) -> Option<&'static [&'static str]> {
    OF_SHAPES.iter().find(|(k, _)| *k == key).map(|(_, shapes)| *shapes)
}

/// The keys of one table.
pub fn of_table(table: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |k| k.table == table)
}

/// The words of a list of them.
pub(super) fn words(table: &str, name: &str) -> &'static [&'static str] {
    match find(table, name).map(|k| k.form) {
        Some(Form::Word(words) | Words(words)) => words,
        _ => &[],
    }
}

pub(super) fn find(table: &str, name: &str) -> Option<&'static Key> {
    of_table(table).find(|k| k.name == name)
}

/// Checks the keys of a table and all tables in it, and fills in what was left out. `path` is the table's path for
/// errors. With `lenient`, keys may be missing (the file has syntax errors that may have swallowed them).
pub(super) fn complete(
    table: &mut Table,
    at: &Origin,
    name: &'static str,
    path: &str,
    lenient: bool,
    errors: &mut Errors,
) {
    // A missing or unknown shape has its own error; what belongs to one is then left alone.
    let shape = table.get("shape").and_then(Node::as_text).unwrap_or_default().to_owned();
    let elsewhere =
        |key: &str| if name.is_empty() { shapes_of(key).filter(|s| !s.contains(&shape.as_str())) } else { None };
    let optional = |key: &str| name.is_empty() && OPTIONAL_IN.contains(&(key, &shape));
    for entry in &table.0 {
        if find(name, &entry.key).is_none() {
            errors.push(&entry.node.at, join(path, &entry.key), unknown(name, &entry.key, &entry.node));
        } else if let Some(home) = elsewhere(&entry.key).filter(|_| SHAPES.contains(&shape.as_str())) {
            let home: Vec<String> = home.iter().map(|s| format!("\"{s}\"")).collect();
            let why = format!("[{}] belongs to shape {}", entry.key, home.join(" or "));
            errors.push(&entry.node.at, &*entry.key, why);
        }
    }
    for key in of_table(name) {
        if elsewhere(key.name).is_some() {
            continue;
        }
        match (table.get(key.name), key.need) {
            (Some(_), _) | (None, Optional) => {}
            (None, Required) if lenient || optional(key.name) => {}
            (None, Required) => errors.push(at, join(path, key.name), format!("is missing: {}", key.doc)),
            (None, Or(text)) => table.set(key.name, parse_value(text, &Origin::Default)),
        }
        if key.name == "target_file" {
            continue; // Checked by itself, with its own paths.
        }
        if let Some(node) = table.get_mut(key.name) {
            descend(key, node, &join(path, key.name), lenient, errors);
        }
    }
}

/// The same for a lone `network`, which stands in `top`.
pub(super) fn complete_network(top: &mut Table, errors: &mut Errors) {
    if let (Some(key), Some(node)) = (find("", "network"), top.get_mut("network")) {
        descend(key, node, "network", false, errors);
    }
}

fn descend(key: &Key, node: &mut Node, path: &str, lenient: bool, errors: &mut Errors) {
    let at = node.at.clone();
    let found = node.describe();
    let inner = |suffix: &str| {
        let name = if key.table.is_empty() {
            format!("{}{suffix}", key.name)
        } else {
            format!("{}.{}{suffix}", key.table, key.name)
        };
        KEYS.iter().find(|k| k.table == name).map_or("", |k| k.table)
    };
    match (key.form, &mut node.value) {
        (Form::Table, Value::Table(table)) => complete(table, &at, inner(""), path, lenient, errors),
        (Form::Table, _) => errors.push(&at, path, format!("is a table, [{path}], not {found}")),
        (Like { table: like, .. }, Value::Table(table)) => complete(table, &at, like, path, lenient, errors),
        (Like { table: like, many: true }, Value::Array(items)) => {
            for (i, item) in items.iter_mut().enumerate() {
                let (at, found) = (item.at.clone(), item.describe());
                let path = format!("{path}[{i}]");
                match &mut item.value {
                    Value::Table(table) => complete(table, &at, like, &path, lenient, errors),
                    _ => errors.push(&at, path, format!("is a table, {{ … }}, not {found}")),
                }
            }
        }
        (Like { .. }, _) => errors.push(&at, path, format!("is a table, {{ … }}, not {found}")),
        (Tables, Value::Array(items)) => {
            if items.is_empty() && !lenient {
                errors.push(&at, path, format!("is empty; write at least one [[{path}]]"));
            }
            for (i, item) in items.iter_mut().enumerate() {
                let (at, found) = (item.at.clone(), item.describe());
                match &mut item.value {
                    Value::Table(table) => complete(table, &at, inner("[]"), &format!("{path}[{i}]"), lenient, errors),
                    _ => errors.push(&at, format!("{path}[{i}]"), format!("is a table, [[{path}]], not {found}")),
                }
            }
        }
        (Tables, Value::Table(_)) => {
            errors.push(&at, path, format!("is an array of tables: write [[{path}]], with two brackets"));
        }
        (Tables, _) => errors.push(&at, path, format!("is an array of tables, [[{path}]], not {found}")),
        (Pass | Secrets | Counts { .. }, Value::Table(_)) => {}
        (Pass | Secrets | Counts { .. }, _) => errors.push(&at, path, format!("is a table, [{path}], not {found}")),
        _ => {}
    }
}

fn unknown(table: &str, key: &str, node: &Node) -> String {
    let foreign = FOREIGN.iter().find(|(t, k, _)| *t == table && *k == key);
    if let Some((_, _, why)) = foreign {
        return format!("[{key}] {why}");
    }
    if table.is_empty() && key == "join" && node.as_table().is_some() {
        return "[join] (the user's own join API) belongs in the target file".into();
    }
    // A key that stands in the wrong table is the commonest slip: TOML gives everything below a header to it.
    if let Some(home) = KEYS.iter().find(|k| k.name == key) {
        return match home.table {
            "" => format!("`{key}` is a key of the top: write it above the first [table]"),
            other => format!("unknown key here; `{key}` belongs in {}", header(other)),
        };
    }
    let hint = nearest(key, of_table(table).map(|k| k.name));
    let hint = hint.map(|h| format!("did you mean `{h}`?"));
    let list = || {
        let names: Vec<&str> = of_table(table).map(|k| k.name).collect();
        format!("known here: {}", names.join(", "))
    };
    format!("unknown key; {}", hint.unwrap_or_else(list))
}

/// How a table is written as a header.
pub fn header(table: &str) -> String {
    match table.strip_suffix("[]") {
        Some(name) => format!("[[{name}]]"),
        None => format!("[{}]", table.replace("[]", "")),
    }
    .replace("target_file.", "")
    .replace("[target_file]", "the target file")
}

/// A key's path inside its table's path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_the_list_hangs_on_a_key() {
        for k in KEYS.iter().filter(|k| !k.table.is_empty()) {
            let (parent, name) = k.table.rsplit_once('.').unwrap_or(("", k.table));
            let owner = find(parent, name.trim_end_matches("[]")).unwrap();
            assert!(matches!(owner.form, Form::Table | Tables | Like { .. }), "{k:?}");
            assert_eq!(owner.form == Tables, name.ends_with("[]"), "{k:?}");
        }
    }

    #[test]
    fn keys_are_unique_and_explained() {
        for (i, a) in KEYS.iter().enumerate() {
            assert!(!a.doc.is_empty());
            assert!(!KEYS[..i].iter().any(|b| a.table == b.table && a.name == b.name), "{a:?}");
        }
    }
}
