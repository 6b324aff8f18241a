//! The course of each leg as the history tells it, and the one class that it gets: one classification for all shapes.
//! Definitions: docs/measurement.md.

use super::frame::Frame;
use super::windows::Window;
use super::words::number;
use crate::history::{Event, FailReason, FlowGap, LegCause, LegEnd, Line, Silence};
use crate::profile::Classes;
use crate::types::{Kind, LegId, RoomId, ServerId};
use serde::Serialize;
use std::collections::BTreeMap;

/// RFC 7675: consent is gone after 30 s without an answer.
/// A gap that begins or ends so near to a move belongs to it.
const MOVE_REACH_MS: f64 = 500.0;
const CONSENT_MS: f64 = 30_000.0;
/// The history keeps gaps of single flows from here on.
const FLOW_GAP_MS: f64 = 1000.0;
/// A flow's gap is that of the sender's fall when it is open, or ends, within so much of that fall.
const FALL_MS: f64 = 2000.0;
/// Two ways to measure the same gap differ by less.
const SAME_GAP_MS: f64 = 50.0;

/// What became of a leg; the worst that applies, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LegClass {
    NeverJoined,
    Dropped,
    OneWay,
    Reconnected,
    Migrated,
    Glitched,
    UncleanLeave,
    Clean,
    /// The evidence falls into the generator's own trouble.
    Inconclusive,
}

impl LegClass {
    pub const ALL: [LegClass; 9] = [
        LegClass::NeverJoined,
        LegClass::Dropped,
        LegClass::OneWay,
        LegClass::Reconnected,
        LegClass::Migrated,
        LegClass::Glitched,
        LegClass::UncleanLeave,
        LegClass::Clean,
        LegClass::Inconclusive,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            LegClass::NeverJoined => "never_joined",
            LegClass::Dropped => "dropped",
            LegClass::OneWay => "one_way",
            LegClass::Reconnected => "reconnected",
            LegClass::Migrated => "migrated",
            LegClass::Glitched => "glitched",
            LegClass::UncleanLeave => "unclean_leave",
            LegClass::Clean => "clean",
            LegClass::Inconclusive => "inconclusive",
        }
    }
}

/// A class with what it rests on.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Classed {
    pub class: LegClass,
    /// What decided: the gap, the silence, the time without a transport.
    pub evidence: Window,
    /// The other one of a pair that is one way; the successor of a leg that was reconnected.
    pub about: Option<LegId>,
}

impl Classed {
    /// How long, ms.
    pub fn ms(&self) -> f64 {
        self.evidence.length_ms()
    }
}

/// A moment, and the line that tells of it.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct At {
    pub t: f64,
    pub line: u64,
}

/// One leg, line by line.
#[derive(Clone, Default, Debug)]
pub(super) struct Track {
    pub name: String,
    pub room: Option<RoomId>,
    pub sends: [bool; 2],
    /// Planned, ms since the start of the run.
    pub join_at: f64,
    pub started: Option<At>,
    pub rejoins: Option<LegId>,
    /// What the join hook or the router said.
    pub routed: Option<(At, Option<String>)>,
    pub joined: Option<(At, ServerId)>,
    /// Whom its media met: the address, and the certificate.
    pub remote: Option<String>,
    pub certificate: Option<String>,
    pub setup_ms: f64,
    pub failed: Option<(At, Option<ServerId>, FailReason, String)>,
    pub moves: Vec<Move>,
    /// Its signalling broke and came back while media went on.
    pub resumed: bool,
    /// Arrival of its first media, ms since the start of the run.
    pub first_media: Option<f64>,
    pub end: Option<Ending>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub at: At,
    pub to: ServerId,
    pub gap: Window,
}

#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub at: At,
    pub cause: LegCause,
    pub silences: Vec<Silence>,
    pub flow_gaps: Vec<FlowGap>,
    pub longest: Window,
}

