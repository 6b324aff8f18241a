//! The commands, one file each.

pub mod check;
pub mod fleet;
mod probe;
pub mod report;
pub mod run;
pub mod schema;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Exit codes: the contract with scripts and CI.
pub mod exit {
    pub const PASS: u8 = 0;
    /// The tool itself failed.
    pub const TOOL_FAILED: u8 = 1;
    /// Bad usage or profile.
    pub const BAD_PROFILE: u8 = 2;
    pub const FAIL: u8 = 3;
    /// Nothing proven: generator unhealthy, no data, steady state not reached.
    pub const UNKNOWN: u8 = 4;
    pub const INTERRUPTED: u8 = 130;
}

/// Fills rooms with headless WebRTC participants and measures what they would notice.
#[derive(Parser, Debug)]
#[command(name = "roomful", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a profile against its target; writes a run folder.
    Run(run::RunArgs),
    /// Check a profile and print its plan, without traffic (or with one participant: --probe).
    Check(check::CheckArgs),
    /// Start the embedded fleet to try things against.
    Fleet(fleet::FleetArgs),
    /// Judge a run folder again and render it again.
    Report(report::ReportArgs),
    /// Print the JSON Schema of profiles, for editors.
    Schema,
    /// The embedded fleet's director (started by roomful itself).
    #[command(hide = true)]
    Director(crate::sfu::DirectorArgs),
    /// One server of the embedded fleet (started by the director).
    #[command(hide = true, name = "sfu-server")]
    SfuServer(crate::sfu::ServerArgs),
}

/// Runs one command; gives the process's exit code.
pub fn run(cli: Cli) -> Result<u8> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ROOMFUL_LOG")
                .unwrap_or_else(|_| "roomful=info,warn,rtc_ice=off,rtc_dtls=off,str0m=off".into()),
        )
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match cli.command {
        Command::Run(a) => run::run(a),
        Command::Check(a) => check::run(a),
        Command::Fleet(a) => fleet::run(a),
        Command::Report(a) => report::run(a),
        Command::Schema => schema::run(),
        Command::Director(a) => crate::sfu::run_director(a).map(|()| exit::PASS),
        Command::SfuServer(a) => crate::sfu::run_server(a).map(|()| exit::PASS),
    }
}
