//! A profile as TOML again: every default filled in, no secrets. Loads to the same meaning.

mod scale_in; // what belongs to that shape

use super::fleet::{FleetBackends, JoinBy};
use super::resolved::{ExternalTarget, HealthLimits, Network, Profile, RoomGroup, Search, Talk, Target};
use super::series::{Mix, Series};
use super::target::SecretSource;
use super::units::{
    print_bit_rate, print_duration, print_join, print_percent, print_queue, print_rate, print_senders, print_size,
    print_stay,
};
use crate::impair::{Conditions, Distribution, Loss};
use crate::types::{Encoding, mask_urls};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The resolved text, without secrets, those in URLs included. `target` is what the profile says under that key; `secrets` says where each secret comes from.
pub(super) fn resolved(profile: &Profile, target: &str, secrets: &BTreeMap<String, SecretSource>) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("name = {}", quote(&profile.name)));
    line(format!("shape = {}", quote(profile.shape.as_str())));
    line(format!("target = {}", quote(target)));
    line(format!("client = {}", quote(profile.client.as_str())));
    line(format!("seed = {}", profile.seed));
    line(format!("bind = {}", array(profile.bind.iter().map(ToString::to_string))));
    let auto = |n: Option<usize>| n.map_or("\"auto\"".to_owned(), |n| n.to_string());
    if let Some(s) = &profile.scale_in {
        line(format!("control = {}", quote(if s.control { "fleet" } else { "none" })));
    }
    line(format!("shards = {}\nreceive_buffer = {}", auto(profile.shards), auto(profile.receive_buffer)));
    if let Target::Embedded(fleet) = &profile.target {
        line(format!("\n[embedded]\nservers = {}\nparticipants_max = {}", fleet.servers, fleet.participants_max));
        line(format!("cpu_max = {}", quote(&print_percent(fleet.cpu_max))));
        line(format!("packet_cost = {}", quote(&print_duration(fleet.packet_cost))));
        line(format!("placement = {}", quote(fleet.placement.as_str())));
        line(format!("drain = {}", quote(fleet.drain.as_str())));
        if let Some(n) = fleet.last_n {
            line(format!("last_n = {n}"));
        }
        if let Some(sin) = fleet.sin {
            line(format!("sin = {}", quote(sin.as_str())));
        }
        line(format!("turn = {}", fleet.turn));
        for own in &fleet.unlike {
            line(format!("\n[[embedded.server]]\nid = {}", quote(&own.id)));
            own.participants_max.iter().for_each(|n| line(format!("participants_max = {n}")));
            own.cpu_max.iter().for_each(|share| line(format!("cpu_max = {}", quote(&print_percent(*share)))));
        }
        if let Some(a) = fleet.autoscale {
            let every = quote(&print_duration(std::time::Duration::from_millis(a.every_ms)));
            line(format!(
                "\n[embedded.autoscale]\nper_server = {}\nservers_min = {}\nservers_max = {}\nevery = {every}",
                a.per_server, a.servers_min, a.servers_max
            ));
        }
    }
    line(super::turn::write_ice(&profile.ice));
    for group in &profile.rooms {
        line(room_group(group));
    }
    if let Some(series) = &profile.series {
        line(series_tables(series));
    }
    let load = &profile.load;
    match &profile.search {
        Some(search) => line(search_tables(search, &print_duration(load.join_timeout))),
        None => {
            line(format!("\n[load]\njoin = {}", quote(&print_join(load.join))));
            line(format!("warmup = {}", quote(&print_duration(load.warmup))));
            line(format!("hold = {}", quote(&print_duration(load.hold))));
            line(format!("join_timeout = {}", quote(&print_duration(load.join_timeout))));
        }
    }
    if let Some(s) = &profile.scale_in {
        line(scale_in::tables(s));
    }
    if !profile.pass.is_empty() {
        line(if profile.search.is_some() { "\n[objectives]" } else { "\n[pass]" }.into());
    }
    for t in &profile.pass {
        let limit = t.expr.strip_prefix(&t.metric).unwrap_or(&t.expr).trim();
        line(format!("{} = {}", quote(&t.metric), quote(limit)));
    }
    out.push_str(&health(&profile.health));
    if let Target::External(target) = &profile.target {
        out.push_str(&target_file(target, secrets));
    }
    mask_urls(&out).into_owned()
}

