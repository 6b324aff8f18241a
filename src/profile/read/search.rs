//! Shape capacity: `[search]`, `[objectives]` and `[answer]`.

use super::{RATE_MAX, RATE_MIN, SEATS_MAX, View, size_max};
use crate::profile::error::Errors;
use crate::profile::metrics::Unit;
use crate::profile::resolved::{Headroom, Join, Load, RoomGroup, Search, Stay, Target, Threshold};
use crate::profile::series::Series;
use crate::profile::tree::{Node, Value};
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
    // Each mix has counts of its own, and is held against its range by itself.
    let turn = rooms.filter(|_| top.node("mixes").is_none()).and_then(|r| Turn::of(r.iter().map(|g| (g, g.count))));
    let read = top.inside("search", |v| of_table(v, turn.as_ref()));
    let (join_timeout, mut search) = read?;
    search.answer = answer?;
    let (warmup, hold) = (search.settle, search.budget);
    Some((Load { join: Join::Constant(search.join), warmup, hold, join_timeout }, search))
}

fn of_table(v: &mut View<'_>, turn: Option<&Turn>) -> Option<(Duration, Search)> {
    let range = range(v, turn);
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

/// One turn of a mix: the fewest rooms that have its shares.
pub(super) struct Turn {
    pub participants: u64,
    words: String,
}

impl Turn {
    /// Of groups with their shares; `None` of none.
    pub fn of<'a>(groups: impl Iterator<Item = (&'a RoomGroup, u32)>) -> Option<Turn> {
        let groups: Vec<_> = groups.collect();
        let divisor = groups.iter().map(|(_, share)| *share).reduce(gcd).filter(|d| *d > 0)?;
        let rooms = |share: u32| u64::from(share / divisor);
        let each = |(group, share): &(&RoomGroup, u32)| rooms(*share) * u64::from(size_max(group.size));
        let participants = groups.iter().map(each).sum();
        let part = |(group, share): &(&RoomGroup, u32)| {
            format!("{} of {} with {}", rooms(*share), group.name, size_max(group.size))
        };
        let words = match &groups[..] {
            [_] => format!("one room of {participants}"),
            all => format!(
                "one turn of the mix ({}: {participants} participants)",
                all.iter().map(part).collect::<Vec<_>>().join(", ")
            ),
        };
        Some(Turn { participants, words })
    }

    /// What is wrong with a highest load that has no room for it; a search would never see the mix.
    pub fn beyond(&self, high: u32) -> Option<String> {
        (u64::from(high) < self.participants).then(|| format!("not {} fits into {high} participants", self.words))
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `range`, whose highest load holds a turn of the mix.
pub(super) fn range(v: &mut View<'_>, turn: Option<&Turn>) -> Option<(u32, u32)> {
    let range = v.range("range")?;
    if let Some(why) = turn.and_then(|t| t.beyond(range.1)) {
        v.wrong("range", why);
    }
    Some(range)
}

/// What a search has to do with its target: the server that it names, and how many servers have the load.
pub(in crate::profile) fn suits(
    search: &Search,
    series: Option<&Series>,
    target: &Target,
    tree: &Node,
    errors: &mut Errors,
) {
    let at = |table: &str, index: Option<usize>, key: &str| {
        let node = tree.as_table().and_then(|t| t.get(table));
        let node = match (node.map(|n| &n.value), index) {
            (Some(Value::Array(items)), Some(i)) => items.get(i),
            _ => node,
        };
        node.and_then(Node::as_table).and_then(|t| t.get(key)).map_or(&tree.at, |n| &n.at)
    };
    if let Some(why) = search.server.as_deref().and_then(|id| cannot_be_loaded(target, id)) {
        errors.push(at("search", None, "server"), "search.server", why);
        return;
    }
    if let (Some(Series::Mixes(_)), None, true) = (series, &search.server, target.is_one_unknown_fleet()) {
        let why = "mixes are compared by what one server carries: name the director's servers with `director` in the target file, or \
            one of them with search.server";
        let at = tree.as_table().and_then(|t| t.get("mixes")).map_or(&tree.at, |n| &n.at);
        errors.push(at, "mixes", why);
    }
    let servers = target.loaded(search.server.as_deref()).len() as u64;
    let mixes: &[_] = if let Some(Series::Mixes(mixes)) = series { mixes } else { &[] };
    let own = mixes.iter().enumerate().filter_map(|(i, m)| Some((Some(i), m.range?.1)));
    let common = (mixes.is_empty() || mixes.iter().any(|m| m.range.is_none())).then_some((None, search.range.1));
    for (mix, high) in own.chain(common).filter(|(_, high)| servers * u64::from(*high) > SEATS_MAX) {
        let path = mix.map_or_else(|| "search.range".to_owned(), |i| format!("mixes[{i}].range"));
        let at = at(if mix.is_some() { "mixes" } else { "search" }, mix, "range");
        let why =
            format!("{high} participants on each of {servers} servers are more than one run carries ({SEATS_MAX})");
        errors.push(at, path, why);
    }
}

/// Why a search can't load this server alone.
fn cannot_be_loaded(target: &Target, id: &str) -> Option<String> {
    let names = target.carriers();
    match target {
        Target::External(t) if t.join.is_some() => Some(
            "[join] of the target file says where each participant goes, whatever stands here; take one of both away"
                .into(),
        ),
        Target::External(t) if !t.names_servers() => {
            let number = id.strip_prefix('s').and_then(|n| n.parse::<u32>().ok());
            number.is_none_or(|n| n == 0 || format!("s{n}") != id).then(|| {
                format!(
                    "the director calls its servers s1, s2, …, not {id:?}; with `director` the target file names them"
                )
            })
        }
        _ => (!names.iter().any(|n| n == id))
            .then(|| format!("the target has no server {id:?} that rooms can be sent to; it has {}", names.join(", "))),
    }
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
