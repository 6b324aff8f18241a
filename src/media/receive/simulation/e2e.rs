//! Loss end to end: exact to the packet.

use super::world::*;
use crate::media::receive::Owner;
use crate::types::Codec;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};

/// Loss on both sides, duplicates, reordering, repairs, mutes, a lost tail, a late join, padding and frames of the
/// server's own, new SSRCs: to the packet.
#[test]
fn e2e_counts_are_exact() {
    let mut cases = [0; 5];
    for seed in 0..3000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let until = START + rng.random_range(4..14) * S;
        let mute = START + rng.random_range(1000..4000) * MS;
        let muted = if rng.random_ratio(1, 3) { vec![(mute, mute + rng.random_range(100..6000) * MS)] } else { vec![] };
        // The sender began up to 3 s before this receiver came.
        let from = START - rng.random_range(0..3) * S;
        let sent = send(&mut rng, codec, A, from, until, &muted);
        let before: Vec<Media> = sent.iter().filter(|m| m.at < START).cloned().collect();
        let sent: Vec<Media> = sent.into_iter().filter(|m| m.at >= START).collect();

        let mut server = Server::new(&mut rng, 100);
        let moves = rng.random_ratio(1, 3);
        let pads = rng.random_ratio(1, 3);
        let owns = codec != Codec::Opus && rng.random_ratio(1, 4);
        let tail_lost_from = if rng.random_ratio(1, 4) { until - rng.random_range(0..3000) * MS } else { u64::MAX };
        let mut moved_at = START;
        let mut wires = Vec::new();
        for m in upstream(&mut rng, &sent) {
            if m.at >= tail_lost_from {
                break;
            }
            let far_from_end = m.at + 2 * S < until.min(tail_lost_from);
            if moves && m.first && m.at > moved_at + 2 * S && far_from_end && rng.random_ratio(1, 40) {
                let ssrc = server.ssrc + 1;
                server = Server::new(&mut rng, ssrc);
                moved_at = m.at;
                cases[1] += 1;
            }
            if owns && m.first && rng.random_ratio(1, 30) {
                for part in 0..3 {
                    let (first, marker) = (part == 0, part == 2);
                    let own = Media {
                        timestamp: m.timestamp.wrapping_sub(1000),
                        owner: B,
                        stamped: false,
                        marker,
                        first,
                        payload: payload(codec, first, false),
                        ..m.clone()
                    };
                    wires.push(server.own(m.at, Some(own)));
                    cases[2] += 1;
                }
            }
            wires.push(server.forward(&m));
            if pads && m.marker && rng.random_ratio(1, 20) {
                wires.push(server.own(m.at, None));
                cases[3] += 1;
            }
        }
        let path = Path::random(&mut rng);
        let wires = path.carry(&mut rng, wires);

        let mut r = Receiver::new(codec, &[A]);
        before.iter().for_each(|m| r.sent(m));
        r.run(&sent, &wires);
        let Some(&(first, at)) = r.first_stamp.get(&A) else { continue };
        if at > START + 4900 * MS {
            continue;
        }
        cases[0] += 1;
        let truth = r.truth(A, first);
        assert_eq!(
            r.e2e[&A], truth,
            "seed {seed} {codec} first {first} {path:?} moves {moves} pads {pads} owns {owns}"
        );
        cases[4] += u32::from(truth.0 > truth.1) as u64;
    }
    assert!(cases.iter().all(|n| *n > 300), "{cases:?}");
}

