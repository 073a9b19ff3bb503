//! The emulator: runs the same `.cu` files on this machine, compiled by the system C++ compiler.
//!
//! Blocks run in parallel over the cores; in a block each CUDA thread is a coroutine (`schedule`). With
//! [`Checks::Full`] every memory access is looked up in a shadow (`arena`, `kernels/emulator/checks.h`), and the first
//! error of a launch names kernel, block, thread, address and source line (`report`). The stream is synchronous: every
//! call is done when it returns.

mod abi;
mod arena;
mod compiler;
mod driver;
mod map;
mod report;
mod schedule;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libloading::Library;

use self::arena::Arena;
use self::compiler::Compiler;
pub use self::schedule::Order;
use self::schedule::{Entry, Job, Stop, Worker};
use super::cache::Cache;
use super::host_cache::host_cache_bytes;
use super::pinned::HostMemory;
use super::spec::PackedArgs;
use super::table::KernelTable;
use super::{DevicePtr, Kernel, KernelSpec, Launch, Outline, Properties};
use crate::{Error, Result};

/// Shared memory that a block may have: what the largest supported GPU (sm_90) allows.
const SHARED_LIMIT: u32 = 227 * 1024;

/// How much the emulator watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// Every memory access: for tests. About ten times slower.
    #[default]
    Full,
    /// Barriers, arguments and what lies right around allocations: for training.
    Fast,
}

/// How an emulator is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much it watches.
    pub checks: Checks,
    /// Where libraries are kept.
    pub cache: Cache,
}

impl Default for Options {
    fn default() -> Self {
        Options { checks: Checks::Full, cache: Cache::user() }
    }
}

/// A kernel's library.
struct Loaded {
    entry: Entry,
    sizes: Vec<usize>,
    /// Keeps `entry` valid. Never unloaded while a launch may use it.
    _library: Library,
    temporary: Option<PathBuf>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What a launch or copy in the stream is.
enum Operation {
    Launch(Kernel, Launch, PackedArgs),
    Zero(DevicePtr, usize),
    Copy(DevicePtr, DevicePtr, usize),
    Upload(DevicePtr, Arc<HostMemory>, usize, usize),
    Download(Arc<HostMemory>, usize, DevicePtr, usize),
    /// Nothing that a GPU would do: what the launches that follow may touch.
    Outline(DevicePtr, Option<(Arc<Outline>, usize)>),
}

/// The stream's state. Holding it excludes every other call.
struct Stream {
    arena: Arena,
    /// 1..=255, counts launches for the shadow of writers.
    generation: u32,
    order: Order,
    /// While a graph is captured: its operations so far.
    capturing: Option<Vec<Operation>>,
}

struct Inner {
    properties: Properties,
    checks: Checks,
    cache: Cache,
    stream: Mutex<Stream>,
    kernels: KernelTable<Loaded>,
    workers: Mutex<Vec<Worker>>,
    dry: AtomicBool,
}

/// A [`Driver`](super::Driver) on the host's processor.
#[derive(Clone)]
pub struct Emulator {
    inner: Arc<Inner>,
}

struct EmulatorGraph {
    inner: Arc<Inner>,
    operations: Vec<Operation>,
}

impl Emulator {
    /// An emulator with memory of its own.
    ///
    /// # Errors
    /// Without a C++ compiler, or where no address space is left.
    pub fn new(options: Options) -> Result<Emulator> {
        let compiler = Compiler::find()?;
        let arena = Arena::new(options.checks == Checks::Full)?;
        let properties = Properties {
            device: "emulator".to_string(),
            product: format!("emulator, {}", compiler.version()),
            arch: "emulator".to_string(),
            multiprocessors: rayon::current_num_threads() as u32,
            shared_bytes: SHARED_LIMIT,
            memory_bytes: arena.memory().total,
            cache_bytes: host_cache_bytes(),
        };
        let stream = Stream { arena, generation: 0, order: Order::Ascending, capturing: None };
        Ok(Emulator {
            inner: Arc::new(Inner {
                properties,
                checks: options.checks,
                cache: options.cache,
                stream: Mutex::new(stream),
                kernels: KernelTable::default(),
                workers: Mutex::new(Vec::new()),
                dry: AtomicBool::new(false),
            }),
        })
    }

