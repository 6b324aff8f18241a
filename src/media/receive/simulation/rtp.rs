//! What RFC 3550 and frames say: against straightforward references.

use super::world::*;
use crate::media::receive::{Outcome, RxStream};
use crate::types::Codec;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// Delay of each stamped packet that came by itself.
#[test]
fn delays_are_those_of_the_path() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sent = send(&mut rng, Codec::Opus, A, START, START + 10 * S, &[]);
    let mut server = Server::new(&mut rng, 3);
    let wires: Vec<Wire> = sent.iter().map(|m| server.forward(m)).collect();
    let path = Path { delay: 30 * MS, spread: 40 * MS, duplicate: 0.1, loss: 0.1, burst: 1.0, ..Path::default() };
    let wires = path.carry(&mut rng, wires);
    let mut r = Receiver::new(Codec::Opus, &[A]);
    r.run(&sent, &wires);
    assert_eq!(r.delays.len(), r.arrived[&A].len());
    assert!(r.delays.iter().all(|us| (30_000..70_000).contains(us)));
}

/// RTP counts against sets; frames against lists of their packets; freezes against the rule on all frame times.
#[test]
fn rtp_counts_frames_and_freezes() {
    let mut frozen = 0;
    for seed in 0..1500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let until = START + rng.random_range(1..12) * S;
        let sent = send(&mut rng, codec, A, START, until, &[]);
        let mut server = Server::new(&mut rng, 3);
        server.hides = false;
        let wires: Vec<Wire> = sent.iter().map(|m| server.forward(m)).collect();
        let wires = Path::random(&mut rng).carry(&mut rng, wires);
        let Some(first) = wires.iter().find(|w| !w.rtx) else { continue };

        // By counters, which do not wrap; the first packet can be preceded by up to 100.
        let count = |w: &Wire| w.media.as_ref().unwrap().count;
        let (mut lowest, mut highest) = (count(first), 0);
        let (mut seen, mut by_itself) = (HashSet::new(), 0);
        let (mut duplicate, mut reordered, mut recovered) = (0, 0, 0);
        let mut repaired = HashSet::new();
        let mut frames: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        let mut complete: Vec<(u64, bool, u32)> = Vec::new();
        let size = |timestamp: u32| sent.iter().filter(|m| m.timestamp == timestamp).count();
        let sizes: HashMap<u32, usize> =
            sent.iter().map(|m| m.timestamp).collect::<HashSet<_>>().into_iter().map(|t| (t, size(t))).collect();
        let mut started = false;
        for w in &wires {
            started |= !w.rtx;
            if !started || count(w) + 100 < lowest {
                continue;
            }
            if !seen.insert(count(w)) {
                // What only RTX had brought was late.
                let late = !w.rtx && repaired.remove(&count(w));
                duplicate += i64::from(!w.rtx && !late);
                (by_itself, reordered, recovered) =
                    (by_itself + i64::from(late), reordered + i64::from(late), recovered - i64::from(late));
                continue;
            }
            if w.rtx {
                repaired.insert(count(w));
            }
            lowest = lowest.min(count(w));
            recovered += i64::from(w.rtx);
            by_itself += i64::from(!w.rtx);
            reordered += i64::from(!w.rtx && count(w) < highest);
            highest = highest.max(count(w));
            let m = w.media.as_ref().unwrap();
            let parts = frames.entry(m.timestamp).or_default();
            parts.insert(m.count);
            if parts.len() == sizes[&m.timestamp] {
                complete.push((w.at, m.key, m.timestamp));
            }
        }
        let mut r = Receiver::new(codec, &[A]);
        r.run(&sent, &wires);
        let f = &r.flow;
        let context = format!("seed {seed} {codec}");
        assert_eq!(f.rtp_expected, (highest - lowest + 1) as i64, "{context}");
        assert_eq!(f.rtp_received, by_itself, "{context}");
        assert_eq!((f.duplicate, f.reordered, f.recovered), (duplicate, reordered, recovered), "{context}");
        assert_eq!(f.received, wires.iter().filter(|w| !w.rtx).count() as i64, "{context}");
        assert_eq!(f.received_bytes, f.received * 15, "{context}");
        if codec == Codec::Opus {
            assert_eq!(f.frames, 0);
            continue;
        }
        assert_eq!(f.frames, complete.len() as i64, "{context}");
        assert_eq!(f.key_frames, complete.iter().filter(|c| c.1).count() as i64, "{context}");
        let begin = complete.iter().position(|c| c.1);
        assert_eq!(r.streams[&3].first_frame_ns(), begin.map(|i| complete[i].0), "{context}");
        let last_at = sent.iter().map(|m| m.at).chain(wires.iter().map(|w| w.at)).max().unwrap();
        let times: Vec<u64> = begin.map_or(vec![], |i| complete[i..].iter().map(|c| c.0).collect());
        assert_eq!(f.freezes, freezes(&times, last_at + S), "{context}");
        frozen += f.freezes;
    }
    assert!(frozen > 1000, "{frozen}");
}

