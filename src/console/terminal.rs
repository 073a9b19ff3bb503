//! How wide the terminal is, and whether it has colour: asked here and nowhere else.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use terminal_size::{Width, terminal_size_of};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Columns where there is no terminal, and nobody says otherwise.
const USUAL: usize = 80;
/// Columns that a terminal is taken to have at least and at most.
const RANGE: (usize, usize) = (20, 1000);
/// Columns of a sentence at most: longer lines are hard to read.
const SENTENCE: usize = 110;

/// Of headings.
pub const HEADING: Style = Style::new().bold();
/// Of what is best, or as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Of what is not.
pub const WRONG: Style = AnsiColor::Red.on_default().bold();
/// Of what should be looked at.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Results.
    Out,
    /// Progress and errors.
    Err,
}

/// The columns to fill: those that COLUMNS names, else those of the terminal, else 80.
pub fn width(stream: Stream) -> usize {
    reader_width(stream).unwrap_or(USUAL)
}

/// The columns that someone reads the stream in, if anyone does.
pub fn reader_width(stream: Stream) -> Option<usize> {
    let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
    let known = named.filter(|&columns| columns > 0).or_else(|| {
        let size = match stream {
            Stream::Out => terminal_size_of(io::stdout()),
            Stream::Err => terminal_size_of(io::stderr()),
        };
        size.map(|(Width(columns), _)| usize::from(columns))
    });
    known.map(|columns| columns.clamp(RANGE.0, RANGE.1))
}

/// Whether a stream has colour: a terminal that can, unless NO_COLOR says that it should not.
pub fn has_colour(stream: Stream) -> bool {
    let choice = match stream {
        Stream::Out => AutoStream::choice(&io::stdout()),
        Stream::Err => AutoStream::choice(&io::stderr()),
    };
    choice != ColorChoice::Never
}

/// `text` in a style, where the stream has colour.
pub fn paint(stream: Stream, style: Style, text: &str) -> String {
    if text.is_empty() || !has_colour(stream) { text.to_string() } else { format!("{style}{text}{style:#}") }
}

/// A line as several that fit into `width` columns, broken between words: a path stays whole. Lines after the first are
/// indented further than it.
pub fn wrapped(line: &str, width: usize) -> String {
    let own = line.len() - line.trim_start_matches(' ').len();
    let indent = " ".repeat(own + 2);
    let options = Options::new(width.min(SENTENCE))
        .break_words(false)
        .subsequent_indent(&indent)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::fill(line, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_indent() {
        assert_eq!(
            wrapped("  a path /long/and-longer/still here", 20),
            "  a path\n    /long/and-longer/still\n    here"
        );
        assert_eq!(wrapped("short", 20), "short");
        assert_eq!(wrapped("", 20), "");
    }
}
