//! Pure: did taking servers away end anybody's call, do new calls go where they should, does anything remain behind?
//! The invariants I0–I13 and their evidence, from a history. Definitions: docs/measurement.md.

mod audit; // what the fleet says of itself, against what we saw
mod drains; // I3, I4, I7
mod expected; // servers that had to be removed or added
mod faults; // servers that were paused or cut off
mod fleet; // I5, I8
mod incident; // when each server was cordoned, and when it ended
mod landing; // where legs really landed
mod oracle; // I0
mod others; // I9, I10, I13
mod placement; // I1, I2, I6, I11
mod record; // what the history says of fleet and operations
mod relays; // I12
mod scene; // stays on servers, and rooms, as we saw them
mod sentence;
mod steps; // whether the plan was carried out
mod view; // what the report draws

pub use audit::{Audit, AuditRow};
pub use incident::{CordonSource, Removal};
pub use landing::{Elsewhere, Landings};
pub use view::{Bar, ServerLine, View};

pub(super) use record::Recorder;

use super::frame::Frame;
use super::gather::Gathered;
use super::legs::{At, LegClass};
use super::{Verdict, Window};
use crate::profile::Expect;
use crate::types::LegId;
use scene::Scene;
use serde::Serialize;
use std::collections::BTreeMap;

/// Pieces of evidence of one invariant that are kept; more are counted.
const EVIDENCE_MAX: usize = 20;
/// Legs and rooms that one piece names; the rest is counted.
const NAMED_MAX: usize = 50;

/// `scale_in` of the summary. Times in ms since the start of the run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ScaleIn {
    pub verdict: Verdict,
    /// In one line.
    #[serde(skip)]
    pub sentence: String,
    /// Why not pass.
    #[serde(skip)]
    pub reasons: Vec<String>,
    /// Legs that were up on a server when it was cordoned, paused or cut off.
    pub exposed_legs: u64,
    pub removals: Vec<Removal>,
    pub invariants: Vec<Invariant>,
    pub drain: Drain,
    /// Longest gap of a leg that was exposed, or admitted to such a server later.
    pub longest_gap: Option<f64>,
    /// These legs by class.
    pub classes: BTreeMap<&'static str, u64>,
    pub flags: Flags,
    pub audit: Audit,
    /// Rollbacks that failed on servers that are there.
    #[serde(skip)]
    pub rollbacks_failed: Vec<String>,
    #[serde(skip)]
    pub view: View,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Drain {
    /// Longest time from cordon to the end of a server.
    pub max: Option<f64>,
}

/// Legs that have a flag beside their class.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Flags {
    /// It lost its signalling and got it back, media going on.
    pub signaling_resumed: u64,
    /// Still seen by the fleet after its end and the allowance.
    pub ghost: u64,
    /// Its room was on more than one server at once.
    pub split: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Invariant {
    /// `I0` … `I13`; `removed`, `exposed`, `steps` and `scale_out` for what `[expect]` asks for beside them.
    pub id: &'static str,
    pub title: &'static str,
    pub verdict: Verdict,
    /// False where nothing in this run puts it to the test, or the profile skips it: it decides nothing then.
    pub judged: bool,
    /// Why it is unknown, or not judged; what a pass rests on.
    pub why: String,
    pub evidence: Vec<Evidence>,
    /// Pieces of evidence beyond those that are listed.
    pub evidence_more: u64,
}

/// What was seen, and where anybody can look it up.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Evidence {
    pub what: String,
    pub server: Option<String>,
    pub rooms: Vec<String>,
    pub legs: Vec<String>,
    /// Of which the lists above name the first 50.
    pub legs_total: u64,
    #[serde(rename = "from")]
    pub from_ms: f64,
    #[serde(rename = "until")]
    pub until_ms: f64,
    /// Of history.jsonl, from 1.
    pub lines: Vec<u64>,
    /// What a person on that call noticed.
    pub noticed: String,
}

impl Evidence {
    fn new(what: impl Into<String>, w: Window) -> Evidence {
        Evidence { what: what.into(), from_ms: w.from_ms, until_ms: w.until_ms, ..Evidence::default() }
    }

    fn on(mut self, server: &str) -> Evidence {
        self.server = Some(server.to_owned());
        self
    }

    fn lines(mut self, lines: impl IntoIterator<Item = u64>) -> Evidence {
        self.lines.extend(lines.into_iter().filter(|l| *l > 0));
        self.lines.sort_unstable();
        self.lines.dedup();
        self.lines.truncate(NAMED_MAX);
        self
    }

    fn legs(mut self, scene: &Scene<'_>, legs: &[LegId]) -> Evidence {
        self.legs_total = legs.len() as u64;
        self.legs = legs.iter().take(NAMED_MAX).map(|l| scene.leg_name(*l)).collect();
        let mut rooms: Vec<String> = legs.iter().filter_map(|l| scene.room_of(*l)).collect();
        rooms.extend(std::mem::take(&mut self.rooms));
        rooms.sort();
        rooms.dedup();
        rooms.truncate(NAMED_MAX);
        self.rooms = rooms;
        let ends = legs.iter().filter_map(|l| Some(scene.all.tracks.legs.get(l)?.end.as_ref()?.at.line));
        let ends: Vec<u64> = ends.take(NAMED_MAX).collect();
        self.lines(ends)
    }

    fn noticed(mut self, text: impl Into<String>) -> Evidence {
        self.noticed = text.into();
        self
    }
}

/// A checker's result before it has its name.
#[derive(Default)]
struct Finding {
    evidence: Vec<Evidence>,
    /// What could not be known.
    open: Vec<String>,
    /// What a pass rests on.
    basis: String,
    /// Nothing in this run puts it to the test, and why.
    untested: Option<String>,
}

