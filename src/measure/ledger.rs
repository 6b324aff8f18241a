//! What a sender has sent, and when: the truth that its receivers' stamps are held against.

/// Samples kept, and their spacing: how far back in time [`Ledger::count_at`] can look, and how finely.
const SAMPLES: usize = 128;
const SPACING_NS: u64 = 100_000_000;

/// Pauses kept.
const PAUSES: usize = 8;

/// One media stream of one sender: the cumulative number of media packets over time. Exact at its end, and to 100 ms
/// for the last 6 s at least. All times are CLOCK_REALTIME in ns.
pub struct Ledger {
    samples: Box<[Sample; SAMPLES]>,
    /// Samples ever taken; the ring holds the last of them.
    taken: usize,
    latest: Sample,
    stopped_at: Option<u64>,
    /// Pauses ever begun; the last one may be open.
    pauses: [Pause; PAUSES],
    paused: usize,
}

#[derive(Clone, Copy, Default)]
struct Sample {
    at_ns: u64,
    count: u64,
}

#[derive(Clone, Copy, Default)]
struct Pause {
    from_ns: u64,
    until_ns: Option<u64>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            samples: Box::new([Sample::default(); SAMPLES]),
            taken: 0,
            latest: Sample::default(),
            stopped_at: None,
            pauses: [Pause::default(); PAUSES],
            paused: 0,
        }
    }
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// The stream's packets so far, the one just sent included (the counter in its stamp). No retransmissions.
    pub fn on_sent(&mut self, now_ns: u64, cumulative: u64) {
        let now_ns = now_ns.max(self.latest.at_ns);
        let before = self.latest;
        self.latest = Sample { at_ns: now_ns, count: cumulative.max(before.count) };
        if self.taken == 0 {
            self.sample(self.latest);
        } else if now_ns - self.newest_sample().at_ns >= SPACING_NS {
            // The packet before this one: so a sending pause has a sample at its beginning.
            self.sample(if before.at_ns > self.newest_sample().at_ns { before } else { self.latest });
        }
    }

    fn sample(&mut self, sample: Sample) {
        self.samples[self.taken % SAMPLES] = sample;
        self.taken += 1;
    }

    /// The largest count known at or before a time; 0 for a time before all that is kept.
    pub fn count_at(&self, at_ns: u64) -> u64 {
        self.known_at(at_ns).unwrap_or(0)
    }

    /// The same; `None` if the time is before all that is kept, so that nothing is known.
    pub fn known_at(&self, at_ns: u64) -> Option<u64> {
        if at_ns >= self.latest.at_ns {
            return Some(self.latest.count);
        }
        let kept = self.taken.min(SAMPLES);
        let before = (1..=kept).map(|back| self.samples[(self.taken - back) % SAMPLES]).find(|s| s.at_ns <= at_ns);
        match before {
            Some(sample) => Some(sample.count),
            // Nothing has been overwritten: it is a time before the first packet.
            None if self.taken <= SAMPLES => Some(0),
            None => None,
        }
    }

    /// The count at a time, or the oldest known one if the time is before all that is kept.
    pub fn count_at_or_oldest(&self, at_ns: u64) -> u64 {
        self.known_at(at_ns).unwrap_or(self.samples[self.taken % SAMPLES].count)
    }

    /// Packets so far.
    pub fn latest(&self) -> u64 {
        self.latest.count
    }

    /// When the last packet went out; 0 before the first.
    pub fn latest_at_ns(&self) -> u64 {
        self.latest.at_ns
    }

    /// The sender has stopped for good.
    pub fn stop(&mut self, at_ns: u64) {
        self.stopped_at.get_or_insert(at_ns);
    }

    pub fn stopped_at(&self) -> Option<u64> {
        self.stopped_at
    }

    /// The sender mutes or pauses this stream.
    pub fn pause(&mut self, at_ns: u64) {
        if !self.is_paused() {
            self.pauses[self.paused % PAUSES] = Pause { from_ns: at_ns, until_ns: None };
            self.paused += 1;
        }
    }

    pub fn resume(&mut self, at_ns: u64) {
        if self.is_paused() {
            self.pauses[(self.paused - 1) % PAUSES].until_ns = Some(at_ns);
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused > 0 && self.pauses[(self.paused - 1) % PAUSES].until_ns.is_none()
    }

    /// How long of `from_ns..to_ns` the sender was paused or had stopped, as far as the last 8 pauses tell.
    pub fn paused_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        let end_ns = to_ns.min(self.stopped_at.unwrap_or(u64::MAX));
        let kept = self.paused.min(PAUSES);
        let pauses: u64 = self.pauses[..kept]
            .iter()
            .map(|p| p.until_ns.unwrap_or(u64::MAX).min(end_ns).saturating_sub(p.from_ns.max(from_ns)))
            .sum();
        pauses + to_ns.saturating_sub(end_ns.max(from_ns))
    }

    fn newest_sample(&self) -> Sample {
        self.samples[(self.taken - 1) % SAMPLES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const MS: u64 = 1_000_000;

    #[test]
    fn never_more_than_was_sent_and_at_most_100_ms_behind() {
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut ledger = Ledger::new();
            let mut sent = Vec::new();
            let mut at = 1_000_000 * MS;
            for count in 1..=3000u64 {
                at += if rng.random_ratio(1, 100) {
                    rng.random_range(0..2000) * MS
                } else {
                    rng.random_range(0..20 * MS)
                };
                ledger.on_sent(at, count);
                sent.push((at, count));
                if count % 50 == 0 {
                    let truth = |t: u64| sent[..sent.partition_point(|s| s.0 <= t)].last().map_or(0, |s| s.1);
                    for _ in 0..20 {
                        let t = at + 100 * MS - rng.random_range(0..6_000 * MS);
                        let known = ledger.known_at(t).unwrap();
                        assert!(known <= truth(t), "seed {seed}");
                        assert!(known >= truth(t - 100 * MS), "seed {seed}: {known} {}", truth(t - 100 * MS));
                    }
                    assert_eq!(ledger.count_at(at), count);
                }
            }
            assert_eq!(ledger.latest(), 3000);
            assert_eq!(ledger.latest_at_ns(), at);
        }
    }

    #[test]
    fn says_when_it_does_not_know() {
        let mut ledger = Ledger::new();
        assert_eq!(ledger.known_at(5), Some(0));
        ledger.on_sent(1000 * MS, 1);
        assert_eq!(ledger.known_at(999 * MS), Some(0));
        for i in 1..1000 {
            ledger.on_sent((1000 + 100 * i) * MS, i + 1);
        }
        assert_eq!(ledger.known_at(2000 * MS), None);
        assert_eq!(ledger.count_at(2000 * MS), 0);
        assert_eq!(ledger.count_at_or_oldest(2000 * MS), 1000 - 127);
    }

    #[test]
    fn pauses_and_the_end() {
        let mut ledger = Ledger::new();
        ledger.pause(100);
        ledger.pause(150);
        assert!(ledger.is_paused());
        ledger.resume(200);
        ledger.resume(250);
        ledger.pause(400);
        assert_eq!(ledger.paused_ns(0, 1000), 700);
        assert_eq!(ledger.paused_ns(150, 410), 60);
        ledger.resume(500);
        ledger.stop(900);
        ledger.stop(950);
        assert_eq!(ledger.stopped_at(), Some(900));
        assert_eq!(ledger.paused_ns(0, 1000), 300);
        assert_eq!(ledger.paused_ns(950, 1000), 50);
        assert_eq!(ledger.paused_ns(600, 700), 0);
    }
}
