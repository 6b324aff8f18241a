//! The embedded fleet as processes: joined over HTTP, with media on real UDP sockets of loopback, by participants on
//! str0m.

use reqwest::{Client, Method, Response, StatusCode, header};
use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::sfu::{RegistryView, ServerStats};
use roomful::types::Placement;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use str0m::format::Codec;
use str0m::media::MediaKind;
use tokio::io::{AsyncBufReadExt, BufReader};

#[path = "../support/str0m_peer.rs"]
mod str0m_peer;
use str0m_peer::{AUDIO_VIDEO, Peer};

/// Nothing here takes a tenth of it; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> EmbeddedOptions {
    EmbeddedOptions { program: Some(env!("CARGO_BIN_EXE_roomful").into()), ..EmbeddedOptions::default() }
}

async fn fleet(servers: u32, participants_max: u32) -> EmbeddedFleet {
    EmbeddedFleet::start(servers, participants_max, &options()).await.unwrap()
}

/// A participant with its socket and its session.
struct Participant {
    peer: Peer,
    socket: UdpSocket,
    session: String,
    server: String,
}

fn offering(sends: &[MediaKind], slots: usize) -> (Peer, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    (Peer::new(Instant::now(), socket.local_addr().unwrap(), sends, slots, Codec::Vp8), socket)
}

async fn post(http: &Client, fleet: &EmbeddedFleet, room: &str, name: &str, offer: &str) -> Response {
    let mut url = reqwest::Url::parse(fleet.base_url()).unwrap();
    url.path_segments_mut().unwrap().extend(["rooms", room, "participants", name]);
    http.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offer.to_owned()).send().await.unwrap()
}

async fn join(http: &Client, fleet: &EmbeddedFleet, room: &str, name: &str, sends: bool, slots: usize) -> Participant {
    let (mut peer, socket) = offering(if sends { AUDIO_VIDEO } else { &[] }, slots);
    let response = post(http, fleet, room, name, &peer.offer).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/sdp");
    let (session, server) = (header("location"), header("roomful-server"));
    peer.accept(Instant::now(), &response.text().await.unwrap());
    Participant { peer, socket, session, server }
}

