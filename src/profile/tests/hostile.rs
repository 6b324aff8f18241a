//! No text at all makes the loader panic, hang or use up the memory.

use super::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

#[test]
fn mutated_profiles_never_panic() {
    let mut rng = ChaCha12Rng::seed_from_u64(2026);
    let pieces: Vec<&str> = EVERYTHING.split_inclusive(['\n', '=', '"', '.', ' ', '[', ']']).collect();
    let (mut good, mut bad) = (0, 0);
    for round in 0..20_000 {
        let mut profile = if round % 2 == 0 { EVERYTHING } else { STEADY }.as_bytes().to_vec();
        let mut target = JANUS.as_bytes().to_vec();
        for _ in 0..rng.random_range(1..6) {
            let text = if rng.random_bool(0.25) { &mut target } else { &mut profile };
            let at = rng.random_range(0..text.len());
            match rng.random_range(0..5) {
                0 => text[at] = rng.random_range(0..128),
                1 => drop(text.remove(at)),
                2 => {
                    let piece = pieces[rng.random_range(0..pieces.len())];
                    text.splice(at..at, piece.bytes());
                }
                3 => {
                    let end = (at + rng.random_range(0..40)).min(text.len());
                    text.drain(at..end);
                }
                _ => text
                    .splice(
                        at..at,
                        ["99999999999999999999", "-1", "é", "nan", "{", "\"\"\"", "1e999", "\0"]
                            [rng.random_range(0..8)]
                        .bytes(),
                    )
                    .for_each(drop),
            }
            if text.is_empty() {
                text.push(b'\n');
            }
        }
        let (profile, target) = (String::from_utf8_lossy(&profile), String::from_utf8_lossy(&target));
        let files = [("dir/p.toml", &*profile), ("dir/t/janus.toml", &*target), ("dir/t/api.key", "k")];
        match load_files(&files, &[("ADMIN", "x")], &[]) {
            Ok((p, _)) => {
                good += 1;
                let again = parse_resolved(&p.resolved).unwrap_or_else(|e| panic!("{e}\n{}", p.resolved));
                assert_eq!(again.resolved, p.resolved);
            }
            Err(errors) => {
                bad += 1;
                assert!(!errors.0.is_empty());
                assert!(!errors.to_string().contains("cannot be understood"), "{errors}\n{profile}\n{target}");
            }
        }
    }
    assert!(good > 500 && bad > 5000, "{good} good, {bad} bad");
}

#[test]
fn what_is_no_small_text_file_is_refused() {
    for (path, want) in [("/dev/zero", "is larger than"), ("/", "directory"), ("/proc/self/exe", "UTF-8")] {
        let got = load(Path::new(path), &[]).unwrap_err().to_string();
        assert!(got.starts_with(&format!("{path}: cannot be read: ")) && got.contains(want), "{got}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let deep = 3000;
    let arrays = format!("x = {}{}\n{STEADY}", "[".repeat(deep), "]".repeat(deep));
    assert!(load_text(&arrays, &[]).is_err());
    let tables = format!("x = {}{}\n{STEADY}", "{a=".repeat(deep), "}".repeat(deep));
    assert!(load_text(&tables, &[]).is_err());
    let dotted = format!("{}x = 1\n{STEADY}", "a.".repeat(deep));
    assert!(load_text(&dotted, &[]).is_err());
    let header = format!("{STEADY}[{}x]\n", "a.".repeat(deep));
    assert!(load_text(&header, &[]).is_err());
    let set = format!("{}x=1", "a.".repeat(deep));
    assert!(load_text(STEADY, &[&set]).is_err());
    let value = format!("x={}{}", "[".repeat(deep), "]".repeat(deep));
    assert!(load_text(STEADY, &[&value]).is_err());
}
