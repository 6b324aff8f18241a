//! What the servers used in the judged part of a run.

use super::windows::{Window, Windows};
use crate::history::{Event, Reading, Usage};
use serde::Serialize;
use std::collections::BTreeMap;

/// All servers that carry rooms, together: what they used in the stretch in which anybody was observed, over that stretch.
/// What nobody observed is absent. Packets and bits a second.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct FleetUse {
    /// Servers that were observed.
    pub servers: u32,
    /// CPU time over wall time, in cores.
    pub cpu_cores: Option<f64>,
    /// Most at once of each server, added up.
    pub memory_bytes: Option<f64>,
    pub egress_pps: Option<f64>,
    pub egress_bps: Option<f64>,
    /// From server to server of the same rooms.
    pub cascade_pps: Option<f64>,
    pub cascade_bps: Option<f64>,
}

/// A server that was observed for all but so many seconds of the stretch was there all along: observers are not in step.
const EDGES: f64 = 1.5;

#[derive(Default)]
struct Sum {
    /// Of what each second had, and its seconds.
    means: [(f64, f64); 5],
    memory: Option<u64>,
}

/// `None` where none of `carriers` was observed between the two times (ms since the start of the run).
pub fn fleet_use(reading: &Reading, carriers: &[String], from_ms: f64, until_ms: f64) -> Option<FleetUse> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let mut seen: [Vec<Window>; 5] = Default::default();
    reading.each(
        |kind| kind == "usage",
        |line| {
            // By its middle: observers and seconds keep different time.
            if let Event::Usage(u) = line.event
                && (from_ms..=until_ms).contains(&(line.t - u.seconds * 500.0))
                && carriers.contains(&u.server)
            {
                let row = Window::ending(line.t, u.seconds);
                let known = seen.iter_mut().zip(values(&u)).filter(|(_, value)| value.is_some());
                known.for_each(|(seen, _)| seen.push(row));
                sums.entry(u.server.clone()).or_default().add(&u);
            }
        },
    );
    if sums.is_empty() {
        return None;
    }
    let stretch = seen.map(|rows| Windows::of(rows).total_ms() / 1000.0);
    let all = |i: usize| {
        let mean = |(sum, seconds): (f64, f64)| sum / if stretch[i] - seconds > EDGES { stretch[i] } else { seconds };
        let each = sums.values().map(|s| s.means[i]).filter(|(_, seconds)| *seconds > 0.0).map(mean);
        each.reduce(|a, b| a + b).map(|v| (v * 1e4).round() / 1e4)
    };
    Some(FleetUse {
        servers: sums.len() as u32,
        cpu_cores: all(0),
        memory_bytes: sums.values().filter_map(|s| s.memory).map(|b| b as f64).reduce(|a, b| a + b),
        egress_pps: all(1),
        egress_bps: all(2),
        cascade_pps: all(3),
        cascade_bps: all(4),
    })
}

fn values(u: &Usage) -> [Option<f64>; 5] {
    [u.cpu_cores, u.egress_pps, u.egress_bps, u.cascade_pps, u.cascade_bps]
}

impl Sum {
    fn add(&mut self, u: &Usage) {
        for ((sum, seconds), value) in self.means.iter_mut().zip(values(u)) {
            if let Some(value) = value {
                *sum += value * u.seconds;
                *seconds += u.seconds;
            }
        }
        self.memory = self.memory.max(u.memory_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Line;
    use crate::history::synthetic::Synthetic;

    #[test]
    fn means_of_the_judged_seconds_are_added_over_servers() {
        let mut lines = Synthetic::default().lines();
        let usage = |t: f64, server: &str, pps: Option<f64>, memory: u64| {
            let (seconds, server) = (1.0, server.to_owned());
            let u = Usage { server, seconds, cascade_pps: pps, memory_bytes: Some(memory), ..Usage::default() };
            Line { t, event: Event::Usage(u) }
        };
        let at = lines.len() - 1;
        lines.splice(
            at..at,
            [
                usage(9_000.0, "s1", Some(900.0), 900),
                usage(11_000.0, "s1", Some(10.0), 5),
                usage(12_000.0, "s1", Some(20.0), 7),
                usage(12_100.0, "s2", Some(5.0), 3),
                usage(13_000.0, "s2", None, 3),
                usage(21_000.0, "s1", Some(900.0), 900),
            ],
        );
        let reading = Reading::of_lines(lines).unwrap();
        let carriers = ["s1", "s2"].map(String::from);
        let used = fleet_use(&reading, &carriers, 10_000.0, 20_000.0).unwrap();
        assert_eq!((used.servers, used.cascade_pps, used.memory_bytes), (2, Some(20.0), Some(10.0)));
        assert_eq!((used.cpu_cores, used.cascade_bps), (None, None));
        assert_eq!(fleet_use(&reading, &carriers, 30_000.0, 40_000.0), None);
    }

    /// A row of 1 s of each server at these whole seconds.
    fn of_rows(rows: &[(&str, std::ops::RangeInclusive<u32>, f64)], carriers: &[&str]) -> Option<FleetUse> {
        let mut lines = Synthetic::default().lines();
        let at = lines.len() - 1;
        let row = |server: &str, second: u32, cpu: f64| {
            let (seconds, server) = (1.0, server.to_owned());
            let u = Usage { server, seconds, cpu_cores: Some(cpu), ..Usage::default() };
            Line { t: f64::from(second) * 1000.0, event: Event::Usage(u) }
        };
        let rows = rows.iter().flat_map(|(server, at, cpu)| at.clone().map(move |t| row(server, t, *cpu)));
        lines.splice(at..at, rows.collect::<Vec<_>>());
        let carriers: Vec<String> = carriers.iter().map(|c| (*c).to_owned()).collect();
        fleet_use(&Reading::of_lines(lines).unwrap(), &carriers, 10_000.0, 30_000.0)
    }

    #[test]
    fn a_server_of_half_of_the_hold_counts_half() {
        let cpu = |rows: &[(&str, std::ops::RangeInclusive<u32>, f64)]| of_rows(rows, &["s1", "s2"]).unwrap().cpu_cores;
        assert_eq!(cpu(&[("s1", 11..=30, 0.5), ("s2", 21..=30, 0.4)]), Some(0.7));
        assert_eq!(cpu(&[("s1", 11..=20, 0.5), ("s2", 21..=30, 0.4)]), Some(0.45), "one after the other");
        assert_eq!(cpu(&[("s1", 11..=30, 0.5), ("s2", 12..=30, 0.4)]), Some(0.9), "not in step");
        assert_eq!(cpu(&[("s1", 11..=20, 0.5)]), Some(0.5), "nobody looked in the second half");
    }

    #[test]
    fn a_turn_server_beside_the_servers_is_none_of_them() {
        let rows = [("s1", 11..=30, 0.5), ("turn-1", 11..=30, 0.25)];
        let used = |carriers: &[&str]| of_rows(&rows, carriers).map(|u| (u.servers, u.cpu_cores));
        assert_eq!(used(&["s1"]), Some((1, Some(0.5))));
        assert_eq!([used(&["turn-1"]), used(&["s2"])], [Some((1, Some(0.25))), None]);
    }
}
