//! One sender's stream as one receiver gets it, by stamps and the sender's ledger: what RFC 3550 can't see, because a
//! server rewrites sequence numbers and SSRCs, and because it knows of no packet behind the last one.
//!
//! **Expected** are the packets that the sender's counter says it sent, from the first stamp that arrived to the last,
//! and beyond it those that the ledger says were sent a grace time ago. **Received** are the unique media packets that
//! lie between these stamps on the wire. A VP8 stamp is in the last packet of its frame, an H.264 stamp in the first,
//! so packets beyond the last stamp are *pending* until the next stamp shows that they belong to the numbers before
//! it; until then they count as received as far as the ledger has made them expected.
//!
//! The first stamp is the baseline: what was sent before it is set-up. But where nothing arrives within the settle time,
//! counting starts there, and all that is missing is lost.

use super::gaps::{Gap, Gaps};
use super::playout::Playout;
use super::silence::Silence;
use super::stream::{Outcome, Owner, Packet, RxStream};
use super::{Stamp, StampSeen};
use crate::measure::Ledger;
use crate::measure::emodel::{Heard, JITTER_BUFFER};
use crate::types::{Codec, Kind};

/// A stamp whose counter is this far ahead is not one of ours.
const LEAP_MAX: u64 = 1 << 32;

/// Packets that arrived by the settle time may still be in a socket.
const READ_LATE_NS: u64 = 100_000_000;

/// The two waits of a [`Source`], in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// A stream of which nothing has arrived this long after both ends were connected is lost from then on. 5 s:
    /// longer than any sound set-up, short against a hold.
    pub settle_ns: u64,
    /// What was sent this long ago is not in flight any more. 1 s: too short, and packets count as lost until the next
    /// stamp corrects it; too long, and a lost tail shows later.
    pub grace_ns: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { settle_ns: 5_000_000_000, grace_ns: 1_000_000_000 }
    }
}

/// See the module. One per receiver, sender and stream; it lives as long as the subscription, whatever the SSRC.
pub struct Source {
    owner: Owner,
    kind: Kind,
    timing: Timing,
    state: State,
    /// A stamp that was sent before this is no baseline.
    stamps_from_ns: u64,
    /// Counter at the baseline, at the end of what is expected, and in the last stamp.
    base: u64,
    expected_up_to: u64,
    stamped_up_to: u64,
    /// Received up to the last stamp, and beyond it.
    attributed: i64,
    pending: i64,
    late_start: Option<LateStart>,
    /// The SSRC it is on, and the one before.
    bindings: [Option<Binding>; 2],
    /// Of subscriptions and layers before this one.
    expected_before: i64,
    received_before: i64,
    taken: (i64, i64),
    gaps: Gaps,
    silence: Silence,
    /// Audio only.
    playout: Option<Box<Playout>>,
    /// For how long the sender had sent nothing at the last settlement, since the last packet that arrived.
    unsent_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// For the first stamp; where there is a deadline, at most until then.
    Waiting {
        deadline_ns: Option<u64>,
    },
    Counting,
    /// Nothing more is expected; what is in flight may still come.
    Ended,
}

/// The first stamp came after the deadline: the baseline is the ledger's count then, as soon as the ledger is at hand.
#[derive(Clone, Copy)]
struct LateStart {
    deadline_ns: u64,
    /// Which of the packets up to the first stamp have come; bit 0 is the stamped one.
    came: u128,
}

#[derive(Clone, Copy)]
struct Binding {
    ssrc: u32,
    /// First number that counts.
    from: u64,
    /// Number of the last stamped packet.
    stamped: u64,
    /// Where another owner's numbers begin.
    until: u64,
}

impl Source {
    /// `subscribed_at_ns` (CLOCK_REALTIME): when both ends were connected and the receiver had asked for this stream.
    pub fn new(owner: Owner, codec: Codec, subscribed_at_ns: u64, timing: Timing) -> Source {
        Source {
            owner,
            kind: codec.kind(),
            timing,
            state: State::Waiting { deadline_ns: Some(subscribed_at_ns.saturating_add(timing.settle_ns)) },
            stamps_from_ns: 0,
            base: 0,
            expected_up_to: 0,
            stamped_up_to: 0,
            attributed: 0,
            pending: 0,
            late_start: None,
            bindings: [None; 2],
            expected_before: 0,
            received_before: 0,
            taken: (0, 0),
            gaps: Gaps::default(),
            silence: Silence::default(),
            playout: (codec.kind() == Kind::Audio).then(|| Box::new(Playout::new(JITTER_BUFFER.as_micros() as u64))),
            unsent_ns: 0,
        }
    }

