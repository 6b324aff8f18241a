//! The transport's life: ICE, then DTLS, then consent, restarts and the end.

use super::consent::Consent;
use super::dtls::{Association, Keys, Outcome};
use super::ice::{Ice, Said};
use super::shared::{Shared, unhex};
use super::{AllowList, Event, Failure, Kind, LocalParams, Place, RemoteParams, Setup, TransportError};
use crate::prefetch::prefetch;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    New,
    /// ICE is looking for a pair, the first time or after a restart.
    Connecting,
    /// A pair is selected. DTLS may still be under way.
    Connected,
    /// Consent ended; only an ICE restart leads out.
    Expired,
    Closed,
}

/// How many candidates and datagrams met which fate.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    pub candidates_used: u32,
    /// Outside the allow-list.
    pub candidates_refused: u32,
    /// TCP, mDNS, another address family, not understood.
    pub candidates_skipped: u32,
    /// ICE and DTLS datagrams from outside the allow-list.
    pub datagrams_refused: u32,
    /// Datagrams that something inside wanted to send outside the allow-list. Not sent.
    pub sends_refused: u32,
}

/// ICE, DTLS and keys over one 5-tuple. See the module's description for how to drive it.
pub struct Transport {
    shared: Arc<Shared>,
    allow: Arc<AllowList>,
    local: SocketAddr,
    ice: Ice,
    dtls: Option<Association>,
    consent: Consent,
    phase: Phase,
    remote: Option<SocketAddr>,
    fingerprint: [u8; 32],
    hello_at: Option<Instant>,
    give_up: Option<Instant>,
    datagrams_refused: u32,
    sends_refused: u32,
    out: VecDeque<(SocketAddr, BytesMut)>,
    events: VecDeque<Event>,
}

