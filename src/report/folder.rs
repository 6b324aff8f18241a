//! The run folder: `reports/<time>-<profile>/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::macros::format_description;

/// Runs of one profile that may start in one second.
const SAME_SECOND_MAX: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("can't make the run folder {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("can't write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("can't remove {path}, whose number holds no longer: {source}")]
    Remove { path: PathBuf, source: io::Error },
}

/// A folder made for one run, empty at first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes `<base>/<time>-<profile>/` (time in UTC), and `<base>` where it is missing. A folder of that name that is
    /// there already is left alone: `-2` and so on is appended.
    pub fn create(base: &Path, profile: &str, started: OffsetDateTime) -> Result<RunFolder, FolderError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Create { path, source }
        };
        fs::create_dir_all(base).map_err(fail(base))?;
        let shape = format_description!("[year][month][day]-[hour][minute][second]");
        let time = started.to_offset(time::UtcOffset::UTC).format(shape).unwrap_or_else(|_| "unknown-time".into());
        let name = format!("{time}-{}", file_name(profile));
        let mut nth = 1;
        loop {
            let path = if nth == 1 { base.join(&name) } else { base.join(format!("{name}-{nth}")) };
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && nth < SAME_SECOND_MAX => nth += 1,
                Err(e) => return Err(fail(&path)(e)),
            }
        }
    }

    /// Takes a folder that the user named with `--out`: made where it is missing; a history in it is not overwritten.
    pub fn at(path: &Path) -> Result<RunFolder, FolderError> {
        fs::create_dir_all(path).map_err(|source| FolderError::Create { path: path.into(), source })?;
        if path.join(crate::history::FILE_NAME).exists() || path.join(super::MANIFEST_FILE).exists() {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "it holds the history of another run");
            return Err(FolderError::Create { path: path.into(), source });
        }
        Ok(RunFolder { path: path.into() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Only what every file system and shell takes without quoting.
fn file_name(profile: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = profile.chars().map(keep).take(80).collect();
    let name = name.trim_matches(['.', '-']);
    if name.is_empty() { "run".into() } else { name.into() }
}

/// Writes a file whole or not at all.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), FolderError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let done = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    done.map_err(|source| {
        // Best effort: what is left of it helps nobody.
        let _ = fs::remove_file(&temporary);
        FolderError::Write { path: path.into(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn two_runs_in_one_second_have_two_folders() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("reports");
        let at = datetime!(2026-03-01 10:00:05 UTC);
        let one = RunFolder::create(&base, "demo", at).unwrap();
        let two = RunFolder::create(&base, "demo", at).unwrap();
        assert_eq!(one.path(), base.join("20260301-100005-demo"));
        assert_eq!(two.path(), base.join("20260301-100005-demo-2"));
        let odd = RunFolder::create(&base, "../../etc/pass wd", at).unwrap();
        assert_eq!(odd.path(), base.join("20260301-100005-etc-pass-wd"));
    }

    #[test]
    fn says_what_could_not_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let e = RunFolder::create(&file, "demo", datetime!(2026-03-01 10:00:05 UTC)).unwrap_err().to_string();
        assert!(e.contains("can't make the run folder") && e.contains("file"), "{e}");
        let out = dir.path().join("out");
        RunFolder::at(&out).unwrap();
        fs::write(out.join("history.jsonl"), "").unwrap();
        assert!(RunFolder::at(&out).unwrap_err().to_string().contains("another run"));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("summary.json");
        write_whole(&path, "one").unwrap();
        write_whole(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let e = write_whole(&dir.path().join("none/summary.json"), "x").unwrap_err().to_string();
        assert!(e.contains("summary.json") && e.contains("os error 2"), "{e}");
    }
}