/// The webrtc-stats rule on a list of frame times with its end.
fn freezes(times: &[u64], end: u64) -> i64 {
    let mut all = times.to_vec();
    all.push(end);
    let intervals: Vec<u64> = all.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
    let is_freeze = |i: usize| {
        let last = &intervals[i.saturating_sub(30)..i];
        let n = last.len() as u64;
        let sum = last.iter().sum::<u64>();
        if n == 0 { intervals[i] >= 300_000 } else { intervals[i] * n >= (3 * sum).max(sum + 150_000 * n) }
    };
    (0..intervals.len()).filter(|i| is_freeze(*i)).count() as i64
}

/// NACKs that the server answers, as RTX or with the identical packet: everything comes in the end, and each packet
/// that a retransmission brought is counted as recovered, each late one as reordered.
#[test]
fn what_is_asked_for_is_recovered() {
    let mut recovered = 0;
    for seed in 0..1500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = [Codec::Vp8, Codec::H264][seed as usize % 2];
        // Up to the second key frame, at which the list is cleared.
        let sent = send(&mut rng, codec, A, START, START + 900 * MS, &[]);
        let mut server = Server::new(&mut rng, 3);
        let rtt = rng.random_range(2..80u64);
        let rtx = rng.random_ratio(1, 2);
        let wires: Vec<Wire> = sent.iter().map(|m| server.forward(m)).collect();
        // The first and the last frame come whole: they frame what is asked for.
        let (first, last) = (sent[0].timestamp, sent[sent.len() - 1].timestamp);
        let is_lost =
            |rng: &mut ChaCha8Rng, m: &Media| m.timestamp != first && m.timestamp != last && rng.random_ratio(1, 20);
        let mut by_seq: HashMap<u16, Wire> = HashMap::new();
        // (when, order, packet, as a retransmission)
        let mut queue: BTreeMap<(u64, u64), (Wire, bool)> = BTreeMap::new();
        let mut order = 0;
        for wire in &wires {
            by_seq.insert(wire.seq, wire.clone());
            if !is_lost(&mut rng, wire.media.as_ref().unwrap()) {
                order += 1;
                queue.insert((wire.at, order), (wire.clone(), false));
            }
        }
        let mut r = Receiver::new(codec, &[A]);
        let mut truth = 0;
        let mut next_poll = START;
        loop {
            let next = queue.pop_first();
            let at = next.as_ref().map_or(next_poll + 5 * MS, |((at, _), _)| *at);
            while next_poll < at {
                let now = r.origin + Duration::from_nanos(next_poll - START);
                if let Some(rx) = r.streams.get_mut(&3) {
                    let mut out = [0; 32];
                    let n = rx.take_nacks(now, Some(Duration::from_millis(rtt)), &mut out);
                    for seq in &out[..n] {
                        // One answer in ten is lost as well.
                        if rng.random_ratio(9, 10) {
                            order += 1;
                            let answer = Wire { at: next_poll + rtt * MS, rtx, ..by_seq[seq].clone() };
                            queue.insert((answer.at, order), (answer, true));
                        }
                    }
                    assert!(!rx.wants_key_frame(now), "seed {seed}: nothing is broken for good");
                }
                next_poll += 5 * MS;
            }
            let Some((_, (wire, again))) = next else {
                if next_poll > START + 3 * S {
                    break;
                }
                continue;
            };
            match r.receive(&wire) {
                Outcome::New { recovered, reordered, .. } => {
                    truth += i64::from(again);
                    assert_eq!(recovered, again, "seed {seed}");
                    assert!(!reordered);
                }
                Outcome::Duplicate => assert!(again),
                Outcome::AfterAll | Outcome::TooOld => panic!("seed {seed}"),
            }
        }
        r.finish(START + 7 * S);
        assert_eq!(r.flow.recovered, truth, "seed {seed}");
        assert_eq!(r.flow.rtp_expected, sent.len() as i64, "seed {seed}");
        assert_eq!(r.flow.rtp_received + r.flow.recovered, sent.len() as i64, "seed {seed} {codec} rtt {rtt}");
        let frames = sent.iter().filter(|m| m.marker).count();
        assert_eq!(r.flow.frames as usize, frames, "seed {seed}");
        assert_eq!(r.streams[&3].decodable_frames() as usize, frames, "seed {seed}");
        recovered += truth;
    }
    assert!(recovered > 3000, "{recovered}");
}

