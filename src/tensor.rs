//! What a tensor is: a place in a backend's memory, a shape known at run time, an element type.
//!
//! A [`Tensor`] is a plain description, free to copy. Only its backend can read what it describes. Image tensors are
//! NHWC; convolution weights are OHWI (output channel, kernel row, kernel column, input channel).

use std::fmt;

/// The element types of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// Bytes: pixels.
    U8,
    /// Labels, indices, ranks.
    I32,
    /// bfloat16: the fast path on GPUs.
    Bf16,
    /// IEEE single.
    F32,
    /// IEEE double: the oracle of oracles, on the CPU only.
    F64,
}

impl DType {
    /// Bytes per element.
    pub const fn bytes(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::Bf16 => 2,
            DType::I32 | DType::F32 => 4,
            DType::F64 => 8,
        }
    }
}

/// The arithmetic that a network runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in double: the oracle, on the CPU only.
    F64,
    /// Everything in single.
    F32,
    /// Activations, their gradients and the weights that products read in bfloat16; sums, statistics, losses,
    /// parameter gradients and master weights in single.
    Bf16,
}

impl Precision {
    /// Type of activations, their gradients, and the weights that convolutions and linear layers read.
    pub const fn compute(self) -> DType {
        match self {
            Precision::F64 => DType::F64,
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }

    /// The precision that a device is best at: bf16 on a GPU, f32 elsewhere.
    pub fn default_on(device: &str) -> Precision {
        if device.starts_with("cuda") { Precision::Bf16 } else { Precision::F32 }
    }

    /// Type of master weights, parameter gradients, statistics, soft labels and losses.
    pub const fn accumulate(self) -> DType {
        match self {
            Precision::F64 => DType::F64,
            _ => DType::F32,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F64 => "f64",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Precision, String> {
        match text {
            "f64" => Ok(Precision::F64),
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            _ => Err("known precisions are f32, bf16 and (on the CPU) f64".into()),
        }
    }
}

/// Up to four extents, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; 4],
    rank: usize,
}

impl Shape {
    /// A shape of these extents.
    ///
    /// # Panics
    /// With more than four extents; ranks are written in the source, never read from input.
    pub fn new(extents: &[usize]) -> Shape {
        let mut all = [1; 4];
        all[..extents.len()].copy_from_slice(extents);
        Shape { extents: all, rank: extents.len() }
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.extents[..self.rank]
    }

    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// The extents of a rank-4 shape, or `None`.
    pub fn four(&self) -> Option<[usize; 4]> {
        (self.rank == 4).then_some(self.extents)
    }

    /// The extents of a rank-2 shape, or `None`.
    pub fn two(&self) -> Option<[usize; 2]> {
        (self.rank == 2).then_some([self.extents[0], self.extents[1]])
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// Names one allocation of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub u32);

/// A contiguous tensor: where it lies and how to read it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor {
    /// The allocation it lies in.
    pub buffer: BufferId,
    /// Where it starts there, in bytes.
    pub offset: usize,
    /// Its extents.
    pub shape: Shape,
    /// Its element type.
    pub dtype: DType,
}

impl Tensor {
    /// The tensor at the start of `buffer`.
    pub fn at_start(buffer: BufferId, shape: &[usize], dtype: DType) -> Tensor {
        Tensor { buffer, offset: 0, shape: Shape::new(shape), dtype }
    }

    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// Rows `start..start + count` of the outermost extent.
    ///
    /// # Panics
    /// When the rows lie outside: a mistake in the caller.
    pub fn rows(&self, start: usize, count: usize) -> Tensor {
        let dims = self.shape.dims();
        assert!(start + count <= dims[0], "rows {start}..{} of {}", start + count, self.shape);
        let row = dims[1..].iter().product::<usize>() * self.dtype.bytes();
        let mut extents = [1; 4];
        extents[..dims.len()].copy_from_slice(dims);
        extents[0] = count;
        Tensor { offset: self.offset + start * row, shape: Shape::new(&extents[..dims.len()]), ..*self }
    }
}

/// A gradient that a backward writes: where, and whether another op has already written there in this pass.
#[derive(Clone, Copy, Debug)]
pub struct Grad {
    /// Same shape as the value.
    pub tensor: Tensor,
    /// `+=` if true, `=` if false.
    pub accumulate: bool,
}

impl Grad {
    /// A gradient that is written, not added to.
    pub fn write(tensor: Tensor) -> Grad {
        Grad { tensor, accumulate: false }
    }
}
