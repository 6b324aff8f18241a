//! The acknowledged rate: bits that arrived in the last half second, by the receiver's clock.

const BUCKET_US: i64 = 50_000;
const BUCKETS: usize = 10;

/// An arrival so far before the newest one means that the receiver's clock is another one now.
const BACKWARDS_US: i64 = 10_000_000;

#[derive(Default, Debug)]
pub struct Acked {
    /// Bytes by arrival time, in a ring.
    bytes: [u64; BUCKETS],
    newest_us: i64,
    first_us: Option<i64>,
}

impl Acked {
    pub fn add(&mut self, arrival_us: i64, bytes: u64) {
        let newest = self.newest_us.div_euclid(BUCKET_US);
        let bucket = arrival_us.div_euclid(BUCKET_US);
        let ahead = bucket.saturating_sub(newest);
        let backwards = self.newest_us.saturating_sub(arrival_us) > BACKWARDS_US;
        if self.first_us.is_none() || backwards || ahead >= 2 * BUCKETS as i64 {
            // After a pause what came before says nothing.
            *self = Acked { newest_us: arrival_us, first_us: Some(arrival_us), ..Acked::default() };
        } else if ahead > 0 {
            (1..=ahead.min(BUCKETS as i64)).for_each(|n| self.bytes[place(newest + n)] = 0);
        } else if ahead <= -(BUCKETS as i64) {
            return;
        }
        self.newest_us = self.newest_us.max(arrival_us);
        self.bytes[place(bucket)] += bytes;
    }

    /// Bits per second; `None` before half a second has been seen.
    pub fn rate(&self) -> Option<f64> {
        let from = (self.newest_us.div_euclid(BUCKET_US) + 1 - BUCKETS as i64).saturating_mul(BUCKET_US);
        let whole = self.first_us? <= from;
        let seconds = self.newest_us.saturating_sub(from) as f64 / 1e6;
        whole.then(|| self.bytes.iter().sum::<u64>() as f64 * 8.0 / seconds)
    }
}

fn place(bucket: i64) -> usize {
    bucket.rem_euclid(BUCKETS as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_the_last_half_second() {
        let mut acked = Acked::default();
        assert_eq!(acked.rate(), None);
        // 1000 bytes every 10 ms: 800 kbit/s.
        for n in 0..200 {
            acked.add(7_000_000 + n * 10_000, 1000);
            assert_eq!(acked.rate().is_some(), n >= 50 - 5, "{n}");
        }
        assert!((acked.rate().unwrap() / 800_000.0 - 1.0).abs() < 0.05, "{:?}", acked.rate());
        // Half of it from here on.
        for n in 0..60 {
            acked.add(9_000_000 + n * 20_000, 1000);
        }
        assert!((acked.rate().unwrap() / 400_000.0 - 1.0).abs() < 0.05, "{:?}", acked.rate());
        let before = acked.rate();
        acked.add(9_000_000, 60_000);
        assert_eq!(acked.rate(), before, "too late to count");
        acked.add(1_000, 1000);
        assert_eq!(acked.rate(), None, "another clock");
        acked.add(90_000_000, 1000);
        assert_eq!(acked.rate(), None, "after a pause");
    }
}
