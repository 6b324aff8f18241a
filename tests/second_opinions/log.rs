//! What the impairer's log says of a flow, packet by packet and frame by frame.

use crate::truth::{Packet, Stream, clock_rate};
use std::collections::{BTreeMap, BTreeSet};

/// A flow up to some arrival.
#[derive(Clone, Copy, Default, Debug)]
pub struct Upto {
    pub at_ns: u64,
    pub expected: i64,
    pub received: i64,
    /// Arrivals behind a later number: the server's repair of what it missed itself.
    pub late: i64,
    pub jitter_ms: f64,
    /// As Janus has it: only of packets ahead of all others.
    pub ahead_jitter_ms: f64,
    /// As libwebrtc has it: of these, only where the timestamp differs from the packet's before.
    pub frames_jitter_ms: f64,
}

/// After each arrival.
pub fn walk(stream: &Stream) -> Vec<Upto> {
    let (mut seen, mut first, mut highest) = (BTreeSet::new(), i64::MAX, i64::MIN);
    let (mut u, mut before, mut ahead) = (Upto::default(), None::<(u64, u32)>, None::<(u64, u32)>);
    let mut out = Vec::new();
    let differs = |at: u64, timestamp: u32, (at0, timestamp0): (u64, u32)| {
        let media = f64::from(timestamp.wrapping_sub(timestamp0) as i32) * 1e3 / f64::from(clock_rate(stream.pt));
        ((at - at0) as f64 / 1e6 - media).abs()
    };
    for (at, p) in stream.arrivals() {
        if let Some(before) = before {
            u.jitter_ms += (differs(at, p.timestamp, before) - u.jitter_ms) / 16.0;
        }
        before = Some((at, p.timestamp));
        if p.seq > highest {
            if let Some(before) = ahead {
                let d = differs(at, p.timestamp, before);
                u.ahead_jitter_ms += (d - u.ahead_jitter_ms) / 16.0;
                if before.1 != p.timestamp {
                    u.frames_jitter_ms += (d - u.frames_jitter_ms) / 16.0;
                }
            }
            ahead = Some((at, p.timestamp));
        } else {
            u.late += 1;
        }
        (first, highest) = (first.min(p.seq), highest.max(p.seq));
        u.received += i64::from(seen.insert(p.seq));
        u.expected = highest - first + 1;
        u.at_ns = at;
        out.push(u);
    }
    out
}

/// After so many arrivals, or all that there are; none before the first.
pub fn after(walked: &[Upto], arrivals: i64) -> Option<Upto> {
    let n = usize::try_from(arrivals).ok()?.min(walked.len());
    walked.get(n.checked_sub(1)?).copied()
}

/// The frames of a video flow. What is sent again as RTX has its frame's timestamp (RFC 4588 4), so it is known which
/// frame it is for.
#[derive(Clone, Default, Debug)]
pub struct Frames {
    frames: Vec<Frame>,
}

/// In the order of sending.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Its last packet, counted from the flow's first.
    last: i64,
    /// When all its packets were there, those sent again included.
    there: Option<u64>,
}

impl Frames {
    /// `again`: what was sent again to the same client.
    pub fn of(main: &Stream, again: &[Stream]) -> Frames {
        let mut arrived = BTreeMap::<i64, u64>::new();
        for (at, p) in main.arrivals() {
            arrived.entry(p.seq).or_insert(at);
        }
        let mut repairs = BTreeMap::<u32, Vec<u64>>::new();
        for (at, p) in again.iter().flat_map(Stream::arrivals) {
            repairs.entry(p.timestamp).or_default().push(at);
        }
        let sent: BTreeMap<i64, &Packet> = main.packets.iter().rev().map(|p| (p.seq, p)).collect();
        let Some(first) = sent.keys().next().copied() else { return Frames::default() };
        let (mut from, mut frames) = (first, Vec::new());
        for (seq, p) in &sent {
            if !p.marker && sent.get(&(seq + 1)).is_none_or(|next| next.timestamp == p.timestamp) {
                continue;
            }
            let missing = (from..=*seq).filter(|n| !arrived.contains_key(n)).count();
            let there = arrived.range(from..=*seq).map(|(_, at)| *at).max().unwrap_or(0);
            let there = match missing.checked_sub(1) {
                None => Some(there),
                Some(n) => repairs.get(&p.timestamp).and_then(|at| at.get(n)).map(|at| there.max(*at)),
            };
            frames.push(Frame { last: seq - first, there });
            from = seq + 1;
        }
        Frames { frames }
    }

    /// Frames that begin among so many packets.
    pub fn among(&self, packets: i64) -> usize {
        self.frames.iter().filter(|f| f.last < packets).count() + 1
    }

    /// When each was there, whatever is missing before it, until some time.
    pub fn assembled(&self, until: u64) -> Vec<u64> {
        let mut times: Vec<u64> = self.frames.iter().filter_map(|f| f.there).filter(|at| *at <= until).collect();
        times.sort_unstable();
        times
    }

    /// When each could be shown: not before those before it, but for the ones that never came.
    pub fn in_order(&self, until: u64) -> Vec<u64> {
        let mut latest = 0;
        let there = self.frames.iter().filter_map(|f| f.there);
        let shown = there.map(|at| {
            latest = latest.max(at);
            latest
        });
        shown.take_while(|at| *at <= until).collect()
    }
}

/// webrtc-stats' freezeCount and totalFreezesDuration in s of frames at these times: intervals of at least max(3·avg,
/// avg + 150 ms), avg over the 30 before.
pub fn freezes(times: &[u64]) -> (i64, f64) {
    let (mut count, mut seconds, mut intervals) = (0, 0.0, Vec::<f64>::new());
    for pair in times.windows(2) {
        let ms = (pair[1] - pair[0]) as f64 / 1e6;
        let last = &intervals[intervals.len().saturating_sub(30)..];
        let average = if last.is_empty() { 100.0 } else { last.iter().sum::<f64>() / last.len() as f64 };
        if ms >= (3.0 * average).max(average + 150.0) {
            count += 1;
            seconds += ms / 1e3;
        }
        intervals.push(ms);
    }
    (count, seconds)
}
