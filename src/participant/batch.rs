//! What one read of a socket brought, taken together: while one packet's memory is on its way, the others' is, too.

use super::slot::{Role, Slot};
use super::{Participant, World};
use crate::media::rtp;
use crate::prefetch::prefetch;
use std::net::SocketAddr;

/// More than any Ethernet path carries to us; longer datagrams are cut and fail their tag.
/// A line more than a power of two, or the buffers would fight for the same places in the caches.
pub const DATAGRAM_MAX: usize = 2048 + 64;
/// Streams of one batch whose memory is asked for.
const LOOKED_AT: usize = 16;

/// One received datagram, beside its bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Received {
    /// `None` from a connected socket.
    pub from: Option<SocketAddr>,
    /// Kernel receive time, CLOCK_REALTIME in ns; 0 if the kernel gave none.
    pub recv_ns: u64,
    /// Bytes, at most [`DATAGRAM_MAX`].
    pub len: u16,
}

/// Datagrams of one read of one socket, in order of arrival.
pub struct Batch<'a> {
    pub received: &'a [Received],
    /// The bytes of each.
    pub buffers: &'a mut [[u8; DATAGRAM_MAX]],
}

impl Batch<'_> {
    /// Each datagram, with the address it came from: its own, or the peer's that the socket is connected to.
    pub fn each(&mut self, peer: Option<SocketAddr>, mut f: impl FnMut(SocketAddr, u64, &mut [u8])) {
        for (r, buffer) in self.received.iter().zip(self.buffers.iter_mut()) {
            if let Some(from) = r.from.or(peer) {
                f(from, r.recv_ns, &mut buffer[..usize::from(r.len).min(DATAGRAM_MAX)]);
            }
        }
    }
}

impl Participant {
    /// Everything that one read of a slot's socket brought. `peer` is whom the socket is connected to.
    pub fn on_batch(&mut self, w: &mut World<'_>, slot: u8, peer: Option<SocketAddr>, mut batch: Batch<'_>) {
        batch.each(peer, |from, recv_ns, data| self.on_datagram(w, slot, from, recv_ns, data));
    }

    /// Last step before [`Participant::on_batch`]: asks for the streams and sources of the packets in it.
    pub fn prefetch_streams(&self, slot: u8, batch: &Batch<'_>) {
        let Some(Some(s)) = self.slots.get(usize::from(slot)) else { return };
        for source in s.look_ahead(batch).into_iter().flatten() {
            if let Some(e) = self.sources.get(usize::from(source)) {
                prefetch(e, usize::MAX);
            }
        }
    }

    /// First step before [`Participant::on_batch`], and before media is sent: asks for what leads on.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.slots, 1);
        prefetch(&self.tracks, 1);
        prefetch(&self.sources, 1);
        prefetch(&self.media_at, 1);
        prefetch(&self.care_at, 1);
        prefetch(&self.report_at, 1);
        prefetch(&self.connected_ns, 1);
    }

    /// Second step: asks for the slot.
    #[inline]
    pub fn prefetch_slot(&self, slot: u8) {
        let Some(Some(s)) = self.slots.get(usize::from(slot)) else { return };
        prefetch(&s.srtp, 1);
        prefetch(&s.incoming, 1);
        prefetch(&s.wake_at, 1);
        prefetch(&s.nack_at, 1);
        prefetch(&s.twcc, 1);
        prefetch(&s.twcc_ext, 1);
    }

    /// Third step: asks for the slot's keys and tables.
    #[inline]
    pub fn prefetch_keys(&self, slot: u8) {
        if let Some(Some(s)) = self.slots.get(usize::from(slot))
            && let Some(srtp) = s.srtp.as_deref()
        {
            prefetch(&srtp.rtp_in, usize::MAX);
            s.by_ssrc.prefetch();
            prefetch(&s.incoming[..], 8);
        }
    }
}

impl Slot {
    /// Asks for the streams of the packets in a batch, pointer by pointer for all of them at once. Returns where their
    /// sources were last time.
    fn look_ahead(&self, batch: &Batch<'_>) -> [Option<u16>; LOOKED_AT] {
        let mut streams = [None; LOOKED_AT];
        let known = batch.buffers.iter().zip(batch.received).take(LOOKED_AT);
        for (stream, (data, _)) in streams.iter_mut().zip(known) {
            // Behind a TURN server, each is in ChannelData.
            let data = if data[0] & 0xc0 == 0x40 { &data[4..] } else { &data[..] };
            let ssrc = u32::from_be_bytes([data[8], data[9], data[10], data[11]]);
            if data[0] >> 6 == 2
                && !rtp::is_rtcp(data)
                && let Some(n) = self.by_ssrc.get(ssrc)
                && let Some(i) = self.incoming.get(usize::from(n))
            {
                if let Role::Media(m) = &i.role {
                    m.prefetch();
                }
                *stream = Some(i);
            }
        }
        streams.map(|i| match &i?.role {
            Role::Media(m) => {
                m.stream.prefetch_video();
                Some(m.source_hint as u16)
            }
            Role::Rtx(_) => None,
        })
    }
}
