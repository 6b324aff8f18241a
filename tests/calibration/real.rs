//! The same over real sockets, with somebody who does not tell the tool: `roomful impair` stands in front of one of two
//! servers of the embedded fleet, `roomful run` loads both, and its report must say what the impairer's log says. Where
//! the machine was not up to it, nothing is said.

use crate::table::{Cell, Check};
use crate::truth::{OPUS, Stream, VP8, delays, quantile, recovered, streams};
use roomful::history::{EDGE_MS, Event, Line, Phase};
use roomful::impair::Record;
use roomful::measure::{FlowCounters, Hist};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROOMFUL: &str = env!("CARGO_BIN_EXE_roomful");
/// Nothing here takes a third of it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Beyond these, times are the machine's as much as the network's, whatever the run's own limits are. A packet's delay counts
/// from when it was really sent, so lateness itself is in no delay; a thread that is late is late to send on, too.
const LATENESS_P99_MAX_MS: f64 = 10.0;
const MACHINE_CPU_MAX: f64 = 0.85;
/// A datagram is some µs under way from where the log is written to the receiver's socket.
const KERNEL_JITTER_MS: f64 = 0.02;

pub struct Setting {
    pub name: &'static str,
    /// As `--network`.
    pub network: &'static str,
    /// The participants' own, as `network` in the profile.
    pub stage: Option<&'static str>,
    pub hold: u64,
    /// By the default limits of health; else by none, for tests that share their cores with others: being late loses
    /// nothing.
    pub strict: bool,
}

/// Of every run.
pub const SEED: u64 = 5;

