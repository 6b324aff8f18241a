//! In memory and in virtual time.

mod allow_list;
mod client;
mod connect;
mod life;
mod link;
mod lossy;
mod mutation;
mod whole;
mod with_rtc;
mod with_str0m;

use super::*;
