//! Holds the direction of the arrows between modules: profile → plan → engine → history → measure → verdict → report.
//! It reads the `crate::…` paths in the sources; comments and strings are not looked at too closely on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each module may use. `types` (the shared words) and `prefetch` are free for all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("prefetch", &[]),
    ("outside", &[]),
    ("measure", &[]),
    ("impair", &[]),
    ("profile", &["plan", "impair"]),
    ("plan", &["profile"]),
    ("client", &[]),
    ("transport", &[]),
    ("turn", &[]),
    ("sdp", &["client", "transport"]),
    ("media", &["measure"]),
    ("history", &["plan", "measure", "impair"]),
    ("signaling", &["client", "plan", "profile", "history", "outside", "transport"]),
    ("participant", &["client", "sdp", "transport", "media", "turn", "measure", "plan", "history", "signaling"]),
    ("sfu", &[]),
    ("fleet", &["sfu", "history", "profile", "outside"]),
    (
        "engine",
        &["participant", "turn", "media", "measure", "history", "plan", "profile", "signaling", "transport", "impair"],
    ),
    ("verdict", &["history", "measure", "profile", "plan", "report"]),
    ("capacity", &["history", "measure", "profile", "plan", "verdict"]),
    ("script", &["history", "profile", "plan"]),
    ("report", &["history", "measure", "profile", "plan", "verdict", "capacity"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).unwrap() {
        let p = e.unwrap().path();
        if p.is_dir() {
            sources(&p, found);
        } else if p.extension().is_some_and(|x| x == "rs") {
            found.push(p);
        }
    }
}

/// Top-level modules that a source text names through `crate::`, tests left out.
fn uses(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = BTreeSet::new();
    for line in code.lines().map(str::trim_start).filter(|l| !l.starts_with("//")) {
        for part in line.split("crate::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn arrows_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for f in files {
        let rel = f.strip_prefix(&src).unwrap();
        let module = rel.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        // Tests may look at anything.
        if rel.components().any(|c| c.as_os_str() == "tests") || rel.file_stem().is_some_and(|s| s == "tests") {
            continue;
        }
        // The command line sits on top of everything, as do the doors for fuzzers.
        if matches!(module.as_str(), "main" | "lib" | "cli" | "fuzzing") {
            continue;
        }
        let Some(may) = allowed.get(module.as_str()) else {
            wrong.push(format!("{}: module {module} is not in the table", rel.display()));
            continue;
        };
        seen.insert(module.clone());
        for u in uses(&std::fs::read_to_string(&f).unwrap()) {
            if u != module && u != "types" && u != "prefetch" && !may.contains(&u.as_str()) {
                wrong.push(format!("{} uses {u}", rel.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows against the direction:\n{}", wrong.join("\n"));
    assert!(seen.len() >= 12, "the test lost sight of the sources: {seen:?}");
}

#[test]
fn the_reader_of_arrows_sees_them() {
    let text = "use crate::engine::Shard;\n// crate::sfu\nlet x = crate::media::rtp::parse(p);\n#[cfg(test)]\nmod tests { use crate::sdp::X; }";
    assert_eq!(uses(text), ["engine", "media"].map(String::from).into());
}

/// A driver is a file of its own and a line in the one list, and nothing else names it but who speaks its language on
/// another way: a file without the line would not even be compiled.
#[test]
fn a_driver_is_a_file_and_a_line() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = std::fs::read_dir(src.join("signaling")).unwrap();
    let files: BTreeSet<String> =
        files.map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let listed: BTreeSet<String> = roomful::profile::DRIVERS.iter().map(|d| d.to_string()).collect();
    let helpers = ["mod", "hook"].map(String::from).into();
    assert_eq!(&files - &helpers, listed, "files of src/signaling, and the list in src/profile/target.rs");
    let mut tables = Vec::new();
    let mut all = Vec::new();
    sources(&src, &mut all);
    for f in all {
        let text = std::fs::read_to_string(&f).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let named = |d: &String| code.contains(&format!("{d}::make")) || code.contains(&format!("mod {d};"));
        if f.starts_with(src.join("signaling")) && listed.iter().any(named) {
            tables.push(f);
        }
    }
    assert!(tables.is_empty(), "they name a driver besides the list: {tables:?}");
}
