//! Against captured descriptions of Janus and Chromium, against ourselves, and against garbage.

mod captured;
mod garbage;
mod negotiate;
mod round_trip;

use super::*;
use crate::transport::{LocalParams, Setup};
use crate::types::{Client, Codec, Simulcast};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sdp/", $name, ".sdp")).replace('\n', "\r\n")
    };
}
use fixture;

fn local() -> LocalParams {
    LocalParams {
        ufrag: "ourU".into(),
        pwd: "ourPasswordOf24Character".into(),
        fingerprint: vec!["0F"; 32].join(":"),
        candidates: vec!["1 1 udp 2130706431 192.0.2.9 5000 typ host".into()],
    }
}

fn opus(ssrc: u32) -> LocalTrack {
    LocalTrack { encoding_codec: Codec::Opus, ssrc, rtx_ssrc: None, layers: 1, simulcast: Simulcast::Rid }
}

fn video(codec: Codec, ssrc: u32, rtx_ssrc: u32) -> LocalTrack {
    LocalTrack { encoding_codec: codec, ssrc, rtx_ssrc: Some(rtx_ssrc), layers: 1, simulcast: Simulcast::Rid }
}

fn chrome() -> Negotiation {
    Negotiation::new(Client::Chrome, 77, "cn".into())
}

fn light() -> Negotiation {
    Negotiation::new(Client::Light, 78, "li".into())
}

/// The lines of the n-th m-section, its m-line first.
fn section(text: &str, n: usize) -> Vec<&str> {
    let part = text.split("\r\nm=").nth(n + 1).unwrap();
    part.split("\r\n").filter(|l| !l.is_empty()).collect()
}

fn directions(text: &str) -> Vec<Direction> {
    Description::parse(text).unwrap().media.iter().map(|m| m.direction).collect()
}
