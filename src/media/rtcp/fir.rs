//! Full intra request: RFC 5104 4.3.1.

use super::{Cursor, FIR, PSFB, RtcpError, Writer};

/// Asks several sources for key frames. A repeated request carries the same command number and is answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fir<'a> {
    pub sender_ssrc: u32,
    entries: &'a [u8],
}

impl<'a> Fir<'a> {
    pub(super) fn read(mut body: Cursor<'a>) -> Result<Fir<'a>, RtcpError> {
        let sender_ssrc = body.u32()?;
        body.u32()?; // media source, unused here
        Ok(Fir { sender_ssrc, entries: body.0 })
    }

    /// Media SSRC and command number of each request.
    pub fn requests(self) -> impl Iterator<Item = (u32, u8)> + Clone + 'a {
        let (entries, _) = self.entries.as_chunks::<8>();
        entries.iter().map(|e| (u32::from_be_bytes([e[0], e[1], e[2], e[3]]), e[4]))
    }
}

impl Writer<'_> {
    /// Asks `media_ssrc`'s sender for a key frame; `command` goes up by one, modulo 256, with every new request.
    pub fn fir(&mut self, sender_ssrc: u32, media_ssrc: u32, command: u8) -> Result<(), RtcpError> {
        self.packet(PSFB, FIR, |out| {
            out.u32(sender_ssrc)?;
            out.u32(0)?;
            out.u32(media_ssrc)?;
            out.bytes(&[command, 0, 0, 0])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;

    #[test]
    fn bytes_both_ways() {
        let mut buf = [0; 20];
        Writer::new(&mut buf).fir(1, 0x0a0b_0c0d, 0xee).unwrap();
        assert_eq!(buf, [0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0x0d, 0xee, 0, 0, 0]);
        let Some(Ok(Packet::Fir(fir))) = parse(&buf).next() else { panic!() };
        assert_eq!(fir.sender_ssrc, 1);
        assert_eq!(fir.requests().collect::<Vec<_>>(), [(0x0a0b_0c0d, 0xee)]);
    }
}
