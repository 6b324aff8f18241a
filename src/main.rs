//! Parses the command line, runs one command, maps its outcome to the exit code.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = roomful::cli::Cli::parse();
    match roomful::cli::run(args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            tracing::error!("{}", roomful::cli::explain(&e));
            ExitCode::from(roomful::cli::exit::TOOL_FAILED)
        }
    }
}
