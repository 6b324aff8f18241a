//! Mutated descriptions: an error or something usable, never a panic.

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Changes bytes, cuts, and takes whole lines out, doubles or swaps them.
fn mutate(random: &mut Random, text: &str) -> String {
    let mut lines: Vec<Vec<u8>> = text.split("\r\n").map(|l| l.as_bytes().to_vec()).collect();
    for _ in 0..=random.below(6) {
        let (i, j) = (random.below(lines.len()), random.below(lines.len()));
        match random.below(7) {
            0 => {
                lines.remove(i);
            }
            1 => lines.swap(i, j),
            2 => {
                let line = lines[i].clone();
                lines.insert(j, line);
            }
            3 => lines.truncate(i.max(1)),
            _ => {
                let line = &mut lines[i];
                let at = random.below(line.len());
                match random.below(3) {
                    0 => line.truncate(at),
                    1 if at < line.len() => line[at] = random.below(256) as u8,
                    _ => line.insert(at, b"0123456789 :=/*-\xff"[random.below(17)]),
                }
            }
        }
        if lines.is_empty() {
            lines.push(vec![]);
        }
    }
    String::from_utf8_lossy(&lines.join(&b"\r\n"[..])).into_owned()
}

#[test]
fn mutated_offers_are_answered_or_refused() {
    let sources = [
        fixture!("janus_subscriber_offer"),
        fixture!("chromium_publisher_offer"),
        fixture!("janus_subscriber_offer_inactive"),
    ];
    let (mut random, mut answered, mut refused) = (Random(5), 0, 0);
    for round in 0..6_000 {
        let offer = mutate(&mut random, &sources[round % sources.len()]);
        let mut n = if round % 2 == 0 { chrome() } else { light() };
        match n.accept_offer(&offer, &local(), Setup::Active, &[]) {
            Ok((answer, _, agreed)) => {
                answered += 1;
                let d = Description::parse(&answer);
                let all_rejected = agreed.receives.is_empty();
                assert!(d.is_ok() || all_rejected, "our answer does not parse: {d:?}\n{offer}\n{answer}");
                n.offer(&local(), &[opus(1), video(Codec::Vp8, 2, 3)], 2, 2);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(answered > 500 && refused > 500, "{answered} answered, {refused} refused");
}

#[test]
fn mutated_answers_are_taken_or_refused() {
    let mut n = chrome();
    n.offer(&local(), &[opus(11), video(Codec::Vp8, 22, 23)], 0, 0);
    let (mut random, mut taken) = (Random(6), 0);
    let source = fixture!("janus_publisher_answer");
    for _ in 0..6_000 {
        let mut n = n.clone();
        if let Ok((_, agreed)) = n.accept_answer(&mutate(&mut random, &source)) {
            taken += 1;
            for s in &agreed.sends {
                assert!([11, 22].contains(&s.ssrc) && [96, 111].contains(&s.pt));
                assert!(s.ext.mid <= 14 && s.ext.twcc <= 14);
            }
        }
    }
    assert!(taken > 300, "{taken}");
}

#[test]
fn huge_descriptions_are_refused_in_bounded_time() {
    let m = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
    assert!(Description::parse(&format!("v=0\r\n{}", m.repeat(2000))).is_err());
    assert!(Description::parse(&format!("v=0\r\n{}", "a=x\r\n".repeat(300_000))).is_err());
    let offer = fixture!("janus_subscriber_offer");
    let ssrcs: String = (0..60_000).map(|i| format!("a=ssrc:{i} x\r\n")).collect();
    let many = offer.replacen("a=mid:0\r\n", &format!("a=mid:0\r\n{ssrcs}"), 1);
    let parsed = Description::parse(&many).unwrap();
    assert!(parsed.media[0].ssrcs.len() < 1000);
    let feedback: String = (0..50_000).map(|i| format!("a=rtcp-fb:* {i}\r\n")).collect();
    assert!(Description::parse(&offer.replacen("a=mid:1\r\n", &format!("a=mid:1\r\n{feedback}"), 1)).is_ok());
    let candidates = "a=candidate:1 1 udp 1 192.0.2.1 1 typ host\r\n".repeat(10_000);
    let text = offer.replacen("a=mid:0\r\n", &format!("a=mid:0\r\n{candidates}"), 1);
    assert!(Description::parse(&text).unwrap().remote.candidates.len() <= 64);
}
