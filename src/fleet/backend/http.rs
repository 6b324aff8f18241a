//! `http`: a service of the user. Its secret is `fleet_token`, sent as a bearer token.

use super::{ActError, Backend, Look, told};
use crate::history::StepAction;
use crate::outside;
use crate::profile::Secret;
use crate::profile::fleet::HttpBackend;
use anyhow::{Context as _, Result};
use futures_util::future::BoxFuture;

pub(super) struct Service {
    pub settings: HttpBackend,
    pub token: Option<Secret>,
    pub client: reqwest::Client,
}

impl Service {
    fn sealed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(&token.0),
            None => request,
        }
    }
}

impl Backend for Service {
    fn name(&self) -> &'static str {
        "http"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            let url = self.settings.look.as_ref().context("has no `look`")?;
            let text = outside::ask(self.sealed(self.client.get(url)), self.settings.timeout).await?;
            told::look(&text).with_context(|| url.clone())
        })
    }

    fn act<'a>(&'a self, action: StepAction, server: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async move {
            let Some(url) = &self.settings.act else { return Err(ActError::Unsupported) };
            if !super::takes(&self.settings.actions, action) {
                return Err(ActError::Unsupported);
            }
            let what = serde_json::json!({ "action": action.as_str(), "server": server });
            let said = outside::ask(self.sealed(self.client.post(url).json(&what)), self.settings.timeout).await?;
            Ok(if said.is_empty() { url.clone() } else { said })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Json;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::{get, post};
    use std::time::Duration;

    async fn act(headers: HeaderMap, Json(what): Json<serde_json::Value>) -> (StatusCode, String) {
        let token = headers.get("authorization").and_then(|t| t.to_str().ok()).unwrap_or("none");
        match what["server"].as_str() {
            Some("ghost") => (StatusCode::NOT_FOUND, "no such server".into()),
            server => (StatusCode::OK, format!("{} {server:?} with {token}", what["action"])),
        }
    }

    #[tokio::test]
    async fn a_service_looks_and_acts_and_its_failures_are_errors() {
        let app = axum::Router::new()
            .route("/look", get(|| async { "{\"servers\": [{\"server\": \"a\", \"cordoned\": true}]}" }))
            .route("/blank", get(|| async { "" }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }))
            .route("/act", post(act));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let at = |path: &str| Service {
            settings: HttpBackend {
                look: Some(format!("{base}{path}")),
                act: Some(format!("{base}/act")),
                actions: vec![],
                timeout: Duration::from_millis(500),
            },
            token: Some(Secret("s3cret".into())),
            client: outside::http_client(true).unwrap(),
        };
        assert_eq!(at("/look").look().await.unwrap().servers[0].cordoned, Some(true));
        for (path, want) in [("/blank", "is not the JSON"), ("/slow", "no answer in time"), ("/x", "404 Not Found")] {
            let error = format!("{:#}", at(path).look().await.unwrap_err());
            assert!(error.contains(want) && error.contains(path) && !error.contains("s3cret"), "{error}");
        }
        let said = at("/look").act(StepAction::Cordon, Some("a")).await.unwrap();
        assert_eq!(said, "\"cordon\" Some(\"a\") with Bearer s3cret");
        let error = at("/look").act(StepAction::Cordon, Some("ghost")).await.unwrap_err().to_string();
        assert!(error.contains("404 Not Found: \"no such server\""), "{error}");
    }
}
