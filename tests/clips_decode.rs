//! Decoders see the same media with and without our stamps: what `MediaSender` sends is depacketized by another
//! library, decoded by ffmpeg, and compared frame by frame with the clip's own file.
//!
//! Needs ffmpeg (`make packages`), and fails without it.

use bytes::Bytes;
use roomful::media::clip::{ClipLibrary, PAYLOAD_MAX};
use roomful::media::send::MediaSender;
use roomful::media::stamp::{self, Found};
use roomful::types::{Bitrate, Codec, Encoding};
use rtc::rtp::codec::h264::H264Packet;
use rtc::rtp::codec::vp8::Vp8Packet;
use rtc::rtp::packetizer::Depacketizer;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A frame as sent: its place in the clip and its payloads.
struct SentFrame {
    position: usize,
    payloads: Vec<Bytes>,
}

#[test]
fn vp8_decodes_the_same() {
    for kbit in [150, 500, 1500] {
        let frames = send(encoding(Codec::Vp8, kbit), 300, &[40, 70, 200]);
        let mut file = ivf_header(&clip_file(&format!("vp8-{kbit}k.ivf")));
        for (n, frame) in frames.iter().enumerate() {
            let bytes = vp8_frame(frame);
            file.extend((bytes.len() as u32).to_le_bytes());
            file.extend((n as u64).to_le_bytes());
            file.extend(bytes);
        }
        same_pictures(&format!("vp8-{kbit}k.ivf"), &frames, &file, "ivf");
    }
}

#[test]
fn h264_decodes_the_same() {
    for kbit in [150, 500, 1500] {
        let frames = send(encoding(Codec::H264, kbit), 300, &[40, 70, 200]);
        let mut depacketizer = H264Packet::default();
        let payloads = frames.iter().flat_map(|f| &f.payloads);
        let file: Vec<u8> = payloads.flat_map(|p| depacketizer.depacketize(p).unwrap()).collect();
        same_pictures(&format!("h264-{kbit}k.h264"), &frames, &file, "h264");
    }
}

#[test]
fn h264_is_the_clip_plus_sei() {
    for kbit in [150, 500, 1500] {
        let mut frames = send(encoding(Codec::H264, kbit), 120, &[]);
        frames.sort_by_key(|f| f.position);
        let mut depacketizer = H264Packet::default();
        let payloads = frames.iter().flat_map(|f| &f.payloads);
        let stream: Vec<u8> = payloads.flat_map(|p| depacketizer.depacketize(p).unwrap()).collect();
        let (seis, media): (Vec<&[u8]>, Vec<&[u8]>) =
            nal_units(&stream).into_iter().partition(|nal| nal[0] & 0x1f == 6);
        assert_eq!(seis.len(), 120);
        let file = std::fs::read(clip_file(&format!("h264-{kbit}k.h264"))).unwrap();
        assert!(media == nal_units(&file), "{kbit}");
        assert!(frames.iter().flat_map(|f| &f.payloads).all(|p| p.len() <= PAYLOAD_MAX));
    }
}

#[test]
fn opus_decodes_the_same() {
    let mut frames = send(encoding(Codec::Opus, 32), 500, &[]);
    frames.sort_by_key(|f| f.position);
    let original = clip_file("opus-32k.ogg");
    let head = std::fs::read(&original).unwrap()[28..47].to_vec();
    assert!(head.starts_with(b"OpusHead"));
    let packets = frames.iter().map(|f| f.payloads[0].to_vec()).collect();
    let dir = tempfile::tempdir().unwrap();
    let stamped = dir.path().join("stamped.ogg");
    std::fs::write(&stamped, ogg(head, packets)).unwrap();
    for decoder in ["opus", "libopus"] {
        let pcm = |file: &Path| {
            let path = file.to_str().unwrap();
            ffmpeg(&["-c:a", decoder, "-i", path, "-f", "s16le", "-c:a", "pcm_s16le", "-"])
        };
        let (expected, got) = (pcm(&original), pcm(&stamped));
        assert!(expected.len() > 9 * 48_000 * 2, "{} bytes of sound", expected.len());
        assert!(expected.iter().any(|b| *b != 0));
        assert!(expected == got, "{decoder}: {} and {} bytes", expected.len(), got.len());
    }
}

