//! The image files that a command line means: files, folders, lists of files, standard input.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::listing::{IMAGES, MAX_LIST, Skipped, is_folder, is_hidden, is_image, sorted_entries};
use crate::{Error, Result, files};

/// What stands for standard input.
const STDIN: &str = "-";

/// Image files in the order that they were named in.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Paths, as they are opened. Whether they are there and are images is not known.
    pub paths: Vec<PathBuf>,
    /// A line each about what the user may not expect.
    pub notes: Vec<String>,
}

/// The files that `named` means: of a folder those below it whose names are images', by name and folder after folder; of a list
/// (`NAME.txt`, or `-` for what `stdin` has) its lines, each a path relative to `root`, or without one to the list's folder; of
/// anything else itself.
///
/// # Errors
///
/// If a folder or list cannot be read or names no file, or if `-` comes twice.
pub fn find(named: &[PathBuf], root: Option<&Path>, stdin: &mut dyn Read) -> Result<Inputs> {
    let is_list = |path: &Path| path.extension() == Some(OsStr::new("txt")) && !path.is_dir();
    if root.is_some() && !named.iter().any(|path| path == STDIN || is_list(path)) {
        return Err(Error::Usage(
            "--root is for lists (NAME.txt) and for standard input (-), and there is none".into(),
        ));
    }
    if named.iter().filter(|path| *path == STDIN).count() > 1 {
        return Err(Error::Usage("standard input (-) can be read once only".into()));
    }
    let mut found = Inputs::default();
    for path in named {
        if path == STDIN {
            let mut text = Vec::new();
            let name = Path::new("standard input");
            stdin.take(MAX_LIST + 1).read_to_end(&mut text).map_err(Error::io(name))?;
            if text.len() as u64 > MAX_LIST {
                return Err(Error::file(name, format!("is longer than {MAX_LIST} bytes")));
            }
            add_lines(name, &text, root.unwrap_or(Path::new("")), &mut found.paths)?;
        } else if path.is_dir() {
            let (before, mut skipped) = (found.paths.len(), Skipped::default());
            add_folder(path, &mut found.paths, &mut skipped)?;
            if found.paths.len() == before {
                let kinds = IMAGES.map(|end| format!(".{end}")).join(", ");
                return Err(Error::file(path, format!("holds no image: no file at any depth is named {kinds}")));
            }
            found.notes.extend(skipped.note(path));
        } else if is_list(path) {
            let folder = path.parent().unwrap_or(Path::new(""));
            add_lines(path, &files::read(path, MAX_LIST)?, root.unwrap_or(folder), &mut found.paths)?;
        } else {
            found.paths.push(path.clone());
        }
    }
    Ok(found)
}

/// The paths of a list, one a line, whatever bytes are in them; empty lines are skipped.
fn add_lines(list: &Path, text: &[u8], root: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let before = paths.len();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines = text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    paths.extend(lines.filter(|line| !line.is_empty()).map(|line| root.join(OsStr::from_bytes(line))));
    match paths.len() == before {
        true => Err(Error::file(list, "names no file; it must have a path in each line")),
        false => Ok(()),
    }
}

fn add_folder(folder: &Path, paths: &mut Vec<PathBuf>, skipped: &mut Skipped) -> Result<()> {
    for entry in sorted_entries(folder)? {
        let path = entry.path();
        if is_hidden(&entry) {
            skipped.add("hidden", path);
        } else if is_folder(&entry) {
            // Links may lead in circles.
            match entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                true => skipped.add("links to folders", path),
                false => add_folder(&path, paths, skipped)?,
            }
        } else if is_image(&path) {
            paths.push(path);
        } else {
            skipped.add("of another kind than images", path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], root: &str) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        add_lines(Path::new("list.txt"), text, Path::new(root), &mut paths).unwrap();
        paths
    }

    #[test]
    fn a_line_is_a_path_whatever_is_in_it() {
        let expected: Vec<PathBuf> = ["in/a.png", "in/b c .png", "/d.png"].iter().map(PathBuf::from).collect();
        assert_eq!(lines(b"\xef\xbb\xbfa.png\r\n\r\n\nb c .png\n/d.png", "in"), expected);
        assert_eq!(lines(b"\xff,\".png\n", ""), [PathBuf::from(OsStr::from_bytes(b"\xff,\".png"))]);
        for empty in [&b""[..], b"\n\r\n", b"\xef\xbb\xbf"] {
            let line = add_lines(Path::new("l.txt"), empty, Path::new(""), &mut Vec::new()).unwrap_err().to_string();
            assert_eq!(line, "l.txt: names no file; it must have a path in each line");
        }
    }

    #[test]
    fn folders_are_walked_by_name() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path();
        for name in ["b/2.png", "b/1.JPG", "b/c/0.gif", "a.webp", "z.png", ".hidden.png", "readme.md"] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("b/circle")).unwrap();
        let found = find(&[root.to_path_buf()], None, &mut &b""[..]).unwrap();
        let names: Vec<_> = found.paths.iter().map(|path| path.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.webp", "b/1.JPG", "b/2.png", "b/c/0.gif", "z.png"]);
        assert_eq!(found.notes.len(), 1);
        for cause in ["1 hidden", "1 links to folders", "1 of another kind than images"] {
            assert!(found.notes[0].contains(cause), "{}", found.notes[0]);
        }
    }

    #[test]
    fn what_is_named_comes_in_its_order() {
        let named = ["x.png", "-", "y.png"].map(PathBuf::from);
        let found = find(&named, Some(Path::new("r")), &mut &b"1.png\n2.png\n"[..]).unwrap();
        assert_eq!(found.paths, ["x.png", "r/1.png", "r/2.png", "y.png"].map(PathBuf::from));
        let wrong = |named: &[&str], root: Option<&Path>| {
            let named: Vec<PathBuf> = named.iter().map(PathBuf::from).collect();
            find(&named, root, &mut &b"1.png"[..]).unwrap_err().to_string()
        };
        assert!(wrong(&["-", "-"], None).contains("once only"));
        assert!(wrong(&["x.png"], Some(Path::new("r"))).contains("--root is for lists"));
    }
}
