//! A reader for the pickles of CIFAR's Python archives: dictionaries of strings, integers, lists and NumPy arrays.
//!
//! Pickle is a program for a stack machine that can name any Python function. This one runs the instructions of protocols 0 to 4
//! that build data (of protocol 0, enough for lists of names), and knows four names: `numpy.ndarray` through `_reconstruct`, `numpy.dtype`, and `_codecs.encode`,
//! which is how Python 3 writes bytes for Python 2. Everything else is an error; nothing is ever called.
//!
//! Values live in an arena and refer to each other by number, as a pickle's memo may refer to a list before it is filled.
//! Strings and bytes are ranges of the file, so that no short instruction can ask for much memory.

use std::collections::HashMap;
use std::ops::Range;

/// Most values that a pickle may build; CIFAR's largest file needs about 300,000.
const MAX_VALUES: usize = 8_000_000;

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
    Array(Option<Array>),
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

/// The stack machine.
struct Machine<'a> {
    file: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: HashMap<u32, Id>,
}

impl<'a> Pickle<'a> {
    /// Loads a pickle.
    ///
    /// # Errors
    ///
    /// If it is cut off or malformed, or uses anything beyond plain data and NumPy arrays.
    pub fn load(file: &'a [u8]) -> Result<Pickle<'a>, Problem> {
        let mut machine = Machine { file, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
        let root = machine.run().map_err(|what| format!("{what} (byte {} of the pickle)", machine.at))?;
        if machine.at != file.len() {
            return Err(format!("{} bytes follow the end of the pickle", file.len() - machine.at));
        }
        let values = machine.values;
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
            Value::Latin1(range) => latin1(&self.file[range.clone()]),
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
        let string = |&id: &Id| self.short_text(&self.values[id]).and_then(|bytes| String::from_utf8(bytes).ok());
        items.iter().map(|id| string(id).ok_or_else(|| format!("'{key}' is not a list of strings"))).collect()
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
                let mut by_row = vec![0; data.len()];
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
        let data = self.text(&self.values[array.data]).ok_or_else(|| format!("the data of '{key}' is not bytes"))?;
        match expected {
            Some(n) if n == data.len() => Ok(data),
            _ => Err(format!("'{key}' has {} bytes for shape {:?}", data.len(), array.shape)),
        }
    }
}

/// The bytes whose Latin-1 text is `text` in UTF-8.
fn latin1(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text).ok()?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, Problem> {
        loop {
            let op = self.byte()?;
            match op {
                b'.' => return self.pop(),
                0x80 => match self.byte()? {
                    0..=4 => {}
                    n => {
                        return Err(format!(
                            "pickle protocol {n} is not supported (2 to 4 are); save it with protocol 2"
                        ));
                    }
                },
                // FRAME: a hint about lengths.
                0x95 => _ = self.take(8)?,
                b'(' => self.push(Value::Mark)?,
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => self.push_int(1)?,
                b'M' => self.push_int(2)?,
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.push(Value::Int(n.into()))?;
                }
                0x8a => self.long()?,
                b'U' | b'C' | 0x8c => self.push_bytes(1)?,
                b'T' | b'X' | b'B' => self.push_bytes(4)?,
                0x8d | 0x8e => self.push_bytes(8)?,
                b']' => self.push(Value::List(Vec::new()))?,
                b')' => self.push(Value::Tuple(Vec::new()))?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                0x85..=0x87 => {
                    let from = self.top(usize::from(op) - 0x84)?;
                    let items = self.stack.split_off(from);
                    self.push(Value::Tuple(items))?;
                }
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b'l' => {
                    let items = self.since_mark()?;
                    self.push(Value::List(items))?;
                }
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(Value::Dict(Vec::new()))?;
                    self.set_items(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend_list(vec![item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.extend_list(items)?;
                }
                b's' => {
                    let from = self.top(2)?;
                    let items = self.stack.split_off(from);
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set_items(items)?;
                }
                b'0' => _ = self.pop()?,
                b'I' | b'L' => {
                    let text = self.line()?;
                    let digits = text.strip_suffix('L').unwrap_or(&text);
                    let value = match (op, digits) {
                        (b'I', "00") => Value::Bool(false),
                        (b'I', "01") => Value::Bool(true),
                        _ => Value::Int(digits.parse().map_err(|_| "a number that is none")?),
                    };
                    self.push(value)?;
                }
                b'S' => {
                    let start = self.at;
                    let text = self.line()?;
                    let quoted = text.len() >= 2 && text.starts_with(['\'', '"']) && text.ends_with(&text[..1]);
                    if !quoted || text.contains('\\') {
                        return Err("text data is read from protocol 2 on; save it with protocol 2".into());
                    }
                    self.push(Value::Bytes(start + 1..start + text.len() - 1))?;
                }
                b'V' => {
                    let start = self.at;
                    let text = self.line()?;
                    self.push(Value::Bytes(start..start + text.len()))?;
                }
                b'p' | b'g' => {
                    let key = self.line()?.parse().map_err(|_| "a memo number that is none")?;
                    if op == b'p' { self.store(key)? } else { self.recall(key)? }
                }
                b'q' => self.put(1)?,
                b'r' => self.put(4)?,
                0x94 => {
                    let (key, id) = (self.memo.len() as u32, self.last()?);
                    self.memo.insert(key, id);
                }
                b'h' => self.get(1)?,
                b'j' => self.get(4)?,
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.push_name(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let text = |id: Id| match &self.values[id] {
                        Value::Bytes(range) => Ok(String::from_utf8_lossy(&self.file[range.clone()]).into_owned()),
                        _ => Err("a name that is not text"),
                    };
                    let (module, name) = (text(module)?, text(name)?);
                    self.push_name(&module, &name)?;
                }
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                _ => return Err(format!("instruction 0x{op:02x} is not one that plain data and arrays need")),
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<Range<usize>, Problem> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.file.len()).ok_or("the pickle is cut off")?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        let range = self.take(1)?;
        Ok(self.file[range.start])
    }

    /// A little-endian unsigned number of up to eight bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, Problem> {
        let range = self.take(bytes)?;
        Ok(self.file[range].iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b)))
    }

