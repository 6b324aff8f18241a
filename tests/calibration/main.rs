//! Calibration: impairments whose size is known, and what the report says of them. `make calibrate` runs the whole grid
//! and writes docs/calibration.md; the short form is a test like any other.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../support/disturbed.rs"]
mod disturbed;
mod grid;
mod real;
#[path = "../simulated/sim.rs"]
#[allow(dead_code, reason = "the simulated ring uses the rest")]
mod sim;
mod stage;
mod table;
mod truth;
mod virtual_time;

use disturbed::undisturbed;
use std::sync::atomic::{AtomicBool, Ordering};
use table::Cell;

fn assert_in(cells: &[Cell]) {
    let failed: Vec<String> = cells.iter().flat_map(Cell::failed).collect();
    assert!(failed.is_empty(), "out of bounds:\n{}\n\n{}", failed.join("\n"), table::markdown(cells));
}

#[test]
fn known_impairments_come_back_exact_in_virtual_time() {
    let cells: Vec<Cell> = grid::virtual_time(16).iter().map(|s| virtual_time::cell(s, 1)).collect();
    assert_in(&cells);
    assert!(cells.iter().all(|c| c.verdict() == "in"), "virtual time is never unknown");
}

/// A checker that would let anything pass would be none.
#[test]
fn a_measurement_that_is_off_by_one_packet_is_out_of_bounds() {
    let mut cell = virtual_time::cell(&grid::virtual_time(16)[2], 1);
    let counts = ["audio e2e lost", "audio rtp lost", "audio reordered", "audio duplicate", "video rtp lost"];
    for what in counts.into_iter().chain(["video reordered", "video duplicate", "video recovered", "video e2e lost"]) {
        let check = cell.checks.iter_mut().find(|c| c.what == what).unwrap();
        check.measured += 1.0;
        let failed = cell.failed();
        assert!(failed.len() == 1 && failed[0].contains(what), "{failed:?}");
        cell.checks.iter_mut().find(|c| c.what == what).unwrap().measured -= 1.0;
    }
    for what in ["video delay p99 ms", "video jitter p95 ms", "audio delay p50 ms"] {
        let check = cell.checks.iter_mut().find(|c| c.what == what).unwrap();
        let more = if what.contains("delay") { 0.5 + 0.02 * check.truth } else { 0.05 * check.truth };
        let within = check.truth - check.measured;
        check.measured += within + more + 0.05;
        assert_eq!(cell.verdict(), "OUT", "{what}");
        if what.starts_with("video") {
            cell.checks.iter_mut().find(|c| c.what == what).unwrap().measured -= within + more + 0.05;
        }
    }
    cell.unknown = Some("late".into());
    assert_eq!((cell.verdict(), cell.failed().len()), ("unknown", 0));
    assert!(!table::markdown(&[cell]).contains('/'), "an unhealthy generator gives no numbers");
}

/// Runs of one setting until one says something.
const TRIES: u32 = 4;

/// Runs it until this machine was up to it, and hands that run on; a run that proves nothing is no pass.
fn proven(setting: &real::Setting, cell: usize) -> real::Ran {
    let mut why = Vec::new();
    for _ in 0..TRIES {
        let ran = real::run(setting);
        let cells = real::cells(setting, &ran);
        assert_in(&cells);
        match (ran, &cells[cell].unknown) {
            (Ok(ran), None) => return ran,
            (_, unknown) => why.extend(unknown.clone()),
        }
    }
    panic!("{}: nothing was proven in {TRIES} runs: {why:?}", setting.name);
}

