//! A server process: one UDP socket for all media, one thread that owns the [`Sfu`], one HTTP API.

use super::api::{Cascade, ServerReady, ServerStats, Told};
use super::client::Joining;
use super::http;
use super::moves::{self, Moves, Teller};
use super::process;
use super::quota::{Pace, Quota};
use super::rooms::Sfu;
use super::terms::{Datagram, Forwarded, JoinError, Joined, Left, RestartError, SfuConfig, Stats};
use crate::types::Sin;
use anyhow::Context;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

/// Datagrams read before their copies are sent: bounds the delay that batching adds.
const BATCH: usize = 64;
/// Asked for; the kernel gives at most `net.core.rmem_max` and `wmem_max`.
pub(super) const SOCKET_BUFFER: usize = 8 << 20;
/// Far above what a room of hundreds needs, far below what would hurt.
const OFFER_MAX: usize = 4 << 20;
const DATAGRAM_MAX: usize = 2048;
/// How often a server that is to end looks whether it is empty.
const DRAIN_CHECK: Duration = Duration::from_millis(100);
/// For the last datagrams to leave.
const FAREWELL: Duration = Duration::from_millis(50);

/// Runs one server of the embedded fleet until stdin ends.
#[derive(clap::Args, Clone, Debug)]
pub struct ServerArgs {
    /// Name of the server, as clients and the registry see it.
    #[arg(long)]
    pub id: String,
    /// Address of the HTTP API; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// Address for media, as it stands in answers.
    #[arg(long, default_value = "127.0.0.1")]
    pub media: IpAddr,
    /// Port for media; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub media_port: u16,
    /// Address that answers name instead of --media, with the same port: of what forwards to this server.
    #[arg(long)]
    pub advertise: Option<IpAddr>,
    /// Joins beyond this are refused with 503.
    #[arg(long, default_value_t = 200)]
    pub participants_max: usize,
    /// Share of a core (0..1) that the media thread may use in each 50 ms; then it stands still until the next, as under
    /// a CPU quota.
    #[arg(long, default_value_t = 1.0)]
    pub cpu_max: f64,
    /// CPU time (ns) that the media thread takes at least for each packet that it sends on.
    #[arg(long, default_value_t = 0)]
    pub packet_cost_ns: u64,
    /// Last-N: participants get the video of so many senders, those who talked last.
    #[arg(long)]
    pub last_n: Option<u32>,
    /// Commit this fault on purpose.
    #[arg(long)]
    pub sin: Option<Sin>,
}

