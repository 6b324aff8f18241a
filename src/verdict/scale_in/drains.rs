//! I3, I4 and I7: a server that is taken away outlives its calls, its calls end clean, and then it ends in time.

use super::faults::{Fault, Share};
use super::incident::{CordonSource, FELL_WITH_MS, Incident, last_seen_alive, life_observed, observe_only};
use super::scene::{Scene, ms};
use super::{Evidence, Finding};
use crate::types::LegId;
use crate::verdict::legs::{Classed, LegClass, noticed};
use crate::verdict::words::{count, number};
use crate::verdict::{Window, clock};
use std::collections::{BTreeMap, BTreeSet};

/// A server that was asked to end closes its calls within so much of its end.
const CLOSING_MS: f64 = 10_000.0;
/// A fall so shortly before the first look that misses the server is its end too.
const JUST_BEFORE_MS: f64 = 1000.0;

/// Allowed where the fleet moves calls: a migration or a reconnect within its bound.
fn moved_well(scene: &Scene<'_>, classed: &Classed) -> bool {
    let allowed = scene.expect.migration.is_some_and(|most| classed.ms() <= ms(most));
    allowed && matches!(classed.class, LegClass::Migrated | LegClass::Reconnected)
}

pub(super) fn outlives_its_calls(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let mut finding = Finding::default();
    let (mut ended, mut told) = (0, 0);
    for i in incidents.iter().filter(|i| i.removes()) {
        *(if i.ended(scene).is_some() { &mut ended } else { &mut told }) += 1;
        let hit = i.kill.into_iter().chain(i.terminate).map(|a| a.t).reduce(f64::min);
        // One that drains after SIGTERM may still close calls for other reasons; what falls near its end falls with it.
        let near = i.gone.map(|g| g.not_before - if hit.is_some() { CLOSING_MS } else { JUST_BEFORE_MS });
        let lower = hit.into_iter().chain(near).reduce(f64::max).unwrap_or(0.0);
        let lower = i.kill.map_or(lower, |k| k.t);
        let gone = i.gone.map(|g| g.at.t).or(i.kill.map(|k| k.t));
        let upper = gone.or(hit).map_or(f64::INFINITY, |g| g + FELL_WITH_MS);
        let mut victims: Vec<LegId> = Vec::new();
        for stay in scene.on(&i.server) {
            let Some(track) = scene.all.tracks.legs.get(&stay.leg) else { continue };
            // Media that stopped before the server was asked to end stopped for another reason.
            let fell = track.end.as_ref().is_some_and(|e| e.cause.is_drop() && e.at.t == stay.until)
                && stay.media_until >= lower - JUST_BEFORE_MS
                && (lower..=upper).contains(&stay.until);
            let live =
                gone.is_some_and(|g| stay.from <= g && stay.until > g && stay.media_until >= lower - JUST_BEFORE_MS);
            // Whoever went on, and whose leave was acknowledged later, lost nothing with it.
            let well =
                scene.all.classes.get(&stay.leg).is_some_and(|c| c.class == LegClass::Clean || moved_well(scene, c));
            if (fell || live) && stay.from <= upper && !well {
                victims.push(stay.leg);
            }
        }
        if victims.is_empty() {
            foreign_sessions(scene, i, &mut finding);
            continue;
        }
        let when = i.kill.map(|k| k.t).or(hit).or(gone).unwrap_or(lower);
        let did = if i.kill.is_some() {
            "killed"
        } else if i.terminate.is_some() {
            "terminated"
        } else {
            "gone"
        };
        let rooms: std::collections::BTreeSet<String> = victims.iter().filter_map(|l| scene.room_of(*l)).collect();
        let named: Vec<&str> = rooms.iter().take(4).map(String::as_str).collect();
        let dots = if rooms.len() > 4 { " …" } else { "" };
        let after = match &i.cordon {
            Some(c) => format!(" {} s after cordon", number(((when - c.at.t) / 1000.0).max(0.0))),
            None => " without a cordon".into(),
        };
        let what = format!(
            "{} {did} with {} ({}{dots}){after}",
            i.server,
            count(victims.len() as u64, "live leg", "live legs"),
            named.join(", ")
        );
        let last =
            victims.iter().filter_map(|l| Some(scene.all.tracks.legs.get(l)?.end.as_ref()?.at.t)).fold(when, f64::max);
        let lines = i.kill.into_iter().chain(i.terminate).map(|a| a.line).chain(i.gone.map(|g| g.at.line));
        finding.evidence.push(
            Evidence::new(what, Window { from_ms: when, until_ms: last })
                .on(&i.server)
                .legs(scene, &victims)
                .lines(lines)
                .noticed(worst_noticed(scene, &victims)),
        );
    }
    if ended + told == 0 {
        return Finding::untested("no server ended");
    }
    let ended = (ended > 0).then(|| format!("{} ended without a call on them", count(ended, "server", "servers")));
    let told = (told > 0).then(|| format!("{} told to end, and no call fell by that", count(told, "was", "were")));
    finding.basis = ended.into_iter().chain(told).collect::<Vec<_>>().join("; ");
    finding
}

