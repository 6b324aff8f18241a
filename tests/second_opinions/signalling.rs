//! How a stock peer comes into the room.

use crate::targets::janus::Client;
use serde_json::{Value, json};

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

    /// Janus: an offer of all who publish.
    pub async fn offer(&mut self) -> String {
        let Signalling::Janus { client, room } = self else { panic!("the embedded fleet answers") };
        client.request(json!({"janus": "create"})).await;
        let attached = client.request(json!({"janus": "attach", "plugin": "janus.plugin.videoroom"})).await;
        client.handle = attached["data"]["id"].as_u64();
        let asked = json!({"request": "listparticipants", "room": room});
        let answer = client.request(json!({"janus": "message", "body": asked})).await;
        let all = answer["plugindata"]["data"]["participants"].as_array().unwrap().clone();
        let streams: Vec<Value> =
            all.iter().filter(|p| p["publisher"] == true).map(|p| json!({"feed": p["id"]})).collect();
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
}
