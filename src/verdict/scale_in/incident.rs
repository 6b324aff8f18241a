//! When each server was cordoned, by whom we know it, and when it ended.

use super::record::{Op, Seen};
use super::scene::{LOOK_MS, Scene, ms};
use super::{At, Window};
use crate::history::{ServerSeen, StepAction, StepStage};
use crate::types::LegId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// For so long after an uncordon a view may still be an old one.
const ECHO_MS: f64 = 5000.0;
/// Who calls a server dead while calls go on there for so long, or until they call it alive again, is wrong.
const WRONG_MS: f64 = 5000.0;
/// What falls so soon after a server was killed fell with it: consent takes 30 s to be given up (RFC 7675).
pub(super) const FELL_WITH_MS: f64 = 35_000.0;

/// Who told that a server was cordoned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CordonSource {
    /// A step of this run.
    Step,
    /// `roomful mark`.
    Mark,
    /// What the fleet's registry or the server said of itself.
    Fleet,
}

/// One server taken away, or on its way; times in ms since the start of the run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Removal {
    pub server: String,
    pub cordoned: Option<f64>,
    pub acknowledged: Option<f64>,
    pub source: Option<CordonSource>,
    pub uncordoned: Option<f64>,
    /// Asked to end, or killed.
    pub terminated: Option<f64>,
    pub killed: bool,
    /// Last leg's end there by our own count.
    pub last_leave: Option<f64>,
    /// First look at which it was gone.
    pub ended: Option<f64>,
    /// From cordon to its end.
    pub drain: Option<f64>,
    /// Legs on it at cordon, and those that came later.
    pub exposed: u64,
    pub admitted: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Cordon {
    pub at: At,
    /// Acknowledged: from then on it holds.
    pub ack: At,
    pub source: CordonSource,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Uncordon {
    pub at: At,
    /// When it may have held already: the look before, or the moment that it was asked for.
    pub not_before: f64,
    pub rollback: bool,
    /// Nobody knows whether it holds.
    pub failed: bool,
}

/// A server's end lies between two looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    pub not_before: f64,
    pub at: At,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Incident {
    pub server: String,
    pub cordon: Option<Cordon>,
    pub uncordon: Option<Uncordon>,
    /// SIGTERM or SIGKILL by a step.
    pub terminate: Option<At>,
    pub kill: Option<At>,
    /// It was to be ended, and that failed or did nothing: no end, and nothing that the fleet did.
    pub vain: Option<(At, StepAction)>,
    /// A step was to terminate it, and did not come to that.
    pub terminate_skipped: bool,
    pub gone: Option<Gone>,
    pub exposed: Vec<LegId>,
    pub admitted: Vec<LegId>,
}

impl Incident {
    /// When it began to be taken away.
    pub fn from(&self) -> f64 {
        let cordon = self.cordon.as_ref().map(|c| c.at.t);
        let hit = self.terminate.into_iter().chain(self.kill).map(|a| a.t).reduce(f64::min);
        cordon.or(hit).or(self.gone.map(|g| g.not_before)).unwrap_or(0.0)
    }

    /// When it was over: uncordoned or gone, else with the history.
    pub fn until(&self, scene: &Scene<'_>) -> f64 {
        let ends = self.uncordon.map(|u| u.at.t).into_iter().chain(self.gone.map(|g| g.at.t));
        ends.reduce(f64::min).unwrap_or(scene.end_t())
    }

    /// It was, or was to be, ended for good.
    pub fn removes(&self) -> bool {
        self.terminate.is_some() || self.kill.is_some() || self.gone.is_some()
    }

    /// When it had ended by all that is known: seen gone, killed, or asked to end where nobody can see it.
    pub fn ended(&self, scene: &Scene<'_>) -> Option<f64> {
        let asked = self.terminate.filter(|_| !life_observed(scene, &self.server));
        self.gone.map(|g| g.at.t).into_iter().chain(self.kill.map(|k| k.t)).chain(asked.map(|a| a.t)).reduce(f64::min)
    }

    pub fn last_leave(&self, scene: &Scene<'_>) -> Option<f64> {
        let until = self.until(scene);
        let stays = scene.on(&self.server).iter().filter(|s| s.from <= until && s.until >= self.from());
        stays.map(|s| s.until).reduce(f64::max)
    }

    pub fn removal(&self, scene: &Scene<'_>) -> Removal {
        let from = self.cordon.as_ref().map(|c| c.at.t);
        let gone = self.gone.map(|g| g.at.t);
        Removal {
            server: self.server.clone(),
            cordoned: from,
            acknowledged: self.cordon.as_ref().map(|c| c.ack.t),
            source: self.cordon.as_ref().map(|c| c.source),
            uncordoned: self.uncordon.filter(|u| !u.failed).map(|u| u.at.t),
            terminated: self.kill.or(self.terminate).map(|a| a.t),
            killed: self.kill.is_some(),
            last_leave: self.last_leave(scene),
            ended: gone,
            drain: from.zip(gone).map(|(f, g)| crate::verdict::metrics::rounded(g - f)),
            exposed: self.exposed.len() as u64,
            admitted: self.admitted.len() as u64,
        }
    }
}

/// Legs that were up on a server when it began to be taken away.
pub(super) fn exposed(all: &[Incident]) -> BTreeSet<LegId> {
    all.iter().flat_map(|i| i.exposed.iter().copied()).collect()
}

/// Legs that came to a server after that, and were not exposed on another one.
pub(super) fn admitted(all: &[Incident]) -> BTreeSet<LegId> {
    let exposed = exposed(all);
    all.iter().flat_map(|i| i.admitted.iter().copied()).filter(|l| !exposed.contains(l)).collect()
}

/// Servers that something was done to: neither they nor their rooms are the control group.
pub(super) fn touched(scene: &Scene<'_>, all: &[Incident]) -> BTreeSet<String> {
    let by_ops = scene.record.ops.iter().filter(|o| o.happened() && !joins(o.action)).filter_map(|o| o.server.clone());
    by_ops.chain(all.iter().map(|i| i.server.clone())).collect()
}

pub(super) fn joins(action: StepAction) -> bool {
    matches!(action, StepAction::JoinExisting | StepAction::JoinNew)
}

/// The first moment at which anything was done to the fleet, ms.
pub(super) fn first_touch(scene: &Scene<'_>, all: &[Incident]) -> Option<f64> {
    let ops = scene.record.ops.iter().filter(|o| o.happened() && !joins(o.action)).filter_map(|o| o.at().map(|a| a.t));
    ops.chain(all.iter().map(Incident::from)).reduce(f64::min)
}

/// What happened to one server.
#[derive(Clone, Copy, Debug)]
enum What {
    Cordon { ack: At, source: CordonSource },
    Uncordon { not_before: f64, rollback: bool, failed: bool },
    Terminate { failed: bool },
    Kill { failed: bool },
    Skipped,
    Gone { not_before: f64 },
    Back,
}

/// All of them, in the order of their beginnings.
pub(super) fn incidents(scene: &Scene<'_>) -> Vec<Incident> {
    let mut all: BTreeMap<String, Vec<(At, What)>> = BTreeMap::new();
    for op in &scene.record.ops {
        let Some(server) = &op.server else { continue };
        all.entry(server.clone()).or_default().extend(of_op(op));
    }
    for (at, action, server) in &scene.record.marks {
        let what = match action {
            StepAction::Cordon => What::Cordon { ack: *at, source: CordonSource::Mark },
            StepAction::Uncordon => What::Uncordon { not_before: at.t, rollback: false, failed: false },
            StepAction::Terminate => What::Terminate { failed: false },
            StepAction::Kill => What::Kill { failed: false },
            _ => continue,
        };
        all.entry(server.clone()).or_default().push((*at, what));
    }
    let names: BTreeSet<&String> = scene.record.backends.iter().flat_map(|b| b.servers.keys()).collect();
    for name in names {
        let told = all.entry(name.clone()).or_default();
        told.extend(cordons_told(scene, name));
        told.extend(lives(scene, name));
    }
    let mut out: Vec<Incident> = Vec::new();
    for (server, mut events) in all {
        events.sort_by(|a, b| a.0.t.total_cmp(&b.0.t).then(a.0.line.cmp(&b.0.line)));
        out.extend(walk(scene, &server, &events));
    }
    for incident in &mut out {
        weigh_hits(scene, incident);
    }
    // A server that was only tried at was not touched.
    out.retain(|i| i.cordon.is_some() || i.removes());
    for incident in &mut out {
        attach_legs(scene, incident);
    }
    out.sort_by(|a, b| a.from().total_cmp(&b.from()).then_with(|| a.server.cmp(&b.server)));
    out
}

fn of_op(op: &Op) -> Option<(At, What)> {
    if let Some((at, StepStage::Skipped)) = op.undone {
        return matches!(op.action, StepAction::Terminate | StepAction::Kill).then_some((at, What::Skipped));
    }
    let at = op.at()?;
    let what = match op.action {
        // One that failed may have taken effect all the same: nothing is held against the fleet by it.
        StepAction::Cordon => What::Cordon { ack: op.done?, source: CordonSource::Step },
        StepAction::Uncordon => What::Uncordon { not_before: at.t, rollback: op.rollback, failed: op.undone.is_some() },
        StepAction::Terminate => What::Terminate { failed: op.undone.is_some() },
        StepAction::Kill => What::Kill { failed: op.undone.is_some() },
        _ => return None,
    };
    // Uncordon holds from its acknowledgement on.
    let at = if op.action == StepAction::Uncordon { op.done.unwrap_or(at) } else { at };
    Some((at, what))
}

/// Nobody of ours took a server away: the user's own autoscaler is watched.
pub(super) fn observe_only(scene: &Scene<'_>) -> bool {
    !scene.record.ops.iter().any(|o| !joins(o.action))
}

/// Cordons that only the fleet's own state shows: it says so, or the registry offers the server no longer.
fn cordons_told(scene: &Scene<'_>, server: &str) -> Vec<(At, What)> {
    let mut out = Vec::new();
    // Where we cordon, a live server that the registry misses is the registry's fault.
    let by_list = observe_only(scene);
    for backend in &scene.record.backends {
        let Some(seen) = backend.servers.get(server) else { continue };
        let says = |s: &Seen| match (s.is.cordoned, s.is.listed, s.known) {
            (Some(cordoned), _, true) => Some(cordoned),
            (None, Some(listed), true) if by_list => Some(!listed),
            (None, None, true) if by_list => backend.is_discovery().then_some(false),
            (_, _, false) if by_list => backend.is_discovery().then_some(true),
            _ => None,
        };
        for pair in seen.windows(2) {
            match (says(&pair[0]), says(&pair[1])) {
                // Gone altogether is an end, not a cordon; and gone while calls go on, an error.
                (Some(false), Some(true))
                    if alive_at(scene, server, pair[1].at.t) != Some(false)
                        && proven(scene, server, pair[1].at.t).is_none() =>
                {
                    let ack = pair[1].at;
                    out.push((ack, What::Cordon { ack, source: CordonSource::Fleet }));
                }
                (Some(true), Some(false)) => {
                    let not_before = pair[1].before;
                    out.push((pair[1].at, What::Uncordon { not_before, rollback: false, failed: false }));
                }
                _ => {}
            }
        }
    }
    out
}

/// Backends whose word on life counts: not the registry's, where others have one.
fn life_backends<'a>(scene: &'a Scene<'_>, server: &'a str) -> impl Iterator<Item = &'a super::record::Backend> {
    let tells = move |b: &&super::record::Backend| {
        b.servers.get(server).is_some_and(|all| all.iter().any(|s| s.is.alive.is_some()))
    };
    let others = scene.record.backends.iter().any(|b| !b.is_discovery() && tells(&b));
    scene.record.backends.iter().filter(move |b| tells(b) && (!others || !b.is_discovery()))
}

