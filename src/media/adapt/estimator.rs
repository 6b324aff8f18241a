//! What a transport can carry, by everything that comes back.

use super::acked::Acked;
use super::delay::{Delay, HEADROOM};
use super::groups::Groups;
use super::trend::{Trend, Usage};
use crate::media::rtcp::Twcc;

/// Bounds of every estimate, bits per second.
pub const RATE_MIN: f64 = 5_000.0;
pub const RATE_MAX: f64 = 100_000_000.0;

/// Sent packets that feedback may be about: more than two seconds of our largest clip.
const RING: usize = 512;

/// One reading of the loss covers at least this, and so many packets.
const LOSS_INTERVAL_US: u64 = 1_000_000;
const LOSS_PACKETS_MIN: i64 = 20;
/// draft-ietf-rmcat-gcc-02 6: above the one it goes down, below the other up, between them it stays.
const LOSS_HIGH: f64 = 0.1;
const LOSS_LOW: f64 = 0.02;
const LOSS_INCREASE: f64 = 1.05;

/// Receiver reports that come so soon after a step are about the clip before it.
const REPORT_SETTLES_US: u64 = 1_500_000;

/// Without an answer for this long, packets or feedback are taken for lost, and the rate goes down again and again.
const SILENCE_US: u64 = 2_000_000;
const SILENCE_DECREASE: f64 = 0.8;

#[derive(Clone, Copy, Default, Debug)]
struct SentPacket {
    at_us: u64,
    seq: u16,
    bytes: u16,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    #[default]
    Settled,
    Open,
    /// Feedback said so; it may yet arrive.
    Lost,
}

/// Packets that were expected, and of these, missed.
#[derive(Clone, Copy, Default, Debug)]
struct Loss {
    expected: i64,
    lost: i64,
}

impl Loss {
    fn add(&mut self, expected: i64, lost: i64) {
        self.expected = self.expected.saturating_add(expected);
        self.lost = self.lost.saturating_add(lost);
    }

