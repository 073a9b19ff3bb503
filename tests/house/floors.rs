//! Imports point down: a room of `src/` knows the rooms below it, and none above.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::{Parts, is_word, line, words};
use crate::{files, none, text};

/// The rooms of `src/` from bottom to top. Those of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["error", "version"],
    &["files", "stop", "console"],
    &["rng", "tensor", "driver"],
    &["memory"],
    &["ops", "tape"],
    &["backend", "nn"],
    &["method"],
    &["data"],
    &["config"],
    &["train"],
    &["bench", "export", "report", "verify"],
    &["cli"],
];

/// The one pair that may know each other: an op records itself on the tape, and the tape runs ops.
const CIRCLE: [&str; 2] = ["ops", "tape"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that there are: `src/NAME.rs` and `src/NAME/`.
pub fn rooms() -> BTreeSet<String> {
    files("src/")
        .iter()
        .map(|file| room(&file.path).to_owned())
        .filter(|room| room != "lib" && room != "main")
        .collect()
}

pub fn room(path: &str) -> &str {
    let inside = path.strip_prefix("src/").expect("a path under src/");
    inside.split('/').next().expect("a first part").trim_end_matches(".rs")
}

/// How many times `super` leads from a file to the crate's root.
fn depth(path: &str) -> usize {
    path.matches('/').count() - usize::from(path.ends_with("/mod.rs"))
}

/// What a path names behind `crate::`: one name, or those of a group.
fn heads(path: &str) -> Vec<&str> {
    let name = |at: usize| &path[at..at + path[at..].find(|c| !is_word(c)).unwrap_or(path.len() - at)];
    if !path.starts_with('{') {
        return vec![name(0)];
    }
    let (mut heads, mut level, mut expected) = (Vec::new(), 0, false);
    for (at, c) in path.char_indices() {
        match c {
            '{' => level += 1,
            '}' => level -= 1,
            _ if expected && is_word(c) => heads.push(name(at)),
            _ => {}
        }
        if level == 0 {
            break;
        }
        expected = level == 1 && ("{,".contains(c) || (expected && c.is_whitespace()));
    }
    heads
}

/// Every room that a file's code names, with the line.
fn imports(path: &str, code: &str, exports: &BTreeMap<String, String>) -> Vec<(usize, String)> {
    let up = "super::".repeat(depth(path));
    let mut found = Vec::new();
    for root in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| is_word(c) || c == ':') {
                continue;
            }
            for head in heads(&code[at + root.len()..]) {
                let to = exports.get(head).map_or(head, String::as_str);
                if to != "super" && to != "self" {
                    found.push((line(code, at), to.to_owned()));
                }
            }
        }
    }
    found
}

/// What `src/lib.rs` exports from a room under its own name: `Error` stands for `error`.
fn exports() -> BTreeMap<String, String> {
    let lib = files("src/lib.rs").remove(0);
    let code = Parts::of(&lib.text).code;
    let statements = code.split(';').filter_map(|statement| statement.trim().strip_prefix("pub use "));
    let pairs = statements.filter_map(|statement| {
        let (room, names) = statement.split_once("::")?;
        Some(words(names).map(|(_, name)| (name.to_owned(), room.to_owned())).collect::<Vec<_>>())
    });
    pairs.flatten().collect()
}

#[test]
fn imports_point_down() {
    let exports = exports();
    let mut wrong = Vec::new();
    for file in files("src/").iter().filter(|file| !["lib", "main"].contains(&room(&file.path))) {
        // A module of tests may look anywhere.
        if file.path.ends_with("/tests.rs") {
            continue;
        }
        let from = room(&file.path);
        let code = text::without_tests(&Parts::of(&file.text).code);
        for (line, to) in imports(&file.path, &code, &exports) {
            let circle = CIRCLE.contains(&from) && CIRCLE.contains(&to.as_str());
            if from != to && !circle && floor(&to) >= floor(from) {
                wrong.push(format!("{}:{line}: {from} imports {to}, which does not stand below it", file.path));
            }
        }
    }
    none(&wrong, "move what is imported to a lower room (the floors are in tests/house/floors.rs)");
}

#[test]
fn every_room_has_its_floor() {
    let known: BTreeSet<String> = FLOORS.iter().copied().flatten().map(|room| (*room).to_owned()).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (
        rooms().difference(&known).map(|room| format!("src/{room} has no floor")).collect(),
        known.difference(&rooms()).map(|room| format!("there is no src/{room} any more")).collect(),
    );
    none(&[new, gone].concat(), "bring FLOORS in tests/house/floors.rs up to date");
}

#[test]
fn the_lexer_finds_imports_and_no_others() {
    let source = r##"
//! use crate::comment::A;
use crate::{Error, nn::{Model, inner::X}, tape};
use super::super::data::Y;
use super::sibling;
fn f<'a>(x: &'a str) -> char { g("crate::text::Z", r#"crate::"raw""#, '"', crate::rng::draw()) }
pub(crate) fn h() {}
#[cfg(test)]
mod tests { use crate::cli::W; }
fn last() -> crate::files::F {}
"##;
    let exports = BTreeMap::from([("Error".to_owned(), "error".to_owned())]);
    let code = text::without_tests(&Parts::of(source).code);
    let mut found = imports("src/ops/conv2d.rs", &code, &exports);
    found.sort();
    let wanted = [(3, "error"), (3, "nn"), (3, "tape"), (4, "data"), (6, "rng"), (10, "files")];
    assert_eq!(found, wanted.map(|(line, room)| (line, room.to_owned())));
}
