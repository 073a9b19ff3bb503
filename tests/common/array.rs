//! Arrays on the host: values of any element type, held as doubles, which hold all of them exactly.

use glmc_engine::rng::philox::{Purpose, Stream};
use glmc_engine::tensor::DType;
use half::bf16;

/// A shape and its values, outermost extent first.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Array {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Array { shape: shape.to_vec(), data }
    }

    pub fn zeros(shape: &[usize]) -> Array {
        Array::filled(shape, 0.0)
    }

    pub fn filled(shape: &[usize], value: f64) -> Array {
        Array::new(shape, vec![value; shape.iter().product()])
    }

    pub fn vector(data: &[f64]) -> Array {
        Array::new(&[data.len()], data.to_vec())
    }

    /// The extents of an array of rank 4.
    pub fn four(&self) -> [usize; 4] {
        self.shape.as_slice().try_into().expect("rank 4")
    }

    /// The extents of an array of rank 2.
    pub fn two(&self) -> [usize; 2] {
        self.shape.as_slice().try_into().expect("rank 2")
    }

    pub fn reshaped(&self, shape: &[usize]) -> Array {
        Array::new(shape, self.data.clone())
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Array {
        Array { shape: self.shape.clone(), data: self.data.iter().map(|&v| f(v)).collect() }
    }

    /// Axes in another order: extent `k` of the result is extent `order[k]` of this.
    pub fn permuted(&self, order: [usize; 4]) -> Array {
        let from = self.four();
        let shape = order.map(|axis| from[axis]);
        let strides = [from[1] * from[2] * from[3], from[2] * from[3], from[3], 1];
        let mut data = Vec::with_capacity(self.data.len());
        for a in 0..shape[0] {
            for b in 0..shape[1] {
                for c in 0..shape[2] {
                    for d in 0..shape[3] {
                        let at: usize = [a, b, c, d].iter().zip(order).map(|(i, axis)| i * strides[axis]).sum();
                        data.push(self.data[at]);
                    }
                }
            }
        }
        Array::new(&shape, data)
    }

    /// Rounded to what a type can hold.
    pub fn rounded(&self, dtype: DType) -> Array {
        self.map(|v| match dtype {
            DType::Bf16 => bf16::from_f32(v as f32).to_f64(),
            DType::F32 => f64::from(v as f32),
            DType::F64 | DType::I32 | DType::U8 => v,
        })
    }

    /// As a tensor of that type lies in memory.
    pub fn bytes(&self, dtype: DType) -> Vec<u8> {
        let values = self.data.iter();
        match dtype {
            DType::U8 => values.map(|&v| v as u8).collect(),
            DType::I32 => values.flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            DType::Bf16 => values.flat_map(|&v| bf16::from_f32(v as f32).to_le_bytes()).collect(),
            DType::F32 => values.flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            DType::F64 => values.flat_map(|&v| v.to_le_bytes()).collect(),
        }
    }

    pub fn from_bytes(shape: &[usize], dtype: DType, bytes: &[u8]) -> Array {
        let data = match dtype {
            DType::U8 => bytes.iter().map(|&b| f64::from(b)).collect(),
            DType::I32 => words(bytes, |b| f64::from(i32::from_le_bytes(b))),
            DType::Bf16 => words(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            DType::F32 => words(bytes, |b| f64::from(f32::from_le_bytes(b))),
            DType::F64 => words(bytes, f64::from_le_bytes),
        };
        Array::new(shape, data)
    }
}

fn words<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|&word| value(word)).collect()
}

/// Random numbers and arrays from a seed, the same at every run.
pub struct Random(Stream);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(Stream::new(seed, 0, 0, Purpose::Initialise))
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.unit() * bound as f64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Values in -1..=1 that bf16 holds exactly, so that every precision starts from the same.
    pub fn values(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| bf16::from_f64(2.0 * self.0.unit() - 1.0).to_f64()).collect()
    }

    /// Normal values.
    pub fn normal(&mut self, shape: &[usize]) -> Array {
        let mut value = || {
            let (radius, angle) = (1.0 - self.0.unit(), self.0.unit());
            (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
        };
        Array::new(shape, (0..shape.iter().product()).map(|_| value()).collect())
    }

    /// Whole numbers in `-most..=most`.
    pub fn integers(&mut self, shape: &[usize], most: usize) -> Array {
        let values = (0..shape.iter().product()).map(|_| self.below(2 * most + 1) as f64 - most as f64).collect();
        Array::new(shape, values)
    }

    /// Whole numbers in `0..bound`.
    pub fn indices(&mut self, shape: &[usize], bound: usize) -> Array {
        Array::new(shape, (0..shape.iter().product()).map(|_| self.below(bound) as f64).collect())
    }
}
