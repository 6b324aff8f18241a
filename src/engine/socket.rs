//! Media sockets and the batched receive. The only unsafe code: `recvmmsg` with kernel timestamps has no safe wrapper
//! that does not allocate per call.
#![expect(unsafe_code, reason = "recvmmsg, control messages and epoll have no safe, allocation-free wrapper in std")]

use super::clock::KernelTimes;
use crate::participant::{Batch, DATAGRAM_MAX, Received};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Datagrams read by one system call.
const BATCH: usize = 16;
/// Ports that somebody else may take while we do.
const BIND_TRIES: u32 = 20;
/// Room for one timestamp and one drop counter.
const CONTROL_LEN: usize = 64;

/// One UDP socket of one transport. Non-blocking, with kernel receive timestamps and the drop counter switched on.
#[derive(Debug)]
pub struct MediaSocket {
    socket: Socket,
    local: SocketAddr,
    connected: bool,
    /// SO_RXQ_OVFL is cumulative for the socket.
    drops_seen: Cell<u32>,
}

impl MediaSocket {
    /// Binds to an address and a port of the kernel's choice, which is the socket's for good: Linux takes a port that it
    /// chose itself away with [`MediaSocket::disconnect`] (`udp_disconnect`), and an ICE restart would go on from another
    /// one than its candidate says. So the choice is made with a socket that is closed again.
    pub fn bind(ip: IpAddr) -> io::Result<MediaSocket> {
        let mut tries = 0;
        loop {
            let chosen = std::net::UdpSocket::bind((ip, 0))?.local_addr()?;
            match MediaSocket::bind_to(chosen) {
                // Somebody else was quicker.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => tries += 1,
                bound => return bound,
            }
        }
    }

    /// Binds to an address and port; port 0 is one of the kernel's choice.
    pub fn bind_to(address: SocketAddr) -> io::Result<MediaSocket> {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        let on: libc::c_int = 1;
        for option in [libc::SO_TIMESTAMPNS, libc::SO_RXQ_OVFL] {
            // SAFETY: a valid descriptor, and a value of the length we pass.
            let r = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if r != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an IP socket"))?;
        Ok(MediaSocket { socket, local, connected: false, drops_seen: Cell::new(0) })
    }

    /// Asks for a receive buffer of so many bytes; the kernel doubles it and bounds it by net.core.rmem_max.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        self.socket.set_recv_buffer_size(bytes)
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// From now on only this peer's datagrams arrive, and a dead port there shows as ECONNREFUSED.
    pub fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        self.socket.connect(&SockAddr::from(peer))?;
        self.connected = true;
        Ok(())
    }

    /// Back to any peer, for an ICE restart.
    pub fn disconnect(&mut self) -> io::Result<()> {
        let mut a: libc::sockaddr = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
        a.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
        // SAFETY: AF_UNSPEC needs the family only; the structure is valid for its whole length.
        let r = unsafe {
            libc::connect(self.socket.as_raw_fd(), &raw const a, size_of::<libc::sockaddr>() as libc::socklen_t)
        };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        self.connected = false;
        Ok(())
    }

    /// One datagram: to the connected peer, or to `to`.
    pub fn send(&self, to: Option<SocketAddr>, datagram: &[u8]) -> io::Result<()> {
        match to {
            None => self.socket.send(datagram)?,
            Some(to) => self.socket.send_to(datagram, &SockAddr::from(to))?,
        };
        Ok(())
    }

    /// One datagram to the connected peer, from parts that lie apart.
    #[inline]
    pub fn send_parts(&self, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        self.socket.send_vectored(parts).map(drop)
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsRawFd for MediaSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd()
    }
}

/// What one drain of a socket met beside datagrams.
#[derive(Clone, Copy, Default, Debug)]
pub struct Drained {
    pub datagrams: u32,
    /// Newly dropped by the kernel at this socket.
    pub dropped: u32,
    /// ECONNREFUSED and the like: the peer's port is closed.
    pub refused: u32,
    /// There may be more: an edge-triggered set won't say so again.
    pub unfinished: bool,
}

impl std::ops::AddAssign for Drained {
    /// With what a later read met.
    fn add_assign(&mut self, later: Drained) {
        self.datagrams += later.datagrams;
        self.dropped += later.dropped;
        self.refused += later.refused;
        self.unfinished = later.unfinished;
    }
}

/// Sockets that are read one after another before what came is looked at: the kernel's code and ours then take turns less
/// often in the caches.
pub const TOGETHER: usize = 8;

