//! Interarrival jitter (RFC 3550 6.4.1, A.8).

/// A difference of transit times this large is a new time base (another source behind the SSRC, a pause), not jitter.
const NEW_TIME_BASE_NS: f64 = 5e9;

/// J += (|D| − J) / 16 over the packets given, in order of arrival. In nanoseconds, so that neither clock rate nor
/// rounding to timestamp units matters.
#[derive(Default)]
pub(super) struct Jitter {
    last: Option<(u64, u32)>,
    ns: f64,
}

impl Jitter {
    pub fn on_packet(&mut self, recv_ns: u64, timestamp: u32, clock_rate: u32) {
        if let Some((last_ns, last_timestamp)) = self.last.replace((recv_ns, timestamp)) {
            let arrival = recv_ns.wrapping_sub(last_ns) as i64 as f64;
            let media = f64::from(timestamp.wrapping_sub(last_timestamp) as i32) * 1e9 / f64::from(clock_rate);
            let d = (arrival - media).abs();
            if d < NEW_TIME_BASE_NS {
                self.ns += (d - self.ns) / 16.0;
            }
        }
    }

    /// Of the last packet.
    pub fn timestamp(&self) -> Option<u32> {
        self.last.map(|(_, timestamp)| timestamp)
    }

    pub fn us(&self) -> u64 {
        (self.ns / 1000.0).round() as u64
    }

    /// In timestamp units, as a report block has it.
    pub fn units(&self, clock_rate: u32) -> u32 {
        (self.ns * f64::from(clock_rate) / 1e9) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    /// RFC 3550 A.8 to the letter, in timestamp units.
    #[derive(Default)]
    struct Reference {
        transit: Option<i64>,
        jitter: f64,
    }

    impl Reference {
        fn on_packet(&mut self, arrival: i64, timestamp: i64) {
            let transit = arrival - timestamp;
            if let Some(before) = self.transit.replace(transit) {
                let d = (transit - before).abs() as f64;
                self.jitter += (1.0 / 16.0) * (d - self.jitter);
            }
        }
    }

    #[test]
    fn same_as_the_rfc() {
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let clock_rate = if seed % 2 == 0 { 48_000 } else { 90_000 };
            let (mut j, mut r) = (Jitter::default(), Reference::default());
            let spread_ns = rng.random_range(1..80_000_000u64);
            let start_ns = 1_700_000_000_000_000_000 + rng.random_range(0..1_000_000_000_000u64);
            let start_ts = u64::from(u32::MAX) - rng.random_range(0..2_000_000u64);
            for i in 0..500u64 {
                let delay_ns = rng.random_range(0..spread_ns);
                let ticks = i * u64::from(clock_rate) / 50;
                let since_ns = i * 20_000_000 + delay_ns;
                j.on_packet(start_ns + since_ns, (start_ts + ticks) as u32, clock_rate);
                let arrival = (u128::from(since_ns) * u128::from(clock_rate) / 1_000_000_000) as i64;
                r.on_packet(arrival, ticks as i64);
            }
            // The reference rounds each arrival to a unit of the timestamp.
            let difference = (f64::from(j.units(clock_rate)) - r.jitter).abs();
            assert!(difference <= 2.0, "seed {seed}: {} {}", j.units(clock_rate), r.jitter);
        }
    }

    #[test]
    fn a_new_time_base_is_no_jitter() {
        let mut j = Jitter::default();
        for i in 0..100u64 {
            let timestamp = if i < 50 { i * 960 } else { 3_000_000_000 + i * 960 };
            j.on_packet(1_000_000_000 + i * 20_000_000, timestamp as u32, 48_000);
        }
        assert_eq!(j.us(), 0);
    }
}