/// Audio that the impaired server's participants lost in the hold, by the report and by the log, once the report named
/// server, size and direction.
fn named(setting: &real::Setting, way: &str) -> [f64; 2] {
    for _ in 0..TRIES {
        let ran = proven(setting, 0);
        let summary = &ran.summary;
        let sentence = summary["sentence"].as_str().unwrap();
        assert_eq!(summary["verdict"], "fail", "{sentence}");
        // Seconds that are left out of judging are in the log all the same.
        if summary["generator"]["inconclusive_share"] != 0.0 {
            continue;
        }
        assert!(!sentence.contains("s2"), "{sentence}");
        let servers = summary["servers"].as_array().unwrap();
        let loss = |id: &str| servers.iter().find(|s| s["id"] == id).unwrap()["audio"]["loss"].as_f64().unwrap();
        assert_eq!(loss("s2"), 0.0);
        let ([sent, lost], read) = (ran.audio_in_hold(), loss("s1") / 100.0);
        // Packets under way when the hold begins or ends may be on either side.
        assert!((read * sent - lost).abs() <= 2.5, "{read} by the report, {lost} of {sent} by the log: {sentence}");
        let size = sentence.strip_prefix("s1 lost ").and_then(|s| s.split_once(" of audio ")).map(|(size, _)| size);
        let size = size.and_then(|s| s.replace([' ', '\u{a0}'], "").strip_suffix('%')?.parse::<f64>().ok());
        let size = size.unwrap_or_else(|| panic!("no server and size: {sentence}"));
        assert!((size / 100.0 - read).abs() <= 0.0006, "{size} % is not {read}: {sentence}");
        if sentence.contains(way) {
            return [read, lost / sent];
        }
        // The impairment may take the server's reports, too: then the way is not said. A wrong one never is.
        assert!(!sentence.contains("on the way"), "{sentence}");
    }
    panic!("{}: no report named the way in {TRIES} runs", setting.name);
}

#[test]
fn an_impairment_nobody_told_of_is_named_and_half_of_it_reads_half() {
    undisturbed(|| {
        let setting = |network| real::Setting { name: "loss down", network, stage: None, hold: 10, strict: false };
        let [whole, whole_by_log] = named(&setting("{ down = { loss = \"12%\", after = \"4s\" } }"), "on the way down");
        let [half, half_by_log] = named(&setting("{ down = { loss = \"6%\", after = \"4s\" } }"), "on the way down");
        // Some 500 packets of audio: what really was lost is half within five standard deviations, and reads as what it is.
        let (read, log) = (half / whole, half_by_log / whole_by_log);
        assert!((0.2..0.85).contains(&log), "{half_by_log} of {whole_by_log}");
        assert!((read - log).abs() <= 0.05, "half is {log} by the log and reads {read}");
    });
}

#[test]
fn loss_on_the_way_up_is_told_from_loss_on_the_way_down() {
    undisturbed(|| {
        let network = "{ up = { loss = \"8%\", delay = \"30ms\", after = \"4s\" }, \
                       down = { duplicate = \"3%\", reorder = \"3%\", reorder_by = \"50ms\", jitter = \"5ms\", after = \"4s\" } }";
        let setting = real::Setting { name: "loss up", network, stage: None, hold: 8, strict: false };
        named(&setting, "on the way up");
    });
}

#[test]
fn what_a_participants_own_network_did_is_what_the_report_says() {
    undisturbed(|| {
        let network = "{ up = { loss = \"5%\", after = \"4s\" }, \
                       down = { loss = \"5%\", duplicate = \"2%\", delay = \"10ms\", jitter = \"5ms\", after = \"4s\" } }";
        let setting = real::Setting { name: "stage", network: "{}", stage: Some(network), hold: 6, strict: false };
        proven(&setting, 0);
    });
}

/// Keeps every core busy while it lives.
struct Hogs(std::sync::Arc<AtomicBool>);

