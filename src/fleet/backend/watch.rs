use super::{Backend, Look};
use crate::history::{FleetRole, FleetView};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const EVERY: Duration = Duration::from_secs(1);
/// A view is written so often although nothing changed, so that a reader sees that somebody looked.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Backends have time-outs of their own; one that does not come back all the same is said to have failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Watches a fleet until it is dropped.
pub struct FleetWatch {
    seen: Mutex<UnboundedReceiver<(Instant, FleetView)>>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl FleetWatch {
    pub(super) fn start(
        sources: Vec<(FleetRole, Arc<dyn Backend>)>,
        known: &Arc<Mutex<BTreeSet<String>>>,
    ) -> FleetWatch {
        let (out, seen) = unbounded_channel();
        let watch = |(role, backend)| tokio::spawn(watch(role, backend, known.clone(), out.clone())).abort_handle();
        FleetWatch { seen: Mutex::new(seen), tasks: sources.into_iter().map(watch).collect() }
    }

    /// Views that are to be written, in the order in which they were seen, each with the moment at which it was asked
    /// for: what it says is not older.
    pub fn take(&self) -> Vec<(Instant, FleetView)> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| seen.try_recv().ok()).collect()
    }
}

impl Drop for FleetWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn watch(
    role: FleetRole,
    backend: Arc<dyn Backend>,
    known: Arc<Mutex<BTreeSet<String>>>,
    out: UnboundedSender<(Instant, FleetView)>,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut teller = Teller::new(backend.name(), role);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let look = match tokio::time::timeout(PATIENCE, backend.look()).await {
            Ok(look) => look.map_err(|e| format!("{e:#}")),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        if let (FleetRole::Discovery, Ok(look)) = (role, &look) {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(look.servers.iter().map(|s| s.server.clone()));
        }
        if let Some(view) = teller.tell(look, Instant::now())
            && out.send((asked, view)).is_err()
        {
            return;
        }
    }
}

/// From looks to views: what changed, and now and then what did not. Pure: time is an argument.
struct Teller {
    backend: &'static str,
    role: FleetRole,
    last: Option<(Instant, FleetView)>,
    rooms: BTreeMap<String, String>,
}

impl Teller {
    fn new(backend: &'static str, role: FleetRole) -> Teller {
        Teller { backend, role, last: None, rooms: BTreeMap::new() }
    }

    fn tell(&mut self, look: Result<Look, String>, now: Instant) -> Option<FleetView> {
        let mut view = FleetView {
            backend: self.backend.to_owned(),
            role: self.role,
            servers: Vec::new(),
            rooms: BTreeMap::new(),
            error: None,
        };
        match look {
            Ok(look) => {
                view.servers = look.servers;
                view.rooms = look.rooms.map(|rooms| self.moved(rooms)).unwrap_or_default();
            }
            Err(why) => view.error = Some(why),
        }
        let news = match &self.last {
            None => true,
            Some((at, old)) => {
                now >= *at + WRITE_EVERY
                    || !view.rooms.is_empty()
                    || (&view.servers, &view.error) != (&old.servers, &old.error)
            }
        };
        if news {
            self.last = Some((now, view.clone()));
        }
        news.then_some(view)
    }

    /// Rooms whose server changed since the last time.
    fn moved(&mut self, rooms: BTreeMap<String, String>) -> BTreeMap<String, Option<String>> {
        let gone = self.rooms.keys().filter(|r| !rooms.contains_key(*r)).map(|r| (r.clone(), None));
        let new = rooms.iter().filter(|(room, server)| self.rooms.get(*room) != Some(server));
        let moved = gone.chain(new.map(|(room, server)| (room.clone(), Some(server.clone())))).collect();
        self.rooms = rooms;
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::ServerSeen;

    fn look(sessions: u64, rooms: &[(&str, &str)]) -> Result<Look, String> {
        let seen = ServerSeen { server: "a".into(), sessions: Some(sessions), ..ServerSeen::default() };
        let rooms = rooms.iter().map(|(r, s)| ((*r).to_owned(), (*s).to_owned())).collect();
        Ok(Look { servers: vec![seen], rooms: Some(rooms) })
    }

    #[test]
    fn views_are_told_when_something_changed_and_every_five_seconds() {
        let start = Instant::now();
        let mut teller = Teller::new("redis", FleetRole::Discovery);
        let mut told = Vec::new();
        for s in 0..12u64 {
            let sessions = if s < 3 { 1 } else { 2 };
            told.extend(teller.tell(look(sessions, &[]), start + Duration::from_secs(s)).map(|_| s));
        }
        assert_eq!(told, [0, 3, 8]);
    }

    #[test]
    fn rooms_are_told_as_they_move_and_survive_a_failure() {
        let now = Instant::now();
        let mut teller = Teller::new("redis", FleetRole::Discovery);
        let rooms = |view: Option<FleetView>| view.unwrap().rooms.into_iter().collect::<Vec<_>>();
        let to = |room: &str, server: Option<&str>| (room.to_owned(), server.map(str::to_owned));
        let first = teller.tell(look(1, &[("r1", "a"), ("r2", "a")]), now);
        assert_eq!(rooms(first), [to("r1", Some("a")), to("r2", Some("a"))]);
        let failed = teller.tell(Err("connection refused".into()), now).unwrap();
        assert_eq!((failed.servers.len(), failed.error.as_deref()), (0, Some("connection refused")));
        assert!(failed.rooms.is_empty(), "a failure says nothing of rooms");
        assert_eq!(teller.tell(Err("connection refused".into()), now), None);
        let later = teller.tell(look(1, &[("r2", "b"), ("r3", "a")]), now);
        assert_eq!(rooms(later), [to("r1", None), to("r2", Some("b")), to("r3", Some("a"))]);
    }
}