/// Nothing comes within the settle time, or ever.
#[test]
fn a_stream_that_begins_late_or_never_is_lost_from_the_settle_time_on() {
    let mut never = 0;
    for seed in 0..1500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let until = START + 12 * S;
        let sent = send(&mut rng, codec, A, START, until, &[]);
        let begins = START + rng.random_range(5600..14_000) * MS;
        let mut server = Server::new(&mut rng, 5);
        let forwarded = upstream(&mut rng, &sent).into_iter().filter(|m| m.at >= begins);
        // Whole frames, as a server begins.
        let wires: Vec<Wire> = forwarded.skip_while(|m| !m.first).map(|m| server.forward(&m)).collect();
        let path = Path::random(&mut rng).in_order();
        let wires = path.carry(&mut rng, wires);
        let mut r = Receiver::new(codec, &[A]);
        r.run(&sent, &wires);
        let base = sent.iter().filter(|m| m.at <= START + 5 * S).count() as u64;
        let (expected, received) = r.e2e[&A];
        let truth = r.truth(A, base);
        // The ledger's memory of the settle time is 100 ms coarse; what arrived is exact.
        assert!((truth.0..=truth.0 + 25).contains(&expected), "seed {seed} {codec} {expected} {truth:?}");
        assert_eq!(received, truth.1, "seed {seed} {codec}");
        if wires.is_empty() {
            never += 1;
            assert_eq!(received, 0);
            if codec == Codec::Opus {
                let silent = r.sources[&A].longest_silence_ms();
                assert!((6800..=7200).contains(&silent), "seed {seed} {silent}");
            }
        }
    }
    assert!(never > 200, "{never}");
}

/// A first packet between the settle time and the next look at the ledger.
#[test]
fn a_start_just_after_the_settle_time_is_late_too() {
    for seed in 0..1500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let sent = send(&mut rng, codec, A, START, START + 9 * S, &[]);
        let begins = START + rng.random_range(5010..5950) * MS;
        let mut server = Server::new(&mut rng, 5);
        let wires: Vec<Wire> =
            sent.iter().filter(|m| m.at >= begins).skip_while(|m| !m.first).map(|m| server.forward(m)).collect();
        let path = Path { loss: 0.05, burst: 2.0, spread: 30 * MS, ..Path::default() };
        let wires = path.carry(&mut rng, wires);
        let mut r = Receiver::new(codec, &[A]);
        r.run(&sent, &wires);
        let base = sent.iter().filter(|m| m.at <= START + 5 * S).count() as u64;
        let truth = r.truth(A, base);
        let (expected, received) = r.e2e[&A];
        assert!((truth.0..=truth.0 + 25).contains(&expected), "seed {seed} {codec} {expected} {truth:?}");
        assert_eq!(received, truth.1, "seed {seed} {codec}");
    }
}

/// The server moves two senders between its slots: each keeps its own count.
#[test]
fn slots_that_change_their_sender() {
    let mut swaps = 0;
    for seed in 0..1000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let until = START + 10 * S;
        let of_a = send(&mut rng, codec, A, START, until, &[]);
        let of_b = send(&mut rng, codec, B, START, until, &[]);
        let mut slots = [Server::new(&mut rng, 10), Server::new(&mut rng, 11)];
        slots.iter_mut().for_each(|slot| slot.hides = true);
        let mut all: Vec<Media> = of_a.iter().chain(&of_b).cloned().collect();
        all.sort_by_key(|m| m.at);
        let swap_at = START + rng.random_range(3000..7000) * MS;
        let mut swapped: [Option<u32>; 2] = [None; 2];
        let mut wires = Vec::new();
        // Each sender goes to the other slot with its first frame after `swap_at`, which arrives whole. Packets of a
        // frame do not mix with the other sender's on one slot, as a server that switches at frames does.
        let of = |m: &Media| (m.owner.sender - 1) as usize;
        let mut frames: Vec<Vec<Media>> = Vec::new();
        for sender in 0..2 {
            for m in all.iter().filter(|m| of(m) == sender) {
                if m.first { frames.push(vec![m.clone()]) } else { frames.last_mut().unwrap().push(m.clone()) }
            }
        }
        frames.sort_by_key(|frame| frame[0].at);
        for frame in &frames {
            let sender = of(&frame[0]);
            let goes = frame[0].at >= swap_at;
            let new_here = goes && swapped[sender].is_none();
            if goes {
                swapped[sender].get_or_insert(frame[0].timestamp);
            }
            let slot = &mut slots[if goes { 1 - sender } else { sender }];
            for m in frame {
                // The last of a frame when the whole frame is there.
                let at = frame.last().unwrap().at;
                wires.push(Wire { at, sure: new_here, ..slot.forward(m) });
            }
        }
        swaps += swapped.iter().flatten().count();
        let mut path = Path::random(&mut rng).in_order();
        path.duplicate = 0.0;
        wires.sort_by_key(|w| w.at);
        let wires = path.carry(&mut rng, wires);
        let mut r = Receiver::new(codec, &[A, B]);
        r.run(&all, &wires);
        for owner in [A, B] {
            let truth = r.truth(owner, r.first_stamp[&owner].0);
            assert_eq!(r.e2e[&owner], truth, "seed {seed} {codec} {owner:?} {path:?}");
        }
    }
    assert_eq!(swaps, 2000);
}

