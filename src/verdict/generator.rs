//! Is it the server, or is it us?

use super::frame::Frame;
use super::gather::ShardTrouble;
use super::gather::{Counts, Gathered, HealthSums};
use super::metrics::{percent, rounded};
use super::words::{count, number};
use crate::history::UdpErrors;
use crate::measure::Hist;
use crate::profile::HealthLimits;
use serde::Serialize;

/// The ticks at the two edges of the hold may be cut.
const EDGE_SECONDS: f64 = 2.0;

/// Health of the generator over the hold (over the whole run where there was no hold).
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Generator {
    /// False when more was inconclusive than the profile allows: then nothing is proven.
    pub healthy: bool,
    pub reasons: Vec<String>,
    /// CPU of the busiest shard, mean and highest second, percent of a core.
    pub cpu: Option<f64>,
    pub cpu_max: Option<f64>,
    /// Mean CPU of the whole machine, percent of all its cores.
    pub machine_cpu: Option<f64>,
    /// Most time stolen by the hypervisor in any second, percent.
    pub steal_max: Option<f64>,
    /// Most of a second for which a shard was ready to run and had no core, percent.
    pub waited_max: Option<f64>,
    pub send_lateness: Lateness,
    /// How late media threads came round, over every millisecond.
    pub timer_lateness: Lateness,
    pub socket_drops: Option<u64>,
    pub send_errors: Option<u64>,
    /// What the kernel counted in our network namespace, whoever's sockets it was.
    pub udp_errors: Option<UdpErrors>,
    pub reference: Reference,
    /// Fewest in any second.
    pub descriptors_left_min: Option<u64>,
    pub ports_left_min: Option<u64>,
    /// Largest step of CLOCK_REALTIME against CLOCK_MONOTONIC, ms; its sign is the step's.
    pub clock_step_max: Option<f64>,
    /// Mean number of cores this process used.
    pub cores: Option<f64>,
    pub resident_bytes_max: Option<u64>,
    /// Share of the hold's seconds that are judged neither way.
    pub inconclusive_share: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Lateness {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

impl Lateness {
    fn of(hist: &Hist) -> Lateness {
        Lateness { p50: hist.quantile_ms(0.5).map(rounded), p99: hist.quantile_ms(0.99).map(rounded) }
    }
}

/// The reference flow: from each media thread to itself, past the target.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Reference {
    pub expected: Option<u64>,
    pub received: Option<u64>,
    pub loss: Option<f64>,
    pub delay: Lateness,
    pub jitter_max: Option<f64>,
}

/// What the sentence says of an unhealthy generator.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Diagnosis {
    /// `Generator late (p99 31 ms)`.
    pub what: String,
    /// `core 3 saturated`.
    pub why: Option<String>,
    pub advice: String,
}

pub(super) fn generator(all: &Gathered, frame: &Frame, limits: &HealthLimits) -> Generator {
    let sums = sums(all);
    let (seen, bad) = all.hold_seconds();
    let held = (frame.hold.until_ms.min(all.last_t) - frame.hold.from_ms).max(0.0) / 1000.0;
    let missing = (held - seen - EDGE_SECONDS).max(0.0);
    let share = (held > 0.0 && seen + missing > 0.0).then(|| percent((bad + missing) / (seen + missing)));
    let limit = limits.inconclusive_share_max * 100.0;
    let mut healthy = true;
    let mut reasons: Vec<String> =
        sums.reasons.values().map(|(text, seconds)| format!("{text} ({} s)", number(*seconds))).collect();
    if missing > 0.0 {
        reasons.push(format!("{} s of the hold are missing from the history", number(missing)));
    }
    if held > 0.0 && sums.seconds == 0.0 {
        reasons.push("its health was not recorded".into());
    }
    if let Some(share) = share.filter(|s| *s > limit) {
        healthy = false;
        reasons.insert(0, format!("{} % of the hold is inconclusive, {} % may be", number(share), number(limit)));
    }
    let local = all.failed.iter().filter(|f| f.counts == Counts::Generator).count() as u64;
    let tried = all.joined + all.failed.len() as u64;
    if local > 0 {
        reasons.push(format!("{} failed on our side", count(local, "join", "joins")));
        healthy &= percent(local as f64 / tried as f64) <= limit;
    }
    let data = sums.seconds > 0.0;
    let mean = |sum: f64| data.then(|| sum / sums.seconds);
    Generator {
        healthy,
        reasons,
        cpu: mean(sums.shard_cpu_seconds).map(percent),
        cpu_max: data.then(|| percent(sums.shard_cpu_max)),
        machine_cpu: mean(sums.machine_cpu_seconds).map(percent),
        steal_max: data.then(|| percent(sums.steal_max)),
        waited_max: data.then(|| percent(sums.waited_max)),
        send_lateness: Lateness::of(&sums.lateness),
        timer_lateness: Lateness::of(&sums.timer_lateness),
        socket_drops: data.then_some(sums.socket_drops),
        send_errors: data.then_some(sums.send_errors),
        udp_errors: data.then_some(sums.udp),
        reference: reference(sums),
        descriptors_left_min: sums.descriptors_left,
        ports_left_min: sums.ports_left,
        clock_step_max: data.then(|| rounded(sums.clock_step_ms)),
        cores: mean(sums.core_seconds).map(rounded),
        resident_bytes_max: data.then_some(sums.resident_max),
        inconclusive_share: share,
    }
}

