//! The user's own programs and HTTP services: asked with a time-out, answers bounded, and every failure a text that says
//! who did what. Nothing that they start outlives the question.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use std::future::Future;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// An answer longer than this is none.
const ANSWER_MAX: usize = 16 << 20;
/// What is kept of a program's complaints.
const COMPLAINTS_MAX: usize = 64 << 10;
/// How much of a wrong answer an error quotes, characters.
const QUOTE_MAX: usize = 200;

/// Runs a program and gives what it printed, without white space at both ends.
///
/// # Errors
/// It cannot be started, did not end in time (then it is killed with all that it started), failed, or printed too much.
pub async fn run(command: &[String], env: &[(&str, &str)], within: Duration) -> Result<String> {
    let [program, arguments @ ..] = command else { bail!("no program to run") };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // So that what it starts can be ended with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{program}: can't be started"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let (out, err) = tokio::join!(read(out, ANSWER_MAX), read(err, COMPLAINTS_MAX));
        Ok::<_, std::io::Error>((out?, err?, child.wait().await?))
    };
    let (out, err, status) = match tokio::time::timeout(within, whole).await {
        Ok(done) => done.with_context(|| program.clone())?,
        Err(_) => bail!("{program}: did not end within {}", humantime::format_duration(within)),
    };
    // Ended and waited for: its id may belong to somebody else now.
    group.0 = None;
    let complaint = || match err.trim() {
        "" => String::new(),
        text => format!(": {}", quoted(text)),
    };
    ensure!(status.success(), "{program}: {status}{}", complaint());
    ensure!(out.len() < ANSWER_MAX, "{program}: printed more than {} MiB", ANSWER_MAX >> 20);
    Ok(out.trim().to_owned())
}

/// All processes of a program, ended when nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // An error means that they are gone already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads to the end and keeps the beginning, so that whoever prints too much is not held up.
async fn read(from: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<String> {
    let Some(mut from) = from else { return Ok(String::new()) };
    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let room = most - kept.len();
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
}

/// A client for [`ask`].
///
/// # Errors
/// TLS cannot be set up.
pub fn http_client(tls_verify: bool) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().tcp_nodelay(true);
    Ok(builder.danger_accept_invalid_certs(!tls_verify).build()?)
}

/// The body of an answer with status 2xx, without white space at both ends.
///
/// # Errors
/// No answer in time, another status, or a body that is too long; with the URL and what was said.
pub async fn ask(request: reqwest::RequestBuilder, within: Duration) -> Result<String> {
    let (status, url, text) = ask_any(request, within).await?;
    ensure!(status.is_success(), "{}: {status}: {}", public(url.as_str()), quoted(&text));
    Ok(text)
}

/// As [`ask`], but every status is an answer.
///
/// # Errors
/// No answer in time, or a body that is too long.
pub async fn ask_any(
    request: reqwest::RequestBuilder,
    within: Duration,
) -> Result<(reqwest::StatusCode, reqwest::Url, String)> {
    let answer = request.timeout(within).send().await.map_err(explained)?;
    let (url, status) = (answer.url().clone(), answer.status());
    match text(answer, ANSWER_MAX).await {
        Ok(text) => Ok((status, url, text.trim().to_owned())),
        Err(BodyError::Broken(e)) => Err(explained(e)),
        Err(e @ BodyError::TooLong { .. }) => Err(anyhow::anyhow!("{}: {e}", public(url.as_str()))),
    }
}

/// Why an answer's body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Broken(#[from] reqwest::Error),
    #[error("answered more than {} KiB", most >> 10)]
    TooLong { most: usize },
}

/// An answer's body, as text: at most `most` bytes of it are held.
///
/// # Errors
/// It broke off, or is longer.
pub async fn text(mut answer: reqwest::Response, most: usize) -> Result<String, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > most {
            return Err(BodyError::TooLong { most });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// A URL without what may be secret in it: user, password, query, fragment.
pub fn public(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// reqwest's own texts leave out the cause.
fn explained(error: reqwest::Error) -> anyhow::Error {
    let url = error.url().map_or_else(|| "request".to_owned(), |u| public(u.as_str()));
    if error.is_timeout() {
        return anyhow::anyhow!("{url}: no answer in time");
    }
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    anyhow::anyhow!("{url}: {cause}")
}

/// An answer as JSON of a known form.
///
/// # Errors
/// It is none: what is wrong, and how the answer began.
pub fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| format!("is not the JSON that was wanted: {}", quoted(text)))
}

/// Waits for something that has no time-out of its own.
///
/// # Errors
/// It took too long, or its own.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => bail!("{what}: no answer within {}", humantime::format_duration(limit)),
    }
}

/// The beginning of what somebody said.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_MAX) {
        Some((at, _)) => format!("{:?} …", &text[..at]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SOON: Duration = Duration::from_secs(10);

    async fn sh(script: &str, within: Duration) -> Result<String> {
        run(&["sh", "-c", script].map(String::from), &[("ROOMFUL_SERVER", "a")], within).await
    }

    #[tokio::test]
    async fn what_a_program_prints_is_its_answer_and_what_goes_wrong_has_its_name() {
        assert_eq!(sh("echo; echo $ROOMFUL_SERVER", SOON).await.unwrap(), "a");
        let error = |r: Result<String>| format!("{:#}", r.unwrap_err());
        assert_eq!(error(sh("echo no such server >&2; exit 3", SOON).await), "sh: exit status: 3: \"no such server\"");
        assert_eq!(error(sh("kill -9 $$", SOON).await), "sh: signal: 9 (SIGKILL)");
        let missing = error(run(&["/no/such/program".to_owned()], &[], SOON).await);
        assert!(missing.starts_with("/no/such/program: can't be started: No such file"), "{missing}");
        assert!(error(sh("head -c 20000000 /dev/zero", SOON).await).contains("printed more than 16 MiB"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_all_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let begun = Instant::now();
        let error = format!("{:#}", sh(&script, Duration::from_millis(500)).await.unwrap_err());
        assert_eq!(error, "sh: did not end within 500ms");
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not wait for it");
        let child = std::fs::read_to_string(&pid_file).unwrap();
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        for _ in 0..200 {
            if !alive() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!alive(), "its child lives on");
    }

    #[tokio::test]
    async fn a_dead_service_is_named_with_the_cause() {
        let client = http_client(true).unwrap();
        let error = format!("{:#}", ask(client.get("http://127.0.0.1:1/x"), SOON).await.unwrap_err());
        assert!(error.starts_with("http://127.0.0.1:1/x: Connection refused"), "{error}");
    }

    #[test]
    fn public_urls_hold_no_secrets() {
        for (url, shown) in [
            ("wss://ann:pw@sfu.example.org:8989/janus?token=t#f", "wss://sfu.example.org:8989/janus"),
            ("ws://10.77.0.1:8188", "ws://10.77.0.1:8188"),
            ("ws://[::1]:8188?token=a/b@c", "ws://[::1]:8188"),
            ("sfu?token=t", "sfu"),
            ("", ""),
        ] {
            assert_eq!(public(url), shown, "{url}");
        }
    }

    #[test]
    fn garbage_is_quoted_in_part() {
        let error = format!("{:#}", json::<bool>(&"ä".repeat(5000)).unwrap_err());
        assert!(error.starts_with("is not the JSON that was wanted: \"ää") && error.len() < 1000, "{error}");
    }
}
