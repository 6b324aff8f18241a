//! Second opinions: a browser, a stock WebRTC library and Janus itself in rooms of roomful's participants, all behind one
//! impairer. What each reads is held against the impairer's log of its own datagrams, and printed side by side.
//! `make second-opinions` writes the table of docs/second-opinions.md.

#![allow(clippy::unwrap_used, reason = "a test")]

mod compare;
#[path = "../support/disturbed.rs"]
mod disturbed;
mod injuries;
mod log;
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
fn network(target: Target, impairment: &str) -> String {
    let after = if target == Target::Janus { UNDISTURBED_JOINS } else { "0s" };
    let (loss, down) = match impairment {
        // Longer ones have the stock peer ask for so much so often that sockets overflow.
        BLACKOUTS => ("0%", "blackout = \"350ms\", blackout_after = \"6s\", blackout_every = \"4s\""),
        loss => (loss, ""),
    };
    let way = |more: &str| format!("{{ loss = \"{loss}\", after = \"{after}\", {more} }}");
    let down = format!("delay = \"20ms\", jitter = \"5ms\", {down}");
    format!("{{ up = {}, down = {} }}", way("delay = \"10ms\""), way(down.trim_end_matches(", ")))
}

const BLACKOUTS: &str = "black-outs of 350 ms";

/// Janus numbers what it sends to somebody from 1 on, and what it repairs of the time before that gets a number below, that
/// is, 65,535 and less: where such a packet is lost, nobody can open what follows (docs/second-opinions.md). So a link to
/// it is good for so long, and all have joined by then.
const UNDISTURBED_JOINS: &str = "5s";

async fn agree(target: Target, impairments: &[&str], packets: u64) {
    let chromium = Chromium::start(9517).await;
    let mut text = String::new();
    for impairment in impairments {
        let mut tries = 0;
        let heard = loop {
            let heard = room::run(target, &network(target, impairment), packets, &chromium).await;
            tries += 1;
            // A machine that is too busy proves nothing, neither way.
            let Some(why) = compare::unknown(&heard) else { break heard };
            println!("{} at {impairment}, again: {why}", target.name());
            assert!(tries < TRIES, "{} at {impairment}: {why}", target.name());
        };
        let rows = compare::rows(target, &heard);
        let what = if *impairment == BLACKOUTS { BLACKOUTS.into() } else { format!("{impairment} loss each way") };
        let _ = write!(text, "### {}, {what}\n\n{}\n", target.name(), compare::markdown(&rows));
        println!("{text}");
        assert_eq!(compare::failed(&rows), Vec::<String>::new());
        assert!(*impairment != BLACKOUTS || compare::frozen_everywhere(&rows), "not all saw the black-outs");
        injuries::all_are_found(target, &heard);
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
/// What comes beside while nothing is impaired.
const JOINS: u64 = 150;

#[test]
fn all_agree_in_a_room_of_the_embedded_fleet() {
    netns::inside("all_agree_in_a_room_of_the_embedded_fleet", || agree(Target::Embedded, &["0%", "2%"], SHORT));
}

#[test]
fn all_agree_in_a_room_of_janus() {
    netns::inside("all_agree_in_a_room_of_janus", || agree(Target::Janus, &["0%", "2%"], SHORT + JOINS));
}

#[test]
#[ignore = "minutes"]
fn long_embedded() {
    netns::inside("long_embedded", || agree(Target::Embedded, &["0%", "2%", "10%", BLACKOUTS], LONG));
}

#[test]
#[ignore = "minutes"]
fn long_janus() {
    netns::inside("long_janus", || agree(Target::Janus, &["0%", "2%", "10%", BLACKOUTS], LONG));
}
