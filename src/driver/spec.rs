//! What a kernel is, and what it is called with.

use std::borrow::Cow;

use super::{DevicePtr, Work, sources};
use crate::{Error, Result};

/// A kernel in one of its forms: a file, an entry in it, and the knobs and shapes that specialise it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    /// File under `kernels/`.
    pub file: Cow<'static, str>,
    /// The `extern "C" __global__` function.
    pub entry: Cow<'static, str>,
    /// `-D` names and values, in the order they were given.
    pub defines: Vec<(Cow<'static, str>, String)>,
    /// Source text where it does not come from the table of the binary (tests, ladders).
    pub text: Option<Cow<'static, str>>,
}

impl KernelSpec {
    /// The kernel `entry` in `kernels/ENTRY.cu`, without knobs so far.
    pub fn new(entry: &'static str) -> KernelSpec {
        KernelSpec { file: format!("{entry}.cu").into(), entry: entry.into(), defines: Vec::new(), text: None }
    }

    /// A kernel whose source is `text`; `file` names it in messages.
    pub fn from_text(file: impl Into<String>, entry: impl Into<String>, text: impl Into<String>) -> KernelSpec {
        KernelSpec {
            file: Cow::Owned(file.into()),
            entry: Cow::Owned(entry.into()),
            defines: Vec::new(),
            text: Some(Cow::Owned(text.into())),
        }
    }

    /// Adds `-DNAME=VALUE`.
    #[must_use]
    pub fn define(mut self, name: impl Into<Cow<'static, str>>, value: impl ToString) -> KernelSpec {
        self.defines.push((name.into(), value.to_string()));
        self
    }

    /// The source text.
    ///
    /// # Errors
    /// When there is none of that name, or the folder of sources cannot be read.
    pub fn source(&self) -> Result<&str> {
        // Headers come from there too.
        let origin = sources::origin()?;
        match &self.text {
            Some(text) => Ok(text),
            None => sources::source(&self.file).ok_or_else(|| {
                Error::Config(format!("there is no kernel source named {} (sources: {origin})", self.file))
            }),
        }
    }

    /// `-DNAME=VALUE` of every knob.
    pub fn define_options(&self) -> impl Iterator<Item = String> + '_ {
        self.defines.iter().map(|(name, value)| format!("-D{name}={value}"))
    }

    /// The entry with its knobs, as tables and messages show it: `conv2d_forward<BLOCK=128,STRIDE=2>`.
    pub fn label(&self) -> String {
        if self.defines.is_empty() {
            return self.entry.to_string();
        }
        let knobs: Vec<String> = self.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}<{}>", self.entry, knobs.join(","))
    }
}

/// A loaded kernel: a handle that belongs to the driver which gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel(pub(crate) usize);

/// Launch geometry, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// What all its blocks do together.
    pub work: Work,
}

impl Launch {
    /// `blocks` blocks of `threads` threads, in one dimension, without shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Launch {
        Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0, work: Work::default() }
    }

    /// Enough blocks of `threads` threads to cover `items`, at least one.
    ///
    /// # Panics
    /// Never for `threads` > 0; a grid holds 2^31 - 1 blocks, and more items than that is a bug of the caller.
    pub fn cover(items: usize, threads: u32) -> Launch {
        let blocks = items.div_ceil(threads as usize).max(1);
        Launch::linear(u32::try_from(blocks).unwrap_or(u32::MAX), threads)
    }

    /// The same with `bytes` of dynamic shared memory.
    #[must_use]
    pub fn shared(self, bytes: u32) -> Launch {
        Launch { shared_bytes: bytes, ..self }
    }

    /// The same, declared to do `work`.
    #[must_use]
    pub fn does(self, work: Work) -> Launch {
        Launch { work, ..self }
    }

    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// Number of threads of a block.
    pub fn threads(&self) -> u64 {
        self.block.iter().map(|&n| u64::from(n)).product()
    }

    /// Refuses what no device takes.
    pub(crate) fn check(&self, label: &str, device: &str, shared_limit: u32) -> Result<()> {
        let problem = if !(1..=1024).contains(&self.threads()) {
            format!("{:?} threads per block; a block holds 1 to 1024", self.block)
        } else if self.grid[1] > 65_535 || self.grid[2] > 65_535 || self.grid[0] > i32::MAX as u32 {
            format!("a grid of {:?} blocks; the limits are 2147483647, 65535 and 65535", self.grid)
        } else if self.shared_bytes > shared_limit {
            format!("{} bytes of shared memory per block; the device has {shared_limit}", self.shared_bytes)
        } else {
            return Ok(());
        };
        Err(Error::device(device, format!("kernel {label}: launched with {problem}")))
    }
}

/// A kernel in one form with one way to launch it: a row of `glmc-engine kernels`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The kernel with its knobs.
    pub spec: KernelSpec,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// One argument of a launch. The variant's size must be the parameter's.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A pointer to device memory.
    Ptr(DevicePtr),
    /// `u32`.
    U32(u32),
    /// `i32`.
    I32(i32),
    /// `u64`.
    U64(u64),
    /// `float`.
    F32(f32),
    /// A structure passed by value, in its memory form (`bytemuck::bytes_of`).
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    /// Size in bytes.
    pub fn size(&self) -> usize {
        match self {
            Arg::U32(_) | Arg::I32(_) | Arg::F32(_) => 4,
            Arg::Ptr(_) | Arg::U64(_) => 8,
            Arg::Bytes(bytes) => bytes.len(),
        }
    }
}

/// The values of a launch's arguments in one buffer, each aligned to 16, so that launches can be captured.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackedArgs {
    words: Vec<u128>,
    sizes: Vec<usize>,
}

impl PackedArgs {
    pub(crate) fn new(args: &[Arg]) -> PackedArgs {
        let mut packed = PackedArgs::default();
        for arg in args {
            let start = packed.words.len();
            packed.words.resize(start + arg.size().div_ceil(16).max(1), 0);
            let target = &mut bytemuck::cast_slice_mut::<u128, u8>(&mut packed.words[start..])[..arg.size()];
            match arg {
                Arg::Ptr(value) | Arg::U64(value) => target.copy_from_slice(&value.to_ne_bytes()),
                Arg::U32(value) => target.copy_from_slice(&value.to_ne_bytes()),
                Arg::I32(value) => target.copy_from_slice(&value.to_ne_bytes()),
                Arg::F32(value) => target.copy_from_slice(&value.to_ne_bytes()),
                Arg::Bytes(bytes) => target.copy_from_slice(bytes),
            }
            packed.sizes.push(arg.size());
        }
        packed
    }

    /// One pointer per argument, valid as long as `self` is neither moved out of nor changed.
    pub(crate) fn pointers(&self) -> Vec<*const std::ffi::c_void> {
        let mut word = 0;
        let mut pointers = Vec::with_capacity(self.sizes.len());
        for size in &self.sizes {
            pointers.push(self.words[word..].as_ptr().cast());
            word += size.div_ceil(16).max(1);
        }
        pointers
    }

    /// Compares with the kernel's parameters; `Err` says what does not fit.
    pub(crate) fn check(&self, expected: &[usize]) -> Result<(), String> {
        if self.sizes.len() != expected.len() {
            return Err(format!("launched with {} arguments, but it takes {}", self.sizes.len(), expected.len()));
        }
        match self.sizes.iter().zip(expected).position(|(given, wanted)| given != wanted) {
            None => Ok(()),
            Some(i) => Err(format!(
                "argument {} has {} bytes, but the kernel's parameter has {}",
                i + 1,
                self.sizes[i],
                expected[i]
            )),
        }
    }
}
