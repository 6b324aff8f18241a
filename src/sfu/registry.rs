//! Servers, rooms and headroom. Pure: the director feeds it heartbeats, joins and time, and asks where a room goes.

use super::api::{RegistryView, ServerReady, ServerView};
use super::spread::{self, Spread};
use crate::types::{Placement, Sin, UnlikeServer};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A server that has not answered for so long is not offered.
pub const TTL: Duration = Duration::from_secs(2);
/// A room that moves must be on its new server within this, or its entry is forgotten.
const MOVE_TIME: Duration = Duration::from_secs(8);

/// Index of a server; servers are never forgotten.
pub type ServerIndex = usize;

pub struct Registry {
    participants_max: u64,
    /// Of servers that have their own.
    own_max: BTreeMap<String, u64>,
    sin: Option<Sin>,
    placement: Placement,
    servers: Vec<Server>,
    rooms: HashMap<String, Room>,
    /// Rooms under [`Placement::Spread`]; the others are above.
    spread: Spread,
}

struct Server {
    ready: ServerReady,
    /// When a heartbeat that it answered was sent; `None`: its process has ended.
    seen: Option<Instant>,
    cordoned: bool,
    /// It was told to end, and does so when it is empty.
    terminating: bool,
    /// Drained: it takes nobody any more, and ends.
    ending: bool,
    /// As of its last heartbeat.
    participants: u64,
    joins_reported: u64,
    /// What it reports beyond its participants, for want of virtue.
    ghosts: u64,
    /// Its last heartbeat failed, and counts as one without sessions.
    blank: bool,
    /// Joins under way, and those it has taken, all told.
    pending: u64,
    joins: u64,
}

struct Room {
    server: ServerIndex,
    /// Joins under way.
    pending: u32,
    /// Joins so far.
    joins: u32,
    /// Participants, as of its server's last heartbeat and with those who joined since.
    members: u64,
    /// When it last took somebody; of a room that moves, by when it must have.
    settled: Option<Instant>,
    /// Seats kept for it on the server that it moves to, until it has settled there.
    kept: u64,
}

/// What a server said of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heartbeat<'a> {
    pub participants: u64,
    /// Joins it has taken since its start.
    pub joins: u64,
    /// Sessions that it counts and that are over.
    pub ghosts: u64,
    /// It was told to end, by somebody else than us.
    pub draining: bool,
    /// Participants by room.
    pub rooms: Option<&'a BTreeMap<String, u64>>,
}

/// An order that makes no sense for a server as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("has ended")]
    Ended,
    #[error("is ending, which nothing takes back")]
    Ending,
}

impl Registry {
    /// All servers count as seen now.
    pub fn new(participants_max: u64, sin: Option<Sin>, servers: Vec<ServerReady>, now: Instant) -> Registry {
        let mut registry = Registry {
            participants_max,
            own_max: BTreeMap::new(),
            sin,
            placement: Placement::Affinity,
            servers: Vec::new(),
            rooms: HashMap::new(),
            spread: Spread::default(),
        };
        for ready in servers {
            registry.add(ready, now);
        }
        registry
    }

    pub fn with_placement(self, placement: Placement) -> Registry {
        Registry { placement, ..self }
    }

    pub fn with_unlike(self, unlike: &[UnlikeServer]) -> Registry {
        let own = |u: &UnlikeServer| Some((u.id.clone(), u64::from(u.participants_max?)));
        Registry { own_max: unlike.iter().filter_map(own).collect(), ..self }
    }

    /// Participants that a server takes.
    fn max_of(&self, server: &Server) -> u64 {
        self.own_max.get(&server.ready.id).copied().unwrap_or(self.participants_max)
    }

    /// Servers that have to be told which others have their rooms, too.
    pub fn orders(&mut self) -> Vec<spread::Order> {
        let orders = self.spread.orders();
        orders.into_iter().filter(|o| self.servers[o.server].seen.is_some()).collect()
    }

    /// A server that has just started.
    pub fn add(&mut self, ready: ServerReady, now: Instant) -> ServerIndex {
        self.servers.push(Server {
            ready,
            seen: Some(now),
            cordoned: false,
            terminating: false,
            ending: false,
            participants: 0,
            joins_reported: 0,
            ghosts: 0,
            blank: false,
            pending: 0,
            joins: 0,
        });
        self.servers.len() - 1
    }

