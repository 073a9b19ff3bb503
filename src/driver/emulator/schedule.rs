//! Runs the blocks of a launch: in a block, one coroutine per CUDA thread, resumed warp by warp until all of them wait at a
//! barrier or are done.

use std::ffi::{CStr, c_char, c_void};
use std::num::NonZeroUsize;

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, Yielder};

use super::abi::{self, Block, Cell, Failure, Lane, state};
use super::map::{Map, page_bytes};
use crate::driver::Launch;
use crate::{Error, Result};

/// Calls the kernel for the running coroutine; the argument is one pointer per kernel argument.
pub type Entry = unsafe extern "C" fn(*const *const c_void);

/// In which order the threads between two barriers, and the blocks, run. A kernel's results must not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By thread and block number.
    #[default]
    Ascending,
    /// From the last to the first.
    Descending,
    /// Shuffled by a seed, differently at every step.
    Seeded(u64),
}

impl Order {
    /// The orders that a check tries: ascending, descending, then seeds.
    pub fn nth(n: u64) -> Order {
        match n {
            0 => Order::Ascending,
            1 => Order::Descending,
            seed => Order::Seeded(seed),
        }
    }
}

/// A launch as its workers see it.
pub struct Job<'a> {
    pub entry: Entry,
    pub args: &'a [*const c_void],
    pub launch: Launch,
    pub order: Order,
    /// Owner tag of block 0, as `device.h` stores it; 0 turns the check off.
    pub owner_tag: u32,
    pub arena: *mut u8,
    pub arena_bytes: usize,
    pub granules: *mut u16,
    pub owners: *mut u32,
}

// SAFETY: the pointers name the arena and its shadows, which the emulator keeps mapped during the launch, and argument
// values, which the caller of the launch keeps; workers only hand them to kernels.
unsafe impl Sync for Job<'_> {}

/// Why a block stopped: its number, and the thread's report or the scheduler's.
pub struct Stop {
    pub block: u64,
    pub cause: Cause,
}

// SAFETY: the one pointer in it is a string literal of a kernel's library, which stays loaded; nothing writes through it.
unsafe impl Send for Stop {}

/// What stopped a block.
pub enum Cause {
    /// A check in the kernel's library.
    Failure(Failure),
    /// Threads wait for others that will never come: the first thread's number, and what happened.
    Stuck(u32, String),
}

/// A stack in a worker's region.
struct Slot {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: `base` and `limit` bound SLOT_BYTES of the worker's region that no other stack uses; the lowest page is a guard
// (`Worker::prepare`), and what is left is far more than MIN_STACK_SIZE. Both are multiples of 64.
unsafe impl Stack for Slot {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.limit
    }
}

type Thread = Coroutine<(), (), (), Slot>;

/// What one core works with: stacks, shared memory and its shadow. Reused from block to block and launch to launch.
pub struct Worker {
    region: Map,
    /// Start of the aligned part of `region`.
    start: usize,
    first_slot: usize,
    guarded: usize,
    shared: Map,
    cells: Map,
    epoch: u32,
    checked: bool,
}

/// Shared memory of a block starts here in its map: strays below it are still recognised.
const SHARED_MARGIN: usize = 64 * 1024;

impl Worker {
    /// A worker whose blocks may have `shared_limit` bytes of shared memory.
    pub fn new(shared_limit: usize, checked: bool) -> Result<Worker> {
        let failed = |error| Error::device("emulator", format!("cannot map stacks: {error}"));
        let region = Map::reserve(2 * abi::REGION_BYTES).map_err(failed)?;
        let start = (region.start() as usize).next_multiple_of(abi::REGION_BYTES);
        let header = abi::LANES_OFFSET + abi::MAX_THREADS * size_of::<Lane>();
        assert!(size_of::<Block>() <= abi::LANES_OFFSET);
        let shared = Map::reserve(shared_limit + 2 * SHARED_MARGIN).map_err(failed)?;
        let cells = Map::reserve(shared.bytes() / 2 * size_of::<Cell>()).map_err(failed)?;
        let first_slot = header.div_ceil(abi::SLOT_BYTES);
        Ok(Worker { region, start, first_slot, guarded: 0, shared, cells, epoch: 1, checked })
    }

