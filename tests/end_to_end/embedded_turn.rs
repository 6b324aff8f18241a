//! The embedded fleet's TURN servers as processes: allocations over UDP and TCP, what they say of themselves, and their end.

mod support;

use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::history::{Event, LegCause, Line, RelayWhat};
use roomful::sfu::{TurnReady, TurnStats};
use roomful::types::LegId;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Place, ROOMFUL, assert_vanish, descendants, profile, rooms, signal};
use turn_types::attribute::{Data, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress};
use turn_types::message::{ALLOCATE, CREATE_PERMISSION, REFRESH, SEND};
use turn_types::stun::attribute::{AlternateServer, ErrorCode, Nonce, Realm, Username};
use turn_types::stun::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageWriteVec, Method,
};
use turn_types::stun::prelude::*;

/// Nothing here takes a tenth of it; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

async fn fleet(turn: u32) -> EmbeddedFleet {
    let options = EmbeddedOptions { program: Some(ROOMFUL.into()), turn, ..EmbeddedOptions::default() };
    EmbeddedFleet::start(1, 10, &options).await.unwrap()
}

enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Client<'a> {
    way: Way,
    server: &'a TurnReady,
    nonce: String,
}

impl<'a> Client<'a> {
    fn udp(server: &'a TurnReady) -> Client<'a> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.listen).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { way: Way::Udp(socket), server, nonce: String::new() }
    }

    fn tcp(server: &'a TurnReady) -> Client<'a> {
        let stream = TcpStream::connect(server.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { way: Way::Tcp(stream), server, nonce: String::new() }
    }

    fn send(&mut self, message: &[u8]) {
        match &mut self.way {
            Way::Udp(socket) => assert_eq!(socket.send(message).unwrap(), message.len()),
            Way::Tcp(stream) => stream.write_all(message).unwrap(),
        }
    }

    fn receive(&mut self) -> Vec<u8> {
        match &mut self.way {
            Way::Udp(socket) => {
                let mut buffer = [0; 2048];
                let len = socket.recv(&mut buffer).unwrap();
                buffer[..len].to_vec()
            }
            Way::Tcp(stream) => {
                let mut message = vec![0; 20];
                stream.read_exact(&mut message).unwrap();
                let len = u16::from_be_bytes([message[2], message[3]]);
                message.resize(20 + usize::from(len), 0);
                stream.read_exact(&mut message[20..]).unwrap();
                message
            }
        }
    }

    /// A signed request as this user; the code of its answer (0: success), and the answer.
    fn ask_as(
        &mut self,
        name: &str,
        password: &str,
        method: Method,
        add: &dyn Fn(&mut MessageWriteVec),
    ) -> (u16, Vec<u8>) {
        let mut m = Message::builder_request(method, MessageWriteVec::new());
        add(&mut m);
        m.add_attribute(&Username::new(name).unwrap()).unwrap();
        m.add_attribute(&Realm::new("roomful").unwrap()).unwrap();
        m.add_attribute(&Nonce::new(&self.nonce).unwrap()).unwrap();
        let key = LongTermKeyCredentials::new(name.into(), password.into(), "roomful".into());
        let key = key.make_key(IntegrityAlgorithm::Sha1);
        m.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1).unwrap();
        self.send(&m.finish());
        let answer = self.receive();
        (code(&answer), answer)
    }

    fn ask(&mut self, method: Method, add: &dyn Fn(&mut MessageWriteVec)) -> (u16, Vec<u8>) {
        self.ask_as(&self.server.username.clone(), &self.server.password.clone(), method, add)
    }

    fn challenge(&mut self) {
        let mut m = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        udp(&mut m);
        self.send(&m.finish());
        let answer = self.receive();
        assert_eq!(code(&answer), 401);
        self.nonce = Message::from_bytes(&answer).unwrap().attribute::<Nonce>().unwrap().nonce().to_owned();
    }

    /// The relayed address.
    fn allocate(&mut self) -> SocketAddr {
        self.challenge();
        let (code, answer) = self.ask(ALLOCATE, &udp);
        assert_eq!(code, 0);
        let m = Message::from_bytes(&answer).unwrap();
        m.attribute::<XorRelayedAddress>().unwrap().addr(m.transaction_id())
    }
}

fn udp(m: &mut MessageWriteVec) {
    m.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).unwrap();
}

