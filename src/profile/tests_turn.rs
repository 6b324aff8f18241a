//! `[ice]` and `[[turn]]`.

use super::{Target, parse_resolved};
use crate::types::Via;
use std::time::Duration;

const PROFILE: &str = "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 4\n\
    audio = \"opus@32kbit/s\"\n[load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"relays.refused\" = \"== 0\"\n\
    \"setup.relay.p95\" = \"<= 50ms\"\n[ice]\nrelay = 0.3\nlifetime = \"90s\"\nwrong_password = \"5%\"\n\
    [target_file]\ndriver = \"janus\"\n[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://10.0.0.1:8188\"\n";

const TURN: &str = "[[target_file.turn]]\nid = \"t1\"\nurl = \"turn:10.0.0.3\"\nweight = 2.5\nusername = \"alice\"\n\
    password_from = \"pw\"\ncli = \"10.0.0.3:5766\"\n\
    [[target_file.turn]]\nid = \"t1\"\nurl = \"turns:turn.example:443?transport=tcp\"\nsecret_from = \"rest\"\n\
    [target_file.secrets]\npw = \"a\"\nrest = \"b\"\n";

const SERVERS: &str = "[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://10.0.0.1:8188\"\n";

#[test]
fn ways_to_turn_servers_are_read_and_kept() {
    let p = parse_resolved(&format!("{PROFILE}{TURN}")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.ice.relay, p.ice.lifetime, p.ice.release), (0.3, Duration::from_secs(90), true));
    let Target::External(t) = &p.target else { panic!() };
    let ways: Vec<_> = t.turn.iter().map(|w| (w.host.as_str(), w.port, w.via, w.weight)).collect();
    assert_eq!(ways, [("10.0.0.3", 3478, Via::Udp, 2.5), ("turn.example", 443, Via::Tls, 1.0)]);
    let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
    assert_eq!((again.resolved, again.ice), (p.resolved, p.ice));
}

#[test]
fn the_embedded_fleet_brings_its_own() {
    let embedded = |ice: &str, more: &str| {
        let text = PROFILE.split("[ice]").next().unwrap().replace("t.toml", "embedded");
        parse_resolved(&format!("{text}[ice]\n{ice}\n[embedded]\nservers = 1\n{more}"))
    };
    let servers = |ice: &str| match embedded(ice, "").unwrap().target {
        Target::Embedded(e) => e.turn,
        Target::External(_) => panic!(),
    };
    assert_eq!([servers("relay = \"none\""), servers("relay = \"only\"")], [0, 1]);
    assert!(embedded("relay = 0.5", "turn = 0").unwrap_err().to_string().contains("embedded.turn"));
}

#[test]
fn what_is_wrong_is_said_at_once() {
    let cases = [
        ("relay = 0.3", "relay = 3", "ice.relay"),
        ("relay = 0.3", "relay = \"some\"", "ice.relay"),
        ("\"turn:10.0.0.3\"", "\"turn:8.8.8.8\"", "authorized = true"),
        ("\"turn:10.0.0.3\"", "\"http://10.0.0.3\"", "turn:10.77.0.3:3478"),
        ("password_from = \"pw\"", "password_from = \"other\"", "no \"other\" under [secrets]"),
        ("password_from = \"pw\"\n", "", "gives no credentials"),
        ("username = \"alice\"\n", "", "needs its `username`"),
        ("secret_from", "password_from = \"pw\"\nsecret_from", "keep one"),
        ("weight = 2.5", "weight = -1", "weight"),
        ("cli = \"10.0.0.3:5766\"", "cli = \"here\"", "10.77.0.3:5766"),
        ("driver = \"janus\"", "driver = \"turn\"", "its servers are the [[turn]]"),
        (SERVERS, "", "at least one [[servers]]"),
    ];
    let whole = format!("{PROFILE}{TURN}");
    for (from, to, want) in cases {
        assert!(whole.contains(from), "{from}");
        let errors = parse_resolved(&whole.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(errors.contains(want), "{to}: {errors}");
    }
    let errors = parse_resolved(PROFILE).unwrap_err().to_string();
    assert!(errors.contains("no TURN server"), "{errors}");
    let pairs = whole.replacen("driver = \"janus\"", "driver = \"turn\"", 1).replacen(SERVERS, "", 1);
    let errors = parse_resolved(&pairs).unwrap_err().to_string();
    assert!(errors.contains("rooms of 2"), "{errors}");
    let Target::External(t) = parse_resolved(&pairs.replacen("size = 4", "size = 2", 1)).unwrap().target else {
        panic!()
    };
    assert_eq!((t.servers.len(), t.carriers()), (0, vec!["t1"]));
    let two = whole.replacen("relay = 0.3", "relay = 3", 1).replacen("\"turn:10.0.0.3\"", "\"x\"", 1);
    let errors = parse_resolved(&two).unwrap_err();
    assert!(errors.0.len() >= 2, "{errors}");
}
