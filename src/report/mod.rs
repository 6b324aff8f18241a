//! What people and machines read of a run: `summary.json`, the terminal's table, `report.html`. Reads a judgement,
//! runs nothing.

mod capacity;
mod charts;
mod curve;
mod folder;
mod html;
mod mixes;
mod paste;
mod placement;
mod progress;
mod relays;
mod scale_in;
mod series;
mod summary;
pub mod terminal;

pub use folder::{FolderError, RunFolder};
pub use html::page;
pub use placement::{Comparison, Delta};
pub use progress::{MediaProgress, Progress, progress_line};
pub use series::{MANIFEST_FILE, Manifest, Part, SeriesSummary, series_table, write_series};
pub use summary::{SCHEMA, Summary, metric_paths};

use crate::verdict::Judgement;
use std::path::Path;

/// Names of the files in a run folder, besides the history.
pub const SUMMARY_FILE: &str = "summary.json";
pub const HTML_FILE: &str = "report.html";

/// Writes `summary.json`, `report.html` and what a search has to paste into the run folder, each whole or not at all; takes
/// away what an earlier judgement gave to paste and this one does not. Tries all: the error is that of the first which could not be written.
pub fn write_all(dir: &Path, summary: &Summary, judgement: &Judgement) -> Result<(), FolderError> {
    let json = match summary.to_json() {
        Ok(text) => folder::write_whole(&dir.join(SUMMARY_FILE), &text),
        Err(e) => Err(FolderError::Write { path: dir.join(SUMMARY_FILE), source: e.into() }),
    };
    let html = folder::write_whole(&dir.join(HTML_FILE), &page(summary, judgement));
    let pasted = summary.capacity.as_ref().map(|a| paste::write(dir, &capacity::FILES, &capacity::files(a)));
    json.and(html).and(pasted.unwrap_or(Ok(())))
}

#[cfg(test)]
mod tests;
