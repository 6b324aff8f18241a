//! Who is in a room, as its participants' measurements need it: the senders' ledgers.

use crate::measure::Ledger;
use crate::types::LegId;

/// How long a member that left is remembered: its receivers still settle its last packets.
const LINGER_NS: u64 = 10_000_000_000;

/// The roster of one room. All participants of a room live on one shard, so this needs no lock.
#[derive(Default)]
pub struct Room {
    members: Vec<Member>,
    /// Highest one-way delay since last taken, µs, by kind.
    pub delay_max_us: [u64; 2],
}

/// One member, present or just gone.
pub struct Member {
    pub leg: LegId,
    /// Planned start, ns of CLOCK_REALTIME.
    pub planned_ns: u64,
    /// Media can flow since.
    pub connected_ns: Option<u64>,
    pub left_ns: Option<u64>,
    /// What it has sent, by stream number below 2 (by kind, that is); `None` for what it never sends.
    ledgers: [Option<Ledger>; 2],
    /// Streams from number 2 on: further layers of its video.
    layers: Vec<Ledger>,
}

impl Member {
    /// What it has sent of a stream, by its number in the stamps: 0 audio, video from 1 on, the lowest layer first.
    pub fn ledger(&self, stream: u8) -> Option<&Ledger> {
        match self.ledgers.get(usize::from(stream)) {
            Some(one) => one.as_ref(),
            None => self.layers.get(usize::from(stream) - 2),
        }
    }

    /// More than one stream carries its video, and a server chooses among them.
    pub fn is_layered(&self) -> bool {
        !self.layers.is_empty()
    }
}

impl Room {
    pub fn new() -> Room {
        Room::default()
    }

    /// `streams`: how many it sends of each kind; more than one of video are layers.
    pub fn join(&mut self, leg: LegId, planned_ns: u64, streams: [u8; 2]) {
        let ledgers = streams.map(|n| (n > 0).then(Ledger::new));
        let layers = (1..streams[1]).map(|_| Ledger::new()).collect();
        self.members.push(Member { leg, planned_ns, connected_ns: None, left_ns: None, ledgers, layers });
    }

    pub fn leave(&mut self, leg: LegId, now_ns: u64) {
        if let Some(m) = self.member_mut(leg) {
            m.left_ns = Some(now_ns);
        }
    }

    /// Forgets members that left some time ago.
    pub fn tidy(&mut self, now_ns: u64) {
        self.members.retain(|m| m.left_ns.is_none_or(|t| now_ns < t + LINGER_NS));
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn member(&self, leg: LegId) -> Option<&Member> {
        self.members.iter().find(|m| m.leg == leg)
    }

    pub fn member_mut(&mut self, leg: LegId) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.leg == leg)
    }

    /// A sender's ledger. `hint` is where the member was last time: packets find it without a search.
    pub fn ledger_mut(&mut self, hint: &mut usize, leg: LegId, stream: u8) -> Option<&mut Ledger> {
        if self.members.get(*hint).is_none_or(|m| m.leg != leg) {
            *hint = self.members.iter().position(|m| m.leg == leg)?;
        }
        let m = &mut self.members[*hint];
        match m.ledgers.get_mut(usize::from(stream)) {
            Some(one) => one.as_mut(),
            None => m.layers.get_mut(usize::from(stream) - 2),
        }
    }
}