fn series_tables(series: &Series) -> String {
    let mix = |m: &Mix| {
        let rooms: Vec<String> = m.rooms.iter().map(|(name, count)| format!("{} = {count}", quote(name))).collect();
        let range = m.range.map_or_else(String::new, |(low, high)| format!("\nrange = \"{low}..{high}\""));
        format!("\n[[mixes]]\nname = {}\nrooms = {{ {} }}{range}", quote(&m.name), rooms.join(", "))
    };
    match series {
        Series::Mixes(mixes) => mixes.iter().map(mix).collect::<Vec<_>>().join("\n"),
        Series::Placement(all) => {
            format!("\n[compare]\nplacement = {}", array(all.iter().map(|p| p.as_str().to_owned())))
        }
    }
}

fn search_tables(s: &Search, join_timeout: &str) -> String {
    let mut out =
        format!("\n[search]\nrange = \"{}..{}\"\njoin = {}\n", s.range.0, s.range.1, quote(&print_rate(s.join)));
    // Writing to a String cannot fail.
    if let Some(server) = &s.server {
        let _ = writeln!(out, "server = {}", quote(server));
    }
    let durations = [("trial", s.trial), ("first_trial", s.first_trial), ("trial_sum", s.trial_sum)];
    for (key, value) in durations.into_iter().chain([("settle", s.settle), ("budget", s.budget)]) {
        let _ = writeln!(out, "{key} = {}", quote(&print_duration(value)));
    }
    let _ = writeln!(out, "join_timeout = {}", quote(join_timeout));
    for (key, share) in [("loss_ratio", s.loss_ratio), ("exceed_ratio", s.exceed_ratio), ("width", s.width)] {
        let _ = writeln!(out, "{key} = {}", quote(&print_percent(share)));
    }
    if let Some(a) = s.answer {
        let (growth, boot) = (quote(&print_rate(a.growth)), quote(&print_duration(a.boot)));
        let _ = writeln!(
            out,
            "\n[answer]\nservers = {}\nsurvive = {}\ngrowth = {growth}\nboot = {boot}",
            a.servers, a.survive
        );
    }
    out.trim_end().to_owned()
}

fn health(h: &HealthLimits) -> String {
    let share = |key: &str, v: f64| format!("{key} = {}\n", quote(&print_percent(v)));
    let duration = |key: &str, v| format!("{key} = {}\n", quote(&print_duration(v)));
    [
        "\n[health]\n".to_owned(),
        share("shard_cpu_max", h.shard_cpu_max),
        share("steal_max", h.steal_max),
        duration("lateness_p99_max", h.lateness_p99_max),
        duration("timer_p99_max", h.timer_p99_max),
        share("machine_cpu_max", h.machine_cpu_max),
        share("socket_drops_max", h.socket_drops_max),
        share("send_errors_max", h.send_errors_max),
        share("udp_errors_max", h.udp_errors_max),
        share("reference_loss_max", h.reference_loss_max),
        duration("reference_delay_p99_max", h.reference_delay_p99_max),
        duration("reference_jitter_max", h.reference_jitter_max),
        duration("clock_step_max", h.clock_step_max),
        format!("descriptors_left_min = {}\n", h.descriptors_left_min),
        format!("ports_left_min = {}\n", h.ports_left_min),
        share("inconclusive_share_max", h.inconclusive_share_max),
    ]
    .concat()
}

