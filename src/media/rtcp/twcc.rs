//! Transport-wide congestion control feedback: draft-holmer-rmcat-transport-wide-cc-extensions-01 3.1.

use super::writer::Body;
use super::{Cursor, RTPFB, RtcpError, TWCC, Writer};

/// Unit of arrival deltas, in µs.
pub(super) const TICK_US: i64 = 250;
/// Unit of the reference time, in ticks: 64 ms.
pub(super) const REFERENCE_TICKS: u32 = 256;

// Packet status symbols.
const LOST: u16 = 0;
const SMALL: u16 = 1;
const LARGE: u16 = 2;
/// Longest run one chunk can count (13 bits).
const RUN_MAX: usize = 0x1fff;
const ONE_BIT_SYMBOLS: usize = 14;
const TWO_BIT_SYMBOLS: usize = 7;

/// Which of a range of transport-wide sequence numbers arrived, and when; checked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twcc<'a> {
    pub sender_ssrc: u32,
    pub media_ssrc: u32,
    pub base_seq: u16,
    /// Sequence numbers reported on, from `base_seq` on.
    pub status_count: u16,
    /// In 64 ms on the receiver's clock, 24 bits.
    pub reference: u32,
    /// Goes up by one with every feedback: a gap is a lost one.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> Twcc<'a> {
    pub(super) fn read(mut body: Cursor<'a>) -> Result<Twcc<'a>, RtcpError> {
        let (sender_ssrc, media_ssrc) = (body.u32()?, body.u32()?);
        let (base_seq, status_count) = (body.u16()?, body.u16()?);
        let word = body.u32()?;

        let from_chunks = body.0;
        let mut delta_bytes = 0;
        let mut left = usize::from(status_count);
        while left > 0 {
            let chunk = Chunk(body.u16()?);
            let count = chunk.len().min(left);
            delta_bytes += chunk.delta_bytes(count)?;
            left -= count;
        }
        let chunks = &from_chunks[..from_chunks.len() - body.0.len()];
        let deltas = body.bytes(delta_bytes)?;
        Ok(Twcc {
            sender_ssrc,
            media_ssrc,
            base_seq,
            status_count,
            reference: word >> 8,
            feedback_count: word as u8,
            chunks,
            deltas,
        })
    }

    /// Reference time in µs on the receiver's clock, modulo 2^24 × 64 ms (12.4 days).
    pub fn reference_us(&self) -> i64 {
        i64::from(self.reference * REFERENCE_TICKS) * TICK_US
    }

    /// Each sequence number with, if it arrived, the time in µs since the one that arrived before it in this feedback
    /// (for the first: since [`reference_us`](Twcc::reference_us)).
    pub fn deltas(self) -> TwccReader<'a> {
        TwccReader {
            chunks: Cursor(self.chunks),
            deltas: Cursor(self.deltas),
            seq: self.base_seq,
            left: self.status_count,
            chunk: Chunk(0),
            done: 0,
        }
    }

    /// Each sequence number with, if it arrived, its arrival in µs on the receiver's clock.
    pub fn arrivals(self) -> TwccArrivals<'a> {
        TwccArrivals { reader: self.deltas(), now_us: self.reference_us() }
    }
}

/// Iterator of [`Twcc::deltas`].
#[derive(Clone)]
pub struct TwccReader<'a> {
    chunks: Cursor<'a>,
    deltas: Cursor<'a>,
    seq: u16,
    left: u16,
    chunk: Chunk,
    /// Symbols of `chunk` already taken.
    done: usize,
}

impl Iterator for TwccReader<'_> {
    type Item = (u16, Option<i32>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        while self.done >= self.chunk.len() {
            self.chunk = Chunk(self.chunks.u16().ok()?);
            self.done = 0;
        }
        let ticks = match self.chunk.symbol(self.done) {
            SMALL => Some(i32::from(self.deltas.u8().ok()?)),
            LARGE => Some(i32::from(self.deltas.u16().ok()? as i16)),
            _ => None,
        };
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.left -= 1;
        self.done += 1;
        Some((seq, ticks.map(|ticks| ticks * TICK_US as i32)))
    }
}

/// Iterator of [`Twcc::arrivals`].
#[derive(Clone)]
pub struct TwccArrivals<'a> {
    reader: TwccReader<'a>,
    now_us: i64,
}

