//! The director process: starts the servers, keeps the registry, routes joins with room affinity, and serves a page
//! with which a browser joins.

use super::api::{Cascade, DirectorReady, ServerReady, ServerStats};
use super::process;
use super::registry::{Heartbeat, Registry, ServerIndex};
use super::server::print_line;
use super::{control, http};
use crate::types::{Autoscale, Drain, Placement, Sin, UnlikeServer};
use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use rustix::process::Signal;
use std::future::IntoFuture as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Servers are asked for their state this often; [`super::registry::TTL`] is four of these.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// And one that is to end, this often.
const HEARTBEAT_DRAINING: Duration = Duration::from_millis(100);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1500);
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Servers that share a room must know it; one that does not answer is told again so often.
const CASCADE_TIMEOUT: Duration = Duration::from_secs(2);
const CASCADE_TRIES: u32 = 3;
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
const OFFER_MAX: usize = 4 << 20;
const PAGE: &str = include_str!("page.html");

/// Runs the embedded fleet's director and its servers until stdin ends.
#[derive(clap::Args, Clone, Debug)]
pub struct DirectorArgs {
    #[arg(long, default_value_t = 1)]
    pub servers: u32,
    /// Address for media of all servers.
    #[arg(long, default_value = "127.0.0.1")]
    pub media_ip: IpAddr,
    /// SERVER=ADDRESS: that server's answers name this address instead, with its own port (repeatable).
    #[arg(long, value_name = "SERVER=ADDRESS")]
    pub advertise: Vec<Advertise>,
    /// Participants a server takes.
    #[arg(long, default_value_t = 200)]
    pub participants_max: u32,
    /// Share of a core (0..1) that a server's media thread may use.
    #[arg(long, default_value_t = 1.0)]
    pub cpu_max: f64,
    /// CPU time (ns) that a media thread takes at least for each packet that it sends on.
    #[arg(long, default_value_t = 0)]
    pub packet_cost_ns: u64,
    /// A server that is not like the others (repeatable): JSON with id, participants_max, cpu_max.
    #[arg(long)]
    pub unlike: Vec<UnlikeServer>,
    /// Address of the director's HTTP API; port 0 takes a free one. Servers listen on the same address.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// Where the participants of a room go: affinity, all to one server; spread, in turn to all servers.
    #[arg(long, default_value_t)]
    pub placement: Placement,
    /// How a server that is to end gets rid of its calls: wait, move or rejoin.
    #[arg(long, default_value_t)]
    pub drain: Drain,
    /// Servers come and go by themselves: JSON with per_server (participants), servers_min, servers_max, every_ms.
    #[arg(long)]
    pub autoscale: Option<Autoscale>,
    /// Last-N: participants get the video of so many senders, those who talked last.
    #[arg(long)]
    pub last_n: Option<u32>,
    /// Commit this fault on purpose.
    #[arg(long)]
    pub sin: Option<Sin>,
    /// The program whose `sfu-server` command is a server; this one by default.
    #[arg(long)]
    pub program: Option<PathBuf>,
}

/// Where clients find a server that something stands in front of, a NAT or `roomful impair`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertise {
    pub server: String,
    pub address: IpAddr,
}

impl std::str::FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Advertise, String> {
        let wrong = || format!("{text:?}: write it as in s1=127.0.0.2");
        let (server, address) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Advertise { server: server.to_owned(), address: address.parse().map_err(|_| wrong())? })
    }
}

impl std::fmt::Display for Advertise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.server, self.address)
    }
}

/// The process's whole life; prints [`DirectorReady`] as one line of JSON when all servers take joins.
///
/// # Errors
/// When a server does not start or the address can't be listened on.
pub fn run(args: DirectorArgs) -> anyhow::Result<()> {
    let parent_ended = process::parent_ended();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args, parent_ended))
}

