//! One leg's life on the embedded fleet: joins, follows its server's word to another one, leaves.

use super::events::{Ear, Told};
use super::{
    BODY_MAX, EmbeddedDriver, JOIN_TIMEOUT, LEAVE_TIMEOUT, below, describe, describe_body, failed_body, left_early,
    refused, want,
};
use crate::history::{FailReason, LegCause};
use crate::outside::{self, BodyError};
use crate::signaling::{BoxFuture, Call, Ended, OfferWant, Order, Progress, TransportState, reason_of};
use reqwest::{StatusCode, Url, header};
use std::time::{Duration, Instant};

/// Another server must have answered by then, or we stay.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that does not say when to switch does not know better than we do.
const SWITCH_PATIENCE: Duration = Duration::from_secs(6);
/// After a switch, until what was under way on the old server has arrived.
const LAST_PACKETS: Duration = Duration::from_secs(1);

pub(super) struct Leg<'a> {
    driver: &'a EmbeddedDriver,
    call: Call,
    /// The transport in use, and where to DELETE.
    slot: u8,
    session: Option<Url>,
    server: String,
    connected: bool,
    ear: Option<Ear>,
    moving: Option<Moving>,
    leaving: Option<Leaving>,
}

/// On its way to another server.
struct Moving {
    server: String,
    slot: u8,
    /// Joining there, while it is under way. Gives the session.
    join: Option<BoxFuture<'static, Result<Url, String>>>,
    session: Option<Url>,
    connected: bool,
    /// Set when the old server knows that we are ready: we switch at this time, whatever it says.
    switch_by: Option<Instant>,
    /// The old transport fell, and with what the leg ends if the new one does not come.
    fallen: Option<(Instant, Ended)>,
}

/// The old way, which may still carry what is under way.
struct Leaving {
    at: Instant,
    slot: u8,
    session: Url,
}

