//! The stamp inside every frame we send: who sent it, as which packet, and when. It is what makes loss and delay end
//! to end: the counters say how many media packets the sender had sent, whatever the servers between renumber.
//!
//! Where it rides, chosen so that decoders see the same media with and without it:
//!
//! - VP8: the last [`LEN`] bytes of the frame, after the end of its last partition, so in the *last* packet (marker
//!   set). Servers rewrite the payload descriptor only; it is not looked at here.
//! - H.264: an SEI message user_data_unregistered (H.264 D.1.7) before the first slice, so in the *first* packet of the
//!   frame, alone or inside a STAP-A.
//! - Opus: padding of a code 3 packet (RFC 6716 3.2.5) that begins with 0x00: newer decoders read padding as
//!   extensions, and extension 0 says that the rest is padding indeed. Every packet.
//!
//! [`Stamp::packet`] is the number of the packet in which the stamp rides. Between two stamps of a stream `b.packet -
//! a.packet` media packets were sent after the one with `a`, up to and including the one with `b`.
//!
//! Layout, big-endian: magic 4, run 4, sender 4, stream 1, frame 4, packet 4, sent_ns 8, check sum 4.

use crate::types::Codec;

/// Bytes of a stamp in VP8 and Opus.
pub const LEN: usize = 33;

/// Bytes of a whole SEI NAL unit with a stamp: header, type, size, UUID, stamp, trailing bits.
pub const SEI_LEN: usize = 1 + 1 + 1 + UUID.len() + SEVEN_BIT_LEN + 1;

/// Where the stamp begins in that NAL unit.
pub const SEI_STAMP_AT: usize = 3 + UUID.len();

/// What [`Stamp::write_sei`] writes: [`LEN`] bytes, seven bits in each byte.
const SEVEN_BIT_LEN: usize = (LEN * 8).div_ceil(7);

/// Changes with the layout, so that two versions do not misread each other.
const MAGIC: [u8; 4] = *b"rfS1";

/// Free of zero bytes, so that no emulation prevention is needed.
const UUID: [u8; 16] = [0x5c, 0xf3, 0x1d, 0x8a, 0x72, 0xe6, 0x4b, 0x19, 0x9d, 0x47, 0xa8, 0x6e, 0x33, 0xc1, 0xbb, 0x52];

/// One stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Random number of the run; a stamp of another run is somebody else's.
    pub run: u32,
    /// The sender's [`crate::types::LegId`].
    pub sender: u32,
    /// Which of the sender's streams: 0 audio, 1 video.
    pub stream: u8,
    /// Number of the frame in its stream, from 0, rising by one.
    pub frame: u32,
    /// Media packets of this stream sent so far, the one with this stamp included; so the first packet is 1. The low
    /// 32 bits travel: enough for three months of one stream.
    pub packet: u64,
    /// CLOCK_REALTIME when the packet with this stamp was sent, ns.
    pub sent_ns: u64,
}

/// What [`find`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Whole and with the right check sum. Of which run is for the caller to see.
    Stamp(Stamp),
    /// No trace of one: a packet that carries none, or media that is not ours.
    None,
    /// Something that began as a stamp and can't be used.
    Foreign(Foreign),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Foreign {
    /// The packet ends before the stamp does.
    Truncated,
    /// The check sum is wrong, or bytes stand in it that no stamp has.
    Damaged,
}

/// Looks for a stamp in the payload of an RTP packet (no RTP header, no RTP padding). Never panics.
///
/// VP8 wants the packets with the marker bit, H.264 the first of each frame, Opus all; in others there is none to find.
pub fn find(codec: Codec, payload: &[u8]) -> Found {
    match codec {
        Codec::Opus => find_opus(payload),
        Codec::Vp8 => find_at_end(payload),
        Codec::H264 => find_h264(payload),
    }
}

impl Stamp {
    /// Writes the plain form to the first [`LEN`] bytes of `out`.
    pub fn write(&self, out: &mut [u8]) {
        out[..LEN].copy_from_slice(&self.to_bytes());
    }

    /// Writes the form for an SEI at [`SEI_STAMP_AT`] of the NAL unit that [`sei_template`] gives. No byte of it is
    /// below 0x80, so that it needs no emulation prevention (H.264 7.4.1) and its size never changes.
    pub fn write_sei(&self, out: &mut [u8]) {
        to_seven_bit(&self.to_bytes(), &mut out[..SEVEN_BIT_LEN]);
    }