async fn serve(args: DirectorArgs, parent_ended: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let alone = args.drain == Drain::Wait && args.sin.is_none() && args.last_n.is_none();
    anyhow::ensure!(
        args.placement == Placement::Affinity || alone,
        "--placement spread: rooms that are on all servers go with --drain wait and without --sin and --last-n"
    );
    let listener = tokio::net::TcpListener::bind(args.http)
        .await
        .with_context(|| format!("--http: can't listen on {}", args.http))?;
    let http = format!("http://{}", listener.local_addr()?);

    let mut children = Vec::new();
    let mut servers = Vec::new();
    for started in futures_util::future::join_all((1..=args.servers).map(|n| start_server(&args, n))).await {
        let (child, ready) = started?;
        children.push(child);
        servers.push(ready);
    }
    let registry = Registry::new(u64::from(args.participants_max), args.sin, servers.clone(), Instant::now())
        .with_placement(args.placement)
        .with_unlike(&args.unlike);
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
    let (stop, stopping) = watch::channel(());
    let (started, mut starting) = mpsc::unbounded_channel();
    let next = AtomicU32::new(args.servers + 1);
    let director = Arc::new(Director { registry: Mutex::new(registry), client, args, next, started });
    let mut supervisors = JoinSet::new();
    for (index, child) in children.into_iter().enumerate() {
        supervisors.spawn(supervise(director.clone(), index, child, stopping.clone()));
        tokio::spawn(heartbeats(director.clone(), index));
    }

    if let Some(how) = director.args.autoscale {
        tokio::spawn(control::autoscale(director.clone(), how));
    }

    let app = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/registry", get(registry_view))
        .route("/servers", post(control::start))
        .route("/servers/{id}/{action}", post(control::act))
        .route("/rooms/{room}/participants/{name}", post(join))
        .fallback(http::not_found)
        .layer(DefaultBodyLimit::max(OFFER_MAX))
        .layer(axum::middleware::from_fn(http::cors))
        .with_state(director.clone());
    print_line(&DirectorReady { http, servers })?;
    let served = axum::serve(listener, app).into_future();
    tokio::pin!(served, parent_ended);
    loop {
        tokio::select! {
            served = &mut served => served.context("HTTP API")?,
            _ = &mut parent_ended => break,
            Some((index, child)) = starting.recv() => {
                supervisors.spawn(supervise(director.clone(), index, child, stopping.clone()));
                tokio::spawn(heartbeats(director.clone(), index));
            }
        }
    }
    drop(stop);
    supervisors.join_all().await;
    Ok(())
}

/// Starts a server and waits until it takes joins.
pub(super) async fn start_server(args: &DirectorArgs, n: u32) -> anyhow::Result<(Child, ServerReady)> {
    let id = format!("s{n}");
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("can't find this program")?,
    };
    let advertised = args.advertise.iter().find(|a| a.server == id);
    let advertise = advertised.map(|a| ["--advertise".to_owned(), a.address.to_string()]);
    let own = args.unlike.iter().find(|u| u.id == id);
    let participants_max = own.and_then(|u| u.participants_max).unwrap_or(args.participants_max);
    let cpu_max = own.and_then(|u| u.cpu_max).unwrap_or(args.cpu_max);
    let mut child = Command::new(&program)
        .args(["sfu-server", "--id", &id])
        .args(advertise.into_iter().flatten())
        .args(["--http", &SocketAddr::new(args.http.ip(), 0).to_string()])
        .args(["--media", &args.media_ip.to_string()])
        .args(["--participants-max", &participants_max.to_string()])
        .args(["--cpu-max", &cpu_max.to_string()])
        .args(["--packet-cost-ns", &args.packet_cost_ns.to_string()])
        .args(args.last_n.iter().flat_map(|n| ["--last-n".to_owned(), n.to_string()]))
        .args(args.sin.iter().flat_map(|sin| ["--sin", sin.as_str()]))
        // It ends when we do: see `process`.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C at the terminal is for roomful alone, which then ends the calls properly.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))?;
    let ready = process::first_line(&mut child).await.with_context(|| format!("server {id}"))?;
    Ok((child, ready))
}

/// Waits for a server's end, or ends it when the director stops.
async fn supervise(director: Arc<Director>, index: ServerIndex, mut child: Child, mut stopping: watch::Receiver<()>) {
    // Waiting for a child closes its stdin, if it still has it; the end of its stdin is its order to go.
    let stdin = child.stdin.take();
    let stop = async { while stopping.changed().await.is_ok() {} };
    tokio::select! {
        status = child.wait() => {
            {
                let mut registry = director.registry();
                registry.died(index);
                let id = &registry.server(index).id;
                match registry.is_terminating(index) {
                    true => tracing::info!(server = id, ?status, "a server has ended as it was told"),
                    false => tracing::warn!(server = id, ?status, "a server has ended"),
                }
            }
            return director.tell_servers().await;
        }
        () = stop => {}
    }
    drop(stdin);
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        // A server that is stopped (SIGSTOP) can't obey. An error means that it is gone already.
        let _ = child.kill().await;
    }
}

async fn heartbeats(director: Arc<Director>, index: ServerIndex) {
    let ServerReady { http, pid, .. } = director.registry().server(index).clone();
    let url = format!("{http}/stats");
    while !director.registry().has_died(index) {
        let sent = Instant::now();
        let stats = async {
            let answer = director.client.get(&url).timeout(HEARTBEAT_TIMEOUT).send().await?.error_for_status()?;
            answer.json::<ServerStats>().await
        };
        match stats.await {
            Ok(ServerStats { traffic, rooms, draining, .. }) => {
                let participants = traffic.participants.saturating_sub(traffic.ghosts);
                let said = Heartbeat {
                    participants,
                    joins: traffic.joins,
                    ghosts: traffic.ghosts,
                    draining,
                    rooms: Some(&rooms),
                };
                director.registry().heartbeat(index, sent, said);
            }
            Err(error) => {
                tracing::debug!(%error, "no heartbeat");
                if error.is_status() {
                    director.registry().heartbeat_failed(index, sent);
                }
            }
        }
        // By itself: a server that does not answer must not make another one late.
        let told = director.clone();
        tokio::spawn(async move { told.tell_servers().await });
        if director.registry().drained(index)
            && let Err(error) = process::signal(pid, Signal::TERM)
        {
            tracing::debug!(%error, "it has ended by itself");
        }
        let draining = director.registry().is_terminating(index);
        let pause = if draining { HEARTBEAT_DRAINING } else { HEARTBEAT };
        tokio::time::sleep_until((sent + pause).into()).await;
    }
}

