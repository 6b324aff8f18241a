//! The worst ten seconds of a leg: means hide what somebody had to listen to.

const SECONDS: usize = 10;

/// Highest e2e loss of one leg and kind in any ten seconds. Fed once a second.
#[derive(Clone, Default, Debug)]
pub struct Window10s {
    /// Expected and received of the last seconds.
    ring: [(i64, i64); SECONDS],
    pushed: usize,
    expected: i64,
    received: i64,
    worst: Option<f64>,
}

impl Window10s {
    /// Packets expected and received in one second (either may be negative where it corrects the one before).
    pub fn push(&mut self, expected: i64, received: i64) {
        let (old_expected, old_received) =
            std::mem::replace(&mut self.ring[self.pushed % SECONDS], (expected, received));
        self.pushed += 1;
        self.expected += expected - old_expected;
        self.received += received - old_received;
        if let Some(share) = self.share().filter(|_| self.pushed >= SECONDS) {
            self.worst = Some(self.worst.map_or(share, |worst| worst.max(share)));
        }
    }

    /// Share (0..1) lost in the worst ten seconds; of all there is, where it is less; `None` without data.
    pub fn worst(&self) -> Option<f64> {
        if self.pushed < SECONDS { self.share() } else { self.worst }
    }

    fn share(&self) -> Option<f64> {
        (self.expected > 0).then(|| (self.expected - self.received).max(0) as f64 / self.expected as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_of_all_windows() {
        let mut w = Window10s::default();
        assert_eq!(w.worst(), None);
        w.push(50, 25);
        assert_eq!(w.worst(), Some(0.5), "a leg shorter than ten seconds");
        for _ in 0..19 {
            w.push(50, 50);
        }
        assert_eq!(w.worst(), Some(0.05));
        w.push(50, 0);
        w.push(50, 0);
        // Packets of the second before come late.
        w.push(50, 75);
        for _ in 0..20 {
            w.push(50, 50);
        }
        assert_eq!(w.worst(), Some(0.2));
        for _ in 0..10 {
            w.push(0, 0);
        }
        assert_eq!(w.worst(), Some(0.2));
    }
}
