//! Target files: where a profile's load goes, and what has to be granted before it may.

use super::error::{Errors, Origin};
use super::keys::join;
use super::read::{self, View, distinct};
use super::resolved::{EMBEDDED_DRIVER, ExternalTarget, Secret, ServerEntry, TURN_DRIVER};
use super::tree::{Node, Value};
use crate::types::{Simulcast, has_mask, mask_url, may_stand_in_url};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The one list of drivers, for this module, which knows their names only, and for `signaling`, which has them. A new
/// driver is a file there and a line here.
macro_rules! drivers {
    ($each:ident) => {
        $each! {
            embedded, // our own fleet, one offer and one answer over HTTP
            janus, // Janus VideoRoom over WebSocket
            turn, // TURN servers themselves: pairs, signalled in process
        }
    };
}
pub(crate) use drivers;

macro_rules! names {
    ($($driver:ident,)*) => { &[$(stringify!($driver)),*] };
}

/// Drivers a target file may name.
pub const DRIVERS: &[&str] = drivers!(names);

/// Networks that need no `authorized = true`: loopback, RFC 1918, link-local, RFC 4193.
const PRIVATE: [(&str, u8); 9] = [
    ("127.0.0.0", 8),
    ("10.0.0.0", 8),
    ("172.16.0.0", 12),
    ("192.168.0.0", 16),
    ("169.254.0.0", 16),
    ("::1", 128),
    ("fc00::", 7),
    ("fe80::", 10),
    ("::ffff:127.0.0.0", 104),
];

/// True for addresses that may be loaded without `authorized = true`.
pub fn is_private(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    network_is_private(ip, if ip.is_ipv4() { 32 } else { 128 })
}

fn network_is_private(network: IpAddr, prefix: u8) -> bool {
    PRIVATE.iter().any(|(block, bits)| {
        block.parse().is_ok_and(|block: IpAddr| *bits <= prefix && mask(network, *bits) == Some(block))
    })
}

/// The network of an address; `None` where the prefix is longer than the address.
fn mask(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(v4) if prefix <= 32 => {
            let keep = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Some(IpAddr::V4((u32::from(v4) & keep).into()))
        }
        IpAddr::V6(v6) if prefix <= 128 => {
            let keep = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Some(IpAddr::V6((u128::from(v6) & keep).into()))
        }
        _ => None,
    }
}

/// Where a secret comes from; the value itself is elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SecretSource {
    Literal,
    Env { name: String, optional: bool },
    File { path: String, optional: bool },
}

/// What the loader needs of its surroundings to find secrets.
pub(super) struct Secrets<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) read: &'a dyn Fn(&Path) -> Result<String, String>,
    /// Folder that paths of secrets are relative to.
    pub(super) folder: PathBuf,
    /// False when judging again: nothing is looked up.
    pub(super) wanted: bool,
}

