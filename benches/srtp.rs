//! SRTP beside the bare cipher in the same run: `cargo bench --bench srtp`.
//!
//! Limit: at most 60 ns above the bare cipher at 1100 B. Bare is what the libraries give for the same bytes with the
//! keys set up: ring's AES-128-GCM, or the `ctr` and `hmac` crates on a copy of a keyed state; ours adds header, nonce,
//! index, tag placement and, when opening, estimate and replay window.
//!
//! Each line is the median of interleaved rounds of ns a packet, over packets of many sessions with own keys, since a
//! participant's packet rarely finds its keys in the first-level cache. `--test` (as `cargo test --benches` passes it)
//! runs a round of everything without judging.

use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, KeyInit as _, StreamCipherCore};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use hmac::{Hmac, Mac};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use roomful::media::rtp;
use roomful::media::srtp::{RtpOpener, RtpSealer, RxIndex, TAG_MAX, TxIndex};
use roomful::types::Suite;
use sha1::Sha1;
use std::hint::black_box;
use std::time::Instant;

const LIMIT_NS: f64 = 60.0;
const SESSIONS: usize = 64;
const HEADER: usize = 12;
/// Payload lengths for packets of 1100 B and 112 B.
const SIZES: [usize; 2] = [1100, 112];

fn main() {
    let rounds = if std::env::args().any(|arg| arg == "--test") { 1 } else { 301 };
    println!("ns a packet, median of {rounds} rounds of {SESSIONS} sessions\n");
    println!("suite              bytes  what      bare    ours   above");
    let mut worst = f64::MIN;
    for suite in [Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80] {
        for size in SIZES {
            for (what, [bare, ours]) in [("seal", seal(suite, size, rounds)), ("open", open(suite, size, rounds))] {
                let above = ours - bare;
                println!("{:<18} {size:>5}  {what}   {bare:>7.0} {ours:>7.0} {above:>+7.0}", suite.as_str());
                worst = worst.max(above);
            }
        }
    }
    println!("\nworst: {worst:+.0} ns above the bare cipher, limit {LIMIT_NS:+.0} ns");
}

/// The bare ciphers, keyed.
enum Bare {
    Gcm(Box<LessSafeKey>),
    Cm(Box<(Aes128Enc, Hmac<Sha1>)>),
}

impl Bare {
    fn new(suite: Suite, key: &[u8; 16]) -> Bare {
        match suite {
            Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => {
                Bare::Gcm(Box::new(LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).unwrap())))
            }
            Suite::Aes128CmSha1_80 => {
                let mac = <Hmac<Sha1> as hmac::KeyInit>::new_from_slice(key).unwrap();
                Bare::Cm(Box::new((Aes128Enc::new(key.into()), mac)))
            }
        }
    }

    fn nonce(count: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&count.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, count: u64, packet: &mut [u8], len: usize) {
        match self {
            Bare::Gcm(key) => {
                let (header, payload) = packet[..len].split_at_mut(HEADER);
                let tag = key.seal_in_place_separate_tag(Self::nonce(count), Aad::from(&*header), payload).unwrap();
                let _ = black_box(tag);
            }
            Bare::Cm(keys) => {
                let (cipher, mac) = &**keys;
                let iv = (u128::from(count) << 16).to_be_bytes();
                CtrCore::<_, Ctr128BE>::inner_iv_init(cipher, &iv.into())
                    .apply_keystream_partial((&mut packet[HEADER..len]).into());
                let mut mac = mac.clone();
                mac.update(&packet[..len]);
                black_box(mac.finalize().into_bytes());
            }
        }
    }

    fn open(&self, count: u64, packet: &mut [u8]) {
        match self {
            Bare::Gcm(key) => {
                let (header, sealed) = packet.split_at_mut(HEADER);
                black_box(key.open_in_place(Self::nonce(count), Aad::from(&*header), sealed).unwrap().len());
            }
            Bare::Cm(keys) => {
                let (cipher, mac) = &**keys;
                let mut mac = mac.clone();
                mac.update(packet);
                black_box(mac.finalize().into_bytes());
                let iv = (u128::from(count) << 16).to_be_bytes();
                CtrCore::<_, Ctr128BE>::inner_iv_init(cipher, &iv.into())
                    .apply_keystream_partial((&mut packet[HEADER..]).into());
            }
        }
    }
}

