//! Sender and estimate against networks made of a few lines, in virtual time.

use super::*;
use crate::media::rtcp::{FEEDBACK_INTERVAL_US, Packet, TwccRecorder, Writer, parse};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;

/// Bits per second of the clips, headers included.
const NEEDS: [f64; 3] = [175_000.0, 540_000.0, 1_600_000.0];
const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
/// From the sender to the receiver and back, beside the bottleneck.
const WAY: u64 = 20 * MS;

/// What the network does.
#[derive(Clone, Copy)]
struct Network {
    bits_per_s: f64,
    queue_us: u64,
    loss: f64,
    /// Up to so much later, each packet by itself: that reorders.
    jitter_us: u64,
    feedback_loss: f64,
    /// Transport-wide feedback, else receiver reports.
    twcc: bool,
}

const GOOD: Network =
    Network { bits_per_s: 10e6, queue_us: 200 * MS, loss: 0.0, jitter_us: 3 * MS, feedback_loss: 0.0, twcc: true };

fn bottleneck(bits_per_s: f64) -> Network {
    Network { bits_per_s, ..GOOD }
}

struct Trace {
    now: u64,
    network: Network,
    rng: ChaCha8Rng,
    estimator: Estimator,
    steps: Steps,
    needs: Vec<f64>,
    at: usize,
    seq: u16,
    frames: u64,
    key_frame: bool,
    pacing: VecDeque<usize>,
    budget: f64,
    busy_until: u64,
    /// Arrival and number.
    flights: Vec<(u64, u16)>,
    recorder: TwccRecorder,
    feedback: VecDeque<(u64, Vec<u8>)>,
    /// Packets sent and lost since the last report, and in all.
    reported: (i64, i64),
    all: (u64, u64),
    /// When it went to which clip.
    log: Vec<(u64, usize)>,
}

impl Trace {
    /// Sends the clip of `top` at first, with those below it to step to.
    fn new(seed: u64, top: usize, network: Network) -> Trace {
        let needs = NEEDS[..=top].to_vec();
        let start = 7 * SECOND;
        Trace {
            now: start,
            network,
            rng: ChaCha8Rng::seed_from_u64(seed),
            estimator: Estimator::new(start, needs[top]),
            steps: Steps::new(needs.clone().into(), seed),
            needs,
            at: top,
            seq: 65_000,
            frames: 0,
            key_frame: true,
            pacing: VecDeque::new(),
            budget: 0.0,
            busy_until: 0,
            flights: Vec::new(),
            recorder: TwccRecorder::default(),
            feedback: VecDeque::new(),
            reported: (0, 0),
            all: (0, 0),
            log: Vec::new(),
        }
    }

    fn run(&mut self, seconds: u64) {
        let until = self.now + seconds * SECOND;
        while self.now < until {
            self.now += MS;
            self.send();
            self.receive();
            while self.feedback.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = self.feedback.pop_front().unwrap();
                for p in parse(&bytes) {
                    let Ok(Packet::Twcc(twcc)) = p else { panic!("{p:?}") };
                    self.estimator.on_feedback(self.now, &twcc);
                }
                self.decide();
            }
            if self.now.is_multiple_of(100 * MS) {
                self.decide();
            }
        }
    }

    fn decide(&mut self) {
        self.estimator.tick(self.now, true);
        let bits = self.estimator.bits_per_s();
        assert!((RATE_MIN..=RATE_MAX).contains(&bits), "{bits}");
        if let Some(to) = self.steps.decide(self.now, &mut self.estimator) {
            assert_ne!(to, self.at);
            self.at = to;
            self.key_frame = true;
            self.log.push((self.now, to));
        }
    }

    /// 30 frames a second, every 60th five times as large, paced at 2.5 times the rate.
    fn send(&mut self) {
        let need = self.needs[self.at];
        while self.frames * SECOND / 30 <= self.now - 7 * SECOND {
            let average = need / 8.0 / 30.0 * 60.0 / 64.0;
            let key = std::mem::take(&mut self.key_frame) || self.frames.is_multiple_of(60);
            let mut left = (average * if key { 5.0 } else { 1.0 }) as usize;
            while left > 0 {
                self.pacing.push_back(left.min(1100));
                left -= left.min(1100);
            }
            self.frames += 1;
        }
        let per_ms = need * 2.5 / 8000.0;
        self.budget = (self.budget + per_ms).min(5.0 * per_ms);
        while self.budget > 0.0
            && let Some(bytes) = self.pacing.pop_front()
        {
            self.budget -= bytes as f64;
            self.packet(bytes);
        }
    }

    fn packet(&mut self, bytes: usize) {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        if self.network.twcc {
            self.estimator.on_sent(self.now, seq, bytes);
        }
        self.reported.0 += 1;
        self.all.0 += 1;
        let n = self.network;
        let begin = self.busy_until.max(self.now);
        if begin - self.now > n.queue_us || self.rng.random_bool(n.loss) {
            self.reported.1 += 1;
            self.all.1 += 1;
            return;
        }
        self.busy_until = begin + (bytes as f64 * 8e6 / n.bits_per_s) as u64;
        let jitter = self.rng.random_range(0..=n.jitter_us);
        self.flights.push((self.busy_until + WAY + jitter, seq));
    }

    fn receive(&mut self) {
        let now = self.now;
        self.flights.sort_unstable();
        while self.flights.first().is_some_and(|(at, _)| *at <= now) {
            let (at, seq) = self.flights.remove(0);
            // The receiver's clock is another one.
            self.recorder.record(seq, at as i64 + 1_000_000_000_000);
        }
        if self.network.twcc && self.recorder.is_due(now as i64) {
            let mut buf = [0; 1200];
            let mut writer = Writer::new(&mut buf);
            debug_assert_eq!(FEEDBACK_INTERVAL_US, 100_000);
            while self.recorder.pending() > 0 && self.recorder.write(now as i64, &mut writer, 1, 2).unwrap() > 0 {}
            if !self.rng.random_bool(self.network.feedback_loss) {
                self.feedback.push_back((now + WAY, writer.as_bytes().to_vec()));
            }
        }
        if !self.network.twcc && now.is_multiple_of(SECOND) {
            let (expected, lost) = std::mem::take(&mut self.reported);
            self.estimator.on_report(now, expected, lost);
        }
    }

    /// Share of packets lost in the next seconds.
    fn loss_in(&mut self, seconds: u64) -> f64 {
        let before = self.all;
        self.run(seconds);
        (self.all.1 - before.1) as f64 / (self.all.0 - before.0) as f64
    }

    fn ups(&self) -> Vec<u64> {
        let before = [self.needs.len() - 1].into_iter().chain(self.log.iter().map(|(_, to)| *to));
        let ups = self.log.iter().zip(before).filter(|((_, to), before)| to > before);
        ups.map(|((at, _), _)| *at).collect()
    }
}