impl Iterator for TwccArrivals<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        let (seq, delta) = self.reader.next()?;
        Some((
            seq,
            delta.map(|delta| {
                self.now_us += i64::from(delta);
                self.now_us
            }),
        ))
    }
}

/// A packet status chunk: a run (0 | symbol 2 | length 13) or a vector (1 | symbol size 1 | symbols 14).
#[derive(Clone, Copy)]
struct Chunk(u16);

impl Chunk {
    fn run(symbol: u16, len: usize) -> Chunk {
        Chunk(symbol << 13 | len as u16)
    }

    fn is_run(self) -> bool {
        self.0 >> 15 == 0
    }

    /// Symbols it holds; a run of 0 holds none.
    fn len(self) -> usize {
        match self.0 >> 14 {
            0b10 => ONE_BIT_SYMBOLS,
            0b11 => TWO_BIT_SYMBOLS,
            _ => usize::from(self.0) & RUN_MAX,
        }
    }

    fn symbol(self, at: usize) -> u16 {
        match self.0 >> 14 {
            0b10 => self.0 >> (ONE_BIT_SYMBOLS - 1 - at) & 1,
            0b11 => self.0 >> (2 * (TWO_BIT_SYMBOLS - 1 - at)) & 3,
            _ => self.0 >> 13 & 3,
        }
    }

    /// Bytes of delta that its first `count` symbols call for.
    fn delta_bytes(self, count: usize) -> Result<usize, RtcpError> {
        if self.is_run() {
            return Ok(delta_size(self.symbol(0))? * count);
        }
        (0..count).map(|at| delta_size(self.symbol(at))).sum()
    }
}

fn delta_size(symbol: u16) -> Result<usize, RtcpError> {
    match symbol {
        LOST | SMALL | LARGE => Ok(usize::from(symbol)),
        _ => Err(RtcpError::Malformed("reserved packet status symbol")),
    }
}

fn symbol_of(delta: Option<i16>) -> u16 {
    match delta {
        None => LOST,
        Some(0..=255) => SMALL,
        Some(_) => LARGE,
    }
}

impl Writer<'_> {
    /// One feedback on the sequence numbers from `base_seq` on. `reference` in 64 ms (24 bits are sent), `deltas` in
    /// ticks of 250 µs since the arrival before, `None` for what did not arrive. At most 65,535; nothing is written
    /// for none.
    pub fn twcc(
        &mut self,
        sender_ssrc: u32,
        media_ssrc: u32,
        base_seq: u16,
        reference: u32,
        feedback_count: u8,
        deltas: &[Option<i16>],
    ) -> Result<(), RtcpError> {
        let count = u16::try_from(deltas.len()).map_err(|_| RtcpError::TooMany)?;
        if count == 0 {
            return Ok(());
        }
        self.packet(RTPFB, TWCC, |out| {
            out.u32(sender_ssrc)?;
            out.u32(media_ssrc)?;
            out.u16(base_seq)?;
            out.u16(count)?;
            out.u32(reference << 8 | u32::from(feedback_count))?;
            write_chunks(out, deltas)?;
            for delta in deltas.iter().flatten() {
                match u8::try_from(*delta) {
                    Ok(small) => out.u8(small)?,
                    Err(_) => out.u16(*delta as u16)?,
                }
            }
            Ok(())
        })
    }
}

