//! SRTCP: RFC 3711 3.4 for counter mode, RFC 7714 9 and 10 for GCM. The first packet's sender SSRC stands for the
//! compound.
//!
//! Counter mode: header 8 | encrypted | E and index 4 | tag 10. GCM: header 8 | encrypted | tag 16 | E and index 4.

use super::kdf::Purpose;
use super::{Cipher, SrtpError, TAG_MAX, cm, gcm, u32_at};
use crate::types::Suite;

/// RTCP header and sender SSRC, which stay clear.
const CLEAR: usize = 8;
const WORD: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
const SENDERS: usize = 32;

/// Seals the RTCP compounds of one direction and counts them.
pub struct RtcpSealer {
    cipher: Cipher,
    index: u32,
}

/// Opens the RTCP compounds of one direction. Refuses replays within the last 64 compounds of each of the last
/// 32 senders (a server sends as one SSRC for every stream it forwards); beyond that table the longest known sender
/// is forgotten, never a good packet refused. 512 bytes of table, no allocation.
pub struct RtcpOpener {
    cipher: Cipher,
    senders: [Sender; SENDERS],
    oldest: usize,
}

impl RtcpSealer {
    /// See [`super::RtpSealer::new`].
    pub fn new(suite: Suite, key: &[u8], salt: &[u8; 14]) -> RtcpSealer {
        RtcpSealer { cipher: Cipher::new(suite, key, salt, Purpose::Rtcp), index: 0 }
    }

    /// Seals the compound `buf[..len]` in place under the next index and returns the sealed length.
    ///
    /// # Errors
    /// [`SrtpError::NoRoom`] when fewer than [`TAG_MAX`] bytes follow `len`, [`SrtpError::Malformed`] below 8 bytes,
    /// [`SrtpError::KeyExhausted`] after 2^31 packets. `buf` is then unchanged.
    pub fn seal(&mut self, buf: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        if len < CLEAR {
            return Err(SrtpError::Malformed);
        }
        if buf.len().saturating_sub(len) < TAG_MAX {
            return Err(SrtpError::NoRoom);
        }
        if self.index & ENCRYPTED != 0 {
            return Err(SrtpError::KeyExhausted);
        }
        let index = self.index;
        self.index += 1;
        let ssrc = u32_at(buf, 4);
        let word = (index | ENCRYPTED).to_be_bytes();
        match &self.cipher {
            Cipher::Gcm(gcm) => {
                let (header, rest) = buf.split_at_mut(CLEAR);
                let (body, spare) = rest.split_at_mut(len - CLEAR);
                let tag = gcm.seal(gcm.rtcp_nonce(ssrc, index), &aad(header, word), body)?;
                spare[..gcm::TAG].copy_from_slice(&tag);
                spare[gcm::TAG..gcm::TAG + WORD].copy_from_slice(&word);
                Ok(len + gcm::TAG + WORD)
            }
            Cipher::Cm(cm) => {
                cm.apply_keystream(ssrc, u64::from(index), &mut buf[CLEAR..len]);
                let end = len + WORD;
                buf[len..end].copy_from_slice(&word);
                let tag = cm.mac().tag(&buf[..end], &[]);
                buf[end..end + cm::TAG].copy_from_slice(&tag);
                Ok(end + cm::TAG)
            }
        }
    }
}

impl RtcpOpener {
    /// See [`super::RtpSealer::new`].
    pub fn new(suite: Suite, key: &[u8], salt: &[u8; 14]) -> RtcpOpener {
        RtcpOpener {
            cipher: Cipher::new(suite, key, salt, Purpose::Rtcp),
            senders: [Sender::default(); SENDERS],
            oldest: 0,
        }
    }

