//! Lines of a history from outside: whatever they say, judging them gives a verdict and a page.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::history::{Line, Reading};
use roomful::profile::HealthLimits;
use roomful::report::{Summary, page};
use roomful::verdict::judge;

fuzz_target!(|text: &str| {
    let lines: Vec<Line> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    if let Ok(reading) = Reading::of_lines(lines) {
        let judgement = judge(&reading, &[], &HealthLimits::default());
        let summary = Summary::of(&judgement);
        assert!(summary.to_json().is_ok());
        assert!(page(&summary, &judgement).contains("</html>"));
    }
});
