//! What forwarding costs the embedded server: rooms of 5 (or another size), each participant sending Opus (50 pps) and
//! VP8 of about 500 kbit/s (55 pps of 1100 B), all others received. Only the server's own work is timed, in memory:
//! kernel, sockets and the clients' cryptography are not in it.
//!
//! `cargo bench --bench sfu_forwarding [-- PARTICIPANTS SECONDS ROOM_SIZE]`

use roomful::sfu::{Sfu, SfuConfig};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::format::Codec;

#[path = "../tests/support/str0m_peer.rs"]
mod str0m_peer;
use str0m_peer::{AUDIO_VIDEO, Peer};

/// The server looks at its socket this often at most.
const TICK: Duration = Duration::from_millis(1);

struct Bench {
    now: Instant,
    sfu: Sfu,
    peers: Vec<Peer>,
    by_address: HashMap<SocketAddr, usize>,
    server_time: Duration,
}

impl Bench {
    /// Carries what the peers have sent to the server, timed, and its control traffic back. Media towards the peers
    /// ends here: opening it is their cost.
    fn exchange(&mut self) {
        let sent: Vec<(SocketAddr, Vec<u8>)> = self
            .peers
            .iter_mut()
            .flat_map(|p| std::mem::take(&mut p.out).into_iter().map(|(_, b)| (p.address, b)))
            .collect();
        let mut back = Vec::new();
        let start = Instant::now();
        for batch in sent.chunks(64) {
            for (from, bytes) in batch {
                self.sfu.handle_datagram(self.now, *from, bytes);
            }
            while let Some(datagram) = self.sfu.poll_transmit() {
                back.push(datagram);
            }
        }
        self.sfu.handle_timeout(self.now);
        while let Some(datagram) = self.sfu.poll_transmit() {
            back.push(datagram);
        }
        self.server_time += start.elapsed();
        for datagram in back {
            let media = datagram.contents[0] & 0xc0 == 0x80 && !(192..224).contains(&datagram.contents[1]);
            if !media {
                let peer = &mut self.peers[self.by_address[&datagram.to]];
                peer.handle_datagram(self.now, self.sfu.config().media, &datagram.contents);
            }
        }
        for peer in &mut self.peers {
            if peer.timeout <= self.now {
                peer.handle_timeout(self.now);
            }
        }
    }
}

fn main() {
    let numbers: Vec<u32> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let participants = numbers.first().copied().unwrap_or(60) as usize;
    let seconds = numbers.get(1).copied().unwrap_or(5);
    let room_size = numbers.get(2).copied().unwrap_or(5) as usize;

    let now = Instant::now();
    let config = SfuConfig::new("10.0.0.1:4000".parse().expect("an address"), participants).expect("a certificate");
    let mut bench = Bench {
        now,
        sfu: Sfu::new(config, now),
        peers: Vec::new(),
        by_address: HashMap::new(),
        server_time: Duration::ZERO,
    };
    let start = Instant::now();
    for i in 0..participants {
        let address = SocketAddr::from(([10, 0, 1, 1], 1000 + i as u16));
        let mut peer = Peer::new(now, address, AUDIO_VIDEO, room_size - 1, Codec::Vp8);
        let room = format!("room-{}", i / room_size);
        let joined = bench.sfu.join(now, &room, &i.to_string(), &peer.offer).expect("fits");
        peer.accept(now, &joined.answer);
        bench.by_address.insert(address, i);
        bench.peers.push(peer);
    }
    println!("join, both sides: {:.2} ms a participant", start.elapsed().as_secs_f64() * 1e3 / participants as f64);
    while bench.peers.iter().any(|p| !p.connected) {
        bench.now += TICK;
        bench.exchange();
    }

    let before = bench.sfu.stats();
    bench.server_time = Duration::ZERO;
    let payload = vec![0x55; 1080];
    let ticks = u64::from(seconds) * 1000;
    for tick in 0..ticks {
        bench.now += TICK;
        for (i, peer) in bench.peers.iter_mut().enumerate() {
            let phase = tick + i as u64 * 7;
            if phase.is_multiple_of(20) {
                peer.send_audio(bench.now, &payload[..80]);
            }
            if phase.is_multiple_of(18) {
                peer.send_vp8(bench.now, tick < 40, &payload);
            }
        }
        bench.exchange();
    }
    let after = bench.sfu.stats();
    let forwarded = after.rtp_forwarded - before.rtp_forwarded;
    let time = bench.server_time.as_secs_f64();
    println!("{participants} participants in rooms of {room_size}, {seconds} s of media:");
    println!("  packets in {}, forwarded {forwarded}", after.rtp_in - before.rtp_in);
    println!("  server busy {time:.2} s: {:.1} % of a core", time / f64::from(seconds) * 100.0);
    println!(
        "  {:.2} µs a forwarded packet, {:.0} forwarded packets/s on one core",
        time / forwarded as f64 * 1e6,
        forwarded as f64 / time
    );
}
