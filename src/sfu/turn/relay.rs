//! A TURN server's core, sans-I/O (RFC 8656): allocations, permissions and channels. Datagrams and time come in, what has
//! to be sent goes out through [`Io`].

use super::auth::{Auth, Refusal, User};
use super::wire::{self, Reply};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use turn_types::attribute::{
    ChannelNumber, Data, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport, ReservationToken,
    XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};
use turn_types::stun::attribute::{
    AlternateServer, ErrorCode, Fingerprint, MessageIntegrity, Nonce, Realm, Username, XorMappedAddress,
};
use turn_types::stun::message::{BINDING, Message, MessageClass, StunWriteError, TransactionId};
use turn_types::stun::prelude::*;

/// RFC 8656 9: a permission lasts so long.
const PERMISSION: Duration = Duration::from_secs(300);
/// RFC 8656 12: and a channel so long.
const CHANNEL: Duration = Duration::from_secs(600);
/// How often expired allocations are looked for: the shortest lifetime is a second.
const SWEEP: Duration = Duration::from_millis(200);
/// Permissions of one allocation, and channels: more than any client of ours has, and a bound on what one may cost.
const PEERS_MAX: usize = 256;

/// What a relay is like. Durations and counts as in coturn's settings of the same names.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    pub auth: Auth,
    /// Family of relayed addresses.
    pub relay: IpAddr,
    /// Allocations of one user; 486 beyond it.
    pub user_quota: Option<usize>,
    /// Allocations of all; 486 beyond it.
    pub total_quota: Option<usize>,
    /// LIFETIME where the client asks for none, and the most it gets.
    pub lifetime: Duration,
    pub lifetime_max: Duration,
}

/// A client's 5-tuple; the server's end of it is given by the transport.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    pub over: Over,
    pub addr: SocketAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Over {
    Udp,
    Tcp,
}

/// What the process does for the core.
pub trait Io {
    /// Opens a relayed address for an allocation; with an even port, where that is asked for.
    ///
    /// # Errors
    /// No such port is left.
    fn open(&mut self, allocation: u32, even: bool) -> std::io::Result<SocketAddr>;
    fn close(&mut self, allocation: u32);
    fn to_client(&mut self, client: Client, message: &[u8]);
    fn to_peer(&mut self, allocation: u32, peer: SocketAddr, data: &[u8]);
}

/// What a relay has done so far.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RelayCounts {
    /// That there are now.
    pub allocations: u64,
    /// That were made, deleted by their clients (LIFETIME 0), and left to expire.
    pub allocated: u64,
    pub released: u64,
    pub expired: u64,
    /// Error responses by code; 401 without credentials is part of every allocation.
    pub errors: BTreeMap<u16, u64>,
    /// Payload that went from clients to peers and back.
    pub packets_to_peers: u64,
    pub bytes_to_peers: u64,
    pub packets_to_clients: u64,
    pub bytes_to_clients: u64,
    /// Without permission, channel or allocation, or unreadable.
    pub dropped: u64,
}

struct Allocation {
    client: Client,
    user: User,
    relayed: SocketAddr,
    expires: Instant,
    permissions: Vec<(IpAddr, Instant)>,
    channels: Vec<Channel>,
    /// The request that made it, and what was answered: its repetition gets the same (RFC 8656 7.2).
    made_by: TransactionId,
    answer: Vec<u8>,
}

struct Channel {
    number: u16,
    peer: SocketAddr,
    expires: Instant,
}

/// Whether new allocations are taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Admission {
    #[default]
    Open,
    /// They are sent there, 300 Try Alternate.
    Redirect(SocketAddr),
    /// They are refused, 403 Forbidden, as newer coturns do when they drain.
    Closed,
}

pub struct Relay {
    config: RelayConfig,
    admission: Admission,
    /// By id.
    allocations: Vec<Option<Allocation>>,
    free: Vec<u32>,
    by_client: FxHashMap<Client, u32>,
    sweep_at: Instant,
    counts: RelayCounts,
    scratch: Vec<u8>,
}

impl Relay {
    pub fn new(config: RelayConfig, now: Instant) -> Relay {
        Relay {
            config,
            admission: Admission::Open,
            allocations: Vec::new(),
            free: Vec::new(),
            by_client: FxHashMap::default(),
            sweep_at: now + SWEEP,
            counts: RelayCounts::default(),
            scratch: Vec::new(),
        }
    }

