//! The emulator's device memory: one reserved range of addresses with red zones around every allocation, and a shadow
//! that says for each 256 bytes how many of them are allocated.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::map::Map;
use crate::driver::{DevicePtr, MemoryInfo, Outline};
use crate::{Error, Result};

/// Allocations start at multiples of this, as CUDA's do.
pub const GRANULE: usize = 256;
/// Bytes on both sides of an allocation, and behind each part of an outlined one, that belong to none.
pub const RED_ZONE: usize = 4096;
/// Bytes right before and behind an allocation that hold [`CANARY`], so that strays show even without instrumentation.
const CANARY_BYTES: usize = 64;
const CANARY: u8 = 0xc5;

struct Allocation {
    bytes: usize,
    what: String,
    /// What kernels may touch of it, and when it is; `None` for all.
    outline: Option<(Arc<Outline>, usize)>,
}

/// Device memory of the emulator.
pub struct Arena {
    memory: Map,
    /// Valid bytes per granule.
    granules: Map,
    /// Who wrote each two bytes: launch and block.
    owners: Map,
    live: BTreeMap<usize, Allocation>,
    /// Free ranges below `end`: offset -> bytes, red zones included.
    holes: BTreeMap<usize, usize>,
    end: usize,
    used: u64,
    peak: u64,
    limit: u64,
    poison: bool,
}

impl Arena {
    /// Reserves addresses; memory is only taken where it is touched. With `poison` new allocations hold 0xff bytes (NaN).
    pub fn new(poison: bool) -> Result<Arena> {
        let limit = physical_memory();
        // Twice the machine's memory leaves room for fragmentation; less where the system limits address space.
        let mut bytes = (2 * limit as usize).next_power_of_two().clamp(1 << 32, 1 << 40);
        loop {
            let maps = Map::reserve(bytes).and_then(|memory| {
                Ok((memory, Map::reserve(bytes / GRANULE * 2)?, Map::reserve(if poison { bytes * 2 } else { 4096 })?))
            });
            match maps {
                Ok((memory, granules, owners)) => {
                    let (live, holes) = (BTreeMap::new(), BTreeMap::new());
                    return Ok(Arena {
                        memory,
                        granules,
                        owners,
                        live,
                        holes,
                        end: 0,
                        used: 0,
                        peak: 0,
                        limit,
                        poison,
                    });
                }
                Err(error) if bytes <= 1 << 28 => {
                    let what = format!("cannot reserve {bytes} bytes of address space: {error}");
                    return Err(Error::device("emulator", what));
                }
                Err(_) => bytes /= 2,
            }
        }
    }

    /// First address.
    pub fn base(&self) -> *mut u8 {
        self.memory.start()
    }

    /// Reserved bytes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The shadow of valid bytes.
    pub fn granules(&self) -> *mut u16 {
        self.granules.start().cast()
    }

    /// The shadow of writers.
    pub fn owners(&self) -> *mut u32 {
        self.owners.start().cast()
    }

    /// Forgets every writer.
    pub fn clear_owners(&self) {
        self.owners.discard(0, self.owners.bytes());
    }

    /// Allocates `bytes` for `what`.
    pub fn alloc(&mut self, bytes: usize, what: &str) -> Result<DevicePtr> {
        let room = bytes.next_multiple_of(GRANULE).max(GRANULE) + 2 * RED_ZONE;
        let refuse = |used: u64| {
            let what = format!(
                "out of memory: {bytes} bytes for {what} on top of {used}, the machine has {}; use a smaller batch",
                self.limit
            );
            Err(Error::device("emulator", what))
        };
        if self.used + bytes as u64 > self.limit {
            return refuse(self.used);
        }
        let hole = self.holes.iter().find(|(_, size)| **size >= room).map(|(&at, &size)| (at, size));
        let start = match hole {
            Some((at, size)) => {
                self.holes.remove(&at);
                if size > room {
                    self.holes.insert(at + room, size - room);
                }
                at
            }
            None if self.end + room > self.memory.bytes() => return refuse(self.used),
            None => {
                self.end += room;
                self.end - room
            }
        };
        let offset = start + RED_ZONE;
        self.live.insert(offset, Allocation { bytes, what: what.to_string(), outline: None });
        self.mark(offset, bytes, true);
        self.fill(offset - CANARY_BYTES, CANARY_BYTES, CANARY);
        self.fill(offset + bytes, CANARY_BYTES, CANARY);
        if self.poison {
            self.fill(offset, bytes, 0xff);
        }
        self.used += bytes as u64;
        self.peak = self.peak.max(self.used);
        Ok(self.base() as u64 + offset as u64)
    }

    /// Frees what `alloc` returned; says so when its red zones were written to.
    pub fn free(&mut self, ptr: DevicePtr) -> Result<()> {
        let offset = (ptr as usize).wrapping_sub(self.base() as usize);
        let Some(allocation) = self.live.get(&offset) else {
            return Err(Error::device("emulator", format!("free of {ptr:#x}, which is no allocation")));
        };
        let bytes = allocation.bytes;
        let intact = self.check_canaries_of(offset, allocation);
        self.live.remove(&offset);
        self.mark(offset, bytes, false);
        self.used -= bytes as u64;
        let room = bytes.next_multiple_of(GRANULE).max(GRANULE) + 2 * RED_ZONE;
        let start = offset - RED_ZONE;
        self.memory.discard(start, room);
        self.insert_hole(start, room);
        intact
    }