fn keys(suite: Suite) -> impl Iterator<Item = (RtpSealer, RtpOpener, Bare)> {
    (0..SESSIONS as u8).map(move |i| {
        let (key, salt) = ([i; 16], [i; 14]);
        (RtpSealer::new(suite, &key, &salt), RtpOpener::new(suite, &key, &salt), Bare::new(suite, &key))
    })
}

fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; size + TAG_MAX];
    packet[..HEADER].copy_from_slice(&[0x80, 96, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    packet
}

/// Medians of bare and ours.
fn seal(suite: Suite, size: usize, rounds: usize) -> [f64; 2] {
    let mut sessions: Vec<_> =
        keys(suite).map(|(sealer, _, bare)| (sealer, bare, TxIndex::new(0), packet(size))).collect();
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..rounds as u64 {
        samples[0].push(timed(|| {
            sessions.iter_mut().for_each(|(_, bare, _, packet)| bare.seal(round, packet, size));
        }));
        samples[1].push(timed(|| {
            for (sealer, _, tx, packet) in &mut sessions {
                let (seq, roc) = tx.take();
                packet[2..4].copy_from_slice(&seq.to_be_bytes());
                black_box(sealer.seal(packet, size, HEADER, roc).unwrap());
            }
        }));
    }
    samples.map(median)
}

fn open(suite: Suite, size: usize, rounds: usize) -> [f64; 2] {
    let mut sessions: Vec<_> =
        keys(suite).map(|keys| (keys, TxIndex::new(0), RxIndex::default(), packet(size))).collect();
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..rounds as u64 {
        let mut sealed = Vec::new();
        for ((_, _, bare), _, _, packet) in &mut sessions {
            // ring checks its tag, so it needs one of its own making.
            if let Bare::Gcm(key) = bare {
                let (header, payload) = packet[..size].split_at_mut(HEADER);
                let tag = key.seal_in_place_separate_tag(Bare::nonce(round), Aad::from(&*header), payload).unwrap();
                packet[size..size + 16].copy_from_slice(tag.as_ref());
            }
            sealed.push(packet.clone());
        }
        let tag = if suite == Suite::AeadAes128Gcm { 16 } else { 0 };
        samples[0].push(timed(|| {
            for (((_, _, bare), ..), packet) in sessions.iter().zip(&mut sealed) {
                bare.open(round, &mut packet[..size + tag]);
            }
        }));

        let mut lengths = Vec::new();
        for (((sealer, ..), tx, _, packet), sealed) in sessions.iter_mut().zip(&mut sealed) {
            let (seq, roc) = tx.take();
            packet[2..4].copy_from_slice(&seq.to_be_bytes());
            lengths.push(sealer.seal(packet, size, HEADER, roc).unwrap());
            sealed.copy_from_slice(packet);
        }
        samples[1].push(timed(|| {
            for ((((_, opener, _), _, rx, _), sealed), len) in sessions.iter_mut().zip(&mut sealed).zip(&lengths) {
                let header = rtp::parse(&sealed[..*len]).unwrap();
                let index = rx.estimate(header.seq);
                assert!(!rx.is_replay(index));
                black_box(opener.open(&mut sealed[..*len], header.header_len, index).unwrap());
                rx.commit(index);
            }
        }));
    }
    samples.map(median)
}

/// ns a session.
fn timed(run: impl FnOnce()) -> f64 {
    let started = Instant::now();
    run();
    started.elapsed().as_nanos() as f64 / SESSIONS as f64
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
