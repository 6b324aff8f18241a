use super::*;
use crate::types::Suite::{AeadAes128Gcm, Aes128CmSha1_80};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const KEY: [u8; 16] = [0xe1, 0xf9, 0x7a, 0x0d, 0x3e, 1, 0x8b, 0xe0, 0xd6, 0x4f, 0xa3, 0x2c, 6, 0xde, 0x41, 0x39];
const SALT: [u8; 14] = [0x0e, 0xc6, 0x75, 0xad, 0x49, 0x8a, 0xfe, 0xeb, 0xb6, 0x96, 0x0b, 0x3a, 0xab, 0xe6];
const SUITES: [Suite; 2] = [Aes128CmSha1_80, AeadAes128Gcm];

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn with_room(plain: &[u8]) -> Vec<u8> {
    [plain, &[0xee; TAG_MAX]].concat()
}

/// A plain packet with a 12-byte header.
fn packet(seq: u16, payload_len: usize) -> Vec<u8> {
    let mut packet = vec![0x80, 96, 0, 0, 0, 0, 0, 7, 0xca, 0xfe, 0xba, 0xbe];
    packet[2..4].copy_from_slice(&seq.to_be_bytes());
    packet.extend((0..payload_len).map(|i| (i * 13) as u8));
    packet
}

fn sealed(sealer: &RtpSealer, plain: &[u8], roc: u32) -> Vec<u8> {
    let mut buf = with_room(plain);
    let len = sealer.seal(&mut buf, plain.len(), 12, roc).unwrap();
    buf.truncate(len);
    buf
}

// ---- vectors

/// RFC 7714's session key and salt for all AEAD_AES_128_GCM examples (16.1, 17.1).
fn rfc_7714() -> Gcm {
    let key: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
    let salt: [u8; 12] = hex("517569642070726f2071756f").try_into().unwrap();
    Gcm::from_session_keys(&key, &salt)
}

const GALLIA: &str =
    "8040f17b 8041f8d3 5501a0b2 47616c6c 696120657374206f6d6e69732064697669736120696e207061727465732074726573";
const GALLIA_SEALED: &str = "8040f17b 8041f8d3 5501a0b2 f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf\
                             8833 899d7f27beb16a9152cf765ee4390cce";
const REPORT: &str =
    "81c8000d 4d617273 4e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";
const REPORT_SEALED: &str = "81c8000d 4d617273 63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded\
                             0bb9275bc84aa45896cf4d2fc5abf87245d9eade 800005d4";
const REPORT_TAGGED: &str = "81c8000d 4d617273 4e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef\
                             841dd9683dd78ec92ae58790125f62b3 000005d4";

/// RFC 7714 16.1.1 and 16.1.2.
#[test]
fn srtp_gcm_matches_rfc_7714() {
    let plain = hex(GALLIA);
    let mut buf = with_room(&plain);
    let sealer = RtpSealer { cipher: Cipher::Gcm(rfc_7714()) };
    let len = sealer.seal(&mut buf, plain.len(), 12, 0).unwrap();
    assert_eq!(buf[..len], hex(GALLIA_SEALED));

    let opener = RtpOpener { cipher: Cipher::Gcm(rfc_7714()) };
    let opened = opener.open(&mut buf[..len], 12, 0xf17b).unwrap();
    assert_eq!(buf[..opened], plain);
}

/// RFC 7714 17.1 and 17.2: encrypted; 17.3 and 17.4: authenticated only.
#[test]
fn srtcp_gcm_matches_rfc_7714() {
    let plain = hex(REPORT);
    let mut buf = with_room(&plain);
    let mut sealer = RtcpSealer::for_test(Cipher::Gcm(rfc_7714()), 0x5d4);
    let len = sealer.seal(&mut buf, plain.len()).unwrap();
    assert_eq!(buf[..len], hex(REPORT_SEALED));

    for vector in [REPORT_SEALED, REPORT_TAGGED] {
        let mut opener = RtcpOpener::for_test(Cipher::Gcm(rfc_7714()));
        let mut packet = hex(vector);
        let opened = opener.open(&mut packet).unwrap();
        assert_eq!(packet[..opened], plain);

        let mut packet = hex(vector);
        packet[20] ^= 1;
        assert_eq!(RtcpOpener::for_test(Cipher::Gcm(rfc_7714())).open(&mut packet), Err(SrtpError::Forged));
    }
}

