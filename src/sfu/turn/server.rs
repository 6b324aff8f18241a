//! A TURN server process: one port for UDP and TCP, relayed addresses, one thread that owns the relay, an HTTP API.

use super::super::server::{SOCKET_BUFFER, print_line, udp_socket};
use super::super::{http, process};
use super::auth::Auth;
use super::relay::{Admission, Client, Io, Over, Relay, RelayConfig, RelayCounts};
use super::wire;
use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

/// Datagrams read before others have their turn.
const BATCH: usize = 64;
const DATAGRAM_MAX: usize = 2048;
/// What may wait for a client that does not read its stream; the rest is dropped, as UDP would.
const STREAM_QUEUE: usize = 1024;
/// How often a server that is to end looks whether it is empty.
const DRAIN_CHECK: Duration = Duration::from_millis(100);
/// Tries for a free port of a range.
const PORT_TRIES: u32 = 64;

/// Runs one TURN server of the embedded fleet until stdin ends.
#[derive(clap::Args, Clone, Debug)]
pub struct TurnArgs {
    /// Name of the server.
    #[arg(long)]
    pub id: String,
    /// Where clients find it, over UDP and TCP; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Address of the HTTP API; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// FIRST-LAST: ports of relayed addresses; by default whatever is free.
    #[arg(long)]
    pub relay_ports: Option<Ports>,
    #[arg(long, default_value = "roomful")]
    pub realm: String,
    /// Allocations of one user; beyond that 486.
    #[arg(long)]
    pub user_quota: Option<usize>,
    /// Allocations of all; beyond that 486.
    #[arg(long)]
    pub total_quota: Option<usize>,
    /// Seconds that an allocation lives, at most and where its client asks for less.
    #[arg(long, default_value_t = 600)]
    pub lifetime_s: u64,
    #[arg(long, default_value_t = 3600)]
    pub lifetime_max_s: u64,
    /// Seconds after which a nonce is stale.
    #[arg(long, default_value_t = 600)]
    pub nonce_lifetime_s: u64,
}

/// Both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let ports = text.split_once('-').and_then(|(a, b)| a.parse().ok().zip(b.parse().ok()));
        match ports {
            Some((first, last)) if 0 < first && first <= last => Ok(Ports { first, last }),
            _ => Err(format!("{text:?}: write it as in 20000-20099")),
        }
    }
}

/// The first line on stdout: it takes allocations now, of these credentials, which are made up for each process.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnReady {
    pub id: String,
    pub pid: u32,
    /// Base URL of its own API: `/stats`, `/cordon`, `/uncordon`.
    pub http: String,
    /// For clients, over UDP and TCP.
    pub listen: SocketAddr,
    pub username: String,
    pub password: String,
    /// Of time-limited credentials, which it takes too.
    pub secret: String,
}

impl std::fmt::Debug for TurnReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnReady").field("id", &self.id).field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// `GET /stats`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TurnStats {
    pub id: String,
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    /// Takes no new allocations.
    pub cordoned: bool,
    /// Was told to end, and does so when it is empty.
    pub draining: bool,
    /// Datagrams lost because the kernel, or a client's stream, would not take them.
    pub send_errors: u64,
    pub relay: RelayCounts,
}

