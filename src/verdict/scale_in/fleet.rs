//! I5 and I8: what the fleet says of itself. It counts who is there, and its registry is sound.

use super::incident::{Incident, alive_at, offers, touched};
use super::landing::Landings;
use super::record::Backend;
use super::scene::{LOOK_MS, Scene, ms};
use super::{Evidence, Finding};
use crate::types::{LegId, RoomId};
use crate::verdict::words::{count, number};
use crate::verdict::{Window, clock};
use std::collections::{BTreeMap, BTreeSet};

/// How many there were, as it changed.
struct Steps(Vec<(f64, i64)>);

impl Steps {
    fn of(spans: impl Iterator<Item = (f64, f64)>) -> Steps {
        let mut changes: Vec<(f64, i64)> = spans.filter(|(a, b)| b > a).flat_map(|(a, b)| [(a, 1), (b, -1)]).collect();
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut n = 0;
        for (_, change) in &mut changes {
            n += *change;
            *change = n;
        }
        Steps(changes)
    }

    /// Fewest and most in a window, both ends included.
    fn range(&self, from: f64, until: f64) -> (i64, i64) {
        let first = self.0.partition_point(|(t, _)| *t <= from);
        let start = first.checked_sub(1).map_or(0, |i| self.0[i].1);
        let inside = self.0[first..].iter().take_while(|(t, _)| *t <= until).map(|(_, n)| *n);
        inside.fold((start, start), |(least, most), n| (least.min(n), most.max(n)))
    }
}

/// Counts of a server that stand against ours.
struct Off {
    w: Window,
    /// The worst: theirs, and the nearest of ours.
    theirs: f64,
    ours: i64,
    line: u64,
}

/// Also gives how many ghosts there were at most.
pub(super) fn sessions(scene: &Scene<'_>, incidents: &[Incident]) -> (Finding, u64) {
    if !scene.expect.exclusive {
        return (Finding::unknown("others may be on the fleet too (expect.exclusive = false)"), 0);
    }
    let allowance = ms(scene.expect.ghost_allowance);
    let mut finding = Finding::default();
    let (mut ghosts, mut looked, mut covered, mut unseen) = (0u64, 0u64, 0u64, 0u64);
    let mut blind = std::collections::BTreeSet::new();
    for backend in &scene.record.backends {
        let by_participants = backend.tells(|s| s.participants.is_some());
        if !by_participants && !backend.tells(|s| s.sessions.is_some()) {
            continue;
        }
        for server in backend.servers.keys() {
            // A TURN server's session is an allocation, also where it is the target itself and carries legs.
            let allocations = scene.allocations.get(server).filter(|_| !by_participants);
            let stays = allocations.map_or_else(|| scene.on(server), Vec::as_slice);
            let unit = if allocations.is_some() { 1.0 } else { scene.expect.sessions_per_leg };
            if !by_participants && unit <= 0.0 {
                continue;
            }
            let asking = scene.all.tracks.legs.values().filter_map(|t| {
                let (at, on, ..) = t.failed.as_ref()?;
                (on.is_some() && *on == scene.id(server)).then_some((t.started.map_or(at.t, |s| s.t), at.t))
            });
            // Who is moved may count elsewhere before its media go there.
            let early = |moved: bool| if moved { allowance } else { 0.0 };
            let most = Steps::of(stays.iter().map(|s| (s.asked - early(s.moved[0]), s.until)).chain(asking));
            let least = Steps::of(stays.iter().map(|s| (s.from, s.media_until - early(s.moved[1]))));
            let gone = incidents.iter().filter(|i| i.server == *server).filter_map(|i| i.gone);
            let gone: Vec<Window> =
                gone.map(|g| Window { from_ms: g.not_before, until_ms: g.at.t + allowance }).collect();
            let mut off: [Option<Off>; 2] = [None, None];
            let mut last_look = 0.0;
            for look in &backend.looks {
                let Some(seen) = backend.at(server, look.t).filter(|s| s.known) else { continue };
                let theirs = match (seen.is.participants, seen.is.sessions) {
                    (Some(n), _) => n as f64,
                    (None, Some(n)) if !by_participants => n as f64 / unit,
                    _ => continue,
                };
                if gone.iter().any(|w| look.t >= w.from_ms && look.t <= w.until_ms) {
                    continue;
                }
                (looked, last_look) = (looked + 1, look.t);
                let (_, most) = most.range(look.t - allowance, look.t + LOOK_MS);
                let (least, _) = least.range(look.t - allowance, look.t + LOOK_MS);
                let wrong = [(theirs > most as f64 + 0.01, most), (theirs < least as f64 - 0.01, least)];
                for (slot, (is_off, ours)) in off.iter_mut().zip(wrong) {
                    if !is_off {
                        continue;
                    }
                    let worst = |o: &Off| (o.theirs - o.ours as f64).abs() >= (theirs - ours as f64).abs();
                    let w = Window { from_ms: slot.as_ref().map_or(look.t, |o| o.w.from_ms), until_ms: look.t };
                    match slot {
                        Some(o) if worst(o) => o.w = w,
                        _ => *slot = Some(Off { w, theirs, ours, line: seen.at.line }),
                    }
                }
            }
            let [more, fewer] = off;
            if let Some(o) = more {
                let n = (o.theirs - o.ours as f64).round().max(1.0) as u64;
                ghosts = ghosts.max(n);
                finding.evidence.push(ghost_evidence(scene, backend, server, &o, n, allowance));
            }
            if let Some(o) = fewer {
                let what = format!(
                    "{} counts {} on {server} where {} have been for {} s and more",
                    backend.name,
                    number(o.theirs),
                    count(o.ours.unsigned_abs(), "leg", "legs"),
                    number(allowance / 1000.0)
                );
                let legs = scene.live(server, o.w.from_ms);
                let text = "nothing yet: an autoscaler that believes this count takes the server away under them";
                finding
                    .evidence
                    .push(Evidence::new(what, o.w).on(server).legs(scene, &legs).lines([o.line]).noticed(text));
            }
            for stay in stays.iter().filter(|s| scene.end_t() > s.until) {
                let counted_off = gone.iter().any(|w| w.from_ms >= stay.until) || last_look >= stay.until + allowance;
                covered += u64::from(counted_off);
                unseen += u64::from(!counted_off);
                if !counted_off {
                    blind.insert(format!(
                        "no look at {server} by {} after its last leaves and their allowance",
                        backend.name
                    ));
                }
            }
        }
    }
    if looked == 0 {
        let errors =
            scene.record.backends.iter().flat_map(|b| b.errors.first().map(|e| format!("{}: {}", b.name, e.1)));
        let errors: Vec<String> = errors.collect();
        let why = if errors.is_empty() { String::new() } else { format!(" ({})", super::some(&errors)) };
        return (Finding::unknown(format!("no backend counts participants or sessions{why}")), 0);
    }
    if covered == 0 {
        finding.open.extend(blind);
    }
    finding.basis = format!("{} agree with ours", count(looked, "count", "counts"));
    if unseen > 0 {
        finding.basis += &format!("; {} came too late to see whether ghosts remain", count(unseen, "leave", "leaves"));
    }
    (finding, ghosts)
}

