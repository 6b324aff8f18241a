//! Over several mixes of rooms: which unit varies least at breakage, since that is what to scale on.

use super::answer::Answer;
use crate::profile::Headroom;
use crate::verdict::{Verdict, number};
use serde::Serialize;

/// `mixes` in the `summary.json` of a series.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Matrix {
    pub mixes: Vec<MixRow>,
    /// The steadiest first; without a variation where fewer than two mixes have bounds.
    pub units: Vec<UnitRow>,
    /// The unit that varies least.
    pub scale_on: Option<Unit>,
    /// How much of it one server may carry in any of the mixes, with the headroom that was asked for: the least of theirs.
    pub scale_out_at: Option<f64>,
    /// How far the bounds of a search are apart at most, percent of the upper one: a search's own width, or more where that
    /// is less than a room. What varies less than that can't be told apart.
    pub width: f64,
    #[serde(skip)]
    pub answer: Option<Headroom>,
}

/// One mix at the highest load that held, the last before it broke. Of one server.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MixRow {
    pub name: String,
    pub verdict: Verdict,
    pub sentence: String,
    /// Whether the search ended in bounds; the others say nothing about what to scale on.
    pub bounded: bool,
    pub lower: Option<u32>,
    pub upper: Option<u32>,
    /// By the plan.
    pub streams: Option<f64>,
    /// RTP that participants received from it, a second.
    pub egress_pps: Option<f64>,
    pub egress_bps: Option<f64>,
    /// Of TURN servers.
    pub allocations: Option<u32>,
    pub relayed_pps: Option<f64>,
    pub relayed_bps: Option<f64>,
    /// Percent, where the objective broke.
    pub cpu: Option<f64>,
    pub broke_first: Option<String>,
    /// Participants at which to scale out.
    pub scale_out_at: Option<u32>,
}

/// What a server's load may be counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Participants,
    Streams,
    EgressPps,
    EgressBps,
    Allocations,
    RelayedPps,
    RelayedBps,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct UnitRow {
    pub unit: Unit,
    /// Standard deviation over the mixes with bounds, percent of their mean.
    pub variation: Option<f64>,
    pub least: Option<f64>,
    pub most: Option<f64>,
}

impl Unit {
    pub const ALL: [Unit; 7] = [
        Unit::Participants,
        Unit::Streams,
        Unit::EgressPps,
        Unit::EgressBps,
        Unit::Allocations,
        Unit::RelayedPps,
        Unit::RelayedBps,
    ];

    /// For a person.
    pub fn words(self) -> &'static str {
        match self {
            Unit::Participants => "participants",
            Unit::Streams => "streams to participants",
            Unit::EgressPps => "egress packets per second",
            Unit::EgressBps => "egress bits per second",
            Unit::Allocations => "allocations",
            Unit::RelayedPps => "relayed packets per second",
            Unit::RelayedBps => "relayed bits per second",
        }
    }

    fn is_of_turn(self) -> bool {
        matches!(self, Unit::Allocations | Unit::RelayedPps | Unit::RelayedBps)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Participants => "participants",
            Unit::Streams => "streams",
            Unit::EgressPps => "egress_pps",
            Unit::EgressBps => "egress_bps",
            Unit::Allocations => "allocations",
            Unit::RelayedPps => "relayed_pps",
            Unit::RelayedBps => "relayed_bps",
        }
    }

    /// Of a mix.
    pub fn of(self, mix: &MixRow) -> Option<f64> {
        match self {
            Unit::Participants => mix.lower.map(f64::from),
            Unit::Streams => mix.streams,
            Unit::EgressPps => mix.egress_pps,
            Unit::EgressBps => mix.egress_bps,
            Unit::Allocations => mix.allocations.map(f64::from),
            Unit::RelayedPps => mix.relayed_pps,
            Unit::RelayedBps => mix.relayed_bps,
        }
    }

    /// An amount of it, for a person.
    pub fn amount(self, value: f64) -> String {
        match self {
            Unit::EgressBps | Unit::RelayedBps => format!("{} Mbit/s", number(value / 1e6)),
            Unit::EgressPps | Unit::RelayedPps => format!("{} packets/s", value.round()),
            Unit::Participants | Unit::Streams | Unit::Allocations => format!("{} {}", value.round(), self.words()),
        }
    }
}

