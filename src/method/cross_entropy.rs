//! Plain cross-entropy on single views: the baseline that every paper prints.

use super::{Method, Published};

/// Nothing is mixed or weighted.
pub const CE: Method = Method {
    name: "ce",
    title: "plain cross-entropy",
    source: "the baseline of every table",
    published: Published {
        width: 16,
        cifar10: [Some(70.36), Some(74.81), Some(86.39)],
        cifar100: [Some(38.32), Some(43.85), Some(55.70)],
        source: "kaidic/LDAM-DRW; imbalance 50 from BBN",
    },
    ..Method::BASE
};
