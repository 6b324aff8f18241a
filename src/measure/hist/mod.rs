//! A histogram of durations that merges and travels.

mod code; // its counts as few bits

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

/// Highest value a histogram tells apart, in µs; what is larger counts as this.
const HIGHEST_US: u64 = 120_000_000;
/// Buckets of each octave, and of the first values together, which have one each.
const PER_OCTAVE: usize = 64;
const PER_OCTAVE_LOG2: u32 = PER_OCTAVE.trailing_zeros();
/// All up to that of the highest value, in pairs.
const BUCKETS: usize = (bucket(HIGHEST_US) + 1).next_multiple_of(2);
/// In the number of buckets, as it travels: every second one is empty, and left out.
const EVERY_SECOND: u8 = 0x40;

/// Histogram of microseconds, 0 to 120 s, in the log-linear buckets of HDR histograms: 64 to an octave, so that the middle
/// of a bucket, which stands for all in it, is right to 1/128 (0.8 %), and to 1 µs below 128 µs. Holds the octaves that its
/// values are in, and allocates when that grows; [`Hist::allocated`] never does. Travels as base64: first bucket and their
/// number as LEB128, then their counts as few bits; an empty one as "". Where only every second bucket is used
/// ([`Hist::thin`]), only these are written.
#[derive(Clone, Default, Debug)]
pub struct Hist {
    /// Of a range of buckets, which starts at `first`.
    counts: Vec<u64>,
    first: usize,
    count: u64,
    /// In µs, of all, as the middles of their buckets.
    sum_us: u64,
}

const fn bucket(us: u64) -> usize {
    if us < PER_OCTAVE as u64 {
        return us as usize;
    }
    let octave = us.ilog2() - PER_OCTAVE_LOG2;
    octave as usize * PER_OCTAVE + (us >> octave) as usize
}

/// The value that stands for all of a bucket, in µs.
const fn middle_us(bucket: usize) -> u64 {
    if bucket < 2 * PER_OCTAVE {
        return bucket as u64;
    }
    let octave = bucket / PER_OCTAVE - 1;
    ((bucket - octave * PER_OCTAVE) as u64) << octave | 1 << (octave - 1)
}

impl Hist {
    pub fn new() -> Hist {
        Hist::default()
    }

    /// With its counts allocated, for paths that must not allocate later.
    pub fn allocated() -> Hist {
        Hist { counts: vec![0; BUCKETS], ..Hist::default() }
    }

    /// Records one value in µs.
    #[inline]
    pub fn record_us(&mut self, us: u64) {
        let bucket = bucket(us.min(HIGHEST_US));
        if bucket.wrapping_sub(self.first) >= self.counts.len() {
            let octave = bucket / PER_OCTAVE * PER_OCTAVE;
            self.widen(octave, (octave + PER_OCTAVE).min(BUCKETS));
        }
        let n = &mut self.counts[bucket - self.first];
        *n = n.saturating_add(1);
        self.count = self.count.saturating_add(1);
        self.sum_us = self.sum_us.saturating_add(middle_us(bucket));
    }

    /// Makes room for the buckets of a range.
    fn widen(&mut self, from: usize, until: usize) {
        if self.counts.is_empty() {
            *self = Hist { counts: vec![0; until - from], first: from, ..Hist::default() };
            return;
        }
        let (from, until) = (from.min(self.first), until.max(self.first + self.counts.len()));
        if until - from > self.counts.len() {
            let mut counts = vec![0; until - from];
            counts[self.first - from..][..self.counts.len()].copy_from_slice(&self.counts);
            (self.counts, self.first) = (counts, from);
        }
    }

    pub fn merge(&mut self, other: &Hist) {
        if other.is_empty() {
            return;
        }
        self.widen(other.first, other.first + other.counts.len());
        for (to, from) in self.counts[other.first - self.first..].iter_mut().zip(&other.counts) {
            // Saturating: a history read from a file may hold anything.
            *to = to.saturating_add(*from);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// Moves what is in every second bucket into the next: half the buckets to an octave, which take half the room where
    /// they are written. Values then read up to 2.4 % (1 µs below 128 µs) too high, never lower than before.
    pub fn thin(&mut self) {
        let mut moved_us = 0u64;
        for n in 0..self.counts.len() {
            let bucket = self.first + n;
            if bucket.is_multiple_of(2) && self.counts[n] > 0 {
                // Ranges are whole octaves, or what was read.
                if n + 1 == self.counts.len() {
                    self.counts.push(0);
                }
                let count = std::mem::take(&mut self.counts[n]);
                self.counts[n + 1] = self.counts[n + 1].saturating_add(count);
                moved_us = moved_us.saturating_add(count.saturating_mul(middle_us(bucket + 1) - middle_us(bucket)));
            }
        }
        self.sum_us = self.sum_us.saturating_add(moved_us);
    }

    /// Forgets the values and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.sum_us) = (0, 0);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Value in µs at a quantile (0..=1): the smallest that this share of all values does not exceed; `None` without data.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0u64;
        let at = self.counts.iter().position(|n| {
            seen = seen.saturating_add(*n);
            seen >= rank
        });
        at.map(|n| middle_us(self.first + n))
    }

    /// The same in ms.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.quantile_us(q).map(|us| us as f64 / 1000.0)
    }

