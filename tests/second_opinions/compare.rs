//! What each read, held against the impairer's log of the very datagrams that it was to read.

use crate::room::{Heard, Target};
use crate::truth::{OPUS, Stream, VP8, clock_rate, quantile, streams};
use roomful::history::{Event, LegCause};
use roomful::impair::Record;
use roomful::measure::{FlowCounters, Hist};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the log says of a flow up to some arrival.
#[derive(Clone, Copy, Default, Debug)]
struct Upto {
    at_ns: u64,
    expected: i64,
    received: i64,
    /// Arrivals behind a later number: the server's repair of what it missed itself.
    late: i64,
    jitter_ms: f64,
    /// As libwebrtc has it: only where the timestamp differs from the packet's before.
    new_timestamp_jitter_ms: f64,
}

/// After each arrival.
fn walk(stream: &Stream) -> Vec<Upto> {
    let (mut seen, mut first, mut highest) = (BTreeSet::new(), i64::MAX, i64::MIN);
    let (mut u, mut before) = (Upto::default(), None::<(u64, u32)>);
    let mut out = Vec::new();
    for (at, p) in stream.arrivals() {
        u.late += i64::from(p.seq < highest);
        (first, highest) = (first.min(p.seq), highest.max(p.seq));
        if seen.insert(p.seq) {
            u.received += 1;
        }
        u.expected = highest - first + 1;
        if let Some((t, timestamp)) = before {
            let media = f64::from(p.timestamp.wrapping_sub(timestamp) as i32) * 1e3 / f64::from(clock_rate(stream.pt));
            let d = ((at - t) as f64 / 1e6 - media).abs();
            u.jitter_ms += (d - u.jitter_ms) / 16.0;
            if p.timestamp != timestamp {
                u.new_timestamp_jitter_ms += (d - u.new_timestamp_jitter_ms) / 16.0;
            }
        }
        before = Some((at, p.timestamp));
        u.at_ns = at;
        out.push(u);
    }
    out
}

/// Lost among them: who has no keys yet counts from a later packet on.
fn begun(walked: &[Upto]) -> i64 {
    after(walked, BEGINNING).map_or(0, |u| u.expected - u.received)
}

/// A report of Janus is no older than this; it may be late by one on a busy machine.
const REPORTS_NS: u64 = 2_000_000_000;

/// Packets that may come before their receiver has keys.
const BEGINNING: i64 = 25;

/// After so many arrivals, or all that there are; none before the first.
fn after(walked: &[Upto], arrivals: i64) -> Option<Upto> {
    let n = usize::try_from(arrivals).ok()?.min(walked.len());
    walked.get(n.checked_sub(1)?).copied()
}

/// Reader and flows of one kind, summed.
pub struct Row {
    who: &'static str,
    kind: &'static str,
    flows: usize,
    log: Upto,
    received: i64,
    lost: i64,
    jitter: Option<(f64, f64)>,
    /// How far `lost` may be off, and what for.
    bound: i64,
    more: String,
}

impl Row {
    fn new(who: &'static str, kind: &'static str) -> Row {
        let log = Upto::default();
        Row { who, kind, flows: 0, log, received: 0, lost: 0, jitter: None, bound: 0, more: String::new() }
    }

    fn add(&mut self, log: Upto, received: i64, lost: i64) {
        self.flows += 1;
        self.log.expected += log.expected;
        self.log.received += log.received;
        self.log.late += log.late;
        self.received += received;
        self.lost += lost;
    }

    fn log_lost(&self) -> i64 {
        self.log.expected - self.log.received
    }

    pub fn holds(&self) -> bool {
        self.flows > 0 && (self.lost - self.log_lost()).abs() <= self.bound
    }
}

type Records = BTreeMap<String, [Vec<Record>; 2]>;

/// The flow with this SSRC, in its direction.
fn flow(records: &Records, way: usize, ssrc: u32) -> Option<(&str, Stream)> {
    records.iter().find_map(|(client, r)| streams(&r[way], &[OPUS, VP8]).remove(&ssrc).map(|s| (client.as_str(), s)))
}

fn worst(jitter: &mut Option<(f64, f64)>, log: f64, read: f64) {
    if jitter.is_none_or(|(l, r)| (read - log).abs() > (r - l).abs()) {
        *jitter = Some((log, read));
    }
}