    pub fn admit(&mut self, admission: Admission) {
        self.admission = admission;
    }

    pub fn counts(&self) -> &RelayCounts {
        &self.counts
    }

    /// When [`Relay::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        self.sweep_at
    }

    pub fn handle_timeout(&mut self, now: Instant, io: &mut dyn Io) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP;
        for id in 0..self.allocations.len() as u32 {
            if self.allocations[id as usize].as_ref().is_some_and(|a| a.expires <= now) {
                self.remove(id, io);
                self.counts.expired += 1;
            }
        }
    }

    /// A client's connection is gone, and with it its allocation (RFC 8656 3.1: 5-tuple).
    pub fn on_disconnect(&mut self, client: Client, io: &mut dyn Io) {
        if let Some(id) = self.by_client.get(&client).copied() {
            self.remove(id, io);
            self.counts.expired += 1;
        }
    }

    fn remove(&mut self, id: u32, io: &mut dyn Io) {
        if let Some(gone) = self.allocations.get_mut(id as usize).and_then(Option::take) {
            self.by_client.remove(&gone.client);
            self.free.push(id);
            self.counts.allocations -= 1;
            io.close(id);
        }
    }

    /// One datagram from a client, or one message of its stream.
    pub fn on_client(&mut self, now: Instant, client: Client, data: &[u8], io: &mut dyn Io) {
        let done = match data.first() {
            Some(0x40..=0x7f) => self.on_channel(now, client, data, io),
            Some(0..=0x3f) => self.on_message(now, client, data, io),
            _ => None,
        };
        if done.is_none() {
            self.counts.dropped += 1;
        }
    }

    /// One datagram at a relayed address.
    pub fn on_peer(&mut self, now: Instant, id: u32, from: SocketAddr, data: &[u8], io: &mut dyn Io) {
        let permitted =
            self.allocations.get(id as usize).and_then(Option::as_ref).filter(|a| {
                a.expires > now && a.permissions.iter().any(|(ip, until)| *ip == from.ip() && *until > now)
            });
        let Some(a) = permitted else {
            self.counts.dropped += 1;
            return;
        };
        self.scratch.clear();
        match a.channels.iter().find(|c| c.peer == from && c.expires > now) {
            Some(channel) => wire::channel_data(&mut self.scratch, channel.number, data, a.client.over == Over::Tcp),
            None => match wire::data_indication(from, data) {
                Ok(message) => self.scratch = message,
                Err(_) => return,
            },
        }
        self.counts.packets_to_clients += 1;
        self.counts.bytes_to_clients += data.len() as u64;
        io.to_client(a.client, &self.scratch);
    }

    fn allocation(&mut self, client: Client, now: Instant) -> Option<(u32, &mut Allocation)> {
        let id = *self.by_client.get(&client)?;
        let a = self.allocations.get_mut(id as usize)?.as_mut()?;
        (a.expires > now).then_some((id, a))
    }

    /// ChannelData (RFC 8656 12.4).
    fn on_channel(&mut self, now: Instant, client: Client, data: &[u8], io: &mut dyn Io) -> Option<()> {
        let (head, payload) = data.split_first_chunk::<4>()?;
        let number = u16::from_be_bytes([head[0], head[1]]);
        let payload = payload.get(..u16::from_be_bytes([head[2], head[3]]).into())?;
        let (id, a) = self.allocation(client, now)?;
        let peer = a.channels.iter().find(|c| c.number == number && c.expires > now)?.peer;
        self.forward(id, peer, payload, now, io)
    }

    fn forward(&mut self, id: u32, peer: SocketAddr, data: &[u8], now: Instant, io: &mut dyn Io) -> Option<()> {
        let a = self.allocations.get(id as usize)?.as_ref()?;
        a.permissions.iter().find(|(ip, until)| *ip == peer.ip() && *until > now)?;
        self.counts.packets_to_peers += 1;
        self.counts.bytes_to_peers += data.len() as u64;
        io.to_peer(id, peer, data);
        Some(())
    }

    fn on_message(&mut self, now: Instant, client: Client, data: &[u8], io: &mut dyn Io) -> Option<()> {
        let message = Message::from_bytes(data).ok()?;
        match (message.class(), message.method()) {
            (MessageClass::Indication, SEND) => {
                let peer = message.attribute::<XorPeerAddress>().ok()?.addr(message.transaction_id());
                let payload = message.attribute::<Data<'_>>().ok()?;
                let (id, _) = self.allocation(client, now)?;
                self.forward(id, peer, payload.data(), now, io)
            }
            (MessageClass::Request, _) => {
                let answer = self.answer(now, client, &message, io).ok()?;
                io.to_client(client, &answer);
                Some(())
            }
            _ => None,
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        client: Client,
        request: &Message<'_>,
        io: &mut dyn Io,
    ) -> Result<Vec<u8>, StunWriteError> {
        if request.method() == BINDING {
            let mapped = XorMappedAddress::new(client.addr, request.transaction_id());
            return Reply::success(request).with(&mapped)?.unsigned();
        }
        let user = match self.config.auth.check(request, client, now) {
            Ok(user) => user,
            Err(refusal) => {
                self.count_error(refusal.code());
                return self.challenge(request, client, refusal, now);
            }
        };
        let answered = match request.method() {
            ALLOCATE => self.allocate(now, client, request, &user, io),
            REFRESH => self.refresh(now, client, request, &user, io),
            CREATE_PERMISSION => self.permit(now, client, request, &user),
            CHANNEL_BIND => self.bind(now, client, request, &user),
            _ => Err(No::Code(ErrorCode::BAD_REQUEST)),
        };
        let no = match answered {
            Ok(answer) => return Ok(answer),
            Err(No::Unwritable(e)) => return Err(e),
            Err(no) => no,
        };
        let reply = match &no {
            No::Code(code) => Reply::error(request, *code)?,
            No::Redirect(to) => Reply::error(request, ErrorCode::TRY_ALTERNATE)?.with(&AlternateServer::new(*to))?,
            No::Unknown(types) => Reply::unknown_attributes(request, types)?,
            No::Unwritable(_) => Reply::error(request, ErrorCode::SERVER_ERROR)?,
        };
        self.count_error(no.code());
        reply.signed(&user.key)
    }

    fn count_error(&mut self, code: u16) {
        *self.counts.errors.entry(code).or_default() += 1;
    }

    fn challenge(
        &self,
        request: &Message<'_>,
        client: Client,
        refusal: Refusal,
        now: Instant,
    ) -> Result<Vec<u8>, StunWriteError> {
        let reply = Reply::error(request, refusal.code())?;
        match refusal {
            Refusal::BadRequest => reply.unsigned(),
            Refusal::Unauthorized | Refusal::StaleNonce => {
                let nonce = Nonce::new(&self.config.auth.nonce(client, now))?;
                reply.with(&nonce)?.with(&Realm::new(self.config.auth.realm())?)?.unsigned()
            }
        }
    }

    /// RFC 8656 7.2, in its order.
    fn allocate(
        &mut self,
        now: Instant,
        client: Client,
        request: &Message<'_>,
        user: &User,
        io: &mut dyn Io,
    ) -> Result<Vec<u8>, No> {
        if let Some((_, a)) = self.allocation(client, now) {
            return match a.made_by == request.transaction_id() && a.user.name == user.name {
                true => Ok(a.answer.clone()),
                false => Err(No::Code(ErrorCode::ALLOCATION_MISMATCH)),
            };
        }
        // One that has expired and was not swept away yet.
        if let Some(id) = self.by_client.get(&client).copied() {
            self.remove(id, io);
            self.counts.expired += 1;
        }
        let transport = request.attribute::<RequestedTransport>().map_err(|_| No::Code(ErrorCode::BAD_REQUEST))?;
        if transport.protocol() != RequestedTransport::UDP {
            return Err(No::Code(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL));
        }
        understood(
            request,
            &[
                RequestedTransport::TYPE,
                Lifetime::TYPE,
                EvenPort::TYPE,
                ReservationToken::TYPE,
                RequestedAddressFamily::TYPE,
            ],
        )?;
        let even = request.attribute::<EvenPort>().ok();
        if even.as_ref().is_some_and(EvenPort::requested) || request.has_attribute(ReservationToken::TYPE) {
            // Nothing is reserved here; that is what a server without capacity says, too.
            return Err(No::Code(ErrorCode::INSUFFICIENT_CAPACITY));
        }
        self.same_family(request, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED)?;
        let of_user = || self.allocations.iter().flatten().filter(|a| a.user.name == user.name).count();
        if self.config.user_quota.is_some_and(|quota| of_user() >= quota)
            || self.config.total_quota.is_some_and(|quota| self.counts.allocations >= quota as u64)
        {
            return Err(No::Code(ErrorCode::ALLOCATION_QUOTA_REACHED));
        }
        match self.admission {
            Admission::Open => {}
            Admission::Redirect(to) => return Err(No::Redirect(to)),
            Admission::Closed => return Err(No::Code(ErrorCode::FORBIDDEN)),
        }
        let id = self.free.last().copied().unwrap_or(self.allocations.len() as u32);
        let relayed = io.open(id, even.is_some()).map_err(|_| No::Code(ErrorCode::INSUFFICIENT_CAPACITY))?;
        let lifetime = self.lifetime(request);
        let tid = request.transaction_id();
        let answer = Reply::success(request)
            .with(&XorRelayedAddress::new(relayed, tid))
            .and_then(|r| r.with(&Lifetime::new(lifetime.as_secs() as u32)))
            .and_then(|r| r.with(&XorMappedAddress::new(client.addr, tid)))
            .and_then(|r| r.signed(&user.key));
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => {
                io.close(id);
                return Err(No::Unwritable(e));
            }
        };
        let made = Allocation {
            client,
            user: user.clone(),
            relayed,
            expires: now + lifetime,
            permissions: Vec::new(),
            channels: Vec::new(),
            made_by: tid,
            answer: answer.clone(),
        };
        if self.free.pop().is_none() {
            self.allocations.push(None);
        }
        self.allocations[id as usize] = Some(made);
        self.by_client.insert(client, id);
        self.counts.allocations += 1;
        self.counts.allocated += 1;
        Ok(answer)
    }

    /// What is asked for, within bounds; whole seconds.
    fn lifetime(&self, request: &Message<'_>) -> Duration {
        let asked = request.attribute::<Lifetime>().ok().map(|l| Duration::from_secs(l.seconds().into()));
        let c = &self.config;
        asked.unwrap_or(c.lifetime).max(c.lifetime.min(c.lifetime_max)).min(c.lifetime_max).max(Duration::from_secs(1))
    }

    fn same_family(&self, request: &Message<'_>, code: u16) -> Result<(), No> {
        let Some(raw) = request.raw_attribute(RequestedAddressFamily::TYPE) else { return Ok(()) };
        let wanted = RequestedAddressFamily::from_raw(raw).map_err(|_| No::Code(ErrorCode::BAD_REQUEST))?;
        let ours = turn_types::AddressFamily::from(&self.config.relay);
        if wanted.family() == ours { Ok(()) } else { Err(No::Code(code)) }
    }

    /// The client's allocation, if it is the user's.
    fn owned(&mut self, client: Client, user: &User, now: Instant) -> Result<(u32, &mut Allocation), No> {
        let (id, a) = self.allocation(client, now).ok_or(No::Code(ErrorCode::ALLOCATION_MISMATCH))?;
        if a.user.name == user.name { Ok((id, a)) } else { Err(No::Code(ErrorCode::WRONG_CREDENTIALS)) }
    }

    /// RFC 8656 8.2.
    fn refresh(
        &mut self,
        now: Instant,
        client: Client,
        request: &Message<'_>,
        user: &User,
        io: &mut dyn Io,
    ) -> Result<Vec<u8>, No> {
        understood(request, &[Lifetime::TYPE, RequestedAddressFamily::TYPE])?;
        let mut lifetime = self.lifetime(request);
        let released = request.attribute::<Lifetime>().is_ok_and(|l| l.seconds() == 0);
        self.same_family(request, ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH)?;
        let (id, a) = self.owned(client, user, now)?;
        if released {
            lifetime = Duration::ZERO;
            self.remove(id, io);
            self.counts.released += 1;
        } else {
            a.expires = now + lifetime;
        }
        Ok(Reply::success(request).with(&Lifetime::new(lifetime.as_secs() as u32))?.signed(&user.key)?)
    }

    /// CreatePermission (RFC 8656 10.2): all of its peers, or none.
    fn permit(&mut self, now: Instant, client: Client, request: &Message<'_>, user: &User) -> Result<Vec<u8>, No> {
        understood(request, &[XorPeerAddress::TYPE])?;
        let (_, a) = self.owned(client, user, now)?;
        let mut peers = Vec::new();
        for (_, raw) in request.iter_attributes().filter(|(_, raw)| raw.get_type() == XorPeerAddress::TYPE) {
            let peer = XorPeerAddress::from_raw(raw).map_err(|_| No::Code(ErrorCode::BAD_REQUEST))?;
            peers.push(allowed(peer.addr(request.transaction_id()), a.relayed)?);
        }
        if peers.is_empty() {
            return Err(No::Code(ErrorCode::BAD_REQUEST));
        }
        for peer in peers {
            a.permit(peer.ip(), now)?;
        }
        Ok(Reply::success(request).signed(&user.key)?)
    }

    /// ChannelBind (RFC 8656 12.2).
    fn bind(&mut self, now: Instant, client: Client, request: &Message<'_>, user: &User) -> Result<Vec<u8>, No> {
        const BAD: No = No::Code(ErrorCode::BAD_REQUEST);
        understood(request, &[XorPeerAddress::TYPE, ChannelNumber::TYPE])?;
        let (_, a) = self.owned(client, user, now)?;
        let number = request.attribute::<ChannelNumber>().map_err(|_| BAD)?.channel();
        let peer = request.attribute::<XorPeerAddress>().map_err(|_| BAD)?.addr(request.transaction_id());
        let peer = allowed(peer, a.relayed)?;
        // A number has one peer and a peer one number, until the binding has expired.
        a.channels.retain(|c| c.expires > now);
        let taken = |c: &&Channel| (c.number == number) != (c.peer == peer);
        // Up to 0x4fff, but clients of RFC 5766, which coturn serves too, go up to 0x7fff.
        if !(0x4000..=0x7fff).contains(&number) || a.channels.iter().any(|c| taken(&c)) {
            return Err(BAD);
        }
        a.permit(peer.ip(), now)?;
        let expires = now + CHANNEL;
        match a.channels.iter().position(|c| c.number == number) {
            Some(bound) => a.channels[bound].expires = expires,
            None if a.channels.len() < PEERS_MAX => a.channels.push(Channel { number, peer, expires }),
            None => return Err(No::Code(ErrorCode::INSUFFICIENT_CAPACITY)),
        }
        Ok(Reply::success(request).signed(&user.key)?)
    }
}