    pub fn max_ms(&self) -> Option<f64> {
        let last = self.counts.iter().rposition(|n| *n > 0)?;
        Some(middle_us(self.first + last) as f64 / 1000.0)
    }

    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_us as f64 / self.count as f64 / 1000.0)
    }

    /// Used buckets: the first one, and the counts up to the last one.
    fn used(&self) -> (usize, &[u64]) {
        let from = self.counts.iter().position(|n| *n > 0).unwrap_or(0);
        let until = self.counts.iter().rposition(|n| *n > 0).map_or(from, |n| n + 1);
        (self.first + from, &self.counts[from..until])
    }
}

impl PartialEq for Hist {
    fn eq(&self, other: &Hist) -> bool {
        (self.is_empty() && other.is_empty()) || self.used() == other.used()
    }
}

impl Serialize for Hist {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.is_empty() {
            return s.serialize_str("");
        }
        let (first, counts) = self.used();
        let thin = counts.iter().skip(1).step_by(2).all(|n| *n == 0) && counts.len() > 1;
        let mut bytes = Vec::new();
        for (n, flag) in [(first, 0), (counts.len(), if thin { EVERY_SECOND } else { 0 })] {
            // LEB128; both are below 2^13.
            bytes.extend_from_slice(&[(n & 0x7f) as u8 | 0x80, (n >> 7) as u8 | flag]);
        }
        if thin {
            bytes.extend(code::write(&counts.iter().step_by(2).copied().collect::<Vec<_>>()));
        } else {
            bytes.extend(code::write(counts));
        }
        s.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Hist {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Hist, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Hist;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a histogram in base64")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hist, E> {
                if text.is_empty() {
                    return Ok(Hist::new());
                }
                let bytes = STANDARD_NO_PAD.decode(text).map_err(E::custom)?;
                of_bytes(&bytes).ok_or_else(|| E::custom("no histogram of this version"))
            }
        }
        d.deserialize_str(Text)
    }
}

