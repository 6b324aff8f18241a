//! Redundant audio (RFC 2198) towards a receiver that has not negotiated it: only the newest frame goes on.

/// The newest frame of a payload: behind the headers (the last one lacks the F bit) and the earlier frames. `None` for
/// what is cut short.
pub fn newest(payload: &[u8]) -> Option<&[u8]> {
    let (mut at, mut earlier) = (0, 0);
    while payload.get(at)? & 0x80 != 0 {
        let header = payload.get(at..at + 4)?;
        earlier += usize::from(header[2] & 0x03) << 8 | usize::from(header[3]);
        at += 4;
    }
    payload.get(at + 1 + earlier..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_frames_are_left_out() {
        assert_eq!(newest(&[111, 7, 8]), Some(&[7, 8][..]));
        assert_eq!(newest(&[0xef, 0x0f, 0x00, 2, 111, 1, 2, 7]), Some(&[7][..]));
        let two = [&[0xef, 0x1e, 0x00, 1, 0xef, 0x0f, 0x01, 0, 111, 9][..], &[5; 256], &[7]].concat();
        assert_eq!(newest(&two), Some(&[7][..]));
        for n in 0..7 {
            assert_eq!(newest(&[0xef, 0x0f, 0x00, 2, 111, 1, 2, 7][..n]), None, "{n}");
        }
    }
}
