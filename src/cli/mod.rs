//! The command line: raw flags into validated calls, errors into one line on stderr and an exit status.

mod bench;
mod device;
mod eval;
mod info;
pub mod kernels;
mod prepare;
mod signals;
pub mod stand_in;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::stop;

/// Trains GLMC, a one-stage method for long-tailed image recognition (CVPR 2023), from scratch.
#[derive(Debug, Parser)]
#[command(version = crate::version::VERSION, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(prepare::PrepareArgs),
    // A flag given twice counts the last time, so that scripts can append. Boxed: its settings are many times the size of
    // the other subcommands' flags.
    #[command(args_override_self = true)]
    Train(Box<train::TrainArgs>),
    Eval(eval::EvalArgs),
    Verify(verify::VerifyArgs),
    Bench(bench::BenchArgs),
    Info(Box<info::InfoArgs>),
    Kernels(kernels::KernelsArgs),
}

/// Runs the program. Exit status: 0, 1 for an error, 2 for a command line that makes no sense, 128 and the
/// number of the signal that stopped it: 130 after Ctrl-C.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let status = match (&error, stop::signal()) {
                (Error::Interrupted(_), Some(signal)) => 128 + signal,
                _ => error.exit_status(),
            };
            ExitCode::from(status)
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Prepare(args) => prepare::run(&args),
        Command::Train(args) => train::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(*args),
        Command::Kernels(args) => kernels::run(&args),
    }
}
