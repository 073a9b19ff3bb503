//! The `glmc-engine` program: everything of substance is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(unix)]
    // SAFETY: called before any thread exists; it only restores the system's default for a closed pipe, so that
    // `glmc-engine ... | head` ends quietly instead of panicking.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    glmc_engine::cli::main()
}