/// Buffers for `recvmmsg`, shared by all sockets of a shard.
pub struct Receiver {
    places: Box<[Place; TOGETHER]>,
    control: Box<[[u64; CONTROL_LEN / 8]; BATCH]>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    // Both point into the boxes above, which never move; rebuilt before each call all the same.
    iov: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    times: KernelTimes,
}

/// What one read brought.
struct Place {
    buffers: [[u8; DATAGRAM_MAX]; BATCH],
    received: [Received; BATCH],
    len: usize,
}

// SAFETY: the raw pointers inside point only into boxes that the same value owns.
unsafe impl Send for Receiver {}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver::new()
    }
}

impl Receiver {
    pub fn new() -> Receiver {
        // SAFETY: all-zero is a valid value of these C structures.
        let (names, iov, headers) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        let place = || Place { buffers: [[0; DATAGRAM_MAX]; BATCH], received: [Received::default(); BATCH], len: 0 };
        let places: Vec<Place> = std::iter::repeat_with(place).take(TOGETHER).collect();
        let Ok(places) = places.into_boxed_slice().try_into() else { unreachable!("as many as are taken") };
        Receiver {
            places,
            control: Box::new([[0; CONTROL_LEN / 8]; BATCH]),
            names: Box::new(names),
            iov: Box::new(iov),
            headers: Box::new(headers),
            times: KernelTimes::new(),
        }
    }

    /// Looks whether somebody has set the clock that the kernel stamps by: before sockets are read.
    pub fn look_at_clock(&mut self) {
        self.times.look();
    }

    /// Reads everything that waits on the socket, a batch a system call.
    pub fn drain(&mut self, socket: &MediaSocket, mut each: impl FnMut(Batch<'_>)) -> Drained {
        let mut drained = self.read(0, socket);
        each(self.batch(0));
        drained += self.read_on(0, socket, drained, each);
        drained
    }

    /// Reads up to a batch of what waits on the socket into one of [`TOGETHER`] places; with one system call, unless
    /// errors were pending.
    pub fn read(&mut self, place: usize, socket: &MediaSocket) -> Drained {
        let mut drained = Drained { unfinished: true, ..Drained::default() };
        self.places[place].len = 0;
        for _ in 0..16 {
            let n = match self.receive(place, socket) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    drained.unfinished = false;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // A pending ICMP error is reported once, in place of data.
                Err(_) => {
                    drained.refused += 1;
                    continue;
                }
            };
            for i in 0..n {
                let (recv_ns, drops) = self.control_of(i);
                if let Some(d) = drops {
                    drained.dropped += d.wrapping_sub(socket.drops_seen.replace(d));
                }
                let from = if socket.connected { None } else { self.name_of(i) };
                let len = (self.headers[i].msg_len as usize).min(DATAGRAM_MAX) as u16;
                self.places[place].received[i] = Received { from, recv_ns: self.times.of(recv_ns), len };
            }
            self.places[place].len = n;
            drained.datagrams += n as u32;
            drained.unfinished = n == BATCH;
            break;
        }
        drained
    }

