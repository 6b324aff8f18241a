//! One outgoing stream: a clip played in a loop on an absolute schedule, paced like a browser's, stamped, and kept for
//! retransmission. Writes payloads; the RTP header, its extensions, RTX and SRTP are the caller's.
//!
//! Schedule: frame slot n is due at the stream's base time + n frame times, computed from n, so nothing drifts; the RTP
//! timestamp follows from n as well. The base lies a random part of a frame time after the given start, so that
//! streams started together do not send together. Video packets of a frame are spread by a `Pacer`.
//!
//! A caller that is late gets the packets that are due one after another. One that was away for more than a second
//! gets no flood: slots are left out (`skipped_frames`), and the clip goes on where it was, so that what is sent still
//! decodes. Frame and packet numbers and PictureIDs never leave out anything; timestamps do.

mod history; // what was sent, to send it again
mod ladder; // clips to step between
mod pacer; // spreads the packets of a frame
mod voice; // speech, silence and DTX

pub use self::ladder::Stepped;
pub use self::voice::{BACKGROUND_DBOV, Silence, Voice, WhileMuted};

use self::history::{History, Place, Sent};
use self::ladder::Ladder;
use self::pacer::Pacer;
use self::voice::Play;
use super::clip::{Clip, Marks};
use super::red;
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
    /// Slot of the frame under way, else of the next frame, and when it is due after `base`.
    slot: u64,
    slot_ns: u64,
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
    /// Audio that is not just the clip, and what `slot` carries then.
    voice: Option<Box<Voice>>,
    play: Play,
    /// Payload type of the frames inside redundant packets, where these are sent.
    red: Option<u8>,
    /// Where it may step to clips of less bits.
    ladder: Option<Box<Ladder>>,
}

/// A media packet to send now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Bytes of payload written.
    pub len: usize,
    /// Last packet of a video frame; in audio, the first after a silence that was not sent.
    pub marker: bool,
    pub seq: u16,
    /// Rollover counter of `seq` for SRTP (RFC 3711 3.3.1); begins at 0.
    pub roc: u32,
    pub timestamp: u32,
    /// When it was planned to go out.
    pub due: Instant,
    /// Belongs to a key frame (video), or is audio.
    pub key: bool,
    /// Octet of the audio level extension (RFC 6464 3): V bit, and -dBov from 0, loudest, to 127. 127 in video.
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
}

/// Later than this, slots are skipped.
const LATE_MAX: Duration = Duration::from_secs(1);

/// At most one key frame on request in this time, as Chromium has it; what is asked for sooner is dropped.
const KEY_FRAME_INTERVAL_MIN: Duration = Duration::from_millis(300);

/// Older packets are not sent again: no jitter buffer waits for them.
const REPEAT_AGE_MAX: Duration = Duration::from_secs(3);

