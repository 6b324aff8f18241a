//! RTCP of a participant: reports, NACKs, key-frame requests and transport-wide feedback, sent and answered.

use super::slot::{Incoming, KeyAsk, Role, Slot};
use super::{Participant, TxTrack, World};
use crate::media::receive::ReceptionReport;
use crate::media::rtcp::{self, Packet, ReportBlock, RtcpError, SenderInfo, Writer};
use crate::media::srtp::TAG_MAX;
use crate::types::Kind;
use std::time::Duration;

/// An RTCP datagram's longest plain part: within any path's MTU with SRTCP and UDP around it.
const RTCP_MAX: usize = 1100;
/// A media stream without a packet for this long has left its reports (its m-line may be off).
const REPORT_SILENCE_NS: u64 = 5_000_000_000;
/// Between two key-frame requests for one stream, as long as none comes.
const KEY_REQUEST_INTERVAL: Duration = Duration::from_millis(300);

impl Participant {
    /// One authenticated RTCP datagram.
    pub(super) fn on_rtcp(&mut self, w: &mut World<'_>, slot: u8, recv_ns: u64, data: &[u8]) {
        // The kernel's receive time: when we came to read it is no part of the round trip.
        let arrived = rtcp::compact(rtcp::ntp64(recv_ns));
        for p in rtcp::parse(data) {
            let Ok(p) = p else {
                self.loose[1].malformed += 1;
                break;
            };
            match p {
                Packet::SenderReport(sr) => {
                    self.with_stream(slot, sr.ssrc, |m| {
                        m.stream.on_sender_report(rtcp::compact(sr.info.ntp), recv_ns);
                    });
                    for b in sr.blocks.iter() {
                        self.on_report_block(w, slot, arrived, &b);
                    }
                }
                Packet::ReceiverReport(rr) => {
                    for b in rr.blocks.iter() {
                        self.on_report_block(w, slot, arrived, &b);
                    }
                }
                Packet::Nack(n) => {
                    let ssrc = n.media_ssrc;
                    let Some(t) = self.tracks.iter_mut().find(|t| t.ssrc == ssrc) else { continue };
                    t.count_mut().nacks_received += 1;
                    for seq in n.seqs() {
                        self.resend(w, ssrc, seq);
                    }
                }
                Packet::Pli(pli) => {
                    let ssrc = pli.media_ssrc;
                    if let Some(t) = self.tracks.iter_mut().find(|t| t.ssrc == ssrc) {
                        t.count_mut().plis_received += 1;
                        t.sender.request_key_frame(w.now);
                    }
                }
                Packet::Fir(f) => {
                    for (ssrc, _) in f.requests() {
                        if let Some(t) = self.tracks.iter_mut().find(|t| t.ssrc == ssrc) {
                            t.count_mut().firs_received += 1;
                            t.sender.request_key_frame(w.now);
                        }
                    }
                }
                Packet::Remb(remb) => {
                    self.loose[1].remb_received += 1;
                    self.on_remb(w, &remb);
                }
                Packet::Twcc(twcc) => {
                    self.loose[1].twcc_received += 1;
                    self.on_twcc(w, slot, &twcc);
                }
                Packet::Sdes(_) | Packet::Bye(_) => {}
            }
        }
    }

    fn with_stream(&mut self, slot: u8, ssrc: u32, f: impl FnOnce(&mut super::slot::Media)) {
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        if let Some((.., m)) = s.media_streams().find(|(x, ..)| *x == ssrc) {
            f(m);
        }
    }

    fn on_report_block(&mut self, w: &mut World<'_>, slot: u8, arrived: u32, b: &ReportBlock) {
        let Some(t) = self.tracks.iter_mut().find(|t| t.ssrc == b.ssrc) else { return };
        let reported = t.on_report(b.highest_seq, b.cumulative_lost);
        let (kind, adapts) = (t.kind, t.sender.stepped().is_some());
        if let Some((expected, lost)) = reported.filter(|_| adapts) {
            self.on_reported(w, expected, lost);
        }
        let Some(us) = rtcp::rtt_us(arrived, b.lsr, b.dlsr) else { return };
        w.meter.rtt[kind.index()].record_us(us);
        if let Ok(s) = self.slot(slot) {
            s.rtt = Some(Duration::from_micros(us));
        }
    }

    /// SR for what we send, RR for each stream received, each with its CNAME in a datagram of its own, as browsers do:
    /// Janus reads a whole datagram as one stream's (its ice.c looks at the first SSRC), keeps nothing for
    /// retransmission of the others, and has no round-trip time for them.
    pub(super) fn send_reports(&mut self, w: &mut World<'_>) {
        let mut plain = [0u8; RTCP_MAX + TAG_MAX];
        for slot in 0..self.slots.len() as u8 {
            let Some(s) = self.slots[usize::from(slot)].as_deref() else { continue };
            if s.srtp.is_none() || !s.transport.may_send() {
                continue;
            }
            for i in 0..self.tracks.len() {
                let t = &self.tracks[i];
                if t.slot != Some(slot) || !t.sender.is_running() {
                    continue;
                }
                let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
                if wr.sender_report(t.ssrc, sender_info(t, w), &[]).is_ok()
                    && wr.sdes_cname(t.ssrc, &self.cname).is_ok()
                {
                    let n = wr.len();
                    self.send_rtcp(w, slot, &mut plain, n);
                }
            }
            self.send_receiver_reports(w, slot, &mut plain);
        }
    }

