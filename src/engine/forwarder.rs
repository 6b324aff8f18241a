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
/// How often it is looked who has gone.
const SWEEP: Duration = Duration::from_secs(1);

/// What to forward, and how.
pub struct ForwarderConfig {
    /// Where clients send to, and where that goes: one pair a port.
    pub pairs: Vec<(SocketAddr, SocketAddr)>,
    /// Networks with their shares of the clients; the rest has a perfect one.
    pub networks: Vec<(f64, Conditions, Conditions)>,
    pub seed: u64,
    /// Datagrams of more clients than this at once are dropped, and counted.
    pub clients_max: usize,
    /// A client of whom nothing has passed in either direction for so long is forgotten; if it comes back, it is a new
    /// one, as behind a NAT (RFC 4787 4.3).
    pub idle: Duration,
    /// Ends by itself then.
    pub ends_after: Duration,
}

/// What was done to the datagrams of the clients behind one network.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct NetworkReport {
    pub clients: u64,
    /// Up (to the server) and down.
    pub counters: [Counters; 2],
}

/// What there is to say at the end.
#[derive(Default)]
pub struct ForwarderReport {
    /// By network, in the order of the configuration; then of those with a perfect one.
    pub networks: Vec<NetworkReport>,
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
    /// When a datagram came last, either way.
    seen: Instant,
    /// Datagrams that it has in the queue.
    under_way: u32,
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
    /// A place of one that was forgotten is the next one's.
    clients: Vec<Option<Client>>,
    free: Vec<u32>,
    /// Clients so far: names their links' randomness, and their network.
    met: u64,
    sweep: Instant,
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
        let networks = vec![NetworkReport::default(); config.networks.len() + 1];
        Ok(Forwarder {
            config,
            listening,
            clients: Vec::new(),
            free: Vec::new(),
            met: 0,
            sweep: Instant::now(),
            by_address: FxHashMap::default(),
            poll,
            held: Delayed::default(),
            report: ForwarderReport { networks, ..ForwarderReport::default() },
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
            if Instant::now() >= self.sweep {
                self.sweep = Instant::now() + SWEEP.min(self.config.idle / 2);
                self.forget_idle(log)?;
            }
            if self.recorded && Instant::now() >= next_write {
                next_write = Instant::now() + RECORDS_SETTLED;
                let settled = realtime_ns().saturating_sub(RECORDS_SETTLED.as_nanos() as u64);
                self.write_records(settled, log)?;
            }
        }
        for n in 0..self.clients.len() {
            self.forget(n as u32, log)?;
        }
        log.flush()?;
        Ok(self.report)
    }

    /// Lets go of clients that have gone: their sockets, links and addresses. What is under way of them still leaves.
    fn forget_idle(&mut self, log: &mut dyn Write) -> io::Result<()> {
        let (now, idle) = (Instant::now(), self.config.idle);
        for n in 0..self.clients.len() {
            if self.clients[n].as_ref().is_some_and(|c| c.under_way == 0 && now >= c.seen + idle) {
                self.forget(n as u32, log)?;
            }
        }
        Ok(())
    }

    /// What it leaves behind are its records and counts.
    fn forget(&mut self, n: u32, log: &mut dyn Write) -> io::Result<()> {
        let Some(mut c) = self.clients[n as usize].take() else { return Ok(()) };
        write_records(&mut c, u64::MAX, log)?;
        let place = c.network.unwrap_or(self.config.networks.len());
        let report = &mut self.report.networks[place];
        report.clients += 1;
        report.counters.iter_mut().zip(&c.links).for_each(|(sum, link)| sum.merge(&link.counters()));
        self.by_address.remove(&(c.pair, c.address));
        // Closing it takes it out as well; a number that is used again must not meet the old one.
        let _ = self.poll.remove(&*c.upstream);
        self.free.push(n);
        Ok(())
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
        let Some(Some(c)) = self.clients.get(client as usize) else { return };
        let (socket, pair) = (c.upstream.clone(), c.pair);
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
        if self.by_address.len() >= self.config.clients_max {
            return None;
        }
        let n = self.free.last().copied().unwrap_or(self.clients.len() as u32);
        let to = self.config.pairs[pair].1;
        let mut upstream = MediaSocket::bind(source_address(to.ip()).ok()?).ok()?;
        upstream.connect(to).ok()?;
        self.poll.add(&upstream, CLIENTS_FROM + u64::from(n)).ok()?;
        let network = self.network_of(self.met);
        let conditions = network.map_or_else(Default::default, |k| {
            let (_, up, down) = self.config.networks[k];
            [up, down]
        });
        let links = [0, 1].map(|way| {
            let link = Link::new(conditions[way], seed(self.config.seed, self.met, way as u64));
            if self.recorded { link.recorded() } else { link }
        });
        let (upstream, seen) = (Rc::new(upstream), Instant::now());
        let client = Client { address, pair, upstream, network, links, seen, under_way: 0 };
        self.met += 1;
        match self.free.pop() {
            Some(n) => self.clients[n as usize] = Some(client),
            None => self.clients.push(Some(client)),
        }
        self.by_address.insert((pair, address), n);
        Some(n)
    }