/// The server changes between layers of one sender: each counts from its first stamp to its last, what it did not
/// forward is no loss.
#[test]
fn layers_are_rebased() {
    for seed in 0..1000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = [Codec::Vp8, Codec::H264][seed as usize % 2];
        let until = START + 12 * S;
        let high = send(&mut rng, codec, A, START, until, &[]);
        let low = send(&mut rng, codec, A_LOW, START, until, &[]);
        let mut all: Vec<Media> = high.iter().chain(&low).cloned().collect();
        all.sort_by_key(|m| m.at);
        let (down, up) = (START + rng.random_range(2000..5000) * MS, START + rng.random_range(6000..9000) * MS);
        let mut server = Server::new(&mut rng, 3);
        server.hides = true;
        let mut wires: Vec<Wire> = Vec::new();
        for m in &all {
            let wanted = if (down..up).contains(&m.at) { A_LOW } else { A };
            if m.owner == wanted {
                wires.push(server.forward(m));
            }
        }
        let path = Path::random(&mut rng).in_order();
        let wires = path.carry(&mut rng, wires);
        let mut r = Receiver::new(codec, &[A]);
        r.run(&all, &wires);

        // Stretches of one layer, from stamp to stamp in order of arrival.
        let mut truth: BTreeMap<Owner, (i64, i64)> = BTreeMap::new();
        let mut stretches: Vec<(Owner, u64, u64)> = Vec::new();
        let mut seen = HashSet::new();
        for m in wires.iter().filter_map(|w| w.media.as_ref()) {
            if !m.stamped || !seen.insert((m.owner, m.count)) {
                continue;
            }
            match stretches.last_mut().filter(|s| s.0 == m.owner) {
                Some(stretch) => stretch.2 = stretch.2.max(m.count),
                None => stretches.push((m.owner, m.count, m.count)),
            }
        }
        assert_eq!(stretches.len(), 3);
        stretches[2].2 = r.ledgers[&A].latest();
        for (owner, from, to) in stretches {
            let arrived = r.arrived[&owner].iter().filter(|count| (from + 1..=to).contains(count)).count();
            let sum = truth.entry(owner).or_default();
            (sum.0, sum.1) = (sum.0 + (to - from) as i64, sum.1 + arrived as i64);
        }
        assert_eq!(r.e2e[&A], truth[&A], "seed {seed} {codec} {path:?}");
        assert_eq!(r.e2e[&A_LOW], truth[&A_LOW], "seed {seed} {codec} {path:?}");
    }
}