    /// Sets the order in which threads and blocks run from now on. Results must not depend on it.
    pub fn set_order(&self, order: Order) {
        self.inner.stream().order = order;
    }

    /// Sizes in bytes of the parameters of a kernel, which is loaded if it was not yet.
    ///
    /// # Errors
    /// When the kernel is another driver's, or does not compile.
    pub fn parameter_sizes(&self, kernel: Kernel) -> Result<Vec<usize>> {
        let slot = self.inner.slot(kernel)?;
        Ok(slot.loaded(|spec| self.inner.load(spec))?.sizes.clone())
    }

    /// Runs `body` in `orders` different thread orders and compares what it returns, byte for byte.
    ///
    /// # Errors
    /// Names the first order whose result differs from the ascending one's, and the byte; or what `body` returns.
    pub fn check_orders(&self, orders: u64, body: &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let mut run = |n: u64| {
            self.set_order(Order::nth(n));
            let result = body();
            self.set_order(Order::Ascending);
            result
        };
        let expected = run(0)?;
        for n in 1..orders {
            let got = run(n)?;
            let difference = expected.iter().zip(&got).position(|(a, b)| a != b);
            if difference.is_some() || expected.len() != got.len() {
                let at = difference.unwrap_or(expected.len().min(got.len()));
                let what = format!(
                    "results depend on the order in which threads run: with {:?} byte {at} of {} differs from the \
                     ascending order's",
                    Order::nth(n),
                    expected.len()
                );
                return Err(Error::device("emulator", what));
            }
        }
        Ok(expected)
    }
}

impl Stream {
    /// Refuses what a graph cannot hold; a GPU would refuse it too.
    fn not_capturing(&self, action: &str) -> Result<()> {
        match self.capturing {
            Some(_) => Err(Error::device("emulator", format!("{action} while a graph is captured"))),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, spec: &KernelSpec) -> Result<Loaded> {
        let compiled = Compiler::find()?.compile(spec, self.checks == Checks::Full, &self.cache)?;
        let failed = |error: libloading::Error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Error::device("emulator", format!("cannot load {}: {cause}", compiled.path.display()))
        };
        // SAFETY: the file was made by the compiler from this program's sources, or comes whole (by checksum) from the
        // cache of such files; its only initialiser is the empty `__tsan_init`.
        let library = unsafe { Library::new(&compiled.path) }.map_err(failed)?;
        // SAFETY: entry.h exports these three with these signatures.
        let (entry, arguments, layout) = unsafe {
            (
                *library.get::<Entry>(b"glmc_entry").map_err(failed)?,
                *library.get::<unsafe extern "C" fn(*mut u32, u32) -> u32>(b"glmc_arguments").map_err(failed)?,
                *library.get::<unsafe extern "C" fn(*mut u64)>(b"glmc_layout").map_err(failed)?,
            )
        };
        let mut found = [0u64; 6];
        // SAFETY: glmc_layout writes six words.
        unsafe { layout(found.as_mut_ptr()) };
        if found != abi::layout() {
            let what = format!("kernel records differ between device.h {found:?} and abi.rs {:?}", abi::layout());
            return Err(Error::device("emulator", what));
        }
        let mut sizes = [0u32; 128];
        // SAFETY: glmc_arguments writes at most as many words as it is told there are.
        let count = unsafe { arguments(sizes.as_mut_ptr(), sizes.len() as u32) } as usize;
        let sizes = sizes.iter().take(count).map(|&size| size as usize).collect();
        let temporary = compiled.temporary.then_some(compiled.path);
        Ok(Loaded { entry, sizes, _library: library, temporary })
    }

    /// Does `operation`, or captures it.
    fn submit(&self, operation: Operation) -> Result<()> {
        if self.dry.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut stream = self.stream();
        match &mut stream.capturing {
            Some(list) => {
                list.push(operation);
                Ok(())
            }
            None => self.perform(&mut stream, &operation),
        }
    }

