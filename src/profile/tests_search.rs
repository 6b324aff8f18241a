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
            "search.server: the target has no server \"s9\"; it has s1, s2",
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