fn ghost_evidence(scene: &Scene<'_>, backend: &Backend, server: &str, o: &Off, n: u64, allowance: f64) -> Evidence {
    // Who left last before it was seen is who probably remained.
    let mut left: Vec<(f64, LegId)> = scene
        .on(server)
        .iter()
        .filter(|s| s.until <= o.w.from_ms - allowance + 1000.0)
        .map(|s| (s.until, s.leg))
        .collect();
    left.sort_by(|a, b| b.0.total_cmp(&a.0));
    let legs: Vec<LegId> = left.iter().take(n as usize).map(|l| l.1).collect();
    let what = format!(
        "{} counts {} on {server} from {} on, ours were {} at most: {} left behind",
        backend.name,
        number(o.theirs),
        clock(o.w.from_ms),
        o.ours,
        count(n, "ghost", "ghosts")
    );
    Evidence::new(what, o.w)
        .on(server)
        .legs(scene, &legs)
        .lines([o.line])
        .noticed("others in the room may still see somebody who has left; the server never empties")
}

pub(super) fn registry(scene: &Scene<'_>, incidents: &[Incident], landings: &Landings) -> Finding {
    let ttl = ms(scene.expect.registry_ttl);
    let mut finding = Finding::default();
    let mut registries = 0;
    let (mut compared, mut silent) = (BTreeSet::new(), Vec::new());
    for backend in scene.record.backends.iter().filter(|b| b.is_discovery() && !b.looks.is_empty()) {
        registries += 1;
        let before = compared.len();
        compared.extend(compares(backend));
        if compared.len() == before {
            silent.push(backend.name.clone());
        }
        dead_entries(scene, incidents, backend, ttl, &mut finding);
        missing_entries(scene, incidents, backend, ttl, &mut finding);
        rooms(scene, incidents, backend, ttl, &mut finding);
        elsewhere(scene, backend, landings, &mut finding);
        for (server, all) in &backend.servers {
            if let Some(seen) = all.iter().find(|s| s.is.headroom.is_some_and(|h| h < 0)) {
                let headroom = seen.is.headroom.unwrap_or_default();
                let what = format!("{} gives {server} a headroom of {headroom} at {}", backend.name, clock(seen.at.t));
                let w = Window { from_ms: seen.at.t, until_ms: seen.at.t };
                let noticed = "nothing yet: the server has taken more than it was to take";
                finding.evidence.push(Evidence::new(what, w).on(server).lines([seen.at.line]).noticed(noticed));
            }
        }
    }
    if registries == 0 {
        let failed: Vec<String> = scene
            .record
            .backends
            .iter()
            .filter(|b| b.is_discovery())
            .filter_map(|b| Some(format!("{}: {}", b.name, b.errors.first()?.1)))
            .collect();
        let why = if failed.is_empty() { String::new() } else { format!(" ({})", super::some(&failed)) };
        return Finding::unknown(format!("no backend shows a registry{why}"));
    }
    if compared.is_empty() && finding.evidence.is_empty() {
        let text = "names servers, and says nothing of them that could be wrong: no registry is shown";
        return Finding::untested(format!("{} {text}", silent.join(", ")));
    }
    finding.basis = compared.into_iter().collect::<Vec<_>>().join("; ");
    finding
}