    fn to_bytes(self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[0..4].copy_from_slice(&MAGIC);
        b[4..8].copy_from_slice(&self.run.to_be_bytes());
        b[8..12].copy_from_slice(&self.sender.to_be_bytes());
        b[12] = self.stream;
        b[13..17].copy_from_slice(&self.frame.to_be_bytes());
        b[17..21].copy_from_slice(&(self.packet as u32).to_be_bytes());
        b[21..29].copy_from_slice(&self.sent_ns.to_be_bytes());
        let sum = check_sum(&b);
        b[29..33].copy_from_slice(&sum.to_be_bytes());
        b
    }

    /// `None` where magic or check sum are wrong.
    fn from_bytes(b: &[u8; LEN]) -> Option<Stamp> {
        if b[..4] != MAGIC || be32(b, 29) != check_sum(b) {
            return None;
        }
        let sent_ns = u64::from(be32(b, 21)) << 32 | u64::from(be32(b, 25));
        let (run, sender, stream, frame, packet) = (be32(b, 4), be32(b, 8), b[12], be32(b, 13), u64::from(be32(b, 17)));
        Some(Stamp { run, sender, stream, frame, packet, sent_ns })
    }
}

/// The SEI NAL unit with room for a stamp at [`SEI_STAMP_AT`].
pub fn sei_template() -> [u8; SEI_LEN] {
    let mut nal = [0x80; SEI_LEN];
    nal[0] = 6; // nal_ref_idc 0, type SEI
    nal[1] = SEI_USER_DATA_UNREGISTERED;
    nal[2] = (UUID.len() + SEVEN_BIT_LEN) as u8;
    nal[3..SEI_STAMP_AT].copy_from_slice(&UUID);
    nal
}

const SEI_USER_DATA_UNREGISTERED: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_STAP_A: u8 = 24;

fn be32(b: &[u8; LEN], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Over the 29 bytes before it. Tells damage, not malice: a few multiplications instead of a table for every byte.
fn check_sum(b: &[u8; LEN]) -> u32 {
    let mut sum = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in b[..LEN - 4].chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_be_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        sum ^= sum >> 32;
    }
    sum as u32
}

fn to_seven_bit(from: &[u8; LEN], to: &mut [u8]) {
    for (chunk, out) in from.chunks(7).zip(to.chunks_mut(8)) {
        let mut word = [0; 8];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u64::from_be_bytes(word);
        for (i, o) in out.iter_mut().enumerate() {
            *o = 0x80 | (word >> (49 - 7 * i)) as u8;
        }
    }
}

/// `None` where a byte is none that [`to_seven_bit`] writes.
fn from_seven_bit(from: &[u8]) -> Option<[u8; LEN]> {
    let mut b = [0; LEN];
    for (chunk, out) in from.chunks(8).zip(b.chunks_mut(7)) {
        let mut word = 0;
        for (i, &c) in chunk.iter().enumerate() {
            if c & 0x80 == 0 {
                return None;
            }
            word |= u64::from(c & 0x7f) << (49 - 7 * i);
        }
        out.copy_from_slice(&word.to_be_bytes()[1..=out.len()]);
    }
    Some(b)
}

fn read(bytes: &[u8; LEN]) -> Found {
    Stamp::from_bytes(bytes).map_or(Found::Foreign(Foreign::Damaged), Found::Stamp)
}

fn find_at_end(payload: &[u8]) -> Found {
    match payload.last_chunk::<LEN>() {
        Some(bytes) if bytes[..4] == MAGIC => read(bytes),
        Some(bytes) => find_truncated(bytes),
        None => find_truncated(payload),
    }
}

/// The magic nearer to the end than a whole stamp is long: cut short on the way.
fn find_truncated(tail: &[u8]) -> Found {
    match tail.windows(MAGIC.len()).any(|w| w == MAGIC) {
        true => Found::Foreign(Foreign::Truncated),
        false => Found::None,
    }
}

