//! What GPUs do at most, for the model of a step. Figures of arithmetic are dense ones; "measured" are those that were taken on
//! an H200 with other software. Everything that is neither is marked as an estimate, for a measurement to replace.

/// A GPU as the model knows it. Threads, blocks and shared memory of a multiprocessor are those of [`crate::driver::occupancy`].
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Gpu {
    /// How the command line calls it.
    pub name: &'static str,
    pub product: &'static str,
    /// What kernels are compiled for.
    pub arch: &'static str,
    pub multiprocessors: u32,
    /// 10^9 cycles per second, of multiprocessors under load.
    pub ghz: f64,
    /// 10^12 operations per second of `mma.sync` on bf16 with f32 sums.
    pub tensor_tflops: f64,
    /// Those of multiply-adds in f32 and in f64.
    pub float_tflops: f64,
    pub double_tflops: f64,
    /// 10^12 bytes per second that a copy reaches, from and to memory.
    pub memory_tbytes: f64,
    /// The same for tensors of at most [`Gpu::small_bytes`], which L2 holds in part.
    pub small_tbytes: f64,
    /// 10^12 bytes per second between L2 and the multiprocessors.
    pub l2_tbytes: f64,
    /// L2, in bytes.
    pub l2_bytes: u64,
}

/// What a copy reaches of the vendor's rate of the memory: measured on an H200, 4.3 of 4.8 TB/s.
const COPY: f64 = 4.3 / 4.8;
/// What `mma.sync` is known to reach on Hopper, whose rate only `wgmma` has: 620 of 989 TFLOP/s.
const HOPPER_MMA: f64 = 620.0 / 989.4;
/// Estimate: what `mma.sync` reaches of the rate of GPUs of which it is the only tensor instruction.
const MMA: f64 = 0.85;
/// What L2 of an H200 was measured to give, of its 5120 bytes per cycle: 5.5 TB/s at 1.83 GHz.
const L2: f64 = 5.5 / (5120.0 * 1.83e-3);

impl Gpu {
    /// Bytes of a tensor that L2 may still hold in part from the kernel before: a fifth of L2, 10 MB on an H200.
    pub fn small_bytes(&self) -> u64 {
        self.l2_bytes / 5
    }

    /// 10^12 bytes per second of all shared memories: 128 bytes per cycle and multiprocessor (CUDA C++ Programming Guide, 32
    /// banks of four bytes).
    pub fn shared_tbytes(&self) -> f64 {
        128.0 * f64::from(self.multiprocessors) * self.ghz / 1e3
    }

    /// 10^12 bytes per second that the multiprocessors take from L2 at most, all together: 64 bytes per cycle each (NVIDIA, H100
    /// and A100 white papers).
    pub fn l2_ports_tbytes(&self) -> f64 {
        self.shared_tbytes() / 2.0
    }

    /// The GPU of that name.
    pub fn named(name: &str) -> Option<&'static Gpu> {
        GPUS.iter().find(|gpu| gpu.name == name)
    }
}

