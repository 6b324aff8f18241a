//! The trials of a history, followed line by line: the running search and `roomful report` see the same.

use super::objectives::{Joins, Scope};
use super::search::Trial;
use super::setting::Setting;
use super::trial::{ALL, Loaded, Open, Outcome, Seconds, TrialRow, row, together};
use crate::history::{EDGE_MS, Event, FailReason, Interval, JoinFailure, Line, Relay, RelayFlow, RelayWhat};
use crate::measure::Flow;
use crate::types::{LegId, RoomId, ServerId};
use std::collections::{BTreeMap, BTreeSet};

/// What a TURN server says to an allocation for which it has no room (RFC 8656 18).
const QUOTA: u16 = 486;
const CAPACITY: u16 = 508;

/// So long after a trial, ms, it is looked whether a server that fell silent comes back: at seconds that have ended by then and
/// are told within the rest.
pub(super) const DOUBT_MS: f64 = 5000.0;
const LATE_MS: f64 = 1000.0;

/// Follows a history.
#[derive(Debug)]
pub struct Record {
    setting: Setting,
    names: BTreeMap<ServerId, String>,
    legs: BTreeMap<LegId, Seated>,
    joins: BTreeMap<String, Joins>,
    /// Of objectives, whether any trial of a server had data for them.
    heard: BTreeMap<String, Vec<bool>>,
    /// Rooms of a TURN server that refused an allocation for want of room.
    turned_away: BTreeSet<RoomId>,
    moving: Seconds,
    delays: Delays,
    open: Option<Open>,
    /// A second of media whose health is still to come.
    second: Option<(f64, Interval)>,
    pub trials: Vec<TrialRow>,
    pub why: Option<String>,
    pub interrupted: bool,
    pub last_t: f64,
}

/// Of a leg: where it was to go and went, and how its join began.
#[derive(Clone, Copy, Debug)]
struct Seated {
    room: RoomId,
    server: Option<ServerId>,
    planned_ms: f64,
    late_ms: f64,
}

/// Median delays of the last seconds, ms: of the kind and server where they are highest.
#[derive(Default, Debug)]
struct Delays([Option<f64>; 5]);

impl Delays {
    fn note(&mut self, interval: &Interval) {
        let flows = interval.servers.iter().flat_map(|s| [&s.audio, &s.video]);
        self.0.rotate_left(1);
        self.0[4] = flows.filter_map(|f| f.delay.quantile_ms(0.5)).reduce(f64::max);
    }

    /// Up or down, by more than a twentieth and 10 ms within five seconds, and is not gone. What comes out of a queue waited longer
    /// and longer for as long as the queue grew when it came in, and takes its full length before it is less.
    fn move_on(&self) -> bool {
        let known = || self.0.iter().flatten().copied();
        let (least, most) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
        let little = 0.05 * most + 10.0;
        self.0[4].is_some_and(|now| now > little) && most - least > little
    }

    /// By more than a twentieth, and 10 ms, since the worst of the four seconds before: what was queued longest comes out
    /// when the load has gone down already.
    fn fall(&self) -> bool {
        let [before @ .., now] = &self.0;
        let worst = before.iter().flatten().copied().fold(0.0, f64::max);
        now.is_some_and(|now| now < 0.95 * worst - 10.0)
    }
}

impl Record {
    pub fn new(setting: Setting) -> Record {
        Record {
            setting,
            names: BTreeMap::new(),
            legs: BTreeMap::new(),
            joins: BTreeMap::new(),
            heard: BTreeMap::new(),
            turned_away: BTreeSet::new(),
            moving: Seconds::default(),
            delays: Delays::default(),
            open: None,
            second: None,
            trials: Vec::new(),
            why: None,
            interrupted: false,
            last_t: 0.0,
        }
    }

    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Kinds of lines that matter here.
    pub fn wants(kind: &str) -> bool {
        !matches!(kind, "room" | "note" | "rooms" | "run" | "phase")
    }

