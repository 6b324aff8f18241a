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

/// Anything as what clients and peers send to a relay, in pieces of a stream and in datagrams.
#[cfg(any(test, fuzzing))]
pub(super) fn take_any(bytes: &[u8]) {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};
    struct Nowhere;
    impl relay::Io for Nowhere {
        fn open(&mut self, id: u32, _: bool) -> std::io::Result<SocketAddr> {
            Ok(SocketAddr::from(([10, 0, 0, 1], id as u16 + 1)))
        }
        fn close(&mut self, _: u32) {}
        fn to_client(&mut self, _: relay::Client, _: &[u8]) {}
        fn to_peer(&mut self, _: u32, _: SocketAddr, _: &[u8]) {}
    }
    let mut now = Instant::now();
    let auth = auth::Auth::new("realm", [7; 32], now, 1_800_000_000).with_user("u", "p");
    let (lifetime, lifetime_max) = (Duration::from_secs(60), Duration::from_secs(600));
    let relay = [10, 0, 0, 1].into();
    let config = relay::RelayConfig { auth, relay, user_quota: None, total_quota: None, lifetime, lifetime_max };
    let mut relay = relay::Relay::new(config, now);
    for over in [relay::Over::Udp, relay::Over::Tcp] {
        let client = relay::Client { over, addr: SocketAddr::from(([10, 0, 0, 9], 9)) };
        relay.on_client(now, client, bytes, &mut Nowhere);
        let mut rest = bytes;
        while let Ok(Some(len)) = wire::framed(rest) {
            relay.on_client(now, client, &rest[..len], &mut Nowhere);
            rest = &rest[len..];
            now += Duration::from_secs(1);
            relay.handle_timeout(now, &mut Nowhere);
        }
    }
    relay.on_peer(now, 0, SocketAddr::from(([10, 0, 0, 2], 2)), bytes, &mut Nowhere);
}