/// With RTX it is known what came by itself: a packet that is late counts as received and reordered, whether it had been
/// asked for or not and whether RTX had brought it before; recovered is only what never came but as RTX.
#[test]
fn with_rtx_late_packets_are_told_from_recovered_ones() {
    let (mut late_sum, mut recovered_sum, mut overtaken_sum) = (0, 0, 0);
    for seed in 0..600 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = [Codec::Vp8, Codec::H264][seed as usize % 2];
        let sent = send(&mut rng, codec, A, START, START + 900 * MS, &[]);
        let mut server = Server::new(&mut rng, 3);
        let rtt = rng.random_range(2..60u64);
        let (first, last) = (sent[0].timestamp, sent[sent.len() - 1].timestamp);
        let mut queue: BTreeMap<(u64, u64), Wire> = BTreeMap::new();
        let mut by_seq: HashMap<u16, Wire> = HashMap::new();
        let (mut order, mut highest, mut arrives) = (0u64, 0, BTreeMap::new());
        for m in &sent {
            let wire = server.forward(m);
            by_seq.insert(wire.seq, wire.clone());
            let framed = m.timestamp == first || m.timestamp == last;
            order += 1;
            let at = match rng.random_range(0..20) {
                0 if !framed => continue,
                1 if !framed => wire.at + rng.random_range(1..120) * MS,
                _ => wire.at,
            };
            queue.insert((at, order), Wire { at, ..wire });
            arrives.insert((at, order), ());
        }
        // By themselves, in the order of arrival: behind a later number or not.
        let mut late = 0;
        for (_, n) in arrives.keys() {
            late += i64::from(*n < highest);
            highest = highest.max(*n);
        }
        let came = arrives.len() as i64;
        let mut r = Receiver::new(codec, &[A]);
        r.streams.insert(3, RxStream::new(codec.kind(), codec, 3, codec.clock_rate()).with_rtx());
        let mut next_poll = START;
        let mut answered = HashMap::new();
        while let Some(((at, _), wire)) = queue.pop_first() {
            while next_poll < at {
                let now = r.origin + Duration::from_nanos(next_poll - START);
                let mut out = [0; 32];
                let n = r.streams.get_mut(&3).unwrap().take_nacks(now, Some(Duration::from_millis(rtt)), &mut out);
                for seq in &out[..n] {
                    order += 1;
                    let at = next_poll + rtt * MS;
                    queue.insert((at, order), Wire { at, rtx: true, ..by_seq[seq].clone() });
                    answered.insert(*seq, at);
                }
                next_poll += 5 * MS;
            }
            if wire.rtx {
                r.receive(&wire);
            } else {
                overtaken_sum += i64::from(answered.get(&wire.seq).is_some_and(|t| *t < wire.at));
                assert!(!matches!(r.receive(&wire), Outcome::New { recovered: true, .. }), "seed {seed}");
            }
        }
        r.finish(START + 7 * S);
        let f = &r.flow;
        assert_eq!((f.rtp_received, f.reordered, f.duplicate), (came, late, 0), "seed {seed} rtt {rtt}");
        assert!(f.recovered <= sent.len() as i64 - came, "seed {seed}");
        assert!(f.recovered >= 0 && f.rtp_received + f.recovered <= f.rtp_expected, "seed {seed}");
        late_sum += late;
        recovered_sum += f.recovered;
    }
    assert!(
        late_sum > 1000 && recovered_sum > 1000 && overtaken_sum > 100,
        "{late_sum} {recovered_sum} {overtaken_sum}"
    );
}

