//! The CPU's memory, and what an op may touch of it.
//!
//! A [`Tensor`] is only a description: two of them may name the same bytes. [`Access`] is a borrow checker
//! at run time: an op asks it for every tensor that it reads or writes, and gets slices that are sure to lie in an
//! allocation, to be aligned, and to share no written byte with each other. The ops themselves need no `unsafe`.

use std::cell::{RefCell, RefMut};
use std::ptr::NonNull;

use memmap2::{Advice, MmapMut, MmapOptions};

use super::real::Element;
use crate::error::{Error, Result};
use crate::tensor::{BufferId, DType, Tensor};

/// Most tensors that one op may touch.
const MOST_TENSORS: usize = 16;
/// From this size on, huge pages are asked for: walks over an arena of many MiB otherwise spend their time in the TLB.
const HUGE_PAGE: usize = 2 << 20;

fn error(what: impl Into<String>) -> Error {
    Error::device("cpu", what)
}

/// All allocations of one backend.
#[derive(Default)]
pub struct Allocations {
    table: RefCell<Table>,
    /// Whether more may be allocated than there is, to be touched never or here and there.
    unreserved: bool,
}

#[derive(Default)]
struct Table {
    /// By buffer id. Ids are never used twice, so that a tensor of a freed buffer is an error and not another's data.
    blocks: Vec<Option<Block>>,
    now: usize,
    most: usize,
}

struct Block {
    start: NonNull<u8>,
    bytes: usize,
    /// Owns the memory at `start`; anonymous maps are zeroed and aligned to a page.
    _map: MmapMut,
}

impl Allocations {
    /// For plans: what this machine cannot hold is allocated all the same.
    pub fn unreserved() -> Allocations {
        Allocations { unreserved: true, ..Allocations::default() }
    }

    /// Zeroed memory aligned to a page; `what` is for the message.
    ///
    /// # Errors
    /// When there is not that much.
    pub fn alloc(&self, bytes: usize, what: &str) -> Result<BufferId> {
        let mut table = self.borrow()?;
        let refused = |source| error(format!("no memory for {what} ({bytes} bytes): {source}"));
        let mut options = MmapOptions::new();
        if self.unreserved {
            options.no_reserve_swap();
        }
        let mut map = options.len(bytes.max(1)).map_anon().map_err(refused)?;
        if bytes >= HUGE_PAGE {
            // Only advice: a kernel without huge pages refuses it, and nothing but speed is lost.
            let _ = map.advise(Advice::HugePage);
        }
        let start = NonNull::new(map.as_mut_ptr()).ok_or_else(|| error("memory mapped at address 0"))?;
        let id = u32::try_from(table.blocks.len()).map_err(|_| error("more than 2^32 allocations"))?;
        table.blocks.push(Some(Block { start, bytes, _map: map }));
        table.now += bytes;
        table.most = table.most.max(table.now);
        Ok(BufferId(id))
    }

    /// Gives an allocation back; one that was given back before is left alone.
    pub fn free(&self, buffer: BufferId) {
        let mut table = self.table.borrow_mut();
        if let Some(block) = table.blocks.get_mut(buffer.0 as usize).and_then(Option::take) {
            table.now -= block.bytes;
        }
    }

    /// Bytes allocated now, and the most that ever were.
    pub fn allocated(&self) -> (usize, usize) {
        let table = self.table.borrow();
        (table.now, table.most)
    }

    /// Opens the memory for one op.
    ///
    /// # Errors
    /// When an op runs inside another: a mistake in the caller.
    pub fn access(&self) -> Result<Access<'_>> {
        Ok(Access { table: self.borrow()?, taken: RefCell::new(Taken::default()) })
    }

    fn borrow(&self) -> Result<RefMut<'_, Table>> {
        self.table.try_borrow_mut().map_err(|_| error("an op was called while another one runs"))
    }
}

