//! Second pass over a history: everything a verdict counts, merged as the lines go by. What it holds grows with legs,
//! servers and seconds, not with histograms.

use super::direction::Reported;
use super::frame::Frame;
use super::legs::{Classed, LegClass, Tracks};
use super::metrics::{Sample, SetupTimes, flow_metric};
use super::relays::RelayGather;
use super::series::{JoinPoint, Series};
use super::windows::Window;
use super::words::count as times;
use crate::history::{
    Event, FailReason, Health, Interval, JoinFailure, LegCause, LegEnd, Line, ReferenceFlow, RoomInterval, Scan, Setup,
    UdpErrors,
};
use crate::measure::{Flow, FlowCounters, Hist};
use crate::profile::{Classes, Op, Threshold};
use crate::types::{Kind, LegId, RoomId, ServerId};
use std::collections::{BTreeMap, BTreeSet};

/// Seconds that one E-model score covers, and a leg's worst stretch.
const SCORED_SECONDS: f64 = 10.0;

#[derive(Default)]
pub(super) struct Gathered {
    pub servers: BTreeMap<ServerId, ServerGather>,
    /// Set-up times of joins that met no server.
    pub setup_nowhere: SetupTimes,
    pub joined: u64,
    pub joins_inconclusive: u64,
    pub failed: Vec<Failed>,
    pub legs: Vec<Leg>,
    pub join_starts: Vec<f64>,
    pub tracks: Tracks,
    pub relays: RelayGather,
    pub classes: BTreeMap<LegId, Classed>,
    pub rooms: BTreeMap<RoomId, RoomGather>,
    pub notes: BTreeMap<String, Note>,
    pub health: HealthGather,
    pub series: Series,
    pub scan: Scan,
    /// Windows that broke a threshold, by index of the threshold.
    pub broken: Vec<BTreeMap<ServerId, Vec<Window>>>,
    /// Seconds of the hold by end (in 0.1 ms): how long each is, and whether it is inconclusive.
    hold_seconds: BTreeMap<i64, (f64, bool)>,
    /// Legs that the profile put behind an impaired network.
    pub behind_networks: u64,
    joined_on: BTreeMap<LegId, ServerId>,
    joins_by_second: BTreeMap<u64, (Vec<Sample>, u32, u32)>,
    pub last_t: f64,
}

#[derive(Default)]
pub(super) struct ServerGather {
    pub audio: Flow,
    pub video: Flow,
    pub participants_max: u32,
    /// The same of seconds that are judged.
    pub participants_judged: u32,
    pub rooms_max: u32,
    pub setup: SetupTimes,
    pub suites: BTreeMap<String, u64>,
    /// By its receiver reports about whole legs, audio and video.
    pub reported: [Reported; 2],
}

pub(super) struct Failed {
    pub leg: LegId,
    pub t: f64,
    pub server: Option<ServerId>,
    pub reason: FailReason,
    pub detail: String,
    pub counts: Counts,
}

/// Whom a failed join is held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counts {
    Target,
    /// We had no socket or port, or were unhealthy while it happened.
    Generator,
    /// Ctrl-C came before it was done.
    Nobody,
}

pub(super) struct Leg {
    pub leg: LegId,
    pub t: f64,
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub class: LegClass,
    pub cause: LegCause,
    pub detail: String,
    /// Highest loss in any 10 s in percent, audio and video; absent also where it may be the generator's doing.
    pub worst_loss: [Option<f64>; 2],
    /// By kind: the generator was unhealthy in that worst stretch (anywhere, where the history does not say when it was).
    pub in_unhealthy: [bool; 2],
    pub ice_restarts: u32,
}

#[derive(Default)]
pub(super) struct RoomGather {
    pub server: Option<ServerId>,
    pub participants_max: u32,
    pub audio: FlowCounters,
    pub video: FlowCounters,
    pub silence_max_ms: i64,
    pub delay_max_ms: Option<f64>,
}

pub(super) struct Note {
    pub text: String,
    pub count: u64,
}

#[derive(Default)]
pub(super) struct HealthGather {
    /// Of the whole run, and of the hold.
    pub run: HealthSums,
    pub hold: HealthSums,
}

