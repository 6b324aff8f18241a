//! The TURN servers of our own fleet: their HTTP API, and signals. A session is an allocation.

use super::{ANSWER_WITHIN, ActError, Backend, Look, process};
use crate::history::{ServerSeen, StepAction};
use crate::outside;
use crate::sfu::{TurnReady, TurnStats};
use anyhow::{Context as _, Result, anyhow};
use futures_util::future::{BoxFuture, join_all};
use rustix::process::{Pid, Signal};

pub(super) struct EmbeddedTurn {
    servers: Vec<TurnReady>,
    client: reqwest::Client,
}

impl EmbeddedTurn {
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(servers: &[TurnReady]) -> Result<EmbeddedTurn> {
        Ok(EmbeddedTurn { servers: servers.to_vec(), client: outside::http_client(true)? })
    }

    async fn see(&self, server: &TurnReady) -> Result<ServerSeen> {
        let mut seen = ServerSeen { server: server.id.clone(), alive: Some(true), ..ServerSeen::default() };
        let request = self.client.get(format!("{}/stats", server.http));
        match outside::ask(request, ANSWER_WITHIN).await {
            Ok(text) => {
                let stats: TurnStats = outside::json(&text).with_context(|| server.id.clone())?;
                (seen.cordoned, seen.sessions) = (Some(stats.cordoned), Some(stats.relay.allocations));
            }
            // We are its parent: as long as it has not been waited for, its process id is its own.
            Err(_) if !process::is_running(pid(server)?) => seen.alive = Some(false),
            Err(e) => return Err(e),
        }
        Ok(seen)
    }
}

fn pid(server: &TurnReady) -> Result<Pid> {
    Pid::from_raw(server.pid.cast_signed()).with_context(|| format!("{}: process {}", server.id, server.pid))
}

impl Backend for EmbeddedTurn {
    fn name(&self) -> &'static str {
        "embedded_turn"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move { super::merged(join_all(self.servers.iter().map(|s| self.see(s))).await) })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            let name = server.ok_or_else(|| anyhow!("which server?"))?;
            let server = self.servers.iter().find(|s| s.id == name).ok_or(ActError::Unsupported)?;
            let post = |path: &str, body: String| {
                let request = self.client.post(format!("{}/{path}", server.http)).body(body);
                async move { outside::ask(request, ANSWER_WITHIN).await }
            };
            let signal = match action {
                StepAction::Cordon => {
                    // To the next one, if there is one; else it refuses.
                    let other =
                        self.servers.iter().cycle().skip_while(|s| s.id != name).nth(1).filter(|s| s.id != name);
                    let to = other.map(|s| s.listen.to_string()).unwrap_or_default();
                    post("cordon", to.clone()).await?;
                    return Ok(match other {
                        Some(other) => format!("new allocations go to {to} ({})", other.id),
                        None => "new allocations are refused".into(),
                    });
                }
                StepAction::Uncordon => {
                    post("uncordon", String::new()).await?;
                    return Ok("new allocations are taken".into());
                }
                StepAction::Terminate => (Signal::TERM, "SIGTERM"),
                StepAction::Kill => (Signal::KILL, "SIGKILL"),
                StepAction::Pause => (Signal::STOP, "SIGSTOP"),
                StepAction::Resume => (Signal::CONT, "SIGCONT"),
                _ => return Err(ActError::Unsupported),
            };
            process::send(pid(server)?, signal.0)?;
            Ok(format!("{} to process {}", signal.1, server.pid))
        })
    }
}
