//! A coturn of the test's own, from Debian's package, and what its CLI says.

use super::{artifacts, ended, netns, program, signal, until};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const USER: &str = "alice";
pub const PASSWORD: &str = "wonderland";
/// Of time-limited credentials (`use-auth-secret`).
pub const SECRET: &str = "secret-of-the-test";
pub const CLI_PASSWORD: &str = "cli-of-the-test";

/// How clients prove who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credentials {
    LongTerm,
    TimeLimited,
}

/// One running instance. Killed when dropped.
pub struct Coturn {
    pub name: String,
    /// For clients: UDP and TCP at port 3478, TLS at 5349.
    pub address: IpAddr,
    pub log: PathBuf,
    child: Child,
    // Its configuration; removed with the instance.
    folder: tempfile::TempDir,
}

/// An allocation, as the CLI lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub user: String,
    /// `UDP`, `TCP` or `TLS`.
    pub over: String,
    pub client: SocketAddr,
    pub relayed: SocketAddr,
}

impl Coturn {
    /// The n-th instance (from 0), at 10.77.0.(3 + n), and waits until it answers. `lines` are added to its configuration.
    pub async fn start(n: u8, credentials: Credentials, lines: &[&str]) -> Coturn {
        let name = format!("turn-{}", n + 1);
        let address = netns::address(3 + n);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec![address.to_string()]).unwrap();
        fs::write(file("cert.pem"), cert.pem()).unwrap();
        fs::write(file("key.pem"), signing_key.serialize_pem()).unwrap();
        let tag = std::env::args().nth(1).unwrap_or_default().replace("::", "-");
        let log = artifacts().join(format!("{name}-{tag}.log"));
        let _ = fs::remove_file(&log);
        let credentials = match credentials {
            Credentials::LongTerm => format!("lt-cred-mech\nuser={USER}:{PASSWORD}"),
            Credentials::TimeLimited => format!("use-auth-secret\nstatic-auth-secret={SECRET}"),
        };
        // Later ones have the CLI only where it is asked for.
        let help = Command::new(program("turnserver")).arg("--help").output().unwrap();
        let help = [help.stdout, help.stderr].concat();
        let cli = if String::from_utf8_lossy(&help).contains(" --cli\t") { "cli\n" } else { "" };
        let own = |key: &str| lines.iter().any(|l| l.split('=').next() == Some(key));
        let ports = if own("min-port") { "" } else { "min-port=20000\nmax-port=60000" };
        let configuration = format!(
            "listening-ip={address}\nrelay-ip={address}\nlistening-port=3478\ntls-listening-port=5349\n{ports}\n\
             realm=test.local\nfingerprint\n{credentials}\nno-multicast-peers\nno-dtls\n\
             cert={}\npkey={}\ncli-ip={address}\ncli-port=5766\ncli-password={CLI_PASSWORD}\n\
             cli-max-output-sessions=100000\nuserdb={}\npidfile={}\nlog-file={}\nsimple-log\nno-software-attribute\n\
             relay-threads=1\n{cli}{}\n",
            file("cert.pem"),
            file("key.pem"),
            file("turndb"),
            file("turnserver.pid"),
            log.display(),
            lines.join("\n")
        );
        fs::write(file("turnserver.conf"), configuration).unwrap();
        let child = Command::new(program("turnserver"))
            .args(["-c", &file("turnserver.conf")])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut coturn = Coturn { name, address, log, child, folder };
        until("coturn answers on its CLI and its TCP port", Duration::from_secs(20), async || {
            if let Some(status) = coturn.child.try_wait().unwrap() {
                let log = fs::read_to_string(&coturn.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("coturn ended at its start ({status}): {tail:#?}");
            }
            TcpStream::connect((coturn.address, 3478)).ok()?;
            TcpStream::connect((coturn.address, 5766)).ok().map(drop)
        })
        .await;
        coturn
    }