#[test]
fn a_network_with_room_is_left_alone() {
    for seed in 0..4 {
        for network in [
            GOOD,
            Network { loss: 0.015, ..GOOD },
            Network { jitter_us: 25 * MS, ..GOOD },
            Network { feedback_loss: 0.4, ..GOOD },
            Network { twcc: false, loss: 0.05, ..GOOD },
        ] {
            let mut t = Trace::new(seed, 2, network);
            t.run(90);
            assert_eq!(t.log, [], "{seed}");
        }
    }
}

#[test]
fn behind_a_bottleneck_it_goes_down_tries_ever_more_rarely_and_comes_back() {
    for (seed, feedback_loss) in [(1, 0.0), (2, 0.0), (3, 0.3)] {
        let mut t = Trace::new(seed, 1, Network { feedback_loss, ..bottleneck(400e3) });
        let start = t.now;
        t.run(5);
        assert_eq!(t.log.first().map(|l| l.1), Some(0), "{seed}");
        assert!(t.log[0].0 - start < 4 * SECOND, "{seed}: {:?}", t.log);
        t.run(175);
        let waits: Vec<u64> = t.ups().windows(2).map(|w| (w[1] - w[0]) / SECOND).collect();
        assert!((3..6).contains(&waits.len()), "{seed}: {waits:?}");
        assert!(waits.windows(2).all(|w| w[1] * 10 > w[0] * 13 || w[0] > 40), "{seed}: {waits:?}");
        // Loss in trials only, and little of the time is that.
        assert!(t.loss_in(60) < 0.02, "{seed}: {:?}", t.log);
        t.network = GOOD;
        t.run(75);
        assert_eq!(t.at, 1, "{seed}: {:?}", t.log);
        let steps = t.log.len();
        t.run(60);
        assert_eq!(t.log.len(), steps, "{seed}: {:?}", t.log);
    }
}

#[test]
fn a_failed_trial_ends_where_it_began() {
    for seed in 0..4 {
        let mut t = Trace::new(seed, 2, bottleneck(900e3));
        t.run(200);
        let (first, rest) = t.log.split_at(1);
        assert!(first[0].1 <= 1, "{:?}", t.log);
        let settled = rest.iter().skip_while(|l| l.1 != 1);
        assert!(settled.clone().count() >= 4, "{seed}: {:?}", t.log);
        assert!(settled.clone().all(|l| l.1 > 0), "{seed}: {:?}", t.log);
    }
}

#[test]
fn much_loss_brings_it_down_with_and_without_transport_wide_feedback() {
    for twcc in [true, false] {
        let mut t = Trace::new(5, 1, Network { loss: 0.2, twcc, ..GOOD });
        t.run(12);
        assert_eq!(t.at, 0, "{twcc}: {:?}", t.log);
        t.run(60);
        assert_eq!(t.log.len(), 1, "no trial while it lasts: {:?}", t.log);
        t.network.loss = 0.0;
        t.run(20);
        assert_eq!(t.at, 1, "{twcc}: {:?}", t.log);
        // A queue that overflows.
        t.network = Network { twcc, ..bottleneck(400e3) };
        t.run(8);
        assert_eq!(t.at, 0, "{twcc}: {:?}", t.log);
    }
}

