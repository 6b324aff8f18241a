//! Profiles of shape capacity.

use super::*;
use crate::types::Placement;
use std::time::Duration;

const SEARCH: &str = r#"shape = "capacity"
target = "embedded"
seed = 1
[[rooms]]
name = "meeting"
count = 3
size = 4
audio = "opus@32kbit/s"
[search]
range = "20..600"
join = "120/min"
[objectives]
audio.loss = "<= 1%"
"setup.total.p95" = "<= 2s"
[answer]
servers = 12
growth = "30/min"
boot = "90s"
"#;

fn errors(from: &str, to: &str) -> String {
    assert!(SEARCH.contains(from), "{from}");
    parse_resolved(&SEARCH.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn a_search_gets_its_defaults_and_means_the_same_again() {
    let p = parse_resolved(SEARCH).unwrap();
    let s = p.search.clone().unwrap();
    assert_eq!((p.shape, s.range, s.join), (Shape::Capacity, (20, 600), 2.0));
    assert_eq!((s.trial, s.first_trial, s.trial_sum), (Duration::from_secs(30), Duration::from_secs(10), s.trial));
    assert_eq!((s.loss_ratio, s.exceed_ratio, s.width), (0.05, 0.0, 0.05));
    let answer = s.answer.unwrap();
    assert_eq!((answer.servers, answer.survive, answer.growth, answer.boot), (12, 1, 0.5, Duration::from_secs(90)));
    let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
    assert_eq!((&again.search, &again.pass, &again.resolved), (&p.search, &p.pass, &p.resolved));
    assert_eq!(p.pass[0].expr, "audio.loss <= 1%");
}

#[test]
fn rates_of_few_a_minute_can_be_read_again() {
    let p = parse_resolved(&SEARCH.replace("30/min", "0.1/min").replace("120/min", "0.2/min")).unwrap();
    let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
    assert_eq!(again.search, p.search);
    assert!(p.resolved.contains("growth = \"0.1/min\"") && p.resolved.contains("join = \"0.2/min\""), "{}", p.resolved);
}

#[test]
fn one_wrong_thing_is_one_error() {
    for (from, to, want) in [
        ("[search]", "[load]\nhold = \"3s\"\n[search]", "load: [load] belongs to shape \"steady\""),
        ("[objectives]", "[pass]", "objectives: is missing"),
        ("\"20..600\"", "\"600..20\"", "search.range: "),
        ("\"20..600\"", "20", "search.range: write lowest and highest, as in \"20..600\""),
        ("\"20..600\"", "\"1..3\"", "search.range: not one room of 4 fits into 3 participants"),
        ("\"120/min\"", "\"poisson(3/s)\"", "search.join: "),
        ("[objectives]", "first_trial = \"1m\"\n[objectives]", "search.first_trial: is longer than `trial`"),
        ("[objectives]", "trial_sum = \"20s\"\n[objectives]", "search.trial_sum: is shorter than one `trial`"),
        ("[objectives]", "budget = \"20s\"\n[objectives]", "search.budget: not one trial fits into it"),
        (
            "[objectives]",
            "server = \"s9\"\n[objectives]",
            "search.server: the target has no server \"s9\" that rooms can be sent to; it has s1, s2",
        ),
        ("servers = 12", "servers = 1", "answer.survive: 1 of 1 servers lost leave none"),
        ("size = 4", "size = 4\nstay = \"3m\"", "rooms[0].stay: a trial's participants stay"),
        ("audio.loss", "generator.cpu", "objectives.\"generator.cpu\": a trial is judged by media"),
        ("audio.loss", "audio.los", "objectives.\"audio.los\": there is no such metric; did you mean \"audio.loss\"?"),
    ] {
        let got = errors(from, to);
        assert!(got.contains(want), "{to}: {got}\nshould hold {want}");
    }
}

#[test]
fn all_errors_of_a_search_come_at_once() {
    let text =
        SEARCH.replace("\"20..600\"", "3").replace("servers = 12", "survive = 3").replace("audio.loss", "legs.clean");
    let got = parse_resolved(&text).unwrap_err().to_string();
    for key in ["search.range", "answer.servers", "objectives.\"legs.clean\""] {
        assert!(got.contains(key), "{got}");
    }
}

const MIXES: &str = r#"[[rooms]]
name = "call"
count = 1
size = 2
audio = "opus@32kbit/s"
[[mixes]]
name = "calls"
rooms = { call = 1 }
range = "8..100"
[[mixes]]
name = "both"
rooms = { call = 5, meeting = 2 }
"#;

fn with_mixes(from: &str, to: &str) -> Result<Profile, ProfileErrors> {
    assert!(MIXES.contains(from) || SEARCH.contains(from), "{from}");
    let text = SEARCH.replace("[search]", &format!("{MIXES}[search]"));
    parse_resolved(&text.replace(from, to))
}

#[test]
fn each_mix_is_a_search_of_its_own_within_the_budget() {
    let p = with_mixes("join = \"120/min\"", "join = \"120/min\"\nbudget = \"10m\"").unwrap();
    let series = p.series.clone().unwrap();
    assert_eq!(series.names(), ["calls", "both"]);
    let [calls, both] = &p.runs[..] else { panic!("{}", p.runs.len()) };
    let rooms = |p: &Profile| p.rooms.iter().map(|g| (g.name.clone(), g.count)).collect::<Vec<_>>();
    assert_eq!(rooms(calls), [("call".to_owned(), 1)]);
    assert_eq!(rooms(both), [("meeting".to_owned(), 2), ("call".to_owned(), 5)]);
    let search = |p: &Profile| p.search.clone().unwrap();
    assert_eq!((search(calls).range, search(both).range), ((8, 100), (20, 600)));
    assert_eq!((search(calls).budget, search(&p).budget), (Duration::from_secs(300), Duration::from_secs(600)));
    assert!(calls.name.ends_with("-calls") && calls.series.is_none());
    // The whole and each run mean the same again.
    let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
    assert_eq!((&again.series, &again.resolved), (&p.series, &p.resolved));
    for run in &p.runs {
        let again = parse_resolved(&run.resolved).unwrap_or_else(|e| panic!("{e}\n{}", run.resolved));
        assert_eq!((&again.search, &again.rooms, &again.resolved), (&run.search, &run.rooms, &run.resolved));
    }
    let longer = both.within(Duration::from_secs(437));
    let again = parse_resolved(&longer.resolved).unwrap();
    assert_eq!((search(&again).budget, again.load.hold), (Duration::from_secs(437), longer.load.hold));
    assert_eq!(search(&again), search(&longer));
}

#[test]
fn one_wrong_mix_is_one_error() {
    for (from, to, want) in [
        (
            "meeting = 2",
            "meting = 2",
            "mixes[1].rooms.meting: there is no such group in [[rooms]]; there are meeting, call",
        ),
        ("meeting = 2", "meeting = 0", "mixes[1].rooms.meeting: 0 is out of range: 1 to 100000"),
        ("meeting = 2", "meeting = \"2\"", "mixes[1].rooms.meeting: is a bare number, 1 to 100000, not \"2\""),
        ("{ call = 1 }", "{}", "mixes[0].rooms: is empty"),
        ("{ call = 1 }", "[\"call\"]", "mixes[0].rooms: is a table"),
        (
            "name = \"both\"",
            "name = \"Calls\"",
            "mixes: \"calls\" and \"Calls\" are one name to environment variables: give one another name",
        ),
        (", meeting = 2", "", "mixes: none of them has rooms of group \"meeting\""),
        ("name = \"both\"", "name = \"calls\"", "mixes[1].name: \"calls\" is mixes[0] already"),
        ("name = \"both\"", "name = \"a/b\"", "mixes[1].name: '/' cannot be part of a name"),
        ("range = \"8..100\"", "range = \"100..8\"", "mixes[0].range: "),
        ("range = \"8..100\"", "rnage = \"8..100\"", "mixes[0].rnage: unknown key; did you mean `range`?"),
        ("join = \"120/min\"", "join = \"120/min\"\nbudget = \"1m\"", "search: search.budget: 2 runs have 30s each"),
        (
            "[search]",
            "[compare]\nplacement = [\"affinity\", \"spread\"]\n[search]",
            "compare: goes with one mix of rooms",
        ),
    ] {
        let got = with_mixes(from, to).unwrap_err().to_string();
        assert!(got.contains(want), "{to}: {got}\nshould hold {want}");
        assert_eq!(got.lines().count(), 1, "{got}");
    }
    let one = SEARCH.replace("[search]", "[[mixes]]\nname = \"a\"\nrooms = { meeting = 1 }\n[search]");
    assert!(parse_resolved(&one).unwrap_err().to_string().contains("mixes: are 2 to 32"));
}

#[test]
fn two_placements_are_two_runs_of_the_same_plan() {
    let compare = "[compare]\nplacement = [\"affinity\", \"spread\"]\n";
    let p = parse_resolved(&SEARCH.replace("[search]", &format!("{compare}[search]"))).unwrap();
    let placed = |p: &Profile| match &p.target {
        Target::Embedded(t) => t.placement,
        Target::External(_) => panic!("embedded"),
    };
    assert_eq!(p.runs.iter().map(placed).collect::<Vec<_>>(), [Placement::Affinity, Placement::Spread]);
    assert_eq!(parse_resolved(&p.resolved).unwrap().series, p.series);
    let spread = parse_resolved(&p.runs[1].resolved).unwrap();
    assert_eq!((placed(&spread), spread.search.unwrap().budget), (Placement::Spread, Duration::from_secs(450)));
    let embedded = |keys: &str| format!("[embedded]\n{keys}\n");
    for (more, want) in [
        ("[compare]\nplacement = [\"spread\"]\n".to_owned(), "compare.placement: write both"),
        ("[compare]\nplacement = [\"spread\", \"spread\"]\n".into(), "compare.placement: write both"),
        ("[compare]\nplacement = [\"spread\", \"near\"]\n".into(), "compare.placement[1]: \"near\" is unknown"),
        (embedded("servers = 1") + compare, "compare: takes at least two servers"),
        (embedded("drain = \"move\"") + compare, "embedded: placement \"spread\" does not go with a `drain`"),
        (
            embedded("placement = \"spread\"\nsin = \"keep-ghosts\""),
            "embedded: placement \"spread\" does not go with a `sin`",
        ),
        (embedded("placement = \"spread\"\nlast_n = 2"), "embedded: placement \"spread\" does not go with `last_n`"),
        (embedded("last_n = 0"), "embedded.last_n"),
    ] {
        let text = SEARCH.replace("[search]", &format!("{more}[search]"));
        let got = parse_resolved(&text).unwrap_err().to_string();
        assert!(got.contains(want), "{more}: {got}\nshould hold {want}");
    }
    let pinned = SEARCH
        .replace("range =", "server = \"s1\"\nrange =")
        .replace("[[rooms]]", "embedded.placement = \"spread\"\n[[rooms]]");
    assert!(parse_resolved(&pinned).unwrap_err().to_string().contains("[search] `server`"));
}

#[test]
fn last_n_is_kept() {
    let of = |text: &str| match parse_resolved(text).unwrap().target {
        Target::Embedded(t) => (t.last_n, parse_resolved(text).unwrap().resolved),
        Target::External(_) => unreachable!(),
    };
    let (n, resolved) = of(&SEARCH.replace("[search]", "[embedded]\nlast_n = 3\n[search]"));
    assert_eq!((n, of(&resolved).0), (Some(3), Some(3)));
    assert_eq!(of(SEARCH).0, None);
}

/// A search on a target file; `target` is its text, with tables below `target_file`.
fn on(target: &str, search: &str) -> Result<Profile, ProfileErrors> {
    let text = SEARCH.replace("\"embedded\"", "\"t.toml\"").replace("[objectives]", &format!("{search}\n[objectives]"));
    parse_resolved(&format!("{text}[target_file]\n{target}"))
}

const JANUS_1: &str = "driver = \"janus\"\n[[target_file.servers]]\nid = \"j1\"\nurl = \"ws://10.0.0.1:8188\"\n\
    [[target_file.turn]]\nid = \"turn-1\"\nurl = \"turn:10.0.0.3\"\nusername = \"a\"\npassword_from = \"pw\"\n\
    [target_file.secrets]\npw = \"x\"\n";
const FLEET_1: &str =
    "driver = \"embedded\"\n[[target_file.servers]]\nid = \"fleet\"\nurl = \"http://127.0.0.1:7080\"\n";
const FLEET_2: &str = "driver = \"embedded\"\ndirector = \"http://127.0.0.1:7080\"\n\
    [[target_file.servers]]\nid = \"s1\"\nurl = \"http://127.0.0.1:4001\"\n\
    [[target_file.servers]]\nid = \"s2\"\nurl = \"http://127.0.0.1:4002\"\n";

#[test]
fn the_only_server_of_a_search_is_one_that_rooms_can_be_sent_to() {
    let joined = format!("{JANUS_1}[target_file.join]\nexec = [\"./join.sh\"]\n");
    for (target, server, want) in [
        (JANUS_1, "j1", ""),
        (FLEET_2, "s2", ""),
        (FLEET_1, "s2", ""),
        (JANUS_1, "turn-1", "the target has no server \"turn-1\" that rooms can be sent to; it has j1"),
        (FLEET_2, "s3", "the target has no server \"s3\" that rooms can be sent to; it has s1, s2"),
        (FLEET_1, "fleet", "the director calls its servers s1, s2, …, not \"fleet\""),
        (FLEET_1, "s01", "the director calls its servers s1, s2, …, not \"s01\""),
        (&joined, "j1", "[join] of the target file says where each participant goes"),
    ] {
        let got = on(target, &format!("server = \"{server}\""));
        match (got, want) {
            (Ok(p), "") => assert_eq!(p.target.loaded(Some(server)), [Some(server.to_owned())]),
            (Ok(_), want) => panic!("{server} passes, wanted {want}"),
            (Err(e), want) => {
                let line = e.to_string();
                assert!(!want.is_empty() && line.contains(&format!(":12: search.server: {want}")), "{line}, {want:?}");
                assert_eq!(line.lines().count(), 1, "{line}");
            }
        }
    }
    let embedded = SEARCH.replace("[objectives]", "server = \"turn-1\"\n[embedded]\nturn = 1\n[objectives]");
    let got = parse_resolved(&embedded).unwrap_err().to_string();
    assert!(got.contains("search.server: the target has no server \"turn-1\" that rooms can be sent to"), "{got}");
}

#[test]
fn a_director_has_the_servers_that_the_target_file_names() {
    let of = |target: &str| on(target, "").unwrap_or_else(|e| panic!("{e}"));
    let named = of(FLEET_2);
    assert_eq!(named.target.loaded(None), [Some("s1".to_owned()), Some("s2".to_owned())]);
    let again = parse_resolved(&named.resolved).unwrap();
    let director = |p: &Profile| match &p.target {
        Target::External(t) => (t.director.clone(), t.director().map(str::to_owned)),
        Target::Embedded(_) => panic!("external"),
    };
    let url = || Some("http://127.0.0.1:7080".to_owned());
    assert_eq!((director(&named), director(&again)), ((url(), url()), (url(), url())));
    let unnamed = of(FLEET_1);
    assert_eq!((director(&unnamed), unnamed.target.loaded(None)), ((None, url()), vec![None]));
    assert_eq!([named.target.is_one_unknown_fleet(), unnamed.target.is_one_unknown_fleet()], [false, true]);
    // What one server carries of a mix is known of named ones.
    let mixes = "[[mixes]]\nname = \"a\"\nrooms = { meeting = 1 }\n[[mixes]]\nname = \"b\"\nrooms = { meeting = 2 }\n";
    assert!(on(FLEET_2, mixes).is_ok());
    let got = on(FLEET_1, mixes).unwrap_err().to_string();
    assert!(got.contains("mixes: mixes are compared by what one server carries: name the director's servers"), "{got}");
    let got = on(&format!("director = \"http://127.0.0.1:1\"\n{JANUS_1}"), "").unwrap_err().to_string();
    assert!(got.contains("target_file.director: is for driver = \"embedded\""), "{got}");
}

#[test]
fn the_highest_load_has_room_for_a_turn_of_the_mix() {
    // Of both groups in turns of 2 and 1: 2 × 4 + 30.
    let both = "[[rooms]]\nname = \"hall\"\ncount = 2\nsize = 30\naudio = \"opus@32kbit/s\"\n[search]";
    let text = SEARCH.replace("count = 3", "count = 4").replace("[search]", both);
    let of = |range: &str| parse_resolved(&text.replace("20..600", range));
    assert_eq!(of("4..38").unwrap().search.unwrap().range, (4, 38));
    for range in ["4..20", "4..37"] {
        let got = of(range).unwrap_err().to_string();
        let want =
            "search.range: not one turn of the mix (2 of meeting with 4, 1 of hall with 30: 38 participants) fits into";
        assert!(got.contains(want), "{got}");
    }
    // Every mix for itself, whatever the groups' counts are.
    let mix = |from: &str, to: &str| with_mixes(from, to).map_err(|e| e.to_string());
    assert!(mix("range = \"8..100\"", "range = \"1..2\"").is_ok());
    let got = mix("\"20..600\"", "\"5..17\"").unwrap_err();
    let want =
        "mixes[1].rooms: not one turn of the mix (2 of meeting with 4, 5 of call with 2: 18 participants) fits into 17";
    assert!(got.contains(want) && got.lines().count() == 1, "{got}");
    let got = mix("name = \"both\"", "name = \"both\"\nrange = \"5..17\"").unwrap_err();
    assert!(got.contains("mixes[1].range: not one turn of the mix"), "{got}");
}

#[test]
fn all_servers_together_carry_what_one_run_can() {
    let pairs =
        SEARCH.replace("size = 4", "size = 2").replace("\"embedded\"", "\"t.toml\"").replace("20..600", "1000..20000");
    let turn = "[target_file]\ndriver = \"turn\"\n[[target_file.turn]]\nid = \"t1\"\nurl = \"turn:10.0.0.3\"\n\
        username = \"a\"\npassword_from = \"pw\"\n[target_file.secrets]\npw = \"x\"\n";
    let p = parse_resolved(&format!("{pairs}{turn}")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(p.search.unwrap().range, (1000, 20_000));
    let fleet = |servers: u32, range: &str| {
        let text =
            SEARCH.replace("20..600", range).replace("[search]", &format!("[embedded]\nservers = {servers}\n[search]"));
        parse_resolved(&text).map_err(|e| e.to_string())
    };
    assert!(fleet(20, "20..10000").is_ok());
    let got = fleet(21, "20..10000").unwrap_err();
    assert!(
        got.contains(
            ":12: search.range: 10000 participants on each of 21 servers are more than one run carries (200000)"
        ),
        "{got}"
    );
    let got = fleet(1, "20..200001").unwrap_err();
    assert!(got.contains("search.range: is out of range: 1 to 200000 participants"), "{got}");
    let got = with_mixes("\"8..100\"", "\"8..150000\"").unwrap_err().to_string();
    assert!(got.contains("mixes[0].range: 150000 participants on each of 2 servers"), "{got}");
}