/// Every GPU that is known.
pub const GPUS: [Gpu; 5] = [
    // NVIDIA H200 data sheet (SXM): 989 TFLOP/s bf16, 67 f32, 34 f64 (67 of tensor cores), 4.8 TB/s. H100 white paper: 132
    // multiprocessors, 50 MB of L2; 989.4 TFLOP/s are 4096 operations per cycle and multiprocessor at 1.83 GHz. L2: measured.
    Gpu {
        name: "h200",
        product: "NVIDIA H200",
        arch: "sm_90a",
        multiprocessors: 132,
        ghz: 1.83,
        tensor_tflops: 989.4 * HOPPER_MMA,
        float_tflops: 66.9,
        double_tflops: 33.5,
        memory_tbytes: 4.8 * COPY,
        small_tbytes: 4.8,
        l2_tbytes: 5.5,
        l2_bytes: 50 << 20,
    },
    // H100 data sheet (SXM5, 80 GB): 3.35 TB/s. The chip is the H200's.
    Gpu {
        name: "h100",
        product: "NVIDIA H100 SXM",
        arch: "sm_90a",
        multiprocessors: 132,
        ghz: 1.83,
        tensor_tflops: 989.4 * HOPPER_MMA,
        float_tflops: 66.9,
        double_tflops: 33.5,
        memory_tbytes: 3.35 * COPY,
        small_tbytes: 3.35,
        l2_tbytes: 5.5,
        l2_bytes: 50 << 20,
    },
    // A100 white paper and data sheet (SXM4, 80 GB): 108 multiprocessors, 1.41 GHz, 312 TFLOP/s bf16, 19.5 f32, 9.7 f64, 2.039
    // TB/s, 40 MB of L2 with 5120 bytes per cycle, of which the H200's share is assumed.
    Gpu {
        name: "a100",
        product: "NVIDIA A100 SXM 80 GB",
        arch: "sm_80",
        multiprocessors: 108,
        ghz: 1.41,
        tensor_tflops: 312.0 * MMA,
        float_tflops: 19.5,
        double_tflops: 9.7,
        memory_tbytes: 2.039 * COPY,
        small_tbytes: 2.039,
        l2_tbytes: 5120.0 * 1.41e-3 * L2,
        l2_bytes: 40 << 20,
    },
    // Ada white paper, appendix A: 128 multiprocessors, 2.52 GHz, 165.2 TFLOP/s bf16 with f32 sums, 82.6 f32, a 64th of it f64, 1008
    // GB/s, 72 MB of L2. L2's rate: an estimate, the least certain figure here.
    Gpu {
        name: "rtx4090",
        product: "NVIDIA GeForce RTX 4090",
        arch: "sm_89",
        multiprocessors: 128,
        ghz: 2.52,
        tensor_tflops: 165.2 * MMA,
        float_tflops: 82.6,
        double_tflops: 82.6 / 64.0,
        memory_tbytes: 1.008 * COPY,
        small_tbytes: 1.008,
        l2_tbytes: 5.0,
        l2_bytes: 72 << 20,
    },
    // L40S data sheet: 142 multiprocessors (18,176 cores), 362 TFLOP/s bf16, 91.6 f32 (2.52 GHz), 864 GB/s. 96 MB of L2 and a 64th in f64:
    // AD102, Ada white paper. L2's rate: an estimate, as above.
    Gpu {
        name: "l40s",
        product: "NVIDIA L40S",
        arch: "sm_89",
        multiprocessors: 142,
        ghz: 2.52,
        tensor_tflops: 362.0 * MMA,
        float_tflops: 91.6,
        double_tflops: 91.6 / 64.0,
        memory_tbytes: 0.864 * COPY,
        small_tbytes: 0.864,
        l2_tbytes: 5.0 * 142.0 / 128.0,
        l2_bytes: 96 << 20,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::occupancy::limits;

    #[test]
    fn every_gpu_is_one_that_kernels_are_compiled_for() {
        for gpu in &GPUS {
            assert!(limits(gpu.arch).is_some(), "{}", gpu.name);
            // Two operations of 128 multiply-adds per cycle and multiprocessor; NVIDIA rates the A100's 64, and Hopper at 1.98 GHz.
            let lanes = if gpu.name == "a100" { 64.0 } else { 128.0 };
            let peak = 2.0 * lanes * f64::from(gpu.multiprocessors) * gpu.ghz / 1e3;
            assert!((0.99..1.09).contains(&(gpu.float_tflops / peak)), "{} {peak}", gpu.name);
            assert!(gpu.memory_tbytes < gpu.small_tbytes && gpu.small_tbytes < gpu.l2_tbytes, "{}", gpu.name);
            assert!(gpu.l2_tbytes < gpu.l2_ports_tbytes(), "{}", gpu.name);
        }
        let h200 = Gpu::named("h200").unwrap();
        assert!((h200.tensor_tflops - 620.0).abs() < 0.5 && (h200.memory_tbytes - 4.3).abs() < 0.01);
        assert_eq!(Gpu::named("h2000").map(|gpu| gpu.name), None);
    }
}
