//! Counts of neighbouring buckets as few bits: what is left of each after a guess from the two before it, in Rice codes
//! whose parameter follows the data (as in JPEG-LS, ITU-T T.87 A.3 to A.5), and runs of empty buckets as their lengths.

/// Longer unary parts are not written: the value follows in binary.
const UNARY_MAX: u32 = 24;
/// Counts are forgotten by half after so many values, so that the parameter follows.
const REMEMBERED: u64 = 32;
/// Rice parameter of the lengths of runs.
const RUN: u32 = 3;

/// Bits, the first one highest in its byte.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Not in a byte yet: the lowest `waiting` bits, fewer than eight.
    rest: u64,
    waiting: u32,
}

impl Bits {
    fn put(&mut self, value: u64, bits: u32) {
        if bits > 32 {
            self.put(value >> 32, bits - 32);
            return self.put(value, 32);
        }
        self.rest = self.rest << bits | (value & ((1 << bits) - 1));
        self.waiting += bits;
        while self.waiting >= 8 {
            self.waiting -= 8;
            self.bytes.push((self.rest >> self.waiting) as u8);
        }
    }

    /// The last byte is filled up with zeros.
    fn finish(mut self) -> Vec<u8> {
        self.put(0, (8 - self.waiting) % 8);
        self.bytes
    }

    fn rice(&mut self, value: u64, k: u32) {
        let unary = value >> k;
        if unary < u64::from(UNARY_MAX) {
            let unary = unary as u32;
            self.put((1u64 << (unary + 1)) - 2, unary + 1);
            self.put(value, k);
        } else {
            self.put((1 << UNARY_MAX) - 1, UNARY_MAX);
            let bits = 64 - value.leading_zeros();
            self.put(u64::from(bits), 7);
            self.put(value, bits);
        }
    }
}

/// Reads what [`Bits`] wrote. Bits behind the end: `None`.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next 32 bits, with zeros behind the end.
    fn peek(&self) -> u32 {
        let mut window = [0; 8];
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let n = rest.len().min(8);
        window[..n].copy_from_slice(&rest[..n]);
        ((u64::from_be_bytes(window) << (self.at % 8)) >> 32) as u32
    }

    fn skip(&mut self, bits: u32) -> Option<()> {
        self.at += bits as usize;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    fn bits(&mut self, bits: u32) -> Option<u64> {
        let mut value = 0;
        let mut left = bits;
        while left > 0 {
            let n = left.min(32);
            value = value << n | u64::from(self.peek() >> (32 - n));
            self.skip(n)?;
            left -= n;
        }
        Some(value)
    }

    fn rice(&mut self, k: u32) -> Option<u64> {
        let window = self.peek();
        let unary = window.leading_ones();
        let all = unary + 1 + k;
        if unary < UNARY_MAX && all <= 32 {
            self.skip(all)?;
            let low = u64::from(window) >> (32 - all) & ((1 << k) - 1);
            return Some(u64::from(unary) << k | low);
        }
        if unary < UNARY_MAX {
            self.skip(unary + 1)?;
            return Some(u64::from(unary) << k | self.bits(k)?);
        }
        self.skip(UNARY_MAX)?;
        let bits = self.bits(7)? as u32;
        if bits > 64 {
            return None;
        }
        self.bits(bits)
    }

    /// Only the padding of the last byte is left.
    fn is_at_end(&self) -> bool {
        self.bytes.len() * 8 - self.at < 8 && self.peek() == 0
    }
}

/// Follows the size of values: gives the Rice parameter that suits them.
struct Size {
    sum: u64,
    n: u64,
}

impl Size {
    fn new() -> Size {
        Size { sum: 4, n: 1 }
    }

    fn k(&self) -> u32 {
        // The smallest with n·2^k ≥ sum.
        let Some(digits) = self.sum.checked_ilog2() else { return 0 };
        let k = digits.saturating_sub(self.n.ilog2());
        (k + u32::from(self.n << k < self.sum)).min(40)
    }

