//! Receiving a media packet allocates nothing, and a stream is small: thousands of participants with many streams each
//! live in one process.
#![expect(unsafe_code, reason = "a counting allocator has to be an allocator")]

#[path = "support/counting.rs"]
mod counting;

use counting::{ALLOCATIONS, BYTES};
use roomful::measure::{Hist, Ledger, Window10s};
use roomful::media::receive::{Outcome, Owner, Packet, RxStream, Source, StampSeen, Timing};
use roomful::media::stamp::Stamp;
use roomful::types::Codec;
use std::time::{Duration, Instant};

const OWNER: Owner = Owner { sender: 4, stream: 0 };

#[test]
fn packets_frames_losses_and_nacks_allocate_nothing() {
    for codec in [Codec::Opus, Codec::Vp8, Codec::H264] {
        let mut rx = RxStream::new(codec.kind(), codec, 77, codec.clock_rate()).with_rtx();
        let mut source = Source::new(OWNER, codec, 0, Timing::default());
        let mut ledger = Ledger::new();
        let mut window = Window10s::default();
        let mut delays = Hist::allocated();
        let origin = Instant::now();
        let payloads: [&[u8]; 3] = match codec {
            Codec::Opus => [&[0xff, 0x41, 0]; 3],
            Codec::Vp8 => [&[0x10, 0, 0], &[0x10, 1, 0], &[0, 0, 0]],
            Codec::H264 => [&[0x65, 0x88, 0], &[0x41, 0x9a, 0], &[0x41, 0x4a, 0]],
        };
        let (mut new, mut nacks, mut key_frames_wanted) = (0u64, 0, 0);
        let before = ALLOCATIONS.get();
        for i in 0..20_000u64 {
            let at_ns = 1_000_000_000 + i * 6_000_000;
            let now = origin + Duration::from_nanos(at_ns);
            let (frame, part) = (i / 4, i % 4);
            ledger.on_sent(at_ns, i + 1);
            // Losses, bursts of them, duplicates, late packets, a restart.
            let lost = i % 37 == 5 || i % 1000 < 30 && i > 1000;
            let number = if i % 53 == 7 { i - 2 } else { i };
            let seq = (number + if i > 15_000 { 30_000 } else { 0 }) as u16;
            let stamp = Stamp { run: 1, sender: 4, stream: 0, frame: 0, packet: i + 1, sent_ns: at_ns - 3_000_000 };
            let is_stamped = codec == Codec::Opus || part == if codec == Codec::Vp8 { 3 } else { 0 };
            let p = Packet {
                seq,
                timestamp: frame as u32 * 3000,
                marker: part == 3,
                payload: payloads[if part > 0 { 2 } else { usize::from(frame % 50 > 0) }],
                rtp_bytes: 15,
                recv_ns: at_ns,
                now,
                rtx: i % 101 == 3,
                stamp: if is_stamped { StampSeen::Own(stamp) } else { StampSeen::None },
            };
            if !lost {
                let outcome = rx.on_packet(&p);
                new += u64::from(matches!(outcome, Outcome::New { .. }));
                rx.take_former_owner();
                if rx.owner_of(outcome).is_some()
                    && let Some(us) = source.on_packet(&rx, &p, outcome)
                {
                    delays.record_us(us);
                }
            }
            let mut out = [0; 16];
            nacks += rx.take_nacks(now, Some(Duration::from_millis(30)), &mut out);
            key_frames_wanted += u64::from(rx.wants_key_frame(now));
            if i % 160 == 0 {
                source.settle(&ledger, at_ns);
                let (expected, received) = source.take_counters();
                window.push(0, expected, received);
                rx.report_block(at_ns);
                rx.take_counters(at_ns);
                while rx.take_gap().is_some() {}
            }
        }
        source.finish(&ledger, u64::MAX);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{codec}");
        assert!(new > 17_000 && nacks > 500, "{codec}: {new} {nacks}");
        assert!(codec == Codec::Opus || key_frames_wanted > 5, "{codec}: {key_frames_wanted}");
        assert!(window.worst().is_some_and(|share| share > 0.01));
        assert!(delays.count() > 4000, "{codec}: {}", delays.count());
    }
}

#[test]
fn a_stream_is_small() {
    for (codec, bytes_max) in [(Codec::Opus, 1536), (Codec::Vp8, 3072), (Codec::H264, 3072)] {
        let before = BYTES.get();
        let stream = Box::new(RxStream::new(codec.kind(), codec, 77, codec.clock_rate()));
        let allocated = BYTES.get() - before;
        assert_eq!(allocated, stream.memory(), "{codec}: what it says it takes");
        assert!(allocated <= bytes_max, "{codec}: {allocated}");
    }
    assert!(size_of::<Source>() <= 640, "{}", size_of::<Source>());
}