/// Sends so many frames of a stream, asking for a key frame after some of them, and checks the stamps on the way.
fn send(encoding: Encoding, count: usize, key_frames_asked_after: &[usize]) -> Vec<SentFrame> {
    let clip = ClipLibrary::load().unwrap().clip(encoding).unwrap();
    let mut now = Instant::now();
    let mut sender = MediaSender::new(clip, 0x0001_0000, 3, 1, 42, now);
    sender.start(now);
    let mut buf = [0; PAYLOAD_MAX];
    let mut frames: Vec<SentFrame> = Vec::new();
    let mut timestamp = None;
    let mut stamps = 0;
    loop {
        now = sender.next_due().unwrap();
        let out = sender.next(now, 1_700_000_000_000_000_000, &mut buf).unwrap();
        let payload = Bytes::copy_from_slice(&buf[..out.len]);
        if timestamp != Some(out.timestamp) {
            if frames.len() == count {
                break;
            }
            timestamp = Some(out.timestamp);
            frames.push(SentFrame { position: 0, payloads: Vec::new() });
        }
        if let Found::Stamp(stamp) = stamp::find(encoding.codec, &payload) {
            assert_eq!((stamp.frame as usize, stamp.run), (frames.len() - 1, 0x0001_0000));
            stamps += 1;
        }
        let of = frames.len();
        let frame = frames.last_mut().unwrap();
        frame.payloads.push(payload);
        // After the last packet the sender stands at the frame that follows in the clip.
        let all = sender.clip().frames().len();
        frame.position = (sender.clip_position() + all - 1) % all;
        if out.marker && key_frames_asked_after.contains(&of) {
            sender.request_key_frame(now + Duration::from_millis(1));
        }
    }
    assert_eq!(stamps, count);
    frames
}

/// Each picture of the sent stream is the one that the clip's own file has at that place.
fn same_pictures(original: &str, frames: &[SentFrame], stream: &[u8], extension: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("stamped.{extension}"));
    std::fs::write(&path, stream).unwrap();
    let (expected, got) = (pictures(&clip_file(original)), pictures(&path));
    assert_eq!(expected.len(), 120, "{original}");
    let wanted: Vec<&String> = frames.iter().map(|f| &expected[f.position]).collect();
    let jumps = frames.windows(2).filter(|w| w[1].position != w[0].position + 1).count();
    assert!(jumps >= 4, "loops and key frames on request are in the stream");
    assert_eq!(got.len(), wanted.len(), "{original}");
    let differing = got.iter().zip(wanted).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{original}: of {} frames", got.len());
}

/// MD5 of each decoded picture.
fn pictures(file: &Path) -> Vec<String> {
    let out = ffmpeg(&["-i", file.to_str().unwrap(), "-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    let text = String::from_utf8(out).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// Standard output. Any complaint of a decoder fails the test, and so does a decoder that is not there.
fn ffmpeg(arguments: &[&str]) -> Vec<u8> {
    let result = Command::new("ffmpeg").args(["-nostdin", "-v", "error"]).args(arguments).output();
    let output = result.unwrap_or_else(|e| panic!("ffmpeg: {e}; Debian's package ffmpeg has it (make packages)"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "ffmpeg {arguments:?}: {complaints}");
    output.stdout
}

fn encoding(codec: Codec, kbit: u64) -> Encoding {
    Encoding { codec, bitrate: Bitrate(kbit * 1000) }
}

fn clip_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/media/clips").join(name)
}

fn vp8_frame(frame: &SentFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, payload) in frame.payloads.iter().enumerate() {
        let mut depacketizer = Vp8Packet::default();
        bytes.extend(depacketizer.depacketize(payload).unwrap());
        assert_eq!((depacketizer.s == 1, depacketizer.pid), (n == 0, 0));
    }
    bytes
}

/// The file's own header with a time unit of 1/30 s.
fn ivf_header(file: &Path) -> Vec<u8> {
    let mut header = std::fs::read(file).unwrap()[..32].to_vec();
    header[16..20].copy_from_slice(&30u32.to_le_bytes());
    header[20..24].copy_from_slice(&1u32.to_le_bytes());
    header
}

fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let codes: Vec<usize> = (0..stream.len() - 2).filter(|&i| stream[i..i + 3] == [0, 0, 1]).collect();
    let ends = codes.iter().skip(1).copied().chain([stream.len()]);
    let units = codes.iter().zip(ends).map(|(&from, to)| &stream[from + 3..to]);
    units.map(|u| &u[..u.iter().rposition(|&b| b != 0).unwrap() + 1]).collect()
}

/// Ogg with one packet a page (RFC 3533 6, RFC 7845).
fn ogg(head: Vec<u8>, packets: Vec<Vec<u8>>) -> Vec<u8> {
    let tags = b"OpusTags\x04\0\0\0test\0\0\0\0".to_vec();
    let last = packets.len() + 1;
    let mut file = Vec::new();
    for (n, packet) in [head, tags].into_iter().chain(packets).enumerate() {
        let samples = 960 * n.saturating_sub(1) as u64;
        let mut page = b"OggS\0".to_vec();
        page.push(u8::from(n == 0) << 1 | u8::from(n == last) << 2);
        page.extend(samples.to_le_bytes());
        page.extend(1u32.to_le_bytes());
        page.extend((n as u32).to_le_bytes());
        page.extend([0; 4]);
        let segments = vec![255; packet.len() / 255];
        page.push(segments.len() as u8 + 1);
        page.extend(segments);
        page.push((packet.len() % 255) as u8);
        page.extend(packet);
        let sum = ogg_check_sum(&page);
        page[22..26].copy_from_slice(&sum.to_le_bytes());
        file.extend(page);
    }
    file
}

/// CRC-32 with polynomial 0x04c11db7, not reflected, no initial or final value.
fn ogg_check_sum(page: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum >> 31 == 1 { sum << 1 ^ 0x04c1_1db7 } else { sum << 1 };
    page.iter().fold(0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte) << 24, step))
}
