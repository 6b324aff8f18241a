//! See `roomful::fuzzing::janus`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| roomful::fuzzing::janus(text));
