//! Whose connectivity check this is. One socket serves all participants; a check names ours by the first half of its
//! USERNAME (RFC 8445 7.2.2), whatever address it comes from.

const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const USERNAME: u16 = 0x0006;

/// True for anything RFC 7983 gives to STUN.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|b| *b < 4)
}

/// Our username fragment in a Binding request (RFC 8489 14.3); `None` for anything else.
pub fn local_ufrag(datagram: &[u8]) -> Option<&str> {
    let header = datagram.get(..HEADER)?;
    if header[..2] != BINDING_REQUEST || header[4..8] != MAGIC_COOKIE {
        return None;
    }
    let mut rest = &datagram[HEADER..];
    while let [t0, t1, l0, l1, body @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        let value = body.get(..len)?;
        if u16::from_be_bytes([*t0, *t1]) == USERNAME {
            return std::str::from_utf8(value).ok()?.split_once(':').map(|(local, _)| local);
        }
        // Attributes are padded to four bytes.
        rest = body.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn request(username: &str) -> Vec<u8> {
        let mut m = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        m.extend([0x00, 0x24, 0, 4, 1, 2, 3, 4]);
        m.extend([0x00, 0x06, 0, username.len() as u8]);
        m.extend(username.as_bytes());
        m.resize(m.len().next_multiple_of(4), 0);
        let len = (m.len() - HEADER) as u16;
        m[2..4].copy_from_slice(&len.to_be_bytes());
        m
    }

    #[test]
    fn names_us() {
        assert_eq!(local_ufrag(&request("ours:theirs")), Some("ours"));
        assert_eq!(local_ufrag(&request("nocolon")), None);
        let mut response = request("ours:theirs");
        response[0] = 1;
        assert_eq!(local_ufrag(&response), None);
        assert!(is_stun(&response));
        assert!(!is_stun(&[0x80, 0x60]));
    }

    #[test]
    fn any_mutation_is_harmless() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let good = request("abcdefgh:12345678");
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..rng.random_range(1..4) {
                let i = rng.random_range(0..bad.len());
                bad[i] = rng.random();
            }
            bad.truncate(rng.random_range(0..=bad.len()));
            local_ufrag(&bad);
        }
    }
}
