//! A Janus of the test's own, from Debian's package.

use super::admin::Admin;
use super::{artifacts, ended, folder, netns, program, signal, until};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

pub const ADMIN_SECRET: &str = "admin-of-the-test";
pub const ADMIN_KEY: &str = "key-of-the-test";
/// The room that every instance has from its start.
pub const ROOM: u64 = 1234;

/// First and last RTP port of an instance behind an impairer.
pub const RTP_PORTS: [u16; 2] = [20_000, 20_199];

/// One running instance. Killed when dropped.
pub struct Janus {
    pub name: String,
    /// `ws://…`
    pub url: String,
    pub admin: Admin,
    pub log: PathBuf,
    child: Child,
    // Removed with the instance.
    _config: tempfile::TempDir,
}

impl Janus {
    /// Starts the n-th instance (from 0), with ports of its own on the first address, and waits until it answers.
    pub async fn start(n: u16) -> Janus {
        Janus::start_with(n, &[]).await
    }

    /// The same with its media at [`netns::BEHIND`], which is known to others by another address only, that of an impairer
    /// in front of the RTP ports, and which can reach nobody but the impairer. Being ICE-lite is not enough: libnice
    /// checks the addresses that it was told nevertheless, and where the impairer loses an answer, such a check finds a
    /// way past it.
    pub async fn start_behind(front: IpAddr) -> Janus {
        netns::confine(RTP_PORTS);
        let nat = format!("nat_1_1_mapping = \"{front}\"\n\tice_lite = true");
        let enforced = |address: IpAddr| format!("ice_enforce_list = \"{address}\"");
        let changes = [
            ("ice_lite = false", nat),
            ("20000-23999", format!("{}-{}", RTP_PORTS[0], RTP_PORTS[1])),
            (&*enforced(netns::address(1)), enforced(netns::BEHIND)),
        ];
        Janus::start_with(0, &changes).await
    }

    async fn start_with(n: u16, changes: &[(&str, String)]) -> Janus {
        let name = format!("janus-{}", n + 1);
        let address = netns::address(1).to_string();
        let (ws, http, admin) = (8188 + n, 8288 + n, 7088 + n);
        let config = tempfile::tempdir().unwrap();
        let rtp = 20_000 + n * 4000;
        let values = [
            ("@CONFIG@", config.path().display().to_string()),
            ("@LIB@", library()),
            ("@ADMIN_SECRET@", ADMIN_SECRET.to_owned()),
            ("@ADMIN_KEY@", ADMIN_KEY.to_owned()),
            ("@NAME@", name.clone()),
            ("@ADDRESS@", address.clone()),
            ("@RTP_PORTS@", format!("{rtp}-{}", rtp + 3999)),
            ("@WS_PORT@", ws.to_string()),
            ("@HTTP_PORT@", http.to_string()),
            ("@ADMIN_PORT@", admin.to_string()),
        ];
        for template in fs::read_dir(folder().join("janus-conf")).unwrap() {
            let template = template.unwrap();
            let mut text = fs::read_to_string(template.path()).unwrap();
            for (key, value) in &values {
                text = text.replace(key, value);
            }
            for (from, to) in changes {
                text = text.replace(from, to);
            }
            fs::write(config.path().join(template.file_name()), text).unwrap();
        }
        let log = artifacts().join(format!("{name}-{}.log", ws_log_tag()));
        let output = fs::File::create(&log).unwrap();
        let child = Command::new(program("janus"))
            .arg("-F")
            .arg(config.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let admin = Admin::new(format!("http://{address}:{admin}/admin"), ADMIN_SECRET.to_owned());
        let mut janus = Janus { name, url: format!("ws://{address}:{ws}"), admin, log, child, _config: config };
        janus.wait_until_ready().await;
        janus
    }

    async fn wait_until_ready(&mut self) {
        until("Janus answers on its WebSocket and its admin API", Duration::from_secs(20), async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("Janus ended at its start ({status}): {tail:#?}");
            }
            Client::connect(&self.url).await?;
            self.admin.answers().await.then_some(())
        })
        .await;
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
        ended("Janus", &mut self.child).await;
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) {
        self.signal("TERM");
        self.ended().await;
    }

    /// Sends a plugin message on somebody's handle, as an operator could; its event goes to the handle's owner.
    pub async fn tell(&self, session: u64, handle: u64, body: Value) {
        let mut client = Client::connect(&self.url).await.expect("a WebSocket to Janus");
        (client.session, client.handle) = (Some(session), Some(handle));
        client.send(json!({"janus": "message", "body": body})).await;
        let answer = client.answer(|_| true).await;
        assert_eq!(answer["janus"], "ack", "{answer}");
    }

    /// Asks the VideoRoom plugin something, in a session of its own.
    pub async fn ask(&self, body: Value) -> Value {
        let mut client = Client::connect(&self.url).await.expect("a WebSocket to Janus");
        client.request(json!({"janus": "create"})).await;
        let attached = client.request(json!({"janus": "attach", "plugin": "janus.plugin.videoroom"})).await;
        client.handle = attached["data"]["id"].as_u64();
        let mut answer = client.request(json!({"janus": "message", "body": body})).await;
        client.request(json!({"janus": "destroy"})).await;
        answer["plugindata"]["data"].take()
    }
}

impl Drop for Janus {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tests of one binary may run side by side, each in its namespace; their logs must not meet.
fn ws_log_tag() -> String {
    std::env::args().nth(1).unwrap_or_default().replace("::", "-")
}

fn library() -> String {
    let found = fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("janus"))
        .find(|path| path.join("plugins/libjanus_videoroom.so").is_file());
    found
        .unwrap_or_else(|| panic!("Janus's plugins are missing; apt-get install {}", super::PACKAGES))
        .display()
        .to_string()
}

/// The smallest Janus client.
pub struct Client {
    ws: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    session: Option<u64>,
    pub handle: Option<u64>,
}

impl Client {
    pub async fn connect(url: &str) -> Option<Client> {
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "janus-protocol".parse().unwrap());
        let (ws, _) = tokio_tungstenite::connect_async(request).await.ok()?;
        Some(Client { ws, session: None, handle: None })
    }

    pub async fn request(&mut self, request: Value) -> Value {
        let created = request["janus"] == "create";
        self.send(request).await;
        let answer = self.answer(|a| a["janus"] != "ack").await;
        if created {
            self.session = answer["data"]["id"].as_u64();
        }
        answer
    }

    /// What it is told of its own accord, until then.
    pub async fn event(&mut self, until: tokio::time::Instant) -> Option<Value> {
        loop {
            match tokio::time::timeout_at(until, self.ws.next()).await.ok()? {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(_)) => {}
                other => panic!("the WebSocket gave {other:?}"),
            }
        }
    }

    /// Without waiting for the answer.
    pub async fn send(&mut self, mut request: Value) {
        request["transaction"] = json!("x");
        if let Some(session) = self.session {
            request["session_id"] = json!(session);
        }
        if let Some(handle) = self.handle {
            request["handle_id"] = json!(handle);
        }
        self.ws.send(Message::text(request.to_string())).await.unwrap();
    }

    async fn answer(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let text = match self.ws.next().await {
                Some(Ok(Message::Text(text))) => text,
                // libwebsockets pings; tungstenite answers.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                other => panic!("no answer: the WebSocket gave {other:?}"),
            };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["transaction"] == "x" && wanted(&answer) {
                return answer;
            }
        }
    }
}
