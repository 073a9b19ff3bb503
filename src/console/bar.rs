//! Where progress bars are drawn: on standard error, in the columns that everything else fits into.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressDrawTarget, TermLike};

use super::terminal::{Stream, width};

/// Times a second that a bar is drawn at most: indicatif's own rate.
const RATE: u8 = 20;

/// For bars: the terminal at standard error, as wide as [`width`] says; nothing where there is no terminal.
pub fn bar_target() -> ProgressDrawTarget {
    match io::stderr().is_terminal() {
        true => ProgressDrawTarget::term_like_with_hz(Box::<Screen>::default(), RATE),
        false => ProgressDrawTarget::hidden(),
    }
}

/// A terminal that gets each drawing in one piece, and whose failures are nobody's business.
#[derive(Debug, Default)]
struct Screen(Mutex<String>);

impl Screen {
    fn put(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// The cursor goes `count` columns or lines; terminals take a count of 0 for 1.
    fn go(&self, count: usize, where_to: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.put(&format!("\x1b[{count}{where_to}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        // At most a thousand.
        width(Stream::Err) as u16
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.put(s)?;
        self.put("\n")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.put(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Progress that cannot be shown is no reason to end a run.
        let _ = io::stderr().write_all(text.as_bytes());
        Ok(())
    }
}
