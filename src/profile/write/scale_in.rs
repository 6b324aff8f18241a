//! Shape scale-in: steps, what rolls them back, and who rejoins.

use super::super::scale_in::{Next, Rollback, ScaleIn, Selector, Start, Step};
use super::super::units::{print_duration, print_percent};
use super::quote;

pub(super) fn tables(s: &ScaleIn) -> String {
    let name = |i: usize| quote(s.steps.get(i).map_or("", |s| &s.name));
    let mut tables: Vec<String> = s.steps.iter().map(|s| step(s, &name)).collect();
    tables.extend(s.rollback.iter().map(|r| rollback(r, &name)));
    let r = &s.rejoin;
    tables.push(format!(
        "\n[rejoin]\nattempts = {}\nbackoff = {}\nbackoff_max = {}\njitter = {}",
        r.attempts,
        quote(&print_duration(r.backoff)),
        quote(&print_duration(r.backoff_max)),
        quote(&print_percent(r.jitter))
    ));
    tables.push(format!("\n{}", s.expect.written()));
    tables.join("\n")
}

fn step(s: &Step, name: &dyn Fn(usize) -> String) -> String {
    let duration = |d| quote(&print_duration(d));
    let mut lines = vec![format!("\n[[step]]\nname = {}\ndo = {}", quote(&s.name), quote(s.action.as_str()))];
    match s.start {
        Start::At(at) => lines.push(format!("at = {}", duration(at))),
        Start::Clock(at) => lines.push(format!("clock = {}", quote(&at.to_string()))),
        Start::After { step, delay } => {
            lines.push(format!("after = {}\ndelay = {}", name(step), duration(delay)));
        }
    }
    if let Some(c) = &s.condition {
        lines.push(format!("when = {}", quote(&c.to_string())));
    }
    lines.extend(s.deadline.map(|d| format!("deadline = {}", duration(d))));
    lines.extend(server(&s.server, name));
    if let Some(r) = s.repeat {
        lines.extend(r.rounds.map(|n| format!("repeat = {n}")));
        lines.push(match r.next {
            Next::Every(d) => format!("every = {}", duration(d)),
            Next::After { step, delay } => format!("again_after = {}\ndelay = {}", name(step), duration(delay)),
        });
    }
    if s.action.is_join() {
        lines.push(format!("count = {}", s.count));
        lines.extend(s.stay.map(|d| format!("stay = {}", duration(d))));
    }
    lines.join("\n")
}

fn rollback(r: &Rollback, name: &dyn Fn(usize) -> String) -> String {
    let mut lines = vec![format!("\n[[rollback]]\nname = {}\ndo = {}", quote(&r.name), quote(r.action.as_str()))];
    lines.extend(server(&r.server, name));
    lines.join("\n")
}

fn server(s: &Selector, name: &dyn Fn(usize) -> String) -> Option<String> {
    let word = match s {
        Selector::None => return None,
        Selector::Of(step) => return Some(format!("server_of = {}", name(*step))),
        Selector::Id(id) => id,
        Selector::MostSessions => "most_sessions",
        Selector::LeastSessions => "least_sessions",
        Selector::All => "all",
        Selector::Random => "random",
        Selector::Each => "each",
    };
    Some(format!("server = {}", quote(word)))
}