/// The process's whole life; prints [`ServerReady`] as one line of JSON when it takes joins. SIGTERM drains it: it ends
/// when its last participant is gone, or at the second one, which closes all sessions.
///
/// # Errors
/// When sockets can't be bound or the media thread has ended.
pub fn run(args: ServerArgs) -> anyhow::Result<()> {
    process::exit_with_parent();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: ServerArgs) -> anyhow::Result<()> {
    anyhow::ensure!(!args.media.is_unspecified(), "--media: answers must name an address, {} is none", args.media);
    let media_socket = |port| {
        let address = SocketAddr::new(args.media, port);
        udp_socket(address, SOCKET_BUFFER).with_context(|| format!("can't bind the media socket to {address}"))
    };
    let socket = media_socket(args.media_port)?;
    let media = socket.local_addr()?;
    let cascade_socket = media_socket(0)?;
    let cascade = cascade_socket.local_addr()?;
    let advertised = SocketAddr::new(args.advertise.unwrap_or(args.media), media.port());
    let config = SfuConfig { sin: args.sin, last_n: args.last_n, ..SfuConfig::new(advertised, args.participants_max)? };
    let listener = tokio::net::TcpListener::bind(args.http)
        .await
        .with_context(|| format!("--http: can't listen on {}", args.http))?;
    let base = format!("http://{}", listener.local_addr()?);

    let (commands, inbox) = mpsc::unbounded_channel();
    let send_errors = Arc::new(AtomicU64::new(0));
    let media_config = config.clone();
    let media_errors = send_errors.clone();
    let moves = Moves::new();
    let teller = moves.teller();
    let (ended, media_ended) = oneshot::channel();
    let pace = Pace { cpu_max: args.cpu_max, packet_cost: Duration::from_nanos(args.packet_cost_ns) };
    std::thread::Builder::new().name("media".into()).spawn(move || {
        // Dropped when the thread ends, also by a panic.
        let _ended: oneshot::Sender<()> = ended;
        media_thread([socket, cascade_socket], media_config, inbox, &media_errors, pace, &teller)
    })?;

    let ready = ServerReady { id: args.id.clone(), pid: std::process::id(), http: base.clone(), media, cascade };
    let draining = AtomicBool::new(false);
    let started = Instant::now();
    let shared =
        Arc::new(Shared { id: args.id, base, config, bound: media, commands, send_errors, draining, started, moves });
    let terminated = shared.clone();
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let app = Router::new()
        .route("/rooms/{room}/participants/{name}", post(join))
        .route("/rooms/{room}/layer_max", put(limit_room))
        .route("/rooms/{room}/participants/{name}/layer_max", put(limit_participant))
        .route("/rooms/{room}/cascade", put(cascade_room))
        .route("/rooms/{room}/move", post(moves::move_room))
        .route("/sessions/{session}", delete(leave).patch(restart))
        .route("/sessions/{session}/ready", post(moves::ready))
        .route("/events", get(moves::events))
        .route("/rooms/{room}/rejoin", post(moves::rejoin_room))
        .route("/rejoin", post(moves::rejoin_all))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics))
        .fallback(http::not_found)
        .layer(DefaultBodyLimit::max(OFFER_MAX))
        .layer(axum::middleware::from_fn(http::cors))
        .with_state(shared);
    print_line(&ready)?;
    tokio::select! {
        served = axum::serve(listener, app) => served.context("HTTP API"),
        _ = media_ended => anyhow::bail!("the media thread has ended"),
        () = terminated.drain(&mut told) => Ok(()),
    }
}

/// One line of JSON on stdout: how parents learn addresses.
pub(super) fn print_line(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

/// A bound, non-blocking socket with buffers of so many bytes.
pub(super) fn udp_socket(address: SocketAddr, buffer: usize) -> std::io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    // The kernel cuts these down to its limits without an error.
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

enum Command {
    Admit {
        room: String,
        name: String,
        joining: Box<Joining>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    },
    LimitLayers {
        room: String,
        name: Option<String>,
        layer_max: u8,
        reply: oneshot::Sender<bool>,
    },
    Cascade {
        room: String,
        with: Cascade,
        reply: oneshot::Sender<bool>,
    },
    Restart {
        session: String,
        offer: String,
        reply: oneshot::Sender<Result<String, RestartError>>,
    },
    Leave {
        session: String,
        reply: oneshot::Sender<Left>,
    },
    CloseAll {
        reply: oneshot::Sender<()>,
    },
    /// Of a room, or all.
    Sessions {
        room: Option<String>,
        reply: oneshot::Sender<Vec<String>>,
    },
    Stats {
        reply: oneshot::Sender<(Stats, BTreeMap<String, u64>)>,
    },
}

fn media_thread(
    sockets: [std::net::UdpSocket; 2],
    config: SfuConfig,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    send_errors: &AtomicU64,
    pace: Pace,
    teller: &Teller,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let [socket, cascade] = sockets;
        let (socket, cascade) = (UdpSocket::from_std(socket)?, UdpSocket::from_std(cascade)?);
        let mut sfu = Sfu::new(config, Instant::now());
        let mut buffer = [0; DATAGRAM_MAX];
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        let mut quota = Quota::new(pace, Instant::now());
        loop {
            if let Some(pause) = quota.spent(Instant::now()) {
                std::thread::sleep(pause);
            }
            sleep.as_mut().reset(sfu.poll_timeout().into());
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(command) => obey(&mut sfu, command),
                    None => return Ok(()),
                },
                readable = socket.readable() => readable?,
                readable = cascade.readable() => readable?,
                () = &mut sleep => {}
            }
            // Both, whichever woke us: neither may starve the other.
            read(&socket, &mut buffer, |from, bytes| sfu.handle_datagram(Instant::now(), from, bytes));
            read(&cascade, &mut buffer, |from, bytes| sfu.handle_cascade(Instant::now(), from, bytes));
            sfu.handle_timeout(Instant::now());
            let send = |socket: &UdpSocket, datagram: &Datagram| {
                if socket.try_send_to(&datagram.contents, datagram.to).is_err() {
                    send_errors.fetch_add(1, Relaxed);
                }
            };
            while let Some(datagram) = sfu.poll_cascade() {
                send(&cascade, &datagram);
            }
            while let Some(datagram) = sfu.poll_transmit() {
                send(&socket, &datagram);
            }
            // Transports that broke while they sent have told the other servers.
            while let Some(datagram) = sfu.poll_cascade() {
                send(&cascade, &datagram);
            }
            while let Some(Forwarded { session, senders }) = sfu.poll_told() {
                teller.tell(session, Told::Forwarded { senders });
            }
            quota.work(sfu.packets_sent_on());
        }
    })
}

