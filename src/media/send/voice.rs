//! What a microphone sends in each slot of 20 ms: speech, background, comfort noise, or nothing. From who talks, who is
//! muted, and whether the encoder goes quiet in silence (DTX).
//!
//! DTX as libopus 1.3 and libwebrtc do it: silence is coded for 200 ms yet (NB_SPEECH_FRAMES_BEFORE_DTX), then nothing
//! for 20 frames (MAX_CONSECUTIVE_DTX), then one frame of noise, and so on. Of each quiet time libwebrtc sends the first
//! frame, which has no bytes (`opus_interface.cc`, "transmit the first occurrence").

use crate::media::clip::Clip;
use crate::media::talk::{Floor, Mutes};

/// Fainter than this (-dBov) is background, and no voice activity.
pub const BACKGROUND_DBOV: u8 = 55;
/// Digital silence (RFC 6464 3).
const MUTED_DBOV: u8 = 127;
/// RFC 6464 3: the V bit.
const VOICE: u8 = 0x80;

const HANGOVER_FRAMES: u64 = 10;
const DTX_FRAMES: u64 = 20;

/// What happens in silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Silence {
    Coded,
    /// DTX.
    Suppressed,
}

/// What a muted microphone sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhileMuted {
    Silence,
    Nothing,
}

/// One participant's part in its room.
#[derive(Clone, Debug)]
pub struct Voice {
    /// The room's conversation and our seat in it; without one, everybody plays the clip all the time.
    pub floor: Option<(Floor, u32)>,
    pub mutes: Option<Mutes>,
    pub while_muted: WhileMuted,
    pub silence: Silence,
    /// Room time of slot 0, ns.
    pub base_ns: u64,
    pub frame_ns: u64,
    /// Next frame of the clip in speech, and in background.
    pub speech_at: usize,
    background_at: usize,
    /// Slots of silence up to and with `last`.
    silent: u64,
    last: Option<u64>,
}

/// What a slot carries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Play {
    /// Index of the packet in the clip.
    pub packet: u32,
    /// V bit and level.
    pub audio_level: u8,
}

enum Slot {
    Play(Play),
    /// Nothing in this slot, and none before that one.
    Not {
        next: u64,
    },
}

impl Voice {
    pub fn new(silence: Silence, while_muted: WhileMuted) -> Voice {
        Voice {
            floor: None,
            mutes: None,
            while_muted,
            silence,
            base_ns: 0,
            frame_ns: 20_000_000,
            speech_at: 0,
            background_at: 0,
            silent: 0,
            last: None,
        }
    }

    /// The first slot from `slot` on in which something is sent, and what. Slots must rise.
    pub fn next(&mut self, clip: &Clip, slot: u64) -> (u64, Play) {
        let mut slot = slot;
        loop {
            match self.at(clip, slot) {
                Slot::Play(play) => return (slot, play),
                Slot::Not { next } => slot = next,
            }
        }
    }

