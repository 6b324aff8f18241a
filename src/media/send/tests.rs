//! The sending stream on a clock that jumps.

use super::*;
use crate::media::clip::{ClipLibrary, PAYLOAD_MAX};
use crate::media::stamp::{self, Found};
use crate::types::{Bitrate, Codec, Encoding};
use std::sync::LazyLock;

static LIBRARY: LazyLock<ClipLibrary> = LazyLock::new(|| ClipLibrary::load().unwrap());

const AUDIO: (Codec, u64) = (Codec::Opus, 32_000);
const VP8: (Codec, u64) = (Codec::Vp8, 500_000);
const H264: (Codec, u64) = (Codec::H264, 1_500_000);
/// What the stamps say the time is at `start`.
const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// A sender and a clock that jumps to whatever is due.
struct Run {
    start: Instant,
    now: Instant,
    sender: MediaSender,
    buf: [u8; PAYLOAD_MAX],
}

impl Run {
    fn new((codec, bits): (Codec, u64), seed: u64) -> Run {
        let clip = LIBRARY.clip(Encoding { codec, bitrate: Bitrate(bits) }).unwrap();
        let start = Instant::now();
        let mut sender = MediaSender::new(clip, 77, 5, 1, seed, start);
        assert_eq!(sender.next_due(), None);
        sender.start(start);
        Run { start, now: start, sender, buf: [0; PAYLOAD_MAX] }
    }

    fn realtime_ns(&self) -> u64 {
        EPOCH_NS + (self.now - self.start).as_nanos() as u64
    }

    /// Sends what is due now.
    fn poll(&mut self) -> Option<(Outgoing, Vec<u8>)> {
        let out = self.sender.next(self.now, self.realtime_ns(), &mut self.buf)?;
        Some((out, self.buf[..out.len].to_vec()))
    }

    /// Sleeps until the next packet is due and sends it.
    fn step(&mut self) -> (Outgoing, Vec<u8>) {
        self.now = self.now.max(self.sender.next_due().unwrap());
        let (out, payload) = self.poll().unwrap();
        assert!(out.due <= self.now);
        (out, payload)
    }

    fn steps(&mut self, time: Duration) -> Vec<(Outgoing, Vec<u8>)> {
        let until = self.now + time;
        let mut all = Vec::new();
        while self.sender.next_due().is_some_and(|due| due <= until) {
            all.push(self.step());
        }
        self.now = until;
        all
    }

    fn stamps(&self, packets: &[(Outgoing, Vec<u8>)]) -> Vec<Stamp> {
        let found = packets.iter().map(|(_, payload)| stamp::find(self.sender.clip().codec(), payload));
        found.filter_map(|f| if let Found::Stamp(s) = f { Some(s) } else { None }).collect()
    }
}

/// Payloads of whole frames, by timestamp.
fn frames(packets: &[(Outgoing, Vec<u8>)]) -> Vec<&[(Outgoing, Vec<u8>)]> {
    packets.chunk_by(|a, b| a.0.timestamp == b.0.timestamp).collect()
}

#[test]
fn rate_is_the_clips_over_whole_rounds() {
    for encoding in LIBRARY.encodings() {
        let mut run = Run::new((encoding.codec, encoding.bitrate.0), 3);
        let time = run.sender.clip().duration() * 3;
        let packets = run.steps(time);
        let bits = packets.iter().map(|(out, _)| out.len as f64 * 8.0).sum::<f64>() / time.as_secs_f64();
        let nominal = run.sender.clip().payload_bitrate();
        assert!((bits - nominal).abs() <= 0.01 * nominal, "{encoding}: {bits} of {nominal}");
        let rate = packets.len() as f64 / time.as_secs_f64();
        let nominal = LIBRARY.packets_per_second(encoding).unwrap();
        assert!((rate - nominal).abs() <= 0.01 * nominal, "{encoding}: {rate} of {nominal} packets/s");
        assert_eq!(run.sender.packets_sent(), packets.len() as u64);
        assert_eq!(run.sender.octets_sent(), packets.iter().map(|(out, _)| out.len as u64).sum::<u64>());
    }
}

