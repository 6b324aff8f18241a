//! One SSRC as its receiver sees it.

use super::StampSeen;
use super::bits::{Bits, WINDOW};
use super::frames::{Arrival, Frames, Progress, Received};
use super::freeze::FreezeMeter;
use super::gaps::{Gap, Gaps};
use super::jitter::Jitter;
use super::nack::NackList;
use super::payload::{self, Start, View};
use super::report::{ReceptionReport, Reporter};
use super::sequence::{Place, Sequence};
use crate::measure::FlowCounters;
use crate::prefetch::prefetch;
use crate::types::{Codec, Kind};
use std::time::{Duration, Instant};

/// Gaps that can be asked for at once.
const VIDEO_GAPS: usize = 32;
const AUDIO_GAPS: usize = 8;

/// See [`RxStream::key_request`].
const KEY_FRAME_ANSWER: Duration = Duration::from_secs(1);

/// A stream in which no key frame is complete after this is asked for one (Chromium's kMaxWaitForKeyFrame).
const KEY_FRAME_WAIT: Duration = Duration::from_millis(200);

/// Key frames are asked for at most this often: a round trip over the server to the sender, and the frame's pacing.
const KEY_FRAME_REPEAT: Duration = Duration::from_millis(250);

/// One RTP packet whose tag verified. With RTX, the packet that it carries: original sequence number, payload without
/// the number in front (RFC 4588 4).
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
    /// Without padding; empty in a padding-only packet.
    pub payload: &'a [u8],
    /// Bytes of the whole RTP packet before SRTP: header, extensions, payload, padding.
    pub rtp_bytes: usize,
    /// Kernel receive time, CLOCK_REALTIME in ns.
    pub recv_ns: u64,
    /// When it was read, on the clock of NACKs and PLIs.
    pub now: Instant,
    /// It came as RTX.
    pub rtx: bool,
    pub stamp: StampSeen,
}

/// What a packet was to its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Seen for the first time. `reordered`: by itself, behind a later number. `recovered`: by RTX, or after our NACK.
    New {
        ext_seq: u64,
        reordered: bool,
        recovered: bool,
    },
    Duplicate,
    /// By itself, after RTX had brought it: it counts as if RTX had not.
    AfterAll,
    /// Outside the window in which new and duplicate can be told apart, before the start, or a jump that nothing has
    /// confirmed yet.
    TooOld,
}

/// Whose media an SSRC carries: sender and stream as in the stamp.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    pub sender: u32,
    pub stream: u8,
}

/// How an SSRC changed its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handover {
    /// The same sender's other layer: the server chose it, what it does not forward of the former is no loss.
    OtherLayer,
    /// The server uses the slot for somebody else.
    OtherSender,
}

/// RTP statistics of one SSRC (RFC 3550 A.1, A.3, A.8), its NACKs, frames, freezes and gaps.
///
/// Retransmissions: a packet that comes as RTX, or in redundant audio, is recovered, until it comes by itself as well: then it was late
/// (reordered). Where RTX is not negotiated, a packet that had been missing is recovered if a NACK had asked for it, at
/// least half a round trip before; else it is late.
pub struct RxStream {
    codec: Codec,
    ssrc: u32,
    clock_rate: u32,
    seq: Sequence,
    reporter: Reporter,
    jitter: Jitter,
    gaps: Gaps,
    nack: NackList,
    /// Retransmissions come as RTX.
    has_rtx: bool,
    /// Which numbers RTX or redundant audio brought and nothing else has yet, in the window of the sequence. `None` until the first.
    repaired: Option<Box<Bits>>,
    count: FlowCounters,
    expected_taken: i64,
    /// Unique padding-only packets.
    fillers: i64,
    first_packet: Option<(u64, Instant)>,
    /// What announced a restart, if the next packet confirms it.
    jump: Option<Item>,
    owner: Option<Owner>,
    former: Option<Owner>,
    handover: Option<Handover>,
    /// First number of `owner`, 0 if all are its own, and its highest stamped one.
    owner_from: u64,
    owner_stamped: u64,
    /// By how much the last packet changed the number of unique media packets.
    media_change: i64,
    video: Option<Box<Video>>,
}