/// Takes at each place the chunk that covers most: a run where it beats a vector, else one bit a symbol where no delta
/// is large, else two.
fn write_chunks(out: &mut Body<'_>, deltas: &[Option<i16>]) -> Result<(), RtcpError> {
    let mut rest = deltas;
    while let [first, ..] = rest {
        let symbol = symbol_of(*first);
        let run = rest.iter().take(RUN_MAX).take_while(|delta| symbol_of(**delta) == symbol).count();
        let near = &rest[..rest.len().min(ONE_BIT_SYMBOLS)];
        let one_bit = near.iter().all(|delta| symbol_of(*delta) != LARGE);
        let vector = if one_bit { near.len() } else { rest.len().min(TWO_BIT_SYMBOLS) };
        let (chunk, taken) = if run >= vector {
            (Chunk::run(symbol, run), run)
        } else {
            let bits = if one_bit { 1 } else { 2 };
            let packed = near[..vector].iter().fold(0, |word, delta| word << bits | symbol_of(*delta));
            let unused = ONE_BIT_SYMBOLS - bits * vector;
            (Chunk(0x8000 | (bits as u16 - 1) << 14 | packed << unused), vector)
        };
        out.u16(chunk.0)?;
        rest = &rest[taken..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, parse};
    use super::*;
    use proptest::prelude::*;

    fn written(base: u16, deltas: &[Option<i16>]) -> Vec<u8> {
        let mut buf = vec![0; 4000];
        let mut writer = Writer::new(&mut buf);
        writer.twcc(1, 2, base, 3, 4, deltas).unwrap();
        writer.as_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Twcc<'_> {
        let Some(Ok(Packet::Twcc(twcc))) = parse(bytes).next() else { panic!("{:?}", parse(bytes).next()) };
        twcc
    }

    /// The examples of the draft's 3.1.3 (run of 221 lost) and 3.1.4 (both vectors).
    #[test]
    fn chunks_of_the_draft() {
        let run = Chunk(0b0000_0000_1101_1101);
        assert_eq!((run.len(), run.symbol(220)), (221, LOST));
        let run = Chunk(0b0110_0000_0001_1000);
        assert_eq!((run.len(), run.symbol(0)), (24, 3));
        let one = Chunk(0b1001_1111_0001_1100);
        assert_eq!(
            (0..one.len()).map(|at| one.symbol(at)).collect::<Vec<_>>(),
            [0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0]
        );
        let two = Chunk(0b1100_1101_0101_0000);
        assert_eq!((0..two.len()).map(|at| two.symbol(at)).collect::<Vec<_>>(), [0, 3, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn bytes_both_ways() {
        #[rustfmt::skip]
        let expected = [
            0xaf, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff, 0, 4, 0, 0, 3, 4,
            0b1101_0010, 0b0100_0000, // vector of two bits: small, lost, large, small
            10, 0xff, 0xfc, 255, 0, 2, // deltas, padding
        ];
        let deltas = [Some(10), None, Some(-4), Some(255)];
        assert_eq!(written(0xffff, &deltas), expected);
        let twcc = read(&expected);
        assert_eq!((twcc.base_seq, twcc.status_count, twcc.feedback_count), (0xffff, 4, 4));
        assert_eq!(twcc.reference_us(), 192_000);
        assert_eq!(
            twcc.deltas().collect::<Vec<_>>(),
            [(0xffff, Some(2_500)), (0, None), (1, Some(-1_000)), (2, Some(63_750))]
        );
        assert_eq!(
            twcc.arrivals().collect::<Vec<_>>(),
            [(0xffff, Some(194_500)), (0, None), (1, Some(193_500)), (2, Some(257_250))]
        );
    }

    #[test]
    fn runs_are_short() {
        assert_eq!(written(0, &[Some(1); 1000]).len(), 20 + 2 + 1000 + 2);
        assert_eq!(written(0, &[None; 9000]).len(), 20 + 4);
        assert_eq!(written(0, &[]).len(), 0);
    }

    #[test]
    fn reserved_symbols_and_missing_deltas_are_errors() {
        let packet = |chunk: u16| {
            let [c0, c1] = chunk.to_be_bytes();
            [0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, c0, c1, 0, 0]
        };
        let reserved = Err(RtcpError::Malformed("reserved packet status symbol"));
        assert_eq!(parse(&packet(0x6003)).next(), Some(reserved));
        assert_eq!(parse(&packet(0xf000)).next(), Some(reserved));
        assert_eq!(parse(&packet(0x2003)).next(), Some(Err(RtcpError::Truncated)), "three deltas in two bytes");
        assert_eq!(parse(&packet(0x2000)).next(), Some(Err(RtcpError::Truncated)), "runs of none");
        assert_eq!(read(&packet(0x0003)).deltas().filter(|(_, delta)| delta.is_none()).count(), 3);
    }

    proptest! {
        #[test]
        fn round_trip(
            base: u16,
            pieces in prop::collection::vec(
                (prop_oneof![Just(None), (0i16..256).prop_map(Some), any::<i16>().prop_map(Some)], 1usize..40),
                1..30,
            ),
        ) {
            let deltas: Vec<_> = pieces.into_iter().flat_map(|(delta, times)| std::iter::repeat_n(delta, times)).collect();
            let bytes = written(base, &deltas);
            let expected = deltas.iter().zip(0..).map(|(delta, i)| (base.wrapping_add(i), delta.map(|d| i32::from(d) * 250)));
            prop_assert!(read(&bytes).deltas().eq(expected));
        }
    }
}
