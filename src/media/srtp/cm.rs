//! AES-128 in counter mode with HMAC-SHA1-80: RFC 3711 4.1.1 and 4.2.1.

use super::hmac_sha1::{self, HmacSha1};
use super::kdf::{self, Part, Purpose};
use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipherCore};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;

pub(super) const TAG: usize = hmac_sha1::TAG;

/// Session keys with the AES key schedule expanded.
pub(super) struct Cm {
    cipher: Aes128Enc,
    /// The session salt times 2^16, ready to be XORed into the initial counter.
    salt: u128,
    mac: HmacSha1,
}

impl Cm {
    pub(super) fn derive(key: &[u8; 16], salt: &[u8; 14], purpose: Purpose) -> Cm {
        Cm::from_session_keys(
            &kdf::derive(key, salt, purpose, Part::Cipher),
            &kdf::derive(key, salt, purpose, Part::Salt),
            &kdf::derive(key, salt, purpose, Part::Auth),
        )
    }

    pub(super) fn from_session_keys(key: &[u8; 16], salt: &[u8; 14], auth: &[u8; 20]) -> Cm {
        let mut block = [0; 16];
        block[..14].copy_from_slice(salt);
        Cm { cipher: Aes128Enc::new(key.into()), salt: u128::from_be_bytes(block), mac: HmacSha1::new(auth) }
    }

    /// Encrypts or decrypts `data` (below 2^20 bytes). `index` is the 48-bit SRTP or 31-bit SRTCP index.
    #[inline]
    pub(super) fn apply_keystream(&self, ssrc: u32, index: u64, data: &mut [u8]) {
        let iv = (self.salt ^ u128::from(ssrc) << 64 ^ u128::from(index) << 16).to_be_bytes();
        CtrCore::<_, Ctr128BE>::inner_iv_init(&self.cipher, &iv.into()).apply_keystream_partial(data.into());
    }

    #[inline]
    pub(super) fn mac(&self) -> &HmacSha1 {
        &self.mac
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    /// RFC 3711 B.2: the keystream's first blocks, and those around the end of its 16-bit counter's range.
    #[test]
    fn keystream_matches_rfc_3711() {
        let key: [u8; 16] = hex("2B7E151628AED2A6ABF7158809CF4F3C").try_into().unwrap();
        let salt: [u8; 14] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().unwrap();
        let cm = Cm::from_session_keys(&key, &salt, &[0; 20]);
        let mut stream = vec![0; 16 * 0xff02];
        cm.apply_keystream(0, 0, &mut stream);
        assert_eq!(
            stream[..48],
            hex("E03EAD0935C95E80E166B16DD92B4EB4D23513162B02D0F72A43A2FE4A5F97AB41E95B3BB0A2E8DD477901E4FCA894C0")
        );
        assert_eq!(
            stream[16 * 0xfeff..],
            hex("EC8CDF7398607CB0F2D21675EA9EA1E4362B7C3C6773516318A077D7FC5073AE6A2CC3787889374FBEB4C81B17BA6C44")
        );
    }
}
