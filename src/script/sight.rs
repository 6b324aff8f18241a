//! What is known of the servers: what the fleet's backends say, and our own count of who is in.

use crate::history::{Event, FleetRole, Line, ServerSeen, StepAction, StepStage};
use crate::profile::{Condition, Profile, Seen, Subject, Target};
use crate::types::{LegId, RoomId, ServerId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// A backend's last word on a server.
struct Said {
    at: Duration,
    seen: ServerSeen,
}

pub(super) struct Sight {
    /// In the order of the target, then as they were met.
    servers: Vec<String>,
    names: BTreeMap<ServerId, String>,
    /// Who is in, and where.
    legs: BTreeMap<LegId, (ServerId, RoomId)>,
    /// By backend, what it does, and server.
    said: BTreeMap<(String, FleetRole), BTreeMap<String, Said>>,
    /// What steps did, until the fleet says otherwise.
    cordoned: BTreeSet<String>,
    ended: BTreeMap<String, Ended>,
}

/// What is known of a server that a step ended.
struct Ended {
    /// Time to be seen dead before it can be seen alive again.
    since: Duration,
    seen_dead: bool,
    /// Seen alive all the same: it drains, or it is another one of that name.
    alive: bool,
}

/// What a condition comes to.
pub(super) enum Holds {
    Yes,
    No,
    /// Nobody has said so yet; why.
    Unknown(String),
}

impl Sight {
    pub fn new(profile: &Profile) -> Sight {
        let servers = match &profile.target {
            Target::Embedded(t) => (1..=t.servers).map(|n| format!("s{n}")).collect(),
            // Only its director knows them.
            Target::External(t) if t.driver == "embedded" => Vec::new(),
            Target::External(t) => t.carriers().into_iter().map(str::to_owned).collect(),
        };
        Sight {
            servers,
            names: BTreeMap::new(),
            legs: BTreeMap::new(),
            said: BTreeMap::new(),
            cordoned: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    pub fn see(&mut self, line: &Line) {
        match &line.event {
            Event::Server(s) => {
                self.meet(&s.name);
                self.names.insert(s.id, s.name.clone());
            }
            Event::Joined { leg, room, server, .. } => {
                self.legs.insert(*leg, (*server, *room));
            }
            Event::Moved { leg, to, .. } => {
                if let Some(l) = self.legs.get_mut(leg) {
                    l.0 = *to;
                }
            }
            Event::LegEnd(end) => {
                self.legs.remove(&end.leg);
            }
            Event::Fleet(view) => {
                let at = Duration::from_secs_f64((line.t / 1000.0).max(0.0));
                let said = view.servers.iter().map(|s| (s.server.clone(), Said { at, seen: s.clone() }));
                // A view that failed says nothing, and what was said before is not known to hold any more.
                let before = self.said.insert((view.backend.clone(), view.role), said.collect()).unwrap_or_default();
                for (server, ended) in self.ended.iter_mut().filter(|_| view.error.is_none()) {
                    let left_out = before.contains_key(server) && !view.servers.iter().any(|s| s.server == *server);
                    ended.seen_dead |= left_out;
                    ended.alive &= !left_out;
                }
                for s in &view.servers {
                    self.meet(&s.server);
                    self.lives_or_not(s, at);
                }
            }
            Event::Step(step) if step.stage == StepStage::Done => {
                let Some(server) = &step.server else { return };
                match step.action {
                    StepAction::Cordon => {
                        self.cordoned.insert(server.clone());
                    }
                    StepAction::Uncordon => {
                        self.cordoned.remove(server);
                    }
                    StepAction::Terminate | StepAction::Kill => {
                        let since = Duration::from_secs_f64((line.t / 1000.0).max(0.0)) + Duration::from_secs(5);
                        self.ended.insert(server.clone(), Ended { since, seen_dead: false, alive: false });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Of a server that a step ended.
    fn lives_or_not(&mut self, seen: &ServerSeen, at: Duration) {
        let Some(ended) = self.ended.get_mut(&seen.server) else { return };
        match seen.alive {
            Some(false) => (ended.seen_dead, ended.alive) = (true, false),
            // Who was dead has come back, and as a new one. Who was not still drains: what we did to it stands.
            Some(true) if at > ended.since && ended.seen_dead => {
                self.ended.remove(&seen.server);
                self.cordoned.remove(&seen.server);
            }
            Some(true) if at > ended.since => ended.alive = true,
            _ => {}
        }
    }

    fn meet(&mut self, name: &str) {
        if !self.servers.iter().any(|s| s == name) {
            self.servers.push(name.to_owned());
        }
    }

    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Taken away by a step, and not come back.
    pub fn is_gone(&self, server: &str) -> bool {
        self.ended.get(server).is_some_and(|e| !e.alive)
    }

    fn says(&self, server: &str) -> impl Iterator<Item = &Said> {
        self.said.values().filter_map(move |by| by.get(server))
    }

    /// Alive and not cordoned, as far as anybody says.
    pub fn serves(&self, server: &str) -> bool {
        !self.is_gone(server)
            && !self.cordoned.contains(server)
            && self.says(server).all(|s| s.seen.alive != Some(false) && s.seen.cordoned != Some(true))
    }

    /// Sessions by the fleet's count, or our own where it has none.
    pub fn sessions(&self, server: &str) -> u64 {
        let said = self.says(server).filter_map(|s| s.seen.sessions).max();
        said.unwrap_or_else(|| self.legs_on(server))
    }

    pub fn legs_on(&self, server: &str) -> u64 {
        let on = |id: &ServerId| self.names.get(id).is_some_and(|n| n == server);
        self.legs.values().filter(|(id, _)| on(id)).count() as u64
    }

    /// Somebody is in it; on this server, where one is given.
    pub fn lives(&self, room: RoomId, server: Option<&str>) -> bool {
        let on = |id: &ServerId| server.is_none_or(|s| self.names.get(id).is_some_and(|n| n == s));
        self.legs.values().any(|(id, r)| *r == room && on(id))
    }

    /// Whether a condition holds, by what was said after `since` alone. Where several backends say something, all have to.
    pub fn holds(&self, condition: &Condition, own: Option<&str>, since: Duration) -> Holds {
        let one = match &condition.of {
            Subject::Server => match own {
                Some(server) => server,
                None => return Holds::Unknown("the step has no server".into()),
            },
            Subject::Id(id) => id.as_str(),
            Subject::Fleet => return self.all_together(condition, since),
        };
        if condition.metric == Seen::Legs {
            return yes(condition.op.holds(self.legs_on(one) as f64, condition.value));
        }
        let values: Vec<f64> = self.values(one, condition.metric, since).collect();
        match values.is_empty() {
            true => Holds::Unknown(format!("nobody says {} of {one}", condition.metric.as_str())),
            false => yes(values.iter().all(|v| condition.op.holds(*v, condition.value))),
        }
    }

    fn all_together(&self, condition: &Condition, since: Duration) -> Holds {
        if condition.metric == Seen::Legs {
            return yes(condition.op.holds(self.legs.len() as f64, condition.value));
        }
        let mut sum = 0.0;
        for server in self.servers.iter().filter(|s| !self.is_gone(s)) {
            // The dead have no sessions that anybody could tell.
            if condition.metric != Seen::Alive && self.says(server).any(|s| s.seen.alive == Some(false)) {
                continue;
            }
            match self.values(server, condition.metric, since).reduce(f64::max) {
                Some(v) => sum += v,
                None => return Holds::Unknown(format!("nobody says {} of {server}", condition.metric.as_str())),
            }
        }
        yes(condition.op.holds(sum, condition.value))
    }

    fn values(&self, server: &str, metric: Seen, since: Duration) -> impl Iterator<Item = f64> {
        self.says(server).filter(move |s| s.at > since).filter_map(move |s| match metric {
            Seen::Sessions => s.seen.sessions.map(|n| n as f64),
            Seen::Participants => s.seen.participants.map(|n| n as f64),
            Seen::Headroom => s.seen.headroom.map(|n| n as f64),
            Seen::Alive => s.seen.alive.map(|a| f64::from(u8::from(a))),
            Seen::Legs => None,
        })
    }

    /// `s1 24, s2 3 (cordoned), s3 gone`: sessions by server.
    pub fn counts(&self) -> String {
        let mut out = String::new();
        for server in &self.servers {
            let dead = self.is_gone(server) || self.says(server).any(|s| s.seen.alive == Some(false));
            let cordoned = self.cordoned.contains(server) || self.says(server).any(|s| s.seen.cordoned == Some(true));
            let comma = if out.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = match (dead, cordoned) {
                (true, _) => write!(out, "{comma}{server} gone"),
                (false, true) => write!(out, "{comma}{server} {} cordoned", self.sessions(server)),
                (false, false) => write!(out, "{comma}{server} {}", self.sessions(server)),
            };
        }
        out
    }
}

fn yes(holds: bool) -> Holds {
    if holds { Holds::Yes } else { Holds::No }
}
