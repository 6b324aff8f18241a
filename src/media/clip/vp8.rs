//! A VP8 frame in RTP payloads (RFC 7741), with the stamp behind its last byte.

use super::{Builder, ClipProblem, PAYLOAD_MAX, STAMP_ROOM};
use crate::media::stamp;

/// Adds `frame` as frame number `n` of the clip. Its packets are of about equal size, so that the last one, which ends
/// with the stamp, always holds it whole.
pub fn add(builder: &mut Builder, n: usize, frame: &[u8]) -> Result<(), ClipProblem> {
    let &tag = frame.first().ok_or(ClipProblem::Truncated(0))?;
    // RFC 6386 9.1: bit 0 is 0 in key frames, bit 4 is show_frame.
    let (key, shown) = (tag & 1 == 0, tag & 0x10 != 0);
    if !shown {
        return Err(ClipProblem::HiddenFrame(n));
    }
    let total = frame.len() + stamp::LEN;
    let packets = total.div_ceil(PAYLOAD_MAX - DESCRIPTOR_LEN);
    let share = |i: usize| (total * i / packets).min(frame.len());
    for i in 0..packets {
        let part = &frame[share(i)..share(i + 1)];
        let descriptor = descriptor(i == 0);
        if i + 1 == packets {
            let stamp_at = DESCRIPTOR_LEN + part.len();
            builder.packet(&[&descriptor, part, &STAMP_ROOM], Some(stamp_at));
        } else {
            builder.packet(&[&descriptor, part], None);
        }
    }
    builder.frame(key, 127, frame.len())
}

/// Fills the PictureID into a payload that [`add`] made; 15 bits of `id` are used.
pub fn set_picture_id(payload: &mut [u8], id: u16) {
    payload[2..4].copy_from_slice(&(id | PICTURE_ID_LONG).to_be_bytes());
}

/// X, (S in the first packet), partition 0 | I | M and 15 bits of PictureID (RFC 7741 4.2).
const DESCRIPTOR_LEN: usize = 4;
const PICTURE_ID_LONG: u16 = 0x8000;

fn descriptor(first: bool) -> [u8; DESCRIPTOR_LEN] {
    [if first { 0x90 } else { 0x80 }, 0x80, 0x80, 0x00]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clip::Clip;
    use crate::types::{Bitrate, Codec, Encoding};

    fn clip(frame: &[u8]) -> Clip {
        let mut b = Builder::new(Encoding { codec: Codec::Vp8, bitrate: Bitrate(500_000) }, 3000);
        add(&mut b, 0, frame).unwrap();
        b.finish().unwrap()
    }

    #[test]
    fn frames_of_every_size_come_out_whole() {
        for size in 1..7000 {
            let frame: Vec<u8> = (0..size).map(|i| if i == 0 { 0x10 } else { i as u8 }).collect();
            let c = clip(&frame);
            let payloads: Vec<&[u8]> =
                c.packets.iter().map(|p| &c.arena[p.offset as usize..][..usize::from(p.len)]).collect();
            let media: Vec<u8> = payloads.iter().flat_map(|p| &p[DESCRIPTOR_LEN..]).copied().collect();
            assert_eq!(media[..size], frame);
            assert_eq!(media.len(), size + stamp::LEN);
            assert!(payloads.iter().all(|p| p.len() <= PAYLOAD_MAX));
            assert_eq!(payloads.len(), (size + stamp::LEN).div_ceil(PAYLOAD_MAX - DESCRIPTOR_LEN));
            for (i, packet) in c.packets.iter().enumerate() {
                let last = i + 1 == payloads.len();
                assert_eq!(payloads[i][0], if i == 0 { 0x90 } else { 0x80 });
                assert_eq!(packet.stamp_at, last.then(|| packet.len - stamp::LEN as u16));
            }
        }
    }

    #[test]
    fn picture_ids_have_15_bits() {
        let mut p = [0x90, 0x80, 0x80, 0, 1];
        set_picture_id(&mut p, 0x7fff);
        assert_eq!(p, [0x90, 0x80, 0xff, 0xff, 1]);
        set_picture_id(&mut p, 0);
        assert_eq!(p, [0x90, 0x80, 0x80, 0, 1]);
    }

    #[test]
    fn hidden_frames_are_refused() {
        let mut b = Builder::new(Encoding { codec: Codec::Vp8, bitrate: Bitrate(1) }, 3000);
        assert_eq!(add(&mut b, 4, &[0x01, 0, 0]), Err(ClipProblem::HiddenFrame(4)));
    }
}
