//! Writing compounds. The messages' own methods are in their files.

use super::{HEAD, PADDING, RtcpError};

/// Writes packets one after another into a buffer. A method that fails leaves what was written before as it was, so
/// the caller can send that and begin again.
///
/// A compound that goes out before RFC 5506 was agreed on begins with a sender or receiver report and carries a CNAME
/// (RFC 3550 6.1); the order of calls is the order of packets.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Writes to the front of `buf`; leave [`TAG_MAX`](crate::media::srtp::TAG_MAX) bytes behind it for sealing.
    pub fn new(buf: &'a mut [u8]) -> Writer<'a> {
        Writer { buf, len: 0 }
    }

    /// Bytes written, a multiple of 4.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes left.
    pub fn spare(&self) -> usize {
        self.buf.len() - self.len
    }

    /// The compound so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// Takes everything back.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes back what was written since [`len`](Writer::len) was `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends one packet; `body` writes what follows the first four bytes. A body that is no multiple of four is
    /// padded and says so.
    pub(super) fn packet(
        &mut self,
        packet_type: u8,
        count: u8,
        body: impl FnOnce(&mut Body<'_>) -> Result<(), RtcpError>,
    ) -> Result<(), RtcpError> {
        debug_assert!(count < 32);
        let mut out = Body { buf: &mut self.buf[self.len..], len: 0 };
        out.bytes(&[0x80 | count, packet_type, 0, 0])?;
        body(&mut out)?;
        let padding = out.len.next_multiple_of(4) - out.len;
        if padding != 0 {
            out.bytes(&[0, 0, 0][..padding - 1])?;
            out.u8(padding as u8)?;
            out.buf[0] |= PADDING;
        }
        let words = u16::try_from((out.len - HEAD) / 4).map_err(|_| RtcpError::TooMany)?;
        out.buf[2..HEAD].copy_from_slice(&words.to_be_bytes());
        self.len += out.len;
        Ok(())
    }
}

/// The packet being written.
pub(super) struct Body<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl Body<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), RtcpError> {
        let end = self.len + bytes.len();
        self.buf.get_mut(self.len..end).ok_or(RtcpError::NoRoom)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    pub(super) fn u8(&mut self, value: u8) -> Result<(), RtcpError> {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> Result<(), RtcpError> {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> Result<(), RtcpError> {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> Result<(), RtcpError> {
        self.bytes(&value.to_be_bytes())
    }

    /// Bytes of the packet so far, its head included.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_does_not_fit_leaves_the_rest_alone() {
        let mut buf = [0; 30];
        let mut writer = Writer::new(&mut buf);
        assert!(writer.is_empty());
        writer.pli(1, 2).unwrap();
        writer.pli(3, 4).unwrap();
        let before = writer.as_bytes().to_vec();
        assert_eq!((writer.len(), writer.spare()), (24, 6));
        assert_eq!(writer.pli(5, 6), Err(RtcpError::NoRoom));
        assert_eq!(writer.as_bytes(), before);
        writer.clear();
        assert_eq!((writer.len(), writer.spare()), (0, 30));
    }
}
