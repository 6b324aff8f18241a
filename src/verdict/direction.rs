//! On which way media was lost: to the server, or from it. A server says in its receiver reports (RFC 3550 6.4.1) what
//! it missed of what participants sent; what it did not miss and nobody got was lost in it or behind it.

use super::metrics::percent;
use super::words::number;
use crate::measure::Flow;

/// Of a loss, this share on one way makes it that way's.
const MOSTLY: f64 = 0.8;
/// Fewer reported packets than this say nothing.
const REPORTED_MIN: i64 = 100;

/// Where a server's loss of one kind of media happened, with its size where it was both ways. `None` without loss, or
/// where the server's reports cover less than a fifth of what was sent.
pub(super) fn direction(flow: &Flow) -> Option<String> {
    let c = &flow.count;
    // Reports on audio come every 5 s (RFC 3550 6.2), so those of a short hold cover a part of it.
    if c.reported_expected < REPORTED_MIN || c.reported_expected.saturating_mul(5) < c.sent {
        return None;
    }
    let share = |part: i64, whole: i64| if whole > 0 { (part as f64 / whole as f64).clamp(0.0, 1.0) } else { 0.0 };
    let up = share(c.reported_lost, c.reported_expected);
    // The server reports what it missed before anything was sent again, so that is what it is held against.
    let first_try = share(c.rtp_expected.saturating_sub(c.rtp_received), c.rtp_expected);
    let all = c.e2e_loss().unwrap_or(0.0).max(first_try);
    if all <= 0.0 {
        return None;
    }
    if up >= MOSTLY * all {
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

    #[test]
    fn loss_is_put_where_the_server_says_it_was_not_or_was() {
        assert!(direction(&flow(0, 60)).unwrap().contains("way down"));
        assert!(direction(&flow(19, 60)).unwrap().contains("way up"));
        assert_eq!(direction(&flow(19, 120)).unwrap(), "2 % on the way up, 2.04 % on the way down");
        assert_eq!(direction(&flow(0, 0)), None);
    }

    #[test]
    fn too_few_reports_say_nothing() {
        let mut f = flow(0, 60);
        f.count.reported_expected = 190;
        assert_eq!(direction(&f), None);
        (f.count.sent, f.count.reported_expected) = (99, 99);
        assert_eq!(direction(&f), None);
    }

    #[test]
    fn what_came_back_by_retransmission_was_lost_all_the_same() {
        let mut f = flow(0, 0);
        (f.count.rtp_expected, f.count.rtp_received, f.count.recovered) = (3000, 2900, 100);
        assert!(direction(&f).unwrap().contains("way down"));
    }
}
