//! Ten training steps, losses side by side: the CPU in double is the oracle, and the CPU in single and the emulator's kernels
//! must follow it step by step.

use glmc_engine::tensor::Precision;
use training::Rig;

#[path = "common/training.rs"]
mod training;

/// Ten full steps and a smaller one.
const BATCH: usize = 6;
const IMAGES: usize = 10 * BATCH + 4;

/// Runs all steps and returns their losses.
fn table(device: &str, precision: Precision) -> Vec<f64> {
    let pictures = training::images(12, IMAGES);
    let rig = Rig::new(device, precision, &pictures, 4, BATCH);
    (0..IMAGES.div_ceil(BATCH)).for_each(|step| rig.run(step));
    rig.losses()
}

/// The largest difference of two tables, each loss against the size of the oracle's (at least 1).
fn difference(found: &[f64], oracle: &[f64]) -> f64 {
    assert_eq!(found.len(), oracle.len());
    found.iter().zip(oracle).map(|(f, o)| (f - o).abs() / o.abs().max(1.0)).fold(0.0, f64::max)
}

#[test]
fn ten_steps_have_the_same_losses_on_every_device() {
    let oracle = table("cpu", Precision::F64);
    for (row, step) in oracle.chunks(4).zip(0..) {
        println!("step {step:>2}  L_c {:.6}  L_cb {:.6}  L_sim {:.6}  total {:.6}", row[0], row[1], row[2], row[3]);
    }
    assert!(oracle.iter().all(|loss| loss.is_finite()) && oracle.iter().any(|loss| *loss != oracle[0]));
    // Rounding grows a little from step to step, as weights move apart.
    for (device, precision, limit) in
        [("cpu", Precision::F32, 1e-4), ("emulator", Precision::F32, 1e-4), ("emulator", Precision::Bf16, 1e-1)]
    {
        let difference = difference(&table(device, precision), &oracle);
        println!("{device} {precision}: {difference:.2e} of {limit:.0e}");
        assert!(difference < limit, "{device} {precision}: {difference:.2e}, over {limit:.0e}");
    }
}
