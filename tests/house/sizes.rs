//! Nothing grows beyond what one reads at a sitting.

use std::collections::BTreeMap;

use crate::floors::room;
use crate::{files, none};

/// Lines of a file.
const MOST_LINES: usize = 500;

/// Share of the lines of `src/`, in hundredths, of one room.
const MOST_OF_SRC: usize = 30;

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for folder in ["src/", "kernels/", "tests/", "tools/", "benches/", "build.rs"] {
        let sources = files(folder).into_iter().filter(|f| f.has_ending(&["rs", "cu", "cuh", "h", "py", "sh"]));
        for file in sources.filter(|file| file.lines() > MOST_LINES) {
            wrong.push(format!("{}: {} lines", file.path, file.lines()));
        }
    }
    none(&wrong, &format!("split what has more than {MOST_LINES} lines where its subject does"));
}

#[test]
fn no_room_holds_too_much_of_the_house() {
    let mut lines = BTreeMap::<String, usize>::new();
    for file in files("src/") {
        *lines.entry(room(&file.path).to_owned()).or_default() += file.lines();
    }
    let all: usize = lines.values().sum();
    let large = lines.iter().filter(|(_, lines)| 100 * **lines > MOST_OF_SRC * all);
    let wrong: Vec<String> = large.map(|(room, lines)| format!("src/{room}: {lines} of {all} lines")).collect();
    none(&wrong, &format!("a room with more than {MOST_OF_SRC}% of src/ is a house of its own: make rooms of it"));
}
