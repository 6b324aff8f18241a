//! Follows the plan in real time: starts joins at their planned moments, runs each leg's signalling, hears the shards
//! and writes what happened. Open loop: nothing the target does delays a join.

mod acts;
mod agenda;
mod legs;
mod room_rows;
mod rows;

use super::health::{HealthReader, Surroundings};
use super::realtime_ns;
use super::relayed::Turn;
use super::shard::{FromShard, Shard, ShardConfig, ShardSecond, ToShard};
use crate::history::{Event, Health, Interval, Line, Phase, RoomInterval};
use crate::media::clip::ClipLibrary;
use crate::participant::Common;
use crate::plan::{Course, Order, Plan, PlannedLeg};
use crate::profile::{Classes, Profile, RoomGroup};
use crate::signaling::{Driver, Ended, MediaCommand, Progress as Milestone};
use crate::types::{LegId, RoomId};
use acts::Acts;
pub use acts::Control;
pub use agenda::{Agenda, Due};
use anyhow::{Context as _, Result, bail};
use legs::Leg;
use room_rows::RoomRows;
use rows::{Rows, Second};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};

/// How often joins are checked against their time-out.
const CHECK: Duration = Duration::from_millis(50);

/// How long the end of a run waits for allocations to be given back.
const RELEASE_PATIENCE: Duration = Duration::from_secs(3);

/// What a run needs.
pub struct Conductor {
    pub profile: Arc<Profile>,
    pub plan: Arc<Plan>,
    pub driver: Arc<dyn Driver>,
    pub clips: Arc<ClipLibrary>,
    pub common: Arc<Common>,
    pub shards: usize,
    pub sources: Vec<IpAddr>,
    /// TURN servers, for those who are relayed.
    pub turn: Arc<Turn>,
    /// Start of the run, and the same moment in ns of CLOCK_REALTIME.
    pub epoch: Instant,
    pub epoch_ns: u64,
    /// What a course's orders to the fleet go to.
    pub control: Option<Arc<dyn Control>>,
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

struct ShardHandle {
    orders: UnboundedSender<ToShard>,
    media: UnboundedSender<MediaCommand>,
    thread: std::thread::JoinHandle<()>,
    load: u32,
}

struct Run<'a> {
    c: &'a Conductor,
    record: &'a mut dyn FnMut(Line),
    /// The legs there are, of the plan or of a course so far, and where they stand.
    planned: Vec<PlannedLeg>,
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
    rows: Rows,
    room_rows: RoomRows,
    health: HealthReader,
    notes: BTreeMap<&'static str, (String, Option<LegId>, u64)>,
    phase: Phase,
    tasks: JoinSet<(LegId, Ended, Instant)>,
    acts: Acts,
    /// Allocations that servers have given and not got back; and the TURN server of each room, for a driver without
    /// servers of its own.
    allocations: i64,
    room_turn: FxHashMap<RoomId, String>,
    /// Drivers whose legs are over, and when our patience with them is.
    stragglers: Vec<(Instant, AbortHandle)>,
    milestones: UnboundedSender<(LegId, Milestone)>,
}

/// Tells of a media thread that panics: nobody waits for one while the run goes on.
struct LastWords(UnboundedSender<FromShard>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody listens: the run is over.
            let _ = self.0.send(FromShard::Fatal("it panicked".to_owned()));
        }
    }
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
        self.run_course(None, record, show, stop).await
    }

    /// The same, but with a course that decides who joins and leaves as the run goes; of the plan only the rooms count.
    pub async fn run_course(
        &self,
        course: Option<&mut dyn Course>,
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
        let planned = if course.is_some() { Vec::new() } else { self.plan.legs.clone() };
        let mut run = Run {
            c: self,
            record,
            legs: planned.iter().map(|l| Leg::waiting(self.epoch + l.join_at)).collect(),
            planned,
            shards,
            room_shard: FxHashMap::default(),
            servers: Vec::new(),
            joining: BTreeSet::new(),
            leaving: BTreeSet::new(),
            active: 0,
            failed: 0,
            dropped: 0,
            rows: Rows::new(self.shards),
            room_rows: RoomRows::new(),
            health: HealthReader::new(self.surroundings()),
            notes: BTreeMap::new(),
            phase: Phase::Warmup,
            tasks: JoinSet::new(),
            acts: Acts::default(),
            allocations: 0,
            room_turn: FxHashMap::default(),
            stragglers: Vec::new(),
            milestones,
        };
        let r = run.conduct(course, &mut from_shards, &mut progress, show, stop).await;
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
            silent_after: self.profile.scale_in.as_ref().map_or_else(Classes::default, |s| s.expect.classes).drop,
            epoch: self.epoch,
            seed: self.plan.seed,
            turn: self.turn.clone(),
            orders: orders_rx,
            media: media_rx,
            out: out.clone(),
        })
        .context("starting a media thread")?;
        let last_words = LastWords(out.clone());
        let run = move || {
            let _last_words = last_words;
            shard.run();
        };
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(run)?;
        Ok(ShardHandle { orders, media, thread, load: 0 })
    }
}