impl Finding {
    fn untested(why: impl Into<String>) -> Finding {
        Finding { untested: Some(why.into()), ..Finding::default() }
    }

    fn unknown(why: impl Into<String>) -> Finding {
        Finding { open: vec![why.into()], ..Finding::default() }
    }

    fn invariant(self, id: &'static str, title: &'static str, expect: &Expect) -> Invariant {
        let skipped = expect.skip.iter().any(|s| s == id);
        let more = self.evidence.len().saturating_sub(EVIDENCE_MAX) as u64;
        let mut evidence = self.evidence;
        evidence.truncate(EVIDENCE_MAX);
        let failed = !evidence.is_empty();
        let (verdict, judged, why) = match (skipped, failed, self.untested) {
            (true, _, _) => (Verdict::Unknown, false, "skipped by the profile".to_owned()),
            (false, true, _) => (Verdict::Fail, true, self.basis),
            (false, false, Some(why)) => (Verdict::Unknown, false, why),
            (false, false, None) if !self.open.is_empty() => (Verdict::Unknown, true, some(&self.open)),
            (false, false, None) => (Verdict::Pass, true, self.basis),
        };
        if skipped {
            evidence.clear();
        }
        Invariant { id, title, verdict, judged, why, evidence, evidence_more: if skipped { 0 } else { more } }
    }
}

/// The first few, and how many more.
fn some(all: &[String]) -> String {
    let mut unique: Vec<&String> = Vec::new();
    for text in all {
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    let shown: Vec<&str> = unique.iter().take(3).map(|s| s.as_str()).collect();
    let more = unique.len().saturating_sub(3);
    shown.join("; ") + &if more > 0 { format!("; and {more} more") } else { String::new() }
}

/// Judges what a history says of a scale-in.
pub(super) fn judge(
    frame: &Frame,
    all: &Gathered,
    recorder: Recorder,
    expect: &Expect,
    generator_healthy: bool,
) -> ScaleIn {
    let record = recorder.finish(frame);
    let scene = Scene::new(frame, all, &record, expect);
    let incidents = incident::incidents(&scene);
    let faults = faults::faults(&scene);
    let exposed = &incident::exposed(&incidents) | &faults::exposed(&faults);
    let admitted = &(&incident::admitted(&incidents) | &faults::admitted(&faults)) - &exposed;
    let (i5, ghosts) = fleet::sessions(&scene, &incidents);
    let (i6, split) = placement::affinity(&scene);
    let landings = landing::landings(&scene);
    let of = |finding: Finding, id, title| finding.invariant(id, title, expect);
    let mut invariants = vec![
        of(oracle::healthy(&scene, &incidents, &split, generator_healthy), "I0", "the judge can be trusted"),
        of(placement::no_new_rooms(&scene, &incidents), "I1", "no room starts on a cordoned server"),
        of(placement::late_joiners(&scene, &incidents), "I2", "late joiners go where join_policy says"),
        of(drains::outlives_its_calls(&scene, &incidents), "I3", "a server lives until its last call is over"),
        of(drains::calls_end_clean(&scene, &incidents, &faults, &split), "I4", "every call at risk ends clean"),
        of(i5, "I5", "the fleet counts who is there, and no ghosts"),
        of(i6, "I6", "a room is on one server"),
        of(drains::ends_in_time(&scene, &incidents), "I7", "a drained server ends in time"),
        of(fleet::registry(&scene, &incidents, &landings), "I8", "the registry is sound"),
        of(others::unharmed(&scene, &incidents), "I9", "calls on other servers are unharmed"),
        of(others::herd(&scene), "I10", "those who fell come back in a bounded herd"),
        of(placement::rooms_again(&scene, &incidents), "I11", "after uncordon a server gets rooms again"),
        of(relays::outlive(&scene, &incidents), "I12", "TURN allocations live as long as their calls"),
        of(others::enough_servers(&scene, &incidents), "I13", "enough servers serve, and no accepted join fails"),
    ];
    invariants.extend(expected::rows(&scene, &incidents, &faults));
    let at_risk: Vec<LegId> = exposed.iter().chain(&admitted).copied().collect();
    let mut classes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for leg in &at_risk {
        *classes.entry(all.classes.get(leg).map_or("open", |c| c.class.as_str())).or_default() += 1;
    }
    let gap = |leg: &LegId| {
        let class = all.classes.get(leg)?;
        let own = all.tracks.legs.get(leg)?.end.as_ref()?.longest.length_ms();
        Some(if class.class == LegClass::Clean { own } else { class.ms().max(own) })
    };
    let longest_gap = at_risk.iter().filter_map(gap).reduce(f64::max).map(super::metrics::rounded);
    let resumed = |t: &&super::legs::Track| t.resumed;
    let flags = Flags {
        signaling_resumed: all.tracks.legs.values().filter(resumed).count() as u64,
        ghost: ghosts,
        split: split.len() as u64,
    };
    let removals: Vec<Removal> = incidents.iter().map(|i| i.removal(&scene)).collect();
    let drain = removals.iter().filter_map(|r| r.drain).reduce(f64::max);
    let mut out = ScaleIn {
        verdict: Verdict::Unknown,
        sentence: String::new(),
        reasons: Vec::new(),
        exposed_legs: exposed.len() as u64,
        removals,
        invariants,
        drain: Drain { max: drain },
        longest_gap,
        classes,
        flags,
        audit: audit::audit(&scene, landings),
        rollbacks_failed: steps::rollbacks_failed(&scene, &incidents),
        view: view::view(&scene, &incidents, &at_risk),
    };
    (out.verdict, out.sentence, out.reasons) = sentence::sentence(&out, &scene, &incidents, &faults);
    out
}
