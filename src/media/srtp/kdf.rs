//! Session keys from a master key: RFC 3711 4.3 with key derivation rate 0, as RFC 7714 11 uses it too.

use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc};

/// What the session keys are for; each has its own labels.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Rtp,
    Rtcp,
}

/// Which of a purpose's keys: the label's distance from the purpose's first (RFC 3711 4.3.2).
#[derive(Clone, Copy)]
pub(super) enum Part {
    Cipher = 0,
    Auth = 1,
    Salt = 2,
}

/// `N` bytes of session key. A GCM master salt of 12 bytes is passed with two zero bytes behind it (RFC 7714 11). The
/// master key has 16 bytes, or 32 (AES_256_CM_PRF, RFC 6188 3).
pub(super) fn derive<const N: usize>(key: &[u8], salt: &[u8; 14], purpose: Purpose, part: Part) -> [u8; N] {
    match key.first_chunk::<32>() {
        Some(key) => blocks(&Aes256Enc::new(key.into()), salt, purpose, part),
        None => {
            let key = key.first_chunk::<16>().unwrap_or_else(|| unreachable!("a suite's key has 16 or 32 bytes"));
            blocks(&Aes128Enc::new(key.into()), salt, purpose, part)
        }
    }
}

fn blocks<const N: usize, C: BlockCipherEncrypt<BlockSize = U16>>(
    prf: &C,
    salt: &[u8; 14],
    purpose: Purpose,
    part: Part,
) -> [u8; N] {
    let label = part as u8
        + match purpose {
            Purpose::Rtp => 0,
            Purpose::Rtcp => 3,
        };
    let mut out = [0; N];
    for (counter, piece) in (0u16..).zip(out.chunks_mut(16)) {
        let mut block = [0; 16];
        block[..14].copy_from_slice(salt);
        block[7] ^= label;
        block[14..].copy_from_slice(&counter.to_be_bytes());
        prf.encrypt_block((&mut block).into());
        piece.copy_from_slice(&block[..piece.len()]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    /// RFC 3711 B.3.
    #[test]
    fn key_derivation_matches_rfc_3711() {
        let key: [u8; 16] = hex("E1F97A0D3E018BE0D64FA32C06DE4139").try_into().unwrap();
        let salt: [u8; 14] = hex("0EC675AD498AFEEBB6960B3AABE6").try_into().unwrap();
        assert_eq!(
            derive::<16>(&key, &salt, Purpose::Rtp, Part::Cipher).to_vec(),
            hex("C61E7A93744F39EE10734AFE3FF7A087")
        );
        assert_eq!(derive::<14>(&key, &salt, Purpose::Rtp, Part::Salt).to_vec(), hex("30CBBC08863D8C85D49DB34A9AE1"));
        assert_eq!(
            derive::<94>(&key, &salt, Purpose::Rtp, Part::Auth).to_vec(),
            hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE\
                 E049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC25\
                 6D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2")
        );
    }
}