fn of_bytes(bytes: &[u8]) -> Option<Hist> {
    let (&[a, b, c, d], rest) = bytes.split_first_chunk()?;
    if a & c & 0x80 == 0 || (b | d) & 0x80 != 0 {
        return None;
    }
    let number = |low: u8, high: u8| usize::from(low & 0x7f) | usize::from(high) << 7;
    let thin = d & EVERY_SECOND != 0;
    let (first, len) = (number(a, b), number(c, d & !EVERY_SECOND));
    if len == 0 || first + len > BUCKETS {
        return None;
    }
    let counts = if thin {
        let mut counts = vec![0; len];
        let read = code::read(rest, len.div_ceil(2))?;
        counts.iter_mut().step_by(2).zip(read).for_each(|(to, n)| *to = n);
        counts
    } else {
        code::read(rest, len)?
    };
    let (mut count, mut sum_us) = (0u64, 0u64);
    for (n, of) in counts.iter().zip(first..) {
        count = count.saturating_add(*n);
        sum_us = sum_us.saturating_add(n.saturating_mul(middle_us(of)));
    }
    Some(Hist { counts, first, count, sum_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_for_its_values() {
        let mut last = 0;
        for us in (0..100_000).chain((100_000..HIGHEST_US).step_by(7919)).chain([HIGHEST_US]) {
            let bucket = bucket(us);
            assert!(bucket == last || bucket == last + 1 || us > 100_000, "{us}");
            last = bucket;
            let off = middle_us(bucket).abs_diff(us) as f64;
            assert!(off <= us as f64 / 128.0, "{us}: {}", middle_us(bucket));
        }
        assert_eq!((last + 1).next_multiple_of(2), BUCKETS);
    }

    #[test]
    fn travels_and_merges() {
        let (mut a, mut b) = (Hist::new(), Hist::new());
        for i in 1..=1000 {
            a.record_us(i * 100);
            b.record_us(200_000_000);
        }
        let text = serde_json::to_string(&a).unwrap();
        let mut back: Hist = serde_json::from_str(&text).unwrap();
        assert_eq!(back, a);
        assert_eq!((back.count(), back.mean_ms()), (a.count(), a.mean_ms()));
        back.merge(&b);
        b.merge(&a);
        assert_eq!(back, b);
        assert_eq!(back.count(), 2000);
        let p25 = back.quantile_ms(0.25).unwrap();
        assert!((49.6..50.4).contains(&p25), "{p25}");
        let max = back.max_ms().unwrap();
        assert!((119_000.0..121_000.0).contains(&max), "{max}");
        back.record_us(0);
        assert_eq!((back.count(), back.quantile_us(0.0)), (2001, Some(0)));
    }

    /// The library that histories were once written with reads the same out of the same values.
    #[test]
    fn hdrhistogram_agrees() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(5);
        for round in 0..40 {
            let mut theirs = hdrhistogram::Histogram::<u64>::new_with_bounds(1, HIGHEST_US, 4).unwrap();
            let mut ours = Hist::new();
            for _ in 0..1 + 400 * round {
                // Over all magnitudes alike.
                let us = 2f64.powf(rng.random_range(0.0..26.0)) as u64;
                ours.record_us(us);
                theirs.record(us).unwrap();
            }
            let back: Hist = serde_json::from_str(&serde_json::to_string(&ours).unwrap()).unwrap();
            for q in [0.0, 0.05, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
                let (a, b) = (back.quantile_us(q).unwrap() as f64, theirs.value_at_quantile(q) as f64);
                assert!((a - b).abs() <= b / 100.0 + 1.0, "{q}: {a} ours, {b} theirs, of {}", ours.count());
            }
            let (a, b) = (back.mean_ms().unwrap() * 1000.0, theirs.mean());
            assert!((a - b).abs() <= b / 100.0 + 1.0, "mean: {a} ours, {b} theirs");
            assert_eq!(back.count(), theirs.len());
        }
    }

    #[test]
    fn quantiles_are_of_values_that_there_are() {
        let mut h = Hist::allocated();
        assert_eq!((h.quantile_us(0.5), h.max_ms(), h.mean_ms()), (None, None, None));
        for us in 1..=100 {
            h.record_us(us);
        }
        assert_eq!([0.0, 0.01, 0.5, 0.95, 0.99, 1.0].map(|q| h.quantile_us(q).unwrap()), [1, 1, 50, 95, 99, 100]);
        assert_eq!(h.mean_ms(), Some(0.0505));
        h.clear();
        assert_eq!(h, Hist::new());
        assert_eq!(h.quantile_us(0.5), None);
        assert_eq!(serde_json::to_string(&h).unwrap(), "\"\"");
    }

    #[test]
    fn thin_ones_take_half_the_room() {
        let mut h = Hist::new();
        let mut reference = Vec::new();
        for i in 0..3000u64 {
            let us = 200 + i * i % 7919 % 3000 + i * i % 6389 % 300;
            h.record_us(us);
            reference.push(us);
        }
        reference.sort_unstable();
        let (full, mean) = (serde_json::to_string(&h).unwrap(), h.mean_ms().unwrap());
        let before = [0.0, 0.5, 0.99, 1.0].map(|q| h.quantile_us(q).unwrap() as f64);
        h.thin();
        let thin = serde_json::to_string(&h).unwrap();
        assert!(thin.len() * 100 < full.len() * 62, "{} of {}", thin.len(), full.len());
        let back: Hist = serde_json::from_str(&thin).unwrap();
        assert_eq!(back, h);
        assert_eq!((back.count(), back.mean_ms()), (3000, h.mean_ms()));
        let after = [0.0, 0.5, 0.99, 1.0].map(|q| back.quantile_us(q).unwrap() as f64);
        for (before, after) in before.iter().zip(after) {
            assert!(after >= *before && after <= before * 1.017, "{before} {after}");
        }
        for (q, after) in [0.0, 0.5, 0.99, 1.0].iter().zip(after) {
            let exact = reference[((q * 3000f64).ceil() as usize).max(1) - 1] as f64;
            assert!((after - exact).abs() <= exact * 0.0241, "{exact} {after}");
        }
        assert!((1.0..1.017).contains(&(h.mean_ms().unwrap() / mean)));
        // Thin ones stay thin when they are merged, and the highest value has its place.
        let mut merged = back.clone();
        merged.merge(&h);
        assert_eq!((merged.count(), merged.quantile_us(0.5)), (6000, h.quantile_us(0.5)));
        let mut highest = Hist::new();
        highest.record_us(u64::MAX);
        highest.thin();
        let back: Hist = serde_json::from_str(&serde_json::to_string(&highest).unwrap()).unwrap();
        assert_eq!(back, highest);
    }

    #[test]
    fn rejects_garbage() {
        for text in ["\"AAAA\"", "\"%%\"", "\"HISTFAAAAA\"", "3", "\"gICAgP//\""] {
            assert!(serde_json::from_str::<Hist>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Hist>("\"\"").unwrap().is_empty());
    }
}
