//! What servers of one room send each other: RTP with what it takes to pass it on, requests for key frames, and the end
//! of a sender. One datagram each, over plain UDP inside the fleet; nothing is sent again.

use super::client::Carried;
use super::rewrite::Numbers;
use str0m::rtp::VideoOrientation;

/// Neither STUN, DTLS nor RTP begins so (RFC 7983); the second byte is the version.
const MAGIC: [u8; 2] = [0xca, 1];
const MEDIA: u8 = 1;
const KEY_FRAME: u8 = 2;
const GONE: u8 = 3;
/// No layer: the m-line is sent without simulcast.
const NO_LAYER: u8 = u8::MAX;

const MARKER: u8 = 1;
const REDUNDANT: u8 = 2;
const LEVEL: u8 = 4;
const ACTIVITY: u8 = 8;
const ACTIVE: u8 = 16;
const ORIENTATION: u8 = 32;
/// Degrees of the orientation, in the two highest bits.
const DEGREES: u8 = 6;

/// Longest name of a room that fits into a frame.
pub const ROOM_MAX: usize = u8::MAX as usize;

#[derive(Clone, PartialEq, Debug)]
pub enum Frame<'a> {
    Media(Media<'a>),
    /// To the sender's server.
    KeyFrameRequest {
        sender: u32,
        source: u8,
    },
    Gone {
        sender: u32,
    },
}

/// One RTP packet of a sender on the server that the frame comes from.
#[derive(Clone, PartialEq, Debug)]
pub struct Media<'a> {
    pub room: &'a str,
    /// Number of the participant on its server, and which of the things that it sends.
    pub sender: u32,
    pub source: u8,
    /// Which of its m-lines, and which layer of it, 0 the lowest.
    pub line: u8,
    pub layer: Option<u8>,
    pub ssrc: u32,
    /// Of the codec, as all servers have it.
    pub pt: u8,
    pub numbers: Numbers,
    pub marker: bool,
    pub redundant: bool,
    pub carried: Carried,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(match self {
            Frame::Media(m) => 40 + m.room.len() + m.payload.len(),
            _ => 8,
        });
        out.extend(MAGIC);
        match self {
            Frame::Media(m) => {
                let mut flags = if m.marker { MARKER } else { 0 } | if m.redundant { REDUNDANT } else { 0 };
                flags |= m.carried.audio_level.map_or(0, |_| LEVEL);
                flags |= m.carried.voice_activity.map_or(0, |on| ACTIVITY | if on { ACTIVE } else { 0 });
                flags |= m.carried.orientation.map_or(0, |o| ORIENTATION | (o as u8) << DEGREES);
                let room = &m.room.as_bytes()[..m.room.len().min(ROOM_MAX)];
                out.extend([MEDIA]);
                out.extend(m.sender.to_be_bytes());
                out.extend([m.source, m.line, m.layer.unwrap_or(NO_LAYER), m.pt, flags]);
                out.extend(m.carried.audio_level.unwrap_or(0).to_be_bytes());
                out.extend(m.ssrc.to_be_bytes());
                out.extend(m.numbers.seq.to_be_bytes());
                out.extend(m.numbers.timestamp.to_be_bytes());
                out.extend([room.len() as u8]);
                out.extend(room);
                out.extend(m.payload);
            }
            Frame::KeyFrameRequest { sender, source } => {
                out.extend([KEY_FRAME]);
                out.extend(sender.to_be_bytes());
                out.extend([*source]);
            }
            Frame::Gone { sender } => {
                out.extend([GONE]);
                out.extend(sender.to_be_bytes());
            }
        }
        out
    }

    /// `None` for what is no frame, or cut short.
    pub fn decode(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (kind, rest) = rest.split_first()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let sender = u32::from_be_bytes(*sender);
        match *kind {
            MEDIA => {
                let ([source, line, layer, pt, flags, level], rest) = rest.split_first_chunk()?;
                let (ssrc, rest) = rest.split_first_chunk()?;
                let (seq, rest) = rest.split_first_chunk()?;
                let (timestamp, rest) = rest.split_first_chunk()?;
                let (len, rest) = rest.split_first()?;
                let (room, payload) = rest.split_at_checked(usize::from(*len))?;
                let orientation = match flags >> DEGREES {
                    0 => VideoOrientation::Deg0,
                    1 => VideoOrientation::Deg270,
                    2 => VideoOrientation::Deg180,
                    _ => VideoOrientation::Deg90,
                };
                Some(Frame::Media(Media {
                    room: std::str::from_utf8(room).ok()?,
                    sender,
                    source: *source,
                    line: *line,
                    layer: Some(*layer).filter(|l| *l != NO_LAYER),
                    ssrc: u32::from_be_bytes(*ssrc),
                    pt: *pt,
                    numbers: Numbers { seq: u64::from_be_bytes(*seq), timestamp: u32::from_be_bytes(*timestamp) },
                    marker: flags & MARKER != 0,
                    redundant: flags & REDUNDANT != 0,
                    carried: Carried {
                        audio_level: (flags & LEVEL != 0).then_some(level.cast_signed()),
                        voice_activity: (flags & ACTIVITY != 0).then_some(flags & ACTIVE != 0),
                        orientation: (flags & ORIENTATION != 0).then_some(orientation),
                    },
                    payload,
                }))
            }
            KEY_FRAME => Some(Frame::KeyFrameRequest { sender, source: *rest.first()? }),
            GONE => Some(Frame::Gone { sender }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn media() -> Media<'static> {
        Media {
            room: "meeting-7",
            sender: 0x0102_0304,
            source: 3,
            line: 1,
            layer: Some(2),
            ssrc: 0xdead_beef,
            pt: 96,
            numbers: Numbers { seq: 0x1_0002_0003, timestamp: u32::MAX },
            marker: true,
            redundant: false,
            carried: Carried { audio_level: Some(-30), voice_activity: Some(true), orientation: None },
            payload: &[1, 2, 3],
        }
    }

    #[test]
    fn what_is_sent_is_what_comes() {
        let bare = Carried::default();
        let turned = Carried { orientation: Some(VideoOrientation::Deg90), voice_activity: Some(false), ..bare };
        for m in [
            media(),
            Media { layer: None, marker: false, redundant: true, carried: bare, payload: &[], ..media() },
            Media { carried: turned, room: "", ..media() },
        ] {
            let bytes = Frame::Media(m.clone()).encode();
            assert_eq!(Frame::decode(&bytes), Some(Frame::Media(m)));
        }
        for frame in [Frame::KeyFrameRequest { sender: 7, source: 255 }, Frame::Gone { sender: u32::MAX }] {
            assert_eq!(Frame::decode(&frame.encode()), Some(frame));
        }
    }

    #[test]
    fn what_is_cut_short_or_garbage_is_no_frame() {
        let whole = Frame::Media(Media { payload: &[], ..media() }).encode();
        for n in 0..whole.len() {
            assert_eq!(Frame::decode(&whole[..n]), None, "{n}");
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            let at = rng.random_range(2..bytes.len());
            bytes[at] = rng.random();
            if let Some(Frame::Media(m)) = Frame::decode(&bytes) {
                assert!(m.room.len() + m.payload.len() <= bytes.len());
            }
        }
        assert_eq!(Frame::decode(&[0x80, 96, 0, 0]), None);
    }
}
