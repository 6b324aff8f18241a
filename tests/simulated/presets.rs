//! Each client preset, by its offer and by the packets that leave it: SRTP suites, feedback, RTX, RED, DTX, mutes.

use crate::sim::{Network, Sim, Tapped, encoding, loses};
use roomful::impair::Conditions;
use roomful::media::talk::{Floor, Mutes};
use roomful::participant::TalkSpec;
use roomful::signaling::TransportState;
use roomful::types::{Client, Codec, Suite};
use std::time::Duration;

const CLEAN: Network = [Conditions::PERFECT, Conditions::PERFECT];
const MS: fn(u64) -> Duration = Duration::from_millis;
const OPUS: u8 = 111;
const RED: u8 = 63;
const VP8: u8 = 96;
const RTX: u8 = 97;

/// Two participants in sound and picture, the first one tapped, with this talk.
fn pair(client: Client, up: Conditions, talk: TalkSpec) -> Sim {
    let mut sim = Sim::new(31, client, MS(15));
    sim.tap = Some(0);
    for n in 0..2 {
        sim.talk = if n == 0 { talk.clone() } else { TalkSpec::default() };
        let network = if n == 0 { [up, CLEAN[1]] } else { CLEAN };
        sim.join(Some(encoding(Codec::Opus, 32)), Some(encoding(Codec::Vp8, 150)), 1, network);
    }
    sim
}

fn packets(sim: &Sim, payload_type: u8) -> Vec<&Tapped> {
    sim.tapped.iter().filter(|t| t.payload_type == payload_type).collect()
}

fn suite(sim: &Sim) -> Suite {
    let suite = |s: &TransportState| if let TransportState::Connected { suite, .. } = s { Some(*suite) } else { None };
    sim.members[0].states.iter().find_map(suite).unwrap()
}

/// As the table in docs/profiles.md has it.
#[test]
fn offers_are_those_of_the_preset() {
    for client in Client::ALL {
        let sim = pair(client, CLEAN[0], TalkSpec::default());
        let offer = &sim.members[0].offer;
        let [audio, video] = ["m=audio", "m=video"].map(|m| &offer[offer.find(m).unwrap()..]);
        let feedback = |section: &str, pt: u8| -> Vec<String> {
            let section = section[2..].split("\r\nm=").next().unwrap();
            let start = format!("a=rtcp-fb:{pt} ");
            section.lines().filter_map(|l| l.strip_prefix(&start)).map(str::to_owned).collect()
        };
        let browser = client != Client::Light;
        let of_video: &[&str] = match browser {
            true => &["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"],
            false => &["nack", "nack pli"],
        };
        assert_eq!(feedback(video, VP8), of_video, "{client:?}");
        assert_eq!(feedback(audio, OPUS), &["transport-cc"][..usize::from(browser)], "{client:?}");
        assert!(offer.contains("a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"), "{client:?}: {offer}");
        assert!(offer.contains("a=ssrc-group:FID "), "{client:?}: {offer}");
        assert!(offer.contains("a=fmtp:111 minptime=10;useinbandfec=1\r\n"), "{client:?}: {offer}");
        assert_eq!(offer.contains("a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n"), browser, "{client:?}: {offer}");
        for uri in ["ssrc-audio-level", "transport-wide-cc-extensions-01", "abs-send-time"] {
            assert_eq!(offer.contains(uri), browser, "{client:?} {uri}");
        }
        for absent in ["ulpfec", "flexfec"] {
            assert!(!offer.contains(absent), "{client:?} {absent}");
        }
    }
}

#[test]
fn suites_are_those_of_the_preset() {
    for (client, expected) in [
        (Client::Chrome, Suite::AeadAes256Gcm),
        (Client::LivekitJs, Suite::AeadAes256Gcm),
        (Client::Light, Suite::AeadAes128Gcm),
    ] {
        let mut sim = pair(client, CLEAN[0], TalkSpec::default());
        sim.run(Duration::from_secs(2));
        assert_eq!(suite(&sim), expected, "{client:?}");
    }
}

/// RED from the first packet on where the client sends it wherever negotiated; the server's answer names Opus first, so
/// Chromium doesn't. Each packet holds the frame before it again: about twice the bytes.
#[test]
fn redundancy_is_in_the_packets_of_those_who_send_it() {
    let mut sizes = Vec::new();
    for client in Client::ALL {
        let mut sim = pair(client, CLEAN[0], TalkSpec::default());
        sim.run(Duration::from_secs(10));
        let (plain, red) = (packets(&sim, OPUS), packets(&sim, RED));
        let (sent, none) = if client == Client::LivekitJs { (red, plain) } else { (plain, red) };
        sizes.push(sent.iter().map(|t| t.len).sum::<usize>() / sent.len());
        assert!(none.is_empty() && sent.len() > 400, "{client:?}: {} {}", sent.len(), none.len());
        sim.quiet(0);
        sim.run(Duration::from_secs(1));
        let all = sim.tapped.iter().filter(|t| [OPUS, RED].contains(&t.payload_type)).count();
        assert_eq!(all as i64, sim.members[0].counts[0].sent, "{client:?}");
    }
    let [chrome, livekit, light] = sizes[..] else { unreachable!() };
    // 80 bytes of Opus, 33 of stamp, and what is around them.
    assert!((60..120).contains(&(livekit - chrome)), "{sizes:?}");
    assert!(light < chrome, "without audio level, transport-cc and send time: {sizes:?}");
}

