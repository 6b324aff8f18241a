//! RTP headers (RFC 3550 5.1) with header extensions (RFC 8285): a parser for received packets and a template for sent
//! ones. Headers stay clear under SRTP, so both work on sealed packets too.

/// A received packet's header. Offsets only: it borrows nothing, the packet is handed in again where it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub marker: bool,
    /// Payload type, 7 bits.
    pub pt: u8,
    pub seq: u16,
    /// In units of the payload type's clock.
    pub timestamp: u32,
    pub ssrc: u32,
    /// Bytes before the payload: fixed header, CSRCs and extension.
    pub header_len: usize,
    /// Whether the payload ends with padding; its length is known only once the packet is opened.
    pub padding: bool,
    /// "Defined by profile" of the extension, which tells the two forms apart; 0 without one.
    extension_profile: u16,
    extension_at: usize,
}

/// Reads a packet's header, sealed or plain. `None` when it is not RTP version 2 or is cut off inside its header.
#[inline]
pub fn parse(packet: &[u8]) -> Option<Header> {
    let fixed: &[u8; FIXED] = packet.first_chunk()?;
    if fixed[0] >> 6 != 2 {
        return None;
    }
    let mut header_len = FIXED + 4 * usize::from(fixed[0] & 0x0f);
    let mut extension_profile = 0;
    let mut extension_at = header_len;
    if fixed[0] & 0x10 != 0 {
        let [p0, p1, l0, l1] = *packet.get(header_len..)?.first_chunk()?;
        extension_profile = u16::from_be_bytes([p0, p1]);
        extension_at += 4;
        header_len = extension_at + 4 * usize::from(u16::from_be_bytes([l0, l1]));
    }
    (header_len <= packet.len()).then(|| Header {
        marker: fixed[1] & 0x80 != 0,
        pt: fixed[1] & 0x7f,
        seq: u16::from_be_bytes([fixed[2], fixed[3]]),
        timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        header_len,
        padding: fixed[0] & 0x20 != 0,
        extension_profile,
        extension_at,
    })
}

/// Whether a datagram of the RTP/RTCP range is RTCP: RFC 5761 4, packet types 192 to 223.
#[inline]
pub fn is_rtcp(packet: &[u8]) -> bool {
    matches!(packet, [first, 192..=223, ..] if first >> 6 == 2)
}

impl Header {
    /// The extension element `id`, in the one-byte or two-byte form (RFC 8285 4.2, 4.3). `packet` is the one this
    /// header was read from. `None` when it is not there or the block is malformed before it.
    #[inline]
    pub fn extension<'a>(&self, packet: &'a [u8], id: u8) -> Option<&'a [u8]> {
        let mut block = packet.get(self.extension_at..self.header_len)?;
        if id == 0 {
            return None;
        }
        let two_byte = match self.extension_profile {
            ONE_BYTE => false,
            profile if profile & 0xfff0 == TWO_BYTE => true,
            _ => return None,
        };
        while let [first, rest @ ..] = block {
            if *first == 0 {
                block = rest; // padding
                continue;
            }
            let (found, len, rest) = if two_byte {
                let (len, rest) = rest.split_first()?;
                (*first, usize::from(*len), rest)
            } else {
                (first >> 4, usize::from(first & 0x0f) + 1, rest)
            };
            // In the one-byte form 15 ends the block, and 0 with a length is not allowed.
            if !two_byte && (found == 15 || found == 0) {
                return None;
            }
            let (element, rest) = rest.split_at_checked(len)?;
            if found == id {
                return Some(element);
            }
            block = rest;
        }
        None
    }

    /// The payload of the opened packet `plain` without its padding. `None` when nothing is left (padding-only probes)
    /// or the padding's length cannot be.
    #[inline]
    pub fn payload<'a>(&self, plain: &'a [u8]) -> Option<&'a [u8]> {
        let mut payload = plain.get(self.header_len..)?;
        if self.padding {
            let padding = usize::from(*payload.last()?);
            if padding == 0 {
                return None;
            }
            payload = &payload[..payload.len().checked_sub(padding)?];
        }
        (!payload.is_empty()).then_some(payload)
    }
}

