//! Follows the plan in real time: starts joins at their planned moments, runs each leg's signalling, hears the shards
//! and writes what happened. Open loop: nothing the target does delays a join.

use super::health::{HealthReader, Surroundings};
use super::realtime_ns;
use super::shard::{FromShard, RoomRow, Shard, ShardConfig, ShardSecond, ToShard};
use crate::history::{
    Event, FailReason, Health, Interval, JoinFailure, LegCause, LegEnd, Line, Phase, RoomInterval, ServerFlow,
    ServerInfo, ShardHealth,
};
use crate::measure::Flow;
use crate::media::clip::ClipLibrary;
use crate::participant::{Common, Milestones, Spec, Totals};
use crate::plan::{Plan, PlannedLeg};
use crate::profile::Profile;
use crate::signaling::{Call, Driver, Ended, Media, MediaCommand, Order, Progress as Milestone, TransportState};
use crate::types::{Kind, LegId, RoomId, ServerId, Suite};
use anyhow::{Context as _, Result, bail};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Between the end of sending and the leave: what is in flight arrives, so that a leave makes no loss.
const LAST_PACKETS: Duration = Duration::from_millis(500);
/// A driver has 5 s to leave; this is the end of our patience with the driver itself.
const LEAVE_PATIENCE: Duration = Duration::from_secs(7);
/// Leaves at the end of a run, a second: as people leave, not as a process dies.
const LEAVES_PER_SECOND: u32 = 400;
/// How often joins are checked against their time-out.
const CHECK: Duration = Duration::from_millis(50);

/// What a run needs.
pub struct Conductor {
    pub profile: Arc<Profile>,
    pub plan: Arc<Plan>,
    pub driver: Arc<dyn Driver>,
    pub clips: Arc<ClipLibrary>,
    pub common: Arc<Common>,
    pub shards: usize,
    pub sources: Vec<IpAddr>,
    /// Start of the run, and the same moment in ns of CLOCK_REALTIME.
    pub epoch: Instant,
    pub epoch_ns: u64,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub interrupted: bool,
}

/// Where a run stands, once a second.
#[derive(Clone, Debug)]
pub struct Progress {
    /// ms since the start of the run.
    pub t_ms: f64,
    pub phase: Phase,
    /// Participants that are in when all have joined.
    pub planned: u32,
    pub failed: u32,
    pub dropped: u32,
    pub interval: Interval,
    pub health: Health,
}

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
    Failed { reason: FailReason, detail: String, after_ms: f64 },
    Over { cause: LegCause, detail: String },
}

struct Leg {
    state: State,
    planned: Instant,
    milestones: Milestones,
    has_transport: bool,
    server: Option<ServerId>,
    suite: Option<Suite>,
    remote: Option<SocketAddr>,
    orders: Option<UnboundedSender<Order>>,
    task: Option<tokio::task::AbortHandle>,
}

struct ShardHandle {
    orders: UnboundedSender<ToShard>,
    media: UnboundedSender<MediaCommand>,
    thread: std::thread::JoinHandle<()>,
    load: u32,
}

struct Run<'a> {
    c: &'a Conductor,
    record: &'a mut dyn FnMut(Line),
    legs: Vec<Leg>,
    shards: Vec<ShardHandle>,
    room_shard: FxHashMap<RoomId, usize>,
    servers: Vec<String>,
    joining: BTreeSet<LegId>,
    leaving: BTreeSet<LegId>,
    /// Everybody who is not done, waiting ones excepted.
    active: u32,
    failed: u32,
    dropped: u32,
    seconds: BTreeMap<u64, Vec<ShardSecond>>,
    /// The last second of each shard: one that stalled skips some.
    seconds_of: Vec<u64>,
    health: HealthReader,
    notes: BTreeMap<&'static str, (String, Option<LegId>, u64)>,
    phase: Phase,
    tasks: JoinSet<(LegId, Ended)>,
    milestones: UnboundedSender<(LegId, Milestone)>,
}

