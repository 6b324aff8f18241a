//! What Janus 1.1.2 and Chromium 156 said to each other.

use super::*;
use crate::types::Kind;

#[test]
fn janus_answers_our_publishing_offer() {
    let mut n = chrome();
    n.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 0);
    let (remote, agreed) = n.accept_answer(&fixture!("janus_publisher_answer")).unwrap();
    assert_eq!((remote.ufrag.as_str(), remote.setup, remote.lite), ("JJXx", Setup::Active, false));
    assert_eq!(remote.pwd, "6DoFrNGJmrrPm+d2GHhQO+");
    assert!(remote.fingerprint.starts_with("64:19:5F:0F"));
    assert_eq!(remote.candidates, ["1 1 udp 2015363327 192.0.2.2 28496 typ host"]);
    assert_eq!(agreed.receives, vec![]);
    let [audio, video] = &agreed.sends[..] else { panic!("{agreed:?}") };
    let ext = ExtIds { mid: 4, audio_level: 1, ..ExtIds::default() };
    let expected = AgreedSend {
        mid: "0".into(),
        codec: Codec::Opus,
        pt: 111,
        ssrc: 11,
        rids: vec![],
        grouped: false,
        rtx: None,
        red: None,
        dtx_asked: false,
        ext,
        nack: false,
        pli: false,
        fir: false,
        twcc: false,
        remb: false,
        active: true,
    };
    assert_eq!(*audio, expected);
    let expected = AgreedSend {
        mid: "1".into(),
        codec: Codec::Vp8,
        pt: 96,
        ssrc: 22,
        rids: vec![],
        grouped: false,
        rtx: Some((97, 23)),
        red: None,
        dtx_asked: false,
        ext: ExtIds { mid: 4, twcc: 3, rid: 10, repaired_rid: 11, ..ExtIds::default() },
        nack: true,
        pli: true,
        fir: true,
        twcc: true,
        remb: true,
        active: true,
    };
    assert_eq!(*video, expected);
}

#[test]
fn we_take_what_janus_offers_a_subscriber() {
    let mut n = chrome();
    let (answer, remote, agreed) =
        n.accept_offer(&fixture!("janus_subscriber_offer"), &local(), Setup::Active, &[]).unwrap();
    assert_eq!((remote.ufrag.as_str(), remote.setup), ("NuYi", Setup::Actpass));
    assert_eq!(agreed.sends, vec![]);
    let [audio, video] = &agreed.receives[..] else { panic!("{agreed:?}") };
    assert_eq!(
        (audio.kind, &audio.codecs[..], &audio.ssrcs[..]),
        (Kind::Audio, &[(111, Codec::Opus)][..], &[2711770059][..])
    );
    assert_eq!((audio.ext.mid, audio.ext.audio_level, audio.twcc), (4, 1, false));
    let expected = AgreedReceive {
        mid: "1".into(),
        kind: Kind::Video,
        codecs: vec![(96, Codec::Vp8)],
        rtx: vec![(97, 96)],
        red: vec![],
        ssrcs: vec![179238172],
        rtx_ssrcs: vec![(179238172, 171014147)],
        ext: ExtIds { mid: 4, twcc: 3, abs_send_time: 2, ..ExtIds::default() },
        nack: true,
        pli: true,
        fir: true,
        twcc: true,
        msid: Some("janus janus1".into()),
        active: true,
    };
    assert_eq!(*video, expected);

    // The answer, next to the one that Chromium gave.
    let ours = Description::parse(&answer).unwrap();
    let chromium = fixture!("chromium_subscriber_answer");
    let chromium = Description::parse(&chromium).unwrap();
    assert_eq!(ours.remote.setup, Setup::Active);
    for (a, b) in ours.media.iter().zip(&chromium.media) {
        assert_eq!((&a.name, &a.mid, a.direction, &a.formats), (&b.name, &b.mid, b.direction, &b.formats));
        for uri in a.extensions.iter() {
            assert!(b.extensions.contains(uri), "{uri:?}");
        }
        for (p, q) in a.payloads.iter().zip(&b.payloads) {
            assert_eq!((p.pt, &p.encoding), (q.pt, &q.encoding));
            assert!(p.feedback.iter().all(|f| q.feedback.contains(f)), "{p:?} {q:?}");
        }
    }
}

