//! What is said of a target of servers that nobody named, and which of a target's servers count.

use super::*;
use crate::history::{Event, Line, Usage};
use crate::plan::PlannedTrial;
use crate::profile::parse_resolved;
use crate::verdict::Verdict;

/// A search of rooms of four on this target; `top` are the keys before the tables.
fn setting(top: &str, target_file: &str) -> Setting {
    let text = format!(
        "shape = \"capacity\"\nseed = 1\n{top}\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 4\naudio = \"opus@32kbit/s\"\n[search]\n\
         range = \"4..40\"\njoin = \"20/s\"\n[objectives]\n\"audio.delay.p99\" = \"<= 80ms\"\n[answer]\nservers = 10\n{target_file}"
    );
    Setting::of(&parse_resolved(&text).unwrap_or_else(|e| panic!("{e}"))).unwrap()
}

const DIRECTOR: &str =
    "[target_file]\ndriver = \"embedded\"\n[[target_file.servers]]\nid = \"fleet\"\nurl = \"http://127.0.0.1:7080\"\n";
const NAMED: &str = "[target_file]\ndriver = \"embedded\"\ndirector = \"http://127.0.0.1:7080\"\n\
    [[target_file.servers]]\nid = \"s1\"\nurl = \"http://127.0.0.1:4001\"\n\
    [[target_file.servers]]\nid = \"s2\"\nurl = \"http://127.0.0.1:4002\"\n";

/// 20 participants held and 24 did not; the search ended so.
fn answer(setting: &Setting, why: &str) -> Answer {
    let mut record = Record::new(setting.clone());
    for (number, (rooms, outcome)) in [(5, Outcome::Held), (6, Outcome::Broke)].into_iter().enumerate() {
        let (from_ms, until_ms) = (number as f64 * 60_000.0, number as f64 * 60_000.0 + 30_000.0);
        let plan = PlannedTrial {
            number: number as u32 + 1,
            rooms,
            participants: 4 * rooms,
            moved_ms: from_ms,
            from_ms,
            until_ms,
        };
        record.see(&Line { t: from_ms, event: Event::Trial(plan) });
        record.close();
        let row = record.trials.last_mut().unwrap();
        (row.outcome, row.why) = (outcome, None);
        row.loss = 0.0;
        row.deserted.clear();
    }
    record.why = Some(why.into());
    Answer::of(&record)
}

#[test]
fn nothing_is_said_of_one_server_where_nobody_knows_how_many_there_are() {
    let setting = setting("target = \"t.toml\"", DIRECTOR);
    assert!(setting.whole_target);
    let a = answer(&setting, "width");
    assert_eq!((a.lower, a.upper, a.bounded, a.whole_target), (Some(20), Some(24), true, true));
    assert_eq!((a.participants_per_server, a.threshold), (None, None));
    let (verdict, sentence) = a.verdict(&setting);
    assert_eq!(verdict, Verdict::Pass);
    assert!(sentence.starts_with("20–24 on the whole target; "), "{sentence}");
    assert!(
        sentence.ends_with("no threshold for one server: the target file does not name the director's servers."),
        "{sentence}"
    );
    let (_, sentence) = answer(&setting, "budget").verdict(&setting);
    assert!(sentence.contains("more than 20, less than 24 on the whole target"), "{sentence}");
}

#[test]
fn a_director_whose_servers_are_named_is_searched_server_by_server() {
    let setting = setting("target = \"t.toml\"", NAMED);
    assert_eq!(setting.servers, [Some("s1".to_owned()), Some("s2".to_owned())]);
    let pinned: Vec<_> = setting.rooms.iter().take(3).map(|r| r.server.clone().unwrap()).collect();
    assert_eq!(pinned, ["s1", "s2", "s1"]);
    let a = answer(&setting, "width");
    assert_eq!((a.participants_per_server, a.threshold.map(|t| t.participants)), (Some(20), Some(18)));
    assert!(a.verdict(&setting).1.starts_with("20–24 per server; "));
}

#[test]
fn turn_servers_beside_them_are_not_in_the_cost_of_servers_taken_together() {
    let spread = "target = \"embedded\"\n[embedded]\nservers = 2\nturn = 1\nplacement = \"spread\"";
    let mut record = Record::new(setting(spread, ""));
    let plan = PlannedTrial { number: 1, rooms: 1, participants: 4, moved_ms: 0.0, from_ms: 1000.0, until_ms: 5000.0 };
    record.see(&Line { t: 1000.0, event: Event::Trial(plan) });
    for (server, cpu) in [("s1", 0.6), ("s2", 0.8), ("turn-1", 0.1)] {
        let usage =
            Usage { server: server.into(), seconds: 1.0, cpu_cores: Some(cpu), cores: Some(1.0), ..Usage::default() };
        record.see(&Line { t: 3000.0, event: Event::Usage(usage) });
    }
    record.close();
    let cost = record.trials[0].servers[0].cost.unwrap();
    assert_eq!((cost.cpu, cost.cpu_cores), (Some(70.0), Some(0.7)));
}