    fn share(&self) -> f64 {
        if self.expected > 0 { (self.lost as f64 / self.expected as f64).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// The estimate of one transport for its video. All memory is taken at creation.
#[derive(Debug)]
pub struct Estimator {
    sent: Box<[SentPacket]>,
    groups: Groups,
    trend: Trend,
    acked: Acked,
    delay: Delay,
    /// Rate that loss allows.
    loss_rate: f64,
    loss: Loss,
    loss_since_us: u64,
    remb: Option<u64>,
    /// What the clip that is sent takes.
    sending: f64,
    round_trip_us: u64,
    /// The receiver's clock: reference time of the last feedback, as sent and without its wraps.
    reference: Option<(u32, i64)>,
    /// The first packet that nothing has answered to yet.
    unanswered_us: Option<u64>,
    silent_us: u64,
    /// When another clip was begun.
    stepped_us: u64,
    /// Without congestion since; loss since then.
    calm_us: u64,
    calm_loss: Loss,
}

impl Estimator {
    /// For a sender that begins with so many bits a second.
    pub fn new(now_us: u64, sending: f64) -> Estimator {
        Estimator {
            sent: vec![SentPacket::default(); RING].into_boxed_slice(),
            groups: Groups::default(),
            trend: Trend::default(),
            acked: Acked::default(),
            delay: Delay::new(now_us, sending),
            loss_rate: sending,
            loss: Loss::default(),
            loss_since_us: now_us,
            remb: None,
            sending,
            round_trip_us: 200_000,
            reference: None,
            unanswered_us: None,
            silent_us: 0,
            stepped_us: now_us,
            calm_us: now_us,
            calm_loss: Loss::default(),
        }
    }

    /// A packet went out under this transport-wide sequence number.
    #[inline]
    pub fn on_sent(&mut self, now_us: u64, seq: u16, bytes: usize) {
        let bytes = bytes.min(usize::from(u16::MAX)) as u16;
        self.sent[usize::from(seq) % RING] = SentPacket { at_us: now_us, seq, bytes, state: State::Open };
        self.unanswered_us.get_or_insert(now_us);
    }

    /// Transport-wide feedback. What it says of packets that are not ours, or too old, is passed over.
    pub fn on_feedback(&mut self, now_us: u64, twcc: &Twcc<'_>) {
        self.unanswered_us = None;
        let mut arrival = self.reference_us(twcc);
        let mut usage = None;
        for (seq, delta) in twcc.deltas() {
            arrival = arrival.saturating_add(i64::from(delta.unwrap_or(0)));
            let p = &mut self.sent[usize::from(seq) % RING];
            if p.seq != seq || p.state == State::Settled {
                continue;
            }
            let since_step = p.at_us >= self.stepped_us;
            let counted = i64::from(p.state == State::Open);
            if delta.is_none() {
                if since_step {
                    self.loss.add(counted, counted);
                }
                p.state = State::Lost;
                continue;
            }
            if since_step {
                self.loss.add(counted, counted - 1);
            }
            p.state = State::Settled;
            let (sent, bytes) = (p.at_us as i64, u64::from(p.bytes));
            self.acked.add(arrival, bytes);
            if let Some(delta) = self.groups.add(sent, arrival) {
                let now = self.trend.add(&delta);
                // Over-use by what was sent before the step is what the step was for.
                let old = delta.first_sent_us < self.stepped_us as i64;
                usage = match now {
                    Usage::Over if old => usage,
                    // The worst of one feedback counts.
                    _ if usage == Some(Usage::Over) => usage,
                    now => Some(now),
                };
            }
        }
        let acked = self.acked_rate();
        let decreased = usage.is_some_and(|u| self.delay.on_usage(now_us, u, acked, self.round_trip_us));
        // A key frame may well queue for a moment where the clip itself has room.
        if decreased && self.bits_per_s() < self.sending {
            self.calm(now_us);
        }
        self.delay.rise(now_us, acked, self.round_trip_us);
        self.judge_loss(now_us);
    }

    /// What a receiver report says of the packets since the one before; for where there is no transport-wide feedback.
    pub fn on_report(&mut self, now_us: u64, expected: i64, lost: i64) {
        if self.reference.is_none() && now_us >= self.stepped_us.saturating_add(REPORT_SETTLES_US) {
            self.loss.add(expected.max(0), lost);
            self.judge_loss(now_us);
        }
    }

    /// The server's own estimate, or the most that it wants, bits per second.
    pub fn on_remb(&mut self, bits_per_s: u64) {
        self.remb = Some(bits_per_s);
    }

    pub fn on_round_trip(&mut self, us: u64) {
        self.round_trip_us = us;
    }

    /// Time passes, with media being sent or not.
    pub fn tick(&mut self, now_us: u64, sends: bool) {
        if !sends {
            self.unanswered_us = None;
            self.calm(now_us);
            return;
        }
        // Only where feedback has come at all.
        let unanswered = self.unanswered_us.filter(|_| self.reference.is_some());
        let last = unanswered.map(|at| at.max(self.silent_us));
        if last.is_some_and(|at| now_us.saturating_sub(at) >= SILENCE_US) {
            self.silent_us = now_us;
            self.delay.rate = self.used() * SILENCE_DECREASE;
            self.calm(now_us);
        }
    }

    /// Another clip is sent from now on. The estimate is not below `at_least`.
    pub fn step(&mut self, now_us: u64, sending: f64, at_least: f64) {
        self.sending = sending;
        self.stepped_us = now_us;
        self.delay.rate = self.delay.rate.max(at_least);
        self.loss_rate = self.loss_rate.max(at_least);
        (self.loss, self.loss_since_us) = (Loss::default(), now_us);
        self.calm(now_us);
    }

    /// The estimate, within [`RATE_MIN`] and [`RATE_MAX`].
    pub fn bits_per_s(&self) -> f64 {
        self.delay.rate.min(self.loss_rate).min(self.bound()).clamp(RATE_MIN, RATE_MAX)
    }

    /// What REMB allows at most.
    pub fn bound(&self) -> f64 {
        self.remb.map_or(RATE_MAX, |bits| bits as f64)
    }

    /// For how long there has been no congestion, µs.
    pub fn calm_for_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.calm_us)
    }

    /// Whether little enough was lost in that time for the rate to rise.
    pub fn is_clean(&self) -> bool {
        let mut all = self.calm_loss;
        all.add(self.loss.expected, self.loss.lost);
        all.share() < LOSS_LOW
    }

    /// The time without congestion begins anew.
    pub fn calm(&mut self, now_us: u64) {
        (self.calm_us, self.calm_loss) = (now_us, Loss::default());
    }

    /// What of the estimate is put to use: when that runs into congestion, what lies above it counts for nothing.
    fn used(&self) -> f64 {
        self.bits_per_s().min(self.sending)
    }

    /// Until enough has arrived to tell: what is sent.
    fn acked_rate(&self) -> f64 {
        self.acked.rate().unwrap_or(self.sending)
    }

    fn judge_loss(&mut self, now_us: u64) {
        let seconds = now_us.saturating_sub(self.loss_since_us);
        if seconds < LOSS_INTERVAL_US || self.loss.expected < LOSS_PACKETS_MIN {
            return;
        }
        let share = self.loss.share();
        self.calm_loss.add(self.loss.expected, self.loss.lost);
        if share > LOSS_HIGH {
            self.loss_rate = self.used() * (1.0 - 0.5 * share);
            self.calm(now_us);
        } else if share < LOSS_LOW {
            let more = (self.loss_rate * LOSS_INCREASE).min(HEADROOM * self.sending);
            self.loss_rate = self.loss_rate.max(more);
        }
        (self.loss, self.loss_since_us) = (Loss::default(), now_us);
    }

    /// The reference time without wraps: it has 24 bits, 12.4 days.
    fn reference_us(&mut self, twcc: &Twcc<'_>) -> i64 {
        let raw = twcc.reference;
        let whole = match self.reference {
            None => i64::from(raw),
            Some((before, whole)) => {
                let moved = (raw.wrapping_sub(before) << 8) as i32 >> 8;
                whole.saturating_add(i64::from(moved))
            }
        };
        self.reference = Some((raw, whole));
        whole.saturating_mul(64_000)
    }
}
