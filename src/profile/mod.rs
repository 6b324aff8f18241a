//! Profiles and target files: what the user wrote (raw TOML, with line and key for every error) and what it means
//! (resolved; invalid states cannot exist).

mod error;
mod expect; // what a scale-in is judged by
pub mod fleet; // backends of a fleet, and the join hook
pub mod keys; // every key: form, range, default, meaning
mod load;
pub mod metrics; // every metric a threshold may name, with its unit
pub mod network; // what a network between participants and server is like
mod read;
mod resolved;
mod scale_in;
mod schema;
mod series; // profiles that stand for several runs
mod target;
mod tree;
mod turn; // TURN servers of a target file, and who goes through them
pub mod units; // quantities as profiles write them, and back
mod write;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_fleet;
#[cfg(test)]
mod tests_scale_in;
#[cfg(test)]
mod tests_search;
#[cfg(test)]
mod tests_turn;

pub use error::{Origin, ProfileError, ProfileErrors};
pub use expect::{Classes, Expect, Herd, JoinPolicy, Others, ScaleOut};
#[cfg(any(test, fuzzing))]
pub(crate) use load::load_texts;
pub use load::{Explained, load, load_explained, parse_resolved};
pub use resolved::{
    EmbeddedTarget, ExternalTarget, Headroom, HealthLimits, Ice, Join, Load, Muting, Network, Op, Profile, RoomGroup,
    Search, Secret, Senders, ServerEntry, Shape, Size, Stay, Talk, Target, Threshold, ThresholdValue, TurnEntry,
};
pub use scale_in::{
    Condition, Next, Rejoin, Repeat, Rollback, ScaleIn, Seen, Selector, Start, Step, Subject, TimeOfDay,
};
pub use schema::schema;
pub use series::{Mix, Series, share_of};
pub(crate) use target::drivers;
pub use target::{DRIVERS, is_private};