    /// `turn:…` or `turns:…`, by `udp`, `tcp` or `tls`.
    pub fn url(&self, via: &str) -> String {
        match via {
            "tls" => format!("turns:{}:5349", self.address),
            "tcp" => format!("turn:{}:3478?transport=tcp", self.address),
            _ => format!("turn:{}:3478", self.address),
        }
    }

    pub fn cli_address(&self) -> String {
        format!("{}:5766", self.address)
    }

    /// A file with the process's id, as target files name it.
    pub fn pid_file(&self) -> PathBuf {
        let file = self.folder.path().join("pid-of-the-test");
        fs::write(&file, self.child.id().to_string()).unwrap();
        file
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: TERM, KILL, STOP, CONT.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for its end, whatever the cause.
    pub async fn ended(&mut self) {
        ended("coturn", &mut self.child).await;
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) {
        self.signal("TERM");
        self.ended().await;
    }

    /// What the CLI answers to a command.
    pub fn cli(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.cli_address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut ask = |said: &str, end: &str| {
            stream.write_all(said.as_bytes()).unwrap();
            let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
            // A list of sessions has other lines that end as the prompt does.
            let waits = |text: &[u8]| {
                let text = String::from_utf8_lossy(text);
                match end {
                    ">" => text.rsplit('\n').next().unwrap_or_default().trim() == end,
                    _ => text.trim_end().ends_with(end),
                }
            };
            while !waits(&text) {
                let tail = |text: &[u8]| String::from_utf8_lossy(&text[text.len().saturating_sub(200)..]).into_owned();
                let n = stream.read(&mut chunk);
                let n = n.unwrap_or_else(|e| panic!("the CLI says {e} after {} bytes, {:?}", text.len(), tail(&text)));
                assert!(n > 0, "the CLI closed after {:?}", String::from_utf8_lossy(&text));
                text.extend_from_slice(&chunk[..n]);
            }
            String::from_utf8(text).unwrap()
        };
        ask("", "password:");
        ask(&format!("{CLI_PASSWORD}\r\n"), ">");
        ask(&format!("{command}\r\n"), ">")
    }

    /// Its allocations (`ps`).
    pub fn sessions(&self) -> Vec<Session> {
        let text = self.cli("ps");
        let mut found = Vec::new();
        let mut user = String::new();
        let (mut over, mut client) = (String::new(), None);
        for line in text.lines().map(str::trim) {
            if let Some((_, rest)) = line.split_once(") id=") {
                user = rest.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix("client protocol ") {
                over = rest.split([',', ' ']).next().unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix("client addr ") {
                client = rest.split(',').next().unwrap_or_default().parse().ok();
            } else if let Some(rest) = line.strip_prefix("relay addr ") {
                let relayed = rest.split(',').next().unwrap_or_default().parse();
                let session = relayed.ok().zip(client).map(|(relayed, client)| Session {
                    user: user.clone(),
                    over: over.clone(),
                    client,
                    relayed,
                });
                found.push(session.unwrap_or_else(|| panic!("{line:?} in {text}")));
            }
        }
        let total = text.lines().find_map(|l| l.trim().strip_prefix("Total sessions:"));
        let total: usize = total.unwrap_or_else(|| panic!("no total in {text}")).trim().parse().unwrap();
        assert_eq!(found.len(), total, "{text}");
        found
    }

    /// How many of its allocations came each way.
    pub fn by_transport(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for session in self.sessions() {
            *counts.entry(session.over).or_default() += 1;
        }
        counts
    }

    /// Waits until they are as wanted.
    pub async fn sessions_when(&self, wanted: impl Fn(&[Session]) -> bool) -> Vec<Session> {
        let what = format!("{} lists allocations as wanted", self.name);
        until(&what, Duration::from_secs(20), async || Some(self.sessions()).filter(|s| wanted(s))).await
    }

    /// Waits until none is left.
    pub async fn is_empty(&self) {
        self.sessions_when(<[Session]>::is_empty).await;
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
