//! Answers about single images as a table, CSV, JSON Lines and NumPy arrays, line by line as they come.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::console::{Column, Table, print};
use crate::data::npy::{Dtype, header};
use crate::error::{Error, Result, as_text, shown};
use crate::files::{Pending, write_atomically};
use crate::train::answers::Guess;

/// Lines that a table is printed in at a time.
const PAGE: usize = 1000;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For reading: percent, rounded
    Table,
    /// For spreadsheets and pandas
    Csv,
    /// A JSON object a line
    Jsonl,
}

impl Format {
    /// The format of a file with this name.
    ///
    /// # Errors
    /// When its ending is of none.
    pub fn of(path: &Path, option: &str) -> Result<Format> {
        match path.extension().and_then(OsStr::to_str) {
            Some("csv") => Ok(Format::Csv),
            Some("jsonl") => Ok(Format::Jsonl),
            _ => Err(Error::file(path, format!("{option} needs a name that ends in .csv or .jsonl"))),
        }
    }
}

/// What a line is about.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// An image file.
    File(&'a Path),
    /// A store's image of this class.
    Label(usize),
}

/// What images are called in lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Files,
    Labels,
}

/// A class of a line of JSON.
#[derive(Serialize)]
struct Pick<'a> {
    class: usize,
    name: &'a str,
    probability: f32,
}

/// A line of JSON; what it has not is left out.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Pick<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Writes a line for each image.
pub struct Lines<'a> {
    format: Format,
    of: Of,
    /// Classes of a line.
    top: usize,
    names: &'a [String],
    /// Standard output where there is none.
    out: Option<Pending>,
    table: Table,
    rows: usize,
}

impl<'a> Lines<'a> {
    /// Begins with the line of headings, where the format has one. No line has more classes than there are.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn begin(format: Format, out: Option<&Path>, of: Of, top: usize, names: &'a [String]) -> Result<Lines<'a>> {
        let (out, top) = (out.map(Pending::begin).transpose()?, top.min(names.len()));
        let mut lines = Lines { format, of, top, names, out, table: page(top), rows: 0 };
        if format == Format::Csv {
            let own: &[&str] = if of == Of::Files { &["path"] } else { &["label", "label_name"] };
            let first = ["predicted", "name", "probability"];
            let mut fields: Vec<String> = ["index"].iter().chain(own).chain(&first).map(ToString::to_string).collect();
            for rank in 2..=top {
                fields.extend(["class", "name", "probability"].map(|what| format!("{what}_{rank}")));
            }
            fields.extend((of == Of::Files).then(|| "error".into()));
            lines.put(&csv_line(&fields)?)?;
        }
        Ok(lines)
    }

    /// Adds the line of image `index`: the likeliest classes first, or in a few words why there are none.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn add(&mut self, index: usize, subject: Subject<'_>, outcome: Result<&[Guess], &str>) -> Result<()> {
        let guesses = outcome.unwrap_or_default();
        let guesses = &guesses[..self.top.min(guesses.len())];
        match self.format {
            Format::Csv => {
                let mut fields = vec![index.to_string()];
                match subject {
                    Subject::File(path) => fields.push(as_text(path)),
                    Subject::Label(label) => fields.extend([label.to_string(), self.names[label].clone()]),
                }
                for guess in guesses {
                    let Guess { class, probability } = *guess;
                    fields.extend([class.to_string(), self.names[class].clone(), probability.to_string()]);
                }
                fields.resize(fields.len() + 3 * (self.top - guesses.len()), String::new());
                fields.extend((self.of == Of::Files).then(|| outcome.err().unwrap_or_default().to_string()));
                self.put(&csv_line(&fields)?)
            }
            Format::Jsonl => {
                let pick = |guess: &Guess| Pick {
                    class: guess.class,
                    name: &self.names[guess.class],
                    probability: guess.probability,
                };
                let (best, error) = (guesses.first().map(pick), outcome.err());
                let (path, label) = match subject {
                    Subject::File(path) => (Some(as_text(path)), None),
                    Subject::Label(label) => (None, Some(label)),
                };
                let line = Line {
                    index,
                    path,
                    label,
                    label_name: label.map(|label| self.names[label].as_str()),
                    predicted: best.as_ref().map(|best| best.class),
                    name: best.as_ref().map(|best| best.name),
                    probability: best.as_ref().map(|best| best.probability),
                    top: guesses.iter().map(pick).collect(),
                    error,
                };
                let mut text = serde_json::to_vec(&line).map_err(|e| Error::Config(format!("a line of JSON: {e}")))?;
                text.push(b'\n');
                self.put(&text)
            }
            Format::Table => {
                let percent = |guess: &Guess| format!("{:.2}", 100.0 * guess.probability);
                let name = |guess: &Guess| self.names[guess.class].clone();
                let image = match subject {
                    Subject::File(path) => shown(path),
                    Subject::Label(_) => index.to_string(),
                };
                let others: Vec<String> =
                    guesses.iter().skip(1).map(|guess| format!("{} {}", name(guess), percent(guess))).collect();
                let first = guesses.first().map_or(["-".into(), "-".into()], |guess| [name(guess), percent(guess)]);
                let others = (self.top > 1).then(|| others.join(", "));
                self.table.row([image].into_iter().chain(first).chain(others));
                self.rows += 1;
                if self.rows.is_multiple_of(PAGE) {
                    std::mem::replace(&mut self.table, page(self.top)).print();
                }
                Ok(())
            }
        }
    }

    /// Ends the output; a file gets its name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<()> {
        if self.format == Format::Table && (self.rows == 0 || !self.rows.is_multiple_of(PAGE)) {
            self.table.print();
        }
        self.out.map_or(Ok(()), Pending::publish)
    }

    fn put(&mut self, line: &[u8]) -> Result<()> {
        match &mut self.out {
            Some(file) => file.append(line),
            // Lines are made of text alone.
            None => {
                print(format_args!("{}", String::from_utf8_lossy(line)));
                Ok(())
            }
        }
    }
}

