//! Goodbye: RFC 3550 6.6.

use super::cursor::ssrcs;
use super::{BYE, Cursor, RtcpError, Writer};

/// Sources that leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bye<'a> {
    sources: &'a [u8],
    /// Why, where the sender says; not checked to be UTF-8.
    pub reason: &'a [u8],
}

impl<'a> Bye<'a> {
    pub(super) fn read(mut body: Cursor<'a>, count: u8) -> Result<Bye<'a>, RtcpError> {
        let sources = body.bytes(4 * usize::from(count))?;
        let reason = match body.u8() {
            Ok(len) => body.bytes(usize::from(len))?,
            Err(_) => &[],
        };
        Ok(Bye { sources, reason })
    }

    pub fn ssrcs(self) -> impl Iterator<Item = u32> + Clone + 'a {
        ssrcs(self.sources)
    }
}

impl Writer<'_> {
    /// Goodbye of one source, without a reason.
    pub fn bye(&mut self, ssrc: u32) -> Result<(), RtcpError> {
        self.packet(BYE, 1, |out| out.u32(ssrc))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;

    #[test]
    fn bytes_both_ways() {
        let mut buf = [0; 8];
        Writer::new(&mut buf).bye(0x0a0b_0c0d).unwrap();
        assert_eq!(buf, [0x81, 203, 0, 1, 0x0a, 0x0b, 0x0c, 0x0d]);

        let bytes = [0x82, 203, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 2, b'o', b'k', 0];
        let Some(Ok(Packet::Bye(bye))) = parse(&bytes).next() else { panic!() };
        assert_eq!((bye.ssrcs().collect::<Vec<_>>(), bye.reason), (vec![1, 2], &b"ok"[..]));

        let overlong = [0x81, 203, 0, 2, 0, 0, 0, 1, 9, b'o', b'k', 0];
        assert_eq!(parse(&overlong).next(), Some(Err(RtcpError::Truncated)));
    }
}