#[test]
fn remb_bounds_it() {
    let mut t = Trace::new(6, 2, GOOD);
    t.run(5);
    t.estimator.on_remb(700_000);
    t.run(1);
    assert_eq!(t.at, 1);
    t.estimator.on_remb(0);
    t.run(60);
    assert_eq!((t.at, t.log.len()), (0, 2), "no trial above the bound: {:?}", t.log);
    t.estimator.on_remb(u64::MAX);
    t.run(20);
    assert_eq!(t.at, 2, "{:?}", t.log);
}

#[test]
fn a_black_out_is_congestion_and_a_pause_is_none() {
    let mut t = Trace::new(7, 1, GOOD);
    t.run(10);
    for _ in 0..60 {
        t.now += 100 * MS;
        t.estimator.tick(t.now, false);
    }
    assert_eq!(t.steps.decide(t.now, &mut t.estimator), None);
    t.network.loss = 1.0;
    t.run(5);
    assert_eq!(t.at, 0);
    t.network.loss = 0.0;
    t.run(30);
    assert_eq!(t.at, 1, "{:?}", t.log);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let log = |seed| {
        let mut t = Trace::new(seed, 2, Network { loss: 0.01, ..bottleneck(700e3) });
        t.run(60);
        t.log
    };
    assert_eq!(log(8), log(8));
    assert_ne!(log(8), log(9));
}

/// Anything that may happen to an estimator.
#[derive(Clone, Debug)]
enum Input {
    Sent(u16, usize),
    Time(u64),
    Back(u64),
    Feedback(u16, u32, Vec<Option<i16>>),
    Bytes(Vec<u8>),
    Report(i64, i64),
    Remb(u64),
    RoundTrip(u64),
    Tick(bool),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        (0u16..600, 0usize..70_000).prop_map(|(seq, n)| Input::Sent(seq, n)),
        (0u64..300_000).prop_map(Input::Time),
        any::<u64>().prop_map(Input::Time),
        any::<u64>().prop_map(Input::Back),
        (0u16..600, any::<u32>(), prop::collection::vec(any::<Option<i16>>(), 1..60))
            .prop_map(|(base, reference, deltas)| Input::Feedback(base, reference, deltas)),
        (any::<u16>(), 0u32..4, prop::collection::vec(prop::option::of(0i16..300), 1..60))
            .prop_map(|(base, reference, deltas)| Input::Feedback(base, reference, deltas)),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(Input::Bytes),
        (any::<i64>(), any::<i64>()).prop_map(|(e, l)| Input::Report(e, l)),
        (0i64..100, -5i64..100).prop_map(|(e, l)| Input::Report(e, l)),
        any::<u64>().prop_map(Input::Remb),
        any::<u64>().prop_map(Input::RoundTrip),
        any::<bool>().prop_map(Input::Tick),
    ]
}

proptest! {
    #[test]
    fn nothing_takes_the_estimate_out_of_its_bounds(inputs in prop::collection::vec(input(), 1..200)) {
        let mut estimator = Estimator::new(0, NEEDS[2]);
        let mut steps = Steps::new(NEEDS.to_vec().into(), 1);
        let (mut now, mut at) = (0u64, 2);
        for input in inputs {
            let mut buf = [0; 2000];
            let mut feedback = Vec::new();
            match input {
                Input::Sent(seq, bytes) => estimator.on_sent(now, seq, bytes),
                Input::Time(us) => now = now.saturating_add(us),
                Input::Back(us) => now = now.saturating_sub(us),
                Input::Feedback(base, reference, deltas) => {
                    let mut writer = Writer::new(&mut buf);
                    writer.twcc(1, 2, base, reference & 0xff_ffff, 3, &deltas).unwrap();
                    feedback = writer.as_bytes().to_vec();
                }
                Input::Bytes(body) => {
                    // A well-framed one with anything inside.
                    let body = &body[..body.len() / 4 * 4];
                    feedback = [&[0x8f, 205, 0, (body.len() / 4) as u8][..], body].concat();
                }
                Input::Report(expected, lost) => estimator.on_report(now, expected, lost),
                Input::Remb(bits) => estimator.on_remb(bits),
                Input::RoundTrip(us) => estimator.on_round_trip(us),
                Input::Tick(sends) => estimator.tick(now, sends),
            }
            for p in parse(&feedback) {
                if let Ok(Packet::Twcc(twcc)) = p {
                    estimator.on_feedback(now, &twcc);
                }
            }
            if let Some(to) = steps.decide(now, &mut estimator) {
                prop_assert!(to != at && to < NEEDS.len());
                at = to;
            }
            let bits = estimator.bits_per_s();
            prop_assert!((RATE_MIN..=RATE_MAX).contains(&bits), "{}", bits);
        }
    }
}
