//! Against the whole `rtc` peer connection, whose ICE and DTLS we use, but none of its offers, media or glue.

use super::client::*;
use super::link::*;
use super::whole::Whole;
use super::*;
use crate::types::Client;
use std::time::Instant;

fn link(suite: Suite, tracks: usize) -> Link<Ours, Whole> {
    let now = Instant::now();
    let ours = Ours::new(now, &[suite], Client::Chrome);
    Link::new(now, ours, Whole::new(now, address(2), suite, &Whole::certificate(), tracks), [address(1), address(2)])
}

fn connect(l: &mut Link<Ours, Whole>) {
    let done = l.run_until(Duration::from_secs(5), |a, b| a.transport.is_connected() && b.connected);
    assert!(done, "{:?}", l.a.events);
}

#[test]
fn we_offer_and_rtc_answers_and_hears_us() {
    for suite in [Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80] {
        let mut l = link(suite, 0);
        let offer = l.a.offer(&[AUDIO, VIDEO], 0, 0);
        let answer = l.b.answer(l.now, &offer);
        l.a.accept_answer(l.now, &answer);
        connect(&mut l);
        let agreed = l.a.negotiation.agreed().clone();
        assert_eq!(agreed.sends.len(), 2);
        for (i, send) in agreed.sends.iter().enumerate() {
            assert!(send.active && send.ext.mid != 0, "{send:?}");
            for _ in 0..10 {
                l.a.send_rtp(send.pt, send.ssrc, &[0x90, 0x80, 1, i as u8]);
            }
        }
        l.run(Duration::from_millis(100));
        for ssrc in [AUDIO.ssrc, VIDEO.ssrc] {
            let n = l.b.received.iter().filter(|(s, _)| *s == ssrc).count();
            assert_eq!(n, 10, "SSRC {ssrc}, {suite}");
        }
    }
}

#[test]
fn rtc_offers_and_we_hear_it_in_both_dtls_roles() {
    for setup in [Setup::Active, Setup::Passive] {
        for suite in [Suite::AeadAes128Gcm, Suite::Aes128CmSha1_80] {
            let mut l = link(suite, 2);
            let offer = l.b.offer(l.now);
            let answer = l.a.accept_offer(l.now, &offer, setup);
            l.b.accept_answer(l.now, &answer);
            connect(&mut l);
            assert_eq!(l.a.transport.setup(), setup);
            let receives = l.a.negotiation.agreed().receives.clone();
            assert_eq!(receives.len(), 2);
            for seq in 0..10 {
                l.b.send(l.now, seq, b"\x90\x80\x01theirs");
            }
            l.run(Duration::from_millis(100));
            for r in receives {
                assert!(r.active);
                let fits = |p: &&(u8, u32, Vec<u8>)| r.codecs.iter().any(|c| c.0 == p.0) && r.ssrcs.contains(&p.1);
                let got: Vec<_> = l.a.received.iter().filter(fits).collect();
                assert_eq!(got.len(), 10, "{:?}: {r:?} {:?}", r.kind, l.a.received);
                assert!(got.iter().all(|p| p.2 == b"\x90\x80\x01theirs"));
            }
        }
    }
}

#[test]
fn rtc_hears_our_close() {
    let mut l = link(Suite::AeadAes128Gcm, 0);
    let offer = l.a.offer(&[AUDIO], 0, 0);
    let answer = l.b.answer(l.now, &offer);
    l.a.accept_answer(l.now, &answer);
    connect(&mut l);
    l.run(Duration::from_secs(20));
    assert!(l.a.transport.is_connected() && l.b.connected);
    let before = l.b.heard;
    l.a.transport.close(l.now);
    l.run(Duration::from_millis(100));
    assert!(l.b.heard > before, "close_notify has arrived");
}
