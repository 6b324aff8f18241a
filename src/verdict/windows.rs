//! Stretches of time: the hold, the seconds in which the generator was unhealthy, the seconds that broke a limit.

use serde::Serialize;

/// From (excluded) to (included), ms since the start of the run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Window {
    #[serde(rename = "from")]
    pub from_ms: f64,
    #[serde(rename = "until")]
    pub until_ms: f64,
}

impl Window {
    /// The window that ends at `t` and is so many seconds long.
    pub fn ending(t: f64, seconds: f64) -> Window {
        Window { from_ms: t - seconds.clamp(0.0, 1e6) * 1000.0, until_ms: t }
    }

    pub fn length_ms(&self) -> f64 {
        (self.until_ms - self.from_ms).max(0.0)
    }

    pub fn overlap_ms(&self, o: &Window) -> f64 {
        self.common(o).length_ms().max(0.0)
    }

    /// What both have; of negative length where they do not touch.
    pub fn common(&self, o: &Window) -> Window {
        Window { from_ms: self.from_ms.max(o.from_ms), until_ms: self.until_ms.min(o.until_ms) }
    }
}

/// A set of moments: disjoint windows in order.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Windows(Vec<Window>);

impl Windows {
    /// In any order, overlapping or not.
    pub fn of(mut all: Vec<Window>) -> Windows {
        all.sort_by(|a, b| a.from_ms.total_cmp(&b.from_ms));
        let mut out: Vec<Window> = Vec::new();
        for w in all {
            match out.last_mut() {
                Some(last) if w.from_ms <= last.until_ms => last.until_ms = last.until_ms.max(w.until_ms),
                _ => out.push(w),
            }
        }
        Windows(out)
    }

    pub fn overlap_ms(&self, w: &Window) -> f64 {
        let first = self.0.partition_point(|o| o.until_ms <= w.from_ms);
        self.0[first..].iter().take_while(|o| o.from_ms < w.until_ms).map(|o| o.overlap_ms(w)).sum()
    }

    /// True when more than a tenth of the window lies in here; ticks are never aligned to the millisecond.
    pub fn touch(&self, w: &Window) -> bool {
        self.overlap_ms(w) > w.length_ms() / 10.0
    }

    pub fn total_ms(&self) -> f64 {
        self.0.iter().map(Window::length_ms).sum()
    }

    /// The stretch that says best when: the longest one after gaps of up to 5 s are closed when it holds at least 80 %
    /// of all, else first to last.
    pub fn headline(&self) -> Option<Window> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        let mut clusters: Vec<(Window, f64)> = Vec::new();
        for w in &self.0 {
            match clusters.last_mut() {
                Some((c, inside)) if w.from_ms - c.until_ms <= 5000.0 => {
                    c.until_ms = w.until_ms;
                    *inside += w.length_ms();
                }
                _ => clusters.push((*w, w.length_ms())),
            }
        }
        let best = clusters.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let whole = Window { from_ms: first.from_ms, until_ms: last.until_ms };
        Some(if best.1 >= 0.8 * self.total_ms() { best.0 } else { whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn w(from: f64, until: f64) -> Window {
        Window { from_ms: from * 1000.0, until_ms: until * 1000.0 }
    }

    #[test]
    fn merges_and_overlaps() {
        let set = Windows::of(vec![w(5.0, 6.0), w(1.0, 2.0), w(2.0, 3.0), w(1.5, 2.5)]);
        assert_eq!(set.total_ms(), 3000.0);
        assert_eq!(set.overlap_ms(&w(0.0, 10.0)), 3000.0);
        assert_eq!(set.overlap_ms(&w(2.5, 5.5)), 1000.0);
        assert_eq!(set.overlap_ms(&w(3.0, 5.0)), 0.0);
        assert!(!set.touch(&w(2.95, 4.0)) && set.touch(&w(2.5, 3.5)));
        assert!(!Windows::default().touch(&w(0.0, 1.0)));
    }

    #[test]
    fn headline_is_the_bad_stretch_not_the_stray_second() {
        let mut all: Vec<Window> = (10..30).map(|s| w(f64::from(s), f64::from(s + 1))).collect();
        all.push(w(100.0, 101.0));
        assert_eq!(Windows::of(all).headline(), Some(w(10.0, 30.0)));
        let scattered = vec![w(1.0, 2.0), w(50.0, 51.0), w(100.0, 101.0)];
        assert_eq!(Windows::of(scattered).headline(), Some(w(1.0, 101.0)));
        assert_eq!(Windows::default().headline(), None);
    }
}
