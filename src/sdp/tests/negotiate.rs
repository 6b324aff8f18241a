//! Offers and answers of our own.

use super::*;
use crate::transport::RemoteParams;
use crate::types::Kind;

fn answer(n: &mut Negotiation, offer: &str) -> (String, Agreed) {
    let (text, _, agreed) = n.accept_offer(offer, &local(), Setup::Active, &[]).unwrap();
    (text, agreed)
}

#[test]
fn a_sending_track_offers_only_its_codec() {
    let mut n = chrome();
    let offer = n.offer(&local(), &[opus(11), video(Codec::H264, 22, 23), video(Codec::Vp8, 32, 33)], 0, 0);
    assert!(offer.contains("a=group:BUNDLE 0 1 2\r\n"));
    assert_eq!(offer.matches("a=setup:actpass\r\n").count(), 3);
    assert_eq!(section(&offer, 0)[0], "audio 9 UDP/TLS/RTP/SAVPF 111 63");
    let h264 = section(&offer, 1);
    assert_eq!(h264[0], "video 9 UDP/TLS/RTP/SAVPF 108 109");
    for line in [
        "a=mid:1",
        "a=sendonly",
        "a=rtcp-mux",
        "a=ice-ufrag:ourU",
        "a=candidate:1 1 udp 2130706431 192.0.2.9 5000 typ host",
        "a=rtpmap:108 H264/90000",
        "a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        "a=rtcp-fb:108 nack pli",
        "a=fmtp:109 apt=108",
        "a=ssrc-group:FID 22 23",
        "a=ssrc:22 cname:cn",
        "a=ssrc:23 cname:cn",
        "a=msid:cn cn-1",
    ] {
        assert!(h264.contains(&line), "{line} in {h264:#?}");
    }
    assert_eq!(section(&offer, 2)[0], "video 9 UDP/TLS/RTP/SAVPF 96 97");
}

#[test]
fn a_receiving_slot_offers_all_that_we_know() {
    let mut n = chrome();
    let offer = n.offer(&local(), &[], 1, 1);
    assert_eq!(section(&offer, 0)[0], "audio 9 UDP/TLS/RTP/SAVPF 111 63");
    assert_eq!(section(&offer, 1)[0], "video 9 UDP/TLS/RTP/SAVPF 96 97 108 109");
    assert_eq!(directions(&offer), [Direction::RecvOnly, Direction::RecvOnly]);
    assert!(!offer.contains("a=ssrc") && !offer.contains("a=msid:"));
    let offer = light().offer(&local(), &[], 0, 1);
    assert_eq!(section(&offer, 0)[0], "video 9 UDP/TLS/RTP/SAVPF 96 97 108 109");
    for absent in ["red/", "transport", "remb", "fir", "abs-send"] {
        assert!(!offer.contains(absent), "{absent}");
    }
    assert!(offer.contains("a=rtcp-fb:96 nack\r\n") && offer.contains("a=rtcp-fb:96 nack pli\r\n"));
}

#[test]
fn two_of_us_send_both_ways() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11), video(Codec::H264, 22, 23)], 1, 1);
    let ours = [opus(31), video(Codec::Vp8, 32, 33)];
    let (text, _, at_b) = b.accept_offer(&offer, &local(), Setup::Active, &ours).unwrap();
    use Direction::{RecvOnly, SendOnly};
    assert_eq!(directions(&text), [RecvOnly, RecvOnly, SendOnly, SendOnly]);
    let (_, at_a) = a.accept_answer(&text).unwrap();
    let sent = |agreed: &Agreed| agreed.sends.iter().map(|s| (s.ssrc, s.codec, s.active)).collect::<Vec<_>>();
    let heard = |agreed: &Agreed| agreed.receives.iter().map(|r| (r.ssrcs.clone(), r.active)).collect::<Vec<_>>();
    assert_eq!(sent(&at_a), [(11, Codec::Opus, true), (22, Codec::H264, true)]);
    assert_eq!(sent(&at_b), [(31, Codec::Opus, true), (32, Codec::Vp8, true)]);
    assert_eq!(heard(&at_a), [(vec![31], true), (vec![32], true)]);
    assert_eq!(heard(&at_b), [(vec![11], true), (vec![22], true)]);
    // A restart changes nothing of that, and a server that wants nothing is sent nothing.
    let offer = a.offer(&local(), &[opus(11), video(Codec::H264, 22, 23)], 1, 1);
    let (_, _, again) = b.accept_offer(&offer, &local(), Setup::Active, &ours).unwrap();
    assert_eq!(again, at_b);
    let (_, _, of_server) =
        chrome().accept_offer(&chrome().offer(&local(), &[opus(1)], 0, 0), &local(), Setup::Active, &ours).unwrap();
    assert_eq!(sent(&of_server), []);
}

