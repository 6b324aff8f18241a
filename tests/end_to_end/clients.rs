//! What clients do differently, seen through the embedded fleet: suites, redundant audio, DTX, conversations, mutes.

use super::{leg_ends, support};
use crate::disturbed::beside;
use support::{Place, VIDEO, profile, rooms};

const LIMITS: &[&str] = &[
    "joins.failed_share == 0%",
    "legs.dropped == 0",
    "audio.loss <= 3%",
    "video.loss <= 1%",
    "audio.silence_max <= 1s",
];

fn run(client: &str, rooms: &str) -> (serde_json::Value, Vec<roomful::history::LegEnd>) {
    let place = Place::with(&format!("client = \"{client}\"\n{}", profile("embedded", rooms, "8s", LIMITS)));
    let run = place.run().finish();
    assert_eq!(run.code, Some(0), "{client}: {run:?}");
    (place.summary(), leg_ends(&place.lines()))
}

/// A conversation of three with mutes; on a network that drops 4 % of what comes down. RED repairs audio, RTX video.
#[test]
fn a_livekit_client_talks_with_redundancy_and_dtx() {
    beside(|| {
        let keys = format!(
            "{VIDEO}\ntalk = \"p59\"\nmute = {{ after = \"4s\", lasts = \"2s\" }}\nnetwork = {{ loss_down = \"4%\" }}"
        );
        let (summary, ends) = run("livekit-js", &rooms("talk", 2, 3, &keys));
        assert_eq!(summary["audio"]["suite"]["AEAD_AES_256_GCM"], 6, "{}", summary["audio"]["suite"]);
        for kind in ["audio", "video"] {
            let rtp = &summary[kind]["rtp"];
            assert!(rtp["recovered"].as_u64().unwrap() > 10, "{kind}: {rtp}");
            assert!(rtp["lost_before_recovery"].as_u64().unwrap() > 10, "{kind}: {rtp}");
        }
        // Six senders of 50 packets a second would be 2,400 in 8 s, received twice each.
        let expected = summary["audio"]["e2e"]["expected"].as_u64().unwrap();
        assert!((600..4000).contains(&expected), "DTX leaves out silence: {expected}");
        assert_eq!(ends.len(), 6);
    });
}

#[test]
fn a_chrome_client_sends_silence_too() {
    beside(|| {
        let keys = format!("{VIDEO}\ntalk = \"p59\"\nmute = {{ after = \"4s\", lasts = \"2s\" }}");
        let (summary, ends) = run("chrome", &rooms("talk", 2, 3, &keys));
        assert_eq!(summary["audio"]["suite"]["AEAD_AES_256_GCM"], 6, "{}", summary["audio"]["suite"]);
        assert_eq!(summary["audio"]["loss"], 0.0);
        let expected = summary["audio"]["e2e"]["expected"].as_u64().unwrap();
        assert!(expected > 6 * 2 * 6 * 50, "{expected}");
        assert!(ends.iter().all(|e| e.longest_gap_ms < 1000.0));
    });
}

/// Without transport-cc and RTX's cousins, and still repaired; muted, it sends nothing, which is no loss.
#[test]
fn a_light_client_is_repaired_by_rtx() {
    beside(|| {
        let keys = format!("{VIDEO}\nmute = {{ after = \"3s\", lasts = \"3s\" }}\nnetwork = {{ loss_down = \"1%\" }}");
        let (summary, ends) = run("light", &rooms("quiet", 2, 3, &keys));
        assert_eq!(summary["audio"]["suite"]["AEAD_AES_128_GCM"], 6, "{}", summary["audio"]["suite"]);
        assert!(summary["video"]["rtp"]["recovered"].as_u64().unwrap() > 3, "{}", summary["video"]["rtp"]);
        assert_eq!(ends.len(), 6);
    });
}
