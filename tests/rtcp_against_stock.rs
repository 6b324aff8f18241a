//! Our RTCP against rtc-rtcp, in both directions.

use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use roomful::media::rtcp::{Packet, ReportBlock, SenderInfo, TwccRecorder, Writer, parse};
use rtc::rtcp::goodbye::Goodbye;
use rtc::rtcp::packet::{Packet as Stock, marshal, unmarshal};
use rtc::rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtcp::source_description::{SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem};
use rtc::rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, RecvDelta, RunLengthChunk, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc,
    SymbolTypeTcc, TransportLayerCc,
};
use rtc::rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

const ROUNDS: usize = 500;

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buf = [0; 4000];
    let mut writer = Writer::new(&mut buf);
    write(&mut writer);
    writer.as_bytes().to_vec()
}

/// Their reading of our bytes, which must be one packet of type `T`.
fn theirs<T: Stock + Clone + 'static>(bytes: &[u8]) -> T {
    let packets = unmarshal(&mut &bytes[..]).unwrap();
    assert_eq!(packets.len(), 1);
    packets[0].as_any().downcast_ref::<T>().unwrap().clone()
}

fn their_bytes(packet: impl Stock + 'static) -> Vec<u8> {
    marshal(&[Box::new(packet)]).unwrap().to_vec()
}

fn blocks(rng: &mut ChaCha8Rng) -> (Vec<ReportBlock>, Vec<ReceptionReport>) {
    (0..rng.random_range(0..32))
        .map(|_| {
            let ours = ReportBlock {
                ssrc: rng.random(),
                fraction_lost: rng.random(),
                cumulative_lost: rng.random_range(0..0x80_0000),
                highest_seq: rng.random(),
                jitter: rng.random(),
                lsr: rng.random(),
                dlsr: rng.random(),
            };
            let theirs = ReceptionReport {
                ssrc: ours.ssrc,
                fraction_lost: ours.fraction_lost,
                total_lost: ours.cumulative_lost as u32,
                last_sequence_number: ours.highest_seq,
                jitter: ours.jitter,
                last_sender_report: ours.lsr,
                delay: ours.dlsr,
            };
            (ours, theirs)
        })
        .unzip()
}

#[test]
fn reports() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..ROUNDS {
        let (ssrc, (ours, reports)) = (rng.random(), blocks(&mut rng));
        let info =
            SenderInfo { ntp: rng.random(), rtp_time: rng.random(), packets: rng.random(), octets: rng.random() };
        let stock = SenderReport {
            ssrc,
            ntp_time: info.ntp,
            rtp_time: info.rtp_time,
            packet_count: info.packets,
            octet_count: info.octets,
            reports: reports.clone(),
            ..Default::default()
        };
        let bytes = written(|w| w.sender_report(ssrc, info, &ours).unwrap());
        assert_eq!(theirs::<SenderReport>(&bytes), stock);
        assert_eq!(their_bytes(stock), bytes);
        let Some(Ok(Packet::SenderReport(report))) = parse(&bytes).next() else { panic!() };
        assert_eq!((report.ssrc, report.info), (ssrc, info));
        assert!(report.blocks.iter().eq(ours.iter().copied()));

        let stock = ReceiverReport { ssrc, reports, ..Default::default() };
        let bytes = written(|w| w.receiver_report(ssrc, &ours).unwrap());
        assert_eq!(theirs::<ReceiverReport>(&bytes), stock);
        assert_eq!(their_bytes(stock), bytes);
    }
}

