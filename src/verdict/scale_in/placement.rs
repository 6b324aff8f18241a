//! I1, I2, I6 and I11: where rooms start, where late joiners go, and that a room is on one server.

use super::incident::Incident;
use super::scene::{Scene, Stay, ms};
use super::{Evidence, Finding};
use crate::history::FailReason;
use crate::profile::JoinPolicy;
use crate::types::{LegId, RoomId, ServerId};
use crate::verdict::words::{count, number};
use crate::verdict::{Window, clock};
use std::collections::BTreeSet;

/// A room that is on two servers for less was on its way.
const SPLIT_MS: f64 = 1000.0;
/// A random choice misses a server that takes part with few rooms; so many a server it does not.
const STARTS_PER_SERVER: usize = 3;

/// The cordon in force: after its allowance, until uncordon or the server's end.
fn in_force(scene: &Scene<'_>, i: &Incident) -> Option<Window> {
    let cordon = i.cordon.as_ref()?;
    let from_ms = cordon.ack.t + ms(scene.expect.allowance);
    let until_ms = i.uncordon.map_or(f64::INFINITY, |u| u.not_before).min(i.until(scene));
    (until_ms > from_ms).then_some(Window { from_ms, until_ms })
}

pub(super) fn no_new_rooms(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let mut finding = Finding::default();
    let (mut cordons, mut elsewhere) = (0u64, BTreeSet::new());
    for i in incidents {
        if i.cordon.is_none() && i.gone.is_some() && i.kill.is_none() && i.terminate.is_none() {
            finding.open.push(format!("nobody saw when {} was cordoned", i.server));
            continue;
        }
        let Some(w) = in_force(scene, i) else { continue };
        cordons += 1;
        // A room is placed when its first member asks.
        let inside: Vec<_> = scene.starts.iter().filter(|s| s.asked > w.from_ms && s.t < w.until_ms).collect();
        let own = scene.id(&i.server);
        elsewhere.extend(inside.iter().filter(|s| Some(s.server) != own).map(|s| s.room));
        let here: Vec<_> = inside.into_iter().filter(|s| Some(s.server) == own).collect();
        for s in here {
            let since = number((s.asked - (w.from_ms - ms(scene.expect.allowance))) / 1000.0);
            let room = scene.room_name(s.room);
            let what = format!("{room} started on {} {since} s after its cordon was acknowledged", i.server);
            let line = i.cordon.as_ref().map(|c| c.ack.line);
            let mut evidence =
                Evidence::new(what, Window { from_ms: s.asked, until_ms: s.t }).on(&i.server).legs(scene, &[s.leg]);
            evidence.rooms = vec![room];
            let evidence = evidence.lines([s.line].into_iter().chain(line));
            finding
                .evidence
                .push(evidence.noticed("nothing yet: the call keeps a server alive that was to go, or ends with it"));
        }
    }
    if finding.evidence.is_empty() && finding.open.is_empty() {
        if cordons == 0 {
            return Finding::untested("no server was cordoned");
        }
        if elsewhere.is_empty() {
            return Finding::untested("no room started while a server was cordoned");
        }
    }
    finding.basis = format!("{} started meanwhile, all elsewhere", count(elsewhere.len() as u64, "room", "rooms"));
    finding
}

/// Joins to rooms that were on a cordoned server: these are judged here, and nowhere else.
pub(super) fn is_late_joiner(scene: &Scene<'_>, i: &Incident, leg: LegId) -> bool {
    let Some(w) = in_force(scene, i) else { return false };
    let Some(track) = scene.all.tracks.legs.get(&leg) else { return false };
    let (Some(started), Some(room)) = (track.started, track.room) else { return false };
    started.t > w.from_ms && started.t < w.until_ms && there(scene, i, room, started.t, leg)
}

/// The room had a member on the server at that time, or lingered there.
fn there(scene: &Scene<'_>, i: &Incident, room: RoomId, t: f64, but: LegId) -> bool {
    let linger = ms(scene.expect.linger);
    let Some(own) = scene.id(&i.server) else { return false };
    let mut stays = scene.in_room(room).filter(|(server, s)| *server == own && s.leg != but);
    stays.any(|(_, s)| s.from <= t && s.media_until + linger > t)
}