#[test]
fn feeds_that_went_away_become_inactive_and_may_come_back() {
    let mut n = chrome();
    n.accept_offer(&fixture!("janus_subscriber_offer"), &local(), Setup::Active, &[]).unwrap();
    let inactive = fixture!("janus_subscriber_offer_inactive");
    let (answer, _, agreed) = n.accept_offer(&inactive, &local(), Setup::Active, &[]).unwrap();
    assert!(agreed.receives.iter().all(|r| !r.active && r.ssrcs.is_empty()), "{agreed:?}");
    assert_eq!(directions(&answer), [Direction::Inactive, Direction::Inactive]);
    let again = fixture!("janus_subscriber_offer").replace("179238172", "99");
    let (answer, _, agreed) = n.accept_offer(&again, &local(), Setup::Active, &[]).unwrap();
    assert_eq!(directions(&answer), [Direction::RecvOnly, Direction::RecvOnly]);
    assert_eq!(agreed.receives[1].ssrcs, [99]);
    assert_eq!(n.agreed(), &agreed);
}

#[test]
fn a_light_client_takes_less() {
    let mut n = light();
    let (answer, _, agreed) =
        n.accept_offer(&fixture!("janus_subscriber_offer"), &local(), Setup::Passive, &[]).unwrap();
    let video = &agreed.receives[1];
    assert!(video.rtx == [(97, 96)] && video.nack && video.pli && !video.fir && !video.twcc);
    assert_eq!(video.ext, ExtIds { mid: 4, ..ExtIds::default() });
    assert!(!answer.contains("transport-cc") && !answer.contains("goog-remb") && answer.contains("a=setup:passive"));
}

#[test]
fn chromium_publishes_to_us() {
    let mut n = chrome();
    let offer = fixture!("chromium_publisher_offer");
    let (answer, remote, agreed) = n.accept_offer(&offer, &local(), Setup::Passive, &[]).unwrap();
    assert_eq!(remote.candidates.len(), 12, "8 by UDP, and 4 by TCP that both m-lines name");
    let [audio, video] = &agreed.receives[..] else { panic!("{agreed:?}") };
    assert_eq!(audio.codecs, [(111, Codec::Opus)]);
    assert_eq!(audio.ext, ExtIds { mid: 4, twcc: 3, abs_send_time: 2, audio_level: 1, ..ExtIds::default() });
    // Of eight H.264s those with packetization mode 1 and a baseline profile: 42001f and 42e01f.
    assert_eq!(video.codecs, [(96, Codec::Vp8), (102, Codec::H264), (108, Codec::H264)]);
    assert_eq!(video.rtx, [(97, 96), (103, 102), (109, 108)]);
    assert_eq!((video.ssrcs.len(), video.rtx_ssrcs.len()), (1, 1));
    assert_ne!(video.ssrcs[0], video.rtx_ssrcs[0].1);
    let video = section(&answer, 1);
    assert_eq!(video[0], "video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 108 109");
    assert!(video.contains(&"a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f"));
}

