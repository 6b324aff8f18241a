//! Headless Chromium, driven over WebDriver (W3C) by Debian's chromedriver; and a small web server for its pages.

use super::{artifacts, folder, program, until};
use base64::Engine as _;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A browser with one tab. Killed when dropped, with its chromedriver.
pub struct Chromium {
    session: String,
    http: reqwest::Client,
    driver: Child,
    // Removed with the browser.
    _profile: tempfile::TempDir,
}

impl Chromium {
    /// Starts it. `port` is for chromedriver, on loopback.
    pub async fn start(port: u16) -> Chromium {
        let profile = tempfile::tempdir().unwrap();
        let log = fs::File::create(artifacts().join(format!("chromedriver-{port}.log"))).unwrap();
        let driver = Command::new(program("chromedriver"))
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://127.0.0.1:{port}");
        let mut chromium = Chromium { session: base.clone(), http, driver, _profile: profile };
        until("chromedriver is ready", Duration::from_secs(20), async || {
            let answer = chromium.http.get(format!("{base}/status")).send().await.ok()?;
            let status: Value = answer.json().await.ok()?;
            (status["value"]["ready"] == true).then_some(())
        })
        .await;
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            "--autoplay-policy=no-user-gesture-required",
            // Real addresses in the candidates: nobody resolves mDNS names here.
            "--disable-features=WebRtcHideLocalIpsWithMdns",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", chromium._profile.path().display()));
        let options = json!({"binary": program("chromium"), "args": arguments});
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "timeouts": {"script": 60_000, "pageLoad": 60_000},
        }}});
        let value = chromium.post("/session", wanted).await;
        let id = value["sessionId"].as_str().unwrap();
        chromium.session = format!("{base}/session/{id}");
        chromium
    }

    /// Puts what runs of it now, and what it will start, on one core.
    pub fn pin(&self, core: &str) {
        let mut pids = vec![self.driver.id()];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
            }
            // One that has just ended is fine.
            let _ = Command::new(program("taskset")).args(["-a", "-p", "-c", core, &pid.to_string()]).output();
        }
    }

    /// Loads a page in the tab.
    pub async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// The value of a JavaScript expression; promises are awaited. Panics on what it throws.
    pub async fn eval_json(&self, expression: &str) -> Value {
        let script = format!("return (async () => ({expression}))();");
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// A PNG of the tab.
    pub async fn screenshot(&self, path: &Path) {
        let answer = self.http.get(format!("{}/screenshot", self.session)).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let png = base64::engine::general_purpose::STANDARD.decode(answer["value"].as_str().unwrap()).unwrap();
        fs::write(path, png).unwrap();
    }

    /// Ends the browser properly.
    pub async fn quit(self) {
        self.http.delete(&self.session).send().await.unwrap();
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}{path}", self.session)).json(&body).send().await.unwrap();
        let status = answer.status();
        let mut answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path}: {}", answer["value"]["message"]);
        answer["value"].take()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The browser itself ends with the namespace if nobody had it quit.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Serves `tests/targets/page` on loopback, a secure origin to which the browser gives its camera. Ends with the runtime.
pub async fn serve_pages() -> SocketAddr {
    let page = |name: &str| axum::response::Html(fs::read_to_string(folder().join("page").join(name)).unwrap());
    let janus = page("janus.html");
    let pages = axum::Router::new().route("/janus.html", axum::routing::get(async move || janus));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, pages).await.unwrap() });
    address
}
