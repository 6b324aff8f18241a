//! A participant's way through TURN servers: an allocation for each of its transports, between transport and socket.

use super::socket::{MediaSocket, source_address};
use super::wire::{Stream, Wire};
use crate::history::{Carried, RelayFlow, RelayWhat};
use crate::participant::DATAGRAM_MAX;
use crate::plan::Relay as Planned;
use crate::transport::AllowList;
use crate::turn::{Account, Allocation, Event, Login, Refusal, Server, frame};
use crate::types::Via;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a server may leave an Allocate unanswered while there is another one to ask: three tries.
const PATIENCE: Duration = Duration::from_millis(3500);
/// Redirections (300) that are followed for one allocation.
const REDIRECTS_MAX: u8 = 3;

/// Places in what an allocation has carried.
const TO_PEERS: usize = 0;
const FROM_PEERS: usize = 1;

/// The TURN servers of a run, and how allocations are gone about.
#[derive(Clone, Default)]
pub struct Turn {
    /// Every way to every server.
    pub ways: Vec<Server>,
    pub lifetime: Duration,
    /// False: allocations are left to run out.
    pub release: bool,
    /// Of connections over TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Sockets are bound to the address from which the route to their server goes, and not to those of the profile.
    pub by_route: bool,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("ways", &self.ways).finish_non_exhaustive()
    }
}

/// What became of an attempt or an allocation, for the history.
#[derive(Clone, PartialEq, Debug)]
pub struct News {
    pub turn: Arc<str>,
    pub via: Via,
    pub what: RelayWhat,
    /// When an attempt began; it ended now.
    pub asked: Option<Instant>,
    /// Of an allocation: when the first of the servers was asked, of which the ones before gave none.
    pub began: Option<Instant>,
    pub refusal: Option<Refusal>,
    pub relayed: Option<SocketAddr>,
}

/// One transport's allocation on its server.
pub struct Relayed {
    allocation: RefCell<Allocation>,
    pub server: Server,
    /// When it was asked for, and when the first server was.
    asked: Instant,
    began: Instant,
    /// Which of the participant's ways it is, and what is left of its patience.
    turn: usize,
    redirects: u8,
    ports: u8,
    /// To peers and from peers, since it was last asked.
    carried: Cell<[Carried; 2]>,
}

/// What came over the wire, taken out of its frame.
pub enum Unwrapped {
    /// From this peer, this part of the message.
    Channel(SocketAddr, Range<usize>),
    /// From this peer, by a Data indication.
    Data(SocketAddr, Vec<u8>),
    /// Between us and the server.
    Control,
    Nothing,
}

/// What follows from what the server said.
pub enum Step {
    /// Ready: the relayed address, and that of our socket.
    Allocated {
        relayed: SocketAddr,
        base: SocketAddr,
    },
    /// No allocation there; go on with the next attempt, if there is one.
    Failed(String),
    /// It was there and is gone.
    Lost(String),
    /// Nothing is left of it: the socket can go.
    Over,
    Note(String),
}

impl Relayed {
    /// Asks the `turn`-th way of a participant's order for an allocation. Errors: no such way, or no socket.
    pub fn open(
        turn: &Turn,
        planned: &Planned,
        nth: usize,
        from: IpAddr,
        seed: u64,
    ) -> Result<(Relayed, Wire), String> {
        let way = planned.order.get(nth).and_then(|w| turn.ways.get(usize::from(*w)));
        let way = way.ok_or_else(|| "no TURN server is left to ask".to_owned())?;
        Relayed::at(turn, way.clone(), planned, nth, 0, 0, from, seed)
    }

    #[expect(clippy::too_many_arguments, reason = "of one place that two callers share")]
    fn at(
        turn: &Turn,
        server: Server,
        planned: &Planned,
        nth: usize,
        redirects: u8,
        ports: u8,
        from: IpAddr,
        seed: u64,
    ) -> Result<(Relayed, Wire), String> {
        let failed = |e: io::Error| format!("no {} socket to {} ({}): {e}", server.via, server.id, server.address);
        let from = if turn.by_route { source_address(server.address.ip()).map_err(failed)? } else { from };
        let wire = match server.via {
            Via::Udp => {
                let mut socket = MediaSocket::bind(from).map_err(failed)?;
                socket.connect(server.address).map_err(failed)?;
                Wire::Udp(socket)
            }
            Via::Tcp | Via::Tls => {
                let tls = turn.tls.clone().filter(|_| server.via == Via::Tls).map(|c| (c, &*server.host));
                Wire::Stream(Box::new(RefCell::new(Stream::open(from, server.address, tls).map_err(failed)?)))
            }
        };
        let now = Instant::now();
        let patience = (nth + 1 < planned.order.len()).then_some(PATIENCE);
        let login = login(&server.account, planned.wrong_password);
        let allocation = Allocation::new(now, login, turn.lifetime, server.via.is_stream(), patience, seed);
        let allocation = RefCell::new(allocation);
        let carried = Cell::default();
        let relayed = Relayed { allocation, server, asked: now, began: now, turn: nth, redirects, ports, carried };
        Ok((relayed, wire))
    }

