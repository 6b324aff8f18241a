//! How a stock peer comes into the room.

use crate::support::PATIENCE;
use crate::targets::janus::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The browser's name in the room.
pub const BROWSER: &str = "browser";

#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum Signalling<'a> {
    Embedded { base: &'a str, room: &'a str },
    Janus { client: Client, room: u64 },
}

impl Signalling<'_> {
    /// Embedded: one request.
    pub async fn answer_to(&mut self, offer: String) -> String {
        let Signalling::Embedded { base, room } = self else { panic!("Janus offers") };
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{base}/rooms/{room}/participants/stock");
        let request = http.post(url).header("Content-Type", "application/sdp").body(offer);
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 201, "{text}");
        text
    }

    /// Janus: an offer of these many participants, once they all publish.
    pub async fn offer(&mut self, senders: usize) -> String {
        let Signalling::Janus { client, room } = self else { panic!("the embedded fleet answers") };
        client.request(json!({"janus": "create"})).await;
        let attached = client.request(json!({"janus": "attach", "plugin": "janus.plugin.videoroom"})).await;
        client.handle = attached["data"]["id"].as_u64();
        // Janus names those a publisher whose media comes: with handshakes lost on the way that is some seconds later, and
        // this one offer is all that the stock peer gets. The browser publishes, too, sooner or later.
        let asked = json!({"request": "listparticipants", "room": room});
        let mut feeds: Vec<Value> = Vec::new();
        let end = Instant::now() + PATIENCE;
        while feeds.len() < senders {
            assert!(Instant::now() < end, "{} of {senders} participants publish", feeds.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
            let answer = client.request(json!({"janus": "message", "body": asked.clone()})).await;
            let all =
                answer["plugindata"]["data"]["participants"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
            feeds = all.into_iter().filter(|p| p["publisher"] == true && p["display"] != BROWSER).collect();
        }
        let streams: Vec<Value> = feeds.iter().map(|p| json!({"feed": p["id"]})).collect();
        let join = json!({"request": "join", "ptype": "subscriber", "room": room, "streams": streams});
        let mut joined = client.request(json!({"janus": "message", "body": join})).await;
        match joined["jsep"]["sdp"].take() {
            Value::String(sdp) => sdp,
            _ => panic!("no offer: {joined}"),
        }
    }

    pub async fn start(&mut self, answer: String) {
        let Signalling::Janus { client, .. } = self else { panic!("the embedded fleet answers") };
        let jsep = json!({"type": "answer", "sdp": answer});
        client.request(json!({"janus": "message", "body": {"request": "start"}, "jsep": jsep})).await;
    }

    /// To be called every few seconds: Janus ends a session that is silent for a minute.
    pub async fn keep_alive(&mut self) {
        if let Signalling::Janus { client, .. } = self {
            client.send(json!({"janus": "keepalive"})).await;
        }
    }
}
