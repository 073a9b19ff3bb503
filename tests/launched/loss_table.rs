//! Ten training steps, losses side by side: the CPU in double is the oracle, and the CPU in single and the emulator's kernels
//! must follow it step by step.

use glmc_engine::config::Settings;
use glmc_engine::method::method;
use glmc_engine::tensor::Precision;

use crate::common::training::{self, Rig};

/// Ten full steps and a smaller one.
const BATCH: usize = 6;
const IMAGES: usize = 10 * BATCH + 4;

/// Steps that only rounding may tell apart.
const EARLY: usize = 5;

/// Runs all steps over `images` images and returns their losses.
fn table(device: &str, precision: Precision, name: &str, images: usize) -> Vec<f64> {
    let pictures = training::images(12, images);
    let settings = Settings { method: Some(method(name).expect("a method")), ..Settings::default() };
    let rig = Rig::with(device, precision, &pictures, (4, BATCH), settings);
    (0..images.div_ceil(BATCH)).for_each(|step| rig.run(step));
    rig.losses()
}

/// The largest difference in each step of two tables, each loss against the size of the oracle's (at least 1).
fn differences(found: &[f64], oracle: &[f64]) -> Vec<f64> {
    assert_eq!(found.len(), oracle.len());
    let each: Vec<f64> = found.iter().zip(oracle).map(|(f, o)| (f - o).abs() / o.abs().max(1.0)).collect();
    each.chunks(4).map(|step| step.iter().fold(0.0, |a, b| f64::max(a, *b))).collect()
}

#[test]
fn ten_steps_have_the_same_losses_on_every_device() {
    let oracle = table("cpu", Precision::F64, "glmc", IMAGES);
    for (row, step) in oracle.chunks(4).zip(0..) {
        println!("step {step:>2}  L_c {:.6}  L_cb {:.6}  L_sim {:.6}  total {:.6}", row[0], row[1], row[2], row[3]);
    }
    assert!(oracle.iter().all(|loss| loss.is_finite()) && oracle.iter().any(|loss| *loss != oracle[0]));
    // In single, rounding alone tells the first steps apart. Later a ReLU whose input is within rounding of zero may go the
    // other way on one device, and the weights part a little: from there the limit is that of `verify`'s later losses.
    for (device, precision, early, late) in [
        ("cpu", Precision::F32, 1e-5, 1e-2),
        ("emulator", Precision::F32, 1e-5, 1e-2),
        ("emulator", Precision::Bf16, 1e-1, 2e-1),
    ] {
        let differences = differences(&table(device, precision, "glmc", IMAGES), &oracle);
        let steps: Vec<String> = differences.iter().map(|d| format!("{d:.1e}")).collect();
        println!("{device} {precision}: {}", steps.join(" "));
        for (step, difference) in differences.iter().enumerate() {
            let limit = if step < EARLY { early } else { late };
            assert!(*difference < limit, "{device} {precision}, step {step}: {difference:.2e}, over {limit:.0e}");
        }
    }
}

/// BBN's two branches and its joined features; two full steps and a smaller one.
#[test]
fn steps_of_two_branches_have_the_same_losses_on_every_device() {
    let images = 2 * BATCH + 4;
    let oracle = table("cpu", Precision::F64, "bbn", images);
    assert!(oracle.chunks(4).all(|loss| loss[0] > 0.0 && loss[1..3] == [0.0; 2] && loss[3] == loss[0]), "{oracle:?}");
    for (device, precision, limit) in
        [("cpu", Precision::F32, 1e-5), ("emulator", Precision::F32, 1e-5), ("emulator", Precision::Bf16, 1e-1)]
    {
        let differences = differences(&table(device, precision, "bbn", images), &oracle);
        assert!(differences.iter().all(|d| *d < limit), "{device} {precision}: {differences:?}, limit {limit:.0e}");
    }
}
