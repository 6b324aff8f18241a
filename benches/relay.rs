//! What a TURN server in between costs our side: one packet of 1100 B sealed and sent, and one received and opened, directly
//! and through a channel, over loopback. CPU time of one thread, both ways in turns, medians.
//!
//! `cargo bench --bench relay`
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first surprise")]

#[path = "../tests/support/allocation.rs"]
mod allocation;

use allocation::allocation;
use roomful::engine::realtime_ns;
use roomful::engine::socket::{MediaSocket, Receiver, thread_cpu_ns};
use roomful::media::srtp::{RtpOpener, RtpSealer};
use roomful::turn::frame;
use roomful::types::Suite;
use std::hint::black_box;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const BATCH: usize = 48;
const PAYLOAD: usize = 1100;

fn main() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (mut ours, mut theirs) = (MediaSocket::bind(ip).unwrap(), MediaSocket::bind(ip).unwrap());
    ours.connect(theirs.local()).unwrap();
    theirs.connect(ours.local()).unwrap();
    let peer = SocketAddr::from(([127, 0, 0, 1], 7));
    let (mut a, channel) = allocation(peer);
    let (key, salt) = ([7; 32], [9; 14]);
    let (sealer, opener) =
        (RtpSealer::new(Suite::AeadAes128Gcm, &key, &salt), RtpOpener::new(Suite::AeadAes128Gcm, &key, &salt));
    let mut packet = [0u8; 2048];
    let mut receiver = Receiver::new();
    let rounds = if std::env::args().any(|a| a == "--test") { 2 } else { 4000 };
    // Sent and received, directly and through the channel.
    let mut ns: [[Vec<u64>; 2]; 2] = Default::default();
    let mut index = 0u64;
    for round in 0..rounds * 2 {
        let relayed = round % 2 == 1;
        let mut opened = 0;
        let began = thread_cpu_ns();
        let first = index;
        for _ in 0..BATCH {
            packet[..12].copy_from_slice(&[0x80, 96, (index >> 8) as u8, index as u8, 0, 0, 0, 1, 0, 0, 0, 5]);
            let n = sealer.seal(&mut packet, 12 + PAYLOAD, 12, (index >> 16) as u32).unwrap();
            index += 1;
            if relayed {
                let channel = a.channel_to(peer).unwrap();
                let header = frame::header(channel, n);
                ours.send_parts(&[IoSlice::new(&header), IoSlice::new(&packet[..n])]).unwrap();
            } else {
                ours.send(None, &packet[..n]).unwrap();
            }
        }
        let sent = thread_cpu_ns();
        let mut next = first;
        receiver.drain(&theirs, |mut batch| {
            batch.each(Some(peer), |_, at, data| {
                black_box((at, realtime_ns()));
                let data = match frame::channel_data(data) {
                    Some((channel, length)) => {
                        black_box(a.peer_of(channel)).unwrap();
                        &mut data[frame::HEADER..frame::HEADER + length]
                    }
                    None => data,
                };
                opener.open(data, 12, next).unwrap();
                next += 1;
                opened += 1;
            });
        });
        let done = thread_cpu_ns();
        assert_eq!(opened, BATCH, "channel {channel}");
        ns[0][usize::from(relayed)].push(sent - began);
        ns[1][usize::from(relayed)].push(done - sent);
    }
    let median = |v: &mut Vec<u64>| {
        v.sort_unstable();
        v[v.len() / 2] as f64 / BATCH as f64
    };
    let mut sums = [0.0; 2];
    for (what, by_way) in ["seal and send", "receive and open"].into_iter().zip(&mut ns) {
        let [direct, relayed] = by_way.each_mut().map(median);
        sums = [sums[0] + direct, sums[1] + relayed];
        println!("{what}: {direct:.0} ns direct, {relayed:.0} ns relayed: {:.3} ×", relayed / direct);
    }
    println!("both: {:.0} ns direct, {:.0} ns relayed: {:.3} ×", sums[0], sums[1], sums[1] / sums[0]);
}
