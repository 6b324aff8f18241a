//! One allocation's life: asked for, kept, given back.

use super::message::{self, Answer, Heard, Id, Request, Session};
use super::{Event, Login, Refusal};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// First time-out of a request over UDP, doubled each time (RFC 8489 6.2.1).
const RTO: Duration = Duration::from_millis(500);
/// Requests that are sent at most, and how many RTO after the last one to wait (RFC 8489 6.2.1: Rc, Rm).
const REQUESTS_MAX: u32 = 7;
const LAST_WAIT: u32 = 16;
/// Over a stream (RFC 8489 6.2.2: Ti).
const STREAM_TIMEOUT: Duration = Duration::from_millis(39_500);
/// New nonces for one request; a server that has a new one each time is broken.
const NONCES_MAX: u8 = 3;
/// How long permissions and channels last (RFC 8656 9, 12), and how long before that real clients renew them.
const PERMISSION: Duration = Duration::from_mins(5);
const CHANNEL: Duration = Duration::from_mins(10);
const AHEAD: Duration = Duration::from_mins(1);
/// A release that is not answered by then never will be.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Channel numbers (RFC 8656 12).
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;
/// Peers of one allocation: as many as an ICE agent looks at, some restarts long.
const PEERS_MAX: usize = 256;
/// Datagrams that wait for a permission; more are dropped, as by a network.
const HELD_MAX: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Asking,
    Ready,
    Releasing,
    Over,
}

struct Transaction {
    id: Id,
    request: Request,
    raw: Vec<u8>,
    due: Instant,
    sent: u32,
    nonces: u8,
}

struct Peer {
    address: SocketAddr,
    channel: u16,
    permitted: bool,
    bound: bool,
    refused: bool,
    /// When permission and channel are to be renewed; `None` while that is under way or pointless.
    permit_at: Option<Instant>,
    bind_at: Option<Instant>,
    held: Vec<Vec<u8>>,
}

/// One allocation. After every call with a time, empty [`Allocation::poll_transmit`] and [`Allocation::poll_event`].
pub struct Allocation {
    state: State,
    login: Login,
    lifetime: Duration,
    /// Over a stream nothing is sent twice.
    stream: bool,
    /// Given back as soon as it is there.
    unwanted: bool,
    /// Without an answer until then, another server is worth a try.
    patience: Option<Instant>,
    ids: u64,
    session: Option<Session>,
    transactions: Vec<Transaction>,
    began: Instant,
    relayed: Option<SocketAddr>,
    /// What the server gave last.
    granted: Duration,
    refresh_at: Option<Instant>,
    /// When the server forgets the allocation, as far as it told.
    ends_at: Instant,
    peers: Vec<Peer>,
    /// Where the last datagram went: nearly always where the next one goes.
    last: Option<(SocketAddr, u16)>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Allocation {
    /// Asks for an allocation of this lifetime (0: the server's default). `seed`: of transaction ids. `patience`: how long
    /// to wait for an answer, where RFC 8489's 39.5 s are too long because there are other servers.
    pub fn new(
        now: Instant,
        login: Login,
        lifetime: Duration,
        stream: bool,
        patience: Option<Duration>,
        seed: u64,
    ) -> Allocation {
        let mut a = Allocation {
            state: State::Asking,
            login,
            lifetime,
            stream,
            unwanted: false,
            patience: patience.map(|p| now + p),
            ids: seed,
            session: None,
            transactions: Vec::new(),
            began: now,
            relayed: None,
            granted: Duration::ZERO,
            refresh_at: None,
            ends_at: now,
            peers: Vec::new(),
            last: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
        };
        a.ask(now, Request::Allocate { lifetime });
        a
    }

    /// Where peers send to, while there is an allocation.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relayed.filter(|_| self.is_ready())
    }

    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Nothing will come of it any more.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The channel to a peer, where there is one: all that a media packet on its way out asks for.
    #[inline]
    pub fn channel_to(&mut self, to: SocketAddr) -> Option<u16> {
        match self.last {
            Some((address, channel)) if address == to => Some(channel),
            _ => self.find_channel(to),
        }
    }

    fn find_channel(&mut self, to: SocketAddr) -> Option<u16> {
        let ready = self.is_ready();
        let peer = self.peers.iter().find(|p| p.address == to && p.bound && ready)?;
        self.last = Some((to, peer.channel));
        Some(peer.channel)
    }