/// libsrtp's reference packets for RFC 3711 B.3's master key.
#[test]
fn counter_mode_matches_the_reference_packets() {
    let plain = hex("800f1234 decafbad cafebabe abababababababababababababababab");
    let expected = hex("800f1234 decafbad cafebabe 4e55dc4ce79978d88ca4d215949d2402 b78d6acc99ea179b8dbb");
    assert_eq!(sealed(&RtpSealer::new(Aes128CmSha1_80, &KEY, &SALT), &plain, 0), expected);
    let mut packet = expected;
    let opened = RtpOpener::new(Aes128CmSha1_80, &KEY, &SALT).open(&mut packet, 12, 0x1234).unwrap();
    assert_eq!(packet[..opened], plain);

    let plain = hex("81c8000b cafebabe abababababababababababababababab");
    let expected = hex("81c8000b cafebabe 7128035be487b9bdbef89041f977a5a8 80000001 993e08cd54d6c1230798");
    let mut buf = with_room(&plain);
    let cipher = Cipher::new(Aes128CmSha1_80, &KEY, &SALT, kdf::Purpose::Rtcp);
    let len = RtcpSealer::for_test(cipher, 1).seal(&mut buf, plain.len()).unwrap();
    assert_eq!(buf[..len], expected);
    let opened = RtcpOpener::new(Aes128CmSha1_80, &KEY, &SALT).open(&mut buf[..len]).unwrap();
    assert_eq!(buf[..opened], plain);
}

/// libsrtp's GCM reference packets: the only published ones that begin at a master key with 12 bytes of salt.
#[test]
fn gcm_matches_the_reference_packets() {
    let key: [u8; 16] = std::array::from_fn(|i| i as u8);
    let salt: [u8; 14] = std::array::from_fn(|i| 0xa0 + i as u8);
    let plain = hex("800f1234 decafbad cafebabe abababababababababababababababab");
    assert_eq!(
        sealed(&RtpSealer::new(AeadAes128Gcm, &key, &salt), &plain, 0),
        hex("800f1234 decafbad cafebabe c5002ede04cfdd2eb91159e0880aa06e d2976826f796b201df3131a127e8a392")
    );
    let plain = hex("81c8000b cafebabe abababababababababababababababab");
    let cipher = Cipher::new(AeadAes128Gcm, &key, &salt, kdf::Purpose::Rtcp);
    assert_eq!(
        sealed_report(&mut RtcpSealer::for_test(cipher, 1), &plain),
        hex("81c8000b cafebabe c98b8b5df0392a55852b6c21ac8e7025 c52c6fbea2b3b446ea31123ba88ce61e 80000001")
    );
}

#[test]
fn gcm_looks_at_12_bytes_of_salt() {
    let mut other = SALT;
    other[12..].copy_from_slice(&[0x55, 0xaa]);
    let plain = packet(5, 50);
    assert_eq!(
        sealed(&RtpSealer::new(AeadAes128Gcm, &KEY, &SALT), &plain, 0),
        sealed(&RtpSealer::new(AeadAes128Gcm, &KEY, &other), &plain, 0)
    );
}

// ---- SRTP

/// Sends 200,000 packets over three wraps, reordered within 40 and with 1 % lost: every packet that arrives opens.
#[test]
fn stream_survives_wraps_loss_and_reordering() {
    for suite in SUITES {
        let (sealer, opener) = (RtpSealer::new(suite, &KEY, &SALT), RtpOpener::new(suite, &KEY, &SALT));
        let (mut tx, mut rx) = (TxIndex::new(30_000), RxIndex::default());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut in_flight = Vec::new();
        let mut opened = 0;
        let mut arrive = |mut packet: Vec<u8>| {
            let index = rx.estimate(u16::from_be_bytes([packet[2], packet[3]]));
            assert!(!rx.is_replay(index));
            let len = opener.open(&mut packet, 12, index).unwrap();
            assert_eq!(packet[12..len], packet_payload(len));
            rx.commit(index);
            opened += 1;
        };
        let mut lost = 0;
        for _ in 0..200_000 {
            let (seq, roc) = tx.take();
            if rng.random_ratio(1, 100) {
                lost += 1;
                continue;
            }
            in_flight.push(sealed(&sealer, &packet(seq, 20), roc));
            if in_flight.len() == 40 {
                arrive(in_flight.swap_remove(rng.random_range(0..40)));
            }
        }
        in_flight.into_iter().for_each(&mut arrive);
        assert_eq!(opened + lost, 200_000);
        assert_eq!(rx.highest().unwrap() >> 16, (30_000 + 200_000 - 1) >> 16);
    }
}

fn packet_payload(len: usize) -> Vec<u8> {
    packet(0, len - 12)[12..].to_vec()
}

