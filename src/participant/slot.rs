//! One transport of a participant with all that hangs on it: what was agreed, SRTP, incoming streams.

use super::{Event, World};
use crate::measure::{Flow, FlowCounters};
use crate::media::receive::RxStream;
use crate::media::rtcp::TwccRecorder;
use crate::media::srtp::{RtcpOpener, RtcpSealer, RtpOpener, RtpSealer, RxIndex};
use crate::prefetch::prefetch;
use crate::sdp::{Agreed, AgreedReceive, Negotiation};
use crate::signaling::TransportState;
use crate::transport::{self, AllowList, Transport};
#[cfg(test)]
use crate::types::Suite;
use crate::types::{Codec, Kind, M_LINES_MAX};
use std::time::{Duration, Instant};

/// SSRCs a transport keeps state for: media and retransmissions of each m-line. A server that invents more is counted as
/// malformed.
const SSRCS_MAX: usize = 2 * M_LINES_MAX;

pub(super) struct Slot {
    pub transport: Transport,
    pub negotiation: Negotiation,
    pub agreed: Agreed,
    /// We made the last offer.
    pub offerer: bool,
    pub role: Option<transport::Setup>,
    pub srtp: Option<Box<Srtp>>,
    pub incoming: Vec<Incoming>,
    pub by_ssrc: BySsrc,
    /// SSRC of our own RTCP where this transport sends no media.
    pub own_ssrc: u32,
    pub wake_at: Option<Instant>,
    pub nack_at: Option<Instant>,
    pub twcc: Option<Box<TwccRecorder>>,
    pub twcc_ext: u8,
    /// Transport-wide sequence number of what we send.
    pub twcc_next: u16,
    /// Which of the participant's tracks have been sent here, a bit each.
    pub sent: u8,
    /// Counters that belong to no stream, by kind.
    pub loose: [FlowCounters; 2],
    pub rtt: Option<Duration>,
    /// For tests that listen in: our master key and the peer's.
    #[cfg(test)]
    pub keys: Option<(Suite, [transport::MasterKey; 2])>,
}

pub(super) struct Srtp {
    pub rtp_out: RtpSealer,
    pub rtcp_out: RtcpSealer,
    pub rtp_in: RtpOpener,
    pub rtcp_in: RtcpOpener,
}

/// Where each SSRC is among the incoming ones: sorted, so that its memory is one run and can be asked for ahead.
#[derive(Default)]
pub(super) struct BySsrc(Vec<(u32, u16)>);

impl BySsrc {
    #[inline]
    pub fn get(&self, ssrc: u32) -> Option<u16> {
        self.0.binary_search_by_key(&ssrc, |e| e.0).ok().map(|i| self.0[i].1)
    }

    fn insert(&mut self, ssrc: u32, n: u16) {
        match self.0.binary_search_by_key(&ssrc, |e| e.0) {
            Ok(i) => self.0[i].1 = n,
            Err(i) => self.0.insert(i, (ssrc, n)),
        }
    }

    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.0[..], 4);
    }
}

/// One incoming SSRC. Small: those of a slot lie side by side, and lead on to what a packet needs.
pub(super) struct Incoming {
    pub ssrc: u32,
    pub kind: Kind,
    pub nack: bool,
    pub key_ask: Option<KeyAsk>,
    pub role: Role,
}

/// How the other side wants to be asked for a key frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyAsk {
    /// RFC 4585 6.3.1.
    Pli,
    /// RFC 5104 4.3.1.
    Fir,
}

pub(super) enum Role {
    Media(Box<Media>),
    Rtx(Box<Rtx>),
}

/// Retransmissions (RFC 4588) of this main SSRC, once known.
pub(super) struct Rtx {
    index: RxIndex,
    main: Option<u32>,
    mid: Option<Box<str>>,
}

impl Incoming {
    pub fn index(&self) -> &RxIndex {
        match &self.role {
            Role::Media(m) => &m.index,
            Role::Rtx(r) => &r.index,
        }
    }

    pub fn index_mut(&mut self) -> &mut RxIndex {
        match &mut self.role {
            Role::Media(m) => &mut m.index,
            Role::Rtx(r) => &mut r.index,
        }
    }
}

pub(super) struct Media {
    pub index: RxIndex,
    pub stream: RxStream,
    pub codec: Codec,
    /// Payload type of redundant packets (RFC 2198) around the codec; 255: none.
    pub red_pt: u8,
    pub mid: Option<Box<str>>,
    pub last_ns: u64,
    /// Where its source was last time among the participant's.
    pub source_hint: usize,
    pub key_asked: Option<Instant>,
}