/// Why this run compares nothing: the machine was not up to it.
pub fn unknown(heard: &Heard) -> Option<String> {
    if heard.machine_drops != [0; 2] {
        return Some(format!("this machine dropped datagrams (impairer, kernel's buffers): {:?}", heard.machine_drops));
    }
    let ends = heard.lines.iter().filter_map(|l| if let Event::LegEnd(e) = &l.event { Some(e) } else { None });
    let odd = ends.into_iter().find(|e| !matches!(e.cause, LegCause::Left | LegCause::Interrupted));
    odd.map(|e| format!("a leg ended by {:?}: {}", e.cause, e.detail))
}

pub fn rows(target: Target, heard: &Heard) -> Vec<Row> {
    let r = &heard.records;
    let mut rows = Vec::new();
    let mut others: BTreeSet<&str> = BTreeSet::new();

    // A browser: after as many arrivals as it counted.
    let mut browser = [Row::new("Chromium", "audio"), Row::new("Chromium", "video")];
    let mut played = BTreeMap::<&str, f64>::new();
    for (ssrc, s) in &heard.browser {
        let (client, stream) = flow(r, 1, *ssrc).unwrap_or_else(|| panic!("no flow {ssrc} in the log"));
        others.insert(client);
        let n = |key: &str| s[key].as_i64().unwrap_or(0);
        // Retransmissions have an SSRC of their own, and are in this count nevertheless.
        let arrived = n("packetsReceived") - n("retransmittedPacketsReceived");
        let walked = walk(&stream);
        let Some(log) = after(&walked, arrived) else { continue };
        let row = &mut browser[usize::from(stream.pt != OPUS)];
        row.add(log, arrived, n("packetsLost"));
        row.bound += log.late + n("retransmittedPacketsReceived");
        worst(&mut row.jitter, log.new_timestamp_jitter_ms, s["jitter"].as_f64().unwrap() * 1000.0);
        let keys = [
            "retransmittedPacketsReceived",
            "nackCount",
            "framesReceived",
            "framesDecoded",
            "freezeCount",
            "totalFreezesDuration",
        ];
        for key in keys.into_iter().filter(|_| stream.pt != OPUS) {
            *played.entry(key).or_default() += s[key].as_f64().unwrap_or(0.0);
        }
    }
    for (key, v) in played {
        let _ = write!(browser[1].more, "{key} {v} ");
    }

    // A stock peer: up to the highest number that its tracks gave.
    let mut stock = [Row::new("webrtc 0.21", "audio"), Row::new("webrtc 0.21", "video")];
    for (ssrc, seen) in &heard.stock {
        let (client, stream) = flow(r, 1, *ssrc).unwrap_or_else(|| panic!("no flow {ssrc} in the log"));
        others.insert(client);
        // Its tracks give what was sent again like all else, several times if it came several times.
        let Some(log) = walk(&stream).into_iter().find(|u| u.expected >= seen.expected()) else { continue };
        let row = &mut stock[usize::from(stream.pt != OPUS)];
        row.add(log, seen.seqs.len() as i64, seen.expected() - seen.seqs.len() as i64);
        row.bound += log.late + if stream.pt == OPUS { 0 } else { log.expected - log.received };
        let _ = write!(row.more, "tracks gave {} packets, ", seen.packets);
        if let Some(said) = heard.stock_said.get(ssrc) {
            // In units of the clock, where webrtc-stats has seconds.
            let ms = said.jitter_ms / f64::from(clock_rate(stream.pt));
            worst(&mut row.jitter, log.jitter_ms, ms);
            let _ = write!(row.more, "getStats: {} received, {} lost ", said.received, said.lost);
        }
    }

    // Janus: what it counts of each medium that is published.
    let mut janus = [Row::new("Janus, of participants", "audio"), Row::new("Janus, of participants", "video")];
    let mut of_browser = [Row::new("Janus, of Chromium", "audio"), Row::new("Janus, of Chromium", "video")];
    for (ssrc, medium) in &heard.janus {
        let Some((_, stream)) = flow(r, 0, *ssrc) else { continue };
        let n = |value: &Value| value.as_i64().unwrap_or(0);
        let (packets, again) = (n(&medium["stats"]["in"]["packets"]), n(&medium["stats"]["in"]["retransmissions"]));
        let walked = walk(&stream);
        let Some(log) = after(&walked, packets - again) else { continue };
        let of = if heard.browser_sends.contains(ssrc) { &mut of_browser } else { &mut janus };
        let row = &mut of[usize::from(stream.pt != OPUS)];
        row.add(log, packets - again, n(&medium["rtcp"]["main"]["lost"]));
        // What comes before Janus has keys is not counted, so what was lost among the first packets may be before its first.
        let begun = begun(&walked);
        // It is also what Janus put into its last report, of which it sends one a second.
        let reported = walked.iter().rfind(|u| u.at_ns + REPORTS_NS < log.at_ns).copied().unwrap_or_default();
        let since = (log.expected - log.received) - (reported.expected - reported.received);
        row.bound += log.late + again + begun + since.max(0);
        worst(&mut row.jitter, log.jitter_ms, n(&medium["rtcp"]["main"]["jitter-local"]) as f64);
        let _ = write!(row.more, "nacks {} retransmissions {again} ", n(&medium["stats"]["out"]["nacks"]));
    }

    rows.extend(ours(heard, &others));
    rows.extend(browser);
    rows.extend(stock);
    if target == Target::Janus {
        rows.extend(janus);
        rows.extend(of_browser);
    }
    rows
}

