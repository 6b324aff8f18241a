//! What a profile of shape scale-in means: its steps, and what participants do who fall out.

use super::expect::Expect;
use super::resolved::Op;
use crate::types::StepAction;
use std::fmt;
use std::time::Duration;

/// `[[step]]`, `[[rollback]]`, `[rejoin]`, `[expect]`, `control`.
#[derive(Clone, PartialEq, Debug)]
pub struct ScaleIn {
    /// False (`control = "none"`): somebody else acts on the fleet, and there are no steps.
    pub control: bool,
    pub steps: Vec<Step>,
    pub rollback: Vec<Rollback>,
    pub rejoin: Rejoin,
    pub expect: Expect,
}

/// A `[[step]]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    pub name: String,
    pub action: StepAction,
    pub start: Start,
    pub condition: Option<Condition>,
    /// How long the condition may take from the moment at which the step is due.
    pub deadline: Option<Duration>,
    pub server: Selector,
    pub repeat: Option<Repeat>,
    /// Joins: participants, or rooms.
    pub count: u32,
    /// Joins: how long they stay; `None`: to the end.
    pub stay: Option<Duration>,
}

/// When a step is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Since the start of the hold.
    At(Duration),
    /// Time of day, UTC; the first one after the start of the hold.
    Clock(TimeOfDay),
    /// When an earlier step (by its index) is done, and so long after that.
    After { step: usize, delay: Duration },
}

/// Seconds since midnight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeOfDay(pub u32);

/// Which servers a step is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// It is about none.
    None,
    Id(String),
    MostSessions,
    LeastSessions,
    All,
    /// By the seed.
    Random,
    /// One after the other, round by round.
    Each,
    /// That of an earlier step (by its index), of the same round.
    Of(usize),
}

/// Rounds of a step and of all that follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeat {
    /// `None`: a round for each server.
    pub rounds: Option<u32>,
    pub next: Next,
}

/// When the next round begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// So long after the round before began.
    Every(Duration),
    /// When this step (by its index) of the round before is done, and so long after that.
    After { step: usize, delay: Duration },
}

/// `server.sessions == 0`.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    pub of: Subject,
    pub metric: Seen,
    pub op: Op,
    pub value: f64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The step's own.
    Server,
    /// All servers together.
    Fleet,
    Id(String),
}

/// What a condition may ask of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// As the fleet says.
    Sessions,
    Participants,
    Headroom,
    /// 1 or 0.
    Alive,
    /// Participants of ours that are in, by our own count.
    Legs,
}

impl Seen {
    pub const ALL: [Seen; 5] = [Seen::Sessions, Seen::Participants, Seen::Headroom, Seen::Alive, Seen::Legs];

    pub fn as_str(self) -> &'static str {
        match self {
            Seen::Sessions => "sessions",
            Seen::Participants => "participants",
            Seen::Headroom => "headroom",
            Seen::Alive => "alive",
            Seen::Legs => "legs",
        }
    }
}

/// A `[[rollback]]`: done at the end, whatever came before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rollback {
    pub name: String,
    pub action: StepAction,
    pub server: Selector,
}

/// `[rejoin]`: what a participant does whose call fell.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rejoin {
    /// 0: nobody comes back.
    pub attempts: u32,
    /// Mean wait before the first attempt; it doubles with each, up to the most.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// Share (0..=1) by which a wait may be shorter or longer.
    pub jitter: f64,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match &self.of {
            Subject::Server => "server",
            Subject::Fleet => "fleet",
            Subject::Id(id) => id,
        };
        write!(f, "{subject}.{} {} {}", self.metric.as_str(), sign(self.op), self.value)
    }
}

fn sign(op: Op) -> &'static str {
    match op {
        Op::Lt => "<",
        Op::Le => "<=",
        Op::Gt => ">",
        Op::Ge => ">=",
        Op::Eq => "==",
    }
}

impl std::str::FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let wrong = || format!("{text:?} is no condition; write it as in \"server.sessions == 0\"");
        let (at, op) = [("<=", Op::Le), (">=", Op::Ge), ("==", Op::Eq), ("<", Op::Lt), (">", Op::Gt)]
            .into_iter()
            .find_map(|(sign, op)| text.find(sign).map(|at| ((at, sign.len()), op)))
            .ok_or_else(wrong)?;
        let (left, right) = (text[..at.0].trim(), text[at.0 + at.1..].trim());
        let (subject, metric) = left.rsplit_once('.').filter(|(s, _)| !s.is_empty()).ok_or_else(wrong)?;
        let metric = Seen::ALL.into_iter().find(|m| m.as_str() == metric).ok_or_else(|| {
            let known: Vec<&str> = Seen::ALL.iter().map(|m| m.as_str()).collect();
            format!("{metric:?} is not known of a server; it has {}", known.join(", "))
        })?;
        let value: f64 = right.parse().map_err(|_| wrong())?;
        if !value.is_finite() {
            return Err(wrong());
        }
        let of = match subject {
            "server" => Subject::Server,
            "fleet" => Subject::Fleet,
            id => Subject::Id(id.to_owned()),
        };
        Ok(Condition { of, metric, op, value })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}", self.0 / 3600, self.0 / 60 % 60, self.0 % 60)
    }
}

impl std::str::FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeOfDay, String> {
        let wrong = || format!("{text:?} is no time of day; write \"22:30\" or \"22:30:15\", UTC");
        let parts: Vec<u32> = text.split(':').map(|p| p.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        match parts[..] {
            [h, m] if h < 24 && m < 60 => Ok(TimeOfDay(h * 3600 + m * 60)),
            [h, m, s] if h < 24 && m < 60 && s < 60 => Ok(TimeOfDay(h * 3600 + m * 60 + s)),
            _ => Err(wrong()),
        }
    }
}
