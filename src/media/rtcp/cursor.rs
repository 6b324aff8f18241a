//! Reading forward through a received body, checked at every step.

use super::RtcpError;

#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RtcpError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RtcpError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], RtcpError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RtcpError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, RtcpError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, RtcpError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, RtcpError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, RtcpError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

/// A list of SSRCs on the wire.
pub(super) fn ssrcs(list: &[u8]) -> impl Iterator<Item = u32> + Clone + '_ {
    list.as_chunks().0.iter().map(|ssrc| u32::from_be_bytes(*ssrc))
}
