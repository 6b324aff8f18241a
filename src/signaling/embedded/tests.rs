//! The driver against scripted HTTP and a scripted media path.

use super::*;
use crate::history::LegCause;
use crate::signaling::{Media, MediaCommand, MediaError, Order, Progress, TransportState};
use crate::types::{Bitrate, Codec, Encoding, LegId, RoomId, Suite};
use axum::Router;
use axum::extract::State;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// Answers whatever it is asked, and remembers what that was.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

type Script = fn(&Method) -> Response;

async fn server(script: Script) -> Server {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let app = Router::new()
        .fallback(
            async |State((asked, script)): State<(Arc<Mutex<Vec<String>>>, Script)>,
                   method: Method,
                   uri: axum::http::Uri,
                   body: String| {
                // It has nothing to say of its own accord.
                if uri.path() == "/events" {
                    return StatusCode::NOT_FOUND.into_response();
                }
                asked.lock().unwrap().push(format!("{method} {uri} {body}").trim_end().to_owned());
                script(&method)
            },
        )
        .with_state((asked.clone(), script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
    Server { url, asked }
}

/// 201 to the join, 200 to the leave.
fn willing(method: &Method) -> Response {
    match *method {
        Method::POST => joined(),
        _ => StatusCode::OK.into_response(),
    }
}

fn joined() -> Response {
    (StatusCode::CREATED, [("location", "/sessions/7"), ("roomful-server", "s1")], "answer").into_response()
}

fn leg(sends: bool) -> PlannedLeg {
    let encoding = |codec| sends.then_some(Encoding { codec, bitrate: Bitrate(1000) });
    PlannedLeg {
        id: LegId(0),
        seat: 0,
        room: RoomId(0),
        name: "meeting-1/p 1".into(),
        join_at: Duration::ZERO,
        leave_at: Duration::ZERO,
        audio: encoding(Codec::Opus),
        video: encoding(Codec::Vp8),
        network: None,
    }
}

fn room() -> PlannedRoom {
    PlannedRoom { id: RoomId(0), name: "meeting-1".into(), group: 0, size: 5, senders_max: 4, server: None }
}

/// A leg under way: orders go in, progress and the end come out.
struct Run {
    orders: mpsc::UnboundedSender<Order>,
    progress: mpsc::UnboundedReceiver<Progress>,
    ended: tokio::task::JoinHandle<Ended>,
    /// Whom the media path was told that the server forwards.
    forwarded: Arc<Mutex<Vec<Vec<LegId>>>>,
}

fn run(url: &str, accept: Result<(), MediaError>) -> Run {
    let driver = EmbeddedDriver::new(url).unwrap();
    let (media, mut commands) = mpsc::unbounded_channel();
    let forwarded: Arc<Mutex<Vec<Vec<LegId>>>> = Arc::default();
    let told = forwarded.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                MediaCommand::Offer { want, reply, .. } => {
                    let offer = format!("offer {} {} {}", want.send, want.receive_audio, want.receive_video);
                    reply.send(Ok(offer)).unwrap();
                }
                MediaCommand::AcceptAnswer { sdp, reply, .. } => {
                    assert_eq!(sdp, "answer");
                    reply.send(accept.clone()).unwrap();
                }
                MediaCommand::Switch { reply, .. } => reply.send(Ok(())).unwrap(),
                MediaCommand::Forwarded { senders, .. } => told.lock().unwrap().push(senders),
                _ => {}
            }
        }
    });
    let (orders, inbox) = mpsc::unbounded_channel();
    let (outbox, progress) = mpsc::unbounded_channel();
    let call = Call {
        leg: leg(true),
        room: room(),
        route: None,
        media: Media::new(LegId(0), media),
        orders: inbox,
        progress: outbox,
    };
    Run { orders, progress, ended: tokio::spawn(async move { driver.run(call).await }), forwarded }
}

impl Run {
    async fn until_signaled(&mut self) {
        while !matches!(self.progress.recv().await.expect("still under way"), Progress::Signaled(_)) {}
    }

    fn transport(&self, state: TransportState) {
        self.orders.send(Order::Transport { slot: 0, state }).unwrap();
    }

    async fn end(self) -> Ended {
        tokio::time::timeout(Duration::from_secs(20), self.ended).await.unwrap().unwrap()
    }
}

const CONNECTED: TransportState = TransportState::Connected { suite: Suite::AeadAes128Gcm, certificate: 0 };

