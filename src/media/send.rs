//! One outgoing stream: a clip played in a loop on an absolute schedule, paced like a browser's, stamped, and kept for
//! retransmission. Writes payloads; the RTP header, its extensions, RTX and SRTP are the caller's.
//!
//! Schedule: frame slot n is due at the stream's base time + n frame times, computed from n, so nothing drifts; the RTP
//! timestamp follows from n as well. The base lies a random part of a frame time after the given start, so that
//! streams started together do not send together. Video packets of a frame are spread by a [`Pacer`].
//!
//! A caller that is late gets the packets that are due one after another. One that was away for more than a second
//! gets no flood: slots are left out (`skipped_frames`), and the clip goes on where it was, so that what is sent still
//! decodes. Frame and packet numbers and PictureIDs never leave out anything; timestamps do.

mod history; // what was sent, to send it again
mod pacer; // spreads the packets of a frame

use self::history::{History, Sent};
use self::pacer::Pacer;
use super::clip::{Clip, Marks};
use super::stamp::Stamp;
use crate::types::Kind;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One stream being sent. All memory is taken at creation.
#[derive(Debug)]
pub struct MediaSender {
    clip: Arc<Clip>,
    run: u32,
    sender: u32,
    stream: u8,
    /// When slot 0 is due.
    base: Instant,
    /// RTP timestamp of slot 0, sequence number before the first packet's, PictureID of frame 0.
    first_timestamp: u32,
    sequence_before: u64,
    first_picture_id: u16,
    running: bool,
    /// Slot of the frame under way, else of the next frame.
    slot: u64,
    /// The same frame's place in the clip and number in the stream.
    position: usize,
    frame: u32,
    /// Packets of the frame that are out; 0 between frames.
    sent_of_frame: u32,
    key_frame_wanted: bool,
    key_frame_requested: Option<Instant>,
    packets: u64,
    octets: u64,
    skipped_frames: u64,
    pacer: Pacer,
    history: History,
}

/// A media packet to send now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Bytes of payload written.
    pub len: usize,
    /// Last packet of a video frame; never set in audio.
    pub marker: bool,
    pub seq: u16,
    /// Rollover counter of `seq` for SRTP (RFC 3711 3.3.1); begins at 0.
    pub roc: u32,
    pub timestamp: u32,
    /// When it was planned to go out.
    pub due: Instant,
    /// Belongs to a key frame (video), or is audio.
    pub key: bool,
    /// For the audio level extension (RFC 6464), -dBov: 0 loudest, 127 silence. 127 in video.
    pub audio_level: u8,
}

/// A packet to send once more: payload and every field as they were.
///
/// Without RTX the whole packet must be the same bytes, header extensions too: SRTP would use the same nonce again, and
/// GCM does not survive two different packets under one nonce.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeat {
    pub len: usize,
    pub marker: bool,
    pub seq: u16,
    pub roc: u32,
    pub timestamp: u32,
    pub audio_level: u8,
}

/// Later than this, slots are skipped.
const LATE_MAX: Duration = Duration::from_secs(1);

/// At most one key frame on request in this time, as Chromium has it; what is asked for sooner is dropped.
const KEY_FRAME_INTERVAL_MIN: Duration = Duration::from_millis(300);

/// Older packets are not sent again: no jitter buffer waits for them.
const REPEAT_AGE_MAX: Duration = Duration::from_secs(3);

impl MediaSender {
    /// A stream that is not running yet. `run` and `sender` (a [`crate::types::LegId`]) and `stream` (0 audio, 1 video)
    /// go into the stamps. `seed` gives first sequence number (below 2^15, so that a receiver that misses the first
    /// packets still guesses the rollover counter right), first timestamp and PictureID, the phase of the schedule, and
    /// where in the clip to begin (video: at a key frame). No slot is before `start`.
    pub fn new(clip: Arc<Clip>, run: u32, sender: u32, stream: u8, seed: u64, start: Instant) -> MediaSender {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let frame_ns = frame_offset_ns(&clip, 1);
        let anywhere = (random.next_u64() % clip.frames().len() as u64) as usize;
        let paced = clip.codec().kind() == Kind::Video;
        MediaSender {
            run,
            sender,
            stream,
            base: start + Duration::from_nanos(random.next_u64() % frame_ns.max(1)),
            first_timestamp: random.next_u32(),
            sequence_before: random.next_u64() % 0x7fff,
            first_picture_id: random.next_u32() as u16,
            running: false,
            slot: 0,
            position: clip.key_frame_from(anywhere),
            frame: 0,
            sent_of_frame: 0,
            key_frame_wanted: false,
            key_frame_requested: None,
            packets: 0,
            octets: 0,
            skipped_frames: 0,
            pacer: Pacer::new(paced.then(|| clip.payload_bitrate())),
            history: History::new(clip.busiest_second()),
            clip,
        }
    }