    /// The peer of a channel: all that a media packet on its way in asks for.
    #[inline]
    pub fn peer_of(&self, channel: u16) -> Option<SocketAddr> {
        let peer = self.peers.get(usize::from(channel.checked_sub(*CHANNELS.start())?))?;
        (peer.channel == channel).then_some(peer.address)
    }

    /// A datagram to a peer without a channel: asks for permission and channel the first time, and goes as a Send
    /// indication, or waits for the permission.
    pub fn send(&mut self, now: Instant, to: SocketAddr, datagram: &[u8]) {
        if !self.is_ready() {
            return;
        }
        let at = match self.peers.iter().position(|p| p.address == to) {
            Some(at) => at,
            None => {
                if self.peers.len() >= PEERS_MAX {
                    return;
                }
                let channel = CHANNELS.start() + self.peers.len() as u16;
                self.peers.push(Peer {
                    address: to,
                    channel,
                    permitted: false,
                    bound: false,
                    refused: false,
                    permit_at: None,
                    bind_at: None,
                    held: Vec::new(),
                });
                self.ask(now, Request::Permit { peers: vec![to] });
                self.ask(now, Request::Bind { peer: to, channel });
                self.peers.len() - 1
            }
        };
        let p = &mut self.peers[at];
        if p.permitted {
            let id = self.id();
            self.out.push_back(message::send_indication(id, to, datagram));
        } else if !p.refused && p.held.len() < HELD_MAX {
            p.held.push(datagram.to_vec());
        }
    }

    /// A STUN message from the server. Gives what a Data indication carries, and whom it is from.
    pub fn on_message(&mut self, now: Instant, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        match message::read(bytes)? {
            Heard::Data(peer, data) => {
                return self.peers.iter().any(|p| p.address == peer && p.permitted).then_some((peer, data));
            }
            Heard::Answer(answer) => self.on_answer(now, *answer),
        }
        None
    }

    fn on_answer(&mut self, now: Instant, mut answer: Answer) {
        let asked = |t: &Transaction| t.id == answer.id && t.request.method() == answer.method;
        let Some(at) = self.transactions.iter().position(asked) else { return };
        match &answer.refusal {
            // RFC 8489 9.2.5: a success that is not authentic is nobody's.
            None => {
                let authentic = self.session.as_ref().is_some_and(|s| answer.is_authentic(s));
                if !authentic && self.session.is_some() {
                    return;
                }
                let t = self.transactions.swap_remove(at);
                self.granted(now, t, &answer);
            }
            Some(refusal) => {
                let refusal = refusal.clone();
                let mut t = self.transactions.swap_remove(at);
                let again = match refusal.code {
                    401 if self.session.is_none() => true,
                    438 if t.nonces < NONCES_MAX => {
                        t.nonces += 1;
                        true
                    }
                    _ => false,
                };
                if again {
                    let session = self.session.take().unwrap_or_default();
                    if let Some(followed) = session.follow(&answer, &self.login) {
                        self.session = Some(followed);
                        return self.ask_again(now, t);
                    }
                    self.session = Some(session);
                }
                self.refused(now, t, refusal, answer.alternate);
            }
        }
    }

    fn granted(&mut self, now: Instant, t: Transaction, answer: &Answer) {
        match t.request {
            Request::Allocate { .. } => {
                let lifetime = answer.lifetime.filter(|l| !l.is_zero());
                let (Some(relayed), Some(lifetime)) = (answer.relayed, lifetime) else {
                    let reason = "an Allocate success without a relayed address or lifetime".to_owned();
                    return self.end(Event::Refused(Refusal { code: 0, reason }));
                };
                self.state = State::Ready;
                self.patience = None;
                self.relayed = Some(relayed);
                self.keep(now, lifetime);
                let after = now.saturating_duration_since(self.began);
                self.events.push_back(Event::Allocated { relayed, mapped: answer.mapped, after });
                if self.unwanted {
                    self.release(now);
                }
            }
            Request::Refresh { lifetime } if lifetime.is_zero() => self.end(Event::Released),
            Request::Refresh { .. } => match answer.lifetime.filter(|l| !l.is_zero()) {
                Some(lifetime) => self.keep(now, lifetime),
                None => {
                    let reason = "a Refresh success with a lifetime of 0".to_owned();
                    self.end(Event::Lost(Some(Refusal { code: 0, reason })));
                }
            },
            Request::Permit { peers } => {
                for p in self.peers.iter_mut().filter(|p| peers.contains(&p.address)) {
                    p.permitted = true;
                    p.permit_at = Some(now + (PERMISSION - AHEAD));
                }
                self.let_go();
            }
            Request::Bind { peer, .. } => {
                if let Some(p) = self.peers.iter_mut().find(|p| p.address == peer) {
                    // A channel brings its permission (RFC 8656 12).
                    (p.bound, p.permitted) = (true, true);
                    p.bind_at = Some(now + (CHANNEL - AHEAD));
                    p.permit_at = Some(now + (PERMISSION - AHEAD));
                }
                self.let_go();
            }
        }
    }

