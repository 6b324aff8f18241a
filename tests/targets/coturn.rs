//! TURN against Debian's coturn: participants behind it, and coturn as the target itself.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use roomful::sfu::TurnReady;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::coturn::{Coturn, Credentials, PASSWORD, SECRET, USER};
use support::{artifacts, netns, program};

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
    netns::inside("the_cli_lists_what_clients_have_allocated", async || {
        let (plain, tls) = (SocketAddr::new(netns::address(3), 3478), SocketAddr::new(netns::address(3), 5349));
        for (way, server, more) in [("UDP", plain, &[][..]), ("TCP", plain, &["-t"]), ("TLS", tls, &["-t", "-S"])] {
            let coturn = Coturn::start(0, Credentials::LongTerm, &[]).await;
            assert_eq!(coturn.sessions(), []);
            let _client = Uclient::start(server, 4, 1000, &[&["-u", USER, "-w", PASSWORD], more].concat());
            coturn.lists(4, Duration::from_secs(20)).await;
            let sessions = coturn.sessions();
            assert!(sessions.iter().all(|s| s.user == USER && s.over.starts_with(way)), "{way}: {sessions:?}");
            coturn.stop().await;
        }
        let coturn = Coturn::start(1, Credentials::TimeLimited, &[]).await;
        let _client = Uclient::start(SocketAddr::new(coturn.address, 3478), 2, 1000, &["-u", "bob", "-W", SECRET]);
        coturn.lists(2, Duration::from_secs(20)).await;
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

/// coturn's own client finds nothing wrong with the TURN server of our fleet: nothing is lost, and nothing left behind.
#[test]
fn coturns_client_is_served_by_our_own_turn_server() {
    netns::inside("coturns_client_is_served_by_our_own_turn_server", async || {
        let own = Own::start();
        let stats = async || {
            let url = format!("{}/stats", own.ready.http);
            let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
            answer.json::<roomful::sfu::TurnStats>().await.unwrap()
        };
        let mut made = 0;
        let words = ["-u", &own.ready.username, "-w", &own.ready.password];
        let secret = ["-u", "carol", "-W", &own.ready.secret];
        for arguments in [&words[..], &[&words[..], &["-t"]].concat(), &secret] {
            let mut client = Uclient::start(own.ready.listen, 6, 100, arguments);
            let status = client.0.wait().unwrap();
            let log = std::fs::read_to_string(artifacts().join(format!("uclient-{}.log", std::process::id()))).unwrap();
            println!("{log}");
            assert!(status.success(), "{arguments:?}: {status}");
            let total = log.lines().rev().find(|l| l.contains("tot_send_msgs=")).unwrap();
            assert!(total.contains("tot_send_msgs=600, tot_recv_msgs=600"), "{total}");
            made += 6;
            let now = stats().await;
            assert_eq!(now.relay.allocated, made, "{now:?}");
        }
        support::until("all allocations are gone", Duration::from_secs(10), async || {
            (stats().await.relay.allocations == 0).then_some(())
        })
        .await;
        let now = stats().await;
        assert_eq!((now.relay.packets_to_peers, now.send_errors), (now.relay.packets_to_clients, 0), "{now:?}");
    });
}
