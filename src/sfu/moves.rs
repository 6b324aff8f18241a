//! Rooms that go to another server. All sessions of the room are told at once to join there as well; media goes on here
//! until everybody can go, and then everybody does, so that nobody misses more than the moment of the change.

use super::api::{Event, MoveRoom, Told};
use super::http;
use super::server::{App, Shared};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// How often it is looked who is ready.
const LOOK: Duration = Duration::from_millis(20);
/// Sessions that were not heard of are told again: they may have joined after the first time.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Who is not ready by then does not hold the others.
const PATIENCE: Duration = Duration::from_secs(4);
/// Who has not gone by then stays.
const MOVE_TIME: Duration = Duration::from_secs(15);
/// Events that a slow reader may be behind.
const BACKLOG: usize = 4096;

pub struct Moves {
    events: broadcast::Sender<Arc<str>>,
    /// Ready sessions of rooms that move, and whether they were told to go.
    rooms: Mutex<HashMap<String, Moving>>,
}

#[derive(Default)]
struct Moving {
    ready: HashSet<String>,
    switched: bool,
}

impl Moves {
    pub fn new() -> Moves {
        Moves { events: broadcast::channel(BACKLOG).0, rooms: Mutex::default() }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Moving>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, session: String, told: Told) {
        self.teller().tell(session, told);
    }

    /// For the media thread, which has something to say as well.
    pub fn teller(&self) -> Teller {
        Teller(self.events.clone())
    }
}

#[derive(Clone)]
pub struct Teller(broadcast::Sender<Arc<str>>);

impl Teller {
    pub fn tell(&self, session: String, told: Told) {
        let Ok(mut line) = serde_json::to_string(&Event { session, told }) else { return };
        line.push('\n');
        // Without anybody who listens there is nobody to tell.
        let _ = self.0.send(line.into());
    }
}

/// `GET /events`: what sessions are told, a line of JSON each, as long as the client reads.
pub async fn events(State(shared): App) -> Response {
    let receiver = shared.moves.events.subscribe();
    let lines = futures_util::stream::unfold(receiver, async |mut receiver| {
        loop {
            match receiver.recv().await {
                Ok(line) => {
                    let line = axum::body::Bytes::copy_from_slice(line.as_bytes());
                    return Some((Ok::<_, std::convert::Infallible>(line), receiver));
                }
                // What was missed is told again.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// `POST /rooms/{room}/move`: 202 when the move has begun.
pub async fn move_room(State(shared): App, Path(room): Path<String>, Json(to): Json<MoveRoom>) -> Response {
    if shared.sessions(Some(&room)).await.is_empty() {
        return http::error(StatusCode::NOT_FOUND, "no such room");
    }
    if let Entry::Vacant(moving) = shared.moves.rooms().entry(room.clone()) {
        moving.insert(Moving::default());
    } else {
        return http::error(StatusCode::CONFLICT, "the room moves already");
    }
    tokio::spawn(async move {
        follow(&shared, &room, to).await;
        shared.moves.rooms().remove(&room);
    });
    StatusCode::ACCEPTED.into_response()
}

async fn follow(shared: &Shared, room: &str, to: MoveRoom) {
    let began = Instant::now();
    let mut told: HashMap<String, Instant> = HashMap::new();
    while began.elapsed() < MOVE_TIME {
        let here = shared.sessions(Some(room)).await;
        if here.is_empty() {
            return;
        }
        let (waiting, ready): (Vec<String>, Vec<String>) = {
            let mut rooms = shared.moves.rooms();
            let Some(moving) = rooms.get_mut(room) else { return };
            let (ready, waiting): (Vec<String>, Vec<String>) = here.into_iter().partition(|s| moving.ready.contains(s));
            let all = waiting.is_empty() || began.elapsed() >= PATIENCE;
            let go = all && !moving.switched;
            moving.switched |= all;
            (waiting, if go { ready } else { Vec::new() })
        };
        for session in ready {
            shared.moves.tell(session, Told::Switch);
        }
        for session in waiting {
            let now = Instant::now();
            if told.get(&session).is_none_or(|at| now >= *at + TELL_AGAIN) {
                told.insert(session.clone(), now);
                shared.moves.tell(session, Told::Move(to.clone()));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `POST /sessions/{session}/ready`: 202 wait for the word; 200 go, the others have.
pub async fn ready(State(shared): App, Path(session): Path<String>) -> Response {
    let mut room = None;
    let names: Vec<String> = shared.moves.rooms().keys().cloned().collect();
    for name in names {
        if shared.sessions(Some(&name)).await.contains(&session) {
            room = Some(name);
        }
    }
    let mut rooms = shared.moves.rooms();
    let Some(moving) = room.and_then(|name| rooms.get_mut(&name)) else {
        return http::error(StatusCode::NOT_FOUND, "no such session in a room that moves");
    };
    moving.ready.insert(session);
    if moving.switched { StatusCode::OK.into_response() } else { StatusCode::ACCEPTED.into_response() }
}

/// `POST /rejoin`: all sessions are told to leave and to join again.
pub async fn rejoin_all(State(shared): App) -> Response {
    rejoin(&shared, None).await
}

/// `POST /rooms/{room}/rejoin`: those of a room are.
pub async fn rejoin_room(State(shared): App, Path(room): Path<String>) -> Response {
    rejoin(&shared, Some(&room)).await
}

async fn rejoin(shared: &Shared, room: Option<&str>) -> Response {
    let sessions = shared.sessions(room).await;
    let count = sessions.len();
    for session in sessions {
        shared.moves.tell(session, Told::Rejoin);
    }
    Json(serde_json::json!({ "told": count })).into_response()
}
