//! One leg's conversation: carries messages, media replies, orders and timers to the [`Machine`] and performs what it
//! wants.

use super::machine::{Machine, Output, PUBLISH, Part, Reply, SUBSCRIBE, Timer};
use super::socket::{Endpoint, Heard, Socket};
use crate::history::FailReason;
use crate::signaling::{BoxFuture, Call, Ended, Media, OfferWant, Order, Progress};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

/// Parting words may take so long; the server has them or is gone.
const CLOSE_WITHIN: Duration = Duration::from_millis(200);

/// Runs the leg on its server to its end.
pub async fn run(
    mut call: Call,
    endpoint: &Endpoint,
    tls: Arc<ClientConfig>,
    part: Part,
    join_timeout: Duration,
) -> Ended {
    let begun = Instant::now();
    // Progress is for the engine; one that listens no more has dropped the leg.
    let _ = call.progress.send(Progress::Started(begun));
    let connecting = timeout(join_timeout, Socket::connect(endpoint, tls));
    tokio::pin!(connecting);
    let socket = loop {
        tokio::select! {
            socket = &mut connecting => break socket,
            order = call.orders.recv() => match order {
                Some(Order::Leave) | None => return Ended::failed(FailReason::LeftEarly, "left while connecting"),
                // There is no transport yet.
                Some(Order::Transport { .. } | Order::RestartIce { .. }) => {}
            },
        }
    };
    let socket = match socket {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => return Ended::failed(e.reason, e.detail),
        Err(_) => {
            let detail = format!("{}: no connection within {join_timeout:?}", endpoint.shown());
            return Ended::failed(FailReason::TimeoutSignaling, detail);
        }
    };
    Conversation {
        machine: Machine::new(part),
        socket,
        media: call.media,
        progress: call.progress,
        timers: vec![(begun + join_timeout, Timer::Join)],
        replies: FuturesUnordered::new(),
        ended: None,
    }
    .run(call.orders)
    .await
}

struct Conversation {
    machine: Machine,
    socket: Socket,
    media: Media,
    progress: mpsc::UnboundedSender<Progress>,
    timers: Vec<(Instant, Timer)>,
    replies: FuturesUnordered<BoxFuture<'static, Reply>>,
    ended: Option<Ended>,
}

impl Conversation {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> Ended {
        let mut ordered = true;
        loop {
            self.perform();
            if let Some(ended) = self.ended.take() {
                let _ = timeout(CLOSE_WITHIN, async {
                    if self.socket.flush().await.is_ok() {
                        self.socket.close().await;
                    }
                })
                .await;
                return ended;
            }
            let next = self.timers.iter().map(|(at, _)| *at).min();
            tokio::select! {
                heard = self.socket.hear() => match heard {
                    Heard::Text(text) => self.machine.handle_text(&text),
                    Heard::Closed(why) => self.machine.handle_closed(&why),
                },
                order = orders.recv(), if ordered => match order {
                    Some(order) => self.machine.handle_order(order),
                    None => {
                        // Nobody can tell us to leave any more: leave.
                        ordered = false;
                        self.machine.handle_order(Order::Leave);
                    }
                },
                Some(reply) = self.replies.next(), if !self.replies.is_empty() => self.machine.handle_reply(reply),
                () = sleep_until(next.unwrap_or_else(far).into()), if next.is_some() => self.fire(Instant::now()),
            }
        }
    }

    fn fire(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.timers.len() {
            if self.timers[at].0 <= now {
                let (_, timer) = self.timers.swap_remove(at);
                self.machine.handle_timer(timer);
            } else {
                at += 1;
            }
        }
    }

    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            let media = &self.media;
            match output {
                Output::Send(text) => {
                    if let Err(e) = self.socket.send(text) {
                        self.machine.handle_closed(&e);
                    }
                }
                Output::MakeOffer { ice_restart } => {
                    let want = OfferWant { send: true, ice_restart, ..OfferWant::default() };
                    let offer = media.offer(PUBLISH, want);
                    self.replies.push(Box::pin(async move { Reply::Offer(offer.await) }));
                }
                Output::ApplyAnswer(sdp) => {
                    let applied = media.accept_answer(PUBLISH, sdp);
                    self.replies.push(Box::pin(async move { Reply::AnswerApplied(applied.await) }));
                }
                Output::AcceptOffer(sdp) => {
                    let answer = media.accept_offer(SUBSCRIBE, sdp);
                    self.replies.push(Box::pin(async move { Reply::Answer(answer.await) }));
                }
                Output::Candidate { slot, candidate } => media.candidate(slot, candidate),
                Output::CloseMedia => {
                    media.close(PUBLISH);
                    media.close(SUBSCRIBE);
                }
                Output::Arm(timer, after) => self.timers.push((Instant::now() + after, timer)),
                Output::Signaled => self.report(Progress::Signaled(Instant::now())),
                Output::Note { code, text } => self.report(Progress::Note { code, text }),
                Output::Ended(ended) => self.ended = Some(ended),
            }
        }
    }

    fn report(&self, progress: Progress) {
        // An engine that listens no more has dropped the leg.
        let _ = self.progress.send(progress);
    }
}

/// Stands in where no timer is armed; that branch is switched off then.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
