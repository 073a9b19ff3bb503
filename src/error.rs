//! The one error type. Each message is a single line that says what is wrong, where, and (where it helps) what to do.
//!
//! Names and texts in messages come from files that anyone may have made: [`shown`] and [`one_line`] let none of them break
//! the line, move the terminal's cursor, reorder the text or flood the screen.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

/// Most characters of a path in a message; the middle is left out of longer ones.
const MOST_OF_A_PATH: usize = 300;
/// Most characters of a message.
const MOST_OF_A_MESSAGE: usize = 8000;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, sorted by what the user can do about it. `Display` gives one line, whatever is in it.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused a file operation.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// A file's content is not what it must be.
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// An op was given shapes, types or values that it does not take.
    Op {
        /// The op's name, the same at every layer.
        op: &'static str,
        /// What does not fit, with the shapes.
        what: String,
    },
    /// A setting is missing, out of range or contradicts another.
    Config(String),
    /// A device is absent, unusable or failed.
    Device {
        /// `cpu`, `cuda:0`, `emulator`.
        device: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Training cannot continue (a loss that is not finite, say).
    Training(String),
    /// Stopped by a signal after saving or cleaning up; the message says how to continue. Exit status 130, that of Ctrl-C,
    /// unless the program knows of another signal.
    Interrupted(String),
    /// An invalid command line. Exit status 2.
    Usage(String),
}

impl Error {
    /// An [`Error::Io`] about `path`; use as `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// An [`Error::Op`] of the op named `op`.
    pub fn op(op: &'static str, what: impl Into<String>) -> Error {
        Error::Op { op, what: what.into() }
    }

    /// An [`Error::Device`] of `device`.
    pub fn device(device: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Device { device: device.into(), what: what.into() }
    }

    /// What is wrong, without the name of the file that it is wrong with: for messages that name the file themselves.
    pub fn without_path(&self) -> String {
        match self {
            Error::Io { source, .. } => source.to_string(),
            Error::File { what, .. } => what.clone(),
            other => other.to_string(),
        }
    }

    /// The process's exit status for this error.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Error::Io { path, source } => format!("{}: {source}", shown(path)),
            Error::File { path, what } => format!("{}: {what}", shown(path)),
            Error::Op { op, what } => format!("{op}: {what}"),
            Error::Device { device, what } => format!("{device}: {what}"),
            Error::Config(what) | Error::Training(what) | Error::Interrupted(what) | Error::Usage(what) => {
                return write!(f, "{}", one_line(what, MOST_OF_A_MESSAGE));
            }
        };
        write!(f, "{}", one_line(&line, MOST_OF_A_MESSAGE))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A path (or any name that the system gave) as part of one line: what is no text, does not print or changes how the rest
/// prints is escaped, and the middle of a very long one is left out.
pub fn shown(path: impl AsRef<OsStr>) -> String {
    cut(escaped(path), MOST_OF_A_PATH)
}

/// A path as one word of a command that a message suggests: quoted where a shell would take it apart.
pub fn word(path: impl AsRef<OsStr>) -> String {
    let text = escaped(path);
    if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-+,:=@%".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// [`shown`] in full.
pub fn escaped(path: impl AsRef<OsStr>) -> String {
    decoded(path.as_ref(), escape)
}

/// A path as text for files: only bytes that are no text are escaped.
pub fn as_text(path: impl AsRef<OsStr>) -> String {
    decoded(path.as_ref(), |valid, text| text.push_str(valid))
}

fn decoded(path: &OsStr, add: impl Fn(&str, &mut String)) -> String {
    let mut text = String::new();
    for chunk in path.as_encoded_bytes().utf8_chunks() {
        add(chunk.valid(), &mut text);
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Any text as part of one line of at most about `most` characters: what does not print is escaped, the middle of a longer
/// text is left out.
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    match text.char_indices().nth(most) {
        None => escape(text, &mut line),
        // Escaping millions of characters to show a few would take longer than to read them.
        Some(_) => {
            let head = text.char_indices().nth(most / 2).map_or(text.len(), |(at, _)| at);
            let tail = text.char_indices().rev().nth(most / 2).map_or(0, |(at, _)| at);
            escape(&text[..head], &mut line);
            line.push_str(" ... ");
            escape(&text[tail..], &mut line);
        }
    }
    cut(line, most + " ... ".len())
}

/// Appends `text` with everything escaped that would not print as itself: controls, line ends, invisible characters, marks that
/// turn the direction of the text.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if matches!(c, '\'' | '"' | '\\' | ' '..='~') {
            out.push(c);
            continue;
        }
        // `str::escape_debug` escapes a combining mark only at the very start, where it has nothing to combine with; after a
        // letter it stays as it is, as in decomposed accents.
        let mut pair = [b'a', 0, 0, 0, 0];
        let n = c.encode_utf8(&mut pair[1..]).len();
        match std::str::from_utf8(&pair[..=n]) {
            Ok(pair) => out.extend(pair.escape_debug().skip(1)),
            Err(_) => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
}

/// Leaves out the middle of a text of more than `most` characters.
fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let count = text.chars().count();
    if count <= most {
        return text;
    }
    let half = (most - 3) / 2;
    text.chars().take(half).chain("...".chars()).chain(text.chars().skip(count - half)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn nothing_breaks_the_line() {
        let hostile = "a\nb\r\tc\u{1b}[31m\u{202e}d\u{2028}e\u{200b}f\u{7f}\u{9b}\u{feff}\u{e0041}";
        for line in [
            Error::file(hostile, hostile).to_string(),
            Error::io(hostile)(io::Error::other(hostile)).to_string(),
            Error::Config(hostile.into()).to_string(),
            Error::Usage(hostile.into()).to_string(),
            Error::op("conv2d", hostile).to_string(),
            Error::device("cuda:0", hostile).to_string(),
        ] {
            assert!(line.chars().all(|c| matches!(c, ' '..='~')), "{line:?}");
            assert!(line.contains("\\n") && line.contains("\\u{1b}[31m") && line.contains("\\u{202e}"), "{line}");
        }
    }

    #[test]
    fn what_prints_stays() {
        for text in ["caf\u{e9}", "cafe\u{301}", "\u{732b}", "\u{928}\u{93f}", "it's \"C:\\dir\"", "\u{1f408}"] {
            assert_eq!(one_line(text, 100), text);
            assert_eq!(shown(text), text);
        }
        assert_eq!(shown(OsStr::from_bytes(b"caf\xe9/\xff")), "caf\\xe9/\\xff");
        assert_eq!(as_text(OsStr::from_bytes(b"a,\n\xe9\"/\xff")), "a,\n\\xe9\"/\\xff");
    }

    #[test]
    fn long_texts_are_cut_in_the_middle() {
        let path = format!("/begin/{}/end", "x".repeat(5000));
        let short = shown(&path);
        assert!(short.chars().count() <= 300 && short.starts_with("/begin/") && short.ends_with("/end"), "{short}");
        let line = Error::file("list.txt", format!("line 1: {}; do this", "\u{202e}".repeat(5_000_000))).to_string();
        assert!(
            line.len() < 9000 && line.starts_with("list.txt: line 1:") && line.ends_with("do this"),
            "{}",
            line.len()
        );
    }
}
