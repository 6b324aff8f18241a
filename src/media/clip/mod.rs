//! Short encoded clips, packetized once at start-up and shared by all senders: the payload of each RTP packet is ready
//! but for the stamp and, in VP8, the PictureID, which [`Clip::write`] fills in.
//!
//! A clip loops: its last frame may be followed by its first, which is a key frame. Bytes of media are the encoder's;
//! stamps, payload descriptors and NAL unit framing come on top ([`Clip::payload_bitrate`]).

mod annexb; // H.264 byte stream → access units
mod h264; // access unit → payloads
mod ivf; // VP8 file → frames
mod library; // the clips we carry
mod ogg; // Opus file → packets
mod opus; // Opus packet → payload
mod vp8; // VP8 frame → payloads

pub use library::{ClipInfo, ClipLibrary};

use super::stamp::{self, Stamp};
use crate::prefetch::prefetch;
use crate::types::{Codec, Encoding};
use std::ops::Range;
use std::time::Duration;
use thiserror::Error;

/// Bytes of the largest RTP payload, stamp included. With RTP header and extensions (about 32), SRTP tag (16), UDP and
/// IPv6 (48) and a TURN header it stays below 1280.
pub const PAYLOAD_MAX: usize = 1100;

/// An encoded clip, ready to send.
#[derive(Debug)]
pub struct Clip {
    encoding: Encoding,
    frame_ticks: u32,
    frames: Vec<ClipFrame>,
    packets: Vec<Packet>,
    /// The payloads, one after another.
    arena: Vec<u8>,
    /// As the encoder gave them.
    media_bytes: u64,
    /// Packets and bytes of payload of one round.
    round: (usize, usize),
    /// Audio: the longest run of frames of background, and a packet whose frame has no bytes.
    background: Range<usize>,
    empty_packet: u32,
}

/// One frame of video, one packet of audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClipFrame {
    /// Decodable without any frame before it. In audio every frame is.
    pub key: bool,
    /// Loudness in -dBov as in RFC 6464: 0 loudest, 127 silence. 127 in video.
    pub audio_level: u8,
    first: u32,
    packets: u16,
}

impl ClipFrame {
    /// Its packets: indices for [`Clip::write`] and [`Clip::payload_len`].
    pub fn packets(&self) -> Range<u32> {
        self.first..self.first + u32::from(self.packets)
    }
}

/// What [`Clip::write`] fills in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// For the packet of a frame that carries it: VP8 the last, H.264 the first, Opus the only one.
    pub stamp: Stamp,
    /// 15 bits; VP8 only.
    pub picture_id: u16,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    offset: u32,
    len: u16,
    /// Where in the payload a stamp goes, if one does.
    stamp_at: Option<u16>,
    /// Index of its frame.
    frame: u32,
}

