//! Ctrl-C, SIGTERM, or the end of the terminal (SIGHUP): one listener from the start of `roomful run` to its end, so that
//! none of them is lost between two runs.

use super::write_err;
use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Whether one has come: it stays so.
#[derive(Clone, Debug)]
pub(super) struct Interrupts(watch::Receiver<bool>);

impl Interrupts {
    /// From now on.
    pub fn listen() -> Result<Interrupts> {
        let failed = "can't listen for signals";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(failed)?;
        let mut signals = {
            let _inside = runtime.enter();
            // Under nohup SIGHUP is ignored, and stays so.
            let hang_up = (!ignores_hang_up()).then(SignalKind::hangup);
            let kinds = [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hang_up);
            kinds.map(signal).collect::<std::io::Result<Vec<Signal>>>().context(failed)?
        };
        let (tell, told) = watch::channel(false);
        let wait = move || {
            runtime.block_on(async {
                futures_util::future::select_all(signals.iter_mut().map(|s| Box::pin(s.recv()))).await;
                tell.send_replace(true);
            });
            // The next ones are taken, too, and change nothing.
            std::thread::park();
        };
        std::thread::Builder::new().name("signals".into()).spawn(wait).context(failed)?;
        Ok(Interrupts(told))
    }

    pub fn came(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for one, and says what comes of it.
    pub async fn told(&self, what_now: &str) {
        if self.0.clone().wait_for(|came| *came).await.is_err() {
            // Nobody listens any more.
            std::future::pending::<()>().await;
        }
        write_err(&format!("\nInterrupted: {what_now}"));
    }

    #[cfg(test)]
    pub fn made_up(came: bool) -> Interrupts {
        Interrupts(watch::channel(came).1)
    }
}

/// Whoever started us had SIGHUP, the first of the signals, ignored.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & 1 == 1)
}
