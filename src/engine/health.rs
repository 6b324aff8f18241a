//! Is it the server, or is it us? What the operating system says of this process and machine, second by second, and
//! what of it is over a limit. Definitions: docs/measurement.md.

use super::socket::{clock_offset_ns, descriptor_limit};
use crate::history::{Health, ShardHealth, UdpErrors};
use crate::measure::Hist;
use crate::profile::HealthLimits;
use std::time::Duration;

/// USER_HZ is 100 on every Linux architecture Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// What stays the same for a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Surroundings {
    /// A server of the target has an address of this machine: what the kernel counts for all may be the server's.
    pub target_is_here: bool,
    /// UDP ports that the source addresses have.
    pub ports: Option<u64>,
}

/// Reads /proc and the clocks; remembers the last reading for differences.
#[derive(Debug, Default)]
pub struct HealthReader {
    around: Surroundings,
    machine: Option<Jiffies>,
    process: Option<u64>,
    udp: Option<UdpErrors>,
    /// CLOCK_REALTIME - CLOCK_MONOTONIC, and how far that may be off, ns.
    clocks: Option<(i64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Jiffies {
    busy: u64,
    steal: u64,
    total: u64,
}

impl HealthReader {
    pub fn new(around: Surroundings) -> HealthReader {
        HealthReader { around, clocks: Some(clock_offset_ns()), ..HealthReader::default() }
    }

    /// One second's health from the shards' own figures, /proc and the clocks.
    pub fn read(&mut self, seconds: f64, shards: Vec<ShardHealth>, limits: &HealthLimits) -> Health {
        let file = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
        let machine = parse_stat(&file("/proc/stat"));
        let process = parse_self_stat(&file("/proc/self/stat"));
        let (mut machine_cpu, mut steal) = (0.0, 0.0);
        if let (Some(a), Some(b)) = (self.machine, machine) {
            let total = b.total.saturating_sub(a.total).max(1) as f64;
            machine_cpu = b.busy.saturating_sub(a.busy) as f64 / total;
            steal = b.steal.saturating_sub(a.steal) as f64 / total;
        }
        let mut process_cores = 0.0;
        if let (Some(a), Some(b)) = (self.process, process) {
            process_cores = b.saturating_sub(a) as f64 / TICKS_PER_SECOND / seconds.max(1e-3);
        }
        let udp = parse_snmp(&file("/proc/net/snmp"));
        let udp_now = match (self.udp, udp) {
            (Some(a), Some(b)) => UdpErrors {
                receive: b.receive.saturating_sub(a.receive),
                receive_buffer: b.receive_buffer.saturating_sub(a.receive_buffer),
                send_buffer: b.send_buffer.saturating_sub(a.send_buffer),
            },
            _ => UdpErrors::default(),
        };
        let clocks = clock_offset_ns();
        let clock_step_ms = self.clocks.map_or(0.0, |before| step_ms(before, clocks));
        self.machine = machine.or(self.machine);
        self.process = process.or(self.process);
        self.udp = udp.or(self.udp);
        self.clocks = Some(clocks);
        let sockets: u64 = shards.iter().map(|s| u64::from(s.sockets)).sum();
        let mut h = Health {
            seconds,
            machine_cpu,
            steal,
            process_cores,
            resident_bytes: parse_statm(&file("/proc/self/statm")),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            udp: udp_now,
            descriptors_left: descriptor_limit().and_then(|max| Some(max.saturating_sub(descriptors_open()?))),
            ports_left: self.around.ports.map(|p| p.saturating_sub(sockets)),
            clock_step_ms,
            shards,
            unhealthy: Vec::new(),
        };
        h.unhealthy = unhealthy(&h, limits, self.around.target_is_here);
        h
    }
}

/// What is over its limit, each with figure and limit.
fn unhealthy(h: &Health, limits: &HealthLimits, target_is_here: bool) -> Vec<String> {
    let mut v = Vec::new();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    for (i, s) in h.shards.iter().enumerate() {
        if s.cpu > limits.shard_cpu_max {
            v.push(format!("shard {i} at {} CPU ({})", percent(s.cpu), at_most(limits.shard_cpu_max)));
        }
    }
    if h.machine_cpu > limits.machine_cpu_max {
        v.push(format!("machine at {} CPU ({})", percent(h.machine_cpu), at_most(limits.machine_cpu_max)));
    }
    if h.steal > limits.steal_max {
        v.push(format!("{} of the machine stolen ({})", percent(h.steal), at_most(limits.steal_max)));
    }
    let mut delay = Hist::new();
    let (mut drops, mut errors, mut packets_in, mut packets_out) = (0, 0, 0, 0);
    let (mut expected, mut received, mut jitter_ms) = (0, 0, 0.0);
    for s in &h.shards {
        drops += s.socket_drops;
        errors += s.send_errors;
        packets_in += s.packets_in;
        packets_out += s.packets_out;
        delay.merge(&s.reference.delay);
        expected += s.reference.expected;
        received += s.reference.received;
        jitter_ms = f64::max(jitter_ms, s.reference.jitter_ms);
    }
    let p99 = |hist: &Hist, limit| hist.quantile_ms(0.99).filter(|p| *p > ms(limit));
    // Each by itself: among many, one that stands still would be too few to see.
    let worst =
        |of: fn(&ShardHealth) -> &Hist, limit| h.shards.iter().filter_map(|s| p99(of(s), limit)).reduce(f64::max);
    if let Some(p99) = worst(|s| &s.send_lateness, limits.lateness_p99_max) {
        v.push(format!("sends late, p99 {p99:.1} ms (limit {} ms)", ms(limits.lateness_p99_max)));
    }
    if let Some(p99) = worst(|s| &s.timer_lateness, limits.timer_p99_max) {
        v.push(format!("timers late, p99 {p99:.1} ms (limit {} ms)", ms(limits.timer_p99_max)));
    }
    if drops as f64 > limits.socket_drops_max * (packets_in + drops) as f64 {
        v.push(format!("{drops} datagrams dropped at our own sockets"));
    }
    if errors as f64 > limits.send_errors_max * (packets_out + errors) as f64 {
        v.push(format!("{errors} sends failed"));
    }
    // Drops at our own sockets are in RcvbufErrors too, and RcvbufErrors in InErrors.
    let others = h.udp.receive.max(h.udp.receive_buffer).saturating_sub(drops) + h.udp.send_buffer;
    if !target_is_here && share(others, packets_in + packets_out) > limits.udp_errors_max {
        v.push(format!("{others} UDP errors in the kernel ({})", at_most(limits.udp_errors_max)));
    }
    let lost = expected - received.min(expected);
    if share(lost, expected) > limits.reference_loss_max {
        v.push(format!("reference flow lost {lost} of {expected} packets ({})", at_most(limits.reference_loss_max)));
    }
    if let Some(p99) = p99(&delay, limits.reference_delay_p99_max) {
        let limit = ms(limits.reference_delay_p99_max);
        v.push(format!("reference flow delayed, p99 {p99:.1} ms (limit {limit} ms)"));
    }
    if jitter_ms > ms(limits.reference_jitter_max) {
        let limit = ms(limits.reference_jitter_max);
        v.push(format!("reference flow jitters by {jitter_ms:.1} ms (limit {limit} ms)"));
    }
    if h.clock_step_ms.abs() > ms(limits.clock_step_max) {
        let limit = ms(limits.clock_step_max);
        v.push(format!("clock set by {:.1} ms (limit {limit} ms)", h.clock_step_ms));
    }
    if let Some(n) = h.descriptors_left.filter(|n| *n < limits.descriptors_left_min) {
        v.push(format!("{n} descriptors left (limit {})", limits.descriptors_left_min));
    }
    if let Some(n) = h.ports_left.filter(|n| *n < limits.ports_left_min) {
        v.push(format!("{n} UDP ports left (limit {})", limits.ports_left_min));
    }
    v
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn at_most(share: f64) -> String {
    format!("limit {} %", (share * 1e6).round() / 1e4)
}

/// How far CLOCK_REALTIME was set between two readings, ms; what the readings may be off does not count. (Slewing
/// moves both clocks.)
fn step_ms(before: (i64, i64), after: (i64, i64)) -> f64 {
    let step = after.0.saturating_sub(before.0);
    let doubt = before.1.saturating_add(after.1) / 2;
    let sure = step.saturating_abs().saturating_sub(doubt).max(0);
    (sure * step.signum()) as f64 / 1e6
}

/// Time that the calling thread was ready to run and had no core, in ns since it began; 0 where the kernel keeps none.
pub fn thread_wait_ns() -> u64 {
    parse_schedstat(&std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default()).unwrap_or(0)
}

/// /proc/…/schedstat: time on a core, time waiting for one, slices (Documentation/scheduler/sched-stats.rst).
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Open descriptors of this process. Since Linux 6.2 the folder's size; before, its entries.
fn descriptors_open() -> Option<u64> {
    let folder = "/proc/self/fd";
    match std::fs::metadata(folder).ok()?.len() {
        0 => Some(std::fs::read_dir(folder).ok()?.count() as u64),
        n => Some(n),
    }
}

/// /proc/net/snmp: two lines that begin with `Udp:`, names and values.
fn parse_snmp(text: &str) -> Option<UdpErrors> {
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let of = |name: &str| {
        let nth = names.split_whitespace().position(|n| n == name)?;
        values.split_whitespace().nth(nth)?.parse::<u64>().ok()
    };
    Some(UdpErrors {
        receive: of("InErrors")?,
        receive_buffer: of("RcvbufErrors")?,
        send_buffer: of("SndbufErrors").unwrap_or(0),
    })
}

/// First line of /proc/stat: user nice system idle iowait irq softirq steal …
fn parse_stat(text: &str) -> Option<Jiffies> {
    let f: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|v| v.parse().ok()).collect();
    let at = |i: usize| f.get(i).copied().unwrap_or(0);
    let (idle, steal) = (at(3) + at(4), at(7));
    let total = f.iter().take(8).sum();
    Some(Jiffies { busy: u64::saturating_sub(total, idle + steal), steal, total })
}

/// /proc/self/stat: utime + stime (fields 14 and 15); the command may hold spaces and parentheses.
fn parse_self_stat(text: &str) -> Option<u64> {
    let rest = text.rsplit_once(')')?.1;
    let f: Vec<&str> = rest.split_whitespace().collect();
    Some(f.get(11)?.parse::<u64>().ok()? + f.get(12)?.parse::<u64>().ok()?)
}

/// /proc/self/statm: resident pages, of 4 KiB.
fn parse_statm(text: &str) -> u64 {
    text.split_whitespace().nth(1).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::ReferenceFlow;

    #[test]
    fn reads_proc() {
        let j = parse_stat("cpu  100 0 50 800 50 0 10 90 0 0\ncpu0 1 2").unwrap();
        assert_eq!(j, Jiffies { busy: 160, steal: 90, total: 1100 });
        assert_eq!(parse_self_stat("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 30 12 0 0"), Some(42));
        assert_eq!(parse_statm("10 3 1"), 3 * 4096);
        assert_eq!(parse_schedstat("5 1234 9\n"), Some(1234));
        let snmp = "Ip: x\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\n\
                    Udp: 87 1 5 82 4 3\nUdpLite: InErrors\nUdpLite: 9\n";
        assert_eq!(parse_snmp(snmp), Some(UdpErrors { receive: 5, receive_buffer: 4, send_buffer: 3 }));
        for garbage in ["", "Udp: InErrors", "Udp: InErrors RcvbufErrors\nUdp: x 1", "-"] {
            assert_eq!((parse_snmp(garbage), parse_schedstat(garbage)), (None, None));
        }
        let mut r = HealthReader::new(Surroundings { target_is_here: true, ports: Some(100) });
        r.read(1.0, vec![], &HealthLimits::default());
        let shard = ShardHealth { sockets: 90, ..ShardHealth::default() };
        let h = r.read(1.0, vec![shard], &HealthLimits::default());
        assert!(h.resident_bytes > 100_000 && h.cores > 0);
        assert_eq!(h.ports_left, Some(10));
        let files: Vec<_> = (0..20).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let fewer = r.read(1.0, vec![], &HealthLimits::default());
        // Other tests of this process open and close files too, but not twenty.
        assert!(fewer.descriptors_left.unwrap() < h.descriptors_left.unwrap(), "{} files", files.len());
    }

    #[test]
    fn a_step_of_the_clock_is_told_from_a_reading_that_was_interrupted() {
        assert_eq!(step_ms((1_000_000_000, 100), (1_000_000_050, 100)), 0.0);
        assert_eq!(step_ms((0, 0), (-3_000_000, 0)), -3.0);
        // 5 ms apart, but the second reading took 10 ms.
        assert_eq!(step_ms((0, 0), (5_000_000, 10_000_000)), 0.0);
    }

    /// The reasons of a second in which only this was amiss.
    fn reasons(change: impl FnOnce(&mut Health, &mut ShardHealth)) -> Vec<String> {
        let mut shard = ShardHealth {
            cpu: 0.5,
            packets_in: 1000,
            packets_out: 1000,
            reference: ReferenceFlow { expected: 50, received: 50, jitter_ms: 0.1, ..Default::default() },
            ..Default::default()
        };
        shard.send_lateness.record_us(400);
        shard.timer_lateness.record_us(100);
        shard.reference.delay.record_us(30);
        let mut h = HealthReader::default().read(1.0, vec![], &HealthLimits::default());
        (h.udp, h.clock_step_ms, h.steal, h.machine_cpu) = (UdpErrors::default(), 0.0, 0.0, 1.0);
        change(&mut h, &mut shard);
        h.shards = vec![ShardHealth::default(), shard];
        unhealthy(&h, &HealthLimits::default(), false)
    }

    fn hist(us: u64) -> Hist {
        let mut h = Hist::new();
        h.record_us(us);
        h
    }

    #[test]
    fn each_limit_names_its_figure_and_no_other() {
        assert!(reasons(|_, _| {}).is_empty());
        type Change = fn(&mut Health, &mut ShardHealth);
        let cases: [(Change, &str); 12] = [
            (|_, s| s.cpu = 0.97, "shard 1 at 97 % CPU (limit 90 %)"),
            (|h, _| h.steal = 0.5, "50 % of the machine stolen (limit 10 %)"),
            (|_, s| s.send_lateness = hist(50_000), "sends late, p99 49.9 ms"),
            (|_, s| s.timer_lateness = hist(20_000), "timers late, p99 20"),
            (|_, s| s.socket_drops = 3, "3 datagrams dropped at our own sockets"),
            (|_, s| s.send_errors = 2, "2 sends failed"),
            (|h, _| h.udp.receive = 7, "7 UDP errors in the kernel (limit 0.1 %)"),
            (|_, s| s.reference.received = 49, "reference flow lost 1 of 50 packets (limit 0 %)"),
            (|_, s| s.reference.delay = hist(30_000), "reference flow delayed, p99 30"),
            (|_, s| s.reference.jitter_ms = 6.0, "reference flow jitters by 6.0 ms (limit 5 ms)"),
            (|h, _| h.clock_step_ms = -40.0, "clock set by -40.0 ms (limit 1 ms)"),
            (|h, _| h.descriptors_left = Some(3), "3 descriptors left (limit 16)"),
        ];
        for (change, words) in cases {
            let found = reasons(change);
            assert!(found.len() == 1 && found[0].starts_with(words), "{words}: {found:?}");
        }
        assert_eq!(reasons(|h, _| h.ports_left = Some(0)), ["0 UDP ports left (limit 16)"]);
    }

    /// Among many shards the late sends of one are less than a hundredth.
    #[test]
    fn one_shard_that_stands_still_is_seen_among_many() {
        let mut h = HealthReader::default().read(1.0, vec![], &HealthLimits::default());
        (h.udp, h.clock_step_ms, h.steal, h.machine_cpu) = (UdpErrors::default(), 0.0, 0.0, 0.5);
        let late = |us, n| {
            let mut shard = ShardHealth { packets_in: 1000, packets_out: 1000, ..Default::default() };
            (0..1000).for_each(|i| {
                let us = if i < n { us } else { 300 };
                shard.send_lateness.record_us(us);
                shard.timer_lateness.record_us(us);
            });
            shard
        };
        h.shards = (0..16).map(|i| late(150_000, if i == 7 { 100 } else { 0 })).collect();
        let found = unhealthy(&h, &HealthLimits::default(), false);
        assert!(found.len() == 2 && found[0].starts_with("sends late, p99 1"), "{found:?}");
    }

    #[test]
    fn what_the_kernel_counts_for_all_is_not_ours_beside_a_target_on_this_machine() {
        let mut h = HealthReader::default().read(1.0, vec![], &HealthLimits::default());
        h.udp = UdpErrors { receive: 500, receive_buffer: 500, send_buffer: 0 };
        (h.clock_step_ms, h.steal) = (0.0, 0.0);
        assert!(unhealthy(&h, &HealthLimits::default(), true).is_empty());
        assert_eq!(unhealthy(&h, &HealthLimits::default(), false).len(), 1);
        // Our own drops are counted at our sockets, once.
        h.shards = vec![ShardHealth { socket_drops: 500, packets_in: 100, ..Default::default() }];
        assert_eq!(unhealthy(&h, &HealthLimits::default(), false), ["500 datagrams dropped at our own sockets"]);
    }
}