/// A clip file that is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("clip {name}: {problem}")]
pub struct ClipError {
    pub name: String,
    pub problem: ClipProblem,
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ClipProblem {
    #[error("not {0}")]
    WrongFormat(&'static str),
    #[error("ends in the middle, at byte {0}")]
    Truncated(usize),
    #[error("no frames")]
    Empty,
    #[error("the first frame is no key frame")]
    NoKeyFrame,
    #[error("frame {0} is not shown: it would have no time of its own")]
    HiddenFrame(usize),
    #[error("frame {0} is not one frame time after the one before")]
    UnevenTiming(usize),
    #[error("frame {frame} takes {packets} packets")]
    FrameTooLarge { frame: usize, packets: usize },
    #[error("NAL unit type {0} has no place in a clip")]
    UnexpectedNal(u8),
    #[error("frame {0} has no parameter sets before its key frame")]
    NoParameterSets(usize),
    #[error("packet {0} is not one Opus frame of 20 ms")]
    NotOneOpusFrame(usize),
    #[error("{levels} audio levels for {frames} frames")]
    Levels { levels: usize, frames: usize },
}

impl Clip {
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn codec(&self) -> Codec {
        self.encoding.codec
    }

    /// In clip order; never empty, the first is a key frame.
    pub fn frames(&self) -> &[ClipFrame] {
        &self.frames
    }

    /// Packets of the whole clip.
    pub fn packets(&self) -> usize {
        self.round.0
    }

    /// Duration of each frame in ticks of the RTP clock.
    pub fn frame_ticks(&self) -> u32 {
        self.frame_ticks
    }

    /// Duration of each frame.
    pub fn frame_time(&self) -> Duration {
        self.duration() / self.frames.len() as u32
    }

    /// Of one round.
    pub fn duration(&self) -> Duration {
        let ticks = self.frames.len() as u64 * u64::from(self.frame_ticks);
        Duration::from_nanos(ticks * 1_000_000_000 / u64::from(self.codec().clock_rate()))
    }

    pub fn packets_per_second(&self) -> f64 {
        self.round.0 as f64 / self.duration().as_secs_f64()
    }

    /// Bits per second of encoded media, without stamps and packetization; close to the nominal `encoding().bitrate`.
    pub fn media_bitrate(&self) -> f64 {
        self.media_bytes as f64 * 8.0 / self.duration().as_secs_f64()
    }

    /// Bits per second of RTP payload as sent: media, stamps, payload descriptors.
    pub fn payload_bitrate(&self) -> f64 {
        self.round.1 as f64 * 8.0 / self.duration().as_secs_f64()
    }

    /// The frame after `frame` in the loop.
    pub fn following(&self, frame: usize) -> usize {
        if frame + 1 < self.frames.len() { frame + 1 } else { 0 }
    }

    /// The first key frame at or after `frame` in the loop.
    pub fn key_frame_from(&self, frame: usize) -> usize {
        let later = self.frames.iter().skip(frame).position(|f| f.key);
        later.map_or(0, |n| frame + n)
    }

    /// Most packets that begin within any second of the loop.
    pub fn busiest_second(&self) -> usize {
        let window = (self.codec().clock_rate() / self.frame_ticks) as usize;
        let of = |n: usize| usize::from(self.frames[n % self.frames.len()].packets);
        (0..self.frames.len()).map(|from| (from..from + window).map(of).sum()).max().unwrap_or(0)
    }

    /// Audio: the longest run of frames in which nobody speaks; the first frame if somebody always does.
    pub fn background(&self) -> Range<usize> {
        self.background.clone()
    }

    /// Audio: a packet for [`Clip::write`] whose frame has no bytes, as DTX sends it (RFC 6716 3.2.1).
    pub fn empty_packet(&self) -> u32 {
        self.empty_packet
    }

    /// The frame that one packet belongs to.
    pub fn frame_of(&self, packet: u32) -> &ClipFrame {
        &self.frames[self.packets[packet as usize].frame as usize]
    }

    /// Bytes of one packet's payload; at most [`PAYLOAD_MAX`].
    pub fn payload_len(&self, packet: u32) -> usize {
        usize::from(self.packets[packet as usize].len)
    }

    /// Asks for a packet's first bytes; the rest follows them.
    #[inline]
    pub fn prefetch(&self, packet: u32) {
        let p = &self.packets[packet as usize];
        prefetch(&self.arena[p.offset as usize..p.offset as usize + usize::from(p.len)], 6);
    }

    /// Writes one packet's payload to the front of `buf`, which must hold it, and returns its length. The same `marks`
    /// give the same bytes.
    pub fn write(&self, packet: u32, marks: &Marks, buf: &mut [u8]) -> usize {
        let p = self.packets[packet as usize];
        let (offset, len) = (p.offset as usize, usize::from(p.len));
        let payload = &mut buf[..len];
        payload.copy_from_slice(&self.arena[offset..offset + len]);
        if self.codec() == Codec::Vp8 {
            vp8::set_picture_id(payload, marks.picture_id);
        }
        if let Some(at) = p.stamp_at {
            let room = &mut payload[usize::from(at)..];
            match self.codec() {
                Codec::H264 => marks.stamp.write_sei(room),
                Codec::Opus | Codec::Vp8 => marks.stamp.write(room),
            }
        }
        len
    }
}

/// A clip being packetized.
struct Builder {
    clip: Clip,
}

impl Builder {
    fn new(encoding: Encoding, frame_ticks: u32) -> Builder {
        let (frames, packets, arena) = (Vec::new(), Vec::new(), Vec::new());
        let (round, background, empty_packet) = ((0, 0), 0..1, 0);
        let clip =
            Clip { encoding, frame_ticks, frames, packets, arena, media_bytes: 0, round, background, empty_packet };
        Builder { clip }
    }

    /// Adds a packet; `stamp_at` counts from the payload's begin.
    fn packet(&mut self, parts: &[&[u8]], stamp_at: Option<usize>) {
        let offset = self.clip.arena.len();
        for part in parts {
            self.clip.arena.extend_from_slice(part);
        }
        let len = self.clip.arena.len() - offset;
        debug_assert!(len <= PAYLOAD_MAX, "packetizers keep within a packet");
        let stamp_at = stamp_at.map(|at| at as u16);
        let frame = self.clip.frames.len() as u32;
        self.clip.packets.push(Packet { offset: offset as u32, len: len as u16, stamp_at, frame });
    }

    /// Makes a frame of the packets added since the last one.
    fn frame(&mut self, key: bool, audio_level: u8, media_bytes: usize) -> Result<(), ClipProblem> {
        let first = self.clip.frames.last().map_or(0, |f| f.packets().end);
        let packets = self.clip.packets.len() - first as usize;
        let too_large = ClipProblem::FrameTooLarge { frame: self.clip.frames.len(), packets };
        let packets = u16::try_from(packets).map_err(|_| too_large)?;
        self.clip.frames.push(ClipFrame { key, audio_level, first, packets });
        self.clip.media_bytes += media_bytes as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Clip, ClipProblem> {
        self.clip.round = (self.clip.packets.len(), self.clip.arena.len());
        match self.clip.frames.first() {
            None => Err(ClipProblem::Empty),
            Some(first) if !first.key => Err(ClipProblem::NoKeyFrame),
            Some(_) => Ok(self.clip),
        }
    }
}

/// Bytes to leave room for a stamp in its plain form.
const STAMP_ROOM: [u8; stamp::LEN] = [0; stamp::LEN];
