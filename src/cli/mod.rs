//! Command line: flags in, [`crate::Result`] out, one line on stderr and an exit status where something is wrong.

pub mod prepare;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::Result;

/// Trains long-tailed image classifiers by GLMC.
#[derive(Debug, Parser)]
#[command(name = "glmc-engine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(prepare::PrepareArgs),
}

/// Runs the program. Exit status: 0, 1 for an error, 2 for a command line that makes no sense, 130 after Ctrl-C.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_status())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Prepare(args) => prepare::run(&args),
    }
}