/// Bytes that this machine could still give without swapping.
///
/// # Errors
/// When the system does not say.
pub fn available() -> Result<usize> {
    // Linux's own estimate, which counts what its caches would give up; elsewhere there is none.
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return Ok(usize::MAX) };
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    kibibytes.map(|kib| kib << 10).ok_or_else(|| error("/proc/meminfo names no MemAvailable"))
}

/// A range of bytes that the op has asked for.
#[derive(Clone, Copy, Default)]
struct Range {
    buffer: u32,
    start: usize,
    end: usize,
    written: bool,
}

#[derive(Default)]
struct Taken {
    ranges: [Range; MOST_TENSORS],
    count: usize,
}

/// The memory as one op sees it: hands out slices, each tensor once.
pub struct Access<'m> {
    /// Borrowed mutably: as long as this lives, nothing is allocated or freed and no other access opened.
    table: RefMut<'m, Table>,
    taken: RefCell<Taken>,
}

impl Access<'_> {
    /// The elements of a tensor that the op only reads.
    ///
    /// # Errors
    /// When the type is another, the tensor does not lie in its buffer, or the op writes some of it.
    pub fn read<T: Element>(&self, tensor: Tensor) -> Result<&[T]> {
        let start = self.take(tensor, T::DTYPE, false)?;
        // SAFETY: `take` checked that the range lies in a live block, whose bytes are initialised (anonymous maps are
        // zeroed), that it is aligned for T and that no slice handed out by this access may write it; the block lives
        // as long as the table is borrowed, which is as long as `self`. T is plain data: any bytes are a value.
        Ok(unsafe { std::slice::from_raw_parts(start.cast::<T>().as_ptr(), tensor.elements()) })
    }

    /// The elements of a tensor that the op writes (and may read).
    ///
    /// # Errors
    /// As for [`Access::read`], and when the op has asked for some of it before.
    #[allow(clippy::mut_from_ref, reason = "`take` hands out every byte to one writer only")]
    pub fn write<T: Element>(&self, tensor: Tensor) -> Result<&mut [T]> {
        let start = self.take(tensor, T::DTYPE, true)?;
        // SAFETY: as in `read`; and `take` checked that this range meets no other that this access has handed out.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.cast::<T>().as_ptr(), tensor.elements()) })
    }

    /// [`Access::read`] of a tensor that may be absent.
    ///
    /// # Errors
    /// As for [`Access::read`].
    pub fn read_maybe<T: Element>(&self, tensor: Option<Tensor>) -> Result<Option<&[T]>> {
        tensor.map(|t| self.read(t)).transpose()
    }

    /// [`Access::write`] of a tensor that may be absent.
    ///
    /// # Errors
    /// As for [`Access::write`].
    #[allow(clippy::mut_from_ref, reason = "see `write`")]
    pub fn write_maybe<T: Element>(&self, tensor: Option<Tensor>) -> Result<Option<&mut [T]>> {
        tensor.map(|t| self.write(t)).transpose()
    }

    /// Scratch bytes as elements of any type, as many as fit.
    ///
    /// # Errors
    /// As for [`Access::write`].
    #[allow(clippy::mut_from_ref, reason = "see `write`")]
    pub fn scratch<T: Element>(&self, bytes: Tensor) -> Result<&mut [T]> {
        let bytes = self.write::<u8>(bytes)?;
        let whole = bytes.len() / size_of::<T>() * size_of::<T>();
        bytemuck::try_cast_slice_mut(&mut bytes[..whole]).map_err(|e| error(format!("scratch memory: {e}")))
    }

    /// A tensor's bytes, whatever their type.
    ///
    /// # Errors
    /// As for [`Access::write`].
    #[allow(clippy::mut_from_ref, reason = "see `write`")]
    pub fn bytes(&self, tensor: Tensor) -> Result<&mut [u8]> {
        let shape = crate::tensor::Shape::new(&[tensor.bytes()]);
        self.write(Tensor { shape, dtype: DType::U8, ..tensor })
    }

    /// Checks a range, notes it and says where it starts.
    fn take(&self, tensor: Tensor, dtype: DType, written: bool) -> Result<NonNull<u8>> {
        if tensor.dtype != dtype {
            return Err(error(format!("a tensor of {:?} where {dtype:?} is needed", tensor.dtype)));
        }
        let Some(block) = self.table.blocks.get(tensor.buffer.0 as usize).and_then(Option::as_ref) else {
            return Err(error(format!("buffer {} does not exist (any more)", tensor.buffer.0)));
        };
        let bytes = tensor.shape.dims().iter().try_fold(dtype.bytes(), |all, &extent| all.checked_mul(extent));
        let end = bytes.and_then(|bytes| tensor.offset.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= block.bytes) else {
            let (buffer, size) = (tensor.buffer.0, block.bytes);
            return Err(error(format!("{} at byte {} leaves buffer {buffer} of {size}", tensor.shape, tensor.offset)));
        };
        if !tensor.offset.is_multiple_of(dtype.bytes()) {
            return Err(error(format!("{dtype:?} at byte {} is not aligned", tensor.offset)));
        }
        let mut taken = self.taken.borrow_mut();
        let range = Range { buffer: tensor.buffer.0, start: tensor.offset, end, written };
        let meets = |other: &Range| {
            other.buffer == range.buffer
                && (other.written || written)
                && other.start < range.end
                && range.start < other.end
        };
        if taken.ranges[..taken.count].iter().any(meets) {
            return Err(error(format!("an op writes {} where it has another tensor", tensor.shape)));
        }
        let count = taken.count;
        if count == MOST_TENSORS {
            return Err(error(format!("an op with more than {MOST_TENSORS} tensors")));
        }
        taken.ranges[count] = range;
        taken.count += 1;
        // SAFETY: offset <= end <= the block's size, so the pointer stays in (or one past the end of) the block.
        Ok(unsafe { block.start.add(tensor.offset) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(buffer: BufferId, offset: usize, elements: usize) -> Tensor {
        Tensor { offset, ..Tensor::at_start(buffer, &[elements], DType::F32) }
    }

    #[test]
    fn hands_out_disjoint_writers_only() {
        let memory = Allocations::default();
        let buffer = memory.alloc(64, "a test").unwrap();
        let a = memory.access().unwrap();
        let x = a.write::<f32>(vector(buffer, 0, 8)).unwrap();
        let y = a.read::<f32>(vector(buffer, 32, 8)).unwrap();
        assert!(a.read::<f32>(vector(buffer, 32, 4)).is_ok(), "two readers may share");
        assert!(a.read::<f32>(vector(buffer, 28, 2)).is_err(), "reads what is written");
        assert!(a.write::<f32>(vector(buffer, 60, 1)).is_err(), "writes what is read");
        x[7] = 1.0;
        assert_eq!(y[0], 0.0);
        assert!(memory.access().is_err(), "an op inside an op");
        assert!(memory.alloc(1, "a test").is_err());
    }

    #[test]
    fn refuses_what_lies_outside_or_askew() {
        let memory = Allocations::default();
        let buffer = memory.alloc(64, "a test").unwrap();
        let gone = memory.alloc(64, "a test").unwrap();
        memory.free(gone);
        memory.free(gone);
        assert_eq!(memory.allocated(), (64, 128));
        let a = memory.access().unwrap();
        assert!(a.read::<f32>(vector(gone, 0, 1)).is_err());
        assert!(a.read::<f32>(vector(BufferId(9), 0, 1)).is_err());
        assert!(a.read::<f32>(vector(buffer, 0, 17)).is_err());
        assert!(a.read::<f32>(vector(buffer, usize::MAX - 3, 1)).is_err());
        assert!(a.read::<f32>(vector(buffer, 0, usize::MAX / 2)).is_err());
        assert!(a.read::<f32>(vector(buffer, 2, 1)).is_err());
        assert!(a.read::<f64>(vector(buffer, 0, 1)).is_err());
        assert!(a.read::<f32>(vector(buffer, 0, 16)).is_ok());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let message = Allocations::default().alloc(usize::MAX, "a test").unwrap_err().to_string();
        assert!(message.starts_with("cpu: no memory for a test"), "{message}");
    }
}
