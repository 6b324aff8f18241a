//! What is wrong in a profile, said where it is.

use super::*;

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
fn a_mute_needs_both_its_times() {
    let with = |mute: &str| errors_with("size = ", &format!("mute = {mute}\nsize = "));
    assert!(with("{ after = \"2m\" }").contains("needs both"));
    assert!(with("{ after = \"2m\", lasts = \"100ms\" }").contains("rooms[0].mute.lasts"));
    assert!(with("{ every = \"2m\" }").contains("unknown key"));
    assert!(with("\"2m\"").contains("is a table"));
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
