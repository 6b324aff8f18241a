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
    /// When the worst ten seconds ended, as the caller's clock has it.
    worst_at_ns: u64,
    last_at_ns: u64,
}

impl Window10s {
    /// Packets expected and received in the second that ends at `at_ns` (either may be negative where it corrects the one
    /// before).
    pub fn push(&mut self, at_ns: u64, expected: i64, received: i64) {
        self.last_at_ns = at_ns;
        let (old_expected, old_received) =
            std::mem::replace(&mut self.ring[self.pushed % SECONDS], (expected, received));
        self.pushed += 1;
        self.expected += expected - old_expected;
        self.received += received - old_received;
        let share = self.share().filter(|_| self.pushed >= SECONDS);
        if let Some(share) = share.filter(|share| self.worst.is_none_or(|worst| *share > worst)) {
            (self.worst, self.worst_at_ns) = (Some(share), at_ns);
        }
    }

    /// Share (0..1) lost in the worst ten seconds; of all there is, where it is less; `None` without data.
    pub fn worst(&self) -> Option<f64> {
        if self.pushed < SECONDS { self.share() } else { self.worst }
    }

    /// When they ended; `None` without data.
    pub fn worst_at_ns(&self) -> Option<u64> {
        self.worst().map(|_| if self.pushed < SECONDS { self.last_at_ns } else { self.worst_at_ns })
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
        let mut second = 0;
        let mut push = |w: &mut Window10s, expected, received| {
            second += 1;
            w.push(second, expected, received);
        };
        assert_eq!((w.worst(), w.worst_at_ns()), (None, None));
        push(&mut w, 50, 25);
        assert_eq!(w.worst_at_ns(), Some(1));
        assert_eq!(w.worst(), Some(0.5), "a leg shorter than ten seconds");
        for _ in 0..19 {
            push(&mut w, 50, 50);
        }
        assert_eq!((w.worst(), w.worst_at_ns()), (Some(0.05), Some(10)));
        push(&mut w, 50, 0);
        push(&mut w, 50, 0);
        // Packets of the second before come late.
        push(&mut w, 50, 75);
        for _ in 0..20 {
            push(&mut w, 50, 50);
        }
        assert_eq!(w.worst(), Some(0.2));
        for _ in 0..10 {
            push(&mut w, 0, 0);
        }
        assert_eq!(w.worst(), Some(0.2));
    }
}