impl<'a> Leg<'a> {
    pub fn new(driver: &'a EmbeddedDriver, call: Call) -> Leg<'a> {
        Leg {
            driver,
            call,
            slot: 0,
            session: None,
            server: String::new(),
            connected: false,
            ear: None,
            moving: None,
            leaving: None,
        }
    }

    /// Either way out is an end; `Err` lets `?` take the short one.
    pub async fn live(&mut self) -> Result<Ended, Ended> {
        let want = want(&self.call.leg, &self.call.room);
        let offer = self.call.media.offer(self.slot, want).await;
        let offer = offer.map_err(|e| Ended::failed(e.reason(), e.to_string()))?;
        self.tell(Progress::Started(Instant::now()));
        let answer = self.post(offer).await?;
        if let Err(error) = self.call.media.accept_answer(self.slot, answer).await {
            // The server holds a place for us that nobody will fill.
            let _ = self.delete().await;
            return Err(Ended::failed(error.reason(), error.to_string()));
        }
        self.tell(Progress::Signaled(Instant::now()));
        self.ear = self.session.as_ref().map(|session| self.driver.events.listen(session));
        loop {
            if let Some(ended) = self.step().await {
                return Ok(ended);
            }
        }
    }

    /// Waits for whatever comes next, and does what it asks for.
    async fn step(&mut self) -> Option<Ended> {
        let Leg { call, ear, moving, leaving, .. } = self;
        let hear = async {
            match ear {
                Some(ear) => ear.hear().await,
                None => std::future::pending().await,
            }
        };
        let wake =
            [moving.as_ref().and_then(|m| m.switch_by), leaving.as_ref().map(|l| l.at)].into_iter().flatten().min();
        let wake = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let joined = async {
            match moving.as_mut().and_then(|m| m.join.as_mut()) {
                Some(join) => join.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = call.orders.recv() => {
                // An engine that has let go of us wants what Leave wants.
                let mut next = Some(order.unwrap_or(Order::Leave));
                while let Some(order) = next.take() {
                    if let Order::RestartIce { slot } = order {
                        // A transport that is on its way out or in is not worth it.
                        if slot == self.slot && self.moving.is_none() {
                            next = self.restart().await;
                        }
                    } else if let Some(ended) = self.obey(order).await {
                        return Some(ended);
                    }
                }
                None
            }
            told = hear => self.hear(told).await,
            joined = joined => self.joined_there(joined).await,
            () = wake => {
                let now = Instant::now();
                if self.moving.as_ref().and_then(|m| m.switch_by).is_some_and(|at| at <= now) {
                    self.switch().await;
                }
                if self.leaving.as_ref().is_some_and(|l| l.at <= now) {
                    self.leave_old().await;
                }
                None
            }
        }
    }

    /// What the server says of its own accord.
    async fn hear(&mut self, told: Told) -> Option<Ended> {
        match told {
            Told::Move { server, url } => {
                if self.moving.is_none() && self.connected && server != self.server {
                    self.begin_move(server, &url);
                }
                None
            }
            Told::Switch => {
                if self.moving.as_ref().is_some_and(|m| m.switch_by.is_some()) {
                    self.switch().await;
                }
                None
            }
            Told::Forwarded { senders } => {
                let legs = self.driver.legs();
                let senders = senders.iter().filter_map(|name| legs.get(name)).copied().collect();
                self.call.media.forwarded(senders);
                None
            }
            Told::Again { lost } => {
                self.tell(Progress::Resumed { lost, back: Instant::now() });
                None
            }
            Told::Rejoin => {
                let _ = self.delete().await;
                self.call.media.close(self.slot);
                Some(self.over(LegCause::ClosedByServer, "the server told it to join again"))
            }
            Told::Gone => {
                let fallen = self.over(LegCause::SignalingLost, "the server's API is gone");
                match &mut self.moving {
                    Some(moving) => {
                        moving.fallen.get_or_insert((Instant::now(), fallen));
                        None
                    }
                    None => {
                        self.session = None;
                        Some(fallen)
                    }
                }
            }
        }
    }

    fn over(&self, cause: LegCause, detail: &str) -> Ended {
        match self.connected {
            true => Ended::over(cause, detail),
            false => Ended::failed(FailReason::Closed, detail),
        }
    }

    /// Joins on another server, on a second transport; the first one goes on meanwhile.
    fn begin_move(&mut self, server: String, url: &str) {
        let slot = 1 - self.slot;
        if self.leaving.is_some() {
            // Its place is taken; the server will say it again.
            return;
        }
        let (media, client) = (self.call.media.clone(), self.driver.client.clone());
        let want = OfferWant { keep_sending: true, ..want(&self.call.leg, &self.call.room) };
        let base = Url::parse(url);
        let path = ["rooms", &self.call.room.name, "participants", &self.call.leg.name].map(str::to_owned);
        let join = async move {
            let base = base.map_err(|e| format!("told to move to a bad URL: {e}"))?;
            let offer = media.offer(slot, want).await.map_err(|e| e.to_string())?;
            let request = client
                .post(below(&base, &path.each_ref().map(String::as_str)))
                .header(header::CONTENT_TYPE, "application/sdp")
                .header("roomful-moved", "1")
                .body(offer)
                .timeout(MOVE_TIMEOUT);
            let response = request.send().await.map_err(|e| describe(&e))?;
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let session = location.and_then(|l| base.join(l).ok());
            let status = response.status();
            let answer = outside::text(response, BODY_MAX).await.map_err(describe_body)?;
            let session = match (status, session) {
                (StatusCode::CREATED, Some(session)) => session,
                _ => return Err(format!("the other server answered with {status}")),
            };
            if let Err(error) = media.accept_answer(slot, answer).await {
                let _ = client.delete(session).timeout(LEAVE_TIMEOUT).send().await;
                return Err(error.to_string());
            }
            Ok(session)
        };
        self.moving = Some(Moving {
            server,
            slot,
            join: Some(Box::pin(join)),
            session: None,
            connected: false,
            switch_by: None,
            fallen: None,
        });
    }

    async fn joined_there(&mut self, joined: Result<Url, String>) -> Option<Ended> {
        let moving = self.moving.as_mut()?;
        moving.join = None;
        match joined {
            Ok(session) => {
                moving.session = Some(session);
                self.maybe_ready().await;
                None
            }
            Err(why) => self.give_up_move(why).await,
        }
    }

    /// Says so when the new way is there. It is taken when everybody's is.
    async fn maybe_ready(&mut self) {
        let Some(moving) = &mut self.moving else { return };
        if moving.session.is_none() || !moving.connected {
            return;
        }
        if moving.fallen.is_some() {
            return self.switch().await;
        }
        moving.switch_by = Some(Instant::now() + SWITCH_PATIENCE);
        let Some(session) = &self.session else { return };
        let ready = self.driver.client.post(below(session, &["ready"])).timeout(READY_TIMEOUT).send().await;
        // 200: the others have gone already; and a server that says nothing will not say when, either.
        if ready.map_or(true, |r| r.status() != StatusCode::ACCEPTED) {
            self.switch().await;
        }
    }

    async fn switch(&mut self) {
        let Some(Moving { server, slot, session, fallen, .. }) = self.moving.take() else { return };
        let began = Instant::now();
        if self.call.media.switch(slot).await.is_err() {
            return;
        }
        let from = fallen.map_or(began, |(at, _)| at);
        self.tell(Progress::Moved { server: server.clone(), from, until: Instant::now() });
        let old = std::mem::replace(&mut self.session, session);
        let slot = std::mem::replace(&mut self.slot, slot);
        self.leaving = old.map(|session| Leaving { at: Instant::now() + LAST_PACKETS, slot, session });
        self.server = server;
        self.ear = self.session.as_ref().map(|session| self.driver.events.listen(session));
    }

    async fn leave_old(&mut self) {
        let Some(old) = self.leaving.take() else { return };
        // An old server that is gone by now is no news.
        let _ = self.driver.client.delete(old.session).timeout(READY_TIMEOUT).send().await;
        self.call.media.close(old.slot);
    }

    /// The move did not come about: the leg stays where it is, or ends with what befell it there.
    async fn give_up_move(&mut self, why: String) -> Option<Ended> {
        let moving = self.moving.take()?;
        self.call.media.close(moving.slot);
        if let Some(session) = moving.session {
            let _ = self.driver.client.delete(session).timeout(LEAVE_TIMEOUT / 2).send().await;
        }
        self.tell(Progress::Note { code: "move_failed", text: why });
        let (_, ended) = moving.fallen?;
        let _ = self.delete().await;
        Some(ended)
    }

    fn tell(&self, progress: Progress) {
        // Nobody listens any more: the leg is being torn down.
        let _ = self.call.progress.send(progress);
    }

    /// Joins; gives the answer's SDP. A leave that is ordered meanwhile waits for the response, so that no session is
    /// left behind at the server.
    async fn post(&mut self, offer: String) -> Result<String, Ended> {
        let url = self.driver.url(&["rooms", &self.call.room.name, "participants", &self.call.leg.name]);
        let request = self.driver.client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offer);
        let request = match &self.call.room.server {
            Some(server) => request.header("roomful-server", server),
            None => request,
        };
        let response = async {
            let response = request.timeout(JOIN_TIMEOUT).send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, BodyError>((status, headers, outside::text(response, BODY_MAX).await?))
        };
        tokio::pin!(response);
        let mut leave_by = None;
        let (status, headers, body) = loop {
            let deadline = async {
                match leave_by {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut response => break done.map_err(failed_body)?,
                () = deadline => return Err(left_early()),
                order = self.call.orders.recv(), if leave_by.is_none() => match order {
                    Some(Order::Leave) | None => leave_by = Some(tokio::time::Instant::now() + LEAVE_TIMEOUT / 2),
                    Some(Order::Transport { state: TransportState::Failed { why }, .. }) => {
                        return Err(Ended::failed(reason_of(&why), why));
                    }
                    Some(_) => {}
                },
            }
        };
        if status != StatusCode::CREATED {
            return Err(refused(status, &body));
        }
        let location = headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
        self.session = location.and_then(|l| self.driver.director.join(l).ok());
        if self.session.is_none() {
            return Err(Ended::failed(FailReason::BadAnswer, format!("201 with Location {location:?}")));
        }
        if leave_by.is_some() {
            let _ = self.delete().await;
            return Err(left_early());
        }
        if let Some(server) = headers.get("roomful-server").and_then(|s| s.to_str().ok()) {
            self.server = server.to_owned();
            self.tell(Progress::Server(server.to_owned()));
        }
        Ok(body)
    }

    /// Offers with new ICE credentials and applies the answer. Gives the order that broke it off, if one did.
    async fn restart(&mut self) -> Option<Order> {
        let (session, slot) = (self.session.clone()?, self.slot);
        let want = OfferWant { ice_restart: true, ..want(&self.call.leg, &self.call.room) };
        let outcome = {
            let Leg { driver, call, .. } = self;
            let media = call.media.clone();
            let exchange = async {
                let offer = media.offer(slot, want).await.map_err(|e| e.to_string())?;
                let request = driver.client.patch(session).header(header::CONTENT_TYPE, "application/sdp").body(offer);
                let response = request.timeout(JOIN_TIMEOUT).send().await.map_err(|e| describe(&e))?;
                if !response.status().is_success() {
                    return Err(format!("the server answered an ICE restart with {}", response.status()));
                }
                let answer = outside::text(response, BODY_MAX).await.map_err(describe_body)?;
                media.accept_answer(slot, answer).await.map_err(|e| e.to_string())
            };
            tokio::pin!(exchange);
            loop {
                tokio::select! {
                    done = &mut exchange => break done,
                    order = call.orders.recv() => match order {
                        // Neither news nor more of the same breaks it off.
                        Some(Order::RestartIce { .. })
                        | Some(Order::Transport {
                            state: TransportState::IceConnected { .. }
                            | TransportState::Connected { .. }
                            | TransportState::Disconnected,
                            ..
                        }) => {}
                        other => return Some(other.unwrap_or(Order::Leave)),
                    },
                }
            }
        };
        if let Err(text) = outcome {
            // The old pair may come back; consent decides.
            self.tell(Progress::Note { code: "ice_restart_refused", text });
        }
        None
    }

    async fn obey(&mut self, order: Order) -> Option<Ended> {
        match order {
            Order::Leave => {
                let left = self.delete().await;
                self.call.media.close(self.slot);
                Some(match (left, self.connected) {
                    (_, false) => left_early(),
                    (Ok(()), true) => Ended::over(LegCause::Left, ""),
                    (Err(why), true) => Ended::over(LegCause::LeftUnacknowledged, why),
                })
            }
            Order::Transport { slot, state } if slot == self.slot => self.transport(state).await,
            Order::Transport { slot, state } if self.moving.as_ref().is_some_and(|m| m.slot == slot) => {
                self.new_transport(state).await
            }
            // Of the old way, which has served.
            Order::Transport { .. } => None,
            // Obeyed before, with the orders that may break it off.
            Order::RestartIce { .. } => None,
        }
    }

    async fn transport(&mut self, state: TransportState) -> Option<Ended> {
        let ended = match (state, self.connected) {
            (TransportState::IceConnected { .. } | TransportState::Disconnected, _) => return None,
            (TransportState::Connected { .. }, _) => {
                self.connected = true;
                return None;
            }
            (TransportState::Failed { why }, false) => Ended::failed(reason_of(&why), why),
            (TransportState::PeerClosed, false) => {
                Ended::failed(FailReason::Closed, "the server closed the transport before it was up")
            }
            (TransportState::ConsentExpired, false) => Ended::failed(FailReason::TimeoutIce, "no consent"),
            (TransportState::Failed { why }, true) => Ended::over(LegCause::ClosedByServer, why),
            (TransportState::PeerClosed, true) => {
                let ended = Ended::over(LegCause::ClosedByServer, "close_notify");
                if self.moving.is_none() {
                    // The server has ended the session: there is nothing left to leave.
                    self.session = None;
                }
                ended
            }
            (TransportState::ConsentExpired, true) => Ended::over(LegCause::ConsentExpired, ""),
        };
        if let Some(moving) = &mut self.moving
            && self.connected
        {
            // The new way may come yet.
            moving.fallen.get_or_insert((Instant::now(), ended));
            return None;
        }
        // How and when the leg ended is settled; a server that hangs may take its time to let go of our place.
        self.tell(Progress::Over { at: Instant::now(), ended: ended.clone() });
        let _ = self.delete().await;
        Some(ended)
    }

    /// News of the transport to another server.
    async fn new_transport(&mut self, state: TransportState) -> Option<Ended> {
        match state {
            TransportState::Connected { .. } => {
                if let Some(moving) = &mut self.moving {
                    moving.connected = true;
                }
                self.maybe_ready().await;
                None
            }
            TransportState::IceConnected { .. } | TransportState::Disconnected => None,
            TransportState::Failed { why } => self.give_up_move(why).await,
            TransportState::PeerClosed => self.give_up_move("the other server closed the transport".into()).await,
            TransportState::ConsentExpired => self.give_up_move("no consent on the other server".into()).await,
        }
    }

    /// Ends the sessions at the servers. `Err` says how the one in use was not acknowledged.
    async fn delete(&mut self) -> Result<(), String> {
        self.ear = None;
        let moving = self.moving.take();
        if let Some(moving) = &moving {
            self.call.media.close(moving.slot);
        }
        let leaving = self.leaving.take();
        if let Some(leaving) = &leaving {
            self.call.media.close(leaving.slot);
        }
        let others = moving.and_then(|m| m.session).into_iter().chain(leaving.map(|l| l.session));
        let others = others.map(|session| self.driver.client.delete(session).timeout(LEAVE_TIMEOUT).send());
        let others = futures_util::future::join_all(others);
        let own = async {
            let Some(session) = self.session.take() else { return Ok(()) };
            match self.driver.client.delete(session).timeout(LEAVE_TIMEOUT).send().await {
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(response) => Err(format!("the server answered the leave with {}", response.status())),
                Err(error) => Err(describe(&error)),
            }
        };
        tokio::join!(own, others).0
    }
}