fn room_group(g: &RoomGroup) -> String {
    let encoding = |e: Option<Encoding>| quote(&e.map_or("none".to_owned(), |e| e.to_string()));
    let mut lines = vec![
        format!("\n[[rooms]]\nname = {}\ncount = {}\nsize = {}", quote(&g.name), g.count, print_size(g.size)),
        format!("send = {}", print_senders(g.send)),
        format!("audio = {}\nvideo = {}", encoding(g.audio), encoding(g.video)),
        format!("simulcast = {}\nadapt = {}", g.simulcast, g.adapt),
        format!("stay = {}\nrefill = {}", quote(&print_stay(g.stay)), g.refill),
        format!("late_seats = {}\nlate_rooms = {}", g.late_seats, g.late_rooms),
        format!("talk = {}", if g.talk == Talk::P59 { "\"p59\"" } else { "\"all\"" }),
        g.mute.map_or("mute = {}".to_owned(), |m| {
            format!(
                "mute = {{ after = {}, lasts = {} }}",
                quote(&print_duration(m.after)),
                quote(&print_duration(m.lasts))
            )
        }),
    ];
    if !g.networks.is_empty() {
        let all: Vec<String> = g.networks.iter().map(network).collect();
        lines.push(format!("network = [{}]", all.join(", ")));
    }
    lines.join("\n")
}

fn network(n: &Network) -> String {
    let mut keys = Vec::new();
    keys.extend(n.preset.map(|p| format!("preset = {}", quote(p))));
    keys.push(format!("share = {}", quote(&print_percent(n.share))));
    // Every key is written, those of a preset too: what it meant is what is kept.
    for (name, c) in [("up", &n.up), ("down", &n.down)] {
        keys.push(format!("{name} = {{ {} }}", direction(c).join(", ")));
    }
    format!("{{ {} }}", keys.join(", "))
}

fn direction(c: &Conditions) -> Vec<String> {
    let percent = |name: &str, share: f64| format!("{name} = {}", quote(&print_percent(share)));
    let duration = |name: &str, d: std::time::Duration| format!("{name} = {}", quote(&print_duration(d)));
    let mut keys = vec![percent("loss", c.loss.share())];
    if let Loss::Bursts { mean, bad, good, .. } = c.loss {
        keys.extend([format!("burst = {mean}"), percent("burst_loss", bad), percent("base_loss", good)]);
    }
    keys.push(duration("delay", c.delay));
    keys.push(duration("jitter", c.jitter.map_or_else(Default::default, |j| j.mean)));
    if let Some(j) = c.jitter {
        let shape = if j.distribution == Distribution::Exponential { "exponential" } else { "uniform" };
        keys.extend([format!("jitter_shape = {}", quote(shape)), format!("jitter_reorders = {}", j.reorders)]);
    }
    keys.push(percent("reorder", c.hold_back.map_or(0.0, |h| h.share)));
    keys.extend(c.hold_back.map(|h| duration("reorder_by", h.by)));
    keys.extend([percent("duplicate", c.duplicate), percent("corrupt", c.corrupt)]);
    keys.push(format!("rate = {}", quote(&print_bit_rate(c.rate.map(|r| r.bits_per_s)))));
    keys.extend(c.rate.map(|r| format!("queue = {}", quote(&print_queue(r.queue)))));
    keys.push(duration("blackout", c.blackout.map_or_else(Default::default, |b| b.lasts)));
    if let Some(b) = c.blackout {
        keys.push(duration("blackout_after", b.after));
        keys.extend(b.every.map(|e| duration("blackout_every", e)));
    }
    keys.push(duration("after", c.after));
    keys
}