impl Media {
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.index, 3);
        prefetch(&self.codec, 1);
        prefetch(&self.last_ns, 1);
        prefetch(&self.source_hint, 1);
        self.stream.prefetch();
    }
}

impl Slot {
    pub fn new(transport: Transport, negotiation: Negotiation, own_ssrc: u32) -> Slot {
        Slot {
            transport,
            negotiation,
            agreed: Agreed::default(),
            offerer: false,
            role: None,
            srtp: None,
            by_ssrc: BySsrc::default(),
            incoming: Vec::new(),
            own_ssrc,
            wake_at: None,
            nack_at: None,
            twcc: None,
            twcc_ext: 0,
            twcc_next: 1,
            sent: 0,
            loose: Default::default(),
            rtt: None,
            #[cfg(test)]
            keys: None,
        }
    }

    /// A negotiation was completed.
    pub fn agree(&mut self, agreed: Agreed, now_ns: u64) {
        self.twcc_ext = agreed.receives.iter().filter(|r| r.twcc).map(|r| r.ext.twcc).find(|id| *id != 0).unwrap_or(0);
        if self.twcc_ext != 0 && self.twcc.is_none() {
            self.twcc = Some(Box::default());
        }
        // Streams of m-lines that are off, or that carry other SSRCs now, must leave reports and NACKs.
        let live = |i: &Incoming| {
            let Role::Media(m) = &i.role else { return true };
            agreed.receives.iter().any(|r| {
                r.active
                    && (r.ssrcs.contains(&i.ssrc) || (r.ssrcs.is_empty() && m.mid.as_deref() == Some(r.mid.as_str())))
            })
        };
        let mut gone = Vec::new();
        for (n, i) in self.incoming.iter_mut().enumerate() {
            if !live(i) {
                gone.push(n);
            }
        }
        for n in gone.into_iter().rev() {
            let mut i = self.incoming.swap_remove(n);
            if let Role::Media(m) = &mut i.role {
                m.stream.close(now_ns);
                self.loose[i.kind.index()] += &m.stream.take_counters(now_ns);
            }
        }
        self.by_ssrc = BySsrc::default();
        for (n, i) in self.incoming.iter().enumerate() {
            self.by_ssrc.insert(i.ssrc, n as u16);
        }
        self.agreed = agreed;
    }

    /// The m-line of an SSRC: by the SDP's SSRCs, by the MID extension, or because there is only one.
    pub fn section(&self, ssrc: u32, pt: u8, packet: &[u8], header: &crate::media::rtp::Header) -> Option<usize> {
        let r = &self.agreed.receives;
        let named = r.iter().position(|r| r.ssrcs.contains(&ssrc) || r.rtx_ssrcs.iter().any(|x| x.1 == ssrc));
        named
            .or_else(|| {
                r.iter().position(|r| {
                    r.ext.mid != 0 && header.extension(packet, r.ext.mid).is_some_and(|m| m == r.mid.as_bytes())
                })
            })
            .or_else(|| {
                let mut fit = r.iter().enumerate().filter(|(_, r)| r.active && has_pt(r, pt));
                let first = fit.next()?.0;
                fit.next().is_none().then_some(first)
            })
    }

    /// State for an SSRC whose first packet verified.
    pub fn bind(&mut self, ssrc: u32, pt: u8, packet: &[u8], header: &crate::media::rtp::Header) -> Option<u16> {
        if self.incoming.len() >= SSRCS_MAX {
            return None;
        }
        let r = &self.agreed.receives[self.section(ssrc, pt, packet, header)?];
        let mid = Some(r.mid.clone().into_boxed_str());
        let red = r.red.iter().find(|red| red.0 == pt || red.1 == pt);
        let inner = red.map_or(pt, |red| red.1);
        let role = if let Some((_, codec)) = r.codecs.iter().find(|c| c.0 == inner) {
            let stream = RxStream::new(r.kind, *codec, ssrc, codec.clock_rate());
            Role::Media(Box::new(Media {
                index: RxIndex::default(),
                stream: if r.rtx.is_empty() { stream } else { stream.with_rtx() },
                codec: *codec,
                red_pt: red.map_or(u8::MAX, |red| red.0),
                mid,
                last_ns: 0,
                source_hint: 0,
                key_asked: None,
            }))
        } else if r.rtx.iter().any(|x| x.0 == pt) {
            let main = r.rtx_ssrcs.iter().find(|x| x.1 == ssrc).map(|x| x.0);
            Role::Rtx(Box::new(Rtx { index: RxIndex::default(), main, mid }))
        } else {
            return None;
        };
        let n = self.incoming.len() as u16;
        let key_ask = match (r.pli, r.fir) {
            (true, _) => Some(KeyAsk::Pli),
            (false, true) => Some(KeyAsk::Fir),
            (false, false) => None,
        };
        self.incoming.push(Incoming { ssrc, kind: r.kind, nack: r.nack, key_ask, role });
        self.by_ssrc.insert(ssrc, n);
        Some(n)
    }