pub(super) fn late_joiners(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let mut finding = Finding::default();
    let mut seen = 0u64;
    let policy = scene.expect.join_policy;
    for i in incidents {
        let Some(w) = in_force(scene, i) else { continue };
        let own = scene.id(&i.server);
        for (leg, track) in &scene.all.tracks.legs {
            let Some(started) = track.started.filter(|s| s.t > w.from_ms && s.t < w.until_ms) else { continue };
            let Some(room) = track.room.filter(|r| there(scene, i, *r, started.t, *leg)) else { continue };
            seen += 1;
            let name = scene.leg_name(*leg);
            let here = track.joined.is_some_and(|(_, s)| Some(s) == own);
            let failure = track.failed.as_ref();
            let ours = failure.is_some_and(|f| matches!(f.2, FailReason::Local | FailReason::LeftEarly))
                || scene.all.classes.get(leg).is_some_and(|c| c.class == crate::verdict::LegClass::Inconclusive);
            if ours {
                continue;
            }
            let server = &i.server;
            let wrong = match (policy, track.joined.is_some(), here, failure) {
                // Elsewhere means a split room, which has its own invariant.
                (JoinPolicy::Stick, true, _, _) => None,
                (JoinPolicy::Stick, false, _, Some(f)) => Some((
                    format!("{name} could not join its room on cordoned {server}: {}", why(f)),
                    "could not get into the call",
                )),
                (JoinPolicy::MoveRoom, true, true, _) => {
                    Some((format!("{name} joined its room on cordoned {server}; the room was to move"), "nothing yet"))
                }
                (JoinPolicy::MoveRoom, false, _, Some(f)) => Some((
                    format!("{name} could not join its room, which was to move off {server}: {}", why(f)),
                    "could not get into the call",
                )),
                (JoinPolicy::Reject, true, true, _) => {
                    Some((format!("{name} joined its room on cordoned {server}; it was to be refused"), "nothing yet"))
                }
                (JoinPolicy::Reject, false, _, Some(f)) if !refused(f.2) => Some((
                    format!("{name} was to be refused on {server}, and ran into: {}", why(f)),
                    "waited for a call that did not begin",
                )),
                _ => None,
            };
            if let Some((what, felt)) = wrong {
                let until = failure.map_or(track.joined.map_or(started.t, |j| j.0.t), |f| f.0.t);
                let line = failure.map(|f| f.0.line).or(track.joined.map(|j| j.0.line));
                let mut evidence =
                    Evidence::new(what, Window { from_ms: started.t, until_ms: until }).on(server).legs(scene, &[*leg]);
                evidence.rooms = vec![scene.room_name(room)];
                finding.evidence.push(evidence.lines([started.line].into_iter().chain(line)).noticed(felt));
            }
        }
    }
    if seen == 0 {
        return Finding::untested("nobody joined a room on a cordoned server");
    }
    finding.basis =
        format!("{} as join_policy = \"{}\" says", count(seen, "late joiner", "late joiners"), policy.as_str());
    finding
}

fn refused(reason: FailReason) -> bool {
    matches!(reason, FailReason::Rejected | FailReason::Full | FailReason::Unauthorized)
}

fn why(f: &(super::At, Option<ServerId>, FailReason, String)) -> String {
    let reason = crate::verdict::judgement::reason_key(f.2);
    if f.3.is_empty() { reason } else { format!("{reason} ({})", f.3) }
}

