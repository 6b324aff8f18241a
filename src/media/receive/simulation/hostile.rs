//! Whatever arrives: no panic, no endless loop, and counts that add up.

use crate::measure::{FlowCounters, Ledger};
use crate::media::receive::{Handover, Outcome, Owner, Packet, RxStream, Source, StampSeen, Timing};
use crate::media::stamp::Stamp;
use crate::types::Codec;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A number that is often near its last value, and sometimes anything.
fn near(rng: &mut ChaCha8Rng, last: &mut u64, step: u64) -> u64 {
    *last = match rng.random_range(0..60) {
        0 => rng.random(),
        1 => u64::MAX - rng.random_range(0..3),
        2 => rng.random_range(0..3),
        3..10 => last.wrapping_sub(rng.random_range(0..step * 20)),
        _ => last.wrapping_add(rng.random_range(0..step * 3)),
    };
    *last
}

#[test]
fn random_packets() {
    let origin = Instant::now();
    let (mut news, mut frames) = (0, 0);
    for seed in 0..400 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = [Codec::Opus, Codec::Vp8, Codec::H264][seed as usize % 3];
        let mut rx = RxStream::new(codec.kind(), codec, 1, if seed % 7 == 0 { 0 } else { codec.clock_rate() });
        let mut sources: HashMap<Owner, Source> = HashMap::new();
        let mut ledger = Ledger::new();
        let mut sum = FlowCounters::default();
        let (mut seq, mut timestamp, mut recv_ns, mut count) = (rng.random(), rng.random(), 1u64 << 60, 0);
        let (mut sent_ns, mut now, mut offered) = (1u64 << 60, origin, 0);
        for i in 0..1500u64 {
            let mut payload = [0u8; 24];
            rng.fill_bytes(&mut payload);
            if rng.random() {
                payload[0] = [0x10, 0x00, 0x65, 0x41, 0x78, 0x7c][i as usize % 6];
            }
            let stamp = Stamp {
                run: 1,
                sender: rng.random_range(0..3) / 2,
                stream: rng.random_range(0..8) / 7,
                frame: 0,
                packet: near(&mut rng, &mut count, 2),
                sent_ns: near(&mut rng, &mut sent_ns, 20_000_000),
            };
            now += Duration::from_millis(rng.random_range(0..40));
            // Our own clock, which may be set while we run.
            recv_ns += rng.random_range(0..40_000_000);
            if rng.random_ratio(1, 200) {
                recv_ns = recv_ns + rng.random_range(0..7_200_000_000_000) - 3_600_000_000_000;
            }
            let p = Packet {
                seq: near(&mut rng, &mut seq, 1) as u16,
                timestamp: near(&mut rng, &mut timestamp, 3000) as u32,
                marker: rng.random(),
                payload: &payload[..rng.random_range(0..24)],
                rtp_bytes: 40,
                recv_ns,
                now,
                rtx: rng.random_ratio(1, 10),
                stamp: match rng.random_range(0..4) {
                    0 => StampSeen::None,
                    1 => StampSeen::Foreign,
                    _ => StampSeen::Own(stamp),
                },
            };
            offered += i64::from(!p.rtx && !p.payload.is_empty());
            let outcome = rx.on_packet(&p);
            news += u64::from(matches!(outcome, Outcome::New { .. }));
            let timing = Timing::default();
            let handover = rx.take_former_owner();
            if let Some((source, why)) = handover.and_then(|(former, why)| Some((sources.get_mut(&former)?, why))) {
                match why {
                    Handover::OtherLayer => source.rebase(p.recv_ns),
                    Handover::OtherSender => source.detach(&rx),
                }
            }
            if let Some(owner) = rx.owner_of(outcome) {
                let source = sources.entry(owner).or_insert_with(|| Source::new(owner, codec, 1 << 60, timing));
                source.on_packet(&rx, &p, outcome);
                match rng.random_range(0..200) {
                    0 => source.finish(&ledger, p.recv_ns),
                    1 => source.resume(p.recv_ns),
                    2 => source.set_flowing(rng.random(), p.recv_ns),
                    3..20 => source.settle(&ledger, p.recv_ns),
                    _ => {}
                }
                source.take_counters();
                source.take_silence_ms();
                source.take_gap();
                source.longest_gap(p.recv_ns);
            }
            ledger.on_sent(p.recv_ns, i);
            match rng.random_range(0..60) {
                0 => rx.set_flowing(rng.random(), p.recv_ns),
                1 => drop(rx.report_block(p.recv_ns)),
                2 => rx.on_sender_report(rng.random(), p.recv_ns),
                3 => sum += &rx.take_counters(p.recv_ns),
                4..12 => {
                    let mut out = [0; 7];
                    let rtt = rng.random::<bool>().then(|| Duration::from_millis(rng.random_range(0..5000)));
                    assert!(rx.take_nacks(now, rtt, &mut out) <= 7);
                    rx.next_nack_at();
                }
                12 => drop(rx.wants_key_frame(now)),
                _ => {}
            }
        }
        sum += &rx.take_counters(recv_ns);
        assert_eq!(sum.received, offered, "seed {seed}");
        assert!(sum.rtp_received + sum.recovered <= sum.rtp_expected, "seed {seed} {sum:?}");
        assert!(sum.frames >= sum.key_frames && sum.freezes >= 0, "seed {seed} {sum:?}");
        frames += sum.frames;
    }
    assert!(news > 100_000 && frames > 10_000, "{news} {frames}");
}
