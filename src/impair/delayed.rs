//! Datagrams that wait for their due time, of any number of links. Buffers are used again, so nothing is allocated once
//! there are as many as are ever under way at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What waits. `T` says whose it is and where it goes.
pub struct Delayed<T> {
    /// Due time, order of coming, place in `parcels`.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    parcels: Vec<Option<Parcel<T>>>,
    free: Vec<u32>,
    spare: Vec<Vec<u8>>,
    order: u64,
}

/// One waiting datagram.
pub struct Parcel<T> {
    pub due_ns: u64,
    pub tag: T,
    pub data: Vec<u8>,
}

impl<T> Default for Delayed<T> {
    fn default() -> Delayed<T> {
        Delayed { heap: BinaryHeap::new(), parcels: Vec::new(), free: Vec::new(), spare: Vec::new(), order: 0 }
    }
}

impl<T> Delayed<T> {
    pub fn push(&mut self, due_ns: u64, tag: T, datagram: &[u8]) -> &mut [u8] {
        let mut data = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1536));
        data.clear();
        data.extend_from_slice(datagram);
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.parcels.push(None);
                self.parcels.len() as u32 - 1
            }
        };
        self.order += 1;
        self.heap.push(Reverse((due_ns, self.order, place)));
        let parcel = self.parcels[place as usize].insert(Parcel { due_ns, tag, data });
        &mut parcel.data
    }

    pub fn next_due_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_ns, ..))| *due_ns)
    }

    /// The first that is due by now; of those due at once, the one that came first.
    pub fn pop(&mut self, now_ns: u64) -> Option<Parcel<T>> {
        if self.next_due_ns()? > now_ns {
            return None;
        }
        let Reverse((.., place)) = self.heap.pop()?;
        self.free.push(place);
        self.parcels[place as usize].take()
    }

    /// Takes a parcel's memory back.
    pub fn recycle(&mut self, parcel: Parcel<T>) {
        self.spare.push(parcel.data);
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
