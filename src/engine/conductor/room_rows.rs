//! What the history keeps of each room: few rows while all is well, and none that mixes what must be told apart.

use super::super::shard::RoomRow;
use crate::history::RoomInterval;
use crate::measure::FlowCounters;
use crate::types::{Kind, RoomId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The longest row.
const SECONDS_MAX: u32 = 300;
/// And the longest in which something is amiss.
const AMISS_SECONDS_MAX: u32 = 60;
/// So long must all be well until the next bad second stands alone again.
const WELL_SECONDS: u32 = 60;
/// A silence of so many ms or more is amiss.
const SILENT_MS: i64 = 1000;
/// After the generator's last bad second it has to be well for so long until its seconds are trusted again: a row that ends
/// sooner is dropped by the verdict, and one that mixes both would blame the target for what was ours.
const SETTLED_SECONDS: u64 = 10;

/// Puts rooms' seconds together into rows. A row ends after five minutes; where something is amiss, in the first such
/// second, then after 2, 4 … 60 s until a whole minute was well; at the edges of the hold and of a search's trials, with the
/// room's server, and where the generator becomes unhealthy or is well again.
pub(super) struct RoomRows {
    open: BTreeMap<RoomId, Open>,
    /// Seconds at whose end every row ends.
    edges: BTreeSet<u64>,
    /// The last second in which the generator was unhealthy.
    unhealthy_at: Option<u64>,
    unsettled: bool,
}

struct Open {
    row: RoomRow,
    /// It holds seconds up to the end of this one.
    until: u64,
    amiss: bool,
    /// A row with anything amiss in it ends after so many seconds.
    patience: u32,
    /// All was well for so long.
    well: f64,
}

impl RoomRows {
    pub fn new() -> RoomRows {
        RoomRows { open: BTreeMap::new(), edges: BTreeSet::new(), unhealthy_at: None, unsettled: false }
    }

    /// What is judged by itself begins and ends then: no row holds seconds of it and others.
    pub fn judge(&mut self, from: Duration, until: Duration) {
        let begun = from.as_secs() + u64::from(from.subsec_nanos() > 0);
        self.edges.extend([begun, until.as_secs()]);
    }

    /// One second (its number is that of its end) of all rooms; gives the rows that are over with it, and their ends in ms.
    pub fn take(&mut self, second: u64, rooms: Vec<RoomRow>, unhealthy: bool) -> Vec<(f64, RoomInterval)> {
        let mut out = Vec::new();
        if unhealthy {
            self.unhealthy_at = Some(second);
        }
        let unsettled = self.unhealthy_at.is_some_and(|at| second < at + SETTLED_SECONDS);
        if unsettled != self.unsettled {
            self.unsettled = unsettled;
            out.extend(self.end());
        }
        for new in rooms {
            let (room, server, last, amiss) = (new.room, new.server, new.last, is_amiss(&new));
            let open = self.open.entry(room).or_insert_with(|| Open::new(room, second));
            if open.row.seconds > 0.0 && (open.row.server != server || (amiss && open.patience == 1)) {
                out.extend(open.close());
            }
            open.add(new, second, amiss);
            let long = if open.amiss { open.patience } else { SECONDS_MAX };
            if last || self.edges.contains(&second) || open.row.seconds >= f64::from(long) {
                out.extend(open.close());
            }
            if last {
                self.open.remove(&room);
            }
        }
        out
    }

    /// Ends every row that is open.
    pub fn end(&mut self) -> Vec<(f64, RoomInterval)> {
        self.open.values_mut().filter_map(Open::close).collect()
    }
}

fn is_amiss(row: &RoomRow) -> bool {
    row.silence_max_ms > SILENT_MS || row.count.iter().any(|c| c.e2e_expected > c.e2e_received || c.freezes > 0)
}

impl Open {
    fn new(room: RoomId, until: u64) -> Open {
        let row = RoomRow {
            room,
            server: None,
            seconds: 0.0,
            participants: 0,
            count: Default::default(),
            silence_max_ms: 0,
            delay_max_us: [0; 2],
            last: false,
        };
        Open { row, until, amiss: false, patience: 1, well: 0.0 }
    }

    fn add(&mut self, new: RoomRow, second: u64, amiss: bool) {
        let row = &mut self.row;
        row.server = new.server;
        let seconds = new.seconds.round().max(1.0);
        row.seconds += seconds;
        self.well = if amiss { 0.0 } else { self.well + seconds };
        if self.well >= f64::from(WELL_SECONDS) {
            self.patience = 1;
        }
        row.participants = row.participants.max(new.participants);
        for (all, new) in row.count.iter_mut().zip(&new.count) {
            *all += new;
        }
        row.silence_max_ms = row.silence_max_ms.max(new.silence_max_ms);
        for (all, new) in row.delay_max_us.iter_mut().zip(new.delay_max_us) {
            *all = (*all).max(new);
        }
        self.until = second;
        self.amiss |= amiss;
    }

    /// Its row so far; nothing where it says nothing.
    fn close(&mut self) -> Option<(f64, RoomInterval)> {
        let fresh = Open::new(self.row.room, self.until);
        let amiss = std::mem::replace(&mut self.amiss, fresh.amiss);
        let row = std::mem::replace(&mut self.row, fresh.row);
        if amiss {
            self.patience = (self.patience * 2).min(AMISS_SECONDS_MAX);
        }
        let says = row.participants > 0 || row.count != <[FlowCounters; 2]>::default();
        says.then(|| (self.until as f64 * 1000.0, interval(&row)))
    }
}

fn interval(r: &RoomRow) -> RoomInterval {
    let delay = |k: Kind| (r.delay_max_us[k.index()] > 0).then(|| r.delay_max_us[k.index()] as f64 / 1000.0);
    RoomInterval {
        room: r.room,
        server: r.server,
        seconds: r.seconds,
        participants: r.participants,
        audio: r.count[0].of_room(),
        video: r.count[1].of_room(),
        silence_max_ms: r.silence_max_ms,
        delay_max_ms: [delay(Kind::Audio), delay(Kind::Video)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ServerId;

    fn row(server: u32, lost: i64) -> RoomRow {
        let audio = FlowCounters { e2e_expected: 50, e2e_received: 50 - lost, ..FlowCounters::default() };
        RoomRow {
            room: RoomId(0),
            server: Some(ServerId(server)),
            seconds: 1.0,
            participants: 2,
            count: [audio, FlowCounters::default()],
            silence_max_ms: 20,
            delay_max_us: [1500, 0],
            last: false,
        }
    }

    /// Rows as (from, until, packets lost), in s.
    fn rows(
        rows: &mut RoomRows,
        seconds: std::ops::RangeInclusive<u64>,
        lost: impl Fn(u64) -> i64,
    ) -> Vec<(u64, u64, i64)> {
        let mut out = Vec::new();
        for k in seconds {
            out.extend(rows.take(k, vec![row(0, lost(k))], false));
        }
        spans(&out)
    }

    fn spans(rows: &[(f64, RoomInterval)]) -> Vec<(u64, u64, i64)> {
        let span = |(t, r): &(f64, RoomInterval)| {
            let until = (*t / 1000.0) as u64;
            assert_eq!(r.audio.e2e_expected, r.seconds as i64 * 50);
            (until - r.seconds as u64, until, r.audio.e2e_expected - r.audio.e2e_received)
        };
        rows.iter().map(span).collect()
    }

    #[test]
    fn five_minutes_where_all_is_well_and_a_second_where_it_goes_wrong() {
        let mut r = RoomRows::new();
        let all = rows(&mut r, 1..=900, |k| i64::from(k == 400 || k == 401));
        assert_eq!(all, [(0, 300, 0), (300, 399, 0), (399, 400, 1), (400, 402, 1), (402, 702, 0)]);
        // A minute was well: the next bad second stands alone again.
        assert_eq!(rows(&mut r, 901..=910, |k| i64::from(k == 905)), [(702, 904, 0), (904, 905, 1)]);
    }

    #[test]
    fn what_never_ends_costs_no_row_a_second() {
        let mut r = RoomRows::new();
        let all = rows(&mut r, 1..=183, |_| 1);
        let until: Vec<u64> = all.iter().map(|r| r.1).collect();
        assert_eq!(until, [1, 3, 7, 15, 31, 63, 123, 183]);
        let mut r = RoomRows::new();
        let mut now_and_then = rows(&mut r, 1..=3600, |k| i64::from(k % 7 == 0));
        now_and_then.extend(spans(&r.end()));
        assert!(now_and_then.len() < 70, "{}", now_and_then.len());
        assert_eq!(now_and_then.iter().map(|r| r.2).sum::<i64>(), 3600 / 7);
    }

    #[test]
    fn ends_with_the_hold_the_server_and_the_room() {
        let mut r = RoomRows::new();
        r.judge(Duration::from_millis(4001), Duration::from_millis(20_900));
        let mut out = rows(&mut r, 1..=21, |_| 0);
        assert_eq!(out, [(0, 5, 0), (5, 20, 0)]);
        let moved = r.take(22, vec![row(1, 0)], false);
        assert_eq!((spans(&moved), moved[0].1.server), (vec![(20, 21, 0)], Some(ServerId(0))));
        let gone = r.take(24, vec![RoomRow { last: true, seconds: 2.01, participants: 0, ..row(1, 50) }], false);
        out = gone.iter().map(|(t, r)| (*t as u64, r.seconds as u64, r.participants.into())).collect();
        assert_eq!(out, [(22000, 1, 2), (24000, 2, 0)]);
        assert_eq!(gone[1].1.server, Some(ServerId(1)));
        assert!(r.end().is_empty());
        // Nobody was ever in it.
        let empty = RoomRow { last: true, participants: 0, count: Default::default(), ..row(1, 0) };
        assert!(r.take(25, vec![empty], false).is_empty());
    }

    #[test]
    fn tells_the_generators_own_trouble_apart() {
        let mut r = RoomRows::new();
        let mut out = rows(&mut r, 1..=30, |_| 0);
        for k in 31..=60 {
            // Unhealthy twice within ten seconds: one row.
            out.extend(spans(&r.take(k, vec![row(0, 0)], k == 31 || k == 35)));
        }
        out.extend(spans(&r.end()));
        assert_eq!(out, [(0, 30, 0), (30, 44, 0), (44, 60, 0)]);
    }
}
