//! Shape scale-in: `[[step]]`, `[[rollback]]`, `[rejoin]` and `control`.

use super::View;
use crate::profile::error::nearest;
use crate::profile::resolved::{Load, RoomGroup};
use crate::profile::scale_in::{
    Condition, Next, Rejoin, Repeat, Rollback, ScaleIn, Selector, Start, Step, Subject, TimeOfDay,
};
use crate::profile::tree::Value;
use crate::types::StepAction;
use std::time::Duration;

/// Everything of the shape but its load.
pub(super) fn scale_in(top: &mut View<'_>, rooms: Option<&[RoomGroup]>, load: Option<&Load>) -> Option<ScaleIn> {
    let control = top.word("control").map(|w| w == "fleet");
    let names = names(top);
    let steps = list(top, "step", |v, i| step(v, i, &names, rooms, load));
    let rollback = list(top, "rollback", |v, _| rollback(v, &names));
    let steps = steps.map(|s| serverless(top, s));
    for table in ["step", "rollback"] {
        if control == Some(false) && top.node(table).is_some() {
            let why = "control = \"none\": somebody else acts on the fleet, and roomful only loads and judges; take the \
                       steps out, or write control = \"fleet\"";
            top.wrong(table, why);
        }
    }
    let rejoin = top.inside("rejoin", |v| {
        let (attempts, jitter) = (v.count("attempts"), v.share("jitter"));
        let (backoff, backoff_max) = (v.duration("backoff"), v.duration("backoff_max"));
        if let (Some(first), Some(most)) = (backoff, backoff_max)
            && first > most
        {
            v.wrong("backoff", "is longer than `backoff_max`");
        }
        Some(Rejoin { attempts: attempts? as u32, backoff: backoff?, backoff_max: backoff_max?, jitter: jitter? })
    });
    let expect = top.inside("expect", super::expect::expect);
    Some(ScaleIn { control: control?, steps: steps?, rollback: rollback?, rejoin: rejoin?, expect: expect? })
}

/// Steps that take their server from one that has none: late joiners then go anywhere, the others cannot be done.
fn serverless(top: &mut View<'_>, mut steps: Vec<Step>) -> Vec<Step> {
    for i in 0..steps.len() {
        let Selector::Of(of) = steps[i].server else { continue };
        if steps.get(of).is_none_or(|s| s.server != Selector::None) {
            continue;
        }
        if steps[i].action == StepAction::JoinExisting && !names_server(top, i) {
            steps[i].server = Selector::None;
            continue;
        }
        let name = &steps[of].name;
        top.wrong("step", format!("step[{i}]: to which server? Step {name:?}, whose server it takes, has none"));
    }
    steps
}

fn names_server(top: &View<'_>, step: usize) -> bool {
    let Some(Value::Array(items)) = top.node("step").map(|n| &n.value) else { return false };
    items.get(step).and_then(|i| i.as_table()).is_some_and(|t| t.get("server_of").is_some())
}

/// Late seats and rooms in a shape without steps that would fill them.
pub(super) fn no_late(top: &mut View<'_>, rooms: Option<&[RoomGroup]>) {
    for (i, group) in rooms.unwrap_or_default().iter().enumerate() {
        for (key, n) in [("late_seats", group.late_seats), ("late_rooms", group.late_rooms)] {
            if n > 0 {
                top.wrong("rooms", format!("rooms[{i}].{key} belongs to shape \"scale-in\": no step would fill them"));
            }
        }
    }
}

/// An array of tables that may be missing.
fn list<T>(top: &mut View<'_>, key: &str, mut read: impl FnMut(&mut View<'_>, usize) -> Option<T>) -> Option<Vec<T>> {
    if top.node(key).is_none() {
        return Some(Vec::new());
    }
    let next = std::cell::Cell::new(0);
    let read = std::cell::RefCell::new(&mut read);
    top.each(key, |v| {
        next.set(next.get() + 1);
        (read.borrow_mut())(v, next.get() - 1)
    })
}

/// Names of all steps, in their order.
fn names(top: &View<'_>) -> Vec<String> {
    let Some(Value::Array(items)) = top.node("step").map(|n| &n.value) else { return Vec::new() };
    let name = |t: &crate::profile::tree::Node| Some(t.as_table()?.get("name")?.as_text()?.to_owned());
    items.iter().map(|i| name(i).unwrap_or_default()).collect()
}

