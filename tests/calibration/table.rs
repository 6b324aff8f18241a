//! The grid as a table: what was set, what the log says, what the report says, and whether that is within bounds.

use std::fmt::Write as _;

/// One comparison.
#[derive(Clone, Debug)]
pub struct Check {
    pub what: &'static str,
    pub truth: f64,
    pub measured: f64,
    /// Largest difference allowed.
    pub bound: f64,
    pub unit: &'static str,
}

impl Check {
    /// Exact, to the packet.
    pub fn exact(what: &'static str, truth: i64, measured: i64) -> Check {
        Check { what, truth: truth as f64, measured: measured as f64, bound: 0.0, unit: "" }
    }

    pub fn within(what: &'static str, truth: f64, measured: f64, bound: f64, unit: &'static str) -> Check {
        Check { what, truth, measured, bound, unit }
    }

    /// A range of whole numbers.
    fn is_count(&self) -> bool {
        self.bound > 0.0
            && [self.truth - self.bound, self.truth + self.bound, self.measured].iter().all(|v| v.fract() == 0.0)
    }

    /// From the least to the most that the log leaves open.
    pub fn between(what: &'static str, (least, most): (i64, i64), measured: i64) -> Check {
        let (least, most) = (least as f64, most as f64);
        Check {
            what,
            truth: f64::midpoint(least, most),
            measured: measured as f64,
            bound: (most - least) / 2.0,
            unit: "",
        }
    }

    pub fn holds(&self) -> bool {
        (self.truth - self.measured).abs() <= self.bound + 1e-9
    }
}

/// One cell of the grid.
#[derive(Clone, Debug)]
pub struct Cell {
    pub name: String,
    pub set: String,
    /// Why nothing is said: the generator was unhealthy, and with what.
    pub unknown: Option<String>,
    pub checks: Vec<Check>,
}

impl Cell {
    pub fn verdict(&self) -> &'static str {
        match (&self.unknown, self.checks.iter().all(Check::holds)) {
            (Some(_), _) => "unknown",
            (None, true) => "in",
            (None, false) => "OUT",
        }
    }

    pub fn failed(&self) -> Vec<String> {
        let broken = self.checks.iter().filter(|c| self.unknown.is_none() && !c.holds());
        broken
            .map(|c| {
                format!("{}: {} by the log {}, measured {}, bound {}", self.name, c.what, c.truth, c.measured, c.bound)
            })
            .collect()
    }
}

fn number(v: f64) -> String {
    if v.fract() == 0.0 { format!("{v:.0}") } else { format!("{v:.2}") }
}

/// As Markdown, one row a cell.
pub fn markdown(cells: &[Cell]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for c in cells.iter().flat_map(|c| &c.checks) {
        if !columns.contains(&c.what) {
            columns.push(c.what);
        }
    }
    let mut out = String::from("| Network | Bounds |");
    for c in &columns {
        let _ = write!(out, " {c} |");
    }
    out += "\n|---|---|";
    columns.iter().for_each(|_| out += "---|");
    out.push('\n');
    for cell in cells {
        let why = cell.unknown.as_ref().map(|w| format!(": {w}")).unwrap_or_default();
        let _ = write!(out, "| {} | {}{why} |", cell.set, cell.verdict());
        for column in &columns {
            let text = match (cell.checks.iter().find(|c| c.what == *column), &cell.unknown) {
                // An unhealthy generator gives no numbers.
                (None, _) | (_, Some(_)) => String::new(),
                (Some(c), None) if c.holds() && c.bound == 0.0 => number(c.truth),
                (Some(c), None) if c.is_count() => {
                    format!("{:.0}–{:.0} / {:.0}", c.truth - c.bound, c.truth + c.bound, c.measured)
                }
                (Some(c), None) => format!("{} / {}{}", number(c.truth), number(c.measured), c.unit),
            };
            let _ = write!(out, " {text} |");
        }
        out.push('\n');
    }
    out
}
