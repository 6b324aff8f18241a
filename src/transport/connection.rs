//! The transport's life: ICE, then DTLS, then consent, restarts and the end.

use super::candidate::{Verdict, judge};
use super::consent::Consent;
use super::dtls::{Association, Keys, Outcome};
use super::shared::{CHECK_INTERVAL, Shared, unhex};
use super::stun::{Class, Message};
use super::{AllowList, Event, Failure, Kind, LocalParams, RemoteParams, Setup, TransportError};
use bytes::BytesMut;
use rtc_ice::agent::{Agent, Event as IceEvent};
use rtc_ice::candidate::CandidateConfig;
use rtc_ice::candidate::candidate_host::CandidateHostConfig;
use rtc_shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use sansio::Protocol;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Remote candidates of one description that are looked at; more is nobody's network.
const CANDIDATES_MAX: usize = 32;

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
    ice: Agent,
    /// The password in force; the agent only tells the next one.
    local_pwd: String,
    remote_ufrag: String,
    remote_pwd: String,
    remote: Option<SocketAddr>,
    fingerprint: [u8; 32],
    phase: Phase,
    check_at: Instant,
    /// The controlling side nominates at most once out of turn.
    hurried: bool,
    give_up: Option<Instant>,
    consent: Consent,
    dtls: Option<Association>,
    hello_at: Option<Instant>,
    refused: Vec<SocketAddr>,
    counts: Counts,
    out: VecDeque<(SocketAddr, BytesMut)>,
    events: VecDeque<Event>,
}

