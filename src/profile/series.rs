//! Profiles that stand for several runs, one after the other: a search for each mix of rooms, or the same rooms under each
//! placement.

use super::resolved::{Profile, Target};
use super::units::print_duration;
use super::write::quote;
use crate::types::Placement;
use std::time::Duration;

/// `[[mixes]]` or `[compare]`.
#[derive(Clone, PartialEq, Debug)]
pub enum Series {
    /// One search each; the budget is that of all together.
    Mixes(Vec<Mix>),
    /// The same plan each.
    Placement(Vec<Placement>),
}

/// One of `[[mixes]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mix {
    pub name: String,
    /// Groups of rooms by name, with their proportions.
    pub rooms: Vec<(String, u32)>,
    /// In place of the search's.
    pub range: Option<(u32, u32)>,
}

impl Mix {
    /// Its name in that of an environment variable.
    pub fn variable(name: &str) -> String {
        name.to_ascii_uppercase().replace('-', "_")
    }
}

impl Series {
    /// Of its runs, in their order.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Series::Mixes(mixes) => mixes.iter().map(|m| m.name.as_str()).collect(),
            Series::Placement(all) => all.iter().map(|p| p.as_str()).collect(),
        }
    }

    /// What the runs are, for a sentence: `mixes`.
    pub fn what(&self) -> &'static str {
        match self {
            Series::Mixes(_) => "mixes",
            Series::Placement(_) => "placements",
        }
    }

    /// The profile of each run, without its resolved text.
    pub(super) fn runs(&self, whole: &Profile) -> Vec<Profile> {
        let made = |name: &str| Profile {
            name: format!("{}-{name}", whole.name),
            series: None,
            runs: Vec::new(),
            resolved: String::new(),
            ..whole.clone()
        };
        let mut runs: Vec<Profile> = match self {
            Series::Mixes(mixes) => mixes
                .iter()
                .map(|mix| {
                    let mut p = made(&mix.name);
                    let count = |name: &str| mix.rooms.iter().find(|(n, _)| n == name).map(|(_, count)| *count);
                    p.rooms.retain(|g| count(&g.name).is_some());
                    p.rooms.iter_mut().for_each(|g| g.count = count(&g.name).unwrap_or(g.count));
                    if let (Some(search), Some(range)) = (&mut p.search, mix.range) {
                        search.range = range;
                    }
                    p
                })
                .collect(),
            Series::Placement(all) => all
                .iter()
                .map(|placement| {
                    let mut p = made(placement.as_str());
                    if let Target::Embedded(fleet) = &mut p.target {
                        fleet.placement = *placement;
                    }
                    p
                })
                .collect(),
        };
        let share = runs.len() as u32;
        for p in &mut runs {
            if let Some(search) = &mut p.search {
                search.budget = share_of(search.budget, share);
                p.load.hold = search.budget;
            }
        }
        runs
    }
}

/// Whole seconds of a budget for each of several runs.
pub fn share_of(budget: Duration, runs: u32) -> Duration {
    Duration::from_secs(budget.as_secs() / u64::from(runs.max(1)))
}

impl Profile {
    /// The same with another budget for its search; as it is where there is none.
    pub fn within(&self, budget: Duration) -> Profile {
        let mut p = self.clone();
        if let Some(search) = &mut p.search {
            let line = |d: Duration| format!("\nbudget = {}\n", quote(&print_duration(d)));
            p.resolved = p.resolved.replacen(&line(search.budget), &line(budget), 1);
            search.budget = budget;
            p.load.hold = budget;
        }
        p
    }
}