    /// The incoming media stream that an RTX packet belongs to.
    pub fn main_of(&self, rtx: u16) -> Option<u16> {
        let Role::Rtx(rtx) = &self.incoming[usize::from(rtx)].role else { return None };
        if let Some(n) = rtx.main.and_then(|m| self.by_ssrc.get(m)) {
            return Some(n);
        }
        let n = self.incoming.iter().position(|i| matches!(&i.role, Role::Media(m) if m.mid == rtx.mid))?;
        Some(n as u16)
    }

    /// Passes a transport event on; true when keys have just come.
    pub fn on_event(&mut self, w: &mut World<'_>, slot: u8, e: transport::Event) -> bool {
        use transport::Event as E;
        let state = match e {
            E::IceConnected(remote) => {
                w.events.push(Event::Connect { slot, peer: remote });
                TransportState::IceConnected { remote }
            }
            E::Connected { suite, certificate, ours, theirs, .. } => {
                self.srtp = Some(Box::new(Srtp {
                    rtp_out: RtpSealer::new(suite, &ours.key, &ours.salt),
                    rtcp_out: RtcpSealer::new(suite, &ours.key, &ours.salt),
                    rtp_in: RtpOpener::new(suite, &theirs.key, &theirs.salt),
                    rtcp_in: RtcpOpener::new(suite, &theirs.key, &theirs.salt),
                }));
                #[cfg(test)]
                (self.keys = Some((suite, [ours.clone(), theirs.clone()])));
                let [a, b, c, d, e, f, g, h, ..] = certificate;
                let certificate = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                w.events.push(Event::State {
                    slot,
                    state: TransportState::Connected { suite, certificate },
                    at: w.now,
                });
                return true;
            }
            E::Disconnected => TransportState::Disconnected,
            E::PeerClosed => TransportState::PeerClosed,
            E::ConsentExpired => TransportState::ConsentExpired,
            E::Failed(why) => TransportState::Failed { why: why.to_string() },
            E::RoleConflict => {
                let text = "both sides had the same ICE role; settled by tie-breaker".to_owned();
                w.events.push(Event::Note { code: "ice_role_conflict", text });
                return false;
            }
            E::CandidateRefused(a) => {
                let line = AllowList::suggestion(&[a]);
                let text = format!(
                    "candidate {a} is outside the allow-list, no packet went there; the target file has no {line}"
                );
                w.events.push(Event::Note { code: "candidate_refused", text });
                return false;
            }
        };
        w.events.push(Event::State { slot, state, at: w.now });
        false
    }

    pub fn take_counters(&mut self, kind: Kind, at_ns: u64) -> FlowCounters {
        let mut c = std::mem::take(&mut self.loose[kind.index()]);
        for i in self.incoming.iter_mut().filter(|i| i.kind == kind) {
            if let Role::Media(m) = &mut i.role {
                c += &m.stream.take_counters(at_ns);
            }
        }
        c
    }

    /// One sample of each flowing stream's jitter (RFC 3550 6.4.1 keeps a running estimate).
    pub fn sample_jitter(&mut self, now_ns: u64, flows: &mut [Flow; 2]) {
        for i in &mut self.incoming {
            let Role::Media(m) = &mut i.role else { continue };
            if now_ns.saturating_sub(m.last_ns) > 1_000_000_000 {
                continue;
            }
            let f = &mut flows[i.kind.index()];
            f.jitter.record_us(m.stream.jitter_us());
            if let Some(us) = m.stream.frame_jitter_us() {
                f.frame_jitter.record_us(us);
            }
        }
    }
}

fn has_pt(r: &AgreedReceive, pt: u8) -> bool {
    [&r.rtx, &r.red].into_iter().flatten().any(|x| x.0 == pt) || r.codecs.iter().any(|c| c.0 == pt)
}
