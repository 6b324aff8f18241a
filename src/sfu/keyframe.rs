//! Which packet starts a key frame, and how often a sender may be asked for one.

use std::time::{Duration, Instant};
use str0m::format::Codec;
use str0m::rtp::Vp8Descriptor;

/// Requests to one sender are at least this far apart: with many receivers, one key frame serves all who asked. Browsers
/// drop a request that comes within 300 ms of the one before; a held one must not be among them.
const GAP: Duration = Duration::from_millis(400);
/// A request may get lost. While somebody waits and no key frame comes, it is repeated this often.
const REPEAT: Duration = Duration::from_millis(600);

/// Whether decoding can start with this RTP payload.
pub fn starts_key_frame(codec: Codec, payload: &[u8], vp8: Option<&Vp8Descriptor>) -> bool {
    match codec {
        Codec::Vp8 => vp8.is_some_and(|d| d.starts_keyframe(payload)),
        Codec::H264 => starts_h264_key_frame(payload),
        _ => false,
    }
}

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// RFC 6184: a parameter set, an IDR slice or the first fragment of one, alone or inside a STAP-A.
fn starts_h264_key_frame(payload: &[u8]) -> bool {
    let Some(&first) = payload.first() else { return false };
    match first & 0x1f {
        IDR | SPS => true,
        FU_A => payload.get(1).is_some_and(|fu| fu & 0x80 != 0 && fu & 0x1f == IDR),
        STAP_A => {
            let mut rest = &payload[1..];
            while let [high, low, unit @ ..] = rest {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                match unit.first() {
                    Some(nal) if len > 0 && matches!(nal & 0x1f, IDR | SPS) => return true,
                    _ => {}
                }
                let Some(next) = unit.get(len..) else { return false };
                rest = next;
            }
            false
        }
        _ => false,
    }
}

/// Limits key frame requests to one sender.
#[derive(Debug, Default)]
pub struct Gate {
    asked: Option<Instant>,
    /// Somebody asked while the gate was shut.
    held: bool,
}

impl Gate {
    /// A receiver wants a key frame. True: ask the sender now; false: [`Gate::due`] says when.
    pub fn ask(&mut self, now: Instant) -> bool {
        if self.asked.is_some_and(|asked| now < asked + GAP) {
            self.held = true;
            return false;
        }
        self.asked = Some(now);
        self.held = false;
        true
    }

    /// A receiver is still waiting while other frames pass. True: ask (again).
    pub fn still_waiting(&mut self, now: Instant) -> bool {
        if self.asked.is_some_and(|asked| now < asked + REPEAT) {
            return false;
        }
        self.ask(now)
    }

    /// A key frame passed: whoever had asked is served.
    pub fn key_frame(&mut self) {
        self.held = false;
    }

    /// When a held request may go out.
    pub fn due(&self) -> Option<Instant> {
        self.asked.filter(|_| self.held).map(|asked| asked + GAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn finds_h264_key_frames() {
        let sps_pps_idr = [24, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 1, 0x65];
        assert!(starts_h264_key_frame(&sps_pps_idr));
        assert!(starts_h264_key_frame(&[24, 0, 1, 0x06, 0, 1, 0x65]), "SEI, then IDR");
        assert!(!starts_h264_key_frame(&[24, 0, 1, 0x06, 0, 1, 0x41]), "SEI, then a P slice");
        assert!(starts_h264_key_frame(&[0x67, 1]));
        assert!(starts_h264_key_frame(&[0x65, 1]));
        assert!(starts_h264_key_frame(&[0x7c, 0x85]));
        assert!(!starts_h264_key_frame(&[0x7c, 0x05]), "a later fragment");
        assert!(!starts_h264_key_frame(&[0x41, 1]));
        assert!(!starts_h264_key_frame(&[]));
    }

    #[test]
    fn garbage_neither_panics_nor_hangs() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for _ in 0..20_000 {
            let len = rng.random_range(0..40);
            let mut payload: Vec<u8> = (0..len).map(|_| rng.random()).collect();
            if let Some(first) = payload.first_mut()
                && rng.random_bool(0.5)
            {
                *first = STAP_A;
            }
            starts_h264_key_frame(&payload);
            let vp8 = Vp8Descriptor::parse(&payload).ok();
            starts_key_frame(Codec::Vp8, &payload, vp8.as_ref());
        }
    }

    #[test]
    fn many_requests_are_one() {
        let start = Instant::now();
        let mut gate = Gate::default();
        assert!(gate.ask(start));
        assert_eq!(gate.due(), None);
        for ms in 1..400 {
            assert!(!gate.ask(start + Duration::from_millis(ms)));
        }
        assert_eq!(gate.due(), Some(start + GAP));
        assert!(gate.ask(start + GAP));
        assert_eq!(gate.due(), None);
    }

    #[test]
    fn a_key_frame_serves_all_who_asked() {
        let start = Instant::now();
        let mut gate = Gate::default();
        assert!(gate.ask(start));
        assert!(!gate.ask(start + Duration::from_millis(10)));
        gate.key_frame();
        assert_eq!(gate.due(), None);
    }

    #[test]
    fn a_lost_request_is_repeated() {
        let start = Instant::now();
        let mut gate = Gate::default();
        assert!(gate.still_waiting(start));
        assert!(!gate.still_waiting(start + Duration::from_millis(599)));
        assert!(gate.still_waiting(start + REPEAT));
    }
}