fn reference(sums: &HealthSums) -> Reference {
    let r = &sums.reference;
    let flowed = r.expected > 0;
    Reference {
        expected: flowed.then_some(r.expected),
        received: flowed.then_some(r.received),
        loss: flowed.then(|| percent(r.expected.saturating_sub(r.received) as f64 / r.expected as f64)),
        delay: Lateness::of(&r.delay),
        jitter_max: flowed.then(|| rounded(r.jitter_ms)),
    }
}

/// A thread that waited for its core longer than this had to share it.
const WAITED_SHARE: f64 = 0.2;

pub(super) fn diagnosis(all: &Gathered, limits: &HealthLimits) -> Diagnosis {
    let sums = sums(all);
    let trouble = &sums.unhealthy;
    let late = trouble.lateness.quantile_ms(0.99);
    let late = late.filter(|ms| *ms > limits.lateness_p99_max.as_secs_f64() * 1000.0);
    let named = |which: &dyn Fn(&ShardTrouble) -> bool| {
        let found: Vec<_> = trouble.shards.iter().filter(|(_, s)| which(s)).collect();
        let cores: Option<std::collections::BTreeSet<u32>> = found.iter().map(|(_, s)| s.core).collect();
        let list = |word: &str, ids: Vec<String>| {
            format!("{word}{} {}", if ids.len() == 1 { "" } else { "s" }, ids.join(", "))
        };
        // Old histories do not know the cores.
        let name = match cores {
            Some(cores) => list("core", cores.iter().map(ToString::to_string).collect()),
            None => list("shard", found.iter().map(|(i, _)| i.to_string()).collect()),
        };
        (!found.is_empty()).then_some(name)
    };
    let saturated = named(&|s| s.cpu > limits.shard_cpu_max);
    let shared = named(&|s| s.waited > WAITED_SHARE);
    let what = match late {
        Some(ms) => format!("Generator late (p99 {} ms)", number(ms)),
        None => "Generator unhealthy".into(),
    };
    let (why, advice) = if trouble.steal > limits.steal_max {
        let why = format!("the hypervisor took {} % of the CPU", number(trouble.steal * 100.0));
        (Some(why), "run on a machine of its own".into())
    } else if let Some(cores) = saturated {
        (Some(format!("{cores} saturated")), machine_that_would_do(sums, limits))
    } else if let Some(cores) = shared {
        let waited = trouble.shards.values().map(|s| s.waited).fold(0.0, f64::max);
        let why = format!("others held {cores} (a media thread waited {} % of a second)", number(waited * 100.0));
        (Some(why), format!("{}, or end what else runs there", machine_that_would_do(sums, limits)))
    } else if trouble.socket_drops > 0 {
        let drops = count(trouble.socket_drops, "datagram", "datagrams");
        let why = format!("the kernel dropped {drops} at our sockets");
        (Some(why), "set receive_buffer (and net.core.rmem_max) higher, or run on more cores".into())
    } else {
        // What lasted longest.
        let worst = sums.reasons.values().max_by(|a, b| a.1.total_cmp(&b.1));
        (worst.map(|(text, _)| text.clone()), "nothing is proven; run again on a quiet machine".into())
    };
    Diagnosis { what, why, advice }
}

/// From what the media threads wanted and what all else took in the worst seconds: what they wanted at the limit of
/// CPU, beside all else, is what the machine must have.
fn machine_that_would_do(sums: &HealthSums, limits: &HealthLimits) -> String {
    let trouble = &sums.unhealthy;
    let limit = limits.shard_cpu_max.clamp(0.1, 1.0);
    if trouble.cores == 0 {
        return "run on more cores or with fewer participants".into();
    }
    let wanted: f64 = trouble.shards.values().map(|s| s.wanted).sum();
    let shards = trouble.shards.len();
    let threads = ((wanted / limit).ceil() as usize).max(1);
    let cores = (wanted / limit + trouble.others.max(0.0)).ceil().max(threads as f64) as u32;
    if cores <= trouble.cores && threads > shards {
        return format!("set shards = {threads}, the machine has {} cores", trouble.cores);
    }
    let more = cores.saturating_sub(trouble.cores).max(1);
    format!("run on {} ({} in all)", count(more.into(), "more core", "more cores"), trouble.cores + more)
}

fn sums(all: &Gathered) -> &HealthSums {
    if all.health.hold.seconds > 0.0 { &all.health.hold } else { &all.health.run }
}
