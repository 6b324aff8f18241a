//! Is it the server, or is it us?

use super::frame::Frame;
use super::gather::{Counts, Gathered, HealthSums};
use super::metrics::{percent, rounded};
use super::words::{count, number};
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
    pub send_lateness: Lateness,
    pub socket_drops: Option<u64>,
    pub send_errors: Option<u64>,
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
        send_lateness: Lateness {
            p50: sums.lateness.quantile_ms(0.5).map(rounded),
            p99: sums.lateness.quantile_ms(0.99).map(rounded),
        },
        socket_drops: data.then_some(sums.socket_drops),
        send_errors: data.then_some(sums.send_errors),
        cores: mean(sums.core_seconds).map(rounded),
        resident_bytes_max: data.then_some(sums.resident_max),
        inconclusive_share: share,
    }
}

pub(super) fn diagnosis(all: &Gathered, limits: &HealthLimits) -> Diagnosis {
    let sums = sums(all);
    let late = sums.lateness_unhealthy.quantile_ms(0.99);
    let late = late.filter(|ms| *ms > limits.lateness_p99_max.as_secs_f64() * 1000.0);
    let busy: Vec<String> = sums
        .shard_cpu_unhealthy
        .iter()
        .filter(|(_, cpu)| **cpu > limits.shard_cpu_max)
        .map(|(i, _)| i.to_string())
        .collect();
    let stolen = sums.steal_unhealthy > limits.steal_max;
    let what = match late {
        Some(ms) => format!("Generator late (p99 {} ms)", number(ms)),
        None => "Generator unhealthy".into(),
    };
    let (why, advice) = if stolen {
        let why = format!("the hypervisor took {} % of the CPU", number(sums.steal_unhealthy * 100.0));
        (Some(why), "run on a machine of its own")
    } else if !busy.is_empty() {
        let shards = if busy.len() == 1 { "shard" } else { "shards" };
        (Some(format!("{shards} {} saturated", busy.join(", "))), "run on more cores or with fewer participants")
    } else if sums.socket_drops > 0 {
        let drops = count(sums.socket_drops, "datagram", "datagrams");
        (Some(format!("the kernel dropped {drops} at our sockets")), "raise net.core.rmem_max or run on more cores")
    } else {
        let first = sums.reasons.values().next().map(|(text, _)| text.clone());
        (first, "nothing is proven; run again on a quiet machine")
    };
    Diagnosis { what, why, advice: advice.into() }
}

fn sums(all: &Gathered) -> &HealthSums {
    if all.health.hold.seconds > 0.0 { &all.health.hold } else { &all.health.run }
}