const NO_LIMITS: &str = "[health]\nshard_cpu_max = \"100%\"\nsteal_max = \"100%\"\nlateness_p99_max = \"10s\"\n\
    timer_p99_max = \"10s\"\nreference_loss_max = \"100%\"\nreference_delay_p99_max = \"10s\"\n\
    reference_jitter_max = \"10s\"\n";

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Its lines on standard output until one holds `word`.
    fn until(&mut self, word: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for line in BufReader::new(self.0.stdout.take().unwrap()).lines() {
            lines.push(line.unwrap());
            if lines.last().unwrap().contains(word) {
                break;
            }
        }
        assert!(lines.last().is_some_and(|l| l.contains(word)), "ended before {word:?}: {lines:?}");
        lines
    }

    fn end(&mut self, signal: &str) {
        let status = Command::new("kill").args([format!("-{signal}"), self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.wait();
    }

    fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "hangs");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn start(args: &[&str], stdout: Stdio, stderr: Stdio) -> Running {
    let child = Command::new(ROOMFUL).args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
    Running(child.unwrap())
}

/// What one run left.
#[derive(Clone)]
pub struct Ran {
    pub summary: Value,
    pub lines: Vec<Line>,
    /// Up and down, by client.
    pub records: BTreeMap<String, [Vec<Record>; 2]>,
    /// Datagrams that this machine lost: UDP buffers anywhere.
    machine_drops: u64,
    own_drops: bool,
}

/// One room of two on each of two servers, one of each sends; the impairer before the first server.
/// An error where this machine could not even run it.
pub fn run(s: &Setting) -> Result<Ran, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str| Stdio::from(std::fs::File::create(path(name)).unwrap());
    let drops_before = udp_drops();
    let fleet_args = ["fleet", "--servers", "2", "--http", "127.0.0.1:0", "--advertise", "s1=127.0.0.2"];
    let mut fleet = start(&fleet_args, Stdio::piped(), Stdio::null());
    let said = fleet.until("Ctrl-C");
    let media = said.iter().find(|l| l.starts_with("server s1")).and_then(|l| l.split_whitespace().nth(5)).unwrap();
    let port = media.rsplit_once(':').unwrap().1;
    let base = said.iter().find_map(|l| l.strip_prefix("State ")).unwrap().trim().trim_end_matches("/registry");

    let (listen, to) = (format!("127.0.0.2:{port}"), format!("127.0.0.1:{port}"));
    let (log, patience) = (path("log"), format!("{}s", PATIENCE.as_secs()));
    let args = ["impair", "--listen", &listen, "--to", &to, "--network", s.network, "--log", &log, "--for", &patience];
    let mut impair = start(&args, file("impair.out"), file("impair.err"));
    let end = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(path("impair.out")).unwrap().contains("seed") {
        assert!(Instant::now() < end, "{}", std::fs::read_to_string(path("impair.err")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }

    let target =
        format!("driver = \"embedded\"\nallow = [\"127.0.0.0/8\"]\n[[servers]]\nid = \"fleet\"\nurl = \"{base}\"\n");
    std::fs::write(path("target.toml"), target).unwrap();
    let profile = format!(
        "shape = \"steady\"\ntarget = \"target.toml\"\nseed = {SEED}\n[[rooms]]\nname = \"pair\"\ncount = 2\nsize = 2\nsend = 1\n\
         audio = \"opus@32kbit/s\"\nvideo = \"vp8@150kbit/s\"\n{}[load]\njoin = \"20/s\"\nwarmup = \"5s\"\nhold = \"{}s\"\n\
         [pass]\n\"audio.loss\" = \"<= 0.1%\"\n\"legs.dropped\" = \"== 0\"\n{}",
        s.stage.map(|n| format!("network = {n}\n")).unwrap_or_default(),
        s.hold,
        if s.strict { "" } else { NO_LIMITS }
    );
    std::fs::write(path("profile.toml"), profile).unwrap();
    let (profile, out) = (path("profile.toml"), path("out"));
    let mut tool = start(&["run", &profile, "--out", &out], file("run.out"), file("run.err"));
    let code = tool.wait();
    let said = std::fs::read_to_string(path("run.err")).unwrap();
    if said.contains("no server of the fleet is alive") {
        return Err("the embedded fleet starved".into());
    }
    assert!(matches!(code, Some(0 | 3 | 4)), "{code:?}: {said}");
    impair.end("TERM");
    fleet.end("INT");

    let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
    let mut lines = Vec::new();
    roomful::history::read(&dir.path().join("out/history.jsonl")).unwrap().each(|_| true, |line| lines.push(line));
    let own = std::fs::read_to_string(path("impair.out")).unwrap();
    Ok(Ran {
        summary: serde_json::from_str(&summary).unwrap(),
        lines,
        records: read_log(Path::new(&log)),
        machine_drops: udp_drops() - drops_before,
        own_drops: own.contains("dropped by this machine"),
    })
}

fn read_log(path: &Path) -> BTreeMap<String, [Vec<Record>; 2]> {
    let mut out: BTreeMap<String, [Vec<Record>; 2]> = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut words = line.splitn(3, ' ');
        let (client, way) = (words.next().unwrap(), words.next().unwrap());
        let record: Record = words.next().unwrap().parse().unwrap();
        out.entry(client.into()).or_default()[usize::from(way == "down")].push(record);
    }
    out
}

/// Datagrams that the kernel of this machine dropped for want of buffers (RFC 4113's udpInErrors, and Linux' own).
fn udp_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut udp = text.lines().filter(|l| l.starts_with("Udp: "));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let wanted = ["InErrors", "RcvbufErrors", "SndbufErrors"];
    names
        .split(' ')
        .zip(values.split(' '))
        .filter(|(n, _)| wanted.contains(n))
        .map(|(_, v)| v.parse::<u64>().unwrap())
        .sum()
}

impl Ran {
    pub fn server(&self) -> roomful::types::ServerId {
        let named = self.lines.iter().find_map(|l| match &l.event {
            Event::Server(info) if info.name == "s1" => Some(info.id),
            _ => None,
        });
        named.unwrap()
    }

    /// Totals of the legs on the impaired server.
    fn counts(&self) -> [FlowCounters; 2] {
        let mut sum = <[FlowCounters; 2]>::default();
        for line in &self.lines {
            if let Event::LegEnd(end) = &line.event
                && end.server == Some(self.server())
            {
                sum[0] += &end.audio;
                sum[1] += &end.video;
            }
        }
        sum
    }