#[derive(Default)]
pub(super) struct HealthSums {
    pub seconds: f64,
    pub machine_cpu_seconds: f64,
    /// Of the busiest shard of each second.
    pub shard_cpu_seconds: f64,
    pub core_seconds: f64,
    pub steal_max: f64,
    pub shard_cpu_max: f64,
    pub resident_max: u64,
    pub socket_drops: u64,
    pub send_errors: u64,
    pub lateness: Hist,
    pub timer_lateness: Hist,
    pub waited_max: f64,
    pub reference: ReferenceFlow,
    pub udp: UdpErrors,
    pub descriptors_left: Option<u64>,
    pub ports_left: Option<u64>,
    /// The largest one, by size.
    pub clock_step_ms: f64,
    pub unhealthy: Trouble,
    /// What was over its limit, digits taken out, with the first full text and the seconds.
    pub reasons: BTreeMap<String, (String, f64)>,
}

/// What unhealthy seconds had in common.
#[derive(Default)]
pub(super) struct Trouble {
    pub seconds: f64,
    pub lateness: Hist,
    /// Highest of any second.
    pub steal: f64,
    pub socket_drops: u64,
    /// By shard, highest of any second.
    pub shards: BTreeMap<usize, ShardTrouble>,
    /// Cores that all else on the machine kept busy, and those that there are.
    pub others: f64,
    pub cores: u32,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ShardTrouble {
    pub cpu: f64,
    pub waited: f64,
    /// Cores that it would have needed to be in time: CPU it had, CPU it waited for, and, where it was on a core all
    /// the time, the backlog (its lateness) that it could not work off.
    pub wanted: f64,
    /// Where it was in its worst second.
    pub core: Option<u32>,
}

impl Trouble {
    fn add(&mut self, h: &Health, seconds: f64) {
        self.seconds += seconds;
        self.steal = self.steal.max(h.steal);
        let own: f64 = h.shards.iter().map(|s| s.cpu).sum();
        let cores = f64::from(h.cores);
        self.others = self.others.max((h.machine_cpu + h.steal) * cores - own);
        self.cores = self.cores.max(h.cores);
        for (i, s) in h.shards.iter().enumerate() {
            self.lateness.merge(&s.send_lateness);
            self.socket_drops = self.socket_drops.saturating_add(s.socket_drops);
            let worst = self.shards.entry(i).or_default();
            worst.cpu = worst.cpu.max(s.cpu);
            worst.waited = worst.waited.max(s.waited);
            let late = s.send_lateness.quantile_ms(0.99).unwrap_or(0.0) / 1000.0;
            let wanted = s.cpu + s.waited;
            let wanted = if wanted > 0.9 { wanted + late.min(1.0) } else { wanted };
            if wanted > worst.wanted {
                (worst.wanted, worst.core) = (wanted, s.core);
            }
        }
    }
}

pub(super) struct Gatherer<'a> {
    frame: &'a Frame,
    thresholds: &'a [Threshold],
    out: Gathered,
}

