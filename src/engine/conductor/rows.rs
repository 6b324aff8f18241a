//! The shards' seconds, put together into the history's rows.

use super::super::shard::{RoomRow, ShardSecond};
use crate::history::{Interval, Paths, RelayFlow, ServerFlow, ShardHealth};
use crate::measure::Flow;
use crate::types::ServerId;
use std::collections::BTreeMap;

/// Seconds that not every shard has told yet.
pub(super) struct Rows {
    /// The last second that each shard has told.
    told: Vec<u64>,
    waiting: BTreeMap<u64, Vec<ShardSecond>>,
}

/// One second of the whole worker.
pub(super) struct Second {
    /// Seconds since the start of the run, at its end.
    pub second: u64,
    pub rooms: Vec<RoomRow>,
    pub interval: Interval,
    pub shards: Vec<ShardHealth>,
    /// Shards that skipped it: their participants and media are missing.
    pub mute: Vec<usize>,
}

impl Rows {
    pub fn new(shards: usize) -> Rows {
        Rows { told: vec![0; shards], waiting: BTreeMap::new() }
    }

    /// Takes one shard's second; gives those that are whole: every shard has told them, or a later one, since a shard
    /// that stalls skips seconds and its next one covers them. `joining` is how many joins are under way.
    pub fn take(&mut self, second: ShardSecond, joining: u32) -> Vec<Second> {
        self.told[second.shard] = second.second;
        self.waiting.entry(second.second).or_default().push(second);
        let all_told = self.told.iter().copied().min().unwrap_or(0);
        let open = self.waiting.split_off(&(all_told + 1));
        let done = std::mem::replace(&mut self.waiting, open);
        done.into_iter().map(|(k, all)| whole(k, all, self.told.len(), joining)).collect()
    }
}

fn whole(k: u64, mut all: Vec<ShardSecond>, count: usize, joining: u32) -> Second {
    all.sort_by_key(|s| s.shard);
    let mut servers: BTreeMap<ServerId, ServerFlow> = BTreeMap::new();
    let blank =
        |server| ServerFlow { server, participants: 0, rooms: 0, audio: Flow::default(), video: Flow::default() };
    let (mut connected, seconds) = (0, all.iter().map(|s| s.seconds).fold(0.0, f64::max));
    let (mut shards, mut rooms) = (vec![ShardHealth::default(); count], Vec::new());
    let mut paths: Option<Box<Paths>> = None;
    let mut relays = Vec::new();
    let mute = (0..count).filter(|i| all.iter().all(|s| s.shard != *i)).collect();
    for s in all {
        if let Some(of_shard) = s.paths {
            let paths = paths.get_or_insert_default();
            for (to, from) in [&mut paths.direct, &mut paths.relayed].into_iter().zip(&*of_shard) {
                to.iter_mut().zip(from).for_each(|(to, from)| to.merge(from));
            }
        }
        for (id, p, r) in s.present {
            let f = servers.entry(id).or_insert_with(|| blank(id));
            f.participants += p;
            f.rooms += r;
            connected += p;
        }
        for (id, [audio, video]) in s.servers {
            let f = servers.entry(id).or_insert_with(|| blank(id));
            f.audio.merge(&audio);
            f.video.merge(&video);
        }
        s.relays.iter().for_each(|f| RelayFlow::of(&mut relays, &f.turn, f.via).add(f));
        rooms.extend(s.rooms);
        shards[s.shard] = s.health;
    }
    let of_servers = servers.values_mut().flat_map(|f| [&mut f.audio, &mut f.video]);
    of_servers.chain(paths.iter_mut().flat_map(|p| p.direct.iter_mut().chain(&mut p.relayed))).for_each(Flow::thin);
    for s in &mut shards {
        s.send_lateness.thin();
        s.timer_lateness.thin();
    }
    relays.sort_by(|a, b| (&a.turn, a.via).cmp(&(&b.turn, b.via)));
    let interval = Interval { seconds, connected, joining, servers: servers.into_values().collect(), paths, relays };
    Second { second: k, rooms, interval, shards, mute }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::FlowCounters;
    use crate::types::RoomId;

    fn second(shard: usize, k: u64, present: &[(u32, u32, u32)], received: i64) -> ShardSecond {
        let flow = Flow { count: FlowCounters { received, ..Default::default() }, ..Default::default() };
        ShardSecond {
            shard,
            second: k,
            seconds: 1.0,
            health: ShardHealth { packets_in: shard as u64, ..Default::default() },
            servers: vec![(ServerId(0), [flow, Flow::default()])],
            paths: None,
            relays: vec![],
            present: present.iter().map(|(s, p, r)| (ServerId(*s), *p, *r)).collect(),
            rooms: vec![RoomRow {
                room: RoomId(shard as u32),
                server: Some(ServerId(0)),
                seconds: 1.0,
                participants: 2,
                count: Default::default(),
                silence_max_ms: 0,
                delay_max_us: [1500, 0],
                last: false,
            }],
        }
    }

    #[test]
    fn a_second_is_whole_when_every_shard_has_told_it() {
        let mut rows = Rows::new(2);
        assert!(rows.take(second(1, 7, &[(0, 2, 1), (1, 4, 1)], 5), 3).is_empty());
        assert!(rows.take(second(1, 8, &[], 0), 3).is_empty(), "a second of its own");
        let whole = rows.take(second(0, 7, &[(0, 3, 2)], 6), 3).remove(0);
        assert_eq!((whole.second, whole.interval.connected, whole.interval.joining), (7, 9, 3));
        let s = &whole.interval.servers;
        assert_eq!((s.len(), s[0].participants, s[0].rooms, s[0].audio.count.received), (2, 5, 3, 11));
        assert_eq!((s[1].participants, s[1].audio.count.received), (4, 0));
        assert_eq!(whole.rooms.len(), 2);
        let order: Vec<u64> = whole.shards.iter().map(|s| s.packets_in).collect();
        assert_eq!(order, [0, 1], "by shard, whoever was first");
    }
    #[test]
    fn a_shard_that_stalls_costs_the_others_no_second() {
        let mut rows = Rows::new(2);
        assert_eq!(rows.take(second(0, 1, &[], 1), 0).len(), 0);
        assert_eq!(rows.take(second(1, 1, &[], 1), 0).len(), 1);
        for k in 2..5 {
            assert_eq!(rows.take(second(0, k, &[], 10), 0).len(), 0);
        }
        let done = rows.take(second(1, 4, &[], 1), 0);
        let received: Vec<i64> = done.iter().map(|s| s.interval.servers[0].audio.count.received).collect();
        assert_eq!(received, [10, 10, 11]);
        assert_eq!(done[0].shards.len(), 2, "each in its place");
        let mute: Vec<&[usize]> = done.iter().map(|s| &s.mute[..]).collect();
        assert_eq!(mute, [&[1][..], &[1], &[]], "and nobody takes what it did not tell for a loss");
    }
}
