//! Rooms that are on several servers at once: which of them a participant goes to, and which servers have to be told of
//! each other. Pure, as the registry is.

use super::registry::ServerIndex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

#[derive(Default)]
pub struct Spread {
    rooms: BTreeMap<String, BTreeMap<ServerIndex, Part>>,
    /// Rooms whose servers have changed since they were told, with those that have it no more.
    changed: BTreeMap<String, BTreeSet<ServerIndex>>,
    version: u64,
}

/// What one server has of a room.
#[derive(Default)]
struct Part {
    /// Joins so far, and those under way.
    joins: u32,
    pending: u32,
    /// When it last took somebody.
    settled: Option<Instant>,
}

/// A server is to be told on which others a room is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    pub room: String,
    pub server: ServerIndex,
    pub version: u64,
    pub with: Vec<ServerIndex>,
}

impl Spread {
    /// How many of a room's participants were sent to a server.
    pub fn joins(&self, room: &str, server: ServerIndex) -> u32 {
        self.rooms.get(room).and_then(|parts| parts.get(&server)).map_or(0, |p| p.joins)
    }

    pub fn place(&mut self, room: &str, server: ServerIndex) {
        let parts = self.rooms.entry(room.to_owned()).or_default();
        if !parts.contains_key(&server) {
            self.changed.entry(room.to_owned()).or_default().remove(&server);
        }
        let part = parts.entry(server).or_default();
        (part.joins, part.pending) = (part.joins + 1, part.pending + 1);
    }

    /// A join that was placed is over.
    pub fn settle(&mut self, room: &str, server: ServerIndex, joined: bool, now: Instant) {
        let Some(part) = self.rooms.get_mut(room).and_then(|parts| parts.get_mut(&server)) else { return };
        part.pending = part.pending.saturating_sub(1);
        match joined {
            true => part.settled = Some(now),
            // Not its turn, after all.
            false => part.joins = part.joins.saturating_sub(1),
        }
        if !joined && part.pending == 0 && part.settled.is_none() {
            self.leave(room, server);
        }
    }

    /// A server has said, when asked at `sent`, that these are its rooms.
    pub fn heartbeat(&mut self, server: ServerIndex, sent: Instant, there: &dyn Fn(&str) -> bool) {
        let over = |part: &Part| part.pending == 0 && part.settled.is_none_or(|at| at < sent);
        let gone: Vec<String> = self
            .rooms
            .iter()
            .filter(|(room, parts)| parts.get(&server).is_some_and(over) && !there(room))
            .map(|(room, _)| room.clone())
            .collect();
        gone.iter().for_each(|room| self.leave(room, server));
    }

    pub fn died(&mut self, server: ServerIndex) {
        let rooms: Vec<String> =
            self.rooms.iter().filter(|(_, parts)| parts.contains_key(&server)).map(|(room, _)| room.clone()).collect();
        rooms.iter().for_each(|room| self.leave(room, server));
    }

    fn leave(&mut self, room: &str, server: ServerIndex) {
        let Some(parts) = self.rooms.get_mut(room) else { return };
        if parts.remove(&server).is_some() {
            self.changed.entry(room.to_owned()).or_default().insert(server);
        }
        if parts.is_empty() {
            self.rooms.remove(room);
        }
    }

    /// Each room with its servers.
    pub fn rooms(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = ServerIndex>)> {
        self.rooms.iter().map(|(room, parts)| (room.as_str(), parts.keys().copied()))
    }

    /// What servers have to be told since the last time. A room that was on one server and is on one is nobody's news.
    pub fn orders(&mut self) -> Vec<Order> {
        let mut out = Vec::new();
        for (room, gone) in std::mem::take(&mut self.changed) {
            let on: Vec<ServerIndex> = self.rooms.get(&room).map(|p| p.keys().copied().collect()).unwrap_or_default();
            if on.len() < 2 && gone.is_empty() {
                continue;
            }
            self.version += 1;
            let order = |server: ServerIndex, with: Vec<ServerIndex>| Order {
                room: room.clone(),
                server,
                version: self.version,
                with,
            };
            for server in &on {
                out.push(order(*server, on.iter().copied().filter(|s| s != server).collect()));
            }
            out.extend(gone.iter().filter(|s| !on.contains(s)).map(|s| order(*s, Vec::new())));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn told(orders: &[Order]) -> Vec<(ServerIndex, &[ServerIndex])> {
        orders.iter().map(|o| (o.server, o.with.as_slice())).collect()
    }

    #[test]
    fn servers_are_told_of_each_other_once() {
        let mut s = Spread::default();
        s.place("a", 0);
        assert_eq!(s.orders(), [], "it is alone");
        s.place("a", 1);
        let orders = s.orders();
        assert_eq!(told(&orders), [(0, &[1][..]), (1, &[0][..])]);
        s.place("a", 0);
        assert_eq!(s.orders(), [], "nothing new");
        s.place("a", 2);
        let later = s.orders();
        assert_eq!(told(&later), [(0, &[1, 2][..]), (1, &[0, 2][..]), (2, &[0, 1][..])]);
        assert!(later[0].version > orders[0].version);
        assert_eq!([0, 1, 2, 3].map(|i| s.joins("a", i)), [2, 1, 1, 0]);
    }

    #[test]
    fn a_server_that_has_a_room_no_more_is_left_out() {
        let now = Instant::now();
        let mut s = Spread::default();
        for server in [0, 1, 0] {
            s.place("a", server);
            s.settle("a", server, true, now);
        }
        s.orders();
        s.heartbeat(1, now, &|_| false);
        assert_eq!(s.orders(), [], "it has taken somebody just now");
        s.heartbeat(1, now + Duration::from_millis(1), &|_| false);
        assert_eq!(told(&s.orders()), [(0, &[][..]), (1, &[][..])]);
        s.heartbeat(0, now + Duration::from_secs(1), &|room| room == "a");
        assert_eq!(s.rooms().count(), 1);
        s.died(0);
        assert_eq!((s.rooms().count(), told(&s.orders())), (0, vec![(0, &[][..])]));
    }

    #[test]
    fn a_refused_join_leaves_nothing() {
        let now = Instant::now();
        let mut s = Spread::default();
        s.place("a", 0);
        s.settle("a", 0, true, now);
        s.place("a", 1);
        s.orders();
        s.settle("a", 1, false, now);
        assert_eq!(s.joins("a", 1), 0);
        assert_eq!(told(&s.orders()), [(0, &[][..]), (1, &[][..])]);
        // Whoever is on his way holds his place.
        s.place("a", 1);
        s.heartbeat(1, now + Duration::from_secs(9), &|_| false);
        assert_eq!(s.joins("a", 1), 1);
    }
}
