//! What a history says of the fleet and of what was done to it, line by line.

use super::At;
use crate::history::{
    Event, FleetRole, FleetView, Line, MISNAMED, Relay, ServerSeen, StepAction, StepEvent, StepStage,
};
use crate::types::ServerId;
use crate::verdict::frame::Frame;
use crate::verdict::words::count as times;
use std::collections::{BTreeMap, BTreeSet};

/// One operation: all stages of it.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub action: StepAction,
    pub server: Option<String>,
    pub rollback: bool,
    pub begun: Option<At>,
    pub done: Option<At>,
    /// It failed, or was skipped.
    pub undone: Option<(At, StepStage)>,
    /// What was said of that.
    pub why: String,
}

impl Op {
    /// When it began, if it did.
    pub fn at(&self) -> Option<At> {
        self.begun.or(self.done)
    }

    /// True when it may have had an effect.
    pub fn happened(&self) -> bool {
        self.at().is_some() && !matches!(self.undone, Some((_, StepStage::Skipped)))
    }
}

/// What a backend said of one server from one look on.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub at: At,
    /// The look before it, when this was not so yet.
    pub before: f64,
    /// False: it does not know the server (any more).
    pub known: bool,
    pub is: ServerSeen,
}

/// One backend in one role.
#[derive(Clone, Debug, Default)]
pub(super) struct Backend {
    pub name: String,
    pub role: Option<FleetRole>,
    /// Successful looks that were recorded.
    pub looks: Vec<At>,
    pub errors: Vec<(At, String)>,
    /// By server's name: changes only.
    pub servers: BTreeMap<String, Vec<Seen>>,
    /// By room's name: its server from then on.
    pub rooms: BTreeMap<String, Vec<(At, Option<String>)>>,
}

impl Backend {
    pub fn is_discovery(&self) -> bool {
        self.role == Some(FleetRole::Discovery)
    }

    /// What it said of a server at a time; nothing while it fails.
    pub fn at(&self, server: &str, t: f64) -> Option<&Seen> {
        let last = |n: usize| n.checked_sub(1);
        if let Some(error) = last(self.errors.partition_point(|e| e.0.t <= t)).map(|n| self.errors[n].0.t)
            && last(self.looks.partition_point(|l| l.t <= t)).is_none_or(|n| self.looks[n].t < error)
        {
            return None;
        }
        let all = self.servers.get(server)?;
        all[..all.partition_point(|s| s.at.t <= t)].last()
    }

    /// Whether any look says this of any server.
    pub fn tells(&self, what: impl Fn(&ServerSeen) -> bool) -> bool {
        self.servers.values().flatten().any(|s| what(&s.is))
    }

    fn see(&mut self, at: At, view: &FleetView) {
        if let Some(error) = &view.error {
            // It says nothing: what was known before stands, and no count becomes zero.
            self.errors.push((at, error.clone()));
            return;
        }
        let before = self.looks.last().map_or(0.0, |l| l.t);
        self.looks.push(at);
        let mut missing: BTreeSet<String> = self.servers.keys().cloned().collect();
        for s in &view.servers {
            missing.remove(&s.server);
            let is = ServerSeen { server: String::new(), ..s.clone() };
            let all = self.servers.entry(s.server.clone()).or_default();
            if all.last().is_none_or(|last| !last.known || last.is != is) {
                all.push(Seen { at, before, known: true, is });
            }
        }
        for name in missing {
            let all = self.servers.entry(name).or_default();
            if all.last().is_some_and(|last| last.known) {
                all.push(Seen { at, before, known: false, is: ServerSeen::default() });
            }
        }
        for (room, server) in &view.rooms {
            self.rooms.entry(room.clone()).or_default().push((at, server.clone()));
        }
    }
}

/// One second of one server's media as we received it; of audio, where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second {
    pub t: f64,
    pub seconds: f64,
    pub participants: u32,
    pub silence_ms: Option<f64>,
    pub expected: i64,
    pub received: i64,
    pub video_expected: i64,
    pub video_received: i64,
    pub jitter_ms: Option<f64>,
    /// Media came from it, of whatever kind.
    pub heard: bool,
}

