//! `verify FILE` names the first op of a device that goes wrong, or the file's first tensor that nothing reproduces.

use std::fs;
use std::path::{Path, PathBuf};

use glmc_engine::backend;
use glmc_engine::tensor::Precision;
use glmc_engine::verify::{Reference, first_op};
use serde_json::Value;
use tempfile::TempDir;

use crate::kernels_folder::{copy, glmc};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).with_extension("safetensors")
}

/// No op is blamed where all are right, in the chaotic reference's bf16 as little as elsewhere.
#[test]
fn right_kernels_differ_nowhere() {
    for name in ["step_w4_c10_b5", "step_w2_c7_b3", "step_w3_c100_b2"] {
        let reference = Reference::open(&fixture(name)).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let device = backend::open("emulator", precision, 2).unwrap();
            assert_eq!(first_op(&reference, &*device).unwrap(), None, "{name} in {precision}");
        }
    }
}

/// What `verify` says of a file on a device: the words on the first difference.
fn first_difference(file: &Path, device: &str, kernels: Option<&Path>) -> String {
    let output = glmc(&format!("verify {} --device {device} --json", file.display()), kernels, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    reports[0]["first_difference"].as_str().unwrap_or_else(|| panic!("{reports}")).to_string()
}

#[test]
fn the_first_op_that_differs_is_named() {
    let place = TempDir::new().unwrap();
    let folder = place.path().join("kernels");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), &folder);
    for (file, right, wrong, wanted) in [
        ("linear_forward.cu", "+ (bias ? bias[n]", "- (bias ? bias[n]", ["linear (", "), forward, output 0 of shape"]),
        (
            "global_avg_pool_backward.cu",
            "+ v] / pixels",
            "+ v]",
            ["global_avg_pool (", "), backward, output 0 of shape"],
        ),
        (
            "batch_norm_statistics.cu",
            "mean - running[0])",
            "mean + running[0])",
            ["batch_norm_statistics, ", "running_mean, in step 0"],
        ),
        ("sgd.cu", "weight - c.lr * ahead", "weight - 2.0f * c.lr * ahead", ["sgd, ", ", in step 0"]),
    ] {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.matches(right).count() == 1, "{right} in {file}");
        fs::write(&path, text.replace(right, wrong)).unwrap();
        let told = first_difference(&fixture("step_w2_c7_b3"), "emulator --precision f32", Some(&folder));
        assert!(told.starts_with(wanted[0]) && told.contains(wanted[1]), "{file}: {told}");
        assert!(told.contains("is the first that differs from the CPU's: error "), "{file}: {told}");
        fs::write(&path, text).unwrap();
    }
}

#[test]
fn a_wrong_file_is_told_from_a_wrong_device() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("wrong.safetensors");
    let mut bytes = fs::read(fixture("step_w2_c7_b3")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for tensor in ["grad.conv1.weight", "grad.fc.bias"] {
        let at = 8 + length + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[at..at + 4].copy_from_slice(&1e3f32.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    // A backward pass comes to the head before it comes to the stem.
    let wanted = "fc.bias (first-step gradient) is the first tensor that differs from the file's";
    assert_eq!(first_difference(&path, "cpu", None), wanted);
    let told = first_difference(&path, "emulator --precision f32", None);
    assert_eq!(told, format!("{wanted}; each op by itself does what the CPU's does"));
}
