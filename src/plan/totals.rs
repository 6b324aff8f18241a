//! What a plan amounts to: participants, streams, packets and bits per second when every room is full.

use super::Plan;
use crate::profile::{Profile, Target};
use crate::types::{Codec, Encoding, Kind};
use serde::{Deserialize, Serialize};

/// Frames per second of the video clips.
const FPS: u64 = 30;
/// Largest media payload of one packet, bytes.
const PAYLOAD_MAX: u64 = 1100;
/// Opus packets per second: 20 ms each, no DTX.
const OPUS_PPS: u64 = 50;
/// IPv4 20, UDP 8, RTP 12, header extensions 12, authentication tag 16 (GCM; SHA1_80 has 10).
const OVERHEAD: u64 = 20 + 8 + 12 + 12 + 16;

/// Media packets per second of one stream: Opus 50; video 30 frames a second, each in packets of at most 1100 bytes of
/// payload. An approximation: real frames differ in size, and key frames take many packets. RTCP, some two packets a
/// second and transport, is not in it.
pub fn pps(encoding: Encoding) -> u64 {
    match encoding.codec {
        Codec::Opus => OPUS_PPS,
        Codec::Vp8 | Codec::H264 => FPS * (encoding.bitrate.0 / 8).div_ceil(FPS).div_ceil(PAYLOAD_MAX).max(1),
    }
}

/// Bits per second of one stream on the wire: payload, and IP, UDP, RTP and SRTP overhead of each of its packets.
pub fn wire_bps(encoding: Encoding) -> u64 {
    encoding.bitrate.0 + pps(encoding) * OVERHEAD * 8
}

/// Streams in one direction and what they carry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Flows {
    pub audio_streams: u64,
    pub video_streams: u64,
    pub packets_per_s: u64,
    /// On the wire.
    pub bits_per_s: u64,
}

impl Flows {
    pub fn streams(&self) -> u64 {
        self.audio_streams + self.video_streams
    }

    fn add(&mut self, encodings: impl IntoIterator<Item = Encoding>, times: u64) {
        for e in encodings {
            match e.codec.kind() {
                Kind::Audio => self.audio_streams += times,
                Kind::Video => self.video_streams += times,
            }
            self.packets_per_s += times * pps(e);
            self.bits_per_s += times * wire_bps(e);
        }
    }
}

/// A plan in numbers.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PlanTotals {
    pub rooms: u64,
    /// At once, when every room is full; of these, how many send, and how many receive something.
    pub participants: u64,
    pub senders: u64,
    pub receivers: u64,
    /// All stays, successors included.
    pub legs: u64,
    /// Participants to servers, and back.
    pub up: Flows,
    pub down: Flows,
    pub participants_per_room_max: u64,
}

/// Totals of the whole plan.
pub fn totals(profile: &Profile, plan: &Plan) -> PlanTotals {
    let mut t = PlanTotals { rooms: plan.rooms.len() as u64, legs: plan.legs.len() as u64, ..PlanTotals::default() };
    let last_n = match &profile.target {
        Target::Embedded(fleet) => fleet.last_n.map_or(u64::MAX, u64::from),
        Target::External(_) => u64::MAX,
    };
    for room in &plan.rooms {
        let Some(group) = profile.rooms.get(room.group) else { continue };
        let (size, senders) = (u64::from(room.size), u64::from(room.senders_max));
        t.participants += size;
        t.senders += senders;
        // A lone sender hears nobody.
        t.receivers += if senders == 1 {
            size - 1
        } else if senders == 0 {
            0
        } else {
            size
        };
        t.participants_per_room_max = t.participants_per_room_max.max(size);
        let seen = || group.audio.into_iter().chain(group.video);
        t.up.add(seen().chain(group.lower_layers()), senders);
        // Of layers one goes to each receiver: the highest, as long as the server has no reason for another. With last-N
        // no more than so many senders' video.
        t.down.add(group.audio, senders * (size - 1));
        let of = |others: u64| others.min(last_n);
        let seen = senders * of(senders.saturating_sub(1)) + (size - senders) * of(senders);
        t.down.add(group.video, seen);
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bitrate;

    fn encoding(codec: Codec, kbit: u64) -> Encoding {
        Encoding { codec, bitrate: Bitrate(kbit * 1000) }
    }

    #[test]
    fn packets_follow_frames_and_payloads() {
        assert_eq!(pps(encoding(Codec::Opus, 32)), 50);
        assert_eq!(pps(encoding(Codec::Vp8, 150)), 30); // 625 bytes a frame
        assert_eq!(pps(encoding(Codec::Vp8, 500)), 60); // 2084
        assert_eq!(pps(encoding(Codec::H264, 1500)), 180); // 6250
    }

    #[test]
    fn bits_hold_the_overhead_of_each_packet() {
        // 80 bytes of Opus and 68 of headers and tag, 50 times a second.
        assert_eq!(wire_bps(encoding(Codec::Opus, 32)), 50 * (80 + 68) * 8);
    }
}
