//! Driver of TURN servers that are the target themselves: rooms are pairs, and their two members exchange offer and answer
//! in this process. Who is there first offers; a member whose partner has left meets the next one in the same way, on a
//! fresh transport. Which of them go through a relay is the media path's matter.

use super::{BoxFuture, Call, Driver, Ended, MediaError, OfferWant, Order, Progress, TransportState};
use crate::history::{FailReason, LegCause};
use crate::plan::{PlannedRoom, TransportsPer};
use crate::profile::ExternalTarget;
use crate::types::{Client, LegId, RoomId};
use anyhow::Context as _;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub(super) const TRANSPORTS: TransportsPer = TransportsPer::Participant;

/// Members of a room.
const PAIR: u32 = 2;
/// Transports are used one after the other, so that news of the one before is not taken for the next one's.
const SLOTS: u8 = 8;

pub(super) fn make(target: &ExternalTarget, _: Client, _: Duration) -> anyhow::Result<Arc<dyn Driver>> {
    Ok(Arc::new(TurnDriver::new(target.turn.iter().map(|t| (t.host.clone(), t.port)).collect())))
}

/// Pairs up the members of each room.
struct TurnDriver {
    servers: Vec<(String, u16)>,
    hosts: OnceLock<Vec<IpAddr>>,
    tables: Arc<Mutex<HashMap<RoomId, Vec<Member>>>>,
}

/// Who is in a room.
struct Member {
    leg: LegId,
    words: mpsc::UnboundedSender<Word>,
    partner: Option<LegId>,
}

/// What members hear.
#[derive(Clone, PartialEq, Debug)]
enum Word {
    /// Somebody is here: offer, or wait for an offer.
    Met {
        partner: LegId,
        offers: bool,
    },
    /// From the partner.
    Offer {
        from: LegId,
        sdp: String,
    },
    Answer {
        from: LegId,
        sdp: String,
    },
    Gone {
        partner: LegId,
    },
}

impl TurnDriver {
    fn new(servers: Vec<(String, u16)>) -> TurnDriver {
        TurnDriver { servers, hosts: OnceLock::new(), tables: Arc::default() }
    }

    fn sit_down(&self, call: &Call) -> (Seat, mpsc::UnboundedReceiver<Word>) {
        let (words, inbox) = mpsc::unbounded_channel();
        let seat = Seat { room: call.room.id, leg: call.leg.id, tables: self.tables.clone() };
        seat.with(|table| {
            table.push(Member { leg: call.leg.id, words, partner: None });
            pair_up(table);
        });
        (seat, inbox)
    }
}

/// Members without a partner, the one who has been here longer first.
fn pair_up(table: &mut [Member]) {
    let mut alone = (0..table.len()).filter(|n| table[*n].partner.is_none());
    let (Some(a), Some(b)) = (alone.next(), alone.next()) else { return };
    for (me, other, offers) in [(a, b, true), (b, a, false)] {
        let partner = table[other].leg;
        table[me].partner = Some(partner);
        // Who does not listen any more is about to stand up.
        let _ = table[me].words.send(Word::Met { partner, offers });
    }
}

/// A member's place in its room; given back however its leg ends.
struct Seat {
    room: RoomId,
    leg: LegId,
    tables: Arc<Mutex<HashMap<RoomId, Vec<Member>>>>,
}

impl Seat {
    fn with<T>(&self, what: impl FnOnce(&mut Vec<Member>) -> T) -> T {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        what(tables.entry(self.room).or_default())
    }

    fn tell(&self, to: LegId, word: Word) {
        self.with(|table| {
            if let Some(member) = table.iter().find(|m| m.leg == to && m.partner == Some(self.leg)) {
                let _ = member.words.send(word);
            }
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = tables.get_mut(&self.room) else { return };
        table.retain(|m| m.leg != self.leg);
        for left in table.iter_mut().filter(|m| m.partner == Some(self.leg)) {
            left.partner = None;
            let _ = left.words.send(Word::Gone { partner: self.leg });
        }
        pair_up(table);
        if table.is_empty() {
            tables.remove(&self.room);
        }
    }
}

impl Driver for TurnDriver {
    fn name(&self) -> &'static str {
        "turn"
    }

    fn prepare<'a>(&'a self, rooms: &'a [PlannedRoom]) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            if let Some(room) = rooms.iter().find(|r| r.size != PAIR) {
                anyhow::bail!("driver turn connects pairs: room {} is of {} (size = 2)", room.name, room.size);
            }
            let mut hosts = BTreeSet::new();
            for (host, port) in &self.servers {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                hosts.extend(found.with_context(|| format!("TURN server {host}"))?.map(|a| a.ip()));
            }
            // A second call would find the same.
            let _ = self.hosts.set(hosts.into_iter().collect());
            Ok(())
        })
    }

    fn run<'a>(&'a self, call: Call) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let (seat, inbox) = self.sit_down(&call);
            Leg { call, seat, inbox, slot: SLOTS - 1, pair: None, connected: false, restarting: false }.run().await
        })
    }

    fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn restarts_ice(&self, _: u8) -> bool {
        true
    }

    fn serves_by_turn(&self) -> bool {
        true
    }

    fn hosts(&self) -> Vec<IpAddr> {
        self.hosts.get().cloned().unwrap_or_default()
    }
}

/// One member's stay.
struct Leg {
    call: Call,
    seat: Seat,
    inbox: mpsc::UnboundedReceiver<Word>,
    /// The transport of the present pair, or of the last one.
    slot: u8,
    pair: Option<Pair>,
    /// It has been up once: the leg has joined.
    connected: bool,
    /// An offer of ours for an ICE restart is on its way, and not answered.
    restarting: bool,
}