fn reason(ended: &Ended) -> FailReason {
    match ended {
        Ended::Failed { reason, .. } => *reason,
        over => panic!("{over:?}"),
    }
}

fn cause(ended: &Ended) -> LegCause {
    match ended {
        Ended::Over { cause, .. } => *cause,
        failed => panic!("{failed:?}"),
    }
}

#[tokio::test]
async fn joins_and_leaves() {
    let server = server(willing).await;
    let mut run = run(&server.url, Ok(()));
    assert!(matches!(run.progress.recv().await, Some(Progress::Started(_))));
    assert_eq!(run.progress.recv().await, Some(Progress::Server("s1".into())));
    assert!(matches!(run.progress.recv().await, Some(Progress::Signaled(_))));
    run.transport(CONNECTED);
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(cause(&run.end().await), LegCause::Left);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked, ["POST /rooms/meeting-1/participants/meeting-1%2Fp%201 offer true 3 3", "DELETE /sessions/7"]);
}

#[test]
fn wants_slots_for_the_others() {
    let slots = |leg: PlannedLeg| {
        let want = want(&leg, &room());
        (want.send, want.receive_audio, want.receive_video)
    };
    assert_eq!(slots(leg(true)), (true, 3, 3));
    assert_eq!(slots(leg(false)), (false, 4, 4));
    assert_eq!(slots(PlannedLeg { video: None, ..leg(true) }), (true, 3, 0), "an audio-only room");
}

#[tokio::test]
async fn refusals_have_their_reasons() {
    let cases: [(Script, FailReason); 6] = [
        (|_| (StatusCode::SERVICE_UNAVAILABLE, "{\"error\":\"full up\"}").into_response(), FailReason::Full),
        (|_| StatusCode::BAD_REQUEST.into_response(), FailReason::BadSdp),
        (|_| StatusCode::FORBIDDEN.into_response(), FailReason::Unauthorized),
        (|_| StatusCode::CONFLICT.into_response(), FailReason::Rejected),
        (|_| (StatusCode::OK, "hello").into_response(), FailReason::BadAnswer),
        (|_| (StatusCode::CREATED, "answer").into_response(), FailReason::BadAnswer),
    ];
    for (script, expected) in cases {
        let server = server(script).await;
        let ended = run(&server.url, Ok(())).end().await;
        assert_eq!(reason(&ended), expected, "{ended:?}");
        if let (FailReason::Full, Ended::Failed { detail, .. }) = (expected, &ended) {
            assert_eq!(detail, "503: full up");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_refused() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let ended = run(&url, Ok(())).end().await;
    assert_eq!(reason(&ended), FailReason::Refused, "{ended:?}");
    let driver = EmbeddedDriver::new(&url).unwrap();
    let error = format!("{:#}", driver.prepare(&[]).await.unwrap_err());
    assert!(error.contains(&url), "{error}");
}

#[tokio::test]
async fn nonsense_is_no_http() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"\x16\x03\x01 what?\r\n\r\n").await.unwrap();
        }
    });
    let ended = run(&url, Ok(())).end().await;
    assert!(matches!(reason(&ended), FailReason::Closed | FailReason::BadAnswer), "{ended:?}");
}

#[tokio::test]
async fn an_answer_that_is_not_accepted_frees_the_place() {
    let server = server(willing).await;
    let ended = run(&server.url, Err(MediaError::NotAllowed("10.0.0.1".into()))).end().await;
    assert_eq!(reason(&ended), FailReason::NotAllowed);
    assert_eq!(server.asked.lock().unwrap().last().unwrap(), "DELETE /sessions/7");
}

#[tokio::test]
async fn the_transports_fate_before_and_after_it_was_up() {
    let failed = |why: &str| TransportState::Failed { why: why.into() };
    let before = [
        (failed("ICE found no path in time"), FailReason::TimeoutIce),
        (failed("DTLS did not finish in time"), FailReason::TimeoutDtls),
        (failed("DTLS: bad record"), FailReason::Dtls),
        (failed("the peer's certificate does not match the fingerprint of its description"), FailReason::Dtls),
        (failed("no common SRTP suite: none"), FailReason::Dtls),
        (failed("ICE found no path in time, all candidates are outside the allow-list: x"), FailReason::NotAllowed),
        (TransportState::PeerClosed, FailReason::Closed),
    ];
    let server = server(willing).await;
    for (state, expected) in before {
        let mut run = run(&server.url, Ok(()));
        run.until_signaled().await;
        run.transport(state);
        assert_eq!(reason(&run.end().await), expected);
        assert_eq!(server.asked.lock().unwrap().last().unwrap(), "DELETE /sessions/7", "no ghost is left");
    }
    let after = [
        (TransportState::ConsentExpired, LegCause::ConsentExpired),
        (TransportState::PeerClosed, LegCause::ClosedByServer),
        (failed("broken"), LegCause::ClosedByServer),
    ];
    for (state, expected) in after {
        let mut run = run(&server.url, Ok(()));
        run.until_signaled().await;
        run.transport(CONNECTED);
        run.transport(state);
        assert_eq!(cause(&run.end().await), expected);
    }
}

