//! What a driver keeps of a participant that is in a call: resident and heap KiB of its task, its connection and the
//! connection's buffers, the kernel's excepted. The servers are stubs in a process of their own, that say as much as real
//! ones; the media path is text only. Janus: a WebSocket, a publishing and a receiving handle. Embedded: HTTP.
//!
//! `cargo bench --bench drivers` (optionally `-- PARTICIPANTS`, 1000 by default). Each line is a process of its own.

#![expect(unsafe_code, reason = "an allocator that counts")]

use axum::http::{StatusCode, header};
use futures_util::{SinkExt as _, StreamExt as _};
use roomful::plan::{PlannedLeg, PlannedRoom};
use roomful::profile::{ExternalTarget, ServerEntry};
use roomful::signaling::{Call, Driver, Media, MediaCommand, Order, Progress, TransportState, driver};
use roomful::types::{Bitrate, Client, Codec, Encoding, LegId, RoomId, Suite};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Counts live heap bytes.
struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size as isize - layout.size() as isize, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OFFER: &str = include_str!("../tests/fixtures/sdp/chromium_publisher_offer.sdp");
const ANSWER: &str = include_str!("../tests/fixtures/sdp/janus_publisher_answer.sdp");
const THEIR_OFFER: &str = include_str!("../tests/fixtures/sdp/janus_subscriber_offer.sdp");
const OUR_ANSWER: &str = include_str!("../tests/fixtures/sdp/chromium_subscriber_answer.sdp");

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match &args[..] {
        [mode, name] if mode == "serve" => runtime.block_on(serve(name)),
        [mode, name, participants] if mode == "one" => {
            roomful::engine::socket::raise_descriptor_limit();
            runtime.block_on(one(name, participants.parse().unwrap()));
        }
        _ => all(args.first().map_or("1000", String::as_str)),
    }
}

fn all(participants: &str) {
    println!("{participants} participants each, in the call for 2 s; per participant:");
    println!("{:<10} {:>13} {:>10}", "", "resident KiB", "heap KiB");
    for name in ["embedded", "janus"] {
        let program = std::env::current_exe().unwrap();
        let status = Command::new(program).args(["one", name, participants]).status().unwrap();
        assert!(status.success());
    }
}