#[test]
fn two_of_us_agree() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11), video(Codec::H264, 22, 23)], 0, 0);
    let (answer, theirs) = answer(&mut b, &offer);
    let (remote, ours) = a.accept_answer(&answer).unwrap();
    assert_eq!(remote.setup, Setup::Active);
    for (s, r) in ours.sends.iter().zip(&theirs.receives) {
        assert!(s.active && r.active);
        assert_eq!((&s.mid, s.pt, s.codec), (&r.mid, r.codecs[0].0, r.codecs[0].1));
        assert_eq!((s.ext, s.nack, s.pli, s.fir, s.twcc), (r.ext, r.nack, r.pli, r.fir, r.twcc));
        assert_eq!(r.ssrcs, [s.ssrc]);
        assert_eq!(r.msid, Some(format!("cn cn-{}", s.mid)));
    }
    assert_eq!(ours.sends[1].rtx, Some((109, 23)));
    assert_eq!((&theirs.receives[1].rtx[..], &theirs.receives[1].rtx_ssrcs[..]), (&[(109, 108)][..], &[(22, 23)][..]));
    assert!(ours.sends[1].twcc && ours.sends[1].remb && ours.sends[0].twcc);
}

#[test]
fn clients_of_two_kinds_agree_on_the_smaller() {
    let (mut a, mut b) = (chrome(), light());
    let offer = a.offer(&local(), &[video(Codec::Vp8, 22, 23)], 0, 0);
    let (answer, _) = answer(&mut b, &offer);
    let (_, agreed) = a.accept_answer(&answer).unwrap();
    let s = &agreed.sends[0];
    assert_eq!(s.rtx, Some((97, 23)));
    assert!(s.nack && s.pli && !s.fir && !s.twcc && !s.remb);
    assert_eq!(s.ext, ExtIds { mid: 4, ..ExtIds::default() });
}

#[test]
fn m_lines_keep_their_place_from_offer_to_offer() {
    let (mut a, mut b) = (chrome(), chrome());
    let tracks = [opus(11), video(Codec::Vp8, 22, 23)];
    let first = a.offer(&local(), &tracks, 1, 0);
    a.accept_answer(&answer(&mut b, &first).0).unwrap();
    // The video track goes, receive slots come.
    let second = a.offer(&local(), &tracks[..1], 2, 1);
    assert_eq!(
        directions(&second),
        [Direction::SendOnly, Direction::Inactive, Direction::RecvOnly, Direction::RecvOnly, Direction::RecvOnly]
    );
    let mids =
        |t: &str| Description::parse(t).unwrap().media.into_iter().map(|m| m.mid.into_owned()).collect::<Vec<String>>();
    assert_eq!(mids(&second), ["0", "1", "2", "3", "4"]);
    let (_, agreed) = a.accept_answer(&answer(&mut b, &second).0).unwrap();
    assert_eq!(agreed.sends.iter().map(|s| s.active).collect::<Vec<_>>(), [true, false]);
    // It comes back into its place; fewer slots are needed.
    let third = a.offer(&local(), &tracks, 1, 0);
    assert_eq!(
        directions(&third),
        [Direction::SendOnly, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive, Direction::Inactive]
    );
    let versions: Vec<_> = [&first, &second, &third].iter().map(|t| t.lines().nth(1).unwrap().to_string()).collect();
    assert_eq!(versions, [1, 2, 3].map(|v| format!("o=- 77 {v} IN IP4 127.0.0.1")));
}

