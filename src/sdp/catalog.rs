//! What our clients speak: codecs with Chromium's payload types; feedback and header extensions by the client's policy.

use super::{ExtIds, MediaSection, Payload};
use crate::client::{ABS_SEND_TIME, AUDIO_LEVEL, MID, REPAIRED_RID, RID, TWCC, policy};
use crate::types::{Client, Codec, Kind};

/// `rtcp-fb` values that a client takes, those that it offers by itself first.
pub(super) fn feedback(client: Client, kind: Kind) -> impl Iterator<Item = &'static str> {
    let policy = policy(client);
    let answered = if kind == Kind::Audio { policy.audio_feedback_answered } else { &[] };
    offered_feedback(client, kind).iter().chain(answered).copied()
}

pub(super) fn offered_feedback(client: Client, kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Audio => policy(client).audio_feedback,
        Kind::Video => policy(client).video_feedback,
    }
}

/// Header extensions with the ids that the client gives them.
pub(super) fn extensions(client: Client, kind: Kind) -> &'static [(u8, &'static str)] {
    match kind {
        Kind::Audio => policy(client).audio_extensions,
        Kind::Video => policy(client).video_extensions,
    }
}

/// Of simulcast (RFC 8852), with Chromium's ids.
pub(super) const LAYER_EXTENSIONS: &[(u8, &str)] = &[(10, RID), (11, REPAIRED_RID)];

/// What an m-line of this kind offers to receive, best first.
pub(super) fn codecs(kind: Kind) -> &'static [Codec] {
    match kind {
        Kind::Audio => &[Codec::Opus],
        Kind::Video => &[Codec::Vp8, Codec::H264],
    }
}

/// A codec as we offer it: Chromium's payload type, the encoding and its parameters.
pub(super) fn offered(codec: Codec) -> (u8, &'static str, &'static str) {
    match codec {
        Codec::Opus => (111, "opus/48000/2", "minptime=10;useinbandfec=1"),
        Codec::Vp8 => (96, "VP8/90000", ""),
        Codec::H264 => (108, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
    }
}

/// Retransmission of another payload type; Chromium gives it the next number.
pub(super) fn rtx_payload(pt: u8, apt: u8) -> Payload<'static> {
    Payload { pt, encoding: "rtx/90000".into(), fmtp: format!("apt={apt}").into(), feedback: Vec::new() }
}

/// Redundant audio of another payload type (RFC 2198 5), under Chromium's number.
pub(super) fn red_payload(pt: u8, primary: u8) -> Payload<'static> {
    Payload { pt, encoding: RED.into(), fmtp: format!("{primary}/{primary}").into(), feedback: Vec::new() }
}

pub(super) const RED_PT: u8 = 63;
const RED: &str = "red/48000/2";

impl Payload<'_> {
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

    /// The payload type whose frames this one carries, the newest and earlier ones (RFC 2198 5). Others than the first
    /// listed are of no use to us.
    pub(super) fn red_of(&self) -> Option<u8> {
        let is_red = self.encoding.eq_ignore_ascii_case(RED);
        is_red.then(|| self.fmtp.split('/').next()).flatten()?.trim().parse().ok()
    }

    /// The side that wrote it would like discontinuous transmission (RFC 7587 6.1).
    pub(super) fn asks_for_dtx(&self) -> bool {
        self.parameter("usedtx") == Some("1")
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