    fn see(&mut self, value: u64) {
        self.sum = self.sum.saturating_add(value.min(1 << 40));
        self.n += 1;
        if self.n == REMEMBERED {
            (self.sum, self.n) = (self.sum / 2, self.n / 2);
        }
    }
}

fn guess(before: u64, last: u64) -> u64 {
    before.midpoint(last)
}

/// Counts of neighbouring buckets, of which the last one is not zero, into bytes.
pub(super) fn write(counts: &[u64]) -> Vec<u8> {
    let mut bits = Bits::default();
    let (mut near, mut fresh) = (Size::new(), Size::new());
    let (mut before, mut last, mut empty) = (0u64, 0u64, 0u64);
    for &count in counts {
        // Sizes above half the range would not fit a signed difference; nobody counts that far.
        let count = count.min(1 << 62);
        if last == 0 {
            if count == 0 {
                empty += 1;
                continue;
            }
            bits.rice(empty, RUN);
            empty = 0;
            bits.rice(count - 1, fresh.k());
            fresh.see(count - 1);
            (before, last) = (count, count);
            continue;
        }
        let off = count as i64 - guess(before, last) as i64;
        let folded = ((off << 1) ^ (off >> 63)) as u64;
        bits.rice(folded, near.k());
        near.see(folded);
        (before, last) = (last, count);
    }
    bits.finish()
}

/// The same back: `len` counts. `None`: these bytes are none of ours.
pub(super) fn read(bytes: &[u8], len: usize) -> Option<Vec<u64>> {
    let mut bits = Reader { bytes, at: 0 };
    let (mut near, mut fresh) = (Size::new(), Size::new());
    let (mut before, mut last) = (0u64, 0u64);
    let mut counts = Vec::with_capacity(len);
    while counts.len() < len {
        if last == 0 {
            let empty = bits.rice(RUN)?;
            if empty >= (len - counts.len()) as u64 {
                return None;
            }
            counts.resize(counts.len() + empty as usize, 0);
            let less = bits.rice(fresh.k())?;
            fresh.see(less);
            last = less.checked_add(1)?;
            before = last;
            counts.push(last);
            continue;
        }
        let folded = bits.rice(near.k())?;
        near.see(folded);
        let off = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        let count = u64::try_from(i64::try_from(guess(before, last)).ok()?.checked_add(off)?).ok()?;
        (before, last) = (last, count);
        counts.push(count);
    }
    bits.is_at_end().then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_bits_for_what_packets_look_like() {
        // A bell of some hundred buckets: a second of a busy server. Poisson noise alone is 6 bits a bucket.
        let counts: Vec<u64> = (0..200u64)
            .map(|i| {
                let x = (i as f64 - 100.0) / 40.0;
                let mean = 400.0 * (-x * x).exp();
                let noise = ((i * 2_654_435_761) % 1000) as f64 / 500.0 - 1.0;
                (mean + noise * mean.sqrt() * 1.5).max(1.0) as u64
            })
            .collect();
        let bytes = write(&counts);
        assert_eq!(read(&bytes, counts.len()), Some(counts.clone()));
        assert!(bytes.len() * 8 < 7 * counts.len(), "{} bytes", bytes.len());
        // One early, one late.
        let mut counts = vec![0; 1000];
        (counts[0], counts[999]) = (3, 1);
        assert!(write(&counts).len() <= 24);
    }

    proptest! {
        #[test]
        fn back_and_forth(counts in proptest::collection::vec(
            prop_oneof![Just(0u64), 0u64..5, 0u64..100_000, Just(1u64 << 62)], 0..300), end in 1u64..1 << 40) {
            let mut counts = counts;
            counts.push(end);
            let bytes = write(&counts);
            prop_assert_eq!(read(&bytes, counts.len()), Some(counts.clone()));
            // Cut short, or with something behind.
            prop_assert_eq!(read(&bytes[..bytes.len() - 1], counts.len()), None);
            let longer = [&bytes[..], &[0x55]].concat();
            prop_assert_eq!(read(&longer, counts.len()), None);
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 1usize..1500) {
            let _ = read(&bytes, len);
        }
    }
}