    /// Begins, or goes on after [`MediaSender::stop`], with the first slot from `now` on.
    pub fn start(&mut self, now: Instant) {
        if self.running {
            return;
        }
        self.running = true;
        if self.sent_of_frame == 0 {
            let slot = self.slot_at(now);
            let next = if self.slot_due(slot) < now { slot + 1 } else { slot };
            self.slot = self.slot.max(next);
        }
    }

    /// Begins no further frame. A frame under way is finished: receivers could not decode the next ones without it.
    pub fn stop(&mut self) {
        self.running = false;
    }

    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Planned time of the next packet; `None` when stopped.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.base + Duration::from_nanos(self.pacer.release(frame_offset_ns(&self.clip, self.slot)));
        (self.running || self.sent_of_frame > 0).then_some(due)
    }

    /// Writes the payload of the next packet, stamp included, if one is due. Call again until `None`.
    /// `buf` must hold [`super::clip::PAYLOAD_MAX`] bytes.
    pub fn next(&mut self, now: Instant, now_realtime_ns: u64, buf: &mut [u8]) -> Option<Outgoing> {
        if self.next_due()? > now {
            return None;
        }
        if self.sent_of_frame == 0 {
            self.begin_frame(now);
        }
        let due = self.next_due()?;
        let frame = self.clip.frames()[self.position];
        let packets = frame.packets();
        let packet = packets.start + self.sent_of_frame;
        let sent = Sent {
            sent_ns: now_realtime_ns,
            at_ms: self.elapsed(now).as_millis() as u32,
            timestamp: self.timestamp_of_slot(),
            frame: self.frame,
            packet,
        };
        self.packets += 1;
        self.history.push(self.packets, sent);
        let len = self.write(self.packets, &sent, buf);
        self.octets += len as u64;
        self.pacer.sent(frame_offset_ns(&self.clip, self.slot), len);

        let last = packet + 1 == packets.end;
        if last {
            self.sent_of_frame = 0;
            self.frame = self.frame.wrapping_add(1);
            self.slot += 1;
            self.position = self.clip.following(self.position);
        } else {
            self.sent_of_frame += 1;
        }
        let index = self.sequence_before + self.packets;
        let marker = last && self.clip.codec().kind() == Kind::Video;
        let (seq, roc) = (index as u16, (index >> 16) as u32);
        let (key, audio_level) = (frame.key, frame.audio_level);
        Some(Outgoing { len, marker, seq, roc, timestamp: sent.timestamp, due, key, audio_level })
    }

    /// Writes the payload of the packet that had sequence number `seq`, byte for byte as it was, stamp included.
    /// `None` if it was never sent, or more than about a second of packets or 3 s ago.
    pub fn repeat(&self, now: Instant, seq: u16, buf: &mut [u8]) -> Option<Repeat> {
        let last = self.sequence_before + self.packets;
        let back = u64::from((last as u16).wrapping_sub(seq));
        let number = self.packets.checked_sub(back).filter(|n| *n > 0)?;
        let sent = *self.history.get(number, self.packets)?;
        let age_ms = (self.elapsed(now).as_millis() as u32).wrapping_sub(sent.at_ms);
        if u128::from(age_ms) > REPEAT_AGE_MAX.as_millis() {
            return None;
        }
        let len = self.write(number, &sent, buf);
        let frame = self.clip.frame_of(sent.packet);
        let marker = sent.packet + 1 == frame.packets().end && self.clip.codec().kind() == Kind::Video;
        let index = self.sequence_before + number;
        let (seq, roc) = (index as u16, (index >> 16) as u32);
        Some(Repeat { len, marker, seq, roc, timestamp: sent.timestamp, audio_level: frame.audio_level })
    }

    /// The next frame will be a key frame: the clip jumps to its next one, while frame numbers, timestamps and
    /// PictureIDs rise as always. Ignored in audio, and within 300 ms of the last request that was not.
    pub fn request_key_frame(&mut self, now: Instant) {
        let recently = |at: Instant| now.checked_duration_since(at).is_none_or(|since| since < KEY_FRAME_INTERVAL_MIN);
        if self.clip.codec().kind() == Kind::Audio || self.key_frame_requested.is_some_and(recently) {
            return;
        }
        self.key_frame_requested = Some(now);
        self.key_frame_wanted = true;
    }

    pub fn clip(&self) -> &Arc<Clip> {
        &self.clip
    }

    /// Where in the clip the next frame is, or the one under way.
    pub fn clip_position(&self) -> usize {
        self.position
    }

    /// Media packets sent, repeats not counted: the number in the last stamp.
    pub fn packets_sent(&self) -> u64 {
        self.packets
    }

    /// Payload bytes of these, for the sender's octet count of an SR (RFC 3550 6.4.1).
    pub fn octets_sent(&self) -> u64 {
        self.octets
    }

    /// Sequence number of the last packet; before the first packet, the one before it.
    pub fn seq(&self) -> u16 {
        (self.sequence_before + self.packets) as u16
    }

    /// Slots left out because the caller came more than a second late.
    pub fn skipped_frames(&self) -> u64 {
        self.skipped_frames
    }

    /// The RTP clock at `now`, for an SR: frames that are captured now would have this timestamp.
    pub fn rtp_timestamp_at(&self, now: Instant) -> u32 {
        let rate = u128::from(self.clip.codec().clock_rate());
        let ticks = |d: Duration| (d.as_nanos() * rate / 1_000_000_000) as u32;
        match now.checked_duration_since(self.base) {
            Some(after) => self.first_timestamp.wrapping_add(ticks(after)),
            None => self.first_timestamp.wrapping_sub(ticks(self.base - now)),
        }
    }

    /// Decides which frame of the clip goes into which slot, now that one is due.
    fn begin_frame(&mut self, now: Instant) {
        if now.saturating_duration_since(self.slot_due(self.slot)) > LATE_MAX {
            let current = self.slot_at(now).max(self.slot);
            self.skipped_frames += current - self.slot;
            self.slot = current;
            self.pacer.reset();
        }
        if std::mem::take(&mut self.key_frame_wanted) {
            self.position = self.clip.key_frame_from(self.position);
        }
    }

    /// One way for the first time and for repeats, so that they can't differ.
    fn write(&self, number: u64, sent: &Sent, buf: &mut [u8]) -> usize {
        let stamp = Stamp {
            run: self.run,
            sender: self.sender,
            stream: self.stream,
            frame: sent.frame,
            packet: number as u32,
            sent_ns: sent.sent_ns,
        };
        let picture_id = self.first_picture_id.wrapping_add(sent.frame as u16);
        self.clip.write(sent.packet, &Marks { stamp, picture_id }, buf)
    }

    fn timestamp_of_slot(&self) -> u32 {
        let ticks = self.slot.wrapping_mul(u64::from(self.clip.frame_ticks()));
        self.first_timestamp.wrapping_add(ticks as u32)
    }

    fn slot_due(&self, slot: u64) -> Instant {
        self.base + Duration::from_nanos(frame_offset_ns(&self.clip, slot))
    }

    /// The last slot that is due at `now`; 0 before the first.
    fn slot_at(&self, now: Instant) -> u64 {
        let ticks = self.elapsed(now).as_nanos() * u128::from(self.clip.codec().clock_rate()) / 1_000_000_000;
        let slot = (ticks / u128::from(self.clip.frame_ticks())) as u64;
        // Rounding down the ticks may miss the slot that begins just now.
        if self.slot_due(slot + 1) <= now { slot + 1 } else { slot }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.base)
    }
}

/// Time from slot 0 to `slot` in ns, exact to a nanosecond however large.
fn frame_offset_ns(clip: &Clip, slot: u64) -> u64 {
    let rate = u64::from(clip.codec().clock_rate());
    let ticks = slot * u64::from(clip.frame_ticks());
    ticks / rate * 1_000_000_000 + ticks % rate * 1_000_000_000 / rate
}

#[cfg(test)]
mod tests {
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
        run.sender.slot += day - 1;
        run.now = run.sender.next_due().unwrap();
        let (out, _) = run.step();
        assert_eq!(out.due - first.due, Duration::from_secs(24 * 3600));
        assert_eq!(out.timestamp, first.timestamp.wrapping_add((day * 960) as u32));
        let mut video = Run::new(VP8, 1);
        let first = video.step().0;
        video.sender.slot = 30 * 3600 * 24;
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
                    assert_eq!((r.marker, r.audio_level), (out.marker, out.audio_level));
                }
            }
        }
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
}
