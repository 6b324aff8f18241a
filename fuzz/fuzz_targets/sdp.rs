//! Any text as an offer, and as an answer to an offer of ours; what we answer has to be readable.

#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::sdp::{Description, LocalTrack, Negotiation};
use roomful::transport::{LocalParams, Setup};
use roomful::types::{Client, Codec};

fuzz_target!(|text: &str| {
    let local = LocalParams {
        ufrag: "ufrag".into(),
        pwd: "passwordOf24Characters..".into(),
        fingerprint: vec!["00"; 32].join(":"),
        candidates: vec![],
    };
    let tracks = [LocalTrack { encoding_codec: Codec::Vp8, ssrc: 1, rtx_ssrc: Some(2), layers: 1, simulcast: roomful::types::Simulcast::Rid }];
    let mut answering = Negotiation::new(Client::Chrome, 1, "c".into());
    if let Ok((answer, _, agreed)) = answering.accept_offer(text, &local, Setup::Active, &[]) {
        assert!(agreed.receives.is_empty() || Description::parse(&answer).is_ok());
        answering.offer(&local, &tracks, 1, 1);
    }
    let mut offering = Negotiation::new(Client::Light, 1, "c".into());
    offering.offer(&local, &tracks, 1, 1);
    let _ = offering.accept_answer(text);
});
