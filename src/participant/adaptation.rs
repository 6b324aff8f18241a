//! Adaptation of what is sent: feedback into the estimate, and the clip that follows from it.

use super::{Participant, World};
use crate::media::adapt::{Estimator, Steps};
use crate::media::clip::Clip;
use crate::media::rtcp::{Remb, Twcc};
use std::sync::Arc;

/// Bytes of a packet around its payload, about: RTP header with extensions 28, SRTP tag 10 to 16.
const PACKET_OVERHEAD: f64 = 40.0;

/// Of the participant's video; its audio is left alone, and takes no part in the estimate.
pub(super) struct Adaptation {
    estimator: Estimator,
    steps: Steps,
    /// The transport that the estimate is about.
    slot: Option<u8>,
}

impl Adaptation {
    /// `clips`: the lowest first.
    pub fn new(now_ns: u64, clips: &[Arc<Clip>], seed: u64) -> Adaptation {
        let need = |c: &Arc<Clip>| c.payload_bitrate() + c.packets_per_second() * PACKET_OVERHEAD * 8.0;
        let steps = Steps::new(clips.iter().map(need).collect(), seed);
        Adaptation { estimator: Estimator::new(now_ns / 1000, steps.sending()), steps, slot: None }
    }

    /// A packet of `bytes` went out on a transport.
    #[inline]
    pub fn on_sent(&mut self, now_ns: u64, slot: u8, twcc_seq: u16, bytes: usize) {
        if self.slot != Some(slot) {
            self.begin(now_ns, slot);
        }
        self.estimator.on_sent(now_ns / 1000, twcc_seq, bytes);
    }

    /// Another network: nothing is known of it.
    fn begin(&mut self, now_ns: u64, slot: u8) {
        self.slot = Some(slot);
        self.estimator = Estimator::new(now_ns / 1000, self.steps.sending());
    }
}

impl Participant {
    pub(super) fn on_twcc(&mut self, w: &mut World<'_>, slot: u8, twcc: &Twcc<'_>) {
        let Some(a) = self.adaptation.as_deref_mut().filter(|a| a.slot == Some(slot)) else { return };
        a.estimator.on_feedback(w.now_ns / 1000, twcc);
        self.adapt(w);
    }

    /// It counts where it is about our video.
    pub(super) fn on_remb(&mut self, w: &mut World<'_>, remb: &Remb<'_>) {
        let Some(a) = self.adaptation.as_deref_mut() else { return };
        let ours = |ssrc: u32| self.tracks.iter().any(|t| t.ssrc == ssrc && t.sender.stepped().is_some());
        if remb.ssrcs().any(ours) {
            a.estimator.on_remb(remb.bitrate);
            self.adapt(w);
        }
    }

    /// Packets of our video that the server expected since its last report, and of these, missed.
    pub(super) fn on_reported(&mut self, w: &mut World<'_>, expected: i64, lost: i64) {
        let Some(a) = self.adaptation.as_deref_mut() else { return };
        a.estimator.on_report(w.now_ns / 1000, expected, lost);
        self.adapt(w);
    }

    /// Chooses the clip; asked after all feedback, and ten times a second.
    pub(super) fn adapt(&mut self, w: &mut World<'_>) {
        let Some(a) = self.adaptation.as_deref_mut() else { return };
        let Some(t) = self.tracks.iter_mut().find(|t| t.sender.stepped().is_some()) else { return };
        let (now_us, sends) = (w.now_ns / 1000, t.sender.is_running());
        let slot = t.slot.and_then(|s| self.slots.get(usize::from(s))).and_then(|s| s.as_deref());
        if let Some(rtt) = slot.and_then(|s| s.rtt) {
            a.estimator.on_round_trip(rtt.as_micros() as u64);
        }
        a.estimator.tick(now_us, sends);
        if sends && let Some(to) = a.steps.decide(now_us, &mut a.estimator) {
            t.sender.step_to(to);
        }
    }
}
