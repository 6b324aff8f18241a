//! `roomful check`: what a profile means and amounts to on this machine, without any traffic.

use crate::capacity::Setting;
use crate::plan::{Flows, Limits, Machine, Need, Plan, PlanTotals, is_relayed, limits, plan, totals};
use crate::profile::units::{self, print_duration, print_join, print_senders, print_size, print_stay};
use crate::profile::{Explained, ExternalTarget, Next, Profile, Selector, Start, Stay, Step, Target, load_explained};
use crate::signaling;
use crate::types::mask_urls;
use crate::verdict::number;
use anyhow::Result;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Bad usage or profile, or a machine that cannot carry it.
const EXIT_BAD: i32 = 2;

/// A search whose answer is of no use to an autoscaler.
const WHOLE_TARGET: &str = "the target file does not name the director's servers, so the search is of the whole target: no \
    number for one server, and no threshold. Give `director` and the [[servers]] that it has, as `roomful fleet` prints them, \
    or [search] `server`";

/// Parse a profile and print its plan: rooms, participants, streams, packets and bits per second, and whether this
/// machine can carry it. Sends nothing.
#[derive(clap::Args, Clone, Debug)]
pub struct CheckArgs {
    /// Profile to check.
    pub profile: PathBuf,
    /// Override a value, last of all: load.hold=20s, rooms.0.count=3, rooms.meeting.count=3.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Show every value and where it came from.
    #[arg(long)]
    pub resolved: bool,
}

/// Gives the exit code: 0, or 2 where the profile is wrong or does not fit this machine.
pub fn run(args: &CheckArgs) -> Result<i32> {
    run_to(args, &Machine::read(), &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

fn run_to(args: &CheckArgs, machine: &Machine, out: &mut dyn Write, err: &mut dyn Write) -> Result<i32> {
    let (profile, explained) = match load_explained(&args.profile, &args.sets) {
        Ok(loaded) => loaded,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(EXIT_BAD);
        }
    };
    if args.resolved {
        write!(out, "{}", mask_urls(&explanation(&explained)))?;
        return Ok(0);
    }
    let runs: Vec<&Profile> = if profile.series.is_some() { profile.runs.iter().collect() } else { vec![&profile] };
    let mut code = 0;
    for (i, run) in runs.iter().enumerate() {
        let plan = plan(run);
        let limits = limits(run, &plan, signaling::transports(&run.target), machine);
        let text = overview(run, &plan, &totals(run, &plan), &limits);
        write!(out, "{}{}", if i > 0 { "\n" } else { "" }, mask_urls(&text))?;
        if i == 0 && Setting::of(run).is_some_and(|s| s.whole_target) {
            writeln!(err, "{}: warning: {WHOLE_TARGET}", args.profile.display())?;
        }
        for problem in limits.problems() {
            writeln!(err, "{}: does not fit this machine: {problem}", args.profile.display())?;
        }
        code = if limits.fit() { code } else { EXIT_BAD };
    }
    out.flush()?;
    Ok(code)
}

/// The plan and its needs, for a terminal. `run` shows the same before it starts.
pub fn overview(profile: &Profile, plan: &Plan, totals: &PlanTotals, limits: &Limits) -> String {
    let mut out = format!("{}: {}, seed {}\n\n", profile.name, describe_target(&profile.target), profile.seed);
    out.push_str(&room_table(profile, plan));
    let load = &profile.load;
    let joined = plan.hold_from.saturating_sub(load.warmup);
    if let Some(setting) = Setting::of(profile) {
        out.push_str(&search_rows(&setting, totals, profile));
        out.push_str(&machine_rows(limits));
        return out;
    }
    let rows = [
        (
            "participants",
            format!("{} at once in {} rooms, {} of them sending", totals.participants, totals.rooms, totals.senders),
        ),
        (
            "stays",
            format!(
                "{} in all{}",
                totals.legs,
                if totals.legs > totals.participants { ", successors included" } else { "" }
            ),
        ),
        (
            "timeline",
            format!(
                "joins for {:.1} s at {}, warm-up {}, hold {}; ends {:.1} s after the start",
                joined.as_secs_f64(),
                print_join(load.join),
                print_duration(load.warmup),
                print_duration(load.hold),
                plan.hold_until.as_secs_f64()
            ),
        ),
        ("up", flows(&totals.up)),
        ("down", flows(&totals.down)),
        ("judged by", judged_by(profile)),
    ];
    let mut rows = rows.to_vec();
    if let Some(s) = &profile.scale_in {
        rows.extend(s.steps.iter().map(|step| ("step", step_text(step, &s.steps))));
        rows.extend(s.rollback.iter().map(|r| ("rollback", r.name.clone())));
    }
    rows.extend(networks(profile, plan).map(|text| ("networks", text)));
    rows.extend(relayed(profile, plan).map(|text| ("relayed", text)));
    out.push('\n');
    for (name, text) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<14}{text}");
    }
    out.push_str(&machine_rows(limits));
    out
}