impl Ending {
    /// A move by what its media tell of it: who moved knows when it went over, not when it heard the others again.
    fn stood_still(&self, moved: Window) -> Window {
        let silences = self.silences.iter().map(|s| Window { from_ms: s.from_ms, until_ms: s.until_ms });
        let gaps = self.flow_gaps.iter().map(|g| Window { from_ms: g.from_ms, until_ms: g.until_ms });
        let touches =
            |w: &Window| w.from_ms <= moved.until_ms + MOVE_REACH_MS && w.until_ms >= moved.from_ms - MOVE_REACH_MS;
        let longer = |a: Window, b: Window| if b.length_ms() > a.length_ms() { b } else { a };
        silences.chain(gaps).filter(touches).fold(moved, longer)
    }

    /// When its media stopped for good; its end where that was not before.
    pub fn media_until(&self) -> f64 {
        let open = self.silences.iter().find(|s| s.until_ms >= self.at.t - FALL_MS);
        open.map_or(self.at.t, |s| s.from_ms)
    }
}

#[derive(Default, Debug)]
pub(super) struct Tracks {
    pub legs: BTreeMap<LegId, Track>,
}

impl Tracks {
    pub fn see(&mut self, line_number: u64, line: &Line) {
        let at = At { t: line.t, line: line_number };
        match &line.event {
            Event::JoinStart { leg, rejoins, .. } => {
                let track = self.of(leg.id);
                track.name.clone_from(&leg.name);
                (track.room, track.rejoins, track.started) = (Some(leg.room), *rejoins, Some(at));
                track.sends = [leg.audio.is_some(), leg.video.is_some()];
                track.join_at = leg.join_at.as_secs_f64() * 1000.0;
            }
            Event::Routed { leg, server, .. } => self.of(*leg).routed = Some((at, server.clone())),
            Event::Joined { leg, room, server, setup, remote, certificate, .. } => {
                let track = self.of(*leg);
                track.remote.clone_from(remote);
                track.certificate.clone_from(certificate);
                (track.room, track.joined, track.setup_ms) = (Some(*room), Some((at, *server)), setup.total_ms);
            }
            Event::JoinFailed(f) => {
                let track = self.of(f.leg);
                track.room = Some(f.room);
                track.failed = Some((at, f.server, f.reason, f.detail.clone()));
            }
            Event::FirstMedia { leg, from, first_rtp_ms: Some(ms), .. } => {
                let other = self.legs.get(from).map_or(0.0, |t| t.join_at);
                let track = self.of(*leg);
                // The moment it came, and no later than the line that tells of it.
                let came = (track.join_at.max(other) + ms).min(at.t);
                track.first_media = Some(track.first_media.map_or(came, |t| t.min(came)));
            }
            Event::Moved { leg, to, from_ms, until_ms, .. } => {
                let gap = Window { from_ms: *from_ms, until_ms: *until_ms };
                self.of(*leg).moves.push(Move { at, to: *to, gap });
            }
            Event::LegEnd(end) => self.ended(at, end),
            Event::SignalingResumed { leg, .. } => self.of(*leg).resumed = true,
            _ => {}
        }
    }

    fn ended(&mut self, at: At, end: &LegEnd) {
        let longest = Window { from_ms: end.longest_gap_at_ms, until_ms: end.longest_gap_at_ms + end.longest_gap_ms };
        let track = self.of(end.leg);
        track.room = Some(end.room);
        track.end = Some(Ending {
            at,
            cause: end.cause,
            silences: end.silences.clone(),
            flow_gaps: end.flow_gaps.clone(),
            longest,
        });
    }

    fn of(&mut self, leg: LegId) -> &mut Track {
        self.legs.entry(leg).or_default()
    }

    pub fn name(&self, leg: LegId) -> String {
        let named = self.legs.get(&leg).map(|t| t.name.clone()).filter(|n| !n.is_empty());
        named.unwrap_or_else(|| leg.to_string())
    }

