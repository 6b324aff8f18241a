//! The driver against a fake Janus on a real local WebSocket: every way a server can misbehave.

use super::JanusDriver;
use crate::history::{FailReason, LegCause};
use crate::plan::{PlannedLeg, PlannedRoom};
use crate::profile::{Secret, ServerEntry};
use crate::signaling::{Call, Driver, Ended, Media, MediaCommand, MediaError, Order, Progress, TransportState};
use crate::types::{Bitrate, Client, Codec, Encoding, LegId, RoomId, Suite};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// What the fake does wrong. Everything before that it does right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// Answers the handshake with HTTP 400.
    Http400,
    /// Answers each request with text that is no JSON.
    Garbage,
    /// Takes requests and says nothing.
    Silent,
    /// Configures without an answer.
    NoAnswer,
    /// An answer without m-lines.
    EmptyAnswer,
    /// 432 to the publication.
    Full,
    /// Wants a secret that nobody gave.
    Secret,
    /// Closes the connection when asked to join.
    ClosesAtJoin,
    /// Closes the connection when the call runs.
    ClosesInCall,
    /// Never answers `leave` and `destroy`.
    DeafToLeave,
}

struct Fake {
    url: String,
    /// Requests, oldest first, over all connections.
    heard: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start(fault: Fault) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = heard.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, fault, into.clone()));
            }
        });
        Fake { url, heard, task }
    }

    fn requests(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .map(|r| r["body"]["request"].as_str().or(r["janus"].as_str()).unwrap_or_default().to_owned())
            .collect()
    }
}

