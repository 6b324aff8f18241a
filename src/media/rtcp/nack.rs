//! Generic NACK: RFC 4585 6.2.1.

use super::{Cursor, NACK, RTPFB, RtcpError, Writer};

/// Packets asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack<'a> {
    pub sender_ssrc: u32,
    pub media_ssrc: u32,
    pairs: &'a [u8],
}

impl<'a> Nack<'a> {
    pub(super) fn read(mut body: Cursor<'a>) -> Result<Nack<'a>, RtcpError> {
        Ok(Nack { sender_ssrc: body.u32()?, media_ssrc: body.u32()?, pairs: body.0 })
    }

    /// The sequence numbers in wire order; at most 17 for every 4 bytes.
    pub fn seqs(self) -> impl Iterator<Item = u16> + Clone + 'a {
        self.pairs.as_chunks().0.iter().flat_map(|[p0, p1, b0, b1]| {
            let (pid, mask) = (u16::from_be_bytes([*p0, *p1]), u16::from_be_bytes([*b0, *b1]));
            let following = (0..16).filter(move |bit| mask >> bit & 1 != 0);
            std::iter::once(pid).chain(following.map(move |bit| pid.wrapping_add(bit + 1)))
        })
    }
}

impl Writer<'_> {
    /// Asks `media_ssrc`'s sender for `seqs`, in ascending order (wrap included); repeated ones count once. Nothing is
    /// written for none.
    pub fn nack(
        &mut self,
        sender_ssrc: u32,
        media_ssrc: u32,
        seqs: impl Iterator<Item = u16>,
    ) -> Result<(), RtcpError> {
        let mut seqs = seqs.peekable();
        if seqs.peek().is_none() {
            return Ok(());
        }
        self.packet(RTPFB, NACK, |out| {
            out.u32(sender_ssrc)?;
            out.u32(media_ssrc)?;
            while let Some(pid) = seqs.next() {
                let mut mask = 0u16;
                while let Some(seq) = seqs.next_if(|seq| seq.wrapping_sub(pid) <= 16) {
                    let ahead = seq.wrapping_sub(pid);
                    if ahead != 0 {
                        mask |= 1 << (ahead - 1);
                    }
                }
                out.u16(pid)?;
                out.u16(mask)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Vec<u16> {
        let Some(Ok(Packet::Nack(nack))) = parse(bytes).next() else { panic!() };
        assert_eq!((nack.sender_ssrc, nack.media_ssrc), (1, 2));
        nack.seqs().collect()
    }

    #[test]
    fn pid_and_following_bits() {
        let mut buf = [0; 32];
        let mut writer = Writer::new(&mut buf);
        writer.nack(1, 2, [65_534, 65_535, 65_535, 14, 15, 300].into_iter()).unwrap();
        #[rustfmt::skip]
        let expected = [
            0x81, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2,
            0xff, 0xfe, 0x80, 0x01, 0, 15, 0, 0, 1, 0x2c, 0, 0,
        ];
        assert_eq!(writer.as_bytes(), expected);
        assert_eq!(read(&expected), [65_534, 65_535, 14, 15, 300]);
    }

    #[test]
    fn none_asked_for_is_nothing_written() {
        let mut buf = [0; 32];
        let mut writer = Writer::new(&mut buf);
        writer.nack(1, 2, std::iter::empty()).unwrap();
        assert!(writer.is_empty());
    }

    proptest! {
        #[test]
        fn round_trip(first: u16, gaps in prop::collection::vec(1u16..200, 0..200)) {
            let mut seqs = vec![first];
            for gap in gaps {
                seqs.push(seqs[seqs.len() - 1].wrapping_add(gap));
            }
            let mut buf = [0; 1000];
            let mut writer = Writer::new(&mut buf);
            writer.nack(1, 2, seqs.iter().copied()).unwrap();
            prop_assert_eq!(read(writer.as_bytes()), seqs);
        }
    }
}