    /// Lets kernels touch only what is alive in `outline` of the allocation at `ptr`, or all of it.
    pub fn outline(&mut self, ptr: DevicePtr, outline: Option<(Arc<Outline>, usize)>) -> Result<()> {
        let start = (ptr as usize).wrapping_sub(self.base() as usize);
        let Some(allocation) = self.live.get_mut(&start) else {
            return Err(Error::device("emulator", format!("outline of {ptr:#x}, which is no allocation")));
        };
        let bytes = allocation.bytes;
        allocation.outline = outline.clone();
        self.mark(start, bytes, outline.is_none());
        let Some((outline, time)) = outline else { return Ok(()) };
        for part in outline.alive(time) {
            if !part.offset.is_multiple_of(GRANULE) || part.offset + part.bytes > bytes {
                let what = format!("`{}` lies at byte {} of an allocation of {bytes}", part.name, part.offset);
                return Err(Error::device("emulator", what));
            }
            self.mark(start + part.offset, part.bytes, true);
        }
        Ok(())
    }

    fn insert_hole(&mut self, mut start: usize, mut room: usize) {
        if let Some((&at, &size)) = self.holes.range(..start).next_back()
            && at + size == start
        {
            self.holes.remove(&at);
            (start, room) = (at, size + room);
        }
        if let Some(size) = self.holes.remove(&(start + room)) {
            room += size;
        }
        if start + room == self.end {
            self.end = start;
        } else {
            self.holes.insert(start, room);
        }
    }

    /// Checks that a host access stays inside one allocation.
    pub fn check(&self, ptr: DevicePtr, bytes: usize, action: &str) -> Result<*mut u8> {
        let offset = (ptr as usize).wrapping_sub(self.base() as usize);
        let inside = self
            .live
            .range(..=offset)
            .next_back()
            .is_some_and(|(&start, allocation)| offset - start + bytes <= allocation.bytes);
        if bytes == 0 || inside {
            return Ok(ptr as *mut u8);
        }
        let what = format!("{action} of {bytes} bytes at {ptr:#x}: {}", self.describe(ptr));
        Err(Error::device("emulator", what))
    }

    /// Where `ptr` is, in words: which allocation, or how far past which.
    pub fn describe(&self, ptr: DevicePtr) -> String {
        let offset = (ptr as usize).wrapping_sub(self.base() as usize);
        if offset >= self.memory.bytes() {
            return "not an address of device memory".to_string();
        }
        let before = self.live.range(..=offset).next_back();
        let after = self.live.range(offset + 1..).next();
        let named = |allocation: &Allocation| format!("`{}` ({} bytes)", allocation.what, allocation.bytes);
        match (before, after) {
            (Some((&start, Allocation { bytes, what, outline: Some((outline, time)) })), _)
                if offset < start + bytes =>
            {
                format!("{} in `{what}`", outline.describe(offset - start, *time))
            }
            (Some((&start, a)), _) if offset < start + a.bytes => {
                format!("{} bytes into {}", offset - start, named(a))
            }
            (Some((&start, a)), next) => {
                let past = offset - start - a.bytes;
                match next {
                    Some((&next, b)) if next - offset < past => {
                        format!("{} bytes before the start of {}", next - offset, named(b))
                    }
                    _ => format!("{past} bytes past the end of {}", named(a)),
                }
            }
            (None, Some((&next, b))) => format!("{} bytes before the start of {}", next - offset, named(b)),
            (None, None) => "no device memory is allocated".to_string(),
        }
    }

    /// Checks the canaries of every allocation.
    pub fn check_canaries(&self) -> Result<()> {
        self.live.iter().try_for_each(|(&offset, allocation)| self.check_canaries_of(offset, allocation))
    }

    fn check_canaries_of(&self, offset: usize, allocation: &Allocation) -> Result<()> {
        let changed = |at: usize| {
            // SAFETY: canaries lie inside the reserved range, which stays mapped as long as `self`; no kernel runs now
            // (launches are synchronous), so nothing writes there.
            let canary = unsafe { std::slice::from_raw_parts(self.base().add(at), CANARY_BYTES) };
            canary.iter().any(|&byte| byte != CANARY)
        };
        let side = if changed(offset - CANARY_BYTES) {
            "before the start"
        } else if changed(offset + allocation.bytes) {
            "past the end"
        } else {
            return Ok(());
        };
        let what = format!(
            "a kernel wrote {side} of `{}` ({} bytes); run with the emulator's checks on to see which",
            allocation.what, allocation.bytes
        );
        Err(Error::device("emulator", what))
    }

    fn mark(&mut self, offset: usize, bytes: usize, live: bool) {
        for (i, start) in (0..bytes).step_by(GRANULE).enumerate() {
            let valid = if live { (bytes - start).min(GRANULE) as u16 } else { 0 };
            // SAFETY: the shadow has an entry for each granule of the reserved range, and `offset + bytes` is in it.
            unsafe { self.granules().add(offset / GRANULE + i).write(valid) };
        }
    }

    fn fill(&mut self, offset: usize, bytes: usize, value: u8) {
        // SAFETY: callers pass ranges of an allocation with its red zones, which lie in the reserved range.
        unsafe { self.base().add(offset).write_bytes(value, bytes) };
    }

    /// Memory used and left.
    pub fn memory(&self) -> MemoryInfo {
        MemoryInfo { used: self.used, peak: self.peak, free: self.limit.saturating_sub(self.used), total: self.limit }
    }
}

/// Memory of the machine, in bytes.
fn physical_memory() -> u64 {
    // SAFETY: sysconf takes no pointer and has no effect.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages.saturating_mul(size)).ok().filter(|&bytes| bytes > 0).unwrap_or(4 << 30)
}
