//! The SFU's place, as cheap as it goes: what is measured is the other side.

use roomful::engine::realtime_ns;
use roomful::engine::socket::{MediaSocket, Receiver, thread_cpu_ns};
use roomful::media::rtcp::{self, Packet, ReportBlock, Writer};
use roomful::media::rtp;
use roomful::media::srtp::{RtcpOpener, RtcpSealer, RtpOpener, RtpSealer, RxIndex, TAG_MAX};
use roomful::transport::{Event, MasterKey, RemoteParams, Transport};
use roomful::types::Suite;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Queue, TryRecvError};
use std::time::{Duration, Instant};

/// Participants of a room.
pub const ROOM: usize = 5;
const OTHERS: usize = ROOM - 1;
/// Datagrams sent by one system call.
const BATCH: usize = 64;
const DATAGRAM: usize = 1600;
const FIRST_SSRC: u32 = 0x0100_0000;

/// What a forwarder tells while it runs.
#[derive(Default)]
pub struct Stats {
    pub cpu_ns: AtomicU64,
    /// Datagrams that its socket had no room for.
    pub drops: AtomicU64,
}

/// A participant that comes.
pub struct Join {
    pub participant: usize,
    /// Of its audio and video.
    pub ssrcs: [u32; 2],
    pub how: How,
}

/// How it gets its keys.
pub enum How {
    /// It has offered.
    Offered { transport: Box<Transport>, remote: RemoteParams },
    /// They are known beforehand.
    Keyed { address: SocketAddr, keys: Box<Keys> },
}

/// Master key and salt.
type Material = ([u8; 32], [u8; 14]);

impl Join {
    /// Without ICE and DTLS: `up` is the participant's material, `down` the forwarder's.
    pub fn keyed(
        participant: usize,
        address: SocketAddr,
        suite: Suite,
        up: Material,
        down: Material,
        ssrcs: [u32; 2],
    ) -> Join {
        Join { participant, ssrcs, how: How::Keyed { address, keys: Box::new(Keys::new(suite, &up, &down)) } }
    }
}

/// SSRC on which a participant gets somebody: `slot` counts the others of its room, `kind` is 0 or 1.
pub fn down_ssrc(participant: usize, slot: usize, kind: usize) -> u32 {
    FIRST_SSRC + (participant * 2 * OTHERS + slot * 2 + kind) as u32
}

struct Peer {
    transport: Option<Box<Transport>>,
    address: SocketAddr,
    wake: Option<Instant>,
    keys: Option<Box<Keys>>,
    up: [(u32, RxIndex); 2],
}

pub struct Keys {
    rtp_in: RtpOpener,
    rtp_out: RtpSealer,
    rtcp_in: RtcpOpener,
    rtcp_out: RtcpSealer,
}

impl Keys {
    fn new(suite: Suite, up: &Material, down: &Material) -> Keys {
        Keys {
            rtp_in: RtpOpener::new(suite, &up.0, &up.1),
            rtcp_in: RtcpOpener::new(suite, &up.0, &up.1),
            rtp_out: RtpSealer::new(suite, &down.0, &down.1),
            rtcp_out: RtcpSealer::new(suite, &down.0, &down.1),
        }
    }
}

pub struct Forwarder {
    socket: MediaSocket,
    peers: Peers<Batch>,
    joins: Queue<Join>,
    stats: Arc<Stats>,
}

/// Where datagrams go.
pub trait Wire {
    /// `write` fills a buffer and says how much of it, or that there is nothing to send.
    fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>);
}

/// All whom the forwarder serves.
pub struct Peers<W> {
    all: Vec<Peer>,
    /// By port: all are on one address.
    by_port: Vec<u32>,
    pub batch: W,
}