/// Whether a server runs: as the fleet says, unless its calls' media prove that wrong.
pub(super) fn alive_at(scene: &Scene<'_>, server: &str, t: f64) -> Option<bool> {
    let mut said = life_backends(scene, server).filter_map(|b| b.at(server, t)?.is.alive);
    let first = said.next()?;
    Some(first && said.all(|a| a) || proven(scene, server, t).is_some())
}

/// The time around this moment in which somebody called a server dead that lived.
fn proven<'a>(scene: &'a Scene<'_>, server: &str, t: f64) -> Option<&'a Proof> {
    scene.proven.get(server)?.iter().find(|p| p.w.from_ms <= t && t < p.w.until_ms)
}

/// A time in which a server that is called dead lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    w: Window,
    /// What was said is plainly wrong, not early.
    wrong: bool,
}

/// Times in which a server is called dead, or is missing from what alone tells of life, while calls that were on it go on
/// with their media. An end that these only delay stays one.
pub(super) fn proofs_of_life(scene: &Scene<'_>) -> BTreeMap<String, Vec<Proof>> {
    let names: BTreeSet<&String> = scene.record.backends.iter().flat_map(|b| b.servers.keys()).collect();
    let mut out: BTreeMap<String, Vec<Proof>> = BTreeMap::new();
    for name in names {
        for backend in life_backends(scene, name) {
            let said = life_told(backend, name);
            let mut from: Option<f64> = None;
            let end = [(f64::INFINITY, true)];
            for (t, alive) in said.iter().map(|(s, alive)| (s.at.t, *alive)).chain(end) {
                if !alive {
                    from.get_or_insert(t);
                    continue;
                }
                let Some(dead) = from.take() else { continue };
                let Some(heard) = scene.heard_until(name, dead).map(|h| h.min(t)) else { continue };
                let wrong = heard - dead >= WRONG_MS || t - heard <= WRONG_MS;
                let until_ms = if wrong { t } else { heard + LOOK_MS };
                out.entry(name.clone()).or_default().push(Proof { w: Window { from_ms: dead, until_ms }, wrong });
            }
        }
    }
    out
}

