//! From a completed tree to what it means: typed values, and the checks that need more than one key.

use super::error::Errors;
use super::resolved::{
    EmbeddedTarget, HealthLimits, Ice, Join, Load, Muting, Op, RoomGroup, Search, Senders, Shape, Size, Stay, Talk,
    Threshold, layers_below,
};
use super::scale_in::ScaleIn;
use super::series::Series;
use super::tree::{Node, Value};
use super::units::{parse_join, parse_stay};
use super::{metrics, network};
use crate::types::{Autoscale, Client, M_LINES_MAX, UnlikeServer};
use std::net::IpAddr;
use std::time::Duration;

mod expect; // shape scale-in: what is judged
pub(super) mod fleet; // a target file's backends and join hook
pub(super) mod search; // shape capacity
mod series; // [[mixes]], [compare]
mod step; // shape scale-in
mod view; // a table being read, key by key

pub(super) use view::View;

/// Most seats (participants at once) and stays of one run; beyond, the plan itself would not fit.
pub(super) const SEATS_MAX: u64 = super::keys::SEATS_MAX as u64;
pub(super) const LEGS_MAX: f64 = 2_000_000.0;
pub(super) const RATE_MIN: f64 = 0.001;
pub(super) const RATE_MAX: f64 = 10_000.0;
const STAY_MIN: Duration = Duration::from_secs(1);
const STAY_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Everything of a profile but its target file and texts.
pub(super) struct Parts {
    pub(super) name: Option<String>,
    pub(super) shape: Shape,
    pub(super) client: Client,
    pub(super) rooms: Vec<RoomGroup>,
    pub(super) load: Load,
    pub(super) pass: Vec<Threshold>,
    pub(super) search: Option<Search>,
    pub(super) scale_in: Option<ScaleIn>,
    pub(super) series: Option<Series>,
    pub(super) health: HealthLimits,
    pub(super) seed: u64,
    pub(super) bind: Vec<IpAddr>,
    pub(super) shards: Option<usize>,
    pub(super) receive_buffer: Option<usize>,
    pub(super) embedded: EmbeddedTarget,
    pub(super) ice: Ice,
}