impl Conductor {
    /// Runs the plan. `record` gets every line of the history but the first; `show` is called once a second; when
    /// `stop` resolves, everybody leaves and the run ends as interrupted.
    pub async fn run(
        &self,
        record: &mut dyn FnMut(Line),
        show: &mut dyn FnMut(&Progress),
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        if self.sources.is_empty() {
            bail!("no source address for media sockets");
        }
        let (out, mut from_shards) = unbounded_channel();
        let shards = (0..self.shards).map(|i| self.start_shard(i, &out)).collect::<Result<Vec<_>>>()?;
        let (milestones, mut progress) = unbounded_channel();
        let legs = self.plan.legs.iter().map(|l| Leg {
            state: State::Waiting,
            planned: self.epoch + l.join_at,
            milestones: Milestones::default(),
            has_transport: false,
            server: None,
            suite: None,
            remote: None,
            orders: None,
            task: None,
        });
        let mut run = Run {
            c: self,
            record,
            legs: legs.collect(),
            shards,
            room_shard: FxHashMap::default(),
            servers: Vec::new(),
            joining: BTreeSet::new(),
            leaving: BTreeSet::new(),
            active: 0,
            failed: 0,
            dropped: 0,
            seconds: BTreeMap::new(),
            health: HealthReader::new(self.surroundings()),
            seconds_of: vec![0; self.shards],
            notes: BTreeMap::new(),
            phase: Phase::Warmup,
            tasks: JoinSet::new(),
            milestones,
        };
        let r = run.conduct(&mut from_shards, &mut progress, show, stop).await;
        for s in &run.shards {
            let _ = s.orders.send(ToShard::Stop);
        }
        for s in std::mem::take(&mut run.shards) {
            if s.thread.join().is_err() {
                bail!("a media thread panicked");
            }
        }
        r
    }

    /// What health is judged against, besides the profile's limits.
    fn surroundings(&self) -> Surroundings {
        let hosts = self.driver.hosts();
        let ports = crate::plan::Machine::read().ports_per_address;
        Surroundings {
            // The route to an address of this machine starts at that address.
            target_is_here: hosts.iter().any(|h| super::socket::source_address(*h).is_ok_and(|from| from == *h)),
            ports: ports.map(|p| p.saturating_mul(self.sources.len() as u64)),
        }
    }

    fn start_shard(&self, index: usize, out: &UnboundedSender<FromShard>) -> Result<ShardHandle> {
        let (orders, orders_rx) = unbounded_channel();
        let (media, media_rx) = unbounded_channel();
        let shard = Shard::new(ShardConfig {
            index,
            common: self.common.clone(),
            sources: self.sources.clone(),
            receive_buffer: self.profile.receive_buffer,
            epoch: self.epoch,
            hold: [self.plan.hold_from, self.plan.hold_until],
            orders: orders_rx,
            media: media_rx,
            out: out.clone(),
        })
        .context("starting a media thread")?;
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || shard.run())?;
        Ok(ShardHandle { orders, media, thread, load: 0 })
    }
}

