//! The words every module shares: ids, kinds and quantities. No behaviour beyond parsing and printing.

mod masked;

pub use masked::{Masking, has_mask, mask_url, mask_urls, may_stand_in_url};

use serde::{Deserialize, Serialize};
use std::fmt;

/// m-lines that we take in a session description, and so media streams in one direction of a transport. A room of more
/// senders is an error of its profile.
pub const M_LINES_MAX: usize = 1024;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl $name {
            /// Index into the plan's or run's table of these.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// One room of the plan; index into [`crate::plan::Plan::rooms`].
    RoomId,
    "room#"
);
id!(
    /// One participant's stay in one room; index into [`crate::plan::Plan::legs`]. Also the `sender` in a media stamp.
    LegId,
    "leg#"
);
id!(
    /// One server of the fleet, in the order the run met them; its name is in the history's `server` events.
    ServerId,
    "server#"
);

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    Cordon,
    Uncordon,
    /// Ask the server to end, as an orchestrator does (SIGTERM).
    Terminate,
    /// SIGKILL.
    Kill,
    /// One server more.
    Start,
    /// SIGSTOP and SIGCONT.
    Pause,
    Resume,
    PartitionSignaling,
    PartitionMedia,
    PartitionRegistry,
    /// Ends the partitions of a server.
    Heal,
    RegistryPause,
    RegistryResume,
    RegistryFlush,
    RegistryRestart,
    /// Somebody joins a room that is there, or a new one.
    JoinExisting,
    JoinNew,
}

impl StepAction {
    pub const ALL: [StepAction; 17] = [
        StepAction::Cordon,
        StepAction::Uncordon,
        StepAction::Terminate,
        StepAction::Kill,
        StepAction::Start,
        StepAction::Pause,
        StepAction::Resume,
        StepAction::PartitionSignaling,
        StepAction::PartitionMedia,
        StepAction::PartitionRegistry,
        StepAction::Heal,
        StepAction::RegistryPause,
        StepAction::RegistryResume,
        StepAction::RegistryFlush,
        StepAction::RegistryRestart,
        StepAction::JoinExisting,
        StepAction::JoinNew,
    ];

    /// It is done to a server.
    pub fn needs_server(self) -> bool {
        !self.is_join() && !self.is_of_registry() && self != StepAction::Start
    }

    pub fn is_join(self) -> bool {
        matches!(self, StepAction::JoinExisting | StepAction::JoinNew)
    }

    pub fn is_of_registry(self) -> bool {
        matches!(
            self,
            StepAction::RegistryPause
                | StepAction::RegistryResume
                | StepAction::RegistryFlush
                | StepAction::RegistryRestart
        )
    }

    pub fn as_str(self) -> &'static str {
        match self {
            StepAction::Cordon => "cordon",
            StepAction::Uncordon => "uncordon",
            StepAction::Terminate => "terminate",
            StepAction::Kill => "kill",
            StepAction::Start => "start",
            StepAction::Pause => "pause",
            StepAction::Resume => "resume",
            StepAction::PartitionSignaling => "partition_signaling",
            StepAction::PartitionMedia => "partition_media",
            StepAction::PartitionRegistry => "partition_registry",
            StepAction::Heal => "heal",
            StepAction::RegistryPause => "registry_pause",
            StepAction::RegistryResume => "registry_resume",
            StepAction::RegistryFlush => "registry_flush",
            StepAction::RegistryRestart => "registry_restart",
            StepAction::JoinExisting => "join_existing",
            StepAction::JoinNew => "join_new",
        }
    }
}

/// How a server of the embedded fleet gets rid of its calls when it is to end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Drain {
    /// It waits until they are over.
    #[default]
    Wait,
    /// It hands its rooms to other servers, one after the other; sessions go on.
    Move,
    /// It tells its rooms, one after the other, to join again, which they do elsewhere.
    Rejoin,
}

