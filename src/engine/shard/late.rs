//! What impaired networks have held back goes on its way.

use super::{Shard, send};
use crate::engine::impaired::{Downward, Held, since};
use crate::engine::relayed::Unwrapped;
use crate::impair::Parcel;
use std::net::SocketAddr;
use std::time::Instant;

impl Shard {
    /// Sends and delivers what impaired networks have held back long enough.
    pub(super) fn release(&mut self) {
        let now_ns = since(self.config.epoch, Instant::now());
        while let Some(p) = self.held.up.pop(Held::leaving_ns(now_ns)) {
            let w = p.tag.whose;
            if let Some(Some(e)) = self.entries.get(w.ix as usize)
                && e.participant.leg() == w.leg
            {
                send(&e.sockets, &mut self.io, w.slot, p.tag.to, &p.data);
            }
            self.held.up.recycle(p);
        }
        // What came before it, and lies in its socket unread, is to be delivered before it: it has its time of arrival, and
        // nobody misses the few ms.
        let read_ns = since(self.config.epoch, self.swept).min(now_ns);
        while let Some(mut p) = self.held.down_eager.pop(now_ns) {
            self.deliver_held(&mut p);
            self.held.down_eager.recycle(p);
        }
        while let Some(mut p) = self.held.down.pop(read_ns) {
            self.deliver_held(&mut p);
            self.held.down.recycle(p);
        }
    }

    fn deliver_held(&mut self, p: &mut Parcel<Downward>) {
        let (w, from, recv_ns) = (p.tag.whose, p.tag.from, p.tag.recv_ns);
        if let Some(Some(e)) = self.entries.get(w.ix as usize)
            && e.participant.leg() == w.leg
        {
            self.deliver(w.ix, w.slot, from, recv_ns, &mut p.data);
        }
    }

    /// A datagram that an impaired network has held back: out of its frame, where it came by a TURN server.
    fn deliver(&mut self, ix: u32, slot: u8, from: SocketAddr, recv_ns: u64, data: &mut [u8]) {
        let Some(Some(e)) = self.entries.get(ix as usize) else { return };
        let now = Instant::now();
        let (from, range) = match e.relay_at(slot).map(|r| r.unwrap(now, data)) {
            None => (from, 0..data.len()),
            Some(Unwrapped::Channel(peer, range)) => (peer, range),
            Some(Unwrapped::Data(peer, mut data)) => {
                self.with(ix, |p, w| p.on_datagram(w, slot, peer, recv_ns, &mut data));
                return;
            }
            Some(Unwrapped::Control) => {
                self.tend_relay(ix, slot, now);
                return self.reschedule(ix);
            }
            Some(Unwrapped::Nothing) => return,
        };
        self.with(ix, |p, w| p.on_datagram(w, slot, from, recv_ns, &mut data[range]));
    }
}
