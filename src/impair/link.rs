//! One direction of one flow: what becomes of each datagram.

use super::conditions::{Conditions, Loss, Queue, WIRE_OVERHEAD};
use super::record::{Counters, Record};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;

/// Seed of one flow and direction: of a run's seed and the flow's own key, so that no other flow, and no order of
/// threads, has a say in it.
pub fn seed(run: u64, flow: u64, direction: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&run.to_le_bytes());
    key[8..16].copy_from_slice(&flow.to_le_bytes());
    key[16..24].copy_from_slice(&direction.to_le_bytes());
    key[24..].copy_from_slice(b"impaired");
    key
}

/// Why a datagram did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The loss process.
    Loss,
    Blackout,
    /// The bottleneck's queue was full.
    QueueFull,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fate {
    Lost(Cause),
    Passed(Passage),
}

/// How a datagram passes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Passage {
    /// On the caller's clock.
    pub due_ns: u64,
    /// A second one comes right behind.
    pub twice: bool,
    /// This bit of it is to be turned over; [`Passage::corrupt`] does it.
    pub flip: Option<u32>,
    /// Number of its record, where records are kept.
    pub record: usize,
}

impl Passage {
    /// Turns the bit over that was to be turned over.
    pub fn corrupt(&self, datagram: &mut [u8]) {
        if let Some(bit) = self.flip
            && let Some(byte) = datagram.get_mut(bit as usize / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// One direction of one flow. Times are ns on any one clock that does not run backwards.
pub struct Link {
    conditions: Conditions,
    rng: ChaCha8Rng,
    /// Of the loss process: from good to bad, and back.
    transitions: (f64, f64),
    first_ns: Option<u64>,
    in_burst: bool,
    /// When the bottleneck has served all that waits.
    free_ns: u64,
    /// Of the last datagram that keeps its place in the row.
    last_due_ns: u64,
    count: Counters,
    records: Option<VecDeque<Record>>,
    /// Number of the first record that is still here.
    records_from: usize,
}

/// 53 bits of it as a number in 0..1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// 32 bits of it as a number in 0..1.
fn unit32(bits: u32) -> f64 {
    f64::from(bits) / 4_294_967_296.0
}

impl Link {
    pub fn new(conditions: Conditions, seed: [u8; 32]) -> Link {
        Link {
            transitions: conditions.loss.transitions(),
            conditions,
            rng: ChaCha8Rng::from_seed(seed),
            first_ns: None,
            in_burst: false,
            free_ns: 0,
            last_due_ns: 0,
            count: Counters::default(),
            records: None,
            records_from: 0,
        }
    }

    /// Keeps a record of every datagram from now on.
    pub fn recorded(mut self) -> Link {
        self.records = Some(VecDeque::new());
        self
    }

    /// Decides about a datagram that arrives now.
    pub fn offer(&mut self, now_ns: u64, datagram: &[u8]) -> Fate {
        let first_ns = *self.first_ns.get_or_insert(now_ns);
        let since_ns = now_ns.saturating_sub(first_ns);
        let fate = self.decide(now_ns, since_ns, datagram.len());
        self.count.add(datagram.len(), &fate);
        if let Some(records) = &mut self.records {
            records.push_back(Record::of(now_ns, datagram, &fate));
        }
        fate
    }

    fn decide(&mut self, now_ns: u64, since_ns: u64, len: usize) -> Fate {
        // Always the same number of draws: what becomes of a datagram does not depend on which other impairments are
        // on, and half of the loss loses a part of what the whole loses.
        let [state, loss, jitter, more, corrupt] = std::array::from_fn(|_| self.rng.next_u64());
        let (hold, twice) = (unit32((more >> 32) as u32), unit32(more as u32));
        let (corrupt, bit) = (unit32((corrupt >> 32) as u32), corrupt as u32);
        let c = &self.conditions;
        let record = self.records_from + self.records.as_ref().map_or(0, VecDeque::len);
        if since_ns < c.after.as_nanos() as u64 {
            self.last_due_ns = now_ns.max(self.last_due_ns);
            return Fate::Passed(Passage { due_ns: self.last_due_ns, twice: false, flip: None, record });
        }
        if c.blackout.is_some_and(|b| b.covers(since_ns)) {
            return Fate::Lost(Cause::Blackout);
        }
        let lost = match c.loss {
            Loss::None => false,
            Loss::Independent(p) => unit(loss) < p,
            Loss::Bursts { bad, good, .. } => {
                let (to_bad, to_good) = self.transitions;
                let change = if self.in_burst { to_good } else { to_bad };
                self.in_burst ^= unit(state) < change;
                unit(loss) < if self.in_burst { bad } else { good }
            }
        };
        if lost {
            return Fate::Lost(Cause::Loss);
        }
        let mut at_ns = now_ns;
        if let Some(rate) = &c.rate {
            let bytes = (len + WIRE_OVERHEAD) as u64;
            let wait_ns = self.free_ns.saturating_sub(now_ns);
            let service_ns = rate.service_ns(bytes);
            let full = match rate.queue {
                Queue::Time(most) => wait_ns > most.as_nanos() as u64,
                Queue::Bytes(most) => wait_ns + service_ns > rate.service_ns(most),
            };
            if full {
                return Fate::Lost(Cause::QueueFull);
            }
            at_ns = now_ns + wait_ns + service_ns;
            self.free_ns = at_ns;
        }
        let flip = (corrupt < c.corrupt && len > 0).then(|| bit % (len as u32 * 8));
        let twice = twice < c.duplicate;
        let mut due_ns = at_ns + c.delay.as_nanos() as u64;
        let mut keeps_order = true;
        if let Some(j) = &c.jitter {
            due_ns += j.draw_ns(unit(jitter));
            keeps_order = !j.reorders;
        }
        match &c.hold_back {
            Some(h) if hold < h.share => due_ns += h.by.as_nanos() as u64,
            _ if keeps_order => {
                due_ns = due_ns.max(self.last_due_ns);
                self.last_due_ns = due_ns;
            }
            _ => {}
        }
        Fate::Passed(Passage { due_ns, twice, flip, record })
    }

    /// The datagram of this record left (or came) only now, later than it was due.
    pub fn left(&mut self, record: usize, at_ns: u64) {
        let place = record.wrapping_sub(self.records_from);
        if let Some(r) = self.records.as_mut().and_then(|r| r.get_mut(place)) {
            r.left_ns = at_ns;
        }
    }

    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    pub fn counters(&self) -> Counters {
        self.count
    }

    /// All records that are still here.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.records.as_ref().map(|r| r.iter()).unwrap_or_default()
    }

    /// Gives out and forgets the records of what came before a time, so that not all need be held.
    ///
    /// # Errors
    /// The first error of `each`; the records from there on stay.
    pub fn drain_records<E>(
        &mut self,
        before_ns: u64,
        mut each: impl FnMut(&Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(records) = &mut self.records else { return Ok(()) };
        while let Some(r) = records.front().filter(|r| r.came_ns < before_ns) {
            each(r)?;
            records.pop_front();
            self.records_from += 1;
        }
        Ok(())
    }
}