    /// A source nobody has promised: a layer that the server chose. It counts from its first stamp, whenever that is.
    pub fn on_demand(owner: Owner, codec: Codec, timing: Timing) -> Source {
        Source { state: State::Waiting { deadline_ns: None }, ..Source::new(owner, codec, 0, timing) }
    }

    /// One packet of a stream whose [`RxStream::owner_of`] is this source, after the stream has seen it. Returns the
    /// one-way delay in µs if the packet carries it: stamped, come by itself for the first time, and no retransmission.
    pub fn on_packet(&mut self, rx: &RxStream, p: &Packet<'_>, outcome: Outcome) -> Option<u64> {
        let stamp = match p.stamp {
            StampSeen::Own(stamp) if (Owner { sender: stamp.sender, stream: stamp.stream }) == self.owner => {
                Some(stamp)
            }
            StampSeen::Own(_) | StampSeen::None | StampSeen::Foreign => None,
        };
        let (n, recovered) = match outcome {
            Outcome::New { ext_seq, recovered, .. } => (ext_seq, recovered),
            Outcome::TooOld => {
                self.on_jump(stamp, p.recv_ns);
                return None;
            }
            Outcome::AfterAll => return stamp.map(|stamp| p.recv_ns.saturating_sub(stamp.sent_ns) / 1000),
            Outcome::Duplicate => return None,
        };
        if self.kind == Kind::Video && !p.payload.is_empty() {
            self.gaps.on_packet(p.recv_ns);
        }
        match (self.kind, stamp) {
            (Kind::Audio, Some(stamp)) => self.on_audio(rx, n, &stamp, p.recv_ns),
            (Kind::Audio, None) => {}
            (Kind::Video, stamp) => self.on_video(rx, n, stamp, p.recv_ns),
        }
        let stamp = stamp.filter(|_| !recovered)?;
        Some(p.recv_ns.saturating_sub(stamp.sent_ns) / 1000)
    }

    /// Once a second: what the ledger knows and stamps do not, a lost tail and a stream that never began. `now_ns` is
    /// CLOCK_REALTIME.
    pub fn settle(&mut self, ledger: &Ledger, now_ns: u64) {
        match self.state {
            State::Waiting { deadline_ns: Some(deadline_ns) } if now_ns >= deadline_ns.saturating_add(READ_LATE_NS) => {
                self.begin(ledger.count_at_or_oldest(deadline_ns));
                self.silence.expect_from(deadline_ns, self.base);
                if let Some(playout) = &mut self.playout {
                    playout.expect_from(self.base);
                }
            }
            State::Waiting { .. } | State::Ended => return,
            State::Counting => {}
        }
        self.settle_late_start(ledger);
        let sent = ledger.count_at(now_ns.saturating_sub(self.timing.grace_ns));
        self.expect(sent);
        if let Some(playout) = &mut self.playout {
            playout.advance(sent);
        }
        if self.kind == Kind::Audio {
            self.unsent_ns = self.silence.advance(ledger, now_ns);
        }
    }

    /// The subscription ends: everything sent up to `until_ns` is expected. Exact when all of it has arrived or never
    /// will; what arrives later still counts as received.
    pub fn finish(&mut self, ledger: &Ledger, until_ns: u64) {
        let deadline_ns = match self.state {
            State::Waiting { deadline_ns } => deadline_ns,
            State::Counting => None,
            State::Ended => return,
        };
        if let Some(deadline_ns) = deadline_ns.filter(|deadline_ns| *deadline_ns < until_ns) {
            self.begin(ledger.count_at_or_oldest(deadline_ns));
            self.silence.expect_from(deadline_ns, self.base);
        }
        if self.state == State::Counting {
            self.settle_late_start(ledger);
            self.expect(ledger.count_at(until_ns));
            if self.kind == Kind::Audio {
                self.unsent_ns = self.silence.advance(ledger, until_ns);
            }
        }
        self.state = State::Ended;
        self.set_flowing(false, until_ns);
    }

    /// The receiver, or the server on its behalf, subscribes again after [`Source::finish`]: what was sent between is
    /// no loss. Packets from before the end that are still in flight now are counted as lost.
    pub fn resume(&mut self, at_ns: u64) {
        self.close_period(self.expected_up_to);
        self.state = State::Waiting { deadline_ns: Some(at_ns.saturating_add(self.timing.settle_ns)) };
        self.stamps_from_ns = at_ns;
        self.gaps.set_flowing(true, at_ns);
    }