    pub fn server(&self, server: ServerIndex) -> &ServerReady {
        &self.servers[server].ready
    }

    pub fn find(&self, id: &str) -> Option<ServerIndex> {
        self.servers.iter().position(|s| s.ready.id == id)
    }

    fn running(&mut self, server: ServerIndex) -> Result<&mut Server, Refused> {
        let server = &mut self.servers[server];
        if server.seen.is_some() { Ok(server) } else { Err(Refused::Ended) }
    }

    /// No new rooms from now on. Joins to rooms that are there go on.
    ///
    /// # Errors
    /// When its process has ended.
    pub fn cordon(&mut self, server: ServerIndex) -> Result<(), Refused> {
        self.running(server)?.cordoned = true;
        Ok(())
    }

    /// # Errors
    /// When it was told to end, or has ended.
    pub fn uncordon(&mut self, server: ServerIndex) -> Result<(), Refused> {
        let server = self.running(server)?;
        if server.terminating {
            return Err(Refused::Ending);
        }
        server.cordoned = false;
        Ok(())
    }

    /// It is to end as soon as it is empty; until then it is cordoned. Gives the participants that it has. Asked again,
    /// it changes nothing.
    ///
    /// # Errors
    /// When its process has ended.
    pub fn terminate(&mut self, server: ServerIndex) -> Result<u64, Refused> {
        let server = self.running(server)?;
        (server.cordoned, server.terminating) = (true, true);
        Ok(server.load())
    }

    /// # Errors
    /// When its process has ended.
    pub fn must_run(&mut self, server: ServerIndex) -> Result<(), Refused> {
        self.running(server).map(drop)
    }

    pub fn is_terminating(&self, server: ServerIndex) -> bool {
        self.servers[server].terminating
    }

    /// True once, when a server that is to end has become empty: nobody is sent there from then on.
    pub fn drained(&mut self, server: ServerIndex) -> bool {
        let s = &mut self.servers[server];
        if self.sin == Some(Sin::EndlessDrain) || !s.terminating || s.ending || s.seen.is_none() || s.load() > 0 {
            return false;
        }
        s.ending = true;
        self.spread.died(server);
        self.rooms.retain(|_, room| room.server != server);
        true
    }

    pub fn rooms_of(&self, server: ServerIndex) -> Vec<String> {
        self.rooms.iter().filter(|(_, r)| r.server == server).map(|(name, _)| name.clone()).collect()
    }

    /// A room moves to another server, the one with the most headroom: whoever joins it from now on goes there. `None`:
    /// there is no such room, or no server that has seats for all who are in it. One that takes only some would split it.
    pub fn move_room(&mut self, room: &str, wanted: Option<&str>, now: Instant) -> Option<(ServerIndex, ServerIndex)> {
        let Room { server: from, members, pending, .. } = *self.rooms.get(room)?;
        let seats = members + u64::from(pending);
        let to = self.emptiest(wanted, &[from], seats, now)?;
        let entry = self.rooms.get_mut(room)?;
        (entry.server, entry.pending, entry.settled, entry.kept) = (to, 0, Some(now + MOVE_TIME), seats);
        Some((from, to))
    }

    /// Participants that a server would still take, seats kept for rooms on their way not counted.
    fn headroom(&self, server: ServerIndex, now: Instant) -> i64 {
        let coming = |r: &&Room| r.server == server && r.settled.is_some_and(|by| now < by);
        let kept: u64 = self.rooms.values().filter(coming).map(|r| r.kept).sum();
        self.max_of(&self.servers[server]) as i64 - (self.servers[server].load() + kept) as i64
    }

    /// Whether a join is turned away although its room is there.
    pub fn turns_away(&self, room: &str) -> bool {
        self.sin == Some(Sin::DropLateJoiners)
            && self
                .rooms
                .get(room)
                .is_some_and(|r| self.servers[r.server].cordoned && self.servers[r.server].seen.is_some())
    }

