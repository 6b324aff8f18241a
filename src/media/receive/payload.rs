//! What a video payload says about its frame: does it begin one, is it a key frame.
//! VP8: RFC 7741. H.264: RFC 6184 (packetization modes 0 and 1).

use crate::types::Codec;

/// Whether a packet is the first of its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Start {
    #[default]
    No,
    /// It may be: it is, if the packet before it belongs to another frame.
    IfContiguous,
    Yes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct View {
    pub start: Start,
    pub key: bool,
}

/// Looks into one packet. `stamped`: it carries a stamp of ours, which in H.264 only a frame's first packet does.
pub(super) fn inspect(codec: Codec, payload: &[u8], stamped: bool) -> View {
    match codec {
        Codec::Opus => View { start: Start::Yes, key: true },
        Codec::Vp8 => vp8(payload).unwrap_or_default(),
        Codec::H264 => {
            let mut view = h264(payload).unwrap_or_default();
            if stamped {
                view.start = Start::Yes;
            }
            view
        }
    }
}

/// RFC 7741 4.2: payload descriptor; 4.3: the P bit of the frame header.
fn vp8(p: &[u8]) -> Option<View> {
    let first = *p.first()?;
    // S = 1 and partition 0.
    if first & 0x10 == 0 || first & 0x07 != 0 {
        return Some(View::default());
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        let extension = *p.get(at)?;
        at += 1;
        if extension & 0x80 != 0 {
            at += if p.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        if extension & 0x40 != 0 {
            at += 1;
        }
        if extension & 0x30 != 0 {
            at += 1;
        }
    }
    let key = p.get(at)? & 0x01 == 0;
    Some(View { start: Start::Yes, key })
}

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// RFC 6184 5.2.
fn h264(p: &[u8]) -> Option<View> {
    let (&header, rest) = p.split_first()?;
    match header & 0x1f {
        STAP_A => {
            let mut view = View::default();
            let mut left = rest;
            let mut is_first = true;
            while let Some((len, after)) = left.split_first_chunk::<2>() {
                let Some((nal, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*len))) else { break };
                left = after;
                let Some((&header, body)) = nal.split_first() else { continue };
                let of_nal = h264_nal(header & 0x1f, body);
                view.key |= of_nal.key;
                if is_first {
                    view.start = of_nal.start;
                    is_first = false;
                }
            }
            Some(view)
        }
        FU_A => {
            let (&fu, body) = rest.split_first()?;
            // Only the fragment with the S bit shows what begins here.
            Some(if fu & 0x80 != 0 { h264_nal(fu & 0x1f, body) } else { View::default() })
        }
        // STAP-B, MTAP and FU-B belong to the interleaved mode, which nobody negotiates.
        kind => Some(h264_nal(kind, rest)),
    }
}

