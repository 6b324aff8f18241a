//! What the servers used in the judged part of a run.

use crate::history::{Event, Reading, Usage};
use serde::Serialize;
use std::collections::BTreeMap;

/// All servers together; what nobody observed is absent. Packets and bits a second.
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

#[derive(Default)]
struct Sum {
    /// Of what each second had, and its seconds.
    means: [(f64, f64); 5],
    memory: Option<u64>,
}

/// `None` where no server was observed between the two times (ms since the start of the run).
pub fn fleet_use(reading: &Reading, from_ms: f64, until_ms: f64) -> Option<FleetUse> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    reading.each(
        |kind| kind == "usage",
        |line| {
            // By its middle: observers and seconds keep different time.
            if let Event::Usage(u) = line.event
                && (from_ms..=until_ms).contains(&(line.t - u.seconds * 500.0))
            {
                sums.entry(u.server.clone()).or_default().add(&u);
            }
        },
    );
    if sums.is_empty() {
        return None;
    }
    let all = |i: usize| {
        let each =
            sums.values().map(|s| s.means[i]).filter(|(_, seconds)| *seconds > 0.0).map(|(sum, seconds)| sum / seconds);
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

impl Sum {
    fn add(&mut self, u: &Usage) {
        let values = [u.cpu_cores, u.egress_pps, u.egress_bps, u.cascade_pps, u.cascade_bps];
        for ((sum, seconds), value) in self.means.iter_mut().zip(values) {
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
        let used = fleet_use(&reading, 10_000.0, 20_000.0).unwrap();
        assert_eq!((used.servers, used.cascade_pps, used.memory_bytes), (2, Some(20.0), Some(10.0)));
        assert_eq!((used.cpu_cores, used.cascade_bps), (None, None));
        assert_eq!(fleet_use(&reading, 30_000.0, 40_000.0), None);
    }
}
