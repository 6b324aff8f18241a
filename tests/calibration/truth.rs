//! What a receiver should have measured, computed from the impairer's log alone: the records of one direction of one
//! flow, with the clear RTP headers (RFC 3550 5.1) that SRTP leaves readable.

use roomful::impair::Record;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Payload types as our clients offer them.
pub const OPUS: u8 = 111;
pub const VP8: u8 = 96;
pub const H264: u8 = 108;

pub fn clock_rate(pt: u8) -> u32 {
    if pt == OPUS { 48_000 } else { 90_000 }
}

/// One stream (payload type and SSRC) of one direction: every datagram with its number unwrapped.
#[derive(Clone, Default)]
pub struct Stream {
    pub pt: u8,
    pub packets: Vec<Packet>,
}

#[derive(Clone, Copy)]
pub struct Packet {
    pub seq: i64,
    pub timestamp: u32,
    pub marker: bool,
    pub came_ns: u64,
    /// `None`: lost, or unreadable for a turned bit.
    pub left_ns: Option<u64>,
    pub twice: bool,
    pub len: u16,
}

/// The streams of these payload types, by SSRC.
pub fn streams(records: &[Record], pts: &[u8]) -> BTreeMap<u32, Stream> {
    let mut out: BTreeMap<u32, Stream> = BTreeMap::new();
    for r in records.iter().filter(|r| r.is_rtp() && pts.contains(&r.payload_type())) {
        let s = out.entry(r.ssrc()).or_default();
        s.pt = r.payload_type();
        let seq = match s.packets.last() {
            // Nearest to the one before: RFC 3711 3.3.1's guess.
            Some(last) => last.seq + i64::from(r.seq().wrapping_sub(last.seq as u16) as i16),
            None => i64::from(r.seq()),
        };
        s.packets.push(Packet {
            seq,
            timestamp: r.timestamp(),
            marker: r.head[1] & 0x80 != 0,
            came_ns: r.came_ns,
            left_ns: r.lost.is_none().then_some(r.left_ns).filter(|_| !r.corrupted),
            twice: r.twice,
            len: r.len,
        });
    }
    out
}

/// RFC 3550 counts of a receiver.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Rtp {
    pub expected: i64,
    pub received: i64,
    pub duplicate: i64,
    pub reordered: i64,
}

impl Stream {
    /// Numbers that came in, that never went out.
    pub fn lost(&self) -> BTreeSet<i64> {
        let arrived: HashSet<i64> = self.packets.iter().filter(|p| p.left_ns.is_some()).map(|p| p.seq).collect();
        self.packets.iter().map(|p| p.seq).filter(|s| !arrived.contains(s)).collect()
    }

    /// In order of arrival, second copies right behind the first. Of those that leave at the same time, the first that
    /// came is first.
    pub fn arrivals(&self) -> Vec<(u64, Packet)> {
        let mut out: Vec<(u64, Packet)> = Vec::new();
        for p in &self.packets {
            for _ in 0..=usize::from(p.twice) {
                out.extend(p.left_ns.map(|at| (at, *p)));
            }
        }
        out.sort_by_key(|(at, _)| *at);
        out
    }

    pub fn rtp(&self) -> Rtp {
        let (mut seen, mut highest, mut first) = (HashSet::new(), i64::MIN, i64::MAX);
        let mut r = Rtp::default();
        for (_, p) in self.arrivals() {
            if !seen.insert(p.seq) {
                r.duplicate += 1;
                continue;
            }
            r.reordered += i64::from(p.seq < highest);
            highest = highest.max(p.seq);
            first = first.min(p.seq);
            r.received += 1;
        }
        if r.received > 0 {
            r.expected = highest - first + 1;
        }
        r
    }

    /// Interarrival jitter (RFC 3550 A.8) in ns at each of these moments, over the packets that had arrived by then; none
    /// where nothing had arrived for a second.
    pub fn jitter_at(&self, moments: &[u64]) -> Vec<f64> {
        let rate = f64::from(clock_rate(self.pt));
        let (mut seen, mut before, mut jitter) = (HashSet::new(), None::<(u64, u32)>, 0.0f64);
        let mut arrivals = self.arrivals().into_iter().filter(|(_, p)| seen.insert(p.seq)).peekable();
        let mut out = Vec::new();
        for at in moments {
            while let Some((t, p)) = arrivals.next_if(|(t, _)| t <= at) {
                if let Some((t0, ts0)) = before {
                    let media = f64::from(p.timestamp.wrapping_sub(ts0) as i32) * 1e9 / rate;
                    jitter += (((t - t0) as f64 - media).abs() - jitter) / 16.0;
                }
                before = Some((t, p.timestamp));
            }
            if let Some((t, _)) = before
                && at.saturating_sub(t) <= 1_000_000_000
            {
                out.push(jitter);
            }
        }
        out
    }
}

