//! Who has talked last in a room, by the audio levels in packets (RFC 6464): what last-N goes by.

use super::client::{Carried, ClientKey};
use std::time::{Duration, Instant};

/// A talkspurt counts from here on: a cough does not bring anybody on screen.
const SPURT_MIN: Duration = Duration::from_millis(200);
/// What comes after a longer pause between packets is another talkspurt.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Louder than this is speech, where a sender does not say what is (the V bit), dBov.
const SPEECH_LEVEL: i8 = -50;

/// One participant's talkspurt.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Speech {
    /// Since when it talks, and its last packet that was speech.
    spurt: Option<(Instant, Instant)>,
    counted: bool,
}

impl Speech {
    /// One packet of audio. True when it makes a talkspurt long enough to count.
    pub fn hear(&mut self, now: Instant, carried: Carried) -> bool {
        let speech = carried.voice_activity.unwrap_or(carried.audio_level.is_some_and(|level| level >= SPEECH_LEVEL));
        // -127 dBov is digital silence: of a muted microphone, whatever the V bit says.
        if !speech || carried.audio_level.is_none_or(|level| level <= -127) {
            *self = Speech::default();
            return false;
        }
        let began = self.spurt.filter(|(_, last)| now < *last + PAUSE_MAX).map(|(began, _)| began);
        self.counted &= began.is_some();
        let began = began.unwrap_or(now);
        self.spurt = Some((began, now));
        let counts = now >= began + SPURT_MIN;
        counts && !std::mem::replace(&mut self.counted, counts)
    }
}

/// Those of a room who send video, the last one to talk first; who has not talked comes in the order of joining.
#[derive(Default, Debug)]
pub(super) struct Speakers(Vec<ClientKey>);

impl Speakers {
    pub fn join(&mut self, key: ClientKey) {
        self.0.push(key);
    }

    pub fn leave(&mut self, key: ClientKey) {
        self.0.retain(|k| *k != key);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn spoke(&mut self, key: ClientKey) {
        if let Some(at) = self.0.iter().position(|k| *k == key) {
            self.0[..=at].rotate_right(1);
        }
    }

    /// The first `n`, without the one who watches.
    pub fn chosen(&self, watcher: ClientKey, n: usize) -> Vec<ClientKey> {
        self.0.iter().copied().filter(|k| *k != watcher).take(n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(level: i8, voice: Option<bool>) -> Carried {
        Carried { audio_level: Some(level), voice_activity: voice, orientation: None }
    }

    /// When a talkspurt counted, in packets of 20 ms.
    fn counted(packets: impl Iterator<Item = (u64, Carried)>) -> Vec<u64> {
        let (start, mut speech) = (Instant::now(), Speech::default());
        packets.filter(|(n, c)| speech.hear(start + Duration::from_millis(20 * n), *c)).map(|(n, _)| n).collect()
    }

    #[test]
    fn a_talkspurt_counts_once_and_a_cough_never() {
        let talk = packet(-25, Some(true));
        let quiet = packet(-65, Some(false));
        assert_eq!(counted((0..100).map(|n| (n, talk))), [10]);
        assert_eq!(counted((0..100).map(|n| (n, if n % 20 < 9 { talk } else { quiet }))), [0; 0]);
        assert_eq!(counted((0..100).map(|n| (n, if n % 50 < 30 { talk } else { quiet }))), [10, 60]);
        // With DTX nothing at all comes between two talkspurts.
        assert_eq!(counted((0..100).filter(|n| n % 50 < 30).map(|n| (n, talk))), [10, 60]);
        assert_eq!(counted((0..100).filter(|n| n % 3 == 0).map(|n| (n, talk))), [12], "lost packets are no pause");
    }

    #[test]
    fn levels_stand_in_for_the_voice_bit() {
        assert_eq!(counted((0..20).map(|n| (n, packet(-40, None)))), [10]);
        assert_eq!(counted((0..20).map(|n| (n, packet(-60, None)))), [0; 0]);
        assert_eq!(counted((0..20).map(|n| (n, packet(-127, Some(true))))), [0; 0], "muted");
        assert_eq!(counted((0..20).map(|n| (n, Carried::default()))), [0; 0], "no level at all");
    }

    #[test]
    fn the_last_to_talk_are_chosen() {
        let mut s = Speakers::default();
        (0..5).for_each(|k| s.join(k));
        assert_eq!(s.chosen(9, 2), [0, 1]);
        assert_eq!(s.chosen(0, 2), [1, 2], "nobody watches themselves");
        s.spoke(3);
        s.spoke(4);
        assert_eq!((s.chosen(9, 2), s.chosen(4, 2)), (vec![4, 3], vec![3, 0]));
        s.spoke(3);
        s.leave(4);
        assert_eq!(s.chosen(9, 3), [3, 0, 1]);
        s.spoke(77);
        assert_eq!(s.chosen(9, 9), [3, 0, 1, 2]);
    }
}
