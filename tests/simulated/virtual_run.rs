//! A whole run in virtual time: a profile's text, its plan, the engine's own agenda and participants, an SFU, the history and
//! its judgement. The same profile and seed give the same history, byte for byte, and so the same report.

use crate::sim::{Sim, clips};
use roomful::engine::{Agenda, Due, Over, leg_end, participant_of};
use roomful::history::{Event, FILE_NAME, Health, Interval, LegCause, Line, Phase, RunInfo, ServerFlow, ServerInfo};
use roomful::history::{ShardHealth, UdpErrors, Writer, read};
use roomful::impair::Conditions;
use roomful::participant::Milestones;
use roomful::plan::{Plan, plan};
use roomful::profile::{Profile, parse_resolved};
use roomful::report::Summary;
use roomful::signaling::TransportState;
use roomful::signaling::embedded::want;
use roomful::types::{LegId, ServerId};
use roomful::verdict::judge;
use std::sync::Arc;
use std::time::Duration;

const SERVER: ServerId = ServerId(0);

/// Groups that use most of what a participant can do: layers, adaptation, a conversation, mutes, churn, bad networks.
fn text(client: &str, seed: u64) -> String {
    format!(
        "shape = \"steady\"\ntarget = \"embedded\"\nclient = \"{client}\"\nseed = {seed}\n\
         [embedded]\nservers = 1\n\
         [[rooms]]\nname = \"meeting\"\ncount = 2\nsize = \"2..4\"\naudio = \"opus@32kbit/s\"\nvideo = \"vp8@150kbit/s\"\n\
         talk = \"p59\"\nmute = {{ after = \"5s\", lasts = \"3s\" }}\n\
         network = [{{ preset = \"bad-wifi\", share = \"50%\" }}, {{ loss_up = \"2%\", share = \"25%\" }}]\n\
         [[rooms]]\nname = \"churn\"\ncount = 1\nsize = 3\naudio = \"opus@32kbit/s\"\nstay = \"exponential(5s)\"\n\
         [[rooms]]\nname = \"layers\"\ncount = 1\nsize = 3\nsend = 1\nvideo = \"vp8@1500kbit/s\"\nsimulcast = true\n\
         [[rooms]]\nname = \"steps\"\ncount = 1\nsize = 2\nvideo = \"h264@500kbit/s\"\nadapt = true\n\
         network = {{ up = {{ rate = \"400kbit/s\", after = \"4s\" }} }}\n\
         [load]\njoin = \"poisson(5/s)\"\nwarmup = \"2s\"\nhold = \"12s\"\n\
         [pass]\n\"joins.failed\" = \"== 0\"\n\"audio.delay.p99\" = \"<= 400ms\"\n\"video.e2e.expected\" = \"> 1000\"\n"
    )
}

struct Run {
    history: String,
    /// `summary.json`.
    summary: serde_json::Value,
    profile: Profile,
    plan: Arc<Plan>,
}

struct Recorder<'a> {
    sim: Sim,
    profile: &'a Profile,
    plan: &'a Plan,
    writer: Writer,
    epoch_ns: u64,
    joined: Vec<bool>,
    first_told: Vec<usize>,
    seconds: usize,
}

fn run(client: &str, seed: u64) -> Run {
    let profile = parse_resolved(&text(client, seed)).unwrap_or_else(|e| panic!("{e}"));
    let plan = Arc::new(plan(&profile));
    let mut sim = Sim::new(plan.seed, profile.client, Duration::from_millis(10));
    // Media alone goes through the networks: DTLS signs with fresh keys, and its signatures differ in length (DER), which a
    // network's account of bytes would show.
    sim.all_impaired = false;
    let network_delay = profile.rooms.iter().map(|g| g.network_delay_max()).max().unwrap_or_default();
    let mut agenda = Agenda::new(plan.clone(), sim.start, network_delay);
    let epoch_ns = sim.now_ns();
    let folder = tempfile::tempdir().unwrap();
    let mut r = Recorder {
        sim,
        profile: &profile,
        plan: &plan,
        writer: Writer::create(folder.path()).unwrap(),
        epoch_ns,
        joined: vec![false; plan.legs.len()],
        first_told: vec![0; plan.legs.len()],
        seconds: 0,
    };
    r.begin();
    while !agenda.is_done() {
        while let Some(due) = agenda.due(r.sim.now) {
            match due {
                Due::Enter(phase) => r.note(Event::Phase { phase }),
                Due::Join(leg) => r.join(leg),
                Due::Quiet(leg) => r.sim.quiet(leg.index()),
                Due::Leave(leg) => r.leave(leg),
                Due::End => {
                    r.note(Event::Phase { phase: Phase::Leaving });
                    let here = (0..r.sim.members.len()).filter(|n| !r.sim.members[*n].gone);
                    let here: Vec<LegId> = here.map(|n| LegId(n as u32)).collect();
                    here.iter().for_each(|leg| r.sim.quiet(leg.index()));
                    agenda.close(r.sim.now, here);
                }
            }
        }
        let wake = agenda.wake(r.sim.now).saturating_duration_since(r.sim.now);
        // Small steps: what happens in one gets its end as its time.
        r.sim.run(wake.clamp(Duration::from_micros(10), Duration::from_millis(20)));
        r.collect();
    }
    r.note(Event::End { interrupted: false });
    r.writer.flush();
    assert_eq!(r.writer.finish(), (vec![], None));
    let path = folder.path().join(FILE_NAME);
    let history = std::fs::read_to_string(&path).unwrap();
    let reading = read(&path).unwrap();
    let judgement = judge(&reading, &profile.pass, &profile.health);
    let summary = serde_json::to_value(Summary::of(&judgement)).unwrap();
    Run { history, summary, profile, plan }
}