/// Also gives the legs of rooms that were split.
pub(super) fn affinity(scene: &Scene<'_>) -> (Finding, BTreeSet<LegId>) {
    let mut split = BTreeSet::new();
    if scene.expect.cascade {
        return (Finding::untested("rooms may span servers here (expect.cascade)"), split);
    }
    let tolerated = SPLIT_MS + scene.expect.migration.map_or(0.0, ms);
    let mut finding = Finding::default();
    for room in scene.rooms.keys() {
        let stays: Vec<(ServerId, &Stay)> = scene.in_room(*room).collect();
        let Some((w, pair, legs)) = longest_split(&stays, tolerated) else { continue };
        let name = scene.room_name(*room);
        let [a, b] = pair.map(|s| scene.frame.server_name(s));
        let what = format!(
            "{name} was on {a} and {b} at once for {} s from {}",
            number(w.length_ms() / 1000.0),
            clock(w.from_ms)
        );
        let lines = stays.iter().filter(|(_, s)| legs.contains(&s.leg)).map(|(_, s)| s.line);
        let legs: Vec<LegId> = legs.iter().copied().collect();
        let mut evidence = Evidence::new(what, w).on(&b).legs(scene, &legs);
        evidence.rooms = vec![name];
        finding.evidence.push(evidence.lines(lines).noticed("heard some of the others, and others not, in one call"));
        split.extend(legs);
    }
    finding.basis = format!("{} looked at", count(scene.rooms.len() as u64, "room", "rooms"));
    if scene.rooms.is_empty() {
        return (Finding::untested("nobody was in a room"), split);
    }
    (finding, split)
}

/// The longest time for which a room was on two servers, by its members' media.
fn longest_split(stays: &[(ServerId, &Stay)], tolerated: f64) -> Option<(Window, [ServerId; 2], BTreeSet<LegId>)> {
    let mut worst: Option<(Window, [ServerId; 2])> = None;
    if stays.windows(2).all(|w| w[0].0 == w[1].0) {
        return None;
    }
    for (n, (server, stay)) in stays.iter().enumerate() {
        for (other_server, other) in stays[n + 1..].iter().filter(|(s, _)| s != server) {
            let w = Window { from_ms: stay.from.max(other.from), until_ms: stay.media_until.min(other.media_until) };
            if w.until_ms - w.from_ms > tolerated && worst.is_none_or(|(o, _)| w.length_ms() > o.length_ms()) {
                let pair = if stay.from <= other.from { [*server, *other_server] } else { [*other_server, *server] };
                worst = Some((w, pair));
            }
        }
    }
    let (w, pair) = worst?;
    let inside = stays.iter().filter(|(_, s)| s.from < w.until_ms && s.media_until > w.from_ms);
    Some((w, pair, inside.map(|(_, s)| s.leg).collect()))
}

pub(super) fn rooms_again(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let mut finding = Finding::default();
    let (mut uncordons, mut got) = (0u64, 0u64);
    let within = ms(scene.expect.uncordon);
    for i in incidents {
        let wanted = i.uncordon.filter(|u| !u.rollback && !u.failed && u.at.t < scene.frame.hold.until_ms);
        let Some(at) = wanted.map(|u| u.at) else { continue };
        uncordons += 1;
        let again = incidents.iter().filter(|o| o.server == i.server && o.from() > at.t).map(Incident::from);
        let until = again.fold(at.t + within, f64::min);
        let inside: Vec<_> = scene.starts.iter().filter(|s| s.asked > at.t && s.t <= until).collect();
        let own = scene.id(&i.server);
        if inside.iter().any(|s| Some(s.server) == own) {
            got += 1;
            continue;
        }
        let servers: BTreeSet<ServerId> = inside.iter().map(|s| s.server).collect();
        if inside.len() < STARTS_PER_SERVER * (servers.len() + 1) {
            finding.open.push(format!(
                "only {} in the {} s after {} was uncordoned",
                count(inside.len() as u64, "room started", "rooms started"),
                number(within / 1000.0),
                i.server
            ));
            continue;
        }
        let what = format!(
            "none of {} rooms started on {} in the {} s after its uncordon",
            inside.len(),
            i.server,
            number(within / 1000.0)
        );
        let lines = [at.line].into_iter().chain(inside.iter().map(|s| s.line));
        let w = Window { from_ms: at.t, until_ms: until };
        finding.evidence.push(
            Evidence::new(what, w)
                .on(&i.server)
                .lines(lines)
                .noticed("nothing: the server idles, and the others fill up"),
        );
    }
    if uncordons == 0 {
        return Finding::untested("no server was uncordoned");
    }
    if got == 0 && finding.evidence.is_empty() {
        return Finding::untested(super::some(&finding.open));
    }
    finding.basis = format!("{got} of {} got rooms again", count(uncordons, "uncordoned server", "uncordoned servers"));
    finding
}
