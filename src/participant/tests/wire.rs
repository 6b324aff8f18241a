//! What leaves a participant as its peer sees it: opened by rtc-srtp with the peer's keys, read by rtc-rtcp.

use super::*;
use crate::media::rtp;
use crate::transport::MasterKey;
use rtc::rtcp::goodbye::Goodbye;
use rtc::rtcp::packet::{Packet, unmarshal};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtcp::source_description::{SdesType, SourceDescription};
use rtc::rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use rtc::rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use rtc::srtp::context::Context;
use rtc::srtp::protection_profile::ProtectionProfile;
use std::collections::{BTreeMap, BTreeSet};

/// A peer that only listens.
struct Listener {
    stock: Context,
    tag: usize,
    /// By SSRC: RTP packets and octets of payload.
    media: BTreeMap<u32, (u32, u32)>,
    /// Packets of each type that came in compounds, and alone or behind a mere report.
    seen: BTreeMap<&'static str, [usize; 2]>,
    /// SSRCs that spoke RTCP, and that said goodbye.
    speakers: BTreeSet<u32>,
    gone: BTreeSet<u32>,
}

impl Listener {
    /// With the keys of the peer of participant `n`.
    fn new(pair: &Pair, n: usize) -> Listener {
        let peer = pair.participants[1 - n].slots[0].as_deref().unwrap();
        let (suite, [_, MasterKey { key, salt }]) = peer.keys.clone().unwrap();
        let (profile, tag) = match suite {
            Suite::Aes128CmSha1_80 => (ProtectionProfile::Aes128CmHmacSha1_80, 10),
            Suite::AeadAes128Gcm => (ProtectionProfile::AeadAes128Gcm, 16),
            Suite::AeadAes256Gcm => (ProtectionProfile::AeadAes256Gcm, 16),
        };
        let provider = rtc::crypto::default_provider().unwrap();
        let (key, salt) = (&key[..suite.key_len()], &salt[..suite.salt_len()]);
        let stock = Context::new(key, salt, profile, None, None, provider.crypto()).unwrap();
        let (media, seen, speakers, gone) = Default::default();
        Listener { stock, tag, media, seen, speakers, gone }
    }

    /// All of what participant `n` sent to its peer until now.
    fn hear(&mut self, pair: &mut Pair, n: usize) {
        pair.tapped.extend(std::mem::take(&mut pair.wires[n].0).into_iter().map(|d| (n, d)));
        let (own, others) = std::mem::take(&mut pair.tapped).into_iter().partition(|(of, _)| *of == n);
        pair.tapped = others;
        let own: Vec<(usize, Vec<u8>)> = own;
        for (_, d) in own {
            if is_rtcp(&d) {
                self.rtcp(&d);
            } else if is_media(&d) {
                let h = rtp::parse(&d).unwrap();
                let m = self.media.entry(h.ssrc).or_default();
                *m = (m.0 + 1, m.1 + (d.len() - self.tag - h.header_len) as u32);
            }
        }
    }

    fn rtcp(&mut self, sealed: &[u8]) {
        let plain = self.stock.decrypt_rtcp(sealed).unwrap();
        let packets = unmarshal(&mut &plain[..]).unwrap();
        let first = packets[0].as_any();
        let report = first.downcast_ref::<SenderReport>().map(|r| r.ssrc);
        let report = report.or(first.downcast_ref::<ReceiverReport>().map(|r| r.ssrc));
        let ssrc = u32::from_be_bytes([plain[4], plain[5], plain[6], plain[7]]);
        let described = packets.iter().filter_map(|p| p.as_any().downcast_ref::<SourceDescription>());
        let described: Vec<u32> = described
            .flat_map(|d| &d.chunks)
            .filter(|c| c.items.iter().any(|i| i.sdes_type == SdesType::SdesCname && !i.text.is_empty()))
            .map(|c| c.source)
            .collect();
        // RFC 3550 6.1: a report first, and the CNAME of who sent it.
        let compound = report == Some(ssrc) && described == [ssrc];
        self.speakers.insert(ssrc);
        for p in &packets {
            let p: &dyn Packet = p.as_ref();
            let any = p.as_any();
            let name = if let Some(sr) = any.downcast_ref::<SenderReport>() {
                let (packets, octets) = self.media[&sr.ssrc];
                assert_eq!((sr.packet_count, sr.octet_count), (packets, octets), "what {:x} sent", sr.ssrc);
                "sender report"
            } else if let Some(rr) = any.downcast_ref::<ReceiverReport>() {
                if rr.reports.is_empty() { "empty report" } else { "receiver report" }
            } else if any.is::<SourceDescription>() {
                "description"
            } else if let Some(bye) = any.downcast_ref::<Goodbye>() {
                self.gone.extend(&bye.sources);
                "goodbye"
            } else if any.is::<TransportLayerNack>() {
                "nack"
            } else if any.is::<PictureLossIndication>() {
                "pli"
            } else if any.is::<TransportLayerCc>() {
                "transport-wide"
            } else {
                panic!("an unexpected packet: {p:?}")
            };
            self.seen.entry(name).or_default()[usize::from(!compound)] += 1;
        }
    }