    /// The server forwards another layer instead ([`super::Handover::OtherLayer`]): counting ends with the last stamp,
    /// and begins again with the next one, whenever that is.
    pub fn rebase(&mut self, at_ns: u64) {
        if self.state == State::Ended {
            return;
        }
        self.pending = 0;
        self.close_period(self.stamped_up_to);
        self.state = State::Waiting { deadline_ns: None };
        self.gaps.set_flowing(false, at_ns);
        self.silence.stop();
    }

    /// The server has said that it forwards this stream no longer, about now: nothing more is expected, and what is under
    /// way counts nowhere. What the ledger has made expected stays so; that is older than the grace time, so word that
    /// comes as late as that costs nothing. [`Source::resume`] when it is forwarded again.
    pub fn pause(&mut self, at_ns: u64) {
        if self.state == State::Ended {
            return;
        }
        self.close_period(self.expected_up_to);
        self.state = State::Ended;
        self.set_flowing(false, at_ns);
    }

    /// Forwarded again, as one of several layers, of which nobody says which: counting begins with the first stamp.
    pub fn resume_on_demand(&mut self, at_ns: u64) {
        self.resume(at_ns);
        self.state = State::Waiting { deadline_ns: None };
        self.gaps.set_flowing(false, at_ns);
    }

    /// Promised, never seen, and not awaited any longer: the server chose another layer. What was expected until now and
    /// did not come stays lost, since nothing came in its place.
    pub fn forgo(&mut self, at_ns: u64) {
        if self.state == State::Ended {
            return;
        }
        self.close_period(self.expected_up_to);
        self.state = State::Waiting { deadline_ns: None };
        self.gaps.set_flowing(false, at_ns);
    }

    /// Somebody else has this stream's SSRC now ([`super::Handover::OtherSender`]); to be told before the new owner gets
    /// the packet that showed it. This one goes on, on another SSRC or lost.
    pub fn detach(&mut self, rx: &RxStream) {
        let Some(binding) = self.bindings.iter_mut().flatten().find(|b| b.ssrc == rx.ssrc()) else { return };
        binding.until = binding.until.min(rx.owner_from());
        // Packets of the new owner's first frame that came before its stamp were taken for ours.
        let others = rx.media_in(rx.owner_from().max(binding.stamped + 1), rx.highest()) as i64 - rx.media_change();
        self.pending -= others.max(0);
    }

    /// The sender mutes this stream or goes on: it has no gaps and no silence meanwhile. Loss needs no such word.
    pub fn set_flowing(&mut self, flowing: bool, at_ns: u64) {
        if !flowing {
            self.gaps.forgive(std::mem::take(&mut self.unsent_ns));
        }
        self.gaps.set_flowing(flowing, at_ns);
        if !flowing {
            self.silence.stop();
        }
    }

    /// Packets expected and received since the last take. Negative where an earlier take was too early.
    pub fn take_counters(&mut self) -> (i64, i64) {
        let total = (self.expected(), self.received());
        let before = std::mem::replace(&mut self.taken, total);
        (total.0 - before.0, total.1 - before.1)
    }

    /// Packets expected so far.
    pub fn expected(&self) -> i64 {
        self.expected_before + signed(self.expected_up_to - self.base)
    }

    /// Unique packets received so far, recovered ones included.
    pub fn received(&self) -> i64 {
        let room = signed(self.expected_up_to.saturating_sub(self.stamped_up_to));
        self.received_before + self.attributed + self.pending.clamp(0, room)
    }

    /// What the jitter buffer would have played since the last take; `None` for video.
    pub fn take_heard(&mut self) -> Option<Heard> {
        Some(self.playout.as_mut()?.take())
    }

    /// Longest silence that ended or was open since the last take, in ms; settle first.
    pub fn take_silence_ms(&mut self) -> i64 {
        (self.silence.take_ns() / 1_000_000) as i64
    }

    /// Longest silence so far, in ms.
    pub fn longest_silence_ms(&self) -> i64 {
        (self.silence.longest_ns() / 1_000_000) as i64
    }

    /// Longest time without a packet, the one open at `now_ns` included.
    pub fn longest_gap(&self, now_ns: u64) -> Gap {
        self.gaps.longest(now_ns, self.unsent_ns)
    }

    /// The time since its last packet, but for the part in which nothing was sent; none while it is stopped.
    pub fn open_gap(&self, now_ns: u64) -> Gap {
        self.gaps.open(now_ns, self.unsent_ns)
    }

