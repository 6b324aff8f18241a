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
mod tests {
    use super::*;

    fn registry(servers: usize, participants_max: u64, now: Instant) -> Registry {
        let ready = |i| ServerReady {
            id: format!("s{}", i + 1),
            pid: i as u32,
            http: String::new(),
            media: "127.0.0.1:1".parse().unwrap(),
            cascade: "127.0.0.1:2".parse().unwrap(),
        };
        Registry::new(participants_max, None, (0..servers).map(ready).collect(), now)
    }

    #[test]
    fn a_server_may_have_a_limit_of_its_own() {
        let now = Instant::now();
        let unlike = UnlikeServer { id: "s1".into(), participants_max: Some(2), cpu_max: None };
        let mut r = registry(2, 10, now).with_unlike(&[unlike]);
        let view = r.view(now);
        assert_eq!(view.servers.iter().map(|s| s.participants_max).collect::<Vec<_>>(), [2, 10]);
        assert_eq!((view.servers[0].headroom, view.headroom), (2, 12));
        // Nine rooms of one are on s2 before there is more room on s1.
        for n in 0..9 {
            let to = r.place(&format!("r{n}"), None, &[], now).unwrap();
            assert_eq!(to, if n == 8 { 0 } else { 1 }, "{n}");
            r.settle(&format!("r{n}"), to, true, now);
        }
    }

