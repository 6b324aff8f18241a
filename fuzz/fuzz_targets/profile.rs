//! A resolved profile from outside: read, and what was accepted must read again from its own resolved text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::profile::parse_resolved;

fuzz_target!(|text: &str| {
    if let Ok(profile) = parse_resolved(text) {
        let again = parse_resolved(&profile.resolved);
        assert!(again.is_ok(), "{again:?}");
    }
});
