//! `[fleet]` and `[join]` of a target file: how its servers are discovered, controlled and observed, and who says where
//! a participant goes.

use std::time::Duration;

/// `[fleet]`. A backend that a list names has what it needs.
#[derive(Clone, PartialEq, Debug)]
pub struct FleetBackends {
    pub discovery: Vec<BackendName>,
    /// Asked in this order; the first that can do a thing does it.
    pub control: Vec<BackendName>,
    pub observe: Vec<BackendName>,
    pub exec: Option<ExecBackend>,
    pub http: Option<HttpBackend>,
    pub redis: Option<RedisBackend>,
    pub prometheus: Option<PrometheusBackend>,
}

impl FleetBackends {
    /// Without a `[fleet]`: the director of our own fleet for everything, else the target file's servers alone.
    pub(super) fn of_driver(driver: &str) -> FleetBackends {
        let (discovery, rest) = match driver {
            "embedded" => (vec![BackendName::Embedded], vec![BackendName::Embedded]),
            _ => (vec![BackendName::Static], vec![]),
        };
        let (control, observe) = (rest.clone(), rest);
        FleetBackends { discovery, control, observe, exec: None, http: None, redis: None, prometheus: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BackendName {
    Static,
    Exec,
    Http,
    Redis,
    Process,
    Janus,
    Embedded,
    Prometheus,
    Coturn,
}

impl BackendName {
    pub const ALL: [BackendName; 9] = [
        BackendName::Static,
        BackendName::Exec,
        BackendName::Http,
        BackendName::Redis,
        BackendName::Process,
        BackendName::Janus,
        BackendName::Embedded,
        BackendName::Prometheus,
        BackendName::Coturn,
    ];

    /// As in target files.
    pub fn as_str(self) -> &'static str {
        match self {
            BackendName::Static => "static",
            BackendName::Exec => "exec",
            BackendName::Http => "http",
            BackendName::Redis => "redis",
            BackendName::Process => "process",
            BackendName::Janus => "janus",
            BackendName::Embedded => "embedded",
            BackendName::Prometheus => "prometheus",
            BackendName::Coturn => "coturn",
        }
    }
}

/// `[fleet.exec]`: programs and their arguments; empty: there is none.
#[derive(Clone, PartialEq, Debug)]
pub struct ExecBackend {
    pub look: Vec<String>,
    pub act: Vec<String>,
    /// What `act` can do, by the names of steps; empty: everything.
    pub actions: Vec<String>,
    pub timeout: Duration,
}

/// `[fleet.http]`.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpBackend {
    pub look: Option<String>,
    pub act: Option<String>,
    /// What `act` can do, by the names of steps; empty: everything.
    pub actions: Vec<String>,
    pub timeout: Duration,
}

/// `[fleet.redis]`: a registry's keys.
#[derive(Clone, PartialEq, Debug)]
pub struct RedisBackend {
    pub url: String,
    pub alive: Option<RedisKey>,
    pub listed: Option<RedisKey>,
    pub cordoned: Option<RedisKey>,
    pub headroom: Option<RedisKey>,
    pub sessions: Option<RedisKey>,
    pub participants: Option<RedisKey>,
    /// Its place holder is `{room}`; its values are servers.
    pub rooms: Option<RedisKey>,
    /// Of the redis-server, where it runs on this machine.
    pub pid_file: Option<String>,
    /// A program that restarts it; empty: there is none.
    pub restart: Vec<String>,
    /// How long a pause lasts that nobody can end: the one without `pid_file`.
    pub pause: Duration,
    pub timeout: Duration,
}

/// Where a value is: `key` or `key#field`, with one place holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisKey {
    /// As written.
    pub text: String,
    pub place: RedisPlace,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RedisPlace {
    /// `sfu:{server}:alive`: a string of its own, or `field` of a hash of its own; before and behind the place holder.
    Key { before: String, behind: String, field: Option<String> },
    /// `sfu:alive#{server}`: a field of one hash.
    Field { key: String, before: String, behind: String },
    /// `sfu:servers`: a set of names.
    Set { key: String },
}

/// `[fleet.prometheus]`: names of metrics on each server's `metrics`.
#[derive(Clone, PartialEq, Debug)]
pub struct PrometheusBackend {
    pub sessions: Option<MetricName>,
    pub participants: Option<MetricName>,
    /// A share (0..1) when multiplied.
    pub loss: Option<MetricName>,
    /// In ms when multiplied.
    pub jitter: Option<MetricName>,
    pub timeout: Duration,
}

/// `name`, `name{label="value"}`, `name * 0.01`, `name / 1000`: the sum of the series that fit, times a factor.
#[derive(Clone, PartialEq, Debug)]
pub struct MetricName {
    /// As written.
    pub text: String,
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub factor: f64,
}

/// `[join]`: the user's own join API says where a participant goes.
#[derive(Clone, PartialEq, Debug)]
pub struct JoinHook {
    pub by: JoinBy,
    pub timeout: Duration,
}

#[derive(Clone, PartialEq, Debug)]
pub enum JoinBy {
    /// Program and arguments.
    Exec(Vec<String>),
    /// POST there.
    Http(String),
}

/// `sfu:{server}:alive`, `sfu:{server}#headroom`, `rooms#{room}`, `sfu:servers`.
///
/// # Errors
/// No such place holder, several of them, or none where one is needed.
pub(super) fn parse_redis_key(text: &str, holder: &str, set_is_fine: bool) -> Result<RedisKey, String> {
    let mark = format!("{{{holder}}}");
    let example = format!("write it as in \"x:{mark}:y\", \"x:{mark}#field\" or \"x#{mark}\"");
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{text:?} is no key; {example}"));
    }
    let rest = text.replacen(&mark, "", 1);
    if rest.contains(['{', '}']) {
        return Err(format!("{text:?} has another place holder than one {mark}; {example}"));
    }
    let (key, field) = match text.split_once('#') {
        Some((key, field)) if !key.is_empty() && !field.is_empty() => (key, Some(field)),
        Some(_) => return Err(format!("{text:?} has no key or no field at its #; {example}")),
        None => (text, None),
    };
    let around = |part: &str| part.split_once(&mark).map(|(before, behind)| (before.to_owned(), behind.to_owned()));
    let place = match (around(key), field) {
        (Some((before, behind)), field) => RedisPlace::Key { before, behind, field: field.map(str::to_owned) },
        (None, Some(field)) => match around(field) {
            Some((before, behind)) => RedisPlace::Field { key: key.to_owned(), before, behind },
            None => return Err(format!("{text:?} has no {mark}; {example}")),
        },
        (None, None) if set_is_fine => RedisPlace::Set { key: key.to_owned() },
        (None, None) => return Err(format!("{text:?} has no {mark}; {example}")),
    };
    Ok(RedisKey { text: text.to_owned(), place })
}