    /// Every leg that has ended or failed, and its class. A leg that is still open when the history ends has none.
    pub fn classify(&self, frame: &Frame, limits: &Classes) -> BTreeMap<LegId, Classed> {
        let mut successors: BTreeMap<LegId, Vec<LegId>> = BTreeMap::new();
        for (id, track) in &self.legs {
            if let Some(fallen) = track.rejoins {
                successors.entry(fallen).or_default().push(*id);
            }
        }
        let mut rooms: BTreeMap<RoomId, Vec<LegId>> = BTreeMap::new();
        for (id, track) in &self.legs {
            if let (Some(room), Some(_)) = (track.room, track.joined) {
                rooms.entry(room).or_default().push(*id);
            }
        }
        let judge = Judge { tracks: self, frame, limits, successors, rooms };
        self.legs.iter().filter_map(|(id, track)| Some((*id, judge.class(*id, track)?))).collect()
    }
}

impl Track {
    /// Media again, or, where none is to come, the transport.
    pub fn back_at(&self) -> Option<f64> {
        self.first_media.or(self.joined.map(|(at, _)| at.t))
    }
}

struct Judge<'a> {
    tracks: &'a Tracks,
    frame: &'a Frame,
    limits: &'a Classes,
    successors: BTreeMap<LegId, Vec<LegId>>,
    /// Who ever was in a room.
    rooms: BTreeMap<RoomId, Vec<LegId>>,
}