    /// Sends what waited for a permission.
    fn let_go(&mut self) {
        for at in 0..self.peers.len() {
            if self.peers[at].permitted {
                for datagram in std::mem::take(&mut self.peers[at].held) {
                    let (id, to) = (self.id(), self.peers[at].address);
                    self.out.push_back(message::send_indication(id, to, &datagram));
                }
            }
        }
    }

    /// The next refresh: a minute ahead of the end, or half of a short life.
    fn keep(&mut self, now: Instant, lifetime: Duration) {
        (self.granted, self.ends_at) = (lifetime, now + lifetime);
        self.refresh_at = Some(now + if lifetime >= 2 * AHEAD { lifetime - AHEAD } else { lifetime / 2 });
    }

    fn refused(&mut self, now: Instant, t: Transaction, refusal: Refusal, alternate: Option<SocketAddr>) {
        match t.request {
            Request::Allocate { .. } => match alternate.filter(|_| refusal.code == 300) {
                Some(to) => self.end(Event::Alternate(to)),
                None => self.end(Event::Refused(refusal)),
            },
            // Whatever the answer is: nothing is left that could be given back.
            Request::Refresh { lifetime } if lifetime.is_zero() => self.end(Event::Lost(Some(refusal))),
            Request::Refresh { .. } if refusal.code == 437 => self.end(Event::Lost(Some(refusal))),
            Request::Refresh { .. } => self.retry_refresh(now, Some(refusal)),
            Request::Permit { peers } => peers.into_iter().for_each(|p| self.peer_refused(p, refusal.clone())),
            Request::Bind { peer, .. } => self.peer_refused(peer, refusal),
        }
    }

    /// As long as the allocation may still live, another try is worth it.
    fn retry_refresh(&mut self, now: Instant, why: Option<Refusal>) {
        let left = self.ends_at.saturating_duration_since(now);
        if left < Duration::from_secs(1) {
            return self.end(Event::Lost(why));
        }
        self.refresh_at = Some(now + left / 2);
    }

    fn peer_refused(&mut self, address: SocketAddr, refusal: Refusal) {
        if let Some(p) = self.peers.iter_mut().find(|p| p.address == address)
            && !std::mem::replace(&mut p.refused, true)
        {
            p.held = Vec::new();
            (p.permitted, p.bound, p.permit_at, p.bind_at) = (false, false, None, None);
            self.last = None;
            self.events.push_back(Event::PeerRefused(address, refusal));
        }
    }

    /// Gives the allocation back, also one that is still being asked for. Answered by [`Event::Released`].
    pub fn release(&mut self, now: Instant) {
        match self.state {
            State::Ready => {
                self.state = State::Releasing;
                (self.ends_at, self.refresh_at) = (now + RELEASE_TIMEOUT, None);
                self.transactions.clear();
                self.ask(now, Request::Refresh { lifetime: Duration::ZERO });
            }
            State::Asking => (self.unwanted, self.ends_at) = (true, now + RELEASE_TIMEOUT),
            State::Releasing | State::Over => {}
        }
    }

    fn is_unwanted(&self) -> bool {
        self.state == State::Releasing || (self.unwanted && self.state == State::Asking)
    }

    /// The connection to the server is gone (a stream's end), and with it the allocation (RFC 8656 5).
    pub fn on_disconnect(&mut self) {
        match self.state {
            State::Asking => self.end(Event::Unreachable),
            State::Ready => self.end(Event::Lost(None)),
            State::Releasing => self.end(Event::Lost(None)),
            State::Over => {}
        }
    }

