//! What each read, held against the impairer's log of the very datagrams that it was to read. Why each bound is what it
//! is stands in docs/second-opinions.md.

use crate::log::{Frames, Upto, after, freezes, walk};
use crate::room::{Heard, Looks, Target};
use crate::truth::{OPUS, Stream, VP8, clock_rate, quantile, streams};
use roomful::history::{Event, LegCause};
use roomful::impair::Record;
use roomful::measure::{FlowCounters, Hist};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Lost among them: who has no keys yet counts from a later packet on.
fn begun(walked: &[Upto]) -> i64 {
    after(walked, BEGINNING).map_or(0, |u| u.expected - u.received)
}

/// Lost, or late, among a flow's last arrivals: of which roomful may have left without having seen them.
fn ended(walked: &[Upto], arrivals: i64) -> i64 {
    let (Some(last), n) = (walked.last(), walked.len() as i64) else { return 0 };
    let before = after(walked, n - arrivals.clamp(0, n)).unwrap_or_default();
    (last.expected - last.received - before.expected + before.received).max(0) + last.late - before.late
}

/// A report of Janus is no older than this; it may be late by one on a busy machine.
const REPORTS_NS: u64 = 2_000_000_000;

/// Packets that may come before their receiver has keys.
const BEGINNING: i64 = 25;

/// Chromium's counters of a stream and of what was sent again for it are not read at one instant.
const BETWEEN_COUNTERS: i64 = 3;

/// Frames that may wait in a browser to be decoded: half a second at 30 per second.
const BUFFERED_FRAMES: f64 = 15.0;

/// One more number of one flow.
struct Check {
    what: &'static str,
    log: f64,
    read: f64,
    within: f64,
}

impl Check {
    fn holds(&self) -> bool {
        (self.read - self.log).abs() <= self.within
    }
}

/// Chromium and Janus give whole milliseconds, whichever way they round, and take the time when their process gets round to
/// a packet, which a busy machine makes later by what a thread of the test woke late: at either of a difference's ends.
fn process_time(log: f64, read: f64, late_ms: f64) -> Check {
    Check { what: JITTER, log, read, within: 1.0 + 0.1 * log + 2.0 * late_ms }
}

const JITTER: &str = "jitter ms";
const FRAMES: &str = "frames";
const FREEZES: &str = "freezes";
const FROZEN: &str = "frozen s";

/// Reader and flows of one kind, summed.
pub struct Row {
    who: &'static str,
    kind: &'static str,
    flows: usize,
    log: Upto,
    received: i64,
    lost: i64,
    /// How far `lost` may be off, and what for.
    bound: i64,
    checks: Vec<Check>,
    more: String,
}

impl Row {
    fn new(who: &'static str, kind: &'static str) -> Row {
        let (log, checks) = (Upto::default(), Vec::new());
        Row { who, kind, flows: 0, log, received: 0, lost: 0, bound: 0, checks, more: String::new() }
    }

