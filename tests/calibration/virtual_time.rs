//! The grid in virtual time: a sender and a receiver, whole participants with SRTP on both sides of the embedded SFU,
//! each behind a link of the impairer. No scheduler, no kernel: what the report says must be what the log says.

use crate::sim::{Sim, encoding};
use crate::table::{Cell, Check};
use crate::truth::{H264, OPUS, Stream, VP8, delays, quantile, recovered, renumbered, streams};
use roomful::impair::{Conditions, Record};
use roomful::measure::FlowCounters;
use roomful::types::{Client, Codec};
use std::collections::HashSet;
use std::time::Duration;

/// Between a link and its other end.
const WIRE: Duration = Duration::from_millis(5);
/// Set-up is over by then: the first stamp is each count's baseline.
const AFTER: Duration = Duration::from_secs(4);

pub struct Setting {
    pub name: &'static str,
    pub up: Conditions,
    pub down: Conditions,
    pub client: Client,
    pub codec: Codec,
    pub seconds: u64,
}

struct Measured {
    up: Vec<Record>,
    down: Vec<Record>,
    counts: [FlowCounters; 2],
    /// When samples were taken, on the links' clock.
    ticks: Vec<u64>,
    sim: Sim,
    /// Freezes by second.
    freezes: Vec<(u64, i64)>,
}

fn run(s: &Setting, seed: u64) -> Measured {
    let mut sim = Sim::new(seed, s.client, WIRE);
    sim.network_delay_max = s.up.longest() + s.down.longest();
    let late = |c: Conditions| Conditions { after: AFTER, ..c };
    // The receiver is there first, so that it gets all there is.
    let receiver = sim.join(None, None, 1, [Conditions::PERFECT, late(s.down)]);
    sim.run(Duration::from_millis(1500));
    let (audio, video) = (Some(encoding(Codec::Opus, 32)), Some(encoding(s.codec, 150)));
    let sender = sim.join(audio, video, 1, [late(s.up), Conditions::PERFECT]);
    let mut freezes = Vec::new();
    let mut before = 0;
    for _ in 0..s.seconds * 10 {
        sim.run(Duration::from_millis(100));
        let now = sim.members[receiver].counts[1].freezes;
        if now != before {
            freezes.push((sim.now_ns(), now - before));
            before = now;
        }
    }
    sim.quiet(sender);
    sim.run(Duration::from_millis(2500) + sim.network_delay_max);
    sim.leave(receiver);
    sim.leave(sender);
    Measured {
        up: sim.members[sender].links[0].records().copied().collect(),
        down: sim.members[receiver].links[1].records().copied().collect(),
        counts: sim.members[receiver].counts,
        ticks: sim.sampled_ns.clone(),
        freezes,
        sim,
    }
}

fn one(records: &[Record], pts: &[u8]) -> Stream {
    let all = streams(records, pts);
    assert!(all.len() <= 1, "one stream of {pts:?}, not {}", all.len());
    all.into_values().next().unwrap_or_default()
}