/// In a silence DTX sends two packets every 420 ms, and all of speech; who has no DTX sends every 20 ms.
#[test]
fn discontinuous_transmission_leaves_out_silence_only() {
    for client in Client::ALL {
        let talk = |sim: &Sim| TalkSpec { floor: Some((5, 2, 0)), epoch: Some(sim.start), mutes: None };
        let mut sim = Sim::new(31, client, MS(15));
        sim.tap = Some(0);
        sim.talk = talk(&sim);
        sim.join(Some(encoding(Codec::Opus, 32)), None, 1, CLEAN);
        sim.join(Some(encoding(Codec::Opus, 32)), None, 1, CLEAN);
        sim.run(Duration::from_secs(60));
        let sent: Vec<u64> = sim.tapped.iter().map(|t| t.at.duration_since(sim.start).as_millis() as u64).collect();
        let gaps: Vec<u64> = sent.windows(2).map(|w| w[1] - w[0]).filter(|ms| *ms > 25).collect();
        if client == Client::LivekitJs {
            assert!(gaps.len() > 40, "{}", gaps.len());
            // From the second of the two to the next first one, or until speech begins.
            assert!(gaps.iter().all(|ms| *ms <= 401), "{gaps:?}");
            assert!(gaps.iter().any(|ms| (399..=401).contains(ms)), "{gaps:?}");
            let mut floor = Floor::new(5, 2);
            let mut spoken = 0;
            for ms in (2000..60_000).step_by(20) {
                // The slot's own middle: which packet falls into it hangs on when the sender began.
                let talks = [ms, ms + 20, ms + 40].iter().all(|ms| floor.talks(ms * 1_000_000, 0));
                if talks {
                    spoken += 1;
                    assert!(sent.iter().any(|at| (ms..ms + 40).contains(at)), "nothing was sent of speech at {ms} ms");
                }
            }
            assert!(spoken > 500, "{spoken}");
        } else {
            assert_eq!(gaps, [0; 0], "{client:?}");
        }
    }
}

/// A muted microphone: silence at level 127, with DTX next to nothing, or nothing at all.
#[test]
fn mutes_send_what_the_client_sends_when_muted() {
    let (after, lasts) = (Duration::from_secs(4), Duration::from_secs(4));
    for client in Client::ALL {
        let mut sim = Sim::new(31, client, MS(15));
        sim.tap = Some(0);
        sim.talk = TalkSpec { floor: None, epoch: Some(sim.start), mutes: Some((9, after, lasts)) };
        sim.join(Some(encoding(Codec::Opus, 32)), None, 1, CLEAN);
        sim.join(None, None, 1, CLEAN);
        sim.run(Duration::from_secs(60));
        let mutes = Mutes::new(9, after.as_nanos() as u64, lasts.as_nanos() as u64);
        // Slots of muted time, away from its edges: hangover, and where a slot begins.
        let muted: Vec<u64> = (1000..59_000)
            .step_by(20)
            .filter(|ms| {
                let mut mutes = mutes.clone();
                mutes.at((ms - 400) * 1_000_000).0 && mutes.at((ms + 40) * 1_000_000).0
            })
            .collect();
        let sent: Vec<u64> = sim.tapped.iter().map(|t| t.at.duration_since(sim.start).as_millis() as u64).collect();
        let in_mute = muted.iter().filter(|ms| sent.iter().any(|at| (**ms..**ms + 20).contains(at))).count();
        let share = in_mute as f64 / muted.len() as f64;
        assert!(muted.len() > 500, "{}", muted.len());
        match client {
            Client::Chrome => assert!(share > 0.99, "{share}"),
            // Two packets of 21 slots.
            Client::LivekitJs => assert!((0.05..0.16).contains(&share), "{share}"),
            Client::Light => assert_eq!(in_mute, 0),
        }
    }
}

/// What the server misses is asked for, and comes again as RTX, on the SSRC that the offer names for it.
#[test]
fn lost_video_comes_again_as_rtx() {
    for client in Client::ALL {
        let mut sim = pair(client, loses(0.1), TalkSpec::default());
        sim.run(Duration::from_secs(15));
        let offer = &sim.members[0].offer;
        let fid = offer.lines().find_map(|l| l.strip_prefix("a=ssrc-group:FID ")).unwrap();
        let ssrcs: Vec<u32> = fid.split(' ').map(|s| s.parse().unwrap()).collect();
        let (media, again) = (packets(&sim, VP8), packets(&sim, RTX));
        assert!(media.iter().all(|t| t.ssrc == ssrcs[0]) && again.iter().all(|t| t.ssrc == ssrcs[1]), "{client:?}");
        assert!(again.len() > 20 && media.len() > 400, "{client:?}: {} {}", again.len(), media.len());
        let lost = sim.members[0].links[0].counters().lost;
        // About a tenth of all, video's share of it again.
        assert!((again.len() as u64) < lost + 5, "{client:?}: {} for {lost} lost", again.len());
        // No media packet goes out twice under its own number.
        let mut numbers: Vec<u16> = media.iter().map(|t| t.seq).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), media.len(), "{client:?}");
    }
}