impl MixRow {
    /// `sentence` and `verdict` are those of its run; without an answer it was never searched.
    pub fn of(name: &str, verdict: Verdict, sentence: &str, answer: Option<&Answer>) -> MixRow {
        // A TURN server sends what it relays, and more than RTP.
        let media = answer.filter(|a| a.allocations.is_none());
        MixRow {
            name: name.to_owned(),
            verdict,
            sentence: sentence.to_owned(),
            bounded: answer.is_some_and(|a| a.bounded),
            lower: answer.and_then(|a| a.lower),
            upper: answer.and_then(|a| a.upper),
            streams: answer.and_then(|a| a.streams).map(|n| n as f64),
            egress_pps: media.and_then(|a| a.egress_pps),
            egress_bps: media.and_then(|a| a.egress_bps),
            allocations: answer.and_then(|a| a.allocations),
            relayed_pps: answer.and_then(|a| a.relayed_pps),
            relayed_bps: answer.and_then(|a| a.relayed_bps),
            cpu: answer.and_then(|a| a.cpu_at_breakage),
            broke_first: answer.and_then(|a| a.broke_first.clone()),
            scale_out_at: answer.and_then(|a| a.threshold).map(|t| t.participants),
        }
    }
}

impl Matrix {
    /// `width`: that of the searches, a share (0..1); `answer`: the headroom that was asked of each.
    pub fn of(mixes: Vec<MixRow>, width: f64, answer: Option<Headroom>) -> Matrix {
        let bounded: Vec<&MixRow> = mixes.iter().filter(|m| m.bounded).collect();
        let apart = |m: &&MixRow| Some(1.0 - f64::from(m.lower?) / f64::from(m.upper.filter(|u| *u > 0)?));
        let width = bounded.iter().filter_map(apart).fold(width, f64::max);
        let tidy = |v: f64| (v * 100.0).round() / 100.0;
        let mut units: Vec<UnitRow> = Unit::ALL
            .into_iter()
            .map(|unit| {
                let values: Vec<f64> = bounded.iter().filter_map(|m| unit.of(m)).collect();
                let whole = values.len() == bounded.len();
                UnitRow {
                    unit,
                    variation: variation(&values).filter(|_| whole).map(|v| tidy(v * 100.0)),
                    least: values.iter().copied().reduce(f64::min),
                    most: values.iter().copied().reduce(f64::max),
                }
            })
            .collect();
        // Those of TURN servers, where there are none.
        units.retain(|u| u.least.is_some() || (bounded.is_empty() && !u.unit.is_of_turn()));
        // Stable: of equals the unit that is easier to count.
        units.sort_by(|a, b| {
            let of = |u: &UnitRow| u.variation.unwrap_or(f64::INFINITY);
            of(a).total_cmp(&of(b))
        });
        let scale_on = units.first().filter(|u| u.variation.is_some()).map(|u| u.unit);
        let at = |m: &&MixRow| {
            // In this order: amounts are whole numbers, of which a quotient that is one, too, comes out exact.
            Some(scale_on?.of(m)? * f64::from(m.scale_out_at?) / f64::from(m.lower.filter(|l| *l > 0)?))
        };
        let each: Vec<Option<f64>> = bounded.iter().map(at).collect();
        let whole = bounded.len() == mixes.len() && each.iter().all(Option::is_some);
        let scale_out_at = each.into_iter().flatten().reduce(f64::min).filter(|_| whole).map(f64::floor);
        Matrix { mixes, units, scale_on, scale_out_at, width: tidy(width * 100.0), answer }
    }

    /// Verdict, and the sentence that says it.
    pub fn verdict(&self) -> (Verdict, String) {
        let is = |v: Verdict| self.mixes.iter().find(|m| m.verdict == v);
        let verdict = match (is(Verdict::Fail), is(Verdict::Unknown)) {
            (Some(_), _) => Verdict::Fail,
            (None, Some(_)) => Verdict::Unknown,
            (None, None) if self.scale_on.is_none() => Verdict::Unknown,
            (None, None) => Verdict::Pass,
        };
        let spoilt = is(Verdict::Fail).or_else(|| is(Verdict::Unknown));
        let spoilt = spoilt.map(|m| format!("mix {}: {}", m.name, m.sentence));
        let sentence = match (self.scale_on(), spoilt) {
            (Some(found), None) => found,
            (Some(found), Some(spoilt)) => format!("{found} But {spoilt}"),
            (None, Some(spoilt)) => format!("Nothing to say over the mixes; {spoilt}"),
            (None, None) => "Nothing to say over the mixes: fewer than two have bounds.".into(),
        };
        (verdict, sentence)
    }

