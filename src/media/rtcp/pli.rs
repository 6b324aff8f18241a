//! Picture loss indication: RFC 4585 6.3.1.

use super::{Cursor, PLI, PSFB, RtcpError, Writer};

/// Asks for a key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pli {
    pub sender_ssrc: u32,
    pub media_ssrc: u32,
}

impl Pli {
    pub(super) fn read(mut body: Cursor<'_>) -> Result<Pli, RtcpError> {
        Ok(Pli { sender_ssrc: body.u32()?, media_ssrc: body.u32()? })
    }
}

impl Writer<'_> {
    /// Asks `media_ssrc`'s sender for a key frame.
    pub fn pli(&mut self, sender_ssrc: u32, media_ssrc: u32) -> Result<(), RtcpError> {
        self.packet(PSFB, PLI, |out| {
            out.u32(sender_ssrc)?;
            out.u32(media_ssrc)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;

    #[test]
    fn bytes_both_ways() {
        let mut buf = [0; 12];
        Writer::new(&mut buf).pli(1, 0x0a0b_0c0d).unwrap();
        assert_eq!(buf, [0x81, 206, 0, 2, 0, 0, 0, 1, 0x0a, 0x0b, 0x0c, 0x0d]);
        let expected = Pli { sender_ssrc: 1, media_ssrc: 0x0a0b_0c0d };
        assert_eq!(parse(&buf).collect::<Vec<_>>(), [Ok(Packet::Pli(expected))]);
    }
}
