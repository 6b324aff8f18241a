//! TURN servers of the embedded fleet, one process each: so that runs through relays need nothing installed. Their message
//! codec is another one than the generator's, on purpose.

mod auth; // who may come
mod relay; // allocations, permissions, channels: sans-I/O
pub mod server; // process: one UDP and one TCP address, relayed addresses, an HTTP API
#[cfg(test)]
mod tests;
mod wire; // messages as they go out

pub use relay::RelayCounts;
pub use server::{TurnReady, TurnStats};
