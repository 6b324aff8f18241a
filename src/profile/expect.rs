//! `[expect]`: what has to hold when servers are taken away. Every value has its default here and in the list of keys; a
//! test holds the two together.

use super::units::{print_duration, print_percent, print_rate};
use super::write::quote;
use std::fmt::Write;
use std::time::Duration;

/// What a scale-in is judged by. docs/measurement.md says what each invariant means.
#[derive(Clone, PartialEq, Debug)]
pub struct Expect {
    /// Legs that must have been up on the removed servers when they were cordoned, or nothing is proven.
    pub exposed_legs: u32,
    /// What becomes of a join to a room that is on a cordoned server already.
    pub join_policy: JoinPolicy,
    /// From the acknowledged cordon until no room may start there any more.
    pub allowance: Duration,
    /// From cordon to the server's end.
    pub drain: Duration,
    /// From the last leave on a cordoned server to the server's end.
    pub exit: Duration,
    /// How long after its end a leg may still be seen by the fleet.
    pub ghost_allowance: Duration,
    /// For so long an empty room lives on.
    pub linger: Duration,
    /// Serving servers at any time.
    pub min_servers: u32,
    /// Nobody else is on the fleet: its counts can be held against ours.
    pub exclusive: bool,
    /// Sessions, in the fleet's unit, that one leg makes; 0: they say nothing about legs.
    pub sessions_per_leg: f64,
    /// A room may span servers.
    pub cascade: bool,
    /// How long the registry may list a server that is gone, or miss one that is there.
    pub registry_ttl: Duration,
    /// Where the fleet moves calls: how long media may stand still for it. `None`: calls are not moved.
    pub migration: Option<Duration>,
    /// Servers that must be removed, and by when in the hold. `None`: as many as steps say.
    pub removed: Option<u32>,
    pub removed_within: Option<Duration>,
    /// From uncordon until the server gets new rooms again.
    pub uncordon: Duration,
    /// Steady part of the hold that there must be before the first operation.
    pub baseline: Duration,
    /// Share of legs that may be inconclusive.
    pub inconclusive_share_max: f64,
    /// Invariants that are not judged: `I5` …
    pub skip: Vec<String>,
    pub others: Others,
    pub herd: Herd,
    pub scale_out: Option<ScaleOut>,
    pub classes: Classes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinPolicy {
    /// It joins its room, where that is.
    Stick,
    /// The whole room goes to another server.
    MoveRoom,
    /// It is refused.
    Reject,
}

impl JoinPolicy {
    pub const ALL: [JoinPolicy; 3] = [JoinPolicy::Stick, JoinPolicy::MoveRoom, JoinPolicy::Reject];

    pub fn as_str(self) -> &'static str {
        match self {
            JoinPolicy::Stick => "stick",
            JoinPolicy::MoveRoom => "move_room",
            JoinPolicy::Reject => "reject",
        }
    }
}

/// How much worse the other servers may get: than `factor` times before the first operation, or than these floors.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Others {
    pub factor: f64,
    /// p99 over seconds of the longest gap.
    pub gap: Duration,
    /// Share (0..1).
    pub loss: f64,
    /// p95 of a join.
    pub join: Duration,
}

/// How those who fell come back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Herd {
    /// Most rejoins a second.
    pub rate: f64,
    /// 99 % of them are back by then.
    pub back_within: Duration,
}

/// What has to happen when servers are added.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ScaleOut {
    pub servers: u32,
    /// From the beginning of the hold to the first join on each new server.
    pub within: Duration,
    /// Joins that may fail meanwhile.
    pub joins_failed_max: u32,
}

/// Limits of the classes of legs (docs/measurement.md).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Classes {
    /// A longer gap makes a leg `glitched`.
    pub glitch: Duration,
    /// A gap in everything so long makes it `dropped`.
    pub drop: Duration,
    /// A gap of one sender so long, while the way back works, makes it `one_way`.
    pub one_way: Duration,
}

impl Default for Classes {
    fn default() -> Classes {
        Classes { glitch: Duration::from_secs(1), drop: Duration::from_secs(15), one_way: Duration::from_secs(5) }
    }
}

impl Default for Expect {
    fn default() -> Expect {
        let seconds = Duration::from_secs;
        Expect {
            exposed_legs: 1,
            join_policy: JoinPolicy::Stick,
            allowance: seconds(2),
            drain: seconds(30 * 60),
            exit: seconds(30),
            ghost_allowance: seconds(10),
            linger: Duration::ZERO,
            min_servers: 1,
            exclusive: false,
            sessions_per_leg: 1.0,
            cascade: false,
            registry_ttl: seconds(10),
            migration: None,
            removed: None,
            removed_within: None,
            uncordon: seconds(30),
            baseline: seconds(3),
            inconclusive_share_max: 0.01,
            skip: Vec::new(),
            others: Others { factor: 2.0, gap: Duration::from_millis(500), loss: 0.005, join: seconds(1) },
            herd: Herd { rate: 50.0, back_within: seconds(30) },
            scale_out: None,
            classes: Classes::default(),
        }
    }
}

impl Expect {
    /// As tables of a profile.
    pub(super) fn written(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let mut line = |key: &str, value: String| {
            let _ = writeln!(out, "{key} = {value}");
        };
        let time = |d: Duration| quote(&print_duration(d));
        let share = |s: f64| quote(&print_percent(s));
        line("exposed_legs", self.exposed_legs.to_string());
        line("join_policy", quote(self.join_policy.as_str()));
        let times = [
            ("allowance", self.allowance),
            ("drain", self.drain),
            ("exit", self.exit),
            ("ghost_allowance", self.ghost_allowance),
            ("linger", self.linger),
            ("registry_ttl", self.registry_ttl),
            ("uncordon", self.uncordon),
            ("baseline", self.baseline),
        ];
        times.into_iter().for_each(|(key, d)| line(key, time(d)));
        line("min_servers", self.min_servers.to_string());
        line("exclusive", self.exclusive.to_string());
        line("sessions_per_leg", self.sessions_per_leg.to_string());
        line("cascade", self.cascade.to_string());
        for (key, d) in [("migration", self.migration), ("removed_within", self.removed_within)] {
            if let Some(d) = d {
                line(key, time(d));
            }
        }
        if let Some(n) = self.removed {
            line("removed", n.to_string());
        }
        line("inconclusive_share_max", share(self.inconclusive_share_max));
        line("skip", format!("[{}]", self.skip.iter().map(|s| quote(s)).collect::<Vec<_>>().join(", ")));
        let o = self.others;
        line("\n[expect.others]\nfactor", o.factor.to_string());
        line("gap", time(o.gap));
        line("loss", share(o.loss));
        line("join", time(o.join));
        line("\n[expect.herd]\nrate", quote(&print_rate(self.herd.rate)));
        line("back_within", time(self.herd.back_within));
        if let Some(s) = self.scale_out {
            line("\n[expect.scale_out]\nservers", s.servers.to_string());
            line("within", time(s.within));
            line("joins_failed_max", s.joins_failed_max.to_string());
        }
        line("\n[expect.classes]\nglitch", time(self.classes.glitch));
        line("drop", time(self.classes.drop));
        line("one_way", time(self.classes.one_way));
        format!("[expect]\n{}", out.trim_end())
    }
}