/// Roomful's own: totals of its legs against all flows that came down to them.
fn ours(heard: &Heard, others: &BTreeSet<&str>) -> [Row; 2] {
    let mut rows = [Row::new("roomful", "audio"), Row::new("roomful", "video")];
    let mut sums = <[FlowCounters; 2]>::default();
    let (mut jitter, mut ticks, mut epoch) = (Hist::new(), Vec::new(), 0);
    for line in &heard.lines {
        match &line.event {
            Event::Run(run) => epoch = run.epoch_ns,
            Event::LegEnd(end) => {
                sums[0] += &end.audio;
                sums[1] += &end.video;
            }
            Event::Interval(i) => {
                i.servers.iter().for_each(|s| jitter.merge(&s.audio.jitter));
                ticks.push(epoch + (line.t * 1e6) as u64);
            }
            _ => {}
        }
    }
    let mut jitters = Vec::new();
    for (_, r) in heard.records.iter().filter(|(client, _)| !others.contains(client.as_str())) {
        for stream in streams(&r[1], &[OPUS, VP8]).values() {
            let walked = walk(stream);
            let row = &mut rows[usize::from(stream.pt != OPUS)];
            row.add(walked.last().copied().unwrap_or_default(), 0, 0);
            row.bound += begun(&walked);
            if stream.pt == OPUS {
                jitters.extend(stream.jitter_at(&ticks).into_iter().map(|ns| ns / 1e6));
            }
        }
    }
    for (row, c) in rows.iter_mut().zip(sums) {
        (row.received, row.lost) = (c.rtp_received, c.rtp_expected - c.rtp_received);
        if row.kind == "video" {
            row.more = format!(
                "recovered {} nacks {} frames {} freezes {} of {:.1} s",
                c.recovered,
                c.nacks_sent,
                c.frames,
                c.freezes,
                c.frozen_ms as f64 / 1000.0
            );
        }
        let (odd, kinds) =
            ([c.auth_failed, c.replayed, c.malformed, c.foreign_stamps], "unauthentic, replayed, malformed, foreign");
        if odd != [0; 4] {
            let _ = write!(row.more, " {kinds}: {odd:?}");
        }
        let _ = write!(row.more, " reported lost up {} of {}", c.reported_lost, c.reported_expected);
    }
    // No retransmission, so none may be missing.
    if let (Some(log), Some(read)) = (quantile(&mut jitters, 0.5), jitter.quantile_ms(0.5)) {
        rows[0].jitter = Some((log, read));
    }
    rows
}

/// As Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| Who read | Kind | Flows | Log: expected | Log: lost | Read: received | Read: lost | Bound | Jitter ms, log / read | More |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for r in rows.iter().filter(|r| r.flows > 0) {
        let jitter = r.jitter.map_or(String::new(), |(log, read)| format!("{log:.1} / {read:.1}"));
        let bound = if r.bound == 0 { "exact".to_owned() } else { format!("± {}", r.bound) };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {bound} | {jitter} | {} |",
            r.who,
            r.kind,
            r.flows,
            r.log.expected,
            r.log_lost(),
            r.received,
            r.lost,
            r.more.trim()
        );
    }
    out
}

pub fn failed(rows: &[Row]) -> Vec<String> {
    let broken = rows.iter().filter(|r| !r.holds());
    broken
        .map(|r| format!("{} {}: lost {} by the log, {} read, ± {}", r.who, r.kind, r.log_lost(), r.lost, r.bound))
        .collect()
}