    pub fn see(&mut self, line: &Line) {
        self.last_t = self.last_t.max(line.t);
        match &line.event {
            Event::Server(info) => {
                self.names.insert(info.id, info.name.clone());
            }
            Event::JoinStart { leg, late_ms, .. } => {
                let planned_ms = leg.join_at.as_secs_f64() * 1000.0;
                self.legs.insert(leg.id, Seated { room: leg.room, server: None, planned_ms, late_ms: *late_ms });
            }
            Event::Joined { leg, room, server, setup, .. } => {
                let began = self.legs.get_mut(leg).map(|seated| {
                    seated.server = Some(*server);
                    *seated
                });
                let joins = self.joins_of(*room, Some(*server));
                joins.joined += 1;
                began.into_iter().for_each(|s| joins.pace.add(s.planned_ms, s.late_ms));
                let phases = [
                    ("total", Some(setup.total_ms)),
                    ("join", setup.join_ms),
                    ("signaling", Some(setup.signaling_ms)),
                    ("ice", Some(setup.ice_ms)),
                    ("dtls", Some(setup.dtls_ms)),
                    ("relay", setup.relay_ms),
                ];
                phases.into_iter().for_each(|(phase, ms)| ms.into_iter().for_each(|ms| joins.time(phase, ms)));
            }
            Event::JoinFailed(failure) => self.join_failed(failure),
            Event::Relay(relay) => self.relay(relay),
            Event::FirstMedia { leg, first_rtp_ms, first_frame_ms, rtp_in_vain_ms, frame_in_vain_ms, .. } => {
                if let Some(Seated { room, server, .. }) = self.legs.get(leg).copied() {
                    let joins = self.joins_of(room, server);
                    first_rtp_ms.iter().chain(rtp_in_vain_ms).for_each(|ms| joins.time("first_rtp", *ms));
                    first_frame_ms.iter().chain(frame_in_vain_ms).for_each(|ms| joins.time("first_frame", *ms));
                }
            }
            Event::LegEnd(end) if end.cause.is_drop() => {
                let server = self.server_of(end.room, end.server);
                let within = |o: &&mut Open| line.t >= o.plan.from_ms && line.t <= o.plan.until_ms + EDGE_MS;
                let inside = self.open.as_mut().filter(within);
                if let Some(loaded) = inside.and_then(|o| o.servers.get_mut(&server)) {
                    loaded.dropped += 1;
                }
            }
            Event::Trial(plan) => {
                self.close();
                let names = self.setting.servers.iter().map(|s| s.clone().unwrap_or_else(|| ALL.into()));
                let (plan, judged_ms) = (plan.clone(), plan.from_ms);
                let servers = names.map(|n| (n, Loaded::default())).collect();
                let (joins, moving) = (std::mem::take(&mut self.joins), std::mem::take(&mut self.moving));
                let (seconds, reasons) = (Seconds::default(), Vec::new());
                let cut_short = false;
                self.open = Some(Open { plan, joins, moving, seconds, reasons, servers, judged_ms, cut_short });
            }
            Event::Interval(interval) => {
                self.delays.note(interval);
                if let Some((t, unwatched)) = self.second.replace((line.t, interval.clone())) {
                    self.judge(t, &unwatched, false, &["health was not recorded".to_owned()]);
                }
            }
            Event::Health(health) => {
                let healthy = health.unhealthy.is_empty();
                if let Some((t, interval)) = self.second.take() {
                    self.judge(t, &interval, healthy, &health.unhealthy);
                }
            }
            Event::Usage(usage) => {
                let pinned = self.setting.servers.iter().any(|s| s.as_deref() == Some(&usage.server));
                // A TURN server beside them carries no rooms.
                if !pinned && !self.setting.carriers.contains(&usage.server) {
                    return;
                }
                let name = if pinned { usage.server.as_str() } else { ALL };
                let within = |o: &&mut Open| {
                    line.t - usage.seconds * 1000.0 >= o.plan.from_ms - 500.0 && line.t <= o.plan.until_ms + 500.0
                };
                if let Some(loaded) = self.open.as_mut().filter(within).and_then(|o| o.servers.get_mut(name)) {
                    loaded.usage.push(usage.clone());
                }
            }
            Event::SearchEnd { why } => {
                self.cut_short();
                self.why = Some(why.clone());
            }
            Event::End { interrupted } => {
                self.cut_short();
                self.interrupted = *interrupted;
            }
            _ => {}
        }
    }

    /// True while delay falls: a server works off what a load before this one has left in its queues, and a trial would judge
    /// that load.
    pub fn is_recovering(&self) -> bool {
        self.delays.fall()
    }

    /// Median delay of the last second, ms: of the kind and server where it is highest; 0 without media.
    pub fn delay_ms(&self) -> f64 {
        self.delays.0[4].unwrap_or(0.0)
    }

    /// True while what comes was sent under a load before the one that there is.
    pub fn is_behind(&self) -> bool {
        self.delays.move_on()
    }

    /// True while it is open whether a server that fell silent at the end of a trial is gone.
    pub fn is_in_doubt(&self) -> bool {
        self.open.as_ref().is_some_and(|o| o.servers.values().any(Loaded::is_in_doubt))
    }