    /// Runs the blocks that `next` hands out until it has none, one fails, or `next` says stop.
    pub fn run(&mut self, job: &Job, next: &mut dyn FnMut() -> Option<u64>) -> Result<Option<Stop>> {
        let threads = job.launch.threads() as usize;
        self.prepare(threads)?;
        let mut coroutines = Vec::with_capacity(threads);
        for thread in 0..threads {
            coroutines.push(self.coroutine(thread, job));
        }
        let mut stop = None;
        while let Some(linear) = next() {
            self.set_up(job, linear);
            if let Err(cause) = self.run_block(job, linear, &mut coroutines) {
                stop = Some(Stop { block: linear, cause });
                break;
            }
        }
        for coroutine in &mut coroutines {
            // SAFETY: the frames on the stack are the kernel's and those of `run_lane`; none owns anything that needs
            // dropping, and none is referred to from elsewhere, so that the stack can be forgotten.
            unsafe { coroutine.force_reset() };
        }
        Ok(stop)
    }

    fn block(&self) -> *mut Block {
        self.start as *mut Block
    }

    fn lane(&self, thread: usize) -> *mut Lane {
        debug_assert!(thread < abi::MAX_THREADS);
        let lanes = (self.start + abi::LANES_OFFSET) as *mut Lane;
        // SAFETY: the region's header holds MAX_THREADS records from there on.
        unsafe { lanes.add(thread) }
    }

    /// Puts guard pages below the stacks of the first `threads` threads.
    fn prepare(&mut self, threads: usize) -> Result<()> {
        let offset = self.start - self.region.start() as usize;
        while self.guarded < threads {
            let slot = offset + (self.first_slot + self.guarded) * abi::SLOT_BYTES;
            self.region.guard(slot, page_bytes()).map_err(|error| {
                let what = format!("cannot guard the stack of thread {}: {error} (vm.max_map_count)", self.guarded);
                Error::device("emulator", what)
            })?;
            self.guarded += 1;
        }
        Ok(())
    }

    fn coroutine(&self, thread: usize, job: &Job) -> Thread {
        let bottom = self.start + (self.first_slot + thread) * abi::SLOT_BYTES;
        // Tops are shifted against each other: the hot lines of equally aligned stacks would share few cache sets.
        let top = bottom + abi::SLOT_BYTES - (thread % 61) * 128;
        let address = |a| NonZeroUsize::new(a).expect("the region does not start at 0");
        let slot = Slot { base: address(top), limit: address(bottom) };
        let (lane, entry, args) = (self.lane(thread), job.entry, job.args.as_ptr());
        Coroutine::with_stack(slot, move |yielder, ()| {
            // SAFETY: the lane's record lies in this worker's region, which outlives the coroutine; this thread is the
            // only one that touches it while the coroutine runs. `args` is kept by the launch.
            unsafe { run_lane(yielder, lane, entry, args) }
        })
    }

