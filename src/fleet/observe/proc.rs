//! The texts of `/proc`, of cgroups (v2) and of Prometheus endpoints, as counters; two readings make a usage.

use super::prometheus::{Container, sum, sum_outside};
use crate::history::Usage;
use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::io;

/// Clock ticks a second in `/proc/<pid>/stat`: USER_HZ, 100 on every Linux.
const TICKS: f64 = 100.0;

/// Growing counters, and what has only a present.
#[derive(Clone, Default, Debug)]
pub(super) struct Counters {
    cpu_s: Option<f64>,
    /// By thread.
    threads_s: BTreeMap<u32, f64>,
    /// By thread: ready to run, and without a core.
    waits_s: BTreeMap<u32, f64>,
    cores: Option<f64>,
    /// What the user says, above all that is seen.
    pub given_cores: Option<f64>,
    memory_bytes: Option<u64>,
    pressure_s: Option<f64>,
    throttled_s: Option<f64>,
    machine: Option<(f64, f64)>,
    pub packets_out: Option<f64>,
    pub bytes_out: Option<f64>,
    /// To other servers.
    pub cascade_packets: Option<f64>,
    pub cascade_bytes: Option<f64>,
    /// What a command told: no counters, but rates and amounts.
    pub told: Option<Usage>,
}

/// Of the whole machine.
pub(super) struct Machine {
    stat: String,
    pressure: String,
}

impl Machine {
    pub fn read() -> Machine {
        let file = |path: &str| read_to_string(path).unwrap_or_default();
        Machine { stat: file("/proc/stat"), pressure: file("/proc/pressure/cpu") }
    }
}

