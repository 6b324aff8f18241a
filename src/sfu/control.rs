//! The director's API for those who run the fleet: cordon, terminate, faults, and servers that start.

use super::api::Controlled;
use super::director::{App, Director, start_server};
use super::http;
use super::process;
use super::registry::{Refused, ServerIndex};
use crate::types::Sin;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Why an order was not carried out.
#[derive(Debug)]
enum Fault {
    /// 404: there is nothing to do it to.
    Unknown(String),
    /// 409: it is there, and can't.
    Impossible(String),
}

/// `POST /servers/{id}/{action}`.
pub async fn act(State(director): App, Path((id, action)): Path<(String, String)>) -> Response {
    match carry_out(&director, &id, &action) {
        Ok(sessions) => axum::Json(Controlled { server: id, action, sessions }).into_response(),
        Err(Fault::Unknown(why)) => http::error(StatusCode::NOT_FOUND, why),
        Err(Fault::Impossible(why)) => http::error(StatusCode::CONFLICT, why),
    }
}

/// Gives the participants that were there.
fn carry_out(director: &Arc<Director>, id: &str, action: &str) -> Result<u64, Fault> {
    let server = director.registry().find(id).ok_or_else(|| Fault::Unknown(format!("no server {id:?}")))?;
    let refused = |why: Refused| Fault::Impossible(format!("{id} {why}"));
    let done = match action {
        "cordon" => director.registry().cordon(server),
        "uncordon" => director.registry().uncordon(server),
        "terminate" => return terminate(director, server).map_err(refused),
        "kill" => return send(director, id, server, Signal::KILL),
        "pause" => return send(director, id, server, Signal::STOP),
        "resume" => return send(director, id, server, Signal::CONT),
        _ => {
            let known = "cordon, uncordon, terminate, kill, pause, resume";
            return Err(Fault::Unknown(format!("no action {action:?}; there are: {known}")));
        }
    };
    done.map_err(refused)?;
    Ok(sessions(director, server))
}

fn sessions(director: &Director, server: ServerIndex) -> u64 {
    director.registry().view(Instant::now()).servers.get(server).map_or(0, |s| s.participants)
}

/// Accepted at once; the server ends when it is empty, which its heartbeats tell.
fn terminate(director: &Arc<Director>, server: ServerIndex) -> Result<u64, Refused> {
    let (there, pid) = {
        let mut registry = director.registry();
        (registry.terminate(server)?, registry.server(server).pid)
    };
    if director.args.sin == Some(Sin::KillNonEmpty) {
        // It ends at once by itself, whoever is there.
        let _ = process::signal(pid, Signal::TERM);
    }
    Ok(there)
}

fn send(director: &Director, id: &str, server: ServerIndex, signal: Signal) -> Result<u64, Fault> {
    let pid = {
        let mut registry = director.registry();
        registry.must_run(server).map_err(|why| Fault::Impossible(format!("{id} {why}")))?;
        registry.server(server).pid
    };
    let there = sessions(director, server);
    process::signal(pid, signal).map_err(|why| Fault::Impossible(format!("{id}: {why}")))?;
    Ok(there)
}

/// `POST /servers`: one more. Answers when it takes joins.
pub async fn start(State(director): App) -> Response {
    let n = director.next.fetch_add(1, Relaxed);
    match start_server(&director.args, n).await {
        Ok((child, ready)) => {
            let index = director.registry().add(ready.clone(), Instant::now());
            // Nobody listens only when the director is ending, which the server then learns by its stdin.
            let _ = director.started.send((index, child));
            (StatusCode::CREATED, axum::Json(ready)).into_response()
        }
        Err(error) => http::error(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}
