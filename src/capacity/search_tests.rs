//! Searches in virtual time against model servers, over thousands of seeds.

use super::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

const GOAL: Goal = Goal {
    loss_ratio: 0.05,
    initial_trial: 10.0,
    final_trial: 30.0,
    duration_sum: 30.0,
    exceed_ratio: 0.0,
    width: 0.05,
};

/// How a server behaves under `load` participants at a time (s): loss of a trial's participant-seconds.
#[derive(Clone, Copy, Debug)]
enum Server {
    Hard,
    /// Loss grows over a tenth of the capacity, and reaches the ratio at the capacity.
    Soft,
    /// Soft, and each second of a trial errs by itself.
    Noisy,
    /// Hard, and what it carries in a trial errs by a hundredth (standard deviation, about) of the capacity.
    Wobbling,
    /// Hard, but one trial in twenty above the capacity goes well.
    Inverted,
    /// Hard, and loses a tenth of its capacity over the first quarter of an hour.
    Drifting,
}

struct World {
    server: Server,
    capacity: f64,
    /// Participants beyond which the generator is unhealthy.
    generator: f64,
    now: f64,
    rng: ChaCha12Rng,
}

impl World {
    fn capacity_at(&self, t: f64) -> f64 {
        match self.server {
            Server::Drifting => self.capacity * (1.0 - 0.1 * (t / 900.0).min(1.0)),
            _ => self.capacity,
        }
    }

    fn measure(&mut self, loads: &Loads, rooms: u32, seconds: f64) -> Trial {
        let load = f64::from(loads.participants(rooms));
        self.now += seconds + 10.0;
        let capacity = self.capacity_at(self.now);
        let over = load > capacity;
        let soft = GOAL.loss_ratio * 10f64.powf((load - capacity) / (0.1 * capacity));
        let loss = match self.server {
            Server::Hard | Server::Drifting => f64::from(u8::from(over)),
            Server::Soft => soft.min(1.0),
            Server::Noisy => {
                let bad = (0..seconds as u32).map(|_| (soft * self.rng.random_range(0.5..1.5)).min(1.0));
                bad.sum::<f64>() / seconds
            }
            Server::Wobbling => {
                let error = (0..12).map(|_| self.rng.random_range(-0.5..0.5)).sum::<f64>();
                f64::from(u8::from(load > capacity * (1.0 + 0.01 * error)))
            }
            Server::Inverted => f64::from(u8::from(over && self.rng.random_range(0.0..1.0) >= 0.05)),
        };
        Trial { rooms, seconds, loss, broken: false, valid: load <= self.generator, hint: None }
    }
}

struct Run {
    trials: Vec<Trial>,
    stop: Stop,
    bounds: Bounds,
}

fn search(goal: &Goal, loads: &Loads, mut measure: impl FnMut(u32, f64) -> Trial) -> Run {
    let mut trials = Vec::new();
    loop {
        match next(goal, loads, &trials, f64::INFINITY) {
            Step::Try { rooms, seconds } => trials.push(measure(rooms, seconds)),
            Step::Done(stop) => return Run { stop, bounds: bounds(goal, &trials), trials },
        }
        assert!(trials.len() < 200, "no end: {trials:?}");
    }
}

fn range_1_to_30(rng: &mut ChaCha12Rng) -> Loads {
    let size = rng.random_range(1..=6u32);
    let min = rng.random_range(size..=40u32);
    let sizes = vec![size; (min * 30 / size) as usize + 2];
    Loads::new(&sizes, min, min * 30)
}