/// Where others are on the fleet too: sessions that the server itself still counted when it went.
fn foreign_sessions(scene: &Scene<'_>, i: &Incident, finding: &mut Finding) {
    let Some(gone) = i.gone.filter(|_| !scene.expect.exclusive) else { return };
    for backend in &scene.record.backends {
        let Some(seen) = backend.at(&i.server, gone.not_before) else { continue };
        let Some(n) = seen.is.participants.or(seen.is.sessions).filter(|n| *n > 0) else { continue };
        // Ours may just not be counted off yet.
        if i.last_leave(scene).is_some_and(|t| gone.not_before - t < ms(scene.expect.ghost_allowance)) {
            continue;
        }
        let what = format!("{} ended with {n} sessions by {}'s count; none of them is ours", i.server, backend.name);
        let w = Window { from_ms: gone.not_before, until_ms: gone.at.t };
        finding.evidence.push(
            Evidence::new(what, w)
                .on(&i.server)
                .lines([seen.at.line, gone.at.line])
                .noticed("somebody else's call broke off"),
        );
        return;
    }
}

/// What the worst off of these noticed, and how many noticed the like.
pub(super) fn worst_noticed(scene: &Scene<'_>, legs: &[LegId]) -> String {
    let classed = legs.iter().filter_map(|l| Some((*l, scene.all.classes.get(l)?)));
    let worst = classed.min_by(|a, b| a.1.class.cmp(&b.1.class).then(b.1.ms().total_cmp(&a.1.ms())));
    let Some((leg, classed)) = worst else { return "still in the call when the history ended".into() };
    let cause = scene.all.tracks.legs.get(&leg).and_then(|t| t.end.as_ref()).map(|e| e.cause);
    let other = classed.about.map(|l| scene.leg_name(l));
    let text = noticed(classed, cause, other.as_deref());
    if legs.len() == 1 { text } else { format!("at worst ({}): {text}", scene.leg_name(leg)) }
}

/// It did not hear others because its room was on several servers, which has its own invariant (I6).
pub(super) fn is_apart(scene: &Scene<'_>, split: &BTreeSet<LegId>, leg: LegId) -> bool {
    let end = scene.all.tracks.legs.get(&leg).and_then(|t| t.end.as_ref());
    split.contains(&leg) && end.is_some_and(|e| !e.cause.is_drop())
}