impl<'a> Gatherer<'a> {
    pub fn new(frame: &'a Frame, thresholds: &'a [Threshold]) -> Gatherer<'a> {
        let out = Gathered { broken: vec![BTreeMap::new(); thresholds.len()], ..Gathered::default() };
        Gatherer { frame, thresholds, out }
    }

    /// Lines come in order, each with its number.
    pub fn see(&mut self, number: u64, line: Line) {
        let t = line.t;
        self.out.tracks.see(number, &line);
        self.out.last_t = self.out.last_t.max(t);
        match line.event {
            Event::JoinStart { leg, .. } => {
                self.out.join_starts.push(t);
                self.out.behind_networks += u64::from(leg.network.is_some());
            }
            Event::Joined { leg, server, suite, setup, .. } => {
                self.out.joined_on.insert(leg, server);
                if let Some(suite) = suite {
                    *self.server(server).suites.entry(suite.to_string()).or_default() += 1;
                }
                self.joined(t, server, &setup);
            }
            Event::JoinFailed(failure) => self.join_failed(t, failure),
            Event::FirstMedia { leg, first_rtp_ms, first_frame_ms, rtp_in_vain_ms, frame_in_vain_ms, .. } => {
                // What never came counts at all the time that it was waited for.
                let (first_rtp_ms, first_frame_ms) =
                    (first_rtp_ms.or(rtp_in_vain_ms), first_frame_ms.or(frame_in_vain_ms));
                let longest = first_frame_ms.into_iter().chain(first_rtp_ms).fold(0.0, f64::max);
                let waited = Window { from_ms: t - longest, until_ms: t };
                if let Some(&server) = self.out.joined_on.get(&leg)
                    && !self.frame.unhealthy.touch(&waited)
                {
                    let times = &mut self.server(server).setup.0;
                    times[6].extend(first_rtp_ms.map(|ms| Sample { t, ms }));
                    times[7].extend(first_frame_ms.map(|ms| Sample { t, ms }));
                }
            }
            Event::Relay(relay) => self.out.relays.see(t, &relay, &self.frame.unhealthy),
            Event::LegEnd(end) => self.leg_end(t, end),
            Event::Interval(interval) => self.interval(t, &interval),
            Event::Room(room) => self.room(t, &room),
            Event::Health(health) => self.health(t, &health),
            Event::Note { code, text, count, .. } => {
                self.out.notes.entry(code).or_insert(Note { text, count: 0 }).count += count.min(1 << 50);
            }
            Event::Run(_)
            | Event::Rooms { .. }
            | Event::Server(_)
            | Event::Phase { .. }
            | Event::Trial(_)
            | Event::SearchEnd { .. }
            | Event::Usage(_)
            | Event::Routed { .. }
            | Event::Moved { .. }
            | Event::SignalingResumed { .. }
            | Event::Silent { .. }
            | Event::Step(_)
            | Event::Fleet(_)
            | Event::Mark { .. }
            | Event::End { .. } => {}
        }
    }

    pub fn finish(mut self, scan: Scan, limits: &Classes) -> Gathered {
        self.out.classes = self.out.tracks.classify(self.frame, limits);
        for leg in &mut self.out.legs {
            leg.class = self.out.classes.get(&leg.leg).map_or(LegClass::Inconclusive, |c| c.class);
        }
        let by_second = std::mem::take(&mut self.out.joins_by_second);
        self.out.series.joins = by_second
            .into_iter()
            .map(|(second, (samples, joined, failed))| JoinPoint {
                t: second as f64,
                setup_p95: super::metrics::PhaseMetrics::of(&samples).p95,
                joined,
                failed,
            })
            .collect();
        self.out.scan = scan;
        self.out
    }

    fn server(&mut self, id: ServerId) -> &mut ServerGather {
        self.out.servers.entry(id).or_default()
    }

    fn joins_in_second(&mut self, t: f64) -> &mut (Vec<Sample>, u32, u32) {
        self.out.joins_by_second.entry((t / 1000.0).ceil().max(0.0) as u64).or_default()
    }

    fn joined(&mut self, t: f64, server: ServerId, setup: &Setup) {
        self.out.joined += 1;
        let in_second = self.joins_in_second(t);
        in_second.0.push(Sample { t, ms: setup.total_ms });
        in_second.1 += 1;
        if self.frame.unhealthy.touch(&Window { from_ms: t - setup.total_ms, until_ms: t }) {
            self.out.joins_inconclusive += 1;
            return;
        }
        let phases = [
            Some(setup.total_ms),
            setup.join_ms,
            Some(setup.signaling_ms),
            Some(setup.ice_ms),
            Some(setup.dtls_ms),
            setup.relay_ms,
        ];
        let times = &mut self.server(server).setup.0;
        for (samples, ms) in times.iter_mut().zip(phases) {
            samples.extend(ms.map(|ms| Sample { t, ms }));
        }
    }

    fn join_failed(&mut self, t: f64, failure: JoinFailure) {
        let JoinFailure { leg, server, reason, detail, after_ms, .. } = failure;
        let window = Window { from_ms: t - after_ms, until_ms: t };
        let interrupted = self.frame.end.is_none_or(|interrupted| interrupted);
        let counts = match reason {
            FailReason::LeftEarly if interrupted => Counts::Nobody,
            FailReason::Local => Counts::Generator,
            _ if self.frame.unhealthy.touch(&window) => Counts::Generator,
            _ => Counts::Target,
        };
        let join_timeout_ms = self.frame.join_timeout_ms;
        let timed_out = match reason {
            FailReason::TimeoutRouting
            | FailReason::TimeoutSignaling
            | FailReason::TimeoutIce
            | FailReason::TimeoutDtls
            | FailReason::LeftEarly => true,
            // By a refusal it has failed at once; where nobody answers, it waits for its whole time.
            FailReason::Relay => join_timeout_ms > 0.0 && after_ms >= join_timeout_ms,
            _ => false,
        };
        let in_second = self.joins_in_second(t);
        in_second.2 += 1;
        if timed_out && counts == Counts::Target {
            // Whoever left before the join was done did not see how long it would have taken: it counts in full, too.
            let ms = if reason == FailReason::LeftEarly { after_ms.max(join_timeout_ms) } else { after_ms };
            in_second.0.push(Sample { t, ms });
            let times = match server {
                Some(id) => &mut self.server(id).setup,
                None => &mut self.out.setup_nowhere,
            };
            times.0[0].push(Sample { t, ms });
        }
        if counts == Counts::Generator {
            self.out.joins_inconclusive += 1;
        }
        self.out.failed.push(Failed { leg, t, server, reason, detail, counts });
    }

    fn leg_end(&mut self, t: f64, end: LegEnd) {
        if let Some(id) = end.server {
            let reported = &mut self.server(id).reported;
            reported[0].add(&end.audio);
            reported[1].add(&end.video);
        }
        let in_unhealthy = end.worst_10s_at_ms.map(|at| {
            let worst = at.map_or(Window { from_ms: 0.0, until_ms: t }, |at| Window::ending(at, SCORED_SECONDS));
            self.frame.unsettled_ms(&worst) > 0.0
        });
        self.out.legs.push(Leg {
            leg: end.leg,
            t,
            room: end.room,
            server: end.server,
            // Known when all have ended: it may hang on another one of the room.
            class: LegClass::Inconclusive,
            cause: end.cause,
            detail: end.detail,
            worst_loss: end.worst_10s_loss.map(|share| share.map(super::metrics::percent)),
            in_unhealthy,
            ice_restarts: end.ice_restarts,
        });
    }

    fn interval(&mut self, t: f64, interval: &Interval) {
        self.out.series.interval(t, interval);
        let window = Window::ending(t, interval.seconds);
        let inconclusive = self.frame.inconclusive(&window);
        if inconclusive {
            self.out.series.inconclusive.push(window);
        }
        if !self.frame.in_hold(&window) {
            return;
        }
        let seconds = window.length_ms() / 1000.0;
        self.out.hold_seconds.insert((t * 10.0).round() as i64, (seconds, inconclusive));
        // Scores of this second speak of the ten before it.
        let scored = Window::ending(t, SCORED_SECONDS);
        let scores_stand = scored.from_ms >= self.frame.hold.from_ms - 1000.0 && !self.frame.inconclusive(&scored);
        for s in &interval.servers {
            let server = self.server(s.server);
            server.participants_max = server.participants_max.max(s.participants);
            server.rooms_max = server.rooms_max.max(s.rooms);
            if inconclusive {
                continue;
            }
            server.participants_judged = server.participants_judged.max(s.participants);
            server.video.merge(&s.video);
            if scores_stand || s.audio.mos.is_empty() {
                server.audio.merge(&s.audio);
            } else {
                let mut audio = s.audio.clone();
                audio.mos.clear();
                server.audio.merge(&audio);
            }
        }
        if inconclusive {
            return;
        }
        self.out.relays.second(interval);
        for (i, threshold) in self.thresholds.iter().enumerate() {
            let Some((kind, path)) = media_path(&threshold.metric) else { continue };
            if !speaks_per_second(path) {
                continue;
            }
            for s in &interval.servers {
                let flow = if kind == Kind::Audio { &s.audio } else { &s.video };
                if let Some(v) = flow_metric(flow, kind, path)
                    && !threshold.op.holds(v, threshold.value.number())
                {
                    self.out.broken[i].entry(s.server).or_default().push(window);
                }
            }
        }
    }

    fn room(&mut self, t: f64, room: &RoomInterval) {
        let window = Window::ending(t, room.seconds);
        if !self.frame.in_hold(&window) || self.frame.inconclusive(&window) {
            return;
        }
        let all = self.out.rooms.entry(room.room).or_default();
        all.server = room.server.or(all.server);
        all.participants_max = all.participants_max.max(room.participants);
        all.audio += &room.audio;
        all.video += &room.video;
        all.silence_max_ms = all.silence_max_ms.max(room.silence_max_ms);
        for ms in room.delay_max_ms.into_iter().flatten() {
            all.delay_max_ms = Some(all.delay_max_ms.map_or(ms, |m| m.max(ms)));
        }
    }

    fn health(&mut self, t: f64, health: &Health) {
        self.out.series.health(t, health);
        let window = Window::ending(t, health.seconds);
        self.out.health.run.add(health);
        // Its tick need not be the media's: what mostly lies in the hold counts.
        if self.frame.hold.overlap_ms(&window) > window.length_ms() / 2.0 {
            self.out.health.hold.add(health);
        }
    }
}