#[test]
fn no_drift_in_a_day() {
    let mut run = Run::new(AUDIO, 1);
    let first = run.step().0;
    let day = 24 * 3600 * 50;
    run.sender.go_to(run.sender.slot + day - 1);
    run.now = run.sender.next_due().unwrap();
    let (out, _) = run.step();
    assert_eq!(out.due - first.due, Duration::from_secs(24 * 3600));
    assert_eq!(out.timestamp, first.timestamp.wrapping_add((day * 960) as u32));
    let mut video = Run::new(VP8, 1);
    let first = video.step().0;
    video.sender.go_to(30 * 3600 * 24);
    video.sender.sent_of_frame = 0;
    let due = video.sender.next_due().unwrap();
    assert_eq!(due - first.due, Duration::from_secs(24 * 3600));
}

#[test]
fn sequence_timestamps_and_stamps_rise_by_one_over_the_wraps() {
    for (kind, seed) in [(AUDIO, 1), (VP8, 2), (H264, 3)] {
        let mut run = Run::new(kind, seed);
        let ticks = run.sender.clip().frame_ticks();
        // Both wraps near: of the timestamp and, with the 70,000 packets below, of the sequence number.
        run.sender.first_timestamp = u32::MAX - 100 * ticks;
        let mut before: Option<Outgoing> = None;
        let mut number = 0;
        let mut frame = None;
        for _ in 0..70_000 {
            let (out, payload) = run.step();
            number += 1;
            if let Some(b) = before {
                let index = |o: &Outgoing| u64::from(o.roc) << 16 | u64::from(o.seq);
                assert_eq!(index(&out), index(&b) + 1);
                let same_frame = out.timestamp == b.timestamp;
                assert!(same_frame || out.timestamp == b.timestamp.wrapping_add(ticks));
                assert_eq!(same_frame, !b.marker && kind != AUDIO);
                assert!(out.due >= b.due);
            }
            if let Found::Stamp(s) = stamp::find(kind.0, &payload) {
                assert_eq!((s.run, s.sender, s.stream, s.packet), (77, 5, 1, number));
                assert_eq!(s.frame, frame.map_or(0, |f| f + 1));
                assert_eq!(s.sent_ns, run.realtime_ns());
                frame = Some(s.frame);
            }
            before = Some(out);
        }
        assert_eq!(before.unwrap().roc, 1);
        assert_eq!(u64::from(before.unwrap().seq) | 1 << 16, run.sender.sequence_before + 70_000);
        assert_eq!(run.sender.seq(), before.unwrap().seq);
    }
}

#[test]
fn every_frame_carries_one_stamp_where_it_belongs() {
    for kind in [AUDIO, VP8, H264] {
        let mut run = Run::new(kind, 9);
        let packets = run.steps(Duration::from_secs(5));
        for frame in frames(&packets) {
            let stamped: Vec<bool> =
                frame.iter().map(|(_, p)| matches!(stamp::find(kind.0, p), Found::Stamp(_))).collect();
            let expected = if kind == VP8 { stamped.len() - 1 } else { 0 };
            assert_eq!(stamped.iter().filter(|s| **s).count(), 1);
            assert!(stamped[expected]);
        }
    }
}

#[test]
fn picture_ids_rise_by_one_over_their_wrap() {
    let mut run = Run::new(VP8, 4);
    run.sender.first_picture_id = 0xffff - 50;
    let packets = run.steps(Duration::from_secs(10));
    let ids: Vec<u16> = frames(&packets)
        .iter()
        .map(|frame| {
            let id = |(_, p): &(Outgoing, Vec<u8>)| u16::from_be_bytes([p[2], p[3]]);
            assert!(frame.iter().all(|p| id(p) == id(&frame[0]) && p.1[2] & 0x80 != 0));
            id(&frame[0]) & 0x7fff
        })
        .collect();
    assert!(ids.contains(&0x7fff) && ids.contains(&0));
    assert!(ids.windows(2).all(|w| w[1] == (w[0] + 1) & 0x7fff));
}

#[test]
fn a_repeat_is_the_same_packet() {
    for kind in [AUDIO, VP8, H264] {
        let mut run = Run::new(kind, 5);
        let second = run.sender.clip().busiest_second();
        let mut sent = Vec::new();
        let mut buf = [0; PAYLOAD_MAX];
        for n in 0..66_000 {
            sent.push(run.step());
            if n % 997 != 0 && n > 300 {
                continue;
            }
            let later = run.now + Duration::from_millis(700);
            for back in 1..=sent.len().min(second) {
                let (out, payload) = &sent[sent.len() - back];
                let r = run.sender.repeat(later, out.seq, &mut buf).unwrap();
                assert_eq!(&buf[..r.len], payload);
                assert_eq!((r.seq, r.roc, r.timestamp), (out.seq, out.roc, out.timestamp));
                assert_eq!(r.marker, out.marker);
            }
        }
    }
}