/// The plan of a search.
fn search_rows(setting: &Setting, totals: &PlanTotals, profile: &Profile) -> String {
    let (s, loads, goal) = (&setting.search, &setting.loads, &setting.goal);
    let [low, high] = [loads.min(), loads.max()];
    let named: Vec<&str> = setting.servers.iter().flatten().map(String::as_str).collect();
    let joins = match setting.servers.len() {
        0 | 1 => units::print_rate(s.join),
        n => format!("{} ({}/s to each server)", units::print_rate(s.join), number(s.join / n as f64)),
    };
    let all_joins = f64::from(loads.participants(high)) * setting.servers.len() as f64 / s.join;
    let servers = match (named.is_empty(), setting.servers.len()) {
        (false, _) => format!("{}, each with the load", named.join(", ")),
        (true, 1) if setting.whole_target => "whatever the director decides, the whole target together".to_owned(),
        (true, 1) => "whatever the target decides, all together".to_owned(),
        (true, n) => format!("{n}, every room on all of them, each with the load on the mean"),
    };
    let rows = [
        ("servers", servers),
        (
            "range",
            format!(
                "{} to {} participants ({low} to {high} rooms) on {}, to bounds {} or one room apart",
                loads.participants(low),
                loads.participants(high),
                if setting.whole_target { "the whole target" } else { "a server" },
                units::print_percent(s.width)
            ),
        ),
        (
            "trials",
            format!(
                "{} s to feel the way, {} s to prove a load; settled {}; joins at {joins}, {all_joins:.0} s for the highest load",
                goal.initial_trial,
                goal.final_trial,
                print_duration(s.settle)
            ),
        ),
        ("longest", format!("{}, then the bounds known so far are the answer", print_duration(s.budget))),
        ("up, at most", flows(&totals.up)),
        ("down, at most", flows(&totals.down)),
        ("objectives", profile.pass.iter().map(|t| t.expr.as_str()).collect::<Vec<_>>().join("; ")),
    ];
    let lines = rows.iter().map(|(name, text)| format!("{name:<14}{text}\n"));
    format!("\n{}", lines.collect::<String>())
}

fn machine_rows(limits: &Limits) -> String {
    let mut out = String::from("\nthis machine              need         have\n");
    out.push_str(&need("descriptors", &limits.fds, |n| n.to_string()));
    out.push_str(&need("UDP ports", &limits.udp_ports, |n| n.to_string()));
    out.push_str(&need("memory, about", &limits.memory_bytes, |n| format!("{} MiB", n >> 20)));
    if let Some(cores) = limits.cores {
        let _ = writeln!(out, "{:<18}{:>12}{cores:>13}", "cores", "");
    }
    out
}

