//! What comes in at a shard's sockets.

use super::{Out, Shard, SlotSocket, key, meter};
use crate::engine::impaired::{Downwards, Upwards, Whose, since};
use crate::engine::realtime_ns;
use crate::engine::relayed::Unwrapped;
use crate::engine::socket::{Drained, TOGETHER};
use crate::engine::wire::Wire;
use crate::participant::{Batch, World};
use std::net::SocketAddr;
use std::time::Instant;

impl Shard {
    pub(super) fn sweep(&mut self, eager: bool, keys: &mut Vec<u64>) {
        // A full result may hide more; the next round sees them.
        for _ in 0..4 {
            keys.clear();
            if eager {
                self.eager.ready(keys);
            } else {
                keys.append(&mut self.unfinished);
                self.media.ready(keys);
            }
            for (i, together) in keys.chunks(TOGETHER).enumerate() {
                let then = keys.get((i + 1) * TOGETHER..).unwrap_or_default();
                self.receive_together(together, &then[..then.len().min(TOGETHER)]);
            }
            if keys.len() < 1024 {
                break;
            }
        }
    }

    /// Reads a few sockets, then looks at what came. Whatever comes next is asked for ahead, pointer by pointer, so that
    /// its memory is on its way while the kernel, or a packet, is at work. `then`: who is read after these.
    fn receive_together(&mut self, keys: &[u64], then: &[u64]) {
        let split = |k: u64| ((k >> 8) as usize, (k & 0xff) as u8);
        let mut drained = [Drained::default(); TOGETHER];
        for (place, (k, drained)) in keys.iter().zip(&mut drained).enumerate() {
            let (ix, slot) = split(*k);
            let Some(Some(e)) = self.entries.get(ix) else { continue };
            e.participant.prefetch_slot(slot);
            if let Some(Some(SlotSocket { socket: Wire::Udp(socket), .. })) = e.sockets.get(usize::from(slot)) {
                *drained = self.receiver.read(place, socket);
            }
            e.participant.prefetch_keys(slot);
        }
        for k in then {
            if let Some(Some(e)) = self.entries.get(split(*k).0) {
                e.prefetch();
            }
        }
        self.prefetch_streams(keys, 0);
        for (place, (k, drained)) in keys.iter().zip(drained).enumerate() {
            self.prefetch_streams(keys, place + 1);
            let (ix, slot) = split(*k);
            self.receive(ix as u32, slot, place, drained);
        }
    }

    #[inline]
    fn prefetch_streams(&mut self, keys: &[u64], place: usize) {
        if let Some(k) = keys.get(place)
            && let Some(Some(e)) = self.entries.get((k >> 8) as usize)
        {
            e.participant.prefetch_streams((k & 0xff) as u8, &self.receiver.batch(place));
        }
    }

    /// What was read from one socket, and what else waits in it.
    fn receive(&mut self, ix: u32, slot: u8, place: usize, mut drained: Drained) {
        let Some(Some(e)) = self.entries.get_mut(ix as usize) else { return };
        let Some(Some(s)) = e.sockets.get(usize::from(slot)) else { return };
        let Some(room) = self.rooms.get_mut(&e.room) else { return };
        let meter = meter(&mut self.meters, &mut self.unknown, e);
        let (now, now_ns) = (Instant::now(), realtime_ns());
        let (mut upwards, mut downwards) = (None, None);
        if let Some(a) = e.access.as_deref_mut() {
            let whose = Whose { ix, leg: e.participant.leg(), slot };
            let (epoch, h) = (self.config.epoch, &mut self.held);
            upwards = Some(Upwards { link: &mut a.up, held: &mut h.up, whose, epoch });
            downwards = Some(Downwards {
                link: &mut a.down,
                held: if s.eager { &mut h.down_eager } else { &mut h.down },
                copy: &mut h.copy,
                whose,
                now_ns: since(epoch, now),
                now_real_ns: now_ns,
            });
        }
        let mut sink = Out { sockets: &e.sockets, io: &mut self.io, upwards };
        let (peer, participant) = (s.peer, &mut e.participant);
        let mut w = World {
            now,
            now_ns,
            clock: realtime_ns,
            room: &mut room.room,
            meter,
            lateness: &mut self.lateness,
            sink: &mut sink,
            buf: &mut self.buf[..],
            events: &mut self.events,
        };
        let (relay, mut stirred) = (s.relay.as_deref(), false);
        // Out of its frame, where it came by a TURN server.
        let mut deliver = |from: SocketAddr, recv_ns: u64, data: &mut [u8]| {
            let Some(relay) = relay else { return participant.on_datagram(&mut w, slot, from, recv_ns, data) };
            match relay.unwrap(now, data) {
                Unwrapped::Channel(peer, range) => {
                    participant.on_datagram(&mut w, slot, peer, recv_ns, &mut data[range])
                }
                Unwrapped::Data(peer, mut data) => participant.on_datagram(&mut w, slot, peer, recv_ns, &mut data),
                Unwrapped::Control => stirred = true,
                Unwrapped::Nothing => {}
            }
        };
        match &s.socket {
            Wire::Udp(socket) => {
                let mut take = |mut batch: Batch<'_>| {
                    batch.each(peer, |from, recv_ns, data| match &mut downwards {
                        None => deliver(from, recv_ns, data),
                        Some(down) => down.offer(from, recv_ns, data, |recv_ns, data| deliver(from, recv_ns, data)),
                    });
                };
                take(self.receiver.batch(place));
                drained += self.receiver.read_on(place, socket, drained, take);
            }
            Wire::Stream(stream) => {
                let server = relay.map_or(([0; 4], 0).into(), |r| r.server.address);
                let mut gone = stream.borrow_mut().read().is_err();
                loop {
                    // Copied: what is received is answered on the same connection.
                    match stream.borrow_mut().deframer.next_message() {
                        Ok(Some(m)) => {
                            self.message.clear();
                            self.message.extend_from_slice(m);
                        }
                        Ok(None) => break,
                        Err(_) => {
                            gone = true;
                            break;
                        }
                    }
                    drained.datagrams += 1;
                    deliver(server, 0, &mut self.message);
                }
                if gone {
                    relay.inspect(|r| r.disconnected());
                    stirred = true;
                }
            }
        }
        if drained.unfinished && !s.eager {
            self.unfinished.push(key(ix, slot));
        }
        self.io.packets_in += u64::from(drained.datagrams);
        self.io.dropped += u64::from(drained.dropped);
        self.io.refused += u64::from(drained.refused);
        if let (Some(r), 1..) = (e.relay_at(slot), drained.refused)
            && !r.is_ready()
        {
            // Nobody listens where the allocation was to be.
            r.disconnected();
            stirred = true;
        }
        if drained.refused > 0 && e.connected && !e.participant.is_quiet() {
            self.tell_refused(ix, slot);
        }
        if !self.events.is_empty() {
            self.on_events(ix);
        }
        if stirred {
            self.tend_relay(ix, slot, now);
        }
        self.reschedule(ix);
    }
}