fn find_opus(payload: &[u8]) -> Found {
    match opus_padding(payload) {
        None => Found::None,
        Some(padding) => match padding.split_first() {
            Some((0, rest)) if rest.starts_with(&MAGIC) => {
                rest.first_chunk::<LEN>().map_or(Found::Foreign(Foreign::Truncated), read)
            }
            // A packet cut short still says how long its padding was, so that padding seems to begin too early.
            _ => find_truncated(&payload[payload.len().saturating_sub(LEN)..]),
        },
    }
}

/// The padding of an Opus packet with frame count code 3 (RFC 6716 3.2.5). `None` without padding, or where its length
/// is more than the packet's.
fn opus_padding(payload: &[u8]) -> Option<&[u8]> {
    let (&[toc, count], mut rest) = payload.split_first_chunk::<2>()?;
    if toc & 3 != 3 || count & 0x40 == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        if byte < 255 {
            length += usize::from(byte);
            break;
        }
        length += 254;
    }
    (length > 0 && length <= rest.len()).then(|| &rest[rest.len() - length..])
}

fn find_h264(payload: &[u8]) -> Found {
    match payload.first().map(|b| b & 0x1f) {
        Some(NAL_SEI) => find_sei(&payload[1..]),
        Some(NAL_STAP_A) => find_stap_a(&payload[1..]),
        _ => Found::None,
    }
}

/// Units of a STAP-A (RFC 6184 5.7.1): length 2, NAL unit.
fn find_stap_a(mut units: &[u8]) -> Found {
    while let Some((&length, rest)) = units.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(length));
        let (nal, after) = rest.split_at(length.min(rest.len()));
        if nal.first().is_some_and(|b| b & 0x1f == NAL_SEI) {
            let found = find_sei(&nal[1..]);
            if found != Found::None {
                return found;
            }
        }
        units = after;
    }
    Found::None
}

/// SEI messages (H.264 7.3.2.3.1) of a NAL unit without its header.
fn find_sei(mut messages: &[u8]) -> Found {
    // One byte or none left: trailing bits.
    while messages.len() > 1 {
        let Some((kind, rest)) = sei_number(messages) else { break };
        let Some((size, rest)) = sei_number(rest) else { break };
        let (body, after) = rest.split_at(size.min(rest.len()));
        if kind == usize::from(SEI_USER_DATA_UNREGISTERED) && body.starts_with(&UUID) {
            let stamp = &body[UUID.len()..];
            return match stamp.get(..SEVEN_BIT_LEN) {
                None => Found::Foreign(Foreign::Truncated),
                Some(stamp) => from_seven_bit(stamp).map_or(Found::Foreign(Foreign::Damaged), |b| read(&b)),
            };
        }
        messages = after;
    }
    Found::None
}