/// What has arrived, a batch at most.
fn read(socket: &UdpSocket, buffer: &mut [u8], mut take: impl FnMut(SocketAddr, &[u8])) {
    for _ in 0..BATCH {
        match socket.try_recv_from(buffer) {
            Ok((len, from)) => take(from, &buffer[..len]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => continue,
        }
    }
}

/// A caller that has gone away needs no reply.
fn obey(sfu: &mut Sfu, command: Command) {
    let now = Instant::now();
    match command {
        Command::Admit { room, name, joining, reply } => {
            let admitted = sfu.admit(now, &room, &name, *joining);
            let session = admitted.as_ref().ok().map(|j| j.session.clone());
            if let (Err(_), Some(session)) = (reply.send(admitted), session) {
                sfu.leave(now, &session);
            }
        }
        Command::LimitLayers { room, name, layer_max, reply } => {
            let _ = reply.send(sfu.limit_layers(now, &room, name.as_deref(), layer_max));
        }
        Command::Cascade { room, with, reply } => {
            let _ = reply.send(sfu.set_cascade(now, &room, with.version, &with.peers));
        }
        Command::Restart { session, offer, reply } => {
            let _ = reply.send(sfu.restart(now, &session, &offer));
        }
        Command::Leave { session, reply } => {
            let _ = reply.send(sfu.leave(now, &session));
        }
        Command::CloseAll { reply } => {
            sfu.close_all(now);
            let _ = reply.send(());
        }
        Command::Sessions { room, reply } => {
            let _ = reply.send(sfu.sessions(room.as_deref()));
        }
        Command::Stats { reply } => {
            let _ = reply.send((sfu.stats(), sfu.rooms().map(|(name, n)| (name.to_owned(), n)).collect()));
        }
    }
}

pub(super) struct Shared {
    pub id: String,
    base: String,
    config: SfuConfig,
    /// Where the media socket really is.
    bound: SocketAddr,
    commands: mpsc::UnboundedSender<Command>,
    send_errors: Arc<AtomicU64>,
    /// Was told to end.
    draining: AtomicBool,
    started: Instant,
    pub(super) moves: Moves,
}

impl Shared {
    /// Sessions of a room, or of all.
    pub async fn sessions(&self, room: Option<&str>) -> Vec<String> {
        let room = room.map(str::to_owned);
        self.ask(|reply| Command::Sessions { room, reply }).await.unwrap_or_default()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Response> {
        let gone = || http::error(StatusCode::INTERNAL_SERVER_ERROR, "the media thread has ended");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Resolves when the server is to end now.
    async fn drain(&self, told: &mut tokio::signal::unix::Signal) {
        if told.recv().await.is_none() {
            return std::future::pending().await;
        }
        self.draining.store(true, Relaxed);
        let empty = async {
            while self.stats().await.is_ok_and(|s| s.traffic.participants > s.traffic.ghosts) {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        if self.config.sin != Some(Sin::KillNonEmpty) {
            tokio::select! {
                () = empty => {}
                _ = told.recv() => {}
            }
        }
        if self.ask(|reply| Command::CloseAll { reply }).await.is_ok() {
            tokio::time::sleep(FAREWELL).await;
        }
    }

    async fn stats(&self) -> Result<ServerStats, Response> {
        let (traffic, rooms) = self.ask(|reply| Command::Stats { reply }).await?;
        Ok(ServerStats {
            id: self.id.clone(),
            participants_max: self.config.participants_max as u64,
            cpu_seconds: process::cpu_seconds(),
            resident_bytes: process::resident_bytes(),
            socket_drops: process::socket_drops(self.bound),
            send_errors: self.send_errors.load(Relaxed),
            rooms,
            draining: self.draining.load(Relaxed),
            traffic,
        })
    }
}

pub(super) type App = State<Arc<Shared>>;

/// `PUT`: highest layer for all who are in the room now, in digits, 0 the lowest.
async fn limit_room(state: App, Path(room): Path<String>, body: String) -> Response {
    limit_layers(state, room, None, &body).await
}

async fn limit_participant(state: App, Path((room, name)): Path<(String, String)>, body: String) -> Response {
    limit_layers(state, room, Some(name), &body).await
}

async fn limit_layers(State(shared): App, room: String, name: Option<String>, body: &str) -> Response {
    let Ok(layer_max) = body.trim().parse() else {
        return http::error(StatusCode::BAD_REQUEST, "the body is the highest layer: 0, 1, 2 …");
    };
    match shared.ask(|reply| Command::LimitLayers { room, name, layer_max, reply }).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => http::error(StatusCode::NOT_FOUND, "nobody of that name, or no such room"),
        Err(response) => response,
    }
}

/// `PUT`: other servers that have the room, too.
async fn cascade_room(State(shared): App, Path(room): Path<String>, Json(with): Json<Cascade>) -> Response {
    match shared.ask(|reply| Command::Cascade { room, with, reply }).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => http::error(StatusCode::BAD_REQUEST, "the room's name is too long to be shared"),
        Err(response) => response,
    }
}

async fn join(
    State(shared): App,
    Path((room, name)): Path<(String, String)>,
    headers: HeaderMap,
    offer: String,
) -> Response {
    let moved = headers.contains_key(http::MOVED);
    let joined = match Joining::new(&shared.config, Instant::now(), &offer) {
        Ok(joining) => {
            let joining = Box::new(Joining { moved, ..joining });
            match shared.ask(|reply| Command::Admit { room, name, joining, reply }).await {
                Ok(joined) => joined,
                Err(response) => return response,
            }
        }
        Err(error) => Err(error),
    };
    match joined {
        Ok(Joined { session, answer }) => {
            let location = format!("{}/sessions/{session}", shared.base);
            let headers = [
                (header::CONTENT_TYPE, "application/sdp".to_owned()),
                (header::LOCATION, location),
                (http::SERVER, shared.id.clone()),
            ];
            (StatusCode::CREATED, headers, answer).into_response()
        }
        Err(error) => {
            let status = match error {
                JoinError::BadSdp(_) => StatusCode::BAD_REQUEST,
                JoinError::Duplicate { .. } => StatusCode::CONFLICT,
                JoinError::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            http::error(status, error)
        }
    }
}

/// An offer with new ICE credentials; all of it, not WHIP's fragment, since answers are whole here too.
async fn restart(State(shared): App, Path(session): Path<String>, offer: String) -> Response {
    match shared.ask(|reply| Command::Restart { session, offer, reply }).await {
        Ok(Ok(answer)) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/sdp")], answer).into_response(),
        Ok(Err(error)) => {
            let status = match error {
                RestartError::BadSdp(_) => StatusCode::BAD_REQUEST,
                RestartError::Ended => StatusCode::GONE,
                RestartError::Unknown => StatusCode::NOT_FOUND,
            };
            http::error(status, error)
        }
        Err(response) => response,
    }
}

async fn leave(State(shared): App, Path(session): Path<String>) -> Response {
    match shared.ask(|reply| Command::Leave { session, reply }).await {
        Ok(Left::Now | Left::Closed) => StatusCode::OK.into_response(),
        Ok(Left::Lost) => http::error(StatusCode::GONE, "the session was silent for too long"),
        Ok(Left::Unknown) => http::error(StatusCode::NOT_FOUND, "no such session"),
        Err(response) => response,
    }
}

/// What [`Sin::ZeroSessions`] needs: metrics that fail for five of every ten seconds.
fn metrics_fail(shared: &Shared) -> bool {
    shared.config.sin == Some(Sin::ZeroSessions) && shared.started.elapsed().as_secs() % 10 >= 5
}

async fn stats(State(shared): App) -> Response {
    if metrics_fail(&shared) {
        return http::error(StatusCode::INTERNAL_SERVER_ERROR, "no metrics at the moment");
    }
    match shared.stats().await {
        Ok(stats) => axum::Json(stats).into_response(),
        Err(response) => response,
    }
}

async fn metrics(State(shared): App) -> Response {
    if metrics_fail(&shared) {
        return http::error(StatusCode::INTERNAL_SERVER_ERROR, "no metrics at the moment");
    }
    match shared.stats().await {
        Ok(stats) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], prometheus(&stats)).into_response(),
        Err(response) => response,
    }
}

/// Prometheus text format.
fn prometheus(stats: &ServerStats) -> String {
    let t = &stats.traffic;
    let gauges = [
        ("participants", t.participants as f64, "Participants let in and not gone."),
        ("participants_connected", t.connected as f64, "Participants with a DTLS session."),
        ("participants_max", stats.participants_max as f64, "Joins beyond this are refused."),
        ("rooms", t.rooms as f64, "Rooms with participants."),
        ("resident_bytes", stats.resident_bytes as f64, "Resident memory of the process."),
    ];
    let counters = [
        ("cpu_seconds_total", stats.cpu_seconds, "CPU time of the process."),
        ("joins_total", t.joins as f64, "Participants let in."),
        ("joins_refused_total", t.joins_refused as f64, "Participants refused."),
        ("leaves_total", t.leaves as f64, "Participants who left."),
        ("lost_total", t.lost as f64, "Participants removed because they fell silent or broke."),
        ("packets_in_total", t.datagrams_in as f64, "Datagrams received."),
        ("bytes_in_total", t.bytes_in as f64, "UDP payload received."),
        ("packets_out_total", t.datagrams_out as f64, "Datagrams sent."),
        ("bytes_out_total", t.bytes_out as f64, "UDP payload sent."),
        ("rtp_in_total", t.rtp_in as f64, "RTP packets received."),
        ("rtp_forwarded_total", t.rtp_forwarded as f64, "Copies of RTP packets queued for receivers."),
        ("rtp_before_key_frame_total", t.rtp_before_key_frame as f64, "Copies held back until a key frame."),
        ("rtp_dropped_total", t.rtp_dropped as f64, "RTP packets and copies dropped."),
        ("socket_drops_total", stats.socket_drops as f64, "Datagrams lost because the socket buffer was full."),
        ("send_errors_total", stats.send_errors as f64, "Datagrams the kernel did not take."),
        ("packets_unknown_total", t.datagrams_unknown as f64, "Datagrams from nobody known."),
        ("packets_invalid_total", t.datagrams_invalid as f64, "Datagrams that were nothing known."),
        ("pli_in_total", t.key_frame_requests_in as f64, "Key frame requests from receivers."),
        ("pli_out_total", t.key_frame_requests_out as f64, "Key frame requests to senders."),
        ("cascade_packets_out_total", t.cascade_out as f64, "Datagrams sent to other servers of the same rooms."),
        ("cascade_bytes_out_total", t.cascade_bytes_out as f64, "UDP payload sent to other servers."),
        ("cascade_packets_in_total", t.cascade_in as f64, "Datagrams from other servers."),
        ("cascade_bytes_in_total", t.cascade_bytes_in as f64, "UDP payload from other servers."),
        ("cascade_dropped_total", t.cascade_dropped as f64, "Datagrams from other servers that were for nobody."),
        ("speaker_switches_total", t.speaker_switches as f64, "Receivers that went on with other senders (last-N)."),
        ("layer_switches_total", t.layer_switches as f64, "Receivers that went on with another simulcast layer."),
    ];
    let mut text = String::new();
    let all = gauges.iter().map(|g| ("gauge", g)).chain(counters.iter().map(|c| ("counter", c)));
    for (kind, (name, value, help)) in all {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "# HELP roomful_sfu_{name} {help}\n# TYPE roomful_sfu_{name} {kind}\nroomful_sfu_{name}{{server=\"{}\"}} {value}",
            stats.id.escape_default(),
        );
    }
    text
}
