//! Client presets as data: what a real client offers, answers and does. One [`Policy`] each; the rest of the code asks
//! the policy and knows no client by name.
//!
//! `chrome` is Chromium 156 as captured (tests/fixtures/sdp, docs/profiles.md "Clients"): offers, suites, and what it
//! does with what an answer allows. `livekit-js` is livekit-client 2 on Chromium with its publish defaults: `red` and
//! `dtx` are on unless an application says otherwise, and Opus gets NACK in answers to a server that offers it.

use crate::types::{Client, Suite};

/// Everything that tells one client from another.
#[derive(Debug)]
pub struct Policy {
    pub client: Client,
    /// In the order of the ClientHello; as DTLS server, the first of these that the other side has is taken.
    pub suites: &'static [Suite],
    pub repair: Repair,
    /// `rtcp-fb` values of offers, in order.
    pub audio_feedback: &'static [&'static str],
    pub video_feedback: &'static [&'static str],
    /// What it takes beside these when a remote offers it.
    pub audio_feedback_answered: &'static [&'static str],
    /// Header extensions by the ids it gives them, in the order of its offers. We send those named below as constants.
    pub audio_extensions: &'static [(u8, &'static str)],
    pub video_extensions: &'static [(u8, &'static str)],
    pub red: Red,
    pub dtx: Dtx,
    pub mute: Mute,
    pub candidates: Candidates,
}

/// How lost video comes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// On a stream of its own (RFC 4588), where the other side has it, else as [`Repair::SamePacket`].
    Rtx,
    /// The identical packet.
    SamePacket,
}

/// Redundant audio (RFC 2198).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Red {
    NotOffered,
    /// Offered; sent where the remote's description puts it before Opus, as libwebrtc does.
    WhenPreferred,
    /// Offered; sent wherever the remote has it.
    WhenNegotiated,
}

/// Discontinuous transmission of Opus (RFC 7587 3.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtx {
    Never,
    /// Where the remote's description says `usedtx=1` (RFC 7587 6.1), as libwebrtc does.
    WhenAsked,
    Always,
}

/// What a muted microphone sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mute {
    /// Digital silence at level 127 (a track that is not `enabled`); with DTX next to nothing.
    Silence,
    Nothing,
}

/// How candidates travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Candidates {
    /// One by one behind the description, where signalling knows how.
    Trickled,
    InDescription,
}

pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
pub const TWCC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
pub const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
pub const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";

const CHROME_SUITES: &[Suite] = &[Suite::Aes128CmSha1_80, Suite::AeadAes256Gcm, Suite::AeadAes128Gcm];
const CHROME_VIDEO: &[&str] = &["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"];
const CHROME_AUDIO_EXTENSIONS: &[(u8, &str)] = &[(1, AUDIO_LEVEL), (2, ABS_SEND_TIME), (3, TWCC), (4, MID)];
const CHROME_VIDEO_EXTENSIONS: &[(u8, &str)] = &[
    (14, "urn:ietf:params:rtp-hdrext:toffset"),
    (2, ABS_SEND_TIME),
    (13, "urn:3gpp:video-orientation"),
    (3, TWCC),
    (5, "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"),
    (6, "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type"),
    (7, "http://www.webrtc.org/experiments/rtp-hdrext/video-timing"),
    (8, "http://www.webrtc.org/experiments/rtp-hdrext/color-space"),
    (4, MID),
    (10, RID),
    (11, REPAIRED_RID),
];

const CHROME: Policy = Policy {
    client: Client::Chrome,
    suites: CHROME_SUITES,
    repair: Repair::Rtx,
    audio_feedback: &["transport-cc"],
    video_feedback: CHROME_VIDEO,
    audio_feedback_answered: &[],
    audio_extensions: CHROME_AUDIO_EXTENSIONS,
    video_extensions: CHROME_VIDEO_EXTENSIONS,
    red: Red::WhenPreferred,
    dtx: Dtx::WhenAsked,
    mute: Mute::Silence,
    candidates: Candidates::Trickled,
};

const LIVEKIT_JS: Policy = Policy {
    client: Client::LivekitJs,
    audio_feedback_answered: &["nack"],
    red: Red::WhenNegotiated,
    dtx: Dtx::Always,
    ..CHROME
};

/// The cheapest honest client. It has RTX because SFUs resend by RTX alone (str0m, and so the embedded fleet), or keep
/// nothing to resend otherwise.
const LIGHT: Policy = Policy {
    client: Client::Light,
    suites: &[Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80],
    repair: Repair::Rtx,
    audio_feedback: &[],
    video_feedback: &["nack", "nack pli"],
    audio_feedback_answered: &[],
    audio_extensions: &[(4, MID)],
    video_extensions: &[(4, MID)],
    red: Red::NotOffered,
    dtx: Dtx::Never,
    mute: Mute::Nothing,
    candidates: Candidates::InDescription,
};

/// The preset of a client.
pub fn policy(client: Client) -> &'static Policy {
    match client {
        Client::Chrome => &CHROME,
        Client::LivekitJs => &LIVEKIT_JS,
        Client::Light => &LIGHT,
    }
}
