//! Packets that left, or came, as one: draft-ietf-rmcat-gcc-02 5.2.

/// Packets sent within this of the first one are one group.
const BURST_US: i64 = 5_000;

/// A group that collects what a receiver got in one go is no longer than this.
const BURST_MAX_US: i64 = 100_000;

/// Clocks that went apart so far between two groups were set.
const JUMP_US: i64 = 3_000_000;

/// So many groups in a row that arrive before the one before them: the receiver's clock was set back.
const BACKWARDS_MAX: u32 = 3;

/// Times between the last packets of a group and of the one before it, and when it arrived, all in ms.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Delta {
    pub sent_ms: f64,
    pub arrival_ms: f64,
    pub at_ms: f64,
    /// When the group's first packet was sent.
    pub first_sent_us: i64,
}

#[derive(Default, Debug)]
pub struct Groups {
    before: Option<Group>,
    current: Option<Group>,
    backwards: u32,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: i64,
    last_sent: i64,
    first_arrival: i64,
    last_arrival: i64,
}

impl Group {
    fn takes(&self, sent: i64, arrival: i64) -> bool {
        if sent.saturating_sub(self.first_sent) <= BURST_US {
            return true;
        }
        // Held up together: it came right behind the others, and its way was shorter.
        let gap = arrival.saturating_sub(self.last_arrival);
        gap <= BURST_US
            && gap < sent.saturating_sub(self.last_sent)
            && arrival.saturating_sub(self.first_arrival) < BURST_MAX_US
    }
}

impl Groups {
    /// A packet that arrived, in the order of sending. Gives the distance of the last two complete groups when it begins
    /// another one.
    pub fn add(&mut self, sent: i64, arrival: i64) -> Option<Delta> {
        let new = Group { first_sent: sent, last_sent: sent, first_arrival: arrival, last_arrival: arrival };
        let Some(group) = &mut self.current else {
            self.current = Some(new);
            return None;
        };
        if sent < group.first_sent {
            // Behind its group: it says nothing any more. Far behind, our own clock was set.
            if group.first_sent.saturating_sub(sent) > JUMP_US {
                *self = Groups { current: Some(new), ..Groups::default() };
            }
            return None;
        }
        if group.takes(sent, arrival) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrival = group.last_arrival.max(arrival);
            return None;
        }
        let done = *group;
        self.current = Some(new);
        let before = self.before.replace(done)?;
        let sent = done.last_sent.saturating_sub(before.last_sent);
        let arrival = done.last_arrival.saturating_sub(before.last_arrival);
        if arrival.saturating_sub(sent).saturating_abs() > JUMP_US {
            *self = Groups { current: Some(new), ..Groups::default() };
            return None;
        }
        if arrival < 0 {
            self.backwards += 1;
            if self.backwards >= BACKWARDS_MAX {
                *self = Groups { current: Some(new), ..Groups::default() };
            }
            return None;
        }
        self.backwards = 0;
        let ms = |us: i64| us as f64 / 1000.0;
        Some(Delta {
            sent_ms: ms(sent),
            arrival_ms: ms(arrival),
            at_ms: ms(done.last_arrival),
            first_sent_us: done.first_sent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_sent_together_are_one_group() {
        let mut groups = Groups::default();
        let mut found = Vec::new();
        for frame in 0..4 {
            for packet in 0..3 {
                let sent = frame * 33_000 + packet * 2_000;
                found.extend(groups.add(sent, 900_000 + sent + frame * 1_000));
            }
        }
        let times: Vec<(f64, f64)> = found.iter().map(|d| (d.sent_ms, d.arrival_ms)).collect();
        assert_eq!(times, [(33.0, 34.0); 2]);
        assert_eq!(found[1].first_sent_us, 66_000);
    }

    #[test]
    fn what_was_held_up_together_is_one_group() {
        let mut groups = Groups::default();
        assert_eq!(groups.add(0, 10_000), None);
        assert_eq!(groups.add(20_000, 30_000), None);
        // Three that waited for a radio channel.
        for n in 2..5 {
            let found = groups.add(n * 20_000, 150_000 + n);
            assert_eq!(found.is_some(), n == 2, "{n}");
        }
        let held = groups.add(100_000, 200_000).unwrap();
        assert_eq!((held.sent_ms, held.arrival_ms), (60.0, 120.004));
    }

    #[test]
    fn reordering_is_passed_over_and_set_clocks_begin_anew() {
        let mut groups = Groups::default();
        for n in 0..10 {
            groups.add(n * 20_000, n * 20_000);
        }
        assert_eq!(groups.add(100_000, 210_000), None);
        let next = groups.add(200_000, 200_000).unwrap();
        assert_eq!((next.sent_ms, next.arrival_ms), (20.0, 20.0));
        assert_eq!(groups.add(220_000, 90_000_000).unwrap().sent_ms, 20.0);
        assert_eq!(groups.add(240_000, 90_020_000), None, "an hour later by the receiver's clock");
        assert_eq!(groups.add(260_000, 90_040_000), None);
        assert!(groups.add(280_000, 90_060_000).is_some());
        assert_eq!(groups.add(-9_000_000, 90_080_000), None);
        assert_eq!(groups.add(-8_980_000, 90_100_000), None);
        assert!(groups.add(-8_960_000, 90_120_000).is_some());
    }
}