#[test]
fn offers_cross_and_roles_change() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11)], 0, 0);
    a.accept_answer(&answer(&mut b, &offer).0).unwrap();
    // Both offer; a gives way: its new m-line is rolled back.
    a.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 0);
    let from_b = b.offer(&local(), &[video(Codec::H264, 32, 33)], 1, 0);
    assert_eq!(directions(&from_b), [Direction::RecvOnly, Direction::SendOnly], "b's slot for a's audio is m-line 0");
    let (text, agreed) = answer(&mut a, &from_b);
    assert_eq!(directions(&text), [Direction::SendOnly, Direction::RecvOnly]);
    assert!(agreed.sends[0].active && agreed.receives[0].active);
    let (_, agreed) = b.accept_answer(&text).unwrap();
    assert!(agreed.sends[0].active && agreed.receives[0].active);
    assert_eq!(agreed.receives[0].ssrcs, [11]);
    assert_eq!(a.accept_answer(&text), Err(SdpError::NoOffer));
    // And then a's turn again: its video is a third m-line.
    let offer = a.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 1);
    let (text, _) = answer(&mut b, &offer);
    let (_, agreed) = a.accept_answer(&text).unwrap();
    assert_eq!(agreed.sends.len(), 2);
    assert!(agreed.sends.iter().all(|s| s.active));
}

#[test]
fn a_pause_by_the_remote_is_over_when_it_says_so() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11)], 0, 0);
    a.accept_answer(&answer(&mut b, &offer).0).unwrap();
    for receive in [0, 1] {
        let from_b = b.offer(&local(), &[], receive, 0);
        let (_, agreed) = answer(&mut a, &from_b);
        assert_eq!(agreed.sends[0].active, receive == 1);
    }
}

#[test]
fn numbers_have_one_meaning_in_a_bundle() {
    // The remote offers its own numbers: 96 is Opus, 111 VP8, extension 4 is transport-cc.
    let offer = fixture!("janus_subscriber_offer")
        .replace("SAVPF 111", "SAVPF 96")
        .replace(":111 ", ":96 ")
        .replace(
            "SAVPF 96 97\r\nc=IN IP4 192.0.2.1\r\na=sendonly\r\na=mid:1",
            "SAVPF 111 97\r\nc=IN IP4 192.0.2.1\r\na=sendonly\r\na=mid:1",
        )
        .replace("a=rtpmap:96 VP8", "a=rtpmap:111 VP8")
        .replace("apt=96", "apt=111")
        .replace("extmap:4 urn", "extmap:5 urn")
        .replace("extmap:3 http", "extmap:4 http");
    let mut n = chrome();
    answer(&mut n, &offer);
    let again = n.offer(&local(), &[opus(11), video(Codec::H264, 22, 23)], 1, 1);
    let d = Description::parse(&again).unwrap();
    let mut meanings = std::collections::BTreeMap::new();
    let mut uris = std::collections::BTreeMap::new();
    for m in &d.media {
        for p in &m.payloads {
            let before = meanings.insert(p.pt, (p.encoding.to_lowercase(), p.fmtp.clone()));
            assert!(before.is_none_or(|b| b == (p.encoding.to_lowercase(), p.fmtp.clone())), "{}", p.pt);
        }
        for (id, uri) in &m.extensions {
            assert_eq!(uris.entry(*id).or_insert(uri), &uri);
        }
    }
    assert_eq!(d.media.len(), 4);
    let (_, agreed) = {
        let mut b = chrome();
        answer(&mut b, &again)
    };
    assert_eq!(agreed.receives.iter().filter(|r| r.active).count(), 2);
}

#[test]
fn rejected_m_lines_are_no_ones() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 0);
    let (text, _) = answer(&mut b, &offer);
    let refused = text.replace("m=video 9 ", "m=video 0 ");
    let (_, agreed) = a.accept_answer(&refused).unwrap();
    assert_eq!(agreed.sends.len(), 1);
    let again = a.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 0);
    let d = Description::parse(&again).unwrap();
    assert_eq!(d.media.iter().map(|m| m.rejected).collect::<Vec<_>>(), [false, true], "not asked again");
    assert!(again.contains("a=group:BUNDLE 0\r\n"));
}

