//! Multiple Loss Ratio Search (RFC 9971) for one goal: which load to try next, and when to stop, from the trials so
//! far. No state beside them: the same trials give the same answer, live or from a history.
//!
//! Unlike the reference, which measures packet throughput and starts at the highest load, the search begins low and
//! grows: a join costs time, and a server thrown into thirty times its load may not come back.

use super::loads::Loads;

/// What is searched for (RFC 9971, "Search Goal").
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    /// Most of a trial's participant-seconds (0..1) that may violate the objectives.
    pub loss_ratio: f64,
    /// Seconds of a trial that feels the way, and of one that can prove a lower bound.
    pub initial_trial: f64,
    pub final_trial: f64,
    /// Seconds of trials that a lower bound needs.
    pub duration_sum: f64,
    /// Share (0..1) of those seconds that may belong to bad trials.
    pub exceed_ratio: f64,
    /// Share of the upper bound (0..1) that may lie between the bounds; never less than one room.
    pub width: f64,
}

/// One trial, as the search sees it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Trial {
    pub rooms: u32,
    /// Judged seconds.
    pub seconds: f64,
    /// Share of participant-seconds (0..1) that violated an objective.
    pub loss: f64,
    /// An objective that only the whole trial has (set-up p95, failed joins) was broken.
    pub broken: bool,
    /// False: the generator was unhealthy, or something could not be measured. Never a high loss.
    pub valid: bool,
    /// A load that this trial suggests to hold: that of the participants a server let in.
    pub hint: Option<u32>,
}

impl Trial {
    fn high(&self, goal: &Goal) -> bool {
        self.broken || self.loss > goal.loss_ratio
    }
}

/// What the trials of one load prove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Lower,
    Upper,
    /// More trials are needed.
    Open,
}

/// Bounds in rooms. The lower one is the highest load that held below *every* load that did not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bounds {
    pub lower: Option<u32>,
    pub upper: Option<u32>,
    /// Lowest load at which the generator could not measure, where nothing was measured beyond it.
    pub ceiling: Option<u32>,
    /// A higher load held although a lower one did not.
    pub inverted: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    Try { rooms: u32, seconds: f64 },
    Done(Stop),
}

/// Why a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The bounds are as close as was asked for.
    Width,
    /// The lowest load did not hold.
    BelowRange,
    /// The highest load held.
    AboveRange,
    /// The generator was unhealthy before an upper bound was found.
    Generator,
    /// The time was up.
    Budget,
    /// Ctrl-C or a crash: no further trial was made.
    Interrupted,
    /// Nobody could be connected any more.
    TargetGone,
    /// An objective found nothing to measure.
    NoData,
}

impl Stop {
    const ALL: [(Stop, &str); 8] = [
        (Stop::Width, "width"),
        (Stop::BelowRange, "below_range"),
        (Stop::AboveRange, "above_range"),
        (Stop::Generator, "generator"),
        (Stop::Budget, "budget"),
        (Stop::Interrupted, "interrupted"),
        (Stop::TargetGone, "target_gone"),
        (Stop::NoData, "no_data"),
    ];

    /// As histories and summaries have it.
    pub fn as_str(self) -> &'static str {
        Stop::ALL.iter().find(|(s, _)| *s == self).map_or("", |(_, text)| text)
    }

    pub fn parse(text: &str) -> Option<Stop> {
        Stop::ALL.iter().find(|(_, t)| *t == text).map(|(s, _)| *s)
    }
}

/// Invalid trials of one load, none valid among them, before it counts as beyond the generator.
const INVALID_MAX: usize = 2;
/// Loads grow by this ratio while nothing broke.
const GROWTH: u32 = 2;
/// Seconds may be lost at the edges of a trial.
const EDGE: f64 = 0.999;

/// What the trials of one load prove, by summed durations (RFC 9971, "Load Classification Code").
pub fn classify(goal: &Goal, trials: &[Trial], rooms: u32) -> Class {
    let [mut full_high, mut full_low, mut short_high, mut short_low] = [0.0; 4];
    for t in trials.iter().filter(|t| t.rooms == rooms && t.valid) {
        let full = t.seconds >= goal.final_trial * EDGE;
        let sum = match (full, t.high(goal)) {
            (true, true) => &mut full_high,
            (true, false) => &mut full_low,
            (false, true) => &mut short_high,
            (false, false) => &mut short_low,
        };
        *sum += t.seconds;
    }
    let e = goal.exceed_ratio;
    let high = full_high + f64::max(0.0, short_high - short_low * e / (1.0 - e));
    let whole = f64::max(full_low + high, goal.duration_sum * EDGE);
    if whole - full_low <= e * whole {
        Class::Lower
    } else if high > e * whole {
        Class::Upper
    } else {
        Class::Open
    }
}

