//! Against str0m, another stack altogether: offers and answers, ICE full and lite, both DTLS roles, media both ways.

use super::client::*;
use super::link::*;
use super::*;
use crate::types::{Client, Codec};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::time::Instant;
use str0m::change::{SdpAnswer, SdpOffer};
use str0m::media::{Direction, MediaKind, MediaTime};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Input, Output, Rtc, RtcConfig};

struct Str0m {
    rtc: Rtc,
    due: Option<Instant>,
    out: VecDeque<(SocketAddr, BytesMut)>,
    connected: bool,
    received: Vec<(u8, Vec<u8>)>,
    mids: Vec<str0m::media::Mid>,
}

impl Str0m {
    fn new(now: Instant, lite: bool) -> Str0m {
        let crypto = std::sync::Arc::new(str0m::crypto::from_feature_flags());
        let mut rtc = RtcConfig::new().set_crypto_provider(crypto).set_ice_lite(lite).build(now);
        rtc.add_local_candidate(Candidate::host(address(2), "udp").unwrap()).unwrap();
        Str0m { rtc, due: Some(now), out: VecDeque::new(), connected: false, received: vec![], mids: vec![] }
    }

    fn pump(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(t) => {
                    self.due = Some(t);
                    return;
                }
                Output::Transmit(t) => self.out.push_back((t.destination, BytesMut::from(&t.contents[..]))),
                Output::Event(str0m::Event::Connected) => self.connected = true,
                Output::Event(str0m::Event::MediaAdded(m)) => self.mids.push(m.mid),
                Output::Event(str0m::Event::MediaData(d)) => self.received.push((*d.pt, d.data.to_vec())),
                Output::Event(_) => {}
            }
        }
    }

    fn answer(&mut self, offer: &str) -> String {
        let offer = SdpOffer::from_sdp_string(offer).unwrap();
        let answer = self.rtc.sdp_api().accept_offer(offer).unwrap().to_sdp_string();
        self.pump();
        answer
    }

    fn send_opus(&mut self, now: Instant, mid: &str, n: u64, payload: &[u8]) {
        let writer = self.rtc.writer(mid.into()).expect("a media of this mid");
        let pt = writer.payload_params().find(|p| p.spec().codec == str0m::format::Codec::Opus).unwrap().pt();
        writer.write(pt, now, MediaTime::new(960 * n, str0m::media::Frequency::FORTY_EIGHT_KHZ), payload).unwrap();
        self.pump();
    }
}

impl Peer for Str0m {
    fn on_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let receive = Receive::new(Protocol::Udp, from, address(2), datagram).unwrap();
        self.rtc.handle_input(Input::Receive(now, receive)).unwrap();
        self.pump();
    }
    fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.pump();
        self.out.pop_front()
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.due
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
        self.pump();
    }
}

fn link(suites: &[Suite], client: Client, lite: bool) -> Link<Ours, Str0m> {
    let now = Instant::now();
    Link::new(now, Ours::new(now, suites, client), Str0m::new(now, lite), [address(1), address(2)])
}

fn connect(l: &mut Link<Ours, Str0m>) {
    let done = l.run_until(Duration::from_secs(5), |a, b| a.transport.is_connected() && b.connected);
    assert!(done, "{:?}", l.a.events);
}

/// One packet each way on the first m-lines that allow it.
fn exchange_media(l: &mut Link<Ours, Str0m>) {
    let agreed = l.a.negotiation.agreed().clone();
    if let Some(send) = agreed.sends.iter().find(|s| s.codec == Codec::Opus && s.active) {
        l.b.received.clear();
        for _ in 0..20 {
            l.a.send_rtp(send.pt, send.ssrc, b"ours");
            l.run(Duration::from_millis(20));
        }
        assert!(l.b.received.contains(&(send.pt, b"ours".to_vec())), "{:?}", l.b.received);
    }
    if let Some(receive) = agreed.receives.iter().find(|r| r.kind == crate::types::Kind::Audio && r.active) {
        l.a.received.clear();
        for n in 1..20 {
            l.b.send_opus(l.now, &receive.mid, n, b"theirs");
            l.run(Duration::from_millis(20));
        }
        let of_mine = |(pt, ssrc, payload): &(u8, u32, Vec<u8>)| {
            *pt == receive.codecs[0].0 && receive.ssrcs.contains(ssrc) && payload.ends_with(b"theirs")
        };
        assert!(l.a.received.iter().any(of_mine), "{:?} {:?}", receive, l.a.received);
    }
}

