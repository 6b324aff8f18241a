//! The director's API for those who run the fleet: cordon, terminate, faults, and servers that start.

use super::api::{Controlled, MoveRoom, RegistryView, ServerReady};
use super::director::{App, Director, start_server};
use super::http;
use super::process;
use super::registry::{Refused, ServerIndex};
use crate::types::{Autoscale, Drain, Sin};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Servers answer orders at once.
const ORDER_TIMEOUT: Duration = Duration::from_secs(2);
/// Rooms move one after the other, so that their joins do not come in one heap.
const BETWEEN_MOVES: Duration = Duration::from_millis(100);
const BETWEEN_REJOINS: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

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
    let drain = match director.args.sin {
        Some(Sin::KillNonEmpty) => {
            // It ends at once by itself, whoever is there.
            let _ = process::signal(pid, Signal::TERM);
            return Ok(there);
        }
        // What they do wrong, they do in these ways to drain.
        Some(Sin::RejoinHerd) => Drain::Rejoin,
        Some(Sin::MoveWithGap | Sin::OneWayAfterMove) => Drain::Move,
        _ => director.args.drain,
    };
    if drain != Drain::Wait {
        tokio::spawn(send_rooms_away(director.clone(), server, drain));
    }
    Ok(there)
}

/// Sends a server's rooms away, one after the other, until it has none.
async fn send_rooms_away(director: Arc<Director>, server: ServerIndex, drain: Drain) {
    let herd = director.args.sin == Some(Sin::RejoinHerd);
    let between = if drain == Drain::Move { BETWEEN_MOVES } else { BETWEEN_REJOINS };
    while !director.registry().has_died(server) {
        let rooms = director.registry().rooms_of(server);
        for room in &rooms {
            let moved = {
                let mut registry = director.registry();
                let to = registry.move_room(room, None, Instant::now());
                to.map(|(_, to)| (registry.server(server).http.clone(), registry.server(to).clone()))
            };
            // Nobody takes it at the moment: it stays, and is asked about again.
            let Some((base, to)) = moved else { continue };
            if herd {
                continue;
            }
            let told = match drain {
                Drain::Move => {
                    let order = MoveRoom { server: to.id, url: to.http };
                    tell_server(&director, &base, &["rooms", room, "move"], Some(&order)).await
                }
                _ => tell_server(&director, &base, &["rooms", room, "rejoin"], None).await,
            };
            if let Err(error) = told {
                tracing::warn!(room, "a room was not sent away: {error:#}");
            }
            tokio::time::sleep(between).await;
        }
        if herd && !rooms.is_empty() {
            let base = director.registry().server(server).http.clone();
            if let Err(error) = tell_server(&director, &base, &["rejoin"], None).await {
                tracing::warn!("a server did not take an order: {error:#}");
            }
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

async fn tell_server(director: &Director, base: &str, path: &[&str], order: Option<&MoveRoom>) -> anyhow::Result<()> {
    let mut url = reqwest::Url::parse(base)?;
    url.path_segments_mut().map_err(|()| anyhow::anyhow!("{base} is no base URL"))?.pop_if_empty().extend(path);
    let request = director.client.post(url).timeout(ORDER_TIMEOUT);
    let request = match order {
        Some(order) => request.json(order),
        None => request,
    };
    request.send().await?.error_for_status()?;
    Ok(())
}

/// What the fleet does by itself.
pub async fn autoscale(director: Arc<Director>, how: Autoscale) {
    loop {
        tokio::time::sleep(Duration::from_millis(how.every_ms)).await;
        let view = director.registry().view(Instant::now());
        match decide(&how, &view) {
            Some(Decision::Start) => match start_one(&director).await {
                Ok(ready) => tracing::info!(server = ready.id, "the autoscaler started a server"),
                Err(error) => tracing::warn!("the autoscaler could not start a server: {error:#}"),
            },
            Some(Decision::End(server)) => {
                let id = &view.servers[server].id;
                match terminate(&director, server) {
                    Ok(there) => tracing::info!(server = id, there, "the autoscaler takes a server away"),
                    Err(error) => tracing::warn!(server = id, %error, "the autoscaler can't take a server away"),
                }
            }
            None => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    Start,
    /// Cordoned, drained, ended.
    End(ServerIndex),
}

/// One server more or less at a time; the least used one goes, of equals the last.
fn decide(how: &Autoscale, view: &RegistryView) -> Option<Decision> {
    let serving = || view.servers.iter().enumerate().filter(|(_, s)| s.listed && !s.cordoned);
    let participants: u64 = serving().map(|(_, s)| s.participants).sum();
    let needed = participants.div_ceil(u64::from(how.per_server.max(1)));
    let wanted = needed.clamp(how.servers_min.into(), how.servers_max.max(how.servers_min).into());
    let there = serving().count() as u64;
    if there < wanted {
        return Some(Decision::Start);
    }
    let least = serving().rev().min_by_key(|(_, s)| s.participants)?;
    (there > wanted).then_some(Decision::End(least.0))
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
    match start_one(&director).await {
        Ok(ready) => (StatusCode::CREATED, axum::Json(ready)).into_response(),
        Err(error) => http::error(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}

async fn start_one(director: &Director) -> anyhow::Result<ServerReady> {
    let n = director.next.fetch_add(1, Relaxed);
    let (child, ready) = start_server(&director.args, n).await?;
    let index = director.registry().add(ready.clone(), Instant::now());
    // Nobody listens only when the director is ending, which the server then learns by its stdin.
    let _ = director.started.send((index, child));
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;

    const HOW: Autoscale = Autoscale { per_server: 10, servers_min: 1, servers_max: 3, every_ms: 1000 };

    fn view(participants: &[u32], cordoned: &[usize]) -> RegistryView {
        let now = Instant::now();
        let ready = |n: usize| ServerReady {
            id: format!("s{n}"),
            pid: 1,
            http: String::new(),
            media: "127.0.0.1:1".parse().unwrap(),
            cascade: "127.0.0.1:2".parse().unwrap(),
        };
        let mut registry = Registry::new(100, None, (0..participants.len()).map(ready).collect(), now);
        for (server, n) in participants.iter().enumerate() {
            for _ in 0..*n {
                let id = format!("s{server}");
                registry.place(&id, Some(&id), &[], now).unwrap();
                registry.settle(&id, server, true, now);
            }
        }
        cordoned.iter().for_each(|s| registry.cordon(*s).unwrap());
        registry.view(now)
    }

    #[test]
    fn as_many_servers_as_participants_need() {
        assert_eq!(decide(&HOW, &view(&[10, 3, 7], &[])), Some(Decision::End(1)), "20 need two, the least used goes");
        assert_eq!(decide(&HOW, &view(&[10, 3, 8], &[])), None, "21 need three");
        assert_eq!(decide(&HOW, &view(&[10, 1], &[])), None);
        assert_eq!(decide(&HOW, &view(&[11], &[])), Some(Decision::Start));
        assert_eq!(decide(&HOW, &view(&[20, 20, 20], &[])), None, "no more than the most");
        assert_eq!(decide(&HOW, &view(&[0, 0], &[])), Some(Decision::End(1)), "of equals the last");
        assert_eq!(decide(&HOW, &view(&[0], &[])), None, "no fewer than the least");
        assert_eq!(decide(&HOW, &view(&[5, 30], &[1])), None, "one that drains does not serve");
        assert_eq!(decide(&HOW, &view(&[30], &[0])), Some(Decision::Start), "nobody serves");
    }
}
