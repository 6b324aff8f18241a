//! Targets, profiles and machines that are not as they should be: each a clear error or a counted outcome.

use super::fake_server::FakeServer;
use super::support::{Place, ROOMFUL, Said, VIDEO, profile, rooms};
use super::targets::{netns, program};
use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::history::{Event, JoinFailure};
use roomful::sfu::ServerStats;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

const ALL_JOIN: &[&str] = &["joins.failed_share == 0%"];

fn alone(name: &str) -> String {
    rooms(name, 1, 1, "")
}

fn failures(place: &Place) -> BTreeMap<String, JoinFailure> {
    let mut names = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for line in place.lines() {
        match line.event {
            Event::Rooms { rooms } => names.extend(rooms.into_iter().map(|r| (r.id, r.name))),
            Event::JoinFailed(failure) => {
                failures.insert(names[&failure.room].trim_end_matches("-1").to_owned(), failure);
            }
            _ => {}
        }
    }
    failures
}

fn datagrams(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| socket.recv_from(&mut buffer).ok()).count()
}

/// A target that takes connections and says nothing: Ctrl-C ends the wait, and nothing is left.
#[test]
fn ctrl_c_ends_the_wait_for_a_target_that_is_silent() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let place = Place::against(&url, &profile("target.toml", &alone("m"), "2s", ALL_JOIN));
    let run = place.run();
    let _held = silent.accept().unwrap();
    // The handler is set in the same moment as the question is asked.
    std::thread::sleep(std::time::Duration::from_millis(300));
    run.signal("INT");
    let run = run.finish();
    assert_eq!(run.code, Some(130), "{run:?}");
    assert!(run.stderr.contains("Interrupted: taking back"), "{run:?}");
    assert!(!place.out().join("history.jsonl").exists() && !place.out().join("summary.json").exists());
}

