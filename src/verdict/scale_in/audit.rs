//! What the fleet says of itself against what we saw: an autoscaler acts on the former.

use super::landing::Landings;
use super::record::Backend;
use super::scene::{Scene, ms};
use crate::verdict::Window;
use crate::verdict::metrics::rounded;
use serde::Serialize;

#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Audit {
    /// Exported numbers beside ours, by backend and server.
    pub exported: Vec<AuditRow>,
    /// Rooms that the registry has on a server, with members of ours at the same time; and of these, elsewhere.
    pub rooms_compared: u64,
    pub rooms_elsewhere: u64,
    /// Rooms that the registry keeps although nobody of ours has been in them for its TTL.
    pub rooms_stale: u64,
    /// Looks that failed, by backend: they say nothing about the fleet.
    pub failed_looks: Vec<FailedLooks>,
    /// Servers that answer where another one did before, or that a join API calls by another one's name.
    pub renamed: Vec<String>,
    /// Where media says that legs landed.
    pub landings: Landings,
}

/// One exported number of one server, mean over the looks at which both are known.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AuditRow {
    pub backend: String,
    pub server: String,
    /// `sessions`, `sessions_hint`, `participants`, `loss` (percent), `jitter` (ms), `headroom`.
    pub metric: &'static str,
    pub exported: f64,
    /// Ours at the same moments; for headroom, participants.
    pub ours: f64,
    /// Largest difference at any look.
    pub off_max: f64,
    pub looks: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FailedLooks {
    pub backend: String,
    pub count: u64,
    /// The first.
    pub error: String,
}

pub(super) fn audit(scene: &Scene<'_>, landings: Landings) -> Audit {
    let mut out = Audit { landings, ..Audit::default() };
    for backend in &scene.record.backends {
        // One that discovers and observes tells the same twice.
        let twice = scene.record.backends.iter().any(|b| b.name == backend.name && !b.is_discovery());
        for server in backend.servers.keys().filter(|_| !(backend.is_discovery() && twice)) {
            rows(scene, backend, server, &mut out.exported);
        }
        if let Some((_, error)) = backend.errors.first() {
            let (backend, count) = (backend.name.clone(), backend.errors.len() as u64);
            out.failed_looks.push(FailedLooks { backend, count, error: error.clone() });
        }
        rooms(scene, backend, &mut out);
    }
    let urls: Vec<(&String, &String)> = scene.record.urls.iter().collect();
    for (n, (server, url)) in urls.iter().enumerate() {
        for (other, _) in urls[..n].iter().filter(|(_, u)| u == url) {
            out.renamed.push(format!("{other} and {server} answer at {url}: one server under two ids"));
        }
    }
    out.renamed.extend(scene.record.misnamed.iter().cloned());
    out
}

fn rows(scene: &Scene<'_>, backend: &Backend, server: &str, out: &mut Vec<AuditRow>) {
    let id = scene.id(server);
    let seconds = id.and_then(|id| scene.record.seconds.get(&id)).map_or(&[][..], Vec::as_slice);
    let mut sums: Vec<(&'static str, f64, f64, f64, u64)> =
        ["sessions", "sessions_hint", "participants", "loss", "jitter", "headroom"]
            .map(|m| (m, 0.0, 0.0, 0.0, 0))
            .to_vec();
    for look in &backend.looks {
        let Some(seen) = backend.at(server, look.t).filter(|s| s.known) else { continue };
        // The second that ended last, if that was just now.
        let second = seconds[..seconds.partition_point(|s| s.t <= look.t + 500.0)].last();
        // Of a second in which the generator was in trouble, ours may be short of somebody.
        let sound = |s: &&super::record::Second| !scene.frame.inconclusive(&Window::ending(s.t, s.seconds));
        let second = second.filter(|s| look.t - s.t < 2000.0).filter(sound);
        let Some(second) = second else { continue };
        let ours = f64::from(second.participants);
        let loss = (second.expected > 0)
            .then(|| second.expected.saturating_sub(second.received).max(0) as f64 / second.expected as f64 * 100.0);
        // A TURN server's session is an allocation.
        let sessions = match scene.allocations.get(server) {
            Some(all) => all.iter().filter(|a| a.from <= look.t && look.t < a.until).count() as f64,
            None => ours * scene.expect.sessions_per_leg,
        };
        let pairs = [
            (seen.is.sessions.map(|n| n as f64), Some(sessions)),
            (seen.is.sessions_hint.map(|n| n as f64), Some(sessions)),
            (seen.is.participants.map(|n| n as f64), Some(ours)),
            (seen.is.loss.map(|l| l * 100.0), loss),
            (seen.is.jitter_ms, second.jitter_ms),
            (seen.is.headroom.map(|n| n as f64), Some(ours)),
        ];
        for (sum, (theirs, ours)) in sums.iter_mut().zip(pairs) {
            let (Some(theirs), Some(ours)) = (theirs, ours) else { continue };
            sum.1 += theirs;
            sum.2 += ours;
            sum.3 = sum.3.max((theirs - ours).abs());
            sum.4 += 1;
        }
    }
    for (metric, exported, ours, off_max, looks) in sums.into_iter().filter(|s| s.4 > 0) {
        let n = looks as f64;
        let (backend, server) = (backend.name.clone(), server.to_owned());
        let (exported, ours) = (rounded(exported / n), rounded(ours / n));
        // Headroom and participants are not to be equal.
        let off_max = if metric == "headroom" { 0.0 } else { rounded(off_max) };
        out.push(AuditRow { backend, server, metric, exported, ours, off_max, looks });
    }
}

fn rooms(scene: &Scene<'_>, backend: &Backend, out: &mut Audit) {
    if backend.rooms.is_empty() {
        return;
    }
    let ttl = ms(scene.expect.registry_ttl) + ms(scene.expect.linger);
    for room in scene.rooms.keys() {
        let Some(changes) = backend.rooms.get(&scene.room_name(*room)) else { continue };
        for (n, (at, server)) in changes.iter().enumerate() {
            let Some(server) = server else { continue };
            let until = changes.get(n + 1).map_or(scene.end_t(), |c| c.0.t);
            let own = scene.id(server);
            let there = |s: &&(crate::types::ServerId, &super::scene::Stay)| s.1.from < until && s.1.media_until > at.t;
            let stays: Vec<_> = scene.in_room(*room).collect();
            out.rooms_compared += u64::from(stays.iter().any(|s| there(&s)));
            out.rooms_elsewhere += u64::from(stays.iter().filter(there).any(|s| Some(s.0) != own));
            let last = stays.iter().filter(there).map(|s| s.1.until).fold(at.t, f64::max);
            out.rooms_stale += u64::from(until > last + ttl);
        }
    }
}
