//! RTP packets from outside: header, extensions, payload, and opening as SRTP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::media::srtp::{RtpOpener, RxIndex};
use roomful::media::{red, rtp};
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
        if let Some(blocks) = red::parse(payload) {
            assert!(blocks.len() <= red::BLOCKS_MAX);
            assert!(blocks.map(|b| b.payload.len()).sum::<usize>() < payload.len());
        }
    }
    let rx = RxIndex::default();
    for suite in [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm, Suite::AeadAes256Gcm] {
        let opener = RtpOpener::new(suite, &[1; 32], &[2; 14]);
        assert!(opener.open(&mut data.to_vec(), header.header_len, rx.estimate(header.seq)).is_err());
    }
});