/// What a backend says of a server's life, as it changes.
fn life_told<'a>(backend: &'a super::record::Backend, server: &str) -> Vec<(&'a Seen, bool)> {
    let told = |s: &'a Seen| Some((s, s.is.alive.or((!s.known && backend.is_discovery()).then_some(false))?));
    backend.servers.get(server).into_iter().flatten().filter_map(told).collect()
}

/// The last look that saw it running, up to a time.
pub(super) fn last_seen_alive(scene: &Scene<'_>, server: &str, until: f64) -> Option<f64> {
    let looks = life_backends(scene, server).flat_map(|b| {
        let alive = |l: &&At| l.t <= until && b.at(server, l.t).is_some_and(|s| s.is.alive == Some(true));
        b.looks.iter().rev().find(alive).map(|l| l.t)
    });
    looks.reduce(f64::max)
}

/// True when some backend tells whether this server runs.
pub(super) fn life_observed(scene: &Scene<'_>, server: &str) -> bool {
    life_backends(scene, server).next().is_some()
}

fn lives(scene: &Scene<'_>, server: &str) -> Vec<(At, What)> {
    let mut out = Vec::new();
    for backend in life_backends(scene, server) {
        let mut was = None;
        for (seen, alive) in life_told(backend, server) {
            let proof = proven(scene, server, seen.at.t).filter(|_| !alive);
            let alive = alive || proof.is_some_and(|p| p.wrong);
            // It lived so much longer than was said.
            let lived = proof.map_or(0.0, |p| p.w.until_ms);
            match (was, alive) {
                (Some(true), false) => {
                    let at = At { t: seen.at.t.max(lived), ..seen.at };
                    out.push((at, What::Gone { not_before: seen.before.max(lived - LOOK_MS) }));
                }
                (Some(false), true) => out.push((seen.at, What::Back)),
                _ => {}
            }
            was = Some(alive);
        }
    }
    out
}

