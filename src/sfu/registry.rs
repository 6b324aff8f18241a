//! Servers, rooms and headroom. Pure: the director feeds it heartbeats, joins and time, and asks where a room goes.

use super::api::{RegistryView, ServerReady, ServerView};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A server that has not answered for so long is not alive.
pub const TTL: Duration = Duration::from_secs(2);

/// Index of a server; servers are never forgotten.
pub type ServerIndex = usize;

pub struct Registry {
    participants_max: u64,
    servers: Vec<Server>,
    rooms: HashMap<String, Room>,
}

struct Server {
    ready: ServerReady,
    /// When a heartbeat that it answered was sent; `None`: its process has ended.
    seen: Option<Instant>,
    cordoned: bool,
    /// As of its last heartbeat.
    participants: u64,
    joins_reported: u64,
    /// Joins under way, and those it has taken, all told.
    pending: u64,
    joins: u64,
}

struct Room {
    server: ServerIndex,
    /// Joins under way.
    pending: u32,
    /// When it last took somebody.
    settled: Option<Instant>,
}

impl Registry {
    /// All servers count as seen now.
    pub fn new(participants_max: u64, servers: Vec<ServerReady>, now: Instant) -> Registry {
        let server = |ready| Server {
            ready,
            seen: Some(now),
            cordoned: false,
            participants: 0,
            joins_reported: 0,
            pending: 0,
            joins: 0,
        };
        Registry { participants_max, servers: servers.into_iter().map(server).collect(), rooms: HashMap::new() }
    }

    pub fn server(&self, server: ServerIndex) -> &ServerReady {
        &self.servers[server].ready
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
        let known = self.rooms.get(room).map(|r| r.server).filter(|s| self.servers[*s].is_alive(now));
        let server = match known {
            Some(server) if tried.contains(&server) => return None,
            Some(server) => server,
            None => {
                let open = |i: &ServerIndex| {
                    let fits = wanted.is_none_or(|id| self.servers[*i].ready.id == id);
                    fits && !tried.contains(i) && !self.servers[*i].cordoned && self.servers[*i].is_alive(now)
                };
                // Of equals the first: max_by_key takes the last.
                (0..self.servers.len())
                    .rev()
                    .filter(open)
                    .max_by_key(|i| self.participants_max as i64 - self.servers[*i].load() as i64)?
            }
        };
        let entry = self.rooms.entry(room.to_owned()).or_insert(Room { server, pending: 0, settled: None });
        if entry.server != server {
            *entry = Room { server, pending: 0, settled: None };
        }
        entry.pending += 1;
        self.servers[server].pending += 1;
        Some(server)
    }

    /// A join that [`Registry::place`] counted is over.
    pub fn settle(&mut self, room: &str, server: ServerIndex, joined: bool, now: Instant) {
        let s = &mut self.servers[server];
        s.pending = s.pending.saturating_sub(1);
        s.joins += u64::from(joined);
        // The room may have moved on if its server died meanwhile.
        let Some(entry) = self.rooms.get_mut(room).filter(|r| r.server == server) else { return };
        entry.pending = entry.pending.saturating_sub(1);
        if joined {
            entry.settled = Some(now);
        } else if entry.pending == 0 && entry.settled.is_none() {
            // Refused its first: the room never came to be.
            self.rooms.remove(room);
        }
    }

    /// A server answered a heartbeat sent at `sent` with its participants now, the joins it has taken since its start,
    /// and its rooms.
    pub fn heartbeat(&mut self, server: ServerIndex, sent: Instant, participants: u64, joins: u64, rooms: &[String]) {
        let s = &mut self.servers[server];
        s.seen = s.seen.map(|seen| seen.max(sent));
        s.participants = participants;
        s.joins_reported = joins;
        let there: std::collections::HashSet<&str> = rooms.iter().map(String::as_str).collect();
        // A room is over when its server says so, unless somebody is just joining it.
        self.rooms.retain(|name, room| {
            room.server != server
                || room.pending > 0
                || room.settled.is_some_and(|at| at >= sent)
                || there.contains(name.as_str())
        });
    }

    /// Its process has ended: its rooms are gone, and placed anew with their next join.
    pub fn died(&mut self, server: ServerIndex) {
        let s = &mut self.servers[server];
        s.seen = None;
        s.participants = 0;
        s.joins_reported = s.joins;
        self.rooms.retain(|_, room| room.server != server);
    }

    pub fn has_died(&self, server: ServerIndex) -> bool {
        self.servers[server].seen.is_none()
    }

    pub fn view(&self, now: Instant) -> RegistryView {
        let view = |s: &Server| {
            let alive = s.is_alive(now);
            ServerView {
                id: s.ready.id.clone(),
                pid: s.ready.pid,
                http: s.ready.http.clone(),
                media: s.ready.media,
                alive,
                cordoned: s.cordoned,
                participants: s.load(),
                participants_max: self.participants_max,
                headroom: if alive { self.participants_max.saturating_sub(s.load()) } else { 0 },
                rooms: 0,
            }
        };
        let mut servers: Vec<ServerView> = self.servers.iter().map(view).collect();
        let mut rooms = BTreeMap::new();
        for (name, room) in &self.rooms {
            servers[room.server].rooms += 1;
            rooms.insert(name.clone(), servers[room.server].id.clone());
        }
        let headroom = servers.iter().filter(|s| !s.cordoned).map(|s| s.headroom).sum();
        RegistryView { servers, rooms, headroom }
    }
}

impl Server {
    fn is_alive(&self, now: Instant) -> bool {
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
        };
        Registry::new(participants_max, (0..servers).map(ready).collect(), now)
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
        r.heartbeat(0, sent, 0, 1, &[]);
        let rooms: Vec<_> = r.view(sent).rooms.into_keys().collect();
        assert_eq!(rooms, ["joining", "new"]);
        assert_eq!(r.view(sent).servers[0].participants, 2);
        r.settle("joining", 0, true, sent);
        r.heartbeat(0, sent + TTL, 1, 3, &["new".into()]);
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
        r.heartbeat(0, start, 5, 5, &[]);
        assert!(!r.view(start).servers[0].alive, "a late answer does not wake the dead");

        let later = start + TTL + Duration::from_millis(1);
        assert!(!r.view(later).servers[1].alive);
        assert_eq!(join(&mut r, "b", later), None);
        r.heartbeat(1, later, 1, 1, &["a".into()]);
        assert_eq!(join(&mut r, "b", later), Some(1));
        assert_eq!(r.view(later).headroom, 8);
    }
}
