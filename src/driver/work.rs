//! What a launch does, as the cost model (`glmc-engine bench plan`) counts it.

/// Arithmetic and bytes of one launch, all blocks together. Launchers declare it beside the geometry that it follows from; no
/// driver looks at it.
///
/// Operations are those that the units execute, so that the padding of a tile counts; a multiply-add is two. Integer
/// arithmetic and special functions are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Work {
    /// Extents of the tensor that the launch goes over, for tables; 0 past the last.
    pub extents: [u32; 4],
    /// Operations of tensor cores.
    pub tensor: u64,
    /// Operations in f32.
    pub float: u64,
    /// Operations in f64.
    pub double: u64,
    /// Bytes from and to memory: each tensor once, or as much of it as is touched.
    pub memory: u64,
    /// Bytes of the largest tensor: smaller ones may still be in L2 from the kernel before.
    pub largest: u64,
    /// Bytes that multiprocessors ask L2 for or write to it; what a block is served by its own L1 does not count.
    pub l2: u64,
    /// Bytes read from and written to shared memory, as its banks see them: what a warp reads at one address counts once.
    pub shared: u64,
}

impl Work {
    /// None so far, over a tensor of these extents (at most four are kept).
    pub fn over(extents: &[usize]) -> Work {
        let mut work = Work::default();
        work.extents.iter_mut().zip(extents).for_each(|(to, &from)| *to = u32::try_from(from).unwrap_or(u32::MAX));
        work
    }

    /// A tensor of `bytes` bytes is read once or written once.
    #[must_use]
    pub fn moves(self, bytes: usize) -> Work {
        self.fetches(bytes, bytes)
    }

    /// A tensor is written, or with `add` read and written.
    #[must_use]
    pub fn puts(self, bytes: usize, add: bool) -> Work {
        if add { self.moves(bytes).moves(bytes) } else { self.moves(bytes) }
    }

    /// A tensor of `bytes` bytes from which `fetched` bytes are asked for: more than once if those are more, in part if less.
    #[must_use]
    pub fn fetches(mut self, bytes: usize, fetched: usize) -> Work {
        self.memory += bytes.min(fetched) as u64;
        self.largest = self.largest.max(bytes as u64);
        self.l2 += fetched as u64;
        self
    }

    /// Operations in f32.
    #[must_use]
    pub fn floats(self, operations: usize) -> Work {
        Work { float: self.float + operations as u64, ..self }
    }

    /// Operations in f64.
    #[must_use]
    pub fn doubles(self, operations: usize) -> Work {
        Work { double: self.double + operations as u64, ..self }
    }

    /// Operations of tensor cores.
    #[must_use]
    pub fn tensor_cores(self, operations: usize) -> Work {
        Work { tensor: self.tensor + operations as u64, ..self }
    }

    /// Bytes to or from shared memory.
    #[must_use]
    pub fn shares(self, bytes: usize) -> Work {
        Work { shared: self.shared + bytes as u64, ..self }
    }
}
