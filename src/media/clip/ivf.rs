//! IVF, the plainest container of VP8: a 32-byte header, then for each frame its size, its time and its bytes, all
//! little-endian.

use super::ClipProblem;

/// Frames of an IVF file and the constant time between them in ticks of 90 kHz.
pub fn parse(file: &[u8]) -> Result<(u32, Vec<&[u8]>), ClipProblem> {
    const RTP_CLOCK: u128 = 90_000;
    let Some((header, mut rest)) = file.split_first_chunk::<32>() else {
        return Err(ClipProblem::WrongFormat("IVF"));
    };
    if &header[..4] != b"DKIF" || &header[8..12] != b"VP80" {
        return Err(ClipProblem::WrongFormat("IVF with VP8"));
    }
    let mut frames = Vec::new();
    let mut times = Vec::new();
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        let (head, after) = rest.split_first_chunk::<12>().ok_or(ClipProblem::Truncated(at))?;
        let size = le32(head, 0) as usize;
        let time = u64::from(le32(head, 4)) | u64::from(le32(head, 8)) << 32;
        let (frame, after) = after.split_at_checked(size).ok_or(ClipProblem::Truncated(at))?;
        times.push(time);
        frames.push(frame);
        rest = after;
    }
    // Times count in units of scale / rate seconds.
    let step = times.get(1).map_or(1, |second| second.saturating_sub(times[0]));
    if let Some(n) = times.windows(2).position(|w| w[0].checked_add(step) != Some(w[1])) {
        return Err(ClipProblem::UnevenTiming(n + 1));
    }
    let (rate, scale) = (u128::from(le32(header, 16)), u128::from(le32(header, 20)));
    let ticks = (RTP_CLOCK * scale * u128::from(step)).checked_div(rate).unwrap_or(0);
    match u32::try_from(ticks) {
        Ok(ticks) if ticks > 0 && ticks <= RTP_CLOCK as u32 => Ok((ticks, frames)),
        _ => Err(ClipProblem::WrongFormat("IVF of one frame a second or more")),
    }
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(frames: &[(u64, &[u8])]) -> Vec<u8> {
        let mut f = b"DKIF\0\0\x20\0VP80".to_vec();
        f.extend([0x40, 1, 0xb4, 0]);
        f.extend(30u32.to_le_bytes());
        f.extend(1u32.to_le_bytes());
        f.extend([0; 8]);
        for (time, bytes) in frames {
            f.extend((bytes.len() as u32).to_le_bytes());
            f.extend(time.to_le_bytes());
            f.extend(*bytes);
        }
        f
    }

    #[test]
    fn frames_and_their_time() {
        let f = file(&[(7, b"one"), (8, b"two"), (9, b"three")]);
        assert_eq!(parse(&f), Ok((3000, vec![&b"one"[..], b"two", b"three"])));
        let f = file(&[(0, b"one"), (2, b"two")]);
        assert_eq!(parse(&f), Ok((6000, vec![&b"one"[..], b"two"])));
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(parse(b"RIFF"), Err(ClipProblem::WrongFormat("IVF")));
        assert_eq!(parse(&[0; 40]), Err(ClipProblem::WrongFormat("IVF with VP8")));
        assert_eq!(parse(&file(&[(0, b"a"), (2, b"b"), (3, b"c")])), Err(ClipProblem::UnevenTiming(2)));
        assert_eq!(parse(&file(&[(3, b"a"), (2, b"b")])), Err(ClipProblem::UnevenTiming(1)));
        let standing = file(&[(3, b"a"), (3, b"b")]);
        assert_eq!(parse(&standing), Err(ClipProblem::WrongFormat("IVF of one frame a second or more")));
        let f = file(&[(0, b"abc")]);
        for cut in 33..f.len() {
            assert_eq!(parse(&f[..cut]), Err(ClipProblem::Truncated(32)), "{cut}");
        }
    }
}