    fn send_receiver_reports(&mut self, w: &mut World<'_>, slot: u8, plain: &mut [u8]) {
        for i in 0.. {
            let Some(s) = self.slots[usize::from(slot)].as_deref_mut() else { return };
            let own = own_ssrc(&self.tracks, s, slot);
            let Some(Incoming { ssrc, role, .. }) = s.incoming.get_mut(i) else { return };
            let Role::Media(m) = role else { continue };
            if w.now_ns.saturating_sub(m.last_ns) > REPORT_SILENCE_NS {
                continue;
            }
            let Some(b) = m.stream.report_block(w.now_ns) else { continue };
            let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
            if wr.receiver_report(own, &[block(*ssrc, &b)]).is_ok() && wr.sdes_cname(own, &self.cname).is_ok() {
                let n = wr.len();
                self.send_rtcp(w, slot, plain, n);
            }
        }
    }

    /// NACKs that are due now.
    pub(super) fn send_nacks(&mut self, w: &mut World<'_>) {
        // Asked at every wake-up, and hardly ever due: no buffer before it is.
        if !self.slots.iter().flatten().any(|s| s.nack_at.is_some_and(|t| t <= w.now)) {
            return;
        }
        let mut plain = [0u8; RTCP_MAX + TAG_MAX];
        for slot in 0..self.slots.len() as u8 {
            while let Some(s) = self.slots[usize::from(slot)].as_deref_mut() {
                if s.nack_at.is_none_or(|t| t > w.now) {
                    break;
                }
                let (rtt, own) = (s.rtt.or(s.transport.rtt()), own_ssrc(&self.tracks, s, slot));
                let reduced = s.agreed.reduced_size;
                let mut next = None;
                let mut found = None;
                let mut seqs = [0u16; 64];
                for (ssrc, kind, nack, _, m) in s.media_streams().filter(|x| x.2) {
                    debug_assert!(nack);
                    if found.is_none() {
                        let k = m.stream.take_nacks(w.now, rtt, &mut seqs);
                        if k > 0 {
                            found = Some((ssrc, kind, k));
                        }
                    }
                    next = [next, m.stream.next_nack_at()].into_iter().flatten().min();
                }
                s.nack_at = next;
                let Some((ssrc, kind, k)) = found else { break };
                s.loose[kind.index()].nacks_sent += 1;
                let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
                if lead(&mut wr, reduced, own, &self.cname, None).is_ok()
                    && wr.nack(own, ssrc, seqs[..k].iter().copied()).is_ok()
                {
                    let n = wr.len();
                    self.send_rtcp(w, slot, &mut plain, n);
                }
            }
        }
    }

    /// Key-frame requests and transport-wide feedback.
    pub(super) fn care(&mut self, w: &mut World<'_>) {
        let mut plain = [0u8; RTCP_MAX + TAG_MAX];
        for slot in 0..self.slots.len() as u8 {
            let mut asks = [None; 16];
            let mut n_asks = 0;
            let Some(s) = self.slots[usize::from(slot)].as_deref_mut() else { continue };
            if s.srtp.is_none() || !s.transport.may_send() {
                continue;
            }
            let (own, reduced) = (own_ssrc(&self.tracks, s, slot), s.agreed.reduced_size);
            for (ssrc, kind, _, how, m) in s.media_streams() {
                let Some(how) = how.filter(|_| kind == Kind::Video && n_asks < asks.len()) else { continue };
                let asked = m.key_asked.is_some_and(|t| w.now < t + KEY_REQUEST_INTERVAL);
                if !asked && m.stream.wants_key_frame(w.now) {
                    m.key_asked = Some(w.now);
                    asks[n_asks] = Some((ssrc, how, m.stream.key_request(), m.stream.report_block(w.now_ns)));
                    n_asks += 1;
                }
            }
            for (_, how, ..) in asks.iter().flatten() {
                match how {
                    KeyAsk::Pli => s.loose[1].plis_sent += 1,
                    KeyAsk::Fir => s.loose[1].firs_sent += 1,
                }
            }
            for (ssrc, how, number, report) in asks.into_iter().flatten() {
                let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
                // Janus honours a PLI on a receive-only handle only behind a report block about that SSRC.
                let report = report.map(|r| block(ssrc, &r));
                let led = lead(&mut wr, reduced, own, &self.cname, report.as_ref());
                let asked = led.and_then(|()| match how {
                    KeyAsk::Pli => wr.pli(own, ssrc),
                    KeyAsk::Fir => wr.fir(own, ssrc, number),
                });
                if asked.is_ok() {
                    let n = wr.len();
                    self.send_rtcp(w, slot, &mut plain, n);
                }
            }
            let Some(s) = self.slots[usize::from(slot)].as_deref_mut() else { continue };
            let media = s.incoming.first().map_or(0, |i| i.ssrc);
            if let Some(t) = s.twcc.as_deref_mut().filter(|t| t.pending() > 0) {
                let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
                let us = (w.now_ns / 1000) as i64;
                let _ = lead(&mut wr, reduced, own, &self.cname, None);
                let led = wr.len();
                while t.pending() > 0 && t.write(us, &mut wr, own, media).is_ok_and(|n| n > 0) {
                    s.loose[1].twcc_sent += 1;
                }
                let n = wr.len();
                if n > led {
                    self.send_rtcp(w, slot, &mut plain, n);
                }
            }
        }
    }