    /// Opens `packet` in place, encrypted or only authenticated, and returns the length of the plain compound, which
    /// is what `packet` then begins with.
    ///
    /// # Errors
    /// [`SrtpError::Malformed`] when too short, [`SrtpError::Replayed`], [`SrtpError::Forged`]. The replay window
    /// moves only for packets that pass.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let tag = match &self.cipher {
            Cipher::Gcm(_) => gcm::TAG,
            Cipher::Cm(_) => cm::TAG,
        };
        let len = packet.len().checked_sub(WORD + tag).filter(|len| *len >= CLEAR).ok_or(SrtpError::Malformed)?;
        let ssrc = u32_at(packet, 4);
        let word = match &self.cipher {
            Cipher::Gcm(_) => u32_at(packet, len + gcm::TAG),
            Cipher::Cm(_) => u32_at(packet, len),
        };
        let (index, encrypted) = (word & !ENCRYPTED, word & ENCRYPTED != 0);
        if self.is_replay(ssrc, index) {
            return Err(SrtpError::Replayed);
        }
        match &self.cipher {
            Cipher::Gcm(gcm) if encrypted => {
                let (header, rest) = packet.split_at_mut(CLEAR);
                let sealed = &mut rest[..len - CLEAR + gcm::TAG];
                gcm.open(gcm.rtcp_nonce(ssrc, index), &aad(header, word.to_be_bytes()), sealed)?;
            }
            Cipher::Gcm(gcm) => {
                // Authenticated only (RFC 7714 9.3): the additional data is the whole compound and the index word,
                // which the tag keeps apart on the wire; they swap places.
                packet[len..].rotate_right(WORD);
                let (authenticated, tag) = packet.split_at_mut(len + WORD);
                gcm.open(gcm.rtcp_nonce(ssrc, index), authenticated, tag)?;
            }
            Cipher::Cm(cm) => {
                let (authenticated, tag) = packet.split_at_mut(len + WORD);
                if !cm.mac().verify(authenticated, &[], tag) {
                    return Err(SrtpError::Forged);
                }
                if encrypted {
                    cm.apply_keystream(ssrc, u64::from(index), &mut authenticated[CLEAR..len]);
                }
            }
        }
        self.commit(ssrc, index);
        Ok(len)
    }

    fn is_replay(&self, ssrc: u32, index: u32) -> bool {
        self.senders.iter().find(|s| s.ssrc == ssrc && s.seen != 0).is_some_and(|s| s.is_replay(index))
    }

    fn commit(&mut self, ssrc: u32, index: u32) {
        if let Some(known) = self.senders.iter_mut().find(|s| s.ssrc == ssrc && s.seen != 0) {
            return known.commit(index);
        }
        self.senders[self.oldest] = Sender { ssrc, highest: index, seen: 1 };
        self.oldest = (self.oldest + 1) % SENDERS;
    }
}

#[cfg(test)]
impl RtcpSealer {
    pub(super) fn for_test(cipher: Cipher, index: u32) -> RtcpSealer {
        RtcpSealer { cipher, index }
    }
}

#[cfg(test)]
impl RtcpOpener {
    pub(super) fn for_test(cipher: Cipher) -> RtcpOpener {
        RtcpOpener { cipher, senders: [Sender::default(); SENDERS], oldest: 0 }
    }
}

/// RFC 7714 9.2.
fn aad(header: &[u8], word: [u8; WORD]) -> [u8; CLEAR + WORD] {
    let mut aad = [0; CLEAR + WORD];
    aad[..CLEAR].copy_from_slice(header);
    aad[CLEAR..].copy_from_slice(&word);
    aad
}

/// One sender's replay window; bit 0 of `seen` is `highest`, so 0 means that the slot is free.
#[derive(Clone, Copy, Default)]
struct Sender {
    ssrc: u32,
    highest: u32,
    seen: u64,
}

impl Sender {
    fn is_replay(&self, index: u32) -> bool {
        match self.highest.checked_sub(index) {
            Some(back @ 0..64) => self.seen >> back & 1 != 0,
            Some(_) => true,
            None => false,
        }
    }

    fn commit(&mut self, index: u32) {
        match self.highest.checked_sub(index) {
            Some(back @ 0..64) => self.seen |= 1 << back,
            Some(_) => {}
            None => {
                self.seen = self.seen.checked_shl(index - self.highest).unwrap_or(0) | 1;
                self.highest = index;
            }
        }
    }
}