fn page(top: usize) -> Table {
    let first = [Column::text("image", 0), Column::text("class", 0), Column::number("%", 0)];
    Table::new(first.into_iter().chain((top > 1).then(|| Column::text("then", 1))))
}

fn csv_line(fields: &[String]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let wrong = |what: String| Error::Config(format!("a line of CSV cannot be made: {what}"));
    csv.write_record(fields).map_err(|e| wrong(e.to_string()))?;
    csv.into_inner().map_err(|e| wrong(e.to_string()))
}

/// A `.npy` file of `rows` rows of f32, written row by row.
pub struct Rows {
    file: Pending,
    width: usize,
}

impl Rows {
    /// Begins an array of this shape.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(path: &Path, rows: usize, width: usize) -> Result<Rows> {
        let mut file = Pending::begin(path)?;
        file.append(&header(Dtype::F32, &[rows, width]))?;
        Ok(Rows { file, width })
    }

    /// Appends a row, of NaN where there are no values.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, values: Option<&[f64]>) -> Result<()> {
        let value = |column: usize| values.map_or(f32::NAN, |values| values[column] as f32);
        let bytes: Vec<u8> = (0..self.width).flat_map(|column| value(column).to_le_bytes()).collect();
        self.file.append(&bytes)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<()> {
        self.file.publish()
    }
}

/// How often images of one class were taken for another.
#[derive(Default)]
pub struct Confusion(BTreeMap<(usize, usize), usize>);

impl Confusion {
    pub fn add(&mut self, label: usize, predicted: usize) {
        *self.0.entry((label, predicted)).or_default() += 1;
    }

    /// Writes the counts as CSV, a row for each true class and a column for each predicted one, with their names.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, names: &[String]) -> Result<()> {
        let wrong = |e: csv::Error| Error::file(path, format!("cannot be written: {e}"));
        write_atomically(path, |file| {
            let mut csv = csv::Writer::from_writer(io::BufWriter::new(file));
            csv.write_record(["class"].into_iter().chain(names.iter().map(String::as_str))).map_err(wrong)?;
            for (label, name) in names.iter().enumerate() {
                let count = |class| self.0.get(&(label, class)).copied().unwrap_or_default().to_string();
                csv.write_record([name.clone()].into_iter().chain((0..names.len()).map(count))).map_err(wrong)?;
            }
            csv.flush().map_err(Error::io(path))
        })
    }
}
