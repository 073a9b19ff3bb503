//! Losses weighted by the effective number of samples (Yin Cui, Menglin Jia, Tsung-Yi Lin, Yang Song and Serge Belongie,
//! "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019), focal losses (Tsung-Yi Lin et al., ICCV 2017),
//! and deferred re-weighting (Kaidi Cao et al., NeurIPS 2019). Weighted losses divide by the sum of the weights, as
//! PyTorch's do.

use super::class_vectors::{Rule, Scheduled};
use super::recipe::{Head, LossKind};
use super::{Method, MethodSettings, Published, Recipe, Training};
use crate::ops::supervised_loss::Reduction;

/// The published weights.
pub const EFFECTIVE: Rule = Rule::Effective { beta: 0.9999 };

/// A head with deferred re-weighting.
pub fn deferred(head: Head, settings: &MethodSettings) -> Head {
    let weight = Scheduled { rule: EFFECTIVE, from_epoch: settings.deferred() };
    Head { weight: Some(weight), reduction: Reduction::SumW, ..head }
}

/// Cross-entropy with weights all along.
pub const CB_CE: Method = Method {
    name: "cb-ce",
    title: "class-balanced cross-entropy",
    source: "Cui et al., CVPR 2019",
    make: |_, _| {
        Recipe::with_head(Head { weight: Some(EFFECTIVE.into()), reduction: Reduction::SumW, ..Head::default() })
    },
    published: Published {
        width: 16,
        cifar10: [Some(70.48), Some(77.48), None],
        cifar100: [Some(38.97), Some(43.78), None],
        source: "zhangyongshun/BagofTricks-LT (warm-up from a third; beta 0.9 on CIFAR-100)",
    },
    ..Method::BASE
};

/// Focal loss of the softmax with exponent 2.
pub const FOCAL: Method = Method {
    name: "focal",
    title: "focal loss",
    source: "Lin et al., ICCV 2017",
    make: |_, _| Recipe::with_head(Head { focal: 2.0, ..Head::default() }),
    published: Published {
        width: 16,
        cifar10: [Some(71.56), Some(77.91), None],
        cifar100: [Some(37.22), Some(41.79), None],
        source: "zhangyongshun/BagofTricks-LT (warm-up from a third)",
    },
    ..Method::BASE
};

/// Weighted focal loss of every class's sigmoid; the bias starts so that each class has probability 1/C.
pub const CB_FOCAL: Method = Method {
    name: "cb-focal",
    title: "class-balanced focal loss",
    source: "Cui et al., CVPR 2019",
    make: |_, counts| {
        Recipe::with_head(Head {
            bias: Some(-((counts.len() - 1) as f64).ln()),
            loss: LossKind::Sigmoid,
            focal: 1.0,
            weight: Some(EFFECTIVE.into()),
            ..Head::default()
        })
    },
    published: Published {
        width: 16,
        cifar10: [Some(74.6), Some(79.3), Some(87.1)],
        cifar100: [Some(39.6), Some(45.2), Some(58.0)],
        source: "Cui et al., the best of their settings (beta and exponent searched)",
    },
    training: Training { warmup_every_step: true, ..Training::LDAM_DRW },
    undecayed: &["fc.bias"],
    ..Method::BASE
};

/// Cross-entropy, weighted from four fifths of the run on.
pub const DRW: Method = Method {
    name: "drw",
    title: "deferred re-weighting",
    source: "Cao et al., NeurIPS 2019",
    make: |settings, _| Recipe::with_head(deferred(Head::default(), settings)),
    published: Published {
        width: 16,
        cifar10: [Some(74.64), Some(79.35), None],
        cifar100: [Some(39.21), Some(43.37), None],
        source: "zhangyongshun/BagofTricks-LT (warm-up from a third)",
    },
    ..Method::BASE
};
