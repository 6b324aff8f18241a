//! What is counted of received and sent media, per kind, over one interval or many.

use super::Hist;
use serde::{Deserialize, Serialize};
use std::ops::{AddAssign, Sub};

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name { $($(#[$fdoc])* #[serde(skip_serializing_if = "is_zero")] pub $field: i64),+ }
        impl AddAssign<&$name> for $name {
            // Saturating: a history read from a file may hold anything.
            fn add_assign(&mut self, o: &$name) { $(self.$field = self.$field.saturating_add(o.$field);)+ }
        }
        impl Sub for $name {
            type Output = $name;
            fn sub(self, o: $name) -> $name { $name { $($field: self.$field.saturating_sub(o.$field)),+ } }
        }
    };
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(v: &i64) -> bool {
    *v == 0
}

counters!(
    /// Mergeable counters of one kind of media. Deltas over an interval may be negative where a packet of an earlier
    /// interval arrives in a later one; sums over a whole leg are not.
    FlowCounters {
        /// Media packets sent by participants (no retransmission), and their RTP bytes.
        sent, sent_bytes,
        /// RTP packets received, all of them but RTX and padding-only, and their bytes.
        received, received_bytes,
        /// RFC 3550 A.1: extended highest sequence - first + 1.
        rtp_expected,
        /// Unique packets that arrived by themselves (not as a retransmission).
        rtp_received,
        /// Sequence numbers seen again.
        duplicate,
        /// Arrived behind a later sequence number.
        reordered,
        /// Missing packets that a retransmission (RTX or a repeated packet after our NACK) brought.
        recovered,
        /// e2e: media packets that the sender sent while the receiver was subscribed, by stamps and the sender's ledger.
        e2e_expected,
        /// e2e: of these, unique packets received, recovered ones included.
        e2e_received,
        /// Frames (video) or packets (audio) without a stamp of this run: a server's own media.
        unstamped,
        /// Stamps that are truncated, fail their check sum or belong to another run.
        foreign_stamps,
        /// Frames assembled complete, key frames among them.
        frames, key_frames,
        /// Assembled-frame freezes (webrtc-stats freezeCount's rule), their length in ms, and ms of watched video.
        freezes, frozen_ms, watched_ms,
        /// Feedback, by us / by the server.
        nacks_sent, nacks_received, plis_sent, plis_received, firs_sent, firs_received, twcc_sent, twcc_received, remb_received,
        /// Times that the server went on with another layer of a sender's video (simulcast), as receivers saw it.
        layer_switches,
        /// Times that the server said that it forwards a sender's video to a receiver no longer (last-N).
        paused,
        /// Steps of adaptive senders to a clip of fewer bits, and to one of more.
        steps_down, steps_up,
        /// Time that adaptive senders sent, and of this, at less than the profile's bit rate, ms.
        adaptive_ms, below_ms,
        /// Packets sent again on NACK.
        retransmitted,
        /// By the server's receiver reports: packets of ours that it expected, and of these, missed.
        reported_expected, reported_lost,
        /// SRTP or SRTCP packets whose tag did not verify, replays.
        auth_failed, replayed,
        /// Datagrams that parse as nothing.
        malformed,
    }
);

/// Counters and distributions of one kind of media.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    #[serde(flatten)]
    pub count: FlowCounters,
    /// RFC 3550 6.4.1 interarrival jitter of each stream, sampled once a second.
    #[serde(skip_serializing_if = "Hist::is_empty")]
    pub jitter: Hist,
    /// Jitter of frames: the estimator run on the first packet of each frame only (video).
    #[serde(skip_serializing_if = "Hist::is_empty")]
    pub frame_jitter: Hist,
    /// One-way delay of each stamped packet that was no retransmission: kernel receive time - actual send time.
    #[serde(skip_serializing_if = "Hist::is_empty")]
    pub delay: Hist,
    /// Round-trip time to the server from SR/RR (A - LSR - DLSR).
    #[serde(skip_serializing_if = "Hist::is_empty")]
    pub rtt: Hist,
    /// Longest gap in must-flow audio that ended or was open in the interval, in ms (audio only).
    #[serde(skip_serializing_if = "is_zero")]
    pub silence_max_ms: i64,
    /// E-model scores of audio, in hundredths: each listener and source, over ten seconds each (audio only).
    #[serde(skip_serializing_if = "Hist::is_empty")]
    pub mos: Hist,
    /// Leg-seconds in which a receiving leg had this kind flowing, and of these, with any e2e loss.
    #[serde(skip_serializing_if = "is_zero")]
    pub leg_seconds: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub lossy_leg_seconds: i64,
}

impl Flow {
    /// Halves the resolution of what need not be told to 1 % ([`Hist::thin`]): all but delays and scores.
    pub fn thin(&mut self) {
        for h in [&mut self.jitter, &mut self.frame_jitter, &mut self.rtt] {
            h.thin();
        }
    }

    pub fn merge(&mut self, o: &Flow) {
        self.count += &o.count;
        self.jitter.merge(&o.jitter);
        self.frame_jitter.merge(&o.frame_jitter);
        self.delay.merge(&o.delay);
        self.rtt.merge(&o.rtt);
        self.mos.merge(&o.mos);
        self.silence_max_ms = self.silence_max_ms.max(o.silence_max_ms);
        self.leg_seconds = self.leg_seconds.saturating_add(o.leg_seconds);
        self.lossy_leg_seconds = self.lossy_leg_seconds.saturating_add(o.lossy_leg_seconds);
    }
}

impl FlowCounters {
    /// Share (0..1) of `e2e_expected` that did not arrive; `None` when nothing was expected.
    pub fn e2e_loss(&self) -> Option<f64> {
        share(self.e2e_expected.saturating_sub(self.e2e_received), self.e2e_expected)
    }

    /// What is kept of a room: whether its media arrived.
    pub fn of_room(&self) -> FlowCounters {
        let FlowCounters { sent, rtp_expected, rtp_received, recovered, e2e_expected, e2e_received, .. } = *self;
        let FlowCounters { freezes, frozen_ms, watched_ms, .. } = *self;
        FlowCounters {
            sent,
            rtp_expected,
            rtp_received,
            recovered,
            e2e_expected,
            e2e_received,
            freezes,
            frozen_ms,
            watched_ms,
            ..FlowCounters::default()
        }
    }

    /// Share (0..1) lost by RFC 3550 counts after recovery; `None` when nothing was expected.
    pub fn rtp_loss(&self) -> Option<f64> {
        share(self.rtp_expected.saturating_sub(self.rtp_received).saturating_sub(self.recovered), self.rtp_expected)
    }
}

fn share(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part.max(0) as f64 / whole as f64)
}
