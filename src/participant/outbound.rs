//! What a participant sends: its tracks, and the path of a packet from clip to socket.

use super::slot::Slot;
use super::{Event, Participant, TalkSpec, World};
use crate::client::{Dtx, Mute, Policy, Red, policy};
use crate::measure::FlowCounters;
use crate::media::clip::Clip;
use crate::media::rtp::{HeaderTemplate, abs_send_time};
use crate::media::send::{MediaSender, Silence, Voice, WhileMuted};
use crate::media::srtp::TAG_MAX;
use crate::media::talk::{Floor, Mutes};
use crate::prefetch::prefetch;
use crate::sdp::{AgreedSend, LocalTrack, layer_below, rid};
use crate::types::{Codec, Kind, LegId, Simulcast};
use rand::RngExt as _;
use rand_chacha::ChaCha12Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sent packets whose header extensions are remembered, so that a repetition is the same packet to the byte.
const SENT_RING: usize = 512;

/// Added to the round trip within which a packet is not sent again; libwebrtc's.
const REPEAT_INTERVAL_MIN: Duration = Duration::from_millis(5);
/// A round trip is what the server reports; nonsense must not end all repetition.
const REPEAT_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Packets between two reports; a report comes every few seconds.
const REPORTED_MAX: i64 = 1 << 20;

/// One outgoing track.
pub(super) struct TxTrack {
    pub kind: Kind,
    pub codec: Codec,
    pub ssrc: u32,
    /// Its number in the stamps: 0 audio, 1 video, or from 1 on video layers, the lowest first.
    stream: u8,
    pub layer: Option<Layer>,
    pub sender: MediaSender,
    /// The transport that it was offered on.
    pub slot: Option<u8>,
    leg: LegId,
    rtx_ssrc: u32,
    room_hint: usize,
    wire: Option<Wire>,
    rtx_seq: u16,
    rtx_roc: u32,
    /// Rollover counter of the first packet on this transport: its receiver begins at 0 (RFC 3711 3.3.1).
    roc_from: Option<u32>,
    /// Packets sent on transports before this one.
    sent_before: i64,
    count: FlowCounters,
    taken: FlowCounters,
    /// Until the track is agreed upon.
    pub talk: Option<Box<TalkSpec>>,
    /// Highest sequence number and packets lost, by the server's last report.
    reported: Option<(u32, i32)>,
}

/// One of several encodings of the same video (simulcast, RFC 8853).
#[derive(Clone, Copy)]
pub(super) struct Layer {
    /// From the lowest, 0.
    pub index: u8,
    pub layers: u8,
    /// SSRC of the highest one, under which the track is negotiated.
    pub highest: u32,
    pub simulcast: Simulcast,
}

/// What the negotiation said about an outgoing track.
struct Wire {
    header: HeaderTemplate,
    rtx_header: Option<HeaderTemplate>,
    twcc: bool,
    /// Recent packets, by RTP sequence number.
    sent: Box<[Sent; SENT_RING]>,
}

/// Header extensions of a packet as it was sent, and when it was last repeated.
#[derive(Clone, Copy, Default)]
struct Sent {
    seq: u16,
    twcc: u16,
    /// When it was sent again, ms modulo 2^16; 0: never.
    again: u16,
    abs: u32,
    level: u8,
}

impl TxTrack {
    pub fn new(stream: u8, clip: Arc<Clip>, run: u32, leg: LegId, rng: &mut ChaCha12Rng, now: Instant) -> TxTrack {
        let codec = clip.codec();
        let sender = MediaSender::new(clip, run, leg.0, stream, rng.random(), now);
        // SSRC 0 means "none" to some servers.
        let mut ssrc = || rng.random::<u32>().max(1);
        TxTrack {
            kind: codec.kind(),
            codec,
            ssrc: ssrc(),
            stream,
            layer: None,
            sender,
            slot: None,
            leg,
            rtx_ssrc: ssrc(),
            room_hint: 0,
            wire: None,
            rtx_seq: (ssrc() >> 17) as u16,
            rtx_roc: 0,
            roc_from: None,
            sent_before: 0,
            count: FlowCounters::default(),
            taken: FlowCounters::default(),
            talk: None,
            reported: None,
        }
    }

