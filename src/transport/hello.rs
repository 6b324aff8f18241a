//! What a ClientHello says of SRTP: rtc-dtls follows the client's order of suites, browsers (BoringSSL) their own.

/// `use_srtp` among a ClientHello's extensions (RFC 5764 4.1.1).
const USE_SRTP: u16 = 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 13;

/// The protection profiles that a datagram's ClientHello offers, in its order (RFC 6347 4.2.2, RFC 5246 7.4.1.2).
/// `None` where it is no whole ClientHello or offers none.
pub(super) fn offered_profiles(datagram: &[u8]) -> Option<impl Iterator<Item = u16>> {
    if *datagram.first()? != HANDSHAKE || *datagram.get(RECORD_HEADER)? != CLIENT_HELLO {
        return None;
    }
    let mut hello = Reader(datagram.get(RECORD_HEADER + 1..)?);
    let length = hello.number(3)?;
    hello.take(2)?;
    // A fragment is not enough.
    if hello.number(3)? != 0 || hello.number(3)? != length {
        return None;
    }
    let mut body = Reader(hello.take(length)?);
    body.take(2 + 32)?;
    body.vector(1)?; // session
    body.vector(1)?; // cookie
    body.vector(2)?; // cipher suites
    body.vector(1)?; // compression
    let mut extensions = Reader(body.vector(2)?);
    while let Some(kind) = extensions.number(2) {
        let value = extensions.vector(2)?;
        if kind == usize::from(USE_SRTP) {
            let profiles = Reader(value).vector(2)?;
            return Some(profiles.as_chunks::<2>().0.iter().map(|p| u16::from_be_bytes(*p)));
        }
    }
    None
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// Bytes with their length in front.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let n = self.number(length_bytes)?;
        self.take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn hello(profiles: &[u16]) -> Vec<u8> {
        let list: Vec<u8> = profiles.iter().flat_map(|p| p.to_be_bytes()).collect();
        let srtp = [&(list.len() as u16).to_be_bytes()[..], &list, &[0]].concat();
        let extensions = [&[0, 23, 0, 0, 0, 14][..], &(srtp.len() as u16).to_be_bytes(), &srtp].concat();
        let body = [&[0xfe, 0xfd][..], &[7; 32], &[0, 0], &[0, 2, 0xc0, 0x2b], &[1, 0]].concat();
        let body = [&body[..], &(extensions.len() as u16).to_be_bytes(), &extensions].concat();
        let length = &(body.len() as u32).to_be_bytes()[1..];
        let handshake = [&[1][..], length, &[0, 0, 0, 0, 0], length, &body].concat();
        let head = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        [&head[..], &(handshake.len() as u16).to_be_bytes(), &handshake].concat()
    }

    #[test]
    fn the_list_is_read_in_order() {
        let bytes = hello(&[8, 7, 1, 2]);
        assert_eq!(offered_profiles(&bytes).map(Iterator::collect), Some(vec![8, 7, 1, 2]));
        assert_eq!(offered_profiles(&hello(&[])).map(Iterator::collect), Some(vec![]));
    }

    #[test]
    fn what_is_cut_or_changed_gives_no_panic() {
        let bytes = hello(&[8, 7, 1]);
        for n in 0..bytes.len() {
            assert!(offered_profiles(&bytes[..n]).is_none(), "{n} bytes");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut read = 0;
        for _ in 0..20_000 {
            let mut other = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..other.len());
                other[at] = rng.next_u32() as u8;
            }
            read += offered_profiles(&other).map_or(0, Iterator::count);
        }
        assert!(read > 10_000, "mutations must reach the list: {read}");
    }
}
