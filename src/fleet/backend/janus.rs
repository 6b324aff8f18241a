//! `janus`: the administration API of each server (`admin` in the target file, secret `admin`). A session is Janus's own,
//! one a participant; participants are the publishers of its VideoRooms. Its cordon refuses joins to old rooms, too
//! (docs/targets/janus.md).

use super::{ANSWER_WITHIN, ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::outside;
use crate::profile::{ExternalTarget, Secret};
use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

const VIDEOROOM: &str = "janus.plugin.videoroom";

pub(super) struct Admin {
    servers: BTreeMap<String, Server>,
    secret: Option<Secret>,
    client: reqwest::Client,
}

struct Server {
    url: String,
    /// It has answered once: nobody at its port means that it has ended, and not that the port is wrong.
    answered: AtomicBool,
}

impl Admin {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(target: &ExternalTarget) -> Result<Admin> {
        let at = |s: &crate::profile::ServerEntry| {
            Some((s.id.clone(), Server { url: s.admin.clone()?, answered: AtomicBool::new(false) }))
        };
        Ok(Admin {
            servers: target.servers.iter().filter_map(at).collect(),
            secret: target.secrets.get("admin").cloned(),
            client: outside::http_client(target.tls_verify)?,
        })
    }

    async fn ask(&self, url: &str, mut request: Value) -> Result<Value> {
        let what = request["janus"].as_str().unwrap_or_default().to_owned();
        request["transaction"] = json!("roomful");
        if let Some(secret) = &self.secret {
            request["admin_secret"] = json!(secret.0);
        }
        let text = outside::ask(self.client.post(url).json(&request), ANSWER_WITHIN).await?;
        let answer: Value = outside::json(&text).with_context(|| format!("{url}: {what}"))?;
        if answer["janus"] == "success" || answer["janus"] == "server_info" {
            return Ok(answer);
        }
        match answer["error"]["reason"].as_str() {
            Some(reason) => bail!("{url}: {what}: {} {reason}", answer["error"]["code"]),
            None => bail!("{url}: {what}: {}", outside::quoted(&text)),
        }
    }

    async fn see(&self, name: &str, server: &Server) -> Result<ServerSeen> {
        let url = &server.url;
        let sessions = match self.ask(url, json!({ "janus": "list_sessions" })).await {
            Ok(answer) => answer["sessions"].as_array().map(|s| s.len() as u64),
            Err(e) => {
                let ended = nobody_listens(url).await && server.answered.load(Ordering::Relaxed);
                return match ended {
                    true => Ok(ServerSeen { server: name.to_owned(), alive: Some(false), ..ServerSeen::default() }),
                    false => Err(e),
                };
            }
        };
        server.answered.store(true, Ordering::Relaxed);
        let info = self.ask(url, json!({ "janus": "info" })).await.ok();
        let accepts = info.as_ref().and_then(|i| i["accepting-new-sessions"].as_bool());
        Ok(ServerSeen {
            server: name.to_owned(),
            alive: Some(true),
            cordoned: accepts.map(|a| !a),
            sessions,
            participants: self.participants(url).await,
            ..ServerSeen::default()
        })
    }

    /// `None` where the plugin does not say.
    async fn participants(&self, url: &str) -> Option<u64> {
        let list = json!({ "janus": "message_plugin", "plugin": VIDEOROOM, "request": { "request": "list" } });
        let answer = self.ask(url, list).await.ok()?;
        let rooms = answer["response"]["list"].as_array()?;
        rooms.iter().map(|r| r["num_participants"].as_u64()).sum()
    }
}

/// A refused connection, and nothing else: a server that stands still or is cut off refuses none.
async fn nobody_listens(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let Some((host, port)) = url.host_str().zip(url.port_or_known_default()) else { return false };
    let host = host.trim_matches(['[', ']']);
    let connected = tokio::time::timeout(ANSWER_WITHIN, tokio::net::TcpStream::connect((host, port))).await;
    matches!(connected, Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused)
}

impl Backend for Admin {
    fn name(&self) -> &'static str {
        "janus"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            super::merged(join_all(self.servers.iter().map(|(name, server)| self.see(name, server))).await)
        })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            let accept = match action {
                StepAction::Cordon => false,
                StepAction::Uncordon => true,
                _ => return Err(ActError::Unsupported),
            };
            let name = server.ok_or_else(|| anyhow!("which server?"))?;
            let server = self.servers.get(name).ok_or(ActError::Unsupported)?;
            self.ask(&server.url, json!({ "janus": "accept_new_sessions", "accept": accept })).await?;
            Ok(format!("accept_new_sessions {accept}"))
        })
    }
}
