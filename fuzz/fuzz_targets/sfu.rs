//! See `roomful::fuzzing::sfu`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| roomful::fuzzing::sfu(bytes));