/// The order of NAL units in an access unit is H.264 7.4.1.2.3. Parameter sets, SEI and the first slice may each come
/// in a packet of its own, so in a key frame only what can't stand behind another packet is a certain start.
fn h264_nal(kind: u8, body: &[u8]) -> View {
    // first_mb_in_slice = 0 is the Exp-Golomb code "1".
    let is_first_slice = body.first().is_some_and(|b| b & 0x80 != 0);
    let start = match kind {
        DELIMITER | SPS => Start::Yes,
        SLICE if is_first_slice => Start::Yes,
        IDR if is_first_slice => Start::IfContiguous,
        SEI | PPS => Start::IfContiguous,
        _ => Start::No,
    };
    View { start, key: matches!(kind, IDR | SPS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const YES_KEY: View = View { start: Start::Yes, key: true };
    const YES_DELTA: View = View { start: Start::Yes, key: false };
    const MAYBE_KEY: View = View { start: Start::IfContiguous, key: true };
    const NO_KEY: View = View { start: Start::No, key: true };
    const NO: View = View { start: Start::No, key: false };

    #[test]
    fn vp8_descriptors() {
        let cases: [(&[u8], View); 10] = [
            (&[0x10, 0x00], YES_KEY),
            (&[0x10, 0x01], YES_DELTA),
            // Non-reference bit.
            (&[0x30, 0x01], YES_DELTA),
            // 7-bit and 15-bit PictureID.
            (&[0x90, 0x80, 0x7f, 0x00], YES_KEY),
            (&[0x90, 0x80, 0x81, 0x00, 0x00], YES_KEY),
            // PictureID, TL0PICIDX, TID and KEYIDX.
            (&[0x90, 0xf0, 0x81, 0x01, 0x01, 0x01, 0x00], YES_KEY),
            (&[0x90, 0xe0, 0x81, 0x01, 0x01, 0x01, 0x01], YES_DELTA),
            // Continuation, other partition, cut short.
            (&[0x00, 0x00], NO),
            (&[0x11, 0x00], NO),
            (&[0x90, 0xf0, 0x81, 0x01, 0x01, 0x01], NO),
        ];
        for (payload, view) in cases {
            assert_eq!(inspect(Codec::Vp8, payload, false), view, "{payload:02x?}");
        }
        assert_eq!(inspect(Codec::Vp8, &[], true), NO);
    }

    #[test]
    fn h264_packets() {
        let cases: [(&[u8], View); 14] = [
            (&[0x41, 0x9a], YES_DELTA),
            (&[0x41, 0x4a], NO),
            (&[0x65, 0x88], MAYBE_KEY),
            (&[0x65, 0x48], NO_KEY),
            (&[0x67, 0x42], YES_KEY),
            (&[0x68, 0x42], View { start: Start::IfContiguous, key: false }),
            (&[0x06, 0x05], View { start: Start::IfContiguous, key: false }),
            (&[0x09, 0x10], YES_DELTA),
            // STAP-A: SPS, PPS; SEI, slice; one that is cut short.
            (&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68], YES_KEY),
            (&[0x78, 0, 2, 0x06, 0x05, 0, 2, 0x65, 0x88], MAYBE_KEY),
            (&[0x78, 0, 2, 0x67, 0x42, 0, 9, 0x65], YES_KEY),
            // FU-A: start of a slice, start of an IDR, a later fragment.
            (&[0x5c, 0x81, 0x9a], YES_DELTA),
            (&[0x7c, 0x85, 0x88], MAYBE_KEY),
            (&[0x7c, 0x05, 0x88], NO),
        ];
        for (payload, view) in cases {
            assert_eq!(inspect(Codec::H264, payload, false), view, "{payload:02x?}");
        }
        assert_eq!(inspect(Codec::H264, &[0x78, 0, 2, 0x06, 0x05, 0, 2, 0x65, 0x88], true), YES_KEY);
        assert_eq!(inspect(Codec::H264, &[], false), NO);
    }

    /// Every cut and many mutations of every kind of payload: an answer, never a panic or a read outside.
    #[test]
    fn survives_mutation() {
        let seeds: [&[u8]; 6] = [
            &[0x90, 0xf0, 0x81, 0x01, 0x01, 0x01, 0x00, 0x9d, 0x01, 0x2a],
            &[0x10, 0x00, 0x00],
            &[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88],
            &[0x7c, 0x85, 0x88, 0x80],
            &[0x78, 0xff, 0xff, 0x00],
            &[0x78, 0, 0, 0, 0, 0, 0],
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut starts, mut keys) = (0, 0);
        for round in 0..60_000 {
            let mut bytes = seeds[round % seeds.len()].to_vec();
            for _ in 0..rng.random_range(0..4) {
                match rng.random_range(0..4) {
                    0 => bytes.truncate(rng.random_range(0..=bytes.len())),
                    1 => bytes.push(rng.random()),
                    2 if !bytes.is_empty() => {
                        let at = rng.random_range(0..bytes.len());
                        bytes[at] ^= 1 << rng.random_range(0..8);
                    }
                    _ => rng.fill_bytes(&mut bytes),
                }
            }
            for codec in [Codec::Opus, Codec::Vp8, Codec::H264] {
                let view = inspect(codec, &bytes, rng.random());
                starts += u32::from(view.start != Start::No);
                keys += u32::from(view.key);
            }
        }
        assert!(starts > 10_000 && keys > 10_000, "the mutations reach the parsers: {starts} {keys}");
    }
}
