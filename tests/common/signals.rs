//! Signals in tests.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives a child the system's defaults for the signals that stop it: what runs the tests may ignore some (`nohup`, a
/// background job), children inherit that, and the program respects it.
pub fn heeding(command: &mut Command) -> &mut Command {
    let defaults = || {
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: between fork and exec; `signal` with a default action runs no code of ours.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure calls nothing but `signal`, which is safe to call between fork and exec.
    unsafe { command.pre_exec(defaults) }
}