/// What to add to a number of `down` to have the one of `up`: the server renumbers a stream by a constant, which is found
/// by when and how the first packets pass it. `server_ns`: what lies between the two links.
pub fn renumbered(up: &Stream, down: &Stream, server_ns: u64) -> Option<i64> {
    let first = down.packets.first()?;
    let delivered: BTreeMap<i64, &Packet> =
        up.packets.iter().filter(|p| p.left_ns.is_some()).map(|p| (p.seq, p)).collect();
    let nearest = delivered.values().min_by_key(|p| (p.left_ns.unwrap() + server_ns).abs_diff(first.came_ns))?;
    // A burst of video leaves in one go: which of it came first is told by where frames end.
    let fits = |offset: i64| {
        let of = |p: &Packet| delivered.get(&(p.seq + offset)).map(|u| u.marker == p.marker);
        down.packets.iter().take(300).filter(|p| of(p) == Some(true)).count()
    };
    let base = nearest.seq - first.seq;
    // Nothing comes out before it went in. On a machine that stalls, the nearest in time may be the wrong one.
    let causal = |offset: &i64| {
        down.packets.iter().all(|p| delivered.get(&(p.seq + offset)).is_none_or(|u| p.came_ns >= u.left_ns.unwrap()))
    };
    (base - 8..=base + 8).filter(causal).max_by_key(|o| (fits(*o), -(o - base).abs()))
}

/// One-way delays in ns from sending (`up` came) to arrival (`down` left), of every packet that arrived and has a stamp:
/// of audio each, of VP8 a frame's last, of H.264 its first.
pub fn delays(up: &Stream, down: &Stream, server_ns: u64) -> Vec<u64> {
    let Some(offset) = renumbered(up, down, server_ns) else { return Vec::new() };
    let sent: BTreeMap<i64, &Packet> = up.packets.iter().rev().map(|p| (p.seq, p)).collect();
    let stamped = |p: &Packet| match up.pt {
        VP8 => p.marker,
        H264 => sent.get(&(p.seq - 1)).is_none_or(|before| before.timestamp != p.timestamp),
        _ => true,
    };
    let mut seen = HashSet::new();
    let arrived = down.arrivals().into_iter().filter(|(_, p)| seen.insert(p.seq));
    let of = |(at, p): (u64, Packet)| sent.get(&(p.seq + offset)).filter(|u| stamped(u)).map(|u| at - u.came_ns);
    arrived.filter_map(of).collect()
}

/// How many packets of `main` that never came by themselves were brought by `again`, sent again as RTX to the same client:
/// at least, and at most. A packet that is sent again has its timestamp and is two bytes longer (RFC 4588 4); where several
/// of a frame are of one length, which of them it was is sealed in it.
pub fn recovered(main: &Stream, again: &Stream) -> (i64, i64) {
    // By timestamp and length: numbers that never came, numbers that came late, packets sent again.
    let mut groups = BTreeMap::<(u32, u16), (HashSet<i64>, i64, i64)>::new();
    let lost = main.lost();
    for p in main.packets.iter().filter(|p| lost.contains(&p.seq)) {
        groups.entry((p.timestamp, p.len)).or_default().0.insert(p.seq);
    }
    let (mut highest, mut seen) = (i64::MIN, HashSet::new());
    for (_, p) in main.arrivals().into_iter().filter(|(_, p)| seen.insert(p.seq)) {
        if p.seq < highest {
            groups.entry((p.timestamp, p.len)).or_default().1 += 1;
        }
        highest = highest.max(p.seq);
    }
    let came: BTreeMap<i64, Packet> = again.arrivals().into_iter().map(|(_, p)| (p.seq, p)).collect();
    for p in came.values() {
        if let Some(group) = p.len.checked_sub(RTX_BYTES).and_then(|len| groups.get_mut(&(p.timestamp, len))) {
            group.2 += 1;
        }
    }
    groups.into_values().fold((0, 0), |(least, most), (missing, late, again)| {
        let at_most = again.min(missing.len() as i64);
        // It may be the same packet again and again, and one that came late after all.
        (least + if late == 0 { at_most.min(1) } else { 0 }, most + at_most)
    })
}

/// RFC 4588 4: the original sequence number.
const RTX_BYTES: u16 = 2;

/// Value at a quantile: the smallest that so many are not above.
pub fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = ((values.len() as f64 * q).ceil() as usize).max(1) - 1;
    values.get(rank).copied()
}
