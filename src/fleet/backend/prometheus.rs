//! `prometheus`: what each server exports at its `metrics`, which is what an autoscaler acts on.

use super::{ActError, Backend, Look};
use crate::fleet::observe::prometheus::sum;
use crate::history::{ServerSeen, StepAction};
use crate::outside;
use crate::profile::ExternalTarget;
use crate::profile::fleet::{MetricName, PrometheusBackend};
use anyhow::Result;
use futures_util::future::{BoxFuture, join_all};

pub(super) struct Exporters {
    settings: PrometheusBackend,
    /// Server's name, and where its metrics are.
    servers: Vec<(String, String)>,
    client: reqwest::Client,
}

impl Exporters {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(settings: PrometheusBackend, target: &ExternalTarget) -> Result<Exporters> {
        let at = |s: &crate::profile::ServerEntry| Some((s.id.clone(), s.metrics.clone()?));
        let servers = target.servers.iter().filter_map(at).collect();
        Ok(Exporters { settings, servers, client: outside::http_client(target.tls_verify)? })
    }

    async fn see(&self, server: &str, url: &str) -> Result<ServerSeen> {
        let text = outside::ask(self.client.get(url), self.settings.timeout).await?;
        let value = |metric: &Option<MetricName>| {
            metric.as_ref().and_then(|m| Some(sum(&text, &m.name, &m.labels)? * m.factor))
        };
        // A metric that is not exported is not zero.
        let count = |metric| value(metric).filter(|v| *v >= 0.0).map(|v| v.round() as u64);
        Ok(ServerSeen {
            server: server.to_owned(),
            sessions: count(&self.settings.sessions),
            participants: count(&self.settings.participants),
            loss: value(&self.settings.loss),
            jitter_ms: value(&self.settings.jitter),
            ..ServerSeen::default()
        })
    }
}

impl Backend for Exporters {
    fn name(&self) -> &'static str {
        "prometheus"
    }

    fn look(&self) -> BoxFuture<'_, Result<Look>> {
        Box::pin(async move {
            super::merged(join_all(self.servers.iter().map(|(server, url)| self.see(server, url))).await)
        })
    }

    fn act<'a>(&'a self, _: StepAction, _: Option<&'a str>) -> BoxFuture<'a, Result<String, ActError>> {
        Box::pin(async { Err(ActError::Unsupported) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ServerEntry;
    use axum::routing::get;
    use std::time::Duration;

    #[tokio::test]
    async fn exported_numbers_are_read_and_blank_ones_are_not_zero() {
        let text = "sfu_sessions{room=\"a\"} 3\nsfu_sessions{room=\"b\"} 4\nsfu_loss_percent 0.5\nsfu_jitter_us 2500\n";
        let app =
            axum::Router::new().route("/a", get(move || async move { text })).route("/blank", get(|| async { "" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let metric =
            |name: &str, factor: f64| Some(MetricName { text: name.into(), name: name.into(), labels: vec![], factor });
        let settings = PrometheusBackend {
            sessions: metric("sfu_sessions", 1.0),
            participants: metric("sfu_participants", 1.0),
            loss: metric("sfu_loss_percent", 0.01),
            jitter: metric("sfu_jitter_us", 0.001),
            timeout: Duration::from_secs(3),
        };
        let server = |id: &str, metrics: String| ServerEntry {
            id: id.into(),
            url: "ws://127.0.0.1:1".into(),
            admin: None,
            pid_file: None,
            metrics: Some(metrics),
            observe: vec![],
            cores: None,
        };
        let of = |servers| Exporters::new(settings.clone(), &ExternalTarget::of("janus", servers)).unwrap();
        let blank = server("blank", format!("{base}/blank"));
        let dead = server("dead", "http://127.0.0.1:1/metrics".into());
        let look = of(vec![server("a", format!("{base}/a")), blank, dead.clone()]).look().await.unwrap();
        let [a, blank] = &look.servers[..] else { panic!("{look:?}") };
        assert_eq!((a.sessions, a.participants), (Some(7), None));
        assert!((a.loss.unwrap() - 0.005).abs() < 1e-12 && (a.jitter_ms.unwrap() - 2.5).abs() < 1e-12, "{a:?}");
        assert_eq!((blank.sessions, blank.loss), (None, None));
        assert!(format!("{:#}", of(vec![dead]).look().await.unwrap_err()).contains("Connection refused"));
    }
}
