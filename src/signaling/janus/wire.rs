//! Janus's JSON: requests as text, and what came in as far as we understand it. Pure.
//!
//! Source: Janus WebSocket transport and VideoRoom plugin, 1.1.2.

use serde_json::{Value, json};

pub const PLUGIN: &str = "janus.plugin.videoroom";

/// VideoRoom and core error codes that a driver acts on.
pub mod code {
    pub const UNAUTHORIZED: i64 = 403;
    pub const UNAUTHORIZED_PLUGIN: i64 = 405;
    pub const TOKEN_NOT_FOUND: i64 = 470;
    pub const ROOM_EXISTS: i64 = 427;
    pub const NO_SUCH_FEED: i64 = 428;
    pub const PUBLISHERS_FULL: i64 = 432;
    pub const ROOM_UNAUTHORIZED: i64 = 433;
    pub const NO_SUCH_ROOM: i64 = 426;
    /// Also "Can't offer an SDP with no stream": every feed asked for has just gone.
    pub const INVALID_SDP: i64 = 437;
}

/// What every request of a session carries.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `api_secret` of janus.jcfg.
    pub api_secret: Option<String>,
    /// A token of Janus's token authentication.
    pub token: Option<String>,
}

impl Credentials {
    /// Completes a request and gives its text.
    pub fn seal(&self, mut request: Value, transaction: u32, session: Option<u64>) -> String {
        request["transaction"] = json!(format!("t{transaction}"));
        if let Some(session) = session {
            request["session_id"] = json!(session);
        }
        if let Some(secret) = &self.api_secret {
            request["apisecret"] = json!(secret);
        }
        if let Some(token) = &self.token {
            request["token"] = json!(token);
        }
        request.to_string()
    }
}

/// A message to the plugin.
pub fn message(handle: u64, body: Value, jsep: Option<(&str, String)>) -> Value {
    let mut request = json!({"janus": "message", "handle_id": handle, "body": body});
    if let Some((kind, sdp)) = jsep {
        request["jsep"] = json!({"type": kind, "sdp": sdp});
    }
    request
}

/// One message from Janus.
#[derive(Clone, PartialEq, Debug)]
pub struct Incoming {
    /// Number of the request it answers; `None` for what Janus says of itself, or for a transaction that is not ours.
    pub transaction: Option<u32>,
    /// The handle it is about.
    pub sender: Option<u64>,
    pub body: Body,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    Ack,
    /// Synchronous success; `id` of a new session or handle, `event` where the plugin answered.
    Success {
        id: Option<u64>,
        event: Option<RoomEvent>,
    },
    /// The core refused.
    Error {
        code: i64,
        reason: String,
    },
    Event {
        event: RoomEvent,
        jsep: Option<Jsep>,
    },
    /// `None`: no more candidates.
    Trickle(Option<String>),
    Hangup {
        reason: String,
    },
    /// The session timed out at the server.
    Timeout,
    /// No packets of a medium reach the server (any more).
    MediaStopped {
        kind: String,
    },
    Slowlink {
        uplink: bool,
        lost: u64,
    },
    /// `webrtcup`, `detached` and the like: nothing to do.
    Known,
    ServerInfo(ServerInfo),
    Unknown(String),
}

/// `info`, as far as a run needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerInfo {
    pub version: String,
    pub accepting: bool,
    pub has_videoroom: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Jsep {
    pub offer: bool,
    pub sdp: String,
}

/// What VideoRoom says inside `plugindata`.
#[derive(Clone, PartialEq, Debug)]
pub enum RoomEvent {
    Joined {
        private_id: Option<u64>,
        publishers: Vec<u64>,
    },
    Publishers(Vec<u64>),
    /// Somebody else left, stopped publishing or was kicked.
    Gone(u64),
    /// Our own leave was accepted.
    Left,
    /// We were kicked.
    Kicked,
    Configured,
    Started,
    Attached,
    Updated,
    /// The update counts, its offer comes after our answer to the last one.
    Updating,
    RoomDestroyed,
    Created,
    /// The answer to `listparticipants`: how many.
    Participants(usize),
    Error {
        code: i64,
        reason: String,
    },
    /// What the server sends us of a simulcast stream has changed; its receiver sees that by itself.
    Layer,
    /// Somebody began or ceased to talk, by the levels of their audio; who listens hears it.
    Talking,
    Other(String),
}

/// Why a text is no message of Janus.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    #[error("no JSON: {0}")]
    Json(String),
    #[error("JSON without `janus`: {0}")]
    NotJanus(String),
}

