//! See `roomful::fuzzing::turn`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| roomful::fuzzing::turn(bytes));
