//! Receiver reports: RFC 3550 6.4.2.

use super::report_block::{BLOCKS_MAX, ReportBlock, ReportBlocks};
use super::{Cursor, RR, RtcpError, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverReport<'a> {
    pub ssrc: u32,
    pub blocks: ReportBlocks<'a>,
}

impl<'a> ReceiverReport<'a> {
    pub(super) fn read(mut body: Cursor<'a>, count: u8) -> Result<ReceiverReport<'a>, RtcpError> {
        Ok(ReceiverReport { ssrc: body.u32()?, blocks: ReportBlocks::read(&mut body, count)? })
    }
}

impl Writer<'_> {
    /// A receiver report, also an empty one; more than 31 blocks become several.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> Result<(), RtcpError> {
        let before = self.len();
        let mut rest = blocks;
        loop {
            let (now, later) = rest.split_at(rest.len().min(BLOCKS_MAX));
            self.packet(RR, now.len() as u8, |out| {
                out.u32(ssrc)?;
                now.iter().try_for_each(|block| block.write(out))
            })
            .inspect_err(|_| self.truncate(before))?;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;

    #[test]
    fn empty_report_is_8_bytes() {
        let mut buf = [0; 8];
        Writer::new(&mut buf).receiver_report(0x0a0b_0c0d, &[]).unwrap();
        assert_eq!(buf, [0x80, 201, 0, 1, 0x0a, 0x0b, 0x0c, 0x0d]);
        let Some(Ok(Packet::ReceiverReport(report))) = parse(&buf).next() else { panic!() };
        assert_eq!((report.ssrc, report.blocks.iter().count()), (0x0a0b_0c0d, 0));
    }

    #[test]
    fn count_beyond_the_packet_is_an_error() {
        assert_eq!(parse(&[0x81, 201, 0, 1, 0, 0, 0, 1]).next(), Some(Err(RtcpError::Truncated)));
    }

    #[test]
    fn all_or_nothing() {
        let mut buf = [0; 900];
        let mut writer = Writer::new(&mut buf);
        assert_eq!(writer.receiver_report(1, &[ReportBlock::default(); 40]), Err(RtcpError::NoRoom));
        assert_eq!(writer.len(), 0);
    }
}
