//! The script against a small fleet in virtual time.

use super::*;
use crate::history::{
    FleetRole, FleetView, JoinFailure, LegCause, LegEnd, ServerInfo, ServerSeen, StepAction, StepEvent, StepStage,
};
use crate::plan::{PlannedLeg, plan};
use crate::profile::parse_resolved;
use crate::types::{LegId, RoomId, ServerId};
use std::collections::BTreeMap;

const PROFILE: &str = r#"shape = "scale-in"
target = "embedded"
seed = 5
[embedded]
servers = 3
[[rooms]]
name = "call"
count = 6
size = 2
late_seats = 2
audio = "opus@32kbit/s"
[[rooms]]
name = "new"
count = 1
late_rooms = 2
size = 2
audio = "opus@32kbit/s"
[load]
join = "10/s"
warmup = "3s"
hold = "60s"
"#;

const DRAIN: &str = r#"
[[step]]
name = "cordon"
do = "cordon"
server = "least_sessions"
at = "5s"
[[step]]
name = "terminate"
do = "terminate"
after = "cordon"
when = "server.sessions == 0"
deadline = "40s"
"#;

#[derive(Clone, Default)]
struct Server {
    dead: bool,
    cordoned: bool,
}

/// Rooms go to the server with the fewest legs; calls end when their server does.
struct World {
    script: Script,
    plan: Arc<Plan>,
    servers: BTreeMap<String, Server>,
    rooms: BTreeMap<RoomId, String>,
    legs: BTreeMap<LegId, (PlannedLeg, String)>,
    joins: Vec<(Duration, PlannedLeg, Option<LegId>)>,
    steps: Vec<(Duration, StepEvent)>,
    /// What is to be told to the script, and when.
    later: Vec<(Duration, Event)>,
    closed: Option<Duration>,
    tick: u64,
    /// Sessions that the fleet shows beside the true ones, by server.
    ghosts: BTreeMap<String, u64>,
    /// Joins fail on a server.
    refuses: Option<String>,
    /// The backend fails at such an action.
    cannot: Option<StepAction>,
    blind: bool,
    /// A server that is told to end goes on with its calls, and nobody shows cordons.
    drains: bool,
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

impl World {
    fn new(steps: &str) -> World {
        let profile = parse_resolved(&format!("{PROFILE}{steps}")).unwrap_or_else(|e| panic!("{e}"));
        let plan = Arc::new(plan(&profile));
        let script = Script::of(&profile, &plan, 0).unwrap();
        let mut world = World {
            script,
            plan,
            servers: ["s1", "s2", "s3"].map(|s| (s.to_owned(), Server::default())).into(),
            rooms: BTreeMap::new(),
            legs: BTreeMap::new(),
            joins: Vec::new(),
            steps: Vec::new(),
            later: Vec::new(),
            closed: None,
            tick: 0,
            ghosts: BTreeMap::new(),
            refuses: None,
            cannot: None,
            blind: false,
            drains: false,
        };
        for (i, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
            world.tell(Duration::ZERO, Event::Server(ServerInfo { id: ServerId(i as u32), name: name.into() }));
        }
        world
    }

    fn tell(&mut self, at: Duration, event: Event) {
        self.script.see(&Line { t: ms(at), event });
    }

    fn on(&self, server: &str) -> u64 {
        self.legs.values().filter(|(_, s)| s == server).count() as u64
    }

    fn view(&self) -> FleetView {
        let seen = |(name, s): (&String, &Server)| ServerSeen {
            server: name.clone(),
            alive: Some(!s.dead),
            cordoned: (!self.drains).then_some(s.cordoned),
            sessions: (!s.dead).then(|| self.on(name) + self.ghosts.get(name).unwrap_or(&0)),
            ..ServerSeen::default()
        };
        let servers = if self.blind { Vec::new() } else { self.servers.iter().map(seen).collect() };
        let error = self.blind.then(|| "no answer".to_owned());
        FleetView { backend: "fake".into(), role: FleetRole::Observation, servers, rooms: BTreeMap::new(), error }
    }