impl Hogs {
    fn new() -> Hogs {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        for _ in 0..2 * std::thread::available_parallelism().unwrap().get() {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Hogs(stop)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn times_are_unknown_on_a_machine_whose_cores_are_hogged_and_in_bounds_without() {
    let setting = real::Setting {
        name: "hogged",
        network: "{ down = { delay = \"30ms\" } }",
        stage: None,
        hold: 2,
        strict: true,
    };
    {
        let _alone = disturbed::alone();
        let _hogs = Hogs::new();
        let [_, times] = real::cells(&setting, &real::run(&setting));
        assert_eq!(times.verdict(), "unknown", "{times:?}");
    }
    // That somebody else hogs them proves nothing.
    undisturbed(|| drop(proven(&setting, 1)));
}

/// `roomful impair` with these arguments: exit code, standard output and error.
fn impair(args: &[&str]) -> (Option<i32>, String, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_roomful")).arg("impair").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_wrong_impairment_is_refused_with_what_is_wrong() {
    let addresses = ["--listen", "127.0.0.3:0", "--to", "127.0.0.1:9", "--for", "5s"];
    for (network, said) in [
        ("{ preset = \"moon\" }", "network.preset: \"moon\" is unknown"),
        ("{ up = { loss = \"101%\" } }", "network.up.loss: 101% is out of range"),
        ("{ up = { lost = \"1%\" } }", "network.up.lost: unknown key"),
        ("{ up = { queue = \"1s\" } }", "network.up.queue: means nothing without `rate`"),
        ("{ up = ", "is no TOML table"),
    ] {
        let (code, _, err) = impair(&[&addresses[..], &["--network", network]].concat());
        assert!(code == Some(2) && err.contains(said), "{network}: {code:?} {err}");
    }
    let fine = ["--network", "{}"];
    for (wrong, said) in [
        (["--listen", "127.0.0.3:0", "--to", "127.0.0.1:9-12", "--for", "5s"], "they go one to one"),
        (["--listen", "127.0.0.3:0", "--to", "8.8.8.8:9", "--for", "5s"], "neither loopback nor private"),
        (["--listen", "127.0.0.3:0", "--to", "127.0.0.1:9", "--for", "3d"], "out of range"),
        (["--listen", "192.0.2.1:7", "--to", "127.0.0.1:9", "--for", "5s"], "can't listen on 192.0.2.1:7"),
    ] {
        let (code, _, err) = impair(&[&wrong[..], &fine].concat());
        assert!(code != Some(0) && err.contains(said), "{wrong:?}: {code:?} {err}");
    }
}

#[test]
fn an_impairer_ends_by_itself_and_gives_its_account() {
    let (code, out, err) =
        impair(&["--listen", "127.0.0.3:0", "--to", "127.0.0.1:9", "--network", "preset = \"lte\"", "--for", "300ms"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ends after 300ms") && out.contains("network 0 (lte): 0 of 0 clients"), "{out}");
}

/// Counts and times of a setting, each of the first of some runs that says something of it.
fn known(setting: &real::Setting) -> [Cell; 2] {
    let mut cells = real::cells(setting, &real::run(setting));
    for _ in 1..TRIES {
        if cells.iter().all(|c| c.unknown.is_none()) {
            break;
        }
        for (cell, again) in cells.iter_mut().zip(real::cells(setting, &real::run(setting))) {
            if cell.unknown.is_some() {
                *cell = again;
            }
        }
    }
    cells
}

#[test]
#[ignore = "minutes; `make calibrate` runs it and `make test-long` too"]
fn the_whole_grid() {
    let mut simulated: Vec<Cell> = grid::virtual_time(60).iter().map(|s| virtual_time::cell(s, 7)).collect();
    for s in grid::virtual_time(20) {
        for seed in 20..23 {
            let cell = virtual_time::cell(&s, seed);
            assert_in(&[cell]);
        }
    }
    simulated.iter_mut().for_each(|c| c.set = c.name.clone());
    let sockets: Vec<Cell> = grid::real().iter().flat_map(known).collect();
    let page = grid::page(&simulated, &sockets);
    println!("{page}");
    if let Ok(path) = std::env::var("ROOMFUL_CALIBRATION") {
        std::fs::write(path, &page).unwrap();
    }
    assert_in(&simulated);
    assert_in(&sockets);
}