    fn end(&mut self, event: Event) {
        self.state = State::Over;
        self.transactions = Vec::new();
        self.peers = Vec::new();
        (self.last, self.refresh_at, self.patience) = (None, None, None);
        self.events.push_back(event);
    }

    /// When to call [`Allocation::handle_timeout`]. `None`: never again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let renewals = self.peers.iter().flat_map(|p| [p.permit_at, p.bind_at]).flatten();
        let release = self.is_unwanted().then_some(self.ends_at);
        let transactions = self.transactions.iter().map(|t| t.due);
        let renewals = renewals.filter(|_| self.is_ready());
        transactions.chain(renewals).chain(self.refresh_at).chain(release).chain(self.patience).min()
    }

    /// Repeats, renews, gives up: what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_unwanted() && self.ends_at <= now {
            return self.on_disconnect();
        }
        if self.patience.is_some_and(|t| t <= now) {
            return self.on_disconnect();
        }
        for at in (0..self.transactions.len()).rev() {
            let t = &mut self.transactions[at];
            if t.due > now {
                continue;
            }
            if self.stream || t.sent >= REQUESTS_MAX {
                let t = self.transactions.swap_remove(at);
                self.unanswered(now, t);
                if self.is_over() {
                    return;
                }
                continue;
            }
            t.sent += 1;
            let wait = if t.sent == REQUESTS_MAX { RTO * LAST_WAIT } else { RTO * (1 << (t.sent - 1)) };
            t.due = now + wait;
            let raw = t.raw.clone();
            self.out.push_back(raw);
        }
        if self.state != State::Ready {
            return;
        }
        if self.refresh_at.is_some_and(|t| t <= now) {
            self.refresh_at = None;
            // A Refresh of 0 would be a release.
            let lifetime = if self.lifetime.is_zero() { self.granted } else { self.lifetime };
            self.ask(now, Request::Refresh { lifetime });
        }
        let mut permits = Vec::new();
        let mut binds = Vec::new();
        for p in &mut self.peers {
            if p.permit_at.take_if(|t| *t <= now).is_some() {
                permits.push(p.address);
            }
            if p.bind_at.take_if(|t| *t <= now).is_some() {
                binds.push((p.address, p.channel));
            }
        }
        if !permits.is_empty() {
            self.ask(now, Request::Permit { peers: permits });
        }
        for (peer, channel) in binds {
            self.ask(now, Request::Bind { peer, channel });
        }
    }

    fn unanswered(&mut self, now: Instant, t: Transaction) {
        let silence = || Refusal { code: 0, reason: "no answer".into() };
        match t.request {
            Request::Allocate { .. } => self.end(Event::Unreachable),
            Request::Refresh { lifetime } if lifetime.is_zero() => self.end(Event::Lost(None)),
            Request::Refresh { .. } => self.retry_refresh(now, None),
            Request::Permit { peers } => peers.into_iter().for_each(|p| self.peer_refused(p, silence())),
            Request::Bind { peer, .. } => self.peer_refused(peer, silence()),
        }
    }

    fn ask(&mut self, now: Instant, request: Request) {
        let t = Transaction { id: [0; 12], request, raw: Vec::new(), due: now, sent: 0, nonces: 0 };
        self.ask_again(now, t);
    }

    /// Under a new id, signed with what is known now.
    fn ask_again(&mut self, now: Instant, mut t: Transaction) {
        t.id = self.id();
        t.raw = message::request(t.id, &t.request, &self.login, self.session.as_ref());
        t.sent = 1;
        t.due = now + if self.stream { STREAM_TIMEOUT } else { RTO };
        self.out.push_back(t.raw.clone());
        self.transactions.push(t);
    }

    /// The next transaction id (SplitMix64): unlike the others of the run, which is all that the server asks for.
    fn id(&mut self) -> Id {
        let mut id = [0; 12];
        for part in id.chunks_mut(8) {
            self.ids = self.ids.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.ids;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            part.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes()[..part.len()]);
        }
        id
    }

    /// The next message to the server.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let next = self.out.pop_front();
        if next.is_none() {
            self.out.shrink_to_fit();
        }
        next
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let next = self.events.pop_front();
        if next.is_none() {
            self.events.shrink_to_fit();
        }
        next
    }
}
