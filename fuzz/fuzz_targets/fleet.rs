//! See `roomful::fuzzing::fleet_texts`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| roomful::fuzzing::fleet_texts(text));
