//! The redis backend against a real redis-server.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

#[path = "support/redis.rs"]
mod server;

use roomful::fleet::backend::{Fleet, FleetWatch};
use roomful::history::{FleetView, ServerSeen, StepAction};
use roomful::profile::parse_resolved;
use server::Redis;
use std::time::{Duration, Instant};

fn fleet(redis: &Redis, more: &str) -> Fleet {
    let text = format!(
        "shape = \"steady\"\ntarget = \"t.toml\"\n[[rooms]]\nname = \"m\"\ncount = 1\nsize = 2\naudio = \"opus@32kbit/s\"\n\
         [load]\njoin = \"1/s\"\nhold = \"9s\"\n[pass]\n\"legs.dropped\" = \"== 0\"\n\
         [target_file]\ndriver = \"janus\"\n[[target_file.servers]]\nid = \"a\"\nurl = \"ws://127.0.0.1:1\"\n\
         [target_file.fleet]\ndiscovery = [\"redis\"]\ncontrol = [\"redis\"]\n\
         [target_file.fleet.redis]\nurl = \"redis://{}/0\"\nalive = \"sfu:{{server}}:alive\"\nlisted = \"sfu:servers\"\n\
         cordoned = \"sfu:{{server}}#cordoned\"\nheadroom = \"sfu:{{server}}#headroom\"\nrooms = \"room:{{room}}:server\"\n\
         timeout = \"500ms\"\n{more}\n",
        redis.address
    );
    Fleet::of(&parse_resolved(&text).unwrap_or_else(|e| panic!("{e}")), None).unwrap()
}