impl Transport {
    /// A transport on a bound socket's or an allocation's address. `seed` spreads its consent checks.
    pub fn new(
        now: Instant,
        shared: &Arc<Shared>,
        allow: &Arc<AllowList>,
        place: impl Into<Place>,
        seed: u64,
    ) -> Result<Transport, TransportError> {
        let place = place.into();
        let local = place.address();
        Ok(Transport {
            shared: shared.clone(),
            allow: allow.clone(),
            local,
            ice: Ice::new(now, shared, allow, place)?,
            dtls: None,
            consent: Consent::new(now, seed),
            phase: Phase::New,
            remote: None,
            fingerprint: [0; 32],
            hello_at: None,
            give_up: None,
            datagrams_refused: 0,
            sends_refused: 0,
            out: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// What goes into our next description; the new credentials after [`Transport::prepare_restart`].
    pub fn local_params(&self) -> LocalParams {
        let (ufrag, pwd, candidates) = self.ice.local_params();
        LocalParams { ufrag, pwd, fingerprint: self.shared.fingerprint().to_string(), candidates }
    }

    /// Our DTLS role; `Actpass` until `start` decided it.
    pub fn setup(&self) -> Setup {
        match &self.dtls {
            None => Setup::Actpass,
            Some(d) if d.is_client() => Setup::Active,
            Some(_) => Setup::Passive,
        }
    }

    /// New credentials for an ICE restart: for our offer, or for our answer to an offer that
    /// [`Transport::is_restart`]. They take effect with `start`.
    pub fn prepare_restart(&mut self) -> Result<(), TransportError> {
        if self.phase == Phase::Closed {
            return Err(TransportError::Closed);
        }
        self.ice.prepare_restart()
    }

    /// The next ICE restart goes on from another place, e.g. from another TURN server's relayed address.
    pub fn relocate(&mut self, place: Place) -> Result<(), TransportError> {
        self.ice.relocate(place)
    }

    /// True when these credentials differ from those in use: the remote restarts ICE.
    pub fn is_restart(&self, remote: &RemoteParams) -> bool {
        self.phase != Phase::New && remote.ufrag != self.ice.remote_ufrag()
    }

    /// The remote description is known: checks begin. Called again with the same ufrag it only adds candidates; with
    /// another one it is an ICE restart, which keeps DTLS and keys and lets media go on over the old pair (RFC 8445 9).
    ///
    /// Errors leave the transport as it was: a closed transport, a changed fingerprint, unusable credentials, or
    /// candidates of which none may be used.
    pub fn start(
        &mut self,
        now: Instant,
        remote: &RemoteParams,
        controlling: bool,
        dtls_client: bool,
    ) -> Result<(), TransportError> {
        if self.phase == Phase::Closed {
            return Err(TransportError::Closed);
        }
        let unusable = |what, why: &str| TransportError::Remote { what, why: why.to_string() };
        let fingerprint = unhex(&remote.fingerprint).ok_or_else(|| unusable("fingerprint", "it is not a SHA-256"))?;
        if self.phase != Phase::New && fingerprint != self.fingerprint {
            return Err(TransportError::NewFingerprint);
        }
        if remote.ufrag.is_empty() || remote.pwd.is_empty() {
            return Err(unusable("credentials", "ufrag or pwd is empty"));
        }
        if self.phase == Phase::New || self.is_restart(remote) {
            self.ice.require_allowed(&remote.candidates)?;
            self.ice.begin(now, remote, controlling, self.phase != Phase::New)?;
            if self.dtls.is_none() {
                self.fingerprint = fingerprint;
                self.dtls = Some(Association::new(now, &self.shared, self.local, dtls_client));
            }
            self.phase = Phase::Connecting;
            // A restart that leads nowhere must not end what consent still keeps.
            let connect = now + self.shared.timing.connect;
            self.give_up = self.consent.ends(&self.shared.timing).max(Some(connect));
        }
        let events = &mut self.events;
        self.ice.add_candidates(&remote.candidates, |refused| events.push_back(Event::CandidateRefused(refused)));
        self.check_if_due(now);
        self.drain(now);
        Ok(())
    }

    /// A trickled candidate (RFC 8838). One outside the allow-list is never used, only counted and reported.
    pub fn add_remote_candidate(&mut self, now: Instant, candidate: &str) {
        if self.phase == Phase::Closed {
            return;
        }
        self.events.extend(self.ice.add_candidate(candidate).map(Event::CandidateRefused));
        self.check_if_due(now);
        self.drain(now);
    }

    fn check_if_due(&mut self, now: Instant) {
        if self.phase == Phase::Connecting {
            self.ice.check_if_due(now);
        }
    }

    /// Takes one datagram and says what it was; media is told by its first byte alone (RFC 7983 7) and left alone.
    pub fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Kind {
        let handled = match datagram.first() {
            Some(128..=191) => return Kind::Media,
            Some(0..=3 | 20..=63) if self.phase == Phase::Closed => false,
            Some(0..=3 | 20..=63) if !self.allow.permits(from.ip()) => {
                self.datagrams_refused = self.datagrams_refused.saturating_add(1);
                false
            }
            Some(0..=3) => self.on_stun(now, from, datagram),
            Some(20..=63) => self.on_dtls(now, from, datagram),
            _ => false,
        };
        if !handled {
            return Kind::Ignored;
        }
        self.drain(now);
        Kind::Handled
    }

    fn on_stun(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        if self.phase == Phase::New {
            return false;
        }
        let Some(answer) = self.ice.on_stun(now, from, datagram) else { return false };
        let selected = self.remote == Some(from);
        let ours = answer.is_some_and(|id| self.consent.answered(now, id, selected));
        if ours && self.phase == Phase::Connecting {
            self.ice.hurry_nomination(now);
        }
        true
    }

    fn on_dtls(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        // Authenticated addresses only: signalled, or the source of an authentic check.
        let known = self.remote == Some(from) || self.ice.knows(from);
        let Some(dtls) = self.dtls.as_mut().filter(|_| known) else { return false };
        let outcome = dtls.on_datagram(now, &self.shared, &self.fingerprint, datagram);
        self.flush_dtls(self.remote.or(Some(from)));
        match outcome {
            Outcome::Nothing => {}
            Outcome::Keys(keys) => self.keyed(now, keys),
            Outcome::PeerClosed => self.end(Event::PeerClosed),
            Outcome::Failed(failure) => self.end(Event::Failed(failure)),
        }
        true
    }

    fn keyed(&mut self, now: Instant, keys: Keys) {
        if self.phase == Phase::Connected {
            self.give_up = None;
        }
        let Keys { suite, ours, theirs } = keys;
        let dtls_client = self.setup() == Setup::Active;
        let certificate = self.fingerprint;
        self.events.push_back(Event::Connected { suite, dtls_client, certificate, ours, theirs });
        self.drain(now);
    }

    fn flush_dtls(&mut self, to: Option<SocketAddr>) {
        let Some(dtls) = &mut self.dtls else { return };
        let datagrams = dtls.take_out();
        if let Some(to) = to {
            for datagram in datagrams {
                self.transmit(to, datagram);
            }
        }
    }

    /// The only way out, and so the last look at the allow-list.
    fn transmit(&mut self, to: SocketAddr, datagram: BytesMut) {
        if self.allow.permits(to.ip()) {
            self.out.push_back((to, datagram));
        } else {
            self.sends_refused += 1;
        }
    }

    /// Takes over what the agent has to say and to send.
    fn drain(&mut self, now: Instant) {
        let (mut said, mut sent) = (Vec::new(), Vec::new());
        self.ice.drain(|s| said.push(s), |to, datagram, request| sent.push((to, datagram, request)));
        for said in said {
            match said {
                Said::Selected(remote) => self.selected(now, remote),
                Said::RoleConflict => self.events.push_back(Event::RoleConflict),
            }
        }
        for (to, datagram, request) in sent {
            if let Some(transaction) = request {
                self.consent.asked(now, transaction);
            }
            self.transmit(to, datagram);
        }
    }

    fn selected(&mut self, now: Instant, remote: SocketAddr) {
        self.remote = Some(remote);
        if self.phase == Phase::Connecting {
            self.phase = Phase::Connected;
        }
        match &self.dtls {
            Some(d) if d.is_keyed() => self.give_up = None,
            Some(d) if d.is_waiting_to_connect() && self.hello_at.is_none() => {
                self.hello_at = Some(now + self.shared.timing.client_hello_delay);
            }
            _ => {}
        }
        self.consent.grant(now, &self.shared.timing);
        self.events.push_back(Event::IceConnected(remote));
    }

    /// True while media may go to [`Transport::remote`]: there are keys, and consent.
    pub fn may_send(&self) -> bool {
        self.consent.is_granted() && self.is_keyed()
    }

    /// True once DTLS has agreed on keys, and until the end.
    pub fn is_keyed(&self) -> bool {
        self.dtls.as_ref().is_some_and(Association::is_keyed)
    }

    /// True while a selected pair has consent and there are keys, and no restart is under way.
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected && self.may_send()
    }

    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Asks for the memory that sending a media packet looks at.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.remote, 1);
    }

