//! How many warps of a kernel fit on a multiprocessor at once, as a share of the most that it holds.
//!
//! The limits are those of the CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".

/// What a multiprocessor of one architecture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads on it at once.
    pub threads: u32,
    /// Blocks on it at once.
    pub blocks: u32,
    /// Shared memory in bytes, all blocks together.
    pub shared: u32,
    /// Shared memory in bytes that one block may ask for.
    pub shared_per_block: u32,
}

/// Registers of a multiprocessor, unchanged since sm_80.
const REGISTERS: u32 = 65_536;
/// Registers are given to a warp in units of this.
const REGISTER_UNIT: u32 = 256;
/// Warps are spread over this many schedulers, each with its share of the registers.
const SCHEDULERS: u32 = 4;
/// Shared memory that the system takes for each block.
const RESERVED: u32 = 1024;
/// Shared memory is given in units of this.
const SHARED_UNIT: u32 = 128;

/// The limits of `arch` (`sm_90a`); `None` for one that is not known here.
pub fn limits(arch: &str) -> Option<Limits> {
    let (threads, blocks, kilobytes) = match arch.trim_end_matches(char::is_alphabetic) {
        "sm_80" => (2048, 32, 164),
        "sm_86" => (1536, 16, 100),
        "sm_87" => (1536, 16, 164),
        "sm_89" => (1536, 24, 100),
        "sm_90" | "sm_100" | "sm_103" => (2048, 32, 228),
        "sm_120" | "sm_121" => (1536, 24, 100),
        _ => return None,
    };
    Some(Limits { threads, blocks, shared: kilobytes * 1024, shared_per_block: (kilobytes - 1) * 1024 })
}

/// The most registers that a thread can have.
const MOST_REGISTERS: u32 = 255;
/// What a compiler that is not told plans for: the most threads of a block.
const MOST_THREADS: u32 = 1024;

/// The most registers that a kernel of `source` can take whose blocks have `threads` threads: as many as leave room for one block
/// of its launch bounds, or without any for the largest block there is.
pub fn most_registers(source: &str, threads: u32) -> u32 {
    let threads = if source.contains("__launch_bounds__") { threads } else { MOST_THREADS };
    let per_thread = REGISTERS / threads.next_multiple_of(32).max(32) / 8 * 8;
    per_thread.min(MOST_REGISTERS)
}

/// Resident warps over the most possible, for blocks of `threads` threads with `registers` registers each and
/// `shared_bytes` of shared memory per block. 0 where not one block fits.
pub fn occupancy(limits: &Limits, threads: u32, registers: u32, shared_bytes: u32) -> f64 {
    let warps = resident(limits, threads, registers, shared_bytes) * threads.div_ceil(32);
    f64::from(warps) / f64::from(limits.threads / 32)
}

/// Such blocks on a multiprocessor at once.
pub fn resident(limits: &Limits, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
    if threads == 0 || shared_bytes > limits.shared_per_block {
        return 0;
    }
    let warps = threads.div_ceil(32);
    let by_threads = limits.threads / (warps * 32);
    let per_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / SCHEDULERS / per_warp * SCHEDULERS / warps;
    let by_shared = limits.shared / (shared_bytes + RESERVED).next_multiple_of(SHARED_UNIT);
    by_threads.min(by_registers).min(by_shared).min(limits.blocks)
}

/// Percent of a multiprocessor's shared memory in which as many blocks find room as threads and registers allow, or all of it. What is
/// left over serves as first-level cache.
pub fn carveout(limits: &Limits, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
    let wanted =
        resident(limits, threads, registers, 0).max(1) * (shared_bytes + RESERVED).next_multiple_of(SHARED_UNIT);
    (100 * wanted).div_ceil(limits.shared).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_bounds_limit_registers() {
        let bounds = "__launch_bounds__(THREADS)";
        assert_eq!([128, 256, 512, 1024].map(|threads| most_registers(bounds, threads)), [255, 255, 128, 64]);
        assert_eq!(most_registers("extern \"C\" __global__ void f()", 256), 64, "a block could have 1024 threads");
    }

    #[test]
    fn the_carveout_holds_every_block_that_registers_allow() {
        let hopper = limits("sm_90a").unwrap();
        // 128 threads of 126 registers: four blocks; 48 KiB each are 196 of 228 KiB.
        assert_eq!(carveout(&hopper, 128, 126, 48 * 1024), 86);
        assert_eq!(carveout(&hopper, 256, 32, 1024), 8, "eight blocks of 2 KiB");
        assert_eq!(carveout(&hopper, 256, 127, 200 * 1024), 100);
        for (threads, registers, shared) in [(128, 126, 48 << 10), (256, 64, 20 << 10), (512, 40, 4 << 10)] {
            let percent = carveout(&hopper, threads, registers, shared);
            let carved = Limits { shared: hopper.shared * percent / 100 + 128, ..hopper };
            let blocks = |limits| resident(limits, threads, registers, shared);
            assert_eq!(blocks(&carved), blocks(&hopper), "{threads} threads, {registers} registers");
        }
    }

    #[test]
    fn agrees_with_nvidias_calculator() {
        let a100 = limits("sm_80").unwrap();
        assert_eq!(occupancy(&a100, 256, 32, 0), 1.0);
        assert_eq!(occupancy(&a100, 256, 33, 0), 0.75); // 40 registers granted: 12 warps per scheduler, 6 blocks
        assert_eq!(occupancy(&a100, 256, 128, 0), 0.25);
        assert_eq!(occupancy(&a100, 1024, 65, 0), 0.0); // 28 warps fit, a block has 32
        assert_eq!(occupancy(&a100, 32, 16, 0), 0.5); // 32 blocks at most
        assert_eq!(occupancy(&a100, 128, 32, 48 * 1024), 3.0 * 4.0 / 64.0);
        let ada = limits("sm_89").unwrap();
        assert_eq!(occupancy(&ada, 256, 32, 0), 1.0);
        assert_eq!(occupancy(&ada, 256, 32, 100 * 1024), 0.0);
        assert_eq!(limits("sm_90a"), limits("sm_90"));
        assert_eq!(resident(&a100, 128, 32, 48 * 1024), 3);
        assert_eq!(resident(&limits("sm_90a").unwrap(), 128, 126, 48 * 1024), 4);
        assert_eq!(resident(&limits("sm_90a").unwrap(), 256, 127, 68 * 1024), 2);
        assert_eq!(limits("sm_75"), None);
    }
}
