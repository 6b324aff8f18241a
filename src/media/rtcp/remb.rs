//! Receiver estimated maximum bitrate: draft-alvestrand-rmcat-remb-03, an application layer feedback message.

use super::cursor::ssrcs;
use super::{AFB, Cursor, PSFB, RtcpError, Writer};

const NAME: [u8; 4] = *b"REMB";

/// What a receiver can take in all of the listed sources together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remb<'a> {
    pub sender_ssrc: u32,
    /// Bits per second. On the wire 18 bits and an exponent; saturates at `u64::MAX`.
    pub bitrate: u64,
    sources: &'a [u8],
}

impl<'a> Remb<'a> {
    /// `None` for another application's feedback.
    pub(super) fn read(mut body: Cursor<'a>) -> Result<Option<Remb<'a>>, RtcpError> {
        let sender_ssrc = body.u32()?;
        body.u32()?; // media source, always 0
        if body.array() != Ok(NAME) {
            return Ok(None);
        }
        let word = body.u32()?;
        let sources = body.bytes(4 * (word >> 24) as usize)?;
        let (exponent, mantissa) = (word >> 18 & 0x3f, u128::from(word & 0x3_ffff));
        let bitrate = u64::try_from(mantissa << exponent).unwrap_or(u64::MAX);
        Ok(Some(Remb { sender_ssrc, bitrate, sources }))
    }

    pub fn ssrcs(self) -> impl Iterator<Item = u32> + Clone + 'a {
        ssrcs(self.sources)
    }
}

impl Writer<'_> {
    /// `bitrate` in bits per second for all of `media_ssrcs` (at most 255), rounded down to 18 significant bits.
    pub fn remb(&mut self, sender_ssrc: u32, bitrate: u64, media_ssrcs: &[u32]) -> Result<(), RtcpError> {
        let count = u8::try_from(media_ssrcs.len()).map_err(|_| RtcpError::TooMany)?;
        let exponent = (u64::BITS - bitrate.leading_zeros()).saturating_sub(18);
        let mantissa = (bitrate >> exponent) as u32;
        self.packet(PSFB, AFB, |out| {
            out.u32(sender_ssrc)?;
            out.u32(0)?;
            out.bytes(&NAME)?;
            out.u32(u32::from(count) << 24 | exponent << 18 | mantissa)?;
            media_ssrcs.iter().try_for_each(|ssrc| out.u32(*ssrc))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_both_ways() {
        #[rustfmt::skip]
        let expected = [
            0x8f, 206, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B',
            2, 0b0000_1011, 0xd0, 0x90, 0, 0, 0, 7, 0, 0, 0, 8, // exponent 2, mantissa 0x3d090 = 250,000
        ];
        let mut buf = [0; 28];
        Writer::new(&mut buf).remb(1, 1_000_000, &[7, 8]).unwrap();
        assert_eq!(buf, expected);
        let Some(Ok(Packet::Remb(remb))) = parse(&expected).next() else { panic!() };
        assert_eq!((remb.sender_ssrc, remb.bitrate), (1, 1_000_000));
        assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn other_applications_are_passed_over_and_lists_checked() {
        let mut bytes = [0; 24];
        Writer::new(&mut bytes).remb(1, 5, &[7]).unwrap();
        bytes[16] = 2;
        assert_eq!(parse(&bytes).next(), Some(Err(RtcpError::Truncated)));
        bytes[12] = b'X';
        assert_eq!(parse(&bytes).next(), None);
    }

    proptest! {
        #[test]
        fn round_trip_keeps_18_bits(bitrate: u64) {
            let mut buf = [0; 28];
            let mut writer = Writer::new(&mut buf);
            writer.remb(1, bitrate, &[7]).unwrap();
            let Some(Ok(Packet::Remb(remb))) = parse(writer.as_bytes()).next() else { panic!() };
            prop_assert!(remb.bitrate <= bitrate && bitrate - remb.bitrate <= bitrate >> 17);
        }
    }

    #[test]
    fn greatest_exponent_saturates() {
        let bytes = [0x8f, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 0, 0xff, 0xff, 0xff];
        let Some(Ok(Packet::Remb(remb))) = parse(&bytes).next() else { panic!() };
        assert_eq!(remb.bitrate, u64::MAX);
    }
}