    fn line(&mut self) -> Result<String, Problem> {
        let rest = &self.file[self.at..];
        let n = rest.iter().take(256).position(|&b| b == b'\n').ok_or("a name without an end")?;
        let text = std::str::from_utf8(&rest[..n]).map_err(|_| "a name that is not text")?;
        self.at += n + 1;
        Ok(text.to_string())
    }

    fn push(&mut self, value: Value) -> Result<(), Problem> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn push_int(&mut self, bytes: usize) -> Result<(), Problem> {
        let n = self.number(bytes)?;
        self.push(Value::Int(n as i64))
    }

    /// LONG1: a signed number of up to eight bytes.
    fn long(&mut self) -> Result<(), Problem> {
        let n = usize::from(self.byte()?);
        if n > 8 {
            return Err(format!("an integer of {n} bytes"));
        }
        let value = self.number(n)?;
        let shift = 64 - 8 * n as u32;
        let signed = if n == 0 { 0 } else { ((value << shift) as i64) >> shift };
        self.push(Value::Int(signed))
    }

    fn push_bytes(&mut self, length_bytes: usize) -> Result<(), Problem> {
        let n = usize::try_from(self.number(length_bytes)?).map_err(|_| "the pickle is cut off")?;
        let range = self.take(n)?;
        self.push(Value::Bytes(range))
    }

    fn push_name(&mut self, module: &str, name: &str) -> Result<(), Problem> {
        let known = match (module, name) {
            ("_codecs", "encode") => Name::Encode,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Name::Reconstruct,
            ("numpy", "ndarray") => Name::NdArray,
            ("numpy", "dtype") => Name::Dtype,
            _ => return Err(format!("names {module}.{name}, which is neither plain data nor a NumPy array")),
        };
        self.push(Value::Name(known))
    }

    /// The stack position of the `n`th value from the top.
    fn top(&self, n: usize) -> Result<usize, Problem> {
        self.stack.len().checked_sub(n).ok_or_else(|| "takes a value from an empty stack".into())
    }