pub(super) fn calls_end_clean(
    scene: &Scene<'_>,
    incidents: &[Incident],
    faults: &[Fault],
    split: &BTreeSet<LegId>,
) -> Finding {
    let mut finding = Finding::default();
    let mut seen: BTreeSet<LegId> = BTreeSet::new();
    let (mut open, mut inconclusive, mut gaps) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    // By server and class, so that forty that fell alike are one piece of evidence.
    let mut bad: BTreeMap<(&str, LegClass), Vec<LegId>> = BTreeMap::new();
    for i in incidents.iter().filter(|i| i.cordon.is_some() || i.removes()) {
        for leg in i.exposed.iter().chain(&i.admitted) {
            seen.insert(*leg);
            match scene.all.classes.get(leg) {
                None => drop(open.insert(*leg)),
                Some(c) if c.class == LegClass::Inconclusive => drop(inconclusive.insert(*leg)),
                Some(c) if c.class == LegClass::Clean || moved_well(scene, c) => {}
                Some(_) if is_apart(scene, split, *leg) => {}
                // What ended before anything was done is no matter of this.
                Some(c) if c.evidence.until_ms < i.from() && c.class != LegClass::UncleanLeave => {}
                Some(c) => bad.entry((&i.server, c.class)).or_default().push(*leg),
            }
        }
    }
    for f in faults {
        let Some(server) = &f.server else { continue };
        for leg in f.exposed.iter().chain(&f.admitted) {
            seen.insert(*leg);
            match scene.all.classes.get(leg) {
                None => drop(open.insert(*leg)),
                Some(c) if c.class == LegClass::Inconclusive => drop(inconclusive.insert(*leg)),
                Some(c) if c.class == LegClass::Clean || moved_well(scene, c) => {}
                Some(_) if is_apart(scene, split, *leg) => {}
                Some(c) => match f.share(scene, c) {
                    Share::None => {}
                    Share::Gap => drop(gaps.insert(*leg)),
                    Share::Bad => bad.entry((server, c.class)).or_default().push(*leg),
                },
            }
        }
    }
    for ((server, class), mut legs) in bad {
        legs.sort_unstable();
        legs.dedup();
        let all: Vec<&Classed> = legs.iter().filter_map(|l| scene.all.classes.get(l)).collect();
        let from_ms = all.iter().map(|c| c.evidence.from_ms).fold(f64::INFINITY, f64::min);
        let until_ms = all.iter().map(|c| c.evidence.until_ms).fold(from_ms, f64::max);
        let longest = all.iter().map(|c| c.ms()).fold(0.0, f64::max);
        let timed = !matches!(class, LegClass::UncleanLeave | LegClass::Dropped);
        let how = if timed { format!(", up to {} s", number(longest / 1000.0)) } else { String::new() };
        let what = format!(
            "{} on {server} {}{how}: first {}",
            count(legs.len() as u64, "leg", "legs"),
            class.as_str().replace('_', " "),
            scene.leg_name(legs[0])
        );
        let text = worst_noticed(scene, &legs);
        finding
            .evidence
            .push(Evidence::new(what, Window { from_ms, until_ms }).on(server).legs(scene, &legs).noticed(text));
    }
    let severity = |e: &Evidence| std::cmp::Reverse(e.legs_total);
    finding.evidence.sort_by_key(severity);
    if !open.is_empty() {
        finding
            .open
            .push(format!("{} still up when the history ends", count(open.len() as u64, "leg was", "legs were")));
    }
    if !inconclusive.is_empty() {
        finding.open.push(format!("{} inconclusive", count(inconclusive.len() as u64, "leg is", "legs are")));
    }
    if seen.is_empty() {
        return Finding::untested("no leg was on a server that was taken away, paused or cut off");
    }
    finding.basis = format!("{} ended clean", count((seen.len() - gaps.len()) as u64, "leg", "legs"));
    if !gaps.is_empty() {
        finding.basis +=
            &format!("; {} the gap of the fault itself, and went on", count(gaps.len() as u64, "had", "had"));
    }
    finding
}

