//! `process`: signals to the servers' processes on this machine, found by the `pid_file` of the target file.

use super::{ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::profile::ExternalTarget;
use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub(super) struct Processes {
    pid_files: BTreeMap<String, PathBuf>,
    /// Those of the last look: a server that ends takes its file along.
    last: Mutex<BTreeMap<String, Pid>>,
}

impl Processes {
    pub fn new(target: &ExternalTarget) -> Processes {
        let file = |s: &crate::profile::ServerEntry| Some((s.id.clone(), s.pid_file.as_ref()?.into()));
        let turn = target.turn.iter().filter_map(|t| Some((t.id.clone(), t.pid_file.as_ref()?.into())));
        Processes { pid_files: target.servers.iter().filter_map(file).chain(turn).collect(), last: Mutex::default() }
    }

    fn see(&self, server: &str, file: &Path) -> Result<bool> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = match (read_pid(file), last.get(server)) {
            (Ok(pid), _) => pid,
            (Err(_), Some(pid)) => *pid,
            (Err(e), None) => return Err(e),
        };
        last.insert(server.to_owned(), pid);
        Ok(is_running(pid))
    }
}

impl Backend for Processes {
    fn name(&self) -> &'static str {
        "process"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            let see = |(server, file): (&String, &PathBuf)| {
                let alive = Some(self.see(server, file)?);
                Ok(ServerSeen { server: server.clone(), alive, ..ServerSeen::default() })
            };
            super::merged(self.pid_files.iter().map(see).collect())
        })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            let (signal, name) = match action {
                StepAction::Terminate => (Signal::TERM, "SIGTERM"),
                StepAction::Kill => (Signal::KILL, "SIGKILL"),
                StepAction::Pause => (Signal::STOP, "SIGSTOP"),
                StepAction::Resume => (Signal::CONT, "SIGCONT"),
                _ => return Err(ActError::Unsupported),
            };
            let server = server.ok_or_else(|| anyhow!("which server?"))?;
            // Another backend may know how to reach it.
            let file = self.pid_files.get(server).ok_or(ActError::Unsupported)?;
            let pid = read_pid(file)?;
            send(pid, signal).with_context(|| format!("{name} to process {}", pid.as_raw_nonzero()))?;
            Ok(format!("{name} to process {}", pid.as_raw_nonzero()))
        })
    }
}

/// # Errors
/// There is no such process, or it is not ours.
pub(super) fn send(pid: Pid, signal: Signal) -> Result<()> {
    Ok(kill_process(pid, signal)?)
}

/// # Errors
/// The file cannot be read, or holds no id of a process that may be signalled.
pub(super) fn read_pid(file: &Path) -> Result<Pid> {
    let text = std::fs::read_to_string(file).with_context(|| format!("pid_file {}", file.display()))?;
    let number: i32 = text.trim().parse().with_context(|| format!("pid_file {}: {:?}", file.display(), text.trim()))?;
    let own = std::process::id().cast_signed();
    // 1 is the namespace's first process; zero and less mean groups of processes.
    ensure!(number > 1 && number != own, "pid_file {}: process {number} is none to be signalled", file.display());
    Pid::from_raw(number).with_context(|| format!("pid_file {}: {number}", file.display()))
}

/// A stopped process runs; a zombie, which only waits to be counted by its parent, does not.
pub(super) fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|s| !matches!(s, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn alive(backend: &Processes) -> Option<bool> {
        backend.look().await.unwrap().servers.first().and_then(|s| s.alive)
    }

    #[tokio::test]
    async fn signals_reach_a_real_process_and_its_end_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(&file, format!("{}\n", child.id())).unwrap();
        let backend = Processes { pid_files: [("a".to_owned(), file.clone())].into(), last: Mutex::default() };
        assert_eq!(alive(&backend).await, Some(true));
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        backend.act(StepAction::Pause, Some("a")).await.unwrap();
        for _ in 0..100 {
            if state().contains(") T ") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(state().contains(") T "), "{}", state());
        assert_eq!(alive(&backend).await, Some(true), "a server that stands still has not ended");
        backend.act(StepAction::Resume, Some("a")).await.unwrap();
        let said = backend.act(StepAction::Terminate, Some("a")).await.unwrap();
        assert!(said.starts_with("SIGTERM to process "), "{said}");
        std::fs::remove_file(&file).unwrap();
        for _ in 0..100 {
            if alive(&backend).await == Some(false) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(alive(&backend).await, Some(false), "though nobody has waited for it yet");
        child.wait().unwrap();
        assert_eq!(alive(&backend).await, Some(false));
        let error = backend.act(StepAction::Kill, Some("a")).await.unwrap_err().to_string();
        assert!(error.contains("pid_file"), "{error}");
        assert!(matches!(backend.act(StepAction::Kill, Some("b")).await, Err(ActError::Unsupported)));
        assert!(matches!(backend.act(StepAction::Cordon, Some("a")).await, Err(ActError::Unsupported)));
    }

    #[tokio::test]
    async fn garbage_in_a_pid_file_signals_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let backend = Processes { pid_files: [("a".to_owned(), file.clone())].into(), last: Mutex::default() };
        for text in ["", "x", "-1", "0", "1", "99999999999", &std::process::id().to_string()] {
            std::fs::write(&file, text).unwrap();
            let error = backend.act(StepAction::Kill, Some("a")).await.unwrap_err().to_string();
            assert!(error.contains("pid_file"), "{text:?}: {error}");
            assert!(backend.look().await.is_err(), "{text:?}");
        }
        // Nobody has this id.
        std::fs::write(&file, i32::MAX.to_string()).unwrap();
        assert_eq!(alive(&backend).await, Some(false));
        assert!(backend.act(StepAction::Kill, Some("a")).await.unwrap_err().to_string().contains("SIGKILL"));
    }
}