    /// Goodbye of every SSRC that spoke on this transport, each behind its last report and its CNAME (RFC 3550 6.1): a
    /// track that goes on elsewhere has sent nothing here since its last one, and so has no sender report.
    pub(super) fn send_byes(&mut self, w: &mut World<'_>, slot: u8) {
        let mut plain = [0u8; RTCP_MAX + TAG_MAX];
        for i in 0..self.tracks.len() {
            let Some(s) = self.slots.get(usize::from(slot)).and_then(|s| s.as_deref()) else { return };
            if s.sent & 1 << i == 0 {
                continue;
            }
            let t = &self.tracks[i];
            let (ssrc, rtx) = t.agreed_ssrcs(&s.agreed.sends);
            let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
            let report = match t.slot {
                Some(here) if here == slot => wr.sender_report(ssrc, sender_info(t, w), &[]),
                _ => wr.receiver_report(ssrc, &[]),
            };
            let described = report.and_then(|()| wr.sdes_cname(ssrc, &self.cname));
            if described.and_then(|()| [Some(ssrc), rtx].into_iter().flatten().try_for_each(|x| wr.bye(x))).is_ok() {
                let n = wr.len();
                self.send_rtcp(w, slot, &mut plain, n);
            }
        }
        let Some(s) = self.slots.get(usize::from(slot)).and_then(|s| s.as_deref()) else { return };
        // Where none of its tracks is sent, its reports had an SSRC of their own.
        let own = own_ssrc(&self.tracks, s, slot);
        if self.tracks.iter().enumerate().any(|(i, t)| t.ssrc == own && s.sent & 1 << i != 0) {
            return;
        }
        let mut wr = Writer::new(&mut plain[..RTCP_MAX]);
        if lead(&mut wr, false, own, &self.cname, None).and_then(|()| wr.bye(own)).is_ok() {
            let n = wr.len();
            self.send_rtcp(w, slot, &mut plain, n);
        }
    }

    /// Seals and sends `plain[..n]`.
    fn send_rtcp(&mut self, w: &mut World<'_>, slot: u8, plain: &mut [u8], n: usize) {
        let Some(s) = self.slots.get_mut(usize::from(slot)).and_then(|s| s.as_deref_mut()) else { return };
        let (Some(srtp), Some(to)) = (&mut s.srtp, s.transport.remote()) else { return };
        if !s.transport.may_send() {
            return;
        }
        let Ok(len) = srtp.rtcp_out.seal(plain, n) else { return };
        w.sink.send(slot, to, &plain[..len]);
    }
}

fn block(ssrc: u32, r: &ReceptionReport) -> ReportBlock {
    ReportBlock {
        ssrc,
        fraction_lost: r.fraction_lost,
        cumulative_lost: r.cumulative_lost,
        highest_seq: r.ext_highest_seq,
        jitter: r.jitter,
        lsr: r.last_sr,
        dlsr: r.delay_since_last_sr,
    }
}

/// What stands before feedback: without reduced size agreed on, every datagram is a compound that begins with a report
/// and names its sender (RFC 3550 6.1, RFC 4585 3.1); with it, feedback goes alone (RFC 5506 4.1), or behind the report
/// that it is about.
fn lead(
    wr: &mut Writer<'_>,
    reduced: bool,
    own: u32,
    cname: &str,
    report: Option<&ReportBlock>,
) -> Result<(), RtcpError> {
    if let (None, true) = (report, reduced) {
        return Ok(());
    }
    wr.receiver_report(own, report.map_or(&[], std::slice::from_ref))?;
    if reduced { Ok(()) } else { wr.sdes_cname(own, cname) }
}

fn sender_info(t: &TxTrack, w: &World<'_>) -> SenderInfo {
    SenderInfo {
        ntp: rtcp::ntp64((w.clock)()),
        rtp_time: t.sender.rtp_timestamp_at(w.now),
        packets: t.sender.packets_sent() as u32,
        octets: t.sender.octets_sent() as u32,
    }
}

/// The SSRC we speak RTCP as: a track's where the transport sends one.
fn own_ssrc(tracks: &[TxTrack], s: &Slot, slot: u8) -> u32 {
    tracks.iter().find(|t| t.slot == Some(slot)).map_or(s.own_ssrc, |t| t.ssrc)
}
