//! I0: can the judge be trusted? The generator was healthy, the load was steady before anything was done to the fleet,
//! and calls that nothing was done to went on.

use super::Finding;
use super::drains::is_apart;
use super::incident::{Incident, first_touch, touched};
use super::scene::{Scene, ms};
use crate::types::LegId;
use crate::verdict::legs::LegClass;
use crate::verdict::words::{count, number};
use crate::verdict::{Window, clock};
use std::collections::BTreeSet;

/// A class that says something bad about the target.
pub(super) fn is_bad(class: LegClass) -> bool {
    matches!(class, LegClass::Dropped | LegClass::OneWay | LegClass::Reconnected | LegClass::Glitched)
}

/// Never a fail: what speaks against the judge makes the run unknown, and the evidence says so in `why`.
pub(super) fn healthy(
    scene: &Scene<'_>,
    incidents: &[Incident],
    split: &BTreeSet<LegId>,
    generator_healthy: bool,
) -> Finding {
    let mut finding = Finding::default();
    let classes = &scene.all.classes;
    let all = classes.len() as f64;
    let inconclusive = classes.values().filter(|c| c.class == LegClass::Inconclusive).count() as f64;
    let max = scene.expect.inconclusive_share_max;
    if all > 0.0 && inconclusive / all > max {
        let share = number(inconclusive / all * 100.0);
        finding.open.push(format!("{share} % of legs are inconclusive (limit {} %)", number(max * 100.0)));
    }
    if !generator_healthy {
        finding.open.push("the generator was unhealthy".into());
    }
    if scene.frame.end.is_none() {
        finding.open.push("roomful crashed or was killed: the history has no end".into());
    }
    finding.open.extend(scene.all.damage().filter(|_| scene.frame.end == Some(false)));
    if classes.is_empty() {
        finding.open.push("not one leg was judged".into());
    }
    let Some(touch) = first_touch(scene, incidents) else {
        finding.basis = "nothing was done to the fleet".into();
        return finding;
    };
    let before = Window { from_ms: scene.frame.hold.from_ms, until_ms: touch };
    let (steady, wanted) = (touch - before.from_ms, ms(scene.expect.baseline));
    if steady < wanted {
        finding.open.push(format!(
            "the fleet was touched {} s into the hold, before the {} s of steady load that expect.baseline asks for",
            number((steady / 1000.0).max(0.0)),
            number(wanted / 1000.0)
        ));
    }
    let touched = touched(scene, incidents);
    let (mut early, mut control, mut control_bad) = (0u64, 0u64, Vec::new());
    let rooms_touched: BTreeSet<_> =
        touched.iter().flat_map(|s| scene.on(s).iter().filter(|s| s.until >= touch).map(|s| s.room)).collect();
    for (id, classed) in classes {
        let track = &scene.all.tracks.legs[id];
        // A glitch of a moment before the touch is another one's; the end of a leg belongs to when it was.
        if is_bad(classed.class) && before.overlap_ms(&classed.evidence) > 0.0 && classed.evidence.until_ms < touch {
            early += 1;
        }
        if track.joined.is_some() && track.room.is_some_and(|r| !rooms_touched.contains(&r)) {
            control += 1;
            if is_bad(classed.class) && classed.evidence.until_ms >= touch && !is_apart(scene, split, *id) {
                control_bad.push(*id);
            }
        }
    }
    if early > 0 {
        finding.open.push(format!("{} fell or broke off before anything was done", count(early, "leg", "legs")));
    }
    if !control_bad.is_empty() {
        let names: Vec<String> = control_bad.iter().take(3).map(|l| scene.leg_name(*l)).collect();
        finding.open.push(format!(
            "{} of {control} legs in rooms on servers that nothing was done to were not clean ({})",
            control_bad.len(),
            names.join(", ")
        ));
    }
    finding.basis = match control {
        0 => format!(
            "steady from {} to {}; no room outside to compare with, the reference flow was clean",
            clock(before.from_ms),
            clock(touch)
        ),
        n => format!(
            "steady from {} to {}; {} on other servers clean",
            clock(before.from_ms),
            clock(touch),
            count(n, "leg", "legs")
        ),
    };
    finding
}