/// # Errors
/// Not of the form that [`MetricName`] shows.
pub(super) fn parse_metric_name(text: &str) -> Result<MetricName, String> {
    let wrong = || format!("{text:?} is no metric; write \"name\", \"name{{label=\\\"value\\\"}}\" or \"name / 1000\"");
    let name_end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        let (pairs, behind) = inner.rsplit_once('}').ok_or_else(wrong)?;
        for pair in pairs.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (label, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = value.trim().strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or_else(wrong)?;
            if value.contains(['"', '\\']) {
                return Err(wrong());
            }
            labels.push((label.trim().to_owned(), value.to_owned()));
        }
        rest = behind;
    }
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).ok_or_else(wrong);
    let factor = match rest.trim().split_at_checked(1) {
        None => 1.0,
        Some(("*", n)) => number(n)?,
        Some(("/", n)) => 1.0 / number(n)?,
        Some(_) => return Err(wrong()),
    };
    Ok(MetricName { text: text.to_owned(), name: name.to_owned(), labels, factor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_keys_have_one_place_holder() {
        let place = |text: &str| parse_redis_key(text, "server", true).map(|k| k.place);
        let key = |before: &str, behind: &str, field: Option<&str>| {
            Ok(RedisPlace::Key { before: before.into(), behind: behind.into(), field: field.map(Into::into) })
        };
        assert_eq!(place("sfu:{server}:alive"), key("sfu:", ":alive", None));
        assert_eq!(place("sfu:{server}#headroom"), key("sfu:", "", Some("headroom")));
        let field = RedisPlace::Field { key: "nodes".into(), before: "n-".into(), behind: String::new() };
        assert_eq!(place("nodes#n-{server}"), Ok(field));
        assert_eq!(place("sfu:servers"), Ok(RedisPlace::Set { key: "sfu:servers".into() }));
        for bad in ["", "{room}", "a{server}{server}", "a#", "#{server}", "a#b", "a{server}#{server}", "a{"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert!(parse_redis_key("rooms", "room", false).unwrap_err().contains("{room}"));
        assert!(parse_redis_key("rooms#{room}", "room", false).is_ok());
    }

    #[test]
    fn metrics_are_named_with_labels_and_a_factor() {
        let m = parse_metric_name("livekit_packet_loss{direction=\"in\", kind=\"audio\"} * 0.01").unwrap();
        assert_eq!((m.name.as_str(), m.factor), ("livekit_packet_loss", 0.01));
        assert_eq!(m.labels, [("direction", "in"), ("kind", "audio")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(parse_metric_name("jitter_us / 1000").unwrap().factor, 0.001);
        assert_eq!(parse_metric_name("sessions").unwrap().labels, []);
        for bad in ["", "9x", "a b", "a{b}", "a{b=c}", "a{b=\"c\"", "a * x", "a / 0", "a + 1", "a *", "ä"] {
            assert!(parse_metric_name(bad).is_err(), "{bad}");
        }
    }
}
