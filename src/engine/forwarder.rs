//! The impairer as a process in front of a server: UDP of any number of clients, each through links of its own. To the
//! server each client is a socket of ours, so that it can tell them apart as before.

use super::realtime_ns;
use super::socket::{MediaSocket, Poll, Receiver, Trigger, source_address};
use crate::impair::{Conditions, Counters, Delayed, Fate, Link, Record, seed};
use rustc_hash::FxHashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Records older than this have left, so they can be written: twice what any link may hold a datagram for.
const RECORDS_SETTLED: Duration = Duration::from_secs(30);
/// Longest sleep: how soon the end is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// What to forward, and how.
pub struct ForwarderConfig {
    /// Where clients send to, and where that goes: one pair a port.
    pub pairs: Vec<(SocketAddr, SocketAddr)>,
    /// Networks with their shares of the clients; the rest has a perfect one.
    pub networks: Vec<(f64, Conditions, Conditions)>,
    pub seed: u64,
    /// Datagrams of more clients than this are dropped, and counted.
    pub clients_max: usize,
    /// Ends by itself then.
    pub ends_after: Duration,
}

/// What was done to one client's datagrams.
pub struct ClientReport {
    pub client: SocketAddr,
    /// Which of the networks; `None`: a perfect one.
    pub network: Option<usize>,
    /// Up (to the server) and down.
    pub counters: [Counters; 2],
}

/// What there is to say at the end.
#[derive(Default)]
pub struct ForwarderReport {
    pub clients: Vec<ClientReport>,
    /// Datagrams of clients beyond the most.
    pub refused: u64,
    /// Lost in our own socket buffers, or not taken by the kernel: not the network's doing, and in no record.
    pub own_drops: u64,
    /// Latest that a datagram left after it was due.
    pub late_max: Duration,
}

struct Client {
    address: SocketAddr,
    /// Index of the pair it came through.
    pair: usize,
    upstream: Rc<MediaSocket>,
    network: Option<usize>,
    /// Up and down.
    links: [Link; 2],
}

#[derive(Clone, Copy)]
struct Tag {
    client: u32,
    way: u8,
    record: usize,
}

/// A running forwarder.
pub struct Forwarder {
    config: ForwarderConfig,
    listening: Vec<Rc<MediaSocket>>,
    clients: Vec<Client>,
    by_address: FxHashMap<(usize, SocketAddr), u32>,
    poll: Poll,
    held: Delayed<Tag>,
    report: ForwarderReport,
    recorded: bool,
}

/// Epoll keys: listening sockets first, clients' above.
const CLIENTS_FROM: u64 = 1 << 32;

impl Forwarder {
    /// Binds the listening sockets. `recorded`: every datagram is logged.
    ///
    /// # Errors
    /// When an address can't be bound.
    pub fn new(config: ForwarderConfig, recorded: bool) -> io::Result<Forwarder> {
        let poll = Poll::new(Trigger::Level)?;
        let mut listening = Vec::new();
        for (i, (at, _)) in config.pairs.iter().enumerate() {
            let socket = MediaSocket::bind_to(*at)
                .map_err(|e| io::Error::new(e.kind(), format!("can't listen on {at}: {e}")))?;
            poll.add(&socket, i as u64)?;
            listening.push(Rc::new(socket));
        }
        Ok(Forwarder {
            config,
            listening,
            clients: Vec::new(),
            by_address: FxHashMap::default(),
            poll,
            held: Delayed::default(),
            report: ForwarderReport::default(),
            recorded,
        })
    }

    /// Where it listens.
    pub fn listening(&self) -> impl Iterator<Item = SocketAddr> {
        self.listening.iter().map(|s| s.local())
    }

    /// Forwards until `stop` is set or the time is over. Records go to `log`, one a line: client, way, record.
    ///
    /// # Errors
    /// When the log can't be written.
    pub fn run(mut self, stop: &AtomicBool, log: &mut dyn Write) -> io::Result<ForwarderReport> {
        let end = Instant::now() + self.config.ends_after;
        let (mut receiver, mut keys) = (Receiver::new(), Vec::new());
        let mut next_write = Instant::now() + RECORDS_SETTLED;
        while !stop.load(Ordering::Relaxed) && Instant::now() < end {
            self.poll.wait(&mut keys, self.sleep());
            receiver.look_at_clock();
            for key in keys.drain(..) {
                match key.checked_sub(CLIENTS_FROM) {
                    None => self.receive_up(key as usize, &mut receiver),
                    Some(client) => self.receive_down(client as u32, &mut receiver),
                }
            }
            self.release();
            if self.recorded && Instant::now() >= next_write {
                next_write = Instant::now() + RECORDS_SETTLED;
                let settled = realtime_ns().saturating_sub(RECORDS_SETTLED.as_nanos() as u64);
                self.write_records(settled, log)?;
            }
        }
        self.write_records(u64::MAX, log)?;
        log.flush()?;
        let clients = self.clients.iter().map(|c| ClientReport {
            client: c.address,
            network: c.network,
            counters: [c.links[0].counters(), c.links[1].counters()],
        });
        self.report.clients = clients.collect();
        Ok(self.report)
    }

