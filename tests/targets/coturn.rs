//! TURN against Debian's coturn: participants behind it, and coturn as the target itself.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use roomful::history::{Event, FailReason, LegCause, Line, Phase, Relay, RelayWhat, StepStage};
use roomful::sfu::TurnReady;
use roomful::types::LegId;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::coturn::{Coturn, Credentials, PASSWORD, SECRET, USER};
use support::janus::Janus;
use support::redis::Redis;
use support::roomful::{Ended, Run, own_profile};
use support::{artifacts, netns, program, until};

/// Tests run where others compile: one late moment must not leave the run unproven.
const BUSY_MACHINE: &[&str] =
    &["health.lateness_p99_max=500ms", "health.timer_p99_max=500ms", "health.reference_delay_p99_max=500ms"];

fn relays(lines: &[Line]) -> impl Iterator<Item = (f64, &Relay)> {
    lines.iter().filter_map(|l| if let Event::Relay(r) = &l.event { Some((l.t, r)) } else { None })
}

/// Relayed addresses that a history says are held now.
fn held(lines: &[Line]) -> BTreeSet<SocketAddr> {
    let mut held = BTreeMap::new();
    for (_, r) in relays(lines) {
        match r.what {
            RelayWhat::Allocated => held.insert((r.leg, r.slot), r.relayed.unwrap()),
            RelayWhat::Released | RelayWhat::Lost | RelayWhat::Abandoned => held.remove(&(r.leg, r.slot)),
            RelayWhat::Refused | RelayWhat::Unreachable | RelayWhat::Redirected => None,
        };
    }
    held.into_values().collect()
}

fn count(run: &Ended, what: RelayWhat, code: Option<u16>) -> usize {
    relays(&run.history).filter(|(_, r)| r.what == what && r.code == code).count()
}

fn print_figures(run: &Ended) {
    let s = &run.summary;
    println!("{} (exit {})", s["sentence"], run.code);
    println!("set-up {}", s["setup"]);
    println!("relays {}", s["relays"]["servers"]);
    println!("legs {} participants {}", s["legs"], s["participants"]);
    println!("notes {} failures {}", s["notes"], s["participants"]["failures"]);
}

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [BUSY_MACHINE, more].concat()
}

/// coturn's own client: `clients` of them, in pairs that send `messages` each to the other one. Killed when dropped.
struct Uclient(Child);

