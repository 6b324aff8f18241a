//! `[fleet]` and `[join]` of a target file.

use super::View;
use crate::profile::fleet::{
    BackendName, ExecBackend, FleetBackends, HttpBackend, JoinBy, JoinHook, PrometheusBackend, RedisBackend,
    parse_metric_name, parse_redis_key,
};
use crate::profile::keys;
use crate::profile::resolved::{ServerEntry, TurnEntry};
use BackendName::{Coturn, Embedded, Exec, Http, Janus, Process, Prometheus, Redis};

/// Checks an address, and that it may be spoken to: given by who knows both.
pub(in crate::profile) type CheckUrl<'a> = &'a dyn Fn(&str, &[&str]) -> Result<String, String>;

const SCHEMES: &[&str] = &["http", "https"];

/// `[fleet]`, or what stands for it. `servers`: none where they are wrong themselves.
pub(in crate::profile) fn fleet(
    v: &mut View<'_>,
    driver: Option<&str>,
    servers: Option<(&[ServerEntry], &[TurnEntry])>,
    url: CheckUrl<'_>,
) -> Option<FleetBackends> {
    if v.node("fleet").is_none() {
        return Some(FleetBackends::of_driver(driver?));
    }
    v.inside("fleet", |v| {
        let [discovery, control, observe] = ["discovery", "control", "observe"].map(|role| backends(v, role));
        let (exec, http) = (optional(v, "exec", exec), optional(v, "http", |v| http(v, url)));
        let redis = optional(v, "redis", |v| redis(v, url));
        let prometheus = optional(v, "prometheus", prometheus);
        let made = FleetBackends {
            discovery: discovery?,
            control: control?,
            observe: observe?,
            exec: exec?,
            http: http?,
            redis: redis?,
            prometheus: prometheus?,
        };
        let before = v.errors.len();
        complete(v, &made, driver, servers);
        (v.errors.len() == before).then_some(made)
    })
}

fn backends(v: &mut View<'_>, role: &str) -> Option<Vec<BackendName>> {
    let known = keys::words("target_file.fleet", role);
    let list = v.list(role, |word| {
        let name = BackendName::ALL.into_iter().find(|b| b.as_str() == word);
        name.filter(|n| known.contains(&n.as_str())).ok_or_else(|| match name {
            Some(_) => format!("{word:?} cannot do this; write {}", known.join(", ")),
            None => format!("there is no backend {word:?}; write {}", known.join(", ")),
        })
    })?;
    for (i, name) in list.iter().enumerate() {
        if list[..i].contains(name) {
            v.wrong(role, format!("{:?} stands there twice", name.as_str()));
            return None;
        }
    }
    Some(list)
}

/// What may be left out: `Some(None)` then.
fn optional<T>(v: &mut View<'_>, key: &str, read: impl FnOnce(&mut View<'_>) -> Option<T>) -> Option<Option<T>> {
    match v.node(key) {
        None => Some(None),
        Some(_) => v.inside(key, read).map(Some),
    }
}

/// A key that may be left out: `Some(None)` then.
fn maybe<T>(v: &mut View<'_>, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Option<T>> {
    match v.node(key) {
        None => Some(None),
        Some(_) => v.parsed(key, parse).map(Some),
    }
}

fn command(v: &mut View<'_>, key: &str) -> Option<Vec<String>> {
    let list = v.list(key, |text| Ok(text.to_owned()))?;
    if list.first().is_some_and(|program| program.trim().is_empty()) {
        v.wrong(key, "names no program");
        return None;
    }
    Some(list)
}

fn actions(v: &mut View<'_>) -> Option<Vec<String>> {
    let known = keys::words("target_file.fleet.exec", "actions");
    v.list("actions", |word| match known.contains(&word) {
        true => Ok(word.to_owned()),
        false => Err(format!("{word:?} is no action; write {}", known.join(", "))),
    })
}

fn exec(v: &mut View<'_>) -> Option<ExecBackend> {
    let (look, act, actions, timeout) = (command(v, "look"), command(v, "act"), actions(v), v.duration("timeout"));
    Some(ExecBackend { look: look?, act: act?, actions: actions?, timeout: timeout? })
}

fn http(v: &mut View<'_>, url: CheckUrl<'_>) -> Option<HttpBackend> {
    let [look, act] = ["look", "act"].map(|key| maybe(v, key, |text| url(text, SCHEMES)));
    let (actions, timeout) = (actions(v), v.duration("timeout"));
    Some(HttpBackend { look: look?, act: act?, actions: actions?, timeout: timeout? })
}

fn redis(v: &mut View<'_>, check: CheckUrl<'_>) -> Option<RedisBackend> {
    let url = v.parsed("url", |text| check(text, &["redis"]));
    let of_server = ["alive", "listed", "cordoned"].map(|key| maybe(v, key, |t| parse_redis_key(t, "server", true)));
    let numbers =
        ["headroom", "sessions", "participants"].map(|key| maybe(v, key, |t| parse_redis_key(t, "server", false)));
    let rooms = maybe(v, "rooms", |t| parse_redis_key(t, "room", false));
    let pid_file = optional_text(v, "pid_file");
    let restart = command(v, "restart");
    let (pause, timeout) = (v.duration("pause"), v.duration("timeout"));
    let [alive, listed, cordoned] = of_server;
    let [headroom, sessions, participants] = numbers;
    Some(RedisBackend {
        url: url?,
        alive: alive?,
        listed: listed?,
        cordoned: cordoned?,
        headroom: headroom?,
        sessions: sessions?,
        participants: participants?,
        rooms: rooms?,
        pid_file: pid_file?,
        restart: restart?,
        pause: pause?,
        timeout: timeout?,
    })
}

