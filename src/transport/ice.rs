//! ICE: credentials, candidates, and the pace of checks, around `rtc-ice`'s agent.

use super::candidate::{Verdict, judge};
use super::shared::{CHECK_INTERVAL, Shared};
use super::stun::{Class, Message, TransactionId};
use super::{AllowList, Place, RemoteParams, TransportError};
use bytes::BytesMut;
use rtc_ice::agent::{Agent, Event as AgentEvent};
use rtc_ice::candidate::candidate_host::CandidateHostConfig;
use rtc_ice::candidate::candidate_relay::CandidateRelayConfig;
use rtc_ice::candidate::{Candidate, CandidateConfig};
use rtc_shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use sansio::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Remote candidates of one description that are looked at; more is nobody's network.
const CANDIDATES_MAX: usize = 32;

/// What the agent has to say.
pub(super) enum Said {
    Selected(SocketAddr),
    /// We gave way in a role conflict.
    RoleConflict,
}

pub(super) struct Ice {
    agent: Agent,
    allow: Arc<AllowList>,
    local: SocketAddr,
    /// Where the next restart goes on from.
    next: Option<Place>,
    /// The password in force; the agent only tells the next one.
    local_pwd: String,
    remote_ufrag: String,
    remote_pwd: String,
    check_at: Instant,
    /// The controlling side nominates at most once out of turn.
    hurried: bool,
    /// Outside the allow-list, each once.
    refused: Vec<SocketAddr>,
    pub candidates_used: u32,
    pub candidates_skipped: u32,
}

impl Ice {
    pub fn new(now: Instant, shared: &Shared, allow: &Arc<AllowList>, place: Place) -> Result<Ice, TransportError> {
        let local = place.address();
        let agent = Agent::new(now, shared.ice.clone(), shared.provider.clone());
        let mut agent = agent.map_err(|e| TransportError::Local { local, why: e.to_string() })?;
        add_local(&mut agent, place)?;
        Ok(Ice {
            local_pwd: agent.get_local_credentials().pwd.clone(),
            agent,
            allow: allow.clone(),
            local,
            next: None,
            remote_ufrag: String::new(),
            remote_pwd: String::new(),
            check_at: now,
            hurried: false,
            refused: Vec::new(),
            candidates_used: 0,
            candidates_skipped: 0,
        })
    }

    /// ufrag, pwd and candidates for our next description.
    pub fn local_params(&self) -> (String, String, Vec<String>) {
        let credentials = self.agent.get_local_credentials();
        let candidates = match self.next.map(candidate) {
            Some(Ok(next)) => vec![next.marshal()],
            _ => self.agent.get_local_candidates().iter().map(|c| c.marshal()).collect(),
        };
        (credentials.ufrag.clone(), credentials.pwd.clone(), candidates)
    }

    /// The next restart goes on from there.
    pub fn relocate(&mut self, place: Place) -> Result<(), TransportError> {
        candidate(place)?;
        self.next = Some(place);
        Ok(())
    }

    pub fn remote_ufrag(&self) -> &str {
        &self.remote_ufrag
    }

    /// Outside the allow-list.
    pub fn refused(&self) -> &[SocketAddr] {
        &self.refused
    }

    /// New credentials, in force with the next `begin`.
    pub fn prepare_restart(&mut self) -> Result<(), TransportError> {
        self.agent
            .generate_restart_credentials(String::new(), String::new())
            .map_err(|e| TransportError::Local { local: self.local, why: e.to_string() })
    }

    /// Takes remote credentials and roles; `restart` drops the old checks and candidates first.
    pub fn begin(
        &mut self,
        now: Instant,
        remote: &RemoteParams,
        controlling: bool,
        restart: bool,
    ) -> Result<(), TransportError> {
        let failed = |e: rtc_shared::error::Error| TransportError::Remote { what: "credentials", why: e.to_string() };
        if restart {
            if !self.agent.has_pending_restart() {
                self.prepare_restart()?;
            }
            let next = self.next.take();
            self.agent.apply_restart(now, next.is_none()).map_err(failed)?;
            if let Some(place) = next {
                self.local = place.address();
                add_local(&mut self.agent, place)?;
            }
            self.local_pwd = self.agent.get_local_credentials().pwd.clone();
        }
        // The side that faces a lite agent is the controlling one (RFC 8445 6.1.1).
        let controlling = controlling || remote.lite;
        self.agent
            .start_connectivity_checks(now, controlling, remote.ufrag.clone(), remote.pwd.clone())
            .map_err(failed)?;
        self.remote_ufrag.clone_from(&remote.ufrag);
        self.remote_pwd.clone_from(&remote.pwd);
        self.hurried = false;
        self.check_at = now;
        Ok(())
    }