    fn pair(who: &'static str) -> [Row; 2] {
        [Row::new(who, "audio"), Row::new(who, "video")]
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

    fn lost_holds(&self) -> bool {
        self.flows > 0 && (self.lost - self.log_lost()).abs() <= self.bound
    }

    /// Medians of what the log and what the reader had at the same packets.
    fn jitter(&mut self, looks: Option<&Looks>, walked: &[Upto], late_ms: f64, of: fn(&Upto) -> f64) {
        let pairs = looks.into_iter().flatten().filter_map(|(n, ms)| Some((of(&after(walked, *n)?), *ms)));
        let (mut log, mut read): (Vec<f64>, Vec<f64>) = pairs.unzip();
        if let (Some(log), Some(read)) = (quantile(&mut log, 0.5), quantile(&mut read, 0.5)) {
            self.checks.push(process_time(log, read, late_ms));
        }
    }
}

type Records = BTreeMap<String, [Vec<Record>; 2]>;

/// The flow with this SSRC, in its direction.
fn flow(records: &Records, way: usize, ssrc: u32) -> Option<(&str, Stream)> {
    records.iter().find_map(|(client, r)| streams(&r[way], &[OPUS, VP8]).remove(&ssrc).map(|s| (client.as_str(), s)))
}

/// What came down to a client as RTX.
fn again(records: &[Vec<Record>; 2]) -> Vec<Stream> {
    streams(&records[1], &[VP8 + 1]).into_values().collect()
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
    let mut others = BTreeSet::new();
    let browser = browser(heard, &mut others);
    let stock = stock(heard, &mut others);
    let mut rows: Vec<Row> = ours(heard, &others).into();
    rows.extend(browser);
    rows.extend(stock);
    if target == Target::Janus {
        rows.extend(janus(heard));
    }
    rows
}

/// A browser: after as many arrivals as it counted.
fn browser<'a>(heard: &'a Heard, others: &mut BTreeSet<&'a str>) -> [Row; 2] {
    let mut rows = Row::pair("Chromium");
    let mut played = BTreeMap::<&str, i64>::new();
    for (ssrc, s) in &heard.browser {
        let (client, stream) = flow(&heard.records, 1, *ssrc).unwrap_or_else(|| panic!("no flow {ssrc} in the log"));
        others.insert(client);
        let n = |key: &str| s[key].as_i64().unwrap_or(0);
        // Retransmissions have an SSRC of their own, and are in this count nevertheless.
        let arrived = n("packetsReceived") - n("retransmittedPacketsReceived");
        let walked = walk(&stream);
        let Some(log) = after(&walked, arrived) else { continue };
        let row = &mut rows[usize::from(stream.pt != OPUS)];
        row.add(log, arrived, n("packetsLost"));
        row.jitter(heard.browser_jitter.get(ssrc), &walked, heard.late_ms, |u| u.frames_jitter_ms);
        if stream.pt == OPUS {
            continue;
        }
        row.bound += BETWEEN_COUNTERS;
        let frames = Frames::of(&stream, &again(&heard.records[client]));
        let shown = frames.in_order(log.at_ns);
        let (count, seconds) = freezes(&shown);
        // Some it drops where its machine is slow.
        let (decoded, froze) = ((n("framesDecoded") + n("framesDropped")) as f64, n("freezeCount") as f64);
        row.checks.push(Check { what: FRAMES, log: shown.len() as f64, read: decoded, within: BUFFERED_FRAMES });
        let hidden = 0.25 * count as f64 + 2.0;
        row.checks.push(Check { what: FREEZES, log: count as f64, read: froze, within: hidden });
        let frozen = s["totalFreezesDuration"].as_f64().unwrap_or(0.0);
        // What it dropped it did not show.
        let within = 0.25 * seconds + 1.0 + n("framesDropped") as f64 / 30.0;
        row.checks.push(Check { what: FROZEN, log: seconds, read: frozen, within });
        for key in ["retransmittedPacketsReceived", "nackCount", "framesReceived", "framesDropped"] {
            *played.entry(key).or_default() += n(key);
        }
    }
    for (key, v) in played {
        let _ = write!(rows[1].more, "{key} {v} ");
    }
    rows
}

/// A stock peer: up to the highest number that its tracks gave.
fn stock<'a>(heard: &'a Heard, others: &mut BTreeSet<&'a str>) -> [Row; 2] {
    let mut rows = Row::pair("webrtc 0.21");
    for (ssrc, seen) in &heard.stock {
        let (client, stream) = flow(&heard.records, 1, *ssrc).unwrap_or_else(|| panic!("no flow {ssrc} in the log"));
        others.insert(client);
        // Its tracks give what was sent again like all else, several times if it came several times.
        let walked = walk(&stream);
        let Some(log) = walked.iter().find(|u| u.expected >= seen.expected()).copied() else { continue };
        let row = &mut rows[usize::from(stream.pt != OPUS)];
        row.add(log, seen.seqs.len() as i64, seen.expected() - seen.seqs.len() as i64);
        row.bound += log.late + if stream.pt == OPUS { 0 } else { log.expected - log.received };
        let _ = write!(row.more, "tracks gave {} packets, ", seen.packets);
        if let Some(said) = heard.stock_said.get(ssrc) {
            let _ = write!(row.more, "getStats: {} received, {} lost ", said.received, said.lost);
        }
        if stream.pt == OPUS {
            // In units of the clock, where webrtc-stats has seconds.
            let rate = f64::from(clock_rate(stream.pt));
            let looks = heard.stock_jitter.get(ssrc).map(|l| l.iter().map(|(n, units)| (*n, units / rate)).collect());
            row.jitter(looks.as_ref(), &walked, heard.late_ms, |u| u.jitter_ms);
        }
    }
    rows
}

