//! Shape capacity: `[search]`, `[objectives]` and `[answer]`.

use super::{RATE_MAX, RATE_MIN, SEATS_MAX, View, size_max};
use crate::profile::error::Errors;
use crate::profile::metrics::Unit;
use crate::profile::resolved::{Headroom, Join, Load, RoomGroup, Search, Size, Stay, Threshold};
use crate::profile::tree::Node;
use std::time::Duration;

/// `[search]` with `[answer]`, and what stands in for `[load]`.
pub(super) fn search(top: &mut View<'_>, rooms: Option<&[RoomGroup]>) -> Option<(Load, Search)> {
    let answer = if top.node("answer").is_some() { top.inside("answer", headroom).map(Some) } else { Some(None) };
    for (i, group) in rooms.unwrap_or_default().iter().enumerate() {
        if group.stay != Stay::WholeHold {
            top.wrong(
                "rooms",
                format!("rooms[{i}].stay: a trial's participants stay for it: write \"hold\" or nothing"),
            );
        }
    }
    let smallest = rooms.and_then(|r| r.iter().map(|g| size_max(g.size)).min());
    let read = top.inside("search", |v| of_table(v, smallest));
    let (join_timeout, mut search) = read?;
    search.answer = answer?;
    let (warmup, hold) = (search.settle, search.budget);
    Some((Load { join: Join::Constant(search.join), warmup, hold, join_timeout }, search))
}

fn of_table(v: &mut View<'_>, smallest: Option<u32>) -> Option<(Duration, Search)> {
    let range = range(v, smallest);
    let join = v.rate("join");
    if join.is_some_and(|r| !(RATE_MIN..=RATE_MAX).contains(&r)) {
        v.wrong("join", format!("a join rate is between {RATE_MIN}/s and {RATE_MAX}/s"));
    }
    let server = match v.node("server") {
        Some(_) => v.text("server").map(Some),
        None => Some(None),
    };
    let (trial, first_trial) = (v.duration("trial"), v.duration("first_trial"));
    let trial_sum = if v.node("trial_sum").is_some() { v.duration("trial_sum") } else { trial };
    if let (Some(first), Some(trial), Some(sum)) = (first_trial, trial, trial_sum) {
        if first > trial {
            v.wrong("first_trial", "is longer than `trial`");
        }
        if sum < trial {
            v.wrong("trial_sum", "is shorter than one `trial`");
        }
    }
    let budget = v.duration("budget");
    if let (Some(budget), Some(trial)) = (budget, trial)
        && budget < trial
    {
        v.wrong("budget", "not one trial fits into it");
    }
    let (loss_ratio, exceed_ratio, width) = (v.share("loss_ratio"), v.share("exceed_ratio"), v.share("width"));
    let (settle, join_timeout) = (v.duration("settle"), v.duration("join_timeout"));
    let search = Search {
        server: server?,
        range: range?,
        join: join?,
        trial: trial?,
        first_trial: first_trial?,
        trial_sum: trial_sum?,
        loss_ratio: loss_ratio?,
        exceed_ratio: exceed_ratio?,
        width: width?,
        settle: settle?,
        budget: budget?,
        answer: None,
    };
    Some((join_timeout?, search))
}

/// `range`, of rooms of which the smallest has so many participants.
pub(super) fn range(v: &mut View<'_>, smallest: Option<u32>) -> Option<(u32, u32)> {
    let range = match v.size("range") {
        Some(Size::Range(low, high)) if low < high => Some((low, high)),
        Some(_) => {
            v.wrong("range", "write lowest and highest, as in \"20..600\"");
            None
        }
        None => None,
    };
    if let (Some((_, high)), Some(room)) = (range, smallest)
        && high < room
    {
        v.wrong("range", format!("not one room of {room} fits into {high} participants"));
    }
    if range.is_some_and(|(_, high)| u64::from(high) > SEATS_MAX) {
        v.wrong("range", format!("more than one run carries ({SEATS_MAX})"));
    }
    range
}

fn headroom(v: &mut View<'_>) -> Option<Headroom> {
    let (servers, survive) = (v.count("servers"), v.count("survive"));
    if let (Some(servers), Some(survive)) = (servers, survive)
        && survive >= servers
    {
        v.wrong("survive", format!("{survive} of {servers} servers lost leave none to carry their participants"));
    }
    let (growth, boot) = (v.rate("growth"), v.duration("boot"));
    Some(Headroom { servers: servers? as u32, survive: survive? as u32, growth: growth?, boot: boot? })
}

/// Objectives that a trial can be judged by.
pub(super) fn fit(root: &Node, objectives: Vec<Threshold>, errors: &mut Errors) -> Option<Vec<Threshold>> {
    let table = root.as_table()?.get("objectives")?;
    let before = errors.len();
    for objective in &objectives {
        let metric = objective.metric.as_str();
        let media = metric.starts_with("audio.") || metric.starts_with("video.");
        let per_leg = metric.ends_with(".lossy_legs_share");
        let rate = crate::profile::metrics::find(metric).is_some_and(|m| m.unit != Unit::Count);
        let fits = (media && rate && !per_leg)
            || (metric.starts_with("setup.") && rate)
            || matches!(metric, "joins.failed_share" | "joins.failed" | "legs.dropped");
        if !fits {
            let at = table.as_table().and_then(|t| t.get(metric)).map_or(&table.at, |n| &n.at);
            errors.push(
                at,
                format!("objectives.{metric:?}"),
                "a trial is judged by media (loss, jitter, delay, freezes …), setup.*, joins.failed_share, joins.failed and legs.dropped",
            );
        }
    }
    (errors.len() == before).then_some(objectives)
}