/// A stream's header, built once: fixed part and extension block, with the places of what changes remembered. Up to
/// 72 bytes, no allocation.
#[derive(Clone, Debug)]
pub struct HeaderTemplate {
    bytes: [u8; TEMPLATE_MAX],
    len: usize,
    /// Places of the changing elements' values; 0 where there is none.
    twcc_at: usize,
    abs_send_time_at: usize,
    audio_level_at: usize,
}

impl HeaderTemplate {
    /// Longest MID that is carried, in bytes. A longer one is left out; its streams are told apart by their SSRCs.
    pub const MID_MAX: usize = 32;
    /// Longest RTP stream id, in bytes.
    pub const RID_MAX: usize = 4;

    /// For payload type `pt` and `ssrc`, with the extensions that were negotiated, each by its id:
    /// `mid` (RFC 9143) and `rid` (RFC 8852: RTP stream id, or that of the repaired stream) with their values, `twcc` (transport-wide sequence number, draft-holmer-rmcat-transport-wide-cc),
    /// `abs_send_time` (24 bits of seconds in 6.18 fixed point), `audio_level` (RFC 6464). An id of 0 counts as not
    /// negotiated. The block has the one-byte form unless an id above 14 or a MID above 16 bytes asks for the other.
    pub fn new(
        pt: u8,
        ssrc: u32,
        mid: Option<(u8, &str)>,
        rid: Option<(u8, &str)>,
        twcc: Option<u8>,
        abs_send_time: Option<u8>,
        audio_level: Option<u8>,
    ) -> HeaderTemplate {
        let mut template =
            HeaderTemplate { bytes: [0; TEMPLATE_MAX], len: FIXED, twcc_at: 0, abs_send_time_at: 0, audio_level_at: 0 };
        template.bytes[0] = 0x80;
        template.bytes[1] = pt & 0x7f;
        template.bytes[8..FIXED].copy_from_slice(&ssrc.to_be_bytes());

        let mid = mid.filter(|(id, mid)| *id != 0 && (1..=Self::MID_MAX).contains(&mid.len()));
        let [twcc, abs_send_time, audio_level] = [twcc, abs_send_time, audio_level].map(|id| id.filter(|id| *id != 0));
        let rid = rid.filter(|(id, rid)| *id != 0 && (1..=Self::RID_MAX).contains(&rid.len()));
        let ids = [mid.map(|(id, _)| id), rid.map(|(id, _)| id), twcc, abs_send_time, audio_level];
        if ids.iter().all(Option::is_none) {
            return template;
        }
        let two_byte = ids.iter().flatten().any(|id| *id > 14) || mid.is_some_and(|(_, mid)| mid.len() > 16);

        template.len += 4;
        if let Some((id, mid)) = mid {
            let at = template.element(two_byte, id, mid.len());
            template.bytes[at..at + mid.len()].copy_from_slice(mid.as_bytes());
        }
        if let Some((id, rid)) = rid {
            let at = template.element(two_byte, id, rid.len());
            template.bytes[at..at + rid.len()].copy_from_slice(rid.as_bytes());
        }
        if let Some(id) = twcc {
            template.twcc_at = template.element(two_byte, id, 2);
        }
        if let Some(id) = abs_send_time {
            template.abs_send_time_at = template.element(two_byte, id, 3);
        }
        if let Some(id) = audio_level {
            template.audio_level_at = template.element(two_byte, id, 1);
        }
        template.len = template.len.next_multiple_of(4);
        let words = (template.len - FIXED - 4) / 4;
        template.bytes[0] |= 0x10;
        template.bytes[FIXED..FIXED + 2].copy_from_slice(&if two_byte { TWO_BYTE } else { ONE_BYTE }.to_be_bytes());
        template.bytes[FIXED + 2..FIXED + 4].copy_from_slice(&(words as u16).to_be_bytes());
        template
    }

