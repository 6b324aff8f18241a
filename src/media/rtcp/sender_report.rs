//! Sender reports: RFC 3550 6.4.1.

use super::report_block::{BLOCKS_MAX, ReportBlock, ReportBlocks};
use super::{Cursor, RtcpError, SR, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport<'a> {
    pub ssrc: u32,
    pub info: SenderInfo,
    pub blocks: ReportBlocks<'a>,
}

/// What a sender says about its own stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// When the report was sent, 32.32 fixed point ([`super::ntp64`]).
    pub ntp: u64,
    /// The same instant on the stream's RTP clock.
    pub rtp_time: u32,
    /// Packets sent since the beginning.
    pub packets: u32,
    /// Payload bytes sent since the beginning, headers and padding not counted.
    pub octets: u32,
}

impl<'a> SenderReport<'a> {
    pub(super) fn read(mut body: Cursor<'a>, count: u8) -> Result<SenderReport<'a>, RtcpError> {
        Ok(SenderReport {
            ssrc: body.u32()?,
            info: SenderInfo { ntp: body.u64()?, rtp_time: body.u32()?, packets: body.u32()?, octets: body.u32()? },
            blocks: ReportBlocks::read(&mut body, count)?,
        })
    }
}

impl Writer<'_> {
    /// A sender report; blocks beyond 31 follow in receiver reports, as RFC 3550 6.1 wants.
    pub fn sender_report(&mut self, ssrc: u32, info: SenderInfo, blocks: &[ReportBlock]) -> Result<(), RtcpError> {
        let (blocks, more) = blocks.split_at(blocks.len().min(BLOCKS_MAX));
        let before = self.len();
        self.packet(SR, blocks.len() as u8, |out| {
            out.u32(ssrc)?;
            out.u64(info.ntp)?;
            out.u32(info.rtp_time)?;
            out.u32(info.packets)?;
            out.u32(info.octets)?;
            blocks.iter().try_for_each(|block| block.write(out))
        })?;
        if more.is_empty() {
            return Ok(());
        }
        self.receiver_report(ssrc, more).inspect_err(|_| self.truncate(before))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;

    /// The diagram of RFC 3550 6.4.1, field by field, with one block.
    #[rustfmt::skip]
    const BYTES: [u8; 52] = [
        0x81, 200, 0, 12, 0xca, 0xfe, 0xba, 0xbe,
        0xe0, 0, 0, 1, 0x80, 0, 0, 0, // NTP: .5 s
        0, 1, 0x51, 0x80, 0, 0, 0, 100, 0, 0, 0x27, 0x10, // RTP time, packets, octets
        1, 2, 3, 4, 0x40, 0xff, 0xff, 0xfe, 0, 2, 0xff, 0xff, // SSRC, 1/4 lost, -2 lost, highest
        0, 0, 0, 9, 0x11, 0x22, 0x33, 0x44, 0, 0, 0x80, 0, // jitter, LSR, DLSR of half a second
    ];
    const INFO: SenderInfo = SenderInfo { ntp: 0xe000_0001_8000_0000, rtp_time: 86_400, packets: 100, octets: 10_000 };
    const BLOCK: ReportBlock = ReportBlock {
        ssrc: 0x0102_0304,
        fraction_lost: 64,
        cumulative_lost: -2,
        highest_seq: 0x2_ffff,
        jitter: 9,
        lsr: 0x1122_3344,
        dlsr: 0x8000,
    };

    #[test]
    fn bytes_of_the_diagram() {
        let Some(Ok(Packet::SenderReport(report))) = parse(&BYTES).next() else { panic!() };
        assert_eq!((report.ssrc, report.info), (0xcafe_babe, INFO));
        assert_eq!(report.blocks.iter().collect::<Vec<_>>(), [BLOCK]);

        let mut buf = [0; 52];
        Writer::new(&mut buf).sender_report(0xcafe_babe, INFO, &[BLOCK]).unwrap();
        assert_eq!(buf, BYTES);
    }

    #[test]
    fn blocks_beyond_31_follow_in_receiver_reports() {
        let blocks: Vec<_> = (0..70).map(|ssrc| ReportBlock { ssrc, ..BLOCK }).collect();
        let mut buf = [0; 2000];
        let mut writer = Writer::new(&mut buf);
        writer.sender_report(7, INFO, &blocks).unwrap();
        let mut read = Vec::new();
        let mut kinds = Vec::new();
        for packet in parse(writer.as_bytes()) {
            match packet.unwrap() {
                Packet::SenderReport(report) => {
                    kinds.push(SR);
                    read.extend(report.blocks.iter());
                }
                Packet::ReceiverReport(report) => {
                    kinds.push(super::super::RR);
                    read.extend(report.blocks.iter());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(kinds, [200, 201, 201]);
        assert_eq!(read, blocks);

        let mut small = [0; 900];
        let mut writer = Writer::new(&mut small);
        assert_eq!(writer.sender_report(7, INFO, &blocks), Err(RtcpError::NoRoom));
        assert_eq!(writer.len(), 0);
    }

    #[test]
    fn lost_is_clamped_to_24_bits() {
        for (lost, expected) in [(i32::MAX, 0x7f_ffff), (i32::MIN, -0x80_0000), (-1, -1)] {
            let mut buf = [0; 100];
            let mut writer = Writer::new(&mut buf);
            writer.sender_report(7, INFO, &[ReportBlock { cumulative_lost: lost, ..BLOCK }]).unwrap();
            let Some(Ok(Packet::SenderReport(report))) = parse(writer.as_bytes()).next() else { panic!() };
            assert_eq!(report.blocks.iter().next().unwrap().cumulative_lost, expected);
        }
    }
}
