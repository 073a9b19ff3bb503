//! `report`, and `train --log`: pages and files whose figures are the runs', and what they make of bad input.

mod browser;
mod events;
mod input;
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::place::Place;
use crate::{ok, text};

const TRAIN: &str = "train --model resnet20 --width 2 --epochs 3 --batch 16 --lr 0.05 --threads 1 --device cpu";

impl Place {
    /// Makes a report on the CPU and returns the page; what it printed must be of success.
    fn page(&self, line: &str) -> String {
        static PAGES: AtomicUsize = AtomicUsize::new(0);
        // Tests run at the same time.
        let name = format!("page-{}.html", PAGES.fetch_add(1, Ordering::Relaxed));
        ok(self.glmc(&format!("report --device cpu --out {name} --force {line}")));
        fs::read_to_string(self.path(&name)).expect("a page")
    }
}

/// Two methods with two seeds each on `a.lt`, and a run on `b.lt` whose classes are more than a matrix shows.
fn shared() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        let prepare = "prepare synthetic --imbalance 8 --size 8 --test-per-class 12";
        ok(place.glmc(&format!("{prepare} --classes 4 --per-class 160 --out a.lt")));
        ok(place.glmc(&format!("{prepare} --classes 24 --per-class 40 --out b.lt")));
        for (method, seed) in [("ce", 0), ("glmc", 0), ("ce", 1), ("glmc", 1)] {
            let run = format!("--method {method} --seed {seed} --out runs/{method}-{seed}");
            ok(place.glmc(&format!("{TRAIN} --data a.lt {run} --log tensorboard,csv")));
        }
        ok(place.glmc(&format!("{TRAIN} --data b.lt --method ce --out other")));
        place
    })
}

/// A copy of a run to do something to.
fn copy(run: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(run).expect("a folder").map(|entry| entry.expect("an entry")) {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// The lines of a run's metrics.
fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The lines of a table by the names of its columns.
fn table(file: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(file).expect("a table");
    reader.deserialize().map(|line| line.expect("a line")).collect()
}

/// What stands between two texts, each time.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).map(|rest| rest.split(end).next().expect("a part")).collect()
}

/// Text without its tags, blanks made one.
fn plain(html: &str) -> String {
    let mut parts = html.split('<');
    let first = parts.next().unwrap_or_default().to_string();
    let text = parts.fold(first, |text, part| text + " " + part.split_once('>').map_or("", |(_, rest)| rest));
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")]
        .into_iter()
        .fold(text, |text, (of, to)| text.replace(of, to))
}

/// The rows of the table behind a text of the page: what its cells say.
fn rows(page: &str, behind: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once(behind).unwrap_or_else(|| panic!("{behind:?} is not on the page"));
    let table = rest.split("</table>").next().expect("a table");
    let cells = |row: &str| {
        let row = row.replace("<th", "<td").replace("</th>", "</td>");
        between(&row, "<td", "</td>").into_iter().map(|cell| plain(&format!("<td{cell}"))).collect::<Vec<_>>()
    };
    between(table, "<tr", "</tr>").into_iter().map(cells).collect()
}

#[test]
fn a_report_says_where_it_is() {
    let place = shared();
    let told = ok(place.glmc("report runs/ce-0 --device cpu --out told.html --csv told --tensorboard told-events"));
    for what in ["told.html: 1 run", "told: tables", "told-events: event files"] {
        assert!(told.contains(what), "{told}");
    }
    assert!(text(&place.path("told.html")).ends_with("told.html") && place.path("told.html").is_file());
}
