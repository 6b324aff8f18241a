//! Reception report blocks of sender and receiver reports: RFC 3550 6.4.1.

use super::writer::Body;
use super::{Cursor, RtcpError};

pub(super) const BLOCK: usize = 24;
/// Blocks one report can count (5 bits).
pub(super) const BLOCKS_MAX: usize = 31;

/// What a receiver says about one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the beginning, 24 bits signed: duplicates can make it negative. Clamped when written.
    pub cumulative_lost: i32,
    /// Extended highest sequence number: cycles << 16 | sequence number.
    pub highest_seq: u32,
    /// Interarrival jitter in units of the RTP clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time ([`super::compact`]); 0 before the first.
    pub lsr: u32,
    /// Time since that report came, in 1/65536 s ([`super::dlsr`]).
    pub dlsr: u32,
}

/// The blocks of a received report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportBlocks<'a>(&'a [u8]);

impl<'a> ReportBlocks<'a> {
    pub(super) fn read(body: &mut Cursor<'a>, count: u8) -> Result<ReportBlocks<'a>, RtcpError> {
        Ok(ReportBlocks(body.bytes(BLOCK * usize::from(count))?))
    }

    pub fn iter(self) -> impl Iterator<Item = ReportBlock> + Clone + 'a {
        self.0.as_chunks::<BLOCK>().0.iter().map(|block| {
            let word = |at: usize| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            ReportBlock {
                ssrc: word(0),
                fraction_lost: block[4],
                cumulative_lost: (word(4) << 8) as i32 >> 8,
                highest_seq: word(8),
                jitter: word(12),
                lsr: word(16),
                dlsr: word(20),
            }
        })
    }
}

impl ReportBlock {
    pub(super) fn write(&self, out: &mut Body<'_>) -> Result<(), RtcpError> {
        let lost = self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        out.u32(self.ssrc)?;
        out.u32(u32::from(self.fraction_lost) << 24 | lost)?;
        out.u32(self.highest_seq)?;
        out.u32(self.jitter)?;
        out.u32(self.lsr)?;
        out.u32(self.dlsr)
    }
}