/// What of a registry can be held against what else is known.
fn compares(backend: &Backend) -> Vec<&'static str> {
    let all = [
        (backend.tells(|s| s.listed.is_some()), "it lists who is there, and nobody else"),
        (
            backend.tells(|s| s.cordoned.is_some()) && !backend.tells(|s| s.listed.is_some()),
            "it offers nobody who is gone",
        ),
        (!backend.rooms.is_empty(), "it has rooms where they are"),
        (backend.tells(|s| s.headroom.is_some()), "no headroom below 0"),
    ];
    all.into_iter().filter(|(told, _)| *told).map(|(_, what)| what).collect()
}

/// Servers that are offered although they are gone.
fn dead_entries(scene: &Scene<'_>, incidents: &[Incident], backend: &Backend, ttl: f64, finding: &mut Finding) {
    for i in incidents {
        let Some(gone) = i.gone.map(|g| g.at).or(i.kill) else { continue };
        let stale = backend.looks.iter().filter(|l| l.t > gone.t + ttl).filter_map(|l| {
            let seen = backend.at(&i.server, l.t)?;
            (offers(seen) == Some(true) && alive_at(scene, &i.server, l.t) != Some(true)).then_some((l, seen))
        });
        let stale: Vec<_> = stale.collect();
        let (Some(first), Some(last)) = (stale.first(), stale.last()) else { continue };
        let late = number((first.0.t - gone.t) / 1000.0);
        let what = format!(
            "{} still offers {} {late} s after its end (TTL {} s)",
            backend.name,
            i.server,
            number(ttl / 1000.0)
        );
        let w = Window { from_ms: gone.t + ttl, until_ms: last.0.t };
        let noticed = "a join that is sent there runs into nothing";
        finding.evidence.push(
            Evidence::new(what, w).on(&i.server).lines([gone.line, first.1.at.line, first.0.line]).noticed(noticed),
        );
    }
}

/// Servers that are not offered although they run and nobody took them away.
fn missing_entries(scene: &Scene<'_>, incidents: &[Incident], backend: &Backend, ttl: f64, finding: &mut Finding) {
    if !backend.tells(|s| s.listed.is_some()) {
        return;
    }
    let paused = touched(scene, &[]);
    let names = backend.servers.keys().chain(scene.record.met.keys());
    let names: std::collections::BTreeSet<&String> = names.collect();
    for server in names {
        let mut since: Option<f64> = None;
        for look in &backend.looks {
            let taken =
                incidents.iter().any(|i| i.server == *server && i.from() <= look.t && look.t <= i.until(scene) + ttl);
            let gone = incidents.iter().any(|i| i.server == *server && i.gone.is_some_and(|g| g.at.t <= look.t));
            let offered = backend.at(server, look.t).map_or(Some(false), offers);
            let lives = match alive_at(scene, server, look.t) {
                Some(alive) => alive,
                None => !gone && !scene.live(server, look.t).is_empty(),
            };
            if taken || !lives || offered != Some(false) || paused.contains(server) {
                since = None;
                continue;
            }
            let from = *since.get_or_insert(look.t);
            if look.t - from > ttl {
                let n = scene.live(server, look.t).len() as u64;
                let what = format!(
                    "{} misses {server}, which runs with {} and was not cordoned, for more than {} s",
                    backend.name,
                    count(n, "leg", "legs"),
                    number(ttl / 1000.0)
                );
                let w = Window { from_ms: from, until_ms: look.t };
                let noticed = "nothing yet: rooms start elsewhere, and late joiners may be sent to another server";
                finding.evidence.push(Evidence::new(what, w).on(server).lines([look.line]).noticed(noticed));
                break;
            }
        }
    }
}

