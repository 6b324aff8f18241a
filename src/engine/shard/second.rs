//! Once a second: what a shard's participants counted, by room, server and way, and how the shard itself did.

use super::{FromShard, Io, RoomRow, RoomState, Shard, ShardSecond};
use crate::engine::health::thread_wait_ns;
use crate::engine::realtime_ns;
use crate::engine::socket::{current_core, thread_cpu_ns};
use crate::history::ShardHealth;
use crate::measure::{Flow, FlowCounters, Hist};
use crate::types::{Kind, ServerId};
use rustc_hash::FxHashMap;
use std::time::Instant;

impl Shard {
    pub(super) fn end_second(&mut self, now: Instant) {
        self.second = now.saturating_duration_since(self.config.epoch).as_secs();
        let mut sockets = 0;
        for ix in 0..self.entries.len() as u32 {
            let Some(e) = self.entries[ix as usize].as_deref() else { continue };
            let (room, server, relayed, told) = (e.room, e.server, e.relay.is_some(), e.silent_since);
            sockets += e.sockets.iter().flatten().count() as u32;
            for relay in e.sockets.iter().flatten().filter_map(|s| s.relay.as_deref()) {
                relay.report(&mut self.relays, relay.is_ready());
            }
            let mut flows = <[Flow; 2]>::default();
            let sampled = self.with(ix, |p, w| (p.sample(w, &mut flows), p.silent_since(), w.now_ns));
            let Some((delta, silent_since, now_ns)) = sampled else { continue };
            let long = |since: &u64| now_ns.saturating_sub(*since) >= self.config.silent_after.as_nanos() as u64;
            if let Some(since_ns) = silent_since.filter(|s| Some(*s) != told).filter(long)
                && let Some(e) = self.entries[ix as usize].as_deref_mut()
            {
                e.silent_since = silent_since;
                let _ = self.config.out.send(FromShard::Silent { leg: e.participant.leg(), since_ns });
            }
            if let Some(r) = self.rooms.get_mut(&room) {
                r.add(&flows, &delta);
            }
            self.add_flows(server, relayed, &flows);
        }
        let seconds = now.saturating_duration_since(self.second_began).as_secs_f64();
        self.second_began = now;
        let (cpu, waited) = (thread_cpu_ns(), thread_wait_ns());
        let share = |ns: u64| ns as f64 / 1e9 / seconds.max(1e-3);
        let health = ShardHealth {
            cpu: share(cpu - self.cpu_began_ns),
            // The kernel books a wait when it is over: one from before this second may be in it.
            waited: share(waited.saturating_sub(self.wait_began_ns)).min(1.0),
            core: current_core(),
            timer_lateness: std::mem::replace(&mut self.timer, Hist::allocated()),
            reference: self.reference.take(),
            sockets,
            send_lateness: std::mem::take(&mut self.lateness),
            socket_drops: self.io.dropped,
            send_errors: self.io.send_errors,
            refused: self.io.refused,
            packets_out: self.io.packets_out,
            packets_in: self.io.packets_in,
        };
        self.cpu_began_ns = cpu;
        self.wait_began_ns = waited;
        self.io = Io::default();
        self.lateness = Hist::allocated();
        let second = ShardSecond {
            shard: self.config.index,
            second: self.second,
            seconds,
            health,
            present: self.present(),
            rooms: Vec::new(),
            servers: Vec::new(),
            paths: None,
            relays: std::mem::take(&mut self.relays),
        };
        let second = self.rows(second);
        let _ = self.config.out.send(FromShard::Second(Box::new(second)));
    }

    fn present(&mut self) -> Vec<(ServerId, u32, u32)> {
        let mut by: FxHashMap<ServerId, (u32, u32)> = FxHashMap::default();
        for r in self.rooms.values_mut() {
            r.participants = 0;
        }
        for e in self.entries.iter().flatten().filter(|e| e.connected) {
            if let Some(r) = self.rooms.get_mut(&e.room) {
                r.participants += 1;
            }
            if let Some(s) = e.server {
                by.entry(s).or_default().0 += 1;
            }
        }
        for r in self.rooms.values().filter(|r| r.participants > 0) {
            if let Some(s) = r.server {
                by.entry(s).or_default().1 += 1;
            }
        }
        let mut v: Vec<_> = by.into_iter().map(|(s, (p, r))| (s, p, r)).collect();
        v.sort();
        v
    }

    pub(super) fn add_flows(&mut self, server: Option<ServerId>, relayed: bool, flows: &[Flow; 2]) {
        let Some(server) = server else { return };
        let of_path = match self.config.turn.ways.is_empty() {
            true => None,
            false => Some(&mut self.paths.get_or_insert_default()[usize::from(relayed)]),
        };
        for to in [Some(self.flows.entry(server).or_default()), of_path].into_iter().flatten() {
            for (to, from) in to.iter_mut().zip(flows) {
                to.merge(from);
            }
        }
    }

    /// The second of each room and server.
    fn rows(&mut self, mut second: ShardSecond) -> ShardSecond {
        let now_ns = realtime_ns();
        let mut servers = std::mem::take(&mut self.flows);
        for (id, r) in &mut self.rooms {
            r.room.tidy(now_ns);
            second.rooms.push(RoomRow {
                room: *id,
                server: r.server,
                seconds: second.seconds,
                participants: r.participants,
                count: std::mem::take(&mut r.count),
                silence_max_ms: std::mem::take(&mut r.silence_max_ms),
                delay_max_us: std::mem::take(&mut r.room.delay_max_us),
                last: r.room.is_empty(),
            });
        }
        self.rooms.retain(|_, r| !r.room.is_empty());
        second.paths = self.paths.take();
        for (s, by_path) in self.meters.iter_mut().enumerate() {
            for (path, m) in by_path.iter_mut().enumerate() {
                if m.delay.iter().chain(&m.rtt).all(Hist::is_empty) {
                    continue;
                }
                let to = servers.entry(ServerId(s as u32)).or_default();
                for k in Kind::BOTH {
                    let i = k.index();
                    let of_path = second.paths.as_mut().map(|p| &mut p[path][i]);
                    for to in [Some(&mut to[i]), of_path].into_iter().flatten() {
                        to.delay.merge(&m.delay[i]);
                        to.rtt.merge(&m.rtt[i]);
                    }
                    m.delay[i].clear();
                    m.rtt[i].clear();
                }
            }
        }
        second.servers = servers.into_iter().collect();
        second.servers.sort_by_key(|s| s.0);
        second
    }
}

impl RoomState {
    pub(super) fn add(&mut self, flows: &[Flow; 2], delta: &[FlowCounters; 2]) {
        for i in 0..2 {
            self.count[i] += &delta[i];
            self.silence_max_ms = self.silence_max_ms.max(flows[i].silence_max_ms);
        }
    }
}