#[tokio::test]
async fn a_leave_that_nobody_acknowledges() {
    let server = server(|method| match *method {
        Method::POST => joined(),
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let mut run = run(&server.url, Ok(()));
    run.until_signaled().await;
    run.transport(CONNECTED);
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(cause(&run.end().await), LegCause::LeftUnacknowledged);
}

#[tokio::test]
async fn a_leave_during_the_join_leaves_no_session_behind() {
    let server = server(|method| {
        if *method == Method::POST {
            std::thread::sleep(Duration::from_millis(200));
        }
        willing(method)
    })
    .await;
    let run = run(&server.url, Ok(()));
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(reason(&run.end().await), FailReason::LeftEarly);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.last().unwrap(), "DELETE /sessions/7", "{asked:?}");
}

#[tokio::test]
async fn the_registry_vouches_for_its_servers_addresses() {
    let server = server(|_| {
        let servers = serde_json::json!([
            {"id": "s1", "alive": true, "media": "10.1.2.3:4000"},
            {"id": "s2", "alive": false, "media": "10.1.2.4:4000"},
        ]);
        axum::Json(serde_json::json!({ "servers": servers })).into_response()
    })
    .await;
    let driver = EmbeddedDriver::new(&server.url).unwrap();
    driver.prepare(&[]).await.unwrap();
    let hosts: Vec<String> = driver.hosts().iter().map(|ip| ip.to_string()).collect();
    assert_eq!(hosts, ["10.1.2.3", "10.1.2.4", "127.0.0.1"]);
    // Rooms go to servers that it has.
    let room = |to: &str| PlannedRoom {
        id: RoomId(0),
        name: "r".into(),
        group: 0,
        size: 2,
        senders_max: 2,
        server: Some(to.into()),
    };
    driver.prepare(&[room("s2")]).await.unwrap();
    let error = format!("{:#}", driver.prepare(&[room("s2"), room("s3")]).await.unwrap_err());
    assert!(error.ends_with("/registry: the fleet has no server \"s3\", only s1, s2"), "{error}");
}

/// A server of a fleet, as far as moves need it: takes joins, says events, and remembers what it was asked.
struct Mover {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    events: tokio::sync::broadcast::Sender<String>,
}

impl Mover {
    /// `ready`: its answer to a session that is ready to go.
    async fn new(session: &'static str, ready: StatusCode) -> Mover {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let events = tokio::sync::broadcast::channel::<String>(16).0;
        let (asks, says) = (asked.clone(), events.clone());
        let app = Router::new().fallback(
            async move |method: Method, uri: axum::http::Uri, headers: axum::http::HeaderMap| {
                if uri.path() == "/events" {
                    let lines = futures_util::stream::unfold(says.subscribe(), async |mut lines| {
                        let line = lines.recv().await.ok().filter(|line| !line.is_empty())?;
                        Some((Ok::<_, std::convert::Infallible>(line), lines))
                    });
                    return axum::body::Body::from_stream(lines).into_response();
                }
                let moved = if headers.contains_key("roomful-moved") { " moved" } else { "" };
                asks.lock().unwrap().push(format!("{method} {uri}{moved}"));
                match (&method, uri.path().ends_with("/ready")) {
                    (&Method::POST, true) => ready.into_response(),
                    (&Method::POST, false) => {
                        let headers =
                            [("location", format!("/sessions/{session}")), ("roomful-server", session.to_owned())];
                        (StatusCode::CREATED, headers, "answer").into_response()
                    }
                    _ => StatusCode::OK.into_response(),
                }
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        Mover { url, asked, events }
    }

    /// Says a line as soon as somebody listens.
    async fn say(&self, line: serde_json::Value) {
        until(|| self.events.receiver_count() > 0).await;
        self.events.send(format!("{line}\n")).unwrap();
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened");
}

/// A leg that is up on `from`, told to move to `to`.
async fn moving(from: &Mover, to: &Mover) -> Run {
    let mut run = run(&from.url, Ok(()));
    run.until_signaled().await;
    run.transport(CONNECTED);
    from.say(serde_json::json!({"session": "one", "told": "move", "server": "two", "url": to.url})).await;
    until(|| !to.asked().is_empty()).await;
    assert_eq!(to.asked(), ["POST /rooms/meeting-1/participants/meeting-1%2Fp%201 moved"]);
    run
}

impl Run {
    async fn moved(&mut self) -> String {
        loop {
            match self.progress.recv().await.expect("still under way") {
                Progress::Moved { server, from, until } => {
                    assert!(from <= until);
                    return server;
                }
                Progress::Note { code, text } => panic!("{code}: {text}"),
                _ => {}
            }
        }
    }

    fn new_transport(&self, state: TransportState) {
        self.orders.send(Order::Transport { slot: 1, state }).unwrap();
    }
}

#[tokio::test]
async fn goes_to_another_server_when_everybody_can() {
    let (from, to) = (Mover::new("one", StatusCode::ACCEPTED).await, Mover::new("two", StatusCode::ACCEPTED).await);
    let mut run = moving(&from, &to).await;
    run.new_transport(CONNECTED);
    until(|| from.asked().len() == 2).await;
    assert_eq!(from.asked()[1], "POST /sessions/one/ready");
    assert!(!matches!(run.progress.try_recv(), Ok(Progress::Moved { .. })), "not before it is told");
    from.say(serde_json::json!({"session": "other", "told": "switch"})).await;
    from.say(serde_json::json!({"session": "one", "told": "switch"})).await;
    assert_eq!(run.moved().await, "two");
    until(|| from.asked().len() == 3).await;
    assert_eq!(from.asked()[2], "DELETE /sessions/one", "what was under way has come");
    // The old transport is history.
    run.transport(TransportState::PeerClosed);
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(cause(&run.end().await), LegCause::Left);
    assert_eq!(to.asked()[1..], ["DELETE /sessions/two"]);
}

#[tokio::test]
async fn follows_at_once_where_the_others_have_gone() {
    let (from, to) = (Mover::new("one", StatusCode::OK).await, Mover::new("two", StatusCode::OK).await);
    let mut run = moving(&from, &to).await;
    run.new_transport(CONNECTED);
    assert_eq!(run.moved().await, "two");
    // And back again.
    to.say(serde_json::json!({"session": "two", "told": "move", "server": "one", "url": from.url})).await;
    until(|| from.asked().iter().any(|a| a.starts_with("DELETE"))).await;
    to.say(serde_json::json!({"session": "two", "told": "move", "server": "one", "url": from.url})).await;
    until(|| from.asked().last().unwrap().ends_with("moved")).await;
    run.orders.send(Order::Transport { slot: 0, state: CONNECTED }).unwrap();
    assert_eq!(run.moved().await, "one");
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(cause(&run.end().await), LegCause::Left);
    assert!(to.asked().contains(&"DELETE /sessions/two".to_owned()), "{:?}", to.asked());
    assert!(from.asked().last().unwrap().starts_with("DELETE /sessions/one"));
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_leg_where_it_is() {
    let (from, to) = (Mover::new("one", StatusCode::OK).await, Mover::new("two", StatusCode::OK).await);
    let mut run = moving(&from, &to).await;
    run.new_transport(TransportState::Failed { why: "ICE found no path in time".into() });
    loop {
        if let Progress::Note { code, .. } = run.progress.recv().await.unwrap() {
            assert_eq!(code, "move_failed");
            break;
        }
    }
    until(|| to.asked().len() == 2).await;
    assert_eq!(to.asked()[1], "DELETE /sessions/two", "no ghost is left there");
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(cause(&run.end().await), LegCause::Left);
}

#[tokio::test]
async fn a_server_that_falls_during_a_move_is_left_for_the_new_one() {
    let (from, to) = (Mover::new("one", StatusCode::ACCEPTED).await, Mover::new("two", StatusCode::OK).await);
    let mut run = moving(&from, &to).await;
    run.transport(TransportState::PeerClosed);
    run.new_transport(CONNECTED);
    assert_eq!(run.moved().await, "two");

    // And where the new one does not come either, the call is over.
    let (from, to) = (Mover::new("one", StatusCode::ACCEPTED).await, Mover::new("two", StatusCode::OK).await);
    let run = moving(&from, &to).await;
    run.transport(TransportState::PeerClosed);
    run.new_transport(TransportState::Failed { why: "no".into() });
    assert_eq!(cause(&run.end().await), LegCause::ClosedByServer);
}

#[tokio::test]
async fn a_leave_during_a_move_leaves_both_servers() {
    let (from, to) = (Mover::new("one", StatusCode::ACCEPTED).await, Mover::new("two", StatusCode::OK).await);
    let run = moving(&from, &to).await;
    run.new_transport(CONNECTED);
    until(|| from.asked().len() == 2).await;
    run.orders.send(Order::Leave).unwrap();
    assert_eq!(cause(&run.end().await), LegCause::Left);
    assert_eq!(from.asked().last().unwrap(), "DELETE /sessions/one");
    assert_eq!(to.asked().last().unwrap(), "DELETE /sessions/two");
}

#[tokio::test]
async fn joins_again_when_it_is_told_to() {
    let from = Mover::new("one", StatusCode::OK).await;
    let mut run = run(&from.url, Ok(()));
    run.until_signaled().await;
    run.transport(CONNECTED);
    from.say(serde_json::json!({"session": "one", "told": "rejoin"})).await;
    let ended = run.end().await;
    assert_eq!(cause(&ended), LegCause::ClosedByServer, "{ended:?}");
    assert_eq!(from.asked().last().unwrap(), "DELETE /sessions/one");
}

/// Names of strangers are nobody's; a list without anybody is one, too.
#[tokio::test]
async fn passes_on_whose_video_it_gets() {
    let from = Mover::new("one", StatusCode::OK).await;
    let mut run = run(&from.url, Ok(()));
    run.until_signaled().await;
    run.transport(CONNECTED);
    for senders in [vec!["meeting-1/p 1", "a stranger"], vec![]] {
        from.say(serde_json::json!({"session": "one", "told": "forwarded", "senders": senders})).await;
    }
    from.say(serde_json::json!({"session": "other", "told": "forwarded", "senders": ["meeting-1/p 1"]})).await;
    until(|| run.forwarded.lock().unwrap().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(*run.forwarded.lock().unwrap(), [vec![LegId(0)], vec![]]);
}

#[tokio::test]
async fn a_server_whose_api_is_gone_has_lost_its_legs() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(async |method: Method, uri: axum::http::Uri| match uri.path() {
        // A stream that breaks off at once.
        "/events" => (StatusCode::OK, "no event\n").into_response(),
        _ => willing(&method),
    });
    // On a runtime of its own, whose end ends its connections.
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = listener.into_std().unwrap();
    server.spawn(async { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), app).await.unwrap() });
    let mut run = run(&url, Ok(()));
    run.until_signaled().await;
    run.transport(CONNECTED);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!run.ended.is_finished(), "it still answers");
    let news: Vec<Progress> = std::iter::from_fn(|| run.progress.try_recv().ok()).collect();
    // Told of once, however often it breaks.
    assert!(matches!(news[..], [Progress::Resumed { lost, back }] if lost <= back), "{news:?}");
    server.shutdown_background();
    assert_eq!(cause(&run.end().await), LegCause::SignalingLost);
}

/// An answer that never ends.
fn endless() -> axum::body::Body {
    let more = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 64 << 10]));
    axum::body::Body::from_stream(more)
}

#[tokio::test]
async fn a_server_that_streams_without_end_fills_no_memory() {
    let server = server(|method| match *method {
        Method::POST => (StatusCode::CREATED, [("location", "/sessions/7")], endless()).into_response(),
        _ => endless().into_response(),
    })
    .await;
    let driver = EmbeddedDriver::new(&server.url).unwrap();
    let error = format!("{:#}", driver.prepare(&[]).await.unwrap_err());
    assert!(error.contains("is no registry of a fleet: answered more than 1024 KiB"), "{error}");
    let ended = run(&server.url, Ok(())).end().await;
    assert!(matches!(&ended, Ended::Failed { detail, .. } if detail == "answered more than 1024 KiB"), "{ended:?}");
    assert_eq!(reason(&ended), FailReason::BadAnswer);
}
