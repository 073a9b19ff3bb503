//! The published settings (GLMC paper and its code), and the demo.

use super::{Method, Settings};
use crate::error::{Error, Result};

/// Every preset and what it is. Those of CIFAR exist twice: the paper's network (width 64), and with `-w16` the classic
/// ResNet-32, a sixteenth of the work.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", "a synthetic long-tailed set, made on the spot, and a small network: a minute on a laptop"),
    ("cifar10-lt-if100", "CIFAR-10-LT, imbalance 100, ResNet-32 width 64, 200 epochs"),
    ("cifar10-lt-if50", "CIFAR-10-LT, imbalance 50, ResNet-32 width 64, 200 epochs"),
    ("cifar10-lt-if10", "CIFAR-10-LT, imbalance 10, ResNet-32 width 64, 200 epochs"),
    ("cifar100-lt-if100", "CIFAR-100-LT, imbalance 100, ResNet-32 width 64, 200 epochs"),
    ("cifar100-lt-if50", "CIFAR-100-LT, imbalance 50, ResNet-32 width 64, 200 epochs"),
    ("cifar100-lt-if10", "CIFAR-100-LT, imbalance 10, ResNet-32 width 64, 200 epochs"),
    ("cifar10-lt-if100-w16", "the same with ResNet-32 width 16"),
    ("cifar10-lt-if50-w16", "the same with ResNet-32 width 16"),
    ("cifar10-lt-if10-w16", "the same with ResNet-32 width 16"),
    ("cifar100-lt-if100-w16", "the same with ResNet-32 width 16"),
    ("cifar100-lt-if50-w16", "the same with ResNet-32 width 16"),
    ("cifar100-lt-if10-w16", "the same with ResNet-32 width 16"),
];

/// The settings of a preset.
///
/// # Errors
/// When there is none of that name.
pub fn preset(name: &str) -> Result<Settings> {
    if name == "demo" {
        return Ok(demo());
    }
    let (base, width) = name.strip_suffix("-w16").map_or((name, 64), |base| (base, 16));
    // Columns: q, k, gamma.
    let (resample, k, gamma) = match base {
        "cifar10-lt-if100" | "cifar10-lt-if50" => (0.0, 1.2, 1.0),
        "cifar10-lt-if10" => (0.2, 1.0, 2.0),
        "cifar100-lt-if100" => (0.0, 1.2, 4.0),
        "cifar100-lt-if50" => (0.2, 1.2, 6.0),
        "cifar100-lt-if10" => (0.2, 1.2, 4.0),
        _ => {
            let known: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            return Err(Error::Usage(format!("unknown preset {name:?}: known are {}", known.join(", "))));
        }
    };
    Ok(Settings {
        model: Some("resnet32".into()),
        width: Some(width),
        method: Some(Method::Glmc),
        epochs: Some(200),
        batch: Some(64),
        lr: Some(0.01),
        weight_decay: Some(5e-3),
        momentum: Some(0.9),
        gamma: Some(gamma),
        k: Some(k),
        resample: Some(resample),
        beta: Some(1.0),
        ..Settings::default()
    })
}

fn demo() -> Settings {
    Settings {
        model: Some("resnet20".into()),
        width: Some(8),
        method: Some(Method::Glmc),
        epochs: Some(16),
        batch: Some(32),
        lr: Some(0.1),
        weight_decay: Some(5e-4),
        momentum: Some(0.9),
        gamma: Some(1.0),
        k: Some(1.0),
        resample: Some(0.2),
        ..Settings::default()
    }
}
