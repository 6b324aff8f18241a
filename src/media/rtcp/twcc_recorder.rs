//! Receive side of transport-wide congestion control: remembers arrivals and writes the feedback.

use super::twcc::{REFERENCE_TICKS, TICK_US};
use super::{RtcpError, Writer};

/// How often feedback is due, as browsers send it: 100 ms.
pub const FEEDBACK_INTERVAL_US: i64 = 100_000;

/// Sequence numbers remembered: 100 ms at 5,000 packets a second.
const RING: i64 = 512;
/// A feedback's bytes before its chunks, and its longest padding.
const FIXED: usize = 20 + 3;
const SYMBOLS_A_CHUNK: usize = 7;

/// Arrivals of one transport. 2.2 KB, no allocation; only transports that negotiated the extension need one.
///
/// A packet that comes after it was reported lost is reported again, with those after it, as libwebrtc does it.
#[derive(Clone, Debug)]
pub struct TwccRecorder {
    /// First sequence number of the next feedback and highest received, both unwrapped; `None` before the first.
    range: Option<(i64, i64)>,
    /// Arrival in ticks of 250 µs modulo 2^32, which is the reference time's own range; by `seq % RING`.
    ticks: [u32; RING as usize],
    received: [u64; RING as usize / 64],
    feedback_count: u8,
    last_us: Option<i64>,
}

impl Default for TwccRecorder {
    fn default() -> TwccRecorder {
        TwccRecorder {
            range: None,
            ticks: [0; RING as usize],
            received: [0; RING as usize / 64],
            feedback_count: 0,
            last_us: None,
        }
    }
}

impl TwccRecorder {
    /// Notes the arrival of a packet at `arrival_us` (any clock that does not step). Of duplicates the first counts;
    /// what is more than 512 behind the highest is left out.
    #[inline]
    pub fn record(&mut self, twcc_seq: u16, arrival_us: i64) {
        let (mut base, mut highest) = self.range.unwrap_or_else(|| {
            let first = i64::from(twcc_seq) + (1 << 16); // so that late ones before it stay positive
            (first, first - 1)
        });
        let seq = highest + i64::from(twcc_seq.wrapping_sub(highest as u16) as i16);
        if seq > highest {
            if seq - highest > RING {
                self.received = [0; RING as usize / 64];
            } else {
                (highest + 1..=seq).for_each(|skipped| self.received[word(skipped)] &= !bit(skipped));
            }
            highest = seq;
            base = base.max(highest - RING + 1);
        } else if seq <= highest - RING || self.has(seq) {
            return;
        } else {
            base = base.min(seq);
        }
        self.received[word(seq)] |= bit(seq);
        self.ticks[slot(seq)] = arrival_us.div_euclid(TICK_US) as u32;
        self.range = Some((base, highest));
    }

    /// Sequence numbers the next feedback has to report on, at most 512; write one early when it nears that.
    pub fn pending(&self) -> usize {
        self.range.map_or(0, |(base, highest)| (highest + 1 - base) as usize)
    }

    /// Whether there is something to report and the last feedback is [`FEEDBACK_INTERVAL_US`] ago.
    pub fn is_due(&self, now_us: i64) -> bool {
        self.pending() > 0 && self.last_us.is_none_or(|last| now_us - last >= FEEDBACK_INTERVAL_US)
    }