    /// Bytes of every header it writes, a multiple of 4.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes a header to the front of `buf` and returns its length, or 0 where `buf` is shorter. `abs24` is the send
    /// time (see [`abs_send_time`]), `audio_level` the whole octet: voice activity and level in -dBov. What was not
    /// negotiated is ignored.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "each is one field of the header; a struct would only repeat them")]
    pub fn write(
        &self,
        buf: &mut [u8],
        marker: bool,
        seq: u16,
        ts: u32,
        twcc_seq: u16,
        abs24: u32,
        audio_level: u8,
    ) -> usize {
        let Some(header) = buf.get_mut(..self.len) else { return 0 };
        header.copy_from_slice(&self.bytes[..self.len]);
        header[1] |= u8::from(marker) << 7;
        header[2..4].copy_from_slice(&seq.to_be_bytes());
        header[4..8].copy_from_slice(&ts.to_be_bytes());
        if self.twcc_at != 0 {
            header[self.twcc_at..self.twcc_at + 2].copy_from_slice(&twcc_seq.to_be_bytes());
        }
        if self.abs_send_time_at != 0 {
            header[self.abs_send_time_at..self.abs_send_time_at + 3].copy_from_slice(&abs24.to_be_bytes()[1..]);
        }
        if self.audio_level_at != 0 {
            header[self.audio_level_at] = audio_level;
        }
        self.len
    }

    /// Appends an element's head and leaves `len` bytes for its value, whose place it returns.
    fn element(&mut self, two_byte: bool, id: u8, len: usize) -> usize {
        let at = if two_byte {
            self.bytes[self.len] = id;
            self.bytes[self.len + 1] = len as u8;
            self.len + 2
        } else {
            self.bytes[self.len] = id << 4 | (len as u8 - 1);
            self.len + 1
        };
        self.len = at + len;
        at
    }
}

/// The abs-send-time value of a clock reading in ns: seconds modulo 64 in 6.18 fixed point
/// (<http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time>).
#[inline]
pub fn abs_send_time(unix_ns: u64) -> u32 {
    let (seconds, ns) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
    (((seconds << 18) | ((ns << 18) / 1_000_000_000)) & 0xff_ffff) as u32
}

