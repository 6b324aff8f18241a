//! What is wrong with a profile or its target file: every error with its place and key.

use crate::types::mask_urls;
use std::fmt;
use std::sync::Arc;

/// Where a value was written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Origin {
    /// A line (from 1) of the profile, its base or its target file; the name is the path as it was asked for.
    File { file: Arc<str>, line: u32 },
    /// A `--set` of the command line, as given.
    Set(Arc<str>),
    /// The profile says nothing; this is the key's default.
    Default,
    /// The seed, where the profile gives none.
    Drawn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line: 0 } => f.write_str(file),
            Origin::File { file, line } => write!(f, "{file}:{line}"),
            Origin::Set(set) => write!(f, "--set {}", mask_urls(set)),
            Origin::Default => f.write_str("default"),
            Origin::Drawn => f.write_str("drawn"),
        }
    }
}

/// One error: where, which key, what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ProfileError {
    pub at: Origin,
    /// Path of the key, e.g. `rooms[0].size`; empty where the file as a whole is wrong.
    pub key: String,
    pub message: String,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.is_empty() {
            true => write!(f, "{}: {}", self.at, mask_urls(&self.message)),
            false => write!(f, "{}: {}: {}", self.at, self.key, mask_urls(&self.message)),
        }
    }
}

/// All errors of a profile and its target file, in the order of files and lines. Displays one a line:
/// `profiles/x.toml:12: rooms[0].size: …`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProfileErrors(pub Vec<ProfileError>);

impl fmt::Display for ProfileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ProfileErrors {}

/// Errors as they are found; the place comes from the value that is wrong.
#[derive(Default, Debug)]
pub(super) struct Errors {
    list: Vec<ProfileError>,
}

impl Errors {
    pub(super) fn push(&mut self, at: &Origin, key: impl Into<String>, message: impl Into<String>) {
        self.list.push(ProfileError { at: at.clone(), key: key.into(), message: message.into() });
    }

    pub(super) fn extend(&mut self, other: Errors) {
        self.list.extend(other.list);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Keeps the errors that `keep` likes.
    pub(super) fn retain(&mut self, keep: impl FnMut(&ProfileError) -> bool) {
        self.list.retain(keep);
    }

    /// Sorted by file (in the order in which the files were met) and line.
    pub(super) fn finish(mut self) -> ProfileErrors {
        let mut files: Vec<Arc<str>> = Vec::new();
        for error in &self.list {
            if let Origin::File { file, .. } = &error.at
                && !files.contains(file)
            {
                files.push(file.clone());
            }
        }
        self.list.sort_by_key(|e| match &e.at {
            Origin::File { file, line } => (files.iter().position(|f| f == file).unwrap_or(usize::MAX), *line),
            Origin::Set(_) | Origin::Default | Origin::Drawn => (usize::MAX, 0),
        });
        self.list.dedup();
        ProfileErrors(self.list)
    }
}

/// The word of `known` that `word` probably meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|k| (edits(word, k, most), k))
        .filter(|(d, _)| *d <= most)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edit distance (insert, delete, replace, swap of neighbours); `most + 1` where it is surely more.
fn edits(a: &str, b: &str, most: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return most + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut best = (last[j] + usize::from(a[i] != b[j])).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word() {
        let known = ["hold", "warmup", "join", "join_timeout"];
        assert_eq!(nearest("hodl", known), Some("hold"));
        assert_eq!(nearest("warm_up", known), Some("warmup"));
        assert_eq!(nearest("join_timout", known), Some("join_timeout"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn errors_come_in_the_order_of_files_and_lines() {
        let at = |file: &str, line| Origin::File { file: file.into(), line };
        let mut errors = Errors::default();
        errors.push(&at("z.toml", 9), "a", "late");
        errors.push(&Origin::Set("a=b".into()), "a", "set");
        errors.push(&at("a.toml", 1), "a", "target");
        errors.push(&at("z.toml", 2), "", "early");
        assert_eq!(
            errors.finish().to_string(),
            "z.toml:2: early\nz.toml:9: a: late\na.toml:1: a: target\n--set a=b: a: set"
        );
    }
}