struct Pair {
    partner: LegId,
    /// We made the first offer.
    offers: bool,
}

/// A request to the media path under way.
type Work = BoxFuture<'static, Result<Done, MediaError>>;

enum Done {
    Offered(String),
    Answered(String),
    Accepted,
}

impl Leg {
    async fn run(mut self) -> Ended {
        self.report(Progress::Started(Instant::now()));
        let mut work: Option<Work> = None;
        loop {
            let idle = work.is_none();
            let done = async {
                match &mut work {
                    Some(work) => work.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = self.call.orders.recv() => {
                    if let Some(ended) = self.obey(order.unwrap_or(Order::Leave), &mut work) {
                        return ended;
                    }
                }
                done = done => {
                    work = None;
                    if let Some(ended) = self.go_on(done) {
                        return ended;
                    }
                }
                // One thing after the other: a partner's words wait until the media path has done ours.
                Some(word) = self.inbox.recv(), if idle => self.hear(word, &mut work),
            }
        }
    }

    fn report(&self, progress: Progress) {
        // Nobody listens any more: the leg is being torn down.
        let _ = self.call.progress.send(progress);
    }

    fn hear(&mut self, word: Word, work: &mut Option<Work>) {
        match word {
            Word::Met { partner, offers } => {
                self.report(Progress::Met(Instant::now()));
                self.slot = (self.slot + 1) % SLOTS;
                self.pair = Some(Pair { partner, offers });
                if offers {
                    *work = Some(self.offer(false));
                }
            }
            // Both lost their way and offered: the one who offered first of all does it again, the other one goes along.
            Word::Offer { .. } if self.restarting && self.pair.as_ref().is_some_and(|p| p.offers) => {}
            Word::Offer { from, sdp } if self.is_partner(from) => {
                self.restarting = false;
                let answer = self.call.media.accept_offer(self.slot, sdp);
                *work = Some(Box::pin(async move { answer.await.map(Done::Answered) }));
            }
            Word::Answer { from, sdp } if self.is_partner(from) => {
                let accepted = self.call.media.accept_answer(self.slot, sdp);
                *work = Some(Box::pin(async move { accepted.await.map(|()| Done::Accepted) }));
            }
            Word::Gone { partner } if self.is_partner(partner) => self.part(),
            // Of a partner before this one.
            Word::Offer { .. } | Word::Answer { .. } | Word::Gone { .. } => {}
        }
    }

    fn is_partner(&self, leg: LegId) -> bool {
        self.pair.as_ref().is_some_and(|p| p.partner == leg)
    }

    fn offer(&self, ice_restart: bool) -> Work {
        let want = OfferWant { send: true, receive_audio: 1, receive_video: 1, ice_restart, keep_sending: false };
        let offer = self.call.media.offer(self.slot, want);
        Box::pin(async move { offer.await.map(Done::Offered) })
    }

    /// The partner is gone: the next one, if one comes, is met on another transport.
    fn part(&mut self) {
        self.pair = None;
        self.restarting = false;
        self.call.media.close(self.slot);
    }

    fn go_on(&mut self, done: Result<Done, MediaError>) -> Option<Ended> {
        let from = self.call.leg.id;
        let partner = self.pair.as_ref()?.partner;
        match done {
            Ok(Done::Offered(sdp)) => self.seat.tell(partner, Word::Offer { from, sdp }),
            Ok(Done::Answered(sdp)) => {
                self.seat.tell(partner, Word::Answer { from, sdp });
                self.report(Progress::Signaled(Instant::now()));
            }
            Ok(Done::Accepted) => {
                self.restarting = false;
                self.report(Progress::Signaled(Instant::now()));
            }
            Err(error) if self.connected => {
                // With a new partner, or an ICE restart: the leg had joined.
                self.call.media.close(self.slot);
                return Some(Ended::over(LegCause::ClosedByServer, error.to_string()));
            }
            Err(error) => {
                self.call.media.close(self.slot);
                return Some(Ended::failed(error.reason(), error.to_string()));
            }
        }
        None
    }

    fn obey(&mut self, order: Order, work: &mut Option<Work>) -> Option<Ended> {
        match order {
            Order::Leave => {
                if self.pair.is_some() {
                    self.call.media.close(self.slot);
                }
                Some(match self.connected {
                    true => Ended::over(LegCause::Left, ""),
                    false => Ended::failed(FailReason::LeftEarly, "left before it was connected"),
                })
            }
            Order::RestartIce { slot } => {
                if slot == self.slot && self.pair.is_some() && work.is_none() && !self.restarting {
                    self.restarting = true;
                    *work = Some(self.offer(true));
                }
                None
            }
            // Of a partner before this one, or who has just gone.
            Order::Transport { slot, .. } if slot != self.slot || self.pair.is_none() => None,
            Order::Transport { state, .. } => self.transport(state),
        }
    }

    fn transport(&mut self, state: TransportState) -> Option<Ended> {
        let (cause, detail, reason) = match state {
            TransportState::IceConnected { .. } | TransportState::Disconnected => return None,
            TransportState::Connected { .. } => {
                self.connected = true;
                return None;
            }
            // The partner leaves; its word is on its way.
            TransportState::PeerClosed => return None,
            TransportState::Failed { why } => {
                let reason = super::reason_of(&why);
                (LegCause::ClosedByServer, why, reason)
            }
            TransportState::ConsentExpired => {
                (LegCause::ConsentExpired, "no consent".to_owned(), FailReason::TimeoutIce)
            }
        };
        self.call.media.close(self.slot);
        Some(match self.connected {
            true => Ended::over(cause, detail),
            false => Ended::failed(reason, detail),
        })
    }
}

#[cfg(test)]
mod tests;
