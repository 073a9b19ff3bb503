//! Methods whose every step first climbs along its gradient and descends by the gradient there: sharpness-aware minimisation
//! (Pierre Foret et al., ICLR 2021), on long-tailed data by Harsh Rangwani et al., "Escaping Saddle Points for Effective
//! Generalization on Class-Imbalanced Data", NeurIPS 2022 (val-iisc/Saddle-LongTail).

use super::class_balanced::DRW;
use super::glmc::GLMC;
use super::ldam::LDAM_DRW;
use super::{Method, Published, SharpnessAware};

const SOURCE: &str = "Rangwani et al., NeurIPS 2022";
const FIGURES: &str = "val-iisc/Saddle-LongTail";

/// On plain cross-entropy.
pub const SAM_CE: Method = Method {
    name: "sam-ce",
    title: "SAM on cross-entropy",
    source: SOURCE,
    sam: Some(SharpnessAware { rho: [0.1, 0.2], similarity: true }),
    ..Method::BASE
};

/// On deferred re-weighting.
pub const SAM_DRW: Method = Method {
    name: "sam-drw",
    title: "SAM on deferred re-weighting",
    source: SOURCE,
    published: Published {
        width: 16,
        cifar10: [Some(80.6), None, None],
        cifar100: [Some(44.6), None, None],
        source: FIGURES,
    },
    sam: Some(SharpnessAware { rho: [0.5, 0.8], similarity: true }),
    ..DRW
};

/// On LDAM-DRW.
pub const SAM_LDAM_DRW: Method = Method {
    name: "sam-ldam-drw",
    title: "SAM on LDAM-DRW",
    source: SOURCE,
    published: Published {
        width: 16,
        cifar10: [Some(81.9), None, None],
        cifar100: [Some(45.4), None, None],
        source: FIGURES,
    },
    sam: Some(SharpnessAware { rho: [0.8, 0.8], similarity: true }),
    ..LDAM_DRW
};

/// On GLMC, whose similarity does not count on the way up.
pub const GLMC_SAM: Method = Method {
    name: "glmc-sam",
    title: "SAM on GLMC",
    source: SOURCE,
    published: Published {
        width: 64,
        cifar10: [Some(89.18), Some(91.56), None],
        cifar100: [Some(59.01), Some(65.28), None],
        source: "val-iisc/Saddle-LongTail, whose commands say ResNet-34",
    },
    sam: Some(SharpnessAware { rho: [0.05, 0.05], similarity: false }),
    ..GLMC
};
