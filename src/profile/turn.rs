//! `[ice]` and `[[turn]]`: who is relayed, and through which TURN servers.

use super::error::Errors;
use super::read::{Parts, View};
use super::resolved::{ExternalTarget, Ice, Size, Target, TurnEntry};
use super::tree::{Node, Value};
use super::units::{print_duration, print_percent};
use super::write::quote;
use crate::types::Via;
use std::fmt::Write as _;

/// Ports of RFC 7065 3.1 where the URL has none.
const PORT: u16 = 3478;
const PORT_TLS: u16 = 5349;

pub(super) fn ice(v: &mut View<'_>) -> Option<Ice> {
    let (relay, lifetime) = (v.share_or("relay"), v.duration("lifetime"));
    let (release, wrong_password) = (v.flag("release"), v.share("wrong_password"));
    Some(Ice { relay: relay?, lifetime: lifetime?, release: release?, wrong_password: wrong_password? })
}

type Check<'a> = &'a dyn Fn(&str, &str) -> Result<(), String>;
type Url<'a> = &'a dyn Fn(&str, &[&str]) -> Result<String, String>;

/// One `[[turn]]`. `granted` says whether a host may be loaded.
pub(super) fn server(v: &mut View<'_>, granted: Check<'_>, url: Url<'_>) -> Option<TurnEntry> {
    let id = v.name("id", 60, |c| !c.is_control() && !c.is_whitespace());
    let way = v.parsed("url", |text| {
        let way = parse(text)?;
        granted(text, &way.0)?;
        Ok((text.trim().to_owned(), way))
    });
    let weight = v.number("weight");
    let mut optional = |key: &str| if v.node(key).is_some() { v.text(key).map(Some) } else { Some(None) };
    let [username, password_from, secret_from, pid_file] =
        ["username", "password_from", "secret_from", "pid_file"].map(&mut optional);
    let metrics = if v.node("metrics").is_some() {
        v.parsed("metrics", |t| url(t, &["http", "https"])).map(Some)
    } else {
        Some(None)
    };
    let cores = super::target::cores(v);
    let cli = match v.node("cli") {
        None => Some(None),
        Some(_) => v.parsed("cli", |t| {
            let address: Result<std::net::SocketAddr, _> = t.trim().parse();
            address.map(|a| Some(a.to_string())).map_err(|_| format!("{t:?} is no address; write \"10.77.0.3:5766\""))
        }),
    };
    let drain = v.flag("drain");
    let statsdb = match v.node("statsdb") {
        None => Some(None),
        Some(_) => v.parsed("statsdb", |t| url(t, &["redis", "rediss"])).map(Some),
    };
    if let (Some(true), Some(None)) = (drain, &cli) {
        v.wrong("drain", "needs `cli`: it is a word of coturn's CLI");
    }
    match (&username, &password_from, &secret_from) {
        (_, Some(Some(_)), Some(Some(_))) => {
            v.wrong("secret_from", "with `password_from`: keep one, as the server makes its credentials");
        }
        (_, Some(None), Some(None)) => {
            v.wrong("", "gives no credentials: `password_from` or `secret_from` names a secret under [secrets]");
        }
        (Some(None), Some(Some(_)), _) => v.wrong("password_from", "needs its `username`"),
        _ => {}
    }
    let (url, (host, port, via)) = way?;
    Some(TurnEntry {
        id: id?,
        url,
        host,
        port,
        via,
        weight: weight?,
        username: username?,
        password_from: password_from?,
        secret_from: secret_from?,
        pid_file: pid_file?,
        metrics: metrics?,
        cores: cores?,
        cli: cli?,
        drain: drain?,
        statsdb: statsdb?,
    })
}

/// `turn:host[:port][?transport=udp|tcp]`, `turns:host[:port][?transport=tcp]` (RFC 7065 3.1).
fn parse(text: &str) -> Result<(String, u16, Via), String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "{:?} is no address of a TURN server; write \"turn:10.77.0.3:3478\", with ?transport=tcp behind it, or \
             \"turns:turn.example:5349\"",
            crate::types::mask_url(text)
        )
    };
    let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (authority, query) = rest.split_once('?').map_or((rest, None), |(a, q)| (a, Some(q)));
    let via = match (scheme, query) {
        ("turn", None | Some("transport=udp")) => Via::Udp,
        ("turn", Some("transport=tcp")) => Via::Tcp,
        ("turns", None | Some("transport=tcp")) => Via::Tls,
        ("turns", Some("transport=udp")) => {
            return Err("TURN over DTLS is not supported: turns: is TLS over TCP".into());
        }
        _ => return Err(wrong()),
    };
    let (host, port) = super::target::authority(authority).map_err(|e| e.unwrap_or_else(wrong))?;
    let bad = |c: char| !(c.is_ascii_alphanumeric() || "-._:".contains(c));
    if host.contains(bad) {
        return Err(wrong());
    }
    let port = match port {
        None if via == Via::Tls => PORT_TLS,
        None => PORT,
        Some(p) => p.parse().ok().filter(|p| *p > 0).ok_or_else(wrong)?,
    };
    Ok((host.to_ascii_lowercase(), port, via))
}

