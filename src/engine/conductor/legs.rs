//! The legs of a run: joining, in, leaving, over. Every change of a leg's state is here.

use super::super::leg::{Over, leg_end, participant_of};
use super::super::realtime_ns;
use super::super::relayed::News;
use super::super::shard::ToShard;
use super::Run;
use crate::history::{self, Event, FailReason, JoinFailure, LegCause, Line, RelayWhat, ServerInfo};
use crate::impair::Counters;
use crate::participant::{Milestones, Totals};
use crate::plan;
use crate::signaling::{Call, Ended, Media, Order, Progress as Milestone, TransportState};
use crate::types::{LegId, RoomId, ServerId, Suite};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// A driver has 5 s to leave; this is the end of our patience with the driver itself.
const LEAVE_PATIENCE: Duration = Duration::from_secs(7);

/// ICE restarts that a leg gets: a path that was lost so often is no path.
const RESTARTS_MAX: u32 = 3;

enum State {
    Waiting,
    Joining,
    In,
    Leaving {
        since: Instant,
    },
    /// Signalling is over; the shard's totals are awaited.
    Ending {
        ended: End,
    },
    Done,
}

enum End {
    Failed {
        reason: FailReason,
        detail: String,
        after_ms: f64,
    },
    /// When the leave was acknowledged, or the call given up.
    Over {
        cause: LegCause,
        detail: String,
        at: Instant,
    },
}

pub(super) struct Leg {
    state: State,
    planned: Instant,
    milestones: Milestones,
    pub(super) has_transport: bool,
    server: Option<ServerId>,
    suite: Option<Suite>,
    remote: Option<SocketAddr>,
    certificate: Option<u64>,
    orders: Option<UnboundedSender<Order>>,
    task: Option<AbortHandle>,
    restarts: u32,
    /// Its call was dead to it for a while, and it counts as dropped.
    silent: bool,
    /// Transports (a bit each) that are to restart ICE and have no pair again yet.
    restarting: u8,
    /// By transport, the TURN server that it asked last and has no allocation from.
    asked: Vec<(u8, Arc<str>)>,
}

impl Leg {
    /// A leg before its planned start.
    pub(super) fn waiting(planned: Instant) -> Leg {
        Leg {
            state: State::Waiting,
            planned,
            milestones: Milestones::default(),
            has_transport: false,
            server: None,
            suite: None,
            remote: None,
            certificate: None,
            orders: None,
            task: None,
            restarts: 0,
            silent: false,
            restarting: 0,
            asked: Vec::new(),
        }
    }
}

