//! `[fleet]` and `[join]` of target files.

use super::fleet::{BackendName, JoinBy, RedisPlace};
use super::{ExternalTarget, Target, parse_resolved};
use std::time::Duration;

const PROFILE: &str = "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\n\
    audio = \"opus@32kbit/s\"\n[load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n\
    [target_file]\ndriver = \"janus\"\n[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://10.0.0.1:8188\"\n\
    admin = \"http://10.0.0.1:7088/admin\"\nmetrics = \"http://10.0.0.1:9100/metrics\"\npid_file = \"j1.pid\"\n";

const FLEET: &str = "[target_file.fleet]\ndiscovery = [\"redis\", \"exec\"]\ncontrol = [\"redis\", \"exec\", \"http\", \"process\"]\n\
    observe = [\"janus\", \"prometheus\"]\n\
    [target_file.fleet.redis]\nurl = \"redis://10.0.0.1:6379/2\"\nalive = \"sfu:{server}:alive\"\nlisted = \"sfu:servers\"\n\
    cordoned = \"sfu:cordoned\"\nheadroom = \"sfu:{server}#headroom\"\nrooms = \"rooms#{room}\"\nrestart = [\"./again.sh\"]\n\
    [target_file.fleet.exec]\nlook = [\"./look.sh\", \"-v\"]\nact = [\"./act.sh\"]\nactions = [\"partition_media\", \"heal\"]\n\
    [target_file.fleet.http]\nact = \"http://10.0.0.1:80/act\"\ntimeout = \"900ms\"\n\
    [target_file.fleet.prometheus]\nsessions = \"sfu_sessions\"\nloss = \"sfu_loss_percent{kind=\\\"audio\\\"} * 0.01\"\n\
    [target_file.join]\nexec = [\"./join.sh\"]\n";

fn target(text: &str) -> ExternalTarget {
    let profile = parse_resolved(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    // What is kept for judging again means the same.
    let again = parse_resolved(&profile.resolved).unwrap_or_else(|e| panic!("{e}\n{}", profile.resolved));
    assert_eq!(again.resolved, profile.resolved);
    match profile.target {
        Target::External(t) => t,
        Target::Embedded(_) => panic!("{text}"),
    }
}

#[test]
fn backends_are_read_with_their_settings() {
    let t = target(&format!("{PROFILE}{FLEET}"));
    let f = &t.fleet;
    assert_eq!(f.discovery, [BackendName::Redis, BackendName::Exec]);
    assert_eq!(f.observe, [BackendName::Janus, BackendName::Prometheus]);
    let redis = f.redis.as_ref().unwrap();
    assert_eq!((redis.url.as_str(), redis.pause), ("redis://10.0.0.1:6379/2", Duration::from_secs(30)));
    assert_eq!(redis.cordoned.as_ref().unwrap().place, RedisPlace::Set { key: "sfu:cordoned".into() });
    assert_eq!(f.exec.as_ref().unwrap().actions, ["partition_media", "heal"]);
    assert_eq!(f.http.as_ref().unwrap().timeout, Duration::from_millis(900));
    let loss = f.prometheus.as_ref().unwrap().loss.as_ref().unwrap();
    assert_eq!((loss.name.as_str(), loss.factor), ("sfu_loss_percent", 0.01));
    let join = t.join.unwrap();
    assert_eq!((join.by, join.timeout), (JoinBy::Exec(vec!["./join.sh".into()]), Duration::from_secs(5)));
}

#[test]
fn without_a_word_the_target_files_servers_are_all_there_is() {
    let t = target(PROFILE);
    assert_eq!((t.fleet.discovery, t.fleet.control.len()), (vec![BackendName::Static], 0));
    assert_eq!((t.fleet.observe.len(), t.join), (0, None));
    let t = target(&PROFILE.replace("\"janus\"", "\"embedded\""));
    assert_eq!((t.fleet.discovery, t.fleet.control), (vec![BackendName::Embedded], vec![BackendName::Embedded]));
}

#[test]
fn what_is_wrong_with_a_fleet_is_named() {
    for (from, to, want) in [
        (
            "\"redis\", \"exec\"]\ncontrol",
            "\"redis\", \"prometheus\"]\ncontrol",
            "discovery[1]: \"prometheus\" cannot do this",
        ),
        ("\"process\"]", "\"proces\"]", "control[3]: there is no backend \"proces\""),
        ("\"janus\", \"prometheus\"]", "\"janus\"]", "prometheus: is used by nobody"),
        ("[target_file.fleet.prometheus]\n", "[target_file.fleet.prometheu]\n", "fleet.prometheu: unknown key"),
        ("look = [\"./look.sh\", \"-v\"]\n", "", "fleet.exec: has no `look`"),
        ("act = [\"./act.sh\"]\n", "", "fleet.exec: has no `act`"),
        ("\"heal\"]", "\"explode\"]", "fleet.exec.actions[1]: \"explode\" is no action"),
        ("sfu:{server}:alive", "sfu:{room}:alive", "fleet.redis.alive: \"sfu:{room}:alive\" has another place holder"),
        ("rooms#{room}", "rooms", "fleet.redis.rooms: \"rooms\" has no {room}"),
        ("redis://10.0.0.1", "http://10.0.0.1", "fleet.redis.url: \"http\" is no scheme"),
        ("redis://10.0.0.1", "redis://me:pw@10.0.0.1", "fleet.redis.url: holds a user or password"),
        ("redis://10.0.0.1", "redis://8.8.8.8", "fleet.redis.url: redis://8.8.8.8:6379/2 is outside"),
        ("url = \"redis://10.0.0.1:6379/2\"\n", "", "fleet.redis.url: is missing"),
        ("sfu_sessions", "sfu sessions", "fleet.prometheus.sessions: \"sfu sessions\" is no metric"),
        ("timeout = \"900ms\"", "timeout = 900", "fleet.http.timeout: a bare number is a count"),
        ("exec = [\"./join.sh\"]", "", "join: needs one of the two"),
        ("exec = [\"./join.sh\"]", "exec = [\"a\"]\nhttp = \"http://10.0.0.1\"", "join: has both"),
        ("pid_file = \"j1.pid\"\n", "", "fleet: names \"process\", and no server has a `pid_file`"),
        ("[\"janus\", ", "[\"embedded\", ", "fleet: names \"embedded\", which is for driver"),
    ] {
        let whole = format!("{PROFILE}{FLEET}");
        assert!(whole.contains(from), "{from}");
        let got = parse_resolved(&whole.replace(from, to)).map(|_| ()).unwrap_err().to_string();
        assert!(got.contains(want), "{to}: {got}\nshould hold {want}");
    }
}

#[test]
fn the_embedded_fleet_has_its_own_router() {
    let text = format!("{}[target_file.join]\nexec = [\"./join.sh\"]\n", PROFILE.replace("\"janus\"", "\"embedded\""));
    let got = parse_resolved(&text).map(|_| ()).unwrap_err().to_string();
    assert!(got.contains("join: is not for driver = \"embedded\""), "{got}");
}

#[test]
fn all_errors_of_a_fleet_come_at_once() {
    let whole = format!("{PROFILE}{FLEET}")
        .replace("sfu_sessions", "sfu sessions")
        .replace("redis://", "http://")
        .replace("exec = [\"./join.sh\"]", "");
    let got = parse_resolved(&whole).unwrap_err().to_string();
    for want in ["fleet.prometheus.sessions: ", "fleet.redis.url: ", "join: "] {
        assert!(got.contains(want), "{got}");
    }
}
