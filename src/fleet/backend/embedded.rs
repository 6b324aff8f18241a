//! `embedded`: our own fleet, through its director.

use super::{ANSWER_WITHIN, ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::outside;
use anyhow::{Context as _, Result, anyhow};
use futures_util::future::BoxFuture;
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A process has to come up.
const START_WITHIN: std::time::Duration = std::time::Duration::from_secs(15);

pub(super) struct Director {
    url: Url,
    client: reqwest::Client,
}

/// What we need of `GET /registry`; what it leaves out is not known.
#[derive(Deserialize)]
struct Registry {
    servers: Vec<ServerSeen>,
    rooms: BTreeMap<String, String>,
}

impl Director {
    /// # Errors
    /// When that is no URL that paths can be added to.
    pub fn new(url: &str) -> Result<Director> {
        let url = Url::parse(url).with_context(|| format!("director's URL {url:?}"))?;
        anyhow::ensure!(!url.cannot_be_a_base(), "director's URL {url}: no base for paths");
        Ok(Director { url, client: outside::http_client(true)? })
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        // `new` made sure that it can be a base.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

impl Backend for Director {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            let url = self.at(&["registry"]);
            let text = outside::ask(self.client.get(url.clone()), ANSWER_WITHIN).await?;
            let registry: Registry = outside::json(&text).with_context(|| url.to_string())?;
            Ok(Look { servers: registry.servers, rooms: Some(registry.rooms) })
        })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            use StepAction::{Cordon, Kill, Pause, Resume, Terminate, Uncordon};
            if action == StepAction::Start {
                return Ok(outside::ask(self.client.post(self.at(&["servers"])), START_WITHIN).await?);
            }
            if !matches!(action, Cordon | Uncordon | Terminate | Kill | Pause | Resume) {
                return Err(ActError::Unsupported);
            }
            let server = server.ok_or_else(|| anyhow!("which server?"))?;
            let url = self.at(&["servers", server, action.as_str()]);
            Ok(outside::ask(self.client.post(url), ANSWER_WITHIN).await?)
        })
    }
}
