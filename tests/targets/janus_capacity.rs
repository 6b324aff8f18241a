//! How many participants one Janus on one core carries: found twice, and held against what a browser in one of the rooms
//! sees below and above that number. For a quiet machine with two cores: one is Janus's, one is ours.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use support::chromium::{Chromium, serve_pages};
use support::janus::Janus;
use support::roomful::{Ended, Run, own_profile};
use support::{netns, program, until};

const JANUS: &str = "1";
const OURS: &str = "0";
const ROOM: f64 = 5.0;

/// Ours share their core with a browser: a moment of its is no news.
const BESIDE_A_BROWSER: &[&str] =
    &["health.lateness_p99_max=100ms", "health.timer_p99_max=100ms", "health.reference_delay_p99_max=100ms"];

/// Janus with all its threads on its core.
async fn pinned_janus() -> Janus {
    let janus = Janus::start(0).await;
    let status = Command::new(program("taskset")).args(["-a", "-p", "-c", JANUS, &janus.pid().to_string()]).output();
    assert!(status.unwrap().status.success());
    janus
}

/// The bounds of a search.
async fn search(name: &str) -> (f64, f64) {
    let janus = pinned_janus().await;
    let pid = std::env::temp_dir().join(format!("{name}.pid"));
    std::fs::write(&pid, janus.pid().to_string()).unwrap();
    let pid_file = format!("target_file.servers.janus-1.pid_file={}", pid.display());
    let sets = [&pid_file[..], "search.trial=15s", "search.first_trial=8s", "search.trial_sum=15s", "search.budget=8m"];
    let run = Run::start_on(OURS, &janus, name, "profiles/capacity-janus.toml", &sets);
    let run = run.ended_within(Duration::from_secs(600)).await;
    let c = &run.summary["capacity"];
    println!("{name}: {} (exit {})", run.summary["sentence"], run.code);
    assert_eq!(run.code, 0, "{}", run.printed);
    // What broke first is named, and so is what CPU read then.
    assert!(c["broke_first"].as_str().is_some_and(|b| !b.is_empty()), "{c:#}");
    assert!(run.summary["sentence"].as_str().unwrap().contains("broke first"), "{}", run.summary["sentence"]);
    assert!(c["cpu_at_capacity"].as_f64().is_some(), "{c:#}");
    janus.stop().await;
    (c["lower"].as_f64().unwrap(), c["upper"].as_f64().unwrap())
}

/// What a browser in one of the rooms made of the judged time.
#[derive(Debug)]
struct Browser {
    lost_share: f64,
    freezes: f64,
    /// Longest of its connectivity checks, ms: they wait in the queue that media waits in.
    round_trip_ms: f64,
    frames: f64,
}

async fn with_a_browser(name: &str, participants: f64) -> (Ended, Browser) {
    let janus = pinned_janus().await;
    let rooms = (participants / ROOM).round().max(1.0);
    let count = format!("rooms.meeting.count={rooms}");
    let sets = [&[&count[..]], BESIDE_A_BROWSER].concat();
    let mut run = Run::start_on(OURS, &janus, name, &own_profile("janus-load.toml"), &sets);
    let (pages, chromium) = (serve_pages().await, Chromium::start(9517).await);
    chromium.pin(OURS);
    run.holds().await;
    let list = janus.ask(json!({"request": "list"})).await;
    let room = list["list"].as_array().unwrap().iter().find(|r| r["description"] == "meeting-1").unwrap();
    let url = format!("http://{pages}/janus.html?ws={}&room={}&people=ann&codec=vp8", janus.url, room["room"]);
    chromium.open(&url).await;
    let inbound = |stats: &Value, key: &str| -> f64 {
        stats[0]["inbound"].as_array().unwrap().iter().filter_map(|e| e[key].as_f64()).sum()
    };
    until("the browser decodes", Duration::from_secs(20), async || {
        let stats = chromium.eval_json("window.stats()").await;
        (inbound(&stats, "framesDecoded") > 50.0).then_some(())
    })
    .await;
    let before = chromium.eval_json("window.stats()").await;
    let mut round_trip_ms: f64 = 0.0;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stats = chromium.eval_json("window.stats()").await;
        let pairs = stats[0]["pairs"].as_array().unwrap();
        let longest = pairs.iter().filter_map(|p| p["currentRoundTripTime"].as_f64()).fold(0.0, f64::max);
        round_trip_ms = round_trip_ms.max(longest * 1000.0);
    }
    let after = chromium.eval_json("window.stats()").await;
    let more = |key: &str| inbound(&after, key) - inbound(&before, key);
    let lost_share = more("packetsLost").max(0.0) / (more("packetsLost").max(0.0) + more("packetsReceived")).max(1.0);
    let seen = Browser { lost_share, freezes: more("freezeCount"), round_trip_ms, frames: more("framesDecoded") };
    chromium.quit().await;
    let run = run.ended_within(Duration::from_secs(120)).await;
    println!("{name}, {} participants: {} (exit {})", rooms * ROOM, run.summary["sentence"], run.code);
    println!("  a browser in one room: {seen:?}");
    janus.stop().await;
    (run, seen)
}

#[test]
#[ignore = "takes a quarter of an hour on a quiet machine: run by make test-long"]
fn a_janus_on_one_core_carries_the_same_twice_and_a_browser_agrees() {
    netns::inside("a_janus_on_one_core_carries_the_same_twice_and_a_browser_agrees", async || {
        let (first, second) = (search("janus_capacity-1").await, search("janus_capacity-2").await);
        // Rooms are whole: where a tenth is less than one, one room is what bounds can be told to.
        let off = (first.0 - second.0).abs();
        assert!(off <= (0.1 * first.0.max(second.0)).max(ROOM), "{first:?} {second:?}");
        let number = first.0.midpoint(second.0);
        let (below, seen) = with_a_browser("janus_capacity-0.8", 0.8 * number).await;
        assert_eq!(below.code, 0, "{}", below.printed);
        assert!(seen.lost_share < 0.005 && seen.freezes < 1.0 && seen.round_trip_ms < 80.0, "{seen:?}");
        assert!(seen.frames > 5.0 * 12.0 * 15.0, "it has time to decode: {seen:?}");
        let (above, seen) = with_a_browser("janus_capacity-1.2", 1.2 * number).await;
        assert_eq!(above.code, 3, "{}", above.printed);
        assert!(seen.lost_share > 0.005 || seen.freezes >= 1.0 || seen.round_trip_ms > 80.0, "{seen:?}");
    });
}