    /// Those that take new rooms.
    fn open(&self, wanted: Option<&str>, tried: &[ServerIndex], now: Instant) -> impl Fn(&ServerIndex) -> bool {
        let sins = self.sin == Some(Sin::PlaceOnCordoned);
        move |i| {
            let s = &self.servers[*i];
            let fits = wanted.is_none_or(|id| s.ready.id == id);
            fits && !tried.contains(i) && (sins || !s.cordoned) && !s.ending && s.answers(now)
        }
    }

    /// Whose turn it is to take somebody of a room that is on all servers; of equals the emptiest.
    fn next_in_turn(
        &self,
        room: &str,
        wanted: Option<&str>,
        tried: &[ServerIndex],
        now: Instant,
    ) -> Option<ServerIndex> {
        let open = self.open(wanted, tried, now);
        (0..self.servers.len()).filter(open).min_by_key(|i| (self.spread.joins(room, *i), self.servers[*i].load()))
    }

    /// Of those that take new rooms, the one with the most headroom; of equals the first. It must have so many seats; for
    /// a room that begins nobody knows how many, and the server has the last word.
    fn emptiest(&self, wanted: Option<&str>, tried: &[ServerIndex], seats: u64, now: Instant) -> Option<ServerIndex> {
        let sins = self.sin == Some(Sin::PlaceOnCordoned);
        let open = self.open(wanted, tried, now);
        let open = |i: &ServerIndex| open(i) && (seats == 0 || self.headroom(*i, now) >= seats as i64);
        let rank = |i: &ServerIndex| {
            let s = &self.servers[*i];
            (sins && s.cordoned, self.headroom(*i, now))
        };
        // max_by_key takes the last of equals.
        (0..self.servers.len()).rev().filter(open).max_by_key(rank)
    }

    /// Where a participant of this room goes: the room's server, or for a new room the one with the most headroom
    /// among those not in `tried`. Counts the join as under way until [`Registry::settle`]. `None`: nobody left to ask.
    ///
    /// Headroom here is what we know, at most a heartbeat old; the server itself has the last word.
    /// A new room may be wanted on one server and no other.
    pub fn place(
        &mut self,
        room: &str,
        wanted: Option<&str>,
        tried: &[ServerIndex],
        now: Instant,
    ) -> Option<ServerIndex> {
        if self.placement == Placement::Spread {
            let server = self.next_in_turn(room, wanted, tried, now)?;
            self.spread.place(room, server);
            self.servers[server].pending += 1;
            return Some(server);
        }
        let known = self.rooms.get(room).map(|r| r.server).filter(|s| self.servers[*s].answers(now));
        let server = match known {
            Some(server) if tried.contains(&server) => return None,
            Some(server) => server,
            None => self.emptiest(wanted, tried, 0, now)?,
        };
        let fresh = || Room { server, pending: 0, joins: 0, members: 0, settled: None, kept: 0 };
        let entry = self.rooms.entry(room.to_owned()).or_insert_with(fresh);
        if entry.server != server {
            *entry = fresh();
        }
        entry.joins += 1;
        if self.sin == Some(Sin::SplitRoom)
            && entry.joins.is_multiple_of(2)
            && !self.servers[server].cordoned
            && let Some(other) = self.emptiest(None, &[server], 0, now)
        {
            self.servers[other].pending += 1;
            return Some(other);
        }
        if let Some(entry) = self.rooms.get_mut(room) {
            entry.pending += 1;
        }
        self.servers[server].pending += 1;
        Some(server)
    }

    /// A join that [`Registry::place`] counted is over.
    pub fn settle(&mut self, room: &str, server: ServerIndex, joined: bool, now: Instant) {
        let s = &mut self.servers[server];
        s.pending = s.pending.saturating_sub(1);
        s.joins += u64::from(joined);
        self.spread.settle(room, server, joined, now);
        // The room may have moved on if its server died meanwhile.
        let Some(entry) = self.rooms.get_mut(room).filter(|r| r.server == server) else { return };
        entry.pending = entry.pending.saturating_sub(1);
        if joined {
            entry.settled = entry.settled.map_or(Some(now), |by| Some(by.max(now)));
            entry.members += 1;
        } else if entry.pending == 0 && entry.settled.is_none() {
            // Refused its first: the room never came to be.
            self.rooms.remove(room);
        }
    }