impl Counters {
    /// Fails where there is no such process.
    pub fn of_process(pid: u32, machine: &Machine) -> io::Result<Counters> {
        let status = read_to_string(format!("/proc/{pid}/status"))?;
        let mut out = Counters {
            memory_bytes: field(&status, "VmRSS:")
                .and_then(|v| v.split(' ').next()?.parse::<u64>().ok())
                .map(|k| k << 10),
            cores: field(&status, "Cpus_allowed_list:").map(|list| f64::from(cpus(list))),
            machine: steal(&machine.stat),
            pressure_s: pressure(&machine.pressure),
            ..Counters::default()
        };
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let Some(tid) = task.file_name().to_str().and_then(|t| t.parse().ok()) else { continue };
            // A thread may end while we look.
            let times = read_to_string(task.path().join("schedstat")).ok().and_then(|t| scheduled(&t));
            if let Some((ran, waited)) = times {
                out.threads_s.insert(tid, ran);
                out.waits_s.insert(tid, waited);
            }
        }
        // The process's own sum has coarse ticks.
        let stat = read_to_string(format!("/proc/{pid}/stat"))?;
        out.cpu_s = if out.threads_s.is_empty() { ticks(&stat) } else { None };
        if let Some(path) = read_to_string(format!("/proc/{pid}/cgroup")).ok().as_deref().and_then(unified) {
            let file = |name: &str| read_to_string(format!("/sys/fs/cgroup{path}/{name}")).unwrap_or_default();
            if let Some(quota) = quota(&file("cpu.max")) {
                out.cores = Some(out.cores.map_or(quota, |c| c.min(quota)));
            }
            out.throttled_s =
                field(&file("cpu.stat"), "throttled_usec").and_then(|v| v.parse::<f64>().ok()).map(|u| u / 1e6);
            out.pressure_s = pressure(&file("cpu.pressure")).or(out.pressure_s);
        }
        // A namespace of its own has network counters of its own.
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        if namespace("self").is_some_and(|own| namespace(&pid.to_string()).is_some_and(|n| n != own)) {
            let (bytes, packets) = sent(&read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default());
            (out.bytes_out, out.packets_out) = (Some(bytes), Some(packets));
        }
        Ok(out)
    }

    /// What an embedded server says of its own process.
    pub fn of_server(&mut self, cpu_s: f64, memory_bytes: u64) {
        (self.cpu_s, self.memory_bytes) = (Some(cpu_s), Some(memory_bytes));
    }

    pub fn limit_cores(&mut self, quota: f64) {
        self.cores = Some(self.cores.map_or(quota, |c| c.min(quota)));
    }

    /// The names that Prometheus clients give a process (and cAdvisor a container, the node exporter a machine).
    pub fn add_prometheus(&mut self, text: &str) {
        let container = Container::of(text);
        // Beside its containers, cAdvisor tells of its own process.
        let first = |[own, of_container]: [&str; 2]| match container.is_named() {
            true => container.sum(text, of_container),
            false => sum(text, own, &[]).or_else(|| container.sum(text, of_container)),
        };
        self.cpu_s = first(["process_cpu_seconds_total", "container_cpu_usage_seconds_total"]).or(self.cpu_s);
        let memory = first(["process_resident_memory_bytes", "container_memory_working_set_bytes"]);
        self.memory_bytes = memory.map(|b| b as u64).or(self.memory_bytes);
        let sent = |of_container: &str, of_machine: &str| {
            let own = container.sent(text, of_container);
            // Of several containers nobody knows which part of the machine's traffic is meant.
            own.or_else(|| sum_outside(text, of_machine).filter(|_| !container.has_others()))
        };
        let packets = sent("container_network_transmit_packets_total", "node_network_transmit_packets_total");
        self.packets_out = packets.or(self.packets_out);
        let bytes = sent("container_network_transmit_bytes_total", "node_network_transmit_bytes_total");
        self.bytes_out = bytes.or(self.bytes_out);
        if let Some(quota) = container.quota(text) {
            self.limit_cores(quota);
        }
        self.cores = self.cores.or_else(|| sum(text, "machine_cpu_cores", &[]).filter(|c| *c > 0.0));
    }

    /// What was used since an earlier reading. A counter that went back (a new process) says nothing.
    pub fn since(&self, old: &Counters, seconds: f64) -> Usage {
        let rate = |new: Option<f64>, old: Option<f64>| Some((new? - old?) / seconds).filter(|r| *r >= 0.0);
        let busiest = self.threads_s.iter().filter_map(|(tid, s)| rate(Some(*s), old.threads_s.get(tid).copied()));
        // Thread by thread: one that ended takes its sum along.
        let threads = |new: &BTreeMap<u32, f64>, old: &BTreeMap<u32, f64>| {
            let spent = |(tid, s): (&u32, &f64)| (s - old.get(tid).unwrap_or(&0.0)).max(0.0);
            (!new.is_empty() && !old.is_empty()).then(|| new.iter().map(spent).sum::<f64>() / seconds)
        };
        let steal = self.machine.zip(old.machine).and_then(|((stolen, all), (stolen_old, all_old))| {
            (all > all_old).then(|| ((stolen - stolen_old) / (all - all_old)).max(0.0))
        });
        let read = Usage {
            server: String::new(),
            seconds,
            cpu_cores: rate(self.cpu_s, old.cpu_s).or_else(|| threads(&self.threads_s, &old.threads_s)),
            cores: self.cores,
            busiest_thread: busiest.reduce(f64::max),
            memory_bytes: self.memory_bytes,
            cpu_pressure: rate(self.pressure_s, old.pressure_s),
            run_queue: threads(&self.waits_s, &old.waits_s),
            steal,
            throttled: rate(self.throttled_s, old.throttled_s),
            egress_pps: rate(self.packets_out, old.packets_out),
            egress_bps: rate(self.bytes_out, old.bytes_out).map(|b| b * 8.0),
            cascade_pps: rate(self.cascade_packets, old.cascade_packets),
            cascade_bps: rate(self.cascade_bytes, old.cascade_bytes).map(|b| b * 8.0),
        };
        let seen = match &self.told {
            Some(told) => Usage {
                server: String::new(),
                seconds,
                cpu_cores: told.cpu_cores.or(read.cpu_cores),
                cores: told.cores.or(read.cores),
                busiest_thread: told.busiest_thread.or(read.busiest_thread),
                memory_bytes: told.memory_bytes.or(read.memory_bytes),
                cpu_pressure: told.cpu_pressure.or(read.cpu_pressure),
                run_queue: told.run_queue.or(read.run_queue),
                steal: told.steal.or(read.steal),
                throttled: told.throttled.or(read.throttled),
                egress_pps: told.egress_pps.or(read.egress_pps),
                egress_bps: told.egress_bps.or(read.egress_bps),
                cascade_pps: told.cascade_pps.or(read.cascade_pps),
                cascade_bps: told.cascade_bps.or(read.cascade_bps),
            },
            None => read,
        };
        Usage { cores: self.given_cores.or(seen.cores), ..seen }
    }
}

/// The rest of the line that begins with this word.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim)
}

/// `0-2,7`.
fn cpus(list: &str) -> u32 {
    let count = |part: &str| match part.split_once('-') {
        Some((a, b)) => Some(b.trim().parse::<u32>().ok()?.checked_sub(a.trim().parse().ok()?)? + 1),
        None => part.trim().parse::<u32>().ok().map(|_| 1),
    };
    list.split(',').filter_map(count).sum()
}

/// First two numbers of `schedstat`, in s: on a CPU, and ready to run without one.
fn scheduled(text: &str) -> Option<(f64, f64)> {
    let mut ns = text.split_whitespace().map_while(|n| n.parse::<f64>().ok());
    Some((ns.next()? / 1e9, ns.next()? / 1e9))
}

