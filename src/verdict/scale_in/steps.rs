//! What of the plan was not done: what was never done put nobody at risk, and a rollback that failed leaves the fleet as it was.

use super::Finding;
use super::incident::{Incident, alive_at};
use super::record::Op;
use super::scene::Scene;
use crate::history::{NO_SEAT, StepAction, StepStage};
use crate::verdict::words::count;

/// What was said of a step is quoted up to here.
const WHY_CHARS_MAX: usize = 120;

/// Every step of the plan was done. One that was not is unknown and no fail: that is our failure, or nobody's.
pub(super) fn all_done(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let planned: Vec<&Op> = scene.record.ops.iter().filter(|o| !o.rollback).collect();
    if planned.is_empty() {
        return Finding::untested("no step was planned");
    }
    let mut finding = Finding::default();
    for op in &planned {
        let fate = match op.undone {
            // What Ctrl-C cut off is told as such.
            Some((_, StepStage::Skipped)) if scene.frame.end == Some(true) => continue,
            Some((_, StepStage::Skipped)) => "was skipped",
            // Joins that were tried are judged by themselves (I2, I13), and some are to be refused.
            Some(_) if op.action.is_join() && op.why != NO_SEAT => continue,
            _ if took_effect(op, incidents) => continue,
            Some(_) => "failed",
            None if op.done.is_some() => "did nothing",
            // The call may end with the run.
            None if op.action.is_join() || scene.frame.end != Some(false) => continue,
            None => "is not known to have been done",
        };
        finding.open.push(told(op, fate));
    }
    finding.basis = format!("{} done", count(planned.len() as u64, "step was", "steps were"));
    finding
}

/// True when an operation did what it was to do: it is said to be done or, where it was to end a server, that was seen.
pub(super) fn took_effect(op: &Op, incidents: &[Incident]) -> bool {
    let Some(at) = op.at().filter(|_| !matches!(op.undone, Some((_, StepStage::Skipped)))) else { return false };
    if !matches!(op.action, StepAction::Terminate | StepAction::Kill) {
        return op.undone.is_none() && op.done.is_some();
    }
    let of_server = |i: &&Incident| Some(&i.server) == op.server.as_ref() && i.from() <= at.t;
    incidents.iter().rfind(of_server).is_some_and(|i| i.terminate.is_some() || i.kill.is_some())
}

/// Rollbacks that failed on servers that are there: what they were to take back is still in force.
pub(super) fn rollbacks_failed(scene: &Scene<'_>, incidents: &[Incident]) -> Vec<String> {
    let still_there = |op: &&Op| {
        let Some(server) = &op.server else { return true };
        let ended = || incidents.iter().rfind(|i| i.server == *server).is_some_and(|i| i.ended(scene).is_some());
        alive_at(scene, server, scene.end_t()).unwrap_or_else(|| !ended())
    };
    let undone = |op: &&Op| op.rollback && op.done.is_none() && (op.undone.is_some() || scene.frame.end.is_some());
    let failed = scene.record.ops.iter().filter(undone).filter(still_there);
    failed.map(|op| format!("the rollback {}: the fleet is left as it was", told(op, "failed"))).collect()
}

/// `pause of s2 failed (HTTP 500)`.
fn told(op: &Op, fate: &str) -> String {
    let server = op.server.as_ref().map(|s| format!(" of {s}")).unwrap_or_default();
    let why: String = op.why.chars().take(WHY_CHARS_MAX).collect();
    let dots = if why.len() < op.why.len() { " …" } else { "" };
    let why = if why.is_empty() { why } else { format!(" ({why}{dots})") };
    format!("{}{server} {fate}{why}", op.action.as_str())
}
