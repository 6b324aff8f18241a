//! The verdict of a scale-in, and the one line that says it.

use super::faults::Fault;
use super::incident::Incident;
use super::scene::Scene;
use super::{Invariant, ScaleIn, expected};
use crate::verdict::Verdict;
use crate::verdict::words::{count, number};
use std::collections::BTreeSet;

/// The worst for those who are on a call comes first.
const GRAVITY: [&str; 14] =
    ["I3", "I4", "I6", "I2", "I13", "I9", "I10", "I1", "I5", "I8", "I7", "I11", "scale_out", "removed"];

/// A broken invariant is a fail, whoever else could not be judged: evidence leaves out what may be the generator's. A pass
/// needs I0, every judged invariant, something removed and enough at risk.
pub(super) fn sentence(
    s: &ScaleIn,
    scene: &Scene<'_>,
    incidents: &[Incident],
    faults: &[Fault],
) -> (Verdict, String, Vec<String>) {
    let rank = |i: &Invariant| GRAVITY.iter().position(|g| *g == i.id).unwrap_or(usize::MAX);
    let mut failed: Vec<&Invariant> = s.invariants.iter().filter(|i| i.judged && i.verdict == Verdict::Fail).collect();
    failed.sort_by_key(|i| rank(i));
    let unknown: Vec<&Invariant> = s.invariants.iter().filter(|i| i.judged && i.verdict == Verdict::Unknown).collect();
    let open = |i: &&Invariant| format!("{}: {}", i.id, i.why);
    if let Some(first) = failed.first() {
        let ids: Vec<&str> = failed.iter().map(|i| i.id).collect();
        let more = first.evidence.len() as u64 + first.evidence_more - 1;
        let also = if more > 0 { format!("; {more} more of this kind") } else { String::new() };
        let text = format!("{}: {}{also}.", ids.join(", "), first.evidence[0].what);
        let of = |i: &&Invariant| {
            let what = i.evidence.first().map_or(i.why.as_str(), |e| e.what.as_str());
            format!("{}, {}: {what}", i.id, i.title)
        };
        let mut reasons: Vec<String> = failed.iter().map(of).collect();
        reasons.extend(unknown.iter().map(open));
        return (Verdict::Fail, text, reasons);
    }
    let reasons: Vec<String> = unknown.iter().map(open).collect();
    if let Some(removed) = unknown.iter().find(|i| i.id == "removed") {
        let who = if super::incident::observe_only(scene) { "the autoscaler: " } else { "" };
        let text = format!("Nothing proven: {who}{}.", removed.why);
        return (Verdict::Unknown, text, reasons);
    }
    if let Some(first) = reasons.first() {
        return (Verdict::Unknown, format!("Unknown: {first}."), reasons);
    }
    (Verdict::Pass, pass(s, scene, incidents, faults), Vec::new())
}

fn pass(s: &ScaleIn, scene: &Scene<'_>, incidents: &[Incident], faults: &[Fault]) -> String {
    let n = expected::taken_away(scene, incidents).len() as u64;
    let disturbed: BTreeSet<&str> = faults.iter().filter_map(|f| f.server.as_deref()).collect();
    let disturbed = match disturbed.len() as u64 {
        0 => String::new(),
        n => format!(", {n} paused or cut off"),
    };
    let clean = s.classes.get("clean").copied().unwrap_or(0);
    let all: u64 = s.classes.values().sum();
    let classes = if clean == all {
        "all clean".to_owned()
    } else {
        let each: Vec<String> = s.classes.iter().map(|(c, n)| format!("{n} {}", c.replace('_', " "))).collect();
        format!("{}, within what the profile allows", each.join(", "))
    };
    let gap = s.longest_gap.map(|ms| format!(", longest gap {}", short(ms))).unwrap_or_default();
    let drains: Vec<String> = s.removals.iter().filter_map(|r| r.drain).map(short).collect();
    let drains = match drains.len() {
        0 => String::new(),
        1 => format!(", drain {}", drains[0]),
        2 => format!(", drains {} and {}", drains[0], drains[1]),
        n => format!(", {n} drains, the longest {}", short(s.drain.max.unwrap_or(0.0))),
    };
    let admitted = s.removals.iter().map(|r| r.admitted).sum::<u64>();
    let late =
        if admitted > 0 { format!(" and {}", count(admitted, "late joiner", "late joiners")) } else { String::new() };
    let untested: Vec<&str> =
        s.invariants.iter().filter(|i| !i.judged && i.id.starts_with('I') && i.id != "I12").map(|i| i.id).collect();
    let untested =
        if untested.is_empty() { String::new() } else { format!("; not put to the test: {}", untested.join(", ")) };
    if let (Some(want), true) = (scene.expect.scale_out, all == 0 && n == 0) {
        let first = s.invariants.iter().find(|i| i.id == "scale_out").map_or("", |i| i.why.as_str());
        let added = count(u64::from(want.servers), "server", "servers");
        return format!("{added} added, {first}; none removed, no leg at risk{untested}.");
    }
    format!(
        "{} removed{disturbed}, {}{late} {classes}{gap}{drains}{untested}.",
        count(n, "server", "servers"),
        count(s.exposed_legs, "exposed leg", "exposed legs")
    )
}

/// `180 ms`, `14 s`, `11 min`.
fn short(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{} ms", number(ms)),
        ms if ms < 120_000.0 => format!("{} s", number(ms / 1000.0)),
        ms => format!("{} min", number(ms / 60_000.0)),
    }
}
