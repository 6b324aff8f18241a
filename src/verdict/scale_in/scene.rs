//! Who was on which server when, by our own count, and where each room was.

use super::incident::{Proof, proofs_of_life};
use super::record::Record;
use super::relays;
use crate::profile::Expect;
use crate::types::{LegId, RoomId, ServerId};
use crate::verdict::frame::Frame;
use crate::verdict::gather::Gathered;
use std::collections::BTreeMap;
use std::time::Duration;

/// A look is stamped when it is asked for; what it tells may be so much younger.
pub(super) const LOOK_MS: f64 = 1000.0;

/// A leg on one server, ms since the start of the run.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    pub leg: LegId,
    pub room: RoomId,
    pub from: f64,
    /// Its end by our own count; the end of the history where it had none.
    pub until: f64,
    /// When its media stopped, for one that fell; else as above.
    pub media_until: f64,
    /// When it came to the server; before `from`, when it was up there.
    pub asked: f64,
    /// Whether the fleet moved it here, and away again: it decides that before anybody hears of it.
    pub moved: [bool; 2],
    /// History line of its coming.
    pub line: u64,
}

/// A room on one server from its first member's coming to its last one's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoomStart {
    pub room: RoomId,
    pub server: ServerId,
    pub leg: LegId,
    /// When its first member asked, and when it was in.
    pub asked: f64,
    pub t: f64,
    pub line: u64,
}

pub(super) struct Scene<'a> {
    pub frame: &'a Frame,
    pub all: &'a Gathered,
    pub record: &'a Record,
    pub expect: &'a Expect,
    /// In the order of their beginnings.
    pub stays: BTreeMap<ServerId, Vec<Stay>>,
    /// Each room's stays: server, and place in `stays`; in the order of their beginnings.
    pub rooms: BTreeMap<RoomId, Vec<(ServerId, usize)>>,
    /// Of all servers, in order.
    pub starts: Vec<RoomStart>,
    /// Allocations on TURN servers, by their names.
    pub allocations: BTreeMap<String, Vec<Stay>>,
    /// By server's name, when it lived although it was called dead.
    pub proven: BTreeMap<String, Vec<Proof>>,
    ids: BTreeMap<String, ServerId>,
}

pub(super) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

