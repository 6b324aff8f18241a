//! Report blocks about one SSRC (RFC 3550 6.4.1, A.3).

use super::sequence::Sequence;

/// The fields of one report block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceptionReport {
    pub ssrc: u32,
    /// Lost since the last report, as 1/256 of what was expected; 0 if duplicates outnumber losses.
    pub fraction_lost: u8,
    /// Expected less received since the stream began, late and duplicate packets included; within 24 bits, signed.
    pub cumulative_lost: i32,
    pub ext_highest_seq: u32,
    /// In timestamp units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time in the last SR; 0 before the first one.
    pub last_sr: u32,
    /// Since that SR arrived, in 1/65536 s; 0 before the first one.
    pub delay_since_last_sr: u32,
}

/// What the next report needs to know of the last one.
#[derive(Default)]
pub(super) struct Reporter {
    /// Packets on this SSRC since it began or restarted; retransmissions on an SSRC of their own are not among them.
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    last_sr: Option<(u32, u64)>,
}

impl Reporter {
    pub fn on_packet(&mut self) {
        self.received += 1;
    }

    /// The sender's numbers start again, with `received` packets since.
    pub fn restart(&mut self, received: u64) {
        *self = Reporter { received, last_sr: self.last_sr, ..Reporter::default() };
    }

    pub fn on_sender_report(&mut self, ntp_mid32: u32, recv_ns: u64) {
        self.last_sr = Some((ntp_mid32, recv_ns));
    }

    pub fn report(&mut self, ssrc: u32, seq: &Sequence, jitter: u32, now_ns: u64) -> ReceptionReport {
        let expected = seq.expected_since_start();
        let lost = expected as i64 - self.received as i64;
        let expected_interval = expected - self.expected_prior.min(expected);
        let received_interval = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction_lost = (lost_interval << 8).checked_div(expected_interval).unwrap_or(0).min(255) as u8;
        let (last_sr, delay_since_last_sr) = match self.last_sr {
            None => (0, 0),
            Some((ntp, at_ns)) => {
                let ns = u128::from(now_ns.saturating_sub(at_ns));
                (ntp, u32::try_from((ns << 16) / 1_000_000_000).unwrap_or(u32::MAX))
            }
        };
        ReceptionReport {
            ssrc,
            fraction_lost,
            cumulative_lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            ext_highest_seq: seq.extended_highest(),
            jitter,
            last_sr,
            delay_since_last_sr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_totals() {
        let mut seq = Sequence::new();
        let mut r = Reporter::default();
        for n in (0..200u16).filter(|n| n % 4 != 1) {
            seq.place(n, false);
            r.on_packet();
        }
        let first = r.report(9, &seq, 5, 0);
        assert_eq!((first.ssrc, first.fraction_lost, first.cumulative_lost), (9, 64, 50));
        assert_eq!((first.ext_highest_seq, first.jitter), (199, 5));
        assert_eq!((first.last_sr, first.delay_since_last_sr), (0, 0));
        // Nothing new: no fraction, same total.
        assert_eq!(r.report(9, &seq, 5, 0).fraction_lost, 0);
        // The lost ones come late: the total falls, the fraction is never negative.
        for n in (0..200u16).filter(|n| n % 4 == 1) {
            seq.place(n, false);
            r.on_packet();
        }
        r.on_sender_report(0xabcd_ef01, 1_000_000_000);
        let last = r.report(9, &seq, 5, 2_500_000_000);
        assert_eq!((last.fraction_lost, last.cumulative_lost), (0, 0));
        assert_eq!((last.last_sr, last.delay_since_last_sr), (0xabcd_ef01, 98_304));
    }

    #[test]
    fn everything_lost_but_the_last() {
        let mut seq = Sequence::new();
        let mut r = Reporter::default();
        seq.place(1, false);
        r.on_packet();
        r.report(1, &seq, 0, 0);
        seq.place(2900, false);
        r.on_packet();
        assert_eq!(r.report(1, &seq, 0, 0).fraction_lost, 255);
    }
}
