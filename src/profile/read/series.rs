//! `[[mixes]]` and `[compare]`: profiles that stand for several runs.

use super::{View, search};
use crate::profile::keys::{self, Form};
use crate::profile::resolved::{EmbeddedTarget, RoomGroup, Search, Shape};
use crate::profile::series::{Mix, Series, share_of};
use crate::profile::tree::Value;
use crate::types::{Drain, Placement};
use std::time::Duration;

/// Most runs of a series.
const RUNS_MAX: usize = 32;

/// `None` only with an error; the inner `None` is one run.
pub(super) fn series(
    top: &mut View<'_>,
    shape: Option<Shape>,
    rooms: Option<&[RoomGroup]>,
    search: Option<&Search>,
    embedded: Option<&EmbeddedTarget>,
) -> Option<Option<Series>> {
    let whole = match (shape, top.node("mixes").is_some(), top.node("compare").is_some()) {
        (Some(Shape::Capacity), true, true) => {
            top.wrong("compare", "goes with one mix of rooms: take [[mixes]] or [compare] away");
            None
        }
        (Some(Shape::Capacity), true, false) => mixes(top, rooms, search).map(|all| Some(Series::Mixes(all))),
        (Some(Shape::Capacity | Shape::Steady), false, true) => compare(top, embedded).map(Some),
        _ => Some(None),
    };
    let runs = match &whole {
        Some(Some(series)) => series.names().len() as u32,
        _ => 1,
    };
    if let Some(s) = search.filter(|s| runs > 1 && share_of(s.budget, runs) < s.trial + s.settle) {
        let share = share_of(s.budget, runs).max(Duration::from_secs(1));
        let each = crate::profile::units::print_duration(share);
        top.wrong("search", format!("search.budget: {runs} runs have {each} each, in which not one trial fits"));
        return None;
    }
    placed(top, shape, search, embedded);
    whole
}

fn mixes(top: &mut View<'_>, rooms: Option<&[RoomGroup]>, search: Option<&Search>) -> Option<Vec<Mix>> {
    let range = search.map(|s| s.range);
    let all = top.each("mixes", |v| mix(v, rooms, range))?;
    if !(2..=RUNS_MAX).contains(&all.len()) {
        top.wrong("mixes", format!("are 2 to {RUNS_MAX}: with one there is nothing to compare"));
        return None;
    }
    for (i, mix) in all.iter().enumerate() {
        let same = |m: &&Mix| m.name != mix.name && Mix::variable(&m.name) == Mix::variable(&mix.name);
        if let Some(other) = all[..i].iter().find(same) {
            let (a, b) = (&other.name, &mix.name);
            top.wrong("mixes", format!("{a:?} and {b:?} are one name to environment variables: give one another name"));
            return None;
        }
    }
    for group in rooms.unwrap_or_default() {
        if !all.iter().any(|m| m.rooms.iter().any(|(name, _)| *name == group.name)) {
            top.wrong("mixes", format!("none of them has rooms of group {:?}", group.name));
            return None;
        }
    }
    Some(all)
}

fn mix(v: &mut View<'_>, rooms: Option<&[RoomGroup]>, whole: Option<(u32, u32)>) -> Option<Mix> {
    let name = v.name("name", 40, |c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let counts = counts(v, rooms);
    let share = |name: &str| counts.iter().flatten().find(|(n, _)| n == name).map(|(_, share)| *share);
    let turn = search::Turn::of(rooms.unwrap_or_default().iter().filter_map(|g| Some((g, share(&g.name)?))));
    let range = match v.node("range") {
        Some(_) => search::range(v, turn.as_ref()).map(Some),
        None => Some(None),
    };
    if let (Some(None), Some((_, high)), Some(turn)) = (&range, whole, turn)
        && let Some(why) = turn.beyond(high)
    {
        v.wrong("rooms", format!("{why}, [search]'s highest load; give this mix its own `range`"));
    }
    Some(Mix { name: name?, rooms: counts?, range: range? })
}

/// `{ voice = 3, meeting = 1 }`.
fn counts(v: &mut View<'_>, rooms: Option<&[RoomGroup]>) -> Option<Vec<(String, u32)>> {
    let Some(Form::Counts { max }) = v.form("rooms") else { return None };
    let table = v.node("rooms")?.as_table()?;
    let path = keys::join(&v.path, "rooms");
    let before = v.errors.len();
    if table.0.is_empty() {
        v.wrong("rooms", "is empty: name at least one group, as in { voice = 3, meeting = 1 }");
    }
    let mut out = Vec::new();
    for entry in &table.0 {
        let key = keys::join(&path, &entry.key);
        match entry.node.value {
            Value::Integer(n) if (1..=max).contains(&n) => out.push((entry.key.clone(), n as u32)),
            Value::Integer(n) => {
                v.errors.push(&entry.node.at, key.as_str(), format!("{n} is out of range: 1 to {max}"))
            }
            _ => {
                let found = entry.node.describe();
                v.errors.push(&entry.node.at, key.as_str(), format!("is a bare number, 1 to {max}, not {found}"));
            }
        }
        if let Some(rooms) = rooms
            && !rooms.iter().any(|g| g.name == entry.key)
        {
            let known: Vec<&str> = rooms.iter().map(|g| g.name.as_str()).collect();
            v.errors.push(
                &entry.node.at,
                key,
                format!("there is no such group in [[rooms]]; there are {}", known.join(", ")),
            );
        }
    }
    (v.errors.len() == before).then_some(out)
}

fn compare(top: &mut View<'_>, embedded: Option<&EmbeddedTarget>) -> Option<Series> {
    let named = top.inside("compare", |v| {
        let all = v.words("placement")?;
        let mut placements: Vec<Placement> = all.iter().filter_map(|w| w.parse().ok()).collect();
        placements.dedup();
        if placements.len() != 2 || all.len() != 2 {
            v.wrong("placement", "write both, in the order in which they are to run: [\"affinity\", \"spread\"]");
            return None;
        }
        Some(placements)
    })?;
    if top.node("target").and_then(|n| n.as_text()) != Some("embedded") {
        top.wrong("compare", "is for target = \"embedded\": how another fleet places participants is its own affair");
        return None;
    }
    if embedded.is_some_and(|e| e.servers < 2) {
        top.wrong("compare", "takes at least two servers: give [embedded] `servers`");
        return None;
    }
    Some(Series::Placement(named))
}

/// What goes together with rooms that are spread over servers.
fn placed(top: &mut View<'_>, shape: Option<Shape>, search: Option<&Search>, embedded: Option<&EmbeddedTarget>) {
    let spread = embedded.is_some_and(|e| e.placement == Placement::Spread);
    if !spread && top.node("compare").is_none() {
        return;
    }
    let mut clash = Vec::new();
    if spread && shape == Some(Shape::ScaleIn) {
        clash.push("shape \"scale-in\": a room that is on every server keeps them all");
    }
    if embedded.is_some_and(|e| e.drain != Drain::Wait) {
        clash.push("a `drain` that sends rooms elsewhere");
    }
    if embedded.is_some_and(|e| e.autoscale.is_some()) {
        clash.push("[embedded.autoscale]");
    }
    if embedded.is_some_and(|e| e.sin.is_some()) {
        clash.push("a `sin`");
    }
    if embedded.is_some_and(|e| e.last_n.is_some()) {
        clash.push("`last_n`");
    }
    if search.is_some_and(|s| s.server.is_some()) {
        clash.push("[search] `server`: spread rooms load all of them");
    }
    for what in clash {
        top.wrong("embedded", format!("placement \"spread\" does not go with {what}"));
    }
}
