//! ARCHITECTURE.md is a map of the rooms that there are.

use std::collections::BTreeSet;
use std::fs;

use crate::floors::rooms;
use crate::{none, root};

/// The rooms that the map's table names in its first column: `src/NAME/` or `src/NAME.rs`.
fn on_the_map(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let names = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let rooms = names.filter_map(|name| name.strip_prefix("src/"));
    let rooms = rooms.map(|room| room.trim_end_matches('/').trim_end_matches(".rs"));
    rooms.filter(|room| !room.contains('/')).map(str::to_owned).collect()
}

#[test]
fn the_map_names_every_room() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"));
    let page =
        page.expect("write ARCHITECTURE.md: a table whose first column names every room, `src/NAME/` or `src/NAME.rs`");
    let (map, house) = (on_the_map(&page), rooms());
    let missing = house.difference(&map).map(|room| format!("add a row for src/{room}"));
    let gone = map.difference(&house).map(|room| format!("src/{room} is no room"));
    none(&missing.chain(gone).collect::<Vec<_>>(), "bring the table in ARCHITECTURE.md up to date");
}