/// A forged packet that claims to lie beyond the wrap must leave ROC and window as they were.
#[test]
fn forged_packets_move_neither_roc_nor_window() {
    for suite in SUITES {
        let (sealer, opener) = (RtpSealer::new(suite, &KEY, &SALT), RtpOpener::new(suite, &KEY, &SALT));
        let mut rx = RxIndex::default();
        let mut receive = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            let index = rx.estimate(u16::from_be_bytes([packet[2], packet[3]]));
            if rx.is_replay(index) {
                return Err(SrtpError::Replayed);
            }
            let len = opener.open(&mut packet, 12, index)?;
            rx.commit(index);
            Ok(len)
        };
        let first = sealed(&sealer, &packet(65_000, 30), 0);
        assert_eq!(receive(&first), Ok(42));
        assert_eq!(receive(&first), Err(SrtpError::Replayed));
        for seq in 0..500 {
            assert_eq!(receive(&with_room(&packet(seq, 30))), Err(SrtpError::Forged));
        }
        assert_eq!(receive(&sealed(&sealer, &packet(65_001, 30), 0)), Ok(42));
        assert_eq!(receive(&sealed(&sealer, &packet(3, 30), 1)), Ok(42));
        assert_eq!(receive(&sealed(&sealer, &packet(65_002, 30), 0)), Ok(42));
        // The right packet under another ROC is a forgery too.
        assert_eq!(receive(&sealed(&sealer, &packet(4, 30), 0)), Err(SrtpError::Forged));
    }
}

#[test]
fn header_stays_clear_and_is_authenticated() {
    for suite in SUITES {
        let (sealer, opener) = (RtpSealer::new(suite, &KEY, &SALT), RtpOpener::new(suite, &KEY, &SALT));
        let plain = packet(9, 60);
        let mut buf = with_room(&plain);
        let len = sealer.seal(&mut buf, plain.len(), 32, 4).unwrap();
        assert_eq!(buf[..32], plain[..32]);
        assert_ne!(buf[32..72], plain[32..72]);
        for at in 0..len {
            let mut packet = buf[..len].to_vec();
            packet[at] ^= 0x10;
            assert_eq!(opener.open(&mut packet, 32, 4 << 16 | 9), Err(SrtpError::Forged), "byte {at}");
        }
        assert_eq!(opener.open(&mut buf[..len], 32, 4 << 16 | 9), Ok(plain.len()));
        assert_eq!(buf[..plain.len()], plain);
    }
}

#[test]
fn every_payload_length_opens_again() {
    for suite in SUITES {
        let (sealer, opener) = (RtpSealer::new(suite, &KEY, &SALT), RtpOpener::new(suite, &KEY, &SALT));
        for payload_len in 0..1500 {
            let plain = packet(payload_len as u16, payload_len);
            let mut buf = sealed(&sealer, &plain, 1);
            let len = opener.open(&mut buf, 12, 1 << 16 | payload_len as u64).unwrap();
            assert_eq!(buf[..len], plain);
        }
    }
}

#[test]
fn lengths_that_cannot_be_are_errors_and_change_nothing() {
    for suite in SUITES {
        let (sealer, opener) = (RtpSealer::new(suite, &KEY, &SALT), RtpOpener::new(suite, &KEY, &SALT));
        let mut buf = with_room(&packet(1, 10));
        let before = buf.clone();
        assert_eq!(sealer.seal(&mut buf, 22, 11, 0), Err(SrtpError::Malformed));
        assert_eq!(sealer.seal(&mut buf, 22, 23, 0), Err(SrtpError::Malformed));
        assert_eq!(sealer.seal(&mut buf, 23, 12, 0), Err(SrtpError::NoRoom));
        assert_eq!(sealer.seal(&mut buf, 1000, 12, 0), Err(SrtpError::NoRoom));
        assert_eq!(sealer.seal(&mut buf, usize::MAX, 12, 0), Err(SrtpError::NoRoom));
        assert_eq!(buf, before);
        for len in 0..12 {
            assert_eq!(opener.open(&mut buf[..len], 12, 0), Err(SrtpError::Malformed));
        }
        assert_eq!(opener.open(&mut buf, 0, 0), Err(SrtpError::Malformed));
        assert_eq!(opener.open(&mut buf, usize::MAX, 0), Err(SrtpError::Malformed));
    }
}

// ---- SRTCP

fn report(sender: u32, len: usize) -> Vec<u8> {
    let mut report = vec![0x80, 201, 0, (len / 4 - 1) as u8];
    report.extend(sender.to_be_bytes());
    report.extend((8..len).map(|i| i as u8));
    report
}

fn sealed_report(sealer: &mut RtcpSealer, plain: &[u8]) -> Vec<u8> {
    let mut buf = with_room(plain);
    let len = sealer.seal(&mut buf, plain.len()).unwrap();
    buf.truncate(len);
    buf
}

