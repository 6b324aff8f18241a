//! Redundant audio (RFC 2198): a packet that carries the newest frame and, in front of it, earlier ones again.

/// Blocks of a packet that are looked at; libwebrtc writes two.
pub const BLOCKS_MAX: usize = 8;
/// Header of an earlier frame and of the newest.
pub const EARLIER_HEADER: usize = 4;
pub const NEWEST_HEADER: usize = 1;
/// What an earlier frame's header can say: 14 bits of timestamp, 10 bits of length (RFC 2198 3).
const OFFSET_MAX: u32 = (1 << 14) - 1;
const LENGTH_MAX: usize = (1 << 10) - 1;

/// One frame of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block<'a> {
    pub pt: u8,
    /// How far before the packet's own timestamp.
    pub offset: u32,
    pub payload: &'a [u8],
}

/// Whether a frame of this length, so much older, can ride along.
pub fn fits(offset: u32, len: usize) -> bool {
    offset <= OFFSET_MAX && len <= LENGTH_MAX && len > 0
}

/// Writes the header of an earlier frame that [`fits`].
pub fn write_earlier(header: &mut [u8; EARLIER_HEADER], pt: u8, offset: u32, len: usize) {
    debug_assert!(fits(offset, len));
    let word = 1 << 31 | u32::from(pt & 0x7f) << 24 | (offset & OFFSET_MAX) << 10 | len as u32 & LENGTH_MAX as u32;
    *header = word.to_be_bytes();
}

/// The frames of a payload, oldest first, the newest last. `None` for what is cut short, or has more than
/// [`BLOCKS_MAX`].
pub fn parse(payload: &[u8]) -> Option<Blocks<'_>> {
    let mut at = 0;
    let mut earlier = 0;
    let mut bytes = 0;
    while payload.get(at)? & 0x80 != 0 {
        let header = payload.get(at..)?.first_chunk::<EARLIER_HEADER>()?;
        bytes += (u32::from_be_bytes(*header) as usize) & LENGTH_MAX;
        at += EARLIER_HEADER;
        earlier += 1;
    }
    at += NEWEST_HEADER;
    let whole = earlier < BLOCKS_MAX && at + bytes <= payload.len();
    whole.then_some(Blocks { headers: payload, payloads: &payload[at..], left: earlier + 1 })
}

/// See [`parse`].
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    headers: &'a [u8],
    payloads: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        self.left = self.left.checked_sub(1)?;
        let pt = self.headers.first()? & 0x7f;
        if self.left == 0 {
            return Some(Block { pt, offset: 0, payload: self.payloads });
        }
        let (header, rest) = self.headers.split_first_chunk::<EARLIER_HEADER>()?;
        let word = u32::from_be_bytes(*header);
        let (payload, after) = self.payloads.split_at_checked(word as usize & LENGTH_MAX)?;
        (self.headers, self.payloads) = (rest, after);
        Some(Block { pt, offset: word >> 10 & OFFSET_MAX, payload })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Blocks<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// As in RFC 2198 4, with our numbers: one earlier frame, 960 ticks before.
    #[test]
    fn one_earlier_frame() {
        let mut header = [0; 4];
        write_earlier(&mut header, 111, 960, 3);
        assert_eq!(header, [0x80 | 111, 0x0f, 0x00, 3]);
        let packet = [&header[..], &[111], &[1, 2, 3], &[4, 5]].concat();
        let blocks: Vec<_> = parse(&packet).unwrap().collect();
        assert_eq!(
            blocks,
            [Block { pt: 111, offset: 960, payload: &[1, 2, 3] }, Block { pt: 111, offset: 0, payload: &[4, 5] }]
        );
        assert_eq!(parse(&packet).unwrap().len(), 2);
    }

    #[test]
    fn the_newest_alone() {
        let blocks: Vec<_> = parse(&[111, 9, 8]).unwrap().collect();
        assert_eq!(blocks, [Block { pt: 111, offset: 0, payload: &[9, 8] }]);
    }

    #[test]
    fn limits_of_the_header() {
        assert!(fits(16_383, 1023) && !fits(16_384, 10) && !fits(960, 1024) && !fits(960, 0));
        let mut header = [0; 4];
        write_earlier(&mut header, 127, 16_383, 1023);
        assert_eq!(header, [0xff; 4]);
    }

    #[test]
    fn what_is_cut_or_noise_gives_no_panic() {
        let mut header = [0; 4];
        write_earlier(&mut header, 111, 960, 3);
        let packet = [&header[..], &[111], &[1, 2, 3]].concat();
        for n in 0..packet.len() {
            assert!(parse(&packet[..n]).is_none(), "{n}");
        }
        assert!(parse(&[0xff; 64]).is_none());
        assert!(parse(&[[0x80, 0, 0, 0]; BLOCKS_MAX].concat()).is_none());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = 0;
        for _ in 0..50_000 {
            let mut bytes = vec![0; rng.random_range(0..40)];
            rng.fill_bytes(&mut bytes);
            if let Some(first) = bytes.first_mut() {
                *first |= 0x80;
            }
            if let Some(third) = bytes.get_mut(2) {
                *third &= 0xfc;
            }
            seen += parse(&bytes).map_or(0, |b| b.map(|b| b.payload.len()).sum());
        }
        assert!(seen > 1_000, "noise must reach the blocks: {seen}");
    }
}
