//! Label-distribution-aware margins (Kaidi Cao, Colin Wei, Adrien Gaidon, Nikos Arechiga and Tengyu Ma, "Learning Imbalanced
//! Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019): a cosine head whose true class must win by a margin,
//! the larger the smaller the class.

use super::class_balanced::deferred;
use super::class_vectors::Rule;
use super::recipe::Head;
use super::{Method, Published, Recipe};
use crate::nn::HeadShape;

/// Cosines times 30, margins up to a half.
pub fn margins() -> Head {
    Head { shape: HeadShape::Cosine, scale: 30.0, margin: Some(Rule::Ldam { max: 0.5 }.into()), ..Head::default() }
}

/// Margins alone.
pub const LDAM: Method = Method {
    name: "ldam",
    title: "LDAM",
    source: "Cao et al., NeurIPS 2019",
    make: |_, _| Recipe::with_head(margins()),
    published: Published {
        width: 16,
        cifar10: [Some(73.66), Some(79.01), None],
        cifar100: [Some(38.88), Some(43.59), None],
        source: "zhangyongshun/BagofTricks-LT (warm-up from a third)",
    },
    ..Method::BASE
};

/// Margins, and deferred re-weighting.
pub const LDAM_DRW: Method = Method {
    name: "ldam-drw",
    title: "LDAM-DRW",
    source: "Cao et al., NeurIPS 2019",
    make: |settings, _| Recipe::with_head(deferred(margins(), settings)),
    published: Published {
        width: 16,
        cifar10: [Some(77.03), Some(81.03), Some(88.16)],
        cifar100: [Some(42.04), Some(46.62), Some(58.71)],
        source: "kaidic/LDAM-DRW; imbalance 50 as quoted by others",
    },
    ..Method::BASE
};