/// When the embedded fleet adds a server or takes one away by itself: as many serve as their participants need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Autoscale {
    /// Participants that one server is to carry.
    pub per_server: u32,
    /// Servers that serve at least, and at most.
    pub servers_min: u32,
    pub servers_max: u32,
    /// Between two decisions, ms; the first one comes so long after the fleet's start.
    pub every_ms: u64,
}

impl std::str::FromStr for Autoscale {
    type Err = String;

    /// From JSON, as a process is told it.
    fn from_str(text: &str) -> Result<Autoscale, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Autoscale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Autoscale { per_server, servers_min, servers_max, every_ms } = self;
        write!(
            f,
            r#"{{"per_server":{per_server},"servers_min":{servers_min},"servers_max":{servers_max},"every_ms":{every_ms}}}"#
        )
    }
}

/// A server of the embedded fleet that is not like the others: what it has of its own.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct UnlikeServer {
    pub id: String,
    pub participants_max: Option<u32>,
    /// Share of a core (0..1).
    pub cpu_max: Option<f64>,
}

impl std::str::FromStr for UnlikeServer {
    type Err = String;

    /// From JSON, as a process is told it.
    fn from_str(text: &str) -> Result<UnlikeServer, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}

impl fmt::Display for UnlikeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Drain {
    pub const NAMES: &'static [&'static str] = &["wait", "move", "rejoin"];
    const ALL: [Drain; 3] = [Drain::Wait, Drain::Move, Drain::Rejoin];

    pub fn as_str(self) -> &'static str {
        Drain::NAMES[self as usize]
    }
}

/// Where the embedded fleet puts the participants of a room.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Placement {
    /// All on one server.
    #[default]
    Affinity,
    /// In turn on all servers, which hand the room's media to each other.
    Spread,
}

impl Placement {
    pub const NAMES: &'static [&'static str] = &["affinity", "spread"];
    pub const ALL: [Placement; 2] = [Placement::Affinity, Placement::Spread];

    pub fn as_str(self) -> &'static str {
        Placement::NAMES[self as usize]
    }
}

/// A fault that the embedded fleet commits on purpose: each is there for a checker that must catch it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sin {
    /// A server that is told to end does so at once, whoever is on it.
    KillNonEmpty,
    /// New rooms go to cordoned servers before all others.
    PlaceOnCordoned,
    /// Nobody is let into a room whose server is cordoned.
    DropLateJoiners,
    /// Every second participant of a room goes to another server.
    SplitRoom,
    /// After a room has moved, nothing is forwarded in it for 3 s.
    MoveWithGap,
    /// After a room has moved, one participant is heard by nobody.
    OneWayAfterMove,
    /// Participants who have left go on being counted.
    KeepGhosts,
    /// Servers that have ended stay listed.
    StaleRegistry,
    /// A drained server does not end.
    EndlessDrain,
    /// A server that is to end tells everybody at the same moment to join again, not one room after the other.
    RejoinHerd,
    /// A server's metrics fail at times, and it is listed without sessions meanwhile.
    ZeroSessions,
}

impl Sin {
    pub const NAMES: &'static [&'static str] = &[
        "kill-non-empty",
        "place-on-cordoned",
        "drop-late-joiners",
        "split-room",
        "move-with-gap",
        "one-way-after-move",
        "keep-ghosts",
        "stale-registry",
        "endless-drain",
        "rejoin-herd",
        "zero-sessions",
    ];
    pub const ALL: [Sin; 11] = [
        Sin::KillNonEmpty,
        Sin::PlaceOnCordoned,
        Sin::DropLateJoiners,
        Sin::SplitRoom,
        Sin::MoveWithGap,
        Sin::OneWayAfterMove,
        Sin::KeepGhosts,
        Sin::StaleRegistry,
        Sin::EndlessDrain,
        Sin::RejoinHerd,
        Sin::ZeroSessions,
    ];

    pub fn as_str(self) -> &'static str {
        Sin::NAMES[self as usize]
    }
}

