//! In memory and in virtual time.

mod allow_list;
mod connect;
mod life;
mod link;
mod lossy;
mod mutation;
