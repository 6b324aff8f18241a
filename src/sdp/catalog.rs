//! What our clients speak: codecs, feedback and header extensions, as Chromium 156 offers them or as little as is honest.

use super::{ExtIds, MediaSection, Payload};
use crate::types::{Client, Codec, Kind};

const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
const TWCC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";

/// Whether the client asks for and gives retransmission on a stream of its own (RFC 4588).
pub(super) fn uses_rtx(client: Client) -> bool {
    match client {
        Client::Chrome => true,
        Client::Light => false,
    }
}

/// `rtcp-fb` values, in Chromium's order.
pub(super) fn feedback(client: Client, kind: Kind) -> &'static [&'static str] {
    match (client, kind) {
        (Client::Chrome, Kind::Audio) => &["transport-cc"],
        (Client::Chrome, Kind::Video) => &["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"],
        (Client::Light, Kind::Audio) => &[],
        (Client::Light, Kind::Video) => &["nack", "nack pli"],
    }
}

/// Header extensions with the ids that Chromium gives them.
pub(super) fn extensions(client: Client, kind: Kind) -> &'static [(u8, &'static str)] {
    match (client, kind) {
        (Client::Chrome, Kind::Audio) => &[(1, AUDIO_LEVEL), (2, ABS_SEND_TIME), (3, TWCC), (4, MID)],
        (Client::Chrome, Kind::Video) => &[(2, ABS_SEND_TIME), (3, TWCC), (4, MID)],
        (Client::Light, _) => &[(4, MID)],
    }
}

/// What an m-line of this kind offers to receive, best first.
pub(super) fn codecs(kind: Kind) -> &'static [Codec] {
    match kind {
        Kind::Audio => &[Codec::Opus],
        Kind::Video => &[Codec::Vp8, Codec::H264],
    }
}

/// A codec as we offer it, with Chromium's payload type.
pub(super) fn payload(client: Client, codec: Codec) -> Payload {
    let (pt, encoding, fmtp) = match codec {
        Codec::Opus => (111, "opus/48000/2", "minptime=10;useinbandfec=1"),
        Codec::Vp8 => (96, "VP8/90000", ""),
        Codec::H264 => (108, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
    };
    Payload {
        pt,
        encoding: encoding.to_string(),
        fmtp: fmtp.to_string(),
        feedback: feedback(client, codec.kind()).iter().map(|f| f.to_string()).collect(),
    }
}

/// Retransmission of another payload type; Chromium gives it the next number.
pub(super) fn rtx_payload(pt: u8, apt: u8) -> Payload {
    Payload { pt, encoding: "rtx/90000".into(), fmtp: format!("apt={apt}"), feedback: Vec::new() }
}

impl Payload {
    /// Our codec of this name, whatever its parameters.
    pub(super) fn codec_by_name(&self) -> Option<Codec> {
        let is = |name: &str| self.encoding.eq_ignore_ascii_case(name);
        if is("opus/48000/2") {
            Some(Codec::Opus)
        } else if is("VP8/90000") {
            Some(Codec::Vp8)
        } else if is("H264/90000") {
            Some(Codec::H264)
        } else {
            None
        }
    }

    /// The codec, if it is one that our clips can be played as: of H.264 the baseline profiles in packetization mode 1
    /// (RFC 6184 8.1; the parameters' defaults are mode 0 and profile 42).
    pub(super) fn codec(&self) -> Option<Codec> {
        let codec = self.codec_by_name()?;
        if codec == Codec::H264 {
            let profile = self.parameter("profile-level-id").unwrap_or("420010");
            if self.parameter("packetization-mode") != Some("1") || profile.get(..2) != Some("42") {
                return None;
            }
        }
        Some(codec)
    }

    /// The payload type that this one retransmits.
    pub(super) fn rtx_of(&self) -> Option<u8> {
        let is_rtx = self.encoding.eq_ignore_ascii_case("rtx/90000");
        is_rtx.then(|| self.parameter("apt")).flatten()?.parse().ok()
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.fmtp.split(';').filter_map(|p| p.trim().split_once('='));
        pairs.into_iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }

    pub(super) fn has_feedback(&self, name: &str) -> bool {
        self.feedback.iter().any(|f| f == name)
    }
}

/// The ids of the extensions that both sides have; the remote's numbers count.
pub(super) fn common_extensions(ours: &MediaSection, remote: &MediaSection) -> ExtIds {
    let id = |uri: &str| {
        let ours = ours.extensions.iter().any(|(_, u)| u == uri);
        remote.extensions.iter().find(|(_, u)| ours && u == uri).map_or(0, |(id, _)| *id)
    };
    ExtIds {
        mid: id(MID),
        twcc: id(TWCC),
        abs_send_time: id(ABS_SEND_TIME),
        audio_level: id(AUDIO_LEVEL),
        rid: id(RID),
        repaired_rid: id(REPAIRED_RID),
    }
}