/// The index of a step that is named under `key`; of an earlier one than `before`, where that is given.
fn step_named(v: &mut View<'_>, key: &str, names: &[String], before: Option<usize>) -> Option<usize> {
    let name = v.text(key)?;
    let found = names.iter().position(|n| *n == name);
    let why = match (found, before) {
        (Some(i), Some(before)) if i >= before => {
            format!("step {name:?} is no earlier step: write this one below it")
        }
        (Some(i), _) => return Some(i),
        (None, _) => match nearest(&name, names.iter().map(String::as_str)) {
            Some(near) => format!("there is no step {name:?}; did you mean {near:?}?"),
            None => format!("there is no step {name:?}; there are {}", names.join(", ")),
        },
    };
    v.wrong(key, why);
    None
}

fn action(v: &mut View<'_>) -> Option<StepAction> {
    let word = v.word("do")?;
    StepAction::ALL.into_iter().find(|a| a.as_str() == word)
}

fn step(
    v: &mut View<'_>,
    index: usize,
    names: &[String],
    rooms: Option<&[RoomGroup]>,
    load: Option<&Load>,
) -> Option<Step> {
    let name = v.name("name", 60, |c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let action = action(v);
    let start = start(v, index, names, load);
    let again = again(v, names, load);
    let delay_of_nobody = v.node("delay").is_some() && v.node("after").is_none() && v.node("again_after").is_none();
    if delay_of_nobody {
        v.wrong("delay", "says how long after another step: name it with `after` or `again_after`");
    }
    if v.node("repeat").is_some() && v.node("every").is_none() && v.node("again_after").is_none() {
        v.wrong("repeat", "say when the next round begins, with `every` or `again_after`");
    }
    if v.node("after").is_some() {
        for key in ["every", "again_after"] {
            if v.node(key).is_some() {
                v.wrong(key, "a step that follows another is repeated with it: repeat the one that it follows");
            }
        }
    }
    let condition = match v.node("when") {
        Some(_) => v.parsed("when", str::parse::<Condition>).map(Some),
        None => Some(None),
    };
    let deadline = if v.node("deadline").is_some() { v.duration("deadline").map(Some) } else { Some(None) };
    match (v.node("when").is_some(), v.node("deadline").is_some()) {
        (true, false) => v.wrong("when", "may never come true: say with `deadline` how long to wait for it"),
        (false, true) => v.wrong("deadline", "of what? It bounds the wait for `when`"),
        _ => {}
    }
    let server = selector(v, index, names, action, &start);
    if let (Some(Some(Condition { of: Subject::Server, .. })), Some(Selector::None)) = (&condition, &server) {
        v.wrong("when", "this step has no server of its own: write \"fleet.…\" or a server's id");
    }
    let joins = action.is_some_and(StepAction::is_join);
    for key in ["count", "stay"] {
        if action.is_some() && !joins && v.node(key).is_some() {
            v.wrong(key, "belongs to join_existing and join_new");
        }
    }
    let count = if v.node("count").is_some() { v.count("count") } else { Some(1) };
    let stay = if v.node("stay").is_some() { v.duration("stay").map(Some) } else { Some(None) };
    let room_for = |what: fn(&RoomGroup) -> u32| rooms.is_none_or(|r| r.iter().any(|g| what(g) > 0));
    match action {
        Some(StepAction::JoinExisting) if !room_for(|g| g.late_seats) => {
            v.wrong("do", "no room has a seat for a late joiner: give some [[rooms]] `late_seats`");
        }
        Some(StepAction::JoinNew) if !room_for(|g| g.late_rooms) => {
            v.wrong("do", "there is no new room to join: give some [[rooms]] `late_rooms`");
        }
        _ => {}
    }
    Some(Step {
        name: name?,
        action: action?,
        start: start?,
        condition: condition?,
        deadline: deadline?,
        server: server?,
        repeat: again?,
        count: count? as u32,
        stay: stay?,
    })
}

fn start(v: &mut View<'_>, index: usize, names: &[String], load: Option<&Load>) -> Option<Start> {
    let given: Vec<&str> = ["at", "clock", "after"].into_iter().filter(|k| v.node(k).is_some()).collect();
    match given[..] {
        [] => {
            v.wrong("", "when is it due? Give `at`, `clock` or `after`");
            None
        }
        ["at"] => {
            let at = v.duration("at")?;
            if let Some(load) = load.filter(|l| at >= l.hold) {
                let hold = crate::profile::units::print_duration(load.hold);
                v.wrong("at", format!("is due when the hold of {hold} is over: hold longer"));
            }
            Some(Start::At(at))
        }
        ["clock"] => v.parsed("clock", str::parse::<TimeOfDay>).map(Start::Clock),
        ["after"] => {
            let delay = delay(v);
            Some(Start::After { step: step_named(v, "after", names, Some(index))?, delay: delay? })
        }
        _ => {
            v.wrong(given[1], format!("and `{}` say twice when it is due", given[0]));
            None
        }
    }
}

fn delay(v: &mut View<'_>) -> Option<Duration> {
    if v.node("delay").is_some() { v.duration("delay") } else { Some(Duration::ZERO) }
}

fn again(v: &mut View<'_>, names: &[String], load: Option<&Load>) -> Option<Option<Repeat>> {
    let rounds = if v.node("repeat").is_some() { v.count("repeat").map(|n| Some(n as u32)) } else { Some(None) };
    let next = match (v.node("every").is_some(), v.node("again_after").is_some()) {
        (false, false) => return Some(None),
        (true, true) => {
            v.wrong("again_after", "and `every` say twice when the next round begins");
            return None;
        }
        (true, false) => Next::Every(v.duration("every")?),
        (false, true) => {
            let delay = delay(v);
            Next::After { step: step_named(v, "again_after", names, None)?, delay: delay? }
        }
    };
    if let (Next::Every(every), Some(Some(rounds)), Some(load)) = (next, rounds, load)
        && every * (rounds - 1) >= load.hold
    {
        v.wrong("repeat", "its last rounds are due when the hold is over: hold longer");
    }
    Some(Some(Repeat { rounds: rounds?, next }))
}

fn selector(
    v: &mut View<'_>,
    index: usize,
    names: &[String],
    action: Option<StepAction>,
    start: &Option<Start>,
) -> Option<Selector> {
    let own = match (v.node("server").is_some(), v.node("server_of").is_some()) {
        (true, true) => {
            v.wrong("server_of", "and `server` say the same thing twice");
            return None;
        }
        (true, false) => Some(word(&v.text("server")?)),
        (false, true) => Some(Selector::Of(step_named(v, "server_of", names, Some(index))?)),
        (false, false) => None,
    };
    let action = action?;
    let takes_none = !action.needs_server() && action != StepAction::JoinExisting;
    match (own, start) {
        (Some(_), _) if takes_none => {
            v.wrong(
                if v.node("server").is_some() { "server" } else { "server_of" },
                format!("{} is not done to a server", action.as_str()),
            );
            None
        }
        (Some(s), _) => Some(s),
        (None, _) if takes_none => Some(Selector::None),
        (None, Some(Start::After { step, .. })) => Some(Selector::Of(*step)),
        (None, _) if action == StepAction::JoinExisting => Some(Selector::None),
        (None, _) => {
            v.wrong("", format!("to which server? {} needs `server`", action.as_str()));
            None
        }
    }
}

fn word(text: &str) -> Selector {
    match text {
        "most_sessions" => Selector::MostSessions,
        "least_sessions" => Selector::LeastSessions,
        "all" => Selector::All,
        "random" => Selector::Random,
        "each" => Selector::Each,
        id => Selector::Id(id.to_owned()),
    }
}

fn rollback(v: &mut View<'_>, names: &[String]) -> Option<Rollback> {
    let action = action(v);
    let name = if v.node("name").is_some() { v.text("name") } else { action.map(|a| a.as_str().to_owned()) };
    let server = match (v.node("server").is_some(), v.node("server_of").is_some()) {
        (true, true) => {
            v.wrong("server_of", "and `server` say the same thing twice");
            None
        }
        (true, false) => match v.text("server").map(|t| word(&t))? {
            known @ (Selector::Id(_) | Selector::All) => Some(known),
            _ => {
                v.wrong("server", "write an id, \"all\", or name a step with `server_of`");
                None
            }
        },
        (false, true) => step_named(v, "server_of", names, None).map(Selector::Of),
        (false, false) => match action {
            Some(a) if a.needs_server() => {
                v.wrong("", format!("to which server? {} needs `server` or `server_of`", a.as_str()));
                None
            }
            _ => Some(Selector::None),
        },
    };
    Some(Rollback { name: name?, action: action?, server: server? })
}
