//! `roomful impair`: a bad network in front of a server.

use super::exit;
use crate::engine::{Forwarder, ForwarderConfig, ForwarderReport, socket};
use crate::impair::Counters;
use crate::profile::units::{parse_duration, print_duration};
use crate::profile::{Network, network};
use anyhow::{Context as _, Result, ensure};
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Ports of one range.
const PORTS_MAX: u16 = 2000;

/// Put a bad network in front of a server: forward UDP, each client through an impaired link of its own, and keep an
/// exact account. Ends by itself after --for, or with Ctrl-C.
#[derive(clap::Args, Clone, Debug)]
pub struct ImpairArgs {
    /// Where clients send to: ADDRESS:PORT, or a range of ports, ADDRESS:FIRST-LAST; port 0 takes a free one.
    #[arg(long)]
    pub listen: Ports,
    /// The server: ADDRESS:PORT, or as many ports as --listen has.
    #[arg(long)]
    pub to: Ports,
    /// As a profile's `network`: '{ preset = "bad-wifi" }', '{ down = { loss = "2%" } }', or an array with shares.
    #[arg(long)]
    pub network: String,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write every datagram to this file: client, up or down, came and left (CLOCK_REALTIME, ns), length, first 12
    /// bytes, what was done.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Ends by itself after so long, at most 24h.
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = ends_after)]
    pub ends_after: Duration,
    /// Datagrams of more clients than this at once are dropped.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub clients_max: u32,
    /// A client that is silent for so long in both directions is forgotten, at least 30s. If it comes back it is a new
    /// one, to the server, too.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = idle)]
    pub idle: Duration,
    /// The server is neither loopback nor private, and yours.
    #[arg(long)]
    pub authorized: bool,
}

fn ends_after(text: &str) -> Result<Duration, String> {
    let d = parse_duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
    if range.contains(&d) { Ok(d) } else { Err("is out of range: 100ms to 24h".into()) }
}

/// No link holds a datagram for so long.
fn idle(text: &str) -> Result<Duration, String> {
    let d = parse_duration(text)?;
    let range = Duration::from_secs(30)..=Duration::from_secs(86_400);
    if range.contains(&d) { Ok(d) } else { Err("is out of range: 30s to 24h".into()) }
}

/// An address with a range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub ip: IpAddr,
    pub first: u16,
    pub last: u16,
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let wrong = || format!("{text:?} is no address with port or ports; write 10.0.0.9:5000 or 10.0.0.9:5000-5099");
        let (ip, ports) = text.rsplit_once(':').ok_or_else(wrong)?;
        let ip = ip.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| wrong())?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if last < first || last - first >= PORTS_MAX || (first == 0 && last > 0) {
            return Err(format!("{text:?} is no range of 1 to {PORTS_MAX} ports"));
        }
        Ok(Ports { ip, first, last })
    }
}

impl Ports {
    fn each(self) -> impl ExactSizeIterator<Item = SocketAddr> {
        (0..usize::from(self.last - self.first) + 1).map(move |i| SocketAddr::new(self.ip, self.first + i as u16))
    }
}

/// Gives the exit code: 0, or 2 where the arguments are wrong.
///
/// # Errors
/// When sockets can't be bound or the log can't be written.
pub fn run(args: &ImpairArgs) -> Result<u8> {
    let networks = match network::parse(&args.network) {
        Ok(n) => n,
        Err(e) => {
            writeln!(io::stderr(), "{e}")?;
            return Ok(exit::BAD_PROFILE);
        }
    };
    let (listen, to) = (args.listen.each(), args.to.each());
    if listen.len() != to.len() || args.to.first == 0 {
        writeln!(io::stderr(), "--listen has {} ports, --to {}: they go one to one", listen.len(), to.len())?;
        return Ok(exit::BAD_PROFILE);
    }
    ensure!(
        args.authorized || crate::profile::is_private(args.to.ip),
        "--to: {} is neither loopback nor private; give --authorized if it is yours",
        args.to.ip
    );
    socket::raise_descriptor_limit();
    let config = ForwarderConfig {
        pairs: listen.zip(to).collect(),
        networks: networks.iter().map(|n| (n.share, n.up, n.down)).collect(),
        seed: args.seed,
        clients_max: args.clients_max as usize,
        idle: args.idle,
        ends_after: args.ends_after,
    };
    let mut log: Box<dyn Write> = match &args.log {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("--log: can't write {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(io::sink()),
    };
    let forwarder = Forwarder::new(config, args.log.is_some()).context("--listen")?;
    let mut out = io::stdout().lock();
    for (at, (_, to)) in forwarder.listening().zip(args.listen.each().zip(args.to.each())) {
        writeln!(out, "{at} -> {to}")?;
    }
    writeln!(out, "seed {}, ends after {}", args.seed, print_duration(args.ends_after))?;
    out.flush()?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone())?;
    let report = forwarder.run(&stop, &mut *log).context("--log")?;
    write_report(&mut out, &report, &networks)?;
    Ok(exit::PASS)
}

/// Ctrl-C and SIGTERM end it in order: the log is complete and the counters are printed.
fn stop_on_signal(stop: Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wait = move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut term) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
        });
        stop.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

fn write_report(out: &mut impl Write, report: &ForwarderReport, networks: &[Network]) -> io::Result<()> {
    let mut sums = [Counters::default(); 2];
    for n in &report.networks {
        sums.iter_mut().zip(&n.counters).for_each(|(s, c)| s.merge(c));
    }
    let all: u64 = report.networks.iter().map(|n| n.clients).sum();
    for (i, (n, seen)) in networks.iter().zip(&report.networks).enumerate() {
        let name = n.preset.map_or(String::new(), |p| format!(" ({p})"));
        writeln!(out, "network {i}{name}: {} of {all} clients", seen.clients)?;
    }
    for (way, c) in ["up", "down"].into_iter().zip(sums) {
        writeln!(
            out,
            "{way:<5}{} datagrams, {} lost, {} blacked out, {} beyond the queue, {} corrupted, {} doubled",
            c.received, c.lost, c.blacked_out, c.queue_full, c.corrupted, c.duplicated
        )?;
    }
    if report.refused > 0 {
        writeln!(out, "{} datagrams of clients beyond --clients-max were dropped", report.refused)?;
    }
    if report.own_drops > 0 {
        writeln!(
            out,
            "{} datagrams were dropped by this machine, not by the network: in no count above",
            report.own_drops
        )?;
    }
    writeln!(out, "at most {:.1} ms late", report.late_max.as_secs_f64() * 1000.0)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_or_refused() {
        let p: Ports = "10.0.0.9:5000-5002".parse().unwrap();
        assert_eq!(p.each().map(|a| a.port()).collect::<Vec<_>>(), [5000, 5001, 5002]);
        let p: Ports = "[::1]:7".parse().unwrap();
        assert_eq!(p.each().collect::<Vec<_>>(), ["[::1]:7".parse::<SocketAddr>().unwrap()]);
        for bad in ["", "10.0.0.9", "10.0.0.9:", "10.0.0.9:9-7", "10.0.0.9:1-9999", "host:1", "10.0.0.9:0-7", "1:2:3"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_an_end() {
        assert!(ends_after("25h").is_err() && ends_after("0s").is_err() && ends_after("3").is_err());
        assert_eq!(ends_after("90s"), Ok(Duration::from_secs(90)));
        assert!(idle("29s").is_err() && idle("30").is_err());
        assert_eq!(idle("30s"), Ok(Duration::from_secs(30)));
    }
}
