//! What runs for every packet must not allocate: each test runs a path once to warm it up and then counts.
//!
//! To hold another path to it: build everything it needs, then `assert_allocates_nothing("name", || …)`.
#![expect(unsafe_code, reason = "a global allocator cannot be written without")]

#[path = "support/allocation.rs"]
mod allocation;
#[path = "support/counting.rs"]
mod counting;

use counting::ALLOCATIONS;
use roomful::engine::socket::{MediaSocket, Receiver};
use roomful::media::rtcp::{self, Packet, ReportBlock, SenderInfo, TwccRecorder, Writer};
use roomful::media::rtp::{self, HeaderTemplate};
use roomful::media::srtp::{RtcpOpener, RtcpSealer, RtpOpener, RtpSealer, RxIndex, TAG_MAX, TxIndex};
use roomful::turn::frame;
use roomful::types::Suite;
use std::hint::black_box;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Allocations of this thread while `f` runs.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

/// Runs `packet` once to warm up (CPU feature detection and the like), then 1,000 times, counted.
#[track_caller]
fn assert_allocates_nothing(path: &str, mut packet: impl FnMut()) {
    packet();
    let counted = allocations(|| (0..1_000).for_each(|_| packet()));
    assert_eq!(counted, 0, "{path} allocates");
}

const SUITES: [Suite; 3] = [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm, Suite::AeadAes256Gcm];
const KEY: [u8; 32] = [7; 32];
const SALT: [u8; 14] = [9; 14];

#[test]
fn the_counter_counts() {
    let counted = allocations(|| {
        black_box(Box::new(1));
        black_box(Vec::<u8>::with_capacity(10));
    });
    assert_eq!(counted, 2);
}

#[test]
fn rtp_send_and_receive() {
    for suite in SUITES {
        let (sealer, opener) = (RtpSealer::new(suite, &KEY, &SALT), RtpOpener::new(suite, &KEY, &SALT));
        let template = HeaderTemplate::new(96, 5, Some((4, "0")), None, Some(3), Some(2), Some(1));
        let (mut tx, mut rx) = (TxIndex::new(65_000), RxIndex::default());
        let mut buf = [0; 1500];
        let mut opened = 0;
        assert_allocates_nothing(suite.as_str(), || {
            let (seq, roc) = tx.take();
            let header_len = template.write(&mut buf, true, seq, 3000, seq, rtp::abs_send_time(1), 127);
            let len = header_len + 1072;
            let len = sealer.seal(&mut buf, len, header_len, roc).unwrap();

            assert!(!rtp::is_rtcp(&buf));
            let header = rtp::parse(&buf[..len]).unwrap();
            let index = rx.estimate(header.seq);
            assert!(!rx.is_replay(index));
            let len = opener.open(&mut buf[..len], header.header_len, index).unwrap();
            rx.commit(index);
            black_box((header.extension(&buf, 3), header.payload(&buf[..len])));
            opened += 1;
        });
        assert_eq!(opened, 1_001);

        // Refusals are on the packet path too.
        let index = rx.highest().unwrap();
        assert_allocates_nothing("a forged packet", || {
            assert!(opener.open(&mut buf[..1000], 12, index + 1).is_err());
        });
    }
}

#[test]
fn rtcp_write_seal_open_and_parse() {
    for suite in SUITES {
        let (mut sealer, mut opener) = (RtcpSealer::new(suite, &KEY, &SALT), RtcpOpener::new(suite, &KEY, &SALT));
        let mut recorder = TwccRecorder::default();
        let mut buf = [0; 1500];
        let mut seq = 0u16;
        let mut entries = 0;
        assert_allocates_nothing(suite.as_str(), || {
            let mut writer = Writer::new(&mut buf[..1500 - TAG_MAX]);
            let info = SenderInfo { ntp: rtcp::ntp64(1), ..SenderInfo::default() };
            writer.sender_report(1, info, &[ReportBlock::default(); 4]).unwrap();
            writer.receiver_report(1, &[ReportBlock::default(); 4]).unwrap();
            writer.sdes_cname(1, "cname").unwrap();
            writer.nack(1, 2, (seq..seq.saturating_add(40)).step_by(3)).unwrap();
            writer.pli(1, 2).unwrap();
            writer.fir(1, 2, 3).unwrap();
            writer.remb(1, 500_000, &[2, 3]).unwrap();
            for _ in 0..40 {
                seq = seq.wrapping_add(if seq.is_multiple_of(5) { 2 } else { 1 });
                recorder.record(seq, i64::from(seq) * 900);
            }
            recorder.write(0, &mut writer, 1, 2).unwrap();
            writer.bye(1).unwrap();
            let len = writer.len();

            let len = sealer.seal(&mut buf, len).unwrap();
            let len = opener.open(&mut buf[..len]).unwrap();
            for packet in rtcp::parse(&buf[..len]) {
                entries += match packet.unwrap() {
                    Packet::SenderReport(report) => report.blocks.iter().count(),
                    Packet::ReceiverReport(report) => report.blocks.iter().count(),
                    Packet::Sdes(sdes) => sdes.cnames().count(),
                    Packet::Bye(bye) => bye.ssrcs().count(),
                    Packet::Nack(nack) => nack.seqs().count(),
                    Packet::Twcc(twcc) => twcc.arrivals().count(),
                    Packet::Pli(_) => 1,
                    Packet::Fir(fir) => fir.requests().count(),
                    Packet::Remb(remb) => remb.ssrcs().count(),
                };
            }
        });
        assert!(entries > 1_000 * 60, "{entries}");
    }
}

/// Over UDP by a channel, and over a connection, where messages come one after another in a stream.
#[test]
fn a_relayed_packet() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (mut ours, mut theirs) = (MediaSocket::bind(ip).unwrap(), MediaSocket::bind(ip).unwrap());
    ours.connect(theirs.local()).unwrap();
    theirs.connect(ours.local()).unwrap();
    let peer = SocketAddr::from(([127, 0, 0, 1], 7));
    let (mut a, _) = allocation::allocation(peer);
    let (mut receiver, packet) = (Receiver::new(), [0x80; 1101]);
    let mut back = 0;
    assert_allocates_nothing("a packet through a channel", || {
        let header = frame::header(a.channel_to(peer).unwrap(), packet.len());
        ours.send_parts(&[IoSlice::new(&header), IoSlice::new(&packet)]).unwrap();
        receiver.drain(&theirs, |mut batch| {
            batch.each(Some(peer), |_, _, data| {
                let (channel, length) = frame::channel_data(data).unwrap();
                assert_eq!((a.peer_of(channel), length), (Some(peer), packet.len()));
                back += 1;
            });
        });
    });
    assert_eq!(back, 1001);
    let channel = a.channel_to(peer).unwrap();
    let mut message = [&frame::header(channel, packet.len())[..], &packet].concat();
    message.resize(message.len() + frame::padding(packet.len()), 0);
    let (mut deframer, mut out) = (frame::Deframer::default(), 0);
    assert_allocates_nothing("a packet of a stream", || {
        // In two pieces, as a connection may give them.
        for piece in message.chunks(700) {
            deframer.push(piece);
            while let Some(m) = deframer.next_message().unwrap() {
                out += usize::from(frame::channel_data(m) == Some((channel, packet.len())));
            }
        }
    });
    assert_eq!(out, 1001);
}
