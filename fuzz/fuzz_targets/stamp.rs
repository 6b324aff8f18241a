//! Any payload of any codec: no panic, and a stamp that is found can be written and found again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::media::stamp::{self, Found, LEN};
use roomful::types::Codec;

fuzz_target!(|payload: &[u8]| {
    for codec in [Codec::Opus, Codec::Vp8, Codec::H264] {
        if let Found::Stamp(stamp) = stamp::find(codec, payload) {
            let mut again = [0; LEN + 1];
            stamp.write(&mut again[1..]);
            assert_eq!(stamp::find(Codec::Vp8, &again), Found::Stamp(stamp));
        }
    }
});