impl Gathered {
    /// Seconds of the hold that were recorded, and of these, the inconclusive ones. A media thread that stalled tells of
    /// several seconds at once, which the others have told already: no moment counts twice.
    pub fn hold_seconds(&self) -> (f64, f64) {
        let (mut seen, mut bad, mut told) = (0.0, 0.0, f64::NEG_INFINITY);
        for (end, (seconds, inconclusive)) in &self.hold_seconds {
            let end = *end as f64 / 10_000.0;
            let own = (end - told).min(*seconds);
            seen += own;
            bad += if *inconclusive { own } else { 0.0 };
            told = end;
        }
        (seen, bad)
    }

    /// Highest number of joins begun in any one second.
    pub fn join_rate_max(&self) -> Option<f64> {
        most_in_a_second(&self.join_starts)
    }

    /// Servers that had participants in seconds of the hold that are judged.
    pub fn servers_judged(&self) -> BTreeSet<ServerId> {
        self.servers.iter().filter(|(_, s)| s.participants_judged > 0).map(|(id, _)| *id).collect()
    }

    /// Failed joins that are held against the target.
    pub fn failed_on_target(&self) -> u64 {
        self.failed.iter().filter(|f| f.counts == Counts::Target).count() as u64
    }

    /// What is missing from a history that ended in order: then each join has an outcome, and each leg an end. (What a full
    /// disk costs is neither.)
    pub fn damage(&self) -> Option<String> {
        let damaged = self.scan.damaged();
        let no_outcome = (self.join_starts.len() as u64).saturating_sub(self.joined + self.failed.len() as u64);
        let no_end = self.joined.saturating_sub(self.legs.len() as u64);
        let parts = [
            (damaged, "line could not be read", "lines could not be read"),
            (no_outcome, "join has no outcome", "joins have no outcome"),
            (no_end, "leg has no end", "legs have no end"),
        ];
        let parts: Vec<String> = parts.iter().filter(|p| p.0 > 0).map(|(n, one, many)| times(*n, one, many)).collect();
        (!parts.is_empty()).then(|| format!("the history is damaged: {}", parts.join(", ")))
    }
}