/// Between clips, everything a receiver counts by goes on, and what was sent before can still be sent again.
#[test]
fn stepping_between_clips_begins_with_a_key_frame_and_goes_on() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut run = Run::new((codec, 1_500_000), 17);
        let all: Vec<Arc<Clip>> = LIBRARY.encodings().map(|e| LIBRARY.clip(e).unwrap()).collect();
        run.sender = MediaSender::new(run.sender.clip().clone(), 77, 5, 1, 17, run.start);
        run.sender.add_steps(all);
        run.sender.start(run.start);
        let rates: Vec<u64> = run.sender.steps().iter().map(|c| c.encoding().bitrate.0).collect();
        assert_eq!(rates, [150_000, 500_000, 1_500_000], "its own codec, up to its own rate");

        let mut sent = run.steps(Duration::from_millis(1100));
        let mut buf = [0; PAYLOAD_MAX];
        for to in [1, 0, 2, 9, 0, 1] {
            let (from, asked) = (run.sender.clip().encoding(), sent.len());
            let under_way = sent.last().is_some_and(|(o, _)| !o.marker);
            run.sender.step_to(to);
            sent.extend(run.steps(Duration::from_millis(700)));
            let to = to.min(2);
            assert_eq!(run.sender.clip().encoding().bitrate.0, rates[to]);
            let first = (asked..sent.len()).find(|i| !under_way || sent[i - 1].0.marker).unwrap();
            let same = from.bitrate.0 == rates[to];
            assert!(sent[first].0.key || same, "{from} to {to}");
            let bits = sent[asked..].iter().map(|(o, _)| o.len as f64 * 8.0).sum::<f64>() / 0.7;
            let nominal = run.sender.clip().payload_bitrate();
            assert!((0.6..2.0).contains(&(bits / nominal)), "{from} to {to}: {bits} of {nominal}");
            // Packets of the clip before, too.
            let now = run.now;
            for (out, payload) in sent.iter().rev().take(100) {
                let r = run.sender.repeat(now, out.seq, &mut buf).unwrap();
                assert_eq!(&buf[..r.len], payload);
                assert_eq!((r.marker, r.seq, r.roc, r.timestamp), (out.marker, out.seq, out.roc, out.timestamp));
            }
        }
        let ticks = run.sender.clip().frame_ticks();
        let frames = frames(&sent);
        assert!(frames.windows(2).all(|w| w[1][0].0.timestamp == w[0][0].0.timestamp.wrapping_add(ticks)));
        assert!(frames.iter().all(|f| f.last().unwrap().0.marker || f.last() == sent.last()));
        assert!(sent.windows(2).all(|w| w[1].0.seq == w[0].0.seq.wrapping_add(1)));
        let stamps = run.stamps(&sent);
        assert!(stamps.windows(2).all(|w| w[1].frame == w[0].frame + 1 && w[1].packet > w[0].packet));
        if codec == Codec::Vp8 {
            let id = |(_, p): &(Outgoing, Vec<u8>)| u16::from_be_bytes([p[2], p[3]]) & 0x7fff;
            assert!(frames.windows(2).all(|w| id(&w[1][0]) == (id(&w[0][0]) + 1) & 0x7fff));
        }
        let stepped = run.sender.stepped().unwrap();
        assert_eq!((stepped.down, stepped.up), (3, 2), "from 2 to 1, 0, 2, 2, 0, 1");
        assert!(stepped.frames as usize >= frames.len() && stepped.frames <= frames.len() as u64 + 1);
        let below = 4.0 * 0.7 / (1.1 + 6.0 * 0.7);
        assert!((stepped.frames_below as f64 / stepped.frames as f64 - below).abs() < 0.03, "{stepped:?}");
    }
}

#[test]
fn a_step_that_is_taken_back_before_its_frame_is_none() {
    let mut run = Run::new(VP8, 18);
    assert_eq!((run.sender.steps().len(), run.sender.stepped()), (0, None));
    run.sender.add_steps([run.sender.clip().clone()]);
    assert_eq!(run.sender.stepped(), None, "nothing below");
    run.sender.add_steps([LIBRARY.clip(Encoding { codec: Codec::Vp8, bitrate: Bitrate(150_000) }).unwrap()]);
    run.steps(Duration::from_millis(500));
    run.sender.step_to(0);
    run.sender.step_to(1);
    run.steps(Duration::from_millis(500));
    let stepped = run.sender.stepped().unwrap();
    assert_eq!((stepped.down, stepped.up, stepped.frames_below), (0, 0, 0));
}

