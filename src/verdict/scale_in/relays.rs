//! I12: allocations on TURN servers live until they are given back, and who is refused one by a server that is being
//! drained finds another.

use super::incident::Incident;
use super::record::Record;
use super::scene::{Scene, Stay, ms};
use super::{At, Evidence, Finding};
use crate::history::{Relay, RelayWhat};
use crate::types::LegId;
use crate::verdict::Window;
use crate::verdict::gather::Gathered;
use crate::verdict::words::count;
use std::collections::BTreeMap;

/// Stays on TURN servers, by their names, in the order of their beginnings: an allocation each.
pub(super) fn allocations(all: &Gathered, record: &Record) -> BTreeMap<String, Vec<Stay>> {
    let mut stays: BTreeMap<String, Vec<Stay>> = BTreeMap::new();
    let mut open: BTreeMap<(LegId, u8, &str), usize> = BTreeMap::new();
    for (at, r) in &record.relays {
        let Some(room) = all.tracks.legs.get(&r.leg).and_then(|t| t.room) else { continue };
        let key = (r.leg, r.slot, r.turn.as_str());
        let of_server = stays.entry(r.turn.clone()).or_default();
        match r.what {
            RelayWhat::Allocated => {
                open.insert(key, of_server.len());
                let (until, asked) = (record.end_t, at.t - r.ms.unwrap_or(0.0));
                of_server.push(Stay {
                    leg: r.leg,
                    room,
                    from: at.t,
                    until,
                    media_until: until,
                    asked,
                    moved: [false; 2],
                    line: at.line,
                });
            }
            RelayWhat::Lost | RelayWhat::Released | RelayWhat::Abandoned => {
                if let Some(n) = open.remove(&key) {
                    (of_server[n].until, of_server[n].media_until) = (at.t, at.t);
                }
            }
            RelayWhat::Refused | RelayWhat::Unreachable | RelayWhat::Redirected => {}
        }
    }
    stays
}

pub(super) fn outlive(scene: &Scene<'_>, incidents: &[Incident]) -> Finding {
    let relays = &scene.record.relays;
    if relays.is_empty() {
        return Finding::untested("nobody came by a TURN server");
    }
    let mut finding = Finding::default();
    let mut lost: BTreeMap<&str, Vec<&(At, Relay)>> = BTreeMap::new();
    for line in relays.iter().filter(|(_, r)| r.what == RelayWhat::Lost) {
        lost.entry(&line.1.turn).or_default().push(line);
    }
    for (server, lines) in &lost {
        let legs: Vec<LegId> = lines.iter().map(|(_, r)| r.leg).collect();
        let times = lines.iter().map(|(at, _)| at.t);
        let w = Window {
            from_ms: times.clone().fold(f64::INFINITY, f64::min),
            until_ms: times.fold(f64::NEG_INFINITY, f64::max),
        };
        let why = lines.iter().find_map(|(_, r)| Some(format!("{} {}", r.code?, r.detail.as_deref()?)));
        let why = why.unwrap_or_else(|| "no answer".to_owned());
        let n = legs.len() as u64;
        let what = format!(
            "{server} had {} no more before {} given back: {why}",
            count(n, "allocation", "allocations"),
            if n == 1 { "it was" } else { "they were" }
        );
        let evidence = Evidence::new(what, w).on(server).legs(scene, &legs).lines(lines.iter().map(|(at, _)| at.line));
        finding.evidence.push(evidence.noticed("the call stood still until it had found another way, or fell"));
    }
    let allowance = ms(scene.expect.allowance);
    let mut cordoned = 0u64;
    let (mut turned_away, mut elsewhere) = (0u64, 0u64);
    for i in incidents {
        let Some(cordon) = &i.cordon else { continue };
        let touches = relays.iter().any(|(_, r)| r.turn == i.server);
        if !touches {
            continue;
        }
        cordoned += 1;
        let (from, until) = (cordon.ack.t + allowance, i.until(scene));
        for (at, r) in relays.iter().filter(|(at, r)| r.turn == i.server && at.t >= from && at.t <= until) {
            let w = Window { from_ms: at.t, until_ms: at.t };
            match r.what {
                RelayWhat::Allocated => {
                    let what = format!("{} gave a new allocation though it was being drained", i.server);
                    let evidence = Evidence::new(what, w).on(&i.server).legs(scene, &[r.leg]).lines([at.line]);
                    finding.evidence.push(evidence.noticed("nothing yet: the drain has one call more to wait for"));
                }
                RelayWhat::Refused | RelayWhat::Redirected | RelayWhat::Unreachable => {
                    turned_away += 1;
                    let found = relays.iter().any(|(later, o)| {
                        later.t >= at.t && o.leg == r.leg && o.slot == r.slot && o.what == RelayWhat::Allocated
                    });
                    if found {
                        elsewhere += 1;
                    } else {
                        let what =
                            format!("{} turned a participant away, and no other server gave an allocation", i.server);
                        let evidence = Evidence::new(what, w).on(&i.server).legs(scene, &[r.leg]).lines([at.line]);
                        finding.evidence.push(evidence.noticed("could not get into the call"));
                    }
                }
                RelayWhat::Lost | RelayWhat::Released | RelayWhat::Abandoned => {}
            }
        }
    }
    let given = relays.iter().filter(|(_, r)| r.what == RelayWhat::Allocated).count() as u64;
    let taken_away = incidents.iter().any(|i| i.removes() && scene.allocations.contains_key(&i.server));
    if finding.evidence.is_empty() && cordoned == 0 && !taken_away {
        return Finding::untested(format!(
            "{} were there, but no TURN server was drained or taken away",
            count(given, "allocation", "allocations")
        ));
    }
    finding.basis = format!(
        "{} lived until given back; {turned_away} turned away by a server in its drain, {elsewhere} of them served elsewhere",
        count(given, "allocation", "allocations")
    );
    finding
}
