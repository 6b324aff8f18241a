//! I9, I10 and I13: what a scale-in does to everybody else.

use super::incident::{Incident, alive_at, first_touch, touched};
use super::placement::is_late_joiner;
use super::scene::{Scene, ms};
use super::{Evidence, Finding};
use crate::history::FailReason;
use crate::types::{LegId, ServerId};
use crate::verdict::LegClass;
use crate::verdict::words::{count, number};
use crate::verdict::{Window, clock};
use std::collections::{BTreeMap, BTreeSet};

/// What is compared before and after.
#[derive(Clone, Copy, Default, Debug)]
struct Quality {
    gap_p99: Option<f64>,
    loss: Option<f64>,
    video_loss: Option<f64>,
    join_p95: Option<f64>,
}

pub(super) fn unharmed(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let Some(touch) = first_touch(scene, incidents) else { return Finding::untested("nothing was done to the fleet") };
    let touched = touched(scene, incidents);
    let hold = scene.frame.hold;
    let mut finding = Finding::default();
    let (mut compared, mut media, mut alone) = (0u64, 0u64, 0u64);
    for id in scene.record.seconds.keys() {
        let server = scene.frame.server_name(*id);
        if touched.contains(&server) || !scene.on(&server).iter().any(|s| s.from < touch && s.until > touch) {
            continue;
        }
        alone += 1;
        let before = quality(scene, *id, hold.from_ms, touch);
        let after = quality(scene, *id, touch, hold.until_ms);
        let limits = scene.expect.others;
        let rows = [
            (
                "longest audio gap p99",
                before.gap_p99,
                after.gap_p99,
                ms(limits.gap),
                "ms",
                "sound broke off again and again",
            ),
            ("audio loss", before.loss, after.loss, limits.loss * 100.0, "%", "sound was patchy"),
            (
                "video loss",
                before.video_loss,
                after.video_loss,
                limits.loss * 100.0,
                "%",
                "the picture froze or fell apart",
            ),
            ("join p95", before.join_p95, after.join_p95, ms(limits.join), "ms", "waited long to get into the call"),
        ];
        for (what, before, after, floor, unit, noticed) in rows {
            let Some(after) = after else { continue };
            let limit = before.map_or(floor, |b| (b * limits.factor).max(floor));
            compared += 1;
            media += u64::from(!what.starts_with("join"));
            if after > limit {
                let was = before.map_or_else(|| "unknown".into(), number);
                let what = format!(
                    "{server}: {what} {} {unit} after, {was} {unit} before (limit {} {unit})",
                    number(after),
                    number(limit)
                );
                let w = Window { from_ms: touch, until_ms: hold.until_ms };
                let legs = scene.live(&server, touch);
                let mut evidence = Evidence::new(what, w).on(&server).legs(scene, &legs);
                evidence.lines.clear();
                finding.evidence.push(evidence.noticed(noticed));
            }
        }
    }
    if alone == 0 {
        return Finding::untested("no server with calls was left alone");
    }
    if media == 0 {
        finding.open.push("no second of media on servers that nothing was done to could be compared".into());
    }
    finding.basis = format!("{compared} comparisons with before, on servers that nothing was done to");
    finding
}

fn quality(scene: &Scene<'_>, id: ServerId, from: f64, until: f64) -> Quality {
    let seconds = scene.record.seconds.get(&id).into_iter().flatten();
    let inside = seconds.filter(|s| {
        let w = Window::ending(s.t, s.seconds);
        w.from_ms >= from - 5.0 && w.until_ms <= until + 5.0 && !scene.frame.inconclusive(&w)
    });
    let (mut gaps, mut counts) = (Vec::new(), [(0i64, 0i64); 2]);
    for s in inside {
        gaps.extend(s.silence_ms);
        let of_second = [(s.expected, s.received), (s.video_expected, s.video_received)];
        for (all, own) in counts.iter_mut().zip(of_second) {
            *all = (all.0.saturating_add(own.0), all.1.saturating_add(own.1));
        }
    }
    let [loss, video_loss] = counts.map(|(expected, received)| {
        (expected > 0).then(|| expected.saturating_sub(received).max(0) as f64 / expected as f64 * 100.0)
    });
    // Joins of the warm-up are a baseline too.
    let since = if from > scene.frame.hold.from_ms { from } else { 0.0 };
    let joins = scene.all.tracks.legs.values().filter_map(|t| {
        let (at, server) = t.joined?;
        let own = Window { from_ms: at.t - t.setup_ms, until_ms: at.t };
        (server == id && at.t >= since && at.t < until && !scene.frame.unhealthy.touch(&own)).then_some(t.setup_ms)
    });
    Quality { gap_p99: quantile(gaps, 0.99), loss, video_loss, join_p95: quantile(joins.collect(), 0.95) }
}