/// What only video needs.
struct Video {
    frames: Frames,
    frame_jitter: Jitter,
    freezes: FreezeMeter,
    /// What is no media in the window of the sequence: padding-only packets, frames of the server's own. `None` until
    /// the first one comes, so that most streams have nothing to look at.
    fillers: Option<Box<Bits>>,
    first_frame_ns: Option<u64>,
    asked_key_frame: Option<Instant>,
    /// Number of the request under way, modulo 256, and since when; `None` once it was answered.
    key_request: u8,
    key_request_since: Option<Instant>,
}

impl Video {
    /// All but the frames under way, of which the first few are in use.
    #[inline]
    fn prefetch(&self) {
        self.frames.prefetch();
        prefetch(&self.frame_jitter, 1);
        prefetch(&self.freezes, 3);
    }
}

/// What is kept of a packet once its payload has been looked at.
#[derive(Clone, Copy)]
struct Item {
    timestamp: u32,
    recv_ns: u64,
    marker: bool,
    view: View,
    stamp: StampSeen,
    is_media: bool,
}

struct Seen<'a>(&'a Sequence, Option<&'a Bits>);

impl Received for Seen<'_> {
    fn has(&self, n: u64) -> bool {
        self.0.has(n)
    }

    fn is_filler(&self, n: u64) -> bool {
        self.1.is_some_and(|fillers| self.0.has(n) && fillers.get(n))
    }
}

impl RxStream {
    /// `clock_rate` in Hz, as negotiated.
    pub fn new(kind: Kind, codec: Codec, ssrc: u32, clock_rate: u32) -> RxStream {
        let video = (kind == Kind::Video).then(|| {
            Box::new(Video {
                frames: Frames::new(),
                frame_jitter: Jitter::default(),
                freezes: FreezeMeter::default(),
                fillers: None,
                first_frame_ns: None,
                asked_key_frame: None,
                key_request: 0,
                key_request_since: None,
            })
        });
        RxStream {
            codec,
            ssrc,
            clock_rate: clock_rate.max(1),
            seq: Sequence::new(),
            reporter: Reporter::default(),
            jitter: Jitter::default(),
            gaps: Gaps::default(),
            nack: NackList::new(if video.is_some() { VIDEO_GAPS } else { AUDIO_GAPS }),
            has_rtx: false,
            repaired: None,
            count: FlowCounters::default(),
            expected_taken: 0,
            fillers: 0,
            first_packet: None,
            jump: None,
            owner: None,
            former: None,
            handover: None,
            owner_from: 0,
            owner_stamped: 0,
            media_change: 0,
            video,
        }
    }

    /// RTX is negotiated (RFC 4588): what comes with its own number comes by itself, however late.
    pub fn with_rtx(self) -> RxStream {
        RxStream { has_rtx: true, repaired: Some(Box::new(Bits::new())), ..self }
    }

    pub fn on_packet(&mut self, p: &Packet<'_>) -> Outcome {
        self.media_change = 0;
        let is_media = !p.payload.is_empty();
        if !p.rtx {
            self.reporter.on_packet();
            if is_media {
                self.count.received += 1;
                self.count.received_bytes += p.rtp_bytes as i64;
            }
        }
        let former_highest = self.seq.highest();
        let place = self.seq.place(p.seq, p.rtx);
        let (n, is_late) = match place {
            Place::First(n) | Place::Restart(n) => (n, false),
            Place::Ahead(n) => {
                self.nack.on_ahead(former_highest, n, p.now);
                if let Some(repaired) = &mut self.repaired {
                    repaired.advance(former_highest, n);
                }
                if let Some(fillers) = self.video.as_mut().and_then(|video| video.fillers.as_mut()) {
                    fillers.advance(former_highest, n);
                }
                (n, false)
            }
            Place::Behind(n) => (n, true),
            Place::Duplicate(n) => {
                if p.rtx {
                    return Outcome::Duplicate;
                }
                if self.came_after_all(n) {
                    self.jitter.on_packet(p.recv_ns, p.timestamp, self.clock_rate);
                    return Outcome::AfterAll;
                }
                self.count.duplicate += 1;
                return Outcome::Duplicate;
            }
            Place::TooOld => return Outcome::TooOld,
            Place::Jump => {
                self.jump = Some(self.look_at(p, is_media));
                return Outcome::TooOld;
            }
        };
        if let Place::Restart(n) = place {
            self.restart(n);
        }
        if let Place::First(_) = place {
            self.first_packet = Some((p.recv_ns, p.now));
        }
        let answers_nack = is_late && self.nack.on_filled(n, self.seq.highest(), p.now);
        let recovered = p.rtx || (answers_nack && !self.has_rtx);
        if p.rtx && is_media {
            self.repaired.get_or_insert_with(|| Box::new(Bits::new())).set(n);
        }
        let reordered = is_late && !recovered;
        let item = self.look_at(p, is_media);
        self.count_new(n, &item, recovered, reordered);
        Outcome::New { ext_seq: n, reordered, recovered }
    }

