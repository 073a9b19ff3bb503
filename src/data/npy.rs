//! The header of NumPy's `.npy` files, version 1.0, little-endian, C order: the only form that a store writes and reads.

use std::path::Path;

use crate::{Error, Result};

/// Bytes before the data: NumPy pads to a multiple of 64, and every shape that a store holds fits in two of them.
pub const HEADER_LEN: usize = 128;

/// Element types that a store uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Pixels.
    U8,
    /// Labels.
    I32,
    /// Offsets and sizes.
    I64,
    /// Logits and features, which no store has.
    F32,
}

impl Dtype {
    /// NumPy's name, with the byte order.
    pub fn descr(self) -> &'static str {
        match self {
            Dtype::U8 => "|u1",
            Dtype::I32 => "<i4",
            Dtype::I64 => "<i8",
            Dtype::F32 => "<f4",
        }
    }

    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::U8 => 1,
            Dtype::I32 | Dtype::F32 => 4,
            Dtype::I64 => 8,
        }
    }
}

/// The length in bytes of a file that holds an array of this type and shape, or `None` where it does not fit in 63 bits.
pub fn file_len(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let data = shape.iter().try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d as u64))?;
    data.checked_add(HEADER_LEN as u64).filter(|&n| n <= i64::MAX as u64)
}

/// The bytes that `np.save` writes before the data of an array of this type and shape (one to four dimensions).
pub fn header(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    let tuple = if dims.len() == 1 { format!("({},)", dims[0]) } else { format!("({})", dims.join(", ")) };
    let dict = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {tuple}, }}", dtype.descr());
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&((HEADER_LEN - 10) as u16).to_le_bytes());
    bytes.extend_from_slice(dict.as_bytes());
    debug_assert!(bytes.len() < HEADER_LEN);
    bytes.resize(HEADER_LEN - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Checks that `start`, the first bytes of the file at `path`, is the header of an array of this type and shape.
///
/// The comparison is byte for byte, so that a single changed bit is seen.
///
/// # Errors
///
/// Says what the header describes instead, where it can be read at all.
pub fn check_header(path: &Path, start: &[u8], dtype: Dtype, shape: &[usize]) -> Result<()> {
    let expected = header(dtype, shape);
    if start.get(..HEADER_LEN) == Some(&expected[..]) {
        return Ok(());
    }
    if start.is_empty() {
        return Err(Error::file(path, "is empty; prepare the store again"));
    }
    if start.len() < HEADER_LEN {
        return Err(Error::file(path, format!("is cut off after {} bytes; prepare the store again", start.len())));
    }
    if !start.starts_with(b"\x93NUMPY") {
        return Err(Error::file(
            path,
            "is not a .npy file (it does not start with \\x93NUMPY); prepare the store again",
        ));
    }
    let text: String =
        start[10..HEADER_LEN].iter().map(|&b| if b.is_ascii_graphic() { b as char } else { ' ' }).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = format!("type {} and shape {shape:?}", dtype.descr());
    Err(Error::file(path, format!("header reads \"{text}\" where meta.json says {expected}; prepare the store again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    // import io, numpy as np; b = io.BytesIO(); np.save(b, np.zeros((3, 32, 32, 3), np.uint8)); b.getvalue()[:128]
    #[test]
    fn header_is_numpys() {
        let bytes = header(Dtype::U8, &[3, 32, 32, 3]);
        assert_eq!(bytes.len(), 128);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 32, 32, 3), }";
        assert_eq!(&bytes[10..10 + text.len()], text.as_bytes());
        assert!(bytes[10 + text.len()..127].iter().all(|&b| b == b' '));
        assert_eq!(bytes[127], b'\n');
        let text = "{'descr': '<i4', 'fortran_order': False, 'shape': (12406,), }";
        assert_eq!(&header(Dtype::I32, &[12406])[10..10 + text.len()], text.as_bytes());
        assert_eq!(header(Dtype::I64, &[usize::MAX, usize::MAX, 8]).len(), HEADER_LEN);
    }

    #[test]
    fn every_bit_of_the_header_counts() {
        let good = header(Dtype::U8, &[3, 8, 8, 3]);
        let path = Path::new("x.npy");
        assert!(check_header(path, &good, Dtype::U8, &[3, 8, 8, 3]).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check_header(path, &bad, Dtype::U8, &[3, 8, 8, 3]).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(check_header(path, &good[..len], Dtype::U8, &[3, 8, 8, 3]).is_err(), "length {len}");
        }
    }

    #[test]
    fn absurd_lengths_do_not_overflow() {
        assert_eq!(file_len(Dtype::U8, &[2, 4, 4, 3]), Some(128 + 96));
        assert_eq!(file_len(Dtype::I64, &[usize::MAX, 2]), None);
    }
}
