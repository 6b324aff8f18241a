//! The whole judgement of a run.

use super::direction::direction;
use super::frame::Frame;
use super::gather::{Gathered, Gatherer, Leg, lossy_limit};
use super::generator::{Generator, diagnosis, generator};
use super::legs::LegClass;
use super::metrics::{AudioMetrics, LossyLegs, SetupMetrics, SetupTimes, VideoMetrics, percent};
use super::relays::Relays;
use super::scale_in::{self, Recorder, ScaleIn};
use super::sentence::{Case, sentence};
use super::series::Series;
use super::thresholds::{self, Outcome, Whole};
use super::words::number;
use super::{Verdict, clock};
use crate::history::{Reading, RunInfo};
use crate::measure::Flow;
use crate::profile::{Classes, Expect, HealthLimits, Threshold};
use crate::types::{Kind, RoomId, ServerId};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// A server's loss is noted with its way from here on, whatever the limits are.
const NOTED_LOSS: f64 = 0.001;

/// Code of a note: something that a run did to the fleet is still in force.
pub const ROLLBACK_FAILED: &str = "rollback_failed";

/// Rooms in the table of the worst.
const ROOMS_WORST: usize = 12;

/// Everything that a history says, judged.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub run: RunInfo,
    pub verdict: Verdict,
    pub sentence: String,
    /// Why not pass; empty for a pass.
    pub reasons: Vec<String>,
    pub pass: Vec<Outcome>,
    /// Length of the run, ms.
    pub wall_ms: f64,
    pub interrupted: bool,
    /// False for a run that crashed or was killed.
    pub ended: bool,
    pub hold: Hold,
    pub participants: Participants,
    pub joins: Joins,
    pub setup: SetupMetrics,
    pub audio: AudioMetrics,
    pub video: VideoMetrics,
    pub legs: Legs,
    pub generator: Generator,
    pub relays: Relays,
    pub servers: Vec<ServerRow>,
    pub rooms_worst: Vec<RoomRow>,
    pub failures: Vec<FailureRow>,
    pub notes: Vec<NoteRow>,
    pub series: Series,
    /// Of shape scale-in.
    pub scale_in: Option<ScaleIn>,
}