impl Transport {
    /// A transport on a bound socket's address (not the unspecified one). `seed` spreads its consent checks.
    pub fn new(
        now: Instant,
        shared: &Arc<Shared>,
        allow: &Arc<AllowList>,
        local: SocketAddr,
        seed: u64,
    ) -> Result<Transport, TransportError> {
        let failed = |why: String| TransportError::Local { local, why };
        if local.ip().is_unspecified() || local.port() == 0 {
            return Err(failed("the address is not one of a bound socket".into()));
        }
        let mut ice =
            Agent::new(now, shared.ice.clone(), shared.provider.clone()).map_err(|e| failed(e.to_string()))?;
        let base_config = CandidateConfig {
            network: "udp".into(),
            address: local.ip().to_string(),
            port: local.port(),
            component: 1,
            ..CandidateConfig::default()
        };
        let host = CandidateHostConfig { base_config, ..CandidateHostConfig::default() };
        let added = host.new_candidate_host().and_then(|c| ice.add_local_candidate(c));
        if !added.map_err(|e| failed(e.to_string()))? {
            return Err(failed("the ICE agent does not take the address".into()));
        }
        Ok(Transport {
            local_pwd: ice.get_local_credentials().pwd.clone(),
            shared: shared.clone(),
            allow: allow.clone(),
            local,
            ice,
            remote_ufrag: String::new(),
            remote_pwd: String::new(),
            remote: None,
            fingerprint: [0; 32],
            phase: Phase::New,
            check_at: now,
            hurried: false,
            give_up: None,
            consent: Consent::new(now, seed),
            dtls: None,
            hello_at: None,
            refused: Vec::new(),
            counts: Counts::default(),
            out: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// What goes into our next description; the new credentials after [`Transport::prepare_restart`].
    pub fn local_params(&self) -> LocalParams {
        let credentials = self.ice.get_local_credentials();
        LocalParams {
            ufrag: credentials.ufrag.clone(),
            pwd: credentials.pwd.clone(),
            fingerprint: self.shared.fingerprint().to_string(),
            candidates: self.ice.get_local_candidates().iter().map(|c| c.marshal()).collect(),
        }
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
        self.ice
            .generate_restart_credentials(String::new(), String::new())
            .map_err(|e| TransportError::Local { local: self.local, why: e.to_string() })
    }

    /// True when these credentials differ from those in use: the remote restarts ICE.
    pub fn is_restart(&self, remote: &RemoteParams) -> bool {
        self.phase != Phase::New && remote.ufrag != self.remote_ufrag
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
            self.require_allowed(&remote.candidates)?;
            self.begin(now, remote, controlling, fingerprint, dtls_client)?;
        }
        for candidate in remote.candidates.iter().take(CANDIDATES_MAX) {
            self.add_candidate(candidate);
        }
        if self.phase == Phase::Connecting {
            self.check(now);
        }
        self.drain(now);
        Ok(())
    }

    /// Credentials and roles of a first start or a restart.
    fn begin(
        &mut self,
        now: Instant,
        remote: &RemoteParams,
        controlling: bool,
        fingerprint: [u8; 32],
        dtls_client: bool,
    ) -> Result<(), TransportError> {
        let failed = |e: rtc_shared::error::Error| TransportError::Remote { what: "credentials", why: e.to_string() };
        if self.phase == Phase::New {
            self.fingerprint = fingerprint;
            self.dtls = Some(Association::new(now, &self.shared, self.local, dtls_client));
        } else {
            if !self.ice.has_pending_restart() {
                self.prepare_restart()?;
            }
            self.ice.apply_restart(now, true).map_err(failed)?;
            self.local_pwd = self.ice.get_local_credentials().pwd.clone();
        }
        // The side that faces a lite agent is the controlling one (RFC 8445 6.1.1).
        self.ice
            .start_connectivity_checks(now, controlling || remote.lite, remote.ufrag.clone(), remote.pwd.clone())
            .map_err(failed)?;
        self.remote_ufrag.clone_from(&remote.ufrag);
        self.remote_pwd.clone_from(&remote.pwd);
        self.phase = Phase::Connecting;
        self.hurried = false;
        self.check_at = now;
        self.give_up = Some(now + self.shared.timing.connect);
        Ok(())
    }

    /// An error when there is something to refuse and nothing to use.
    fn require_allowed(&self, candidates: &[String]) -> Result<(), TransportError> {
        let mut refused = Vec::new();
        for candidate in candidates.iter().take(CANDIDATES_MAX) {
            match judge(candidate, self.local.ip(), &self.allow) {
                Verdict::Use(_) => return Ok(()),
                Verdict::Refuse(address) => refused.push(address),
                Verdict::Skip => {}
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(TransportError::NoAllowedCandidate { refused }) }
    }

    /// A trickled candidate (RFC 8838). One outside the allow-list is never used, only counted and reported.
    pub fn add_remote_candidate(&mut self, now: Instant, candidate: &str) {
        if self.phase == Phase::Closed {
            return;
        }
        self.add_candidate(candidate);
        if self.phase == Phase::Connecting && now >= self.check_at {
            self.check(now);
        }
        self.drain(now);
    }

    fn add_candidate(&mut self, text: &str) {
        match judge(text, self.local.ip(), &self.allow) {
            Verdict::Use(candidate) => {
                let known = self.ice.get_remote_candidates();
                if known.len() < CANDIDATES_MAX && !known.iter().any(|c| c.addr() == candidate.addr()) {
                    match self.ice.add_remote_candidate(*candidate) {
                        Ok(true) => self.counts.candidates_used += 1,
                        Ok(false) | Err(_) => self.counts.candidates_skipped += 1,
                    }
                }
            }
            Verdict::Refuse(address) if self.refused.len() < CANDIDATES_MAX && !self.refused.contains(&address) => {
                self.counts.candidates_refused += 1;
                self.refused.push(address);
                self.events.push_back(Event::CandidateRefused(address));
            }
            Verdict::Refuse(_) => {}
            Verdict::Skip => self.counts.candidates_skipped += 1,
        }
    }

    /// Takes one datagram and says what it was; media is told by its first byte alone (RFC 7983 7) and left alone.
    pub fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Kind {
        let handled = match datagram.first() {
            Some(128..=191) => return Kind::Media,
            Some(0..=3 | 20..=63) if self.phase == Phase::Closed => false,
            Some(0..=3 | 20..=63) if !self.allow.permits(from.ip()) => {
                self.counts.datagrams_refused = self.counts.datagrams_refused.saturating_add(1);
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

    /// Only authentic messages reach the agent.
    fn on_stun(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(message) = Message::parse(datagram) else { return false };
        let authentic = match message.class {
            Class::Request => message.authentic(&self.local_pwd),
            Class::Success => message.authentic(&self.remote_pwd),
            // An indication is a keep-alive and no consent. A 487 need not turn us: the peer that sent it sees our
            // role in our next request, or we see its.
            Class::Indication | Class::Error => return true,
        };
        if self.phase == Phase::New || !authentic {
            return false;
        }
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: from,
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        let taken = self.ice.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(datagram) }).is_ok();
        if taken && message.class == Class::Success {
            let selected = self.remote == Some(from);
            if self.consent.answered(now, message.transaction, selected) {
                self.hurry_nomination(now);
            }
        }
        taken
    }

    /// A pair has just proved itself: nominate it now and not at the next check, up to 50 ms later, which would become
    /// part of the set-up time that we measure.
    fn hurry_nomination(&mut self, now: Instant) {
        let wanted = self.phase == Phase::Connecting && self.ice.role() && !self.hurried;
        if wanted && self.ice.get_selected_candidate_pair().is_none() {
            self.hurried = true;
            let turn = self.check_at.max(now);
            self.check(turn);
        }
    }

    /// One round of checks. The agent only acts when it believes that its interval is over.
    fn check(&mut self, now: Instant) {
        // Its only error is mDNS's, which is off.
        if self.ice.handle_timeout(now).is_ok() {
            self.check_at = now + CHECK_INTERVAL;
        }
    }

    fn on_dtls(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        // Authenticated addresses only: signalled, or the source of an authentic check.
        let known = self.remote == Some(from) || self.ice.get_remote_candidates().iter().any(|c| c.addr() == from);
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
        self.events.push_back(Event::Connected { suite, dtls_client, ours, theirs });
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
            self.counts.sends_refused += 1;
        }
    }

    /// Takes over what the agent has to say and to send.
    fn drain(&mut self, now: Instant) {
        let mut gave_way = false;
        while let Some(tagged) = self.ice.poll_event() {
            match tagged.event {
                IceEvent::SelectedCandidatePairChange(_, remote) => self.selected(now, remote.addr()),
                IceEvent::RoleChange(_) => {
                    gave_way = true;
                    self.events.push_back(Event::RoleConflict);
                }
                _ => {}
            }
        }
        while let Some(m) = self.ice.poll_write() {
            match Message::parse(&m.message).map(|m| (m.class, m.transaction)) {
                Some((Class::Request, transaction)) => self.consent.asked(now, transaction),
                // The agent sends 487 even when it gives way; then both sides would turn (RFC 8445 7.3.1.1).
                Some((Class::Error, _)) if gave_way => continue,
                _ => {}
            }
            self.transmit(m.transport.peer_addr, m.message);
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
        self.counts
    }

    /// When to call [`Transport::handle_timeout`]; may be in the past. `None`: not until something else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let check = match self.phase {
            Phase::New | Phase::Closed => return None,
            Phase::Connecting => (!self.ice.get_remote_candidates().is_empty()).then_some(self.check_at),
            Phase::Connected => Some(self.consent.next_check()),
            Phase::Expired => None,
        };
        let resend = self.dtls.as_ref().filter(|_| self.consent.is_granted()).and_then(Association::poll_timeout);
        let consent = self.consent.ends(&self.shared.timing);
        [check, resend, consent, self.hello_at, self.give_up].into_iter().flatten().min()
    }

    /// Does what is due at `now`: checks, consent, resending, giving up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.phase, Phase::New | Phase::Closed) {
            return;
        }
        if self.give_up.is_some_and(|t| t <= now) {
            let failure = self.time_out();
            return self.end(Event::Failed(failure));
        }
        if self.consent.ends(&self.shared.timing).is_some_and(|t| t <= now) {
            self.expire();
        }
        match self.phase {
            Phase::Connecting if self.check_at <= now => self.check(now),
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
            Phase::Connecting if !self.refused.is_empty() && self.counts.candidates_used == 0 => {
                Failure::NoAllowedCandidate(self.refused.clone())
            }
            Phase::Connecting => Failure::IceTimeout,
            _ => Failure::DtlsTimeout,
        }
    }

    fn expire(&mut self) {
        self.consent.revoke();
        self.hello_at = None;
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
        self.out.shrink_to(0);
        self.events.shrink_to(0);
        self.check(now);
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
        // Its only error is mDNS's, which is off.
        let _ = self.ice.close();
    }

    /// The next datagram to send and where to; always inside the allow-list.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.out.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