/// Reads a completed target table. `path` stands before its keys in errors.
pub(super) fn read(
    node: &Node,
    path: &str,
    surroundings: &Secrets<'_>,
    errors: &mut Errors,
) -> Option<(ExternalTarget, BTreeMap<String, SecretSource>)> {
    let mut v = View::new(node, "target_file", path.to_owned(), errors)?;
    let driver = v.text("driver").and_then(|d| {
        if DRIVERS.contains(&d.as_str()) {
            return Some(d);
        }
        v.wrong("driver", format!("there is no driver {d:?}; this version has {}", DRIVERS.join(", ")));
        None
    });
    let authorized = v.flag("authorized");
    let tls_verify = v.flag("tls_verify");
    let simulcast = v.word("simulcast").and_then(|w| Simulcast::ALL.into_iter().find(|s| s.as_str() == w));
    let may = authorized == Some(true);
    let granted = |what: &str, private: bool| match private || may {
        true => Ok(()),
        false => {
            Err(format!("{what} is outside loopback and private ranges; if you may load it, say so: authorized = true"))
        }
    };
    let allow = v.list("allow", |text| {
        let network = parse_network(text)?;
        granted(text, network_is_private(network.0, network.1))?;
        Ok(network)
    });
    let url = |text: &str, schemes: &[&str]| {
        let host = parse_url_of(text, schemes)?;
        // A name is judged when it has been resolved, not here.
        if let Ok(ip) = host.parse() {
            granted(&mask_url(text), is_private(ip))?;
        }
        if surroundings.wanted && has_mask(text) {
            return Err("has *** where this profile was written without its secrets; put them in again".into());
        }
        Ok(text.trim().to_owned())
    };
    let director = match v.node("director") {
        None => Some(None),
        Some(_) => v.parsed("director", |t| url(t, &["http", "https"])).map(Some),
    };
    let own_fleet = driver.as_deref() == Some(EMBEDDED_DRIVER);
    if driver.is_some() && !own_fleet && v.node("director").is_some() {
        v.wrong("director", "is for driver = \"embedded\": no other one has a director");
    }
    let pairs = driver.as_deref() == Some(TURN_DRIVER);
    match (pairs, v.node("servers").is_some()) {
        (true, true) => v.wrong("servers", "driver turn has none: its servers are the [[turn]]"),
        (false, false) if driver.is_some() => v.wrong("", "has no server: write at least one [[servers]]"),
        _ => {}
    }
    let servers = if pairs {
        Some(Vec::new())
    } else {
        v.each("servers", |v| {
            let id = v.name("id", 60, |c| !c.is_control() && !c.is_whitespace());
            let [address, admin, metrics] = ["url", "admin", "metrics"].map(|key| v.parsed(key, |t| url(t, SCHEMES)));
            let wrong = |v: &View<'_>, key: &str, none: bool| none && v.node(key).is_some();
            let pid_file = if v.node("pid_file").is_some() { Some(v.text("pid_file")?) } else { None };
            let observe = v.list("observe", |text| Ok(text.to_owned()));
            let cores = cores(v);
            (!wrong(v, "admin", admin.is_none()) && !wrong(v, "metrics", metrics.is_none())).then_some(())?;
            Some(ServerEntry { id: id?, url: address?, admin, pid_file, metrics, observe: observe?, cores: cores? })
        })
    };
    let turn = match v.node("turn") {
        None => Some(Vec::new()),
        Some(_) => v.each("turn", |v| {
            super::turn::server(
                v,
                &|text, host| match host.parse() {
                    Ok(ip) => granted(&mask_url(text), is_private(ip)),
                    // A name is judged when it has been resolved.
                    Err(_) => Ok(()),
                },
                &url,
            )
        }),
    };
    let fleet = read::fleet::fleet(&mut v, driver.as_deref(), servers.as_deref().zip(turn.as_deref()), &url);
    let join_hook = read::fleet::join(&mut v, &url);
    if own_fleet && v.node("join").is_some() {
        v.wrong("join", "is not for driver = \"embedded\": its director says where participants go");
    }
    let peer_relayed = v.word("peer").map(|w| w == "relayed");
    let secrets = secrets(&mut v, path, surroundings);
    distinct(node, "servers", "id", v.errors);
    let (values, sources) = secrets?;
    let target = ExternalTarget {
        driver: driver?,
        director: director?,
        servers: servers?,
        fleet: fleet?,
        join: join_hook?,
        turn: turn?,
        peer_relayed: peer_relayed?,
        allow: allow?,
        secrets: values,
        authorized: authorized?,
        tls_verify: tls_verify?,
        simulcast: simulcast?,
    };
    Some((target, sources))
}

/// Cores that a server may use; the inner `None` leaves it to what is observed.
pub(super) fn cores(v: &mut View<'_>) -> Option<Option<f64>> {
    if v.node("cores").is_some() { v.number("cores").map(Some) } else { Some(None) }
}

type SecretsRead = (BTreeMap<String, Secret>, BTreeMap<String, SecretSource>);

fn secrets(v: &mut View<'_>, path: &str, surroundings: &Secrets<'_>) -> Option<SecretsRead> {
    let table = v.node("secrets")?.as_table()?;
    let before = v.errors.len();
    let (mut values, mut sources) = (BTreeMap::new(), BTreeMap::new());
    for entry in &table.0 {
        let key = join(&join(path, "secrets"), &entry.key);
        let source = match secret_source(&entry.node) {
            Ok(source) => source,
            Err((at, why)) => {
                v.errors.push(at, key, why);
                continue;
            }
        };
        if surroundings.wanted {
            match look_up(&source, &entry.node, surroundings) {
                Ok(Some(value)) => {
                    values.insert(entry.key.clone(), Secret(value));
                }
                Ok(None) => {}
                Err(why) => v.errors.push(&entry.node.at, key, why),
            }
        }
        sources.insert(entry.key.clone(), source);
    }
    (v.errors.len() == before).then_some((values, sources))
}

fn secret_source(node: &Node) -> Result<SecretSource, (&Origin, String)> {
    const FORMS: &str = "write a text, { env = \"NAME\" } or { file = \"path\" }";
    let table = match &node.value {
        Value::Text(_) => return Ok(SecretSource::Literal),
        Value::Table(table) => table,
        _ => return Err((&node.at, format!("{FORMS}, not {}", node.describe()))),
    };
    if let Some(odd) = table.0.iter().find(|e| !["env", "file", "optional"].contains(&e.key.as_str())) {
        return Err((&odd.node.at, format!("unknown key `{}`; {FORMS}", odd.key)));
    }
    let optional = match table.get("optional").map(|n| (&n.at, &n.value)) {
        None => false,
        Some((_, Value::Flag(flag))) => *flag,
        Some((at, _)) => return Err((at, "`optional` is true or false".into())),
    };
    let text =
        |key: &str| table.get(key).map(|n| n.as_text().filter(|t| !t.is_empty()).ok_or((&n.at, FORMS.to_owned())));
    match (text("env"), text("file")) {
        (Some(name), None) => {
            let name = name?;
            match name.contains(['=', '\0']) {
                true => Err((&node.at, format!("{name:?} is no name of an environment variable"))),
                false => Ok(SecretSource::Env { name: name.to_owned(), optional }),
            }
        }
        (None, Some(path)) => Ok(SecretSource::File { path: path?.to_owned(), optional }),
        (Some(_), Some(_)) => Err((&node.at, "has both env and file; keep one".into())),
        (None, None) => Err((&node.at, FORMS.into())),
    }
}

