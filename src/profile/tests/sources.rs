//! Files that a profile is made of: the one it extends, its target, secrets, and `--set`.

use super::*;

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