    fn seen(&self, name: &str) -> [usize; 2] {
        self.seen.get(name).copied().unwrap_or_default()
    }
}

fn is_media(d: &[u8]) -> bool {
    (128..192).contains(&d[0]) && !is_rtcp(d)
}

fn seq(d: &[u8]) -> u16 {
    u16::from_be_bytes([d[2], d[3]])
}

fn ssrc_of(d: &[u8]) -> u32 {
    u32::from_be_bytes([d[8], d[9], d[10], d[11]])
}

fn without_reduced_size(sdp: String) -> String {
    sdp.replace("a=rtcp-rsize\r\n", "")
}

/// Both send audio and video and lose some of the other's; then both leave.
fn call(making: Making<'_>) -> [Listener; 2] {
    let (media, layers) = (making.media, making.lower_layers.len());
    let mut pair = Pair::made(making);
    // All media until the middle of the first second, then each 40th packet of it.
    pair.run(Duration::from_millis(600), |_, d| usize::from(!is_media(d)));
    pair.run(Duration::from_secs(6), |_, d| usize::from(!is_media(d) || !seq(d).is_multiple_of(40)));
    let mut listeners = [0, 1].map(|n| Listener::new(&pair, n));
    for (n, l) in listeners.iter_mut().enumerate() {
        pair.with(n, |p, w| p.go_quiet(w));
        l.hear(&mut pair, n);
        assert!(l.gone.is_empty());
        let (spoke, sent) = (l.speakers.clone(), l.media.keys().copied().collect::<BTreeSet<u32>>());
        let streams = media[n].iter().flatten().count() + if n == 0 { layers } else { 0 };
        assert!(sent.len() >= streams, "{sent:?}");
        pair.with(n, |p, w| p.close(w, 0));
        l.hear(&mut pair, n);
        // Everybody who sent media or spoke RTCP says goodbye, and nobody else but silent retransmissions.
        assert!(spoke.union(&sent).all(|s| l.gone.contains(s)), "{spoke:x?} {sent:x?} {:x?}", l.gone);
        assert!(l.gone.len() <= 2 * streams.max(1), "{:x?}", l.gone);
        assert_eq!(l.speakers, spoke, "a new SSRC, only to say goodbye");
        assert_eq!(l.seen("goodbye")[1], 0, "{:?}", l.seen);
        assert_eq!(l.seen("sender report")[1], 0, "{:?}", l.seen);
    }
    listeners
}

fn both_send() -> Making<'static> {
    Making { media: [[AUDIO, VIDEO], [AUDIO, VIDEO]], ..Making::default() }
}

#[test]
fn every_datagram_is_a_compound_unless_both_have_reduced_size() {
    for suite in [Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80] {
        let reduced = call(Making { suite, ..both_send() });
        let offered = call(Making { suite, offered: &without_reduced_size, ..both_send() });
        let answered = call(Making { suite, answered: &without_reduced_size, ..both_send() });
        for (case, n, l) in [(0, 0, &reduced[0]), (0, 1, &reduced[1]), (1, 0, &offered[0]), (1, 1, &offered[1])]
            .into_iter()
            .chain([(2, 0, &answered[0])])
        {
            for name in ["sender report", "receiver report", "description", "goodbye", "nack", "pli", "transport-wide"]
            {
                let [compound, alone] = l.seen(name);
                assert!(compound + alone > 0, "case {case}, participant {n}: no {name} in {:?}", l.seen);
                assert!(case == 0 || alone == 0, "case {case}, participant {n}: {:?}", l.seen);
            }
            assert_eq!(case == 0, l.seen("nack")[1] > 0, "case {case}, participant {n}: {:?}", l.seen);
            assert_eq!(case == 0, l.seen("transport-wide")[1] > 0, "case {case}, participant {n}: {:?}", l.seen);
        }
    }
}

