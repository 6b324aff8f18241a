//! NTP timestamps and the round-trip time from reports: RFC 3550 4 and 6.4.1.

/// Seconds from 1900 to 1970 (RFC 868).
const UNIX_EPOCH: u64 = 2_208_988_800;
const NS: u64 = 1_000_000_000;

/// NTP time of a Unix time in ns: seconds since 1900 modulo 2^32, and a 32-bit fraction.
pub fn ntp64(unix_ns: u64) -> u64 {
    (unix_ns / NS + UNIX_EPOCH) << 32 | ((unix_ns % NS) << 32) / NS
}

/// Unix time in ns of an NTP time of the era that ends in 2036; 0 for times before 1970. Rounded to the nearest ns.
pub fn unix_ns(ntp64: u64) -> u64 {
    let fraction = ((ntp64 & 0xffff_ffff) * NS + (1 << 31)) >> 32;
    (ntp64 >> 32).checked_sub(UNIX_EPOCH).map_or(0, |seconds| seconds * NS + fraction)
}

/// The middle 32 bits, as LSR carries them: 1/65536 s, modulo 18 hours.
pub fn compact(ntp64: u64) -> u32 {
    (ntp64 >> 16) as u32
}

/// A delay in ns as DLSR carries it, in 1/65536 s; saturates at 18 hours.
pub fn dlsr(delay_ns: u64) -> u32 {
    u32::try_from(u128::from(delay_ns) * 65_536 / u128::from(NS)).unwrap_or(u32::MAX)
}

/// Round-trip time in µs: A − LSR − DLSR, with `arrival` the compact NTP time at which the report block came. `None`
/// while LSR is 0 (the other side has seen no sender report), or when the values contradict each other; a result
/// below zero by less than 1 ms is rounding and counts as 0.
pub fn rtt_us(arrival: u32, lsr: u32, dlsr: u32) -> Option<u64> {
    if lsr == 0 {
        return None;
    }
    let rtt = arrival.wrapping_sub(lsr).wrapping_sub(dlsr) as i32;
    if rtt < -65 {
        return None;
    }
    Some(rtt.max(0) as u64 * 1_000_000 / 65_536)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn epochs() {
        assert_eq!(ntp64(0), 2_208_988_800 << 32);
        assert_eq!(ntp64(1_500_000_000), 2_208_988_801 << 32 | 0x8000_0000);
        assert_eq!(compact(0x1111_2222_3333_4444), 0x2222_3333);
        assert_eq!(unix_ns(5), 0);
        assert_eq!(dlsr(500_000_000), 0x8000);
        assert_eq!(dlsr(u64::MAX), u32::MAX);
    }

    /// The example of RFC 3550 6.4.1, figure 2: A 0xb710:8000, LSR 0xb705:2000, DLSR 0x0005:4000, 6.125 s.
    #[test]
    fn round_trip_of_the_rfcs_example() {
        assert_eq!(rtt_us(0xb710_8000, 0xb705_2000, 0x0005_4000), Some(6_125_000));
    }

    #[test]
    fn round_trip_skips_what_says_nothing() {
        assert_eq!(rtt_us(0xb710_8000, 0, 0), None);
        assert_eq!(rtt_us(1000, 1000, 65), Some(0));
        assert_eq!(rtt_us(1000, 1000, 66), None);
        assert_eq!(rtt_us(0x0000_8000, 0xffff_8000, 0x8000), Some(500_000), "across the 18 hours");
    }

    proptest! {
        #[test]
        fn ntp_and_back(ns in 0u64..2_085_000_000 * NS) {
            prop_assert!(unix_ns(ntp64(ns)).abs_diff(ns) <= 1);
        }
    }
}