impl Run<'_> {
    async fn conduct(
        &mut self,
        mut course: Option<&mut dyn Course>,
        from_shards: &mut UnboundedReceiver<FromShard>,
        progress: &mut UnboundedReceiver<(LegId, Milestone)>,
        show: &mut dyn FnMut(&Progress),
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        // Rooms come before anything that names them.
        self.note_event(Event::Rooms { rooms: self.c.plan.rooms.clone() });
        self.note_event(Event::Phase { phase: Phase::Warmup });
        self.room_rows.judge(self.c.plan.hold_from, self.c.plan.hold_until);
        let network_delay = self.c.profile.rooms.iter().map(RoomGroup::network_delay_max).max().unwrap_or_default();
        let mut agenda = match course {
            Some(_) => Agenda::open(self.c.epoch, self.c.plan.hold_from, network_delay),
            None => Agenda::new(self.c.plan.clone(), self.c.epoch, network_delay),
        };
        let mut interrupted = false;
        let mut deserted = None;
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            let now = Instant::now();
            let nobody_here = |run: &Run<'_>| run.active == 0 && run.tasks.is_empty();
            let elapsed = now.saturating_duration_since(self.c.epoch);
            while agenda.is_open()
                && let Some(order) = course.as_mut().and_then(|c| c.due(elapsed))
            {
                self.obey(order, now, &mut agenda);
            }
            while let Some(due) = agenda.due(now) {
                self.follow(due, now, &mut agenda);
            }
            if agenda.nobody_to_come() && nobody_here(self) {
                // A server that fell must not cost the rest of a hold of hours.
                let text = "nobody was left and nobody was to come: the run ended before its time".to_owned();
                self.notes.insert("nobody_left", (text, None, 1));
                agenda.cut(now);
                continue;
            }
            if agenda.is_done() && nobody_here(self) {
                let linger = course.as_ref().filter(|_| !interrupted).map_or(Duration::ZERO, |c| c.linger());
                if now >= *deserted.get_or_insert(now) + linger {
                    break;
                }
            }
            let ask = course.as_ref().filter(|_| agenda.is_open()).map(|c| self.c.epoch + c.wake(elapsed));
            let wake = ask.map_or(agenda.wake(now), |t| agenda.wake(now).min(t));
            tokio::select! {
                biased;
                () = &mut stop, if !interrupted => {
                    interrupted = true;
                    let now = Instant::now();
                    let elapsed = now.saturating_duration_since(self.c.epoch);
                    if !course.as_mut().is_some_and(|c| c.interrupt(elapsed)) {
                        agenda.cut(now);
                    }
                }
                Some(e) = from_shards.recv() => {
                    self.on_shard(e, show)?;
                    self.hear_shards(from_shards, show)?;
                }
                Some((leg, m)) = progress.recv() => {
                    // What the media path said before the driver spoke comes first.
                    self.hear_shards(from_shards, show)?;
                    self.on_milestone(leg, m);
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    match ended {
                        Ok((leg, ended, at)) => {
                            while let Ok((leg, m)) = progress.try_recv() {
                                self.on_milestone(leg, m);
                            }
                            self.on_ended(leg, ended, at);
                        }
                        Err(e) if e.is_panic() => bail!("a driver panicked: {e}"),
                        Err(_) => {}
                    }
                }
                Some(step) = self.acts.next(), if !self.acts.is_empty() => self.note_event(Event::Step(step)),
                _ = check.tick() => self.check_timeouts(Instant::now()),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        for step in self.acts.give_up() {
            self.note_event(Event::Step(step));
        }
        // The last, begun second.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.hear_shards(from_shards, show)?;
        let rooms = self.room_rows.end();
        self.note_rooms(rooms);
        let patience = Instant::now() + RELEASE_PATIENCE;
        while self.allocations > 0 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.hear_shards(from_shards, show)?;
        }
        for (code, (text, leg, count)) in std::mem::take(&mut self.notes) {
            self.note_event(Event::Note { code: code.to_owned(), text, leg, count });
        }
        self.note_event(Event::End { interrupted });
        Ok(Outcome { interrupted })
    }

    fn obey(&mut self, order: Order, now: Instant, agenda: &mut Agenda) {
        match order {
            Order::Join(leg) => self.admit(leg, None, now),
            Order::Rejoin(leg, fallen) => self.admit(leg, Some(fallen), now),
            Order::Act(step) => {
                self.note_event(Event::Step(step.clone()));
                self.acts.begin(step, self.c.control.as_deref());
            }
            Order::Step(step) => self.note_event(Event::Step(step)),
            Order::Close => agenda.cut(now),
            Order::Leave(leg) => {
                self.quiet(leg);
                agenda.leave_soon(leg, now);
            }
            Order::Trial(trial) => {
                let at = |ms: f64| Duration::from_secs_f64(ms.max(0.0) / 1000.0);
                self.room_rows.judge(at(trial.from_ms), at(trial.until_ms));
                self.note_event(Event::Trial(trial));
            }
            Order::End { why } => {
                self.note_event(Event::SearchEnd { why });
                agenda.cut(now);
            }
        }
    }

    /// Somebody of a course joins.
    fn admit(&mut self, leg: PlannedLeg, rejoins: Option<LegId>, now: Instant) {
        let id = LegId(self.planned.len() as u32);
        assert_eq!(leg.id, id, "legs are numbered in the order of their joins");
        self.legs.push(Leg::waiting(self.c.epoch + leg.join_at));
        self.planned.push(leg);
        self.start_join(id, rejoins, now);
    }

    fn follow(&mut self, due: Due, now: Instant, agenda: &mut Agenda) {
        match due {
            Due::Enter(phase) => self.enter(phase),
            Due::Join(leg) => self.start_join(leg, None, now),
            Due::Quiet(leg) => self.quiet(leg),
            Due::Leave(leg) => self.leave(leg, now),
            Due::End => {
                self.enter(Phase::Leaving);
                let present = self.present();
                for leg in &present {
                    self.quiet(*leg);
                }
                agenda.close(now, present);
            }
        }
    }

    fn t(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.c.epoch).as_secs_f64() * 1000.0
    }

    fn note_event(&mut self, event: Event) {
        let t = self.t(Instant::now());
        (self.record)(Line { t, event });
    }

    fn note_rooms(&mut self, rows: Vec<(f64, RoomInterval)>) {
        for (t, room) in rows {
            (self.record)(Line { t, event: Event::Room(room) });
        }
    }

    fn note(&mut self, code: &'static str, text: String, leg: LegId) {
        self.notes.entry(code).or_insert((text, Some(leg), 0)).2 += 1;
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.note_event(Event::Phase { phase });
    }

    /// All that the shards have said so far.
    fn hear_shards(
        &mut self,
        from_shards: &mut UnboundedReceiver<FromShard>,
        show: &mut dyn FnMut(&Progress),
    ) -> Result<()> {
        while let Ok(e) = from_shards.try_recv() {
            self.on_shard(e, show)?;
        }
        Ok(())
    }

    fn on_shard(&mut self, e: FromShard, show: &mut dyn FnMut(&Progress)) -> Result<()> {
        match e {
            FromShard::Opened { leg } => self.legs[leg.index()].has_transport = true,
            FromShard::State { leg, slot, state, at } => self.on_transport(leg, slot, state, at),
            FromShard::FirstMedia { leg, from, rtp_ms, frame_ms, in_vain_ms: [rtp_in_vain_ms, frame_in_vain_ms] } => {
                let (first_rtp_ms, first_frame_ms) = (rtp_ms, frame_ms);
                self.note_event(Event::FirstMedia {
                    leg,
                    from,
                    first_rtp_ms,
                    first_frame_ms,
                    rtp_in_vain_ms,
                    frame_in_vain_ms,
                });
            }
            FromShard::Note { leg, code, text } => self.note(code, text, leg),
            FromShard::Silent { leg, since_ns } => self.on_silent(leg, since_ns),
            FromShard::Asked { leg, slot, turn } => self.on_asked(leg, slot, turn),
            FromShard::Relay { leg, slot, news, at } => self.on_relay(leg, slot, *news, at),
            FromShard::Totals { leg, totals, impaired } => self.on_totals(leg, *totals, impaired),
            FromShard::Second(s) => self.on_second(*s, show),
            FromShard::Fatal(why) => bail!("a media thread can't go on: {why}"),
        }
        Ok(())
    }

    fn on_second(&mut self, second: ShardSecond, show: &mut dyn FnMut(&Progress)) {
        for s in self.rows.take(second, self.joining.len() as u32) {
            self.on_whole_second(s, show);
        }
    }

    fn on_whole_second(&mut self, s: Second, show: &mut dyn FnMut(&Progress)) {
        let t = s.second as f64 * 1000.0;
        let mut health = self.health.read(s.interval.seconds, s.shards, &self.c.profile.health);
        health.unhealthy.extend(s.mute.iter().map(|i| format!("shard {i} told nothing of this second")));
        let rooms = self.room_rows.take(s.second, s.rooms, !health.unhealthy.is_empty());
        self.note_rooms(rooms);
        (self.record)(Line { t, event: Event::Interval(s.interval.clone()) });
        (self.record)(Line { t, event: Event::Health(health.clone()) });
        let planned = self.c.plan.rooms.iter().map(|r| r.size).sum();
        let (failed, dropped) = (self.failed, self.dropped);
        show(&Progress { t_ms: t, phase: self.phase, planned, failed, dropped, interval: s.interval, health });
    }
}

/// The run's clock pair: the same moment on both clocks.
pub fn start_of_run() -> (Instant, u64) {
    (Instant::now(), realtime_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_thread_that_panics_is_heard_of() {
        let (out, mut heard) = unbounded_channel();
        let run = |ends_well: bool| {
            let words = LastWords(out.clone());
            std::thread::spawn(move || {
                let _words = words;
                assert!(ends_well, "this panic is the test's");
            })
        };
        assert!(run(true).join().is_ok());
        assert!(heard.try_recv().is_err());
        assert!(run(false).join().is_err());
        assert!(matches!(heard.try_recv(), Ok(FromShard::Fatal(why)) if why == "it panicked"));
    }
}
