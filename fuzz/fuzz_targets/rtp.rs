//! RTP packets from outside: header, extensions, payload, and opening as SRTP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::media::rtp;
use roomful::media::srtp::{RtpOpener, RxIndex};
use roomful::types::Suite;

fuzz_target!(|data: &[u8]| {
    rtp::is_rtcp(data);
    let Some(header) = rtp::parse(data) else { return };
    assert!(header.header_len <= data.len());
    for id in 0..=255 {
        if let Some(element) = header.extension(data, id) {
            assert!(element.len() <= 255);
        }
    }
    if let Some(payload) = header.payload(data) {
        assert!(!payload.is_empty() && payload.len() <= data.len() - header.header_len);
    }
    let rx = RxIndex::default();
    for suite in [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm] {
        let opener = RtpOpener::new(suite, &[1; 16], &[2; 14]);
        assert!(opener.open(&mut data.to_vec(), header.header_len, rx.estimate(header.seq)).is_err());
    }
});
