//! Our SRTP and SRTCP against rtc-srtp, in both directions: the independent second opinion.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use roomful::media::rtp;
use roomful::media::srtp::{RtcpOpener, RtcpSealer, RtpOpener, RtpSealer, RxIndex, TAG_MAX, TxIndex};
use roomful::types::Suite;
use rtc::srtp::context::Context;
use rtc::srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc::srtp::protection_profile::ProtectionProfile;

const SUITES: [Suite; 3] = [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm, Suite::AeadAes256Gcm];
const PACKETS: usize = 3_000;

struct Keys {
    suite: Suite,
    key: [u8; 32],
    salt: [u8; 14],
}

impl Keys {
    fn random(suite: Suite, rng: &mut ChaCha8Rng) -> Keys {
        Keys { suite, key: rng.random(), salt: rng.random() }
    }

    fn stock(&self) -> Context {
        let profile = match self.suite {
            Suite::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            Suite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            Suite::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        };
        let provider = rtc::crypto::default_provider().unwrap();
        Context::new(
            &self.key[..self.suite.key_len()],
            &self.salt[..self.suite.salt_len()],
            profile,
            Some(srtp_replay_protection(64)),
            Some(srtcp_replay_protection(64)),
            provider.crypto(),
        )
        .unwrap()
    }
}

/// A packet with up to 15 CSRCs, an extension of random words half of the time, and a payload of up to 1200 bytes.
fn rtp_packet(rng: &mut ChaCha8Rng, seq: u16) -> Vec<u8> {
    let csrcs = if rng.random() { rng.random_range(0..16) } else { 0u8 };
    let extension = rng.random_bool(0.5);
    let mut packet = vec![0x80 | u8::from(extension) << 4 | csrcs, rng.random()];
    packet.extend(seq.to_be_bytes());
    packet.extend(rng.random::<u32>().to_be_bytes());
    packet.extend(0xcafe_babe_u32.to_be_bytes());
    packet.extend((0..4 * csrcs).map(|_| rng.random::<u8>()));
    if extension {
        // Elements of id 1 and one byte each, so that every parser agrees on them.
        let words = rng.random_range(1..8u8);
        packet.extend([0xbe, 0xde, 0, words]);
        packet.extend((0..2 * words).flat_map(|_| [0x10, rng.random()]));
    }
    let mut payload = vec![0; rng.random_range(1..1200)];
    rng.fill_bytes(&mut payload);
    packet.extend(payload);
    packet
}

fn rtcp_packet(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 0];
    packet.extend(rng.random_range(0..4u32).to_be_bytes());
    let mut rest = vec![0; 4 * rng.random_range(0..250)];
    rng.fill_bytes(&mut rest);
    packet.extend(rest);
    let words = (packet.len() / 4 - 1) as u16;
    packet[2..4].copy_from_slice(&words.to_be_bytes());
    packet
}

fn with_room(plain: &[u8]) -> Vec<u8> {
    [plain, &[0; TAG_MAX]].concat()
}

#[test]
fn stock_opens_what_we_seal() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for suite in SUITES {
        let keys = Keys::random(suite, &mut rng);
        let (sealer, mut stock) = (RtpSealer::new(suite, &keys.key, &keys.salt), keys.stock());
        let mut tx = TxIndex::new(64_000); // across the wrap
        for _ in 0..PACKETS {
            let (seq, roc) = tx.take();
            let plain = rtp_packet(&mut rng, seq);
            let mut buf = with_room(&plain);
            let header_len = rtp::parse(&plain).unwrap().header_len;
            let len = sealer.seal(&mut buf, plain.len(), header_len, roc).unwrap();
            assert_eq!(stock.decrypt_rtp(&buf[..len]).unwrap(), plain, "{suite} {seq}");
        }
    }
}

#[test]
fn we_open_what_stock_seals() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for suite in SUITES {
        let keys = Keys::random(suite, &mut rng);
        let (opener, mut stock) = (RtpOpener::new(suite, &keys.key, &keys.salt), keys.stock());
        let mut rx = RxIndex::default();
        for i in 0..PACKETS {
            let seq = 64_000u16.wrapping_add(i as u16);
            let plain = rtp_packet(&mut rng, seq);
            let mut sealed = stock.encrypt_rtp(&plain).unwrap();
            let header = rtp::parse(&sealed).unwrap();
            let index = rx.estimate(header.seq);
            assert!(!rx.is_replay(index));
            let len = opener.open(&mut sealed, header.header_len, index).unwrap();
            rx.commit(index);
            assert_eq!(sealed[..len], plain, "{suite} {seq}");
        }
        assert_eq!(rx.highest(), Some(64_000 + PACKETS as u64 - 1));
    }
}

#[test]
fn stock_opens_our_srtcp_from_the_first_on() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for suite in SUITES {
        let keys = Keys::random(suite, &mut rng);
        let (mut sealer, mut stock) = (RtcpSealer::new(suite, &keys.key, &keys.salt), keys.stock());
        for _ in 0..PACKETS {
            let plain = rtcp_packet(&mut rng);
            let mut buf = with_room(&plain);
            let len = sealer.seal(&mut buf, plain.len()).unwrap();
            assert_eq!(stock.decrypt_rtcp(&buf[..len]).unwrap(), plain);
        }
    }
}

/// rtc-srtp counts SRTCP for each sender, as libsrtp does.
#[test]
fn we_open_stock_srtcp_of_several_senders() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for suite in SUITES {
        let keys = Keys::random(suite, &mut rng);
        let (mut opener, mut stock) = (RtcpOpener::new(suite, &keys.key, &keys.salt), keys.stock());
        for _ in 0..PACKETS {
            let plain = rtcp_packet(&mut rng);
            let mut sealed = stock.encrypt_rtcp(&plain).unwrap();
            let len = opener.open(&mut sealed).unwrap();
            assert_eq!(sealed[..len], plain);
        }
    }
}