/// User and system time, fields 14 and 15; the name in field 2 may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (rest.next()?.parse::<f64>().ok()?, rest.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS)
}

/// Stolen and all ticks of the machine.
fn steal(stat: &str) -> Option<(f64, f64)> {
    let ticks: Vec<f64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    // Guests are in user time already.
    Some((*ticks.get(7)?, ticks.iter().take(8).sum()))
}

/// Seconds in which something waited: `some avg10=0.00 … total=12345` (µs).
fn pressure(text: &str) -> Option<f64> {
    let total = field(text, "some")?.rsplit_once("total=")?.1;
    total.trim().parse::<f64>().ok().map(|us| us / 1e6)
}

fn unified(cgroup: &str) -> Option<&str> {
    field(cgroup, "0::").filter(|p| *p != "/")
}

/// `200000 100000` or `max 100000`: cores.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|p| *p > 0.0)?)
}

/// Bytes and packets sent by all interfaces but the loopback.
fn sent(dev: &str) -> (f64, f64) {
    let lines = dev.lines().filter_map(|l| l.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    lines.fold((0.0, 0.0), |(bytes, packets), (_, rest)| {
        let n: Vec<f64> = rest.split_whitespace().map_while(|n| n.parse().ok()).collect();
        (bytes + n.get(8).unwrap_or(&0.0), packets + n.get(9).unwrap_or(&0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_the_kernel_writes_them() {
        assert_eq!((cpus("0-2,7"), cpus("3"), cpus("")), (4, 1, 0));
        assert_eq!(scheduled("2500000000 1500000000 99\n"), Some((2.5, 1.5)));
        assert_eq!(ticks("7 (a (b) c) S 1 7 7 0 -1 4 1 0 0 0 150 50 0 0 20"), Some(2.0));
        assert_eq!(steal("cpu  1 2 3 4 5 6 7 8 9 10\n"), Some((8.0, 36.0)));
        assert_eq!(pressure("some avg10=1.00 avg60=0.10 avg300=0.00 total=2500000\n"), Some(2.5));
        assert_eq!((unified("1:cpu:/x\n0::/a/b\n"), unified("0::/\n")), (Some("/a/b"), None));
        assert_eq!((quota("150000 100000\n"), quota("max 100000")), (Some(1.5), None));
        let dev = "Inter-| Receive\n face |bytes\n lo: 1 1 0 0 0 0 0 0 9 9\n eth0: 5 6 0 0 0 0 0 0 70 8 0\n";
        assert_eq!(sent(dev), (70.0, 8.0));
        for garbage in ["", "cpu", "some", "))", "x y"] {
            assert_eq!((ticks(garbage), steal(garbage), pressure(garbage), quota(garbage)), (None, None, None, None));
        }
    }

    /// Three threads that want one core: two of them wait at any time.
    #[test]
    fn threads_that_wait_are_a_run_queue() {
        let at = |ran: f64, waited: f64| Counters {
            threads_s: (1..=3).map(|t| (t, ran)).collect(),
            waits_s: (1..=3).map(|t| (t, waited)).collect(),
            ..Counters::default()
        };
        let usage = at(11.0, 22.0).since(&at(10.0, 20.0), 3.0);
        assert_eq!((usage.cpu_cores, usage.run_queue), (Some(1.0), Some(2.0)));
    }

    #[test]
    fn prometheus_counters_become_rates() {
        let text = |cpu: f64| {
            format!(
                "# TYPE x counter\nprocess_cpu_seconds_total{{a=\"}}\"}} {cpu}\nprocess_cpu_seconds_total_x 9\n\
                     process_resident_memory_bytes 2048 1700000000\n"
            )
        };
        let [mut old, mut new] = [Counters::default(), Counters::default()];
        old.add_prometheus(&text(3.0));
        new.add_prometheus(&text(4.5));
        let usage = new.since(&old, 2.0);
        assert_eq!((usage.cpu_cores, usage.memory_bytes), (Some(0.75), Some(2048)));
        // The server was started again meanwhile.
        assert_eq!(old.since(&new, 2.0).cpu_cores, None);
        // cAdvisor's own process is none of its containers.
        let of_container = |id: &str| {
            format!(
                "container_cpu_usage_seconds_total{{id=\"{id}\"}} 70\ncontainer_memory_working_set_bytes{{id=\"{id}\"}} 4096\n"
            )
        };
        let mut one = Counters::default();
        one.add_prometheus(&(text(3.0) + &of_container("/docker/a")));
        assert_eq!((one.cpu_s, one.memory_bytes), (Some(70.0), Some(4096)));
        let mut two = Counters::default();
        two.add_prometheus(&(text(3.0) + &of_container("/docker/a") + &of_container("/docker/b")));
        assert_eq!((two.cpu_s, two.memory_bytes), (None, None));
    }
}
