//! Doors for fuzz targets and seeded mutations to what parses bytes inside of modules: each takes anything, and panics where
//! something is wrong. Not part of a build that is used.

use crate::turn::frame::{Deframer, channel_data};
use crate::turn::{Allocation, Login};
use crate::{fleet, profile, sfu, signaling};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// What a Janus says over its WebSocket.
pub fn janus(text: &str) {
    signaling::janus::read_any(text);
}

/// What a user's join API answers.
pub fn join_hook(text: &str) {
    signaling::read_any_answer(text);
}

/// What a backend's program or service says of a fleet, what a coturn's CLI and a Prometheus exporter print.
pub fn fleet_texts(text: &str) {
    fleet::backend::read_any(text);
    fleet::observe::read_any(text);
}

/// A profile, and after a line of equals signs a target file (and base), as users write them. What is accepted has to read
/// again from its own resolved text.
pub fn profile(text: &str) {
    let (profile, target) = text.split_once("\n=====\n").unwrap_or((text, "driver = \"embedded\""));
    if let Ok(accepted) = profile::load_texts(profile, target) {
        let again = profile::parse_resolved(&accepted.resolved);
        assert!(again.is_ok(), "{again:?} of\n{}", accepted.resolved);
    }
}

/// What a TURN server sends: over a stream in pieces of the first byte's size, and each message to an allocation that waits
/// for its answers; time passes between them.
pub fn turn(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let mut now = Instant::now();
    let login = Login { username: "u".into(), password: "p".into() };
    let mut allocation = Allocation::new(now, login, Duration::from_secs(600), true, None, 7);
    let mut frames = Deframer::default();
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    for piece in bytes.chunks(usize::from(*piece) + 1) {
        frames.push(piece);
        while let Ok(Some(message)) = frames.next_message() {
            if channel_data(message).is_none() {
                allocation.on_message(now, message);
            }
            allocation.send(now, peer, b"media");
            while allocation.poll_transmit().is_some() {}
            while allocation.poll_event().is_some() {}
        }
        now += Duration::from_millis(400);
        allocation.handle_timeout(now);
    }
}

/// What clients, peers and other servers send to our own servers.
pub fn sfu(bytes: &[u8]) {
    sfu::take_any(bytes);
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng, seq::IndexedRandom};
    use rand_chacha::ChaCha8Rng;

    /// Bytes of a seed that are changed, cut, doubled or taken from another seed.
    fn mutated(rng: &mut ChaCha8Rng, seeds: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seeds.choose(rng).expect("there are seeds").to_vec();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
            match rng.random_range(0..5) {
                0 if at < bytes.len() => bytes[at] = rng.random(),
                1 => bytes.truncate(at),
                2 => {
                    let other = seeds.choose(rng).expect("there are seeds");
                    let from = rng.random_range(0..other.len().max(1)).min(other.len());
                    bytes.splice(at..at, other[from..].iter().copied());
                }
                3 => {
                    let end = (at + rng.random_range(1..20)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let word = [&b"\""[..], b"{", b"[", b"null", b"-1", b"1e999", b"\n", b"\xff", b"0", b"="];
                    let word = word.choose(rng).expect("there are words");
                    bytes.splice(at..at, word.iter().copied());
                }
            }
        }
        bytes.truncate(1 << 14);
        bytes
    }

    fn all(seed: u64, rounds: u32, seeds: &[&[u8]], take: impl Fn(&[u8])) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        seeds.iter().for_each(|s| take(s));
        for _ in 0..rounds {
            take(&mutated(&mut rng, seeds));
        }
        let mut noise = vec![0; 300];
        for _ in 0..rounds / 10 {
            rng.fill_bytes(&mut noise);
            take(&noise);
        }
    }

    fn texts(seed: u64, rounds: u32, seeds: &[&str], take: impl Fn(&str)) {
        let seeds: Vec<&[u8]> = seeds.iter().map(|s| s.as_bytes()).collect();
        all(seed, rounds, &seeds, |bytes| take(&String::from_utf8_lossy(bytes)));
    }

    #[test]
    fn whatever_a_janus_says_is_survived() {
        let seeds = [
            r#"{"janus":"success","transaction":"t3","data":{"id":7}}"#,
            r#"{"janus":"event","sender":1,"plugindata":{"plugin":"janus.plugin.videoroom","data":{"videoroom":"joined","publishers":[{"id":5}]}},"jsep":{"type":"answer","sdp":"v=0"}}"#,
            r#"{"janus":"trickle","sender":1,"candidate":{"candidate":"candidate:1 1 udp 5 10.0.0.1 9 typ host"}}"#,
            r#"{"janus":"error","error":{"code":458,"reason":"No such session"}}"#,
        ];
        texts(1, 20_000, &seeds, super::janus);
    }

    #[test]
    fn whatever_a_join_api_answers_is_survived() {
        texts(
            2,
            20_000,
            &[r#"{"url":"ws://h:1","room":5,"token":"t","server":"a"}"#, "[]", "{\"url\":null}"],
            super::join_hook,
        );
    }

    #[test]
    fn whatever_a_fleet_says_of_itself_is_survived() {
        let seeds = [
            r#"{"servers":[{"id":"a","alive":true,"sessions":4,"headroom":-1}],"rooms":{"x":"a"}}"#,
            "1) id=1, user <a>:\n\n  Total sessions: 7\n\n> ",
            "# TYPE s gauge\nsfu_sessions{room=\"a\",x=\"\\\"\"} 3 1700\nsfu_sessions 4e3\nsfu_jitter NaN\n",
        ];
        texts(3, 20_000, &seeds, super::fleet_texts);
    }

    #[test]
    fn whatever_a_user_writes_is_survived() {
        let target = include_str!("../profiles/targets/janus-fleet.toml");
        let with = |profile: &str| format!("{profile}\n=====\n{target}");
        let seeds = [
            include_str!("../profiles/demo.toml"),
            include_str!("../profiles/scale-in-janus.toml"),
            include_str!("../profiles/capacity-mixes.toml"),
            include_str!("../profiles/bad-network.toml"),
            include_str!("../profiles/turn-demo.toml"),
        ]
        .map(with);
        texts(4, 1500, &seeds.each_ref().map(|s| s.as_str()), super::profile);
    }

    #[test]
    fn whatever_a_turn_server_sends_is_survived() {
        let refused =
            [&[9, 0x01, 0x13, 0, 8, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12], &[0, 9, 0, 4, 0, 0, 4, 1]].concat();
        let data = [3, 0x40, 0x00, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        all(5, 20_000, &[&refused, &data], super::turn);
    }

    #[test]
    fn whatever_is_sent_to_our_own_servers_is_survived() {
        let allocate = [&[0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12], &[0, 0x19, 0, 4, 17, 0, 0, 0]].concat();
        all(6, 20_000, &[&allocate, &[0x40, 0, 0, 4, 1, 2, 3, 4], b"\x01frame"], super::sfu);
    }
}
