//! Whole profiles through the loader: what they mean, and every way to get them wrong.

mod errors;
mod hostile;
mod shipped;
mod sources;

use super::load::{Surroundings, load_in};
use super::*;
use crate::types::{Client, Codec, UnlikeServer};
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
