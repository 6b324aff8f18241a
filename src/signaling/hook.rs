//! The join hook: the user's own join API says where a participant goes, before the target's driver joins it there.
//! Asked anew for every join, since where a room is may have changed.

use super::{BoxFuture, Call, Driver, Ended, Order, Progress, Route};
use crate::history::{FailReason, MISNAMED};
use crate::outside;
use crate::plan::{PlannedLeg, PlannedRoom};
use crate::profile::fleet::{JoinBy, JoinHook};
use crate::profile::{ExternalTarget, Secret};
use crate::transport::AllowList;
use anyhow::{Context as _, Result};
use reqwest::Url;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// A driver behind the hook.
pub(super) struct Hooked {
    hook: JoinHook,
    inner: Arc<dyn Driver>,
    /// Server's name, and its URL.
    servers: Vec<(String, Url)>,
    allow: AllowList,
    /// Bearer token for an HTTP hook.
    token: Option<Secret>,
    client: reqwest::Client,
}

/// What the API answers.
struct Answer {
    url: String,
    /// Text, or a number where the target's rooms have numbers.
    room: Option<Value>,
    token: Option<String>,
    /// The server's name, where its URL is none of the target file's.
    server: Option<String>,
}

impl Answer {
    /// Errors say what is wrong, and quote nothing: what a broken answer holds may be a token.
    fn read(text: &str) -> Result<Answer, String> {
        let answer = serde_json::from_str(text).map_err(|e| format!("is no JSON ({} bytes: {e})", text.len()))?;
        let Value::Object(mut fields) = answer else {
            return Err(format!("is {}, no object with a `url`", kind(&answer)));
        };
        let mut text = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("has a `{name}` that is {}, no text", kind(&other))),
        };
        let (url, token, server) = (text("url")?, text("token")?, text("server")?);
        Ok(Answer { url: url.ok_or("has no `url`")?, room: fields.remove("room"), token, server })
    }
}