#[test]
fn odd_m_lines_are_answered_one_by_one() {
    let head = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE a b c d e f\r\na=ice-lite\r\n\
        a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n";
    let fingerprint = format!("a=fingerprint:sha-256 {}\r\na=setup:actpass\r\n", vec!["ab"; 32].join(":"));
    let media = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:a\r\na=rtcp-mux\r\na=inactive\r\na=rtpmap:111 opus/48000/2\r\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:b\r\na=rtpmap:96 VP8/90000\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 100\r\na=mid:c\r\na=rtpmap:100 VP9/90000\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\na=sctp-port:5000\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 8 109 109\r\na=mid:e\r\na=sendrecv\r\na=rtpmap:109 OPUS/48000/2\r\n\
        a=extmap:3/recvonly urn:ietf:params:rtp-hdrext:sdes:mid\r\na=extmap:0 x:y\r\na=extmap:15 x:z\r\na=extmap:3 x:twice\r\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=bundle-only\r\na=mid:f\r\na=sendonly\r\na=rtpmap:96 VP8/90000\r\n";
    let mut n = chrome();
    let (text, remote, agreed) =
        n.accept_offer(&format!("{head}{fingerprint}{media}"), &local(), Setup::Actpass, &[]).unwrap();
    assert!(remote.lite);
    assert_eq!(remote.fingerprint, vec!["AB"; 32].join(":"));
    assert_eq!(
        agreed.receives.iter().map(|r| (r.mid.as_str(), r.active)).collect::<Vec<_>>(),
        [("a", false), ("e", true), ("f", true)]
    );
    assert_eq!(agreed.receives[1].codecs, [(109, Codec::Opus)]);
    assert_eq!(agreed.receives[1].ext, ExtIds { mid: 3, ..ExtIds::default() });
    let d = Description::parse(&text).unwrap();
    let rejected: Vec<_> = d.media.iter().map(|m| m.rejected).collect();
    assert_eq!(rejected, [false, true, true, true, false, false]);
    assert_eq!(d.media[3].protocol, "UDP/DTLS/SCTP");
    assert_eq!(d.media[3].formats, ["webrtc-datachannel"]);
    assert!(text.contains("a=group:BUNDLE a e f\r\n"));
}

#[test]
fn one_transport_without_a_bundle_group_is_fine_and_two_are_not() {
    let text = fixture!("janus_subscriber_offer").replace("a=group:BUNDLE 0 1\r\n", "");
    assert!(chrome().accept_offer(&text, &local(), Setup::Active, &[]).is_ok());
    let at = text.rfind("a=ice-ufrag:NuYi").unwrap();
    let two = format!("{}a=ice-ufrag:Othr{}", &text[..at], &text[at + 16..]);
    let error = Description::parse(&two).unwrap_err();
    assert!(error.to_string().contains("BUNDLE"), "{error}");
}

#[test]
fn answers_that_do_not_fit_are_refused_and_the_offer_stays_open() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 0);
    let (good, _) = answer(&mut b, &offer);
    let without_video = good[..good.find("m=video").unwrap()].to_string();
    for (bad, what) in [
        (without_video, "1 m-lines"),
        (good.replace("a=mid:1\r\n", "a=mid:7\r\n"), "mid"),
        (good.replace("m=video 9", "m=audio 9"), "video here"),
        (good.replace("a=rtpmap:96 VP8/90000", "a=rtpmap:96 AV1/90000"), "VP8/90000 in the offer"),
        (good.replace("SAVPF 111 63\r\n", "SAVPF 8\r\n"), "no payload type"),
        (good.replace("a=setup:active", "a=setup:actpass"), "setup"),
        (good.replace("a=rtcp-mux\r\n", ""), "rtcp-mux"),
        (good.replace("a=ice-pwd", "a=x-pwd"), "ice-pwd"),
        (good.replace("sha-256", "sha-1"), "fingerprint"),
        (good.replace("m=audio 9", "m=audio 0").replace("m=video 9", "m=video 0"), "every m-line"),
        ("garbage".into(), "line 1"),
        (String::new(), "no m-line"),
        ("{\"error\":404}".into(), "line 1"),
    ] {
        let error = a.accept_answer(&bad).unwrap_err();
        assert!(error.to_string().contains(what), "{error} should speak of {what}");
    }
    assert!(a.agreed().sends.is_empty());
    assert!(a.accept_answer(&good).is_ok());
}