fn code(answer: &[u8]) -> u16 {
    let m = Message::from_bytes(answer).unwrap();
    match m.class() {
        MessageClass::Success => 0,
        _ => m.attribute::<ErrorCode>().unwrap().code(),
    }
}

fn peer(m: &mut MessageWriteVec, to: SocketAddr) {
    let tid = m.transaction_id();
    m.add_attribute(&XorPeerAddress::new(to, tid)).unwrap();
}

async fn stats(server: &TurnReady) -> TurnStats {
    let url = format!("{}/stats", server.http);
    reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap().json().await.unwrap()
}

async fn post(server: &TurnReady, path: &str, body: String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(format!("{}/{path}", server.http)).body(body).send().await.unwrap();
    assert!(answer.status().is_success());
}

#[tokio::test]
async fn allocations_over_udp_and_tcp_carry_data_and_are_counted() {
    let fleet = fleet(1).await;
    let server = &fleet.turn_servers()[0];
    assert_eq!(server.id, "turn-1");
    for over_tcp in [false, true] {
        let mut client = if over_tcp { Client::tcp(server) } else { Client::udp(server) };
        let relayed = client.allocate();
        assert_eq!(stats(server).await.relay.allocations, 1);
        let friend = UdpSocket::bind("127.0.0.1:0").unwrap();
        friend.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = friend.local_addr().unwrap();
        assert_eq!(client.ask(CREATE_PERMISSION, &|m| peer(m, address)).0, 0);
        let mut m = Message::builder_indication(SEND, MessageWriteVec::new());
        peer(&mut m, address);
        m.add_attribute(&Data::new(b"there")).unwrap();
        client.send(&m.finish());
        let mut buffer = [0; 100];
        let (len, from) = friend.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"there"[..], relayed));
        friend.send_to(b"and back", relayed).unwrap();
        let answer = client.receive();
        assert_eq!(Message::from_bytes(&answer).unwrap().attribute::<Data<'_>>().unwrap().data(), b"and back");
        match over_tcp {
            false => assert_eq!(client.ask(REFRESH, &|m| m.add_attribute(&Lifetime::new(0)).unwrap()).0, 0),
            // Its connection's end is the allocation's, too.
            true => drop(client),
        }
        until(async || stats(server).await.relay.allocations == 0).await;
    }
    let counts = stats(server).await.relay;
    assert_eq!((counts.allocated, counts.released, counts.expired), (2, 1, 1));
    assert_eq!((counts.packets_to_peers, counts.packets_to_clients), (2, 2));
    fleet.stop().await;
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn cordons_redirect_and_a_drained_server_ends_when_it_is_empty() {
    let mut fleet = fleet(2).await;
    let [one, two] = [0, 1].map(|n| fleet.turn_servers()[n].clone());
    assert_ne!((&one.password, one.listen), (&two.password, two.listen));
    let mut staying = Client::udp(&one);
    staying.allocate();
    post(&one, "cordon", two.listen.to_string()).await;
    let mut next = Client::udp(&one);
    next.challenge();
    let (code, answer) = next.ask(ALLOCATE, &udp);
    assert_eq!(code, 300);
    assert_eq!(Message::from_bytes(&answer).unwrap().attribute::<AlternateServer>().unwrap().server(), two.listen);
    assert!(stats(&one).await.cordoned);
    post(&one, "uncordon", String::new()).await;
    assert_eq!(next.ask(ALLOCATE, &udp).0, 0);
    assert_eq!(next.ask(REFRESH, &|m| m.add_attribute(&Lifetime::new(0)).unwrap()).0, 0);

    signal(one.pid, "TERM");
    until(async || stats(&one).await.draining).await;
    assert_eq!(next.ask(ALLOCATE, &udp).0, 403);
    assert_eq!(staying.ask(REFRESH, &|_| {}).0, 0, "who is here stays");
    assert_eq!(staying.ask(REFRESH, &|m| m.add_attribute(&Lifetime::new(0)).unwrap()).0, 0);
    let runs = |pid: u32| std::path::Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
    until(async || !runs(one.pid)).await;

    // The other one is killed, and answers nobody any more.
    signal(two.pid, "KILL");
    until(async || !runs(two.pid)).await;
    assert!(runs(fleet.director_pid().unwrap()), "nobody else went with them");
    assert!(tokio::time::timeout(Duration::from_millis(50), fleet.ended()).await.is_err());
    fleet.stop().await;
}

