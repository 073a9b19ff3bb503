//! The kernel sources that the binary carries (made by `build.rs` from `kernels/`).

/// `(path under kernels/, text)` of every `.cu`, `.cuh` and `.h`, sorted by path.
pub static SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernel_sources.rs"));

/// The text of the file `name` (`conv2d_forward.cu`).
pub fn source(name: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(path, _)| *path == name).map(|(_, text)| *text)
}

/// The headers that kernels may include: `(path, text)`.
pub fn headers() -> impl Iterator<Item = (&'static str, &'static str)> {
    SOURCES.iter().copied().filter(|(path, _)| !path.ends_with(".cu"))
}

/// The kernels' own files, `.cu`.
pub fn kernel_files() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(path, _)| *path).filter(|path| path.ends_with(".cu"))
}