    /// Objectives on joins for which no server ever had data, and in how many trials somebody had joined.
    pub fn unheard(&self) -> (Vec<&str>, usize) {
        let tried = |t: &&TrialRow| t.servers.iter().any(|s| s.joined + s.joins_failed > 0);
        let heard = |i: usize| self.heard.values().any(|h| h.get(i) == Some(&true));
        let objectives = self.setting.objectives.iter().enumerate();
        let unheard = objectives.filter(|(i, o)| Scope::of(&o.metric) == Scope::Joins && !heard(*i));
        (unheard.map(|(_, o)| &o.expr[..]).collect(), self.trials.iter().filter(tried).count())
    }

    /// True when every second of the open trial has been judged.
    pub fn is_whole(&self) -> bool {
        self.open.as_ref().is_none_or(|o| o.judged_ms >= o.plan.until_ms - EDGE_MS)
    }

    /// The trials as the search sees them.
    pub fn searched(&self) -> Vec<Trial> {
        let of = |t: &TrialRow| Trial {
            rooms: t.rooms,
            seconds: (t.until_ms - t.from_ms) / 1000.0,
            loss: t.loss / 100.0,
            broken: t.outcome == Outcome::Broke,
            // A server that is gone proves nothing about loads.
            valid: t.outcome != Outcome::Invalid && t.deserted.is_empty(),
            hint: t.hint,
        };
        self.trials.iter().map(of).collect()
    }

    /// The server that a leg went to, where that is one of those that are loaded; else that of its room.
    fn server_of(&self, room: RoomId, went_to: Option<ServerId>) -> String {
        let Some(pinned) = self.setting.rooms.get(room.index()).and_then(|r| r.server.clone()) else {
            return ALL.into();
        };
        let went_to = went_to.and_then(|id| self.names.get(&id)).cloned();
        went_to.filter(|name| self.setting.servers.iter().flatten().any(|s| s == name)).unwrap_or(pinned)
    }

    fn joins_of(&mut self, room: RoomId, went_to: Option<ServerId>) -> &mut Joins {
        let server = self.server_of(room, went_to);
        self.joins.entry(server).or_default()
    }

    fn relay(&mut self, relay: &Relay) {
        let room = self.legs.get(&relay.leg).map(|s| s.room).filter(|_| self.setting.pairs);
        match (relay.what, relay.code) {
            (RelayWhat::Refused, Some(QUOTA | CAPACITY)) => self.turned_away.extend(room),
            (RelayWhat::Allocated, _) => drop(room.map(|r| self.turned_away.remove(&r))),
            _ => {}
        }
    }

    fn join_failed(&mut self, failure: &JoinFailure) {
        // Neither of a pair joins without its allocation.
        let turned_away = self.turned_away.contains(&failure.room);
        if failure.reason == FailReason::LeftEarly {
            return;
        }
        let (began, timeout_ms) = (self.legs.get(&failure.leg).copied(), self.setting.join_timeout_ms);
        let joins = self.joins_of(failure.room, failure.server);
        began.into_iter().for_each(|s| joins.pace.add(s.planned_ms, s.late_ms));
        let late_ms = began.map_or(0.0, |s| s.late_ms);
        match failure.reason {
            FailReason::Local => joins.ours += 1,
            _ if turned_away => (joins.failed, joins.refused) = (joins.failed + 1, joins.refused + 1),
            FailReason::Full => (joins.failed, joins.refused) = (joins.failed + 1, joins.refused + 1),
            FailReason::TimeoutRouting
            | FailReason::TimeoutSignaling
            | FailReason::TimeoutIce
            | FailReason::TimeoutDtls => joins.timed_out(failure.after_ms, late_ms),
            // By a refusal it has failed at once; where nobody answers, it waits for its whole time.
            FailReason::Relay if failure.after_ms >= timeout_ms => joins.timed_out(failure.after_ms, late_ms),
            _ => joins.failed += 1,
        }
        joins.detail.get_or_insert_with(|| failure.detail.clone());
    }