impl Allocation {
    fn permit(&mut self, ip: IpAddr, now: Instant) -> Result<(), No> {
        match self.permissions.iter_mut().find(|(known, _)| *known == ip) {
            Some((_, until)) => *until = now + PERMISSION,
            None => {
                self.permissions.retain(|(_, until)| *until > now);
                if self.permissions.len() >= PEERS_MAX {
                    return Err(No::Code(ErrorCode::INSUFFICIENT_CAPACITY));
                }
                self.permissions.push((ip, now + PERMISSION));
            }
        }
        Ok(())
    }
}

/// Why an authenticated request was refused.
enum No {
    Code(u16),
    Redirect(SocketAddr),
    Unknown(Vec<turn_types::stun::attribute::AttributeType>),
    Unwritable(StunWriteError),
}

impl No {
    fn code(&self) -> u16 {
        match self {
            No::Code(code) => *code,
            No::Redirect(_) => ErrorCode::TRY_ALTERNATE,
            No::Unknown(_) => ErrorCode::UNKNOWN_ATTRIBUTE,
            No::Unwritable(_) => ErrorCode::SERVER_ERROR,
        }
    }
}

impl From<StunWriteError> for No {
    fn from(e: StunWriteError) -> No {
        No::Unwritable(e)
    }
}

/// A peer of the relayed address's family that is somebody's own.
fn allowed(peer: SocketAddr, relayed: SocketAddr) -> Result<SocketAddr, No> {
    if peer.is_ipv4() != relayed.is_ipv4() {
        return Err(No::Code(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH));
    }
    match peer.ip().is_multicast() || peer.ip().is_unspecified() {
        true => Err(No::Code(ErrorCode::FORBIDDEN)),
        false => Ok(peer),
    }
}

/// Attributes that must be understood are those of the credentials and `known`.
fn understood(request: &Message<'_>, known: &[turn_types::stun::attribute::AttributeType]) -> Result<(), No> {
    let credentials = [Username::TYPE, Realm::TYPE, Nonce::TYPE, MessageIntegrity::TYPE, Fingerprint::TYPE];
    let types = request.iter_attributes().map(|(_, raw)| raw.get_type());
    let unknown: Vec<_> =
        types.filter(|t| t.comprehension_required() && !credentials.contains(t) && !known.contains(t)).collect();
    if unknown.is_empty() { Ok(()) } else { Err(No::Unknown(unknown)) }
}
