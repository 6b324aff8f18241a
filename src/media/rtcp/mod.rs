//! RTCP (RFC 3550 6, RFC 4585, RFC 5104): a parser that borrows from the datagram and a writer into the caller's buffer,
//! both without allocation. One file per message.

mod bye;
mod cursor;
mod fir;
mod nack;
mod ntp;
mod pli;
mod receiver_report;
mod remb;
mod report_block;
mod sdes;
mod sender_report;
mod twcc;
mod twcc_recorder;
mod writer;

pub use bye::Bye;
pub use fir::Fir;
pub use nack::Nack;
pub use ntp::{compact, dlsr, ntp64, rtt_us, unix_ns};
pub use pli::Pli;
pub use receiver_report::ReceiverReport;
pub use remb::Remb;
pub use report_block::{ReportBlock, ReportBlocks};
pub use sdes::{Sdes, SdesItem};
pub use sender_report::{SenderInfo, SenderReport};
pub use twcc::{Twcc, TwccArrivals, TwccReader};
pub use twcc_recorder::{FEEDBACK_INTERVAL_US, TwccRecorder};
pub use writer::Writer;

use cursor::Cursor;

/// What is wrong with a received packet, or why one could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    #[error("RTCP packet ends before its content")]
    Truncated,
    #[error("RTCP version is not 2")]
    Version,
    #[error("RTCP padding longer than its packet, or zero")]
    Padding,
    #[error("RTCP content that cannot be: {0}")]
    Malformed(&'static str),
    #[error("no room left in the RTCP buffer")]
    NoRoom,
    #[error("more entries than one RTCP packet can carry")]
    TooMany,
}

/// One packet of a compound. What holds lists borrows from the datagram and iterates over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    SenderReport(SenderReport<'a>),
    ReceiverReport(ReceiverReport<'a>),
    Sdes(Sdes<'a>),
    Bye(Bye<'a>),
    Nack(Nack<'a>),
    Twcc(Twcc<'a>),
    Pli(Pli),
    Fir(Fir<'a>),
    Remb(Remb<'a>),
}

/// Reads a compound, or a single packet of reduced size (RFC 5506). APP, XR and everything unknown is passed over. A
/// packet that is wrong inside yields an error and the next one follows; wrong framing yields one error and ends.
pub fn parse(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound }
}

/// Iterator of [`parse`].
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (head, body, rest) = match split(self.rest) {
                Ok(parts) => parts,
                Err(error) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
            };
            self.rest = rest;
            match body.and_then(|body| content(head, body)) {
                Ok(None) => continue,
                Ok(Some(packet)) => return Some(Ok(packet)),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

#[derive(Clone, Copy)]
struct Head {
    /// Reception report count, source count or feedback message type.
    count: u8,
    packet_type: u8,
}

/// First packet's head and body without padding, and what follows it. The outer error is one of framing.
#[expect(clippy::type_complexity, reason = "used once, two lines below its reason")]
fn split(bytes: &[u8]) -> Result<(Head, Result<&[u8], RtcpError>, &[u8]), RtcpError> {
    let [first, packet_type, l0, l1] = *bytes.first_chunk().ok_or(RtcpError::Truncated)?;
    if first >> 6 != 2 {
        return Err(RtcpError::Version);
    }
    let len = 4 * (usize::from(u16::from_be_bytes([l0, l1])) + 1);
    let (packet, rest) = bytes.split_at_checked(len).ok_or(RtcpError::Truncated)?;
    let mut body = Ok(&packet[HEAD..]);
    if first & PADDING != 0 {
        let padding = usize::from(packet[len - 1]);
        body = match (len - HEAD).checked_sub(padding) {
            Some(body_len) if padding != 0 => Ok(&packet[HEAD..HEAD + body_len]),
            _ => Err(RtcpError::Padding),
        };
    }
    Ok((Head { count: first & 0x1f, packet_type }, body, rest))
}

fn content(head: Head, body: &[u8]) -> Result<Option<Packet<'_>>, RtcpError> {
    let body = Cursor(body);
    Ok(Some(match (head.packet_type, head.count) {
        (SR, count) => Packet::SenderReport(SenderReport::read(body, count)?),
        (RR, count) => Packet::ReceiverReport(ReceiverReport::read(body, count)?),
        (SDES, count) => Packet::Sdes(Sdes::read(body, count)?),
        (BYE, count) => Packet::Bye(Bye::read(body, count)?),
        (RTPFB, NACK) => Packet::Nack(Nack::read(body)?),
        (RTPFB, TWCC) => Packet::Twcc(Twcc::read(body)?),
        (PSFB, PLI) => Packet::Pli(Pli::read(body)?),
        (PSFB, FIR) => Packet::Fir(Fir::read(body)?),
        (PSFB, AFB) => return Ok(Remb::read(body)?.map(Packet::Remb)),
        _ => return Ok(None),
    }))
}

const HEAD: usize = 4;
const PADDING: u8 = 0x20;

// Packet types (RFC 3550 12.1, RFC 4585 6.1) and feedback message types.
const SR: u8 = 200;
const RR: u8 = 201;
const SDES: u8 = 202;
const BYE: u8 = 203;
const RTPFB: u8 = 205;
const PSFB: u8 = 206;
const NACK: u8 = 1;
const TWCC: u8 = 15;
const PLI: u8 = 1;
const FIR: u8 = 4;
const AFB: u8 = 15;

#[cfg(test)]
mod tests;