fn target_file(t: &ExternalTarget, secrets: &BTreeMap<String, SecretSource>) -> String {
    let mut out = format!(
        "\n[target_file]\ndriver = {}\npeer = {}\nallow = {}\nauthorized = {}\ntls_verify = {}\nsimulcast = {}\n",
        quote(&t.driver),
        quote(if t.peer_relayed { "relayed" } else { "direct" }),
        array(t.allow.iter().map(|(ip, prefix)| format!("{ip}/{prefix}"))),
        t.authorized,
        t.tls_verify,
        quote(t.simulcast.as_str())
    );
    // Writing to a String cannot fail.
    if let Some(director) = &t.director {
        let _ = writeln!(out, "director = {}", quote(director));
    }
    for s in &t.servers {
        let _ = writeln!(out, "\n[[target_file.servers]]\nid = {}\nurl = {}", quote(&s.id), quote(&s.url));
        if let Some(admin) = &s.admin {
            let _ = writeln!(out, "admin = {}", quote(admin));
        }
        for (key, value) in [("pid_file", &s.pid_file), ("metrics", &s.metrics)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", quote(value));
            }
        }
        let _ = writeln!(out, "observe = {}", array(s.observe.iter().cloned()));
        if let Some(cores) = s.cores {
            let _ = writeln!(out, "cores = {cores}");
        }
    }
    super::turn::write_servers(&mut out, t);
    out.push_str(&fleet(&t.fleet));
    if let Some(join) = &t.join {
        let _ = writeln!(
            out,
            "\n[target_file.join]\n{}",
            match &join.by {
                JoinBy::Exec(command) => format!("exec = {}", array(command.iter().cloned())),
                JoinBy::Http(url) => format!("http = {}", quote(url)),
            }
        );
        let _ = writeln!(out, "timeout = {}", quote(&print_duration(join.timeout)));
    }
    if !secrets.is_empty() {
        out.push_str("\n[target_file.secrets]\n");
    }
    for (name, source) in secrets {
        let by = |kind: &str, what: &str, optional: bool| {
            format!("{{ {kind} = {}{} }}", quote(what), if optional { ", optional = true" } else { "" })
        };
        let source = match source {
            SecretSource::Literal => quote("***"),
            SecretSource::Env { name, optional } => by("env", name, *optional),
            SecretSource::File { path, optional } => by("file", path, *optional),
        };
        let _ = writeln!(out, "{} = {source}", quote(name));
    }
    out
}

fn fleet(f: &FleetBackends) -> String {
    fn line(out: &mut String, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            let _ = writeln!(out, "{key} = {}", quote(value));
        }
    }
    fn list(out: &mut String, key: &str, items: &[String]) {
        if !items.is_empty() {
            let _ = writeln!(out, "{key} = {}", array(items.iter().cloned()));
        }
    }
    let mut out = String::from("\n[target_file.fleet]\n");
    for (role, names) in [("discovery", &f.discovery), ("control", &f.control), ("observe", &f.observe)] {
        let _ = writeln!(out, "{role} = {}", array(names.iter().map(|n| n.as_str().to_owned())));
    }
    if let Some(e) = &f.exec {
        out.push_str("\n[target_file.fleet.exec]\n");
        list(&mut out, "look", &e.look);
        list(&mut out, "act", &e.act);
        list(&mut out, "actions", &e.actions);
        line(&mut out, "timeout", Some(&print_duration(e.timeout)));
    }
    if let Some(h) = &f.http {
        out.push_str("\n[target_file.fleet.http]\n");
        line(&mut out, "look", h.look.as_deref());
        line(&mut out, "act", h.act.as_deref());
        list(&mut out, "actions", &h.actions);
        line(&mut out, "timeout", Some(&print_duration(h.timeout)));
    }
    if let Some(r) = &f.redis {
        out.push_str("\n[target_file.fleet.redis]\n");
        line(&mut out, "url", Some(&r.url));
        let keys = [
            ("alive", &r.alive),
            ("listed", &r.listed),
            ("cordoned", &r.cordoned),
            ("headroom", &r.headroom),
            ("sessions", &r.sessions),
            ("participants", &r.participants),
            ("rooms", &r.rooms),
        ];
        for (name, key) in keys {
            line(&mut out, name, key.as_ref().map(|k| k.text.as_str()));
        }
        line(&mut out, "pid_file", r.pid_file.as_deref());
        list(&mut out, "restart", &r.restart);
        line(&mut out, "pause", Some(&print_duration(r.pause)));
        line(&mut out, "timeout", Some(&print_duration(r.timeout)));
    }
    if let Some(p) = &f.prometheus {
        out.push_str("\n[target_file.fleet.prometheus]\n");
        let metrics =
            [("sessions", &p.sessions), ("participants", &p.participants), ("loss", &p.loss), ("jitter", &p.jitter)];
        for (name, metric) in metrics {
            line(&mut out, name, metric.as_ref().map(|m| m.text.as_str()));
        }
        line(&mut out, "timeout", Some(&print_duration(p.timeout)));
    }
    out
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.map(|i| quote(&i)).collect::<Vec<_>>().join(", "))
}

/// A basic string of TOML.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
