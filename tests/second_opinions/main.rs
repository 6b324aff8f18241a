//! Second opinions: a browser, a stock WebRTC library and Janus itself in rooms of roomful's participants, all behind one
//! impairer. What each reads is held against the impairer's log of its own datagrams, and printed side by side.
//! `make second-opinions` writes the table of docs/second-opinions.md.

#![allow(clippy::unwrap_used, reason = "a test")]

mod compare;
#[path = "../support/disturbed.rs"]
mod disturbed;
mod room;
mod signalling;
mod stock;
#[path = "../end_to_end/support/mod.rs"]
mod support;
#[path = "../targets/support/mod.rs"]
mod targets;
#[allow(dead_code, reason = "calibration uses the rest")]
#[path = "../calibration/truth.rs"]
mod truth;

use room::Target;
use std::fmt::Write as _;
use targets::chromium::Chromium;
use targets::netns;

/// Where to write the tables of the long form.
const OUT: &str = "ROOMFUL_SECOND_OPINIONS";
const TRIES: u32 = 3;

/// Delay and jitter are there for Janus, which keeps nothing to send again where it measures no round trip, and so that
/// there is a jitter to compare.
fn network(target: Target, loss: &str) -> String {
    let after = if target == Target::Janus { UNDISTURBED_JOINS } else { "0s" };
    format!(
        "{{ up = {{ loss = \"{loss}\", delay = \"10ms\", after = \"{after}\" }}, \
         down = {{ loss = \"{loss}\", delay = \"20ms\", jitter = \"5ms\", after = \"{after}\" }} }}"
    )
}

/// Janus numbers what it sends to somebody from 1 on, and what it repairs of the time before that gets a number below, that
/// is, 65,535 and less: where such a packet is lost, nobody can open what follows (docs/second-opinions.md). So a link to
/// it is good for so long, and all have joined by then.
const UNDISTURBED_JOINS: &str = "6s";

async fn agree(target: Target, losses: &[&str], packets: u64) {
    let chromium = Chromium::start(9517).await;
    let mut text = String::new();
    for loss in losses {
        let mut tries = 0;
        let rows = loop {
            let heard = room::run(target, &network(target, loss), packets, &chromium).await;
            tries += 1;
            match compare::unknown(&heard) {
                None => break compare::rows(target, &heard),
                // A machine that is too busy proves nothing, neither way.
                Some(why) => {
                    println!("{} at {loss}, again: {why}", target.name());
                    assert!(tries < TRIES, "{} at {loss}: {why}", target.name());
                }
            }
        };
        let _ = write!(text, "### {}, {loss} loss each way\n\n{}\n", target.name(), compare::markdown(&rows));
        println!("{text}");
        assert_eq!(compare::failed(&rows), Vec::<String>::new());
    }
    chromium.quit().await;
    if let Some(folder) = std::env::var_os(OUT) {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(std::path::Path::new(&folder).join(format!("{target:?}.md")), text).unwrap();
    }
}

/// Packets of each participant's audio that each reader must have.
const SHORT: u64 = 150;
const LONG: u64 = 1000;

#[test]
fn all_agree_in_a_room_of_the_embedded_fleet() {
    netns::inside("all_agree_in_a_room_of_the_embedded_fleet", || agree(Target::Embedded, &["0%", "2%"], SHORT));
}

#[test]
fn all_agree_in_a_room_of_janus() {
    netns::inside("all_agree_in_a_room_of_janus", || agree(Target::Janus, &["0%", "2%"], SHORT));
}

#[test]
#[ignore = "minutes"]
fn long_embedded() {
    netns::inside("long_embedded", || agree(Target::Embedded, &["0%", "2%", "10%"], LONG));
}

#[test]
#[ignore = "minutes"]
fn long_janus() {
    netns::inside("long_janus", || agree(Target::Janus, &["0%", "2%", "10%"], LONG));
}
