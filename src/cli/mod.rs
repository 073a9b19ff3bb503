//! The command line: raw flags into validated calls, errors into one line on stderr and an exit status.

mod bench;
mod device;
mod eval;
mod export;
mod finetune;
mod import;
mod info;
pub mod kernels;
mod meter;
mod posthoc;
mod predict;
mod predictions;
mod prepare;
mod preview;
mod report;
mod self_test;
mod signals;
mod stages;
pub mod stand_in;
mod sweep;
mod train;
mod trained;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::console::{self, Stream, note};
use crate::error::{Error, Result, one_line, shown};
use crate::stop;

/// Trains GLMC, a one-stage method for long-tailed image recognition (CVPR 2023), from scratch.
#[derive(Debug, Parser)]
#[command(version = crate::version::VERSION, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Columns of help at most.
const HELP: usize = 110;

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(prepare::PrepareArgs),
    // A flag given twice counts the last time, so that scripts can append. Boxed: its settings are many times the size of
    // the other subcommands' flags.
    #[command(args_override_self = true)]
    Train(Box<train::TrainArgs>),
    #[command(args_override_self = true)]
    Finetune(Box<finetune::FinetuneArgs>),
    Sweep(Box<sweep::SweepArgs>),
    Eval(eval::EvalArgs),
    Posthoc(posthoc::PosthocArgs),
    Predict(Box<predict::PredictArgs>),
    Export(Box<export::ExportArgs>),
    Report(report::ReportArgs),
    Import(import::ImportArgs),
    #[command(args_override_self = true)]
    Preview(Box<preview::PreviewArgs>),
    Verify(verify::VerifyArgs),
    Bench(bench::BenchArgs),
    #[command(args_override_self = true)]
    Info(Box<info::InfoArgs>),
    Kernels(kernels::KernelsArgs),
    #[command(name = self_test::COMMAND, hide = true)]
    SelfTest(self_test::SelfTestArgs),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder, made if need be
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Runs the program. Exit status: 0, 1 for an error, 2 for an invalid command line, 128 and the
/// number of the signal that stopped it: 130 after Ctrl-C.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
        let text = text.unwrap_or("no message");
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        note!(
            "error: internal error{place}: {}; this is a bug: please report it with the command line",
            one_line(text, 300)
        );
    }));
    let outcome = match parse() {
        Ok(cli) => run(cli.command),
        Err(what) => {
            let stream = if what.use_stderr() { Stream::Err } else { Stream::Out };
            console::styled(stream, &what.render().ansi().to_string());
            if what.use_stderr() {
                return ExitCode::from(2);
            }
            Ok(())
        }
    };
    match outcome.and_then(|()| console::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note!("error: {error}");
            let status = match (&error, stop::signal()) {
                (Error::Interrupted(_), Some(signal)) => 128 + signal,
                _ => error.exit_status(),
            };
            ExitCode::from(status)
        }
    }
}

/// The command line, or clap's word on it in the terminal's width.
fn parse() -> Result<Cli, clap::Error> {
    let of = |arguments: Vec<OsString>| {
        let matches =
            Cli::command().term_width(console::width(Stream::Out).min(HELP)).try_get_matches_from(arguments)?;
        Cli::from_arg_matches(&matches)
    };
    let given: Vec<OsString> = std::env::args_os().collect();
    of(given.clone()).map_err(|error| {
        // clap quotes arguments as they came: where they could move the cursor or flood the screen, it complains about
        // them once more as they are shown in our own messages.
        let printable: Vec<OsString> = given.iter().map(|argument| shown(argument).into()).collect();
        if printable == given { error } else { of(printable).err().unwrap_or(error) }
    })
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Prepare(args) => prepare::run(&args),
        Command::Train(args) => train::run(*args),
        Command::Finetune(args) => finetune::run(*args),
        Command::Sweep(args) => sweep::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::Posthoc(args) => posthoc::run(args),
        Command::Predict(args) => predict::run(*args),
        Command::Export(args) => export::run(&args),
        Command::Report(args) => report::run(args),
        Command::Import(args) => import::run(&args),
        Command::Preview(args) => preview::run(*args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(*args),
        Command::Kernels(args) => kernels::run(&args),
        Command::SelfTest(args) => self_test::run(&args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "glmc-engine", &mut text);
            console::print(format_args!("{}", String::from_utf8_lossy(&text)));
            Ok(())
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            clap_mangen::generate_to(Cli::command(), &folder).map_err(Error::io(&folder))
        }
    }
}