/// The process's whole life; prints [`TurnReady`] as one line of JSON. SIGTERM drains it: new allocations are refused (403),
/// and it ends when the last one is gone, or at the second SIGTERM.
///
/// # Errors
/// When sockets can't be bound or the media thread has ended.
pub fn run(args: TurnArgs) -> anyhow::Result<()> {
    process::exit_with_parent();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: TurnArgs) -> anyhow::Result<()> {
    anyhow::ensure!(!args.listen.ip().is_unspecified(), "--listen: {} is no address of clients", args.listen);
    let (udp, tcp) = bind_both(args.listen)?;
    let listen = udp.local_addr()?;
    let listener =
        TcpListener::bind(args.http).await.with_context(|| format!("--http: can't listen on {}", args.http))?;
    let base = format!("http://{}", listener.local_addr()?);

    let word = || format!("{:032x}", rand::random::<u128>());
    let (username, password, secret) = (format!("roomful-{}", args.id), word(), word());
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let auth = Auth::new(&args.realm, rand::random(), Instant::now(), unix.as_secs())
        .with_user(&username, &password)
        .with_secret(&secret)
        .with_nonce_lifetime(Duration::from_secs(args.nonce_lifetime_s));
    let config = RelayConfig {
        auth,
        relay: listen.ip(),
        user_quota: args.user_quota,
        total_quota: args.total_quota,
        lifetime: Duration::from_secs(args.lifetime_s),
        lifetime_max: Duration::from_secs(args.lifetime_max_s),
    };
    let (commands, inbox) = mpsc::unbounded_channel();
    let (ended, media_ended) = oneshot::channel();
    let ports = args.relay_ports;
    std::thread::Builder::new().name("media".into()).spawn(move || {
        // Dropped when the thread ends, also by a panic.
        let _ended: oneshot::Sender<()> = ended;
        media_thread(udp, tcp, config, ports, inbox)
    })?;

    let ready =
        TurnReady { id: args.id.clone(), pid: std::process::id(), http: base, listen, username, password, secret };
    let shared =
        Arc::new(Shared { id: args.id, commands, cordoned: AtomicBool::new(false), draining: AtomicBool::new(false) });
    let terminated = shared.clone();
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let app = Router::new()
        .route("/stats", get(stats))
        .route("/cordon", post(cordon))
        .route("/uncordon", post(uncordon))
        .fallback(http::not_found)
        .with_state(shared);
    print_line(&ready)?;
    tokio::select! {
        served = axum::serve(listener, app) => served.context("HTTP API"),
        _ = media_ended => anyhow::bail!("the media thread has ended"),
        () = terminated.drain(&mut told) => Ok(()),
    }
}

/// The same port for UDP and TCP.
fn bind_both(address: SocketAddr) -> anyhow::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let mut last = None;
    // A free UDP port need not be free for TCP.
    for _ in 0..PORT_TRIES {
        let tcp = std::net::TcpListener::bind(address).with_context(|| format!("--listen: TCP on {address}"))?;
        match udp_socket(tcp.local_addr()?, SOCKET_BUFFER) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(e) if address.port() == 0 => last = Some(e),
            Err(e) => return Err(e).with_context(|| format!("--listen: UDP on {address}")),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into())).context("--listen: no port for UDP and TCP")
}

enum Command {
    Admit(Admission),
    Stats(oneshot::Sender<(RelayCounts, u64)>),
}

/// The relay and its sockets.
struct Media {
    relay: Relay,
    io: Sockets,
}

struct Sockets {
    /// For the tasks of relayed addresses.
    media: Weak<RefCell<Media>>,
    udp: Rc<UdpSocket>,
    relay_ip: IpAddr,
    ports: Option<Ports>,
    relayed: Vec<Option<(Rc<UdpSocket>, AbortHandle)>>,
    streams: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>,
    send_errors: u64,
}

impl Io for Sockets {
    fn open(&mut self, id: u32, even: bool) -> std::io::Result<SocketAddr> {
        let socket = self.bind(even)?;
        let address = socket.local_addr()?;
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        let task = tokio::task::spawn_local(serve_relayed(self.media.clone(), id, socket.clone()));
        let place = id as usize;
        if self.relayed.len() <= place {
            self.relayed.resize_with(place + 1, || None);
        }
        self.relayed[place] = Some((socket, task.abort_handle()));
        Ok(address)
    }

    fn close(&mut self, id: u32) {
        if let Some((_, task)) = self.relayed.get_mut(id as usize).and_then(Option::take) {
            task.abort();
        }
    }