#[test]
fn descriptions_and_goodbyes() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for len in 1..200 {
        let (ssrc, cname): (u32, String) = (rng.random(), "c".repeat(len));
        let item = SourceDescriptionItem { sdes_type: SdesType::SdesCname, text: cname.clone().into() };
        let stock = SourceDescription { chunks: vec![SourceDescriptionChunk { source: ssrc, items: vec![item] }] };
        let bytes = written(|w| w.sdes_cname(ssrc, &cname).unwrap());
        assert_eq!(theirs::<SourceDescription>(&bytes), stock);
        // Not byte for byte: they leave a padding count in the zeros that fill the chunk.
        let bytes = their_bytes(stock);
        let Some(Ok(Packet::Sdes(sdes))) = parse(&bytes).next() else { panic!() };
        assert!(sdes.cnames().eq([(ssrc, cname.as_bytes())]));

        let bytes = written(|w| w.bye(ssrc).unwrap());
        assert_eq!(theirs::<Goodbye>(&bytes).sources, [ssrc]);
        let many = Goodbye { sources: vec![ssrc, 7, 8], reason: cname.clone().into() };
        let bytes = their_bytes(many);
        let Some(Ok(Packet::Bye(bye))) = parse(&bytes).next() else { panic!("{len}: {:?}", parse(&bytes).next()) };
        assert!(bye.ssrcs().eq([ssrc, 7, 8]));
        assert_eq!(bye.reason, cname.as_bytes());
    }
    let two = SourceDescription {
        chunks: (0..2)
            .map(|source| SourceDescriptionChunk {
                source,
                items: [(SdesType::SdesCname, "me@here"), (SdesType::SdesTool, "rtc")]
                    .map(|(sdes_type, text)| SourceDescriptionItem { sdes_type, text: text.into() })
                    .to_vec(),
            })
            .collect(),
    };
    let bytes = their_bytes(two);
    let Some(Ok(Packet::Sdes(sdes))) = parse(&bytes).next() else { panic!() };
    assert!(sdes.cnames().eq([(0, &b"me@here"[..]), (1, b"me@here")]));
    assert_eq!(sdes.items().count(), 4);
}

#[test]
fn feedback() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..ROUNDS {
        let (sender_ssrc, media_ssrc) = (rng.random(), rng.random());
        let start = rng.random_range(0..65_000);
        let mut seqs = (start..start + 300).sample(&mut rng, 40);
        seqs.sort_unstable();
        let nacks = nack_pairs_from_sequence_numbers(&seqs);
        let stock = TransportLayerNack { sender_ssrc, media_ssrc, nacks };
        let bytes = written(|w| w.nack(sender_ssrc, media_ssrc, seqs.iter().copied()).unwrap());
        assert_eq!(theirs::<TransportLayerNack>(&bytes), stock);
        assert_eq!(their_bytes(stock), bytes);
        let Some(Ok(Packet::Nack(nack))) = parse(&bytes).next() else { panic!() };
        assert!(nack.seqs().eq(seqs));

        let stock = PictureLossIndication { sender_ssrc, media_ssrc };
        let bytes = written(|w| w.pli(sender_ssrc, media_ssrc).unwrap());
        assert_eq!(theirs::<PictureLossIndication>(&bytes), stock);
        assert_eq!(their_bytes(stock), bytes);

        let command = rng.random();
        let fir = vec![FirEntry { ssrc: media_ssrc, sequence_number: command }];
        let stock = FullIntraRequest { sender_ssrc, media_ssrc: 0, fir };
        let bytes = written(|w| w.fir(sender_ssrc, media_ssrc, command).unwrap());
        assert_eq!(theirs::<FullIntraRequest>(&bytes), stock);
        assert_eq!(their_bytes(stock), bytes);

        let bitrate = rng.random_range(0..1 << 18) << rng.random_range(0..20); // 18 bits, so that both are exact
        let bytes = written(|w| w.remb(sender_ssrc, bitrate, &[media_ssrc, 9]).unwrap());
        let read = theirs::<ReceiverEstimatedMaximumBitrate>(&bytes);
        assert_eq!(
            (read.sender_ssrc, read.bitrate as u64, &read.ssrcs[..]),
            (sender_ssrc, bitrate, &[media_ssrc, 9][..])
        );
        let bytes = their_bytes(read);
        let Some(Ok(Packet::Remb(remb))) = parse(&bytes).next() else { panic!() };
        assert_eq!((remb.sender_ssrc, remb.bitrate), (sender_ssrc, bitrate));
        assert!(remb.ssrcs().eq([media_ssrc, 9]));
    }
}

/// Sequence number and delta in µs of every packet, read off their types by hand.
fn their_deltas(twcc: &TransportLayerCc) -> Vec<(u16, Option<i64>)> {
    let symbols = twcc.packet_chunks.iter().flat_map(|chunk| match chunk {
        PacketStatusChunk::RunLengthChunk(run) => vec![run.packet_status_symbol; usize::from(run.run_length)],
        PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.clone(),
    });
    let mut deltas = twcc.recv_deltas.iter();
    symbols
        .take(usize::from(twcc.packet_status_count))
        .enumerate()
        .map(|(i, symbol)| {
            let arrived = symbol != SymbolTypeTcc::PacketNotReceived;
            (twcc.base_sequence_number.wrapping_add(i as u16), arrived.then(|| deltas.next().unwrap().delta))
        })
        .collect()
}