fn optional_text(v: &mut View<'_>, key: &str) -> Option<Option<String>> {
    match v.node(key) {
        None => Some(None),
        Some(_) => v.text(key).map(Some),
    }
}

fn prometheus(v: &mut View<'_>) -> Option<PrometheusBackend> {
    let [sessions, participants, loss, jitter] =
        ["sessions", "participants", "loss", "jitter"].map(|key| maybe(v, key, parse_metric_name));
    let timeout = v.duration("timeout");
    Some(PrometheusBackend {
        sessions: sessions?,
        participants: participants?,
        loss: loss?,
        jitter: jitter?,
        timeout: timeout?,
    })
}

/// What each named backend needs, and tables that nobody names.
fn complete(
    v: &mut View<'_>,
    f: &FleetBackends,
    driver: Option<&str>,
    servers: Option<(&[ServerEntry], &[TurnEntry])>,
) {
    let names = |list: &[BackendName], name| list.contains(&name);
    let looks = |name| names(&f.discovery, name) || names(&f.observe, name);
    let acts = |name| names(&f.control, name);
    let used = |name| looks(name) || acts(name);
    let mut wrong = |key: &str, why: String| v.wrong(key, why);
    let tables = [
        (Exec, f.exec.is_some()),
        (Http, f.http.is_some()),
        (Redis, f.redis.is_some()),
        (Prometheus, f.prometheus.is_some()),
    ];
    for (name, there) in tables {
        let name_text = name.as_str();
        match (used(name), there) {
            (true, false) => wrong("", format!("names {name_text:?}, and there is no [fleet.{name_text}] to it")),
            (false, true) => {
                wrong(
                    name_text,
                    format!("is used by nobody: name \"{name_text}\" under discovery, control or observe"),
                );
            }
            _ => {}
        }
    }
    let both = [
        (Exec, f.exec.as_ref().map(|e| (!e.look.is_empty(), !e.act.is_empty()))),
        (Http, f.http.as_ref().map(|h| (h.look.is_some(), h.act.is_some()))),
    ];
    for (name, has) in both {
        let (key, Some((look, act))) = (name.as_str(), has) else { continue };
        if looks(name) && !look {
            wrong(key, "has no `look`, which discovery and observation need".into());
        }
        if acts(name) && !act {
            wrong(key, "has no `act`, which control needs".into());
        }
    }
    if let Some(r) = &f.redis
        && looks(Redis)
        && [&r.alive, &r.listed, &r.cordoned, &r.headroom, &r.sessions, &r.participants, &r.rooms]
            .into_iter()
            .all(Option::is_none)
    {
        wrong("redis", "names no key to look at: give `alive`, `listed`, `rooms` …".into());
    }
    if let Some(p) = &f.prometheus
        && [&p.sessions, &p.participants, &p.loss, &p.jitter].into_iter().all(Option::is_none)
    {
        wrong("prometheus", "names no metric: give `sessions`, `participants`, `loss` or `jitter`".into());
    }
    if used(Embedded) && driver.is_some_and(|d| d != "embedded") {
        wrong("", "names \"embedded\", which is for driver = \"embedded\"".into());
    }
    let Some((servers, turn)) = servers else { return };
    let pid_files = servers.iter().map(|s| &s.pid_file).chain(turn.iter().map(|t| &t.pid_file));
    let needs = [
        (Process, "pid_file", pid_files.into_iter().any(Option::is_some)),
        (Janus, "admin", servers.iter().any(|s| s.admin.is_some())),
        (Prometheus, "metrics", servers.iter().any(|s| s.metrics.is_some())),
        (Coturn, "cli", turn.iter().any(|t| t.cli.is_some())),
    ];
    for (name, key, there) in needs {
        if used(name) && !there {
            wrong("", format!("names {:?}, and no server has a `{key}`", name.as_str()));
        }
    }
}

/// `[join]`; the inner `None`: there is none.
pub(in crate::profile) fn join(v: &mut View<'_>, url: CheckUrl<'_>) -> Option<Option<JoinHook>> {
    optional(v, "join", |v| {
        let exec = command(v, "exec");
        let http = maybe(v, "http", |text| url(text, SCHEMES));
        let timeout = v.duration("timeout");
        let by = match (exec?, http?) {
            (exec, None) if !exec.is_empty() => JoinBy::Exec(exec),
            (exec, Some(url)) if exec.is_empty() => JoinBy::Http(url),
            (exec, _) => {
                let why = if exec.is_empty() { "needs one of the two" } else { "has both; keep one" };
                v.wrong("", format!("{why}: exec = [\"./join.sh\"] or http = \"https://…\""));
                return None;
            }
        };
        Some(JoinHook { by, timeout: timeout? })
    })
}