impl Judge<'_> {
    fn class(&self, id: LegId, track: &Track) -> Option<Classed> {
        let of = |class, evidence| Some(Classed { class, evidence, about: None });
        let Some(end) = &track.end else {
            let (at, _, reason, _) = track.failed.as_ref()?;
            if *reason == FailReason::LeftEarly && self.frame.end != Some(false) {
                return None;
            }
            let trying = Window { from_ms: track.started.map_or(at.t, |s| s.t), until_ms: at.t };
            let ours = *reason == FailReason::Local || self.frame.unhealthy.touch(&trying);
            return of(if ours { LegClass::Inconclusive } else { LegClass::NeverJoined }, trying);
        };
        if end.cause.is_drop() {
            return Some(self.fallen(id, end));
        }
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1000.0;
        let or_ours =
            |class, w: Window| of(if self.frame.unhealthy.touch(&w) { LegClass::Inconclusive } else { class }, w);
        let span = |s: &Silence| Window { from_ms: s.from_ms, until_ms: s.until_ms };
        let deaf = |w: &Window| w.length_ms() >= ms(self.limits.drop) && !self.peers_fell(end, w);
        if let Some(w) = end.silences.iter().map(span).find(deaf) {
            return or_ours(LegClass::Dropped, w);
        }
        if let Some((gap, from)) = self.one_way(id, track, end) {
            let classed = or_ours(LegClass::OneWay, gap)?;
            return Some(Classed { about: Some(from), ..classed });
        }
        if let Some(gap) = self.unheard(id, track, end) {
            return or_ours(LegClass::OneWay, gap);
        }
        let longest_move =
            track.moves.iter().map(|m| end.stood_still(m.gap)).max_by(|a, b| a.length_ms().total_cmp(&b.length_ms()));
        if let Some(gap) = longest_move {
            let long = gap.length_ms() > ms(self.limits.glitch);
            return if long { or_ours(LegClass::Migrated, gap) } else { of(LegClass::Migrated, gap) };
        }
        // Who never heard anybody has no gap, only silence; before somebody is heard a call takes its time.
        let long = |w: &Window| w.length_ms() >= ms(self.limits.one_way) && !self.peers_fell(end, w);
        let silent = end.silences.iter().map(span).filter(long);
        let longest = silent.fold(self.longest(end), |a, b| if b.length_ms() > a.length_ms() { b } else { a });
        if longest.length_ms() > ms(self.limits.glitch) {
            return or_ours(LegClass::Glitched, longest);
        }
        let class = match end.cause {
            LegCause::LeftUnacknowledged => LegClass::UncleanLeave,
            _ => LegClass::Clean,
        };
        of(class, longest)
    }

    /// Its transport or its signalling ended against its will.
    fn fallen(&self, id: LegId, end: &Ending) -> Classed {
        let from_ms = end.media_until();
        let back = self.successors.get(&id).into_iter().flatten();
        let back = back.filter_map(|s| Some((*s, self.tracks.legs.get(s)?.back_at()?)));
        let back = back.min_by(|a, b| a.1.total_cmp(&b.1));
        let until_ms = back.map_or(end.at.t, |(_, t)| t.max(from_ms));
        let evidence = Window { from_ms: from_ms.min(until_ms), until_ms };
        // An end that the server sent stands whatever our health was; our own silence might have been ours.
        let silent = Window { from_ms: end.at.t - CONSENT_MS, until_ms: end.at.t };
        let class = match back {
            _ if end.cause == LegCause::ConsentExpired && self.frame.unhealthy.touch(&silent) => LegClass::Inconclusive,
            Some(_) => LegClass::Reconnected,
            None => LegClass::Dropped,
        };
        Classed { class, evidence, about: back.map(|(s, _)| s) }
    }

    /// All that it should have heard in this silence came from participants who fell: the silence is theirs.
    fn peers_fell(&self, end: &Ending, silence: &Window) -> bool {
        let mut over = end.flow_gaps.iter().filter(|g| window(g).overlap_ms(silence) > 0.8 * silence.length_ms());
        let first = over.next();
        first.is_some_and(|g| self.sender_fell(g)) && over.all(|g| self.sender_fell(g))
    }

    /// The gap is that of a sender who fell: it ends, or is open, when that one's transport is given up.
    fn sender_fell(&self, gap: &FlowGap) -> bool {
        let sender = self.tracks.legs.get(&gap.from).and_then(|t| t.end.as_ref());
        sender.is_some_and(|e| {
            e.cause.is_drop()
                && gap.from_ms < e.at.t
                && gap.until_ms > e.media_until()
                && gap.until_ms < e.at.t + FALL_MS
        })
    }

    /// The longest gap that is not another one's fall.
    fn longest(&self, end: &Ending) -> Window {
        let is_longest = |g: &&FlowGap| (g.from_ms - end.longest.from_ms).abs() < SAME_GAP_MS;
        let longest = end.flow_gaps.iter().filter(is_longest).max_by(|a, b| a.until_ms.total_cmp(&b.until_ms));
        if !longest.is_some_and(|g| self.sender_fell(g)) {
            return end.longest;
        }
        let others = end.flow_gaps.iter().filter(|g| !self.sender_fell(g)).map(window);
        let at = end.longest.from_ms;
        others.max_by(|a, b| a.length_ms().total_cmp(&b.length_ms())).unwrap_or(Window { from_ms: at, until_ms: at })
    }

    /// A sender whom it did not hear although that one heard it.
    fn one_way(&self, id: LegId, track: &Track, end: &Ending) -> Option<(Window, LegId)> {
        let limit = self.limits.one_way.as_secs_f64() * 1000.0;
        let mut gaps: Vec<&FlowGap> = end.flow_gaps.iter().filter(|g| window(g).length_ms() >= limit).collect();
        gaps.sort_by(|a, b| window(b).length_ms().total_cmp(&window(a).length_ms()));
        gaps.into_iter().find(|g| self.heard_back(id, track, g)).map(|g| (window(g), g.from))
    }

    /// When nobody who was in the room all the time heard it, although it heard them: the first such gap's part that all share.
    fn unheard(&self, id: LegId, track: &Track, end: &Ending) -> Option<Window> {
        let limit = self.limits.one_way.as_secs_f64() * 1000.0;
        let others = track.room.and_then(|r| self.rooms.get(&r))?;
        let others = others.iter().filter(|o| **o != id).filter_map(|o| Some((*o, self.tracks.legs.get(o)?)));
        // Each one's gaps about this leg, of those who were there long enough to have one.
        let others: Vec<(Window, Vec<Window>)> = others
            .filter_map(|(other, t)| {
                let e = t.end.as_ref()?;
                let deaf = |g: &&FlowGap| {
                    g.from == id
                        && window(g).length_ms() >= limit
                        && g.from_ms < end.at.t
                        && self.heard_back(other, t, g)
                };
                let stay = Window { from_ms: t.joined?.0.t, until_ms: e.at.t };
                Some((stay, e.flow_gaps.iter().filter(deaf).map(window).collect()))
            })
            .collect();
        let mut all = others.iter().flat_map(|(_, gaps)| gaps);
        all.find_map(|w| {
            let mut there = others.iter().filter(|(stay, _)| stay.overlap_ms(w) >= limit);
            there.try_fold(*w, |shared, (_, gaps)| {
                let part =
                    gaps.iter().map(|g| shared.common(g)).max_by(|a, b| a.length_ms().total_cmp(&b.length_ms()))?;
                (part.length_ms() >= limit - FLOW_GAP_MS).then_some(part)
            })
        })
    }

    /// The other one of the pair received this leg's media while its own did not arrive here.
    fn heard_back(&self, id: LegId, track: &Track, gap: &FlowGap) -> bool {
        let w = window(gap);
        let Some(end) = self.tracks.legs.get(&gap.from).and_then(|t| t.end.as_ref()) else { return false };
        if end.at.t < w.until_ms - FLOW_GAP_MS || self.sender_fell(gap) {
            return false;
        }
        let silent = |s: &Silence| Window { from_ms: s.from_ms, until_ms: s.until_ms }.overlap_ms(&w) >= FLOW_GAP_MS;
        let missed = |kind: Kind| {
            let mine = end.flow_gaps.iter().filter(|g| g.from == id && g.kind == kind);
            mine.map(window).any(|g| g.overlap_ms(&w) >= FLOW_GAP_MS)
        };
        let same = track.sends[gap.kind.index()];
        let kinds = Kind::BOTH.into_iter().filter(|k| track.sends[k.index()] && (!same || *k == gap.kind));
        !end.silences.iter().any(silent) && kinds.into_iter().any(|k| !missed(k))
    }
}