/// Reads a completed tree. `None` only where `errors` says why (or a syntax error has).
pub(super) fn read(root: &Node, errors: &mut Errors) -> Option<Parts> {
    let mut top = View::new(root, "", String::new(), errors)?;
    let name = top.name("name", 100, |c| !c.is_control() && c != '/');
    let shape = top.word("shape").map(|w| match w {
        "capacity" => Shape::Capacity,
        "scale-in" => Shape::ScaleIn,
        _ => Shape::Steady,
    });
    let client = top.word("client").and_then(|w| Client::ALL.into_iter().find(|c| c.as_str() == w));
    let seed = top.count("seed").map(|s| s as u64);
    let bind = top.addresses("bind");
    let shards = top.count_or("shards").map(|s| s.map(|n| n as usize));
    let receive_buffer = top.count_or("receive_buffer").map(|s| s.map(|n| n as usize));
    let ice = top.inside("ice", super::turn::ice);
    let relays = ice.is_some_and(|i| i.relay > 0.0);
    let embedded = top.inside("embedded", |v| {
        let (servers, participants_max, cpu_max) =
            (v.count("servers"), v.count("participants_max"), v.share("cpu_max"));
        enough(v, cpu_max);
        let packet_cost = v.duration("packet_cost");
        let unlike =
            if v.node("server").is_some() { v.each("server", |v| unlike(v, servers)) } else { Some(Vec::new()) };
        let twice = |i: usize, all: &[UnlikeServer]| all[..i].iter().any(|u| u.id == all[i].id);
        if let Some(all) = &unlike
            && let Some(i) = (1..all.len()).find(|i| twice(*i, all))
        {
            v.wrong("server", format!("{:?} is there twice", all[i].id));
        }
        let placement = v.word("placement").and_then(|w| w.parse().ok());
        let drain = v.word("drain").and_then(|w| w.parse().ok());
        let autoscale =
            if v.node("autoscale").is_some() { v.inside("autoscale", autoscale).map(Some) } else { Some(None) };
        let last_n = if v.node("last_n").is_some() { Some(v.count("last_n")? as u32) } else { None };
        let sin = v.word("sin").and_then(|w| w.parse().ok());
        let turn = if v.node("turn").is_some() { v.count("turn")? as u32 } else { u32::from(relays) };
        if relays && turn == 0 {
            v.wrong("turn", "[ice] wants participants relayed: at least one TURN server");
        }
        Some(EmbeddedTarget {
            servers: servers? as u32,
            participants_max: participants_max? as u32,
            cpu_max: cpu_max?,
            packet_cost: packet_cost?,
            unlike: unlike?,
            placement: placement?,
            drain: drain?,
            autoscale: autoscale?,
            last_n,
            sin,
            turn,
        })
    });
    let common = network::read(&mut top);
    let rooms = top.each("rooms", room_group);
    let health = top.inside("health", health);
    distinct(root, "rooms", "name", top.errors);
    distinct(root, "step", "name", top.errors);
    distinct(root, "mixes", "name", top.errors);
    let (load, pass, search) = match shape {
        Some(Shape::Capacity) => {
            let search = search::search(&mut top, rooms.as_deref());
            let (load, search) = search.map_or((None, None), |(load, search)| (Some(load), Some(search)));
            let objectives = pass(root, "objectives", top.errors);
            let objectives = objectives.and_then(|o| search::fit(root, o, top.errors));
            (load, objectives, search.map(Some))
        }
        Some(Shape::Steady | Shape::ScaleIn) | None => {
            let load = top.inside("load", load);
            if let Some(rooms) = &rooms {
                whole_load(root, rooms, load.as_ref(), top.errors);
            }
            let pass = match (shape, top.node("pass")) {
                (Some(Shape::ScaleIn), None) => Some(Vec::new()),
                _ => pass(root, "pass", top.errors),
            };
            (load, pass, Some(None))
        }
    };
    let scale_in = match shape {
        Some(Shape::ScaleIn) => step::scale_in(&mut top, rooms.as_deref(), load.as_ref()).map(Some),
        _ => {
            step::no_late(&mut top, rooms.as_deref());
            Some(None)
        }
    };
    let series =
        series::series(&mut top, shape, rooms.as_deref(), search.as_ref().and_then(Option::as_ref), embedded.as_ref());
    let mut rooms = rooms;
    if let (Some(rooms), Some(common)) = (&mut rooms, &common) {
        let silent = |i: usize| own_network(root, i).is_none();
        rooms.iter_mut().enumerate().filter(|(i, _)| silent(*i)).for_each(|(_, g)| g.networks.clone_from(common));
    }
    common.as_ref()?;
    Some(Parts {
        name,
        shape: shape?,
        client: client?,
        rooms: rooms?,
        load: load?,
        pass: pass?,
        search: search?,
        scale_in: scale_in?,
        series: series?,
        health: health?,
        seed: seed?,
        bind: bind?,
        shards: shards?,
        receive_buffer: receive_buffer?,
        embedded: embedded?,
        ice: ice?,
    })
}

/// Less of a core is no server.
fn enough(v: &mut View<'_>, cpu_max: Option<f64>) {
    if cpu_max.is_some_and(|share| share < 0.01) {
        v.wrong("cpu_max", "is too little for a server: 1% at least");
    }
}