/// payloadType or payloadSize: a sum of 255s and one byte below.
fn sei_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|&&b| b == 255).count();
    let last = *bytes.get(full)?;
    Some((full * 255 + usize::from(last), &bytes[full + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    const STAMP: Stamp = Stamp {
        run: 0x0000_0001,
        sender: 0x0000_0300,
        stream: 1,
        frame: 0,
        packet: 0x0002_0000,
        sent_ns: 1_700_000_000_123_456_789,
    };

    fn vp8(stamp: Stamp) -> Vec<u8> {
        let mut p = vec![0x90, 0x80, 0x80, 0x01, 0xaa, 0xbb];
        p.resize(6 + LEN, 0);
        stamp.write(&mut p[6..]);
        p
    }

    fn opus(stamp: Stamp) -> Vec<u8> {
        let mut p = vec![0x7b, 0x41, 1 + LEN as u8];
        p.extend([0x55; 80]);
        p.push(0);
        p.resize(84 + LEN, 0);
        stamp.write(&mut p[84..]);
        p
    }

    fn sei(stamp: Stamp) -> Vec<u8> {
        let mut nal = sei_template();
        stamp.write_sei(&mut nal[SEI_STAMP_AT..]);
        nal.to_vec()
    }

    fn stap_a(units: &[&[u8]]) -> Vec<u8> {
        let mut p = vec![0x78];
        for u in units {
            p.extend((u.len() as u16).to_be_bytes());
            p.extend(*u);
        }
        p
    }

    fn every_form(stamp: Stamp) -> [(Codec, Vec<u8>); 4] {
        [
            (Codec::Vp8, vp8(stamp)),
            (Codec::Opus, opus(stamp)),
            (Codec::H264, sei(stamp)),
            (Codec::H264, stap_a(&[&[0x67, 0x42], &[0x68, 0xce], &sei(stamp), &[0x65, 0x88, 0x84]])),
        ]
    }

    #[test]
    fn every_form_is_found() {
        for (codec, payload) in every_form(STAMP) {
            assert_eq!(find(codec, &payload), Found::Stamp(STAMP), "{codec}");
        }
    }

    #[test]
    fn media_of_others_has_none() {
        for codec in [Codec::Opus, Codec::Vp8, Codec::H264] {
            for payload in [&[][..], &[0xfc], &[0xff; 3], &[0x7b, 0x41, 0], &[0x7b, 0x41, 200, 1, 2], &[0x65; 500]] {
                assert_eq!(find(codec, payload), Found::None, "{codec} {payload:?}");
            }
        }
        let other_sei = [&[6, 5, 20][..], &[0x11; 20], &[0x80]].concat();
        assert_eq!(find(Codec::H264, &other_sei), Found::None);
        // Opus DTX frame and a code 3 packet padded with zeros, as a server pads.
        assert_eq!(find(Codec::Opus, &[0x78]), Found::None);
        assert_eq!(find(Codec::Opus, &[&[0x7b, 0x41, 60][..], &[9; 20], &[0; 60]].concat()), Found::None);
    }

    #[test]
    fn a_stamp_behind_another_sei_message_is_found() {
        let mut nal = vec![6, 1, 2, 0xde, 0xad];
        nal.extend(&sei(STAMP)[1..]);
        assert_eq!(find(Codec::H264, &nal), Found::Stamp(STAMP));
    }

    #[test]
    fn opus_padding_of_many_lengths_holds_the_stamp_at_its_front() {
        let mut p = vec![0x7b, 0x41, 255, 10];
        p.extend([0x55; 80]);
        p.push(0);
        let at = p.len();
        p.resize(at + 263, 0);
        STAMP.write(&mut p[at..]);
        assert_eq!(find(Codec::Opus, &p), Found::Stamp(STAMP));
    }

    #[test]
    fn cut_short_is_foreign() {
        for (codec, payload) in every_form(STAMP).into_iter().take(3) {
            for cut in 2..LEN - 4 {
                let found = find(codec, &payload[..payload.len() - cut]);
                assert_eq!(found, Found::Foreign(Foreign::Truncated), "{codec} -{cut}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for (codec, payload) in every_form(STAMP) {
            for bit in 0..payload.len() * 8 {
                let mut damaged = payload.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                match find(codec, &damaged) {
                    Found::Stamp(s) => assert_eq!(s, STAMP, "{codec} bit {bit}"),
                    Found::None | Found::Foreign(_) => {}
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 3000,
            rng_seed: RngSeed::Fixed(1),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_written_is_read(run: u32, sender: u32, stream: u8, frame: u32, packet: u32, sent_ns: u64) {
            let stamp = Stamp { run, sender, stream, frame, packet: u64::from(packet), sent_ns };
            for (codec, payload) in every_form(stamp) {
                prop_assert_eq!(find(codec, &payload), Found::Stamp(stamp));
            }
            let nal = sei(stamp);
            prop_assert!(nal[3..].iter().all(|&b| b != 0), "no start code, no emulation prevention");
        }

        #[test]
        fn no_bytes_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            for codec in [Codec::Opus, Codec::Vp8, Codec::H264] {
                prop_assert!(!matches!(find(codec, &payload), Found::Stamp(_)));
            }
        }

        /// Splices, cuts and overwrites of good packets: what comes out as a stamp is the one that went in.
        #[test]
        fn mutations_never_give_another_stamp(
            which in 0usize..4,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
        ) {
            let (codec, mut payload) = every_form(STAMP)[which].clone();
            for (at, byte, how) in edits {
                let i = at.index(payload.len() + 1);
                match how {
                    0 if i < payload.len() => payload[i] = byte,
                    1 => payload.insert(i, byte),
                    2 if i < payload.len() => { payload.remove(i); }
                    _ => payload.truncate(i.max(1)),
                }
            }
            if let Found::Stamp(s) = find(codec, &payload) {
                prop_assert_eq!(s, STAMP);
            }
        }
    }
}