#[derive(Clone, Default, Debug)]
pub(super) struct Record {
    pub ops: Vec<Op>,
    pub marks: Vec<(At, StepAction, String)>,
    pub backends: Vec<Backend>,
    pub relays: Vec<(At, Relay)>,
    pub seconds: BTreeMap<ServerId, Vec<Second>>,
    /// Server names with the moment that we met them.
    pub met: BTreeMap<String, f64>,
    /// Where joins went, by server's name: `host:port` of signalling.
    pub urls: BTreeMap<String, String>,
    /// What a join API called by another name than the target file.
    pub misnamed: Vec<String>,
    pub end_t: f64,
}

/// Follows a history for [`Record`].
#[derive(Default)]
pub(in crate::verdict) struct Recorder {
    ops: BTreeMap<u32, Op>,
    out: Record,
}

impl Recorder {
    pub fn see(&mut self, line_number: u64, line: &Line) {
        let at = At { t: line.t, line: line_number };
        self.out.end_t = self.out.end_t.max(line.t);
        match &line.event {
            Event::Step(step) => self.step(at, step),
            Event::Mark { action, server } => self.out.marks.push((at, *action, server.clone())),
            Event::Fleet(view) => self.fleet(at, view),
            Event::Relay(relay) => self.out.relays.push((at, relay.clone())),
            Event::Server(info) => {
                self.out.met.entry(info.name.clone()).or_insert(at.t);
            }
            Event::Routed { server: Some(server), url, .. } => {
                let host = url.split("//").nth(1).unwrap_or(url).split('/').next().unwrap_or_default();
                self.out.urls.entry(server.clone()).or_insert_with(|| host.to_owned());
            }
            Event::Note { code, text, count, .. } if code == MISNAMED => {
                self.out.misnamed.push(format!("{text} ({})", times(*count, "join", "joins")));
            }
            Event::Interval(interval) => {
                for s in &interval.servers {
                    let flowing = s.audio.count.e2e_expected > 0;
                    self.out.seconds.entry(s.server).or_default().push(Second {
                        t: at.t,
                        seconds: interval.seconds,
                        participants: s.participants,
                        silence_ms: flowing.then_some(s.audio.silence_max_ms as f64),
                        expected: s.audio.count.e2e_expected,
                        received: s.audio.count.e2e_received,
                        video_expected: s.video.count.e2e_expected,
                        video_received: s.video.count.e2e_received,
                        jitter_ms: s.audio.jitter.mean_ms(),
                        heard: s.audio.count.rtp_received > 0 || s.video.count.rtp_received > 0,
                    });
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, at: At, step: &StepEvent) {
        let op = self.ops.entry(step.op).or_insert_with(|| Op {
            action: step.action,
            server: step.server.clone(),
            rollback: step.rollback,
            begun: None,
            done: None,
            undone: None,
            why: String::new(),
        });
        if step.server.is_some() {
            op.server.clone_from(&step.server);
        }
        match step.stage {
            StepStage::Begun => op.begun = Some(at),
            StepStage::Done => op.done = Some(at),
            StepStage::Failed | StepStage::Skipped => {
                op.undone = Some((at, step.stage));
                op.why.clone_from(&step.detail);
            }
        }
    }

    fn fleet(&mut self, at: At, view: &FleetView) {
        let known = self.out.backends.iter().position(|b| b.name == view.backend && b.role == Some(view.role));
        let index = known.unwrap_or_else(|| {
            let new = Backend { name: view.backend.clone(), role: Some(view.role), ..Backend::default() };
            self.out.backends.push(new);
            self.out.backends.len() - 1
        });
        self.out.backends[index].see(at, view);
    }

    pub(super) fn finish(mut self, frame: &Frame) -> Record {
        self.out.ops = self.ops.into_values().collect();
        let order = |op: &Op| op.at().or(op.undone.map(|u| u.0)).map_or(f64::INFINITY, |a| a.t);
        self.out.ops.sort_by(|a, b| order(a).total_cmp(&order(b)));
        for name in frame.servers.values() {
            self.out.met.entry(name.clone()).or_insert(0.0);
        }
        self.out
    }
}
