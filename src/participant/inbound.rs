//! The path of an incoming packet: SRTP, stream statistics, and the truth by stamps.

use super::room::{Member, Room};
use super::slot::{KeyAsk, Media, Role, Slot};
use super::{Event, Participant, World};
use crate::measure::{Flow, FlowCounters, Ledger, emodel};
use crate::media::receive::{Handover, Owner, Packet, Source, StampSeen, Timing};
use crate::media::srtp::SrtpError;
use crate::media::stamp::{self, Found};
use crate::media::{red, rtp};
use crate::types::{Codec, Kind, LegId};
use std::time::Duration;

/// What was sent within this before a leg's end may still have been under way; what is older counts.
const IN_FLIGHT_NS: u64 = 300_000_000;

/// After so long without a packet it is asked whether the sender has stopped: no freeze is shorter (150 ms and more).
const PAUSE_NS: u64 = 100_000_000;

/// One sender as this participant sees it, by stamps; independent of SSRCs.
pub(super) struct SourceEntry {
    pub owner: Owner,
    pub kind: Kind,
    pub source: Source,
    /// Latencies count from here: the later of both planned starts.
    planned_ns: u64,
    first_rtp_ns: Option<u64>,
    first_frame_ns: Option<u64>,
    told: bool,
    /// The server has said that it does not forward it.
    paused: bool,
    /// Both ends are connected since then, and it sent until then, as far as is known; ns of CLOCK_REALTIME.
    subscribed_ns: u64,
    until_ns: u64,
    /// Scores cover ten seconds each.
    seconds: u8,
    /// What its sender had sent when it was looked at last.
    sent: u64,
}

/// Seconds of a flow in one score.
const SCORE_SECONDS: u8 = 10;

impl Participant {
    /// SRTP or SRTCP.
    pub(super) fn on_media(&mut self, w: &mut World<'_>, slot: u8, recv_ns: u64, data: &mut [u8]) {
        // Before the first recording, so that no recv time of zero gets in.
        let recv_ns = if recv_ns == 0 { w.now_ns } else { recv_ns };
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        let Some(srtp) = &mut s.srtp else { return };
        if rtp::is_rtcp(data) {
            match srtp.rtcp_in.open(data) {
                Ok(n) => self.on_rtcp(w, slot, recv_ns, &data[..n]),
                Err(SrtpError::Replayed) => s.loose[1].replayed += 1,
                Err(_) => s.loose[1].auth_failed += 1,
            }
            return;
        }
        let Some(h) = rtp::parse(data) else {
            s.loose[1].malformed += 1;
            return;
        };
        let known = s.by_ssrc.get(h.ssrc);
        let (index, replay) = match known {
            Some(n) => {
                let rx = s.incoming[usize::from(n)].index();
                let index = rx.estimate(h.seq);
                (index, rx.is_replay(index))
            }
            None => (u64::from(h.seq), false),
        };
        let Ok(len) = srtp.rtp_in.open(data, h.header_len, index) else {
            let kind = known.map_or(Kind::Video, |n| s.incoming[usize::from(n)].kind);
            s.loose[kind.index()].auth_failed += 1;
            return;
        };
        let plain = &data[..len];
        let Some(n) = known.or_else(|| s.bind(h.ssrc, h.pt, plain, &h)) else {
            s.loose[1].malformed += 1;
            return;
        };
        if replay {
            self.on_replay(w, slot, n, &h, plain, recv_ns);
            return;
        }
        s.incoming[usize::from(n)].index_mut().commit(index);
        if let (Some(t), Some(seq)) = (&mut s.twcc, (s.twcc_ext != 0).then(|| h.extension(plain, s.twcc_ext)).flatten())
            && seq.len() == 2
        {
            t.record(u16::from_be_bytes([seq[0], seq[1]]), (recv_ns / 1000) as i64);
        }
        // An empty payload is a probe of padding: no media, but it takes a sequence number, which must not count as lost.
        let payload = h.payload(plain).unwrap_or_default();
        match &s.incoming[usize::from(n)].role {
            Role::Media(m) if m.red_pt == h.pt && !payload.is_empty() => self.on_red(w, slot, n, &h, payload, recv_ns),
            Role::Media(_) => self.on_packet(w, slot, n, h.seq, &h, payload, recv_ns, false),
            Role::Rtx(_) => {
                let Some((osn, rest)) = payload.split_first_chunk::<2>() else { return };
                if let Some(main) = s.main_of(n).filter(|_| !rest.is_empty()) {
                    self.on_packet(w, slot, main, u16::from_be_bytes(*osn), &h, rest, recv_ns, true);
                }
            }
        }
    }

