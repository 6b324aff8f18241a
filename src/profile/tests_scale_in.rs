//! Profiles of shape scale-in.

use super::*;
use crate::types::StepAction;
use std::time::Duration;

const PROFILE: &str = r#"shape = "scale-in"
target = "embedded"
seed = 1
[embedded]
servers = 3
[[rooms]]
name = "call"
count = 3
size = 4
stay = "1m"
refill = false
late_seats = 1
late_rooms = 2
audio = "opus@32kbit/s"
[load]
join = "8/s"
hold = "2h"
[[step]]
name = "cordon"
do = "cordon"
server = "each"
at = "20s"
again_after = "terminate"
delay = "10s"
[[step]]
name = "late"
do = "join_existing"
after = "cordon"
count = 3
stay = "30s"
[[step]]
name = "terminate"
do = "terminate"
after = "cordon"
delay = "1s"
when = "server.sessions == 0"
deadline = "2m"
[[step]]
name = "night"
do = "pause"
server = "s2"
clock = "22:30"
every = "30m"
repeat = 2
when = "fleet.legs <= 3"
deadline = "10m"
[[rollback]]
do = "uncordon"
server_of = "cordon"
[[rollback]]
do = "resume"
server = "all"
[rejoin]
attempts = 3
[expect]
exposed_legs = 7
"#;

fn errors(from: &str, to: &str) -> String {
    assert!(PROFILE.contains(from), "{from}");
    match parse_resolved(&PROFILE.replacen(from, to, 1)) {
        Ok(p) => panic!("{from} → {to} is understood: {:?}", p.scale_in),
        Err(e) => e.to_string(),
    }
}

#[test]
fn steps_mean_what_they_say_and_the_same_again() {
    let p = parse_resolved(PROFILE).unwrap_or_else(|e| panic!("{e}"));
    let s = p.scale_in.clone().unwrap();
    assert!(s.control && p.pass.is_empty());
    assert_eq!((p.rooms[0].refill, p.rooms[0].late_seats, p.rooms[0].late_rooms), (false, 1, 2));
    let [cordon, late, terminate, night] = &s.steps[..] else { panic!("{:?}", s.steps) };
    assert_eq!((cordon.action, &cordon.server), (StepAction::Cordon, &Selector::Each));
    assert_eq!(cordon.start, Start::At(Duration::from_secs(20)));
    let next = Next::After { step: 2, delay: Duration::from_secs(10) };
    assert_eq!(cordon.repeat, Some(Repeat { rounds: None, next }));
    assert_eq!((&late.server, late.count, late.stay), (&Selector::Of(0), 3, Some(Duration::from_secs(30))));
    assert_eq!(terminate.start, Start::After { step: 0, delay: Duration::from_secs(1) });
    let condition = terminate.condition.clone().unwrap();
    assert_eq!(
        (condition.of, condition.metric, condition.op, condition.value),
        (Subject::Server, Seen::Sessions, Op::Eq, 0.0)
    );
    assert_eq!(night.start, Start::Clock(TimeOfDay(22 * 3600 + 30 * 60)));
    assert_eq!(s.rollback.len(), 2);
    assert_eq!((&s.rollback[0].name[..], &s.rollback[0].server), ("uncordon", &Selector::Of(0)));
    assert_eq!((s.rejoin.attempts, s.rejoin.backoff, s.rejoin.jitter), (3, Duration::from_secs(1), 0.5));
    assert_eq!(s.expect.exposed_legs, 7);
    let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
    assert_eq!((&again.scale_in, &again.rooms), (&p.scale_in, &p.rooms), "{}", p.resolved);
    assert_eq!(again.resolved, p.resolved);
}

