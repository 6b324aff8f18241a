//! Datagrams to a pair of transports, before, during and after the handshake. The input is a list of them, each with a
//! length byte in front; between them the pair goes on by itself. With keys, none of them may end it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::transport::{AllowList, RemoteParams, Setup, Shared, Timing, Transport};
use roomful::types::Suite;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();

fn remote(t: &Transport, setup: Setup) -> RemoteParams {
    let p = t.local_params();
    let (ufrag, pwd, fingerprint, candidates) = (p.ufrag, p.pwd, p.fingerprint, p.candidates);
    RemoteParams { ufrag, pwd, fingerprint, setup, lite: false, candidates }
}

fuzz_target!(|input: &[u8]| {
    let shared = SHARED.get_or_init(|| Shared::new(&[Suite::AeadAes128Gcm], Timing::default()).unwrap());
    let allow = Arc::new(AllowList::new(vec![([10, 0, 0, 0].into(), 8)]));
    let addresses = [1, 2].map(|i| SocketAddr::from(([10, 0, 0, i], 5000)));
    let mut now = Instant::now();
    let mut pair = addresses.map(|local| Transport::new(now, shared, &allow, local, 1).unwrap());
    let (offer, answer) = (remote(&pair[0], Setup::Actpass), remote(&pair[1], Setup::Active));
    pair[1].start(now, &offer, false, true).unwrap();
    pair[0].start(now, &answer, true, false).unwrap();
    let mut rest = input;
    let mut idle = 0;
    while idle < 12 {
        let keyed = pair[0].may_send() && pair[1].may_send();
        match rest.split_first() {
            Some((n, tail)) => {
                let (datagram, tail) = tail.split_at(tail.len().min(usize::from(*n)));
                rest = tail;
                pair[0].on_datagram(now, addresses[1], datagram);
                pair[1].on_datagram(now, addresses[0], datagram);
                assert!(!keyed || pair[0].may_send() && pair[1].may_send());
            }
            None => idle += 1,
        }
        now += Duration::from_millis(10);
        for side in 0..2 {
            pair[side].handle_timeout(now);
            while let Some((to, datagram)) = pair[side].poll_transmit() {
                assert_eq!(to, addresses[1 - side]);
                pair[1 - side].on_datagram(now, addresses[side], &datagram);
            }
        }
    }
});
