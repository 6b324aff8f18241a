//! One bit for each of the last [`WINDOW`] extended sequence numbers.

/// How far back a packet can still be told from a duplicate: 20 s of audio, 5 s of video at 1500 kbit/s.
pub(super) const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;

/// A ring of bits. Its user says which numbers are inside the window, and clears what enters it.
#[derive(Clone)]
pub(super) struct Bits([u64; WORDS]);

impl Bits {
    pub fn new() -> Bits {
        Bits([0; WORDS])
    }

    fn place(n: u64) -> (usize, u64) {
        (((n % WINDOW) / 64) as usize, 1 << (n % 64))
    }

    pub fn get(&self, n: u64) -> bool {
        let (word, bit) = Bits::place(n);
        self.0[word] & bit != 0
    }

    pub fn set(&mut self, n: u64) {
        let (word, bit) = Bits::place(n);
        self.0[word] |= bit;
    }

    pub fn clear(&mut self, n: u64) {
        let (word, bit) = Bits::place(n);
        self.0[word] &= !bit;
    }

    /// The window moves on from `before` to `to` as its newest number.
    pub fn advance(&mut self, before: u64, to: u64) {
        if to.saturating_sub(before) >= WINDOW {
            self.0 = [0; WORDS];
            return;
        }
        for n in before + 1..=to {
            self.clear(n);
        }
    }

    /// How many are set in `from..=to`. Both must be inside the window.
    pub fn count(&self, from: u64, to: u64) -> u64 {
        let mut n = from;
        let mut sum = 0;
        while n <= to {
            let (word, _) = Bits::place(n);
            let offset = n % 64;
            let len = (64 - offset).min(to - n + 1);
            let mask = if len == 64 { u64::MAX } else { ((1 << len) - 1) << offset };
            sum += u64::from((self.0[word] & mask).count_ones());
            n += len;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    #[test]
    fn same_as_a_set() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let (mut bits, mut set) = (Bits::new(), BTreeSet::new());
            let mut highest = rng.random_range(2000..100_000u64);
            for _ in 0..300 {
                let next =
                    highest + if rng.random_ratio(1, 50) { rng.random_range(0..3000) } else { rng.random_range(0..20) };
                bits.advance(highest, next);
                highest = next;
                let n = highest - rng.random_range(0..WINDOW);
                if rng.random_ratio(1, 8) {
                    bits.clear(n);
                    set.remove(&n);
                } else {
                    bits.set(n);
                    set.insert(n);
                }
                set = set.split_off(&(highest - WINDOW + 1));
                let from = highest - rng.random_range(0..WINDOW);
                let to = rng.random_range(from..=highest);
                assert_eq!(bits.count(from, to), set.range(from..=to).count() as u64);
                assert_eq!(bits.get(from), set.contains(&from));
            }
        }
    }
}
