//! Tables that fit: where the terminal is too narrow, texts are wrapped, and then the least important columns left out.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};
use textwrap::core::display_width;

use super::terminal::{HEADING, Stream, paint, width, wrapped};
use super::{print, sentence};
use crate::error::escaped;

/// Columns between two columns.
const GAP: usize = 2;
/// A text is wrapped into no fewer columns than this.
const NARROWEST: usize = 24;
/// Columns of this rank and above are left out before a text is wrapped into fewer columns than [`COMFORTABLE`].
const WELCOME: u8 = 4;
const COMFORTABLE: usize = 40;
/// Columns of a text at most.
const WIDEST: usize = 100;

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    heading: String,
    is_text: bool,
    /// Columns of the highest rank are left out first, those of rank 0 never.
    rank: u8,
}

impl Column {
    /// A column of words: left-aligned, and wrapped where there is not enough room.
    pub fn text(heading: &str, rank: u8) -> Column {
        Column { heading: heading.into(), is_text: true, rank }
    }

    /// A column of numbers: right-aligned and never wrapped.
    pub fn number(heading: &str, rank: u8) -> Column {
        Column { heading: heading.into(), is_text: false, rank }
    }
}

/// A table of results.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. Where no column has a heading, no line of headings is printed.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row: a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| escaped(&cell));
        self.rows.push(cells.collect());
    }

    /// Prints the table as a result.
    pub fn print(&self) {
        let (lines, left_out) = self.lines(width(Stream::Out));
        let headings = usize::from(self.has_headings());
        for (at, line) in lines.iter().enumerate() {
            match at < headings {
                true => print(format_args!("{}\n", paint(Stream::Out, HEADING, line))),
                false => print(format_args!("{line}\n")),
            }
        }
        if !left_out.is_empty() {
            sentence(format_args!("(no room for: {})", left_out.join(", ")));
        }
    }

    fn has_headings(&self) -> bool {
        self.columns.iter().any(|column| !column.heading.is_empty())
    }

    /// The table's lines in so many columns, and the headings that are left out.
    fn lines(&self, room: usize) -> (Vec<String>, Vec<&str>) {
        let cells = |at: usize| self.rows.iter().filter_map(move |row| row.get(at)).map(String::as_str);
        // What a column would like, and the least that it can do with.
        let wanted: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|at| {
                let heading = display_width(&self.columns[at].heading);
                let full = cells(at).map(display_width).max().unwrap_or(0).max(heading);
                let word = cells(at).flat_map(|cell| cell.split(' ')).map(display_width).max().unwrap_or(0);
                match self.columns[at].is_text {
                    true => (full.min(WIDEST.max(word)), full.min(NARROWEST.max(word)).max(heading)),
                    false => (full, full),
                }
            })
            .collect();
        let comfortable = wanted.iter().zip(&self.columns).map(|(&(full, least), column)| {
            (least.max(full.min(COMFORTABLE)), if column.rank < WELCOME { 0 } else { column.rank })
        });
        let welcome = fitting(&comfortable.collect::<Vec<_>>(), room);
        let least: Vec<(usize, u8)> = welcome.iter().map(|&at| (wanted[at].1, self.columns[at].rank)).collect();
        let shown: Vec<usize> = fitting(&least, room).into_iter().map(|place| welcome[place]).collect();
        let mut spare = room.saturating_sub(needed(shown.iter().map(|&at| wanted[at].1)));
        let widths: Vec<usize> = shown
            .iter()
            .map(|&at| {
                let more = spare.min(wanted[at].0 - wanted[at].1);
                spare -= more;
                wanted[at].1 + more
            })
            .collect();
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(room.try_into().unwrap_or(u16::MAX));
        if self.has_headings() {
            table.set_header(shown.iter().map(|&at| &self.columns[at].heading));
        }
        for row in &self.rows {
            let cell = |(&at, &columns): (&usize, &usize)| match row.get(at) {
                Some(text) if self.columns[at].is_text => wrapped(text, columns),
                other => other.cloned().unwrap_or_default(),
            };
            table.add_row(shown.iter().zip(&widths).map(cell));
        }
        for (place, (column, &at)) in table.column_iter_mut().zip(&shown).enumerate() {
            let gap = if place + 1 < shown.len() { GAP } else { 0 };
            column.set_padding((0, gap as u16));
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed((widths[place] + gap) as u16)));
            column.set_cell_alignment(match self.columns[at].is_text {
                true => CellAlignment::Left,
                false => CellAlignment::Right,
            });
        }
        let left_out = (0..self.columns.len()).filter(|at| !shown.contains(at));
        let left_out = left_out.map(|at| self.columns[at].heading.as_str()).filter(|heading| !heading.is_empty());
        (table.lines().map(|line| line.trim_end().to_string()).collect(), left_out.collect())
    }
}

/// Columns of a line with gaps.
fn needed(widths: impl Iterator<Item = usize>) -> usize {
    widths.map(|width| width + GAP).sum::<usize>().saturating_sub(GAP)
}

/// Which of some columns, given by their least widths and ranks, stand beside each other in `room`: the highest ranks are
/// left out first, the last of equals before the others, those of rank 0 never.
pub fn fitting(columns: &[(usize, u8)], room: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    while needed(shown.iter().map(|&at| columns[at].0)) > room {
        let Some(&least) = shown.iter().filter(|&&at| columns[at].1 > 0).max_by_key(|&&at| columns[at].1) else {
            break;
        };
        shown.retain(|&at| at != least);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let columns = [Column::text("op", 0), Column::number("ms", 0), Column::number("GB/s", 1)];
        let mut table = Table::new(columns);
        table.row(["a convolution of many parts and words".into(), "1234.567".into(), "8.5".into()]);
        table.row(["sgd".into(), "0.1".into(), "123.4".into()]);
        table
    }

    #[test]
    fn columns_wrap_and_then_go() {
        let table = table();
        let (lines, left_out) = table.lines(80);
        let whole = [
            "op                                           ms   GB/s",
            "a convolution of many parts and words  1234.567    8.5",
            "sgd                                         0.1  123.4",
        ];
        assert_eq!((lines, left_out), (whole.map(String::from).to_vec(), vec![]));
        let (lines, left_out) = table.lines(44);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2], "  and words");
        assert!(left_out.is_empty() && lines[1].ends_with("1234.567    8.5"), "{lines:#?}");
        let (lines, left_out) = table.lines(36);
        assert_eq!(left_out, ["GB/s"]);
        assert!(lines.iter().all(|line| display_width(line) <= 36) && lines[1].ends_with("1234.567"), "{lines:#?}");
    }

    #[test]
    fn nothing_in_a_cell_moves_the_cursor() {
        let mut table = Table::new([Column::text("name", 0)]);
        table.row(["a\u{1b}[2J\nb\u{202e}".into()]);
        let (lines, _) = table.lines(80);
        assert_eq!(lines, ["name", "a\\u{1b}[2J\\nb\\u{202e}"]);
    }

    #[test]
    fn high_ranks_go_first_and_rank_0_stays() {
        let columns = [(10, 0), (10, 2), (10, 1), (10, 2)];
        assert_eq!(fitting(&columns, 46), [0, 1, 2, 3]);
        assert_eq!(fitting(&columns, 45), [0, 1, 2]);
        assert_eq!(fitting(&columns, 22), [0, 2]);
        assert_eq!(fitting(&columns, 5), [0]);
    }
}