#[test]
fn we_offer_and_str0m_answers_in_both_suites_full_and_lite() {
    for suites in [GCM, CM] {
        for lite in [false, true] {
            let mut l = link(suites, Client::Chrome, lite);
            let offer = l.a.offer(&[AUDIO, VIDEO], 1, 1);
            let answer = l.b.answer(&offer);
            assert_eq!(answer.contains("a=ice-lite"), lite);
            l.a.accept_answer(l.now, &answer);
            connect(&mut l);
            assert!(l.a.events.iter().any(|e| matches!(e, Event::Connected { suite, .. } if *suite == suites[0])));
            let agreed = l.a.negotiation.agreed();
            assert_eq!(
                agreed.sends.iter().map(|s| (s.codec, s.active)).collect::<Vec<_>>(),
                [(Codec::Opus, true), (Codec::Vp8, true)]
            );
            let video = &agreed.sends[1];
            assert!(video.nack && video.pli && video.twcc && video.rtx.is_some(), "{video:?}");
            assert_eq!(agreed.receives.len(), 2);
            assert_eq!(agreed.receives[1].codecs.len(), 2, "VP8 and H.264: {:?}", agreed.receives[1]);
            exchange_media(&mut l);
        }
    }
}

#[test]
fn str0m_offers_and_we_answer_in_both_dtls_roles() {
    for (setup, client) in [(Setup::Active, Client::Chrome), (Setup::Passive, Client::Light)] {
        let mut l = link(GCM, client, false);
        let mut api = l.b.rtc.sdp_api();
        let audio = api.add_media(MediaKind::Audio, Direction::SendOnly, Some("s".into()), None, None);
        api.add_media(MediaKind::Video, Direction::SendOnly, Some("s".into()), None, None);
        let (offer, pending) = api.apply().unwrap();
        let answer = l.a.accept_offer(l.now, &offer.to_sdp_string(), setup);
        let answer = SdpAnswer::from_sdp_string(&answer).unwrap();
        l.b.rtc.sdp_api().accept_answer(pending, answer).unwrap();
        l.b.pump();
        connect(&mut l);
        assert_eq!(l.a.transport.setup(), setup);
        let receives = &l.a.negotiation.agreed().receives;
        assert_eq!(receives[0].mid, audio.to_string());
        assert!(receives.iter().all(|r| r.active && !r.ssrcs.is_empty()), "{receives:?}");
        assert!(!receives[1].rtx_ssrcs.is_empty());
        exchange_media(&mut l);
    }
}

#[test]
fn slots_are_added_on_the_running_call() {
    let mut l = link(CM, Client::Chrome, false);
    let offer = l.a.offer(&[AUDIO], 0, 0);
    let answer = l.b.answer(&offer);
    l.a.accept_answer(l.now, &answer);
    connect(&mut l);
    exchange_media(&mut l);
    let offer = l.a.offer(&[AUDIO, VIDEO], 2, 2);
    let answer = l.b.answer(&offer);
    l.a.accept_answer(l.now, &answer);
    l.run(Duration::from_secs(1));
    assert!(l.a.transport.is_connected());
    assert_eq!(l.a.negotiation.agreed().receives.len(), 4);
    exchange_media(&mut l);
}

#[test]
fn str0m_closes_and_we_hear_it_and_the_other_way_round() {
    let mut l = link(GCM, Client::Chrome, false);
    let offer = l.a.offer(&[AUDIO], 0, 0);
    let answer = l.b.answer(&offer);
    l.a.accept_answer(l.now, &answer);
    connect(&mut l);
    l.run(Duration::from_secs(7));
    l.b.rtc.close().unwrap();
    l.run(Duration::from_secs(1));
    assert_eq!(l.a.events.last(), Some(&Event::PeerClosed));
}

#[test]
fn consent_holds_for_minutes_and_ends_with_str0m() {
    let mut l = link(GCM, Client::Chrome, true);
    let offer = l.a.offer(&[AUDIO], 0, 0);
    let answer = l.b.answer(&offer);
    l.a.accept_answer(l.now, &answer);
    connect(&mut l);
    l.run(Duration::from_secs(180));
    assert!(l.a.transport.is_connected(), "{:?}", l.a.events);
    l.loss = 1.0;
    l.run(Duration::from_secs(31));
    assert_eq!(l.a.events.last(), Some(&Event::ConsentExpired));
}
