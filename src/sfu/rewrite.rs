//! A receive slot outlives the senders it shows. Its SSRC stays, so sequence numbers, timestamps and VP8 picture ids
//! must run on when another sender takes it over (as after a change of camera, RFC 3550 gives a receiver no hint).

use std::time::Instant;
use str0m::rtp::{SeqNo, Vp8Descriptor, Vp8Patch};

/// Numbers of one incoming packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// Extended sequence number.
    pub seq: u64,
    pub timestamp: u32,
}

/// Maps the numbers of whatever sender a slot shows to one continuous stream.
#[derive(Debug)]
pub struct Rewrite {
    clock_rate: u32,
    last: Option<Last>,
    map: Option<Map>,
}

/// Newest packet sent, by sequence number.
#[derive(Clone, Copy, Debug)]
struct Last {
    seq: u64,
    timestamp: u32,
    at: Instant,
    picture_id: Option<u16>,
    tl0_pic_idx: Option<u8>,
}

/// What to add to the numbers of the current sender; all additions wrap.
#[derive(Clone, Copy, Debug)]
struct Map {
    /// Packets of the current sender before this one belong to nobody.
    first: u64,
    seq: u64,
    timestamp: u32,
    picture_id: u16,
    tl0_pic_idx: u8,
}

impl Rewrite {
    /// `clock_rate` in Hz, of the slot's kind.
    pub fn new(clock_rate: u32) -> Rewrite {
        Rewrite { clock_rate, last: None, map: None }
    }

    /// The next packet comes from another sender (or from the same after a pause in which we sent nothing).
    pub fn restart(&mut self) {
        self.map = None;
    }

    /// Numbers for the outgoing packet; `None` for a packet from before the switch to this sender.
    pub fn apply(
        &mut self,
        now: Instant,
        packet: Numbers,
        vp8: Option<&Vp8Descriptor>,
    ) -> Option<(Numbers, Option<Vp8Patch>)> {
        let picture_id = vp8.and_then(Vp8Descriptor::picture_id);
        let tl0_pic_idx = vp8.and_then(Vp8Descriptor::tl0_pic_idx);
        let map = match self.map {
            Some(map) => map,
            None => {
                let map = self.continue_with(now, packet, picture_id, tl0_pic_idx);
                self.map = Some(map);
                map
            }
        };
        if packet.seq < map.first {
            return None;
        }
        let out =
            Numbers { seq: packet.seq.wrapping_add(map.seq), timestamp: packet.timestamp.wrapping_add(map.timestamp) };
        let picture_id = picture_id.map(|id| id.wrapping_add(map.picture_id) & 0x7fff);
        let tl0_pic_idx = tl0_pic_idx.map(|idx| idx.wrapping_add(map.tl0_pic_idx));
        if self.last.is_none_or(|last| out.seq > last.seq) {
            let before = self.last;
            self.last = Some(Last {
                seq: out.seq,
                timestamp: out.timestamp,
                at: now,
                picture_id: picture_id.or(before.and_then(|l| l.picture_id)),
                tl0_pic_idx: tl0_pic_idx.or(before.and_then(|l| l.tl0_pic_idx)),
            });
        }
        let patch = match vp8 {
            Some(vp8) if map.picture_id != 0 || map.tl0_pic_idx != 0 => patch(vp8, picture_id, tl0_pic_idx),
            _ => None,
        };
        Some((out, patch))
    }

    fn continue_with(&self, now: Instant, packet: Numbers, picture_id: Option<u16>, tl0_pic_idx: Option<u8>) -> Map {
        let Some(last) = self.last else {
            // A receiver assumes rollover counter 0 for a new SSRC (RFC 3711 3.3.1): start low, whatever the sender's
            // count is by now.
            let start = *SeqNo::default();
            return Map {
                first: packet.seq,
                seq: start.wrapping_sub(packet.seq),
                timestamp: 0,
                picture_id: 0,
                tl0_pic_idx: 0,
            };
        };
        let elapsed = now.saturating_duration_since(last.at).as_micros() as u64;
        let ticks = (elapsed.saturating_mul(u64::from(self.clock_rate)) / 1_000_000).max(1) as u32;
        Map {
            first: packet.seq,
            seq: (last.seq + 1).wrapping_sub(packet.seq),
            timestamp: last.timestamp.wrapping_add(ticks).wrapping_sub(packet.timestamp),
            picture_id: match (last.picture_id, picture_id) {
                (Some(last), Some(id)) => last.wrapping_add(1).wrapping_sub(id) & 0x7fff,
                _ => 0,
            },
            tl0_pic_idx: match (last.tl0_pic_idx, tl0_pic_idx) {
                (Some(last), Some(idx)) => last.wrapping_add(1).wrapping_sub(idx),
                _ => 0,
            },
        }
    }
}

