//! The clips we carry, inside the binary. `tools/make-clips.sh` makes their files.

use super::{Builder, Clip, ClipError, ClipProblem, annexb, h264, ivf, ogg, opus, vp8};
use crate::types::{Bitrate, Codec, Encoding};
use std::fmt;
use std::sync::Arc;

/// All clips, packetized. Built once at start-up and shared.
#[derive(Clone, Debug)]
pub struct ClipLibrary {
    clips: Vec<Arc<Clip>>,
}

/// What a clip costs on the wire.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ClipInfo {
    pub encoding: Encoding,
    pub seconds: f64,
    pub frames: usize,
    pub key_frames: usize,
    pub packets_per_second: f64,
    /// Bits per second as encoded.
    pub media_bitrate: f64,
    /// Bits per second of RTP payload: media, stamps, payload descriptors.
    pub payload_bitrate: f64,
}

impl ClipLibrary {
    /// Parses and packetizes every clip.
    pub fn load() -> Result<ClipLibrary, ClipError> {
        let clips = SOURCES.iter().map(|source| source.load().map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(ClipLibrary { clips })
    }

    /// `None` where no clip has exactly this encoding; [`ClipLibrary::encodings`] are those there are.
    pub fn clip(&self, encoding: Encoding) -> Option<Arc<Clip>> {
        self.clips.iter().find(|clip| clip.encoding() == encoding).cloned()
    }

    pub fn encodings(&self) -> impl Iterator<Item = Encoding> + '_ {
        self.clips.iter().map(|clip| clip.encoding())
    }

    pub fn packets_per_second(&self, encoding: Encoding) -> Option<f64> {
        self.clip(encoding).map(|clip| clip.packets_per_second())
    }

    /// One line of facts for each clip.
    pub fn describe(&self) -> Vec<ClipInfo> {
        let info = |clip: &Arc<Clip>| ClipInfo {
            encoding: clip.encoding(),
            seconds: clip.duration().as_secs_f64(),
            frames: clip.frames().len(),
            key_frames: clip.frames().iter().filter(|f| f.key).count(),
            packets_per_second: clip.packets_per_second(),
            media_bitrate: clip.media_bitrate(),
            payload_bitrate: clip.payload_bitrate(),
        };
        self.clips.iter().map(info).collect()
    }
}

impl fmt::Display for ClipInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.1} s, {} frames ({} key), {:.1} packets/s, {:.1} kbit/s encoded, {:.1} kbit/s of RTP payload",
            self.encoding,
            self.seconds,
            self.frames,
            self.key_frames,
            self.packets_per_second,
            self.media_bitrate / 1000.0,
            self.payload_bitrate / 1000.0,
        )
    }
}

struct Source {
    codec: Codec,
    bits_per_second: u64,
    name: &'static str,
    file: &'static [u8],
}

macro_rules! source {
    ($codec:ident, $bits_per_second:literal, $name:literal) => {
        Source {
            codec: Codec::$codec,
            bits_per_second: $bits_per_second,
            name: $name,
            file: include_bytes!(concat!("../clips/", $name)),
        }
    };
}

static SOURCES: [Source; 7] = [
    source!(Opus, 32_000, "opus-32k.ogg"),
    source!(Vp8, 150_000, "vp8-150k.ivf"),
    source!(Vp8, 500_000, "vp8-500k.ivf"),
    source!(Vp8, 1_500_000, "vp8-1500k.ivf"),
    source!(H264, 150_000, "h264-150k.h264"),
    source!(H264, 500_000, "h264-500k.h264"),
    source!(H264, 1_500_000, "h264-1500k.h264"),
];

/// -dBov of each frame of the Opus clip, one a line.
static OPUS_LEVELS: &str = include_str!("../clips/opus-32k.levels");

/// Byte streams have no times; ours are made at 30 frames a second.
const H264_FRAME_TICKS: u32 = 3000;

impl Source {
    fn load(&self) -> Result<Clip, ClipError> {
        let encoding = Encoding { codec: self.codec, bitrate: Bitrate(self.bits_per_second) };
        let clip = match self.codec {
            Codec::Opus => load_opus(encoding, self.file, OPUS_LEVELS),
            Codec::Vp8 => load_vp8(encoding, self.file),
            Codec::H264 => load_h264(encoding, self.file),
        };
        clip.map_err(|problem| ClipError { name: self.name.to_owned(), problem })
    }
}

fn load_opus(encoding: Encoding, file: &[u8], levels: &str) -> Result<Clip, ClipProblem> {
    let packets = ogg::parse(file)?;
    let levels: Vec<u8> = levels.lines().filter_map(|line| line.trim().parse().ok()).filter(|&v| v <= 127).collect();
    if levels.len() != packets.len() {
        return Err(ClipProblem::Levels { levels: levels.len(), frames: packets.len() });
    }
    let mut builder = Builder::new(encoding, opus::TICKS_20_MS);
    for (n, (packet, level)) in packets.iter().zip(levels).enumerate() {
        opus::add(&mut builder, n, packet, level)?;
    }
    let mut clip = builder.finish()?;
    opus::add_silence(&mut clip);
    Ok(clip)
}