/// The receiver switches the stream off and on again: what was sent between is no loss, what was in flight counts.
#[test]
fn a_subscription_that_ends_and_begins_again() {
    for seed in 0..1000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let sent = send(&mut rng, codec, A, START, START + 10 * S, &[]);
        let off = START + rng.random_range(3000..4000) * MS;
        let on = off + rng.random_range(50..3000) * MS;
        let mut server = Server::new(&mut rng, 3);
        server.hides = true;
        let forwarded = sent.iter().filter(|m| m.at < off || m.at >= on);
        let wires: Vec<Wire> = forwarded.map(|m| server.forward(m)).collect();
        let path = Path::random(&mut rng);
        let wires = path.carry(&mut rng, wires);
        let is_old = |m: &Media| m.at < off;
        let mut r = Receiver::new(codec, &[A]);
        let mut resumed = false;
        let mut finished = false;
        let mut first_again = None;
        let mut events: Vec<(u64, bool, usize)> = sent.iter().enumerate().map(|(i, m)| (m.at, true, i)).collect();
        events.extend(wires.iter().enumerate().map(|(i, w)| (w.at, false, i)));
        events.sort_unstable();
        for (at, is_sent, i) in events {
            if !finished && at >= off {
                finished = true;
                r.sources.get_mut(&A).unwrap().finish(&r.ledgers[&A], off);
            }
            if !resumed && at >= on {
                resumed = true;
                r.sources.get_mut(&A).unwrap().resume(on);
            }
            if is_sent {
                r.sent(&sent[i]);
            } else {
                let m = wires[i].media.clone().unwrap();
                if m.stamped && !is_old(&m) {
                    first_again.get_or_insert(m.count);
                }
                r.receive(&wires[i]);
            }
        }
        r.finish(START + 12 * S);
        let end = sent.iter().filter(|m| is_old(m)).count() as u64;
        let first = r.first_stamp[&A].0;
        let (again, last) = (first_again.unwrap(), sent.len() as u64);
        let arrived = |from: u64, to: u64| r.arrived[&A].iter().filter(|c| (from + 1..=to).contains(c)).count() as i64;
        // In flight for so long that the next subscription had begun: these are counted as lost.
        let seen: HashSet<u64> = wires.iter().filter(|w| w.at < on).map(|w| w.media.as_ref().unwrap().count).collect();
        let too_late =
            r.arrived[&A].iter().filter(|c| (first + 1..=end).contains(c) && !seen.contains(c)).count() as i64;
        let truth = ((end - first + last - again) as i64, arrived(first, end) - too_late + arrived(again, last));
        assert_eq!(r.e2e[&A], truth, "seed {seed} {codec} {path:?}");
    }
}

/// Packets that are under way longer than the grace time count as lost until they come, and not in the end.
#[test]
fn a_delay_beyond_the_grace_time_is_corrected() {
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let sent = send(&mut rng, codec, A, START, START + 8 * S, &[]);
        let mut server = Server::new(&mut rng, 3);
        // The server holds everything back from second 3 to 6.
        let (hold, release) = (START + 3 * S, START + 6 * S);
        let held = |m: &Media| if (hold..release).contains(&m.at) { release } else { m.at };
        let wires: Vec<Wire> = sent.iter().map(|m| Wire { at: held(m), ..server.forward(m) }).collect();
        let mut r = Receiver::new(codec, &[A]);
        r.run_to(&sent, &wires, START + 5500 * MS);
        let (expected, received) = r.e2e[&A];
        let unseen = sent.iter().filter(|m| (hold..START + 3900 * MS).contains(&m.at)).count() as i64;
        assert!(expected - received >= unseen - 20, "seed {seed} {codec}: {expected} {received} {unseen}");
        let mut r = Receiver::new(codec, &[A]);
        r.run(&sent, &wires);
        assert_eq!(r.e2e[&A], r.truth(A, r.first_stamp[&A].0), "seed {seed} {codec}");
        assert_eq!(r.e2e[&A].0, r.e2e[&A].1);
        let silent = r.sources[&A].longest_silence_ms();
        assert!(codec != Codec::Opus || (2980..3021).contains(&silent), "seed {seed} {silent}");
    }
}

/// The server starts its numbers again on the same SSRC: nothing of it is loss.
#[test]
fn a_restart_of_the_numbers_loses_nothing() {
    for seed in 0..600 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let codec = codec_of(seed);
        let sent = send(&mut rng, codec, A, START, START + 6 * S, &[]);
        let mut server = Server::new(&mut rng, 3);
        let restart = rng.random_range(50..sent.len() - 50);
        let wires: Vec<Wire> = sent
            .iter()
            .enumerate()
            .map(|(i, m)| {
                if i == restart {
                    server.seq = server.seq.wrapping_add(rng.random_range(5000..60_000));
                }
                server.forward(m)
            })
            .collect();
        let mut r = Receiver::new(codec, &[A]);
        r.run(&sent, &wires);
        assert_eq!(r.e2e[&A], r.truth(A, r.first_stamp[&A].0), "seed {seed} {codec}");
        assert_eq!(r.flow.rtp_expected, sent.len() as i64, "seed {seed} {codec}");
        assert_eq!(r.flow.rtp_received, sent.len() as i64, "seed {seed} {codec}");
    }
}