    /// What the last read into a place brought.
    pub fn batch(&mut self, place: usize) -> Batch<'_> {
        let p = &mut self.places[place];
        Batch { received: &p.received[..p.len], buffers: &mut p.buffers[..p.len] }
    }

    /// After a first read with this result: reads on as long as batches are full. A socket that is flooded must not
    /// starve the others of the shard, so there is an end to it.
    pub fn read_on(
        &mut self,
        place: usize,
        socket: &MediaSocket,
        first: Drained,
        mut each: impl FnMut(Batch<'_>),
    ) -> Drained {
        let mut drained = Drained { unfinished: first.unfinished, ..Drained::default() };
        for _ in 1..16 {
            if !drained.unfinished {
                break;
            }
            drained += self.read(place, socket);
            each(self.batch(place));
        }
        drained
    }

    fn receive(&mut self, place: usize, socket: &MediaSocket) -> io::Result<usize> {
        let named = !socket.connected;
        let buffers = &mut self.places[place].buffers;
        for (i, buffer) in buffers.iter_mut().enumerate() {
            self.iov[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM_MAX };
            let h = &mut self.headers[i].msg_hdr;
            h.msg_iov = &raw mut self.iov[i];
            h.msg_iovlen = 1;
            h.msg_control = self.control[i].as_mut_ptr().cast();
            h.msg_controllen = CONTROL_LEN;
            h.msg_flags = 0;
            if named {
                h.msg_name = (&raw mut self.names[i]).cast();
                h.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            } else {
                h.msg_name = std::ptr::null_mut();
                h.msg_namelen = 0;
            }
        }
        // SAFETY: every header points to buffers of the lengths given, alive for the call.
        let n = unsafe {
            libc::recvmmsg(
                socket.fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// Timestamp in ns, and the drop counter where the kernel sent one (it does after the first drop).
    fn control_of(&self, i: usize) -> (u64, Option<u32>) {
        let (mut ns, mut drops) = (0, None);
        let h = &self.headers[i].msg_hdr;
        // SAFETY: the kernel filled `msg_control` up to `msg_controllen` with well-formed control messages; the
        // CMSG macros walk inside these bounds, and the reads are unaligned-safe.
        unsafe {
            let mut c = libc::CMSG_FIRSTHDR(h);
            while !c.is_null() {
                if (*c).cmsg_level == libc::SOL_SOCKET {
                    if (*c).cmsg_type == libc::SCM_TIMESTAMPNS {
                        let t: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(c).cast());
                        ns = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
                    } else if (*c).cmsg_type == libc::SO_RXQ_OVFL {
                        drops = Some(std::ptr::read_unaligned(libc::CMSG_DATA(c).cast::<u32>()));
                    }
                }
                c = libc::CMSG_NXTHDR(h, c);
            }
        }
        (ns, drops)
    }

    fn name_of(&self, i: usize) -> Option<SocketAddr> {
        let n = &self.names[i];
        match i32::from(n.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what the storage holds.
                let a: libc::sockaddr_in = unsafe { std::ptr::read_unaligned((&raw const *n).cast()) };
                let ip = std::net::Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr));
                Some(SocketAddr::new(ip.into(), u16::from_be(a.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let a: libc::sockaddr_in6 = unsafe { std::ptr::read_unaligned((&raw const *n).cast()) };
                let ip = std::net::Ipv6Addr::from(a.sin6_addr.s6_addr);
                Some(SocketAddr::new(ip.into(), u16::from_be(a.sin6_port)))
            }
            _ => None,
        }
    }
}

/// When a set names a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// As long as there is something in it.
    Level,
    /// When something comes: it has to be read until nothing is left. Spares the kernel a second look at each socket.
    Edge,
}

/// An epoll set of sockets, each with a key.
pub struct Poll {
    fd: OwnedFd,
    trigger: Trigger,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    pub fn new(trigger: Trigger) -> io::Result<Poll> {
        // SAFETY: plain system call; the descriptor it returns is ours.
        let fd = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Poll { fd, trigger, events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024] })
    }

    pub fn add(&self, socket: &impl AsRawFd, key: u64) -> io::Result<()> {
        let edge = if self.trigger == Trigger::Edge { libc::EPOLLET } else { 0 };
        let mut e = libc::epoll_event { events: (libc::EPOLLIN | edge) as u32, u64: key };
        self.control(libc::EPOLL_CTL_ADD, socket, &mut e)
    }

    pub fn remove(&self, socket: &impl AsRawFd) -> io::Result<()> {
        let mut e = libc::epoll_event { events: 0, u64: 0 };
        self.control(libc::EPOLL_CTL_DEL, socket, &mut e)
    }

    fn control(&self, op: libc::c_int, socket: &impl AsRawFd, event: &mut libc::epoll_event) -> io::Result<()> {
        // SAFETY: both descriptors are open, the event is valid.
        let r = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, socket.as_raw_fd(), event) };
        if r != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Appends the keys of the sockets that have something, without waiting. At most 1024; call again while it is full.
    pub fn ready(&mut self, keys: &mut Vec<u64>) {
        self.wait_ms(keys, 0);
    }

    /// The same, waiting up to `most` for the first. epoll counts in milliseconds; what is left of one is slept.
    pub fn wait(&mut self, keys: &mut Vec<u64>, most: std::time::Duration) {
        let ms = most.as_millis() as libc::c_int;
        self.wait_ms(keys, ms);
        if keys.is_empty() && ms == 0 && !most.is_zero() {
            std::thread::sleep(most);
            self.wait_ms(keys, 0);
        }
    }

    fn wait_ms(&mut self, keys: &mut Vec<u64>, ms: libc::c_int) {
        // SAFETY: the event buffer has the length given.
        let n = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), self.events.len() as libc::c_int, ms)
        };
        keys.extend(self.events.iter().take(n.max(0) as usize).map(|e| e.u64));
    }
}