fn load_vp8(encoding: Encoding, file: &[u8]) -> Result<Clip, ClipProblem> {
    let (frame_ticks, frames) = ivf::parse(file)?;
    let mut builder = Builder::new(encoding, frame_ticks);
    for (n, frame) in frames.iter().enumerate() {
        vp8::add(&mut builder, n, frame)?;
    }
    builder.finish()
}

fn load_h264(encoding: Encoding, file: &[u8]) -> Result<Clip, ClipProblem> {
    let mut builder = Builder::new(encoding, H264_FRAME_TICKS);
    for unit in annexb::parse(file)? {
        h264::add(&mut builder, &unit)?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clip::PAYLOAD_MAX;

    fn library() -> ClipLibrary {
        ClipLibrary::load().unwrap()
    }

    #[test]
    fn every_clip_is_close_to_its_nominal_rate() {
        for info in library().describe() {
            println!("{info}");
            let nominal = info.encoding.bitrate.0 as f64;
            let off = (info.media_bitrate - nominal).abs() / nominal;
            assert!(off <= 0.01, "{info}");
            assert!(info.payload_bitrate > info.media_bitrate, "{info}");
            let packets_min = info.payload_bitrate / 8.0 / PAYLOAD_MAX as f64;
            let frames_per_second = info.frames as f64 / info.seconds;
            assert!(info.packets_per_second >= packets_min.max(frames_per_second), "{info}");
            // H.264 slices are of 1000 bytes at most, and not all are full.
            let packets_max = packets_min * PAYLOAD_MAX as f64 / 950.0 + frames_per_second;
            assert!(info.packets_per_second <= packets_max, "{info}");
        }
    }

    #[test]
    fn video_clips_loop_and_keep_key_frames_small() {
        let library = library();
        for encoding in library.encodings().filter(|e| e.codec != Codec::Opus) {
            let clip = library.clip(encoding).unwrap();
            let keys: Vec<usize> = (0..clip.frames().len()).filter(|&n| clip.frames()[n].key).collect();
            assert_eq!(keys, [0, 60], "{encoding}");
            assert_eq!(clip.duration(), std::time::Duration::from_secs(4), "{encoding}");
            let bytes = |n: usize| clip.frames()[n].packets().map(|p| clip.payload_len(p)).sum::<usize>();
            let average = (0..clip.frames().len()).map(bytes).sum::<usize>() / clip.frames().len();
            for key in keys {
                assert!(bytes(key) <= 6 * average, "{encoding} key frame {key}: {} of {average}", bytes(key));
            }
            assert_eq!((clip.key_frame_from(0), clip.key_frame_from(1), clip.key_frame_from(61)), (0, 60, 0));
            assert_eq!((clip.following(0), clip.following(119)), (1, 0));
        }
    }

    #[test]
    fn every_frame_has_exactly_one_place_for_a_stamp() {
        let library = library();
        for encoding in library.encodings() {
            let clip = library.clip(encoding).unwrap();
            for frame in clip.frames() {
                let packets = &clip.packets[frame.first as usize..][..usize::from(frame.packets)];
                let stamped: Vec<usize> = (0..packets.len()).filter(|&i| packets[i].stamp_at.is_some()).collect();
                let expected = if encoding.codec == Codec::Vp8 { packets.len() - 1 } else { 0 };
                assert_eq!(stamped, [expected], "{encoding}");
            }
        }
    }

    #[test]
    fn audio_levels_change_with_the_speech() {
        let library = library();
        let clip = library.clip(library.encodings().next().unwrap()).unwrap();
        assert_eq!(clip.frames().len(), 500);
        let levels: Vec<u8> = clip.frames().iter().map(|f| f.audio_level).collect();
        let (loudest, faintest) = (levels.iter().min().unwrap(), levels.iter().max().unwrap());
        assert!(*loudest < 20 && *faintest > 50 && *faintest < 127, "{loudest} {faintest}");
    }

    #[test]
    fn the_files_stay_small() {
        let bytes: usize = SOURCES.iter().map(|s| s.file.len()).sum::<usize>() + OPUS_LEVELS.len();
        assert!(bytes < 2_500_000, "{bytes}");
    }

    #[test]
    fn damaged_files_give_errors_or_other_clips_but_never_a_panic() {
        for source in &SOURCES[..2] {
            damage(source);
        }
        damage(&SOURCES[4]);
    }

    fn damage(source: &Source) {
        let mut state = 7u32;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        for _ in 0..60 {
            let mut file = source.file[..random(source.file.len())].to_vec();
            for _ in 0..random(8) {
                if !file.is_empty() {
                    let at = random(file.len());
                    file[at] = random(256) as u8;
                }
            }
            let encoding = Encoding { codec: source.codec, bitrate: Bitrate(source.bits_per_second) };
            let clip = match source.codec {
                Codec::Opus => load_opus(encoding, &file, OPUS_LEVELS),
                Codec::Vp8 => load_vp8(encoding, &file),
                Codec::H264 => load_h264(encoding, &file),
            };
            if let Ok(clip) = clip {
                assert!((0..clip.packets() as u32).all(|p| clip.payload_len(p) <= PAYLOAD_MAX));
            }
        }
    }
}