/// The judged part, ms since the start of the run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Hold {
    #[serde(rename = "from")]
    pub from_ms: f64,
    /// As planned.
    #[serde(rename = "until")]
    pub until_ms: f64,
    /// As it was: where it ended early, here.
    #[serde(rename = "ended")]
    pub ended_ms: f64,
    pub complete: bool,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Participants {
    pub planned: u64,
    pub joined: u64,
    /// Whoever's doing it was; as a limit it counts those held against the target.
    pub failed: u64,
    pub dropped: Option<u64>,
    pub clean: Option<u64>,
    pub failures: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Joins {
    pub planned: u64,
    /// Held against the target: not what failed on our side or was cut by Ctrl-C.
    pub failed: Option<u64>,
    pub failed_share: Option<f64>,
    /// Most joins begun in any one second.
    pub rate_max: Option<f64>,
}

/// Legs by class; each leg that ended has exactly one. All null where none ended.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Legs {
    pub judged: Option<u64>,
    pub clean: Option<u64>,
    /// Longest gap above 1 s.
    pub glitched: Option<u64>,
    pub migrated: Option<u64>,
    pub reconnected: Option<u64>,
    pub one_way: Option<u64>,
    pub dropped: Option<u64>,
    /// All good until its own leave, which was not acknowledged.
    pub unclean_leave: Option<u64>,
    pub inconclusive: Option<u64>,
    /// ICE restarts that these legs tried.
    pub ice_restarts: Option<u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServerRow {
    pub id: String,
    pub rooms_max: u32,
    pub participants_max: u32,
    /// The server's own CPU; null where nobody observes it.
    pub cpu: Option<super::Percentiles>,
    pub audio: AudioMetrics,
    pub video: VideoMetrics,
    pub setup: SetupMetrics,
}

/// One room of the worst.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RoomRow {
    pub room: String,
    pub server: Option<String>,
    pub participants_max: u32,
    pub audio_loss: Option<f64>,
    /// Share of its legs that lost more than the limit in any 10 s.
    pub audio_lossy_legs_share: Option<f64>,
    pub video_loss: Option<f64>,
    pub video_lossy_legs_share: Option<f64>,
    pub delay_max: Option<f64>,
    pub silence_max: Option<f64>,
    pub freezes: i64,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FailureRow {
    pub reason: String,
    pub count: u64,
    /// The first of them.
    pub detail: String,
    pub servers: BTreeMap<String, u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct NoteRow {
    pub code: String,
    pub text: String,
    pub count: u64,
}

impl Judgement {
    /// Exit code of the `run` command.
    pub fn exit_code(&self) -> i32 {
        if self.interrupted { 130 } else { self.verdict.exit_code() }
    }
}

/// Judges a history: steady load against thresholds.
pub fn judge(reading: &Reading, pass: &[Threshold], health: &HealthLimits) -> Judgement {
    judge_window(reading, pass, health, None)
}

/// The same, with another stretch in place of the planned hold.
pub fn judge_window(
    reading: &Reading,
    pass: &[Threshold],
    health: &HealthLimits,
    window: Option<super::Window>,
) -> Judgement {
    judge_all(reading, pass, health, window, None)
}

/// The same for a scale-in: its invariants decide, and thresholds where there are any.
pub fn judge_scale_in(reading: &Reading, pass: &[Threshold], health: &HealthLimits, expect: &Expect) -> Judgement {
    judge_all(reading, pass, health, None, Some(expect))
}

fn judge_all(
    reading: &Reading,
    pass: &[Threshold],
    health: &HealthLimits,
    window: Option<super::Window>,
    expect: Option<&Expect>,
) -> Judgement {
    let mut frame = Frame::of(reading);
    if let Some(window) = window {
        frame.hold = window;
    }
    let mut gatherer = Gatherer::new(&frame, pass);
    let mut recorder = Recorder::default();
    let scan = reading.each_numbered(
        |_| true,
        |number, line| {
            if expect.is_some() {
                recorder.see(number, &line);
            }
            gatherer.see(number, line);
        },
    );
    let mut all = gatherer.finish(scan, &expect.map_or_else(Classes::default, |e| e.classes));
    all.series.names = all.servers.keys().map(|id| (*id, frame.server_name(*id))).collect();

    let name = |id: ServerId| frame.server_name(id);
    let generator = generator(&all, &frame, health);
    let lossy = lossy_legs(&all, pass);
    // Rejoins and late joiners of an experiment come on top of what was planned.
    let more = if expect.is_some() { all.join_starts.len() as u32 } else { 0 };
    let planned_legs = reading.run.legs_planned.max(more);
    let participants = participants(&all, planned_legs);
    let joins = joins(&all, planned_legs);
    let legs = legs(&all);
    let relays = all.relays.metrics();
    let share = |part: u64, whole: u64| if whole > 0 { percent(part as f64 / whole as f64) } else { 0.0 };
    // As a limit, failed joins are those that are the target's.
    let held_against = Participants { failed: all.failed_on_target(), ..participants.clone() };
    let whole = Whole {
        all: &all,
        run: json!({ "participants": held_against, "joins": joins, "legs": legs, "generator": generator, "relays": relays }),
        lossy: &lossy,
        joins_inconclusive: share(all.joins_inconclusive, all.joined + all.failed.len() as u64),
        legs_inconclusive: share(legs.inconclusive.unwrap_or(0), legs.judged.unwrap_or(0)),
        relays_inconclusive: share(relays.inconclusive.unwrap_or(0), relays.asked.unwrap_or(0)),
        inconclusive_max: health.inconclusive_share_max * 100.0,
    };
    let outcomes: Vec<Outcome> = pass.iter().enumerate().map(|(i, t)| thresholds::judge(i, t, &whole, &name)).collect();

    let planned = window.map_or((reading.run.hold_from_ms, reading.run.hold_until_ms), |w| (w.from_ms, w.until_ms));
    let hold = hold(planned, &frame, &all);
    let case = Case {
        run: &reading.run,
        all: &all,
        hold,
        end: frame.end,
        outcomes: &outcomes,
        thresholds: pass,
        invariants: expect.is_some(),
        generator: &generator,
        diagnosis: diagnosis(&all, health),
        name: &name,
    };
    let (mut verdict, mut sentence, mut reasons) = sentence(&case);
    let scale_in = expect.map(|e| scale_in::judge(&frame, &all, recorder, e, generator.healthy));
    if let Some(s) = &scale_in {
        (verdict, sentence, reasons) = with_limits(s, (verdict, sentence, reasons), &case);
    }
    let mut setup = SetupTimes::default();
    let (mut audio, mut video, mut suites) = (Flow::default(), Flow::default(), BTreeMap::new());
    let mut lossy_all = [LossyLegs::default(); 2];
    setup.merge(&all.setup_nowhere);
    for (id, s) in &all.servers {
        setup.merge(&s.setup);
        audio.merge(&s.audio);
        video.merge(&s.video);
        for (suite, n) in &s.suites {
            *suites.entry(suite.clone()).or_default() += n;
        }
        for kind in Kind::BOTH {
            lossy_all[kind.index()].add(lossy.get(id).map_or_else(LossyLegs::default, |l| l[kind.index()]));
        }
    }
    Judgement {
        verdict,
        sentence,
        reasons,
        pass: outcomes,
        wall_ms: all.last_t,
        interrupted: frame.end == Some(true),
        ended: frame.end.is_some(),
        hold,
        setup: setup.metrics(),
        audio: AudioMetrics::of(&audio, lossy_all[0], &suites),
        video: VideoMetrics::of(&video, lossy_all[1], &suites),
        legs,
        servers: servers(&all, &lossy, &frame),
        rooms_worst: rooms_worst(&all, &frame, pass),
        failures: failures(&all, &frame),
        notes: notes(&all, &frame, scale_in.as_ref()),
        generator,
        relays,
        participants,
        joins,
        series: all.series,
        scale_in,
        run: reading.run.clone(),
    }
}

/// A scale-in passes when its invariants hold and its thresholds too, where the profile sets any. A call that fell is worse
/// than a limit, so it has the first word.
fn with_limits(s: &ScaleIn, limits: (Verdict, String, Vec<String>), case: &Case<'_>) -> (Verdict, String, Vec<String>) {
    let own = (s.verdict, s.sentence.clone(), s.reasons.clone());
    let cut_short = case.end != Some(false) || case.hold.ended_ms <= case.hold.from_ms;
    if case.outcomes.is_empty() && !(cut_short && s.verdict == Verdict::Pass) {
        return own;
    }
    let rank = |v: Verdict| match v {
        Verdict::Fail => 2,
        Verdict::Unknown => 1,
        Verdict::Pass => 0,
    };
    let (mut first, second) = if rank(limits.0) > rank(own.0) { (limits, own) } else { (own, limits) };
    first.2.extend(second.2);
    first
}

fn hold((from_ms, until_ms): (f64, f64), frame: &Frame, all: &Gathered) -> Hold {
    let ended_ms = frame.hold.until_ms.min(all.last_t).max(frame.hold.from_ms);
    Hold { from_ms, until_ms, ended_ms, complete: frame.end.is_some() && ended_ms >= until_ms - 1000.0 }
}

fn participants(all: &Gathered, planned: u32) -> Participants {
    let mut failures = BTreeMap::new();
    for f in &all.failed {
        *failures.entry(reason_key(f.reason)).or_default() += 1;
    }
    let legs = legs(all);
    Participants {
        planned: planned.into(),
        joined: all.joined,
        failed: all.failed.len() as u64,
        dropped: legs.dropped,
        clean: legs.clean,
        failures,
    }
}

fn joins(all: &Gathered, planned: u32) -> Joins {
    let failed = all.failed_on_target();
    let tried = all.joined + failed;
    Joins {
        planned: planned.into(),
        failed: (tried > 0).then_some(failed),
        failed_share: (tried > 0).then(|| percent(failed as f64 / tried as f64)),
        rate_max: all.join_rate_max(),
    }
}

fn legs(all: &Gathered) -> Legs {
    let judged = all.legs.len() as u64;
    let of = |class: LegClass| all.legs.iter().filter(|l| l.class == class).count() as u64;
    let some = |n: u64| (judged > 0).then_some(n);
    Legs {
        judged: some(judged),
        clean: some(of(LegClass::Clean)),
        glitched: some(of(LegClass::Glitched)),
        migrated: some(of(LegClass::Migrated)),
        reconnected: some(of(LegClass::Reconnected)),
        one_way: some(of(LegClass::OneWay)),
        dropped: some(of(LegClass::Dropped)),
        unclean_leave: some(of(LegClass::UncleanLeave)),
        inconclusive: some(of(LegClass::Inconclusive)),
        ice_restarts: some(all.legs.iter().map(|l| u64::from(l.ice_restarts)).sum()),
    }
}

/// By kind, of the legs of one place. A leg whose worst stretch was over the limit while the generator was unhealthy
/// proves nothing: it is open.
fn lossy_of<'a>(legs: impl Iterator<Item = &'a Leg>, pass: &[Threshold]) -> [LossyLegs; 2] {
    let mut out = [LossyLegs::default(); 2];
    for leg in legs {
        for kind in Kind::BOTH {
            let Some(worst) = leg.worst_loss[kind.index()] else { continue };
            let over = worst > lossy_limit(kind, pass);
            let open = over && leg.in_unhealthy[kind.index()];
            out[kind.index()].add(match open {
                true => LossyLegs { judged: 0, over: 0, open: 1 },
                false => LossyLegs { judged: 1, over: over.into(), open: 0 },
            });
        }
    }
    out
}

/// By server and kind.
fn lossy_legs(all: &Gathered, pass: &[Threshold]) -> BTreeMap<ServerId, [LossyLegs; 2]> {
    let servers: std::collections::BTreeSet<ServerId> = all.legs.iter().filter_map(|l| l.server).collect();
    let of = |id: ServerId| lossy_of(all.legs.iter().filter(|l| l.server == Some(id)), pass);
    servers.into_iter().map(|id| (id, of(id))).collect()
}

fn servers(all: &Gathered, lossy: &BTreeMap<ServerId, [LossyLegs; 2]>, frame: &Frame) -> Vec<ServerRow> {
    let empty = super::gather::ServerGather::default();
    let ids: std::collections::BTreeSet<ServerId> = frame.servers.keys().chain(all.servers.keys()).copied().collect();
    ids.into_iter()
        .map(|id| {
            let s = all.servers.get(&id).unwrap_or(&empty);
            let lossy = lossy.get(&id).copied().unwrap_or_default();
            ServerRow {
                id: frame.server_name(id),
                rooms_max: s.rooms_max,
                participants_max: s.participants_max,
                cpu: None,
                audio: AudioMetrics::of(&s.audio, lossy[0], &s.suites),
                video: VideoMetrics::of(&s.video, lossy[1], &s.suites),
                setup: s.setup.metrics(),
            }
        })
        .collect()
}

fn rooms_worst(all: &Gathered, frame: &Frame, pass: &[Threshold]) -> Vec<RoomRow> {
    let mut rows: Vec<(RoomId, RoomRow)> = all
        .rooms
        .iter()
        .map(|(id, r)| {
            let loss = |c: &crate::measure::FlowCounters| c.e2e_loss().or_else(|| c.rtp_loss()).map(percent);
            let row = RoomRow {
                room: frame.rooms.get(id).cloned().unwrap_or_else(|| id.to_string()),
                server: r.server.map(|id| frame.server_name(id)),
                participants_max: r.participants_max,
                audio_loss: loss(&r.audio),
                audio_lossy_legs_share: None,
                video_loss: loss(&r.video),
                video_lossy_legs_share: None,
                delay_max: r.delay_max_ms,
                silence_max: (r.audio.e2e_expected > 0 || r.audio.rtp_expected > 0).then_some(r.silence_max_ms as f64),
                freezes: r.video.freezes,
            };
            (*id, row)
        })
        .collect();
    let loss = |r: &RoomRow| r.audio_loss.unwrap_or(0.0).max(r.video_loss.unwrap_or(0.0));
    rows.sort_by(|(_, a), (_, b)| {
        let delay = |r: &RoomRow| r.delay_max.unwrap_or(0.0);
        loss(b).total_cmp(&loss(a)).then(delay(b).total_cmp(&delay(a))).then_with(|| a.room.cmp(&b.room))
    });
    rows.truncate(ROOMS_WORST);
    let with_legs = |(id, mut row): (RoomId, RoomRow)| {
        let [audio, video] = lossy_of(all.legs.iter().filter(|l| l.room == id), pass);
        (row.audio_lossy_legs_share, row.video_lossy_legs_share) = (audio.share(), video.share());
        row
    };
    rows.into_iter().map(with_legs).collect()
}

fn failures(all: &Gathered, frame: &Frame) -> Vec<FailureRow> {
    let mut rows: BTreeMap<String, FailureRow> = BTreeMap::new();
    for f in &all.failed {
        let reason = reason_key(f.reason);
        let row = rows.entry(reason.clone()).or_insert_with(|| {
            let who = all.tracks.name(f.leg);
            FailureRow { reason, count: 0, detail: format!("{who}: {}", f.detail), servers: BTreeMap::new() }
        });
        row.count += 1;
        let server = f.server.map_or_else(|| "no server".into(), |id| frame.server_name(id));
        *row.servers.entry(server).or_default() += 1;
    }
    let mut rows: Vec<FailureRow> = rows.into_values().collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
    rows
}

fn notes(all: &Gathered, frame: &Frame, scale_in: Option<&ScaleIn>) -> Vec<NoteRow> {
    let mut rows = Vec::new();
    let left = scale_in.iter().flat_map(|s| &s.rollbacks_failed);
    rows.extend(left.map(|text| NoteRow { code: ROLLBACK_FAILED.into(), text: text.clone(), count: 1 }));
    if frame.end.is_none() {
        let text = format!("history ends at {} without an end: roomful crashed or was killed", clock(all.last_t));
        rows.push(NoteRow { code: "no_end".into(), text, count: 1 });
    }
    let remarks = all.scan.remarks().into_iter();
    rows.extend(remarks.map(|text| NoteRow { code: "history_damaged".into(), text, count: 1 }));
    let open = all.joined.saturating_sub(all.legs.len() as u64);
    if open > 0 {
        let text = format!("{open} legs were still open when the history ended; they are not judged");
        rows.push(NoteRow { code: "legs_open".into(), text, count: open });
    }
    if all.behind_networks > 0 {
        let (n, of) = (all.behind_networks, all.join_starts.len());
        let text = format!(
            "{n} of {of} participants were behind networks that the profile makes bad: what these do is in the numbers"
        );
        rows.push(NoteRow { code: "networks".into(), text, count: n });
    }
    for (id, s) in &all.servers {
        for (kind, flow, reported) in [("audio", &s.audio, s.reported[0]), ("video", &s.video, s.reported[1])] {
            if flow.count.foreign_stamps > 0 {
                let n = flow.count.foreign_stamps;
                let text = format!(
                    "{n} packets of {kind} from {} held stamps that were damaged, cut short or of another run: counted, not believed",
                    frame.server_name(*id)
                );
                rows.push(NoteRow { code: "foreign_stamps".into(), text, count: n.unsigned_abs() });
            }
            let loss = flow.count.e2e_loss().filter(|l| *l >= NOTED_LOSS);
            if let (Some(loss), Some(way)) = (loss, direction(flow, reported)) {
                let text = format!("{} lost {} % of {kind} {way}", frame.server_name(*id), number(percent(loss)));
                rows.push(NoteRow { code: format!("loss_{kind}"), text, count: 1 });
            }
        }
    }
    rows.extend(all.notes.iter().map(|(code, n)| NoteRow { code: code.clone(), text: n.text.clone(), count: n.count }));
    rows
}

/// Key in `participants.failures`.
pub(super) fn reason_key(reason: crate::history::FailReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(s)) => s,
        _ => format!("{reason:?}"),
    }
}