    /// Only RTX had brought this one so far.
    fn came_after_all(&mut self, n: u64) -> bool {
        let Some(repaired) = self.repaired.as_mut().filter(|bits| bits.get(n)) else { return false };
        repaired.clear(n);
        self.count.recovered -= 1;
        self.count.rtp_received += 1;
        self.count.reordered += 1;
        true
    }

    /// Whether a packet behind the newest one has not arrived, and could still count.
    pub fn lacks(&self, seq: u16) -> bool {
        self.seq.lacks(seq)
    }

    /// A sender report about this SSRC: middle 32 bits of its NTP time, and when it arrived (CLOCK_REALTIME, ns).
    pub fn on_sender_report(&mut self, ntp_mid32: u32, recv_ns: u64) {
        self.reporter.on_sender_report(ntp_mid32, recv_ns);
    }

    /// The report block to send now (CLOCK_REALTIME, ns); `None` before the first packet.
    pub fn report_block(&mut self, now_ns: u64) -> Option<ReceptionReport> {
        self.seq.is_started().then(|| {
            let jitter = self.jitter.units(self.clock_rate);
            self.reporter.report(self.ssrc, &self.seq, jitter, now_ns)
        })
    }

    /// What was counted since the last take, freezes and watched time up to `at_ns` (CLOCK_REALTIME).
    pub fn take_counters(&mut self, at_ns: u64) -> FlowCounters {
        if let Some(video) = &mut self.video {
            video.freezes.advance(at_ns);
            let watched = video.freezes.take();
            self.count.freezes += watched.freezes;
            self.count.frozen_ms += watched.frozen_ms;
            self.count.watched_ms += watched.watched_ms;
        }
        let expected = self.seq.expected() as i64 - self.fillers;
        self.count.rtp_expected = expected - self.expected_taken;
        self.expected_taken = expected;
        std::mem::take(&mut self.count)
    }

    /// RFC 3550 6.4.1, over packets that came by themselves.
    pub fn jitter_us(&self) -> u64 {
        self.jitter.us()
    }

    /// The same over the first packet of each frame; `None` for audio and before the first frame.
    pub fn frame_jitter_us(&self) -> Option<u64> {
        let jitter = &self.video.as_ref()?.frame_jitter;
        jitter.timestamp().map(|_| jitter.us())
    }

    /// Sequence numbers to ask for now; returns how many were written. Each is repeated after a round trip (at least
    /// 20 ms), ten times, for a second, and while no more than 450 packets old.
    pub fn take_nacks(&mut self, now: Instant, rtt: Option<Duration>, out: &mut [u16]) -> usize {
        let n = self.nack.take(now, rtt, &self.seq, out);
        self.tell_lost();
        n
    }

    /// When `take_nacks` has something to do.
    pub fn next_nack_at(&self) -> Option<Instant> {
        self.nack.next_at()
    }

    /// Whether to send a PLI now: the stream began without a key frame, or a frame can't be completed any more and
    /// decoding is broken until the next key frame. True at most every 250 ms. Always false for audio.
    pub fn wants_key_frame(&mut self, now: Instant) -> bool {
        self.nack.expire(now, &self.seq);
        self.tell_lost();
        let Some((_, began)) = self.first_packet else { return false };
        let Some(video) = &mut self.video else { return false };
        let waits_long = !video.frames.has_begun() && now.saturating_duration_since(began) >= KEY_FRAME_WAIT;
        if !waits_long && !video.frames.needs_key_frame() {
            return false;
        }
        if video.asked_key_frame.is_some_and(|at| now.saturating_duration_since(at) < KEY_FRAME_REPEAT) {
            return false;
        }
        video.asked_key_frame = Some(now);
        if video.key_request_since.is_none_or(|at| now.saturating_duration_since(at) >= KEY_FRAME_ANSWER) {
            video.key_request = video.key_request.wrapping_add(1);
            video.key_request_since = Some(now);
        }
        true
    }