/// A server of the embedded fleet that is not like the others.
fn unlike(v: &mut View<'_>, servers: Option<i64>) -> Option<UnlikeServer> {
    let id = v.name("id", 20, |c| c.is_ascii_alphanumeric());
    let number = id.as_deref().and_then(|id| id.strip_prefix('s')?.parse::<i64>().ok());
    if let (Some(id), Some(servers)) = (&id, servers)
        && number.is_none_or(|n| n < 1 || n > servers || *id != format!("s{n}"))
    {
        v.wrong("id", format!("{id:?} is no server of this fleet: s1 to s{servers}"));
    }
    let participants_max = if v.node("participants_max").is_some() { Some(v.count("participants_max")?) } else { None };
    let cpu_max = if v.node("cpu_max").is_some() { Some(v.share("cpu_max")?) } else { None };
    enough(v, cpu_max);
    if (participants_max, cpu_max) == (None, None) {
        v.wrong("", "has nothing of its own: participants_max or cpu_max");
    }
    Some(UnlikeServer { id: id?, participants_max: participants_max.map(|n| n as u32), cpu_max })
}

fn autoscale(v: &mut View<'_>) -> Option<Autoscale> {
    let [per_server, servers_min, servers_max] =
        ["per_server", "servers_min", "servers_max"].map(|key| v.count(key).map(|n| n as u32));
    let every = v.duration("every");
    if let (Some(min), Some(max)) = (servers_min, servers_max)
        && min > max
    {
        v.wrong("servers_max", format!("is below servers_min, {min}"));
    }
    Some(Autoscale {
        per_server: per_server?,
        servers_min: servers_min?,
        servers_max: servers_max?,
        every_ms: every?.as_millis() as u64,
    })
}

/// The `network` that a group of rooms gives itself.
fn own_network(root: &Node, group: usize) -> Option<&Node> {
    let Value::Array(groups) = &root.as_table()?.get("rooms")?.value else { return None };
    groups.get(group)?.as_table()?.get("network")
}