/// Voice activity in the audio level's octet (RFC 6464 3).
const VOICE_BIT: u8 = 0x80;

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
            slot_ns: 0,
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
            voice: None,
            play: Play::default(),
            red: None,
            ladder: None,
            clip,
        }
    }

    /// Video, before the first packet: may step down to these clips, and up again, by [`MediaSender::step_to`]. Those of
    /// another codec or frame rate, and those of no fewer bits than its own, are left out.
    pub fn add_steps(&mut self, lower: impl IntoIterator<Item = Arc<Clip>>) {
        debug_assert!(self.packets == 0 && self.clip.codec().kind() == Kind::Video);
        self.ladder = Ladder::new(lower, &self.clip).map(Box::new);
    }

    /// The clips that it steps between, the lowest first; none where it sends the same one all the time.
    pub fn steps(&self) -> &[Arc<Clip>] {
        self.ladder.as_deref().map_or(&[], Ladder::clips)
    }

    /// From the next frame on, clip number `to` of [`MediaSender::steps`] is sent, beginning with a key frame. Frame and
    /// packet numbers, timestamps and PictureIDs go on.
    pub fn step_to(&mut self, to: usize) {
        if let Some(ladder) = &mut self.ladder {
            ladder.wanted = to.min(ladder.clips().len() - 1);
        }
    }

    /// `None` where it sends the same clip all the time.
    pub fn stepped(&self) -> Option<Stepped> {
        self.ladder.as_deref().map(Ladder::stepped)
    }

    /// Audio, before the first packet: speaks by this from now on. `epoch` is when the room's conversation began.
    pub fn speak(&mut self, mut voice: Voice, epoch: Instant) {
        debug_assert!((self.packets == 0 || self.red.is_some()) && self.clip.codec().kind() == Kind::Audio);
        voice.base_ns = self.base.saturating_duration_since(epoch).as_nanos() as u64;
        voice.frame_ns = frame_offset_ns(&self.clip, 1);
        voice.speech_at = self.position;
        self.voice = Some(Box::new(voice));
        self.settle_slot();
    }

    /// Audio, before the first packet: each packet carries the frame before it again (RFC 2198). `inner` is the payload
    /// type of the frames.
    pub fn add_redundancy(&mut self, inner: u8) {
        debug_assert!((self.packets == 0 || self.red.is_some()) && self.clip.codec().kind() == Kind::Audio);
        self.red = Some(inner);
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
            self.go_to(self.slot.max(next));
            self.settle_slot();
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
        let due = self.base + Duration::from_nanos(self.pacer.release(self.slot_ns));
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
        let mut packets = frame.packets();
        let mut audio_level = frame.audio_level;
        if self.voice.is_some() {
            // It may have gone on to a slot that is not due yet.
            if due > now {
                return None;
            }
            packets = self.play.packet..self.play.packet + 1;
            audio_level = self.play.audio_level;
        } else if audio_level < BACKGROUND_DBOV {
            audio_level |= VOICE_BIT;
        }
        let packet = packets.start + self.sent_of_frame;
        let sent = Sent {
            sent_ns: now_realtime_ns,
            at_ms: self.elapsed(now).as_millis() as u32,
            timestamp: self.timestamp_of_slot(),
            frame: self.frame,
            place: Place::new(self.ladder.as_deref().map_or(0, |l| l.at), packet),
        };
        self.packets += 1;
        self.history.push(self.packets, sent);
        let len = self.write(self.packets, &sent, buf)?;
        self.octets += len as u64;
        self.pacer.sent(self.slot_ns, len);

        let last = packet + 1 == packets.end;
        let marker = self.marker(self.packets, &sent, last);
        if last {
            self.sent_of_frame = 0;
            self.frame = self.frame.wrapping_add(1);
            self.go_to(self.slot + 1);
            self.position = self.clip.following(self.position);
            self.settle_slot();
        } else {
            self.sent_of_frame += 1;
        }
        let index = self.sequence_before + self.packets;
        let (seq, roc) = (index as u16, (index >> 16) as u32);
        let key = frame.key;
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
        let len = self.write(number, &sent, buf)?;
        let packet = sent.place.packet();
        let frame = self.clip_of(&sent).frame_of(packet);
        let marker = self.marker(number, &sent, packet + 1 == frame.packets().end);
        let index = self.sequence_before + number;
        let (seq, roc) = (index as u16, (index >> 16) as u32);
        Some(Repeat { len, marker, seq, roc, timestamp: sent.timestamp })
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

    /// Before the first packet: its sequence number, so that a test comes to the wrap soon.
    #[cfg(test)]
    pub(crate) fn set_first_seq(&mut self, first: u16) {
        debug_assert!(self.packets == 0);
        self.sequence_before = u64::from(first) - 1;
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

    /// Asks for the memory that the next packet needs beside the sender itself.
    #[inline]
    pub fn prefetch(&self) {
        self.history.prefetch(self.packets + 1);
        self.clip.prefetch(self.clip.frames()[self.position].packets().start + self.sent_of_frame);
    }

    fn go_to(&mut self, slot: u64) {
        self.slot = slot;
        self.slot_ns = frame_offset_ns(&self.clip, slot);
    }

    /// Decides which frame of the clip goes into which slot, now that one is due.
    fn begin_frame(&mut self, now: Instant) {
        if now.saturating_duration_since(self.slot_due(self.slot)) > LATE_MAX {
            let current = self.slot_at(now).max(self.slot);
            self.skipped_frames += current - self.slot;
            self.go_to(current);
            self.pacer.reset();
            self.settle_slot();
        }
        if let Some(clip) = self.ladder.as_mut().and_then(|l| l.begin_frame()) {
            self.clip = clip.clone();
            self.pacer.set_rate(clip.payload_bitrate());
            self.key_frame_wanted = true;
        }
        if std::mem::take(&mut self.key_frame_wanted) {
            self.position = self.clip.key_frame_from(self.position);
        }
    }

    /// The clip that a packet came from.
    fn clip_of(&self, sent: &Sent) -> &Clip {
        match &self.ladder {
            None => &self.clip,
            Some(ladder) => &ladder.clips()[sent.place.clip()],
        }
    }

    /// Where the voice is silent, goes on to the next slot with a packet.
    fn settle_slot(&mut self) {
        if let Some(voice) = &mut self.voice {
            let (slot, play) = voice.next(&self.clip, self.slot);
            self.play = play;
            self.go_to(slot);
        }
    }

    /// RFC 3550 5.1, RFC 3551 4.1: the end of a video frame; in audio, the first packet after a silence that was not sent.
    fn marker(&self, number: u64, sent: &Sent, last: bool) -> bool {
        match self.clip.codec().kind() {
            Kind::Video => last,
            Kind::Audio => {
                self.voice.is_some()
                    && self
                        .history
                        .get(number - 1, self.packets)
                        .is_some_and(|before| sent.timestamp.wrapping_sub(before.timestamp) > self.clip.frame_ticks())
            }
        }
    }

    /// One way for the first time and for repeats, so that they can't differ. `None` for a repeat that would, because
    /// what it was written from is gone.
    fn write(&self, number: u64, sent: &Sent, buf: &mut [u8]) -> Option<usize> {
        let neighbour = self.red.is_some() || self.voice.is_some();
        let before = if neighbour && number > 1 { Some(self.history.get(number - 1, self.packets)?) } else { None };
        let Some(inner) = self.red else { return Some(self.write_frame(number, sent, buf)) };
        let mut at = 0;
        if let Some(before) = before {
            let offset = sent.timestamp.wrapping_sub(before.timestamp);
            let len = self.clip_of(before).payload_len(before.place.packet());
            if red::fits(offset, len) {
                red::write_earlier(buf.first_chunk_mut()?, inner, offset, len);
                let head = red::EARLIER_HEADER + red::NEWEST_HEADER;
                at = red::EARLIER_HEADER;
                self.write_frame(number - 1, before, &mut buf[head..]);
                buf[at] = inner;
                return Some(head + len + self.write_frame(number, sent, &mut buf[head + len..]));
            }
        }
        buf[at] = inner;
        at += red::NEWEST_HEADER;
        Some(at + self.write_frame(number, sent, &mut buf[at..]))
    }

    fn write_frame(&self, number: u64, sent: &Sent, buf: &mut [u8]) -> usize {
        let stamp = Stamp {
            run: self.run,
            sender: self.sender,
            stream: self.stream,
            frame: sent.frame,
            packet: number,
            sent_ns: sent.sent_ns,
        };
        let picture_id = self.first_picture_id.wrapping_add(sent.frame as u16);
        self.clip_of(sent).write(sent.place.packet(), &Marks { stamp, picture_id }, buf)
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
mod tests;
