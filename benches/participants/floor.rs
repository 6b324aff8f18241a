//! The least that this machine can do the same traffic with: the same sockets, system calls, packets and keys, and
//! nothing done with what comes but opening it. What a shard costs beyond it is ours; what is below it, nobody's.

use super::{JOIN_GAP, MEASURED_SECONDS, WARM_UP_SECONDS, pin};
use crate::forwarder::{Forwarder, Join, Stats};
use roomful::engine::socket::{MediaSocket, Poll, Receiver, Trigger, raise_descriptor_limit, thread_cpu_ns};
use roomful::media::rtp;
use roomful::media::srtp::{RtpOpener, RtpSealer, TAG_MAX};
use roomful::types::Suite;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the clips come to: packets a second, and bytes of RTP in each.
const STREAMS: [(u64, usize); 2] = [(50, 150), (70, 930)];
const TICK: Duration = Duration::from_millis(1);
const SWEEP_TICKS: u64 = 5;

struct Bare {
    socket: MediaSocket,
    keys: (RtpSealer, RtpOpener),
    ssrcs: [u32; 2],
    sent: [u64; 2],
}

/// Keys of one participant and direction.
fn material(i: usize, way: u8) -> ([u8; 32], [u8; 14]) {
    let mut key = [way; 32];
    key[..8].copy_from_slice(&(i as u64 * 0x9e37_79b9_7f4a_7c15).to_be_bytes());
    (key, [way ^ 0x55; 14])
}

pub fn run(n: usize, suite: Suite) {
    raise_descriptor_limit();
    let stats = Arc::new(Stats::default());
    let (joins, joins_rx) = std::sync::mpsc::channel();
    let f = Forwarder::new(stats.clone(), joins_rx);
    let to = f.local();
    let forwarder = std::thread::spawn(move || {
        pin(1);
        f.run();
    });
    let mut all = Vec::new();
    for i in 0..n {
        let mut socket = MediaSocket::bind([127, 0, 0, 1].into()).unwrap();
        socket.connect(to).unwrap();
        let [up, down] = [0, 1].map(|way| material(i, way));
        let ssrcs = [0, 1].map(|k| 0x7000_0000 + (i * 2 + k) as u32);
        joins.send(Join::keyed(i, socket.local(), suite, up, down, ssrcs)).ok().unwrap();
        let keys = (RtpSealer::new(suite, &up.0, &up.1), RtpOpener::new(suite, &down.0, &down.1));
        all.push(Bare { socket, keys, ssrcs, sent: [0; 2] });
    }
    std::thread::sleep(JOIN_GAP * 20);
    let (stop, counted) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; 3]));
    let shard = {
        let (stop, counted) = (stop.clone(), counted.clone());
        std::thread::spawn(move || {
            pin(0);
            work(&mut all, &stop, &counted);
        })
    };
    let read = || [0, 1, 2].map(|i| counted[i].load(Ordering::Relaxed) as f64);
    std::thread::sleep(Duration::from_secs(WARM_UP_SECONDS as u64));
    let (before, began) = (read(), Instant::now());
    std::thread::sleep(Duration::from_secs(MEASURED_SECONDS as u64));
    let (after, wall) = (read(), began.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    shard.join().unwrap();
    drop(joins);
    forwarder.join().unwrap();
    let [cpu, sent, received] = [0, 1, 2].map(|i| after[i] - before[i]);
    println!("the least: {n} bare sockets, {suite:?}, {MEASURED_SECONDS} s:");
    println!("  CPU {:.1} % of a core", cpu / 1e7 / wall);
    let each = n as f64 * wall;
    println!("  packets a second and socket: {:.1} out, {:.1} in", sent / each, received / each);
    super::print_packet(cpu / 1e9 / (sent + received));
}

fn work(all: &mut [Bare], stop: &AtomicBool, counted: &[AtomicU64; 3]) {
    let (mut poll, mut receiver, mut ready) = (Poll::new(Trigger::Edge).unwrap(), Receiver::new(), Vec::new());
    all.iter().enumerate().for_each(|(i, b)| poll.add(&b.socket, i as u64).unwrap());
    let (start, mut tick) = (Instant::now(), 0);
    let mut buf = [0x5a; 2048];
    while !stop.load(Ordering::Relaxed) {
        let us = tick * 1000;
        for (i, b) in all.iter_mut().enumerate() {
            for (k, (rate, len)) in STREAMS.into_iter().enumerate() {
                let phase_us = (i as u64 * 7919 + k as u64 * 4241) % 20_000;
                while b.sent[k] * 1_000_000 / rate + phase_us <= us {
                    b.sent[k] += 1;
                    buf[..2].copy_from_slice(&[0x80, 96 + k as u8]);
                    buf[2..4].copy_from_slice(&(b.sent[k] as u16).to_be_bytes());
                    buf[4..8].copy_from_slice(&(us as u32).to_be_bytes());
                    buf[8..12].copy_from_slice(&b.ssrcs[k].to_be_bytes());
                    let len = b.keys.0.seal(&mut buf[..len + TAG_MAX], len, 12, 0).unwrap();
                    counted[1].fetch_add(u64::from(b.socket.send(None, &buf[..len]).is_ok()), Ordering::Relaxed);
                }
            }
        }
        if tick % SWEEP_TICKS == 0 {
            ready.clear();
            poll.ready(&mut ready);
            for i in ready.drain(..) {
                let b = &all[i as usize];
                receiver.drain(&b.socket, |mut batch| {
                    batch.each(Some(b.socket.local()), |_, _, data| {
                        let h = rtp::parse(data).unwrap();
                        let opened = b.keys.1.open(data, h.header_len, u64::from(h.seq)).is_ok();
                        counted[2].fetch_add(u64::from(opened), Ordering::Relaxed);
                    });
                });
            }
            counted[0].store(thread_cpu_ns(), Ordering::Relaxed);
        }
        tick += 1;
        std::thread::sleep((start + TICK * tick as u32).saturating_duration_since(Instant::now()));
    }
}