fn window(gap: &FlowGap) -> Window {
    Window { from_ms: gap.from_ms, until_ms: gap.until_ms }
}

/// What the person on this leg noticed; `other` names who it is about.
pub(super) fn noticed(classed: &Classed, cause: Option<LegCause>, other: Option<&str>) -> String {
    let seconds = format!("{} s", number(classed.ms() / 1000.0));
    if classed.class == LegClass::OneWay && other.is_none() {
        return format!("was heard by nobody for {seconds}, and heard the others all the time");
    }
    let other = other.unwrap_or("somebody");
    match classed.class {
        LegClass::NeverJoined => "could not get into the call".into(),
        LegClass::Dropped if cause.is_some_and(LegCause::is_drop) => {
            "was thrown out of the call and did not get back".into()
        }
        LegClass::Dropped => format!("heard and saw nobody for {seconds}"),
        LegClass::OneWay => format!("did not hear {other} for {seconds}, who heard them all the time"),
        LegClass::Reconnected => format!("was thrown out of the call and back after {seconds}"),
        LegClass::Migrated => format!("sound and picture stood still for {seconds} while the call moved"),
        LegClass::Glitched => format!("sound or picture stood still for {seconds}"),
        LegClass::UncleanLeave => "nothing: the call was over, and the server did not acknowledge it".into(),
        LegClass::Clean => "nothing".into(),
        LegClass::Inconclusive => "unknown: the load generator itself was in trouble".into(),
    }
}

#[cfg(test)]
#[path = "legs_tests.rs"]
mod legs_tests;