    fn judge(&mut self, t: f64, interval: &Interval, healthy: bool, reasons: &[String]) {
        let from = t - interval.seconds * 1000.0;
        let count = |s: &mut Seconds| {
            s.seen += interval.seconds;
            s.unhealthy += if healthy { 0.0 } else { interval.seconds };
        };
        let (setting, names, heard) = (&self.setting, &self.names, &self.heard);
        let Some(open) = self.open.as_mut().filter(|o| from >= o.plan.from_ms - EDGE_MS) else {
            return count(&mut self.moving);
        };
        let of_server = |name: &String| {
            let mut flows = [Flow::default(), Flow::default()];
            let mut connected = 0;
            for s in &interval.servers {
                if name == ALL || names.get(&s.server) == Some(name) {
                    flows[0].merge(&s.audio);
                    flows[1].merge(&s.video);
                    connected += s.participants;
                }
            }
            (flows, connected)
        };
        if t > open.plan.until_ms + EDGE_MS {
            open.judged_ms = open.judged_ms.max(open.plan.until_ms);
            if healthy && t <= open.plan.until_ms + DOUBT_MS - LATE_MS {
                let in_doubt = open.servers.iter_mut().filter(|(_, s)| s.is_in_doubt());
                in_doubt.for_each(|(name, s)| s.listen(setting, open.plan.rooms, &of_server(name).0, interval.seconds));
            }
            return count(&mut self.moving);
        }
        open.judged_ms = t;
        count(&mut open.seconds);
        if !healthy {
            // The same reason comes with other figures each second: the first is quoted.
            let kind = |r: &str| r.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect::<String>();
            for reason in reasons {
                if !open.reasons.iter().any(|r| kind(r) == kind(reason)) {
                    open.reasons.push(reason.clone());
                }
            }
            return;
        }
        for (name, loaded) in &mut open.servers {
            let (flows, connected) = of_server(name);
            let expected = open.plan.participants * together(setting, name);
            loaded.second(setting, (open.plan.rooms, expected), heard.get(name), connected, &flows, interval.seconds);
            let of_server = |f: &&RelayFlow| setting.pairs && (name == ALL || f.turn == *name);
            let relays: Vec<&RelayFlow> = interval.relays.iter().filter(of_server).collect();
            relays.iter().for_each(|f| loaded.relayed += f.carried());
            if !relays.is_empty() {
                let there = relays.iter().map(|f| f.allocations).sum();
                loaded.allocations = Some(loaded.allocations.map_or(there, |n| n.min(there)));
            }
        }
    }

    /// The search is over: a trial that was under way does not become one.
    fn cut_short(&mut self) {
        if let Some(open) = self.open.as_mut().filter(|o| o.judged_ms < o.plan.until_ms - EDGE_MS) {
            open.cut_short = true;
        }
        self.close();
    }

    /// The open trial is over, whatever is missing of it.
    pub fn close(&mut self) {
        if let Some((t, unwatched)) = self.second.take() {
            self.judge(t, &unwatched, false, &["health was not recorded".to_owned()]);
        }
        let Some(open) = self.open.take() else { return };
        let row = row(&self.setting, &open, &self.heard);
        for (name, loaded) in &open.servers {
            let joins = open.joins.get(name);
            let known = self.heard.entry(name.clone()).or_default();
            known.resize(self.setting.objectives.len(), false);
            for (i, o) in self.setting.objectives.iter().enumerate() {
                known[i] |= loaded.heard.get(i) == Some(&true) || joins.is_some_and(|j| j.metric(&o.metric).is_some());
            }
        }
        self.trials.push(row);
    }
}

#[cfg(test)]
mod tests {
    use super::Delays;

    #[test]
    fn delay_falls_from_its_peak() {
        // As seen when 64 participants became 44 on a server that carries some 50: the peak comes afterwards.
        let seen = [872.0, 1139.0, 1155.0, 938.0, 848.0, 848.0, 709.0, 528.0, 20.4, 24.7, 25.5, 35.1, 29.8];
        let falls = (4..seen.len()).map(|i| {
            let last = &seen[i - 4..=i];
            Delays(std::array::from_fn(|k| Some(last[k]))).fall()
        });
        let settled: Vec<usize> = falls.enumerate().filter(|(_, falls)| !falls).map(|(i, _)| i + 4).collect();
        assert_eq!(settled, [12]);
        // On its way to the peak it has nothing of the kind, but is on the move all the time until it is over.
        let on_the_move = (4..12).map(|i| Delays(std::array::from_fn(|k| Some(seen[i - 4 + k]))).move_on());
        assert_eq!(on_the_move.collect::<Vec<_>>(), [true, true, true, true, false, false, false, false]);
        let peak = [7503.0, 8028.0, 8585.0, 8585.0, 8585.0].map(Some);
        assert!(Delays(peak).move_on() && !Delays(peak).fall());
        assert!(!Delays([2000.0; 5].map(Some)).move_on(), "a full queue: it has been waited for that long already");
        assert!(!Delays([Some(402.0), Some(402.0), Some(402.0), Some(2.0), Some(2.0)]).move_on(), "gone");
        assert!(!Delays([Some(30.0), Some(36.0), None, Some(31.0), Some(29.0)]).fall(), "noise");
        assert!(!Delays::default().fall());
    }
}
