//! Senders behind a bottleneck step down, and the report says so.

use super::{leg_ends, support};
use crate::disturbed::beside;
use support::{Place, profile, rooms};

const LIMITS: &[&str] = &["joins.failed_share == 0%", "legs.dropped == 0"];

#[test]
fn senders_behind_a_bottleneck_step_down_and_the_report_says_so() {
    beside(|| {
        let keys =
            "video = \"vp8@500kbit/s\"\nadapt = true\nnetwork = { up = { rate = \"400kbit/s\", after = \"4s\" } }";
        let place = Place::with(&profile("embedded", &rooms("narrow", 1, 2, keys), "12s", LIMITS));
        let run = place.run().finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let lines = place.lines();
        for end in leg_ends(&lines) {
            let v = &end.video;
            assert!(v.steps_down >= 1 && v.steps_down <= v.steps_up + 1, "{v:?}");
            assert!(v.twcc_received > 50 && v.frames > 250, "{v:?}");
            // For some 4 s of 13 the network was wide.
            assert!((3_000..v.adaptive_ms - 2_000).contains(&v.below_ms), "{v:?}");
        }
        let summary = place.summary();
        let steps = &summary["video"]["steps"];
        assert!(steps["down"].as_i64() >= Some(2) && steps["below_share"].as_f64() > Some(25.0), "{steps}");
        assert!(summary["run"]["resolved"].as_str().unwrap().contains("\nadapt = true\n"));
        let page = std::fs::read_to_string(place.out().join("report.html")).unwrap();
        assert!(page.contains("below bit rate"));
    });
}