    /// Clients come one by one, so shares are kept by a sequence of low discrepancy: after n clients, each network has
    /// its share of them to within a client or two.
    fn network_of(&self, n: u64) -> Option<usize> {
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
        let Some(c) = &mut self.clients[client as usize] else { return };
        c.seen = Instant::now();
        let Fate::Passed(p) = c.links[usize::from(way)].offer(came_ns, data) else { return };
        let tag = Tag { client, way, record: p.record };
        // All through the queue, so that nothing overtakes that must not.
        for _ in 0..=usize::from(p.twice) {
            c.under_way += 1;
            p.corrupt(self.held.push(p.due_ns, tag, data));
        }
    }

    fn release(&mut self) {
        loop {
            let now_ns = realtime_ns();
            let Some(p) = self.held.pop(now_ns) else { return };
            let Tag { client, way, record } = p.tag;
            // Nobody is forgotten who has something under way.
            let Some(c) = &mut self.clients[client as usize] else { continue };
            c.under_way -= 1;
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
        self.clients.iter_mut().flatten().try_for_each(|c| write_records(c, settled_ns, log))
    }
}

fn write_records(c: &mut Client, settled_ns: u64, log: &mut dyn Write) -> io::Result<()> {
    for (way, link) in ["up", "down"].into_iter().zip(&mut c.links) {
        let address = c.address;
        let mut write = |r: &Record| writeln!(log, "{address} {way} {r}");
        link.drain_records(settled_ns, &mut write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::UdpSocket;
    use std::sync::Arc;

    const PATIENCE: Duration = Duration::from_secs(20);
    const IDLE: Duration = Duration::from_millis(800);

    /// Sends back what it gets, until it gets nothing for a while after `stop`.
    fn echo(stop: Arc<AtomicBool>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let at = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut buf) {
                    let _ = socket.send_to(&buf[..n], from);
                }
            }
        });
        at
    }

    fn client() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket
    }

    /// Whether an answer came to one of many datagrams, and how many were sent until then.
    fn asks(socket: &UdpSocket, at: SocketAddr, patience: Duration) -> (bool, u64) {
        let (end, mut sent) = (Instant::now() + patience, 0);
        while Instant::now() < end {
            socket.send_to(b"a datagram of some length", at).unwrap();
            sent += 1;
            if socket.recv(&mut [0; 64]).is_ok() {
                return (true, sent);
            }
        }
        (false, sent)
    }

    /// Far more clients come and go than may be there at once: each is served, and each is accounted for.
    #[test]
    fn clients_that_have_gone_make_room_and_are_accounted_for() {
        let stop = Arc::new(AtomicBool::new(false));
        let to = echo(stop.clone());
        let delays = Conditions { delay: Duration::from_millis(5), ..Conditions::PERFECT };
        let config = ForwarderConfig {
            pairs: vec![("127.0.0.1:0".parse().unwrap(), to)],
            networks: vec![(0.5, delays, delays)],
            seed: 1,
            clients_max: 4,
            idle: IDLE,
            ends_after: Duration::from_secs(60),
        };
        let (at, wait) = (std::sync::mpsc::channel(), stop.clone());
        let forwarding = std::thread::spawn(move || {
            let forwarder = Forwarder::new(config, true).unwrap();
            at.0.send(forwarder.listening().next().unwrap()).unwrap();
            let mut log = Vec::new();
            (forwarder.run(&wait, &mut log).unwrap(), String::from_utf8(log).unwrap())
        });
        let at = at.1.recv().unwrap();
        let mut sent: BTreeMap<SocketAddr, u64> = BTreeMap::new();
        for wave in 0..3 {
            let clients: Vec<UdpSocket> = (0..4).map(|_| client()).collect();
            for (n, c) in clients.iter().enumerate() {
                // It finds the table full until somebody of the wave before is forgotten.
                let (served, tries) = asks(c, at, PATIENCE);
                assert!(served, "client {n} of wave {wave} was never served");
                sent.insert(c.local_addr().unwrap(), tries);
            }
        }
        // Those who go on are not forgotten for others.
        std::thread::sleep(2 * IDLE);
        let living: Vec<UdpSocket> = (0..4).map(|_| client()).collect();
        let end = Instant::now() + 2 * IDLE;
        while Instant::now() < end {
            for c in &living {
                let (served, tries) = asks(c, at, PATIENCE);
                assert!(served);
                *sent.entry(c.local_addr().unwrap()).or_default() += tries;
            }
        }
        let (served, in_vain) = asks(&client(), at, Duration::from_millis(150));
        assert!(!served, "a fifth one at once");
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        let (report, log) = forwarding.join().unwrap();

        assert_eq!(sent.len(), 16);
        assert!(report.refused >= 1, "{}", report.refused);
        let clients: u64 = report.networks.iter().map(|n| n.clients).sum();
        assert_eq!(clients, 16, "nobody twice: who goes on keeps his links");
        assert!(report.networks.iter().all(|n| (7..=9).contains(&n.clients)), "{:?}", report.networks);
        let lines = |address: &SocketAddr, way: &str| {
            let start = format!("{address} {way} ");
            log.lines().filter(|l| l.starts_with(&start)).count() as u64
        };
        let mut up = 0;
        for (address, tries) in &sent {
            let logged = lines(address, "up");
            assert!((1..=*tries).contains(&logged), "{address}: {logged} of {tries}");
            assert!(lines(address, "down") >= 1, "{address}");
            up += logged;
        }
        assert_eq!(report.networks.iter().map(|n| n.counters[0].received).sum::<u64>(), up);
        assert_eq!(up + report.refused, sent.values().sum::<u64>() + in_vain, "each datagram passed or was refused");
    }
}