    /// Of the audio that was sent through the impairer in the seconds of the hold that a report judges: packets, and how many of
    /// them it took.
    pub fn audio_in_hold(&self) -> [f64; 2] {
        let run = self.lines.iter().find_map(|l| if let Event::Run(r) = &l.event { Some(r) } else { None }).unwrap();
        let judged = run.hold_from_ms - EDGE_MS..=run.hold_until_ms + EDGE_MS;
        let seconds = self.lines.iter().filter_map(|l| match &l.event {
            Event::Interval(i) => Some((l.t - i.seconds * 1000.0, l.t)),
            _ => None,
        });
        let seconds: Vec<(f64, f64)> = seconds.filter(|(a, b)| judged.contains(a) && judged.contains(b)).collect();
        let ns = |ms: f64| run.epoch_ns + (ms * 1e6) as u64;
        let hold = ns(seconds[0].0)..ns(seconds.last().unwrap().1);
        let [up, down] = [0, 1].map(|way| merged(&self.records, way, OPUS));
        let of = |streams: &[Stream], lost: bool| {
            let packets = streams.iter().flat_map(|s| &s.packets).filter(|p| hold.contains(&p.came_ns));
            packets.filter(|p| !lost || p.left_ns.is_none()).count() as f64
        };
        [of(&up, false), of(&up, true) + of(&down, true)]
    }

    /// Why this machine's counts prove nothing.
    fn counts_unknown(&self) -> Option<String> {
        if self.machine_drops > 0 || self.own_drops {
            return Some("this machine dropped datagrams of its own".into());
        }
        if self.server_fell_behind() {
            return Some("the embedded server did not come to forward what it had".into());
        }
        let unhealthy = self.lines.iter().find_map(|l| match &l.event {
            Event::Health(h) => h.unhealthy.first().cloned(),
            _ => None,
        });
        unhealthy.map(|why| format!("generator: {why}"))
    }

    /// True when packets reached the server and nothing left it any more: a starved process, which is neither link's doing.
    fn server_fell_behind(&self) -> bool {
        let last = |way: usize, at: fn(&Record) -> u64| {
            self.records
                .values()
                .flat_map(|r| &r[way])
                .filter(|r| r.is_rtp() && r.lost.is_none())
                .map(at)
                .max()
                .unwrap_or(0)
        };
        last(0, |r| r.left_ns) > last(1, |r| r.came_ns) + 100_000_000
    }

    /// Why its times prove nothing.
    fn times_unknown(&self) -> Option<String> {
        let at = |wanted: Phase| {
            let is = |l: &&Line| matches!(l.event, Event::Phase { phase } if phase == wanted);
            self.lines.iter().find(is).map_or(f64::INFINITY, |l| l.t)
        };
        let (from, until) = (at(Phase::Hold), at(Phase::Leaving));
        let busy = self.lines.iter().filter(|l| l.t > from && l.t <= until).find_map(|l| {
            let Event::Health(h) = &l.event else { return None };
            let late = h.shards.iter().filter_map(|s| s.send_lateness.quantile_ms(0.99)).fold(0.0, f64::max);
            if h.machine_cpu > MACHINE_CPU_MAX {
                return Some(format!("machine busy to {:.0} %", h.machine_cpu * 100.0));
            }
            (late > LATENESS_P99_MAX_MS).then(|| format!("generator {late:.1} ms late"))
        });
        self.counts_unknown().or(busy)
    }
}

fn merged(records: &BTreeMap<String, [Vec<Record>; 2]>, way: usize, pt: u8) -> Vec<Stream> {
    records.values().flat_map(|r| streams(&r[way], &[pt]).into_values()).collect()
}