macro_rules! from_names {
    ($name:ident, $what:literal) => {
        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                let found = $name::ALL.into_iter().find(|x| x.as_str() == text);
                found.ok_or_else(|| {
                    format!(concat!("no ", $what, " {:?}; there are: {}"), text, $name::NAMES.join(", "))
                })
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

from_names!(Drain, "drain");
from_names!(Sin, "sin");
from_names!(Placement, "placement");

/// Audio or video: the two kinds every metric is kept apart for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Audio,
    Video,
}

impl Kind {
    pub const BOTH: [Kind; 2] = [Kind::Audio, Kind::Video];

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Video => "video",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Codecs of the clips we carry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    Opus,
    Vp8,
    H264,
}

impl Codec {
    pub fn kind(self) -> Kind {
        match self {
            Codec::Opus => Kind::Audio,
            Codec::Vp8 | Codec::H264 => Kind::Video,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Codec::Opus => "opus",
            Codec::Vp8 => "vp8",
            Codec::H264 => "h264",
        }
    }

    /// RTP clock rate in Hz.
    pub fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus => 48_000,
            Codec::Vp8 | Codec::H264 => 90_000,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bits per second of encoded media payload (RTP headers, SRTP and UDP/IP not included).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bitrate(pub u64);

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b if b >= 10_000_000 && b % 1_000_000 == 0 => write!(f, "{}Mbit/s", b / 1_000_000),
            b if b % 1000 == 0 => write!(f, "{}kbit/s", b / 1000),
            b => write!(f, "{b}bit/s"),
        }
    }
}

/// What one participant sends of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Encoding {
    pub codec: Codec,
    pub bitrate: Bitrate,
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.codec, self.bitrate)
    }
}

/// SRTP protection profile of a transport (RFC 5764 4.1.2, RFC 7714 14.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Suite {
    #[serde(rename = "AES128_CM_SHA1_80")]
    Aes128CmSha1_80,
    #[serde(rename = "AEAD_AES_128_GCM")]
    AeadAes128Gcm,
    #[serde(rename = "AEAD_AES_256_GCM")]
    AeadAes256Gcm,
}

impl Suite {
    pub fn as_str(self) -> &'static str {
        match self {
            Suite::Aes128CmSha1_80 => "AES128_CM_SHA1_80",
            Suite::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Suite::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// Bytes of its master key.
    pub fn key_len(self) -> usize {
        match self {
            Suite::Aes128CmSha1_80 | Suite::AeadAes128Gcm => 16,
            Suite::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of its master salt.
    pub fn salt_len(self) -> usize {
        match self {
            Suite::Aes128CmSha1_80 => 14,
            Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => 12,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which real client a participant behaves like; [`crate::client::policy`] says what that means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// Chromium with its defaults.
    #[default]
    Chrome,
    /// livekit-client on Chromium.
    LivekitJs,
    /// The cheapest honest client.
    Light,
}

impl Client {
    pub const ALL: [Client; 3] = [Client::Chrome, Client::LivekitJs, Client::Light];

    pub fn as_str(self) -> &'static str {
        match self {
            Client::Chrome => "chrome",
            Client::LivekitJs => "livekit-js",
            Client::Light => "light",
        }
    }
}

/// How the layers of one video are told apart (simulcast).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Simulcast {
    /// By RTP stream ids (RFC 8852, RFC 8853).
    #[default]
    Rid,
    /// By SSRCs, named in a group `SIM` (RFC 5576), the lowest layer first: what browsers did before, and what servers that
    /// read no rids know. An answer does not say whether the server takes it.
    SsrcGroup,
}

impl Simulcast {
    pub const ALL: [Simulcast; 2] = [Simulcast::Rid, Simulcast::SsrcGroup];

    pub fn as_str(self) -> &'static str {
        match self {
            Simulcast::Rid => "rid",
            Simulcast::SsrcGroup => "ssrc-group",
        }
    }
}

/// How a client reaches a TURN server; what is relayed is UDP in any case (RFC 8656 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    Udp,
    Tcp,
    Tls,
}

impl Via {
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Udp => "udp",
            Via::Tcp => "tcp",
            Via::Tls => "tls",
        }
    }

    /// Requests need no repetition there.
    pub fn is_stream(self) -> bool {
        self != Via::Udp
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