fn quantile(mut all: Vec<f64>, q: f64) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let index = ((all.len() as f64 * q).ceil() as usize).saturating_sub(1);
    all.get(index).copied()
}

pub(super) fn herd(scene: &Scene<'_>) -> Finding {
    let tracks = &scene.all.tracks.legs;
    let mut rejoins: Vec<(f64, LegId, u64)> = tracks
        .iter()
        .filter(|(_, t)| t.rejoins.is_some())
        .filter_map(|(id, t)| Some((t.started?.t, *id, t.started?.line)))
        .collect();
    if rejoins.is_empty() {
        return Finding::untested("nobody had to rejoin");
    }
    rejoins.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut finding = Finding::default();
    let limits = scene.expect.herd;
    let (mut first, mut worst) = (0, 0..0);
    for n in 0..rejoins.len() {
        while rejoins[first].0 <= rejoins[n].0 - 1000.0 {
            first += 1;
        }
        if n + 1 - first > worst.len() {
            worst = first..n + 1;
        }
    }
    if worst.len() as f64 > limits.rate {
        let all = &rejoins[worst.clone()];
        let w = Window { from_ms: all[0].0, until_ms: all[all.len() - 1].0 };
        let what =
            format!("{} rejoins in one second from {} (limit {}/s)", all.len(), clock(w.from_ms), number(limits.rate));
        let legs: Vec<LegId> = all.iter().map(|r| r.1).collect();
        let lines = all.iter().take(10).map(|r| r.2);
        finding.evidence.push(
            Evidence::new(what, w)
                .legs(scene, &legs)
                .lines(lines)
                .noticed("the way back is slow, for those who fell and for everybody else who joins"),
        );
    }
    // Each fall with its way back: the successors of one leg are one way.
    let mut fallen: BTreeMap<LegId, f64> = BTreeMap::new();
    for track in tracks.values() {
        let Some(id) = track.rejoins else { continue };
        let back = fallen.entry(id).or_insert(f64::INFINITY);
        *back = track.back_at().map_or(*back, |t| t.min(*back));
    }
    let mut late: Vec<(f64, LegId)> = Vec::new();
    for (id, back) in &fallen {
        let Some(end) = tracks.get(id).and_then(|t| t.end.as_ref()) else { continue };
        let took = back - end.at.t;
        if took > ms(limits.back_within) {
            late.push((took, *id));
        }
    }
    if late.len() as f64 > 0.01 * fallen.len() as f64 {
        let legs: Vec<LegId> = late.iter().map(|l| l.1).collect();
        let what = format!(
            "{} of {} who fell were not back within {} s (1 % may)",
            late.len(),
            fallen.len(),
            number(ms(limits.back_within) / 1000.0)
        );
        let ends = legs.iter().filter_map(|l| Some(tracks.get(l)?.end.as_ref()?.at.t));
        let from_ms = ends.fold(f64::INFINITY, f64::min);
        let w = Window { from_ms, until_ms: from_ms + ms(limits.back_within) };
        finding
            .evidence
            .push(Evidence::new(what, w).legs(scene, &legs).noticed("was thrown out of the call and stayed out"));
    }
    finding.basis = format!(
        "{}, at most {} in a second, all in time",
        count(rejoins.len() as u64, "rejoin", "rejoins"),
        worst.len()
    );
    finding
}