/// Entries of rooms that name a server that is gone, or another one than where their members are.
fn rooms(scene: &Scene<'_>, incidents: &[Incident], backend: &Backend, ttl: f64, finding: &mut Finding) {
    if backend.rooms.is_empty() {
        return;
    }
    let ids: BTreeMap<String, RoomId> = scene.rooms.keys().map(|r| (scene.room_name(*r), *r)).collect();
    let mut wrong = Vec::new();
    for (room, changes) in &backend.rooms {
        for (n, (at, server)) in changes.iter().enumerate() {
            let Some(server) = server else { continue };
            let until = changes.get(n + 1).map_or(scene.end_t(), |c| c.0.t);
            let gone = incidents.iter().filter(|i| i.server == *server).filter_map(|i| i.gone.map(|g| g.at).or(i.kill));
            if let Some(gone) =
                gone.filter(|g| g.t >= at.t).find(|g| until > g.t + ttl && alive_at(scene, server, until) != Some(true))
            {
                let what =
                    format!("{} has {room} on {server} after its end (TTL {} s)", backend.name, number(ttl / 1000.0));
                let w = Window { from_ms: gone.t + ttl, until_ms: until };
                let mut e = Evidence::new(what, w).on(server).lines([at.line, gone.line]);
                e.rooms = vec![room.clone()];
                wrong.push(e.noticed("who joins this room now is sent to a server that is gone"));
                continue;
            }
            let Some(id) = ids.get(room) else { continue };
            let own = scene.id(server);
            let mut stays = scene.in_room(*id);
            let elsewhere =
                stays.find(|(s, stay)| Some(*s) != own && stay.media_until.min(until) - stay.from.max(at.t) > ttl);
            // A split room has its own invariant: then the entry is right for a part of it.
            let split =
                scene.in_room(*id).any(|(s, stay)| Some(s) == own && stay.from < until && stay.media_until > at.t);
            if let Some((landed, stay)) = elsewhere.filter(|_| !split) {
                let what = format!(
                    "{} has {room} on {server}; its members are on {}",
                    backend.name,
                    scene.frame.server_name(landed)
                );
                let w = Window { from_ms: stay.from.max(at.t), until_ms: stay.media_until.min(until) };
                let e = Evidence::new(what, w).on(server).legs(scene, &[stay.leg]).lines([at.line, stay.line]);
                wrong.push(e.noticed("who joins this room now may be sent to another server than the others are on"));
            }
        }
    }
    finding.evidence.extend(wrong);
}

/// Entries of rooms that name the server that the driver named, too, while media came from another one.
fn elsewhere(scene: &Scene<'_>, backend: &Backend, landings: &Landings, finding: &mut Finding) {
    for e in &landings.elsewhere {
        let told = |leg: &&LegId| {
            let room = scene.all.tracks.legs.get(leg).and_then(|t| t.room).map(|r| scene.room_name(r));
            let entries = room.and_then(|r| backend.rooms.get(&r));
            entries.is_some_and(|all| all.iter().any(|(_, server)| server.as_ref() == Some(&e.server)))
        };
        let legs: Vec<LegId> = e.all.iter().filter(told).copied().collect();
        let joined = |leg: &LegId| scene.all.tracks.legs.get(leg).and_then(|t| t.joined).map(|j| j.0);
        let Some(first) = legs.first().and_then(joined) else { continue };
        let n = count(legs.len() as u64, "leg", "legs");
        let what = format!("{} has {n} on {}; their media met the {} of {}", backend.name, e.server, e.by, e.met);
        let w =
            Window { from_ms: first.t, until_ms: legs.iter().filter_map(joined).map(|j| j.t).fold(first.t, f64::max) };
        let evidence = Evidence::new(what, w)
            .on(&e.server)
            .legs(scene, &legs)
            .lines(legs.iter().filter_map(joined).map(|j| j.line));
        finding.evidence.push(evidence.noticed("nothing yet: the call ends with a server that nobody thinks it is on"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_every_moment_of_the_window() {
        let steps = Steps::of([(0.0, 10.0), (2.0, 4.0), (3.0, 3.0), (6.0, 20.0)].into_iter());
        assert_eq!(steps.range(0.0, 1.0), (1, 1));
        assert_eq!(steps.range(1.0, 5.0), (1, 2));
        assert_eq!(steps.range(7.0, 30.0), (0, 2));
        assert_eq!(steps.range(-5.0, -1.0), (0, 0));
        assert_eq!(steps.range(12.0, 13.0), (1, 1));
    }
}