const FIXED: usize = 12;
/// Fixed header, extension head, a MID of 32, a RID of 4 and the three other elements in the two-byte form, padded.
const TEMPLATE_MAX: usize = 72;
const ONE_BYTE: u16 = 0xbede;
const TWO_BYTE: u16 = 0x1000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        [&[first, 0xe0, 0x12, 0x34, 1, 2, 3, 4, 0xca, 0xfe, 0xba, 0xbe], rest].concat()
    }

    #[test]
    fn fixed_header_is_read() {
        let bytes = packet(0x80, b"payload");
        let header = parse(&bytes).unwrap();
        assert_eq!((header.marker, header.pt, header.seq), (true, 96, 0x1234));
        assert_eq!((header.timestamp, header.ssrc), (0x0102_0304, 0xcafe_babe));
        assert_eq!((header.header_len, header.padding), (12, false));
        assert_eq!(header.payload(&bytes), Some(&b"payload"[..]));
        assert_eq!(header.extension(&bytes, 1), None);
    }

    #[test]
    fn csrcs_and_extension_belong_to_the_header() {
        let bytes = packet(0x92, &[0, 0, 0, 1, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 0x10, 0xaa, 0, 0, 9]);
        let header = parse(&bytes).unwrap();
        assert_eq!(header.header_len, 12 + 8 + 8);
        assert_eq!(header.extension(&bytes, 1), Some(&[0xaa][..]));
        assert_eq!(header.payload(&bytes), Some(&[9][..]));
    }

    #[test]
    fn headers_cut_off_anywhere_are_none() {
        let bytes = packet(0x92, &[0, 0, 0, 1, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 0x10, 0xaa, 0, 0]);
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None, "{len}");
        }
        assert!(parse(&bytes).is_some());
        for version in [0x12, 0x52, 0xd2] {
            let mut other = bytes.clone();
            other[0] = version;
            assert_eq!(parse(&other), None);
        }
    }

    /// The examples of RFC 8285 4.2 and 4.3: elements of 1, 2 and 4 bytes, and of 0, 1 and 4 bytes, with padding.
    #[test]
    fn both_extension_forms_as_in_the_rfc() {
        let one = packet(0x90, &[0xbe, 0xde, 0, 3, 0x10, 0xa1, 0x21, 0xb1, 0xb2, 0, 0, 0x33, 1, 2, 3, 4]);
        let header = parse(&one).unwrap();
        assert_eq!(header.extension(&one, 1), Some(&[0xa1][..]));
        assert_eq!(header.extension(&one, 2), Some(&[0xb1, 0xb2][..]));
        assert_eq!(header.extension(&one, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!((header.extension(&one, 4), header.extension(&one, 0)), (None, None));

        let two = packet(0x90, &[0x10, 0x05, 0, 3, 1, 0, 2, 1, 0xbb, 0, 200, 4, 1, 2, 3, 4]);
        let header = parse(&two).unwrap();
        assert_eq!(header.extension(&two, 1), Some(&[][..]));
        assert_eq!(header.extension(&two, 2), Some(&[0xbb][..]));
        assert_eq!(header.extension(&two, 200), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn id_15_ends_and_overlong_elements_are_refused() {
        let bytes = packet(0x90, &[0xbe, 0xde, 0, 2, 0xf0, 0xaa, 0x10, 0xbb, 0, 0, 0, 0]);
        assert_eq!(parse(&bytes).unwrap().extension(&bytes, 1), None);
        let bytes = packet(0x90, &[0xbe, 0xde, 0, 1, 0x17, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(parse(&bytes).unwrap().extension(&bytes, 1), None);
        let bytes = packet(0x90, &[0xab, 0xcd, 0, 1, 0x10, 1, 0, 0]);
        assert_eq!(parse(&bytes).unwrap().extension(&bytes, 1), None);
    }

    #[test]
    fn padding_is_removed_and_padding_only_is_none() {
        for (payload, expected) in [
            (&[1, 2, 3, 0, 0, 3][..], Some(&[1, 2, 3][..])),
            (&[1, 2, 1], Some(&[1, 2])),
            (&[0, 0, 3], None),
            (&[1, 2, 0], None),
            (&[1, 2, 4], None),
            (&[], None),
        ] {
            let bytes = packet(0xa0, payload);
            assert_eq!(parse(&bytes).unwrap().payload(&bytes), expected);
        }
        let bytes = packet(0x80, &[]);
        assert_eq!(parse(&bytes).unwrap().payload(&bytes), None);
    }

    #[test]
    fn rtcp_is_told_apart() {
        assert!(is_rtcp(&[0x80, 200, 0, 1]) && is_rtcp(&[0x81, 192]) && is_rtcp(&[0x8f, 223]));
        assert!(!is_rtcp(&[0x80, 191]) && !is_rtcp(&[0x80, 224]) && !is_rtcp(&[0x00, 200]));
        assert!(!is_rtcp(&[0x80]) && !is_rtcp(&[]));
        assert!(!is_rtcp(&packet(0x80, &[])), "marker and payload type 96");
    }

    #[test]
    fn bare_template_has_12_bytes() {
        let template = HeaderTemplate::new(111, 7, None, None, None, Some(0), None);
        let mut buf = [0xff; 12];
        assert_eq!(template.write(&mut buf, false, 5, 960, 1, 2, 3), 12);
        assert_eq!(buf, [0x80, 111, 0, 5, 0, 0, 3, 0xc0, 0, 0, 0, 7]);
        assert_eq!(template.write(&mut buf[..11], false, 5, 960, 1, 2, 3), 0);
    }

    #[test]
    fn template_bytes() {
        let template = HeaderTemplate::new(96, 0x0102_0304, Some((4, "0")), None, Some(3), Some(2), Some(1));
        let mut buf = [0; 64];
        let len = template.write(&mut buf, true, 0xfffe, 0xaabb_ccdd, 0x1122, 0x0033_4455, 0x9f);
        #[rustfmt::skip]
        let expected = [
            0x90, 0xe0, 0xff, 0xfe, 0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 3, 4,
            0xbe, 0xde, 0, 3, 0x40, b'0', 0x31, 0x11, 0x22, 0x22, 0x33, 0x44, 0x55, 0x10, 0x9f, 0,
        ];
        assert_eq!(buf[..len], expected);
    }

    #[test]
    fn mid_too_long_is_left_out() {
        let long = "m".repeat(HeaderTemplate::MID_MAX + 1);
        assert_eq!(HeaderTemplate::new(96, 1, Some((4, &long)), None, None, None, None).len(), 12);
        assert_eq!(HeaderTemplate::new(96, 1, Some((4, "")), None, None, None, None).len(), 12);
    }

    #[test]
    fn abs_send_time_is_6_18_fixed_point() {
        assert_eq!(abs_send_time(0), 0);
        assert_eq!(abs_send_time(1_500_000_000), 0x06_0000);
        assert_eq!(abs_send_time(64_000_000_000), 0);
        assert_eq!(abs_send_time(63_999_999_999), 0xff_ffff);
        assert!(abs_send_time(u64::MAX) <= 0xff_ffff);
    }

    proptest! {
        #[test]
        fn what_the_template_writes_the_parser_reads(
            fixed in (0u8..128, any::<u32>(), any::<bool>(), any::<u16>(), any::<u32>()),
            mid in proptest::option::of((1u8..=255, "[a-z0-9]{1,32}")),
            rid in proptest::option::of((1u8..=255, "[a-z0-9]{1,4}")),
            twcc in proptest::option::of(1u8..=255),
            abs in proptest::option::of(1u8..=255),
            level in proptest::option::of(1u8..=255),
            values in (any::<u16>(), 0u32..1 << 24, any::<u8>()),
        ) {
            let ids: Vec<u8> = [mid.as_ref().map(|(id, _)| *id), rid.as_ref().map(|(id, _)| *id), twcc, abs, level].into_iter().flatten().collect();
            prop_assume!(ids.iter().collect::<std::collections::HashSet<_>>().len() == ids.len());
            let (pt, ssrc, marker, seq, ts) = fixed;
            let (twcc_seq, abs24, audio_level) = values;
            let template = HeaderTemplate::new(
                pt,
                ssrc,
                mid.as_ref().map(|(id, m)| (*id, m.as_str())),
                rid.as_ref().map(|(id, r)| (*id, r.as_str())),
                twcc,
                abs,
                level,
            );
            let mut buf = [0xaa; 80];
            let len = template.write(&mut buf, marker, seq, ts, twcc_seq, abs24, audio_level);
            prop_assert_eq!((len, len % 4), (template.len(), 0));
            let header = parse(&buf[..len]).unwrap();
            prop_assert_eq!((header.marker, header.pt, header.seq), (marker, pt, seq));
            prop_assert_eq!((header.timestamp, header.ssrc, header.header_len), (ts, ssrc, len));
            if let Some((id, rid)) = &rid {
                prop_assert_eq!(header.extension(&buf, *id), Some(rid.as_bytes()));
            }
            if let Some((id, mid)) = &mid {
                prop_assert_eq!(header.extension(&buf, *id), Some(mid.as_bytes()));
            }
            for (id, value) in [
                (twcc, &twcc_seq.to_be_bytes()[..]),
                (abs, &abs24.to_be_bytes()[1..]),
                (level, &[audio_level]),
            ] {
                if let Some(id) = id {
                    prop_assert_eq!(header.extension(&buf, id), Some(value));
                }
            }
        }
    }

    #[test]
    fn noise_never_panics() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut seen = 0;
        for _ in 0..100_000 {
            let mut bytes = vec![0; rng.random_range(0..96)];
            rng.fill_bytes(&mut bytes);
            if let Some(first) = bytes.first_mut() {
                *first = 0x80 | *first & 0x33; // few CSRCs, so that extensions are reached
            }
            if bytes.len() > 16 && rng.random() {
                let at = 12 + 4 * usize::from(bytes[0] & 0x0f);
                let profile = if rng.random() { [0xbe, 0xde] } else { [0x10, 0x00] };
                let words = rng.random_range(0..20);
                [profile[0], profile[1], 0, words].iter().zip(at..).for_each(|(byte, at)| {
                    bytes.get_mut(at).into_iter().for_each(|b| *b = *byte);
                });
            }
            is_rtcp(&bytes);
            let Some(header) = parse(&bytes) else { continue };
            assert!(header.header_len <= bytes.len());
            for id in [0, 1, 5, 14, 15, 255] {
                seen += usize::from(header.extension(&bytes, id).is_some());
            }
            header.payload(&bytes);
            header.payload(&bytes[..header.header_len]);
        }
        assert!(seen > 1_000, "the mutations must reach the elements: {seen}");
    }
}
