//! Profiles of shape capacity.

use super::*;
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