/// Runs a setting and holds what was measured against the links' records.
pub fn cell(s: &Setting, seed: u64) -> Cell {
    let m = run(s, seed);
    let main = [if s.codec == Codec::Vp8 { VP8 } else { H264 }];
    let [audio_up, audio_down] = [&m.up, &m.down].map(|r| one(r, &[OPUS]));
    let video_down = one(&m.down, &main);
    let (a, v) = (&m.counts[0], &m.counts[1]);
    let wire = WIRE.as_nanos() as u64;
    let mut checks = Vec::new();

    // Audio is never sent again: what either link took is lost.
    let lost = audio_up.lost().len() + audio_down.lost().len();
    checks.push(Check::exact("audio e2e lost", lost as i64, a.e2e_expected - a.e2e_received));
    assert!(a.e2e_expected > 40 * s.seconds as i64, "{}: {a:?}", s.name);
    let rtp = audio_down.rtp();
    checks.push(Check::exact("audio rtp lost", rtp.expected - rtp.received, a.rtp_expected - a.rtp_received));
    checks.push(Check::exact("audio reordered", rtp.reordered, a.reordered));
    checks.push(Check::exact("audio duplicate", rtp.duplicate, a.duplicate));

    // Video is asked for again, and comes as RTX: what came by itself is known, however late. Of what is missing, some was
    // brought back, and the rest is what end to end is left; packets behind the last that arrived leave no gap.
    let video_up = one(&m.up, &main);
    let rtp = video_down.rtp();
    checks.push(Check::exact("video rtp lost", rtp.expected - rtp.received, v.rtp_expected - v.rtp_received));
    checks.push(Check::exact("video reordered", rtp.reordered, v.reordered));
    checks.push(Check::exact("video duplicate", rtp.duplicate, v.duplicate));
    let recovered = recovered(&video_down, &one(&m.down, &[main[0] + 1]));
    checks.push(Check::between("video recovered", recovered, v.recovered));
    // What the server never got, nor got again.
    let offset = renumbered(&video_up, &video_down, wire).unwrap();
    let forwarded: HashSet<i64> = video_down.packets.iter().map(|p| p.seq + offset).collect();
    let never = video_up.packets.iter().map(|p| p.seq).filter(|n| !forwarded.contains(n)).collect::<HashSet<_>>();
    let missing = (never.len() + video_down.lost().len()) as i64;
    let left = (missing - recovered.1, missing - recovered.0);
    checks.push(Check::between("video e2e lost", left, v.e2e_expected - v.e2e_received));
    let turned = m.up.iter().chain(&m.down).filter(|r| r.corrupted && r.lost.is_none()).count();
    if s.down.corrupt > 0.0 {
        let copies: usize = m.down.iter().filter(|r| r.corrupted && r.twice && r.lost.is_none()).count();
        let caught = |c: &FlowCounters| c.auth_failed + c.malformed;
        checks.push(Check::exact("corrupted", (turned + copies) as i64, caught(a) + caught(v)));
    }

    // Every packet of audio carries its stamp, and one of each video frame.
    let names = [
        ["audio delay p50 ms", "audio delay p99 ms", "audio jitter p50 ms", "audio jitter p95 ms"],
        ["video delay p50 ms", "video delay p99 ms", "video jitter p50 ms", "video jitter p95 ms"],
    ];
    let ticks: Vec<u64> = m.ticks.iter().map(|t| t - wire).collect();
    for (kind, (up, down)) in [(&audio_up, &audio_down), (&video_up, &video_down)].into_iter().enumerate() {
        let truth: Vec<f64> = delays(up, down, wire).iter().map(|ns| (ns + wire) as f64 / 1e6).collect();
        for (what, q) in [(names[kind][0], 0.5), (names[kind][1], 0.99)] {
            let truth = quantile(&mut truth.clone(), q).unwrap();
            let measured = m.sim.meter.delay[kind].quantile_ms(q).unwrap();
            checks.push(Check::within(what, truth, measured, 0.5 + 0.02 * truth, ""));
        }
        let flow = &m.sim.members[0].flows[kind];
        let jitter: Vec<f64> = down.jitter_at(&ticks).iter().map(|ns| ns / 1e6).collect();
        // What comes as RTX keeps a stream of video sampled of which nothing came by itself for a second.
        let more = flow.jitter.count().checked_sub(jitter.len() as u64);
        assert!(more.is_some_and(|n| n <= 2 * kind as u64), "{}: samples of jitter, {more:?} too many", s.name);
        for (what, q) in [(names[kind][2], 0.5), (names[kind][3], 0.95)] {
            let truth = quantile(&mut jitter.clone(), q).unwrap();
            // Within 5 %; a µs is the unit in which it is kept.
            checks.push(Check::within(what, truth, flow.jitter.quantile_ms(q).unwrap(), 0.05 * truth + 0.001, ""));
        }
    }

    // Freezes where black-outs are.
    if let Some(b) = s.down.blackout {
        let first = m.down[0].came_ns;
        let ms = |d: Duration| d.as_nanos() as u64;
        let last = m.up.iter().filter(|r| r.is_rtp()).map(|r| r.came_ns).max().unwrap_or(0);
        let every = b.every.map_or(u64::MAX, ms);
        let begins =
            (0..).map(|k| first + ms(b.after) + every.saturating_mul(k)).take_while(|t| t + ms(b.lasts) < last);
        let begins: Vec<u64> = begins.take(100).collect();
        checks.push(Check::exact("freezes", begins.len() as i64, v.freezes));
        // Each shows within a second of its beginning or of its end.
        let right = m
            .freezes
            .iter()
            .filter(|(at, n)| *n > 0 && begins.iter().any(|t| (*t..t + ms(b.lasts) + 1_200_000_000).contains(at)));
        checks.push(Check::exact("freezes at their time", begins.len() as i64, right.map(|(_, n)| n).sum()));
        let frozen = begins.len() as f64 * b.lasts.as_secs_f64() * 1000.0;
        // To the next whole frame on either side.
        checks.push(Check::within("frozen ms", frozen, v.frozen_ms as f64, begins.len() as f64 * 120.0, ""));
    }
    Cell { name: s.name.into(), set: s.name.into(), unknown: None, checks }
}
