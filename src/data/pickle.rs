//! A reader for the pickles of CIFAR's Python archives: dictionaries of strings, integers, lists and NumPy arrays.
//!
//! Pickle is a program for a stack machine that can name any Python function. This one runs the instructions of protocols 0 to 4
//! that build data (of protocol 0, enough for lists of names), and knows four names: `numpy.ndarray` through `_reconstruct`, `numpy.dtype`, and `_codecs.encode`,
//! which is how Python 3 writes bytes for Python 2. Everything else is an error; nothing is ever called.
//!
//! Values live in an arena and refer to each other by number, as a pickle's memo may refer to a list before it is filled.
//! Strings and bytes are ranges of the file, so that no short instruction can ask for much memory, and what is built may not take
//! more of it than the file itself (and a megabyte).

mod machine;

use std::ops::Range;

use self::machine::Machine;
use crate::files;

/// Longest name of a class or of an entry, in bytes.
const MAX_NAME: usize = 1024;

type Id = usize;

#[derive(Debug, Clone)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// UTF-8 or bytes: Python 2 does not tell them apart.
    Bytes(Range<usize>),
    /// Bytes that the file holds as UTF-8 text of the characters 0 to 255.
    Latin1(Range<usize>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Name),
    Dtype(String),
    Array(Option<Box<Array>>),
    Mark,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Name {
    Encode,
    Reconstruct,
    NdArray,
    Dtype,
}

#[derive(Debug, Clone)]
struct Array {
    shape: Vec<usize>,
    dtype: String,
    fortran: bool,
    data: Id,
}

/// A loaded pickle whose outermost value is a dictionary.
#[derive(Debug)]
pub struct Pickle<'a> {
    file: &'a [u8],
    values: Vec<Value>,
    root: Id,
}

/// What is wrong with a pickle.
pub type Problem = String;

impl<'a> Pickle<'a> {
    /// Loads a pickle.
    ///
    /// # Errors
    ///
    /// If it is cut off or malformed, or uses anything beyond plain data and NumPy arrays.
    pub fn load(file: &'a [u8]) -> Result<Pickle<'a>, Problem> {
        let (values, root) = Machine::load(file)?;
        match values[root] {
            Value::Dict(_) => Ok(Pickle { file, values, root }),
            _ => Err("the pickle is not a dictionary".into()),
        }
    }

    fn find(&self, key: &str) -> Option<&Value> {
        let Value::Dict(items) = &self.values[self.root] else { return None };
        let is_key = |id: Id| self.short_text(&self.values[id]).is_some_and(|text| text == key.as_bytes());
        items.iter().rev().find(|(k, _)| is_key(*k)).map(|&(_, v)| &self.values[v])
    }

    fn get(&self, key: &str) -> Result<&Value, Problem> {
        self.find(key).ok_or_else(|| format!("has no entry '{key}'"))
    }

    fn text(&self, value: &Value) -> Option<Vec<u8>> {
        match value {
            Value::Bytes(range) => Some(self.file[range.clone()].to_vec()),
            Value::Latin1(range) => latin1(&self.file[range.clone()], Vec::new()),
            _ => None,
        }
    }

    /// Text of a length that a name has. The same text may be referred to a million times, so long ones are not copied.
    fn short_text(&self, value: &Value) -> Option<Vec<u8>> {
        match value {
            Value::Bytes(range) | Value::Latin1(range) if range.len() <= MAX_NAME => self.text(value),
            _ => None,
        }
    }

    /// An integer entry, if there is one by that name.
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.find(key) {
            Some(Value::Int(n)) => Some(*n),
            _ => None,
        }
    }

    /// A list of strings.
    ///
    /// # Errors
    ///
    /// If the entry is missing or something else.
    pub fn strings(&self, key: &str) -> Result<Vec<String>, Problem> {
        let Value::List(items) = self.get(key)? else { return Err(format!("'{key}' is not a list")) };
        let mut strings = Vec::new();
        // A list may refer to one long string a million times.
        let mut room = self.file.len();
        for &id in items {
            let text = self.short_text(&self.values[id]).and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| format!("'{key}' is not a list of strings"))?;
            room = room.checked_sub(text.len()).ok_or_else(|| format!("'{key}' holds more text than the file"))?;
            strings.push(text);
        }
        Ok(strings)
    }

    /// A list, or a one-dimensional array, of integers from 0 to 255: labels.
    ///
    /// # Errors
    ///
    /// If the entry is missing, something else, or holds other numbers.
    pub fn labels(&self, key: &str) -> Result<Vec<u8>, Problem> {
        match self.get(key)? {
            Value::List(items) => items
                .iter()
                .map(|&id| match self.values[id] {
                    Value::Int(n) => u8::try_from(n).map_err(|_| format!("'{key}' holds {n}, which is no label")),
                    _ => Err(format!("'{key}' is not a list of integers")),
                })
                .collect(),
            Value::Array(Some(array)) if array.shape.len() == 1 && array.dtype == "u1" => self.array_bytes(key, array),
            _ => Err(format!("'{key}' is not a list of integers")),
        }
    }

    /// A two-dimensional array of bytes: rows, columns, and the data row by row.
    ///
    /// # Errors
    ///
    /// If the entry is missing, something else, or its data does not fit its shape.
    pub fn matrix(&self, key: &str) -> Result<(usize, usize, Vec<u8>), Problem> {
        match self.get(key)? {
            Value::Array(Some(array)) if array.dtype == "u1" && array.shape.len() == 2 => {
                let (rows, columns) = (array.shape[0], array.shape[1]);
                let data = self.array_bytes(key, array)?;
                if !array.fortran {
                    return Ok((rows, columns, data));
                }
                let mut by_row = files::buffer(data.len())?;
                by_row.resize(data.len(), 0);
                for (c, column) in data.chunks_exact(rows.max(1)).enumerate() {
                    column.iter().enumerate().for_each(|(r, &byte)| by_row[r * columns + c] = byte);
                }
                Ok((rows, columns, by_row))
            }
            _ => Err(format!("'{key}' is not a two-dimensional NumPy array of bytes")),
        }
    }

    fn array_bytes(&self, key: &str, array: &Array) -> Result<Vec<u8>, Problem> {
        let expected = array.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let data = match &self.values[array.data] {
            Value::Bytes(range) => {
                let mut data = files::buffer(range.len())?;
                data.extend_from_slice(&self.file[range.clone()]);
                Some(data)
            }
            Value::Latin1(range) => {
                let bytes = files::buffer(range.len())?;
                latin1(&self.file[range.clone()], bytes)
            }
            _ => None,
        };
        let data = data.ok_or_else(|| format!("the data of '{key}' is not bytes"))?;
        match expected {
            Some(n) if n == data.len() => Ok(data),
            _ => Err(format!("'{key}' has {} bytes for shape {:?}", data.len(), array.shape)),
        }
    }
}

/// The bytes whose Latin-1 text is `text` in UTF-8, in `bytes`, which is empty.
fn latin1(text: &[u8], mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for c in std::str::from_utf8(text).ok()?.chars() {
        bytes.push(u8::try_from(u32::from(c)).ok()?);
    }
    Some(bytes)
}
