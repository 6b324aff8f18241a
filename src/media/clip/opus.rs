//! An Opus packet (RFC 6716 3) with the stamp as padding, in one RTP payload (RFC 7587).

use super::{Builder, Clip, ClipProblem, Packet, STAMP_ROOM};
use crate::media::send::BACKGROUND_DBOV;
use crate::media::stamp;

/// RTP clock of Opus: 48 kHz, whatever is coded (RFC 7587 4.1).
pub const TICKS_20_MS: u32 = 960;

/// Adds `packet`, which holds one frame of 20 ms, as frame number `n` of the clip.
pub fn add(builder: &mut Builder, n: usize, packet: &[u8], audio_level: u8) -> Result<(), ClipProblem> {
    let (toc, frame) = single_frame(packet).ok_or(ClipProblem::NotOneOpusFrame(n))?;
    let size = PAD_BEGIN.len() + frame.len() + STAMP_ROOM.len() + 3;
    if !is_20_ms(toc) || size > super::PAYLOAD_MAX {
        return Err(ClipProblem::NotOneOpusFrame(n));
    }
    // Code 3, one frame, constant rate, padded; length of the padding without the byte that says it.
    let head = [toc | 3, 0x41, (PAD_BEGIN.len() + stamp::LEN) as u8];
    let stamp_at = head.len() + frame.len() + PAD_BEGIN.len();
    builder.packet(&[&head, frame, &PAD_BEGIN, &STAMP_ROOM], Some(stamp_at));
    builder.frame(true, audio_level, packet.len())
}

/// What silence is made of: the longest run of background, and an empty frame behind the clip's own packets.
pub fn add_silence(clip: &mut Clip) {
    let quiet = |n: usize| clip.frames[n].audio_level >= BACKGROUND_DBOV;
    let mut longest = 0..1;
    let mut from = 0;
    for n in 0..clip.frames.len() {
        if !quiet(n) {
            from = n + 1;
        } else if n + 1 - from > longest.len() || longest == (0..1) {
            longest = from..n + 1;
        }
    }
    clip.background = longest;
    let toc = clip.arena[0];
    let offset = clip.arena.len();
    clip.arena.extend_from_slice(&[toc, 0x41, (PAD_BEGIN.len() + stamp::LEN) as u8]);
    clip.arena.extend_from_slice(&PAD_BEGIN);
    let stamp_at = clip.arena.len() - offset;
    clip.arena.extend_from_slice(&STAMP_ROOM);
    let len = (clip.arena.len() - offset) as u16;
    clip.empty_packet = clip.packets.len() as u32;
    clip.packets.push(Packet { offset: offset as u32, len, stamp_at: Some(stamp_at as u16), frame: 0 });
}

/// Padding extension 0 of length 0: all that follows is padding. Decoders that know no extensions ignore it anyway.
const PAD_BEGIN: [u8; 1] = [0];

/// TOC byte without its frame count code, and the frame: of a code 0 packet, or of a code 3 packet of one frame, whose
/// padding is taken off (an encoder at constant rate pads so).
fn single_frame(packet: &[u8]) -> Option<(u8, &[u8])> {
    let (&toc, mut rest) = packet.split_first()?;
    match toc & 3 {
        0 => Some((toc, rest)),
        3 => {
            let (&count, after) = rest.split_first()?;
            rest = after;
            if count & 0x3f != 1 {
                return None;
            }
            let mut padding = 0;
            let mut padding_follows = count & 0x40 != 0;
            while padding_follows {
                let (&byte, after) = rest.split_first()?;
                rest = after;
                padding_follows = byte == 255;
                padding += if padding_follows { 254 } else { usize::from(byte) };
            }
            Some((toc & !3, &rest[..rest.len().checked_sub(padding)?]))
        }
        _ => None,
    }
}

/// By the configuration number (RFC 6716 3.1, table 2).
fn is_20_ms(toc: u8) -> bool {
    match toc >> 3 {
        config @ 0..=11 => config & 3 == 1,
        config @ 12..=15 => config & 1 == 1,
        config => config & 3 == 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_the_encoder_is_replaced() {
        assert_eq!(single_frame(&[0x78, 1, 2, 3]), Some((0x78, &[1, 2, 3][..])));
        assert_eq!(single_frame(&[0x7b, 0x01, 1, 2]), Some((0x78, &[1, 2][..])));
        assert_eq!(single_frame(&[0x7b, 0x41, 2, 1, 0, 0]), Some((0x78, &[1][..])));
        let long = [&[0x7b, 0x41, 255, 3, 9][..], &[0; 257]].concat();
        assert_eq!(single_frame(&long), Some((0x78, &[9][..])));
    }

    #[test]
    fn other_packets_are_refused() {
        for packet in [&[][..], &[0x79, 1, 2], &[0x7a, 1, 2], &[0x7b], &[0x7b, 0x02, 1, 2], &[0x7b, 0x41, 9, 1]] {
            assert_eq!(single_frame(packet), None, "{packet:?}");
        }
        let durations =
            [(0u8, false), (1, true), (3, false), (12, false), (13, true), (18, false), (19, true), (31, true)];
        for (config, is) in durations {
            assert_eq!(is_20_ms(config << 3), is, "config {config}");
        }
    }
}
