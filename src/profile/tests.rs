//! Whole profiles through the loader: what they mean, and every way to get them wrong.

use super::load::{Surroundings, load_in};
use super::*;
use crate::types::{Client, Codec, UnlikeServer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const STEADY: &str = r#"shape = "steady"
target = "embedded"
[[rooms]]
name = "meeting"
count = 3
size = 4
audio = "opus@32kbit/s"
video = "vp8@500kbit/s"
[load]
join = "8/s"
hold = "20s"
[pass]
"audio.loss" = "<= 0.3%"
"#;

const EVERYTHING: &str = r#"
name = "all keys"
shape = "steady"
target = "t/janus.toml"
client = "light"
seed = 9007199254740991
bind = ["10.0.0.1", "fd00::1"]
shards = 2
receive_buffer = 65536
[[rooms]]
name = "meeting"
count = 2
size = "2..6"
send = "all"
audio = "opus@32kbit/s"
video = "h264@1500kbit/s"
stay = "3m..6m"
network = { loss_up = "2%", loss_down = "0.35%" }
[[rooms]]
name = "webinar"
count = 1
size = 14
send = 2
video = "vp8@150kbit/s"
stay = "lognormal(3m, 0.6)"
talk = "p59"
mute = { after = "2m", lasts = "20s" }
[[rooms.network]]
preset = "bad-wifi"
share = "20%"
down = { delay = "9ms" }
[[rooms.network]]
share = "10%"
[rooms.network.up]
loss = "2%"
burst = 4.5
burst_loss = "60%"
base_loss = "0.1%"
delay = "260ms"
jitter = "3ms"
jitter_shape = "exponential"
jitter_reorders = true
reorder = "0.1%"
reorder_by = "15ms"
duplicate = "0.2%"
corrupt = "0.01%"
rate = "1.5Mbit/s"
queue = "64kB"
blackout = "800ms"
blackout_after = "20s"
blackout_every = "30s"
after = "5s"
[load]
join = "ramp(1/s..20/s, 30s)"
warmup = "1500ms"
hold = "2h"
join_timeout = "7.5s"
[pass]
"audio.loss" = "<= 0.3%"
setup.total.p95 = "<1.5s"
"video.freezes" = "<= 0.2/min"
"legs.dropped" = "== 0"
[health]
shard_cpu_max = "85%"
steal_max = "1.5%"
lateness_p99_max = "4ms"
timer_p99_max = "3ms"
machine_cpu_max = "95%"
socket_drops_max = "0.01%"
send_errors_max = "0.02%"
udp_errors_max = "0.03%"
reference_loss_max = "0.04%"
reference_delay_p99_max = "5ms"
reference_jitter_max = "2ms"
clock_step_max = "6ms"
descriptors_left_min = 100
ports_left_min = 200
inconclusive_share_max = "10%"
"#;

const JANUS: &str = r#"
driver = "janus"
allow = ["10.77.0.0/24", "192.168.1.9"]
tls_verify = false
simulcast = "ssrc-group"
[[servers]]
id = "janus-1"
url = "ws://10.77.0.1:8188"
admin = "http://10.77.0.1:7088/admin"
[[servers]]
id = "janus-2"
url = "wss://janus.example:8989/janus"
[secrets]
admin = { env = "ADMIN" }
api = { file = "api.key" }
token = "in the clear"
absent = { env = "ABSENT", optional = true }
"#;

type Loaded = Result<(Profile, Vec<Explained>), ProfileErrors>;

fn load_files(files: &[(&str, &str)], env: &[(&str, &str)], sets: &[&str]) -> Loaded {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    let surroundings = Surroundings {
        read: &|path: &Path| match path.to_str().and_then(|p| files.get(p)) {
            Some(text) => Ok((*text).to_owned()),
            None => Err("no such file".to_owned()),
        },
        env: &|name| env.get(name).map(|v| (*v).to_owned()),
        seed: &|| 42,
        secrets: true,
    };
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    load_in(&surroundings, Path::new("dir/p.toml"), &sets)
}

fn load_text(text: &str, sets: &[&str]) -> Loaded {
    load_files(&[("dir/p.toml", text)], &[], sets)
}

fn everything() -> Profile {
    let files = [("dir/p.toml", EVERYTHING), ("dir/t/janus.toml", JANUS), ("dir/t/api.key", "key from a file\n")];
    load_files(&files, &[("ADMIN", "adminpw")], &[]).unwrap().0
}

/// The errors of a profile, one a line.
fn errors(text: &str) -> String {
    load_text(text, &[]).unwrap_err().to_string()
}

/// The errors of the minimal profile with one text replaced.
fn errors_with(from: &str, to: &str) -> String {
    assert!(STEADY.contains(from), "{from}");
    errors(&STEADY.replace(from, to))
}

#[test]
fn a_room_of_more_senders_than_a_session_description_holds_is_refused() {
    let room = |more: &str| {
        let text = "shape = \"steady\"\ntarget = \"embedded\"\n[[rooms]]\nname = \"hall\"\ncount = 1\nMORE\n\
            audio = \"opus@32kbit/s\"\nvideo = \"vp8@500kbit/s\"\n[load]\njoin = \"10/s\"\nhold = \"20s\"\n\
            [pass]\n\"legs.dropped\" = \"== 0\"\n";
        load_text(&text.replace("MORE", more), &[]).map_err(|e| e.to_string())
    };
    let error = room("size = 513").err().unwrap();
    let want = "rooms[0].size: 513 senders make a session description of 1026 m-lines, and at most 1024 can be read: \
                let at most 512 of a room `send`, or send less";
    assert!(error.contains(&format!(":6: {want}")), "{error}");
    assert!(room("size = 600\nsend = 513").err().unwrap().contains(":7: rooms[0].send: 513 senders"));
    assert!(room("size = \"2..600\"").err().unwrap().contains("rooms[0].size: 600 senders"));
    for fits in ["size = 512", "size = 10_000\nsend = 512"] {
        assert!(room(fits).is_ok(), "{fits}");
    }
}

#[test]
fn servers_of_the_embedded_fleet_may_differ() {
    let with = |more: &str| STEADY.replace("[[rooms]]", &format!("[embedded]\nservers = 3\n{more}[[rooms]]"));
    let two =
        "[[embedded.server]]\nid = \"s2\"\nparticipants_max = 14\n[[embedded.server]]\nid = \"s3\"\ncpu_max = \"5%\"\n";
    let (p, _) = load_text(&with(two), &[]).unwrap();
    let unlike = |p: &Profile| match &p.target {
        Target::Embedded(fleet) => fleet.unlike.clone(),
        Target::External(t) => panic!("{t:?}"),
    };
    let own = |id: &str, participants_max, cpu_max| UnlikeServer { id: id.into(), participants_max, cpu_max };
    assert_eq!(unlike(&p), [own("s2", Some(14), None), own("s3", None, Some(0.05))]);
    let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
    assert_eq!((unlike(&again), &again.resolved), (unlike(&p), &p.resolved));
    // As the director is told it.
    for server in unlike(&p) {
        assert_eq!(server.to_string().parse::<UnlikeServer>(), Ok(server));
    }
    let wrong = |more: &str| errors(&with(more));
    for (keys, want) in [
        ("id = \"s4\"\ncpu_max = \"5%\"", "embedded.server[0].id: \"s4\" is no server of this fleet: s1 to s3"),
        ("id = \"s2\"", "embedded.server[0]: has nothing of its own: participants_max or cpu_max"),
        ("id = \"s2\"\ncpu_max = \"0.5%\"", "embedded.server[0].cpu_max: is too little for a server: 1% at least"),
        ("participants_max = 3", "embedded.server[0].id: is missing"),
        (
            "id = \"s2\"\ncpu_max = \"5%\"\n[[embedded.server]]\nid = \"s2\"\ncpu_max = \"6%\"",
            "embedded.server: \"s2\" is there twice",
        ),
    ] {
        let got = wrong(&format!("[[embedded.server]]\n{keys}\n"));
        assert!(got.contains(want), "{got}\nshould hold {want}");
    }
}

#[test]
fn a_small_profile_gets_its_defaults() {
    let (p, _) = load_text(STEADY, &[]).unwrap();
    assert_eq!((p.name.as_str(), p.seed, p.client, p.shards), ("p", 42, Client::Chrome, None));
    let Target::Embedded(fleet) = &p.target else { panic!("{:?}", p.target) };
    assert_eq!((fleet.servers, fleet.participants_max), (2, 500));
    assert_eq!((p.rooms[0].send, p.rooms[0].stay), (Senders::All, Stay::WholeHold));
    assert_eq!(p.rooms[0].networks, []);
    assert_eq!((p.load.warmup, p.load.join_timeout), (Duration::from_secs(5), Duration::from_secs(15)));
    assert_eq!(p.health, HealthLimits::default());
}

#[test]
fn every_key_arrives() {
    let p = everything();
    assert_eq!((p.name.as_str(), p.seed, p.client, p.shards), ("all keys", (1 << 53) - 1, Client::Light, Some(2)));
    assert_eq!(p.bind.len(), 2);
    let loss = |c: crate::impair::Conditions| c.loss.share();
    let n = &p.rooms[0].networks[0];
    assert_eq!((p.rooms[0].size, n.share, loss(n.up), loss(n.down)), (Size::Range(2, 6), 1.0, 0.02, 0.0035));
    let [wifi, sky] = p.rooms[1].networks.as_slice() else { panic!("{:?}", p.rooms[1].networks) };
    assert_eq!((wifi.preset, wifi.share, sky.share), (Some("bad-wifi"), 0.2, 0.1));
    assert_eq!((wifi.up.loss.share(), wifi.down.delay), (0.03, Duration::from_millis(9)));
    assert_eq!(sky.up.rate.unwrap().queue, crate::impair::Queue::Bytes(64_000));
    assert_eq!((p.rooms[1].send, p.rooms[1].audio), (Senders::Some(2), None));
    let muting = Muting { after: Duration::from_secs(120), lasts: Duration::from_secs(20) };
    assert_eq!((p.rooms[0].talk, p.rooms[0].mute), (Talk::All, None));
    assert_eq!((p.rooms[1].talk, p.rooms[1].mute), (Talk::P59, Some(muting)));
    assert_eq!(p.rooms[1].video.unwrap().codec, Codec::Vp8);
    assert_eq!(p.load.join, Join::Ramp { from: 1.0, to: 20.0, over: Duration::from_secs(30) });
    assert_eq!(p.load.join_timeout, Duration::from_millis(7500));
    let exprs: Vec<&str> = p.pass.iter().map(|t| t.expr.as_str()).collect();
    assert_eq!(
        exprs,
        ["audio.loss <= 0.3%", "setup.total.p95 < 1.5s", "video.freezes <= 0.2/min", "legs.dropped == 0"]
    );
    assert_eq!((p.pass[1].op, p.pass[1].value), (Op::Lt, ThresholdValue::Ms(1500.0)));
    let ms = Duration::from_millis;
    let health = HealthLimits {
        shard_cpu_max: 0.85,
        steal_max: 0.015,
        lateness_p99_max: ms(4),
        timer_p99_max: ms(3),
        machine_cpu_max: 0.95,
        socket_drops_max: 0.0001,
        send_errors_max: 0.0002,
        udp_errors_max: 0.0003,
        reference_loss_max: 0.0004,
        reference_delay_p99_max: ms(5),
        reference_jitter_max: ms(2),
        clock_step_max: ms(6),
        descriptors_left_min: 100,
        ports_left_min: 200,
        inconclusive_share_max: 0.1,
    };
    assert_eq!((p.health, p.receive_buffer), (health, Some(65536)));
    let Target::External(t) = &p.target else { panic!("{:?}", p.target) };
    assert_eq!((t.driver.as_str(), t.servers.len(), t.allow.len()), ("janus", 2, 2));
    assert_eq!((t.tls_verify, t.authorized), (false, false));
    assert_eq!(t.simulcast, crate::types::Simulcast::SsrcGroup);
    let secrets: Vec<(&str, &str)> = t.secrets.iter().map(|(k, v)| (k.as_str(), v.0.as_str())).collect();
    assert_eq!(secrets, [("admin", "adminpw"), ("api", "key from a file"), ("token", "in the clear")]);
}

#[test]
fn a_mute_needs_both_its_times() {
    let with = |mute: &str| errors_with("size = ", &format!("mute = {mute}\nsize = "));
    assert!(with("{ after = \"2m\" }").contains("needs both"));
    assert!(with("{ after = \"2m\", lasts = \"100ms\" }").contains("rooms[0].mute.lasts"));
    assert!(with("{ every = \"2m\" }").contains("unknown key"));
    assert!(with("\"2m\"").contains("is a table"));
}

#[test]
fn the_resolved_text_means_the_same_and_holds_no_secret() {
    for p in [everything(), load_text(STEADY, &[]).unwrap().0] {
        for secret in ["adminpw", "key from a file", "in the clear"] {
            assert!(!p.resolved.contains(secret), "{}", p.resolved);
        }
        let again = parse_resolved(&p.resolved).unwrap();
        assert_eq!(again.resolved.replace("\"***\"", ""), p.resolved.replace("\"***\"", ""));
        assert_eq!((&again.name, &again.rooms, &again.load, &again.pass), (&p.name, &p.rooms, &p.load, &p.pass));
        assert_eq!((again.health, again.seed, &again.bind, again.shards), (p.health, p.seed, &p.bind, p.shards));
        assert_eq!(again.client, p.client);
        match (&p.target, &again.target) {
            (Target::Embedded(a), Target::Embedded(b)) => assert_eq!(a, b),
            (Target::External(a), Target::External(b)) => {
                assert_eq!((&a.driver, &a.servers, &a.allow), (&b.driver, &b.servers, &b.allow));
                assert_eq!((a.authorized, a.tls_verify, a.simulcast), (b.authorized, b.tls_verify, b.simulcast));
                assert!(b.secrets.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(everything().resolved.contains("\"admin\" = { env = \"ADMIN\" }"));
}

#[test]
fn a_resolved_text_can_be_run_again() {
    let p = everything();
    let files = [("dir/p.toml", p.resolved.as_str()), ("dir/api.key", "k")];
    let (again, _) = load_files(&files, &[("ADMIN", "x")], &[]).unwrap();
    assert_eq!(again.resolved, p.resolved);
}

#[test]
fn all_errors_come_at_once_with_line_and_key() {
    let text = r#"shape = "steady"
target = "t.toml"
hodl = "3s"
seed = "x"
[[rooms]]
name = "a b"
count = 0
size = 4.5
audio = "opus@33kbit/s"
[[rooms]]
name = "c"
count = 1
size = 4
send = 5
video = "vp8@500kbit/s"
[load]
join = 8
hold = 20
warm_up = "3s"
[pass]
"audio.los" = "<= 0.3%"
"audio.delay.p99" = "<= 80"
"legs.dropped" = "0"
"#;
    let target = "driver = \"jaunus\"\n[[servers]]\nid = \"x\"\nurl = \"ws://8.8.8.8:1\"\n[secrets]\na = { env = \"A\" }\nb = { file = \"b.key\" }\n";
    let all = load_files(&[("dir/p.toml", text), ("dir/t.toml", target)], &[], &[]).unwrap_err().to_string();
    let want = [
        "dir/p.toml:3: hodl: unknown key",
        "dir/p.toml:4: seed: is a bare number",
        "dir/p.toml:6: rooms[0].name: ' ' cannot be part of a name",
        "dir/p.toml:7: rooms[0].count: 0 is out of range",
        "dir/p.toml:8: rooms[0].size: is a number, 4, or a range",
        "dir/p.toml:9: rooms[0].audio: there is no opus clip at 33kbit/s; write \"opus@32kbit/s\"",
        "dir/p.toml:14: rooms[1].send: 5 senders do not fit into a room of 4",
        "dir/p.toml:17: load.join: a bare number is a count; write 8 with its unit, as in \"8/s\"",
        "dir/p.toml:18: load.hold: a bare number is a count; write 20 with its unit, as in \"20s\"",
        "dir/p.toml:19: load.warm_up: unknown key; did you mean `warmup`?",
        "dir/p.toml:21: pass.\"audio.los\": there is no such metric; did you mean \"audio.loss\"?",
        "dir/p.toml:22: pass.\"audio.delay.p99\": a bare number is a count; this is in time",
        "dir/p.toml:23: pass.\"legs.dropped\": \"0\" begins with no operator",
        "dir/t.toml:1: driver: there is no driver \"jaunus\"; this version has embedded, janus",
        "dir/t.toml:4: servers[0].url: ws://8.8.8.8:1 is outside loopback and private ranges",
        "dir/t.toml:6: secrets.a: the environment variable A is not set",
        "dir/t.toml:7: secrets.b: the file b.key cannot be read: no such file",
    ];
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), want.len(), "{all}");
    for (line, want) in lines.iter().zip(want) {
        assert!(line.starts_with(want), "{line}\nshould begin {want}");
    }
}

#[test]
fn one_wrong_thing_is_one_error() {
    for (from, to, want) in [
        (
            "\"steady\"",
            "\"weekly\"",
            "p.toml:1: shape: \"weekly\" is unknown; write \"steady\" or \"capacity\" or \"scale-in\"",
        ),
        ("\"steady\"", "\"steedy\"", "p.toml:1: shape: \"steedy\" is unknown; did you mean \"steady\"?"),
        ("shape = \"steady\"", "", "p.toml:1: shape: is missing"),
        ("target = \"embedded\"", "target = \"x.toml\"", "p.toml:2: target: dir/x.toml: cannot be read: no such file"),
        (
            "target = \"embedded\"",
            "target = 3",
            "p.toml:2: target: is \"embedded\" or the path of a target file, not 3",
        ),
        ("[load]", "[search]\nrange = 3\n[load]", "p.toml:9: search: [search] belongs to shape \"capacity\""),
        ("[load]", "[[step]]\na = 3\n[load]", "p.toml:9: step: [step] belongs to shape \"scale-in\""),
        (
            "[load]",
            "[fleet]\n[load]",
            "p.toml:9: fleet: [fleet] belongs to shape \"scale-in\" and is not supported yet",
        ),
        (
            "[load]",
            "[join]\nexec = []\n[load]",
            "p.toml:9: join: [join] (the user's own join API) belongs in the target file",
        ),
        ("count = 3", "count = 3\nseed = 4", "p.toml:6: rooms[0].seed: `seed` is a key of the top"),
        ("count = 3", "count = 3\nhold = 4", "p.toml:6: rooms[0].hold: unknown key here; `hold` belongs in [load]"),
        ("count = 3", "count = \"3\"", "p.toml:5: rooms[0].count: is a bare number"),
        ("count = 3\n", "", "p.toml:3: rooms[0].count: is missing"),
        ("size = 4", "size = \"6..2\"", "p.toml:6: rooms[0].size: the range 6..2 runs backwards"),
        ("size = 4", "size = 4\nsend = \"some\"", "p.toml:7: rooms[0].send: is \"all\" or a bare number"),
        ("size = 4", "size = 4\nstay = \"10ms\"", "p.toml:7: rooms[0].stay: a stay is between 1s and 7d"),
        (
            "size = 4",
            "size = 4\nnetwork = { loss_up = \"101%\" }",
            "p.toml:7: rooms[0].network.loss_up: 101% is out of range",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { preset = \"wify\" }",
            "p.toml:7: rooms[0].network.preset: \"wify\" is unknown; did you mean \"wifi\"?",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { preset = \"moon\" }",
            "p.toml:7: rooms[0].network.preset: \"moon\" is unknown; write \"lan\" or ",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = [{ share = \"60%\" }, { share = \"50%\" }]",
            "p.toml:7: rooms[0].network: its shares add up to 110.0000%",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { loss_up = \"1%\", up = { loss = \"2%\" } }",
            "p.toml:7: rooms[0].network.loss_up: and `up.loss` say the same thing twice",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { down = { delay = \"6s\" } }",
            "p.toml:7: rooms[0].network.down.delay: 6s is out of range: 0s to 5s",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { burst = 5 } }",
            "p.toml:7: rooms[0].network.up.burst: means nothing without `loss`",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { loss = \"2%\", burst_loss = \"9%\" } }",
            "p.toml:7: rooms[0].network.up.burst_loss: means nothing without `burst`",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { loss = \"9%\", burst = 5, burst_loss = \"5%\" } }",
            "p.toml:7: rooms[0].network.up.loss: a loss of 9% lies outside",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { loss = \"1%\", burst = 0.5 } }",
            "p.toml:7: rooms[0].network.up.burst: 0.5 is out of range",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { queue = \"1s\" } }",
            "p.toml:7: rooms[0].network.up.queue: means nothing without `rate`",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { rate = \"2\" } }",
            "p.toml:7: rooms[0].network.up.rate: \"2\" is no bit rate",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { rate = \"2Mbit/s\", queue = \"9s\" } }",
            "p.toml:7: rooms[0].network.up.queue: 9s is out of range",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { reorder_by = \"1ms\" } }",
            "p.toml:7: rooms[0].network.up.reorder_by: means nothing without `reorder`",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { jitter_reorders = true } }",
            "p.toml:7: rooms[0].network.up.jitter_reorders: means nothing without `jitter`",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { rate = \"64kbit/s\", queue = \"10MB\" } }",
            "p.toml:7: rooms[0].network.up.queue: a full queue would take 1250 s to leave at this rate; at most 60 s",
        ),
        (
            "size = 4",
            "size = 4\nnetwork = { up = { blackout = \"2s\", blackout_every = \"1s\" } }",
            "p.toml:7: rooms[0].network.up.blackout_every: a black-out must end",
        ),
        (
            "[load]",
            "[network]\npresett = \"lte\"\n[load]",
            "p.toml:10: network.presett: unknown key; did you mean `preset`?",
        ),
        ("size = 4", "size = 4\nnetwork = { loss = \"1%\" }", "p.toml:7: rooms[0].network.loss: unknown key"),
        ("size = 4", "size = 4\nnetwork = 3", "p.toml:7: rooms[0].network: is a table"),
        ("vp8@500kbit/s", "opus@32kbit/s", "p.toml:8: rooms[0].video: opus@32kbit/s is audio; write \"vp8@150kbit/s\""),
        ("[[rooms]]", "[rooms]", "p.toml:3: rooms: is an array of tables: write [[rooms]], with two brackets"),
        ("8/s", "0/s", "p.toml:10: load.join: a join rate is between"),
        ("8/s", "burst(0, 3s)", "p.toml:10: load.join: a burst of 0"),
        ("8/s", "0.001/s\"\nwarmup = \"2", "p.toml:11: load.warmup: a bare number is a count"),
        ("20s", "0.5s", "p.toml:11: load.hold: 0.5s is out of range: 1s to 168h"),
        ("\"20s\"", "[\"20s\"]", "p.toml:11: load.hold: write it as in \"20s\", not an array"),
        ("\"audio.loss\" = \"<= 0.3%\"", "", "p.toml:12: pass: is empty"),
        ("<= 0.3%", "= 0.3%", "p.toml:13: pass.\"audio.loss\": \"= 0.3%\" begins with no operator"),
        ("<= 0.3%", "<= 300%", "p.toml:13: pass.\"audio.loss\": 300% is more than all"),
        ("<= 0.3%", "<= 3ms", "p.toml:13: pass.\"audio.loss\": \"3ms\" has the wrong unit; this is in percent"),
        (
            "\"audio.loss\"",
            "\"audio.delay\"",
            "p.toml:13: pass.\"audio.delay\": there is no such metric; write one of audio.delay.p50",
        ),
        ("count = 3", "count = 100000", "p.toml:3: rooms: 400000 participants at once are more than one run carries"),
    ] {
        let got = errors_with(from, to);
        assert!(got.starts_with(&format!("dir/{want}")), "{from} -> {to}: {got}\nshould begin dir/{want}");
        assert_eq!(got.lines().count(), 1, "{from} -> {to}: {got}");
    }
}

#[test]
fn senders_of_nothing_and_repeated_names_are_errors() {
    let silent = STEADY.replace("audio = \"opus@32kbit/s\"\nvideo = \"vp8@500kbit/s\"\n", "");
    assert!(errors(&silent).contains("rooms[0]: its participants send nothing"));
    assert!(load_text(&silent.replace("size = 4", "size = 4\nsend = 0"), &[]).is_ok());
    let twice =
        format!("{STEADY}[[rooms]]\nname = \"meeting\"\ncount = 1\nsize = 2\nbad = 1\naudio = \"opus@32kbit/s\"\n");
    let got = errors(&twice);
    assert!(got.contains("p.toml:15: rooms[1].name: \"meeting\" is rooms[0] already"), "{got}");
    assert!(got.contains("rooms[1].bad: unknown key"), "{got}");
}

#[test]
fn loads_whose_plan_would_not_fit_are_refused() {
    let many = STEADY.replace("size = 4", "size = 10000\nstay = \"1s\"").replace("20s", "24h");
    assert!(errors(&many).contains("stays are more than one run carries"), "{}", errors(&many));
    let slow = STEADY.replace("count = 3", "count = 3000").replace("8/s", "0.001/s");
    assert!(errors(&slow).contains("load.join: 12000 joins at this rate take 139 days"), "{}", errors(&slow));
}

#[test]
fn syntax_errors_do_not_hide_the_others_nor_invent_some() {
    let text = STEADY.replace("hold = \"20s\"", "hold = 20s").replace("count = 3", "count = 0");
    let got = errors(&text);
    let lines: Vec<&str> = got.lines().collect();
    assert_eq!(lines.len(), 2, "{got}");
    assert!(lines[0].starts_with("dir/p.toml:5: rooms[0].count: 0 is out of range"), "{got}");
    assert!(lines[1].starts_with("dir/p.toml:11: TOML: ") && lines[1].contains("\"20s\""), "{got}");
    let header = errors(&STEADY.replace("[load]", "[load"));
    assert!(header.starts_with("dir/p.toml:9: TOML: ") && header.lines().count() == 1, "{header}");
    let double = errors(&STEADY.replace("hold = ", "join = \"9/s\"\nhold = "));
    assert!(double.contains("dir/p.toml:11: TOML: duplicate key"), "{double}");
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    assert_eq!(load_files(&[], &[], &[]).unwrap_err().to_string(), "dir/p.toml: cannot be read: no such file");
    let got = errors(&format!("extends = \"b.toml\"\n{STEADY}"));
    assert_eq!(got, "dir/p.toml:1: extends: dir/b.toml: cannot be read: no such file");
}

#[test]
fn a_profile_extends_one_other() {
    let over = "extends = \"base/b.toml\"\n[load]\nhold = \"1m\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n";
    let (p, explained) = load_files(&[("dir/p.toml", over), ("dir/base/b.toml", STEADY)], &[], &[]).unwrap();
    assert_eq!((p.load.hold, p.load.join), (Duration::from_secs(60), Join::Constant(8.0)));
    assert_eq!(p.pass.len(), 2);
    let from = |key: &str| explained.iter().find(|e| e.key == key).unwrap().from.to_string();
    assert_eq!(from("load.hold"), "dir/p.toml:3");
    assert_eq!(from("load.join"), "dir/base/b.toml:10");
    assert_eq!(from("load.warmup"), "default");
    assert_eq!(from("seed"), "drawn");
    assert_eq!(from("pass.\"legs.dropped\""), "dir/p.toml:5");

    let twice = format!("extends = \"c.toml\"\n{STEADY}");
    let got = load_files(&[("dir/p.toml", over), ("dir/base/b.toml", &twice)], &[], &[]).unwrap_err().to_string();
    assert_eq!(got, "dir/base/b.toml:1: extends: one level only: a base extends nothing itself");

    let wrong = STEADY.replace("count = 3", "count = 0");
    let got = load_files(&[("dir/p.toml", over), ("dir/base/b.toml", &wrong)], &[], &[]).unwrap_err().to_string();
    assert!(got.starts_with("dir/base/b.toml:5: rooms[0].count"), "{got}");
}

#[test]
fn a_target_is_found_beside_the_file_that_names_it() {
    let base = STEADY.replace("\"embedded\"", "\"t.toml\"");
    let files =
        [("dir/p.toml", "extends = \"base/b.toml\""), ("dir/base/b.toml", base.as_str()), ("dir/base/t.toml", JANUS)];
    let got = load_files(&files, &[("ADMIN", "x")], &[]).unwrap_err().to_string();
    assert_eq!(got, "dir/base/t.toml:15: secrets.api: the file api.key cannot be read: no such file");
}

#[test]
fn set_comes_last() {
    let sets = [
        "load.hold=40s",
        "rooms.0.count=7",
        "rooms.meeting.size=2..3",
        "pass.audio.loss=<= 1%",
        "pass.legs.dropped=== 0",
        "seed=5",
        "bind=[\"127.0.0.2\"]",
        "embedded.servers=3",
    ];
    let (p, explained) = load_text(STEADY, &sets).unwrap();
    assert_eq!(
        (p.load.hold, p.rooms[0].count, p.rooms[0].size, p.seed),
        (Duration::from_secs(40), 7, Size::Range(2, 3), 5)
    );
    let exprs: Vec<&str> = p.pass.iter().map(|t| t.expr.as_str()).collect();
    assert_eq!(exprs, ["audio.loss <= 1%", "legs.dropped == 0"]);
    let from = |key: &str| explained.iter().find(|e| e.key == key).unwrap().from.to_string();
    assert_eq!(from("rooms[0].count"), "--set rooms.0.count=7");
    assert_eq!(from("embedded.servers"), "--set embedded.servers=3");
}

#[test]
fn set_reaches_the_target_and_its_file() {
    let files =
        [("dir/p.toml", STEADY), ("t.toml", "driver = \"janus\"\n[[servers]]\nid = \"a\"\nurl = \"ws://10.0.0.1\"\n")];
    let (p, _) = load_files(&files, &[], &["target=t.toml", "target_file.servers.a.url=ws://10.0.0.2:99"]).unwrap();
    let Target::External(t) = &p.target else { panic!("{:?}", p.target) };
    assert_eq!(t.servers[0].url, "ws://10.0.0.2:99");
}

#[test]
fn wrong_sets_are_errors_that_name_themselves() {
    for (set, want) in [
        ("load.hold", "--set load.hold: write key=value"),
        ("load.hold=20", "--set load.hold=20: load.hold: a bare number is a count"),
        ("load.hodl=20s", "--set load.hodl=20s: load.hodl: unknown key; did you mean `hold`?"),
        ("rooms.9.count=1", "--set rooms.9.count=1: there is no `rooms.9`"),
        ("shape.x=1", "--set shape.x=1: `shape.x` is inside a value that is no table"),
        ("load..x=1", "--set load..x=1: \"load..x\" cannot be set"),
        ("extends=x", "--set extends=x: \"extends\" cannot be set"),
        (
            "target_file.secrets.admin=hush",
            "--set target_file.secrets.admin: target_file.secrets.admin: secrets come from",
        ),
    ] {
        let got = load_text(STEADY, &[set]).unwrap_err().to_string();
        assert!(got.starts_with(want) && got.lines().count() == 1, "{set}: {got}");
        assert!(!got.contains("hush"));
    }
}

#[test]
fn targets_in_the_open_want_authorization() {
    let profile = STEADY.replace("\"embedded\"", "\"t.toml\"");
    let target =
        |extra: &str, url: &str| format!("driver = \"janus\"\n{extra}\n[[servers]]\nid = \"a\"\nurl = \"{url}\"\n");
    let load = |t: String| load_files(&[("dir/p.toml", &profile), ("dir/t.toml", &t)], &[], &[]);
    assert!(load(target("", "ws://192.168.0.1:8188")).is_ok());
    assert!(load(target("", "ws://[2001:db8::1]:8188")).unwrap_err().to_string().contains("authorized = true"));
    assert!(load(target("authorized = true", "ws://[2001:db8::1]:8188")).is_ok());
    assert!(
        load(target("allow = [\"0.0.0.0/0\"]", "ws://10.0.0.1"))
            .unwrap_err()
            .to_string()
            .contains("allow[0]: 0.0.0.0/0")
    );
    let twice = target("", "ws://10.0.0.1") + "[[servers]]\nid = \"a\"\nurl = \"ws://10.0.0.2\"\n";
    assert!(load(twice).unwrap_err().to_string().contains("servers[1].id: \"a\" is servers[0] already"));
}

#[test]
fn secrets_are_not_shown_by_debug() {
    assert!(!format!("{:?}", everything()).contains("adminpw"));
}

fn shipped() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    all.sort();
    assert!(all.len() >= 4, "{all:?}");
    all
}

/// With whatever secrets it asks for.
fn load_shipped(path: &Path) -> Profile {
    let surroundings = Surroundings {
        read: &|path| std::fs::read_to_string(path).map_err(|e| e.to_string()),
        env: &|_| Some("secret".to_owned()),
        seed: &|| 42,
        secrets: true,
    };
    load_in(&surroundings, path, &[]).unwrap_or_else(|e| panic!("{e}")).0
}

#[test]
fn every_profile_that_we_ship_loads_and_explains_itself() {
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{path:?} explains itself in its first lines");
        let profile = load_shipped(&path);
        assert_eq!(parse_resolved(&profile.resolved).unwrap().resolved, profile.resolved);
    }
}

/// Keys of a JSON value that a schema does not know.
fn strangers(
    value: &serde_json::Value,
    schema: &serde_json::Value,
    root: &serde_json::Value,
    path: &str,
    out: &mut Vec<String>,
) {
    let schema = match schema["$ref"].as_str() {
        Some(pointer) => root.pointer(pointer.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    match value {
        serde_json::Value::Object(map) => {
            for (key, inner) in map {
                let path = format!("{path}.{key}");
                match &schema["properties"][key] {
                    serde_json::Value::Null if schema["additionalProperties"].is_object() => {}
                    serde_json::Value::Null => out.push(path),
                    found => strangers(inner, found, root, &path, out),
                }
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|i| strangers(i, &schema["items"], root, path, out));
        }
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_key_of_the_profiles_that_we_ship() {
    let schema = schema();
    let check = |text: &str, part: &serde_json::Value| {
        let json = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
        let mut out = Vec::new();
        strangers(&json, part, &schema, "", &mut out);
        out
    };
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(check(&text, &schema), [""; 0], "{path:?}");
        let resolved = load_shipped(&path).resolved;
        assert_eq!(check(&resolved, &schema), [""; 0], "{path:?}");
    }
    assert_eq!(check(EVERYTHING.split("[pass]").next().unwrap(), &schema), [""; 0]);
    assert_eq!(check(JANUS, &schema["$defs"]["target_file"]), [""; 0]);
    assert_eq!(check("[load]\nhodl = 1", &schema), [".load.hodl"]);
}

#[test]
fn the_documentation_names_every_key_and_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles.md");
    let docs = std::fs::read_to_string(path).unwrap();
    for key in keys::KEYS {
        let row = format!("| `{}` |", key.name);
        assert!(docs.contains(&row), "{row} of {:?}", key.table);
        if let keys::Need::Default(default) = key.need
            && default != "{}"
        {
            assert!(
                docs.lines().any(|l| l.starts_with(&row) && l.contains(&format!("`{default}`"))),
                "default {default} of {row}"
            );
        }
    }
    for (pattern, unit, _) in metrics::TABLE {
        let row = format!("| `{pattern}` | {} |", unit.as_str());
        assert!(docs.contains(&row), "{row}");
    }
}

#[test]
fn mutated_profiles_never_panic() {
    let mut rng = ChaCha12Rng::seed_from_u64(2026);
    let pieces: Vec<&str> = EVERYTHING.split_inclusive(['\n', '=', '"', '.', ' ', '[', ']']).collect();
    let (mut good, mut bad) = (0, 0);
    for round in 0..20_000 {
        let mut profile = if round % 2 == 0 { EVERYTHING } else { STEADY }.as_bytes().to_vec();
        let mut target = JANUS.as_bytes().to_vec();
        for _ in 0..rng.random_range(1..6) {
            let text = if rng.random_bool(0.25) { &mut target } else { &mut profile };
            let at = rng.random_range(0..text.len());
            match rng.random_range(0..5) {
                0 => text[at] = rng.random_range(0..128),
                1 => drop(text.remove(at)),
                2 => {
                    let piece = pieces[rng.random_range(0..pieces.len())];
                    text.splice(at..at, piece.bytes());
                }
                3 => {
                    let end = (at + rng.random_range(0..40)).min(text.len());
                    text.drain(at..end);
                }
                _ => text
                    .splice(
                        at..at,
                        ["99999999999999999999", "-1", "é", "nan", "{", "\"\"\"", "1e999", "\0"]
                            [rng.random_range(0..8)]
                        .bytes(),
                    )
                    .for_each(drop),
            }
            if text.is_empty() {
                text.push(b'\n');
            }
        }
        let (profile, target) = (String::from_utf8_lossy(&profile), String::from_utf8_lossy(&target));
        let files = [("dir/p.toml", &*profile), ("dir/t/janus.toml", &*target), ("dir/t/api.key", "k")];
        match load_files(&files, &[("ADMIN", "x")], &[]) {
            Ok((p, _)) => {
                good += 1;
                let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
                assert_eq!(again.resolved, p.resolved);
            }
            Err(errors) => {
                bad += 1;
                assert!(!errors.0.is_empty());
                assert!(!errors.to_string().contains("cannot be understood"), "{errors}\n{profile}\n{target}");
            }
        }
    }
    assert!(good > 500 && bad > 5000, "{good} good, {bad} bad");
}

#[test]
fn what_is_no_small_text_file_is_refused() {
    for (path, want) in [("/dev/zero", "is larger than"), ("/", "directory"), ("/proc/self/exe", "UTF-8")] {
        let got = load(Path::new(path), &[]).unwrap_err().to_string();
        assert!(got.starts_with(&format!("{path}: cannot be read: ")) && got.contains(want), "{got}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let deep = 3000;
    let arrays = format!("x = {}{}\n{STEADY}", "[".repeat(deep), "]".repeat(deep));
    assert!(load_text(&arrays, &[]).is_err());
    let tables = format!("x = {}{}\n{STEADY}", "{a=".repeat(deep), "}".repeat(deep));
    assert!(load_text(&tables, &[]).is_err());
    let dotted = format!("{}x = 1\n{STEADY}", "a.".repeat(deep));
    assert!(load_text(&dotted, &[]).is_err());
    let header = format!("{STEADY}[{}x]\n", "a.".repeat(deep));
    assert!(load_text(&header, &[]).is_err());
    let set = format!("{}x=1", "a.".repeat(deep));
    assert!(load_text(STEADY, &[&set]).is_err());
    let value = format!("x={}{}", "[".repeat(deep), "]".repeat(deep));
    assert!(load_text(STEADY, &[&value]).is_err());
}

#[test]
fn adaptation_needs_video_with_room_below_it_and_no_layers() {
    let with = |keys: &str| {
        let profile = EVERYTHING.replace("video = \"h264@1500kbit/s\"", keys);
        let files = [("dir/p.toml", profile.as_str()), ("dir/t/janus.toml", JANUS), ("dir/t/api.key", "key")];
        load_files(&files, &[("ADMIN", "adminpw")], &[])
    };
    let (p, _) = with("video = \"vp8@1500kbit/s\"\nadapt = true").unwrap();
    let steps = |n: usize| -> Vec<u64> { p.rooms[n].steps().iter().map(|e| e.bitrate.0 / 1000).collect() };
    assert_eq!((steps(0), steps(1)), (vec![150, 500], vec![]));
    assert!(p.rooms[0].lower_layers().is_empty());
    for (keys, words) in [
        ("adapt = true", "no video to adapt"),
        ("video = \"vp8@150kbit/s\"\nadapt = true", "the lowest there is"),
        ("video = \"vp8@500kbit/s\"\nsimulcast = true\nadapt = true", "only one of both"),
    ] {
        let errors = with(keys).unwrap_err().to_string();
        assert!(errors.contains("rooms[0].adapt") && errors.contains(words), "{errors}");
    }
}

#[test]
fn layers_need_video_with_room_below_it() {
    let with = |video: &str| {
        let profile = EVERYTHING.replace("video = \"h264@1500kbit/s\"", &format!("{video}\nsimulcast = true"));
        let files = [("dir/p.toml", profile.as_str()), ("dir/t/janus.toml", JANUS), ("dir/t/api.key", "key")];
        load_files(&files, &[("ADMIN", "adminpw")], &[])
    };
    let layers = |video: &str| -> Vec<u64> {
        let (p, _) = with(video).unwrap();
        assert_eq!(p.rooms[1].lower_layers(), []);
        p.rooms[0].lower_layers().iter().map(|e| e.bitrate.0 / 1000).collect()
    };
    assert_eq!(layers("video = \"vp8@1500kbit/s\""), [150, 500]);
    assert_eq!(layers("video = \"h264@500kbit/s\""), [150]);
    for (video, words) in
        [("", "no video to send in layers"), ("video = \"vp8@150kbit/s\"", "the lowest layer there is")]
    {
        let errors = with(video).unwrap_err().to_string();
        assert!(errors.contains("rooms[0].simulcast") && errors.contains(words), "{errors}");
    }
}
