//! What is seen of the fleet each second: media, the generator's health, what backends tell.

use super::*;

impl Sim {
    pub(super) fn second(&mut self, n: u32) {
        let mut servers = Vec::new();
        for s in 0..self.servers.len() {
            let participants = self.load(s) as u32;
            let rooms =
                (0..self.rooms.len()).filter(|r| self.rooms[*r].server == Some(s) && !self.up(*r).is_empty()).count();
            let mut audio = Flow::default();
            let expected = i64::from(participants) * 100;
            let other = n > 33 && Some(s) != self.victim;
            let (harmed, freezes) = (self.sins(Sin::HarmsOthers) && other, self.sins(Sin::HarmsOthersVideo) && other);
            (audio.count.e2e_expected, audio.count.e2e_received) =
                (expected, if harmed { expected * 9 / 10 } else { expected });
            (audio.count.rtp_expected, audio.count.rtp_received) = (expected, expected);
            let mut video = Flow::default();
            (video.count.e2e_expected, video.count.e2e_received) =
                (2 * expected, if freezes { 2 * expected * 9 / 10 } else { 2 * expected });
            (video.count.rtp_expected, video.count.rtp_received) = (2 * expected, 2 * expected);
            audio.silence_max_ms = if harmed { 900 } else { 21 };
            if participants > 0 {
                audio.delay.record_us(900);
                audio.jitter.record_us(400);
            }
            let server = ServerId(s as u32);
            servers.push(ServerFlow { server, participants, rooms: rooms as u32, audio, video });
        }
        let connected = servers.iter().map(|s| s.participants).sum();
        let joining = self.legs.iter().filter(|l| l.server.is_some() && l.joined.is_none() && !l.ended).count() as u32;
        self.push(Event::Interval(Interval { seconds: 1.0, connected, joining, servers, paths: None, relays: vec![] }));
        let health = self.health(n);
        self.push(Event::Health(health));
        self.look(n, 0);
        self.look(n, 1);
    }

    pub(super) fn health(&self, n: u32) -> Health {
        let bad = self.model.unhealthy.as_ref().is_some_and(|r| r.contains(&(n - 1)));
        let mut shard = ShardHealth {
            cpu: 0.2,
            packets_out: 1000,
            packets_in: 3000,
            reference: ReferenceFlow { expected: 50, received: 50, ..ReferenceFlow::default() },
            ..ShardHealth::default()
        };
        shard.send_lateness.record_us(if bad { 40_000 } else { 200 });
        Health {
            seconds: 1.0,
            machine_cpu: 0.2,
            steal: 0.0,
            process_cores: 0.2,
            resident_bytes: 90 << 20,
            cores: 4,
            udp: UdpErrors::default(),
            descriptors_left: Some(1000),
            ports_left: Some(28_000),
            clock_step_ms: 0.0,
            shards: vec![shard],
            unhealthy: if bad { vec!["send lateness p99 40 ms".into()] } else { Vec::new() },
        }
    }

    /// One backend's look: the registry (0) or the servers' own metrics (1). Written when something changed, or every 5 s.
    pub(super) fn look(&mut self, second: u32, which: usize) {
        let (role, name) = [(FleetRole::Discovery, "registry"), (FleetRole::Observation, "metrics")][which];
        if which == 0 && !self.model.tells_registry {
            return;
        }
        let mut servers = Vec::new();
        for s in 0..self.servers.len() {
            let server = &self.servers[s];
            let n = (self.load(s) as i64 + self.ahead(s)) as u64 + server.ghosts;
            let stale = self.sins(Sin::StaleRegistry);
            let zero = self.sins(Sin::ReportsZero) && second > 40 && Some(s) != self.victim;
            let seen = if which == 0 {
                if !server.alive && !stale {
                    continue;
                }
                let listed = Some(!server.cordoned || stale && !server.alive);
                let headroom = if self.sins(Sin::NegativeHeadroom) && second > 40 { -3 } else { 100 - n as i64 };
                ServerSeen {
                    listed,
                    cordoned: Some(server.cordoned),
                    headroom: Some(headroom),
                    ..ServerSeen::default()
                }
            } else {
                let counts = self.model.tells_counts && server.alive;
                let count = counts.then_some(if zero { 0 } else { n });
                ServerSeen {
                    alive: self.model.tells_life.then_some(server.alive),
                    sessions: count,
                    participants: count,
                    jitter_ms: counts.then_some(0.4),
                    ..ServerSeen::default()
                }
            };
            servers.push(ServerSeen { server: server.name.clone(), ..seen });
        }
        let mut rooms = if which == 0 { std::mem::take(&mut self.registry) } else { BTreeMap::new() };
        if self.sins(Sin::RegistryMisplacesRooms) {
            let other = self.servers.last().map(|s| s.name.clone());
            rooms.values_mut().filter(|s| s.is_some()).for_each(|s| s.clone_from(&other));
        }
        let mut view = FleetView { backend: name.into(), role, servers, rooms, error: None };
        if which == 1 && self.model.blank_from.is_some_and(|s| second >= s) {
            (view.servers, view.error) = (Vec::new(), Some("connection refused (10.77.0.9:9090)".into()));
        }
        let same = self.views[which].as_ref() == Some(&view);
        if !same || second.is_multiple_of(5) || !view.rooms.is_empty() {
            self.push(Event::Fleet(view.clone()));
        }
        view.rooms.clear();
        self.views[which] = Some(view);
    }
}