/// What our Chrome says of each m-line is what Chromium says of it, word for word; what it leaves out is listed here.
#[test]
fn our_publishing_offer_is_chromiums() {
    let chromium = fixture!("chromium_publisher_offer");
    for codec in [Codec::Vp8, Codec::H264] {
        let mut n = chrome();
        let ours = n.offer(&local(), &[opus(11), video(codec, 22, 23)], 0, 0);
        for (m, kind) in ["audio", "video"].into_iter().enumerate() {
            let (ours, theirs) = (section(&ours, m), section(&chromium, m));
            let of_payload = |l: &str| ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"].iter().any(|p| l.starts_with(p));
            let common = |l: &str| of_payload(l) || l.starts_with("a=extmap:") || l.starts_with("a=rtcp-");
            for line in ours.iter().filter(|l| common(l)) {
                assert!(theirs.contains(line), "{kind}: {line}");
            }
            let extensions = |lines: &[&str]| -> Vec<String> {
                lines.iter().filter(|l| l.starts_with("a=extmap:")).map(|l| l.to_string()).collect()
            };
            assert_eq!(extensions(&ours), extensions(&theirs), "in its order, too");
            let pts: Vec<&str> = ours[0].split(' ').skip(3).collect();
            let named = |l: &&&str| pts.iter().any(|pt| l.split([':', ' ']).nth(1) == Some(pt));
            let missing: Vec<&&str> =
                theirs.iter().filter(|l| of_payload(l)).filter(named).filter(|l| !ours.contains(l)).collect();
            assert!(missing.is_empty(), "{kind}: {missing:?}");
        }
    }
    // Left out: codecs that we have no media for (G.722, PCMU, PCMA, CN, telephone-event, AV1, VP9, other profiles of
    // H.264), RED and ULPFEC around video, which libwebrtc offers and servers refuse, and RTCP XR.
    assert!(chromium.contains("ulpfec/90000") && !chromium.contains("flexfec"));
}

#[test]
fn redundancy_is_agreed_where_both_have_it_and_dtx_where_the_other_asks() {
    let mut a = Negotiation::new(Client::LivekitJs, 1, "lk".into());
    let mut b = chrome();
    let offer = a.offer(&local(), &[opus(11)], 0, 0);
    let (answer, _, at_b) = b.accept_offer(&offer, &local(), Setup::Active, &[]).unwrap();
    assert_eq!(at_b.receives[0].red, [(63, 111)]);
    let (_, at_a) = a.accept_answer(&answer).unwrap();
    assert_eq!(at_a.sends[0].red, Some(AgreedRed { pt: 63, preferred: false }));
    assert!(!at_a.sends[0].dtx_asked);

    // A server that wants both says so, as LiveKit does.
    let mut a = Negotiation::new(Client::LivekitJs, 1, "lk".into());
    a.offer(&local(), &[opus(11)], 0, 0);
    let wanted = answer.replace("SAVPF 111 63", "SAVPF 63 111").replace("useinbandfec=1", "useinbandfec=1;usedtx=1");
    let (_, at_a) = a.accept_answer(&wanted).unwrap();
    assert_eq!(at_a.sends[0].red, Some(AgreedRed { pt: 63, preferred: true }));
    assert!(at_a.sends[0].dtx_asked);

    // NACK for Opus is taken from a server that offers it, and never offered.
    assert!(!offer.contains("a=rtcp-fb:111 nack"));
    let from_server = offer.replace("a=rtcp-fb:111 transport-cc", "a=rtcp-fb:111 transport-cc\r\na=rtcp-fb:111 nack");
    let mut a = Negotiation::new(Client::LivekitJs, 1, "lk".into());
    let (answer, _, agreed) = a.accept_offer(&from_server, &local(), Setup::Active, &[]).unwrap();
    assert!(answer.contains("a=rtcp-fb:111 nack") && agreed.receives[0].nack);
    let (answer, _, agreed) = chrome().accept_offer(&from_server, &local(), Setup::Active, &[]).unwrap();
    assert!(!answer.contains("a=rtcp-fb:111 nack") && !agreed.receives[0].nack);

    let (answer, _, agreed) = light().accept_offer(&offer, &local(), Setup::Active, &[]).unwrap();
    assert!(!answer.contains("red/48000") && agreed.receives[0].red.is_empty());
}