fn our_deltas(bytes: &[u8]) -> Vec<(u16, Option<i64>)> {
    let Some(Ok(Packet::Twcc(twcc))) = parse(bytes).next() else { panic!("{:?}", parse(bytes).next()) };
    twcc.deltas().map(|(seq, delta)| (seq, delta.map(i64::from))).collect()
}

#[test]
fn transport_wide_feedback_of_ours() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..ROUNDS {
        let mut recorder = TwccRecorder::default();
        let (mut seq, mut now) = (rng.random::<u16>(), rng.random_range(0..1_000_000_000));
        let loss = [0.0, 0.02, 0.5, 0.95][rng.random_range(0..4)];
        let spread = [500, 20_000, 200_000][rng.random_range(0..3)];
        for _ in 0..rng.random_range(1..400) {
            seq = seq.wrapping_add(1);
            now += rng.random_range(0..spread);
            if !rng.random_bool(loss) {
                recorder.record(seq, now - rng.random_range(0..spread));
            }
        }
        while recorder.pending() > 0 {
            let bytes = written(|w| assert!(recorder.write(now, w, 1, 2).unwrap() > 0));
            let read = theirs::<TransportLayerCc>(&bytes);
            assert_eq!((read.sender_ssrc, read.media_ssrc), (1, 2));
            assert_eq!(their_deltas(&read), our_deltas(&bytes));
            let Some(Ok(Packet::Twcc(ours))) = parse(&bytes).next() else { panic!() };
            assert_eq!((ours.reference, ours.feedback_count), (read.reference_time, read.fb_pkt_count));
        }
    }
}

#[test]
fn transport_wide_feedback_of_theirs() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..ROUNDS {
        let mut symbols = Vec::new();
        let packet_chunks: Vec<_> = (0..rng.random_range(1..20))
            .map(|_| {
                let mut symbol = |kinds: u32| match rng.random_range(0..kinds) {
                    0 => SymbolTypeTcc::PacketNotReceived,
                    1 => SymbolTypeTcc::PacketReceivedSmallDelta,
                    _ => SymbolTypeTcc::PacketReceivedLargeDelta,
                };
                match symbol(3) {
                    SymbolTypeTcc::PacketNotReceived => {
                        let packet_status_symbol = symbol(3);
                        let run_length = rng.random_range(1..40);
                        symbols.extend(std::iter::repeat_n(packet_status_symbol, usize::from(run_length)));
                        PacketStatusChunk::RunLengthChunk(RunLengthChunk {
                            type_tcc: StatusChunkTypeTcc::RunLengthChunk,
                            packet_status_symbol,
                            run_length,
                        })
                    }
                    size => {
                        let (symbol_size, count, kinds) = match size {
                            SymbolTypeTcc::PacketReceivedSmallDelta => (SymbolSizeTypeTcc::OneBit, 14, 2),
                            _ => (SymbolSizeTypeTcc::TwoBit, 7, 3),
                        };
                        let symbol_list: Vec<_> = (0..count).map(|_| symbol(kinds)).collect();
                        symbols.extend(symbol_list.iter().copied());
                        PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
                            type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
                            symbol_size,
                            symbol_list,
                        })
                    }
                }
            })
            .collect();
        let recv_deltas = symbols
            .iter()
            .filter_map(|symbol| {
                let ticks = match symbol {
                    SymbolTypeTcc::PacketReceivedSmallDelta => rng.random_range(0..256),
                    SymbolTypeTcc::PacketReceivedLargeDelta => rng.random_range(-32_768..32_768),
                    _ => return None,
                };
                Some(RecvDelta { type_tcc_packet: *symbol, delta: ticks * 250 })
            })
            .collect();
        let stock = TransportLayerCc {
            sender_ssrc: 1,
            media_ssrc: 2,
            base_sequence_number: rng.random(),
            packet_status_count: symbols.len() as u16,
            reference_time: rng.random_range(0..1 << 24),
            fb_pkt_count: rng.random(),
            packet_chunks,
            recv_deltas,
        };
        let expected = their_deltas(&stock);
        assert_eq!(our_deltas(&their_bytes(stock)), expected);
    }
}
