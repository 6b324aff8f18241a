//! Processes of the fleet: a life that ends with the parent's, a first line that says where to reach it, and what the
//! kernel knows about it.

use anyhow::Context;
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::oneshot;

/// Linux counts process times in hundredths of a second towards user space (USER_HZ), on every architecture we build
/// for; asking would need `sysconf`.
const TICKS_PER_SECOND: f64 = 100.0;

const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an orderly end may take after the parent's.
const ORDERLY_END: Duration = Duration::from_secs(3);

/// Ends the process when stdin does. The parent holds the other end of the pipe: however it ends, the kernel closes it.
pub fn exit_with_parent() {
    watch_parent(|| std::process::exit(0));
}

/// Resolves when stdin ends. Whoever awaits it has [`ORDERLY_END`] before the process ends anyway.
pub fn parent_ended() -> oneshot::Receiver<()> {
    let (ended, told) = oneshot::channel();
    watch_parent(|| {
        // Nobody listens only if the process is ending already.
        let _ = ended.send(());
        std::thread::sleep(ORDERLY_END);
        std::process::exit(0);
    });
    told
}

fn watch_parent(then: impl FnOnce() + Send + 'static) {
    let watch = || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 64];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        then();
    };
    if let Err(error) = std::thread::Builder::new().name("parent".into()).spawn(watch) {
        tracing::error!(%error, "can't watch the parent");
        std::process::exit(1);
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// When there is no such process, or it is not ours.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) -> std::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(std::io::ErrorKind::NotFound)?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// What a child says on its first line.
pub(crate) async fn first_line<T: serde::de::DeserializeOwned>(child: &mut Child) -> anyhow::Result<T> {
    let stdout = child.stdout.take().context("no pipe from it")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(READY_TIMEOUT, lines.next_line()).await;
    let line = line.with_context(|| format!("was not ready within {READY_TIMEOUT:?}"))??;
    let line = line.context("ended before it was ready")?;
    serde_json::from_str(&line).with_context(|| format!("said {line:?}"))
}

/// CPU time of this process in seconds, user and system; 0 where there is no /proc.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse_cpu_ticks(&stat).map_or(0.0, |ticks| ticks as f64 / TICKS_PER_SECOND)
}

/// utime + stime: fields 14 and 15 (proc_pid_stat(5)). The command in field 2 may hold anything, even spaces.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let after_command = stat.rsplit_once(')')?.1;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident memory of this process in bytes; 0 where there is no /proc.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0u64) * 1024
}

/// Datagrams the kernel dropped at the UDP socket bound to this address, its buffer being full.
pub fn socket_drops(bound: SocketAddr) -> u64 {
    let table = if bound.is_ipv4() { "/proc/self/net/udp" } else { "/proc/self/net/udp6" };
    parse_socket_drops(&std::fs::read_to_string(table).unwrap_or_default(), bound)
}

fn parse_socket_drops(table: &str, bound: SocketAddr) -> u64 {
    let ip = match bound.ip() {
        std::net::IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        std::net::IpAddr::V6(ip) => {
            ip.octets().as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
        }
    };
    let local = format!("{ip}:{:04X}", bound.port());
    let drops = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        (fields.nth(1)? == local).then(|| fields.next_back()?.parse::<u64>().ok())?
    };
    table.lines().filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_time_whatever_the_command_is_called() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks(""), None);
        assert_eq!(parse_cpu_ticks("7 (x) S 1"), None);
    }

    #[test]
    fn reads_drops_of_the_right_socket() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     100: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 42\n\
                     101: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 7\n";
        if cfg!(target_endian = "little") {
            assert_eq!(parse_socket_drops(table, "127.0.0.1:8080".parse().unwrap()), 42);
        }
        assert_eq!(parse_socket_drops(table, "127.0.0.1:9".parse().unwrap()), 0);
    }

    #[test]
    fn knows_its_own_memory() {
        if cfg!(target_os = "linux") {
            assert!(resident_bytes() > 100_000);
            assert!(cpu_seconds() >= 0.0);
        }
    }
}
