//! The commands, one file each.

pub mod check;
pub mod fleet;
pub mod impair;
pub mod mark;
mod probe;
pub mod report;
pub mod run;
pub mod schema;
mod stage;

use crate::types::Masking;
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
    Check(CheckCommand),
    Fleet(fleet::FleetArgs),
    Impair(impair::ImpairArgs),
    Mark(mark::MarkArgs),
    Report(report::ReportArgs),
    Schema(schema::SchemaArgs),
    /// The embedded fleet's director (started by roomful itself).
    #[command(hide = true)]
    Director(crate::sfu::director::DirectorArgs),
    /// One server of the embedded fleet (started by the director).
    #[command(hide = true, name = "sfu-server")]
    SfuServer(crate::sfu::server::ServerArgs),
    /// One TURN server of the embedded fleet (started by roomful itself).
    #[command(hide = true, name = "turn-server")]
    TurnServer(crate::sfu::turn::server::TurnArgs),
}

/// Check a profile and print its plan, without traffic; --probe joins one participant.
#[derive(clap::Args, Debug)]
struct CheckCommand {
    #[command(flatten)]
    check: check::CheckArgs,
    /// Join one participant and say what it met: server, addresses, suite, and which `allow` line is missing.
    #[arg(long, conflicts_with = "resolved")]
    probe: bool,
}

/// An error with its causes, each said once: some name their cause in their own text.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

/// Runs one command; gives the process's exit code.
pub fn run(cli: Cli) -> Result<u8> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ROOMFUL_LOG")
                .unwrap_or_else(|_| "roomful=info,warn,rtc_ice=off,rtc_dtls=off,str0m=off".into()),
        )
        .with_writer(|| Masking(std::io::stderr()))
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .with_target(false)
        .init();
    let code = match cli.command {
        Command::Run(a) => return run::run(&a),
        Command::Check(a) if a.probe => return probe::run(&a.check),
        Command::Check(a) => check::run(&a.check)?,
        Command::Fleet(a) => fleet::run(&a).map(|()| 0)?,
        Command::Impair(a) => return impair::run(&a),
        Command::Mark(a) => return mark::run(&a),
        Command::Report(a) => report::run(&a)?,
        Command::Schema(a) => schema::run(&a)?,
        Command::Director(a) => crate::sfu::director::run(a).map(|()| 0)?,
        Command::SfuServer(a) => crate::sfu::server::run(a).map(|()| 0)?,
        Command::TurnServer(a) => crate::sfu::turn::server::run(a).map(|()| 0)?,
    };
    Ok(u8::try_from(code).unwrap_or(exit::TOOL_FAILED))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    #[test]
    fn a_cause_is_said_once() {
        let folder = crate::report::RunFolder::at(std::path::Path::new("/dev/null/here"));
        let error = folder.context("a run").unwrap_err();
        let text = super::explain(&error);
        assert!(text.starts_with("a run: can't make the run folder /dev/null/here: Not a directory"), "{text}");
        assert_eq!(text.matches("Not a directory").count(), 1, "{text}");
    }
}
