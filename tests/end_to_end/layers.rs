//! Simulcast through the embedded fleet: three layers up, one down, and another one on request.

use super::{leg_ends, support};
use crate::disturbed::beside;
use roomful::fleet::embedded::{EmbeddedFleet, EmbeddedOptions};
use roomful::history::Event;
use std::time::{Duration, Instant};
use support::{PATIENCE, Place, ROOMFUL, profile, rooms};

const LIMITS: &[&str] = &["joins.failed_share == 0%", "legs.dropped == 0", "audio.loss <= 0.3%", "video.loss <= 0.3%"];
const LAYERS: &str = "video = \"vp8@1500kbit/s\"\nsimulcast = true";

#[test]
fn receivers_see_the_layers_that_the_server_chooses() {
    layers_are_switched("rid");
}

#[test]
fn receivers_see_the_layers_of_an_ssrc_group() {
    layers_are_switched("ssrc-group");
}

fn layers_are_switched(simulcast: &str) {
    beside(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = EmbeddedOptions { program: Some(ROOMFUL.into()), ..EmbeddedOptions::default() };
        let fleet = runtime.block_on(EmbeddedFleet::start(1, 50, &options)).unwrap();
        let text = profile("target.toml", &rooms("layers", 1, 3, LAYERS), "10s", LIMITS);
        let place = Place::against(fleet.base_url(), &text);
        let target = std::fs::read_to_string(place.path("target.toml")).unwrap();
        place.write("target.toml", &format!("simulcast = \"{simulcast}\"\n{target}"));
        let run = place.run();
        let end = Instant::now() + PATIENCE;
        let mut joined = 0;
        while joined < 3 {
            assert!(Instant::now() < end, "never joined: {}", place.stderr());
            std::thread::sleep(Duration::from_millis(100));
            let out = place.out().join(roomful::history::FILE_NAME);
            joined = std::fs::read_to_string(out).unwrap_or_default().matches("\"joined\"").count();
        }
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let put = |body: &str| {
            let url = format!("{}/rooms/layers-1/layer_max", fleet.servers()[0].http);
            runtime.block_on(http.put(url).body(body.to_owned()).send()).unwrap().status().as_u16()
        };
        for layer in ["0", "2", "1"] {
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(put(layer), 204);
        }
        assert_eq!(put("high"), 400);
        let run = run.finish();
        assert_eq!(run.code, Some(0), "{run:?}");
        let summary = place.summary();
        assert_eq!(summary["video"]["loss"], 0.0);
        // Three receivers of two senders each; what the server did before it knew all layers comes on top.
        let lines = place.lines();
        let ends = leg_ends(&lines);
        assert_eq!(ends.len(), 3);
        for end in &ends {
            let v = &end.video;
            assert!((6..=10).contains(&v.layer_switches), "{v:?}");
            assert_eq!((v.e2e_loss(), v.freezes), (Some(0.0), 0), "{v:?}");
            assert!(v.received < 2 * v.sent, "two of three layers each: {v:?}");
        }
        let seconds = lines.iter().filter_map(|l| if let Event::Interval(i) = &l.event { Some(i) } else { None });
        let by_second: i64 = seconds.flat_map(|i| &i.servers).map(|s| s.video.count.layer_switches).sum();
        assert_eq!(by_second, ends.iter().map(|e| e.video.layer_switches).sum::<i64>());
    });
}
