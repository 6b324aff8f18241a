//! Clips of one picture at several bit rates, for a sender that steps between them.

use crate::media::clip::Clip;
use std::sync::Arc;

/// Clips of one codec and frame rate, the lowest first, and which of them is sent.
#[derive(Debug)]
pub struct Ladder {
    clips: Box<[Arc<Clip>]>,
    /// What is sent, and what is to be from the next frame on.
    pub at: usize,
    pub wanted: usize,
    steps_down: u64,
    steps_up: u64,
    frames: u64,
    /// Of these, not of the highest clip.
    frames_below: u64,
}

/// What became of a sender that may step.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stepped {
    pub down: u64,
    pub up: u64,
    /// Frames sent, and of these, of a clip below the highest.
    pub frames: u64,
    pub frames_below: u64,
}

impl Ladder {
    /// `None` where no lower clip goes with the highest: other codec or frame rate, or not fewer bits.
    pub fn new(lower: impl IntoIterator<Item = Arc<Clip>>, highest: &Arc<Clip>) -> Option<Ladder> {
        let fits = |c: &Arc<Clip>| {
            c.codec() == highest.codec()
                && c.frame_ticks() == highest.frame_ticks()
                && c.payload_bitrate() < highest.payload_bitrate()
        };
        let mut clips: Vec<Arc<Clip>> = lower.into_iter().filter(fits).collect();
        clips.sort_by(|a, b| a.payload_bitrate().total_cmp(&b.payload_bitrate()));
        clips.truncate(super::history::CLIPS_MAX - 1);
        clips.push(highest.clone());
        let top = clips.len() - 1;
        (top > 0).then(|| Ladder {
            clips: clips.into_boxed_slice(),
            at: top,
            wanted: top,
            steps_down: 0,
            steps_up: 0,
            frames: 0,
            frames_below: 0,
        })
    }

    pub fn clips(&self) -> &[Arc<Clip>] {
        &self.clips
    }

    /// A frame begins: the clip to change to, if it is to be another one.
    pub fn begin_frame(&mut self) -> Option<&Arc<Clip>> {
        let changes = self.wanted != self.at;
        if changes {
            let steps = if self.wanted < self.at { &mut self.steps_down } else { &mut self.steps_up };
            *steps += 1;
            self.at = self.wanted;
        }
        self.frames += 1;
        self.frames_below += u64::from(self.at + 1 < self.clips.len());
        changes.then(|| &self.clips[self.at])
    }

    pub fn stepped(&self) -> Stepped {
        Stepped { down: self.steps_down, up: self.steps_up, frames: self.frames, frames_below: self.frames_below }
    }
}
