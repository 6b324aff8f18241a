//! What people and machines read of a run: `summary.json`, the terminal's table, `report.html`. Reads a judgement,
//! runs nothing.

mod charts;
mod folder;
mod html;
mod progress;
mod summary;
pub mod terminal;

pub use folder::{FolderError, RunFolder};
pub use html::page;
pub use progress::{MediaProgress, Progress, progress_line};
pub use summary::{SCHEMA, Summary, metric_paths};

use crate::verdict::Judgement;
use std::path::Path;

/// Names of the files in a run folder, besides the history.
pub const SUMMARY_FILE: &str = "summary.json";
pub const HTML_FILE: &str = "report.html";

/// Writes `summary.json` and `report.html` into the run folder, each whole or not at all. Tries both: the error is
/// that of the first which could not be written.
pub fn write_all(dir: &Path, summary: &Summary, judgement: &Judgement) -> Result<(), FolderError> {
    let json = match summary.to_json() {
        Ok(text) => folder::write_whole(&dir.join(SUMMARY_FILE), &text),
        Err(e) => Err(FolderError::Write { path: dir.join(SUMMARY_FILE), source: e.into() }),
    };
    let html = folder::write_whole(&dir.join(HTML_FILE), &page(summary, judgement));
    json.and(html)
}

#[cfg(test)]
mod tests;
