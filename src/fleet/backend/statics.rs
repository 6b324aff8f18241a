//! `static`: the servers that the target file names. It knows their names, and nothing that changes.

use super::{ActError, Backend, Look};
use crate::history::{ServerSeen, StepAction};
use crate::profile::ExternalTarget;
use anyhow::Result;
use futures_util::future::BoxFuture;

pub(super) struct Listed(Vec<String>);

impl Listed {
    pub fn new(target: &ExternalTarget) -> Listed {
        Listed(target.carriers().into_iter().map(str::to_owned).collect())
    }
}

impl Backend for Listed {
    fn name(&self) -> &'static str {
        "static"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        let seen = |server: &String| ServerSeen { server: server.clone(), ..ServerSeen::default() };
        Box::pin(async move { Ok(Look { servers: self.0.iter().map(seen).collect(), rooms: None }) })
    }

    fn act<'a>(&'a self, _: StepAction, _: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async { Err(ActError::Unsupported) })
    }
}
