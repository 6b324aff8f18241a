//! Several runs of one profile, one after the other: what they say together. The folder of a series holds a manifest and
//! the run folder of each, by its name; its `summary.json` and `report.html` are made of theirs.

use super::placement::{self, Comparison};
use super::{FolderError, HTML_FILE, SUMMARY_FILE, Summary, folder, html, mixes, paste};
use crate::capacity::{Matrix, MixRow};
use crate::profile::{Profile, Series};
use crate::verdict::Verdict;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Says that a folder holds a series, and of which profile.
pub const MANIFEST_FILE: &str = "series.json";

/// What is known before the first run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    pub version: String,
    pub profile: String,
    pub seed: u64,
    pub started_at: String,
    /// The whole profile, as TOML without secrets.
    pub resolved: String,
}

impl Manifest {
    pub fn write(&self, dir: &Path) -> Result<(), FolderError> {
        let path = dir.join(MANIFEST_FILE);
        match serde_json::to_string_pretty(self) {
            Ok(text) => folder::write_whole(&path, &(text + "\n")),
            Err(e) => Err(FolderError::Write { path, source: e.into() }),
        }
    }
}

/// One run of a series. Without a summary it was never made.
pub struct Part {
    pub name: String,
    pub summary: Option<Summary>,
}

/// `summary.json` of a series: `schema`, `tool`, `verdict`, `sentence` and `reasons` as in that of a run.
#[derive(Clone, Debug, Serialize)]
pub struct SeriesSummary {
    pub schema: u32,
    pub tool: super::summary::Tool,
    pub series: &'static str,
    pub run: SeriesRun,
    pub verdict: Verdict,
    pub sentence: String,
    pub reasons: Vec<String>,
    pub runs: Vec<RunRow>,
    /// Of `[[mixes]]`.
    pub mixes: Option<Matrix>,
    /// Of `[compare]`.
    pub placement: Option<Comparison>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SeriesRun {
    pub profile: String,
    pub shape: String,
    pub seed: u64,
    pub started_at: String,
    pub resolved: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct RunRow {
    /// Also of its folder in this one.
    pub name: String,
    pub verdict: Verdict,
    pub sentence: String,
}

impl SeriesSummary {
    /// `profile` is the whole one, and `parts` has a run for each of its names.
    pub fn of(manifest: &Manifest, profile: &Profile, series: &Series, parts: &[Part]) -> SeriesSummary {
        let run = |part: &Part| match &part.summary {
            Some(s) => (s.verdict, s.sentence.clone()),
            None => (Verdict::Unknown, "Not run.".to_owned()),
        };
        let runs: Vec<RunRow> = parts
            .iter()
            .map(|part| {
                let (verdict, sentence) = run(part);
                RunRow { name: part.name.clone(), verdict, sentence }
            })
            .collect();
        let (mut matrix, mut comparison) = (None, None);
        let (verdict, sentence) = match series {
            Series::Mixes(_) => {
                let answer = |part: &Part| part.summary.as_ref().and_then(|s| s.capacity.clone());
                let row = |(part, run): (&Part, &RunRow)| {
                    MixRow::of(&run.name, run.verdict, &run.sentence, answer(part).as_ref())
                };
                let (width, answer) = profile.search.as_ref().map_or((0.0, None), |s| (s.width, s.answer));
                let made = Matrix::of(parts.iter().zip(&runs).map(row).collect(), width, answer);
                let said = made.verdict();
                matrix = Some(made);
                said
            }
            Series::Placement(_) => {
                let made = Comparison::of(parts);
                let said = made.verdict(&runs);
                comparison = Some(made);
                said
            }
        };
        let reasons = if verdict == Verdict::Pass { Vec::new() } else { vec![sentence.clone()] };
        SeriesSummary {
            schema: super::SCHEMA,
            tool: super::summary::Tool { name: "roomful", version: manifest.version.clone() },
            series: series.what(),
            run: SeriesRun {
                profile: manifest.profile.clone(),
                shape: profile.shape.as_str().to_owned(),
                seed: manifest.seed,
                started_at: manifest.started_at.clone(),
                resolved: manifest.resolved.clone(),
            },
            verdict,
            sentence,
            reasons,
            runs,
            mixes: matrix,
            placement: comparison,
        }
    }
}

/// Writes `summary.json`, `report.html` and what there is to paste into the folder of a series.
pub fn write_series(dir: &Path, summary: &SeriesSummary) -> Result<(), FolderError> {
    let path = dir.join(SUMMARY_FILE);
    let json = match serde_json::to_string_pretty(summary) {
        Ok(text) => folder::write_whole(&path, &(text + "\n")),
        Err(e) => Err(FolderError::Write { path, source: e.into() }),
    };
    let page = folder::write_whole(&dir.join(HTML_FILE), &page(summary));
    let pasted = summary.mixes.as_ref().map(|m| paste::write(dir, &mixes::FILES, &mixes::files(m)));
    json.and(page).and(pasted.unwrap_or(Ok(())))
}

/// For a terminal, ending with the sentence and a newline.
pub fn series_table(s: &SeriesSummary, paint: super::terminal::Paint) -> String {
    let mut out = String::new();
    out.push_str(&s.mixes.as_ref().map(|m| mixes::table(m, paint)).unwrap_or_default());
    out.push_str(&s.placement.as_ref().map(|c| placement::table(c, paint)).unwrap_or_default());
    out.push_str(&super::terminal::said(s.verdict, &s.sentence, paint));
    out
}

fn page(s: &SeriesSummary) -> String {
    let word = match s.verdict {
        Verdict::Pass => "Passed",
        Verdict::Fail => "Failed",
        Verdict::Unknown => "Not proven",
    };
    let body = html! {
        header.banner.(s.verdict.as_str()) {
            p.word { (word) }
            h1 { (s.sentence) }
            p.meta { (s.run.profile) " · " (s.run.shape) ", " (s.runs.len()) " " (s.series) " · " (s.run.started_at) }
        }
        @if let Some(m) = &s.mixes { (mixes::section(m)) }
        @if let Some(c) = &s.placement { (placement::section(c)) }
        (runs(s))
        section {
            h2 { "About this series" }
            p.what { "All that is needed to make it again, and to judge it again: " code { "roomful report DIR" } "." }
            dl {
                dt { "Seed" } dd { code { (s.run.seed) } }
                dt { "Tool" } dd { "roomful " (s.tool.version) }
            }
            details { summary { "Profile with every default" } pre { (s.run.resolved) } }
        }
    };
    html::bare(&format!("{} · {} · roomful", s.verdict.as_str(), s.run.profile), &body)
}

fn runs(s: &SeriesSummary) -> Markup {
    html! {
        section {
            h2 { "Runs" }
            p.what { "One after the other, each with a report of its own." }
            div.scroll { table { tbody { @for run in &s.runs {
                @let mark = match run.verdict { Verdict::Pass => "✓", Verdict::Fail => "✗", Verdict::Unknown => "?" };
                tr.(run.verdict.as_str()) {
                    td.mark { span { (mark) } }
                    td { a href=(format!("{}/{HTML_FILE}", run.name)) { (run.name) } }
                    td { (run.sentence) }
                }
            } } } }
        }
    }
}
