//! Pairs whose media path is a script.

use super::*;
use crate::plan::PlannedLeg;
use crate::signaling::{Media, MediaCommand};
use crate::types::Suite;

type Asked = Arc<Mutex<Vec<String>>>;

/// A member under way: orders go in, progress and the end come out.
struct Run {
    orders: mpsc::UnboundedSender<Order>,
    progress: mpsc::UnboundedReceiver<Progress>,
    ended: tokio::task::JoinHandle<Ended>,
    asked: Asked,
}

fn driver() -> Arc<TurnDriver> {
    Arc::new(TurnDriver::new(vec![("127.0.0.1".into(), 3478)]))
}

fn room(size: u32) -> PlannedRoom {
    PlannedRoom { id: RoomId(0), name: "pair-1".into(), group: 0, size, senders_max: 2, server: None }
}

/// `offers`: whether its media path can make one.
fn member(driver: &Arc<TurnDriver>, id: u32, offers: bool) -> Run {
    let (media, mut commands) = mpsc::unbounded_channel();
    let asked = Asked::default();
    let notes = asked.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let note = match command {
                MediaCommand::Offer { slot, want, reply, .. } => {
                    let made = Ok(format!("offer {id}"));
                    let _ = reply.send(if offers { made } else { Err(MediaError::Local("no port".into())) });
                    format!("offer {slot}{}", if want.ice_restart { " restart" } else { "" })
                }
                MediaCommand::AcceptOffer { slot, sdp, reply, .. } => {
                    let _ = reply.send(Ok(format!("answer {id}")));
                    format!("accept {slot} {sdp}")
                }
                MediaCommand::AcceptAnswer { slot, sdp, reply, .. } => {
                    let _ = reply.send(Ok(()));
                    format!("accept {slot} {sdp}")
                }
                MediaCommand::Close { slot, .. } => format!("close {slot}"),
                other => format!("{other:?}"),
            };
            notes.lock().unwrap().push(note);
        }
    });
    let (orders, inbox) = mpsc::unbounded_channel();
    let (outbox, progress) = mpsc::unbounded_channel();
    let leg = PlannedLeg {
        id: LegId(id),
        seat: 0,
        room: RoomId(0),
        name: format!("pair-1/p{id}"),
        join_at: Duration::ZERO,
        leave_at: Duration::ZERO,
        audio: None,
        video: None,
        network: None,
    };
    let media = Media::new(LegId(id), media);
    let call = Call { leg, room: room(2), route: None, media, orders: inbox, progress: outbox };
    let driver = driver.clone();
    Run { orders, progress, ended: tokio::spawn(async move { driver.run(call).await }), asked }
}

impl Run {
    async fn signaled(&mut self) {
        let wait = async { while !matches!(self.progress.recv().await.expect("under way"), Progress::Signaled(_)) {} };
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect("signaled");
    }

    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    fn connected(&self, slot: u8) {
        let state = TransportState::Connected { suite: Suite::AeadAes128Gcm, certificate: 0 };
        self.order(Order::Transport { slot, state });
    }

    async fn asked(&self, what: &[&str]) {
        let wait = async {
            while *self.asked.lock().unwrap() != what {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), wait).await;
        assert!(waited.is_ok(), "asked {:?}, expected {what:?}", self.asked.lock().unwrap());
    }

    async fn end(self) -> Ended {
        tokio::time::timeout(Duration::from_secs(5), self.ended).await.expect("an end").unwrap()
    }

    async fn leave(self) -> Ended {
        self.order(Order::Leave);
        self.end().await
    }
}

async fn pair(driver: &Arc<TurnDriver>) -> (Run, Run) {
    let mut a = member(driver, 1, true);
    a.asked(&[]).await;
    while driver.tables.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut b = member(driver, 2, true);
    a.signaled().await;
    b.signaled().await;
    a.asked(&["offer 0", "accept 0 answer 2"]).await;
    b.asked(&["accept 0 offer 1"]).await;
    for one in [&a, &b] {
        one.connected(0);
    }
    (a, b)
}