    /// What the server reports of this track (RFC 3550 6.4.1): from one report to the next, so that lost reports cost
    /// nothing. The first one is about all that was sent until then, but for what is under way. Gives packets expected
    /// since the report before, and of these, lost.
    pub fn on_report(&mut self, highest: u32, lost: i32) -> Option<(i64, i64)> {
        let (highest_before, lost_before) = match self.reported.replace((highest, lost)) {
            Some(before) => before,
            None => (highest.wrapping_sub((self.count.sent - self.sent_before).min(REPORTED_MAX) as u32), 0),
        };
        let expected = i64::from(highest.wrapping_sub(highest_before) as i32);
        // A server that begins to count anew.
        if !(0..=REPORTED_MAX).contains(&expected) {
            return None;
        }
        let lost = i64::from(lost) - i64::from(lost_before);
        self.count.reported_expected += expected;
        self.count.reported_lost += lost;
        Some((expected, lost))
    }

    /// For the negotiation; of layers, the highest stands for all.
    pub fn local(&self) -> Option<LocalTrack> {
        let rtx_ssrc = (self.kind == Kind::Video).then_some(self.rtx_ssrc);
        let layers = self.layer.map_or(1, |l| l.layers);
        let stands = self.layer.is_none_or(|l| l.highest == self.ssrc);
        let simulcast = self.layer.map_or_else(Simulcast::default, |l| l.simulcast);
        stands.then_some(LocalTrack { encoding_codec: self.codec, ssrc: self.ssrc, rtx_ssrc, layers, simulcast })
    }

    /// SSRC and retransmissions' SSRC.
    pub fn ssrcs(&self) -> (u32, u32) {
        (self.ssrc, self.rtx_ssrc)
    }

    /// SSRCs that it has on a transport where this was agreed: its own and, where lost packets are sent again as
    /// retransmissions, theirs.
    pub fn agreed_ssrcs(&self, agreed: &[AgreedSend]) -> (u32, Option<u32>) {
        let with_rtx = agreed.iter().any(|a| a.ssrc == self.negotiated_ssrc() && a.rtx.is_some());
        (self.ssrc, with_rtx.then_some(self.rtx_ssrc))
    }

    /// One layer of a video whose highest one has these SSRCs.
    pub fn set_layer(&mut self, layer: Layer, (highest, highest_rtx): (u32, u32)) {
        self.layer = Some(layer);
        if layer.simulcast == Simulcast::SsrcGroup {
            let below = u32::from(layer.layers - 1 - layer.index);
            let (ssrc, rtx) = layer_below(highest, Some(highest_rtx), below);
            (self.ssrc, self.rtx_ssrc) = (ssrc, rtx.unwrap_or(self.rtx_ssrc));
        }
    }

    /// The SSRC that its m-line was negotiated under.
    fn negotiated_ssrc(&self) -> u32 {
        self.layer.map_or(self.ssrc, |l| l.highest)
    }