fn walk(scene: &Scene<'_>, server: &str, events: &[(At, What)]) -> Vec<Incident> {
    let mut done = Vec::new();
    let mut open: Option<Incident> = None;
    let new = || Incident { server: server.to_owned(), ..Incident::default() };
    // After everybody has left, the run takes its own fleet down.
    let over = scene.frame.hold.until_ms;
    for &(at, what) in events {
        let closed = open.as_ref().is_some_and(|i| i.gone.is_some() || i.uncordon.is_some());
        match what {
            What::Cordon { ack, source } => {
                if closed {
                    // What the registry still says of a server that is gone, or was just uncordoned, is no new cordon.
                    let echo = |i: &Incident| i.gone.is_some() || i.uncordon.is_some_and(|u| at.t < u.at.t + ECHO_MS);
                    if source == CordonSource::Fleet && open.as_ref().is_some_and(echo) {
                        continue;
                    }
                    done.extend(open.take());
                }
                let incident = open.get_or_insert_with(new);
                incident.cordon.get_or_insert(Cordon { at, ack, source });
            }
            What::Uncordon { not_before, rollback, failed } => {
                // A mark that the rollback takes off a server which was to end leaves its end as it was.
                let ends = |i: &&mut Incident| rollback && (i.terminate.is_some() || i.kill.is_some());
                if let Some(incident) = open.as_mut().filter(|_| !closed).filter(|i| !ends(i)) {
                    incident.uncordon = Some(Uncordon { at, not_before, rollback, failed });
                }
            }
            What::Terminate { failed } | What::Kill { failed } => {
                if closed {
                    done.extend(open.take());
                }
                let incident = open.get_or_insert_with(new);
                let killed = matches!(what, What::Kill { .. });
                let slot = if killed { &mut incident.kill } else { &mut incident.terminate };
                if failed {
                    let action = if killed { StepAction::Kill } else { StepAction::Terminate };
                    incident.vain.get_or_insert((at, action));
                } else {
                    slot.get_or_insert(at);
                }
            }
            What::Skipped => {
                if let Some(incident) = open.as_mut().filter(|_| !closed) {
                    incident.terminate_skipped = true;
                }
            }
            What::Gone { not_before } => {
                if open.as_ref().is_some_and(|i| i.gone.is_some()) || ((closed || open.is_none()) && at.t > over) {
                    continue;
                }
                if closed {
                    done.extend(open.take());
                }
                open.get_or_insert_with(new).gone = Some(Gone { not_before, at });
            }
            What::Back => {
                if closed {
                    done.extend(open.take());
                }
            }
        }
    }
    done.extend(open);
    done
}