    /// A packet with redundant audio: the newest frame is its own, what it repeats of lost packets is recovered. The
    /// frames are those of the packets right before it (RFC 2198 3; so does libwebrtc number them).
    fn on_red(&mut self, w: &mut World<'_>, slot: u8, n: u16, h: &rtp::Header, payload: &[u8], recv_ns: u64) {
        let Some(blocks) = red::parse(payload) else {
            self.loose[0].malformed += 1;
            return;
        };
        let count = blocks.len();
        let Some(newest) = blocks.clone().last().filter(|b| !b.payload.is_empty()) else { return };
        let mut header = *h;
        header.header_len += payload.len() - newest.payload.len();
        self.on_packet(w, slot, n, h.seq, &header, newest.payload, recv_ns, false);
        for (k, block) in blocks.take(count - 1).enumerate() {
            let seq = h.seq.wrapping_sub((count - 1 - k) as u16);
            let Some(Some(s)) = self.slots.get(usize::from(slot)) else { return };
            let Role::Media(m) = &s.incoming[usize::from(n)].role else { return };
            if !block.payload.is_empty() && m.stream.lacks(seq) {
                (header.timestamp, header.marker) = (h.timestamp.wrapping_sub(block.offset), false);
                self.on_packet(w, slot, n, seq, &header, block.payload, recv_ns, true);
            }
        }
    }