impl Participant {
    /// Sends what waits, takes what came.
    fn pump(&mut self) {
        let mut buffer = [0; 2048];
        loop {
            for (to, bytes) in std::mem::take(&mut self.peer.out) {
                self.socket.send_to(&bytes, to).unwrap();
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => self.peer.handle_datagram(Instant::now(), from, &buffer[..len]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        let now = Instant::now();
        if self.peer.timeout <= now {
            self.peer.handle_timeout(now);
        }
    }

    async fn leave(&self, http: &Client) -> StatusCode {
        http.delete(&self.session).send().await.unwrap().status()
    }
}

/// Runs the participants, each sending audio and video every 20 ms once connected if `talk`, until `done`.
fn run(participants: &mut [Participant], talk: bool, mut done: impl FnMut(&[Participant]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut answered: Vec<usize> = vec![usize::MAX; participants.len()];
    let mut next = Instant::now();
    while !done(participants) {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        participants.iter_mut().for_each(Participant::pump);
        if talk && Instant::now() >= next {
            next += Duration::from_millis(20);
            for (i, p) in participants.iter_mut().enumerate().filter(|(_, p)| p.peer.connected) {
                let key = p.peer.key_frame_requests != answered[i];
                answered[i] = p.peer.key_frame_requests;
                p.peer.send_audio(Instant::now(), &[i as u8, 1]);
                p.peer.send_vp8(Instant::now(), key, &[i as u8; 600]);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn registry(http: &Client, fleet: &EmbeddedFleet) -> RegistryView {
    http.get(format!("{}/registry", fleet.base_url())).send().await.unwrap().json().await.unwrap()
}

async fn stats(http: &Client, fleet: &EmbeddedFleet, server: usize) -> ServerStats {
    http.get(format!("{}/stats", fleet.servers()[server].http)).send().await.unwrap().json().await.unwrap()
}

/// Asks again until the registry is as wanted.
async fn registry_becomes(
    http: &Client,
    fleet: &EmbeddedFleet,
    wanted: impl Fn(&RegistryView) -> bool,
) -> RegistryView {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = registry(http, fleet).await;
        if wanted(&view) {
            return view;
        }
        assert!(Instant::now() < deadline, "still {view:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn runs(pid: u32) -> bool {
    // A zombie has a directory too, but no memory map to name.
    Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok()
}

fn assert_vanish(pids: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < deadline, "{pids:?}: still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_flows_both_ways_and_a_leave_leaves_nothing() {
    let (http, fleet) = (Client::new(), fleet(1, 10).await);
    // A name as plans make them: with a slash.
    let mut both =
        vec![join(&http, &fleet, "a", "a/p1", true, 1).await, join(&http, &fleet, "a", "a/p2", true, 1).await];
    run(&mut both, true, |all| {
        all.iter()
            .all(|p| AUDIO_VIDEO.iter().all(|kind| p.peer.received.iter().filter(|r| r.kind == *kind).count() >= 50))
    });
    for (me, other) in [(0, 1u8), (1, 0u8)] {
        for received in &both[me].peer.received {
            let who = received.payload[if received.kind == MediaKind::Audio { 0 } else { 5 }];
            assert_eq!(who, other);
        }
    }
    let now = stats(&http, &fleet, 0).await;
    assert_eq!((now.traffic.participants, now.traffic.connected), (2, 2));
    assert_eq!(now.rooms, [("a".to_owned(), 2)].into());
    assert!(now.traffic.rtp_forwarded >= 200);
    assert_eq!((now.traffic.rtp_dropped, now.send_errors, now.socket_drops), (0, 0, 0));
    assert!(now.resident_bytes > 0);

    assert_eq!(both[0].leave(&http).await, StatusCode::OK);
    run(&mut both, false, |all| all[0].peer.closed);
    assert_eq!(both[1].leave(&http).await, StatusCode::OK);
    assert_eq!(both[1].leave(&http).await, StatusCode::OK, "the second time it is true as well");
    let after = stats(&http, &fleet, 0).await;
    assert_eq!((after.traffic.participants, after.traffic.rooms, after.rooms.len()), (0, 0, 0));
    let text = http.get(format!("{}/metrics", fleet.servers()[0].http)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("roomful_sfu_participants{server=\"s1\"} 0\n"), "{text}");
    assert!(text.contains("roomful_sfu_leaves_total{server=\"s1\"} 2\n"), "{text}");
    registry_becomes(&http, &fleet, |r| r.rooms.is_empty() && r.headroom == 10).await;
    fleet.stop().await;
}

/// Of whom somebody has received at least so many packets of each kind.
fn heard(p: &Participant, least: usize) -> Vec<u8> {
    let of = |kind: MediaKind, at: usize, who: u8| {
        p.peer.received.iter().filter(|r| r.kind == kind && r.payload[at] == who).count() >= least
    };
    (0..9).filter(|who| of(MediaKind::Audio, 0, *who) && of(MediaKind::Video, 5, *who)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_room_on_three_servers_is_one_room_and_outlives_one_of_them() {
    let http = Client::new();
    let spread = EmbeddedOptions { placement: Placement::Spread, ..options() };
    let fleet = EmbeddedFleet::start(3, 10, &spread).await.unwrap();
    let mut all = Vec::new();
    for name in ["1", "2", "3", "4"] {
        all.push(join(&http, &fleet, "r\u{f6}om/1", name, true, 3).await);
    }
    let on: Vec<&str> = all.iter().map(|p| p.server.as_str()).collect();
    assert_eq!(on, ["s1", "s2", "s3", "s1"]);
    run(&mut all, true, |all| {
        all.iter().enumerate().all(|(i, p)| heard(p, 20) == (0..4).filter(|who| *who != i as u8).collect::<Vec<u8>>())
    });
    let one = stats(&http, &fleet, 0).await;
    assert_eq!((one.traffic.participants, one.rooms.len()), (2, 1), "those elsewhere are not its own");
    assert!(one.traffic.cascade_out > 2 * one.traffic.cascade_in / 3 && one.traffic.cascade_in > 80, "{one:?}");
    let before = registry(&http, &fleet).await;
    assert_eq!(before.servers.iter().map(|s| s.rooms).collect::<Vec<_>>(), [1, 1, 1]);

    // One server dies: the others go on, and the next participant goes to one of them.
    http.post(format!("{}/servers/s3/kill", fleet.base_url())).send().await.unwrap().error_for_status().unwrap();
    registry_becomes(&http, &fleet, |r| !r.servers[2].alive && r.servers[2].rooms == 0).await;
    all.remove(2);
    all.iter_mut().for_each(|p| p.peer.received.clear());
    all.push(join(&http, &fleet, "r\u{f6}om/1", "5", true, 3).await);
    assert_eq!(all[3].server, "s2", "whose turn it is");
    run(&mut all, true, |all| all.iter().all(|p| heard(p, 20).len() == 3));
    // Nothing is sent to the dead any more: to one server, each packet once.
    let [a, b] = [stats(&http, &fleet, 0).await, stats(&http, &fleet, 1).await];
    assert_eq!((a.traffic.cascade_dropped, b.traffic.cascade_dropped), (0, 0));
    for p in &all {
        assert_eq!(p.leave(&http).await, StatusCode::OK);
    }
    registry_becomes(&http, &fleet, |r| r.rooms.is_empty() && r.headroom == 20).await;
    fleet.stop().await;
}

#[tokio::test]
async fn rooms_spread_over_servers_and_stay_together() {
    let (http, fleet) = (Client::new(), fleet(2, 10).await);
    let a = join(&http, &fleet, "a", "1", true, 1).await;
    let b = join(&http, &fleet, "b", "1", true, 1).await;
    assert_ne!(a.server, b.server);
    for name in ["2", "3", "4"] {
        assert_eq!(join(&http, &fleet, "a", name, true, 3).await.server, a.server);
    }
    assert_eq!(join(&http, &fleet, "c", "1", true, 1).await.server, b.server, "more headroom there");
    let view = registry(&http, &fleet).await;
    assert_eq!(view.rooms["a"], a.server);
    assert_eq!(view.headroom, 20 - 6);
    assert!(view.servers.iter().all(|s| s.alive && !s.cordoned));
    fleet.stop().await;
}

#[tokio::test]
async fn says_why_somebody_is_not_let_in() {
    let (http, fleet) = (Client::new(), fleet(2, 1).await);
    let error = async |response: Response| {
        let status = response.status();
        let body: serde_json::Value = response.json().await.unwrap();
        (status, body["error"].as_str().unwrap().to_owned())
    };
    let (status, why) = error(post(&http, &fleet, "a", "1", "nonsense").await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("SDP"), "{why}");
    assert!(registry(&http, &fleet).await.rooms.is_empty(), "a room that nobody joined is none");

    let first = join(&http, &fleet, "a", "1", true, 1).await;
    let offer = offering(AUDIO_VIDEO, 1).0.offer;
    let (status, why) = error(post(&http, &fleet, "a", "2", &offer).await).await;
    assert_eq!((status, why.contains("full")), (StatusCode::SERVICE_UNAVAILABLE, true), "{why}");
    join(&http, &fleet, "b", "1", true, 1).await;
    let (status, _) = error(post(&http, &fleet, "c", "1", &offer).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let (status, _) = error(http.get(format!("{}/nothing", fleet.base_url())).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let unknown = format!("{}/sessions/nobody", fleet.servers()[0].http);
    let (status, _) = error(http.delete(unknown).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // A place that gets free is free at once, though the registry has not heard of it yet.
    assert_eq!(first.leave(&http).await, StatusCode::OK);
    assert_eq!(post(&http, &fleet, "d", "1", &offer).await.status(), StatusCode::CREATED);
    fleet.stop().await;
}

#[tokio::test]
async fn the_same_name_twice_is_a_conflict() {
    let (http, fleet) = (Client::new(), fleet(1, 10).await);
    join(&http, &fleet, "a", "1", true, 1).await;
    let offer = offering(AUDIO_VIDEO, 1).0.offer;
    assert_eq!(post(&http, &fleet, "a", "1", &offer).await.status(), StatusCode::CONFLICT);
    assert_eq!(post(&http, &fleet, "b", "1", &offer).await.status(), StatusCode::CREATED);
    fleet.stop().await;
}

#[tokio::test]
async fn a_browser_from_elsewhere_may_join() {
    let (http, fleet) = (Client::new(), fleet(1, 10).await);
    for base in [fleet.base_url(), &fleet.servers()[0].http] {
        let asked = http.request(Method::OPTIONS, format!("{base}/rooms/a/participants/b")).send().await.unwrap();
        assert_eq!(asked.status(), StatusCode::NO_CONTENT);
        assert_eq!(asked.headers()["access-control-allow-origin"], "*");
        assert!(asked.headers()["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));
        assert!(asked.headers()["access-control-expose-headers"].to_str().unwrap().contains("Location"));
    }
    let page = http.get(fleet.base_url()).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("RTCPeerConnection"));
    fleet.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_dead_and_its_rooms_start_anew_elsewhere() {
    let (http, fleet) = (Client::new(), fleet(2, 10).await);
    let a = join(&http, &fleet, "a", "1", true, 1).await;
    let victim = fleet.servers().iter().find(|s| s.id == a.server).unwrap().clone();
    kill(victim.pid, "KILL");
    let view = registry_becomes(&http, &fleet, |r| r.servers.iter().any(|s| !s.alive)).await;
    let dead = view.servers.iter().find(|s| s.id == victim.id).unwrap();
    assert!(!dead.alive);
    assert_eq!((dead.headroom, dead.participants), (0, 0));
    assert!(view.rooms.is_empty());
    let again = join(&http, &fleet, "a", "1", true, 1).await;
    assert_ne!(again.server, a.server);
    // With the last one gone the fleet is not full, which would be an answer of a server.
    kill(fleet.servers().iter().find(|s| s.id == again.server).unwrap().pid, "KILL");
    registry_becomes(&http, &fleet, |r| r.servers.iter().all(|s| !s.alive)).await;
    let offer = offering(AUDIO_VIDEO, 1).0.offer;
    assert_eq!(post(&http, &fleet, "b", "1", &offer).await.status(), StatusCode::BAD_GATEWAY);
    fleet.stop().await;
}

#[tokio::test]
async fn a_paused_server_is_not_listed_until_it_goes_on() {
    let (http, fleet) = (Client::new(), fleet(2, 10).await);
    let pid = fleet.servers()[0].pid;
    kill(pid, "STOP");
    let view = registry_becomes(&http, &fleet, |r| r.servers.iter().any(|s| !s.listed)).await;
    assert_eq!(view.servers.iter().find(|s| !s.listed).unwrap().pid, pid);
    assert_eq!(join(&http, &fleet, "a", "1", true, 1).await.server, "s2");
    kill(pid, "CONT");
    registry_becomes(&http, &fleet, |r| r.servers.iter().all(|s| s.listed)).await;
    fleet.stop().await;
}

/// `POST /servers/{id}/{action}`: its status, and its JSON.
async fn order(http: &Client, fleet: &EmbeddedFleet, id: &str, action: &str) -> (u16, serde_json::Value) {
    let answer = http.post(format!("{}/servers/{id}/{action}", fleet.base_url())).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_server_is_drained_and_ends_when_its_last_call_is_over() {
    let (http, fleet) = (Client::new(), fleet(2, 10).await);
    let first = join(&http, &fleet, "a", "1", true, 1).await;
    assert_eq!(first.server, "s1");
    let (status, said) = order(&http, &fleet, "s1", "cordon").await;
    assert_eq!((status, &said["sessions"], &said["action"]), (200, &1.into(), &"cordon".into()));
    assert_eq!(join(&http, &fleet, "b", "1", true, 1).await.server, "s2");
    assert_eq!(join(&http, &fleet, "c", "1", true, 1).await.server, "s2", "though s1 has as much room");
    let late = join(&http, &fleet, "a", "2", true, 1).await;
    assert_eq!(late.server, "s1");

    assert_eq!(order(&http, &fleet, "s1", "terminate").await, (200, json("s1", "terminate", 2)));
    let (status, said) = order(&http, &fleet, "s1", "uncordon").await;
    assert_eq!((status, said["error"].as_str().unwrap()), (409, "s1 is ending, which nothing takes back"));
    assert_eq!(first.leave(&http).await, StatusCode::OK);
    let later = join(&http, &fleet, "a", "3", true, 1).await;
    assert_eq!(later.server, "s1", "a late joiner still sticks");
    assert_eq!(late.leave(&http).await, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let view = registry(&http, &fleet).await;
    assert!(view.servers[0].alive && view.servers[0].listed && view.servers[0].terminating);
    assert_eq!((view.servers[0].sessions, runs(view.servers[0].pid)), (1, true), "one call holds it");

    assert_eq!(later.leave(&http).await, StatusCode::OK);
    let view = registry_becomes(&http, &fleet, |r| !r.servers[0].alive).await;
    assert!(!view.servers[0].listed && !view.rooms.contains_key("a"));
    assert!(!runs(view.servers[0].pid));
    assert_eq!(order(&http, &fleet, "s1", "cordon").await.0, 409);
    assert_eq!(join(&http, &fleet, "a", "4", true, 1).await.server, "s2");
    fleet.stop().await;
}

fn json(server: &str, action: &str, sessions: u64) -> serde_json::Value {
    serde_json::json!({ "server": server, "action": action, "sessions": sessions })
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused_and_the_others_obeyed() {
    let (http, fleet) = (Client::new(), fleet(2, 10).await);
    assert_eq!(order(&http, &fleet, "s9", "cordon").await.0, 404);
    assert_eq!(order(&http, &fleet, "s1", "bless").await.0, 404);
    assert_eq!(order(&http, &fleet, "s1", "cordon").await.0, 200);
    assert_eq!(order(&http, &fleet, "s1", "uncordon").await, (200, json("s1", "uncordon", 0)));
    assert_eq!(join(&http, &fleet, "a", "1", true, 1).await.server, "s1", "it takes rooms again");

    assert_eq!(order(&http, &fleet, "s2", "pause").await.0, 200);
    registry_becomes(&http, &fleet, |r| r.servers[1].alive && !r.servers[1].listed).await;
    assert_eq!(order(&http, &fleet, "s2", "resume").await.0, 200);
    registry_becomes(&http, &fleet, |r| r.servers[1].listed).await;
    assert_eq!(order(&http, &fleet, "s1", "kill").await, (200, json("s1", "kill", 1)));
    registry_becomes(&http, &fleet, |r| !r.servers[0].alive).await;
    assert_eq!(order(&http, &fleet, "s1", "kill").await.0, 409);

    let answer = http.post(format!("{}/servers", fleet.base_url())).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let ready: roomful::sfu::ServerReady = answer.json().await.unwrap();
    assert_eq!(ready.id, "s3");
    order(&http, &fleet, "s2", "cordon").await;
    assert_eq!(join(&http, &fleet, "b", "1", true, 1).await.server, "s3");
    fleet.stop().await;
    assert!(!runs(ready.pid), "it ends with the others");
}

#[tokio::test]
async fn an_autoscaler_takes_away_and_adds() {
    let how = r#"{"per_server": 2, "servers_min": 1, "servers_max": 3, "every_ms": 300}"#;
    let options = EmbeddedOptions { autoscale: Some(how.parse().unwrap()), ..options() };
    let (http, fleet) = (Client::new(), EmbeddedFleet::start(2, 10, &options).await.unwrap());
    registry_becomes(&http, &fleet, |r| !r.servers[1].alive && !r.servers[1].listed).await;
    for name in ["1", "2", "3"] {
        assert_eq!(join(&http, &fleet, "a", name, true, 1).await.server, "s1");
    }
    let view = registry_becomes(&http, &fleet, |r| r.servers.len() == 3).await;
    assert!(view.servers[2].alive && view.servers[2].id == "s3");
    assert_eq!(join(&http, &fleet, "b", "1", true, 1).await.server, "s3");
    fleet.stop().await;
}

#[tokio::test]
async fn sigterm_drains_a_server_and_a_second_one_closes_its_calls() {
    let (http, fleet) = (Client::new(), fleet(2, 10).await);
    let mut a = [join(&http, &fleet, "a", "1", true, 1).await, join(&http, &fleet, "a", "2", true, 1).await];
    let pid = fleet.servers()[0].pid;
    run(&mut a, false, |p| p.iter().all(|p| p.peer.connected));
    kill(pid, "TERM");
    registry_becomes(&http, &fleet, |r| r.servers[0].terminating && r.servers[0].cordoned).await;
    assert_eq!(join(&http, &fleet, "b", "1", true, 1).await.server, "s2");
    run(&mut a[..1], false, |_| runs(pid));
    kill(pid, "TERM");
    run(&mut a, false, |p| p.iter().all(|p| p.peer.closed));
    assert_vanish(&[pid]);
    fleet.stop().await;
}

#[tokio::test]
async fn stopping_or_dropping_the_fleet_ends_all_its_processes() {
    for drop_it in [false, true] {
        let fleet = fleet(2, 10).await;
        let mut pids: Vec<u32> = fleet.servers().iter().map(|s| s.pid).collect();
        pids.extend(fleet.director_pid());
        assert!(pids.len() == 3 && pids.iter().all(|pid| runs(*pid)));
        if drop_it {
            drop(fleet);
            assert_vanish(&pids);
        } else {
            // One that can't obey as well.
            kill(pids[0], "STOP");
            fleet.stop().await;
            assert!(pids.iter().all(|pid| !runs(*pid)), "stop waits for the end");
        }
    }
}

#[tokio::test]
async fn servers_end_with_a_killed_director() {
    let fleet = fleet(3, 10).await;
    let pids: Vec<u32> = fleet.servers().iter().map(|s| s.pid).collect();
    assert!(pids.iter().all(|pid| runs(*pid)));
    kill(fleet.director_pid().unwrap(), "KILL");
    assert_vanish(&pids);
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_roomful() {
    let mut roomful = tokio::process::Command::new(env!("CARGO_BIN_EXE_roomful"))
        .args(["fleet", "--servers", "2", "--http", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(roomful.stdout.take().unwrap()).lines();
    let mut pids = Vec::new();
    while pids.len() < 2 {
        let line = lines.next_line().await.unwrap().expect("lists its servers");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("server", "pid"), "{line}");
        pids.push(words[3].parse::<u32>().unwrap());
    }
    pids.push(parent_of(pids[0]));
    assert_ne!(pids[2], roomful.id().unwrap(), "between them stands the director");
    assert!(pids.iter().all(|pid| runs(*pid)));
    roomful.kill().await.unwrap();
    assert_vanish(&pids);
}

fn parent_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn kill(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}