/// What sequence numbers tell: lost, reordered and duplicate, each by its name.
fn by_number([lost, reordered, duplicate]: [&'static str; 3], streams: &[Stream], c: FlowCounters) -> [Check; 3] {
    let mut log = [0i64; 3];
    for r in streams.iter().map(Stream::rtp) {
        log = [log[0] + r.expected - r.received, log[1] + r.reordered, log[2] + r.duplicate];
    }
    [
        Check::exact(lost, log[0], c.rtp_expected - c.rtp_received),
        Check::exact(reordered, log[1], c.reordered),
        Check::exact(duplicate, log[2], c.duplicate),
    ]
}

/// Counts to the packet, and times where the machine was quiet.
pub fn cells(s: &Setting, ran: &Result<Ran, String>) -> [Cell; 2] {
    let mut stage = Vec::new();
    let ran = match ran {
        Ok(ran) if s.stage.is_some() && ran.counts_unknown().is_none() => {
            let logged;
            (logged, stage) = crate::stage::with_log(s.stage.unwrap(), ran.clone());
            &Ok(logged)
        }
        ran => ran,
    };
    let ran = match ran {
        Ok(ran) => ran,
        Err(why) => {
            let cell = |name: String| Cell { set: name.clone(), name, unknown: Some(why.clone()), checks: Vec::new() };
            return [cell(s.name.into()), cell(format!("{}, times", s.name))];
        }
    };
    let [a, v] = ran.counts();
    let [up, down] = [0, 1].map(|way| merged(&ran.records, way, OPUS));
    let lost = |streams: &[Stream]| streams.iter().map(|s| s.lost().len() as i64).sum::<i64>();
    let mut checks = vec![Check::exact("audio e2e lost", lost(&up) + lost(&down), a.e2e_expected - a.e2e_received)];
    checks.extend(by_number(["audio rtp lost", "audio reordered", "audio duplicate"], &down, a));
    let [video_up, video_down] = [0, 1].map(|way| merged(&ran.records, way, VP8));
    checks.extend(by_number(["video rtp lost", "video reordered", "video duplicate"], &video_down, v));
    let again = merged(&ran.records, 1, VP8 + 1);
    if let [main] = &video_down[..] {
        let again = again.into_iter().next().unwrap_or_default();
        checks.push(Check::between("video recovered", recovered(main, &again), v.recovered));
    }
    checks.extend(stage);
    let counts = Cell { name: s.name.into(), set: s.name.into(), unknown: ran.counts_unknown(), checks };

    let mut checks = Vec::new();
    let (mut delay, mut jitter) = ([Hist::new(), Hist::new()], [Hist::new(), Hist::new()]);
    let mut ticks = Vec::new();
    let epoch = ran.lines.iter().find_map(|l| match &l.event {
        Event::Run(run) => Some(run.epoch_ns),
        _ => None,
    });
    let server = ran.server();
    for line in &ran.lines {
        if let Event::Interval(i) = &line.event
            && let Some(f) = i.servers.iter().find(|f| f.server == server)
        {
            for (kind, flow) in [&f.audio, &f.video].into_iter().enumerate() {
                delay[kind].merge(&flow.delay);
                jitter[kind].merge(&flow.jitter);
            }
            ticks.extend(epoch.map(|e| e + (line.t * 1e6) as u64));
        }
    }
    let names = [
        ["audio delay p50 ms", "audio delay p99 ms", "audio jitter p50 ms"],
        ["video delay p50 ms", "video delay p99 ms", "video jitter p50 ms"],
    ];
    for (kind, (up, down)) in [(&up, &down), (&video_up, &video_down)].into_iter().enumerate() {
        let ([up], [down]) = (up.as_slice(), down.as_slice()) else { continue };
        let truth: Vec<f64> = delays(up, down, 0).iter().map(|ns| *ns as f64 / 1e6).collect();
        let known = kind == 0 || s.stage.is_none_or(crate::stage::spares_up);
        for (what, q) in [(names[kind][0], 0.5), (names[kind][1], 0.99)].into_iter().filter(|_| known) {
            let truth = quantile(&mut truth.clone(), q).unwrap_or(0.0);
            let got = delay[kind].quantile_ms(q).unwrap_or(0.0);
            checks.push(Check::within(what, truth, got, 0.5 + 0.02 * truth, ""));
        }
        // The sample is taken at the second's end, of what had been read by then: up to one sweep before it.
        let at = |back_ms: u64| -> Option<f64> {
            let ticks: Vec<u64> = ticks.iter().map(|t| t - back_ms * 1_000_000).collect();
            quantile(&mut down.jitter_at(&ticks), 0.5).map(|ns| ns / 1e6)
        };
        if let (Some(early), Some(late), Some(got)) = (at(5), at(0), jitter[kind].quantile_ms(0.5)) {
            let truth = f64::midpoint(early, late);
            // Beside the 5 %: two samples' difference, and what the kernel itself adds between two processes.
            let bound = 0.05 * truth + (early - late).abs() / 2.0 + KERNEL_JITTER_MS;
            checks.push(Check::within(names[kind][2], truth, got, bound, ""));
        }
    }
    let times = Cell {
        name: format!("{}, times", s.name),
        set: format!("{}, times", s.name),
        unknown: ran.times_unknown(),
        checks,
    };
    [counts, times]
}