/// The first view that is as wanted, and those before it.
async fn view(watch: &FleetWatch, what: &str, wanted: impl Fn(&FleetView) -> bool) -> FleetView {
    let until = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    loop {
        for (_, v) in watch.take() {
            if wanted(&v) {
                return v;
            }
            seen.push(v);
        }
        assert!(Instant::now() < until, "{what} not seen in {seen:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn of<'a>(view: &'a FleetView, server: &str) -> &'a ServerSeen {
    view.servers.iter().find(|s| s.server == server).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_seen_as_it_is_and_cordoned() {
    let redis = Redis::start([127, 0, 0, 1].into());
    for words in [
        &["SET", "sfu:a:alive", "1", "PX", "6000"][..],
        &["SET", "sfu:b:alive", "1"],
        &["SADD", "sfu:servers", "a", "b", "c"],
        &["HSET", "sfu:a", "headroom", "-3"],
        &["HSET", "sfu:b", "headroom", "40"],
        &["SET", "room:x:server", "a"],
        &["SET", "room:y:1:server", "b"],
        &["SET", "somebody:else", "9"],
    ] {
        redis.tell(words);
    }
    let fleet = fleet(&redis, "");
    let watch = fleet.watch();
    let first = view(&watch, "a first view", |_| true).await;
    assert_eq!(first.error, None);
    let seen = |server: &str, alive, headroom| ServerSeen {
        server: server.into(),
        alive: Some(alive),
        listed: Some(true),
        cordoned: Some(false),
        headroom,
        ..ServerSeen::default()
    };
    assert_eq!(first.servers, [seen("a", true, Some(-3)), seen("b", true, Some(40)), seen("c", false, None)]);
    let rooms: Vec<_> = first.rooms.iter().map(|(r, s)| (r.as_str(), s.as_deref())).collect();
    assert_eq!(rooms, [("x", Some("a")), ("y:1", Some("b"))]);

    // What expires is dead, and what moves is told.
    let expired = view(&watch, "a's end", |v| of(v, "a").alive == Some(false)).await;
    assert_eq!(of(&expired, "b").alive, Some(true));
    redis.tell(&["SET", "room:x:server", "b"]);
    redis.tell(&["DEL", "room:y:1:server"]);
    let moved = view(&watch, "x's move", |v| v.rooms.get("x").is_some_and(|s| s.as_deref() == Some("b"))).await;
    if !moved.rooms.contains_key("y:1") {
        view(&watch, "y's end", |v| v.rooms.get("y:1") == Some(&None)).await;
    }

    assert_eq!(fleet.act(StepAction::Cordon, Some("b")).await.unwrap(), "redis: HSET sfu:b cordoned");
    let cordoned = view(&watch, "b's cordon", |v| of(v, "b").cordoned == Some(true)).await;
    assert_eq!((of(&cordoned, "a").cordoned, of(&cordoned, "b").headroom), (Some(false), Some(40)));
    fleet.act(StepAction::Uncordon, Some("b")).await.unwrap();
    view(&watch, "b's uncordon", |v| of(v, "b").cordoned == Some(false)).await;
    // Discovered, though the target file does not name it.
    fleet.act(StepAction::Cordon, Some("c")).await.unwrap();
    let unknown = format!("{:#}", fleet.act(StepAction::Cordon, Some("zoe")).await.unwrap_err());
    assert!(unknown.contains("no server \"zoe\"; it has a, b, c"), "{unknown}");

    // Garbage is no zero, and says where it is.
    redis.tell(&["HSET", "sfu:b", "headroom", "plenty"]);
    let garbage = view(&watch, "garbage", |v| v.error.is_some()).await;
    assert!(garbage.error.as_ref().unwrap().contains("sfu:{server}#headroom of b is \"plenty\""), "{garbage:?}");
    redis.tell(&["HSET", "sfu:b", "headroom", "5"]);
    redis.tell(&["DEL", "sfu:servers"]);
    redis.tell(&["SET", "sfu:servers", "a"]);
    let wrong = view(&watch, "a wrong type", |v| v.error.as_ref().is_some_and(|e| e.contains("WRONGTYPE"))).await;
    assert!(wrong.error.as_ref().unwrap().contains("key sfu:servers") && wrong.servers.is_empty(), "{wrong:?}");
}

/// Each fault is seen as a failure, not as an empty fleet, and the registry is seen again after it.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_flushes_and_restarts_are_faults_and_not_an_empty_fleet() {
    let redis = Redis::start([127, 0, 0, 1].into());
    let fill = || {
        redis.tell(&["SADD", "sfu:servers", "a"]);
        redis.tell(&["SET", "sfu:a:alive", "1"]);
    };
    fill();
    let restart = ["sh", "-c", &redis.restart_line()].map(|w| format!("{w:?}")).join(", ");
    let more = format!("pid_file = {:?}\nrestart = [{restart}]", redis.pid_file());
    let stopping = fleet(&redis, &more);
    let watch = stopping.watch();
    let alive = |v: &FleetView| v.error.is_none() && of(v, "a").alive == Some(true);
    view(&watch, "a", alive).await;

    let said = stopping.act(StepAction::RegistryPause, None).await.unwrap();
    assert!(said.starts_with("redis: SIGSTOP to process "), "{said}");
    let paused = view(&watch, "the pause", |v| v.error.is_some()).await;
    assert!(paused.servers.is_empty() && paused.rooms.is_empty(), "{paused:?}");
    stopping.act(StepAction::RegistryResume, None).await.unwrap();
    view(&watch, "the end of the pause", alive).await;

    assert_eq!(stopping.act(StepAction::RegistryFlush, None).await.unwrap(), "redis: FLUSHDB");
    let flushed = view(&watch, "the flush", |v| v.error.is_none() && of(v, "a").listed == Some(false)).await;
    assert_eq!(of(&flushed, "a").alive, Some(false), "that is what it says now");
    fill();
    view(&watch, "a again", alive).await;

    let said = stopping.act(StepAction::RegistryRestart, None).await.unwrap();
    assert_eq!(said, "redis: restarted: \"done\"");
    view(&watch, "the lost data", |v| v.error.is_none() && of(v, "a").alive == Some(false)).await;
    fill();
    view(&watch, "a after the restart", alive).await;

    // Without a pid_file, by its own means; nobody can end that early.
    let asking = fleet(&redis, "pause = \"3s\"");
    let begun = Instant::now();
    assert_eq!(asking.act(StepAction::RegistryPause, None).await.unwrap(), "redis: CLIENT PAUSE 3000 ALL");
    view(&watch, "the pause", |v| v.error.is_some()).await;
    asking.act(StepAction::RegistryResume, None).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(2900), "{:?}", begun.elapsed());
    view(&watch, "the end of the pause", alive).await;
    let nobody = format!("{:#}", asking.act(StepAction::RegistryRestart, None).await.unwrap_err());
    assert!(nobody.contains("no control backend can do this"), "{nobody}");

    // Gone for good.
    drop(redis);
    let gone = view(&watch, "its end", |v| v.error.as_ref().is_some_and(|e| e.contains("refused"))).await;
    assert!(gone.servers.is_empty(), "{gone:?}");
}