/// Janus: what it counts of each medium that is published.
fn janus(heard: &Heard) -> [Row; 4] {
    let [[a, v], [ba, bv]] = ["Janus, of participants", "Janus, of Chromium"].map(Row::pair);
    let mut rows = [a, v, ba, bv];
    for (ssrc, medium) in &heard.janus {
        let Some((_, stream)) = flow(&heard.records, 0, *ssrc) else { continue };
        let n = |value: &Value| value.as_i64().unwrap_or(0);
        let again = n(&medium["stats"]["in"]["retransmissions"]);
        let packets = n(&medium["stats"]["in"]["packets"]) - again;
        let walked = walk(&stream);
        let Some(log) = after(&walked, packets) else { continue };
        let of = 2 * usize::from(heard.browser_sends.contains(ssrc)) + usize::from(stream.pt != OPUS);
        let row = &mut rows[of];
        row.add(log, packets, n(&medium["rtcp"]["main"]["lost"]));
        // What comes before Janus has keys is not counted, so what was lost among the first packets may be before its first.
        let begun = begun(&walked);
        // It is also what Janus put into its last report, of which it sends one a second.
        let reported = walked.iter().rfind(|u| u.at_ns + REPORTS_NS < log.at_ns).copied().unwrap_or_default();
        let since = (log.expected - log.received) - (reported.expected - reported.received);
        row.bound += log.late + again + begun + since.max(0);
        row.jitter(heard.janus_jitter.get(ssrc), &walked, heard.late_ms, |u| u.ahead_jitter_ms);
        let _ = write!(row.more, "nacks {} retransmissions {again} ", n(&medium["stats"]["out"]["nacks"]));
    }
    rows
}

