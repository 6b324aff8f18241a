//! What a leg of the plan amounts to: the participant that it is, and what the history says of its end. Pure: the same for a
//! run over sockets and one in virtual time.

use crate::history::{self, LegCause, LegEnd};
use crate::impair::Counters;
use crate::media::clip::ClipLibrary;
use crate::participant::{FlowGap, Silence, Spec, TalkSpec, Totals};
use crate::plan::{Plan, PlannedLeg, PlannedRoom, mute_seed, talk_seed};
use crate::profile::{Profile, Talk};
use crate::types::{Encoding, LegId, RoomId, ServerId};
use std::time::Instant;

/// The participant of a leg. `planned_ns`: its planned start, ns of CLOCK_REALTIME; `epoch`: when the run, and with it each
/// room's conversation, began.
pub fn participant_of(
    profile: &Profile,
    plan: &Plan,
    leg: &PlannedLeg,
    clips: &ClipLibrary,
    planned_ns: u64,
    epoch: Instant,
) -> Spec {
    let room = &plan.rooms[leg.room.index()];
    let group = &profile.rooms[room.group];
    let clip = |e: Option<Encoding>| e.and_then(|e| clips.clip(e));
    let below = |encodings: Vec<Encoding>| {
        let sent = leg.video.map_or(Vec::new(), |_| encodings);
        sent.into_iter().filter_map(|e| clip(Some(e))).collect()
    };
    Spec {
        leg: leg.clone(),
        clips: [clip(leg.audio), clip(leg.video)],
        lower_layers: below(group.lower_layers()),
        steps: below(group.steps()),
        seed: plan.seed ^ (u64::from(leg.id.0) << 32 | 0x5eed),
        planned_ns,
        network_delay_max: group.network_delay_max(),
        talk: talk(profile, plan.seed, leg, room, epoch),
    }
}

/// How a leg uses its microphone; all of a room compute the same conversation.
fn talk(profile: &Profile, seed: u64, leg: &PlannedLeg, room: &PlannedRoom, epoch: Instant) -> TalkSpec {
    let group = &profile.rooms[room.group];
    let floor = (group.talk == Talk::P59).then(|| (talk_seed(seed, room), room.senders_max, leg.seat));
    let mutes = group.mute.map(|m| (mute_seed(seed, room, leg.seat), m.after, m.lasts));
    TalkSpec { floor, mutes, epoch: Some(epoch) }
}

/// How a leg was over, beside what it measured.
pub struct Over {
    pub leg: LegId,
    pub room: RoomId,
    pub server: Option<ServerId>,
    pub cause: LegCause,
    pub detail: String,
    pub ice_restarts: u32,
    /// What its own network did, up and down.
    pub impaired: Option<[Counters; 2]>,
}

/// The history's line of a leg's end. `epoch_ns`: the start of the run, ns of CLOCK_REALTIME.
pub fn leg_end(over: Over, t: &Totals, epoch_ns: u64) -> LegEnd {
    let ms = |at_ns: u64| at_ns.saturating_sub(epoch_ns) as f64 / 1e6;
    let silence = |s: &Silence| history::Silence { from_ms: ms(s.from_ns), until_ms: ms(s.until_ns) };
    let flow_gap = |g: &FlowGap| history::FlowGap {
        from: g.from,
        kind: g.kind,
        from_ms: ms(g.gap.began_ns),
        until_ms: ms(g.gap.ended_ns),
    };
    LegEnd {
        leg: over.leg,
        room: over.room,
        server: over.server,
        cause: over.cause,
        detail: over.detail,
        audio: t.audio,
        video: t.video,
        worst_10s_loss: t.worst_10s_loss,
        worst_10s_at_ms: t.worst_10s_at_ns.map(|at| at.map(ms)),
        silences: t.silences.iter().map(silence).collect(),
        flow_gaps: t.flow_gaps.iter().map(flow_gap).collect(),
        ice_restarts: over.ice_restarts,
        longest_gap_ms: t.longest_gap.0,
        longest_gap_at_ms: ms(t.longest_gap.1),
        impaired: over.impaired,
    }
}