    /// Fills in the records of block `linear`.
    fn set_up(&mut self, job: &Job, linear: u64) {
        let [gx, gy, _] = job.launch.grid.map(u64::from);
        let index = [(linear % gx) as u32, (linear / gx % gy) as u32, (linear / gx / gy) as u32];
        let threads = job.launch.threads() as u32;
        if self.epoch > u32::MAX / 2 {
            self.cells.discard(0, self.cells.bytes());
            self.epoch = 1;
        }
        self.epoch += 1;
        let shared_bytes = job.launch.shared_bytes as usize;
        if self.checked {
            // SAFETY: `Launch::check` holds shared_bytes to the limit that the map was made for; no kernel runs on it now.
            unsafe { self.shared.start().add(SHARED_MARGIN).write_bytes(0xff, shared_bytes) };
        }
        let warp = |w: u32| {
            let lanes = threads.saturating_sub(w * 32).min(32);
            let present = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
            abi::Warp { present, runnable: present, waiting: 0, syncs: 0 }
        };
        // SAFETY: an all-zero failure record is a valid one: integers and a null pointer that is not followed.
        let failure = unsafe { std::mem::zeroed() };
        let block = Block {
            suspend,
            // SAFETY: the margin lies inside the map.
            shared: unsafe { self.shared.start().add(SHARED_MARGIN) },
            shared_bytes: shared_bytes as u64,
            shared_window: (self.shared.bytes() - SHARED_MARGIN) as u64,
            cells: self.cells.start().cast(),
            arena: job.arena,
            arena_bytes: job.arena_bytes as u64,
            granules: job.granules,
            owners: job.owners,
            stack_region: self.start as u64,
            stack_bytes: abi::REGION_BYTES as u64,
            linear,
            index,
            dim: job.launch.block,
            grid: job.launch.grid,
            first_slot: self.first_slot as u32,
            epoch: self.epoch,
            first_epoch: self.epoch,
            owner_tag: if job.owner_tag == 0 { 0 } else { job.owner_tag | (linear as u32) << 2 },
            threads,
            failure,
            warps: std::array::from_fn(|w| warp(w as u32)),
        };
        // SAFETY: the region's first LANES_OFFSET bytes hold the block's record (asserted in `new`); no coroutine of this
        // worker runs now.
        unsafe { self.block().write(block) };
        let [dx, dy, _] = job.launch.block;
        for thread in 0..threads {
            let lane = self.lane(thread as usize);
            // SAFETY: the lane's record lies in the region's header, the warp's in the block's record written above. The
            // table of copies is plain memory that starts as zeros and is only read up to `copies`.
            unsafe {
                (*lane).block = self.block();
                (*lane).warp = &raw mut (*self.block()).warps[thread as usize / 32];
                (*lane).state = state::READY;
                (*lane).lane = thread % 32;
                (*lane).linear = thread;
                (*lane).thread = [thread % dx, thread / dx % dy, thread / dx / dy];
                (*lane).fenced = 0;
                (*lane).group = 0;
                (*lane).copies = 0;
            }
        }
    }

    /// Runs one block to its end.
    fn run_block(&mut self, job: &Job, linear: u64, coroutines: &mut [Thread]) -> Result<(), Cause> {
        let block = self.block();
        let mut random = match job.order {
            Order::Seeded(seed) => Random::new(seed, linear),
            _ => Random::new(0, 0),
        };
        loop {
            match job.order {
                Order::Seeded(_) => self.round_shuffled(coroutines, &mut random)?,
                order => self.round(coroutines, order == Order::Descending)?,
            }
            if self.at_barrier(coroutines.len())? {
                return Ok(());
            }
            // SAFETY: no coroutine runs; the records are this worker's alone.
            unsafe {
                self.epoch += 1;
                (*block).epoch = self.epoch;
                for w in 0..coroutines.len().div_ceil(32) {
                    let warp = &raw mut (*block).warps[w];
                    (*warp).runnable = (*warp).present;
                }
            }
        }
    }

    /// Runs every warp until its lanes wait at a barrier, are done or are stuck.
    fn round(&self, coroutines: &mut [Thread], descending: bool) -> Result<(), Cause> {
        let warps = coroutines.len().div_ceil(32);
        for n in 0..warps {
            let w = if descending { warps - 1 - n } else { n };
            loop {
                // SAFETY: no coroutine runs now; the warp's record lies in this worker's block record.
                let runnable = unsafe { (*self.block()).warps[w].runnable };
                if runnable == 0 {
                    break;
                }
                let lane = if descending { 31 - runnable.leading_zeros() } else { runnable.trailing_zeros() };
                self.resume(coroutines, w, lane)?;
            }
        }
        Ok(())
    }

    /// The same in random order, one lane at a time.
    fn round_shuffled(&self, coroutines: &mut [Thread], random: &mut Random) -> Result<(), Cause> {
        let mut ready: Vec<usize> = (0..coroutines.len().div_ceil(32)).collect();
        while !ready.is_empty() {
            let pick = random.below(ready.len() as u32) as usize;
            let w = ready[pick];
            // SAFETY: no coroutine runs now; the warp's record lies in this worker's block record.
            let runnable = unsafe { (*self.block()).warps[w].runnable };
            if runnable == 0 {
                ready.swap_remove(pick);
                continue;
            }
            let mut rest = runnable;
            for _ in 0..random.below(runnable.count_ones()) {
                rest &= rest - 1;
            }
            self.resume(coroutines, w, rest.trailing_zeros())?;
        }
        Ok(())
    }

