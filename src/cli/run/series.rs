//! A profile that stands for several runs: one after the other, each with a run folder of its own inside that of the
//! series, and then what they say together.

use super::{RunArgs, fits, folder, one, write_err};
use crate::cli::{exit, report};
use crate::plan::{self, Machine};
use crate::profile::{Profile, Series, share_of};
use crate::report::{Manifest, RunFolder, SCHEMA};
use anyhow::Result;
use std::sync::Arc;
use std::time::Instant;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Makes all runs once; gives the exit code of what they say together.
pub(super) fn once(args: &RunArgs, whole: &Profile, series: &Series, tried: u32) -> Result<u8> {
    let started = OffsetDateTime::now_utc();
    let folder = folder(args, whole, started, tried)?;
    let manifest = Manifest {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: whole.name.clone(),
        seed: whole.seed,
        started_at: started.format(&Rfc3339)?,
        resolved: whole.resolved.clone(),
    };
    manifest.write(folder.path())?;
    let names = series.names();
    let began = Instant::now();
    let mut interrupted = false;
    let mut trouble = None;
    for (i, (name, run)) in names.iter().zip(&whole.runs).enumerate() {
        // What one search leaves of the budget is shared by those behind it.
        let run = Arc::new(match &whole.search {
            Some(search) => {
                run.within(share_of(search.budget.saturating_sub(began.elapsed()), (names.len() - i) as u32))
            }
            None => run.clone(),
        });
        write_err(&format!("{}: {} {} of {}, {name}", whole.name, series.what(), i + 1, names.len()));
        let plan = Arc::new(plan::plan(&run));
        let Ok(limits) = fits(args, &run, &plan, &Machine::read())? else { return Ok(exit::BAD_PROFILE) };
        let own = RunFolder::at(&folder.path().join(name))?;
        match one(&run, &plan, &limits, OffsetDateTime::now_utc(), &own) {
            Ok(code) => interrupted = code == exit::INTERRUPTED,
            Err(e) => trouble = Some(e),
        }
        if interrupted || trouble.is_some() {
            break;
        }
    }
    let judged = report::after_series(folder.path());
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    let code = judged?;
    Ok(if interrupted { exit::INTERRUPTED } else { u8::try_from(code)? })
}