    /// A server answered a heartbeat that was sent at `sent`.
    pub fn heartbeat(&mut self, server: ServerIndex, sent: Instant, said: Heartbeat<'_>) {
        let s = &mut self.servers[server];
        s.seen = s.seen.map(|seen| seen.max(sent));
        (s.participants, s.joins_reported, s.ghosts, s.blank) = (said.participants, said.joins, said.ghosts, false);
        if said.draining && s.seen.is_some() {
            (s.cordoned, s.terminating) = (true, true);
        }
        for (name, members) in said.rooms.into_iter().flatten() {
            let here = |r: &&mut Room| r.server == server && r.pending == 0 && r.settled.is_none_or(|at| at < sent);
            if let Some(room) = self.rooms.get_mut(name).filter(here) {
                (room.members, room.kept) = (*members, 0);
            }
        }
        self.spread.heartbeat(server, sent, &|room| said.rooms.is_some_and(|there| there.contains_key(room)));
        // A room is over when its server says so, unless somebody is just joining it.
        self.rooms.retain(|name, room| {
            room.server != server
                || room.pending > 0
                || room.settled.is_some_and(|at| at >= sent)
                || said.rooms.is_some_and(|there| there.contains_key(name))
        });
    }

    /// A server answered a heartbeat with an error. One that sins takes that for good news.
    pub fn heartbeat_failed(&mut self, server: ServerIndex, sent: Instant) {
        if self.sin == Some(Sin::ZeroSessions) {
            let s = &mut self.servers[server];
            s.seen = s.seen.map(|seen| seen.max(sent));
            s.blank = true;
        }
    }

    /// Its process has ended: its rooms are gone, and placed anew with their next join.
    pub fn died(&mut self, server: ServerIndex) {
        let s = &mut self.servers[server];
        s.seen = None;
        (s.participants, s.ghosts) = (0, 0);
        s.joins_reported = s.joins;
        self.spread.died(server);
        self.rooms.retain(|_, room| room.server != server);
    }

    pub fn has_died(&self, server: ServerIndex) -> bool {
        self.servers[server].seen.is_none()
    }

    pub fn view(&self, now: Instant) -> RegistryView {
        let view = |s: &Server| {
            let answers = s.answers(now);
            let seen = |count: u64| if s.blank { 0 } else { count + s.ghosts };
            let participants_max = self.max_of(s);
            let headroom = participants_max as i64 - s.load() as i64;
            ServerView {
                id: s.ready.id.clone(),
                pid: s.ready.pid,
                http: s.ready.http.clone(),
                media: s.ready.media,
                alive: s.seen.is_some(),
                listed: answers || self.sin == Some(Sin::StaleRegistry),
                cordoned: s.cordoned,
                terminating: s.terminating,
                sessions: seen(s.participants),
                participants: seen(s.load()),
                participants_max,
                headroom: if answers { headroom } else { 0 },
                rooms: 0,
            }
        };
        let mut servers: Vec<ServerView> = self.servers.iter().map(view).collect();
        let mut rooms = BTreeMap::new();
        for (name, room) in &self.rooms {
            servers[room.server].rooms += 1;
            rooms.insert(name.clone(), servers[room.server].id.clone());
        }
        for (name, on) in self.spread.rooms() {
            for (i, server) in on.enumerate() {
                servers[server].rooms += 1;
                if i == 0 {
                    rooms.insert(name.to_owned(), servers[server].id.clone());
                }
            }
        }
        let headroom = servers.iter().filter(|s| !s.cordoned).map(|s| s.headroom).sum();
        RegistryView { servers, rooms, headroom }
    }
}

impl Server {
    fn answers(&self, now: Instant) -> bool {
        self.seen.is_some_and(|seen| now <= seen + TTL)
    }

    /// Participants as far as we know: at the last heartbeat, and the joins that were not in it yet.
    fn load(&self) -> u64 {
        self.participants + (self.joins + self.pending).saturating_sub(self.joins_reported)
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