#[expect(clippy::result_large_err, reason = "the library's callback type")]
async fn serve(mut tcp: TcpStream, fault: Fault, heard: Arc<Mutex<Vec<Value>>>) {
    if fault == Fault::Http400 {
        let mut request = [0u8; 2048];
        let _ = tcp.read(&mut request).await;
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        return;
    }
    let subprotocol = |request: &Request, mut response: Response| {
        assert_eq!(request.headers()["sec-websocket-protocol"], "janus-protocol");
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let Ok(mut ws) = tokio_tungstenite::accept_hdr_async(tcp, subprotocol).await else { return };
    let mut handles = 100;
    while let Some(Ok(message)) = ws.next().await {
        let Message::Text(text) = message else { continue };
        let request: Value = serde_json::from_str(&text).unwrap();
        heard.lock().unwrap().push(request.clone());
        let what = request["body"]["request"].as_str().or(request["janus"].as_str()).unwrap();
        if (what == "join" && fault == Fault::ClosesAtJoin) || (what == "trickle" && fault == Fault::ClosesInCall) {
            // Long enough for the answer to be applied.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return;
        }
        let answer = match fault {
            Fault::Silent => continue,
            Fault::Garbage => "<html>It works!</html>".to_owned(),
            Fault::DeafToLeave if matches!(what, "leave" | "destroy") => continue,
            Fault::Secret => {
                let error = json!({"code": 403, "reason": "Unauthorized request (wrong or missing secret/token)"});
                json!({"janus": "error", "transaction": request["transaction"], "error": error}).to_string()
            }
            _ => match answer_to(&request, what, fault, &mut handles) {
                Some(answer) => answer.to_string(),
                None => continue,
            },
        };
        if ws.send(Message::text(answer)).await.is_err() {
            return;
        }
    }
}

fn answer_to(request: &Value, what: &str, fault: Fault, handles: &mut u64) -> Option<Value> {
    let transaction = &request["transaction"];
    let event = |data: Value| {
        json!({"janus": "event", "transaction": transaction, "sender": request["handle_id"],
               "plugindata": {"plugin": "janus.plugin.videoroom", "data": data}})
    };
    let sync = |data: Value| json!({"janus": "success", "transaction": transaction, "plugindata": {"data": data}});
    Some(match what {
        "info" => json!({"janus": "server_info", "transaction": transaction, "version_string": "1.1.2",
                         "accepting-new-sessions": true, "plugins": {"janus.plugin.videoroom": {}}}),
        "create" if request["body"].is_object() => sync(json!({"videoroom": "created"})),
        "destroy" if request["body"].is_object() => sync(json!({"videoroom": "destroyed"})),
        "listparticipants" => sync(json!({"videoroom": "participants", "participants": []})),
        "create" | "attach" => {
            *handles += 1;
            json!({"janus": "success", "transaction": transaction, "data": {"id": *handles}})
        }
        "destroy" => json!({"janus": "success", "transaction": transaction}),
        "join" => event(json!({"videoroom": "joined", "id": 1, "private_id": 2, "publishers": []})),
        "configure" if fault == Fault::Full => event(json!({"videoroom": "event", "error_code": 432,
                         "error": "Maximum number of publishers (1) already reached"})),
        "configure" => {
            let mut event = event(json!({"videoroom": "event", "configured": "ok"}));
            match fault {
                Fault::NoAnswer => {}
                Fault::EmptyAnswer => event["jsep"] = json!({"type": "answer", "sdp": "v=0\r\n"}),
                _ => event["jsep"] = json!({"type": "answer", "sdp": "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"}),
            }
            event
        }
        "leave" => event(json!({"videoroom": "event", "leaving": "ok"})),
        "keepalive" | "trickle" => json!({"janus": "ack", "transaction": transaction}),
        _ => return None,
    })
}

fn room() -> PlannedRoom {
    PlannedRoom { id: RoomId(0), name: "meeting-1".into(), group: 0, size: 2, senders_max: 2, server: None }
}

fn driver(url: &str, secrets: &[(&str, &str)], join_timeout: Duration) -> Arc<JanusDriver> {
    let servers = vec![ServerEntry {
        id: "janus-1".into(),
        url: url.into(),
        admin: None,
        pid_file: None,
        metrics: None,
        observe: vec![],
        cores: None,
    }];
    let secrets: BTreeMap<_, _> = secrets.iter().map(|(k, v)| (k.to_string(), Secret(v.to_string()))).collect();
    let driver = JanusDriver::new(servers, &secrets, Client::Chrome, true, join_timeout).unwrap();
    // Most faults would break `prepare` too; the leg is what is tested.
    *driver.seats.lock().unwrap() = super::place(&[room()], &["janus-1"], driver.room_base);
    Arc::new(driver)
}

/// One running leg.
struct Leg {
    orders: mpsc::UnboundedSender<Order>,
    progress: mpsc::UnboundedReceiver<Progress>,
    ended: tokio::task::JoinHandle<Ended>,
}

impl Leg {
    fn start(driver: Arc<JanusDriver>) -> Leg {
        let (to_media, mut asked) = mpsc::unbounded_channel();
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (progress_out, progress) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                match command {
                    MediaCommand::Offer { reply, .. } => drop(reply.send(Ok("v=0\r\n".into()))),
                    MediaCommand::AcceptAnswer { sdp, reply, .. } => {
                        let verdict =
                            if sdp.contains("m=") { Ok(()) } else { Err(MediaError::BadSdp("no media".into())) };
                        drop(reply.send(verdict));
                    }
                    MediaCommand::AcceptOffer { reply, .. } => drop(reply.send(Ok("v=0\r\n".into()))),
                    MediaCommand::Candidate { .. }
                    | MediaCommand::Switch { .. }
                    | MediaCommand::Close { .. }
                    | MediaCommand::Forwarded { .. } => {}
                }
            }
        });
        let leg = PlannedLeg {
            id: LegId(0),
            seat: 0,
            room: RoomId(0),
            name: "meeting-1/p1".into(),
            join_at: Duration::ZERO,
            leave_at: Duration::from_secs(60),
            audio: Some(Encoding { codec: Codec::Opus, bitrate: Bitrate(32_000) }),
            video: None,
            network: None,
        };
        let call = Call {
            leg,
            room: room(),
            route: None,
            media: Media::new(LegId(0), to_media),
            orders: orders_in,
            progress: progress_out,
        };
        let ended = tokio::spawn(async move { driver.run(call).await });
        Leg { orders, progress, ended }
    }

    /// Waits for the signalling to be done and says that media flows.
    async fn connect(&mut self) {
        while let Some(progress) = self.progress.recv().await {
            if matches!(progress, Progress::Signaled(_)) {
                let state = TransportState::Connected { suite: Suite::Aes128CmSha1_80, certificate: 0 };
                self.orders.send(Order::Transport { slot: 0, state }).unwrap();
                return;
            }
        }
        panic!("never signaled");
    }

    async fn end(self) -> Ended {
        tokio::time::timeout(Duration::from_secs(20), self.ended).await.expect("the leg hangs").unwrap()
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

async fn failure(fault: Fault, join_timeout: Duration) -> (FailReason, String) {
    let fake = Fake::start(fault).await;
    match Leg::start(driver(&fake.url, &[], join_timeout)).end().await {
        Ended::Failed { reason, detail } => (reason, detail),
        over => panic!("{over:?}"),
    }
}

#[tokio::test]
async fn a_call_goes_from_create_to_destroy() {
    let fake = Fake::start(Fault::None).await;
    let mut leg = Leg::start(driver(&fake.url, &[("api_secret", "s3cret")], PATIENCE));
    assert_eq!(leg.progress.recv().await, Some(Progress::Server("janus-1".into())));
    assert!(matches!(leg.progress.recv().await, Some(Progress::Started(_))));
    leg.connect().await;
    leg.orders.send(Order::Leave).unwrap();
    assert_eq!(leg.end().await, Ended::over(LegCause::Left, ""));
    assert_eq!(fake.requests(), ["create", "attach", "join", "configure", "trickle", "leave", "destroy"]);
    let heard = fake.heard.lock().unwrap();
    assert!(heard.iter().all(|r| r["apisecret"] == "s3cret"));
    assert_eq!(heard[2]["body"]["display"], "meeting-1/p1");
}

#[tokio::test]
async fn rooms_are_made_and_removed_and_no_session_stays() {
    let fake = Fake::start(Fault::None).await;
    let servers = vec![ServerEntry {
        id: "janus-1".into(),
        url: fake.url.clone(),
        admin: None,
        pid_file: None,
        metrics: None,
        observe: vec![],
        cores: None,
    }];
    let secrets = BTreeMap::from([("admin_key".to_owned(), Secret("key".into()))]);
    let driver = JanusDriver::new(servers, &secrets, Client::Chrome, true, PATIENCE).unwrap();
    driver.prepare(&[room()]).await.unwrap();
    let (id, server) = driver.room(RoomId(0)).unwrap();
    assert_eq!(server, "janus-1");
    {
        let heard = fake.heard.lock().unwrap();
        let made = heard.iter().find(|r| r["body"]["request"] == "create").unwrap();
        assert_eq!((&made["body"]["room"], &made["body"]["admin_key"]), (&json!(id), &json!("key")));
        assert_eq!(made["body"]["publishers"], 2 + super::SPARE_PUBLISHERS);
    }
    driver.finish().await;
    let session = ["info", "create", "attach"];
    let expected =
        [&session[..], &["create", "destroy"], &session[..], &["listparticipants", "destroy", "destroy"]].concat();
    assert_eq!(fake.requests(), expected);
}

#[tokio::test]
async fn a_start_that_fails_on_the_second_server_leaves_no_room_on_the_first() {
    let fake = Fake::start(Fault::None).await;
    let entry = |id: &str, url: &str| ServerEntry {
        id: id.into(),
        url: url.into(),
        admin: None,
        pid_file: None,
        metrics: None,
        observe: vec![],
        cores: None,
    };
    let servers = vec![entry("janus-1", &fake.url), entry("janus-2", "ws://127.0.0.1:1")];
    let driver = JanusDriver::new(servers, &BTreeMap::new(), Client::Chrome, true, PATIENCE).unwrap();
    let error = format!("{:#}", driver.prepare(&[room(), PlannedRoom { id: RoomId(1), ..room() }]).await.unwrap_err());
    assert!(error.contains("janus-2"), "{error}");
    driver.finish().await;
    let of_rooms = |asked: &Value| asked["body"]["request"].as_str().map(str::to_owned);
    let asked: Vec<String> = fake.heard.lock().unwrap().iter().filter_map(of_rooms).collect();
    assert_eq!(asked, ["create", "listparticipants", "destroy"]);
}

#[tokio::test]
async fn an_unreachable_server_is_refused_by_prepare_and_by_a_leg() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let driver = driver(&format!("ws://127.0.0.1:{port}"), &[], PATIENCE);
    let error = format!("{:#}", driver.prepare(&[room()]).await.unwrap_err());
    assert!(error.contains("janus-1") && error.contains(&port.to_string()), "{error}");
    let ended = Leg::start(driver).end().await;
    assert!(matches!(&ended, Ended::Failed { reason: FailReason::Refused, .. }), "{ended:?}");
}

