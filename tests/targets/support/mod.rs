//! What tests against real servers share: a network namespace of their own, servers and a browser started in it, and
//! nothing left behind.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod admin;
pub mod chromium;
pub mod coturn;
pub mod janus;
pub mod janus_fleet;
pub mod leg;
pub mod netns;
pub mod redis;
pub mod roomful;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Debian packages that the targets ring needs.
pub const PACKAGES: &str = "janus coturn redis-server nftables python3 chromium chromium-driver iproute2 util-linux";

/// The path of a program, or a panic that says how to get it. Targets are never skipped: a ring that tests nothing must
/// not pass.
pub fn program(name: &str) -> PathBuf {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; tests/targets need: apt-get install {PACKAGES}"))
}

/// `tests/targets`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets")
}

/// Where tests leave logs and pictures for people.
pub fn artifacts() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Looks every 50 ms until there is something; panics with `what` after `within`.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends a signal by name: TERM, KILL, STOP, CONT.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new(program("kill")).args([format!("-{name}"), child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Waits for a server's end, whatever the cause.
pub async fn ended(what: &str, child: &mut Child) -> ExitStatus {
    until(&format!("{what} ends"), Duration::from_secs(10), async || child.try_wait().unwrap()).await
}
