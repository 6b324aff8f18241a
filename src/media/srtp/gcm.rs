//! AEAD_AES_128_GCM and AEAD_AES_256_GCM for SRTP and SRTCP: RFC 7714 8 and 9.

use super::SrtpError;
use super::kdf::{self, Part, Purpose};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

pub(super) const TAG: usize = 16;

pub(super) struct Gcm {
    key: LessSafeKey,
    salt: [u8; 12],
}

impl Gcm {
    /// From a master key of 16 or 32 bytes, which says which of the two it is.
    pub(super) fn derive(key: &[u8], salt: &[u8; 14], purpose: Purpose) -> Gcm {
        let mut padded = *salt;
        padded[12..].fill(0);
        let cipher: [u8; 32] = kdf::derive(key, &padded, purpose, Part::Cipher);
        Gcm::from_session_keys(&cipher[..key.len()], &kdf::derive(key, &padded, purpose, Part::Salt))
    }

    pub(super) fn from_session_keys(key: &[u8], salt: &[u8; 12]) -> Gcm {
        let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, key).unwrap_or_else(|_| unreachable!("AES-GCM takes 16 or 32 bytes"));
        Gcm { key: LessSafeKey::new(key), salt: *salt }
    }

    /// RFC 7714 8.1: 00 00 | SSRC | ROC | SEQ, XOR salt.
    #[inline]
    pub(super) fn rtp_nonce(&self, ssrc: u32, index: u64) -> Nonce {
        self.nonce(u128::from(ssrc) << 48 | u128::from(index & 0xffff_ffff_ffff))
    }

    /// RFC 7714 9.1: 00 00 | SSRC | 00 00 | 31-bit index, XOR salt.
    #[inline]
    pub(super) fn rtcp_nonce(&self, ssrc: u32, index: u32) -> Nonce {
        self.nonce(u128::from(ssrc) << 48 | u128::from(index))
    }

    #[inline]
    fn nonce(&self, low_96: u128) -> Nonce {
        let mut iv = [0; 12];
        iv.copy_from_slice(&low_96.to_be_bytes()[4..]);
        iv.iter_mut().zip(self.salt).for_each(|(b, s)| *b ^= s);
        Nonce::assume_unique_for_key(iv)
    }

    /// Encrypts `data` in place and returns the tag over it and `aad`.
    #[inline]
    pub(super) fn seal(&self, nonce: Nonce, aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG], SrtpError> {
        // ring refuses only data beyond 64 GiB, which no packet is.
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), data).map_err(|_| SrtpError::Malformed)?;
        let mut bytes = [0; TAG];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Decrypts `sealed` (ciphertext, then tag) in place.
    #[inline]
    pub(super) fn open(&self, nonce: Nonce, aad: &[u8], sealed: &mut [u8]) -> Result<(), SrtpError> {
        match self.key.open_in_place(nonce, Aad::from(aad), sealed) {
            Ok(_) => Ok(()),
            Err(_) => Err(SrtpError::Forged),
        }
    }
}
