//! What a link did: counted always, and to the datagram where that is asked for.

use super::conditions::WIRE_OVERHEAD;
use super::link::{Cause, Fate};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Exact counts of one direction of one flow, or sums of them. Datagrams:
/// `received + duplicated = lost + blacked_out + queue_full + left + still under way`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Datagrams that came, and their bytes on the wire.
    pub received: u64,
    pub wire_bytes: u64,
    /// By the loss process, by a black-out, by a full queue.
    pub lost: u64,
    pub blacked_out: u64,
    pub queue_full: u64,
    /// Passed on with a bit turned over; passed on twice.
    pub corrupted: u64,
    pub duplicated: u64,
}

impl Counters {
    pub(super) fn add(&mut self, len: usize, fate: &Fate) {
        self.received += 1;
        self.wire_bytes += (len + WIRE_OVERHEAD) as u64;
        match fate {
            Fate::Lost(Cause::Loss) => self.lost += 1,
            Fate::Lost(Cause::Blackout) => self.blacked_out += 1,
            Fate::Lost(Cause::QueueFull) => self.queue_full += 1,
            Fate::Passed(p) => {
                self.corrupted += u64::from(p.flip.is_some());
                self.duplicated += u64::from(p.twice);
            }
        }
    }

    /// Datagrams that will never arrive.
    pub fn gone(&self) -> u64 {
        self.lost + self.blacked_out + self.queue_full
    }

    pub fn merge(&mut self, o: &Counters) {
        self.received += o.received;
        self.wire_bytes += o.wire_bytes;
        self.lost += o.lost;
        self.blacked_out += o.blacked_out;
        self.queue_full += o.queue_full;
        self.corrupted += o.corrupted;
        self.duplicated += o.duplicated;
    }
}

/// One datagram: when it came, what it was, what was done, when it left. Its first twelve bytes are kept, since SRTP
/// leaves the RTP header (RFC 3550 5.1) in the clear: type, sequence number, timestamp, SSRC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub came_ns: u64,
    /// When it was due, or when it really left where the caller said so. 0 where it was lost.
    pub left_ns: u64,
    pub len: u16,
    pub head: [u8; 12],
    pub lost: Option<Cause>,
    pub twice: bool,
    pub corrupted: bool,
}

impl Record {
    pub(super) fn of(now_ns: u64, datagram: &[u8], fate: &Fate) -> Record {
        let mut head = [0; 12];
        let n = datagram.len().min(12);
        head[..n].copy_from_slice(&datagram[..n]);
        let len = datagram.len().min(usize::from(u16::MAX)) as u16;
        let r = Record { came_ns: now_ns, left_ns: 0, len, head, lost: None, twice: false, corrupted: false };
        match fate {
            Fate::Lost(cause) => Record { lost: Some(*cause), ..r },
            Fate::Passed(p) => Record { left_ns: p.due_ns, twice: p.twice, corrupted: p.flip.is_some(), ..r },
        }
    }

    /// True for RTP, by RFC 5761 4 and RFC 7983 7.
    pub fn is_rtp(&self) -> bool {
        self.len >= 12 && (128..192).contains(&self.head[0]) && !(192..224).contains(&self.head[1])
    }

    pub fn ssrc(&self) -> u32 {
        u32::from_be_bytes([self.head[8], self.head[9], self.head[10], self.head[11]])
    }

    pub fn payload_type(&self) -> u8 {
        self.head[1] & 0x7f
    }

    pub fn seq(&self) -> u16 {
        u16::from_be_bytes([self.head[2], self.head[3]])
    }

    pub fn timestamp(&self) -> u32 {
        u32::from_be_bytes([self.head[4], self.head[5], self.head[6], self.head[7]])
    }
}

/// One line of a log: came, left (ns), length, head in hex, fate.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.came_ns, self.left_ns, self.len)?;
        for byte in self.head {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(match (self.lost, self.twice, self.corrupted) {
            (Some(Cause::Loss), ..) => " lost",
            (Some(Cause::Blackout), ..) => " blackout",
            (Some(Cause::QueueFull), ..) => " queue-full",
            (None, false, false) => " passed",
            (None, true, false) => " twice",
            (None, false, true) => " corrupted",
            (None, true, true) => " corrupted-twice",
        })
    }
}

/// A line that is no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no record of an impaired datagram")]
pub struct RecordError(String);

impl FromStr for Record {
    type Err = RecordError;

    fn from_str(line: &str) -> Result<Record, RecordError> {
        let wrong = || RecordError(line.chars().take(100).collect());
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or_else(wrong);
        let came_ns = word()?.parse().map_err(|_| wrong())?;
        let left_ns = word()?.parse().map_err(|_| wrong())?;
        let len = word()?.parse().map_err(|_| wrong())?;
        let hex = word()?;
        let mut head = [0; 12];
        if hex.len() != 24 || !hex.is_ascii() {
            return Err(wrong());
        }
        for (i, byte) in head.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        let (lost, twice, corrupted) = match word()? {
            "lost" => (Some(Cause::Loss), false, false),
            "blackout" => (Some(Cause::Blackout), false, false),
            "queue-full" => (Some(Cause::QueueFull), false, false),
            "passed" => (None, false, false),
            "twice" => (None, true, false),
            "corrupted" => (None, false, true),
            "corrupted-twice" => (None, true, true),
            _ => return Err(wrong()),
        };
        if words.next().is_some() {
            return Err(wrong());
        }
        Ok(Record { came_ns, left_ns, len, head, lost, twice, corrupted })
    }
}