#[test]
fn bounds_hold_the_truth_and_are_found_in_twelve_trials() {
    for server in [Server::Hard, Server::Soft, Server::Noisy, Server::Wobbling, Server::Inverted, Server::Drifting] {
        // No bound is closer to the truth than one trial.
        let error = if matches!(server, Server::Wobbling) { 0.01 } else { 0.0 };
        let (mut held, mut quick, mut runs, mut most) = (0, 0, 0, 0);
        for seed in 0..3000 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let loads = range_1_to_30(&mut rng);
            let [low, high] = [loads.min(), loads.max()].map(|r| f64::from(loads.participants(r)));
            let capacity = low * (high / low).powf(rng.random_range(0.02..0.98)) + 0.5;
            let mut world = World { server, capacity, generator: f64::INFINITY, now: 0.0, rng };
            let run = search(&GOAL, &loads, |rooms, seconds| world.measure(&loads, rooms, seconds));
            runs += 1;
            most = most.max(run.trials.len());
            quick += u32::from(run.trials.len() <= 12);
            if let (Some(lower), Some(upper)) = (run.bounds.lower, run.bounds.upper) {
                assert!(lower < upper && loads.narrow(lower, upper, GOAL.width), "{server:?} {seed}");
                let [lower, upper] = [lower, upper].map(|r| f64::from(loads.participants(r)));
                let truth = [world.capacity_at(f64::INFINITY), world.capacity];
                held += u32::from(lower * (1.0 - error) <= truth[1] && truth[0] <= upper * (1.0 + error));
            } else {
                // The capacity drifted below the lowest load, or lies within the last step.
                held += u32::from(run.bounds.lower.is_none() && world.capacity_at(world.now) < low);
                held += u32::from(run.stop == Stop::AboveRange && capacity >= high);
            }
        }
        let share = f64::from(held) / f64::from(runs);
        let swift = f64::from(quick) / f64::from(runs);
        eprintln!("{server:?}: truth in {:.2} %, 12 trials in {:.2} %, at most {most}", share * 100.0, swift * 100.0);
        assert!(share >= 0.95, "{server:?}: {share}");
        match server {
            Server::Hard | Server::Soft => assert!(most <= 12, "{server:?}: {most}"),
            Server::Noisy | Server::Wobbling | Server::Drifting => assert!(swift >= 0.95, "{server:?}: {swift}"),
            // A load that held once and not again costs a second descent.
            Server::Inverted => assert!(swift >= 0.9, "{server:?}: {swift}"),
        }
    }
}

#[test]
fn a_generator_that_saturates_first_gives_at_least() {
    let mut limited = 0;
    for seed in 0..2000 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let loads = range_1_to_30(&mut rng);
        let low = f64::from(loads.participants(loads.min()));
        let generator = low * 30f64.powf(rng.random_range(0.0..1.0));
        let capacity = low * 30f64.powf(rng.random_range(0.05..0.95)) + 0.5;
        let mut world = World { server: Server::Hard, capacity, generator, now: 0.0, rng };
        let run = search(&GOAL, &loads, |rooms, seconds| world.measure(&loads, rooms, seconds));
        let lower = run.bounds.lower.map(|r| f64::from(loads.participants(r)));
        assert!(lower.is_none_or(|l| l <= capacity && l <= generator), "{seed}: {:?}", run.bounds);
        match run.stop {
            Stop::Generator => {
                assert!(run.bounds.upper.is_none());
                // As much as it could measure, no more than a step of the search below that.
                let top = loads.at_most(generator as u32);
                assert!(
                    top < loads.min() || run.bounds.lower.is_some_and(|l| loads.narrow(l, top, GOAL.width)),
                    "{seed}"
                );
                limited += u32::from(run.bounds.lower.is_some());
            }
            // Both ends may be above the range's last step.
            Stop::AboveRange => assert_eq!(run.bounds.lower, Some(loads.max())),
            Stop::Width => assert!(run.bounds.upper.is_some() && lower.is_some()),
            other => panic!("{seed}: {other:?}"),
        }
    }
    assert!(limited > 500, "{limited}");
}

#[test]
fn an_unhealthy_trial_is_never_a_high_loss() {
    let loads = Loads::new(&[4; 60], 8, 240);
    // Every third trial is spoilt, and looks terrible.
    let mut n = 0;
    let run = search(&GOAL, &loads, |rooms, seconds| {
        n += 1;
        let spoilt = n % 3 == 0;
        let loss = if spoilt || loads.participants(rooms) > 101 { 1.0 } else { 0.0 };
        Trial { rooms, seconds, loss, broken: false, valid: !spoilt, hint: None }
    });
    assert_eq!((run.stop, run.bounds.lower, run.bounds.upper), (Stop::Width, Some(25), Some(26)));
}

