//! The one error type. Each message is a single line that says what is wrong, where, and (where it helps) what to do.

use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, sorted by what the user can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// A file's content is not what it must be.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// An op was given shapes, types or values that it does not take.
    #[error("{op}: {what}")]
    Op {
        /// The op's name, the same at every layer.
        op: &'static str,
        /// What does not fit, with the shapes.
        what: String,
    },
    /// A setting is missing, out of range or contradicts another.
    #[error("{0}")]
    Config(String),
    /// A device is absent, unusable or failed.
    #[error("{device}: {what}")]
    Device {
        /// `cpu`, `cuda:0`, `emulator`.
        device: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Training cannot continue (a loss that is not finite, say).
    #[error("{0}")]
    Training(String),
    /// Stopped by Ctrl-C after saving; the message says how to continue. Exit status 130.
    #[error("{0}")]
    Interrupted(String),
    /// An invalid command line. Exit status 2.
    #[error("{0}")]
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

    /// The process's exit status for this error.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }
}
