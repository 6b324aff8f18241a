//! Just enough STUN (RFC 8489) to know what a message is and whether it is authentic, before the ICE agent sees it:
//! rtc-ice 0.21.1 settles role conflicts before it checks MESSAGE-INTEGRITY, and takes any inbound STUN for life.

use ring::hmac;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const MESSAGE_INTEGRITY: u16 = 0x0008;
/// Type and length, then an HMAC-SHA1.
const MESSAGE_INTEGRITY_LEN: usize = 24;

pub(super) type TransactionId = [u8; 12];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

/// A well-formed STUN Binding message.
pub(super) struct Message<'a> {
    raw: &'a [u8],
    pub class: Class,
    pub transaction: TransactionId,
    /// Where MESSAGE-INTEGRITY begins.
    integrity: Option<usize>,
}

impl<'a> Message<'a> {
    /// `None` for anything but one whole Binding message.
    pub fn parse(raw: &'a [u8]) -> Option<Message<'a>> {
        let class = match raw.first_chunk::<2>()? {
            [0x00, 0x01] => Class::Request,
            [0x00, 0x11] => Class::Indication,
            [0x01, 0x01] => Class::Success,
            [0x01, 0x11] => Class::Error,
            _ => return None,
        };
        let header = raw.first_chunk::<HEADER>()?;
        let length = u16::from_be_bytes([header[2], header[3]]) as usize;
        if header[4..8] != MAGIC_COOKIE || length != raw.len() - HEADER {
            return None;
        }
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&header[8..]);
        Some(Message { raw, class, transaction, integrity: find_integrity(raw)? })
    }

    /// True when MESSAGE-INTEGRITY is there and was made with this password (RFC 8489 14.5).
    pub fn authentic(&self, password: &str) -> bool {
        let Some(at) = self.integrity else { return false };
        let Some(tag) = self.raw.get(at + 4..at + MESSAGE_INTEGRITY_LEN) else { return false };
        // The length counts up to and including MESSAGE-INTEGRITY, not what follows it.
        let length = (at + MESSAGE_INTEGRITY_LEN - HEADER) as u16;
        let mut signed = self.raw[..at].to_vec();
        signed[2..4].copy_from_slice(&length.to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
        hmac::verify(&key, &signed, tag).is_ok()
    }
}

/// Walks the attributes; `None` when they do not fill the message exactly.
#[expect(clippy::option_option, reason = "malformed, without, with")]
fn find_integrity(raw: &[u8]) -> Option<Option<usize>> {
    let (mut at, mut found) = (HEADER, None);
    while at < raw.len() {
        let head = raw.get(at..at + 4)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = u16::from_be_bytes([head[2], head[3]]) as usize;
        if kind == MESSAGE_INTEGRITY && found.is_none() {
            if length + 4 != MESSAGE_INTEGRITY_LEN {
                return None;
            }
            found = Some(at);
        }
        at += 4 + length.next_multiple_of(4);
    }
    (at == raw.len()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 2.2: sample IPv4 response, password `VOkJxbRl1RmTxUk/WvJxBt`.
    const RESPONSE: [u8; 80] = [
        0x01, 0x01, 0x00, 0x3c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87,
        0xdf, 0xae, 0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63, 0x74, 0x6f, 0x72, 0x20,
        0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43, 0x00, 0x08, 0x00, 0x14, 0x2b, 0x91,
        0xf5, 0x99, 0xfd, 0x9e, 0x90, 0xc3, 0x8c, 0x74, 0x89, 0xf9, 0x2a, 0xf9, 0xba, 0x53, 0xf0, 0x6b, 0xe7, 0xd7,
        0x80, 0x28, 0x00, 0x04, 0xc0, 0x7d, 0x4c, 0x96,
    ];
    const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

    #[test]
    fn the_sample_response_of_rfc_5769_is_authentic() {
        let m = Message::parse(&RESPONSE).unwrap();
        assert_eq!(m.class, Class::Success);
        assert_eq!(m.transaction, RESPONSE[8..20]);
        assert!(m.authentic(PASSWORD));
        assert!(!m.authentic("another password"));
    }

    #[test]
    fn a_changed_bit_before_the_tag_is_noticed() {
        for bit in 0..72 * 8 {
            let mut raw = RESPONSE;
            raw[bit / 8] ^= 1 << (bit % 8);
            let authentic = Message::parse(&raw).is_some_and(|m| m.authentic(PASSWORD));
            assert!(!authentic, "bit {bit}");
        }
    }

    #[test]
    fn truncated_messages_are_refused() {
        for n in 0..RESPONSE.len() {
            assert!(Message::parse(&RESPONSE[..n]).is_none(), "{n} bytes");
        }
    }

    #[test]
    fn a_message_without_integrity_is_not_authentic() {
        let mut raw = [0u8; 20];
        raw[1] = 1;
        raw[4..8].copy_from_slice(&MAGIC_COOKIE);
        assert!(!Message::parse(&raw).unwrap().authentic(PASSWORD));
    }
}