    fn said(participants: u64, joins: u64, rooms: Option<&BTreeMap<String, u64>>) -> Heartbeat<'_> {
        Heartbeat { participants, joins, rooms, ..Heartbeat::default() }
    }

    fn one(room: &str) -> BTreeMap<String, u64> {
        [(room.to_owned(), 1)].into()
    }

    fn join(r: &mut Registry, room: &str, now: Instant) -> Option<ServerIndex> {
        let server = r.place(room, None, &[], now)?;
        r.settle(room, server, true, now);
        Some(server)
    }

    #[test]
    fn a_room_stays_together_and_rooms_spread() {
        let now = Instant::now();
        let mut r = registry(3, 10, now);
        let servers: Vec<_> = ["a", "b", "c"].map(|room| join(&mut r, room, now).unwrap()).into();
        assert_eq!(servers, [0, 1, 2]);
        for _ in 0..5 {
            assert_eq!(join(&mut r, "b", now), Some(1));
        }
        assert_eq!(join(&mut r, "d", now), Some(0));
        let view = r.view(now);
        assert_eq!(view.headroom, 30 - 9);
        assert_eq!(view.rooms["b"], "s2");
        assert_eq!(view.servers[1].participants, 6);
        assert_eq!(view.servers[0].rooms, 2);
    }

    #[test]
    fn joins_under_way_count() {
        let now = Instant::now();
        let mut r = registry(2, 2, now);
        assert_eq!(r.place("a", None, &[], now), Some(0));
        assert_eq!(r.place("b", None, &[], now), Some(1));
        assert_eq!(r.place("a", None, &[], now), Some(0));
        assert_eq!(r.place("c", None, &[], now), Some(1), "s1 has two on their way");
        r.settle("c", 1, false, now);
        assert_eq!(r.place("c", None, &[1], now), Some(0), "refused there, so the other one is asked");
        r.settle("c", 0, false, now);
        assert_eq!(r.place("c", None, &[0, 1], now), None);
        assert_eq!(r.place("d", Some("s2"), &[], now), Some(1));
        assert_eq!((r.place("e", Some("s2"), &[1], now), r.place("e", Some("s9"), &[], now)), (None, None));
    }

    #[test]
    fn a_heartbeat_ends_rooms_but_not_those_being_joined() {
        let start = Instant::now();
        let mut r = registry(1, 10, start);
        join(&mut r, "old", start);
        let sent = start + Duration::from_millis(500);
        join(&mut r, "new", sent + Duration::from_millis(1));
        r.place("joining", None, &[], sent).unwrap();
        r.heartbeat(0, sent, said(0, 1, None));
        let rooms: Vec<_> = r.view(sent).rooms.into_keys().collect();
        assert_eq!(rooms, ["joining", "new"]);
        assert_eq!(r.view(sent).servers[0].participants, 2);
        r.settle("joining", 0, true, sent);
        r.heartbeat(0, sent + TTL, said(1, 3, Some(&one("new"))));
        assert_eq!(r.view(sent).servers[0].participants, 1);
        assert_eq!(r.view(sent).rooms.into_keys().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn the_dead_and_the_silent_get_nothing() {
        let start = Instant::now();
        let mut r = registry(2, 10, start);
        assert_eq!(join(&mut r, "a", start), Some(0));
        r.died(0);
        assert!(!r.view(start).servers[0].alive);
        assert_eq!(join(&mut r, "a", start), Some(1), "placed anew");
        r.heartbeat(0, start, said(5, 5, None));
        assert!(!r.view(start).servers[0].alive, "a late answer does not wake the dead");

        let later = start + TTL + Duration::from_millis(1);
        assert!(r.view(later).servers[1].alive && !r.view(later).servers[1].listed, "it runs, and does not answer");
        assert_eq!(join(&mut r, "b", later), None);
        r.heartbeat(1, later, said(1, 1, Some(&one("a"))));
        assert_eq!(join(&mut r, "b", later), Some(1));
        assert_eq!(r.view(later).headroom, 8);
    }

    #[test]
    fn a_cordoned_server_keeps_its_rooms_and_gets_no_new_ones() {
        let now = Instant::now();
        let mut r = registry(2, 10, now);
        assert_eq!(join(&mut r, "a", now), Some(0));
        assert_eq!(join(&mut r, "b", now), Some(1));
        r.cordon(0).unwrap();
        assert!(r.view(now).servers[0].cordoned);
        assert_eq!(join(&mut r, "a", now), Some(0), "a late joiner sticks");
        for room in ["c", "d", "e"] {
            assert_eq!(join(&mut r, room, now), Some(1), "though the other is emptier");
        }
        assert_eq!(r.place("f", Some("s1"), &[], now), None, "not even where it is wanted");
        assert_eq!(r.view(now).headroom, 10 - 4);
        r.uncordon(0).unwrap();
        assert_eq!(join(&mut r, "f", now), Some(0));
        r.cordon(0).unwrap();
        r.cordon(1).unwrap();
        assert_eq!(join(&mut r, "g", now), None, "all are cordoned");
        assert_eq!(join(&mut r, "b", now), Some(1));
    }

    #[test]
    fn a_terminated_server_ends_when_its_last_is_gone() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut r = registry(2, 10, start);
        join(&mut r, "a", start);
        assert!(!r.drained(0), "nobody told it to end");
        assert_eq!(r.terminate(0), Ok(1));
        assert_eq!(r.terminate(0), Ok(1), "twice is once");
        assert!(r.view(start).servers[0].cordoned && r.view(start).servers[0].terminating);
        assert_eq!(r.uncordon(0), Err(Refused::Ending));
        assert!(!r.drained(0));
        // Its last heartbeat was empty, but somebody is on his way.
        r.heartbeat(0, at(100), said(0, 1, Some(&one("a"))));
        assert_eq!(r.place("a", None, &[], at(110)), Some(0));
        assert!(!r.drained(0), "a late joiner holds it");
        r.settle("a", 0, true, at(120));
        assert!(!r.drained(0));
        r.heartbeat(0, at(200), said(0, 2, None));
        assert!(r.drained(0));
        assert!(!r.drained(0), "said once");
        assert_eq!(join(&mut r, "a", at(210)), Some(1), "the room begins anew elsewhere");
        r.died(0);
        let view = r.view(at(300));
        assert!(!view.servers[0].alive && !view.servers[0].listed);
        assert_eq!(
            (r.cordon(0), r.terminate(0), r.uncordon(0)),
            (Err(Refused::Ended), Err(Refused::Ended), Err(Refused::Ended))
        );
    }

    #[test]
    fn a_server_that_drains_by_itself_is_cordoned() {
        let now = Instant::now();
        let mut r = registry(2, 10, now);
        r.heartbeat(0, now, Heartbeat { draining: true, participants: 1, ..Heartbeat::default() });
        assert!(r.view(now).servers[0].cordoned && r.is_terminating(0));
        assert_eq!(join(&mut r, "a", now), Some(1));
    }

    #[test]
    fn a_room_moves_with_whoever_comes_next() {
        let now = Instant::now();
        let mut r = registry(3, 10, now);
        for room in ["a", "b", "b"] {
            join(&mut r, room, now);
        }
        r.terminate(0).unwrap();
        assert_eq!(r.rooms_of(0), ["a"]);
        assert_eq!(r.move_room("a", None, now), Some((0, 2)), "to the emptiest");
        // The new server has not heard of it yet.
        r.heartbeat(2, now, said(0, 0, None));
        assert_eq!(join(&mut r, "a", now), Some(2));
        assert_eq!(r.move_room("a", Some("s2"), now), Some((2, 1)));
        assert_eq!(r.move_room("z", None, now), None);
        assert_eq!(r.move_room("b", Some("s1"), now), None, "it is to end");
    }

    #[test]
    fn a_room_moves_only_where_all_of_it_fits() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut r = registry(3, 5, now);
        // s1 has a room of three and one of one, s2 two free seats, s3 three.
        let rooms =
            |names: &[(&str, u64)]| names.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect::<BTreeMap<_, _>>();
        for room in ["a", "b", "c"] {
            join(&mut r, room, now);
        }
        r.place("d", Some("s1"), &[], now);
        r.settle("d", 0, true, now);
        let all = [rooms(&[("a", 3), ("d", 1)]), rooms(&[("b", 3)]), rooms(&[("c", 2)])];
        let beat = |r: &mut Registry, s| {
            for (n, there) in all.iter().enumerate() {
                r.heartbeat(n, at(s), said(there.values().sum(), 2 - u64::from(n > 0), Some(there)));
            }
        };
        beat(&mut r, 1);
        r.terminate(0).unwrap();
        assert_eq!(r.move_room("a", Some("s2"), at(1)), None, "one would stay behind");
        assert_eq!(r.move_room("a", None, at(1)), Some((0, 2)));
        // Its seats are taken though nobody is there yet.
        assert_eq!(r.move_room("d", None, at(1)), Some((0, 1)));
        assert_eq!(r.place("e", None, &[], at(1)), Some(1), "one seat is left there, and none on s3");
        r.settle("e", 1, true, at(1));
        assert_eq!(join(&mut r, "a", at(1)), Some(2), "a late joiner goes with it");
        // A fleet that is full keeps the room where it is, and its late joiners with it.
        let mut r = registry(2, 5, now);
        let all = [rooms(&[("a", 3)]), rooms(&[("b", 4)])];
        for (n, room) in ["a", "b"].into_iter().enumerate() {
            join(&mut r, room, now);
            r.heartbeat(n, at(1), said(all[n][room], 1, Some(&all[n])));
        }
        r.terminate(0).unwrap();
        assert_eq!(r.move_room("a", None, at(1)), None);
        assert_eq!(join(&mut r, "a", at(1)), Some(0));
    }

    #[test]
    fn a_started_server_takes_rooms() {
        let now = Instant::now();
        let mut r = registry(1, 10, now);
        join(&mut r, "a", now);
        let ready = ServerReady { id: "s2".into(), ..r.server(0).clone() };
        assert_eq!(r.add(ready, now), 1);
        assert_eq!((r.find("s2"), r.find("s3")), (Some(1), None));
        assert_eq!(join(&mut r, "b", now), Some(1));
    }

    #[test]
    fn a_spread_room_goes_round_and_a_full_server_is_passed_over() {
        let now = Instant::now();
        let mut r = registry(3, 10, now).with_placement(Placement::Spread);
        let go = |r: &mut Registry, room: &str, n: usize| -> Vec<ServerIndex> {
            (0..n).map(|_| join(r, room, now).unwrap()).collect()
        };
        assert_eq!(go(&mut r, "a", 4), [0, 1, 2, 0]);
        assert_eq!(go(&mut r, "b", 3), [1, 2, 0], "the emptiest first");
        // However joins of rooms come, each is on all servers.
        for _ in 0..2 {
            go(&mut r, "c", 1);
            go(&mut r, "d", 1);
        }
        let view = r.view(now);
        assert_eq!(view.servers.iter().map(|s| s.participants).collect::<Vec<_>>(), [4, 4, 3]);
        assert_eq!((view.rooms["a"].as_str(), view.servers[0].rooms), ("s1", 3));
        assert_eq!(r.orders().len(), 3 + 3 + 2 + 2);
        assert_eq!(r.place("a", None, &[1], now), Some(2), "s2 has refused it");
        r.settle("a", 2, false, now);
        r.cordon(1).unwrap();
        assert_eq!(go(&mut r, "e", 2), [2, 0]);
    }

    fn sinner(sin: Sin, now: Instant) -> Registry {
        Registry { sin: Some(sin), ..registry(2, 10, now) }
    }

    #[test]
    fn each_sin_of_the_registry_is_committed() {
        let now = Instant::now();
        let mut r = sinner(Sin::PlaceOnCordoned, now);
        r.cordon(1).unwrap();
        assert_eq!(join(&mut r, "a", now), Some(1));

        let mut r = sinner(Sin::DropLateJoiners, now);
        join(&mut r, "a", now);
        assert!(!r.turns_away("a"));
        r.cordon(0).unwrap();
        assert!(r.turns_away("a") && !r.turns_away("b"));

        let mut r = sinner(Sin::SplitRoom, now);
        assert_eq!([0; 4].map(|_| join(&mut r, "a", now)), [Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(r.view(now).rooms["a"], "s1", "and it does not know");

        let mut r = sinner(Sin::StaleRegistry, now);
        r.died(0);
        let view = r.view(now);
        assert!(view.servers[0].listed && !view.servers[0].alive);

        let mut r = sinner(Sin::EndlessDrain, now);
        r.terminate(0).unwrap();
        assert!(!r.drained(0));

        let mut r = sinner(Sin::ZeroSessions, now);
        join(&mut r, "a", now);
        r.heartbeat(0, now, said(1, 1, Some(&one("a"))));
        assert_eq!(r.view(now).servers[0].sessions, 1);
        r.heartbeat_failed(0, now + TTL);
        let server = &r.view(now + TTL).servers[0];
        assert_eq!((server.listed, server.sessions, server.participants), (true, 0, 0));
        r.terminate(0).unwrap();
        assert!(!r.drained(0), "it lies, and knows better");
        let mut honest = registry(1, 10, now);
        honest.heartbeat_failed(0, now + TTL);
        assert!(!honest.view(now + TTL * 2).servers[0].listed, "a failure is no news");
    }
}
