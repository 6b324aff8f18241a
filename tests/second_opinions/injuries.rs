//! A comparison that would let anything pass would be none: each number is bent in turn, and each must be found.

use crate::compare;
use crate::room::{Heard, Looks, Target};
use roomful::history::Event;
use roomful::measure::FlowCounters;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is found, and what was bent.
type Injury = (&'static str, fn(&mut Heard));

const INJURIES: &[Injury] = &[
    ("roomful audio: lost", |h| ours(h, |c| c[0].rtp_expected += 40)),
    ("roomful video: lost", |h| ours(h, |c| c[1].rtp_expected += 40)),
    ("roomful video: frames", |h| ours(h, |c| c[1].frames -= 100)),
    ("roomful video: freezes", |h| ours(h, |c| c[1].freezes += 5)),
    ("roomful video: frozen s", |h| ours(h, |c| c[1].frozen_ms += 5000)),
    ("roomful video: jitter", |h| intervals(h, 1)),
    ("roomful audio: jitter", |h| intervals(h, 0)),
    ("Chromium audio: lost", |h| chromium(h, "audio", "packetsLost", 1.0)),
    ("Chromium video: lost", |h| chromium(h, "video", "packetsLost", 10.0)),
    ("Chromium video: frames", |h| chromium(h, "video", "framesDecoded", -40.0)),
    ("Chromium video: freezes", |h| chromium(h, "video", "freezeCount", 50.0)),
    ("Chromium video: frozen s", |h| chromium(h, "video", "totalFreezesDuration", 30.0)),
    ("Chromium video: jitter", |h| jitter(&mut h.browser_jitter)),
    ("webrtc 0.21 audio: lost", |h| {
        for seen in h.stock.values_mut() {
            let middle = seen.seqs.iter().nth(seen.seqs.len() / 2).copied().unwrap();
            seen.seqs.remove(&middle);
        }
    }),
    ("webrtc 0.21 audio: jitter", |h| jitter(&mut h.stock_jitter)),
];

const OF_JANUS: &[Injury] = &[
    ("Janus, of participants audio: lost", |h| {
        h.janus.values_mut().for_each(|m| add(&mut m["rtcp"]["main"]["lost"], 100.0));
    }),
    ("Janus, of participants audio: jitter", |h| jitter(&mut h.janus_jitter)),
];

pub fn all_are_found(target: Target, heard: &Heard) {
    let of_janus = if target == Target::Janus { OF_JANUS } else { &[] };
    for (what, bend) in INJURIES.iter().chain(of_janus) {
        let mut bent = heard.clone();
        bend(&mut bent);
        let failed = compare::failed(&compare::rows(target, &bent));
        assert!(failed.iter().any(|f| f.starts_with(what)), "{what} was bent, and found was {failed:?}");
    }
}

fn ours(heard: &mut Heard, bend: fn(&mut [&mut FlowCounters; 2])) {
    for line in &mut heard.lines {
        if let Event::LegEnd(end) = &mut line.event {
            bend(&mut [&mut end.audio, &mut end.video]);
        }
    }
}

/// Samples that nobody took.
fn intervals(heard: &mut Heard, kind: usize) {
    for line in &mut heard.lines {
        if let Event::Interval(i) = &mut line.event {
            for s in &mut i.servers {
                let flow = if kind == 0 { &mut s.audio } else { &mut s.video };
                (0..20).for_each(|_| flow.jitter.record_us(30_000));
            }
        }
    }
}

fn chromium(heard: &mut Heard, kind: &str, key: &str, by: f64) {
    heard.browser.values_mut().filter(|s| s["kind"] == kind).for_each(|s| add(&mut s[key], by));
}

fn add(value: &mut Value, by: f64) {
    let sum = value.as_f64().unwrap() + by;
    *value = if sum.fract() == 0.0 { json!(sum as i64) } else { json!(sum) };
}

/// Each reads half as much again, and some milliseconds.
fn jitter(looks: &mut BTreeMap<u32, Looks>) {
    looks.values_mut().flatten().for_each(|(_, value)| *value = *value * 1.5 + 300_000.0);
}