    fn at(&mut self, clip: &Clip, slot: u64) -> Slot {
        let at_ns = self.base_ns + slot * self.frame_ns;
        let passed = self.last.map_or(1, |last| slot.saturating_sub(last));
        self.last = Some(slot);
        let muted = self.mutes.as_mut().map(|m| m.at(at_ns)).filter(|(muted, _)| *muted);
        let talks = self.floor.as_mut().map(|(floor, seat)| floor.talks(at_ns, *seat));
        let (coded, level, active) = match (muted, talks) {
            (Some((_, until_ns)), _) if self.while_muted == WhileMuted::Nothing => {
                let next = (until_ns - self.base_ns).div_ceil(self.frame_ns);
                return Slot::Not { next: next.max(slot + 1) };
            }
            (Some(_), _) => (clip.empty_packet(), MUTED_DBOV, false),
            (None, Some(true)) => {
                let frame = (0..clip.frames().len())
                    .scan(self.speech_at, |at, _| Some(std::mem::replace(at, clip.following(*at))))
                    .find(|at| clip.frames()[*at].audio_level < BACKGROUND_DBOV)
                    .unwrap_or(self.speech_at);
                self.speech_at = clip.following(frame);
                (clip.frames()[frame].packets().start, clip.frames()[frame].audio_level, true)
            }
            (None, Some(false)) => {
                let quiet = clip.background();
                let frame = quiet.start + self.background_at % quiet.len().max(1);
                self.background_at += 1;
                (clip.frames()[frame].packets().start, clip.frames()[frame].audio_level, false)
            }
            (None, None) => {
                let frame = clip.frames()[self.speech_at];
                self.speech_at = clip.following(self.speech_at);
                (frame.packets().start, frame.audio_level, frame.audio_level < BACKGROUND_DBOV)
            }
        };
        self.silent = if active { 0 } else { self.silent + passed };
        let quiet = self.silent.saturating_sub(1 + HANGOVER_FRAMES);
        let in_dtx = self.silence == Silence::Suppressed && self.silent > HANGOVER_FRAMES;
        let packet = match quiet % (DTX_FRAMES + 1) {
            0 if in_dtx => clip.empty_packet(),
            DTX_FRAMES => coded,
            _ if in_dtx => return Slot::Not { next: slot + 1 },
            _ => coded,
        };
        Slot::Play(Play { packet, audio_level: level | if active { VOICE } else { 0 } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clip::ClipLibrary;
    use crate::types::Codec;
    use std::sync::Arc;

    fn opus() -> Arc<Clip> {
        let library = ClipLibrary::load().unwrap();
        let encoding = library.encodings().find(|e| e.codec == Codec::Opus).unwrap();
        library.clip(encoding).unwrap()
    }

    /// Slots and whether each has its V bit.
    fn slots(voice: &mut Voice, clip: &Clip, until: u64) -> Vec<(u64, Play)> {
        let mut out = Vec::new();
        let mut slot = 0;
        loop {
            let (at, play) = voice.next(clip, slot);
            if at >= until {
                return out;
            }
            out.push((at, play));
            slot = at + 1;
        }
    }

    #[test]
    fn levels_and_the_v_bit_follow_the_conversation() {
        let clip = opus();
        let mut voice = Voice::new(Silence::Coded, WhileMuted::Silence);
        voice.floor = Some((Floor::new(3, 2), 1));
        let mut truth = Floor::new(3, 2);
        let played = slots(&mut voice, &clip, 10_000);
        assert_eq!(played.len(), 10_000, "without DTX every slot is sent");
        for (slot, play) in played {
            let talks = truth.talks(slot * 20_000_000, 1);
            assert_eq!(play.audio_level & VOICE != 0, talks, "slot {slot}");
            assert_eq!(play.audio_level & 0x7f < BACKGROUND_DBOV, talks, "slot {slot}");
        }
    }

    #[test]
    fn dtx_codes_200_ms_and_then_two_packets_every_420() {
        let clip = opus();
        let mut voice = Voice::new(Silence::Suppressed, WhileMuted::Silence);
        // Muted from the first slot on, for ever.
        voice.mutes = Some(Mutes::new(0, 1, u64::MAX / 4));
        let played: Vec<u64> = slots(&mut voice, &clip, 80).into_iter().map(|(slot, _)| slot).collect();
        let expected: Vec<u64> = (0..10).chain([10, 30, 31, 51, 52, 72, 73]).collect();
        assert_eq!(played, expected);
    }

    #[test]
    fn dtx_sends_all_of_speech() {
        let clip = opus();
        let mut voice = Voice::new(Silence::Suppressed, WhileMuted::Silence);
        voice.floor = Some((Floor::new(4, 3), 0));
        let mut truth = Floor::new(4, 3);
        let played = slots(&mut voice, &clip, 50_000);
        let sent: std::collections::HashSet<u64> = played.iter().map(|(slot, _)| *slot).collect();
        let speech =
            (0..50_000).filter(|s| truth.talks(s * 20_000_000, 0)).inspect(|s| assert!(sent.contains(s))).count();
        let quiet = sent.len() - speech;
        assert!(speech > 10_000 && quiet < 20_000, "{speech} {quiet}");
    }

    #[test]
    fn a_muted_client_that_sends_nothing_skips_the_whole_time() {
        let clip = opus();
        let mut voice = Voice::new(Silence::Coded, WhileMuted::Nothing);
        voice.mutes = Some(Mutes::new(5, 2_000_000_000, 3_000_000_000));
        let mut truth = Mutes::new(5, 2_000_000_000, 3_000_000_000);
        let sent: std::collections::HashSet<u64> =
            slots(&mut voice, &clip, 20_000).into_iter().map(|(s, _)| s).collect();
        assert!(sent.len() > 4000 && sent.len() < 12_000, "{}", sent.len());
        assert!((0..20_000).all(|s| sent.contains(&s) != truth.at(s * 20_000_000).0));
    }
}
