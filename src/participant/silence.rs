//! When a participant hears nothing at all although somebody sends: the evidence for a call that is dead to it.

/// Shorter ones are no news.
const SPAN_MIN_NS: u64 = 100_000_000;
/// Spans kept of one leg; the shortest go first.
const SPANS_MAX: usize = 32;

/// A span, in ns of CLOCK_REALTIME.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silence {
    pub from_ns: u64,
    pub until_ns: u64,
}

impl Silence {
    fn length(&self) -> u64 {
        self.until_ns.saturating_sub(self.from_ns)
    }
}

#[derive(Default)]
pub(super) struct Listener {
    /// Last media packet of an expected source.
    heard_ns: u64,
    /// Somebody has been sending since.
    expected_since: Option<u64>,
    spans: Vec<Silence>,
}

impl Listener {
    /// A media packet arrived.
    pub fn heard(&mut self, at_ns: u64) {
        self.close(at_ns);
        self.heard_ns = self.heard_ns.max(at_ns);
    }

    /// Once a second: whether anybody who is to be heard has sent in it.
    pub fn expect(&mut self, now_ns: u64, expected: bool) {
        match (expected, self.expected_since) {
            (true, None) => self.expected_since = Some(now_ns),
            (false, Some(_)) => {
                self.close(now_ns);
                self.expected_since = None;
            }
            _ => {}
        }
    }

    /// Since when nothing was heard that should have been, so far; in ns.
    pub fn silent_since(&self) -> Option<u64> {
        self.expected_since.map(|since| since.max(self.heard_ns))
    }

    /// The leg ends; gives the spans in their order.
    pub fn finish(&mut self, now_ns: u64) -> Vec<Silence> {
        self.close(now_ns);
        self.expected_since = None;
        std::mem::take(&mut self.spans)
    }

    fn close(&mut self, at_ns: u64) {
        let Some(since) = self.expected_since else { return };
        let span = Silence { from_ns: self.heard_ns.max(since), until_ns: at_ns };
        if span.length() >= SPAN_MIN_NS {
            self.keep(span);
        }
    }

    #[cold]
    fn keep(&mut self, span: Silence) {
        if self.spans.len() == SPANS_MAX {
            let shortest = (0..SPANS_MAX).min_by_key(|i| self.spans[*i].length()).unwrap_or(0);
            if self.spans[shortest].length() >= span.length() {
                return;
            }
            self.spans.remove(shortest);
        }
        self.spans.push(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn spans(l: &mut Listener, at_ms: u64) -> Vec<(u64, u64)> {
        l.finish(at_ms * MS).iter().map(|s| (s.from_ns / MS, s.until_ns / MS)).collect()
    }

    #[test]
    fn only_what_is_expected_can_be_missed() {
        let mut l = Listener::default();
        l.heard(500 * MS);
        l.expect(1000 * MS, false);
        l.expect(20_000 * MS, true);
        l.heard(20_050 * MS);
        l.heard(20_149 * MS);
        l.heard(20_300 * MS);
        // Its senders stop by plan at some time in this second: silence until it is noticed, not after.
        l.expect(21_000 * MS, true);
        l.expect(22_000 * MS, false);
        l.heard(90_000 * MS);
        assert_eq!(spans(&mut l, 95_000), [(20_149, 20_300), (20_300, 22_000)]);
    }

    #[test]
    fn silence_that_is_still_open_counts_at_the_end() {
        let mut l = Listener::default();
        l.expect(1000 * MS, true);
        l.heard(1010 * MS);
        l.expect(17_000 * MS, true);
        assert_eq!(l.silent_since(), Some(1010 * MS));
        assert_eq!(spans(&mut l, 18_000), [(1010, 18_000)]);
        assert_eq!(l.silent_since(), None);
        assert_eq!(spans(&mut l, 19_000), []);
    }

    #[test]
    fn the_longest_are_kept_and_memory_is_bounded() {
        let mut l = Listener::default();
        l.expect(MS, true);
        let mut at = 1000;
        for n in 0..1000u64 {
            l.heard(at * MS);
            at += if n == 3 { 16_000 } else { 100 + n % 300 };
        }
        let all = l.finish(at * MS);
        assert_eq!(all.len(), SPANS_MAX);
        assert!(all.iter().any(|s| s.length() == 16_000 * MS));
        assert!(all.is_sorted_by_key(|s| s.from_ns));
    }
}