    fn to_client(&mut self, client: Client, message: &[u8]) {
        let sent = match client.over {
            Over::Udp => self.udp.try_send_to(message, client.addr).is_ok(),
            Over::Tcp => self.streams.get(&client.addr).is_some_and(|s| s.try_send(message.to_vec()).is_ok()),
        };
        self.send_errors += u64::from(!sent);
    }

    fn to_peer(&mut self, id: u32, peer: SocketAddr, data: &[u8]) {
        let sent = match self.relayed.get(id as usize) {
            Some(Some((socket, _))) => socket.try_send_to(data, peer).is_ok(),
            _ => false,
        };
        self.send_errors += u64::from(!sent);
    }
}

impl Sockets {
    fn bind(&self, even: bool) -> std::io::Result<std::net::UdpSocket> {
        let at = |port| udp_socket(SocketAddr::new(self.relay_ip, port), 256 << 10);
        let none = || Err(std::io::ErrorKind::AddrInUse.into());
        let Some(Ports { first, last }) = self.ports else {
            let odd = |s: &std::net::UdpSocket| s.local_addr().is_ok_and(|a| a.port() % 2 == 1);
            let mut tried = (0..PORT_TRIES).map(|_| at(0));
            return tried.find(|s| !even || !s.as_ref().is_ok_and(odd)).unwrap_or_else(none);
        };
        // From a random one on, each once.
        let count = u32::from(last - first) + 1;
        let from = rand::random::<u32>() % count;
        let ports = (0..count).map(|n| first + ((from + n) % count) as u16);
        let mut tried = ports.filter(|port| !even || port % 2 == 0).map(at);
        tried.find(Result::is_ok).unwrap_or_else(none)
    }
}

impl Media {
    fn on_client(&mut self, client: Client, data: &[u8]) {
        self.relay.on_client(Instant::now(), client, data, &mut self.io);
    }
}

fn media_thread(
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    config: RelayConfig,
    ports: Option<Ports>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (udp, tcp) = (Rc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
        let relay_ip = config.relay;
        let media = Rc::new_cyclic(|media: &Weak<RefCell<Media>>| {
            let io = Sockets {
                media: media.clone(),
                udp: udp.clone(),
                relay_ip,
                ports,
                relayed: Vec::new(),
                streams: HashMap::new(),
                send_errors: 0,
            };
            RefCell::new(Media { relay: Relay::new(config, Instant::now()), io })
        });
        tokio::task::spawn_local(serve_udp(media.clone(), udp));
        tokio::task::spawn_local(serve_tcp(media.clone(), tcp));
        loop {
            let wake = media.borrow().relay.poll_timeout();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Admit(admission)) => media.borrow_mut().relay.admit(admission),
                    Some(Command::Stats(reply)) => {
                        let media = media.borrow();
                        // Who asked may have gone.
                        let _ = reply.send((media.relay.counts().clone(), media.io.send_errors));
                    }
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    let Media { relay, io } = &mut *media.borrow_mut();
                    relay.handle_timeout(Instant::now(), io);
                }
            }
        }
    })
}

