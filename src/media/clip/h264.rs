//! An H.264 access unit in RTP payloads (RFC 6184, packetization-mode 1), with the stamp in an SEI before the first
//! slice. Small units share a STAP-A, large ones are split into FU-A.

use super::annexb::{AccessUnit, NAL_IDR, NAL_SLICE};
use super::{Builder, ClipProblem, PAYLOAD_MAX};
use crate::media::stamp;

/// Adds one frame to the clip. The SEI goes into the frame's first packet, behind the parameter sets if it has any.
pub fn add(builder: &mut Builder, unit: &AccessUnit) -> Result<(), ClipProblem> {
    let sei = stamp::sei_template();
    let slices_from = unit.nals.iter().position(|nal| is_slice(nal)).unwrap_or(unit.nals.len());
    let mut nals = unit.nals.clone();
    nals.insert(slices_from, &sei);

    let mut from = 0;
    while from < nals.len() {
        let together = fitting(&nals[from..]);
        let packet = &nals[from..from + together.max(1)];
        let sei_at = slices_from.checked_sub(from).filter(|i| *i < packet.len());
        match together {
            0 => fragment(builder, packet[0]),
            1 => builder.packet(packet, sei_at.map(|_| stamp::SEI_STAMP_AT)),
            _ => stap_a(builder, packet, sei_at),
        }
        from += packet.len();
    }
    let media_bytes = unit.nals.iter().map(|nal| nal.len()).sum();
    builder.frame(unit.key, 127, media_bytes)
}

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

fn is_slice(nal: &[u8]) -> bool {
    nal.first().is_some_and(|b| matches!(b & 0x1f, NAL_SLICE | NAL_IDR))
}

/// How many of the first units go into one packet: 0 if not even one does.
fn fitting(nals: &[&[u8]]) -> usize {
    if nals.first().is_none_or(|nal| nal.len() > PAYLOAD_MAX) {
        return 0;
    }
    let mut size = 1;
    let in_stap = nals.iter().take_while(|nal| {
        size += 2 + nal.len();
        size <= PAYLOAD_MAX
    });
    in_stap.count().max(1)
}

/// RFC 6184 5.7.1: NRI is the highest of the units'.
fn stap_a(builder: &mut Builder, nals: &[&[u8]], sei_at: Option<usize>) {
    let nri = nals.iter().filter_map(|nal| nal.first()).map(|b| b & 0x60).max().unwrap_or(0);
    let lengths: Vec<[u8; 2]> = nals.iter().map(|nal| (nal.len() as u16).to_be_bytes()).collect();
    let head = [nri | STAP_A];
    let mut parts: Vec<&[u8]> = vec![&head];
    let mut stamp_at = None;
    for (i, (length, nal)) in lengths.iter().zip(nals).enumerate() {
        parts.push(length);
        if sei_at == Some(i) {
            stamp_at = Some(parts.iter().map(|p| p.len()).sum::<usize>() + stamp::SEI_STAMP_AT);
        }
        parts.push(nal);
    }
    builder.packet(&parts, stamp_at);
}

/// RFC 6184 5.8, in fragments of about equal size.
fn fragment(builder: &mut Builder, nal: &[u8]) {
    let Some((&header, body)) = nal.split_first() else { return };
    let count = body.len().div_ceil(PAYLOAD_MAX - 2);
    for i in 0..count {
        let part = &body[body.len() * i / count..body.len() * (i + 1) / count];
        let start_end = u8::from(i == 0) << 7 | u8::from(i + 1 == count) << 6;
        builder.packet(&[&[header & 0x60 | FU_A, start_end | header & 0x1f], part], None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clip::Clip;
    use crate::types::{Bitrate, Codec, Encoding};

    /// Packetizes one key frame of an SPS of 25, a PPS of 5 and slices of these sizes.
    fn clip(slices: &[usize]) -> (Clip, Vec<Vec<u8>>) {
        let nal = |header: u8, size: usize| -> Vec<u8> {
            (0..size).map(|i| if i == 0 { header } else { (i % 251) as u8 | 1 }).collect()
        };
        let mut nals = vec![nal(0x67, 25), nal(0x68, 5)];
        nals.extend(slices.iter().map(|&s| nal(0x65, s)));
        let mut b = Builder::new(Encoding { codec: Codec::H264, bitrate: Bitrate(500_000) }, 3000);
        add(&mut b, &AccessUnit { nals: nals.iter().map(Vec::as_slice).collect(), key: true }).unwrap();
        (b.finish().unwrap(), nals)
    }

    fn payloads(c: &Clip) -> Vec<&[u8]> {
        c.packets.iter().map(|p| &c.arena[p.offset as usize..][..usize::from(p.len)]).collect()
    }

    /// By RFC 6184, written apart from the packetizer.
    fn depacketize(payloads: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut nals = Vec::new();
        for p in payloads {
            match p[0] & 0x1f {
                24 => {
                    let mut rest = &p[1..];
                    while !rest.is_empty() {
                        let n = usize::from(rest[0]) << 8 | usize::from(rest[1]);
                        nals.push(rest[2..2 + n].to_vec());
                        rest = &rest[2 + n..];
                    }
                }
                28 => {
                    if p[1] & 0x80 != 0 {
                        nals.push(vec![p[0] & 0xe0 | p[1] & 0x1f]);
                    }
                    nals.last_mut().unwrap().extend(&p[2..]);
                }
                _ => nals.push(p.to_vec()),
            }
        }
        nals
    }

    #[test]
    fn units_of_every_size_come_out_whole() {
        let tiny = [1, 2, 30].map(|n| vec![n; 5]);
        let around = (960..1110).map(|n| vec![n, 900, 150, n]);
        let large = [1101, 1102, 2197, 2198, 2199, 9000].map(|n| vec![n, 40, n]);
        for slices in tiny.into_iter().chain(around).chain(large) {
            let (c, mut nals) = clip(&slices);
            nals.insert(2, stamp::sei_template().to_vec());
            assert_eq!(depacketize(&payloads(&c)), nals, "{slices:?}");
            assert!(payloads(&c).iter().all(|p| p.len() <= PAYLOAD_MAX));
            let stamped: Vec<usize> = (0..c.packets.len()).filter(|&i| c.packets[i].stamp_at.is_some()).collect();
            assert_eq!(stamped, [0], "in the first packet, {slices:?}");
            let at = usize::from(c.packets[0].stamp_at.unwrap());
            assert_eq!(payloads(&c)[0][at - stamp::SEI_STAMP_AT..][..stamp::SEI_LEN], stamp::sei_template());
        }
    }

    #[test]
    fn a_slice_of_1000_shares_the_packet_of_sets_and_stamp() {
        let (c, _) = clip(&[1000, 1000]);
        assert_eq!(c.packets(), 2);
        assert_eq!(payloads(&c)[0][0], 0x78);
        assert_eq!(payloads(&c)[1][0], 0x65);
    }

    #[test]
    fn fragments_carry_start_and_end() {
        let (c, _) = clip(&[2500]);
        let heads: Vec<[u8; 2]> = payloads(&c)[1..].iter().map(|p| [p[0], p[1]]).collect();
        assert_eq!(heads, [[0x7c, 0x85], [0x7c, 0x05], [0x7c, 0x45]]);
    }
}