    fn sleep(&self) -> Duration {
        let Some(due_ns) = self.held.next_due_ns() else { return SLEEP_MAX };
        Duration::from_nanos(due_ns.saturating_sub(realtime_ns())).min(SLEEP_MAX)
    }

    fn receive_up(&mut self, pair: usize, receiver: &mut Receiver) {
        let socket = self.listening[pair].clone();
        let drained = receiver.drain(&socket, |mut batch| {
            batch.each(None, |from, recv_ns, data| match self.client(pair, from) {
                Some(client) => self.offer(client, 0, recv_ns, data),
                None => self.report.refused += 1,
            });
        });
        self.report.own_drops += u64::from(drained.dropped);
    }

    fn receive_down(&mut self, client: u32, receiver: &mut Receiver) {
        let Some((socket, pair)) = self.clients.get(client as usize).map(|c| (c.upstream.clone(), c.pair)) else {
            return;
        };
        let server = self.config.pairs[pair].1;
        let drained = receiver.drain(&socket, |mut batch| {
            batch.each(Some(server), |_, recv_ns, data| self.offer(client, 1, recv_ns, data));
        });
        self.report.own_drops += u64::from(drained.dropped);
    }

    /// The client of this address, met now if it is new. `None`: there are too many.
    fn client(&mut self, pair: usize, address: SocketAddr) -> Option<u32> {
        if let Some(n) = self.by_address.get(&(pair, address)) {
            return Some(*n);
        }
        let n = self.clients.len();
        if n >= self.config.clients_max {
            return None;
        }
        let to = self.config.pairs[pair].1;
        let mut upstream = MediaSocket::bind(source_address(to.ip()).ok()?).ok()?;
        upstream.connect(to).ok()?;
        self.poll.add(&upstream, CLIENTS_FROM + n as u64).ok()?;
        let network = self.network_of(n);
        let conditions = network.map_or_else(Default::default, |k| {
            let (_, up, down) = self.config.networks[k];
            [up, down]
        });
        let links = [0, 1].map(|way| {
            let link = Link::new(conditions[way], seed(self.config.seed, n as u64, way as u64));
            if self.recorded { link.recorded() } else { link }
        });
        self.clients.push(Client { address, pair, upstream: Rc::new(upstream), network, links });
        self.by_address.insert((pair, address), n as u32);
        Some(n as u32)
    }

    /// Clients come one by one, so shares are kept by a sequence of low discrepancy: after n clients, each network has
    /// its share of them to within a client or two.
    fn network_of(&self, n: usize) -> Option<usize> {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let at = (n as f64 * GOLDEN + self.config.seed as f64 * 1e-3).fract();
        let mut upto = 0.0;
        self.config.networks.iter().position(|(share, ..)| {
            upto += share;
            at < upto
        })
    }

    fn offer(&mut self, client: u32, way: u8, recv_ns: u64, data: &mut [u8]) {
        let came_ns = if recv_ns == 0 { realtime_ns() } else { recv_ns };
        let c = &mut self.clients[client as usize];
        let Fate::Passed(p) = c.links[usize::from(way)].offer(came_ns, data) else { return };
        let tag = Tag { client, way, record: p.record };
        // All through the queue, so that nothing overtakes that must not.
        for _ in 0..=usize::from(p.twice) {
            p.corrupt(self.held.push(p.due_ns, tag, data));
        }
    }

    fn release(&mut self) {
        loop {
            let now_ns = realtime_ns();
            let Some(p) = self.held.pop(now_ns) else { return };
            let Tag { client, way, record } = p.tag;
            let c = &mut self.clients[client as usize];
            let sent = match way {
                0 => c.upstream.send(None, &p.data),
                _ => self.listening[c.pair].send(Some(c.address), &p.data),
            };
            // A refusal (ICMP) is of an earlier datagram, and took this one's place.
            let refused = matches!(&sent, Err(e) if e.kind() == io::ErrorKind::ConnectionRefused);
            let sent = if refused && way == 0 { c.upstream.send(None, &p.data) } else { sent };
            if sent.is_err() && !refused {
                self.report.own_drops += 1;
            }
            c.links[usize::from(way)].left(record, now_ns);
            self.report.late_max = self.report.late_max.max(Duration::from_nanos(now_ns.saturating_sub(p.due_ns)));
            self.held.recycle(p);
        }
    }

    fn write_records(&mut self, settled_ns: u64, log: &mut dyn Write) -> io::Result<()> {
        for c in &mut self.clients {
            for (way, link) in ["up", "down"].into_iter().zip(&mut c.links) {
                let address = c.address;
                let mut write = |r: &Record| writeln!(log, "{address} {way} {r}");
                link.drain_records(settled_ns, &mut write)?;
            }
        }
        Ok(())
    }
}
