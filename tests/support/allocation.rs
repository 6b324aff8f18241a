//! An allocation without a server.

use roomful::turn::{Allocation, Login};
use rtc_stun::message::{CLASS_SUCCESS_RESPONSE, Message, MessageType, Setter};
use rtc_turn::proto::lifetime::Lifetime;
use rtc_turn::proto::relayaddr::RelayedAddress;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// An allocation with a channel to `peer`, from a server that agrees to everything.
pub fn allocation(peer: SocketAddr) -> (Allocation, u16) {
    let now = Instant::now();
    let login = Login { username: "u".into(), password: "p".into() };
    let mut a = Allocation::new(now, login, Duration::from_mins(10), false, None, 1);
    for _ in 0..2 {
        while let Some(request) = a.poll_transmit() {
            let mut asked = Message::new();
            asked.unmarshal_binary(&request).unwrap();
            let (relayed, lifetime) = (RelayedAddress { ip: peer.ip(), port: 9 }, Lifetime(Duration::from_mins(10)));
            let kind = MessageType::new(asked.typ.method, CLASS_SUCCESS_RESPONSE);
            let setters: [Box<dyn Setter>; 4] =
                [Box::new(asked.transaction_id), Box::new(kind), Box::new(relayed), Box::new(lifetime)];
            let mut answer = Message::new();
            answer.build(&setters).unwrap();
            a.on_message(now, &answer.raw);
        }
        a.send(now, peer, b"first");
    }
    let channel = a.channel_to(peer).unwrap();
    (a, channel)
}
