//! Reports of made-up runs, as files.

use super::*;
use crate::history::synthetic::Synthetic;
use crate::profile::{HealthLimits, Op, Threshold, ThresholdValue};
use crate::verdict::{Verdict, judge};

pub(super) fn usual() -> Vec<Threshold> {
    let limit = |expr: &str, op, value| {
        let metric = expr.split(' ').next().unwrap().to_owned();
        Threshold { metric, op, value, expr: expr.to_owned() }
    };
    vec![
        limit("joins.failed_share <= 0.1%", Op::Le, ThresholdValue::Percent(0.1)),
        limit("setup.total.p95 <= 1.5s", Op::Le, ThresholdValue::Ms(1500.0)),
        limit("audio.loss <= 0.3%", Op::Le, ThresholdValue::Percent(0.3)),
        limit("audio.delay.p99 <= 80ms", Op::Le, ThresholdValue::Ms(80.0)),
        limit("video.freezes <= 0.2/min", Op::Le, ThresholdValue::PerMinute(0.2)),
        limit("legs.dropped == 0", Op::Eq, ThresholdValue::Count(0.0)),
    ]
}

fn judgement(run: &Synthetic, pass: &[Threshold]) -> Judgement {
    judge(&run.reading(), pass, &HealthLimits::default())
}

pub(super) fn summary(run: &Synthetic, pass: &[Threshold]) -> Summary {
    Summary::of(&judgement(run, pass))
}

/// A run with something of everything.
fn eventful() -> Synthetic {
    Synthetic {
        servers: 4,
        rooms: 5,
        size: 5,
        hold: 40..340,
        loss: Some((2, 134..139, 0.3)),
        delay: Some((2, 130..150, 60.0)),
        drops: 2,
        join_failures: 1,
        unhealthy: Some(220..226),
        notes: true,
        resolved: "# <script>alert('profile')</script>\nshape = \"steady\"\n".into(),
        ..Synthetic::default()
    }
}

#[test]
fn writes_both_files_and_again_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let mut before = None;
    for _ in 0..2 {
        let j = judgement(&eventful(), &usual());
        let s = Summary::of(&j);
        write_all(dir.path(), &s, &j).unwrap();
        let files = (read(SUMMARY_FILE), read(HTML_FILE));
        assert!(before.is_none_or(|b| b == files), "the same history gives the same bytes");
        before = Some(files);
    }
    let json: serde_json::Value = serde_json::from_str(&read(SUMMARY_FILE)).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["verdict"], "fail");
    assert_eq!(json["pass"][2]["server"], "sfu-3");
    assert_eq!(json["run"]["hold"]["until"], 340_000.0);
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_the_other_is_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(SUMMARY_FILE)).unwrap();
    std::fs::write(dir.path().join(SUMMARY_FILE).join("x"), "").unwrap();
    let j = judgement(&Synthetic::default(), &usual());
    let e = write_all(dir.path(), &Summary::of(&j), &j).unwrap_err().to_string();
    assert!(e.contains("can't write") && e.contains("summary.json"), "{e}");
    assert!(dir.path().join(HTML_FILE).exists());
}

#[test]
fn the_page_needs_nobody() {
    let j = judgement(&eventful(), &usual());
    let html = page(&Summary::of(&j), &j);
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "fetch("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("default-src 'none'"));
    for part in ["sfu-3", "02:14", "timeout_ice", "meeting-", "tls_unverified", "5e1f-synthetic", "uPlot"] {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("<script>alert") && html.contains("&lt;script&gt;alert"));
    assert!(!html.contains("TLS <b>off"));
}

#[test]
fn names_from_outside_cannot_leave_the_data_block() {
    let mut lines = Synthetic::default().lines();
    for line in &mut lines {
        if let crate::history::Event::Server(s) = &mut line.event {
            s.name = "</script><script>alert(1)</script>".into();
        }
    }
    let reading = crate::history::Reading::of_lines(lines).unwrap();
    let j = judge(&reading, &usual(), &HealthLimits::default());
    let html = page(&Summary::of(&j), &j);
    assert!(!html.contains("<script>alert(1)"));
    assert!(html.contains("\\u003c/script>"));
}

#[test]
fn damaged_histories_are_judged_or_refused_and_never_panic() {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let run = Synthetic { drops: 1, join_failures: 1, notes: true, ..Synthetic::default() };
    let whole: String = run.lines().iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let (mut read, mut refused) = (0, 0);
    for round in 0..150 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..rng.random_range(1..60) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..5) {
                0 => bytes[at] = rng.random(),
                1 => bytes[at] = b'9',
                2 => bytes.truncate(at.max(bytes.len() / 20 * 19)),
                3 => {
                    let end = (at + rng.random_range(1..200)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    // Numbers grow beyond all bounds.
                    let digits = *[&b"e300"[..], b"99999999999", b"-", b"e-300"].get(rng.random_range(0..4)).unwrap();
                    let digit = (at..bytes.len()).find(|i| bytes[*i].is_ascii_digit()).unwrap_or(at);
                    bytes.splice(digit..digit, digits.iter().copied());
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let Ok(reading) = crate::history::read(&path) else {
            refused += 1;
            continue;
        };
        read += 1;
        let j = judge(&reading, &usual(), &HealthLimits::default());
        let s = Summary::of(&j);
        assert!(j.ended || j.verdict != Verdict::Pass, "round {round}: a history without an end passed");
        serde_json::from_str::<serde_json::Value>(&s.to_json().unwrap()).unwrap();
        assert!(page(&s, &j).ends_with("</html>"));
        assert!(!terminal::table(&s, terminal::Paint::Plain).is_empty());
    }
    assert!(read > 100 && refused < 50, "{read} {refused}");
}

/// `cargo test --lib look_at -- --ignored`, then open target/sample-report/*/report.html.
#[test]
#[ignore = "writes sample reports into target/ for a look with a browser"]
fn look_at_it() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sample-report");
    let long = Synthetic { hold: 40..3640, rooms: 2, size: 2, ..eventful() };
    let quiet = Synthetic { servers: 1, rooms: 4, size: 4, hold: 12..60, ..Synthetic::default() };
    for (name, run) in [("eventful", eventful()), ("quiet", quiet), ("long", long)] {
        let dir = base.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let _ = std::fs::remove_file(dir.join("history.jsonl"));
        let mut w = crate::history::Writer::create(&dir).unwrap();
        run.lines().iter().for_each(|l| w.append(l));
        assert_eq!(w.finish().1, None);
        let reading = crate::history::read(&dir.join("history.jsonl")).unwrap();
        let j = judge(&reading, &usual(), &HealthLimits::default());
        let s = Summary::of(&j);
        write_all(&dir, &s, &j).unwrap();
        println!("{}", terminal::table(&s, terminal::Paint::Plain));
    }
}