/// A `roomful fleet`. Killed when dropped.
struct Parent(std::process::Child);

impl Drop for Parent {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_roomful_leaves_no_turn_server_behind() {
    for (how, orderly) in [("KILL", false), ("INT", true)] {
        let parent = Command::new(ROOMFUL)
            .args(["fleet", "--servers", "1", "--turn", "2", "--http", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut parent = Parent(parent);
        let mut said = String::new();
        let mut out = std::io::BufReader::new(parent.0.stdout.take().unwrap());
        while !said.contains("Ctrl-C ends it.") {
            assert_ne!(std::io::BufRead::read_line(&mut out, &mut said).unwrap(), 0, "{said}");
        }
        assert!(said.contains("TURN turn-1") && said.contains("TURN turn-2"), "{said}");
        let family = descendants(parent.0.id());
        assert_eq!(family.iter().filter(|(_, line)| line[1] == "turn-server").count(), 2, "{family:?}");
        let passwords: Vec<&str> = said.split(" password ").skip(1).filter_map(|t| t.split(' ').next()).collect();
        assert_eq!(passwords.len(), 2);
        for (_, line) in &family {
            assert!(!line.iter().any(|word| passwords.contains(&word.as_str())), "in sight of everybody: {line:?}");
        }
        signal(parent.0.id(), how);
        let status = parent.0.wait().unwrap();
        assert_eq!(status.success(), orderly, "{how}: {status}");
        assert_vanish(&family);
    }
}

fn relays(lines: &[Line], what: RelayWhat) -> usize {
    lines.iter().filter(|l| matches!(&l.event, Event::Relay(r) if r.what == what)).count()
}

/// Half of the participants of each room come by the fleet's own TURN servers.
#[test]
fn relayed_and_direct_participants_talk_in_the_same_rooms() {
    let text = profile("embedded", &rooms("meeting", 3, 4, support::VIDEO), "4s", &["joins.failed == 0"]);
    let text = text.replacen("seed = 7", "seed = 7\n[embedded]\nservers = 1\nturn = 2\n[ice]\nrelay = 0.5", 1);
    let place = Place::with(&text);
    let mut run = place.run();
    run.says("00:01 ");
    let family = descendants(run.pid());
    assert_eq!(family.iter().filter(|(_, line)| line[1] == "turn-server").count(), 2, "{family:?}");
    let said = run.finish();
    assert_eq!(said.code, Some(0), "{said:?}");
    let (summary, lines) = (place.summary(), place.lines());
    println!("{}\n{}", summary["sentence"], summary["relays"]["servers"]);
    assert_eq!(summary["participants"]["joined"], 12);
    assert_eq!(summary["audio"]["e2e"]["loss"], 0.0);
    // Half of the receivers are reached each way, and each of four hears three.
    for way in ["direct", "relayed"] {
        let audio = &summary["relays"][way]["audio"];
        let expected = audio["e2e"]["expected"].as_f64().unwrap();
        let all = summary["audio"]["e2e"]["expected"].as_f64().unwrap();
        assert!((0.4..=0.6).contains(&(expected / all)) && audio["loss"] == 0.0, "{way}: {audio} of {all}");
        assert!(
            audio["delay"]["p50"].as_f64().is_some() && audio["jitter"]["p95"].as_f64().is_some(),
            "{way}: {audio}"
        );
    }
    assert_eq!((relays(&lines, RelayWhat::Allocated), relays(&lines, RelayWhat::Released)), (6, 6));
    let servers: std::collections::BTreeSet<&str> = lines
        .iter()
        .filter_map(|l| if let Event::Relay(r) = &l.event { Some(r.turn.as_str()) } else { None })
        .collect();
    assert_eq!(servers.into_iter().collect::<Vec<_>>(), ["turn-1", "turn-2"]);
    assert_vanish(&family);
}

/// Frames, requests and answers of an allocation are late and lost as all else of the participant's network is.
#[test]
fn relayed_participants_have_impaired_networks_too() {
    let text = profile("embedded", &rooms("meeting", 2, 3, ""), "6s", &["joins.failed == 0"]);
    let network = "[network]\nup = { delay = \"30ms\", loss = \"3%\" }\ndown = { delay = \"40ms\" }\n";
    let ours = format!("seed = 7\n[embedded]\nservers = 1\n[ice]\nrelay = \"only\"\n{network}");
    let place = Place::with(&text.replacen("seed = 7", &ours, 1));
    let said = place.run().finish();
    assert_eq!(said.code, Some(0), "{said:?}");
    let (summary, lines) = (place.summary(), place.lines());
    println!("{}\n{}", summary["sentence"], summary["relays"]);
    assert_eq!((&summary["participants"]["joined"], relays(&lines, RelayWhat::Allocated)), (&6.into(), 6));
    let audio = &summary["relays"]["relayed"]["audio"];
    assert!(audio["delay"]["p50"].as_f64().unwrap() >= 70.0 * 0.99, "{audio}");
    // Each of 6 sends some 300 packets to two.
    let (expected, loss) = (audio["e2e"]["expected"].as_i64().unwrap(), audio["loss"].as_f64().unwrap());
    assert!(expected > 2000 && (1.5..5.0).contains(&loss), "{audio}");
    assert!(
        summary["setup"]["relay"]["p50"].as_f64().unwrap() >= 140.0 * 0.99,
        "two round trips: {}",
        summary["setup"]
    );
}

/// 300 is an order from outside: nothing goes to an address that nobody has allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_out_of_the_allow_list_is_not_followed() {
    let fleet = fleet(1).await;
    let server = &fleet.turn_servers()[0];
    post(server, "cordon", "192.0.2.1:3478".into()).await;
    let target = format!(
        "driver = \"turn\"\n[[turn]]\nid = \"own\"\nurl = \"turn:{}\"\nusername = \"{}\"\npassword_from = \"turn\"\n\
         [secrets]\nturn = \"{}\"\n",
        server.listen, server.username, server.password
    );
    let place = Place::with(&profile("target.toml", &rooms("call", 1, 2, ""), "2s", &["joins.failed == 0"]));
    place.write("target.toml", &target);
    let said = tokio::task::block_in_place(|| place.run().finish());
    assert_eq!(said.code, Some(3), "{said:?}");
    let (summary, lines) = (place.summary(), place.lines());
    assert_eq!(summary["participants"]["failures"]["relay"], 1, "{}", summary["participants"]);
    let asked: std::collections::BTreeSet<&str> = lines
        .iter()
        .filter_map(|l| if let Event::Relay(r) = &l.event { Some(r.turn.as_str()) } else { None })
        .collect();
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["own"]);
    let note = summary["notes"].as_array().unwrap().iter().find(|n| n["code"] == "redirect_refused").unwrap();
    assert!(note["text"].as_str().unwrap().contains("192.0.2.1:3478, which is outside the allow-list"), "{note}");
    fleet.stop().await;
}

/// A pair through TURN servers (their names, addresses and weights) that know this account, with further keys of the target.
fn pair_through(servers: &[(&str, SocketAddr, u32)], account: &TurnReady, keys: &str, hold: &str) -> Place {
    let entry = |(id, address, weight): &(&str, SocketAddr, u32)| {
        let username = &account.username;
        format!(
            "[[turn]]\nid = \"{id}\"\nurl = \"turn:{address}\"\nweight = {weight}\nusername = \"{username}\"\n\
             password_from = \"turn\"\n"
        )
    };
    let entries: String = servers.iter().map(entry).collect();
    let place = Place::with(&profile("target.toml", &rooms("call", 1, 2, ""), hold, &["joins.failed == 0"]));
    let secret = format!("[secrets]\nturn = \"{}\"\n", account.password);
    place.write("target.toml", &format!("driver = \"turn\"\n{keys}{entries}{secret}"));
    place
}

/// Whoever waits for an allocation has said nothing to anybody else yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_turn_server_is_no_slow_signalling() {
    let fleet = fleet(1).await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers = [("silent", silent.local_addr().unwrap(), 1)];
    let place = pair_through(&servers, &fleet.turn_servers()[0], "peer = \"relayed\"\n", "4s");
    let text = std::fs::read_to_string(place.path("profile.toml")).unwrap();
    place.write("profile.toml", &text.replacen("join_timeout = \"10s\"", "join_timeout = \"2s\"", 1));
    let said = tokio::task::block_in_place(|| place.run().finish());
    assert_eq!(said.code, Some(3), "{said:?}");
    let summary = place.summary();
    println!("{}\n{}", summary["sentence"], summary["failures"]);
    // The other one of the pair never got as far as asking.
    let failures = &summary["participants"]["failures"];
    assert_eq!((&failures["relay"], &failures["timeout_signaling"]), (&1.into(), &1.into()), "{failures}");
    let row = summary["failures"].as_array().unwrap().iter().find(|f| f["reason"] == "relay").unwrap();
    assert!(row["detail"].as_str().unwrap().ends_with("no allocation within 2s on silent"), "{row}");
    assert_eq!(summary["setup"]["total"]["count"], 2, "both waited for all of it: {}", summary["setup"]);
    fleet.stop().await;
}