impl Recorder<'_> {
    fn t(&self) -> f64 {
        (self.sim.now_ns() - self.epoch_ns) as f64 / 1e6
    }

    fn note(&mut self, event: Event) {
        self.writer.append(&Line { t: self.t(), event });
    }

    fn begin(&mut self) {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        self.note(Event::Run(RunInfo {
            schema: roomful::history::SCHEMA,
            version: "virtual".into(),
            id: "virtual".into(),
            profile: self.profile.name.clone(),
            shape: self.profile.shape.as_str().into(),
            seed: self.plan.seed,
            started_at: "2027-01-15T08:00:00Z".into(),
            epoch_ns: self.epoch_ns,
            resolved: self.profile.resolved.clone(),
            hold_from_ms: ms(self.plan.hold_from),
            hold_until_ms: ms(self.plan.hold_until),
            legs_planned: self.plan.legs.len() as u32,
            join_timeout_ms: ms(self.profile.load.join_timeout),
            limits: serde_json::Value::Null,
        }));
        self.note(Event::Rooms { rooms: self.plan.rooms.clone() });
        self.note(Event::Server(ServerInfo { id: SERVER, name: "s1".into() }));
        self.note(Event::Phase { phase: Phase::Warmup });
    }

    fn join(&mut self, leg: LegId) {
        let leg = &self.plan.legs[leg.index()];
        let room = &self.plan.rooms[leg.room.index()];
        let network = leg.network.map(|n| &self.profile.rooms[room.group].networks[n]);
        let network = network.map_or([Conditions::PERFECT; 2], |n| [n.up, n.down]);
        let (epoch, now_ns) = (self.sim.start, self.sim.now_ns());
        let spec = participant_of(self.profile, self.plan, leg, clips(), now_ns, epoch);
        self.note(Event::JoinStart { leg: leg.clone(), late_ms: 0.0, rejoins: None });
        let n = self.sim.enter(spec, &room.name, want(leg, room), network);
        assert_eq!(n, leg.id.index(), "legs join in the order of their numbers");
    }

    fn leave(&mut self, leg: LegId) {
        self.collect();
        let totals = self.sim.leave(leg.index());
        self.collect_first(leg.index());
        let m = &self.sim.members[leg.index()];
        let over = Over {
            leg,
            room: self.plan.legs[leg.index()].room,
            server: Some(SERVER),
            cause: LegCause::Left,
            detail: String::new(),
            ice_restarts: 0,
            impaired: self.plan.legs[leg.index()].network.map(|_| m.links.each_ref().map(|l| l.counters())),
        };
        self.note(Event::LegEnd(leg_end(over, &totals, self.epoch_ns)));
    }

    /// What happened since the last time.
    fn collect(&mut self) {
        for n in 0..self.sim.members.len() {
            if !self.joined[n] {
                self.collect_join(n);
            }
            self.collect_first(n);
        }
        while self.seconds < self.sim.seconds.len() {
            let [audio, video] = self.sim.seconds[self.seconds].clone();
            self.seconds += 1;
            let here =
                self.sim.members.iter().zip(&self.joined).filter(|(m, joined)| **joined && !m.gone).count() as u32;
            let rooms = self.plan.rooms.len() as u32;
            let flow = ServerFlow { server: SERVER, participants: here, rooms, audio, video };
            self.note(Event::Interval(Interval {
                seconds: 1.0,
                connected: here,
                joining: 0,
                servers: vec![flow],
                paths: None,
                relays: vec![],
            }));
            // A machine that is never late.
            self.note(Event::Health(Health {
                seconds: 1.0,
                machine_cpu: 0.0,
                steal: 0.0,
                process_cores: 0.0,
                resident_bytes: 0,
                cores: 1,
                udp: UdpErrors::default(),
                descriptors_left: None,
                ports_left: None,
                clock_step_ms: 0.0,
                shards: vec![ShardHealth::default()],
                unhealthy: vec![],
            }));
        }
    }

    fn collect_join(&mut self, n: usize) {
        let m = &self.sim.members[n];
        let at = |wanted: fn(&TransportState) -> bool| {
            m.states.iter().zip(&m.state_at).find(|(s, _)| wanted(s)).map(|(s, at)| (s.clone(), *at))
        };
        let Some((TransportState::Connected { suite, .. }, keys)) =
            at(|s| matches!(s, TransportState::Connected { .. }))
        else {
            return;
        };
        let planned = self.sim.start + self.plan.legs[n].join_at;
        let ice = at(|s| matches!(s, TransportState::IceConnected { .. })).map(|(_, at)| at);
        let milestones = Milestones {
            started: Some(planned),
            signaled: Some(planned),
            ice,
            keys: Some(keys),
            ..Milestones::default()
        };
        let (setup, _) = milestones.setup(planned, true).unwrap();
        let (leg, room) = (LegId(n as u32), self.plan.legs[n].room);
        self.joined[n] = true;
        self.note(Event::Joined {
            leg,
            room,
            server: SERVER,
            suite: Some(suite),
            remote: None,
            certificate: None,
            setup,
        });
    }

    fn collect_first(&mut self, n: usize) {
        while self.first_told[n] < self.sim.members[n].first.len() {
            let k = self.first_told[n];
            self.first_told[n] += 1;
            let m = &self.sim.members[n];
            let (from, first_rtp_ms, first_frame_ms) = m.first[k];
            let [rtp_in_vain_ms, frame_in_vain_ms] = m.in_vain[k].1;
            let leg = LegId(n as u32);
            self.note(Event::FirstMedia { leg, from, first_rtp_ms, first_frame_ms, rtp_in_vain_ms, frame_in_vain_ms });
        }
    }
}