    fn fall(&mut self, at: Duration, server: &str) {
        let fallen: Vec<LegId> = self.legs.iter().filter(|(_, (_, s))| s == server).map(|(l, _)| *l).collect();
        for leg in fallen {
            self.end(at, leg, LegCause::ClosedByServer);
        }
        self.rooms.retain(|_, s| s != server);
    }

    fn end(&mut self, at: Duration, leg: LegId, cause: LegCause) {
        let Some((planned, _)) = self.legs.remove(&leg) else { return };
        if !self.legs.values().any(|(l, _)| l.room == planned.room) {
            self.rooms.remove(&planned.room);
        }
        let end = LegEnd {
            leg,
            room: planned.room,
            server: None,
            cause,
            detail: String::new(),
            audio: Default::default(),
            video: Default::default(),
            worst_10s_loss: [None; 2],
            worst_10s_at_ms: [None; 2],
            silences: vec![],
            flow_gaps: vec![],
            ice_restarts: 0,
            longest_gap_ms: 0.0,
            longest_gap_at_ms: 0.0,
            impaired: None,
        };
        self.tell(at, Event::LegEnd(end));
    }

    fn join(&mut self, at: Duration, leg: PlannedLeg, of: Option<LegId>) {
        assert_eq!(leg.id.index(), self.joins.len());
        self.joins.push((at, leg.clone(), of));
        let open = |(_, s): &(&String, &Server)| !s.dead && !s.cordoned;
        let fresh = self.servers.iter().filter(open).map(|(n, _)| n.clone()).min_by_key(|s| self.on(s));
        let server = self.rooms.get(&leg.room).cloned().or(fresh);
        let server = server.filter(|s| self.refuses.as_ref() != Some(s));
        let Some(server) = server else {
            let failure = JoinFailure {
                leg: leg.id,
                room: leg.room,
                server: None,
                reason: crate::history::FailReason::Full,
                detail: String::new(),
                after_ms: 1.0,
            };
            self.later.push((at + secs(0.05), Event::JoinFailed(failure)));
            return;
        };
        let id = ServerId(self.servers.keys().position(|s| *s == server).unwrap() as u32);
        self.rooms.insert(leg.room, server.clone());
        self.legs.insert(leg.id, (leg.clone(), server));
        let (leg, room) = (leg.id, leg.room);
        let joined = Event::Joined {
            leg,
            room,
            server: id,
            suite: None,
            remote: None,
            certificate: None,
            setup: Default::default(),
        };
        self.later.push((at + secs(0.05), joined));
    }

    fn act(&mut self, at: Duration, step: StepEvent) {
        self.steps.push((at, step.clone()));
        self.tell(at, Event::Step(step.clone()));
        let name = step.server.clone().unwrap_or_default();
        let stage = if self.cannot == Some(step.action) { StepStage::Failed } else { StepStage::Done };
        if stage == StepStage::Done
            && let Some(server) = self.servers.get_mut(&name)
        {
            match step.action {
                StepAction::Cordon => server.cordoned = true,
                StepAction::Uncordon => server.cordoned = false,
                StepAction::Terminate if self.drains => {}
                StepAction::Kill | StepAction::Terminate => server.dead = true,
                _ => {}
            }
        }
        if self.servers.get(&name).is_some_and(|s| s.dead) {
            self.fall(at, &name);
        }
        let told = StepEvent { stage, ..step };
        self.later.push((at + secs(0.05), Event::Step(told)));
    }

    fn obey(&mut self, at: Duration, order: Order) {
        match order {
            Order::Join(leg) => self.join(at, leg, None),
            Order::Rejoin(leg, of) => self.join(at, leg, Some(of)),
            Order::Leave(leg) => self.end(at, leg, LegCause::Left),
            Order::Act(step) => self.act(at, step),
            Order::Step(step) => {
                self.steps.push((at, step.clone()));
                self.tell(at, Event::Step(step));
            }
            Order::Close => self.closed = Some(at),
            other => panic!("{other:?}"),
        }
    }

