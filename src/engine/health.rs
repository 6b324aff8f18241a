//! Is it the server, or is it us? What the operating system says of this process and machine, second by second.

use crate::history::{Health, ShardHealth};
use crate::measure::Hist;
use crate::profile::HealthLimits;

/// Reads /proc; remembers the last reading for differences.
#[derive(Debug, Default)]
pub struct HealthReader {
    machine: Option<Jiffies>,
    process: Option<u64>,
    ticks_per_second: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Jiffies {
    busy: u64,
    steal: u64,
    total: u64,
}

impl HealthReader {
    pub fn new() -> HealthReader {
        // USER_HZ is 100 on every Linux architecture Rust supports.
        HealthReader { ticks_per_second: 100.0, ..HealthReader::default() }
    }

    /// One second's health from the shards' own figures and /proc.
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
            process_cores = b.saturating_sub(a) as f64 / self.ticks_per_second / seconds.max(1e-3);
        }
        self.machine = machine.or(self.machine);
        self.process = process.or(self.process);
        let mut h = Health {
            seconds,
            machine_cpu,
            steal,
            process_cores,
            resident_bytes: parse_statm(&file("/proc/self/statm")),
            shards,
            unhealthy: Vec::new(),
        };
        h.unhealthy = unhealthy(&h, limits);
        h
    }
}

/// What is over its limit, each with figure and limit.
fn unhealthy(h: &Health, limits: &HealthLimits) -> Vec<String> {
    let mut v = Vec::new();
    for (i, s) in h.shards.iter().enumerate() {
        if s.cpu > limits.shard_cpu_max {
            v.push(format!("shard {i} at {:.0} % CPU (limit {:.0} %)", s.cpu * 100.0, limits.shard_cpu_max * 100.0));
        }
        if s.send_errors > 0 {
            v.push(format!("shard {i}: {} sends failed", s.send_errors));
        }
    }
    if h.steal > limits.steal_max {
        v.push(format!("{:.0} % of the machine stolen (limit {:.0} %)", h.steal * 100.0, limits.steal_max * 100.0));
    }
    let mut lateness = Hist::new();
    let (mut drops, mut packets_in) = (0, 0);
    for s in &h.shards {
        lateness.merge(&s.send_lateness);
        drops += s.socket_drops;
        packets_in += s.packets_in;
    }
    let limit_ms = limits.lateness_p99_max.as_secs_f64() * 1000.0;
    if let Some(p99) = lateness.quantile_ms(0.99).filter(|p| *p > limit_ms) {
        v.push(format!("sends late, p99 {p99:.1} ms (limit {limit_ms:.0} ms)"));
    }
    if drops as f64 > limits.socket_drops_max * (packets_in + drops) as f64 {
        v.push(format!("{drops} datagrams dropped at our own sockets"));
    }
    v
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

    #[test]
    fn reads_proc() {
        let j = parse_stat("cpu  100 0 50 800 50 0 10 90 0 0\ncpu0 1 2").unwrap();
        assert_eq!(j, Jiffies { busy: 160, steal: 90, total: 1100 });
        assert_eq!(parse_self_stat("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 30 12 0 0"), Some(42));
        assert_eq!(parse_statm("10 3 1"), 3 * 4096);
        let mut r = HealthReader::new();
        r.read(1.0, vec![], &HealthLimits::default());
        let h = r.read(1.0, vec![], &HealthLimits::default());
        assert!(h.resident_bytes > 100_000);
    }

    #[test]
    fn each_limit_names_its_figure() {
        let limits = HealthLimits::default();
        let mut late = Hist::new();
        late.record_us(50_000);
        let sick =
            ShardHealth { cpu: 0.97, send_lateness: late, socket_drops: 3, packets_in: 10, ..Default::default() };
        let mut h = HealthReader::new().read(1.0, vec![ShardHealth::default(), sick], &limits);
        assert_eq!(h.unhealthy.len(), 3, "{:?}", h.unhealthy);
        assert!(h.unhealthy[0].starts_with("shard 1 at 97 % CPU"));
        h.shards.clear();
        h.steal = 0.5;
        assert_eq!(unhealthy(&h, &limits).len(), 1);
        h.steal = 0.0;
        assert!(unhealthy(&h, &limits).is_empty());
    }
}
