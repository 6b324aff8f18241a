//! Gaps of single flows: the evidence for a call in which one hears the other and not the reverse.

use crate::media::receive::Gap;
use crate::types::{Kind, LegId};

/// Shorter ones are no news.
const GAP_MIN_NS: u64 = 1_000_000_000;
/// Gaps kept of one leg; the shortest go first.
const GAPS_MAX: usize = 32;

/// Nothing arrived of this sender's kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowGap {
    pub from: LegId,
    pub kind: Kind,
    pub gap: Gap,
}

#[derive(Default)]
pub(super) struct FlowGaps(Vec<FlowGap>);

impl FlowGaps {
    pub fn keep(&mut self, from: LegId, kind: Kind, gap: Gap) {
        if gap.ns() < GAP_MIN_NS {
            return;
        }
        if self.0.len() == GAPS_MAX {
            let shortest = (0..GAPS_MAX).min_by_key(|i| self.0[*i].gap.ns()).unwrap_or(0);
            if self.0[shortest].gap.ns() >= gap.ns() {
                return;
            }
            self.0.swap_remove(shortest);
        }
        self.0.push(FlowGap { from, kind, gap });
    }

    /// In the order of their begin.
    pub fn take(&mut self) -> Vec<FlowGap> {
        let mut gaps = std::mem::take(&mut self.0);
        gaps.sort_by_key(|g| (g.gap.began_ns, g.from, g.kind));
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_are_kept_in_order_and_memory_is_bounded() {
        let mut gaps = FlowGaps::default();
        let s = 1_000_000_000;
        for n in 0..200u64 {
            let began_ns = n * 100 * s;
            let length = if n == 150 { 40 * s } else { s - 1 + n % 7 };
            gaps.keep(LegId(n as u32), Kind::Audio, Gap { began_ns, ended_ns: began_ns + length });
        }
        let kept = gaps.take();
        assert_eq!(kept.len(), GAPS_MAX);
        assert!(kept.iter().all(|g| g.gap.ns() >= s), "a gap below a second is no news");
        assert!(kept.is_sorted_by_key(|g| g.gap.began_ns));
        assert!(kept.iter().any(|g| g.from == LegId(150)));
        assert_eq!(gaps.take(), []);
    }
}
