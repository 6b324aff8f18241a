//! The fleet as JSON, which programs and services of the user print:
//! `{"servers": [{"server": "sfu-1", "alive": true, "sessions": 12, …}], "rooms": {"board-4": "sfu-1"}}`.

use super::Look;
use crate::history::ServerSeen;
use crate::outside;
use anyhow::{Result, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A key that is not known is an error: a misspelt `sessions` would read as "cannot be observed".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    servers: Vec<Server>,
    rooms: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    server: String,
    alive: Option<bool>,
    listed: Option<bool>,
    cordoned: Option<bool>,
    sessions: Option<u64>,
    participants: Option<u64>,
    headroom: Option<i64>,
    loss: Option<f64>,
    jitter_ms: Option<f64>,
}

/// # Errors
/// Anything else than such JSON, a server without a name or named twice, a loss that is no share.
pub(super) fn look(text: &str) -> Result<Look> {
    let told: Told = outside::json(text)?;
    let mut names = BTreeSet::new();
    for s in &told.servers {
        ensure!(!s.server.is_empty(), "a server without a name: {}", outside::quoted(text));
        ensure!(names.insert(&s.server), "server {:?} is there twice", s.server);
        ensure!(s.loss.is_none_or(|l| (0.0..=1.0).contains(&l)), "loss of {:?} is no share of 1", s.server);
    }
    let seen = |s: Server| ServerSeen {
        server: s.server,
        alive: s.alive,
        listed: s.listed,
        cordoned: s.cordoned,
        sessions: s.sessions,
        sessions_hint: None,
        participants: s.participants,
        headroom: s.headroom,
        loss: s.loss,
        jitter_ms: s.jitter_ms,
    };
    Ok(Look { servers: told.servers.into_iter().map(seen).collect(), rooms: told.rooms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_not_known_and_what_is_garbage_is_an_error() {
        let good = look("{\"servers\": [{\"server\": \"a\", \"sessions\": 0}], \"rooms\": {\"r\": \"a\"}}").unwrap();
        assert_eq!((good.servers[0].sessions, good.servers[0].alive), (Some(0), None));
        assert_eq!(good.rooms.unwrap()["r"], "a");
        assert_eq!(look("{\"servers\": []}").unwrap(), Look::default());
        for bad in [
            "",
            "[]",
            "{}",
            "{\"servers\": 3}",
            "{\"servers\": [{}]}",
            "{\"servers\": [{\"server\": \"\"}]}",
            "{\"servers\": [{\"server\": \"a\", \"session\": 3}]}",
            "{\"servers\": [{\"server\": \"a\", \"sessions\": -3}]}",
            "{\"servers\": [{\"server\": \"a\", \"sessions\": \"3\"}]}",
            "{\"servers\": [{\"server\": \"a\", \"loss\": 3}]}",
            "{\"servers\": [{\"server\": \"a\"}, {\"server\": \"a\"}]}",
            "{\"servers\": []} trailing",
        ] {
            assert!(look(bad).is_err(), "{bad}");
        }
    }
}
