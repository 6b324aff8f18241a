//! HMAC-SHA1-80 (RFC 2104, RFC 3711 4.2) from precomputed states: the two key blocks are hashed once per session, so a
//! packet pays for its own blocks and one more.

use sha1::block_api::compress;

const BLOCK: usize = 64;
/// Bytes of the 20-byte digest that are sent.
pub(super) const TAG: usize = 10;
/// SHA-1's initial state (RFC 3174 6.1).
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// Keyed states, 40 bytes.
pub(super) struct HmacSha1 {
    inner: [u32; 5],
    outer: [u32; 5],
}

impl HmacSha1 {
    pub(super) fn new(key: &[u8; 20]) -> HmacSha1 {
        let state = |pad: u8| {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
            let mut state = INITIAL;
            compress(&mut state, &[block]);
            state
        };
        HmacSha1 { inner: state(0x36), outer: state(0x5c) }
    }

    /// Tag over `message` followed by `suffix` (the ROC for SRTP, nothing for SRTCP; at most 4 bytes).
    #[inline]
    pub(super) fn tag(&self, message: &[u8], suffix: &[u8]) -> [u8; TAG] {
        let digest = self.digest(message, suffix);
        let mut tag = [0; TAG];
        tag[..4].copy_from_slice(&digest[0].to_be_bytes());
        tag[4..8].copy_from_slice(&digest[1].to_be_bytes());
        tag[8..].copy_from_slice(&digest[2].to_be_bytes()[..2]);
        tag
    }

    /// Whether `tag` is the tag; takes the same time wherever they differ.
    #[inline]
    pub(super) fn verify(&self, message: &[u8], suffix: &[u8], tag: &[u8]) -> bool {
        let expected = self.tag(message, suffix);
        let Ok(tag) = <&[u8; TAG]>::try_from(tag) else { return false };
        let different = expected.iter().zip(tag).fold(0, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(different) == 0
    }

    #[inline]
    fn digest(&self, message: &[u8], suffix: &[u8]) -> [u32; 5] {
        let mut state = self.inner;
        let (blocks, rest) = message.as_chunks::<BLOCK>();
        compress(&mut state, blocks);

        let mut tail = [0; 2 * BLOCK];
        tail[..rest.len()].copy_from_slice(rest);
        let end = rest.len() + suffix.len();
        tail[rest.len()..end].copy_from_slice(suffix);
        tail[end] = 0x80;
        let tail_len = if end + 9 <= BLOCK { BLOCK } else { 2 * BLOCK };
        let bits = 8 * (BLOCK + message.len() + suffix.len()) as u64;
        tail[tail_len - 8..tail_len].copy_from_slice(&bits.to_be_bytes());
        compress(&mut state, tail[..tail_len].as_chunks().0);

        let mut last = [0; BLOCK];
        for (bytes, word) in last.chunks_exact_mut(4).zip(state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        last[20] = 0x80;
        last[BLOCK - 8..].copy_from_slice(&(8 * (BLOCK + 20) as u64).to_be_bytes());
        let mut state = self.outer;
        compress(&mut state, &[last]);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmac::{Hmac, KeyInit, Mac};
    use sha1::Sha1;

    #[test]
    fn equals_the_hmac_crate_at_every_length() {
        let key: [u8; 20] = std::array::from_fn(|i| i as u8 * 7 + 3);
        let message: Vec<u8> = (0..400).map(|i| (i * 31) as u8).collect();
        let ours = HmacSha1::new(&key);
        for len in 0..message.len() {
            for suffix in [&[][..], &[0xde, 0xad, 0xbe, 0xef]] {
                let mut theirs = Hmac::<Sha1>::new_from_slice(&key).unwrap();
                theirs.update(&message[..len]);
                theirs.update(suffix);
                let expected = theirs.finalize().into_bytes();
                assert_eq!(ours.tag(&message[..len], suffix)[..], expected[..TAG], "length {len}");
                assert!(ours.verify(&message[..len], suffix, &expected[..TAG]));
            }
        }
    }

    #[test]
    fn verify_refuses_every_flipped_bit_and_wrong_length() {
        let mac = HmacSha1::new(&[9; 20]);
        let tag = mac.tag(b"message", &[]);
        for bit in 0..8 * TAG {
            let mut wrong = tag;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!mac.verify(b"message", &[], &wrong));
        }
        assert!(!mac.verify(b"message", &[], &tag[..9]));
        assert!(!mac.verify(b"message", &[], &[]));
    }
}