    /// The attempt after a failed one: the server that it pointed to, if `allow` permits that, the same one from another
    /// port (437), or the next way. `None`: nobody is left.
    pub fn next(
        &self,
        turn: &Turn,
        allow: &AllowList,
        planned: &Planned,
        event: &Event,
        from: IpAddr,
        seed: u64,
    ) -> Option<Result<(Relayed, Wire), String>> {
        let again = |server: Server, redirects, ports| {
            Relayed::at(turn, server, planned, self.turn, redirects, ports, from, seed)
        };
        let next = match event {
            Event::Alternate(to) if self.redirects < REDIRECTS_MAX && allow.permits(to.ip()) => {
                // A server that is known by another way keeps its name: coturn sends TLS clients to the port for UDP.
                let same = |exact: bool| {
                    let is = move |w: &&Server| match exact {
                        true => w.address == *to && w.via == self.server.via,
                        false => w.address.ip() == to.ip(),
                    };
                    turn.ways.iter().find(is)
                };
                let known = same(true).or_else(|| same(false));
                let id = known.map_or_else(|| to.to_string().into(), |w| w.id.clone());
                let server = Server { id, address: *to, ..self.server.clone() };
                Some(again(server, self.redirects + 1, self.ports))
            }
            // RFC 8656 7.4: another port may do, since an old allocation holds this one.
            Event::Refused(Refusal { code: 437, .. }) if self.ports == 0 => {
                Some(again(self.server.clone(), self.redirects, 1))
            }
            _ if self.turn + 1 < planned.order.len() => Some(Relayed::open(turn, planned, self.turn + 1, from, seed)),
            _ => None,
        };
        next.map(|opened| opened.map(|(relay, wire)| (Relayed { began: self.began, ..relay }, wire)))
    }

    /// Where the order goes on after the server of this allocation, which is suspected to be gone.
    pub fn elsewhere(&self, turn: &Turn, planned: &Planned) -> usize {
        let other = |nth: &usize| {
            let way = planned.order.get(*nth).and_then(|w| turn.ways.get(usize::from(*w)));
            way.is_some_and(|w| w.id != self.server.id)
        };
        let n = planned.order.len();
        (self.turn + 1..n).chain(0..self.turn).find(other).unwrap_or(self.turn)
    }

    /// A datagram of the transport to a peer: by its channel, or however the allocation can.
    #[inline]
    pub fn send(&self, wire: &Wire, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let mut a = self.allocation.borrow_mut();
        match a.channel_to(to) {
            Some(channel) => wire.send_framed(&frame::header(channel, datagram.len()), datagram)?,
            None => {
                a.send(Instant::now(), to, datagram);
                drop(a);
                self.flush(wire)?;
            }
        }
        self.count(TO_PEERS, datagram.len());
        Ok(())
    }

    /// A whole message, as [`Relayed::offer`] gave it.
    #[inline]
    pub fn send_framed(&self, wire: &Wire, message: &[u8]) -> io::Result<()> {
        wire.send_framed(&[], message)?;
        if let Some((_, length)) = frame::channel_data(message) {
            self.count(TO_PEERS, length);
        }
        Ok(())
    }

    #[inline]
    fn count(&self, way: usize, bytes: usize) {
        let mut carried = self.carried.get();
        carried[way] += Carried { packets: 1, bytes: bytes as u64 };
        self.carried.set(carried);
    }

    /// Adds what it has carried since the last call, and itself if it is `there`.
    pub fn report(&self, to: &mut Vec<RelayFlow>, there: bool) {
        let [to_peers, from_peers] = self.carried.take();
        let flow = RelayFlow::of(to, &self.server.id, self.server.via);
        flow.allocations += u32::from(there);
        flow.to_peers += to_peers;
        flow.from_peers += from_peers;
    }

    /// The same, through an impaired network: each message as it is on the wire.
    pub fn offer(&self, to: SocketAddr, datagram: &[u8], mut each: impl FnMut(&[u8])) {
        let mut a = self.allocation.borrow_mut();
        match a.channel_to(to) {
            Some(channel) => {
                let mut message = [0; frame::HEADER + DATAGRAM_MAX];
                let length = frame::HEADER + datagram.len().min(DATAGRAM_MAX);
                message[..frame::HEADER].copy_from_slice(&frame::header(channel, datagram.len()));
                message[frame::HEADER..length].copy_from_slice(&datagram[..length - frame::HEADER]);
                each(&message[..length]);
            }
            None => {
                a.send(Instant::now(), to, datagram);
                while let Some(m) = a.poll_transmit() {
                    each(&m);
                }
                self.count(TO_PEERS, datagram.len());
            }
        }
    }

