//! Who reaches the target through a TURN server, and through which one.

use super::PlannedRoom;
use super::build::{Purpose, stream};
use crate::profile::Profile;
use rand::RngExt as _;

/// How a relayed participant goes about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relay {
    /// Ways to TURN servers, by their place in the run's list: the first is drawn by weight, the others follow where it
    /// fails.
    pub order: Vec<u16>,
    pub wrong_password: bool,
}

/// Whether and how a participant on this seat is relayed, `n` telling it from the others that come to it. A seat stays
/// what it is from one participant to the next. `ways`: id and weight of each.
pub fn relay(profile: &Profile, room: &PlannedRoom, seat: u32, n: u64, ways: &[(&str, f64)]) -> Option<Relay> {
    if !is_relayed(profile, room, seat) {
        return None;
    }
    let mut rng = stream(profile.seed, Purpose::Turn, &room.name, u64::from(seat) | n << 32);
    let wrong_password = rng.random_bool(profile.ice.wrong_password.clamp(0.0, 1.0));
    // A room that belongs on one server, where that is the TURN server, goes nowhere else.
    let pinned = room.server.as_deref().filter(|_| profile.pairs().is_some());
    let is_open = |i: &u16| pinned.is_none_or(|server| ways[usize::from(*i)].0 == server);
    let mut left: Vec<u16> = (0..ways.len() as u16).filter(is_open).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let sum: f64 = left.iter().map(|i| ways[usize::from(*i)].1).sum();
        let mut drawn = rng.random::<f64>() * sum;
        // Those without weight come last, as they stand.
        let at = left.iter().position(|i| {
            drawn -= ways[usize::from(*i)].1;
            drawn < 0.0
        });
        order.push(left.remove(at.unwrap_or(0)));
    }
    Some(Relay { order, wrong_password })
}

/// Seats of a room are relayed evenly: of any run of them, the share, rounded; where that begins is drawn for each room.
/// Driver turn connects pairs by the first one's allocation, or by both's.
pub fn is_relayed(profile: &Profile, room: &PlannedRoom, seat: u32) -> bool {
    if let Some(t) = profile.pairs() {
        return seat == 0 || t.peer_relayed;
    }
    let share = profile.ice.relay;
    let phase: f64 = stream(profile.seed, Purpose::Relay, &room.name, 0).random();
    let upto = |n: u32| (f64::from(n) * share + phase).floor();
    upto(seat + 1) > upto(seat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use crate::profile::parse_resolved;

    fn profile(relay: &str) -> Profile {
        let text = format!(
            "shape = \"steady\"\ntarget = \"embedded\"\nseed = 5\n[ice]\nrelay = {relay}\nwrong_password = \"25%\"\n\
             [[rooms]]\nname = \"m\"\ncount = 250\nsize = 4\naudio = \"opus@32kbit/s\"\n\
             [load]\njoin = \"100/s\"\nhold = \"10s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n"
        );
        parse_resolved(&text).unwrap()
    }

    /// Of a thousand seats as many as the share says, in every room as near to it as whole people allow.
    #[test]
    fn the_share_of_the_seats_is_relayed() {
        for (text, share) in [("\"none\"", 0.0), ("0.3", 0.3), ("\"50%\"", 0.5), ("\"only\"", 1.0)] {
            let p = profile(text);
            let rooms = plan(&p).rooms;
            let of_room = |r: &PlannedRoom| (0..4).filter(|s| is_relayed(&p, r, *s)).count() as f64;
            let all: f64 = rooms.iter().map(of_room).sum();
            assert!((all - 1000.0 * share).abs() < 40.0, "{text}: {all}");
            assert!(rooms.iter().all(|r| (of_room(r) - 4.0 * share).abs() < 1.0), "{text}");
        }
    }

    #[test]
    fn the_first_way_is_drawn_by_weight_and_all_are_in_the_order() {
        let p = profile("\"only\"");
        let ways = [("a", 3.0), ("a", 1.0), ("b", 0.0)];
        let rooms = plan(&p).rooms;
        let all: Vec<Relay> = rooms.iter().flat_map(|r| (0..4).map(|s| relay(&p, r, s, 0, &ways).unwrap())).collect();
        let first = |way: u16| all.iter().filter(|r| r.order[0] == way).count();
        assert!((700..800).contains(&first(0)) && (200..300).contains(&first(1)), "{} {}", first(0), first(1));
        assert!(all.iter().all(|r| r.order[2] == 2 && r.order.len() == 3));
        let wrong = all.iter().filter(|r| r.wrong_password).count();
        assert!((200..300).contains(&wrong), "{wrong}");
        assert_eq!(relay(&p, &rooms[0], 0, 0, &ways), Some(all[0].clone()));
    }
}