/// Anything as an API's answer.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any_answer(text: &str) {
    let _ = Answer::read(text);
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Hooked {
    /// # Errors
    /// A server's URL that is none.
    pub fn new(
        hook: JoinHook,
        inner: Arc<dyn Driver>,
        target: &ExternalTarget,
        join_timeout: Duration,
    ) -> Result<Hooked> {
        let url = |s: &crate::profile::ServerEntry| {
            Ok((s.id.clone(), Url::parse(&s.url).with_context(|| format!("server {}: {}", s.id, s.url))?))
        };
        // A hook that outlasts the join is told apart from a server that does.
        let hook = JoinHook { timeout: hook.timeout.min(join_timeout.mul_f64(0.9)), ..hook };
        Ok(Hooked {
            hook,
            inner,
            servers: target.servers.iter().map(url).collect::<Result<_>>()?,
            allow: AllowList::new(target.allow.clone()),
            token: target.secrets.get("join_token").cloned(),
            client: outside::http_client(target.tls_verify)?,
        })
    }

    /// What the API says when it refuses may repeat what it was asked with.
    fn without_secrets(&self, text: String) -> String {
        match self.token.as_ref().filter(|t| !t.0.is_empty()) {
            Some(token) => text.replace(&token.0, "(secret)"),
            None => text,
        }
    }

    /// Without an end of its own: [`Hooked::route`] has one.
    async fn ask(&self, leg: &PlannedLeg, room: &PlannedRoom) -> Result<String> {
        let size = room.size.to_string();
        match &self.hook.by {
            JoinBy::Exec(command) => {
                let env = [
                    ("ROOMFUL_ROOM", room.name.as_str()),
                    ("ROOMFUL_PARTICIPANT", leg.name.as_str()),
                    ("ROOMFUL_SIZE", size.as_str()),
                ];
                outside::run(command, &env, self.hook.timeout * 2).await
            }
            JoinBy::Http(url) => {
                let what = json!({ "room": room.name, "participant": leg.name, "size": room.size });
                let request = self.client.post(url).json(&what);
                let request = match &self.token {
                    Some(token) => request.bearer_auth(&token.0),
                    None => request,
                };
                outside::ask(request, self.hook.timeout * 2).await
            }
        }
    }

    /// What the answer means, and what in it contradicts the target file. Errors: with the reason that the join fails for.
    async fn understand(&self, text: &str) -> Result<(Route, Option<String>), Ended> {
        let wrong = |why: String| Ended::failed(FailReason::Routing, format!("the join API's answer {why}"));
        let answer = Answer::read(text).map_err(wrong)?;
        let url = Url::parse(&answer.url)
            .map_err(|e| wrong(format!("has the url {:?}: {e}", outside::public(&answer.url))))?;
        let room = match answer.room {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(other) => return Err(wrong(format!("has a `room` that is {}", kind(&other)))),
        };
        let (server, lie) = self.server_at(&url, answer.server);
        if !self.permits(&url).await {
            let why = format!(
                "{} is neither a server's host nor inside `allow` of the target file",
                url.host_str().unwrap_or_default()
            );
            return Err(Ended::failed(FailReason::NotAllowed, format!("the join API's answer: {why}")));
        }
        Ok((Route { url: answer.url, room, token: answer.token.map(Secret), server }, lie))
    }

    /// Whose URL this is. The target file's word stands before the API's: what is judged is where calls really go.
    fn server_at(&self, url: &Url, named: Option<String>) -> (Option<String>, Option<String>) {
        let place = |u: &Url| (u.host_str().map(str::to_owned), u.port_or_known_default());
        let at = |exactly: bool| {
            let here = move |u: &Url| place(u) == place(url) && (!exactly || u.path() == url.path());
            self.servers.iter().filter(move |(_, u)| here(u)).map(|(name, _)| name)
        };
        // Several behind one address may differ by path.
        let exact = at(true).next().is_some();
        let known: Vec<&String> = at(exact).collect();
        match (named, known.first()) {
            (Some(named), Some(first)) if !known.contains(&&named) => {
                let lie = format!("the join API sends to the URL of {first}, and calls it {named}");
                (Some((*first).clone()), Some(lie))
            }
            (named, first) => (named.or(first.map(|f| (*f).clone())), None),
        }
    }

    /// Hosts that the target file names, and networks that it allows.
    async fn permits(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        if self.servers.iter().any(|(_, u)| u.host_str() == Some(host)) {
            return true;
        }
        let host = host.trim_matches(['[', ']']);
        match tokio::net::lookup_host((host, url.port_or_known_default().unwrap_or(1))).await {
            Ok(mut all) => all
                .next()
                .is_some_and(|first| self.allow.permits(first.ip()) && all.all(|other| self.allow.permits(other.ip()))),
            Err(_) => false,
        }
    }

    async fn route(&self, call: &mut Call) -> Result<Route, Ended> {
        // Nobody listens any more: the leg is being torn down.
        let _ = call.progress.send(Progress::Started(Instant::now()));
        let limit = self.hook.timeout;
        let text = tokio::select! {
            text = tokio::time::timeout(limit, self.ask(&call.leg, &call.room)) => text,
            () = left(&mut call.orders) => {
                return Err(Ended::failed(FailReason::LeftEarly, "left before the join API answered"));
            }
        };
        let text = match text {
            Ok(Ok(text)) => text,
            Ok(Err(e)) => {
                let why = format!("join API: {e:#}");
                return Err(Ended::failed(FailReason::Routing, self.without_secrets(why)));
            }
            Err(_) => {
                let why = format!("join API: no answer within {}", humantime::format_duration(limit));
                return Err(Ended::failed(FailReason::TimeoutRouting, why));
            }
        };
        let (route, lie) = self.understand(&text).await?;
        let url = outside::public(&route.url);
        let _ = call.progress.send(Progress::Routed { at: Instant::now(), server: route.server.clone(), url });
        if let Some(text) = lie {
            let _ = call.progress.send(Progress::Note { code: MISNAMED, text });
        }
        Ok(route)
    }
}

/// Until the driver runs, the only order that means something is to leave.
async fn left(orders: &mut UnboundedReceiver<Order>) {
    while !matches!(orders.recv().await, Some(Order::Leave) | None) {}
}

impl Driver for Hooked {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn prepare<'a>(&'a self, rooms: &'a [PlannedRoom]) -> BoxFuture<'a, Result<()>> {
        self.inner.prepare(rooms)
    }