    /// Number of the last request for a key frame, modulo 256 (RFC 5104 4.3.1.1): what is repeated keeps its number. A
    /// request without an answer for a second is over: a server that has answered it, in vain, heeds only a new one.
    pub fn key_request(&self) -> u8 {
        self.video.as_ref().map_or(0, |v| v.key_request)
    }

    /// Muted, paused and ended media is neither frozen nor has gaps. What was open at `at_ns` is judged up to there.
    pub fn set_flowing(&mut self, flowing: bool, at_ns: u64) {
        self.gaps.set_flowing(flowing, at_ns);
        if let Some(video) = &mut self.video {
            video.freezes.set_flowing(flowing, at_ns);
        }
    }

    /// The stream is over: judges what is open up to `at_ns`. Take the counters after it.
    pub fn close(&mut self, at_ns: u64) {
        self.set_flowing(false, at_ns);
    }

    /// Longest time without media, the one open at `now_ns` included.
    pub fn longest_gap(&self, now_ns: u64) -> Gap {
        self.gaps.longest(now_ns, 0)
    }

    /// See [`Gaps::take_gap`].
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.gaps.take_gap()
    }

    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Kernel receive time of the first packet.
    pub fn first_packet_ns(&self) -> Option<u64> {
        self.first_packet.map(|(ns, _)| ns)
    }

    /// When the first decodable frame was complete: a key frame.
    pub fn first_frame_ns(&self) -> Option<u64> {
        self.video.as_ref()?.first_frame_ns
    }

    /// Complete frames that follow a key frame without a hole.
    pub fn decodable_frames(&self) -> u64 {
        self.video.as_ref().map_or(0, |video| video.frames.decodable())
    }

    /// Whose media this SSRC carries now.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Whose the packet with this outcome was: a late one may still be the former owner's.
    pub fn owner_of(&self, outcome: Outcome) -> Option<Owner> {
        match outcome {
            Outcome::New { ext_seq, .. } if ext_seq < self.owner_from => self.former,
            _ => self.owner,
        }
    }

    /// Who lost the SSRC with the last packet, once.
    pub fn take_former_owner(&mut self) -> Option<(Owner, Handover)> {
        Some((self.former?, self.handover.take()?))
    }

    /// Asks for the memory that the next packet needs...
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.seq, usize::MAX);
        prefetch(&self.reporter, 1);
        prefetch(&self.jitter, 1);
        self.gaps.prefetch();
        self.nack.prefetch();
        prefetch(&self.count, usize::MAX);
        prefetch(&self.codec, 1);
        prefetch(&self.owner, 1);
        prefetch(&self.former, 1);
        prefetch(&self.owner_from, 1);
        prefetch(&self.media_change, 1);
        prefetch(&self.video, 1);
    }

    /// ... and, once that has come, beside the stream itself.
    #[inline]
    pub fn prefetch_video(&self) {
        if let Some(video) = &self.video {
            video.prefetch();
        }
    }

    /// Bytes that this stream occupies.
    pub fn memory(&self) -> usize {
        size_of::<RxStream>()
            + self.nack.memory()
            + self.repaired.as_ref().map_or(0, |_| size_of::<Bits>())
            + self.video.as_ref().map_or(0, |_| size_of::<Video>())
    }

    pub(super) fn owner_from(&self) -> u64 {
        self.owner_from
    }

    pub(super) fn highest(&self) -> u64 {
        self.seq.highest()
    }

    /// By how much the last packet changed the number of unique media packets: 1; 2 with the packet before a restart;
    /// less with the last packet of a frame that turned out to be the server's own.
    pub(super) fn media_change(&self) -> i64 {
        self.media_change
    }

    /// Unique media packets in `from..=to`, as far as the window reaches. Video only.
    pub(super) fn media_in(&self, from: u64, to: u64) -> u64 {
        let Some(video) = &self.video else { return 0 };
        let from = from.max((self.highest() + 1).saturating_sub(WINDOW));
        let to = to.min(self.highest());
        if from > to {
            return 0;
        }
        self.seq.count(from, to) - video.fillers.as_ref().map_or(0, |fillers| fillers.count(from, to))
    }

    fn look_at(&self, p: &Packet<'_>, is_media: bool) -> Item {
        let view = if self.video.is_some() && is_media {
            payload::inspect(self.codec, p.payload, matches!(p.stamp, StampSeen::Own(_)))
        } else {
            View::default()
        };
        Item { timestamp: p.timestamp, recv_ns: p.recv_ns, marker: p.marker, view, stamp: p.stamp, is_media }
    }

    /// Numbering starts again at `n - 1`, with the packet that announced it.
    fn restart(&mut self, n: u64) {
        self.reporter.restart(2);
        self.nack.restart();
        if let Some(repaired) = &mut self.repaired {
            **repaired = Bits::new();
        }
        self.jitter = Jitter::default();
        if let Some(video) = &mut self.video {
            video.fillers = None;
            video.frames.restart();
            video.frame_jitter = Jitter::default();
        }
        if let Some(jump) = self.jump.take() {
            self.count_new(n - 1, &jump, false, false);
        }
    }

    fn count_new(&mut self, n: u64, item: &Item, recovered: bool, reordered: bool) {
        if item.is_media {
            self.media_change += 1;
            self.count.recovered += i64::from(recovered);
            self.count.rtp_received += i64::from(!recovered);
            self.count.reordered += i64::from(reordered);
            if !recovered {
                self.jitter.on_packet(item.recv_ns, item.timestamp, self.clock_rate);
            }
            self.gaps.on_packet(item.recv_ns);
        } else {
            self.fillers += 1;
        }
        self.count.foreign_stamps += i64::from(item.stamp == StampSeen::Foreign);
        let lowest = self.count_frame(n, item, recovered);
        self.claim(n, lowest, item);
    }

    /// Frames and what hangs on them. Returns the lowest packet so far of this packet's frame.
    fn count_frame(&mut self, n: u64, item: &Item, recovered: bool) -> u64 {
        let Some(video) = &mut self.video else {
            self.count.unstamped += i64::from(item.is_media && item.stamp == StampSeen::None);
            return n;
        };
        let progress = if item.is_media {
            // The place in the window may have been a filler's.
            if let Some(fillers) = &mut video.fillers {
                fillers.clear(n);
            }
            if item.view.start != Start::No && !recovered && video.frame_jitter.timestamp() != Some(item.timestamp) {
                video.frame_jitter.on_packet(item.recv_ns, item.timestamp, self.clock_rate);
            }
            let arrival = Arrival {
                n,
                timestamp: item.timestamp,
                marker: item.marker,
                start: item.view.start,
                key: item.view.key,
                stamped: item.stamp != StampSeen::None,
            };
            video.frames.on_packet(&arrival, &Seen(&self.seq, video.fillers.as_deref()))
        } else {
            let fillers = video.fillers.get_or_insert_with(|| Box::new(Bits::new()));
            fillers.set(n);
            video.frames.on_filler(n, &Seen(&self.seq, Some(fillers)))
        };
        self.count_complete(&progress, item.recv_ns);
        progress.lowest
    }

    fn count_complete(&mut self, progress: &Progress, recv_ns: u64) {
        let Some(video) = &mut self.video else { return };
        for frame in progress.complete.iter().flatten() {
            self.count.frames += 1;
            self.count.key_frames += i64::from(frame.key);
            if video.frames.has_begun() {
                video.first_frame_ns.get_or_insert(recv_ns);
                video.freezes.on_frame(recv_ns);
            }
            if !frame.stamped {
                self.count.unstamped += 1;
                let fillers = video.fillers.get_or_insert_with(|| Box::new(Bits::new()));
                for n in frame.first..=frame.last {
                    self.media_change -= i64::from(self.seq.has(n) && !fillers.get(n));
                    fillers.set(n);
                }
            }
        }
        if let Some(n) = progress.key_frame_at {
            video.key_request_since = None;
            self.nack.forget_before(n, self.seq.highest());
        }
    }

    /// A stamp beyond the last one says whose the SSRC is now.
    fn claim(&mut self, n: u64, lowest: u64, item: &Item) {
        let StampSeen::Own(stamp) = item.stamp else { return };
        if n <= self.owner_stamped {
            return;
        }
        self.owner_stamped = n;
        let owner = Owner { sender: stamp.sender, stream: stamp.stream };
        let Some(former) = self.owner.replace(owner).filter(|former| *former != owner) else { return };
        self.former = Some(former);
        self.handover = Some(if former.sender == owner.sender { Handover::OtherLayer } else { Handover::OtherSender });
        self.owner_from = lowest;
    }

    fn tell_lost(&mut self) {
        if let (Some(video), Some(n)) = (&mut self.video, self.nack.lost_up_to()) {
            video.frames.lost(n);
        }
    }
}