    /// The layer's rid, where both sides have it.
    fn rid(&self, a: &AgreedSend) -> Option<&'static str> {
        let layer = self.layer.filter(|l| l.simulcast == Simulcast::Rid)?;
        let rid = rid(layer.index);
        a.rids.iter().any(|r| r == rid).then_some(rid)
    }

    /// Whether the other side takes it: where it takes no layers, it gets the highest, as the first one offered.
    fn is_taken(&self, a: &AgreedSend) -> bool {
        let Some(layer) = self.layer else { return true };
        a.grouped || self.rid(a).is_some() || (a.rids.is_empty() && layer.highest == self.ssrc)
    }

    pub fn take_counters(&mut self) -> FlowCounters {
        if let Some(s) = self.sender.stepped() {
            let frame_us = self.sender.clip().frame_time().as_micros() as u64;
            let ms = |frames: u64| (frames * frame_us / 1000) as i64;
            let c = &mut self.count;
            (c.steps_down, c.steps_up) = (s.down as i64, s.up as i64);
            (c.adaptive_ms, c.below_ms) = (ms(s.frames), ms(s.frames_below));
        }
        let d = self.count - self.taken;
        self.taken = self.count;
        d
    }

    pub fn count_mut(&mut self) -> &mut FlowCounters {
        &mut self.count
    }

    /// Is offered on this transport.
    pub fn send_on(&mut self, slot: u8) {
        match self.slot {
            Some(before) if before != slot => self.move_to(slot),
            _ => self.slot = Some(slot),
        }
    }

    /// Goes on on another transport. Its numbers run on; all that hangs on the negotiation begins anew.
    pub fn move_to(&mut self, slot: u8) {
        self.slot = Some(slot);
        self.wire = None;
        (self.rtx_roc, self.roc_from) = (0, None);
        (self.reported, self.sent_before) = (None, self.count.sent);
    }

    /// `for_good`: the leg leaves. Otherwise nobody wants the track at the moment.
    pub fn stop(&mut self, w: &mut World<'_>, for_good: bool) {
        if self.sender.is_running() || for_good {
            self.sender.stop();
            if let Some(l) = w.room.ledger_mut(&mut self.room_hint, self.leg, self.stream) {
                if for_good { l.stop(w.now_ns) } else { l.pause(w.now_ns) }
            }
        }
    }

    fn agree(&mut self, a: &AgreedSend, policy: &Policy, now: Instant) {
        if let Some(talk) = self.talk.take() {
            self.speak(a, policy, &talk, now);
        }
        let red = a.red.filter(|r| match policy.red {
            Red::NotOffered => false,
            Red::WhenPreferred => r.preferred,
            Red::WhenNegotiated => true,
        });
        if red.is_some() {
            self.sender.add_redundancy(a.pt);
        }
        let id = |i: u8| (i != 0).then_some(i);
        let mid = id(a.ext.mid).map(|i| (i, a.mid.as_str()));
        let (twcc, abs) = (id(a.ext.twcc).filter(|_| a.twcc), id(a.ext.abs_send_time));
        let level = id(a.ext.audio_level);
        // RFC 8852: which layer a packet is, and which one a retransmission repairs.
        let rid = self.rid(a);
        let of = |ext: u8| id(ext).zip(rid);
        self.wire = Some(Wire {
            header: HeaderTemplate::new(red.map_or(a.pt, |r| r.pt), self.ssrc, mid, of(a.ext.rid), twcc, abs, level),
            rtx_header: a
                .rtx
                .map(|(pt, _)| HeaderTemplate::new(pt, self.rtx_ssrc, mid, of(a.ext.repaired_rid), twcc, abs, None)),
            twcc: twcc.is_some(),
            sent: Box::new([Sent::default(); SENT_RING]),
        });
    }

    /// Where there is more to it than the clip: a conversation, mutes, DTX.
    fn speak(&mut self, a: &AgreedSend, policy: &Policy, talk: &TalkSpec, now: Instant) {
        let suppressed = match policy.dtx {
            Dtx::Never => false,
            Dtx::WhenAsked => a.dtx_asked,
            Dtx::Always => true,
        };
        if !suppressed && talk.floor.is_none() && talk.mutes.is_none() {
            return;
        }
        let silence = if suppressed { Silence::Suppressed } else { Silence::Coded };
        let while_muted = match policy.mute {
            Mute::Silence => WhileMuted::Silence,
            Mute::Nothing => WhileMuted::Nothing,
        };
        let mut voice = Voice::new(silence, while_muted);
        voice.floor = talk.floor.map(|(seed, seats, seat)| (Floor::new(seed, seats), seat));
        let ns = |d: Duration| d.as_nanos() as u64;
        voice.mutes = talk.mutes.map(|(seed, without, with)| Mutes::new(seed, ns(without), ns(with)));
        self.sender.speak(voice, talk.epoch.unwrap_or(now));
    }
}