    /// A packet that came before (RFC 3711 3.3.2), and whose tag verifies: the network or the server sent it twice. It
    /// counts as a duplicate and as nothing else.
    #[cold]
    fn on_replay(&mut self, w: &mut World<'_>, slot: u8, n: u16, h: &rtp::Header, plain: &[u8], recv_ns: u64) {
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        let i = &s.incoming[usize::from(n)];
        s.loose[i.kind.index()].replayed += 1;
        let (Role::Media(m), Some(payload)) = (&i.role, h.payload(plain)) else { return };
        if m.red_pt == h.pt {
            self.on_red(w, slot, n, h, payload, recv_ns);
        } else {
            self.on_packet(w, slot, n, h.seq, h, payload, recv_ns, false);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one packet's fields, on the hot path")]
    fn on_packet(
        &mut self,
        w: &mut World<'_>,
        slot: u8,
        n: u16,
        seq: u16,
        h: &rtp::Header,
        payload: &[u8],
        recv_ns: u64,
        rtx: bool,
    ) {
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        let i = &mut s.incoming[usize::from(n)];
        let kind = i.kind;
        let Role::Media(m) = &mut i.role else { return };
        let stamp = match stamp::find(m.codec, payload) {
            Found::Stamp(st) if st.run == self.common.run => StampSeen::Own(st),
            Found::Stamp(_) | Found::Foreign(_) => StampSeen::Foreign,
            Found::None => StampSeen::None,
        };
        let rtp_bytes = h.header_len + payload.len();
        let packet = Packet {
            seq,
            timestamp: h.timestamp,
            marker: h.marker,
            payload,
            rtp_bytes,
            recv_ns,
            now: w.now,
            rtx,
            stamp,
        };
        if kind == Kind::Video && recv_ns.saturating_sub(m.last_ns) > PAUSE_NS {
            // Another one's media may follow on this SSRC before anybody looks.
            if let Some((owner, at)) = stop_if_over(m, w.room)
                && let Some(e) = self.sources.iter_mut().find(|e| e.owner == owner)
            {
                e.source.set_flowing(false, at);
            }
        }
        let outcome = m.stream.on_packet(&packet);
        m.last_ns = recv_ns;
        if i.nack
            && let Some(at) = m.stream.next_nack_at()
        {
            s.nack_at = Some(s.nack_at.map_or(at, |t| t.min(at)));
        }
        let mut switched = false;
        if let Some((old, why)) = m.stream.take_former_owner()
            && let Some(e) = self.sources.iter_mut().find(|e| e.owner == old)
        {
            m.stream.set_flowing(true, recv_ns);
            match why {
                Handover::OtherLayer => {
                    e.source.rebase(recv_ns);
                    s.loose[kind.index()].layer_switches += 1;
                    switched = true;
                }
                Handover::OtherSender => e.source.detach(&m.stream),
            }
        }
        let Some(owner) = m.stream.owner_of(outcome) else { return };
        let hinted = self.sources.get(m.source_hint).is_some_and(|e| e.owner == owner);
        let k = if hinted {
            m.source_hint
        } else if let Some(k) = self.sources.iter().position(|e| e.owner == owner) {
            k
        } else {
            let Some(e) = new_source(
                w.room,
                self.leg,
                self.planned_ns,
                self.connected_ns,
                owner,
                m.codec,
                self.network_delay_max,
                self.sources.iter().any(|e| e.is_layer_beside(owner)),
            ) else {
                return;
            };
            self.sources.push(e.unless_paused(self.forwarded.as_deref(), recv_ns));
            switched = true;
            self.sources.len() - 1
        };
        if switched {
            take_over(&mut self.sources, k, recv_ns);
        }
        m.source_hint = k;
        self.listener.heard(recv_ns);
        let e = &mut self.sources[k];
        e.first_rtp_ns.get_or_insert(recv_ns);
        if e.first_frame_ns.is_none() {
            e.first_frame_ns = m.stream.first_frame_ns();
        }
        if let Some(us) = e.source.on_packet(&m.stream, &packet, outcome) {
            w.meter.delay[kind.index()].record_us(us);
            let max = &mut w.room.delay_max_us[kind.index()];
            *max = (*max).max(us);
        }
    }

    /// Every connected member that sends is a source this participant expects.
    pub(super) fn meet_sources(&mut self, w: &mut World<'_>) {
        let Some(connected) = self.connected_ns else { return };
        for m in w.room.members() {
            if m.leg == self.leg || m.left_ns.is_some() || m.connected_ns.is_none() {
                continue;
            }
            for kind in Kind::BOTH {
                // Of layers, the lowest stands for the one that the server will choose.
                let owner = Owner { sender: m.leg.0, stream: kind as u8 };
                let known = |e: &SourceEntry| e.owner == owner || e.is_layer_beside(owner);
                let sent =
                    (owner.stream..).map_while(|n| m.ledger(n)).take(if kind == Kind::Audio { 1 } else { usize::MAX });
                let mut sent = sent;
                if sent.all(|l| l.latest() == 0) || self.sources.iter().any(known) {
                    continue;
                }
                // Any codec of the kind will do: only the kind matters to a source.
                let codec = if kind == Kind::Audio { Codec::Opus } else { Codec::Vp8 };
                let e = new_source(
                    w.room,
                    self.leg,
                    self.planned_ns,
                    Some(connected),
                    owner,
                    codec,
                    self.network_delay_max,
                    false,
                );
                self.sources.extend(e.map(|e| e.unless_paused(self.forwarded.as_deref(), w.now_ns)));
            }
        }
    }

    /// Settles every source against its sender's ledger; forgets those that left.
    pub(super) fn settle_sources(&mut self, w: &mut World<'_>, delta: &mut [FlowCounters; 2], flows: &mut [Flow; 2]) {
        for s in self.slots.iter_mut().flatten() {
            s.stop_streams(w.room);
        }
        let mut expected = false;
        let mut k = 0;
        while k < self.sources.len() {
            let e = &mut self.sources[k];
            let member = w.room.member(LegId(e.owner.sender));
            let ledger = member.and_then(|m| m.ledger(e.owner.stream));
            if let Some(ledger) = ledger {
                let sent = ledger.latest();
                let sends = ledger.stopped_at().is_none() && std::mem::replace(&mut e.sent, sent) != sent;
                expected |= sends && !e.paused;
                e.source.settle(ledger, w.now_ns);
                if let Some(at) = ledger.stopped_at() {
                    e.source.set_flowing(false, at);
                }
            }
            let (expected, received) = e.source.take_counters();
            delta[e.kind.index()].e2e_expected += expected;
            delta[e.kind.index()].e2e_received += received;
            if e.kind == Kind::Audio {
                let f = &mut flows[0];
                f.silence_max_ms = f.silence_max_ms.max(e.source.take_silence_ms());
                e.seconds += 1;
                if e.seconds >= SCORE_SECONDS {
                    e.seconds = 0;
                    e.score(f);
                }
            }
            let open_until = ledger.and_then(Ledger::stopped_at).unwrap_or(w.now_ns).min(w.now_ns);
            if ledger.is_some() {
                e.until_ns = open_until;
            }
            let gap = e.source.longest_gap(open_until);
            if gap.ms() > self.longest_gap.0 {
                self.longest_gap = (gap.ms(), gap.began_ns);
            }
            while let Some(gap) = e.source.take_gap() {
                self.flow_gaps.keep(LegId(e.owner.sender), e.kind, gap);
            }
            if !e.told && (e.first_frame_ns.is_some() || (e.kind == Kind::Audio && e.first_rtp_ns.is_some())) {
                e.told = true;
                w.events.push(e.first_media());
            }
            if member.is_none() {
                self.keep_open_gap(w, k);
                self.drop_source(w, k);
            } else {
                k += 1;
            }
        }
        self.listener.expect(w.now_ns, expected);
    }

    /// The leg ends: what was sent until now and could have arrived is expected.
    pub(super) fn finish_sources(&mut self, w: &mut World<'_>) {
        let until_ns = w.now_ns.saturating_sub(IN_FLIGHT_NS + self.network_delay_max.as_nanos() as u64);
        for e in &mut self.sources {
            if let Some(l) = w.room.member(LegId(e.owner.sender)).and_then(|m| m.ledger(e.owner.stream)) {
                e.until_ns = l.stopped_at().unwrap_or(w.now_ns).min(w.now_ns);
                e.source.finish(l, until_ns);
            }
        }
        for k in 0..self.sources.len() {
            if !self.sources[k].told {
                self.sources[k].told = true;
                let e = self.sources[k].first_media();
                w.events.push(e);
            }
        }
    }

    /// The server says whose video it forwards to this participant: that of nobody else (last-N).
    pub fn set_forwarded(&mut self, w: &mut World<'_>, senders: Vec<LegId>) {
        let now_ns = w.now_ns;
        // Whoever has stopped by plan did so before the server noticed.
        self.slots.iter_mut().flatten().for_each(|s| s.stop_streams(w.room));
        for k in 0..self.sources.len() {
            let e = &self.sources[k];
            let paused = e.kind == Kind::Video && !senders.contains(&LegId(e.owner.sender));
            if paused == e.paused {
                continue;
            }
            if paused {
                self.keep_open_gap(w, k);
            }
            let layered = w.room.member(LegId(self.sources[k].owner.sender)).is_some_and(Member::is_layered);
            let e = &mut self.sources[k];
            e.paused = paused;
            match (paused, layered) {
                (true, _) => {
                    self.loose[1].paused += i64::from(e.source.has_begun());
                    e.source.pause(now_ns);
                    // What has not come until now is not awaited any longer.
                    if !std::mem::replace(&mut e.told, true) && e.in_vain_ms().is_some() {
                        w.events.push(e.first_media());
                    }
                }
                (false, false) => e.source.resume(now_ns),
                (false, true) => e.source.resume_on_demand(now_ns),
            }
            let owner = e.owner;
            for s in self.slots.iter_mut().flatten() {
                for (.., m) in s.media_streams().filter(|(.., m)| m.stream.owner() == Some(owner)) {
                    m.stream.set_flowing(!paused, now_ns);
                }
            }
        }
        self.forwarded = Some(senders);
    }

    /// The leg ends: what is silent now stays so.
    pub(super) fn keep_open_gaps(&mut self, w: &World<'_>) {
        for k in 0..self.sources.len() {
            self.keep_open_gap(w, k);
        }
    }

    fn keep_open_gap(&mut self, w: &World<'_>, k: usize) {
        let e = &self.sources[k];
        let ledger = w.room.member(LegId(e.owner.sender)).and_then(|m| m.ledger(e.owner.stream));
        // Without a ledger nobody knows until when it sent.
        let Some(ledger) = ledger else { return };
        let until_ns = ledger.stopped_at().unwrap_or(w.now_ns).min(w.now_ns);
        self.flow_gaps.keep(LegId(e.owner.sender), e.kind, e.source.open_gap(until_ns));
    }

    fn drop_source(&mut self, w: &mut World<'_>, k: usize) {
        let e = self.sources.swap_remove(k);
        if !e.told {
            w.events.push(e.first_media());
        }
    }
}

impl SourceEntry {
    /// The E-model's score of what was played since the last one, in hundredths.
    fn score(&mut self, flow: &mut Flow) {
        let (Some(mut heard), Some(c)) = (self.source.take_heard(), emodel::coefficients(Codec::Opus)) else { return };
        heard.delay_ms += c.codec_delay;
        if let Some(mos) = heard.mos(c) {
            flow.mos.record_us((mos * 100.0).round() as u64);
        }
    }

    /// Where the server does not forward it, as it has said before.
    fn unless_paused(mut self, forwarded: Option<&[LegId]>, at_ns: u64) -> SourceEntry {
        if self.kind == Kind::Video && forwarded.is_some_and(|f| !f.contains(&LegId(self.owner.sender))) {
            self.source.pause(at_ns);
            (self.paused, self.told) = (true, true);
        }
        self
    }

    /// Another encoding of the same sender's video.
    fn is_layer_beside(&self, owner: Owner) -> bool {
        let video = self.kind == Kind::Video && owner.stream != 0;
        video && self.owner.sender == owner.sender && self.owner.stream != owner.stream
    }

    fn first_media(&self) -> Event {
        let ms = |at: u64| at.saturating_sub(self.planned_ns) as f64 / 1e6;
        Event::FirstMedia {
            from: LegId(self.owner.sender),
            rtp_ms: self.first_rtp_ns.map(ms),
            frame_ms: self.first_frame_ns.map(ms).filter(|_| self.kind == Kind::Video),
            in_vain_ms: [
                self.in_vain_ms().filter(|_| self.first_rtp_ns.is_none()),
                self.in_vain_ms().filter(|_| self.first_frame_ns.is_none() && self.kind == Kind::Video),
            ],
        }
    }

    /// What had not come when waiting ended: it is known to be missing once something was expected, and for long enough.
    fn in_vain_ms(&self) -> Option<f64> {
        let missing = self.source.expected() > 0
            && self.until_ns.saturating_sub(self.subscribed_ns) >= Timing::default().settle_ns;
        missing.then(|| self.until_ns.saturating_sub(self.planned_ns) as f64 / 1e6)
    }
}

/// The source at `k` is the layer that the server forwards now. What was promised and never came is not awaited any
/// longer; of the sender's first media one source tells, for all its layers.
#[cold]
fn take_over(sources: &mut [SourceEntry], k: usize, at_ns: u64) {
    let owner = sources[k].owner;
    for j in 0..sources.len() {
        if !sources[j].is_layer_beside(owner) {
            continue;
        }
        let old = &mut sources[j];
        if old.first_rtp_ns.is_none() {
            old.source.forgo(at_ns);
        }
        let (rtp, frame) = (old.first_rtp_ns, old.first_frame_ns);
        let told = std::mem::replace(&mut old.told, true);
        let new = &mut sources[k];
        new.told &= told;
        new.first_rtp_ns = new.first_rtp_ns.or(rtp);
        new.first_frame_ns = new.first_frame_ns.or(frame);
    }
}

#[expect(clippy::too_many_arguments, reason = "all of a source's circumstances")]
fn new_source(
    room: &Room,
    me: LegId,
    planned_ns: u64,
    connected_ns: Option<u64>,
    owner: Owner,
    codec: Codec,
    network_delay_max: Duration,
    on_demand: bool,
) -> Option<SourceEntry> {
    // A server that sends us our own media back, or somebody's of another room, is not a source we expect.
    if owner.sender == me.0 {
        return None;
    }
    let m = room.member(LegId(owner.sender))?;
    let kind = codec.kind();
    let fits = (owner.stream == 0) == (kind == Kind::Audio);
    m.ledger(owner.stream).filter(|_| fits)?;
    let subscribed = connected_ns?.max(m.connected_ns?);
    let usual = Timing::default();
    let timing = Timing { grace_ns: usual.grace_ns + network_delay_max.as_nanos() as u64, ..usual };
    Some(SourceEntry {
        owner,
        kind,
        // Some layer is promised; which one, and when another, is the server's choice.
        source: match on_demand {
            true => Source::on_demand(owner, codec, timing),
            false => Source::new(owner, codec, subscribed, timing),
        },
        planned_ns: planned_ns.max(m.planned_ns),
        first_rtp_ns: None,
        first_frame_ns: None,
        told: on_demand,
        paused: false,
        subscribed_ns: subscribed,
        until_ns: subscribed,
        seconds: 0,
        sent: 0,
    })
}

/// Whose stream it was, and when that one stopped, if it has.
fn stop_if_over(m: &mut Media, room: &Room) -> Option<(Owner, u64)> {
    let owner = m.stream.owner()?;
    let at = room.member(LegId(owner.sender))?.ledger(owner.stream)?.stopped_at()?;
    m.stream.set_flowing(false, at);
    Some((owner, at))
}

impl Slot {
    /// A sender that stopped by plan leaves neither a freeze nor a gap: to be said before what was open is judged.
    pub(super) fn stop_streams(&mut self, room: &Room) {
        self.media_streams().for_each(|(.., m)| {
            stop_if_over(m, room);
        });
    }

    pub(super) fn media_streams(&mut self) -> impl Iterator<Item = (u32, Kind, bool, Option<KeyAsk>, &mut Media)> {
        self.incoming.iter_mut().filter_map(|i| match &mut i.role {
            Role::Media(m) => Some((i.ssrc, i.kind, i.nack, i.key_ask, &mut **m)),
            Role::Rtx(_) => None,
        })
    }
}
