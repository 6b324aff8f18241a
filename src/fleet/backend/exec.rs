//! `exec`: programs of the user.

use super::{ActError, Backend, Look, told};
use crate::history::StepAction;
use crate::outside;
use crate::profile::fleet::ExecBackend;
use anyhow::{Context as _, Result};
use futures_util::future::BoxFuture;

pub(super) struct Programs(pub ExecBackend);

impl Backend for Programs {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            let text = outside::run(&self.0.look, &[], self.0.timeout).await?;
            told::look(&text).with_context(|| self.0.look[0].clone())
        })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            let ExecBackend { act, actions, timeout, .. } = &self.0;
            if !super::takes(actions, action) {
                return Err(ActError::Unsupported);
            }
            let mut env = vec![("ROOMFUL_ACTION", action.as_str())];
            env.extend(server.map(|s| ("ROOMFUL_SERVER", s)));
            let said = outside::run(act, &env, *timeout).await?;
            Ok(if said.is_empty() { act[0].clone() } else { said })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn backend(look: &str, act: &str, actions: &[&str]) -> Programs {
        let sh = |script: &str| ["sh", "-c", script].map(String::from).to_vec();
        let actions = actions.iter().map(|a| (*a).to_owned()).collect();
        Programs(ExecBackend { look: sh(look), act: sh(act), actions, timeout: Duration::from_secs(5) })
    }

    #[tokio::test]
    async fn programs_look_and_act() {
        let json = "echo '{\"servers\": [{\"server\": \"a\", \"sessions\": 3}]}'";
        let b = backend(json, "echo $ROOMFUL_ACTION of ${ROOMFUL_SERVER-nobody}", &["cordon", "registry_flush"]);
        assert_eq!(b.look().await.unwrap().servers[0].sessions, Some(3));
        assert_eq!(b.act(StepAction::Cordon, Some("a b")).await.unwrap(), "cordon of a b");
        assert_eq!(b.act(StepAction::RegistryFlush, None).await.unwrap(), "registry_flush of nobody");
        assert!(matches!(b.act(StepAction::Kill, Some("a")).await, Err(ActError::Unsupported)));
    }

    #[tokio::test]
    async fn one_that_fails_or_hangs_or_prints_garbage_never_reads_as_an_empty_fleet() {
        for (look, want) in [
            ("echo oops >&2; exit 1", "sh: exit status: 1: \"oops\""),
            ("echo '[0 sessions]'", "sh: is not the JSON that was wanted: \"[0 sessions]\""),
            ("true", "sh: is not the JSON"),
        ] {
            let error = format!("{:#}", backend(look, "true", &[]).look().await.unwrap_err());
            assert!(error.starts_with(want), "{error}");
        }
        let mut hangs = backend("sleep 60", "sleep 60", &[]);
        hangs.0.timeout = Duration::from_millis(200);
        assert_eq!(format!("{:#}", hangs.look().await.unwrap_err()), "sh: did not end within 200ms");
        let error = hangs.act(StepAction::Cordon, Some("a")).await.unwrap_err().to_string();
        assert_eq!(error, "sh: did not end within 200ms");
    }
}
