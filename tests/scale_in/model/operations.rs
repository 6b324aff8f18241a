//! What is done to servers and their rooms: cordon, drain, terminate, kill.

use super::*;

impl Sim {
    pub(super) fn op(&mut self, action: StepAction, server: usize, stage: StepStage) {
        if self.model.control != Control::Steps {
            return;
        }
        let next = self.ops.len() as u32 + 1;
        let op = *self.ops.entry((action, server)).or_insert(next);
        let event = StepEvent {
            op,
            name: format!("{}-{}", action.as_str(), self.servers[server].name),
            action,
            server: Some(self.servers[server].name.clone()),
            stage,
            detail: String::new(),
            rollback: false,
        };
        self.push(Event::Step(event));
    }

    pub(super) fn cordon(&mut self, s: usize) {
        let s = if s == usize::MAX { (0..self.servers.len()).max_by_key(|s| self.load(*s)).unwrap_or(0) } else { s };
        if self.victim.is_none() {
            self.victim = Some(s);
        } else {
            self.servers[s].drained_first = true;
        }
        self.op(StepAction::Cordon, s, StepStage::Begun);
        self.servers[s].cordoned = true;
        self.at(self.now + 150.0, Ev::CordonDone(s));
    }

    pub(super) fn cordon_done(&mut self, s: usize) {
        self.op(StepAction::Cordon, s, StepStage::Done);
        if self.servers[s].drained_first {
            let until = self.now + 5000.0;
            return self.at(until, Ev::Uncordon(s));
        }
        if self.sins(Sin::CordonsAll) {
            for other in (0..self.servers.len()).filter(|o| *o != s) {
                self.op(StepAction::Cordon, other, StepStage::Begun);
                self.op(StepAction::Cordon, other, StepStage::Done);
                self.servers[other].drained_first = true;
                let until = self.now + 1500.0;
                self.at(until, Ev::Uncordon(other));
            }
        } else {
            // Another one is cordoned for a moment, later.
            let other = (s + 1) % self.servers.len();
            self.at(102_000.0, Ev::Cordon(other));
        }
        if self.sins(Sin::KillsNonEmpty) {
            let t = self.now + 8000.0;
            return self.at(t, Ev::Kill(s));
        }
        let rooms: Vec<usize> =
            (0..self.rooms.len()).filter(|r| self.rooms[*r].server == Some(s) && !self.up(*r).is_empty()).collect();
        for (n, room) in rooms.into_iter().enumerate() {
            let pause = if self.sins(Sin::Herd) { 0.0 } else { n as f64 * 2500.0 };
            match self.model.style {
                Style::Wait => {}
                Style::Move => {
                    let to = self.emptiest(Some(s));
                    self.at(self.now + 1000.0 + pause, Ev::MoveRoom(room, to));
                }
                Style::Reconnect => self.at(self.now + 1000.0 + pause, Ev::CloseRoom(room)),
            }
        }
        self.emptied(s);
    }

    pub(super) fn uncordon(&mut self, s: usize) {
        if !self.servers[s].alive {
            return;
        }
        self.op(StepAction::Uncordon, s, StepStage::Begun);
        self.servers[s].cordoned = false;
        self.op(StepAction::Uncordon, s, StepStage::Done);
    }

    /// Nobody is left on the server that is to go: whoever waits for that goes on.
    pub(super) fn emptied(&mut self, s: usize) {
        let waits = Some(s) == self.victim && self.servers[s].cordoned && self.servers[s].alive;
        let expected = self.legs.iter().any(|l| l.server == Some(s) && l.joined.is_none() && !l.ended);
        if waits && self.load(s) == 0 && !expected && !self.ops.contains_key(&(StepAction::Terminate, s)) {
            let t = self.now + 1200.0;
            self.at(t, Ev::Terminate(s));
        }
    }

    pub(super) fn terminate(&mut self, s: usize) {
        if self.load(s) > 0 || !self.servers[s].alive || self.ops.contains_key(&(StepAction::Terminate, s)) {
            return;
        }
        self.op(StepAction::Terminate, s, StepStage::Begun);
        self.now += 20.0;
        self.op(StepAction::Terminate, s, StepStage::Done);
        if !self.sins(Sin::DrainNeverEnds) {
            let t = self.now + 1500.0;
            self.at(t, Ev::Gone(s));
        }
    }

    pub(super) fn gone(&mut self, s: usize) {
        self.servers[s].alive = false;
    }

    pub(super) fn kill(&mut self, s: usize) {
        // Nobody is just joining: that would be another sin.
        if self.legs.iter().any(|l| l.server == Some(s) && l.joined.is_none() && !l.ended) {
            let t = self.now + 50.0;
            return self.at(t, Ev::Kill(s));
        }
        self.op(StepAction::Kill, s, StepStage::Begun);
        self.servers[s].alive = false;
        let up: Vec<usize> = (0..self.legs.len())
            .filter(|n| self.legs[*n].server == Some(s) && self.legs[*n].joined.is_some() && !self.legs[*n].ended)
            .collect();
        let killed = self.now;
        for n in up {
            self.legs[n].silences.push(Silence { from_ms: killed - 10.0, until_ms: killed + 200.0 });
            self.at(killed + 200.0, Ev::Leave(n, LegCause::SignalingLost));
            let back = self.rng.random_range(800.0..4000.0);
            self.at(killed + back, Ev::Rejoin(n));
        }
        self.now += 30.0;
        self.op(StepAction::Kill, s, StepStage::Done);
    }

    pub(super) fn move_room(&mut self, room: usize, to: usize) {
        let gap =
            if self.sins_once(Sin::MovesWithGap) { 2500.0 } else { self.rng.random_range(150.0f64..450.0).round() };
        let up = self.up(room);
        let Some(from) = up.first().and_then(|n| self.legs[*n].server) else { return };
        if self.now + 2000.0 > self.rooms[room].ends {
            return;
        }
        let began = self.now;
        self.rooms[room].server = Some(to);
        let name = format!("board-{}", room + 1);
        self.registry.insert(name, Some(self.servers[to].name.clone()));
        self.now += gap;
        for n in &up {
            self.legs[*n].server = Some(to);
            let leg = self.legs[*n].planned.id;
            let (from, to) = (ServerId(from as u32), ServerId(to as u32));
            self.push(Event::Moved { leg, from, to, from_ms: began, until_ms: self.now });
            self.legs[*n].longest = (began, gap);
        }
        if up.len() > 1 && self.sins_once(Sin::OneWayAfterMove) {
            let from_ms = self.now;
            let gap =
                FlowGap { from: self.legs[up[1]].planned.id, kind: Kind::Audio, from_ms, until_ms: from_ms + 8000.0 };
            self.legs[up[0]].gaps.push(gap);
            self.legs[up[0]].longest = (from_ms, 8000.0);
        }
        self.emptied(from);
    }

    pub(super) fn close_room(&mut self, room: usize) {
        if self.now + 5000.0 > self.rooms[room].ends {
            return;
        }
        let fallen = self.now;
        self.rooms[room].server = None;
        for n in self.up(room) {
            self.leave(n, LegCause::ClosedByServer);
            let back = self.rng.random_range(300.0..700.0);
            self.at(fallen + back, Ev::Rejoin(n));
        }
    }
}
