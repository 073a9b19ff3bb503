//! The records that a kernel's library shares with the scheduler: mirrors of `kernels/emulator/device.h`. Their sizes are
//! compared when a library is loaded.

use std::ffi::{c_char, c_void};

/// Threads of a block at most.
pub const MAX_THREADS: usize = 1024;
/// Every stack of a worker lies in one region that is aligned to its size, so that a stack pointer names its region.
pub const REGION_BYTES: usize = 1 << 27;
/// Where the lanes' records start in the region; the block's record comes first.
pub const LANES_OFFSET: usize = 4096;
/// A stack with its guard page.
pub const SLOT_BYTES: usize = 1 << 16;
/// Asynchronous copies that a thread may have in flight.
pub const MAX_COPIES: usize = 64;

/// What a lane waits for, or why it stopped (`GlmcState`).
pub mod state {
    pub const READY: u32 = 0;
    pub const BARRIER: u32 = 1;
    pub const WARP: u32 = 2;
    pub const DONE: u32 = 3;
    pub const FAILED: u32 = 4;
}

/// Why a lane failed (`GlmcFailureKind`).
pub mod failure {
    pub const GLOBAL_BOUNDS: u32 = 1;
    pub const SHARED_BOUNDS: u32 = 2;
    pub const UNKNOWN_ADDRESS: u32 = 3;
    pub const MISALIGNED: u32 = 4;
    pub const SHARED_UNINITIALISED: u32 = 5;
    pub const SHARED_RACE: u32 = 6;
    pub const COPY_IN_FLIGHT: u32 = 7;
    pub const BLOCKS_WRITE: u32 = 8;
    pub const BLOCKS_READ: u32 = 9;
    pub const STATIC_WRITE: u32 = 10;
    pub const MASK: u32 = 11;
    pub const DIVERGED: u32 = 12;
    pub const COPIES: u32 = 13;
    pub const TRAP: u32 = 14;
    /// `other` when several threads read.
    pub const SEVERAL: u32 = 0xffff;
}

#[repr(C)]
pub struct Copy {
    pub target: *mut c_void,
    pub source: *const c_void,
    pub bytes: u32,
    pub group: u32,
}

#[repr(C)]
pub struct Warp {
    pub present: u32,
    pub runnable: u32,
    pub waiting: u32,
    pub syncs: u32,
}

#[repr(C)]
pub struct Lane {
    pub block: *mut Block,
    pub warp: *mut Warp,
    pub yielder: *const c_void,
    pub file: *const c_char,
    pub line: u32,
    pub state: u32,
    pub op: u32,
    pub mask: u32,
    pub lane: u32,
    pub linear: u32,
    pub thread: [u32; 3],
    pub fenced: u32,
    pub input: [u32; 12],
    pub output: [u32; 4],
    pub group: u32,
    pub copies: u32,
    pub copy: [Copy; MAX_COPIES],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cell {
    pub write_epoch: u32,
    pub read_epoch: u32,
    pub writer: u16,
    pub writer_syncs: u16,
    pub reader: u16,
    pub reader_syncs: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Failure {
    pub kind: u32,
    pub size: u32,
    pub address: u64,
    pub pc: u64,
    pub file: *const c_char,
    pub line: u32,
    pub thread: u32,
    pub other: u32,
    pub is_write: u32,
}

#[repr(C)]
pub struct Block {
    pub suspend: unsafe extern "C" fn(*mut Lane),
    pub shared: *mut u8,
    pub shared_bytes: u64,
    pub shared_window: u64,
    pub cells: *mut Cell,
    pub arena: *mut u8,
    pub arena_bytes: u64,
    pub granules: *mut u16,
    pub owners: *mut u32,
    pub stack_region: u64,
    pub stack_bytes: u64,
    pub linear: u64,
    pub index: [u32; 3],
    pub dim: [u32; 3],
    pub grid: [u32; 3],
    pub first_slot: u32,
    pub epoch: u32,
    pub first_epoch: u32,
    pub owner_tag: u32,
    pub threads: u32,
    pub failure: Failure,
    pub warps: [Warp; MAX_THREADS / 32],
}

/// What `glmc_layout` must report.
pub fn layout() -> [u64; 6] {
    [
        size_of::<Block>() as u64,
        size_of::<Lane>() as u64,
        size_of::<Warp>() as u64,
        size_of::<Cell>() as u64,
        LANES_OFFSET as u64,
        REGION_BYTES as u64,
    ]
}