impl HealthSums {
    fn add(&mut self, h: &Health) {
        let seconds = h.seconds.clamp(0.0, 1e6);
        self.seconds += seconds;
        self.machine_cpu_seconds += h.machine_cpu * seconds;
        self.shard_cpu_seconds += h.shards.iter().map(|s| s.cpu).fold(0.0, f64::max) * seconds;
        self.core_seconds += h.process_cores * seconds;
        self.steal_max = self.steal_max.max(h.steal);
        self.resident_max = self.resident_max.max(h.resident_bytes);
        for shard in &h.shards {
            self.shard_cpu_max = self.shard_cpu_max.max(shard.cpu);
            self.socket_drops = self.socket_drops.saturating_add(shard.socket_drops);
            self.send_errors = self.send_errors.saturating_add(shard.send_errors);
            self.lateness.merge(&shard.send_lateness);
            self.timer_lateness.merge(&shard.timer_lateness);
            self.waited_max = self.waited_max.max(shard.waited);
            let reference = &mut self.reference;
            reference.expected = reference.expected.saturating_add(shard.reference.expected);
            reference.received = reference.received.saturating_add(shard.reference.received);
            reference.delay.merge(&shard.reference.delay);
            reference.jitter_ms = reference.jitter_ms.max(shard.reference.jitter_ms);
        }
        self.udp.receive = self.udp.receive.saturating_add(h.udp.receive);
        self.udp.receive_buffer = self.udp.receive_buffer.saturating_add(h.udp.receive_buffer);
        self.udp.send_buffer = self.udp.send_buffer.saturating_add(h.udp.send_buffer);
        self.descriptors_left = self.descriptors_left.into_iter().chain(h.descriptors_left).min();
        self.ports_left = self.ports_left.into_iter().chain(h.ports_left).min();
        if h.clock_step_ms.abs() > self.clock_step_ms.abs() {
            self.clock_step_ms = h.clock_step_ms;
        }
        if h.unhealthy.is_empty() {
            return;
        }
        self.unhealthy.add(h, seconds);
        for reason in &h.unhealthy {
            let key: String = reason.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
            self.reasons.entry(key).or_insert_with(|| (reason.clone(), 0.0)).1 += seconds;
        }
    }
}

