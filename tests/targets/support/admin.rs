//! Janus's admin API.

use serde_json::{Value, json};

#[derive(Clone)]
pub struct Admin {
    base: String,
    secret: String,
    http: reqwest::Client,
}

impl Admin {
    pub fn new(base: String, secret: String) -> Admin {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Admin { base, secret, http }
    }

    /// Sends a request to a path below the base ("", "/session", "/session/handle").
    pub async fn request(&self, path: &str, mut body: Value) -> Value {
        body["transaction"] = json!("roomful");
        body["admin_secret"] = json!(self.secret);
        let answer = self.http.post(format!("{}{path}", self.base)).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["janus"], "success", "{body}: {answer}");
        answer
    }

    /// True once the API is there; its transport starts after the WebSocket's.
    pub async fn answers(&self) -> bool {
        let body = json!({"janus": "ping", "transaction": "roomful", "admin_secret": self.secret});
        let answer = self.http.post(&self.base).json(&body).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub async fn list_sessions(&self) -> Vec<u64> {
        ids(&self.request("", json!({"janus": "list_sessions"})).await["sessions"])
    }

    pub async fn list_handles(&self, session: u64) -> Vec<u64> {
        ids(&self.request(&format!("/{session}"), json!({"janus": "list_handles"})).await["handles"])
    }

    /// None when the session is gone.
    pub async fn list_handles_if_there(&self, session: u64) -> Vec<u64> {
        let body = json!({"janus": "list_handles", "transaction": "roomful", "admin_secret": self.secret});
        let Ok(answer) = self.http.post(format!("{}/{session}", self.base)).json(&body).send().await else {
            return Vec::new();
        };
        let answer: Value = answer.json().await.unwrap();
        if answer["janus"] == "success" { ids(&answer["handles"]) } else { Vec::new() }
    }

    pub async fn handle_info(&self, session: u64, handle: u64) -> Value {
        self.request(&format!("/{session}/{handle}"), json!({"janus": "handle_info"})).await["info"].take()
    }

    /// `None` when the handle is gone.
    pub async fn handle_info_if_there(&self, session: u64, handle: u64) -> Option<Value> {
        let body = json!({"janus": "handle_info", "transaction": "roomful", "admin_secret": self.secret});
        let answer = self.http.post(format!("{}/{session}/{handle}", self.base)).json(&body).send().await.ok()?;
        let mut answer: Value = answer.json().await.ok()?;
        (answer["janus"] == "success").then(|| answer["info"].take())
    }

    /// False cordons the server: no new sessions, not even for rooms that are there.
    pub async fn accept_new_sessions(&self, accept: bool) {
        self.request("", json!({"janus": "accept_new_sessions", "accept": accept})).await;
    }

    pub async fn hangup_webrtc(&self, session: u64, handle: u64) {
        self.request(&format!("/{session}/{handle}"), json!({"janus": "hangup_webrtc"})).await;
    }
}

fn ids(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}
