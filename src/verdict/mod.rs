//! Pure: from a history to a verdict. The same history and limits give the same judgement, byte for byte, whoever
//! asks and whenever. Definitions: docs/measurement.md.

mod direction;
mod frame;
mod gather;
mod generator;
mod judgement;
mod legs;
mod metrics;
mod relays;
pub mod scale_in; // did taking servers away end anybody's call?
mod sentence;
mod series;
#[cfg(test)]
mod tests;
mod thresholds;
#[cfg(test)]
mod unproven_tests;
mod usage;
mod windows;
mod words;

pub use generator::{Generator, Lateness, Reference};
pub use judgement::{
    FailureRow, Hold, Joins, Judgement, Legs, NoteRow, Participants, ROLLBACK_FAILED, RoomRow, ServerRow, judge,
    judge_scale_in, judge_window,
};
pub use legs::LegClass;
pub use metrics::{
    AudioMetrics, E2eCounts, LossSource, MediaMetrics, Mos, Percentiles, PhaseMetrics, RtpCounts, SetupMetrics,
    UpCounts, VideoMetrics, flow_metric,
};
pub use relays::{PathMetrics, RelayRow, Relays};
pub use scale_in::ScaleIn;
pub use series::{GeneratorPoint, JoinPoint, KindPoint, MediaPoint, Series, ServerPoint};
pub use thresholds::Outcome;
pub use usage::{FleetUse, fleet_use};
pub use windows::Window;
pub use words::{amount, clock, metric_words, number};

use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// Nothing proven either way; never a pass.
    Unknown,
}

impl Verdict {
    /// Exit code of a run that ended by itself.
    pub fn exit_code(self) -> i32 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail => 3,
            Verdict::Unknown => 4,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Unknown => "unknown",
        }
    }
}

/// Looks up a number by its path, e.g. `audio.delay.p99`, in a summary or a part of one.
pub fn lookup(value: &serde_json::Value, path: &str) -> Option<f64> {
    path.split('.').try_fold(value, |v, key| v.get(key))?.as_f64()
}

/// What a metric is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Subject {
    /// Who came in. Explains all that follows, so it comes first.
    Joins,
    Legs,
    Media,
    Relays,
    Setup,
    Generator,
}

impl Subject {
    fn of(metric: &str) -> Subject {
        match metric {
            "participants.dropped" | "participants.clean" => return Subject::Legs,
            // Of judged seconds, as all media.
            "relays.pps" | "relays.bps" => return Subject::Media,
            _ => {}
        }
        match metric.split('.').next() {
            Some("joins" | "participants") => Subject::Joins,
            Some("legs") => Subject::Legs,
            Some("relays") => Subject::Relays,
            Some("setup") => Subject::Setup,
            Some("generator") => Subject::Generator,
            _ => Subject::Media,
        }
    }
}