    /// Where media goes: the selected pair's remote address, the old one during a restart.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Round trip of the last answered check.
    pub fn rtt(&self) -> Option<Duration> {
        self.consent.rtt()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            candidates_used: self.ice.candidates_used,
            candidates_refused: self.ice.refused().len() as u32,
            candidates_skipped: self.ice.candidates_skipped,
            datagrams_refused: self.datagrams_refused,
            sends_refused: self.sends_refused,
        }
    }

    /// When to call [`Transport::handle_timeout`]; may be in the past. `None`: not until something else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let check = match self.phase {
            Phase::New | Phase::Closed => return None,
            Phase::Connecting => self.ice.next_check(),
            Phase::Connected => Some(self.consent.next_check()),
            Phase::Expired => None,
        };
        let resend = self.dtls.as_ref().filter(|_| self.consent.is_granted()).and_then(Association::poll_timeout);
        let consent = self.consent.ends(&self.shared.timing);
        let silence = self.consent.disconnects(&self.shared.timing).filter(|_| self.phase == Phase::Connected);
        [check, resend, consent, silence, self.hello_at, self.give_up].into_iter().flatten().min()
    }

    /// Does what is due at `now`: checks, consent, resending, giving up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.phase, Phase::New | Phase::Closed) {
            return;
        }
        if self.give_up.is_some_and(|t| t <= now) {
            let restarted_in_vain = self.is_keyed() && !self.consent.is_granted();
            let end = if restarted_in_vain { Event::ConsentExpired } else { Event::Failed(self.time_out()) };
            return self.end(end);
        }
        if self.consent.ends(&self.shared.timing).is_some_and(|t| t <= now) {
            self.expire();
        }
        if self.phase == Phase::Connected && self.consent.disconnects(&self.shared.timing).is_some_and(|t| t <= now) {
            self.consent.tell();
            self.events.push_back(Event::Disconnected);
        }
        match self.phase {
            Phase::Connecting => self.ice.check_if_due(now),
            Phase::Connected if self.consent.next_check() <= now => self.renew_consent(now),
            _ => {}
        }
        if self.hello_at.is_some_and(|t| t <= now) {
            self.hello_at = None;
            if let Some(Err(failure)) = self.dtls.as_mut().map(|d| d.connect(now, &self.shared)) {
                return self.end(Event::Failed(failure));
            }
        }
        if let Some(dtls) = self.dtls.as_mut().filter(|_| self.consent.is_granted()) {
            dtls.handle_timeout(now);
        }
        self.flush_dtls(self.remote);
        self.drain(now);
    }

    fn time_out(&self) -> Failure {
        match self.phase {
            Phase::Connecting if !self.ice.refused().is_empty() && self.ice.candidates_used == 0 => {
                Failure::NoAllowedCandidate(self.ice.refused().to_vec())
            }
            Phase::Connecting => Failure::IceTimeout,
            _ => Failure::DtlsTimeout,
        }
    }

    fn expire(&mut self) {
        self.consent.revoke();
        self.hello_at = None;
        // A restart under way may still lead out; how that ends is told then.
        if self.phase == Phase::Connecting && self.is_keyed() {
            return;
        }
        if self.phase == Phase::Connected {
            self.phase = Phase::Expired;
        }
        self.events.push_back(Event::ConsentExpired);
    }

    fn renew_consent(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.slim(now, &self.shared, self.local);
        }
        self.consent.shrink();
        self.ice.check(now);
        self.consent.plan(now, &self.shared.timing);
    }

    /// Ends the transport. close_notify is left in `poll_transmit` (RFC 5246 7.2.1), if there is consent to send it.
    pub fn close(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(dtls) = self.dtls.as_mut().filter(|_| self.consent.is_granted()) {
            dtls.close(now);
        }
        self.flush_dtls(self.remote);
        self.shut();
    }

    fn end(&mut self, event: Event) {
        self.events.push_back(event);
        self.shut();
    }

    /// After it nothing is taken and nothing new is sent. A server's endpoint would make a new association of any
    /// later datagram, so it goes.
    fn shut(&mut self) {
        self.phase = Phase::Closed;
        self.consent.revoke();
        self.dtls = None;
        self.hello_at = None;
        self.give_up = None;
        self.ice.close();
    }

    /// The next datagram to send and where to; always inside the allow-list.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        let next = self.out.pop_front();
        if next.is_none() {
            // Most of the time there is nothing; thousands of empty queues would be a kilobyte each.
            self.out.shrink_to_fit();
        }
        next
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let next = self.events.pop_front();
        if next.is_none() {
            self.events.shrink_to_fit();
        }
        next
    }
}