/// At most so many characters of somebody else's text go into notes and details.
const QUOTE_MAX: usize = 200;

pub fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads one message. Never panics, whatever the text.
pub fn parse(text: &str) -> Result<Incoming, WireError> {
    let value: Value = serde_json::from_str(text).map_err(|e| WireError::Json(format!("{e} in {}", quote(text))))?;
    let Some(kind) = value["janus"].as_str() else { return Err(WireError::NotJanus(quote(text))) };
    let body = match kind {
        "ack" => Body::Ack,
        "success" => Body::Success { id: value["data"]["id"].as_u64(), event: plugin_event(&value) },
        "error" => Body::Error {
            code: value["error"]["code"].as_i64().unwrap_or(0),
            reason: quote(value["error"]["reason"].as_str().unwrap_or("no reason given")),
        },
        "event" => match plugin_event(&value) {
            Some(event) => Body::Event { event, jsep: jsep(&value) },
            None => Body::Unknown(quote(text)),
        },
        "trickle" => trickle(&value["candidate"]).unwrap_or_else(|| Body::Unknown(quote(text))),
        "hangup" => Body::Hangup { reason: quote(value["reason"].as_str().unwrap_or("no reason given")) },
        "timeout" => Body::Timeout,
        "media" if value["receiving"] == false => {
            Body::MediaStopped { kind: quote(value["type"].as_str().unwrap_or("media")) }
        }
        "slowlink" => Body::Slowlink {
            uplink: value["uplink"].as_bool().unwrap_or(false),
            lost: value["lost"].as_u64().or(value["nacks"].as_u64()).unwrap_or(0),
        },
        "media" | "webrtcup" | "detached" | "keepalive" => Body::Known,
        "server_info" => Body::ServerInfo(ServerInfo {
            version: quote(value["version_string"].as_str().unwrap_or("unknown")),
            accepting: value["accepting-new-sessions"].as_bool().unwrap_or(true),
            has_videoroom: value["plugins"].get(PLUGIN).is_some(),
        }),
        _ => Body::Unknown(quote(text)),
    };
    let transaction = value["transaction"].as_str().and_then(|t| t.strip_prefix('t')?.parse().ok());
    Ok(Incoming { transaction, sender: value["sender"].as_u64(), body })
}

fn jsep(value: &Value) -> Option<Jsep> {
    let jsep = value.get("jsep")?;
    Some(Jsep { offer: jsep["type"] == "offer", sdp: jsep["sdp"].as_str()?.to_owned() })
}

fn trickle(candidate: &Value) -> Option<Body> {
    if candidate["completed"] == true {
        return Some(Body::Trickle(None));
    }
    let text = candidate["candidate"].as_str()?.trim();
    let text = text.strip_prefix("a=").unwrap_or(text);
    let text = text.strip_prefix("candidate:").unwrap_or(text);
    // Browsers end the list with an empty candidate (RFC 8839 has end-of-candidates as text).
    Some(Body::Trickle((!text.is_empty()).then(|| text.to_owned())))
}

fn ids(publishers: &Value) -> Vec<u64> {
    publishers.as_array().into_iter().flatten().filter_map(|p| p["id"].as_u64()).collect()
}

fn plugin_event(value: &Value) -> Option<RoomEvent> {
    let data = value.get("plugindata")?.get("data")?;
    if let Some(code) = data["error_code"].as_i64() {
        let reason = quote(data["error"].as_str().unwrap_or("no reason given"));
        return Some(RoomEvent::Error { code, reason });
    }
    Some(match data["videoroom"].as_str()? {
        "joined" => RoomEvent::Joined { private_id: data["private_id"].as_u64(), publishers: ids(&data["publishers"]) },
        "attached" => RoomEvent::Attached,
        "updated" => RoomEvent::Updated,
        "updating" => RoomEvent::Updating,
        "created" => RoomEvent::Created,
        "destroyed" => RoomEvent::RoomDestroyed,
        "participants" => RoomEvent::Participants(data["participants"].as_array().map_or(0, Vec::len)),
        "talking" | "stopped-talking" => RoomEvent::Talking,
        "event" => room_event(data),
        other => RoomEvent::Other(quote(other)),
    })
}