fn patch(vp8: &Vp8Descriptor, picture_id: Option<u16>, tl0_pic_idx: Option<u8>) -> Option<Vp8Patch> {
    let with = |mask: u16| {
        let mut patch = vp8.patch();
        if let Some(id) = picture_id {
            patch = patch.picture_id(id & mask);
        }
        if let Some(idx) = tl0_pic_idx {
            patch = patch.tl0_pic_idx(idx);
        }
        patch.build()
    };
    // A descriptor with a 7-bit picture id has room for no more.
    with(0x7fff).or_else(|_| with(0x7f)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn vp8_payload(picture_id: u16, tl0: u8) -> Vec<u8> {
        // X, S; I, L, T; 15-bit picture id; TL0PICIDX; TID/Y; payload
        vec![0x90, 0xe0, 0x80 | (picture_id >> 8) as u8, picture_id as u8, tl0, 0x00, 0x01, 0xaa]
    }

    #[test]
    fn starts_below_the_first_rollover_and_keeps_distances() {
        let now = Instant::now();
        for _ in 0..200 {
            let mut rewrite = Rewrite::new(90_000);
            let (a, _) = rewrite.apply(now, Numbers { seq: 200_000, timestamp: 7 }, None).unwrap();
            assert!(a.seq < 1 << 15, "{}", a.seq);
            assert_eq!(a.timestamp, 7);
            let (b, _) = rewrite.apply(now, Numbers { seq: 200_003, timestamp: 3007 }, None).unwrap();
            assert_eq!(b.seq, a.seq + 3);
            let (late, _) = rewrite.apply(now, Numbers { seq: 200_001, timestamp: 7 }, None).unwrap();
            assert_eq!(late.seq, a.seq + 1);
            assert!(rewrite.apply(now, Numbers { seq: 199_999, timestamp: 0 }, None).is_none());
        }
    }

    #[test]
    fn another_sender_goes_on_where_the_last_one_stopped() {
        let now = Instant::now();
        let mut rewrite = Rewrite::new(90_000);
        let first = vp8_payload(0x7ffe, 255);
        let d = Vp8Descriptor::parse(&first).unwrap();
        let (a, p) = rewrite.apply(now, Numbers { seq: 10, timestamp: u32::MAX - 1000 }, Some(&d)).unwrap();
        assert!(p.is_none(), "the first sender's picture ids pass as they are");
        rewrite.restart();

        let second = vp8_payload(100, 9);
        let d = Vp8Descriptor::parse(&second).unwrap();
        let later = now + Duration::from_millis(500);
        let (b, p) = rewrite.apply(later, Numbers { seq: 70_000, timestamp: 5 }, Some(&d)).unwrap();
        assert_eq!(b.seq, a.seq + 1);
        assert_eq!(b.timestamp, a.timestamp.wrapping_add(45_000));
        let want = d.patch().picture_id(0x7fff).tl0_pic_idx(0).build().unwrap();
        assert_eq!(p, Some(want));

        let third = vp8_payload(101, 10);
        let d = Vp8Descriptor::parse(&third).unwrap();
        let (c, p) = rewrite.apply(later, Numbers { seq: 70_001, timestamp: 3005 }, Some(&d)).unwrap();
        assert_eq!((c.seq, c.timestamp), (b.seq + 1, b.timestamp.wrapping_add(3000)));
        assert_eq!(p, Some(d.patch().picture_id(0).tl0_pic_idx(1).build().unwrap()));
    }

    #[test]
    fn seven_bit_picture_ids_stay_seven_bits() {
        let now = Instant::now();
        let mut rewrite = Rewrite::new(90_000);
        let d = Vp8Descriptor::parse(&vp8_payload(0x1234, 0)).unwrap();
        rewrite.apply(now, Numbers { seq: 1, timestamp: 0 }, Some(&d)).unwrap();
        rewrite.restart();
        let short = [0x90, 0x80, 0x05, 0x01];
        let d = Vp8Descriptor::parse(&short).unwrap();
        let (_, p) = rewrite.apply(now, Numbers { seq: 9, timestamp: 0 }, Some(&d)).unwrap();
        assert_eq!(p, Some(d.patch().picture_id(0x1235 & 0x7f).build().unwrap()));
    }
}
