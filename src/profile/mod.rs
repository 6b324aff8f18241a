//! Profiles and target files: what the user wrote (raw TOML, with line and key for every error) and what it means
//! (resolved; invalid states cannot exist).

mod resolved;

pub use resolved::{
    EmbeddedTarget, ExternalTarget, HealthLimits, Join, Load, Network, Op, Profile, RoomGroup, Secret, Senders,
    ServerEntry, Shape, Size, Stay, Target, Threshold, ThresholdValue,
};