    /// Sends what the allocation has to say.
    pub fn flush(&self, wire: &Wire) -> io::Result<()> {
        let mut result = Ok(());
        while let Some(m) = { self.allocation.borrow_mut().poll_transmit() } {
            result = result.and(wire.send_framed(&[], &m));
        }
        result
    }

    /// What waits to be sent, one at a time.
    pub fn poll_transmit(&self) -> Option<Vec<u8>> {
        self.allocation.borrow_mut().poll_transmit()
    }

    /// Takes one whole message from the server.
    #[inline]
    pub fn unwrap(&self, now: Instant, message: &[u8]) -> Unwrapped {
        match frame::channel_data(message) {
            Some((channel, length)) => match self.allocation.borrow().peer_of(channel) {
                Some(peer) => {
                    self.count(FROM_PEERS, length);
                    Unwrapped::Channel(peer, frame::HEADER..frame::HEADER + length)
                }
                None => Unwrapped::Nothing,
            },
            None => match self.allocation.borrow_mut().on_message(now, message) {
                Some((peer, data)) => {
                    self.count(FROM_PEERS, data.len());
                    Unwrapped::Data(peer, data)
                }
                None => Unwrapped::Control,
            },
        }
    }

    /// The next thing that happened, for the history, and what follows from it.
    pub fn poll(&self, wire: &Wire) -> Option<(Event, News, Step)> {
        let event = self.allocation.borrow_mut().poll_event()?;
        let mut news = News {
            turn: self.server.id.clone(),
            via: self.server.via,
            what: RelayWhat::Allocated,
            asked: None,
            began: None,
            refusal: None,
            relayed: None,
        };
        let at = &self.server.id;
        let step = match &event {
            Event::Allocated { relayed, .. } => {
                (news.asked, news.began, news.relayed) = (Some(self.asked), Some(self.began), Some(*relayed));
                Step::Allocated { relayed: *relayed, base: wire.local() }
            }
            Event::Refused(r) => {
                (news.what, news.asked, news.refusal) = (RelayWhat::Refused, Some(self.asked), Some(r.clone()));
                Step::Failed(format!("{at}: {r}"))
            }
            Event::Alternate(to) => {
                (news.what, news.asked) = (RelayWhat::Redirected, Some(self.asked));
                news.refusal = Some(Refusal { code: 300, reason: format!("to {to}") });
                Step::Failed(format!("{at}: 300, to {to}"))
            }
            Event::Unreachable => {
                (news.what, news.asked) = (RelayWhat::Unreachable, Some(self.asked));
                Step::Failed(format!("{at}: no answer from {}", self.server.address))
            }
            Event::Lost(r) => {
                (news.what, news.refusal) = (RelayWhat::Lost, r.clone());
                let why = r.as_ref().map_or("no answer".to_owned(), Refusal::to_string);
                Step::Lost(format!("the allocation on {at} is gone: {why}"))
            }
            Event::PeerRefused(peer, r) => {
                news.refusal = Some(r.clone());
                Step::Note(format!("{at} does not relay to {peer}: {r}"))
            }
            Event::Released => {
                news.what = RelayWhat::Released;
                Step::Over
            }
        };
        Some((event, news, step))
    }

    /// Left at the server, to run out there; on a connection it ends with that (RFC 8656 5).
    pub fn abandoned(&self) -> Option<News> {
        let relayed = self.allocation.borrow().relayed()?;
        let (turn, via) = (self.server.id.clone(), self.server.via);
        let what = if via.is_stream() { RelayWhat::Released } else { RelayWhat::Abandoned };
        Some(News { turn, via, what, asked: None, began: None, refusal: None, relayed: Some(relayed) })
    }

    pub fn is_ready(&self) -> bool {
        self.allocation.borrow().is_ready()
    }

    pub fn is_over(&self) -> bool {
        self.allocation.borrow().is_over()
    }

    pub fn release(&self, now: Instant) {
        self.allocation.borrow_mut().release(now);
    }

    pub fn disconnected(&self) {
        self.allocation.borrow_mut().on_disconnect();
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.allocation.borrow().poll_timeout()
    }

    pub fn handle_timeout(&self, now: Instant) {
        self.allocation.borrow_mut().handle_timeout(now);
    }
}

fn login(account: &Account, wrong: bool) -> Login {
    account.login(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()), wrong)
}