fn look_up(source: &SecretSource, node: &Node, surroundings: &Secrets<'_>) -> Result<Option<String>, String> {
    match source {
        SecretSource::Literal => Ok(node.as_text().map(str::to_owned)),
        SecretSource::Env { name, optional } => match (surroundings.env)(name) {
            Some(value) if value.is_empty() => Err(format!("the environment variable {name} is empty")),
            Some(value) => Ok(Some(value)),
            None if *optional => Ok(None),
            None => Err(format!("the environment variable {name} is not set")),
        },
        SecretSource::File { path, optional } => match (surroundings.read)(&surroundings.folder.join(path)) {
            Ok(text) if text.trim().is_empty() => Err(format!("the file {path} is empty")),
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(_) if *optional => Ok(None),
            Err(why) => Err(format!("the file {path} cannot be read: {why}")),
        },
    }
}

/// `10.0.0.0/8`, `fd00::/8`, or one address. Bits behind the prefix are cleared.
fn parse_network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{text:?} is no network; write \"10.77.0.0/24\" or one address");
    let (address, prefix) = match text.trim().split_once('/') {
        Some((a, p)) => (a, Some(p.parse::<u8>().map_err(|_| wrong())?)),
        None => (text.trim(), None),
    };
    let ip: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix = prefix.unwrap_or(if ip.is_ipv4() { 32 } else { 128 });
    mask(ip, prefix).map(|network| (network, prefix)).ok_or_else(wrong)
}

/// Schemes of a server's addresses.
const SCHEMES: &[&str] = &["ws", "wss", "http", "https"];

/// Host, without brackets, and port of a URL's authority. Errors: a secret rides along, or (`None`) it is no authority.
pub(super) fn authority(text: &str) -> Result<(&str, Option<&str>), Option<String>> {
    if text.contains('@') {
        return Err(Some("holds a user or password; secrets belong under [secrets]".into()));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or(None)?;
            let _: std::net::Ipv6Addr = host.parse().map_err(|_| None)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(None)?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() { Err(None) } else { Ok((host, port)) }
}

/// The host of a URL, without brackets. Checks the scheme, and that neither user nor password ride along.
fn parse_url_of(text: &str, schemes: &[&str]) -> Result<String, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "{:?} is no address; write \"ws://10.77.0.1:8188\" or \"https://sfu.example:8089/path\"",
            mask_url(text)
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if !schemes.contains(&scheme) {
        let scheme = mask_url(scheme);
        return Err(format!("{scheme:?} is no scheme of a target; write {}", schemes.join(", ")));
    }
    if !text.chars().all(may_stand_in_url) {
        return Err(wrong());
    }
    let (host, port) =
        authority(rest.split(['/', '?', '#']).next().unwrap_or("")).map_err(|e| e.unwrap_or_else(wrong))?;
    if port.is_some_and(|p| p.parse::<u16>().map_or(true, |p| p == 0)) {
        return Err(wrong());
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_means_loopback_and_private_ranges() {
        for ip in ["127.0.0.1", "10.77.0.1", "172.31.255.255", "192.168.1.1", "::1", "fd12::1", "::ffff:10.0.0.1"] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "192.169.0.1", "2001:db8::1", "::ffff:8.8.8.8", "0.0.0.0", "100.64.0.1"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
        assert!(network_is_private("10.0.0.0".parse().unwrap(), 8));
        assert!(!network_is_private("10.0.0.0".parse().unwrap(), 7));
        assert!(!network_is_private("0.0.0.0".parse().unwrap(), 0));
    }

    #[test]
    fn networks_are_cut_to_their_prefix() {
        assert_eq!(parse_network("10.77.0.5/24"), Ok(("10.77.0.0".parse().unwrap(), 24)));
        assert_eq!(parse_network("10.77.0.5"), Ok(("10.77.0.5".parse().unwrap(), 32)));
        assert_eq!(parse_network("0.0.0.0/0"), Ok(("0.0.0.0".parse().unwrap(), 0)));
        for bad in ["10.0.0.0/33", "10.0.0/8", "fd00::/129", "x", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_give_their_host_and_carry_no_password() {
        let parse_url = |text: &str| parse_url_of(text, SCHEMES);
        assert_eq!(parse_url("ws://10.77.0.1:8188"), Ok("10.77.0.1".into()));
        assert_eq!(parse_url("https://SFU.example/a?b#c"), Ok("sfu.example".into()));
        assert_eq!(parse_url("ws://[fd00::1]:8188/x"), Ok("fd00::1".into()));
        assert!(parse_url("ws://alice:secret@10.0.0.1").unwrap_err().contains("[secrets]"));
        for bad in
            ["", "10.0.0.1:80", "ftp://x", "ws://", "ws://:80", "ws://h:0", "ws://h:99999", "ws://[fd00::1", "ws://h h"]
        {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
