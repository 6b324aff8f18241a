//! Where legs really landed, by whom their media met: each server has its certificate, and often an address of its own.

use super::scene::Scene;
use crate::types::{LegId, ServerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Landings {
    /// Legs whose server could be told by what their media met.
    pub compared: u64,
    /// Legs that were said to be on a server, and met another one.
    pub elsewhere: Vec<Elsewhere>,
    /// Servers that nothing tells from another one: one server under two names, or a certificate that several have.
    pub alike: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Elsewhere {
    /// As the driver or the join API named it.
    pub server: String,
    /// Whose certificate or address it was.
    pub met: String,
    /// `certificate` or `address`.
    pub by: &'static str,
    pub legs: u64,
    /// The first of them.
    pub first: String,
    #[serde(skip)]
    pub all: Vec<LegId>,
}

/// What servers can be told by, the surer first.
const MARKS: [&str; 2] = ["certificate", "address"];

pub(super) fn landings(scene: &Scene<'_>) -> Landings {
    let mut out = Landings::default();
    let mut told: BTreeSet<LegId> = BTreeSet::new();
    let mut found: BTreeMap<(ServerId, ServerId, &'static str), Vec<LegId>> = BTreeMap::new();
    for by in MARKS {
        let mut legs: Vec<(LegId, ServerId, &str)> = Vec::new();
        for (leg, track) in &scene.all.tracks.legs {
            let Some((_, server)) = track.joined else { continue };
            let mark = match by {
                "certificate" => track.certificate.as_deref(),
                // A port of the server's differs from leg to leg.
                _ => track.remote.as_deref().and_then(|r| r.rsplit_once(':')).map(|(ip, _)| ip),
            };
            legs.extend(mark.map(|m| (*leg, server, m)));
        }
        let owners = owners(&legs);
        let owning: BTreeSet<ServerId> = owners.values().copied().collect();
        for (leg, server, mark) in &legs {
            // Without a mark of its own a server cannot be told from the one that has this mark.
            let Some(owner) = owners.get(mark).filter(|_| owning.contains(server)) else { continue };
            if told.insert(*leg) && owner != server {
                found.entry((*server, *owner, by)).or_default().push(*leg);
            }
        }
        if by == "certificate" {
            let all: BTreeMap<ServerId, ServerId> =
                legs.iter().filter_map(|(_, s, m)| Some((*s, *owners.get(m)?))).collect();
            for (server, owner) in all.iter().filter(|(s, _)| !owning.contains(s)) {
                let [server, owner] = [server, owner].map(|s| scene.frame.server_name(*s));
                out.alike.push(format!(
                    "{server} shows the certificate of {owner}: one server under two names, or one certificate for both"
                ));
            }
        }
    }
    out.compared = told.len() as u64;
    out.elsewhere = found
        .into_iter()
        .map(|((server, met, by), all)| Elsewhere {
            server: scene.frame.server_name(server),
            met: scene.frame.server_name(met),
            by,
            legs: all.len() as u64,
            first: all.first().map(|l| scene.leg_name(*l)).unwrap_or_default(),
            all,
        })
        .collect();
    out
}

/// Each mark's server: the one with most legs that met it. A mark that two have alike often, or
/// that one leg alone met, is nobody's.
fn owners<'a>(legs: &[(LegId, ServerId, &'a str)]) -> BTreeMap<&'a str, ServerId> {
    let mut counts: BTreeMap<&str, BTreeMap<ServerId, u64>> = BTreeMap::new();
    for (_, server, mark) in legs {
        *counts.entry(mark).or_default().entry(*server).or_default() += 1;
    }
    let owner = |by: &BTreeMap<ServerId, u64>| {
        let most = by.values().max()?;
        // Stacks that make a certificate for each connection show one leg each.
        let mut first = by.iter().filter(|(_, n)| *n == most && **n > 1).map(|(s, _)| *s);
        first.next().filter(|_| first.next().is_none())
    };
    counts.iter().filter_map(|(mark, by)| Some((*mark, owner(by)?))).collect()
}
