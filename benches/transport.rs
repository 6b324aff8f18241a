//! What a connected transport costs, beside a whole `rtc` peer connection in the same run: resident and heap KiB, CPU to
//! connect (creation, SDP, ICE, DTLS), idle wake-ups and idle CPU. In memory, in simulated time, one side's share.
//! `transport` is without the m-lines that `roomful` and `rtc` keep; `+ GCM` and `+ SHA1_80` are with the SRTP and SRTCP
//! sessions of that suite besides, which is what a participant keeps of a connected transport before media flows. Idle
//! KiB is the heap after a minute. What a driver keeps of a participant: `cargo bench --bench drivers`.
//!
//! `cargo bench --bench transport` (optionally `-- PAIRS`, 200 by default). Each line is a process of its own, so that
//! every measurement starts with a fresh heap.

#![expect(unsafe_code, reason = "an allocator that counts")]

#[path = "../src/transport/tests/link.rs"]
#[allow(dead_code, reason = "the bench uses a part of it")]
mod link;
#[path = "../src/transport/tests/whole.rs"]
#[allow(dead_code, reason = "the bench uses a part of it")]
mod whole;

use link::{Link, Peer};
use roomful::media::srtp::{RtcpOpener, RtcpSealer, RtpOpener, RtpSealer};
use roomful::sdp::{LocalTrack, Negotiation};
use roomful::transport::{AllowList, Event, LocalParams, MasterKey, RemoteParams, Setup, Shared, Timing, Transport};
use roomful::types::{Client, Codec, Suite};
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};
use whole::Whole;

/// Counts live heap bytes. Its cost, one relaxed addition a call, is the same for all that is compared.
struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size as isize - layout.size() as isize, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const IDLE: Duration = Duration::from_secs(60);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match &args[..] {
        [mode, which, lines, pairs] if mode == "one" => one(which, lines.parse().unwrap(), pairs.parse().unwrap()),
        _ => all(args.first().map_or("200", String::as_str)),
    }
}

fn all(pairs: &str) {
    println!("{pairs} pairs each; per transport:");
    println!(
        "{:<10} {:>7} {:>13} {:>10} {:>10} {:>11} {:>12} {:>12}",
        "", "m-lines", "resident KiB", "heap KiB", "idle KiB", "CPU ms", "wake-ups/s", "idle µs/s"
    );
    let program = std::env::current_exe().unwrap();
    let rows = [
        ("transport", "2"),
        ("roomful", "2"),
        ("roomful", "10"),
        ("+ GCM", "2"),
        ("+ GCM", "10"),
        ("+ SHA1_80", "2"),
        ("+ SHA1_80", "10"),
        ("rtc", "2"),
        ("rtc", "10"),
    ];
    for (which, lines) in rows {
        let status = Command::new(&program).args(["one", which, lines, pairs]).status().unwrap();
        assert!(status.success());
    }
}

fn one(which: &str, lines: usize, pairs: usize) {
    match which {
        "transport" | "roomful" | "+ GCM" | "+ SHA1_80" => {
            let suite = if which == "+ SHA1_80" { Suite::Aes128CmSha1_80 } else { Suite::AeadAes128Gcm };
            let shared = Shared::new(&[suite], Timing::default()).unwrap();
            let allow = Arc::new(AllowList::new(vec![([10, 9, 0, 0].into(), 16)]));
            measure(which, lines, pairs, |now, i| {
                let mut link = own_pair(now, &shared, &allow, i, lines);
                (link.a.keeps_srtp, link.b.keeps_srtp) = (which.starts_with('+'), which.starts_with('+'));
                if which == "transport" {
                    link.a.negotiation = None;
                    link.b.negotiation = None;
                }
                link
            });
        }
        _ => {
            let certificate = Whole::certificate();
            measure(which, lines, pairs, |now, i| {
                let addresses = addresses(i);
                let [mut a, mut b] = [lines, 0].map(|n| {
                    let local = addresses[usize::from(n == 0)];
                    Whole::new(now, local, Suite::AeadAes128Gcm, &certificate, n)
                });
                let offer = a.offer(now);
                let answer = b.answer(now, &offer);
                a.accept_answer(now, &answer);
                Link::new(now, a, b, addresses)
            });
        }
    }
}

/// A transport, its negotiation and its SRTP sessions, which a participant keeps.
struct Own {
    transport: Transport,
    negotiation: Option<Box<Negotiation>>,
    keeps_srtp: bool,
    srtp: Option<Box<Srtp>>,
}

#[expect(dead_code, reason = "it is there for its size")]
struct Srtp {
    rtp_out: RtpSealer,
    rtcp_out: RtcpSealer,
    rtp_in: RtpOpener,
    rtcp_in: RtcpOpener,
}

