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

/// The headers that `text` includes, directly or through others, by path: what a compilation of it depends on.
pub fn included(text: &str) -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&'static str, &'static str)> = Vec::new();
    let mut waiting: Vec<(&str, &str)> = vec![("", text)];
    while let Some((folder, text)) = waiting.pop() {
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix('#') else { continue };
            let Some(name) = rest.trim_start().strip_prefix("include").and_then(|rest| rest.split('"').nth(1)) else {
                continue;
            };
            let beside = format!("{folder}{name}");
            let Some(header) = headers().find(|(path, _)| *path == beside || *path == name) else { continue };
            if !found.contains(&header) {
                found.push(header);
                let folder = header.0.rfind('/').map_or("", |slash| &header.0[..=slash]);
                waiting.push((folder, header.1));
            }
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_includes() {
        let names: Vec<&str> = included("#include \"portable.cuh\"\n").into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"portable.cuh") && names.contains(&"emulator/checks.h"), "{names:?}");
        assert!(!names.contains(&"emulator/entry.h"));
        assert!(included("#include <math.h>\nint x;").is_empty());
    }

    #[test]
    fn every_kernel_file_is_carried() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut files: Vec<String> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cu"))
            .collect();
        files.sort();
        assert_eq!(files, kernel_files().filter(|name| !name.contains('/')).collect::<Vec<_>>());
    }
}