async fn one(name: &str, participants: u32) {
    let mut stub = Command::new(std::env::current_exe().unwrap())
        .args(["serve", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(stub.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let target = ExternalTarget::of(
        name,
        vec![ServerEntry {
            id: "stub".to_owned(),
            url: url.trim().to_owned(),
            admin: None,
            pid_file: None,
            metrics: None,
            observe: vec![],
            cores: None,
        }],
    );
    let driver = driver(&target, Client::Chrome, Duration::from_secs(60)).unwrap();
    let room =
        PlannedRoom { id: RoomId(0), name: "room".into(), group: 0, size: participants, senders_max: 5, server: None };
    driver.prepare(std::slice::from_ref(&room)).await.unwrap();
    // Tables and first allocations.
    let mut legs = vec![Leg::join(&driver, &room, participants).await];
    let before = (resident_kib(), heap_kib());
    for n in 0..participants {
        legs.push(Leg::join(&driver, &room, n).await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let per = f64::from(participants);
    let (resident, heap) = ((resident_kib() - before.0) / per, (heap_kib() - before.1) / per);
    println!("{name:<10} {resident:>13.1} {heap:>10.1}");
    for leg in legs {
        leg.orders.send(Order::Leave).unwrap();
        assert!(leg.ended.await.unwrap(), "left in order");
    }
    // Its stdin ends, and so does it.
    drop(stub.stdin.take());
    stub.wait().unwrap();
}

struct Leg {
    orders: mpsc::UnboundedSender<Order>,
    ended: tokio::task::JoinHandle<bool>,
}

impl Leg {
    /// Joins, and waits until all that belongs to the join has been said.
    async fn join(driver: &Arc<dyn Driver>, room: &PlannedRoom, n: u32) -> Leg {
        let (to_media, mut asked) = mpsc::unbounded_channel();
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (told, mut progress) = mpsc::unbounded_channel();
        let encoding = |codec, bitrate| Some(Encoding { codec, bitrate: Bitrate(bitrate) });
        let leg = PlannedLeg {
            id: LegId(n),
            room: room.id,
            seat: n,
            name: format!("room/p{n}"),
            join_at: Duration::ZERO,
            leave_at: Duration::from_secs(600),
            audio: encoding(Codec::Opus, 32_000),
            video: encoding(Codec::Vp8, 500_000),
            network: None,
        };
        let media = Media::new(leg.id, to_media);
        let call = Call { leg, room: room.clone(), route: None, media, orders: orders_in, progress: told };
        let driver = driver.clone();
        let ended = tokio::spawn(async move {
            matches!(driver.run(call).await, roomful::signaling::Ended::Over { detail, .. } if detail.is_empty())
        });
        let mut signaled = false;
        while !signaled {
            tokio::select! {
                command = asked.recv() => answer(command.expect("the driver lives")),
                told = progress.recv() => signaled = matches!(told.expect("the driver lives"), Progress::Signaled(_)),
            }
        }
        let connected = TransportState::Connected { suite: Suite::AeadAes128Gcm, certificate: 0 };
        orders.send(Order::Transport { slot: 0, state: connected }).unwrap();
        // The receiving half goes on meanwhile.
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                answer(command)
            }
        });
        Leg { orders, ended }
    }
}

fn answer(command: MediaCommand) {
    match command {
        MediaCommand::Offer { reply, .. } => drop(reply.send(Ok(OFFER.to_owned()))),
        MediaCommand::AcceptAnswer { reply, .. } => drop(reply.send(Ok(()))),
        MediaCommand::AcceptOffer { reply, .. } => drop(reply.send(Ok(OUR_ANSWER.to_owned()))),
        MediaCommand::Candidate { .. }
        | MediaCommand::Switch { .. }
        | MediaCommand::Close { .. }
        | MediaCommand::Forwarded { .. } => {}
    }
}

/// Until stdin ends.
async fn serve(name: &str) {
    roomful::engine::socket::raise_descriptor_limit();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(|| {
        let _ = std::io::stdin().lines().count();
        std::process::exit(0);
    });
    match name {
        "janus" => {
            println!("ws://{address}");
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(janus(tcp));
            }
        }
        _ => {
            println!("http://{address}");
            let registry = json!({"servers": [{"id": "s1", "alive": true, "media": "127.0.0.1:9"}]});
            let join = || async {
                let headers = [(header::LOCATION, "/sessions/x"), (header::CONTENT_TYPE, "application/sdp")];
                (StatusCode::CREATED, headers, ANSWER)
            };
            let app = axum::Router::new()
                .route("/registry", axum::routing::get(async move || axum::Json(registry)))
                .route("/rooms/{room}/participants/{name}", axum::routing::post(join))
                .route("/sessions/{session}", axum::routing::delete(async || StatusCode::OK));
            axum::serve(listener, app).await.unwrap();
        }
    }
}

#[expect(clippy::result_large_err, reason = "the library's signature")]
async fn janus(tcp: tokio::net::TcpStream) {
    let subprotocol = |request: &Request, mut response: Response| {
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let Ok(mut ws) = tokio_tungstenite::accept_hdr_async(tcp, subprotocol).await else { return };
    let mut handles = 100;
    while let Some(Ok(message)) = ws.next().await {
        let Message::Text(text) = message else { continue };
        let request: Value = serde_json::from_str(&text).unwrap();
        if ws.send(Message::text(janus_answer(&request, &mut handles).to_string())).await.is_err() {
            return;
        }
    }
}

fn janus_answer(request: &Value, handles: &mut u64) -> Value {
    let transaction = &request["transaction"];
    let event = |data: Value| {
        json!({"janus": "event", "transaction": transaction, "sender": request["handle_id"],
               "plugindata": {"plugin": "janus.plugin.videoroom", "data": data}})
    };
    let (what, body) = (request["janus"].as_str().unwrap(), &request["body"]);
    match body["request"].as_str().unwrap_or(what) {
        "info" => json!({"janus": "server_info", "transaction": transaction, "version_string": "1.1.2",
                         "accepting-new-sessions": true, "plugins": {"janus.plugin.videoroom": {}}}),
        "create" if body.is_object() => event(json!({"videoroom": "created"})),
        "create" | "attach" => {
            *handles += 1;
            json!({"janus": "success", "transaction": transaction, "data": {"id": *handles}})
        }
        "join" if body["ptype"] == "publisher" => {
            let publishers: Vec<Value> = (1..5).map(|id| json!({"id": id, "display": "somebody else"})).collect();
            event(json!({"videoroom": "joined", "id": 9, "private_id": 2, "publishers": publishers}))
        }
        "join" => {
            let mut answer = event(json!({"videoroom": "attached"}));
            answer["jsep"] = json!({"type": "offer", "sdp": THEIR_OFFER});
            answer
        }
        "configure" => {
            let mut answer = event(json!({"videoroom": "event", "configured": "ok"}));
            answer["jsep"] = json!({"type": "answer", "sdp": ANSWER});
            answer
        }
        "start" => event(json!({"videoroom": "event", "started": "ok"})),
        "leave" => event(json!({"videoroom": "event", "leaving": "ok"})),
        "destroy" => json!({"janus": "success", "transaction": transaction}),
        _ => json!({"janus": "ack", "transaction": transaction}),
    }
}

fn heap_kib() -> f64 {
    LIVE.load(Ordering::Relaxed) as f64 / 1024.0
}

fn resident_kib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4.0
}