impl Run<'_> {
    async fn conduct(
        &mut self,
        from_shards: &mut UnboundedReceiver<FromShard>,
        progress: &mut UnboundedReceiver<(LegId, Milestone)>,
        show: &mut dyn FnMut(&Progress),
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        let plan = self.c.plan.clone();
        // Rooms come before anything that names them.
        self.note_event(Event::Rooms { rooms: plan.rooms.clone() });
        self.note_event(Event::Phase { phase: Phase::Warmup });
        let mut leaves: Vec<LegId> = plan.legs.iter().filter(|l| l.leave_at < plan.hold_until).map(|l| l.id).collect();
        leaves.sort_by_key(|l| plan.legs[l.index()].leave_at);
        // Of `leaves`: told to be quiet, and told to leave.
        let (mut next_join, mut next_leave, mut next_gone) = (0, 0, 0);
        let mut interrupted = false;
        let mut end_at = self.c.epoch + plan.hold_until;
        // Set when everybody has been told to be quiet: when the leaves begin.
        let mut leave_from: Option<Instant> = None;
        let mut last_leaves: Vec<LegId> = Vec::new();
        let mut left = 0usize;
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            let now = Instant::now();
            if self.phase == Phase::Warmup && now >= self.c.epoch + plan.hold_from && leave_from.is_none() {
                self.enter(Phase::Hold);
            }
            while leave_from.is_none()
                && next_join < plan.legs.len()
                && now >= self.c.epoch + plan.legs[next_join].join_at
                && now < end_at
            {
                self.start_join(&plan.legs[next_join], now);
                next_join += 1;
            }
            while leave_from.is_none()
                && next_leave < leaves.len()
                && now >= self.c.epoch + plan.legs[leaves[next_leave].index()].leave_at
            {
                self.quiet(leaves[next_leave]);
                next_leave += 1;
            }
            while next_gone < next_leave
                && now >= self.c.epoch + plan.legs[leaves[next_gone].index()].leave_at + LAST_PACKETS
            {
                self.leave(leaves[next_gone], now);
                next_gone += 1;
            }
            let nobody_left = next_join == plan.legs.len() && self.active == 0 && self.tasks.is_empty();
            if nobody_left && leave_from.is_none() && now < end_at {
                // A server that fell must not cost the rest of a hold of hours.
                let text = "nobody was left and nobody was to come: the run ended before its time".to_owned();
                self.notes.insert("nobody_left", (text, None, 1));
                end_at = now;
            }
            if leave_from.is_none() && now >= end_at {
                self.enter(Phase::Leaving);
                leave_from = Some(now + LAST_PACKETS);
                for i in 0..self.legs.len() {
                    let id = LegId(i as u32);
                    if matches!(self.legs[i].state, State::Joining | State::In) {
                        self.quiet(id);
                        last_leaves.push(id);
                    }
                }
            }
            if let Some(from) = leave_from {
                let allowed = now
                    .checked_duration_since(from)
                    .map_or(0, |d| 1 + (d.as_secs_f64() * f64::from(LEAVES_PER_SECOND)) as usize);
                while left < last_leaves.len().min(allowed) {
                    self.leave(last_leaves[left], now);
                    left += 1;
                }
                if left == last_leaves.len() && self.active == 0 && self.tasks.is_empty() {
                    break;
                }
            }
            let mut wake = now + Duration::from_secs(1);
            if leave_from.is_none() {
                wake = wake.min(end_at);
                if let Some(l) = plan.legs.get(next_join) {
                    wake = wake.min(self.c.epoch + l.join_at);
                }
                if let Some(l) = leaves.get(next_leave) {
                    wake = wake.min(self.c.epoch + plan.legs[l.index()].leave_at);
                }
                if let Some(l) = leaves[..next_leave].get(next_gone) {
                    wake = wake.min(self.c.epoch + plan.legs[l.index()].leave_at + LAST_PACKETS);
                }
                if self.phase == Phase::Warmup {
                    wake = wake.min(self.c.epoch + plan.hold_from);
                }
            } else if left < last_leaves.len() {
                wake = wake.min(now + Duration::from_millis(5));
            }
            tokio::select! {
                biased;
                () = &mut stop, if !interrupted => {
                    interrupted = true;
                    end_at = Instant::now();
                }
                Some(e) = from_shards.recv() => {
                    self.on_shard(e, show)?;
                    while let Ok(e) = from_shards.try_recv() {
                        self.on_shard(e, show)?;
                    }
                }
                Some((leg, m)) = progress.recv() => {
                    // What the media path said before the driver spoke comes first.
                    while let Ok(e) = from_shards.try_recv() {
                        self.on_shard(e, show)?;
                    }
                    self.on_milestone(leg, m);
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    match ended {
                        Ok((leg, ended)) => {
                            while let Ok((leg, m)) = progress.try_recv() {
                                self.on_milestone(leg, m);
                            }
                            self.on_ended(leg, ended);
                        }
                        Err(e) if e.is_panic() => bail!("a driver panicked: {e}"),
                        Err(_) => {}
                    }
                }
                _ = check.tick() => self.check_timeouts(Instant::now()),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        // The last, begun second.
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Ok(e) = from_shards.try_recv() {
            self.on_shard(e, show)?;
        }
        for (code, (text, leg, count)) in std::mem::take(&mut self.notes) {
            self.note_event(Event::Note { code: code.to_owned(), text, leg, count });
        }
        self.note_event(Event::End { interrupted });
        Ok(Outcome { interrupted })
    }

    fn t(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.c.epoch).as_secs_f64() * 1000.0
    }

    fn note_event(&mut self, event: Event) {
        let t = self.t(Instant::now());
        (self.record)(Line { t, event });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.note_event(Event::Phase { phase });
    }

    fn shard_of(&mut self, room: RoomId) -> usize {
        if let Some(s) = self.room_shard.get(&room) {
            return *s;
        }
        let s = (0..self.shards.len()).min_by_key(|i| self.shards[*i].load).unwrap_or(0);
        self.shards[s].load += self.c.plan.rooms[room.index()].size;
        self.room_shard.insert(room, s);
        s
    }

    fn start_join(&mut self, leg: &PlannedLeg, now: Instant) {
        let room = self.c.plan.rooms[leg.room.index()].clone();
        let group = &self.c.profile.rooms[room.group];
        let planned = self.legs[leg.id.index()].planned;
        let late_ms = now.saturating_duration_since(planned).as_secs_f64() * 1000.0;
        self.note_event(Event::JoinStart { leg: leg.clone(), late_ms });
        let clip = |e: Option<crate::types::Encoding>| e.and_then(|e| self.c.clips.clip(e));
        let spec = Spec {
            leg: leg.clone(),
            clips: [clip(leg.audio), clip(leg.video)],
            seed: self.c.plan.seed ^ (u64::from(leg.id.0) << 32 | 0x5eed),
            // From now, not from the start: the clock may have been set meanwhile.
            planned_ns: realtime_ns().saturating_sub(now.saturating_duration_since(planned).as_nanos() as u64),
            loss_up: group.network.loss_up,
            loss_down: group.network.loss_down,
        };
        let shard = self.shard_of(leg.room);
        let s = &self.shards[shard];
        let _ = s.orders.send(ToShard::Add { spec: Box::new(spec) });
        let (orders, orders_rx) = unbounded_channel();
        let (milestones, mut from_driver) = unbounded_channel();
        let call = Call {
            leg: leg.clone(),
            room,
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
                        return (id, ended);
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
        let room = self.c.plan.legs[leg.index()].room;
        let s = self.shard_of(room);
        let _ = self.shards[s].orders.send(order);
    }

    fn quiet(&mut self, leg: LegId) {
        if matches!(self.legs[leg.index()].state, State::Joining | State::In) {
            self.tell_shard(leg, ToShard::Quiet { leg });
        }
    }

    fn leave(&mut self, leg: LegId, now: Instant) {
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

    /// Stops a leg's signalling where it stands.
    fn give_up(&mut self, leg: LegId, end: End) {
        if let Some(t) = self.legs[leg.index()].task.take() {
            t.abort();
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

    fn on_ended(&mut self, leg: LegId, ended: Ended) {
        let after_ms = self.after_ms(leg, Instant::now());
        let joined = matches!(self.legs[leg.index()].state, State::In | State::Leaving { .. });
        let interrupted_leave = matches!(self.legs[leg.index()].state, State::Leaving { .. });
        let end = match (ended, joined) {
            (Ended::Failed { reason, detail }, false) => End::Failed { reason, detail, after_ms },
            (Ended::Over { cause, detail }, true) => End::Over { cause, detail },
            (Ended::Over { detail, .. }, false) => End::Failed { reason: FailReason::Closed, detail, after_ms },
            (Ended::Failed { detail, .. }, true) => {
                let cause = if interrupted_leave { LegCause::LeftUnacknowledged } else { LegCause::ClosedByServer };
                End::Over { cause, detail }
            }
        };
        self.end(leg, end);
    }

    fn check_timeouts(&mut self, now: Instant) {
        let limit = self.c.profile.load.join_timeout;
        let late: Vec<LegId> =
            self.joining.iter().copied().filter(|l| now >= self.legs[l.index()].planned + limit).collect();
        for leg in late {
            let l = &self.legs[leg.index()];
            let m = &l.milestones;
            let (reason, stage) = match (m.signaled, m.ice) {
                (None, _) => (FailReason::TimeoutSignaling, "signalling answer"),
                (Some(_), None) => (FailReason::TimeoutIce, "ICE pair"),
                (Some(_), Some(_)) => (FailReason::TimeoutDtls, "DTLS handshake"),
            };
            let at = l.server.map_or_else(String::new, |s| format!(" on {}", self.servers[s.index()]));
            let detail = format!("no {stage} within {}{at}", humantime::format_duration(limit));
            let after_ms = limit.as_secs_f64() * 1000.0;
            self.give_up(leg, End::Failed { reason, detail, after_ms });
        }
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
            self.give_up(leg, End::Over { cause: LegCause::LeftUnacknowledged, detail });
        }
    }

    fn on_milestone(&mut self, leg: LegId, m: Milestone) {
        let l = &mut self.legs[leg.index()];
        match m {
            Milestone::Started(at) => l.milestones.started = Some(at),
            Milestone::Routed(at) => l.milestones.routed = Some(at),
            Milestone::Signaled(at) => {
                l.milestones.signaled.get_or_insert(at);
                self.maybe_joined(leg);
            }
            Milestone::Server(name) => {
                let known = self.servers.iter().position(|s| *s == name);
                let id = ServerId(known.unwrap_or(self.servers.len()) as u32);
                l.server = Some(id);
                if known.is_none() {
                    self.servers.push(name.clone());
                    self.note_event(Event::Server(ServerInfo { id, name }));
                }
                self.tell_shard(leg, ToShard::Server { leg, server: id });
            }
            Milestone::Note { code, text } => self.note(code, text, leg),
        }
    }

    fn note(&mut self, code: &'static str, text: String, leg: LegId) {
        self.notes.entry(code).or_insert((text, Some(leg), 0)).2 += 1;
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
        self.joining.remove(&leg);
        let room = self.c.plan.legs[leg.index()].room;
        self.note_event(Event::Joined { leg, room, server, suite, remote, setup });
    }

    fn on_shard(&mut self, e: FromShard, show: &mut dyn FnMut(&Progress)) -> Result<()> {
        match e {
            FromShard::Opened { leg } => self.legs[leg.index()].has_transport = true,
            FromShard::State { leg, slot, state, at } => {
                let l = &mut self.legs[leg.index()];
                match &state {
                    TransportState::IceConnected { remote } => {
                        l.milestones.ice.get_or_insert(at);
                        l.remote.get_or_insert(*remote);
                    }
                    TransportState::Connected { suite } => {
                        l.milestones.keys.get_or_insert(at);
                        l.suite.get_or_insert(*suite);
                    }
                    _ => {}
                }
                if let Some(o) = &l.orders {
                    let _ = o.send(Order::Transport { slot, state });
                }
                self.maybe_joined(leg);
            }
            FromShard::FirstMedia { leg, from, rtp_ms, frame_ms } => {
                self.note_event(Event::FirstMedia { leg, from, first_rtp_ms: rtp_ms, first_frame_ms: frame_ms });
            }
            FromShard::Note { leg, code, text } => self.note(code, text, leg),
            FromShard::Totals { leg, totals } => self.on_totals(leg, *totals),
            FromShard::Second(s) => {
                self.seconds_of[s.shard] = s.second;
                self.seconds.entry(s.second).or_default().push(*s);
                let whole = self.seconds_of.iter().copied().min().unwrap_or(0);
                while let Some(first) = self.seconds.first_entry().filter(|e| *e.key() <= whole) {
                    let (k, all) = first.remove_entry();
                    self.on_second(k, all, show);
                }
            }
            FromShard::Fatal(why) => bail!("a media thread can't go on: {why}"),
        }
        Ok(())
    }

    fn on_totals(&mut self, leg: LegId, t: Totals) {
        let room = self.c.plan.legs[leg.index()].room;
        let l = &mut self.legs[leg.index()];
        let server = l.server;
        let State::Ending { ended } = std::mem::replace(&mut l.state, State::Done) else { return };
        self.active -= 1;
        match ended {
            End::Failed { reason, detail, after_ms } => {
                self.failed += 1;
                self.note_event(Event::JoinFailed(JoinFailure { leg, room, server, reason, detail, after_ms }));
            }
            End::Over { cause, detail } => {
                self.dropped += u32::from(cause.is_drop());
                let at = t.longest_gap.1.saturating_sub(self.c.epoch_ns) as f64 / 1e6;
                self.note_event(Event::LegEnd(LegEnd {
                    leg,
                    room,
                    server,
                    cause,
                    detail,
                    audio: t.audio,
                    video: t.video,
                    worst_10s_loss: t.worst_10s_loss,
                    longest_gap_ms: t.longest_gap.0,
                    longest_gap_at_ms: at,
                }));
            }
        }
    }

    fn on_second(&mut self, k: u64, mut all: Vec<ShardSecond>, show: &mut dyn FnMut(&Progress)) {
        all.sort_by_key(|s| s.shard);
        let t = k as f64 * 1000.0;
        let mut servers: BTreeMap<ServerId, ServerFlow> = BTreeMap::new();
        let blank =
            |server| ServerFlow { server, participants: 0, rooms: 0, audio: Flow::default(), video: Flow::default() };
        let (mut connected, seconds) = (0, all.iter().map(|s| s.seconds).fold(0.0, f64::max));
        // A shard that skipped this second stands in it with nothing: its next one covers both.
        let mut shards = vec![ShardHealth::default(); self.c.shards];
        for s in all {
            for (id, p, r) in s.present {
                let f = servers.entry(id).or_insert_with(|| blank(id));
                f.participants += p;
                f.rooms += r;
                connected += p;
            }
            for (id, [audio, video]) in s.servers {
                let f = servers.entry(id).or_insert_with(|| blank(id));
                f.audio.merge(&audio);
                f.video.merge(&video);
            }
            for row in s.rooms {
                (self.record)(Line { t, event: Event::Room(room_interval(row)) });
            }
            shards[s.shard] = s.health;
        }
        let joining = self.joining.len() as u32;
        let interval = Interval { seconds, connected, joining, servers: servers.into_values().collect() };
        (self.record)(Line { t, event: Event::Interval(interval.clone()) });
        let health = self.health.read(seconds, shards, &self.c.profile.health);
        (self.record)(Line { t, event: Event::Health(health.clone()) });
        let planned = self.c.plan.rooms.iter().map(|r| r.size).sum();
        let (failed, dropped) = (self.failed, self.dropped);
        show(&Progress { t_ms: t, phase: self.phase, planned, failed, dropped, interval, health });
    }
}

fn room_interval(r: RoomRow) -> RoomInterval {
    let delay = |k: Kind| (r.delay_max_us[k.index()] > 0).then(|| r.delay_max_us[k.index()] as f64 / 1000.0);
    RoomInterval {
        room: r.room,
        server: r.server,
        seconds: r.seconds,
        participants: r.participants,
        audio: r.count[0],
        video: r.count[1],
        silence_max_ms: r.silence_max_ms,
        delay_max_ms: [delay(Kind::Audio), delay(Kind::Video)],
    }
}

/// The run's clock pair: the same moment on both clocks.
pub fn start_of_run() -> (Instant, u64) {
    (Instant::now(), realtime_ns())
}