    fn scale_on(&self) -> Option<String> {
        let best = self.units.first().filter(|u| u.variation.is_some())?;
        let percent = |u: &UnitRow| u.variation.map_or_else(|| "?".to_owned(), |v| format!("{} %", number(v)));
        let others: Vec<String> =
            self.units[1..].iter().map(|u| format!("{} {}", u.unit.words(), percent(u))).collect();
        let bounded = self.mixes.iter().filter(|m| m.bounded);
        let full: Vec<&str> = bounded.filter(|m| m.scale_out_at.is_none()).map(|m| m.name.as_str()).collect();
        let at = match self.scale_out_at {
            Some(v) => format!("; scale out at {}", best.unit.amount(v)),
            None if full.is_empty() => String::new(),
            None => format!("; the headroom asked for leaves {} no load to scale out at", full.join(" and ")),
        };
        let n = self.mixes.iter().filter(|m| m.bounded).count();
        let close: Vec<&str> = self.close().map(|u| u.unit.words()).collect();
        let close = match close.is_empty() {
            true => String::new(),
            false => {
                format!(" ({} hardly more: the searches tell {} % apart)", close.join(" and "), number(self.width))
            }
        };
        Some(format!(
            "Scale on {}: at breakage it varies {} over {n} mixes, {}{close}{at}.",
            best.unit.words(),
            percent(best),
            others.join(", ")
        ))
    }

    /// Units that a table shows, in an order of their own.
    pub fn columns(&self) -> Vec<Unit> {
        Unit::ALL.into_iter().filter(|unit| self.units.iter().any(|u| u.unit == *unit)).collect()
    }

    /// Units that vary more than the best one by less than a search can tell.
    pub fn close(&self) -> impl Iterator<Item = &UnitRow> {
        let best = self.units.first().and_then(|u| u.variation);
        self.units.iter().skip(1).filter(move |u| {
            let more = u.variation.zip(best).map(|(v, best)| v - best);
            more.is_some_and(|more| more < self.width)
        })
    }
}