#[test]
fn srtcp_counts_from_zero_and_refuses_replays_per_sender() {
    for suite in SUITES {
        let mut sealer = RtcpSealer::new(suite, &KEY, &SALT);
        let mut opener = RtcpOpener::new(suite, &KEY, &SALT);
        let plains: Vec<_> = (0..200).map(|i| report(i % 3, 8 + 4 * (i as usize % 20))).collect();
        let packets: Vec<_> = plains.iter().map(|plain| sealed_report(&mut sealer, plain)).collect();
        let order = (0..packets.len()).map(|i| i ^ 1); // neighbours swapped
        for i in order {
            let mut packet = packets[i].clone();
            let len = opener.open(&mut packet).unwrap();
            assert_eq!(packet[..len], plains[i]);
            assert_eq!(opener.open(&mut packets[i].clone()), Err(SrtpError::Replayed));
        }
        assert_eq!(opener.open(&mut packets[0].clone()), Err(SrtpError::Replayed));
        let tag_len = if suite == AeadAes128Gcm { 0 } else { 10 };
        let word_at = packets[0].len() - tag_len - 4;
        assert_eq!(packets[0][word_at..word_at + 4], [0x80, 0, 0, 0]);
    }
}

/// libsrtp keeps one index for each sender SSRC: equal indices of different senders are no replay, and more senders
/// than the table holds must not refuse a good packet.
#[test]
fn equal_indices_of_many_senders_are_no_replay() {
    for suite in SUITES {
        let mut opener = RtcpOpener::new(suite, &KEY, &SALT);
        for round in 0..3 {
            for sender in 0..100 {
                let cipher = Cipher::new(suite, &KEY, &SALT, kdf::Purpose::Rtcp);
                let mut packet = sealed_report(&mut RtcpSealer::for_test(cipher, round), &report(sender, 32));
                assert_eq!(opener.open(&mut packet), Ok(32));
            }
        }
    }
}

#[test]
fn forged_srtcp_does_not_move_the_window() {
    for suite in SUITES {
        let mut sealer = RtcpSealer::new(suite, &KEY, &SALT);
        let mut opener = RtcpOpener::new(suite, &KEY, &SALT);
        assert!(opener.open(&mut sealed_report(&mut sealer, &report(1, 40))).is_ok());
        let good = sealed_report(&mut sealer, &report(1, 40));
        for at in 0..good.len() {
            for mask in [0x01, 0x80, 0x7f] {
                let mut packet = good.clone();
                packet[at] ^= mask;
                let outcome = opener.open(&mut packet);
                assert!(matches!(outcome, Err(SrtpError::Forged | SrtpError::Replayed)), "byte {at}: {outcome:?}");
            }
        }
        assert_eq!(opener.open(&mut good.clone()), Ok(40));
    }
}

#[test]
fn srtcp_index_never_repeats() {
    for suite in SUITES {
        let cipher = Cipher::new(suite, &KEY, &SALT, kdf::Purpose::Rtcp);
        let mut sealer = RtcpSealer::for_test(cipher, (1 << 31) - 1);
        let mut packet = sealed_report(&mut sealer, &report(1, 32));
        assert_eq!(RtcpOpener::new(suite, &KEY, &SALT).open(&mut packet), Ok(32));
        let mut buf = with_room(&report(1, 32));
        assert_eq!(sealer.seal(&mut buf, 32), Err(SrtpError::KeyExhausted));
        assert_eq!(sealer.seal(&mut buf, 7), Err(SrtpError::Malformed));
        assert_eq!(sealer.seal(&mut buf, 33), Err(SrtpError::NoRoom));
    }
}

// ---- bad input

/// 100,000 seeded mutations and noises: never a panic, never accepted unless unchanged.
#[test]
fn mutated_packets_are_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for suite in SUITES {
        let sealer = RtpSealer::new(suite, &KEY, &SALT);
        let opener = RtpOpener::new(suite, &KEY, &SALT);
        let mut rtcp_opener = RtcpOpener::new(suite, &KEY, &SALT);
        let rtp = sealed(&sealer, &packet(77, 90), 0);
        let rtcp = sealed_report(&mut RtcpSealer::new(suite, &KEY, &SALT), &report(3, 64));
        for round in 0..25_000 {
            for original in [&rtp, &rtcp] {
                let mut packet = original.clone();
                if round % 4 == 0 {
                    rng.fill_bytes(&mut packet);
                }
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(0..packet.len());
                    packet[at] = rng.random();
                }
                packet.truncate(rng.random_range(0..=packet.len()));
                let unchanged = packet == *original;
                let header_len = rng.random_range(0..packet.len() + 2);
                assert!(opener.open(&mut packet.clone(), header_len, 77).is_err() || header_len == 12 && unchanged);
                assert!(rtcp_opener.open(&mut packet).is_err() || unchanged);
            }
        }
    }
}
