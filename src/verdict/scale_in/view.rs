//! What the report draws: a line of time for each server, and the legs on it as bars.

use super::incident::{Incident, touched};
use super::scene::Scene;
use super::steps::took_effect;
use crate::types::LegId;
use crate::verdict::Window;
use crate::verdict::legs::{LegClass, noticed};
use std::collections::{BTreeMap, BTreeSet};

/// Bars of one report; the worst and those at risk come first.
const BARS_MAX: usize = 400;
/// Points of one curve.
const POINTS_MAX: usize = 600;

#[derive(Clone, PartialEq, Default, Debug)]
pub struct View {
    /// Whole run, ms.
    pub until_ms: f64,
    pub servers: Vec<ServerLine>,
    /// By server, then by beginning.
    pub bars: Vec<Bar>,
    pub bars_left_out: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ServerLine {
    pub name: String,
    /// Legs by our own count: time in ms, and how many.
    pub ours: Vec<(f64, u32)>,
    /// By what the fleet says, with the name of who says it.
    pub fleet: Option<(String, Vec<(f64, f64)>)>,
    /// Cordoned, and drained of this, ms.
    pub cordons: Vec<Window>,
    /// Asked to end or killed, gone, uncordoned and whatever else was done: time and word.
    pub marks: Vec<(f64, &'static str)>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    pub leg: String,
    pub room: String,
    pub server: String,
    pub from_ms: f64,
    pub until_ms: f64,
    pub class: Option<LegClass>,
    /// What decided the class, where there was anything.
    pub evidence: Option<Window>,
    pub noticed: String,
    pub at_risk: bool,
}

pub(super) fn view(scene: &Scene<'_>, incidents: &[Incident], at_risk: &[LegId]) -> View {
    let at_risk: BTreeSet<LegId> = at_risk.iter().copied().collect();
    let names: BTreeSet<String> = scene
        .frame
        .servers
        .values()
        .cloned()
        .chain(scene.record.backends.iter().flat_map(|b| b.servers.keys().cloned()))
        .chain(touched(scene, incidents))
        .collect();
    let servers = names.iter().map(|n| server_line(scene, incidents, n)).collect();
    let mut bars: Vec<(u8, Bar)> = Vec::new();
    for (id, stays) in &scene.stays {
        let server = scene.frame.server_name(*id);
        for stay in stays {
            let classed = scene.all.classes.get(&stay.leg);
            let class = classed.map(|c| c.class);
            let bad = class.is_none_or(|c| !matches!(c, LegClass::Clean));
            let risk = at_risk.contains(&stay.leg);
            let rank = match (bad, risk) {
                (true, true) => 0,
                (true, false) => 1,
                (false, true) => 2,
                (false, false) => 3,
            };
            let cause = scene.all.tracks.legs.get(&stay.leg).and_then(|t| t.end.as_ref()).map(|e| e.cause);
            let text = classed.map_or_else(
                || "still in the call when the history ended".into(),
                |c| noticed(c, cause, c.about.map(|l| scene.leg_name(l)).as_deref()),
            );
            let bar = Bar {
                leg: scene.leg_name(stay.leg),
                room: scene.room_name(stay.room),
                server: server.clone(),
                from_ms: stay.from,
                until_ms: stay.until,
                class,
                evidence: classed.filter(|_| bad).map(|c| c.evidence),
                noticed: text,
                at_risk: risk,
            };
            bars.push((rank, bar));
        }
    }
    bars.sort_by_key(|(rank, _)| *rank);
    let bars_left_out = bars.len().saturating_sub(BARS_MAX) as u64;
    bars.truncate(BARS_MAX);
    let mut bars: Vec<Bar> = bars.into_iter().map(|(_, bar)| bar).collect();
    bars.sort_by(|a, b| (&a.server, &a.room).cmp(&(&b.server, &b.room)).then(a.from_ms.total_cmp(&b.from_ms)));
    View { until_ms: scene.end_t(), servers, bars, bars_left_out }
}

fn server_line(scene: &Scene<'_>, incidents: &[Incident], name: &str) -> ServerLine {
    let mut changes: BTreeMap<u64, i64> = BTreeMap::new();
    for stay in scene.on(name) {
        // Whole ms are more than a picture shows.
        *changes.entry(stay.from.max(0.0) as u64).or_default() += 1;
        *changes.entry(stay.until.max(0.0) as u64).or_default() -= 1;
    }
    let mut n = 0i64;
    let ours: Vec<(f64, u32)> = changes
        .into_iter()
        .map(|(t, change)| {
            n += change;
            (t as f64, n.max(0) as u32)
        })
        .collect();
    let unit = scene.expect.sessions_per_leg;
    let fleet = scene.record.backends.iter().find_map(|b| {
        let points: Vec<(f64, f64)> = b
            .servers
            .get(name)?
            .iter()
            .filter_map(|s| {
                let sessions = s.is.sessions.filter(|_| unit > 0.0).map(|n| n as f64 / unit);
                Some((s.at.t, s.is.participants.map(|n| n as f64).or(sessions)?))
            })
            .collect();
        (!points.is_empty()).then(|| (b.name.clone(), thin(points)))
    });
    let own: Vec<&Incident> = incidents.iter().filter(|i| i.server == name).collect();
    let mut marks = Vec::new();
    for op in scene.record.ops.iter().filter(|o| o.server.as_deref() == Some(name) && took_effect(o, incidents)) {
        if let Some(at) = op.at() {
            marks.push((at.t, op.action.as_str()));
        }
    }
    let told = scene.record.marks.iter().filter(|(_, _, server)| server == name);
    marks.extend(told.map(|(at, action, _)| (at.t, action.as_str())));
    for i in &own {
        marks.extend(i.gone.map(|g| (g.at.t, "gone")));
        if let Some(c) = i.cordon.as_ref().filter(|c| c.source == super::CordonSource::Fleet) {
            marks.push((c.at.t, "cordon"));
        }
    }
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let cordons = own
        .iter()
        .filter_map(|i| Some(Window { from_ms: i.cordon.as_ref()?.at.t, until_ms: i.until(scene) }))
        .collect();
    ServerLine { name: name.to_owned(), ours: thin(ours), fleet, cordons, marks }
}

/// Every so many points, and the last.
fn thin<T: Copy>(points: Vec<T>) -> Vec<T> {
    let every = points.len().div_ceil(POINTS_MAX).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(n, _)| n % every == 0 || *n == last).map(|(_, p)| *p).collect()
}
