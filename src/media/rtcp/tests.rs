use super::*;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const INFO: SenderInfo = SenderInfo { ntp: 1 << 63, rtp_time: 2, packets: 3, octets: 4 };

/// One of each message, most of them with lists.
fn compound() -> Vec<u8> {
    let mut buf = [0; 1200];
    let mut writer = Writer::new(&mut buf);
    let blocks = [ReportBlock { ssrc: 5, cumulative_lost: -3, lsr: 77, ..ReportBlock::default() }; 3];
    writer.sender_report(1, INFO, &blocks).unwrap();
    writer.receiver_report(1, &blocks).unwrap();
    writer.sdes_cname(1, "somebody@somewhere").unwrap();
    writer.nack(1, 2, [5, 6, 9, 700].into_iter()).unwrap();
    writer.pli(1, 2).unwrap();
    writer.fir(1, 2, 9).unwrap();
    writer.remb(1, 300_000, &[2, 3]).unwrap();
    let deltas: Vec<_> = (0..60).map(|i| (i % 7 != 0).then_some(i * 9 - 20)).collect();
    writer.twcc(1, 2, 65_530, 6, 7, &deltas).unwrap();
    writer.bye(1).unwrap();
    writer.as_bytes().to_vec()
}

/// Walks through everything a compound holds and counts it.
fn visit(bytes: &[u8]) -> (usize, usize) {
    let (mut good, mut entries) = (0, 0);
    for packet in parse(bytes) {
        let Ok(packet) = packet else { continue };
        good += 1;
        entries += match packet {
            Packet::SenderReport(report) => report.blocks.iter().count(),
            Packet::ReceiverReport(report) => report.blocks.iter().count(),
            Packet::Sdes(sdes) => sdes.items().count(),
            Packet::Bye(bye) => bye.ssrcs().count(),
            Packet::Nack(nack) => nack.seqs().count(),
            Packet::Twcc(twcc) => {
                assert_eq!(twcc.deltas().count(), usize::from(twcc.status_count));
                twcc.arrivals().count()
            }
            Packet::Pli(_) => 1,
            Packet::Fir(fir) => fir.requests().count(),
            Packet::Remb(remb) => remb.ssrcs().count(),
        };
    }
    (good, entries)
}

#[test]
fn compound_comes_back_in_order() {
    let bytes = compound();
    let kinds: Vec<_> = parse(&bytes)
        .map(|packet| match packet.unwrap() {
            Packet::SenderReport(_) => "SR",
            Packet::ReceiverReport(_) => "RR",
            Packet::Sdes(_) => "SDES",
            Packet::Bye(_) => "BYE",
            Packet::Nack(_) => "NACK",
            Packet::Twcc(_) => "TWCC",
            Packet::Pli(_) => "PLI",
            Packet::Fir(_) => "FIR",
            Packet::Remb(_) => "REMB",
        })
        .collect();
    assert_eq!(kinds, ["SR", "RR", "SDES", "NACK", "PLI", "FIR", "REMB", "TWCC", "BYE"]);
    assert_eq!(visit(&bytes), (9, 3 + 3 + 1 + 4 + 1 + 1 + 2 + 60 + 1));
}

#[test]
fn unknown_packets_are_passed_over() {
    let mut bytes = vec![0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e']; // APP
    bytes.extend([0x80, 207, 0, 1, 0, 0, 0, 1]); // XR
    bytes.extend([0x9e, 205, 0, 1, 0, 0, 0, 1]); // an unknown feedback
    bytes.extend([0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]);
    let expected = Packet::Pli(Pli { sender_ssrc: 1, media_ssrc: 2 });
    assert_eq!(parse(&bytes).collect::<Vec<_>>(), [Ok(expected)]);
    assert_eq!(parse(&[]).next(), None);
}

#[test]
fn wrong_content_yields_an_error_and_the_next_packet() {
    let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let cut = [0x81, 206, 0, 1, 0, 0, 0, 1];
    let good = Ok(Packet::Pli(Pli { sender_ssrc: 1, media_ssrc: 2 }));
    let bytes = [&pli[..], &cut, &pli].concat();
    assert_eq!(parse(&bytes).collect::<Vec<_>>(), [good, Err(RtcpError::Truncated), good]);
}

#[test]
fn wrong_framing_ends_the_compound() {
    let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let good = Ok(Packet::Pli(Pli { sender_ssrc: 1, media_ssrc: 2 }));
    for (wrong, error) in [
        (&[0x41, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], RtcpError::Version),
        (&[0x81, 206, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2], RtcpError::Truncated),
        (&[0x81, 206, 0], RtcpError::Truncated),
    ] {
        let bytes = [&pli[..], wrong].concat();
        assert_eq!(parse(&bytes).collect::<Vec<_>>(), [good, Err(error)]);
    }
}

#[test]
fn padding_is_taken_off() {
    let mut bytes = [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4];
    let good = Ok(Packet::Pli(Pli { sender_ssrc: 1, media_ssrc: 2 }));
    assert_eq!(parse(&bytes).collect::<Vec<_>>(), [good]);
    for (padding, error) in [(0, RtcpError::Padding), (13, RtcpError::Padding), (12, RtcpError::Truncated)] {
        bytes[15] = padding;
        assert_eq!(parse(&bytes).collect::<Vec<_>>(), [Err(error)]);
    }
}

/// 100,000 seeded mutations of a compound and of its packets: no panic, and never more packets than could fit.
#[test]
fn mutations_neither_panic_nor_hang() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let whole = compound();
    let mut singles = Vec::new();
    let mut rest = &whole[..];
    while let Ok((_, _, after)) = split(rest) {
        singles.push(rest[..rest.len() - after.len()].to_vec());
        rest = after;
    }
    assert_eq!(singles.len(), 9);
    let (mut good, mut bad) = (0, 0);
    for round in 0..100_000 {
        let mut bytes = if round % 3 == 0 { whole.clone() } else { singles.choose(&mut rng).unwrap().clone() };
        if round % 10 == 9 {
            let from = rng.random_range(4..bytes.len().max(5)).min(bytes.len());
            rng.fill_bytes(&mut bytes[from..]);
        }
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                _ => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(&mut rng).unwrap(),
            }
        }
        if round % 5 == 0 {
            bytes.truncate(rng.random_range(0..=bytes.len()));
        }
        let results = parse(&bytes).take(bytes.len() / 4 + 2).collect::<Vec<_>>();
        assert!(results.len() <= bytes.len() / 4 + 1);
        good += results.iter().filter(|r| r.is_ok()).count();
        bad += results.iter().filter(|r| r.is_err()).count();
        visit(&bytes);
    }
    assert!(good > 50_000 && bad > 20_000, "the mutations must reach both: {good} good, {bad} bad");
}