impl Uclient {
    fn start(server: SocketAddr, clients: u32, messages: u32, arguments: &[&str]) -> Uclient {
        let log = std::fs::File::create(artifacts().join(format!("uclient-{}.log", std::process::id()))).unwrap();
        let child = Command::new(program("turnutils_uclient"))
            .args(["-y", "-c", "-m", &clients.to_string(), "-n", &messages.to_string(), "-l", "170"])
            .args(["-p", &server.port().to_string(), "-L", &netns::address(2).to_string()])
            .args(arguments)
            .arg(server.ip().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Uclient(child)
    }
}

impl Drop for Uclient {
    fn drop(&mut self) {
        // Over already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the CLI lists is what a client has allocated, whichever way it came.
#[test]
fn the_cli_lists_what_clients_have_allocated() {
    netns::inside_beside("the_cli_lists_what_clients_have_allocated", async || {
        let (plain, tls) = (SocketAddr::new(netns::address(3), 3478), SocketAddr::new(netns::address(3), 5349));
        for (way, server, more) in [("UDP", plain, &[][..]), ("TCP", plain, &["-t"]), ("TLS", tls, &["-t", "-S"])] {
            let coturn = Coturn::start(0, Credentials::LongTerm, &[]).await;
            assert_eq!(coturn.sessions(), []);
            let _client = Uclient::start(server, 4, 1000, &[&["-u", USER, "-w", PASSWORD], more].concat());
            // Some allocate a second time, from another port, to see what happens.
            let sessions = coturn.sessions_when(|s| s.len() >= 4).await;
            assert!(sessions.iter().all(|s| s.user == USER && s.over.starts_with(way)), "{way}: {sessions:?}");
            coturn.stop().await;
        }
        let coturn = Coturn::start(1, Credentials::TimeLimited, &[]).await;
        let _client = Uclient::start(SocketAddr::new(coturn.address, 3478), 2, 1000, &["-u", "bob", "-W", SECRET]);
        coturn.sessions_when(|s| s.len() >= 2).await;
        coturn.stop().await;
    });
}

/// A TURN server of our own fleet, in this namespace.
struct Own {
    child: Child,
    ready: TurnReady,
}

impl Own {
    fn start() -> Own {
        let listen = SocketAddr::new(netns::address(1), 3478).to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_roomful"))
            .args(["turn-server", "--id", "own", "--listen", &listen])
            // Its end is the server's.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Own { child, ready: serde_json::from_str(&line).unwrap() }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// coturn's own client finds nothing wrong with the TURN server of our fleet: nothing is lost.
#[test]
fn coturns_client_is_served_by_our_own_turn_server() {
    netns::inside_beside("coturns_client_is_served_by_our_own_turn_server", async || {
        let own = Own::start();
        let stats = async || {
            let url = format!("{}/stats", own.ready.http);
            let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
            answer.json::<roomful::sfu::TurnStats>().await.unwrap()
        };
        let words = ["-u", &own.ready.username, "-w", &own.ready.password];
        let secret = ["-u", "carol", "-W", &own.ready.secret];
        for arguments in [&words[..], &[&words[..], &["-t"]].concat(), &secret] {
            let mut client = Uclient::start(own.ready.listen, 6, 20, arguments);
            let status = client.0.wait().unwrap();
            let log = std::fs::read_to_string(artifacts().join(format!("uclient-{}.log", std::process::id()))).unwrap();
            println!("{log}");
            assert!(status.success(), "{arguments:?}: {status}");
            let total = log.lines().rev().find(|l| l.contains("tot_send_msgs=")).unwrap();
            assert!(total.contains("tot_send_msgs=120, tot_recv_msgs=120"), "{total}");
            println!("{:?}", stats().await);
        }
        let now = stats().await;
        // Some allocate a second time, from another port, to see what happens, and leave that behind.
        assert!(now.relay.allocated >= 18 && now.relay.released >= 18, "{now:?}");
        assert_eq!((now.relay.packets_to_peers, now.send_errors), (now.relay.packets_to_clients, 0), "{now:?}");
    });
}

/// 30 participants that have no other way than coturn, by UDP, TCP and TLS, meet in Janus; coturn's CLI lists just the
/// allocations that we say we hold, and none when they have left.
#[test]
fn thirty_relayed_participants_meet_in_janus() {
    netns::inside("thirty_relayed_participants_meet_in_janus", async || {
        let (janus, coturn) = (Janus::start(0).await, Coturn::start(0, Credentials::LongTerm, &[]).await);
        let sets = with(&["load.join=8/s", "load.warmup=2s", "load.hold=12s"]);
        let mut run = Run::start(&janus, "coturn-janus", "profiles/janus-behind-turn.toml", &sets);
        run.holds().await;
        let listed = until("coturn lists what we hold", Duration::from_secs(8), async || {
            let listed: BTreeSet<SocketAddr> = coturn.sessions().into_iter().map(|s| s.relayed).collect();
            (listed == held(&run.history())).then_some(listed)
        })
        .await;
        println!("coturn lists {} allocations: {:?}", listed.len(), coturn.by_transport());
        // One that sends and one that receives.
        assert_eq!(listed.len(), 60);
        assert_eq!(coturn.by_transport().len(), 3, "UDP, TCP and TLS: {:?}", coturn.by_transport());
        let run = run.ended().await;
        print_figures(&run);
        assert_eq!((run.number("participants.joined"), run.number("legs.dropped")), (30.0, 0.0), "{}", run.printed);
        assert_eq!((run.number("audio.e2e.loss"), run.number("audio.e2e.expected") > 1000.0), (0.0, true));
        assert!(run.leg_ends().all(|end| end.cause == LegCause::Left));
        assert_eq!(count(&run, RelayWhat::Allocated, None), 60);
        assert_eq!(count(&run, RelayWhat::Released, None), 60);
        coturn.is_empty().await;
        coturn.stop().await;
        janus.stop().await;
    });
}

/// What the fleet's own TURN server is tested with (`--test embedded_turn`): pairs that come and go, from allocation to
/// allocation, and relayed participants beside direct ones.
#[test]
fn what_holds_on_our_own_turn_server_holds_on_coturn() {
    netns::inside_beside("what_holds_on_our_own_turn_server_holds_on_coturn", async || {
        let coturn = Coturn::start(0, Credentials::LongTerm, &[]).await;
        let ways = "target=tests/targets/profiles/turn-ways-target.toml";
        for (name, more) in [
            ("coming-and-going", ["rooms.0.stay=2s..4s", "target_file.peer=direct"]),
            ("from-allocation-to-allocation", ["rooms.0.stay=1m", "target_file.peer=relayed"]),
        ] {
            let sets = with(&[&[ways, "load.hold=8s", "rooms.0.video=vp8@150kbit/s"], &more[..]].concat());
            let run = Run::alone(&format!("coturn-{name}"), &own_profile("turn-pair.toml"), &sets).ended().await;
            print_figures(&run);
            assert_eq!(run.code, 0, "{name}: {}", run.printed);
            for kind in ["audio", "video"] {
                assert_eq!(run.number(&format!("{kind}.e2e.loss")), 0.0, "{name}");
                assert!(run.number(&format!("{kind}.e2e.expected")) > 500.0, "{name}");
            }
            let (made, back) = (count(&run, RelayWhat::Allocated, None), count(&run, RelayWhat::Released, None));
            assert!(made == back && made >= 16, "{name}: {made} {back}");
            let ways: BTreeSet<String> = relays(&run.history).map(|(_, r)| r.via.to_string()).collect();
            assert!(ways.len() >= 2, "{name}: {ways:?}");
            assert!(run.number("relays.pps") > 500.0, "{name}");
            coturn.is_empty().await;
        }
        let janus = Janus::start(0).await;
        let sets = with(&["ice.relay=50%", "load.join=8/s", "load.warmup=2s", "load.hold=6s"]);
        let run = Run::start(&janus, "coturn-half", "profiles/janus-behind-turn.toml", &sets).ended().await;
        print_figures(&run);
        assert_eq!((run.number("participants.joined"), run.number("legs.dropped")), (30.0, 0.0), "{}", run.printed);
        let expected = ["direct", "relayed"].map(|way| {
            assert_eq!(run.number(&format!("relays.{way}.audio.loss")), 0.0, "{way}");
            assert!(run.number(&format!("relays.{way}.audio.delay.p50")) > 0.0, "{way}");
            run.number(&format!("relays.{way}.audio.e2e.expected"))
        });
        assert!((0.35..0.65).contains(&(expected[0] / (expected[0] + expected[1]))), "{expected:?}");
        coturn.is_empty().await;
        coturn.stop().await;
        janus.stop().await;
    });
}

/// Calls through one of two coturns stand still when it is killed, and go on through the other one; those that were there
/// notice nothing.
#[test]
fn a_killed_coturn_is_a_gap_for_its_own_legs_alone() {
    netns::inside_beside("a_killed_coturn_is_a_gap_for_its_own_legs_alone", async || {
        let mut one = Coturn::start(0, Credentials::LongTerm, &[]).await;
        let two = Coturn::start(1, Credentials::LongTerm, &[]).await;
        let mut run = Run::alone("coturn-killed", &own_profile("turn-pairs.toml"), &with(&["load.hold=35s"]));
        run.holds().await;
        let before = (one.sessions().len(), two.sessions().len());
        println!("allocations {before:?}");
        assert!(before.0 >= 2 && before.1 >= 2 && before.0 + before.1 == 10, "{before:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        one.signal("KILL");
        one.ended().await;
        let run = run.ended().await;
        print_figures(&run);
        let mut first: BTreeMap<LegId, &str> = BTreeMap::new();
        for (_, r) in relays(&run.history).filter(|(_, r)| r.what == RelayWhat::Allocated) {
            first.entry(r.leg).or_insert(&r.turn);
        }
        let rooms: BTreeMap<_, _> = run.leg_ends().filter_map(|end| Some((end.room, *first.get(&end.leg)?))).collect();
        assert_eq!(rooms.len(), 10);
        let mut hit = 0;
        for end in run.leg_ends() {
            println!(
                "{} {} {:?} gap {:.0} ms, {} restarts",
                end.leg, rooms[&end.room], end.cause, end.longest_gap_ms, end.ice_restarts
            );
            match rooms[&end.room] {
                "turn-1" => {
                    hit += 1;
                    // Ten seconds without an answer, and the way through the other one.
                    assert!((1000.0..20_000.0).contains(&end.longest_gap_ms), "{end:?}");
                    assert_eq!(end.cause, LegCause::Left, "{end:?}");
                }
                _ => assert_eq!((end.ice_restarts, end.cause), (0, LegCause::Left), "{end:?}"),
            }
        }
        assert_eq!(hit, 2 * before.0);
        let classes = (run.number("legs.glitched"), run.number("legs.clean"));
        assert_eq!(classes, (hit as f64, (20 - hit) as f64), "{}", run.summary["legs"]);
        assert_eq!(run.number("legs.dropped"), 0.0, "{}", run.summary["legs"]);
        two.is_empty().await;
        two.stop().await;
    });
}

fn refused(run: &Ended, code: u16) -> usize {
    let failures = run.history.iter().filter_map(|l| if let Event::JoinFailed(f) = &l.event { Some(f) } else { None });
    let code = code.to_string();
    failures
        .filter(|f| f.reason == FailReason::Relay && f.detail.contains(&code))
        .inspect(|f| println!("{f:?}"))
        .count()
}

/// What coturn refuses is counted by its code, and the others talk on.
#[test]
fn refusals_are_counted_by_their_code() {
    netns::inside_beside("refusals_are_counted_by_their_code", async || {
        let short = ["load.hold=2s", "load.join_timeout=4s"];
        let pairs = own_profile("turn-pair.toml");
        let coturn = Coturn::start(0, Credentials::LongTerm, &[]).await;
        let sets = with(&[&short[..], &["ice.wrong_password=100%"]].concat());
        let run = Run::alone("coturn-password", &pairs, &sets).ended().await;
        print_figures(&run);
        // The second ones of the pairs wait in vain.
        assert_eq!((run.number("participants.joined"), refused(&run, 401)), (0.0, 8));
        assert_eq!(coturn.sessions(), []);
        coturn.stop().await;

        for (name, lines, code) in [
            ("quota", &["user-quota=6"][..], 486),
            ("total", &["total-quota=6"], 486),
            ("ports", &["min-port=20000", "max-port=20005"], 508),
        ] {
            let coturn = Coturn::start(0, Credentials::LongTerm, lines).await;
            let run = Run::alone(&format!("coturn-{name}"), &pairs, &with(&short)).ended().await;
            print_figures(&run);
            assert_eq!((run.number("participants.joined"), refused(&run, code)), (12.0, 2), "{name}");
            assert_eq!(run.number("audio.e2e.loss"), 0.0);
            coturn.is_empty().await;
            coturn.stop().await;
        }
    });
}

/// Nonces that are stale after 4 s, allocations that live for 10 s, time-limited credentials: nobody in the call notices.
#[test]
fn short_lives_are_renewed() {
    netns::inside_beside("short_lives_are_renewed", async || {
        let lines = ["stale-nonce=4", "max-allocate-lifetime=10"];
        let coturn = Coturn::start(0, Credentials::TimeLimited, &lines).await;
        let sets = with(&["target=tests/targets/profiles/turn-secret-target.toml", "load.hold=18s"]);
        let mut run = Run::alone("coturn-short", &own_profile("turn-pair.toml"), &sets);
        run.holds().await;
        tokio::time::sleep(Duration::from_secs(14)).await;
        assert_eq!(coturn.sessions().len(), 8);
        let run = run.ended().await;
        print_figures(&run);
        assert_eq!((run.number("participants.joined"), run.number("legs.clean")), (16.0, 16.0));
        assert_eq!(run.number("audio.e2e.loss"), 0.0);
        // Behind it, an answer to the last Refresh may be lost to a machine that stands still.
        let leaving = run.history.iter().find(|l| matches!(l.event, Event::Phase { phase: Phase::Leaving })).unwrap().t;
        let lost = relays(&run.history).filter(|(t, r)| *t < leaving && r.what == RelayWhat::Lost);
        assert_eq!(lost.count(), 0);
        coturn.is_empty().await;
        coturn.stop().await;
    });
}

/// Allocations that nobody gives back are ghosts, which coturn's CLI lists until they run out.
#[test]
fn allocations_that_are_not_given_back_stay_behind() {
    netns::inside_beside("allocations_that_are_not_given_back_stay_behind", async || {
        let coturn = Coturn::start(0, Credentials::LongTerm, &["max-allocate-lifetime=20"]).await;
        let sets = with(&["ice.release=false", "load.hold=2s"]);
        let run = Run::alone("coturn-ghosts", &own_profile("turn-pair.toml"), &sets).ended().await;
        print_figures(&run);
        assert_eq!(run.number("participants.joined"), 16.0);
        assert_eq!((count(&run, RelayWhat::Abandoned, None), coturn.sessions().len()), (8, 8));
        until("they run out", Duration::from_secs(40), async || coturn.sessions().is_empty().then_some(())).await;
        coturn.stop().await;
    });
}

/// One of two coturns is drained: new allocations are sent to the other one, and its end drops nobody.
#[test]
fn a_coturn_is_drained() {
    netns::inside_beside("a_coturn_is_drained", async || {
        let redis = Redis::start_at((netns::address(1), 6379).into());
        let statsdb = format!("redis-statsdb=\"ip={} dbname=2 port=6379\"", netns::address(1));
        let mut one = Coturn::start(0, Credentials::LongTerm, &[&statsdb]).await;
        let two = Coturn::start(1, Credentials::LongTerm, &[]).await;
        let statsdb = format!("target_file.turn.turn-1.statsdb=redis://{}/2", redis.address);
        let pid_files: Vec<String> =
            [&one, &two].map(|c| format!("target_file.turn.{}.pid_file={}", c.name, c.pid_file().display())).into();
        let mut sets: Vec<&str> = BUSY_MACHINE.iter().copied().chain(pid_files.iter().map(String::as_str)).collect();
        // Of the late ones some begin at the drained server.
        sets.extend([&*statsdb, "seed=7"]);
        let run = Run::alone("coturn-drain", "profiles/turn-drain.toml", &sets).ended().await;
        print_figures(&run);
        println!("scale_in {:#}", run.summary["scale_in"]);
        assert_eq!(run.code, 0, "{}", run.printed);
        one.ended().await;
        assert_eq!(run.number("legs.clean"), run.number("legs.judged"));
        let (cordon, _) = run.operation("cordon");
        let late: Vec<&str> = relays(&run.history)
            .filter(|(t, r)| *t > cordon.done && r.what == RelayWhat::Allocated)
            .map(|(_, r)| r.turn.as_str())
            .collect();
        assert_eq!(late, ["turn-2"; 4]);
        // Written after the fact, but by the same allocations: it follows what the CLI says.
        let audit = run.summary["scale_in"]["audit"]["exported"].as_array().unwrap();
        let of = |metric: &str| audit.iter().find(|a| a["metric"] == metric && a["server"] == "turn-1").unwrap();
        let [listed, hint] = ["sessions", "sessions_hint"].map(|m| of(m)["exported"].as_f64().unwrap());
        println!("{} beside {}", of("sessions"), of("sessions_hint"));
        assert!(listed > 0.5 && (hint - listed).abs() <= 0.35 * listed, "{listed} {hint}");
        assert!(count(&run, RelayWhat::Redirected, Some(300)) >= 1, "somebody asked turn-1 first");
        two.stop().await;
    });
}

/// A coturn that can drains by itself; one that can't says so, and the run does not take that for a drain.
#[test]
fn a_coturn_that_can_drains_by_itself() {
    netns::inside_beside("a_coturn_that_can_drains_by_itself", async || {
        let mut one = Coturn::start(0, Credentials::LongTerm, &[]).await;
        let two = Coturn::start(1, Credentials::LongTerm, &[]).await;
        let can = one.cli("?").contains("drain");
        println!("this coturn {} drain", if can { "can" } else { "cannot" });
        let sets = with(&["target_file.turn.turn-1.drain=true"]);
        let run = Run::alone("coturn-own-drain", &own_profile("turn-own-drain.toml"), &sets).ended().await;
        print_figures(&run);
        println!("scale_in {:#}", run.summary["scale_in"]["invariants"]);
        if can {
            one.ended().await;
            assert_eq!(run.code, 0, "{}", run.printed);
            let (cordon, _) = run.operation("cordon");
            let late: BTreeSet<&str> = relays(&run.history)
                .filter(|(t, r)| *t > cordon.done && r.what == RelayWhat::Allocated)
                .map(|(_, r)| r.turn.as_str())
                .collect();
            assert_eq!(late.into_iter().collect::<Vec<_>>(), ["turn-2"]);
            assert!(count(&run, RelayWhat::Refused, Some(403)) >= 1, "somebody asked turn-1 first");
        } else {
            assert_ne!(run.code, 0, "{}", run.printed);
            let why = run.history.iter().find_map(|l| match &l.event {
                Event::Step(s) if s.stage == StepStage::Failed => Some(s.detail.clone()),
                _ => None,
            });
            assert!(why.as_ref().is_some_and(|why| why.contains("knows no drain")), "{why:?}: {}", run.printed);
            one.stop().await;
        }
        two.stop().await;
    });
}

/// The load at which a coturn's own quota refuses is found, and told apart from quality.
#[test]
fn a_quota_bounds_the_search_of_allocations() {
    netns::inside_beside("a_quota_bounds_the_search_of_allocations", async || {
        let coturn = Coturn::start(0, Credentials::LongTerm, &["total-quota=17"]).await;
        let sets = with(&[
            "search.range=8..80",
            "search.join=40/s",
            "search.first_trial=2s",
            "search.trial=4s",
            "search.trial_sum=6s",
            "search.settle=1s",
            "search.budget=80s",
        ]);
        let run = Run::alone("coturn-allocations", "profiles/turn-allocations.toml", &sets).ended().await;
        print_figures(&run);
        let capacity = &run.summary["capacity"];
        assert_eq!(run.code, 0, "{}", run.printed);
        assert_eq!((&capacity["lower"], &capacity["upper"]), (&34.into(), &36.into()), "{}", run.summary["sentence"]);
        assert_eq!((&capacity["allocations"], &capacity["broke_first"]), (&17.into(), &"admission limit".into()));
        assert!(run.summary["sentence"].as_str().unwrap().contains("(17 allocations"), "{}", run.summary["sentence"]);
        coturn.is_empty().await;
        coturn.stop().await;
    });
}

/// Keeps a process, and what it starts, on one core.
fn pin(core: &str, pid: u32) {
    let status = Command::new(program("taskset")).args(["-a", "-c", "-p", core, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// A thousand pairs, both of each with an allocation, from one core through a coturn on the other one.
#[test]
#[ignore = "is about speed; make test-long runs it"]
fn two_thousand_allocations_live_in_one_process() {
    netns::inside("two_thousand_allocations_live_in_one_process", async || {
        let coturn = Coturn::start(0, Credentials::LongTerm, &[]).await;
        pin("0", coturn.pid());
        let sets = with(&[
            "target_file.peer=relayed",
            "rooms.0.count=1000",
            "rooms.0.send=0",
            "load.join=700/s",
            "load.hold=10s",
            "shards=1",
        ]);
        let mut run = Run::alone("coturn-2000", &own_profile("turn-pair.toml"), &sets);
        pin("1", run.pid());
        run.holds().await;
        let before = coturn.sessions().len();
        let run = run.ended().await;
        print_figures(&run);
        println!(
            "{before} listed; most given in a second {}, latency {}; coturn used {:.1} s of CPU",
            run.summary["relays"]["rate_max"],
            run.summary["relays"]["latency"],
            cpu_seconds(coturn.pid())
        );
        assert_eq!((run.number("participants.joined"), run.number("relays.open_max")), (2000.0, 2000.0));
        assert_eq!((before, count(&run, RelayWhat::Released, None)), (2000, 2000));
        coturn.is_empty().await;
        coturn.stop().await;
    });
}

/// How many packets a second a coturn on one core relays, by its own client and by a search of ours.
#[test]
#[ignore = "takes a quarter of an hour; make test-long runs it"]
fn capacity_agrees_with_coturns_own_client() {
    netns::inside("capacity_agrees_with_coturns_own_client", async || {
        let coturn = Coturn::start(0, Credentials::LongTerm, &[]).await;
        pin("0", coturn.pid());
        let pid_file = format!("target_file.turn.turn-1.pid_file={}", coturn.pid_file().display());
        let sets = [&pid_file, "shards=1", "search.budget=8m"];
        let run = Run::alone("coturn-capacity", "profiles/turn-capacity.toml", &sets);
        let run = run.ended_within(Duration::from_secs(700)).await;
        print_figures(&run);
        println!("capacity {:#}", run.summary["capacity"]);
        // What coturn spends on a packet is what can be compared: no client of one core fills another one by itself. At a
        // low rate it spends more, since a wake-up is for fewer of them: the trial is the one of most packets.
        let trials = run.summary["capacity"]["trials"].as_array().unwrap();
        let of = |t: &serde_json::Value| {
            let server = &t["servers"][0];
            let (pps, cores) = (server["relay"]["pps"].as_f64()?, server["cost"]["cpu_cores"].as_f64()?);
            (t["outcome"] == "held").then_some((pps, cores / pps * 1e6))
        };
        let (pps, ours) = trials.iter().filter_map(of).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!(
            "roomful: {pps:.0} packets/s, {ours:.2} us of coturn's CPU each, so {:.0} a second fill a core",
            1e6 / ours
        );
        let (cpu, began) = (cpu_seconds(coturn.pid()), std::time::Instant::now());
        let mut client =
            Uclient::start(SocketAddr::new(coturn.address, 3478), 100, 8000, &["-u", USER, "-w", PASSWORD, "-z", "2"]);
        client.0.wait().unwrap();
        let (cpu, packets) = (cpu_seconds(coturn.pid()) - cpu, 2.0 * 100.0 * 8000.0);
        let theirs = cpu / packets * 1e6;
        println!(
            "turnutils_uclient: {:.0} packets/s, {theirs:.2} us each, so {:.0} a second fill a core",
            packets / began.elapsed().as_secs_f64(),
            1e6 / theirs
        );
        assert!((ours / theirs - 1.0).abs() <= 0.15, "{ours:.2} against {theirs:.2} us");
    });
}

/// User and system time of a process: fields 14 and 15 of its stat, in hundredths of a second.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
