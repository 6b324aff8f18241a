//! Who is in a room, as its participants' measurements need it: the senders' ledgers.

use crate::measure::Ledger;
use crate::types::{Kind, LegId};

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
    /// What it has sent, by kind; `None` for what it never sends.
    pub ledgers: [Option<Ledger>; 2],
}

impl Room {
    pub fn new() -> Room {
        Room::default()
    }

    pub fn join(&mut self, leg: LegId, planned_ns: u64, sends: [bool; 2]) {
        let ledgers = sends.map(|s| s.then(Ledger::new));
        self.members.push(Member { leg, planned_ns, connected_ns: None, left_ns: None, ledgers });
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
    pub fn ledger_mut(&mut self, hint: &mut usize, leg: LegId, kind: Kind) -> Option<&mut Ledger> {
        if self.members.get(*hint).is_none_or(|m| m.leg != leg) {
            *hint = self.members.iter().position(|m| m.leg == leg)?;
        }
        self.members[*hint].ledgers[kind.index()].as_mut()
    }
}