/// Bounds by the trials so far.
pub fn bounds(goal: &Goal, trials: &[Trial]) -> Bounds {
    let mut loads: Vec<u32> = trials.iter().map(|t| t.rooms).collect();
    loads.sort_unstable();
    loads.dedup();
    let mut out = Bounds::default();
    for rooms in &loads {
        match classify(goal, trials, *rooms) {
            Class::Upper if out.upper.is_none() => out.upper = Some(*rooms),
            Class::Lower if out.upper.is_none() => out.lower = Some(*rooms),
            Class::Lower => out.inverted = true,
            Class::Upper | Class::Open => {}
        }
    }
    let measured = trials.iter().filter(|t| t.valid).map(|t| t.rooms).max().unwrap_or(0);
    out.ceiling =
        loads.into_iter().find(|r| *r > measured && trials.iter().filter(|t| t.rooms == *r).count() >= INVALID_MAX);
    out
}

/// The next trial, or the end. `affordable` is the longest trial for which time is left.
pub fn next(goal: &Goal, loads: &Loads, trials: &[Trial], affordable: f64) -> Step {
    let step = wanted(goal, loads, trials);
    match step {
        Step::Try { seconds, .. } if seconds > affordable => Step::Done(Stop::Budget),
        Step::Try { .. } | Step::Done(_) => step,
    }
}

fn wanted(goal: &Goal, loads: &Loads, trials: &[Trial]) -> Step {
    let short = |rooms| Step::Try { rooms, seconds: goal.initial_trial };
    let full = |rooms| Step::Try { rooms, seconds: goal.final_trial };
    let Bounds { lower, upper, ceiling, .. } = bounds(goal, trials);
    // An upper bound above the ceiling cannot be: nothing was measured there.
    let end = upper.or(ceiling);
    let limited = |by: Stop| Step::Done(if upper.is_some() { by } else { Stop::Generator });
    // A trial that measured nothing is made again.
    if let Some(last) = trials.last().filter(|t| !t.valid && ceiling.is_none_or(|c| t.rooms < c)) {
        let tried = trials.iter().rev().take_while(|t| t.rooms == last.rooms && !t.valid).count();
        if tried < INVALID_MAX {
            return if last.seconds >= goal.final_trial * EDGE { full(last.rooms) } else { short(last.rooms) };
        }
        if trials.iter().any(|t| t.valid && t.rooms >= last.rooms) && tried >= 2 * INVALID_MAX {
            return Step::Done(Stop::Generator);
        }
    }
    // Loads whose trials speak on both sides of the loss ratio have to be settled first.
    let mixed = |rooms: u32| {
        let of = |high: bool| trials.iter().any(|t| t.rooms == rooms && t.valid && t.high(goal) == high);
        of(true) && classify(goal, trials, rooms) == Class::Open
    };
    if let Some(t) = trials.iter().filter(|t| end.is_none_or(|e| t.rooms < e)).find(|t| mixed(t.rooms)) {
        return full(t.rooms);
    }
    let held = trials.iter().filter(|t| t.valid && end.is_none_or(|e| t.rooms < e)).map(|t| t.rooms).max();
    let Some(end) = end else {
        return match held {
            None => short(loads.min()),
            Some(top) if top < loads.max() => short(grown(loads, top)),
            Some(top) if lower == Some(top) => Step::Done(Stop::AboveRange),
            Some(top) => full(top),
        };
    };
    let Some(held) = held else {
        return match end <= loads.min() {
            true => limited(Stop::BelowRange),
            false => short(loads.min()),
        };
    };
    if loads.narrow(held, end, goal.width) {
        return if lower == Some(held) { limited(Stop::Width) } else { full(held) };
    }
    let inside = |rooms: &u32| *rooms > held && *rooms < end;
    let hint = trials.iter().rev().find(|t| t.valid && t.rooms == end).and_then(|t| t.hint).filter(inside);
    let near_hint = trials.iter().filter_map(|t| t.hint).find(|h| *h == held).map(|h| h + 1).filter(inside);
    let Some(middle) = hint.or(near_hint).or_else(|| loads.between(held, end)) else { return full(held) };
    // Where the next trial may be the last, it had better prove something.
    match hint.is_some() || loads.narrow(held, middle, goal.width) || loads.narrow(middle, end, goal.width) {
        true => full(middle),
        false => short(middle),
    }
}

fn grown(loads: &Loads, rooms: u32) -> u32 {
    let wanted = loads.participants(rooms).saturating_mul(GROWTH);
    let next = loads.at_most(wanted).clamp(rooms + 1, loads.max().max(rooms + 1));
    // No step of its own for a rest that is narrower than half a step.
    if loads.participants(loads.max()) <= wanted.saturating_add(wanted / 4) { loads.max() } else { next }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