impl Participant {
    /// Second of three steps before media is sent: asks for the tracks and what they send on.
    #[inline]
    pub fn prefetch_tracks(&self) {
        prefetch(&self.tracks[..], usize::MAX);
        self.slots.iter().flatten().for_each(|s| {
            prefetch(&s.srtp, 1);
            prefetch(&s.wake_at, 1);
            prefetch(&s.nack_at, 1);
            s.transport.prefetch();
        });
    }

    /// Third step: asks for what the tracks that are due before `until` point to.
    #[inline]
    pub fn prefetch_due(&self, until: Instant) {
        for t in &self.tracks {
            if t.sender.next_due().is_none_or(|d| d > until) {
                continue;
            }
            t.sender.prefetch();
            if let Some(wire) = &t.wire {
                prefetch(&wire.sent[usize::from(t.sender.seq().wrapping_add(1)) % SENT_RING], 1);
            }
            if let Some(Some(s)) = t.slot.and_then(|s| self.slots.get(usize::from(s)))
                && let Some(srtp) = s.srtp.as_deref()
            {
                prefetch(&srtp.rtp_out, usize::MAX);
            }
        }
    }

    /// Tracks begin as soon as their transport has keys and the other side wants them.
    pub(super) fn start_tracks(&mut self, w: &mut World<'_>) {
        if self.quiet {
            return;
        }
        for (i, t) in self.tracks.iter_mut().enumerate() {
            let Some(s) = t.slot.and_then(|s| self.slots.get_mut(usize::from(s))).and_then(|s| s.as_deref_mut()) else {
                continue;
            };
            let Some(a) = s.agreed.sends.iter().find(|a| a.ssrc == t.negotiated_ssrc()) else { continue };
            let flows = a.active && t.is_taken(a) && s.srtp.is_some() && s.transport.may_send();
            if flows && t.wire.is_none() {
                if t.layer.is_some() && a.rids.is_empty() && !a.grouped {
                    let text = "the server takes no simulcast: one layer is sent, the highest".to_owned();
                    w.events.push(Event::Note { code: "simulcast_refused", text });
                }
                t.agree(a, policy(self.common.client), w.now);
            }
            if flows && !t.sender.is_running() {
                t.sender.start(w.now);
                s.sent |= 1 << i;
                if let Some(l) = w.room.ledger_mut(&mut t.room_hint, t.leg, t.stream) {
                    l.resume(w.now_ns);
                }
            } else if !flows && t.sender.is_running() {
                t.stop(w, false);
            }
        }
        self.look_ahead();
    }

    /// Keeps when the next media packet is due: asked after every received packet, changed by sent ones only.
    pub(super) fn look_ahead(&mut self) {
        self.media_at = self.tracks.iter().filter_map(|t| t.sender.next_due()).min();
    }

    /// Sends every media packet that is due.
    pub(super) fn send_due(&mut self, w: &mut World<'_>) {
        if self.media_at.is_none_or(|t| t > w.now) {
            return;
        }
        self.send_each_due(w);
        self.look_ahead();
    }