/// Roomful's own: totals of its legs against all flows that came down to them.
fn ours(heard: &Heard, others: &BTreeSet<&str>) -> [Row; 2] {
    let mut rows = Row::pair("roomful");
    let mut sums = <[FlowCounters; 2]>::default();
    let (mut jitter, mut ticks, mut epoch) = ([Hist::new(), Hist::new()], Vec::new(), 0);
    for line in &heard.lines {
        match &line.event {
            Event::Run(run) => epoch = run.epoch_ns,
            Event::LegEnd(end) => {
                sums[0] += &end.audio;
                sums[1] += &end.video;
            }
            Event::Interval(i) => {
                i.servers.iter().for_each(|s| {
                    jitter[0].merge(&s.audio.jitter);
                    jitter[1].merge(&s.video.jitter);
                });
                ticks.push(epoch + (line.t * 1e6) as u64);
            }
            _ => {}
        }
    }
    let mut jitters = [Vec::new(), Vec::new()];
    let mut flows = [Vec::new(), Vec::new()];
    let (mut assembled, mut froze, mut frozen, mut beginning) = (0, 0, 0.0, 0);
    for (client, r) in heard.records.iter().filter(|(client, _)| !others.contains(client.as_str())) {
        for stream in streams(&r[1], &[OPUS, VP8]).values() {
            let walked = walk(stream);
            let video = usize::from(stream.pt != OPUS);
            let row = &mut rows[video];
            row.add(walked.last().copied().unwrap_or_default(), 0, 0);
            row.bound += begun(&walked);
            flows[video].push(walked);
            jitters[video].extend(stream.jitter_at(&ticks).into_iter().map(|ns| ns / 1e6));
            if video == 1 {
                let frames = Frames::of(stream, &again(&heard.records[client]));
                let times = frames.assembled(u64::MAX);
                let (count, seconds) = freezes(&times);
                assembled += times.len();
                froze += count;
                frozen += seconds;
                beginning += frames.among(BEGINNING);
            }
        }
    }
    for (row, c) in rows.iter_mut().zip(&sums) {
        (row.received, row.lost) = (c.rtp_received, c.rtp_expected - c.rtp_received);
        let unseen = row.log.received - row.received;
        row.bound += flows[usize::from(row.kind == "video")].iter().map(|f| ended(f, unseen)).sum::<i64>();
        let (odd, kinds) =
            ([c.auth_failed, c.replayed, c.malformed, c.foreign_stamps], "unauthentic, replayed, malformed, foreign");
        if odd != [0; 4] {
            let _ = write!(row.more, "{kinds}: {odd:?} ");
        }
        let _ = write!(row.more, "reported lost up {} of {} ", c.reported_lost, c.reported_expected);
    }
    let v = &sums[1];
    let _ = write!(rows[1].more, "recovered {} nacks {}", v.recovered, v.nacks_sent);
    for (row, (jitter, mut log)) in rows.iter_mut().zip(jitter.iter().zip(jitters)) {
        if let (Some(log), Some(read)) = (quantile(&mut log, 0.5), jitter.quantile_ms(0.5)) {
            row.checks.push(Check { what: JITTER, log, read, within: 0.05 * log + 0.1 + heard.late_ms });
        }
    }
    let flows = rows[1].flows as f64;
    let mut check = |what, log, read, within| rows[1].checks.push(Check { what, log, read, within });
    check(FRAMES, assembled as f64, v.frames as f64, beginning as f64);
    check(FREEZES, froze as f64, v.freezes as f64, flows);
    check(FROZEN, frozen, v.frozen_ms as f64 / 1e3, 0.5 * flows);
    rows
}

/// As Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let columns = [JITTER, FRAMES, FREEZES, FROZEN];
    let mut out =
        String::from("| Who read | Kind | Flows | Log: expected | Log: lost | Read: received | Read: lost | Bound |");
    columns.iter().for_each(|c| {
        let _ = write!(out, " {c}, log / read (bound) |");
    });
    out += " More |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for r in rows.iter().filter(|r| r.flows > 0) {
        let bound = if r.bound == 0 { "exact".to_owned() } else { format!("± {}", r.bound) };
        let _ = write!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {bound} |",
            r.who,
            r.kind,
            r.flows,
            r.log.expected,
            r.log_lost(),
            r.received,
            r.lost,
        );
        for column in columns {
            let places = usize::from(matches!(column, JITTER | FROZEN));
            let of = r.checks.iter().filter(|c| c.what == column);
            let each = of.map(|c| format!("{:.places$} / {:.places$} (± {:.1})", c.log, c.read, c.within));
            let _ = write!(out, " {} |", each.collect::<Vec<_>>().join(", "));
        }
        let _ = writeln!(out, " {} |", r.more.trim());
    }
    out
}

pub fn failed(rows: &[Row]) -> Vec<String> {
    let mut out = Vec::new();
    for r in rows {
        if !r.lost_holds() {
            out.push(format!("{} {}: lost {} by the log, {} read, ± {}", r.who, r.kind, r.log_lost(), r.lost, r.bound));
        }
        for c in r.checks.iter().filter(|c| !c.holds()) {
            out.push(format!("{} {}: {} {} by the log, {} read, ± {}", r.who, r.kind, c.what, c.log, c.read, c.within));
        }
    }
    out
}

/// Every reader of video that tells freezes told of some.
pub fn frozen_everywhere(rows: &[Row]) -> bool {
    rows.iter().flat_map(|r| &r.checks).filter(|c| c.what == FREEZES).all(|c| c.read > 0.0)
}