/// What was to end a server counts by its effect: what failed may have had one all the same, and what is said to be done
/// had none where the server is seen alive well after.
fn weigh_hits(scene: &Scene<'_>, incident: &mut Incident) {
    let server = incident.server.clone();
    let fell_with = |at: At| {
        let fell = |s: &super::scene::Stay| {
            let end = scene.all.tracks.legs.get(&s.leg).and_then(|t| t.end.as_ref());
            end.is_some_and(|e| e.cause.is_drop() && e.at.t == s.until)
        };
        let near = at.t - LOOK_MS..=at.t + FELL_WITH_MS;
        scene.on(&server).iter().any(|s| near.contains(&s.until) && near.contains(&s.media_until) && fell(s))
    };
    let well_after = ms(scene.expect.allowance).max(LOOK_MS) + slow_to_tell(scene, &server);
    let lived_on = |at: At| {
        let seen = last_seen_alive(scene, &server, f64::INFINITY).is_some_and(|t| t > at.t + well_after);
        seen || scene.heard_until(&server, at.t).is_some_and(|t| t > at.t + well_after)
    };
    if let Some(kill) = incident.kill.filter(|k| incident.gone.is_none() && !fell_with(*k) && lived_on(*k)) {
        (incident.kill, incident.vain) = (None, Some((kill, StepAction::Kill)));
        return;
    }
    let Some((at, action)) = incident.vain.filter(|_| incident.kill.is_none() && incident.terminate.is_none()) else {
        return;
    };
    let worked = match incident.gone {
        Some(gone) => gone.not_before <= at.t + FELL_WITH_MS,
        None => action == StepAction::Kill && fell_with(at) && !lived_on(at),
    };
    if worked {
        let slot = if action == StepAction::Kill { &mut incident.kill } else { &mut incident.terminate };
        (*slot, incident.vain) = (Some(at), None);
    }
}

/// How long after a server's end those who tell of life may still call it alive: a registry lets entries expire.
fn slow_to_tell(scene: &Scene<'_>, server: &str) -> f64 {
    let by_registry = life_backends(scene, server).any(super::record::Backend::is_discovery);
    if by_registry { ms(scene.expect.registry_ttl) } else { 0.0 }
}

fn attach_legs(scene: &Scene<'_>, incident: &mut Incident) {
    let (from, until) = (incident.from(), incident.until(scene));
    let span = Window { from_ms: from, until_ms: until };
    for stay in scene.on(&incident.server) {
        if stay.from <= from && stay.until > from {
            incident.exposed.push(stay.leg);
        } else if stay.from > span.from_ms && stay.from < span.until_ms {
            incident.admitted.push(stay.leg);
        }
    }
}

/// Whether a backend lists a server as one to send rooms to.
pub(super) fn offers(seen: &Seen) -> Option<bool> {
    let ServerSeen { listed, cordoned, .. } = seen.is;
    match (seen.known, listed, cordoned) {
        (false, _, _) => Some(false),
        (true, Some(listed), _) => Some(listed),
        (true, None, Some(cordoned)) => Some(!cordoned),
        (true, None, None) => None,
    }
}