impl Own {
    fn new(transport: Transport, negotiation: Box<Negotiation>) -> Own {
        Own { transport, negotiation: Some(negotiation), keeps_srtp: false, srtp: None }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.transport.poll_event() {
            if let (Event::Connected { suite, ours, theirs, .. }, true) = (event, self.keeps_srtp) {
                self.srtp = Some(Box::new(Srtp {
                    rtp_out: RtpSealer::new(suite, &ours.key, &ours.salt),
                    rtcp_out: RtcpSealer::new(suite, &ours.key, &ours.salt),
                    rtp_in: RtpOpener::new(suite, &theirs.key, &theirs.salt),
                    rtcp_in: RtcpOpener::new(suite, &theirs.key, &theirs.salt),
                }));
            }
        }
    }
}

trait Ready {
    fn is_ready(&self) -> bool;
}

impl Ready for Own {
    fn is_ready(&self) -> bool {
        self.transport.is_connected() && self.srtp.is_some() == self.keeps_srtp
    }
}

impl Ready for Whole {
    fn is_ready(&self) -> bool {
        self.connected
    }
}

impl Peer for Own {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.transport.on_datagram(now, from, datagram);
        self.take_events();
    }
    fn poll_transmit(&mut self) -> Option<(SocketAddr, bytes::BytesMut)> {
        self.transport.poll_transmit()
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.transport.poll_timeout()
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
        self.take_events();
    }
}

fn addresses(i: usize) -> [SocketAddr; 2] {
    [0, 1].map(|side| SocketAddr::from(([10, 9, (i >> 7) as u8, (2 * i % 256) as u8 + side], 5000)))
}

fn own_pair(now: Instant, shared: &Arc<Shared>, allow: &Arc<AllowList>, i: usize, lines: usize) -> Link<Own, Own> {
    let addresses = addresses(i);
    let negotiation = || Box::new(Negotiation::new(Client::Chrome, i as u64, "cname".into()));
    let (mut offering, mut answering) = (negotiation(), negotiation());
    let [mut a, mut b] = addresses.map(|local| Transport::new(now, shared, allow, local, i as u64).unwrap());
    let tracks: Vec<LocalTrack> = (0..lines as u32)
        .map(|n| LocalTrack {
            encoding_codec: if n % 2 == 0 { Codec::Opus } else { Codec::Vp8 },
            ssrc: 1000 + n,
            rtx_ssrc: None,
            layers: 1,
            simulcast: roomful::types::Simulcast::Rid,
        })
        .collect();
    let offer = offering.offer(&a.local_params(), &tracks, 0, 0);
    let (answer, remote, _) = answering.accept_offer(&offer, &b.local_params(), Setup::Active, &[]).unwrap();
    b.start(now, &remote, false, true).unwrap();
    let (remote, _) = offering.accept_answer(&answer).unwrap();
    a.start(now, &remote, true, false).unwrap();
    Link::new(now, Own::new(a, offering), Own::new(b, answering), addresses)
}

fn measure<N: Peer + Ready>(
    name: &str,
    lines: usize,
    pairs: usize,
    mut make: impl FnMut(Instant, usize) -> Link<N, N>,
) {
    let start = Instant::now();
    let mut links = Vec::with_capacity(pairs);
    let mut connect = |i| {
        let mut link = make(start, i);
        assert!(link.run_until(Duration::from_secs(20), |a, b| a.is_ready() && b.is_ready()), "pair {i}");
        Box::new(link)
    };
    // Tables and first allocations.
    for i in 0..4 {
        drop(connect(20_000 + i));
    }
    let (resident, heap, cpu) = (resident_kib(), heap_kib(), cpu_seconds());
    for i in 0..pairs {
        links.push(connect(i));
    }
    let transports = 2.0 * pairs as f64;
    let (resident, connected_heap) = (resident_kib() - resident, heap_kib() - heap);
    let connect_cpu = cpu_seconds() - cpu;
    let (mut wakes, cpu) = (0u64, cpu_seconds());
    for link in &mut links {
        let end = link.now + IDLE;
        let mut due = [link.a.poll_timeout(), link.b.poll_timeout()];
        while link.step(end) {
            for (due, now_due) in due.iter_mut().zip([link.a.poll_timeout(), link.b.poll_timeout()]) {
                // A wake-up is a deadline that was reached.
                wakes += u64::from(due.is_some_and(|t| t <= link.now));
                *due = now_due;
            }
        }
        assert!(link.a.is_ready() && link.b.is_ready());
    }
    let (idle_heap, idle_cpu) = (heap_kib() - heap, cpu_seconds() - cpu);
    println!(
        "{name:<10} {lines:>7} {:>13.1} {:>10.1} {:>10.1} {:>11.3} {:>12.2} {:>12.1}",
        resident / transports,
        connected_heap / transports,
        idle_heap / transports,
        connect_cpu * 1e3 / transports,
        wakes as f64 / IDLE.as_secs_f64() / transports,
        idle_cpu * 1e6 / IDLE.as_secs_f64() / transports,
    );
}

fn heap_kib() -> f64 {
    LIVE.load(Ordering::Relaxed) as f64 / 1024.0
}

fn resident_kib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4.0
}

/// CPU time of this process, which has one thread.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
