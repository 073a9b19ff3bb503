//! Writes small CIFAR archives: the binary layout, and pickles byte for byte as Python 2's cPickle wrote the official ones or as
//! Python 3 with NumPy writes them at protocol 2.

use std::fs;
use std::path::Path;

/// Images of an archive file: labels, superclasses (CIFAR-100), and 3072 bytes per image.
pub struct Batch {
    pub labels: Vec<u8>,
    pub coarse: Vec<u8>,
    pub pixels: Vec<u8>,
}

/// `n` images of made-up pixels; label i % classes, superclass label / 5.
pub fn batch(n: usize, classes: usize, salt: usize) -> Batch {
    let labels: Vec<u8> = (0..n).map(|i| (i % classes) as u8).collect();
    let coarse = labels.iter().map(|label| label / 5).collect();
    let pixels = (0..n * 3072).map(|i| ((i + salt).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    Batch { labels, coarse, pixels }
}

/// Who wrote a pickle.
#[derive(Clone, Copy, PartialEq)]
pub enum Writer {
    Python2,
    Python3,
}

/// A pickle in the making, without memo instructions but for those that stand for the usual ones.
struct Pickle {
    bytes: Vec<u8>,
    writer: Writer,
    memo: u8,
}

impl Pickle {
    fn new(writer: Writer) -> Pickle {
        let mut pickle = Pickle { bytes: vec![0x80, 2, b'}'], writer, memo: 0 };
        pickle.put();
        pickle.bytes.push(b'(');
        pickle
    }

    fn put(&mut self) {
        self.bytes.extend([b'q', self.memo]);
        self.memo = self.memo.wrapping_add(1);
    }

    /// A string of Python 2; of Python 3, bytes: `_codecs.encode(text, "latin1")`.
    fn string(&mut self, text: &[u8]) {
        match self.writer {
            Writer::Python2 if text.len() < 256 => {
                self.bytes.extend([b'U', text.len() as u8]);
                self.bytes.extend(text);
            }
            Writer::Python2 => {
                self.bytes.push(b'T');
                self.bytes.extend((text.len() as u32).to_le_bytes());
                self.bytes.extend(text);
            }
            Writer::Python3 => {
                self.bytes.extend(b"c_codecs\nencode\n");
                let utf8: String = text.iter().map(|&b| char::from(b)).collect();
                self.unicode(&utf8);
                self.unicode("latin1");
                self.bytes.extend([0x86, b'R']);
            }
        }
        self.put();
    }

    fn unicode(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn integer(&mut self, n: usize) {
        match n {
            0..256 => self.bytes.extend([b'K', n as u8]),
            256..65536 => self.bytes.extend([b'M', n as u8, (n >> 8) as u8]),
            _ => {
                self.bytes.push(b'J');
                self.bytes.extend((n as u32).to_le_bytes());
            }
        }
    }

    fn strings<S: AsRef<str>>(&mut self, key: &str, names: &[S]) {
        self.string(key.as_bytes());
        self.bytes.push(b']');
        self.put();
        self.bytes.push(b'(');
        names.iter().for_each(|name| self.string(name.as_ref().as_bytes()));
        self.bytes.push(b'e');
    }

    fn integers(&mut self, key: &str, numbers: &[u8]) {
        self.string(key.as_bytes());
        self.bytes.push(b']');
        self.put();
        self.bytes.push(b'(');
        numbers.iter().for_each(|&n| self.integer(n.into()));
        self.bytes.push(b'e');
    }

    fn array(&mut self, key: &str, rows: usize, columns: usize, data: &[u8], fortran: bool) {
        self.string(key.as_bytes());
        let module = if self.writer == Writer::Python2 { "numpy.core.multiarray" } else { "numpy._core.multiarray" };
        self.bytes.extend(format!("c{module}\n_reconstruct\n").into_bytes());
        self.put();
        self.bytes.extend(b"cnumpy\nndarray\n");
        self.put();
        self.bytes.extend([b'K', 0, 0x85]);
        self.string(b"b");
        self.bytes.extend([0x87, b'R']);
        self.put();
        self.bytes.extend([b'(', b'K', 1]);
        self.integer(rows);
        self.integer(columns);
        self.bytes.extend([0x86]);
        self.bytes.extend(b"cnumpy\ndtype\n");
        self.put();
        match self.writer {
            Writer::Python2 => self.bytes.extend([b'U', 2, b'u', b'1', b'K', 0, b'K', 1, 0x87, b'R']),
            Writer::Python3 => {
                self.unicode("u1");
                self.bytes.extend([0x89, 0x88, 0x87, b'R']);
            }
        }
        self.put();
        self.bytes.extend([b'(', b'K', 3]);
        if self.writer == Writer::Python2 {
            self.bytes.extend(b"U\x01|")
        } else {
            self.unicode("|")
        }
        self.bytes.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
        self.bytes.push(if fortran { 0x88 } else { 0x89 });
        self.string(data);
        self.bytes.extend([b't', b'b']);
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([b'u', b'.']);
        self.bytes
    }
}

/// `columns` x `rows` of what was `rows` x `columns`.
fn transposed(data: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}

fn batch_pickle(batch: &Batch, writer: Writer, hundred: bool, fortran: bool) -> Vec<u8> {
    let mut pickle = Pickle::new(writer);
    pickle.string(b"batch_label");
    pickle.string(b"training batch 1 of 5");
    let n = batch.labels.len();
    match hundred {
        false => pickle.integers("labels", &batch.labels),
        true => {
            pickle.integers("fine_labels", &batch.labels);
            pickle.integers("coarse_labels", &batch.coarse);
        }
    }
    let names: Vec<String> = (0..n).map(|i| format!("image_{i}.png")).collect();
    pickle.strings("filenames", &names);
    let data = if fortran { transposed(&batch.pixels, n, 3072) } else { batch.pixels.clone() };
    pickle.array("data", n, 3072, &data, fortran);
    pickle.finish()
}

pub const TEN: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Names of CIFAR-100's classes and superclasses, made up.
pub fn hundred_names() -> (Vec<String>, Vec<String>) {
    ((0..100).map(|i| format!("fine_{i}")).collect(), (0..20).map(|i| format!("coarse_{i}")).collect())
}

/// The files of CIFAR-10 with `n` images each.
fn ten(n: usize) -> Vec<(String, Batch)> {
    let train = (1..=5).map(|b| (format!("data_batch_{b}"), batch(n, 10, b * 1000)));
    train.chain([("test_batch".to_string(), batch(n, 10, 99))]).collect()
}

fn hundred(n: usize) -> Vec<(String, Batch)> {
    vec![("train".to_string(), batch(n, 100, 5)), ("test".to_string(), batch(200, 100, 6))]
}

pub fn ten_binary(folder: &Path, n: usize) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("batches.meta.txt"), TEN.join("\n") + "\n\n").unwrap();
    for (name, batch) in ten(n) {
        let records = batch.labels.iter().zip(batch.pixels.chunks(3072));
        let bytes: Vec<u8> = records.flat_map(|(&label, pixels)| [&[label], pixels].concat()).collect();
        fs::write(folder.join(format!("{name}.bin")), bytes).unwrap();
    }
}

pub fn ten_pickle(folder: &Path, n: usize, writer: Writer, fortran: bool) {
    fs::create_dir_all(folder).unwrap();
    let mut meta = Pickle::new(writer);
    meta.string(b"num_cases_per_batch");
    meta.integer(n);
    meta.strings("label_names", &TEN);
    fs::write(folder.join("batches.meta"), meta.finish()).unwrap();
    for (name, batch) in ten(n) {
        fs::write(folder.join(name), batch_pickle(&batch, writer, false, fortran)).unwrap();
    }
}

pub fn hundred_binary(folder: &Path, n: usize) {
    fs::create_dir_all(folder).unwrap();
    let (fine, coarse) = hundred_names();
    fs::write(folder.join("fine_label_names.txt"), fine.join("\n")).unwrap();
    fs::write(folder.join("coarse_label_names.txt"), coarse.join("\r\n")).unwrap();
    for (name, batch) in hundred(n) {
        let records = batch.coarse.iter().zip(&batch.labels).zip(batch.pixels.chunks(3072));
        let bytes: Vec<u8> = records.flat_map(|((&c, &f), pixels)| [&[c, f], pixels].concat()).collect();
        fs::write(folder.join(format!("{name}.bin")), bytes).unwrap();
    }
}

pub fn hundred_pickle(folder: &Path, n: usize, writer: Writer) {
    fs::create_dir_all(folder).unwrap();
    let (fine, coarse) = hundred_names();
    let mut meta = Pickle::new(writer);
    meta.strings("fine_label_names", &fine);
    meta.strings("coarse_label_names", &coarse);
    fs::write(folder.join("meta"), meta.finish()).unwrap();
    for (name, batch) in hundred(n) {
        fs::write(folder.join(name), batch_pickle(&batch, writer, true, false)).unwrap();
    }
}
