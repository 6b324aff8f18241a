//! The run's own short conversations with a server: is it there, make the rooms, remove the rooms.

use super::socket::{Endpoint, Heard, Socket};
use super::wire::{self, Body, Credentials, Incoming, PLUGIN, RoomEvent, ServerInfo, code};
use anyhow::{Context, anyhow, bail};
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at a room that is to be empty.
const EMPTY_CHECK: Duration = Duration::from_millis(20);

/// What a room of ours looks like to Janus.
pub struct RoomSpec<'a> {
    pub room: u64,
    pub name: &'a str,
    pub publishers: u32,
}

/// A session with one server. Dropping it ends the session at the server, as `reclaim_session_timeout` is 0 by default;
/// [`Control::close`] does so in any case.
pub struct Control {
    socket: Socket,
    credentials: Credentials,
    admin_key: Option<String>,
    transactions: u32,
    session: Option<u64>,
    handle: u64,
}

impl Control {
    /// Connects and looks whether this is a Janus with VideoRoom that takes sessions.
    pub async fn open(
        endpoint: &Endpoint,
        tls: Arc<ClientConfig>,
        credentials: Credentials,
        admin_key: Option<String>,
    ) -> anyhow::Result<(Control, ServerInfo)> {
        let socket = timeout(ANSWER_WITHIN, Socket::connect(endpoint, tls))
            .await
            .map_err(|_| anyhow!("{}: no connection within {} s", endpoint.shown(), ANSWER_WITHIN.as_secs()))??;
        let mut control = Control { socket, credentials, admin_key, transactions: 0, session: None, handle: 0 };
        let info = match control.request(json!({"janus": "info"})).await?.body {
            Body::ServerInfo(info) => info,
            other => bail!("info: {}", describe(&other)),
        };
        if !info.has_videoroom {
            bail!("Janus {} has no plugin {PLUGIN}", info.version);
        }
        if !info.accepting {
            bail!("Janus accepts no new sessions (it is cordoned: admin API, accept_new_sessions)");
        }
        control.session = Some(control.id_of(json!({"janus": "create"})).await?);
        control.handle = control.id_of(json!({"janus": "attach", "plugin": PLUGIN})).await?;
        Ok((control, info))
    }

    /// Makes a room that lives until it is destroyed or the server ends. One that exists already is fine.
    pub async fn create_room(&mut self, spec: &RoomSpec<'_>) -> anyhow::Result<()> {
        let mut body = json!({
            "request": "create", "room": spec.room, "description": spec.name, "permanent": false,
            "publishers": spec.publishers.max(1), "bitrate": 0, "fir_freq": 0,
            "audiocodec": "opus", "videocodec": "vp8,h264",
            "notify_joining": false, "audiolevel_event": false, "transport_wide_cc_ext": true,
        });
        if let Some(key) = &self.admin_key {
            body["admin_key"] = json!(key);
        }
        match self.room_request(body).await? {
            RoomEvent::Created | RoomEvent::Error { code: code::ROOM_EXISTS, .. } => Ok(()),
            RoomEvent::Error { code, reason } => bail!("room {} ({}): {code}: {reason}", spec.room, spec.name),
            other => bail!("room {} ({}): unexpected {other:?}", spec.room, spec.name),
        }
    }

    /// Waits, for at most `patience`, until nobody is in a room any more. Sessions whose WebSocket was cut end a moment
    /// later, and Janus 1.1.2 may use freed memory when its room is destroyed in that moment.
    pub async fn wait_until_empty(&mut self, room: u64, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        loop {
            match self.room_request(json!({"request": "listparticipants", "room": room})).await? {
                RoomEvent::Participants(0) | RoomEvent::Error { code: code::NO_SUCH_ROOM, .. } => return Ok(()),
                RoomEvent::Participants(_) if Instant::now() < until => tokio::time::sleep(EMPTY_CHECK).await,
                RoomEvent::Participants(_) => return Ok(()),
                other => bail!("room {room}: {other:?}"),
            }
        }
    }

    /// Removes a room; true when it was there.
    pub async fn destroy_room(&mut self, room: u64) -> anyhow::Result<bool> {
        match self.room_request(json!({"request": "destroy", "room": room, "permanent": false})).await? {
            RoomEvent::RoomDestroyed => Ok(true),
            RoomEvent::Error { code: code::NO_SUCH_ROOM, .. } => Ok(false),
            other => bail!("room {room}: {other:?}"),
        }
    }

    pub async fn close(mut self) {
        // The server may be gone by now; then so is the session.
        let _ = self.request(json!({"janus": "destroy"})).await;
        let _ = timeout(Duration::from_secs(1), self.socket.close()).await;
    }

    async fn id_of(&mut self, request: Value) -> anyhow::Result<u64> {
        let what = request["janus"].as_str().unwrap_or("request").to_owned();
        match self.request(request).await?.body {
            Body::Success { id: Some(id), .. } => Ok(id),
            other => bail!("{what}: {}", describe(&other)),
        }
    }

    async fn room_request(&mut self, body: Value) -> anyhow::Result<RoomEvent> {
        match self.request(wire::message(self.handle, body, None)).await?.body {
            Body::Success { event: Some(event), .. } | Body::Event { event, .. } => Ok(event),
            other => bail!("{}", describe(&other)),
        }
    }

    async fn request(&mut self, request: Value) -> anyhow::Result<Incoming> {
        self.transactions += 1;
        let mine = self.transactions;
        let what = request["janus"].as_str().unwrap_or("request").to_owned();
        let text = self.credentials.seal(request, mine, self.session);
        self.socket.send(text).map_err(|e| anyhow!("{what}: {e}"))?;
        timeout(ANSWER_WITHIN, self.answer_to(mine))
            .await
            .map_err(|_| anyhow!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs()))?
            .with_context(|| what)
    }

    async fn answer_to(&mut self, mine: u32) -> anyhow::Result<Incoming> {
        loop {
            match self.socket.hear().await {
                Heard::Text(text) => {
                    let message = wire::parse(&text)?;
                    if message.transaction == Some(mine) && message.body != Body::Ack {
                        return Ok(message);
                    }
                }
                Heard::Closed(why) => bail!("connection closed: {why}"),
            }
        }
    }
}

fn describe(body: &Body) -> String {
    match body {
        Body::Error { code, reason } => format!("{code}: {reason}"),
        other => format!("unexpected {other:?}"),
    }
}