pub(super) fn ends_in_time(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let mut finding = Finding::default();
    let observe_only = observe_only(scene);
    let (exit, drain) = (ms(scene.expect.exit), ms(scene.expect.drain));
    let mut judged = 0;
    for i in incidents {
        let Some(cordon) = &i.cordon else {
            if i.gone.is_some() {
                judged += 1;
                finding.open.push(format!("nobody saw when {} was cordoned", i.server));
            }
            continue;
        };
        if i.kill.is_some() {
            // It ended when we said so.
            continue;
        }
        // A cordon without a terminate, or one that was taken back in time, is no drain.
        let given_up = i.uncordon.is_some_and(|u| !u.rollback);
        if let Some((_, action)) = i.vain.filter(|_| i.gone.is_none() && i.terminate.is_none() && !given_up) {
            judged += 1;
            finding.open.push(format!(
                "the {} of {} failed or did nothing, so it was not to end",
                action.as_str(),
                i.server
            ));
            continue;
        }
        let meant = observe_only || i.terminate.is_some() || i.terminate_skipped || i.gone.is_some();
        if !meant || (given_up && !i.terminate_skipped) {
            continue;
        }
        judged += 1;
        if !life_observed(scene, &i.server) {
            finding.open.push(format!("no backend tells whether {} runs", i.server));
            continue;
        }
        let last = i.last_leave(scene).unwrap_or(cordon.at.t).max(i.from());
        // After one that failed, it was asked only by the next.
        let last = i.vain.and(i.terminate).map_or(last, |again| last.max(again.t));
        let line = |a: super::At| a.line;
        let evidence = |what: String, until_ms: f64| {
            Evidence::new(what, Window { from_ms: cordon.at.t, until_ms })
                .on(&i.server)
                .lines([line(cordon.at)].into_iter().chain(i.terminate.map(line)).chain(i.gone.map(|g| g.at.line)))
                .noticed("nothing: it costs money, and a scale-in that does not end")
        };
        if let Some(gone) = i.gone {
            // From when it had nobody, or was asked to end, whichever came later.
            let (least, most) = (gone.not_before - last, gone.at.t - last);
            if least > exit {
                let what = format!(
                    "{} ended {} s after its last leave (limit {} s)",
                    i.server,
                    number(least / 1000.0),
                    number(exit / 1000.0)
                );
                finding.evidence.push(evidence(what, gone.at.t));
            } else if most > exit {
                finding.open.push(format!("{} ended between two looks, one within its time and one past it", i.server));
            }
            let took = gone.not_before - cordon.at.t;
            if took > drain {
                let what = format!("{} drained for {} (limit {})", i.server, clock(took), clock(drain));
                finding.evidence.push(evidence(what, gone.at.t));
            }
            continue;
        }
        let horizon = i.uncordon.map_or(scene.end_t(), |u| u.at.t).min(scene.end_t());
        let live = scene.live(&i.server, horizon - 1.0);
        if !live.is_empty() && horizon - cordon.at.t > drain {
            let what = format!(
                "{} still had {} {} after cordon (limit {})",
                i.server,
                count(live.len() as u64, "leg", "legs"),
                clock(horizon - cordon.at.t),
                clock(drain)
            );
            finding.evidence.push(evidence(what, horizon).legs(scene, &live));
        } else if live.is_empty() && horizon - last > exit {
            let seen = last_seen_alive(scene, &i.server, horizon).filter(|t| t - last > exit);
            let Some(seen) = seen else {
                finding.open.push(format!("no look at {} when it had to be gone", i.server));
                continue;
            };
            let what = format!(
                "{} had not ended {} s after its last leave (limit {} s)",
                i.server,
                number((seen - last) / 1000.0),
                number(exit / 1000.0)
            );
            finding.evidence.push(evidence(what, seen));
        } else {
            finding.open.push(format!("the run ended before the drain of {} had to be over", i.server));
        }
    }
    if judged == 0 {
        return Finding::untested("no server was drained");
    }
    let derived = incidents.iter().filter_map(|i| i.cordon.as_ref()).any(|c| c.source == CordonSource::Fleet);
    finding.basis = format!("{} ended in time", count(judged, "drain", "drains"))
        + if derived { "; cordons as the fleet's own state shows them" } else { "" };
    finding
}