#[test]
fn errors_name_their_line() {
    let text = fixture!("janus_subscriber_offer");
    for (from, to, line) in [
        ("a=setup:actpass", "a=setup:whatever", 18),
        ("m=video 9", "m=video x", 28),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96 97", "m=video 9", 28),
        ("SAVPF 111", "SAVPF 999", 10),
        ("a=ssrc:2711770059", "a=ssrc:x", 25),
        ("a=extmap:1 ", "a=extmap:one ", 21),
        ("t=0 0", "nonsense", 4),
        ("a=ice-pwd:AFFJXnjBbyzVujGrA5CudO", "a=ice-pwd:short", 16),
    ] {
        assert!(text.contains(from));
        match Description::parse(&text.replacen(from, to, 1)) {
            Err(SdpError::Line { line: l, .. }) => assert_eq!(l, line, "{to}"),
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn offers_that_lose_or_swap_m_lines_are_refused_and_nothing_changes() {
    let mut n = chrome();
    let offer = fixture!("janus_subscriber_offer");
    n.accept_offer(&offer, &local(), Setup::Active, &[]).unwrap();
    let before = n.agreed().clone();
    let short = offer[..offer.find("m=video").unwrap()].to_string();
    let swapped = offer.replace("a=mid:0", "a=mid:x");
    for bad in [short, swapped, offer.replace("a=mid:0", "a=mid:1")] {
        assert!(n.accept_offer(&bad, &local(), Setup::Active, &[]).is_err());
        assert_eq!(n.agreed(), &before);
    }
}

#[test]
fn the_offer_decides_the_dtls_role_where_it_leaves_no_choice() {
    for (offered, wish, role) in [
        ("actpass", Setup::Active, "active"),
        ("actpass", Setup::Passive, "passive"),
        ("actpass", Setup::Actpass, "active"),
        ("active", Setup::Active, "passive"),
        ("passive", Setup::Passive, "active"),
    ] {
        let offer = fixture!("janus_subscriber_offer").replace("setup:actpass", &format!("setup:{offered}"));
        let (text, remote, _) = chrome().accept_offer(&offer, &local(), wish, &[]).unwrap();
        assert!(text.contains(&format!("a=setup:{role}\r\n")), "{offered} {wish:?}");
        assert!(matches!(remote, RemoteParams { .. }));
    }
}

#[test]
fn h264_is_matched_by_mode_and_profile() {
    let payload =
        |fmtp: &'static str| Payload { pt: 100, encoding: "H264/90000".into(), fmtp: fmtp.into(), feedback: vec![] };
    for good in [
        "packetization-mode=1;profile-level-id=42e01f",
        "profile-level-id=42001f; packetization-mode=1",
        "packetization-mode=1",
        "PROFILE-LEVEL-ID=42C015;Packetization-Mode=1;x",
    ] {
        assert_eq!(payload(good).codec(), Some(Codec::H264), "{good}");
    }
    for bad in [
        "",
        "profile-level-id=42e01f",
        "packetization-mode=0",
        "packetization-mode=1;profile-level-id=64001f",
        "packetization-mode=1;profile-level-id=é",
    ] {
        assert_eq!(payload(bad).codec(), None, "{bad}");
    }
}

#[test]
fn hundreds_of_slots_work() {
    let (mut a, mut b) = (chrome(), chrome());
    let offer = a.offer(&local(), &[opus(11)], 150, 150);
    let (text, _) = answer(&mut b, &offer);
    let (_, agreed) = a.accept_answer(&text).unwrap();
    assert_eq!(agreed.receives.len(), 300);
    assert_eq!(agreed.receives.iter().filter(|r| r.kind == Kind::Audio).count(), 150);
}

fn layered() -> LocalTrack {
    LocalTrack { layers: 3, ..video(Codec::Vp8, 22, 23) }
}

/// As Chromium offers layers by rid: no SSRC is named, the highest stands first (RFC 8853 5.1).
#[test]
fn layers_are_offered_by_rid() {
    for mut n in [chrome(), light()] {
        let offer = n.offer(&local(), &[layered()], 0, 0);
        let lines = section(&offer, 0);
        for line in ["a=rid:f send", "a=rid:h send", "a=rid:q send", "a=simulcast:send f;h;q"] {
            assert!(lines.contains(&line), "{line} in {lines:#?}");
        }
        for uri in [crate::client::MID, crate::client::RID, crate::client::REPAIRED_RID] {
            assert!(lines.iter().any(|l| l.starts_with("a=extmap:") && l.ends_with(uri)), "{uri} in {lines:#?}");
        }
        assert!(!offer.contains("a=ssrc"), "{offer}");
    }
}

/// As browsers did it before there were rids: a group of SSRCs, the lowest layer first, each with its retransmissions.
#[test]
fn layers_are_offered_by_ssrc_group() {
    let grouped = LocalTrack { simulcast: Simulcast::SsrcGroup, rtx_ssrc: Some(33), ..layered() };
    for mut n in [chrome(), light()] {
        let offer = n.offer(&local(), &[grouped], 0, 0);
        let lines = section(&offer, 0);
        let groups: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("a=ssrc-group:")).collect();
        assert_eq!(groups, ["SIM 20 21 22", "FID 20 31", "FID 21 32", "FID 22 33"]);
        let named: Vec<&str> =
            lines.iter().filter(|l| l.contains(" cname:")).map(|l| l.split_once(' ').unwrap().0).collect();
        assert_eq!(named, ["a=ssrc:20", "a=ssrc:21", "a=ssrc:22", "a=ssrc:31", "a=ssrc:32", "a=ssrc:33"]);
        assert!(!offer.contains("a=rid:") && !offer.contains("a=simulcast"), "{offer}");
        assert_eq!(Description::parse(&offer).unwrap().media[0].sim, [20, 21, 22]);
        // No answer says whether it is taken: all layers go out.
        let mirrored = offer.replace("sendonly", "recvonly").replace("actpass", "active");
        let mirrored: String = mirrored.split_inclusive("\r\n").filter(|l| !l.starts_with("a=ssrc")).collect();
        let (_, a) = n.accept_answer(&mirrored).unwrap();
        assert_eq!((a.sends[0].grouped, a.sends[0].rids.len(), a.sends[0].ssrc), (true, 0, 22));
    }
}

#[test]
fn layers_that_the_remote_takes_are_agreed_on() {
    for (taken, agreed) in [
        ("a=rid:f recv\r\na=rid:q recv\r\na=simulcast:recv f,x;~q;z\r\n", &["f", "q"][..]),
        ("a=simulcast:send f;h;q\r\n", &[]),
        ("", &[]),
    ] {
        let mut n = chrome();
        let offer = n.offer(&local(), &[layered()], 0, 0);
        // A remote that says of itself what ours said, the other way round.
        let mirrored: String = offer
            .split_inclusive("\r\n")
            .filter(|l| !l.starts_with("a=rid:") && !l.starts_with("a=simulcast:"))
            .map(|l| l.replace("sendonly", "recvonly").replace("actpass", "active"))
            .collect();
        let (_, a) = n.accept_answer(&(mirrored + taken)).unwrap();
        assert_eq!(a.sends[0].rids, agreed, "{taken}");
        assert_eq!((a.sends[0].ssrc, a.sends[0].rtx, a.sends[0].active), (22, Some((97, 23)), true));
    }
}

#[test]
fn rtcp_of_reduced_size_is_agreed_where_both_have_it_on_every_m_line() {
    let lines = |text: &str| text.matches("\r\na=rtcp-rsize\r\n").count();
    for (kept, agreed) in [(2, true), (1, false), (0, false)] {
        let (mut one, mut two) = (chrome(), chrome());
        let offer = one.offer(&local(), &[opus(1), video(Codec::Vp8, 2, 3)], 0, 0);
        assert_eq!(lines(&offer), 2, "{offer}");
        let heard = offer.replacen("a=rtcp-rsize\r\n", "", 2 - kept);
        assert_eq!(lines(&heard), kept);
        let (text, theirs) = answer(&mut two, &heard);
        // RFC 5506 5.1: an answer has it only where the offer has.
        assert_eq!((lines(&text), theirs.reduced_size), (kept, agreed), "{text}");
        let (_, ours) = one.accept_answer(&text).unwrap();
        assert_eq!(ours.reduced_size, agreed);
    }
}