    /// Until this time, or the end.
    fn run(&mut self, until: Duration) {
        while self.tick <= until.as_millis() as u64 / 10 {
            let tick = self.tick;
            self.tick += 1;
            let at = Duration::from_millis(tick * 10);
            let mut due = Vec::new();
            self.later.retain(|(t, e)| {
                let now = *t <= at;
                if now {
                    due.push(e.clone());
                }
                !now
            });
            for event in due {
                if let Event::Step(s) = &event {
                    self.steps.push((at, s.clone()));
                }
                self.tell(at, event);
            }
            if tick.is_multiple_of(100) {
                let view = self.view();
                self.tell(at, Event::Fleet(view));
            }
            while let Some(order) = self.script.due(at) {
                self.obey(at, order);
            }
            assert!(self.script.wake(at) >= at);
            if self.closed.is_some() {
                return;
            }
        }
    }

    fn stages(&self, name: &str) -> Vec<(f64, StepStage, Option<&str>)> {
        let of = |(_, s): &&(Duration, StepEvent)| s.name == name;
        let round = |d: &Duration| (d.as_secs_f64() * 10.0).round() / 10.0;
        self.steps.iter().filter(of).map(|(at, s)| (round(at), s.stage, s.server.as_deref())).collect()
    }

    fn detail(&self, name: &str, stage: StepStage) -> &str {
        let of = |(_, s): &&(Duration, StepEvent)| s.name == name && s.stage == stage;
        self.steps.iter().find(of).map_or("", |(_, s)| s.detail.as_str())
    }
}

use StepStage::{Begun, Done, Failed, Skipped};

#[test]
fn a_server_is_terminated_when_its_calls_are_over_and_not_before() {
    let mut w = World::new(&format!("{DRAIN}[[rollback]]\ndo = \"uncordon\"\nserver_of = \"cordon\"\n"));
    w.run(secs(20.0));
    let hold = w.plan.hold_from.as_secs_f64();
    assert!(hold < 5.0, "{hold}");
    let (_, cordon, server) = w.stages("cordon")[1];
    assert_eq!(cordon, Done);
    let server = server.unwrap().to_owned();
    assert!(w.stages("terminate").is_empty() && w.on(&server) > 0);
    // Its calls end one by one; the fleet sees it within a second.
    let legs: Vec<LegId> = w.legs.iter().filter(|(_, (_, s))| *s == server).map(|(l, _)| *l).collect();
    for leg in legs {
        w.end(secs(20.0), leg, LegCause::Left);
    }
    w.run(secs(90.0));
    let stages = w.stages("terminate");
    assert_eq!(stages.iter().map(|s| s.1).collect::<Vec<_>>(), [Begun, Done]);
    assert!((20.0..22.1).contains(&stages[0].0), "{stages:?}");
    assert_eq!(w.detail("terminate", Begun), "server.sessions == 0");
    assert_eq!(w.closed.map(|c| c.as_secs()), Some(w.plan.hold_until.as_secs()));
    // It is gone, and its mark is taken back all the same.
    assert_eq!(w.stages("uncordon").iter().map(|s| s.1).collect::<Vec<_>>(), [Begun, Done]);
    assert!(w.joins.iter().all(|(_, _, of)| of.is_none()));
}

#[test]
fn ghosts_hold_a_drain_and_its_deadline_ends_the_wait() {
    let mut w = World::new(&format!("{DRAIN}[[rollback]]\ndo = \"uncordon\"\nserver_of = \"cordon\"\n"));
    w.run(secs(10.0));
    let server = w.stages("cordon")[0].2.unwrap().to_owned();
    w.ghosts.insert(server.clone(), 1);
    let legs: Vec<LegId> = w.legs.iter().filter(|(_, (_, s))| *s == server).map(|(l, _)| *l).collect();
    legs.into_iter().for_each(|l| w.end(secs(10.0), l, LegCause::Left));
    w.run(secs(90.0));
    assert_eq!(w.stages("terminate").iter().map(|s| s.1).collect::<Vec<_>>(), [Skipped]);
    assert_eq!(w.detail("terminate", Skipped), "server.sessions == 0 did not come true within 40s");
    let undone = w.steps.iter().filter(|(_, s)| s.rollback).map(|(_, s)| (s.stage, s.server.clone()));
    assert_eq!(undone.collect::<Vec<_>>(), [(Begun, Some(server.clone())), (Done, Some(server))]);
}

#[test]
fn a_backend_that_fails_is_never_read_as_zero_sessions() {
    let mut w = World::new(DRAIN);
    w.blind = true;
    w.run(secs(90.0));
    assert_eq!(w.stages("terminate").iter().map(|s| s.1).collect::<Vec<_>>(), [Skipped]);
    assert!(w.detail("terminate", Skipped).contains("nobody says sessions of s"), "{:?}", w.steps);
}

#[test]
fn whoever_falls_comes_back_with_growing_waits_of_their_own() {
    let kill = "[[step]]\nname = \"kill\"\ndo = \"kill\"\nserver = \"most_sessions\"\nat = \"5s\"\n[rejoin]\nbackoff = \"1s\"\n";
    let mut w = World::new(kill);
    w.run(secs(40.0));
    let killed = w.stages("kill")[0].0;
    let back: Vec<_> = w.joins.iter().filter(|j| j.2.is_some()).collect();
    assert!(back.len() >= 4, "{}", back.len());
    for (at, leg, of) in &back {
        let wait = at.as_secs_f64() - killed;
        assert!((0.45..1.55).contains(&wait), "{wait}");
        let before = &w.joins[of.unwrap().index()].1;
        assert_eq!((leg.room, leg.seat, leg.name.clone()), (before.room, before.seat, format!("{}.r1", before.name)));
    }
    let mut times: Vec<_> = back.iter().map(|b| b.0).collect();
    times.dedup();
    assert!(times.len() > 2, "not as one herd");
    // Where nobody lets them in, waits double up to the most, and tries end.
    let mut w = World::new(&format!("{kill}attempts = 4\nbackoff_max = \"4s\"\njitter = \"0%\"\n"));
    w.run(secs(15.0));
    let tries = |w: &World| w.joins.iter().filter(|j| j.2.is_some()).count();
    let before = tries(&w);
    for s in w.servers.values_mut() {
        s.cordoned = true;
    }
    let (leg, _) = w.legs.first_key_value().unwrap();
    let leg = *leg;
    let room = w.legs[&leg].0.room;
    let all: Vec<LegId> = w.legs.iter().filter(|(_, (l, _))| l.room == room).map(|(l, _)| *l).collect();
    all.iter().for_each(|l| w.end(secs(15.0), *l, LegCause::ConsentExpired));
    w.run(secs(59.0));
    let again: Vec<f64> = w.joins.iter().filter(|j| j.2 == Some(leg)).map(|j| j.0.as_secs_f64()).collect();
    assert_eq!(tries(&w), before + 4 * all.len());
    let gaps: Vec<f64> = again.windows(2).map(|w| (w[1] - w[0]).round()).collect();
    assert_eq!(gaps, [2.0, 4.0, 4.0], "{again:?}");
}

#[test]
fn late_joiners_go_to_rooms_of_the_cordoned_server_and_new_rooms_fill() {
    let steps = format!(
        "{DRAIN}[[step]]\nname = \"late\"\ndo = \"join_existing\"\nafter = \"cordon\"\ndelay = \"1s\"\ncount = 2\nstay = \"5s\"\n\
         [[step]]\nname = \"new\"\ndo = \"join_new\"\nat = \"9s\"\ncount = 2\n\
         [[step]]\nname = \"more\"\ndo = \"join_new\"\nat = \"20s\"\n"
    );
    let mut w = World::new(&steps);
    w.run(secs(15.0));
    let server = w.stages("cordon")[0].2.unwrap().to_owned();
    assert_eq!(
        w.stages("late").iter().map(|s| (s.1, s.2)).collect::<Vec<_>>(),
        [(Begun, Some(&*server)), (Done, Some(&*server))]
    );
    let late: Vec<_> = w.joins.iter().filter(|(_, l, _)| l.name.starts_with("call-") && l.seat >= 2).collect();
    assert_eq!(late.len(), 2);
    assert!(w.detail("late", Done).starts_with("2 of 2 joined: call-"), "{}", w.detail("late", Done));
    let new = w.joins.iter().filter(|(_, l, _)| l.name.starts_with("new-2/") || l.name.starts_with("new-3/"));
    assert_eq!(new.count(), 4);
    w.run(secs(40.0));
    assert!(late_gone(&w), "they leave after their stay");
    assert_eq!(w.detail("more", Failed), "there is no room with a free seat");
}

fn late_gone(w: &World) -> bool {
    !w.legs.values().any(|(l, _)| l.name.starts_with("call-") && l.seat >= 2)
}

#[test]
fn what_follows_a_failed_step_is_skipped_and_the_rest_goes_on() {
    let mut w =
        World::new(&format!("{DRAIN}[[step]]\nname = \"pause\"\ndo = \"pause\"\nserver = \"s2\"\nat = \"8s\"\n"));
    w.cannot = Some(StepAction::Cordon);
    w.run(secs(90.0));
    assert_eq!(w.stages("cordon").iter().map(|s| s.1).collect::<Vec<_>>(), [Begun, Failed]);
    assert_eq!(w.stages("terminate").iter().map(|s| s.1).collect::<Vec<_>>(), [Skipped]);
    assert!(w.detail("terminate", Skipped).contains("\"cordon\""));
    assert_eq!(w.stages("pause").iter().map(|s| s.1).collect::<Vec<_>>(), [Begun, Done]);
}

#[test]
fn a_rolling_restart_takes_one_server_after_the_other() {
    let steps = "[[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"each\"\nat = \"5s\"\nagain_after = \"uncordon\"\ndelay = \"1s\"\n\
        [[step]]\nname = \"uncordon\"\ndo = \"uncordon\"\nafter = \"cordon\"\ndelay = \"4s\"\n";
    let mut w = World::new(steps);
    w.run(secs(90.0));
    let begun = |name: &str| -> Vec<(f64, Option<&str>)> {
        w.stages(name).into_iter().filter(|s| s.1 == Begun).map(|s| (s.0, s.2)).collect()
    };
    let (down, up) = (begun("cordon"), begun("uncordon"));
    assert_eq!(down.iter().map(|s| s.1.unwrap()).collect::<Vec<_>>(), ["s1", "s2", "s3"]);
    assert_eq!(up.iter().map(|s| s.1.unwrap()).collect::<Vec<_>>(), ["s1", "s2", "s3"]);
    for (d, u) in down.iter().zip(&up) {
        assert!((3.9..4.3).contains(&(u.0 - d.0)), "{down:?} {up:?}");
    }
    assert!(down[1].0 > up[0].0 + 0.9, "{down:?} {up:?}");
}

#[test]
fn flapping_comes_in_rounds_by_time_and_all_means_each_by_itself() {
    let steps = "[[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"s2\"\nat = \"5s\"\nevery = \"4s\"\nrepeat = 3\n\
        [[step]]\nname = \"uncordon\"\ndo = \"uncordon\"\nafter = \"cordon\"\ndelay = \"1s\"\n\
        [[step]]\nname = \"pause\"\ndo = \"pause\"\nserver = \"all\"\nat = \"30s\"\n\
        [[step]]\nname = \"resume\"\ndo = \"resume\"\nafter = \"pause\"\ndelay = \"2s\"\n";
    let mut w = World::new(steps);
    w.run(secs(90.0));
    let times: Vec<f64> = w.stages("cordon").iter().filter(|s| s.1 == Begun).map(|s| s.0).collect();
    assert_eq!((times.len(), times[1] - times[0], times[2] - times[1]), (3, 4.0, 4.0));
    assert_eq!(w.stages("uncordon").len(), 6);
    for name in ["pause", "resume"] {
        let on: Vec<&str> = w.stages(name).iter().filter(|s| s.1 == Done).filter_map(|s| s.2).collect();
        assert_eq!(on, ["s1", "s2", "s3"], "{name}");
    }
}

#[test]
fn an_interrupted_run_rolls_back_what_was_begun_and_then_closes() {
    let mut w = World::new(&format!("{DRAIN}[[rollback]]\ndo = \"uncordon\"\nserver_of = \"cordon\"\n"));
    w.run(secs(15.0));
    let server = w.stages("cordon")[0].2.unwrap().to_owned();
    assert!(w.script.interrupt(secs(15.0)));
    w.run(secs(30.0));
    let closed = w.closed.unwrap().as_secs_f64();
    assert!(closed < 15.5, "{closed}");
    assert_eq!(w.detail("terminate", Skipped), "the run was over before");
    let undone: Vec<_> =
        w.steps.iter().filter(|(_, s)| s.rollback).map(|(_, s)| (s.stage, s.server.as_deref())).collect();
    assert_eq!(undone, [(Begun, Some(&*server)), (Done, Some(&*server))]);
    // Before the first step, nothing was begun, and nothing is taken back.
    let mut w = World::new(&format!("{DRAIN}[[rollback]]\ndo = \"uncordon\"\nserver_of = \"cordon\"\n"));
    w.run(secs(2.0));
    w.script.interrupt(secs(2.0));
    w.run(secs(3.0));
    assert!(w.closed.is_some() && w.steps.iter().all(|(_, s)| s.stage == Skipped), "{:?}", w.steps);
}

#[test]
fn the_rollback_runs_also_where_the_server_is_gone() {
    for cannot in [None, Some(StepAction::Uncordon)] {
        let mut w = World::new(&format!("{DRAIN}[[rollback]]\ndo = \"uncordon\"\nserver_of = \"cordon\"\n"));
        w.cannot = cannot;
        w.run(secs(10.0));
        let server = w.stages("cordon")[0].2.unwrap().to_owned();
        for leg in w.legs.iter().filter(|(_, l)| l.1 == server).map(|(id, _)| *id).collect::<Vec<_>>() {
            w.end(secs(10.0), leg, LegCause::Left);
        }
        w.run(secs(90.0));
        assert!(w.servers[&server].dead && w.closed.is_some(), "{:?}", w.steps);
        let undone: Vec<_> = w.steps.iter().filter(|(_, s)| s.rollback).map(|(_, s)| s.stage).collect();
        assert_eq!(undone, [Begun, if cannot.is_none() { Done } else { StepStage::Failed }]);
        assert_eq!(w.servers[&server].cordoned, cannot.is_some());
    }
}

#[test]
fn a_server_that_still_drains_is_not_taken_again() {
    let steps = "[[step]]\nname = \"first\"\ndo = \"cordon\"\nserver = \"least_sessions\"\nat = \"5s\"\n\
        [[step]]\nname = \"end\"\ndo = \"terminate\"\nafter = \"first\"\n\
        [[step]]\nname = \"second\"\ndo = \"cordon\"\nserver = \"least_sessions\"\nat = \"20s\"\n";
    let mut w = World::new(steps);
    w.drains = true;
    w.run(secs(15.0));
    let first = w.stages("first")[0].2.unwrap().to_owned();
    assert!(!w.script.sight.is_gone(&first) && !w.script.sight.serves(&first));
    w.run(secs(30.0));
    assert_ne!(w.stages("second")[0].2.unwrap(), first);
    // It dies at last, and another one of that name comes: nothing was done to this one.
    w.servers.get_mut(&first).unwrap().dead = true;
    w.run(secs(33.0));
    w.servers.get_mut(&first).unwrap().dead = false;
    w.run(secs(36.0));
    assert!(w.script.sight.serves(&first));
}

#[test]
fn by_clock_means_the_first_such_time_of_the_hold() {
    let steps = "[[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"random\"\nclock = \"00:00:20\"\n";
    let mut w = World::new(steps);
    w.run(secs(90.0));
    // The run began at midnight.
    assert_eq!(w.stages("cordon")[0].0, 20.0);
    let profile = parse_resolved(&format!("{PROFILE}{steps}")).unwrap();
    let late = Script::of(&profile, &w.plan, 19_000_000_000).unwrap();
    // It is past twenty when the hold begins: the next one is tomorrow, after the run.
    assert!(late.steps.wake_at(Duration::from_secs(90_000)) > Duration::from_secs(80_000));
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let steps = "[[step]]\nname = \"kill\"\ndo = \"kill\"\nserver = \"random\"\nat = \"5s\"\n";
    let course = || {
        let mut w = World::new(steps);
        w.run(secs(30.0));
        (w.joins.iter().map(|j| (j.0, j.1.name.clone())).collect::<Vec<_>>(), w.steps)
    };
    assert_eq!(course(), course());
}