#[test]
fn what_is_too_old_or_was_never_sent_is_not_repeated() {
    let mut run = Run::new(VP8, 6);
    let mut buf = [0; PAYLOAD_MAX];
    let before = run.sender.seq();
    assert_eq!(run.sender.repeat(run.now, before, &mut buf), None);
    let (first, _) = run.step();
    assert!(run.sender.repeat(run.now, first.seq, &mut buf).is_some());
    assert_eq!(run.sender.repeat(run.now, before, &mut buf), None);
    assert_eq!(run.sender.repeat(run.now, first.seq.wrapping_add(1), &mut buf), None);
    assert_eq!(run.sender.repeat(run.now + Duration::from_millis(3100), first.seq, &mut buf), None, "too old");
    run.steps(Duration::from_secs(4));
    assert_eq!(run.sender.repeat(run.now, first.seq, &mut buf), None, "overwritten");
}

#[test]
fn packets_of_a_frame_are_paced() {
    for encoding in LIBRARY.encodings().filter(|e| e.codec != Codec::Opus) {
        let mut run = Run::new((encoding.codec, encoding.bitrate.0), 8);
        let pace = run.sender.clip().payload_bitrate() * 2.5;
        let base = run.sender.base;
        let packets = run.steps(Duration::from_secs(8));
        // Nowhere more than the pace and one burst allow (and the packet that overdraws it).
        for (i, (from, _)) in packets.iter().enumerate() {
            let mut bits = 0.0;
            for (out, _) in packets[i..].iter().take(40) {
                let allowed = (out.due - from.due + Duration::from_millis(5)).as_secs_f64() * pace;
                assert!(bits <= allowed * 1.001 + 1.0, "{encoding}: {bits} of {allowed}");
                bits += out.len as f64 * 8.0;
            }
        }
        // A frame never trails its slot by two frame times.
        let first = packets[0].0.timestamp;
        for (out, _) in &packets {
            let slot = u64::from(out.timestamp.wrapping_sub(first)) / 3000;
            let delay = out.due - base - Duration::from_nanos(slot * 1_000_000_000 / 30);
            assert!(delay < Duration::from_micros(66_667), "{encoding}: {delay:?}");
        }
    }
}

#[test]
fn a_late_caller_gets_what_is_due_with_its_planned_times() {
    let mut on_time = Run::new(VP8, 10);
    let mut late = Run { sender: Run::new(VP8, 10).sender, ..Run::new(VP8, 10) };
    let shift = |run: &Run, at: Instant| at - run.sender.base;
    let planned = on_time.steps(Duration::from_secs(2));
    late.now += Duration::from_millis(900);
    let mut got = Vec::new();
    while got.len() < planned.len() {
        while let Some(packet) = late.poll() {
            got.push(packet);
        }
        late.now += Duration::from_millis(7);
    }
    assert_eq!(late.sender.skipped_frames(), 0);
    for ((a, _), (b, _)) in planned.iter().zip(&got) {
        assert_eq!((a.seq, a.timestamp, a.len), (b.seq, b.timestamp, b.len));
        assert_eq!(shift(&on_time, a.due), shift(&late, b.due));
    }
}

#[test]
fn after_a_long_stall_slots_are_skipped_and_the_clip_goes_on() {
    for kind in [AUDIO, VP8] {
        let mut run = Run::new(kind, 11);
        let before = run.steps(Duration::from_millis(500));
        run.now += Duration::from_secs(10);
        let mut burst = Vec::new();
        while let Some(packet) = run.poll() {
            burst.push(packet);
        }
        let fps = if kind == AUDIO { 50 } else { 30 };
        let skipped = run.sender.skipped_frames();
        assert!((10 * fps - 2..=10 * fps).contains(&skipped), "{skipped}");
        assert!(frames(&burst).len() <= 2, "no flood");
        let after = run.steps(Duration::from_secs(1));
        let all = [before, burst, after].concat();
        let stamps = run.stamps(&all);
        assert!(stamps.windows(2).all(|w| w[1].frame == w[0].frame + 1), "no frame missing");
        let ticks = u64::from(run.sender.clip().frame_ticks());
        let span = all[all.len() - 1].0.timestamp.wrapping_sub(all[0].0.timestamp);
        let slots = frames(&all).len() as u64 - 1 + skipped;
        assert_eq!(u64::from(span), slots * ticks, "timestamps follow the clock");
    }
}