/// What a server that was asked before took is the allocation's time, and not the signalling's.
#[tokio::test(flavor = "multi_thread")]
async fn an_allocation_takes_as_long_as_all_servers_that_were_asked() {
    let fleet = fleet(1).await;
    let own = &fleet.turn_servers()[0];
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers = [("silent", silent.local_addr().unwrap(), 1), ("own", own.listen, 0)];
    let place = pair_through(&servers, own, "", "7s");
    let said = tokio::task::block_in_place(|| place.run().finish());
    assert_eq!(said.code, Some(0), "{said:?}");
    let (summary, lines) = (place.summary(), place.lines());
    let relays = &summary["relays"];
    println!("{}\n{}\n{relays}", summary["sentence"], summary["setup"]);
    assert_eq!((&relays["unreachable"], &relays["allocated"]), (&1.into(), &1.into()));
    let mut setups =
        lines.iter().filter_map(|l| if let Event::Joined { setup, .. } = &l.event { Some(setup) } else { None });
    let setup = setups.find(|s| s.relay_ms.is_some()).unwrap();
    // Three tries of the first one, and what the second one took.
    let relay_ms = setup.relay_ms.unwrap();
    assert!(relay_ms >= 3500.0 + relays["latency"]["max"].as_f64().unwrap(), "{setup:?}");
    assert!(setup.signaling_ms <= setup.total_ms - relay_ms + 1.0, "{setup:?}");
    fleet.stop().await;
}

