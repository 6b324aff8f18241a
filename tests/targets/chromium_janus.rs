//! The harness itself: two browser participants meet in a room of a real Janus, and see each other. None of roomful's own
//! media takes part.

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;

use serde_json::Value;
use std::time::Duration;
use support::chromium::{Chromium, serve_pages};
use support::janus::{Janus, ROOM};
use support::{artifacts, netns, until};

fn sum(entries: &Value, key: &str) -> u64 {
    entries.as_array().unwrap().iter().filter_map(|entry| entry[key].as_u64()).sum()
}

async fn two_people_meet(codec: &str) {
    let janus = Janus::start(0).await;
    let pages = serve_pages().await;
    let chromium = Chromium::start(9515).await;
    chromium
        .open(&format!("http://{pages}/janus.html?ws={}&room={ROOM}&people=ann,ben&codec={codec}", janus.url))
        .await;

    let met = until("both decode 50 frames of the other", Duration::from_secs(60), async || {
        let stats = chromium.eval_json("window.stats()").await;
        for person in stats.as_array().unwrap() {
            assert_eq!(person["errors"], serde_json::json!([]), "{}", person["name"]);
        }
        let seen = |person: &Value| sum(&person["inbound"], "framesDecoded") >= 50;
        stats.as_array().unwrap().iter().all(seen).then_some(stats)
    })
    .await;
    for person in met.as_array().unwrap() {
        let video = person["inbound"].as_array().unwrap().iter().find(|e| e["kind"] == "video").unwrap();
        assert_eq!(video["codec"].as_str().unwrap().to_lowercase(), format!("video/{codec}"));
        let audio = person["inbound"].as_array().unwrap().iter().find(|e| e["kind"] == "audio").unwrap();
        assert!(audio["packetsReceived"].as_u64().unwrap() > 0);
        assert!(sum(&person["outbound"], "packetsSent") > 0);
        for pair in person["pairs"].as_array().unwrap() {
            assert_eq!(pair["remote"], netns::address(1).to_string(), "media goes to Janus's address");
        }
    }
    until("the decoded picture shows a pattern", Duration::from_secs(10), async || {
        let contrast = chromium.eval_json("window.contrast()").await;
        let contrast = contrast.as_array().unwrap();
        (contrast.len() == 2 && contrast.iter().all(|c| c.as_u64().unwrap() > 50)).then_some(())
    })
    .await;
    let picture = artifacts().join(format!("chromium_janus-{codec}.png"));
    chromium.screenshot(&picture).await;
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));

    // The server's own count: two sessions with a publishing and a receiving handle each.
    let sessions = janus.admin.list_sessions().await;
    assert_eq!(sessions.len(), 2);
    for session in sessions {
        let handles = janus.admin.list_handles(session).await;
        assert_eq!(handles.len(), 2);
        let mut received = 0;
        for handle in handles {
            let info = janus.admin.handle_info(session, handle).await;
            for medium in info["webrtc"]["media"].as_object().unwrap().values() {
                received += medium["stats"]["in"]["packets"].as_u64().unwrap_or(0);
            }
        }
        assert!(received > 50, "Janus received {received} packets of a publisher");
    }

    assert_eq!(chromium.eval_json("window.leave()").await, Value::Bool(true));
    until("Janus has no session left", Duration::from_secs(10), async || {
        janus.admin.list_sessions().await.is_empty().then_some(())
    })
    .await;
    chromium.quit().await;
    janus.stop().await;
}

#[test]
fn two_people_meet_with_vp8() {
    netns::inside("two_people_meet_with_vp8", || two_people_meet("vp8"));
}

#[test]
fn two_people_meet_with_h264() {
    netns::inside("two_people_meet_with_h264", || two_people_meet("h264"));
}
