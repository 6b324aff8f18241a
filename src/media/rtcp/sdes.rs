//! Source descriptions: RFC 3550 6.5.

use super::{Cursor, RtcpError, SDES, Writer};

const END: u8 = 0;
const CNAME: u8 = 1;

/// A received source description, checked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sdes<'a> {
    chunks: &'a [u8],
    count: u8,
}

/// One item of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdesItem<'a> {
    pub ssrc: u32,
    /// 1 is CNAME (RFC 3550 12.2).
    pub kind: u8,
    /// UTF-8 as its sender says; not checked.
    pub text: &'a [u8],
}

impl<'a> Sdes<'a> {
    pub(super) fn read(body: Cursor<'a>, count: u8) -> Result<Sdes<'a>, RtcpError> {
        let mut items = Items { body, left: count, ssrc: None };
        while items.step()?.is_some() {}
        Ok(Sdes { chunks: body.0, count })
    }

    pub fn items(self) -> impl Iterator<Item = SdesItem<'a>> + Clone {
        Items { body: Cursor(self.chunks), left: self.count, ssrc: None }
    }

    /// SSRC and CNAME of every source that has one.
    pub fn cnames(self) -> impl Iterator<Item = (u32, &'a [u8])> + Clone {
        self.items().filter(|item| item.kind == CNAME).map(|item| (item.ssrc, item.text))
    }
}

#[derive(Clone)]
struct Items<'a> {
    body: Cursor<'a>,
    /// Chunks not begun.
    left: u8,
    /// Source of the chunk we are in.
    ssrc: Option<u32>,
}

impl<'a> Items<'a> {
    fn step(&mut self) -> Result<Option<SdesItem<'a>>, RtcpError> {
        loop {
            let Some(ssrc) = self.ssrc else {
                if self.left == 0 {
                    return Ok(None);
                }
                self.left -= 1;
                self.ssrc = Some(self.body.u32()?);
                continue;
            };
            let kind = self.body.u8()?;
            if kind != END {
                let len = usize::from(self.body.u8()?);
                return Ok(Some(SdesItem { ssrc, kind, text: self.body.bytes(len)? }));
            }
            // The chunk is filled up with zeros to four bytes. A packet is a multiple of four, so what is left
            // of the body tells how many.
            self.body.bytes(self.body.0.len() % 4)?;
            self.ssrc = None;
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = SdesItem<'a>;

    fn next(&mut self) -> Option<SdesItem<'a>> {
        self.step().ok().flatten()
    }
}

impl Writer<'_> {
    /// A source description with the CNAME of one source, at most 255 bytes.
    pub fn sdes_cname(&mut self, ssrc: u32, cname: &str) -> Result<(), RtcpError> {
        let len = u8::try_from(cname.len()).map_err(|_| RtcpError::TooMany)?;
        self.packet(SDES, 1, |out| {
            out.u32(ssrc)?;
            out.bytes(&[CNAME, len])?;
            out.bytes(cname.as_bytes())?;
            let end = out.len() / 4 * 4 + 4; // one zero at least
            out.bytes(&[END; 4][..end - out.len()])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;

    #[test]
    fn cname_of_every_length_reads_back() {
        for len in 0..=255 {
            let cname = "c".repeat(len);
            let mut buf = [0xff; 300];
            let mut writer = Writer::new(&mut buf);
            writer.sdes_cname(9, &cname).unwrap();
            assert_eq!(writer.as_bytes()[0], 0x81, "not padded");
            let Some(Ok(Packet::Sdes(sdes))) = parse(writer.as_bytes()).next() else { panic!("{len}") };
            assert_eq!(sdes.cnames().collect::<Vec<_>>(), [(9, cname.as_bytes())]);
        }
        assert_eq!(Writer::new(&mut [0; 400]).sdes_cname(9, &"c".repeat(256)), Err(RtcpError::TooMany));
    }

    #[test]
    fn several_sources_and_items() {
        #[rustfmt::skip]
        let bytes = [
            0x82, 202, 0, 7,
            0, 0, 0, 1, 1, 2, b'a', b'b', 2, 1, b'n', 0, // CNAME, NAME, end
            0, 0, 0, 2, 1, 3, b'x', b'y', b'z', 0, 0, 0, // CNAME, end and padding
            0, 0, 0, 0, // beyond the chunks
        ];
        let Some(Ok(Packet::Sdes(sdes))) = parse(&bytes).next() else { panic!() };
        assert_eq!(
            sdes.items().collect::<Vec<_>>(),
            [
                SdesItem { ssrc: 1, kind: 1, text: b"ab" },
                SdesItem { ssrc: 1, kind: 2, text: b"n" },
                SdesItem { ssrc: 2, kind: 1, text: b"xyz" },
            ]
        );
    }

    #[test]
    fn items_that_run_out_are_errors() {
        for bytes in [
            &[0x81, 202, 0, 1, 0, 0, 0, 1][..],
            &[0x81, 202, 0, 2, 0, 0, 0, 1, 1, 3, b'a', b'b'],
            &[0x82, 202, 0, 2, 0, 0, 0, 1, 1, 1, b'a', 0],
        ] {
            assert_eq!(parse(bytes).next(), Some(Err(RtcpError::Truncated)));
        }
    }
}
