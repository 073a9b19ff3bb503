//! The stack machine that runs a pickle.

use std::collections::HashMap;
use std::ops::Range;

use super::{Array, Id, Name, Problem, Value};

/// Bytes that a pickle may build beyond its own length. CIFAR's files are almost all pixels, which are not copied here: the
/// largest (155 MB) builds 27 MB of labels and names.
const ROOM: usize = 1 << 20;

/// Longest code of an element type, and most dimensions of an array: each array has its own copy.
const MAX_DTYPE: usize = 16;
const MAX_DIMENSIONS: usize = 8;

/// Bytes of a value, of an element of the stack, a list or a tuple, of an entry of a dictionary or the memo. Vectors and maps that
/// double when they are full hold up to twice as many.
const VALUE: usize = size_of::<Value>();
const ELEMENT: usize = size_of::<Id>();
const ENTRY: usize = 2 * ELEMENT;

/// The stack machine.
pub(super) struct Machine<'a> {
    file: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: HashMap<u32, Id>,
    /// Bytes that may still be built.
    room: usize,
}

impl<'a> Machine<'a> {
    /// Runs the whole of a file: the values that it builds, and which of them is the outermost.
    pub(super) fn load(file: &'a [u8]) -> Result<(Vec<Value>, Id), Problem> {
        let room = ROOM + file.len();
        let mut machine = Machine { file, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new(), room };
        let root = machine.run().map_err(|what| format!("{what} (byte {} of the pickle)", machine.at))?;
        match file.len() - machine.at {
            0 => Ok((machine.values, root)),
            rest => Err(format!("{rest} bytes follow the end of the pickle")),
        }
    }

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
                    self.charge(3 * ELEMENT)?;
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
                    self.store(self.memo.len() as u32)?;
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
        self.charge(VALUE + ELEMENT)?;
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// Takes `bytes` out of what may be built.
    fn charge(&mut self, bytes: usize) -> Result<(), Problem> {
        let file = self.file.len();
        self.room = (self.room.checked_sub(2 * bytes))
            .ok_or_else(|| format!("builds more than a file of {file} bytes that holds images does"))?;
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
        self.charge((self.stack.len() - mark) * ELEMENT)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<(), Problem> {
        let id = self.last()?;
        self.charge(items.len() * ELEMENT)?;
        match &mut self.values[id] {
            Value::List(list) => list.extend(items),
            _ => return Err("appends to what is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<(), Problem> {
        let id = self.last()?;
        self.charge(items.len() * ENTRY)?;
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
        self.charge(ENTRY)?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn get(&mut self, bytes: usize) -> Result<(), Problem> {
        let key = self.number(bytes)? as u32;
        self.recall(key)
    }

    fn recall(&mut self, key: u32) -> Result<(), Problem> {
        let id = *self.memo.get(&key).ok_or("recalls what was never stored")?;
        self.charge(ELEMENT)?;
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
            (Value::Name(Name::Dtype), Some(Value::Bytes(code)), _) if code.len() <= MAX_DTYPE => {
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
                let shape = self.tuple(shape)?;
                if shape.len() > MAX_DIMENSIONS {
                    return Err(format!("an array of {} dimensions", shape.len()));
                }
                let shape: Vec<usize> = shape.iter().map(dimension).collect::<Result<_, Problem>>()?;
                let Value::Dtype(dtype) = &self.values[dtype] else { return Err("an array without a type".into()) };
                let fortran = match self.values[fortran] {
                    Value::Bool(b) => b,
                    Value::Int(n) => n != 0,
                    _ => return Err("an array without an order".into()),
                };
                let array = Array { shape, dtype: dtype.clone(), fortran, data };
                self.values[target] = Value::Array(Some(Box::new(array)));
                Ok(())
            }
            _ => Err("fills what is not an array".into()),
        }
    }
}
