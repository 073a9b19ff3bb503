//! ARCHITECTURE.md is a map of the rooms that there are.

use std::collections::BTreeSet;
use std::fs;

use crate::floors::rooms;
use crate::{none, root};

/// The rooms that the map's table names in its first column: `src/NAME/` or `src/NAME.rs`.
fn on_the_map(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let names = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.filter(|name| name.starts_with("src/")).map(str::to_owned).collect()
}

#[test]
fn the_map_names_every_room() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"));
    let page =
        page.expect("write ARCHITECTURE.md: a table whose first column names every room, `src/NAME/` or `src/NAME.rs`");
    let file_or_folder = |room: &String| {
        let file = format!("src/{room}.rs");
        if root().join(format!("src/{room}")).is_dir() { format!("src/{room}/") } else { file }
    };
    let (map, house) = (on_the_map(&page), rooms().iter().map(file_or_folder).collect::<BTreeSet<_>>());
    let missing = house.difference(&map).map(|room| format!("add a row for `{room}`"));
    let gone = map.difference(&house).map(|room| format!("`{room}` is no room of src/"));
    none(&missing.chain(gone).collect::<Vec<_>>(), "bring the table in ARCHITECTURE.md up to date");
}