    /// See [`Gaps::take_gap`].
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.gaps.take_gap()
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// True once a baseline is set.
    pub fn has_begun(&self) -> bool {
        self.state == State::Counting
    }

    fn begin(&mut self, count: u64) {
        self.base = count;
        self.expected_up_to = count;
        self.stamped_up_to = count;
        self.attributed = 0;
        self.pending = 0;
        self.state = State::Counting;
    }

    fn expect(&mut self, count: u64) {
        self.expected_up_to = self.expected_up_to.max(count);
    }

    /// Adds what was counted to the sums, with `up_to` as the end of what was expected.
    fn close_period(&mut self, up_to: u64) {
        self.expected_up_to = up_to;
        (self.expected_before, self.received_before) = (self.expected(), self.received());
        self.begin(up_to);
        self.bindings = [None; 2];
        self.late_start = None;
        if let Some(playout) = &mut self.playout {
            playout.restart();
        }
    }

    /// Whether this may be the stamp that counting begins with, and whether it comes after the deadline.
    fn baseline(&mut self, rx: &RxStream, n: u64, stamp: &Stamp, recv_ns: u64) -> bool {
        let State::Waiting { deadline_ns } = self.state else { return false };
        let is_ours = rx.owner() == Some(self.owner) && n >= rx.owner_from();
        if !is_ours || stamp.sent_ns < self.stamps_from_ns {
            return false;
        }
        self.begin(stamp.packet);
        if let Some(deadline_ns) = deadline_ns.filter(|deadline_ns| recv_ns > *deadline_ns) {
            self.late_start = Some(LateStart { deadline_ns, came: 1 });
        }
        if deadline_ns.is_none() {
            self.gaps.set_flowing(true, recv_ns);
        }
        true
    }

    /// Whether a packet with this counter is one to count: it can be believed, and it is not beyond the end.
    fn may_expect(&self, count: u64) -> bool {
        match self.state {
            State::Waiting { .. } => false,
            State::Counting => count.saturating_sub(self.stamped_up_to) < LEAP_MAX,
            State::Ended => count <= self.expected_up_to,
        }
    }

    fn on_audio(&mut self, rx: &RxStream, n: u64, stamp: &Stamp, recv_ns: u64) {
        if self.state != State::Ended {
            self.hear(stamp, recv_ns);
            // A number that is not ours must not carry the playout away.
            let believed = stamp.packet.saturating_sub(self.stamped_up_to) < LEAP_MAX || self.state != State::Counting;
            if let Some(playout) = self.playout.as_mut().filter(|_| believed) {
                playout.on_packet(stamp.packet, recv_ns.saturating_sub(stamp.sent_ns) / 1000);
            }
        }
        if !self.baseline(rx, n, stamp, recv_ns) {
            self.count_audio(stamp.packet);
        }
    }

    /// An audio packet ends a silence and a gap, less what was not sent meanwhile.
    fn hear(&mut self, stamp: &Stamp, recv_ns: u64) {
        let unsent_ns = self.silence.on_packet(recv_ns, stamp.sent_ns, stamp.packet);
        self.gaps.forgive(unsent_ns);
        self.gaps.on_packet(recv_ns);
        self.unsent_ns = 0;
    }

    /// Each packet has its stamp, so the counter alone says where it belongs.
    fn count_audio(&mut self, count: u64) {
        if !self.may_expect(count) {
            return;
        }
        if count > self.base {
            self.attributed += 1;
            self.stamped_up_to = self.stamped_up_to.max(count);
            self.expect(count);
        } else if let Some(late) = &mut self.late_start {
            late.came |= bit(self.base - count);
        }
    }

    /// A packet that the stream has not counted, since nothing had confirmed its jump: if its counter is new, so is it.
    fn on_jump(&mut self, stamp: Option<Stamp>, recv_ns: u64) {
        let Some(stamp) = stamp.filter(|stamp| stamp.packet > self.stamped_up_to) else { return };
        if self.kind == Kind::Audio && self.state == State::Counting {
            self.hear(&stamp, recv_ns);
            self.count_audio(stamp.packet);
        }
    }