    fn last(&self) -> Result<Id, Problem> {
        self.stack.last().copied().ok_or_else(|| "takes a value from an empty stack".into())
    }

    fn pop(&mut self) -> Result<Id, Problem> {
        self.stack.pop().ok_or_else(|| "takes a value from an empty stack".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Problem> {
        let is_mark = |&id: &Id| matches!(self.values[id], Value::Mark);
        let mark = self.stack.iter().rposition(is_mark).ok_or("a mark is missing")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<(), Problem> {
        let id = self.last()?;
        match &mut self.values[id] {
            Value::List(list) => list.extend(items),
            _ => return Err("appends to what is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<(), Problem> {
        let id = self.last()?;
        match &mut self.values[id] {
            Value::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|kv| (kv[0], kv[1])))
            }
            Value::Dict(_) => return Err("a key without a value".into()),
            _ => return Err("sets an entry of what is not a dictionary".into()),
        }
        Ok(())
    }

    fn put(&mut self, bytes: usize) -> Result<(), Problem> {
        let key = self.number(bytes)? as u32;
        self.store(key)
    }

    fn store(&mut self, key: u32) -> Result<(), Problem> {
        let id = self.last()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn get(&mut self, bytes: usize) -> Result<(), Problem> {
        let key = self.number(bytes)? as u32;
        self.recall(key)
    }

    fn recall(&mut self, key: u32) -> Result<(), Problem> {
        let id = *self.memo.get(&key).ok_or("recalls what was never stored")?;
        // The stack grows by one for each two bytes of the file, so it needs no limit of its own.
        self.stack.push(id);
        Ok(())
    }

    fn tuple(&self, id: Id) -> Result<&[Id], Problem> {
        match &self.values[id] {
            Value::Tuple(items) => Ok(items),
            _ => Err("arguments that are not a tuple".into()),
        }
    }

    /// The calls that make bytes, types and empty arrays.
    fn reduce(&mut self) -> Result<(), Problem> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        let value = |i: usize| arguments.get(i).map(|&id| &self.values[id]);
        let made = match (&self.values[function], value(0), value(1)) {
            (Value::Name(Name::Encode), Some(Value::Bytes(text)), Some(Value::Bytes(codec)))
                if matches!(&self.file[codec.clone()], b"latin1" | b"latin-1") =>
            {
                Value::Latin1(text.clone())
            }
            (Value::Name(Name::Dtype), Some(Value::Bytes(code)), _) if code.len() <= MAX_NAME => {
                Value::Dtype(String::from_utf8_lossy(&self.file[code.clone()]).into_owned())
            }
            (Value::Name(Name::Reconstruct), Some(Value::Name(Name::NdArray)), _) => Value::Array(None),
            _ => return Err("calls something with arguments that no plain array has".into()),
        };
        self.push(made)
    }

    /// Fills an array from its state (version, shape, dtype, Fortran order, data); a dtype's state says nothing that matters for bytes.
    fn build(&mut self) -> Result<(), Problem> {
        let state = self.pop()?;
        let target = self.last()?;
        match &self.values[target] {
            Value::Dtype(_) => Ok(()),
            Value::Array(None) => {
                let &[_, shape, dtype, fortran, data] = self.tuple(state)? else {
                    return Err("an array's state that is not (version, shape, type, order, data)".into());
                };
                let dimension = |&id: &Id| match self.values[id] {
                    Value::Int(n) => usize::try_from(n).map_err(|_| format!("an array of size {n}")),
                    _ => Err("an array's shape that is not integers".into()),
                };
                let shape: Vec<usize> = self.tuple(shape)?.iter().map(dimension).collect::<Result<_, Problem>>()?;
                let Value::Dtype(dtype) = &self.values[dtype] else { return Err("an array without a type".into()) };
                let fortran = match self.values[fortran] {
                    Value::Bool(b) => b,
                    Value::Int(n) => n != 0,
                    _ => return Err("an array without an order".into()),
                };
                let array = Array { shape, dtype: dtype.clone(), fortran, data };
                self.values[target] = Value::Array(Some(array));
                Ok(())
            }
            _ => Err("fills what is not an array".into()),
        }
    }
}