impl Run<'_> {
    fn shard_of(&mut self, room: RoomId) -> usize {
        if let Some(s) = self.room_shard.get(&room) {
            return *s;
        }
        let s = (0..self.shards.len()).min_by_key(|i| self.shards[*i].load).unwrap_or(0);
        self.shards[s].load += self.c.plan.rooms[room.index()].size;
        self.room_shard.insert(room, s);
        s
    }

    /// Who joins or is in.
    pub(super) fn present(&self) -> Vec<LegId> {
        let here = |l: &Leg| matches!(l.state, State::Joining | State::In);
        (0..self.legs.len()).filter(|i| here(&self.legs[*i])).map(|i| LegId(i as u32)).collect()
    }

    pub(super) fn start_join(&mut self, leg: LegId, rejoins: Option<LegId>, now: Instant) {
        let leg = self.planned[leg.index()].clone();
        let leg = &leg;
        let room = self.c.plan.rooms[leg.room.index()].clone();
        let group = &self.c.profile.rooms[room.group];
        let planned = self.legs[leg.id.index()].planned;
        let late_ms = now.saturating_duration_since(planned).as_secs_f64() * 1000.0;
        self.note_event(Event::JoinStart { leg: leg.clone(), late_ms, rejoins });
        // From now, not from the start: the clock may have been set meanwhile.
        let planned_ns = realtime_ns().saturating_sub(now.saturating_duration_since(planned).as_nanos() as u64);
        let spec = participant_of(&self.c.profile, &self.c.plan, leg, &self.c.clips, planned_ns, self.c.epoch);
        let network = leg.network.and_then(|n| group.networks.get(n)).map(|n| Box::new([n.up, n.down]));
        let ways: Vec<(&str, f64)> = self.c.turn.ways.iter().map(|w| (&*w.id, w.weight)).collect();
        let relay = plan::relay(&self.c.profile, &room, leg.seat, leg.id.0.into(), &ways).map(Box::new);
        let shard = self.shard_of(leg.room);
        let s = &self.shards[shard];
        let _ = s.orders.send(ToShard::Add { spec: Box::new(spec), network, relay });
        let (orders, orders_rx) = unbounded_channel();
        let (milestones, mut from_driver) = unbounded_channel();
        let call = Call {
            leg: leg.clone(),
            room,
            route: None,
            media: Media::new(leg.id, s.media.clone()),
            orders: orders_rx,
            progress: milestones,
        };
        let (driver, all, id) = (self.c.driver.clone(), self.milestones.clone(), leg.id);
        let task = self.tasks.spawn(async move {
            let work = driver.run(call);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    Some(m) = from_driver.recv() => { let _ = all.send((id, m)); }
                    ended = &mut work => {
                        while let Ok(m) = from_driver.try_recv() {
                            let _ = all.send((id, m));
                        }
                        return (id, ended, Instant::now());
                    }
                }
            }
        });
        let l = &mut self.legs[leg.id.index()];
        l.state = State::Joining;
        l.orders = Some(orders);
        l.task = Some(task);
        self.joining.insert(leg.id);
        self.active += 1;
    }

    fn tell_shard(&mut self, leg: LegId, order: ToShard) {
        let room = self.planned[leg.index()].room;
        let s = self.shard_of(room);
        let _ = self.shards[s].orders.send(order);
    }

    pub(super) fn quiet(&mut self, leg: LegId) {
        if matches!(self.legs[leg.index()].state, State::Joining | State::In) {
            self.tell_shard(leg, ToShard::Quiet { leg });
        }
    }

    pub(super) fn leave(&mut self, leg: LegId, now: Instant) {
        let after_ms = self.after_ms(leg, now);
        let l = &mut self.legs[leg.index()];
        match l.state {
            State::In => {
                l.state = State::Leaving { since: now };
                if let Some(o) = &l.orders {
                    let _ = o.send(Order::Leave);
                }
                self.leaving.insert(leg);
            }
            State::Joining => {
                let detail = "had to leave before it was connected".to_owned();
                self.give_up(leg, End::Failed { reason: FailReason::LeftEarly, detail, after_ms });
            }
            _ => {}
        }
    }

    fn after_ms(&self, leg: LegId, now: Instant) -> f64 {
        now.saturating_duration_since(self.legs[leg.index()].planned).as_secs_f64() * 1000.0
    }

    /// The leg ends here and now; its driver gets the time of a leave to free the seat that it may hold at the server,
    /// or to learn that it holds none. Without anybody to give orders, drivers do what [`Order::Leave`] asks.
    fn give_up(&mut self, leg: LegId, end: End) {
        if let Some(task) = self.legs[leg.index()].task.take() {
            self.stragglers.push((Instant::now() + LEAVE_PATIENCE, task));
        }
        self.end(leg, end);
    }

    fn end(&mut self, leg: LegId, end: End) {
        let l = &mut self.legs[leg.index()];
        if matches!(l.state, State::Ending { .. } | State::Done | State::Waiting) {
            return;
        }
        l.state = State::Ending { ended: end };
        l.orders = None;
        l.task = None;
        self.joining.remove(&leg);
        self.leaving.remove(&leg);
        self.tell_shard(leg, ToShard::Remove { leg });
    }

    pub(super) fn on_ended(&mut self, leg: LegId, ended: Ended, at: Instant) {
        let after_ms = self.after_ms(leg, at);
        let joined = matches!(self.legs[leg.index()].state, State::In | State::Leaving { .. });
        let interrupted_leave = matches!(self.legs[leg.index()].state, State::Leaving { .. });
        let end = match (ended, joined) {
            // The transport may see the end of the join's time before we do: it is the same time-out.
            (
                Ended::Failed {
                    reason: FailReason::TimeoutSignaling | FailReason::TimeoutIce | FailReason::TimeoutDtls,
                    ..
                },
                false,
            ) if after_ms >= self.c.profile.load.join_timeout.as_secs_f64() * 1000.0 => self.timed_out(leg),
            (Ended::Failed { reason, detail }, false) => End::Failed { reason, detail, after_ms },
            (Ended::Over { cause, detail }, true) => End::Over { cause, detail, at },
            (Ended::Over { detail, .. }, false) => End::Failed { reason: FailReason::Closed, detail, after_ms },
            (Ended::Failed { detail, .. }, true) => {
                let cause = if interrupted_leave { LegCause::LeftUnacknowledged } else { LegCause::ClosedByServer };
                End::Over { cause, detail, at }
            }
        };
        self.end(leg, end);
    }

    /// The join's time-out, at its full value, by how far it had come.
    fn timed_out(&self, leg: LegId) -> End {
        let l = &self.legs[leg.index()];
        let limit = self.c.profile.load.join_timeout;
        let after_ms = limit.as_secs_f64() * 1000.0;
        // What the driver has to say waits for the allocation: nobody has seen it.
        if let (None, Some((_, turn))) = (l.milestones.signaled, l.asked.last()) {
            let detail = format!("no allocation within {} on {turn}", humantime::format_duration(limit));
            return End::Failed { reason: FailReason::Relay, detail, after_ms };
        }
        let (reason, stage) = match (l.milestones.signaled, l.milestones.ice) {
            (None, _) => (FailReason::TimeoutSignaling, "signalling answer"),
            (Some(_), None) => (FailReason::TimeoutIce, "ICE pair"),
            (Some(_), Some(_)) => (FailReason::TimeoutDtls, "DTLS handshake"),
        };
        let at = l.server.map_or_else(String::new, |s| format!(" on {}", self.servers[s.index()]));
        let detail = format!("no {stage} within {}{at}", humantime::format_duration(limit));
        End::Failed { reason, detail, after_ms }
    }

    pub(super) fn check_timeouts(&mut self, now: Instant) {
        let limit = self.c.profile.load.join_timeout;
        let late: Vec<LegId> =
            self.joining.iter().copied().filter(|l| now >= self.legs[l.index()].planned + limit).collect();
        for leg in late {
            let end = self.timed_out(leg);
            self.give_up(leg, end);
        }
        self.stragglers.retain(|(until, task)| {
            let late = now >= *until;
            if late {
                task.abort();
            }
            !late && !task.is_finished()
        });
        let stuck: Vec<LegId> = self
            .leaving
            .iter()
            .copied()
            .filter(|l| match self.legs[l.index()].state {
                State::Leaving { since } => now >= since + LEAVE_PATIENCE,
                _ => false,
            })
            .collect();
        for leg in stuck {
            let detail = "the driver did not come back from its leave".to_owned();
            if let Some(task) = self.legs[leg.index()].task.take() {
                task.abort();
            }
            self.end(leg, End::Over { cause: LegCause::LeftUnacknowledged, detail, at: now });
        }
    }

    pub(super) fn on_milestone(&mut self, leg: LegId, m: Milestone) {
        let l = &mut self.legs[leg.index()];
        match m {
            // Behind a join API, the driver starts once more.
            Milestone::Started(at) => {
                l.milestones.started.get_or_insert(at);
            }
            Milestone::Routed { at, server, url } => {
                l.milestones.routed = Some(at);
                let after_ms = at.saturating_duration_since(l.planned).as_secs_f64() * 1000.0;
                self.note_event(Event::Routed { leg, server, url, after_ms });
            }
            Milestone::Met(at) => {
                l.milestones.met.get_or_insert(at);
            }
            Milestone::Signaled(at) => {
                l.milestones.signaled.get_or_insert(at);
                let room = self.planned[leg.index()].room;
                if let (None, Some(turn)) = (l.server, self.room_turn.get(&room).cloned()) {
                    self.on_server(leg, turn);
                }
                self.maybe_joined(leg);
            }
            Milestone::Server(name) => {
                self.on_server(leg, name);
            }
            Milestone::Moved { server, from, until } => {
                let before = l.server;
                let to = self.on_server(leg, server);
                if let Some(before) = before.filter(|b| *b != to) {
                    let (from_ms, until_ms) = (self.t(from), self.t(until));
                    self.note_event(Event::Moved { leg, from: before, to, from_ms, until_ms });
                }
            }
            Milestone::Resumed { lost, back } => {
                let (lost_ms, back_ms) = (self.t(lost), self.t(back));
                if matches!(self.legs[leg.index()].state, State::In) {
                    self.note_event(Event::SignalingResumed { leg, lost_ms, back_ms });
                }
            }
            Milestone::Over { at, ended } => {
                if let Some(task) = self.legs[leg.index()].task.take() {
                    self.stragglers.push((Instant::now() + LEAVE_PATIENCE, task));
                }
                self.on_ended(leg, ended, at);
            }
            Milestone::Note { code, text } => self.note(code, text, leg),
        }
    }

    /// The server that carries a leg.
    fn on_server(&mut self, leg: LegId, name: String) -> ServerId {
        let known = self.servers.iter().position(|s| *s == name);
        let id = ServerId(known.unwrap_or(self.servers.len()) as u32);
        self.legs[leg.index()].server = Some(id);
        if known.is_none() {
            self.servers.push(name.clone());
            self.note_event(Event::Server(ServerInfo { id, name }));
        }
        self.tell_shard(leg, ToShard::Server { leg, server: id });
        id
    }

    fn maybe_joined(&mut self, leg: LegId) {
        let l = &mut self.legs[leg.index()];
        if !matches!(l.state, State::Joining) {
            return;
        }
        let Some((setup, _)) = l.milestones.setup(l.planned, l.has_transport) else { return };
        let Some(server) = l.server else { return };
        l.state = State::In;
        let (suite, remote) = (l.suite, l.remote.map(|r| r.to_string()));
        let certificate = l.certificate.map(|c| format!("{c:016x}"));
        self.joining.remove(&leg);
        let room = self.planned[leg.index()].room;
        self.note_event(Event::Joined { leg, room, server, suite, remote, certificate, setup });
    }

    /// What the media path says of a transport goes to the join's milestones and to the driver.
    pub(super) fn on_transport(&mut self, leg: LegId, slot: u8, state: TransportState, at: Instant) {
        let can = self.c.driver.restarts_ice(slot);
        let l = &mut self.legs[leg.index()];
        let bit = 1u8.checked_shl(slot.into()).unwrap_or(0);
        let mut note = None;
        match &state {
            TransportState::IceConnected { remote } => {
                l.milestones.ice.get_or_insert(at);
                l.remote.get_or_insert(*remote);
                let restarted = l.restarting & bit != 0;
                l.restarting &= !bit;
                if restarted {
                    note = Some(("ice_restarted", format!("ICE found a path again, to {remote}")));
                }
            }
            TransportState::Disconnected if can && matches!(l.state, State::In) && l.restarts < RESTARTS_MAX => {
                l.restarts += 1;
                l.restarting |= bit;
                if let Some(o) = &l.orders {
                    let _ = o.send(Order::RestartIce { slot });
                }
                let text = "a transport's checks went unanswered, so ICE was to restart".to_owned();
                note = Some(("ice_restart", text));
            }
            TransportState::Connected { suite, certificate } => {
                l.milestones.keys.get_or_insert(at);
                l.certificate.get_or_insert(*certificate);
                l.suite.get_or_insert(*suite);
            }
            _ => {}
        }
        if let Some(o) = &l.orders {
            let _ = o.send(Order::Transport { slot, state });
        }
        if let Some((code, text)) = note {
            self.note(code, text, leg);
        }
        self.maybe_joined(leg);
    }

    pub(super) fn on_asked(&mut self, leg: LegId, slot: u8, turn: Arc<str>) {
        let asked = &mut self.legs[leg.index()].asked;
        asked.retain(|(s, _)| *s != slot);
        asked.push((slot, turn));
    }

    /// What became of an allocation.
    pub(super) fn on_relay(&mut self, leg: LegId, slot: u8, news: News, at: Instant) {
        match news.what {
            RelayWhat::Allocated => self.allocations += 1,
            RelayWhat::Released | RelayWhat::Lost | RelayWhat::Abandoned => self.allocations -= 1,
            RelayWhat::Refused | RelayWhat::Unreachable | RelayWhat::Redirected => {}
        }
        let l = &mut self.legs[leg.index()];
        if let (RelayWhat::Allocated, Some(began)) = (news.what, news.began) {
            l.asked.retain(|(s, _)| *s != slot);
            l.milestones.relay.get_or_insert((began, at));
            if self.c.driver.serves_by_turn() {
                self.on_room_turn(leg, &news.turn);
            }
        }
        let refusal = news.refusal;
        let event = Event::Relay(history::Relay {
            leg,
            slot,
            turn: news.turn.to_string(),
            via: news.via,
            what: news.what,
            ms: news.asked.map(|asked| at.saturating_duration_since(asked).as_secs_f64() * 1000.0),
            code: refusal.as_ref().map(|r| r.code).filter(|c| *c != 0),
            detail: refusal.map(|r| r.reason),
            relayed: news.relayed,
        });
        let t = self.t(at);
        (self.record)(Line { t, event });
    }

    /// Where the TURN server is the target, it carries whoever is in the room.
    fn on_room_turn(&mut self, leg: LegId, turn: &str) {
        let room = self.planned[leg.index()].room;
        self.room_turn.insert(room, turn.to_owned());
        self.on_server(leg, turn.to_owned());
        for other in self.present() {
            let waits = self.planned[other.index()].room == room && self.legs[other.index()].server.is_none();
            if waits && self.legs[other.index()].milestones.signaled.is_some() {
                self.on_server(other, turn.to_owned());
                self.maybe_joined(other);
            }
        }
        self.maybe_joined(leg);
    }

    /// Since the start of the run, of ns of CLOCK_REALTIME.
    fn ms(&self, at_ns: u64) -> f64 {
        at_ns.saturating_sub(self.c.epoch_ns) as f64 / 1e6
    }

    /// Its transport may live; nobody is there for it.
    pub(super) fn on_silent(&mut self, leg: LegId, since_ns: u64) {
        let from_ms = self.ms(since_ns);
        let l = &mut self.legs[leg.index()];
        if !matches!(l.state, State::In) {
            return;
        }
        self.dropped += u32::from(!std::mem::replace(&mut l.silent, true));
        self.note_event(Event::Silent { leg, from_ms });
    }

    pub(super) fn on_totals(&mut self, leg: LegId, t: Totals, impaired: Option<[Counters; 2]>) {
        let room = self.planned[leg.index()].room;
        let l = &mut self.legs[leg.index()];
        let (server, restarts, silent) = (l.server, l.restarts, l.silent);
        let State::Ending { ended } = std::mem::replace(&mut l.state, State::Done) else { return };
        self.active -= 1;
        match ended {
            End::Failed { reason, detail, after_ms } => {
                self.failed += 1;
                self.note_event(Event::JoinFailed(JoinFailure { leg, room, server, reason, detail, after_ms }));
            }
            End::Over { cause, detail, at: over } => {
                self.dropped += u32::from(cause.is_drop() && !silent);
                let how = Over { leg, room, server, cause, detail, ice_restarts: restarts, impaired };
                let end = Event::LegEnd(leg_end(how, &t, self.c.epoch_ns));
                let t = self.t(over);
                (self.record)(Line { t, event: end });
            }
        }
    }
}
