//! A real browser in a room of roomful's participants: it decodes what they send, and they receive what it sends.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod support;
#[path = "../targets/support/mod.rs"]
mod targets;

use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::history::Event;
use serde_json::Value;
use support::{PATIENCE, Place, ROOMFUL, profile, rooms};
use targets::chromium::Chromium;
use targets::{artifacts, netns, until};

const ROOM: &str = "watched-1";
/// Roomful's participants beside the browser.
const SENDERS: usize = 2;

/// For each video element: its picture's width, and the range of luminance in it.
const PICTURES: &str = "[...document.querySelectorAll('video')].map(video => {
    const canvas = document.createElement('canvas');
    canvas.width = 64; canvas.height = 36;
    const context = canvas.getContext('2d');
    context.drawImage(video, 0, 0, 64, 36);
    const pixels = context.getImageData(0, 0, 64, 36).data;
    let low = 255, high = 0;
    for (let i = 0; i < pixels.length; i += 4) {
        const y = 0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2];
        low = Math.min(low, y); high = Math.max(high, y);
    }
    return { width: video.videoWidth, contrast: high - low };
})";

/// Inbound streams of one kind over which something has come.
fn inbound<'a>(stats: &'a Value, kind: &str) -> Vec<&'a Value> {
    let wanted = |s: &&Value| {
        s["type"] == "inbound-rtp" && s["kind"] == kind && s["packetsReceived"].as_u64().is_some_and(|n| n > 0)
    };
    stats.as_array().unwrap().iter().filter(wanted).collect()
}

fn number(stats: &Value, key: &str) -> f64 {
    stats[key].as_f64().unwrap_or_else(|| panic!("no {key} in {stats}"))
}

async fn browser_and_participants_meet(codec: &str) {
    let options = EmbeddedOptions {
        program: Some(ROOMFUL.into()),
        // Chromium gathers nothing on loopback.
        media_ip: netns::address(1),
        ..EmbeddedOptions::default()
    };
    let fleet = EmbeddedFleet::start(1, 20, &options).await.unwrap();
    let watched = rooms("watched", 1, SENDERS as u32 + 1, &format!("video = \"{codec}@500kbit/s\""));
    // Two come at once, the third long after the test: the slots that wait for it take the browser's media.
    let text = profile("target.toml", &watched, "2s", &["legs.dropped == 0"]);
    let text = text.replace("\"20/s\"", &format!("\"burst({SENDERS}, 10m)\""));
    let place = Place::against(fleet.base_url(), &text);
    let chromium = Chromium::start(9516).await;
    let mut run = place.run();
    run.says("00:01 ");
    let page = format!("{}/?room={ROOM}&name=browser&send=1&slots={SENDERS}&codec={codec}", fleet.base_url());
    chromium.open(&page).await;

    let look = async || chromium.eval_json("window.roomful?.stats ? roomful.stats() : []").await;
    let plays = |stats: &Value| {
        let (audio, video) = (inbound(stats, "audio"), inbound(stats, "video"));
        audio.len() == SENDERS
            && video.len() == SENDERS
            && video.iter().all(|s| s["framesDecoded"].as_u64().is_some_and(|n| n >= 60))
    };
    let early = until("both senders' video plays", PATIENCE, async || Some(look().await).filter(plays)).await;
    let late = until("and goes on", PATIENCE, async || {
        let stats = look().await;
        let on = |s: &&Value| number(s, "framesDecoded") >= 60.0 + number(find(&early, s), "framesDecoded");
        inbound(&stats, "video").iter().all(on).then_some(stats)
    })
    .await;
    for stream in inbound(&late, "video") {
        let codecs = late.as_array().unwrap().iter().find(|s| s["id"] == stream["codecId"]).unwrap();
        assert_eq!(codecs["mimeType"].as_str().unwrap().to_lowercase(), format!("video/{codec}"));
        assert_eq!(number(stream, "packetsLost"), 0.0, "{stream}");
    }
    for stream in inbound(&late, "audio") {
        let more = |key: &str| number(stream, key) - number(find(&early, stream), key);
        assert!(more("jitterBufferEmittedCount") > 0.0, "{stream}");
        assert!(more("totalAudioEnergy") > 0.0, "the tone is heard: {stream}");
        let concealed = more("concealedSamples") / more("totalSamplesReceived");
        assert!(concealed < 0.2, "{concealed} of the audio is made up: {stream}");
    }
    let pictures = until("pictures show a pattern", PATIENCE, async || {
        let pictures = chromium.eval_json(PICTURES).await;
        let shown = |p: &Value| number(p, "width") > 0.0 && number(p, "contrast") > 50.0;
        pictures.as_array().unwrap().iter().all(shown).then_some(pictures)
    })
    .await;
    // The first is the browser's own.
    assert_eq!(pictures.as_array().unwrap().len(), 1 + SENDERS);
    let picture = artifacts().join(format!("browser-{codec}.png"));
    chromium.eval_json("document.getElementById('videos').scrollIntoView()").await;
    chromium.screenshot(&picture).await;
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(chromium.eval_json("roomful.leave()").await, 200);
    chromium.quit().await;

    run.signal("INT");
    let run = run.finish();
    assert_eq!(run.code, Some(130), "{run:?}");
    let mut ends = 0;
    for line in place.lines() {
        let Event::LegEnd(end) = line.event else { continue };
        ends += 1;
        for (kind, c) in [("audio", &end.audio), ("video", &end.video)] {
            assert!(c.unstamped > 30, "{kind}: what the browser sent: {c:?}");
            assert!(c.e2e_expected > 60 && c.e2e_received == c.e2e_expected, "{kind}: of each other: {c:?}");
            assert_eq!((c.auth_failed, c.malformed, c.foreign_stamps), (0, 0, 0), "{kind}: {c:?}");
        }
        assert!(end.video.plis_received + end.video.firs_received > 0, "the browser needs a key frame to begin with");
    }
    assert_eq!(ends, SENDERS);
    fleet.stop().await;
}

/// The same stream as it was before.
fn find<'a>(stats: &'a Value, stream: &Value) -> &'a Value {
    stats.as_array().unwrap().iter().find(|s| s["id"] == stream["id"]).unwrap()
}

#[test]
fn a_browser_plays_vp8_and_is_received() {
    netns::inside("a_browser_plays_vp8_and_is_received", || browser_and_participants_meet("vp8"));
}

#[test]
fn a_browser_plays_h264_and_is_received() {
    netns::inside("a_browser_plays_h264_and_is_received", || browser_and_participants_meet("h264"));
}