/// What needs the profile and its target together.
pub(super) fn fit(parts: &Parts, target: Option<&Target>, tree: &Node, errors: &mut Errors) {
    let top = tree.as_table();
    let at = |key: &str| top.and_then(|t| t.get(key)).map_or(&tree.at, |n| &n.at);
    let Some(Target::External(t)) = target else { return };
    let pairs = t.connects_pairs();
    if t.turn.is_empty() && (parts.ice.relay > 0.0 || pairs) {
        let key = if pairs { "target_file" } else { "ice" };
        errors.push(at(key), key, "somebody is to be relayed, but the target file has no TURN server: add a [[turn]]");
    }
    if !t.turn.is_empty() && t.turn.iter().all(|s| s.weight <= 0.0) {
        errors.push(at("target_file"), "turn", "every weight is 0: nobody knows where to begin");
    }
    for (i, s) in t.turn.iter().enumerate() {
        for name in [&s.password_from, &s.secret_from].into_iter().flatten() {
            if !t.secrets.contains_key(name) && !is_written(tree, name) {
                errors.push(at("target_file"), format!("turn[{i}]"), format!("there is no {name:?} under [secrets]"));
            }
        }
    }
    if pairs {
        for (i, _) in parts.rooms.iter().enumerate().filter(|(_, r)| r.size != Size::Fixed(2)) {
            let node = top.and_then(|t| t.get("rooms")).map(|n| &n.value);
            let at = match node {
                Some(Value::Array(items)) => items.get(i).map_or(&tree.at, |n| &n.at),
                _ => &tree.at,
            };
            errors.push(at, format!("rooms[{i}].size"), "driver turn connects pairs: rooms of 2");
        }
    }
}

/// The secret stands in the file, though it was not looked up.
fn is_written(tree: &Node, name: &str) -> bool {
    let inside = |n: &Node, key: &str| n.as_table().and_then(|t| t.get(key)).cloned();
    let secrets = inside(tree, "target_file").and_then(|n| inside(&n, "secrets"));
    secrets.is_some_and(|n| inside(&n, name).is_some())
}

pub(super) fn write_ice(i: &Ice) -> String {
    let relay = match i.relay {
        0.0 => quote("none"),
        1.0 => quote("only"),
        share => quote(&print_percent(share)),
    };
    format!(
        "\n[ice]\nrelay = {relay}\nlifetime = {}\nrelease = {}\nwrong_password = {}",
        quote(&print_duration(i.lifetime)),
        i.release,
        quote(&print_percent(i.wrong_password))
    )
}

pub(super) fn write_servers(out: &mut String, t: &ExternalTarget) {
    // Writing to a String cannot fail.
    for s in &t.turn {
        let _ = writeln!(out, "\n[[target_file.turn]]\nid = {}\nurl = {}", quote(&s.id), quote(&s.url));
        let _ = writeln!(out, "weight = {}\ndrain = {}", s.weight, s.drain);
        let texts = [
            ("username", &s.username),
            ("password_from", &s.password_from),
            ("secret_from", &s.secret_from),
            ("pid_file", &s.pid_file),
            ("metrics", &s.metrics),
            ("cli", &s.cli),
            ("statsdb", &s.statsdb),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", quote(value));
            }
        }
        if let Some(cores) = s.cores {
            let _ = writeln!(out, "cores = {cores}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_rfc_7065() {
        let good = [
            ("turn:10.77.0.3", ("10.77.0.3", 3478, Via::Udp)),
            ("turn:10.77.0.3:99?transport=udp", ("10.77.0.3", 99, Via::Udp)),
            ("turn:Turn.example?transport=tcp", ("turn.example", 3478, Via::Tcp)),
            ("turns:turn.example", ("turn.example", 5349, Via::Tls)),
            ("turns:[fd00::1]:443?transport=tcp", ("fd00::1", 443, Via::Tls)),
        ];
        for (text, (host, port, via)) in good {
            assert_eq!(parse(text), Ok((host.to_owned(), port, via)), "{text}");
        }
        for bad in [
            "",
            "turn:",
            "turn://h",
            "stun:h",
            "turn:h:0",
            "turn:h:x",
            "turn:[fd00::1",
            "turn:h?transport=sctp",
            "turns:h?transport=udp",
            "turn:u@h",
            "turn:h h",
            "http://h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
