//! Last-N through the embedded fleet: a conversation leads the server's choice, and what it leaves out is no loss.

use super::{leg_ends, support};
use crate::disturbed::beside;
use support::{Place, VIDEO, profile, rooms};

const LIMITS: &[&str] = &[
    "joins.failed_share == 0%",
    "legs.dropped == 0",
    "legs.one_way == 0",
    "audio.loss == 0%",
    "video.loss <= 0.3%",
    "setup.first_frame.p95 <= 5s",
];

#[test]
fn a_server_shows_who_talked_last() {
    beside(|| {
        let rooms = rooms("talk", 1, 4, &format!("{VIDEO}\ntalk = \"p59\""));
        let text = profile("embedded", &rooms, "12s", LIMITS);
        let place = Place::with(&format!("{text}\n[embedded]\nservers = 1\nlast_n = 1\n"));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        assert!(summary["video"]["paused"].as_i64().unwrap() > 8, "{}", summary["video"]);
        assert_eq!(summary["video"]["loss"], 0.0);
        let ends = leg_ends(&place.lines());
        assert_eq!(ends.len(), 4);
        for end in &ends {
            let (a, v) = (&end.audio, &end.video);
            assert_eq!((v.e2e_loss(), a.e2e_loss()), (Some(0.0), Some(0.0)), "{end:?}");
            // One of three comes, where without last-N all would.
            assert!(v.received < v.sent * 3 / 2 && v.received > v.sent / 2, "{v:?}");
            assert!(a.received > a.sent * 5 / 2, "sound is everybody's: {a:?}");
            assert!(v.paused >= 2, "{v:?}");
        }
        assert!(place.report(&[]).stdout.contains("4 of 4 joined"));
    });
}
