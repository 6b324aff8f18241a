//! What a transport's datagrams go over: a UDP socket, or a connection to a TURN server (TCP or TLS).

use super::socket::MediaSocket;
use crate::turn::frame::{self, Deframer};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// What may wait for a server that does not read: about what a browser's socket lets wait. Beyond it, datagrams are lost.
const UNSENT_MAX: usize = 256 << 10;

pub enum Wire {
    Udp(MediaSocket),
    /// Shared with whoever looks at the participant's sockets; borrowed for a moment only.
    Stream(Box<RefCell<Stream>>),
}

impl Wire {
    /// The address of its socket.
    pub fn local(&self) -> SocketAddr {
        match self {
            Wire::Udp(s) => s.local(),
            Wire::Stream(s) => s.borrow().local,
        }
    }

    /// One message to the peer that it is connected to, behind its frame.
    #[inline]
    pub fn send_framed(&self, frame: &[u8], message: &[u8]) -> io::Result<()> {
        match self {
            Wire::Udp(s) => s.send_parts(&[IoSlice::new(frame), IoSlice::new(message)]),
            Wire::Stream(s) => s.borrow_mut().send(frame, message),
        }
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Wire::Udp(s) => s.fd(),
            Wire::Stream(s) => s.borrow().socket.as_raw_fd(),
        }
    }
}

/// A connection to a TURN server. Non-blocking; what it can't send yet waits, within bounds.
pub struct Stream {
    socket: Socket,
    local: SocketAddr,
    tls: Option<Box<ClientConnection>>,
    unsent: Vec<u8>,
    pub deframer: Deframer,
}

impl Stream {
    /// Begins to connect from an address and a port of the kernel's choice.
    pub fn open(
        from: IpAddr,
        server: SocketAddr,
        tls: Option<(Arc<rustls::ClientConfig>, &str)>,
    ) -> io::Result<Stream> {
        let domain = if server.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&SockAddr::from(server)) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        let tls = match tls {
            None => None,
            Some((config, host)) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let mut c = ClientConnection::new(config, name).map_err(io::Error::other)?;
                // Its bound is that of `unsent`: a frame that it took in part would break the stream.
                c.set_buffer_limit(None);
                Some(Box::new(c))
            }
        };
        Ok(Stream { socket, local, tls, unsent: Vec::new(), deframer: Deframer::default() })
    }

    fn send(&mut self, frame: &[u8], message: &[u8]) -> io::Result<()> {
        if self.unsent.len() > UNSENT_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // Only ChannelData has a length that is no multiple of four.
        let pad = &[0; 3][..frame::padding(frame.len() + message.len())];
        for part in [frame, message, pad] {
            match &mut self.tls {
                Some(tls) => tls.writer().write_all(part)?,
                None => self.unsent.extend_from_slice(part),
            }
        }
        self.flush()
    }

    /// True while something waits for the server, or for the connection to be made.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.tls.as_ref().is_some_and(|t| t.wants_write())
    }

    /// Sends what it can now. Errors: the connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() && self.unsent.len() < UNSENT_MAX {
                tls.write_tls(&mut self.unsent)?;
            }
        }
        while !self.unsent.is_empty() {
            match self.socket.send_with_flags(&self.unsent, libc::MSG_NOSIGNAL) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if is_not_yet(&e) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what has come, into the deframer. Gives how many bytes of the application's; errors: the connection is gone,
    /// [`io::ErrorKind::UnexpectedEof`] if the server closed it.
    pub fn read(&mut self) -> io::Result<usize> {
        let mut buf = [0; 16 << 10];
        let mut total = 0;
        // A server that floods one connection must not starve the others.
        for _ in 0..16 {
            let n = match (&self.socket).read(&mut buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if is_not_yet(&e) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            match &mut self.tls {
                None => {
                    self.deframer.push(&buf[..n]);
                    total += n;
                }
                Some(tls) => {
                    let mut cipher = &buf[..n];
                    while !cipher.is_empty() {
                        tls.read_tls(&mut cipher)?;
                        tls.process_new_packets().map_err(io::Error::other)?;
                        let mut plain = [0; 16 << 10];
                        loop {
                            match tls.reader().read(&mut plain) {
                                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                                Ok(n) => {
                                    self.deframer.push(&plain[..n]);
                                    total += n;
                                }
                                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                                Err(e) => return Err(e),
                            }
                        }
                    }
                }
            }
        }
        self.flush()?;
        Ok(total)
    }
}

/// Also a connection that is still being made.
fn is_not_yet(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock || matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::EINPROGRESS))
}