/// Most of these moments (ms) in any one second.
pub(super) fn most_in_a_second(moments: &[f64]) -> Option<f64> {
    let mut moments = moments.to_vec();
    moments.sort_by(f64::total_cmp);
    let (mut first, mut most) = (0, 0);
    for (i, t) in moments.iter().enumerate() {
        while moments[first] <= t - 1000.0 {
            first += 1;
        }
        most = most.max(i + 1 - first);
    }
    (most > 0).then_some(most as f64)
}

/// Splits `audio.delay.p99` into kind and path.
pub(super) fn media_path(metric: &str) -> Option<(Kind, &str)> {
    let (head, path) = metric.split_once('.')?;
    Kind::BOTH.into_iter().find(|k| k.as_str() == head).map(|kind| (kind, path))
}

/// True for metrics that mean the same of one second as of a whole hold: not for counts.
fn speaks_per_second(path: &str) -> bool {
    path.ends_with("loss")
        || path.ends_with(".p50")
        || path.ends_with(".p95")
        || path.ends_with(".p99")
        || matches!(path, "freezes" | "frozen_share" | "silence_max")
}

/// Limit of a kind's loss that makes a leg a lossy one, in percent: the profile's, or 1 %.
pub(super) fn lossy_limit(kind: Kind, thresholds: &[Threshold]) -> f64 {
    let own =
        thresholds.iter().find(|t| media_path(&t.metric) == Some((kind, "loss")) && matches!(t.op, Op::Lt | Op::Le));
    own.map_or(1.0, |t| t.value.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_moment_of_the_hold_counts_twice() {
        let seconds = |all: &[(i64, f64, bool)]| {
            let hold_seconds = all.iter().map(|(end, s, bad)| (end * 10_000, (*s, *bad))).collect();
            Gathered { hold_seconds, ..Gathered::default() }.hold_seconds()
        };
        assert_eq!(seconds(&[(11, 1.0, false), (12, 1.0, false), (13, 1.0, true)]), (3.0, 1.0));
        // One thread told nothing of 12 and 13, and the others did: its next second is of these, too.
        let stalled = [(11, 1.0, false), (12, 1.0, true), (13, 1.0, true), (14, 3.0, true), (15, 1.0, false)];
        assert_eq!(seconds(&stalled), (5.0, 3.0));
        // Nobody told of them; and of 16 nothing is known.
        let one = [(11, 1.0, false), (14, 3.0, true), (15, 1.0, false), (17, 1.0, false)];
        assert_eq!(seconds(&one), (6.0, 3.0));
    }
}