/// Standard deviation of a sample over its mean; `None` for fewer than two values.
fn variation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 || mean <= 0.0 {
        return None;
    }
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((square / (n - 1.0)).sqrt() / mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that breaks at so many packets a second, under rooms of `size` in which `senders` send `pps` of `bytes`
    /// each; 15 % of its capacity is kept as headroom.
    fn mix(name: &str, limit: f64, size: u32, senders: u32, pps: f64, bytes: f64) -> MixRow {
        let streams = |rooms: u32| f64::from(rooms * senders * (size - 1));
        let rooms = (1..).find(|rooms| streams(rooms + 1) * pps > limit).unwrap();
        let lower = rooms * size;
        MixRow {
            name: name.into(),
            verdict: Verdict::Pass,
            sentence: String::new(),
            bounded: true,
            lower: Some(lower),
            upper: Some(lower + size),
            streams: Some(streams(rooms)),
            egress_pps: Some(streams(rooms) * pps),
            egress_bps: Some(streams(rooms) * pps * bytes * 8.0),
            allocations: None,
            relayed_pps: None,
            relayed_bps: None,
            cpu: None,
            broke_first: None,
            scale_out_at: Some((f64::from(lower) * 0.85).floor() as u32),
        }
    }

    fn mixes() -> Vec<MixRow> {
        vec![
            mix("audio", 20_000.0, 4, 4, 50.0, 120.0),
            mix("video", 20_000.0, 4, 4, 110.0, 700.0),
            mix("webinar", 20_000.0, 20, 1, 50.0, 120.0),
        ]
    }

    #[test]
    fn what_limits_the_server_varies_least() {
        let m = Matrix::of(mixes(), 0.05, None);
        assert_eq!(m.scale_on, Some(Unit::EgressPps));
        let of = |unit| m.units.iter().find(|u| u.unit == unit).and_then(|u| u.variation).unwrap();
        assert!(
            of(Unit::EgressPps) < 5.0 && of(Unit::Participants) > 50.0 && of(Unit::EgressBps) > 80.0,
            "{:?}",
            m.units
        );
        let (verdict, sentence) = m.verdict();
        assert_eq!(verdict, Verdict::Pass);
        assert!(sentence.starts_with("Scale on egress packets per second: at breakage it varies "), "{sentence}");
        assert!(
            sentence.contains("over 3 mixes, streams to participants ") && sentence.contains("; scale out at 1"),
            "{sentence}"
        );
        // The least of the mixes, with its headroom.
        let least = m.mixes.iter().filter_map(|m| m.egress_pps).fold(f64::INFINITY, f64::min);
        let at = m.scale_out_at.unwrap();
        assert!(at <= least * 0.85 && at > least * 0.8, "{at} of {least}");
    }

    #[test]
    fn a_limit_on_participants_is_found_as_such() {
        let mut all = mixes();
        all.iter_mut().for_each(|m| (m.lower, m.upper) = (Some(200), Some(204)));
        let m = Matrix::of(all, 0.05, None);
        assert_eq!((m.scale_on, m.units[0].variation), (Some(Unit::Participants), Some(0.0)));
    }

    #[test]
    fn what_a_search_cannot_tell_apart_is_named() {
        let mut all = mixes();
        for (i, m) in all.iter_mut().enumerate() {
            m.egress_pps = Some(1000.0 + 10.0 * i as f64);
            m.streams = Some(100.0 + 3.0 * i as f64);
        }
        let m = Matrix::of(all, 0.05, None);
        assert_eq!(m.close().map(|u| u.unit).collect::<Vec<_>>(), [Unit::Streams]);
        // Webinars of 20 end a room apart, which is more than 5 %.
        let said = "(streams to participants hardly more: the searches tell 6.25 % apart)";
        assert!(m.verdict().1.contains(said), "{}", m.verdict().1);
    }

    #[test]
    fn without_bounds_nothing_is_said() {
        let mut all = mixes();
        for m in &mut all[1..] {
            (m.bounded, m.verdict) = (false, Verdict::Unknown);
            m.sentence = "Not settled within 1m.".into();
        }
        let m = Matrix::of(all.clone(), 0.05, None);
        assert_eq!((m.scale_on, m.scale_out_at), (None, None));
        let (verdict, sentence) = m.verdict();
        assert_eq!(verdict, Verdict::Unknown);
        assert_eq!(sentence, "Nothing to say over the mixes; mix video: Not settled within 1m.");
        // Two are enough to compare, and not for a threshold that is to hold for all.
        all[1].bounded = true;
        all[1].verdict = Verdict::Pass;
        all[2].verdict = Verdict::Fail;
        let m = Matrix::of(all, 0.05, None);
        assert_eq!((m.scale_on, m.scale_out_at), (Some(Unit::EgressPps), None));
        let (verdict, sentence) = m.verdict();
        assert_eq!(verdict, Verdict::Fail);
        assert!(sentence.contains("over 2 mixes") && sentence.contains(". But mix webinar: Not settled"), "{sentence}");
    }

    #[test]
    fn nothing_measured_is_no_variation() {
        assert_eq!(variation(&[]), None);
        assert_eq!(variation(&[3.0]), None);
        assert_eq!(variation(&[0.0, 0.0]), None);
        assert!((variation(&[1.0, 3.0]).unwrap() - 0.5f64.sqrt()).abs() < 1e-9);
        let mut all = mixes();
        all[0].egress_pps = None;
        let m = Matrix::of(all, 0.05, None);
        assert_eq!(m.units.iter().find(|u| u.unit == Unit::EgressPps).unwrap().variation, None);
    }

    /// Rooms of 16, of which a search tells no more than 48 from 64.
    #[test]
    fn bounds_a_room_apart_tell_no_more_than_that() {
        let mut all = mixes();
        for (i, m) in all.iter_mut().enumerate() {
            m.egress_pps = Some(1000.0 + 10.0 * i as f64);
            m.streams = Some(100.0 + 20.0 * i as f64);
            m.egress_bps = Some(1e6 * 4f64.powi(i as i32));
            (m.lower, m.upper) = (Some(100 * (1 + i as u32 * 9)), Some(105 * (1 + i as u32 * 9)));
        }
        let close = |all: &[MixRow]| {
            let m = Matrix::of(all.to_vec(), 0.05, None);
            (m.width, m.close().map(|u| u.unit).collect::<Vec<_>>(), m.verdict().1)
        };
        // Streams vary by 16.7 %, packets by 1 %.
        let (width, units, _) = close(&all);
        assert_eq!((width, &units[..]), (5.0, &[][..]));
        (all[2].lower, all[2].upper) = (Some(48), Some(64));
        let (width, units, sentence) = close(&all);
        assert_eq!((width, &units[..]), (25.0, &[Unit::Streams][..]));
        assert!(sentence.contains("(streams to participants hardly more: the searches tell 25 % apart)"), "{sentence}");
        // A search without bounds tells nothing.
        (all[2].bounded, all[2].lower) = (false, Some(2));
        assert_eq!(close(&all).0, 5.0);
    }

    #[test]
    fn what_is_scaled_at_is_what_the_mix_said() {
        for lower in 1..=120u32 {
            for at in 1..=lower {
                let mut all = mixes();
                for m in &mut all {
                    (m.lower, m.upper, m.scale_out_at) = (Some(lower), Some(lower + 1), Some(at));
                }
                let m = Matrix::of(all, 0.05, None);
                assert_eq!((m.scale_on, m.scale_out_at), (Some(Unit::Participants), Some(f64::from(at))), "{lower}");
            }
        }
    }

    #[test]
    fn headroom_that_leaves_nothing_is_said() {
        let mut all = mixes();
        all[2].scale_out_at = None;
        let m = Matrix::of(all, 0.05, None);
        assert_eq!(m.scale_out_at, None);
        let (verdict, sentence) = m.verdict();
        assert_eq!(verdict, Verdict::Pass);
        assert!(sentence.ends_with("; the headroom asked for leaves webinar no load to scale out at."), "{sentence}");
    }
}