#[test]
fn a_key_frame_comes_on_request() {
    for kind in [VP8, H264] {
        let mut run = Run::new(kind, 12);
        let mut all = run.steps(Duration::from_millis(700));
        assert!(all[0].0.key, "begins with one");
        // In the middle of a frame: it is finished first.
        while all[all.len() - 1].0.marker {
            all.push(run.step());
        }
        let asked = all.len();
        run.sender.request_key_frame(run.now);
        all.extend(run.steps(Duration::from_millis(100)));
        let key = (asked..all.len()).find(|&i| all[i].0.key).unwrap();
        assert_eq!(all[asked..key].iter().filter(|(out, _)| out.marker).count(), 1, "the next frame");
        assert!(run.sender.clip_position() % 60 <= 4, "from the clip's key frame on");

        run.sender.request_key_frame(run.now);
        let soon = run.steps(Duration::from_millis(150));
        assert!(soon.iter().all(|(out, _)| !out.key || all.iter().any(|(a, _)| a.timestamp == out.timestamp)));
        run.sender.request_key_frame(run.now + Duration::from_millis(60));
        let later = run.steps(Duration::from_millis(100));
        assert!(later.iter().any(|(out, _)| out.key));

        let all = [all, soon, later].concat();
        let ticks = run.sender.clip().frame_ticks();
        let times: Vec<u32> = frames(&all).iter().map(|f| f[0].0.timestamp).collect();
        assert!(times.windows(2).all(|w| w[1] == w[0].wrapping_add(ticks)));
        assert!(run.stamps(&all).windows(2).all(|w| w[1].frame == w[0].frame + 1));
    }
}

#[test]
fn stopping_finishes_the_frame_and_starting_keeps_the_clock() {
    let mut run = Run::new(H264, 13);
    let mut all = run.steps(Duration::from_millis(500));
    while all[all.len() - 1].0.marker {
        all.push(run.step());
    }
    run.sender.stop();
    assert!(!run.sender.is_running());
    while run.sender.next_due().is_some() {
        all.push(run.step());
    }
    assert!(all[all.len() - 1].0.marker);
    run.now += Duration::from_secs(5);
    assert!(run.poll().is_none());
    run.sender.start(run.now);
    let resumed = run.now;
    let (first, payload) = run.step();
    assert!(first.due >= resumed && first.due - resumed <= Duration::from_nanos(33_333_334));
    assert_eq!(first.seq, all[all.len() - 1].0.seq.wrapping_add(1));
    assert_eq!(first.timestamp, run.sender.rtp_timestamp_at(first.due + Duration::from_nanos(1)));
    assert_eq!(run.sender.skipped_frames(), 0);
    all.push((first, payload));
    let stamps = run.stamps(&all);
    assert!(stamps.windows(2).all(|w| w[1].frame == w[0].frame + 1));
}

#[test]
fn the_rtp_clock_runs_with_the_schedule() {
    for kind in [AUDIO, VP8] {
        let mut run = Run::new(kind, 14);
        let rate = run.sender.clip().codec().clock_rate();
        for _ in 0..200 {
            let slot = run.sender.slot;
            let expected = run.sender.timestamp_of_slot();
            let at = run.sender.slot_due(slot);
            assert!(run.sender.rtp_timestamp_at(at + Duration::from_nanos(1)).wrapping_sub(expected) <= 1);
            run.step();
        }
        let base = run.sender.base;
        let second_before = run.sender.rtp_timestamp_at(base - Duration::from_secs(1));
        assert_eq!(run.sender.rtp_timestamp_at(base).wrapping_sub(second_before), rate);
    }
}

#[test]
fn seeds_spread_streams() {
    let clip = LIBRARY.clip(Encoding { codec: Codec::Opus, bitrate: Bitrate(32_000) }).unwrap();
    let now = Instant::now();
    let sender = |seed| MediaSender::new(clip.clone(), 1, 1, 0, seed, now);
    let phases: std::collections::BTreeSet<u64> = (0..1000)
        .map(|seed| {
            let s = sender(seed);
            assert!(s.sequence_before < 0x7fff);
            (s.base - now).as_millis() as u64
        })
        .collect();
    assert_eq!(phases, (0..20).collect());
    assert_eq!(sender(7).base, sender(7).base);
    assert_eq!(sender(7).first_timestamp, sender(7).first_timestamp);
    assert_ne!(sender(7).first_timestamp, sender(8).first_timestamp);
}
