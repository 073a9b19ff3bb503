//! What the program prints. Neither a full disk nor a reader that has gone is a reason to panic, and progress is never a
//! reason to end a run: results go through `say!` and `tell!`, whose first failure is told at the end; progress through
//! `note!`, whose failures are not.
//!
//! Text fits the terminal ([`width`]) and has colour where the terminal has it. Texts come in without escape sequences and
//! leave without any but ours: what would not print as itself is escaped.

mod bar;
mod table;
mod terminal;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result, escaped};

pub use bar::bar_target;
pub use table::{Column, Table, fitting};
pub use terminal::{GOOD, HEADING, Stream, WRONG, paint, width};
use terminal::{WARNING, has_colour, reader_width, wrapped};

/// The first failure of standard output.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line of a result on standard output, as it is.
macro_rules! say {
    ($($part:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($part)*))) };
}
pub(crate) use say;

/// Prints a sentence of a result on standard output: in as many lines as the terminal needs, in one for programs.
macro_rules! tell {
    ($($part:tt)*) => { $crate::console::sentence(format_args!($($part)*)) };
}
pub(crate) use tell;

/// Prints a line of progress on standard error.
macro_rules! note {
    ($($part:tt)*) => { $crate::console::remark(format_args!($($part)*)) };
}
pub(crate) use note;

/// Prints a part of a result, as it is.
pub fn print(text: fmt::Arguments<'_>) {
    // In one piece, so that nothing of a line that cannot be written stays in the buffer.
    if let Err(error) = io::stdout().write_all(text.to_string().as_bytes()) {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Prints a sentence of a result.
pub fn sentence(text: fmt::Arguments<'_>) {
    for line in text.to_string().split('\n') {
        let line = escaped(line);
        match reader_width(Stream::Out) {
            Some(width) => print(format_args!("{}\n", wrapped(&line, width))),
            None => print(format_args!("{line}\n")),
        }
    }
}

/// Prints a line of progress: wrapped where a person reads it, one line for programs. Errors are never wrapped, so that a
/// command in them can be copied.
pub fn remark(text: fmt::Arguments<'_>) {
    for line in text.to_string().split('\n') {
        let line = escaped(line);
        let kinds = [("error:", WRONG), ("warning:", WARNING)];
        let kind = kinds.into_iter().find(|(start, _)| line.starts_with(start));
        let line = match (kind, reader_width(Stream::Err)) {
            (Some(("error:", _)), _) | (_, None) => line,
            (_, Some(width)) => wrapped(&line, width),
        };
        let (start, rest) = kind.map_or(("", line.as_str()), |(start, _)| line.split_at(start.len()));
        let start = kind.map_or(String::new(), |(_, style)| paint(Stream::Err, style, start));
        // There is nowhere left to say that it failed.
        let _ = writeln!(io::stderr(), "{start}{rest}");
    }
}

/// Prints text that has escape sequences of its own: without them where the stream has no colour, and with lines that are
/// too long broken.
pub fn styled(stream: Stream, text: &str) {
    let text = if has_colour(stream) { text.to_string() } else { anstream::adapter::strip_str(text).to_string() };
    let room = if stream == Stream::Out { Some(width(stream)) } else { reader_width(stream) };
    for line in text.lines() {
        let line = match room {
            Some(room) if columns(line) > room => wrapped(line, room),
            _ => line.to_string(),
        };
        match stream {
            Stream::Out => print(format_args!("{line}\n")),
            Stream::Err => progress(&line),
        }
    }
}

/// Prints a line of progress that was made to fit.
pub fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The columns that a text takes.
pub fn columns(text: &str) -> usize {
    textwrap::core::display_width(text)
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