pub(super) struct Director {
    registry: Mutex<Registry>,
    pub client: reqwest::Client,
    pub args: DirectorArgs,
    /// Number of the next server to start.
    pub next: AtomicU32,
    /// Servers that were started meanwhile, for their supervisors.
    pub started: mpsc::UnboundedSender<(ServerIndex, Child)>,
}

impl Director {
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells servers of rooms that they have come to share, or share no more.
    async fn tell_servers(&self) {
        let orders: Vec<(String, String, Cascade)> = {
            let mut registry = self.registry();
            let orders = registry.orders();
            let order = |o: super::spread::Order| {
                let peers = o.with.iter().map(|s| registry.server(*s).cascade).collect();
                (registry.server(o.server).http.clone(), o.room, Cascade { version: o.version, peers })
            };
            orders.into_iter().map(order).collect()
        };
        let tell = async |(base, room, with): &(String, String, Cascade)| {
            for tried in 1..=CASCADE_TRIES {
                match self.tell_server(base, room, with).await {
                    Ok(()) => return,
                    Err(error) if tried == CASCADE_TRIES => {
                        tracing::warn!(room, "a server was not told who shares its room: {error:#}");
                    }
                    Err(_) => {}
                }
            }
        };
        futures_util::future::join_all(orders.iter().map(tell)).await;
    }

    async fn tell_server(&self, base: &str, room: &str, with: &Cascade) -> anyhow::Result<()> {
        let mut url = reqwest::Url::parse(base)?;
        let path = ["rooms", room, "cascade"];
        url.path_segments_mut().map_err(|()| anyhow::anyhow!("{base} is no base URL"))?.pop_if_empty().extend(path);
        self.client.put(url).timeout(CASCADE_TIMEOUT).json(with).send().await?.error_for_status()?;
        Ok(())
    }
}

pub(super) type App = State<Arc<Director>>;

async fn registry_view(State(director): App) -> Response {
    let view = director.registry().view(Instant::now());
    axum::Json(view).into_response()
}

/// Hands the offer to the server of the room. A new room that one server refuses for want of headroom goes to the
/// next; so does one whose server turns out to be gone.
async fn join(
    State(director): App,
    Path((room, name)): Path<(String, String)>,
    headers: HeaderMap,
    offer: Bytes,
) -> Response {
    // A new room goes there or nowhere.
    let wanted = headers.get("roomful-server").and_then(|id| id.to_str().ok());
    if director.registry().turns_away(&room) {
        return http::error(StatusCode::SERVICE_UNAVAILABLE, "the room's server is being drained");
    }
    let mut tried = Vec::new();
    // Not 503, which is what a server says that is full.
    let mut refusal = http::error(StatusCode::BAD_GATEWAY, "no server of the fleet is alive");
    loop {
        let placed = {
            let mut registry = director.registry();
            registry.place(&room, wanted, &tried, Instant::now()).map(|s| (s, registry.server(s).http.clone()))
        };
        let Some((server, base)) = placed else { return refusal };
        tried.push(server);
        director.tell_servers().await;
        let mut counted = Counted { director: &director, room: &room, server, joined: false };
        match ask_server(&director.client, &base, &room, &name, offer.clone()).await {
            Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => refusal = response,
            Ok(response) => {
                counted.joined = response.status() == StatusCode::CREATED;
                return response;
            }
            Err(error) => {
                tracing::warn!(%error, "a server did not take a join");
                refusal = http::error(StatusCode::BAD_GATEWAY, format!("{error:#}"));
            }
        }
    }
}

/// A join under way in the registry; settled also when the client goes away and the request is dropped.
struct Counted<'a> {
    director: &'a Director,
    room: &'a str,
    server: ServerIndex,
    joined: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.director.registry().settle(self.room, self.server, self.joined, Instant::now());
    }
}

async fn ask_server(
    client: &reqwest::Client,
    base: &str,
    room: &str,
    name: &str,
    offer: Bytes,
) -> anyhow::Result<Response> {
    let mut url = reqwest::Url::parse(base)?;
    let mut path = url.path_segments_mut().map_err(|()| anyhow::anyhow!("{base} is no base URL"))?;
    path.pop_if_empty().extend(["rooms", room, "participants", name]);
    drop(path);
    let request = client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offer).timeout(JOIN_TIMEOUT);
    let answer = request.send().await?;
    let mut response = (answer.status(), ()).into_response();
    for name in [header::CONTENT_TYPE, header::LOCATION, http::SERVER] {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    *response.body_mut() = answer.bytes().await?.into();
    Ok(response)
}