fn room_group(v: &mut View<'_>) -> Option<RoomGroup> {
    let name = v.name("name", 40, |c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let count = v.count("count");
    let size = v.size("size");
    let send = v.count_or("send");
    let (audio, video) = (v.encoding("audio"), v.encoding("video"));
    let (simulcast, adapt) = (v.flag("simulcast"), v.flag("adapt"));
    let stay = v.parsed("stay", |t| parse_stay(t).and_then(check_stay));
    let refill = v.flag("refill");
    if let (Some(false), Some(Stay::WholeHold)) = (refill, stay) {
        v.wrong("refill", "nobody leaves before the end: say how long they `stay`");
    }
    let (late_seats, late_rooms) = (v.count("late_seats"), v.count("late_rooms"));
    let talk = v.word("talk").map(|w| if w == "p59" { Talk::P59 } else { Talk::All });
    let mute = v.inside("mute", muting);
    let networks = v.node("network").is_some().then(|| network::read(v));
    if let (Some(send), Some(size)) = (send, size) {
        let most = size_max(size);
        if send.is_some_and(|n| n > i64::from(most)) {
            v.wrong("send", format!("{} senders do not fit into a room of {most}", send.unwrap_or(0)));
        }
        let late = if send.is_none() { late_seats.unwrap_or(0).max(0) as u64 } else { 0 };
        let senders = send.map_or(u64::from(most) + late, |n| n.max(0) as u64);
        let kinds = [audio.flatten(), video.flatten()].into_iter().flatten().count() as u64;
        // Whoever hears them all has an m-line for each; where one transport does both, its own are among them.
        if senders * kinds > M_LINES_MAX as u64 {
            let key = if send.is_some() { "send" } else { "size" };
            v.wrong(
                key,
                format!(
                    "{senders} senders make a session description of {} m-lines, and at most {M_LINES_MAX} can be read: \
                     let at most {} of a room `send`, or send less",
                    senders * kinds,
                    M_LINES_MAX as u64 / kinds
                ),
            );
        }
        if send != Some(0) && (audio, video) == (Some(None), Some(None)) {
            v.wrong("", "its participants send nothing: give `audio` or `video`, or say `send = 0`");
        }
    }
    if simulcast == Some(true) {
        match video {
            Some(None) => v.wrong("simulcast", "there is no video to send in layers: give `video`"),
            Some(Some(e)) if layers_below(e).is_empty() => {
                v.wrong("simulcast", format!("{e} is the lowest layer there is: give `video` more bits"));
            }
            _ => {}
        }
    }
    if adapt == Some(true) {
        match video {
            Some(None) => v.wrong("adapt", "there is no video to adapt: give `video`"),
            Some(Some(e)) if layers_below(e).is_empty() => {
                v.wrong("adapt", format!("{e} is the lowest there is: give `video` more bits"));
            }
            _ if simulcast == Some(true) => {
                v.wrong(
                    "adapt",
                    "with `simulcast` all layers are sent, and the server chooses: only one of both may be true",
                );
            }
            _ => {}
        }
    }
    Some(RoomGroup {
        name: name?,
        count: count? as u32,
        size: size?,
        send: send?.map_or(Senders::All, |n| Senders::Some(n as u32)),
        audio: audio?,
        video: video?,
        simulcast: simulcast?,
        adapt: adapt?,
        stay: stay?,
        refill: refill?,
        late_seats: late_seats? as u32,
        late_rooms: late_rooms? as u32,
        talk: talk?,
        mute: mute?,
        // Those without a word of their own get the profile's.
        networks: networks.map_or(Some(Vec::new()), |n| n)?,
    })
}

/// Both keys or none.
fn muting(v: &mut View<'_>) -> Option<Option<Muting>> {
    let given = ["after", "lasts"].map(|key| v.node(key).is_some());
    let (after, lasts) = (v.duration("after"), v.duration("lasts"));
    match given {
        [false, false] => Some(None),
        [true, true] => Some(Some(Muting { after: after?, lasts: lasts? })),
        _ => {
            v.wrong("", "needs both: mute = { after = \"2m\", lasts = \"20s\" }");
            None
        }
    }
}

fn load(v: &mut View<'_>) -> Option<Load> {
    let join = v.parsed("join", |t| parse_join(t).and_then(check_join));
    let (warmup, hold, join_timeout) = (v.duration("warmup"), v.duration("hold"), v.duration("join_timeout"));
    Some(Load { join: join?, warmup: warmup?, hold: hold?, join_timeout: join_timeout? })
}

fn health(v: &mut View<'_>) -> Option<HealthLimits> {
    // All of them are read before the first that is wrong ends it: all errors at once.
    let shares = [
        "shard_cpu_max",
        "steal_max",
        "machine_cpu_max",
        "socket_drops_max",
        "send_errors_max",
        "udp_errors_max",
        "reference_loss_max",
        "inconclusive_share_max",
    ]
    .map(|key| v.share(key));
    let durations =
        ["lateness_p99_max", "timer_p99_max", "reference_delay_p99_max", "reference_jitter_max", "clock_step_max"]
            .map(|key| v.duration(key));
    let counts = ["descriptors_left_min", "ports_left_min"].map(|key| v.count(key));
    let [cpu, steal, machine_cpu, drops, send_errors, udp_errors, reference_loss, inconclusive] = shares;
    let [lateness, timer, reference_delay, reference_jitter, clock_step] = durations;
    let [descriptors, ports] = counts;
    Some(HealthLimits {
        shard_cpu_max: cpu?,
        steal_max: steal?,
        lateness_p99_max: lateness?,
        timer_p99_max: timer?,
        machine_cpu_max: machine_cpu?,
        socket_drops_max: drops?,
        send_errors_max: send_errors?,
        udp_errors_max: udp_errors?,
        reference_loss_max: reference_loss?,
        reference_delay_p99_max: reference_delay?,
        reference_jitter_max: reference_jitter?,
        clock_step_max: clock_step?,
        descriptors_left_min: descriptors? as u64,
        ports_left_min: ports? as u64,
        inconclusive_share_max: inconclusive?,
    })
}

fn pass(root: &Node, table: &str, errors: &mut Errors) -> Option<Vec<Threshold>> {
    let node = root.as_table()?.get(table)?;
    let path = table;
    let table = node.as_table()?;
    if table.0.is_empty() {
        errors.push(
            &node.at,
            path,
            "is empty: a run without a threshold proves nothing; write at least one, e.g. \"legs.dropped\" = \"== 0\"",
        );
        return None;
    }
    let before = errors.len();
    let mut thresholds = Vec::new();
    for entry in &table.0 {
        let key = format!("{path}.{:?}", entry.key);
        match threshold(&entry.key, &entry.node) {
            Ok(t) => thresholds.push(t),
            Err(why) => errors.push(&entry.node.at, key, why),
        }
    }
    (errors.len() == before).then_some(thresholds)
}

fn threshold(path: &str, node: &Node) -> Result<Threshold, String> {
    let metric = metrics::find(path).ok_or_else(|| {
        let paths = metrics::all().iter().map(|m| m.path.as_str());
        let parents = || {
            let inner: Vec<&str> = paths.clone().filter(|p| p.starts_with(&format!("{path}."))).collect();
            (!inner.is_empty()).then(|| format!("write one of {}", inner.join(", ")))
        };
        if path.starts_with("audio.mos") || path.starts_with("video.mos") {
            // docs/measurement.md says why.
            return "MOS is shown and never a threshold: it is a model of loss and delay, with coefficients that nobody \
                    has measured for Opus; set limits on audio.loss, audio.lossy_legs_share and audio.delay.p99"
                .to_owned();
        }
        let near = || super::error::nearest(path, paths.clone()).map(|n| format!("did you mean \"{n}\"?"));
        let hint = parents().or_else(near).unwrap_or_else(|| "docs/profiles.md lists them".to_owned());
        format!("there is no such metric; {hint}")
    })?;
    let example = metric.unit.example();
    let text = node
        .as_text()
        .ok_or_else(|| format!("write operator and limit as text, {example:?}, not {}", node.describe()))?;
    let text = text.trim();
    let operators = [("<=", Op::Le), (">=", Op::Ge), ("==", Op::Eq), ("<", Op::Lt), (">", Op::Gt)];
    let found = operators.iter().find_map(|(sign, op)| text.strip_prefix(sign).map(|rest| (*sign, *op, rest.trim())));
    let (sign, op, limit) = found
        .ok_or_else(|| format!("{text:?} begins with no operator (<=, <, ==, >, >=); write it as in {example:?}"))?;
    let value = metric.unit.parse(limit)?;
    if metric.unit == metrics::Unit::Percent && value.number() > 100.0 {
        return Err(format!("{limit} is more than all"));
    }
    Ok(Threshold { metric: path.to_owned(), op, value, expr: format!("{path} {sign} {limit}") })
}

/// Names that repeat in an array of tables.
pub(super) fn distinct(root: &Node, array: &str, key: &str, errors: &mut Errors) {
    let Some(Value::Array(items)) = root.as_table().and_then(|t| t.get(array)).map(|n| &n.value) else { return };
    let names: Vec<Option<&Node>> = items.iter().map(|i| i.as_table().and_then(|t| t.get(key))).collect();
    for (i, node) in names.iter().enumerate() {
        let Some((node, name)) = node.and_then(|n| Some((n, n.as_text()?))) else { continue };
        if let Some(first) = names[..i].iter().position(|n| n.and_then(Node::as_text) == Some(name)) {
            errors.push(&node.at, format!("{array}[{i}].{key}"), format!("{name:?} is {array}[{first}] already"));
        }
    }
}

/// Loads whose plan would not fit.
fn whole_load(root: &Node, rooms: &[RoomGroup], load: Option<&Load>, errors: &mut Errors) {
    let Some(node) = root.as_table().and_then(|t| t.get("rooms")) else { return };
    let room = |g: &RoomGroup| u64::from(size_max(g.size)) + u64::from(g.late_seats);
    let seats: u64 = rooms.iter().map(|g| (u64::from(g.count) + u64::from(g.late_rooms)) * room(g)).sum();
    if seats > SEATS_MAX {
        errors.push(
            &node.at,
            "rooms",
            format!("{seats} participants at once are more than one run carries ({SEATS_MAX})"),
        );
        return;
    }
    let Some(load) = load else { return };
    let first = first_joins(load.join, seats);
    if first > STAY_MAX.as_secs_f64() {
        let at = root.as_table().and_then(|t| t.get("load")).and_then(Node::as_table).and_then(|t| t.get("join"));
        let at = at.map_or(&root.at, |n| &n.at);
        errors.push(
            at,
            "load.join",
            format!("{seats} joins at this rate take {:.0} days; at most 7", first / 86_400.0),
        );
        return;
    }
    let run = first + load.warmup.as_secs_f64() + load.hold.as_secs_f64();
    let legs: f64 = rooms
        .iter()
        .map(|g| {
            let seats = f64::from(g.count) * f64::from(size_max(g.size));
            seats * stay_mean(g.stay).map_or(1.0, |mean| 1.0 + run / mean.as_secs_f64())
        })
        .sum();
    if legs > LEGS_MAX {
        errors.push(
            &node.at,
            "rooms",
            format!("about {legs:.0} stays are more than one run carries ({LEGS_MAX:.0}); let participants stay longer, or hold shorter"),
        );
    }
}

/// Roughly when the last of so many first joins is due, in seconds.
fn first_joins(join: Join, seats: u64) -> f64 {
    let n = seats as f64;
    match join {
        Join::Constant(rate) | Join::Poisson(rate) => n / rate,
        Join::Ramp { to, over, .. } => over.as_secs_f64() + n / to,
        Join::Burst { size, every } => (n / f64::from(size)).ceil() * every.as_secs_f64(),
    }
}

fn stay_mean(stay: Stay) -> Option<Duration> {
    match stay {
        Stay::WholeHold => None,
        Stay::Fixed(d) => Some(d),
        Stay::Uniform(a, b) => Some((a + b) / 2),
        Stay::Exponential(mean) => Some(mean),
        // The median is below the mean, and short stays are the ones that multiply.
        Stay::LogNormal { median, .. } => Some(median),
    }
}

pub(super) fn size_max(size: Size) -> u32 {
    match size {
        Size::Fixed(n) | Size::Range(_, n) => n,
    }
}

fn check_stay(stay: Stay) -> Result<Stay, String> {
    let (shortest, longest) = match stay {
        Stay::WholeHold => return Ok(stay),
        Stay::Fixed(d) => (d, d),
        Stay::Uniform(a, b) => (a, b),
        Stay::Exponential(mean) => (mean, mean),
        Stay::LogNormal { median, .. } => (median, median),
    };
    match shortest >= STAY_MIN && longest <= STAY_MAX {
        true => Ok(stay),
        false => Err("a stay is between 1s and 7d".into()),
    }
}

fn check_join(join: Join) -> Result<Join, String> {
    let rate = |r: f64| match (RATE_MIN..=RATE_MAX).contains(&r) {
        true => Ok(()),
        false => Err(format!("a join rate is between {RATE_MIN}/s and {RATE_MAX}/s, not {r}/s")),
    };
    match join {
        Join::Constant(r) | Join::Poisson(r) => rate(r)?,
        Join::Ramp { from, to, over } => {
            rate(to)?;
            rate(from.max(RATE_MIN))?;
            if over < Duration::from_millis(100) || over > STAY_MAX {
                return Err("a ramp takes between 100ms and 7d".into());
            }
        }
        Join::Burst { size, every } => {
            if size == 0 {
                return Err("a burst of 0 never fills a room".into());
            }
            if every < Duration::from_millis(100) || every > STAY_MAX {
                return Err("bursts come between 100ms and 7d apart".into());
            }
        }
    }
    Ok(join)
}
