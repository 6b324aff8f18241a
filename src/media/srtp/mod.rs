//! SRTP and SRTCP (RFC 3711) with AES128_CM_SHA1_80, AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714), in place and without allocation.
//!
//! One [`RtpSealer`] and one [`RtcpSealer`] belong to each direction's master key; packet indices are kept apart from
//! the keys ([`TxIndex`], [`RxIndex`]), one for each SSRC, so that a stream costs its window and nothing more.

mod cm;
mod gcm;
mod hmac_sha1;
mod index;
mod kdf;
mod rtcp;

pub use index::{RxIndex, TxIndex, WINDOW};
pub use rtcp::{RtcpOpener, RtcpSealer};

use crate::types::Suite;
use cm::Cm;
use gcm::Gcm;

/// Bytes that must be spare behind a plain packet before it is sealed: the longest trailer of any suite, a GCM tag
/// and the SRTCP index word. Asked for whatever the suite, so that a buffer too short shows at once.
pub const TAG_MAX: usize = 16 + 4;

/// The RTP header without CSRCs and extension (RFC 3550 5.1).
const FIXED_HEADER: usize = 12;

/// Why a packet was neither sealed nor opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    #[error("no room for the authentication tag behind the packet")]
    NoRoom,
    #[error("packet too short, or its header longer than itself")]
    Malformed,
    #[error("authentication tag does not match")]
    Forged,
    #[error("packet index already received, or older than the replay window")]
    Replayed,
    #[error("2^31 SRTCP packets under one key: a new key is due (RFC 3711 9.2)")]
    KeyExhausted,
}

/// Seals the RTP packets of one direction. Shared by all its SSRCs.
pub struct RtpSealer {
    cipher: Cipher,
}

/// Opens the RTP packets of one direction. Shared by all its SSRCs.
pub struct RtpOpener {
    cipher: Cipher,
}

impl RtpSealer {
    /// From one direction's DTLS-SRTP master key and salt (RFC 5764 4.2): [`Suite::key_len`] and [`Suite::salt_len`]
    /// bytes of them, the rest is not looked at. A shorter key is a mistake of the caller's, and panics.
    pub fn new(suite: Suite, key: &[u8], salt: &[u8; 14]) -> RtpSealer {
        RtpSealer { cipher: Cipher::new(suite, key, salt, kdf::Purpose::Rtp) }
    }

    /// Seals `buf[..len]` in place and returns the sealed length. `header_len` bytes (fixed header, CSRCs, extension)
    /// are authenticated and stay clear; SSRC and sequence number are read from them, `roc` is the rollover counter
    /// that goes with that sequence number (see [`TxIndex`]).
    ///
    /// The same SSRC, `roc` and sequence number must never carry two different packets: under GCM that gives away the
    /// authentication key. Resend the identical bytes or take a new sequence number.
    ///
    /// # Errors
    /// [`SrtpError::NoRoom`] when fewer than [`TAG_MAX`] bytes follow `len`, [`SrtpError::Malformed`] when
    /// `header_len` is below 12 or above `len`. `buf` is then unchanged.
    #[inline]
    pub fn seal(&self, buf: &mut [u8], len: usize, header_len: usize, roc: u32) -> Result<usize, SrtpError> {
        if header_len < FIXED_HEADER || header_len > len {
            return Err(SrtpError::Malformed);
        }
        if buf.len().saturating_sub(len) < TAG_MAX {
            return Err(SrtpError::NoRoom);
        }
        let seq = u16::from_be_bytes([buf[2], buf[3]]);
        let ssrc = u32_at(buf, 8);
        let index = u64::from(roc) << 16 | u64::from(seq);
        match &self.cipher {
            Cipher::Gcm(gcm) => {
                let (header, rest) = buf.split_at_mut(header_len);
                let (payload, spare) = rest.split_at_mut(len - header_len);
                let tag = gcm.seal(gcm.rtp_nonce(ssrc, index), header, payload)?;
                spare[..gcm::TAG].copy_from_slice(&tag);
                Ok(len + gcm::TAG)
            }
            Cipher::Cm(cm) => {
                cm.apply_keystream(ssrc, index, &mut buf[header_len..len]);
                let tag = cm.mac().tag(&buf[..len], &roc.to_be_bytes());
                buf[len..len + cm::TAG].copy_from_slice(&tag);
                Ok(len + cm::TAG)
            }
        }
    }
}

impl RtpOpener {
    /// See [`RtpSealer::new`].
    pub fn new(suite: Suite, key: &[u8], salt: &[u8; 14]) -> RtpOpener {
        RtpOpener { cipher: Cipher::new(suite, key, salt, kdf::Purpose::Rtp) }
    }

    /// Opens `packet` in place and returns the length of the plain packet, which is what `packet` then begins with.
    /// `header_len` as in [`crate::media::rtp::Header`], `index` = ROC << 16 | sequence number as
    /// [`RxIndex::estimate`] guessed it. Whether the index was seen before is the caller's to ask, before
    /// ([`RxIndex::is_replay`]); commit the index only after this returned `Ok`.
    ///
    /// # Errors
    /// [`SrtpError::Malformed`] for a packet too short for header and tag, [`SrtpError::Forged`] when the tag does
    /// not match; the payload is then of no use (GCM overwrites it).
    #[inline]
    pub fn open(&self, packet: &mut [u8], header_len: usize, index: u64) -> Result<usize, SrtpError> {
        let tag = match &self.cipher {
            Cipher::Gcm(_) => gcm::TAG,
            Cipher::Cm(_) => cm::TAG,
        };
        let len = packet.len().checked_sub(tag).ok_or(SrtpError::Malformed)?;
        if header_len < FIXED_HEADER || header_len > len {
            return Err(SrtpError::Malformed);
        }
        let ssrc = u32_at(packet, 8);
        match &self.cipher {
            Cipher::Gcm(gcm) => {
                let (header, sealed) = packet.split_at_mut(header_len);
                gcm.open(gcm.rtp_nonce(ssrc, index), header, sealed)?;
            }
            Cipher::Cm(cm) => {
                let (plain, tag) = packet.split_at_mut(len);
                let roc = (index >> 16) as u32;
                if !cm.mac().verify(plain, &roc.to_be_bytes(), tag) {
                    return Err(SrtpError::Forged);
                }
                cm.apply_keystream(ssrc, index, &mut plain[header_len..]);
            }
        }
        Ok(len)
    }
}

/// Session keys of one direction and purpose. Both kept inline: a packet then touches one run of cache lines.
#[expect(clippy::large_enum_variant, reason = "a box would cost a cache miss a packet to save 300 bytes a transport")]
enum Cipher {
    Cm(Cm),
    Gcm(Gcm),
}

impl Cipher {
    fn new(suite: Suite, key: &[u8], salt: &[u8; 14], purpose: kdf::Purpose) -> Cipher {
        let key = &key[..suite.key_len()];
        match suite {
            Suite::Aes128CmSha1_80 => Cipher::Cm(Cm::derive(key, salt, purpose)),
            Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => Cipher::Gcm(Gcm::derive(key, salt, purpose)),
        }
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