    fn send_each_due(&mut self, w: &mut World<'_>) {
        for t in &mut self.tracks {
            if t.sender.next_due().is_none_or(|d| d > w.now) {
                continue;
            }
            let Some(slot) = t.slot else { continue };
            let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { continue };
            let (Some(srtp), Some(wire), Some(to)) = (&s.srtp, &mut t.wire, s.transport.remote()) else { continue };
            let h = wire.header.len();
            loop {
                let now_ns = (w.clock)();
                let room = w.buf.len() - TAG_MAX;
                let Some(o) = t.sender.next(w.now, now_ns, &mut w.buf[h..room]) else { break };
                let late = w.now.saturating_duration_since(o.due);
                w.lateness.record_us(late.as_micros() as u64);
                let (twcc, abs) = (s.twcc_next, abs_send_time(now_ns));
                if wire.twcc {
                    s.twcc_next = s.twcc_next.wrapping_add(1);
                }
                wire.sent[usize::from(o.seq) % SENT_RING] =
                    Sent { seq: o.seq, twcc, again: 0, abs, level: o.audio_level };
                wire.header.write(w.buf, o.marker, o.seq, o.timestamp, twcc, abs, o.audio_level);
                let roc = o.roc.wrapping_sub(*t.roc_from.get_or_insert(o.roc));
                let Ok(n) = srtp.rtp_out.seal(w.buf, h + o.len, h, roc) else { break };
                t.count.sent += 1;
                t.count.sent_bytes += (h + o.len) as i64;
                if let Some(l) = w.room.ledger_mut(&mut t.room_hint, t.leg, t.stream) {
                    l.on_sent(now_ns, t.sender.packets_sent());
                }
                if wire.twcc
                    && t.kind == Kind::Video
                    && let Some(a) = self.adaptation.as_deref_mut()
                {
                    a.on_sent(now_ns, slot, twcc, n);
                }
                w.sink.send(slot, to, &w.buf[..n]);
            }
        }
    }

    /// Answers a NACK: by RTX where negotiated, else by the identical packet. What was sent again within the last round
    /// trip is on its way still, however often it is asked for (so does libwebrtc).
    pub(super) fn resend(&mut self, w: &mut World<'_>, media_ssrc: u32, seq: u16) {
        let Some(t) = self.tracks.iter_mut().find(|t| t.ssrc == media_ssrc) else { return };
        let Some(slot) = t.slot else { return };
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        let Slot { srtp: Some(srtp), transport, twcc_next, rtt, .. } = s else { return };
        let (Some(wire), Some(to)) = (&mut t.wire, transport.remote()) else { return };
        let sent = wire.sent[usize::from(seq) % SENT_RING];
        if sent.seq != seq {
            return;
        }
        let now_ms = (w.now_ns / 1_000_000) as u16;
        let interval = (REPEAT_INTERVAL_MIN + rtt.or(transport.rtt()).unwrap_or_default()).min(REPEAT_INTERVAL_MAX);
        if sent.again != 0 && u128::from(now_ms.wrapping_sub(sent.again)) < interval.as_millis() {
            return;
        }
        let n = if let Some(header) = &wire.rtx_header {
            let h = header.len();
            let room = w.buf.len() - TAG_MAX;
            let Some(r) = t.sender.repeat(w.now, seq, &mut w.buf[h + 2..room]) else { return };
            let now_twcc = *twcc_next;
            if wire.twcc {
                *twcc_next = twcc_next.wrapping_add(1);
            }
            header.write(w.buf, r.marker, t.rtx_seq, r.timestamp, now_twcc, abs_send_time((w.clock)()), 0);
            // RFC 4588 4: the original sequence number leads the payload.
            w.buf[h..h + 2].copy_from_slice(&seq.to_be_bytes());
            let sealed = srtp.rtp_out.seal(w.buf, h + 2 + r.len, h, t.rtx_roc);
            if wire.twcc
                && let (Some(a), Ok(n)) = (self.adaptation.as_deref_mut(), sealed)
            {
                a.on_sent((w.clock)(), slot, now_twcc, n);
            }
            t.rtx_seq = t.rtx_seq.wrapping_add(1);
            t.rtx_roc += u32::from(t.rtx_seq == 0);
            sealed
        } else {
            let h = wire.header.len();
            let room = w.buf.len() - TAG_MAX;
            let Some(r) = t.sender.repeat(w.now, seq, &mut w.buf[h..room]) else { return };
            wire.header.write(w.buf, r.marker, r.seq, r.timestamp, sent.twcc, sent.abs, sent.level);
            srtp.rtp_out.seal(w.buf, h + r.len, h, r.roc.wrapping_sub(t.roc_from.unwrap_or_default()))
        };
        let Ok(n) = n else { return };
        wire.sent[usize::from(seq) % SENT_RING].again = now_ms.max(1);
        t.count.retransmitted += 1;
        w.sink.send(slot, to, &w.buf[..n]);
    }
}
