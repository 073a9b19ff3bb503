//! The model of one launch: it takes as long as the ceiling that it meets first, after the gap between launches and a ramp.
//!
//! - Arithmetic and shared memory belong to multiprocessors. Blocks are dealt out wave by wave, as many at a time as registers and
//!   shared memory let a multiprocessor hold, and those of the last wave evenly: the multiprocessor with the most blocks is
//!   waited for.
//! - L2 and memory belong to all: they are busy as long as any multiprocessor asks. But one asks L2 for no more than its port
//!   carries, so that few blocks do not reach L2's rate.
//!
//! What it does not know: the latency of chains of loads (the ramp stands for it), bank conflicts, instructions other than
//! floating-point arithmetic, clocks that fall under load, and kernels that overlap.

use serde::{Deserialize, Serialize};

use super::gpus::Gpu;
use crate::driver::Launch;

/// Seconds between two launches of a graph.
const GAP: f64 = 1.3e-6;
/// Seconds until the first blocks have their operands and after the last have written their results.
const RAMP: f64 = 2e-6;

/// What a launch takes, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// At the ceiling of arithmetic: tensor cores, f32 and f64 work side by side.
    pub math: f64,
    pub memory: f64,
    pub l2: f64,
    pub shared: f64,
    /// The gap before the launch.
    pub gap: f64,
    /// The predicted time: gap, ramp and the highest of the ceilings.
    pub all: f64,
}

/// Blocks of a launch on a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waves {
    /// Times that the GPU is filled; the last one in part.
    pub waves: f64,
    /// How much longer the busiest multiprocessor works than if blocks could be split evenly, at least 1.
    pub imbalance: f64,
}

impl Waves {
    /// `blocks` on a GPU whose multiprocessors hold `resident` each at a time.
    pub fn new(blocks: u64, multiprocessors: u32, resident: u32) -> Waves {
        let (all, resident) = (u64::from(multiprocessors), u64::from(resident.max(1)));
        let (full, rest) = (blocks / (all * resident), blocks % (all * resident));
        let busiest = full * resident + rest.div_ceil(all);
        let waves = blocks as f64 / (all * resident) as f64;
        Waves { waves, imbalance: if blocks == 0 { 1.0 } else { (busiest * all) as f64 / blocks as f64 } }
    }
}

impl Times {
    /// What `launch` takes on `gpu`, of which a multiprocessor holds `resident` of its blocks at a time.
    pub fn of(gpu: &Gpu, launch: &Launch, resident: u32) -> Times {
        let (work, Waves { imbalance, .. }) = (launch.work, Waves::new(launch.blocks(), gpu.multiprocessors, resident));
        let seconds = |amount: u64, tera: f64| amount as f64 / (tera * 1e12);
        let units = [
            seconds(work.tensor, gpu.tensor_tflops),
            seconds(work.float, gpu.float_tflops),
            seconds(work.double, gpu.double_tflops),
        ];
        let small = work.largest <= gpu.small_bytes();
        let times = Times {
            math: units.into_iter().fold(0.0, f64::max) * imbalance,
            memory: seconds(work.memory, if small { gpu.small_tbytes } else { gpu.memory_tbytes }),
            l2: seconds(work.l2, gpu.l2_tbytes).max(seconds(work.l2, gpu.l2_ports_tbytes()) * imbalance),
            shared: seconds(work.shared, gpu.shared_tbytes()) * imbalance,
            gap: GAP,
            all: 0.0,
        };
        Times { all: GAP + RAMP + times.highest().1, ..times }
    }

    /// The ceiling that is met first, and its time.
    pub fn highest(&self) -> (&'static str, f64) {
        let ceilings = [("math", self.math), ("memory", self.memory), ("L2", self.l2), ("shared", self.shared)];
        ceilings.into_iter().fold(("math", 0.0), |most, one| if one.1 > most.1 { one } else { most })
    }

    /// These times `count` times over.
    pub fn times(self, count: usize) -> Times {
        let n = count as f64;
        Times {
            math: self.math * n,
            memory: self.memory * n,
            l2: self.l2 * n,
            shared: self.shared * n,
            gap: self.gap * n,
            all: self.all * n,
        }
    }
}

impl std::ops::Add for Times {
    type Output = Times;

    fn add(self, other: Times) -> Times {
        Times {
            math: self.math + other.math,
            memory: self.memory + other.memory,
            l2: self.l2 + other.l2,
            shared: self.shared + other.shared,
            gap: self.gap + other.gap,
            all: self.all + other.all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Work;

    #[test]
    fn the_busiest_multiprocessor_is_waited_for() {
        let waves = |blocks, resident| Waves::new(blocks, 132, resident);
        // One block more than the GPU holds at a time is a second wave of one.
        assert_eq!(waves(264, 2), Waves { waves: 1.0, imbalance: 1.0 });
        assert_eq!(waves(265, 2).imbalance, 3.0 * 132.0 / 265.0);
        // The last wave is dealt out evenly, whatever a multiprocessor could hold.
        assert_eq!(waves(128, 4), Waves { waves: 128.0 / 528.0, imbalance: 132.0 / 128.0 });
        assert_eq!(waves(1024, 4).imbalance, 8.0 * 132.0 / 1024.0);
        assert_eq!(waves(1, 1).imbalance, 132.0);
        assert_eq!(waves(0, 1).imbalance, 1.0);
    }

    #[test]
    fn the_highest_ceiling_counts() {
        let h200 = Gpu::named("h200").unwrap();
        let of = |blocks: u32, work: Work| Times::of(h200, &Launch::linear(blocks, 128).does(work), 1);
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
        // 620 TFLOP/s, on all multiprocessors and on one.
        close(of(132, Work::default().tensor_cores(620_000_000)).math, 1e-6);
        close(of(1, Work::default().tensor_cores(620_000_000)).math, 132e-6);
        // A tensor that L2 may hold, and one that it does not.
        close(of(132, Work::default().moves(4_800_000)).memory, 1e-6);
        close(of(132, Work::default().moves(430_000_000)).memory, 100e-6);
        // L2's own rate, and that of a single port: 64 bytes at 1.83 GHz.
        close(of(132, Work::default().fetches(1000, 55_000_000)).l2, 10e-6);
        close(of(1, Work::default().fetches(1000, 1_171_200)).l2, 10e-6);
        let work = Work::default().moves(430_000_000).tensor_cores(620_000_000).shares(1 << 20);
        let times = of(132, work);
        assert_eq!(times.highest().0, "memory");
        close(times.all, 103.3e-6);
        assert_eq!(of(1, Work::default()).all, GAP + RAMP);
        close(times.times(3).all + times.all, (times.times(2) + times.times(2)).all);
    }
}