/// Everybody by two TURN servers, and steps.
fn drain(calls: &str, hold: &str, steps: &str) -> Place {
    let text = profile("embedded", calls, hold, &[]);
    let ours = "seed = 7\n[embedded]\nservers = 1\nturn = 2\n[ice]\nrelay = \"only\"";
    let text = text.replacen("\"steady\"", "\"scale-in\"", 1).replacen("seed = 7", ours, 1).replace("[pass]\n", "");
    Place::with(&format!("{text}{steps}\n[expect]\nexclusive = true\nmin_servers = 1\nghost_allowance = \"3s\"\n"))
}

fn turn_of(lines: &[Line], what: RelayWhat) -> Vec<(f64, LegId, String)> {
    let of = |l: &Line| match &l.event {
        Event::Relay(r) if r.what == what => Some((l.t, r.leg, r.turn.clone())),
        _ => None,
    };
    lines.iter().filter_map(of).collect()
}

/// One of the fleet's TURN servers takes nobody new, is left by its calls, and goes.
#[test]
fn a_turn_server_of_the_fleet_is_drained() {
    let calls = rooms("call", 4, 2, "stay = \"7s\"\nrefill = false")
        + &rooms("new", 1, 2, "late_rooms = 3\nstay = \"8s\"\nrefill = false");
    let steps = "[[step]]\nname = \"cordon\"\ndo = \"cordon\"\nserver = \"turn-1\"\nat = \"3s\"\n\
                 [[step]]\nname = \"new\"\ndo = \"join_new\"\nafter = \"cordon\"\ndelay = \"3s\"\ncount = 3\n\
                 [[step]]\nname = \"terminate\"\ndo = \"terminate\"\nafter = \"cordon\"\n\
                 when = \"server.sessions == 0\"\ndeadline = \"15s\"\n";
    let place = drain(&calls, "18s", steps);
    let said = place.run().finish();
    let (summary, lines) = (place.summary(), place.lines());
    println!("{}\n{:#}", summary["sentence"], summary["scale_in"]["invariants"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let (late, before): (Vec<_>, Vec<_>) =
        turn_of(&lines, RelayWhat::Allocated).into_iter().partition(|(t, ..)| *t > 4500.0);
    assert!(before.iter().any(|(.., turn)| turn == "turn-1"), "{before:?}");
    assert_eq!(late.len(), 6, "{late:?}");
    assert!(late.iter().all(|(.., turn)| turn == "turn-2"), "{late:?}");
    assert!(relays(&lines, RelayWhat::Redirected) > 0, "somebody asked turn-1 first");
    assert_eq!(relays(&lines, RelayWhat::Lost), 0);
    let gone = lines.iter().any(|l| match &l.event {
        Event::Fleet(view) => view.servers.iter().any(|s| s.server == "turn-1" && s.alive == Some(false)),
        _ => false,
    });
    assert!(gone, "nobody saw turn-1 end");
}

/// A TURN server that dies takes its allocations along: those calls stand still until they have found the other one, and
/// the verdict names them.
#[test]
fn a_killed_turn_server_of_the_fleet_is_told_with_its_calls() {
    let steps = "[[step]]\nname = \"kill\"\ndo = \"kill\"\nserver = \"turn-1\"\nat = \"3s\"\n";
    let place = drain(&rooms("call", 4, 2, ""), "28s", steps);
    let said = place.run().finish();
    let (summary, lines) = (place.summary(), place.lines());
    println!("{}\n{:#}", summary["sentence"], summary["scale_in"]["invariants"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(summary["sentence"].as_str().unwrap().contains("I12"), "{}", summary["sentence"]);
    let mut first = std::collections::BTreeMap::new();
    for (_, leg, turn) in turn_of(&lines, RelayWhat::Allocated) {
        first.entry(leg).or_insert(turn);
    }
    let lost: std::collections::BTreeSet<LegId> =
        turn_of(&lines, RelayWhat::Lost).into_iter().map(|(_, leg, _)| leg).collect();
    let theirs: std::collections::BTreeSet<LegId> =
        first.iter().filter(|(_, turn)| *turn == "turn-1").map(|(leg, _)| *leg).collect();
    assert!(!theirs.is_empty() && theirs.len() < first.len(), "{first:?}");
    assert_eq!(lost, theirs);
    for l in &lines {
        if let Event::LegEnd(end) = &l.event {
            assert_eq!(end.cause, LegCause::Left, "{end:?}");
            // Who is not behind it may hear nothing of a partner that is.
            assert_eq!(end.ice_restarts > 0, theirs.contains(&end.leg), "{end:?}");
        }
    }
}

/// Both of a pair have an allocation: what one sends goes from allocation to allocation, and is relayed twice.
#[tokio::test(flavor = "multi_thread")]
async fn pairs_talk_from_allocation_to_allocation() {
    let fleet = fleet(1).await;
    let server = &fleet.turn_servers()[0];
    let target = format!(
        "driver = \"turn\"\npeer = \"relayed\"\n[[turn]]\nid = \"own\"\nurl = \"turn:{}\"\nusername = \"{}\"\n\
         password_from = \"turn\"\n[secrets]\nturn = \"{}\"\n",
        server.listen, server.username, server.password
    );
    let place = Place::with(&profile("target.toml", &rooms("call", 3, 2, ""), "5s", &["joins.failed == 0"]));
    place.write("target.toml", &target);
    let said = tokio::task::block_in_place(|| place.run().finish());
    assert_eq!(said.code, Some(0), "{said:?}");
    let (summary, lines) = (place.summary(), place.lines());
    println!("{}\n{}", summary["sentence"], summary["relays"]);
    assert_eq!((relays(&lines, RelayWhat::Allocated), relays(&lines, RelayWhat::Released)), (6, 6));
    let audio = &summary["audio"]["e2e"];
    assert!(audio["loss"] == 0.0 && audio["expected"].as_u64().unwrap() > 6 * 150, "{audio}");
    // 50 packets a second of each of six, to an allocation and from one; and reports and checks.
    let pps = summary["relays"]["pps"].as_f64().unwrap();
    assert!((500.0..1000.0).contains(&pps), "{pps}");
    assert_eq!(stats(server).await.relay.allocations, 0);
    fleet.stop().await;
}

/// Allocations that went with their connections are given back by nobody, and nobody waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_though_its_turn_server_has_gone() {
    let fleet = fleet(1).await;
    let server = fleet.turn_servers()[0].clone();
    let target = format!(
        "driver = \"turn\"\n[[turn]]\nid = \"own\"\nurl = \"turn:{}?transport=tcp\"\nusername = \"{}\"\n\
         password_from = \"turn\"\n[secrets]\nturn = \"{}\"\n",
        server.listen, server.username, server.password
    );
    let place = Place::with(&profile("target.toml", &rooms("call", 3, 2, ""), "6s", &["legs.dropped == 0"]));
    place.write("target.toml", &target);
    let said = tokio::task::block_in_place(|| {
        let mut run = place.run();
        run.says("hold");
        signal(server.pid, "KILL");
        run.finish()
    });
    let lines = place.lines();
    println!("{:?} {}", said.code, place.summary()["sentence"]);
    assert!(said.code.is_some(), "{said:?}");
    assert_eq!((relays(&lines, RelayWhat::Allocated), relays(&lines, RelayWhat::Lost)), (3, 3));
    assert!(matches!(lines.last().unwrap().event, Event::End { .. }));
    fleet.stop().await;
}

/// A TURN server as the target itself: pairs through it, over UDP and TCP, some of whom come and go.
#[tokio::test(flavor = "multi_thread")]
async fn pairs_talk_through_a_turn_server_and_leave_nothing_there() {
    let fleet = fleet(1).await;
    let server = &fleet.turn_servers()[0];
    let way = |more: &str| {
        format!(
            "[[turn]]\nid = \"own\"\nurl = \"turn:{}{more}\"\nusername = \"{}\"\npassword_from = \"turn\"\n",
            server.listen, server.username
        )
    };
    let target =
        format!("driver = \"turn\"\n{}{}[secrets]\nturn = \"{}\"\n", way(""), way("?transport=tcp"), server.password);
    let calls = rooms("call", 4, 2, support::VIDEO) + &rooms("short", 3, 2, "stay = \"2s..3s\"");
    let place = Place::with(&profile("target.toml", &calls, "8s", &["joins.failed == 0"]));
    place.write("target.toml", &target);
    let said = tokio::task::block_in_place(|| place.run().finish());
    let (summary, lines) = (place.summary(), place.lines());
    println!("{}\n{}\n{}", summary["sentence"], summary["relays"]["servers"], summary["setup"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(summary["participants"]["joined"].as_u64().unwrap() >= 20, "{}", summary["participants"]);
    for kind in ["audio", "video"] {
        assert_eq!(summary[kind]["e2e"]["loss"], 0.0, "{}", summary[kind]);
        assert!(summary[kind]["e2e"]["expected"].as_u64().unwrap() > 500, "{}", summary[kind]);
    }
    let [made, back] = [RelayWhat::Allocated, RelayWhat::Released].map(|what| relays(&lines, what));
    // A new one for each who comes, or whose partner comes anew.
    assert!(made == back && made > 10, "{made} {back}");
    assert_eq!(summary["servers"][0]["id"], "own");
    let vias: std::collections::BTreeSet<String> = lines
        .iter()
        .filter_map(|l| if let Event::Relay(r) = &l.event { Some(r.via.to_string()) } else { None })
        .collect();
    assert_eq!(vias.len(), 2, "{vias:?}");
    let counts = stats(server).await.relay;
    assert_eq!((counts.allocations, counts.allocated), (0, made as u64), "{counts:?}");
    // What it says that it relayed is what its clients say, but for the end, which no second of theirs has.
    let mut ours = [0, 0];
    for flow in
        lines.iter().filter_map(|l| if let Event::Interval(i) = &l.event { Some(&i.relays) } else { None }).flatten()
    {
        ours[0] += flow.to_peers.packets;
        ours[1] += flow.from_peers.packets;
    }
    println!("{ours:?} of {counts:?}");
    for (ours, theirs) in ours.into_iter().zip([counts.packets_to_peers, counts.packets_to_clients]) {
        assert!(ours <= theirs && ours as f64 >= theirs as f64 * 0.98, "{ours} of {theirs}");
    }
    let metric = |name: &str| summary["relays"][name].as_f64().unwrap();
    assert!(metric("pps") > 500.0 && metric("bps") > 8.0 * 60.0 * metric("pps"), "{}", summary["relays"]);
    fleet.stop().await;
}