#[tokio::test]
async fn the_first_offers_and_the_second_answers() {
    let driver = driver();
    let (a, b) = pair(&driver).await;
    assert_eq!(a.leave().await, Ended::over(LegCause::Left, ""));
    assert_eq!(b.leave().await, Ended::over(LegCause::Left, ""));
    assert!(driver.tables.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_stays_meets_the_next_one_on_a_fresh_transport() {
    let driver = driver();
    let (mut a, mut b) = pair(&driver).await;
    for n in 3..13 {
        b.leave().await;
        // close_notify and the like of the partner before.
        a.order(Order::Transport { slot: 0, state: TransportState::PeerClosed });
        let slot = (n - 2) % 8;
        b = member(&driver, n, true);
        a.signaled().await;
        b.signaled().await;
        a.connected(slot as u8);
        b.connected(0);
        let last = a.asked.lock().unwrap().split_off(1);
        let tail = &last[last.len() - 3..];
        assert_eq!(
            tail,
            [format!("close {}", (n - 3) % 8), format!("offer {slot}"), format!("accept {slot} answer {n}")]
        );
    }
    assert_eq!(a.leave().await, Ended::over(LegCause::Left, ""));
}

#[tokio::test]
async fn who_waits_has_not_failed_and_leaves_nothing_behind() {
    let driver = driver();
    let a = member(&driver, 1, true);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!a.ended.is_finished());
    let Ended::Failed { reason, .. } = a.leave().await else { panic!() };
    assert_eq!(reason, FailReason::LeftEarly);
    // One whose run is dropped instead.
    let a = member(&driver, 2, true);
    while driver.tables.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    a.ended.abort();
    let _ = a.ended.await;
    assert!(driver.tables.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_that_cannot_fails_alone() {
    let driver = driver();
    let a = member(&driver, 1, false);
    while driver.tables.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut b = member(&driver, 2, true);
    assert_eq!(a.end().await, Ended::failed(FailReason::Local, "no port"));
    assert!(!b.ended.is_finished());
    let mut c = member(&driver, 3, true);
    b.signaled().await;
    c.signaled().await;
    b.asked(&["close 0", "offer 1", "accept 1 answer 3"]).await;
}

#[tokio::test]
async fn a_lost_way_is_offered_anew_by_who_lost_it() {
    let driver = driver();
    let (mut a, mut b) = pair(&driver).await;
    b.order(Order::RestartIce { slot: 0 });
    a.signaled().await;
    b.signaled().await;
    b.asked(&["accept 0 offer 1", "offer 0 restart", "accept 0 answer 1"]).await;
    a.asked(&["offer 0", "accept 0 answer 2", "accept 0 offer 2"]).await;
    // Both at once: the first one's offer stands.
    a.order(Order::RestartIce { slot: 0 });
    b.order(Order::RestartIce { slot: 0 });
    a.signaled().await;
    b.signaled().await;
    let last = a.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(last, "accept 0 answer 2");
    let last = b.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(last, "accept 0 offer 1");
    a.order(Order::Transport { slot: 0, state: TransportState::ConsentExpired });
    assert_eq!(a.end().await, Ended::over(LegCause::ConsentExpired, "no consent"));
    let failed = TransportState::Failed { why: "no ICE pair in time".into() };
    b.order(Order::Transport { slot: 0, state: failed });
    // Of a transport that went with its partner.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!b.ended.is_finished());
}

#[tokio::test]
async fn rooms_are_pairs() {
    let driver = driver();
    assert!(driver.prepare(&[room(2)]).await.is_ok());
    assert_eq!(driver.hosts(), [IpAddr::from([127, 0, 0, 1])]);
    let error = driver.prepare(&[room(2), room(3)]).await.unwrap_err();
    assert_eq!(error.to_string(), "driver turn connects pairs: room pair-1 is of 3 (size = 2)");
}