    fn on_video(&mut self, rx: &RxStream, n: u64, stamp: Option<Stamp>, recv_ns: u64) {
        let change = rx.media_change();
        let bound = self.binding_of(rx.ssrc());
        // The SSRC was somebody else's meanwhile, and is ours again: its numbers go on where that one's ended.
        let again = bound.filter(|i| rx.owner() == Some(self.owner) && self.bindings[*i].is_some_and(|b| n >= b.until));
        if let Some(i) = again.filter(|_| stamp.is_some()) {
            self.bindings[i] = None;
        }
        let Some(i) = bound.filter(|i| self.bindings[*i].is_some()) else {
            if let Some(stamp) = stamp {
                self.bind(rx, n, &stamp, recv_ns);
            }
            return;
        };
        let newer = stamp.filter(|stamp| stamp.packet > self.stamped_up_to && self.may_expect(stamp.packet));
        let Some(binding) = &mut self.bindings[i] else { return };
        if n >= binding.until {
            return;
        }
        if n < binding.from {
            if let (0, Some(late)) = (i, &mut self.late_start) {
                late.came |= bit(binding.from - 1 - n);
            }
            return;
        }
        let is_late = n < binding.stamped;
        match (i, newer) {
            (0, Some(stamp)) if !is_late => {
                binding.stamped = n;
                self.pending += change;
                self.attribute(rx, n, 0, &stamp);
            }
            (0, None) if !is_late => self.pending += change,
            // On the SSRC before, everything is older than the last stamp...
            (0, _) | (_, None) => self.attributed += change,
            // ... unless the server goes back to it.
            (_, Some(stamp)) => {
                binding.stamped = n;
                self.bindings.swap(0, 1);
                self.attributed += change + std::mem::take(&mut self.pending);
                self.stamped_up_to = stamp.packet;
                self.expect(stamp.packet);
            }
        }
    }

    /// A stamp at `n`: all that is pending and not beyond it belongs to the numbers up to its counter, and so do `more`
    /// packets that were not pending.
    fn attribute(&mut self, rx: &RxStream, n: u64, more: i64, stamp: &Stamp) {
        let beyond = rx.media_in(n + 1, rx.highest()) as i64;
        self.attributed += self.pending + more - beyond;
        self.pending = beyond;
        self.stamped_up_to = stamp.packet;
        self.expect(stamp.packet);
    }

    fn binding_of(&mut self, ssrc: u32) -> Option<usize> {
        self.bindings.iter().position(|b| b.is_some_and(|b| b.ssrc == ssrc))
    }

    /// The first stamp on an SSRC.
    fn bind(&mut self, rx: &RxStream, n: u64, stamp: &Stamp, recv_ns: u64) {
        let owned_from = rx.owner_from();
        if self.baseline(rx, n, stamp, recv_ns) {
            self.bindings = [Some(Binding { ssrc: rx.ssrc(), from: n + 1, stamped: n, until: u64::MAX }), None];
            self.pending = rx.media_in(n + 1, rx.highest()) as i64;
            if let Some(late) = &mut self.late_start {
                for back in 1..128 {
                    let number = n - back;
                    if number >= owned_from && rx.media_in(number, number) == 1 {
                        late.came |= bit(back);
                    }
                }
            }
            return;
        }
        let is_ours = rx.owner() == Some(self.owner) && n >= owned_from;
        if self.state != State::Counting || !is_ours || stamp.packet <= self.base || !self.may_expect(stamp.packet) {
            return;
        }
        let binding = Binding { ssrc: rx.ssrc(), from: owned_from, stamped: n, until: u64::MAX };
        self.bindings = [Some(binding), self.bindings[0]];
        let all = rx.media_in(owned_from, rx.highest()) as i64;
        if stamp.packet > self.stamped_up_to {
            // After a start that was never seen, what was sent before the baseline is none of it.
            let room = if self.bindings[1].is_none() { signed(stamp.packet - self.base) } else { i64::MAX };
            let beyond = rx.media_in(n + 1, rx.highest()) as i64;
            self.attribute(rx, n, (all - beyond).min(room) + beyond, stamp);
        } else {
            self.attributed += all;
        }
    }

    fn settle_late_start(&mut self, ledger: &Ledger) {
        let Some(late) = self.late_start.take() else { return };
        let base = ledger.count_at_or_oldest(late.deadline_ns).min(self.base);
        let missed = self.base - base;
        if missed == 0 || missed >= LEAP_MAX {
            return;
        }
        let low = if missed >= 128 { u128::MAX } else { (1 << missed) - 1 };
        self.attributed += i64::from((late.came & low).count_ones());
        self.base = base;
        if let Some(binding) = &mut self.bindings[0] {
            binding.from = binding.from.saturating_sub(missed);
        }
    }
}

/// Counters come from outside.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Of a packet `back` before the first stamp; none if it is too far back.
fn bit(back: u64) -> u128 {
    if back < 128 { 1 << back } else { 0 }
}