    /// An error when there is something to refuse and nothing to use.
    pub fn require_allowed(&self, candidates: &[String]) -> Result<(), TransportError> {
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

    pub fn add_candidates(&mut self, candidates: &[String], mut refused: impl FnMut(SocketAddr)) {
        for candidate in candidates.iter().take(CANDIDATES_MAX) {
            if let Some(address) = self.add_candidate(candidate) {
                refused(address);
            }
        }
    }

    /// Returns an address outside the allow-list, the first time that it is named.
    pub fn add_candidate(&mut self, text: &str) -> Option<SocketAddr> {
        match judge(text, self.local.ip(), &self.allow) {
            Verdict::Use(candidate) => {
                if self.agent.get_remote_candidates().len() < CANDIDATES_MAX && !self.knows(candidate.addr()) {
                    match self.agent.add_remote_candidate(*candidate) {
                        Ok(true) => self.candidates_used += 1,
                        Ok(false) | Err(_) => self.candidates_skipped += 1,
                    }
                }
            }
            Verdict::Refuse(address) => {
                if self.refused.len() < CANDIDATES_MAX && !self.refused.contains(&address) {
                    self.refused.push(address);
                    return Some(address);
                }
            }
            Verdict::Skip => self.candidates_skipped += 1,
        }
        None
    }

    /// An address that was signalled, or the source of an authentic check.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.agent.get_remote_candidates().iter().any(|c| c.addr() == address)
    }

    /// Feeds one STUN message, if it is authentic: `None` when it is not to be taken. `Some(Some(id))` is the answer to
    /// a request, ours or not.
    #[expect(clippy::option_option, reason = "refused, taken, taken and an answer")]
    pub fn on_stun(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Option<Option<TransactionId>> {
        let message = Message::parse(datagram)?;
        let authentic = match message.class {
            Class::Request => message.authentic(&self.local_pwd),
            Class::Success => message.authentic(&self.remote_pwd),
            // An indication is a keep-alive and no consent. A 487 need not turn us: the peer that sent it sees our
            // role in our next request, or we see its.
            Class::Indication | Class::Error => return Some(None),
        };
        if !authentic {
            return None;
        }
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: from,
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        let message_bytes = BytesMut::from(datagram);
        self.agent.handle_read(TaggedBytesMut { now, transport, message: message_bytes }).ok()?;
        Some((message.class == Class::Success).then_some(message.transaction))
    }

    /// A pair has just proved itself: nominate it now and not at the next check, up to 50 ms later, which would become
    /// part of the set-up time that we measure.
    pub fn hurry_nomination(&mut self, now: Instant) {
        if self.agent.role() && !self.hurried && self.agent.get_selected_candidate_pair().is_none() {
            self.hurried = true;
            let turn = self.check_at.max(now);
            self.check(turn);
        }
    }

    /// When checks are due while no pair is selected; `None` without candidates.
    pub fn next_check(&self) -> Option<Instant> {
        (!self.agent.get_remote_candidates().is_empty()).then_some(self.check_at)
    }

    /// One round of checks, if it is due.
    pub fn check_if_due(&mut self, now: Instant) {
        if self.next_check().is_some_and(|t| t <= now) {
            self.check(now);
        }
    }

    /// One round of checks; of a connected agent, one request. The agent only acts when it believes that its interval
    /// is over.
    pub fn check(&mut self, now: Instant) {
        // Its only error is mDNS's, which is off.
        if self.agent.handle_timeout(now).is_ok() {
            self.check_at = now + CHECK_INTERVAL;
        }
    }

    /// Hands over what there is to say, then what there is to send, with the id of each request.
    pub fn drain(
        &mut self,
        mut said: impl FnMut(Said),
        mut send: impl FnMut(SocketAddr, BytesMut, Option<TransactionId>),
    ) {
        let mut gave_way = false;
        while let Some(tagged) = self.agent.poll_event() {
            match tagged.event {
                AgentEvent::SelectedCandidatePairChange(_, remote) => said(Said::Selected(remote.addr())),
                AgentEvent::RoleChange(_) => {
                    gave_way = true;
                    said(Said::RoleConflict);
                }
                _ => {}
            }
        }
        while let Some(m) = self.agent.poll_write() {
            let request = match Message::parse(&m.message).map(|m| (m.class, m.transaction)) {
                Some((Class::Request, transaction)) => Some(transaction),
                // The agent sends 487 even when it gives way; then both sides would turn (RFC 8445 7.3.1.1).
                Some((Class::Error, _)) if gave_way => continue,
                _ => None,
            };
            send(m.transport.peer_addr, m.message, request);
        }
    }

    pub fn close(&mut self) {
        // Its only error is mDNS's, which is off.
        let _ = self.agent.close();
    }
}

fn candidate(place: Place) -> Result<Candidate, TransportError> {
    let local = place.address();
    let failed = |why: String| TransportError::Local { local, why };
    if local.ip().is_unspecified() || local.port() == 0 {
        return Err(failed("the address is not one of a bound socket".into()));
    }
    let base_config = CandidateConfig {
        network: "udp".into(),
        address: local.ip().to_string(),
        port: local.port(),
        component: 1,
        ..CandidateConfig::default()
    };
    let made = match place {
        Place::Host(_) => CandidateHostConfig { base_config, ..CandidateHostConfig::default() }.new_candidate_host(),
        Place::Relayed { base, .. } => {
            let config = CandidateRelayConfig {
                base_config,
                rel_addr: base.ip().to_string(),
                rel_port: base.port(),
                ..CandidateRelayConfig::default()
            };
            config.new_candidate_relay()
        }
    };
    made.map_err(|e| failed(e.to_string()))
}

fn add_local(agent: &mut Agent, place: Place) -> Result<(), TransportError> {
    let local = place.address();
    let failed = |why: String| TransportError::Local { local, why };
    match agent.add_local_candidate(candidate(place)?) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed("the ICE agent does not take the address".into())),
        Err(e) => Err(failed(e.to_string())),
    }
}