    fn run<'a>(&'a self, mut call: Call) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            match self.route(&mut call).await {
                Ok(route) => self.inner.run(Call { route: Some(route), ..call }).await,
                Err(ended) => ended,
            }
        })
    }

    fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
        self.inner.finish()
    }

    fn restarts_ice(&self, slot: u8) -> bool {
        self.inner.restarts_ice(slot)
    }

    fn serves_by_turn(&self) -> bool {
        self.inner.serves_by_turn()
    }

    fn hosts(&self) -> Vec<IpAddr> {
        self.inner.hosts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlannedLeg;
    use crate::signaling::Media;
    use crate::types::{LegId, RoomId};
    use std::sync::Mutex;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    /// URL, room and token.
    type Place = (String, Option<String>, Option<String>);

    /// Takes down where it was sent.
    #[derive(Default)]
    struct Sent(Mutex<Vec<Place>>);

    impl Driver for Sent {
        fn name(&self) -> &'static str {
            "sent"
        }
        fn prepare<'a>(&'a self, _: &'a [PlannedRoom]) -> BoxFuture<'a, Result<()>> {
            Box::pin(async { Ok(()) })
        }
        fn run<'a>(&'a self, call: Call) -> BoxFuture<'a, Ended> {
            let route = call.route.unwrap();
            self.0.lock().unwrap().push((route.url, route.room, route.token.map(|t| t.0)));
            Box::pin(async { Ended::failed(FailReason::Full, "as was to be seen") })
        }
        fn finish<'a>(&'a self) -> BoxFuture<'a, ()> {
            Box::pin(async {})
        }
        fn hosts(&self) -> Vec<IpAddr> {
            vec![]
        }
    }

    fn call() -> (Call, UnboundedReceiver<Progress>, UnboundedSender<Order>) {
        let (orders_in, orders) = unbounded_channel();
        let (progress, told) = unbounded_channel();
        let leg = PlannedLeg {
            seat: 0,
            id: LegId(3),
            room: RoomId(0),
            name: "ann".into(),
            join_at: Duration::ZERO,
            leave_at: Duration::MAX,
            audio: None,
            video: None,
            network: None,
        };
        let room =
            PlannedRoom { id: RoomId(0), name: "board-4".into(), group: 0, size: 6, senders_max: 6, server: None };
        let media = Media::new(leg.id, unbounded_channel().0);
        (Call { leg, room, route: None, media, orders, progress }, told, orders_in)
    }

    const TARGET: &str = "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\n\
        audio = \"opus@32kbit/s\"\n[load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n\
        [target_file]\ndriver = \"janus\"\nallow = [\"10.77.0.0/24\"]\n\
        [[target_file.servers]]\nid = \"j1\"\nurl = \"ws://127.0.0.1:8188\"\n\
        [target_file.join]\ntimeout = \"300ms\"\n";

    fn hooked(by: &str) -> (Arc<Sent>, Hooked) {
        let profile = crate::profile::parse_resolved(&format!("{TARGET}{by}\n")).unwrap();
        let crate::profile::Target::External(target) = profile.target else { panic!("{by}") };
        let inner = Arc::new(Sent::default());
        let hook = target.join.clone().unwrap();
        let hooked = Hooked::new(hook, inner.clone(), &target, Duration::from_secs(15)).unwrap();
        (inner, hooked)
    }

    fn script(text: &str) -> String {
        format!("exec = [\"sh\", \"-c\", {text:?}]")
    }

    async fn fails(by: &str) -> (FailReason, String) {
        let (inner, hooked) = hooked(by);
        let (call, mut told, _orders) = call();
        let Ended::Failed { reason, detail } = hooked.run(call).await else { panic!("it never joined") };
        assert!(inner.0.lock().unwrap().is_empty(), "the driver ran all the same");
        assert!(matches!(told.try_recv(), Ok(Progress::Started(_))));
        assert!(told.try_recv().is_err(), "it was routed nowhere");
        (reason, detail)
    }

    #[tokio::test]
    async fn the_driver_joins_where_the_api_says() {
        let answer = r#"echo "{\"url\": \"ws://127.0.0.1:8188/?k=$ROOMFUL_PARTICIPANT\", \"room\": 17, \"token\": \"$ROOMFUL_ROOM/$ROOMFUL_SIZE\"}""#;
        let (inner, hooked) = hooked(&script(answer));
        let (call, mut told, _orders) = call();
        assert!(matches!(hooked.run(call).await, Ended::Failed { reason: FailReason::Full, .. }));
        let sent = inner.0.lock().unwrap()[0].clone();
        assert_eq!(sent, ("ws://127.0.0.1:8188/?k=ann".into(), Some("17".into()), Some("board-4/6".into())));
        assert!(matches!(told.try_recv(), Ok(Progress::Started(_))));
        let Ok(Progress::Routed { server, url, .. }) = told.try_recv() else { panic!("not routed") };
        assert_eq!((server.as_deref(), url.as_str()), (Some("j1"), "ws://127.0.0.1:8188/"), "secrets stay here");
    }

    #[tokio::test]
    async fn the_target_file_says_whose_url_it_is() {
        let routed = async |answer: &str| {
            let (_, hooked) = hooked(&script(&format!("echo '{answer}'")));
            let (call, mut told, _orders) = call();
            hooked.run(call).await;
            assert!(matches!(told.try_recv(), Ok(Progress::Started(_))));
            let Ok(Progress::Routed { server, .. }) = told.try_recv() else { panic!("not routed") };
            let note = match told.try_recv() {
                Ok(Progress::Note { code, text }) => Some((code, text)),
                _ => None,
            };
            (server, note)
        };
        // A router that sends to j1 and says otherwise is not believed.
        let (server, note) = routed(r#"{"url": "ws://127.0.0.1:8188/x", "server": "j2"}"#).await;
        assert_eq!(server.as_deref(), Some("j1"));
        let (code, text) = note.unwrap();
        assert_eq!(code, MISNAMED);
        assert_eq!(text, "the join API sends to the URL of j1, and calls it j2");
        let (server, note) = routed(r#"{"url": "ws://127.0.0.1:8188", "server": "j1"}"#).await;
        assert_eq!((server.as_deref(), note), (Some("j1"), None));
        // Only the API knows this one.
        let (server, note) = routed(r#"{"url": "ws://10.77.0.9:8188", "server": "j9"}"#).await;
        assert_eq!((server.as_deref(), note), (Some("j9"), None));
    }

    #[tokio::test]
    async fn what_fails_hangs_or_prints_garbage_is_a_failed_join_that_says_so() {
        let (reason, detail) = fails(&script("echo no room left >&2; exit 4")).await;
        assert_eq!((reason, detail.as_str()), (FailReason::Routing, "join API: sh: exit status: 4: \"no room left\""));
        let (reason, detail) = fails(&script("sleep 600")).await;
        assert_eq!(reason, FailReason::TimeoutRouting);
        assert!(detail.contains("within 300ms"), "{detail}");
        for garbage in ["echo hello", "true", "echo '{\"room\": 4}'", "echo '{\"url\": \"sfu\"}'", "echo '[]'"] {
            let (reason, detail) = fails(&script(garbage)).await;
            assert_eq!(reason, FailReason::Routing, "{garbage}");
            assert!(detail.starts_with("the join API's answer"), "{detail}");
        }
        let (reason, detail) = fails("http = \"http://127.0.0.1:1/join\"").await;
        assert_eq!(reason, FailReason::Routing);
        assert!(detail.contains("http://127.0.0.1:1/join: Connection refused"), "{detail}");
    }

    #[tokio::test]
    async fn no_part_of_an_answer_that_may_be_secret_is_told() {
        for answer in [
            r#"{"token": "s3cret"}"#,
            r#"{"url": 7, "token": "s3cret"}"#,
            r#"{"url": "sfu?token=s3cret"}"#,
            r#"{"url": "ws://127.0.0.1:8188", "token": {"of": "s3cret"}}"#,
            r#"{"url": "ws://127.0.0.1:8188", "room": ["s3cret"]}"#,
            r#""s3cret""#,
            "token=s3cret",
        ] {
            let (reason, detail) = fails(&script(&format!("echo '{answer}'"))).await;
            assert_eq!(reason, FailReason::Routing, "{answer}");
            assert!(detail.starts_with("the join API's answer ") && !detail.contains("s3cret"), "{answer}: {detail}");
        }
        // A refusal may repeat what it was asked with.
        let (_, mut hooked) = hooked(&script("echo no entry with s3cret >&2; exit 1"));
        hooked.token = Some(Secret("s3cret".into()));
        let (call, _told, _orders) = call();
        let Ended::Failed { detail, .. } = hooked.run(call).await else { panic!("it never joined") };
        assert!(detail.contains("no entry with (secret)"), "{detail}");
    }

    #[tokio::test]
    async fn it_sends_nobody_to_strangers() {
        let (reason, detail) = fails(&script("echo '{\"url\": \"ws://10.78.0.1:8188\"}'")).await;
        assert_eq!(reason, FailReason::NotAllowed);
        assert!(detail.contains("10.78.0.1"), "{detail}");
        let (_, hooked) = hooked(&script("true"));
        for (url, may) in [("ws://10.77.0.9:1", true), ("ws://127.0.0.1:9", true), ("ws://127.0.0.2:9", false)] {
            assert_eq!(hooked.permits(&Url::parse(url).unwrap()).await, may, "{url}");
        }
    }

    #[tokio::test]
    async fn whoever_leaves_meanwhile_has_left() {
        let (_, hooked) = hooked(&script("sleep 600"));
        let (call, _told, orders) = call();
        orders.send(Order::Leave).unwrap();
        assert!(matches!(hooked.run(call).await, Ended::Failed { reason: FailReason::LeftEarly, .. }));
    }
}