/// Who is behind which impaired network; `None` where nobody is.
fn networks(profile: &Profile, plan: &Plan) -> Option<String> {
    let mut parts = Vec::new();
    for (i, g) in profile.rooms.iter().enumerate() {
        for (k, n) in g.networks.iter().enumerate() {
            let behind = |l: &&crate::plan::PlannedLeg| l.network == Some(k) && plan.rooms[l.room.index()].group == i;
            let count = plan.legs.iter().filter(behind).count();
            parts.push(format!(
                "{count} stays of {} behind {}",
                g.name,
                n.preset.unwrap_or("one of the profile's own")
            ));
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Who is behind TURN servers, and behind which; `None` where nobody is.
fn relayed(profile: &Profile, plan: &Plan) -> Option<String> {
    let room = |l: &crate::plan::PlannedLeg| &plan.rooms[l.room.index()];
    let count = plan.legs.iter().filter(|l| is_relayed(profile, room(l), l.seat)).count();
    let servers = match &profile.target {
        Target::Embedded(f) if f.turn == 1 => "the fleet's own TURN server".to_owned(),
        Target::Embedded(f) => format!("the fleet's own {} TURN servers", f.turn),
        Target::External(t) => ways(t),
    };
    (count > 0).then(|| format!("{count} of {} stays, by {servers}", plan.legs.len()))
}

fn ways(t: &ExternalTarget) -> String {
    t.turn.iter().map(|w| format!("{} ({})", w.id, w.url)).collect::<Vec<_>>().join(", ")
}

fn describe_target(target: &Target) -> String {
    match target {
        Target::Embedded(f) => format!("embedded fleet of {} servers", f.servers),
        Target::External(t) => {
            let servers: Vec<String> = t.servers.iter().map(|s| format!("{} ({})", s.id, s.url)).collect();
            let servers = if t.connects_pairs() { ways(t) } else { servers.join(", ") };
            let verify = if t.tls_verify { "" } else { ", TLS not verified" };
            format!("{} on {servers}{verify}", t.driver)
        }
    }
}

/// The layers beside a group's video, or how far down it may adapt.
fn layers(group: &crate::profile::RoomGroup) -> String {
    let layers: String = group.lower_layers().iter().rev().map(|e| format!(" + {}", e.bitrate)).collect();
    let down_to = group.steps().first().map(|e| format!(", adapts down to {}", e.bitrate));
    layers + &down_to.unwrap_or_default()
}

fn room_table(profile: &Profile, plan: &Plan) -> String {
    let header = ["rooms", "count", "size", "send", "audio", "video", "stay", "participants"].map(str::to_owned);
    let mut rows = vec![header];
    for (i, g) in profile.rooms.iter().enumerate() {
        let participants: u64 = plan.rooms.iter().filter(|r| r.group == i).map(|r| u64::from(r.size)).sum();
        let encoding = |e: Option<crate::types::Encoding>| e.map_or("none".to_owned(), |e| e.to_string());
        rows.push([
            g.name.clone(),
            g.count.to_string(),
            print_size(g.size).replace('"', ""),
            print_senders(g.send).replace('"', ""),
            encoding(g.audio),
            encoding(g.video) + &layers(g),
            if g.stay == Stay::WholeHold { "whole hold".to_owned() } else { print_stay(g.stay) },
            participants.to_string(),
        ]);
    }
    let widths: [usize; 8] = std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in &rows {
        for (c, cell) in row.iter().enumerate() {
            let right = matches!(c, 1..=3 | 7);
            let _ = match right {
                true => write!(out, "{cell:>w$}", w = widths[c]),
                false => write!(out, "{cell:<w$}", w = widths[c]),
            };
            out.push_str(if c + 1 == row.len() { "\n" } else { "  " });
        }
    }
    out
}

fn flows(f: &Flows) -> String {
    let streams = format!("{} streams ({} audio, {} video)", f.streams(), f.audio_streams, f.video_streams);
    format!("{streams}, about {} packets/s, {}", f.packets_per_s, bits(f.bits_per_s))
}

fn bits(bps: u64) -> String {
    match bps {
        b if b >= 1_000_000_000 => format!("{:.2} Gbit/s", b as f64 / 1e9),
        b => format!("{:.1} Mbit/s", b as f64 / 1e6),
    }
}

fn need(name: &str, need: &Need, print: impl Fn(u64) -> String) -> String {
    let have = match need.have {
        Some(u64::MAX) => "unlimited".to_owned(),
        Some(have) => print(have),
        None => "unknown".to_owned(),
    };
    let mark = if need.fits { "" } else { "  DOES NOT FIT" };
    format!("{name:<18}{:>12}{have:>13}{mark}\n", print(need.need))
}

fn explanation(explained: &[Explained]) -> String {
    let width = |f: fn(&Explained) -> &str| explained.iter().map(|e| f(e).chars().count()).max().unwrap_or(0).min(48);
    let (keys, values) = (width(|e| &e.key), width(|e| &e.value));
    let mut out = String::new();
    for e in explained {
        let _ = writeln!(out, "{:<keys$} = {:<values$}  # {}", e.key, e.value, e.from);
    }
    out
}

fn judged_by(profile: &Profile) -> String {
    let mut by: Vec<&str> = profile.pass.iter().map(|t| t.expr.as_str()).collect();
    let skipped = profile.scale_in.as_ref().map(|s| s.expect.skip.join(", "));
    let invariants = match skipped.as_deref() {
        None => String::new(),
        Some("") => "invariants I0 to I13".to_owned(),
        Some(skipped) => format!("invariants I0 to I13 without {skipped}"),
    };
    if !invariants.is_empty() {
        by.insert(0, &invariants);
    }
    by.join("; ")
}

/// `terminate: after cordon, once server.sessions == 0 (within 35s)`.
fn step_text(step: &Step, all: &[Step]) -> String {
    let name = |i: usize| all.get(i).map_or("", |s| s.name.as_str());
    let delayed = |delay: Duration| match delay.is_zero() {
        true => String::new(),
        false => format!("{} ", print_duration(delay)),
    };
    let mut text = format!("{}: {}", step.name, step.action.as_str());
    text += &match &step.server {
        Selector::None => String::new(),
        Selector::Of(i) => format!(" the server of {}", name(*i)),
        Selector::Id(id) => format!(" {id}"),
        Selector::MostSessions => " the server with most sessions".to_owned(),
        Selector::LeastSessions => " the server with least sessions".to_owned(),
        Selector::All => " all servers".to_owned(),
        Selector::Random => " a server drawn by the seed".to_owned(),
        Selector::Each => " one server after the other".to_owned(),
    };
    text += &match step.start {
        Start::At(at) => format!(", {} into the hold", print_duration(at)),
        Start::Clock(at) => format!(", at {at} UTC"),
        Start::After { step, delay } => format!(", {}after {}", delayed(delay), name(step)),
    };
    if let (Some(condition), Some(deadline)) = (&step.condition, step.deadline) {
        text += &format!(", once {condition} (within {})", print_duration(deadline));
    }
    if let Some(repeat) = step.repeat {
        let rounds = repeat.rounds.map_or("a round for each server".to_owned(), |n| format!("{n} rounds"));
        text += &match repeat.next {
            Next::Every(d) => format!(", {rounds}, every {}", print_duration(d)),
            Next::After { step, delay } => format!(", {rounds}, each {}after {}", delayed(delay), name(step)),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "shape = \"steady\"\ntarget = \"embedded\"\nseed = 1\n\
        [[rooms]]\nname = \"meeting\"\ncount = 3\nsize = 4\naudio = \"opus@32kbit/s\"\nvideo = \"vp8@500kbit/s\"\n\
        [load]\njoin = \"10/s\"\nhold = \"20s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n";

    fn check(text: &str, sets: &[&str], resolved: bool, machine: &Machine) -> (i32, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("p.toml");
        std::fs::write(&profile, text).unwrap();
        let args = CheckArgs { profile, sets: sets.iter().map(|s| (*s).to_owned()).collect(), resolved };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run_to(&args, machine, &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_plan_is_printed_with_its_totals() {
        let (code, out, err) = check(PROFILE, &[], false, &Machine::default());
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("12 at once in 3 rooms, 12 of them sending"), "{out}");
        // 12 senders of 110 packets a second, 3 others hear each.
        assert!(out.contains("24 streams (12 audio, 12 video), about 1320 packets/s"), "{out}");
        assert!(out.contains("72 streams (36 audio, 36 video), about 3960 packets/s"), "{out}");
        assert!(out.contains("unknown"), "{out}");
    }

    #[test]
    fn networks_are_printed_with_who_is_behind_them() {
        let text = PROFILE.replace("size = 4", "size = 4\nnetwork = { preset = \"bad-wifi\", share = \"25%\" }");
        let (code, out, err) = check(&text, &["rooms.meeting.adapt=true"], false, &Machine::default());
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("vp8@500kbit/s, adapts down to 150kbit/s"), "{out}");
        assert!(out.contains("networks      3 stays of meeting behind bad-wifi"), "{out}");
    }

    #[test]
    fn relayed_ones_are_printed_with_their_servers() {
        let (code, out, err) = check(PROFILE, &["ice.relay=\"only\""], false, &Machine::default());
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let all = out.lines().find_map(|l| l.strip_prefix("stays ")).unwrap().trim().split(' ').next().unwrap();
        let want = format!("relayed       {all} of {all} stays, by the fleet's own TURN server");
        assert!(out.contains(&want), "{out}\nshould hold {want}");
    }

    #[test]
    fn the_plan_of_a_search_is_printed() {
        let text = "shape = \"capacity\"\ntarget = \"embedded\"\nseed = 1\n[[rooms]]\nname = \"meeting\"\ncount = 1\nsize = 4\n\
            audio = \"opus@32kbit/s\"\n[search]\nrange = \"10..99\"\njoin = \"10/s\"\n[objectives]\n\"audio.loss\" = \"<= 1%\"\n";
        let (code, out, err) = check(text, &[], false, &Machine::default());
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        for line in [
            "s1, s2, each with the load",
            "joins at 10/s (5/s to each server), ",
            "12 to 96 participants (3 to 24 rooms) on a server",
            "longest       15m",
        ] {
            assert!(out.contains(line), "{out}");
        }
        let (_, out, _) = check(text, &["embedded.servers=3", "search.join=8/s"], false, &Machine::default());
        assert!(out.contains("joins at 8/s (2.67/s to each server), "), "{out}");
    }

    #[test]
    fn a_search_of_servers_that_nobody_named_is_warned_of() {
        let text = "shape = \"capacity\"\ntarget = \"t.toml\"\nseed = 1\n[[rooms]]\nname = \"meeting\"\ncount = 1\nsize = 4\n\
            audio = \"opus@32kbit/s\"\n[search]\nrange = \"10..99\"\njoin = \"10/s\"\n[objectives]\n\"audio.loss\" = \"<= 1%\"\n\
            [target_file]\ndriver = \"embedded\"\n";
        let server = |id: &str| format!("[[target_file.servers]]\nid = \"{id}\"\nurl = \"http://127.0.0.1:7080\"\n");
        let (code, out, err) = check(&format!("{text}{}", server("fleet")), &[], false, &Machine::default());
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("p.toml: warning: the target file does not name the director's servers"), "{err}");
        assert!(out.contains("12 to 96 participants (3 to 24 rooms) on the whole target"), "{out}");
        let one = ["search.server=\"s2\""];
        let (_, out, err) = check(&format!("{text}{}", server("fleet")), &one, false, &Machine::default());
        assert!(err.is_empty() && out.contains("(3 to 24 rooms) on a server"), "{err}{out}");
        let named = format!("{text}director = \"http://127.0.0.1:7080\"\n{}{}", server("s1"), server("s2"));
        let (code, out, err) = check(&named, &[], false, &Machine::default());
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("s1, s2, each with the load"), "{out}");
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_its_cure() {
        let small = Machine {
            fds: Some(70),
            ports_per_address: Some(11),
            memory_available_bytes: Some(1 << 20),
            cores: Some(2),
        };
        let (code, out, err) = check(PROFILE, &[], false, &small);
        assert_eq!(code, 2);
        assert_eq!(out.matches("DOES NOT FIT").count(), 3, "{out}");
        for cure in ["ulimit", "bind = ", "memory"] {
            assert!(err.contains(cure), "{err}");
        }
        let two_addresses = ["bind=[\"127.0.0.1\", \"127.0.0.2\"]"];
        let (code, _, err) =
            check(PROFILE, &two_addresses, false, &Machine { ports_per_address: Some(11), ..Machine::default() });
        assert_eq!((code, err.as_str()), (0, ""));
    }

    #[test]
    fn a_wrong_profile_is_exit_2_with_lines_on_standard_error() {
        let (code, out, err) = check(&PROFILE.replace("hold", "hodl"), &[], false, &Machine::default());
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.contains("p.toml:12: load.hodl: unknown key; did you mean `hold`?"), "{err}");
        assert!(err.contains("load.hold: is missing"), "{err}");
    }

    #[test]
    fn resolved_says_where_each_value_came_from() {
        let (code, out, _) = check(PROFILE, &["load.hold=40s"], true, &Machine::default());
        assert_eq!(code, 0);
        let line = |key: &str| out.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {out}"));
        assert!(line("load.hold ").contains("\"40s\"") && line("load.hold ").ends_with("# --set load.hold=40s"));
        assert!(line("load.warmup").ends_with("# default"));
        assert!(line("rooms[0].size").ends_with("p.toml:7"));
        assert!(line("pass.\"legs.dropped\"").ends_with("p.toml:14"));
    }
}