#[tokio::test]
async fn a_handshake_that_fails_says_with_what() {
    let (reason, detail) = failure(Fault::Http400, PATIENCE).await;
    assert_eq!(reason, FailReason::Handshake);
    assert!(detail.contains("400"), "{detail}");

    // TLS against a server that speaks none.
    let fake = Fake::start(Fault::None).await;
    let url = fake.url.replace("ws://", "wss://");
    let ended = Leg::start(driver(&url, &[], PATIENCE)).end().await;
    assert!(matches!(&ended, Ended::Failed { reason: FailReason::Handshake, .. }), "{ended:?}");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let (reason, detail) = failure(Fault::Silent, Duration::from_millis(300)).await;
    assert_eq!((reason, &*detail), (FailReason::TimeoutSignaling, "no answer to create"));
    // And one that does not even shake hands.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let ended = Leg::start(driver(&url, &[], Duration::from_millis(300))).end().await;
    assert!(matches!(&ended, Ended::Failed { reason: FailReason::TimeoutSignaling, .. }), "{ended:?}");
}

#[tokio::test]
async fn other_faults_have_their_reasons() {
    let cases = [
        (Fault::Garbage, FailReason::BadAnswer, "no JSON"),
        (Fault::NoAnswer, FailReason::BadSdp, "without an answer"),
        (Fault::EmptyAnswer, FailReason::BadSdp, "no media"),
        (Fault::Full, FailReason::Full, "432: Maximum number of publishers"),
        (Fault::Secret, FailReason::Unauthorized, "403: "),
        (Fault::ClosesAtJoin, FailReason::Closed, "WebSocket closed"),
    ];
    for (fault, reason, words) in cases {
        let (got, detail) = failure(fault, PATIENCE).await;
        assert_eq!(got, reason, "{fault:?}: {detail}");
        assert!(detail.contains(words), "{fault:?}: {detail}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_call_is_lost_signaling() {
    let fake = Fake::start(Fault::ClosesInCall).await;
    let mut leg = Leg::start(driver(&fake.url, &[], PATIENCE));
    leg.connect().await;
    let ended = leg.end().await;
    assert!(matches!(&ended, Ended::Over { cause: LegCause::SignalingLost, .. }), "{ended:?}");
}

#[tokio::test]
async fn a_leave_nobody_hears_ends_unacknowledged() {
    let fake = Fake::start(Fault::DeafToLeave).await;
    let mut leg = Leg::start(driver(&fake.url, &[], PATIENCE));
    leg.connect().await;
    leg.orders.send(Order::Leave).unwrap();
    let ended = leg.end().await;
    assert!(matches!(&ended, Ended::Over { cause: LegCause::LeftUnacknowledged, .. }), "{ended:?}");
    assert_eq!(fake.requests().last().unwrap(), "destroy", "asked although the leave was not answered");
}

#[tokio::test]
async fn an_order_to_leave_while_connecting_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let leg = Leg::start(driver(&url, &[], PATIENCE));
    leg.orders.send(Order::Leave).unwrap();
    let ended = leg.end().await;
    assert!(matches!(&ended, Ended::Failed { reason: FailReason::LeftEarly, .. }), "{ended:?}");
}