/// Servers that take rooms at a time.
fn serving(scene: &Scene<'_>, incidents: &[Incident], t: f64) -> Vec<String> {
    let known =
        scene.record.backends.iter().flat_map(|b| b.servers.keys().filter(|s| b.at(s, t).is_some_and(|s| s.known)));
    let met = scene.record.met.iter().filter(|(_, at)| **at <= t).map(|(name, _)| name);
    let names: BTreeSet<&String> = known.chain(met).collect();
    let taken = |name: &str| {
        incidents.iter().filter(|i| i.server == name && i.from() <= t).any(|i| {
            let back = i.gone.is_some_and(|g| g.at.t <= t) && alive_at(scene, name, t) == Some(true);
            !back && i.uncordon.is_none_or(|u| u.at.t > t)
        })
    };
    names.into_iter().filter(|n| !taken(n) && alive_at(scene, n, t) != Some(false)).cloned().collect()
}

pub(super) fn enough_servers(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let mut finding = Finding::default();
    if scene.record.met.is_empty() && scene.record.backends.is_empty() {
        return Finding::unknown("no server was seen");
    }
    let min = scene.expect.min_servers as usize;
    let mut fewest: Option<(usize, f64)> = None;
    let moments = incidents.iter().map(Incident::from).chain(incidents.iter().filter_map(|i| i.gone.map(|g| g.at.t)));
    for t in moments.chain([scene.frame.hold.from_ms]).filter(|t| *t <= scene.frame.hold.until_ms) {
        let n = serving(scene, incidents, t).len();
        if fewest.is_none_or(|(f, at)| n < f || (n == f && t < at)) {
            fewest = Some((n, t));
        }
    }
    if let Some((n, t)) = fewest.filter(|(n, _)| *n < min) {
        let what = format!("{} served at {} (at least {min})", count(n as u64, "server", "servers"), clock(t));
        let lines = incidents.iter().filter(|i| i.from() <= t).filter_map(|i| i.cordon.as_ref()).map(|c| c.at.line);
        finding.evidence.push(
            Evidence::new(what, Window { from_ms: t, until_ms: t })
                .lines(lines)
                .noticed("whoever wants to begin a call now may find no server for it"),
        );
    }
    let mut joins = 0u64;
    for (leg, track) in &scene.all.tracks.legs {
        if track.rejoins.is_some() {
            continue;
        }
        joins += 1;
        let Some((at, server, reason, detail)) = &track.failed else { continue };
        let ours = matches!(reason, FailReason::Local | FailReason::LeftEarly)
            || scene.all.classes.get(leg).is_none_or(|c| c.class == LegClass::Inconclusive);
        let refused = matches!(reason, FailReason::Rejected | FailReason::Full | FailReason::Unauthorized);
        let routed = track.routed.as_ref();
        let accepted = routed.is_some() || (server.is_some() && !refused);
        if ours || !accepted || incidents.iter().any(|i| is_late_joiner(scene, i, *leg)) {
            continue;
        }
        let place = server.map(|s| scene.frame.server_name(s)).or_else(|| routed?.1.clone());
        let on = place.as_ref().map(|p| format!(" on {p}")).unwrap_or_default();
        let reason = crate::verdict::judgement::reason_key(*reason);
        let said = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        let what = format!("{} was accepted and failed to join{on}: {reason}{said}", scene.leg_name(*leg));
        let w = Window { from_ms: track.started.map_or(at.t, |s| s.t), until_ms: at.t };
        let mut evidence = Evidence::new(what, w).legs(scene, &[*leg]).lines([at.line]);
        evidence.server = place;
        finding.evidence.push(evidence.noticed("could not get into the call"));
    }
    let n = fewest.map_or(0, |(n, _)| n);
    finding.basis =
        format!("{} served at least; no accepted join of {joins} failed", count(n as u64, "server", "servers"));
    finding
}
