//! ChannelData (RFC 8656 12.4), and messages one after another on a stream (RFC 8656 12.5).

/// Bytes of ChannelData before the application's.
pub const HEADER: usize = 4;
/// Larger messages than a datagram can carry are nobody's.
const MESSAGE_MAX: usize = 20 + u16::MAX as usize;

/// The header of ChannelData of `length` bytes.
#[inline]
pub fn header(channel: u16, length: usize) -> [u8; HEADER] {
    let ([a, b], [c, d]) = (channel.to_be_bytes(), (length as u16).to_be_bytes());
    [a, b, c, d]
}

/// Channel and length of the application's bytes, of a whole message (a stream's padding may follow).
#[inline]
pub fn channel_data(message: &[u8]) -> Option<(u16, usize)> {
    let [a @ 0x40..=0x7f, b, c, d] = *message.first_chunk::<HEADER>()? else { return None };
    let length = usize::from(u16::from_be_bytes([c, d]));
    (HEADER + length <= message.len()).then_some((u16::from_be_bytes([a, b]), length))
}

/// Bytes after ChannelData of this length on a stream: to a multiple of four.
#[inline]
pub fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// Neither STUN nor ChannelData: where the next message begins, nobody can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what came over the connection is neither STUN nor ChannelData")]
pub struct Garbage;

/// Cuts a stream into messages.
#[derive(Default)]
pub struct Deframer {
    buf: Vec<u8>,
    from: usize,
}

impl Deframer {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.from > 0 {
            self.buf.drain(..self.from);
            self.from = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole message, a stream's padding cut off.
    pub fn next_message(&mut self) -> Result<Option<&mut [u8]>, Garbage> {
        let rest = &self.buf[self.from..];
        let Some(head) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (whole, pad) = match head[0] {
            0x00..=0x3f if length % 4 == 0 => (20 + length, 0),
            0x40..=0x7f => (HEADER + length, padding(length)),
            _ => return Err(Garbage),
        };
        debug_assert!(whole + pad <= MESSAGE_MAX);
        if rest.len() < whole + pad {
            return Ok(None);
        }
        let from = self.from;
        self.from += whole + pad;
        Ok(Some(&mut self.buf[from..from + whole]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn channel_data_is_told_by_its_first_two_bits() {
        assert_eq!(channel_data(&[0x40, 1, 0, 2, 9, 9]), Some((0x4001, 2)));
        assert_eq!(channel_data(&[0x7f, 0xff, 0, 0]), Some((0x7fff, 0)));
        for bad in [&[0x40, 1, 0, 3, 9, 9][..], &[0x00, 1, 0, 0], &[0x80, 1, 0, 0], &[0x40, 1, 0], &[]] {
            assert_eq!(channel_data(bad), None, "{bad:?}");
        }
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    proptest! {
        /// However a stream is cut, the same messages come out.
        #[test]
        fn streams_are_cut_into_what_was_put_in(
            lengths in prop::collection::vec((any::<bool>(), 0usize..300), 1..8),
            cuts in prop::collection::vec(1usize..50, 1..40),
        ) {
            let (mut stream, mut want) = (Vec::new(), Vec::new());
            for (i, (channel, length)) in lengths.into_iter().enumerate() {
                let mut message = if channel { header(0x4000 + i as u16, length).to_vec() } else {
                    let mut m = vec![0; 20];
                    m[2..4].copy_from_slice(&(length as u16 / 4 * 4).to_be_bytes());
                    m
                };
                message.extend((0..if channel { length } else { length / 4 * 4 }).map(|b| b as u8));
                stream.extend_from_slice(&message);
                if channel {
                    stream.extend(std::iter::repeat_n(0, padding(length)));
                }
                want.push(message);
            }
            let (mut deframer, mut got, mut rest) = (Deframer::default(), Vec::new(), &stream[..]);
            let mut cut = cuts.iter().cycle();
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                deframer.push(now);
                rest = later;
                while let Some(m) = deframer.next_message().unwrap() {
                    got.push(m.to_vec());
                }
            }
            prop_assert_eq!(got, want);
        }

        #[test]
        fn garbage_is_an_error_or_waits(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut deframer = Deframer::default();
            deframer.push(&bytes);
            for _ in 0..bytes.len() + 1 {
                match deframer.next_message() {
                    Ok(Some(m)) => prop_assert!(m.len() <= bytes.len()),
                    Ok(None) | Err(Garbage) => return Ok(()),
                }
            }
            prop_assert!(false, "no end");
        }
    }
}