    fn perform(&self, stream: &mut Stream, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Outline(ptr, outline) => stream.arena.outline(*ptr, outline.clone()),
            Operation::Launch(kernel, launch, args) => self.execute(stream, *kernel, launch, args),
            Operation::Zero(ptr, bytes) => {
                let target = stream.arena.check(*ptr, *bytes, "zero")?;
                // SAFETY: the range lies in a live allocation (checked); the stream is held, so no kernel runs.
                unsafe { target.write_bytes(0, *bytes) };
                Ok(())
            }
            Operation::Copy(to, from, bytes) => {
                let source = stream.arena.check(*from, *bytes, "copy from")?;
                let target = stream.arena.check(*to, *bytes, "copy to")?;
                if to.abs_diff(*from) < *bytes as u64 {
                    let what = format!("copy of {bytes} bytes from {from:#x} to {to:#x}: the ranges overlap");
                    return Err(Error::device("emulator", what));
                }
                // SAFETY: both ranges lie in live allocations and do not overlap (checked); no kernel runs.
                unsafe { target.copy_from_nonoverlapping(source, *bytes) };
                Ok(())
            }
            Operation::Upload(to, from, offset, bytes) => {
                let target = stream.arena.check(*to, *bytes, "upload")?;
                // SAFETY: `Pinned::range` checked the host's range, which the Arc keeps; the target is a live allocation.
                unsafe { target.copy_from_nonoverlapping(from.start.add(*offset), *bytes) };
                Ok(())
            }
            Operation::Download(to, offset, from, bytes) => {
                let source = stream.arena.check(*from, *bytes, "download")?;
                // SAFETY: as for the upload, the other way round.
                unsafe { to.start.add(*offset).copy_from_nonoverlapping(source, *bytes) };
                Ok(())
            }
        }
    }

    fn execute(&self, stream: &mut Stream, kernel: Kernel, launch: &Launch, args: &PackedArgs) -> Result<()> {
        let slot = self.slot(kernel)?;
        let loaded = slot.loaded(|spec| self.load(spec))?;
        let blocks = launch.blocks();
        if blocks == 0 {
            return Ok(());
        }
        stream.generation += 1;
        if stream.generation > 255 {
            stream.arena.clear_owners();
            stream.generation = 1;
        }
        let pointers = args.pointers();
        // The shadow of writers has 22 bits for the block.
        let watch = self.checks == Checks::Full && blocks < 1 << 22;
        let job = Job {
            entry: loaded.entry,
            args: &pointers,
            launch: *launch,
            order: stream.order,
            owner_tag: if watch { stream.generation << 24 } else { 0 },
            arena: stream.arena.base(),
            arena_bytes: stream.arena.bytes(),
            granules: stream.arena.granules(),
            owners: stream.arena.owners(),
        };
        match self.run_blocks(&job, blocks)? {
            Some(stop) => Err(report::explain(&slot.spec.label(), launch, &stop, &stream.arena)),
            None => Ok(()),
        }
    }

    /// Runs all blocks over the cores; returns the failure of the lowest block that failed.
    fn run_blocks(&self, job: &Job, blocks: u64) -> Result<Option<Stop>> {
        let counter = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let first: Mutex<Result<Option<Stop>>> = Mutex::new(Ok(None));
        let work = || {
            let mut next = || {
                if failed.load(Ordering::Relaxed) {
                    return None;
                }
                let n = counter.fetch_add(1, Ordering::Relaxed);
                let block = if job.order == Order::Ascending { n } else { blocks.wrapping_sub(1).wrapping_sub(n) };
                (n < blocks).then_some(block)
            };
            let worker = self.workers().pop();
            let outcome = worker.map_or_else(|| Worker::new(SHARED_LIMIT as usize, self.checks == Checks::Full), Ok);
            let outcome = outcome.and_then(|mut worker| {
                let stop = worker.run(job, &mut next);
                self.workers().push(worker);
                stop
            });
            if !matches!(outcome, Ok(None)) {
                failed.store(true, Ordering::Relaxed);
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                let earlier = match (&*first, &outcome) {
                    (Ok(Some(known)), Ok(Some(new))) => new.block < known.block,
                    (Ok(None), _) => true,
                    _ => false,
                };
                if earlier {
                    *first = outcome;
                }
            }
        };
        let hands = (rayon::current_num_threads() as u64).min(blocks);
        if hands <= 1 {
            work();
        } else {
            rayon::scope(|scope| {
                for _ in 1..hands {
                    scope.spawn(|_| work());
                }
                work();
            });
        }
        first.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, kernel: Kernel) -> Result<Arc<super::table::Slot<Loaded>>> {
        self.kernels.slot(kernel).ok_or_else(|| Error::device("emulator", "a kernel handle of another driver"))
    }
}