#[test]
fn who_only_receives_says_goodbye_too() {
    let [sender, receiver] = call(Making::default());
    assert_eq!(sender.gone.len(), 2, "video and its retransmissions: {:x?}", sender.gone);
    assert_eq!((receiver.gone.len(), receiver.gone == receiver.speakers), (1, true));
    assert!(receiver.seen("sender report") == [0, 0] && receiver.seen("receiver report")[0] > 0);
}

#[test]
fn a_track_that_moved_says_goodbye_where_it_was() {
    let mut pair = Pair::made(Making::default());
    pair.run(Duration::from_secs(3), each);
    let mut l = Listener::new(&pair, 0);
    pair.with(0, |p, w| {
        p.open(w.now, 1, address(0)).unwrap();
        p.switch(w, 1).unwrap();
    });
    pair.run(Duration::from_secs(3), each);
    pair.with(0, |p, w| p.close(w, 0));
    l.hear(&mut pair, 0);
    let (ssrc, rtx) = pair.participants[0].tracks[0].ssrcs();
    assert!([ssrc, rtx].iter().all(|s| l.gone.contains(s)), "{:x?}", l.gone);
    assert!(l.speakers.is_subset(&l.gone), "{:x?} {:x?}", l.speakers, l.gone);
    assert_eq!(l.seen("goodbye")[1], 0);
}

/// RFC 4588 1: without a format for retransmissions it is the same RTP packet; and since SRTP's packet index is the
/// same, too, the same bytes on the wire (RFC 3711 3.3.1), whichever way the rollover counter has gone since.
#[test]
fn without_rtx_a_packet_is_sent_again_as_it_was_to_the_byte() {
    let without_rtx = |sdp: String| -> String {
        let of_rtx = |l: &&str| l.contains(" rtx/90000") || l.contains(" apt=") || l.contains(":FID ");
        sdp.split_inclusive("\r\n").filter(|l| !of_rtx(l)).collect()
    };
    for suite in [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm] {
        let media = [[AUDIO, VIDEO], [None, None]];
        let mut pair = Pair::made(Making { suite, media, offered: &without_rtx, ..Making::default() });
        pair.participants[0].tracks.iter_mut().for_each(|t| t.sender.set_first_seq(65_500));
        let mut sent: Vec<Vec<u8>> = Vec::new();
        // Of each kind: resent, and of these, resent when the rollover counter was one ahead.
        let mut resent = [[0; 2]; 2];
        for _ in 0..60 {
            pair.run(Duration::from_millis(100), each);
            sent.extend(
                std::mem::take(&mut pair.tapped).into_iter().filter(|(n, d)| *n == 0 && is_media(d)).map(|x| x.1),
            );
            for (k, ssrc) in pair.participants[0].tracks.iter().map(|t| t.ssrc).enumerate().collect::<Vec<_>>() {
                let newest = pair.participants[0].tracks[k].sender.seq();
                let own: Vec<&Vec<u8>> = sent.iter().rev().filter(|d| ssrc_of(d) == ssrc).take(40).collect();
                for original in own.into_iter().step_by(3) {
                    let mut plain = [0; 100];
                    let mut wr = Writer::new(&mut plain);
                    wr.nack(9, ssrc, [seq(original)].into_iter()).unwrap();
                    let (n, recv_ns) = (wr.len(), pair.now_ns());
                    pair.with(0, |p, w| p.on_rtcp(w, 0, recv_ns, &plain[..n]));
                    for again in std::mem::take(&mut pair.wires[0].0) {
                        let what = format!("{suite:?}, sequence number {}, now {newest}", seq(original));
                        assert!(again == *original, "{what}: another packet of {} bytes", again.len());
                        resent[k][0] += 1;
                        resent[k][1] += usize::from(newest < seq(original));
                    }
                }
            }
        }
        assert!(resent.iter().all(|[all, wrapped]| *wrapped > 5 && all > wrapped), "{suite:?}: {resent:?}");
    }
}