/// Where two texts part, for a message.
fn assert_same(one: &str, two: &str) {
    let at = one.bytes().zip(two.bytes()).position(|(a, b)| a != b).unwrap_or(one.len().min(two.len()));
    let around = |text: &str| {
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(200)..text.len().min(at + 80)]).into_owned()
    };
    assert!(one == two, "they part at byte {at}:\n{}\n{}", around(one), around(two));
}

#[test]
fn the_same_profile_and_seed_give_the_same_history_byte_for_byte() {
    for client in ["chrome", "light"] {
        let (one, two) = (run(client, 5), run(client, 5));
        assert_eq!(serde_json::to_string(&one.plan).unwrap(), serde_json::to_string(&two.plan).unwrap());
        assert_same(&one.history, &two.history);
        assert_eq!(one.summary, two.summary);
        // It is a run worth the name.
        let (s, legs) = (&one.summary, one.plan.legs.len());
        assert_eq!(s["verdict"], "pass", "{}", s["sentence"]);
        assert_eq!((&s["run"]["seed"], &s["participants"]["joined"]), (&5.into(), &legs.into()));
        assert_eq!(s["legs"]["judged"], legs);
        assert!(s["run"]["resolved"].as_str().unwrap().contains("seed = 5"));
        assert!(legs > 14, "{legs}");
        assert!(s["video"]["steps"]["down"].as_i64().unwrap() >= 1, "{}", s["video"]["steps"]);
        assert!(s["audio"]["rtp"]["lost_before_recovery"].as_i64().unwrap() > 20, "{}", s["audio"]);
        let (lines, bytes) = (one.history.lines().count(), one.history.len());
        assert!(lines > 60 && bytes > 30_000, "{lines} lines, {bytes} bytes: {}", &one.history[..500.min(bytes)]);
        let read = parse_resolved(&one.profile.resolved).unwrap();
        assert_eq!(read.seed, 5, "the printed profile runs it again");

        let other = run(client, 6);
        assert!(one.history != other.history && one.summary != other.summary);
        assert_ne!(one.summary["audio"]["rtp"], other.summary["audio"]["rtp"]);
    }
}

/// The checker has to see the smallest difference: one participant's seed, one packet.
#[test]
fn one_packet_more_or_less_is_another_history() {
    let one = run("light", 5).history;
    let at = one.find("\"sent\":").unwrap() + 7;
    let digit = one[at..].find(|c: char| !c.is_ascii_digit()).unwrap() + at - 1;
    let mut two = one.clone().into_bytes();
    two[digit] = if two[digit] == b'0' { b'1' } else { two[digit] - 1 };
    let two = String::from_utf8(two).unwrap();
    let parts = std::panic::catch_unwind(|| assert_same(&one, &two));
    assert!(parts.is_err());
}
