//! Against the reference implementation of RFC 9971 (PyPI MLRsearch 1.2.1): the same trials give the same bounds, and
//! the same servers overlapping ones. tools/mlrsearch_traces.py makes the fixture.

use super::loads::Loads;
use super::search::{Goal, Step, Stop, Trial, bounds, next};

#[derive(serde::Deserialize)]
struct Case {
    goal: CaseGoal,
    capacity: f64,
    hiccups: f64,
    /// Load, seconds, loss ratio.
    trials: Vec<(f64, f64, f64)>,
    lower: Option<f64>,
    upper: Option<f64>,
}

#[derive(serde::Deserialize)]
struct CaseGoal {
    loss_ratio: f64,
    exceed_ratio: f64,
    initial_trial: f64,
    final_trial: f64,
    duration_sum: f64,
    width: f64,
}

impl Case {
    fn goal(&self) -> Goal {
        let CaseGoal { loss_ratio, exceed_ratio, initial_trial, final_trial, duration_sum, width } = self.goal;
        Goal { loss_ratio, initial_trial, final_trial, duration_sum, exceed_ratio, width }
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../tests/fixtures/mlrsearch.json")).unwrap()
}

#[test]
fn the_same_trials_give_the_same_bounds() {
    let cases = cases();
    assert_eq!(cases.len(), 120);
    for (i, case) in cases.iter().enumerate() {
        // Bounds depend on the order of loads alone.
        let mut loads: Vec<f64> = case.trials.iter().map(|t| t.0).collect();
        loads.sort_by(f64::total_cmp);
        loads.dedup();
        let rank = |load: f64| loads.iter().position(|l| *l == load).unwrap() as u32 + 1;
        let trials: Vec<Trial> = case
            .trials
            .iter()
            .map(|(load, seconds, loss)| Trial {
                rooms: rank(*load),
                seconds: *seconds,
                loss: *loss,
                broken: false,
                valid: true,
                hint: None,
            })
            .collect();
        let ours = bounds(&case.goal(), &trials);
        assert_eq!((ours.lower, ours.upper), (case.lower.map(rank), case.upper.map(rank)), "case {i}");
    }
}

#[test]
fn the_same_servers_give_overlapping_bounds() {
    let loads = Loads::new(&[1; 600], 20, 600);
    let (mut compared, mut theirs, mut ours) = (0, 0, 0);
    for (i, case) in cases().iter().enumerate().filter(|(_, c)| c.hiccups == 0.0) {
        let goal = case.goal();
        let mut trials = Vec::new();
        let stop = loop {
            match next(&goal, &loads, &trials, f64::INFINITY) {
                Step::Try { rooms, seconds } => {
                    let loss = f64::max(0.0, 1.0 - case.capacity / f64::from(rooms));
                    trials.push(Trial { rooms, seconds, loss, broken: false, valid: true, hint: None });
                }
                Step::Done(stop) => break stop,
            }
        };
        let b = bounds(&goal, &trials);
        match (case.lower, case.upper) {
            (Some(lower), Some(upper)) => {
                assert_eq!(stop, Stop::Width, "case {i}");
                let [low, high] = [b.lower.unwrap(), b.upper.unwrap()].map(f64::from);
                assert!(low <= upper && lower <= high, "case {i}: {low}–{high} against {lower}–{upper}");
                theirs += case.trials.len();
                ours += trials.len();
                compared += 1;
            }
            (None, Some(_)) => assert_eq!(stop, Stop::BelowRange, "case {i}"),
            (_, None) => assert_eq!(stop, Stop::AboveRange, "case {i}"),
        }
    }
    assert!(compared >= 60, "{compared}");
    eprintln!("trials: {theirs} of the reference, {ours} of ours, in {compared} searches");
}