impl<'a> Scene<'a> {
    pub fn new(frame: &'a Frame, all: &'a Gathered, record: &'a Record, expect: &'a Expect) -> Scene<'a> {
        let ids = frame.servers.iter().map(|(id, name)| (name.clone(), *id)).collect();
        let mut scene = Scene {
            frame,
            all,
            record,
            expect,
            stays: BTreeMap::new(),
            rooms: BTreeMap::new(),
            starts: Vec::new(),
            allocations: relays::allocations(all, record),
            proven: BTreeMap::new(),
            ids,
        };
        scene.find_stays();
        scene.find_starts();
        scene.proven = proofs_of_life(&scene);
        scene
    }

    pub fn id(&self, server: &str) -> Option<ServerId> {
        self.ids.get(server).copied()
    }

    pub fn leg_name(&self, leg: LegId) -> String {
        self.all.tracks.name(leg)
    }

    pub fn room_name(&self, room: RoomId) -> String {
        self.frame.rooms.get(&room).cloned().unwrap_or_else(|| room.to_string())
    }

    pub fn room_of(&self, leg: LegId) -> Option<String> {
        self.all.tracks.legs.get(&leg)?.room.map(|r| self.room_name(r))
    }

    /// Stays on a server, by its name; on a TURN server in front of others, allocations.
    pub fn on(&self, server: &str) -> &[Stay] {
        let stays = self.id(server).and_then(|id| self.stays.get(&id));
        stays.or_else(|| self.allocations.get(server)).map_or(&[], Vec::as_slice)
    }

    /// Legs on a server at a time, by our own count.
    pub fn live(&self, server: &str, t: f64) -> Vec<LegId> {
        self.on(server).iter().filter(|s| s.from <= t && s.until > t).map(|s| s.leg).collect()
    }

    /// Until when calls that were up on a server at a time went on with media from it: proof that it lived. Whole seconds
    /// that began `LOOK_MS` later count, because what a look tells may be so much younger than its time.
    pub fn heard_until(&self, server: &str, since: f64) -> Option<f64> {
        let id = self.id(server)?;
        let there = self.stays.get(&id)?.iter().filter(|s| s.from <= since && s.until > since);
        let media = there.map(|s| {
            let end = self.all.tracks.legs.get(&s.leg).and_then(|t| t.end.as_ref());
            end.map_or(s.media_until, |e| e.media_until().min(s.media_until))
        });
        let until = media.reduce(f64::max)?;
        let begin = |s: &super::record::Second| s.t - s.seconds * 1000.0;
        let seconds = self.record.seconds.get(&id)?;
        let inside = |s: &&super::record::Second| s.heard && begin(s) >= since + LOOK_MS && begin(s) < until;
        seconds.iter().rev().find(inside).map(begin)
    }

    /// The last thing that the history tells.
    pub fn end_t(&self) -> f64 {
        self.record.end_t
    }

    fn find_stays(&mut self) {
        for (leg, track) in &self.all.tracks.legs {
            let (Some((joined, server)), Some(room)) = (track.joined, track.room) else { continue };
            let until = track.end.as_ref().map_or(self.record.end_t, |e| e.at.t).max(joined.t);
            let fell = track.end.as_ref().filter(|e| e.cause.is_drop());
            let media_until = fell.map_or(until, |e| e.media_until().clamp(joined.t, until));
            let asked = track.started.map_or(joined.t, |a| a.t).min(joined.t);
            let (moved, line) = ([false; 2], joined.line);
            let mut stay = (server, Stay { leg: *leg, room, from: joined.t, until, media_until, asked, moved, line });
            for m in &track.moves {
                if m.to == stay.0 {
                    continue;
                }
                let at = m.gap.until_ms.clamp(stay.1.from, until);
                // A room that moves does not start again.
                let asked = m.gap.from_ms.clamp(stay.1.from, at);
                let next = Stay { from: at, asked, moved: [true, false], line: m.at.line, ..stay.1.clone() };
                stay.1.moved[1] = true;
                (stay.1.until, stay.1.media_until) = (at, m.gap.from_ms.clamp(stay.1.from, at));
                let (was, done) = std::mem::replace(&mut stay, (m.to, next));
                self.stays.entry(was).or_default().push(done);
            }
            self.stays.entry(stay.0).or_default().push(stay.1);
        }
        for all in self.stays.values_mut() {
            all.sort_by(|a, b| a.from.total_cmp(&b.from).then(a.leg.cmp(&b.leg)));
        }
        for (server, stays) in &self.stays {
            for (n, stay) in stays.iter().enumerate() {
                self.rooms.entry(stay.room).or_default().push((*server, n));
            }
        }
        let stays = &self.stays;
        for all in self.rooms.values_mut() {
            all.sort_by(|a, b| {
                let (a, b) = (&stays[&a.0][a.1], &stays[&b.0][b.1]);
                a.from.total_cmp(&b.from).then(a.leg.cmp(&b.leg))
            });
        }
    }

    /// A room's stays in the order of their beginnings, each with its server.
    pub fn in_room(&self, room: RoomId) -> impl Iterator<Item = (ServerId, &Stay)> {
        self.rooms.get(&room).into_iter().flatten().map(|(server, n)| (*server, &self.stays[server][*n]))
    }

    fn find_starts(&mut self) {
        let linger = ms(self.expect.linger);
        let mut starts = Vec::new();
        for room in self.rooms.keys() {
            let mut lives_until = f64::NEG_INFINITY;
            for (server, stay) in self.in_room(*room) {
                // Who asked while it was there joined a room that was there, wherever it got in.
                if stay.asked > lives_until + linger {
                    let (asked, t) = (stay.asked, stay.from);
                    starts.push(RoomStart { room: *room, server, leg: stay.leg, asked, t, line: stay.line });
                }
                lives_until = lives_until.max(stay.media_until);
            }
        }
        starts.sort_by(|a, b| a.t.total_cmp(&b.t).then(a.room.cmp(&b.room)));
        self.starts = starts;
    }
}