    fn resume(&self, coroutines: &mut [Thread], warp: usize, lane: u32) -> Result<(), Cause> {
        let thread = warp * 32 + lane as usize;
        // SAFETY: no coroutine runs now; both records are in this worker's region.
        unsafe { (*self.block()).warps[warp].runnable &= !(1 << lane) };
        coroutines[thread].resume(());
        // SAFETY: the coroutine is suspended again.
        unsafe {
            if (*self.lane(thread)).state == state::FAILED {
                return Err(Cause::Failure((*self.block()).failure));
            }
        }
        Ok(())
    }

    /// `true` when all threads are done, `false` when all wait at the same barrier; anything else is an error.
    fn at_barrier(&self, threads: usize) -> Result<bool, Cause> {
        // SAFETY: no coroutine runs now, and nothing else refers to the records; they were written by `set_up`.
        let lane = |thread: usize| unsafe { &*self.lane(thread) };
        let first = lane(0);
        if (1..threads)
            .all(|t| lane(t).state == first.state && (first.state == state::DONE || same_place(lane(t), first)))
            && first.state != state::WARP
        {
            return Ok(first.state == state::DONE);
        }
        let place = |l: &Lane| match l.state {
            state::BARRIER => format!("waits at __syncthreads at {}", place_of(l)),
            state::WARP => format!("waits in a warp-wide function at {}", place_of(l)),
            _ => "has returned".to_string(),
        };
        if let Some(waiting) = (0..threads).map(lane).find(|l| l.state == state::WARP) {
            // SAFETY: as above.
            let missing = waiting.mask & !unsafe { (*waiting.warp).waiting };
            let other = lane((waiting.linear / 32 * 32 + missing.trailing_zeros() % 32) as usize);
            let story = format!(
                "warp-wide function at {} not reached by all lanes of mask {:#010x}: thread {} {}",
                place_of(waiting),
                waiting.mask,
                other.linear,
                place(other)
            );
            return Err(Cause::Stuck(waiting.linear, story));
        }
        let waiting = (0..threads).map(lane).find(|l| l.state == state::BARRIER).unwrap_or(first);
        let other =
            (0..threads).map(lane).find(|l| l.state != state::BARRIER || !same_place(l, waiting)).unwrap_or(first);
        let story = format!(
            "barrier at {} not reached by all threads of the block: thread {} {}",
            place_of(waiting),
            other.linear,
            place(other)
        );
        Err(Cause::Stuck(waiting.linear, story))
    }
}

/// `file:line` where a lane waits.
fn place_of(lane: &Lane) -> String {
    format!("{}:{}", text(lane.file), lane.line)
}

/// Whether two lanes wait in the same source line.
fn same_place(a: &Lane, b: &Lane) -> bool {
    a.line == b.line && (a.file == b.file || text(a.file) == text(b.file))
}

/// A file name that a kernel's library left in a record.
pub fn text(file: *const c_char) -> String {
    if file.is_null() {
        return String::from("?");
    }
    // SAFETY: the pointer is a string literal of the kernel's library, which is loaded while it is used.
    unsafe { CStr::from_ptr(file) }.to_string_lossy().into_owned()
}

/// A coroutine's whole life: a thread of one block after another.
///
/// # Safety
/// `lane` must be a record in the region that holds this stack, `args` the arguments that `entry` takes.
unsafe fn run_lane(yielder: &Yielder<(), ()>, lane: *mut Lane, entry: Entry, args: *const *const c_void) {
    loop {
        // SAFETY: the caller's promise; the scheduler resumes a lane only while its block's records are filled in.
        unsafe {
            (*lane).yielder = (&raw const *yielder).cast();
            entry(args);
            (*lane).state = state::DONE;
        }
        yielder.suspend(());
    }
}

/// Called by a kernel's library where a thread must wait.
unsafe extern "C" fn suspend(lane: *mut Lane) {
    // SAFETY: the library passes the record of the running coroutine, whose yielder `run_lane` stored on this stack.
    let yielder = unsafe { &*(*lane).yielder.cast::<Yielder<(), ()>>() };
    yielder.suspend(());
}

/// SplitMix64: enough to shuffle threads.
struct Random(u64);

impl Random {
    fn new(seed: u64, block: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u64::from((z ^ (z >> 31)) as u32) * u64::from(bound)) >> 32) as u32
    }
}