    /// Writes one feedback on as much as fits `writer` and one reference time, and returns how many sequence numbers
    /// it reports on: 0 when there is nothing. Ask again while [`pending`](TwccRecorder::pending) is not 0.
    ///
    /// # Errors
    /// [`RtcpError::NoRoom`] when not one arrival fits; nothing is written or forgotten then.
    pub fn write(
        &mut self,
        now_us: i64,
        writer: &mut Writer<'_>,
        sender_ssrc: u32,
        media_ssrc: u32,
    ) -> Result<usize, RtcpError> {
        let Some((base, highest)) = self.range.filter(|(base, highest)| base <= highest) else { return Ok(0) };
        let room = writer.spare().saturating_sub(FIXED);

        let mut deltas = [None; RING as usize];
        let mut reference = None;
        let (mut before, mut delta_bytes, mut count) = (0u32, 0, 0);
        for (seq, at) in (base..=highest).zip(0..) {
            if !self.has(seq) {
                continue;
            }
            let tick = self.ticks[slot(seq)];
            if reference.is_none() {
                reference = Some(tick / REFERENCE_TICKS);
                before = tick / REFERENCE_TICKS * REFERENCE_TICKS;
            }
            let Ok(delta) = i16::try_from(tick.wrapping_sub(before) as i32) else { break };
            delta_bytes += if u8::try_from(delta).is_ok() { 1 } else { 2 };
            if 2 * (at + 1usize).div_ceil(SYMBOLS_A_CHUNK) + delta_bytes > room {
                break;
            }
            deltas[at] = Some(delta);
            before = tick;
            count = at + 1;
        }
        let reference = reference.filter(|_| count > 0).ok_or(RtcpError::NoRoom)?;
        writer.twcc(sender_ssrc, media_ssrc, base as u16, reference, self.feedback_count, &deltas[..count])?;
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.range = Some((base + count as i64, highest));
        self.last_us = Some(now_us);
        Ok(count)
    }

    fn has(&self, seq: i64) -> bool {
        self.received[word(seq)] & bit(seq) != 0
    }
}

fn slot(seq: i64) -> usize {
    seq.rem_euclid(RING) as usize
}

fn word(seq: i64) -> usize {
    slot(seq) / 64
}

