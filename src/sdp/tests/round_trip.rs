//! What we write, we read back.

use super::super::write::{Head, description};
use super::*;
use proptest::prelude::*;

fn payload() -> impl Strategy<Value = Payload<'static>> {
    let encodings = prop::sample::select(vec!["opus/48000/2", "VP8/90000", "H264/90000", "rtx/90000", "red/48000/2"]);
    let fmtp = prop::sample::select(vec!["", "apt=96", "packetization-mode=1;profile-level-id=42e01f", "a=b; c=d"]);
    let feedback = prop::sample::subsequence(vec!["nack", "nack pli", "ccm fir", "goog-remb", "transport-cc"], 0..=5);
    (0u8..128, encodings, fmtp, feedback).prop_map(|(pt, encoding, fmtp, feedback)| Payload {
        pt,
        encoding: encoding.into(),
        fmtp: fmtp.into(),
        feedback: feedback.into_iter().map(Into::into).collect(),
    })
}

prop_compose! {
    fn media()(
        (audio, reduced_size) in any::<(bool, bool)>(),
        direction in prop::sample::select(vec![
            Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive,
        ]),
        mut payloads in prop::collection::vec(payload(), 1..8),
        extensions in prop::collection::btree_map(1u8..15, "[a-z:-]{1,40}", 0..6),
        ssrcs in prop::collection::btree_set(any::<u32>(), 0..4),
        words in prop::option::of(("[a-zA-Z0-9{}-]{1,30}", "[a-zA-Z0-9-]{1,30}")),
    ) -> MediaSection<'static> {
        let mut seen = std::collections::BTreeSet::new();
        payloads.retain(|p| seen.insert(p.pt));
        let mut uris = std::collections::BTreeSet::new();
        let ssrcs: Vec<u32> = ssrcs.into_iter().collect();
        MediaSection {
            name: if audio { "audio" } else { "video" }.into(),
            protocol: "UDP/TLS/RTP/SAVPF".into(),
            formats: payloads.iter().map(|p| p.pt.to_string().into()).collect(),
            direction,
            reduced_size,
            payloads,
            extensions: extensions.into_iter().filter(|(_, u)| uris.insert(u.clone())).map(|(i, u)| (i, u.into())).collect(),
            sim: if ssrcs.len() > 2 { ssrcs.clone() } else { vec![] },
            fid: if let [a, b, ..] = ssrcs[..] { vec![(a, b)] } else { vec![] },
            cname: (!ssrcs.is_empty()).then(|| words.as_ref().map_or("-".into(), |w| w.0.clone().into())),
            msid: words.map(|(a, b)| format!("{a} {b}").into()),
            ssrcs,
            ..MediaSection::default()
        }
    }
}

proptest! {
    #[test]
    fn a_written_description_reads_back_the_same(mut media in prop::collection::vec(media(), 1..6), version: u64) {
        for (i, m) in media.iter_mut().enumerate() {
            m.mid = format!("m{i}").into();
        }
        let local = local();
        let text = description(&Head { session_id: 5, version, local: &local, setup: Setup::Passive }, &media);
        let read = Description::parse(&text).unwrap();
        prop_assert_eq!(&read.media, &media);
        prop_assert_eq!(read.remote.setup, Setup::Passive);
        prop_assert_eq!((&read.remote.ufrag, &read.remote.pwd), (&local.ufrag, &local.pwd));
        prop_assert_eq!((&read.remote.fingerprint, &read.remote.candidates), (&local.fingerprint, &local.candidates));
        let again = description(&Head { session_id: 5, version, local: &local, setup: Setup::Passive }, &read.media);
        prop_assert_eq!(again, text);
    }

    #[test]
    fn any_text_is_an_error_or_a_description(text in "(v=0\r\n)?([a-z]=[ -~]{0,40}\r\n|\\PC{0,20}\n){0,20}") {
        let _ = Description::parse(&text);
    }
}
