//! Loads are whole rooms: how many participants a server carries when it has its first so many rooms.

/// Loads that may be tried, in rooms on one server, with the participants they stand for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loads {
    /// Participants in the first 1, 2, … rooms.
    participants: Vec<u32>,
    min: u32,
    max: u32,
}

impl Loads {
    /// From the sizes of a server's rooms in the order in which they are added. The lowest load is the first with at
    /// least `min` participants, the highest the last with at most `max`, or one room, whichever is more.
    pub fn new(sizes: &[u32], min: u32, max: u32) -> Loads {
        let mut sum = 0;
        let participants: Vec<u32> = sizes
            .iter()
            .map(|size| {
                sum += size;
                sum
            })
            .collect();
        let most = participants.partition_point(|p| *p <= max).max(1).min(participants.len().max(1)) as u32;
        let least = (participants.partition_point(|p| *p < min) as u32 + 1).clamp(1, most);
        Loads { participants, min: least, max: most }
    }

    pub fn min(&self) -> u32 {
        self.min
    }

    pub fn max(&self) -> u32 {
        self.max
    }

    /// Participants of a load; of none, 0.
    pub fn participants(&self, rooms: u32) -> u32 {
        let nth = (rooms as usize).min(self.participants.len());
        nth.checked_sub(1).map_or(0, |i| self.participants[i])
    }

    /// The highest load of at most so many participants, 0 where none is that small.
    pub fn at_most(&self, participants: u32) -> u32 {
        self.participants.partition_point(|p| *p <= participants) as u32
    }

    /// True when two loads are no further apart than the width asked for (a share of the higher one), or one room.
    pub fn narrow(&self, lower: u32, upper: u32, width: f64) -> bool {
        let (low, high) = (self.participants(lower), self.participants(upper));
        upper <= lower + 1 || f64::from(high - low) <= width * f64::from(high)
    }

    /// The load between two others that halves them by ratio; `None` where nothing lies between them.
    pub(super) fn between(&self, lower: u32, upper: u32) -> Option<u32> {
        if upper <= lower + 1 {
            return None;
        }
        let middle = (f64::from(self.participants(lower).max(1)) * f64::from(self.participants(upper))).sqrt();
        Some(self.at_most(middle.round() as u32).clamp(lower + 1, upper - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_whole_rooms_within_the_range() {
        let loads = Loads::new(&[4, 4, 10, 4, 4], 5, 22);
        assert_eq!((loads.min(), loads.max()), (2, 4));
        assert_eq!([0, 1, 2, 3, 4, 9].map(|r| loads.participants(r)), [0, 4, 8, 18, 22, 26]);
        let one = Loads::new(&[40, 40], 5, 22);
        assert_eq!((one.min(), one.max()), (1, 1));
    }

    #[test]
    fn widths_are_shares_or_one_room() {
        let loads = Loads::new(&[4; 100], 4, 400);
        assert!(loads.narrow(20, 21, 0.05) && loads.narrow(3, 4, 0.05));
        assert!(loads.narrow(95, 100, 0.05) && !loads.narrow(94, 100, 0.05));
        assert_eq!(loads.between(10, 40), Some(20));
        assert_eq!(loads.between(10, 11), None);
        assert_eq!(loads.between(10, 12), Some(11));
    }
}