#[test]
fn every_slip_is_told_where_it_is() {
    for (from, to, words) in [
        ("do = \"cordon\"", "do = \"cordn\"", "step[0].do: \"cordn\" is unknown; did you mean \"cordon\"?"),
        ("server = \"each\"", "server = \"s9\"", "step[0].server: the target has no server \"s9\"; it has s1, s2, s3"),
        ("server = \"each\"\n", "", "step[0]: to which server? cordon needs `server`"),
        ("at = \"20s\"\n", "", "step[0]: when is it due?"),
        ("at = \"20s\"\n", "at = \"20s\"\nclock = \"1:00\"\n", "step[0].clock: and `at` say twice"),
        ("at = \"20s\"", "at = \"3h\"", "step[0].at: is due when the hold of 2h is over"),
        ("again_after = \"terminate\"", "again_after = \"terminat\"", "did you mean \"terminate\"?"),
        (
            "after = \"cordon\"\ncount = 3",
            "after = \"night\"\ncount = 3",
            "step[1].after: step \"night\" is no earlier step",
        ),
        (
            "when = \"server.sessions == 0\"",
            "when = \"server.calls == 0\"",
            "step[2].when: \"calls\" is not known of a server",
        ),
        (
            "when = \"server.sessions == 0\"",
            "when = \"s7.sessions == 0\"",
            "step[2].when: the target has no server \"s7\"",
        ),
        ("when = \"server.sessions == 0\"", "when = \"sessions\"", "step[2].when: \"sessions\" is no condition"),
        ("deadline = \"2m\"\n", "", "step[2].when: may never come true"),
        ("when = \"server.sessions == 0\"\n", "", "step[2].deadline: of what?"),
        ("clock = \"22:30\"", "clock = \"25:30\"", "step[3].clock: \"25:30\" is no time of day"),
        ("every = \"30m\"\nrepeat = 2", "repeat = 2", "step[3].repeat: say when the next round begins"),
        ("delay = \"1s\"\nwhen", "delay = \"1s\"\nevery = \"3s\"\nwhen", "step[2].every: a step that follows another"),
        ("server = \"s2\"", "server = \"s2\"\nserver_of = \"cordon\"", "step[3].server_of: and `server` say"),
        ("server = \"s2\"", "server = \"s2\"\ncount = 2", "step[3].count: belongs to join_existing and join_new"),
        ("late_seats = 1\n", "", "step[1].do: no room has a seat for a late joiner"),
        ("stay = \"1m\"\n", "", "rooms[0].refill: nobody leaves before the end"),
        ("name = \"late\"", "name = \"cordon\"", "step[1].name: \"cordon\" is step[0] already"),
        ("do = \"uncordon\"\nserver_of", "do = \"kill\"\nserver_of", "rollback[0].do: \"kill\" is unknown"),
        ("server = \"all\"", "server = \"random\"", "rollback[1].server: write an id, \"all\""),
        ("attempts = 3", "attempts = 3\nbackoff = \"1m\"", "rejoin.backoff: is longer than `backoff_max`"),
        (
            "shape = \"scale-in\"",
            "shape = \"scale-in\"\ncontrol = \"none\"",
            "step: control = \"none\": somebody else acts",
        ),
        ("shape = \"scale-in\"", "shape = \"steady\"", "step: [step] belongs to shape \"scale-in\""),
        ("[rejoin]", "[search]\n[rejoin]", "search: [search] belongs to shape \"capacity\""),
    ] {
        let all = errors(from, to);
        assert!(all.contains(words), "{from} → {to}\n{words}\n{all}");
    }
}

#[test]
fn late_seats_need_steps_to_fill_them() {
    let text = "shape = \"steady\"\ntarget = \"embedded\"\n[[rooms]]\nname = \"a\"\ncount = 1\nsize = 2\nlate_seats = 1\naudio = \"opus@32kbit/s\"\n\
        [load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n";
    let all = parse_resolved(text).unwrap_err().to_string();
    assert!(all.contains("rooms[0].late_seats belongs to shape \"scale-in\""), "{all}");
}

#[test]
fn conditions_print_as_they_are_read() {
    for text in ["server.sessions == 0", "fleet.legs <= 12", "sfu-2.eu.headroom >= 40.5", "s1.alive < 1"] {
        assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
    }
    for text in ["", "== 0", ".sessions == 0", "server.sessions", "server.sessions == x", "server.sessions == inf"] {
        assert!(text.parse::<Condition>().is_err(), "{text}");
    }
}