/// CPU time of the calling thread in ns.
pub fn thread_cpu_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into the structure we own.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The core that the calling thread runs on.
pub fn current_core() -> Option<u32> {
    // SAFETY: no arguments, no memory.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Descriptors that this process may open (the soft limit); `None` without a limit.
pub fn descriptor_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes into the structure we own.
    let r = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (r == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// CLOCK_REALTIME - CLOCK_MONOTONIC in ns, and how far the reading may be off: the closest of a few.
pub fn clock_offset_ns() -> (i64, i64) {
    let read = |clock| {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes into the structure we own.
        unsafe { libc::clock_gettime(clock, &raw mut t) };
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    };
    let mut best = (0, i64::MAX);
    for _ in 0..5 {
        let before = read(libc::CLOCK_MONOTONIC);
        let real = read(libc::CLOCK_REALTIME);
        let around = read(libc::CLOCK_MONOTONIC) - before;
        if around < best.1 {
            best = (real - before - around / 2, around);
        }
    }
    best
}

/// Lets this process open as many descriptors as its hard limit says; shells often give 1024 to begin with.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and writes the structure we own. Failing leaves the limit as it was, and `check` has compared it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// The address the kernel would send from to reach `peer`; no packet is sent.
pub fn source_address(peer: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let s = std::net::UdpSocket::bind((any, 0))?;
    s.connect((peer, 9))?;
    Ok(s.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn receives_in_batches_with_kernel_time() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let a = MediaSocket::bind(ip).unwrap();
        let b = MediaSocket::bind(ip).unwrap();
        let before = crate::engine::realtime_ns();
        for i in 0..40u8 {
            a.send(Some(b.local()), &[i, 1, 2]).unwrap();
        }
        let mut poll = Poll::new(Trigger::Edge).unwrap();
        poll.add(&b, 7).unwrap();
        let mut keys = vec![];
        poll.ready(&mut keys);
        assert_eq!(keys, [7]);
        poll.ready(&mut keys);
        assert_eq!(keys, [7], "an edge is told once");
        let mut got = vec![];
        let d = Receiver::new().drain(&b, |mut batch| {
            batch.each(None, |from, recv_ns, data| {
                assert_eq!(from, a.local());
                assert!(recv_ns >= before, "{recv_ns} {before}");
                got.push(data[0]);
            });
        });
        assert_eq!(got, (0..40).collect::<Vec<u8>>());
        assert_eq!((d.datagrams, d.dropped, d.refused, d.unfinished), (40, 0, 0, false));
    }

    /// As in an ICE restart: the candidate that was signalled stays ours, also for what comes before we send again.
    #[test]
    fn a_disconnected_socket_keeps_its_port() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut a = MediaSocket::bind(ip).unwrap();
        let [peer, other] = [0, 1].map(|_| MediaSocket::bind(ip).unwrap());
        a.connect(peer.local()).unwrap();
        a.disconnect().unwrap();
        let mut from = vec![];
        peer.send(Some(a.local()), b"1").unwrap();
        other.send(Some(a.local()), b"2").unwrap();
        Receiver::new().drain(&a, |mut batch| batch.each(None, |who, _, _| from.push(who)));
        assert_eq!(from, [peer.local(), other.local()]);
        a.send(Some(peer.local()), b"3").unwrap();
        let mut back = vec![];
        Receiver::new().drain(&peer, |mut batch| batch.each(None, |who, _, _| back.push(who)));
        assert_eq!(back, [a.local()]);
    }

    #[test]
    fn a_closed_port_is_evidence_and_a_full_buffer_is_counted() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut a = MediaSocket::bind(ip).unwrap();
        let gone = MediaSocket::bind(ip).unwrap().local();
        a.connect(gone).unwrap();
        let mut refused = 0;
        for _ in 0..3 {
            refused += u32::from(a.send(None, b"x").is_err());
        }
        refused += Receiver::new().drain(&a, |_| {}).refused;
        assert!(refused > 0);

        let small = MediaSocket::bind(ip).unwrap();
        small.socket.set_recv_buffer_size(4096).unwrap();
        let sender = MediaSocket::bind(ip).unwrap();
        for _ in 0..100 {
            sender.send(Some(small.local()), &[0; 1000]).unwrap();
        }
        let mut r = Receiver::new();
        let first = r.drain(&small, |_| {});
        sender.send(Some(small.local()), &[0; 1000]).unwrap();
        let second = r.drain(&small, |_| {});
        assert!(first.datagrams < 100);
        assert_eq!(first.datagrams + second.datagrams + first.dropped + second.dropped, 101);
    }
}
