//! Against the reference implementation of RFC 9971 (PyPI MLRsearch 1.2.1): the same trials give the same bounds, and
//! the same servers overlapping ones. tools/mlrsearch_traces.py makes the fixture.

use super::loads::Loads;
use super::search::{Goal, Step, Stop, Trial, bounds, next};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

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
    /// The highest load that is not above the loss ratio.
    fn truth(&self) -> f64 {
        self.capacity / (1.0 - self.goal.loss_ratio)
    }

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
    let (mut compared, mut theirs, mut ours, mut most) = (0, 0, 0, 0);
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
                let truth = case.truth();
                assert!(low <= truth && truth < high, "case {i}: {low}–{high}, {truth}");
                assert!(loads.narrow(b.lower.unwrap(), b.upper.unwrap(), goal.width), "case {i}: {low}–{high}");
                theirs += case.trials.len();
                ours += trials.len();
                // With a share of bad trials allowed, each bound takes several.
                most = most.max(if goal.exceed_ratio == 0.0 { trials.len() } else { 0 });
                compared += 1;
            }
            (None, Some(_)) => assert_eq!(stop, Stop::BelowRange, "case {i}"),
            (_, None) => assert_eq!(stop, Stop::AboveRange, "case {i}"),
        }
    }
    assert!(compared >= 60, "{compared}");
    eprintln!(
        "trials: {theirs} of the reference, {ours} of ours, in {compared} searches; at most {most} at once proven"
    );
    assert!(most <= 12, "{most}");
}

/// One trial in ten is bad whatever the load: goals that allow a share of bad trials live with it.
#[test]
fn patient_goals_live_with_hiccups_as_well_as_the_reference() {
    let loads = Loads::new(&[1; 600], 20, 600);
    let [mut theirs, mut ours, mut compared, mut runs] = [0.0; 4];
    let within = |c: &Case| (30.0..550.0).contains(&c.truth());
    for case in cases().iter().filter(|c| c.hiccups > 0.0 && c.goal.exceed_ratio > 0.3 && within(c)) {
        let (goal, truth) = (case.goal(), case.truth());
        let holds = |low: Option<f64>, high: Option<f64>| {
            f64::from(u8::from(low.is_some_and(|l| l <= truth) && high.is_some_and(|h| truth < h)))
        };
        theirs += holds(case.lower, case.upper);
        compared += 1.0;
        for seed in 0..100 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let mut trials = Vec::new();
            while let Step::Try { rooms, seconds } = next(&goal, &loads, &trials, f64::INFINITY) {
                let hiccup = if rng.random_range(0.0..1.0) < case.hiccups { 0.3 } else { 0.0 };
                let loss = f64::max(hiccup, 1.0 - case.capacity / f64::from(rooms));
                trials.push(Trial { rooms, seconds, loss, broken: false, valid: true, hint: None });
            }
            let b = bounds(&goal, &trials);
            ours += holds(b.lower.map(f64::from), b.upper.map(f64::from));
            runs += 1.0;
        }
    }
    let (theirs, ours) = (theirs / compared, ours / runs);
    eprintln!("truth in {theirs:.2} of the reference's bounds ({compared} cases), {ours:.2} of ours");
    assert!(compared > 15.0 && ours >= 0.9 && ours >= theirs, "{ours} against {theirs}");
}
