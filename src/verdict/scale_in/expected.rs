//! What `[expect]` asks for beside the invariants: that anything was removed or added at all, and enough was at risk.

use super::faults::{self, Fault};
use super::incident::{Incident, exposed};
use super::scene::{Scene, ms};
use super::steps;
use super::{Evidence, Finding, Invariant};
use crate::history::FailReason;
use crate::verdict::words::{count, number};
use crate::verdict::{Window, clock};
use std::collections::BTreeMap;

pub(super) fn rows(scene: &Scene<'_>, incidents: &[Incident], faults: &[Fault]) -> Vec<Invariant> {
    let of = |finding: Finding, id, title| finding.invariant(id, title, scene.expect);
    let mut out = vec![
        of(removed(scene, incidents), "removed", "servers were taken away"),
        of(at_risk(scene, incidents, faults), "exposed", "enough calls were at risk"),
        of(steps::all_done(scene, incidents), "steps", "every step of the plan was done"),
    ];
    if scene.expect.scale_out.is_some() {
        out.push(of(scale_out(scene), "scale_out", "servers were added, and joins went there"));
    }
    out
}

/// Servers that ended in the hold, with when.
pub(super) fn taken_away<'a>(scene: &Scene<'_>, incidents: &'a [Incident]) -> Vec<(&'a Incident, f64)> {
    incidents.iter().filter_map(|i| Some((i, i.ended(scene)?))).collect()
}

fn removed(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let wanted = scene.expect.removed.unwrap_or(1);
    if wanted == 0 {
        return Finding::untested("no server was to be removed");
    }
    let hold = scene.frame.hold;
    let within = scene.expect.removed_within.map(ms);
    let by = within.map_or(f64::INFINITY, |w| hold.from_ms + w);
    let all = taken_away(scene, incidents);
    let n = all.iter().filter(|(_, t)| *t <= by).count() as u32;
    if n < wanted {
        let time = clock(within.unwrap_or(hold.until_ms.min(scene.end_t()) - hold.from_ms));
        let what = if all.is_empty() { "nothing was".into() } else { format!("{n} of {wanted} servers were") };
        let vain = incidents.iter().filter_map(|i| Some(format!("{} of {}", i.vain?.1.as_str(), i.server)));
        let vain: Vec<String> = vain.collect();
        let why = if vain.is_empty() { String::new() } else { format!(" ({} failed or did nothing)", vain.join(", ")) };
        return Finding::unknown(format!("{what} removed in {time}{why}"));
    }
    Finding { basis: format!("{} removed", count(u64::from(n), "server", "servers")), ..Finding::default() }
}

fn at_risk(scene: &Scene<'_>, incidents: &[Incident], faults: &[Fault]) -> Finding {
    let mut at_risk = exposed(incidents);
    // Where a server is to be removed, those who were on others prove nothing of that.
    let removes = scene.expect.removed != Some(0);
    if !removes {
        at_risk.extend(faults::exposed(faults));
    }
    let (n, wanted) = (at_risk.len() as u64, u64::from(scene.expect.exposed_legs));
    if !removes && incidents.is_empty() && faults.is_empty() && scene.expect.scale_out.is_some() {
        return Finding::untested("servers were to be added, none taken away");
    }
    if n < wanted {
        let which = if removes { "taken away" } else { "taken away, paused or cut off" };
        let text =
            format!("only {} up on servers that were {which} (at least {wanted})", count(n, "leg was", "legs were"));
        return Finding::unknown(text);
    }
    Finding { basis: format!("{} exposed", count(n, "leg", "legs")), ..Finding::default() }
}

fn scale_out(scene: &Scene<'_>) -> Finding {
    let Some(want) = scene.expect.scale_out else { return Finding::untested("no server was to be added") };
    let begin = scene.frame.hold.from_ms;
    let mut first: BTreeMap<&String, f64> = scene.record.met.iter().map(|(name, t)| (name, *t)).collect();
    for backend in &scene.record.backends {
        for (name, seen) in &backend.servers {
            let t = seen.first().map_or(f64::INFINITY, |s| s.at.t);
            first.entry(name).and_modify(|f| *f = f.min(t)).or_insert(t);
        }
    }
    let new: Vec<&String> = first.iter().filter(|(_, t)| **t > begin).map(|(name, _)| *name).collect();
    if new.len() < want.servers as usize {
        return Finding::unknown(format!("{} of {} servers were added", new.len(), want.servers));
    }
    let mut finding = Finding::default();
    let mut joined: Vec<f64> =
        new.iter().map(|name| scene.on(name).iter().map(|s| s.from).fold(f64::INFINITY, f64::min)).collect();
    joined.sort_by(f64::total_cmp);
    let by = begin + ms(want.within);
    let nth = joined.get(want.servers as usize - 1).copied().unwrap_or(f64::INFINITY);
    if nth > by {
        let in_time = joined.iter().filter(|t| **t <= by).count();
        let what = format!(
            "{in_time} of {} new servers had a join within {} s",
            want.servers,
            number(ms(want.within) / 1000.0)
        );
        finding.evidence.push(
            Evidence::new(what, Window { from_ms: begin, until_ms: by })
                .noticed("the servers that were there had to take everybody"),
        );
    }
    let until = nth.min(by);
    let failed = scene.all.tracks.legs.iter().filter_map(|(leg, t)| {
        let (at, _, reason, _) = t.failed.as_ref()?;
        let ours = matches!(reason, FailReason::Local | FailReason::LeftEarly);
        (!ours && t.rejoins.is_none() && at.t >= begin && at.t <= until).then_some((*leg, at.line))
    });
    let failed: Vec<_> = failed.collect();
    if failed.len() > want.joins_failed_max as usize {
        let what = format!(
            "{} failed before the new servers took any (at most {})",
            count(failed.len() as u64, "join", "joins"),
            want.joins_failed_max
        );
        let legs: Vec<_> = failed.iter().map(|f| f.0).collect();
        let evidence = Evidence::new(what, Window { from_ms: begin, until_ms: until }).legs(scene, &legs);
        finding.evidence.push(evidence.lines(failed.iter().map(|f| f.1)).noticed("could not get into the call"));
    }
    finding.basis = format!("first join on the last of them after {} s", number((nth - begin) / 1000.0));
    finding
}
