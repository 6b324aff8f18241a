//! A private network: the test runs itself again inside new user, network and process namespaces (no root needed). With
//! their first process, the test, everything that was started in them dies, whatever happened.

use super::program;
use crate::disturbed::{beside, undisturbed};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set inside, to the path of a file that says that the test began.
const INSIDE: &str = "ROOMFUL_TARGETS_INSIDE";

/// Addresses 10.77.0.1 to 10.77.0.ADDRESSES are there. One digit: Janus's `ice_enforce_list` compares beginnings, so
/// that "10.77.0.1" would let 10.77.0.10 in, too.
pub const ADDRESSES: u8 = 9;

/// The n-th address of the private network, from 1.
pub fn address(n: u8) -> IpAddr {
    assert!((1..=ADDRESSES).contains(&n));
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, n))
}

/// Runs `test` inside, alone. `name` is the test function's full name, as `cargo test` prints it.
pub fn inside<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if !begin(name) {
        return undisturbed(|| once(name));
    }
    run(test);
}

/// The same for a test that waits more than it works: beside others.
pub fn inside_beside<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if !begin(name) {
        return beside(|| once(name));
    }
    run(test);
}

/// Whether this is the process inside; then it says that the test began.
fn begin(name: &str) -> bool {
    let Some(ran) = std::env::var_os(INSIDE) else { return false };
    std::fs::write(ran, name).unwrap();
    true
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    set_up();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test());
}

fn once(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    // unshare dies with this thread, and its child, the first process inside, with unshare.
    let status = Command::new(program("setpriv"))
        .args(["--pdeathsig", "KILL"])
        .arg(program("unshare"))
        .args(["--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &ran)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed inside its namespace ({status}); its output is above");
    assert!(ran.exists(), "no test of the name {name} ran inside the namespace");
}

fn set_up() {
    ip("link set lo up");
    // Janus gathers nothing on loopback, so a pair of virtual cards carries the addresses.
    ip("link add fleet0 type veth peer name fleet1");
    for n in 1..=ADDRESSES {
        ip(&format!("address add {}/24 dev fleet0", address(n)));
    }
    ip("link set fleet0 up");
    ip("link set fleet1 up");
    // A card runs a moment after it is up, and Janus's web server binds to no address of one that doesn't.
    let end = Instant::now() + Duration::from_secs(20);
    while !ip("-oneline link show fleet0").contains("state UP") {
        assert!(Instant::now() < end, "fleet0 does not run: {}", ip("link show fleet0"));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ip(command: &str) -> String {
    let output = Command::new(program("ip")).args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An address for a server that only somebody in front of it may reach: whoever connects to it from here has it, too.
pub const BEHIND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));

/// Adds [`BEHIND`] (again, if need be), from whose UDP ports `first` to `last` nothing goes out but to itself.
pub fn confine([first, last]: [u16; 2]) {
    // A network of its own: the kernel connects to a card's further addresses from its first one.
    ip(&format!("address replace {BEHIND}/24 dev fleet1"));
    nft("add table ip confined");
    nft("add chain ip confined out { type filter hook output priority 0; }");
    nft(&format!("add rule ip confined out ip saddr {BEHIND} ip daddr != {BEHIND} udp sport {first}-{last} drop"));
}

fn nft(command: &str) {
    let output = Command::new(program("nft")).arg(command).output().unwrap();
    assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
}
