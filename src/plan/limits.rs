//! Whether this machine can carry a plan: descriptors, UDP ports and memory, needed and there, before the start.

use super::Plan;
use super::totals::totals;
use crate::profile::{Profile, Target};
use serde::{Deserialize, Serialize};

/// Descriptors of the process itself: standard streams, run folder, libraries.
const FDS_BASE: u64 = 64;
/// Of each media thread: two epoll instances, and two sockets for its reference flow.
const FDS_PER_SHARD: u64 = 4;
/// Allowance for the binary, clips, runtime and tables.
const MEMORY_BASE: u64 = 64 << 20;
/// Resident bytes per connected transport: the bound the engine is built to (design.md measured 18.5 KiB without SRTP).
const MEMORY_PER_TRANSPORT: u64 = 40 << 10;
/// Beside a transport, of each stream that comes in: its m-line (0.8 KiB by `cargo bench --bench transport`), who sends it
/// (a source, 0.6 KiB), and the stream itself, by the bounds that its tests hold.
const MEMORY_PER_AUDIO_IN: u64 = 800 + 600 + 1536;
const MEMORY_PER_VIDEO_IN: u64 = 800 + 600 + 3072;
/// Of each stream that goes out: its m-line and what is kept for retransmission.
const MEMORY_PER_STREAM_OUT: u64 = 12 << 10;
/// Signalling task, WebSocket or HTTP client, statistics.
const MEMORY_PER_PARTICIPANT: u64 = 40 << 10;
/// What a peer of the embedded fleet was measured to hold (362 KiB once video flowed), and a process of it; they run on
/// this machine too. The process is an allowance.
const MEMORY_PER_EMBEDDED_PEER: u64 = 362 << 10;
const MEMORY_PER_EMBEDDED_SERVER: u64 = 32 << 20;

/// What this machine has; `None` where it does not say.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Descriptors a process may open: the hard limit, to which the engine raises its own.
    pub fds: Option<u64>,
    /// Ephemeral UDP ports of one source address.
    pub ports_per_address: Option<u64>,
    pub memory_available_bytes: Option<u64>,
    pub cores: Option<u64>,
}

impl Machine {
    /// Reads `/proc`.
    pub fn read() -> Machine {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Machine {
            fds: open_files_max(&file("/proc/self/limits")),
            ports_per_address: port_count(&file("/proc/sys/net/ipv4/ip_local_port_range")),
            memory_available_bytes: memory_available(&file("/proc/meminfo")),
            cores: std::thread::available_parallelism().ok().map(|n| n.get() as u64),
        }
    }
}

/// `Max open files  1024  1048576  files`: the last number.
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    match line.split_whitespace().nth(4)? {
        "unlimited" => Some(u64::MAX),
        n => n.parse().ok(),
    }
}

fn port_count(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (high + 1).checked_sub(low)
}

fn memory_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Transports that a driver opens for a participant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportsPer {
    /// One for everything.
    Participant,
    /// One that sends and one that receives; where there is nothing to carry it is not opened.
    Direction,
}

/// One resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Need {
    pub need: u64,
    /// `None` where the machine does not say; then it counts as enough.
    pub have: Option<u64>,
    pub fits: bool,
}

impl Need {
    fn new(need: u64, have: Option<u64>) -> Need {
        Need { need, have, fits: have.is_none_or(|have| need <= have) }
    }
}

/// Needs of a plan against a machine; `limits` in `summary.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    pub participants: u64,
    /// Transports at once: each is a socket, a port, and ICE, DTLS and SRTP state.
    pub transports: u64,
    pub fds: Need,
    pub udp_ports: Need,
    pub memory_bytes: Need,
    pub cores: Option<u64>,
}

impl Limits {
    pub fn fit(&self) -> bool {
        self.fds.fits && self.udp_ports.fits && self.memory_bytes.fits
    }

    /// What does not fit, each with what would help.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        let have = |n: &Need| n.have.unwrap_or_default();
        if !self.fds.fits {
            out.push(format!(
                "{} descriptors are needed, this process may open {}: raise the hard limit (ulimit -Hn, or LimitNOFILE=), or fill fewer rooms",
                self.fds.need,
                have(&self.fds)
            ));
        }
        if !self.udp_ports.fits {
            out.push(format!(
                "{} UDP ports are needed, the source addresses have {}: give more of them (bind = [\"10.0.0.1\", \"10.0.0.2\"]), or widen net.ipv4.ip_local_port_range",
                self.udp_ports.need,
                have(&self.udp_ports)
            ));
        }
        if !self.memory_bytes.fits {
            out.push(format!(
                "about {} MiB of memory are needed, {} MiB are available: fill fewer rooms, or use a larger machine",
                self.memory_bytes.need >> 20,
                have(&self.memory_bytes) >> 20
            ));
        }
        out
    }
}

/// What a plan needs of a machine. Pure. Successors join while the leg before them may still be leaving, so plans with
/// stays get a tenth more.
pub fn limits(profile: &Profile, plan: &Plan, per: TransportsPer, machine: &Machine) -> Limits {
    let t = totals(profile, plan);
    let mut participants = t.participants;
    let mut transports = match per {
        TransportsPer::Participant => t.participants,
        TransportsPer::Direction => t.senders + t.receivers,
    };
    let mut streams = t.down.audio_streams * MEMORY_PER_AUDIO_IN
        + t.down.video_streams * MEMORY_PER_VIDEO_IN
        + t.up.streams() * MEMORY_PER_STREAM_OUT;
    if t.legs > t.participants {
        transports += transports.div_ceil(10);
        participants += participants.div_ceil(10);
        streams += streams.div_ceil(10);
    }
    let fleet = match &profile.target {
        Target::Embedded(fleet) => {
            participants * MEMORY_PER_EMBEDDED_PEER + u64::from(fleet.servers) * MEMORY_PER_EMBEDDED_SERVER
        }
        Target::External(_) => 0,
    };
    let memory =
        MEMORY_BASE + transports * MEMORY_PER_TRANSPORT + participants * MEMORY_PER_PARTICIPANT + streams + fleet;
    let addresses = profile.bind.len().max(1) as u64;
    let shards = profile.shards.map(|n| n as u64).or(machine.cores).unwrap_or(0);
    Limits {
        participants: t.participants,
        transports,
        // One descriptor a participant for its signalling connection.
        fds: Need::new(FDS_BASE + FDS_PER_SHARD * shards + transports + participants, machine.fds),
        udp_ports: Need::new(transports, machine.ports_per_address.map(|p| p.saturating_mul(addresses))),
        memory_bytes: Need::new(memory, machine.memory_available_bytes),
        cores: machine.cores,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_the_kernel_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             100                  200                  processes \n\
                      Max open files            1024                 1048576              files     \n";
        assert_eq!(open_files_max(limits), Some(1_048_576));
        assert_eq!(port_count("32768\t60999\n"), Some(28_232));
        assert_eq!(memory_available("MemTotal:  8 kB\nMemAvailable:    2048 kB\n"), Some(2048 * 1024));
    }

    #[test]
    fn garbage_in_proc_is_unknown() {
        for text in
            ["", "Max open files", "MemAvailable: x kB", "60999 1", "1", "MemAvailable: 18446744073709551615 kB"]
        {
            assert_eq!((open_files_max(text), port_count(text), memory_available(text)), (None, None, None), "{text}");
        }
    }

    #[test]
    fn unknown_counts_as_enough() {
        assert!(Need::new(5, None).fits && Need::new(5, Some(5)).fits && !Need::new(6, Some(5)).fits);
    }
}
