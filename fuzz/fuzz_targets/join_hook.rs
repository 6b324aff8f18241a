//! See `roomful::fuzzing::join_hook`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| roomful::fuzzing::join_hook(text));