/// Without repair a lost packet breaks decoding until the next key frame, which is asked for, but not all the time.
#[test]
fn key_frames_are_asked_for_when_decoding_is_broken() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sent = send(&mut rng, codec, A, START, START + 4 * S, &[]);
        let mut server = Server::new(&mut rng, 3);
        let wires: Vec<Wire> = sent.iter().map(|m| server.forward(m)).collect();
        // Joins after the first key frame (0 s), loses one packet after the second one (0.99 s).
        let lost = sent.iter().find(|m| m.at > START + 1500 * MS && m.marker && !m.first).unwrap().count;
        let mut r = Receiver::new(codec, &[A]);
        let mut asked = Vec::new();
        for wire in &wires {
            let count = wire.media.as_ref().unwrap().count;
            if wire.at < START + 500 * MS || count == lost {
                continue;
            }
            r.receive(wire);
            let now = r.origin + Duration::from_nanos(wire.at - START);
            if r.streams.get_mut(&3).unwrap().wants_key_frame(now) {
                asked.push((wire.at - START) / MS);
            }
        }
        let in_time = |from: u64, to: u64| asked.iter().filter(|ms| (from..to).contains(ms)).count();
        assert!((2..=3).contains(&in_time(500, 1060)), "{codec} {asked:?}");
        assert_eq!(in_time(1060, 1600), 0, "{codec} {asked:?}");
        assert!((1..=3).contains(&in_time(1600, 2060)), "{codec} {asked:?}");
        assert_eq!(in_time(2060, 4000), 0, "{codec} {asked:?}");
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 250), "{asked:?}");
    }
}

/// Report blocks on the way, and their sums.
#[test]
fn report_blocks_follow_the_counts() {
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let sent = send(&mut rng, codec, A, START, START + 5 * S, &[]);
        let mut server = Server::new(&mut rng, 3);
        server.hides = false;
        let wires: Vec<Wire> = sent.iter().map(|m| server.forward(m)).collect();
        let path = Path { loss: 0.1, burst: 3.0, duplicate: 0.05, spread: 20 * MS, ..Path::default() };
        let wires = path.carry(&mut rng, wires);
        let mut r = Receiver::new(codec, &[A]);
        let (mut numbers, mut before) = (BTreeSet::new(), (0, 0));
        for (i, wire) in wires.iter().enumerate() {
            r.receive(wire);
            numbers.insert(wire.media.as_ref().unwrap().count);
            if i % 50 == 49 {
                let block = r.streams.get_mut(&3).unwrap().report_block(wire.at).unwrap();
                let expected = (numbers.last().unwrap() - numbers.first().unwrap() + 1) as i64;
                let received = i as i64 + 1;
                assert_eq!(i64::from(block.cumulative_lost), expected - received, "seed {seed}");
                let (of, lost) = (expected - before.0, (expected - before.0) - (received - before.1));
                let fraction = if of <= 0 || lost <= 0 { 0 } else { lost * 256 / of };
                assert_eq!(i64::from(block.fraction_lost), fraction, "seed {seed}");
                let highest = wires[..=i].iter().max_by_key(|w| w.media.as_ref().unwrap().count).unwrap().seq;
                assert_eq!(block.ext_highest_seq as u16, highest);
                before = (expected, received);
            }
        }
    }
}
