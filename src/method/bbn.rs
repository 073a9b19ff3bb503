//! Bilateral-branch network (Boyan Zhou, Quan Cui, Xiu-Shen Wei and Zhao-Min Chen, "BBN: Bilateral-branch network with
//! cumulative learning for long-tailed visual recognition", CVPR 2020): the last block exists twice. One branch sees the
//! originals, the other as many images drawn with probability 1/n_c of their class; features and losses move from the first to
//! the second with alpha = 1 - (e/E)^2.

use super::recipe::{Mix, Share};
use super::samplers::Partners;
use super::schedule::Course;
use super::{Method, Published, Recipe, Training};
use crate::ops::augment_mix::View;

/// BBN as published.
pub const BBN: Method = Method {
    name: "bbn",
    title: "BBN",
    source: "Zhou et al., CVPR 2020",
    make: |_, _| Recipe {
        views: vec![View::Plain, View::Partner],
        mixing: Mix { share: Share::Course { course: Course::Parabola }, ..Mix::default() },
        partners: Partners::Power { q: 2.0 },
        branches: true,
        ..Recipe::plain()
    },
    training: Training { steps: &[(120, 0.01), (160, 1e-4)], warmup_from: 1.0 / 3.0, ..Training::LDAM_DRW },
    published: Published {
        width: 16,
        cifar10: [Some(79.82), Some(82.18), Some(88.32)],
        cifar100: [Some(42.56), Some(47.02), Some(59.12)],
        source: "Zhou et al., table 2",
    },
    ..Method::BASE
};
