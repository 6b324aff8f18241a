//! On which way media was lost: to the server, or from it. A server says in its receiver reports (RFC 3550 6.4.1) what
//! it missed of what participants sent; what it did not miss and nobody got was lost in it or behind it.

use super::metrics::percent;
use super::words::number;
use crate::measure::{Flow, FlowCounters};

/// Of a loss, this share on one way makes it that way's.
const MOSTLY: f64 = 0.8;
/// Fewer reported packets than this say nothing.
const REPORTED_MIN: i64 = 100;

/// The same of a whole leg, which began before the hold and may have begun well.
const MOSTLY_OF_LEGS: f64 = 0.6;

/// What a server reported: packets expected, and of these missed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Reported {
    pub expected: i64,
    pub lost: i64,
}

impl Reported {
    pub fn add(&mut self, c: &FlowCounters) {
        self.expected = self.expected.saturating_add(c.reported_expected);
        self.lost = self.lost.saturating_add(c.reported_lost);
    }
}

/// Where a server's loss of one kind of media happened, with its size where it was both ways. `None` without loss, or
/// without enough reports. `legs`: reports of whole legs, for holds so short that hardly a report falls into them (those
/// on audio come every 5 s, RFC 3550 6.2).
pub(super) fn direction(flow: &Flow, legs: Reported) -> Option<String> {
    let c = &flow.count;
    let mut hold = Reported::default();
    hold.add(c);
    let (reported, mostly) = if hold.expected >= REPORTED_MIN && hold.expected.saturating_mul(3) >= c.sent {
        (hold, MOSTLY)
    } else if legs.expected >= REPORTED_MIN {
        (legs, MOSTLY_OF_LEGS)
    } else {
        return None;
    };
    let share = |part: i64, whole: i64| if whole > 0 { (part as f64 / whole as f64).clamp(0.0, 1.0) } else { 0.0 };
    let up = share(reported.lost, reported.expected);
    // The server reports what it missed before anything was sent again, so that is what it is held against.
    let first_try = share(c.rtp_expected.saturating_sub(c.rtp_received), c.rtp_expected);
    let all = c.e2e_loss().unwrap_or(0.0).max(first_try);
    if all <= 0.0 {
        return None;
    }
    if up >= mostly * all {
        return Some("on the way up, from participants to the server".into());
    }
    if up <= (1.0 - MOSTLY) * all {
        return Some("on the way down, in the server or from it to participants".into());
    }
    let down = 1.0 - (1.0 - all) / (1.0 - up).max(1e-9);
    Some(format!("{} % on the way up, {} % on the way down", number(percent(up)), number(percent(down))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(reported_lost: i64, e2e_lost: i64) -> Flow {
        let mut f = Flow::default();
        (f.count.sent, f.count.reported_expected, f.count.reported_lost) = (1000, 950, reported_lost);
        (f.count.e2e_expected, f.count.e2e_received) = (3000, 3000 - e2e_lost);
        f
    }

    fn way(f: &Flow) -> Option<String> {
        direction(f, Reported::default())
    }

    #[test]
    fn loss_is_put_where_the_server_says_it_was_not_or_was() {
        assert!(way(&flow(0, 60)).unwrap().contains("way down"));
        assert!(way(&flow(19, 60)).unwrap().contains("way up"));
        assert_eq!(way(&flow(19, 120)).unwrap(), "2 % on the way up, 2.04 % on the way down");
        assert_eq!(way(&flow(0, 0)), None);
    }

    #[test]
    fn too_few_reports_in_the_hold_leave_it_to_the_legs_and_too_few_of_those_say_nothing() {
        let mut f = flow(0, 60);
        f.count.reported_expected = 190;
        assert_eq!(way(&f), None);
        let legs = |lost| Reported { expected: 1500, lost };
        assert!(direction(&f, legs(0)).unwrap().contains("way down"));
        assert!(direction(&f, legs(20)).unwrap().contains("way up"), "1.3 % of the leg, 2 % of the hold");
        assert_eq!(direction(&f, Reported { expected: 99, lost: 9 }), None);
    }

    #[test]
    fn what_came_back_by_retransmission_was_lost_all_the_same() {
        let mut f = flow(0, 0);
        (f.count.rtp_expected, f.count.rtp_received, f.count.recovered) = (3000, 2900, 100);
        assert!(way(&f).unwrap().contains("way down"));
    }
}