fn bit(seq: i64) -> u64 {
    1 << (slot(seq) % 64)
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeMap;

    /// One feedback's content: sequence number and arrival in µs.
    fn feedback(recorder: &mut TwccRecorder, room: usize) -> Vec<(u16, Option<i64>)> {
        let mut buf = vec![0; room];
        let mut writer = Writer::new(&mut buf);
        let count = recorder.write(0, &mut writer, 1, 2).unwrap();
        let reported: Vec<_> = parse(writer.as_bytes())
            .flat_map(|packet| match packet.unwrap() {
                Packet::Twcc(twcc) => twcc.arrivals(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(reported.len(), count);
        reported
    }

    #[test]
    fn reports_arrivals_and_gaps_across_the_wrap_once() {
        let mut recorder = TwccRecorder::default();
        assert_eq!((recorder.pending(), feedback(&mut recorder, 1000)), (0, vec![]));
        for (seq, at) in [(65_534, 1_000_000), (65_535, 1_001_000), (1, 1_070_250), (0, 1_069_000), (4, 1_090_000)] {
            recorder.record(seq, at);
        }
        recorder.record(4, 5_000_000); // a duplicate
        assert_eq!(recorder.pending(), 7);
        let expected = [
            (65_534, Some(1_000_000)),
            (65_535, Some(1_001_000)),
            (0, Some(1_069_000)),
            (1, Some(1_070_250)),
            (2, None),
            (3, None),
            (4, Some(1_090_000)),
        ];
        assert_eq!(feedback(&mut recorder, 1000), expected);
        assert_eq!((recorder.pending(), feedback(&mut recorder, 1000)), (0, vec![]));
    }

    #[test]
    fn a_late_packet_is_reported_again() {
        let mut recorder = TwccRecorder::default();
        recorder.record(10, 0);
        recorder.record(12, 500);
        assert_eq!(feedback(&mut recorder, 1000).len(), 3);
        recorder.record(11, 100_000);
        assert_eq!(feedback(&mut recorder, 1000), [(11, Some(100_000)), (12, Some(500))]);
        recorder.record(9, 200_000);
        assert_eq!(feedback(&mut recorder, 1000)[0], (9, Some(200_000)));
    }

    #[test]
    fn due_every_100_ms_when_there_is_something() {
        let mut recorder = TwccRecorder::default();
        assert!(!recorder.is_due(0));
        recorder.record(1, 0);
        assert!(recorder.is_due(0));
        let mut buf = [0; 100];
        recorder.write(7_000, &mut Writer::new(&mut buf), 1, 2).unwrap();
        recorder.record(2, 50_000);
        assert!(!recorder.is_due(106_999) && recorder.is_due(107_000));
        assert!(!TwccRecorder::default().is_due(i64::MAX));
    }

    #[test]
    fn what_does_not_fit_follows_in_the_next() {
        let mut recorder = TwccRecorder::default();
        (0..300).for_each(|seq| recorder.record(seq, i64::from(seq) * 250));
        assert_eq!(recorder.write(0, &mut Writer::new(&mut [0; 20]), 1, 2), Err(RtcpError::NoRoom));
        assert_eq!(recorder.pending(), 300);
        let mut seqs = Vec::new();
        while recorder.pending() > 0 {
            seqs.extend(feedback(&mut recorder, 120).into_iter().map(|(seq, _)| seq));
        }
        assert_eq!(seqs, (0..300).collect::<Vec<_>>());
    }

    #[test]
    fn a_pause_too_long_for_a_delta_begins_a_new_feedback() {
        let mut recorder = TwccRecorder::default();
        recorder.record(0, 0);
        recorder.record(1, 20_000_000);
        assert_eq!(feedback(&mut recorder, 1000), [(0, Some(0))]);
        assert_eq!(feedback(&mut recorder, 1000), [(1, Some(20_000_000))]);
    }

    #[test]
    fn jumps_beyond_the_ring_forget_and_old_ones_are_ignored() {
        let mut recorder = TwccRecorder::default();
        recorder.record(0, 0);
        recorder.record(5_000, 1_000);
        assert_eq!(recorder.pending(), 512);
        recorder.record(3, 2_000);
        let reported = feedback(&mut recorder, 2000);
        assert_eq!(reported.len(), 512);
        assert_eq!(reported.iter().filter(|(_, at)| at.is_some()).collect::<Vec<_>>(), [&(5_000, Some(1_000))]);
    }

    /// Random loss and reordering against a map: everything that arrived is reported at its time, to 250 µs.
    #[test]
    fn every_arrival_is_reported_at_its_time() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut recorder = TwccRecorder::default();
        let (mut arrived, mut reported) = (BTreeMap::new(), BTreeMap::new());
        let mut in_flight = Vec::new();
        let mut now = 1_000_000_000i64;
        for sent in 60_000u32..80_000 {
            now += rng.random_range(0..3_000);
            if rng.random_ratio(9, 10) {
                in_flight.push(sent as u16);
            }
            if in_flight.len() > 10 {
                let seq = in_flight.swap_remove(rng.random_range(0..10));
                recorder.record(seq, now);
                arrived.insert(seq, now);
            }
            if recorder.is_due(now) {
                let mut buf = [0; 400];
                let mut writer = Writer::new(&mut buf);
                recorder.write(now, &mut writer, 1, 2).unwrap();
                for packet in parse(writer.as_bytes()) {
                    let Ok(Packet::Twcc(twcc)) = packet else { panic!("{packet:?}") };
                    reported.extend(twcc.arrivals().filter_map(|(seq, at)| Some((seq, at?))));
                }
            }
        }
        while recorder.pending() > 0 {
            reported.extend(feedback(&mut recorder, 400).into_iter().filter_map(|(seq, at)| Some((seq, at?))));
        }
        assert_eq!(arrived.len(), reported.len());
        for ((seq, at), (reported_seq, reported_at)) in arrived.iter().zip(&reported) {
            assert_eq!(seq, reported_seq);
            assert!((0..250).contains(&(at - reported_at)), "{at} reported as {reported_at}");
        }
    }
}
