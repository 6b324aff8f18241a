//! What steps did to servers that were not to end by it: they were paused or cut off, or lost their registry. Whoever was
//! up there is at risk as well.

use super::At;
use super::incident::FELL_WITH_MS;
use super::record::Op;
use super::scene::{Scene, ms};
use crate::history::StepAction;
use crate::types::LegId;
use crate::verdict::legs::{Classed, LegClass};
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// `None`: the registry, and with it all servers.
    pub server: Option<String>,
    action: StepAction,
    at: At,
    /// When it was ended by a step, else the end of the history, ms.
    until: f64,
    pub exposed: Vec<LegId>,
    /// Those that came while it lasted.
    pub admitted: Vec<LegId>,
}

/// What becomes of a leg by a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// It has to do with something else.
    None,
    /// The gap that the fault is, and no more.
    Gap,
    Bad,
}

impl Fault {
    /// Of a class that is not clean.
    pub fn share(&self, scene: &Scene<'_>, classed: &Classed) -> Share {
        let w = &classed.evidence;
        let fell = matches!(classed.class, LegClass::Dropped | LegClass::Reconnected);
        let reach = if fell { FELL_WITH_MS } else { 0.0 };
        if w.until_ms < self.at.t || w.from_ms > self.until + ms(scene.expect.allowance) + reach {
            return Share::None;
        }
        // Calls cannot go on while their server stands still or their media are cut off; that they end is another thing.
        let stops =
            matches!(self.action, StepAction::Pause | StepAction::PartitionMedia | StepAction::PartitionSignaling);
        let gap = matches!(classed.class, LegClass::Glitched | LegClass::OneWay | LegClass::UncleanLeave);
        if stops && gap { Share::Gap } else { Share::Bad }
    }
}

/// By what an action of this kind is ended.
fn ends(action: StepAction) -> Option<StepAction> {
    match action {
        StepAction::Pause => Some(StepAction::Resume),
        StepAction::PartitionSignaling | StepAction::PartitionMedia | StepAction::PartitionRegistry => {
            Some(StepAction::Heal)
        }
        StepAction::RegistryPause => Some(StepAction::RegistryResume),
        _ => None,
    }
}

/// In the order of their beginnings. What failed is none: nobody knows what it did.
pub(super) fn faults(scene: &Scene<'_>) -> Vec<Fault> {
    let mut out = Vec::new();
    for op in scene.record.ops.iter().filter(|o| o.undone.is_none()) {
        let at_once = matches!(op.action, StepAction::RegistryFlush | StepAction::RegistryRestart);
        let (Some(at), end) = (op.at(), ends(op.action)) else { continue };
        if end.is_none() && !at_once {
            continue;
        }
        let ended = |o: &&Op| Some(o.action) == end && o.server == op.server && o.at().is_some_and(|e| e.t > at.t);
        let until = scene.record.ops.iter().filter(ended).filter_map(|o| Some(o.done.or(o.at())?.t)).reduce(f64::min);
        let until = if at_once { at.t } else { until.unwrap_or(scene.end_t()) };
        let server = op.server.clone().filter(|_| !op.action.is_of_registry());
        let mut fault = Fault { server, action: op.action, at, until, exposed: Vec::new(), admitted: Vec::new() };
        let stays = match &fault.server {
            Some(server) => scene.on(server).iter().collect::<Vec<_>>(),
            None => scene.stays.values().flatten().collect(),
        };
        for stay in stays {
            if stay.from <= at.t && stay.until > at.t {
                fault.exposed.push(stay.leg);
            } else if stay.from > at.t && stay.from < until && fault.server.is_some() {
                fault.admitted.push(stay.leg);
            }
        }
        out.push(fault);
    }
    out
}

pub(super) fn exposed(all: &[Fault]) -> BTreeSet<LegId> {
    all.iter().flat_map(|f| f.exposed.iter().copied()).collect()
}

pub(super) fn admitted(all: &[Fault]) -> BTreeSet<LegId> {
    all.iter().flat_map(|f| f.admitted.iter().copied()).collect()
}