fn room_event(data: &Value) -> RoomEvent {
    if data.get("publishers").is_some() {
        return RoomEvent::Publishers(ids(&data["publishers"]));
    }
    for key in ["leaving", "unpublished", "kicked"] {
        if let Some(feed) = data[key].as_u64() {
            return RoomEvent::Gone(feed);
        }
    }
    if data["leaving"] == "ok" {
        return if data["reason"] == "kicked" { RoomEvent::Kicked } else { RoomEvent::Left };
    }
    if data["left"] == "ok" {
        return RoomEvent::Left;
    }
    if data["started"] == "ok" {
        return RoomEvent::Started;
    }
    if data.get("configured").is_some() {
        return RoomEvent::Configured;
    }
    if data.get("substream").is_some() || data.get("temporal").is_some() {
        return RoomEvent::Layer;
    }
    RoomEvent::Other(quote(&data.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: Value) -> RoomEvent {
        let text = json!({"janus": "event", "sender": 7, "plugindata": {"plugin": PLUGIN, "data": data}}).to_string();
        match parse(&text).unwrap().body {
            Body::Event { event, .. } => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_the_leaves_apart() {
        assert_eq!(event(json!({"videoroom": "event", "room": 1, "leaving": 42})), RoomEvent::Gone(42));
        assert_eq!(event(json!({"videoroom": "event", "room": 1, "unpublished": 42})), RoomEvent::Gone(42));
        assert_eq!(event(json!({"videoroom": "event", "room": 1, "kicked": 42})), RoomEvent::Gone(42));
        assert_eq!(event(json!({"videoroom": "event", "room": 1, "leaving": "ok"})), RoomEvent::Left);
        assert_eq!(event(json!({"videoroom": "event", "leaving": "ok", "reason": "kicked"})), RoomEvent::Kicked);
        assert_eq!(event(json!({"videoroom": "destroyed", "room": 1})), RoomEvent::RoomDestroyed);
        assert_eq!(event(json!({"videoroom": "event", "room": 1, "mid": "1", "substream": 1})), RoomEvent::Layer);
        let talking = json!({"videoroom": "talking", "room": 1, "id": 7, "audio-level-dBov-avg": 31.5});
        assert_eq!(event(talking), RoomEvent::Talking);
        assert_eq!(event(json!({"videoroom": "stopped-talking", "room": 1, "id": 7})), RoomEvent::Talking);
        assert!(matches!(event(json!({"videoroom": "event", "unpublished": "ok"})), RoomEvent::Other(_)));
    }

    #[test]
    fn a_plugin_error_is_found_in_success_and_in_event() {
        let error = RoomEvent::Error { code: 427, reason: "Room 5 already exists".into() };
        let data = json!({"videoroom": "event", "error_code": 427, "error": "Room 5 already exists"});
        assert_eq!(event(data.clone()), error);
        let text = json!({"janus": "success", "transaction": "t3", "plugindata": {"data": data}}).to_string();
        let got = parse(&text).unwrap();
        assert_eq!(got.transaction, Some(3));
        assert_eq!(got.body, Body::Success { id: None, event: Some(error) });
    }

    #[test]
    fn trickled_candidates_lose_their_prefix() {
        let of = |c: Value| parse(&json!({"janus": "trickle", "sender": 1, "candidate": c}).to_string()).unwrap().body;
        let line = "1 1 udp 2013266431 10.77.0.1 21000 typ host";
        assert_eq!(of(json!({"candidate": format!("candidate:{line}")})), Body::Trickle(Some(line.into())));
        assert_eq!(of(json!({"candidate": format!("a=candidate:{line}")})), Body::Trickle(Some(line.into())));
        assert_eq!(of(json!({"completed": true})), Body::Trickle(None));
        assert_eq!(of(json!({"candidate": ""})), Body::Trickle(None));
    }

    #[test]
    fn quotes_end_at_a_character() {
        let long = "é".repeat(500);
        assert_eq!(quote(&long).chars().count(), QUOTE_MAX + 1);
        assert_eq!(quote("short"), "short");
    }

    #[test]
    fn nonsense_is_an_error_or_unknown() {
        assert!(matches!(parse("<html>"), Err(WireError::Json(_))));
        assert!(matches!(parse("[]"), Err(WireError::NotJanus(_))));
        assert!(matches!(parse("{\"janus\":\"event\"}").unwrap().body, Body::Unknown(_)));
        assert!(matches!(parse("{\"janus\":\"brand-new\"}").unwrap().body, Body::Unknown(_)));
    }

    #[test]
    fn secrets_and_ids_go_into_each_request() {
        let credentials = Credentials { api_secret: Some("s".into()), token: Some("k".into()) };
        let text = credentials.seal(json!({"janus": "keepalive"}), 9, Some(5));
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"janus": "keepalive", "transaction": "t9", "session_id": 5, "apisecret": "s", "token": "k"})
        );
    }
}
