//! Spreads the packets of video frames as Chromium's pacer does: a leaky bucket that drains at 2.5 times the stream's
//! rate, and up to 5 ms of it may go out in a burst.
//!
//! A key frame of k average frames so takes k/2.5 frame times, and the frames after it queue behind it until the bucket
//! has caught up, as they would in a browser. With the clips' largest key frames that are less than two frame times.
//! It runs on planned times alone, so that a late caller does not shift the plan.

/// Times are ns since the stream's base.
#[derive(Debug)]
pub struct Pacer {
    ns_per_byte: u64,
    empty_at_ns: u64,
}

const RATE_FACTOR: f64 = 2.5;
const BURST_NS: u64 = 5_000_000;

impl Pacer {
    /// For a stream of so many bits of payload a second; `None` paces nothing.
    pub fn new(bits_per_second: Option<f64>) -> Pacer {
        Pacer { ns_per_byte: bits_per_second.map_or(0, ns_per_byte), empty_at_ns: 0 }
    }

    /// From now on the stream has so many bits of payload a second. What has not drained yet drains as before.
    pub fn set_rate(&mut self, bits_per_second: f64) {
        self.ns_per_byte = ns_per_byte(bits_per_second);
    }

    /// When a packet of a frame due at `due_ns` may go out.
    pub fn release(&self, due_ns: u64) -> u64 {
        due_ns.max(self.empty_at_ns.saturating_sub(BURST_NS))
    }

    /// It went out, with this many bytes of payload.
    pub fn sent(&mut self, due_ns: u64, bytes: usize) {
        self.empty_at_ns = self.empty_at_ns.max(due_ns) + bytes as u64 * self.ns_per_byte;
    }

    /// Forgets what has not drained yet.
    pub fn reset(&mut self) {
        self.empty_at_ns = 0;
    }
}

fn ns_per_byte(bits_per_second: f64) -> u64 {
    (8e9 / (bits_per_second * RATE_FACTOR)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At 1 Mbit/s the bucket drains 2.5 Mbit/s: 1000 bytes in 3.2 ms.
    #[test]
    fn a_burst_then_the_pace() {
        let mut p = Pacer::new(Some(1e6));
        let mut released = Vec::new();
        for _ in 0..5 {
            released.push(p.release(100_000_000));
            p.sent(100_000_000, 1000);
        }
        assert_eq!(released, [100_000_000, 100_000_000, 101_400_000, 104_600_000, 107_800_000]);
    }

    #[test]
    fn the_next_frame_queues_behind_a_large_one() {
        let mut p = Pacer::new(Some(1e6));
        for _ in 0..20 {
            p.sent(0, 1000);
        }
        assert_eq!(p.release(33_333_333), 20 * 3_200_000 - 5_000_000);
        p.reset();
        assert_eq!(p.release(33_333_333), 33_333_333);
    }

    #[test]
    fn audio_is_not_paced() {
        let mut p = Pacer::new(None);
        for slot in 0..100 {
            assert_eq!(p.release(slot * 20_000_000), slot * 20_000_000);
            p.sent(slot * 20_000_000, 117);
        }
    }
}
