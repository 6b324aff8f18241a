//! `roomful schema`: JSON Schema of profiles, for editors.

use anyhow::Result;
use std::io::Write;

/// Print the JSON Schema of profiles; the schema of target files is in its $defs.target_file.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct SchemaArgs {}

/// Gives the exit code.
pub fn run(_args: &SchemaArgs) -> Result<i32> {
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&crate::profile::schema())?)?;
    Ok(0)
}