#[test]
fn every_way_to_refuse_a_join_is_counted_by_its_reason() {
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far: SocketAddr = "10.255.1.1:40000".parse().unwrap();
    let server = FakeServer::start(far, deaf.local_addr().unwrap());
    let manners =
        ["far", "deaf", "garbage", "empty", "nowhere", "full", "secret", "broken", "noise", "closed", "silent"];
    let all: String = manners.iter().map(|name| alone(name)).collect();
    let text = profile("target.toml", &all, "2s", ALL_JOIN).replace("\"10s\"\n[pass]", "\"2s\"\n[pass]");
    let place = Place::against(&server.url, &text);
    let run = place.run().finish();
    assert_eq!(run.code, Some(3), "{run:?}");

    let failures = failures(&place);
    let expected = [
        ("far", "not_allowed", "allow-list: 10.255.1.1:40000"),
        ("deaf", "timeout_ice", "no ICE pair within 2s on fake"),
        ("garbage", "bad_sdp", "bad SDP"),
        ("empty", "bad_sdp", "bad SDP"),
        ("nowhere", "bad_answer", "Location"),
        ("full", "full", "no seat left"),
        ("secret", "unauthorized", "401: who are you?"),
        ("broken", "rejected", "500"),
        ("noise", "bad_answer", ""),
        ("closed", "closed", ""),
        ("silent", "timeout_signaling", "no signalling answer within 2s"),
    ];
    assert_eq!(failures.len(), expected.len());
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (manner, reason, words) in expected {
        let failure = &failures[manner];
        assert_eq!(serde_json::to_value(failure.reason).unwrap(), reason, "{manner}: {failure:?}");
        assert!(!failure.detail.is_empty() && failure.detail.contains(words), "{manner}: {failure:?}");
        *counts.entry(reason).or_default() += 1;
    }
    let summary = place.summary();
    assert_eq!(summary["participants"]["failures"], json!(counts));
    // A join that never ends counts at its full time-out: the deaf one and the silent one.
    let full = json!({"count": 2, "p50": 2000.0, "p95": 2000.0, "p99": 2000.0, "max": 2000.0});
    assert_eq!(summary["setup"]["total"], full);
    assert_eq!(summary["joins"]["failed_share"], 100.0);
    let sentence = summary["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("11 of 11 joins failed, 100 % (limit 0 %)"), "{sentence}");
    // Where a place was given that can't be used, it is given back.
    for manner in ["far", "garbage", "empty"] {
        assert!(server.asked().contains(&format!("DELETE /sessions/{manner}-1")), "{manner}: {:?}", server.asked());
    }
}

#[test]
fn a_probe_names_the_allow_line_that_is_missing() {
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = FakeServer::start("10.255.1.1:40000".parse().unwrap(), deaf.local_addr().unwrap());
    let place = Place::against(&server.url, &profile("target.toml", &alone("far"), "2s", ALL_JOIN));
    let mut command = Command::new(ROOMFUL);
    command.args(["check", "profile.toml", "--probe"]);
    let probe = place.start(command).finish();
    assert_eq!(probe.code, Some(3), "{probe:?}");
    let line = "10.255.1.1:40000; the target file has no allow = [\"10.255.1.1/32\"]";
    assert!(probe.stdout.contains("not joined after") && probe.stdout.contains(line), "{probe:?}");
}

#[test]
fn no_packet_goes_outside_the_allow_list() {
    netns::inside("bad_input::no_packet_goes_outside_the_allow_list", async || {
        tokio::task::spawn_blocking(|| {
            let somebody_else = UdpSocket::bind((netns::address(9), 0)).unwrap();
            let address = somebody_else.local_addr().unwrap();
            let server = FakeServer::start(address, address);
            let text =
                profile("target.toml", &alone("far"), "2s", ALL_JOIN).replace("\"10s\"\n[pass]", "\"2s\"\n[pass]");

            let refused = Place::against(&server.url, &text);
            let run = refused.run().finish();
            assert_eq!(run.code, Some(3), "{run:?}");
            let sentence = refused.summary()["sentence"].as_str().unwrap().to_owned();
            assert!(sentence.contains("not_allowed") && sentence.contains("10.77.0.9"), "{sentence}");
            assert_eq!(datagrams(&somebody_else), 0);

            // With the line that allows it, the same answer brings ICE checks there.
            let allowed = Place::against(&server.url, &text);
            let target = std::fs::read_to_string(allowed.path("target.toml")).unwrap();
            allowed.write("target.toml", &format!("allow = [\"10.77.0.9/32\"]\n{target}"));
            let run = allowed.run().finish();
            assert_eq!(run.code, Some(3), "{run:?}");
            assert_eq!(allowed.summary()["participants"]["failures"], json!({"timeout_ice": 1}));
            assert!(datagrams(&somebody_else) > 0);
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_target_that_does_not_answer_is_named() {
    let place = Place::against("http://127.0.0.1:1", &profile("target.toml", &alone("room"), "2s", ALL_JOIN));
    let run = place.run().finish();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("does not answer at http://127.0.0.1:1/registry"), "{}", run.stderr);
    assert!(run.stderr.contains("Connection refused"), "{}", run.stderr);
}

#[test]
fn all_errors_of_a_profile_come_at_once() {
    let pass = ["joins.failed_share == 0%", "audio.mos.p5 >= 4"];
    let text = profile("embedded", &alone("room"), "2s", &pass);
    let text = text.replace("hold = \"2s\"", "hodl = \"2s\"").replace("size = 1", "size = \"x\"").replace("0%", "0");
    let place = Place::with(&text);
    let run = place.run().finish();
    assert_eq!(run.code, Some(2), "{run:?}");
    for words in [
        "profile.toml:7: rooms[0].size:",
        "load.hodl: unknown key",
        "load.hold: is missing",
        "joins.failed_share",
        "audio.mos.p5\": MOS is shown and never a threshold",
    ] {
        assert!(run.stderr.contains(words), "{words:?} is not in {}", run.stderr);
    }
    assert!(!place.out().exists(), "nothing has run");
    let missing = Command::new(ROOMFUL).args(["run", "no/such/profile.toml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no/such/profile.toml"));
}

#[test]
fn a_run_folder_that_cannot_be_made_is_named() {
    let place = Place::with(&profile("embedded", &alone("room"), "2s", ALL_JOIN));
    place.write("out", "a file");
    let run = place.run().finish();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(place.out().to_str().unwrap()), "{}", run.stderr);
    std::fs::remove_file(place.out()).unwrap();
    std::fs::create_dir(place.out()).unwrap();
    place.write("out/history.jsonl", "{}\n");
    let run = place.run().finish();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("another run"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(place.path("out/history.jsonl")).unwrap(), "{}\n", "left alone");
}

/// The run in a shell: `before` makes its surroundings.
fn run_after(place: &Place, wrapper: &[&str], before: &str) -> Said {
    let line = format!("{before} && exec \"$0\" run profile.toml --out out/run");
    let mut words = wrapper.iter().copied().chain(["sh", "-c", &line, ROOMFUL]);
    let mut command = Command::new(program(words.next().unwrap()));
    command.args(words);
    place.start(command).finish()
}

#[test]
fn a_full_disk_costs_files_and_neither_the_run_nor_its_verdict() {
    let place = Place::with(&profile("embedded", &rooms("meeting", 4, 3, VIDEO), "3s", ALL_JOIN));
    std::fs::create_dir(place.out()).unwrap();
    let small = "mount -t tmpfs -o size=16k tmpfs out";
    let run = run_after(&place, &["unshare", "--user", "--map-root-user", "--mount"], small);
    assert_eq!(run.code, Some(1), "{run:?}");
    let history = run.stderr.lines().find(|line| line.contains("history.jsonl: No space left on device"));
    assert!(history.is_some_and(|line| line.contains("could not be written")), "{}", run.stderr);
    assert!(run.stderr.contains("can't write out/run/summary.json: No space left on device"), "{}", run.stderr);
    assert!(run.stdout.contains("PASS: 12 of 12 joined"), "{}", run.stdout);
}

/// The server removes a participant that fell silent after 20 s; a join that is given up must not wait for that.
#[test]
fn a_join_given_up_frees_its_seat() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = EmbeddedOptions { program: Some(ROOMFUL.into()), ..EmbeddedOptions::default() };
    let fleet = runtime.block_on(EmbeddedFleet::start(1, 10, &options)).unwrap();
    // The joins are answered, and nothing that we send on the media path arrives.
    let mute = rooms("mute", 1, 3, "network = { loss_up = \"100%\" }");
    let text = profile("target.toml", &mute, "2s", ALL_JOIN).replace("\"10s\"\n[pass]", "\"1s\"\n[pass]");
    let place = Place::against(fleet.base_url(), &text);
    let run = place.run().finish();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(place.summary()["participants"]["failures"], json!({"timeout_ice": 3}));
    let traffic = runtime.block_on(async {
        let url = format!("{}/stats", fleet.servers()[0].http);
        let stats: ServerStats = reqwest::get(url).await.unwrap().json().await.unwrap();
        fleet.stop().await;
        stats.traffic
    });
    assert_eq!((traffic.joins, traffic.participants, traffic.leaves, traffic.lost), (3, 0, 3, 0), "{traffic:?}");
}

#[test]
fn too_few_ports_end_it_before_any_traffic() {
    let place = Place::with(&profile("embedded", &rooms("meeting", 10, 4, ""), "2s", ALL_JOIN));
    let few = "echo 50000 50009 > /proc/sys/net/ipv4/ip_local_port_range";
    let run = run_after(&place, &["unshare", "--user", "--map-root-user", "--net"], few);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("40 UDP ports are needed, the source addresses have 10"), "{}", run.stderr);
    assert!(run.stderr.contains("bind = "), "{}", run.stderr);
    assert!(!place.out().exists(), "nothing has run");
}

/// As many participants as a profile may have are planned and counted, and refused with every reason at once.
#[test]
fn a_load_for_a_larger_machine_is_refused_by_run_and_check_alike() {
    let place = Place::with(&profile("embedded", &rooms("stadium", 200, 1000, "send = 2"), "2s", ALL_JOIN));
    for words in [&["run", "profile.toml"][..], &["check", "profile.toml"]] {
        let mut command = Command::new(ROOMFUL);
        command.args(words);
        let said = place.start(command).finish();
        assert_eq!(said.code, Some(2), "{said:?}");
        for problem in ["UDP ports are needed", "MiB of memory are needed"] {
            assert!(said.stderr.contains(problem), "{words:?}: {}", said.stderr);
        }
    }
    assert!(!place.path("reports").exists(), "nothing has run");
}

#[test]
fn too_few_descriptors_end_it_before_any_traffic() {
    let place = Place::with(&profile("embedded", &rooms("meeting", 10, 4, ""), "2s", ALL_JOIN));
    let run = run_after(&place, &[], "ulimit -n 64");
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("descriptors are needed, this process may open 64"), "{}", run.stderr);
    assert!(run.stderr.contains("ulimit -Hn"), "{}", run.stderr);
    assert!(!place.out().exists(), "nothing has run");
}

/// A token in an address goes to the server, and nowhere else: not to the screen, and into no file of the run.
#[test]
fn secrets_in_addresses_are_neither_printed_nor_written() {
    const SECRET: &str = "S3cretInAddress";
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = FakeServer::start("10.255.1.1:40000".parse().unwrap(), deaf.local_addr().unwrap());
    let all: String = ["closed", "noise", "broken", "nowhere"].iter().map(|name| alone(name)).collect();
    let text = profile("target.toml", &all, "1s", ALL_JOIN).replace("\"10s\"\n[pass]", "\"2s\"\n[pass]");
    let place = Place::against(&format!("{}/?token={SECRET}", server.url), &text);
    let target = std::fs::read_to_string(place.path("target.toml")).unwrap();
    place.write("target.toml", &format!("{target}metrics = \"http://127.0.0.1:9/metrics?key={SECRET}\"\n"));
    let check = |args: &[&str]| {
        let mut command = Command::new(ROOMFUL);
        command.args(["check", "profile.toml"]).args(args);
        place.start(command).finish()
    };

    let resolved = check(&["--resolved"]);
    assert!(resolved.stdout.contains("/?token=***\"") && resolved.stdout.contains("?key=***\""), "{resolved:?}");
    let set = format!("target_file.servers.0.metrics=http://127.0.0.1:9/?{SECRET}");
    let mut said = vec![resolved, check(&[]), check(&["--probe"]), check(&["--resolved", "--set", &set])];
    assert!(said.iter().take(2).all(|s| s.code == Some(0)), "{said:?}");
    said.push(place.run().finish());
    assert_eq!(said.last().unwrap().code, Some(3), "{said:?}");
    said.push(place.report(&[]));
    let mut files = Vec::new();
    for file in std::fs::read_dir(place.out()).unwrap() {
        let path = file.unwrap().path();
        files.push((path.clone(), String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()));
    }
    assert!(files.len() >= 3 && files.iter().any(|(_, text)| text.contains("/?token=***")), "{files:?}");
    for (path, text) in files {
        assert!(!text.contains(SECRET), "{}: {text}", path.display());
    }
    assert!(server.asked().iter().any(|a| a.contains(&format!("?token={SECRET}"))), "{:?}", server.asked());

    for url in [format!("ws://u:{SECRET}@10.0.0.1"), format!("10.0.0.1/?{SECRET}"), format!("ws://8.8.8.8?a={SECRET}")]
    {
        place.write("target.toml", &target.replace("url = ", &format!("url = \"{url}\" # ")));
        said.push(check(&[]));
        assert_eq!(said.last().unwrap().code, Some(2), "{url}: {said:?}");
    }
    for s in said {
        assert!(!s.stdout.contains(SECRET) && !s.stderr.contains(SECRET), "{s:?}");
    }
}