#[test]
fn the_lower_bound_lies_below_every_upper_bound() {
    let trial = |rooms, loss| Trial { rooms, seconds: 30.0, loss, broken: false, valid: true, hint: None };
    let trials = [trial(10, 0.0), trial(40, 0.0), trial(20, 1.0), trial(15, 0.0), trial(30, 1.0)];
    let b = bounds(&GOAL, &trials);
    assert_eq!((b.lower, b.upper, b.inverted), (Some(15), Some(20), true));
}

#[test]
fn short_trials_prove_upper_bounds_only() {
    let trial = |seconds, loss| Trial { rooms: 1, seconds, loss, broken: false, valid: true, hint: None };
    assert_eq!(classify(&GOAL, &[trial(10.0, 1.0)], 1), Class::Upper);
    assert_eq!(classify(&GOAL, &[trial(10.0, 0.0); 9], 1), Class::Open);
    assert_eq!(classify(&GOAL, &[trial(30.0, 0.0)], 1), Class::Lower);
    let patient = Goal { exceed_ratio: 0.5, duration_sum: 90.0, ..GOAL };
    let one_bad = [trial(30.0, 0.0), trial(30.0, 1.0)];
    assert_eq!(classify(&patient, &one_bad, 1), Class::Open);
    assert_eq!(classify(&patient, &[&one_bad[..], &one_bad[..1]].concat(), 1), Class::Lower);
    assert_eq!(classify(&patient, &[&one_bad[..], &one_bad[1..]].concat(), 1), Class::Upper);
    let failed_joins = Trial { broken: true, ..trial(10.0, 0.0) };
    assert_eq!(classify(&GOAL, &[failed_joins], 1), Class::Upper);
}

#[test]
fn ends_of_the_range_are_answers() {
    let loads = Loads::new(&[4; 30], 8, 120);
    let flat = |loss: f64| {
        search(&GOAL, &loads, |rooms, seconds| Trial { rooms, seconds, loss, broken: false, valid: true, hint: None })
    };
    let bad = flat(1.0);
    assert_eq!((bad.stop, bad.bounds.lower, bad.bounds.upper), (Stop::BelowRange, None, Some(2)));
    assert_eq!(bad.trials.len(), 1);
    let good = flat(0.0);
    assert_eq!((good.stop, good.bounds.lower, good.bounds.upper), (Stop::AboveRange, Some(30), None));
}

#[test]
fn the_budget_ends_it_with_what_is_known() {
    let loads = Loads::new(&[4; 30], 8, 120);
    let trials = [Trial { rooms: 2, seconds: 30.0, loss: 0.0, broken: false, valid: true, hint: None }];
    assert_eq!(next(&GOAL, &loads, &trials, 9.0), Step::Done(Stop::Budget));
    assert_eq!(bounds(&GOAL, &trials).lower, Some(2));
    assert_eq!(next(&GOAL, &loads, &trials, 10.0), Step::Try { rooms: 4, seconds: 10.0 });
}

#[test]
fn what_a_server_let_in_is_tried_at_once() {
    let loads = Loads::new(&[4; 100], 8, 400);
    let run = search(&GOAL, &loads, |rooms, seconds| {
        let most = 62;
        let over = loads.participants(rooms) > most;
        let hint = over.then(|| loads.at_most(most));
        Trial { rooms, seconds, loss: 0.0, broken: over, valid: true, hint }
    });
    assert_eq!((run.bounds.lower, run.bounds.upper, run.trials.len()), (Some(15), Some(16), 5));
}

#[test]
fn patient_goals_outlive_a_hiccup() {
    // One bad trial of three may be.
    let goal = Goal { exceed_ratio: 0.4, duration_sum: 90.0, ..GOAL };
    let loads = Loads::new(&[4; 60], 8, 240);
    let mut found = 0;
    for seed in 0..500 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let run = search(&goal, &loads, |rooms, seconds| {
            let hiccup = rng.random_range(0.0..1.0) < 0.05;
            let loss = if hiccup || loads.participants(rooms) > 101 { 1.0 } else { 0.0 };
            Trial { rooms, seconds, loss, broken: false, valid: true, hint: None }
        });
        found += u32::from(run.bounds.lower == Some(25) && run.bounds.upper == Some(26));
    }
    assert!(found >= 450, "{found}");
}
