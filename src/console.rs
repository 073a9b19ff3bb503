//! What the program prints. Neither a full disk nor a reader that has gone is a reason to panic, and progress is never a
//! reason to end a run: results go through `say!`, whose first failure is told at the end; progress through `note!`,
//! whose failures are not.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// The first failure of standard output.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line of a result on standard output.
macro_rules! say {
    ($($part:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($part)*))) };
}
pub(crate) use say;

/// Prints a line of progress on standard error.
macro_rules! note {
    ($($part:tt)*) => { $crate::console::remark(format_args!($($part)*)) };
}
pub(crate) use note;

/// Prints a part of a result, as it is.
pub fn print(text: fmt::Arguments<'_>) {
    if let Err(error) = io::stdout().write_fmt(text) {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Prints a line of progress.
pub fn remark(text: fmt::Arguments<'_>) {
    // There is nowhere left to say that it failed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether all results were printed. A reader that has gone has what it wanted.
///
/// # Errors
/// When standard output could not be written.
pub fn finish() -> Result<()> {
    let flushed = io::stdout().flush();
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed.map_or(flushed, Err) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("standard output")(error)),
        _ => Ok(()),
    }
}