async fn serve_udp(media: Rc<RefCell<Media>>, udp: Rc<UdpSocket>) {
    let mut buffer = [0; DATAGRAM_MAX];
    while udp.readable().await.is_ok() {
        for _ in 0..BATCH {
            match udp.try_recv_from(&mut buffer) {
                Ok((len, addr)) => media.borrow_mut().on_client(Client { over: Over::Udp, addr }, &buffer[..len]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                // What the kernel says of earlier sends.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn serve_relayed(media: Weak<RefCell<Media>>, id: u32, socket: Rc<UdpSocket>) {
    let mut buffer = [0; DATAGRAM_MAX];
    while socket.readable().await.is_ok() {
        let Some(media) = media.upgrade() else { return };
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((len, from)) => {
                    let Media { relay, io } = &mut *media.borrow_mut();
                    relay.on_peer(Instant::now(), id, from, &buffer[..len], io);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
    }
}

async fn serve_tcp(media: Rc<RefCell<Media>>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                tokio::task::spawn_local(serve_stream(media.clone(), stream, addr));
            }
            // No descriptor left: those there are go on meanwhile.
            Err(_) => tokio::time::sleep(DRAIN_CHECK).await,
        }
    }
}

async fn serve_stream(media: Rc<RefCell<Media>>, stream: TcpStream, addr: SocketAddr) {
    // Media does not wait to be gathered.
    let _ = stream.set_nodelay(true);
    let (mut read, mut write) = stream.into_split();
    let (out, mut queue) = mpsc::channel::<Vec<u8>>(STREAM_QUEUE);
    media.borrow_mut().io.streams.insert(addr, out);
    let client = Client { over: Over::Tcp, addr };
    let writer = tokio::task::spawn_local(async move {
        while let Some(message) = queue.recv().await {
            if write.write_all(&message).await.is_err() {
                return;
            }
        }
    });
    let (mut buffer, mut filled) = (vec![0; 64 << 10], 0);
    'read: while let Ok(len @ 1..) = read.read(&mut buffer[filled..]).await {
        filled += len;
        let mut begin = 0;
        loop {
            match wire::framed(&buffer[begin..filled]) {
                Ok(Some(len)) => {
                    media.borrow_mut().on_client(client, &buffer[begin..begin + len]);
                    begin += len;
                }
                Ok(None) => break,
                Err(wire::NoFrame) => break 'read,
            }
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
        if filled == buffer.len() {
            break;
        }
    }
    writer.abort();
    let Media { relay, io } = &mut *media.borrow_mut();
    io.streams.remove(&addr);
    relay.on_disconnect(client, io);
}

struct Shared {
    id: String,
    commands: mpsc::UnboundedSender<Command>,
    cordoned: AtomicBool,
    draining: AtomicBool,
}

impl Shared {
    async fn stats(&self) -> Option<TurnStats> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Stats(reply)).ok()?;
        let (relay, send_errors) = answer.await.ok()?;
        Some(TurnStats {
            id: self.id.clone(),
            cpu_seconds: process::cpu_seconds(),
            resident_bytes: process::resident_bytes(),
            cordoned: self.cordoned.load(Relaxed),
            draining: self.draining.load(Relaxed),
            send_errors,
            relay,
        })
    }

    fn admit(&self, admission: Admission) -> Response {
        self.cordoned.store(admission != Admission::Open, Relaxed);
        match self.commands.send(Command::Admit(admission)) {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(_) => gone(),
        }
    }

    /// Resolves when the server is to end now.
    async fn drain(&self, told: &mut tokio::signal::unix::Signal) {
        if told.recv().await.is_none() {
            return std::future::pending().await;
        }
        self.draining.store(true, Relaxed);
        self.admit(Admission::Closed);
        let empty = async {
            while self.stats().await.is_some_and(|s| s.relay.allocations > 0) {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        tokio::select! {
            () = empty => {}
            _ = told.recv() => {}
        }
    }
}

fn gone() -> Response {
    http::error(StatusCode::INTERNAL_SERVER_ERROR, "the media thread has ended")
}

async fn stats(State(shared): State<Arc<Shared>>) -> Response {
    shared.stats().await.map_or_else(gone, |stats| axum::Json(stats).into_response())
}

/// `POST`: new allocations are refused; or sent elsewhere, if the body is the address of another TURN server.
async fn cordon(State(shared): State<Arc<Shared>>, body: String) -> Response {
    match body.trim() {
        "" => shared.admit(Admission::Closed),
        other => match other.parse() {
            Ok(address) => shared.admit(Admission::Redirect(address)),
            Err(_) => http::error(StatusCode::BAD_REQUEST, "the body is an address and port, or nothing"),
        },
    }
}

async fn uncordon(State(shared): State<Arc<Shared>>) -> Response {
    shared.admit(Admission::Open)
}
