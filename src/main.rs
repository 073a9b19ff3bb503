//! The `glmc-engine` program: everything of substance is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    glmc_engine::cli::main()
}