impl Forwarder {
    pub fn new(stats: Arc<Stats>, joins: Queue<Join>) -> Forwarder {
        let socket = MediaSocket::bind([127, 0, 0, 1].into()).unwrap();
        let bytes: libc::c_int = 64 << 20;
        for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
            // SAFETY: a valid descriptor, and a value of the length given. Only the first may be refused.
            unsafe {
                let len = size_of::<libc::c_int>() as libc::socklen_t;
                libc::setsockopt(socket.fd(), libc::SOL_SOCKET, option, (&raw const bytes).cast(), len);
            }
        }
        let peers = Peers::new(Batch::new(socket.fd()));
        Forwarder { socket, peers, joins, stats }
    }

    pub fn local(&self) -> SocketAddr {
        self.socket.local()
    }

    /// Until nobody can join any more.
    pub fn run(mut self) {
        let mut receiver = Receiver::new();
        let mut timers = Instant::now();
        loop {
            let now = Instant::now();
            loop {
                match self.joins.try_recv() {
                    Ok(join) => self.peers.join(now, join),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let drained = receiver.drain(&self.socket, |mut batch| {
                batch.each(None, |from, _, data| self.peers.on_datagram(now, from, data));
            });
            self.stats.drops.fetch_add(drained.dropped.into(), Ordering::Relaxed);
            if now >= timers {
                timers = now + Duration::from_millis(10);
                self.peers.handle_timeouts(now);
                self.stats.cpu_ns.store(thread_cpu_ns(), Ordering::Relaxed);
            }
            self.peers.batch.flush();
            if drained.datagrams < 16 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    }
}

impl<W: Wire> Peers<W> {
    pub fn new(batch: W) -> Peers<W> {
        Peers { all: Vec::new(), by_port: vec![u32::MAX; 1 << 16], batch }
    }

    pub fn join(&mut self, now: Instant, join: Join) {
        let Join { participant, ssrcs, how } = join;
        assert_eq!(participant, self.all.len());
        let up = ssrcs.map(|s| (s, RxIndex::default()));
        let peer = match how {
            How::Keyed { address, keys } => Peer { transport: None, address, wake: None, keys: Some(keys), up },
            How::Offered { mut transport, remote } => {
                let mut words = remote.candidates[0].split(' ').skip(4);
                let address = format!("{}:{}", words.next().unwrap(), words.next().unwrap());
                let address = address.parse::<SocketAddr>().unwrap();
                transport.start(now, &remote, false, false).unwrap();
                Peer { transport: Some(transport), address, wake: None, keys: None, up }
            }
        };
        self.by_port[usize::from(peer.address.port())] = participant as u32;
        self.all.push(peer);
        self.after(participant);
    }

    pub fn handle_timeouts(&mut self, now: Instant) {
        for p in 0..self.all.len() {
            if self.all[p].wake.is_some_and(|t| t <= now) {
                if let Some(transport) = &mut self.all[p].transport {
                    transport.handle_timeout(now);
                }
                self.after(p);
            }
        }
    }

    fn after(&mut self, p: usize) {
        let peer = &mut self.all[p];
        let Some(transport) = &mut peer.transport else { return };
        while let Some(event) = transport.poll_event() {
            if let Event::Connected { suite, ours, theirs, .. } = event {
                let of = |m: &MasterKey| (m.key, m.salt);
                peer.keys = Some(Box::new(Keys::new(suite, &of(&theirs), &of(&ours))));
            }
        }
        while let Some((to, datagram)) = transport.poll_transmit() {
            self.batch.push(to, |buf| {
                buf[..datagram.len()].copy_from_slice(&datagram);
                Some(datagram.len())
            });
        }
        peer.wake = transport.poll_timeout();
    }

    pub fn on_datagram(&mut self, now: Instant, from: SocketAddr, data: &mut [u8]) {
        let p = self.by_port[usize::from(from.port())] as usize;
        let Some(peer) = self.all.get_mut(p) else { return };
        if !matches!(data.first(), Some(128..=191)) {
            if let Some(transport) = &mut peer.transport {
                transport.on_datagram(now, from, data);
            }
            self.after(p);
            return;
        }
        let Some(keys) = &mut peer.keys else { return };
        if rtp::is_rtcp(data) {
            if let Ok(len) = keys.rtcp_in.open(data) {
                self.on_rtcp(p, &data[..len]);
            }
            return;
        }
        let Some(header) = rtp::parse(data) else { return };
        let Some(kind) = peer.up.iter().position(|u| u.0 == header.ssrc) else { return };
        let rx = &mut peer.up[kind].1;
        let index = rx.estimate(header.seq);
        if rx.is_replay(index) {
            return;
        }
        let Ok(len) = keys.rtp_in.open(data, header.header_len, index) else { return };
        rx.commit(index);
        for (to, slot) in others(p) {
            let Some(Peer { address, keys: Some(keys), .. }) = self.all.get(to) else { continue };
            self.batch.push(*address, |buf| {
                buf[..len].copy_from_slice(&data[..len]);
                buf[8..12].copy_from_slice(&down_ssrc(to, slot, kind).to_be_bytes());
                keys.rtp_out.seal(buf, len, header.header_len, (index >> 16) as u32).ok()
            });
        }
    }

    /// Sender reports are answered and go to the others, key-frame requests to the sender.
    fn on_rtcp(&mut self, p: usize, data: &[u8]) {
        for packet in rtcp::parse(data).flatten() {
            match packet {
                Packet::SenderReport(sr) => {
                    let Some(kind) = self.all[p].up.iter().position(|u| u.0 == sr.ssrc) else { continue };
                    let lsr = rtcp::compact(sr.info.ntp);
                    let block = ReportBlock { ssrc: sr.ssrc, lsr, dlsr: 0, ..ReportBlock::default() };
                    self.send_rtcp(p, |w| w.receiver_report(1, &[block]).is_ok());
                    let mut info = sr.info;
                    info.ntp = rtcp::ntp64(realtime_ns());
                    for (to, slot) in others(p) {
                        self.send_rtcp(to, |w| w.sender_report(down_ssrc(to, slot, kind), info, &[]).is_ok());
                    }
                }
                Packet::Pli(pli) => {
                    let at = pli.media_ssrc.wrapping_sub(down_ssrc(p, 0, 0)) as usize;
                    let Some((to, _)) = others(p).nth(at / 2) else { continue };
                    let Some(ssrc) = self.all.get(to).map(|peer| peer.up[at % 2].0) else { continue };
                    self.send_rtcp(to, |w| w.receiver_report(1, &[]).is_ok() && w.pli(1, ssrc).is_ok());
                }
                _ => {}
            }
        }
    }

    fn send_rtcp(&mut self, to: usize, write: impl FnOnce(&mut Writer<'_>) -> bool) {
        let Some(Peer { address, keys: Some(keys), .. }) = self.all.get_mut(to) else { return };
        self.batch.push(*address, |buf| {
            let mut w = Writer::new(&mut buf[..DATAGRAM - TAG_MAX]);
            let len = write(&mut w).then(|| w.len())?;
            keys.rtcp_out.seal(buf, len).ok()
        });
    }
}

/// The others of a participant's room, each with the slot in which it gets this participant's media; as a list of whom
/// this participant gets, the place is the slot.
fn others(p: usize) -> impl Iterator<Item = (usize, usize)> {
    let (room, seat) = (p / ROOM * ROOM, p % ROOM);
    (0..ROOM).filter(move |s| *s != seat).map(move |s| (room + s, if seat < s { seat } else { seat - 1 }))
}

/// Datagrams that go out with one system call.
struct Batch {
    fd: i32,
    len: usize,
    buffers: Box<[[u8; DATAGRAM]; BATCH]>,
    lens: [usize; BATCH],
    to: [SocketAddr; BATCH],
}

impl Batch {
    fn new(fd: i32) -> Batch {
        let to = [SocketAddr::from(([127, 0, 0, 1], 9)); BATCH];
        Batch { fd, len: 0, buffers: Box::new([[0; DATAGRAM]; BATCH]), lens: [0; BATCH], to }
    }

    fn flush(&mut self) {
        // SAFETY: all-zero is a valid value of these C structures; pointers are to what lives until the call is over.
        unsafe {
            let mut names: [libc::sockaddr_in; BATCH] = std::mem::zeroed();
            let mut parts: [libc::iovec; BATCH] = std::mem::zeroed();
            let mut headers: [libc::mmsghdr; BATCH] = std::mem::zeroed();
            for i in 0..self.len {
                names[i].sin_family = libc::AF_INET as libc::sa_family_t;
                names[i].sin_port = self.to[i].port().to_be();
                names[i].sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
                parts[i] = libc::iovec { iov_base: self.buffers[i].as_mut_ptr().cast(), iov_len: self.lens[i] };
                let header = &mut headers[i].msg_hdr;
                header.msg_name = (&raw mut names[i]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                header.msg_iov = &raw mut parts[i];
                header.msg_iovlen = 1;
            }
            let mut sent = 0;
            while sent < self.len {
                let rest = (self.len - sent) as libc::c_uint;
                let n = libc::sendmmsg(self.fd, headers[sent..].as_mut_ptr(), rest, 0);
                // What can't be sent shows as loss.
                sent += usize::try_from(n).unwrap_or(1).max(1);
            }
        }
        self.len = 0;
    }
}

impl Wire for Batch {
    fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        if let Some(len) = write(&mut self.buffers[self.len]) {
            (self.lens[self.len], self.to[self.len]) = (len, to);
            self.len += 1;
        }
        if self.len == BATCH {
            self.flush();
        }
    }
}
